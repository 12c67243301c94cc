/*
 * One table of quantiles and the one of counters drive all three formats.
 */
#include "client/command_bench_report.h"

#include "base/util.h"
#include "client/count.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    LABEL_COLUMNS = 26,
    VALUE_COLUMNS = 14,
    BAR_COLUMNS = 20,
    PROGRESS_TEXT_MAX = 256,
};

static const struct {
    const char *name;
    double quantile;
} quantiles[] = {
    {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1},
};

static const struct {
    const char *name;
    const char *label;
} counters[] = {
#define X(identifier, name, label) [BENCH_##identifier] = {(name), (label)},
    BENCH_COUNTERS(X)
#undef X
};

static const struct {
    const char *name;
    const char *label;
    size_t offset;
} histograms[] = {
    {"latency_ms", "latency", offsetof(struct bench_class, latency)},
    {"first_ms", "first event", offsetof(struct bench_class, first)},
};

static const char *const class_names[] = {"all", "fast", "slow"};

/* Both classes, and before them their sum. */
enum { COLUMNS = BENCH_CLASSES + 1 };

void bench_class_add_rate(struct bench_class *class, double rate)
{
    class->rates++;
    class->rate_sum += rate;
    class->rate_squares += rate * rate;
}

double bench_class_fairness(const struct bench_class *class)
{
    if (class->rate_squares <= 0)
        return 0;
    return class->rate_sum * class->rate_sum / (class->rate_squares * (double)class->rates);
}

void bench_class_merge(struct bench_class *class, const struct bench_class *other)
{
    for (size_t i = 0; i < BENCH_COUNTER_COUNT; i++)
        count_add(&class->counters[i], other->counters[i]);
    class->rates += other->rates;
    class->rate_sum += other->rate_sum;
    class->rate_squares += other->rate_squares;
    bench_histogram_merge(&class->latency, &other->latency);
    bench_histogram_merge(&class->first, &other->first);
}

static const struct bench_histogram *class_histogram(const struct bench_class *class, size_t index)
{
    return (const void *)((const char *)class + histograms[index].offset);
}

static double per_second(const struct bench_report *report, const struct bench_class *class,
                         enum bench_counter counter)
{
    return report->seconds > 0 ? (double)class->counters[counter] / report->seconds : 0;
}

static double quantile_ms(const struct bench_histogram *histogram, size_t index)
{
    return (double)bench_histogram_quantile_ns(histogram, quantiles[index].quantile) / 1e6;
}

static double mean_ms(const struct bench_histogram *histogram)
{
    return histogram->count > 0 ? histogram->sum_ns / (double)histogram->count / 1e6 : 0;
}

/* ---- For people ---- */

static void add_label(struct text *text, const char *label)
{
    text_printf(text, "%-*s", LABEL_COLUMNS, label);
}

static void add_counter_row(struct text *text, const struct bench_class *const columns[],
                            size_t count, enum bench_counter counter)
{
    add_label(text, counters[counter].label);
    for (size_t i = 0; i < count; i++)
        text_printf(text, "%*" PRIu64, VALUE_COLUMNS, columns[i]->counters[counter]);
    text_add_char(text, '\n');
}

static void add_quantile_rows(struct text *text, const struct bench_class *const columns[],
                              size_t count, size_t histogram)
{
    char label[64];

    for (size_t k = 0; k < ELEMENTSOF(quantiles); k++) {
        (void)snprintf(label, sizeof(label), "%s %s, ms", histograms[histogram].label,
                       quantiles[k].name);
        add_label(text, label);
        for (size_t i = 0; i < count; i++) {
            const struct bench_histogram *times = class_histogram(columns[i], histogram);

            if (times->count > 0)
                text_printf(text, "%*.3f", VALUE_COLUMNS, quantile_ms(times, k));
            else
                text_printf(text, "%*s", VALUE_COLUMNS, "-");
        }
        text_add_char(text, '\n');
    }
}

static void add_derived_rows(struct text *text, const struct bench_report *report,
                             const struct bench_class *const columns[], size_t count)
{
    add_label(text, "updates a second");
    for (size_t i = 0; i < count; i++)
        text_printf(text, "%*.1f", VALUE_COLUMNS, per_second(report, columns[i], BENCH_UPDATES));
    text_add_char(text, '\n');
    add_label(text, "MB a second");
    for (size_t i = 0; i < count; i++)
        text_printf(text, "%*.3f", VALUE_COLUMNS,
                    per_second(report, columns[i], BENCH_BYTES) / 1e6);
    text_add_char(text, '\n');
    add_label(text, "fairness (Jain's index)");
    for (size_t i = 0; i < count; i++)
        text_printf(text, "%*.4f", VALUE_COLUMNS, bench_class_fairness(columns[i]));
    text_add_char(text, '\n');
}

static void add_failures(struct text *text, const struct bench_report *report)
{
    if (report->connections_lost > 0)
        text_printf(text, "%" PRIu64 " connections were lost\n", report->connections_lost);
    for (unsigned i = 0; i < WIRE_STATUS_COUNT; i++)
        if (report->failed[i] > 0)
            text_printf(text, "%" PRIu64 " calls ended with %s\n", report->failed[i],
                        wire_status_name(i));
    if (report->first_error[0]) {
        text_add_string(text, "the first failure: ");
        print_foreign(text, report->first_error);
        text_add_char(text, '\n');
    }
}

static void write_table(struct text *text, const struct bench_report *report,
                        const struct bench_class *const columns[], size_t count)
{
    text_printf(text, "%s at %s: %" PRIu64 " calls on %" PRIu64 " connections, %.1f s%s\n\n",
                report->method, report->target, columns[0]->counters[BENCH_CALLS],
                report->connections, report->seconds, report->interrupted ? ", interrupted" : "");
    add_label(text, "");
    for (size_t i = 0; i < count; i++)
        text_printf(text, "%*s", VALUE_COLUMNS, class_names[i]);
    text_add_char(text, '\n');
    for (size_t i = 0; i <= BENCH_BYTES; i++)
        add_counter_row(text, columns, count, (enum bench_counter)i);
    add_derived_rows(text, report, columns, count);
    for (size_t i = report->has_latency ? 0 : 1; i < ELEMENTSOF(histograms); i++)
        add_quantile_rows(text, columns, count, i);
    for (size_t i = BENCH_BYTES + 1; i < BENCH_COUNTER_COUNT; i++)
        add_counter_row(text, columns, count, (enum bench_counter)i);
    add_failures(text, report);
}

/* ---- JSON ---- */

static void add_json_histogram(struct text *text, const char *name,
                               const struct bench_histogram *histogram)
{
    text_printf(text, ", \"%s\": ", name);
    if (histogram->count == 0) {
        text_add_string(text, "null");
        return;
    }
    text_printf(text, "{\"count\": %" PRIu64 ", \"mean\": %.6f", histogram->count,
                mean_ms(histogram));
    for (size_t i = 0; i < ELEMENTSOF(quantiles); i++)
        text_printf(text, ", \"%s\": %.6f", quantiles[i].name, quantile_ms(histogram, i));
    text_add_char(text, '}');
}

static void add_json_class(struct text *text, const struct bench_report *report, const char *name,
                           const struct bench_class *class)
{
    text_printf(text, "\"%s\": {", name);
    for (size_t i = 0; i < BENCH_COUNTER_COUNT; i++)
        text_printf(text, "\"%s\": %" PRIu64 ", ", counters[i].name, class->counters[i]);
    text_printf(text, "\"updates_per_second\": %.3f, \"fairness\": %.6f",
                per_second(report, class, BENCH_UPDATES), bench_class_fairness(class));
    for (size_t i = 0; i < ELEMENTSOF(histograms); i++)
        add_json_histogram(text, histograms[i].name, class_histogram(class, i));
    text_add_char(text, '}');
}

static void write_json(struct text *text, const struct bench_report *report,
                       const struct bench_class *const columns[], size_t count)
{
    const char *comma = "";

    text_add_string(text, "{\"method\": ");
    print_string(text, PRINT_JSON, report->method);
    text_add_string(text, ", \"target\": ");
    print_string(text, PRINT_JSON, report->target);
    text_printf(text,
                ", \"seconds\": %.6f, \"interrupted\": %s, \"connections\": %" PRIu64
                ", \"connections_lost\": %" PRIu64 ", ",
                report->seconds, report->interrupted ? "true" : "false", report->connections,
                report->connections_lost);
    for (size_t i = 0; i < count; i++) {
        add_json_class(text, report, class_names[i], columns[i]);
        text_add_string(text, ", ");
    }
    text_add_string(text, "\"statuses\": {");
    for (unsigned i = 0; i < WIRE_STATUS_COUNT; i++) {
        if (report->failed[i] == 0)
            continue;
        text_printf(text, "%s\"%s\": %" PRIu64, comma, wire_status_name(i), report->failed[i]);
        comma = ", ";
    }
    text_add_string(text, "}, \"first_error\": ");
    if (report->first_error[0])
        print_string(text, PRINT_JSON, report->first_error);
    else
        text_add_string(text, "null");
    text_add_string(text, "}\n");
}

/* ---- CSV ---- */

static void write_csv(struct text *text, const struct bench_report *report,
                      const struct bench_class *const columns[], size_t count)
{
    text_add_string(text, "class,seconds");
    for (size_t i = 0; i < BENCH_COUNTER_COUNT; i++)
        text_printf(text, ",%s", counters[i].name);
    text_add_string(text, ",updates_per_second,fairness");
    for (size_t i = 0; i < ELEMENTSOF(histograms); i++)
        for (size_t k = 0; k < ELEMENTSOF(quantiles); k++)
            text_printf(text, ",%s_%s", histograms[i].name, quantiles[k].name);
    text_add_char(text, '\n');
    for (size_t c = 0; c < count; c++) {
        text_printf(text, "%s,%.6f", class_names[c], report->seconds);
        for (size_t i = 0; i < BENCH_COUNTER_COUNT; i++)
            text_printf(text, ",%" PRIu64, columns[c]->counters[i]);
        text_printf(text, ",%.3f,%.6f", per_second(report, columns[c], BENCH_UPDATES),
                    bench_class_fairness(columns[c]));
        for (size_t i = 0; i < ELEMENTSOF(histograms); i++) {
            const struct bench_histogram *times = class_histogram(columns[c], i);

            for (size_t k = 0; k < ELEMENTSOF(quantiles); k++) {
                text_add_char(text, ',');
                if (times->count > 0)
                    text_printf(text, "%.6f", quantile_ms(times, k));
            }
        }
        text_add_char(text, '\n');
    }
}

int bench_report_write(struct text *text, enum print_format format,
                       const struct bench_report *report)
{
    _cleanup_free_ struct bench_class *all = calloc(1, sizeof(*all));
    const struct bench_class *columns[COLUMNS] = {all, &report->classes[BENCH_FAST],
                                                  &report->classes[BENCH_SLOW]};
    bool mixed = report->classes[BENCH_SLOW].counters[BENCH_CALLS] > 0;

    if (!all)
        return -ENOMEM;
    for (size_t i = 0; i < BENCH_CLASSES; i++)
        bench_class_merge(all, &report->classes[i]);
    switch (format) {
    case PRINT_JSON:
        write_json(text, report, columns, COLUMNS);
        break;
    case PRINT_CSV:
        write_csv(text, report, columns, COLUMNS);
        break;
    default: /* columns that say the same thing twice help nobody who reads */
        write_table(text, report, columns, mixed ? COLUMNS : 1);
        break;
    }
    return text->failed ? -ENOMEM : 0;
}

/* ---- Progress ---- */

void bench_progress_write(struct text *text, const struct bench_progress *progress)
{
    double part = progress->seconds_max > 0 ? progress->seconds / progress->seconds_max : 1;
    unsigned filled = (unsigned)(MIN(MAX(part, 0), 1) * BAR_COLUMNS);
    size_t room = MAX(progress->columns, 1U) - 1;
    char line[PROGRESS_TEXT_MAX];
    char bar[BAR_COLUMNS + 1];
    size_t size;

    memset(bar, ' ', BAR_COLUMNS);
    memset(bar, '#', filled);
    bar[BAR_COLUMNS] = 0;
    (void)snprintf(line, sizeof(line),
                   "[%s] %.0f/%.0f s, %" PRIu64 " calls, %.0f updates/s, p99 %.1f ms, %" PRIu64
                   " failed",
                   bar, progress->seconds, progress->seconds_max, progress->calls, progress->rate,
                   (double)progress->lag_ns / 1e6, progress->failed);
    size = strlen(line);
    text_add(text, line, MIN(size, room));
}
