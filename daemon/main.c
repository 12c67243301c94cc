/*
 * stockd: wiring, signals, and the states of the program:
 *
 *     STARTING -> RUNNING -> DRAINING -> STOPPING -> HURRYING
 *
 * DRAINING: clients know that they should go, calls go on. STOPPING: calls are ended, and clients
 * take what is left. HURRYING: whatever is left is closed. A signal goes a state further, and so
 * does the time for each.
 *
 * What the program is told from outside is one object, the configuration. Another takes its place
 * when a signal asks for it and nothing is wrong with it; where it listens stays as it was.
 */
#include "arguments.h"
#include "base/events.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/systemd.h"
#include "base/util.h"
#include "configuration.h"
#include "exchange.h"
#include "families.h"
#include "listeners.h"
#include "manager.h"
#include "rpc/server.h"
#include "services/health.h"
#include "services/reflection.h"
#include "services/stock.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define EXIT_UNAVAILABLE 69 /* EX_UNAVAILABLE of sysexits.h: cannot listen */

enum state {
    STARTING,
    RUNNING,
    DRAINING,
    STOPPING,
    HURRYING,
};

/* What the health service calls the market; no service of gRPC's. */
#define MARKET_NAME "market"

/* The whole server and the market first, as they are no services to reflect. */
#define NOT_REFLECTED 2
static const char *const service_names[] = {
    "",
    MARKET_NAME,
    "stockservice.StockService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
};

#define METHODS (1 + MARKET_SERVICE_METHODS + HEALTH_METHODS + REFLECTION_METHODS)

struct daemon {
    enum state state;
    struct configuration_source source;
    struct configuration *started; /* it says where we listen */
    struct configuration *current; /* in force; at first the same */
    uv_loop_t uv;
    struct loop loop;
    struct stock_service *stock;
    struct exchange exchange;
    struct health_service *health;
    struct reflection_service *reflection;
    const struct method *methods[METHODS];
    struct server *server;
    struct listeners listeners;
    struct families_context families;
    struct manager manager;
    uv_signal_t signals[3];
    struct loop_task drain_task;
    struct loop_task reload_task;
};

/* ---- Start ---- */

static void log_start_failed(const char *what, int error)
{
    log_event(LOG_ERR, log_fields(LOG_EVENT(START_FAILED), {"STOCKD_ERROR", uv_strerror(error)}),
              "%s: %s", what, uv_strerror(error));
}

static int take_sockets(struct configuration_source *source)
{
    char error[SYSTEMD_ERROR_MAX];
    int r = systemd_sockets_take(&source->sockets, error);

    if (r != -EINVAL)
        return r;
    log_event(LOG_ERR, log_fields(LOG_EVENT(CONFIGURATION_FAULT)), "%s", error);
    return CONFIGURATION_WRONG;
}

/* 0, or the code to exit with. */
static int configure(struct daemon *daemon)
{
    struct configuration_source *source = &daemon->source;
    int r = configuration_read(&daemon->current, source);

    if (r == 0 && !source->arguments.dump)
        r = take_sockets(source);
    if (r == 0 && !source->arguments.dump)
        r = configuration_complete(daemon->current, source, NULL, NULL);
    daemon->started = daemon->current;
    if (r < 0)
        log_start_failed("reading the configuration", r);
    return r < 0                              ? EXIT_FAILURE
           : r == CONFIGURATION_WRONG         ? EXIT_CONFIGURATION
           : r == CONFIGURATION_WRONG_OPTIONS ? EXIT_USAGE
                                              : 0;
}

static int dump(const struct config *config)
{
    int r = config_dump(config, STDOUT_FILENO);

    if (r < 0)
        log_start_failed("cannot write to standard output", r);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
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

/* Of the state in which the program is: until it runs, and when it drains, nothing serves. */
static void tell_market_health(struct daemon *daemon)
{
    if (daemon->state == RUNNING)
        health_service_set(daemon->health, MARKET_NAME,
                           exchange_is_live(&daemon->exchange) ? HEALTH_SERVING
                                                               : HEALTH_NOT_SERVING);
}

static void on_feed_changed(void *context)
{
    tell_market_health(context);
}

/* 0, EXCHANGE_WRONG, or a negative errno. */
static int make_services(struct daemon *daemon)
{
    const struct exchange_options exchange = {
        .loop = &daemon->loop,
        .configuration = daemon->started,
        .changed = on_feed_changed,
        .context = daemon,
    };
    const struct stock_options options = configuration_stock_options(daemon->current);
    const struct method **method = daemon->methods;
    int r = stock_service_new(&daemon->stock, &daemon->loop, &options);

    if (r >= 0)
        r = health_service_new(&daemon->health, service_names, ELEMENTSOF(service_names));
    if (r >= 0)
        r = reflection_service_new(&daemon->reflection, service_names + NOT_REFLECTED,
                                   ELEMENTSOF(service_names) - NOT_REFLECTED);
    if (r >= 0)
        r = exchange_init(&daemon->exchange, &exchange);
    if (r != 0)
        return r;
    *method++ = stock_service_get_updates(daemon->stock);
    for (unsigned i = 0; i < MARKET_SERVICE_METHODS; i++)
        *method++ = market_service_method(daemon->exchange.service, i);
    for (unsigned i = 0; i < HEALTH_METHODS; i++)
        *method++ = health_service_method(daemon->health, i);
    for (unsigned i = 0; i < REFLECTION_METHODS; i++)
        *method++ = reflection_service_method(daemon->reflection, i);
    return 0;
}

static int make_server(struct daemon *daemon)
{
    struct server_options options = configuration_server_options(daemon->current);
    int r;

    options.methods = (struct method_table){daemon->methods, ELEMENTSOF(daemon->methods)};
    r = server_new(&daemon->server, &daemon->loop, &options);
    daemon->families = (struct families_context){&daemon->loop, daemon->server, daemon->stock,
                                                 &daemon->listeners, &daemon->exchange};
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

    return listeners_open(&daemon->listeners, daemon->started, daemon->server, &daemon->uv,
                          &options);
}

/* Of a walk of a call's own, and of the market. */
static uint64_t updates_sent(const struct daemon *daemon)
{
    return stock_service_updates_sent(daemon->stock) +
           market_service_events_sent(daemon->exchange.service);
}

static struct manager_figures count_for_manager(void *context)
{
    const struct daemon *daemon = context;
    const struct connection_stats *stats = server_connection_stats(daemon->server);
    struct manager_figures figures = {
        .streams = stats->streams,
        .connections = stats->connections,
        .sent_total = updates_sent(daemon),
    };

    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        figures.blocked += stats->blocked[i];
    (void)exchange_trouble(&daemon->exchange, figures.feed);
    return figures;
}

/* ---- Reload ---- */

/* Reads everything anew, and puts it in force if all of it is good; else nothing changes. 0, or as
 * configuration_complete(). */
static int reload(struct daemon *daemon)
{
    struct configuration *old = daemon->current, *new = NULL;
    struct stock_options stock;
    struct server_options server;
    int r;

    daemon->source.again = true;
    r = configuration_read(&new, &daemon->source);
    if (r == 0)
        r = configuration_complete(new, &daemon->source, daemon->started, old);
    if (r == 0) {
        stock = configuration_stock_options(new);
        r = stock_service_configure(daemon->stock, &stock);
    }
    if (r != 0) {
        (void)configuration_free(new);
        return r;
    }
    /* From here on nothing can fail. */
    server = configuration_server_options(new);
    server_configure(daemon->server, &server);
    listeners_configure(&daemon->listeners, new);
    exchange_configure(&daemon->exchange, new);
    daemon->current = new;
    /* What changes is told by the more talkative of the two levels. */
    log_set_level(MAX(old->settings.log.level, new->settings.log.level));
    configuration_log_changes(new, old, daemon->started);
    log_set_level(new->settings.log.level);
    if (old == daemon->started)
        configuration_forget_secrets(old);
    else
        (void)configuration_free(old);
    return 0;
}

static void on_reload(struct loop_task *task)
{
    struct daemon *daemon = container_of(task, struct daemon, reload_task);
    const char *why = NULL;
    int r;

    if (daemon->state != RUNNING)
        return;
    manager_reloading(&daemon->manager);
    r = reload(daemon);
    if (r != 0) {
        why = r < 0 ? "there is no memory" : "the configuration is wrong";
        log_event(LOG_ERR, log_fields(LOG_EVENT(RELOAD_REFUSED)),
                  "not reloaded, everything stays as it was: %s", why);
    }
    manager_reloaded(&daemon->manager, why);
}

/* ---- Stop ---- */

static void log_totals(const struct daemon *daemon)
{
    struct connection_stats *stats = server_connection_stats(daemon->server);
    uint64_t updates = updates_sent(daemon);
    uint64_t calls = stock_service_get_updates(daemon->stock)->stats->started_total +
                     market_service_subscribed(daemon->exchange.service);
    double blocked_s = 0;

    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        blocked_s += (double)connection_stats_blocked_ns(stats, i) / 1e9;
    log_event(LOG_INFO,
              log_fields(LOG_EVENT(STOPPED), {"STOCKD_UPDATES_SENT", log_number(updates)},
                         {"STOCKD_CALLS", log_number(calls)},
                         {"STOCKD_CONNECTIONS", log_number(stats->connections_total)},
                         {"STOCKD_SENT_BYTES", log_number(stats->sent_bytes_total)},
                         {"STOCKD_BLOCKED_MS", log_number((uint64_t)(blocked_s * 1000))}),
              "stopped: %llu updates sent in %llu calls on %llu connections, %llu bytes; streams "
              "were blocked for %.1f s",
              (unsigned long long)updates, (unsigned long long)calls,
              (unsigned long long)stats->connections_total,
              (unsigned long long)stats->sent_bytes_total, blocked_s);
}

/* Closes whatever would keep the loop running; uv_run() returns when all of it is closed. */
static void close_all(struct daemon *daemon)
{
    loop_cancel(&daemon->loop, &daemon->reload_task);
    manager_deinit(&daemon->manager);
    exchange_close(&daemon->exchange);
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
    uint64_t timeout_ms = daemon->current->settings.grpc.shutdown_timeout_ms;

    log_event(LOG_INFO,
              log_fields(LOG_EVENT(ENDING), {"STOCKD_STREAMS", log_number(stats->streams)},
                         {"STOCKD_CONNECTIONS", log_number(stats->connections)}),
              "ending %llu streams on %llu connections", (unsigned long long)stats->streams,
              (unsigned long long)stats->connections);
    loop_cancel(&daemon->loop, &daemon->drain_task);
    daemon->state = STOPPING;
    manager_stopping(&daemon->manager, "ending streams", timeout_ms);
    server_stop(daemon->server, timeout_ms, on_stopped, daemon);
}

static void on_drained(void *context)
{
    stop(context);
}

static void on_drain(struct loop_task *task)
{
    struct daemon *daemon = container_of(task, struct daemon, drain_task);

    server_drain(daemon->server, daemon->current->settings.grpc.drain_timeout_ms, on_drained,
                 daemon);
}

/* First of all balancers are told, so that they look for another server while this one still
 * answers. The rest comes behind the flush of that, or GOAWAY, which goes before all DATA of its
 * connection, would overtake it. */
static void drain(struct daemon *daemon)
{
    daemon->state = DRAINING;
    manager_stopping(&daemon->manager, "draining", daemon->current->settings.grpc.drain_timeout_ms);
    health_service_shutdown(daemon->health);
    loop_queue(&daemon->loop, &daemon->drain_task);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *daemon = handle->data;

    if (number == SIGHUP) {
        loop_queue(&daemon->loop, &daemon->reload_task); /* one, however many signals came */
        return;
    }
    /* Whoever asks twice does not want to wait. */
    switch (daemon->state) {
    case RUNNING:
        log_event(LOG_INFO, log_fields(LOG_EVENT(STOPPING), {"STOCKD_SIGNAL", strsignal(number)}),
                  "%s: stopping", strsignal(number));
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

/* 0, or the code to exit with. */
static int start(struct daemon *daemon)
{
    const struct manager_options manager = {&daemon->loop, count_for_manager, daemon};
    int r;

    log_event(LOG_INFO, log_fields(LOG_EVENT(STARTING), {"STOCKD_VERSION", STOCKD_VERSION}),
              "stockd %s is starting", STOCKD_VERSION);
    configuration_log(daemon->started);
    manager_init(&daemon->manager, &manager);
    daemon->drain_task.run = on_drain;
    daemon->reload_task.run = on_reload;
    r = make_services(daemon);
    if (r == EXCHANGE_WRONG)
        return EXIT_CONFIGURATION;
    if (r >= 0)
        r = make_server(daemon);
    if (r >= 0)
        r = watch_signals(daemon);
    if (r < 0) {
        log_start_failed("cannot start", r);
        return EXIT_FAILURE;
    }
    if (listen_all(daemon) < 0)
        return EXIT_UNAVAILABLE;
    daemon->state = RUNNING;
    health_service_set(daemon->health, NULL, HEALTH_SERVING);
    tell_market_health(daemon);
    log_event(LOG_INFO, log_fields(LOG_EVENT(READY)), "ready");
    manager_ready(&daemon->manager);
    return 0;
}

/* The code to exit with. */
static int run(struct daemon *daemon)
{
    int r = uv_loop_init(&daemon->uv);

    if (r < 0) {
        log_start_failed("cannot make an event loop", r);
        return EXIT_FAILURE;
    }
    (void)loop_init(&daemon->loop, &daemon->uv);
    r = start(daemon);
    if (r == 0)
        (void)uv_run(&daemon->uv, UV_RUN_DEFAULT);
    else
        close_all(daemon);
    daemon->server = server_free(daemon->server);
    loop_deinit(&daemon->loop);
    (void)uv_run(&daemon->uv, UV_RUN_DEFAULT);
    exchange_deinit(&daemon->exchange);
    daemon->reflection = reflection_service_free(daemon->reflection);
    daemon->health = health_service_free(daemon->health);
    daemon->stock = stock_service_free(daemon->stock);
    (void)uv_loop_close(&daemon->uv);
    return r;
}

int main(int argc, char **argv)
{
    static struct daemon daemon;
    struct arguments *arguments = &daemon.source.arguments;
    int r;

    log_open_standard_files();
    r = arguments_read(argc, argv, arguments);
    if (r >= 0)
        return r;
    daemon.source.argc = argc;
    daemon.source.argv = argv;
    log_open("stockd");
    (void)signal(SIGPIPE, SIG_IGN); /* libuv does not pass MSG_NOSIGNAL */
    (void)signal(SIGHUP, SIG_IGN);  /* a reload that comes before there is anything to reload */
    r = configure(&daemon);
    if (r == 0 && arguments->dump)
        r = dump(&daemon.current->config);
    else if (r == 0 && !arguments->check) {
        log_set_level(daemon.current->settings.log.level);
        log_never_wait();
        r = run(&daemon);
    }
    if (daemon.started != daemon.current)
        daemon.started = configuration_free(daemon.started);
    daemon.current = configuration_free(daemon.current);
    free(daemon.source.sockets.sockets);
    log_close();
    return r;
}
