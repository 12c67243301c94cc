/*
 * Templates of a person's own: what they write, and what is said of bad ones.
 */
#include "client/template.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#define NOW_NS UINT64_C(1700000000250000000)

static void check_of(const Stockservice__StockUpdate *update, const char *source,
                     const char *expected)
{
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;
    char error[TEMPLATE_ERROR_MAX] = "";
    struct template template;
    struct text text = {0};

    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;
    event.update = (Stockservice__StockUpdate *)update;
    event.epoch = UINT64_MAX;
    event.sequence = 12;
    event.conflated = 3;
    event.time_unix_nano = NOW_NS - 1250000;
    assert_int_equal(template_parse(&template, source, error), 0);
    assert_string_equal(error, "");
    template_print(&text, &template, &event, NOW_NS);
    text_add_char(&text, 0);
    assert_string_equal(text.bytes, expected);
    text_deinit(&text);
    template_deinit(&template);
}

static void check(const char *source, const char *expected)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    update.ticker = (char *)"AAPL";
    update.price = 148.205;
    update.change = 1.5;
    update.changepercent = -0.25;
    update.volume = 9359;
    update.timestamp = (char *)"2026-01-31T09:30:00+01:00";
    check_of(&update, source, expected);
}

static void fields_are_filled_in(void **state)
{
    check("{ticker} {price}", "AAPL 148.205\n");
    check("{sequence},{epoch},{conflated},{dropped}", "12,18446744073709551615,3,0\n");
    check("{volume}@{timestamp}", "9359@2026-01-31T09:30:00+01:00\n");
    check("{lag}", "1.25\n");
    check("no field", "no field\n");
}

static void formats_are_those_of_printf(void **state)
{
    check("[{price:.1}]", "[148.2]\n");
    check("[{price:10.2}]", "[    148.21]\n");
    check("[{price:-10.2}]", "[148.21    ]\n");
    check("[{change:+}{changePercent:+.1}]", "[+1.5-0.2]\n");
    check("[{volume:+8}]", "[   +9359]\n");
    check("[{sequence:-4}]", "[12  ]\n");
    check("[{ticker:6}{ticker:-6}{ticker:.2}]", "[  AAPLAAPL  AA]\n");
}

static void braces_and_escapes(void **state)
{
    check("{{{ticker}}}", "{AAPL}\n");
    check("{ticker}\\t{volume}\\n\\\\", "AAPL\t9359\n\\\n");
}

static void texts_bring_no_controls(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    update.ticker = (char *)"A\x1b[2J\xff\n\xc3\xa9";
    check_of(&update, "[{ticker}]", "[A\xEF\xBF\xBD[2J\xEF\xBF\xBD\xEF\xBF\xBD\xc3\xa9]\n");
    /* Columns are counted in characters. */
    update.ticker = (char *)"\xc3\xa9\xc3\xa9";
    check_of(&update, "[{ticker:4}]", "[  \xc3\xa9\xc3\xa9]\n");
}

static void not_finite_and_huge_numbers(void **state)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;

    update.price = -1.0 / 0.0;
    update.change = 1.7976931348623157e308;
    check_of(&update, "{price} {price:.2}", "-inf -inf\n");
    check_of(&update, "{change}", "1.7976931348623157e+308\n");
    check_of(&update, "{change:.0}",
             "179769313486231570814527423731704356798070567525844996598917476803157260780028538760"
             "589558632766878171540458953514382464234321326889464182768467546703537516986049910576"
             "551282076245490090389328944075868508455133942304583236903222948165808559332123348274"
             "797826204144723168738177180919299881250404026184124858368\n");
}

static void bad(const char *source, const char *expected)
{
    char error[TEMPLATE_ERROR_MAX] = "";
    struct template template;

    assert_int_equal(template_parse(&template, source, error), -EINVAL);
    assert_string_equal(error, expected);
    assert_null(template.parts);
}

static void faults_say_what_and_where(void **state)
{
    bad("", "character 1: the template is empty");
    bad("{ticker", "character 1: this brace is not closed");
    bad("a {ticker {price}", "character 3: this brace is not closed");
    bad("a } b", "character 3: this brace was not opened (a brace itself is }})");
    bad("{ticker} {prize}", "character 11: there is no field \"prize\"");
    bad("{}", "character 2: there is no field \"\"");
    bad("{price:x}", "character 8: a format is [-][+][WIDTH][.PRECISION]");
    bad("{price:.2f}", "character 10: a format is [-][+][WIDTH][.PRECISION]");
    bad("{price:201}", "character 8: the width is more than 200");
    bad("{price:.31}", "character 8: the precision is no number from 0 to 30");
    bad("{price:.}", "character 8: the precision is no number from 0 to 30");
    bad("{ticker:+}", "character 9: a text has no sign");
    bad("a\\x", "character 2: after a backslash stands n, t or a backslash");
    bad("a\\", "character 2: after a backslash stands n, t or a backslash");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_filled_in),
        cmocka_unit_test(formats_are_those_of_printf),
        cmocka_unit_test(braces_and_escapes),
        cmocka_unit_test(texts_bring_no_controls),
        cmocka_unit_test(not_finite_and_huge_numbers),
        cmocka_unit_test(faults_say_what_and_where),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
