#include "client/options.h"

#include "base/util.h"

#include <stdio.h>
#include <string.h>

/* gRPC's clients have it, so that no server is bothered more often. */
#define KEEPALIVE_MIN_MS 10000

/* Numbers of the options that all commands have; those of the commands' own are below. */
enum {
    OPTION_KEEPALIVE = OPTIONS_OWN + OPTIONS_OWN_MAX,
    OPTION_TLS,
    OPTION_CACERT,
    OPTION_CERT,
    OPTION_KEY,
    OPTION_SERVER_NAME,
    OPTION_INSECURE,
};

static const struct option common[] = {
    {"keepalive", required_argument, NULL, OPTION_KEEPALIVE},
    {"tls", no_argument, NULL, OPTION_TLS},
    {"cacert", required_argument, NULL, OPTION_CACERT},
    {"cert", required_argument, NULL, OPTION_CERT},
    {"key", required_argument, NULL, OPTION_KEY},
    {"server-name", required_argument, NULL, OPTION_SERVER_NAME},
    {"insecure", no_argument, NULL, OPTION_INSECURE},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
};

static const struct config_setting connect_table[] = {
    {OPTIONS_SECTION, "keepalive", CONFIG_DURATION, CONFIG_RESTART,
     offsetof(struct connect_options, keepalive_ms), "0", 0, OPTIONS_DAYS_MS(30),
     "Silence after which the server gets a PING"},
};

enum { LONG_OPTIONS_MAX = OPTIONS_OWN_MAX + ELEMENTSOF(common) + 1 };

void options_complain(struct options_reader *reader, const char *option, const char *why)
{
    reader->wrong = true;
    (void)fprintf(stderr, "stock-client: %s: %s\n", option, why);
}

/* Complains of what was added to the faults after the first `before`. */
static void complain_of_fault(struct options_reader *reader, const struct config *config,
                              size_t before, const char *key, const char *option)
{
    const char *fault = config->faults.count > before ? config->faults.text[before] : NULL;
    char prefix[128];
    int size = snprintf(prefix, sizeof(prefix), "%s: %s.%s: ", option, OPTIONS_SECTION, key);

    if (fault)
        options_complain(reader, option,
                         strncmp(fault, prefix, (size_t)size) == 0 ? fault + size : fault);
}

int options_set_by(struct options_reader *reader,
                   int (*set)(struct config *config, const char *section, const char *key,
                              const char *value, const char *origin),
                   const char *key, const char *text, const char *option)
{
    size_t before = reader->config.faults.count;
    int r = set(&reader->config, OPTIONS_SECTION, key, text, option);

    if (r == 0)
        complain_of_fault(reader, &reader->config, before, key, option);
    return r;
}

int options_set(struct options_reader *reader, const char *key, const char *text)
{
    char option[32];

    (void)snprintf(option, sizeof(option), "--%s", key);
    return options_set_by(reader, config_set, key, text, option);
}

void options_read_format(struct options_reader *reader, enum print_format *ret_format)
{
    int format = print_format_from_name(optarg);

    if (format < 0)
        options_complain(reader, "--output", "the format is none of text, json and csv");
    else
        *ret_format = (enum print_format)format;
}

/* An empty file name would count as none, and so, with --cacert, trust others than were meant. */
void options_read_file_name(struct options_reader *reader, const char **ret, const char *option)
{
    if (!*optarg)
        options_complain(reader, option, "there is no file name");
    *ret = optarg;
}

/* ---- The connection ---- */

/* 0 or -ENOMEM. */
static int read_keepalive(struct options_reader *reader)
{
    struct config *config = &reader->connect_config;
    size_t before = config->faults.count;
    int r = config_set(config, OPTIONS_SECTION, "keepalive", optarg, "--keepalive");

    if (r == 0)
        complain_of_fault(reader, config, before, "keepalive", "--keepalive");
    return r;
}

/* Each of them says that TLS is wanted: to go on without it would be the worst misunderstanding. */
static void read_tls_option(struct options_reader *reader, int option)
{
    struct connect_options *connect = reader->connect;

    connect->tls_wanted = true;
    switch (option) {
    case OPTION_CACERT:
        options_read_file_name(reader, &connect->credentials.ca, "--cacert");
        break;
    case OPTION_CERT:
        options_read_file_name(reader, &connect->credentials.certificate, "--cert");
        break;
    case OPTION_KEY:
        options_read_file_name(reader, &connect->credentials.key, "--key");
        break;
    case OPTION_SERVER_NAME:
        reader->server_name = optarg;
        break;
    case OPTION_INSECURE:
        connect->tls.insecure = true;
        break;
    default: /* --tls */
        break;
    }
}

/* What one is without the other need not be looked for in files. */
static void check_connect(struct options_reader *reader)
{
    const struct connect_options *connect = reader->connect;

    if (connect->credentials.certificate && !connect->credentials.key)
        options_complain(reader, "--cert", "the certificate's private key is missing (--key)");
    if (connect->credentials.key && !connect->credentials.certificate)
        options_complain(reader, "--key", "the private key's certificate is missing (--cert)");
    if (connect->keepalive_ms > 0 && connect->keepalive_ms < KEEPALIVE_MIN_MS)
        options_complain(reader, "--keepalive",
                         "less than 10s would bother the server (0: no keepalive)");
}

/* The first operand is the address if it looks like one; all others are tickers. Without a command
 * there are none, and a host's name alone is an address, too. */
static bool is_address(const struct options_reader *reader, const char *text)
{
    return !reader->command || strpbrk(text, ":/") || strcmp(text, "localhost") == 0;
}

static void read_operands(struct options_reader *reader, int count, char *operands[])
{
    struct target *target = &reader->connect->target;
    const char *text = TARGET_DEFAULT;
    const char *why;

    if (count > 0 && is_address(reader, operands[0])) {
        text = operands[0];
        operands++;
        count--;
    }
    if (!reader->command && count > 0)
        options_complain(reader, operands[0], "there can be only one HOST:PORT");
    else if (target_parse(target, text, &why) < 0)
        options_complain(reader, text, why);
    else if (reader->server_name && target_rename(target, reader->server_name, &why) < 0)
        options_complain(reader, "--server-name", why);
    reader->tickers = operands;
    reader->ticker_count = (size_t)count;
}

/* ---- All of it ---- */

/* One of those that all commands have, other than --help and --version. */
static int read_common(struct options_reader *reader, int option)
{
    if (option == '?')
        reader->wrong = true; /* getopt_long() has said why */
    else if (option == 'v')
        reader->connect->verbose = true;
    else if (option == OPTION_KEEPALIVE)
        return read_keepalive(reader);
    else
        read_tls_option(reader, option);
    return 0;
}

static bool is_common(int option)
{
    if (option == '?')
        return true;
    for (size_t i = 0; i < ELEMENTSOF(common); i++)
        if (common[i].val == option)
            return true;
    return false;
}

/* The command's own options, and then the common ones; `letters` gets those that have one. */
static void join_options(const struct options_reader *reader,
                         struct option ret_options[static LONG_OPTIONS_MAX],
                         char ret_letters[static 2 * LONG_OPTIONS_MAX + 8])
{
    size_t count = 0;
    char *letter = ret_letters + snprintf(ret_letters, 8, "%s", reader->letters);

    for (; reader->own[count].name; count++)
        ret_options[count] = reader->own[count];
    memcpy(&ret_options[count], common, sizeof(common));
    count += ELEMENTSOF(common);
    ret_options[count] = (struct option){0};
    for (size_t i = 0; i < count; i++) {
        if (ret_options[i].val >= OPTIONS_OWN)
            continue;
        *letter++ = (char)ret_options[i].val;
        if (ret_options[i].has_arg == required_argument)
            *letter++ = ':';
    }
    *letter = 0;
}

int options_read(struct options_reader *reader, int argc, char *argv[])
{
    struct option long_options[LONG_OPTIONS_MAX];
    char letters[2 * LONG_OPTIONS_MAX + 8];
    int option;
    int index = 0;
    int r = 0;

    join_options(reader, long_options, letters);
    /* The messages of getopt_long() begin with the program's name. */
    argv[0] = (char *)"stock-client";
    optind = 0;
    while (r == 0 && (option = getopt_long(argc, argv, letters, long_options, &index)) != -1) {
        if (option == 'h') {
            (void)fputs(reader->usage, stdout);
            return OPTIONS_DONE;
        }
        if (option == 'V') {
            (void)puts("stock-client " STOCKD_VERSION);
            return OPTIONS_DONE;
        }
        r = is_common(option) ? read_common(reader, option)
                              : reader->read(reader, option, long_options[index].name);
    }
    if (r < 0)
        return r;
    read_operands(reader, argc - optind, argv + optind);
    check_connect(reader);
    return OPTIONS_RUN;
}

int options_conclude(const struct options_reader *reader)
{
    if (!reader->wrong)
        return OPTIONS_RUN;
    (void)fprintf(stderr, "Try 'stock-client%s%s --help'.\n", reader->command ? " " : "",
                  reader->command ? reader->command : "");
    return OPTIONS_WRONG;
}

int options_init(struct options_reader *reader, const struct config_setting *table, size_t count,
                 void *values)
{
    int r = config_init(&reader->config, table, count, values);

    reader->connect->credentials.client = true;
    if (r == 0)
        r = config_init(&reader->connect_config, connect_table, ELEMENTSOF(connect_table),
                        reader->connect);
    return r;
}

void options_deinit(struct options_reader *reader)
{
    config_deinit(&reader->config);
    config_deinit(&reader->connect_config);
}
