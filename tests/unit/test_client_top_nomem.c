/*
 * The rows of top with the Nth allocation failing, for every N: what was there stays whole.
 */
#include "client/command_top_model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#include "failmalloc.h"

#define TICKERS 200

static int add_all(struct top_model *model, size_t *ret_added)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;
    char name[16];

    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;
    event.update = &update;
    update.ticker = name;
    update.price = 1;
    for (*ret_added = 0; *ret_added < TICKERS; ++*ret_added) {
        int r;

        (void)snprintf(name, sizeof(name), "T%03zu", *ret_added);
        r = top_model_add(model, &event, 1000, 1000);
        if (r < 0)
            return r;
    }
    return 0;
}

static void rows_survive_the_lack_of_memory(void **state)
{
    size_t failures = 0;

    for (size_t nth = 1;; nth++) {
        struct top_model model;
        size_t added = 0;
        int r;

        top_model_init(&model, 1);
        failmalloc_arm(nth);
        r = add_all(&model, &added);
        if (r == 0)
            r = top_model_arrange(&model, 1000);
        if (r == 0)
            r = top_model_freeze(&model, true, 1000, 1000);
        if (!failmalloc_disarm()) {
            assert_int_equal(r, 0);
            top_model_deinit(&model);
            break;
        }
        failures++;
        assert_int_equal(r, -ENOMEM);
        assert_false(model.frozen);
        assert_int_equal(model.live.count, added);
        /* And it goes on. */
        assert_int_equal(add_all(&model, &added), 0);
        assert_int_equal(top_model_arrange(&model, 1000), 0);
        assert_int_equal(model.shown, TICKERS);
        assert_string_equal(top_model_row(&model, TICKERS - 1)->name, "T199");
        assert_int_equal(top_model_freeze(&model, true, 1000, 1000), 0);
        assert_int_equal(top_model_tickers(&model), TICKERS);
        top_model_deinit(&model);
    }
    assert_true(failures > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_survive_the_lack_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
