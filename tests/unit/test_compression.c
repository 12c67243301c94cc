/*
 * gzip of messages, with zlib itself as the oracle, and with what an attacker may send: bombs,
 * cut and changed bytes, other formats, something behind the end.
 */
#include "rpc/compression.h"

#include "base/util.h"
#include "proto/wire.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

#define GZIP_WINDOW (15 + 16)
#define ZLIB_WINDOW 15
#define RAW_WINDOW (-15)

/* What zlib makes of `body`, in the format of `window`; at most `max` bytes. */
static size_t reference_deflate(const void *body, size_t size, int window, uint8_t *ret, size_t max)
{
    z_stream stream = {0};

    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, window, 9, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (Bytef *)(uintptr_t)body;
    stream.avail_in = (unsigned)size;
    stream.next_out = ret;
    stream.avail_out = (unsigned)max;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    assert_int_equal(deflateEnd(&stream), Z_OK);
    return stream.total_out;
}

/* The reverse, of all of `bytes`. */
static size_t reference_inflate(const uint8_t *bytes, size_t size, uint8_t *ret, size_t max)
{
    z_stream stream = {0};

    assert_int_equal(inflateInit2(&stream, GZIP_WINDOW), Z_OK);
    stream.next_in = (Bytef *)(uintptr_t)bytes;
    stream.avail_in = (unsigned)size;
    stream.next_out = ret;
    stream.avail_out = (unsigned)max;
    assert_int_equal(inflate(&stream, Z_FINISH), Z_STREAM_END);
    assert_int_equal(stream.avail_in, 0);
    assert_int_equal(inflateEnd(&stream), Z_OK);
    return stream.total_out;
}

static uint32_t draw(uint32_t *random, uint32_t below)
{
    *random = *random * 1664525u + 1013904223u;
    return (*random >> 8) % below;
}

/* Bytes that compress well, or, with `noise`, not at all. */
static void fill(uint8_t *bytes, size_t size, bool noise)
{
    uint32_t random = 1;

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(noise ? draw(&random, 256) : 'a' + i / 7 % 5);
}

static struct message *message_of(const void *body, size_t size)
{
    struct message *message = message_new((uint32_t)size);

    assert_non_null(message);
    if (size > 0)
        memcpy(message_body(message), body, size);
    return message;
}

static void test_accepts(void **state)
{
    static const struct {
        const char *value;
        bool accepts;
    } cases[] = {
        {"gzip", true},
        {"identity,gzip", true},
        {"gzip,identity", true},
        {"gzip, deflate", true},
        {" gzip ", true},
        {"deflate,\tgzip\t,x", true},
        {",gzip", true},
        {"", false},
        {"identity", false},
        {"gzi", false},
        {"gzipp", false},
        {"xgzip", false},
        {"x-gzip,g zip", false},
        {"GZIP", false},
        {"deflate;gzip", false},
        {",,", false},
        {" ", false},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        size_t length = strlen(cases[i].value);
        char *exact = malloc(length + 1); /* a sanitizer sees a byte read too far */

        memcpy(exact + 1, cases[i].value, length);
        assert_int_equal(compression_accepts(exact + 1, length, "gzip"), cases[i].accepts);
        free(exact);
    }
    assert_true(compression_accepts("gzip, identity", 4, "gzip"));
    assert_false(compression_accepts("gzip, identity", 3, "gzip"));
}

static const size_t sizes[] = {0,    1,    2,     17,    255,    256,   257,
                               1000, 4096, 32767, 65536, 100001, 314159};

static void test_gzip(void **state)
{
    static uint8_t body[314159], back[314160];

    for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
        for (unsigned noise = 0; noise < 2; noise++) {
            struct message *message, *twin;

            fill(body, sizes[i], noise);
            message = message_of(body, sizes[i]);
            twin = compression_gzip(message);
            assert_non_null(twin);
            assert_int_equal(twin->references, 1);
            assert_int_equal(twin->bytes[0], 1);
            assert_true(message_is_compressed(twin));
            assert_false(message_is_compressed(message));
            assert_int_equal(wire_prefix_length(twin->bytes), twin->size - WIRE_PREFIX_SIZE);
            assert_int_equal(reference_inflate(message_body(twin), twin->size - WIRE_PREFIX_SIZE,
                                               back, sizeof(back)),
                             sizes[i]);
            assert_memory_equal(back, body, sizes[i]);
            message_unref(twin);
            message_unref(message);
        }
    }
}

static void test_gzip_bytes(void **state)
{
    static uint8_t body[4000], shorter[4000], back[4000];
    size_t size;

    fill(body, sizeof(body), false);
    size = compression_gzip_bytes(body, sizeof(body), shorter, sizeof(body) - 1);
    assert_in_range(size, 20, 200);
    assert_int_equal(reference_inflate(shorter, size, back, sizeof(back)), sizeof(body));
    assert_memory_equal(back, body, sizeof(body));

    /* Exactly as much room as it takes is enough, and a byte less is none. */
    assert_int_equal(compression_gzip_bytes(body, sizeof(body), shorter, size), size);
    memset(shorter, 0x55, sizeof(shorter));
    assert_int_equal(compression_gzip_bytes(body, sizeof(body), shorter, size - 1), 0);
    assert_int_equal(shorter[size - 1], 0x55);
    assert_int_equal(compression_gzip_bytes(body, sizeof(body), shorter, 0), 0);
    /* That left nothing behind in the stream. */
    assert_int_equal(compression_gzip_bytes(body, sizeof(body), shorter, sizeof(shorter)), size);

    fill(body, sizeof(body), true);
    assert_int_equal(compression_gzip_bytes(body, sizeof(body), shorter, sizeof(body) - 1), 0);
    /* Nothing is the shortest there is. */
    assert_int_equal(compression_gzip_bytes(body, 0, shorter, 20), 20);
    assert_int_equal(compression_gzip_bytes(body, 0, shorter, 19), 0);
}

/* A message is compressed once, however many ask, and only where that is worth it. */
static void test_twin(void **state)
{
    static uint8_t body[1000];
    struct message *message, *twin, *rest;

    fill(body, sizeof(body), false);
    message = message_of(body, sizeof(body));
    twin = compression_twin(message);
    assert_ptr_not_equal(twin, message);
    assert_true(message_is_compressed(twin));
    assert_true(twin->size < message->size);
    assert_int_equal(message->references, 1);
    assert_int_equal(twin->references, 1);
    for (unsigned i = 0; i < 3; i++)
        assert_ptr_equal(compression_twin(message), twin);
    assert_ptr_equal(compression_twin(twin), twin);

    /* Whoever holds the twin needs the message no more. */
    message_ref(twin);
    message_unref(message);
    assert_int_equal(twin->references, 1);
    assert_int_equal(
        reference_inflate(message_body(twin), twin->size - WIRE_PREFIX_SIZE, body, sizeof(body)),
        sizeof(body));
    message_unref(twin);

    fill(body, sizeof(body), true);
    message = message_of(body, sizeof(body));
    for (unsigned i = 0; i < 3; i++) {
        assert_ptr_equal(compression_twin(message), message);
        assert_ptr_equal(*message_twin(message), message); /* it is not tried again */
    }
    message_unref(message);

    message = message_of("", 0);
    assert_ptr_equal(compression_twin(message), message);
    message_unref(message);

    /* The rest of a message is none. */
    fill(body, sizeof(body), false);
    body[0] = 0;
    rest = message_from_bytes(body, sizeof(body));
    assert_non_null(rest);
    assert_null(message_twin(rest));
    assert_ptr_equal(compression_twin(rest), rest);
    message_unref(rest);
}

/* The rest of a message, which every stalled call holds, has no place for a twin. */
static void test_message_memory(void **state)
{
    static const uint8_t bytes[96];
    struct message *rest = message_from_bytes(bytes, sizeof(bytes));
    void *as_large = malloc(sizeof(*rest) + sizeof(bytes));

    assert_non_null(rest);
    assert_non_null(as_large);
    assert_int_equal(malloc_usable_size(rest), malloc_usable_size(as_large));
    free(as_large);
    message_unref(rest);
}

/* ---- Decompressing ---- */

/* From memory of exactly this size, so that a sanitizer sees a byte read too far. */
static int gunzip(const uint8_t *bytes, size_t size, size_t max, uint8_t **ret_bytes,
                  size_t *ret_size)
{
    uint8_t *exact = malloc(size + 1);
    int r;

    memcpy(exact + 1, bytes, size);
    r = compression_gunzip(exact + 1, size, max, ret_bytes, ret_size);
    free(exact);
    return r;
}

static void assert_gunzips_to(const uint8_t *bytes, size_t size, size_t max, const uint8_t *body,
                              size_t body_size)
{
    uint8_t *result = (uint8_t *)"unset";
    size_t result_size = 12345;

    assert_int_equal(gunzip(bytes, size, max, &result, &result_size), COMPRESSION_OK);
    assert_int_equal(result_size, body_size);
    if (body_size == 0)
        assert_null(result);
    else
        assert_memory_equal(result, body, body_size);
    free(result);
}

static void assert_gunzip_fails(const uint8_t *bytes, size_t size, size_t max, int outcome)
{
    uint8_t *result = (uint8_t *)"unset";
    size_t result_size = 12345;

    assert_int_equal(gunzip(bytes, size, max, &result, &result_size), outcome);
    /* Nothing is given back on failure. */
    assert_string_equal((const char *)result, "unset");
    assert_int_equal(result_size, 12345);
}

static void test_gunzip(void **state)
{
    static uint8_t body[314159], compressed[400000];

    for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
        for (unsigned noise = 0; noise < 2; noise++) {
            size_t size;

            fill(body, sizes[i], noise);
            size = reference_deflate(body, sizes[i], GZIP_WINDOW, compressed, sizeof(compressed));
            assert_gunzips_to(compressed, size, sizeof(body), body, sizes[i]);
            assert_gunzips_to(compressed, size, (size_t)1 << 30, body, sizes[i]);
            /* The bound is exact. */
            assert_gunzips_to(compressed, size, sizes[i], body, sizes[i]);
            if (sizes[i] == 0)
                break;
            assert_gunzip_fails(compressed, size, sizes[i] - 1, COMPRESSION_TOO_LONG);
            assert_gunzip_fails(compressed, size, 0, COMPRESSION_TOO_LONG);
        }
    }
}

static void test_corrupt(void **state)
{
    uint8_t body[300], compressed[1000], changed[1000];
    size_t size;

    fill(body, sizeof(body), false);
    size = reference_deflate(body, sizeof(body), GZIP_WINDOW, compressed, sizeof(compressed));

    /* Cut off anywhere, its checksum and length too. */
    for (size_t cut = 0; cut < size; cut++)
        assert_gunzip_fails(compressed, cut, 1000, COMPRESSION_CORRUPT);
    /* Something behind its end, be it another one. */
    memcpy(changed, compressed, size);
    changed[size] = 0;
    assert_gunzip_fails(changed, size + 1, 1000, COMPRESSION_CORRUPT);
    memcpy(changed + size, compressed, size);
    assert_gunzip_fails(changed, 2 * size, 1000, COMPRESSION_CORRUPT);
    /* A wrong magic number, method, checksum, length. */
    for (size_t i = 0; i < size; i++) {
        if (i >= 3 && i < size - 8)
            continue; /* a header's time, system and flags may be anything, see below for the rest
                       */
        memcpy(changed, compressed, size);
        changed[i] ^= 0x10;
        assert_gunzip_fails(changed, size, 1000, COMPRESSION_CORRUPT);
    }
    /* Other formats, and no format. */
    size = reference_deflate(body, sizeof(body), ZLIB_WINDOW, compressed, sizeof(compressed));
    assert_gunzip_fails(compressed, size, 1000, COMPRESSION_CORRUPT);
    size = reference_deflate(body, sizeof(body), RAW_WINDOW, compressed, sizeof(compressed));
    assert_gunzip_fails(compressed, size, 1000, COMPRESSION_CORRUPT);
    assert_gunzip_fails(body, sizeof(body), 1000, COMPRESSION_CORRUPT);

    /* The next message does not suffer. */
    size = reference_deflate(body, sizeof(body), GZIP_WINDOW, compressed, sizeof(compressed));
    assert_gunzips_to(compressed, size, 300, body, sizeof(body));
}

/* Any change of any byte is found, or harmless. */
static void test_changed_bytes(void **state)
{
    uint8_t body[300], compressed[1000], changed[1000];
    unsigned corrupt = 0;
    size_t size;

    fill(body, sizeof(body), true);
    memset(body + 100, 'x', 100);
    size = reference_deflate(body, sizeof(body), GZIP_WINDOW, compressed, sizeof(compressed));
    for (size_t i = 0; i < size; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            uint8_t *result = NULL;
            size_t result_size = 0;
            int r;

            memcpy(changed, compressed, size);
            changed[i] ^= (uint8_t)(1 << bit);
            r = gunzip(changed, size, 2000, &result, &result_size);
            if (r == COMPRESSION_OK) {
                assert_int_equal(result_size, sizeof(body));
                assert_memory_equal(result, body, sizeof(body));
            } else {
                assert_true(r == COMPRESSION_CORRUPT || r == COMPRESSION_TOO_LONG);
                corrupt++;
            }
            free(result);
        }
    }
    assert_true(corrupt > size * 7);
}

/* A few kilobytes that would become 64 MiB stop at the bound, in memory too. */
static void test_bomb(void **state)
{
    enum { ZEROS = 64 << 20, MAX_BYTES = 100000 };
    uint8_t *zeros = calloc(1, ZEROS);
    uint8_t *compressed = malloc(100000);
    struct mallinfo2 before, after;
    size_t size;

    assert_non_null(zeros);
    assert_non_null(compressed);
    size = reference_deflate(zeros, ZEROS, GZIP_WINDOW, compressed, 100000);
    free(zeros);
    assert_in_range(size, 1, 100000);
    assert_gunzip_fails(compressed, size, MAX_BYTES, COMPRESSION_TOO_LONG);
    before = mallinfo2();
    for (unsigned i = 0; i < 100; i++)
        assert_gunzip_fails(compressed, size, MAX_BYTES, COMPRESSION_TOO_LONG);
    after = mallinfo2();
    /* Under a sanitizer these say nothing, and both are 0. */
    assert_true(after.uordblks + after.hblkhd <= before.uordblks + before.hblkhd + MAX_BYTES);
    assert_true(after.arena <= before.arena + 4 * MAX_BYTES);
    free(compressed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),        cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_gzip_bytes),     cmocka_unit_test(test_twin),
        cmocka_unit_test(test_message_memory), cmocka_unit_test(test_gunzip),
        cmocka_unit_test(test_corrupt),        cmocka_unit_test(test_changed_bytes),
        cmocka_unit_test(test_bomb),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
