/*
 * How a connection is made, fed by its transport, and ended. See connection.h for the words, and
 * connection_private.h for what stands in which file.
 */
#include "net/connection_private.h"

#include "base/util.h"

#include <errno.h>
#include <string.h>

/* Frames other than DATA that may wait, beside four for each stream. */
#define OUTBOUND_QUEUE_MAX 1000

/* Frames that may wait for the end of the turn. Whoever begins thousands of calls at once has them
 * answered while they are read: their headers, all waiting together, would leave the heap with as
 * many holes between what stays. */
#define OUTBOUND_QUEUE_KEPT 100

/* How long the peer's last bytes are read after ours have gone, so that they do not draw a TCP
 * reset, which could destroy our GOAWAY before the peer reads it; and before that, how long a
 * GOAWAY with an error may wait for the socket. */
#define LINGER_MS 1000

const char *const blocked_reason_labels[] = {
#define X(identifier, label) [BLOCKED_##identifier] = (label),
    BLOCKED_REASONS(X)
#undef X
};

const char *const close_reason_labels[] = {
#define X(identifier, label) [CLOSE_##identifier] = (label),
    CLOSE_REASONS(X)
#undef X
};

/* ---- Closing ---- */

/* nghttp2 has not closed them: nghttp2_session_del() tells nobody, and where the session lives on
 * it must know nothing of them any more. */
static void lose_streams(struct connection *connection)
{
    struct stream *stream;

    while ((stream = LIST_FIRST(&connection->streams))) {
        (void)nghttp2_session_set_stream_user_data(connection->session, stream->id, NULL);
        stream_unlink(stream);
        connection->ops->close(stream, STREAM_CONNECTION_LOST, false);
    }
}

static void connection_do_close(struct connection *connection)
{
    connection->state = CONNECTION_CLOSING;
    loop_cancel(connection->loop, &connection->flush);
    loop_disarm(connection->loop, &connection->timer);
    connection_life_stop(connection);
    lose_streams(connection);
    connection->stats->unsent_bytes -= connection->unsent;
    connection->unsent = 0;
    connection->transport->ops->close(connection->transport);
}

/* From here on nghttp2 is asked for frames until the GOAWAY has come, and told nothing more. */
static void connection_do_end(struct connection *connection)
{
    int r = 0;

    connection->state = CONNECTION_ENDING;
    connection->greeted = true;
    connection_life_stop(connection);
    if (!connection->terminated)
        r = nghttp2_submit_goaway(connection->session, NGHTTP2_FLAG_NONE,
                                  nghttp2_session_get_last_proc_stream_id(connection->session),
                                  connection->end_code, (const uint8_t *)connection->end_debug,
                                  connection->end_debug ? strlen(connection->end_debug) : 0);
    connection->in_session = true;
    lose_streams(connection);
    if (r < 0)
        connection_fail(connection, r);
    loop_arm(connection->loop, &connection->timer, LINGER_MS, 10);
    loop_queue(connection->loop, &connection->flush);
    connection_leave_session(connection);
}

/* The first cause stands: that the peer goes after a GOAWAY of ours, or while we linger, is no
 * news. */
static void set_reason(struct connection *connection, enum close_reason reason, const char *detail)
{
    bool over = connection->state != CONNECTION_OPEN;
    bool decided = over || connection->reason != CLOSE_PEER;

    if (decided && (over || reason == CLOSE_PEER || reason == CLOSE_PEER_LOST))
        return;
    connection->reason = reason;
    connection->detail = detail;
}

void connection_close(struct connection *connection, enum close_reason reason, const char *detail)
{
    connection->end_wanted = false; /* it need not be polite any more */
    if (connection->state == CONNECTION_CLOSING || connection->close_wanted)
        return;
    set_reason(connection, reason, detail);
    if (connection->in_session)
        connection->close_wanted = true;
    else
        connection_do_close(connection);
}

void connection_close_later(struct connection *connection, enum close_reason reason,
                            const char *detail)
{
    if (connection->state == CONNECTION_CLOSING || connection->close_wanted)
        return;
    set_reason(connection, reason, detail);
    connection->close_wanted = true;
    loop_queue(connection->loop, &connection->flush);
}

void connection_end(struct connection *connection, uint32_t error_code, enum close_reason reason,
                    const char *debug)
{
    if (connection->state != CONNECTION_OPEN || connection->close_wanted)
        return;
    set_reason(connection, reason, debug ? debug : nghttp2_http2_strerror(error_code));
    connection->end_code = error_code;
    connection->end_debug = debug;
    if (connection->in_session)
        connection->close_wanted = connection->end_wanted = true;
    else
        connection_do_end(connection);
}

/*
 * nghttp2 has no function that says whether it has given up on its own. But it takes no second
 * GOAWAY then: it says 0 even to one that names a stream of ours, which it rejects otherwise.
 */
static bool nghttp2_ends(struct connection *connection)
{
    int32_t ours = connection->client ? 1 : 2;

    return nghttp2_submit_goaway(connection->session, NGHTTP2_FLAG_NONE, ours, NGHTTP2_NO_ERROR,
                                 NULL, 0) == 0;
}

void connection_notice_end(struct connection *connection)
{
    if (connection->state != CONNECTION_OPEN || connection->close_wanted ||
        !nghttp2_ends(connection))
        return;
    connection->terminated = true;
    set_reason(connection, CLOSE_PROTOCOL_ERROR, "the peer broke the rules of HTTP/2");
    connection->close_wanted = connection->end_wanted = true;
}

void connection_on_goaway_sent(struct connection *connection, const nghttp2_goaway *goaway)
{
    bool ours = connection->state == CONNECTION_ENDING && !connection->terminated;

    if (ours) {
        connection->said =
            goaway->error_code == connection->end_code && goaway->last_stream_id != INT32_MAX;
    } else if (goaway->error_code != NGHTTP2_NO_ERROR) {
        connection->said = true;
        connection->reason =
            goaway->error_code == NGHTTP2_ENHANCE_YOUR_CALM ? CLOSE_FLOOD : CLOSE_PROTOCOL_ERROR;
        connection->detail = nghttp2_http2_strerror(goaway->error_code);
    } else if (goaway->last_stream_id == INT32_MAX) {
        connection_drain_announced(connection);
    }
}

void connection_leave_session(struct connection *connection)
{
    connection->in_session = false;
    if (!connection->close_wanted)
        return;
    connection->close_wanted = false;
    if (connection->end_wanted) {
        connection->end_wanted = false;
        connection_do_end(connection);
    } else {
        connection_do_close(connection);
    }
}

static bool is_flood(int nghttp2_error)
{
#ifdef NGHTTP2_HAS_CONTINUATION_LIMIT
    if (nghttp2_error == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS)
        return true;
#endif
    return nghttp2_error == NGHTTP2_ERR_FLOODED;
}

void connection_fail(struct connection *connection, int nghttp2_error)
{
    enum close_reason reason = CLOSE_PROTOCOL_ERROR;

    if (nghttp2_error == NGHTTP2_ERR_NOMEM) {
        reason = CLOSE_NO_MEMORY;
        if (!connection->limbo)
            connection->limbo = TAKE_PTR(connection->freed);
    } else if (nghttp2_error == NGHTTP2_ERR_BAD_CLIENT_MAGIC) {
        reason = CLOSE_BAD_PREFACE;
    } else if (is_flood(nghttp2_error)) {
        reason = CLOSE_FLOOD;
    }
    connection_close_later(connection, reason, nghttp2_strerror(nghttp2_error));
}

void connection_linger(struct connection *connection)
{
    connection->state = CONNECTION_LINGERING;
    connection_life_stop(connection);
    connection->transport->ops->shutdown(connection->transport);
    if (connection->peer_ended)
        connection_close(connection, CLOSE_PEER, NULL);
    else
        loop_arm(connection->loop, &connection->timer, LINGER_MS, 10);
}

static void on_timer(struct wheel_timer *timer)
{
    struct connection *connection = container_of(timer, struct connection, timer);

    connection_close(connection, CLOSE_PREFACE_TIMEOUT, "no HTTP/2 preface in time");
}

/* ---- Transport ---- */

/*
 * What came first is no preface. An HTTP/1 client gets an answer that it understands, which is why
 * our SETTINGS have not been sent yet; anybody else gets nothing.
 */
static void connection_reject(struct connection *connection, uint8_t first)
{
    static const char answer[] = "HTTP/1.1 505 HTTP Version Not Supported\r\n"
                                 "Content-Type: text/plain\r\n"
                                 "Content-Length: 39\r\n"
                                 "Connection: close\r\n"
                                 "\r\n"
                                 "This port speaks gRPC over HTTP/2 only\n";

    if (connection->greeted || first < 'A' || first > 'Z') {
        connection_fail(connection, NGHTTP2_ERR_BAD_CLIENT_MAGIC);
        return;
    }
    set_reason(connection, CLOSE_BAD_PREFACE, "HTTP/1");
    (void)connection->transport->ops->try_write(connection->transport, (const uint8_t *)answer,
                                                strlen(answer));
    connection_linger(connection);
}

static void on_received(void *user, const uint8_t *bytes, size_t size)
{
    struct connection *connection = user;
    ssize_t n;

    connection->stats->received_bytes_total += size;
    connection_heard(connection);
    if (connection->state != CONNECTION_OPEN)
        return;
    connection->in_session = true;
    connection->starved = false;
    n = nghttp2_session_mem_recv(connection->session, bytes, size);
    if (n == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        connection_reject(connection, bytes[0]);
    else if (n < 0 || connection->starved)
        connection_fail(connection, n < 0 ? (int)n : NGHTTP2_ERR_NOMEM);
    else if (nghttp2_session_get_outbound_queue_size(connection->session) >
             OUTBOUND_QUEUE_MAX + 4 * (size_t)connection->max_streams)
        connection_close(connection, CLOSE_FLOOD, "too many frames wait to be sent");
    else
        loop_queue(connection->loop, &connection->flush);
    connection->greeted = true;
    connection_notice_end(connection);
    connection_leave_session(connection);
    if (connection->state == CONNECTION_OPEN &&
        nghttp2_session_get_outbound_queue_size(connection->session) > OUTBOUND_QUEUE_KEPT)
        connection_on_flush(&connection->flush);
}

static void on_ended(void *user, int error)
{
    struct connection *connection = user;

    if (error < 0)
        connection_close(connection, CLOSE_PEER_LOST, uv_strerror(error));
    else if (connection->state == CONNECTION_ENDING)
        connection->peer_ended = true; /* it may still hear why */
    else
        connection_close(connection,
                         LIST_EMPTY(&connection->streams) ? CLOSE_PEER : CLOSE_PEER_LOST,
                         "end of file");
}

static void on_written(void *user, int error)
{
    struct connection *connection = user;

    connection->stats->unsent_bytes -= connection->unsent;
    if (error < 0) {
        connection->unsent = 0;
        connection_close(connection, CLOSE_PEER_LOST, uv_strerror(error));
        return;
    }
    connection->stats->sent_bytes_total += connection->unsent;
    connection->unsent = 0;
    connection_heard(connection);
    connection->life.stalled = 0;
    connection->in_session = true;
    connection_count_kept(connection);
    connection_set(connection, false, connection->window_empty);
    loop_queue(connection->loop, &connection->flush);
    connection_leave_session(connection);
}

static struct connection *connection_free(struct connection *connection)
{
    if (!connection)
        return NULL;
    nghttp2_session_del(connection->session);
    free(connection->freed);
    free(connection->limbo);
    free(connection->tallies);
    free(connection->peer);
    free(connection);
    return NULL;
}

static void on_closed(void *user)
{
    struct connection *connection = user;

    connection->stats->connections--;
    connection->stats->closed_total[connection->reason]++;
    if (connection->ops->closed)
        connection->ops->closed(connection, connection->reason, connection->detail);
    connection_free(connection);
}

static const struct transport_user connection_transport_user = {
    .received = on_received,
    .ended = on_ended,
    .written = on_written,
    .closed = on_closed,
};

/* ---- Making one ---- */

static int connection_init(struct connection *connection, const char *peer,
                           const struct connection_options *options)
{
    int r;

    connection->peer = strdup(peer);
    if (!connection->peer)
        return -ENOMEM;
    r = connection_make_session(connection, options);
    if (r < 0)
        return r;
    return connection->transport->ops->start(connection->transport);
}

int connection_new(struct connection **ret_connection, struct transport *transport,
                   const char *peer, const struct connection_options *options)
{
    struct connection *connection = calloc(1, sizeof(*connection));
    int r = -ENOMEM;

    if (connection) {
        connection->client = options->client;
        connection->greeted = options->client;
        connection->loop = options->loop;
        connection->stats = options->stats;
        connection->ops = options->ops;
        connection->context = options->context;
        connection->max_streams = options->max_streams;
        connection->max_header_bytes = options->max_header_bytes;
        connection->peer_initial_window = NGHTTP2_INITIAL_WINDOW_SIZE;
        connection->transport = transport;
        connection->blocked = BLOCKED_NOT;
        STAILQ_INIT(&connection->waiting);
        connection->flush.run = connection_on_flush;
        connection->timer.fire = on_timer;
        transport->user = connection;
        transport->user_ops = &connection_transport_user;
        r = connection_init(connection, peer, options);
    }
    if (r < 0) {
        transport->user_ops = NULL;
        transport->ops->close(transport);
        connection_free(connection);
        return r;
    }
    connection->stats->connections++;
    connection->stats->connections_total++;
    if (options->preface_timeout_ms > 0)
        loop_arm(connection->loop, &connection->timer, options->preface_timeout_ms, 10);
    connection_life_start(connection, options);
    loop_queue(connection->loop, &connection->flush);
    *ret_connection = connection;
    return 0;
}

void *connection_context(const struct connection *connection)
{
    return connection->context;
}

const char *connection_peer(const struct connection *connection)
{
    return connection->peer;
}

uint32_t connection_max_header_bytes(const struct connection *connection)
{
    return connection->max_header_bytes;
}

uint64_t connection_unsent_bytes(struct connection *connection)
{
    uint64_t now_ms = loop_now_ms(connection->loop);

    if (connection->state == CONNECTION_CLOSING)
        return 0;
    if (connection->asked_ms != now_ms) {
        connection->asked_ms = now_ms;
        connection->kernel_unsent = connection->transport->ops->unsent(connection->transport);
    }
    return connection->kernel_unsent + connection->unsent;
}

void connection_each_stream(struct connection *connection, void (*each)(struct stream *stream))
{
    bool nested = connection->in_session;
    struct stream *stream;

    /* None is unlinked meanwhile: streams are closed by nghttp2, or with their connection, and that
     * waits. */
    connection->in_session = true;
    LIST_FOREACH (stream, &connection->streams, link)
        each(stream);
    if (!nested)
        connection_leave_session(connection);
}
