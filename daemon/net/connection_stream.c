/*
 * What the layer above says: requests, headers, trailers, resets, credit.
 */
#include "net/connection_private.h"

#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEADERS_ON_STACK 16

/* What nghttp2 keeps of a stream, about. */
#define NGHTTP2_STREAM_SIZE 240

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
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = connection_on_read};
    nghttp2_nv stack[HEADERS_ON_STACK];
    nghttp2_nv *fields = make_fields(headers, count, stack);
    nghttp2_session *session = connection->session;
    bool starved = connection->starved;
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
    /* This failure is told, and the session is none the worse for it. */
    connection->starved = starved;
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
    stream_set(stream, false, stream->lack);
    r = nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, stream->id, error_code);
    if (r < 0)
        connection_fail(connection, r);
    else
        loop_queue(connection->loop, &connection->flush);
}

/*
 * Tells the peer of `size` bytes more of window, unless it has more than that: `left`. To one that
 * sends whatever it may this goes at once; to any other it grows with what is left, so that a peer
 * that has sent much and then nothing gets few frames, and does not take them for a flood. `id` 0
 * is the connection's.
 */
static int submit_credit(struct connection *connection, int32_t id, int32_t size, int32_t left)
{
    if (size <= 0 || size < left)
        return 0;
    return nghttp2_submit_window_update(connection->session, NGHTTP2_FLAG_NONE, id, size);
}

void stream_credit_flush(struct stream *stream)
{
    struct connection *connection = stream->connection;
    nghttp2_session *session = connection->session;
    const struct stream *other;
    int32_t of_stream, of_connection;
    int r;

    if (connection->state != CONNECTION_OPEN)
        return;
    /* What has come since the last WINDOW_UPDATE, less what has not been used. */
    of_stream = nghttp2_session_get_stream_effective_recv_data_length(session, stream->id) -
                (int32_t)stream->unconsumed;
    of_connection = nghttp2_session_get_effective_recv_data_length(session);
    LIST_FOREACH (other, &connection->streams, link)
        of_connection -= (int32_t)other->unconsumed;
    r = submit_credit(connection, stream->id, of_stream,
                      nghttp2_session_get_stream_local_window_size(session, stream->id));
    if (r == 0)
        r = submit_credit(connection, 0, of_connection,
                          nghttp2_session_get_local_window_size(session));
    if (r < 0)
        connection_fail(connection, r);
    else
        loop_queue(connection->loop, &connection->flush);
}

/*
 * nghttp2 keeps the streams that have something in a heap, and each frame moves one of them through
 * all its levels, past other streams' memory. Where an update goes to all streams of a connection,
 * that costs more than all else. So nghttp2 is told of one at a time, when the flush comes for its
 * frame: its heap has a few, and those that wait are in the order in which they were resumed.
 */
void stream_resume(struct stream *stream)
{
    struct connection *connection = stream->connection;

    if (connection->state != CONNECTION_OPEN || stream->reset)
        return;
    stream_set(stream, true, stream->lack);
    stream->dry = false;
    if (stream->deferred && !stream->waiting) {
        stream->waiting = true;
        STAILQ_INSERT_TAIL(&connection->waiting, stream, queued);
    }
    loop_queue(connection->loop, &connection->flush);
}

/*
 * Between two updates the memory of thousands of streams has left the processor's caches, and what
 * is spent on each is mostly the wait for it. Whose turn is near is known, so that the wait is over
 * when it comes: of the next one what its reader and nghttp2 have of it, of the one after that what
 * says where those are.
 */
static void prefetch_turns(struct connection *connection)
{
    const struct stream *next = STAILQ_FIRST(&connection->waiting);
    const struct stream *after = next ? STAILQ_NEXT(next, queued) : NULL;
    const char *nghttp2;

    if (!after || !connection->ops->prefetch)
        return;
    util_prefetch(after, connection->ops->stream_size);
    nghttp2 = (const char *)nghttp2_session_find_stream(connection->session, next->id);
    if (nghttp2)
        util_prefetch(nghttp2, NGHTTP2_STREAM_SIZE);
    connection->ops->prefetch(next);
}

int connection_give_turn(struct connection *connection)
{
    struct stream *stream = STAILQ_FIRST(&connection->waiting);
    int r;

    if (!stream)
        return 0;
    STAILQ_REMOVE_HEAD(&connection->waiting, queued);
    prefetch_turns(connection);
    stream->waiting = false;
    stream->deferred = false;
    /* Any other error is that the stream has nothing to send any more. */
    r = nghttp2_session_resume_data(connection->session, stream->id);
    return r == NGHTTP2_ERR_NOMEM ? r : 1;
}

uint32_t stream_initial_window(const struct stream *stream)
{
    return stream->connection->peer_initial_window;
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
