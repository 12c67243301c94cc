/*
 * gzip without memory: whichever allocation fails, of ours or of zlib, the message goes as it is,
 * or the failure is told, and the next one is compressed and decompressed as if nothing had been.
 */
#include "rpc/compression.h"

#include "failmalloc.h"
#include "proto/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint8_t body[5000];

static struct message *new_message(void)
{
    struct message *message = message_new(sizeof(body));

    assert_non_null(message);
    memset(body, 'x', sizeof(body));
    memcpy(message_body(message), body, sizeof(body));
    return message;
}

static void check_back(const struct message *twin)
{
    uint8_t *bytes = NULL;
    size_t size = 0;

    assert_true(message_is_compressed(twin));
    assert_int_equal(compression_gunzip(twin->bytes + WIRE_PREFIX_SIZE,
                                        twin->size - WIRE_PREFIX_SIZE, sizeof(body), &bytes, &size),
                     COMPRESSION_OK);
    assert_int_equal(size, sizeof(body));
    assert_memory_equal(bytes, body, sizeof(body));
    free(bytes);
}

/* Goes first: it is here that zlib's states are made. */
static void test_gzip_bytes(void **state)
{
    struct message *message = new_message();
    uint8_t shorter[1000];
    size_t nth;

    for (nth = 1;; nth++) {
        size_t size;

        failmalloc_arm(nth);
        size = compression_gzip_bytes(message_body(message), sizeof(body), shorter, 1000);
        if (!failmalloc_disarm()) {
            assert_in_range(size, 1, 100);
            break;
        }
        assert_int_equal(size, 0);
    }
    assert_true(nth > 2);
    message_unref(message);
}

static void test_gzip(void **state)
{
    struct message *message = new_message();

    for (size_t nth = 1;; nth++) {
        struct message *twin;
        bool failed;

        failmalloc_arm(nth);
        twin = compression_gzip(message);
        failed = failmalloc_disarm();
        /* Where only the shortening of its memory failed, it is there all the same. */
        if (twin)
            check_back(twin);
        else
            assert_true(failed);
        message_unref(twin);
        if (!failed)
            break;
    }
    message_unref(message);
}

static void test_twin(void **state)
{
    unsigned plain = 0;

    for (size_t nth = 1;; nth++) {
        struct message *message = new_message();
        struct message *twin;
        bool failed;

        failmalloc_arm(nth);
        twin = compression_twin(message);
        failed = failmalloc_disarm();
        if (twin == message) {
            assert_true(failed);
            plain++;
        } else {
            check_back(twin);
        }
        message_unref(message);
        if (!failed)
            break;
    }
    assert_true(plain > 0);
}

static void test_gunzip(void **state)
{
    struct message *message = new_message();
    struct message *twin = compression_gzip(message);
    unsigned failures = 0;

    assert_non_null(twin);
    for (size_t nth = 1;; nth++) {
        uint8_t *bytes = NULL;
        size_t size = 0;
        int r;

        failmalloc_arm(nth);
        r = compression_gunzip(twin->bytes + WIRE_PREFIX_SIZE, twin->size - WIRE_PREFIX_SIZE,
                               sizeof(body), &bytes, &size);
        if (!failmalloc_disarm()) {
            assert_int_equal(r, COMPRESSION_OK);
            free(bytes);
            break;
        }
        assert_int_equal(r, -ENOMEM);
        assert_null(bytes);
        failures++;
    }
    assert_true(failures > 2); /* the body grows as it comes out */
    check_back(twin);
    message_unref(twin);
    message_unref(message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gzip_bytes),
        cmocka_unit_test(test_gunzip),
        cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_twin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
