/*
 * "yes" and "no", and what else people write for them; for every place where settings are read.
 */
#pragma once

#include "base/util.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Reads `length` bytes: yes, true, on, 1; no, false, off, 0. False if it is none of them. */
static inline bool boolean_parse(const char *text, size_t length, bool *ret)
{
    static const char *const words[] = {"no", "false", "off", "0", "yes", "true", "on", "1"};

    for (size_t i = 0; i < ELEMENTSOF(words); i++)
        if (strlen(words[i]) == length && memcmp(words[i], text, length) == 0) {
            *ret = i >= ELEMENTSOF(words) / 2;
            return true;
        }
    return false;
}
