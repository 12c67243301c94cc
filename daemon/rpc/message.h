/*
 * An encoded gRPC message, prefix included, made once and shared by every call that sends it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct message {
    unsigned references;
    uint32_t size; /* of bytes[], prefix included */
    uint8_t bytes[];
};

/* Room for a body of `body_size` bytes, with its prefix written. One reference. NULL: no memory. */
struct message *message_new(uint32_t body_size);

/* A message of exactly these bytes, whatever they are: the unsent rest of one, for example. */
struct message *message_from_bytes(const uint8_t *bytes, uint32_t size);

static inline uint8_t *message_body(struct message *message)
{
    return message->bytes + 5;
}

struct message *message_ref(struct message *message);
struct message *message_unref(struct message *message);
