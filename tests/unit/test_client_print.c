/*
 * Updates as text, JSON and CSV, to the byte.
 */
#include "client/print.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static Stockservice__StockUpdate example(void)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    update.ticker = (char *)"AAPL";
    update.price = 148.205;
    update.change = -1.795;
    update.changepercent = -1.1966666666666668;
    update.volume = 9359;
    update.openprice = 150;
    update.highprice = 148.8;
    update.lowprice = 147.65;
    update.marketcap = 4157036;
    update.timestamp = (char *)"2026-01-31T09:30:00+01:00";
    return update;
}

static void check(enum print_format format, const Stockservice__StockUpdate *update,
                  const char *expected)
{
    struct text text = {0};

    print_update(&text, format, update);
    text_add_char(&text, 0);
    assert_false(text.failed);
    assert_string_equal(text.bytes, expected);
    text_deinit(&text);
}

static void text_is_the_originals_form(void **state)
{
    Stockservice__StockUpdate update = example();

    check(PRINT_TEXT, &update,
          "ticker:\"AAPL\" price:148.21 change:-1.79 changePercent:-1.20 volume:9359 "
          "openPrice:150.00 highPrice:148.80 lowPrice:147.65 marketCap:4157036 "
          "timestamp:\"2026-01-31T09:30:00+01:00\"\n");
}

static void json_follows_proto3s_mapping(void **state)
{
    Stockservice__StockUpdate update = example();

    check(PRINT_JSON, &update,
          "{\"ticker\":\"AAPL\",\"price\":148.205,\"change\":-1.795,"
          "\"changePercent\":-1.1966666666666668,\"volume\":\"9359\",\"openPrice\":150,"
          "\"highPrice\":148.8,\"lowPrice\":147.65,\"marketCap\":\"4157036\","
          "\"timestamp\":\"2026-01-31T09:30:00+01:00\"}\n");
}

static void csv_has_a_header_and_the_fields(void **state)
{
    Stockservice__StockUpdate update = example();
    struct text text = {0};

    print_header(&text, PRINT_CSV);
    text_add_char(&text, 0);
    assert_string_equal(text.bytes, "ticker,price,change,changePercent,volume,openPrice,highPrice,"
                                    "lowPrice,marketCap,timestamp\n");
    text_deinit(&text);
    print_header(&text, PRINT_TEXT);
    print_header(&text, PRINT_JSON);
    assert_int_equal(text.size, 0);

    check(PRINT_CSV, &update,
          "AAPL,148.205,-1.795,-1.1966666666666668,9359,150,148.8,147.65,4157036,"
          "2026-01-31T09:30:00+01:00\n");
}

static void fields_at_their_default_are_there(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    check(PRINT_TEXT, &update,
          "ticker:\"\" price:0.00 change:0.00 changePercent:0.00 volume:0 openPrice:0.00 "
          "highPrice:0.00 lowPrice:0.00 marketCap:0 timestamp:\"\"\n");
    check(PRINT_JSON, &update,
          "{\"ticker\":\"\",\"price\":0,\"change\":0,\"changePercent\":0,\"volume\":\"0\","
          "\"openPrice\":0,\"highPrice\":0,\"lowPrice\":0,\"marketCap\":\"0\",\"timestamp\":\"\"}"
          "\n");
    check(PRINT_CSV, &update, ",0,0,0,0,0,0,0,0,\n");
}

/* Nothing that a server sends may be obeyed by a terminal, or end a line or a string early. */
static void strings_are_escaped(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    update.ticker =
        (char *)"a\"b\\c\n\r\t\x1b[31m\x7f\xc2\x9b \xe2\x82\xac\xf0\x9f\x93\x88 \xff\xc3";
    update.timestamp =
        (char *)"\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf"; /* a surrogate, too high, too long */
    check(PRINT_TEXT, &update,
          "ticker:\"a\\\"b\\\\c\\n\\r\\t\\x1b[31m\\x7f\\xc2\\x9b \xe2\x82\xac\xf0\x9f\x93\x88 "
          "\\xff\\xc3\" price:0.00 change:0.00 changePercent:0.00 volume:0 openPrice:0.00 "
          "highPrice:0.00 lowPrice:0.00 marketCap:0 "
          "timestamp:\"\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80\\xc0\\xaf\"\n");
    check(PRINT_JSON, &update,
          "{\"ticker\":\"a\\\"b\\\\c\\n\\r\\t\\u001b[31m\\u007f\\u009b "
          "\xe2\x82\xac\xf0\x9f\x93\x88 \xef\xbf\xbd\xef\xbf\xbd\",\"price\":0,\"change\":0,"
          "\"changePercent\":0,\"volume\":\"0\",\"openPrice\":0,\"highPrice\":0,\"lowPrice\":0,"
          "\"marketCap\":\"0\",\"timestamp\":\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"}\n");
}

/* Nor may it turn the direction of what follows, or look like the end of the line. */
static void directions_and_separators_are_escaped(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    struct text text = {0};

    /* U+2028, U+202E, U+2066, U+200F, U+061C, U+FEFF; and U+2027, U+202F, which are harmless */
    update.ticker = (char *)"\xe2\x80\xa8\xe2\x80\xae\xe2\x81\xa6\xe2\x80\x8f\xd8\x9c\xef\xbb\xbf"
                            "\xe2\x80\xa7\xe2\x80\xaf";
    print_update(&text, PRINT_TEXT, &update);
    text_add_char(&text, 0);
    assert_non_null(strstr(text.bytes,
                           "ticker:\"\\xe2\\x80\\xa8\\xe2\\x80\\xae\\xe2\\x81\\xa6\\xe2\\x80\\x8f"
                           "\\xd8\\x9c\\xef\\xbb\\xbf\xe2\x80\xa7\xe2\x80\xaf\" "));
    text_deinit(&text);
    print_update(&text, PRINT_JSON, &update);
    text_add_char(&text, 0);
    assert_non_null(strstr(text.bytes, "\"ticker\":\"\\u2028\\u202e\\u2066\\u200f\\u061c\\ufeff"
                                       "\xe2\x80\xa7\xe2\x80\xaf\","));
    text_deinit(&text);
}

static void csv_quotes_where_it_must(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    update.ticker = (char *)"BRK,\"A\"";
    update.timestamp = (char *)"one\r\ntwo";
    check(PRINT_CSV, &update, "\"BRK,\"\"A\"\"\",0,0,0,0,0,0,0,0,\"one\r\ntwo\"\n");
    /* Nor is anything obeyed by a terminal that shows it. */
    update.ticker = (char *)"a\x1b[31m\xff\xe2\x80\xae";
    update.timestamp = (char *)"\x07,";
    check(PRINT_CSV, &update,
          "a\xef\xbf\xbd[31m\xef\xbf\xbd\xef\xbf\xbd,0,0,0,0,0,0,0,0,\"\xef\xbf\xbd,\"\n");
    update.ticker = (char *)"no need; 'for' it";
    update.timestamp = (char *)"";
    check(PRINT_CSV, &update, "no need; 'for' it,0,0,0,0,0,0,0,0,\n");
}

static void numbers_reach_their_limits(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    update.price = NAN;
    update.change = INFINITY;
    update.changepercent = -INFINITY;
    update.volume = INT64_MIN;
    update.marketcap = INT64_MAX;
    update.openprice = 0.1;
    update.highprice = 1.7976931348623157e308;
    update.lowprice = 5e-324;
    check(PRINT_JSON, &update,
          "{\"ticker\":\"\",\"price\":\"NaN\",\"change\":\"Infinity\","
          "\"changePercent\":\"-Infinity\",\"volume\":\"-9223372036854775808\",\"openPrice\":0.1,"
          "\"highPrice\":1.7976931348623157e+308,\"lowPrice\":5e-324,"
          "\"marketCap\":\"9223372036854775807\",\"timestamp\":\"\"}\n");
    check(PRINT_CSV, &update,
          ",NaN,Infinity,-Infinity,-9223372036854775808,0.1,1.7976931348623157e+308,"
          "5e-324,9223372036854775807,\n");
}

/* Whatever the value, reading the digits back gives its very bits. */
static void doubles_survive_the_round_trip(void **state)
{
    uint64_t random = 88172645463325252u;

    for (int i = 0; i < 20000; i++) {
        Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
        struct text text = {0};
        double value;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        memcpy(&value, &random, sizeof(value));
        if (!isfinite(value))
            continue;
        update.price = value;
        print_update(&text, PRINT_CSV, &update);
        text_add_char(&text, 0);
        assert_true(strtod(text.bytes + 1, NULL) == value);
        text_deinit(&text);
    }
}

static void what_others_say_does_nothing_to_a_terminal(void **state)
{
    struct text text = {0};

    print_foreign(&text, "no \"X\\\": \x1b[31m\xc3\xa9\n\xff\x7f");
    text_add_char(&text, 0);
    assert_string_equal(text.bytes, "no \"X\\\": \xEF\xBF\xBD[31m\xc3\xa9\xEF\xBF\xBD"
                                    "\xEF\xBF\xBD\xEF\xBF\xBD");
    text_deinit(&text);
}

static void formats_have_names(void **state)
{
    assert_int_equal(print_format_from_name("text"), PRINT_TEXT);
    assert_int_equal(print_format_from_name("json"), PRINT_JSON);
    assert_int_equal(print_format_from_name("csv"), PRINT_CSV);
    assert_int_equal(print_format_from_name("JSON"), -EINVAL);
    assert_int_equal(print_format_from_name(""), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_the_originals_form),
        cmocka_unit_test(json_follows_proto3s_mapping),
        cmocka_unit_test(csv_has_a_header_and_the_fields),
        cmocka_unit_test(fields_at_their_default_are_there),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(directions_and_separators_are_escaped),
        cmocka_unit_test(csv_quotes_where_it_must),
        cmocka_unit_test(numbers_reach_their_limits),
        cmocka_unit_test(doubles_survive_the_round_trip),
        cmocka_unit_test(what_others_say_does_nothing_to_a_terminal),
        cmocka_unit_test(formats_have_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
