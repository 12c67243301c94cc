#include "program.h"

#include "base/util.h"

#include <string.h>

#define SETTING_SIZE 6
#define SETTINGS_MAX 20

uint32_t frame_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

void frame_add(struct buffer *buffer, uint8_t type, uint8_t flags, uint32_t stream,
               const void *payload, size_t size)
{
    const uint8_t head[FRAME_HEAD] = {
        (uint8_t)(size >> 16),
        (uint8_t)(size >> 8),
        (uint8_t)size,
        type,
        flags,
        (uint8_t)(stream >> 24),
        (uint8_t)(stream >> 16),
        (uint8_t)(stream >> 8),
        (uint8_t)stream,
    };

    buffer_append(buffer, head, sizeof(head));
    buffer_append(buffer, payload, size);
}

void frame_add_u32(struct buffer *buffer, uint8_t type, uint32_t stream, uint32_t value)
{
    const uint8_t payload[] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16),
                               (uint8_t)(value >> 8), (uint8_t)value};

    frame_add(buffer, type, 0, stream, payload, sizeof(payload));
}

void frame_add_block(struct buffer *buffer, uint8_t flags, uint32_t stream,
                     const struct buffer *block, size_t part)
{
    size_t sent = 0;

    do {
        size_t size = MIN(part, block->size - sent);
        uint8_t more = sent + size == block->size ? FLAG_END_HEADERS : 0;

        if (sent == 0)
            frame_add(buffer, FRAME_HEADERS, flags | more, stream, block->bytes, size);
        else
            frame_add(buffer, FRAME_CONTINUATION, more, stream, block->bytes + sent, size);
        sent += size;
    } while (sent < block->size);
}

void frame_add_settings(struct buffer *buffer, struct reader *arguments)
{
    uint8_t payload[SETTINGS_MAX * SETTING_SIZE] = {0};
    size_t size = 0;

    for (; arguments->size > 0 && size < sizeof(payload); size += SETTING_SIZE) {
        /* Names have two bytes, of which only the second one means anything. */
        for (unsigned i = 1; i < SETTING_SIZE; i++)
            payload[size + i] = read_u8(arguments);
    }
    frame_add(buffer, FRAME_SETTINGS, 0, 0, payload, size);
}

/* An integer of HPACK with a prefix of 7 bits (RFC 7541, 5.1). */
static void block_add_length(struct buffer *block, size_t length)
{
    uint8_t byte = (uint8_t)MIN(length, (size_t)127);

    buffer_append(block, &byte, 1);
    if (length < 127)
        return;
    for (length -= 127; length >= 128; length /= 128) {
        byte = (uint8_t)(length % 128 + 128);
        buffer_append(block, &byte, 1);
    }
    byte = (uint8_t)length;
    buffer_append(block, &byte, 1);
}

void block_add(struct buffer *block, bool index, const void *name, size_t name_size,
               const void *value, size_t value_size)
{
    const uint8_t head = index ? 0x40 : 0;

    buffer_append(block, &head, 1);
    block_add_length(block, name_size);
    buffer_append(block, name, name_size);
    block_add_length(block, value_size);
    buffer_append(block, value, value_size);
}

void block_add_text(struct buffer *block, bool index, const char *name, const char *value)
{
    block_add(block, index, name, strlen(name), value, strlen(value));
}

void block_add_input(struct buffer *block, bool index, struct reader *arguments)
{
    while (arguments->size > 0) {
        struct reader name = read_part(arguments, read_u8(arguments));
        struct reader value = read_part(arguments, read_u8(arguments));

        block_add(block, index, name.bytes, name.size, value.bytes, value.size);
    }
}

void socket_release(struct memory *memory, int error)
{
    if (memory->kept == 0 || memory->closing)
        return;
    loop_cancel(memory->loop, &memory->task); /* of `release_now` */
    memory_release(memory, error);
}
