/*
 * One turn of the loop: what its lag counts, and how long its costly work may take.
 */
#include "base/loop.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define WORK_NS 30000000

struct bed {
    uv_loop_t uv;
    struct loop loop;
    uv_poll_t poll;
    uv_timer_t timer;
    struct loop_task task;
    int fd;
    bool worked;
};

static void on_timer(uv_timer_t *timer)
{
}

static void bed_init(struct bed *bed)
{
    *bed = (struct bed){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    assert_true(bed->fd >= 0);
    assert_int_equal(uv_loop_init(&bed->uv), 0);
    assert_int_equal(loop_init(&bed->loop, &bed->uv), 0);
    assert_int_equal(uv_poll_init(&bed->uv, &bed->poll, bed->fd), 0);
    assert_int_equal(uv_timer_init(&bed->uv, &bed->timer), 0);
    bed->poll.data = bed;
    /* A loop that waits for nothing makes no turns. */
    assert_int_equal(uv_timer_start(&bed->timer, on_timer, 3600000, 3600000), 0);
}

static void bed_deinit(struct bed *bed)
{
    uv_close((uv_handle_t *)&bed->poll, NULL);
    uv_close((uv_handle_t *)&bed->timer, NULL);
    loop_deinit(&bed->loop);
    (void)uv_run(&bed->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&bed->uv), 0);
    (void)close(bed->fd);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct bed *bed = poll->data;
    uint64_t start_ns = uv_hrtime();

    while (uv_hrtime() - start_ns < WORK_NS)
        ;
    bed->worked = true;
    (void)uv_poll_stop(poll);
}

/* Sockets are read while libuv polls; it is there that most of the work is done. */
static void test_lag_counts_reading(void **state)
{
    struct bed bed;

    bed_init(&bed);
    assert_int_equal(eventfd_write(bed.fd, 1), 0);
    assert_int_equal(uv_poll_start(&bed.poll, UV_READABLE, on_readable), 0);
    while (!bed.worked)
        (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    assert_true(bed.loop.lag.sum >= WORK_NS / 1e9);
    bed_deinit(&bed);
}

/* Who sleeps keeps nobody waiting. */
static void test_lag_counts_no_sleep(void **state)
{
    struct bed bed;
    double before;

    bed_init(&bed);
    (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    before = bed.loop.lag.sum;
    assert_int_equal(uv_timer_start(&bed.timer, on_timer, 500, 500), 0);
    (void)uv_run(&bed.uv, UV_RUN_ONCE);
    (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    assert_true(bed.loop.lag.sum > before);
    assert_true(bed.loop.lag.sum - before < 0.5);
    bed_deinit(&bed);
}

/* A turn has so much time for what can wait, and the next has as much again. */
static void test_costly_work(void **state)
{
    struct bed bed;

    bed_init(&bed);
    assert_true(loop_has_time(&bed.loop));
    loop_spend(&bed.loop, LOOP_COSTLY_NS_MAX - 1);
    assert_true(loop_has_time(&bed.loop));
    loop_spend(&bed.loop, 1);
    assert_false(loop_has_time(&bed.loop));
    (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    assert_true(loop_has_time(&bed.loop));
    bed_deinit(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lag_counts_reading),
        cmocka_unit_test(test_lag_counts_no_sleep),
        cmocka_unit_test(test_costly_work),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
