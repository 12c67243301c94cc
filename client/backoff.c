/*
 * The wait is counted from the beginning of an attempt, not from its failure: an attempt that took
 * 20 seconds to fail has already waited, while one that is refused at once waits the whole time.
 * It is also why no server, whatever it does, is ever called more than once a second.
 */
#include "client/backoff.h"

#include "base/util.h"

void backoff_begin(struct backoff *backoff, uint64_t now_ms, double random)
{
    double spread = 0;

    /* The first wait of a row has no jitter in gRPC's document. */
    if (backoff->current_ms == 0) {
        backoff->current_ms = BACKOFF_INITIAL_MS;
    } else {
        backoff->current_ms = MIN(backoff->current_ms * BACKOFF_MULTIPLIER, (double)BACKOFF_MAX_MS);
        spread = (2 * random - 1) * BACKOFF_JITTER * backoff->current_ms;
    }
    backoff->begun_ms = now_ms;
    backoff->next_ms = now_ms + (uint64_t)(backoff->current_ms + spread);
    backoff->connect_by_ms = MAX(backoff->next_ms, now_ms + BACKOFF_CONNECT_MIN_MS);
}

void backoff_reset(struct backoff *backoff)
{
    backoff->current_ms = 0;
    backoff->next_ms = backoff->begun_ms + BACKOFF_INITIAL_MS;
}

uint64_t backoff_wait_ms(const struct backoff *backoff, uint64_t now_ms)
{
    return backoff->next_ms > now_ms ? backoff->next_ms - now_ms : 0;
}
