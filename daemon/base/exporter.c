/*
 * The scrape endpoint: libmicrohttpd as a guest in the program's libuv loop.
 *
 * libmicrohttpd has an epoll descriptor for all its sockets, which a uv_poll watches, and it must
 * be asked after each MHD_run() when it wants to run again: it may hold bytes that it has read but
 * not looked at yet (a large or pipelined request), of which no descriptor tells.
 *
 * Connections are accepted by acceptor.c, not by libmicrohttpd: when descriptors run out while it
 * has no connection it tries again at once, for ever, and so would keep the loop from everything
 * else.
 *
 * Nobody can lock scrapers out by holding connections open: when all are taken, or descriptors run
 * out, the one whose last request is longest ago makes room for the newcomer.
 *
 * TLS is libmicrohttpd's, but the credentials are not: each session gets the current ones before
 * its handshake, so that new ones need no new libmicrohttpd. A handshake that waits for its client
 * counts as ready with libmicrohttpd 0.9.75, which then wants to run again at once, for as long as
 * the client likes; see eager_timeout().
 */
#include "base/exporter.h"

#include "base/address.h"
#include "base/events.h"
#include "base/exporter_private.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONNECTION_MEMORY_BYTES (16 * 1024) /* holds the request's headers */
#define IDLE_TIMEOUT_S 30
#define BACKLOG 64
#define ACCEPTS_PER_TURN 16
#define ACCEPT_REST_MS 200 /* when there are no descriptors or no memory */

/* While somebody may be in a handshake: so many runs at once in so long, and no more. */
#define EAGER_RUNS_MAX 8
#define EAGER_INTERVAL_MS 10

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

/* ------------------------------------- TLS ------------------------------------- */

/*
 * The handshake asks about the client's certificate. GnuTLS itself has refused a client that must
 * have one and has none, and without an answer from here would take any.
 */
static int verify_client(gnutls_session_t session)
{
    gnutls_typed_vdata_st purpose = {
        .type = GNUTLS_DT_KEY_PURPOSE_OID,
        .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT,
    };
    unsigned count = 0, status = 0;

    if (!gnutls_certificate_get_peers(session, &count) || count == 0)
        return 0;
    if (gnutls_certificate_verify_peers(session, &purpose, 1, &status) < 0 || status != 0) {
        log_debug("a certificate shown to the metrics endpoint is not trusted (0x%x)", status);
        return GNUTLS_E_CERTIFICATE_ERROR;
    }
    return 0;
}

static const gnutls_certificate_request_t certificate_requests[] = {
    [CLIENT_CERTIFICATE_NO] = GNUTLS_CERT_IGNORE,
    [CLIENT_CERTIFICATE_OPTIONAL] = GNUTLS_CERT_REQUEST,
    [CLIENT_CERTIFICATE_REQUIRED] = GNUTLS_CERT_REQUIRE,
};

/* Gives a session, before its handshake, the credentials of now, in place of libmicrohttpd's. */
static int begin_tls(struct exporter *exporter, struct exporter_slot *slot,
                     struct MHD_Connection *connection)
{
    struct credentials *credentials = exporter->options.credentials;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    gnutls_session_t session;

    if (!info)
        return -ENOTSUP;
    session = info->tls_session;
    if (gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials_gnutls(credentials)) <
            0 ||
        gnutls_priority_set(session, credentials_priority(credentials)) < 0)
        return -ENOMEM;
    gnutls_certificate_server_set_request(
        session, certificate_requests[credentials_client_certificate(credentials)]);
    gnutls_session_set_verify_function(session, verify_client);
    slot->credentials = credentials_ref(credentials);
    exporter->unasked++;
    return 0;
}

/*
 * libmicrohttpd wants a certificate, or somebody to ask for one. A session that has no credentials
 * but libmicrohttpd's ends here.
 */
static int no_certificate(gnutls_session_t session, const gnutls_datum_t *authorities,
                          int authority_count, const gnutls_pk_algorithm_t *algorithms,
                          int algorithm_count, gnutls_pcert_st **ret_certificates,
                          unsigned *ret_count, gnutls_privkey_t *ret_key)
{
    return -1;
}

/* --------------------------------- connections --------------------------------- */

/* It is no longer in a handshake. */
static void leave_unasked(struct exporter *exporter, struct exporter_slot *slot)
{
    if (slot->credentials && !slot->asked)
        exporter->unasked--;
    slot->asked = true;
}

void exporter_slot_used(struct exporter *exporter, struct exporter_slot *slot)
{
    slot->used_at = ++exporter->clock;
    leave_unasked(exporter, slot);
}

static struct exporter_slot *free_slot(struct exporter *exporter)
{
    for (size_t i = 0; i < ELEMENTSOF(exporter->slots); i++)
        if (exporter->slots[i].fd < 0)
            return &exporter->slots[i];
    return NULL;
}

static void on_connection(void *user, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct exporter *exporter = user;
    struct exporter_slot *slot = *socket_context;
    const union MHD_ConnectionInfo *info;

    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        *socket_context = NULL;
        if (!slot)
            return;
        leave_unasked(exporter, slot);
        slot->credentials = credentials_unref(slot->credentials);
        slot->fd = -1;
        return;
    }
    /* There is one: libmicrohttpd has the same limit, and nobody is added without a look. */
    slot = free_slot(exporter);
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    *slot = (struct exporter_slot){.fd = info->connect_fd, .used_at = ++exporter->clock};
    *socket_context = slot;
    if (exporter->tls && begin_tls(exporter, slot, connection) < 0)
        (void)shutdown(slot->fd, SHUT_RDWR);
}

static void run_daemon(struct exporter *exporter);

/*
 * Closes the connection that was used least recently; false if there is none. The socket is shut
 * down, which libmicrohttpd takes for the client's end as soon as it runs.
 */
static bool evict(struct exporter *exporter)
{
    struct exporter_slot *oldest = NULL;

    for (size_t i = 0; i < ELEMENTSOF(exporter->slots); i++) {
        struct exporter_slot *slot = &exporter->slots[i];

        if (slot->fd >= 0 && !slot->evicted && (!oldest || slot->used_at < oldest->used_at))
            oldest = slot;
    }
    if (!oldest)
        return false;
    oldest->evicted = true;
    (void)shutdown(oldest->fd, SHUT_RDWR);
    for (unsigned i = 0; i < 3 && oldest->fd >= 0; i++) /* one run is enough in all likelihood */
        run_daemon(exporter);
    return true;
}

static void on_accepted(void *context, int fd, const struct sockaddr *address)
{
    struct exporter *exporter = context;
    char peer[ACCEPTOR_PEER_MAX];

    if (!ranges_contain(exporter->options.allow, exporter->options.allow_count, address)) {
        exporter->refused++;
        (void)acceptor_peer(fd, address, peer);
        log_event(
            LOG_DEBUG,
            log_fields(LOG_EVENT(REFUSED), {"STOCKD_PEER", peer}, {"STOCKD_REASON", "address"}),
            "%s: refused at the metrics endpoint: not in its list of addresses", peer);
        (void)close(fd);
        return;
    }
    while (!free_slot(exporter)) {
        if (evict(exporter))
            continue;
        (void)close(fd);
        return;
    }
    /* On failure it has closed the descriptor, and says why by on_log(). */
    (void)MHD_add_connection(exporter->daemon, fd, address, address_size(address));
    run_daemon(exporter);
}

/* Connections of gRPC may have taken all descriptors: then one of ours is worth a scrape. */
static unsigned on_accept_failed(void *context, int error)
{
    struct exporter *exporter = context;
    unsigned dropped;

    if (log_limit_pass(&exporter->accept_log, uv_now(exporter->daemon_poll.loop), &dropped))
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(ACCEPT_FAILED), {"STOCKD_ERROR", uv_strerror(error)}),
                  "cannot accept a connection to the metrics endpoint: %s", uv_strerror(error));
    return (error == -EMFILE || error == -ENFILE) && evict(exporter) ? 1 : ACCEPT_REST_MS;
}

/* --------------------------------- the loop --------------------------------- */

static void on_daemon_timer(uv_timer_t *timer)
{
    run_daemon(container_of(timer, struct exporter, daemon_timer));
}

static void on_daemon_again(uv_idle_t *idle)
{
    run_daemon(container_of(idle, struct exporter, daemon_again));
}

static void on_daemon_poll(uv_poll_t *poll, int status, int events)
{
    run_daemon(container_of(poll, struct exporter, daemon_poll));
}

/*
 * How long libmicrohttpd has to wait that wants to run again at once. It may have good reasons (a
 * large answer goes out in many runs), or there is a handshake whose client is silent: so it gets
 * some runs, then waits. Whatever comes in by the network is looked at immediately all the same.
 */
static uint64_t eager_timeout(struct exporter *exporter)
{
    uint64_t now_ms = uv_now(exporter->daemon_timer.loop);

    if (exporter->unasked == 0)
        return 0;
    if (now_ms - exporter->eager_start_ms >= EAGER_INTERVAL_MS) {
        exporter->eager_start_ms = now_ms;
        exporter->eager_runs = 0;
    }
    if (++exporter->eager_runs <= EAGER_RUNS_MAX)
        return 0;
    return exporter->eager_start_ms + EAGER_INTERVAL_MS - now_ms;
}

static void run_daemon(struct exporter *exporter)
{
    MHD_UNSIGNED_LONG_LONG timeout_ms;

    (void)MHD_run(exporter->daemon);
    (void)uv_idle_stop(&exporter->daemon_again);
    (void)uv_timer_stop(&exporter->daemon_timer);
    if (MHD_get_timeout(exporter->daemon, &timeout_ms) != MHD_YES)
        return;
    if (timeout_ms == 0)
        timeout_ms = eager_timeout(exporter);
    /* Not a timer of 0: libuv 1.44 fires one that its own callback has started until time passes,
     * and gets to nothing else. */
    if (timeout_ms == 0)
        (void)uv_idle_start(&exporter->daemon_again, on_daemon_again);
    else
        (void)uv_timer_start(&exporter->daemon_timer, on_daemon_timer, timeout_ms, 0);
}

/* ------------------------------------ life ------------------------------------ */

static void forget_handle(struct exporter *exporter)
{
    if (--exporter->handles == 0)
        free(exporter);
}

static void on_closed(uv_handle_t *handle)
{
    forget_handle(handle->data);
}

static void on_acceptor_closed(void *context)
{
    forget_handle(context);
}

static const struct acceptor_ops acceptor_ops = {
    .accepted = on_accepted,
    .failed = on_accept_failed,
    .closed = on_acceptor_closed,
};

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
    exporter->acceptor = acceptor_free(exporter->acceptor);
    /* First, because libuv must forget descriptors before they are closed. */
    close_handle((uv_handle_t *)&exporter->daemon_poll);
    close_handle((uv_handle_t *)&exporter->daemon_timer);
    close_handle((uv_handle_t *)&exporter->daemon_again);
    if (exporter->daemon)
        MHD_stop_daemon(exporter->daemon);
    exporter->options.credentials = credentials_unref(exporter->options.credentials);
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
    unsigned flags = MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;

    if (exporter->tls)
        flags |= MHD_USE_TLS;
    exporter->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, exporter_on_request, exporter, MHD_OPTION_EXTERNAL_LOGGER, on_log,
        exporter, MHD_OPTION_CONNECTION_LIMIT, (unsigned)EXPORTER_CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, exporter, exporter->tls ? MHD_OPTION_HTTPS_CERT_CALLBACK : MHD_OPTION_END,
        no_certificate, MHD_OPTION_END);
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
        r = own_handle(exporter, (uv_handle_t *)&exporter->daemon_again,
                       uv_idle_init(loop, &exporter->daemon_again));
    if (r == 0)
        r = own_handle(exporter, (uv_handle_t *)&exporter->daemon_poll,
                       uv_poll_init(loop, &exporter->daemon_poll, info->epoll_fd));
    if (r == 0)
        r = uv_poll_start(&exporter->daemon_poll, UV_READABLE, on_daemon_poll);
    return r;
}

int exporter_new(struct exporter **ret_exporter, uv_loop_t *loop, const struct endpoint *endpoint,
                 const struct exporter_options *options)
{
    _cleanup_(exporter_cleanup) struct exporter *exporter = calloc(1, sizeof(*exporter));
    struct acceptor_options acceptor_options = {
        .accepts_per_turn = ACCEPTS_PER_TURN,
        .ops = &acceptor_ops,
        .context = exporter,
    };
    int r;

    if (!exporter)
        return -ENOMEM;
    exporter->options = *options;
    exporter->options.credentials = NULL;
    exporter->tls = endpoint->tls;
    for (size_t i = 0; i < ELEMENTSOF(exporter->slots); i++)
        exporter->slots[i].fd = -1;
    if (exporter->tls) {
        if (!options->credentials)
            return -EINVAL;
        exporter->options.credentials = credentials_ref(options->credentials);
    }
    r = acceptor_listen(&exporter->acceptor, loop, endpoint, BACKLOG, &acceptor_options);
    if (r < 0)
        return r;
    exporter->handles++;
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

void exporter_configure(struct exporter *exporter, const struct exporter_options *options)
{
    struct exporter_options *own = &exporter->options;

    if (exporter->tls) {
        struct credentials *old = own->credentials;

        own->credentials = credentials_ref(options->credentials);
        (void)credentials_unref(old);
    }
    own->user = options->user;
    own->password = options->password;
    own->allow = options->allow;
    own->allow_count = options->allow_count;
}

uint64_t exporter_refused(const struct exporter *exporter)
{
    return exporter->refused;
}

int exporter_address(const struct exporter *exporter, struct sockaddr_storage *ret_address)
{
    return acceptor_address(exporter->acceptor, ret_address);
}
