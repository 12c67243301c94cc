/*
 * A timer that is due within 4096 ms hangs in `near`, a ring with a slot for each millisecond, and
 * stays there until it fires: paced streams, which are nearly all timers there are, are touched
 * once when armed and once when they fire. With many of them each touch is a cache miss.
 *
 * What is further ahead hangs in `far`. There time is read as a number of base 64, and level n of
 * the wheel stands for its digit n + 2. A timer hangs on the level of the highest digit in which
 * its time differs from the present, in the slot that this digit of its time names. So
 *
 *   - what hangs on a level is ahead in that digit and equal in all above it, every timer of a
 * level is due before any timer of the levels above, and slots of a level are in order;
 *   - the next slot to be reached is the lowest one of the lowest level that is not empty: two
 *     searches for a bit, however far ahead it lies;
 *   - when the present reaches the beginning of a slot, its timers agree with the present in that
 *     digit too, and each moves to where it now belongs, on a lower level or in the ring: a timer
 *     moves at most once a level in its life, and most are cancelled or moved before that.
 *
 * An empty slot's bit must be cleared when its last timer is cancelled, but a timer does not know
 * its slot, and its place may have been computed with an older present. It need not: the only
 * timer of a slot is the one whose back link points into the array of slots.
 */
#include "base/wheel.h"

#include "base/util.h"

#define DIGIT_BITS 6
#define NEAR_DIGITS 2 /* that the ring stands for */

static void near_insert(struct wheel *wheel, struct wheel_timer *timer)
{
    unsigned slot = timer->due_ms % WHEEL_NEAR_MS;

    LIST_INSERT_HEAD(&wheel->near[slot], timer, link);
    wheel->near_occupied[slot / 64] |= UINT64_C(1) << (slot % 64);
    wheel->near_words |= UINT64_C(1) << (slot / 64);
}

static void near_clear(struct wheel *wheel, unsigned slot)
{
    wheel->near_occupied[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
    if (!wheel->near_occupied[slot / 64])
        wheel->near_words &= ~(UINT64_C(1) << (slot / 64));
}

/* Hangs up a timer that is due later than the wheel's present. */
static void slot_insert(struct wheel *wheel, struct wheel_timer *timer)
{
    unsigned digit, slot;

    if (timer->due_ms - wheel->now_ms < WHEEL_NEAR_MS) {
        near_insert(wheel, timer);
        return;
    }
    /* Times this far apart differ in digit 2 or above. */
    digit = (63U - (unsigned)__builtin_clzll(timer->due_ms ^ wheel->now_ms)) / DIGIT_BITS;
    slot = (timer->due_ms >> (digit * DIGIT_BITS)) % WHEEL_SLOTS;
    LIST_INSERT_HEAD(&wheel->far[digit - NEAR_DIGITS][slot], timer, link);
    wheel->far_occupied[digit - NEAR_DIGITS] |= UINT64_C(1) << slot;
}

/* Unlinks `timer` from whichever list it is on. */
static void timer_unlink(struct wheel *wheel, struct wheel_timer *timer)
{
    uintptr_t near = (uintptr_t)timer->link.le_prev - (uintptr_t)wheel->near;
    uintptr_t far = (uintptr_t)timer->link.le_prev - (uintptr_t)wheel->far;

    if (!LIST_NEXT(timer, link) && near < sizeof(wheel->near)) {
        near_clear(wheel, (unsigned)(near / sizeof(struct wheel_slot)));
    } else if (!LIST_NEXT(timer, link) && far < sizeof(wheel->far)) {
        size_t index = far / sizeof(struct wheel_slot);
        wheel->far_occupied[index / WHEEL_SLOTS] &= ~(UINT64_C(1) << (index % WHEEL_SLOTS));
    }
    LIST_REMOVE(timer, link);
}

void wheel_init(struct wheel *wheel, uint64_t now_ms)
{
    *wheel = (struct wheel){.now_ms = now_ms};
}

void wheel_arm(struct wheel *wheel, struct wheel_timer *timer, uint64_t due_ms, unsigned slack_ms)
{
    if (slack_ms > 1 && due_ms % slack_ms != 0) {
        uint64_t later_ms = slack_ms - due_ms % slack_ms;
        due_ms = due_ms > UINT64_MAX - later_ms ? UINT64_MAX : due_ms + later_ms;
    }

    if (wheel_armed(timer))
        timer_unlink(wheel, timer);
    if (due_ms <= wheel->now_ms) {
        timer->due_ms = MAX(wheel->now_ms, 1U);
        LIST_INSERT_HEAD(&wheel->overdue, timer, link);
    } else {
        timer->due_ms = due_ms;
        slot_insert(wheel, timer);
    }
}

void wheel_cancel(struct wheel *wheel, struct wheel_timer *timer)
{
    if (!wheel_armed(timer))
        return;
    timer_unlink(wheel, timer);
    timer->due_ms = 0;
}

/* When the ring's next timer is due; WHEEL_NEVER if it has none. */
static uint64_t near_next(const struct wheel *wheel)
{
    /* All are due less than one round after the present: search from its slot on, then from the
     * ring's beginning to it. */
    unsigned present = wheel->now_ms % WHEEL_NEAR_MS;
    unsigned word = present / 64;
    uint64_t bits = wheel->near_occupied[word] & (UINT64_MAX << (present % 64));
    uint64_t words = word < 63 ? wheel->near_words & (UINT64_MAX << (word + 1)) : 0;
    unsigned slot;

    if (!bits) {
        if (!wheel->near_words)
            return WHEEL_NEVER;
        word = (unsigned)__builtin_ctzll(words ? words : wheel->near_words);
        bits = wheel->near_occupied[word];
    }
    slot = word * 64 + (unsigned)__builtin_ctzll(bits);
    return wheel->now_ms + (slot + WHEEL_NEAR_MS - present) % WHEEL_NEAR_MS;
}

/* When the next slot of `far` begins, and which it is; WHEEL_NEVER if all are empty. */
static uint64_t far_next(const struct wheel *wheel, unsigned *ret_level, unsigned *ret_slot)
{
    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        if (!wheel->far_occupied[level])
            continue;

        unsigned slot = (unsigned)__builtin_ctzll(wheel->far_occupied[level]);
        unsigned shift = (level + NEAR_DIGITS) * DIGIT_BITS;
        uint64_t above = shift + DIGIT_BITS < 64 ? UINT64_MAX << (shift + DIGIT_BITS) : 0;

        *ret_level = level;
        *ret_slot = slot;
        return (wheel->now_ms & above) | (uint64_t)slot << shift;
    }
    return WHEEL_NEVER;
}

/*
 * What is due is taken off the wheel in order of time before any of it fires, so that nothing that
 * a `fire` arms can be among it. Whole slots are taken as they are, without a look at their timers:
 * with many of them each look would be a cache miss.
 */

/* Moves all timers of `from` to the end of `to`. */
static void slot_append(struct wheel_slot *to, struct wheel_slot *from)
{
    struct wheel_timer **end = &LIST_FIRST(to);

    while (*end)
        end = &(*end)->link.le_next;
    *end = LIST_FIRST(from);
    if (*end)
        (*end)->link.le_prev = end;
    LIST_INIT(from);
}

static void due_add(struct wheel *wheel, struct wheel_slot *slot)
{
    if (LIST_EMPTY(slot))
        return;
    if (wheel->due_end < WHEEL_DUE_SLOTS)
        wheel->due_end++;
    slot_append(&wheel->due[wheel->due_end - 1], slot);
}

/* Moves the timers of a slot whose beginning is now down to their places, or, if due, to `due`. */
static void far_cascade(struct wheel *wheel, unsigned level, unsigned number)
{
    struct wheel_slot *slot = &wheel->far[level][number];
    struct wheel_slot now = LIST_HEAD_INITIALIZER(now);
    struct wheel_timer *timer;

    wheel->far_occupied[level] &= ~(UINT64_C(1) << number);
    while ((timer = LIST_FIRST(slot))) {
        LIST_REMOVE(timer, link);
        if (timer->due_ms == wheel->now_ms)
            LIST_INSERT_HEAD(&now, timer, link);
        else
            slot_insert(wheel, timer);
    }
    due_add(wheel, &now);
}

/* Fires up to `max` timers of those that were taken. */
static void due_fire(struct wheel *wheel, unsigned max)
{
    while (wheel->due_first < wheel->due_end) {
        struct wheel_timer *timer = LIST_FIRST(&wheel->due[wheel->due_first]);
        const struct wheel_timer *next;

        if (!timer) {
            wheel->due_first++;
            continue;
        }
        if (max-- == 0)
            return;
        LIST_REMOVE(timer, link);
        /* The next timer comes from memory while this one's owner works. */
        next = LIST_FIRST(&wheel->due[wheel->due_first]);
        if (next)
            __builtin_prefetch(next + 1);
        timer->due_ms = 0;
        timer->fire(timer);
    }
    wheel->due_first = wheel->due_end = 0;
}

/* Takes all that is due until `now_ms` off the wheel, and moves the clock there. */
static void due_collect(struct wheel *wheel, uint64_t now_ms)
{
    unsigned level = 0, slot = 0;

    due_add(wheel, &wheel->overdue);
    for (;;) {
        uint64_t near_ms = near_next(wheel);
        uint64_t far_ms = far_next(wheel, &level, &slot);

        /* A timer may be due at WHEEL_NEVER itself; a slot of `far` cannot begin there. */
        if (MIN(near_ms, far_ms) > now_ms || (!wheel->near_words && far_ms == WHEEL_NEVER))
            break;
        wheel->now_ms = MIN(near_ms, far_ms);
        if (far_ms != WHEEL_NEVER && far_ms <= near_ms) {
            far_cascade(wheel, level, slot);
        } else {
            slot = near_ms % WHEEL_NEAR_MS;
            near_clear(wheel, slot);
            due_add(wheel, &wheel->near[slot]);
        }
    }
    wheel->now_ms = now_ms;
}

void wheel_advance(struct wheel *wheel, uint64_t now_ms, unsigned max)
{
    /* What an earlier call left goes first, alone: its order of time is kept, and the call short.
     */
    if (wheel->due_end == 0 && now_ms >= wheel->now_ms)
        due_collect(wheel, now_ms);
    due_fire(wheel, max);
}

uint64_t wheel_next(const struct wheel *wheel)
{
    unsigned level = 0, slot = 0;

    if (!LIST_EMPTY(&wheel->overdue) || wheel->due_end > 0)
        return wheel->now_ms;
    return MIN(near_next(wheel), far_next(wheel, &level, &slot));
}
