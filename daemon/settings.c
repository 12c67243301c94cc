/*
 * The table of stockd's settings, and where they come from. What a setting means to somebody who
 * runs stockd stands in stockd.conf(5); a test compares the two.
 */
#include "settings.h"

#include "base/credentials.h"
#include "base/util.h"
#include "market/feed.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define AT(member) offsetof(struct settings, member)
#define KIB 1024.0
#define MIB (1024.0 * KIB)
#define SECOND 1000.0
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)
#define GIB (1024.0 * MIB)

static_assert(SETTINGS_TICKERS_MAX == MARKET_TICKERS_MAX &&
                  SETTINGS_TICKER_NAME_MAX == MARKET_TICKER_SIZE_MAX,
              "a market takes what can be set");

static const char *const feeds[] = {
#define X(identifier, label) label,
    FEED_KINDS(X)
#undef X
        NULL,
};

#define PRICE_MIN 0.01
#define PRICE_MAX 1e9

const struct config_setting settings_table[] = {
    {"grpc", "listen", CONFIG_ENDPOINTS, CONFIG_RESTART, AT(grpc.listen), "[::]:4444", 1,
     CONFIG_ENDPOINTS_MAX, "Addresses on which clients are served."},
    {"grpc", "max_connections", CONFIG_COUNT, CONFIG_RELOAD, AT(grpc.max_connections), "10000", 1,
     1000000, "Connections at once; further ones are refused."},
    {"grpc", "max_streams", CONFIG_COUNT, CONFIG_RELOAD, AT(grpc.max_streams), "1000", 1, 100000,
     "Calls at once on one connection."},
    {"grpc", "max_streams_total", CONFIG_COUNT, CONFIG_RELOAD, AT(grpc.max_streams_total), "250000",
     1, 10000000, "Calls at once on all connections together."},
    {"grpc", "max_header_bytes", CONFIG_SIZE, CONFIG_RELOAD, AT(grpc.max_header_bytes), "8K", KIB,
     16 * KIB, "Size of the header list of one call."},
    {"grpc", "max_message_bytes", CONFIG_SIZE, CONFIG_RELOAD, AT(grpc.max_message_bytes), "4M", KIB,
     64 * MIB, "Size of one message from a client."},
    {"grpc", "preface_timeout", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.preface_timeout_ms), "10s",
     SECOND / 10, HOUR, "Time that a new connection has to speak HTTP/2."},
    {"grpc", "request_timeout", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.request_timeout_ms), "30s",
     SECOND / 10, HOUR, "Time that a call has to send its whole request."},
    {"grpc", "drain_timeout", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.drain_timeout_ms), "0", 0,
     HOUR, "Time that calls may go on when stockd is asked to stop."},
    {"grpc", "shutdown_timeout", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.shutdown_timeout_ms), "5s",
     SECOND / 10, HOUR, "Time that clients have to take what is left when stockd stops."},
    {"grpc", "stall_timeout", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.stall_timeout_ms), "10m", 0,
     DAY, "Time that a client may take nothing of what waits for it; 0: any time."},
    {"grpc", "keepalive_time", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.keepalive_time_ms), "2h", 0,
     30 * DAY, "Time without a byte from a client after which it is sent a PING; 0: never."},
    {"grpc", "keepalive_timeout", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.keepalive_timeout_ms),
     "20s", SECOND / 10, HOUR, "Time for its answer."},
    {"grpc", "min_ping_interval", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.min_ping_interval_ms),
     "5m", 0, DAY, "Time between PINGs of a client that has a call; 0: any."},
    {"grpc", "min_ping_interval_idle", CONFIG_DURATION, CONFIG_RELOAD,
     AT(grpc.min_ping_interval_idle_ms), "2h", 0, DAY,
     "Time between PINGs of a client that has no call; 0: any."},
    {"grpc", "max_idle", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.max_idle_ms), "0", 0, 30 * DAY,
     "Time without a call after which a connection is ended; 0: never."},
    {"grpc", "max_age", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.max_age_ms), "0", 0, 30 * DAY,
     "Age after which a connection takes no new calls; 0: any age."},
    {"grpc", "max_age_grace", CONFIG_DURATION, CONFIG_RELOAD, AT(grpc.max_age_grace_ms), "0", 0,
     30 * DAY, "Time that the calls of such a connection may go on; 0: any time."},
    {"grpc", "compress_updates", CONFIG_BOOLEAN, CONFIG_RELOAD, AT(grpc.compress_updates), "no", 0,
     0, "Compress each update for clients that take gzip."},
    {"tls", "certificate", CONFIG_PATH, CONFIG_RELOAD, AT(tls.certificate), "", 0, 0,
     "The certificate and its chain, for listeners with tls=yes."},
    {"tls", "key", CONFIG_PATH, CONFIG_RELOAD, AT(tls.key), "", 0, 0,
     "Its private key; not readable by others."},
    {"tls", "client_ca", CONFIG_PATH, CONFIG_RELOAD, AT(tls.client_ca), "", 0, 0,
     "The authorities of clients' certificates."},
    {"tls", "client_certificate", CONFIG_CLIENT_CERTIFICATE, CONFIG_RELOAD,
     AT(tls.client_certificate), "no", 0, 0, "Whether clients must show a certificate."},
    {"tls", "priorities", CONFIG_STRING, CONFIG_RELOAD, AT(tls.priorities),
     CREDENTIALS_PRIORITIES_DEFAULT, 1, 180,
     "Versions and ciphers, in the words of GnuTLS; never below TLS 1.2."},
    {"tls", "handshake_timeout", CONFIG_DURATION, CONFIG_RELOAD, AT(tls.handshake_timeout_ms),
     "10s", SECOND / 10, HOUR, "Time that a handshake may take."},
    {"access", "allow", CONFIG_RANGES, CONFIG_RELOAD, AT(access.allow), "", 0, CONFIG_RANGES_MAX,
     "Addresses that may connect; all if empty."},
    {"access", "allow_names", CONFIG_NAMES, CONFIG_RELOAD, AT(access.allow_names), "", 0,
     CONFIG_NAMES_MAX, "Names of which a client's certificate must have one; any if empty."},
    {"access", "max_connections_per_address", CONFIG_COUNT, CONFIG_RELOAD,
     AT(access.max_connections_per_address), "0", 0, 1000000,
     "Connections at once from one address; 0: any number."},
    {"metrics", "listen", CONFIG_ENDPOINTS, CONFIG_RESTART, AT(metrics.listen), "[::]:2112", 0,
     CONFIG_ENDPOINTS_MAX, "Addresses on which metrics are served; none if empty."},
    {"metrics", "allow", CONFIG_RANGES, CONFIG_RELOAD, AT(metrics.allow), "", 0, CONFIG_RANGES_MAX,
     "Addresses that may read metrics; all if empty."},
    {"metrics", "user", CONFIG_STRING, CONFIG_RELOAD, AT(metrics.user), "", 0, 64,
     "Name that scrapers must give, with the password."},
    {"metrics", "password_file", CONFIG_PATH, CONFIG_RELOAD, AT(metrics.password_file), "", 0, 0,
     "File with the password; not readable by others."},
    {"stream", "interval", CONFIG_DURATION, CONFIG_RELOAD, AT(stream.interval_ms), "100ms", 0, DAY,
     "Time between two updates of a call; 0: as fast as the client takes them."},
    {"stream", "initial_delay", CONFIG_DURATION, CONFIG_RELOAD, AT(stream.initial_delay_ms), "0", 0,
     DAY, "Time before the first update of a call."},
    {"stream", "ticker", CONFIG_STRING, CONFIG_RELOAD, AT(stream.ticker), "AAPL", 1, 32,
     "The ticker symbol in each update."},
    {"stream", "start_price", CONFIG_NUMBER, CONFIG_RELOAD, AT(stream.start_price), "150",
     PRICE_MIN, PRICE_MAX, "The price at which each call starts."},
    {"stream", "seed", CONFIG_SEED, CONFIG_RELOAD, AT(stream.seed), "random", 0, 0,
     "A number makes the prices the same in every run."},
    {"market", "feed", CONFIG_CHOICE, CONFIG_RESTART, AT(market.feed), "walk", 0, 0,
     "Where the updates of the market come from.", feeds},
    {"market", "tickers", CONFIG_NAMES, CONFIG_RESTART, AT(market.tickers), "", 0, CONFIG_NAMES_MAX,
     "Tickers, besides those of tickers_file and of sections [ticker NAME]."},
    {"market", "tickers_file", CONFIG_PATH, CONFIG_RESTART, AT(market.tickers_file), "", 0, 0,
     "CSV file with a ticker in each line."},
    {"market", "start_price", CONFIG_NUMBER, CONFIG_RESTART, AT(market.start_price), "100",
     PRICE_MIN, PRICE_MAX, "The price at which a ticker's walk starts."},
    {"market", "interval", CONFIG_DURATION, CONFIG_RESTART, AT(market.interval_ms), "1s", 1, DAY,
     "Time between two updates of a ticker's walk."},
    {"market", "volatility", CONFIG_NUMBER, CONFIG_RESTART, AT(market.volatility), "0.001", 0, 1,
     "Standard deviation of a step of the walk, as a part of the price."},
    {"market", "pipe", CONFIG_PATH, CONFIG_RESTART, AT(market.pipe), "", 0, 0,
     "FIFO of which feed=pipe reads lines of JSON."},
    {"market", "replay_file", CONFIG_PATH, CONFIG_RESTART, AT(market.replay_file), "", 0, 0,
     "CSV file of trades or quotes for feed=replay."},
    {"market", "replay_speed", CONFIG_NUMBER, CONFIG_RESTART, AT(market.replay_speed), "1", 0, 1e6,
     "How many times as fast as it was; 0: as fast as can be."},
    {"market", "replay_loop", CONFIG_BOOLEAN, CONFIG_RESTART, AT(market.replay_loop), "no", 0, 0,
     "Whether the replay begins anew at its end."},
    {"market", "stale_after", CONFIG_DURATION, CONFIG_RELOAD, AT(market.stale_after_ms), "1m", 0,
     DAY, "Time without an update after which the feed is stale; 0: never."},
    {"market", "history_size", CONFIG_SIZE, CONFIG_RESTART, AT(market.history_size), "16M",
     64 * KIB, 2 * GIB, "Bytes of updates that are kept, to be resumed from."},
    {"market", "history_age", CONFIG_DURATION, CONFIG_RESTART, AT(market.history_age_ms), "10m", 0,
     DAY, "Time that they are kept at most; 0: only the size counts."},
    {"market", "max_queue", CONFIG_COUNT, CONFIG_RELOAD, AT(market.max_queue), "10000", 1, 10000000,
     "Updates that may wait for a subscriber, whatever it asks for."},
    {"market", "soft_bytes", CONFIG_SIZE, CONFIG_RELOAD, AT(market.soft_bytes), "256K", 0, 4 * GIB,
     "Bytes that may wait for a subscriber for longer than soft_time; 0: any."},
    {"market", "soft_age", CONFIG_DURATION, CONFIG_RELOAD, AT(market.soft_age_ms), "5s", 0, DAY,
     "Age that what waits may have for longer than soft_time; 0: any."},
    {"market", "soft_time", CONFIG_DURATION, CONFIG_RELOAD, AT(market.soft_time_ms), "10s", 0, DAY,
     "Time that a subscriber may be beyond a soft limit."},
    {"market", "hard_bytes", CONFIG_SIZE, CONFIG_RELOAD, AT(market.hard_bytes), "4M", 0, 4 * GIB,
     "Bytes that may wait for a subscriber; 0: any."},
    {"market", "hard_age", CONFIG_DURATION, CONFIG_RELOAD, AT(market.hard_age_ms), "1m", 0, DAY,
     "Age that what waits may have; 0: any."},
    {"market", "min_heartbeat", CONFIG_DURATION, CONFIG_RELOAD, AT(market.min_heartbeat_ms), "1s",
     SECOND / 10, HOUR, "Shortest time between heartbeats, whatever a subscriber asks for."},
    {"market", "max_subscriptions_size", CONFIG_SIZE, CONFIG_RESTART,
     AT(market.max_subscriptions_size), "256M", MIB, 64 * GIB,
     "Memory that all subscriptions may take together."},
    {"log", "level", CONFIG_LEVEL, CONFIG_RELOAD, AT(log.level), "info", 0, 0,
     "The least urgent messages that are logged."},
};
const size_t settings_table_count = ELEMENTSOF(settings_table);

#undef AT
#define AT(member) offsetof(struct settings_ticker, member)

const struct config_setting settings_ticker_table[SETTINGS_TICKER_KEY_COUNT] = {
    [SETTINGS_TICKER_START_PRICE] = {"ticker", "start_price", CONFIG_NUMBER, CONFIG_RESTART,
                                     AT(start_price), NULL, PRICE_MIN, PRICE_MAX,
                                     "The price at which its walk starts."},
    [SETTINGS_TICKER_INTERVAL] = {"ticker", "interval", CONFIG_DURATION, CONFIG_RESTART,
                                  AT(interval_ms), NULL, 1, DAY,
                                  "Time between two of its updates."},
    [SETTINGS_TICKER_VOLATILITY] = {"ticker", "volatility", CONFIG_NUMBER, CONFIG_RESTART,
                                    AT(volatility), NULL, 0, 1,
                                    "Standard deviation of a step, as a part of the price."},
};

static const struct config_kind ticker_kind = {
    .section = "ticker",
    .table = settings_ticker_table,
    .count = SETTINGS_TICKER_KEY_COUNT,
    .size = sizeof(struct settings_ticker),
    .sections_max = SETTINGS_TICKERS_MAX,
    .name_max = SETTINGS_TICKER_NAME_MAX,
    .change = CONFIG_RESTART,
};

int settings_init(struct config *config, struct settings *settings)
{
    int r = config_init(config, settings_table, settings_table_count, settings);

    config_allow_sections(config, &ticker_kind);
    return r;
}

/* A variable that holds the port of the one listener of a section, on every address. */
static const struct {
    const char *name;
    const char *section;
} port_variables[] = {
    {"GRPC_SERVER_PORT", "grpc"},
    {"STOCK_SERVICE_METRICS_SERVER_PORT", "metrics"},
};

static int load_port(struct config *config, const char *name, const char *section)
{
    const char *port = getenv(name);
    _cleanup_free_ char *origin = NULL;

    if (!port || !*port)
        return 0;
    if (asprintf(&origin, "environment variable %s", name) < 0) {
        origin = NULL;
        return -ENOMEM;
    }
    return config_set_port(config, section, "listen", port, origin);
}

static const char *const folders[] = {SETTINGS_FOLDERS};

/* The first that there is; what is in the way of reading it is a fault, and no reason to look on.
 */
static int load_main_file(struct config *config, const char *root)
{
    for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
        _cleanup_free_ char *path = NULL;
        struct stat status;

        if (asprintf(&path, "%s%s/" SETTINGS_FILE, root, folders[i]) < 0) {
            path = NULL;
            return -ENOMEM;
        }
        if (stat(path, &status) == 0 || errno != ENOENT || config_leads_nowhere(path))
            return config_load_plain_file(config, path, true);
    }
    return 0;
}

/* Those in directories of this name, in all folders. */
static int load_drop_ins(struct config *config, const char *root, const char *name)
{
    char *paths[ELEMENTSOF(folders)] = {0};
    int r = 0;

    for (size_t i = 0; r == 0 && i < ELEMENTSOF(folders); i++)
        if (asprintf(&paths[i], "%s%s/%s", root, folders[i], name) < 0) {
            paths[i] = NULL;
            r = -ENOMEM;
        }
    if (r == 0)
        r = config_load_directories(config, (const char *const *)paths, ELEMENTSOF(paths));
    for (size_t i = 0; i < ELEMENTSOF(paths); i++)
        free(paths[i]);
    return r;
}

int settings_search(struct config *config, const char *root, const char *instance)
{
    _cleanup_free_ char *name = NULL;
    int r = load_main_file(config, root);

    if (r == 0)
        r = load_drop_ins(config, root, SETTINGS_FILE ".d");
    if (r < 0 || !instance)
        return r;
    if (asprintf(&name, "stockd/stockd@%s.conf.d", instance) < 0) {
        name = NULL;
        return -ENOMEM;
    }
    return load_drop_ins(config, root, name);
}

/* What somebody named. */
static int load_named(struct config *config, const char *file, bool again)
{
    _cleanup_free_ char *directory = NULL;
    int r = 0;

    if (asprintf(&directory, "%s.d", file) < 0) {
        directory = NULL;
        return -ENOMEM;
    }
    r = again ? config_load_plain_file(config, file, true) : config_load_file(config, file, true);
    if (r < 0)
        return r;
    return config_load_directories(config, (const char *const[]){directory}, 1);
}

int settings_load(struct config *config, const char *file, const char *instance, bool again)
{
    int r = file ? load_named(config, file, again) : settings_search(config, "", instance);

    for (size_t i = 0; r == 0 && i < ELEMENTSOF(port_variables); i++)
        r = load_port(config, port_variables[i].name, port_variables[i].section);
    return r;
}
