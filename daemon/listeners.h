/*
 * Everything that stockd listens on, with what it shows and asks for there.
 */
#pragma once

#include "configuration.h"

struct listeners {
    const struct configuration *configuration;
    struct server *server;
    struct exporter *exporters[CONFIG_ENDPOINTS_MAX];
    unsigned exporter_count;
};

/*
 * Listens at all places of `configuration`, which is borrowed until another takes its place, or
 * listeners_close(). `options` is what all exporters have in common. What fails is logged, with the
 * place. 0 or a negative errno.
 */
int listeners_open(struct listeners *listeners, const struct configuration *configuration,
                   struct server *server, uv_loop_t *loop, const struct exporter_options *options);

/*
 * Connections that come from now on get the certificates, passwords and ranges of `configuration`,
 * which was completed for the places that are open.
 */
void listeners_configure(struct listeners *listeners, const struct configuration *configuration);

/* When the first of the certificates ends, in seconds since 1970; 0 without any. */
int64_t listeners_certificate_expires(const struct listeners *listeners);

/* Connections and requests that exporters refused, of all of them. */
uint64_t listeners_metrics_refused(const struct listeners *listeners);

/* Ends the exporters; the server's listeners are its own. Zeroed memory is allowed. */
void listeners_close(struct listeners *listeners);
