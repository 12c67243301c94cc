/*
 * The scrape endpoint: libmicrohttpd as a guest in the program's libuv loop.
 *
 * libmicrohttpd has an epoll descriptor for all its sockets, which a uv_poll watches, and it must
 * be asked after each MHD_run() when it wants to run again: it may hold bytes that it has read but
 * not looked at yet (a large or pipelined request), of which no descriptor tells.
 *
 * Connections are accepted here, not by libmicrohttpd: when descriptors run out while it has no
 * connection it tries again at once, for ever, and so would keep the loop from everything else.
 * Here the listener rests for a moment instead.
 *
 * Nobody can lock scrapers out by holding connections open: when all are taken, the one whose last
 * request is longest ago makes room for the newcomer.
 */
#include "base/exporter.h"

#include "base/address.h"
#include "base/exporter_accept.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <zlib.h>

#define CONNECTIONS_MAX 64
#define CONNECTION_MEMORY_BYTES (16 * 1024) /* holds the request's headers */
#define IDLE_TIMEOUT_S 30
#define BODY_BYTES_MAX (1024 * 1024) /* read and thrown away; a longer one ends the connection */
#define BACKLOG 64
#define ACCEPTS_PER_TURN 16
#define ACCEPT_REST_MS 200 /* when there are no descriptors or no memory */
#define EVICT_REST_MS 5
/* Speed matters more than the last few per cent: the loop waits for it. */
#define GZIP_LEVEL 1

/* A client's connection; `fd` is -1 in an unused slot. */
struct slot {
    int fd;
    uint64_t used_at; /* exporter->clock of its last request, or of its start */
    bool evicted;
};

struct exporter {
    struct exporter_options options;
    struct MHD_Daemon *daemon;
    int listen_fd;
    uv_poll_t listen_poll;   /* somebody connects */
    uv_poll_t daemon_poll;   /* libmicrohttpd's epoll descriptor */
    uv_timer_t daemon_timer; /* MHD_get_timeout() */
    uv_timer_t rest_timer;   /* accept again */
    unsigned handles;        /* that are initialised and not yet closed */
    bool closing;
    uint64_t clock; /* counts connections and requests */
    struct log_limit accept_log;
    struct slot slots[CONNECTIONS_MAX];
};

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

/* ------------------------------------- answers ------------------------------------- */

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

static enum MHD_Result answer_request(struct exporter *exporter, struct MHD_Connection *connection,
                                      const char *path, const char *method)
{
    size_t endpoint = 0;

    while (endpoint < ELEMENTSOF(page_paths) && strcmp(path, page_paths[endpoint]) != 0)
        endpoint++;
    if (endpoint == ELEMENTSOF(page_paths))
        return answer_text(connection, MHD_HTTP_NOT_FOUND, "Not found\n");
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_wrong_method(connection);
    switch ((enum page)endpoint) {
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
static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *body,
                                  size_t *body_size, void **state)
{
    struct exporter *exporter = user;
    uintptr_t seen = (uintptr_t)*state;

    if (seen == 0) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

        if (info && info->socket_context)
            ((struct slot *)info->socket_context)->used_at = ++exporter->clock;
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

static void on_log(void *user, const char *format, va_list arguments) _printf_(2, 0);
static void on_log(void *user, const char *format, va_list arguments)
{
    char text[256];

    if (!log_enabled(LOG_DEBUG))
        return;
    (void)vsnprintf(text, sizeof(text), format, arguments);
    text[strcspn(text, "\r\n")] = '\0';
    log_debug("libmicrohttpd: %s", text);
}

/* --------------------------------- connections, the loop --------------------------------- */

static void on_connection(void *user, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct exporter *exporter = user;
    struct slot *slot = *socket_context;
    const union MHD_ConnectionInfo *info;

    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (slot)
            slot->fd = -1;
        *socket_context = NULL;
        return;
    }
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    for (slot = exporter->slots; slot < exporter->slots + CONNECTIONS_MAX; slot++) {
        if (slot->fd >= 0)
            continue;
        *slot = (struct slot){.fd = info->connect_fd, .used_at = ++exporter->clock};
        *socket_context = slot;
        return;
    }
}

/*
 * Is there a slot for one more connection? If not, the connection that was used least recently is
 * shut down; libmicrohttpd sees that as the client's end and gives the slot back.
 */
static bool make_room(struct exporter *exporter)
{
    struct slot *oldest = NULL;

    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        struct slot *slot = &exporter->slots[i];

        if (slot->fd < 0)
            return true;
        if (slot->evicted)
            return false; /* on its way */
        if (!oldest || slot->used_at < oldest->used_at)
            oldest = slot;
    }
    oldest->evicted = true;
    (void)shutdown(oldest->fd, SHUT_RDWR);
    return false;
}

static void run_daemon(struct exporter *exporter);

static void on_daemon_timer(uv_timer_t *timer)
{
    run_daemon(container_of(timer, struct exporter, daemon_timer));
}

static void on_daemon_poll(uv_poll_t *poll, int status, int events)
{
    run_daemon(container_of(poll, struct exporter, daemon_poll));
}

static void run_daemon(struct exporter *exporter)
{
    MHD_UNSIGNED_LONG_LONG timeout_ms;

    (void)MHD_run(exporter->daemon);
    if (MHD_get_timeout(exporter->daemon, &timeout_ms) == MHD_YES)
        (void)uv_timer_start(&exporter->daemon_timer, on_daemon_timer, timeout_ms, 0);
    else
        (void)uv_timer_stop(&exporter->daemon_timer);
}

static void on_listen_poll(uv_poll_t *poll, int status, int events);

static void on_rest_over(uv_timer_t *timer)
{
    struct exporter *exporter = container_of(timer, struct exporter, rest_timer);

    (void)uv_poll_start(&exporter->listen_poll, UV_READABLE, on_listen_poll);
}

/* Leaves connections in the kernel's queue for a moment. */
static void rest_listener(struct exporter *exporter, uint64_t rest_ms)
{
    (void)uv_poll_stop(&exporter->listen_poll);
    (void)uv_timer_start(&exporter->rest_timer, on_rest_over, rest_ms, 0);
}

/* Accept failed for want of something that only time can bring back. */
static bool is_shortage(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static void on_listen_poll(uv_poll_t *poll, int status, int events)
{
    struct exporter *exporter = container_of(poll, struct exporter, listen_poll);

    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage peer;
        socklen_t peer_size = sizeof(peer);
        int fd;

        if (!make_room(exporter)) {
            rest_listener(exporter, EVICT_REST_MS); /* until the evicted one is gone */
            break;
        }
        fd = accept4(exporter->listen_fd, (struct sockaddr *)&peer, &peer_size,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            /* On failure it has closed the descriptor, and says why by on_log(). */
            (void)MHD_add_connection(exporter->daemon, fd, (struct sockaddr *)&peer, peer_size);
            continue;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            break;
        if (is_shortage(errno)) {
            unsigned dropped;

            if (log_limit_pass(&exporter->accept_log, uv_now(poll->loop), &dropped))
                log_warning("cannot accept a connection to the metrics endpoint: %m");
            rest_listener(exporter, ACCEPT_REST_MS);
            break;
        }
        /* The connection died in the queue: on to the next. */
    }
    run_daemon(exporter);
}

/* ------------------------------------ life ------------------------------------ */

static void on_closed(uv_handle_t *handle)
{
    struct exporter *exporter = handle->data;

    if (--exporter->handles == 0)
        free(exporter);
}

static void close_handle(uv_handle_t *handle)
{
    if (handle->data) /* it was initialised */
        uv_close(handle, on_closed);
}

struct exporter *exporter_free(struct exporter *exporter)
{
    if (!exporter || exporter->closing)
        return NULL;
    exporter->closing = true;
    /* First, because libuv must forget descriptors before they are closed. */
    close_handle((uv_handle_t *)&exporter->listen_poll);
    close_handle((uv_handle_t *)&exporter->daemon_poll);
    close_handle((uv_handle_t *)&exporter->daemon_timer);
    close_handle((uv_handle_t *)&exporter->rest_timer);
    if (exporter->daemon)
        MHD_stop_daemon(exporter->daemon);
    if (exporter->listen_fd >= 0)
        (void)close(exporter->listen_fd);
    if (exporter->handles == 0)
        free(exporter);
    return NULL;
}

static void exporter_cleanup(struct exporter **exporter)
{
    (void)exporter_free(*exporter);
}

static int start_daemon(struct exporter *exporter)
{
    exporter->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
        exporter, MHD_OPTION_EXTERNAL_LOGGER, on_log, exporter, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, exporter, MHD_OPTION_END);
    /* It does not say what failed; a descriptor or memory is all that it asks for. */
    return exporter->daemon ? 0 : -ENOMEM;
}

/* Makes `handle`, already initialised with the result `r`, one that exporter_free() closes. */
static int own_handle(struct exporter *exporter, uv_handle_t *handle, int r)
{
    if (r < 0)
        return r; /* libuv's errors are negative errnos on Linux */
    handle->data = exporter;
    exporter->handles++;
    return 0;
}

static int init_handles(struct exporter *exporter, uv_loop_t *loop)
{
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(exporter->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    int r;

    if (!info || info->epoll_fd < 0)
        return -ENOTSUP;
    r = own_handle(exporter, (uv_handle_t *)&exporter->daemon_timer,
                   uv_timer_init(loop, &exporter->daemon_timer));
    if (r == 0)
        r = own_handle(exporter, (uv_handle_t *)&exporter->rest_timer,
                       uv_timer_init(loop, &exporter->rest_timer));
    if (r == 0)
        r = own_handle(exporter, (uv_handle_t *)&exporter->daemon_poll,
                       uv_poll_init(loop, &exporter->daemon_poll, info->epoll_fd));
    if (r == 0)
        r = own_handle(exporter, (uv_handle_t *)&exporter->listen_poll,
                       uv_poll_init(loop, &exporter->listen_poll, exporter->listen_fd));
    if (r == 0)
        r = uv_poll_start(&exporter->daemon_poll, UV_READABLE, on_daemon_poll);
    if (r == 0)
        r = uv_poll_start(&exporter->listen_poll, UV_READABLE, on_listen_poll);
    return r;
}

int exporter_new(struct exporter **ret_exporter, uv_loop_t *loop, const struct endpoint *endpoint,
                 const struct exporter_options *options)
{
    _cleanup_(exporter_cleanup) struct exporter *exporter = calloc(1, sizeof(*exporter));
    int r;

    if (!exporter)
        return -ENOMEM;
    exporter->options = *options;
    exporter->listen_fd = -1;
    for (size_t i = 0; i < CONNECTIONS_MAX; i++)
        exporter->slots[i].fd = -1;
    exporter->listen_fd = endpoint_listen(endpoint, BACKLOG);
    if (exporter->listen_fd < 0)
        return exporter->listen_fd;
    r = start_daemon(exporter);
    if (r < 0)
        return r;
    r = init_handles(exporter, loop);
    if (r < 0)
        return r;
    run_daemon(exporter);
    *ret_exporter = TAKE_PTR(exporter);
    return 0;
}

int exporter_address(const struct exporter *exporter, struct sockaddr_storage *ret_address)
{
    socklen_t size = sizeof(*ret_address);

    return getsockname(exporter->listen_fd, (struct sockaddr *)ret_address, &size) < 0 ? -errno : 0;
}
