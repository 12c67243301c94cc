/*
 * stockservice.StockService: GetUpdates, a random walk of its own for every call.
 */
#pragma once

#include "rpc/call.h"

struct stock_service;

struct stock_options {
    const char *ticker;
    double start_price;
    uint64_t interval_ms; /* 0: as fast as the client takes them */
    uint64_t initial_delay_ms;
    bool compress; /* updates, for clients that take gzip */
    uint64_t seed; /* the n-th call since this seed was set is always the same walk */
};

/* 0 or -ENOMEM. `options` is copied, its ticker too. */
int stock_service_new(struct stock_service **ret_service, struct loop *loop,
                      const struct stock_options *options);

/*
 * Other options from now on: calls that have begun keep what they began with. `options` is copied.
 * 0 or -ENOMEM; then nothing has changed.
 */
int stock_service_configure(struct stock_service *service, const struct stock_options *options);

/* Its calls must be over. NULL is allowed; returns NULL. */
struct stock_service *stock_service_free(struct stock_service *service);

/* Its method, for the method table; lives as long as the service. */
const struct method *stock_service_get_updates(const struct stock_service *service);

/* Updates whose last byte the kernel has accepted. */
uint64_t stock_service_updates_sent(const struct stock_service *service);

/* How long after they were due that was, in seconds. */
const struct histogram *stock_service_send_lag(const struct stock_service *service);

/* When the last update was made, in seconds since the Unix epoch, to some ms; 0: none was yet. */
double stock_service_last_update(const struct stock_service *service);

/* The interval of calls that begin now, in seconds. */
double stock_service_interval(const struct stock_service *service);
