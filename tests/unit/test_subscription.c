/*
 * What a subscriber sees, case by case, as market/subscription.h promises it. All of it together,
 * with chance in command, is in test_market_model.c.
 */
#include "base/util.h"
#include "market/subscription.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define EPOCH 77
#define TICKERS 40
#define SIZE 200
#define KEPT (65536 / SIZE) /* updates that the history has room for, about */

struct fixture {
    uv_loop_t uv; /* nothing but its clock */
    struct loop loop;
    struct market *market;
    struct market_options options;
};

/* A subscriber, and what it was told. */
struct subscriber {
    struct subscription *subscription;
    unsigned ready;
    unsigned cut_offs;
    enum cut_off_reason reason;
    char text[256];
    uint64_t unsent;
    struct subscriber *frees[2]; /* when it is told of anything */
};

static size_t encode(void *context, uint8_t *bytes, const struct market_update *update)
{
    memset(bytes, (int)update->sequence, SIZE);
    return SIZE;
}

static void clock_of(void *context, struct market_time *ret_time)
{
    const struct fixture *fixture = context;

    *ret_time = (struct market_time){.now_ms = fixture->uv.time, .unix_ns = 1};
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    char name[8];
    unsigned ticker;

    assert_non_null(fixture);
    fixture->uv.time = 100000;
    fixture->loop.uv = &fixture->uv;
    wheel_init(&fixture->loop.wheel, fixture->uv.time);
    fixture->options = (struct market_options){
        .epoch = EPOCH,
        .history_bytes_max = 65536,
        .tickers_max = 1000,
        .subscriptions_size_max = 100000,
        .limits = {.queue_updates_max = 100},
        .encode = encode,
        .clock = clock_of,
        .context = fixture,
    };
    assert_int_equal(market_new(&fixture->market, &fixture->options), 0);
    for (unsigned i = 0; i < TICKERS; i++) {
        (void)snprintf(name, sizeof(name), "T%u", i);
        assert_int_equal(market_add_ticker(fixture->market, name, &ticker), 0);
    }
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(market_stats(fixture->market)->subscriptions_size, 0);
    assert_int_equal(wheel_next(&fixture->loop.wheel), WHEEL_NEVER);
    fixture->market = market_free(fixture->market);
    free(fixture);
    return 0;
}

static void subscriber_free(struct subscriber *subscriber)
{
    subscriber->subscription = subscription_free(subscriber->subscription);
}

static void free_others(struct subscriber *subscriber)
{
    for (unsigned i = 0; i < ELEMENTSOF(subscriber->frees); i++) {
        if (subscriber->frees[i])
            subscriber_free(subscriber->frees[i]);
    }
}

static void on_ready(void *context)
{
    struct subscriber *subscriber = context;

    subscriber->ready++;
    free_others(subscriber);
}

static void on_cut_off(void *context, enum cut_off_reason reason, const char *text)
{
    struct subscriber *subscriber = context;

    subscriber->cut_offs++;
    subscriber->reason = reason;
    (void)snprintf(subscriber->text, sizeof(subscriber->text), "%s", text);
    free_others(subscriber);
}

static uint64_t unsent(void *context)
{
    const struct subscriber *subscriber = context;

    return subscriber->unsent;
}

static int try_subscribe(struct fixture *fixture, struct subscriber *subscriber,
                         struct subscription_options options)
{
    *subscriber = (struct subscriber){0};
    options.ready = on_ready;
    options.cut_off = on_cut_off;
    options.unsent = unsent;
    options.context = subscriber;
    return subscription_new(&subscriber->subscription, fixture->market, &fixture->loop, &options);
}

static void subscribe(struct fixture *fixture, struct subscriber *subscriber,
                      struct subscription_options options)
{
    assert_int_equal(try_subscribe(fixture, subscriber, options), 0);
}

/* Publishes an update; its sequence. */
static uint64_t publish(struct fixture *fixture, unsigned ticker)
{
    market_publish(fixture->market, ticker, &(struct market_quote){.price = 1 + ticker});
    return market_sequence(fixture->market);
}

static void publish_many(struct fixture *fixture, unsigned ticker, unsigned count)
{
    while (count-- > 0)
        (void)publish(fixture, ticker);
}

static void wait_ms(struct fixture *fixture, uint64_t ms)
{
    fixture->uv.time += ms;
    wheel_advance(&fixture->loop.wheel, fixture->uv.time, 1000);
}

/* Takes the next event, which there must be. */
static struct subscription_event next(struct subscriber *subscriber)
{
    struct subscription_event event;

    assert_true(subscription_peek(subscriber->subscription, &event));
    subscription_take(subscriber->subscription);
    return event;
}

static void assert_nothing(struct subscriber *subscriber)
{
    struct subscription_event event;

    assert_false(subscription_peek(subscriber->subscription, &event));
}

/* The next event is this update, with nothing left out before it. */
static void assert_update(struct subscriber *subscriber, uint64_t sequence)
{
    struct subscription_event event;
    uint8_t bytes[SIZE];

    assert_true(subscription_peek(subscriber->subscription, &event));
    assert_int_equal(event.kind, SUBSCRIPTION_UPDATE);
    assert_int_equal(event.sequence, sequence);
    assert_int_equal(event.size, SIZE);
    memset(bytes, (int)sequence, SIZE);
    assert_memory_equal(event.bytes, bytes, SIZE);
    assert_int_equal(event.conflated, 0);
    assert_int_equal(event.dropped, 0);
    subscription_take(subscriber->subscription);
}

static void assert_heartbeat(struct subscriber *subscriber, uint64_t sequence)
{
    struct subscription_event event = next(subscriber);

    assert_int_equal(event.kind, SUBSCRIPTION_HEARTBEAT);
    assert_int_equal(event.sequence, sequence);
}

static void assert_cut_off(struct fixture *fixture, struct subscriber *subscriber,
                           enum cut_off_reason reason)
{
    market_sweep(fixture->market);
    assert_int_equal(subscriber->cut_offs, 1);
    assert_int_equal(subscriber->reason, reason);
    assert_int_equal(market_stats(fixture->market)->cut_off_total[reason], 1);
    assert_nothing(subscriber);
    subscriber_free(subscriber);
}

static void assert_not_cut_off(struct fixture *fixture, const struct subscriber *subscriber)
{
    market_sweep(fixture->market);
    assert_int_equal(subscriber->cut_offs, 0);
}

/* ---- Each update ---- */

static void test_order_of_all(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    (void)publish(fixture, 0);
    subscribe(fixture, &subscriber, (struct subscription_options){0});
    assert_nothing(&subscriber);
    (void)publish(fixture, 3);
    (void)publish(fixture, 1);
    (void)publish(fixture, 3);
    for (uint64_t i = 3; i <= 5; i++)
        assert_update(&subscriber, i);
    assert_nothing(&subscriber);
    assert_int_equal(subscriber.ready, 1);
    (void)publish(fixture, 2);
    assert_int_equal(subscriber.ready, 2);
    subscriber_free(&subscriber);
}

/* Few tickers, and so many that it looks for them. */
static void test_order_of_some(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber few, many;
    unsigned tickers[TICKERS - 1];

    for (unsigned i = 0; i < ELEMENTSOF(tickers); i++)
        tickers[i] = TICKERS - 1 - i; /* all but 0 */
    subscribe(fixture, &few, (struct subscription_options){.tickers = tickers, .ticker_count = 2});
    subscribe(
        fixture, &many,
        (struct subscription_options){.tickers = tickers, .ticker_count = ELEMENTSOF(tickers)});
    assert_nothing(&few);
    assert_nothing(&many);
    (void)publish(fixture, 0);
    assert_int_equal(few.ready + many.ready, 0);
    (void)publish(fixture, 5);
    assert_int_equal(few.ready, 0);
    assert_int_equal(many.ready, 1);
    (void)publish(fixture, TICKERS - 1);
    (void)publish(fixture, 0);
    (void)publish(fixture, TICKERS - 2);
    (void)publish(fixture, TICKERS - 1);
    assert_int_equal(few.ready, 1);
    assert_int_equal(many.ready, 1);
    assert_update(&few, 4);
    assert_update(&few, 6);
    assert_update(&few, 7);
    assert_nothing(&few);
    assert_update(&many, 3);
    assert_update(&many, 4);
    assert_update(&many, 6);
    assert_update(&many, 7);
    assert_nothing(&many);
    subscriber_free(&few);
    subscriber_free(&many);
}

static void test_peek_changes_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_event event;
    struct subscriber subscriber;

    subscribe(fixture, &subscriber, (struct subscription_options){0});
    publish_many(fixture, 0, 2);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(subscription_peek(subscriber.subscription, &event));
        assert_int_equal(event.sequence, 2);
    }
    assert_update(&subscriber, 2);
    assert_update(&subscriber, 3);
    subscriber_free(&subscriber);
}

static void test_drop_oldest(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_event event;
    struct subscriber subscriber;

    subscribe(fixture, &subscriber,
              (struct subscription_options){.policy = SLOW_POLICY_DROP_OLDEST, .max_queue = 3});
    publish_many(fixture, 0, 10);
    event = next(&subscriber);
    assert_int_equal(event.sequence, 9);
    assert_int_equal(event.dropped, 7);
    assert_update(&subscriber, 10);
    assert_update(&subscriber, 11);
    assert_nothing(&subscriber);
    assert_int_equal(market_stats(fixture->market)->dropped_total, 7);
    /* What the history has lost is dropped as well. */
    publish_many(fixture, 0, 2 * KEPT);
    event = next(&subscriber);
    assert_int_equal(event.dropped, 2 * KEPT - 3);
    assert_not_cut_off(fixture, &subscriber);
    subscriber_free(&subscriber);
}

/* What nobody could be told any more is in the totals all the same. */
static void test_totals_of_who_leaves(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_event event;
    struct subscriber dropping, merging;

    subscribe(fixture, &dropping,
              (struct subscription_options){.policy = SLOW_POLICY_DROP_OLDEST, .max_queue = 3});
    subscribe(fixture, &merging, (struct subscription_options){.policy = SLOW_POLICY_CONFLATE});
    publish_many(fixture, 0, 10);
    assert_true(subscription_peek(dropping.subscription, &event));
    assert_true(subscription_peek(merging.subscription, &event));
    subscriber_free(&dropping);
    subscriber_free(&merging);
    assert_int_equal(market_stats(fixture->market)->dropped_total, 7);
    assert_int_equal(market_stats(fixture->market)->conflated_total, 9);
}

/* The market's limit is the most that anybody gets, also when it changes. */
static void test_max_queue_is_limited(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber one, other;
    struct market_limits limits = {.queue_updates_max = 5};

    subscribe(fixture, &one, (struct subscription_options){.policy = SLOW_POLICY_DROP_OLDEST});
    subscribe(fixture, &other,
              (struct subscription_options){.policy = SLOW_POLICY_DROP_OLDEST, .max_queue = 200});
    publish_many(fixture, 0, 150);
    assert_int_equal(next(&one).dropped, 50);
    market_set_limits(fixture->market, &limits);
    assert_int_equal(next(&one).dropped, 94);
    assert_int_equal(next(&other).dropped, 145);
    subscriber_free(&one);
    subscriber_free(&other);
}

/* ---- Beginnings ---- */

static void test_snapshot(void **state)
{
    struct fixture *fixture = *state;
    const unsigned tickers[] = {7, 3, 5, 1};
    struct subscription_event event;
    struct subscriber subscriber;

    (void)publish(fixture, 7);
    (void)publish(fixture, 2);
    (void)publish(fixture, 3);
    (void)publish(fixture, 5);
    subscribe(fixture, &subscriber,
              (struct subscription_options){
                  .tickers = tickers, .ticker_count = ELEMENTSOF(tickers), .snapshot = true});
    event = next(&subscriber);
    assert_int_equal(event.sequence, 4); /* of ticker 3 */
    assert_true(event.snapshot);
    assert_int_equal(event.published_ms, 0);
    (void)publish(fixture, 5); /* comes by itself, later */
    event = next(&subscriber);
    assert_int_equal(event.sequence, 2); /* of ticker 7 */
    assert_true(event.snapshot);
    assert_heartbeat(&subscriber, 5);
    assert_update(&subscriber, 6);
    assert_nothing(&subscriber);
    assert_int_equal(market_stats(fixture->market)->heartbeats_total, 1);
    subscriber_free(&subscriber);
}

static void test_snapshot_of_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    subscribe(fixture, &subscriber, (struct subscription_options){.snapshot = true});
    assert_heartbeat(&subscriber, 1);
    assert_nothing(&subscriber);
    assert_int_equal(publish(fixture, 0), 2);
    assert_update(&subscriber, 2);
    subscriber_free(&subscriber);
}

static void test_resume(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_options options = {.resume = true, .resume_epoch = EPOCH, .snapshot = true};
    struct subscriber subscriber;

    publish_many(fixture, 0, 5);
    options.resume_sequence = 4;
    subscribe(fixture, &subscriber, options);
    assert_update(&subscriber, 5);
    assert_update(&subscriber, 6);
    assert_nothing(&subscriber);
    subscriber_free(&subscriber);
    options.resume_sequence = 6; /* nothing is missing */
    subscribe(fixture, &subscriber, options);
    assert_nothing(&subscriber);
    subscriber_free(&subscriber);
    options.resume_sequence = 0; /* from before the first */
    subscribe(fixture, &subscriber, options);
    assert_update(&subscriber, 2);
    subscriber_free(&subscriber);
    assert_int_equal(market_stats(fixture->market)->resumes_total[RESUME_COMPLETE], 3);
}

static void test_resume_behind_the_newest(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    publish_many(fixture, 0, 5);
    assert_int_equal(try_subscribe(fixture, &subscriber,
                                   (struct subscription_options){.resume = true,
                                                                 .resume_epoch = EPOCH,
                                                                 .resume_sequence = 7}),
                     SUBSCRIPTION_AHEAD);
    assert_null(subscriber.subscription);
    assert_int_equal(market_stats(fixture->market)->resumes_total[RESUME_AHEAD], 1);
}

static void test_resume_from_what_is_gone(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_options options = {.resume = true, .resume_epoch = EPOCH};
    struct subscription_event event;
    struct subscriber subscriber;
    uint64_t first, last;

    publish_many(fixture, 0, 3 * KEPT);
    first = market_first_sequence(fixture->market);
    last = market_sequence(fixture->market);
    options.resume_sequence = first - 1; /* just there */
    subscribe(fixture, &subscriber, options);
    assert_update(&subscriber, first);
    subscriber_free(&subscriber);
    options.resume_sequence = first - 2;
    subscribe(fixture, &subscriber, options);
    event = next(&subscriber);
    assert_int_equal(event.kind, SUBSCRIPTION_GAP);
    assert_int_equal(event.gap_reason, RESUME_HISTORY);
    assert_int_equal(event.gap_from, first - 1);
    assert_int_equal(event.gap_to, last);
    assert_int_equal(event.gap_updates, last - first + 2);
    assert_int_equal(event.sequence, last);
    event = next(&subscriber);
    assert_true(event.snapshot);
    assert_int_equal(event.sequence, last);
    assert_heartbeat(&subscriber, last);
    assert_nothing(&subscriber);
    assert_int_equal(market_stats(fixture->market)->gaps_total, 1);
    assert_int_equal(market_stats(fixture->market)->resumes_total[RESUME_HISTORY], 1);
    subscriber_free(&subscriber);
}

static void test_resume_in_another_epoch(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_event event;
    struct subscriber subscriber;

    publish_many(fixture, 0, 5);
    subscribe(fixture, &subscriber,
              (struct subscription_options){
                  .resume = true, .resume_epoch = EPOCH + 1, .resume_sequence = 1000});
    event = next(&subscriber);
    assert_int_equal(event.kind, SUBSCRIPTION_GAP);
    assert_int_equal(event.gap_reason, RESUME_EPOCH);
    assert_int_equal(event.gap_from, 1001);
    assert_int_equal(event.gap_to, 0);
    assert_int_equal(event.gap_updates, 0);
    assert_true(next(&subscriber).snapshot);
    assert_heartbeat(&subscriber, 6);
    subscriber_free(&subscriber);
    assert_int_equal(market_stats(fixture->market)->resumes_total[RESUME_EPOCH], 1);
}

/* ---- Merging ---- */

static void test_conflation(void **state)
{
    struct fixture *fixture = *state;
    const unsigned tickers[] = {2, 1};
    struct subscription_event event;

    /* Few, and all. */
    for (unsigned count = 0; count <= 2; count += 2) {
        struct subscriber subscriber;
        uint64_t before = market_sequence(fixture->market);

        subscribe(fixture, &subscriber,
                  (struct subscription_options){
                      .tickers = tickers, .ticker_count = count, .policy = SLOW_POLICY_CONFLATE});
        assert_nothing(&subscriber);
        (void)publish(fixture, 2);
        publish_many(fixture, 1, 3);
        (void)publish(fixture, 2);
        assert_int_equal(subscriber.ready, 1);
        event = next(&subscriber);
        assert_int_equal(event.sequence, before + 4);
        assert_int_equal(event.conflated, 3); /* two of 1, one of 2, which still waits */
        assert_int_equal(event.resume_sequence, before);
        event = next(&subscriber);
        assert_int_equal(event.sequence, before + 5);
        assert_int_equal(event.conflated, 0);
        assert_int_equal(event.resume_sequence, 0);
        assert_nothing(&subscriber);
        subscriber_free(&subscriber);
    }
    assert_int_equal(market_stats(fixture->market)->conflated_total, 6);
}

/* A busy ticker does not keep the others waiting, however fast it changes. */
static void test_turns(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;
    uint64_t quiet;

    subscribe(fixture, &subscriber, (struct subscription_options){.policy = SLOW_POLICY_CONFLATE});
    (void)publish(fixture, 0);
    quiet = publish(fixture, 9);
    assert_int_equal(next(&subscriber).sequence, 2);
    (void)publish(fixture, 0);
    assert_int_equal(next(&subscriber).sequence, quiet);
    assert_int_equal(next(&subscriber).sequence, quiet + 1);
    assert_nothing(&subscriber);
    subscriber_free(&subscriber);
}

static void test_conflation_drops_the_next_turn(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_event event;
    struct subscriber subscriber;

    subscribe(fixture, &subscriber,
              (struct subscription_options){
                  .policy = SLOW_POLICY_DROP_OLDEST, .min_interval_ms = 10, .max_queue = 2});
    assert_nothing(&subscriber);
    (void)publish(fixture, 4);
    (void)publish(fixture, 4);
    (void)publish(fixture, 6);
    (void)publish(fixture, 5);
    event = next(&subscriber);
    assert_int_equal(event.sequence, 5); /* of ticker 5 */
    assert_int_equal(event.dropped, 1);
    assert_int_equal(event.conflated, 1);
    assert_int_equal(next(&subscriber).sequence, 4);
    assert_nothing(&subscriber);
    subscriber_free(&subscriber);
}

static void test_least_interval(void **state)
{
    struct fixture *fixture = *state;
    const unsigned ticker = 3;

    for (unsigned count = 0; count <= 1; count++) {
        struct subscriber subscriber;
        uint64_t last;

        subscribe(fixture, &subscriber,
                  (struct subscription_options){
                      .tickers = &ticker, .ticker_count = count, .min_interval_ms = 100});
        assert_nothing(&subscriber);
        last = publish(fixture, 3);
        assert_int_equal(subscriber.ready, 1);
        assert_update(&subscriber, last); /* the first at once */
        (void)publish(fixture, 3);
        assert_nothing(&subscriber);
        wait_ms(fixture, 99);
        last = publish(fixture, 3);
        assert_nothing(&subscriber);
        assert_int_equal(subscriber.ready, 1);
        wait_ms(fixture, 1);
        assert_int_equal(subscriber.ready, 2);
        assert_int_equal(next(&subscriber).sequence, last);
        assert_nothing(&subscriber);
        /* An update that finds it asleep sets the timer, too. */
        (void)publish(fixture, 3);
        assert_int_equal(subscriber.ready, 2);
        wait_ms(fixture, 100);
        assert_int_equal(subscriber.ready, 3);
        subscriber_free(&subscriber);
    }
}

/* The bits of all tickers grow with the market. */
static void test_tickers_that_come_later(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber conflating, blocking;
    char name[8];
    unsigned ticker = 0;
    uint64_t size, last = 0;

    subscribe(fixture, &conflating, (struct subscription_options){.policy = SLOW_POLICY_CONFLATE});
    subscribe(fixture, &blocking, (struct subscription_options){0});
    size = market_stats(fixture->market)->subscriptions_size;
    (void)publish(fixture, 0);
    for (unsigned i = TICKERS; i < 700; i++) {
        (void)snprintf(name, sizeof(name), "T%u", i);
        assert_int_equal(market_add_ticker(fixture->market, name, &ticker), 0);
        last = publish(fixture, ticker);
        assert_update(&blocking, last - 1);
    }
    assert_int_equal(market_stats(fixture->market)->subscriptions_size, size + (16 - 1) * 8);
    for (uint64_t i = 2; i <= last; i++)
        assert_int_equal(next(&conflating).sequence, i);
    assert_nothing(&conflating);
    subscriber_free(&conflating);
    subscriber_free(&blocking);
}

/* ---- Heartbeats ---- */

static void test_heartbeats(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    subscribe(fixture, &subscriber, (struct subscription_options){.heartbeat_ms = 1000});
    assert_nothing(&subscriber);
    wait_ms(fixture, 999);
    assert_int_equal(subscriber.ready, 0);
    assert_nothing(&subscriber);
    wait_ms(fixture, 101);
    assert_int_equal(subscriber.ready, 1);
    assert_heartbeat(&subscriber, 1);
    assert_nothing(&subscriber);
    /* Whatever was sent puts off the next. */
    wait_ms(fixture, 800);
    (void)publish(fixture, 0);
    assert_update(&subscriber, 2);
    assert_nothing(&subscriber);
    wait_ms(fixture, 900);
    assert_nothing(&subscriber);
    wait_ms(fixture, 200);
    assert_int_equal(subscriber.ready, 3);
    assert_heartbeat(&subscriber, 2);
    assert_int_equal(market_stats(fixture->market)->heartbeats_total, 2);
    subscriber_free(&subscriber);
}

/* ---- Limits ---- */

static void test_history_is_the_last_limit(void **state)
{
    struct fixture *fixture = *state;
    const unsigned ticker = 0;

    for (unsigned count = 0; count <= 1; count++) {
        struct subscriber subscriber;

        subscribe(fixture, &subscriber,
                  (struct subscription_options){.tickers = &ticker, .ticker_count = count});
        (void)publish(fixture, 0);
        publish_many(fixture, 1, 2 * KEPT);
        assert_nothing(&subscriber); /* it would not be the next one */
        (void)publish(fixture, 0);
        market_sweep(fixture->market);
        assert_int_equal(subscriber.cut_offs, 1);
        assert_int_equal(subscriber.reason, CUT_OFF_HISTORY);
        subscriber_free(&subscriber);
    }
    assert_int_equal(market_stats(fixture->market)->cut_off_total[CUT_OFF_HISTORY], 2);
}

static void test_hard_bytes(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    fixture->options.limits.hard_bytes = 10 * SIZE;
    market_set_limits(fixture->market, &fixture->options.limits);
    subscribe(fixture, &subscriber, (struct subscription_options){0});
    publish_many(fixture, 0, 10);
    assert_not_cut_off(fixture, &subscriber);
    subscriber.unsent = 1; /* what the socket holds counts, too */
    assert_cut_off(fixture, &subscriber, CUT_OFF_HARD_BYTES);
    assert_non_null(strstr(subscriber.text, "2001"));
    assert_non_null(strstr(subscriber.text, "2000"));
}

static void test_hard_age(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    fixture->options.limits.hard_age_ms = 500;
    market_set_limits(fixture->market, &fixture->options.limits);
    subscribe(fixture, &subscriber, (struct subscription_options){0});
    wait_ms(fixture, 5000); /* nothing waits */
    (void)publish(fixture, 0);
    wait_ms(fixture, 500);
    assert_not_cut_off(fixture, &subscriber);
    wait_ms(fixture, 1);
    assert_cut_off(fixture, &subscriber, CUT_OFF_HARD_AGE);
    assert_non_null(strstr(subscriber.text, "501"));
}

static void test_soft_limits_give_time(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber disconnect, block;

    fixture->options.limits.soft_bytes = 3 * SIZE;
    fixture->options.limits.soft_time_ms = 1000;
    market_set_limits(fixture->market, &fixture->options.limits);
    subscribe(fixture, &disconnect,
              (struct subscription_options){.policy = SLOW_POLICY_DISCONNECT});
    subscribe(fixture, &block, (struct subscription_options){0});
    publish_many(fixture, 0, 4);
    assert_not_cut_off(fixture, &disconnect);
    wait_ms(fixture, 999);
    assert_not_cut_off(fixture, &disconnect);
    /* It catches up: the time begins anew. */
    for (uint64_t i = 2; i <= 5; i++)
        assert_update(&disconnect, i);
    assert_nothing(&disconnect);
    publish_many(fixture, 0, 4);
    assert_not_cut_off(fixture, &disconnect);
    wait_ms(fixture, 1000);
    assert_cut_off(fixture, &disconnect, CUT_OFF_SOFT_BYTES);
    assert_int_equal(block.cut_offs, 0);
    subscriber_free(&block);
}

static void test_soft_age(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    fixture->options.limits.soft_age_ms = 300;
    fixture->options.limits.soft_time_ms = 1000;
    market_set_limits(fixture->market, &fixture->options.limits);
    subscribe(fixture, &subscriber,
              (struct subscription_options){.policy = SLOW_POLICY_DISCONNECT});
    (void)publish(fixture, 0);
    wait_ms(fixture, 301);
    assert_not_cut_off(fixture, &subscriber);
    wait_ms(fixture, 1000);
    assert_cut_off(fixture, &subscriber, CUT_OFF_SOFT_AGE);
}

static void test_max_queue_disconnects(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    subscribe(fixture, &subscriber,
              (struct subscription_options){.policy = SLOW_POLICY_DISCONNECT, .max_queue = 4});
    publish_many(fixture, 0, 4);
    assert_not_cut_off(fixture, &subscriber);
    (void)publish(fixture, 0);
    assert_cut_off(fixture, &subscriber, CUT_OFF_MAX_QUEUE);
}

/* Who resumes is not measured before it has got what was there. */
static void test_catching_up_is_no_sin(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscriber;

    fixture->options.limits.hard_bytes = 3 * SIZE;
    market_set_limits(fixture->market, &fixture->options.limits);
    publish_many(fixture, 0, 50);
    subscribe(
        fixture, &subscriber,
        (struct subscription_options){.resume = true, .resume_epoch = EPOCH, .resume_sequence = 1});
    publish_many(fixture, 0, 10);
    for (uint64_t i = 2; i <= 51; i++) {
        assert_not_cut_off(fixture, &subscriber);
        assert_update(&subscriber, i);
    }
    assert_cut_off(fixture, &subscriber, CUT_OFF_HARD_BYTES);
}

/* Their queues cannot grow. */
static void test_some_are_never_cut_off(void **state)
{
    struct fixture *fixture = *state;
    const struct subscription_options options[] = {
        {.policy = SLOW_POLICY_CONFLATE},
        {.policy = SLOW_POLICY_DROP_OLDEST},
        {.policy = SLOW_POLICY_DISCONNECT, .min_interval_ms = 10},
        {.policy = SLOW_POLICY_BLOCK, .min_interval_ms = 10},
    };
    struct subscriber subscribers[ELEMENTSOF(options)];

    fixture->options.limits = (struct market_limits){
        .queue_updates_max = 1, .soft_bytes = 1, .hard_bytes = 1, .hard_age_ms = 1};
    market_set_limits(fixture->market, &fixture->options.limits);
    for (unsigned i = 0; i < ELEMENTSOF(options); i++)
        subscribe(fixture, &subscribers[i], options[i]);
    for (unsigned i = 0; i < 10; i++) {
        publish_many(fixture, i, KEPT);
        wait_ms(fixture, 1000);
        market_sweep(fixture->market);
    }
    for (unsigned i = 0; i < ELEMENTSOF(options); i++) {
        assert_int_equal(subscribers[i].cut_offs, 0);
        subscriber_free(&subscribers[i]);
    }
}

static void test_gauges(void **state)
{
    struct fixture *fixture = *state;
    const struct market_stats *stats = market_stats(fixture->market);
    struct subscriber one, other;

    subscribe(fixture, &one, (struct subscription_options){.policy = SLOW_POLICY_CONFLATE});
    subscribe(fixture, &other, (struct subscription_options){0});
    assert_nothing(&one);
    assert_nothing(&other);
    assert_int_equal(stats->subscribers[SLOW_POLICY_CONFLATE], 1);
    assert_int_equal(stats->subscribers[SLOW_POLICY_BLOCK], 1);
    (void)publish(fixture, 0);
    assert_update(&other, 2);
    wait_ms(fixture, 30);
    market_sweep(fixture->market);
    assert_int_equal(stats->behind[SLOW_POLICY_CONFLATE], 1);
    assert_int_equal(stats->behind[SLOW_POLICY_BLOCK], 0);
    assert_update(&one, 2);
    market_sweep(fixture->market);
    assert_int_equal(stats->behind[SLOW_POLICY_CONFLATE], 0);
    stats = market_stats(fixture->market);
    assert_float_equal(stats->queue_age.sum, 0.03, 1e-9);
    subscriber_free(&one);
    subscriber_free(&other);
    assert_int_equal(stats->subscribers[SLOW_POLICY_CONFLATE], 0);
}

/* How long a subscriber was away is no time that anything waited for it. */
static void test_age_of_what_was_there(void **state)
{
    struct fixture *fixture = *state;
    struct subscription_options options = {.resume = true, .resume_epoch = EPOCH};
    const unsigned ticker = 0;
    const struct market_stats *stats;

    publish_many(fixture, 0, 3);
    wait_ms(fixture, 60000);
    for (unsigned i = 0; i < 4; i++) {
        struct subscriber subscriber;

        options.tickers = &ticker;
        options.ticker_count = i / 2;
        options.policy = i % 2 ? SLOW_POLICY_CONFLATE : SLOW_POLICY_BLOCK;
        subscribe(fixture, &subscriber, options);
        while (i % 2 == 0 && next(&subscriber).sequence < 4)
            ;
        if (i % 2)
            assert_int_equal(next(&subscriber).sequence, 4);
        assert_nothing(&subscriber);
        subscriber_free(&subscriber);
    }
    stats = market_stats(fixture->market);
    assert_float_equal(stats->queue_age.sum, 0, 1e-9);
}

/* ---- Memory, and who frees whom ---- */

static void test_size(void **state)
{
    struct fixture *fixture = *state;
    const struct market_stats *stats = market_stats(fixture->market);
    const unsigned ticker = 7;
    struct subscriber subscriber;

    subscribe(fixture, &subscriber, (struct subscription_options){0});
    assert_true(stats->subscriptions_size <= 248);
    subscriber_free(&subscriber);
    subscribe(fixture, &subscriber,
              (struct subscription_options){.tickers = &ticker, .ticker_count = 1});
    assert_true(stats->subscriptions_size <= 248);
    subscriber_free(&subscriber);
    subscribe(fixture, &subscriber,
              (struct subscription_options){
                  .tickers = &ticker, .ticker_count = 1, .policy = SLOW_POLICY_CONFLATE});
    assert_true(stats->subscriptions_size <= 320);
    subscriber_free(&subscriber);
}

static void test_no_room(void **state)
{
    struct fixture *fixture = *state;
    struct subscriber subscribers[600];
    unsigned count = 0;
    int r = 0;

    while (r == 0 && count < ELEMENTSOF(subscribers))
        r = try_subscribe(fixture, &subscribers[count++], (struct subscription_options){0});
    assert_int_equal(r, SUBSCRIPTION_NO_ROOM);
    assert_null(subscribers[--count].subscription);
    assert_true(market_stats(fixture->market)->subscriptions_size <= 100000);
    subscriber_free(&subscribers[0]);
    subscribe(fixture, &subscribers[0], (struct subscription_options){0});
    while (count-- > 0)
        subscriber_free(&subscribers[count]);
}

/* A connection that ends takes all its streams with it. */
static void test_ready_may_free_any(void **state)
{
    struct fixture *fixture = *state;
    const unsigned ticker = 0;

    for (unsigned i = 0; i < 12; i++) {
        struct subscription_options options = {.tickers = &ticker, .ticker_count = i / 6};
        struct subscriber all[3];
        struct subscriber *acting = &all[i % 3];

        for (unsigned j = 0; j < 3; j++) {
            subscribe(fixture, &all[j], options);
            assert_nothing(&all[j]);
        }
        /* Itself and one other. */
        acting->frees[0] = acting;
        acting->frees[1] = &all[(i % 3 + 1 + i / 3 % 2) % 3];
        (void)publish(fixture, 0);
        assert_null(acting->subscription);
        assert_null(acting->frees[1]->subscription);
        for (unsigned j = 0; j < 3; j++) {
            assert_true(all[j].subscription ? all[j].ready == 1 : all[j].ready <= 1);
            subscriber_free(&all[j]);
        }
    }
}

static void test_cut_off_may_free_any(void **state)
{
    struct fixture *fixture = *state;

    fixture->options.limits.hard_bytes = 1;
    market_set_limits(fixture->market, &fixture->options.limits);
    for (unsigned i = 0; i < 6; i++) {
        struct subscriber all[3];
        struct subscriber *acting = &all[i % 3];

        for (unsigned j = 0; j < 3; j++)
            subscribe(fixture, &all[j], (struct subscription_options){0});
        acting->frees[0] = acting;
        acting->frees[1] = &all[(i % 3 + 1 + i / 3) % 3];
        (void)publish(fixture, 0);
        market_sweep(fixture->market);
        for (unsigned j = 0; j < 3; j++) {
            assert_true(all[j].subscription ? all[j].cut_offs == 1 : all[j].cut_offs <= 1);
            subscriber_free(&all[j]);
        }
    }
}

/* It is over: nothing is said to it any more. */
static void test_after_cut_off(void **state)
{
    struct fixture *fixture = *state;
    const unsigned ticker = 0;
    struct subscriber subscriber;
    unsigned ready;

    subscribe(fixture, &subscriber,
              (struct subscription_options){.tickers = &ticker,
                                            .ticker_count = 1,
                                            .policy = SLOW_POLICY_DISCONNECT,
                                            .max_queue = 1,
                                            .heartbeat_ms = 100});
    publish_many(fixture, 0, 2);
    market_sweep(fixture->market);
    assert_int_equal(subscriber.cut_offs, 1);
    ready = subscriber.ready;
    assert_nothing(&subscriber);
    (void)publish(fixture, 0);
    wait_ms(fixture, 1000);
    market_sweep(fixture->market);
    assert_nothing(&subscriber);
    assert_int_equal(subscriber.ready, ready);
    assert_int_equal(subscriber.cut_offs, 1);
    subscriber_free(&subscriber);
    assert_null(subscription_free(NULL));
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_order_of_all),
        TEST(test_order_of_some),
        TEST(test_peek_changes_nothing),
        TEST(test_drop_oldest),
        TEST(test_totals_of_who_leaves),
        TEST(test_max_queue_is_limited),
        TEST(test_snapshot),
        TEST(test_snapshot_of_nothing),
        TEST(test_resume),
        TEST(test_resume_behind_the_newest),
        TEST(test_resume_from_what_is_gone),
        TEST(test_resume_in_another_epoch),
        TEST(test_conflation),
        TEST(test_turns),
        TEST(test_conflation_drops_the_next_turn),
        TEST(test_least_interval),
        TEST(test_tickers_that_come_later),
        TEST(test_heartbeats),
        TEST(test_history_is_the_last_limit),
        TEST(test_hard_bytes),
        TEST(test_hard_age),
        TEST(test_soft_limits_give_time),
        TEST(test_soft_age),
        TEST(test_max_queue_disconnects),
        TEST(test_catching_up_is_no_sin),
        TEST(test_some_are_never_cut_off),
        TEST(test_gauges),
        TEST(test_age_of_what_was_there),
        TEST(test_size),
        TEST(test_no_room),
        TEST(test_ready_may_free_any),
        TEST(test_cut_off_may_free_any),
        TEST(test_after_cut_off),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
