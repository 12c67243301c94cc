/*
 * Values are read by base/config.h, as the daemon's settings are, so that "64K" and "100ms" mean
 * the same to both programs and what is wrong with a value is said in the same words.
 */
#include "client/options.h"
#include "client/commands.h"

#include "base/address.h"
#include "base/util.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define SECTION "client"

/* What is read through the table below. */
struct values {
    uint64_t delay_min_ms;
    uint64_t delay_max_ms;
    uint64_t window;
    uint64_t count;
    uint64_t time_max_ms;
    uint64_t keepalive_ms;
    struct config_endpoints metrics;
};

enum {
    COUNT_MAX = 1000000000,
    WINDOW_MAX = 0x7fffffff, /* RFC 9113, 6.9.1 */
};

/* gRPC's clients have it, so that no server is bothered more often. */
#define KEEPALIVE_MIN_MS 10000

#define DAYS_MS(days) ((days)*86400e3)

static const struct config_setting table[] = {
    {SECTION, "delay-min", CONFIG_DURATION, CONFIG_RESTART, offsetof(struct values, delay_min_ms),
     "0", 0, DAYS_MS(1), "Shortest wait before an update is processed"},
    {SECTION, "delay-max", CONFIG_DURATION, CONFIG_RESTART, offsetof(struct values, delay_max_ms),
     "0", 0, DAYS_MS(1), "Longest wait before an update is processed"},
    {SECTION, "window", CONFIG_SIZE, CONFIG_RESTART, offsetof(struct values, window), "65535", 1,
     WINDOW_MAX, "Receive window of the stream"},
    {SECTION, "count", CONFIG_COUNT, CONFIG_RESTART, offsetof(struct values, count), "0", 0,
     COUNT_MAX, "Updates after which to stop"},
    {SECTION, "max-time", CONFIG_DURATION, CONFIG_RESTART, offsetof(struct values, time_max_ms),
     "0", 0, DAYS_MS(3650), "Time after which to stop"},
    {SECTION, "keepalive", CONFIG_DURATION, CONFIG_RESTART, offsetof(struct values, keepalive_ms),
     "0", 0, DAYS_MS(30), "Silence after which the server gets a PING"},
    {SECTION, "metrics", CONFIG_ENDPOINTS, CONFIG_RESTART, offsetof(struct values, metrics),
     "[::]:2113", 1, CONFIG_ENDPOINTS_MAX, "Addresses of /metrics"},
};

struct reader {
    struct options *options;
    struct config config;
    struct values values;
    const char *delay_option; /* the one that was given */
    const char *server_name;
    bool metrics_off;
    bool wrong;
};

/* Options without a letter. */
enum {
    OPTION_NO_RECONNECT = 256,
    OPTION_METRICS,
    OPTION_NO_METRICS,
    OPTION_TLS,
    OPTION_CACERT,
    OPTION_CERT,
    OPTION_KEY,
    OPTION_SERVER_NAME,
    OPTION_INSECURE,
    OPTION_KEEPALIVE,
};

static const struct option long_options[] = {
    {"delay", required_argument, NULL, 'd'},
    {"window", required_argument, NULL, 'w'},
    {"output", required_argument, NULL, 'o'},
    {"count", required_argument, NULL, 'n'},
    {"max-time", required_argument, NULL, 't'},
    {"quiet", no_argument, NULL, 'q'},
    {"no-reconnect", no_argument, NULL, OPTION_NO_RECONNECT},
    {"metrics", required_argument, NULL, OPTION_METRICS},
    {"no-metrics", no_argument, NULL, OPTION_NO_METRICS},
    {"tls", no_argument, NULL, OPTION_TLS},
    {"cacert", required_argument, NULL, OPTION_CACERT},
    {"cert", required_argument, NULL, OPTION_CERT},
    {"key", required_argument, NULL, OPTION_KEY},
    {"server-name", required_argument, NULL, OPTION_SERVER_NAME},
    {"insecure", no_argument, NULL, OPTION_INSECURE},
    {"keepalive", required_argument, NULL, OPTION_KEEPALIVE},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

const char options_usage[] =
    "Usage: stock-client [OPTION]... [HOST:PORT | unix:PATH]\n"
    "       stock-client COMMAND [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "Print the stock updates that a server streams, " TARGET_DEFAULT " by default; or do\n"
    "something else with the market that all of its subscribers share:\n"
    "\n"
#define X(name, help) "  " help "\n"
    COMMANDS(X)
#undef X
        "\n"
        "stock-client COMMAND --help tells more of them. Without a command:\n"
        "\n"
        "  -r                    wait 1, 2 or 3 seconds before each update is processed\n"
        "  -d, --delay MIN:MAX   wait between MIN and MAX instead, such as 50ms:2s\n"
        "  -w, --window BYTES    let the server be so far ahead of what is processed (65535)\n"
        "  -o, --output FORMAT   print updates as text (the default), json or csv\n"
        "  -q, --quiet           print no updates\n"
        "  -n, --count N         stop after N updates\n"
        "  -t, --max-time TIME   stop after TIME, such as 30s\n"
        "      --no-reconnect    end when the server cannot be reached or goes away\n"
        "      --keepalive TIME  ping a server that is silent for TIME, 10s or more\n"
        "      --metrics ADDRESS serve /metrics there ([::]:2113)\n"
        "      --no-metrics      do not serve /metrics\n"
        "  -v, --verbose         tell more on standard error\n"
        "  -h, --help            print this help, and stop\n"
        "  -V, --version         print the version, and stop\n"
        "\n"
        "Each of these connects with TLS:\n"
        "      --tls             trust the authorities that this system trusts\n"
        "      --cacert FILE     trust the authorities in FILE instead\n"
        "      --cert FILE       show the server the certificate in FILE\n"
        "      --key FILE        its private key\n"
        "      --server-name NAME  the certificate must be for NAME, not for HOST\n"
        "      --insecure        take any certificate, from anybody\n"
        "\n"
        "The server gets credit to send more only for updates that have been processed, so a\n"
        "slow client slows the server's stream down. stock-client(1) explains how, and the exit\n"
        "codes: 0 done, 1 call failed, 2 wrong usage, 3 no connection, 130 interrupted.\n";

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

    if (r < 0)
        return r;
    if (reader->config.faults.count > faults) {
        const char *fault = reader->config.faults.text[faults];

        if (strncmp(fault, prefix, (size_t)size) == 0)
            fault += size;
        complain(reader, option, fault);
    }
    return 0;
}

static int set(struct reader *reader, const char *key, const char *text, const char *option)
{
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
    reader->delay_option = option;
    reader->options->consumer.delay_step_ms = 1;
    r = set(reader, "delay-min", minimum, option);
    if (r == 0)
        r = set(reader, "delay-max", colon ? colon + 1 : minimum, option);
    if (r == 0 && reader->wrong == wrong &&
        reader->values.delay_min_ms > reader->values.delay_max_ms)
        complain(reader, option, "MIN is more than MAX");
    return r;
}

/* -r, as the original client has it: 1, 2 or 3 seconds, each as likely as the others. */
static int read_whole_seconds(struct reader *reader)
{
    int r = read_delay(reader, "1s:3s", "-r");

    reader->options->consumer.delay_step_ms = 1000;
    return r;
}

/* 0 or -ENOMEM. */
static int read_keepalive(struct reader *reader, const char *text)
{
    bool wrong = reader->wrong;
    int r = set(reader, "keepalive", text, "--keepalive");

    if (r == 0 && reader->wrong == wrong && reader->values.keepalive_ms > 0 &&
        reader->values.keepalive_ms < KEEPALIVE_MIN_MS)
        complain(reader, "--keepalive", "less than 10s would bother the server (0: no keepalive)");
    return r;
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
    struct options *options = reader->options;

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

static int read_option(struct reader *reader, int option)
{
    struct options *options = reader->options;
    int format;

    switch (option) {
    case 'r':
    case 'd':
        if (reader->delay_option &&
            strcmp(reader->delay_option, option == 'r' ? "-r" : "--delay") != 0)
            complain(reader, "--delay", "cannot be given together with -r");
        return option == 'r' ? read_whole_seconds(reader) : read_delay(reader, optarg, "--delay");
    case 'w':
        return set(reader, "window", optarg, "--window");
    case 'o':
        format = print_format_from_name(optarg);
        if (format < 0)
            complain(reader, "--output", "the format is none of text, json and csv");
        else
            options->consumer.format = (enum print_format)format;
        return 0;
    case 'n':
        return set(reader, "count", optarg, "--count");
    case 't':
        return set(reader, "max-time", optarg, "--max-time");
    case 'q':
        options->consumer.quiet = true;
        return 0;
    case OPTION_NO_RECONNECT:
        options->client.reconnect = false;
        return 0;
    case OPTION_METRICS:
        options->metrics_given = true;
        return set(reader, "metrics", optarg, "--metrics");
    case OPTION_NO_METRICS:
        reader->metrics_off = true;
        return 0;
    case OPTION_TLS:
    case OPTION_CACERT:
    case OPTION_CERT:
    case OPTION_KEY:
    case OPTION_SERVER_NAME:
    case OPTION_INSECURE:
        read_tls_option(reader, option);
        return 0;
    case OPTION_KEEPALIVE:
        return read_keepalive(reader, optarg);
    case 'v':
        options->verbose = true;
        return 0;
    default:
        reader->wrong = true; /* getopt_long() has said why */
        return 0;
    }
}

/* The port of the environment counts when no address was given. */
static int read_environment(struct reader *reader)
{
    const char *port = getenv(OPTIONS_METRICS_VARIABLE);

    if (!port || !*port || reader->options->metrics_given || reader->metrics_off)
        return 0;
    reader->options->metrics_given = true;
    return set_by(config_set_port, reader, "metrics", port, OPTIONS_METRICS_VARIABLE);
}

static void read_target(struct reader *reader, int argc, char *argv[])
{
    struct target *target = &reader->options->client.target;
    const char *text = argc > 0 ? argv[0] : TARGET_DEFAULT;
    const char *why;

    if (argc > 1)
        complain(reader, argv[1], "there can be only one HOST:PORT");
    else if (target_parse(target, text, &why) < 0)
        complain(reader, text, why);
    else if (reader->server_name && target_rename(target, reader->server_name, &why) < 0)
        complain(reader, "--server-name", why);
}

/* What one of them is without the other need not be looked for in files. */
static void check_pair(struct reader *reader)
{
    const struct credentials_options *credentials = &reader->options->credentials;

    if (credentials->certificate && !credentials->key)
        complain(reader, "--cert", "the certificate's private key is missing (--key)");
    if (credentials->key && !credentials->certificate)
        complain(reader, "--key", "the private key's certificate is missing (--cert)");
}

/* --help and --version may stand anywhere, and then nothing else counts. */
static int read_arguments(struct reader *reader, int argc, char *argv[])
{
    int option;
    int r;

    while ((option = getopt_long(argc, argv, "rd:w:o:n:t:qvhV", long_options, NULL)) != -1) {
        if (option == 'h') {
            (void)fputs(options_usage, stdout);
            return OPTIONS_DONE;
        }
        if (option == 'V') {
            (void)puts("stock-client " STOCKD_VERSION);
            return OPTIONS_DONE;
        }
        r = read_option(reader, option);
        if (r < 0)
            return r;
    }
    read_target(reader, argc - optind, argv + optind);
    check_pair(reader);
    return OPTIONS_RUN;
}

static void take_values(struct reader *reader)
{
    struct values *values = &reader->values;
    struct options *options = reader->options;

    options->consumer.delay_min_ms = values->delay_min_ms;
    options->consumer.delay_max_ms = values->delay_max_ms;
    options->consumer.count = values->count;
    options->consumer.window = values->window;
    options->client.window = values->window;
    options->client.time_max_ms = values->time_max_ms;
    options->client.keepalive_ms = values->keepalive_ms;
    if (!reader->metrics_off) {
        options->metrics = values->metrics;
        values->metrics = (struct config_endpoints){0};
    }
}

void options_deinit(struct options *options)
{
    options->client.tls.credentials = credentials_unref(options->client.tls.credentials);
    config_endpoints_deinit(&options->metrics);
}

int options_read(struct options *ret_options, int argc, char *argv[])
{
    struct reader reader = {.options = ret_options};
    int r;

    *ret_options = (struct options){.client.reconnect = true,
                                    .client.request = &client_call_get_updates,
                                    .credentials.client = true};
    r = config_init(&reader.config, table, ELEMENTSOF(table), &reader.values);
    if (r == 0)
        r = read_arguments(&reader, argc, argv);
    if (r == OPTIONS_RUN) {
        r = read_environment(&reader);
        if (r == 0)
            r = reader.wrong ? OPTIONS_WRONG : OPTIONS_RUN;
        take_values(&reader);
    }
    config_deinit(&reader.config);
    if (r == OPTIONS_WRONG)
        (void)fputs("Try 'stock-client --help'.\n", stderr);
    return r;
}
