/*
 * The lines of `stock-client stat`: what a subscription brought in each interval, and in all.
 */
#pragma once

#include "base/text.h"
#include "client/print.h"
#include "client/tally.h"

#include <stdbool.h>
#include <stdint.h>

/* In text the header comes again after so many lines, so that it is on the screen with them. */
#define STAT_HEADER_EVERY 20

/* Of one interval, but for what says "now" or "so far". */
struct stat_line {
    uint64_t time_ns; /* its end, since the Unix epoch */
    double seconds;   /* how long it was */
    uint64_t updates; /* without a snapshot's */
    uint64_t snapshots;
    uint64_t bytes;
    uint64_t conflated;
    uint64_t dropped;
    uint64_t gaps;
    uint64_t missing;
    bool has_lag; /* an update came */
    uint64_t lag_p50_us;
    uint64_t lag_p99_us;
    uint64_t unprocessed_bytes; /* now */
    uint64_t reconnects;        /* so far */
    bool connected;             /* now */
};

/* Since the last time; zeroed memory is a start. */
struct stat_report {
    enum print_format format;
    unsigned lines; /* printed */
    struct tally before;
};

/*
 * Fills in what `tally` has more than it had the last time, and turns its ages: they are those of
 * one interval.
 */
void stat_report_take(struct stat_report *report, struct tally *tally, struct stat_line *ret_line);

/* Adds the line, before it the header where it is due. */
void stat_report_line(struct stat_report *report, struct text *text, const struct stat_line *line);

/* Of all of it, `seconds` long; one line without its end. `lags` are those of all updates. */
void stat_report_summary(struct text *text, const struct tally *tally, const struct lags *lags,
                         double seconds, uint64_t reconnects);
