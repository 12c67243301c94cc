/*
 * One turn of the event loop, in the order that the send path needs: timers fire, sockets are
 * read, and then, once, just before the loop sleeps, everything that was marked is flushed. It
 * wraps a uv_loop_t with the timing wheel, the list of tasks for the end of the turn, and a
 * histogram of how long a turn kept new events waiting.
 */
#pragma once

#include "base/metrics.h"
#include "base/wheel.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

/*
 * What a turn may spend on work that costs much and can wait, such as the handshakes of a thousand
 * clients that come at once. What is left over is for the turns after it, so that nobody else waits
 * for all of it.
 */
#define LOOP_COSTLY_NS_MAX 5000000

struct loop_task;
TAILQ_HEAD(loop_tasks, loop_task);

/*
 * Something to be done once at the end of this turn. Embedded in its owner; zeroed memory with
 * `run` set is valid. The owner cancels it before its memory goes.
 */
struct loop_task {
    TAILQ_ENTRY(loop_task) link;
    void (*run)(struct loop_task *task);
    struct loop_tasks *queue; /* that it waits in, or NULL */
};

struct loop {
    uv_loop_t *uv;
    struct wheel wheel;
    struct loop_tasks tasks[2];
    struct loop_tasks *filling; /* the one of them that loop_queue() adds to */
    uv_timer_t timer;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uint64_t timer_due_ms;  /* what `timer` is set to; WHEEL_NEVER when stopped */
    uint64_t turn_start_ns; /* when the turn before had run its tasks */
    uint64_t idle_ns;       /* slept until then, since the beginning */
    uint64_t costly_ns;     /* spent in this turn on work that can wait */
    struct histogram lag;
};

/*
 * Sets up `loop` on `uv`, which it borrows. 0, or a negative errno (nothing to undo then). The
 * handles hold no reference: alone they do not keep uv_run() going.
 */
int loop_init(struct loop *loop, uv_loop_t *uv);

/* Closes the handles; the caller runs the loop once more (UV_RUN_DEFAULT) before it frees `loop`.
 */
void loop_deinit(struct loop *loop);

/*
 * Closes the watcher of a signal for a program that is about to end. The signal is ignored from
 * here on: libuv alone would restore its default, and one that comes late would kill the program.
 */
void loop_close_signal(uv_signal_t *handle);

/* Milliseconds on the loop's monotonic clock, as of the start of this turn. */
static inline uint64_t loop_now_ms(const struct loop *loop)
{
    return uv_now(loop->uv);
}

/*
 * Queues `task` for the end of this turn, once however often it is called. A task queued while
 * the tasks run waits for the next turn, which then starts at once, after sockets were looked at:
 * this is how a stream that always has more to send shares the loop with everything else.
 */
void loop_queue(struct loop *loop, struct loop_task *task);
void loop_cancel(struct loop *loop, struct loop_task *task);

/* Is there time left in this turn for work that can wait? Whoever did some says how long it took.
 */
static inline bool loop_has_time(const struct loop *loop)
{
    return loop->costly_ns < LOOP_COSTLY_NS_MAX;
}

static inline void loop_spend(struct loop *loop, uint64_t ns)
{
    loop->costly_ns += ns;
}

/* wheel_arm() at `delay_ms` from now, and wheel_cancel(), on the loop's wheel. */
void loop_arm(struct loop *loop, struct wheel_timer *timer, uint64_t delay_ms, unsigned slack_ms);
void loop_disarm(struct loop *loop, struct wheel_timer *timer);
