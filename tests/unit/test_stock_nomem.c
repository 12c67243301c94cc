/*
 * The stock service without memory: nothing leaks, and new options that cannot be taken leave the
 * old ones in force.
 */
#include "failmalloc.h"
#include "memory.h"
#include "services/stock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct stock_options options = {
    .ticker = "AAPL", .start_price = 150.0, .interval_ms = 100, .seed = 1};

static void test_new(void **state)
{
    struct stock_service *service = NULL;
    struct world world;
    size_t nth = 1;
    int r;

    world_init(&world);
    for (;; nth++) {
        failmalloc_arm(nth);
        r = stock_service_new(&service, &world.loop, &options);
        if (!failmalloc_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
        assert_null(service);
    }
    assert_int_equal(r, 0);
    assert_true(nth > 1);
    assert_null(stock_service_free(service));
    world_deinit(&world);
}

static void test_configure(void **state)
{
    struct stock_service *service = NULL;
    struct world world;
    size_t nth = 1;
    int r;

    world_init(&world);
    assert_int_equal(stock_service_new(&service, &world.loop, &options), 0);
    for (;; nth++) {
        failmalloc_arm(nth);
        r = stock_service_configure(service, &options);
        if (!failmalloc_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
    }
    assert_int_equal(r, 0);
    assert_true(nth > 1);
    assert_null(stock_service_free(service));
    world_deinit(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new),
        cmocka_unit_test(test_configure),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
