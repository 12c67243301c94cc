/*
 * What the service manager is told while the program lives: that it is ready, that it reloads, that
 * it stops and needs time for that, what it does just now (STATUS=), and, from the loop itself,
 * that the loop still turns (WATCHDOG=1). sd_notify(3) has the protocol.
 */
#pragma once

#include "base/loop.h"

#include <stdbool.h>
#include <stdint.h>

/* For the status line. */
struct manager_figures {
    uint64_t streams;
    uint64_t connections;
    uint64_t blocked;    /* streams that wait for their client */
    uint64_t sent_total; /* updates since the start */
    char feed[64];       /* what is wrong with the market's feed, "pipe is gone"; empty: nothing */
};

struct manager_options {
    struct loop *loop;
    struct manager_figures (*figures)(void *context);
    void *context;
};

#define MANAGER_STATUS_MAX 640
#define MANAGER_WHY_MAX 256

/* Zeroed memory can be deinitialised. */
struct manager {
    struct manager_options options;
    struct wheel_timer status_timer;
    struct wheel_timer watchdog_timer;
    uint64_t watchdog_interval_ms;
    uint64_t sent_before;
    uint64_t sampled_us;             /* when that was so */
    double rate;                     /* updates a second, between the last two samples */
    char status[MANAGER_STATUS_MAX]; /* as it was told last */
    char why[MANAGER_WHY_MAX];       /* what was wrong with the last reload; empty: nothing */
    const char *stopping;            /* NULL: not yet; else what it waits for, such as "draining" */
    uint64_t stopping_until_us;
    bool reloading;
    /* What the manager must know, in this order, and does not yet. */
    bool untold_reloading;
    bool untold_ready;
    bool untold_stopping;
};

/* Nothing is told yet. */
void manager_init(struct manager *manager, const struct manager_options *options);

/*
 * Everything that can be asked for is there: READY=1. From here on the status is told every few
 * seconds when it has changed ("2 streams on 1 connection, 1 blocked, 10 updates/s"), and the
 * watchdog, if there is one, twice in its time. What the manager is not told because it does not
 * read just now, it is told with one of the next. No timer of this keeps the loop from ending, and
 * without a manager there is none.
 */
void manager_ready(struct manager *manager);

/*
 * A reload begins: RELOADING=1 with MONOTONIC_USEC=. manager_reloaded() must follow, with what came
 * of it for the status line if it failed (`why`, which is copied; else NULL), and tells READY=1.
 * The status has it until a reload goes well. Once the program stops neither says anything.
 */
void manager_reloading(struct manager *manager);
void manager_reloaded(struct manager *manager, const char *why);

/*
 * The program stops; `what` (borrowed, for ever) says what it is at: "draining", "ending streams".
 * The first call tells STOPPING=1. While it lasts the manager is asked for more time every few
 * seconds (EXTEND_TIMEOUT_USEC=), so that a drain may take longer than TimeoutStopSec=: until
 * `timeout_ms` from now and a second for what comes then, at most. A later call counts instead of
 * those before.
 */
void manager_stopping(struct manager *manager, const char *what, uint64_t timeout_ms);

/* Tells nothing more. */
void manager_deinit(struct manager *manager);
