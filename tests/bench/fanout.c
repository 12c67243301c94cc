#include "tests/bench/fanout.h"

#include "tests/bench/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    KEPT = 256,      /* updates that a stream may be behind another, a power of 2 */
    LAGS_MAX = 4096, /* of the first so many updates the lag is kept */
    TAG_EPOCH = 1 << 3 | 1,
    TAG_SEQUENCE = 2 << 3,
    TAG_UPDATE = 3 << 3 | 2,
    TAG_TIME = 9 << 3 | 1,
};

/* An update as the first stream that had it got it. */
struct event {
    uint64_t sequence; /* 0: none */
    uint64_t time_unix_ns;
    uint64_t streams; /* that have it */
    size_t bytes;
    struct update update;
    uint8_t message[FANOUT_MESSAGE_BYTES];
};

struct fanout {
    uint64_t streams;
    uint64_t newest;
    uint64_t updates;
    unsigned lag_count;
    double lags_ms[LAGS_MAX];
    struct event events[KEPT];
};

struct fanout *fanout_new(uint64_t streams)
{
    struct fanout *fanout = calloc(1, sizeof(*fanout));

    if (fanout)
        fanout->streams = streams;
    return fanout;
}

static const uint8_t *varint_parse(const uint8_t *p, const uint8_t *end, uint64_t *ret_value)
{
    *ret_value = 0;
    for (unsigned shift = 0; shift < 64 && p < end; shift += 7) {
        *ret_value |= (uint64_t)(*p & 0x7f) << shift;
        if (!(*p++ & 0x80))
            return p;
    }
    return NULL;
}

/* Any other field than these four is told by no server here: nothing was merged, nothing lost. */
static bool event_parse(struct event *event, const uint8_t *p, size_t bytes)
{
    const uint8_t *end = p + bytes;
    bool updated = false;

    while (p && p < end) {
        uint8_t tag = *p++;
        uint64_t value;

        switch (tag) {
        case TAG_EPOCH:
        case TAG_TIME:
            if (end - p < 8)
                return false;
            if (tag == TAG_TIME)
                memcpy(&event->time_unix_ns, p, 8);
            p += 8;
            break;
        case TAG_SEQUENCE:
            p = varint_parse(p, end, &event->sequence);
            break;
        case TAG_UPDATE:
            p = varint_parse(p, end, &value);
            if (!p || value > (uint64_t)(end - p) || !update_parse(p, value, &event->update))
                return false;
            p += value;
            updated = true;
            break;
        default:
            return false;
        }
    }
    return p && updated && event->sequence > 0 && event->time_unix_ns > 0;
}

/* What must be true of any market's update; `before` is the one before it, or NULL. */
static const char *market_update_fault(const struct update *u, const struct update *before)
{
    if (u->ticker_bytes == 0 || u->timestamp_bytes == 0)
        return "an update without a ticker or a timestamp";
    if (!(u->price > 0 && u->open_price > 0))
        return "a price that is not above 0";
    if (!(u->low_price <= u->price && u->price <= u->high_price))
        return "a price that is not between low and high";
    if (u->volume < 0 || u->market_cap < 0)
        return "a volume or a market capitalisation below 0";
    if (before && !(fabs(before->price + u->change - u->price) <= 1e-9 * u->price))
        return "a price that is not the one before plus the change";
    return NULL;
}

static struct event *event_at(struct fanout *fanout, uint64_t sequence)
{
    return &fanout->events[sequence % KEPT];
}

/* The first stream has it. */
static const char *event_new(struct fanout *fanout, const struct event *event)
{
    const struct event *before = event_at(fanout, event->sequence - 1);
    struct event *place = event_at(fanout, event->sequence);
    bool known = before->sequence > 0 && before->sequence == event->sequence - 1;

    if (place->sequence > event->sequence)
        return "an update that is older than all that are kept";
    *place = *event;
    if (event->sequence > fanout->newest)
        fanout->newest = event->sequence;
    return market_update_fault(&event->update, known ? &before->update : NULL);
}

static void event_whole(struct fanout *fanout, const struct event *event)
{
    struct timespec t;

    fanout->updates++;
    if (fanout->lag_count == LAGS_MAX || clock_gettime(CLOCK_REALTIME, &t) < 0)
        return;
    fanout->lags_ms[fanout->lag_count++] =
        ((double)t.tv_sec * 1e9 + (double)t.tv_nsec - (double)event->time_unix_ns) / 1e6;
}

const char *fanout_take(struct fanout *fanout, uint64_t *sequence, const uint8_t *message,
                        size_t bytes)
{
    struct event *event = event_at(fanout, *sequence + 1);
    const char *wrong = NULL;

    if (bytes > FANOUT_MESSAGE_BYTES)
        return "an event that is too long to be read here";
    /* What others have had already needs no decoding: it is the expected one, byte for byte. */
    if (*sequence == 0 || event->sequence != *sequence + 1 || event->bytes != bytes ||
        memcmp(event->message, message, bytes) != 0) {
        struct event new = {.bytes = bytes};

        if (!event_parse(&new, message, bytes))
            return "a message that is no MarketEvent with an update";
        if (*sequence != 0 && new.sequence != *sequence + 1)
            wrong = "an update that does not follow the one before";
        memcpy(new.message, message, bytes);
        event = event_at(fanout, new.sequence);
        if (event->sequence != new.sequence)
            wrong = wrong ? wrong : event_new(fanout, &new);
        else if (event->bytes != bytes || memcmp(event->message, message, bytes) != 0)
            wrong = "an update that another subscriber got with other bytes";
        *sequence = new.sequence;
        if (wrong)
            return wrong;
    }
    *sequence = event->sequence;
    if (++event->streams == fanout->streams)
        event_whole(fanout, event);
    return NULL;
}

bool fanout_is_whole(const struct fanout *fanout)
{
    const struct event *event = &fanout->events[fanout->newest % KEPT];

    return event->sequence > 0 && event->streams == fanout->streams;
}

void fanout_begin(struct fanout *fanout)
{
    fanout->updates = 0;
    fanout->lag_count = 0;
}

uint64_t fanout_updates(const struct fanout *fanout)
{
    return fanout->updates;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double fanout_lag_ms(struct fanout *fanout)
{
    if (fanout->lag_count == 0)
        return 0;
    qsort(fanout->lags_ms, fanout->lag_count, sizeof(fanout->lags_ms[0]), compare);
    return fanout->lags_ms[fanout->lag_count / 2];
}
