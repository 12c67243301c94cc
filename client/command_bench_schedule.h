/*
 * How many calls `bench` has open at what time: stages in each of which the number goes in equal
 * steps from what it was to what it is to be.
 */
#pragma once

#include <stdint.h>

#define BENCH_STAGES_MAX 64
#define BENCH_CALLS_MAX 1000000
#define BENCH_STAGE_MAX_MS ((uint64_t)86400 * 1000)

struct bench_stage {
    uint64_t duration_ms; /* 0: at once */
    uint32_t calls;       /* at its end */
};

struct bench_schedule {
    unsigned count;
    struct bench_stage stages[BENCH_STAGES_MAX];
};

#define BENCH_SCHEDULE_ERROR_MAX 256

/*
 * Reads stages as a person writes them: "10s:100,30s:1000,1m:0", each the time that it takes and
 * the calls at its end. 0, -ENOMEM, or -EINVAL with what is wrong in `error`.
 */
int bench_schedule_parse(struct bench_schedule *ret_schedule, const char *text,
                         char error[static BENCH_SCHEDULE_ERROR_MAX]);

/* So many calls, begun at `rate` of them a second (0: all at once), and then open for so long. */
void bench_schedule_simple(struct bench_schedule *ret_schedule, uint32_t calls, double rate,
                           uint64_t duration_ms);

/* How long all of it takes. */
uint64_t bench_schedule_total_ms(const struct bench_schedule *schedule);

/* The most calls that it has open. */
uint32_t bench_schedule_calls_max(const struct bench_schedule *schedule);

/* How many calls are to be open `elapsed_ms` after its begin; at its end and later, as many as its
 * last stage says. */
uint32_t bench_schedule_calls(const struct bench_schedule *schedule, uint64_t elapsed_ms);
