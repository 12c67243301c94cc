/*
 * Times as people and programs write them into data, as nanoseconds since the Unix epoch: of the
 * years 1678 to 2261, whatever the form.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * RFC 3339 ("2026-01-31T09:30:00.123456+01:00"; a space may stand for the T; a leap second is the
 * second after it), or a number since the epoch: seconds below 10^11, milliseconds below 10^14,
 * microseconds below 10^17, else nanoseconds, each with a decimal fraction perhaps. Digits beyond
 * the nanosecond are cut off. NULL, or what is wrong with it.
 */
const char *feed_time_parse(const char *text, size_t size, int64_t *ret_ns);

/* The same for numbers. */
const char *feed_time_of_integer(int64_t value, int64_t *ret_ns);
const char *feed_time_of_real(double value, int64_t *ret_ns);

/* The second that it is in. */
static inline int64_t feed_time_second(int64_t ns)
{
    int64_t second = ns / 1000000000;

    return second - (ns % 1000000000 < 0);
}
