/* See metadata.h. */
#include "rpc/metadata.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int metadata_add(struct metadata *metadata, const struct header *header)
{
    uint16_t lengths[2] = {(uint16_t)header->name_length, (uint16_t)header->value_length};
    size_t size = sizeof(lengths) + header->name_length + header->value_length;
    uint8_t *bytes;

    if (metadata->size + size > METADATA_BYTES_MAX)
        return 1;
    bytes = realloc(metadata->bytes, metadata->size + size);
    if (!bytes)
        return -ENOMEM;
    metadata->bytes = bytes;
    bytes += metadata->size;
    metadata->size += size;
    metadata->count++;
    memcpy(bytes, lengths, sizeof(lengths));
    memcpy(bytes + sizeof(lengths), header->name, header->name_length);
    memcpy(bytes + sizeof(lengths) + header->name_length, header->value, header->value_length);
    return 0;
}

int metadata_add_unpadded(struct metadata *metadata, const struct header *header)
{
    char value[METADATA_BYTES_MAX];
    size_t length = 0;

    if (!header_is_binary(header) || header->value_length > sizeof(value))
        return metadata_add(metadata, header);
    for (size_t i = 0; i < header->value_length; i++) {
        if (header->value[i] != '=')
            value[length++] = header->value[i];
    }
    return metadata_add(metadata,
                        &(struct header){header->name, header->name_length, value, length});
}

bool metadata_next(const struct metadata *metadata, size_t *offset, struct header *ret_header)
{
    uint16_t lengths[2];
    const char *text;

    if (*offset >= metadata->size)
        return false;
    memcpy(lengths, metadata->bytes + *offset, sizeof(lengths));
    text = (const char *)metadata->bytes + *offset + sizeof(lengths);
    *ret_header = (struct header){text, lengths[0], text + lengths[0], lengths[1]};
    *offset += sizeof(lengths) + lengths[0] + lengths[1];
    return true;
}

void metadata_deinit(struct metadata *metadata)
{
    free(metadata->bytes);
    *metadata = (struct metadata){0};
}
