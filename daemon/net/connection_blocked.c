/*
 * The books of what blocks: how many streams are ready and cannot send, why, and for how long.
 *
 * A stream is blocked by its own window, or by what blocks its whole connection. So a connection
 * only counts its streams that are ready and lack nothing of their own, and when it becomes
 * blocked or free that many move at once: nothing is done for each stream. One that needs more
 * window than there is, of the connection's too, lacks that by itself: others may use the rest.
 * Blocked time is not measured stream by stream either: it is the integral of the number of blocked
 * streams, brought up to date whenever that number changes or is read.
 */
#include "net/connection_private.h"

#include "base/util.h"

#include <assert.h>

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
    return stream->lack == LACK_NOTHING ? stream->connection->blocked
                                        : (enum blocked_reason)(stream->lack - 1);
}

void stream_set(struct stream *stream, bool ready, enum window_lack lack)
{
    struct connection *connection = stream->connection;
    enum blocked_reason before = stream_blocked(stream);
    enum blocked_reason after;

    if (stream->ready && stream->lack == LACK_NOTHING)
        connection->sendable--;
    stream->ready = ready;
    stream->lack = (uint8_t)lack;
    if (stream->ready && stream->lack == LACK_NOTHING)
        connection->sendable++;
    after = stream_blocked(stream);
    stats_move(connection->stats, before, after, 1);
    if (after != BLOCKED_NOT)
        connection_watch(connection);
}

void connection_set(struct connection *connection, bool writing, bool window_empty)
{
    enum blocked_reason before = connection->blocked;

    connection->writing = writing;
    connection->window_empty = window_empty;
    connection->blocked = writing        ? BLOCKED_SOCKET
                          : window_empty ? BLOCKED_CONNECTION_WINDOW
                                         : BLOCKED_NOT;
    stats_move(connection->stats, before, connection->blocked, connection->sendable);
    if (writing || (window_empty && connection->sendable > 0))
        connection_watch(connection);
}

/* What a stream lacks that needs so many bytes, in windows of these sizes. */
static enum window_lack lack_of(uint16_t needed, int32_t stream_window, int32_t connection_window)
{
    if (stream_window < MAX((int32_t)needed, 1))
        return LACK_STREAM_WINDOW;
    return connection_window < (int32_t)needed ? LACK_CONNECTION_WINDOW : LACK_NOTHING;
}

void stream_look_at_window(struct stream *stream)
{
    struct connection *connection = stream->connection;
    nghttp2_session *session = connection->session;
    int32_t window = nghttp2_session_get_stream_remote_window_size(session, stream->id);
    enum window_lack lack;

    /* Negative: nghttp2 does not know the stream yet, a request that has not been sent. */
    if (window < 0)
        return;
    lack = lack_of(stream->needed, window,
                   stream->needed > 0 ? nghttp2_session_get_remote_window_size(session) : 0);
    stream_set(stream, stream->ready, lack);
    if (lack == LACK_CONNECTION_WINDOW)
        connection->window_wanted = true;
    if (lack != LACK_NOTHING || stream->needed == 0 || stream->reset)
        return;
    stream->needed = 0;
    if (nghttp2_session_resume_data(session, stream->id) == NGHTTP2_ERR_NOMEM)
        connection_fail(connection, NGHTTP2_ERR_NOMEM);
}

void stream_wait_for_window(struct stream *stream, uint16_t needed)
{
    struct connection *connection = stream->connection;
    enum window_lack lack =
        lack_of(needed, connection->pull_stream_window, connection->pull_connection_window);

    assert(lack != LACK_NOTHING);
    stream->needed = needed;
    stream_set(stream, true, lack);
    if (lack == LACK_CONNECTION_WINDOW)
        connection->window_wanted = true;
}

void connection_look_at_streams(struct connection *connection)
{
    struct stream *stream;

    if (!connection->window_wanted)
        return;
    connection->window_wanted = false;
    LIST_FOREACH (stream, &connection->streams, link) {
        if (stream->lack == LACK_CONNECTION_WINDOW)
            stream_look_at_window(stream);
    }
}

void stream_link(struct connection *connection, struct stream *stream, int32_t id)
{
    stream->connection = connection;
    stream->id = id;
    LIST_INSERT_HEAD(&connection->streams, stream, link);
    connection->stream_count++;
    connection->stats->streams++;
}

void stream_unlink(struct stream *stream)
{
    stream->blocked_last = (uint8_t)stream_blocked(stream);
    stream_set(stream, false, stream->lack);
    LIST_REMOVE(stream, link);
    if (stream->waiting)
        STAILQ_REMOVE(&stream->connection->waiting, stream, stream, queued);
    stream->waiting = false;
    stream->connection->stream_count--;
    stream->connection->stats->streams--;
    if (LIST_EMPTY(&stream->connection->streams))
        connection_on_idle(stream->connection);
}
