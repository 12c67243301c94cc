/*
 * A run of `bench`: its connections, and as many calls on them as the schedule says at each time.
 * Call n is on connection n, counted round; who is slow is spread over both.
 */
#pragma once

#include "base/loop.h"
#include "client/client.h"
#include "client/command_bench_call.h"
#include "client/command_bench_schedule.h"

/* In one turn, so that answers are read while thousands begin. */
#define BENCH_BEGIN_MAX 500

/* Connections that are being made at a time. */
#define BENCH_DIALS_MAX 64

struct bench_run_options {
    struct connect_options connect; /* its credentials are borrowed */
    uint32_t connections;
    uint64_t window; /* of each call */
    double slow_percent;
    bool show_progress;
    struct bench_schedule schedule;
    struct bench_call_options call;
};

struct bench_connection;

struct bench_run {
    struct bench_run_options options;
    struct loop *loop;
    void (*stopped)(struct bench_run *run); /* everything is closed */
    void *user;

    struct stats stats;
    struct bench_report report;
    struct bench_class classes[BENCH_CLASSES];
    enum exit_code exit_code;

    struct bench_connection *connections;
    uint32_t dialled;     /* begun to be made */
    uint32_t established; /* so far */
    struct bench_calls calls;
    uint32_t open;  /* calls */
    uint32_t held;  /* calls that were begun and not ended from here */
    uint64_t begun; /* calls, ever */
    uint64_t failed;
    uint64_t start_ns; /* of the schedule; 0: connections are still being made */
    uint64_t updates_before;
    uint64_t shown_ns; /* when the progress was shown last */
    struct wheel_timer tick;
    struct wheel_timer goodbye_limit;
    struct loop_task settle;
    bool stopping;
    bool has_stopped;
    bool progress_shown;
};

/* Begins, in zeroed memory in which options, loop, stopped and user were set. 0 or -ENOMEM. */
int bench_run_start(struct bench_run *run);

/* Ends it; the report stands from here on. The first `exit_code` counts. `stopped` follows. */
void bench_run_stop(struct bench_run *run, enum exit_code exit_code);

/* Resolvers that did not come back yet: the loop would wait for them. */
unsigned bench_run_abandoned(const struct bench_run *run);

/* After `stopped`. */
void bench_run_deinit(struct bench_run *run);
