/* For the moment: what the configuration will say of the market. */
#pragma once
#include "base/util.h"
#include "configuration.h"
#include "market/feed.h"

static inline struct market_options standin_market_options(const struct configuration *c)
{
    return (struct market_options){
        .history_bytes_max = 16 << 20,
        .history_age_ms = 600000,
        .tickers_max = MARKET_TICKERS_MAX,
        .subscriptions_size_max = 256 << 20,
        .limits = {10000, 256 << 10, 5000, 10000, 4 << 20, 60000},
    };
}
static inline enum feed_kind standin_feed_kind(const struct configuration *c)
{
    return FEED_KIND_WALK;
}
static inline uint64_t standin_stale_after_ms(const struct configuration *c)
{
    return 60000;
}
static inline uint64_t standin_min_heartbeat_ms(const struct configuration *c)
{
    return 1000;
}
static inline const struct feed_ticker *standin_tickers(const struct configuration *c,
                                                        size_t *ret_count)
{
    static const struct feed_ticker tickers[] = {
        {"AAPL", 100, 1000, 0.001}, {"AMZN", 100, 1000, 0.001}, {"GOOG", 100, 1000, 0.001},
        {"META", 100, 1000, 0.001}, {"MSFT", 100, 1000, 0.001}, {"NVDA", 100, 1000, 0.001},
        {"ORCL", 100, 1000, 0.001}, {"TSLA", 100, 1000, 0.001},
    };
    *ret_count = ELEMENTSOF(tickers);
    return tickers;
}
static inline struct feed_replay_options standin_replay_options(const struct configuration *c)
{
    return (struct feed_replay_options){0};
}
static inline const char *standin_pipe(const struct configuration *c)
{
    return NULL;
}
