/*
 * The command line first, since it says where the .env file is; and all that is wrong with it in
 * one go.
 */
#include "config/render/inputs.h"

#include "base/util.h"
#include "config/render/dotenv.h"
#include "config/render/file.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const options[INPUT_COUNT] = {
#define X(identifier, option, variable) option,
    INPUTS(X)
#undef X
};

static const char *const variables[INPUT_COUNT] = {
#define X(identifier, option, variable) variable,
    INPUTS(X)
#undef X
};

const char inputs_usage[] =
    "Usage: stockd-render [OPTION]...\n"
    "\n"
    "Fill the templates of a Prometheus configuration and of a Grafana data source with\n"
    "this machine's address and the ports of stockd, stock-client and Prometheus.\n"
    "\n"
    "  -p, --prometheus-output FILE     write the Prometheus configuration (- is standard output)\n"
    "      --prometheus-template FILE   make it from FILE, not from the installed template\n"
    "  -d, --data-source-output FILE    write the Grafana data source\n"
    "      --data-source-template FILE  make it from FILE, not from the installed template\n"
    "      --ip ADDRESS                 {{.IP}}, if not the address that others see\n"
    "      --port PORT                  where stockd has its metrics (as configured, or 2112)\n"
    "      --client-port PORT           where stock-client has its metrics (2113)\n"
    "      --prometheus-port PORT       where Prometheus is (9090)\n"
    "      --env-file FILE              read variables in FILE, not in .env\n"
    "  -c, --config FILE                read stockd's configuration in FILE, and search no others\n"
    "  -h, --help                       print this, and exit\n"
    "  -V, --version                    print the version, and exit\n"
    "\n"
    "Files and ports may be given by variables, too, see stockd-render(1).\n";

/* ---- The command line ---- */

enum {
    OPTION_INPUT = 256, /* and the number of the input */
    OPTION_IP = OPTION_INPUT + INPUT_COUNT,
    OPTION_ENV_FILE,
};

static const struct option long_options[] = {
    {"prometheus-output", required_argument, NULL, 'p'},
    {"prometheus-template", required_argument, NULL, OPTION_INPUT + INPUT_PROMETHEUS_TEMPLATE},
    {"data-source-output", required_argument, NULL, 'd'},
    {"data-source-template", required_argument, NULL, OPTION_INPUT + INPUT_DATA_SOURCE_TEMPLATE},
    {"ip", required_argument, NULL, OPTION_IP},
    {"port", required_argument, NULL, OPTION_INPUT + INPUT_PORT},
    {"client-port", required_argument, NULL, OPTION_INPUT + INPUT_CLIENT_PORT},
    {"prometheus-port", required_argument, NULL, OPTION_INPUT + INPUT_PROMETHEUS_PORT},
    {"env-file", required_argument, NULL, OPTION_ENV_FILE},
    {"config", required_argument, NULL, 'c'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

bool inputs_is_port(const char *text, unsigned *ret_port)
{
    unsigned port = 0;

    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9')
            return false;
        port = port * 10 + (unsigned)(*c - '0');
        if (port > UINT16_MAX)
            return false;
    }
    if (port == 0)
        return false;
    *ret_port = port;
    return true;
}

static bool is_port_input(enum input_name name)
{
    return name == INPUT_PORT || name == INPUT_CLIENT_PORT || name == INPUT_PROMETHEUS_PORT;
}

/* Takes the place of what was said before. 0 or -ENOMEM. */
static int set(struct input *input, const char *value, char *origin)
{
    char *copy = origin ? strdup(value) : NULL;

    if (!copy) {
        free(origin);
        return -ENOMEM;
    }
    free(input->value);
    free(input->origin);
    *input = (struct input){.value = copy, .origin = origin};
    return 0;
}

static char *make_origin(const char *what, const char *name)
{
    char *origin = NULL;

    return asprintf(&origin, "%s%s", what, name) < 0 ? NULL : origin;
}

static int wrong_option(const char *option, const char *value, const char *why)
{
    (void)fprintf(stderr, "stockd-render: option --%s: \"%.60s\" %s\n", option, value, why);
    return INPUTS_WRONG;
}

/* 0, INPUTS_WRONG or -ENOMEM. */
static int read_input(struct inputs *inputs, enum input_name name)
{
    unsigned ignored;
    int r;

    if (!*optarg)
        return wrong_option(options[name], optarg, "says nothing");
    if (is_port_input(name) && !inputs_is_port(optarg, &ignored))
        return wrong_option(options[name], optarg, "is not a port (1 to 65535)");
    r = set(&inputs->of[name], optarg, make_origin("option --", options[name]));
    inputs->of[name].option = r == 0;
    return r;
}

/* A file to read, whose name may not be empty: that would be another file, or none. */
static int read_file_name(const char **ret, const char *option)
{
    if (!*optarg)
        return wrong_option(option, optarg, "says nothing");
    *ret = optarg;
    return 0;
}

static int read_option(struct inputs *inputs, struct arguments *arguments, int option)
{
    switch (option) {
    case 'p':
        return read_input(inputs, INPUT_PROMETHEUS_OUTPUT);
    case 'd':
        return read_input(inputs, INPUT_DATA_SOURCE_OUTPUT);
    case 'c':
        return read_file_name(&arguments->config_file, "config");
    case OPTION_ENV_FILE:
        return read_file_name(&arguments->env_file, "env-file");
    case OPTION_IP:
        arguments->ip = optarg;
        return 0;
    default:
        if (option >= OPTION_INPUT && option < OPTION_INPUT + INPUT_COUNT)
            return read_input(inputs, (enum input_name)(option - OPTION_INPUT));
        return INPUTS_WRONG; /* getopt_long() has said why */
    }
}

/* --help and --version may stand anywhere, and then nothing else counts. */
int inputs_read_arguments(struct inputs *inputs, struct arguments *ret_arguments, int argc,
                          char *argv[])
{
    int result = 0;
    int option;

    *inputs = (struct inputs){0};
    *ret_arguments = (struct arguments){0};
    optind = 1;
    while ((option = getopt_long(argc, argv, "p:d:c:hV", long_options, NULL)) != -1) {
        int r;

        if (option == 'h' || option == 'V') {
            (void)fputs(option == 'h' ? inputs_usage : "stockd-render " STOCKD_VERSION "\n",
                        stdout);
            return INPUTS_DONE;
        }
        r = read_option(inputs, ret_arguments, option);
        if (r < 0)
            return r;
        result = MAX(result, r);
    }
    if (optind < argc) {
        (void)fprintf(stderr, "stockd-render: unexpected argument '%s'\n", argv[optind]);
        result = INPUTS_WRONG;
    }
    return result;
}

/* ---- Variables ---- */

static int set_from_file(struct input *input, const char *file,
                         const struct dotenv_variable *variable)
{
    char *origin = NULL;

    if (asprintf(&origin, "%s:%u: %s", file, variable->line, variable->name) < 0)
        origin = NULL;
    return set(input, variable->value, origin);
}

static int read_env_file(struct inputs *inputs, const char *file, const struct file *content,
                         struct config *config)
{
    struct dotenv_variable found[INPUT_COUNT] = {0};
    int r;

    for (size_t i = 0; i < INPUT_COUNT; i++)
        found[i].name = variables[i];
    r = dotenv_read(config, file, content->bytes, content->size, found, INPUT_COUNT);
    for (size_t i = 0; i < INPUT_COUNT; i++) {
        /* Whatever the environment says hides it, also if that is nothing. */
        if (r == 0 && found[i].value && *found[i].value && !inputs->of[i].value &&
            !getenv(variables[i]))
            r = set_from_file(&inputs->of[i], file, &found[i]);
        free(found[i].value);
    }
    return r;
}

int inputs_read_variables(struct inputs *inputs, const struct arguments *arguments,
                          struct config *config)
{
    const char *file = arguments->env_file ? arguments->env_file : INPUTS_ENV_FILE;
    struct file content = {0};
    int r = 0;

    for (size_t i = 0; r == 0 && i < INPUT_COUNT; i++) {
        const char *value = getenv(variables[i]);

        if (!inputs->of[i].value && value && *value)
            r = set(&inputs->of[i], value, make_origin("environment variable ", variables[i]));
    }
    if (r == 0)
        r = file_read(&content, file, NULL, !arguments->env_file, config);
    if (r == 0 && content.bytes)
        r = read_env_file(inputs, file, &content, config);
    file_deinit(&content);
    for (enum input_name i = 0; r == 0 && i < INPUT_COUNT; i++) {
        const struct input *input = &inputs->of[i];
        unsigned ignored;

        if (is_port_input(i) && input->value && !inputs_is_port(input->value, &ignored))
            r = config_fault(config, "%s: \"%.60s\" is not a port (1 to 65535)", input->origin,
                             input->value);
    }
    return r;
}

void inputs_deinit(struct inputs *inputs)
{
    for (size_t i = 0; i < INPUT_COUNT; i++) {
        free(inputs->of[i].value);
        free(inputs->of[i].origin);
    }
    *inputs = (struct inputs){0};
}
