/*
 * Stages as people write them, and how many calls they mean at what time.
 */
#include "client/command_bench_schedule.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static void test_stages(void **state)
{
    static const struct {
        uint64_t at_ms;
        uint32_t calls;
    } expected[] = {
        {0, 0},      {1, 1},        {100, 1},        {101, 2},      {5000, 50},  {9900, 99},
        {9901, 100}, {10000, 100},  {25000, 550},    {39999, 1000}, {40000, 10}, {45000, 10},
        {50000, 10}, {50001, 9},    {50500, 5},      {50901, 0},    {50999, 0},  {51000, 0},
        {60000, 0},  {86400000, 0}, {UINT64_MAX, 0},
    };
    char error[BENCH_SCHEDULE_ERROR_MAX] = "";
    struct bench_schedule schedule;

    assert_int_equal(bench_schedule_parse(&schedule, "10s:100,30s:1000,0:10,10s:10,1s:0", error),
                     0);
    assert_int_equal(schedule.count, 5);
    assert_int_equal(bench_schedule_total_ms(&schedule), 51000);
    assert_int_equal(bench_schedule_calls_max(&schedule), 1000);
    for (size_t i = 0; i < ELEMENTSOF(expected); i++)
        assert_int_equal(bench_schedule_calls(&schedule, expected[i].at_ms), expected[i].calls);
}

static void test_faults(void **state)
{
    static const struct {
        const char *text;
        const char *why;
    } faults[] = {
        {"", "no TIME:CALLS"},
        {"10s", "\"10s\" is no TIME:CALLS"},
        {"10s:5,", "stage \"\" is no TIME:CALLS"},
        {"10s:x", "stage \"10s:x\": calls"},
        {"x:5", "stage \"x:5\": time"},
        {"10:5", "time"},
        {"10s:5:6", "calls"},
        {"10s:-1", "calls"},
        {"10s:1000001", "calls"},
        {"2d:5", "time"},
        {"10s:0", "no stage has any calls"},
        {"0:5", "no stage takes any time"},
    };
    struct bench_schedule schedule = {.count = 77};
    char text[65 * 5 + 1] = "";

    for (size_t i = 0; i < ELEMENTSOF(faults); i++) {
        char error[BENCH_SCHEDULE_ERROR_MAX] = "";

        assert_int_equal(bench_schedule_parse(&schedule, faults[i].text, error), -EINVAL);
        if (!strstr(error, faults[i].why))
            fail_msg("\"%s\" gives: %s", faults[i].text, error);
        assert_int_equal(schedule.count, 77);
    }
    for (unsigned i = 0; i < BENCH_STAGES_MAX + 1; i++) {
        char error[BENCH_SCHEDULE_ERROR_MAX] = "";

        strcat(text, i == 0 ? "1s:1" : ",1s:1");
        assert_int_equal(bench_schedule_parse(&schedule, text, error),
                         i < BENCH_STAGES_MAX ? 0 : -EINVAL);
    }
}

static void test_simple(void **state)
{
    struct bench_schedule schedule;

    bench_schedule_simple(&schedule, 300, 0, 2000);
    assert_int_equal(bench_schedule_total_ms(&schedule), 2000);
    assert_int_equal(bench_schedule_calls(&schedule, 0), 300);
    assert_int_equal(bench_schedule_calls(&schedule, 1999), 300);

    bench_schedule_simple(&schedule, 300, 100, 2000);
    assert_int_equal(bench_schedule_total_ms(&schedule), 5000);
    assert_int_equal(bench_schedule_calls(&schedule, 0), 0);
    assert_int_equal(bench_schedule_calls(&schedule, 1500), 150);
    assert_int_equal(bench_schedule_calls(&schedule, 3000), 300);
    assert_int_equal(bench_schedule_calls(&schedule, 4999), 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_simple),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
