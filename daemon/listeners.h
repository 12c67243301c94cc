/*
 * Everything that stockd listens on, with what it shows and asks for there.
 */
#pragma once

#include "base/exporter.h"
#include "rpc/server.h"
#include "settings.h"

/* The lists of endpoints. */
enum listeners_group {
    LISTENERS_GRPC,
    LISTENERS_METRICS,
    LISTENERS_GROUP_COUNT,
};

/* What each endpoint shows and asks for; NULL: it is without TLS. */
struct listeners_credentials {
    struct credentials *of[LISTENERS_GROUP_COUNT][CONFIG_ENDPOINTS_MAX];
};

struct listeners {
    const struct settings *settings;
    struct listeners_credentials credentials;
    char *password;
    struct server *server;
    struct exporter *exporters[CONFIG_ENDPOINTS_MAX];
};

/*
 * Reads certificates, keys and the password that `settings` name; `settings` is borrowed until
 * listeners_close(). What is wrong is logged, all of it in one go. 0, -EINVAL, or -ENOMEM.
 */
int listeners_load(struct listeners *listeners, const struct settings *settings);

/*
 * Listens everywhere. `options` is what all exporters have in common; its credentials, password and
 * ranges are filled in here. What fails is logged. 0 or a negative errno.
 */
int listeners_open(struct listeners *listeners, struct server *server, uv_loop_t *loop,
                   const struct exporter_options *options);

/*
 * Reads certificates and keys again: connections that come from now on get them. If one is wrong,
 * all stay as they were, and that is logged.
 */
void listeners_reload(struct listeners *listeners);

/* When the first of the certificates ends, in seconds since 1970; 0 without any. */
int64_t listeners_certificate_expires(const struct listeners *listeners);

/* Connections and requests that exporters refused, of all of them. */
uint64_t listeners_metrics_refused(const struct listeners *listeners);

/* Ends the exporters (the server's listeners are its own) and frees what was read. Zeroed memory is
 * allowed. */
void listeners_close(struct listeners *listeners);
