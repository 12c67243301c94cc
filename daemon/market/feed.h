/*
 * Where the market's updates come from. Each kind of feed has a constructor of its own; all are one
 * from then on. A feed publishes from timers and from what it reads, never from inside a function
 * here.
 */
#pragma once

#include "base/loop.h"
#include "market/market.h"

#include <stdbool.h>
#include <stdint.h>

/* X(identifier, label) */
#define FEED_STATES(X)                                                                             \
    X(LIVE, "live")                                                                                \
    X(STALE, "stale") /* no update for longer than should be */                                    \
    X(GONE, "gone")   /* it has ended, or its writer has */

enum feed_state {
#define X(identifier, label) FEED_##identifier,
    FEED_STATES(X)
#undef X
        FEED_STATE_COUNT,
};

extern const char *const feed_state_labels[FEED_STATE_COUNT];

/* X(identifier, label): kinds of feeds, as the setting market.feed names them. */
#define FEED_KINDS(X)                                                                              \
    X(NONE, "none")                                                                                \
    X(WALK, "walk")     /* a random walk of each ticker */                                         \
    X(REPLAY, "replay") /* recorded trades or quotes, from a file */                               \
    X(PIPE, "pipe")     /* JSON, a line each update, from a FIFO */                                \
    X(STDIN, "stdin")   /* the same from standard input */

enum feed_kind {
#define X(identifier, label) FEED_KIND_##identifier,
    FEED_KINDS(X)
#undef X
        FEED_KIND_COUNT,
};

extern const char *const feed_kind_labels[FEED_KIND_COUNT];

/* A ticker of the random walk. */
struct feed_ticker {
    const char *name;
    double start_price;   /* above 0 */
    uint64_t interval_ms; /* between two updates; at least 1 */
    double volatility;    /* standard deviation of a step, as a part of the price: 0.001 */
};

/* Room for what is wrong, for a person: "FILE:LINE: what". */
#define FEED_ERROR_MAX 512

struct feed_options {
    struct loop *loop;
    struct market *market;
    uint64_t stale_after_ms; /* without an update; 0: never */

    /* The state has changed; never called from inside a function here. */
    void (*changed)(void *context);
    void *context;
};

struct feed;

/*
 * The walks; each is the same for the same seed and name. The tickers are copied, and added to the
 * market. 0, -ENOMEM, or -EINVAL if the market has no room for one, or does not take its name.
 */
int feed_walk_new(struct feed **ret_feed, const struct feed_options *options,
                  const struct feed_ticker *tickers, size_t count, uint64_t seed);

struct feed_replay_options {
    const char *file;
    double speed; /* 2: twice as fast as it was; 0: as fast as can be, some in each turn */
    bool loop;    /* from the start again at the end */
};

/*
 * Opens the file, and reads its header and first line. 0, -ENOMEM, or -EINVAL with what is wrong in
 * `error`. Tickers that the market does not have are added as they come.
 */
int feed_replay_new(struct feed **ret_feed, const struct feed_options *options,
                    const struct feed_replay_options *replay, char error[static FEED_ERROR_MAX]);

/* The same check alone, without a market. 0, -ENOMEM or -EINVAL. */
int feed_replay_check(const struct feed_replay_options *replay, char error[static FEED_ERROR_MAX]);

/*
 * Reads lines of JSON from the FIFO at `path`, or from standard input if it is NULL. A FIFO whose
 * last writer leaves is GONE, and LIVE again with the next. 0, -ENOMEM, or -EINVAL with what is
 * wrong in `error`.
 */
int feed_pipe_new(struct feed **ret_feed, const struct feed_options *options, const char *path,
                  char error[static FEED_ERROR_MAX]);

/* Ends it; the caller runs the loop once more before it goes. NULL is allowed; returns NULL. */
struct feed *feed_free(struct feed *feed);

enum feed_state feed_state(const struct feed *feed);

/* How long it has been in its state, ms. */
uint64_t feed_state_age_ms(const struct feed *feed);

/* A limit of silence from now on. */
void feed_set_stale_after(struct feed *feed, uint64_t stale_after_ms);

struct feed_stats {
    uint64_t updates_total; /* published */
    uint64_t faults_total;  /* lines that could not be taken; each is logged, unless there were
                             * many just now */
    uint64_t last_unix_ns;  /* when the last update was published; 0: none yet */
    uint64_t loops_total;   /* of a replay: how often it began anew */
    uint64_t late_total;    /* of a replay: lines whose time is before that of one above */
};

const struct feed_stats *feed_stats(const struct feed *feed);
