#include "client/command_bench_options.h"

#include "base/util.h"
#include "client/subscribe_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define SECTION "bench"

enum {
    CONNECTIONS_MAX = 20000,
    WINDOW_MIN = 4096, /* so that every message fits, or a slow call would wait for ever */
    WINDOW_MAX = 0x7fffffff,
    QUEUE_MAX = 1000000000,
};

/* gRPC's clients have it, so that no server is bothered more often. */
#define KEEPALIVE_MIN_MS 10000
#define DAYS_MS(days) ((days)*86400e3)

/* What is read through the table below. */
struct values {
    uint64_t calls;
    uint64_t connections;
    double rate;
    uint64_t duration_ms;
    uint64_t slow_delay_ms;
    uint64_t window;
    uint64_t keepalive_ms;
    uint64_t max_queue;
    uint64_t min_interval_ms;
    uint64_t heartbeat_ms;
};

#define SETTING(key, type, member, initial, minimum, maximum, help)                                \
    {                                                                                              \
        SECTION, (key), (type), CONFIG_RESTART, offsetof(struct values, member), (initial),        \
            (minimum), (maximum), (help)                                                           \
    }

static const struct config_setting table[] = {
    SETTING("calls", CONFIG_COUNT, calls, "1", 1, BENCH_CALLS_MAX, "Calls that are open at a time"),
    SETTING("connections", CONFIG_COUNT, connections, "1", 1, CONNECTIONS_MAX, "Connections"),
    SETTING("rate", CONFIG_NUMBER, rate, "0", 0, 1e6, "Calls that begin in a second"),
    SETTING("duration", CONFIG_DURATION, duration_ms, "10s", 1, DAYS_MS(1), "How long to measure"),
    SETTING("slow-delay", CONFIG_DURATION, slow_delay_ms, "100ms", 1, DAYS_MS(1),
            "Wait of a slow call before each message"),
    SETTING("window", CONFIG_SIZE, window, "65535", WINDOW_MIN, WINDOW_MAX, "Window of each call"),
    SETTING("keepalive", CONFIG_DURATION, keepalive_ms, "0", 0, DAYS_MS(30),
            "Silence after which the server gets a PING"),
    SETTING("max-queue", CONFIG_COUNT, max_queue, "0", 0, QUEUE_MAX, "Updates that may wait"),
    SETTING("min-interval", CONFIG_DURATION, min_interval_ms, "0", 0, DAYS_MS(1),
            "Time between two updates of a ticker"),
    SETTING("heartbeat", CONFIG_DURATION, heartbeat_ms, "0", 0, DAYS_MS(1),
            "Silence after which a heartbeat is wanted"),
};

struct reader {
    struct bench_options *options;
    struct config config;
    struct values values;
    const char *server_name;
    const char *stages;
    const char *not_with_stages; /* an option that was given, or NULL */
    const char *subscribe_only;  /* the same */
    Stockservice__SlowPolicy policy;
    bool snapshot;
    bool wrong;
};

enum {
    OPTION_METHOD = 256,
    OPTION_STAGES,
    OPTION_SLOW,
    OPTION_POLICY,
    OPTION_SNAPSHOT,
    OPTION_TLS,
    OPTION_CACERT,
    OPTION_CERT,
    OPTION_KEY,
    OPTION_SERVER_NAME,
    OPTION_INSECURE,
    OPTION_NO_PROGRESS,
    OPTION_VALUE, /* those whose name is a key of the table */
};

static const struct option long_options[] = {
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
    {"keepalive", required_argument, NULL, OPTION_VALUE},
    {"max-queue", required_argument, NULL, OPTION_VALUE},
    {"min-interval", required_argument, NULL, OPTION_VALUE},
    {"heartbeat", required_argument, NULL, OPTION_VALUE},
    {"tls", no_argument, NULL, OPTION_TLS},
    {"cacert", required_argument, NULL, OPTION_CACERT},
    {"cert", required_argument, NULL, OPTION_CERT},
    {"key", required_argument, NULL, OPTION_KEY},
    {"server-name", required_argument, NULL, OPTION_SERVER_NAME},
    {"insecure", no_argument, NULL, OPTION_INSECURE},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
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
    "      --no-progress     show no progress, though standard error is a terminal\n"
    "      --keepalive TIME  ping a server that is silent for TIME, 10s or more\n"
    "  -v, --verbose         tell more on standard error\n"
    "  -h, --help            print this help, and stop\n"
    "  -V, --version         print the version, and stop\n"
    "\n"
    "Each of these connects with TLS:\n"
    "      --tls             trust the authorities that this system trusts\n"
    "      --cacert FILE     trust the authorities in FILE instead\n"
    "      --cert FILE       show the server the certificate in FILE\n"
    "      --key FILE        its private key\n"
    "      --server-name NAME  the certificate must be for NAME, not for the address\n"
    "      --insecure        take any certificate, from anybody\n"
    "\n"
    "An interrupt (^C) ends it with the results so far. Exit codes: 0 done, 1 a call failed or\n"
    "updates are missing, 2 wrong usage, 3 no connection, 130 interrupted.\n";

static void complain(struct reader *reader, const char *option, const char *why)
{
    reader->wrong = true;
    (void)fprintf(stderr, "stock-client: bench: %s: %s\n", option, why);
}

/* 0 or -ENOMEM. */
static int set(struct reader *reader, const char *key, const char *text)
{
    size_t faults = reader->config.faults.count;
    char option[32];
    char prefix[128];
    int size;
    int r;

    (void)snprintf(option, sizeof(option), "--%s", key);
    size = snprintf(prefix, sizeof(prefix), "%s: %s.%s: ", option, SECTION, key);
    r = config_set(&reader->config, SECTION, key, text, option);
    if (r == 0 && reader->config.faults.count > faults) {
        const char *fault = reader->config.faults.text[faults];

        complain(reader, option, strncmp(fault, prefix, (size_t)size) == 0 ? fault + size : fault);
    }
    return r;
}

static void read_slow(struct reader *reader, const char *text)
{
    double percent;
    char *end;

    errno = 0;
    percent = strtod(text, &end);
    if (*end == '%')
        end++;
    if (end == text || *end || errno || !(percent >= 0 && percent <= 100))
        complain(reader, "--slow", "this is no part of a hundred, such as 25%");
    else
        reader->options->run.slow_percent = percent;
}

static void read_method(struct reader *reader, const char *text)
{
    bool subscribe = strcmp(text, "subscribe") == 0;

    if (!subscribe && strcmp(text, "get-updates") != 0)
        complain(reader, "--method", "the method is neither subscribe nor get-updates");
    reader->options->run.call.subscribe = subscribe;
}

static void read_policy(struct reader *reader, const char *text)
{
    if (!subscribe_policy_from_name(text, &reader->policy))
        complain(reader, "--policy", SUBSCRIBE_POLICY_WRONG);
}

/* An empty file name would count as none, and so, with --cacert, trust others than were meant. */
static void read_file_name(struct reader *reader, const char **ret, const char *option)
{
    if (!*optarg)
        complain(reader, option, "there is no file name");
    *ret = optarg;
}

/* Each of them says that TLS is wanted. */
static void read_tls_option(struct reader *reader, int option)
{
    struct bench_options *options = reader->options;

    options->tls = true;
    switch (option) {
    case OPTION_CACERT:
        read_file_name(reader, &options->credentials.ca, "--cacert");
        break;
    case OPTION_CERT:
        read_file_name(reader, &options->credentials.certificate, "--cert");
        break;
    case OPTION_KEY:
        read_file_name(reader, &options->credentials.key, "--key");
        break;
    case OPTION_SERVER_NAME:
        reader->server_name = optarg;
        break;
    case OPTION_INSECURE:
        options->run.tls.insecure = true;
        break;
    default: /* --tls */
        break;
    }
}

static void read_format(struct reader *reader, const char *text)
{
    int format = print_format_from_name(text);

    if (format < 0)
        complain(reader, "--output", "the format is none of text, json and csv");
    else
        reader->options->format = (enum print_format)format;
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
    return set(reader, name, optarg);
}

static int read_option(struct reader *reader, int option, const char *name)
{
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
        read_format(reader, optarg);
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
    case OPTION_NO_PROGRESS:
        options->run.show_progress = false;
        return 0;
    case 'v':
        options->verbose = true;
        return 0;
    case '?':
        reader->wrong = true; /* getopt_long() has said why */
        return 0;
    default:
        read_tls_option(reader, option);
        return 0;
    }
}

/* Packs what is asked for, its prefix included. 0 or -ENOMEM. */
static int make_request(struct reader *reader, int count, char *tickers[])
{
    const struct values *values = &reader->values;
    struct bench_call_options *call = &reader->options->run.call;
    Stockservice__SubscribeRequest request = STOCKSERVICE__SUBSCRIBE_REQUEST__INIT;
    size_t size;

    request.n_tickers = (size_t)count;
    request.tickers = tickers;
    request.policy = reader->policy;
    request.max_queue = (uint32_t)values->max_queue;
    request.min_interval_ms = (uint32_t)values->min_interval_ms;
    request.heartbeat_ms = (uint32_t)values->heartbeat_ms;
    request.snapshot = reader->snapshot;
    size = call->subscribe ? stockservice__subscribe_request__get_packed_size(&request) : 0;
    reader->options->request = malloc(WIRE_PREFIX_SIZE + size);
    if (!reader->options->request)
        return -ENOMEM;
    wire_prefix_write(reader->options->request, (uint32_t)size);
    if (call->subscribe)
        (void)stockservice__subscribe_request__pack(&request,
                                                    reader->options->request + WIRE_PREFIX_SIZE);
    call->request = reader->options->request;
    call->request_size = WIRE_PREFIX_SIZE + size;
    call->merged = reader->policy == STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_CONFLATE ||
                   values->min_interval_ms > 0;
    call->whole = count == 0;
    return 0;
}

static int read_operands(struct reader *reader, int count, char *operands[])
{
    struct target *target = &reader->options->run.target;
    const char *text = TARGET_DEFAULT;
    const char *why;

    if (count > 0 && subscribe_is_address(operands[0])) {
        text = operands[0];
        operands++;
        count--;
    }
    if (target_parse(target, text, &why) < 0)
        complain(reader, text, why);
    else if (reader->server_name && target_rename(target, reader->server_name, &why) < 0)
        complain(reader, "--server-name", why);
    if (!reader->options->run.call.subscribe && count > 0)
        complain(reader, operands[0], "get-updates has no tickers to choose from");
    return make_request(reader, count, operands);
}

/* What fits together, and what does not. 0 or -ENOMEM. */
static int check(struct reader *reader)
{
    const struct credentials_options *credentials = &reader->options->credentials;
    struct bench_run_options *run = &reader->options->run;
    char error[BENCH_SCHEDULE_ERROR_MAX];
    int r = 0;

    if (credentials->certificate && !credentials->key)
        complain(reader, "--cert", "the certificate's private key is missing (--key)");
    if (credentials->key && !credentials->certificate)
        complain(reader, "--key", "the private key's certificate is missing (--cert)");
    if (reader->subscribe_only && !run->call.subscribe)
        complain(reader, reader->subscribe_only, "that is for subscribe, not for get-updates");
    if (reader->stages && reader->not_with_stages)
        complain(reader, reader->not_with_stages, "cannot be given together with --stages");
    if (reader->values.keepalive_ms > 0 && reader->values.keepalive_ms < KEEPALIVE_MIN_MS)
        complain(reader, "--keepalive", "less than 10s would bother the server (0: no keepalive)");
    if (reader->stages)
        r = bench_schedule_parse(&run->schedule, reader->stages, error);
    else
        bench_schedule_simple(&run->schedule, (uint32_t)reader->values.calls, reader->values.rate,
                              reader->values.duration_ms);
    if (r == -EINVAL) {
        complain(reader, "--stages", error);
        return 0;
    }
    if (r == 0 && !reader->wrong && run->connections > bench_schedule_calls_max(&run->schedule))
        complain(reader, "--connections", "there are more of them than calls");
    return r;
}

static int read_arguments(struct reader *reader, int argc, char *argv[])
{
    struct bench_run_options *run = &reader->options->run;
    int index = 0;
    int option;
    int r;

    /* The messages of getopt_long() begin with the program's name. */
    argv[0] = (char *)"stock-client";
    optind = 0;
    while ((option = getopt_long(argc, argv, "n:c:t:w:o:vhV", long_options, &index)) != -1) {
        if (option == 'h') {
            (void)fputs(bench_usage, stdout);
            return OPTIONS_DONE;
        }
        if (option == 'V') {
            (void)puts("stock-client " STOCKD_VERSION);
            return OPTIONS_DONE;
        }
        r = read_option(reader, option, long_options[index].name);
        if (r < 0)
            return r;
    }
    run->connections = (uint32_t)reader->values.connections;
    run->window = reader->values.window;
    run->keepalive_ms = reader->values.keepalive_ms;
    run->call.slow_delay_ms = reader->values.slow_delay_ms;
    r = read_operands(reader, argc - optind, argv + optind);
    if (r == 0)
        r = check(reader);
    if (r < 0)
        return r;
    return reader->wrong ? OPTIONS_WRONG : OPTIONS_RUN;
}

int bench_options_read(struct bench_options *ret_options, int argc, char *argv[])
{
    struct reader reader = {.options = ret_options};
    int r;

    *ret_options = (struct bench_options){
        .credentials.client = true,
        .run = {.call = {.subscribe = true}, .show_progress = isatty(STDERR_FILENO)},
    };
    r = config_init(&reader.config, table, ELEMENTSOF(table), &reader.values);
    if (r == 0)
        r = read_arguments(&reader, argc, argv);
    ret_options->run.call.scheme = ret_options->tls ? "https" : "http";
    ret_options->run.call.authority = ret_options->run.target.authority;
    config_deinit(&reader.config);
    if (r == OPTIONS_WRONG)
        (void)fputs("Try 'stock-client bench --help'.\n", stderr);
    return r;
}

void bench_options_deinit(struct bench_options *options)
{
    options->run.tls.credentials = credentials_unref(options->run.tls.credentials);
    free(TAKE_PTR(options->request));
}
