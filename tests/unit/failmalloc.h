/*
 * An allocator that fails once, at a chosen allocation: a test runs the same steps with the first
 * allocation failing, then the second, and so on, until a run is through without a failure.
 *
 *     for (size_t nth = 1;; nth++) {
 *         failmalloc_arm(nth);
 *         r = thing_new(&thing);
 *         if (!failmalloc_disarm())
 *             break;
 *         ... r is -ENOMEM, or the failure was survived; thing_free(thing) ...
 *     }
 *
 * The build links it into every test_*_nomem.c and directs to it what is called from the test and
 * from our own (static) libraries. Shared libraries keep the ordinary functions, unless they can be
 * given others: in such a test `malloc`, `calloc` and `realloc` are the failing ones, so that
 * uv_replace_allocator(malloc, realloc, calloc, free) makes libuv's allocations fail too.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* The `nth` allocation from now (1: the next one) fails, as without memory. Others go through. */
void failmalloc_arm(size_t nth);

/* No allocation fails any more. True if one did since failmalloc_arm(). */
bool failmalloc_disarm(void);
