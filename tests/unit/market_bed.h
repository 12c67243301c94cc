/*
 * The market's service over a connection in memory, for its tests.
 */
#pragma once

#include "memory.h"
#include "services/market.h"

#define PATH_SUBSCRIBE "/stockservice.StockService/Subscribe"
#define PATH_LIST "/stockservice.StockService/ListTickers"
#define PATH_SNAPSHOT "/stockservice.StockService/GetSnapshot"

struct bed {
    struct call_server *calls; /* first, as call_connection_ops wants it */
    struct call_server server;
    struct market *market;
    struct market_service *service;
    const struct method *methods[MARKET_SERVICE_METHODS];
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
    uint64_t ago_ms; /* what the market's clock is slow */
};

/* A market of so many tickers "T0", "T1", … */
void bed_init(struct bed *bed, const struct peer_options *peer, unsigned tickers);

/* All that belongs to a call must have been given back. */
void bed_deinit(struct bed *bed);

/* An update of a ticker. */
void bed_publish(struct bed *bed, unsigned ticker);

/* A call with one request message, which protobuf-c made. */
struct peer_stream *bed_call(struct bed *bed, const char *path, const void *body, size_t size);
