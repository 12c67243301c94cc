/*
 * The lines of stat, to the byte.
 */
#include "client/command_stat_report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static const struct stat_line example = {
    .time_ns = UINT64_C(1769848200123456789),
    .seconds = 2,
    .updates = 2469,
    .snapshots = 8,
    .bytes = 246900,
    .conflated = 50000,
    .dropped = 1,
    .gaps = 2,
    .missing = 123456,
    .has_lag = true,
    .lag_p50_us = 312,
    .lag_p99_us = 12345,
    .unprocessed_bytes = 65535,
    .reconnects = 3,
    .connected = true,
};

static void check_lines(struct stat_report *report, const struct stat_line *line,
                        const char *expected)
{
    struct text text = {0};

    stat_report_line(report, &text, line);
    text_add_char(&text, 0);
    assert_false(text.failed);
    assert_string_equal(text.bytes, expected);
    text_deinit(&text);
}

#define TITLES "updates/s  bytes/s merged/s dropped/s gaps lag p50 lag p99 unprocessed reconn\n"

static void text_stands_in_columns(void **state)
{
    struct stat_report report = {.format = PRINT_TEXT};
    struct stat_line none = {.seconds = 1};
    static const char line[] =
        "   1234.5   123 kB    25000       0.5    2   0.3ms    12ms     65.5 kB      3\n";

    assert_true(strlen(TITLES) <= 80);
    check_lines(&report, &example,
                TITLES
                "   1234.5   123 kB    25000       0.5    2   0.3ms    12ms     65.5 kB      3\n");
    for (int i = 1; i < STAT_HEADER_EVERY; i++)
        check_lines(&report, &example, line);
    check_lines(&report, &none,
                TITLES
                "      0.0      0 B      0.0       0.0    0       -       -         0 B      0"
                "  not connected\n");
}

static void json_has_figures_as_they_are(void **state)
{
    struct stat_report report = {.format = PRINT_JSON};
    struct stat_line none = {.seconds = 1};

    check_lines(&report, &example,
                "{\"time\":\"2026-01-31T08:30:00.123Z\",\"seconds\":2.000,\"updates\":2469,"
                "\"snapshots\":8,\"bytes\":246900,\"conflated\":50000,\"dropped\":1,\"gaps\":2,"
                "\"missing\":123456,\"lagP50\":0.000312,\"lagP99\":0.012345,"
                "\"unprocessed\":65535,\"reconnects\":3,\"connected\":true}\n");
    check_lines(&report, &none,
                "{\"time\":\"1970-01-01T00:00:00.000Z\",\"seconds\":1.000,\"updates\":0,"
                "\"snapshots\":0,\"bytes\":0,\"conflated\":0,\"dropped\":0,\"gaps\":0,"
                "\"missing\":0,\"lagP50\":null,\"lagP99\":null,"
                "\"unprocessed\":0,\"reconnects\":0,\"connected\":false}\n");
}

static void csv_has_its_header_once(void **state)
{
    struct stat_report report = {.format = PRINT_CSV};
    struct stat_line none = {.seconds = 1};

    check_lines(&report, &example,
                "time,seconds,updates,snapshots,bytes,conflated,dropped,gaps,missing,lagP50,"
                "lagP99,unprocessed,reconnects,connected\n"
                "2026-01-31T08:30:00.123Z,2.000,2469,8,246900,50000,1,2,123456,0.000312,0.012345,"
                "65535,3,true\n");
    for (int i = 1; i < 2 * STAT_HEADER_EVERY; i++)
        check_lines(&report, &none, "1970-01-01T00:00:00.000Z,1.000,0,0,0,0,0,0,0,,,0,0,false\n");
}

static void a_line_has_what_came_since_the_one_before(void **state)
{
    static struct stat_report report;
    static struct tally tally;
    struct stat_line line = {0};

    tally.updates = 10;
    tally.bytes = 1000;
    tally.conflated = 5;
    lags_add(&tally.lags, 20);
    stat_report_take(&report, &tally, &line);
    assert_int_equal(line.updates, 10);
    assert_int_equal(line.bytes, 1000);
    assert_true(line.has_lag);
    assert_int_equal(line.lag_p50_us, 20);

    tally.updates = 13;
    tally.snapshots = 1;
    tally.dropped = 2;
    tally.gaps = 1;
    tally.missing = 9;
    stat_report_take(&report, &tally, &line);
    assert_int_equal(line.updates, 3);
    assert_int_equal(line.snapshots, 1);
    assert_int_equal(line.bytes, 0);
    assert_int_equal(line.conflated, 0);
    assert_int_equal(line.dropped, 2);
    assert_int_equal(line.gaps, 1);
    assert_int_equal(line.missing, 9);
    assert_false(line.has_lag);
}

static void check_summary(const struct tally *tally, const struct lags *lags, double seconds,
                          const char *expected)
{
    struct text text = {0};

    stat_report_summary(&text, tally, lags, seconds, 1);
    text_add_char(&text, 0);
    assert_false(text.failed);
    assert_string_equal(text.bytes, expected);
    text_deinit(&text);
}

static void the_summary_is_of_all(void **state)
{
    static struct tally tally;
    static struct lags lags;

    check_summary(&tally, &lags, 0,
                  "0 updates in 0.000 s (0.0/s, 0 B/s), 0 merged, 0 dropped, 0 gaps, 1 reconnects");
    tally.updates = 100;
    tally.bytes = 50000;
    tally.conflated = 7;
    tally.dropped = 8;
    tally.gaps = 2;
    tally.missing = 40;
    for (uint64_t us = 1; us <= 100; us++)
        lags_add(&lags, us * 10000);
    check_summary(&tally, &lags, 10,
                  "100 updates in 10.000 s (10.0/s, 5.0 kB/s), 7 merged, 8 dropped, 2 gaps "
                  "(40 updates), lag p50 508ms, p99 999ms, max 1.0s, 1 reconnects");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_stands_in_columns),
        cmocka_unit_test(json_has_figures_as_they_are),
        cmocka_unit_test(csv_has_its_header_once),
        cmocka_unit_test(a_line_has_what_came_since_the_one_before),
        cmocka_unit_test(the_summary_is_of_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
