/*
 * A connection without a socket: a loop, an in-memory transport that does what a test scripts, and
 * a peer, which is an HTTP/2 session of the test's own.
 *
 *     struct connection --> struct memory --(memory_pump)--> struct peer
 *
 * Nothing here takes memory from malloc(), calloc() or realloc(), so that tests which let those
 * fail let only the code under test fail.
 */
#pragma once

#include "base/loop.h"
#include "net/transport.h"

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

/* ---- Bytes ---- */

struct buffer {
    uint8_t *bytes;
    size_t size;
    size_t capacity;
};

void buffer_append(struct buffer *buffer, const void *bytes, size_t size);
void buffer_deinit(struct buffer *buffer);

/* ---- The loop ---- */

struct world {
    uv_loop_t uv;
    struct loop loop;
    uv_timer_t keeper; /* keeps the loop alive and bounds how long a turn sleeps */
};

void world_init(struct world *world);

/* Every handle must be closed by now; fails the test otherwise. */
void world_deinit(struct world *world);

/* One turn that does not sleep. */
void world_turn(struct world *world);

/* One turn that sleeps for a few milliseconds at most, if nothing is due earlier. */
void world_sleep(struct world *world);

/* ---- The transport ---- */

struct memory {
    struct transport transport;
    struct loop *loop;

    /* The script. */
    size_t accept;    /* bytes that try_write() may still take; SIZE_MAX: any number */
    size_t room;      /* what room() says */
    size_t unsent;    /* what unsent() says */
    int start_error;  /* of start(), if not 0 */
    int try_error;    /* of the next try_write(), if not 0 */
    int keep_error;   /* of the next write(), if not 0 */
    bool release_now; /* what write() keeps is accepted in the next turn, all by itself */
    bool discard;     /* accepted bytes are counted, not stored */

    /* What happened. */
    struct buffer out;     /* every byte that was accepted, then those that write() keeps */
    uint64_t accepted;     /* bytes */
    size_t kept;           /* bytes that write() keeps now */
    size_t taken;          /* of `out`, by memory_take() */
    unsigned try_writes;   /* calls */
    unsigned keeps;        /* calls of write() */
    unsigned rooms;        /* calls of room() */
    unsigned early_writes; /* try_write() or write() while write() keeps something */
    bool started;
    bool shut;
    bool closing;
    bool closed;

    struct loop_task task;
    struct memory *other; /* the far end of a pipe */
};

/* Starts with a transport that takes everything at once. */
void memory_init(struct memory *memory, struct world *world);

/* It must be closed by now, or never have been given to a connection. */
void memory_deinit(struct memory *memory);

/* Delivers bytes to the connection, `split` at a time (0: all at once), until it is closed. */
void memory_deliver(struct memory *memory, const void *bytes, size_t size, size_t split);

/* The peer's end of file (`error` 0), or a broken connection. */
void memory_end(struct memory *memory, int error);

/* What write() keeps is accepted, or lost with a negative errno. */
void memory_release(struct memory *memory, int error);

/* The accepted bytes that were not taken before; *ret_bytes is borrowed. */
size_t memory_take(struct memory *memory, const uint8_t **ret_bytes);

/* Makes two transports the ends of a pipe: memory_pump_pipe() moves what one accepted to the other.
 */
void memory_connect(struct memory *one, struct memory *two);

/* The number of bytes that were moved, either way. */
size_t memory_pump_pipe(struct memory *one, size_t split);

/* ---- The peer ---- */

struct peer_stream {
    LIST_ENTRY(peer_stream) link;
    int32_t id;
    struct buffer
        headers; /* "name: value\n" of every field; a block ends with "\n"; ends with NUL */
    unsigned blocks;
    struct buffer data;
    unsigned data_frames;
    struct buffer upload; /* what it sends */
    size_t uploaded;
    bool upload_end;
    bool upload_trailers; /* the end is a header block of its own */
    bool ended;           /* END_STREAM came */
    bool reset;           /* RST_STREAM came */
    uint32_t reset_code;
    bool closed;
    uint32_t close_code;
};

struct peer_options {
    bool server;
    bool hold_credit; /* WINDOW_UPDATE only by peer_grant() */
    bool hold_pings;  /* PING is answered only by peer_pong() */
    const nghttp2_settings_entry *settings;
    size_t settings_count;
};

struct peer {
    nghttp2_session *session;
    struct memory *memory;
    size_t split; /* of what it sends */
    LIST_HEAD(, peer_stream) streams;
    unsigned settings; /* frames received */
    unsigned goaways;
    uint32_t goaway_code;
    int32_t goaway_last;
    char goaway_debug[64];
    unsigned pings; /* received, without ACK */
    uint8_t ping_opaque[8];
    bool hold_pings;
    size_t looked;                  /* bytes of memory->out in which its frames were looked at */
    struct buffer answers;          /* to PINGs */
    unsigned pongs;                 /* with ACK */
    unsigned window_updates;        /* of the connection, received */
    uint64_t window_updates_bytes;  /* of the connection */
    uint64_t window_updates_stream; /* bytes, of all streams */
    struct peer_stream *(*on_request)(struct peer *peer, struct peer_stream *stream);
    int error; /* of the session: it can read no more */
};

void peer_init(struct peer *peer, struct memory *memory, const struct peer_options *options);
void peer_deinit(struct peer *peer);

/* A header of a request or an answer. */
struct field {
    const char *name;
    const char *value;
};

/*
 * Client: a request with the usual gRPC headers and `fields`, of which one replaces a usual one of
 * the same name (NULL: leaves it out). With `open` its body is what peer_upload() gives; else it
 * ends with its headers.
 */
struct peer_stream *peer_request(struct peer *peer, const char *path, const struct field *fields,
                                 size_t count, bool open);

/* Adds to the body; `end` ends it. */
void peer_upload(struct peer *peer, struct peer_stream *stream, const void *bytes, size_t size,
                 bool end);

/* The same for a gRPC message of these bytes. */
void peer_upload_message(struct peer *peer, struct peer_stream *stream, const void *body,
                         size_t size, bool end);

/* Server: answers with `:status 200` and whatever is uploaded, then trailers `grpc-status: 0`. */
void peer_respond(struct peer *peer, struct peer_stream *stream);

void peer_reset(struct peer *peer, struct peer_stream *stream, uint32_t error_code);

/* WINDOW_UPDATE; `stream` NULL: of the connection. */
void peer_grant(struct peer *peer, struct peer_stream *stream, int32_t size);

void peer_ping(struct peer *peer);

/* Answers the last PING that came. */
void peer_pong(struct peer *peer);

void peer_settings(struct peer *peer, int32_t id, uint32_t value);

/* The value of a field in the headers or trailers that came, or NULL; the last one if several. */
const char *peer_field(const struct peer_stream *stream, const char *name);

/* Appends what the session would send to `ret_bytes` instead of sending it. */
void peer_produce(struct peer *peer, struct buffer *ret_bytes);

/* Moves bytes both ways; their number. */
size_t peer_pump(struct peer *peer);

/* Turns and pumps until nothing moves any more. */
void peer_settle(struct world *world, struct peer *peer);
