/*
 * What somebody said of the files and ports: on the command line, in the environment, or in a .env
 * file, the first of these that says something of it.
 */
#pragma once

#include "base/config.h"

#include <stdbool.h>

/*
 * X(identifier, option, variable): the variables are those of the original program, and of the
 * programs whose ports they are. NULL: there is no such option.
 */
#define INPUTS(X)                                                                                  \
    X(PROMETHEUS_TEMPLATE, "prometheus-template", "PROM_TEMPLATE_FILE")                            \
    X(PROMETHEUS_OUTPUT, "prometheus-output", "PROM_OUTPUT_FILE")                                  \
    X(DATA_SOURCE_TEMPLATE, "data-source-template", "DS_TEMPLATE_FILE")                            \
    X(DATA_SOURCE_OUTPUT, "data-source-output", "DS_OUTPUT_FILE")                                  \
    X(PORT, "port", "PROM_TARGET_GRPC_SERVER_PORT")                                                \
    X(CLIENT_PORT, "client-port", "PROM_TARGET_GRPC_CLIENT_PORT")                                  \
    X(PROMETHEUS_PORT, "prometheus-port", "DS_SERVER_PORT")                                        \
    X(STOCKD_PORT, NULL, "STOCK_SERVICE_METRICS_SERVER_PORT")                                      \
    X(STOCK_CLIENT_PORT, NULL, "STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT")

enum input_name {
#define X(identifier, option, variable) INPUT_##identifier,
    INPUTS(X)
#undef X
        INPUT_COUNT,
};

struct input {
    char *value;  /* NULL: nothing is said; never empty */
    char *origin; /* "option --port", "environment variable NAME", ".env:3: NAME" */
    bool option;  /* it was on the command line */
};

struct inputs {
    struct input of[INPUT_COUNT];
};

/* What is asked of the program besides. */
struct arguments {
    const char *ip;          /* NULL: the outbound one */
    const char *env_file;    /* NULL: ".env", if it is there */
    const char *config_file; /* NULL: those that stockd searches */
};

/* The .env file that is read if none is named. */
#define INPUTS_ENV_FILE ".env"

enum inputs_result {
    INPUTS_DONE = 1, /* --help or --version has been printed */
    INPUTS_WRONG,    /* what is wrong with the command line has been printed to standard error */
};

/* What --help prints. */
extern const char inputs_usage[];

/* Reads the command line. 0, one of the above, or -ENOMEM. */
int inputs_read_arguments(struct inputs *inputs, struct arguments *ret_arguments, int argc,
                          char *argv[]);

/*
 * Adds what the environment and then the .env file say of what is not given yet. A variable that is
 * set but empty hides that of the .env file and says nothing. Faults go to `config`. 0 or -ENOMEM.
 */
int inputs_read_variables(struct inputs *inputs, const struct arguments *arguments,
                          struct config *config);

/* Reads a port, 1 to 65535. */
bool inputs_is_port(const char *text, unsigned *ret_port);

void inputs_deinit(struct inputs *inputs);
