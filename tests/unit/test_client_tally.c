/*
 * What a subscription has brought: ages, rates, counts, and the short texts of them.
 */
#include "client/tally.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static void quantiles_of_small_ages_are_exact(void **state)
{
    static struct lags lags;

    assert_int_equal(lags_quantile(&lags, NULL, 0.5), 0);
    for (uint64_t us = 1; us <= 50; us++)
        lags_add(&lags, us);
    assert_int_equal(lags.count, 50);
    assert_int_equal(lags_quantile(&lags, NULL, 0.02), 1);
    assert_int_equal(lags_quantile(&lags, NULL, 0.5), 25);
    assert_int_equal(lags_quantile(&lags, NULL, 0.99), 50);
    assert_int_equal(lags_quantile(&lags, NULL, 1), 50);
}

/* Each age alone, so that what is said about it is its bucket's end. */
static void ages_are_at_most_a_32nd_too_high(void **state)
{
    for (uint64_t us = 1; us < LAGS_MAX_US; us += us / 7 + 1) {
        static struct lags lags;
        uint64_t said;

        lags = (struct lags){0};
        lags_add(&lags, us);
        assert_int_equal(lags_quantile(&lags, NULL, 1), us);
        lags_add(&lags, LAGS_MAX_US);
        said = lags_quantile(&lags, NULL, 0.5);
        assert_true(said >= us);
        assert_true(said - us <= us / 32);
    }
}

static void what_is_too_old_counts_as_the_highest(void **state)
{
    static struct lags lags;

    lags_add(&lags, UINT64_MAX);
    lags_add(&lags, LAGS_MAX_US + 1);
    assert_int_equal(lags_quantile(&lags, NULL, 0.1), LAGS_MAX_US);
}

static void two_sets_of_ages_count_as_one(void **state)
{
    static struct lags some;
    static struct lags more;

    for (uint64_t us = 1; us <= 10; us++) {
        lags_add(&some, us);
        lags_add(&more, us + 10);
    }
    assert_int_equal(lags_quantile(&some, &more, 0.5), 10);
    assert_int_equal(lags_quantile(&some, &more, 0.75), 15);
    assert_int_equal(lags_quantile(&some, &more, 1), 20);
    assert_int_equal(lags_quantile(&some, NULL, 1), 10);
    lags_merge(&some, &more);
    assert_int_equal(some.count, 20);
    assert_int_equal(lags_quantile(&some, NULL, 0.75), 15);
    assert_int_equal(lags_quantile(&some, NULL, 1), 20);
}

static void near(double value, double expected, double tolerance)
{
    if (value < expected - tolerance || value > expected + tolerance)
        fail_msg("%g is not %g +/- %g", value, expected, tolerance);
}

static void a_steady_rate_is_right_from_its_first_second_on(void **state)
{
    struct rate rate = {0};
    uint64_t now_ms;

    near(rate_per_second(&rate, 5), 0, 0);
    rate_add(&rate, 0, 1000);
    near(rate_per_second(&rate, 1000), 0, 0);
    for (now_ms = 1010; now_ms <= 60000; now_ms += 10) {
        rate_add(&rate, 1, now_ms);
        if (now_ms >= 2000)
            near(rate_per_second(&rate, now_ms), 100, 1.5);
    }
    /* And fades when nothing comes any more: to 1/e in five seconds. */
    near(rate_per_second(&rate, 65000), 36.8, 1);
    near(rate_per_second(&rate, 120000), 0, 0.01);
}

static void one_update_is_no_storm(void **state)
{
    struct rate rate = {0};

    rate_add(&rate, 1, 1000);
    assert_true(rate_per_second(&rate, 1000) < 1.2);
    /* A clock that goes back yields nothing, and no harm. */
    near(rate_per_second(&rate, 10), 0, 0);
    rate_add(&rate, 1, 10);
    assert_true(rate_per_second(&rate, 1000) < 2.4);
}

static void events_are_counted_by_kind(void **state)
{
    static struct tally tally;
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    Stockservice__Heartbeat heartbeat = STOCKSERVICE__HEARTBEAT__INIT;
    Stockservice__Gap gap = STOCKSERVICE__GAP__INIT;
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;

    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;
    event.update = &update;
    event.time_unix_nano = 1000000;
    event.conflated = 3;
    event.dropped = 4;
    tally_event(&tally, &event, 100, 1500000);
    event.snapshot = 1;
    tally_event(&tally, &event, 100, 900000000);
    event.snapshot = 0;
    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT;
    event.heartbeat = &heartbeat;
    tally_event(&tally, &event, 10, 1500000);
    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_GAP;
    event.gap = &gap;
    gap.updates = 77;
    tally_event(&tally, &event, 20, 1500000);
    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT__NOT_SET;
    tally_event(&tally, &event, 5, 1500000);

    assert_int_equal(tally.updates, 1);
    assert_int_equal(tally.snapshots, 1);
    assert_int_equal(tally.heartbeats, 1);
    assert_int_equal(tally.gaps, 1);
    assert_int_equal(tally.missing, 77);
    assert_int_equal(tally.bytes, 235);
    assert_int_equal(tally.conflated, 15);
    assert_int_equal(tally.dropped, 20);
    /* A snapshot's values are as old as they are: that is no lag. */
    assert_int_equal(tally.lags.count, 1);
    assert_int_equal(tally.lags.max_us, 500);
}

static void an_update_from_the_future_is_new(void **state)
{
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;

    event.time_unix_nano = 2000000;
    assert_int_equal(tally_age_us(&event, 1000000), 0);
    assert_int_equal(tally_age_us(&event, 2000000), 0);
    assert_int_equal(tally_age_us(&event, 5000000), 3000);
}

static void ages_turn(void **state)
{
    static struct tally tally;

    lags_add(&tally.lags, 7);
    tally_turn(&tally);
    assert_int_equal(tally.lags.count, 0);
    assert_int_equal(tally.older.count, 1);
    tally_turn(&tally);
    assert_int_equal(tally.older.count, 0);
}

static void texts_are_short(void **state)
{
    char text[TALLY_TEXT_MAX];

    assert_string_equal(tally_count_text(0, text), "0");
    assert_string_equal(tally_count_text(99999, text), "99999");
    assert_string_equal(tally_count_text(100000, text), "100k");
    assert_string_equal(tally_count_text(999499, text), "999k");
    assert_string_equal(tally_count_text(999500, text), "1.0M");
    assert_string_equal(tally_count_text(12345678, text), "12.3M");
    assert_string_equal(tally_count_text(123456789, text), "123M");
    assert_string_equal(tally_count_text(1.8e19, text), "18.0E");
    assert_string_equal(tally_bytes_text(0, text), "0 B");
    assert_string_equal(tally_bytes_text(999, text), "999 B");
    assert_string_equal(tally_bytes_text(999.7, text), "1.0 kB");
    assert_string_equal(tally_bytes_text(65535, text), "65.5 kB");
    assert_string_equal(tally_bytes_text(123456789, text), "123 MB");
    assert_string_equal(tally_time_text(0, text), "0.0ms");
    assert_string_equal(tally_time_text(310, text), "0.3ms");
    assert_string_equal(tally_time_text(9940, text), "9.9ms");
    assert_string_equal(tally_time_text(9960, text), "10ms");
    assert_string_equal(tally_time_text(999400, text), "999ms");
    assert_string_equal(tally_time_text(999600, text), "1.0s");
    assert_string_equal(tally_time_text(9960000, text), "9s");
    assert_string_equal(tally_time_text(99900000, text), "99s");
    assert_string_equal(tally_time_text(100000000, text), "1m");
    assert_string_equal(tally_time_text(UINT64_C(7200000000), text), "2h");
    assert_string_equal(tally_time_text(UINT64_C(864000000000), text), "10d");
    assert_string_equal(tally_time_text(UINT64_MAX, text), "9999d");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_of_small_ages_are_exact),
        cmocka_unit_test(ages_are_at_most_a_32nd_too_high),
        cmocka_unit_test(what_is_too_old_counts_as_the_highest),
        cmocka_unit_test(two_sets_of_ages_count_as_one),
        cmocka_unit_test(a_steady_rate_is_right_from_its_first_second_on),
        cmocka_unit_test(one_update_is_no_storm),
        cmocka_unit_test(events_are_counted_by_kind),
        cmocka_unit_test(an_update_from_the_future_is_new),
        cmocka_unit_test(ages_turn),
        cmocka_unit_test(texts_are_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
