/*
 * The settings of stockd: the structure that they are read into. The table that says everything
 * else about them is in settings.c.
 */
#pragma once

#include "base/config.h"

struct settings {
    struct {
        struct config_endpoints listen;
        uint64_t max_connections;
        uint64_t max_streams;       /* a connection */
        uint64_t max_streams_total; /* all connections together */
        uint64_t max_header_bytes;
        uint64_t max_message_bytes;
        uint64_t preface_timeout_ms;
        uint64_t request_timeout_ms;
        uint64_t drain_timeout_ms;
        uint64_t shutdown_timeout_ms;
        uint64_t stall_timeout_ms;
        uint64_t keepalive_time_ms;
        uint64_t keepalive_timeout_ms;
        uint64_t min_ping_interval_ms;
        uint64_t min_ping_interval_idle_ms;
        uint64_t max_idle_ms;
        uint64_t max_age_ms;
        uint64_t max_age_grace_ms;
        bool compress_updates;
    } grpc;
    struct {
        char *certificate; /* NULL: none, like the next two */
        char *key;
        char *client_ca;
        int client_certificate; /* enum client_certificate */
        char *priorities;
        uint64_t handshake_timeout_ms;
    } tls;
    struct {
        struct config_ranges allow;
        struct config_names allow_names;
        uint64_t max_connections_per_address;
    } access;
    struct {
        struct config_endpoints listen; /* may be empty: no metrics */
        struct config_ranges allow;
        char *user;
        char *password_file; /* NULL: none */
    } metrics;
    struct {
        uint64_t interval_ms; /* 0: as fast as the client takes them */
        uint64_t initial_delay_ms;
        char *ticker;
        double start_price;
        struct config_seed seed;
    } stream;
    struct {
        int feed; /* enum feed_kind */
        struct config_names tickers;
        char *tickers_file; /* NULL: none, like the next two */
        char *pipe;
        char *replay_file;
        double replay_speed;
        bool replay_loop;
        double start_price; /* of tickers that do not say it themselves, like the next two */
        uint64_t interval_ms;
        double volatility;
        uint64_t stale_after_ms;
        uint64_t history_size;
        uint64_t history_age_ms;
        uint64_t max_queue;
        uint64_t soft_bytes;
        uint64_t soft_age_ms;
        uint64_t soft_time_ms;
        uint64_t hard_bytes;
        uint64_t hard_age_ms;
        uint64_t min_heartbeat_ms;
        uint64_t max_subscriptions_size;
    } market;
    struct {
        int level;
    } log;
};

/* A section [ticker NAME]. */
struct settings_ticker {
    double start_price;
    uint64_t interval_ms;
    double volatility;
};

/* The table of these; a tickers_file has columns of the same names, with the same limits. */
enum settings_ticker_key {
    SETTINGS_TICKER_START_PRICE,
    SETTINGS_TICKER_INTERVAL,
    SETTINGS_TICKER_VOLATILITY,
    SETTINGS_TICKER_KEY_COUNT,
};

extern const struct config_setting settings_ticker_table[SETTINGS_TICKER_KEY_COUNT];

#define SETTINGS_TICKERS_MAX 16384
#define SETTINGS_TICKER_NAME_MAX 32

extern const struct config_setting settings_table[];
extern const size_t settings_table_count;

/*
 * Where the configuration is searched, as systemd searches its own: what is nearer to whoever runs
 * the machine comes first.
 */
#define SETTINGS_FOLDERS "/etc", "/run", "/usr/local/lib", "/usr/lib"
/* In each of them: the file, and with ".d" behind the directory of its drop-ins. */
#define SETTINGS_FILE "stockd/stockd.conf"

/* config_init() with all that stockd's files may have. */
int settings_init(struct config *config, struct settings *settings);

/*
 * Reads every layer but the command line into `config`, which the caller made with
 * settings_init(): the files, then the environment. Faults are in config->faults. 0 or -ENOMEM.
 *
 * The files are `file`, which must exist, and the drop-ins "*.conf" in the directory that is called
 * so with ".d" behind; or, if `file` is NULL, those that settings_search() finds. Where they are
 * read `again`, by a program that serves, `file` must be a regular one, too: a pipe would stop it,
 * or have nothing more, which would be the defaults of all settings.
 */
int settings_load(struct config *config, const char *file, const char *instance, bool again);

/*
 * Reads the files of the search path below `root` ("": those of this machine): the first
 * SETTINGS_FILE that there is in a folder; the drop-ins for it of all folders together, as
 * config_load_directories() has it; and, if `instance` is not NULL, over them those in
 * "stockd/stockd@INSTANCE.conf.d". None needs to exist. 0 or -ENOMEM.
 */
int settings_search(struct config *config, const char *root, const char *instance);
