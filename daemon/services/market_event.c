/*
 * The fields of an event stand in the order of their numbers, as every encoder writes them, with
 * one exception that protobuf allows: what is a subscriber's own follows an update that all share.
 *
 * A tag is the field number times 8 plus its wire type: 0 a varint, 1 eight bytes, 2 a length and
 * as many bytes. A field that is 0 is left out, as proto3 asks, but for the message of a oneof.
 */
#include "services/market_event.h"

#include "proto/wire.h"
#include "services/stock_update.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

enum {
    TAG_EPOCH = 1 << 3 | 1,
    TAG_SEQUENCE = 2 << 3 | 0,
    TAG_UPDATE = 3 << 3 | 2,
    TAG_HEARTBEAT = 4 << 3 | 2,
    TAG_GAP = 5 << 3 | 2,
    TAG_CONFLATED = 6 << 3 | 0,
    TAG_DROPPED = 7 << 3 | 0,
    TAG_RESUME_SEQUENCE = 8 << 3 | 0,
    TAG_TIME = 9 << 3 | 1,
    TAG_SNAPSHOT = 10 << 3 | 0,

    TAG_GAP_REASON = 1 << 3 | 0,
    TAG_GAP_FROM = 2 << 3 | 0,
    TAG_GAP_TO = 3 << 3 | 0,
    TAG_GAP_UPDATES = 4 << 3 | 0,

    GAP_REASON_HISTORY = 1,
    GAP_REASON_EPOCH = 2,
};

#define VARINT_MAX 10
#define FIXED_FIELD_MAX (1 + 8)
#define VARINT_FIELD_MAX (1 + VARINT_MAX)
#define GAP_SIZE_MAX (2 + 3 * VARINT_FIELD_MAX)

/* An update, with a length of two bytes. */
static_assert(WIRE_PREFIX_SIZE + 2 * FIXED_FIELD_MAX + VARINT_FIELD_MAX + 1 + 2 +
                      STOCK_UPDATE_SIZE_MAX <=
                  MARKET_EVENT_SIZE_MAX,
              "an update has room in the history");
/* What is put behind it, or what an event of a subscriber's own consists of. */
static_assert(3 * VARINT_FIELD_MAX + 2 <= MARKET_EVENT_WRITE_MAX - MARKET_EVENT_SIZE_MAX,
              "an update has room for what is added");
static_assert(WIRE_PREFIX_SIZE + FIXED_FIELD_MAX + VARINT_FIELD_MAX + 2 + GAP_SIZE_MAX +
                      3 * VARINT_FIELD_MAX + 2 <=
                  MARKET_EVENT_WRITE_MAX,
              "a gap has room");
static_assert(MARKET_TICKER_SIZE_MAX <= STOCK_TICKER_MAX, "no symbol is cut");

static uint8_t *put_number(uint8_t *at, uint64_t number)
{
    for (; number >= 0x80; number >>= 7)
        *at++ = (uint8_t)number | 0x80;
    *at++ = (uint8_t)number;
    return at;
}

/* A field with a varint; none for 0. Returns the place after it. */
static uint8_t *put_varint(uint8_t *at, uint8_t tag, uint64_t value)
{
    if (value == 0)
        return at;
    *at++ = tag;
    return put_number(at, value);
}

/* The same with eight bytes. */
static uint8_t *put_fixed(uint8_t *at, uint8_t tag, uint64_t value)
{
    if (value == 0)
        return at;
    *at++ = tag;
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

static uint8_t *put_bytes(uint8_t *at, uint8_t tag, const uint8_t *bytes, size_t size)
{
    *at++ = tag;
    at = put_number(at, size);
    memcpy(at, bytes, size);
    return at + size;
}

/* Writes the prefix of the message that ends at `end`; its size. */
static size_t put_prefix(uint8_t *bytes, const uint8_t *end)
{
    wire_prefix_write(bytes, (uint32_t)(end - bytes - WIRE_PREFIX_SIZE));
    return (size_t)(end - bytes);
}

/* What an update says of the time changes once a second, so it is made once a second. */
static const struct stock_texts *make_texts(const struct market_update *update)
{
    static struct stock_texts texts;
    static int64_t texts_second = INT64_MIN;

    if (update->second != texts_second) {
        stock_texts_set_time(&texts, update->second);
        texts_second = update->second;
    }
    stock_texts_set_ticker(&texts, update->ticker);
    return &texts;
}

size_t market_event_encode(void *context, uint8_t *bytes, const struct market_update *update)
{
    uint8_t packed[STOCK_UPDATE_SIZE_MAX];
    size_t size = stock_update_pack(packed, &update->values, make_texts(update));
    uint8_t *at = bytes + WIRE_PREFIX_SIZE;

    at = put_fixed(at, TAG_EPOCH, update->epoch);
    at = put_varint(at, TAG_SEQUENCE, update->sequence);
    at = put_bytes(at, TAG_UPDATE, packed + WIRE_PREFIX_SIZE, size - WIRE_PREFIX_SIZE);
    at = put_fixed(at, TAG_TIME, update->unix_ns);
    return put_prefix(bytes, at);
}

static uint8_t *put_heartbeat(uint8_t *at)
{
    *at++ = TAG_HEARTBEAT;
    *at++ = 0; /* bytes: it has no fields */
    return at;
}

static uint8_t *put_gap(uint8_t *at, const struct subscription_event *event)
{
    uint8_t gap[GAP_SIZE_MAX], *end = gap;

    end = put_varint(end, TAG_GAP_REASON,
                     event->gap_reason == RESUME_EPOCH ? GAP_REASON_EPOCH : GAP_REASON_HISTORY);
    end = put_varint(end, TAG_GAP_FROM, event->gap_from);
    end = put_varint(end, TAG_GAP_TO, event->gap_to);
    end = put_varint(end, TAG_GAP_UPDATES, event->gap_updates);
    return put_bytes(at, TAG_GAP, gap, (size_t)(end - gap));
}

size_t market_event_write(uint8_t *bytes, uint64_t epoch, const struct subscription_event *event)
{
    uint8_t *at = bytes + WIRE_PREFIX_SIZE;

    if (event->kind == SUBSCRIPTION_UPDATE) {
        memcpy(bytes, event->bytes, event->size);
        if (!event->snapshot && (event->conflated | event->dropped | event->resume_sequence) == 0)
            return event->size;
        at = bytes + event->size;
    } else {
        at = put_fixed(at, TAG_EPOCH, epoch);
        at = put_varint(at, TAG_SEQUENCE, event->sequence);
        at = event->kind == SUBSCRIPTION_GAP ? put_gap(at, event) : put_heartbeat(at);
    }
    at = put_varint(at, TAG_CONFLATED, event->conflated);
    at = put_varint(at, TAG_DROPPED, event->dropped);
    at = put_varint(at, TAG_RESUME_SEQUENCE, event->resume_sequence);
    at = put_varint(at, TAG_SNAPSHOT, event->snapshot);
    return put_prefix(bytes, at);
}
