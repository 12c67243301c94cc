/*
 * The market that all subscribers share: tickers, their last values, one sequence of updates, and
 * the history of the newest of them.
 *
 * A feed publishes; each update is numbered, encoded once by whoever made the market, and kept in
 * the history until newer ones need its place or it is too old. A subscriber
 * (market/subscription.h) has no queue of its own, it has a place in the history. So what a slow
 * subscriber costs does not grow, and publishing never waits.
 *
 * No I/O and no clock of its own; nothing here knows of gRPC.
 */
#pragma once

#include "market/walk.h"

#include "base/metrics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MARKET_TICKERS_MAX 16384
#define MARKET_TICKER_SIZE_MAX 32 /* bytes of a symbol */
#define MARKET_EVENT_SIZE_MAX 384 /* bytes of an encoded update */

/* X(identifier, label): what becomes of updates that a subscriber does not take in time. */
#define SLOW_POLICIES(X)                                                                           \
    X(BLOCK, "block")                                                                              \
    X(CONFLATE, "conflate")                                                                        \
    X(DROP_OLDEST, "drop_oldest")                                                                  \
    X(DISCONNECT, "disconnect")

enum slow_policy {
#define X(identifier, label) SLOW_POLICY_##identifier,
    SLOW_POLICIES(X)
#undef X
        SLOW_POLICY_COUNT,
};

extern const char *const slow_policy_labels[SLOW_POLICY_COUNT];

/* X(identifier, label): why a subscriber was cut off. */
#define CUT_OFF_REASONS(X)                                                                         \
    X(SOFT_BYTES, "soft_bytes") /* too many bytes waited, for too long */                          \
    X(SOFT_AGE, "soft_age")     /* the oldest waited too long, for too long */                     \
    X(HARD_BYTES, "hard_bytes")                                                                    \
    X(HARD_AGE, "hard_age")                                                                        \
    X(MAX_QUEUE, "max_queue") /* more updates waited than the subscriber wanted */                 \
    X(HISTORY, "history")     /* its next update is not in the history any more */

enum cut_off_reason {
#define X(identifier, label) CUT_OFF_##identifier,
    CUT_OFF_REASONS(X)
#undef X
        CUT_OFF_REASON_COUNT,
};

extern const char *const cut_off_reason_labels[CUT_OFF_REASON_COUNT];

/* X(identifier, label): what came of a wish to resume. */
#define RESUME_OUTCOMES(X)                                                                         \
    X(COMPLETE, "complete") /* everything was there */                                             \
    X(HISTORY, "history")   /* older than the history: a gap and a snapshot */                     \
    X(EPOCH, "epoch")       /* of another start: a gap and a snapshot */                           \
    X(AHEAD, "ahead")       /* behind the newest update: refused */

enum resume_outcome {
#define X(identifier, label) RESUME_##identifier,
    RESUME_OUTCOMES(X)
#undef X
        RESUME_OUTCOME_COUNT,
};

extern const char *const resume_outcome_labels[RESUME_OUTCOME_COUNT];

/* One moment on two clocks. */
struct market_time {
    uint64_t now_ms;  /* monotonic; never 0 */
    uint64_t unix_ns; /* since the Unix epoch */
};

/* What a feed says of a ticker. */
struct market_quote {
    double price;       /* finite, above 0 */
    double high;        /* of this step; 0: the price */
    double low;         /* of this step; 0: the price */
    int64_t volume;     /* shares traded; at least 0 */
    int64_t market_cap; /* 0: not known */
    bool timed;         /* `second` is set; else it is now */
    int64_t second;     /* when it was so, since the Unix epoch */
};

/* What is encoded. The texts live during the call. */
struct market_update {
    uint64_t epoch;
    uint64_t sequence;
    const char *ticker;
    struct walk_step values; /* `change` is to the ticker's price before, `open` its first price */
    int64_t second;          /* what its timestamp says, since the Unix epoch */
    uint64_t unix_ns;        /* when the market took it */
};

/*
 * Limits of a subscriber's queue: what waits for it in the history and, for bytes, what its
 * connection's socket has not sent yet. With the soft ones a subscriber may be for soft_time_ms.
 * 0: no limit, of each but queue_updates_max; the soft ones at once with a soft_time_ms of 0. Whose
 * policy is BLOCK has the hard ones, DISCONNECT all of them, CONFLATE and DROP_OLDEST none, and
 * nobody who has a least interval: their queues are bounded by themselves. None applies to a
 * subscriber that resumes until it has got what was there when it began, but that it is cut off
 * when the history does not have its next update any more.
 */
struct market_limits {
    uint32_t queue_updates_max; /* the most that a subscriber may ask for; at least 1 */
    uint64_t soft_bytes;
    uint64_t soft_age_ms;
    uint64_t soft_time_ms;
    uint64_t hard_bytes;
    uint64_t hard_age_ms;
};

struct market_options {
    uint64_t epoch;                  /* not 0 */
    size_t history_bytes_max;        /* of encoded updates; 64 KiB to less than 4 GiB; there is room
                                      * for one update for each 128 of them, at least */
    uint64_t history_age_ms;         /* 0: only the bytes count */
    unsigned tickers_max;            /* 1 to MARKET_TICKERS_MAX */
    uint64_t subscriptions_size_max; /* bytes of memory that all subscriptions may take together;
                                      * some of them take more as tickers are added: 1 bit each */
    struct market_limits limits;

    /* Writes `update`, at most MARKET_EVENT_SIZE_MAX bytes, and returns its size, above 0. */
    size_t (*encode)(void *context, uint8_t *bytes, const struct market_update *update);
    void (*clock)(void *context, struct market_time *ret_time);
    /* More than wake_max subscriptions to all tickers are to be woken by an update: that many have
     * been, and market_wake() is to be called when they were sent what there is for them. */
    void (*wake_later)(void *context);
    unsigned wake_max; /* 0: all are woken at once */
    void *context;
};

/* Counters and gauges. */
struct market_stats {
    uint64_t updates_total;
    uint64_t history_bytes;                  /* kept now */
    uint64_t history_updates;                /* the same */
    uint64_t subscribers[SLOW_POLICY_COUNT]; /* now */
    uint64_t behind[SLOW_POLICY_COUNT];      /* of them, how many had something waiting when
                                              * they were looked at last */
    uint64_t subscriptions_size;             /* bytes of memory that they take */
    uint64_t conflated_total;
    uint64_t dropped_total;
    uint64_t heartbeats_total;
    uint64_t gaps_total;
    uint64_t cut_off_total[CUT_OFF_REASON_COUNT];
    uint64_t resumes_total[RESUME_OUTCOME_COUNT];
    struct histogram queue_age; /* seconds from publishing until given to a connection */
};

struct market;

/* `options` is copied. The history's memory is reserved at once and touched as it fills. 0 or
 * -ENOMEM. */
int market_new(struct market **ret_market, const struct market_options *options);

/* Its subscriptions and feeds must be gone. NULL is allowed; returns NULL. */
struct market *market_free(struct market *market);

/* Other limits from now on, for those who have subscribed, too. */
void market_set_limits(struct market *market, const struct market_limits *limits);

enum {
    MARKET_FULL = 1,   /* tickers_max are there */
    MARKET_BAD_TICKER, /* not 1 to 32 printable ASCII characters other than space, quotes, comma
                        * and semicolon */
};

/*
 * Adds a ticker, unless it is there. *ret_ticker is its index: from 0, in order, for ever. 0, one
 * of the above, -ENOMEM.
 */
int market_add_ticker(struct market *market, const char *name, unsigned *ret_ticker);

/* The index of a ticker; false if there is none of this name (`size` bytes, which may be any). */
bool market_find_ticker(const struct market *market, const char *name, size_t size,
                        unsigned *ret_ticker);

unsigned market_tickers(const struct market *market);
const char *market_ticker_name(const struct market *market, unsigned ticker);

/* What there is of a ticker. */
struct market_ticker_state {
    uint64_t updates;     /* in this epoch */
    uint64_t sequence;    /* of the last one; 0: none yet */
    const uint8_t *bytes; /* the last one, encoded; lives until the ticker's next */
    uint32_t size;
    double price; /* 0: none yet */
};

void market_ticker_state(const struct market *market, unsigned ticker,
                         struct market_ticker_state *ret_state);

/*
 * Takes a quote: it becomes the update with the next sequence number, and `ready` of subscriptions
 * that wait for it is called. Change, percentage and open are made here.
 */
void market_publish(struct market *market, unsigned ticker, const struct market_quote *quote);

/* Wakes wake_max subscriptions more, as wake_later() asks for. */
void market_wake(struct market *market);

/*
 * To be called some times a second: forgets what is too old, looks at each subscription that is
 * behind, and cuts off those that are beyond their limits.
 */
void market_sweep(struct market *market);

uint64_t market_epoch(const struct market *market);

/* Sequence number of the newest update, and of the oldest in the history (market_sequence() + 1 if
 * it is empty). The first update has 2; 1 is the position before it, so that 0 is none. */
uint64_t market_sequence(const struct market *market);
uint64_t market_first_sequence(const struct market *market);

/* It may be read at any time; whoever made the market may not change it. */
const struct market_stats *market_stats(const struct market *market);
