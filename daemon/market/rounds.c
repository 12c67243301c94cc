/*
 * The newest update of each ticker waits, and tickers take turns. Which ones wait is known, and
 * nothing else: of few tickers by their slots, of many by a bit for each. What an update is, is
 * read when its turn has come.
 */
#include "base/util.h"
#include "market/subscription_private.h"

static struct rounds *rounds_of(struct subscription *subscription)
{
    return &subscription->rounds;
}

void rounds_begin(struct subscription *subscription, uint64_t position)
{
    const struct history *history = &subscription->market->history;

    subscription->rounds.done = position;
    for (uint32_t i = 0; i < subscription->slot_count; i++) {
        struct slot *slot = &subscription->slots[i];
        const struct ticker *ticker = slot_ticker(slot);

        slot->taken = ticker->updates;
        if (ticker->sequence <= position) {
            slot_caught_up(slot);
            continue;
        }
        /* It resumes: what was made since has been replaced but for the last. */
        slot->next = slot_find(slot, position);
        slot->taken = history_at(history, slot->next)->nth - 1;
        rounds_add(subscription, false);
    }
}

/* The first of many that waits, at or after `from`; of those before none does where `from` is 0. */
static bool find_bit(struct scan *scan, uint32_t from, uint32_t *ret_index)
{
    uint32_t word = MAX(from / 64, scan->waiting_low);
    uint64_t mask = word == from / 64 ? UINT64_MAX << (from % 64) : UINT64_MAX;

    for (; word < scan->waiting_words; word++, mask = UINT64_MAX) {
        uint64_t bits = scan->waiting[word] & mask;

        if (bits == 0)
            continue;
        if (from == 0)
            scan->waiting_low = word;
        *ret_index = word * 64 + (uint32_t)__builtin_ctzll(bits);
        return true;
    }
    return false;
}

/* The first that waits, at or after `from`. False: there is none. */
static bool find_waiting(const struct subscription *subscription, uint32_t from,
                         uint32_t *ret_index)
{
    if (subscription->rounds.count == 0)
        return false;
    if (subscription->scan)
        return find_bit(subscription->scan, from, ret_index);
    for (uint32_t i = from; i < subscription->slot_count; i++) {
        if (subscription->slots[i].next != 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

/* It does not wait any more: it was given, or dropped. */
static void remove_waiting(struct subscription *subscription, uint32_t index)
{
    struct rounds *rounds = rounds_of(subscription);

    rounds->count--;
    if (subscription->slot_count > 0) {
        struct slot *slot = &subscription->slots[index];
        const struct ticker *ticker = slot_ticker(slot);

        rounds->merged += ticker->updates - slot->taken - 1;
        slot->taken = ticker->updates;
        slot_caught_up(slot);
    } else {
        subscription->scan->waiting[index / 64] &= ~(UINT64_C(1) << (index % 64));
    }
}

static void end_round(struct subscription *subscription)
{
    struct rounds *rounds = rounds_of(subscription);

    rounds->running = false;
    rounds->turn = 0;
    rounds->done = rounds->begun_at;
    rounds->earliest_ms = loop_now_ms(subscription->loop) + subscription->min_interval_ms;
}

bool rounds_next(struct subscription *subscription, uint32_t *ret_index)
{
    struct rounds *rounds = rounds_of(subscription);

    if (rounds->running) {
        if (find_waiting(subscription, rounds->turn, ret_index))
            return true;
        end_round(subscription);
    }
    if (rounds->count == 0)
        return false;
    if (rounds->earliest_ms > loop_now_ms(subscription->loop)) {
        if (!wheel_armed(&rounds->timer))
            loop_arm(subscription->loop, &rounds->timer,
                     rounds->earliest_ms - loop_now_ms(subscription->loop), 1);
        return false;
    }
    rounds->running = true;
    rounds->begun_at = subscription->market->history.last;
    return find_waiting(subscription, 0, ret_index);
}

uint64_t rounds_resume(const struct subscription *subscription, uint32_t index)
{
    uint32_t other;

    return subscription->rounds.count > 1 && find_waiting(subscription, index + 1, &other)
               ? subscription->rounds.done
               : subscription->rounds.begun_at;
}

void rounds_take(struct subscription *subscription, uint32_t index)
{
    struct rounds *rounds = rounds_of(subscription);
    uint32_t other;

    remove_waiting(subscription, index);
    rounds->turn = index + 1;
    if (!find_waiting(subscription, rounds->turn, &other))
        end_round(subscription);
}

/* One more waits. With DROP_OLDEST, when these are too many, the one whose turn is next goes. */
void rounds_add(struct subscription *subscription, bool may_drop)
{
    struct rounds *rounds = rounds_of(subscription);
    uint32_t index;

    rounds->count++;
    if (!may_drop || subscription->policy != SLOW_POLICY_DROP_OLDEST ||
        rounds->count <= subscription_max_queue(subscription))
        return;
    if (!find_waiting(subscription, rounds->turn, &index) && !find_waiting(subscription, 0, &index))
        return;
    remove_waiting(subscription, index);
    subscription->dropped++;
}

void rounds_look_at(struct subscription *subscription, uint64_t sequence)
{
    struct rounds *rounds = rounds_of(subscription);
    struct scan *scan = subscription->scan;
    uint32_t ticker = history_at(&subscription->market->history, sequence)->ticker;
    uint64_t bit = UINT64_C(1) << (ticker % 64);

    if (scan->waiting[ticker / 64] & bit) {
        rounds->merged++;
        return;
    }
    scan->waiting[ticker / 64] |= bit;
    scan->waiting_low = MIN(scan->waiting_low, ticker / 64);
    rounds_add(subscription, sequence > subscription->start);
}

uint64_t rounds_merged(const struct subscription *subscription)
{
    uint64_t merged = subscription->rounds.merged;

    for (uint32_t i = 0; i < subscription->slot_count; i++) {
        const struct slot *slot = &subscription->slots[i];

        if (slot->next != 0)
            merged += slot_ticker(slot)->updates - slot->taken - 1;
    }
    return merged;
}

void rounds_measure(const struct subscription *subscription, struct subscription_queue *ret_queue)
{
    uint32_t index = 0;

    ret_queue->updates = subscription->rounds.count;
    while (find_waiting(subscription, index, &index)) {
        uint32_t ticker = subscription->slot_count > 0 ? subscription->slots[index].ticker : index;

        ret_queue->bytes += subscription->market->tickers[ticker].size;
        index++;
    }
}
