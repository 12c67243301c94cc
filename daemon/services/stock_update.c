/*
 * The encoding is protobuf's, fields in the order of their numbers, as every encoder writes them.
 * A tag is the field number times 8 plus its wire type: 0 a varint, 1 eight bytes, 2 a length and
 * as many bytes. A field that is 0 or empty is left out, as proto3 asks.
 *
 * It is fast because the texts come with their tags and are copied in one fixed size, of which only
 * the used part counts, and because its branches (is it 0, is there one more byte) go the same way
 * nearly always. Spreading a varint's bits over eight bytes without branches was measured: slower.
 * What is copied too much the next field overwrites; the last field's excess lies within
 * STOCK_UPDATE_SIZE_MAX, which has the longest texts in it.
 */
#include "services/stock_update.h"

#include "proto/wire.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    TAG_TICKER = 1 << 3 | 2,
    TAG_PRICE = 2 << 3 | 1,
    TAG_CHANGE = 3 << 3 | 1,
    TAG_CHANGE_PERCENT = 4 << 3 | 1,
    TAG_VOLUME = 5 << 3 | 0,
    TAG_OPEN_PRICE = 6 << 3 | 1,
    TAG_HIGH_PRICE = 7 << 3 | 1,
    TAG_LOW_PRICE = 8 << 3 | 1,
    TAG_MARKET_CAP = 9 << 3 | 0,
    TAG_TIMESTAMP = 10 << 3 | 2,
};

/* Writes tag, length and text; returns the bytes used. A length of one byte is below 128. */
static uint8_t set_text(uint8_t *field, uint8_t tag, const char *text, size_t length)
{
    if (length == 0)
        return 0;
    field[0] = tag;
    field[1] = (uint8_t)length;
    memcpy(field + 2, text, length);
    return (uint8_t)(2 + length);
}

void stock_texts_set_ticker(struct stock_texts *texts, const char *ticker)
{
    size_t length = strnlen(ticker, STOCK_TICKER_MAX + 1);

    /* A string of proto3 is UTF-8: half a character at its end would make it unreadable. */
    if (length > STOCK_TICKER_MAX) {
        length = STOCK_TICKER_MAX;
        while (length > 0 && ((uint8_t)ticker[length] & 0xC0) == 0x80)
            length--;
    }
    texts->ticker_size = set_text(texts->ticker, TAG_TICKER, ticker, length);
}

void stock_texts_set_time(struct stock_texts *texts, int64_t seconds)
{
    char text[80];
    time_t time = seconds;
    struct tm tm;
    long offset_minutes;
    int length = 0;

    if (localtime_r(&time, &tm)) {
        offset_minutes = tm.tm_gmtoff / 60;
        length = snprintf(text, sizeof(text), "%04lld-%02d-%02dT%02d:%02d:%02d%c%02ld:%02ld",
                          tm.tm_year + 1900LL, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
                          tm.tm_sec, offset_minutes < 0 ? '-' : '+', labs(offset_minutes) / 60,
                          labs(offset_minutes) % 60);
    }
    if (length < 0 || length > STOCK_TIMESTAMP_MAX)
        length = 0;
    texts->timestamp_size = set_text(texts->timestamp, TAG_TIMESTAMP, text, (size_t)length);
}

/* Writes a field of eight bytes; returns the place after it. */
static inline uint8_t *put_double(uint8_t *bytes, uint8_t tag, double value)
{
    uint64_t bits;

    bytes[0] = tag;
    memcpy(&bits, &value, sizeof(bits));
    bits = htole64(bits);
    memcpy(bytes + 1, &bits, sizeof(bits));
    return bytes + 9;
}

/* Writes tag and varint, 7 bits a byte, the lowest first, or nothing for 0. */
static inline uint8_t *put_varint(uint8_t *bytes, uint8_t tag, int64_t value)
{
    uint64_t rest = (uint64_t)value;

    if (rest == 0)
        return bytes;
    *bytes++ = tag;
    for (; rest >= 0x80; rest >>= 7)
        *bytes++ = (uint8_t)rest | 0x80;
    *bytes++ = (uint8_t)rest;
    return bytes;
}

size_t stock_update_pack(uint8_t *bytes, const struct walk_step *step,
                         const struct stock_texts *texts)
{
    uint8_t *at = bytes + WIRE_PREFIX_SIZE;

    memcpy(at, texts->ticker, sizeof(texts->ticker));
    at += texts->ticker_size;
    if (step->price != 0)
        at = put_double(at, TAG_PRICE, step->price);
    if (step->change != 0)
        at = put_double(at, TAG_CHANGE, step->change);
    if (step->change_percent != 0)
        at = put_double(at, TAG_CHANGE_PERCENT, step->change_percent);
    at = put_varint(at, TAG_VOLUME, step->volume);
    if (step->open != 0)
        at = put_double(at, TAG_OPEN_PRICE, step->open);
    if (step->high != 0)
        at = put_double(at, TAG_HIGH_PRICE, step->high);
    if (step->low != 0)
        at = put_double(at, TAG_LOW_PRICE, step->low);
    at = put_varint(at, TAG_MARKET_CAP, step->market_cap);
    memcpy(at, texts->timestamp, sizeof(texts->timestamp));
    at += texts->timestamp_size;

    wire_prefix_write(bytes, (uint32_t)(at - bytes - WIRE_PREFIX_SIZE));
    return (size_t)(at - bytes);
}
