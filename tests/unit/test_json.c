/*
 * Lines of JSON that are updates, those that are not and why, and that what stock-client prints is
 * one.
 */
#include "market/json.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

static struct json_update parse(const char *line)
{
    struct json_update update;
    char error[FEED_ERROR_MAX] = "";

    if (json_update_parse(line, strlen(line), &update, error) != 0)
        fail_msg("%s: %s", line, error);
    return update;
}

static void refuse_sized(const char *line, size_t size, const char *why)
{
    struct json_update update = {.ticker = "kept"};
    char error[FEED_ERROR_MAX] = "";

    if (json_update_parse(line, size, &update, error) != JSON_FAULT || !strstr(error, why))
        fail_msg("%s: %s", line, error);
    assert_string_equal(update.ticker, "kept");
}

static void refuse(const char *line, const char *why)
{
    refuse_sized(line, strlen(line), why);
}

static void test_least(void **state)
{
    struct json_update update = parse("{\"ticker\":\"AAPL\",\"price\":150.25}");

    assert_string_equal(update.ticker, "AAPL");
    assert_true(update.quote.price == 150.25);
    assert_true(update.quote.high == 0 && update.quote.low == 0);
    assert_int_equal(update.quote.volume, 0);
    assert_int_equal(update.quote.market_cap, 0);
    assert_false(update.quote.timed);
}

static void test_most(void **state)
{
    struct json_update update =
        parse(" {\"price\": 150, \"ticker\": \"BRK.B\", \"volume\": 9007199254740993,\r\n"
              "\"high\": 151, \"low\": 1.4e2, \"marketCap\": 9223372036854775807,\t"
              "\"time\": \"2026-01-31T09:30:00.5Z\", \"other\": {\"price\": [null]}} \n");

    assert_string_equal(update.ticker, "BRK.B");
    assert_true(update.quote.price == 150 && update.quote.high == 151 && update.quote.low == 140);
    assert_true(update.quote.volume == INT64_C(9007199254740993)); /* no double has this */
    assert_true(update.quote.market_cap == INT64_MAX);
    assert_true(update.quote.timed && update.quote.second == 1769851800);
}

/* As stock-client --output json prints it. */
static void test_client(void **state)
{
    struct json_update update =
        parse("{\"ticker\":\"STOCK\",\"price\":99.5,\"change\":-0.5,\"changePercent\":-0.5,"
              "\"volume\":\"1234\",\"openPrice\":100,\"highPrice\":100.5,\"lowPrice\":99,"
              "\"marketCap\":\"99500000\",\"timestamp\":\"2026-01-31T09:30:00+01:00\"}");

    assert_true(update.quote.high == 100.5 && update.quote.low == 99);
    assert_int_equal(update.quote.volume, 1234);
    assert_int_equal(update.quote.market_cap, 99500000);
    assert_true(update.quote.timed && update.quote.second == 1769848200);
}

static void test_times(void **state)
{
    static const char *const times[] = {"1769851800",       "1769851800.75",
                                        "1769851800999",    "\"1769851800\"",
                                        "1769851800999999", "1769851800999999999"};
    char line[128];

    for (size_t i = 0; i < ELEMENTSOF(times); i++) {
        (void)snprintf(line, sizeof(line), "{\"ticker\":\"A\",\"price\":1,\"time\":%s}", times[i]);
        assert_int_equal(parse(line).quote.second, 1769851800);
    }
    assert_false(parse("{\"ticker\":\"A\",\"price\":1,\"time\":null}").quote.timed);
}

static void test_rounding(void **state)
{
    assert_int_equal(parse("{\"ticker\":\"A\",\"price\":1,\"volume\":0.4}").quote.volume, 0);
    assert_int_equal(parse("{\"ticker\":\"A\",\"price\":1,\"volume\":1.6}").quote.volume, 2);
    assert_int_equal(parse("{\"ticker\":\"A\",\"price\":1,\"volume\":1e3}").quote.volume, 1000);
    assert_int_equal(parse("{\"symbol\":\"A\",\"price\":\"1.5\"}").quote.volume, 0);
}

static void test_syntax(void **state)
{
    refuse("{\"ticker\":\"A\",\"price\":1", "column");
    refuse("{\"ticker\":\"A\" \"price\":1}", "column 21");
    refuse("{\"ticker\":\"A\",\"price\":1} x", "column");
    refuse("{\"ticker\":\"A\",\"price\":1}{}", "column");
    refuse("hello", "near 'hello'");
    refuse("[]", "not an object");
    refuse("{\"ticker\":\"A\",\"price\":1,\"price\":2}", "duplicate");
    refuse("{\"ticker\":\"A\xff\",\"price\":1}", "decode byte 0xff");
    refuse("{\"ticker\":\"A\",\"price\":1,\"x\":\"\xed\xa0\x80\"}", "decode byte 0xed");
    refuse("{\"ticker\":\"A\\u0000B\",\"price\":1}", "NUL");
    refuse("{\"ticker\":\"A\",\"price\":NaN}", "column");
    refuse("{\"ticker\":\"A\",\"price\":1e999}", "overflow");
    refuse("{\"ticker\":\"A\",\"price\":99999999999999999999}", "too big");
    refuse_sized("{\"ticker\":\"A\",\"price\":1}\0", 25, "column");
    refuse("", "column");
}

/* Deep nesting costs a fault, not the stack. */
static void test_deep(void **state)
{
    char line[16384];

    memset(line, '[', sizeof(line));
    memcpy(line, "{\"a\":", 5);
    refuse_sized(line, sizeof(line), "depth");
}

static void test_members(void **state)
{
    refuse("{}", "ticker: missing");
    refuse("{\"price\":1}", "ticker: missing");
    refuse("{\"ticker\":null,\"price\":1}", "ticker: missing");
    refuse("{\"ticker\":7,\"price\":1}", "ticker: not a string");
    refuse("{\"ticker\":\"\",\"price\":1}", "ticker: not 1 to 32 bytes");
    refuse("{\"ticker\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"price\":1}", "ticker: not 1 to 32");
    refuse("{\"ticker\":\"A\"}", "price: missing");
    refuse("{\"Ticker\":\"A\",\"price\":1}", "ticker: missing");
    refuse("{\"ticker\":\"A\",\"price\":true}", "price: not a number");
    refuse("{\"ticker\":\"A\",\"price\":\"x\"}", "price: not a number");
    refuse("{\"ticker\":\"A\",\"price\":0}", "price: not above 0");
    refuse("{\"ticker\":\"A\",\"price\":-1}", "price: not above 0");
    refuse("{\"ticker\":\"A\",\"price\":1,\"volume\":-1}", "volume: below 0");
    /* Of such prices no change in percent could be told. */
    refuse("{\"ticker\":\"A\",\"price\":1e101}", "A: the price is not in the range");
    refuse("{\"ticker\":\"A\",\"price\":1e-101}", "A: the price is not in the range");
    assert_true(parse("{\"ticker\":\"A\",\"price\":1e100}").quote.price == 1e100);
    assert_true(parse("{\"ticker\":\"A\",\"price\":1e-100}").quote.price == 1e-100);
    refuse("{\"ticker\":\"A\",\"price\":1,\"volume\":1e19}", "volume: below 0, or 2^63");
    refuse("{\"ticker\":\"A\",\"price\":1,\"volume\":[]}", "volume: not a number");
    refuse("{\"ticker\":\"A\",\"price\":1,\"marketCap\":-1}", "marketCap: below 0");
    refuse("{\"ticker\":\"A\",\"price\":1,\"high\":0.5}", "A: the highest price");
    refuse("{\"ticker\":\"A\",\"price\":1,\"low\":2}", "A: the lowest price");
    refuse("{\"ticker\":\"A\",\"price\":1,\"lowPrice\":0}", "lowPrice: not above 0");
    refuse("{\"ticker\":\"A\",\"price\":1,\"time\":true}", "time: neither");
    refuse("{\"ticker\":\"A\",\"price\":1,\"timestamp\":\"noon\"}", "timestamp: neither");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least),    cmocka_unit_test(test_most),
        cmocka_unit_test(test_client),   cmocka_unit_test(test_times),
        cmocka_unit_test(test_rounding), cmocka_unit_test(test_syntax),
        cmocka_unit_test(test_deep),     cmocka_unit_test(test_members),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
