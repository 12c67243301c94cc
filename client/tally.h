/*
 * What a subscription has brought: events, bytes, what was merged, dropped or missing, and how old
 * updates were when they came. `stat` prints it once a second, `top` has it above its table.
 */
#pragma once

#include "stockservice.pb-c.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Ages from 0 to LAGS_MAX_US, in buckets that are a 32nd of their value wide at most; those above
 * count as the highest. Zeroed memory is empty.
 */
#define LAGS_PARTS 32
#define LAGS_BUCKETS ((size_t)33 * LAGS_PARTS)
#define LAGS_MAX_US ((UINT64_C(1) << 37) - 1) /* a day and a half */

struct lags {
    uint64_t count;
    uint64_t max_us;
    uint64_t buckets[LAGS_BUCKETS];
};

void lags_add(struct lags *lags, uint64_t us);

/* Adds all of `more`. */
void lags_merge(struct lags *lags, const struct lags *more);

/*
 * The age, in microseconds, that the part `quantile` (above 0, at most 1) of them does not pass; no
 * more than 1/32 too high, and never above the highest. `more` is counted too, unless it is NULL.
 * 0 if there are none.
 */
uint64_t lags_quantile(const struct lags *lags, const struct lags *more, double quantile);

/*
 * How often something happens, as an average in which what is long past counts less and less.
 * Zeroed memory is a start at the time of the first call.
 */
struct rate {
    double weight;
    uint64_t start_ms;
    uint64_t at_ms;
    bool begun;
};

/* `count` times at `now_ms`; 0 begins the time that is averaged over. */
void rate_add(struct rate *rate, double count, uint64_t now_ms);

/* Times a second. */
double rate_per_second(const struct rate *rate, uint64_t now_ms);

struct tally {
    uint64_t updates;   /* without those of snapshots */
    uint64_t snapshots; /* updates that were a snapshot's */
    uint64_t heartbeats;
    uint64_t bytes; /* of messages, their prefixes included */
    uint64_t conflated;
    uint64_t dropped;
    uint64_t gaps;
    uint64_t missing;  /* updates in these gaps, as far as they are known */
    struct lags lags;  /* since the latest tally_turn() */
    struct lags older; /* since the one before */
};

/*
 * Counts one event, of `bytes` bytes, at `now_ns` since the Unix epoch. An update from the future,
 * which clocks that differ can make, counts as new.
 */
void tally_event(struct tally *tally, const Stockservice__MarketEvent *event, size_t bytes,
                 uint64_t now_ns);

/* How old the event's update is, in microseconds. */
uint64_t tally_age_us(const Stockservice__MarketEvent *event, uint64_t now_ns);

/* `lags` become `older`, and are empty. */
void tally_turn(struct tally *tally);

/* Room for any text of the functions below, with its NUL. */
#define TALLY_TEXT_MAX 32

/* A count that has to be short: "99999", "100k", "1.5M", up to six characters. */
const char *tally_count_text(double count, char text[static TALLY_TEXT_MAX]);

/* A size: "999 B", "1.5 kB", up to eight characters; powers of 1000. */
const char *tally_bytes_text(double bytes, char text[static TALLY_TEXT_MAX]);

/* A time: "0.3ms", "12ms", "1.2s", "12s", "5m", "3h", "12d", up to five characters. */
const char *tally_time_text(uint64_t us, char text[static TALLY_TEXT_MAX]);
