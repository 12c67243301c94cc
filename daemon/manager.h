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
};

struct manager_options {
    struct loop *loop;
    struct manager_figures (*figures)(void *context);
    void *context;
};

/* Zeroed memory can be deinitialised. */
struct manager {
    struct manager_options options;
    struct wheel_timer status_timer;
    struct wheel_timer watchdog_timer;
    uint64_t watchdog_interval_ms;
    uint64_t sent_before;
    uint64_t sampled_ms;
    char status[160];
    const char *stopping; /* NULL: not yet; else what it waits for, such as "draining" */
};

/* Nothing is told yet. */
void manager_init(struct manager *manager, const struct manager_options *options);

/* Everything that can be asked for is there: READY=1. From here on the status is told every few
 * seconds when it has changed ("2 streams on 1 connection, 1 blocked, 10 updates/s"), and the
 * watchdog, if there is one, twice in its time. */
void manager_ready(struct manager *manager);

/*
 * A reload begins: RELOADING=1 with MONOTONIC_USEC=. manager_reloaded() must follow, with what came
 * of it for the status line if it failed (`why`, else NULL), and tells READY=1.
 */
void manager_reloading(struct manager *manager);
void manager_reloaded(struct manager *manager, const char *why);

/*
 * The program stops; `what` (borrowed, for ever) says what it is at: "draining", "ending streams".
 * The first call tells STOPPING=1. While it lasts the manager is asked for more time every few
 * seconds, `timeout_ms` from now at most (EXTEND_TIMEOUT_USEC=), so that a drain may take longer
 * than TimeoutStopSec=.
 */
void manager_stopping(struct manager *manager, const char *what, uint64_t timeout_ms);

void manager_deinit(struct manager *manager);
