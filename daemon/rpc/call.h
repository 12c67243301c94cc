/*
 * A gRPC call on a server: one HTTP/2 stream with its request headers checked, its messages
 * unframed, its answers framed and queued, its deadline, and its status.
 *
 * A handler answers in one of two ways, which may not be mixed before the queue is empty:
 * call_send() queues a message that exists; method->pull makes messages just when there is window
 * for them. Both are ended by call_finish(). A handler whose messages are more than the queue takes
 * at once goes on in method->room.
 */
#pragma once

#include "base/log.h"
#include "net/connection.h"
#include "rpc/message.h"
#include "rpc/service.h"

/* X(identifier, label): what was turned away, and why. */
#define REFUSAL_REASONS(X)                                                                         \
    X(MAX_CONNECTIONS, "max_connections")     /* a connection */                                   \
    X(ACCEPT_FAILED, "accept_failed")         /* a connection */                                   \
    X(MAX_STREAMS, "max_streams")             /* a call over the cap of its connection */          \
    X(MAX_STREAMS_TOTAL, "max_streams_total") /* a call */                                         \
    X(ADDRESS, "address")                     /* a connection from an address not allowed */       \
    X(CERTIFICATE, "certificate")             /* a connection whose certificate is not allowed */  \
    X(MAX_PER_ADDRESS, "max_per_address")     /* a connection over the cap of its address */       \
    X(SHUTDOWN, "shutdown")                   /* a call that came while the program stops */       \
    X(NO_MEMORY, "no_memory")                 /* either */

enum refusal_reason {
#define X(identifier, label) REFUSAL_##identifier,
    REFUSAL_REASONS(X)
#undef X
        REFUSAL_REASON_COUNT,
};

extern const char *const refusal_reason_labels[REFUSAL_REASON_COUNT];

/* What a call may always hold of its request, whatever the others hold. */
#define CALL_INPUT_BYTES_FREE 1024

/*
 * The budget of decompression. A KiB of gzip can become a MiB, which costs a millisecond that all
 * others wait for. So what becomes longer than ordinary messages do (16 times, and the KiB above)
 * counts, for all calls together: so many bytes at once, and as many more a second, which take some
 * per cent of a CPU. With nothing left, a message that would count ends its call with
 * RESOURCE_EXHAUSTED; all others are taken as ever.
 */
#define CALL_INFLATED_BYTES_MAX ((uint64_t)32 * 1024 * 1024)
#define CALL_INFLATED_RATIO_FREE 16

/*
 * Limits and counters that all calls of a server share. Zeroed memory with the rest set is valid.
 * The limits may change: those of one call are for calls that come then.
 */
struct call_server {
    struct loop *loop;
    struct method_table methods;
    struct method_stats other;  /* of paths that name no method */
    uint32_t max_message_bytes; /* of a request's message; above it RESOURCE_EXHAUSTED */
    uint64_t max_input_bytes; /* of all unfinished requests together; above it RESOURCE_EXHAUSTED */
    uint64_t max_calls;       /* of all connections together; above it REFUSED_STREAM */
    uint64_t request_timeout_ms; /* until a single request is whole; 0: no limit */
    bool stopping;               /* new calls get REFUSED_STREAM, which a client may repeat */
    uint64_t calls;              /* open now */
    uint64_t queued_bytes;       /* in all calls' queues, now */
    uint64_t input_bytes;        /* of requests that are not whole or not delivered, now */
    uint64_t inflated_due_us;    /* the budget of decompression: when it would be full again */
    uint64_t stalled_total;      /* calls that were ended because they made no progress */
    uint64_t refused_total[REFUSAL_REASON_COUNT];
    struct log_limit refusals; /* and other messages that a peer can cause */
};

/* Counts that something of `peer` was refused, and logs it, unless there was much of that just
 * now. */
void call_server_refuse(struct call_server *server, enum refusal_reason reason, const char *peer,
                        const char *why);

/*
 * Logs that a connection was closed; `detail` may be NULL. At level debug, but for clients that
 * were put out (CLOSE_STALLED, CLOSE_FLOOD, CLOSE_TOO_MANY_PINGS): those are warned of, unless
 * there was much of that just now.
 */
void call_server_log_closed(struct call_server *server, enum close_reason reason, const char *peer,
                            const char *detail);

/*
 * What a server's connections do with their streams: the `ops` of their connection_options. Their
 * `context` points at a struct whose first member is a `struct call_server *`.
 */
extern const struct connection_ops call_connection_ops;

struct call;

/* The longest queue of one call; a handler that sends more gets 1 from call_send(). */
#define CALL_QUEUE_BYTES_MAX (64 * 1024)

/* The method's own context, and the handler's data for this call. */
void *call_context(const struct call *call);
void *call_data(const struct call *call);
void call_set_data(struct call *call, void *data);
struct loop *call_loop(const struct call *call);
const char *call_peer(const struct call *call);

/*
 * The time left until the client's deadline, INT64_MAX if there is none. 0 once it has passed: the
 * call ends in the loop's next turn.
 */
int64_t call_time_left_ms(const struct call *call);

/*
 * Walks the request's custom metadata, in `begin` only: the field number `index` from 0, false when
 * there is none. "-bin" values are as they came, base64.
 */
bool call_metadata(const struct call *call, size_t index, struct header *ret_header);

/*
 * Adds custom metadata to the response's headers (before the first message), or to its trailers.
 * 0, 1 if it is too late or too much (64 fields or 16 KiB of either), -ENOMEM.
 */
int call_add_header(struct call *call, const struct header *header);
int call_add_trailer(struct call *call, const struct header *header);

/*
 * gzip of messages (compression.md). call_use_gzip(), before the response's headers are sent, says
 * in them that messages may be compressed: from then on those of call_send() and of `pull` are,
 * each where that makes it shorter. 0; 1 if the client does not accept gzip, the headers are sent,
 * or the method's messages are to stay whole: then nothing is compressed.
 */
int call_use_gzip(struct call *call);

/* In `begin` and `message`: did the message that it is given come compressed? */
bool call_was_compressed(const struct call *call);

/* When it came, by loop_now_ms(). */
uint64_t call_begun_ms(const struct call *call);

/* Bytes of its connection that the client has not been sent yet, of all its calls together. */
uint64_t call_unsent_bytes(const struct call *call);

/* Sends the response's headers now instead of with the first message. 0, or 1: the call is over. */
int call_send_headers(struct call *call);

/*
 * Queues `message` (a reference is taken), or, on a call that uses gzip, its compressed twin where
 * that is shorter: it is made once, whoever sends the message. A queue that is not full takes a
 * message of any length. 0; 1 if the queue is full (method->room follows) or the
 * call is over (nothing is queued then); -ENOMEM.
 */
int call_send(struct call *call, struct message *message);

/* The same, but never compressed. */
int call_send_plain(struct call *call, struct message *message);

/* method->pull has something to give. */
void call_resume(struct call *call);

/*
 * Ends the call: what is queued is sent, then the trailers with `status` and `text` (copied, cut at
 * 512 bytes; NULL for none). Further ends do nothing. The call itself goes later, with method->end.
 */
void call_finish(struct call *call, enum wire_status status, const char *text);

/*
 * Ends the call now: unsent messages are dropped. At a message boundary the client still gets
 * trailers, at once, even when its window is empty; in the middle of a message the stream is
 * reset with the HTTP/2 error that stands for `status` (CANCEL, ENHANCE_YOUR_CALM, …).
 */
void call_abort(struct call *call, enum wire_status status, const char *text);

/*
 * Aborts the call with RESOURCE_EXHAUSTED because its client is too slow for what it wanted, and
 * logs that, unless there was much of that just now. `reason` is one of a few words, `text` says it
 * to a person.
 */
void call_cut_off(struct call *call, const char *reason, const char *text);

/* Ends the call as soon as the message that it is in the middle of is sent; what is queued behind
 * that is dropped. Otherwise as call_finish(). */
void call_shutdown(struct call *call, enum wire_status status, const char *text);

/* The call of a stream that `call_connection_ops` opened. */
struct call *call_from_stream(struct stream *stream);
