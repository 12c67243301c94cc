/*
 * The budgets of one server connection against peers that make work for its own sake: counters and
 * token buckets, which know neither nghttp2 nor a socket. Whoever reads frames tells the guard of
 * them; a function that returns false says that the peer went too far and the connection must end
 * with ENHANCE_YOUR_CALM.
 *
 * Each budget is meant to be out of reach for every honest peer, however long it stays and whatever
 * it asks for, and within a second's reach for a hostile one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Rapid reset (CVE-2023-44487): streams that the peer opens and resets, so that no limit on open
 * ones ever holds it. So many at once, and so many more a second, that no more than 1000 are
 * started by whoever resets 500 a second or more. Free of charge is the reset of a stream that is
 * older than twice GUARD_YOUNG_MS: it took its place among max_streams all that time, as any other
 * does, and a client may give up a thousand calls at once. Each stream that ends without a reset
 * pays for another one that does not: busy proxies, clients that hedge.
 */
#define GUARD_RESETS_BURST 900
#define GUARD_RESETS_PER_S 50
#define GUARD_YOUNG_MS 200

/*
 * MadeYouReset (CVE-2025-8671): the same by way of frames that this side must answer with
 * RST_STREAM. Together no more than 500 for whoever causes 500 a second or more. An honest peer
 * causes none but when it opens streams before it has heard how many it may.
 */
#define GUARD_MADE_RESETS_BURST 490
#define GUARD_MADE_RESETS_PER_S 10

/* DATA frames in a row that carry nothing, not even the end of a stream. */
#define GUARD_EMPTY_DATA_MAX 10

/*
 * CONTINUATION frames of one header block (CVE-2024-28182): as many as nghttp2 takes since 1.61,
 * which most often comes first. Older ones take any number.
 */
#define GUARD_CONTINUATIONS_MAX 8

/* Zeroed memory, but for guard_init(). */
struct connection_guard {
    uint64_t resets_due_ms;      /* buckets: when each would be full again */
    uint64_t made_resets_due_ms; /* (zero: long since) */
    int64_t window_updates_left;
    int64_t idle_frames_left;
    uint64_t mark_ms;
    int32_t newest_id; /* the newest stream */
    int32_t mark_id;   /* the newest stream at mark_ms */
    int32_t old_id;    /* streams up to this are no longer young */
    uint32_t empty_data;
    uint32_t continuations; /* since the last HEADERS */
    int32_t data_id;        /* the stream of a DATA frame whose end was not seen; 0: none */
};

void guard_init(struct connection_guard *guard);

/* The peer opened stream `id`, whether it is refused or not. */
void guard_opened(struct connection_guard *guard, int32_t id, uint64_t now_ms);

/* Is `id` above that of every stream that was opened before? */
static inline bool guard_is_new(const struct connection_guard *guard, int32_t id)
{
    return id > guard->newest_id;
}

/* A stream came to its end with nobody resetting it. */
void guard_finished(struct connection_guard *guard);

/* The peer sent RST_STREAM; `open`: for a stream that is there, and not for the second time. */
bool guard_reset(struct connection_guard *guard, int32_t id, bool open, uint64_t now_ms);

/* This side must reset or refuse a stream because of what the peer sent. */
bool guard_made_reset(struct connection_guard *guard, uint64_t now_ms);

/* DATA came with `size` bytes, without padding. */
bool guard_data(struct connection_guard *guard, size_t size, bool end);

/* HEADERS came, for whatever stream. */
static inline void guard_headers(struct connection_guard *guard)
{
    guard->continuations = 0;
}

/* CONTINUATION came. */
static inline bool guard_continuation(struct connection_guard *guard)
{
    return ++guard->continuations <= GUARD_CONTINUATIONS_MAX;
}

/*
 * This side sends a DATA frame, in which so many messages end.
 *
 * What WINDOW_UPDATE frames earn: 2 (one for the stream, one for the connection) for each stream
 * and for each tenth of a DATA frame, as in Envoy, and beyond that for each message and for each
 * 512 bytes. A frame of 16 KiB may hold 140 messages and more, and a client that counts what it
 * has processed gives the credit of each back by itself. One that gives back what a read of its
 * socket brought does so for each TCP segment, and those have 536 bytes or more. So whoever gives
 * back credit for what it got, in whatever steps, earns each step before it can take it, and with
 * any window. Updates that nothing was sent for are at most five and two a stream.
 */
static inline void guard_sent_data(struct connection_guard *guard, size_t size, unsigned messages)
{
    guard->window_updates_left += 2 * (10 + (int64_t)messages + (int64_t)(size / 512));
}

/* WINDOW_UPDATE came. */
static inline bool guard_window_update(struct connection_guard *guard)
{
    return --guard->window_updates_left >= 0;
}

/*
 * A frame came that leads to nothing: PRIORITY, PRIORITY_UPDATE and what is unknown, GOAWAY, an
 * answer to a PING, HEADERS for a stream that is gone. 100 may, and 100 more for each stream, as
 * in Envoy (RFC 9218, 10 wants such a limit too).
 */
static inline bool guard_idle_frame(struct connection_guard *guard)
{
    return --guard->idle_frames_left >= 0;
}

/* This side sends a PING, and the peer may answer it. */
static inline void guard_sent_ping(struct connection_guard *guard)
{
    guard->idle_frames_left++;
}
