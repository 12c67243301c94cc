/*
 * The buckets of ages are as wide as a power of two allows: the highest bit of an age tells its
 * row, the five bits after it the place there.
 */
#include "client/tally.h"

#include "base/util.h"
#include "client/count.h"

#include <math.h>
#include <stdio.h>

#define PARTS_LOG2 5
_Static_assert(LAGS_PARTS == 1 << PARTS_LOG2, "");

/* Over so long a time what happened loses all but 1/e of its weight. */
#define RATE_TIME_MS 5000.0

/* A rate is one of at least so long a time: else the first thing that happens would be thousands
 * a second. */
#define RATE_TIME_MIN_MS 1000.0

static size_t bucket_of(uint64_t us)
{
    unsigned shift;

    if (us < LAGS_PARTS)
        return (size_t)us;
    shift = 63u - (unsigned)__builtin_clzll(us) - PARTS_LOG2;
    return ((size_t)shift << PARTS_LOG2) + (size_t)(us >> shift);
}

/* The highest age of a bucket. */
static uint64_t bucket_end(size_t bucket)
{
    size_t shift = bucket >> PARTS_LOG2;

    if (shift <= 1)
        return bucket;
    shift--;
    return ((uint64_t)(bucket - (shift << PARTS_LOG2) + 1) << shift) - 1;
}

void lags_add(struct lags *lags, uint64_t us)
{
    us = MIN(us, LAGS_MAX_US);
    lags->count++;
    lags->max_us = MAX(lags->max_us, us);
    lags->buckets[bucket_of(us)]++;
}

void lags_merge(struct lags *lags, const struct lags *more)
{
    lags->count += more->count;
    lags->max_us = MAX(lags->max_us, more->max_us);
    for (size_t i = 0; i < LAGS_BUCKETS; i++)
        lags->buckets[i] += more->buckets[i];
}

uint64_t lags_quantile(const struct lags *lags, const struct lags *more, double quantile)
{
    uint64_t count = lags->count + (more ? more->count : 0);
    uint64_t max_us = more ? MAX(lags->max_us, more->max_us) : lags->max_us;
    double rank = ceil(quantile * (double)count);
    uint64_t below = 0;

    if (count == 0)
        return 0;
    for (size_t i = 0; i < LAGS_BUCKETS; i++) {
        below += lags->buckets[i] + (more ? more->buckets[i] : 0);
        if ((double)below >= rank)
            return MIN(bucket_end(i), max_us);
    }
    return max_us;
}

void rate_add(struct rate *rate, double count, uint64_t now_ms)
{
    if (!rate->begun) {
        rate->begun = true;
        rate->start_ms = now_ms;
        rate->at_ms = now_ms;
    }
    if (now_ms > rate->at_ms) {
        rate->weight *= exp(-(double)(now_ms - rate->at_ms) / RATE_TIME_MS);
        rate->at_ms = now_ms;
    }
    rate->weight += count;
}

double rate_per_second(const struct rate *rate, uint64_t now_ms)
{
    double past_ms;
    double age_ms;

    if (!rate->begun || now_ms < rate->at_ms)
        return 0;
    past_ms = (double)(now_ms - rate->at_ms);
    age_ms = MAX((double)(now_ms - rate->start_ms), RATE_TIME_MIN_MS);
    return rate->weight * exp(-past_ms / RATE_TIME_MS) /
           (RATE_TIME_MS / 1e3 * (1 - exp(-age_ms / RATE_TIME_MS)));
}

uint64_t tally_age_us(const Stockservice__MarketEvent *event, uint64_t now_ns)
{
    return now_ns > event->time_unix_nano ? (now_ns - event->time_unix_nano) / 1000 : 0;
}

void tally_event(struct tally *tally, const Stockservice__MarketEvent *event, size_t bytes,
                 uint64_t now_ns)
{
    tally->bytes += bytes;
    count_add(&tally->conflated, event->conflated);
    count_add(&tally->dropped, event->dropped);
    switch (event->event_case) {
    case STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE:
        if (event->snapshot) {
            tally->snapshots++;
        } else {
            tally->updates++;
            lags_add(&tally->lags, tally_age_us(event, now_ns));
        }
        break;
    case STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT:
        tally->heartbeats++;
        break;
    case STOCKSERVICE__MARKET_EVENT__EVENT_GAP:
        tally->gaps++;
        count_add(&tally->missing, event->gap->updates);
        break;
    default: /* of a newer server */
        break;
    }
}

void tally_turn(struct tally *tally)
{
    tally->older = tally->lags;
    tally->lags = (struct lags){0};
}

const char *tally_count_text(double count, char text[static TALLY_TEXT_MAX])
{
    static const char units[] = "kMGTPE";
    size_t unit = 0;

    if (count < 99999.5) {
        (void)snprintf(text, TALLY_TEXT_MAX, "%.0f", count);
        return text;
    }
    count /= 1e3;
    while (count >= 999.5 && unit + 2 < sizeof(units)) {
        count /= 1e3;
        unit++;
    }
    (void)snprintf(text, TALLY_TEXT_MAX, "%.*f%c", count < 99.95 ? 1 : 0, count, units[unit]);
    return text;
}

const char *tally_bytes_text(double bytes, char text[static TALLY_TEXT_MAX])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    size_t unit = 0;

    while (bytes >= 999.5 && unit + 1 < ELEMENTSOF(units)) {
        bytes /= 1e3;
        unit++;
    }
    (void)snprintf(text, TALLY_TEXT_MAX, "%.*f %s", unit > 0 && bytes < 99.95 ? 1 : 0, bytes,
                   units[unit]);
    return text;
}

const char *tally_time_text(uint64_t us, char text[static TALLY_TEXT_MAX])
{
    double seconds = (double)us / 1e6;

    if (us < 9950)
        (void)snprintf(text, TALLY_TEXT_MAX, "%.1fms", seconds * 1e3);
    else if (us < 999500)
        (void)snprintf(text, TALLY_TEXT_MAX, "%.0fms", seconds * 1e3);
    else if (seconds < 9.95)
        (void)snprintf(text, TALLY_TEXT_MAX, "%.1fs", seconds);
    else if (seconds < 100)
        (void)snprintf(text, TALLY_TEXT_MAX, "%.0fs", floor(seconds));
    else if (seconds < 100 * 60.0)
        (void)snprintf(text, TALLY_TEXT_MAX, "%.0fm", floor(seconds / 60));
    else if (seconds < 100 * 3600.0)
        (void)snprintf(text, TALLY_TEXT_MAX, "%.0fh", floor(seconds / 3600));
    else
        (void)snprintf(text, TALLY_TEXT_MAX, "%.0fd", MIN(floor(seconds / 86400), 9999.0));
    return text;
}
