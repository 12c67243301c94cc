/*
 * tsearch(3) keeps a balanced tree. hsearch(3) would be faster for most names, but of those that
 * begin alike ("BINANCE:BTCUSDT") it looks at each, as its hash takes in the first bytes only.
 */
#include "base/names.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

struct names_entry {
    const char *name;
    size_t size;
    uint32_t value;
};

/* Any order will do; this one compares the bytes of few. */
static int compare(const void *a, const void *b)
{
    const struct names_entry *one = a, *other = b;

    if (one->size != other->size)
        return one->size < other->size ? -1 : 1;
    return memcmp(one->name, other->name, one->size);
}

void names_deinit(struct names *names)
{
    tdestroy(names->root, free);
    names->root = NULL;
}

bool names_find(const struct names *names, const char *name, size_t size, uint32_t *ret_value)
{
    const struct names_entry entry = {.name = name, .size = size};
    struct names_entry *const *found = tfind(&entry, &names->root, compare);

    if (!found)
        return false;
    *ret_value = (*found)->value;
    return true;
}

int names_add(struct names *names, const char *name, uint32_t value)
{
    struct names_entry *entry = malloc(sizeof(*entry));

    if (!entry)
        return -ENOMEM;
    *entry = (struct names_entry){name, strlen(name), value};
    if (!tsearch(entry, &names->root, compare)) {
        free(entry);
        return -ENOMEM;
    }
    return 0;
}
