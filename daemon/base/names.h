/*
 * A table of names and the numbers that they stand for.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct names_slot;

/* Zeroed memory is a table without room, and may be deinitialised. */
struct names {
    struct names_slot *slots;
    size_t mask; /* their number, a power of two, less 1 */
    uint64_t key[2];
};

/* Makes room for so many names. 0 or -ENOMEM. */
int names_init(struct names *names, size_t room);
void names_deinit(struct names *names);

/* True if there is such a name, of `size` bytes; *ret_value is untouched otherwise. */
bool names_find(const struct names *names, const char *name, size_t size, uint32_t *ret_value);

/* Adds a name that is not there yet, and for which there is room. It is borrowed. */
void names_add(struct names *names, const char *name, uint32_t value);
