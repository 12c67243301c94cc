/*
 * metrics_render() with the Nth allocation failing, for every N.
 */
#include "base/metrics.h"

#include "base/util.h"
#include "failmalloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Enough for the buffer to grow several times. */
static void collect_much(struct metrics_writer *writer, const struct metric_family *family,
                         void *context)
{
    for (uint64_t i = 0; i < 10000; i++)
        metrics_u64(writer, i, "label", "a \"value\"", NULL);
}

static void collect_histogram(struct metrics_writer *writer, const struct metric_family *family,
                              void *context)
{
    metrics_histogram(writer, context);
}

static const struct metric_family families[] = {
    {"much_total", METRIC_COUNTER, "Much.", collect_much, 0},
    {"lag_seconds", METRIC_HISTOGRAM, "Lag.", collect_histogram, 0},
    {"more_total", METRIC_COUNTER, "More.", collect_much, 0},
};

static void test_render(void **state)
{
    static const double bounds[] = {0.1, 1};
    struct histogram histogram;
    char *whole = NULL, *untouched = (char *)"untouched";
    size_t whole_size = 0, nth;

    histogram_init(&histogram, bounds, ELEMENTSOF(bounds));
    assert_int_equal(metrics_render(families, ELEMENTSOF(families), &histogram, METRICS_OPENMETRICS,
                                    &whole, &whole_size),
                     0);
    for (nth = 1;; nth++) {
        char *text = untouched;
        size_t size = 12345;

        failmalloc_arm(nth);
        int r = metrics_render(families, ELEMENTSOF(families), &histogram, METRICS_OPENMETRICS,
                               &text, &size);
        if (!failmalloc_disarm()) {
            assert_int_equal(r, 0);
            assert_int_equal(size, whole_size);
            assert_string_equal(text, whole);
            free(text);
            break;
        }
        assert_int_equal(r, -ENOMEM);
        assert_ptr_equal(text, untouched);
        assert_int_equal(size, 12345);
    }
    /* The buffer doubles: few allocations for half a megabyte. */
    assert_in_range(nth, 4, 12);
    free(whole);
}

/* What the process says about itself needs one buffer, and no more. */
static void test_process(void **state)
{
    char *text;
    size_t size;

    failmalloc_arm(1);
    assert_int_equal(
        metrics_render(metrics_process, metrics_process_count, NULL, METRICS_TEXT, &text, &size),
        -ENOMEM);
    assert_true(failmalloc_disarm());

    failmalloc_arm(2);
    assert_int_equal(
        metrics_render(metrics_process, metrics_process_count, NULL, METRICS_TEXT, &text, &size),
        0);
    assert_false(failmalloc_disarm());
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render),
        cmocka_unit_test(test_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
