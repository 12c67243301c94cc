/*
 * The client's waits between attempts, against the figures of gRPC's connection-backoff.md.
 */
#include "client/backoff.h"

#include "client/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static void first_attempt_begins_at_once(void **state)
{
    struct backoff backoff = {0};

    assert_int_equal(backoff_wait_ms(&backoff, 0), 0);
    assert_int_equal(backoff_wait_ms(&backoff, 123456), 0);
}

/* Without jitter (0.5 is its middle) the waits are 1 s, 1.6 s, 2.56 s, … and never above 120 s. */
static void waits_grow(void **state)
{
    const uint64_t expected_ms[] = {1000,  1600,  2560,  4096,   6553,   10485,  16777,
                                    26843, 42949, 68719, 109951, 120000, 120000, 120000};
    struct backoff backoff = {0};
    uint64_t now_ms = 5000;

    for (size_t i = 0; i < sizeof(expected_ms) / sizeof(expected_ms[0]); i++) {
        backoff_begin(&backoff, now_ms, 0.5);
        assert_in_range(backoff_wait_ms(&backoff, now_ms), expected_ms[i] - 1, expected_ms[i] + 1);
        now_ms += backoff_wait_ms(&backoff, now_ms);
    }
}

static void first_wait_has_no_jitter(void **state)
{
    for (unsigned quarters = 0; quarters < 4; quarters++) {
        struct backoff backoff = {0};

        backoff_begin(&backoff, 0, quarters / 4.0);
        assert_int_equal(backoff_wait_ms(&backoff, 0), 1000);
    }
}

static void jitter_is_a_fifth(void **state)
{
    const double random[] = {0, 0.25, 0.5, 0.75, 0.999999};
    const uint64_t expected_ms[] = {1280, 1440, 1600, 1760, 1919};

    for (size_t i = 0; i < sizeof(random) / sizeof(random[0]); i++) {
        struct backoff backoff = {0};

        backoff_begin(&backoff, 0, 0);
        backoff_begin(&backoff, 1000, random[i]);
        assert_in_range(backoff_wait_ms(&backoff, 1000), expected_ms[i], expected_ms[i] + 1);
    }
}

static void wait_counts_from_the_beginning(void **state)
{
    struct backoff backoff = {0};

    backoff_begin(&backoff, 10000, 0.5);
    assert_int_equal(backoff_wait_ms(&backoff, 10400), 600);
    assert_int_equal(backoff_wait_ms(&backoff, 11000), 0);
    assert_int_equal(backoff_wait_ms(&backoff, 30000), 0);
}

static void attempt_has_twenty_seconds_or_its_wait(void **state)
{
    struct backoff backoff = {0};

    backoff_begin(&backoff, 7, 0.5);
    assert_int_equal(backoff.connect_by_ms, 20007);
    backoff.current_ms = 100000;
    backoff_begin(&backoff, 7, 0.5);
    assert_int_equal(backoff.connect_by_ms, 120007);
}

static void success_starts_a_new_row(void **state)
{
    struct backoff backoff = {0};
    uint64_t now_ms = 0;

    for (int i = 0; i < 8; i++) {
        backoff_begin(&backoff, now_ms, 0.5);
        now_ms += backoff_wait_ms(&backoff, now_ms);
    }
    backoff_begin(&backoff, now_ms, 0.5);
    /* It stood for 300 ms: the next attempt is due one shortest wait after this one began. */
    backoff_reset(&backoff);
    assert_int_equal(backoff_wait_ms(&backoff, now_ms + 300), 700);
    assert_int_equal(backoff_wait_ms(&backoff, now_ms + 5000), 0);
    backoff_begin(&backoff, now_ms + 5000, 0.9);
    assert_int_equal(backoff_wait_ms(&backoff, now_ms + 5000), 1000);
}

/* Far more draws than it takes to miss a value or to leave the range by chance. */
static void random_numbers_keep_their_range(void **state)
{
    unsigned seen[3] = {0};

    for (int i = 0; i < 10000; i++) {
        double unit = client_random_unit();
        uint64_t number = client_random_between(1, 3);

        assert_true(unit >= 0 && unit < 1);
        assert_in_range(number, 1, 3);
        seen[number - 1]++;
    }
    /* One of three, 10,000 times: 3,333 with a standard deviation of 47. */
    for (int i = 0; i < 3; i++)
        assert_in_range(seen[i], 2800, 3900);
    assert_int_equal(client_random_between(7, 7), 7);
    (void)client_random_between(0, UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_attempt_begins_at_once),
        cmocka_unit_test(waits_grow),
        cmocka_unit_test(first_wait_has_no_jitter),
        cmocka_unit_test(jitter_is_a_fifth),
        cmocka_unit_test(wait_counts_from_the_beginning),
        cmocka_unit_test(attempt_has_twenty_seconds_or_its_wait),
        cmocka_unit_test(success_starts_a_new_row),
        cmocka_unit_test(random_numbers_keep_their_range),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
