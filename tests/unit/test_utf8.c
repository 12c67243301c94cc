/*
 * The decoder against the table of the Unicode Standard that defines UTF-8, which it does not use.
 */
#include "proto/utf8.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Unicode 15, table 3-7: the bytes of a character lie in the ranges of one of these rows. */
static const struct {
    size_t size;
    struct {
        unsigned char low, high;
    } byte[4];
} rows[] = {
    {1, {{0x00, 0x7F}}},
    {2, {{0xC2, 0xDF}, {0x80, 0xBF}}},
    {3, {{0xE0, 0xE0}, {0xA0, 0xBF}, {0x80, 0xBF}}},
    {3, {{0xE1, 0xEC}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {3, {{0xED, 0xED}, {0x80, 0x9F}, {0x80, 0xBF}}},
    {3, {{0xEE, 0xEF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF0, 0xF0}, {0x90, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF1, 0xF3}, {0x80, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
    {4, {{0xF4, 0xF4}, {0x80, 0x8F}, {0x80, 0xBF}, {0x80, 0xBF}}},
};

/* What the table says of these bytes, as utf8_decode() would. */
static bool look_up(const unsigned char *bytes, size_t length, size_t *ret_size)
{
    *ret_size = 1;
    for (size_t row = 0; row < ELEMENTSOF(rows); row++) {
        size_t size = 0;

        while (size < rows[row].size && size < length && bytes[size] >= rows[row].byte[size].low &&
               bytes[size] <= rows[row].byte[size].high)
            size++;
        *ret_size = MAX(*ret_size, size);
        if (size == rows[row].size)
            return true;
    }
    return false;
}

/* The bytes of a character; returns their number. */
static size_t encode(uint32_t code, unsigned char bytes[static 4])
{
    size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    for (size_t i = size; i-- > 1; code >>= 6)
        bytes[i] = 0x80 | (code & 0x3F);
    bytes[0] = (unsigned char)(size == 1 ? code : (0xF00u >> size & 0xFF) | code);
    return size;
}

static void check(const unsigned char *bytes, size_t length)
{
    static const uint32_t untouched = 0xABADCAFE;
    uint32_t code = untouched;
    size_t size = 0, expected_size = 0;
    unsigned char again[4];
    char *exact = malloc(length); /* so that the sanitizer sees a byte too many being read */

    assert_non_null(exact);
    memcpy(exact, bytes, length);
    bool valid = utf8_decode(exact, length, &code, &size);
    bool expected = look_up(bytes, length, &expected_size);
    free(exact);
    if (valid != expected || size != expected_size)
        fail_msg("%02x %02x %02x %02x, %zu of them: %d, %zu; expected %d, %zu", bytes[0], bytes[1],
                 bytes[2], bytes[3], length, valid, size, expected, expected_size);
    if (!valid) {
        assert_true(code == untouched);
        return;
    }
    assert_int_equal(encode(code, again), size);
    assert_memory_equal(again, bytes, size);
}

/* Every first and second byte, followed by those at the edges of all ranges. */
static void test_table(void **state)
{
    static const unsigned char edges[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0xA0, 0xBF, 0xC0, 0xFF};
    unsigned char bytes[4];

    for (unsigned pair = 0; pair <= 0xFFFF; pair++)
        for (size_t third = 0; third < ELEMENTSOF(edges); third++) {
            bytes[0] = (unsigned char)(pair >> 8);
            bytes[1] = (unsigned char)pair;
            bytes[2] = edges[third];
            bytes[3] = edges[(third + pair) % ELEMENTSOF(edges)];
            for (size_t length = 1; length <= sizeof(bytes); length++)
                check(bytes, length);
        }
}

static void test_every_character(void **state)
{
    unsigned characters = 0;

    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        unsigned char bytes[4] = {0};
        size_t size = encode(code, bytes), found_size = 0;
        uint32_t found = 0;

        if (utf8_decode((const char *)bytes, size, &found, &found_size)) {
            characters++;
            assert_int_equal(found, code);
            assert_int_equal(found_size, size);
        } else {
            assert_in_range(code, 0xD800, 0xDFFF);
        }
    }
    assert_int_equal(characters, 0x110000 - 0x800);
}

/* By the properties of the Unicode Standard that each of them has; and nothing else is. */
static void test_unsafe(void **state)
{
    static const struct {
        uint32_t first, last;
    } unsafe[] = {
        {0x00, 0x1F},     {0x7F, 0x9F},     /* general category Cc */
        {0x061C, 0x061C}, {0x200E, 0x200F}, /* Bidi_Control */
        {0x202A, 0x202E}, {0x2066, 0x2069}, /* Bidi_Control */
        {0x2028, 0x2029},                   /* Zl, Zp */
        {0xFEFF, 0xFEFF},                   /* the byte order mark */
    };
    bool expected[0x10000] = {0};

    for (size_t i = 0; i < ELEMENTSOF(unsafe); i++)
        for (uint32_t code = unsafe[i].first; code <= unsafe[i].last; code++)
            expected[code] = true;
    for (uint32_t code = 0; code <= 0x10FFFF; code++)
        if (utf8_is_unsafe(code) != (code < ELEMENTSOF(expected) && expected[code]))
            fail_msg("U+%04X", (unsigned)code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_every_character),
        cmocka_unit_test(test_unsafe),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
