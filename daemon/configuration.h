/*
 * All that stockd is told from outside, as one object: settings from files, environment and command
 * line, and what they name: certificates, keys, a password, tickers. It is read whole or not at
 * all, so that a new one can be read beside the one that is in force, and takes its place only when
 * nothing is wrong with it.
 */
#pragma once

#include "arguments.h"
#include "base/credentials.h"
#include "base/exporter.h"
#include "base/systemd.h"
#include "market/feed.h"
#include "rpc/server.h"
#include "services/stock.h"
#include "settings.h"
#include "tickers.h"

/* Where there are listeners. X(identifier, section and name of sockets that the manager passes) */
#define PLACE_GROUPS(X)                                                                            \
    X(GRPC, "grpc")                                                                                \
    X(METRICS, "metrics")

enum place_group {
#define X(identifier, name) GROUP_##identifier,
    PLACE_GROUPS(X)
#undef X
        GROUP_COUNT,
};

extern const char *const place_group_names[GROUP_COUNT];

/* Where a configuration is read from, every time. */
struct configuration_source {
    int argc;
    char **argv;
    struct arguments arguments;
    struct systemd_sockets sockets;
    bool again; /* it has been read before */
};

struct configuration {
    struct config config; /* of `settings` */
    struct settings settings;

    /* Where a stockd that is started with it listens. */
    struct config_endpoints places[GROUP_COUNT];

    /* Of each place that is listened on, which are those of the configuration that stockd was
     * started with; NULL: it is without TLS. */
    struct credentials *credentials[GROUP_COUNT][CONFIG_ENDPOINTS_MAX];

    struct tickers tickers;
    char *password;           /* for metrics; NULL: none */
    uint64_t max_connections; /* as many as there are descriptors for */
    uint64_t seed;            /* a random one, if none is set */
};

enum {
    CONFIGURATION_WRONG = 1, /* what is wrong was logged, all of it in one go */
    CONFIGURATION_WRONG_OPTIONS,
};

/*
 * Reads the settings alone, which is enough for config_dump(). 0, -ENOMEM, or one of the above.
 */
int configuration_read(struct configuration **ret_configuration,
                       const struct configuration_source *source);

/*
 * Looks at all that the settings do not tell by themselves: the places, and every file that they
 * name. At a reload `started` is the configuration that this program listens with, and `current`
 * that in force; what `configuration` has to say about listening is then checked, for the next
 * start, and not used. At the start both are NULL. 0, -ENOMEM, or CONFIGURATION_WRONG.
 */
int configuration_complete(struct configuration *configuration,
                           const struct configuration_source *source,
                           const struct configuration *started,
                           const struct configuration *current);

/* NULL is allowed; returns NULL. */
struct configuration *configuration_free(struct configuration *configuration);

/* Frees certificates, keys and password: what is left says what it was started with. */
void configuration_forget_secrets(struct configuration *configuration);

/* Logs the settings that are not the defaults, the limits that this process cannot keep, and
 * addresses that are not opened because the service manager passes sockets. */
void configuration_log(const struct configuration *configuration);

/*
 * Logs what `new` changes: settings that it replaces those of `current` with, and those that a
 * restart would replace those of `started` with.
 */
void configuration_log_changes(const struct configuration *new, const struct configuration *current,
                               const struct configuration *started);

/* The parts of it, as options of those who need them: what these borrow lives as long as it. */
struct server_options configuration_server_options(const struct configuration *configuration);
struct stock_options configuration_stock_options(const struct configuration *configuration);

/* All but epoch, encode, clock and context. */
struct market_options configuration_market_options(const struct configuration *configuration);

/* The feed of the market, and of each kind what it needs; the seed of a walk is `seed`. */
enum feed_kind configuration_feed_kind(const struct configuration *configuration);
const struct feed_ticker *configuration_tickers(const struct configuration *configuration,
                                                size_t *ret_count);
struct feed_replay_options configuration_replay_options(const struct configuration *configuration);
const char *configuration_pipe(const struct configuration *configuration);

uint64_t configuration_stale_after_ms(const struct configuration *configuration);
uint64_t configuration_min_heartbeat_ms(const struct configuration *configuration);

/* Fills in what the index-th exporter does not have in common with the others, or with those of
 * other programs. */
void configuration_exporter_options(const struct configuration *configuration, unsigned index,
                                    struct exporter_options *options);

/* When the first of the certificates ends, in seconds since 1970; 0 without any. */
int64_t configuration_certificate_expires(const struct configuration *configuration);
