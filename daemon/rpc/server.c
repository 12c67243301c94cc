/*
 * A gRPC server.
 */
#include "rpc/server.h"

#include "base/acceptor.h"
#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "net/address_counts.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#define STREAM_WINDOW 65535

/* More than a stream's: a call whose client sends and never reads may not hold up the others. */
#define CONNECTION_WINDOW (16 * STREAM_WINDOW)

/* What all unfinished requests together may hold, unless a few of the longest need more. */
#define INPUT_BYTES_MAX ((uint64_t)64 * 1024 * 1024)

/* Listeners that a server may have. */
#define LISTENERS_MAX 16

/*
 * A connection's memory lies scattered among that of others, so that free() alone gives little back
 * to the kernel. When at least so many are gone, and most of those that there were, the heap is
 * trimmed, a moment later, because they seldom go one by one. With 10,000 gone that takes some
 * milliseconds and turns 157 MB into 7.
 */
#define TRIM_CONNECTIONS_MIN 1000
#define TRIM_DELAY_MS 1000

struct server;

/* An address as far as access is about it; a Unix socket's is its family alone. */
union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The context of one connection, from its handshake on. */
struct peer {
    struct call_server *calls; /* first: call_connection_ops looks for it there */
    struct server *server;
    struct connection *connection;   /* NULL during the handshake */
    struct tls_handshake *handshake; /* or NULL */
    struct peer_handshake *shaking;  /* what only the handshake needs */
    LIST_ENTRY(peer) link;
    union address address;
};

struct peer_handshake {
    char text[ACCEPTOR_PEER_MAX];
    bool check_names;
};

struct place {
    struct server *server;
    struct listener *listener;
    struct credentials *credentials; /* NULL: no TLS */
};

struct server {
    struct loop *loop;
    struct server_options options;
    struct call_server calls;
    struct connection_stats stats;
    struct server_tls_stats tls;
    struct connection_ops ops; /* of calls, with our `closed` */
    struct address_counts addresses;
    LIST_HEAD(peer_list, peer) peers;
    struct place places[LISTENERS_MAX];
    unsigned place_count;

    uint64_t connections_peak; /* since the heap was trimmed */
    struct wheel_timer trim_timer;

    bool draining;
    bool freeing;
    void (*gone)(void *context); /* of server_drain() or server_stop(), whichever is waited for */
    void *gone_context;
    struct wheel_timer gone_timer;
    struct loop_task gone_task;
};

/* ---- The end ---- */

static void check_gone(struct server *server)
{
    if (server->gone && LIST_EMPTY(&server->peers))
        loop_queue(server->loop, &server->gone_task);
}

static void on_gone(struct loop_task *task)
{
    struct server *server = container_of(task, struct server, gone_task);
    void (*gone)(void *context) = TAKE_PTR(server->gone);

    loop_disarm(server->loop, &server->gone_timer);
    gone(server->gone_context);
}

static void on_gone_timeout(struct wheel_timer *timer)
{
    struct server *server = container_of(timer, struct server, gone_timer);

    if (server->calls.stopping)
        server_hurry(server);
    else
        loop_queue(server->loop, &server->gone_task);
}

static void on_trim(struct wheel_timer *timer)
{
    struct server *server = container_of(timer, struct server, trim_timer);

    server->connections_peak = server->stats.connections;
    (void)malloc_trim(0);
}

static void check_trim(struct server *server)
{
    uint64_t now = server->stats.connections;

    if (server->connections_peak >= now + TRIM_CONNECTIONS_MIN &&
        server->connections_peak / 4 >= now && !wheel_armed(&server->trim_timer))
        loop_arm(server->loop, &server->trim_timer, TRIM_DELAY_MS, 100);
}

/* ---- Refusals ---- */

static void refuse(struct server *server, enum refusal_reason reason, const char *text,
                   const char *why)
{
    call_server_refuse(&server->calls, reason, text, why);
}

static void refuse_failed(struct server *server, const char *text, int error)
{
    char why[128];

    (void)snprintf(why, sizeof(why), "a connection: %s", uv_strerror(error));
    refuse(server, error == -ENOMEM ? REFUSAL_NO_MEMORY : REFUSAL_ACCEPT_FAILED, text, why);
}

/* ---- Connections ---- */

static void peer_free(struct peer *peer)
{
    struct server *server = peer->server;

    address_counts_remove(&server->addresses, &peer->address.any);
    LIST_REMOVE(peer, link);
    free(peer->shaking);
    free(peer);
    check_gone(server);
}

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct peer *peer = connection_context(connection);
    struct server *server = peer->server;

    call_server_log_closed(&server->calls, reason, connection_peer(connection), detail);
    peer_free(peer);
    check_trim(server);
}

/* Over `transport`, which is the connection's from here on. */
static void peer_connect(struct peer *peer, struct transport *transport, const char *text)
{
    struct server *server = peer->server;
    struct connection_options options = server->options.connection;
    int r;

    options.context = peer;
    r = connection_new(&peer->connection, transport, text, &options);
    if (r < 0) {
        refuse_failed(server, text, r);
        peer_free(peer);
        return;
    }
    server->connections_peak = MAX(server->connections_peak, server->stats.connections);
    /* It waited in the kernel, or for its handshake, when the others were told to go. */
    if (server->draining)
        connection_drain(peer->connection, CLOSE_SHUTDOWN);
}

static bool name_allowed(const struct server *server, const struct transport *transport)
{
    for (size_t i = 0; i < server->options.allow_name_count; i++) {
        if (tls_peer_is(transport, server->options.allow_names[i]))
            return true;
    }
    return server->options.allow_name_count == 0;
}

static void on_handshake(void *user, struct transport *transport, enum tls_outcome outcome,
                         const char *detail)
{
    struct peer *peer = user;
    struct server *server = peer->server;
    _cleanup_free_ struct peer_handshake *shaking = TAKE_PTR(peer->shaking);
    const char *name;

    peer->handshake = NULL;
    server->tls.handshakes--;
    server->tls.handshakes_total[outcome]++;
    if (!transport) {
        log_event(LOG_DEBUG,
                  log_fields(LOG_EVENT(HANDSHAKE_FAILED), {"STOCKD_PEER", shaking->text},
                             {"STOCKD_REASON", tls_outcome_labels[outcome]},
                             {"STOCKD_ERROR", detail}),
                  "%s: TLS handshake failed: %s", shaking->text, detail);
        peer_free(peer);
        return;
    }
    name = tls_peer_name(transport);
    if (shaking->check_names && !name_allowed(server, transport)) {
        transport->ops->close(transport);
        refuse(server, REFUSAL_CERTIFICATE, shaking->text,
               "a connection: no name of its certificate is in access.allow_names");
        peer_free(peer);
        return;
    }
    log_event(LOG_DEBUG,
              log_fields(LOG_EVENT(CONNECTION_SECURED), {"STOCKD_PEER", shaking->text},
                         {"STOCKD_TLS", detail}, {"STOCKD_CERTIFICATE", name}),
              "%s: TLS: %s%s%s", shaking->text, detail, name ? ", certificate of " : "",
              name ? name : "");
    peer_connect(peer, transport, shaking->text);
}

/* 0 or -ENOMEM. */
static int peer_shake(struct peer *peer, struct transport *transport, const struct place *place,
                      const char *text)
{
    struct server *server = peer->server;
    struct tls_options options = {
        .credentials = place->credentials,
        .timeout_ms = server->options.handshake_timeout_ms,
        .done = on_handshake,
        .user = peer,
    };
    int r;

    peer->shaking = calloc(1, sizeof(*peer->shaking));
    if (!peer->shaking) {
        transport->ops->close(transport);
        return -ENOMEM;
    }
    (void)snprintf(peer->shaking->text, sizeof(peer->shaking->text), "%s", text);
    peer->shaking->check_names =
        credentials_client_certificate(place->credentials) != CLIENT_CERTIFICATE_NO;
    r = tls_handshake(&peer->handshake, server->loop, transport, &options);
    if (r >= 0)
        server->tls.handshakes++;
    return r;
}

/* ---- Listeners ---- */

static bool on_admit(void *context, const struct sockaddr *address, const char *text)
{
    const struct place *place = context;
    struct server *server = place->server;
    const struct server_options *options = &server->options;

    if (server->freeing)
        return false;
    if (!ranges_contain(options->allow, options->allow_count, address))
        refuse(server, REFUSAL_ADDRESS, text, "a connection: its address is not in access.allow");
    else if (server->stats.connections + server->tls.handshakes >= options->max_connections)
        refuse(server, REFUSAL_MAX_CONNECTIONS, text,
               "a connection: grpc.max_connections is reached");
    else if (options->max_connections_per_address > 0 &&
             address_counts_get(&server->addresses, address) >=
                 options->max_connections_per_address)
        refuse(server, REFUSAL_MAX_PER_ADDRESS, text,
               "a connection: access.max_connections_per_address is reached");
    else
        return true;
    return false;
}

static struct peer *peer_new(struct server *server, const struct sockaddr *address)
{
    struct peer *peer = calloc(1, sizeof(*peer));

    if (!peer)
        return NULL;
    peer->calls = &server->calls;
    peer->server = server;
    peer->address.any.sa_family = address->sa_family;
    if (address->sa_family == AF_INET || address->sa_family == AF_INET6)
        memcpy(&peer->address, address, address_size(address));
    if (address_counts_add(&server->addresses, &peer->address.any) < 0) {
        free(peer);
        return NULL;
    }
    LIST_INSERT_HEAD(&server->peers, peer, link);
    return peer;
}

static void on_accepted(void *context, struct transport *transport, const struct sockaddr *address,
                        const char *text)
{
    const struct place *place = context;
    struct server *server = place->server;
    struct peer *peer = peer_new(server, address);

    if (!peer) {
        transport->ops->close(transport);
        refuse_failed(server, text, -ENOMEM);
        return;
    }
    log_event(LOG_DEBUG, log_fields(LOG_EVENT(CONNECTION_ACCEPTED), {"STOCKD_PEER", text}),
              "%s: connection accepted", text);
    if (!place->credentials) {
        peer_connect(peer, transport, text);
    } else if (peer_shake(peer, transport, place, text) < 0) {
        refuse_failed(server, text, -ENOMEM);
        peer_free(peer);
    }
}

static void on_failed(void *context, const char *text, int error)
{
    const struct place *place = context;

    refuse_failed(place->server, text, error);
}

static const struct listener_ops listener_ops = {
    .admit = on_admit,
    .accepted = on_accepted,
    .failed = on_failed,
};

void server_configure(struct server *server, const struct server_options *options)
{
    struct connection_options *connection = &server->options.connection;
    struct call_server *calls = &server->calls;

    server->options = *options;
    connection->loop = server->loop;
    connection->stats = &server->stats;
    connection->ops = &server->ops;
    connection->stream_window = STREAM_WINDOW;
    connection->connection_window = CONNECTION_WINDOW;
    calls->max_message_bytes = options->max_message_bytes;
    calls->max_input_bytes = MAX(INPUT_BYTES_MAX, 4 * (uint64_t)options->max_message_bytes);
    calls->max_calls = options->max_streams_total;
    calls->request_timeout_ms = options->request_timeout_ms;
}

int server_new(struct server **ret_server, struct loop *loop, const struct server_options *options)
{
    struct server *server = calloc(1, sizeof(*server));

    if (!server)
        return -ENOMEM;
    server->loop = loop;
    server->stats.loop = loop;
    server->calls.loop = loop;
    server->calls.methods = options->methods;
    server_configure(server, options);
    server->ops = call_connection_ops;
    server->ops.closed = on_closed;
    server->gone_task.run = on_gone;
    server->gone_timer.fire = on_gone_timeout;
    server->trim_timer.fire = on_trim;
    LIST_INIT(&server->peers);
    *ret_server = server;
    return 0;
}

int server_listen(struct server *server, const struct endpoint *endpoint,
                  struct credentials *credentials, struct sockaddr_storage *ret_address)
{
    struct place *place = &server->places[server->place_count];
    int r;

    if (server->place_count == LISTENERS_MAX)
        return -E2BIG;
    r = listener_new(&place->listener, server->loop, endpoint, &listener_ops, place);
    if (r < 0)
        return r;
    place->server = server;
    place->credentials = credentials ? credentials_ref(credentials) : NULL;
    server->place_count++;
    return listener_address(place->listener, ret_address);
}

void server_set_credentials(struct server *server, unsigned index, struct credentials *credentials)
{
    struct place *place = &server->places[index];

    assert(index < server->place_count && place->credentials);
    credentials_ref(credentials);
    credentials_unref(place->credentials);
    place->credentials = credentials;
}

/* ---- Drain and stop ---- */

/* `gone` is called once, when all peers are; in its time, whatever it takes. */
static void wait_until_gone(struct server *server, uint64_t timeout_ms, void (*gone)(void *context),
                            void *context)
{
    loop_cancel(server->loop, &server->gone_task);
    server->gone = gone;
    server->gone_context = context;
    loop_arm(server->loop, &server->gone_timer, timeout_ms, 10);
    check_gone(server);
}

/* Whoever waits in the kernel is accepted first: those clients think that they are connected. */
static void close_listeners(struct server *server)
{
    for (unsigned i = 0; i < server->place_count; i++) {
        struct place *place = &server->places[i];

        place->listener = listener_free(place->listener);
        place->credentials = credentials_unref(place->credentials);
    }
    server->place_count = 0;
}

static void begin_drain(struct server *server)
{
    struct peer *peer;

    if (server->draining)
        return;
    close_listeners(server);
    server->draining = true;
    LIST_FOREACH (peer, &server->peers, link) {
        if (peer->connection)
            connection_drain(peer->connection, CLOSE_SHUTDOWN);
    }
}

void server_drain(struct server *server, uint64_t timeout_ms, void (*drained)(void *context),
                  void *context)
{
    begin_drain(server);
    wait_until_gone(server, timeout_ms, drained, context);
}

static void stop_call(struct stream *stream)
{
    call_shutdown(call_from_stream(stream), WIRE_UNAVAILABLE, "the server is shutting down");
}

static void peer_give_up_handshake(struct peer *peer)
{
    tls_handshake_cancel(peer->handshake);
    peer->server->tls.handshakes--;
    peer_free(peer);
}

void server_stop(struct server *server, uint64_t timeout_ms, void (*stopped)(void *context),
                 void *context)
{
    struct peer *peer, *next;

    begin_drain(server);
    server->calls.stopping = true;
    for (peer = LIST_FIRST(&server->peers); peer; peer = next) {
        next = LIST_NEXT(peer, link);
        if (peer->connection)
            connection_each_stream(peer->connection, stop_call);
        else /* no call would come of it */
            peer_give_up_handshake(peer);
    }
    wait_until_gone(server, timeout_ms, stopped, context);
}

void server_hurry(struct server *server)
{
    struct peer *peer;

    LIST_FOREACH (peer, &server->peers, link)
        connection_close(peer->connection, CLOSE_SHUTDOWN, "the time for shutting down is over");
}

struct server *server_free(struct server *server)
{
    if (!server)
        return NULL;
    server->freeing = true;
    close_listeners(server);
    loop_disarm(server->loop, &server->gone_timer);
    loop_disarm(server->loop, &server->trim_timer);
    loop_cancel(server->loop, &server->gone_task);
    address_counts_deinit(&server->addresses);
    free(server);
    return NULL;
}

struct connection_stats *server_connection_stats(struct server *server)
{
    return &server->stats;
}

const struct call_server *server_calls(const struct server *server)
{
    return &server->calls;
}

const struct server_tls_stats *server_tls_stats(const struct server *server)
{
    return &server->tls;
}
