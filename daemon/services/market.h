/*
 * stockservice.StockService: Subscribe, ListTickers and GetSnapshot, on the shared market.
 */
#pragma once

#include "market/market.h"
#include "rpc/call.h"

struct market_service;

struct market_service_options {
    struct loop *loop;
    struct market *market;     /* borrowed */
    uint64_t heartbeat_min_ms; /* the shortest that a client gets; at least 1 */
};

/*
 * The most that answers of ListTickers and GetSnapshot which wait for their clients may take, all
 * together, but for those that are no longer than CALL_QUEUE_BYTES_MAX. For one more, answers of
 * the connection for which most wait are ended with RESOURCE_EXHAUSTED; that connection itself gets
 * the same for what it asks for more.
 */
#define MARKET_SERVICE_ANSWER_BYTES_MAX ((uint64_t)64 * 1024 * 1024)

/* 0 or -ENOMEM. */
int market_service_new(struct market_service **ret_service,
                       const struct market_service_options *options);

/* Another shortest heartbeat, for subscriptions that begin now. */
void market_service_configure(struct market_service *service, uint64_t heartbeat_min_ms);

/* Its calls must be over. NULL is allowed; returns NULL. */
struct market_service *market_service_free(struct market_service *service);

#define MARKET_SERVICE_METHODS 3

/* Its methods, for the method table; they live as long as the service. */
const struct method *market_service_method(const struct market_service *service, unsigned index);

/* How long after they were published updates were accepted by the kernel, in seconds. */
const struct histogram *market_service_send_lag(const struct market_service *service);

/* Calls of Subscribe since the start. */
uint64_t market_service_subscribed(const struct market_service *service);

/* Updates of subscriptions whose last byte the kernel has accepted, heartbeats and gaps too. */
uint64_t market_service_events_sent(const struct market_service *service);
