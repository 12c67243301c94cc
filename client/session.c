#include "client/session.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t session_unix_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t session_reconnects(const struct session *session)
{
    uint64_t connects = session->stats.connects_total[CONNECT_ESTABLISHED];

    return connects > 0 ? connects - 1 : 0;
}

double session_seconds(const struct session *session)
{
    uint64_t end_ns = session->client.stop_ns > 0 ? session->client.stop_ns : uv_hrtime();

    return (double)(end_ns - session->start_ns) / 1e9;
}

void session_end(struct session *session, enum exit_code exit_code)
{
    client_stop(&session->client, exit_code);
}

void session_tell_end(const struct session *session, uint64_t updates, uint64_t gaps,
                      const char *text)
{
    double seconds = session_seconds(session);

    program_tell(LOG_INFO,
                 log_fields(LOG_EVENT(FINISHED), {"STOCKD_UPDATES_RECEIVED", log_number(updates)},
                            {"STOCKD_DURATION_MS", log_number((uint64_t)(seconds * 1e3))},
                            {"STOCKD_GAPS", log_number(gaps)},
                            {"STOCKD_RECONNECTS", log_number(session_reconnects(session))}),
                 text);
}

/* ---- What the client tells ---- */

static bool on_message(struct client *client, const uint8_t *message, size_t size,
                       struct text *output)
{
    struct session *session = client->user;
    Stockservice__MarketEvent *event = stockservice__market_event__unpack(NULL, size, message);
    bool taken;

    if (!event)
        return false;
    /* The contract has no epoch 0, and there would be no position to go on from. */
    if (event->epoch == 0) {
        stockservice__market_event__free_unpacked(event, NULL);
        return false;
    }
    taken = session->ops->event(session, event, WIRE_PREFIX_SIZE + size);
    stockservice__market_event__free_unpacked(event, NULL);
    if (!taken) {
        (void)snprintf(client->problem, sizeof(client->problem), "out of memory");
        client_stop(client, EXIT_FAILED);
    }
    return true;
}

static void on_settled(struct client *client)
{
    struct session *session = client->user;

    if (session->ops->settled)
        session->ops->settled(session);
}

static void on_changed(struct client *client)
{
    struct session *session = client->user;

    if (session->ops->changed)
        session->ops->changed(session);
}

static void on_stopped(struct client *client)
{
    struct session *session = client->user;

    uv_stop(&session->program.uv);
}

/* ---- Beginning and end ---- */

static void on_interrupted(struct program *program)
{
    session_end(container_of(program, struct session, program), EXIT_INTERRUPTED);
}

/* Runs until the client has stopped. The exit code. */
static int run_client(struct session *session)
{
    int r;

    session->client = (struct client){
        .options = session->options.client,
        .loop = &session->program.loop,
        .stats = &session->stats,
        .consumer = &session->consumer,
        .stopped = on_stopped,
        .changed = on_changed,
        .message = on_message,
        .settled = on_settled,
        .user = session,
    };
    r = session->ops->start(session);
    if (r == 0) {
        client_start(&session->client);
        program_run(&session->program);
    }
    session->ops->stop(session);
    return r == 0 ? (int)session->client.exit_code : r;
}

static int open_consumer(struct session *session)
{
    const struct subscribe_options *options = &session->options;
    bool events = session->ops->event;
    struct consumer_options consumer = options->consumer;
    int r;

    consumer.window = options->client.window;
    consumer.format = options->format;
    consumer.quiet = events || options->quiet; /* of events the command prints, if anybody does */
    consumer.count = events ? 0 : options->count;
    r = consumer_init(&session->consumer, &session->program.loop, &consumer, STDOUT_FILENO,
                      &session->stats, events ? &client_event_ops : &client_consumer_ops,
                      &session->client);
    return r < 0 ? program_fail(r) : 0;
}

/* The exit code. */
static int run(struct session *session)
{
    int exit_code = program_prepare(&session->options.client.connect);

    if (exit_code != 0)
        return exit_code;
    session->stats.method = session->ops->event ? "Subscribe" : NULL;
    session->program.interrupted = on_interrupted;
    exit_code = program_open(&session->program);
    if (exit_code == 0)
        exit_code = open_consumer(session);
    if (exit_code == 0) {
        exit_code = run_client(session);
        consumer_deinit(&session->consumer);
    }
    program_close(&session->program, session->client.dial.abandoned, exit_code);
    return exit_code;
}

int session_main(struct session *session, const struct subscribe_command *command, int argc,
                 char *argv[])
{
    int exit_code;
    int r;

    session->start_ns = uv_hrtime();
    r = subscribe_options_read(&session->options, command, argc, argv);
    if (r == OPTIONS_RUN)
        r = session->ops->prepare(session);
    exit_code = r == OPTIONS_RUN ? run(session) : program_exit_code(r);
    subscribe_options_deinit(&session->options);
    return exit_code;
}
