/*
 * stock-client without a command: prints the updates of GetUpdates. Wires the options, the client,
 * its standard output and its metrics to one loop, and turns signals into an end in good order.
 */
#include "client/client.h"
#include "client/commands.h"
#include "client/options.h"
#include "client/scrape.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

struct program {
    uv_loop_t uv;
    struct loop loop;
    struct options options;
    struct stats stats;
    struct consumer consumer;
    struct client client;
    struct scrape scrape;
    uv_signal_t signals[ELEMENTSOF(signals)];
    uint64_t start_ns;
};

static void on_signal(uv_signal_t *handle, int number)
{
    struct program *program = handle->data;

    /* A second one changes nothing: the goodbye is short, and timeout(1) always sends two. */
    log_event(LOG_DEBUG, log_fields(LOG_EVENT(INTERRUPTED), {"STOCKD_SIGNAL", strsignal(number)}),
              "%s", strsignal(number));
    client_stop(&program->client, EXIT_INTERRUPTED);
}

static void on_stopped(struct client *client)
{
    struct program *program = client->user;

    uv_stop(&program->uv);
}

static int start_signals(struct program *program)
{
    for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
        int r = uv_signal_init(&program->uv, &program->signals[i]);

        program->signals[i].data = program;
        if (r == 0)
            r = uv_signal_start(&program->signals[i], on_signal, signals[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* To whoever started the program, without time and level; or to the journal, as a message. */
static void tell(int level, const struct log_field *fields, const char *text)
{
    if (log_to_journal())
        log_event(level, fields, "%s", text);
    else
        (void)fprintf(stderr, "stock-client: %s\n", text);
}

static void print_summary(const struct program *program)
{
    const struct stats *stats = &program->stats;
    double seconds = (double)(program->client.stop_ns - program->start_ns) / 1e9;
    uint64_t connects = stats->connects_total[CONNECT_ESTABLISHED];
    uint64_t reconnects = connects > 0 ? connects - 1 : 0;
    char text[200];

    (void)snprintf(text, sizeof(text),
                   "%" PRIu64 " updates received in %.3f s (%.1f/s), %" PRIu64 " gaps, %" PRIu64
                   " reconnects",
                   stats->updates_received_total, seconds,
                   seconds > 0 ? (double)stats->updates_received_total / seconds : 0.0,
                   stats->gaps_total, reconnects);
    tell(LOG_INFO,
         log_fields(LOG_EVENT(FINISHED),
                    {"STOCKD_UPDATES_RECEIVED", log_number(stats->updates_received_total)},
                    {"STOCKD_DURATION_MS", log_number((uint64_t)(seconds * 1e3))},
                    {"STOCKD_GAPS", log_number(stats->gaps_total)},
                    {"STOCKD_RECONNECTS", log_number(reconnects)}),
         text);
}

/* Everything that has a handle in the loop; each was made, or is still zero. */
static void close_all(struct program *program)
{
    scrape_stop(&program->scrape);
    for (size_t i = 0; i < ELEMENTSOF(program->signals); i++)
        if (program->signals[i].data)
            loop_close_signal(&program->signals[i]);
    consumer_deinit(&program->consumer);
    loop_deinit(&program->loop);

    /* A resolver that hangs would keep the loop, and exit() too, until it comes back. */
    if (program->client.dial.abandoned > 0)
        _exit(program->client.exit_code);
    (void)uv_run(&program->uv, UV_RUN_DEFAULT);
    (void)uv_loop_close(&program->uv);
}

/* Runs until the client has stopped. A negative errno if it could not be started. */
static int run(struct program *program)
{
    int r = start_signals(program);

    if (r == 0)
        r = scrape_start(&program->scrape, &program->uv, &program->options.metrics,
                         program->options.metrics_given, &program->client);
    if (r < 0)
        return r;
    program->client = (struct client){
        .options = program->options.client,
        .loop = &program->loop,
        .stats = &program->stats,
        .consumer = &program->consumer,
        .stopped = on_stopped,
        .user = program,
    };
    client_start(&program->client);
    (void)uv_run(&program->uv, UV_RUN_DEFAULT);
    print_summary(program);
    return 0;
}

static int fail(int error)
{
    char text[200];

    (void)snprintf(text, sizeof(text), "cannot start: %s", strerror(-error));
    tell(LOG_ERR, log_fields(LOG_EVENT(START_FAILED), {"STOCKD_ERROR", strerror(-error)}), text);
    return EXIT_FAILED;
}

/*
 * Reads the files that TLS needs. What is wrong with one is known before anything is connected: 0,
 * or an exit code.
 */
static int open_credentials(struct options *options)
{
    char error[CREDENTIALS_ERROR_MAX];
    int r;

    if (!options->tls)
        return 0;
    r = credentials_new(&options->client.tls.credentials, &options->credentials, error);
    if (r == -ENOMEM)
        return fail(r);
    if (r < 0) {
        tell(LOG_ERR, log_fields(LOG_EVENT(START_FAILED), {"STOCKD_ERROR", error}), error);
        return EXIT_USAGE;
    }
    if (options->client.tls.insecure)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(UNVERIFIED), {"STOCKD_TARGET", options->client.target.text}),
                  "whoever the server is, its certificate is taken (--insecure)");
    return 0;
}

int command_updates(int argc, char *argv[])
{
    static struct program program;
    int r;

    program.start_ns = uv_hrtime();
    r = options_read(&program.options, argc, argv);
    if (r < 0)
        return fail(r);
    if (r != OPTIONS_RUN)
        return r == OPTIONS_DONE ? EXIT_DONE : EXIT_USAGE;

    log_open("stock-client");
    event_use_client();
    log_set_level(program.options.verbose ? LOG_DEBUG : LOG_INFO);
    r = open_credentials(&program.options);
    if (r != 0)
        return r;
    r = uv_loop_init(&program.uv);
    if (r < 0)
        return fail(r);
    r = loop_init(&program.loop, &program.uv);
    if (r < 0)
        return fail(r);
    r = consumer_init(&program.consumer, &program.loop, &program.options.consumer, STDOUT_FILENO,
                      &program.stats, &client_consumer_ops, &program.client);
    if (r < 0)
        return fail(r);

    r = run(&program);
    if (r < 0)
        program.client.exit_code = EXIT_FAILED;
    close_all(&program);
    options_deinit(&program.options);
    return (int)program.client.exit_code;
}
