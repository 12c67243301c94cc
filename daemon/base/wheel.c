/*
 * Time is read as a number of base 64, and level n of the wheel stands for its digit n. A timer
 * hangs on the level of the highest digit in which its time differs from the present, in the slot
 * that this digit of its time names. From that follows all the rest:
 *
 *   - what hangs on a level is ahead in that digit and equal in all above it, so every timer of a
 *     level is due before any timer of the levels above, and slots of a level are in order;
 *   - the next thing to happen is the lowest slot of the lowest level that is not empty: two
 *     searches for a bit, however far ahead it lies;
 *   - when the present reaches the beginning of a slot above level 0, its timers agree with the
 *     present in that digit too, and each moves down to where it now belongs: a timer moves at most
 *     once a level in its life, and most are cancelled or moved before that.
 *
 * An empty slot's bit must be cleared when its last timer is cancelled, but a timer does not know
 * its slot, and its place may have been computed with an older present. It need not: the only
 * timer of a slot is the one whose back link points into the array of slots.
 */
#include "base/wheel.h"

#include "base/util.h"

#define DIGIT_BITS 6

static void slot_insert(struct wheel *wheel, struct wheel_timer *timer)
{
    unsigned level = (63U - (unsigned)__builtin_clzll(timer->due_ms ^ wheel->now_ms)) / DIGIT_BITS;
    unsigned slot = (timer->due_ms >> (level * DIGIT_BITS)) % WHEEL_SLOTS;

    LIST_INSERT_HEAD(&wheel->slots[level][slot], timer, link);
    wheel->occupied[level] |= UINT64_C(1) << slot;
}

/* Unlinks `timer` from whichever list it is on. */
static void timer_unlink(struct wheel *wheel, struct wheel_timer *timer)
{
    uintptr_t offset = (uintptr_t)timer->link.le_prev - (uintptr_t)wheel->slots;

    if (!LIST_NEXT(timer, link) && offset < sizeof(wheel->slots)) {
        size_t index = offset / sizeof(struct wheel_slot);
        wheel->occupied[index / WHEEL_SLOTS] &= ~(UINT64_C(1) << (index % WHEEL_SLOTS));
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

/* The first slot to be reached, and the time when it is; false if there is none. */
static bool slot_next(const struct wheel *wheel, unsigned *ret_level, unsigned *ret_slot,
                      uint64_t *ret_start_ms)
{
    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        if (!wheel->occupied[level])
            continue;

        unsigned slot = (unsigned)__builtin_ctzll(wheel->occupied[level]);
        unsigned shift = level * DIGIT_BITS;
        uint64_t above = shift + DIGIT_BITS < 64 ? UINT64_MAX << (shift + DIGIT_BITS) : 0;

        *ret_level = level;
        *ret_slot = slot;
        *ret_start_ms = (wheel->now_ms & above) | (uint64_t)slot << shift;
        return true;
    }
    return false;
}

/* Moves all of `slot` to the end of a list, `end` being its last link; returns the new last link.
 */
static struct wheel_timer **append_slot(struct wheel_timer **end, struct wheel_slot *slot)
{
    *end = LIST_FIRST(slot);
    if (*end)
        (*end)->link.le_prev = end;
    LIST_INIT(slot);
    while (*end)
        end = &(*end)->link.le_next;
    return end;
}

/* Moves the timers of a slot whose beginning is now down to their places, or, if due, to the end.
 */
static struct wheel_timer **cascade_slot(struct wheel *wheel, struct wheel_timer **end,
                                         struct wheel_slot *slot)
{
    struct wheel_timer *timer;

    while ((timer = LIST_FIRST(slot))) {
        LIST_REMOVE(timer, link);
        if (timer->due_ms != wheel->now_ms) {
            slot_insert(wheel, timer);
            continue;
        }
        timer->link.le_next = NULL;
        timer->link.le_prev = end;
        *end = timer;
        end = &timer->link.le_next;
    }
    return end;
}

void wheel_advance(struct wheel *wheel, uint64_t now_ms)
{
    struct wheel_slot due = LIST_HEAD_INITIALIZER(due);
    struct wheel_timer **end = &LIST_FIRST(&due);
    struct wheel_timer *timer;
    unsigned level, slot;
    uint64_t start_ms;

    if (now_ms < wheel->now_ms)
        return;

    /* All that is due is set aside first, so that nothing that a `fire` arms can be among it. */
    end = append_slot(end, &wheel->overdue);
    while (slot_next(wheel, &level, &slot, &start_ms) && start_ms <= now_ms) {
        wheel->now_ms = start_ms;
        wheel->occupied[level] &= ~(UINT64_C(1) << slot);
        if (level == 0)
            end = append_slot(end, &wheel->slots[level][slot]);
        else
            end = cascade_slot(wheel, end, &wheel->slots[level][slot]);
    }
    wheel->now_ms = now_ms;

    while ((timer = LIST_FIRST(&due))) {
        LIST_REMOVE(timer, link);
        timer->due_ms = 0;
        timer->fire(timer);
    }
}

uint64_t wheel_next(const struct wheel *wheel)
{
    unsigned level, slot;
    uint64_t start_ms;

    if (!LIST_EMPTY(&wheel->overdue))
        return wheel->now_ms;
    return slot_next(wheel, &level, &slot, &start_ms) ? start_ms : WHEEL_NEVER;
}
