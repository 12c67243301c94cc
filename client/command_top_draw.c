/*
 * From above: the server and how the link to it is; figures of the stream, as many as fit; titles;
 * rows; keys. Figures have places of a fixed width, so that they do not dance.
 */
#include "client/command_top_draw.h"

#include "base/util.h"
#include "client/screen.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WIDTH_MAX 512
#define LINE_MAX_BYTES (4 * WIDTH_MAX + 1)

/* ---- Above the table ---- */

/* So many lines have figures, in a screen of some height. */
static unsigned figure_lines(unsigned height)
{
    return height >= 16 ? 2 : height >= 8 ? 1 : 0;
}

static enum screen_style link_text(const struct top_picture *picture, char *text, size_t size)
{
    const char *paused = picture->model->frozen ? "PAUSED  " : "";

    switch (picture->link) {
    case TOP_CONNECTED:
        if (picture->unprocessed >= picture->window) {
            (void)snprintf(text, size, "%sconnected, blocked", paused);
            return SCREEN_WARNING;
        }
        (void)snprintf(text, size, "%sconnected", paused);
        return *paused ? SCREEN_WARNING : SCREEN_GOOD;
    case TOP_LOST:
        if (picture->retry_ms > 0)
            (void)snprintf(text, size, "%sNOT CONNECTED, next try in %" PRIu64 " s", paused,
                           (picture->retry_ms + 999) / 1000);
        else
            (void)snprintf(text, size, "%sNOT CONNECTED, trying again", paused);
        return SCREEN_WARNING;
    default:
        (void)snprintf(text, size, "%sconnecting", paused);
        return SCREEN_WARNING;
    }
}

static void put_foreign(unsigned y, unsigned x, unsigned width, enum screen_style style,
                        const char *foreign)
{
    char text[LINE_MAX_BYTES];

    width = MIN(width, (unsigned)WIDTH_MAX);
    top_text(text, width, screen_is_utf8(), foreign);
    screen_put(y, x, style, text);
}

static void draw_link(const struct top_picture *picture)
{
    char link[128];
    enum screen_style style = link_text(picture, link, sizeof(link));
    unsigned width = screen_width();
    unsigned size = (unsigned)strlen(link);
    unsigned left = width > size + 2 ? width - size - 2 : 0;
    unsigned server = top_text_width(screen_is_utf8(), picture->server);

    put_foreign(0, 0, MIN(left, server), SCREEN_BOLD, picture->server);
    screen_put(0, width > size ? width - size : 0, style, link);
}

/* Where the next figure goes. */
struct flow {
    unsigned y;
    unsigned x;
    unsigned y_end;
};

/* A name and a value, which has so many columns; nothing if there is no place. */
static void put_figure(struct flow *flow, const char *name, unsigned columns, const char *value)
{
    unsigned size = (unsigned)strlen(name) + 1 + MAX(columns, (unsigned)strlen(value));

    if (flow->x > 0 && flow->x + size > screen_width()) {
        flow->y++;
        flow->x = 0;
    }
    if (flow->y >= flow->y_end)
        return;
    screen_put(flow->y, flow->x, SCREEN_PLAIN, name);
    screen_put(flow->y, flow->x + (unsigned)strlen(name) + 1, SCREEN_BOLD, value);
    flow->x += size + 2;
}

static void put_count(struct flow *flow, const char *name, unsigned columns, uint64_t count)
{
    char text[TALLY_TEXT_MAX];

    put_figure(flow, name, columns, tally_count_text((double)count, text));
}

static void put_lag(struct flow *flow, const struct tally *tally, const char *name, double quantile)
{
    char text[TALLY_TEXT_MAX] = "-";

    if (tally->lags.count + tally->older.count > 0)
        (void)tally_time_text(lags_quantile(&tally->lags, &tally->older, quantile), text);
    put_figure(flow, name, 6, text);
}

static void draw_figures(const struct top_picture *picture, unsigned lines)
{
    const struct tally *tally = picture->tally;
    struct flow flow = {.y = 1, .y_end = 1 + lines};
    char text[TALLY_TEXT_MAX];

    if (picture->link == TOP_LOST && lines > 0 && picture->why) {
        put_foreign(1, 0, screen_width(), SCREEN_WARNING, picture->why);
        flow.y++;
    }
    if (picture->updates_a_second < 9999.95)
        (void)snprintf(text, sizeof(text), "%.1f", picture->updates_a_second);
    else
        (void)tally_count_text(picture->updates_a_second, text);
    put_figure(&flow, "updates/s", 6, text);
    put_lag(&flow, tally, "lag", 0.5);
    put_lag(&flow, tally, "p99", 0.99);
    put_count(&flow, "merged", 6, tally->conflated);
    put_count(&flow, "dropped", 6, tally->dropped);
    put_figure(&flow, "bytes/s", 7, tally_bytes_text(picture->bytes_a_second, text));
    put_count(&flow, "gaps", 3, tally->gaps);
    if (tally->gaps > 0)
        put_count(&flow, "missing", 6, tally->missing);
    put_count(&flow, "reconnects", 3, picture->reconnects);
    put_figure(&flow, "unprocessed", 7, tally_bytes_text((double)picture->unprocessed, text));
    put_count(&flow, "updates", 6, tally->updates + tally->snapshots);
    if (picture->model->unseen > 0)
        put_count(&flow, "of tickers without a row", 6, picture->model->unseen);
}

/* ---- The table ---- */

static bool stands_left(enum top_column column)
{
    return column == TOP_TICKER;
}

static void draw_titles(const struct top_picture *picture, const struct top_layout *layout,
                        unsigned y)
{
    const struct top_model *model = picture->model;

    screen_fill(y, SCREEN_BAR);
    for (size_t i = 0; i < TOP_COLUMN_COUNT; i++) {
        const char *title = top_columns[i].title;
        const char *arrow = model->descending ? "v" : "^";
        unsigned width = layout->width[i];
        unsigned size = (unsigned)strlen(title) + (i == model->sort);
        char text[64];

        if (width == 0)
            continue;
        if (screen_is_utf8())
            arrow = model->descending ? "▼" : "▲";
        (void)snprintf(text, sizeof(text), "%s%s", title, i == model->sort ? arrow : "");
        screen_put(y, layout->x[i] + (stands_left((enum top_column)i) ? 0 : width - size),
                   i == model->sort ? SCREEN_CHOSEN : SCREEN_BAR, text);
    }
}

static enum screen_style cell_style(const struct top_row *row, enum top_column column)
{
    int direction = top_row_direction(row);

    if (column == TOP_TICKER)
        return SCREEN_BOLD;
    if ((column != TOP_CHANGE && column != TOP_PERCENT) || direction == 0)
        return SCREEN_PLAIN;
    return direction > 0 ? SCREEN_GOOD : SCREEN_BAD;
}

static void draw_row(const struct top_picture *picture, const struct top_layout *layout, unsigned y,
                     const struct top_row *row)
{
    char text[TOP_CELL_MAX];

    for (size_t i = 0; i < TOP_COLUMN_COUNT; i++) {
        enum top_column column = (enum top_column)i;

        if (layout->width[i] == 0)
            continue;
        top_cell(picture->model, row, column, layout->width[i], screen_is_utf8(), picture->now_ns,
                 picture->now_ms, text);
        screen_put(y, layout->x[i], cell_style(row, column), text);
    }
}

/* Where there are no rows it says why. */
static const char *empty_text(const struct top_picture *picture)
{
    if (top_model_tickers(picture->model) > 0)
        return "No ticker has this in its name.";
    return picture->link == TOP_CONNECTED ? "No update has come yet." : "";
}

/* Up to `y_end`. */
static void draw_table(const struct top_picture *picture, unsigned y, unsigned y_end)
{
    const struct top_keys *keys = picture->keys;
    struct top_layout layout;

    top_layout(&layout, screen_width());
    if (y >= y_end)
        return;
    draw_titles(picture, &layout, y);
    for (size_t i = 0; y + 1 + i < y_end && keys->first + i < keys->model->shown; i++)
        draw_row(picture, &layout, y + 1 + (unsigned)i,
                 top_model_row(keys->model, keys->first + i));
    if (keys->model->shown == 0 && y + 2 < y_end)
        screen_put(y + 2, 2, SCREEN_PLAIN, empty_text(picture));
}

static void draw_help(unsigned y, unsigned y_end)
{
    if (y >= y_end)
        return;
    screen_fill(y, SCREEN_BAR);
    screen_put(y++, 0, SCREEN_BAR, "Keys (any of them leads back)");
    for (size_t i = 0; top_keys_help[i] && y < y_end; i++)
        screen_put(y++, 1, SCREEN_PLAIN, top_keys_help[i]);
}

/* ---- Below the table ---- */

static void position_text(const struct top_keys *keys, char *text, size_t size)
{
    size_t end = MIN(keys->first + keys->page, keys->model->shown);

    (void)snprintf(text, size, "%zu-%zu of %zu", keys->model->shown ? keys->first + 1 : 0, end,
                   keys->model->shown);
}

/* The filter as it is typed, with the cursor; the end of it where it is long. */
static void draw_prompt(const struct top_keys *keys, unsigned y, unsigned width)
{
    const char *filter = keys->model->filter;
    unsigned size = (unsigned)strlen(filter);
    unsigned room = width > 2 ? width - 2 : 0;

    if (size > room) {
        filter += size - room;
        size = room;
    }
    screen_put(y, 0, SCREEN_BOLD, "/");
    screen_put(y, 1, SCREEN_BOLD, filter);
    if (size + 30 < width)
        screen_put(y, size + 4, SCREEN_PLAIN, "Enter keeps, Esc undoes");
    screen_cursor(y, size + 1);
}

static void draw_footer(const struct top_picture *picture, unsigned y)
{
    static const char *const hints[] = {"q quit",   "? help",    "/ filter",
                                        "< > sort", "r reverse", "p pause"};
    const struct top_keys *keys = picture->keys;
    unsigned width = screen_width();
    char position[64];
    char filter[TOP_NAME_SIZE + 16];
    unsigned x = 1;
    unsigned end;
    unsigned size;

    if (keys->mode == TOP_FILTER) {
        draw_prompt(keys, y, width);
        return;
    }
    screen_fill(y, SCREEN_BAR);
    position_text(keys, position, sizeof(position));
    size = (unsigned)strlen(position) + 1;
    end = width;
    /* A number that is cut would be another number. */
    if (size <= width) {
        end = width - size;
        screen_put(y, end, SCREEN_BAR, position);
    }
    if (keys->model->filter[0] && end > x + 1) {
        (void)snprintf(filter, sizeof(filter), "filter: %s", keys->model->filter);
        size = MIN((unsigned)strlen(filter), end - x - 1);
        put_foreign(y, x, size, SCREEN_CHOSEN, filter);
        x += size + 2;
    }
    for (size_t i = 0; i < ELEMENTSOF(hints); i++) {
        if (x + strlen(hints[i]) + 2 > end)
            break;
        screen_put(y, x, SCREEN_BAR, hints[i]);
        x += (unsigned)strlen(hints[i]) + 2;
    }
}

int top_draw(const struct top_picture *picture)
{
    struct top_keys *keys = picture->keys;
    unsigned height = screen_height();
    unsigned figures = figure_lines(height);
    unsigned y = 1 + figures;
    /* The keys have a row where there is one for the table's titles and for a ticker, too. */
    bool footer = height >= y + 3 || keys->mode == TOP_FILTER;
    unsigned y_end = footer ? height - 1 : height;
    int r;

    r = top_model_arrange(picture->model, picture->now_ms);
    if (r < 0)
        return r;
    keys->page = y_end > y + 1 ? y_end - y - 1 : 1;
    top_keys_clamp(keys);
    screen_begin();
    if (y_end > 0)
        draw_link(picture);
    draw_figures(picture, figures);
    if (keys->mode == TOP_HELP)
        draw_help(y, y_end);
    else
        draw_table(picture, y, y_end);
    if (footer)
        draw_footer(picture, y_end);
    return screen_show() ? 0 : 1;
}
