/*
 * What nghttp2 tells: frames, header fields, bytes, streams that end; and the making of a session.
 */
#include "net/connection_private.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

/* Answers to PING and SETTINGS that may wait; above it the peer is flooding. */
#define OUTBOUND_ACKS_MAX 100

/* Entries of one SETTINGS frame. */
#define SETTINGS_ENTRIES_MAX 32

/* RFC 9218, 2.1; nghttp2 has a name for it since 1.48. */
#define SETTINGS_NO_RFC7540_PRIORITIES 0x9

/* What nghttp2 is told of max_streams: see connection_announce(). */
#define STREAMS_UNLIMITED UINT32_MAX

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

/* The peer went beyond a budget: the connection ends, and no callback does anything any more. */
static int flooded(struct connection *connection, const char *what)
{
    connection_end(connection, NGHTTP2_ENHANCE_YOUR_CALM, CLOSE_FLOOD, what);
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

/*
 * This side resets a stream (NULL: one that it refused) for what the peer sent: at most once for
 * each. Resets of the layer above count for nothing. A peer can provoke them, by a short deadline
 * or an end before it has half-closed, but each costs it a request, as an answer would, and the
 * call is gone with its stream: there is no work that goes on behind it. Honest clients have as
 * many as they have bad requests or deadlines.
 */
static int made_reset(struct connection *connection, struct stream *stream)
{
    if (connection->client || (stream && (stream->blamed || stream->reset)))
        return 0;
    if (stream)
        stream->blamed = true;
    return guard_made_reset(&connection->guard, loop_now_ms(connection->loop))
               ? 0
               : flooded(connection, "too many streams had to be reset");
}

/*
 * nghttp2 has told nothing of the last DATA frame's end: the body is longer or shorter than
 * content-length says, and RST_STREAM is queued. Counted only when that is sent, as many would
 * come too late as fit into one read.
 */
static int dropped_data(struct connection *connection)
{
    struct stream *stream = find_stream(connection->session, connection->guard.data_id);

    connection->guard.data_id = 0;
    return stream ? made_reset(connection, stream) : 0;
}

/* A server's look at the head of a frame, before nghttp2 does anything about it. */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *head, void *user)
{
    struct connection *connection = user;
    struct connection_guard *guard = &connection->guard;
    bool idle = false;

    if (connection->close_wanted || (guard->data_id > 0 && dropped_data(connection) < 0))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    switch (head->type) {
    case NGHTTP2_WINDOW_UPDATE:
        return guard_window_update(guard) ? 0
                                          : flooded(connection, "too many WINDOW_UPDATE frames");
    case NGHTTP2_DATA:
        guard->data_id = head->stream_id;
        break;
    case NGHTTP2_RST_STREAM:
    case NGHTTP2_SETTINGS:
    case NGHTTP2_PUSH_PROMISE:
        break;
    case NGHTTP2_CONTINUATION:
        return guard_continuation(guard) ? 0 : flooded(connection, "too many CONTINUATION frames");
    case NGHTTP2_HEADERS:
        guard_headers(guard);
        idle = !guard_is_new(guard, head->stream_id) && !find_stream(session, head->stream_id);
        break;
    case NGHTTP2_PING:
        idle = head->flags & NGHTTP2_FLAG_ACK;
        break;
    default: /* PRIORITY, GOAWAY and all that this side does not know */
        idle = true;
        break;
    }
    return !idle || guard_idle_frame(guard) ? 0 : flooded(connection, "too many idle frames");
}

/* Unknown types of frames are asked for so that on_begin_frame() sees them, and for nothing else.
 */
static int on_unknown_frame(nghttp2_session *session, void **payload, const nghttp2_frame_hd *head,
                            void *user)
{
    return NGHTTP2_ERR_CANCEL;
}

/* Refuses a stream that nghttp2 has just made; nothing of its headers is told. */
static int refuse(struct connection *connection, int32_t id)
{
    int r = nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, id,
                                      NGHTTP2_REFUSED_STREAM);

    return nghttp2_is_fatal(r) ? callback_fail(connection, r)
                               : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct connection *connection = user;
    int32_t id = frame->hd.stream_id;
    struct stream *stream;
    int r;

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    guard_opened(&connection->guard, id, loop_now_ms(connection->loop));
    /* Also for one that is refused: until it is gone it might stand above others. */
    r = connection_share(connection, frame);
    if (nghttp2_is_fatal(r))
        return callback_fail(connection, r);
    if (connection->stream_count >= connection->max_streams) {
        if (connection->ops->refused)
            connection->ops->refused(connection);
        r = made_reset(connection, NULL);
        return r < 0 ? r : refuse(connection, id);
    }
    stream = connection->ops->open(connection);
    if (!stream) /* for want of what all connections share: nobody's fault */
        return refuse(connection, id);
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
    int r;

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!stream || stream->reset)
        return 0;
    if (connection->ops->header(stream, &header) == 0)
        return 0;
    r = made_reset(connection, stream);
    return r < 0 ? r : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
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
        connection_drain_greeted(connection);
    }
    if (window == connection->peer_initial_window)
        return;
    connection->peer_initial_window = window;
    LIST_FOREACH (stream, &connection->streams, link) {
        /* What its reader needs it may need no more of: that depends on this setting. */
        stream->needed = MIN(stream->needed, (uint16_t)1);
        stream_look_at_window(stream);
    }
}

static void on_window_update(struct connection *connection, int32_t id)
{
    if (id == 0) {
        connection->stats->window_updates_connection_total++;
        connection_set(connection, connection->writing,
                       nghttp2_session_get_remote_window_size(connection->session) <= 0);
        connection_look_at_streams(connection);
    } else {
        struct stream *stream = find_stream(connection->session, id);

        connection->stats->window_updates_stream_total++;
        if (stream)
            stream_look_at_window(stream);
    }
}

static int on_data_frame(struct connection *connection, const nghttp2_frame *frame)
{
    struct stream *stream = find_stream(connection->session, frame->hd.stream_id);
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;

    connection->guard.data_id = 0;
    if (!connection->client &&
        !guard_data(&connection->guard, frame->hd.length - frame->data.padlen, end))
        return flooded(connection, "too many empty DATA frames");
    if (stream && !stream->reset && end) {
        stream->half_closed = true;
        connection->ops->half_close(stream);
    }
    return 0;
}

static int on_rst_stream(struct connection *connection, int32_t id)
{
    struct stream *stream = find_stream(connection->session, id);

    if (connection->client)
        return 0;
    if (stream)
        stream->blamed = true;
    return guard_reset(&connection->guard, id, stream, loop_now_ms(connection->loop))
               ? 0
               : flooded(connection, "too many streams were reset");
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
        return on_data_frame(connection, frame);
    case NGHTTP2_RST_STREAM:
        return on_rst_stream(connection, frame->hd.stream_id);
    case NGHTTP2_SETTINGS:
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
            on_settings(connection);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        on_window_update(connection, frame->hd.stream_id);
        break;
    case NGHTTP2_PRIORITY:
        if (!connection->client) {
            int r = connection_share(connection, frame);

            if (nghttp2_is_fatal(r))
                return callback_fail(connection, r);
        }
        break;
    case NGHTTP2_PING:
        connection->stats->pings_received_total += !(frame->hd.flags & NGHTTP2_FLAG_ACK);
        connection_on_ping(connection, frame->hd.flags & NGHTTP2_FLAG_ACK, frame->ping.opaque_data);
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

/* A frame that nghttp2 answered by itself, most often with RST_STREAM or GOAWAY. */
static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *user)
{
    struct connection *connection = user;

    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    /* How grpc-go takes leave: its GOAWAY names a stream of its own where RFC 9113, 6.8, means one
     * of ours. That makes it go no less. */
    if (!connection->client && frame->hd.type == NGHTTP2_GOAWAY && frame->hd.stream_id == 0 &&
        frame->goaway.error_code == NGHTTP2_NO_ERROR) {
        connection_end(connection, NGHTTP2_NO_ERROR, CLOSE_PEER, NULL);
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return made_reset(connection, find_stream(session, frame->hd.stream_id));
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct connection *connection = user;
    struct stream *stream;

    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        /* Some that nghttp2 makes are told of nowhere else: a body that is longer than it should
         * be, a window beyond its end by way of SETTINGS. */
        stream = find_stream(session, frame->hd.stream_id);
        return stream ? made_reset(connection, stream) : 0;
    }
    if (frame->hd.type == NGHTTP2_PING && !(frame->hd.flags & NGHTTP2_FLAG_ACK))
        guard_sent_ping(&connection->guard);
    if (frame->hd.type == NGHTTP2_GOAWAY)
        connection_on_goaway_sent(connection, &frame->goaway);
    else if (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA)
        connection_on_answer(connection);
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
    if (error_code == NGHTTP2_NO_ERROR && !stream->reset && !stream->blamed)
        guard_finished(&connection->guard);
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

ssize_t connection_on_read(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t size,
                           uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct connection *connection = user;
    struct stream *stream = source->ptr;
    struct stream_read read = {0};
    ssize_t n = 0;

    /* At its end its streams are gone, and their source with them. */
    if (connection->state != CONNECTION_OPEN)
        return NGHTTP2_ERR_DEFERRED;
    if (connection->close_wanted)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!stream->reset && !stream->dry)
        n = connection->ops->read(stream, bytes, size, &read);
    if (n < 0) {
        /* nghttp2 resets it. */
        stream->reset = true;
        stream_set(stream, false, stream->lack);
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (n == 0 && !read.end) {
        if (read.needed > 0) {
            stream_wait_for_window(stream, read.needed);
        } else {
            stream->deferred = true;
            stream_set(stream, false, stream->lack);
        }
        return NGHTTP2_ERR_DEFERRED;
    }
    if (read.end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (!connection->client) /* trailers end a response; a request ends here */
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    }
    connection->mark = (struct mark){
        .account = read.account,
        .first_due_ns = read.first_due_ns,
        .due_ns = read.due_ns,
        .size = (uint32_t)n,
        .first_end = (uint32_t)read.first_end,
        .messages = read.messages,
    };
    stream->stalled = 0;
    stream->dry = !read.more && !read.end;
    guard_sent_data(&connection->guard, (size_t)n, read.messages);
    stream_set(stream, read.more && !read.end,
               connection->pull_stream_window <= n ? LACK_STREAM_WINDOW : LACK_NOTHING);
    if (connection->pull_connection_window <= n)
        connection_set(connection, connection->writing, true);
    return n;
}

/*
 * nghttp2's memory comes through this file's malloc(), so that tests can let it fail. That it did
 * is noted: nghttp2 1.52 keeps it to itself where it has no memory to end the session with GOAWAY,
 * and ignores the peer from then on.
 */
static void *note(struct connection *connection, void *pointer)
{
    connection->starved = connection->starved || !pointer;
    return pointer;
}

static void *memory_malloc(size_t size, void *user)
{
    return note(user, malloc(size));
}

/*
 * When nghttp2 1.52 has no memory to queue a response's first DATA frame, it frees the frame but
 * leaves it with its stream, and the end of the session frees it again. So the last block that a
 * session freed lives on until the next, and when the session has failed, until it is gone.
 */
static void memory_free(void *pointer, void *user)
{
    struct connection *connection = user;

    if (!pointer || pointer == connection->limbo)
        return;
    free(connection->freed);
    connection->freed = pointer;
}

static void *memory_calloc(size_t count, size_t size, void *user)
{
    return note(user, calloc(count, size));
}

static void *memory_realloc(void *pointer, size_t size, void *user)
{
    return note(user, realloc(pointer, size));
}

static void set_callbacks(nghttp2_session_callbacks *callbacks, bool client)
{
    if (!client) {
        nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
        nghttp2_session_callbacks_set_unpack_extension_callback(callbacks, on_unknown_frame);
    }
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, on_read_length);
}

static void set_options(nghttp2_option *option, bool client)
{
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_outbound_ack(option, OUTBOUND_ACKS_MAX);
    nghttp2_option_set_max_settings(option, SETTINGS_ENTRIES_MAX);
    if (client)
        return;
#ifdef NGHTTP2_HAS_RESET_LIMIT
    /* The guard has a budget of its own, in which an honest client's resets do not add up. */
    nghttp2_option_set_stream_reset_rate_limit(option, UINT64_MAX, 0);
#endif
    for (unsigned type = NGHTTP2_CONTINUATION + 1; type <= UINT8_MAX; type++)
        nghttp2_option_set_user_recv_extension_type(option, (uint8_t)type);
}

/* The options of each role are made once and kept: naming all types of frames costs more than the
 * rest of a session. NULL without memory. */
static const nghttp2_option *get_options(bool client)
{
    static nghttp2_option *options[2];

    if (!options[client] && nghttp2_option_new(&options[client]) == 0)
        set_options(options[client], client);
    return options[client];
}

static int make_session(struct connection *connection)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_mem memory = {connection, memory_malloc, memory_free, memory_calloc, memory_realloc};
    const nghttp2_option *option = get_options(connection->client);
    int r = option ? nghttp2_session_callbacks_new(&callbacks) : NGHTTP2_ERR_NOMEM;

    if (r == 0) {
        set_callbacks(callbacks, connection->client);
        r = connection->client ? nghttp2_session_client_new3(&connection->session, callbacks,
                                                             connection, option, &memory)
                               : nghttp2_session_server_new3(&connection->session, callbacks,
                                                             connection, option, &memory);
    }
    nghttp2_session_callbacks_del(callbacks);
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
            (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_UNLIMITED};
        entries[count++] = (nghttp2_settings_entry){SETTINGS_NO_RFC7540_PRIORITIES, 1};
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

void connection_announce(struct connection *connection, uint8_t *bytes, size_t size)
{
    const size_t head_size = 9, entry_size = 6;

    if (size < head_size || bytes[3] != NGHTTP2_SETTINGS || (bytes[4] & NGHTTP2_FLAG_ACK))
        return;
    connection->announced = true;
    for (uint8_t *entry = bytes + head_size; entry + entry_size <= bytes + size;
         entry += entry_size) {
        uint32_t value = htonl(connection->max_streams);

        if (entry[0] == 0 && entry[1] == NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
            memcpy(entry + 2, &value, sizeof(value));
    }
}

int connection_make_session(struct connection *connection, const struct connection_options *options)
{
    int r = make_session(connection);

    guard_init(&connection->guard);
    connection->announced = options->client;
    return r < 0 ? r : announce(connection, options);
}
