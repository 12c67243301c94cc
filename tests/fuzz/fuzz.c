#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fuzz_fail(const char *file, int line, const char *condition)
{
    (void)fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, condition);
    abort();
}

void *fuzz_room(size_t size)
{
    void *room = malloc(size > 0 ? size : 1);

    CHECK(room);
    return room;
}

void *fuzz_copy(const uint8_t *bytes, size_t size, bool terminate)
{
    char *copy = malloc(size + terminate);

    CHECK(copy || size + terminate == 0);
    if (size > 0)
        memcpy(copy, bytes, size);
    if (terminate)
        copy[size] = '\0';
    return copy;
}
