/*
 * Bytes of a call that have come and have not been processed, and the gRPC messages that they are
 * (Length-Prefixed-Message of PROTOCOL-HTTP2.md). The bytes may come in pieces of any size.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory with `message_max` set is an empty deframer. */
struct deframer {
    uint32_t message_max; /* bytes that a message may have, without its prefix */
    uint8_t *bytes;
    size_t start;
    size_t end;
    size_t capacity;
};

enum deframer_result {
    DEFRAMER_WHOLE,      /* a message is there */
    DEFRAMER_PARTIAL,    /* its end, perhaps also its prefix, has not come */
    DEFRAMER_TOO_LONG,   /* its prefix declares more than message_max bytes */
    DEFRAMER_COMPRESSED, /* its flag says so, and no compression was offered */
    DEFRAMER_BAD_FLAG,   /* its flag is neither 0 nor 1 */
    DEFRAMER_NO_UPDATE,  /* for who looks into the message: it is not what it should be */
};

/* Frees the memory; the deframer is empty again. */
void deframer_deinit(struct deframer *deframer);

/* Adds bytes (copied) to the end. 0 or -ENOMEM. */
int deframer_add(struct deframer *deframer, const uint8_t *bytes, size_t size);

/*
 * Looks at the first message. WHOLE: *ret_message (borrowed until the next call of another
 * function) and *ret_size are its body. PARTIAL: *ret_size is the size of its body, or 0 while that
 * is not known.
 */
enum deframer_result deframer_peek(const struct deframer *deframer, const uint8_t **ret_message,
                                   size_t *ret_size);

/* Takes the first message, which is whole, away; returns its size with its prefix. */
size_t deframer_take(struct deframer *deframer);

/* How many bytes it holds. */
static inline size_t deframer_size(const struct deframer *deframer)
{
    return deframer->end - deframer->start;
}
