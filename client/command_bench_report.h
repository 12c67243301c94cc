/*
 * What `bench` has counted, and how it is told: as a table for people, as JSON, as CSV; and the
 * line that shows how far it is.
 */
#pragma once

#include "base/text.h"
#include "client/command_bench_histogram.h"
#include "client/print.h"
#include "proto/wire.h"

#include <stdbool.h>
#include <stdint.h>

/* X(identifier, name in JSON and CSV, name for people) */
#define BENCH_COUNTERS(X)                                                                          \
    X(CALLS, "calls", "calls")                                                                     \
    X(ANSWERED, "answered", "calls answered")                                                      \
    X(FAILED, "failed", "calls failed")                                                            \
    X(CUT_OFF, "cut_off", "of these, cut off")                                                     \
    X(UPDATES, "updates", "updates")                                                               \
    X(SNAPSHOTS, "snapshot_updates", "snapshot updates")                                           \
    X(HEARTBEATS, "heartbeats", "heartbeats")                                                      \
    X(BYTES, "bytes", "bytes")                                                                     \
    X(CONFLATED, "conflated", "conflated")                                                         \
    X(DROPPED, "dropped", "dropped")                                                               \
    X(GAPS, "gaps", "gaps")                                                                        \
    X(GAP_UPDATES, "gap_updates", "updates in gaps")                                               \
    X(UNTOLD, "untold", "missing, and not told")                                                   \
    X(REPEATED, "repeated", "repeated")

enum bench_counter {
#define X(identifier, name, label) BENCH_##identifier,
    BENCH_COUNTERS(X)
#undef X
        BENCH_COUNTER_COUNT,
};

/* A part of the calls. Zeroed memory is empty. */
struct bench_class {
    uint64_t counters[BENCH_COUNTER_COUNT];

    /* Of the updates a second of each call, for Jain's index. */
    uint64_t rates;
    double rate_sum;
    double rate_squares;

    struct bench_histogram latency; /* from when the market took an update until it was taken up */
    struct bench_histogram first;   /* from the begin of a call to its first event */
};

/* The updates a second of one more call. */
void bench_class_add_rate(struct bench_class *class, double rate);

/* Jain's index: 1 is equal shares, 1/n is one call with everything; 0 if nothing came to anybody.
 */
double bench_class_fairness(const struct bench_class *class);

/* Adds all that is in `other`. */
void bench_class_merge(struct bench_class *class, const struct bench_class *other);

enum { BENCH_FAST, BENCH_SLOW, BENCH_CLASSES };

#define BENCH_ERROR_MAX 256

struct bench_report {
    const char *method;
    const char *target;
    uint64_t connections;
    uint64_t connections_lost;
    double seconds; /* that it ran */
    bool interrupted;
    bool has_latency; /* the method's messages say when they were made */
    uint64_t failed[WIRE_STATUS_COUNT];
    char first_error[BENCH_ERROR_MAX]; /* of a call or a connection; empty: none */
    struct bench_class *classes;       /* BENCH_CLASSES */
};

/* Adds the whole report. 0 or -ENOMEM. */
int bench_report_write(struct text *text, enum print_format format,
                       const struct bench_report *report);

struct bench_progress {
    double seconds;
    double seconds_max;
    uint64_t calls; /* open now */
    uint64_t failed;
    double rate;      /* updates a second, of late */
    uint64_t lag_ns;  /* 99th percentile so far */
    unsigned columns; /* of the terminal */
};

/* Adds one line without its end, of no more than `columns` - 1 characters. */
void bench_progress_write(struct text *text, const struct bench_progress *progress);
