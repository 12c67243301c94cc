/*
 * What a connection lets its peer do. See connection_guard.h for why each number is what it is.
 *
 * A bucket of tokens is kept as one time: when it would be full. A token costs the time that one
 * takes to come back, and the bucket is empty when it would be full only after the time that all of
 * them take.
 */
#include "net/connection_guard.h"

#include "base/util.h"

#define MS_PER_S 1000

/* What is free at the start, and what a stream adds. */
#define WINDOW_UPDATES_FREE 5
#define WINDOW_UPDATES_PER_STREAM 2
#define IDLE_FRAMES_PER_STREAM 100

static bool take(uint64_t *due_ms, uint64_t now_ms, unsigned burst, unsigned per_s)
{
    uint64_t due = MAX(*due_ms, now_ms) + MS_PER_S / per_s;

    if (due - now_ms > (uint64_t)burst * (MS_PER_S / per_s))
        return false;
    *due_ms = due;
    return true;
}

/*
 * Which streams are old is known without a time for each: by the newest that there was when the
 * last two marks were made. Any stream that comes, and any reset, makes one if it is time; so after
 * a pause of two times the newest stream of all is old.
 */
static void look_at_age(struct connection_guard *guard, uint64_t now_ms)
{
    uint64_t passed_ms = now_ms - guard->mark_ms;

    if (passed_ms < GUARD_YOUNG_MS)
        return;
    guard->old_id = passed_ms < 2 * GUARD_YOUNG_MS ? guard->mark_id : guard->newest_id;
    guard->mark_id = guard->newest_id;
    guard->mark_ms = now_ms;
}

void guard_init(struct connection_guard *guard)
{
    *guard = (struct connection_guard){
        .window_updates_left = WINDOW_UPDATES_FREE,
        .idle_frames_left = IDLE_FRAMES_PER_STREAM,
    };
}

void guard_opened(struct connection_guard *guard, int32_t id, uint64_t now_ms)
{
    look_at_age(guard, now_ms);
    guard->newest_id = id;
    guard->window_updates_left += WINDOW_UPDATES_PER_STREAM;
    guard->idle_frames_left += IDLE_FRAMES_PER_STREAM;
    guard->empty_data = 0;
}

void guard_finished(struct connection_guard *guard)
{
    /* Below what it would be were the bucket full, it is the same as full. */
    guard->resets_due_ms -= MIN(guard->resets_due_ms, (uint64_t)MS_PER_S / GUARD_RESETS_PER_S);
}

bool guard_reset(struct connection_guard *guard, int32_t id, bool open, uint64_t now_ms)
{
    look_at_age(guard, now_ms);
    if (open && id <= guard->old_id)
        return true;
    return take(&guard->resets_due_ms, now_ms, GUARD_RESETS_BURST, GUARD_RESETS_PER_S);
}

bool guard_made_reset(struct connection_guard *guard, uint64_t now_ms)
{
    return take(&guard->made_resets_due_ms, now_ms, GUARD_MADE_RESETS_BURST,
                GUARD_MADE_RESETS_PER_S);
}

bool guard_data(struct connection_guard *guard, size_t size, bool end)
{
    if (size > 0 || end)
        guard->empty_data = 0;
    else
        guard->empty_data++;
    return guard->empty_data <= GUARD_EMPTY_DATA_MAX;
}
