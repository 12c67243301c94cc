/*
 * The table of stockd's settings, and where they come from. What a setting means to somebody who
 * runs stockd stands in stockd.conf(5); a test compares the two.
 */
#include "settings.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct settings, member)
#define KIB 1024.0
#define MIB (1024.0 * KIB)
#define SECOND 1000.0
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)

const struct config_setting settings_table[] = {
    {"grpc", "listen", CONFIG_ENDPOINTS, AT(grpc.listen), "[::]:4444", 1, CONFIG_ENDPOINTS_MAX,
     "Addresses on which clients are served."},
    {"grpc", "max_connections", CONFIG_COUNT, AT(grpc.max_connections), "10000", 1, 1000000,
     "Connections at once; further ones are refused."},
    {"grpc", "max_streams", CONFIG_COUNT, AT(grpc.max_streams), "1000", 1, 100000,
     "Calls at once on one connection."},
    {"grpc", "max_streams_total", CONFIG_COUNT, AT(grpc.max_streams_total), "250000", 1, 10000000,
     "Calls at once on all connections together."},
    {"grpc", "max_header_bytes", CONFIG_SIZE, AT(grpc.max_header_bytes), "8K", KIB, 16 * KIB,
     "Size of the header list of one call."},
    {"grpc", "max_message_bytes", CONFIG_SIZE, AT(grpc.max_message_bytes), "4M", KIB, 64 * MIB,
     "Size of one message from a client."},
    {"grpc", "preface_timeout", CONFIG_DURATION, AT(grpc.preface_timeout_ms), "10s", SECOND / 10,
     HOUR, "Time that a new connection has to speak HTTP/2."},
    {"grpc", "request_timeout", CONFIG_DURATION, AT(grpc.request_timeout_ms), "30s", SECOND / 10,
     HOUR, "Time that a call has to send its whole request."},
    {"grpc", "shutdown_timeout", CONFIG_DURATION, AT(grpc.shutdown_timeout_ms), "5s", SECOND / 10,
     HOUR, "Time that clients have to take what is left when stockd stops."},
    {"metrics", "listen", CONFIG_ENDPOINTS, AT(metrics.listen), "[::]:2112", 0,
     CONFIG_ENDPOINTS_MAX, "Addresses on which metrics are served; none if empty."},
    {"stream", "interval", CONFIG_DURATION, AT(stream.interval_ms), "100ms", 0, DAY,
     "Time between two updates of a call; 0: as fast as the client takes them."},
    {"stream", "initial_delay", CONFIG_DURATION, AT(stream.initial_delay_ms), "0", 0, DAY,
     "Time before the first update of a call."},
    {"stream", "ticker", CONFIG_STRING, AT(stream.ticker), "AAPL", 1, 32,
     "The ticker symbol in each update."},
    {"stream", "start_price", CONFIG_NUMBER, AT(stream.start_price), "150", 0.01, 1e9,
     "The price at which each call starts."},
    {"stream", "seed", CONFIG_SEED, AT(stream.seed), "random", 0, 0,
     "A number makes the prices the same in every run."},
    {"log", "level", CONFIG_LEVEL, AT(log.level), "info", 0, 0,
     "The least urgent messages that are logged."},
};
const size_t settings_table_count = ELEMENTSOF(settings_table);

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

int settings_load(struct config *config, const char *file)
{
    _cleanup_free_ char *directory = NULL;
    int r = 0;

    if (asprintf(&directory, "%s.d", file ? file : SETTINGS_FILE) < 0) {
        directory = NULL;
        return -ENOMEM;
    }
    r = config_load_file(config, file ? file : SETTINGS_FILE, file != NULL);
    if (r < 0)
        return r;
    r = config_load_directory(config, directory);
    for (size_t i = 0; r == 0 && i < ELEMENTSOF(port_variables); i++)
        r = load_port(config, port_variables[i].name, port_variables[i].section);
    return r;
}
