/*
 * An encoded gRPC message, prefix included, made once and shared by every call that sends it. One
 * that message_new() made may carry its compressed twin, for the calls that use gzip
 * (compression.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* WIRE_PREFIX_SIZE: what stands before the body. */
#define MESSAGE_PREFIX_SIZE 5

struct message {
    unsigned references : 31;
    unsigned twin_room : 1; /* message_new() made it */
    uint32_t size;          /* of bytes[], prefix included */
    uint64_t due_ns; /* when it should be sent, as uv_hrtime() has it; 0: as soon as it can be */
    uint8_t bytes[];
};

/*
 * Room for a body of `body_size` bytes (not yet written), its prefix written. One reference, the
 * caller's. NULL: no memory, or larger with its prefix than a length of 32 bits can say.
 */
struct message *message_new(uint32_t body_size);

/*
 * A message of exactly these bytes, copied, whatever they are: the unsent rest of one, for example.
 * One reference, the caller's. NULL: no memory.
 */
struct message *message_from_bytes(const uint8_t *bytes, uint32_t size);

static inline uint8_t *message_body(struct message *message)
{
    return message->bytes + MESSAGE_PREFIX_SIZE;
}

/* Is its body compressed, as its prefix says? */
static inline bool message_is_compressed(const struct message *message)
{
    return message->size > 0 && message->bytes[0] == 1;
}

/*
 * Cuts a body that turned out shorter than message_new() was told. The caller's is the only
 * reference; the message may move, its new place is returned.
 */
struct message *message_trim(struct message *message, uint32_t body_size);

/*
 * Where `message` keeps its twin: NULL there at first; then a message whose reference it owns, or
 * itself, where a twin is not worth having. NULL if it has no room for one.
 */
struct message **message_twin(struct message *message);

/* Takes one reference more; returns `message`. */
struct message *message_ref(struct message *message);

/* Gives a reference back; the last one frees the message. NULL is allowed; returns NULL. */
struct message *message_unref(struct message *message);
