/*
 * The newest updates of a market, encoded, in a ring with a bound in bytes. Updates have one
 * sequence; those of one ticker are chained. Private to market/.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The sequence that stands for the time before the first update, so that 0 is none. */
#define HISTORY_START 1

struct history_entry {
    uint64_t before;        /* bytes of all updates before it, ever */
    uint64_t ticker_before; /* of those of its ticker */
    uint64_t nth;           /* of its ticker, from 1 */
    uint64_t next;          /* sequence of its ticker's next; 0: none yet */
    uint64_t published_ms;
    uint32_t place; /* of its bytes */
    uint32_t size;
    uint32_t ticker;
};

struct history {
    uint8_t *bytes;
    size_t size;
    struct history_entry *entries;
    uint64_t mask;  /* of their ring */
    uint64_t first; /* sequence of the oldest; last + 1 if there is none */
    uint64_t last;  /* of the newest ever; HISTORY_START: none yet */
    uint64_t total; /* bytes of all updates, ever */
    size_t head;    /* where the next one's bytes begin */
};

/* Room for `size` bytes, below 2^32. 0 or -ENOMEM. */
int history_init(struct history *history, size_t size);
void history_deinit(struct history *history);

/* The entry of an update that is in the history. */
static inline struct history_entry *history_at(const struct history *history, uint64_t sequence)
{
    return &history->entries[sequence & history->mask];
}

static inline bool history_has(const struct history *history, uint64_t sequence)
{
    return sequence >= history->first && sequence <= history->last;
}

static inline bool history_is_empty(const struct history *history)
{
    return history->first > history->last;
}

/* Is there room for one of `size` bytes? If not the oldest must go. */
bool history_has_room(const struct history *history, uint32_t size);

/* Forgets the oldest. */
void history_forget(struct history *history);

/* Adds an update, for which there is room. Its bytes are copied; what else there is of its entry
 * is for the caller. */
struct history_entry *history_add(struct history *history, const uint8_t *bytes, uint32_t size);
