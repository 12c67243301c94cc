#pragma once

/*
 * Checks that one update of a market reaches every subscriber: each stream gets the updates in the
 * order of their sequence, without a gap, from the first that it got on; and of one update all
 * streams get the same bytes, which are decoded once. So every message is looked at, and still it
 * costs little.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A message must fit. */
enum { FANOUT_MESSAGE_BYTES = 512 };

struct fanout;

/* For so many streams. NULL without memory. */
struct fanout *fanout_new(uint64_t streams);

/*
 * Takes a whole MarketEvent of a stream, whose last sequence number is at `sequence`, 0 at first.
 * NULL, or what is wrong with it.
 */
const char *fanout_take(struct fanout *fanout, uint64_t *sequence, const uint8_t *message,
                        size_t bytes);

/* Whether all streams have the newest update that any of them has. */
bool fanout_is_whole(const struct fanout *fanout);

/* The updates that are whole from now on are those of the measured interval. */
void fanout_begin(struct fanout *fanout);

/*
 * How many updates of the measured interval all streams have, and the median of the milliseconds
 * from when the market took one until the last stream had it; 0 if there was none.
 */
uint64_t fanout_updates(const struct fanout *fanout);
double fanout_lag_ms(struct fanout *fanout);
