/*
 * What the market and its subscriptions share. Private to market/.
 */
#pragma once

#include "base/names.h"
#include "market/history.h"
#include "market/market.h"

#include <sys/queue.h>

struct subscription;
struct slot;
struct scan;
LIST_HEAD(slots, slot);
LIST_HEAD(subscriptions, subscription);
LIST_HEAD(scans, scan);

struct ticker {
    char name[MARKET_TICKER_SIZE_MAX + 1];
    uint32_t size; /* of bytes[] */
    double open;   /* its first price */
    double price;  /* its last; 0: none yet */
    uint64_t updates;
    uint64_t updates_bytes; /* of all its updates, ever */
    uint64_t sequence;      /* of its last update; 0: none yet */
    uint64_t published_ms;  /* when that was */
    uint64_t oldest;        /* of its oldest in the history; 0: there is none */
    struct slots caught_up; /* slots of subscriptions that have had its last update */
    uint8_t bytes[MARKET_EVENT_SIZE_MAX];
};

/* How far ahead in the list of those that an update wakes memory is fetched. */
#define WAKE_AHEAD 8

struct market {
    struct market_options options;
    struct history history;
    struct ticker *tickers; /* tickers_max of them */
    unsigned ticker_count;
    uint32_t words;     /* of 64 bits: for a bit for each ticker, and some that are added later */
    struct names names; /* to indices */

    /* Each subscription is in one of these: those that would like to be asked for an event or have
     * one, and those that have nothing. Of the second, who looks at all tickers is woken by any
     * update, and who looks at many by those that it wants; the others wait with their slots. */
    struct subscriptions awake;
    struct subscriptions asleep;
    struct subscriptions asleep_for_all;
    struct subscriptions asleep_for_many;
    /* Of those for all: the last update is to wake them, in a while. */
    struct subscriptions waking;
    const struct subscription *slept[WAKE_AHEAD]; /* the last that fell asleep for all, in turn; */
    unsigned slept_turn;                          /* some may be gone */

    /* Those who look at many tickers have seen all updates up to here, or more. */
    struct scans scanning;
    uint64_t scanned_min;

    struct market_stats stats;
    uint64_t ages_now_ms; /* of takes that have not been observed yet: when, */
    uint64_t ages_ms;     /* how old the updates were, */
    uint64_t ages_count;  /* and how many */
};

static inline uint64_t market_now_ms(const struct market *market)
{
    struct market_time now;

    market->options.clock(market->options.context, &now);
    return now.now_ms;
}

/* ---- market.c ---- */

/* An update was given when it had waited for `age_ms`. */
void market_observe_age(struct market *market, uint64_t age_ms);

/* ---- subscription.c ---- */

/* There is a new update for one that was asleep. */
void subscription_on_update(struct subscription *subscription);

/* The same for the owner of a slot, which was taken off the list of those that are caught up. */
void subscription_on_slot(struct slot *slot, uint64_t sequence);

/* Looks at all updates that it has not looked at, before some of them are forgotten. */
void subscription_catch_up(struct subscription *subscription);

/* Has room for the bits of `words` from now on, if it is one of all tickers. 0 or -ENOMEM. */
int subscription_grow(struct subscription *subscription, uint32_t words);

/* Is it behind? Cuts it off if that is more than it may be; it may be freed then. */
bool subscription_sweep(struct subscription *subscription, uint64_t now_ms);
