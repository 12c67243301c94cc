/*
 * Random numbers for delays and backoff. Drawn a few times a second at most, so they come from the
 * kernel and there is no state to seed.
 */
#pragma once

#include <stdint.h>

/* Uniform in [0, 1). */
double client_random_unit(void);

/* Uniform among the whole numbers from `minimum` to `maximum`, both included. */
uint64_t client_random_between(uint64_t minimum, uint64_t maximum);
