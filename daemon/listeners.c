/*
 * Listeners with TLS each have credentials of their own, even where several read the same files:
 * few have more than two, and so each can be replaced and freed by itself.
 */
#include "listeners.h"

#include "base/events.h"
#include "base/log.h"
#include "base/systemd.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <uv.h>

/* As messages name the groups. */
static const char *const shown_names[GROUP_COUNT] = {
    [GROUP_GRPC] = "gRPC",
    [GROUP_METRICS] = "metrics",
};

#define LISTEN_ERROR_MAX 200

/* A Unix socket's ENOENT has two causes, of which the usual words name one; and in the sandbox of
 * its service stockd can make no such file, which no words of the kernel tell. */
static void say_error(const struct endpoint *endpoint, int error,
                      char text[static LISTEN_ERROR_MAX])
{
    bool is_service = endpoint->address.ss_family == AF_UNIX && systemd_wants_to_know();
    bool two_causes = error == -ENOENT && (endpoint->owner || endpoint->group);

    (void)snprintf(text, LISTEN_ERROR_MAX, "%s%s",
                   two_causes ? "no such directory, or no such owner or group" : uv_strerror(error),
                   is_service && error != -EADDRINUSE
                       ? " (in the sandbox of stockd.service a socket unit opens it, see "
                         "stockd.conf(5))"
                       : "");
}

static int log_listening(enum place_group group, const struct endpoint *wanted, int r,
                         const struct sockaddr_storage *address)
{
    const struct sockaddr_storage *where = r < 0 ? &wanted->address : address;
    char text[ADDRESS_TEXT_MAX], error[LISTEN_ERROR_MAX];

    (void)address_format((const struct sockaddr *)where, text);
    if (r < 0) {
        say_error(wanted, r, error);
        log_event(LOG_ERR,
                  log_fields(LOG_EVENT(LISTEN_FAILED),
                             {"STOCKD_LISTENER", place_group_names[group]},
                             {"STOCKD_ADDRESS", text}, {"STOCKD_ERROR", error}),
                  "cannot listen for %s on %s: %s", shown_names[group], text, error);
    } else {
        log_event(LOG_INFO,
                  log_fields(LOG_EVENT(LISTENING), {"STOCKD_LISTENER", place_group_names[group]},
                             {"STOCKD_ADDRESS", text}),
                  "listening for %s on %s%s", shown_names[group], text,
                  wanted->tls ? " (TLS)" : "");
    }
    return r;
}

static int open_exporter(struct listeners *listeners, unsigned index, uv_loop_t *loop,
                         const struct exporter_options *common)
{
    const struct configuration *configuration = listeners->configuration;
    const struct endpoint *place = &configuration->places[GROUP_METRICS].endpoints[index];
    struct exporter **exporter = &listeners->exporters[index];
    struct exporter_options options = *common;
    struct sockaddr_storage address;
    int r;

    configuration_exporter_options(configuration, index, &options);
    r = exporter_new(exporter, loop, place, &options);
    if (r >= 0) {
        listeners->exporter_count++;
        r = exporter_address(*exporter, &address);
    }
    return log_listening(GROUP_METRICS, place, r, &address);
}

int listeners_open(struct listeners *listeners, const struct configuration *configuration,
                   struct server *server, uv_loop_t *loop, const struct exporter_options *options)
{
    const struct config_endpoints *places = configuration->places;
    int r = 0;

    listeners->configuration = configuration;
    listeners->server = server;
    for (unsigned i = 0; r >= 0 && i < places[GROUP_GRPC].count; i++) {
        const struct endpoint *place = &places[GROUP_GRPC].endpoints[i];
        struct sockaddr_storage address;

        r = server_listen(server, place, configuration->credentials[GROUP_GRPC][i], &address);
        r = log_listening(GROUP_GRPC, place, r, &address);
    }
    for (unsigned i = 0; r >= 0 && i < places[GROUP_METRICS].count; i++)
        r = open_exporter(listeners, i, loop, options);
    return r;
}

void listeners_configure(struct listeners *listeners, const struct configuration *configuration)
{
    listeners->configuration = configuration;
    for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++) {
        struct credentials *credentials = configuration->credentials[GROUP_GRPC][i];

        if (credentials)
            server_set_credentials(listeners->server, i, credentials);
    }
    for (unsigned i = 0; i < listeners->exporter_count; i++) {
        struct exporter_options options = {0};

        configuration_exporter_options(configuration, i, &options);
        exporter_configure(listeners->exporters[i], &options);
    }
}

int64_t listeners_certificate_expires(const struct listeners *listeners)
{
    return configuration_certificate_expires(listeners->configuration);
}

uint64_t listeners_metrics_refused(const struct listeners *listeners)
{
    uint64_t refused = 0;

    for (unsigned i = 0; i < listeners->exporter_count; i++)
        refused += exporter_refused(listeners->exporters[i]);
    return refused;
}

void listeners_close(struct listeners *listeners)
{
    for (unsigned i = 0; i < listeners->exporter_count; i++)
        listeners->exporters[i] = exporter_free(listeners->exporters[i]);
    listeners->exporter_count = 0;
}
