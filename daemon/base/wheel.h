/*
 * A hierarchical timing wheel. Arming, re-arming and cancelling a timer cost O(1) and no
 * allocation, whatever the number of timers: a million paced streams, deadlines and time limits
 * cost 32 bytes each and not one libuv timer.
 *
 * The wheel knows no clock: its owner (base/loop) tells it the time. Times are milliseconds on any
 * monotonic clock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* Six bits of the time a level, and enough levels for all 64: no time is too far away. */
#define WHEEL_LEVELS 11
#define WHEEL_SLOTS 64

/* Returned by wheel_next() when no timer is armed. */
#define WHEEL_NEVER UINT64_MAX

struct wheel_timer;
typedef void (*wheel_fire_fn)(struct wheel_timer *timer);

/*
 * Embedded in whatever waits. Zeroed memory is a valid timer that is not armed; `fire` is set by
 * the owner before the timer is armed for the first time.
 */
struct wheel_timer {
    LIST_ENTRY(wheel_timer) link;
    uint64_t due_ms; /* 0 while not armed */
    wheel_fire_fn fire;
};

LIST_HEAD(wheel_slot, wheel_timer);

struct wheel {
    uint64_t now_ms; /* every timer due at or before this has fired, but for `overdue` */
    uint64_t occupied[WHEEL_LEVELS]; /* a bit for each slot that is not empty */
    struct wheel_slot slots[WHEEL_LEVELS][WHEEL_SLOTS];
    struct wheel_slot overdue; /* armed for a time that had passed */
};

/* Makes an empty wheel whose clock stands at `now_ms`. Nothing to free later. */
void wheel_init(struct wheel *wheel, uint64_t now_ms);

/*
 * Arms `timer`, or moves it if it is armed, to fire at `due_ms`, rounded up to a multiple of
 * `slack_ms` (0 and 1 both mean: exactly), so that timers which may be a little late fire together.
 * A time that, so rounded, has passed fires in the next wheel_advance(). The wheel links the timer
 * but never owns it: its owner cancels it before the memory goes.
 */
void wheel_arm(struct wheel *wheel, struct wheel_timer *timer, uint64_t due_ms, unsigned slack_ms);

/* Disarms `timer`; nothing happens if it is not armed. Allowed in any timer's `fire`. */
void wheel_cancel(struct wheel *wheel, struct wheel_timer *timer);

static inline bool wheel_armed(const struct wheel_timer *timer)
{
    return timer->due_ms != 0;
}

/*
 * Moves the clock to `now_ms` and fires every timer that is due, in the order of their times (in
 * no particular order where those are equal), each disarmed before its `fire` is called, so that
 * `fire` may arm it again. A timer armed by a `fire` for `now_ms` or before waits for the next
 * call: one call always ends. Earlier `now_ms` than before: nothing happens. Not to be called from
 * inside a `fire`.
 */
void wheel_advance(struct wheel *wheel, uint64_t now_ms);

/*
 * A time at which wheel_advance() is to be called next, at the latest: never later than the
 * earliest timer, perhaps earlier (timers far ahead move down a level on the way). The wheel's own
 * present time if a timer is overdue; WHEEL_NEVER if none is armed.
 */
uint64_t wheel_next(const struct wheel *wheel);
