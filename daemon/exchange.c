/*
 * The market has no clock, no timer and no encoding of its own; here it gets them.
 *
 * The sweep runs only while there is something to look at: subscriptions, or a history that ages.
 * Either begins with an update, and an update has to be encoded, so that is where it is armed.
 */
#include "exchange.h"

#include "base/events.h"
#include "base/util.h"
#include "services/market_event.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#define SWEEP_MS 100
#define SWEEP_SLACK_MS 20

/*
 * Subscriptions that are woken in one turn. To send an update to a hundred thousand takes 40 ms, in
 * which nobody else's socket or timer would be looked at.
 */
#define WAKE_MAX 512

#define NS_PER_S UINT64_C(1000000000)

static uint64_t unix_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ---- What the market asks for ---- */

static size_t on_encode(void *context, uint8_t *bytes, const struct market_update *update)
{
    struct exchange *exchange = context;

    if (!wheel_armed(&exchange->sweep))
        loop_arm(exchange->loop, &exchange->sweep, SWEEP_MS, SWEEP_SLACK_MS);
    return market_event_encode(NULL, bytes, update);
}

static void on_clock(void *context, struct market_time *ret_time)
{
    const struct exchange *exchange = context;

    ret_time->now_ms = MAX(loop_now_ms(exchange->loop), UINT64_C(1));
    ret_time->unix_ns = unix_ns();
}

/* Tasks that are queued while tasks run wait for the next turn: what woke up now is sent before. */
static void on_wake(struct loop_task *task)
{
    market_wake(container_of(task, struct exchange, wake)->market);
}

static void on_wake_later(void *context)
{
    struct exchange *exchange = context;

    loop_queue(exchange->loop, &exchange->wake);
}

static bool is_idle(const struct market_stats *stats)
{
    for (unsigned i = 0; i < SLOW_POLICY_COUNT; i++) {
        if (stats->subscribers[i] > 0)
            return false;
    }
    return stats->history_updates == 0;
}

static void on_sweep(struct wheel_timer *timer)
{
    struct exchange *exchange = container_of(timer, struct exchange, sweep);

    market_sweep(exchange->market);
    if (!is_idle(market_stats(exchange->market)))
        loop_arm(exchange->loop, timer, SWEEP_MS, SWEEP_SLACK_MS);
}

/* ---- Making it ---- */

static int make_market(struct exchange *exchange, const struct configuration *configuration)
{
    struct market_options options = configuration_market_options(configuration);
    struct market_service_options service = {
        .loop = exchange->loop,
        .heartbeat_min_ms = configuration_min_heartbeat_ms(configuration),
    };
    int r;

    /* No two starts are in one nanosecond. */
    options.epoch = MAX(unix_ns(), UINT64_C(1));
    options.encode = on_encode;
    options.clock = on_clock;
    options.wake_later = on_wake_later;
    options.wake_max = WAKE_MAX;
    options.context = exchange;
    r = market_new(&exchange->market, &options);
    if (r < 0)
        return r;
    service.market = exchange->market;
    return market_service_new(&exchange->service, &service);
}

static int wrong(const char *what)
{
    log_event(LOG_ERR, log_fields(LOG_EVENT(CONFIGURATION_FAULT)), "the market's feed: %s", what);
    return EXCHANGE_WRONG;
}

/* Those that are configured can be subscribed to before the feed has an update of them. */
static int add_tickers(struct exchange *exchange, const struct feed_ticker *tickers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char text[FEED_ERROR_MAX];
        unsigned index;
        int r = market_add_ticker(exchange->market, tickers[i].name, &index);

        if (r < 0)
            return r;
        (void)snprintf(text, sizeof(text), "ticker \"%s\": %s", tickers[i].name,
                       r == MARKET_FULL ? "there are too many" : "this cannot be a ticker's name");
        if (r > 0)
            return wrong(text);
    }
    return 0;
}

static int make_feed(struct exchange *exchange, const struct exchange_options *options)
{
    const struct configuration *configuration = options->configuration;
    const struct feed_options feed = {
        .loop = exchange->loop,
        .market = exchange->market,
        .stale_after_ms = configuration_stale_after_ms(configuration),
        .changed = options->changed,
        .context = options->context,
    };
    struct feed_replay_options replay;
    char error[FEED_ERROR_MAX] = "";
    const struct feed_ticker *tickers;
    size_t count;
    int r;

    tickers = configuration_tickers(configuration, &count);
    r = add_tickers(exchange, tickers, count);
    if (r != 0)
        return r;
    exchange->feed_kind = configuration_feed_kind(configuration);
    switch (exchange->feed_kind) {
    case FEED_KIND_WALK:
        return feed_walk_new(&exchange->feed, &feed, tickers, count, configuration->seed);
    case FEED_KIND_REPLAY:
        replay = configuration_replay_options(configuration);
        r = feed_replay_new(&exchange->feed, &feed, &replay, error);
        break;
    case FEED_KIND_PIPE:
        r = feed_pipe_new(&exchange->feed, &feed, configuration_pipe(configuration), error);
        break;
    case FEED_KIND_STDIN:
        r = feed_pipe_new(&exchange->feed, &feed, NULL, error);
        break;
    case FEED_KIND_NONE:
    case FEED_KIND_COUNT:
        break;
    }
    return r == -EINVAL ? wrong(error) : r;
}

int exchange_init(struct exchange *exchange, const struct exchange_options *options)
{
    int r;

    *exchange = (struct exchange){
        .loop = options->loop,
        .sweep.fire = on_sweep,
        .wake.run = on_wake,
    };
    r = make_market(exchange, options->configuration);
    return r < 0 ? r : make_feed(exchange, options);
}

void exchange_configure(struct exchange *exchange, const struct configuration *configuration)
{
    const struct market_options options = configuration_market_options(configuration);

    market_set_limits(exchange->market, &options.limits);
    market_service_configure(exchange->service, configuration_min_heartbeat_ms(configuration));
    if (exchange->feed)
        feed_set_stale_after(exchange->feed, configuration_stale_after_ms(configuration));
}

bool exchange_is_live(const struct exchange *exchange)
{
    return exchange->feed && feed_state(exchange->feed) == FEED_LIVE;
}

const char *exchange_trouble(const struct exchange *exchange,
                             char text[static EXCHANGE_TROUBLE_MAX])
{
    if (!exchange->feed || exchange_is_live(exchange))
        return NULL;
    (void)snprintf(text, EXCHANGE_TROUBLE_MAX, "%s is %s", feed_kind_labels[exchange->feed_kind],
                   feed_state_labels[feed_state(exchange->feed)]);
    return text;
}

/* ---- Its end ---- */

void exchange_close(struct exchange *exchange)
{
    if (exchange->loop)
        loop_disarm(exchange->loop, &exchange->sweep);
    exchange->feed = feed_free(exchange->feed);
}

void exchange_deinit(struct exchange *exchange)
{
    exchange->service = market_service_free(exchange->service);
    if (exchange->loop)
        loop_cancel(exchange->loop, &exchange->wake);
    exchange->market = market_free(exchange->market);
}
