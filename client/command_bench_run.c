/*
 * First all connections are made, so that no figure has that in it; then a tick, some times a
 * second, begins and ends calls as the schedule says. Calls that fail are not begun anew: a server
 * that refuses would be flooded, and the figures would hide it.
 */
#include "client/command_bench_run.h"

#include "base/log.h"
#include "base/util.h"
#include "client/connect.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
    TICK_MS = 10,
    PROGRESS_MS = 200,
    CONNECT_MAX_MS = 20000,
    GOODBYE_MAX_MS = 1000,
    COLUMNS_DEFAULT = 80,
};

struct bench_connection {
    struct bench_run *run;
    struct connection *connection;
    struct dial dial;
    bool established;
};

static void dial_more(struct bench_run *run);

static void note_error(struct bench_run *run, const char *text)
{
    if (!run->report.first_error[0])
        (void)snprintf(run->report.first_error, sizeof(run->report.first_error), "%.*s",
                       BENCH_ERROR_MAX - 1, text);
}

/* ---- Progress ---- */

static unsigned terminal_columns(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return COLUMNS_DEFAULT;
    return size.ws_col;
}

static void show_progress(struct bench_run *run, uint64_t now_ns)
{
    uint64_t updates = run->classes[BENCH_FAST].counters[BENCH_UPDATES] +
                       run->classes[BENCH_SLOW].counters[BENCH_UPDATES];
    double passed = (double)(now_ns - run->shown_ns) / 1e9;
    struct text text = {0};

    if (!run->options.show_progress || passed < PROGRESS_MS / 1e3)
        return;
    text_add_string(&text, "\r\033[K");
    bench_progress_write(
        &text, &(struct bench_progress){
                   .seconds = (double)(now_ns - run->start_ns) / 1e9,
                   .seconds_max = (double)bench_schedule_total_ms(&run->options.schedule) / 1e3,
                   .calls = run->open,
                   .failed = run->failed,
                   .rate = (double)(updates - run->updates_before) / passed,
                   .lag_ns = bench_histogram_quantile_ns(&run->classes[BENCH_FAST].latency, 0.99),
                   .columns = terminal_columns(),
               });
    run->updates_before = updates;
    run->shown_ns = now_ns;
    run->progress_shown = true;
    (void)fwrite(text.bytes, 1, text.size, stderr);
    text_deinit(&text);
}

/* ---- Calls ---- */

/* It is over: counts how, unless this side ended it. */
static void count_end(struct bench_run *run, const struct bench_call *call)
{
    const struct client_call *ended = &call->call;
    char text[BENCH_ERROR_MAX];

    run->stats.handled_total[ended->status]++;
    if (call->let_go || run->stopping)
        return;
    run->failed++;
    run->report.failed[ended->status]++;
    call->class->counters[BENCH_FAILED]++;
    if (ended->status == WIRE_RESOURCE_EXHAUSTED && call->answered)
        call->class->counters[BENCH_CUT_OFF]++;
    (void)snprintf(text, sizeof(text), "%s: %.200s", wire_status_name(ended->status), ended->text);
    note_error(run, text);
}

static void call_free(struct bench_run *run, struct bench_call *call)
{
    TAILQ_REMOVE(&run->calls, call, link);
    run->open--;
    bench_call_deinit(call);
    free(call);
}

/* Each hundred has its part of slow ones, as evenly as whole numbers go. */
static bool is_slow(const struct bench_run *run, uint64_t number)
{
    double part = run->options.slow_percent / 100;

    return floor((double)(number + 1) * part) > floor((double)number * part);
}

static int call_begin(struct bench_run *run)
{
    uint64_t number = run->begun;
    uint32_t count = run->options.connections;
    /* Each round begins one further, or with 4 connections and 25 % all slow ones met on one. */
    struct bench_connection *place = &run->connections[(number + number / count) % count];
    struct bench_call *call = calloc(1, sizeof(*call));
    int r;

    if (!call)
        return -ENOMEM;
    call->owner = run;
    call->options = &run->options.call;
    call->loop = run->loop;
    call->slow = is_slow(run, number);
    call->class = &run->classes[call->slow ? BENCH_SLOW : BENCH_FAST];
    TAILQ_INSERT_TAIL(&run->calls, call, link);
    run->open++;
    run->begun++;
    run->held++;
    if (place->connection) {
        r = bench_call_start(call, place->connection, &run->stats);
        if (r == 0)
            return 0;
        client_call_decide(&call->call, r < 0 ? WIRE_RESOURCE_EXHAUSTED : WIRE_UNAVAILABLE,
                           r < 0 ? "out of memory" : "the server takes no calls");
    } else {
        call->class->counters[BENCH_CALLS]++;
        client_call_decide(&call->call, WIRE_UNAVAILABLE, "the connection was lost");
    }
    count_end(run, call);
    call_free(run, call);
    return 0;
}

/* Ends the one that was begun last; one that has failed meanwhile needs no end. */
static void call_end_last(struct bench_run *run)
{
    struct bench_call *call;

    run->held--;
    TAILQ_FOREACH_REVERSE(call, &run->calls, bench_calls, link)
    {
        if (!call->let_go) {
            bench_call_end(call);
            return;
        }
    }
}

/* Nothing is open, and the schedule has nothing more to begin. */
static bool has_failed_whole(const struct bench_run *run)
{
    return run->open == 0 && run->failed > 0 && run->failed == run->begun &&
           run->held >= bench_schedule_calls_max(&run->options.schedule);
}

static void on_tick(struct wheel_timer *timer)
{
    struct bench_run *run = container_of(timer, struct bench_run, tick);
    uint64_t now_ns = uv_hrtime();
    uint64_t elapsed_ms = (now_ns - run->start_ns) / 1000000;
    uint32_t wanted = bench_schedule_calls(&run->options.schedule, elapsed_ms);

    if (elapsed_ms >= bench_schedule_total_ms(&run->options.schedule) || has_failed_whole(run)) {
        bench_run_stop(run, EXIT_DONE);
        return;
    }
    for (unsigned i = 0; i < BENCH_BEGIN_MAX && run->held < wanted; i++) {
        if (call_begin(run) < 0) {
            note_error(run, "out of memory");
            bench_run_stop(run, EXIT_FAILED);
            return;
        }
    }
    while (run->held > wanted)
        call_end_last(run);
    show_progress(run, now_ns);
    loop_arm(run->loop, &run->tick, TICK_MS, 1);
}

/* ---- Ending ---- */

static void on_goodbye_limit(struct wheel_timer *timer)
{
    struct bench_run *run = container_of(timer, struct bench_run, goodbye_limit);

    for (uint32_t i = 0; i < run->dialled; i++)
        if (run->connections[i].connection)
            connection_close(run->connections[i].connection, CLOSE_LOCAL, NULL);
}

static void finish_report(struct bench_run *run)
{
    struct bench_report *report = &run->report;

    report->seconds = run->start_ns > 0 ? (double)(uv_hrtime() - run->start_ns) / 1e9 : 0;
    report->classes = run->classes;
    if (run->progress_shown)
        (void)fputs("\r\033[K", stderr);
}

void bench_run_stop(struct bench_run *run, enum exit_code exit_code)
{
    struct bench_call *call, *next;

    if (run->stopping)
        return;
    run->stopping = true;
    run->exit_code = exit_code;
    finish_report(run);
    loop_disarm(run->loop, &run->tick);
    for (call = TAILQ_FIRST(&run->calls); call; call = next) {
        next = TAILQ_NEXT(call, link);
        bench_call_end(call);
    }
    for (uint32_t i = 0; i < run->dialled; i++) {
        struct bench_connection *place = &run->connections[i];

        dial_stop(&place->dial);
        if (place->connection && place->established)
            connection_drain(place->connection, CLOSE_LOCAL);
        else if (place->connection)
            connection_close(place->connection, CLOSE_LOCAL, NULL);
    }
    loop_arm(run->loop, &run->goodbye_limit, GOODBYE_MAX_MS, 1);
    loop_queue(run->loop, &run->settle);
}

static void on_settle(struct loop_task *task)
{
    struct bench_run *run = container_of(task, struct bench_run, settle);

    if (!run->stopping || run->has_stopped)
        return;
    for (uint32_t i = 0; i < run->dialled; i++)
        if (run->connections[i].connection)
            return;
    run->has_stopped = true;
    loop_disarm(run->loop, &run->goodbye_limit);
    run->stopped(run);
}

/* ---- What connections tell ---- */

static void on_stream_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct bench_call *call = bench_call_from_stream(stream);
    struct bench_run *run = call->owner;

    client_call_closed(stream, error_code);
    count_end(run, call);
    call_free(run, call);
}

static void on_established(struct connection *connection)
{
    struct bench_connection *place = connection_context(connection);
    struct bench_run *run = place->run;

    place->established = true;
    dial_stop(&place->dial);
    run->stats.connects_total[CONNECT_ESTABLISHED]++;
    run->established++;
    if (run->stopping)
        return;
    if (run->established < run->options.connections) {
        dial_more(run);
        return;
    }
    run->start_ns = uv_hrtime();
    run->shown_ns = run->start_ns;
    loop_arm(run->loop, &run->tick, 0, 1);
}

/* Without all of its connections the run would measure something else than was asked for. */
static void give_up(struct bench_run *run, const char *error)
{
    char text[BENCH_ERROR_MAX + 64];

    if (run->stopping)
        return;
    (void)snprintf(text, sizeof(text), "cannot connect to %.100s: %s",
                   run->options.connect.target.text, error);
    note_error(run, text);
    bench_run_stop(run, EXIT_NO_CONNECTION);
}

static void on_dial_failed(void *user, enum connect_outcome outcome, const char *error)
{
    struct bench_connection *place = user;

    place->run->stats.connects_total[outcome]++;
    give_up(place->run, error);
}

static void on_connection_closed(struct connection *connection, enum close_reason reason,
                                 const char *detail)
{
    struct bench_connection *place = connection_context(connection);
    struct bench_run *run = place->run;

    place->connection = NULL;
    if (!place->established && !run->stopping) {
        /* What has come has come over any of the connections. */
        connect_refused(&place->dial, &run->options.connect, reason, detail, false);
        return;
    }
    if (!run->stopping) {
        run->report.connections_lost++;
        note_error(run, detail ? detail : close_reason_labels[reason]);
    }
    loop_queue(run->loop, &run->settle);
}

static const struct connection_ops connection_ops = {
    .header = client_call_header,
    .headers_end = client_call_headers_end,
    .data = bench_call_data,
    .half_close = client_call_half_close,
    .read = client_call_read,
    .close = on_stream_close,
    .accepted = client_call_accepted,
    .count = wire_count_messages,
    .established = on_established,
    .closed = on_connection_closed,
};

/* ---- Beginning ---- */

/* Room for the windows of all calls on a connection: a slow one must not take it from the others.
 */
static uint32_t connection_window(const struct bench_run_options *options)
{
    uint64_t calls = bench_schedule_calls_max(&options->schedule) / options->connections + 1;
    uint64_t window = MAX(calls * options->window, (uint64_t)65535);

    return (uint32_t)MIN(window, (uint64_t)INT32_MAX);
}

static void on_dial_connected(void *user, struct transport *transport, const char *peer)
{
    struct bench_connection *place = user;
    struct bench_run *run = place->run;
    const struct connection_options options = {
        .loop = run->loop,
        .stats = &run->stats.connection,
        .ops = &connection_ops,
        .context = place,
        .keepalive_time_ms = run->options.connect.keepalive_ms,
        .stream_window = (uint32_t)run->options.window,
        .connection_window = connection_window(&run->options),
    };

    connect_begin(&place->connection, &place->dial, transport, peer, &options);
}

static const struct dial_ops dial_ops = {
    .connected = on_dial_connected,
    .failed = on_dial_failed,
};

static void dial_more(struct bench_run *run)
{
    while (!run->stopping && run->dialled < run->options.connections &&
           run->dialled - run->established < BENCH_DIALS_MAX) {
        struct bench_connection *place = &run->connections[run->dialled++];

        place->run = run;
        dial_init(&place->dial, run->loop, &run->options.connect.tls, &dial_ops, place);
        dial_start(&place->dial, &run->options.connect.target,
                   loop_now_ms(run->loop) + CONNECT_MAX_MS);
    }
}

int bench_run_start(struct bench_run *run)
{
    run->connections = calloc(run->options.connections, sizeof(*run->connections));
    if (!run->connections)
        return -ENOMEM;
    TAILQ_INIT(&run->calls);
    run->stats.connection.loop = run->loop;
    run->settle.run = on_settle;
    run->tick.fire = on_tick;
    run->goodbye_limit.fire = on_goodbye_limit;
    run->report.method = run->options.call.subscribe ? "Subscribe" : CALL_METHOD;
    run->report.target = run->options.connect.target.text;
    run->report.connections = run->options.connections;
    run->report.has_latency = run->options.call.subscribe;
    dial_more(run);
    return 0;
}

unsigned bench_run_abandoned(const struct bench_run *run)
{
    unsigned abandoned = 0;

    for (uint32_t i = 0; i < run->dialled; i++)
        abandoned += run->connections[i].dial.abandoned;
    return abandoned;
}

void bench_run_deinit(struct bench_run *run)
{
    free(TAKE_PTR(run->connections));
}
