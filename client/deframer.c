/*
 * The bytes lie in one piece, so that a message can be decoded where it lies. Memory is allocated
 * for what has come, never for what a prefix only declares.
 */
#include "client/deframer.h"

#include "base/util.h"
#include "proto/wire.h"

#include <errno.h>
#include <string.h>

/* An empty deframer keeps this much, which is what a default window needs. */
#define CAPACITY_KEPT (64 * 1024)
#define CAPACITY_MIN 4096

void deframer_deinit(struct deframer *deframer)
{
    free(deframer->bytes);
    *deframer = (struct deframer){.message_max = deframer->message_max};
}

/* Room for `size` bytes at the end. */
static int deframer_reserve(struct deframer *deframer, size_t size)
{
    size_t held = deframer_size(deframer);
    size_t capacity = MAX(deframer->capacity, (size_t)CAPACITY_MIN);
    uint8_t *bytes;

    if (size <= deframer->capacity - deframer->end)
        return 0;
    /* Moving no more than was taken away since the last move costs each byte one move at most. */
    if (deframer->start >= held && size <= deframer->capacity - held) {
        memcpy(deframer->bytes, deframer->bytes + deframer->start, held);
        deframer->start = 0;
        deframer->end = held;
        return 0;
    }
    while (capacity - held < size) {
        if (capacity > SIZE_MAX / 2)
            return -ENOMEM;
        capacity *= 2;
    }
    /* Too many bytes to move within the buffer that there is: in a new one they are moved anyway.
     */
    if (capacity == deframer->capacity)
        capacity *= 2;
    bytes = malloc(capacity);
    if (!bytes)
        return -ENOMEM;
    if (held > 0)
        memcpy(bytes, deframer->bytes + deframer->start, held);
    free(deframer->bytes);
    deframer->bytes = bytes;
    deframer->capacity = capacity;
    deframer->start = 0;
    deframer->end = held;
    return 0;
}

int deframer_add(struct deframer *deframer, const uint8_t *bytes, size_t size)
{
    int r;

    if (size == 0)
        return 0;
    r = deframer_reserve(deframer, size);
    if (r < 0)
        return r;
    memcpy(deframer->bytes + deframer->end, bytes, size);
    deframer->end += size;
    return 0;
}

enum deframer_result deframer_peek(const struct deframer *deframer, const uint8_t **ret_message,
                                   size_t *ret_size)
{
    size_t size = deframer_size(deframer);
    const uint8_t *prefix;
    uint32_t length;

    *ret_message = NULL;
    *ret_size = 0;
    if (size == 0)
        return DEFRAMER_PARTIAL; /* there may be no memory to point at */
    prefix = deframer->bytes + deframer->start;
    /* The flag is judged as soon as it is there, the length when all of it is. */
    if (prefix[0] == 1)
        return DEFRAMER_COMPRESSED;
    if (prefix[0] != 0)
        return DEFRAMER_BAD_FLAG;
    if (size < WIRE_PREFIX_SIZE)
        return DEFRAMER_PARTIAL;
    length = wire_prefix_length(prefix);
    *ret_size = length;
    if (length > deframer->message_max)
        return DEFRAMER_TOO_LONG;
    if (size - WIRE_PREFIX_SIZE < length)
        return DEFRAMER_PARTIAL;
    *ret_message = prefix + WIRE_PREFIX_SIZE;
    return DEFRAMER_WHOLE;
}

size_t deframer_take(struct deframer *deframer)
{
    size_t size = WIRE_PREFIX_SIZE + wire_prefix_length(deframer->bytes + deframer->start);

    deframer->start += size;
    if (deframer->start == deframer->end) {
        deframer->start = 0;
        deframer->end = 0;
        if (deframer->capacity > CAPACITY_KEPT) {
            free(TAKE_PTR(deframer->bytes));
            deframer->capacity = 0;
        }
    }
    return size;
}
