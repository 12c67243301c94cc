/*
 * One buffer, doubled when it is full: output is made by appending, so that no piece of it needs a
 * size that was guessed before.
 */
#include "base/text.h"

#include "base/util.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define CAPACITY_MIN 256

void text_deinit(struct text *text)
{
    free(text->bytes);
    *text = (struct text){0};
}

bool text_reserve(struct text *text, size_t size)
{
    size_t capacity = MAX(text->capacity, (size_t)CAPACITY_MIN);
    char *bytes;

    if (size <= text->capacity - text->size)
        return true;
    while (capacity - text->size < size) {
        if (capacity > SIZE_MAX / 2) {
            text->failed = true;
            return false;
        }
        capacity *= 2;
    }
    bytes = realloc(text->bytes, capacity);
    if (!bytes) {
        text->failed = true;
        return false;
    }
    text->bytes = bytes;
    text->capacity = capacity;
    return true;
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list arguments;
    size_t room;
    int size;

    /* vsnprintf() wants room for a NUL as well, which is then not counted as part of the text. */
    if (!text_reserve(text, CAPACITY_MIN))
        return;
    room = text->capacity - text->size;
    va_start(arguments, format);
    size = vsnprintf(text->bytes + text->size, room, format, arguments);
    va_end(arguments);
    if (size >= 0 && (size_t)size >= room) {
        if (!text_reserve(text, (size_t)size + 1))
            return;
        va_start(arguments, format);
        size = vsnprintf(text->bytes + text->size, (size_t)size + 1, format, arguments);
        va_end(arguments);
    }
    if (size < 0) {
        text->failed = true;
        return;
    }
    text->size += (size_t)size;
}

void text_take(struct text *text, size_t size)
{
    if (size == 0)
        return;
    text->size -= size;
    memmove(text->bytes, text->bytes + size, text->size);
}
