/* The table of names: what is in it is found, nothing else is, and names that are alike cost no
 * more than others. */
#include "base/names.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define COUNT 16384

static char texts[COUNT][40];

/* COUNT names of this pattern. */
static void fill(struct names *names, const char *before, const char *after)
{
    *names = (struct names){0};
    for (uint32_t i = 0; i < COUNT; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "%s%05u%s", before, i, after);
        assert_int_equal(names_add(names, texts[i], i), 0);
    }
}

static void test_names(void **state)
{
    static const char *const patterns[][2] = {
        {"", ""},
        {"BINANCE:", ""},
        {"", ".NASDAQ-GLOBAL-SELECT-MARKET"},
        {"A-NAME-THAT-IS-ALIKE-", "-TO-ALL"},
    };

    for (size_t p = 0; p < ELEMENTSOF(patterns); p++) {
        struct names names;
        uint32_t value = 7;

        fill(&names, patterns[p][0], patterns[p][1]);
        for (uint32_t i = 0; i < COUNT; i++) {
            char text[48];

            assert_true(names_find(&names, texts[i], strlen(texts[i]), &value));
            assert_int_equal(value, i);
            /* A part of it, and it as a part. */
            assert_false(names_find(&names, texts[i], strlen(texts[i]) - 1, &value));
            (void)snprintf(text, sizeof(text), "%s%u", texts[i], i % 10);
            assert_false(names_find(&names, text, strlen(text), &value));
            assert_int_equal(value, i);
        }
        /* With a NUL in it, which no name has. */
        (void)strcpy(texts[0] + strlen(texts[0]) + 1, "x");
        assert_false(names_find(&names, texts[0], strlen(texts[0]) + 2, &value));
        assert_false(names_find(&names, "", 0, &value));
        names_deinit(&names);
    }
}

static void test_small(void **state)
{
    struct names names = {0};
    uint32_t value = 7;

    assert_false(names_find(&names, "A", 1, &value));
    names_deinit(&names);
    assert_int_equal(names_add(&names, "A", 3), 0);
    assert_true(names_find(&names, "A", 1, &value));
    assert_int_equal(value, 3);
    assert_false(names_find(&names, "B", 1, &value));
    names_deinit(&names);
    names_deinit(&names);
}

static double cpu_s(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* What it takes to look for names of this pattern that are not there. */
static double cost(const char *before, const char *after)
{
    struct names names;
    uint32_t value;
    double begun_s;

    fill(&names, before, after);
    begun_s = cpu_s();
    for (unsigned i = 0; i < 200000; i++) {
        char text[48];
        int size = snprintf(text, sizeof(text), "%s%06u%s", before, 100000 + i, after);

        assert_false(names_find(&names, text, (size_t)size, &value));
    }
    begun_s = cpu_s() - begun_s;
    names_deinit(&names);
    return begun_s;
}

/* In a table that compares each with all the others it would be thousands of times as much. */
static void test_names_that_are_alike(void **state)
{
    double usual = cost("", ""), before = cost("A-LONG-BEGINNING-", "");
    double behind = cost("", "-A-LONG-END");

    assert_true(before < 20 * usual + 0.1);
    assert_true(behind < 20 * usual + 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_names_that_are_alike),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
