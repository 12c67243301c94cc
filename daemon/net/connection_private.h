/*
 * What the files of a connection share: connection.c (its making, its end and its transport),
 * _life.c (its clocks: keepalive, idleness, age, stalls, the two steps of a drain), _blocked.c (the
 * books of what blocks), _flush.c (from nghttp2 to the transport), _session.c (what nghttp2 tells),
 * _priority.c (equal shares) and _stream.c (what the layer above says). They alone know nghttp2;
 * the budgets of hostile peers, which _session.c keeps, know nothing of it: connection_guard.h.
 */
#pragma once

#include "net/connection.h"
#include "net/connection_guard.h"
#include "net/transport.h"

#include <nghttp2/nghttp2.h>

enum connection_state {
    CONNECTION_OPEN,
    CONNECTION_ENDING,    /* a GOAWAY with an error is on its way; there are no streams any more */
    CONNECTION_LINGERING, /* everything is said; only waits for the peer's end */
    CONNECTION_CLOSING,   /* waits for the transport to be closed */
};

/* What keeps a stream from sending beside what does its whole connection: a window that is used up,
 * or that has less room than the stream's next bytes need. Else each is a blocked_reason, and 1. */
enum window_lack {
    LACK_NOTHING = 0,
    LACK_STREAM_WINDOW = 1 + BLOCKED_STREAM_WINDOW,
    LACK_CONNECTION_WINDOW = 1 + BLOCKED_CONNECTION_WINDOW, /* it needs more than there is */
};

/* How far a drain has come. */
enum drain_step {
    DRAIN_NOT,
    DRAIN_GREETING,  /* the peer has not said anything yet, or for a second */
    DRAIN_ANNOUNCED, /* the peer's new streams are taken until it can know, or for 5 s */
    DRAIN_DUE,       /* the next flush says the last stream */
    DRAIN_SAID,
};

/* The messages in one frame of the batch. */
struct mark {
    void *account;
    uint64_t first_due_ns; /* as in struct stream_read, like due_ns */
    uint64_t due_ns;
    uint32_t offset;    /* of the frame's payload in the batch */
    uint32_t size;      /* of the payload */
    uint32_t first_end; /* in the payload: where the first of the messages ends */
    unsigned messages;
};

/* Messages that were pulled and wait for the kernel. */
struct tally {
    void *account;
    uint64_t due_ns;
    unsigned messages;
};

/* A connection's clocks. Times are the loop's, in ms. */
struct life {
    struct wheel_timer timer; /* keepalive, idleness, age, drain: whatever comes first */
    struct wheel_timer sweep; /* stalls; armed only while something is blocked */
    uint64_t heard_ms;        /* when bytes came, or a blocked socket took what it was given */
    uint64_t pinged_ms;       /* when the PING of keepalive was sent; 0: none waits */
    uint64_t ping_ms;         /* when the peer's last PING came; 0: never */
    uint64_t idle_since_ms;   /* when the last stream was closed */
    uint64_t age_due_ms;      /* end of its age, then of the grace; 0: none */
    uint64_t drain_due_ms;    /* DRAIN_GREETING, DRAIN_ANNOUNCED: the end of waiting */

    /* Of the options; the longest time is UINT32_MAX. */
    uint32_t keepalive_time_ms;
    uint32_t keepalive_timeout_ms;
    uint32_t ping_min_ms;
    uint32_t ping_min_idle_ms;
    uint32_t idle_max_ms;
    uint32_t age_grace_ms;
    uint32_t stall_timeout_ms;

    uint8_t drain; /* enum drain_step */
    uint8_t strikes;
    bool answered;   /* HEADERS or DATA were sent since the peer's last PING */
    bool aged;       /* age_due_ms is the end of the grace */
    bool suspect;    /* one of our times is over; sockets are read once more before it counts */
    uint8_t stalled; /* sweeps that found the socket blocked and no byte taken */
    uint32_t room;   /* what the socket had at the last sweep */
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
    STAILQ_HEAD(stream_queue, stream) waiting; /* for their turn, see stream_resume() */
    uint32_t max_streams;
    uint32_t max_header_bytes;
    uint32_t stream_count; /* of `streams` */
    uint32_t peer_initial_window;

    struct loop_task flush;
    struct wheel_timer timer; /* preface, then the end */
    bool greeted;             /* a server says nothing before it has seen the start of a preface */
    bool established;
    bool announced;    /* a server: its SETTINGS were taken from nghttp2 */
    bool in_session;   /* nghttp2, or a callback of the layer above, is on the call stack */
    bool close_wanted; /* connection_close() or connection_end() was called meanwhile */
    bool end_wanted;   /* it was connection_end() */
    bool terminated;   /* nghttp2 ends it by itself: it has queued a GOAWAY with an error */
    bool starved;      /* nghttp2 got no memory, and may not have said so */
    bool said;         /* ENDING: the GOAWAY was taken from nghttp2 */
    bool peer_ended;   /* ENDING: the peer's end of file came */
    uint32_t end_code;
    const char *end_debug;
    enum close_reason reason;
    const char *detail;

    struct life life;
    struct connection_guard guard; /* of a server */

    bool writing;       /* the transport keeps the rest of a batch */
    bool window_empty;  /* the connection's window was used up */
    bool window_wanted; /* a stream lacks some of it; it may be gone since */
    size_t unsent;      /* bytes that the transport keeps */
    uint64_t asked_ms;  /* when the kernel was asked for kernel_unsent; 0: never */
    uint64_t kernel_unsent;
    struct tally *tallies; /* messages whose last byte is among them */
    size_t tally_count;
    enum blocked_reason blocked; /* of the connection as a whole */
    unsigned sendable;           /* streams that are ready and lack nothing of their own */

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

/*
 * connection_end() for what nghttp2 ended by itself: to be called when it has read. Its GOAWAY may
 * wait behind a blocked socket, and for that there is a limit.
 */
void connection_notice_end(struct connection *connection);

/* ---- connection_life.c ---- */

/* Starts the clocks, and stops them. */
void connection_life_start(struct connection *connection, const struct connection_options *options);
void connection_life_stop(struct connection *connection);

/* Bytes came, or a socket that was blocked has taken all that it was given: there is life. */
static inline void connection_heard(struct connection *connection)
{
    connection->life.heard_ms = uv_now(connection->loop->uv);
}

/* A PING came. May end the connection: the callback goes on as after connection_end(). */
void connection_on_ping(struct connection *connection, bool ack, const uint8_t opaque[static 8]);

/* HEADERS or DATA were sent: the peer may measure by pings what came of it (gRFC A8). */
static inline void connection_on_answer(struct connection *connection)
{
    connection->life.answered = true;
}

/* A GOAWAY was sent. Where nghttp2 said it by itself, its error gives the reason. */
void connection_on_goaway_sent(struct connection *connection, const nghttp2_goaway *goaway);

/* The last stream is gone: the connection is idle from now on. */
static inline void connection_on_idle(struct connection *connection)
{
    connection->life.idle_since_ms = uv_now(connection->loop->uv);
}

/* Something is blocked: sees to it that a stall will be found. */
void connection_arm_sweep(struct connection *connection);
static inline void connection_watch(struct connection *connection)
{
    if (connection->life.stall_timeout_ms > 0 && !wheel_armed(&connection->life.sweep))
        connection_arm_sweep(connection);
}

/* The peer's first SETTINGS came: begins a drain that waited for them. */
void connection_drain_greeted(struct connection *connection);

/* The GOAWAY of a drain's first step was sent. */
void connection_drain_announced(struct connection *connection);

/* Says the second step of a drain, if it is due. To be called before frames are taken. */
void connection_drain_on(struct connection *connection);

/* ---- connection_blocked.c ---- */

/* The only ways to change what blocks a stream or a whole connection: they keep the books. */
void stream_set(struct stream *stream, bool ready, enum window_lack lack);
void connection_set(struct connection *connection, bool writing, bool window_empty);

/* Asks nghttp2 whether the stream has a window, and lets one that waited for more of it go on. */
void stream_look_at_window(struct stream *stream);

/* The stream's reader has something, but nothing that is short enough for the windows. Only while
 * nghttp2 asks for it, which is told that the stream is deferred. */
void stream_wait_for_window(struct stream *stream, uint16_t needed);

/* There is more of the connection's window. */
void connection_look_at_streams(struct connection *connection);

/* Gives a turn to the one that waits first. 1, or 0 if none does, or nghttp2's error. */
int connection_give_turn(struct connection *connection);

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

/*
 * Writes max_streams into our SETTINGS, which are among these bytes that nghttp2 sends.
 * nghttp2 1.52 was told of no limit: it would end the connection of a client that opens more, where
 * RFC 9113, 5.1.2 wants the stream refused.
 */
void connection_announce(struct connection *connection, uint8_t *bytes, size_t size);

/* What nghttp2 asks for a stream's bytes. */
ssize_t connection_on_read(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t size,
                           uint32_t *flags, nghttp2_data_source *source, void *user);

/* ---- connection_priority.c ---- */

/*
 * A server: keeps the streams equal after the HEADERS of a new one, or a PRIORITY frame. 0, or what
 * nghttp2 says, to be looked at with nghttp2_is_fatal().
 */
int connection_share(struct connection *connection, const nghttp2_frame *frame);
