/*
 * A market and a loop for feeds, on a clock that only the test moves (tests/fuzz/clock.c), and what
 * the feed made of them: updates and log messages.
 */
#pragma once

#include "base/loop.h"
#include "market/feed.h"

#include <stdio.h>

struct feed_bed_update {
    char ticker[MARKET_TICKER_SIZE_MAX + 1];
    struct walk_step values;
    int64_t second;
    uint64_t at_ms; /* since the bed was made */
};

struct feed_bed {
    uv_loop_t uv;
    uv_timer_t alive;
    struct loop loop;
    struct market *market;
    struct feed_options options; /* for the feed; stale_after_ms is 0 */
    unsigned changes;            /* calls of `changed` */
    unsigned busy_turn;          /* the most updates in one turn */

    struct feed_bed_update *updates;
    size_t count;
    size_t capacity;

    int log; /* standard error goes there */
    int standard_error;
    FILE *stream;
};

void feed_bed_init(struct feed_bed *bed, unsigned tickers_max);

/* With the feed, which may be NULL. */
void feed_bed_deinit(struct feed_bed *bed, struct feed *feed);

/* A turn of the loop; no time passes. */
void feed_bed_turn(struct feed_bed *bed);

/* So many milliseconds, with a turn in each. */
void feed_bed_pass(struct feed_bed *bed, uint64_t ms);

/* Turns without time until there are so many updates. Fails the test after very many. */
void feed_bed_wait(struct feed_bed *bed, size_t count);

/* What was logged since the last call, for free(). */
char *feed_bed_log(struct feed_bed *bed);

/* Fails unless `text` was logged since the last call of either. */
void feed_bed_expect_log(struct feed_bed *bed, const char *text);

/* A new file with this content; its path, for free() and unlink(). */
char *feed_bed_file(const char *content, size_t size);
