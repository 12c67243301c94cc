/*
 * What `stock-client top` shows: a row for each ticker, in an order, of those that a filter lets
 * pass; and the texts of its cells. It knows neither terminal nor network.
 *
 *     events --> rows --(filter, order)--> shown rows --> cells
 *                 |                            ^
 *                 '--(frozen: a copy)----------'
 */
#pragma once

#include "client/chain.h"
#include "client/tally.h"
#include "stockservice.pb-c.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A server that has more tickers gets no more rows. */
#define TOP_ROWS_MAX 65536

/* What is kept of a ticker's name, with its NUL: two whose beginnings agree so far share a row. */
#define TOP_NAME_SIZE 64

/* Prices of a sparkline at most. */
#define TOP_TREND_MAX 60

/*
 * X(identifier, title, key, width, importance, descending): the columns, from left to right. The
 * key sorts by the column; those whose importance is the smallest number are the last to go when
 * the terminal is narrow; `descending` is how they are sorted at first.
 */
#define TOP_COLUMNS(X)                                                                             \
    X(TICKER, "TICKER", 'T', 8, 0, false)                                                          \
    X(PRICE, "PRICE", 'P', 10, 1, true)                                                            \
    X(CHANGE, "CHANGE", 'C', 9, 4, true)                                                           \
    X(PERCENT, "CHANGE%", '%', 8, 2, true)                                                         \
    X(TREND, "TREND", 0, 10, 3, false)                                                             \
    X(RATE, "RATE/s", 'R', 7, 5, true)                                                             \
    X(AGE, "AGE", 'A', 6, 6, true)                                                                 \
    X(LAG, "LAG", 'L', 6, 7, true)                                                                 \
    X(GAPS, "GAPS", 'G', 7, 8, true)

enum top_column {
#define X(identifier, ...) TOP_##identifier,
    TOP_COLUMNS(X)
#undef X
        TOP_COLUMN_COUNT,
};

struct top_column_info {
    const char *title;
    char key; /* 0: it cannot be sorted by */
    unsigned char width;
    unsigned char importance;
    bool descending;
};

extern const struct top_column_info top_columns[TOP_COLUMN_COUNT];

struct top_row {
    char name[TOP_NAME_SIZE];
    double price;
    double open; /* that changes are counted from: the market's, or else the first price seen */
    struct chain chain;
    struct rate rate;
    uint64_t gaps;    /* updates that did not follow the one before: others came between them */
    uint64_t time_ns; /* when the market took the last update, since the Unix epoch */
    uint64_t lag_us;  /* of the last update that was no snapshot's */
    bool has_lag;
    unsigned char trend_end; /* the next place in `trend` */
    unsigned char trend_size;
    double trend[TOP_TREND_MAX];
};

struct top_rows {
    struct top_row *rows;
    size_t count;
    size_t capacity;
};

struct top_model {
    struct top_rows live;
    struct top_rows still; /* what is shown while frozen */
    bool frozen;
    uint64_t frozen_ns; /* when that was, since the Unix epoch */
    uint64_t frozen_ms; /* and on the loop's clock */
    uint32_t *table;    /* open addressing: index of a row plus 1; 0: free */
    size_t table_size;  /* a power of two */
    uint32_t seed;
    uint64_t unseen; /* updates of tickers for which there is no row */

    enum top_column sort;
    bool descending;
    char filter[TOP_NAME_SIZE];
    uint32_t *order; /* indices of the rows that are shown */
    size_t order_capacity;
    size_t shown; /* how many of them there are */
};

/* Prepares zeroed memory: no rows, sorted by ticker. `seed` scatters the tickers in the table. */
void top_model_init(struct top_model *model, uint32_t seed);
void top_model_deinit(struct top_model *model);

/*
 * Takes the event in, if it is an update. `now_ns` is since the Unix epoch, `now_ms` on the loop's
 * clock. 0 or -ENOMEM.
 */
int top_model_add(struct top_model *model, const Stockservice__MarketEvent *event, uint64_t now_ns,
                  uint64_t now_ms);

/*
 * Forgets what the next update of each ticker would have to follow: a new stream begins, and what
 * it is without it tells itself.
 */
void top_model_restart(struct top_model *model);

/* Sorts by the column; by the one that is sorted by already: the other way round. */
void top_model_sort(struct top_model *model, enum top_column column);

/* Sorts by the next column to the right (1) or the left (-1), if there is one. */
void top_model_sort_beside(struct top_model *model, int direction);

/* Shows only tickers with `filter` in their name, whatever the case; cut if it is long. */
void top_model_filter(struct top_model *model, const char *filter);

/* Keeps what is shown as it is now, while updates go on being taken in; or goes on. 0 or -ENOMEM.
 */
int top_model_freeze(struct top_model *model, bool frozen, uint64_t now_ns, uint64_t now_ms);

/*
 * Finds the rows that are shown and their order. To be called before rows are looked at, when
 * anything above was. 0 or -ENOMEM.
 */
int top_model_arrange(struct top_model *model, uint64_t now_ms);

/* The row at place `index`, less than model->shown. */
const struct top_row *top_model_row(const struct top_model *model, size_t index);

/* How many tickers there are, shown or not. */
size_t top_model_tickers(const struct top_model *model);

/* Room for any cell, with its NUL. */
#define TOP_CELL_MAX (4 * TOP_TREND_MAX + 1)

/*
 * The text of one cell, exactly `width` columns wide, at most TOP_TREND_MAX: numbers stand right,
 * the rest left. Where `utf8` is false all of it is ASCII. What is unsafe for a terminal, or has
 * no width there, is replaced.
 */
void top_cell(const struct top_model *model, const struct top_row *row, enum top_column column,
              unsigned width, bool utf8, uint64_t now_ns, uint64_t now_ms,
              char text[static TOP_CELL_MAX]);

/*
 * Foreign text, left-aligned in exactly `width` columns, as safe as a cell is; cut text ends with
 * an ellipsis. `text` has room for 4 * width + 1 bytes.
 */
void top_text(char *text, unsigned width, bool utf8, const char *foreign);

/* How many columns `foreign` takes so. */
unsigned top_text_width(bool utf8, const char *foreign);

/* The sign of a row's change: -1, 0 or 1, as its cells show it. */
int top_row_direction(const struct top_row *row);

/* Where the columns stand in a terminal of some width. */
struct top_layout {
    unsigned char x[TOP_COLUMN_COUNT];
    unsigned char width[TOP_COLUMN_COUNT]; /* 0: not shown */
};

/* Finds the columns for a terminal `width` columns wide. */
void top_layout(struct top_layout *layout, unsigned width);
