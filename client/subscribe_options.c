/*
 * One table has the options of all commands; which of them a command takes is said by the command,
 * so that an option means the same wherever it is taken.
 */
#include "client/subscribe_options.h"

#include "base/config.h"
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
};

#define SETTING(key, type, member, initial, minimum, maximum, help)                                \
    {                                                                                              \
        SECTION, (key), (type), CONFIG_RESTART, offsetof(struct values, member), (initial),        \
            (minimum), (maximum), (help)                                                           \
    }

enum {
    TABLE_INTERVAL, /* the command says its default and minimum */
};

static const struct config_setting table[] = {
    [TABLE_INTERVAL] = SETTING("interval", CONFIG_DURATION, interval_ms, "1s", 1, DAYS_MS(1),
                               "Time between two reports"),
    SETTING("count", CONFIG_COUNT, count, "0", 0, COUNT_MAX, "Reports after which to stop"),
    SETTING("window", CONFIG_SIZE, window, "65535", 1, WINDOW_MAX, "Receive window of the stream"),
    SETTING("max-time", CONFIG_DURATION, time_max_ms, "0", 0, DAYS_MS(3650),
            "Time after which to stop"),
    SETTING("keepalive", CONFIG_DURATION, keepalive_ms, "0", 0, DAYS_MS(30),
            "Silence after which the server gets a PING"),
    SETTING("max-queue", CONFIG_COUNT, max_queue, "0", 0, COUNT_MAX, "Updates that may wait"),
    SETTING("min-interval", CONFIG_DURATION, min_interval_ms, "0", 0, DAYS_MS(1),
            "Time between two updates of a ticker"),
    SETTING("heartbeat", CONFIG_DURATION, heartbeat_ms, "15s", 0, DAYS_MS(1),
            "Silence after which the server sends a heartbeat"),
};

/* Options without a letter. */
enum {
    OPTION_VALUE = 256, /* of the table */
    OPTION_POLICY,
    OPTION_SNAPSHOT,
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
    {"interval", required_argument, NULL, 'i'},
    {"window", required_argument, NULL, 'w'},
    {"max-time", required_argument, NULL, 't'},
    {"no-reconnect", no_argument, NULL, OPTION_NO_RECONNECT},
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
    {"count", required_argument, NULL, 'n'},
    {"output", required_argument, NULL, 'o'},
    {"policy", required_argument, NULL, OPTION_POLICY},
    {"max-queue", required_argument, NULL, OPTION_VALUE},
    {"min-interval", required_argument, NULL, OPTION_VALUE},
    {"heartbeat", required_argument, NULL, OPTION_VALUE},
    {"snapshot", no_argument, NULL, OPTION_SNAPSHOT},
};

struct reader {
    const struct subscribe_command *command;
    struct subscribe_options *options;
    struct config_setting table[ELEMENTSOF(table)];
    struct option long_options[ELEMENTSOF(all_options)];
    struct config config;
    struct values values;
    const char *server_name;
    bool wrong;
};

static void complain(struct reader *reader, const char *option, const char *why)
{
    reader->wrong = true;
    (void)fprintf(stderr, "stock-client: %s: %s\n", option, why);
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

static void read_policy(struct reader *reader, const char *text)
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
        if (strcmp(text, policies[i].name) == 0) {
            reader->options->subscribe.policy = policies[i].policy;
            return;
        }
    }
    complain(reader, "--policy",
             "the policy is none of block, conflate, drop-oldest and disconnect");
}

static void read_format(struct reader *reader, const char *text)
{
    int format = print_format_from_name(text);

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
static bool is_address(const char *text)
{
    return strpbrk(text, ":/") || strcmp(text, "localhost") == 0;
}

static void read_operands(struct reader *reader, int count, char *operands[])
{
    struct subscribe_options *options = reader->options;
    struct target *target = &options->client.target;
    const char *text = TARGET_DEFAULT;
    const char *why;

    if (count > 0 && is_address(operands[0])) {
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
    return reader->wrong ? OPTIONS_WRONG : OPTIONS_RUN;
}

static void take_values(struct reader *reader)
{
    const struct values *values = &reader->values;
    struct subscribe_options *options = reader->options;

    options->interval_ms = values->interval_ms;
    options->count = values->count;
    options->client.window = values->window;
    options->client.time_max_ms = values->time_max_ms;
    options->client.keepalive_ms = values->keepalive_ms;
    options->subscribe.max_queue = (uint32_t)values->max_queue;
    options->subscribe.min_interval_ms = (uint32_t)values->min_interval_ms;
    options->subscribe.heartbeat_ms = (uint32_t)values->heartbeat_ms;
}

static void choose_options(struct reader *reader)
{
    size_t count = 0;
    size_t i = 0;

    for (; all_options[i].name; i++)
        reader->long_options[count++] = all_options[i];
    for (i++; i < ELEMENTSOF(all_options); i++)
        for (const char *const *name = reader->command->options; *name; name++)
            if (strcmp(*name, all_options[i].name) == 0)
                reader->long_options[count++] = all_options[i];
    memcpy(reader->table, table, sizeof(table));
    reader->table[TABLE_INTERVAL].initial = reader->command->interval;
    reader->table[TABLE_INTERVAL].minimum = reader->command->interval_min_ms;
}

void subscribe_options_deinit(struct subscribe_options *options)
{
    options->client.tls.credentials = credentials_unref(options->client.tls.credentials);
    free(TAKE_PTR(options->request_bytes));
}

int subscribe_options_read(struct subscribe_options *ret_options,
                           const struct subscribe_command *command, int argc, char *argv[])
{
    struct reader reader = {.command = command, .options = ret_options};
    int r;

    *ret_options = (struct subscribe_options){.client.reconnect = true, .credentials.client = true};
    stockservice__subscribe_request__init(&ret_options->subscribe);
    choose_options(&reader);
    r = config_init(&reader.config, reader.table, ELEMENTSOF(reader.table), &reader.values);
    if (r == 0)
        r = read_arguments(&reader, argc, argv);
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
