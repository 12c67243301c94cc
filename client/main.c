/*
 * stock-client: wires the options, the client, its standard output and its metrics to one loop, and
 * turns signals into an end in good order.
 */
#include "client/client.h"
#include "client/commands.h"
#include "client/families.h"
#include "client/options.h"

#include "base/address.h"
#include "base/events.h"
#include "base/exporter.h"
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
    struct exporter *exporters[CONFIG_ENDPOINTS_MAX];
    uv_signal_t signals[ELEMENTSOF(signals)];
    uint64_t start_ns;
};

static bool is_ready(void *context)
{
    struct program *program = context;

    return client_is_connected(&program->client);
}

static int render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct program *program = context;

    return client_families_render(&program->stats, format, ret_text, ret_size);
}

/* The fields of both failures below. */
#define METRICS_FAILURE(address, error)                                                            \
    LOG_EVENT(METRICS_FAILED), {"STOCKD_ADDRESS", (address)},                                      \
    {                                                                                              \
        "STOCKD_ERROR", strerror(-(error))                                                         \
    }

/* One listener of /metrics. A failure at an address that nobody asked for is no failure. */
static int start_exporter(struct program *program, unsigned index)
{
    const struct exporter_options options = {
        .program = "stock-client",
        .version = STOCKD_VERSION,
        .render = render,
        .ready = is_ready,
        .context = program,
    };
    const struct endpoint *endpoint = &program->options.metrics.endpoints[index];
    const struct sockaddr *address = (const struct sockaddr *)&endpoint->address;
    struct sockaddr_storage bound;
    char text[ADDRESS_TEXT_MAX];
    int r = exporter_new(&program->exporters[index], &program->uv, endpoint, &options);

    if (r < 0 && !program->options.metrics_given) {
        log_event(LOG_WARNING, log_fields(METRICS_FAILURE(address_format(address, text), r)),
                  "no metrics on %s: %s (--metrics gives another address, --no-metrics none)", text,
                  strerror(-r));
        return 0;
    }
    if (r < 0) {
        log_event(LOG_ERR, log_fields(METRICS_FAILURE(address_format(address, text), r)),
                  "cannot serve metrics on %s: %s", text, strerror(-r));
        return r;
    }
    if (exporter_address(program->exporters[index], &bound) == 0) {
        (void)address_format((const struct sockaddr *)&bound, text);
        log_event(LOG_INFO, log_fields(LOG_EVENT(METRICS_SERVED), {"STOCKD_ADDRESS", text}),
                  "metrics on http://%s/metrics", text);
    }
    return 0;
}

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
    for (size_t i = 0; i < ELEMENTSOF(program->exporters); i++)
        program->exporters[i] = exporter_free(program->exporters[i]);
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

static int start_metrics(struct program *program)
{
    for (unsigned i = 0; i < program->options.metrics.count; i++) {
        int r = start_exporter(program, i);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Runs until the client has stopped. A negative errno if it could not be started. */
static int run(struct program *program)
{
    int r = start_signals(program);

    if (r == 0)
        r = start_metrics(program);
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

static const struct {
    const char *name;
    int (*run)(int argc, char *argv[]);
} commands[] = {
#define X(name) {#name, command_##name},
    COMMANDS(X)
#undef X
};

int main(int argc, char *argv[])
{
    static struct program program;
    int r;

    log_open_standard_files();
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; argc > 1 && i < ELEMENTSOF(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
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
