/*
 * Who subscribes to many tickers is not told of each update: it looks through those that it has not
 * seen when it is asked for an event, some times a second, and before the history forgets them. Who
 * sleeps costs nothing then.
 */
#include "base/util.h"
#include "market/subscription_private.h"

#include <errno.h>
#include <string.h>

void subscription_catch_up(struct subscription *subscription)
{
    const struct history *history = &subscription->market->history;
    struct scan *scan = subscription->scan;

    /* Whatever it wants would have woken it; but who wants all may not have been woken yet, and had
     * seen all when it fell asleep. */
    if (scan && subscription->asleep && !is_paused(subscription) && !wants_all(subscription))
        scan->scanned = history->last;
    while (scan && scan->scanned < history->last) {
        uint64_t sequence = ++scan->scanned;
        const struct history_entry *entry = history_at(history, sequence);

        if (!is_wanted(subscription, entry->ticker))
            continue;
        if (subscription->merging)
            rounds_look_at(subscription, sequence);
        else
            queue_look_at(subscription, sequence);
    }
}

int subscription_grow(struct subscription *subscription, uint32_t words)
{
    struct scan *scan = subscription->scan;
    uint64_t *waiting;

    if (!subscription->merging || scan->wanted || scan->waiting_words >= words)
        return 0;
    waiting = reallocarray(scan->waiting, words, sizeof(*waiting));
    if (!waiting)
        return -ENOMEM;
    memset(waiting + scan->waiting_words, 0, (words - scan->waiting_words) * sizeof(*waiting));
    subscription->market->stats.subscriptions_size +=
        (words - scan->waiting_words) * sizeof(*waiting);
    scan->waiting = waiting;
    scan->waiting_words = words;
    return 0;
}
