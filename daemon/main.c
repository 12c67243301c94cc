/*
 * stockd: options, wiring, signals. STARTING -> RUNNING -> STOPPING -> the end.
 */
#include "base/address.h"
#include "base/exporter.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "families.h"
#include "rpc/server.h"
#include "services/stock.h"
#include "settings.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

enum {
    EXIT_USAGE = 2,
    EXIT_CONFIGURATION = 78, /* EX_CONFIG of sysexits.h */
};

/* Descriptors that connections may not use: the loop's own, listeners, scrapers, files. */
#define DESCRIPTORS_RESERVED 128

enum state {
    STARTING,
    RUNNING,
    STOPPING,
    HURRYING,
};

struct daemon {
    enum state state;
    struct config config;
    struct settings settings;
    uv_loop_t uv;
    struct loop loop;
    struct stock_service *stock;
    const struct method *methods[1];
    struct server *server;
    struct families_context families;
    struct exporter *exporters[CONFIG_ENDPOINTS_MAX];
    uv_signal_t signals[2];
};

struct arguments {
    const char *config_file;
    bool check;
    bool dump;
};

static const char usage[] =
    "Usage: stockd [OPTION...]\n"
    "\n"
    "Streams stock prices over gRPC and tells Prometheus what holds its streams back.\n"
    "\n"
    "  -c, --config FILE            read FILE instead of /etc/stockd/stockd.conf\n"
    "  -i, --initial-delay SECONDS  wait before the first update of each call\n"
    "  -s, --set SECTION.KEY=VALUE  set anything that the configuration file can\n"
    "      --check-config           say what is wrong with the configuration, and exit\n"
    "      --dump-config            print the whole configuration, and exit\n"
    "  -h, --help                   print this, and exit\n"
    "  -V, --version                print the version, and exit\n"
    "\n"
    "See stockd(8) and stockd.conf(5).\n";

/* ---- Options ---- */

static int set_initial_delay(struct config *config, const char *seconds)
{
    _cleanup_free_ char *value = NULL;
    size_t digits = strspn(seconds, "0123456789.");

    /* The original's flag has no unit; one that is written is taken, too. */
    if (asprintf(&value, "%s%s", seconds, seconds[digits] == '\0' ? "s" : "") < 0) {
        value = NULL;
        return -ENOMEM;
    }
    return config_set(config, "stream", "initial_delay", value, "option --initial-delay");
}

static int set_any(struct config *config, const char *assignment)
{
    const char *dot = strchr(assignment, '.');
    const char *equals = strchr(assignment, '=');
    _cleanup_free_ char *section = NULL;
    _cleanup_free_ char *key = NULL;

    if (!dot || !equals || dot > equals)
        return config_fault(config, "option --set: \"%s\" is not SECTION.KEY=VALUE", assignment);
    section = strndup(assignment, (size_t)(dot - assignment));
    key = strndup(dot + 1, (size_t)(equals - dot - 1));
    if (!section || !key)
        return -ENOMEM;
    return config_set(config, section, key, equals + 1, "option --set");
}

static const char short_options[] = "c:i:s:hV";
static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'}, {"initial-delay", required_argument, NULL, 'i'},
    {"set", required_argument, NULL, 's'},    {"check-config", no_argument, NULL, 'C'},
    {"dump-config", no_argument, NULL, 'D'},  {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},      {0},
};

/* The first look: what does not depend on the configuration. -1, or the code to exit with. */
static int read_arguments(int argc, char **argv, struct arguments *ret_arguments)
{
    int option;

    while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
        switch (option) {
        case 'c':
            ret_arguments->config_file = optarg;
            break;
        case 'C':
            ret_arguments->check = true;
            break;
        case 'D':
            ret_arguments->dump = true;
            break;
        case 'h':
            (void)fputs(usage, stdout);
            return EXIT_SUCCESS;
        case 'V':
            (void)puts("stockd " STOCKD_VERSION);
            return EXIT_SUCCESS;
        case 'i':
        case 's':
            break;
        default:
            (void)fputs("Try 'stockd --help'.\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "stockd: unexpected argument '%s'\nTry 'stockd --help'.\n",
                      argv[optind]);
        return EXIT_USAGE;
    }
    return -1;
}

/* The second look: options that are settings come last, over files and environment. */
static int apply_arguments(int argc, char **argv, struct config *config)
{
    int option;
    int r = 0;

    optind = 1;
    while (r >= 0 && (option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
        if (option == 'i')
            r = set_initial_delay(config, optarg);
        else if (option == 's')
            r = set_any(config, optarg);
    }
    return r;
}

/* ---- Start ---- */

/* 0, or the code to exit with. */
static int configure(struct daemon *daemon, int argc, char **argv,
                     const struct arguments *arguments)
{
    struct config *config = &daemon->config;
    size_t faults;
    int r = config_init(config, settings_table, settings_table_count, &daemon->settings);

    if (r >= 0)
        r = settings_load(config, arguments->config_file);
    faults = config->faults.count;
    if (r >= 0)
        r = apply_arguments(argc, argv, config);
    for (size_t i = 0; i < config->faults.count; i++)
        log_error("%s", config->faults.text[i]);
    if (r < 0 || config->faults.out_of_memory) {
        log_error("reading the configuration: %s", uv_strerror(UV_ENOMEM));
        return EXIT_FAILURE;
    }
    if (faults > 0)
        return EXIT_CONFIGURATION;
    return config->faults.count > 0 ? EXIT_USAGE : 0;
}

static int dump(const struct config *config)
{
    int r = config_dump(config, STDOUT_FILENO);

    if (r < 0)
        log_error("cannot write to standard output: %s", uv_strerror(r));
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* As many descriptors as the kernel lets us have, and no more connections than that. */
static void limit_descriptors(struct settings *settings)
{
    struct rlimit limit;
    uint64_t most;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return;
    most = limit.rlim_cur > 2 * DESCRIPTORS_RESERVED ? limit.rlim_cur - DESCRIPTORS_RESERVED
                                                     : limit.rlim_cur / 2;
    if (settings->grpc.max_connections <= most)
        return;
    log_warning("grpc.max_connections is lowered from %llu to %llu: the limit of open files is "
                "%llu, and %d are kept for other uses",
                (unsigned long long)settings->grpc.max_connections, (unsigned long long)most,
                (unsigned long long)limit.rlim_cur, DESCRIPTORS_RESERVED);
    settings->grpc.max_connections = most;
}

static void log_changed(const struct config_setting *setting, const char *value, const char *origin,
                        void *context)
{
    log_info("%s.%s = %s (%s)", setting->section, setting->key, value, origin);
}

static bool is_ready(void *context)
{
    const struct daemon *daemon = context;

    return daemon->state == RUNNING;
}

static int render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct daemon *daemon = context;

    return families_render(&daemon->families, format, ret_text, ret_size);
}

static uint64_t choose_seed(const struct config_seed *seed)
{
    uint64_t value = seed->value;

    if (!seed->given && getrandom(&value, sizeof(value), 0) != sizeof(value))
        value = uv_hrtime();
    return value;
}

static int make_services(struct daemon *daemon)
{
    const struct settings *settings = &daemon->settings;
    struct stock_options stock = {
        .ticker = settings->stream.ticker,
        .start_price = settings->stream.start_price,
        .interval_ms = settings->stream.interval_ms,
        .initial_delay_ms = settings->stream.initial_delay_ms,
        .seed = choose_seed(&settings->stream.seed),
    };
    struct server_options server = {
        .methods = {daemon->methods, ELEMENTSOF(daemon->methods)},
        .max_connections = settings->grpc.max_connections,
        .max_streams = (uint32_t)settings->grpc.max_streams,
        .max_streams_total = settings->grpc.max_streams_total,
        .max_header_bytes = (uint32_t)settings->grpc.max_header_bytes,
        .max_message_bytes = (uint32_t)settings->grpc.max_message_bytes,
        .preface_timeout_ms = settings->grpc.preface_timeout_ms,
        .request_timeout_ms = settings->grpc.request_timeout_ms,
    };
    int r = stock_service_new(&daemon->stock, &daemon->loop, &stock);

    if (r < 0)
        return r;
    daemon->methods[0] = stock_service_get_updates(daemon->stock);
    r = server_new(&daemon->server, &daemon->loop, &server);
    daemon->families = (struct families_context){&daemon->loop, daemon->server, daemon->stock};
    return r;
}

static int listen_one(struct daemon *daemon, const struct endpoint *endpoint, bool metrics,
                      unsigned index)
{
    struct exporter_options options = {
        .program = "stockd",
        .version = STOCKD_VERSION,
        .render = render,
        .ready = is_ready,
        .context = daemon,
    };
    const char *what = metrics ? "metrics" : "gRPC";
    struct sockaddr_storage address;
    char text[ADDRESS_TEXT_MAX];
    int r;

    if (metrics) {
        r = exporter_new(&daemon->exporters[index], &daemon->uv, endpoint, &options);
        if (r >= 0)
            r = exporter_address(daemon->exporters[index], &address);
    } else {
        r = server_listen(daemon->server, endpoint, NULL, &address);
    }
    if (r < 0) {
        log_error("cannot listen for %s on %s: %s", what,
                  address_format((const struct sockaddr *)&endpoint->address, text),
                  uv_strerror(r));
        return r;
    }
    log_info("listening for %s on %s", what, address_format((struct sockaddr *)&address, text));
    return 0;
}

static int listen_all(struct daemon *daemon)
{
    struct config_endpoints *grpc = &daemon->settings.grpc.listen;
    struct config_endpoints *metrics = &daemon->settings.metrics.listen;
    int r = 0;

    for (unsigned i = 0; r >= 0 && i < grpc->count; i++)
        r = listen_one(daemon, &grpc->endpoints[i], false, i);
    for (unsigned i = 0; r >= 0 && i < metrics->count; i++)
        r = listen_one(daemon, &metrics->endpoints[i], true, i);
    return r;
}

/* ---- Stop ---- */

static void log_totals(const struct daemon *daemon)
{
    struct connection_stats *stats = server_connection_stats(daemon->server);
    double blocked_s = 0;

    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        blocked_s += (double)connection_stats_blocked_ns(stats, i) / 1e9;
    log_info("stopped: %llu updates sent in %llu calls on %llu connections, %llu bytes; streams "
             "were blocked for %.1f s",
             (unsigned long long)stock_service_updates_sent(daemon->stock),
             (unsigned long long)stock_service_get_updates(daemon->stock)->stats->started_total,
             (unsigned long long)stats->connections_total,
             (unsigned long long)stats->sent_bytes_total, blocked_s);
}

/* Closes whatever would keep the loop running; uv_run() returns when all of it is closed. */
static void close_all(struct daemon *daemon)
{
    for (unsigned i = 0; i < ELEMENTSOF(daemon->exporters); i++)
        daemon->exporters[i] = exporter_free(daemon->exporters[i]);
    for (unsigned i = 0; i < ELEMENTSOF(daemon->signals); i++) {
        uv_handle_t *handle = (uv_handle_t *)&daemon->signals[i];

        if (handle->loop && !uv_is_closing(handle))
            loop_close_signal(&daemon->signals[i]);
    }
}

static void on_stopped(void *context)
{
    struct daemon *daemon = context;

    log_totals(daemon);
    close_all(daemon);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *daemon = handle->data;

    if (daemon->state == RUNNING) {
        log_info("%s: ending %u streams on %u connections", strsignal(number),
                 (unsigned)server_connection_stats(daemon->server)->streams,
                 (unsigned)server_connection_stats(daemon->server)->connections);
        daemon->state = STOPPING;
        server_stop(daemon->server, daemon->settings.grpc.shutdown_timeout_ms, on_stopped, daemon);
    } else if (daemon->state == STOPPING) {
        /* Whoever asks twice does not want to wait. */
        daemon->state = HURRYING;
        server_hurry(daemon->server);
    }
}

static int watch_signals(struct daemon *daemon)
{
    static const int numbers[] = {SIGTERM, SIGINT};

    for (unsigned i = 0; i < ELEMENTSOF(numbers); i++) {
        int r = uv_signal_init(&daemon->uv, &daemon->signals[i]);

        if (r < 0)
            return r;
        daemon->signals[i].data = daemon;
        r = uv_signal_start(&daemon->signals[i], on_signal, numbers[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int start(struct daemon *daemon)
{
    int r;

    log_info("stockd %s is starting", STOCKD_VERSION);
    config_each_changed(&daemon->config, log_changed, NULL);
    limit_descriptors(&daemon->settings);
    r = make_services(daemon);
    if (r >= 0)
        r = watch_signals(daemon);
    if (r < 0) {
        log_error("cannot start: %s", uv_strerror(r));
        return r;
    }
    return listen_all(daemon);
}

static int run(struct daemon *daemon)
{
    int r = uv_loop_init(&daemon->uv);

    if (r < 0) {
        log_error("cannot make an event loop: %s", uv_strerror(r));
        return EXIT_FAILURE;
    }
    (void)loop_init(&daemon->loop, &daemon->uv);
    r = start(daemon);
    if (r >= 0) {
        daemon->state = RUNNING;
        (void)uv_run(&daemon->uv, UV_RUN_DEFAULT);
    } else {
        close_all(daemon);
    }
    daemon->server = server_free(daemon->server);
    loop_deinit(&daemon->loop);
    (void)uv_run(&daemon->uv, UV_RUN_DEFAULT);
    daemon->stock = stock_service_free(daemon->stock);
    (void)uv_loop_close(&daemon->uv);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static struct daemon daemon;
    struct arguments arguments = {0};
    int r;

    log_open_standard_files();
    r = read_arguments(argc, argv, &arguments);
    if (r >= 0)
        return r;
    log_open("stockd");
    (void)signal(SIGPIPE, SIG_IGN); /* libuv does not pass MSG_NOSIGNAL */
    r = configure(&daemon, argc, argv, &arguments);
    if (r == 0 && arguments.dump)
        r = dump(&daemon.config);
    else if (r == 0 && !arguments.check) {
        log_set_level(daemon.settings.log.level);
        log_never_wait();
        r = run(&daemon);
    }
    config_deinit(&daemon.config);
    return r;
}
