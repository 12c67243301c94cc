/*
 * The shortest texts of numbers: each gives the number back, and none with a digit less does.
 */
#include "base/number.h"

#include "base/util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static void known_texts(void **state)
{
    static const struct {
        double value;
        const char *text;
    } known[] = {
        {0, "0"},
        {-0.0, "-0"},
        {150, "150"},
        {0.1, "0.1"},
        {-2.5, "-2.5"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1e15, "1e+15"},
        {123456789012345, "123456789012345"},
        {0x1p53, "9007199254740992"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {-2.2250738585072014e-308, "-2.2250738585072014e-308"},
        /* Too small for all of a double's digits: fewer than 15 tell them apart. */
        {5e-324, "5e-324"},
        {-1e-320, "-1e-320"},
        {1.5e-323, "1.5e-323"},
    };
    char text[NUMBER_TEXT_MAX];

    for (size_t i = 0; i < ELEMENTSOF(known); i++) {
        (void)number_format(known[i].value, text);
        assert_string_equal(text, known[i].text);
    }
}

static void check(double value)
{
    char text[NUMBER_TEXT_MAX], shorter[400];
    int digits = number_format(value, text);
    double again = strtod(text, NULL);

    assert_in_range(digits, 1, 17);
    if (memcmp(&again, &value, sizeof(value)) != 0)
        fail_msg("%a became %s", value, text);
    /* %g leaves zeros out at the end, so that fewer digits than 15 are the same text. */
    (void)snprintf(shorter, sizeof(shorter), "%.*g", digits > 1 ? digits - 1 : 1, value);
    if (strlen(shorter) < strlen(text) && strtod(shorter, NULL) == value)
        fail_msg("%a is %s, not only %s", value, shorter, text);
}

static void every_kind_of_number(void **state)
{
    uint64_t random = 88172645463325252u;

    for (int i = 0; i < 100000; i++) {
        double value;
        uint64_t bits;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        /* Any number; or one that is subnormal, or has few digits. */
        bits = i % 3 == 1 ? random & UINT64_C(0x800FFFFFFFFFFFFF) : random;
        memcpy(&value, &bits, sizeof(value));
        if (i % 3 == 2)
            value = (double)(int64_t)(random >> 40) / 1000;
        if (isfinite(value))
            check(value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_texts),
        cmocka_unit_test(every_kind_of_number),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
