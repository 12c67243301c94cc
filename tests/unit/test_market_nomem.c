/*
 * The market and subscriptions with the Nth allocation failing, for every N: whoever asked is told,
 * what was there goes on, and nothing leaks.
 */
#include "base/util.h"
#include "failmalloc.h"
#include "market/subscription.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define TICKERS 300
#define SIZE 100

struct fixture {
    uv_loop_t uv; /* nothing but its clock */
    struct loop loop;
    unsigned ready;
};

static size_t encode(void *context, uint8_t *bytes, const struct market_update *update)
{
    memset(bytes, (int)update->sequence, SIZE);
    return SIZE;
}

static void clock_of(void *context, struct market_time *ret_time)
{
    *ret_time = (struct market_time){.now_ms = 1000, .unix_ns = 1};
}

static void on_ready(void *context)
{
    struct fixture *fixture = context;

    fixture->ready++;
}

static void on_cut_off(void *context, enum cut_off_reason reason, const char *text)
{
    fail();
}

static int new_market(struct market **ret_market)
{
    const struct market_options options = {
        .epoch = 1,
        .history_bytes_max = 65536,
        .tickers_max = TICKERS,
        .subscriptions_size_max = 1000000,
        .limits = {.queue_updates_max = 10},
        .encode = encode,
        .clock = clock_of,
    };

    return market_new(ret_market, &options);
}

static int add(struct market *market, unsigned number)
{
    char name[8];
    unsigned ticker = UINT32_MAX;
    int r;

    (void)snprintf(name, sizeof(name), "T%u", number);
    r = market_add_ticker(market, name, &ticker);
    assert_int_equal(ticker, r == 0 ? number : UINT32_MAX);
    return r;
}

static void test_market(void **state)
{
    for (size_t nth = 1;; nth++) {
        struct market *market = NULL;
        bool failed;
        int r;

        failmalloc_arm(nth);
        r = new_market(&market);
        failed = failmalloc_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        assert_true(failed == !market);
        market_free(market);
        if (!failed) {
            assert_true(nth > 3);
            return;
        }
    }
}

static int subscribe(struct fixture *fixture, struct market *market,
                     struct subscription **ret_subscription, enum slow_policy policy,
                     unsigned count)
{
    unsigned tickers[TICKERS];

    for (unsigned i = 0; i < count; i++)
        tickers[i] = i;
    return subscription_new(ret_subscription, market, &fixture->loop,
                            &(struct subscription_options){
                                .tickers = tickers,
                                .ticker_count = count,
                                .policy = policy,
                                .heartbeat_ms = 1000,
                                .ready = on_ready,
                                .cut_off = on_cut_off,
                                .context = fixture,
                            });
}

static void fixture_init(struct fixture *fixture)
{
    *fixture = (struct fixture){.uv.time = 1000};
    fixture->loop.uv = &fixture->uv;
    wheel_init(&fixture->loop.wheel, 1000);
}

static void test_subscription(void **state)
{
    static const unsigned counts[] = {0, 1, 32, 50};
    static struct fixture fixture;
    struct market *market;

    fixture_init(&fixture);
    assert_int_equal(new_market(&market), 0);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(add(market, i), 0);
    for (unsigned i = 0; i < SLOW_POLICY_COUNT * ELEMENTSOF(counts); i++) {
        bool failed = true;

        for (size_t nth = 1; failed; nth++) {
            struct subscription *subscription = NULL;
            int r;

            failmalloc_arm(nth);
            r = subscribe(&fixture, market, &subscription, (enum slow_policy)(i / 4),
                          counts[i % 4]);
            failed = failmalloc_disarm();
            assert_int_equal(r, failed ? -ENOMEM : 0);
            assert_true(failed == !subscription);
            assert_int_equal(market_stats(market)->subscribers[i / 4], !failed);
            subscription_free(subscription);
            assert_int_equal(market_stats(market)->subscriptions_size, 0);
            assert_true(failed || nth > 1);
        }
    }
    assert_int_equal(wheel_next(&fixture.loop.wheel), WHEEL_NEVER);
    market_free(market);
}

/* What does not find room for one ticker more goes on with those it had. */
static void test_tickers(void **state)
{
    static struct fixture fixture;
    struct subscription *subscriptions[3];
    struct subscription_event event;
    struct market *market;
    unsigned refused = 0;

    fixture_init(&fixture);
    assert_int_equal(new_market(&market), 0);
    for (unsigned i = 0; i < ELEMENTSOF(subscriptions); i++) {
        assert_int_equal(subscribe(&fixture, market, &subscriptions[i], SLOW_POLICY_CONFLATE, 0),
                         0);
        assert_false(subscription_peek(subscriptions[i], &event));
    }
    for (unsigned number = 0; number < TICKERS; number++) {
        size_t nth = 1;

        for (;; nth++) {
            unsigned found;
            int r;

            failmalloc_arm(nth);
            r = add(market, number);
            if (!failmalloc_disarm()) {
                assert_int_equal(r, 0);
                break;
            }
            assert_int_equal(r, -ENOMEM);
            assert_false(market_find_ticker(market, "T299", 4, &found));
            assert_int_equal(market_tickers(market), number);
            refused++;
        }
        market_publish(market, number, &(struct market_quote){.price = 1});
        for (unsigned i = 0; i < ELEMENTSOF(subscriptions); i++) {
            assert_true(subscription_peek(subscriptions[i], &event));
            assert_int_equal(event.sequence, number + 2);
            subscription_take(subscriptions[i]);
            assert_false(subscription_peek(subscriptions[i], &event));
        }
    }
    /* At least two of the three, each of the three times that the market doubles; the first has its
     * room when it is tried again. */
    assert_true(refused >= 2 * 3);
    for (unsigned i = 0; i < ELEMENTSOF(subscriptions); i++)
        subscription_free(subscriptions[i]);
    market_free(market);
}

/* Publishing, pulling and sweeping need no memory. */
static void test_nothing_else_allocates(void **state)
{
    static struct fixture fixture;
    struct subscription *subscriptions[SLOW_POLICY_COUNT * 2];
    struct subscription_event event;
    struct market *market;

    fixture_init(&fixture);
    assert_int_equal(new_market(&market), 0);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(add(market, i), 0);
    for (unsigned i = 0; i < ELEMENTSOF(subscriptions); i++)
        assert_int_equal(
            subscribe(&fixture, market, &subscriptions[i], (enum slow_policy)(i / 2), i % 2 * 40),
            0);
    failmalloc_arm(1);
    for (unsigned i = 0; i < 3000; i++) {
        market_publish(market, i % 50, &(struct market_quote){.price = 1});
        for (unsigned j = 0; j < ELEMENTSOF(subscriptions); j++) {
            while (subscription_peek(subscriptions[j], &event))
                subscription_take(subscriptions[j]);
        }
        if (i % 100 == 0)
            market_sweep(market);
    }
    assert_false(failmalloc_disarm());
    assert_true(fixture.ready > 3000);
    for (unsigned i = 0; i < ELEMENTSOF(subscriptions); i++)
        subscription_free(subscriptions[i]);
    market_free(market);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_market),
        cmocka_unit_test(test_subscription),
        cmocka_unit_test(test_tickers),
        cmocka_unit_test(test_nothing_else_allocates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
