/*
 * What top shows: rows, their order, filter and cells, the columns that fit, and what keys do.
 */
#include "client/command_top_keys.h"
#include "client/command_top_model.h"

#include "base/util.h"

#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#define SECOND_NS UINT64_C(1000000000)
#define NOW_NS (1000 * SECOND_NS)
#define NOW_MS 50000

struct scene {
    struct top_model model;
    struct top_keys keys;
    char text[TOP_CELL_MAX];
    char names[256];
};

static int set_up(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));

    assert_non_null(scene);
    top_model_init(&scene->model, 7);
    scene->keys = (struct top_keys){.model = &scene->model, .page = 3};
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;

    top_model_deinit(&scene->model);
    free(scene);
    return 0;
}

static Stockservice__MarketEvent event_of(Stockservice__StockUpdate *update)
{
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;

    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;
    event.update = update;
    event.time_unix_nano = NOW_NS;
    return event;
}

static void add(struct scene *scene, const char *ticker, double price, double change, double open)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    Stockservice__MarketEvent event = event_of(&update);

    update.ticker = (char *)ticker;
    update.price = price;
    update.change = change;
    update.openprice = open;
    assert_int_equal(top_model_add(&scene->model, &event, NOW_NS, NOW_MS), 0);
}

/* The names that are shown, in their order. */
static const char *shown(struct scene *scene)
{
    size_t used = 0;

    assert_int_equal(top_model_arrange(&scene->model, NOW_MS), 0);
    scene->names[0] = 0;
    for (size_t i = 0; i < scene->model.shown; i++)
        used += (size_t)snprintf(scene->names + used, sizeof(scene->names) - used, "%s%s",
                                 i > 0 ? " " : "", top_model_row(&scene->model, i)->name);
    return scene->names;
}

static const char *cell_at(struct scene *scene, size_t row, enum top_column column, unsigned width,
                           bool utf8)
{
    memset(scene->text, 'x', sizeof(scene->text));
    assert_int_equal(top_model_arrange(&scene->model, NOW_MS), 0);
    top_cell(&scene->model, top_model_row(&scene->model, row), column, width, utf8,
             NOW_NS + 3 * SECOND_NS / 2, NOW_MS, scene->text);
    return scene->text;
}

static const char *cell(struct scene *scene, enum top_column column, unsigned width)
{
    return cell_at(scene, 0, column, width, true);
}

/* ---- Rows ---- */

static void an_update_is_a_row_with_its_figures(void **state)
{
    struct scene *scene = *state;

    add(scene, "AAPL", 148.2, -1.8, 150);
    assert_string_equal(cell(scene, TOP_TICKER, 8), "AAPL    ");
    assert_string_equal(cell(scene, TOP_PRICE, 10), "    148.20");
    assert_string_equal(cell(scene, TOP_CHANGE, 9), "    -1.80");
    assert_string_equal(cell(scene, TOP_PERCENT, 8), "  -1.20%");
    assert_string_equal(cell(scene, TOP_TREND, 4), "   ▅");
    assert_string_equal(cell(scene, TOP_AGE, 6), "  1.5s");
    assert_string_equal(cell(scene, TOP_LAG, 6), " 0.0ms");
    assert_string_equal(cell(scene, TOP_GAPS, 7), "      0");
    assert_int_equal(top_row_direction(top_model_row(&scene->model, 0)), -1);
    add(scene, "AAPL", 151.2, 3, 150);
    assert_int_equal(scene->model.live.count, 1);
    assert_string_equal(cell(scene, TOP_CHANGE, 9), "    +1.20");
    assert_int_equal(top_row_direction(top_model_row(&scene->model, 0)), 1);
}

/* Where it rounds to nothing it is nothing: no sign that the eye cannot explain. */
static void a_change_too_small_to_be_seen_is_none(void **state)
{
    struct scene *scene = *state;

    add(scene, "AAPL", 149.9999, 0, 150);
    assert_string_equal(cell(scene, TOP_CHANGE, 9), "     0.00");
    assert_string_equal(cell(scene, TOP_PERCENT, 8), "   0.00%");
    assert_int_equal(top_row_direction(top_model_row(&scene->model, 0)), 0);
}

static void without_an_open_price_changes_count_from_the_first(void **state)
{
    struct scene *scene = *state;

    add(scene, "AAPL", 200, 0, 0);
    assert_string_equal(cell(scene, TOP_CHANGE, 9), "     0.00");
    add(scene, "AAPL", 210, 10, NAN);
    assert_string_equal(cell(scene, TOP_CHANGE, 9), "   +10.00");
    assert_string_equal(cell(scene, TOP_PERCENT, 8), "  +5.00%");
}

static void prices_of_all_sizes_fit(void **state)
{
    static const struct {
        double price;
        const char *text;
    } cases[] = {
        {0.00001234, "  0.000012"}, {0.5, "    0.5000"},         {99999.994, "  99999.99"},
        {1234567.5, " 1234567.5"},  {123456789.4, " 123456789"}, {12345678901.0, "  1.23e+10"},
        {1e300, " 1.00e+300"},      {NAN, "         -"},         {-INFINITY, "         -"},
    };
    struct scene *scene = *state;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        add(scene, "A", cases[i].price, 0, 1);
        assert_string_equal(cell(scene, TOP_PRICE, 10), cases[i].text);
        for (int column = 0; column < TOP_COLUMN_COUNT; column++) {
            unsigned width = top_columns[column].width;
            wchar_t wide[TOP_CELL_MAX];

            (void)cell(scene, (enum top_column)column, width);
            assert_int_equal(mbstowcs(wide, scene->text, TOP_CELL_MAX), width);
        }
    }
}

static void updates_that_do_not_follow_are_gaps(void **state)
{
    struct scene *scene = *state;

    add(scene, "A", 100, 1, 100);
    add(scene, "A", 101, 1, 100);
    add(scene, "A", 105, 2, 100);
    add(scene, "A", 104, -1, 100);
    assert_string_equal(cell(scene, TOP_GAPS, 7), "      1");
    /* A new stream does not have to follow the one before. */
    top_model_restart(&scene->model);
    add(scene, "A", 300, 1, 100);
    assert_string_equal(cell(scene, TOP_GAPS, 7), "      1");
}

static void a_snapshot_has_neither_rate_nor_lag(void **state)
{
    struct scene *scene = *state;
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    Stockservice__MarketEvent event = event_of(&update);

    update.ticker = (char *)"A";
    update.price = 5;
    event.snapshot = 1;
    event.time_unix_nano = NOW_NS - 100 * SECOND_NS;
    assert_int_equal(top_model_add(&scene->model, &event, NOW_NS, NOW_MS), 0);
    assert_string_equal(cell(scene, TOP_RATE, 7), "    0.0");
    assert_string_equal(cell(scene, TOP_LAG, 6), "     -");
    assert_string_equal(cell(scene, TOP_AGE, 6), "    1m");
    assert_string_equal(cell(scene, TOP_PRICE, 10), "      5.00");
}

static void what_is_no_update_makes_no_row(void **state)
{
    struct scene *scene = *state;
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;
    Stockservice__Heartbeat heartbeat = STOCKSERVICE__HEARTBEAT__INIT;

    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT;
    event.heartbeat = &heartbeat;
    assert_int_equal(top_model_add(&scene->model, &event, NOW_NS, NOW_MS), 0);
    assert_int_equal(top_model_tickers(&scene->model), 0);
    assert_string_equal(shown(scene), "");
}

static void ten_thousand_tickers_find_their_rows(void **state)
{
    struct scene *scene = *state;
    char name[16];

    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < 10000; i++) {
            (void)snprintf(name, sizeof(name), "T%d", i);
            add(scene, name, i + round, 1, 1);
        }
    }
    assert_int_equal(scene->model.live.count, 10000);
    for (int i = 0; i < 10000; i++) {
        (void)snprintf(name, sizeof(name), "T%d", i);
        assert_string_equal(scene->model.live.rows[i].name, name);
        assert_true(scene->model.live.rows[i].price == i + 2);
        assert_int_equal(scene->model.live.rows[i].gaps, 0);
    }
}

static void rows_have_an_end(void **state)
{
    struct scene *scene = *state;
    char name[16];

    for (int i = 0; i < TOP_ROWS_MAX + 5; i++) {
        (void)snprintf(name, sizeof(name), "T%d", i);
        add(scene, name, 1, 0, 1);
    }
    assert_int_equal(scene->model.live.count, TOP_ROWS_MAX);
    assert_int_equal(scene->model.unseen, 5);
    add(scene, "T0", 2, 1, 1);
    assert_int_equal(scene->model.unseen, 5);
}

/* ---- Order, filter, freezing ---- */

static void add_four(struct scene *scene)
{
    add(scene, "MSFT", 300, 1, 310);   /* -10, -3.2 % */
    add(scene, "AAPL", 150, 1, 100);   /* +50, +50 % */
    add(scene, "GOOG", 2000, 1, 1980); /* +20, +1 % */
    add(scene, "ORCL", 150, 1, 149);   /* +1, +0.7 % */
}

static void rows_are_sorted_by_any_column(void **state)
{
    struct scene *scene = *state;

    add_four(scene);
    assert_string_equal(shown(scene), "AAPL GOOG MSFT ORCL");
    top_model_sort(&scene->model, TOP_TICKER);
    assert_string_equal(shown(scene), "ORCL MSFT GOOG AAPL");
    /* What is equal is in the order of names in both directions. */
    top_model_sort(&scene->model, TOP_PRICE);
    assert_string_equal(shown(scene), "GOOG MSFT AAPL ORCL");
    top_model_sort(&scene->model, TOP_PRICE);
    assert_string_equal(shown(scene), "AAPL ORCL MSFT GOOG");
    top_model_sort(&scene->model, TOP_CHANGE);
    assert_string_equal(shown(scene), "AAPL GOOG ORCL MSFT");
    top_model_sort(&scene->model, TOP_PERCENT);
    assert_string_equal(shown(scene), "AAPL GOOG ORCL MSFT");
    top_model_sort(&scene->model, TOP_PERCENT);
    assert_string_equal(shown(scene), "MSFT ORCL GOOG AAPL");
    add(scene, "GOOG", 9, 1, 1980);
    top_model_sort(&scene->model, TOP_GAPS);
    assert_string_equal(shown(scene), "GOOG AAPL MSFT ORCL");
    top_model_sort(&scene->model, TOP_RATE);
    assert_string_equal(shown(scene), "GOOG AAPL MSFT ORCL");
    top_model_sort(&scene->model, TOP_TREND); /* a picture has no order */
    assert_int_equal(scene->model.sort, TOP_RATE);
}

static void age_and_lag_sort_the_slowest_first(void **state)
{
    struct scene *scene = *state;
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    Stockservice__MarketEvent event = event_of(&update);
    static const char *const names[] = {"OLD", "NEW", "MID", "SNAP"};
    static const unsigned ages_s[] = {30, 10, 20, 40};

    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        event.update->ticker = (char *)names[i];
        event.snapshot = i == 3;
        event.time_unix_nano = NOW_NS - ages_s[i] * SECOND_NS;
        assert_int_equal(top_model_add(&scene->model, &event, NOW_NS, NOW_MS), 0);
    }
    top_model_sort(&scene->model, TOP_AGE);
    assert_string_equal(shown(scene), "SNAP OLD MID NEW");
    top_model_sort(&scene->model, TOP_LAG);
    assert_string_equal(shown(scene), "OLD MID NEW SNAP");
    assert_string_equal(cell(scene, TOP_LAG, 6), "   30s");
}

static void prices_that_are_no_numbers_have_a_place(void **state)
{
    struct scene *scene = *state;

    add(scene, "NONE", NAN, 0, 1);
    add_four(scene);
    add(scene, "LESS", NAN, 0, 1);
    top_model_sort(&scene->model, TOP_PRICE);
    assert_string_equal(shown(scene), "GOOG MSFT AAPL ORCL LESS NONE");
}

static void a_filter_looks_for_text_in_any_case(void **state)
{
    struct scene *scene = *state;

    add_four(scene);
    top_model_filter(&scene->model, "o");
    assert_string_equal(shown(scene), "GOOG ORCL");
    top_model_filter(&scene->model, "OrC");
    assert_string_equal(shown(scene), "ORCL");
    top_model_filter(&scene->model, "[o]");
    assert_string_equal(shown(scene), "");
    assert_int_equal(top_model_tickers(&scene->model), 4);
    top_model_filter(&scene->model, "");
    assert_string_equal(shown(scene), "AAPL GOOG MSFT ORCL");
}

static void frozen_rows_stay_while_updates_come(void **state)
{
    struct scene *scene = *state;

    add_four(scene);
    assert_int_equal(top_model_freeze(&scene->model, true, NOW_NS, NOW_MS), 0);
    add(scene, "AAPL", 5, 1, 100);
    add(scene, "TSLA", 5, 1, 100);
    assert_string_equal(shown(scene), "AAPL GOOG MSFT ORCL");
    assert_string_equal(cell(scene, TOP_PRICE, 8), "  150.00");
    assert_string_equal(cell(scene, TOP_AGE, 6), "  0.0s");
    /* Order and filter go on working. */
    top_model_sort(&scene->model, TOP_PRICE);
    assert_string_equal(shown(scene), "GOOG MSFT AAPL ORCL");
    assert_int_equal(top_model_freeze(&scene->model, false, NOW_NS, NOW_MS), 0);
    assert_string_equal(shown(scene), "GOOG MSFT ORCL AAPL TSLA");
}

/* ---- Cells ---- */

static void a_trend_goes_from_the_lowest_to_the_highest(void **state)
{
    struct scene *scene = *state;

    for (int i = 1; i <= 8; i++)
        add(scene, "A", i, 1, 1);
    assert_string_equal(cell(scene, TOP_TREND, 8), "▁▂▃▄▅▆▇█");
    assert_string_equal(cell_at(scene, 0, TOP_TREND, 8, false), "_.,-=+*#");
    assert_string_equal(cell(scene, TOP_TREND, 3), "▁▅█");
    assert_string_equal(cell(scene, TOP_TREND, 10), "  ▁▂▃▄▅▆▇█");
    /* What is no number is left out of it, and what is old goes. */
    add(scene, "A", NAN, 0, 1);
    assert_string_equal(cell(scene, TOP_TREND, 2), "▁█");
    for (int i = 0; i < 3 * TOP_TREND_MAX; i++)
        add(scene, "A", 1 + i % 2, 0, 1);
    assert_string_equal(cell(scene, TOP_TREND, 4), "▁█▁█");
    (void)cell(scene, TOP_TREND, 1000);
    assert_int_equal(strlen(scene->text), 3 * TOP_TREND_MAX);
}

static void a_trend_may_be_flat_or_endless(void **state)
{
    struct scene *scene = *state;

    add(scene, "A", 5, 0, 1);
    add(scene, "A", 5, 0, 1);
    assert_string_equal(cell(scene, TOP_TREND, 2), "▅▅");
    add(scene, "A", -1.7e308, 0, 1);
    add(scene, "A", 1.7e308, 0, 1);
    assert_string_equal(cell(scene, TOP_TREND, 2), "▁█");
}

static void names_cannot_do_anything_to_the_screen(void **state)
{
    static const struct {
        const char *name;
        const char *utf8;
        const char *ascii;
    } cases[] = {
        {"\033[2J", "\xEF\xBF\xBD[2J    ", "?[2J    "},
        {"a\nb\rc\td",
         "a\xEF\xBF\xBD"
         "b\xEF\xBF\xBD"
         "c\xEF\xBF\xBD"
         "d ",
         "a?b?c?d "},
        {"\x9b[31m", "\xEF\xBF\xBD[31m   ", "?[31m   "},
        {"\xC2\x9b[31m", "\xEF\xBF\xBD[31m   ", "?[31m   "}, /* C1 */
        {"\xE2\x80\xAE"
         "abc",
         "\xEF\xBF\xBD"
         "abc    ",
         "?abc    "},                                        /* right to left */
        {"e\xCC\x81", "e\xEF\xBF\xBD      ", "e?      "},    /* combining */
        {"\xE2\x80\x8B", "\xEF\xBF\xBD       ", "?       "}, /* of no width */
        {"\xC3\xA4", "\xC3\xA4       ", "?       "},
        {"\xE6\x97\xA5\xE6\x9C\xAC", "\xE6\x97\xA5\xE6\x9C\xAC    ", "??      "}, /* wide */
        {"123456789", "1234567\xE2\x80\xA6", "1234567~"},
        {"12345678", "12345678", "12345678"},
        {"123456\xE6\x97\xA5\xE6\x97\xA5", "123456\xE2\x80\xA6 ", "123456??"},
        {"", "        ", "        "},
    };
    struct scene *scene = *state;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        top_text(scene->text, 8, true, cases[i].name);
        assert_string_equal(scene->text, cases[i].utf8);
        top_text(scene->text, 8, false, cases[i].name);
        assert_string_equal(scene->text, cases[i].ascii);
    }
    assert_int_equal(top_text_width(true, "\xE6\x97\xA5\xE6\x9C\xAC"), 4);
    assert_int_equal(top_text_width(false, "\xE6\x97\xA5\xE6\x9C\xAC"), 2);
    top_text(scene->text, 0, true, "abc");
    assert_string_equal(scene->text, "");
}

/* Any bytes at all, in any width: as wide as was said, and nothing that a terminal would obey. */
static void no_name_is_wider_than_its_cell(void **state)
{
    struct scene *scene = *state;
    uint32_t random = 12345;

    for (int round = 0; round < 20000; round++) {
        char name[12];
        wchar_t wide[TOP_CELL_MAX];
        unsigned width = (unsigned)round % 9 + 1;
        size_t count;

        for (size_t i = 0; i < sizeof(name) - 1; i++) {
            random = random * 1664525u + 1013904223u;
            name[i] = (char)(random >> 24 | 1);
        }
        name[sizeof(name) - 1] = 0;
        top_text(scene->text, width, true, name);
        count = mbstowcs(wide, scene->text, TOP_CELL_MAX);
        assert_true(count != (size_t)-1);
        assert_int_equal(wcswidth(wide, count), width);
        top_text(scene->text, width, false, name);
        assert_int_equal(strlen(scene->text), width);
        for (size_t i = 0; i < width; i++)
            assert_in_range(scene->text[i], 0x20, 0x7e);
    }
}

/* ---- Layout ---- */

static void columns_fit_into_any_width(void **state)
{
    for (unsigned width = 8; width <= 250; width++) {
        struct top_layout layout;
        unsigned end = 0;

        top_layout(&layout, width);
        for (size_t i = 0; i < TOP_COLUMN_COUNT; i++) {
            if (layout.width[i] == 0)
                continue;
            assert_true(layout.width[i] >= top_columns[i].width);
            assert_true(layout.width[i] <= TOP_TREND_MAX);
            assert_int_equal(layout.x[i], end > 0 ? end + 1 : 0);
            end = layout.x[i] + layout.width[i];
        }
        assert_true(end <= width);
        assert_true(layout.width[TOP_TICKER] > 0);
    }
}

static void eighty_columns_show_all_and_forty_what_counts(void **state)
{
    struct top_layout layout;

    top_layout(&layout, 80);
    for (size_t i = 0; i < TOP_COLUMN_COUNT; i++)
        assert_true(layout.width[i] > 0);
    top_layout(&layout, 40);
    assert_true(layout.width[TOP_TICKER] && layout.width[TOP_PRICE] && layout.width[TOP_PERCENT] &&
                layout.width[TOP_TREND]);
    assert_false(layout.width[TOP_CHANGE] || layout.width[TOP_GAPS]);
    top_layout(&layout, 1);
    assert_int_equal(layout.width[TOP_TICKER], top_columns[TOP_TICKER].width);
    top_layout(&layout, 200);
    assert_int_equal(layout.width[TOP_TREND], TOP_TREND_MAX);
}

/* ---- Keys ---- */

static void press(struct scene *scene, const char *keys)
{
    for (; *keys; keys++)
        assert_int_equal(top_keys_press(&scene->keys, (unsigned char)*keys), TOP_DRAW);
}

static void letters_sort_by_columns(void **state)
{
    struct scene *scene = *state;

    add_four(scene);
    press(scene, "%");
    assert_string_equal(shown(scene), "AAPL GOOG ORCL MSFT");
    press(scene, "r");
    assert_string_equal(shown(scene), "MSFT ORCL GOOG AAPL");
    press(scene, "%");
    assert_string_equal(shown(scene), "AAPL GOOG ORCL MSFT");
    press(scene, "T");
    assert_int_equal(scene->model.sort, TOP_TICKER);
    assert_int_equal(top_keys_press(&scene->keys, 'Z'), TOP_NOTHING);
    assert_int_equal(top_keys_press(&scene->keys, 0), TOP_NOTHING);
    assert_int_equal(scene->model.sort, TOP_TICKER);
}

static void arrows_go_through_all_columns(void **state)
{
    struct scene *scene = *state;

    press(scene, "<");
    assert_int_equal(scene->model.sort, TOP_TICKER);
    assert_false(scene->model.descending); /* there is none beside it, so nothing is turned */
    press(scene, ">>>");
    assert_int_equal(scene->model.sort, TOP_PERCENT);
    press(scene, ">"); /* over the trends, which have no order */
    assert_int_equal(scene->model.sort, TOP_RATE);
    press(scene, "<");
    assert_int_equal(scene->model.sort, TOP_PERCENT);
    press(scene, ">>>>>>>>>");
    assert_int_equal(scene->model.sort, TOP_GAPS);
    assert_true(scene->model.descending);
}

static void a_filter_is_typed(void **state)
{
    struct scene *scene = *state;

    add_four(scene);
    press(scene, "/gx");
    assert_int_equal(scene->keys.mode, TOP_FILTER);
    assert_string_equal(shown(scene), "");
    assert_int_equal(top_keys_press(&scene->keys, SCREEN_BACKSPACE), TOP_DRAW);
    assert_string_equal(shown(scene), "GOOG");
    /* Letters are letters here. */
    press(scene, "q\n");
    assert_int_equal(scene->keys.mode, TOP_TABLE);
    assert_string_equal(scene->model.filter, "gq");
    /* Another is begun, and undone. */
    press(scene, "/orc");
    assert_string_equal(shown(scene), "ORCL");
    assert_int_equal(top_keys_press(&scene->keys, SCREEN_ESCAPE), TOP_DRAW);
    assert_string_equal(scene->model.filter, "gq");
    assert_int_equal(top_keys_press(&scene->keys, SCREEN_ESCAPE), TOP_DRAW);
    assert_string_equal(scene->model.filter, "");
    /* Emptied by deleting, it ends. */
    press(scene, "/a");
    (void)top_keys_press(&scene->keys, SCREEN_BACKSPACE);
    assert_int_equal(scene->keys.mode, TOP_FILTER);
    (void)top_keys_press(&scene->keys, SCREEN_BACKSPACE);
    assert_int_equal(scene->keys.mode, TOP_TABLE);
}

static void a_filter_is_text_and_not_too_long(void **state)
{
    struct scene *scene = *state;

    press(scene, "/");
    assert_int_equal(top_keys_press(&scene->keys, SCREEN_UP), TOP_NOTHING);
    assert_int_equal(top_keys_press(&scene->keys, SCREEN_OTHER_KEY), TOP_NOTHING);
    assert_int_equal(top_keys_press(&scene->keys, 1), TOP_NOTHING);
    for (int i = 0; i < 2 * TOP_NAME_SIZE; i++)
        (void)top_keys_press(&scene->keys, 'a');
    assert_int_equal(strlen(scene->model.filter), TOP_NAME_SIZE - 1);
    (void)top_keys_press(&scene->keys, SCREEN_CTRL('u'));
    assert_string_equal(scene->model.filter, "");
}

static void scrolling_stays_among_the_rows(void **state)
{
    struct scene *scene = *state;
    char name[16];

    for (int i = 0; i < 10; i++) {
        (void)snprintf(name, sizeof(name), "T%d", i);
        add(scene, name, 1, 0, 1);
    }
    (void)shown(scene);
    press(scene, "k");
    assert_int_equal(scene->keys.first, 0);
    press(scene, "jj");
    assert_int_equal(scene->keys.first, 2);
    press(scene, " ");
    assert_int_equal(scene->keys.first, 5);
    press(scene, "b");
    assert_int_equal(scene->keys.first, 2);
    (void)top_keys_press(&scene->keys, SCREEN_END);
    assert_int_equal(scene->keys.first, 7);
    (void)top_keys_press(&scene->keys, SCREEN_PAGE_DOWN);
    (void)top_keys_press(&scene->keys, SCREEN_DOWN);
    assert_int_equal(scene->keys.first, 7);
    (void)top_keys_press(&scene->keys, SCREEN_HOME);
    assert_int_equal(scene->keys.first, 0);
    /* Fewer rows: the last page. */
    (void)top_keys_press(&scene->keys, SCREEN_END);
    top_model_filter(&scene->model, "T1");
    (void)shown(scene);
    top_keys_clamp(&scene->keys);
    assert_int_equal(scene->keys.first, 0);
}

static void help_comes_and_goes(void **state)
{
    struct scene *scene = *state;

    press(scene, "?");
    assert_int_equal(scene->keys.mode, TOP_HELP);
    press(scene, "q");
    assert_int_equal(scene->keys.mode, TOP_TABLE);
    press(scene, "h");
    assert_int_equal(scene->keys.mode, TOP_HELP);
    assert_int_equal(top_keys_press(&scene->keys, SCREEN_CTRL('l')), TOP_CLEAR);
    press(scene, " ");
    assert_int_equal(top_keys_press(&scene->keys, 'p'), TOP_PAUSE);
    assert_int_equal(top_keys_press(&scene->keys, 'q'), TOP_QUIT);
}

/* It has to fit under the head of a screen of 80x24. */
static void help_fits_into_a_small_screen(void **state)
{
    size_t lines = 0;

    for (; top_keys_help[lines]; lines++)
        assert_true(strlen(top_keys_help[lines]) < 79);
    assert_true(lines <= 24 - 1 - 2 - 1 - 1);
}

#define test(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(an_update_is_a_row_with_its_figures),
        test(a_change_too_small_to_be_seen_is_none),
        test(without_an_open_price_changes_count_from_the_first),
        test(prices_of_all_sizes_fit),
        test(updates_that_do_not_follow_are_gaps),
        test(a_snapshot_has_neither_rate_nor_lag),
        test(what_is_no_update_makes_no_row),
        test(ten_thousand_tickers_find_their_rows),
        test(rows_have_an_end),
        test(rows_are_sorted_by_any_column),
        test(age_and_lag_sort_the_slowest_first),
        test(prices_that_are_no_numbers_have_a_place),
        test(a_filter_looks_for_text_in_any_case),
        test(frozen_rows_stay_while_updates_come),
        test(a_trend_goes_from_the_lowest_to_the_highest),
        test(a_trend_may_be_flat_or_endless),
        test(names_cannot_do_anything_to_the_screen),
        test(no_name_is_wider_than_its_cell),
        test(columns_fit_into_any_width),
        test(eighty_columns_show_all_and_forty_what_counts),
        test(letters_sort_by_columns),
        test(arrows_go_through_all_columns),
        test(a_filter_is_typed),
        test(a_filter_is_text_and_not_too_long),
        test(scrolling_stays_among_the_rows),
        test(help_comes_and_goes),
        test(help_fits_into_a_small_screen),
    };

    /* How wide characters are is known to the locale. */
    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
