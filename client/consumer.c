/*
 * Lines are collected and written together when no further whole message is at hand, so that a fast
 * stream costs one write for many updates, while a line never waits for an update that is yet to
 * come.
 */
#include "client/consumer.h"

#include "base/util.h"
#include "client/random.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* When so much text is at hand it is written. */
#define TEXT_WRITE_SIZE ((size_t)64 * 1024)

static void update_gauge(struct consumer *consumer)
{
    consumer->stats->unprocessed_bytes =
        consumer->printed_bytes + deframer_size(&consumer->deframer) - consumer->advanced_bytes;
}

void consumer_stop(struct consumer *consumer)
{
    consumer->stopped = true;
    loop_disarm(consumer->loop, &consumer->delay);
}

static void fail(struct consumer *consumer, enum wire_status status, const char *text)
{
    consumer_stop(consumer);
    consumer->ops->bad_message(consumer->user, status, text);
}

static void break_off(struct consumer *consumer, int error)
{
    consumer_stop(consumer);
    consumer->ops->broken(consumer->user, error);
}

/* What was printed is written: now, and only now, it has been processed. */
static void settle(struct consumer *consumer)
{
    size_t bytes = consumer->printed_bytes;

    if (consumer->ops->message)
        consumer->stats->events_received_total += consumer->printed_updates;
    else
        consumer->stats->updates_received_total += consumer->printed_updates;
    consumer->processed += consumer->printed_updates;
    consumer->printed_updates = 0;
    consumer->printed_bytes = 0;
    update_gauge(consumer);
    if (bytes > 0 && consumer->ops->settled)
        consumer->ops->settled(consumer->user);
    if (bytes > 0)
        consumer->ops->credit(consumer->user, bytes);
}

/* True if everything printed has been written, and more may be printed. */
static bool flush(struct consumer *consumer)
{
    int r;

    if (consumer->output.text.failed) {
        break_off(consumer, -ENOMEM);
        return false;
    }
    r = output_flush(&consumer->output);
    if (r < 0) {
        break_off(consumer, r);
        return false;
    }
    if (r == 0)
        settle(consumer);
    return r == 0;
}

static bool has_enough(const struct consumer *consumer)
{
    return consumer->options.count > 0 &&
           consumer->processed + consumer->printed_updates >= consumer->options.count;
}

static uint64_t pick_delay_ms(const struct consumer *consumer)
{
    const struct consumer_options *options = &consumer->options;
    uint64_t step_ms = MAX(options->delay_step_ms, (uint64_t)1);

    if (options->delay_max_ms == options->delay_min_ms)
        return options->delay_min_ms;
    return options->delay_min_ms +
           step_ms *
               client_random_between(0, (options->delay_max_ms - options->delay_min_ms) / step_ms);
}

/* True if the first message has waited its delay. */
static bool has_waited(struct consumer *consumer)
{
    uint64_t delay_ms;

    if (consumer->taken_up)
        return !wheel_armed(&consumer->delay);
    consumer->taken_up = true;
    consumer->call_updates++;
    consumer->stats->msg_received_total++;
    delay_ms = pick_delay_ms(consumer);
    if (delay_ms == 0)
        return true;
    loop_arm(consumer->loop, &consumer->delay, delay_ms, 1);
    return false;
}

/* Decodes, checks and prints an update of GetUpdates. False: it is none. */
static bool process_update(struct consumer *consumer, const uint8_t *message, size_t size)
{
    Stockservice__StockUpdate *update = stockservice__stock_update__unpack(NULL, size, message);

    if (!update)
        return false;
    if (!chain_add(&consumer->chain, update->price, update->change))
        consumer->stats->gaps_total++;
    if (!consumer->options.quiet)
        print_update(&consumer->output.text, consumer->options.format, update);
    stockservice__stock_update__free_unpacked(update, NULL);
    return true;
}

/* Processes the first message, and takes it away. False: it is none of the method's. */
static bool process(struct consumer *consumer, const uint8_t *message, size_t size)
{
    const struct consumer_ops *ops = consumer->ops;

    if (ops->message ? !ops->message(consumer->user, message, size, &consumer->output.text)
                     : !process_update(consumer, message, size))
        return false;
    consumer->printed_updates++;
    consumer->printed_bytes += deframer_take(&consumer->deframer) - consumer->advanced_bytes;
    consumer->advanced_bytes = 0;
    consumer->taken_up = false;
    return true;
}

/* Withholds no more than half the window from a message that has not come whole. */
static void advance_credit(struct consumer *consumer)
{
    size_t withheld = deframer_size(&consumer->deframer) - consumer->advanced_bytes;
    size_t withheld_max = consumer->options.window / 2;

    if (withheld <= withheld_max)
        return;
    consumer->advanced_bytes += withheld - withheld_max;
    update_gauge(consumer);
    consumer->ops->credit(consumer->user, withheld - withheld_max);
}

/*
 * Prints what may be printed now. Ends at the first message that has to wait or has not come whole,
 * when the text is large, or at what is no message, which *ret_found then tells.
 */
static void print_ready(struct consumer *consumer, enum deframer_result *ret_found)
{
    const uint8_t *message;
    size_t size;

    for (;;) {
        *ret_found = deframer_peek(&consumer->deframer, &message, &size);
        if (*ret_found != DEFRAMER_WHOLE || has_enough(consumer) ||
            consumer->output.text.size >= TEXT_WRITE_SIZE || !has_waited(consumer))
            return;
        if (!process(consumer, message, size)) {
            *ret_found = DEFRAMER_NO_UPDATE;
            return;
        }
    }
}

/* True if there may be more to print at once. */
static bool run_once(struct consumer *consumer)
{
    enum deframer_result found;

    print_ready(consumer, &found);
    if (!flush(consumer))
        return false;
    if (has_enough(consumer)) {
        consumer_stop(consumer);
        consumer->ops->enough(consumer->user);
        return false;
    }
    switch (found) {
    case DEFRAMER_WHOLE:
        return !wheel_armed(&consumer->delay);
    case DEFRAMER_PARTIAL:
        advance_credit(consumer);
        consumer->ops->idle(consumer->user);
        break;
    case DEFRAMER_TOO_LONG:
        fail(consumer, WIRE_RESOURCE_EXHAUSTED, "a message is longer than 4194304 bytes");
        break;
    case DEFRAMER_COMPRESSED:
        fail(consumer, WIRE_INTERNAL, "a message is compressed, which was not offered");
        break;
    case DEFRAMER_BAD_FLAG:
        fail(consumer, WIRE_INTERNAL, "a message's compressed flag is neither 0 nor 1");
        break;
    case DEFRAMER_NO_UPDATE:
        fail(consumer, WIRE_INTERNAL,
             consumer->ops->message ? "a message is not one of the method's"
                                    : "a message is no StockUpdate");
        break;
    }
    return false;
}

static void run(struct consumer *consumer)
{
    while (!consumer->stopped && output_ready(&consumer->output) && run_once(consumer))
        ;
    update_gauge(consumer);
}

void consumer_flush(struct consumer *consumer)
{
    if (!consumer->stopped)
        (void)flush(consumer);
}

static void on_delay(struct wheel_timer *timer)
{
    run(container_of(timer, struct consumer, delay));
}

static void on_written(void *user)
{
    struct consumer *consumer = user;

    settle(consumer);
    run(consumer);
}

static void on_broken(void *user, int error)
{
    break_off(user, error);
}

int consumer_init(struct consumer *consumer, struct loop *loop,
                  const struct consumer_options *options, int fd, struct stats *stats,
                  const struct consumer_ops *ops, void *user)
{
    *consumer = (struct consumer){
        .options = *options,
        .ops = ops,
        .user = user,
        .loop = loop,
        .stats = stats,
        .output = {.user = consumer, .written = on_written, .broken = on_broken},
        .deframer = {.message_max = CONSUMER_MESSAGE_MAX},
        .delay = {.fire = on_delay},
    };
    if (!options->quiet)
        print_header(&consumer->output.text, options->format);
    return output_init(&consumer->output, loop, fd);
}

void consumer_deinit(struct consumer *consumer)
{
    loop_disarm(consumer->loop, &consumer->delay);
    deframer_deinit(&consumer->deframer);
    output_deinit(&consumer->output);
}

void consumer_begin(struct consumer *consumer)
{
    deframer_deinit(&consumer->deframer);
    consumer->chain = (struct chain){0};
    consumer->taken_up = false;
    consumer->advanced_bytes = 0;
    consumer->call_updates = 0;
    consumer->stopped = false;
    update_gauge(consumer);
}

int consumer_data(struct consumer *consumer, const uint8_t *bytes, size_t size)
{
    int r;

    if (consumer->stopped)
        return 0;
    r = deframer_add(&consumer->deframer, bytes, size);
    if (r < 0)
        return r;
    run(consumer);
    return 0;
}

bool consumer_is_idle(const struct consumer *consumer)
{
    const uint8_t *message;
    size_t size;

    if (consumer->stopped)
        return true;
    return consumer->printed_updates == 0 &&
           deframer_peek(&consumer->deframer, &message, &size) == DEFRAMER_PARTIAL;
}

bool consumer_has_partial(const struct consumer *consumer)
{
    return !consumer->stopped && deframer_size(&consumer->deframer) > 0;
}
