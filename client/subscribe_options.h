/*
 * The command line of those commands that ask the server for updates: how to connect to it, which
 * tickers are wanted, and what becomes of updates that this client does not take in time.
 */
#pragma once

#include "base/config.h"
#include "client/client.h"
#include "client/options.h"
#include "client/print.h"
#include "stockservice.pb-c.h"

/* The method. */
#define SUBSCRIBE_PATH "/" CALL_SERVICE "/Subscribe"

/* The environment variable with the port of /metrics. */
#define OPTIONS_METRICS_VARIABLE "STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT"

/* A command. */
struct subscribe_command {
    const char *name;           /* NULL: what there is without a command */
    const char *usage;          /* what --help prints */
    const char *const *options; /* names of its options, but for those that all commands have; ends
                                 * with NULL */
    const char *interval;       /* the default of --interval; NULL: there is none */
    double interval_min_ms;
    const char *max_time; /* the default of --max-time; NULL: no limit */
};

struct subscribe_options {
    struct client_options client;
    enum print_format format;
    uint64_t interval_ms;
    uint64_t count; /* 0: no end */
    bool quiet;
    struct consumer_options consumer; /* the delays alone */
    struct config_endpoints metrics;  /* none: no metrics */
    bool metrics_given;               /* by a person, so that a failure is one */
    const char *template;             /* borrowed from argv, as are the next two; or NULL */
    const char *state;                /* a file's name, or NULL */
    const char *service;              /* whose health is asked for */
    bool health_only;
    Stockservice__Position resume; /* subscribe.resume points to it, if it was given */

    /* The command sets what is not for the command line to say. Packed by subscribe_pack(). */
    Stockservice__SubscribeRequest subscribe; /* its tickers are borrowed from argv */
    struct client_call_request request;
    uint8_t *request_bytes;
};

/* The lines of --help that commands share which try again. */
#define SUBSCRIBE_USAGE                                                                            \
    "      --no-reconnect    end when the server cannot be reached or goes away\n" OPTIONS_USAGE

/*
 * Reads everything. enum options_result, or -ENOMEM. In each case subscribe_options_deinit() frees
 * what it holds.
 */
int subscribe_options_read(struct subscribe_options *ret_options,
                           const struct subscribe_command *command, int argc, char *argv[]);
void subscribe_options_deinit(struct subscribe_options *options);

/* Makes client.request of `subscribe`. 0 or -ENOMEM. */
int subscribe_options_pack(struct subscribe_options *options);

/* The policy of that name: block, conflate, drop-oldest, disconnect. False, and nothing is set:
 * there is none. */
bool subscribe_policy_from_name(const char *name, Stockservice__SlowPolicy *ret_policy);

/* What is said of any other. */
#define SUBSCRIBE_POLICY_WRONG "the policy is none of block, conflate, drop-oldest and disconnect"
