/*
 * What nghttp2 tells: frames, header fields, bytes, streams that end; and the making of a session.
 */
#include "net/connection_private.h"

#include "base/util.h"

#include <errno.h>

/* Answers to PING and SETTINGS that may wait; above it the peer is flooding. */
#define OUTBOUND_ACKS_MAX 100

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

/*
 * A frame that nghttp2 answered by itself. Over the announced number of streams it refuses a
 * request until the client has acknowledged that number; from then on it is a connection error.
 */
static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *user)
{
    struct connection *connection = user;

    if (frame->hd.type == NGHTTP2_HEADERS && error == NGHTTP2_ERR_REFUSED_STREAM &&
        connection->ops->refused && !connection->close_wanted)
        connection->ops->refused(connection);
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

ssize_t connection_on_read(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t size,
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

/* nghttp2's memory comes through this file's malloc(), so that tests can let it fail. */
static void *memory_malloc(size_t size, void *user)
{
    return malloc(size);
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
    return calloc(count, size);
}

static void *memory_realloc(void *pointer, size_t size, void *user)
{
    return realloc(pointer, size);
}

static void set_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, on_read_length);
}

static int make_session(struct connection *connection)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    nghttp2_mem memory = {connection, memory_malloc, memory_free, memory_calloc, memory_realloc};
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

int connection_make_session(struct connection *connection, const struct connection_options *options)
{
    int r = make_session(connection);

    return r < 0 ? r : announce(connection, options);
}
