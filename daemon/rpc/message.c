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

static struct message *message_allocate(uint32_t size)
{
    struct message *message = malloc(sizeof(*message) + size);

    if (!message)
        return NULL;
    message->references = 1;
    message->size = size;
    return message;
}

struct message *message_new(uint32_t body_size)
{
    struct message *message;

    if (body_size > UINT32_MAX - MESSAGE_PREFIX_SIZE)
        return NULL;
    message = message_allocate(MESSAGE_PREFIX_SIZE + body_size);
    if (message)
        wire_prefix_write(message->bytes, body_size);
    return message;
}

struct message *message_from_bytes(const uint8_t *bytes, uint32_t size)
{
    struct message *message = message_allocate(size);

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

struct message *message_unref(struct message *message)
{
    if (!message)
        return NULL;
    assert(message->references > 0);
    if (--message->references == 0)
        free(message);
    return NULL;
}
