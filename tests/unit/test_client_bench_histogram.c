/*
 * Quantiles beside those of the sorted times themselves.
 */
#include "client/command_bench_histogram.h"

#include "base/util.h"
#include "market/walk.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* After the four headers that it needs. */
#include <cmocka.h>

enum { COUNT = 20000 };

static const double quantiles[] = {0, 1e-9, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1};

static struct bench_histogram *make(void)
{
    struct bench_histogram *histogram = calloc(1, sizeof(*histogram));

    assert_non_null(histogram);
    return histogram;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void test_quantiles(void **state)
{
    _cleanup_free_ uint64_t *times = calloc(COUNT, sizeof(*times));
    struct random random = {.state = 4};

    assert_non_null(times);
    for (unsigned bits = 1; bits <= 64; bits++) {
        _cleanup_free_ struct bench_histogram *first = make();
        _cleanup_free_ struct bench_histogram *second = make();

        for (unsigned i = 0; i < COUNT; i++) {
            /* Of all sizes up to so many bits, not only of the longest. */
            times[i] = random_next(&random) >> (64 - bits) >> (random_next(&random) % bits);
            bench_histogram_add(i % 2 ? first : second, times[i]);
        }
        bench_histogram_merge(first, second);
        assert_int_equal(first->count, COUNT);
        qsort(times, COUNT, sizeof(*times), compare);
        for (size_t i = 0; i < ELEMENTSOF(quantiles); i++) {
            size_t rank = (size_t)ceil(quantiles[i] * COUNT);
            uint64_t exact = times[rank > 0 ? rank - 1 : 0];
            uint64_t found = bench_histogram_quantile_ns(first, quantiles[i]);

            assert_true(found >= exact);
            assert_true(found - exact <= exact / BENCH_HISTOGRAM_PARTS);
        }
        assert_int_equal(bench_histogram_quantile_ns(first, 1), times[COUNT - 1]);
    }
}

static void test_limits(void **state)
{
    _cleanup_free_ struct bench_histogram *histogram = make();

    assert_int_equal(bench_histogram_quantile_ns(histogram, 0.5), 0);
    bench_histogram_add(histogram, UINT64_MAX);
    assert_true(bench_histogram_quantile_ns(histogram, 0.5) == UINT64_MAX);
    bench_histogram_add(histogram, 0);
    assert_int_equal(bench_histogram_quantile_ns(histogram, 0.5), 0);
    assert_true(histogram->max_ns == UINT64_MAX);
}

/* Each value has a bucket, and none comes before that of a smaller one. */
static void test_order(void **state)
{
    uint64_t before = 0;

    for (unsigned bits = 0; bits < 64; bits++) {
        for (int offset = -1; offset <= 1; offset++) {
            uint64_t time = ((uint64_t)1 << bits) + (uint64_t)offset;
            _cleanup_free_ struct bench_histogram *histogram = make();

            bench_histogram_add(histogram, time);
            bench_histogram_add(histogram, UINT64_MAX);
            assert_true(bench_histogram_quantile_ns(histogram, 0.5) >= time);
            assert_true(bench_histogram_quantile_ns(histogram, 0.5) >= before || offset < 0);
            before = bench_histogram_quantile_ns(histogram, 0.5);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantiles),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
