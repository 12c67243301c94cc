/*
 * See connection.h for the words. This file has three parts: the books of what blocks (who is
 * ready, who may not send, and since when), the flush, and the callbacks of nghttp2.
 *
 * Why frames are copied out of nghttp2 into a batch: one write of 80 KiB or more costs a third of
 * eight writes of 16 KiB, and nghttp2 hands out a frame at a time, each overwriting the last.
 *
 * Why the kernel is asked for its room before more than a little is pulled: what is pulled and not
 * accepted has to be kept for as long as the peer does not read, and for a thousand such peers that
 * is memory. Asking costs an ioctl a batch, and nothing at all for a connection that sends little.
 */
#include "net/connection.h"

#include "base/log.h"
#include "base/util.h"
#include "net/transport.h"

#include <assert.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <string.h>

/* DATA frames carry up to this, whatever the peer would take: HTTP/2's initial maximum. */
#define FRAME_PAYLOAD_MAX 16384
#define FRAME_SIZE_MAX (9 + FRAME_PAYLOAD_MAX)

/* A batch: what is pulled without asking for room, and the most that is pulled at once. */
#define BATCH_UNASKED (16 * 1024)
#define BATCH_MAX (128 * 1024)

/* Frames with messages in one batch. */
#define BATCH_MARKS_MAX 2048

/* Answers to PING and SETTINGS that may wait; above it the peer is flooding. */
#define OUTBOUND_ACKS_MAX 100

/* Frames other than DATA that may wait, beside four for each stream. */
#define OUTBOUND_QUEUE_MAX 1000

/* How long the peer's last bytes are read after ours have gone, so that they do not draw a TCP
 * reset, which could destroy our GOAWAY before the peer reads it. */
#define LINGER_MS 1000

#define HEADERS_ON_STACK 16

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

enum connection_state {
    CONNECTION_OPEN,
    CONNECTION_LINGERING, /* everything is said; only waits for the peer's end */
    CONNECTION_CLOSING,   /* waits for the transport to be closed */
};

/* The messages in one frame of the batch. */
struct mark {
    void *account;
    size_t offset;    /* of the frame's payload in the batch */
    size_t size;      /* of the payload */
    size_t first_end; /* in the payload: where the first of the messages ends */
    unsigned messages;
};

/* Messages that were pulled and wait for the kernel. */
struct tally {
    void *account;
    unsigned messages;
};

struct connection {
    bool client;
    enum connection_state state;
    struct loop *loop;
    struct connection_stats *stats;
    const struct connection_ops *ops;
    void *context;
    struct transport *transport;
    nghttp2_session *session;
    char *peer;

    LIST_HEAD(stream_list, stream) streams;
    unsigned stream_count;
    uint32_t max_streams;
    uint32_t peer_initial_window;

    struct loop_task flush;
    struct wheel_timer timer; /* preface, then linger */
    bool greeted;             /* a server says nothing before it has seen the start of a preface */
    bool established;
    bool in_session;   /* nghttp2, or a callback of the layer above, is on the call stack */
    bool close_wanted; /* connection_close() was called meanwhile */
    enum close_reason reason;
    const char *detail;

    bool writing;          /* the transport keeps the rest of a batch */
    bool window_empty;     /* the connection's window was used up */
    size_t unsent;         /* bytes that the transport keeps */
    struct tally *tallies; /* messages whose last byte is among them */
    size_t tally_count;
    enum blocked_reason blocked; /* of the connection as a whole */
    unsigned sendable;           /* streams that are ready and have a window of their own */

    /* Of the frame that nghttp2 is making: the windows before it, and its messages. */
    int32_t pull_stream_window;
    int32_t pull_connection_window;
    struct mark mark;
};

/* The batch being filled: one for all connections, since none keeps it beyond its flush. */
static struct {
    uint8_t bytes[BATCH_MAX + FRAME_SIZE_MAX + 64]; /* nghttp2's buffers have a few more */
    size_t size;
    struct mark marks[BATCH_MARKS_MAX];
    size_t mark_count;
} batch;

/* ---- Books of what blocks ---- */

static void stats_integrate(struct connection_stats *stats)
{
    uint64_t now_ns = uv_hrtime();
    uint64_t passed_ns = now_ns - stats->blocked_at_ns;

    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        stats->blocked_ns[i] += stats->blocked[i] * passed_ns;
    stats->blocked_at_ns = now_ns;
}

uint64_t connection_stats_blocked_ns(struct connection_stats *stats, enum blocked_reason reason)
{
    stats_integrate(stats);
    return stats->blocked_ns[reason];
}

static void stats_move(struct connection_stats *stats, enum blocked_reason from,
                       enum blocked_reason to, unsigned streams)
{
    if (from == to || streams == 0)
        return;
    stats_integrate(stats);
    if (from != BLOCKED_NOT)
        stats->blocked[from] -= streams;
    if (to != BLOCKED_NOT) {
        stats->blocked[to] += streams;
        stats->blocked_episodes_total[to] += streams;
    }
}

enum blocked_reason stream_blocked(const struct stream *stream)
{
    if (!stream->ready)
        return BLOCKED_NOT;
    return stream->window_empty ? BLOCKED_STREAM_WINDOW : stream->connection->blocked;
}

static void stream_set(struct stream *stream, bool ready, bool window_empty)
{
    struct connection *connection = stream->connection;
    enum blocked_reason before = stream_blocked(stream);

    if (stream->ready && !stream->window_empty)
        connection->sendable--;
    stream->ready = ready;
    stream->window_empty = window_empty;
    if (stream->ready && !stream->window_empty)
        connection->sendable++;
    stats_move(connection->stats, before, stream_blocked(stream), 1);
}

static void connection_set(struct connection *connection, bool writing, bool window_empty)
{
    enum blocked_reason before = connection->blocked;

    connection->writing = writing;
    connection->window_empty = window_empty;
    connection->blocked = writing        ? BLOCKED_SOCKET
                          : window_empty ? BLOCKED_CONNECTION_WINDOW
                                         : BLOCKED_NOT;
    stats_move(connection->stats, before, connection->blocked, connection->sendable);
}

static void stream_look_at_window(struct stream *stream)
{
    int32_t window =
        nghttp2_session_get_stream_remote_window_size(stream->connection->session, stream->id);

    /* Negative: nghttp2 does not know the stream yet, a request that has not been sent. */
    if (window >= 0)
        stream_set(stream, stream->ready, window == 0);
}

static void stream_link(struct connection *connection, struct stream *stream, int32_t id)
{
    stream->connection = connection;
    stream->id = id;
    LIST_INSERT_HEAD(&connection->streams, stream, link);
    connection->stream_count++;
    connection->stats->streams++;
}

static void stream_unlink(struct stream *stream)
{
    stream_set(stream, false, stream->window_empty);
    LIST_REMOVE(stream, link);
    stream->connection->stream_count--;
    stream->connection->stats->streams--;
}

/* ---- Closing ---- */

static void connection_do_close(struct connection *connection)
{
    struct stream *stream;

    connection->state = CONNECTION_CLOSING;
    loop_cancel(connection->loop, &connection->flush);
    loop_disarm(connection->loop, &connection->timer);
    /* nghttp2_session_del() tells nobody. */
    while ((stream = LIST_FIRST(&connection->streams))) {
        stream_unlink(stream);
        connection->ops->close(stream, STREAM_CONNECTION_LOST, false);
    }
    connection->stats->unsent_bytes -= connection->unsent;
    connection->unsent = 0;
    connection->transport->ops->close(connection->transport);
}

/* The first cause stands: that the peer goes after a GOAWAY of ours, or while we linger, is no
 * news. */
static void set_reason(struct connection *connection, enum close_reason reason, const char *detail)
{
    bool decided = connection->state == CONNECTION_LINGERING || connection->reason != CLOSE_PEER;

    if (decided && (reason == CLOSE_PEER || reason == CLOSE_PEER_LOST ||
                    connection->state == CONNECTION_LINGERING))
        return;
    connection->reason = reason;
    connection->detail = detail;
}

void connection_close(struct connection *connection, enum close_reason reason, const char *detail)
{
    if (connection->state == CONNECTION_CLOSING || connection->close_wanted)
        return;
    set_reason(connection, reason, detail);
    if (connection->in_session)
        connection->close_wanted = true;
    else
        connection_do_close(connection);
}

/* The same at the end of the turn: for functions whose caller holds a stream of this connection. */
static void connection_close_later(struct connection *connection, enum close_reason reason,
                                   const char *detail)
{
    if (connection->state == CONNECTION_CLOSING || connection->close_wanted)
        return;
    set_reason(connection, reason, detail);
    connection->close_wanted = true;
    loop_queue(connection->loop, &connection->flush);
}

/* nghttp2 has returned: do what had to wait for it. */
static void connection_leave_session(struct connection *connection)
{
    connection->in_session = false;
    if (connection->close_wanted) {
        connection->close_wanted = false;
        connection_do_close(connection);
    }
}

/* nghttp2 failed: the connection ends with this turn. */
static void connection_fail(struct connection *connection, int nghttp2_error)
{
    enum close_reason reason = CLOSE_PROTOCOL_ERROR;

    if (nghttp2_error == NGHTTP2_ERR_NOMEM)
        reason = CLOSE_NO_MEMORY;
    else if (nghttp2_error == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        reason = CLOSE_BAD_PREFACE;
    else if (nghttp2_error == NGHTTP2_ERR_FLOODED)
        reason = CLOSE_FLOOD;
    connection_close_later(connection, reason, nghttp2_strerror(nghttp2_error));
}

/* Nothing is left to say or to hear: end the sending side, and wait a little for the peer's. */
static void connection_linger(struct connection *connection)
{
    connection->state = CONNECTION_LINGERING;
    connection->transport->ops->shutdown(connection->transport);
    loop_arm(connection->loop, &connection->timer, LINGER_MS, 10);
}

static void on_timer(struct wheel_timer *timer)
{
    struct connection *connection = container_of(timer, struct connection, timer);

    connection_close(connection, CLOSE_PREFACE_TIMEOUT, "no HTTP/2 preface in time");
}

void connection_drain(struct connection *connection, uint32_t error_code, enum close_reason reason)
{
    if (connection->state != CONNECTION_OPEN)
        return;
    connection->reason = reason;
    /* Whatever the peer may be, it is told, and not waited for until its time for a preface is up.
     */
    connection->greeted = true;
    int r = nghttp2_submit_goaway(connection->session, NGHTTP2_FLAG_NONE,
                                  nghttp2_session_get_last_proc_stream_id(connection->session),
                                  error_code, NULL, 0);
    if (r < 0)
        connection_fail(connection, r);
    else
        loop_queue(connection->loop, &connection->flush);
}

/* ---- Flush ---- */

static void account(struct connection *connection, void *account_, unsigned messages)
{
    if (account_ && messages > 0)
        connection->ops->accepted(account_, messages);
}

static int tally_add(struct connection *connection, void *account_, unsigned messages)
{
    struct tally *tallies;

    /* Nearly always there is one: all calls of a method share their account. */
    for (size_t i = 0; i < connection->tally_count; i++) {
        if (connection->tallies[i].account == account_) {
            connection->tallies[i].messages += messages;
            return 0;
        }
    }
    tallies = realloc(connection->tallies, (connection->tally_count + 1) * sizeof(*tallies));
    if (!tallies)
        return -ENOMEM;
    tallies[connection->tally_count++] = (struct tally){account_, messages};
    connection->tallies = tallies;
    return 0;
}

/* How many of a frame's messages lie whole within the batch's first `accepted` bytes. */
static unsigned mark_accepted(struct connection *connection, const struct mark *mark,
                              size_t accepted)
{
    size_t first_end = mark->offset + mark->first_end;

    if (accepted >= mark->offset + mark->size)
        return mark->messages;
    if (accepted < first_end)
        return 0;
    return 1 + connection->ops->count(batch.bytes + first_end, accepted - first_end);
}

/* The kernel took `accepted` bytes of the batch: count their messages, note the others. */
static int batch_settle(struct connection *connection, size_t accepted)
{
    connection->stats->sent_bytes_total += accepted;
    for (size_t i = 0; i < batch.mark_count; i++) {
        const struct mark *mark = &batch.marks[i];
        unsigned messages = mark_accepted(connection, mark, accepted);

        account(connection, mark->account, messages);
        if (messages < mark->messages) {
            int r = tally_add(connection, mark->account, mark->messages - messages);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* Takes one frame. 1 if there was one, 0 if nothing may be sent now, or nghttp2's error. */
static int batch_take(struct connection *connection)
{
    const uint8_t *bytes;
    ssize_t size;

    connection->mark = (struct mark){0};
    size = nghttp2_session_mem_send(connection->session, &bytes);
    if (size <= 0)
        return (int)size;
    assert(batch.size + (size_t)size <= sizeof(batch.bytes));
    memcpy(batch.bytes + batch.size, bytes, (size_t)size);
    batch.size += (size_t)size;
    if (connection->mark.messages > 0) {
        connection->mark.offset = batch.size - connection->mark.size;
        batch.marks[batch.mark_count++] = connection->mark;
    }
    return 1;
}

/* Fills the batch. 1 if it is full and there may be more, 0 if that was all, or nghttp2's error. */
static int batch_fill(struct connection *connection)
{
    size_t limit = BATCH_UNASKED;
    int r;

    batch.size = 0;
    batch.mark_count = 0;
    for (;;) {
        if (batch.size >= limit && limit == BATCH_UNASKED) {
            size_t room = connection->transport->ops->room(connection->transport);
            limit = MIN(room, (size_t)BATCH_MAX);
        }
        if (batch.size >= limit || batch.mark_count == BATCH_MARKS_MAX)
            return 1;
        r = batch_take(connection);
        if (r <= 0 || connection->close_wanted)
            return MIN(r, 0);
    }
}

/* The transport took only `accepted` bytes of the batch: it keeps the others. */
static int batch_keep(struct connection *connection, size_t accepted)
{
    size_t rest = batch.size - accepted;
    int r = connection->transport->ops->write(connection->transport, batch.bytes + accepted, rest);

    if (r < 0)
        return r;
    connection->unsent = rest;
    connection->stats->unsent_bytes += rest;
    connection_set(connection, true, connection->window_empty);
    return 0;
}

static void connection_flush(struct connection *connection)
{
    ssize_t accepted;
    bool full;
    int r;

    connection->in_session = true;
    r = batch_fill(connection);
    if (r < 0)
        connection_fail(connection, r);
    full = r > 0;
    connection_leave_session(connection);
    if (connection->state != CONNECTION_OPEN || batch.size == 0)
        return;

    accepted =
        connection->transport->ops->try_write(connection->transport, batch.bytes, batch.size);
    if (accepted < 0) {
        connection_close(connection, CLOSE_PEER_LOST, uv_strerror((int)accepted));
        return;
    }
    connection->in_session = true;
    r = batch_settle(connection, (size_t)accepted);
    connection_leave_session(connection);
    if (connection->state != CONNECTION_OPEN)
        return;
    if (r >= 0 && (size_t)accepted < batch.size)
        r = batch_keep(connection, (size_t)accepted);
    if (r < 0)
        connection_close(connection, r == -ENOMEM ? CLOSE_NO_MEMORY : CLOSE_PEER_LOST,
                         uv_strerror(r));
    else if (full && !connection->writing)
        loop_queue(connection->loop, &connection->flush);
}

static void on_flush(struct loop_task *task)
{
    struct connection *connection = container_of(task, struct connection, flush);

    if (connection->close_wanted) {
        connection_leave_session(connection);
        return;
    }
    if (connection->state != CONNECTION_OPEN || connection->writing || !connection->greeted)
        return;
    connection_flush(connection);
    if (connection->state == CONNECTION_OPEN && !connection->writing &&
        !nghttp2_session_want_read(connection->session) &&
        !nghttp2_session_want_write(connection->session))
        connection_linger(connection);
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
    if (connection->state != CONNECTION_OPEN)
        return;
    connection->in_session = true;
    n = nghttp2_session_mem_recv(connection->session, bytes, size);
    if (n == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        connection_reject(connection, bytes[0]);
    else if (n < 0)
        connection_fail(connection, (int)n);
    else if (nghttp2_session_get_outbound_queue_size(connection->session) >
             OUTBOUND_QUEUE_MAX + 4 * (size_t)connection->max_streams)
        connection_close(connection, CLOSE_FLOOD, "too many frames wait to be sent");
    else
        loop_queue(connection->loop, &connection->flush);
    connection->greeted = true;
    connection_leave_session(connection);
}

static void on_ended(void *user, int error)
{
    struct connection *connection = user;

    if (error < 0)
        connection_close(connection, CLOSE_PEER_LOST, uv_strerror(error));
    else
        connection_close(connection, connection->stream_count > 0 ? CLOSE_PEER_LOST : CLOSE_PEER,
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
    connection->in_session = true;
    for (size_t i = 0; i < connection->tally_count; i++)
        account(connection, connection->tallies[i].account, connection->tallies[i].messages);
    free(TAKE_PTR(connection->tallies));
    connection->tally_count = 0;
    connection_set(connection, false, connection->window_empty);
    loop_queue(connection->loop, &connection->flush);
    connection_leave_session(connection);
}

static struct connection *connection_free(struct connection *connection)
{
    if (!connection)
        return NULL;
    nghttp2_session_del(connection->session);
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

/* ---- What nghttp2 tells ---- */

static struct stream *find_stream(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

/* For a callback that cannot go on: nghttp2 itself would not tell its caller why. */
static int callback_fail(struct connection *connection, int nghttp2_error)
{
    connection_fail(connection, nghttp2_error);
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct connection *connection = user;
    const nghttp2_extpri equal = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};
    int32_t id = frame->hd.stream_id;
    struct stream *stream;
    int r;

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    /* Incremental: streams of one connection share it equally, whatever the client would prefer. */
    r = nghttp2_session_change_extpri_stream_priority(session, id, &equal, 1);
    if (nghttp2_is_fatal(r))
        return callback_fail(connection, r);
    stream = connection->ops->open(connection);
    if (!stream) {
        r = nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM);
        return nghttp2_is_fatal(r) ? callback_fail(connection, r) : 0;
    }
    stream_link(connection, stream, id);
    (void)nghttp2_session_set_stream_user_data(session, id, stream);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *user)
{
    struct connection *connection = user;
    struct stream *stream = find_stream(session, frame->hd.stream_id);
    struct header header = {(const char *)name, name_length, (const char *)value, value_length};

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!stream || stream->reset)
        return 0;
    return connection->ops->header(stream, &header) == 0 ? 0
                                                         : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                         size_t size, void *user)
{
    struct connection *connection = user;
    struct stream *stream = find_stream(session, id);

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!stream || stream->reset) {
        int r = nghttp2_session_consume(session, id, size);

        return nghttp2_is_fatal(r) ? callback_fail(connection, r) : 0;
    }
    stream->unconsumed += (uint32_t)size;
    connection->ops->data(stream, bytes, size);
    return 0;
}

static void on_settings(struct connection *connection)
{
    uint32_t window = nghttp2_session_get_remote_settings(connection->session,
                                                          NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE);
    struct stream *stream;

    if (!connection->established) {
        connection->established = true;
        loop_disarm(connection->loop, &connection->timer);
        if (connection->ops->established)
            connection->ops->established(connection);
    }
    if (window == connection->peer_initial_window)
        return;
    connection->peer_initial_window = window;
    LIST_FOREACH (stream, &connection->streams, link)
        stream_look_at_window(stream);
}

static void on_window_update(struct connection *connection, int32_t id)
{
    if (id == 0) {
        connection->stats->window_updates_connection_total++;
        connection_set(connection, connection->writing,
                       nghttp2_session_get_remote_window_size(connection->session) <= 0);
    } else {
        struct stream *stream = find_stream(connection->session, id);

        connection->stats->window_updates_stream_total++;
        if (stream)
            stream_look_at_window(stream);
    }
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct connection *connection = user;
    const struct connection_ops *ops = connection->ops;
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    struct stream *stream;

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        stream = find_stream(session, frame->hd.stream_id);
        if (!stream || stream->reset)
            break;
        stream->half_closed = end;
        ops->headers_end(stream, end);
        break;
    case NGHTTP2_DATA:
        stream = find_stream(session, frame->hd.stream_id);
        if (!stream || stream->reset || !end)
            break;
        stream->half_closed = true;
        ops->half_close(stream);
        break;
    case NGHTTP2_SETTINGS:
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
            on_settings(connection);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        on_window_update(connection, frame->hd.stream_id);
        break;
    case NGHTTP2_GOAWAY:
        if (ops->goaway)
            ops->goaway(connection, frame->goaway.error_code, frame->goaway.last_stream_id);
        break;
    default:
        break;
    }
    return 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct connection *connection = user;
    struct stream *stream;

    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR &&
        connection->reason == CLOSE_PEER) {
        connection->reason = frame->goaway.error_code == NGHTTP2_ENHANCE_YOUR_CALM
                                 ? CLOSE_FLOOD
                                 : CLOSE_PROTOCOL_ERROR;
        connection->detail = nghttp2_http2_strerror(frame->goaway.error_code);
    }
    if (connection->client || frame->hd.type != NGHTTP2_HEADERS ||
        !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    /* PROTOCOL-HTTP2.md: a server that ends a call before the client has half-closed it says with
     * RST_STREAM NO_ERROR that it wants no more of the request. */
    stream = find_stream(session, frame->hd.stream_id);
    if (stream && !stream->half_closed)
        stream_reset(stream, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error_code, void *user)
{
    struct connection *connection = user;
    struct stream *stream = find_stream(session, id);

    if (!stream)
        return 0;
    stream_unlink(stream);
    if (stream->unconsumed > 0) {
        int r = nghttp2_session_consume_connection(session, stream->unconsumed);

        /* nghttp2 wants no error from here. */
        if (nghttp2_is_fatal(r))
            connection_fail(connection, r);
    }
    connection->ops->close(stream, error_code, stream->reset);
    return 0;
}

static ssize_t on_read_length(nghttp2_session *session, uint8_t frame_type, int32_t stream_id,
                              int32_t connection_window, int32_t stream_window,
                              uint32_t remote_max_frame_size, void *user)
{
    struct connection *connection = user;

    connection->pull_connection_window = connection_window;
    connection->pull_stream_window = stream_window;
    return FRAME_PAYLOAD_MAX;
}

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t size,
                       uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct connection *connection = user;
    struct stream *stream = source->ptr;
    struct stream_read read = {0};
    ssize_t n = 0;

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!stream->reset)
        n = connection->ops->read(stream, bytes, size, &read);
    if (n < 0) {
        /* nghttp2 resets it. */
        stream->reset = true;
        stream_set(stream, false, stream->window_empty);
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (n == 0 && !read.end) {
        stream->deferred = true;
        stream_set(stream, false, stream->window_empty);
        return NGHTTP2_ERR_DEFERRED;
    }
    if (read.end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (!connection->client) /* trailers end a response; a request ends here */
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    }
    connection->mark = (struct mark){
        .account = read.account,
        .size = (size_t)n,
        .first_end = read.first_end,
        .messages = read.messages,
    };
    stream_set(stream, read.more && !read.end, connection->pull_stream_window <= n);
    if (connection->pull_connection_window <= n)
        connection_set(connection, connection->writing, true);
    return n;
}

/* ---- Making one ---- */

/* nghttp2's memory comes through this file's malloc(), so that tests can let it fail. */
static void *memory_malloc(size_t size, void *user)
{
    return malloc(size);
}

static void memory_free(void *pointer, void *user)
{
    free(pointer);
}

static void *memory_calloc(size_t count, size_t size, void *user)
{
    return calloc(count, size);
}

static void *memory_realloc(void *pointer, size_t size, void *user)
{
    return realloc(pointer, size);
}

static nghttp2_mem memory = {NULL, memory_malloc, memory_free, memory_calloc, memory_realloc};

static void set_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, on_read_length);
}

static int make_session(struct connection *connection)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    int r = nghttp2_option_new(&option);

    if (r == 0)
        r = nghttp2_session_callbacks_new(&callbacks);
    if (r == 0) {
        set_callbacks(callbacks);
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_option_set_no_closed_streams(option, 1);
        nghttp2_option_set_max_outbound_ack(option, OUTBOUND_ACKS_MAX);
        r = connection->client ? nghttp2_session_client_new3(&connection->session, callbacks,
                                                             connection, option, &memory)
                               : nghttp2_session_server_new3(&connection->session, callbacks,
                                                             connection, option, &memory);
    }
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    return r == 0 ? 0 : -ENOMEM;
}

/* Queues our SETTINGS, and the window of the connection where it is not the protocol's. */
static int announce(struct connection *connection, const struct connection_options *options)
{
    nghttp2_settings_entry entries[4];
    size_t count = 0;
    int r;

    if (options->client) {
        entries[count++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_ENABLE_PUSH, 0};
    } else {
        entries[count++] =
            (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options->max_streams};
        entries[count++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1};
    }
    entries[count++] =
        (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, options->max_header_bytes};
    if (options->stream_window != NGHTTP2_INITIAL_WINDOW_SIZE)
        entries[count++] =
            (nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, options->stream_window};
    r = nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, entries, count);
    if (r == 0 && options->connection_window > NGHTTP2_INITIAL_CONNECTION_WINDOW_SIZE)
        r = nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0,
                                                  (int32_t)options->connection_window);
    return r == 0 ? 0 : -ENOMEM;
}

static int connection_init(struct connection *connection, const char *peer,
                           const struct connection_options *options)
{
    int r;

    connection->peer = strdup(peer);
    if (!connection->peer)
        return -ENOMEM;
    r = make_session(connection);
    if (r < 0)
        return r;
    r = announce(connection, options);
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
        connection->peer_initial_window = NGHTTP2_INITIAL_WINDOW_SIZE;
        connection->transport = transport;
        connection->blocked = BLOCKED_NOT;
        connection->flush.run = on_flush;
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

unsigned connection_stream_count(const struct connection *connection)
{
    return connection->stream_count;
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

/* ---- Streams ---- */

/* The fields as nghttp2 wants them: in `stack` if they fit, else in memory of their own. */
static nghttp2_nv *make_fields(const struct header *headers, size_t count,
                               nghttp2_nv stack[static HEADERS_ON_STACK])
{
    nghttp2_nv *fields = count <= HEADERS_ON_STACK ? stack : calloc(count, sizeof(*fields));

    for (size_t i = 0; fields && i < count; i++) {
        fields[i] = (nghttp2_nv){
            .name = (uint8_t *)headers[i].name,
            .namelen = headers[i].name_length,
            .value = (uint8_t *)headers[i].value,
            .valuelen = headers[i].value_length,
        };
    }
    return fields;
}

/* RFC 9113, 10.5.1 lets a peer say how large a header list it takes, each field with 32 more. */
static bool headers_fit(struct connection *connection, const struct header *headers, size_t count)
{
    uint32_t max = nghttp2_session_get_remote_settings(connection->session,
                                                       NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE);
    size_t size = 0;

    for (size_t i = 0; i < count; i++)
        size += headers[i].name_length + headers[i].value_length + 32;
    return size <= max;
}

enum submit_kind {
    SUBMIT_REQUEST,
    SUBMIT_HEADERS,
    SUBMIT_HEADERS_ALONE,
    SUBMIT_TRAILERS,
};

/* nghttp2's result; a request's is its new stream id. */
static int32_t submit(struct connection *connection, struct stream *stream, enum submit_kind kind,
                      const struct header *headers, size_t count)
{
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = on_read};
    nghttp2_nv stack[HEADERS_ON_STACK];
    nghttp2_nv *fields = make_fields(headers, count, stack);
    nghttp2_session *session = connection->session;
    int32_t r = 0;

    if (!fields)
        return NGHTTP2_ERR_NOMEM;
    switch (kind) {
    case SUBMIT_REQUEST:
        r = nghttp2_submit_request(session, NULL, fields, count, &provider, stream);
        break;
    case SUBMIT_HEADERS:
        r = nghttp2_submit_response(session, stream->id, fields, count, &provider);
        break;
    case SUBMIT_HEADERS_ALONE:
        r = nghttp2_submit_response(session, stream->id, fields, count, NULL);
        break;
    case SUBMIT_TRAILERS:
        r = nghttp2_submit_trailer(session, stream->id, fields, count);
        break;
    }
    if (fields != stack)
        free(fields);
    return r;
}

static int stream_submit(struct stream *stream, enum submit_kind kind, const struct header *headers,
                         size_t count)
{
    struct connection *connection = stream->connection;
    int32_t r;

    if (connection->state != CONNECTION_OPEN || stream->reset)
        return 1;
    if (!headers_fit(connection, headers, count)) {
        stream_reset(stream, NGHTTP2_INTERNAL_ERROR);
        return 1;
    }
    r = submit(connection, stream, kind, headers, count);
    if (r == NGHTTP2_ERR_NOMEM)
        return -ENOMEM;
    if (r < 0)
        return 1;
    loop_queue(connection->loop, &connection->flush);
    return 0;
}

int stream_request(struct connection *connection, struct stream *stream,
                   const struct header *headers, size_t count)
{
    int32_t id;

    if (connection->state != CONNECTION_OPEN ||
        !nghttp2_session_check_request_allowed(connection->session))
        return 1;
    id = submit(connection, stream, SUBMIT_REQUEST, headers, count);
    if (id == NGHTTP2_ERR_NOMEM)
        return -ENOMEM;
    if (id < 0)
        return 1;
    stream_link(connection, stream, id);
    loop_queue(connection->loop, &connection->flush);
    return 0;
}

int stream_respond(struct stream *stream, const struct header *headers, size_t count, bool end)
{
    int r = stream_submit(stream, end ? SUBMIT_HEADERS_ALONE : SUBMIT_HEADERS, headers, count);

    if (r == 0 && !end)
        stream_look_at_window(stream);
    return r;
}

int stream_submit_trailers(struct stream *stream, const struct header *headers, size_t count)
{
    return stream_submit(stream, SUBMIT_TRAILERS, headers, count);
}

void stream_reset(struct stream *stream, uint32_t error_code)
{
    struct connection *connection = stream->connection;
    int r;

    if (connection->state != CONNECTION_OPEN || stream->reset)
        return;
    stream->reset = true;
    stream_set(stream, false, stream->window_empty);
    r = nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, stream->id, error_code);
    if (r < 0)
        connection_fail(connection, r);
    else
        loop_queue(connection->loop, &connection->flush);
}

void stream_resume(struct stream *stream)
{
    struct connection *connection = stream->connection;

    if (connection->state != CONNECTION_OPEN || stream->reset)
        return;
    stream_set(stream, true, stream->window_empty);
    if (stream->deferred) {
        int r = nghttp2_session_resume_data(connection->session, stream->id);

        stream->deferred = false;
        if (r == NGHTTP2_ERR_NOMEM) {
            connection_fail(connection, r);
            return;
        }
    }
    loop_queue(connection->loop, &connection->flush);
}

void stream_consume(struct stream *stream, size_t size)
{
    struct connection *connection = stream->connection;
    int r;

    assert(size <= stream->unconsumed);
    stream->unconsumed -= (uint32_t)size;
    if (connection->state != CONNECTION_OPEN || size == 0)
        return;
    r = nghttp2_session_consume(connection->session, stream->id, size);
    if (r < 0)
        connection_fail(connection, r);
    else
        loop_queue(connection->loop, &connection->flush);
}
