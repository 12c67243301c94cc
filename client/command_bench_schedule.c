/*
 * A plain number of calls is a schedule, too, of one stage that opens them and one that keeps them:
 * whoever follows a schedule needs to know of nothing else.
 */
#include "client/command_bench_schedule.h"

#include "base/config.h"
#include "base/util.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SECTION "stage"

struct values {
    uint64_t duration_ms;
    uint64_t calls;
};

static const struct config_setting table[] = {
    {SECTION, "time", CONFIG_DURATION, CONFIG_RESTART, offsetof(struct values, duration_ms), "0", 0,
     (double)BENCH_STAGE_MAX_MS, "How long the stage takes"},
    {SECTION, "calls", CONFIG_COUNT, CONFIG_RESTART, offsetof(struct values, calls), "0", 0,
     BENCH_CALLS_MAX, "Calls at its end"},
};

/* One value of the stage that is being read, by the rules that all settings follow. 0, -ENOMEM, or
 * -EINVAL. */
static int read_value(struct config *config, const char *key, const char *text, const char *stage,
                      char error[static BENCH_SCHEDULE_ERROR_MAX])
{
    size_t faults = config->faults.count;
    const char *fault;
    int r = config_set(config, SECTION, key, text, "");

    if (r < 0)
        return r;
    if (config->faults.count == faults)
        return 0;
    fault = strstr(config->faults.text[faults], key);
    (void)snprintf(error, BENCH_SCHEDULE_ERROR_MAX, "stage \"%.40s\": %s", stage,
                   fault ? fault : "it cannot be read");
    return -EINVAL;
}

static int read_stage(struct config *config, struct values *values, char *text,
                      struct bench_stage *ret_stage, char error[static BENCH_SCHEDULE_ERROR_MAX])
{
    _cleanup_free_ char *whole = strdup(text);
    char *colon = strchr(text, ':');
    int r;

    if (!whole)
        return -ENOMEM;
    if (!colon) {
        (void)snprintf(error, BENCH_SCHEDULE_ERROR_MAX,
                       "stage \"%.40s\" is no TIME:CALLS, such as 10s:100", whole);
        return -EINVAL;
    }
    *colon = 0;
    r = read_value(config, "time", text, whole, error);
    if (r == 0)
        r = read_value(config, "calls", colon + 1, whole, error);
    *ret_stage = (struct bench_stage){values->duration_ms, (uint32_t)values->calls};
    return r;
}

int bench_schedule_parse(struct bench_schedule *ret_schedule, const char *text,
                         char error[static BENCH_SCHEDULE_ERROR_MAX])
{
    _cleanup_free_ char *copy = strdup(text);
    struct bench_schedule schedule = {0};
    struct values values = {0};
    struct config config;
    char *rest = copy;
    char *part;
    int r;

    if (!copy)
        return -ENOMEM;
    r = config_init(&config, table, ELEMENTSOF(table), &values);
    while (r == 0 && (part = strsep(&rest, ","))) {
        if (schedule.count == BENCH_STAGES_MAX) {
            (void)snprintf(error, BENCH_SCHEDULE_ERROR_MAX, "there are more than %d stages",
                           BENCH_STAGES_MAX);
            r = -EINVAL;
        } else {
            r = read_stage(&config, &values, part, &schedule.stages[schedule.count], error);
            schedule.count++;
        }
    }
    config_deinit(&config);
    if (r == 0 && bench_schedule_calls_max(&schedule) == 0) {
        (void)snprintf(error, BENCH_SCHEDULE_ERROR_MAX, "no stage has any calls");
        r = -EINVAL;
    }
    if (r == 0 && bench_schedule_total_ms(&schedule) == 0) {
        (void)snprintf(error, BENCH_SCHEDULE_ERROR_MAX, "no stage takes any time");
        r = -EINVAL;
    }
    if (r == 0)
        *ret_schedule = schedule;
    return r;
}

void bench_schedule_simple(struct bench_schedule *ret_schedule, uint32_t calls, double rate,
                           uint64_t duration_ms)
{
    uint64_t begin_ms = rate > 0 ? (uint64_t)ceil(1e3 * calls / rate) : 0;

    *ret_schedule = (struct bench_schedule){
        .count = 2,
        .stages = {{begin_ms, calls}, {duration_ms, calls}},
    };
}

uint64_t bench_schedule_total_ms(const struct bench_schedule *schedule)
{
    uint64_t total_ms = 0;

    for (unsigned i = 0; i < schedule->count; i++)
        total_ms += schedule->stages[i].duration_ms;
    return total_ms;
}

uint32_t bench_schedule_calls_max(const struct bench_schedule *schedule)
{
    uint32_t most = 0;

    for (unsigned i = 0; i < schedule->count; i++)
        most = MAX(most, schedule->stages[i].calls);
    return most;
}

uint32_t bench_schedule_calls(const struct bench_schedule *schedule, uint64_t elapsed_ms)
{
    uint32_t calls = 0;

    for (unsigned i = 0; i < schedule->count; i++) {
        const struct bench_stage *stage = &schedule->stages[i];

        if (elapsed_ms < stage->duration_ms) {
            double part = (double)elapsed_ms / (double)stage->duration_ms;
            double now = calls + part * ((double)stage->calls - calls);

            /* Each step at its beginning, so that the last is made within the stage: there may be
             * no other after it, or one that goes back at once. */
            return (uint32_t)(stage->calls > calls ? ceil(now) : floor(now));
        }
        elapsed_ms -= stage->duration_ms;
        calls = stage->calls;
    }
    return calls;
}
