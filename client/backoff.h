/*
 * How long to wait before another attempt to connect: gRPC's "Connection Backoff Protocol"
 * (github.com/grpc/grpc/doc/connection-backoff.md).
 */
#pragma once

#include <stdint.h>

#define BACKOFF_INITIAL_MS 1000
#define BACKOFF_MULTIPLIER 1.6
#define BACKOFF_JITTER 0.2
#define BACKOFF_MAX_MS 120000
#define BACKOFF_CONNECT_MIN_MS 20000

/* Zeroed memory is a valid start: no attempt has been made, the first may begin at once. */
struct backoff {
    double current_ms;      /* 0 before the first attempt of a row */
    uint64_t begun_ms;      /* when the present attempt began */
    uint64_t next_ms;       /* the next one begins no sooner */
    uint64_t connect_by_ms; /* the present attempt is given up then */
};

/*
 * An attempt begins at `now_ms`. `random` is uniform in [0, 1): it spreads the wait by 20 % to
 * either side, so that clients which lost one server together do not come back together.
 */
void backoff_begin(struct backoff *backoff, uint64_t now_ms, double random);

/*
 * The present attempt turned out well: the next may begin one shortest wait after it did, and
 * starts a new row.
 */
void backoff_reset(struct backoff *backoff);

/* How long to wait from `now_ms` until the next attempt; 0: no time at all. */
uint64_t backoff_wait_ms(const struct backoff *backoff, uint64_t now_ms);
