/*
 * The input of the targets that have a conversation: a program of actions, each a byte that says
 * what to do, two bytes of a length, and so many bytes of arguments. A length that is too long ends
 * with the input, so every input is a program. The mutator (mutate.c) knows this form, and so
 * changes, adds, and drops whole actions.
 */
#pragma once

#include "fuzz.h"
#include "memory.h"

/* Bytes of options before the first action. */
#define PROGRAM_OPTIONS 4
#define PROGRAM_ACTION_HEAD 3

/* Longer programs say nothing that a shorter one does not. */
#define PROGRAM_ACTIONS_MAX 400

/* The next action. False at the end. */
static inline bool program_next(struct reader *program, uint8_t *ret_action,
                                struct reader *ret_arguments)
{
    if (program->size == 0)
        return false;
    *ret_action = read_u8(program);
    *ret_arguments = read_part(program, read_u16(program));
    return true;
}

/* ---- HTTP/2 frames ---- */

enum {
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_PRIORITY = 2,
    FRAME_RST_STREAM = 3,
    FRAME_SETTINGS = 4,
    FRAME_PUSH_PROMISE = 5,
    FRAME_PING = 6,
    FRAME_GOAWAY = 7,
    FRAME_WINDOW_UPDATE = 8,
    FRAME_CONTINUATION = 9,
    FRAME_HEAD = 9,

    FLAG_END_STREAM = 1,
    FLAG_ACK = 1,
    FLAG_END_HEADERS = 4,
    FLAG_PADDED = 8,
};

void frame_add(struct buffer *buffer, uint8_t type, uint8_t flags, uint32_t stream,
               const void *payload, size_t size);

void frame_add_u32(struct buffer *buffer, uint8_t type, uint32_t stream, uint32_t value);

/* HEADERS, and CONTINUATION where the block is longer than `part` bytes. */
void frame_add_block(struct buffer *buffer, uint8_t flags, uint32_t stream,
                     const struct buffer *block, size_t part);

/* SETTINGS of entries from the input: a byte of name, four of value. */
void frame_add_settings(struct buffer *buffer, struct reader *arguments);

/* A header field as a literal; with `index` it goes into the dynamic table. */
void block_add(struct buffer *block, bool index, const void *name, size_t name_size,
               const void *value, size_t value_size);
void block_add_text(struct buffer *block, bool index, const char *name, const char *value);

/* Fields from the input: each a length, the name, a length, the value. */
void block_add_input(struct buffer *block, bool index, struct reader *arguments);

/* What write() keeps is accepted now, or lost with a negative errno, if there is any. */
void socket_release(struct memory *memory, int error);

/* Reads big-endian. */
uint32_t frame_u32(const uint8_t *bytes);
