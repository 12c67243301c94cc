/*
 * Times in all the forms that data have them in; glibc's own calendar is the judge of ours.
 */
#include "market/feed_time.h"

#include "base/util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define S INT64_C(1000000000)

static void check(const char *text, int64_t ns)
{
    int64_t parsed = -1;
    const char *wrong = feed_time_parse(text, strlen(text), &parsed);

    if (wrong || parsed != ns)
        fail_msg("%s: %lld, %s", text, (long long)parsed, wrong ? wrong : "ok");
}

static void refuse(const char *text, const char *why)
{
    int64_t ns = 7;
    const char *wrong = feed_time_parse(text, strlen(text), &ns);

    if (!wrong || !strstr(wrong, why) || ns != 7)
        fail_msg("%s: %s", text, wrong ? wrong : "ok");
}

static void test_rfc3339(void **state)
{
    check("1970-01-01T00:00:00Z", 0);
    check("2026-01-31T09:30:00Z", 1769851800 * S);
    check("2026-01-31 09:30:00z", 1769851800 * S);
    check("2026-01-31t09:30:00+01:00", 1769848200 * S);
    check("2026-01-31T09:30:00-05:30", 1769871600 * S);
    check("2026-01-31T09:30:00.5Z", 1769851800 * S + 500000000);
    check("2026-01-31T09:30:00.123456789Z", 1769851800 * S + 123456789);
    check("2026-01-31T09:30:00.1234567899999Z", 1769851800 * S + 123456789);
    check("2016-12-31T23:59:60Z", 1483228800 * S);
    check("1969-12-31T23:59:59.75Z", -S / 4);
    check("1700-03-01T00:00:00Z", -8515238400 * S);
    check("2000-02-29T00:00:00Z", 951782400 * S);
    check("2262-04-11T23:47:16.854775807Z", INT64_MAX);
}

static void test_not_rfc3339(void **state)
{
    refuse("2026-02-29T00:00:00Z", "no such day");
    refuse("1900-02-29T00:00:00Z", "no such day");
    refuse("2026-13-01T00:00:00Z", "no such day");
    refuse("2026-00-01T00:00:00Z", "no such day");
    refuse("2026-01-00T00:00:00Z", "no such day");
    refuse("2026-01-01T24:00:00Z", "no such day");
    refuse("2026-01-01T00:60:00Z", "no such day");
    refuse("2026-01-01T00:00:61Z", "no such day");
    refuse("2026-01-01T00:00:00", "offset");
    refuse("2026-01-01T00:00:00 Z", "offset");
    refuse("2026-01-01T00:00:00+0100", "offset");
    refuse("2026-01-01T00:00:00+24:00", "offset");
    refuse("2026-01-01T00:00:00.Z", "neither");
    refuse("2026-01-01T00:00:00ZZ", "neither");
    refuse("2026-1-01T00:00:00Z", "neither");
    refuse("2026-01-01", "neither");
    refuse("2026-01-01T00:00Z", "neither");
    refuse("1066-10-14T09:00:00Z", "years");
    refuse("2262-04-11T23:47:16.854775808Z", "years");
    refuse("9999-12-31T23:59:59Z", "years");
}

/* Each day of three centuries. */
static void test_calendar(void **state)
{
    for (int64_t second = -6000000000; second < 6000000000; second += 86400) {
        time_t moment = (time_t)second;
        struct tm parts;
        char text[40];

        assert_non_null(gmtime_r(&moment, &parts));
        assert_true(strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) > 0);
        check(text, second * S);
    }
}

static void test_numbers(void **state)
{
    check("0", 0);
    check("1769851800", 1769851800 * S);
    check("1769851800.25", 1769851800 * S + S / 4);
    check("1769851800.1234567891", 1769851800 * S + 123456789);
    check("1769851800250", 1769851800 * S + S / 4);
    check("1769851800250.5", 1769851800 * S + 250500000);
    check("1769851800250500", 1769851800 * S + 250500000);
    check("1769851800250500.1239", 1769851800 * S + 250500123);
    check("1769851800250500123", 1769851800 * S + 250500123);
    check("1769851800250500123.9", 1769851800 * S + 250500123);
    check("-1.5", -3 * S / 2);
    /* The limits between units. */
    check("9223372036", 9223372036 * S);
    check("100000000000", 100000000 * S);
    check("9223372036854", INT64_C(9223372036854000000));
    check("100000000000000", 100000000 * S);
    check("9223372036854775", INT64_C(9223372036854775000));
    check("100000000000000000", 100000000 * S);
}

static void test_no_numbers(void **state)
{
    refuse("", "neither");
    refuse("now", "neither");
    refuse("1.", "neither");
    refuse(".5", "neither");
    refuse("-", "neither");
    refuse("1e9", "neither");
    refuse("1769851800 ", "neither");
    refuse("0x10", "neither");
    refuse("99999999999", "years");
    refuse("9223372036854775808", "years");
    refuse("99999999999999999999999", "years");
}

static void test_of_numbers(void **state)
{
    int64_t ns = 0;

    assert_null(feed_time_of_integer(1769851800250, &ns));
    assert_true(ns == 1769851800 * S + S / 4);
    assert_null(feed_time_of_integer(-1, &ns));
    assert_true(ns == -S);
    assert_non_null(feed_time_of_integer(INT64_MIN, &ns));
    assert_null(feed_time_of_real(1769851800.25, &ns));
    assert_true(ns == 1769851800 * S + S / 4);
    assert_null(feed_time_of_real(-1.5, &ns));
    assert_true(ns == -3 * S / 2);
    assert_non_null(feed_time_of_real(1e300, &ns));
    assert_non_null(feed_time_of_real((double)NAN, &ns));
    assert_true(ns == -3 * S / 2);
}

static void test_second(void **state)
{
    assert_int_equal(feed_time_second(1500000000), 1);
    assert_int_equal(feed_time_second(0), 0);
    assert_int_equal(feed_time_second(-1), -1);
    assert_int_equal(feed_time_second(-S), -1);
    assert_int_equal(feed_time_second(-S - 1), -2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc3339),    cmocka_unit_test(test_not_rfc3339),
        cmocka_unit_test(test_calendar),   cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_no_numbers), cmocka_unit_test(test_of_numbers),
        cmocka_unit_test(test_second),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
