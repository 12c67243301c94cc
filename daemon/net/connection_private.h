/*
 * What the files of a connection share: connection.c (its life and its transport), _blocked.c (the
 * books of what blocks), _flush.c (from nghttp2 to the transport), _session.c (what nghttp2 tells)
 * and _stream.c (what the layer above says). They alone know nghttp2.
 */
#pragma once

#include "net/connection.h"
#include "net/transport.h"

#include <nghttp2/nghttp2.h>

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
    void *freed; /* the last block that the session freed: see memory_free() */
    void *limbo; /* the last one before it failed */
    char *peer;

    LIST_HEAD(stream_list, stream) streams;
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

/* ---- connection.c ---- */

/* connection_close() at the end of the turn: for functions whose caller holds a stream of this
 * connection. */
void connection_close_later(struct connection *connection, enum close_reason reason,
                            const char *detail);

/* nghttp2 failed: the connection ends with this turn. */
void connection_fail(struct connection *connection, int nghttp2_error);

/* A callback or nghttp2 has returned: does what had to wait for it. */
void connection_leave_session(struct connection *connection);

/* Nothing is left to say or to hear: ends the sending side, and waits a little for the peer's. */
void connection_linger(struct connection *connection);

/* ---- connection_blocked.c ---- */

/* The only ways to change what blocks a stream or a whole connection: they keep the books. */
void stream_set(struct stream *stream, bool ready, bool window_empty);
void connection_set(struct connection *connection, bool writing, bool window_empty);

/* Asks nghttp2 whether the stream has a window. */
void stream_look_at_window(struct stream *stream);

void stream_link(struct connection *connection, struct stream *stream, int32_t id);
void stream_unlink(struct stream *stream);

/* ---- connection_flush.c ---- */

/* Bytes of a DATA frame, at most, whatever the peer would take: HTTP/2's initial maximum. */
#define FRAME_PAYLOAD_MAX 16384

/* The connection's task for the end of the turn. */
void connection_on_flush(struct loop_task *task);

/* The kernel took all that the transport kept: counts its messages. */
void connection_count_kept(struct connection *connection);

/* ---- connection_session.c ---- */

/* Makes connection->session, with our SETTINGS queued. 0 or -ENOMEM. */
int connection_make_session(struct connection *connection,
                            const struct connection_options *options);

/* What nghttp2 asks for a stream's bytes. */
ssize_t connection_on_read(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t size,
                           uint32_t *flags, nghttp2_data_source *source, void *user);
