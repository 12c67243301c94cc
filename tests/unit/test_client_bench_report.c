/*
 * The report in its three formats, the fairness, and the line of progress.
 */
#include "client/command_bench_report.h"

#include "base/util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#define MS 1000000

static struct bench_class *make_classes(bool slow)
{
    struct bench_class *classes = calloc(BENCH_CLASSES, sizeof(*classes));

    assert_non_null(classes);
    for (unsigned i = 0; i < (slow ? BENCH_CLASSES : 1U); i++) {
        for (unsigned k = 0; k < BENCH_COUNTER_COUNT; k++)
            classes[i].counters[k] = 1000 * (i + 1) + k;
        for (unsigned k = 1; k <= 100; k++)
            bench_histogram_add(&classes[i].latency, k * (i + 1) * MS);
        bench_class_add_rate(&classes[i], 10);
        bench_class_add_rate(&classes[i], 20);
    }
    return classes;
}

/* The report as a text that ends with NUL, for free(). */
static char *report_text(enum print_format format, struct bench_class *classes)
{
    struct bench_report report = {
        .method = "Subscribe",
        .target = "localhost:4444",
        .connections = 3,
        .connections_lost = 1,
        .seconds = 2,
        .has_latency = true,
        .failed = {[WIRE_UNAVAILABLE] = 5, [WIRE_NOT_FOUND] = 2},
        .first_error = "NotFound: \"X\" is\n\xc3\xa9 no \\",
        .classes = classes,
    };
    struct text text = {0};

    assert_int_equal(bench_report_write(&text, format, &report), 0);
    text_add_char(&text, 0);
    return text.bytes;
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("there is no %s in\n%s", part, text);
}

static void test_fairness(void **state)
{
    _cleanup_free_ struct bench_class *class = calloc(1, sizeof(*class));

    assert_non_null(class);
    assert_true(bench_class_fairness(class) == 0);
    bench_class_add_rate(class, 0);
    assert_true(bench_class_fairness(class) == 0);
    bench_class_add_rate(class, 5);
    assert_true(fabs(bench_class_fairness(class) - 0.5) < 1e-12);
    bench_class_add_rate(class, 5);
    bench_class_add_rate(class, 5);
    assert_true(fabs(bench_class_fairness(class) - 0.75) < 1e-12);
}

static void test_text(void **state)
{
    _cleanup_free_ struct bench_class *mixed = make_classes(true);
    _cleanup_free_ struct bench_class *fast = make_classes(false);
    _cleanup_free_ char *text = report_text(PRINT_TEXT, mixed);
    _cleanup_free_ char *single = report_text(PRINT_TEXT, fast);

    assert_has(text, "Subscribe at localhost:4444: 3000 calls on 3 connections, 2.0 s\n");
    assert_has(text, "                                     all          fast          slow\n");
    assert_has(text, "updates                             3008          1004          2004\n");
    assert_has(text, "updates a second                  1504.0         502.0        1002.0\n");
    assert_has(text, "fairness (Jain's index)           0.9000        0.9000        0.9000\n");
    assert_has(text, "latency max, ms                  200.000       100.000       200.000\n");
    assert_has(text, "first event p50, ms                    -             -             -\n");
    assert_has(text, "1 connections were lost\n2 calls ended with NotFound\n"
                     "5 calls ended with Unavailable\nthe first failure: NotFound: ");
    assert_has(single, "updates                             1004\n");
    assert_null(strstr(single, "slow"));
}

static void test_json(void **state)
{
    _cleanup_free_ struct bench_class *classes = make_classes(true);
    _cleanup_free_ char *text = report_text(PRINT_JSON, classes);

    assert_has(
        text,
        "{\"method\": \"Subscribe\", \"target\": \"localhost:4444\", \"seconds\": 2.000000, ");
    assert_has(text, "\"connections\": 3, \"connections_lost\": 1, \"all\": {\"calls\": 3000, ");
    assert_has(text, "\"slow\": {\"calls\": 2000, ");
    assert_has(text, "\"first_ms\": null}");
    assert_has(text, "\"latency_ms\": {\"count\": 100, \"mean\": 50.500000, \"p50\": 50.");
    assert_has(text, "\"statuses\": {\"NotFound\": 2, \"Unavailable\": 5}, ");
    assert_has(text, "\"first_error\": \"NotFound: \\\"X\\\" is\\n\xc3\xa9 no \\\\\"}\n");
}

static unsigned count_of(const char *line, char c)
{
    unsigned count = 0;

    for (; *line && *line != '\n'; line++)
        count += *line == c;
    return count;
}

static void test_csv(void **state)
{
    _cleanup_free_ struct bench_class *classes = make_classes(true);
    _cleanup_free_ char *text = report_text(PRINT_CSV, classes);
    unsigned commas = count_of(text, ',');
    unsigned lines = 0;

    assert_true(strncmp(text, "class,seconds,calls,answered,", 29) == 0);
    for (const char *line = text; *line; line = strchr(line, '\n') + 1, lines++)
        assert_int_equal(count_of(line, ','), commas);
    assert_int_equal(lines, 4);
    assert_has(text, "\nall,2.000000,3000,3002,");
    assert_has(text, "\nslow,2.000000,2000,2001,");
}

static void test_progress(void **state)
{
    struct bench_progress progress = {
        .seconds = 5,
        .seconds_max = 10,
        .calls = 100,
        .failed = 3,
        .rate = 1234.4,
        .lag_ns = 1500000,
        .columns = 200,
    };
    struct text text = {0};

    bench_progress_write(&text, &progress);
    text_add_char(&text, 0);
    assert_string_equal(text.bytes, "[##########          ] 5/10 s, 100 calls, 1234 updates/s, "
                                    "p99 1.5 ms, 3 failed");
    text_deinit(&text);

    /* The last column stays free: a terminal might go to the next line after it. */
    for (unsigned columns = 0; columns < 100; columns++) {
        progress.columns = columns;
        bench_progress_write(&text, &progress);
        assert_true(text.size <= (columns > 0 ? columns - 1 : 0));
        text_deinit(&text);
    }
    progress.seconds = 1e9;
    bench_progress_write(&text, &progress);
    assert_int_equal(text.bytes[20], '#');
    text_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fairness), cmocka_unit_test(test_text),
        cmocka_unit_test(test_json),     cmocka_unit_test(test_csv),
        cmocka_unit_test(test_progress),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
