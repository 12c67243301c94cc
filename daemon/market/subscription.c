/*
 * The life of a subscription: what it begins with (a gap, a snapshot), and how it falls asleep and
 * is woken. What waits, and in which order it goes, is in queue.c and rounds.c; who looks through
 * everything, in scan.c; who is too slow, in limits.c.
 */
#include "market/subscription.h"

#include "base/util.h"
#include "market/subscription_private.h"

#include <errno.h>
#include <string.h>

/* Heartbeats may be a tenth late, at most this much, and so many go together. */
#define HEARTBEAT_SLACK_MAX_MS 250

static const struct history *history_of(const struct subscription *subscription)
{
    return &subscription->market->history;
}

/* ---- Sleeping ---- */

static void move_to(struct subscription *subscription, struct subscriptions *list)
{
    LIST_REMOVE(subscription, link);
    LIST_INSERT_HEAD(list, subscription, link);
}

void subscription_end(struct subscription *subscription)
{
    subscription->stage = STAGE_OVER;
    subscription->asleep = true;
    move_to(subscription, &subscription->market->asleep);
}

static void wake_up(struct subscription *subscription)
{
    subscription->asleep = false;
    move_to(subscription, &subscription->market->awake);
}

static void wake(struct subscription *subscription)
{
    wake_up(subscription);
    subscription->ready(subscription->context);
}

static void fall_asleep_for_all(struct subscription *subscription)
{
    struct market *market = subscription->market;
    const struct subscription **turn = &market->slept[market->slept_turn++ % WAKE_AHEAD];

    subscription->ahead = *turn;
    *turn = subscription;
    move_to(subscription, &market->asleep_for_all);
}

static void fall_asleep(struct subscription *subscription)
{
    struct market *market = subscription->market;

    subscription->asleep = true;
    if (!subscription->merging)
        subscription->queue.beyond_soft_ms = 0;
    if (subscription->slot_count > 0 || is_paused(subscription))
        move_to(subscription, &market->asleep);
    else if (wants_all(subscription))
        fall_asleep_for_all(subscription);
    else
        move_to(subscription, &market->asleep_for_many);
}

/* Something waits: wakes it, or, where that may not be sent yet, sets the timer that will. */
void subscription_on_update(struct subscription *subscription)
{
    struct rounds *rounds = &subscription->rounds;
    uint64_t now_ms;

    if (!subscription->asleep || subscription->stage == STAGE_OVER)
        return;
    if (!subscription->merging || subscription->min_interval_ms == 0) {
        wake(subscription);
        return;
    }
    now_ms = loop_now_ms(subscription->loop);
    if (rounds->earliest_ms <= now_ms) {
        wake(subscription);
        return;
    }
    if (!wheel_armed(&rounds->timer))
        loop_arm(subscription->loop, &rounds->timer, rounds->earliest_ms - now_ms, 1);
    move_to(subscription, &subscription->market->asleep);
}

void subscription_on_slot(struct slot *slot, uint64_t sequence)
{
    struct subscription *subscription = slot->owner;

    slot->next = sequence;
    if (subscription->merging)
        rounds_add(subscription, true);
    subscription_on_update(subscription);
}

static void on_round(struct wheel_timer *timer)
{
    struct subscription *subscription = container_of(timer, struct subscription, rounds.timer);

    if (subscription->asleep && subscription->stage != STAGE_OVER)
        wake(subscription);
}

static void arm_heartbeat(struct subscription *subscription, uint64_t delay_ms)
{
    uint64_t slack_ms = MIN(subscription->heartbeat_ms / 10, (uint64_t)HEARTBEAT_SLACK_MAX_MS);

    loop_arm(subscription->loop, &subscription->heartbeat, delay_ms, (unsigned)MAX(slack_ms, 1u));
}

/* The timer is not set again at each event, but when it finds that there has been one. */
static void on_heartbeat(struct wheel_timer *timer)
{
    struct subscription *subscription = container_of(timer, struct subscription, heartbeat);
    uint64_t silence_ms = loop_now_ms(subscription->loop) - subscription->sent_ms;

    if (silence_ms < subscription->heartbeat_ms) {
        arm_heartbeat(subscription, subscription->heartbeat_ms - silence_ms);
        return;
    }
    subscription->heartbeat_due = true;
    arm_heartbeat(subscription, subscription->heartbeat_ms);
    if (subscription->asleep && subscription->stage != STAGE_OVER)
        wake(subscription);
}

/* ---- Life ---- */

/* What becomes of a wish to resume; the position to begin at. */
static enum resume_outcome find_position(const struct market *market,
                                         const struct subscription_options *options,
                                         uint64_t *ret_position)
{
    const struct history *history = &market->history;
    uint64_t position = MAX(options->resume_sequence, (uint64_t)HISTORY_START);

    *ret_position = history->last;
    if (options->resume_epoch != market->options.epoch)
        return RESUME_EPOCH;
    if (position > history->last)
        return RESUME_AHEAD;
    if (position + 1 < history->first)
        return RESUME_HISTORY;
    *ret_position = position;
    return RESUME_COMPLETE;
}

static bool wants_slots(const struct subscription_options *options)
{
    return options->ticker_count > 0 && options->ticker_count <= SLOTS_MAX;
}

/* What follows a subscription's own part in its memory. */
struct layout {
    size_t slots, scan, wanted; /* where these begin */
    size_t size;
    uint32_t slot_count;
    uint32_t wanted_words;
    uint32_t waiting_words;
    bool merging, scanning;
};

static struct layout lay_out(const struct market *market,
                             const struct subscription_options *options)
{
    struct layout layout = {
        .merging = options->policy == SLOW_POLICY_CONFLATE || options->min_interval_ms > 0,
        .slot_count = wants_slots(options) ? options->ticker_count : 0,
    };

    layout.scanning = layout.slot_count == 0 && (layout.merging || options->ticker_count > 0);
    for (unsigned i = 0; layout.scanning && i < options->ticker_count; i++)
        layout.wanted_words = MAX(layout.wanted_words, options->tickers[i] / 64 + 1);
    if (layout.scanning && layout.merging)
        layout.waiting_words = options->ticker_count > 0 ? layout.wanted_words : market->words;
    layout.slots = layout.merging
                       ? offsetof(struct subscription, rounds) + sizeof(struct rounds)
                       : offsetof(struct subscription, queue) + sizeof(struct update_queue);
    layout.scan = layout.slots + layout.slot_count * sizeof(struct slot);
    layout.wanted = layout.scan + (layout.scanning ? sizeof(struct scan) : 0);
    layout.size = layout.wanted + layout.wanted_words * sizeof(uint64_t);
    return layout;
}

/* Makes it, with the memory that it needs. 0, SUBSCRIPTION_NO_ROOM or -ENOMEM. */
static int allocate(struct subscription **ret_subscription, struct market *market,
                    const struct subscription_options *options)
{
    struct layout layout = lay_out(market, options);
    size_t size = layout.size + layout.waiting_words * sizeof(uint64_t);
    _cleanup_free_ uint64_t *waiting = NULL;
    struct subscription *subscription;

    if (market->stats.subscriptions_size + size > market->options.subscriptions_size_max)
        return SUBSCRIPTION_NO_ROOM;
    if (layout.waiting_words > 0) {
        waiting = calloc(layout.waiting_words, sizeof(*waiting));
        if (!waiting)
            return -ENOMEM;
    }
    subscription = calloc(1, layout.size);
    if (!subscription)
        return -ENOMEM;
    subscription->size = (uint32_t)layout.size;
    subscription->merging = layout.merging;
    subscription->slot_count = layout.slot_count;
    subscription->slots = (void *)((char *)subscription + layout.slots);
    if (layout.scanning) {
        subscription->scan = (void *)((char *)subscription + layout.scan);
        subscription->scan->owner = subscription;
        subscription->scan->waiting = TAKE_PTR(waiting);
        subscription->scan->waiting_words = layout.waiting_words;
        subscription->scan->wanted_words = layout.wanted_words;
        if (layout.wanted_words > 0)
            subscription->scan->wanted = (void *)((char *)subscription + layout.wanted);
    }
    *ret_subscription = subscription;
    return 0;
}

static size_t size_of(const struct subscription *subscription)
{
    const struct scan *scan = subscription->scan;

    return subscription->size + (scan ? scan->waiting_words * sizeof(uint64_t) : 0);
}

static int compare_slots(const void *a, const void *b)
{
    const struct slot *one = a, *other = b;

    return (one->ticker > other->ticker) - (one->ticker < other->ticker);
}

/* Slots stand in the market's order, in which snapshots and rounds go. */
static void choose_tickers(struct subscription *subscription,
                           const struct subscription_options *options)
{
    for (unsigned i = 0; i < options->ticker_count; i++) {
        unsigned ticker = options->tickers[i];

        if (subscription->slot_count > 0)
            subscription->slots[i] = (struct slot){.owner = subscription, .ticker = ticker};
        else if (subscription->scan)
            subscription->scan->wanted[ticker / 64] |= UINT64_C(1) << (ticker % 64);
    }
    qsort(subscription->slots, subscription->slot_count, sizeof(*subscription->slots),
          compare_slots);
}

/* Begins behind `position`. */
static void begin(struct subscription *subscription, uint64_t position)
{
    struct market *market = subscription->market;

    subscription->start = market->history.last;
    subscription->sent_ms = loop_now_ms(subscription->loop);
    LIST_INSERT_HEAD(&market->awake, subscription, link);
    market->stats.subscriptions_size += size_of(subscription);
    market->stats.subscribers[subscription->policy]++;
    if (subscription->scan) {
        LIST_INSERT_HEAD(&market->scanning, subscription->scan, link);
        subscription->scan->scanned = position;
        market->scanned_min = MIN(market->scanned_min, position);
    }
    if (subscription->merging) {
        subscription->rounds.timer.fire = on_round;
        rounds_begin(subscription, position);
    } else {
        queue_begin(subscription, position);
    }
    subscription->heartbeat.fire = on_heartbeat;
    if (subscription->heartbeat_ms > 0)
        arm_heartbeat(subscription, subscription->heartbeat_ms);
}

static void set_options(struct subscription *subscription,
                        const struct subscription_options *options, enum resume_outcome outcome)
{
    subscription->ready = options->ready;
    subscription->cut_off = options->cut_off;
    subscription->unsent = options->unsent;
    subscription->context = options->context;
    subscription->policy = (uint8_t)options->policy;
    subscription->max_queue = options->max_queue;
    subscription->min_interval_ms = options->min_interval_ms;
    subscription->heartbeat_ms = (uint32_t)MIN(options->heartbeat_ms, (uint64_t)UINT32_MAX);
    subscription->stage = options->snapshot && !options->resume ? STAGE_SNAPSHOT : STAGE_LIVE;
    if (options->resume && outcome != RESUME_COMPLETE) {
        subscription->stage = STAGE_GAP;
        subscription->gap_from = MAX(options->resume_sequence, (uint64_t)HISTORY_START) + 1;
        subscription->gap_epoch = outcome == RESUME_EPOCH;
    }
    choose_tickers(subscription, options);
}

int subscription_new(struct subscription **ret_subscription, struct market *market,
                     struct loop *loop, const struct subscription_options *options)
{
    enum resume_outcome outcome = RESUME_COMPLETE;
    uint64_t position = market->history.last;
    struct subscription *subscription;
    int r;

    if (options->resume)
        outcome = find_position(market, options, &position);
    if (options->resume && outcome == RESUME_AHEAD) {
        market->stats.resumes_total[outcome]++;
        return SUBSCRIPTION_AHEAD;
    }
    r = allocate(&subscription, market, options);
    if (r != 0)
        return r;
    market->stats.resumes_total[outcome] += options->resume;
    subscription->market = market;
    subscription->loop = loop;
    set_options(subscription, options, outcome);
    begin(subscription, position);
    *ret_subscription = subscription;
    return 0;
}

/* Updates that newer ones have replaced, and that was not told yet. */
static uint64_t conflated(const struct subscription *subscription)
{
    return subscription->merging ? rounds_merged(subscription) - subscription->rounds.merged_told
                                 : 0;
}

/* What has been left out since the last event was taken is told with the next, and counted. */
static void tell(struct subscription *subscription)
{
    struct market_stats *stats = &subscription->market->stats;
    uint64_t merged = conflated(subscription);

    stats->dropped_total += subscription->dropped;
    subscription->dropped = 0;
    if (merged == 0)
        return;
    stats->conflated_total += merged;
    subscription->rounds.merged_told += merged;
}

struct subscription *subscription_free(struct subscription *subscription)
{
    struct market *market;

    if (!subscription)
        return NULL;
    market = subscription->market;
    tell(subscription);
    LIST_REMOVE(subscription, link);
    market->stats.subscriptions_size -= size_of(subscription);
    if (subscription->scan) {
        LIST_REMOVE(subscription->scan, link);
        free(subscription->scan->waiting);
    }
    for (uint32_t i = 0; i < subscription->slot_count; i++) {
        if (subscription->slots[i].next == 0)
            LIST_REMOVE(&subscription->slots[i], link);
    }
    loop_disarm(subscription->loop, &subscription->heartbeat);
    if (subscription->merging)
        loop_disarm(subscription->loop, &subscription->rounds.timer);
    market->stats.subscribers[subscription->policy]--;
    free(subscription);
    return NULL;
}

/* ---- Events ---- */

static void peek_gap(const struct subscription *subscription, struct subscription_event *event)
{
    bool same = !subscription->gap_epoch;

    event->kind = SUBSCRIPTION_GAP;
    event->snapshot = true; /* or whoever is cut off in the snapshot would resume behind it */
    event->sequence = subscription->start;
    event->gap_reason = same ? RESUME_HISTORY : RESUME_EPOCH;
    event->gap_from = subscription->gap_from;
    event->gap_to = same ? subscription->start : 0;
    event->gap_updates = same ? subscription->start - event->gap_from + 1 : 0;
}

static void peek_ticker(struct subscription *subscription, uint32_t index,
                        struct subscription_event *event)
{
    const struct ticker *ticker = subscription->slot_count > 0
                                      ? slot_ticker(&subscription->slots[index])
                                      : &subscription->market->tickers[index];

    event->sequence = ticker->sequence;
    event->bytes = ticker->bytes;
    event->size = ticker->size;
    event->published_ms = ticker->published_ms;
    subscription->peeked = index;
    subscription->peeked_update = true;
}

/*
 * The next ticker's last value, as it was when the stream began. Whatever has had an update since
 * then is left out: that update comes by itself.
 */
static bool peek_snapshot(struct subscription *subscription, struct subscription_event *event)
{
    const struct market *market = subscription->market;
    bool slots = subscription->slot_count > 0;
    uint32_t count = slots ? subscription->slot_count : market->ticker_count;

    for (; subscription->snapshot_turn < count; subscription->snapshot_turn++) {
        uint32_t index = subscription->snapshot_turn;
        const struct ticker *ticker =
            slots ? slot_ticker(&subscription->slots[index]) : &market->tickers[index];

        if (ticker->sequence == 0 || ticker->sequence > subscription->start ||
            (!slots && !is_wanted(subscription, index)))
            continue;
        peek_ticker(subscription, index, event);
        event->snapshot = true;
        event->published_ms = 0;
        return true;
    }
    return false;
}

static void peek_heartbeat(struct subscription_event *event, uint64_t sequence)
{
    event->kind = SUBSCRIPTION_HEARTBEAT;
    event->sequence = sequence;
}

static bool peek_round(struct subscription *subscription, struct subscription_event *event)
{
    struct rounds *rounds = &subscription->rounds;
    uint64_t resume;
    uint32_t index;

    if (rounds_next(subscription, &index)) {
        peek_ticker(subscription, index, event);
        resume = rounds_resume(subscription, index);
        event->resume_sequence = resume != event->sequence ? resume : 0;
        return true;
    }
    if (rounds->count == 0)
        rounds->done = history_of(subscription)->last;
    if (subscription->heartbeat_due)
        peek_heartbeat(event, rounds->done);
    return subscription->heartbeat_due;
}

static bool peek_queue(struct subscription *subscription, struct subscription_event *event)
{
    const struct history *history = history_of(subscription);
    const struct history_entry *entry;
    uint64_t next;

    queue_settle(subscription);
    if (subscription->stage == STAGE_LOST)
        return false;
    next = queue_next(subscription);
    if (next == 0) {
        if (subscription->heartbeat_due)
            peek_heartbeat(event, history->last);
        return subscription->heartbeat_due;
    }
    entry = history_at(history, next);
    event->sequence = next;
    event->bytes = history->bytes + entry->place;
    event->size = entry->size;
    event->published_ms = entry->published_ms;
    subscription->peeked = next;
    subscription->peeked_update = true;
    return true;
}

static bool peek(struct subscription *subscription, struct subscription_event *event)
{
    switch ((enum stage)subscription->stage) {
    case STAGE_GAP:
        peek_gap(subscription, event);
        return true;
    case STAGE_SNAPSHOT:
        if (peek_snapshot(subscription, event))
            return true;
        subscription->stage = STAGE_SNAPSHOT_END;
        __attribute__((fallthrough));
    case STAGE_SNAPSHOT_END:
        peek_heartbeat(event, subscription->start);
        return true;
    case STAGE_LIVE:
        return subscription->merging ? peek_round(subscription, event)
                                     : peek_queue(subscription, event);
    default:
        return false;
    }
}

bool subscription_peek(struct subscription *subscription, struct subscription_event *ret_event)
{
    *ret_event = (struct subscription_event){.kind = SUBSCRIPTION_UPDATE};
    subscription->peeked_update = false;
    if (subscription->scan)
        subscription_catch_up(subscription);
    if (peek(subscription, ret_event)) {
        ret_event->conflated = conflated(subscription);
        ret_event->dropped = subscription->dropped;
        if (subscription->asleep) /* it was to be woken in a while */
            wake_up(subscription);
        return true;
    }
    /* Whose place is lost stays awake, to be cut off. */
    if (subscription->stage == STAGE_LIVE && !subscription->asleep)
        fall_asleep(subscription);
    return false;
}

static void take_update(struct subscription *subscription)
{
    const struct market *market = subscription->market;
    uint64_t published_ms, sequence = subscription->peeked;

    if (subscription->merging) {
        uint32_t index = (uint32_t)subscription->peeked;
        uint32_t ticker = subscription->slot_count > 0 ? subscription->slots[index].ticker : index;

        sequence = market->tickers[ticker].sequence;
        published_ms = market->tickers[ticker].published_ms;
        rounds_take(subscription, index);
    } else {
        published_ms = history_at(&market->history, sequence)->published_ms;
        queue_take(subscription, sequence);
    }
    /* What was there when it began did not wait for it: it was away. */
    if (sequence > subscription->start)
        market_observe_age(subscription->market,
                           subscription->sent_ms - MIN(published_ms, subscription->sent_ms));
}

void subscription_take(struct subscription *subscription)
{
    struct market_stats *stats = &subscription->market->stats;

    tell(subscription);
    subscription->sent_ms = loop_now_ms(subscription->loop);
    subscription->heartbeat_due = false;
    switch ((enum stage)subscription->stage) {
    case STAGE_GAP:
        stats->gaps_total++;
        subscription->stage = STAGE_SNAPSHOT;
        break;
    case STAGE_SNAPSHOT:
        subscription->snapshot_turn++;
        break;
    case STAGE_SNAPSHOT_END:
        stats->heartbeats_total++;
        subscription->stage = STAGE_LIVE;
        break;
    default:
        if (subscription->peeked_update)
            take_update(subscription);
        else
            stats->heartbeats_total++;
        break;
    }
}
