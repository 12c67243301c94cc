/*
 * protobuf-c takes any bytes for a string; the others refuse a message whose strings are no UTF-8,
 * and a message that quotes such a string would be refused by whoever asked.
 */
#pragma once

#include "proto/utf8.h"

#include <stdbool.h>
#include <string.h>

static inline bool string_is_utf8(const char *string)
{
    size_t rest = strlen(string);
    uint32_t code;
    size_t size;

    for (; rest > 0; rest -= size, string += size) {
        if (!utf8_decode(string, rest, &code, &size))
            return false;
    }
    return true;
}
