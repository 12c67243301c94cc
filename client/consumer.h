/*
 * Where updates are processed: each waits its delay, is decoded, checked and printed, and only when
 * it has been written to standard output the server gets credit for its bytes. So the server can
 * be ahead of what was processed by the window and by nothing else, however slow this side is.
 *
 *     data --> deframer --> delay --> print --> output --> kernel
 *      ^                                           |
 *      '------------------ credit -----------------'
 *
 * An exception keeps the call alive: of the message that is processed next, at most half the window
 * is withheld while its end has not come. Otherwise a message longer than the window would never
 * come whole, since the rest would wait for credit, and the credit for the rest.
 */
#pragma once

#include "base/loop.h"
#include "client/chain.h"
#include "client/deframer.h"
#include "client/output.h"
#include "client/print.h"
#include "client/stats.h"
#include "proto/wire.h"

/* PROTOCOL-HTTP2.md leaves the bound to the implementation; 4 MiB is what others take. */
#define CONSUMER_MESSAGE_MAX (4 * 1024 * 1024)

struct consumer_options {
    enum print_format format;
    bool quiet;            /* print nothing */
    uint64_t delay_min_ms; /* before each update, uniform between the two */
    uint64_t delay_max_ms;
    uint64_t delay_step_ms; /* in steps of so much; 0 counts as 1 */
    uint64_t count;         /* stop after so many updates; 0: never */
    uint64_t window;        /* receive window of the stream, bytes */
};

struct consumer_ops {
    /* The server gets credit for `size` bytes that came through consumer_data(). */
    void (*credit)(void *user, size_t size);

    /* Every whole message has been processed. */
    void (*idle)(void *user);

    /* The call sent what no call may send; nothing more of it is processed. */
    void (*bad_message)(void *user, enum wire_status status, const char *text);

    /*
     * Takes in a whole message, and adds what is to be printed of it to `output`. False: it is none
     * that the call may send. NULL: it is an update of GetUpdates, which the consumer knows.
     */
    bool (*message)(void *user, const uint8_t *message, size_t size, struct text *output);

    /* Everything that was taken in so far has been written. May be NULL. */
    void (*settled)(void *user);

    /* The wanted number of updates has been processed; nothing more is. */
    void (*enough)(void *user);

    /* Standard output failed, or (-ENOMEM) there is no memory for it; nothing more is processed. */
    void (*broken)(void *user, int error);
};

struct consumer {
    struct consumer_options options;
    const struct consumer_ops *ops;
    void *user;
    struct loop *loop;
    struct stats *stats;
    struct output output;
    struct deframer deframer;
    struct chain chain;
    struct wheel_timer delay;
    bool stopped;             /* nothing more is processed */
    bool taken_up;            /* the first message's delay runs or is over */
    size_t advanced_bytes;    /* credit that the first message already got */
    uint64_t printed_updates; /* in the output's text, not yet written */
    size_t printed_bytes;     /* of their messages; no credit given yet */
    uint64_t processed;       /* updates, of all calls */
    uint64_t call_updates;    /* updates taken up, of this call */
};

/*
 * Prepares a consumer that writes to `fd`. What the pointers point to must outlive it. 0 or a
 * negative errno (nothing to undo then).
 */
int consumer_init(struct consumer *consumer, struct loop *loop,
                  const struct consumer_options *options, int fd, struct stats *stats,
                  const struct consumer_ops *ops, void *user);

/* The caller runs the loop once more before the memory goes. */
void consumer_deinit(struct consumer *consumer);

/* A call begins: nothing of the one before is left. */
void consumer_begin(struct consumer *consumer);

/* Bytes of the call's body. 0 or -ENOMEM. The functions in `ops` are called from here, too. */
int consumer_data(struct consumer *consumer, const uint8_t *bytes, size_t size);

/* Is every whole message processed, or will none be any more? */
bool consumer_is_idle(const struct consumer *consumer);

/* Is there the beginning of a message? */
bool consumer_has_partial(const struct consumer *consumer);

/* Writes what the owner has added to the output's text, while output_ready(). */
void consumer_flush(struct consumer *consumer);

/* Processes nothing more. */
void consumer_stop(struct consumer *consumer);
