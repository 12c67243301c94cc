/*
 * What a subscription is, for the files that it is made of: subscription.c (its life and its
 * stages), queue.c (each update, in order), rounds.c (the newest of each ticker, in turns), scan.c
 * (those of many tickers) and limits.c (who is too slow).
 */
#pragma once

#include "market/market_private.h"
#include "market/subscription.h"

/* Who subscribes to so many tickers has a slot for each; for more, all are looked through. */
#define SLOTS_MAX 32

/* One of few tickers. */
struct slot {
    LIST_ENTRY(slot) link; /* in the ticker's list, while `next` is 0 */
    struct subscription *owner;
    uint64_t next;        /* sequence of the oldest update that waits; 0: none does */
    uint64_t taken;       /* updates of the ticker that are done with: given, dropped, merged */
    uint32_t taken_bytes; /* of these, modulo 2^32; of a queue only */
    uint32_t ticker;
};

/* What is sent, in this order. */
enum stage {
    STAGE_GAP,
    STAGE_SNAPSHOT,
    STAGE_SNAPSHOT_END,
    STAGE_LIVE,
    STAGE_LOST, /* its next update is not in the history any more */
    STAGE_OVER, /* cut off */
};

/* Of those who look through all updates for the ones of many tickers. */
struct scan {
    LIST_ENTRY(scan) link; /* in the market's list */
    struct subscription *owner;
    uint64_t scanned;  /* all up to here were looked at */
    uint64_t updates;  /* of a queue: how many of these wait, */
    uint64_t bytes;    /* and their bytes */
    uint64_t *wanted;  /* a bit for each ticker; NULL: all are wanted */
    uint64_t *waiting; /* of rounds: a bit for each ticker that waits; its own memory */
    uint32_t wanted_words;
    uint32_t waiting_words;
    uint32_t waiting_low; /* no word before this has a bit */
};

/* Each update waits. */
struct update_queue {
    uint64_t cursor;         /* without slots: the next update */
    uint64_t beyond_soft_ms; /* since when; 0: it is not */
};

/* The newest update of each ticker waits. */
struct rounds {
    struct wheel_timer timer;
    uint64_t begun_at;    /* the newest update when the round began */
    uint64_t done;        /* all up to here have been given */
    uint64_t merged;      /* updates of tickers that do not wait any more; without slots of all */
    uint64_t merged_told; /* of these and those of tickers that wait */
    uint64_t earliest_ms; /* when the next round may begin */
    uint32_t count;       /* tickers that wait */
    uint32_t turn;        /* the next that may have its turn; 0 between rounds */
    bool running;         /* a round has begun and not ended */
};

/*
 * There may be a hundred thousand, so that each has only what it needs: its block of memory ends
 * behind `queue` or `rounds`, slots, a scan and its bits.
 */
struct subscription {
    struct loop *loop;
    void (*cut_off)(void *context, enum cut_off_reason reason, const char *text);
    uint64_t (*unsent)(void *context);
    struct wheel_timer heartbeat;
    uint32_t heartbeat_ms;
    uint32_t size; /* of memory, without scan.waiting */
    uint32_t snapshot_turn;
    uint32_t min_interval_ms;

    /* What each update of each subscription touches lies close together, from here on. */
    LIST_ENTRY(subscription) link; /* in one of the market's lists */
    struct market *market;
    void (*ready)(void *context);
    void *context;
    struct scan *scan;   /* behind this; NULL: it has slots, or a queue of all tickers */
    struct slot *slots;  /* behind this */
    uint32_t slot_count; /* 0: many tickers, or all */
    uint32_t max_queue;
    uint8_t policy;
    uint8_t stage;
    bool asleep;
    bool merging;
    bool gap_epoch; /* the gap is one of epochs */
    bool heartbeat_due;
    bool peeked_update; /* the event that was returned last is one; else nothing is taken */
    const struct subscription *ahead; /* of those asleep for all, one some places behind this; it
                                       * may be gone, and is only to be prefetched */
    uint64_t sent_ms;                 /* when an event was taken last */
    uint64_t start;                   /* the newest update when it began */
    uint64_t dropped;                 /* and not told yet */
    union {
        uint64_t gap_from; /* in STAGE_GAP */
        uint64_t peeked;   /* of the update that was returned last the sequence, or the slot or
                            * ticker of a round or a snapshot */
    };
    union {
        struct update_queue queue;
        struct rounds rounds;
    };
};

static inline struct ticker *slot_ticker(const struct slot *slot)
{
    return &slot->owner->market->tickers[slot->ticker];
}

static inline bool is_wanted(const struct subscription *subscription, uint32_t ticker)
{
    const struct scan *scan = subscription->scan;

    return !scan || !scan->wanted ||
           (ticker / 64 < scan->wanted_words && (scan->wanted[ticker / 64] >> (ticker % 64) & 1));
}

/* Does it get every update that there is? */
static inline bool wants_all(const struct subscription *subscription)
{
    return subscription->slot_count == 0 && !(subscription->scan && subscription->scan->wanted);
}

/* Does it wait for the time of its next round? */
static inline bool is_paused(const struct subscription *subscription)
{
    return subscription->merging && wheel_armed(&subscription->rounds.timer);
}

/* The slot has had its ticker's last update. */
static inline void slot_caught_up(struct slot *slot)
{
    slot->next = 0;
    LIST_INSERT_HEAD(&slot_ticker(slot)->caught_up, slot, link);
}

/* ---- queue.c ---- */

/* The first update of the slot's ticker behind `position`, which is in the history, or just before
 * it. There must be one. */
uint64_t slot_find(const struct slot *slot, uint64_t position);

/* Begins with the update after `position`, which is in the history, or its newest. */
void queue_begin(struct subscription *subscription, uint64_t position);

/* After subscription_catch_up(): drops what the policy says; STAGE_LOST if what comes next is not
 * in the history any more. */
void queue_settle(struct subscription *subscription);

/* The next update, after queue_settle(); 0 if there is none. */
uint64_t queue_next(struct subscription *subscription);

/* It was taken. */
void queue_take(struct subscription *subscription, uint64_t sequence);

/* Looks at one update more, of one of many tickers. */
void queue_look_at(struct subscription *subscription, uint64_t sequence);

void queue_measure(const struct subscription *subscription, struct subscription_queue *ret_queue);

/* ---- rounds.c ---- */

void rounds_begin(struct subscription *subscription, uint64_t position);

/* The ticker whose turn it is now: an index, of slots if there are some. False: none, now. */
bool rounds_next(struct subscription *subscription, uint32_t *ret_index);

/* Where to resume when that has been taken. */
uint64_t rounds_resume(const struct subscription *subscription, uint32_t index);

void rounds_take(struct subscription *subscription, uint32_t index);

/* A ticker has an update, and had none waiting. With `may_drop` another one may have to go. */
void rounds_add(struct subscription *subscription, bool may_drop);

void rounds_look_at(struct subscription *subscription, uint64_t sequence);

/* Updates that newer ones have replaced, since it began. */
uint64_t rounds_merged(const struct subscription *subscription);

void rounds_measure(const struct subscription *subscription, struct subscription_queue *ret_queue);

/* ---- limits.c ---- */

/* The most updates that may wait for it: what it wants, and no more than the market allows. */
uint32_t subscription_max_queue(const struct subscription *subscription);

/* ---- subscription.c ---- */

/* It gets nothing more, and waits to be freed. */
void subscription_end(struct subscription *subscription);
