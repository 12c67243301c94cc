/*
 * What the scrape endpoint answers.
 */
#include "base/exporter_private.h"

#include "base/exporter_accept.h"
#include "base/util.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#define BODY_BYTES_MAX (1024 * 1024) /* read and thrown away; a longer one ends the connection */
/* Speed matters more than the last few per cent: the loop waits for it. */
#define GZIP_LEVEL 1

enum page {
    PAGE_ROOT,
    PAGE_METRICS,
    PAGE_HEALTHY,
    PAGE_READY,
};

static const char *const page_paths[] = {
    [PAGE_ROOT] = "/",
    [PAGE_METRICS] = "/metrics",
    [PAGE_HEALTHY] = "/-/healthy",
    [PAGE_READY] = "/-/ready",
};

/* Called for each header of the request. */
static enum MHD_Result read_header(void *user, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    struct exporter_accept *accept = user;

    if (!value)
        return MHD_YES;
    if (strcasecmp(name, MHD_HTTP_HEADER_ACCEPT) == 0)
        exporter_accept_types(accept, value);
    else if (strcasecmp(name, MHD_HTTP_HEADER_ACCEPT_ENCODING) == 0)
        exporter_accept_codings(accept, value);
    return MHD_YES;
}

/* Compresses `text`; 0 or -ENOMEM. */
static int compress_gzip(const char *text, size_t size, char **ret_bytes, size_t *ret_size)
{
    z_stream stream = {0};
    size_t capacity;
    char *bytes;

    if (deflateInit2(&stream, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    capacity = deflateBound(&stream, size);
    bytes = malloc(capacity);
    if (bytes) {
        stream.next_in = (Bytef *)(uintptr_t)text;
        stream.avail_in = (uInt)size;
        stream.next_out = (Bytef *)bytes;
        stream.avail_out = (uInt)capacity;
        /* The bound holds for all of it in one step. */
        if (deflate(&stream, Z_FINISH) != Z_STREAM_END) {
            free(bytes);
            bytes = NULL;
        }
    }
    *ret_size = stream.total_out;
    (void)deflateEnd(&stream);
    if (!bytes)
        return -ENOMEM;
    *ret_bytes = bytes;
    return 0;
}

/* Sends `response`, which may be NULL for want of memory; then the connection ends. */
static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status,
                              struct MHD_Response *response, const char *content_type)
{
    enum MHD_Result r;

    if (!response)
        return MHD_NO;
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    r = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return r;
}

static struct MHD_Response *text_response(const char *text)
{
    return MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                           MHD_RESPMEM_MUST_COPY);
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status,
                                   const char *text)
{
    return answer(connection, status, text_response(text), "text/plain; charset=utf-8");
}

static enum MHD_Result answer_root(struct exporter *exporter, struct MHD_Connection *connection)
{
    char page[1024];

    (void)snprintf(page, sizeof(page),
                   "<!DOCTYPE html>\n"
                   "<html lang=\"en\">\n"
                   "<head>\n"
                   "<meta charset=\"utf-8\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width\">\n"
                   "<title>%.64s</title>\n"
                   "</head>\n"
                   "<body>\n"
                   "<h1>%.64s %.64s</h1>\n"
                   "<ul>\n"
                   "<li><a href=\"/metrics\">Metrics</a></li>\n"
                   "<li><a href=\"/-/healthy\">Is it alive?</a></li>\n"
                   "<li><a href=\"/-/ready\">Is it ready?</a></li>\n"
                   "</ul>\n"
                   "</body>\n"
                   "</html>\n",
                   exporter->options.program, exporter->options.program, exporter->options.version);
    return answer(connection, MHD_HTTP_OK, text_response(page), "text/html; charset=utf-8");
}

/* Compresses *body in place of it. False without the memory for that: it is an answer as it is. */
static bool compress_body(char **body, size_t *size)
{
    size_t packed_size;
    char *packed;

    if (compress_gzip(*body, *size, &packed, &packed_size) < 0)
        return false;
    free(*body);
    *body = packed;
    *size = packed_size;
    return true;
}

static enum MHD_Result answer_metrics(struct exporter *exporter, struct MHD_Connection *connection)
{
    struct exporter_accept accept = EXPORTER_ACCEPT_INIT;
    struct MHD_Response *response;
    enum metrics_format format;
    char *body = NULL;
    size_t size = 0;
    bool gzip;

    (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, read_header, &accept);
    format = exporter_accept_format(&accept);
    if (exporter->options.render(exporter->options.context, format, &body, &size) < 0)
        return answer_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "Out of memory\n");
    gzip = exporter_accept_gzip(&accept) && compress_body(&body, &size);
    response = MHD_create_response_from_buffer(size, body, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(body);
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Accept, Accept-Encoding");
    if (gzip)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
    return answer(connection, MHD_HTTP_OK, response,
                  format == METRICS_OPENMETRICS
                      ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                      : "text/plain; version=0.0.4; charset=utf-8");
}

static enum MHD_Result answer_wrong_method(struct MHD_Connection *connection)
{
    struct MHD_Response *response = text_response("Method not allowed\n");

    if (response)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, response, "text/plain; charset=utf-8");
}

static enum MHD_Result answer_no_password(struct exporter *exporter,
                                          struct MHD_Connection *connection)
{
    struct MHD_Response *response = text_response("Unauthorized\n");
    char challenge[128];

    exporter->refused++;
    (void)snprintf(challenge, sizeof(challenge), "Basic realm=\"%.64s\", charset=\"UTF-8\"",
                   exporter->options.program);
    if (response)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, challenge);
    return answer(connection, MHD_HTTP_UNAUTHORIZED, response, "text/plain; charset=utf-8");
}

/*
 * Are they the same? The time that this takes says nothing of where they differ, nor, by comparing
 * digests, of how long the secret is.
 */
static bool same_secret(const char *given, const char *secret)
{
    uint8_t digests[2][32];

    return gnutls_hash_fast(GNUTLS_DIG_SHA256, given, strlen(given), digests[0]) == 0 &&
           gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, strlen(secret), digests[1]) == 0 &&
           gnutls_memcmp(digests[0], digests[1], sizeof(digests[0])) == 0;
}

static bool is_allowed(const struct exporter *exporter, struct MHD_Connection *connection)
{
    const char *wanted = exporter->options.password ? exporter->options.password : "";
    char *user, *password = NULL;
    bool same_user, same_password;

    if (!exporter->options.user)
        return true;
    user = MHD_basic_auth_get_username_password(connection, &password);
    same_user = same_secret(user ? user : "", exporter->options.user);
    same_password = same_secret(password ? password : "", wanted);
    same_user = same_user && user;
    MHD_free(user);
    MHD_free(password);
    return same_user && same_password;
}

/* A probe of a load balancer or of Kubernetes has no password, and learns next to nothing. */
static bool is_open(size_t page)
{
    return page == PAGE_HEALTHY || page == PAGE_READY;
}

static enum MHD_Result answer_request(struct exporter *exporter, struct MHD_Connection *connection,
                                      const char *path, const char *method)
{
    size_t page = 0;

    while (page < ELEMENTSOF(page_paths) && strcmp(path, page_paths[page]) != 0)
        page++;
    if (!is_open(page) && !is_allowed(exporter, connection))
        return answer_no_password(exporter, connection);
    if (page == ELEMENTSOF(page_paths))
        return answer_text(connection, MHD_HTTP_NOT_FOUND, "Not found\n");
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_wrong_method(connection);
    switch ((enum page)page) {
    case PAGE_ROOT:
        return answer_root(exporter, connection);
    case PAGE_METRICS:
        return answer_metrics(exporter, connection);
    case PAGE_HEALTHY:
        return answer_text(connection, MHD_HTTP_OK, "OK\n");
    case PAGE_READY:
        if (exporter->options.ready(exporter->options.context))
            return answer_text(connection, MHD_HTTP_OK, "Ready\n");
        return answer_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "Not ready\n");
    }
    return MHD_NO;
}

/*
 * Called once when a request's headers are there, for each part of its body, and once after it. An
 * answer to the first call would end the connection, so it waits for the last, unless the client
 * waits too before it sends a body (Expect: 100-continue). `*state` is 1 plus the body's bytes.
 */
enum MHD_Result exporter_on_request(void *user, struct MHD_Connection *connection, const char *path,
                                    const char *method, const char *version, const char *body,
                                    size_t *body_size, void **state)
{
    struct exporter *exporter = user;
    uintptr_t seen = (uintptr_t)*state;

    if (seen == 0) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

        if (info && info->socket_context)
            exporter_slot_used(exporter, info->socket_context);
        *state = (void *)(uintptr_t)1;
        if (!MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT))
            return MHD_YES;
    } else if (*body_size > 0) {
        if (seen + *body_size > BODY_BYTES_MAX)
            return MHD_NO;
        *state = (void *)(seen + *body_size);
        *body_size = 0;
        return MHD_YES;
    }
    return answer_request(exporter, connection, path, method);
}
