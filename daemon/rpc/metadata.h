/*
 * Header fields kept for later: custom metadata of a request or an answer.
 */
#pragma once

#include "net/connection.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Of a request it always fits, being counted with less than RFC 9113 counts. */
#define METADATA_BYTES_MAX (16 * 1024)

/* Is its value binary, in base64 (PROTOCOL-HTTP2.md)? */
static inline bool header_is_binary(const struct header *header)
{
    return header->name_length > 4 &&
           memcmp(header->name + header->name_length - 4, "-bin", 4) == 0;
}

/* Fields one after the other: two lengths, then name and value. Zeroed memory is valid. */
struct metadata {
    uint8_t *bytes;
    size_t size;
    unsigned count;
};

/* Keeps a copy of `header`. 0, 1 if it would be more than METADATA_BYTES_MAX, or -ENOMEM. */
int metadata_add(struct metadata *metadata, const struct header *header);

/* The same, but "-bin" values, base64, several joined with commas, lose their padding, which gRPC
 * wants unsent. */
int metadata_add_unpadded(struct metadata *metadata, const struct header *header);

/* The field at *offset, from 0, borrowed; *offset moves on to the next one. False at the end. */
bool metadata_next(const struct metadata *metadata, size_t *offset, struct header *ret_header);

/* Frees what is kept; the metadata is empty then. */
void metadata_deinit(struct metadata *metadata);
