/*
 * A random walk of one stock's price, and the small generator that drives it. No I/O, no clock.
 */
#pragma once

#include <stdint.h>

/* SplitMix64: 8 bytes of state, about a nanosecond a number, the same sequence for the same seed.
 */
struct random {
    uint64_t state;
};

/* 64 random bits. */
uint64_t random_next(struct random *random);

/* The n-th generator of a run with this seed: far apart for neighbouring n. */
struct random random_fork(uint64_t seed, uint64_t n);

#define WALK_STEP_MAX 2.5       /* |change| of one step, USD */
#define WALK_SPREAD_MAX 2.0     /* of high and low around the price, USD */
#define WALK_VOLUME_MAX 10000   /* below this */
#define WALK_SHARES_MAX 1000000 /* below this */

struct walk {
    struct random random;
    double open;
    double price; /* after the last step */
};

/* One step: what a StockUpdate tells, but for the ticker and the time. */
struct walk_step {
    double price;
    double change;
    double change_percent;
    double open;
    double high;
    double low;
    int64_t volume;
    int64_t market_cap;
};

/* A walk that starts at `open` (finite, above 0). */
void walk_init(struct walk *walk, struct random random, double open);

/*
 * Goes one step: change uniform in [-2.5, 2.5), reflected at 0, so that the price stays above 0.
 * ret_step->price == the price before + ret_step->change, exactly, in double arithmetic. high is in
 * [price, price + 2), low in (price - 2, price], which may be below 0. market_cap is INT64_MAX
 * where the product is larger.
 */
void walk_next(struct walk *walk, struct walk_step *ret_step);
