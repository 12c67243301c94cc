/*
 * Options are looked at twice: some say where the configuration is, others are part of it and come
 * over everything else.
 */
#include "arguments.h"

#include "base/util.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So that stockd@NAME.service is no longer than a unit's name may be. */
#define INSTANCE_MAX (255 - 7 - 8)

static const char usage[] =
    "Usage: stockd [OPTION...]\n"
    "\n"
    "Streams stock prices over gRPC and tells Prometheus what holds its streams back.\n"
    "\n"
    "  -c, --config FILE            read FILE and FILE.d/*.conf, and search no others\n"
    "      --instance NAME          read stockd@NAME.conf.d/*.conf, too: be one of several\n"
    "  -i, --initial-delay SECONDS  wait before the first update of each call\n"
    "  -s, --set SECTION.KEY=VALUE  set anything that the configuration file can\n"
    "      --check-config           say what is wrong with the configuration, and exit\n"
    "      --dump-config            print the whole configuration, and exit\n"
    "  -h, --help                   print this, and exit\n"
    "  -V, --version                print the version, and exit\n"
    "\n"
    "See stockd(8) and stockd.conf(5).\n";

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
    const char *equals = strchrnul(assignment, '=');
    /* The last one: a section's name may have dots, as in "ticker BRK.A.interval=1s". */
    const char *dot = memrchr(assignment, '.', (size_t)(equals - assignment));
    _cleanup_free_ char *section = NULL;
    _cleanup_free_ char *key = NULL;

    if (!dot || *equals == '\0')
        return config_fault(config, "option --set: \"%s\" is not SECTION.KEY=VALUE", assignment);
    section = strndup(assignment, (size_t)(dot - assignment));
    key = strndup(dot + 1, (size_t)(equals - dot - 1));
    if (!section || !key)
        return -ENOMEM;
    return config_set(config, section, key, equals + 1, "option --set");
}

static const char short_options[] = "c:i:s:hV";
static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"initial-delay", required_argument, NULL, 'i'},
    {"set", required_argument, NULL, 's'},
    {"check-config", no_argument, NULL, 'C'},
    {"dump-config", no_argument, NULL, 'D'},
    {"instance", required_argument, NULL, 'I'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

/* What systemd takes as the instance's part of a unit's name, as far as it can be part of a file's
 * name, too, that is no hidden one. */
static bool is_instance(const char *name)
{
    size_t length = strlen(name);

    return length > 0 && length <= INSTANCE_MAX && *name != '.' &&
           strspn(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@") ==
               length;
}

/* Do the options go together? */
static bool check(const struct arguments *arguments)
{
    if (arguments->instance && !is_instance(arguments->instance)) {
        (void)fprintf(stderr,
                      "stockd: option --instance: a name has 1 to %d letters, digits and "
                      ":-_.\\@, and does not begin with a dot\n",
                      INSTANCE_MAX);
        return false;
    }
    if (arguments->instance && arguments->config_file) {
        (void)fputs("stockd: options --config and --instance do not go together: an instance has "
                    "its settings where stockd searches them\n",
                    stderr);
        return false;
    }
    return true;
}

int arguments_read(int argc, char **argv, struct arguments *ret_arguments)
{
    int option;

    while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
        switch (option) {
        case 'c':
            ret_arguments->config_file = optarg;
            break;
        case 'I':
            ret_arguments->instance = optarg;
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
    if (!check(ret_arguments)) {
        (void)fputs("Try 'stockd --help'.\n", stderr);
        return EXIT_USAGE;
    }
    return -1;
}

int arguments_apply(int argc, char **argv, struct config *config)
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
