/*
 * Text that grows.
 */
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static void text_grows_and_is_taken(void **state)
{
    struct text text = {0};

    text_take(&text, 0);
    for (int i = 0; i < 1000; i++)
        text_printf(&text, "%03d,", i);
    assert_int_equal(text.size, 4000);
    text_take(&text, 3996);
    assert_memory_equal(text.bytes, "999,", 4);
    text_printf(&text, "%0*d", 5000, 7);
    assert_int_equal(text.size, 5004);
    assert_memory_equal(text.bytes + 5002, "07", 2);
    text_deinit(&text);
    assert_null(text.bytes);
}

static void pieces_of_every_size(void **state)
{
    struct text text = {0};
    size_t total = 0;

    text_add(&text, NULL, 0);
    text_add_string(&text, "");
    assert_null(text.bytes);
    for (size_t size = 1; size < 2000; size++) {
        char *piece = malloc(size); /* so that the sanitizer sees a byte too many being read */

        assert_non_null(piece);
        memset(piece, 'a' + (int)(size % 26), size);
        text_add(&text, piece, size);
        free(piece);
        total += size;
        assert_int_equal(text.size, total);
        assert_true(text.capacity >= total);
    }
    for (size_t size = 1999; size > 0; size--) {
        total -= size;
        assert_int_equal(text.bytes[total], 'a' + (int)(size % 26));
        assert_int_equal(text.bytes[total + size - 1], 'a' + (int)(size % 26));
    }
    assert_false(text.failed);
    text_deinit(&text);
}

/* What could never fit changes nothing but `failed`. */
static void too_much_fails(void **state)
{
    struct text text = {0};

    text_add_char(&text, 'x');
    assert_false(text_reserve(&text, SIZE_MAX / 2 + 2));
    assert_true(text.failed);
    assert_int_equal(text.size, 1);
    assert_int_equal(text.bytes[0], 'x');
    text_deinit(&text);
    assert_false(text.failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_and_is_taken),
        cmocka_unit_test(pieces_of_every_size),
        cmocka_unit_test(too_much_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
