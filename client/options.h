/*
 * The command line and the environment.
 */
#pragma once

#include "base/config.h"
#include "base/credentials.h"
#include "client/client.h"
#include "client/consumer.h"

/* The environment variable with the port of /metrics. */
#define OPTIONS_METRICS_VARIABLE "STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT"

struct options {
    struct client_options client;
    bool tls;                               /* it is wanted: client.tls is for the program to set */
    struct credentials_options credentials; /* with it */
    struct consumer_options consumer;
    struct config_endpoints metrics; /* none: no metrics */
    bool metrics_given;              /* by a person, so that a failure is one */
    bool verbose;
};

enum options_result {
    OPTIONS_RUN,
    OPTIONS_DONE,  /* --help or --version has been printed */
    OPTIONS_WRONG, /* what is wrong has been printed to standard error */
};

/* What --help prints. */
extern const char options_usage[];

/* Reads everything. The result, or -ENOMEM. In each case options_deinit() frees what it holds. */
int options_read(struct options *ret_options, int argc, char *argv[]);
void options_deinit(struct options *options);
