/*
 * Text that grows at its end, and is taken from its start.
 */
#pragma once

#include "base/util.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* Zeroed memory is an empty text. `bytes` is not NUL-terminated. */
struct text {
    char *bytes;
    size_t size;
    size_t capacity;
    bool failed; /* memory ran out: something that was added is missing */
};

/* Frees the memory; the text is empty again. */
void text_deinit(struct text *text);

/* Add to the end. Without memory for it nothing is added and `failed` is set. */
void text_add(struct text *text, const char *bytes, size_t size);
void text_add_string(struct text *text, const char *string);
void text_add_char(struct text *text, char c);
void text_printf(struct text *text, const char *format, ...) _printf_(2, 3);

/* Takes the first `size` bytes away. */
void text_take(struct text *text, size_t size);
