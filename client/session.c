#include "client/session.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "client/print.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

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

void session_tell(int level, const struct log_field *fields, const char *text)
{
    struct text line = {0};

    if (log_to_journal()) {
        log_event(level, fields, "%s", text);
        return;
    }
    print_foreign(&line, text);
    text_add_char(&line, 0);
    (void)fprintf(stderr, "stock-client: %s\n", line.failed ? strerror(ENOMEM) : line.bytes);
    text_deinit(&line);
}

void session_tell_failure(const char *error)
{
    session_tell(LOG_ERR, log_fields(LOG_EVENT(START_FAILED), {"STOCKD_ERROR", error}), error);
}

void session_tell_end(const struct session *session, uint64_t updates, uint64_t gaps,
                      const char *text)
{
    double seconds = session_seconds(session);

    session_tell(LOG_INFO,
                 log_fields(LOG_EVENT(FINISHED), {"STOCKD_UPDATES_RECEIVED", log_number(updates)},
                            {"STOCKD_DURATION_MS", log_number((uint64_t)(seconds * 1e3))},
                            {"STOCKD_GAPS", log_number(gaps)},
                            {"STOCKD_RECONNECTS", log_number(session_reconnects(session))}),
                 text);
}

static int fail(int error)
{
    char text[200];

    (void)snprintf(text, sizeof(text), "cannot start: %s", strerror(-error));
    session_tell_failure(text);
    return EXIT_FAILED;
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

    session->ops->changed(session);
}

static void on_stopped(struct client *client)
{
    struct session *session = client->user;

    uv_stop(&session->uv);
}

/* ---- Beginning and end ---- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct session *session = handle->data;

    /* A second one changes nothing: the goodbye is short, and timeout(1) always sends two. */
    log_event(LOG_DEBUG, log_fields(LOG_EVENT(INTERRUPTED), {"STOCKD_SIGNAL", strsignal(number)}),
              "%s", strsignal(number));
    session_end(session, EXIT_INTERRUPTED);
}

static int start_signals(struct session *session)
{
    for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
        int r = uv_signal_init(&session->uv, &session->signals[i]);

        if (r < 0)
            return r;
        session->signals[i].data = session;
        r = uv_signal_start(&session->signals[i], on_signal, signals[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* 0, or an exit code: what is wrong with a file is known before anything is connected. */
static int open_credentials(struct subscribe_options *options)
{
    char error[CREDENTIALS_ERROR_MAX];
    int r;

    if (!options->tls)
        return 0;
    r = credentials_new(&options->client.tls.credentials, &options->credentials, error);
    if (r == -ENOMEM)
        return fail(r);
    if (r < 0) {
        session_tell_failure(error);
        return EXIT_USAGE;
    }
    if (options->client.tls.insecure)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(UNVERIFIED), {"STOCKD_TARGET", options->client.target.text}),
                  "whoever the server is, its certificate is taken (--insecure)");
    return 0;
}

int session_prepare(struct subscribe_options *options)
{
    log_open("stock-client");
    event_use_client();
    log_set_level(options->verbose ? LOG_DEBUG : LOG_INFO);
    return open_credentials(options);
}

int session_exit_code(int result)
{
    if (result == -ENOMEM)
        return fail(result);
    return result == OPTIONS_WRONG ? EXIT_USAGE : EXIT_DONE;
}

/* Runs until the client has stopped. The exit code. */
static int run(struct session *session)
{
    int r = start_signals(session);

    if (r < 0)
        return fail(r);
    session->client = (struct client){
        .options = session->options.client,
        .loop = &session->loop,
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
        (void)uv_run(&session->uv, UV_RUN_DEFAULT);
    }
    session->ops->stop(session);
    return r == 0 ? (int)session->client.exit_code : r;
}

/* Everything that has a handle in the loop; each was made, or is still zero. */
static void close_all(struct session *session, int exit_code)
{
    for (size_t i = 0; i < ELEMENTSOF(session->signals); i++)
        if (session->signals[i].data)
            loop_close_signal(&session->signals[i]);
    consumer_deinit(&session->consumer);
    loop_deinit(&session->loop);
    /* A resolver that hangs would keep the loop, and exit() too, until it comes back. */
    if (session->client.dial.abandoned > 0)
        _exit(exit_code);
    (void)uv_run(&session->uv, UV_RUN_DEFAULT);
    (void)uv_loop_close(&session->uv);
}

int session_run(struct session *session)
{
    struct consumer_options consumer = session->options.consumer;
    int exit_code;
    int r;

    session->start_ns = uv_hrtime();
    session->stats.method = "Subscribe";
    consumer.window = session->options.client.window;
    consumer.quiet = true; /* the command prints, if anybody does */
    r = session_prepare(&session->options);
    if (r != 0)
        return r;
    r = uv_loop_init(&session->uv);
    if (r < 0)
        return fail(r);
    r = loop_init(&session->loop, &session->uv);
    if (r < 0)
        return fail(r);
    r = consumer_init(&session->consumer, &session->loop, &consumer, STDOUT_FILENO, &session->stats,
                      &client_event_ops, &session->client);
    if (r < 0)
        return fail(r);
    exit_code = run(session);
    close_all(session, exit_code);
    subscribe_options_deinit(&session->options);
    return exit_code;
}
