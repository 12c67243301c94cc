/*
 * Rows stay where they are for ever, so that an index means the same ticker before and after; only
 * the order of what is shown is made anew, for each picture. With ten thousand tickers that takes a
 * few milliseconds, which is less than keeping an order up to date with each update would.
 */
#include "client/command_top_model.h"

#include "base/util.h"
#include "proto/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define TABLE_SIZE_MIN 64
#define TICKER_WIDTH_MAX 16

const struct top_column_info top_columns[TOP_COLUMN_COUNT] = {
#define X(identifier, title, key, width, importance, descending)                                   \
    [TOP_##identifier] = {(title), (key), (width), (importance), (descending)},
    TOP_COLUMNS(X)
#undef X
};

void top_model_init(struct top_model *model, uint32_t seed)
{
    *model = (struct top_model){.seed = seed, .sort = TOP_TICKER};
}

void top_model_deinit(struct top_model *model)
{
    free(model->live.rows);
    free(model->still.rows);
    free(model->table);
    free(model->order);
    *model = (struct top_model){0};
}

/* ---- Finding rows ---- */

/* FNV-1a. */
static uint32_t hash(const struct top_model *model, const char *name)
{
    uint32_t value = 2166136261u ^ model->seed;

    for (; *name; name++)
        value = (value ^ (unsigned char)*name) * 16777619u;
    return value ^ value >> 15;
}

/* The place in the table of the row of that name, or the free one where it belongs. */
static uint32_t *find_place(const struct top_model *model, const char *name)
{
    size_t place = hash(model, name) & (model->table_size - 1);

    while (model->table[place] != 0 &&
           strcmp(model->live.rows[model->table[place] - 1].name, name) != 0)
        place = (place + 1) & (model->table_size - 1);
    return &model->table[place];
}

/* Keeps at least half of the table free. */
static int grow_table(struct top_model *model)
{
    size_t size = MAX(model->table_size * 2, (size_t)TABLE_SIZE_MIN);
    uint32_t *table;

    if (2 * (model->live.count + 1) <= model->table_size)
        return 0;
    table = calloc(size, sizeof(*table));
    if (!table)
        return -ENOMEM;
    free(model->table);
    model->table = table;
    model->table_size = size;
    for (size_t i = 0; i < model->live.count; i++)
        *find_place(model, model->live.rows[i].name) = (uint32_t)i + 1;
    return 0;
}

static int reserve(struct top_rows *rows, size_t count)
{
    size_t capacity = MAX(MAX(rows->capacity * 2, (size_t)16), count);
    struct top_row *grown;

    if (count <= rows->capacity)
        return 0;
    grown = reallocarray(rows->rows, capacity, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    rows->rows = grown;
    rows->capacity = capacity;
    return 0;
}

/* The row of the ticker, made if there is none. 0; 1 if there are too many; -ENOMEM. */
static int find_row(struct top_model *model, const char *ticker, struct top_row **ret_row)
{
    struct top_row *row;
    char name[TOP_NAME_SIZE];
    uint32_t *place;
    int r = grow_table(model);

    if (r < 0)
        return r;
    (void)snprintf(name, sizeof(name), "%s", ticker);
    place = find_place(model, name);
    if (*place != 0) {
        *ret_row = &model->live.rows[*place - 1];
        return 0;
    }
    if (model->live.count == TOP_ROWS_MAX)
        return 1;
    r = reserve(&model->live, model->live.count + 1);
    if (r < 0)
        return r;
    row = &model->live.rows[model->live.count++];
    *row = (struct top_row){0};
    memcpy(row->name, name, sizeof(name));
    *place = (uint32_t)model->live.count;
    *ret_row = row;
    return 0;
}

/* ---- Taking updates in ---- */

static void add_price(struct top_row *row, double price)
{
    row->price = price;
    if (!isfinite(price))
        return;
    row->trend[row->trend_end] = price;
    row->trend_end = (unsigned char)((row->trend_end + 1) % TOP_TREND_MAX);
    row->trend_size = (unsigned char)MIN(row->trend_size + 1, TOP_TREND_MAX);
}

int top_model_add(struct top_model *model, const Stockservice__MarketEvent *event, uint64_t now_ns,
                  uint64_t now_ms)
{
    const Stockservice__StockUpdate *update = event->update;
    struct top_row *row = NULL;
    int r;

    if (event->event_case != STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE)
        return 0;
    r = find_row(model, update->ticker, &row);
    if (r < 0)
        return r;
    if (r > 0) {
        model->unseen++;
        return 0;
    }

    if (isfinite(update->openprice) && update->openprice > 0)
        row->open = update->openprice;
    else if (row->open <= 0)
        row->open = update->price;
    if (!chain_add(&row->chain, update->price, update->change))
        row->gaps++;
    add_price(row, update->price);
    row->time_ns = event->time_unix_nano;
    rate_add(&row->rate, event->snapshot ? 0 : 1, now_ms);
    if (!event->snapshot) {
        row->lag_us = tally_age_us(event, now_ns);
        row->has_lag = true;
    }
    return 0;
}

void top_model_restart(struct top_model *model)
{
    for (size_t i = 0; i < model->live.count; i++)
        model->live.rows[i].chain = (struct chain){0};
}

int top_model_freeze(struct top_model *model, bool frozen, uint64_t now_ns, uint64_t now_ms)
{
    int r;

    if (frozen && !model->frozen) {
        r = reserve(&model->still, model->live.count);
        if (r < 0)
            return r;
        if (model->live.count > 0)
            memcpy(model->still.rows, model->live.rows, model->live.count * sizeof(struct top_row));
        model->still.count = model->live.count;
        model->frozen_ns = now_ns;
        model->frozen_ms = now_ms;
    }
    model->frozen = frozen;
    return 0;
}

static const struct top_rows *shown_rows(const struct top_model *model)
{
    return model->frozen ? &model->still : &model->live;
}

size_t top_model_tickers(const struct top_model *model)
{
    return shown_rows(model)->count;
}

/* ---- Order and filter ---- */

void top_model_sort(struct top_model *model, enum top_column column)
{
    if (!top_columns[column].key)
        return;
    model->descending = column == model->sort ? !model->descending : top_columns[column].descending;
    model->sort = column;
}

void top_model_sort_beside(struct top_model *model, int direction)
{
    int column = (int)model->sort + direction;

    while (column >= 0 && column < TOP_COLUMN_COUNT && !top_columns[column].key)
        column += direction;
    if (column >= 0 && column < TOP_COLUMN_COUNT)
        top_model_sort(model, (enum top_column)column);
}

void top_model_filter(struct top_model *model, const char *filter)
{
    (void)snprintf(model->filter, sizeof(model->filter), "%s", filter);
}

static double row_change(const struct top_row *row)
{
    return row->price - row->open;
}

static double row_percent(const struct top_row *row)
{
    return row->open > 0 ? row_change(row) / row->open * 100 : 0;
}

struct arrangement {
    const struct top_model *model;
    const struct top_row *rows;
    uint64_t now_ms;
};

/* What a row is sorted by, if that is a number; -INFINITY where there is none. */
static double sort_value(const struct arrangement *arrangement, const struct top_row *row)
{
    double value = 0;

    switch (arrangement->model->sort) {
    case TOP_PRICE:
        value = row->price;
        break;
    case TOP_CHANGE:
        value = row_change(row);
        break;
    case TOP_PERCENT:
        value = row_percent(row);
        break;
    case TOP_RATE:
        value = rate_per_second(&row->rate, arrangement->now_ms);
        break;
    case TOP_AGE:
        value = -(double)row->time_ns;
        break;
    case TOP_LAG:
        value = row->has_lag ? (double)row->lag_us : -INFINITY;
        break;
    case TOP_GAPS:
        value = (double)row->gaps;
        break;
    default:
        break;
    }
    return isnan(value) ? -INFINITY : value;
}

/* Rows that are equal in what is sorted by stand by their names, whichever the direction. */
static int compare_rows(const void *left, const void *right, void *user)
{
    const struct arrangement *arrangement = user;
    const struct top_row *a = &arrangement->rows[*(const uint32_t *)left];
    const struct top_row *b = &arrangement->rows[*(const uint32_t *)right];
    int names = strcmp(a->name, b->name);
    double left_value;
    double right_value;

    if (arrangement->model->sort == TOP_TICKER)
        return arrangement->model->descending ? -names : names;
    left_value = sort_value(arrangement, a);
    right_value = sort_value(arrangement, b);
    if (left_value == right_value)
        return names;
    return (left_value < right_value) == arrangement->model->descending ? 1 : -1;
}

int top_model_arrange(struct top_model *model, uint64_t now_ms)
{
    const struct top_rows *rows = shown_rows(model);
    struct arrangement arrangement = {
        .model = model,
        .rows = rows->rows,
        .now_ms = model->frozen ? model->frozen_ms : now_ms,
    };

    if (model->order_capacity < rows->count) {
        uint32_t *grown = reallocarray(model->order, rows->capacity, sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        model->order = grown;
        model->order_capacity = rows->capacity;
    }
    model->shown = 0;
    for (size_t i = 0; i < rows->count; i++)
        if (!model->filter[0] || strcasestr(rows->rows[i].name, model->filter))
            model->order[model->shown++] = (uint32_t)i;
    if (model->shown > 1)
        qsort_r(model->order, model->shown, sizeof(*model->order), compare_rows, &arrangement);
    return 0;
}

const struct top_row *top_model_row(const struct top_model *model, size_t index)
{
    return &shown_rows(model)->rows[model->order[index]];
}

/* ---- Cells ---- */

/* As many decimals as the price calls for: two, more for a small one, fewer where they do not fit.
 */
static int decimals_for(double price)
{
    double size = fabs(price);

    if (size >= 1e6)
        return size >= 1e7 ? 0 : 1;
    if (size >= 1 || size == 0)
        return 2;
    return size >= 0.01 ? 4 : 6;
}

/* Right-aligned; what does not fit is written with an exponent. */
static void number_cell(char *text, unsigned width, int decimals, bool sign, double value)
{
    char digits[64];
    const char *format = sign ? "%+.*f" : "%.*f";
    /* What is rounded to 0 has no sign. */
    bool zero = fabs(value) < 0.5 * pow(10, -decimals);
    int size;

    if (!isfinite(value)) {
        (void)snprintf(text, TOP_CELL_MAX, "%*s", (int)width, "-");
        return;
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (fabs(value) < 1e15) {
        size =
            snprintf(digits, sizeof(digits), zero ? "%.*f" : format, decimals, zero ? 0.0 : value);
    } else {
        size = (int)sizeof(digits);
    }
#pragma GCC diagnostic pop
    if (size > (int)width)
        (void)snprintf(digits, sizeof(digits), sign ? "%+.*e" : "%.*e", width > 9 ? 2 : 0, value);
    (void)snprintf(text, TOP_CELL_MAX, "%*s", (int)width, digits);
}

/* One character of a name as it may stand on the screen; *ret_columns is how many it takes. */
static size_t safe_character(const char *bytes, size_t length, bool utf8, char out[static 5],
                             unsigned *ret_columns)
{
    uint32_t code = 0;
    size_t size = 0;
    bool valid = utf8_decode(bytes, length, &code, &size);
    int columns = valid && !utf8_is_unsafe(code) ? wcwidth((wchar_t)code) : -1;

    *ret_columns = 1;
    if (columns < 1 || (code >= 0x80 && !utf8)) {
        (void)snprintf(out, 5, "%s", utf8 ? UTF8_REPLACEMENT : "?");
    } else {
        (void)snprintf(out, 5, "%.*s", (int)size, bytes);
        *ret_columns = (unsigned)columns;
    }
    return size;
}

unsigned top_text_width(bool utf8, const char *foreign)
{
    size_t length = strlen(foreign);
    unsigned columns = 0;

    for (size_t i = 0; i < length;) {
        char character[5];
        unsigned more;

        i += safe_character(foreign + i, length - i, utf8, character, &more);
        columns += more;
    }
    return columns;
}

void top_text(char *text, unsigned width, bool utf8, const char *foreign)
{
    size_t length = strlen(foreign);
    size_t used = 0; /* bytes of `text` */
    size_t cut = 0;  /* bytes of it that leave room for the ellipsis */
    unsigned columns = 0;
    unsigned cut_columns = 0;

    for (size_t i = 0; i < length && width > 0;) {
        char character[5];
        unsigned more;

        i += safe_character(foreign + i, length - i, utf8, character, &more);
        if (columns + more > width) {
            memcpy(text + cut, utf8 ? "\xE2\x80\xA6" : "~", utf8 ? 3 : 1);
            used = cut + (utf8 ? 3 : 1);
            columns = cut_columns + 1;
            break;
        }
        memcpy(text + used, character, strlen(character));
        used += strlen(character);
        columns += more;
        if (columns < width) {
            cut = used;
            cut_columns = columns;
        }
    }
    for (; columns < width; columns++)
        text[used++] = ' ';
    text[used] = 0;
}

/* The latest prices, the newest at the right, each as high as it is between their extremes. */
static void trend_cell(char *text, unsigned width, bool utf8, const struct top_row *row)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const characters[] = {"_", ".", ",", "-", "=", "+", "*", "#"};
    const char *const *levels = utf8 ? blocks : characters;
    unsigned count = MIN(width, (unsigned)row->trend_size);
    unsigned first = (row->trend_end + TOP_TREND_MAX - count) % TOP_TREND_MAX;
    double low = INFINITY;
    double high = -INFINITY;
    size_t used = 0;

    for (unsigned i = 0; i < count; i++) {
        low = fmin(low, row->trend[(first + i) % TOP_TREND_MAX]);
        high = fmax(high, row->trend[(first + i) % TOP_TREND_MAX]);
    }
    for (unsigned i = count; i < width; i++)
        text[used++] = ' ';
    for (unsigned i = 0; i < count; i++) {
        double price = row->trend[(first + i) % TOP_TREND_MAX];
        /* Halves, because prices may be so large that their difference is not finite. */
        double range = high / 2 - low / 2;
        double part = range > 0 ? (price / 2 - low / 2) / range : 0.5;
        size_t level = MIN((size_t)(part * 8), (size_t)7);

        memcpy(text + used, levels[level], strlen(levels[level]));
        used += strlen(levels[level]);
    }
    text[used] = 0;
}

static void rate_cell(char *text, unsigned width, double rate)
{
    char count[TALLY_TEXT_MAX];

    if (rate < 999.95)
        (void)snprintf(text, TOP_CELL_MAX, "%*.1f", (int)width, rate);
    else
        (void)snprintf(text, TOP_CELL_MAX, "%*s", (int)width, tally_count_text(rate, count));
}

/* Tenths of a second in which much changes anyhow would only be restless. */
static const char *age_text(uint64_t ns, char text[static TALLY_TEXT_MAX])
{
    if (ns >= UINT64_C(9950000000))
        return tally_time_text(ns / 1000, text);
    (void)snprintf(text, TALLY_TEXT_MAX, "%.1fs", (double)ns / 1e9);
    return text;
}

void top_cell(const struct top_model *model, const struct top_row *row, enum top_column column,
              unsigned width, bool utf8, uint64_t now_ns, uint64_t now_ms,
              char text[static TOP_CELL_MAX])
{
    char figure[TALLY_TEXT_MAX] = "-";

    if (model->frozen) {
        now_ns = model->frozen_ns;
        now_ms = model->frozen_ms;
    }
    width = MIN(width, (unsigned)TOP_TREND_MAX);
    switch (column) {
    case TOP_TICKER:
        top_text(text, width, utf8, row->name);
        return;
    case TOP_TREND:
        trend_cell(text, width, utf8, row);
        return;
    case TOP_PRICE:
        number_cell(text, width, decimals_for(row->price), false, row->price);
        return;
    case TOP_CHANGE:
        number_cell(text, width, decimals_for(row->price), true, row_change(row));
        return;
    case TOP_PERCENT:
        number_cell(text, width - 1, 2, true, row_percent(row));
        (void)strcat(text, isfinite(row_percent(row)) ? "%" : " ");
        return;
    case TOP_RATE:
        rate_cell(text, width, rate_per_second(&row->rate, now_ms));
        return;
    case TOP_AGE:
        (void)age_text(now_ns > row->time_ns ? now_ns - row->time_ns : 0, figure);
        break;
    case TOP_LAG:
        if (row->has_lag)
            (void)tally_time_text(row->lag_us, figure);
        break;
    case TOP_GAPS:
        (void)tally_count_text((double)row->gaps, figure);
        break;
    default:
        break;
    }
    (void)snprintf(text, TOP_CELL_MAX, "%*s", (int)width, figure);
}

int top_row_direction(const struct top_row *row)
{
    double change = row_change(row);
    double seen = 0.5 * pow(10, -decimals_for(row->price));

    if (!isfinite(change) || fabs(change) < seen)
        return 0;
    return change > 0 ? 1 : -1;
}

/* ---- Layout ---- */

void top_layout(struct top_layout *layout, unsigned width)
{
    unsigned used = 0;
    unsigned spare;
    unsigned x = 0;
    unsigned importance;

    *layout = (struct top_layout){0};
    width = MIN(width, 250u);
    for (importance = 0; importance < TOP_COLUMN_COUNT; importance++) {
        size_t column = 0;

        while (top_columns[column].importance != importance)
            column++;
        if (used > 0 && used + 1 + top_columns[column].width > width)
            break;
        layout->width[column] = top_columns[column].width;
        used += top_columns[column].width + (used > 0);
    }
    /* What is left is for what can use it: first longer names, then more prices. */
    spare = width > used ? width - used : 0;
    if (importance == TOP_COLUMN_COUNT) {
        unsigned more = MIN(spare, TICKER_WIDTH_MAX - (unsigned)layout->width[TOP_TICKER]);

        layout->width[TOP_TICKER] = (unsigned char)(layout->width[TOP_TICKER] + more);
        spare -= more;
        more = MIN(spare, TOP_TREND_MAX - (unsigned)layout->width[TOP_TREND]);
        layout->width[TOP_TREND] = (unsigned char)(layout->width[TOP_TREND] + more);
    } else {
        enum top_column column = layout->width[TOP_TREND] ? TOP_TREND : TOP_TICKER;

        layout->width[column] = (unsigned char)(layout->width[column] + spare);
    }
    for (size_t i = 0; i < TOP_COLUMN_COUNT; i++) {
        layout->x[i] = (unsigned char)x;
        if (layout->width[i] > 0)
            x += layout->width[i] + 1u;
    }
}
