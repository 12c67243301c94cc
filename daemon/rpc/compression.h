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
