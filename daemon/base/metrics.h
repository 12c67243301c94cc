/*
 * Metrics in Prometheus' text format 0.0.4 and in OpenMetrics 1.0.
 *
 * A program has one table of families (name, type, help, and a function that reads the present
 * values). The layers below keep plain counters in structs of their own; nothing is registered and
 * nothing is looked up when a counter grows. Text is made when somebody scrapes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum metric_type {
    METRIC_COUNTER,
    METRIC_GAUGE,
    METRIC_HISTOGRAM,
};

enum metrics_format {
    METRICS_TEXT,        /* text/plain; version=0.0.4 */
    METRICS_OPENMETRICS, /* application/openmetrics-text; version=1.0.0 */
};

struct metrics_writer;
struct metric_family;

/*
 * Writes the family's samples. `context` is what metrics_render() was given. A family without
 * samples is left out whole.
 */
typedef void (*metric_collect_fn)(struct metrics_writer *writer, const struct metric_family *family,
                                  void *context);

/*
 * One row of the table. `name` is the family's full name: a counter's ends in "_total" (OpenMetrics
 * drops that in its # TYPE and # HELP lines). `argument` is for `collect`, as the row wants it.
 */
struct metric_family {
    const char *name;
    enum metric_type type;
    const char *help;
    metric_collect_fn collect;
    size_t argument;
};

/* Buckets with fixed upper bounds in seconds; the last one, +Inf, is implied. */
#define HISTOGRAM_BUCKETS_MAX 16

struct histogram {
    const double *bounds; /* ascending, `count` of them, borrowed */
    unsigned count;       /* at most HISTOGRAM_BUCKETS_MAX */
    uint64_t buckets[HISTOGRAM_BUCKETS_MAX + 1];
    double sum;
};

void histogram_init(struct histogram *histogram, const double *bounds, unsigned count);

/* A value equal to a bound belongs below it; a NaN is not counted. */
void histogram_observe(struct histogram *histogram, double value);

/* The same `times` over, at the cost of one. */
void histogram_observe_many(struct histogram *histogram, double value, uint64_t times);

/*
 * Samples, for collect functions. The arguments after `value` are pairs of label name and value
 * (const char *), ended by NULL; values are escaped as the format says, and what is not UTF-8 in
 * them becomes U+FFFD. Lengths are unlimited. Numbers are the shortest that give the same value
 * back; the bounds of buckets are written alike in both formats, as OpenMetrics wants them.
 */
void metrics_u64(struct metrics_writer *writer, uint64_t value, ...) __attribute__((sentinel));
void metrics_double(struct metrics_writer *writer, double value, ...) __attribute__((sentinel));
void metrics_histogram(struct metrics_writer *writer, const struct histogram *histogram);

/* For `collect` of a program's "_build_info": 1, labelled with the version of this source. */
void metrics_build_info(struct metrics_writer *writer, const struct metric_family *family,
                        void *context);

/*
 * Renders `count` families of `table` as one text, "# EOF" included where the format wants it. On
 * success *ret_text is the caller's to free() and NUL-terminated, *ret_size its length without the
 * NUL. 0 or -ENOMEM.
 */
int metrics_render(const struct metric_family *table, size_t count, void *context,
                   enum metrics_format format, char **ret_text, size_t *ret_size);

/* The same for the table of a whole program: the process_* families below follow it. */
int metrics_render_program(const struct metric_family *table, size_t count, void *context,
                           enum metrics_format format, char **ret_text, size_t *ret_size);

/*
 * The standard process_* families (cpu seconds, open and maximum descriptors, virtual, maximum
 * virtual and resident memory, heap, threads, start time), read from /proc/self and getrlimit(2) at
 * each scrape. What cannot be read is left out.
 */
extern const struct metric_family metrics_process[];
extern const size_t metrics_process_count;
