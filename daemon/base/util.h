/*
 * Small helpers that every layer uses: clean-up attributes and a few macros. The idea is that a
 * constructor holds what it made in _cleanup_ variables and hands it over with TAKE_PTR() as its
 * last step, so that every early return frees what was made so far.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/param.h> /* MIN() and MAX(), which evaluate their arguments twice */
#include <unistd.h>

#define _cleanup_(function) __attribute__((cleanup(function)))
#define _printf_(string, first) __attribute__((__format__(__printf__, string, first)))
#define _unused_ __attribute__((unused))

#define ELEMENTSOF(array) (sizeof(array) / sizeof((array)[0]))

/* The struct of `type` whose `member` is at `pointer`. */
#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* The value of `pointer`, which is set to NULL: ownership leaves this variable. */
#define TAKE_PTR(pointer)                                                                          \
    ({                                                                                             \
        __auto_type take_pointer_ = (pointer);                                                     \
        (pointer) = NULL;                                                                          \
        take_pointer_;                                                                             \
    })

#define UTIL_CACHE_LINE 64

/* Tells the processor that so many bytes will soon be read. */
static inline void util_prefetch(const void *pointer, size_t size)
{
    for (size_t i = 0; i < size; i += UTIL_CACHE_LINE)
        __builtin_prefetch((const char *)pointer + i);
}

static inline void util_free(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}
#define _cleanup_free_ _cleanup_(util_free)

static inline void util_close(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}
#define _cleanup_close_ _cleanup_(util_close)
