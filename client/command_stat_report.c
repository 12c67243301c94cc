/*
 * One table of columns drives all three formats.
 */
#include "client/command_stat_report.h"

#include "base/util.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum value_type {
    VALUE_COUNT,
    VALUE_RATE,  /* a count, that people see by the second */
    VALUE_BYTES, /* the same */
    VALUE_SIZE,
    VALUE_LAG, /* microseconds */
    VALUE_SECONDS,
};

struct column {
    const char *title; /* in text; NULL: not there */
    const char *name;  /* in JSON and CSV */
    enum value_type type;
    size_t offset;
};

#define COLUMN(title, name, type, member)                                                          \
    {                                                                                              \
        (title), (name), VALUE_##type, offsetof(struct stat_line, member)                          \
    }

static const struct column columns[] = {
    COLUMN(NULL, "seconds", SECONDS, seconds),
    COLUMN("updates/s", "updates", RATE, updates),
    COLUMN(NULL, "snapshots", COUNT, snapshots),
    COLUMN(" bytes/s", "bytes", BYTES, bytes),
    COLUMN("merged/s", "conflated", RATE, conflated),
    COLUMN("dropped/s", "dropped", RATE, dropped),
    COLUMN("gaps", "gaps", COUNT, gaps),
    COLUMN(NULL, "missing", COUNT, missing),
    COLUMN("lag p50", "lagP50", LAG, lag_p50_us),
    COLUMN("lag p99", "lagP99", LAG, lag_p99_us),
    COLUMN("unprocessed", "unprocessed", SIZE, unprocessed_bytes),
    COLUMN("reconn", "reconnects", COUNT, reconnects),
};

void stat_report_take(struct stat_report *report, struct tally *tally, struct stat_line *ret_line)
{
    const struct tally *before = &report->before;

    ret_line->updates = tally->updates - before->updates;
    ret_line->snapshots = tally->snapshots - before->snapshots;
    ret_line->bytes = tally->bytes - before->bytes;
    ret_line->conflated = tally->conflated - before->conflated;
    ret_line->dropped = tally->dropped - before->dropped;
    ret_line->gaps = tally->gaps - before->gaps;
    ret_line->missing = tally->missing - before->missing;
    ret_line->has_lag = tally->lags.count > 0;
    ret_line->lag_p50_us = lags_quantile(&tally->lags, NULL, 0.5);
    ret_line->lag_p99_us = lags_quantile(&tally->lags, NULL, 0.99);
    tally_turn(tally);
    report->before = *tally;
}

static uint64_t count_of(const struct stat_line *line, const struct column *column)
{
    uint64_t value;

    memcpy(&value, (const char *)line + column->offset, sizeof(value));
    return value;
}

static double seconds_of(const struct stat_line *line, const struct column *column)
{
    double value;

    memcpy(&value, (const char *)line + column->offset, sizeof(value));
    return value;
}

/* ---- For people ---- */

static void add_titles(struct text *text)
{
    for (size_t i = 0; i < ELEMENTSOF(columns); i++)
        if (columns[i].title)
            text_printf(text, "%s%s", i > 1 ? " " : "", columns[i].title);
    text_add_char(text, '\n');
}

static const char *short_value(const struct stat_line *line, const struct column *column,
                               char value[static TALLY_TEXT_MAX])
{
    double seconds = MAX(line->seconds, 1e-9);
    double count;

    switch (column->type) {
    case VALUE_COUNT:
        return tally_count_text((double)count_of(line, column), value);
    case VALUE_RATE:
        count = (double)count_of(line, column) / seconds;
        if (count >= 9999.95)
            return tally_count_text(count, value);
        (void)snprintf(value, TALLY_TEXT_MAX, "%.1f", count);
        return value;
    case VALUE_BYTES:
        return tally_bytes_text((double)count_of(line, column) / seconds, value);
    case VALUE_SIZE:
        return tally_bytes_text((double)count_of(line, column), value);
    case VALUE_LAG:
        return line->has_lag ? tally_time_text(count_of(line, column), value) : "-";
    default: /* seconds, which text has not */
        return "";
    }
}

static void add_text(struct text *text, const struct stat_line *line)
{
    for (size_t i = 0; i < ELEMENTSOF(columns); i++) {
        char value[TALLY_TEXT_MAX];

        if (columns[i].title)
            text_printf(text, "%s%*s", i > 1 ? " " : "", (int)strlen(columns[i].title),
                        short_value(line, &columns[i], value));
    }
    text_add_string(text, line->connected ? "\n" : "  not connected\n");
}

/* ---- For programs ---- */

static void add_time(struct text *text, uint64_t ns)
{
    time_t second = (time_t)(ns / 1000000000u);
    char date[40];
    struct tm parts;

    (void)gmtime_r(&second, &parts);
    (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &parts);
    text_printf(text, "%s.%03uZ", date, (unsigned)(ns / 1000000u % 1000u));
}

/* Times are seconds; `none` stands where there is no value. */
static void add_exact(struct text *text, const struct stat_line *line, const struct column *column,
                      const char *none)
{
    switch (column->type) {
    case VALUE_LAG:
        if (line->has_lag)
            text_printf(text, "%.6f", (double)count_of(line, column) / 1e6);
        else
            text_add_string(text, none);
        break;
    case VALUE_SECONDS:
        text_printf(text, "%.3f", seconds_of(line, column));
        break;
    default:
        text_printf(text, "%" PRIu64, count_of(line, column));
        break;
    }
}

static void add_json(struct text *text, const struct stat_line *line)
{
    text_add_string(text, "{\"time\":\"");
    add_time(text, line->time_ns);
    text_add_char(text, '"');
    for (size_t i = 0; i < ELEMENTSOF(columns); i++) {
        text_printf(text, ",\"%s\":", columns[i].name);
        add_exact(text, line, &columns[i], "null");
    }
    text_printf(text, ",\"connected\":%s}\n", line->connected ? "true" : "false");
}

static void add_csv_header(struct text *text)
{
    text_add_string(text, "time");
    for (size_t i = 0; i < ELEMENTSOF(columns); i++)
        text_printf(text, ",%s", columns[i].name);
    text_add_string(text, ",connected\n");
}

static void add_csv(struct text *text, const struct stat_line *line)
{
    add_time(text, line->time_ns);
    for (size_t i = 0; i < ELEMENTSOF(columns); i++) {
        text_add_char(text, ',');
        add_exact(text, line, &columns[i], "");
    }
    text_printf(text, ",%s\n", line->connected ? "true" : "false");
}

void stat_report_line(struct stat_report *report, struct text *text, const struct stat_line *line)
{
    switch (report->format) {
    case PRINT_TEXT:
        if (report->lines % STAT_HEADER_EVERY == 0)
            add_titles(text);
        add_text(text, line);
        break;
    case PRINT_JSON:
        add_json(text, line);
        break;
    case PRINT_CSV:
        if (report->lines == 0)
            add_csv_header(text);
        add_csv(text, line);
        break;
    }
    report->lines++;
}

void stat_report_summary(struct text *text, const struct tally *tally, const struct lags *lags,
                         double seconds, uint64_t reconnects)
{
    char bytes[TALLY_TEXT_MAX];
    char p50[TALLY_TEXT_MAX];
    char p99[TALLY_TEXT_MAX];
    char highest[TALLY_TEXT_MAX];
    double safe_seconds = MAX(seconds, 1e-9);

    text_printf(text,
                "%" PRIu64 " updates in %.3f s (%.1f/s, %s/s), %" PRIu64 " merged, %" PRIu64
                " dropped, %" PRIu64 " gaps",
                tally->updates, seconds, (double)tally->updates / safe_seconds,
                tally_bytes_text((double)tally->bytes / safe_seconds, bytes), tally->conflated,
                tally->dropped, tally->gaps);
    if (tally->gaps > 0)
        text_printf(text, " (%" PRIu64 " updates)", tally->missing);
    if (lags->count > 0)
        text_printf(text, ", lag p50 %s, p99 %s, max %s",
                    tally_time_text(lags_quantile(lags, NULL, 0.5), p50),
                    tally_time_text(lags_quantile(lags, NULL, 0.99), p99),
                    tally_time_text(lags->max_us, highest));
    text_printf(text, ", %" PRIu64 " reconnects", reconnects);
}
