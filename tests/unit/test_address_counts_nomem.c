/* Counting connections without memory: what cannot be counted is not, and the rest stays. */
#include "net/address_counts.h"

#include "failmalloc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define ADDRESSES 100u

static struct sockaddr_in numbered(uint32_t number)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(number)};
}

static uint32_t get(const struct address_counts *counts, uint32_t number)
{
    struct sockaddr_in address = numbered(number);

    return address_counts_get(counts, (struct sockaddr *)&address);
}

/* The first table and each larger one is refused in turn; what fails then works when repeated. */
static void test_growing(void **state)
{
    size_t nth = 1;

    for (bool fired = true; fired; nth++) {
        struct address_counts counts = {0};
        uint32_t refused = UINT32_MAX;

        failmalloc_arm(nth);
        for (uint32_t i = 0; i < ADDRESSES; i++) {
            struct sockaddr_in address = numbered(i);
            int r = address_counts_add(&counts, (struct sockaddr *)&address);

            if (r == 0)
                continue;
            assert_int_equal(r, -ENOMEM);
            assert_int_equal(refused, UINT32_MAX);
            assert_int_equal(get(&counts, i), 0);
            refused = i;
        }
        fired = failmalloc_disarm();
        assert_int_equal(refused == UINT32_MAX, !fired);
        for (uint32_t i = 0; i < ADDRESSES; i++)
            assert_int_equal(get(&counts, i), i == refused ? 0 : 1);
        address_counts_deinit(&counts);
    }
    assert_true(nth > 4);
}

/* A table that cannot be made smaller stays as it is. */
static void test_shrinking(void **state)
{
    size_t nth = 1;

    for (bool fired = true; fired; nth++) {
        struct address_counts counts = {0};

        for (uint32_t i = 0; i < ADDRESSES; i++) {
            struct sockaddr_in address = numbered(i);

            assert_int_equal(address_counts_add(&counts, (struct sockaddr *)&address), 0);
        }
        failmalloc_arm(nth);
        for (uint32_t i = 0; i < ADDRESSES; i++) {
            struct sockaddr_in address = numbered(i);

            address_counts_remove(&counts, (struct sockaddr *)&address);
            assert_int_equal(counts.used, ADDRESSES - 1 - i);
            for (uint32_t j = i + 1; j < ADDRESSES; j++)
                assert_int_equal(get(&counts, j), 1);
        }
        fired = failmalloc_disarm();
        assert_null(counts.slots);
    }
    assert_true(nth > 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_shrinking),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
