/*
 * Publishing and forgetting. Whoever sleeps is woken, and nobody else is looked at, but for those
 * who look at many tickers: they are caught up before the history forgets what they have not seen,
 * which is once for each time that the history fills, at most.
 */
#include "market/market.h"

#include "base/config.h"
#include "base/util.h"
#include "market/market_private.h"
#include "market/subscription_private.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

const char *const slow_policy_labels[SLOW_POLICY_COUNT] = {
#define X(identifier, label) label,
    SLOW_POLICIES(X)
#undef X
};

const char *const cut_off_reason_labels[CUT_OFF_REASON_COUNT] = {
#define X(identifier, label) label,
    CUT_OFF_REASONS(X)
#undef X
};

const char *const resume_outcome_labels[RESUME_OUTCOME_COUNT] = {
#define X(identifier, label) label,
    RESUME_OUTCOMES(X)
#undef X
};

/* Seconds; what is fast takes none, and who is cut off by default has waited for a minute. */
static const double queue_age_bounds[] = {
    0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60,
};

/* Of what is to be woken, this much from its start is fetched early. */
#define CONTEXT_PREFETCHED 128

/* Moves all that is in the list `from` to `to`, which is empty. */
#define TAKE_LIST(to, from, link)                                                                  \
    do {                                                                                           \
        LIST_FIRST(to) = LIST_FIRST(from);                                                         \
        if (LIST_FIRST(to))                                                                        \
            LIST_FIRST(to)->link.le_prev = &LIST_FIRST(to);                                        \
        LIST_INIT(from);                                                                           \
    } while (0)

int market_new(struct market **ret_market, const struct market_options *options)
{
    struct market *market = calloc(1, sizeof(*market));
    int r;

    if (!market)
        return -ENOMEM;
    market->options = *options;
    market->words = 1;
    histogram_init(&market->stats.queue_age, queue_age_bounds, ELEMENTSOF(queue_age_bounds));
    r = history_init(&market->history, options->history_bytes_max);
    market->tickers = calloc(options->tickers_max, sizeof(*market->tickers));
    if (r < 0 || !market->tickers) {
        (void)market_free(market);
        return -ENOMEM;
    }
    *ret_market = market;
    return 0;
}

struct market *market_free(struct market *market)
{
    if (!market)
        return NULL;
    history_deinit(&market->history);
    names_deinit(&market->names);
    free(market->tickers);
    free(market);
    return NULL;
}

/* Lets those who look at many tickers look at all there is. */
static void catch_up(struct market *market)
{
    const struct scan *scan;

    LIST_FOREACH (scan, &market->scanning, link)
        subscription_catch_up(scan->owner);
    market->scanned_min = market->history.last;
}

void market_set_limits(struct market *market, const struct market_limits *limits)
{
    /* What has come until now has come under those before. */
    catch_up(market);
    market->options.limits = *limits;
}

/* ---- Tickers ---- */

static bool is_good_name(const char *name)
{
    size_t size = strnlen(name, MARKET_TICKER_SIZE_MAX + 1);

    return size <= MARKET_TICKER_SIZE_MAX && config_is_name(name, size);
}

bool market_find_ticker(const struct market *market, const char *name, size_t size,
                        unsigned *ret_ticker)
{
    uint32_t index;

    if (!names_find(&market->names, name, size, &index))
        return false;
    *ret_ticker = index;
    return true;
}

/* Makes room for one ticker more wherever there is a bit for each. */
static int grow(struct market *market)
{
    uint32_t words = market->words;
    const struct scan *scan;
    int r;

    if (market->ticker_count < words * 64)
        return 0;
    words *= 2;
    LIST_FOREACH (scan, &market->scanning, link) {
        r = subscription_grow(scan->owner, words);
        if (r < 0)
            return r;
    }
    market->words = words;
    return 0;
}

int market_add_ticker(struct market *market, const char *name, unsigned *ret_ticker)
{
    struct ticker *ticker;
    int r;

    if (!is_good_name(name))
        return MARKET_BAD_TICKER;
    if (market_find_ticker(market, name, strlen(name), ret_ticker))
        return 0;
    if (market->ticker_count == market->options.tickers_max)
        return MARKET_FULL;
    r = grow(market);
    if (r < 0)
        return r;
    ticker = &market->tickers[market->ticker_count];
    (void)strcpy(ticker->name, name);
    r = names_add(&market->names, ticker->name, market->ticker_count);
    if (r < 0)
        return r;
    *ret_ticker = market->ticker_count++;
    return 0;
}

unsigned market_tickers(const struct market *market)
{
    return market->ticker_count;
}

const char *market_ticker_name(const struct market *market, unsigned ticker)
{
    return market->tickers[ticker].name;
}

void market_ticker_state(const struct market *market, unsigned ticker,
                         struct market_ticker_state *ret_state)
{
    const struct ticker *of = &market->tickers[ticker];

    *ret_state = (struct market_ticker_state){
        .updates = of->updates,
        .sequence = of->sequence,
        .bytes = of->bytes,
        .size = of->size,
        .price = of->price,
    };
}

/* ---- The history ---- */

static void forget_oldest(struct market *market)
{
    struct history *history = &market->history;
    const struct history_entry *entry = history_at(history, history->first);

    if (history->first > market->scanned_min)
        catch_up(market);
    market->tickers[entry->ticker].oldest = entry->next;
    market->stats.history_bytes -= entry->size;
    market->stats.history_updates--;
    history_forget(history);
}

static void forget_old(struct market *market, uint64_t now_ms)
{
    const struct history *history = &market->history;
    uint64_t age_ms = market->options.history_age_ms;

    while (age_ms > 0 && !history_is_empty(history) &&
           now_ms - history_at(history, history->first)->published_ms > age_ms)
        forget_oldest(market);
}

static void remember(struct market *market, struct ticker *ticker, uint64_t now_ms)
{
    struct history *history = &market->history;
    struct history_entry *entry;

    while (!history_has_room(history, ticker->size))
        forget_oldest(market);
    entry = history_add(history, ticker->bytes, ticker->size);
    entry->ticker_before = ticker->updates_bytes;
    entry->nth = ++ticker->updates;
    entry->published_ms = now_ms;
    entry->ticker = (uint32_t)(ticker - market->tickers);
    if (history_has(history, ticker->sequence))
        history_at(history, ticker->sequence)->next = history->last;
    if (ticker->oldest == 0)
        ticker->oldest = history->last;
    ticker->sequence = history->last;
    ticker->published_ms = now_ms;
    ticker->updates_bytes += ticker->size;
    market->stats.history_bytes += ticker->size;
    market->stats.history_updates++;
}

/* ---- Publishing ---- */

static void encode(struct market *market, struct ticker *ticker, const struct market_quote *quote,
                   const struct market_time *now)
{
    double before = ticker->price > 0 ? ticker->price : quote->price;
    double change = quote->price - before;
    const struct market_update update = {
        .epoch = market->options.epoch,
        .sequence = market->history.last + 1,
        .ticker = ticker->name,
        .values =
            {
                .price = quote->price,
                .change = change,
                .change_percent = change / before * 100,
                .open = ticker->open > 0 ? ticker->open : quote->price,
                .high = quote->high > 0 ? quote->high : quote->price,
                .low = quote->low > 0 ? quote->low : quote->price,
                .volume = quote->volume,
                .market_cap = quote->market_cap,
            },
        .second = quote->timed ? quote->second : (int64_t)(now->unix_ns / 1000000000),
        .unix_ns = now->unix_ns,
    };

    ticker->open = update.values.open;
    ticker->price = quote->price;
    ticker->size =
        (uint32_t)market->options.encode(market->options.context, ticker->bytes, &update);
}

/*
 * There may be a hundred thousand, in no cache, and to come to the memory of one through the link
 * of the one before would be a wait for each. So each knows one that is some places further on, and
 * has that fetched (a jump pointer), and what is near has its context fetched.
 */
static void prefetch_ahead(const struct subscription *subscription)
{
    const struct subscription *near = subscription;

    if (subscription->ahead)
        util_prefetch((const char *)subscription->ahead + offsetof(struct subscription, link),
                      offsetof(struct subscription, queue) - offsetof(struct subscription, link));
    for (unsigned i = 0; near && i < WAKE_AHEAD / 2; i++)
        near = LIST_NEXT(near, link);
    if (near)
        util_prefetch(near->context, CONTEXT_PREFETCHED);
}

/* A callback may free its own subscription and others, and whoever is woken may fall asleep again
 * before this ends, when there is nothing for it. */
static void wake_some(struct market *market, unsigned most)
{
    struct subscription *subscription;

    for (; most > 0 && (subscription = LIST_FIRST(&market->waking)); most--) {
        prefetch_ahead(subscription);
        subscription_on_update(subscription);
    }
}

static void wake_all(struct market *market)
{
    wake_some(market, UINT_MAX);
}

void market_wake(struct market *market)
{
    unsigned most = market->options.wake_max;

    wake_some(market, most > 0 ? most : UINT_MAX);
    if (!LIST_EMPTY(&market->waking))
        market->options.wake_later(market->options.context);
}

/* Those who are to be woken are set aside first. */
static void wake(struct market *market, struct ticker *ticker)
{
    uint32_t index = (uint32_t)(ticker - market->tickers);
    struct slots slots = LIST_HEAD_INITIALIZER(slots);
    struct subscriptions wakers = LIST_HEAD_INITIALIZER(wakers);
    struct subscription *subscription, *next;
    struct slot *slot;

    TAKE_LIST(&slots, &ticker->caught_up, link);
    TAKE_LIST(&market->waking, &market->asleep_for_all, link);
    for (subscription = LIST_FIRST(&market->asleep_for_many); subscription; subscription = next) {
        next = LIST_NEXT(subscription, link);
        if (!is_wanted(subscription, index))
            continue;
        subscription->scan->scanned = ticker->sequence - 1;
        LIST_REMOVE(subscription, link);
        LIST_INSERT_HEAD(&wakers, subscription, link);
    }
    while ((slot = LIST_FIRST(&slots))) {
        LIST_REMOVE(slot, link);
        subscription_on_slot(slot, ticker->sequence);
    }
    while ((subscription = LIST_FIRST(&wakers)))
        subscription_on_update(subscription);
    market_wake(market);
}

void market_publish(struct market *market, unsigned ticker, const struct market_quote *quote)
{
    struct ticker *of = &market->tickers[ticker];
    struct market_time now;

    wake_all(market);
    market->options.clock(market->options.context, &now);
    encode(market, of, quote, &now);
    forget_old(market, now.now_ms);
    remember(market, of, now.now_ms);
    market->stats.updates_total++;
    wake(market, of);
}

/* ---- Sweeping ---- */

static void flush_ages(struct market *market)
{
    histogram_observe_many(&market->stats.queue_age, (double)market->ages_ms / 1e3,
                           market->ages_count);
    market->ages_count = 0;
}

void market_observe_age(struct market *market, uint64_t age_ms)
{
    if (age_ms != market->ages_ms)
        flush_ages(market);
    market->ages_ms = age_ms;
    market->ages_count++;
}

void market_sweep(struct market *market)
{
    struct subscriptions awake = LIST_HEAD_INITIALIZER(awake);
    struct subscription *subscription;
    uint64_t now_ms = market_now_ms(market);
    uint64_t behind[SLOW_POLICY_COUNT] = {0};

    wake_all(market);
    forget_old(market, now_ms);
    /* Also those who wait for their round: so that the history does not find all of them far behind
     * when it fills. */
    catch_up(market);
    /* Whoever is cut off may be freed, and others with it. */
    TAKE_LIST(&awake, &market->awake, link);
    while ((subscription = LIST_FIRST(&awake))) {
        enum slow_policy policy = subscription->policy;

        LIST_REMOVE(subscription, link);
        LIST_INSERT_HEAD(&market->awake, subscription, link);
        behind[policy] += subscription_sweep(subscription, now_ms);
    }
    memcpy(market->stats.behind, behind, sizeof(behind));
}

uint64_t market_epoch(const struct market *market)
{
    return market->options.epoch;
}

uint64_t market_sequence(const struct market *market)
{
    return market->history.last;
}

uint64_t market_first_sequence(const struct market *market)
{
    return market->history.first;
}

const struct market_stats *market_stats(const struct market *market)
{
    /* What is put off is no change that anybody could see. */
    flush_ages((struct market *)market);
    return &market->stats;
}
