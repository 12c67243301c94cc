/*
 * One subscriber of a market: which updates it still has to get, and in which form.
 *
 * Without merging (BLOCK, DROP_OLDEST, DISCONNECT) it is a cursor in the history: it gets each
 * update of its tickers in the order of their sequence. DROP_OLDEST goes without those that have
 * left the history, and without the oldest when more than max_queue wait (but not while it catches
 * up with what was there when it began). With merging (CONFLATE, and any policy with a least
 * interval) only the newest update of each ticker waits. Waiting tickers are given in rounds: each
 * that waits when the round begins gets its turn in it, with what is its newest value then; so none
 * waits for more than a round, however fast others change. Turns go in the market's order of
 * tickers; who begins to wait while the round goes on and comes later in that order gets its turn
 * in it, too. A round begins `min_interval_ms` after the one before ended, so no ticker comes more
 * often than that. With DROP_OLDEST, when more than max_queue tickers wait, the one whose turn is
 * next is dropped.
 *
 * It is pulled: whoever has room for an event asks for one. When there was none, `ready` is called,
 * once, as soon as there may be one.
 */
#pragma once

#include "base/loop.h"
#include "market/market.h"

struct subscription;

struct subscription_options {
    const unsigned *tickers; /* indices, each once */
    unsigned ticker_count;   /* 0: all, those that are added later, too */
    enum slow_policy policy;
    uint32_t max_queue;       /* updates; 0: the market's limit */
    uint32_t min_interval_ms; /* 0: every update */
    uint64_t heartbeat_ms;    /* 0: never */
    bool snapshot;
    bool resume; /* the next two are set */
    uint64_t resume_epoch;
    uint64_t resume_sequence;

    /* subscription_peek() may have an event again. Never called from inside a function here, but
     * from market_publish(), market_sweep() and timers. */
    void (*ready)(void *context);

    /* The subscriber is too slow, and gets nothing more: free the subscription, here or later.
     * Called from market_sweep(). `text` says it to a person, with figures, and lives during the
     * call. */
    void (*cut_off)(void *context, enum cut_off_reason reason, const char *text);

    /* Bytes that the subscriber's socket has taken from us and not sent yet; NULL: none. */
    uint64_t (*unsent)(void *context);
    void *context;
};

/* X(identifier): kinds of events. */
enum subscription_event_kind {
    SUBSCRIPTION_UPDATE,
    SUBSCRIPTION_HEARTBEAT,
    SUBSCRIPTION_GAP,
};

struct subscription_event {
    enum subscription_event_kind kind;
    uint64_t sequence;
    uint64_t conflated;       /* since the event before */
    uint64_t dropped;         /* the same */
    uint64_t resume_sequence; /* 0: `sequence` */
    bool snapshot; /* a last value, sent because the stream begins, or the gap before them:
                    * nothing to resume from */

    /* Of an update: as it was encoded; lives until the next call of anything here or in market.h.
     */
    const uint8_t *bytes;
    uint32_t size;
    uint64_t published_ms; /* 0 if it is part of a snapshot */

    /* Of a gap. */
    enum resume_outcome gap_reason; /* RESUME_HISTORY or RESUME_EPOCH */
    uint64_t gap_from;
    uint64_t gap_to;
    uint64_t gap_updates;
};

enum {
    SUBSCRIPTION_AHEAD = 1, /* it wants to resume behind the newest update */
    SUBSCRIPTION_NO_ROOM,   /* all subscriptions together would take too much memory */
};

/*
 * Subscribes. `options` is copied, `tickers` too. The loop is for its timers (rounds and
 * heartbeats). 0, one of the above, or -ENOMEM.
 */
int subscription_new(struct subscription **ret_subscription, struct market *market,
                     struct loop *loop, const struct subscription_options *options);

/* NULL is allowed; returns NULL. Allowed inside `cut_off` and `ready`, of others, too. */
struct subscription *subscription_free(struct subscription *subscription);

/*
 * The next event. It stays the next until it is taken, or until something is published or swept
 * that makes a newer one of it. False: there is none now, and `ready` follows when there is. After
 * `cut_off` there is never one, nor before it when that is sure to come.
 */
bool subscription_peek(struct subscription *subscription, struct subscription_event *ret_event);

/* Takes the event that subscription_peek() has just returned, nothing else having been called
 * since: the subscriber has it. */
void subscription_take(struct subscription *subscription);

/* What waits: updates, bytes (without the socket's), and the oldest one's age. For tests. */
struct subscription_queue {
    uint64_t updates;
    uint64_t bytes;
    uint64_t age_ms;
};

void subscription_queue(struct subscription *subscription, struct subscription_queue *ret_queue);
