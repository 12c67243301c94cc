/*
 * protobuf's wire format (protobuf.dev/programming-guides/encoding): tags and values, read once
 * from front to back.
 */
#include "client/command_bench_event.h"

#include <string.h>

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

enum { VARINT_BYTES_MAX = 10 };

struct field {
    uint64_t number;
    unsigned type;
    uint64_t value;       /* of VARINT and FIXED64; of BYTES their number */
    const uint8_t *bytes; /* of BYTES */
};

static const uint8_t *read_varint(const uint8_t *p, const uint8_t *end, uint64_t *ret_value)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < VARINT_BYTES_MAX && p < end; i++) {
        value |= (uint64_t)(*p & 0x7f) << (7 * i);
        if (!(*p++ & 0x80)) {
            *ret_value = value;
            return p;
        }
    }
    return NULL;
}

/* The place behind the field at `p`; NULL if there is no whole field of a type that is used. */
static const uint8_t *read_field(const uint8_t *p, const uint8_t *end, struct field *ret_field)
{
    uint64_t tag;

    p = read_varint(p, end, &tag);
    if (!p || tag >> 3 == 0)
        return NULL;
    ret_field->number = tag >> 3;
    ret_field->type = tag & 7;
    switch (ret_field->type) {
    case WIRE_VARINT:
        return read_varint(p, end, &ret_field->value);
    case WIRE_FIXED64:
        if (end - p < 8)
            return NULL;
        ret_field->value = 0;
        for (unsigned i = 0; i < 8; i++)
            ret_field->value |= (uint64_t)p[i] << (8 * i);
        return p + 8;
    case WIRE_FIXED32:
        return end - p < 4 ? NULL : p + 4;
    case WIRE_BYTES:
        p = read_varint(p, end, &ret_field->value);
        if (!p || ret_field->value > (uint64_t)(end - p))
            return NULL;
        ret_field->bytes = p;
        return p + ret_field->value;
    default:
        return NULL;
    }
}

static bool read_gap(const struct field *gap, struct bench_event *event)
{
    const uint8_t *p = gap->bytes;
    const uint8_t *end = p + gap->value;
    struct field field;

    while (p && p < end) {
        p = read_field(p, end, &field);
        if (p && field.number == 4 && field.type == WIRE_VARINT)
            event->gap_updates = field.value;
    }
    return p;
}

static void take_varint(const struct field *field, struct bench_event *event)
{
    switch (field->number) {
    case 2:
        event->sequence = field->value;
        break;
    case 6:
        event->conflated = field->value;
        break;
    case 7:
        event->dropped = field->value;
        break;
    case 8:
        event->resume_sequence = field->value;
        break;
    case 10:
        event->snapshot = field->value != 0;
        break;
    default:
        break;
    }
}

/* Those of a oneof: the last one counts. */
static bool take_bytes(const struct field *field, struct bench_event *event)
{
    switch (field->number) {
    case 3:
        event->kind = BENCH_EVENT_UPDATE;
        return true;
    case 4:
        event->kind = BENCH_EVENT_HEARTBEAT;
        return true;
    case 5:
        event->kind = BENCH_EVENT_GAP;
        return read_gap(field, event);
    default:
        return true;
    }
}

bool bench_event_parse(const uint8_t *bytes, size_t size, struct bench_event *ret_event)
{
    const uint8_t *end = bytes + size;
    struct field field;

    *ret_event = (struct bench_event){0};
    while (bytes < end) {
        bytes = read_field(bytes, end, &field);
        if (!bytes)
            return false;
        if (field.type == WIRE_VARINT)
            take_varint(&field, ret_event);
        else if (field.type == WIRE_BYTES && !take_bytes(&field, ret_event))
            return false;
        else if (field.type == WIRE_FIXED64 && field.number == 1)
            ret_event->epoch = field.value;
        else if (field.type == WIRE_FIXED64 && field.number == 9)
            ret_event->time_unix_ns = field.value;
    }
    return true;
}

bool bench_update_parse(const uint8_t *bytes, size_t size, struct bench_update *ret_update)
{
    const uint8_t *end = bytes + size;
    struct field field;

    *ret_update = (struct bench_update){0};
    while (bytes < end) {
        bytes = read_field(bytes, end, &field);
        if (!bytes)
            return false;
        if (field.type != WIRE_FIXED64)
            continue;
        if (field.number == 2)
            memcpy(&ret_update->price, &field.value, sizeof(double));
        else if (field.number == 3)
            memcpy(&ret_update->change, &field.value, sizeof(double));
    }
    return true;
}
