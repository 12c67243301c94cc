/*
 * gzip of messages (rpc/compression.h): what a peer sends is bounded and judged as zlib alone
 * judges it, and what this side makes comes back the same.
 */
#include "base/util.h"
#include "fuzz.h"
#include "rpc/compression.h"

#include <string.h>
#include <strings.h>
#include <zlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

/* What zlib makes of one gzip member that must fill the input: an outcome. */
static int reference(const uint8_t *bytes, size_t size, uint8_t *ret_bytes, size_t max,
                     size_t *ret_size)
{
    z_stream stream = {.next_in = (uint8_t *)(uintptr_t)bytes,
                       .avail_in = (uInt)size,
                       .next_out = ret_bytes,
                       .avail_out = (uInt)(max + 1)};
    int r;

    CHECK(inflateInit2(&stream, 16 + MAX_WBITS) == Z_OK);
    r = inflate(&stream, Z_FINISH);
    *ret_size = (size_t)stream.total_out;
    (void)inflateEnd(&stream);
    if (*ret_size > max)
        return COMPRESSION_TOO_LONG;
    return r == Z_STREAM_END && stream.avail_in == 0 ? COMPRESSION_OK : COMPRESSION_CORRUPT;
}

static void try_gunzip(const uint8_t *bytes, size_t size, size_t max)
{
    uint8_t *expected = fuzz_room(max + 1);
    size_t expected_size;
    int outcome = reference(bytes, size, expected, max, &expected_size);
    uint8_t *body = NULL;
    size_t body_size = 0;
    int r = compression_gunzip(bytes, size, max, &body, &body_size);

    /* What is too long may be found to be corrupt before that is known. */
    CHECK(r == outcome || (outcome == COMPRESSION_TOO_LONG && r == COMPRESSION_CORRUPT));
    if (r == COMPRESSION_OK) {
        CHECK(body_size == expected_size && body_size <= max);
        CHECK((body == NULL) == (body_size == 0));
        CHECK(body_size == 0 || memcmp(body, expected, body_size) == 0);
        free(body);
    }
    free(expected);
}

static void check_body(const struct message *message, const uint8_t *body, size_t size)
{
    uint8_t *back = NULL;
    size_t back_size = 0;

    CHECK(message_is_compressed(message));
    CHECK(compression_gunzip(message->bytes + MESSAGE_PREFIX_SIZE,
                             message->size - MESSAGE_PREFIX_SIZE, size, &back,
                             &back_size) == COMPRESSION_OK);
    CHECK(back_size == size && (size == 0 || memcmp(back, body, size) == 0));
    free(back);
    if (size > 0)
        CHECK(compression_gunzip(message->bytes + MESSAGE_PREFIX_SIZE,
                                 message->size - MESSAGE_PREFIX_SIZE, size - 1, &back,
                                 &back_size) == COMPRESSION_TOO_LONG);
}

static void try_gzip(const uint8_t *body, size_t size, size_t max)
{
    struct message *message = message_new((uint32_t)size);
    struct message *zipped, *twin;
    uint8_t *room = fuzz_room(max);
    size_t n;

    CHECK(message);
    if (size > 0)
        memcpy(message_body(message), body, size);
    zipped = compression_gzip(message);
    CHECK(zipped);
    check_body(zipped, body, size);
    twin = compression_twin(message);
    CHECK(twin == message || twin->size < message->size);
    CHECK(compression_twin(message) == twin);
    if (twin != message)
        check_body(twin, body, size);
    n = compression_gzip_bytes(body, size, room, max);
    CHECK(n <= max);
    if (n > 0) {
        uint8_t *back = NULL;
        size_t back_size = 0;

        CHECK(compression_gunzip(room, n, size, &back, &back_size) == COMPRESSION_OK);
        CHECK(back_size == size && (size == 0 || memcmp(back, body, size) == 0));
        free(back);
    }
    free(room);
    (void)message_unref(zipped);
    (void)message_unref(message);
}

/* A name that is among the encodings is in the text at least; alone it is always found. */
static void try_accepts(const char *text, size_t length)
{
    char *terminated = fuzz_copy((const uint8_t *)text, length, true);

    if (compression_accepts(text, length, "gzip"))
        CHECK(strlen(terminated) < length || strcasestr(terminated, "gzip"));
    /* No name has a comma in it. */
    CHECK(!compression_accepts(text, length, "gzip,identity"));
    free(terminated);
    CHECK(compression_accepts("gzip", 4, "gzip") && !compression_accepts("gzi", 3, "gzip"));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct reader reader = {bytes, size};
    size_t max = read_u16(&reader);
    uint8_t *copy = fuzz_copy(reader.bytes, reader.size, false);

    try_gunzip(copy, reader.size, max);
    try_gzip(copy, reader.size, max);
    try_accepts((const char *)copy, reader.size);
    free(copy);
    return 0;
}
