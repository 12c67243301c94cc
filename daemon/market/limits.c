/*
 * Who is too slow: what waits for each subscription that is awake is measured some times a second,
 * and held against the limits that its policy has.
 */
#include "base/util.h"
#include "market/subscription_private.h"

#include <inttypes.h>
#include <stdio.h>

#define CUT_OFF_TEXT_MAX 200

uint32_t subscription_max_queue(const struct subscription *subscription)
{
    uint32_t wanted = subscription->max_queue;
    uint32_t allowed = subscription->market->options.limits.queue_updates_max;

    return wanted == 0 ? allowed : MIN(wanted, allowed);
}

static void cut_off(struct subscription *subscription, enum cut_off_reason reason, const char *text)
{
    subscription_end(subscription);
    subscription->market->stats.cut_off_total[reason]++;
    subscription->cut_off(subscription->context, reason, text);
}

static void cut_off_beyond(struct subscription *subscription, enum cut_off_reason reason,
                           uint64_t value, uint64_t limit, const char *what)
{
    char text[CUT_OFF_TEXT_MAX];

    (void)snprintf(text, sizeof(text),
                   "the client is too slow: %" PRIu64 " %s, more than the limit of %" PRIu64, value,
                   what, limit);
    cut_off(subscription, reason, text);
}

/* The first of the limits that a queue is beyond. False: it is within them. */
static bool find_beyond(const struct subscription_queue *queue, uint64_t bytes_max,
                        uint64_t age_ms_max, bool *ret_by_age)
{
    *ret_by_age = !(bytes_max > 0 && queue->bytes > bytes_max);
    return !*ret_by_age || (age_ms_max > 0 && queue->age_ms > age_ms_max);
}

/* Both return whether it was cut off, and may be freed. */
static bool check_hard(struct subscription *subscription, const struct subscription_queue *queue)
{
    const struct market_limits *limits = &subscription->market->options.limits;
    uint32_t max_queue = subscription_max_queue(subscription);
    bool by_age;

    if (subscription->policy == SLOW_POLICY_DISCONNECT && queue->updates > max_queue)
        cut_off_beyond(subscription, CUT_OFF_MAX_QUEUE, queue->updates, max_queue,
                       "updates wait for it");
    else if (!find_beyond(queue, limits->hard_bytes, limits->hard_age_ms, &by_age))
        return false;
    else if (by_age)
        cut_off_beyond(subscription, CUT_OFF_HARD_AGE, queue->age_ms, limits->hard_age_ms,
                       "ms the oldest update waits for it");
    else
        cut_off_beyond(subscription, CUT_OFF_HARD_BYTES, queue->bytes, limits->hard_bytes,
                       "bytes wait for it");
    return true;
}

static bool check_soft(struct subscription *subscription, const struct subscription_queue *queue,
                       uint64_t now_ms)
{
    const struct market_limits *limits = &subscription->market->options.limits;
    char text[CUT_OFF_TEXT_MAX];
    bool by_age;

    if (!find_beyond(queue, limits->soft_bytes, limits->soft_age_ms, &by_age)) {
        subscription->queue.beyond_soft_ms = 0;
        return false;
    }
    if (subscription->queue.beyond_soft_ms == 0)
        subscription->queue.beyond_soft_ms = now_ms;
    if (now_ms - subscription->queue.beyond_soft_ms < limits->soft_time_ms)
        return false;
    (void)snprintf(text, sizeof(text),
                   "the client is too slow: for %" PRIu64 " ms it has been beyond the limit of "
                   "%" PRIu64 " %s, now at %" PRIu64,
                   now_ms - subscription->queue.beyond_soft_ms,
                   by_age ? limits->soft_age_ms : limits->soft_bytes, by_age ? "ms" : "bytes",
                   by_age ? queue->age_ms : queue->bytes);
    cut_off(subscription, by_age ? CUT_OFF_SOFT_AGE : CUT_OFF_SOFT_BYTES, text);
    return true;
}

static void measure(const struct subscription *subscription, uint64_t next, uint64_t now_ms,
                    struct subscription_queue *ret_queue)
{
    uint64_t since_ms;

    *ret_queue = (struct subscription_queue){0};
    if (subscription->merging) {
        rounds_measure(subscription, ret_queue);
        return;
    }
    queue_measure(subscription, ret_queue);
    since_ms = next ? history_at(&subscription->market->history, next)->published_ms : now_ms;
    if (now_ms > since_ms)
        ret_queue->age_ms = now_ms - since_ms;
}

bool subscription_sweep(struct subscription *subscription, uint64_t now_ms)
{
    enum slow_policy policy = subscription->policy;
    struct subscription_queue queue;
    uint64_t next = 0;

    subscription_catch_up(subscription);
    /* No limit is for these, and to add up what waits is work for each ticker of a market. */
    if (subscription->merging)
        return subscription->rounds.count > 0;
    if (policy != SLOW_POLICY_DROP_OLDEST) {
        queue_settle(subscription);
        if (subscription->stage == STAGE_LOST) {
            cut_off(subscription, CUT_OFF_HISTORY,
                    "the client is too slow: its next update is not in the history any more");
            return false;
        }
        next = queue_next(subscription);
    }
    measure(subscription, next, now_ms, &queue);
    if (queue.updates == 0) {
        subscription->queue.beyond_soft_ms = 0;
        return false;
    }
    /* Not while it catches up with what was there when it began. */
    if (policy == SLOW_POLICY_DROP_OLDEST || next <= subscription->start)
        return true;
    if (subscription->unsent)
        queue.bytes += subscription->unsent(subscription->context);
    return !check_hard(subscription, &queue) &&
           !(policy == SLOW_POLICY_DISCONNECT && check_soft(subscription, &queue, now_ms));
}

void subscription_queue(struct subscription *subscription, struct subscription_queue *ret_queue)
{
    uint64_t next = 0;

    subscription_catch_up(subscription);
    if (!subscription->merging) {
        queue_settle(subscription);
        next = subscription->stage == STAGE_LOST ? 0 : queue_next(subscription);
    }
    measure(subscription, next, loop_now_ms(subscription->loop), ret_queue);
}
