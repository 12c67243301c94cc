/*
 * One HTTP/2 connection, server or client: the nghttp2 session, the flush that moves its frames to
 * the transport, and the bookkeeping of what keeps its streams from sending. The only files that
 * know nghttp2 are connection.c and its private parts.
 *
 * Words, used the same way everywhere:
 *
 *   stream      one HTTP/2 stream; embedded in the call of the layer above
 *   ready       the stream has bytes to send, whether it may or not
 *   blocked     the stream is ready and cannot send; the reason is one of enum blocked_reason
 *   deferred    the stream's reader had nothing; nghttp2 asks it again only after stream_resume()
 *   flush       pull frames from nghttp2 until a batch is full or nothing may be sent, and write it
 *   account     where the layer above wants its messages counted once the kernel has them
 *
 * Pressure: nothing is pulled from a stream that has no window, and nothing from a session whose
 * last write has not gone out whole. So what a connection holds is bounded by one batch, whatever
 * its streams would like to send.
 *
 *     stream reader --(window)--> nghttp2 --(one batch)--> transport --> kernel
 *           ^                        ^                         |
 *           '-- WINDOW_UPDATE -------'------ writable ---------'
 *
 * Callbacks are called from inside nghttp2: they may call every stream_*() function, but not
 * connection_flush() (connections are flushed at the end of the loop's turn by themselves), and
 * they never free the connection.
 */
#pragma once

#include "base/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/types.h>

struct connection;
struct stream;
struct transport;

/* One header field. The bytes are borrowed for the call that gets them. Names in lower case. */
struct header {
    const char *name;
    size_t name_length;
    const char *value;
    size_t value_length;
};

/* A header whose name and value are string literals or NUL-terminated strings. */
#define HEADER(name_, value_) ((struct header){(name_), strlen(name_), (value_), strlen(value_)})

/* Is `name` the header's name? */
static inline bool header_is(const struct header *header, const char *name)
{
    return header->name_length == strlen(name) &&
           memcmp(header->name, name, header->name_length) == 0;
}

/* X(identifier, label): why a stream that is ready cannot send. */
#define BLOCKED_REASONS(X)                                                                         \
    X(STREAM_WINDOW, "stream_window")                                                              \
    X(CONNECTION_WINDOW, "connection_window")                                                      \
    X(SOCKET, "socket")

enum blocked_reason {
#define X(identifier, label) BLOCKED_##identifier,
    BLOCKED_REASONS(X)
#undef X
        BLOCKED_REASON_COUNT,
    BLOCKED_NOT = BLOCKED_REASON_COUNT,
};

/* X(identifier, label): why a connection was closed; a label of metrics and logs. */
#define CLOSE_REASONS(X)                                                                           \
    X(PEER, "peer_closed")    /* end of file with no call open, or after GOAWAY */                 \
    X(PEER_LOST, "peer_lost") /* end of file with calls open, reset, other socket error */         \
    X(PREFACE_TIMEOUT, "preface_timeout") /* no client preface in time */                          \
    X(BAD_PREFACE, "bad_preface")         /* what came first was not HTTP/2 */                     \
    X(PROTOCOL_ERROR, "protocol_error")   /* the session ended it with GOAWAY */                   \
    X(FLOOD, "flood")                     /* the peer made too much work */                        \
    X(TOO_MANY_PINGS, "too_many_pings")   /* the peer's pings came too often (gRFC A8) */          \
    X(KEEPALIVE, "keepalive")             /* our ping was not answered (gRFC A8) */                \
    X(STALLED, "stalled") /* the peer's socket took nothing for stall_timeout_ms */                \
    X(IDLE, "idle")       /* no stream for idle_max_ms (gRFC A9) */                                \
    X(AGE, "age")         /* older than age_max_ms (gRFC A9) */                                    \
    X(NO_MEMORY, "no_memory")                                                                      \
    X(SHUTDOWN, "shutdown") /* this program is stopping */                                         \
    X(LOCAL, "local")       /* the program had no more use for it */

enum close_reason {
#define X(identifier, label) CLOSE_##identifier,
    CLOSE_REASONS(X)
#undef X
        CLOSE_REASON_COUNT,
};

extern const char *const blocked_reason_labels[BLOCKED_REASON_COUNT];
extern const char *const close_reason_labels[CLOSE_REASON_COUNT];

/*
 * Counters shared by all connections of a program. Zeroed memory with `loop` set is valid. Blocked
 * time is the integral of the number of blocked streams; read it with
 * connection_stats_blocked_ns().
 */
struct connection_stats {
    struct loop *loop;
    uint64_t connections; /* open now */
    uint64_t connections_total;
    uint64_t closed_total[CLOSE_REASON_COUNT];
    uint64_t streams; /* open now */
    uint64_t sent_bytes_total;
    uint64_t received_bytes_total;
    uint64_t unsent_bytes; /* taken from sessions, not yet accepted by the kernel, now */
    uint64_t window_updates_stream_total;
    uint64_t window_updates_connection_total;
    uint64_t pings_sent_total;              /* of keepalive */
    uint64_t pings_received_total;          /* without those that acknowledge ours */
    uint64_t streams_stalled_total;         /* times that `stalled` was called */
    uint64_t blocked[BLOCKED_REASON_COUNT]; /* streams, now */
    uint64_t blocked_episodes_total[BLOCKED_REASON_COUNT];
    uint64_t blocked_ns[BLOCKED_REASON_COUNT]; /* up to blocked_at_ns */
    uint64_t blocked_at_ns;
};

/* Stream-nanoseconds spent blocked for `reason`, up to now. */
uint64_t connection_stats_blocked_ns(struct connection_stats *stats, enum blocked_reason reason);

/* An `error_code` that no RST_STREAM can carry. */
#define STREAM_CONNECTION_LOST UINT32_MAX

/*
 * What a stream's reader says about the bytes that it gave. Zeroed before each call. The first of
 * the messages has a time of its own: it may have begun in a frame long ago, and waited for window
 * since.
 */
struct stream_read {
    void *account;         /* of the messages below; NULL: not counted */
    unsigned messages;     /* messages whose last byte is among the bytes */
    size_t first_end;      /* offset just past the first such message's last byte */
    uint64_t first_due_ns; /* when the first was due, as uv_hrtime() has it; 0: nobody asks */
    uint64_t due_ns;       /* when the oldest of the others was due */
    bool more;             /* there are more bytes to be had at once */
    uint16_t needed;       /* with 0 bytes and `more`: what comes next is so long, more than there
                            * was room for, and is not to be cut */
    bool end; /* these are the last bytes; on a server, stream_submit_trailers() was called */
};

/*
 * What the layer above does. All but `close` may be NULL for a role that has no use for it.
 */
struct connection_ops {
    /*
     * Server: a request begins. Returns the stream (embedded in a new call, zeroed but for its own
     * fields), or NULL to refuse it with REFUSED_STREAM.
     */
    struct stream *(*open)(struct connection *connection);

    /* Server: a request was refused because the peer has max_streams open. */
    void (*refused)(struct connection *connection);

    /*
     * One header field of the request, the response or the trailers, in order. 0, or 1 to stop
     * decoding: the stream is reset and `close` follows.
     */
    int (*header)(struct stream *stream, const struct header *header);

    /* A header block is whole. `end`: no more comes from the peer (`half_close` is not called). */
    void (*headers_end)(struct stream *stream, bool end);

    /*
     * Bytes of the body. Their credit goes back to the peer only by stream_consume(), for every
     * byte, sooner or later, whatever becomes of the stream (except after `close`, when the
     * connection's part of it is given back by itself).
     */
    void (*data)(struct stream *stream, const uint8_t *bytes, size_t size);

    /*
     * The stream had bytes to send and could send none for stall_timeout_ms, because of its own
     * window or the connection's. Called about once for each such time; end it, or leave it.
     */
    void (*stalled)(struct stream *stream, enum blocked_reason reason);

    /* The peer will send nothing more on this stream. */
    void (*half_close)(struct stream *stream);

    /*
     * Gives up to `size` bytes to send. The number written; 0 without `end` means nothing for now:
     * the stream is deferred until stream_resume(), or, with `needed`, blocked until the windows
     * have so much room, and then asked again by itself. A negative errno resets the stream with
     * INTERNAL_ERROR, as stream_reset() would.
     */
    ssize_t (*read)(struct stream *stream, uint8_t *bytes, size_t size, struct stream_read *ret);

    /*
     * The stream is gone: free the call. Called exactly once for every stream that `open` returned
     * or stream_request() took. `error_code`: HTTP/2's, 0 for none, STREAM_CONNECTION_LOST when it
     * went with its connection; `local`: it was this side that reset it.
     */
    void (*close)(struct stream *stream, uint32_t error_code, bool local);

    /*
     * `read` will soon be called for the stream: the memory that it will look at may be prefetched.
     * `stream_size`: of what the stream lies at the start of.
     */
    void (*prefetch)(const struct stream *stream);
    size_t stream_size;

    /*
     * `messages` of `account` have been accepted by the kernel, to their last byte, `lag_ns` after
     * they were due: 0 where nobody asks. Those that a write left over count when all is accepted
     * that it left.
     */
    void (*accepted)(void *account, unsigned messages, uint64_t lag_ns);

    /* How many whole messages lie in these bytes, which begin where a message begins. */
    unsigned (*count)(const uint8_t *bytes, size_t size);

    /* Client: the peer's first SETTINGS came: the connection is usable. */
    void (*established)(struct connection *connection);

    /* The peer sent GOAWAY; streams above `last_stream_id` were not processed. */
    void (*goaway)(struct connection *connection, uint32_t error_code, int32_t last_stream_id);

    /*
     * The connection is gone, after `close` of all its streams; its memory goes when this returns.
     * `detail` is a text for people, or NULL.
     */
    void (*closed)(struct connection *connection, enum close_reason reason, const char *detail);
};

/* Embedded at any place in the call of the layer above. Private to net/ but for `connection`. */
struct stream {
    struct connection *connection;
    LIST_ENTRY(stream) link;
    STAILQ_ENTRY(stream) queued; /* if `waiting` */
    int32_t id;
    uint32_t unconsumed; /* bytes given to `data` whose credit has not gone back */
    bool ready;
    uint8_t lack; /* enum window_lack */
    bool deferred;
    bool waiting;         /* deferred, and to be asked again when its turn comes */
    bool dry;             /* its reader had no more, and nobody has said anything else since */
    bool reset;           /* this side sent RST_STREAM */
    bool half_closed;     /* the peer's end was seen */
    bool blamed;          /* the guard has counted a reset of it */
    uint8_t stalled;      /* sweeps that found it blocked since it last sent something */
    uint16_t needed;      /* bytes of window without which nghttp2 does not ask it; 0: it asks */
    uint8_t blocked_last; /* in `close`: enum blocked_reason, what it was waiting for at its end */
};

struct connection_options {
    bool client;
    struct loop *loop;
    struct connection_stats *stats;
    const struct connection_ops *ops;
    void *context; /* the layer above's own; connection_context() */

    uint32_t max_streams;        /* server: that the peer may have open at once */
    uint32_t max_header_bytes;   /* announced as SETTINGS_MAX_HEADER_LIST_SIZE */
    uint64_t preface_timeout_ms; /* time for the peer's preface and first SETTINGS; 0: no limit */

    /* Keepalive (gRFC A8, keepalive.md): when no byte came for so long, a PING, and if no byte
     * comes for the next, the connection is closed. 0: never. */
    uint64_t keepalive_time_ms;
    uint64_t keepalive_timeout_ms;

    /* Server: how often the peer may ping while it has a stream, and while it has none; more than
     * two pings too early are answered with GOAWAY "too_many_pings". 0: no limit. */
    uint64_t ping_min_ms;
    uint64_t ping_min_idle_ms;

    /* Server (gRFC A9), 0: never. A connection without a stream for idle_max_ms, or older than
     * age_max_ms (a tenth more or less), is drained; age_grace_ms later it is closed. */
    uint64_t idle_max_ms;
    uint64_t age_max_ms;
    uint64_t age_grace_ms; /* 0: no end */

    /* How long a stream that is blocked, or the socket, may make no progress at all: `stalled`, or
     * the end of the connection. Found within a quarter of it. 0: for ever. */
    uint64_t stall_timeout_ms;

    uint32_t stream_window;     /* initial receive window of each stream, bytes */
    uint32_t connection_window; /* receive window of the connection, bytes; 65535 at least */
};

/*
 * Makes a connection over `transport`, which it owns from here on, even when this fails, and starts
 * reading. 0, or a negative errno (-ENOMEM, or the transport's); then `closed` is not called.
 * `peer` is a text for logs and is copied.
 */
int connection_new(struct connection **ret_connection, struct transport *transport,
                   const char *peer, const struct connection_options *options);

void *connection_context(const struct connection *connection);
const char *connection_peer(const struct connection *connection);

/* What the peer was told of it; to refuse longer ones is for whoever gets the headers. */
uint32_t connection_max_header_bytes(const struct connection *connection);

/*
 * Bytes that the peer has not been sent yet: what the kernel took and holds back, and what it did
 * not take. 0 where that cannot be known. The kernel is asked at most once in a turn of the loop.
 */
uint64_t connection_unsent_bytes(struct connection *connection);

/* Calls `each` for every open stream; it may end or reset them. */
void connection_each_stream(struct connection *connection, void (*each)(struct stream *stream));

/*
 * Begins the end, in the two steps of RFC 9113, 6.8. A server sends a GOAWAY that only announces
 * it, and a PING; the streams that the peer opens before it can know are still taken. When the
 * PING is answered, or after 5 s, the GOAWAY with the last stream follows. A server that has not
 * heard the peer's SETTINGS waits for them first, for a second at most: who was accepted just now
 * may have sent a request. A client says at once that it is going. Open streams go on; when the
 * last is closed the connection is closed for `reason`. The first reason stands.
 */
void connection_drain(struct connection *connection, enum close_reason reason);

/*
 * Ends the connection because of what the peer did: GOAWAY with an error code of HTTP/2 and `debug`
 * (a text, or NULL) is sent as soon as the socket takes it, all streams are lost, and what the
 * peer sends is read for a second more, so that TCP does not reset away what was said. If the
 * socket takes nothing in that time, the connection is closed all the same. Any time, also inside
 * callbacks. `debug` must live as long as the program.
 */
void connection_end(struct connection *connection, uint32_t error_code, enum close_reason reason,
                    const char *debug);

/*
 * Closes without waiting for streams: each gets `close`, what is in flight is lost. The memory goes
 * later, after `closed`. Allowed at any time, also inside callbacks (then it takes effect when
 * the callback has returned); further calls do nothing.
 */
void connection_close(struct connection *connection, enum close_reason reason, const char *detail);

/*
 * Client: opens `stream` (zeroed) with `headers`, its body read through `read`. 0; 1 if the
 * connection takes no new streams (GOAWAY, ids used up, closing); -ENOMEM.
 */
int stream_request(struct connection *connection, struct stream *stream,
                   const struct header *headers, size_t count);

/*
 * Server: sends response headers, after which `read` is asked for the body; with `end` they are
 * the whole answer (Trailers-Only). 0; 1 if the stream can take none any more (reset or closing:
 * `close` is on its way); -ENOMEM.
 */
int stream_respond(struct stream *stream, const struct header *headers, size_t count, bool end);

/*
 * Server: sends trailers. Call it when no byte of a message is left unsent: from inside `read`,
 * together with `end`, or from outside while the stream is deferred or has no window. Where the
 * client has not half-closed, RST_STREAM NO_ERROR follows (PROTOCOL-HTTP2.md). As
 * stream_respond().
 */
int stream_submit_trailers(struct stream *stream, const struct header *headers, size_t count);

/*
 * Resets the stream; `close` follows, not before this returns, and before it nothing but that: what
 * still comes from the peer is dropped, and its credit goes back by itself.
 */
void stream_reset(struct stream *stream, uint32_t error_code);

/* There are bytes to send: `read` is asked for them in this turn's flush, if the stream may send.
 */
void stream_resume(struct stream *stream);

/* In `read` only: when what this flush sends is made, as uv_hrtime() has it. Whoever asks first
 * lets the clock be read, once for the whole flush. */
uint64_t stream_flush_ns(const struct stream *stream);

/* The window that the peer gives each of its streams at first: no stream that waits for more will
 * surely get it. */
uint32_t stream_initial_window(const struct stream *stream);

/* Gives the peer credit for `size` bytes that came through `data`. */
void stream_consume(struct stream *stream, size_t size);

/*
 * Sends at once the credit that stream_consume() has given, of the stream and of the connection,
 * where the peer has no more than that left. Without this it is sent in portions of half a window,
 * which costs fewest frames; a slow reader that does this shows its own pace.
 */
void stream_credit_flush(struct stream *stream);

/* Why the stream cannot send now; BLOCKED_NOT if it can, or has nothing to send. */
enum blocked_reason stream_blocked(const struct stream *stream);
