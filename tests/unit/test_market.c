/*
 * The market by itself: tickers, what becomes of a quote, and what the history keeps. What
 * subscribers see of it is in test_subscription.c and test_market_model.c.
 */
#include "base/util.h"
#include "market/market.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define EPOCH 77
#define SECOND UINT64_C(1000000000)

struct fixture {
    struct market *market;
    struct market_time now;
    struct market_update encoded; /* the last one */
    char ticker[MARKET_TICKER_SIZE_MAX + 1];
    size_t size; /* of each update */
};

static size_t encode(void *context, uint8_t *bytes, const struct market_update *update)
{
    struct fixture *fixture = context;

    fixture->encoded = *update;
    (void)snprintf(fixture->ticker, sizeof(fixture->ticker), "%s", update->ticker);
    memset(bytes, (int)update->sequence, fixture->size);
    return fixture->size;
}

static void clock_of(void *context, struct market_time *ret_time)
{
    const struct fixture *fixture = context;

    *ret_time = fixture->now;
}

static struct market_options options_of(struct fixture *fixture)
{
    return (struct market_options){
        .epoch = EPOCH,
        .history_bytes_max = 65536,
        .tickers_max = 200,
        .subscriptions_size_max = 100000,
        .limits = {.queue_updates_max = 100},
        .encode = encode,
        .clock = clock_of,
        .context = fixture,
    };
}

static int set_up(void **state)
{
    static struct fixture fixture;
    struct market_options options = options_of(&fixture);

    fixture = (struct fixture){.now = {.now_ms = 1000, .unix_ns = 50 * SECOND}, .size = 100};
    assert_int_equal(market_new(&fixture.market, &options), 0);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    assert_null(market_free(fixture->market));
    return 0;
}

static unsigned add(struct fixture *fixture, const char *name)
{
    unsigned ticker = UINT32_MAX;

    assert_int_equal(market_add_ticker(fixture->market, name, &ticker), 0);
    return ticker;
}

static void publish(struct fixture *fixture, unsigned ticker, double price)
{
    market_publish(fixture->market, ticker, &(struct market_quote){.price = price});
}

static void test_free_takes_null(void **state)
{
    assert_null(market_free(NULL));
}

static void test_tickers_keep_their_index(void **state)
{
    struct fixture *fixture = *state;
    unsigned found;

    assert_int_equal(market_tickers(fixture->market), 0);
    assert_int_equal(add(fixture, "AAPL"), 0);
    assert_int_equal(add(fixture, "MSFT"), 1);
    assert_int_equal(add(fixture, "AAPL"), 0);
    assert_int_equal(market_tickers(fixture->market), 2);
    assert_string_equal(market_ticker_name(fixture->market, 1), "MSFT");
    assert_true(market_find_ticker(fixture->market, "MSFT and more", 4, &found));
    assert_int_equal(found, 1);
}

static void test_what_is_no_ticker_is_not_found(void **state)
{
    struct fixture *fixture = *state;
    char longest[MARKET_TICKER_SIZE_MAX + 2];
    unsigned found = 9;

    memset(longest, 'L', sizeof(longest));
    longest[MARKET_TICKER_SIZE_MAX] = '\0';
    assert_int_equal(add(fixture, longest), 0);
    assert_true(market_find_ticker(fixture->market, longest, MARKET_TICKER_SIZE_MAX, &found));
    longest[MARKET_TICKER_SIZE_MAX] = 'L';
    found = 9;
    assert_false(market_find_ticker(fixture->market, longest, sizeof(longest), &found));
    assert_false(market_find_ticker(fixture->market, longest, sizeof(longest) - 3, &found));
    assert_false(market_find_ticker(fixture->market, "", 0, &found));
    add(fixture, "A");
    assert_false(market_find_ticker(fixture->market, "A\0B", 3, &found));
    assert_false(market_find_ticker(fixture->market, "a", 1, &found));
    assert_int_equal(found, 9);
}

static void test_names_have_rules(void **state)
{
    static const char *const bad[] = {
        "",    "A B",  "A,B",   "A;B",      "\"A\"", "'A'",
        "`A`", "A\tB", "A\x7f", "\xc3\xa4", "A\n",   "123456789012345678901234567890123",
    };
    static const char *const good[] = {"BRK.B", "^GSPC", "EUR/USD",
                                       "~",     "!",     "12345678901234567890123456789012"};
    struct fixture *fixture = *state;
    unsigned ticker = 9;

    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        assert_int_equal(market_add_ticker(fixture->market, bad[i], &ticker), MARKET_BAD_TICKER);
    assert_int_equal(ticker, 9);
    for (size_t i = 0; i < ELEMENTSOF(good); i++)
        assert_int_equal(add(fixture, good[i]), i);
}

static void test_full(void **state)
{
    struct fixture *fixture = *state;
    char name[16];
    unsigned ticker = 9;

    for (unsigned i = 0; i < 200; i++) {
        (void)snprintf(name, sizeof(name), "T%u", i);
        assert_int_equal(add(fixture, name), i);
    }
    assert_int_equal(market_add_ticker(fixture->market, "MORE", &ticker), MARKET_FULL);
    assert_int_equal(ticker, 9);
    assert_int_equal(add(fixture, "T7"), 7);
    for (unsigned i = 0; i < 200; i++) {
        size_t size = (size_t)snprintf(name, sizeof(name), "T%u", i);

        assert_true(market_find_ticker(fixture->market, name, size, &ticker));
        assert_int_equal(ticker, i);
    }
}

static void test_first_quote_opens(void **state)
{
    struct fixture *fixture = *state;
    const struct walk_step *values = &fixture->encoded.values;

    add(fixture, "AAPL");
    publish(fixture, 0, 150);
    assert_int_equal(fixture->encoded.epoch, EPOCH);
    assert_int_equal(fixture->encoded.sequence, market_sequence(fixture->market));
    assert_string_equal(fixture->ticker, "AAPL");
    assert_float_equal(values->price, 150, 0);
    assert_float_equal(values->open, 150, 0);
    assert_float_equal(values->change, 0, 0);
    assert_float_equal(values->change_percent, 0, 0);
    assert_float_equal(values->high, 150, 0);
    assert_float_equal(values->low, 150, 0);
    assert_int_equal(fixture->encoded.second, 50);
    assert_int_equal(fixture->encoded.unix_ns, 50 * SECOND);
}

static void test_change_is_to_the_price_before(void **state)
{
    struct fixture *fixture = *state;
    const struct walk_step *values = &fixture->encoded.values;

    add(fixture, "AAPL");
    add(fixture, "MSFT");
    publish(fixture, 0, 150);
    publish(fixture, 1, 10);
    publish(fixture, 0, 120);
    assert_float_equal(values->change, -30, 0);
    assert_float_equal(values->change_percent, -20, 0);
    assert_float_equal(values->open, 150, 0);
    publish(fixture, 0, 180);
    assert_float_equal(values->change_percent, 50, 0);
    assert_float_equal(values->open, 150, 0);
    publish(fixture, 1, 11);
    assert_float_equal(values->change, 1, 0);
    assert_float_equal(values->open, 10, 0);
}

static void test_quote_says_the_rest(void **state)
{
    struct fixture *fixture = *state;
    const struct market_quote quote = {
        .price = 5,
        .high = 6,
        .low = 4,
        .volume = 17,
        .market_cap = 1234,
        .timed = true,
        .second = -3,
    };

    add(fixture, "AAPL");
    market_publish(fixture->market, 0, &quote);
    assert_float_equal(fixture->encoded.values.high, 6, 0);
    assert_float_equal(fixture->encoded.values.low, 4, 0);
    assert_int_equal(fixture->encoded.values.volume, 17);
    assert_int_equal(fixture->encoded.values.market_cap, 1234);
    assert_int_equal(fixture->encoded.second, -3);
    assert_int_equal(fixture->encoded.unix_ns, 50 * SECOND);
}

static void test_state_of_a_ticker(void **state)
{
    struct fixture *fixture = *state;
    struct market_ticker_state now;
    uint8_t expected[100];

    add(fixture, "AAPL");
    add(fixture, "MSFT");
    market_ticker_state(fixture->market, 1, &now);
    assert_int_equal(now.updates, 0);
    assert_int_equal(now.sequence, 0);
    assert_int_equal(now.size, 0);
    assert_float_equal(now.price, 0, 0);
    publish(fixture, 1, 10);
    publish(fixture, 0, 150);
    publish(fixture, 1, 12);
    market_ticker_state(fixture->market, 1, &now);
    assert_int_equal(now.updates, 2);
    assert_int_equal(now.sequence, market_sequence(fixture->market));
    assert_float_equal(now.price, 12, 0);
    assert_int_equal(now.size, sizeof(expected));
    memset(expected, (int)now.sequence, sizeof(expected));
    assert_memory_equal(now.bytes, expected, sizeof(expected));
}

static void test_sequences(void **state)
{
    struct fixture *fixture = *state;

    add(fixture, "AAPL");
    assert_int_equal(market_epoch(fixture->market), EPOCH);
    assert_int_equal(market_sequence(fixture->market), 1);
    assert_int_equal(market_first_sequence(fixture->market), 2);
    publish(fixture, 0, 1);
    publish(fixture, 0, 2);
    assert_int_equal(market_sequence(fixture->market), 3);
    assert_int_equal(market_first_sequence(fixture->market), 2);
    assert_int_equal(market_stats(fixture->market)->updates_total, 2);
}

/* As much is kept as there is room for, and the oldest goes. */
static void test_history_is_bounded_by_bytes(void **state)
{
    struct fixture *fixture = *state;
    const struct market_stats *stats = market_stats(fixture->market);

    add(fixture, "AAPL");
    for (unsigned i = 0; i < 5000; i++) {
        fixture->size = 64 + i * 7 % (MARKET_EVENT_SIZE_MAX - 63);
        publish(fixture, 0, 1);
        assert_true(market_stats(fixture->market)->history_bytes <= 65536);
        if (market_first_sequence(fixture->market) > 2)
            assert_true(stats->history_bytes > 65536 - 2 * MARKET_EVENT_SIZE_MAX);
    }
    assert_true(market_first_sequence(fixture->market) > 4000);
    assert_int_equal(stats->history_updates,
                     market_sequence(fixture->market) + 1 - market_first_sequence(fixture->market));
}

/* Tiny updates need entries, of which there are not without end. */
static void test_history_is_bounded_by_updates(void **state)
{
    struct fixture *fixture = *state;

    add(fixture, "AAPL");
    fixture->size = 1;
    for (unsigned i = 0; i < 100000; i++)
        publish(fixture, 0, 1);
    assert_in_range(market_stats(fixture->market)->history_updates, 65536 / 128 - 1, 65536 / 64);
}

static void test_history_is_bounded_by_age(void **state)
{
    struct fixture *fixture = *state;
    struct market_options options = options_of(fixture);

    fixture->market = market_free(fixture->market);
    options.history_age_ms = 500;
    assert_int_equal(market_new(&fixture->market, &options), 0);
    add(fixture, "AAPL");
    publish(fixture, 0, 1);
    fixture->now.now_ms += 400;
    publish(fixture, 0, 2);
    fixture->now.now_ms += 100;
    market_sweep(fixture->market);
    assert_int_equal(market_first_sequence(fixture->market), 2);
    fixture->now.now_ms += 1;
    market_sweep(fixture->market);
    assert_int_equal(market_first_sequence(fixture->market), 3);
    assert_int_equal(market_stats(fixture->market)->history_bytes, 100);
    fixture->now.now_ms += 5000;
    market_sweep(fixture->market);
    assert_int_equal(market_first_sequence(fixture->market), 4);
    assert_int_equal(market_stats(fixture->market)->history_updates, 0);
    assert_int_equal(market_stats(fixture->market)->history_bytes, 0);
    publish(fixture, 0, 3);
    assert_int_equal(market_stats(fixture->market)->history_updates, 1);
}

static void test_labels(void **state)
{
    assert_string_equal(slow_policy_labels[SLOW_POLICY_DROP_OLDEST], "drop_oldest");
    assert_string_equal(cut_off_reason_labels[CUT_OFF_MAX_QUEUE], "max_queue");
    assert_string_equal(resume_outcome_labels[RESUME_COMPLETE], "complete");
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_takes_null),
        TEST(test_tickers_keep_their_index),
        TEST(test_what_is_no_ticker_is_not_found),
        TEST(test_names_have_rules),
        TEST(test_full),
        TEST(test_first_quote_opens),
        TEST(test_change_is_to_the_price_before),
        TEST(test_quote_says_the_rest),
        TEST(test_state_of_a_ticker),
        TEST(test_sequences),
        TEST(test_history_is_bounded_by_bytes),
        TEST(test_history_is_bounded_by_updates),
        TEST(test_history_is_bounded_by_age),
        cmocka_unit_test(test_labels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
