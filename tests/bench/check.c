#include "check.h"

#include <math.h>
#include <string.h>

enum {
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_BYTES = 2,
    VARINT_BYTES_MAX = 10,
    TIMESTAMP_BYTES_MIN = 20, /* 2026-01-31T09:30:00Z */
};

static const uint8_t *varint_parse(const uint8_t *p, const uint8_t *end, uint64_t *ret_value)
{
    uint64_t value = 0;

    for (unsigned n = 0; n < VARINT_BYTES_MAX && p < end; n++) {
        value |= (uint64_t)(*p & 0x7f) << (7 * n);
        if (!(*p++ & 0x80)) {
            *ret_value = value;
            return p;
        }
    }
    return NULL;
}

/* The place of a field in the struct, by its kind; NULL for a number that no such field has. */
static double *double_field(struct update *u, uint64_t number)
{
    switch (number) {
    case 2:
        return &u->price;
    case 3:
        return &u->change;
    case 4:
        return &u->change_percent;
    case 6:
        return &u->open_price;
    case 7:
        return &u->high_price;
    case 8:
        return &u->low_price;
    default:
        return NULL;
    }
}

static const uint8_t *field_parse(const uint8_t *p, const uint8_t *end, uint64_t tag,
                                  struct update *u)
{
    uint64_t number = tag >> 3;
    uint64_t value;

    if ((tag & 7) == WIRE_FIXED64) {
        double *field = double_field(u, number);

        if (!field || end - p < (ptrdiff_t)sizeof(double))
            return NULL;
        memcpy(field, p, sizeof(double)); /* little-endian on the wire, as on every host we know */
        return p + sizeof(double);
    }
    p = varint_parse(p, end, &value);
    if (!p)
        return NULL;
    if ((tag & 7) == WIRE_VARINT && number == 5) {
        u->volume = (int64_t)value;
    } else if ((tag & 7) == WIRE_VARINT && number == 9) {
        u->market_cap = (int64_t)value;
    } else if ((tag & 7) == WIRE_BYTES && (number == 1 || number == 10)) {
        if (value > (uint64_t)(end - p))
            return NULL;
        *(number == 1 ? &u->ticker_bytes : &u->timestamp_bytes) = value;
        p += value;
    } else {
        return NULL;
    }
    return p;
}

bool update_parse(const uint8_t *data, size_t bytes, struct update *ret_update)
{
    const uint8_t *end = data + bytes;
    struct update u = {0};

    while (data && data < end) {
        uint64_t tag;

        data = varint_parse(data, end, &tag);
        if (data)
            data = field_parse(data, end, tag, &u);
    }
    if (!data)
        return false;
    *ret_update = u;
    return true;
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fmax(1, fmax(fabs(a), fabs(b)));
}

const char *update_fault(const struct update *u, const struct update *before)
{
    if (u->ticker_bytes == 0)
        return "no ticker";
    if (!(u->price > 0) || !(u->open_price > 0))
        return "a price that is not above 0";
    if (!(fabs(u->change) <= 2.5))
        return "a change of more than 2.5";
    if (u->volume < 0 || u->volume >= 10000)
        return "a volume out of range";
    if (!(u->high_price >= u->price && u->high_price < u->price + 2))
        return "a high price out of range";
    if (!(u->low_price <= u->price && u->low_price > u->price - 2))
        return "a low price out of range";
    if (u->market_cap < 0 || (double)u->market_cap > u->price * 1e6)
        return "a market capitalisation out of range";
    if (u->timestamp_bytes < TIMESTAMP_BYTES_MIN)
        return "no timestamp";
    if (!before)
        return NULL;
    if (!near(u->price, before->price + u->change))
        return "a price that is not the one before plus the change";
    if (!near(u->change_percent, u->change / before->price * 100))
        return "a changePercent that is not the change in percent";
    return NULL;
}
