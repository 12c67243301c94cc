/*
 * A gRPC server.
 */
#include "rpc/server.h"

#include "base/util.h"

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

/* The context of one connection. */
struct peer {
    struct call_server *calls; /* first: call_connection_ops looks for it there */
    struct server *server;
    struct connection *connection;
    LIST_ENTRY(peer) link;
};

struct server {
    struct loop *loop;
    struct server_options options;
    struct call_server calls;
    struct connection_stats stats;
    struct connection_ops ops; /* of calls, with our `closed` */
    LIST_HEAD(peer_list, peer) peers;
    struct listener *listeners[LISTENERS_MAX];
    unsigned listener_count;

    uint64_t connections_peak; /* since the heap was trimmed */
    struct wheel_timer trim_timer;

    void (*stopped)(void *context);
    void *stopped_context;
    struct wheel_timer stop_timer;
    struct loop_task stop_task;
};

static void check_stopped(struct server *server)
{
    if (server->stopped && LIST_EMPTY(&server->peers))
        loop_queue(server->loop, &server->stop_task);
}

static void on_stopped(struct loop_task *task)
{
    struct server *server = container_of(task, struct server, stop_task);

    loop_disarm(server->loop, &server->stop_timer);
    server->stopped(server->stopped_context);
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

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct peer *peer = connection_context(connection);
    struct server *server = peer->server;

    log_event(LOG_DEBUG,
              log_fields({"STOCKD_PEER", connection_peer(connection)},
                         {"STOCKD_REASON", close_reason_labels[reason]}),
              "%s: connection closed: %s%s%s", connection_peer(connection),
              close_reason_labels[reason], detail ? ": " : "", detail ? detail : "");
    LIST_REMOVE(peer, link);
    free(peer);
    check_trim(server);
    check_stopped(server);
}

static bool on_admit(void *context, const struct sockaddr *address, const char *peer)
{
    struct server *server = context;

    if (server->stats.connections < server->options.max_connections)
        return true;
    call_server_refuse(&server->calls, REFUSAL_MAX_CONNECTIONS, peer,
                       "a connection: grpc.max_connections is reached");
    return false;
}

static void on_failed(void *context, const char *peer, int error)
{
    struct server *server = context;
    char why[128];

    (void)snprintf(why, sizeof(why), "a connection: %s", uv_strerror(error));
    call_server_refuse(&server->calls, error == -ENOMEM ? REFUSAL_NO_MEMORY : REFUSAL_ACCEPT_FAILED,
                       peer, why);
}

static void on_accepted(void *context, struct transport *transport, const struct sockaddr *address,
                        const char *text)
{
    struct server *server = context;
    struct connection_options options = {
        .loop = server->loop,
        .stats = &server->stats,
        .ops = &server->ops,
        .max_streams = server->options.max_streams,
        .max_header_bytes = server->options.max_header_bytes,
        .preface_timeout_ms = server->options.preface_timeout_ms,
        .stream_window = STREAM_WINDOW,
        .connection_window = CONNECTION_WINDOW,
    };
    struct peer *peer = calloc(1, sizeof(*peer));
    int r;

    if (!peer) {
        transport->ops->close(transport);
        on_failed(server, text, -ENOMEM);
        return;
    }
    peer->calls = &server->calls;
    peer->server = server;
    options.context = peer;
    r = connection_new(&peer->connection, transport, text, &options);
    if (r < 0) {
        free(peer);
        on_failed(server, text, r);
        return;
    }
    LIST_INSERT_HEAD(&server->peers, peer, link);
    server->connections_peak = MAX(server->connections_peak, server->stats.connections);
    log_event(LOG_DEBUG, log_fields({"STOCKD_PEER", text}), "%s: connection accepted", text);
}

static const struct listener_ops listener_ops = {
    .admit = on_admit,
    .accepted = on_accepted,
    .failed = on_failed,
};

int server_new(struct server **ret_server, struct loop *loop, const struct server_options *options)
{
    struct server *server = calloc(1, sizeof(*server));

    if (!server)
        return -ENOMEM;
    server->loop = loop;
    server->options = *options;
    server->stats.loop = loop;
    server->calls = (struct call_server){
        .loop = loop,
        .methods = options->methods,
        .max_header_bytes = options->max_header_bytes,
        .max_message_bytes = options->max_message_bytes,
        .max_input_bytes = MAX(INPUT_BYTES_MAX, 4 * (uint64_t)options->max_message_bytes),
        .max_calls = options->max_streams_total,
        .request_timeout_ms = options->request_timeout_ms,
    };
    server->ops = call_connection_ops;
    server->ops.closed = on_closed;
    server->stop_task.run = on_stopped;
    server->trim_timer.fire = on_trim;
    LIST_INIT(&server->peers);
    *ret_server = server;
    return 0;
}

int server_listen(struct server *server, const struct endpoint *endpoint,
                  struct credentials *credentials, struct sockaddr_storage *ret_address)
{
    struct listener *listener;
    int r;

    if (server->listener_count == LISTENERS_MAX)
        return -E2BIG;
    r = listener_new(&listener, server->loop, endpoint, &listener_ops, server);
    if (r < 0)
        return r;
    server->listeners[server->listener_count++] = listener;
    return listener_address(listener, ret_address);
}

static void stop_call(struct stream *stream)
{
    call_shutdown(call_from_stream(stream), WIRE_UNAVAILABLE, "the server is shutting down");
}

void server_hurry(struct server *server)
{
    struct peer *peer;

    LIST_FOREACH (peer, &server->peers, link)
        connection_close(peer->connection, CLOSE_SHUTDOWN, "the time for shutting down is over");
}

static void on_stop_timeout(struct wheel_timer *timer)
{
    server_hurry(container_of(timer, struct server, stop_timer));
}

void server_stop(struct server *server, uint64_t timeout_ms, void (*stopped)(void *context),
                 void *context)
{
    struct peer *peer;

    for (unsigned i = 0; i < server->listener_count; i++)
        server->listeners[i] = listener_free(server->listeners[i]);
    server->listener_count = 0;

    server->stopped = stopped;
    server->stopped_context = context;
    server->stop_timer.fire = on_stop_timeout;
    loop_arm(server->loop, &server->stop_timer, timeout_ms, 10);
    LIST_FOREACH (peer, &server->peers, link) {
        connection_each_stream(peer->connection, stop_call);
        connection_drain(peer->connection, CLOSE_SHUTDOWN);
    }
    check_stopped(server);
}

struct server *server_free(struct server *server)
{
    if (!server)
        return NULL;
    for (unsigned i = 0; i < server->listener_count; i++)
        listener_free(server->listeners[i]);
    loop_disarm(server->loop, &server->stop_timer);
    loop_disarm(server->loop, &server->trim_timer);
    loop_cancel(server->loop, &server->stop_task);
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
