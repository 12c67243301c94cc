/*
 * The order of things in one turn, as libuv runs it:
 *
 *     timers -> idle -> prepare -> poll (sleep) -> sockets -> check -> closing handles
 *
 * Both the timers and the sockets of the turn before come ahead of `prepare`, so what they queued
 * runs there, once, and only then does the loop sleep. `idle` is active exactly while tasks wait
 * for the next turn: it keeps the poll from sleeping, while sockets are still looked at.
 *
 * Sockets are read inside the poll, so that neither `prepare` nor `check` sees where the sleep ends
 * and the work begins. libuv is asked to measure its sleep, and a turn's work is the rest.
 */
#include "base/loop.h"

#include "base/util.h"

#include <signal.h>

/* Seconds; a turn that stays under the first is not worth telling apart. */
static const double lag_bounds[] = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
};

/*
 * Timers that fire in one turn. With ten thousand paced streams due at once it pays to flush the
 * connections of some hundred before the next are touched: what belongs to them is still in the
 * processor's cache, and sockets wait less.
 */
#define TIMERS_MAX 512

static void on_idle(uv_idle_t *idle)
{
    /* Being active is all that it is for. */
}

static void on_timer(uv_timer_t *timer)
{
    struct loop *loop = timer->data;

    loop->timer_due_ms = WHEEL_NEVER;
    wheel_advance(&loop->wheel, uv_now(loop->uv), TIMERS_MAX);
}

static void run_tasks(struct loop *loop)
{
    struct loop_tasks *tasks = loop->filling;
    struct loop_task *task;

    /* What the tasks queue goes into the other list and so waits for the next turn. */
    loop->filling = tasks == &loop->tasks[0] ? &loop->tasks[1] : &loop->tasks[0];
    while ((task = TAILQ_FIRST(tasks))) {
        loop_cancel(loop, task);
        task->run(task);
    }

    if (TAILQ_EMPTY(loop->filling))
        (void)uv_idle_stop(&loop->idle);
    else
        (void)uv_idle_start(&loop->idle, on_idle);
}

static void set_timer(struct loop *loop)
{
    uint64_t due_ms = wheel_next(&loop->wheel);
    uint64_t now_ms = uv_now(loop->uv);

    if (due_ms == loop->timer_due_ms)
        return;
    loop->timer_due_ms = due_ms;
    if (due_ms == WHEEL_NEVER)
        (void)uv_timer_stop(&loop->timer);
    else
        (void)uv_timer_start(&loop->timer, on_timer, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

static void observe_lag(struct loop *loop)
{
    uint64_t now_ns = uv_hrtime();
    uint64_t idle_ns = uv_metrics_idle_time(loop->uv);
    uint64_t turn_ns = now_ns - loop->turn_start_ns;
    uint64_t slept_ns = MIN(idle_ns - loop->idle_ns, turn_ns);

    if (loop->turn_start_ns > 0)
        histogram_observe(&loop->lag, (double)(turn_ns - slept_ns) / 1e9);
    loop->turn_start_ns = now_ns;
    loop->idle_ns = idle_ns;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct loop *loop = prepare->data;

    run_tasks(loop);
    set_timer(loop);
    observe_lag(loop);
}

static void on_check(uv_check_t *check)
{
    struct loop *loop = check->data;

    loop->costly_ns = 0;
}

int loop_init(struct loop *loop, uv_loop_t *uv)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&loop->timer, (uv_handle_t *)&loop->prepare,
                              (uv_handle_t *)&loop->check, (uv_handle_t *)&loop->idle};

    *loop = (struct loop){.uv = uv, .timer_due_ms = WHEEL_NEVER};
    (void)uv_loop_configure(uv, UV_METRICS_IDLE_TIME); /* cannot fail */
    uv_update_time(uv);
    wheel_init(&loop->wheel, uv_now(uv));
    TAILQ_INIT(&loop->tasks[0]);
    TAILQ_INIT(&loop->tasks[1]);
    loop->filling = &loop->tasks[0];
    histogram_init(&loop->lag, lag_bounds, ELEMENTSOF(lag_bounds));

    /* None of these can fail: they only link a handle into the loop. */
    (void)uv_timer_init(uv, &loop->timer);
    (void)uv_prepare_init(uv, &loop->prepare);
    (void)uv_check_init(uv, &loop->check);
    (void)uv_idle_init(uv, &loop->idle);
    for (size_t i = 0; i < ELEMENTSOF(handles); i++) {
        handles[i]->data = loop;
        uv_unref(handles[i]);
    }
    (void)uv_prepare_start(&loop->prepare, on_prepare);
    (void)uv_check_start(&loop->check, on_check);
    return 0;
}

void loop_deinit(struct loop *loop)
{
    uv_close((uv_handle_t *)&loop->timer, NULL);
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    uv_close((uv_handle_t *)&loop->check, NULL);
    uv_close((uv_handle_t *)&loop->idle, NULL);
}

void loop_close_signal(uv_signal_t *handle)
{
    int number = handle->signum;
    sigset_t one, before;

    (void)sigemptyset(&one);
    if (number > 0)
        (void)sigaddset(&one, number);
    (void)pthread_sigmask(SIG_BLOCK, &one, &before);
    uv_close((uv_handle_t *)handle, NULL);
    if (number > 0)
        (void)signal(number, SIG_IGN);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void loop_queue(struct loop *loop, struct loop_task *task)
{
    if (task->queue)
        return;
    task->queue = loop->filling;
    TAILQ_INSERT_TAIL(task->queue, task, link);
}

void loop_cancel(struct loop *loop, struct loop_task *task)
{
    if (!task->queue)
        return;
    TAILQ_REMOVE(task->queue, task, link);
    task->queue = NULL;
}

void loop_arm(struct loop *loop, struct wheel_timer *timer, uint64_t delay_ms, unsigned slack_ms)
{
    wheel_arm(&loop->wheel, timer, uv_now(loop->uv) + delay_ms, slack_ms);
}

void loop_disarm(struct loop *loop, struct wheel_timer *timer)
{
    wheel_cancel(&loop->wheel, timer);
}
