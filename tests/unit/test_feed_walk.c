/*
 * The walk, and what it shares with all feeds: state, silence, and their end. The clock is the
 * test's, so years pass and nothing depends on how fast the machine is.
 */
#include "feed_bed.h"

#include "base/util.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

static const struct feed_ticker two[] = {
    {"AAPL", 150.25, 1000, 0.001},
    {"GOOG", 2800, 250, 0.002},
};

static struct feed *walk(struct feed_bed *bed, const struct feed_ticker *tickers, size_t count)
{
    struct feed *feed = NULL;

    assert_int_equal(feed_walk_new(&feed, &bed->options, tickers, count, 7), 0);
    return feed;
}

static size_t count_of(const struct feed_bed *bed, const char *ticker)
{
    size_t count = 0;

    for (size_t i = 0; i < bed->count; i++)
        count += strcmp(bed->updates[i].ticker, ticker) == 0;
    return count;
}

static void test_intervals(void **state)
{
    struct feed_bed bed;
    struct feed *feed;
    uint64_t last_ms = 0;
    unsigned seen = 0;

    feed_bed_init(&bed, 16);
    feed = walk(&bed, two, 2);
    assert_int_equal(bed.count, 0); /* not from inside the constructor */
    assert_int_equal(market_tickers(bed.market), 2);
    feed_bed_pass(&bed, 100000);

    /* No drift: so many intervals have so many updates. */
    assert_int_equal(count_of(&bed, "AAPL"), 100);
    assert_int_equal(count_of(&bed, "GOOG"), 400);
    for (size_t i = 0; i < bed.count; i++) {
        if (strcmp(bed.updates[i].ticker, "GOOG") != 0)
            continue;
        if (seen++ == 0)
            assert_true(bed.updates[i].values.price == 2800);
        else
            assert_in_range(bed.updates[i].at_ms - last_ms, 245, 255);
        last_ms = bed.updates[i].at_ms;
        assert_true(bed.updates[i].values.open == 2800);
    }
    assert_int_equal(feed_stats(feed)->updates_total, 500);

    /* Nor where each of them is a little late. */
    bed.count = 0;
    for (unsigned i = 0; i < 100000 / 8; i++) {
        clock_advance_ms(8);
        feed_bed_turn(&bed);
    }
    assert_int_equal(count_of(&bed, "AAPL"), 100);
    assert_int_equal(count_of(&bed, "GOOG"), 400);
    assert_int_equal(feed_stats(feed)->faults_total, 0);
    assert_true(feed_stats(feed)->last_unix_ns > UINT64_C(1000000000000000000));
    assert_int_equal(feed_state(feed), FEED_LIVE);
    assert_int_equal(feed_state_age_ms(feed), 200000);
    feed_bed_deinit(&bed, feed);
}

/* A ticker with a long interval has a price soon all the same. */
static void test_long_interval(void **state)
{
    const struct feed_ticker slow = {"SLOW", 5, 3600000, 0.001};
    struct feed_bed bed;
    struct feed *feed;

    feed_bed_init(&bed, 1);
    bed.options.stale_after_ms = 1000;
    feed = walk(&bed, &slow, 1);
    feed_bed_pass(&bed, 5001);
    assert_int_equal(bed.count, 1);
    /* Its own interval is no silence, nor is it one that the loop could not run for an hour. */
    clock_advance_ms(3600000 - 1);
    feed_bed_pass(&bed, 20);
    assert_int_equal(bed.count, 2);
    assert_int_equal(feed_state(feed), FEED_LIVE);
    assert_int_equal(bed.changes, 0);
    feed_bed_deinit(&bed, feed);
}

/* Who could not run for a while does not make up for it. */
static void test_late(void **state)
{
    struct feed_bed bed;
    struct feed *feed;

    feed_bed_init(&bed, 2);
    feed = walk(&bed, two, 2);
    feed_bed_pass(&bed, 2000);
    bed.count = 0;
    clock_advance_ms(60000);
    feed_bed_turn(&bed);
    feed_bed_turn(&bed);
    assert_int_equal(bed.count, 2);
    /* And then goes on as before, in the phase that it had. */
    feed_bed_pass(&bed, 10000);
    assert_in_range(count_of(&bed, "AAPL"), 10, 11);
    assert_in_range(count_of(&bed, "GOOG"), 40, 41);
    feed_bed_deinit(&bed, feed);
}

static void test_seed(void **state)
{
    const struct feed_ticker reversed[] = {two[1], two[0]};
    struct feed_bed_update first[64];
    struct feed_bed bed;
    struct feed *feed;
    size_t count, same = 0;

    feed_bed_init(&bed, 2);
    feed = walk(&bed, two, 2);
    feed_bed_pass(&bed, 10000);
    count = MIN(bed.count, ELEMENTSOF(first));
    memcpy(first, bed.updates, count * sizeof(first[0]));
    feed_bed_deinit(&bed, feed);

    feed_bed_init(&bed, 2);
    feed = walk(&bed, two, 2);
    feed_bed_pass(&bed, 10000);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(bed.updates[i].ticker, first[i].ticker);
        assert_memory_equal(&bed.updates[i].values, &first[i].values, sizeof(first[i].values));
    }
    feed_bed_deinit(&bed, feed);

    /* A ticker's prices are its own, wherever it stands in the list. */
    feed_bed_init(&bed, 2);
    feed = walk(&bed, reversed, 2);
    feed_bed_pass(&bed, 10000);
    for (size_t i = 0, j = 0; i < bed.count && same < 5; i++) {
        if (strcmp(bed.updates[i].ticker, "AAPL") != 0)
            continue;
        while (strcmp(first[j].ticker, "AAPL") != 0)
            j++;
        assert_true(bed.updates[i].values.price == first[j++].values.price);
        same++;
    }
    assert_int_equal(same, 5);
    feed_bed_deinit(&bed, feed);

    feed_bed_init(&bed, 2);
    assert_int_equal(feed_walk_new(&feed, &bed.options, two, 2, 8), 0);
    feed_bed_pass(&bed, 10000);
    same = 0;
    for (size_t i = 0; i < count; i++)
        same += bed.updates[i].values.price == first[i].values.price;
    assert_true(same < count / 2);
    feed_bed_deinit(&bed, feed);
}

/* Years of steps: prices stay prices, of cents, and move as much as they should. */
static void test_years(void **state)
{
    static const struct feed_ticker wild[] = {
        {"CALM", 150, 1, 0.001}, {"WILD", 150, 1, 0.5},    {"PENNY", 0.05, 1, 0.01},
        {"DUST", 1e-9, 1, 0.01}, {"VAST", 1e300, 1, 0.01}, {"STILL", 42.5, 1, 0},
        {"UNREST", 20, 1, 1},    {"FRANTIC", 20, 1, 10},
    };
    struct feed_bed bed;
    struct feed *feed;
    double squares = 0, before = 0, distance = 0;
    unsigned steps = 0, moved = 0;

    feed_bed_init(&bed, 16);
    feed = walk(&bed, wild, ELEMENTSOF(wild));
    for (unsigned part = 0; part < 40; part++) {
        bed.count = 0;
        feed_bed_pass(&bed, 5000);
        for (size_t i = 0; i < bed.count; i++) {
            const struct walk_step *values = &bed.updates[i].values;

            if (!(isfinite(values->price) && values->price > 0 && values->high >= values->price &&
                  isfinite(values->high) && values->low <= values->price && values->low > 0 &&
                  values->volume > 0 && values->market_cap >= 0))
                fail_msg("%s: %g %g %g", bed.updates[i].ticker, values->price, values->high,
                         values->low);
            if (fabs(log(values->price / values->open)) > 7)
                fail_msg("%s: from %g to %g", bed.updates[i].ticker, values->open, values->price);
            if (strcmp(bed.updates[i].ticker, "WILD") == 0)
                distance += fabs(log(values->price / values->open));
            if (strcmp(bed.updates[i].ticker, "STILL") == 0)
                assert_true(values->price == 42.5);
            if (strcmp(bed.updates[i].ticker, "CALM") == 0) {
                assert_true(fabs(values->price * 100 - rint(values->price * 100)) < 1e-6);
                assert_true(values->price > 1 && values->price < 15000);
                if (before > 0) {
                    squares += pow(log(values->price / before), 2);
                    moved += values->price != before;
                    steps++;
                }
                before = values->price;
            }
        }
    }
    assert_in_range(steps, 40 * 5000 - 10, 40 * 5000 - 1);
    assert_true(sqrt(squares / steps) > 0.0009 && sqrt(squares / steps) < 0.0011);
    assert_true(moved > steps * 0.9);
    /* However wild, it comes back to where it began. */
    assert_true(distance / steps > 0.2 && distance / steps < 1);
    feed_bed_deinit(&bed, feed);
}

static void test_many(void **state)
{
    static char names[10000][8];
    static struct feed_ticker tickers[10000];
    struct feed_bed bed;
    struct feed *feed;

    for (size_t i = 0; i < ELEMENTSOF(tickers); i++) {
        (void)snprintf(names[i], sizeof(names[i]), "T%zu", i);
        tickers[i] = (struct feed_ticker){names[i], 100, 1000, 0.001};
    }
    feed_bed_init(&bed, ELEMENTSOF(tickers));
    feed = walk(&bed, tickers, ELEMENTSOF(tickers));
    feed_bed_pass(&bed, 3000);
    assert_in_range(bed.count, 29900, 30100);
    /* They are spread over the second: a hundredth of them in each 10 ms, and some. */
    assert_in_range(bed.busy_turn, 50, 150);
    feed_bed_deinit(&bed, feed);
}

static void test_refused(void **state)
{
    const struct feed_ticker bad = {"NO WAY", 1, 1000, 0.001};
    struct feed_bed bed;
    struct feed *feed = NULL;

    feed_bed_init(&bed, 1);
    assert_int_equal(feed_walk_new(&feed, &bed.options, &bad, 1, 1), -EINVAL);
    assert_int_equal(feed_walk_new(&feed, &bed.options, two, 2, 1), -EINVAL);
    assert_null(feed);
    feed_bed_pass(&bed, 2000);
    assert_int_equal(bed.count, 0);
    feed_bed_deinit(&bed, feed);
}

/* A walk of no tickers is silent, and comes to life never. */
static void test_silence(void **state)
{
    struct feed_bed bed;
    struct feed *feed;

    feed_bed_init(&bed, 1);
    bed.options.stale_after_ms = 2000;
    feed = walk(&bed, NULL, 0);
    feed_bed_pass(&bed, 1999);
    assert_int_equal(feed_state(feed), FEED_LIVE);
    assert_int_equal(bed.changes, 0);
    feed_bed_pass(&bed, 60);
    assert_int_equal(feed_state(feed), FEED_STALE);
    assert_int_equal(bed.changes, 1);
    assert_in_range(feed_state_age_ms(feed), 0, 60);
    feed_bed_expect_log(&bed, "warning: the market's feed (walk) is stale: no update for 2.0");
    feed_bed_pass(&bed, 10000);
    assert_int_equal(bed.changes, 1);
    assert_in_range(feed_state_age_ms(feed), 10000, 10060);

    /* More patience than that: it is not stale then, and is later. */
    feed_set_stale_after(feed, 20000);
    assert_int_equal(feed_state(feed), FEED_STALE);
    feed_bed_turn(&bed);
    feed_bed_turn(&bed);
    assert_int_equal(feed_state(feed), FEED_LIVE);
    assert_int_equal(bed.changes, 2);
    feed_bed_expect_log(&bed, "notice: the market's feed (walk) is live");
    feed_bed_pass(&bed, 8100);
    assert_int_equal(feed_state(feed), FEED_STALE);
    feed_bed_expect_log(&bed, "no update for 20 s");
    feed_set_stale_after(feed, 0);
    feed_bed_pass(&bed, 2);
    assert_int_equal(feed_state(feed), FEED_LIVE);
    feed_bed_pass(&bed, 100000);
    assert_int_equal(feed_state(feed), FEED_LIVE);
    feed_set_stale_after(feed, 1);
    feed_bed_pass(&bed, 100);
    assert_int_equal(feed_state(feed), FEED_STALE);
    feed_bed_deinit(&bed, feed);
}

static void test_labels(void **state)
{
    assert_string_equal(feed_state_labels[FEED_LIVE], "live");
    assert_string_equal(feed_state_labels[FEED_GONE], "gone");
    assert_string_equal(feed_kind_labels[FEED_KIND_NONE], "none");
    assert_string_equal(feed_kind_labels[FEED_KIND_STDIN], "stdin");
    assert_null(feed_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intervals), cmocka_unit_test(test_long_interval),
        cmocka_unit_test(test_late),      cmocka_unit_test(test_seed),
        cmocka_unit_test(test_years),     cmocka_unit_test(test_many),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_silence),
        cmocka_unit_test(test_labels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
