/*
 * The hand-written packer against protobuf-c, byte for byte, and its timestamps against strftime.
 */
#include "services/stock_update.h"

#include "base/util.h"

#include "stockservice.pb-c.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
/* After the headers that it needs. */
#include <cmocka.h>

/* A block of just the promised room: the sanitizer build sees a byte written beyond it. */
static uint8_t *packed;

static int make_room(void **state)
{
    packed = malloc(STOCK_UPDATE_SIZE_MAX);
    return packed ? 0 : -1;
}

static int free_room(void **state)
{
    free(packed);
    return 0;
}

static void check_equal(const struct walk_step *step, const struct stock_texts *texts,
                        const char *ticker, const char *timestamp)
{
    uint8_t expected[5 + 1024];
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    size_t size, body_size;

    update.ticker = (char *)ticker;
    update.price = step->price;
    update.change = step->change;
    update.changepercent = step->change_percent;
    update.volume = step->volume;
    update.openprice = step->open;
    update.highprice = step->high;
    update.lowprice = step->low;
    update.marketcap = step->market_cap;
    update.timestamp = (char *)timestamp;
    body_size = stockservice__stock_update__pack(&update, expected + 5);
    expected[0] = 0;
    expected[1] = (uint8_t)(body_size >> 24);
    expected[2] = (uint8_t)(body_size >> 16);
    expected[3] = (uint8_t)(body_size >> 8);
    expected[4] = (uint8_t)body_size;

    memset(packed, 0xA5, STOCK_UPDATE_SIZE_MAX);
    size = stock_update_pack(packed, step, texts);
    if (size != 5 + body_size || memcmp(packed, expected, size) != 0)
        fail_msg("differs: ticker \"%s\" price %a change %a percent %a open %a high %a low %a "
                 "volume %lld cap %lld timestamp \"%s\"",
                 ticker, step->price, step->change, step->change_percent, step->open, step->high,
                 step->low, (long long)step->volume, (long long)step->market_cap, timestamp);
}

/* What is in the texts, as a string. */
static const char *timestamp_of(const struct stock_texts *texts, char text[STOCK_TIMESTAMP_MAX + 1])
{
    size_t length = 0;

    if (texts->timestamp_size > 0) {
        length = texts->timestamp_size - 2U;
        assert_true(length <= STOCK_TIMESTAMP_MAX);
        assert_int_equal(texts->timestamp[0], 10 << 3 | 2);
        assert_int_equal(texts->timestamp[1], length);
        memcpy(text, texts->timestamp + 2, length);
    }
    text[length] = '\0';
    return text;
}

static void test_random_steps(void **state)
{
    static const double opens[] = {150, 0.01, 1, 5000, 1e7, 1e13};
    struct stock_texts texts = {0};
    char timestamp[STOCK_TIMESTAMP_MAX + 1];

    stock_texts_set_ticker(&texts, "AAPL");
    for (size_t i = 0; i < ELEMENTSOF(opens); i++) {
        struct walk walk;
        struct walk_step step;

        stock_texts_set_time(&texts, 1769851800 + (int64_t)i * 10000019);
        timestamp_of(&texts, timestamp);
        walk_init(&walk, random_fork(1, i), opens[i]);
        for (unsigned k = 0; k < 200000; k++) {
            walk_next(&walk, &step);
            check_equal(&step, &texts, "AAPL", timestamp);
        }
    }
}

/* Any value in any field, the special ones as often as not. */
/* Uniform in [0, bound), near enough for a test. */
static uint32_t draw_below(struct random *random, uint32_t bound)
{
    return (uint32_t)((random_next(random) >> 32) * bound >> 32);
}

static void test_random_values(void **state)
{
    static const double doubles[] = {0,   -0.0,     1,         -1,    2.5,
                                     150, 5e-324,   -5e-324,   1e308, -1e308,
                                     0.1, INFINITY, -INFINITY, NAN,   0x1p-1022};
    struct random random = random_fork(2, 0);
    struct stock_texts texts = {0};
    char ticker[STOCK_TICKER_MAX + 1];

    for (unsigned i = 0; i < 500000; i++) {
        struct walk_step step = {0};
        double *fields[] = {&step.price, &step.change, &step.change_percent,
                            &step.open,  &step.high,   &step.low};
        int64_t *counts[] = {&step.volume, &step.market_cap};

        for (size_t f = 0; f < ELEMENTSOF(fields); f++) {
            uint64_t bits = random_next(&random);
            if (draw_below(&random, 2))
                *fields[f] = doubles[draw_below(&random, ELEMENTSOF(doubles))];
            else
                memcpy(fields[f], &bits, sizeof(bits));
        }
        for (size_t f = 0; f < ELEMENTSOF(counts); f++) {
            /* Every length of a varint, its least and its greatest value, and negative ones. */
            uint64_t bits = random_next(&random) >> draw_below(&random, 64);
            uint64_t edge = UINT64_C(1) << (7 * draw_below(&random, 10));
            if (draw_below(&random, 2))
                bits = edge - draw_below(&random, 2);
            *counts[f] = (int64_t)bits;
        }

        size_t length = draw_below(&random, STOCK_TICKER_MAX + 1);
        memset(ticker, 'A' + (int)draw_below(&random, 26), length);
        ticker[length] = '\0';
        stock_texts_set_ticker(&texts, ticker);
        check_equal(&step, &texts, ticker, "");
    }
}

static void test_edges(void **state)
{
    static const char longest[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
    const struct walk_step full = {.price = 1,
                                   .change = -1,
                                   .change_percent = -1,
                                   .open = 1,
                                   .high = 1,
                                   .low = -1,
                                   .volume = INT64_MIN,
                                   .market_cap = -1};
    const struct walk_step nothing = {0};
    struct stock_texts texts = {0};
    char timestamp[STOCK_TIMESTAMP_MAX + 1];
    struct walk_step step;

    /* Nothing at all is a message of no bytes. */
    assert_int_equal(stock_update_pack(packed, &nothing, &texts), 5);
    assert_memory_equal(packed, "\0\0\0\0\0", 5);
    stock_texts_set_ticker(&texts, "");
    check_equal(&nothing, &texts, "", "");
    check_equal(&full, &texts, "", "");

    /* Each field left out alone, and alone there. */
    stock_texts_set_ticker(&texts, "A");
    for (unsigned i = 0; i < 2 * 8; i++) {
        step = i < 8 ? full : nothing;
        const struct walk_step *from = i < 8 ? &nothing : &full;
        double *doubles[] = {&step.price, &step.change, &step.change_percent,
                             &step.open,  &step.high,   &step.low};
        const double *values[] = {&from->price, &from->change, &from->change_percent,
                                  &from->open,  &from->high,   &from->low};

        if (i % 8 < 6)
            *doubles[i % 8] = *values[i % 8];
        else if (i % 8 == 6)
            step.volume = from->volume;
        else
            step.market_cap = from->market_cap;
        check_equal(&step, &texts, "A", "");
    }

    /* The longest message fills the promised room to the last byte. */
    assert_int_equal(strlen(longest), STOCK_TICKER_MAX);
    setenv("TZ", "UTC", 1);
    tzset();
    stock_texts_set_ticker(&texts, longest);
    stock_texts_set_time(&texts, INT64_C(-67768036191676799)); /* in the year -2147481748 */
    timestamp_of(&texts, timestamp);
    assert_int_equal(strlen(timestamp), STOCK_TIMESTAMP_MAX);
    check_equal(&full, &texts, longest, timestamp);
    assert_int_equal(stock_update_pack(packed, &full, &texts), STOCK_UPDATE_SIZE_MAX);

    /* Beyond the calendar: left out. */
    stock_texts_set_time(&texts, INT64_MAX);
    check_equal(&full, &texts, longest, "");
    stock_texts_set_time(&texts, 0);
    check_equal(&full, &texts, longest, "1970-01-01T00:00:00+00:00");
}

static void test_long_tickers(void **state)
{
    struct walk_step step = {.price = 1};
    struct stock_texts texts = {0};

    stock_texts_set_ticker(&texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
    check_equal(&step, &texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", "");
    /* Never half a character: of é none of its two bytes, of ☺ none of its three. */
    stock_texts_set_ticker(&texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ01234\xC3\xA9");
    check_equal(&step, &texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ01234", "");
    stock_texts_set_ticker(&texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123\xE2\x98\xBA");
    check_equal(&step, &texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123", "");
    stock_texts_set_ticker(&texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ012\xE2\x98\xBA!");
    check_equal(&step, &texts, "ABCDEFGHIJKLMNOPQRSTUVWXYZ012\xE2\x98\xBA", "");
    /* Not even UTF-8: still within bounds. */
    stock_texts_set_ticker(&texts,
                           "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"
                           "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"
                           "\x80\x80");
    check_equal(&step, &texts, "", "");
}

/* RFC 3339 by way of strftime, whose %z lacks the colon. */
static void check_time(int64_t seconds)
{
    struct stock_texts texts;
    char text[STOCK_TIMESTAMP_MAX + 1], expected[64];
    time_t time = seconds;
    struct tm tm;
    size_t length;

    assert_non_null(localtime_r(&time, &tm));
    length = strftime(expected, sizeof(expected) - 1, "%Y-%m-%dT%H:%M:%S%z", &tm);
    assert_int_equal(length, 24);
    memmove(expected + 23, expected + 22, 3); /* with its NUL */
    expected[22] = ':';

    memset(&texts, 0x5A, sizeof(texts));
    stock_texts_set_time(&texts, seconds);
    if (strcmp(timestamp_of(&texts, text), expected) != 0)
        fail_msg("%s at %lld: %s, not %s", getenv("TZ"), (long long)seconds, text, expected);
}

static void test_timestamps(void **state)
{
    /* Rules written out, so that no time zone database is needed; some change in summer. */
    static const char *const zones[] = {
        "UTC0",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "EST5EDT,M3.2.0,M11.1.0",
        "NST3:30NDT,M3.2.0,M11.1.0",
        "IST-5:30",
        "<+0545>-5:45",
        "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
        "<+14>-14",
        "<-12>12",
        "<-0030>0:30",
        "<+1245>-12:45<+1345>,M9.5.0/2:45,M4.1.0/3:45",
    };
    static const int64_t starts[] = {
        0,
        1769851800,   /* 2026-01-31 */
        1774746000,   /* 2026-03-29 01:00 UTC, a change in Europe */
        1792890000,   /* 2026-10-25 01:00 UTC, and back */
        1772953200,   /* 2026-03-08 07:00 UTC, in America */
        951782400,    /* 2000-02-29 */
        4102444799,   /* the end of 2099 */
        253402214400, /* 9999-12-31 */
    };
    struct random random = random_fork(3, 0);

    for (size_t z = 0; z < ELEMENTSOF(zones); z++) {
        setenv("TZ", zones[z], 1);
        tzset();
        for (size_t i = 0; i < ELEMENTSOF(starts); i++) {
            for (int64_t around = -3; around <= 3; around++)
                check_time(MAX(starts[i] + around, 0));
        }
        for (unsigned i = 0; i < 5000; i++)
            check_time(draw_below(&random, UINT32_MAX));
    }
}

/* And some by hand, lest both be wrong. */
static void test_timestamps_by_hand(void **state)
{
    static const struct {
        const char *zone;
        int64_t seconds;
        const char *text;
    } table[] = {
        {"CET-1CEST,M3.5.0,M10.5.0/3", 1769848200, "2026-01-31T09:30:00+01:00"},
        {"CET-1CEST,M3.5.0,M10.5.0/3", 1774745999, "2026-03-29T01:59:59+01:00"},
        {"CET-1CEST,M3.5.0,M10.5.0/3", 1774746000, "2026-03-29T03:00:00+02:00"},
        {"CET-1CEST,M3.5.0,M10.5.0/3", 1792889999, "2026-10-25T02:59:59+02:00"},
        {"CET-1CEST,M3.5.0,M10.5.0/3", 1792890000, "2026-10-25T02:00:00+01:00"},
        {"NST3:30NDT,M3.2.0,M11.1.0", 1769848200, "2026-01-31T05:00:00-03:30"},
        {"IST-5:30", 1769848200, "2026-01-31T14:00:00+05:30"},
        {"<-0030>0:30", 0, "1969-12-31T23:30:00-00:30"},
        {"UTC0", 1000000000, "2001-09-09T01:46:40+00:00"},
        {"UTC0", 1483228799, "2016-12-31T23:59:59+00:00"},
        {"<-12>12", 946684800, "1999-12-31T12:00:00-12:00"},
        /* An offset that is not of whole minutes is cut; less than a minute is none at all. */
        {"LMT-0:53:28", 0, "1970-01-01T00:53:28+00:53"},
        {"LMT0:01:15", 0, "1969-12-31T23:58:45-00:01"},
        {"LMT0:00:15", 0, "1969-12-31T23:59:45+00:00"},
    };

    for (size_t i = 0; i < ELEMENTSOF(table); i++) {
        struct stock_texts texts = {0};
        char text[STOCK_TIMESTAMP_MAX + 1];

        setenv("TZ", table[i].zone, 1);
        tzset();
        stock_texts_set_time(&texts, table[i].seconds);
        assert_string_equal(timestamp_of(&texts, text), table[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_steps), cmocka_unit_test(test_random_values),
        cmocka_unit_test(test_edges),        cmocka_unit_test(test_long_tickers),
        cmocka_unit_test(test_timestamps),   cmocka_unit_test(test_timestamps_by_hand),
    };

    return cmocka_run_group_tests(tests, make_room, free_room);
}
