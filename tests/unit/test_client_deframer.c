/*
 * gRPC messages in pieces of every size, and what is none.
 */
#include "client/deframer.h"

#include "base/util.h"
#include "proto/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#define MESSAGE_MAX 100000

static const uint32_t sizes[] = {0, 1, 4, 5, 6, 95, 96, 1000, 16384, 65535, 100000, 0, 0, 3};

/* The byte at `offset` in the body of message `number`. */
static uint8_t pattern(size_t number, size_t offset)
{
    return (uint8_t)(number * 31 + offset * 7 + (offset >> 8));
}

/* All messages of `sizes` as one stream; the caller frees it. */
static uint8_t *make_stream(size_t *ret_size)
{
    size_t size = 0;
    uint8_t *bytes;
    size_t used = 0;

    for (size_t i = 0; i < ELEMENTSOF(sizes); i++)
        size += WIRE_PREFIX_SIZE + sizes[i];
    bytes = malloc(size);
    assert_non_null(bytes);
    for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
        wire_prefix_write(bytes + used, sizes[i]);
        used += WIRE_PREFIX_SIZE;
        for (size_t k = 0; k < sizes[i]; k++)
            bytes[used++] = pattern(i, k);
    }
    *ret_size = size;
    return bytes;
}

/* Takes every whole message and compares it; the number of the next one. */
static size_t take_all(struct deframer *deframer, size_t number)
{
    const uint8_t *message;
    size_t size;

    while (deframer_peek(deframer, &message, &size) == DEFRAMER_WHOLE) {
        assert_true(number < ELEMENTSOF(sizes));
        assert_int_equal(size, sizes[number]);
        for (size_t k = 0; k < size; k++)
            assert_int_equal(message[k], pattern(number, k));
        assert_int_equal(deframer_take(deframer), WIRE_PREFIX_SIZE + size);
        number++;
    }
    assert_int_equal(deframer_peek(deframer, &message, &size), DEFRAMER_PARTIAL);
    return number;
}

static void messages_come_in_pieces_of_any_size(void **state)
{
    static const size_t pieces[] = {1, 2, 3, 5, 7, 16, 100, 1009, 16384, SIZE_MAX};
    size_t size;
    uint8_t *bytes = make_stream(&size);

    for (size_t i = 0; i < ELEMENTSOF(pieces); i++) {
        struct deframer deframer = {.message_max = MESSAGE_MAX};
        size_t number = 0;

        for (size_t used = 0; used < size;) {
            size_t piece = MIN(pieces[i], size - used);

            assert_int_equal(deframer_add(&deframer, bytes + used, piece), 0);
            used += piece;
            number = take_all(&deframer, number);
        }
        assert_int_equal(number, ELEMENTSOF(sizes));
        assert_int_equal(deframer_size(&deframer), 0);
        deframer_deinit(&deframer);
    }
    free(bytes);
}

/* The reader takes one message for each piece that comes, so that messages pile up. */
static void messages_pile_up(void **state)
{
    struct deframer deframer = {.message_max = MESSAGE_MAX};
    uint8_t message[WIRE_PREFIX_SIZE + 90];
    const uint8_t *body;
    size_t size;

    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < 2; i++) {
            wire_prefix_write(message, 90);
            memset(message + WIRE_PREFIX_SIZE, (round * 2 + i) & 0xff, 90);
            assert_int_equal(deframer_add(&deframer, message, sizeof(message)), 0);
        }
        assert_int_equal(deframer_peek(&deframer, &body, &size), DEFRAMER_WHOLE);
        assert_int_equal(body[0], round & 0xff);
        assert_int_equal(body[89], round & 0xff);
        (void)deframer_take(&deframer);
        assert_int_equal(deframer_size(&deframer), (size_t)(round + 1) * sizeof(message));
        /* Twice what it holds is kept, and what a doubling of that may leave unused. */
        assert_true(deframer.capacity <= 4 * deframer_size(&deframer) + 8192);
    }
    deframer_deinit(&deframer);
}

static void memory_is_given_back(void **state)
{
    struct deframer deframer = {.message_max = MESSAGE_MAX};
    uint8_t *message = calloc(1, WIRE_PREFIX_SIZE + MESSAGE_MAX);

    assert_non_null(message);
    wire_prefix_write(message, MESSAGE_MAX);
    assert_int_equal(deframer_add(&deframer, message, WIRE_PREFIX_SIZE + MESSAGE_MAX), 0);
    assert_true(deframer.capacity >= MESSAGE_MAX);
    (void)deframer_take(&deframer);
    assert_int_equal(deframer.capacity, 0);
    free(message);
}

static void declared_length_is_judged_from_the_prefix(void **state)
{
    struct deframer deframer = {.message_max = MESSAGE_MAX};
    uint8_t prefix[WIRE_PREFIX_SIZE];
    const uint8_t *message;
    size_t size;

    wire_prefix_write(prefix, MESSAGE_MAX + 1);
    assert_int_equal(deframer_add(&deframer, prefix, 4), 0);
    assert_int_equal(deframer_peek(&deframer, &message, &size), DEFRAMER_PARTIAL);
    assert_int_equal(size, 0);
    assert_int_equal(deframer_add(&deframer, prefix + 4, 1), 0);
    assert_int_equal(deframer_peek(&deframer, &message, &size), DEFRAMER_TOO_LONG);
    assert_int_equal(size, MESSAGE_MAX + 1);
    /* Nothing of what was only declared has been allocated. */
    assert_true(deframer.capacity < MESSAGE_MAX);
    deframer_deinit(&deframer);

    wire_prefix_write(prefix, UINT32_MAX);
    assert_int_equal(deframer_add(&deframer, prefix, 5), 0);
    assert_int_equal(deframer_peek(&deframer, &message, &size), DEFRAMER_TOO_LONG);
    deframer_deinit(&deframer);

    wire_prefix_write(prefix, MESSAGE_MAX);
    assert_int_equal(deframer_add(&deframer, prefix, 5), 0);
    assert_int_equal(deframer_peek(&deframer, &message, &size), DEFRAMER_PARTIAL);
    assert_int_equal(size, MESSAGE_MAX);
    deframer_deinit(&deframer);
}

static void flags_are_judged_from_the_first_byte(void **state)
{
    for (unsigned flag = 0; flag < 256; flag++) {
        struct deframer deframer = {.message_max = MESSAGE_MAX};
        uint8_t byte = (uint8_t)flag;
        const uint8_t *message;
        size_t size;

        assert_int_equal(deframer_peek(&deframer, &message, &size), DEFRAMER_PARTIAL);
        assert_int_equal(deframer_add(&deframer, &byte, 1), 0);
        assert_int_equal(deframer_peek(&deframer, &message, &size), flag == 0 ? DEFRAMER_PARTIAL
                                                                    : flag == 1
                                                                        ? DEFRAMER_COMPRESSED
                                                                        : DEFRAMER_BAD_FLAG);
        deframer_deinit(&deframer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_in_pieces_of_any_size),
        cmocka_unit_test(messages_pile_up),
        cmocka_unit_test(memory_is_given_back),
        cmocka_unit_test(declared_length_is_judged_from_the_prefix),
        cmocka_unit_test(flags_are_judged_from_the_first_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
