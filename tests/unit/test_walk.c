/*
 * What a client may rely on, for every step of very many; and that the numbers are as random as
 * they are said to be. All seeds are fixed: nothing here passes or fails by chance.
 */
#include "market/walk.h"

#include "base/util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

/* A plain condition: cmocka's own is a function call, too slow for ten of them a step. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("%s", #condition);                                                            \
    } while (0)

/* The first numbers for seed 1234567, as every implementation of SplitMix64 gives them. */
static void test_splitmix(void **state)
{
    static const uint64_t expected[] = {
        UINT64_C(6457827717110365317),  UINT64_C(3203168211198807973),
        UINT64_C(9817491932198370423),  UINT64_C(4593380528125082431),
        UINT64_C(16408922859458223821),
    };
    struct random random = {.state = 1234567};

    for (size_t i = 0; i < ELEMENTSOF(expected); i++)
        assert_true(random_next(&random) == expected[i]);
}

static void check_step(const struct walk_step *step, double previous, double open)
{
    CHECK(step->price == previous + step->change); /* exactly */
    CHECK(step->price > 0 && isfinite(step->price));
    CHECK(step->change >= -WALK_STEP_MAX && step->change < WALK_STEP_MAX);
    CHECK(step->change_percent == step->change / previous * 100);
    CHECK(step->open == open);
    CHECK(step->high >= step->price && step->high - step->price < WALK_SPREAD_MAX);
    CHECK(step->low <= step->price && step->price - step->low < WALK_SPREAD_MAX);
    CHECK(step->volume >= 0 && step->volume < WALK_VOLUME_MAX);
    CHECK(step->market_cap >= 0);
    if (step->price < 0x1p40) {
        CHECK((double)step->market_cap <= step->price * (WALK_SHARES_MAX - 1));
    }
}

static void run(double open, uint64_t seed, unsigned steps)
{
    struct walk walk;
    struct walk_step step;
    double previous = open;

    walk_init(&walk, random_fork(seed, 0), open);
    for (unsigned i = 0; i < steps; i++) {
        walk_next(&walk, &step);
        check_step(&step, previous, open);
        previous = step.price;
    }
}

static void test_bounds(void **state)
{
    static const double opens[] = {150, 0.01, 1, 2.5, 5, 1e-9, 1e-300, 1e3, 1e6, 1e9, 1e12};

    run(150, 1, 5000000);
    for (size_t i = 0; i < ELEMENTSOF(opens); i++)
        run(opens[i], i, 300000);
    /* Where a walk is near 0 most of the time: many short ones. */
    for (uint64_t seed = 0; seed < 20000; seed++)
        run(0.01, seed, 50);
}

/* No start price that is finite and above 0 breaks it, however absurd. */
static void test_absurd_prices(void **state)
{
    static const double opens[] = {
        5e-324, 0x1p-1022, 0x1p53, 1e16, 1e18, 9.3e18, 1e25, 1e300, 1.7976931348623157e308};
    struct walk walk;
    struct walk_step step;

    for (size_t i = 0; i < ELEMENTSOF(opens); i++) {
        bool largest = false;

        walk_init(&walk, random_fork(3, i), opens[i]);
        for (unsigned k = 0; k < 1000; k++) {
            double previous = walk.price;
            walk_next(&walk, &step);
            CHECK(step.price == previous + step.change);
            CHECK(step.price > 0);
            CHECK(step.high >= step.price && step.high - step.price < WALK_SPREAD_MAX);
            CHECK(step.low <= step.price && step.price - step.low < WALK_SPREAD_MAX);
            CHECK(step.market_cap >= 0);
            largest = largest || step.market_cap == INT64_MAX;
        }
        assert_int_equal(largest, opens[i] > 9e12);
    }
}

/* The state whose next number is `bits`: SplitMix64 run backwards. */
static struct random random_giving(uint64_t bits)
{
    uint64_t z = bits;

    z = z ^ z >> 31 ^ z >> 62;
    z *= UINT64_C(0x319642B2D24D8EC3); /* inverse of 0x94D049BB133111EB modulo 2^64 */
    z = z ^ z >> 27 ^ z >> 54;
    z *= UINT64_C(0x96DE1B173F119089); /* inverse of 0xBF58476D1CE4E5B9 */
    z = z ^ z >> 30 ^ z >> 60;
    return (struct random){.state = z - UINT64_C(0x9E3779B97F4A7C15)};
}

/* Steps that chance would never try: onto 0 itself, the ends of the interval, rounding at 0. */
static void test_reflection(void **state)
{
    static const double opens[] = {2.5, 1.25, 0.01, 1e-17, 5e-324, 2.4999999999999996, 1e-16};
    struct walk walk;
    struct walk_step step;
    struct random random = random_giving(UINT64_C(0x123456789ABCDEF0));

    assert_true(random_next(&random) == UINT64_C(0x123456789ABCDEF0));

    for (size_t i = 0; i < ELEMENTSOF(opens); i++) {
        for (uint64_t unit = 0; unit < 4096; unit++) {
            /* From the least change upwards, and around the one that leads to 0. */
            uint64_t onto_zero = (uint64_t)((WALK_STEP_MAX - opens[i]) / 5 * 0x1p53);
            uint64_t draws[] = {unit, onto_zero + unit - 2048, (UINT64_C(1) << 53) - 1 - unit};

            for (size_t k = 0; k < ELEMENTSOF(draws); k++) {
                if (draws[k] >= UINT64_C(1) << 53)
                    continue;
                walk_init(&walk, random_giving(draws[k] << 11), opens[i]);
                walk_next(&walk, &step);
                check_step(&step, opens[i], opens[i]);
            }
        }
    }

    /* 1 and a change of -2.5 give 1.5, by a change of 0.5. */
    walk_init(&walk, random_giving(0), 1);
    walk_next(&walk, &step);
    assert_true(step.change == 0.5 && step.price == 1.5 && step.change_percent == 50);
    /* 2.5 - 2.5 is 0, where no price may be: it stays. */
    walk_init(&walk, random_giving(0), 2.5);
    walk_next(&walk, &step);
    assert_true(step.change == 0 && step.price == 2.5);
    /* Not reflected where it need not be. */
    walk_init(&walk, random_giving(0), 150);
    walk_next(&walk, &step);
    assert_true(step.change == -2.5 && step.price == 147.5);
}

static bool same_step(const struct walk_step *a, const struct walk_step *b)
{
    return a->price == b->price && a->change == b->change &&
           a->change_percent == b->change_percent && a->open == b->open && a->high == b->high &&
           a->low == b->low && a->volume == b->volume && a->market_cap == b->market_cap;
}

static void test_repeatable(void **state)
{
    struct walk one, two, other;
    struct walk_step a, b, c;
    unsigned same = 0;

    walk_init(&one, random_fork(42, 7), 150);
    walk_init(&two, random_fork(42, 7), 150);
    walk_init(&other, random_fork(42, 8), 150);
    for (unsigned i = 0; i < 100000; i++) {
        walk_next(&one, &a);
        walk_next(&two, &b);
        walk_next(&other, &c);
        CHECK(same_step(&a, &b));
        same += a.change == c.change;
    }
    assert_int_equal(same, 0);
}

#define BINS 100
/* The 99.99 % point of chi-square with 99 degrees of freedom is 161. */
#define CHI_SQUARE_MAX 161.0

struct bins {
    unsigned count[BINS];
    unsigned total;
};

static void bins_add(struct bins *bins, double unit)
{
    CHECK(unit >= 0 && unit < 1);
    bins->count[(unsigned)(unit * BINS)]++;
    bins->total++;
}

static void assert_uniform(const struct bins *bins)
{
    double expected = (double)bins->total / BINS, sum = 0;

    for (unsigned i = 0; i < BINS; i++)
        sum += (bins->count[i] - expected) * (bins->count[i] - expected) / expected;
    if (sum > CHI_SQUARE_MAX)
        fail_msg("chi-square of %g", sum);
}

/* What the sum of `count` products of independent deviations is, in standard errors. */
#define CORRELATION_MAX 4.5

static double deviations(double unit, double other_unit)
{
    return (unit - 0.5) * (other_unit - 0.5);
}

static void assert_uncorrelated(double sum_of_deviations, unsigned count)
{
    assert_true(fabs(sum_of_deviations) * 12 / sqrt(count) < CORRELATION_MAX);
}

/* The parts of a number that a walk uses, as numbers in [0, 1). */
static double upper_53(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

static double upper_half(uint64_t bits)
{
    return (double)(bits >> 32) * 0x1p-32;
}

static double lower_half(uint64_t bits)
{
    return (double)(uint32_t)bits * 0x1p-32;
}

static void test_uniform_numbers(void **state)
{
    struct random random = random_fork(5, 5);
    struct bins whole = {0}, upper = {0}, lower = {0};
    const unsigned numbers = 1000000;
    double products = 0;

    for (unsigned i = 0; i < numbers; i++) {
        uint64_t bits = random_next(&random);

        bins_add(&whole, upper_53(bits));
        bins_add(&upper, upper_half(bits));
        bins_add(&lower, lower_half(bits));
        products += deviations(upper_half(bits), lower_half(bits));
    }
    assert_uniform(&whole);
    assert_uniform(&upper);
    assert_uniform(&lower);
    assert_uncorrelated(products, numbers);
}

/* A step whose number `n` (0: of the change, 1: of high and low, 2: of the counts) is `bits`. */
static struct walk_step step_drawing(unsigned n, uint64_t bits)
{
    struct random random = {random_giving(bits).state - n * UINT64_C(0x9E3779B97F4A7C15)};
    struct walk walk;
    struct walk_step step;

    walk_init(&walk, random, 1024);
    walk_next(&walk, &step);
    check_step(&step, 1024, 1024);
    return step;
}

/* Every field at the least and at the greatest of what its random bits can make of it. */
static void test_ends_of_fields(void **state)
{
    struct walk_step step = step_drawing(0, 0);

    assert_true(step.change == -WALK_STEP_MAX);
    /* A change is 5 times a multiple of 2^-53; the greatest is one of these below 2.5. */
    step = step_drawing(0, UINT64_MAX);
    assert_true(step.change == (1 - 0x1p-53) * (2 * WALK_STEP_MAX) - WALK_STEP_MAX);

    step = step_drawing(1, 0);
    assert_true(step.high == step.price && step.low == step.price);
    step = step_drawing(1, UINT64_MAX);
    assert_true(step.high == step.price + WALK_SPREAD_MAX * (1 - 0x1p-32));
    assert_true(step.low == step.price - WALK_SPREAD_MAX * (1 - 0x1p-32));

    step = step_drawing(2, 0);
    assert_int_equal(step.volume, 0);
    assert_int_equal(step.market_cap, 0);
    step = step_drawing(2, UINT64_MAX);
    assert_int_equal(step.volume, WALK_VOLUME_MAX - 1);
    assert_int_equal(step.market_cap, (int64_t)(step.price * (WALK_SHARES_MAX - 1)));
}

/* Every field on its own, and every pair of fields, of the same step and of neighbouring ones. */
static void test_uniform_steps(void **state)
{
    enum { CHANGE, HIGH, LOW, VOLUME, SHARES, FIELDS };
    const unsigned steps = 1000000;
    struct bins bins[FIELDS] = {0};
    double products[2][FIELDS][FIELDS] = {0};
    double last[FIELDS] = {0};
    struct walk walk;
    struct walk_step step;

    walk_init(&walk, random_fork(11, 0), 1e6); /* far from 0: nothing is reflected */
    for (unsigned i = 0; i < steps; i++) {
        double now[FIELDS];

        walk_next(&walk, &step);
        now[CHANGE] = (step.change + WALK_STEP_MAX) / (2 * WALK_STEP_MAX);
        now[HIGH] = (step.high - step.price) / WALK_SPREAD_MAX;
        now[LOW] = (step.price - step.low) / WALK_SPREAD_MAX;
        now[VOLUME] = ((double)step.volume + 0.5) / WALK_VOLUME_MAX;
        now[SHARES] = (double)step.market_cap / step.price / WALK_SHARES_MAX;
        for (unsigned f = 0; f < FIELDS; f++) {
            bins_add(&bins[f], now[f]);
            for (unsigned g = 0; g < FIELDS; g++) {
                products[0][f][g] += deviations(now[f], now[g]);
                products[1][f][g] += deviations(now[f], last[g]);
            }
        }
        memcpy(last, now, sizeof(last));
    }
    for (unsigned f = 0; f < FIELDS; f++) {
        assert_uniform(&bins[f]);
        for (unsigned g = 0; g < FIELDS; g++) {
            if (f != g)
                assert_uncorrelated(products[0][f][g], steps);
            assert_uncorrelated(products[1][f][g], steps);
        }
    }
}

/* Neighbouring forks, of one seed and of neighbouring seeds, have nothing to do with each other. */
static void test_forks(void **state)
{
    struct bins first = {0}, by_seed = {0}, differences = {0};
    const unsigned forks = 200000;
    double previous = 0, products = 0;

    for (unsigned n = 0; n < forks; n++) {
        struct random random = random_fork(1, n), other = random_fork(n, 0);
        double unit = upper_53(random_next(&random));

        bins_add(&first, unit);
        bins_add(&by_seed, upper_53(random_next(&other)));
        bins_add(&differences, unit - previous - floor(unit - previous));
        products += deviations(unit, previous);
        previous = unit;
    }
    assert_uniform(&first);
    assert_uniform(&by_seed);
    assert_uniform(&differences);
    assert_uncorrelated(products, forks);

    /* No fork runs into another's numbers within what a stream may live to see. */
    for (uint64_t n = 0; n < 1000; n++) {
        struct random a = random_fork(9, n);
        for (uint64_t m = 0; m < n; m++) {
            struct random b = random_fork(9, m);
            /* States differ by k times the gamma when b is k numbers behind a. */
            uint64_t k = (a.state - b.state) * UINT64_C(0xF1DE83E19937733D);
            CHECK(k > UINT64_C(1) << 40 && k < UINT64_MAX - (UINT64_C(1) << 40));
        }
    }
    assert_true(UINT64_C(0x9E3779B97F4A7C15) * UINT64_C(0xF1DE83E19937733D) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splitmix),       cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_absurd_prices),  cmocka_unit_test(test_reflection),
        cmocka_unit_test(test_repeatable),     cmocka_unit_test(test_uniform_numbers),
        cmocka_unit_test(test_ends_of_fields), cmocka_unit_test(test_uniform_steps),
        cmocka_unit_test(test_forks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
