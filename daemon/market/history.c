#include "market/history.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Updates are about as long as this, or longer: there are entries enough for all bytes. */
#define UPDATE_SIZE_USUAL 128

int history_init(struct history *history, size_t size)
{
    size_t entries = 1;

    while (entries < size / UPDATE_SIZE_USUAL)
        entries *= 2;
    *history = (struct history){
        .bytes = malloc(size),
        .size = size,
        .entries = calloc(entries, sizeof(*history->entries)),
        .mask = entries - 1,
        .first = HISTORY_START + 1,
        .last = HISTORY_START,
    };
    if (history->bytes && history->entries)
        return 0;
    history_deinit(history);
    return -ENOMEM;
}

void history_deinit(struct history *history)
{
    free(history->bytes);
    free(history->entries);
    *history = (struct history){0};
}

/*
 * Where the bytes of one more would lie; SIZE_MAX if there is no room. An update's bytes lie in one
 * piece, so that what is left at the end may stay unused. The head never comes up to the tail:
 * where both are equal the history is empty.
 */
static size_t find_place(const struct history *history, uint32_t size)
{
    size_t head = history->head, tail;

    if (history_is_empty(history))
        return size < history->size ? 0 : SIZE_MAX;
    if (history->last - history->first == history->mask)
        return SIZE_MAX;
    tail = history_at(history, history->first)->place;
    if (head <= tail)
        return tail - head > size ? head : SIZE_MAX;
    if (history->size - head >= size)
        return head;
    return tail > size ? 0 : SIZE_MAX;
}

bool history_has_room(const struct history *history, uint32_t size)
{
    return find_place(history, size) != SIZE_MAX;
}

void history_forget(struct history *history)
{
    history->first++;
}

struct history_entry *history_add(struct history *history, const uint8_t *bytes, uint32_t size)
{
    size_t place = find_place(history, size);
    struct history_entry *entry = history_at(history, ++history->last);

    memcpy(history->bytes + place, bytes, size);
    *entry = (struct history_entry){
        .before = history->total,
        .place = (uint32_t)place,
        .size = size,
    };
    history->head = place + size;
    history->total += size;
    return entry;
}
