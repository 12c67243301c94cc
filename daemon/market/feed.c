/*
 * Feeds differ in where updates come from; that they fall silent, come back, end, and are fed
 * nonsense is the same for all, and so is what health, metrics and the journal say of it.
 */
#include "market/feed_private.h"

#include "base/events.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* Silence is looked for that much late, so that no feed wakes the loop for itself alone. */
#define SILENCE_SLACK_MS 50

const char *const feed_state_labels[FEED_STATE_COUNT] = {
#define X(identifier, label) [FEED_##identifier] = (label),
    FEED_STATES(X)
#undef X
};

const char *const feed_kind_labels[FEED_KIND_COUNT] = {
#define X(identifier, label) [FEED_KIND_##identifier] = (label),
    FEED_KINDS(X)
#undef X
};

/* The one place where the state changes. */
static void enter(struct feed *feed, enum feed_state state, const char *why)
{
    uint64_t now_ms = loop_now_ms(feed->options.loop);
    uint64_t lasted_ms = now_ms - feed->state_since_ms;

    log_event(state == FEED_LIVE ? LOG_NOTICE : LOG_WARNING,
              log_fields(LOG_EVENT(FEED_STATE), {"STOCKD_FEED", feed_kind_labels[feed->kind]},
                         {"STOCKD_STATE", feed_state_labels[state]},
                         {"STOCKD_DURATION_MS", log_number(lasted_ms)}, {"STOCKD_ERROR", why}),
              "the market's feed (%s) is %s%s%s, after it was %s for %.3f s",
              feed_kind_labels[feed->kind], feed_state_labels[state], why ? ": " : "",
              why ? why : "", feed_state_labels[feed->state], (double)lasted_ms / 1e3);
    feed->state = state;
    feed->state_since_ms = now_ms;
    if (feed->options.changed)
        feed->options.changed(feed->options.context);
}

/* From when on a feed that publishes nothing more is stale; UINT64_MAX: never. */
static uint64_t silent_at_ms(const struct feed *feed)
{
    uint64_t at_ms;

    if (feed->options.stale_after_ms == 0 ||
        __builtin_add_overflow(feed->updated_ms, feed->options.stale_after_ms, &at_ms) ||
        __builtin_add_overflow(at_ms, feed->expected_ms, &at_ms))
        return UINT64_MAX;
    return at_ms;
}

/* An update does not move the timer, which finds out about it when it fires. */
static void watch(struct feed *feed)
{
    uint64_t now_ms = loop_now_ms(feed->options.loop), at_ms = silent_at_ms(feed);

    if (feed->state != FEED_LIVE || at_ms == UINT64_MAX)
        loop_disarm(feed->options.loop, &feed->silence);
    else
        loop_arm(feed->options.loop, &feed->silence, at_ms > now_ms ? at_ms - now_ms : 0,
                 SILENCE_SLACK_MS);
}

static void on_silence(struct wheel_timer *timer)
{
    struct feed *feed = container_of(timer, struct feed, silence);
    uint64_t now_ms = loop_now_ms(feed->options.loop);
    uint64_t silence_ms = now_ms - feed->updated_ms;
    bool silent = now_ms >= silent_at_ms(feed);
    char why[64];

    /* While the whole program could not run, nothing could be published: what has waited since then
     * is done in this turn. */
    if (silent && feed->state == FEED_LIVE && !feed->doubted) {
        feed->doubted = true;
        loop_arm(feed->options.loop, &feed->silence, 0, 0);
        return;
    }
    feed->doubted = false;
    if (silent && feed->state == FEED_LIVE) {
        (void)snprintf(why, sizeof(why), "no update for %.*f s", silence_ms < 10000 ? 3 : 0,
                       (double)silence_ms / 1e3);
        enter(feed, FEED_STALE, why);
    } else if (!silent && feed->state == FEED_STALE) {
        enter(feed, FEED_LIVE, "it may be silent for longer now");
    }
    watch(feed);
}

void feed_init(struct feed *feed, const struct feed_ops *ops, enum feed_kind kind,
               const struct feed_options *options)
{
    feed->ops = ops;
    feed->kind = kind;
    feed->options = *options;
    feed->state = FEED_LIVE;
    feed->updated_ms = feed->state_since_ms = loop_now_ms(options->loop);
    feed->silence.fire = on_silence;
    watch(feed);
}

void feed_deinit(struct feed *feed)
{
    loop_disarm(feed->options.loop, &feed->silence);
}

struct feed *feed_free(struct feed *feed)
{
    if (feed)
        feed->ops->free(feed);
    return NULL;
}

void feed_publish(struct feed *feed, unsigned ticker, const struct market_quote *quote)
{
    struct timespec now;

    feed->updated_ms = loop_now_ms(feed->options.loop);
    feed->stats.updates_total++;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    feed->stats.last_unix_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    if (feed->state != FEED_LIVE) {
        enter(feed, FEED_LIVE, NULL);
        watch(feed);
    }
    market_publish(feed->options.market, ticker, quote);
}

void feed_expect(struct feed *feed, uint64_t expected_ms)
{
    feed->expected_ms = expected_ms;
    /* A longer wait is found when the timer fires; a shorter one would be found too late. */
    if (feed->state == FEED_LIVE &&
        (!wheel_armed(&feed->silence) || feed->silence.due_ms > silent_at_ms(feed)))
        watch(feed);
}

void feed_gone(struct feed *feed, const char *why)
{
    if (feed->state == FEED_GONE)
        return;
    enter(feed, FEED_GONE, why);
    watch(feed);
}

static void log_line(struct feed *feed, const struct feed_place *place, const char *what)
{
    unsigned dropped;
    char text[FEED_ERROR_MAX];

    if (!log_limit_pass(&feed->faults, loop_now_ms(feed->options.loop), &dropped))
        return;
    if (dropped > 0)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(MESSAGES_DROPPED), {"STOCKD_DROPPED", log_number(dropped)}),
                  "%u more faults of the market's feed were not logged", dropped);
    (void)snprintf(text, sizeof(text), "%s:%llu: %s", place->file, (unsigned long long)place->line,
                   what);
    log_event(LOG_WARNING,
              log_fields(LOG_EVENT(FEED_FAULT), {"STOCKD_FEED", feed_kind_labels[feed->kind]},
                         {"STOCKD_ERROR", text}, {"STOCKD_FILE", place->file},
                         {"STOCKD_LINE", log_number(place->line)}),
              "%s", text);
}

void feed_fault(struct feed *feed, const struct feed_place *place, const char *what)
{
    feed->stats.faults_total++;
    log_line(feed, place, what);
}

void feed_remark(struct feed *feed, const struct feed_place *place, const char *what)
{
    log_line(feed, place, what);
}

bool feed_publish_name(struct feed *feed, const struct feed_place *place, const char *ticker,
                       const struct market_quote *quote)
{
    char what[FEED_ERROR_MAX];
    unsigned index;
    int r;

    if (!market_find_ticker(feed->options.market, ticker, strlen(ticker), &index)) {
        r = market_add_ticker(feed->options.market, ticker, &index);
        if (r == MARKET_FULL)
            (void)snprintf(what, sizeof(what), "%.*s: the market has room for %u tickers, no more",
                           MARKET_TICKER_SIZE_MAX, ticker, market_tickers(feed->options.market));
        else if (r == MARKET_BAD_TICKER)
            (void)snprintf(what, sizeof(what), FEED_NO_TICKER, MARKET_TICKER_SIZE_MAX, ticker,
                           MARKET_TICKER_SIZE_MAX);
        else if (r < 0)
            (void)snprintf(what, sizeof(what), "%.*s: no memory for another ticker",
                           MARKET_TICKER_SIZE_MAX, ticker);
        if (r != 0) {
            feed_fault(feed, place, what);
            return false;
        }
    }
    feed_publish(feed, index, quote);
    return true;
}

enum feed_state feed_state(const struct feed *feed)
{
    return feed->state;
}

uint64_t feed_state_age_ms(const struct feed *feed)
{
    return loop_now_ms(feed->options.loop) - feed->state_since_ms;
}

void feed_set_stale_after(struct feed *feed, uint64_t stale_after_ms)
{
    feed->options.stale_after_ms = stale_after_ms;
    /* Is it still stale? The timer finds out, from where `changed` may be called. */
    if (feed->state == FEED_STALE)
        loop_arm(feed->options.loop, &feed->silence, 0, 0);
    else
        watch(feed);
}

const struct feed_stats *feed_stats(const struct feed *feed)
{
    return &feed->stats;
}
