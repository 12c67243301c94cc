/*
 * The scrape endpoint: GET /metrics, a landing page at /, /-/healthy and /-/ready. Only its files
 * know libmicrohttpd, which runs inside the caller's libuv loop, with no thread of its own.
 *
 * /metrics is text format 0.0.4, or OpenMetrics 1.0 when the Accept header prefers it, compressed
 * with gzip when Accept-Encoding allows it. HEAD works wherever GET does. Anything else is 404; a
 * method other than GET and HEAD is 405 with an Allow header. Connections (64), request sizes and
 * idle time (30 s) are limited; where all connections are taken, the one whose last request is
 * longest ago is closed for a newcomer, and so it is where descriptors have run out; without one of
 * its own to close newcomers wait in the kernel.
 */
#pragma once

#include "base/credentials.h"
#include "base/endpoint.h"
#include "base/metrics.h"
#include "base/ranges.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <uv.h>

struct exporter;

struct exporter_options {
    const char *program; /* shown on the landing page, with `version` */
    const char *version;
    /* As metrics_render(), with the table and its context that the program chose. */
    int (*render)(void *context, enum metrics_format format, char **ret_text, size_t *ret_size);
    /* Is the program ready for work? 200 or 503 at /-/ready. */
    bool (*ready)(void *context);
    void *context;

    /* TLS with these, a reference is taken; NULL: none. A client certificate that they require must
     * be good. */
    struct credentials *credentials;

    /* Basic authentication (RFC 7617): for every page but /-/healthy and /-/ready; NULL: none.
     * Without TLS it is as readable as the rest. */
    const char *user;
    const char *password;

    /* Who may connect; none: everybody. */
    const struct range *allow;
    size_t allow_count;
};

/*
 * Listens on `endpoint`, as endpoint_listen() does; `endpoint->tls` says whether the credentials
 * are used. `options` is copied; its strings (plain text, shown in HTML as they are), ranges and
 * context are borrowed. 0 or a negative errno, such as -EADDRINUSE; then, too, the loop must run
 * once more before it is closed. One exporter is one listener; a program may have several.
 */
int exporter_new(struct exporter **ret_exporter, uv_loop_t *loop, const struct endpoint *endpoint,
                 const struct exporter_options *options);

/*
 * Who may read from now on: the last five of exporter_new()'s options (credentials, user, password,
 * and the ranges) take the place of those that it has; what was borrowed with those is not needed
 * any more. New connections use the credentials and ranges, those that are open keep what they
 * have; the password is asked for at every request. An exporter with TLS must get credentials, for
 * one without they do nothing.
 */
void exporter_configure(struct exporter *exporter, const struct exporter_options *options);

/* Connections that were turned away because of `allow`, and requests because of their password. */
uint64_t exporter_refused(const struct exporter *exporter);

/* The address it listens on, with the port that the kernel chose. 0 or a negative errno. */
int exporter_address(const struct exporter *exporter, struct sockaddr_storage *ret_address);

/*
 * Stops listening, drops its connections and frees the exporter once libuv has closed its handles:
 * the loop must run until then. The port is free when this returns. Not from inside `render` or
 * `ready`. NULL is allowed; returns NULL.
 */
struct exporter *exporter_free(struct exporter *exporter);
