/*
 * Each update waits until it is taken, or dropped. What waits is in the history, and only there: of
 * all tickers it is everything from the cursor on; of few, each slot has the first of a chain; of
 * many, it is what the market's updates from the cursor on have of them, and how many that are is
 * counted while they are looked through.
 */
#include "base/util.h"
#include "market/subscription_private.h"

static const struct history *history_of(const struct subscription *subscription)
{
    return &subscription->market->history;
}

/* ---- Slots ---- */

uint64_t slot_find(const struct slot *slot, uint64_t position)
{
    const struct history *history = history_of(slot->owner);
    uint64_t by_chain = slot_ticker(slot)->oldest, by_place = position + 1;

    /* Its updates are few, or the next one is near: one of the two is soon found. */
    for (;;) {
        if (by_chain > position)
            return by_chain;
        if (history_at(history, by_place)->ticker == slot->ticker)
            return by_place;
        by_chain = history_at(history, by_chain)->next;
        by_place++;
    }
}

/* Moves on to a later update of its ticker, or behind the last of them. */
static void slot_move(struct slot *slot, const struct history *history, uint64_t sequence)
{
    const struct ticker *ticker = slot_ticker(slot);

    if (sequence == 0) {
        slot->taken = ticker->updates;
        slot->taken_bytes = (uint32_t)ticker->updates_bytes;
        slot_caught_up(slot);
        return;
    }
    slot->next = sequence;
    slot->taken = history_at(history, sequence)->nth - 1;
    slot->taken_bytes = (uint32_t)history_at(history, sequence)->ticker_before;
}

static void slot_begin(struct slot *slot, const struct history *history, uint64_t position)
{
    bool waits = slot_ticker(slot)->sequence > position;

    slot_move(slot, history, waits ? slot_find(slot, position) : 0);
}

static struct slot *first_slot(struct subscription *subscription)
{
    struct slot *first = NULL;

    for (uint32_t i = 0; i < subscription->slot_count; i++) {
        struct slot *slot = &subscription->slots[i];

        if (slot->next != 0 && (!first || slot->next < first->next))
            first = slot;
    }
    return first;
}

/* ---- Many tickers ---- */

/* The first update at or after `from` that is of one of them, of those that were looked at. */
static uint64_t next_wanted(const struct subscription *subscription, uint64_t from)
{
    const struct history *history = history_of(subscription);

    while (from <= subscription->scan->scanned &&
           !is_wanted(subscription, history_at(history, from)->ticker))
        from++;
    return from;
}

void queue_look_at(struct subscription *subscription, uint64_t sequence)
{
    struct scan *scan = subscription->scan;

    if (scan->updates++ == 0)
        subscription->queue.cursor = sequence;
    scan->bytes += history_at(history_of(subscription), sequence)->size;
}

/*
 * Some of what waited has left the history: how much. What was forgotten just now still stands in
 * the ring of entries, so that only this is looked at, and not all that is left; otherwise a slow
 * subscriber would have the history counted anew at each of its updates.
 */
static uint64_t recount(struct subscription *subscription)
{
    const struct history *history = history_of(subscription);
    struct scan *scan = subscription->scan;
    uint64_t before = scan->updates;
    uint64_t cursor = subscription->queue.cursor;

    if (history->last - cursor <= history->mask) {
        for (; cursor < history->first && scan->updates > 0; cursor++) {
            const struct history_entry *entry = history_at(history, cursor);

            if (is_wanted(subscription, entry->ticker)) {
                scan->updates--;
                scan->bytes -= entry->size;
            }
        }
        subscription->queue.cursor = next_wanted(subscription, history->first);
        return before - scan->updates;
    }
    scan->updates = 0;
    scan->bytes = 0;
    for (uint64_t i = history->first; i <= scan->scanned; i++) {
        if (is_wanted(subscription, history_at(history, i)->ticker))
            queue_look_at(subscription, i);
    }
    return before - scan->updates;
}

/* ---- All of it ---- */

void queue_begin(struct subscription *subscription, uint64_t position)
{
    subscription->queue = (struct update_queue){.cursor = position + 1};
    for (uint32_t i = 0; i < subscription->slot_count; i++)
        slot_begin(&subscription->slots[i], history_of(subscription), position);
}

/* What waited and has left the history: how many. */
static uint64_t skip_forgotten(struct subscription *subscription)
{
    const struct history *history = history_of(subscription);
    struct update_queue *queue = &subscription->queue;
    uint64_t forgotten = 0;

    for (uint32_t i = 0; i < subscription->slot_count; i++) {
        struct slot *slot = &subscription->slots[i];
        uint64_t taken = slot->taken;

        if (slot->next == 0 || slot->next >= history->first)
            continue;
        slot_move(slot, history, slot_ticker(slot)->oldest);
        forgotten += slot->taken - taken;
    }
    if (subscription->slot_count > 0 || queue->cursor >= history->first)
        return forgotten;
    if (subscription->scan)
        return subscription->scan->updates > 0 ? recount(subscription) : 0;
    forgotten = history->first - queue->cursor;
    queue->cursor = history->first;
    return forgotten;
}

/* Drops one. */
static void drop(struct subscription *subscription)
{
    struct slot *slot = first_slot(subscription);

    queue_take(subscription, slot ? slot->next : subscription->queue.cursor);
}

static void drop_oldest(struct subscription *subscription)
{
    struct subscription_queue queue;
    uint64_t too_many, max = subscription_max_queue(subscription);

    queue_measure(subscription, &queue);
    /* Not while it catches up with what was there when it began. */
    if (queue.updates <= max || queue_next(subscription) <= subscription->start)
        return;
    too_many = queue.updates - max;
    subscription->dropped += too_many;
    if (wants_all(subscription))
        subscription->queue.cursor += too_many;
    else
        for (; too_many > 0; too_many--)
            drop(subscription);
}

void queue_settle(struct subscription *subscription)
{
    uint64_t forgotten = skip_forgotten(subscription);

    if (subscription->policy == SLOW_POLICY_DROP_OLDEST) {
        subscription->dropped += forgotten;
        drop_oldest(subscription);
    } else if (forgotten > 0) {
        subscription->stage = STAGE_LOST;
    }
}

uint64_t queue_next(struct subscription *subscription)
{
    const struct update_queue *queue = &subscription->queue;
    const struct slot *slot;

    if (subscription->slot_count > 0) {
        slot = first_slot(subscription);
        return slot ? slot->next : 0;
    }
    if (subscription->scan)
        return subscription->scan->updates > 0 ? queue->cursor : 0;
    return queue->cursor <= history_of(subscription)->last ? queue->cursor : 0;
}

void queue_take(struct subscription *subscription, uint64_t sequence)
{
    const struct history *history = history_of(subscription);
    const struct history_entry *entry = history_at(history, sequence);
    struct update_queue *queue = &subscription->queue;

    if (subscription->slot_count > 0) {
        struct slot *slot = first_slot(subscription);

        slot_move(slot, history, entry->next);
        return;
    }
    queue->cursor = sequence + 1;
    if (subscription->scan) {
        subscription->scan->updates--;
        subscription->scan->bytes -= entry->size;
        queue->cursor = next_wanted(subscription, queue->cursor);
    }
}

static void measure_slots(const struct subscription *subscription,
                          struct subscription_queue *ret_queue)
{
    for (uint32_t i = 0; i < subscription->slot_count; i++) {
        const struct slot *slot = &subscription->slots[i];
        const struct ticker *ticker = slot_ticker(slot);

        ret_queue->updates += ticker->updates - slot->taken;
        /* What waits is in the history, which is smaller than 4 GiB. */
        ret_queue->bytes += (uint32_t)ticker->updates_bytes - slot->taken_bytes;
    }
}

void queue_measure(const struct subscription *subscription, struct subscription_queue *ret_queue)
{
    const struct history *history = history_of(subscription);
    const struct update_queue *queue = &subscription->queue;

    *ret_queue = (struct subscription_queue){0};
    if (subscription->slot_count > 0) {
        measure_slots(subscription, ret_queue);
    } else if (subscription->scan) {
        ret_queue->updates = subscription->scan->updates;
        ret_queue->bytes = subscription->scan->bytes;
    } else if (queue->cursor <= history->last) {
        ret_queue->updates = history->last - queue->cursor + 1;
        ret_queue->bytes = history->total - history_at(history, queue->cursor)->before;
    }
}
