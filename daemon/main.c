/*
 * stockd: wiring, signals, and the states of the program:
 *
 *     STARTING -> RUNNING -> DRAINING -> STOPPING -> HURRYING
 *
 * DRAINING: clients know that they should go, calls go on. STOPPING: calls are ended, and clients
 * take what is left. HURRYING: whatever is left is closed. A signal goes a state further, and so
 * does the time for each.
 */
#include "arguments.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "families.h"
#include "listeners.h"
#include "rpc/server.h"
#include "services/health.h"
#include "services/reflection.h"
#include "services/stock.h"
#include "settings.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

/* Descriptors that connections may not use: the loop's own, listeners, scrapers, files. */
#define DESCRIPTORS_RESERVED 128

enum state {
    STARTING,
    RUNNING,
    DRAINING,
    STOPPING,
    HURRYING,
};

static const char *const service_names[] = {
    "",
    "stockservice.StockService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
};

#define METHODS (1 + HEALTH_METHODS + REFLECTION_METHODS)

struct daemon {
    enum state state;
    struct config config;
    struct settings settings;
    uv_loop_t uv;
    struct loop loop;
    struct stock_service *stock;
    struct health_service *health;
    struct reflection_service *reflection;
    const struct method *methods[METHODS];
    struct server *server;
    struct listeners listeners;
    struct families_context families;
    uv_signal_t signals[3];
    struct loop_task drain_task;
};

/* ---- Start ---- */

/* 0, or the code to exit with. */
static int configure(struct daemon *daemon, int argc, char **argv,
                     const struct arguments *arguments)
{
    struct config *config = &daemon->config;
    size_t faults;
    int r = config_init(config, settings_table, settings_table_count, &daemon->settings);

    if (r >= 0)
        r = settings_load(config, arguments->config_file, arguments->instance);
    faults = config->faults.count;
    if (r >= 0)
        r = arguments_apply(argc, argv, config);
    for (size_t i = 0; i < config->faults.count; i++)
        log_error("%s", config->faults.text[i]);
    if (r < 0 || config->faults.out_of_memory) {
        log_error("reading the configuration: %s", uv_strerror(UV_ENOMEM));
        return EXIT_FAILURE;
    }
    if (faults > 0)
        return EXIT_CONFIGURATION;
    if (config->faults.count > 0)
        return EXIT_USAGE;
    if (arguments->dump)
        return 0;
    r = listeners_load(&daemon->listeners, &daemon->settings);
    if (r == -ENOMEM)
        log_error("reading the configuration: %s", uv_strerror(UV_ENOMEM));
    return r == -ENOMEM ? EXIT_FAILURE : r < 0 ? EXIT_CONFIGURATION : 0;
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

static int make_stock(struct daemon *daemon)
{
    const struct settings *settings = &daemon->settings;
    struct stock_options options = {
        .ticker = settings->stream.ticker,
        .start_price = settings->stream.start_price,
        .interval_ms = settings->stream.interval_ms,
        .initial_delay_ms = settings->stream.initial_delay_ms,
        .seed = choose_seed(&settings->stream.seed),
        .compress = settings->grpc.compress_updates,
    };

    return stock_service_new(&daemon->stock, &daemon->loop, &options);
}

static int make_services(struct daemon *daemon)
{
    const struct method **method = daemon->methods;
    int r = make_stock(daemon);

    if (r >= 0)
        r = health_service_new(&daemon->health, service_names, ELEMENTSOF(service_names));
    /* The name of the whole server is no service to reflect. */
    if (r >= 0)
        r = reflection_service_new(&daemon->reflection, service_names + 1,
                                   ELEMENTSOF(service_names) - 1);
    if (r < 0)
        return r;
    *method++ = stock_service_get_updates(daemon->stock);
    for (unsigned i = 0; i < HEALTH_METHODS; i++)
        *method++ = health_service_method(daemon->health, i);
    for (unsigned i = 0; i < REFLECTION_METHODS; i++)
        *method++ = reflection_service_method(daemon->reflection, i);
    return 0;
}

static int make_server(struct daemon *daemon)
{
    const struct settings *settings = &daemon->settings;
    struct server_options options = {
        .methods = {daemon->methods, ELEMENTSOF(daemon->methods)},
        .max_connections = settings->grpc.max_connections,
        .max_streams_total = settings->grpc.max_streams_total,
        .max_message_bytes = (uint32_t)settings->grpc.max_message_bytes,
        .request_timeout_ms = settings->grpc.request_timeout_ms,
        .handshake_timeout_ms = settings->tls.handshake_timeout_ms,
        .connection =
            {
                .max_streams = (uint32_t)settings->grpc.max_streams,
                .max_header_bytes = (uint32_t)settings->grpc.max_header_bytes,
                .preface_timeout_ms = settings->grpc.preface_timeout_ms,
                .keepalive_time_ms = settings->grpc.keepalive_time_ms,
                .keepalive_timeout_ms = settings->grpc.keepalive_timeout_ms,
                .ping_min_ms = settings->grpc.min_ping_interval_ms,
                .ping_min_idle_ms = settings->grpc.min_ping_interval_idle_ms,
                .idle_max_ms = settings->grpc.max_idle_ms,
                .age_max_ms = settings->grpc.max_age_ms,
                .age_grace_ms = settings->grpc.max_age_grace_ms,
                .stall_timeout_ms = settings->grpc.stall_timeout_ms,
            },
        .allow = settings->access.allow.ranges,
        .allow_count = settings->access.allow.count,
        .allow_names = settings->access.allow_names.names,
        .allow_name_count = settings->access.allow_names.count,
        .max_connections_per_address = (uint32_t)settings->access.max_connections_per_address,
    };
    int r = server_new(&daemon->server, &daemon->loop, &options);

    daemon->families =
        (struct families_context){&daemon->loop, daemon->server, daemon->stock, &daemon->listeners};
    return r;
}

static int listen_all(struct daemon *daemon)
{
    struct exporter_options options = {
        .program = "stockd",
        .version = STOCKD_VERSION,
        .render = render,
        .ready = is_ready,
        .context = daemon,
    };

    return listeners_open(&daemon->listeners, daemon->server, &daemon->uv, &options);
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
    listeners_close(&daemon->listeners);
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

static void stop(struct daemon *daemon)
{
    const struct connection_stats *stats = server_connection_stats(daemon->server);

    log_info("ending %llu streams on %llu connections", (unsigned long long)stats->streams,
             (unsigned long long)stats->connections);
    loop_cancel(&daemon->loop, &daemon->drain_task);
    daemon->state = STOPPING;
    server_stop(daemon->server, daemon->settings.grpc.shutdown_timeout_ms, on_stopped, daemon);
}

static void on_drained(void *context)
{
    stop(context);
}

static void on_drain(struct loop_task *task)
{
    struct daemon *daemon = container_of(task, struct daemon, drain_task);

    server_drain(daemon->server, daemon->settings.grpc.drain_timeout_ms, on_drained, daemon);
}

/* First of all balancers are told, so that they look for another server while this one still
 * answers. The rest comes behind the flush of that, or GOAWAY, which goes before all DATA of its
 * connection, would overtake it. */
static void drain(struct daemon *daemon)
{
    daemon->state = DRAINING;
    health_service_shutdown(daemon->health);
    daemon->drain_task.run = on_drain;
    loop_queue(&daemon->loop, &daemon->drain_task);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *daemon = handle->data;

    if (number == SIGHUP) {
        if (daemon->state == RUNNING)
            listeners_reload(&daemon->listeners);
        return;
    }
    /* Whoever asks twice does not want to wait. */
    switch (daemon->state) {
    case RUNNING:
        log_info("%s: stopping", strsignal(number));
        drain(daemon);
        break;
    case DRAINING:
        stop(daemon);
        break;
    case STOPPING:
        daemon->state = HURRYING;
        server_hurry(daemon->server);
        break;
    default:
        break;
    }
}

static int watch_signals(struct daemon *daemon)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};

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
        r = make_server(daemon);
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
        health_service_set(daemon->health, NULL, HEALTH_SERVING);
        (void)uv_run(&daemon->uv, UV_RUN_DEFAULT);
    } else {
        close_all(daemon);
    }
    daemon->server = server_free(daemon->server);
    loop_deinit(&daemon->loop);
    (void)uv_run(&daemon->uv, UV_RUN_DEFAULT);
    daemon->reflection = reflection_service_free(daemon->reflection);
    daemon->health = health_service_free(daemon->health);
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
    r = arguments_read(argc, argv, &arguments);
    if (r >= 0)
        return r;
    log_open("stockd");
    (void)signal(SIGPIPE, SIG_IGN); /* libuv does not pass MSG_NOSIGNAL */
    (void)signal(SIGHUP, SIG_IGN);  /* a reload that comes before there is anything to reload */
    r = configure(&daemon, argc, argv, &arguments);
    if (r == 0 && arguments.dump)
        r = dump(&daemon.config);
    else if (r == 0 && !arguments.check) {
        log_set_level(daemon.settings.log.level);
        log_never_wait();
        r = run(&daemon);
    }
    listeners_close(&daemon.listeners);
    config_deinit(&daemon.config);
    return r;
}
