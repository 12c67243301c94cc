/*
 * The method table: which services there are, what kind each method is and who handles it, and the
 * counters of each.
 */
#pragma once

#include "base/metrics.h"
#include "proto/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct call;

/* X(identifier, label) */
#define METHOD_TYPES(X)                                                                            \
    X(UNARY, "unary")                                                                              \
    X(CLIENT_STREAM, "client_stream")                                                              \
    X(SERVER_STREAM, "server_stream")                                                              \
    X(BIDI_STREAM, "bidi_stream")

enum method_type {
#define X(identifier, label) METHOD_##identifier,
    METHOD_TYPES(X)
#undef X
        METHOD_TYPE_COUNT,
};

extern const char *const method_type_labels[METHOD_TYPE_COUNT];

/* The names of metrics are those of go-grpc-prometheus. */
struct method_stats {
    uint64_t started_total;
    uint64_t handled_total[WIRE_STATUS_COUNT];
    uint64_t received_total; /* messages */
    uint64_t sent_total;     /* messages accepted by the kernel to their last byte */

    /*
     * How long after they were due these were accepted, in seconds; NULL: nobody asks, and nothing
     * is measured. A message is due when `pull` says, or its due_ns if it was queued; else when it
     * is made, or taken from the queue, to be sent. Where one frame ends several from the queue,
     * those after the first count as late as the latest of them.
     */
    struct histogram *send_lag;
};

/* What a handler is asked for, and what it says. */
struct pull {
    unsigned messages; /* in: at most so many; out: so many */
    bool more;         /* out: there are more to be had at once; false before the call */
    uint64_t due_ms;   /* out: when they were due, by loop_now_ms(); 0, as before the call: now */
    uint16_t needed;   /* out, of whole messages, with `more`: the next one's bytes, if it did not
                        * fit; 0, as before the call: it did, or was not looked for */
};

struct method {
    const char *service; /* "stockservice.StockService" */
    const char *name;    /* "GetUpdates" */
    enum method_type type;
    void *context; /* the service's own; call_context() */

    /*
     * A call begins (client_stream and bidi_stream) before its first message, or, of the other two
     * kinds, with its one request, when the client has half-closed. `request` is the message's
     * body, borrowed; NULL for the streaming kinds. Metadata can be read only now.
     */
    void (*begin)(struct call *call, const uint8_t *request, size_t size);

    /* client_stream and bidi_stream: a message came. Not while the call's own queue is full. */
    void (*message)(struct call *call, const uint8_t *message, size_t size);

    /* client_stream and bidi_stream: no further message comes. A handler whose answers still wait
     * for room ends the call when they are sent. */
    void (*half_close)(struct call *call);

    /*
     * Optional, all kinds: call_send() has said that the queue is full, and now it has room again.
     * Comes before further messages of the request, which wait for room too; may do all that
     * `message` may. Not called when the call was finished meanwhile.
     */
    void (*room)(struct call *call);

    /*
     * Optional, for handlers that make messages just when they can be sent: writes up to
     * pull->messages whole messages, prefixes included, into `bytes`, and says in *pull what it
     * did; returns their bytes, or 0 for nothing now (call_resume() asks again). Asked only while
     * the call's queue is empty and the client's window is open, and always with room for
     * pull_size_max bytes.
     */
    size_t (*pull)(struct call *call, uint8_t *bytes, size_t size, struct pull *pull);
    size_t pull_size_max; /* the longest message that `pull` writes, prefix included */

    /*
     * Messages of `pull` are not cut where a window ends: one that has no room waits, in the
     * handler, until there is. So a call of this kind always stands between two messages, and
     * call_abort() can always say why it ends. `pull` is asked with any room, also less than
     * pull_size_max, and says what it needs. They are never compressed. A client whose windows are
     * small beside its messages gets them cut all the same: it might give no more credit before it
     * has more of them.
     */
    bool whole_messages;

    /*
     * The call is over, for whatever reason, and no function of it is called again: free what
     * call_set_data() was given. Called exactly once after `begin`.
     */
    void (*end)(struct call *call, enum wire_status status);

    struct method_stats *stats;
};

/*
 * All methods of a program. Looked up by path, "/package.Service/Method"; a few dozen at most, so
 * the search is linear.
 */
struct method_table {
    const struct method *const *methods;
    size_t count;
};

/* The method of a path, or NULL. */
const struct method *method_table_find(const struct method_table *table, const char *path,
                                       size_t length);
