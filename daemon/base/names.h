/*
 * A table of names and the numbers that they stand for. However alike the names are, to find one
 * takes comparisons of the order of the logarithm of their number.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed memory is a table without names. */
struct names {
    void *root;
};

void names_deinit(struct names *names);

/* True if there is such a name, of `size` bytes, which may be any; else *ret_value is untouched. */
bool names_find(const struct names *names, const char *name, size_t size, uint32_t *ret_value);

/* Adds a name that is not there yet. It is borrowed. 0 or -ENOMEM. */
int names_add(struct names *names, const char *name, uint32_t value);
