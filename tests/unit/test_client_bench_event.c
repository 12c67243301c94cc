/*
 * What bench reads from messages, beside what protobuf-c reads from them, and bytes that are none.
 */
#include "client/command_bench_event.h"

#include "base/util.h"
#include "market/walk.h"
#include "stockservice.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

enum { SEEDS = 20000, SIZE_MAX_OF_TEST = 1024 };

/* A number of any size, often 0. */
static uint64_t number(struct random *random)
{
    return random_next(random) % 3 == 0 ? 0 : random_next(random) >> (random_next(random) % 64);
}

static size_t make_event(struct random *random, uint8_t *bytes, struct bench_event *ret_expected)
{
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    Stockservice__Heartbeat heartbeat = STOCKSERVICE__HEARTBEAT__INIT;
    Stockservice__Gap gap = STOCKSERVICE__GAP__INIT;
    char ticker[] = "AAPL";

    event.epoch = number(random);
    event.sequence = number(random);
    event.conflated = number(random);
    event.dropped = number(random);
    event.resume_sequence = number(random);
    event.time_unix_nano = number(random);
    event.snapshot = (protobuf_c_boolean)(random_next(random) % 2);
    *ret_expected = (struct bench_event){
        BENCH_EVENT_NONE, event.epoch,           event.sequence,       event.conflated,
        event.dropped,    event.resume_sequence, event.time_unix_nano, 0,
        event.snapshot,
    };
    switch (random_next(random) % 4) {
    case 0:
        break;
    case 1:
        update.ticker = ticker;
        update.volume = (int64_t)number(random);
        event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;
        event.update = &update;
        ret_expected->kind = BENCH_EVENT_UPDATE;
        break;
    case 2:
        event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT;
        event.heartbeat = &heartbeat;
        ret_expected->kind = BENCH_EVENT_HEARTBEAT;
        break;
    default:
        gap.reason = STOCKSERVICE__GAP__REASON__REASON_HISTORY;
        gap.from_sequence = number(random);
        gap.to_sequence = number(random);
        gap.updates = number(random);
        event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_GAP;
        event.gap = &gap;
        ret_expected->kind = BENCH_EVENT_GAP;
        ret_expected->gap_updates = gap.updates;
        break;
    }
    return stockservice__market_event__pack(&event, bytes);
}

static void assert_events_equal(const struct bench_event *a, const struct bench_event *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_true(a->epoch == b->epoch);
    assert_true(a->sequence == b->sequence);
    assert_true(a->conflated == b->conflated);
    assert_true(a->dropped == b->dropped);
    assert_true(a->resume_sequence == b->resume_sequence);
    assert_true(a->time_unix_ns == b->time_unix_ns);
    assert_true(a->gap_updates == b->gap_updates);
    assert_int_equal(a->snapshot, b->snapshot);
}

static void test_events(void **state)
{
    /* Fields 100 and 101, of each type that there is. */
    static const uint8_t unknown[] = {0xa0, 0x06, 0x05, 0xa1, 0x06, 1,   2,    3,    4, 5, 6, 7,
                                      8,    0xaa, 0x06, 0x02, 'h',  'i', 0xad, 0x06, 1, 2, 3, 4};
    struct random random = {.state = 1};
    uint8_t bytes[SIZE_MAX_OF_TEST];

    for (unsigned i = 0; i < SEEDS; i++) {
        struct bench_event expected, found;
        size_t size = make_event(&random, bytes, &expected);

        assert_true(bench_event_parse(bytes, size, &found));
        assert_events_equal(&found, &expected);
        memcpy(bytes + size, unknown, sizeof(unknown));
        assert_true(bench_event_parse(bytes, size + sizeof(unknown), &found));
        assert_events_equal(&found, &expected);
    }
}

/* What protobuf-c takes is taken, and what is not taken protobuf-c does not take either. */
static void test_broken(void **state)
{
    struct random random = {.state = 2};
    unsigned refused = 0;

    for (unsigned i = 0; i < SEEDS; i++) {
        uint8_t whole[SIZE_MAX_OF_TEST];
        struct bench_event event;
        size_t size = make_event(&random, whole, &event);
        size_t cut = random_next(&random) % (size + 1);
        /* In memory of its own, so that a sanitizer sees what is read behind it. */
        _cleanup_free_ uint8_t *bytes = malloc(cut + 1);
        Stockservice__MarketEvent *message;

        assert_non_null(bytes);
        memcpy(bytes, whole, cut);
        if (cut > 0 && random_next(&random) % 2)
            bytes[random_next(&random) % cut] = (uint8_t)random_next(&random);
        message = stockservice__market_event__unpack(NULL, cut, bytes);
        if (!bench_event_parse(bytes, cut, &event)) {
            assert_null(message);
            refused++;
        }
        if (message)
            stockservice__market_event__free_unpacked(message, NULL);
    }
    assert_true(refused > SEEDS / 10);
}

static void test_updates(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    char ticker[] = "MSFT";
    uint8_t bytes[SIZE_MAX_OF_TEST];
    struct bench_update found;
    size_t size;

    update.ticker = ticker;
    update.price = 148.5;
    update.change = -1.25;
    update.changepercent = 7;
    update.volume = 12;
    size = stockservice__stock_update__pack(&update, bytes);
    assert_true(bench_update_parse(bytes, size, &found));
    assert_true(found.price == 148.5 && found.change == -1.25);
    assert_false(bench_update_parse(bytes, size - 1, &found));
    assert_true(bench_update_parse(bytes, 0, &found));
    assert_true(found.price == 0 && found.change == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_updates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
