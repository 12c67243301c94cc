/*
 * Events as they are written by hand, against protobuf-c: byte for byte where nothing is added to
 * what is shared, and as it is read again where something is.
 */
#include "services/market_event.h"

#include "base/util.h"
#include "proto/wire.h"
#include "services/stock_update.h"
#include "stockservice.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

typedef Stockservice__MarketEvent MarketEvent;
typedef Stockservice__StockUpdate StockUpdate;

/* Blocks of just the promised room: the sanitizer build sees a byte written beyond them. */
static uint8_t *encoded, *written;

static int make_room(void **state)
{
    encoded = malloc(MARKET_EVENT_SIZE_MAX);
    written = malloc(MARKET_EVENT_WRITE_MAX);
    return encoded && written ? 0 : -1;
}

static int free_room(void **state)
{
    free(encoded);
    free(written);
    return 0;
}

/* A number of any length. */
static uint64_t draw(struct random *random)
{
    unsigned shift = (unsigned)(random_next(random) % 65);

    return shift == 64 ? 0 : random_next(random) >> shift;
}

static double draw_double(struct random *random)
{
    static const double doubles[] = {0, 150, 5e-324, 1e308, 0.1};
    uint64_t which = random_next(random) % (2 * ELEMENTSOF(doubles));

    return which < ELEMENTSOF(doubles) ? doubles[which] : (double)draw(random) / 1000;
}

static void draw_update(struct random *random, struct market_update *ret_update, char *ticker)
{
    size_t length = 1 + random_next(random) % MARKET_TICKER_SIZE_MAX;

    for (size_t i = 0; i < length; i++)
        ticker[i] = (char)('A' + random_next(random) % 26);
    ticker[length] = '\0';
    *ret_update = (struct market_update){
        .epoch = draw(random) | 1,
        .sequence = draw(random) | 1,
        .ticker = ticker,
        .values =
            {
                .price = draw_double(random),
                .change = -draw_double(random),
                .change_percent = draw_double(random),
                .open = draw_double(random),
                .high = draw_double(random),
                .low = draw_double(random),
                .volume = (int64_t)(draw(random) >> 1),
                .market_cap = (int64_t)(draw(random) >> 1),
            },
        .second = (int64_t)(random_next(random) % 4000000000),
        .unix_ns = draw(random),
    };
}

static void check_bytes(const uint8_t *bytes, size_t size, const MarketEvent *expected)
{
    uint8_t packed[1024];
    size_t body_size = stockservice__market_event__pack(expected, packed + WIRE_PREFIX_SIZE);

    wire_prefix_write(packed, (uint32_t)body_size);
    assert_int_equal(size, WIRE_PREFIX_SIZE + body_size);
    assert_memory_equal(bytes, packed, size);
}

/* The timestamp as GetUpdates writes it. */
static void timestamp_of(int64_t second, char text[static STOCK_TIMESTAMP_MAX + 1])
{
    struct stock_texts texts = {0};

    stock_texts_set_time(&texts, second);
    assert_true(texts.timestamp_size > 2);
    memcpy(text, texts.timestamp + 2, texts.timestamp_size - 2U);
    text[texts.timestamp_size - 2] = '\0';
}

static void test_updates(void **state)
{
    struct random random = random_fork(1, 0);
    size_t longest = 0;

    for (unsigned i = 0; i < 200000; i++) {
        char ticker[MARKET_TICKER_SIZE_MAX + 1], timestamp[STOCK_TIMESTAMP_MAX + 1];
        StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
        MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;
        struct market_update drawn;
        size_t size;

        draw_update(&random, &drawn, ticker);
        if (i % 2) /* the same second again, whose text is kept */
            drawn.second = 1769851800;
        timestamp_of(drawn.second, timestamp);
        update.ticker = ticker;
        update.price = drawn.values.price;
        update.change = drawn.values.change;
        update.changepercent = drawn.values.change_percent;
        update.volume = drawn.values.volume;
        update.openprice = drawn.values.open;
        update.highprice = drawn.values.high;
        update.lowprice = drawn.values.low;
        update.marketcap = drawn.values.market_cap;
        update.timestamp = timestamp;
        event.epoch = drawn.epoch;
        event.sequence = drawn.sequence;
        event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;
        event.update = &update;
        event.time_unix_nano = drawn.unix_ns;
        memset(encoded, 0xA5, MARKET_EVENT_SIZE_MAX);
        size = market_event_encode(NULL, encoded, &drawn);
        check_bytes(encoded, size, &event);
        longest = MAX(longest, size);
    }
    assert_true(longest > 128 + WIRE_PREFIX_SIZE); /* lengths of two bytes were among them */
}

/* What is written is what protobuf-c reads; `event` has the bytes of `drawn`, if it is an update.
 */
static void check_update(const struct subscription_event *event, const struct market_update *drawn)
{
    size_t size = market_event_write(written, drawn->epoch, event);
    MarketEvent *read;

    assert_int_equal(wire_prefix_length(written), size - WIRE_PREFIX_SIZE);
    assert_int_equal(written[0], 0);
    read = stockservice__market_event__unpack(NULL, size - WIRE_PREFIX_SIZE,
                                              written + WIRE_PREFIX_SIZE);
    assert_non_null(read);
    assert_int_equal(read->base.n_unknown_fields, 0);
    assert_int_equal(read->epoch, drawn->epoch);
    assert_int_equal(read->sequence, drawn->sequence);
    assert_int_equal(read->time_unix_nano, drawn->unix_ns);
    assert_int_equal(read->event_case, STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE);
    assert_string_equal(read->update->ticker, drawn->ticker);
    assert_true(read->update->price == drawn->values.price);
    assert_int_equal(read->update->volume, drawn->values.volume);
    assert_int_equal(read->conflated, event->conflated);
    assert_int_equal(read->dropped, event->dropped);
    assert_int_equal(read->resume_sequence, event->resume_sequence);
    assert_int_equal(read->snapshot, event->snapshot);
    stockservice__market_event__free_unpacked(read, NULL);
}

static void test_what_is_added_to_updates(void **state)
{
    struct random random = random_fork(2, 0);

    for (unsigned i = 0; i < 100000; i++) {
        char ticker[MARKET_TICKER_SIZE_MAX + 1];
        struct market_update drawn;
        struct subscription_event event = {.kind = SUBSCRIPTION_UPDATE, .bytes = encoded};

        draw_update(&random, &drawn, ticker);
        event.size = (uint32_t)market_event_encode(NULL, encoded, &drawn);
        event.sequence = drawn.sequence;
        if (random_next(&random) % 2)
            event.conflated = draw(&random);
        if (random_next(&random) % 2)
            event.dropped = draw(&random);
        if (random_next(&random) % 2)
            event.resume_sequence = draw(&random);
        event.snapshot = random_next(&random) % 2;
        check_update(&event, &drawn);
    }
}

/* The longest of everything at once: the sanitizer build would see too little room. */
static void test_the_longest(void **state)
{
    struct market_update update = {
        .epoch = UINT64_MAX,
        .sequence = UINT64_MAX,
        .ticker = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
        .values = {1, -1, 1, 1, 1, 1, -1, -1},
        .second = 253402300799,
        .unix_ns = UINT64_MAX,
    };
    struct subscription_event event = {
        .kind = SUBSCRIPTION_UPDATE,
        .bytes = encoded,
        .sequence = UINT64_MAX,
        .conflated = UINT64_MAX,
        .dropped = UINT64_MAX,
        .resume_sequence = UINT64_MAX,
        .snapshot = true,
    };

    event.size = (uint32_t)market_event_encode(NULL, encoded, &update);
    assert_true(event.size <= MARKET_EVENT_SIZE_MAX);
    check_update(&event, &update);
    event.kind = SUBSCRIPTION_GAP;
    event.gap_reason = RESUME_HISTORY;
    event.gap_from = event.gap_to = event.gap_updates = UINT64_MAX;
    assert_true(market_event_write(written, UINT64_MAX, &event) <= MARKET_EVENT_WRITE_MAX);
}

static void test_shared_bytes_are_untouched(void **state)
{
    struct market_update update = {.epoch = 1, .sequence = 7, .ticker = "AAPL", .second = 5};
    struct subscription_event event = {.kind = SUBSCRIPTION_UPDATE, .sequence = 7};

    update.values.price = 1.5;
    event.size = (uint32_t)market_event_encode(NULL, encoded, &update);
    event.bytes = encoded;
    assert_int_equal(market_event_write(written, 1, &event), event.size);
    assert_memory_equal(written, encoded, event.size);
}

static void test_heartbeats(void **state)
{
    struct random random = random_fork(3, 0);

    for (unsigned i = 0; i < 20000; i++) {
        Stockservice__Heartbeat heartbeat = STOCKSERVICE__HEARTBEAT__INIT;
        MarketEvent expected = STOCKSERVICE__MARKET_EVENT__INIT;
        struct subscription_event event = {
            .kind = SUBSCRIPTION_HEARTBEAT,
            .sequence = draw(&random),
            .conflated = draw(&random),
            .dropped = draw(&random),
            .resume_sequence = draw(&random),
        };

        expected.epoch = draw(&random) | 1;
        expected.sequence = event.sequence;
        expected.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT;
        expected.heartbeat = &heartbeat;
        expected.conflated = event.conflated;
        expected.dropped = event.dropped;
        expected.resume_sequence = event.resume_sequence;
        check_bytes(written, market_event_write(written, expected.epoch, &event), &expected);
    }
}

static void test_gaps(void **state)
{
    struct random random = random_fork(4, 0);

    for (unsigned i = 0; i < 20000; i++) {
        bool epoch = random_next(&random) % 2;
        Stockservice__Gap gap = STOCKSERVICE__GAP__INIT;
        MarketEvent expected = STOCKSERVICE__MARKET_EVENT__INIT;
        struct subscription_event event = {
            .kind = SUBSCRIPTION_GAP,
            .sequence = draw(&random),
            .dropped = draw(&random),
            .gap_reason = epoch ? RESUME_EPOCH : RESUME_HISTORY,
            .gap_from = draw(&random),
            .gap_to = draw(&random),
            .gap_updates = draw(&random),
        };

        gap.reason = epoch ? STOCKSERVICE__GAP__REASON__REASON_EPOCH
                           : STOCKSERVICE__GAP__REASON__REASON_HISTORY;
        gap.from_sequence = event.gap_from;
        gap.to_sequence = event.gap_to;
        gap.updates = event.gap_updates;
        expected.epoch = draw(&random) | 1;
        expected.sequence = event.sequence;
        expected.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_GAP;
        expected.gap = &gap;
        expected.dropped = event.dropped;
        check_bytes(written, market_event_write(written, expected.epoch, &event), &expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_updates),     cmocka_unit_test(test_what_is_added_to_updates),
        cmocka_unit_test(test_the_longest), cmocka_unit_test(test_shared_bytes_are_untouched),
        cmocka_unit_test(test_heartbeats),  cmocka_unit_test(test_gaps),
    };

    return cmocka_run_group_tests(tests, make_room, free_room);
}
