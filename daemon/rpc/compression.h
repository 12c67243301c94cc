/*
 * gzip of messages (compression.md of github.com/grpc/grpc/doc). The only file of rpc/ that knows
 * zlib.
 *
 * zlib's state is large (a quarter of a megabyte to compress), so it is made once and used for one
 * message after the other; no call holds any.
 */
#pragma once

#include "rpc/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What grpc-accept-encoding says here. */
#define COMPRESSION_ACCEPTED "identity,gzip"

/* Is `name` among the encodings of a grpc-accept-encoding value? */
bool compression_accepts(const char *value, size_t length, const char *name);

/*
 * A message with the same body, compressed, its flag set. One reference, the caller's. NULL: no
 * memory. It may be longer than what it was made from.
 */
struct message *compression_gzip(const struct message *message);

/*
 * What to send of `message` where gzip may be used: its compressed twin, or itself, if that would
 * not be shorter, is compressed already, or for want of memory. The twin is made when it is first
 * asked for and lives as long as `message`, so that what goes to a thousand calls is compressed
 * once. Borrowed from `message`.
 */
struct message *compression_twin(struct message *message);

/*
 * Compresses a body into `ret_bytes`, if the result is no longer than `max`. Its size, 0 if it
 * would be longer or for want of memory.
 */
size_t compression_gzip_bytes(const uint8_t *body, size_t size, uint8_t *ret_bytes, size_t max);

/* What decompression came to. */
enum compression_outcome {
    COMPRESSION_OK = 0,
    COMPRESSION_CORRUPT = 1, /* no gzip, cut off, a wrong checksum, or something behind its end */
    COMPRESSION_TOO_LONG = 2,
};

/*
 * Decompresses `size` bytes into memory that the caller frees (NULL for an empty body). Stops at
 * `max` + 1 bytes, whatever the input would become. An outcome, or -ENOMEM.
 */
int compression_gunzip(const uint8_t *bytes, size_t size, size_t max, uint8_t **ret_bytes,
                       size_t *ret_size);
