/*
 * What the service manager is told and when. Neither a manager nor a clock is there: the functions
 * of base/systemd.h and uv_now() of this file stand in for the real ones.
 */
#include "manager.h"

#include "base/systemd.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MESSAGES_MAX 64
#define START_MS 1000

static struct {
    uint64_t now_ms;
    uint64_t watchdog_ms;
    bool absent; /* there is no manager */
    bool deaf;   /* it does not read */
    unsigned tries;
    unsigned count;
    char messages[MESSAGES_MAX][MANAGER_STATUS_MAX + 128];
    uint64_t told_ms[MESSAGES_MAX];
} world;

uint64_t uv_now(const uv_loop_t *loop)
{
    return world.now_ms;
}

bool systemd_wants_to_know(void)
{
    return !world.absent;
}

bool systemd_notify(const char *format, ...)
{
    va_list arguments;
    int length;

    world.tries++;
    if (world.absent)
        return true;
    if (world.deaf)
        return false;
    assert_true(world.count < MESSAGES_MAX);
    va_start(arguments, format);
    length = vsnprintf(world.messages[world.count], sizeof world.messages[0], format, arguments);
    va_end(arguments);
    assert_in_range(length, 1, 1023);
    world.told_ms[world.count++] = world.now_ms;
    return true;
}

uint64_t systemd_monotonic_us(void)
{
    return world.now_ms * 1000;
}

uint64_t systemd_watchdog_ms(void)
{
    return world.watchdog_ms;
}

struct bed {
    uv_loop_t uv;
    struct loop loop;
    struct manager manager;
    struct manager_figures figures;
};

static struct manager_figures on_figures(void *context)
{
    return ((struct bed *)context)->figures;
}

static void bed_init(struct bed *bed)
{
    struct manager_options options = {.loop = &bed->loop, .figures = on_figures, .context = bed};

    memset(&world, 0, sizeof world);
    memset(bed, 0, sizeof *bed);
    world.now_ms = START_MS;
    assert_int_equal(uv_loop_init(&bed->uv), 0);
    assert_int_equal(loop_init(&bed->loop, &bed->uv), 0);
    manager_init(&bed->manager, &options);
}

static void bed_deinit(struct bed *bed)
{
    manager_deinit(&bed->manager);
    assert_int_equal(wheel_next(&bed->loop.wheel), WHEEL_NEVER);
    loop_deinit(&bed->loop);
    (void)uv_run(&bed->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&bed->uv), 0);
}

/* The loop turns for so long. */
static void pass_time(struct bed *bed, uint64_t ms)
{
    for (uint64_t end_ms = world.now_ms + ms; world.now_ms < end_ms;) {
        world.now_ms++;
        wheel_advance(&bed->loop.wheel, world.now_ms, 512);
    }
}

/* The messages since the last call are these, up to the first NULL; none is left. */
static void assert_told(const char *first, ...)
{
    va_list more;
    unsigned i = 0;

    va_start(more, first);
    for (const char *message = first; message; message = va_arg(more, const char *)) {
        if (i == world.count)
            fail_msg("\"%s\" was not told", message);
        assert_string_equal(world.messages[i], message);
        i++;
    }
    va_end(more);
    if (i < world.count)
        fail_msg("\"%s\" was told", world.messages[i]);
    world.count = 0;
}

#define IDLE "0 streams on 0 connections, 0 blocked, 0 updates/s"

static void test_ready(void **state)
{
    struct bed bed;

    bed_init(&bed);
    pass_time(&bed, 60000);
    assert_int_equal(world.tries, 0); /* not before it is */
    bed.figures = (struct manager_figures){.streams = 2, .connections = 1, .sent_total = 1000};
    manager_ready(&bed.manager);
    assert_told("READY=1\nSTATUS=2 streams on 1 connection, 0 blocked, 0 updates/s", NULL);
    pass_time(&bed, 60000);
    assert_told(NULL); /* nothing changes */
    bed_deinit(&bed);
}

/* What of it is there when it is told, and at what pace. */
static void test_status(void **state)
{
    static const struct {
        struct manager_figures figures; /* sent_total: in these three seconds */
        const char *status;
    } cases[] = {
        {{2, 1, 1, 30, ""}, "2 streams on 1 connection, 1 blocked, 10 updates/s"},
        {{1, 1, 0, 3, ""}, "1 stream on 1 connection, 0 blocked, 1 update/s"},
        {{1, 2, 0, 1, ""}, "1 stream on 2 connections, 0 blocked, 0.3 updates/s"},
        {{0, 0, 0, 0, ""}, IDLE},
        {{0, 0, 0, 0, "pipe is gone"}, IDLE "; the market's feed pipe is gone"},
        {{999, 1000, 12, 29, ""}, "999 streams on 1,000 connections, 12 blocked, 9.7 updates/s"},
        {{999, 1000, 12, 30, ""}, "999 streams on 1,000 connections, 12 blocked, 10 updates/s"},
        {{999, 1000, 12, 31, ""}, "999 streams on 1,000 connections, 12 blocked, 10 updates/s"},
        {{999, 1000, 12, 32, ""}, "999 streams on 1,000 connections, 12 blocked, 11 updates/s"},
        {{1000000, 10000, 123456, 37037037, ""},
         "1,000,000 streams on 10,000 connections, 123,456 blocked, 12,345,679 updates/s"},
        {{1, 1, 1, 0, ""}, "1 stream on 1 connection, 1 blocked, 0 updates/s"},
        {{UINT64_MAX, UINT64_MAX, UINT64_MAX, 0, ""},
         "18,446,744,073,709,551,615 streams on 18,446,744,073,709,551,615 connections, "
         "18,446,744,073,709,551,615 blocked, 0 updates/s"},
    };
    char expected[MANAGER_STATUS_MAX] = "";
    uint64_t sent = 0;
    struct bed bed;

    bed_init(&bed);
    manager_ready(&bed.manager);
    assert_told("READY=1\nSTATUS=" IDLE, NULL);
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        char before[MANAGER_STATUS_MAX];

        memcpy(before, expected, sizeof before);
        (void)snprintf(expected, sizeof expected, "STATUS=%s", cases[i].status);
        bed.figures = cases[i].figures;
        bed.figures.sent_total = sent += cases[i].figures.sent_total;
        pass_time(&bed, 2999);
        assert_told(NULL);
        pass_time(&bed, 1);
        if (strcmp(before, expected) != 0)
            assert_told(expected, NULL);
        assert_told(NULL);
    }
    bed_deinit(&bed);
}

/* The loop may be late. */
static void test_rate_is_over_real_time(void **state)
{
    struct bed bed;

    bed_init(&bed);
    manager_ready(&bed.manager);
    world.count = 0;
    bed.figures = (struct manager_figures){1, 1, 0, 600, ""};
    world.now_ms += 6000;
    wheel_advance(&bed.loop.wheel, world.now_ms, 512);
    assert_told("STATUS=1 stream on 1 connection, 0 blocked, 100 updates/s", NULL);
    bed_deinit(&bed);
}

static void test_watchdog(void **state)
{
    static const struct {
        uint64_t watchdog_ms;
        uint64_t interval_ms;
    } cases[] = {{2000, 1000}, {30000, 15000}, {5, 2}, {1, 1}};
    struct bed bed;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        bed_init(&bed);
        world.watchdog_ms = cases[i].watchdog_ms;
        manager_ready(&bed.manager);
        world.count = 0;
        for (unsigned k = 0; k < 10; k++) {
            pass_time(&bed, cases[i].interval_ms - 1);
            assert_told(NULL);
            pass_time(&bed, 1);
            assert_told("WATCHDOG=1", NULL);
        }
        bed_deinit(&bed);
    }
}

/* Not the clock but the loop must go on. */
static void test_watchdog_needs_the_loop(void **state)
{
    struct bed bed;

    bed_init(&bed);
    world.watchdog_ms = 2000;
    manager_ready(&bed.manager);
    world.count = 0;
    world.now_ms += 100000;
    assert_told(NULL);
    wheel_advance(&bed.loop.wheel, world.now_ms, 512);
    assert_told("WATCHDOG=1", NULL); /* once, for all that were missed */
    bed_deinit(&bed);
}

static void test_reload(void **state)
{
    struct bed bed;

    bed_init(&bed);
    manager_ready(&bed.manager);
    assert_told("READY=1\nSTATUS=" IDLE, NULL);
    world.now_ms = 123456;
    manager_reloading(&bed.manager);
    assert_told("RELOADING=1\nMONOTONIC_USEC=123456000", NULL);
    manager_reloaded(&bed.manager, NULL);
    assert_told("READY=1\nSTATUS=" IDLE, NULL);

    /* One that goes wrong is seen in the status until one goes well. */
    manager_reloading(&bed.manager);
    manager_reloaded(&bed.manager, "/etc/stockd/stockd.conf:3: grpc.listen: \"x\" has no port");
    assert_told("RELOADING=1\nMONOTONIC_USEC=123456000",
                "READY=1\nSTATUS=" IDLE "; the last reload failed: /etc/stockd/stockd.conf:3: "
                "grpc.listen: \"x\" has no port",
                NULL);
    bed.figures.streams = 1;
    pass_time(&bed, 3000);
    assert_told("STATUS=1 stream on 0 connections, 0 blocked, 0 updates/s; the last reload failed: "
                "/etc/stockd/stockd.conf:3: grpc.listen: \"x\" has no port",
                NULL);
    manager_reloading(&bed.manager);
    world.count = 0;
    manager_reloaded(&bed.manager, NULL);
    assert_told("READY=1\nSTATUS=1 stream on 0 connections, 0 blocked, 0 updates/s", NULL);
    bed_deinit(&bed);
}

/* A path may have any byte; the manager reads lines of UTF-8. */
static void test_words_of_a_reload(void **state)
{
    static const struct {
        const char *why;
        const char *told;
    } cases[] = {
        {"/a\nSTOPPING=1\n", "/a?STOPPING=1?"},
        {"/caf\xc3\xa9", "/caf\xc3\xa9"},
        {"/caf\xe9/b", "/caf?/b"},
        {"/b\xe2\x80\xaex", "/b?x"}, /* turns the text around */
        {"\xf0\x9f", "?"},
        {"100 %s", "100 %s"},
    };
    char expected[MANAGER_STATUS_MAX + 128], why[2 * MANAGER_WHY_MAX + 2];
    struct bed bed;

    bed_init(&bed);
    manager_ready(&bed.manager);
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        manager_reloading(&bed.manager);
        world.count = 0;
        manager_reloaded(&bed.manager, cases[i].why);
        (void)snprintf(expected, sizeof expected,
                       "READY=1\nSTATUS=" IDLE "; the last reload failed: %s", cases[i].told);
        assert_told(expected, NULL);
    }
    /* A long one is cut between two characters. */
    why[0] = 'x';
    for (size_t i = 1; i < sizeof why - 1; i += 2)
        memcpy(why + i, "\xc3\xa9", 2);
    why[sizeof why - 1] = '\0';
    manager_reloading(&bed.manager);
    world.count = 0;
    manager_reloaded(&bed.manager, why);
    why[MANAGER_WHY_MAX - 1] = '\0';
    (void)snprintf(expected, sizeof expected,
                   "READY=1\nSTATUS=" IDLE "; the last reload failed: %s", why);
    assert_told(expected, NULL);
    bed_deinit(&bed);
}

/* The end of a reload that nobody began, and reloads of a program that stops. */
static void test_no_reload(void **state)
{
    struct bed bed;

    bed_init(&bed);
    manager_ready(&bed.manager);
    world.count = 0;
    manager_reloaded(&bed.manager, NULL);
    assert_told(NULL);
    manager_reloading(&bed.manager);
    manager_stopping(&bed.manager, "draining", 0);
    world.count = 0;
    manager_reloaded(&bed.manager, NULL);
    manager_reloading(&bed.manager);
    manager_reloaded(&bed.manager, "no");
    assert_told(NULL);
    bed_deinit(&bed);
}

static void test_stopping(void **state)
{
    struct bed bed;

    bed_init(&bed);
    world.watchdog_ms = 4000;
    manager_ready(&bed.manager);
    assert_told("READY=1\nSTATUS=" IDLE, NULL);
    bed.figures = (struct manager_figures){.streams = 2, .connections = 1};
    manager_stopping(&bed.manager, "draining", 10000);
#define TWO "2 streams on 1 connection, 0 blocked, 0 updates/s"
    assert_told("STOPPING=1\nSTATUS=draining: " TWO "\nEXTEND_TIMEOUT_USEC=9000000", NULL);
    pass_time(&bed, 3000);
    assert_told("WATCHDOG=1", "STATUS=draining: " TWO "\nEXTEND_TIMEOUT_USEC=8000000", NULL);
    pass_time(&bed, 3000);
    assert_told("WATCHDOG=1", "WATCHDOG=1", "STATUS=draining: " TWO "\nEXTEND_TIMEOUT_USEC=5000000",
                NULL);

    /* The next step has its own time. */
    manager_stopping(&bed.manager, "ending streams", 4000);
    assert_told("STATUS=ending streams: " TWO "\nEXTEND_TIMEOUT_USEC=5000000", NULL);
    pass_time(&bed, 3000);
    assert_told("WATCHDOG=1", "STATUS=ending streams: " TWO "\nEXTEND_TIMEOUT_USEC=2000000", NULL);

    /* After that it is alive, and asks for nothing. */
    pass_time(&bed, 20000);
    assert_told("WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1",
                "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", NULL);
    bed_deinit(&bed);
}

/* Each time that is asked for lasts until the next. */
static void test_long_drain(void **state)
{
    uint64_t until_ms = 0, begin_ms;
    unsigned long us;
    struct bed bed;

    bed_init(&bed);
    manager_ready(&bed.manager);
    world.count = 0;
    begin_ms = world.now_ms;
    manager_stopping(&bed.manager, "draining", 100000);
    pass_time(&bed, 120000);
    assert_true(world.count > 100000 / 9000);
    for (unsigned i = 0; i < world.count; i++) {
        const char *extend = strstr(world.messages[i], "EXTEND_TIMEOUT_USEC=");

        assert_non_null(extend);
        us = strtoul(strchr(extend, '=') + 1, NULL, 10);
        assert_true(i == 0 || world.told_ms[i] < until_ms);
        until_ms = world.told_ms[i] + us / 1000;
    }
    assert_int_equal(until_ms, begin_ms + 100000 + 1000);
    bed_deinit(&bed);
}

static void test_stopping_before_ready(void **state)
{
    struct bed bed;

    bed_init(&bed);
    manager_stopping(&bed.manager, "draining", 0);
    assert_told("STOPPING=1\nSTATUS=draining: " IDLE "\nEXTEND_TIMEOUT_USEC=1000000", NULL);
    bed_deinit(&bed);
}

/* What it must know it is told when it reads again, in order, and soon. */
static void test_deaf(void **state)
{
    struct bed bed;

    bed_init(&bed);
    world.deaf = true;
    manager_ready(&bed.manager);
    pass_time(&bed, 10000);
    world.deaf = false;
    pass_time(&bed, 250);
    assert_told("READY=1\nSTATUS=" IDLE, NULL);
    pass_time(&bed, 10000);
    assert_told(NULL);

    world.deaf = true;
    manager_reloading(&bed.manager);
    manager_reloaded(&bed.manager, NULL);
    manager_reloading(&bed.manager);
    manager_reloaded(&bed.manager, "no");
    manager_stopping(&bed.manager, "draining", 60000);
    manager_stopping(&bed.manager, "ending streams", 5000);
    pass_time(&bed, 1000);
    world.deaf = false;
    pass_time(&bed, 250);
    assert_int_equal(world.count, 3);
    assert_int_equal(strncmp(world.messages[0], "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
    assert_int_equal(strncmp(world.messages[1], "READY=1\n", 8), 0);
    assert_int_equal(strncmp(world.messages[2], "STOPPING=1\nSTATUS=ending streams: ", 34), 0);
    bed_deinit(&bed);
}

/* What it missed makes no figure wrong: two updates in the quarter of a second between two tries
 * are not eight a second. */
static void test_rate_after_it_was_deaf(void **state)
{
    struct bed bed;

    bed_init(&bed);
    manager_ready(&bed.manager);
    assert_told("READY=1\nSTATUS=" IDLE, NULL);
    bed.figures = (struct manager_figures){.streams = 1, .connections = 1};
    world.deaf = true;
    for (unsigned i = 0; i < 100; i++) {
        bed.figures.sent_total++;
        pass_time(&bed, 100);
    }
    world.deaf = false;
    pass_time(&bed, 250);
    assert_told("STATUS=1 stream on 1 connection, 0 blocked, 10 updates/s", NULL);
    bed_deinit(&bed);
}

/* A sign of life that did not get through comes again soon, not only when the time is over. */
static void test_deaf_to_the_watchdog(void **state)
{
    struct bed bed;

    bed_init(&bed);
    world.watchdog_ms = 20000;
    manager_ready(&bed.manager);
    world.count = 0;
    world.deaf = true;
    pass_time(&bed, 10100);
    world.deaf = false;
    pass_time(&bed, 150);
    assert_told("WATCHDOG=1", NULL);
    pass_time(&bed, 9999);
    assert_told(NULL);
    pass_time(&bed, 1);
    assert_told("WATCHDOG=1", NULL);
    bed_deinit(&bed);
}

/* Nothing runs for nobody: an idle program sleeps. */
static void test_no_manager(void **state)
{
    struct bed bed;

    bed_init(&bed);
    world.absent = true;
    world.watchdog_ms = 2000;
    manager_ready(&bed.manager);
    manager_reloading(&bed.manager);
    manager_reloaded(&bed.manager, NULL);
    manager_stopping(&bed.manager, "draining", 1000);
    assert_int_equal(world.tries, 0);
    assert_int_equal(wheel_next(&bed.loop.wheel), WHEEL_NEVER);
    bed_deinit(&bed);
}

/* Its timers alone do not keep the loop running: that this ends is what is tested. */
static void test_loop_ends(void **state)
{
    struct bed bed;

    bed_init(&bed);
    world.watchdog_ms = 3600000;
    manager_ready(&bed.manager);
    assert_true(wheel_next(&bed.loop.wheel) != WHEEL_NEVER);
    assert_int_equal(uv_run(&bed.uv, UV_RUN_DEFAULT), 0);
    bed_deinit(&bed);
}

static void test_zeroed(void **state)
{
    struct manager manager = {0};

    manager_deinit(&manager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ready),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_rate_is_over_real_time),
        cmocka_unit_test(test_watchdog),
        cmocka_unit_test(test_watchdog_needs_the_loop),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_words_of_a_reload),
        cmocka_unit_test(test_no_reload),
        cmocka_unit_test(test_stopping),
        cmocka_unit_test(test_long_drain),
        cmocka_unit_test(test_stopping_before_ready),
        cmocka_unit_test(test_deaf),
        cmocka_unit_test(test_rate_after_it_was_deaf),
        cmocka_unit_test(test_deaf_to_the_watchdog),
        cmocka_unit_test(test_no_manager),
        cmocka_unit_test(test_loop_ends),
        cmocka_unit_test(test_zeroed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
