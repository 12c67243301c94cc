/*
 * One block of memory a message: what is sent to a thousand calls is encoded once and costs each
 * of them a pointer. There is one thread, so the count is a plain integer.
 */
#include "rpc/message.h"

#include "proto/wire.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(MESSAGE_PREFIX_SIZE == WIRE_PREFIX_SIZE, "the prefix that wire.h writes");

/* The place for a twin lies before the message, and only where somebody may ask for one: the rests
 * of messages, of which every stalled call holds one, go without. */
static size_t room_size(bool twin_room)
{
    return twin_room ? sizeof(struct message *) : 0;
}

static struct message *message_allocate(uint32_t size, bool twin_room)
{
    struct message *message;
    void *block = malloc(room_size(twin_room) + sizeof(*message) + size);

    if (!block)
        return NULL;
    message = (void *)((char *)block + room_size(twin_room));
    message->references = 1;
    message->twin_room = twin_room;
    message->size = size;
    message->due_ns = 0;
    if (twin_room)
        *message_twin(message) = NULL;
    return message;
}

struct message *message_new(uint32_t body_size)
{
    struct message *message;

    if (body_size > UINT32_MAX - MESSAGE_PREFIX_SIZE)
        return NULL;
    message = message_allocate(MESSAGE_PREFIX_SIZE + body_size, true);
    if (message)
        wire_prefix_write(message->bytes, body_size);
    return message;
}

struct message *message_from_bytes(const uint8_t *bytes, uint32_t size)
{
    struct message *message = message_allocate(size, false);

    if (message && size > 0)
        memcpy(message->bytes, bytes, size);
    return message;
}

struct message *message_ref(struct message *message)
{
    assert(message->references > 0);
    message->references++;
    return message;
}

/* Kept apart, so that giving back one of many references stays a few instructions. */
static __attribute__((noinline)) void message_free(struct message *message)
{
    if (message->twin_room && *message_twin(message) != message)
        message_unref(*message_twin(message));
    free((char *)message - room_size(message->twin_room));
}

struct message *message_unref(struct message *message)
{
    if (!message)
        return NULL;
    assert(message->references > 0);
    message->references -= 1;
    if (message->references == 0)
        message_free(message);
    return NULL;
}

struct message *message_trim(struct message *message, uint32_t body_size)
{
    size_t room = room_size(message->twin_room);
    void *block;

    assert(message->references == 1 && message->size >= MESSAGE_PREFIX_SIZE + body_size);
    message->bytes[1] = (uint8_t)(body_size >> 24);
    message->bytes[2] = (uint8_t)(body_size >> 16);
    message->bytes[3] = (uint8_t)(body_size >> 8);
    message->bytes[4] = (uint8_t)body_size;
    message->size = MESSAGE_PREFIX_SIZE + body_size;
    block = realloc((char *)message - room, room + sizeof(*message) + message->size);
    /* Without memory to move to, it stays as long as it is. */
    return block ? (void *)((char *)block + room) : message;
}

struct message **message_twin(struct message *message)
{
    void *message_start = message;

    return message->twin_room ? (struct message **)message_start - 1 : NULL;
}
