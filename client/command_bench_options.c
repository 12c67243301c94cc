#include "client/command_bench_options.h"

#include "base/util.h"
#include "client/subscribe_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 20000,
    WINDOW_MIN = 4096, /* so that every message fits, or a slow call would wait for ever */
    QUEUE_MAX = 1000000000,
};

/* What is read through the table below. */
struct values {
    uint64_t calls;
    uint64_t connections;
    double rate;
    uint64_t duration_ms;
    uint64_t slow_delay_ms;
    uint64_t window;
    uint64_t max_queue;
    uint64_t min_interval_ms;
    uint64_t heartbeat_ms;
};

static const struct config_setting table[] = {
    OPTIONS_SETTING("calls", CONFIG_COUNT, calls, "1", 1, BENCH_CALLS_MAX,
                    "Calls that are open at a time"),
    OPTIONS_SETTING("connections", CONFIG_COUNT, connections, "1", 1, CONNECTIONS_MAX,
                    "Connections"),
    OPTIONS_SETTING("rate", CONFIG_NUMBER, rate, "0", 0, 1e6, "Calls that begin in a second"),
    OPTIONS_SETTING("duration", CONFIG_DURATION, duration_ms, "10s", 1, OPTIONS_DAYS_MS(1),
                    "How long to measure"),
    OPTIONS_SETTING("slow-delay", CONFIG_DURATION, slow_delay_ms, "100ms", 1, OPTIONS_DAYS_MS(1),
                    "Wait of a slow call before each message"),
    OPTIONS_SETTING("window", CONFIG_SIZE, window, "65535", WINDOW_MIN, OPTIONS_WINDOW_MAX,
                    "Window of each call"),
    OPTIONS_SETTING("max-queue", CONFIG_COUNT, max_queue, "0", 0, QUEUE_MAX,
                    "Updates that may wait"),
    OPTIONS_SETTING("min-interval", CONFIG_DURATION, min_interval_ms, "0", 0, OPTIONS_DAYS_MS(1),
                    "Time between two updates of a ticker"),
    OPTIONS_SETTING("heartbeat", CONFIG_DURATION, heartbeat_ms, "0", 0, OPTIONS_DAYS_MS(1),
                    "Silence after which a heartbeat is wanted"),
};

struct reader {
    struct options_reader base;
    struct bench_options *options;
    struct values values;
    const char *stages;
    const char *not_with_stages; /* an option that was given, or NULL */
    const char *subscribe_only;  /* the same */
    Stockservice__SlowPolicy policy;
    bool snapshot;
};

enum {
    OPTION_METHOD = OPTIONS_OWN,
    OPTION_STAGES,
    OPTION_SLOW,
    OPTION_POLICY,
    OPTION_SNAPSHOT,
    OPTION_NO_PROGRESS,
    OPTION_VALUE, /* those whose name is a key of the table */
};

static const struct option own_options[] = {
    {"calls", required_argument, NULL, 'n'},
    {"connections", required_argument, NULL, 'c'},
    {"duration", required_argument, NULL, 't'},
    {"window", required_argument, NULL, 'w'},
    {"output", required_argument, NULL, 'o'},
    {"method", required_argument, NULL, OPTION_METHOD},
    {"stages", required_argument, NULL, OPTION_STAGES},
    {"slow", required_argument, NULL, OPTION_SLOW},
    {"policy", required_argument, NULL, OPTION_POLICY},
    {"snapshot", no_argument, NULL, OPTION_SNAPSHOT},
    {"no-progress", no_argument, NULL, OPTION_NO_PROGRESS},
    {"rate", required_argument, NULL, OPTION_VALUE},
    {"slow-delay", required_argument, NULL, OPTION_VALUE},
    {"max-queue", required_argument, NULL, OPTION_VALUE},
    {"min-interval", required_argument, NULL, OPTION_VALUE},
    {"heartbeat", required_argument, NULL, OPTION_VALUE},
    {NULL, 0, NULL, 0},
};

const char bench_usage[] =
    "Usage: stock-client bench [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "Subscribe many times to the server at ADDRESS, " TARGET_DEFAULT " by default, and tell how\n"
    "late its updates come, how many, what is lost on the way, and how equal calls share.\n"
    "\n"
    "  -n, --calls N         calls that are open at a time (1)\n"
    "  -c, --connections N   connections that they share (1)\n"
    "  -t, --duration TIME   measure for TIME once all calls have begun (10s)\n"
    "      --rate N          begin N calls a second (0: all at once)\n"
    "      --stages STAGES   instead: TIME:CALLS,..., in each TIME go from the calls that are\n"
    "                        open to CALLS, such as 10s:100,30s:1000,10s:0\n"
    "      --slow PERCENT    so many of the calls are slow, such as 25% (0)\n"
    "      --slow-delay TIME they wait for TIME before each message (100ms)\n"
    "      --method METHOD   subscribe (the default) or get-updates\n"
    "      --policy POLICY   block (the default), conflate, drop-oldest or disconnect\n"
    "      --max-queue N     updates that may wait, with drop-oldest and disconnect\n"
    "      --min-interval TIME  at most one update of each ticker in TIME\n"
    "      --snapshot        begin with the last value of each ticker\n"
    "      --heartbeat TIME  have the server speak after TIME of silence\n"
    "  -w, --window BYTES    let the server be so far ahead of each call (65535)\n"
    "  -o, --output FORMAT   print the result as text (the default), json or csv\n"
    "      --no-progress     show no progress, though standard error is a terminal\n" OPTIONS_USAGE
    "\n"
    "An interrupt (^C) ends it with the results so far. Exit codes: 0 done, 1 a call failed or\n"
    "updates are missing, 2 wrong usage, 3 no connection, 130 interrupted.\n";

static void read_slow(struct reader *reader, const char *text)
{
    double percent;
    char *end;

    errno = 0;
    percent = strtod(text, &end);
    if (*end == '%')
        end++;
    if (end == text || *end || errno || !(percent >= 0 && percent <= 100))
        options_complain(&reader->base, "--slow", "this is no part of a hundred, such as 25%");
    else
        reader->options->run.slow_percent = percent;
}

static void read_method(struct reader *reader, const char *text)
{
    bool subscribe = strcmp(text, "subscribe") == 0;

    if (!subscribe && strcmp(text, "get-updates") != 0)
        options_complain(&reader->base, "--method",
                         "the method is neither subscribe nor get-updates");
    reader->options->run.call.subscribe = subscribe;
}

static void read_policy(struct reader *reader, const char *text)
{
    if (!subscribe_policy_from_name(text, &reader->policy))
        options_complain(&reader->base, "--policy", SUBSCRIBE_POLICY_WRONG);
}

/* Those whose value is of the table. */
static int read_value(struct reader *reader, const char *name)
{
    static const char *const of_subscribe[] = {"--max-queue", "--min-interval", "--heartbeat"};
    static const char *const of_simple[] = {"--calls", "--duration", "--rate"};

    for (size_t i = 0; i < ELEMENTSOF(of_subscribe); i++)
        if (strcmp(name, of_subscribe[i] + 2) == 0)
            reader->subscribe_only = of_subscribe[i];
    for (size_t i = 0; i < ELEMENTSOF(of_simple); i++)
        if (strcmp(name, of_simple[i] + 2) == 0)
            reader->not_with_stages = of_simple[i];
    return options_set(&reader->base, name, optarg);
}

static int read_option(struct options_reader *base, int option, const char *name)
{
    struct reader *reader = container_of(base, struct reader, base);
    struct bench_options *options = reader->options;

    switch (option) {
    case 'n':
        return read_value(reader, "calls");
    case 'c':
        return read_value(reader, "connections");
    case 't':
        return read_value(reader, "duration");
    case 'w':
        return read_value(reader, "window");
    case OPTION_VALUE:
        return read_value(reader, name);
    case 'o':
        options_read_format(base, &options->format);
        return 0;
    case OPTION_METHOD:
        read_method(reader, optarg);
        return 0;
    case OPTION_STAGES:
        reader->stages = optarg;
        return 0;
    case OPTION_SLOW:
        read_slow(reader, optarg);
        return 0;
    case OPTION_POLICY:
        reader->subscribe_only = "--policy";
        read_policy(reader, optarg);
        return 0;
    case OPTION_SNAPSHOT:
        reader->subscribe_only = "--snapshot";
        reader->snapshot = true;
        return 0;
    default: /* --no-progress */
        options->run.show_progress = false;
        return 0;
    }
}

/* Packs what is asked for. 0 or -ENOMEM. */
static int make_request(struct reader *reader)
{
    const struct values *values = &reader->values;
    struct bench_call_options *call = &reader->options->run.call;
    Stockservice__SubscribeRequest request = STOCKSERVICE__SUBSCRIBE_REQUEST__INIT;

    request.n_tickers = reader->base.ticker_count;
    request.tickers = reader->base.tickers;
    request.policy = reader->policy;
    request.max_queue = (uint32_t)values->max_queue;
    request.min_interval_ms = (uint32_t)values->min_interval_ms;
    request.heartbeat_ms = (uint32_t)values->heartbeat_ms;
    request.snapshot = reader->snapshot;
    if (!call->subscribe)
        call->request = client_call_get_updates;
    else if (client_call_pack(&call->request, &reader->options->request_bytes, SUBSCRIBE_PATH,
                              &request.base) < 0)
        return -ENOMEM;
    call->merged = reader->policy == STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_CONFLATE ||
                   values->min_interval_ms > 0;
    call->whole = reader->base.ticker_count == 0;
    return 0;
}

/* What fits together, and what does not. 0 or -ENOMEM. */
static int check(struct reader *reader)
{
    struct bench_run_options *run = &reader->options->run;
    char error[BENCH_SCHEDULE_ERROR_MAX];
    int r = 0;

    if (!run->call.subscribe && reader->base.ticker_count > 0)
        options_complain(&reader->base, reader->base.tickers[0],
                         "get-updates has no tickers to choose from");
    if (reader->subscribe_only && !run->call.subscribe)
        options_complain(&reader->base, reader->subscribe_only,
                         "that is for subscribe, not for get-updates");
    if (reader->stages && reader->not_with_stages)
        options_complain(&reader->base, reader->not_with_stages,
                         "cannot be given together with --stages");
    if (reader->stages)
        r = bench_schedule_parse(&run->schedule, reader->stages, error);
    else
        bench_schedule_simple(&run->schedule, (uint32_t)reader->values.calls, reader->values.rate,
                              reader->values.duration_ms);
    if (r == -EINVAL) {
        options_complain(&reader->base, "--stages", error);
        return 0;
    }
    if (r == 0 && !reader->base.wrong &&
        run->connections > bench_schedule_calls_max(&run->schedule))
        options_complain(&reader->base, "--connections", "there are more of them than calls");
    return r;
}

static int read_arguments(struct reader *reader, int argc, char *argv[])
{
    struct bench_run_options *run = &reader->options->run;
    int r = options_read(&reader->base, argc, argv);

    if (r != OPTIONS_RUN)
        return r;
    run->connections = (uint32_t)reader->values.connections;
    run->window = reader->values.window;
    run->call.slow_delay_ms = reader->values.slow_delay_ms;
    r = make_request(reader);
    if (r == 0)
        r = check(reader);
    return r < 0 ? r : options_conclude(&reader->base);
}

int bench_options_read(struct bench_options *ret_options, int argc, char *argv[])
{
    struct connect_options *connect = &ret_options->run.connect;
    struct reader reader = {
        .base = {.command = "bench",
                 .usage = bench_usage,
                 .letters = "",
                 .own = own_options,
                 .connect = connect,
                 .read = read_option},
        .options = ret_options,
    };
    int r;

    *ret_options = (struct bench_options){
        .run = {.call = {.subscribe = true}, .show_progress = isatty(STDERR_FILENO)},
    };
    r = options_init(&reader.base, table, ELEMENTSOF(table), &reader.values);
    if (r == 0)
        r = read_arguments(&reader, argc, argv);
    ret_options->run.call.scheme = connect->tls_wanted ? "https" : "http";
    ret_options->run.call.authority = connect->target.authority;
    options_deinit(&reader.base);
    return r;
}

void bench_options_deinit(struct bench_options *options)
{
    options->run.connect.tls.credentials = credentials_unref(options->run.connect.tls.credentials);
    free(TAKE_PTR(options->request_bytes));
}
