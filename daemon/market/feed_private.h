/*
 * What all feeds have in common: state, silence, counters, and what the log says of them. A feed's
 * own struct begins with a struct feed.
 */
#pragma once

#include "base/log.h"
#include "base/util.h"
#include "market/feed.h"

struct feed_ops {
    /* Stops at once and frees what the feed has besides its struct feed, which it frees as the last
     * thing, perhaps in a later turn. */
    void (*free)(struct feed *feed);
};

struct feed {
    const struct feed_ops *ops;
    enum feed_kind kind;
    struct feed_options options;
    enum feed_state state;
    uint64_t state_since_ms;
    uint64_t updated_ms;  /* the last update, or the feed's start */
    uint64_t expected_ms; /* how long after it the feed itself lets its next one wait */
    struct wheel_timer silence;
    bool doubted; /* it was silent for too long a turn ago */
    struct log_limit faults;
    struct feed_stats stats;
};

/* The feed is live, and its time runs. */
void feed_init(struct feed *feed, const struct feed_ops *ops, enum feed_kind kind,
               const struct feed_options *options);

/* It is silent for ever; for the `free` of its kind. */
void feed_deinit(struct feed *feed);

/* Publishes. The feed is live then, whatever it was. */
void feed_publish(struct feed *feed, unsigned ticker, const struct market_quote *quote);

/*
 * The next update comes `expected_ms` after the last one, or sooner: as long as it is only waited
 * for, and stale_after is not over after that, the feed is not stale.
 */
void feed_expect(struct feed *feed, uint64_t expected_ms);

/* It has ended, or its writer has; `why` says so to a person. Nothing happens if it is gone. */
void feed_gone(struct feed *feed, const char *why);

/* Lines of a file that could not be taken. */
struct feed_place {
    const char *file;
    uint64_t line; /* from 1 */
};

/* What is wrong with a name that market_add_ticker() does not take, for printf with the most
 * characters to show, the name, and the most that there may be. */
#define FEED_NO_TICKER                                                                             \
    "'%.*s' is not a ticker: 1 to %d characters of printable ASCII without spaces, quotes, "       \
    "commas and semicolons"

/* Counts a line that could not be taken, and logs it. */
void feed_fault(struct feed *feed, const struct feed_place *place, const char *what);

/* Logs what is odd about a line that was taken. */
void feed_remark(struct feed *feed, const struct feed_place *place, const char *what);

/*
 * Publishes for the ticker of this name, which is added unless it is there. False if that is not
 * possible: a fault then, which is counted and logged.
 */
bool feed_publish_name(struct feed *feed, const struct feed_place *place, const char *ticker,
                       const struct market_quote *quote);
