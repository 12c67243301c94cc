#include "client/command_bench_call.h"

#include "client/consumer.h"
#include "client/count.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

int bench_call_start(struct bench_call *call, struct connection *connection, struct stats *stats)
{
    const struct bench_call_options *options = call->options;

    call->deframer.message_max = CONSUMER_MESSAGE_MAX;
    call->begun_ns = uv_hrtime();
    call->class->counters[BENCH_CALLS]++;
    return client_call_start(&call->call, connection, options->scheme, options->authority,
                             &options->request, stats);
}

void bench_call_end(struct bench_call *call)
{
    call->let_go = true;
    client_call_cancel(&call->call);
}

void bench_call_deinit(struct bench_call *call)
{
    double seconds = (double)(uv_hrtime() - call->begun_ns) / 1e9;

    if (seconds > 0)
        bench_class_add_rate(call->class, (double)call->updates / seconds);
    loop_disarm(call->loop, &call->delay);
    deframer_deinit(&call->deframer);
}

/* ---- Messages ---- */

static void fail(struct bench_call *call, const char *why)
{
    client_call_decide(&call->call, WIRE_INTERNAL, why);
    client_call_cancel(&call->call);
}

static uint64_t unix_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Counts what the stream should have had and did not, up to `sequence`, which is the first that it
 * does not have to explain. */
static void account_for(struct bench_call *call, uint64_t sequence)
{
    uint64_t untold = sequence - call->sequence;

    untold -= MIN(untold, call->dropped);
    count_add(&call->class->counters[BENCH_UNTOLD], untold);
}

/* Does it follow what came before? Where updates are merged only the server can know. */
static void check_position(struct bench_call *call, const struct bench_event *event)
{
    bool update = event->kind == BENCH_EVENT_UPDATE;

    count_add(&call->dropped, event->dropped);
    if (event->kind == BENCH_EVENT_GAP)
        call->positioned = false; /* it has told what is missing */
    if (event->kind == BENCH_EVENT_GAP || event->snapshot || call->options->merged)
        return;
    if (update && call->positioned && event->sequence <= call->sequence) {
        call->class->counters[BENCH_REPEATED]++;
        return;
    }
    if (call->options->whole && call->positioned && event->sequence > call->sequence)
        account_for(call, event->sequence - (update ? 1 : 0));
    call->sequence = event->sequence;
    call->positioned = true;
    call->dropped = 0;
}

static void take_event(struct bench_call *call, const struct bench_event *event)
{
    uint64_t *counters = call->class->counters;
    uint64_t now_ns;

    count_add(&counters[BENCH_CONFLATED], event->conflated);
    count_add(&counters[BENCH_DROPPED], event->dropped);
    switch (event->kind) {
    case BENCH_EVENT_UPDATE:
        if (event->snapshot) {
            counters[BENCH_SNAPSHOTS]++;
            break;
        }
        counters[BENCH_UPDATES]++;
        call->updates++;
        /* Of two machines whose clocks differ the update may be from the future: it is new. */
        now_ns = unix_ns();
        bench_histogram_add(&call->class->latency,
                            now_ns > event->time_unix_ns ? now_ns - event->time_unix_ns : 0);
        break;
    case BENCH_EVENT_HEARTBEAT:
        counters[BENCH_HEARTBEATS]++;
        break;
    case BENCH_EVENT_GAP:
        counters[BENCH_GAPS]++;
        count_add(&counters[BENCH_GAP_UPDATES], event->gap_updates);
        break;
    case BENCH_EVENT_NONE:
        break;
    }
    check_position(call, event);
}

/* Of GetUpdates: price[n] = price[n-1] + change[n], whatever the credit. */
static void take_update(struct bench_call *call, const struct bench_update *update)
{
    double expected = call->price + update->change;

    call->class->counters[BENCH_UPDATES]++;
    call->updates++;
    if (call->positioned && fabs(update->price - expected) > 1e-9 * fmax(1, fabs(expected)))
        call->class->counters[BENCH_UNTOLD]++;
    call->price = update->price;
    call->positioned = true;
}

static void take_message(struct bench_call *call, const uint8_t *message, size_t size)
{
    struct bench_event event;
    struct bench_update update;

    if (!call->taken) {
        call->taken = true;
        bench_histogram_add(&call->class->first, uv_hrtime() - call->begun_ns);
    }
    call->class->counters[BENCH_BYTES] += WIRE_PREFIX_SIZE + size;
    if (call->options->subscribe && bench_event_parse(message, size, &event))
        take_event(call, &event);
    else if (!call->options->subscribe && bench_update_parse(message, size, &update))
        take_update(call, &update);
    else
        fail(call, "the server sent a message that is none of the method's");
}

/* ---- Bytes ---- */

/* Takes the messages that lie whole in the bytes; returns the size of these. */
static size_t take_whole(struct bench_call *call, const uint8_t *bytes, size_t size)
{
    size_t taken = 0;

    while (!call->call.decided && size - taken >= WIRE_PREFIX_SIZE) {
        const uint8_t *prefix = bytes + taken;
        size_t length = wire_prefix_length(prefix);

        if (prefix[0] != 0 || length > size - taken - WIRE_PREFIX_SIZE)
            break;
        take_message(call, prefix + WIRE_PREFIX_SIZE, length);
        taken += WIRE_PREFIX_SIZE + length;
    }
    return taken;
}

/* Is there a message to take? What is none ends the call. */
static bool peek(struct bench_call *call, const uint8_t **ret_message, size_t *ret_size)
{
    switch (deframer_peek(&call->deframer, ret_message, ret_size)) {
    case DEFRAMER_WHOLE:
        return !call->call.decided;
    case DEFRAMER_PARTIAL:
        return false;
    case DEFRAMER_TOO_LONG:
        fail(call, "the server sent a message that is too long");
        return false;
    default:
        fail(call, "the server sent what is no message of gRPC");
        return false;
    }
}

static void wait_if_needed(struct bench_call *call)
{
    const uint8_t *message;
    size_t size;

    if (!wheel_armed(&call->delay) && peek(call, &message, &size))
        loop_arm(call->loop, &call->delay, call->options->slow_delay_ms, 1);
}

static void on_delay(struct wheel_timer *timer)
{
    struct bench_call *call = container_of(timer, struct bench_call, delay);
    const uint8_t *message;
    size_t size;

    if (!peek(call, &message, &size))
        return;
    take_message(call, message, size);
    client_call_consume(&call->call, deframer_take(&call->deframer));
    client_call_credit_flush(&call->call);
    wait_if_needed(call);
}

static void take_all(struct bench_call *call)
{
    const uint8_t *message;
    size_t size;

    while (peek(call, &message, &size)) {
        take_message(call, message, size);
        (void)deframer_take(&call->deframer);
    }
}

void bench_call_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct bench_call *call = bench_call_from_stream(stream);
    size_t taken = 0;

    if (!call->call.accepted || call->call.decided) {
        client_call_consume(&call->call, size);
        return;
    }
    if (!call->answered)
        call->class->counters[BENCH_ANSWERED]++;
    call->answered = true;
    /* Nearly always the messages of a frame are whole, and need not be copied. */
    if (!call->slow && deframer_size(&call->deframer) == 0)
        taken = take_whole(call, bytes, size);
    if (deframer_add(&call->deframer, bytes + taken, size - taken) < 0) {
        client_call_decide(&call->call, WIRE_RESOURCE_EXHAUSTED, "out of memory");
        client_call_cancel(&call->call);
        return;
    }
    if (call->slow) {
        call->delay.fire = on_delay;
        wait_if_needed(call);
        return;
    }
    take_all(call);
    client_call_consume(&call->call, size);
}
