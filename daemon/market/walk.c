/*
 * Where streams are unpaced every message is a step of its own, so a step is made to cost about ten
 * nanoseconds: no call of the mathematical library, one division, and no more random numbers than
 * its fields need bits.
 */
#include "market/walk.h"

#define GOLDEN_GAMMA UINT64_C(0x9E3779B97F4A7C15)

/*
 * SplitMix64: Guy L. Steele Jr., Doug Lea, Christine H. Flood, "Fast splittable pseudorandom number
 * generators", OOPSLA 2014; the multipliers are David Stafford's "Mix13".
 */
static inline uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static inline uint64_t next(struct random *random)
{
    return mix(random->state += GOLDEN_GAMMA);
}

/*
 * Uniform in [0, 1): the upper 53 bits, as a signed number, which the processor converts in one
 * instruction.
 */
static inline double unit(uint64_t bits)
{
    return (double)(int64_t)(bits >> 11) * 0x1p-53;
}

/* Uniform in [0, bound) from 32 random bits: multiply and take the whole part; bias < bound/2^32.
 */
static inline uint32_t below(uint32_t bits, uint32_t bound)
{
    return (uint32_t)((uint64_t)bits * bound >> 32);
}

uint64_t random_next(struct random *random)
{
    return next(random);
}

struct random random_fork(uint64_t seed, uint64_t n)
{
    /*
     * All generators run through one cycle of 2^64 numbers; mixing twice puts each at a place of
     * its own (mix is a permutation) that neighbouring seeds and neighbouring n do not show.
     */
    return (struct random){.state = mix(mix(seed + GOLDEN_GAMMA) + n * GOLDEN_GAMMA)};
}

void walk_init(struct walk *walk, struct random random, double open)
{
    *walk = (struct walk){.random = random, .open = open, .price = open};
}

/*
 * The change for a step from `previous` that would reach 0 or less: to the same distance above 0.
 * The price is computed from the change, not the reverse, so that their sum is exact for whoever
 * checks it. Where rounding spoils the reflection (the price is 0 itself, or the change is just
 * 2.5), the step is not taken.
 */
static double reflect(double previous, double change)
{
    change = -2 * previous - change;
    return previous + change > 0 && change < WALK_STEP_MAX ? change : 0;
}

void walk_next(struct walk *walk, struct walk_step *ret_step)
{
    /*
     * Three numbers make five: the halves of one SplitMix64 number are as good as two numbers (it
     * passes BigCrush in either order of its bits), and 32 bits are plenty for an amount below 2
     * USD, for 10,000 and for 1,000,000. The change, of which the price consists, has its 53.
     */
    uint64_t change_bits = next(&walk->random);
    uint64_t spread_bits = next(&walk->random);
    uint64_t count_bits = next(&walk->random);
    double previous = walk->price;
    double change = unit(change_bits) * (2 * WALK_STEP_MAX) - WALK_STEP_MAX;
    double price = previous + change;
    double high, low, capital;

    if (__builtin_expect(!(price > 0), 0)) {
        change = reflect(previous, change);
        price = previous + change;
    }
    walk->price = price;

    /* Where doubles are so far apart that rounding reaches the end of the interval: no spread. */
    high = price + (double)(int64_t)(spread_bits >> 32) * (WALK_SPREAD_MAX * 0x1p-32);
    if (high - price >= WALK_SPREAD_MAX)
        high = price;
    low = price - (double)(int64_t)(uint32_t)spread_bits * (WALK_SPREAD_MAX * 0x1p-32);
    if (price - low >= WALK_SPREAD_MAX)
        low = price;

    capital = price * below((uint32_t)(count_bits >> 32), WALK_SHARES_MAX);

    ret_step->price = price;
    ret_step->change = change;
    ret_step->change_percent = change / previous * 100;
    ret_step->open = walk->open;
    ret_step->high = high;
    ret_step->low = low;
    ret_step->volume = below((uint32_t)count_bits, WALK_VOLUME_MAX);
    /* Beyond 2^63 the conversion would be undefined. */
    ret_step->market_cap = capital < 0x1p63 ? (int64_t)capital : INT64_MAX;
}
