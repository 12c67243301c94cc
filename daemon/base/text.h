/*
 * Text that grows at its end, and is taken from its start.
 */
#pragma once

#include "base/util.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Zeroed memory is an empty text. `bytes` is not NUL-terminated. */
struct text {
    char *bytes;
    size_t size;
    size_t capacity;
    bool failed; /* memory ran out: something that was added is missing */
};

/* Frees the memory; the text is empty again. */
void text_deinit(struct text *text);

/* Makes room for `size` more bytes. False without memory for it; then `failed` is set. */
bool text_reserve(struct text *text, size_t size);

/*
 * Add to the end. Without memory for it nothing is added and `failed` is set. Metrics are written
 * in thousands of small pieces, so what is nearly always the whole work is inline.
 */
static inline void text_add(struct text *text, const char *bytes, size_t size)
{
    if (size == 0 || (size > text->capacity - text->size && !text_reserve(text, size)))
        return;
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
}

static inline void text_add_string(struct text *text, const char *string)
{
    text_add(text, string, strlen(string));
}

static inline void text_add_char(struct text *text, char c)
{
    text_add(text, &c, 1);
}

void text_printf(struct text *text, const char *format, ...) _printf_(2, 3);

/* Takes the first `size` bytes away. */
void text_take(struct text *text, size_t size);
