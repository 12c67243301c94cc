/*
 * Each direction has one z_stream, which is made when it is first needed and reset before every
 * message, so that what a peer sent in one message never reaches into another. Nothing here waits:
 * a message is compressed or decompressed whole, or not at all.
 */
#include "rpc/compression.h"

#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* zlib's windowBits of 15 bits, its most, in gzip's format and no other. */
#define GZIP_WINDOW (15 + 16)

/* The shortest there is: a header of 10 bytes, nothing in 2, and 8 of checksum and length. */
#define GZIP_SIZE_MIN 20

/* Of the first allocation: what decompresses to no more is allocated only once. */
#define INFLATED_MIN 256

bool compression_accepts(const char *value, size_t length, const char *name)
{
    const char *end = value + length;

    for (;;) {
        const char *comma = memchr(value, ',', (size_t)(end - value));
        const char *stop = comma ? comma : end;

        while (value < stop && (*value == ' ' || *value == '\t'))
            value++;
        while (stop > value && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        if ((size_t)(stop - value) == strlen(name) && memcmp(value, name, strlen(name)) == 0)
            return true;
        if (!comma)
            return false;
        value = comma + 1;
    }
}

/* zlib's memory comes through this file's calloc(), so that tests can let it fail. */
static void *allocate(void *opaque, unsigned count, unsigned size)
{
    return calloc(count, size);
}

static void release(void *opaque, void *pointer)
{
    free(pointer);
}

/* ---- Compressing ---- */

/* The one stream, ready for a message; NULL: no memory. */
static z_stream *deflater(void)
{
    static z_stream stream;
    static bool made;

    if (made) {
        (void)deflateReset(&stream);
        return &stream;
    }
    stream = (z_stream){.zalloc = allocate, .zfree = release};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, GZIP_WINDOW, MAX_MEM_LEVEL - 1,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return NULL;
    made = true;
    return &stream;
}

static size_t deflate_bytes(z_stream *stream, const uint8_t *body, size_t size, uint8_t *ret_bytes,
                            size_t max)
{
    if (size > UINT_MAX)
        return 0;
    /* zlib does not write there, but says so only where ZLIB_CONST is defined. */
    stream->next_in = (Bytef *)(uintptr_t)body;
    stream->avail_in = (unsigned)size;
    stream->next_out = ret_bytes;
    stream->avail_out = (unsigned)MIN(max, (size_t)UINT_MAX);
    return deflate(stream, Z_FINISH) == Z_STREAM_END ? stream->total_out : 0;
}

size_t compression_gzip_bytes(const uint8_t *body, size_t size, uint8_t *ret_bytes, size_t max)
{
    z_stream *stream = max >= GZIP_SIZE_MIN ? deflater() : NULL;

    return stream ? deflate_bytes(stream, body, size, ret_bytes, max) : 0;
}

/* The compressed message, if its body is no longer than `max`; otherwise, or without memory, NULL.
 */
static struct message *gzip_message(const struct message *message, size_t max)
{
    struct message *twin = max <= UINT32_MAX ? message_new((uint32_t)max) : NULL;
    size_t size;

    if (!twin)
        return NULL;
    size = compression_gzip_bytes(message->bytes + MESSAGE_PREFIX_SIZE,
                                  message->size - MESSAGE_PREFIX_SIZE, message_body(twin), max);
    if (size == 0)
        return message_unref(twin);
    twin->bytes[0] = 1;
    twin->due_ns = message->due_ns;
    return message_trim(twin, (uint32_t)size);
}

struct message *compression_gzip(const struct message *message)
{
    z_stream *stream = deflater();

    assert(!message_is_compressed(message));
    if (!stream)
        return NULL;
    return gzip_message(message, deflateBound(stream, message->size - MESSAGE_PREFIX_SIZE));
}

struct message *compression_twin(struct message *message)
{
    struct message **twin = message_twin(message);

    if (!twin || message_is_compressed(message) || message->size <= MESSAGE_PREFIX_SIZE)
        return message;
    if (!*twin)
        *twin = gzip_message(message, message->size - MESSAGE_PREFIX_SIZE - 1);
    /* Without memory a later one may have more luck, but it is not worth to tell that apart. */
    if (!*twin)
        *twin = message;
    return *twin;
}

/* ---- Decompressing ---- */

/* As deflater(). */
static z_stream *inflater(void)
{
    static z_stream stream;
    static bool made;

    if (made) {
        (void)inflateReset(&stream);
        return &stream;
    }
    stream = (z_stream){.zalloc = allocate, .zfree = release};
    if (inflateInit2(&stream, GZIP_WINDOW) != Z_OK)
        return NULL;
    made = true;
    return &stream;
}

/* A body that grows as it comes out. */
struct body {
    uint8_t *bytes;
    size_t size;
    size_t capacity;
};

/* Twice the room, but never more than `max` + 1. 0 or -ENOMEM. */
static int body_grow(struct body *body, size_t max)
{
    size_t capacity = body->capacity > max / 2 ? max + 1 : 2 * body->capacity;
    uint8_t *bytes = realloc(body->bytes, capacity);

    if (!bytes)
        return -ENOMEM;
    body->bytes = bytes;
    body->capacity = capacity;
    return 0;
}

static int inflate_body(z_stream *stream, struct body *body, size_t max)
{
    for (;;) {
        int r;

        if (body->size > max)
            return COMPRESSION_TOO_LONG;
        if (body->size == body->capacity && body_grow(body, max) < 0)
            return -ENOMEM;
        stream->next_out = body->bytes + body->size;
        stream->avail_out = (unsigned)MIN(body->capacity - body->size, (size_t)UINT_MAX);
        r = inflate(stream, Z_NO_FLUSH);
        body->size = (size_t)(stream->next_out - body->bytes);
        if (r == Z_STREAM_END)
            break;
        if (r == Z_MEM_ERROR)
            return -ENOMEM;
        /* Z_BUF_ERROR: it wants more input, and there is none. */
        if (r != Z_OK)
            return COMPRESSION_CORRUPT;
    }
    if (stream->avail_in > 0)
        return COMPRESSION_CORRUPT;
    return body->size > max ? COMPRESSION_TOO_LONG : COMPRESSION_OK;
}

int compression_gunzip(const uint8_t *bytes, size_t size, size_t max, uint8_t **ret_bytes,
                       size_t *ret_size)
{
    struct body body = {.capacity = INFLATED_MIN / 2};
    z_stream *stream = inflater();
    int r;

    if (!stream)
        return -ENOMEM;
    if (size == 0)
        return COMPRESSION_CORRUPT;
    if (size > UINT_MAX)
        return COMPRESSION_TOO_LONG;
    while (body.capacity < size && body.capacity < max / 2)
        body.capacity *= 2;
    if (body_grow(&body, max) < 0)
        return -ENOMEM;
    stream->next_in = (Bytef *)(uintptr_t)bytes;
    stream->avail_in = (unsigned)size;
    r = inflate_body(stream, &body, max);
    if (r != COMPRESSION_OK || body.size == 0) {
        free(TAKE_PTR(body.bytes));
        body.size = 0;
    }
    if (r != COMPRESSION_OK)
        return r;
    *ret_bytes = body.bytes;
    *ret_size = body.size;
    return COMPRESSION_OK;
}
