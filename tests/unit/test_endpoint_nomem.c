/* Endpoints without memory: whichever allocation fails, nothing leaks and nothing is half done. */
#include "base/endpoint.h"

#include "failmalloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char full[] = "unix:/socket tls=yes client_certificate=optional certificate=/c key=/k "
                           "client_ca=/ca mode=0640 owner=o group=g";

static void test_parse(void **state)
{
    bool fired = true;
    size_t nth = 1;

    for (; fired; nth++) {
        struct endpoint endpoint, before;
        const char *why = "nothing";
        int r;

        memset(&endpoint, 0x5a, sizeof endpoint);
        before = endpoint;
        failmalloc_arm(nth);
        r = endpoint_parse(full, strlen(full), &endpoint, &why);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        if (fired)
            assert_memory_equal(&endpoint, &before, sizeof endpoint);
        else
            endpoint_deinit(&endpoint);
        assert_string_equal(why, "nothing");
    }
    assert_int_equal(nth, 5 + 2); /* a copy for each string, and the run without a failure */
}

/* A text that needs more than the first piece of memory. */
static void test_format(void **state)
{
    char text[1024] = "unix:/socket tls=yes client_ca=/";
    struct endpoint endpoint;
    bool fired = true;
    size_t nth = 1;

    memset(text + strlen(text), 'x', 600);
    assert_int_equal(endpoint_parse(text, strlen(text), &endpoint, NULL), 0);
    for (; fired; nth++) {
        char *formatted = NULL;

        failmalloc_arm(nth);
        formatted = endpoint_format(&endpoint);
        fired = failmalloc_disarm();
        if (fired)
            assert_null(formatted);
        else
            assert_string_equal(formatted, text);
        free(formatted);
    }
    assert_true(nth > 3);
    endpoint_deinit(&endpoint);
}

static void test_copy(void **state)
{
    struct endpoint endpoint;
    bool fired = true;
    size_t nth = 1;

    assert_int_equal(endpoint_parse(full, strlen(full), &endpoint, NULL), 0);
    for (; fired; nth++) {
        struct endpoint copy, before;
        int r;

        memset(&copy, 0x5a, sizeof copy);
        before = copy;
        failmalloc_arm(nth);
        r = endpoint_copy(&endpoint, &copy);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        if (fired)
            assert_memory_equal(&copy, &before, sizeof copy);
        else
            endpoint_deinit(&copy);
    }
    assert_int_equal(nth, 5 + 2);
    endpoint_deinit(&endpoint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_copy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
