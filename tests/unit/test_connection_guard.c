/*
 * The budgets of a connection, one by one: what an honest peer may do for ever, and where a hostile
 * one ends.
 */
#include "net/connection_guard.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* The clock of a machine that has been up for a while. */
#define START_MS 123456789u

static struct connection_guard make(void)
{
    struct connection_guard guard;

    guard_init(&guard);
    return guard;
}

/* How many streams a peer starts that resets each at once, `per_ms` in a millisecond. */
static unsigned rapid_resets(struct connection_guard *guard, uint64_t now_ms, unsigned per_ms,
                             unsigned max)
{
    unsigned started = 0;
    int32_t id = guard->newest_id + 2;

    do {
        guard_opened(guard, id, now_ms + started / per_ms);
        started++;
    } while (guard_reset(guard, id, true, now_ms + started / per_ms) && (id += 2) && started < max);
    return started;
}

static void test_rapid_resets(void **state)
{
    static const unsigned rates[] = {1, 2, 10, 100000};

    for (size_t i = 0; i < ELEMENTSOF(rates); i++) {
        struct connection_guard guard = make();
        unsigned started = rapid_resets(&guard, START_MS, rates[i], 10000);

        assert_in_range(started, GUARD_RESETS_BURST, 1000);
    }
}

/* An empty bucket fills again, but only as fast as it should, and not beyond its size. */
static void test_resets_refill(void **state)
{
    struct connection_guard guard = make();

    assert_int_equal(rapid_resets(&guard, START_MS, 100000, 10000), GUARD_RESETS_BURST + 1);
    assert_int_equal(rapid_resets(&guard, START_MS, 100000, 10000), 1);
    assert_int_equal(rapid_resets(&guard, START_MS + 1000, 100000, 10000), GUARD_RESETS_PER_S + 1);
    assert_int_equal(rapid_resets(&guard, START_MS + 3600 * 1000, 100000, 10000),
                     GUARD_RESETS_BURST + 1);
}

static void test_resets_at_the_rate_for_ever(void **state)
{
    struct connection_guard guard = make();
    int32_t id = 1;

    for (uint64_t ms = 0; ms < 3600 * 1000; ms += 1000 / GUARD_RESETS_PER_S, id += 2) {
        guard_opened(&guard, id, START_MS + ms);
        assert_true(guard_reset(&guard, id, true, START_MS + ms));
    }
}

/* A thousand calls that have lasted for a while are given up at once, again and again. */
static void test_old_streams_are_reset_for_free(void **state)
{
    struct connection_guard guard = make();
    uint64_t now_ms = START_MS;
    int32_t id = 1;

    for (unsigned round = 0; round < 20; round++) {
        int32_t first = id;

        for (unsigned i = 0; i < 1000; i++, id += 2)
            guard_opened(&guard, id, now_ms);
        now_ms += 2 * GUARD_YOUNG_MS;
        for (; first < id; first += 2)
            assert_true(guard_reset(&guard, first, true, now_ms));
    }
}

/* Neither a stream that has just come beside old ones, nor one that is gone, is free. */
static void test_what_counts_as_young(void **state)
{
    struct connection_guard guard = make();
    uint64_t now_ms = START_MS;
    unsigned taken = 0;

    guard_opened(&guard, 1, now_ms);
    now_ms += 10 * GUARD_YOUNG_MS;
    guard_opened(&guard, 3, now_ms);
    assert_int_equal(guard.resets_due_ms, 0);
    assert_true(guard_reset(&guard, 1, true, now_ms));
    assert_int_equal(guard.resets_due_ms, 0);
    assert_true(guard_reset(&guard, 3, true, now_ms));
    assert_true(guard.resets_due_ms > now_ms);

    /* However the marks lie, a stream of less than GUARD_YOUNG_MS costs something. */
    for (unsigned offset = 0; offset < 2 * GUARD_YOUNG_MS; offset += 7) {
        for (unsigned age = 0; age < 3 * GUARD_YOUNG_MS; age += 9) {
            struct connection_guard other = make();
            bool free_of_charge;

            guard_opened(&other, 1, START_MS);
            guard_opened(&other, 3, START_MS + offset);
            guard_opened(&other, 5, START_MS + offset + age / 2);
            assert_true(guard_reset(&other, 3, true, START_MS + offset + age));
            free_of_charge = other.resets_due_ms == 0;
            if (age < GUARD_YOUNG_MS)
                assert_false(free_of_charge);
            if (age >= 2 * GUARD_YOUNG_MS)
                assert_true(free_of_charge);
        }
    }

    now_ms += 3600 * 1000;
    while (taken < 10000 && guard_reset(&guard, 1, false, now_ms))
        taken++;
    assert_int_equal(taken, GUARD_RESETS_BURST);
}

/* As many resets as there are calls that end well, at any rate: a proxy with a lot to do. */
static void test_good_ends_pay_for_resets(void **state)
{
    struct connection_guard guard = make();
    int32_t id = 1;

    for (unsigned i = 0; i < 100000; i++) {
        guard_opened(&guard, id, START_MS);
        guard_opened(&guard, id + 2, START_MS);
        guard_finished(&guard);
        assert_true(guard_reset(&guard, id + 2, true, START_MS));
        id += 4;
    }
    /* But nothing is saved up. */
    for (unsigned i = 0; i < 100000; i++)
        guard_finished(&guard);
    assert_int_equal(rapid_resets(&guard, START_MS, 100000, 10000), GUARD_RESETS_BURST + 1);
}

static void test_made_resets(void **state)
{
    static const unsigned rates_per_s[] = {500, 1000, 100000};
    struct connection_guard guard = make();

    for (size_t i = 0; i < ELEMENTSOF(rates_per_s); i++) {
        struct connection_guard other = make();
        unsigned made = 0;

        do {
            made++;
        } while (made < 10000 && guard_made_reset(&other, START_MS + made * 1000 / rates_per_s[i]));
        assert_in_range(made, GUARD_MADE_RESETS_BURST, 501);
    }
    for (uint64_t ms = 0; ms < 3600 * 1000; ms += 1000 / GUARD_MADE_RESETS_PER_S)
        assert_true(guard_made_reset(&guard, START_MS + ms));
    /* Good ends pay for nothing here. */
    guard_finished(&guard);
    assert_int_equal(guard.resets_due_ms, 0);
    assert_true(guard.made_resets_due_ms > 0);
}

static void test_empty_data(void **state)
{
    struct connection_guard guard = make();

    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < GUARD_EMPTY_DATA_MAX; i++)
            assert_true(guard_data(&guard, 0, false));
        if (round == 0)
            assert_true(guard_data(&guard, 1, false));
        else if (round == 1)
            assert_true(guard_data(&guard, 0, true));
        else if (round == 2)
            guard_opened(&guard, 1, START_MS);
        else if (round == 3)
            assert_true(guard_data(&guard, 16384, true));
    }
    assert_false(guard_data(&guard, 0, false));
}

static void test_continuations(void **state)
{
    struct connection_guard guard = make();

    for (unsigned block = 0; block < 3; block++) {
        guard_headers(&guard);
        for (unsigned i = 0; i < GUARD_CONTINUATIONS_MAX; i++)
            assert_true(guard_continuation(&guard));
    }
    assert_false(guard_continuation(&guard));
}

static void test_window_updates(void **state)
{
    struct connection_guard guard = make();
    unsigned taken = 0;

    for (unsigned i = 0; i < 5; i++)
        assert_true(guard_window_update(&guard));
    assert_false(guard_window_update(&guard));

    guard = make();
    for (int32_t id = 1; id < 20; id += 2)
        guard_opened(&guard, id, START_MS);
    for (unsigned i = 0; i < 3; i++)
        guard_sent_data(&guard, 100, 0);
    while (guard_window_update(&guard))
        taken++;
    assert_int_equal(taken, 5 + 2 * (10 + 10 * 3));
}

/* Frames of any size, messages of any size, credit for each message or each segment: never ended,
 * whatever came before, and without a step of what is free. */
static void test_honest_credit(void **state)
{
    static const size_t frames[] = {1, 100, 536, 1000, 4096, 16384};
    static const size_t messages[] = {5, 100, 117, 1000, 100000};
    static const size_t segments[] = {536, 1448, 16384, 65536};

    for (size_t f = 0; f < ELEMENTSOF(frames); f++) {
        for (size_t m = 0; m < ELEMENTSOF(messages); m++) {
            for (size_t s = 0; s < ELEMENTSOF(segments); s++) {
                struct connection_guard guard = make();
                uint64_t sent = 0, ended = 0, read = 0;

                guard.window_updates_left = 0;
                for (unsigned i = 0; i < 1000; i++) {
                    sent += frames[f];
                    guard_sent_data(&guard, frames[f],
                                    (unsigned)(sent / messages[m] - ended / messages[m]));
                    for (; ended / messages[m] < sent / messages[m]; ended += messages[m]) {
                        assert_true(guard_window_update(&guard)); /* of the stream */
                        assert_true(guard_window_update(&guard)); /* of the connection */
                    }
                }
                guard.window_updates_left = 0;
                for (unsigned i = 0; i < 1000; i++) {
                    guard_sent_data(&guard, frames[f], 0);
                    for (; read + segments[s] <= (i + 1) * frames[f]; read += segments[s]) {
                        assert_true(guard_window_update(&guard));
                        assert_true(guard_window_update(&guard));
                    }
                }
            }
        }
    }
}

static void test_idle_frames(void **state)
{
    struct connection_guard guard = make();
    unsigned taken = 0;

    guard_opened(&guard, 1, START_MS);
    guard_opened(&guard, 3, START_MS);
    guard_sent_ping(&guard);
    while (guard_idle_frame(&guard))
        taken++;
    assert_int_equal(taken, 301);

    guard = make();
    for (unsigned i = 0; i < 1000; i++) {
        guard_sent_ping(&guard);
        assert_true(guard_idle_frame(&guard)); /* its answer, for as long as they come */
    }
    assert_true(guard_is_new(&guard, 1));
    guard_opened(&guard, 5, START_MS);
    assert_false(guard_is_new(&guard, 5));
    assert_false(guard_is_new(&guard, 3));
    assert_true(guard_is_new(&guard, 7));
}

/* Ten thousand connections carry this each. */
static void test_size(void **state)
{
    assert_in_range(sizeof(struct connection_guard), 1, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rapid_resets),
        cmocka_unit_test(test_resets_refill),
        cmocka_unit_test(test_resets_at_the_rate_for_ever),
        cmocka_unit_test(test_old_streams_are_reset_for_free),
        cmocka_unit_test(test_what_counts_as_young),
        cmocka_unit_test(test_good_ends_pay_for_resets),
        cmocka_unit_test(test_made_resets),
        cmocka_unit_test(test_empty_data),
        cmocka_unit_test(test_continuations),
        cmocka_unit_test(test_window_updates),
        cmocka_unit_test(test_honest_credit),
        cmocka_unit_test(test_idle_frames),
        cmocka_unit_test(test_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
