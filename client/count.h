/*
 * Sums of numbers that a server tells. What it says may be as large as it likes; a sum stays at the
 * highest number then, for one that began anew at 0 would be a small number that nobody has told.
 */
#pragma once

#include <stdint.h>

static inline void count_add(uint64_t *total, uint64_t more)
{
    if (__builtin_add_overflow(*total, more, total))
        *total = UINT64_MAX;
}
