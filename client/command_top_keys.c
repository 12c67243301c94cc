/*
 * Each key does one thing in each mode. Letters are those that less(1) and top(1) have taught.
 */
#include "client/command_top_keys.h"

#include "base/util.h"

#include <string.h>

const char *const top_keys_help[] = {
    "Down, j    Up, k     a row down or up",
    "PgDn Space PgUp, b   a page down or up",
    "Home, g    End       to the first or last row",
    "<, >  Left, Right    sort by the column beside",
    "T P C % R A L G      sort by ticker, price, change, change %, rate, age, ...",
    "r                    sort the other way round",
    "/                    show only tickers with some text in their names",
    "Esc                  show all tickers again",
    "p                    pause the table; the server goes on",
    "^L                   draw the screen anew",
    "?, h                 this help",
    "q, ^C                quit",
    "",
    "CHANGE  since the market's first price of the ticker",
    "RATE/s  updates that came in a second, after merging",
    "AGE     how long ago the market took the last one",
    "LAG     how old it was when it came, the wait for merging included",
    "GAPS    updates that did not follow the one before them,",
    "        because those between were merged, dropped or missed",
    NULL,
};

void top_keys_clamp(struct top_keys *keys)
{
    size_t shown = keys->model->shown;
    size_t last = shown > keys->page ? shown - keys->page : 0;

    keys->first = MIN(keys->first, last);
}

static void scroll(struct top_keys *keys, size_t rows, bool up)
{
    if (up)
        keys->first -= MIN(keys->first, rows);
    else
        keys->first += rows;
    top_keys_clamp(keys);
}

/* A filter that was typed shows from its first row on. */
static void set_filter(struct top_keys *keys, const char *filter)
{
    top_model_filter(keys->model, filter);
    keys->first = 0;
}

static enum top_action press_in_filter(struct top_keys *keys, int key)
{
    char filter[TOP_NAME_SIZE + 1];
    size_t size = strlen(keys->model->filter);

    memcpy(filter, keys->model->filter, size + 1);
    if (key == '\r' || key == '\n') {
        keys->mode = TOP_TABLE;
    } else if (key == SCREEN_ESCAPE) {
        keys->mode = TOP_TABLE;
        set_filter(keys, keys->before);
    } else if (key == SCREEN_BACKSPACE) {
        if (size == 0)
            keys->mode = TOP_TABLE;
        else
            filter[size - 1] = 0;
        set_filter(keys, filter);
    } else if (key == SCREEN_CTRL('u')) {
        set_filter(keys, "");
    } else if (key > ' ' && key < 0x7f && size + 1 < TOP_NAME_SIZE) {
        filter[size] = (char)key;
        filter[size + 1] = 0;
        set_filter(keys, filter);
    } else {
        return TOP_NOTHING;
    }
    return TOP_DRAW;
}

/* The keys that have the name of a column. */
static bool press_column(struct top_keys *keys, int key)
{
    for (size_t i = 0; i < TOP_COLUMN_COUNT; i++) {
        if (top_columns[i].key && key == top_columns[i].key) {
            top_model_sort(keys->model, (enum top_column)i);
            return true;
        }
    }
    return false;
}

static bool press_scroll(struct top_keys *keys, int key)
{
    switch (key) {
    case SCREEN_DOWN:
    case 'j':
        scroll(keys, 1, false);
        return true;
    case SCREEN_UP:
    case 'k':
        scroll(keys, 1, true);
        return true;
    case SCREEN_PAGE_DOWN:
    case ' ':
        scroll(keys, keys->page, false);
        return true;
    case SCREEN_PAGE_UP:
    case 'b':
        scroll(keys, keys->page, true);
        return true;
    case SCREEN_HOME:
    case 'g':
        keys->first = 0;
        return true;
    case SCREEN_END:
        scroll(keys, keys->model->shown, false);
        return true;
    default:
        return false;
    }
}

static enum top_action press_in_table(struct top_keys *keys, int key)
{
    switch (key) {
    case 'q':
        return TOP_QUIT;
    case 'p':
        return TOP_PAUSE;
    case '?':
    case 'h':
        keys->mode = TOP_HELP;
        return TOP_DRAW;
    case '/':
        keys->mode = TOP_FILTER;
        memcpy(keys->before, keys->model->filter, sizeof(keys->before));
        set_filter(keys, "");
        return TOP_DRAW;
    case SCREEN_ESCAPE:
        set_filter(keys, "");
        return TOP_DRAW;
    case '<':
    case SCREEN_LEFT:
        top_model_sort_beside(keys->model, -1);
        return TOP_DRAW;
    case '>':
    case SCREEN_RIGHT:
        top_model_sort_beside(keys->model, 1);
        return TOP_DRAW;
    case 'r':
        top_model_sort(keys->model, keys->model->sort);
        return TOP_DRAW;
    default:
        return press_column(keys, key) || press_scroll(keys, key) ? TOP_DRAW : TOP_NOTHING;
    }
}

enum top_action top_keys_press(struct top_keys *keys, int key)
{
    if (key == SCREEN_CTRL('l'))
        return TOP_CLEAR;
    switch (keys->mode) {
    case TOP_FILTER:
        return press_in_filter(keys, key);
    case TOP_HELP:
        keys->mode = TOP_TABLE; /* any key leads back, and q no further */
        return TOP_DRAW;
    default:
        return press_in_table(keys, key);
    }
}
