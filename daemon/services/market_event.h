/*
 * stockservice.MarketEvent as bytes, gRPC prefix included: what all subscribers share is encoded
 * once, and what is a subscriber's own is put behind it.
 */
#pragma once

#include "market/subscription.h"

#include <stddef.h>
#include <stdint.h>

/* An upper bound of what market_event_write() writes. */
#define MARKET_EVENT_WRITE_MAX (MARKET_EVENT_SIZE_MAX + 64)

/* The `encode` of struct market_options; `context` is not used. */
size_t market_event_encode(void *context, uint8_t *bytes, const struct market_update *update);

/*
 * Writes an event as one message at `bytes`, which has MARKET_EVENT_WRITE_MAX of room, and returns
 * its size. An update's bytes are copied as they are, unless there is something to add: fields may
 * stand in any order, so it stands behind them, and only the length in the prefix changes.
 */
size_t market_event_write(uint8_t *bytes, uint64_t epoch, const struct subscription_event *event);
