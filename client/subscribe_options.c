/*
 * One table has the options of all commands; which of them a command takes is said by the command,
 * so that an option means the same wherever it is taken.
 */
#include "client/subscribe_options.h"

#include "base/util.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define SECTION "client"
#define DAYS_MS(days) ((days)*86400e3)

/* gRPC's clients have it, so that no server is bothered more often. */
#define KEEPALIVE_MIN_MS 10000

enum {
    COUNT_MAX = 1000000000,
    WINDOW_MAX = 0x7fffffff, /* RFC 9113, 6.9.1 */
};

/* What is read through a table. */
struct values {
    uint64_t interval_ms;
    uint64_t count;
    uint64_t window;
    uint64_t time_max_ms;
    uint64_t keepalive_ms;
    uint64_t max_queue;
    uint64_t min_interval_ms;
    uint64_t heartbeat_ms;
    uint64_t delay_min_ms;
    uint64_t delay_max_ms;
    struct config_endpoints metrics;
};

#define SETTING(key, type, member, initial, minimum, maximum, help)                                \
    {                                                                                              \
        SECTION, (key), (type), CONFIG_RESTART, offsetof(struct values, member), (initial),        \
            (minimum), (maximum), (help)                                                           \
    }

enum {
    TABLE_INTERVAL, /* the command says its default and minimum */
    TABLE_MAX_TIME, /* the same */
};

static const struct config_setting table[] = {
    [TABLE_INTERVAL] = SETTING("interval", CONFIG_DURATION, interval_ms, "1s", 1, DAYS_MS(1),
                               "Time between two reports"),
    [TABLE_MAX_TIME] = SETTING("max-time", CONFIG_DURATION, time_max_ms, "0", 0, DAYS_MS(3650),
                               "Time after which to stop"),
    SETTING("count", CONFIG_COUNT, count, "0", 0, COUNT_MAX, "Reports after which to stop"),
    SETTING("window", CONFIG_SIZE, window, "65535", 1, WINDOW_MAX, "Receive window of the stream"),
    SETTING("keepalive", CONFIG_DURATION, keepalive_ms, "0", 0, DAYS_MS(30),
            "Silence after which the server gets a PING"),
    SETTING("max-queue", CONFIG_COUNT, max_queue, "0", 0, COUNT_MAX, "Updates that may wait"),
    SETTING("min-interval", CONFIG_DURATION, min_interval_ms, "0", 0, DAYS_MS(1),
            "Time between two updates of a ticker"),
    SETTING("heartbeat", CONFIG_DURATION, heartbeat_ms, "15s", 0, DAYS_MS(1),
            "Silence after which the server sends a heartbeat"),
    SETTING("delay-min", CONFIG_DURATION, delay_min_ms, "0", 0, DAYS_MS(1),
            "Shortest wait before an update is processed"),
    SETTING("delay-max", CONFIG_DURATION, delay_max_ms, "0", 0, DAYS_MS(1),
            "Longest wait before an update is processed"),
    SETTING("metrics", CONFIG_ENDPOINTS, metrics, "[::]:2113", 1, CONFIG_ENDPOINTS_MAX,
            "Addresses of /metrics"),
};

/* Options without a letter. */
enum {
    OPTION_VALUE = 256, /* of the table */
    OPTION_POLICY,
    OPTION_SNAPSHOT,
    OPTION_RESUME,
    OPTION_STATE,
    OPTION_METRICS,
    OPTION_NO_METRICS,
    OPTION_SERVICE,
    OPTION_HEALTH_ONLY,
    OPTION_NO_RECONNECT,
    OPTION_TLS,
    OPTION_CACERT,
    OPTION_CERT,
    OPTION_KEY,
    OPTION_SERVER_NAME,
    OPTION_INSECURE,
};

/* Of each command those before the first NULL, and the others that it names. */
static const struct option all_options[] = {
    {"max-time", required_argument, NULL, 't'},
    {"keepalive", required_argument, NULL, OPTION_VALUE},
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
    {"interval", required_argument, NULL, 'i'},
    {"window", required_argument, NULL, 'w'},
    {"no-reconnect", no_argument, NULL, OPTION_NO_RECONNECT},
    {"count", required_argument, NULL, 'n'},
    {"output", required_argument, NULL, 'o'},
    {"policy", required_argument, NULL, OPTION_POLICY},
    {"max-queue", required_argument, NULL, OPTION_VALUE},
    {"min-interval", required_argument, NULL, OPTION_VALUE},
    {"heartbeat", required_argument, NULL, OPTION_VALUE},
    {"snapshot", no_argument, NULL, OPTION_SNAPSHOT},
    {"delay", required_argument, NULL, 'd'},
    {"quiet", no_argument, NULL, 'q'},
    {"format", required_argument, NULL, 'F'},
    {"resume", required_argument, NULL, OPTION_RESUME},
    {"state", required_argument, NULL, OPTION_STATE},
    {"metrics", required_argument, NULL, OPTION_METRICS},
    {"no-metrics", no_argument, NULL, OPTION_NO_METRICS},
    {"service", required_argument, NULL, OPTION_SERVICE},
    {"health-only", no_argument, NULL, OPTION_HEALTH_ONLY},
};

struct reader {
    const struct subscribe_command *command;
    struct subscribe_options *options;
    struct config_setting table[ELEMENTSOF(table)];
    struct option long_options[ELEMENTSOF(all_options)];
    struct config config;
    struct values values;
    const char *server_name;
    const char *delay_option; /* the one that was given */
    bool metrics_off;
    bool format_given;
    bool wrong;
};

/* Is it one of the command's own? */
static bool has_option(const struct reader *reader, const char *option)
{
    for (const char *const *name = reader->command->options; *name; name++)
        if (strcmp(*name, option) == 0)
            return true;
    return false;
}

static void complain(struct reader *reader, const char *option, const char *why)
{
    reader->wrong = true;
    (void)fprintf(stderr, "stock-client: %s: %s\n", option, why);
}

typedef int (*set_fn)(struct config *config, const char *section, const char *key,
                      const char *value, const char *origin);

/* Sets a value of the table by `fn`; what is wrong with it is said about `option`. 0 or -ENOMEM. */
static int set_by(set_fn fn, struct reader *reader, const char *key, const char *text,
                  const char *option)
{
    size_t faults = reader->config.faults.count;
    char prefix[128];
    int size = snprintf(prefix, sizeof(prefix), "%s: %s.%s: ", option, SECTION, key);
    int r = fn(&reader->config, SECTION, key, text, option);

    if (r == 0 && reader->config.faults.count > faults) {
        const char *fault = reader->config.faults.text[faults];

        complain(reader, option, strncmp(fault, prefix, (size_t)size) == 0 ? fault + size : fault);
    }
    return r;
}

/* The option is called as the key is. */
static int set(struct reader *reader, const char *key, const char *text)
{
    char option[32];

    (void)snprintf(option, sizeof(option), "--%s", key);
    return set_by(config_set, reader, key, text, option);
}

static int read_delay(struct reader *reader, const char *text, const char *option)
{
    const char *colon = strchr(text, ':');
    _cleanup_free_ char *minimum = strndup(text, colon ? (size_t)(colon - text) : strlen(text));
    bool wrong = reader->wrong;
    int r;

    if (!minimum)
        return -ENOMEM;
    if (reader->delay_option && strcmp(reader->delay_option, option) != 0)
        complain(reader, "--delay", "cannot be given together with -r");
    reader->delay_option = option;
    reader->options->consumer.delay_step_ms = 1;
    r = set_by(config_set, reader, "delay-min", minimum, option);
    if (r == 0)
        r = set_by(config_set, reader, "delay-max", colon ? colon + 1 : minimum, option);
    if (r == 0 && reader->wrong == wrong &&
        reader->values.delay_min_ms > reader->values.delay_max_ms)
        complain(reader, option, "MIN is more than MAX");
    return r;
}

/* 1, 2 or 3 seconds, each as likely as the others. */
static int read_whole_seconds(struct reader *reader)
{
    int r = read_delay(reader, "1s:3s", "-r");

    reader->options->consumer.delay_step_ms = 1000;
    return r;
}

/* Digits alone, up to `end`. */
static bool read_number(const char *text, char end, const char **ret_end, uint64_t *ret_number)
{
    char *rest;

    errno = 0;
    *ret_number = strtoull(text, &rest, 10);
    *ret_end = rest;
    return text[0] >= '0' && text[0] <= '9' && errno == 0 && *rest == end;
}

static void read_resume(struct reader *reader, const char *text)
{
    struct subscribe_options *options = reader->options;
    const char *end;

    stockservice__position__init(&options->resume);
    if (!read_number(text, ':', &end, &options->resume.epoch) || options->resume.epoch == 0 ||
        !read_number(end + 1, 0, &end, &options->resume.sequence)) {
        complain(reader, "--resume", "a position is EPOCH:SEQUENCE, two numbers, the first not 0");
        return;
    }
    options->subscribe.resume = &options->resume;
}

bool subscribe_policy_from_name(const char *name, Stockservice__SlowPolicy *ret_policy)
{
    static const struct {
        const char *name;
        Stockservice__SlowPolicy policy;
    } policies[] = {
        {"block", STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_BLOCK},
        {"conflate", STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_CONFLATE},
        {"drop-oldest", STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_DROP_OLDEST},
        {"disconnect", STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_DISCONNECT},
    };

    for (size_t i = 0; i < ELEMENTSOF(policies); i++) {
        if (strcmp(name, policies[i].name) == 0) {
            *ret_policy = policies[i].policy;
            return true;
        }
    }
    return false;
}

static void read_policy(struct reader *reader, const char *text)
{
    if (!subscribe_policy_from_name(text, &reader->options->subscribe.policy))
        complain(reader, "--policy", SUBSCRIBE_POLICY_WRONG);
}

static void read_format(struct reader *reader, const char *text)
{
    int format = print_format_from_name(text);

    reader->format_given = true;
    if (format < 0)
        complain(reader, "--output", "the format is none of text, json and csv");
    else
        reader->options->format = (enum print_format)format;
}

/* An empty file name would count as none, and so, with --cacert, trust others than were meant. */
static void read_file_name(struct reader *reader, const char **ret, const char *option)
{
    if (!*optarg)
        complain(reader, option, "there is no file name");
    *ret = optarg;
}

/* Each of them says that TLS is wanted: to go on without it would be the worst misunderstanding. */
static void read_tls_option(struct reader *reader, int option)
{
    struct subscribe_options *options = reader->options;

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
        options->client.tls.insecure = true;
        break;
    default: /* --tls */
        break;
    }
}

static int read_option(struct reader *reader, int option, const char *name)
{
    struct subscribe_options *options = reader->options;

    switch (option) {
    case 'i':
        return set(reader, "interval", optarg);
    case 'n':
        return set(reader, "count", optarg);
    case 'w':
        return set(reader, "window", optarg);
    case 't':
        return set(reader, "max-time", optarg);
    case OPTION_VALUE:
        return set(reader, name, optarg);
    case 'o':
        read_format(reader, optarg);
        return 0;
    case OPTION_POLICY:
        read_policy(reader, optarg);
        return 0;
    case OPTION_SNAPSHOT:
        options->subscribe.snapshot = true;
        return 0;
    case OPTION_NO_RECONNECT:
        options->client.reconnect = false;
        return 0;
    case 'r':
        return read_whole_seconds(reader);
    case 'd':
        return read_delay(reader, optarg, "--delay");
    case 'q':
        options->quiet = true;
        return 0;
    case 'F':
        options->template = optarg;
        return 0;
    case OPTION_RESUME:
        read_resume(reader, optarg);
        return 0;
    case OPTION_STATE:
        read_file_name(reader, &options->state, "--state");
        return 0;
    case OPTION_METRICS:
        options->metrics_given = true;
        return set(reader, "metrics", optarg);
    case OPTION_NO_METRICS:
        reader->metrics_off = true;
        return 0;
    case OPTION_SERVICE:
        options->service = optarg;
        return 0;
    case OPTION_HEALTH_ONLY:
        options->health_only = true;
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

/* The first operand is the address if it looks like one; all others are tickers. */
bool subscribe_is_address(const char *text)
{
    return strpbrk(text, ":/") || strcmp(text, "localhost") == 0;
}

static void read_operands(struct reader *reader, int count, char *operands[])
{
    struct subscribe_options *options = reader->options;
    struct target *target = &options->client.target;
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
    options->subscribe.tickers = operands;
    options->subscribe.n_tickers = (size_t)count;
}

/* What one is without the other, and what would do no good. */
static void check(struct reader *reader)
{
    const struct credentials_options *credentials = &reader->options->credentials;

    if (credentials->certificate && !credentials->key)
        complain(reader, "--cert", "the certificate's private key is missing (--key)");
    if (credentials->key && !credentials->certificate)
        complain(reader, "--key", "the private key's certificate is missing (--cert)");
    if (reader->values.keepalive_ms > 0 && reader->values.keepalive_ms < KEEPALIVE_MIN_MS)
        complain(reader, "--keepalive", "less than 10s would bother the server (0: no keepalive)");
    if (reader->options->template && reader->format_given)
        complain(reader, "--format", "cannot be given together with --output");
    if (reader->options->state && reader->options->subscribe.resume)
        complain(reader, "--resume", "cannot be given together with --state");
}

/* The port of the environment counts when no address was given. */
static int read_environment(struct reader *reader)
{
    const char *port = getenv(OPTIONS_METRICS_VARIABLE);

    if (!has_option(reader, "metrics") || !port || !*port || reader->options->metrics_given ||
        reader->metrics_off)
        return 0;
    reader->options->metrics_given = true;
    return set_by(config_set_port, reader, "metrics", port, OPTIONS_METRICS_VARIABLE);
}

/* --help and --version may stand anywhere, and then nothing else counts. */
static int read_arguments(struct reader *reader, int argc, char *argv[])
{
    int option;
    int index = 0;
    int r;

    /* The messages of getopt_long() begin with the program's name. */
    argv[0] = (char *)"stock-client";
    optind = 0;
    while ((option = getopt_long(argc, argv, reader->command->letters, reader->long_options,
                                 &index)) != -1) {
        if (option == 'h') {
            (void)fputs(reader->command->usage, stdout);
            return OPTIONS_DONE;
        }
        if (option == 'V') {
            (void)puts("stock-client " STOCKD_VERSION);
            return OPTIONS_DONE;
        }
        r = read_option(reader, option, reader->long_options[index].name);
        if (r < 0)
            return r;
    }
    read_operands(reader, argc - optind, argv + optind);
    check(reader);
    r = read_environment(reader);
    if (r < 0)
        return r;
    return reader->wrong ? OPTIONS_WRONG : OPTIONS_RUN;
}

static void take_values(struct reader *reader)
{
    struct values *values = &reader->values;
    struct subscribe_options *options = reader->options;

    options->interval_ms = values->interval_ms;
    options->count = values->count;
    options->client.window = values->window;
    options->client.time_max_ms = values->time_max_ms;
    options->client.keepalive_ms = values->keepalive_ms;
    options->subscribe.max_queue = (uint32_t)values->max_queue;
    options->subscribe.min_interval_ms = (uint32_t)values->min_interval_ms;
    options->subscribe.heartbeat_ms = (uint32_t)values->heartbeat_ms;
    options->consumer.delay_min_ms = values->delay_min_ms;
    options->consumer.delay_max_ms = values->delay_max_ms;
    if (has_option(reader, "metrics") && !reader->metrics_off) {
        options->metrics = values->metrics;
        values->metrics = (struct config_endpoints){0};
    }
}

static void choose_options(struct reader *reader)
{
    size_t count = 0;
    size_t i = 0;

    for (; all_options[i].name; i++)
        reader->long_options[count++] = all_options[i];
    for (i++; i < ELEMENTSOF(all_options); i++)
        if (has_option(reader, all_options[i].name))
            reader->long_options[count++] = all_options[i];
    memcpy(reader->table, table, sizeof(table));
    if (reader->command->interval) {
        reader->table[TABLE_INTERVAL].initial = reader->command->interval;
        reader->table[TABLE_INTERVAL].minimum = reader->command->interval_min_ms;
    }
    if (reader->command->max_time) {
        reader->table[TABLE_MAX_TIME].initial = reader->command->max_time;
        reader->table[TABLE_MAX_TIME].minimum = 1;
    }
}

void subscribe_options_deinit(struct subscribe_options *options)
{
    options->client.tls.credentials = credentials_unref(options->client.tls.credentials);
    config_endpoints_deinit(&options->metrics);
    free(TAKE_PTR(options->request_bytes));
}

int subscribe_options_read(struct subscribe_options *ret_options,
                           const struct subscribe_command *command, int argc, char *argv[])
{
    struct reader reader = {.command = command, .options = ret_options};
    int r;

    *ret_options = (struct subscribe_options){
        .client.reconnect = true, .credentials.client = true, .service = ""};
    stockservice__subscribe_request__init(&ret_options->subscribe);
    choose_options(&reader);
    r = config_init(&reader.config, reader.table, ELEMENTSOF(reader.table), &reader.values);
    if (r == 0)
        r = read_arguments(&reader, argc, argv);
    if (r == OPTIONS_RUN)
        take_values(&reader);
    config_deinit(&reader.config);
    if (r == OPTIONS_WRONG)
        (void)fprintf(stderr, "Try 'stock-client %s --help'.\n", command->name);
    return r;
}

int subscribe_options_pack(struct subscribe_options *options)
{
    size_t size = stockservice__subscribe_request__get_packed_size(&options->subscribe);
    uint8_t *bytes = malloc(WIRE_PREFIX_SIZE + size);

    if (!bytes)
        return -ENOMEM;
    wire_prefix_write(bytes, (uint32_t)size);
    (void)stockservice__subscribe_request__pack(&options->subscribe, bytes + WIRE_PREFIX_SIZE);
    free(options->request_bytes);
    options->request_bytes = bytes;
    options->request = (struct client_call_request){
        .path = "/" CALL_SERVICE "/Subscribe",
        .bytes = bytes,
        .size = WIRE_PREFIX_SIZE + size,
    };
    options->client.request = &options->request;
    return 0;
}
