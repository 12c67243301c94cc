/*
 * One table has the options of all commands; which of them a command takes is said by the command,
 * so that an option means the same wherever it is taken.
 */
#include "client/subscribe_options.h"

#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT_MAX = 1000000000 };

/* What is read through a table. */
struct values {
    uint64_t interval_ms;
    uint64_t count;
    uint64_t window;
    uint64_t time_max_ms;
    uint64_t max_queue;
    uint64_t min_interval_ms;
    uint64_t heartbeat_ms;
    uint64_t delay_min_ms;
    uint64_t delay_max_ms;
    struct config_endpoints metrics;
};

enum {
    TABLE_INTERVAL, /* the command says its default and minimum */
    TABLE_MAX_TIME, /* the same */
};

static const struct config_setting table[] = {
    [TABLE_INTERVAL] = OPTIONS_SETTING("interval", CONFIG_DURATION, interval_ms, "1s", 1,
                                       OPTIONS_DAYS_MS(1), "Time between two reports"),
    [TABLE_MAX_TIME] = OPTIONS_SETTING("max-time", CONFIG_DURATION, time_max_ms, "0", 0,
                                       OPTIONS_DAYS_MS(3650), "Time after which to stop"),
    OPTIONS_SETTING("count", CONFIG_COUNT, count, "0", 0, COUNT_MAX, "Reports after which to stop"),
    OPTIONS_SETTING("window", CONFIG_SIZE, window, "65535", 1, OPTIONS_WINDOW_MAX,
                    "Receive window of the stream"),
    OPTIONS_SETTING("max-queue", CONFIG_COUNT, max_queue, "0", 0, COUNT_MAX,
                    "Updates that may wait"),
    OPTIONS_SETTING("min-interval", CONFIG_DURATION, min_interval_ms, "0", 0, OPTIONS_DAYS_MS(1),
                    "Time between two updates of a ticker"),
    OPTIONS_SETTING("heartbeat", CONFIG_DURATION, heartbeat_ms, "15s", 0, OPTIONS_DAYS_MS(1),
                    "Silence after which the server sends a heartbeat"),
    OPTIONS_SETTING("delay-min", CONFIG_DURATION, delay_min_ms, "0", 0, OPTIONS_DAYS_MS(1),
                    "Shortest wait before an update is processed"),
    OPTIONS_SETTING("delay-max", CONFIG_DURATION, delay_max_ms, "0", 0, OPTIONS_DAYS_MS(1),
                    "Longest wait before an update is processed"),
    OPTIONS_SETTING("metrics", CONFIG_ENDPOINTS, metrics, "[::]:2113", 1, CONFIG_ENDPOINTS_MAX,
                    "Addresses of /metrics"),
};

/* Options without a letter. */
enum {
    OPTION_VALUE = OPTIONS_OWN, /* of the table */
    OPTION_POLICY,
    OPTION_SNAPSHOT,
    OPTION_RESUME,
    OPTION_STATE,
    OPTION_METRICS,
    OPTION_NO_METRICS,
    OPTION_SERVICE,
    OPTION_HEALTH_ONLY,
    OPTION_NO_RECONNECT,
};

/* Of each command those that it names. */
static const struct option all_options[] = {
    {"max-time", required_argument, NULL, 't'},
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

static_assert(ELEMENTSOF(all_options) <= OPTIONS_OWN_MAX, "options.c has room for all");

struct reader {
    struct options_reader base;
    const struct subscribe_command *command;
    struct subscribe_options *options;
    struct config_setting table[ELEMENTSOF(table)];
    struct option own[ELEMENTSOF(all_options) + 1];
    struct values values;
    const char *delay_option; /* the one that was given */
    bool metrics_off;
    bool format_given;
};

/* Is it one of the command's own? */
static bool has_option(const struct reader *reader, const char *option)
{
    for (const char *const *name = reader->command->options; *name; name++)
        if (strcmp(*name, option) == 0)
            return true;
    return false;
}

static int read_delay(struct reader *reader, const char *text, const char *option)
{
    const char *colon = strchr(text, ':');
    _cleanup_free_ char *minimum = strndup(text, colon ? (size_t)(colon - text) : strlen(text));
    bool wrong = reader->base.wrong;
    int r;

    if (!minimum)
        return -ENOMEM;
    if (reader->delay_option && strcmp(reader->delay_option, option) != 0)
        options_complain(&reader->base, "--delay", "cannot be given together with -r");
    reader->delay_option = option;
    reader->options->consumer.delay_step_ms = 1;
    r = options_set_by(&reader->base, config_set, "delay-min", minimum, option);
    if (r == 0)
        r = options_set_by(&reader->base, config_set, "delay-max", colon ? colon + 1 : minimum,
                           option);
    if (r == 0 && reader->base.wrong == wrong &&
        reader->values.delay_min_ms > reader->values.delay_max_ms)
        options_complain(&reader->base, option, "MIN is more than MAX");
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
        options_complain(&reader->base, "--resume",
                         "a position is EPOCH:SEQUENCE, two numbers, the first not 0");
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
        options_complain(&reader->base, "--policy", SUBSCRIBE_POLICY_WRONG);
}

static int read_option(struct options_reader *base, int option, const char *name)
{
    struct reader *reader = container_of(base, struct reader, base);
    struct subscribe_options *options = reader->options;

    switch (option) {
    case 'i':
        return options_set(base, "interval", optarg);
    case 'n':
        return options_set(base, "count", optarg);
    case 'w':
        return options_set(base, "window", optarg);
    case 't':
        return options_set(base, "max-time", optarg);
    case OPTION_VALUE:
        return options_set(base, name, optarg);
    case 'o':
        reader->format_given = true;
        options_read_format(base, &options->format);
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
        options_read_file_name(base, &options->state, "--state");
        return 0;
    case OPTION_METRICS:
        options->metrics_given = true;
        return options_set(base, "metrics", optarg);
    case OPTION_NO_METRICS:
        reader->metrics_off = true;
        return 0;
    case OPTION_SERVICE:
        options->service = optarg;
        return 0;
    default: /* --health-only */
        options->health_only = true;
        return 0;
    }
}

/* What cannot be meant together. */
static void check(struct reader *reader)
{
    if (reader->options->template && reader->format_given)
        options_complain(&reader->base, "--format", "cannot be given together with --output");
    if (reader->options->state && reader->options->subscribe.resume)
        options_complain(&reader->base, "--resume", "cannot be given together with --state");
}

/* The port of the environment counts when no address was given. */
static int read_environment(struct reader *reader)
{
    const char *port = getenv(OPTIONS_METRICS_VARIABLE);

    if (!has_option(reader, "metrics") || !port || !*port || reader->options->metrics_given ||
        reader->metrics_off)
        return 0;
    reader->options->metrics_given = true;
    return options_set_by(&reader->base, config_set_port, "metrics", port,
                          OPTIONS_METRICS_VARIABLE);
}

static int read_arguments(struct reader *reader, int argc, char *argv[])
{
    int r = options_read(&reader->base, argc, argv);

    if (r != OPTIONS_RUN)
        return r;
    reader->options->subscribe.tickers = reader->base.tickers;
    reader->options->subscribe.n_tickers = reader->base.ticker_count;
    check(reader);
    r = read_environment(reader);
    return r < 0 ? r : options_conclude(&reader->base);
}

static void take_values(struct reader *reader)
{
    struct values *values = &reader->values;
    struct subscribe_options *options = reader->options;

    options->interval_ms = values->interval_ms;
    options->count = values->count;
    options->client.window = values->window;
    options->client.time_max_ms = values->time_max_ms;
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

    for (size_t i = 0; i < ELEMENTSOF(all_options); i++)
        if (has_option(reader, all_options[i].name))
            reader->own[count++] = all_options[i];
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
    options->client.connect.tls.credentials =
        credentials_unref(options->client.connect.tls.credentials);
    config_endpoints_deinit(&options->metrics);
    free(TAKE_PTR(options->request_bytes));
}

int subscribe_options_read(struct subscribe_options *ret_options,
                           const struct subscribe_command *command, int argc, char *argv[])
{
    struct reader reader = {.command = command, .options = ret_options};
    int r;

    *ret_options = (struct subscribe_options){.client.reconnect = true, .service = ""};
    stockservice__subscribe_request__init(&ret_options->subscribe);
    choose_options(&reader);
    reader.base = (struct options_reader){
        .command = command->name,
        .usage = command->usage,
        .letters = has_option(&reader, "delay") ? "r" : "",
        .own = reader.own,
        .connect = &ret_options->client.connect,
        .read = read_option,
    };
    r = options_init(&reader.base, reader.table, ELEMENTSOF(reader.table), &reader.values);
    if (r == 0)
        r = read_arguments(&reader, argc, argv);
    if (r == OPTIONS_RUN)
        take_values(&reader);
    options_deinit(&reader.base);
    return r;
}

int subscribe_options_pack(struct subscribe_options *options)
{
    int r = client_call_pack(&options->request, &options->request_bytes, SUBSCRIBE_PATH,
                             &options->subscribe.base);

    if (r == 0)
        options->client.request = &options->request;
    return r;
}
