/*
 * A hierarchical timing wheel of about 40 KiB. Arming, re-arming and cancelling a timer cost O(1)
 * and no allocation, whatever the number of timers: a million paced streams, deadlines and time
 * limits cost 32 bytes each and not one libuv timer.
 *
 * The wheel knows no clock: its owner (base/loop) tells it the time. Times are milliseconds on any
 * monotonic clock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* A slot for each of the next milliseconds; six bits of the time a level for what is further
 * ahead, and enough levels for all 64 bits: no time is too far away. */
#define WHEEL_NEAR_MS 4096
#define WHEEL_LEVELS 9
#define WHEEL_SLOTS 64
#define WHEEL_DUE_SLOTS 64

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
    uint64_t now_ms; /* what is due at or before this has fired, or is in `overdue` or `due` */
    struct wheel_slot overdue; /* armed for a time that had passed */

    struct wheel_slot due[WHEEL_DUE_SLOTS]; /* taken off and not yet fired, in order */
    unsigned due_first;
    unsigned due_end;

    uint64_t near_words;                        /* a bit for each word of near_occupied */
    uint64_t near_occupied[WHEEL_NEAR_MS / 64]; /* a bit for each slot that is not empty */
    struct wheel_slot near[WHEEL_NEAR_MS];

    uint64_t far_occupied[WHEEL_LEVELS];
    struct wheel_slot far[WHEEL_LEVELS][WHEEL_SLOTS];
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
 * Moves the clock to `now_ms` and fires what is due, in the order of the timers' times (in no
 * particular order where those are equal), each disarmed before its `fire` is called, so that
 * `fire` may arm it again. It fires at most `max` timers (1 or more) and leaves the others to the
 * next call, so that other work can come between them; then the clock may stay behind `now_ms`.
 * A timer armed by a `fire` for `now_ms` or before waits for the next call too: one call always
 * ends. Earlier `now_ms` than before: only what was left is fired. Not to be called from inside a
 * `fire`.
 */
void wheel_advance(struct wheel *wheel, uint64_t now_ms, unsigned max);

/*
 * A time at which wheel_advance() is to be called next, at the latest: never later than the
 * earliest timer, perhaps earlier (timers far ahead move down a level on the way). The wheel's own
 * present time if a timer is overdue or was left; WHEEL_NEVER if none is armed.
 */
uint64_t wheel_next(const struct wheel *wheel);
