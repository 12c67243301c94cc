/*
 * Below BENCH_HISTOGRAM_PARTS each nanosecond has a bucket. From there on each power of 2 has that
 * many buckets, as the bits below the highest say.
 */
#include "client/command_bench_histogram.h"

#include <math.h>

static unsigned bucket_of(uint64_t ns)
{
    unsigned shift;

    if (ns < BENCH_HISTOGRAM_PARTS)
        return (unsigned)ns;
    shift = 63 - (unsigned)__builtin_clzll(ns) - BENCH_HISTOGRAM_BITS;
    return shift * BENCH_HISTOGRAM_PARTS + (unsigned)(ns >> shift);
}

/* The longest time that belongs there. */
static uint64_t bucket_end(unsigned bucket)
{
    unsigned shift;
    uint64_t high;

    if (bucket < 2 * BENCH_HISTOGRAM_PARTS)
        return bucket;
    shift = bucket / BENCH_HISTOGRAM_PARTS - 1;
    high = bucket % BENCH_HISTOGRAM_PARTS + BENCH_HISTOGRAM_PARTS;
    return (high << shift) + (((uint64_t)1 << shift) - 1);
}

void bench_histogram_add(struct bench_histogram *histogram, uint64_t ns)
{
    histogram->count++;
    histogram->sum_ns += (double)ns;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
    histogram->buckets[bucket_of(ns)]++;
}

void bench_histogram_merge(struct bench_histogram *histogram, const struct bench_histogram *other)
{
    histogram->count += other->count;
    histogram->sum_ns += other->sum_ns;
    if (other->max_ns > histogram->max_ns)
        histogram->max_ns = other->max_ns;
    for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++)
        histogram->buckets[i] += other->buckets[i];
}

uint64_t bench_histogram_quantile_ns(const struct bench_histogram *histogram, double quantile)
{
    uint64_t rank = (uint64_t)ceil(quantile * (double)histogram->count);
    uint64_t seen = 0;

    if (rank == 0)
        rank = 1;
    for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank) {
            uint64_t end = bucket_end(i);

            return end < histogram->max_ns ? end : histogram->max_ns;
        }
    }
    return histogram->max_ns;
}
