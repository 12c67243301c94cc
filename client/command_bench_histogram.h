/*
 * Times, counted in buckets whose width grows with them, so that every quantile is known to a part
 * of what it is, in memory that does not depend on how many times there were, or how long.
 */
#pragma once

#include <stdint.h>

/* A power of 2: a quantile is less than 1/BENCH_HISTOGRAM_PARTS above the time it stands for. */
#define BENCH_HISTOGRAM_BITS 7
#define BENCH_HISTOGRAM_PARTS (1 << BENCH_HISTOGRAM_BITS)
#define BENCH_HISTOGRAM_BUCKETS ((64 - BENCH_HISTOGRAM_BITS + 1) * BENCH_HISTOGRAM_PARTS)

/* Zeroed memory is empty. */
struct bench_histogram {
    uint64_t count;
    uint64_t max_ns;
    double sum_ns;
    uint64_t buckets[BENCH_HISTOGRAM_BUCKETS];
};

void bench_histogram_add(struct bench_histogram *histogram, uint64_t ns);

/* Adds all that is in `other`. */
void bench_histogram_merge(struct bench_histogram *histogram, const struct bench_histogram *other);

/*
 * The time that `quantile` (0 to 1) of all are at most: the upper end of its bucket, but no more
 * than the longest. 0 if there are none.
 */
uint64_t bench_histogram_quantile_ns(const struct bench_histogram *histogram, double quantile);
