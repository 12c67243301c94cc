/*
 * Ranges of addresses, as access lists have them: "10.0.0.0/8", "2001:db8::/32", "192.0.2.7",
 * "unix" (every Unix socket).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* One range. IPv4 is kept as IPv4, also where it was written mapped into IPv6. */
struct range {
    sa_family_t family; /* AF_INET, AF_INET6 or AF_UNIX */
    uint8_t prefix_bits;
    uint8_t address[16];
};

/*
 * Reads `length` bytes. Bits beyond the prefix must be 0, since they are most often a mistake. 0 or
 * -EINVAL; then *ret_why says in words what is wrong, in memory that this thread's next call
 * overwrites.
 */
int range_parse(const char *text, size_t length, struct range *ret_range, const char **ret_why);

/* Room for the longest text that range_format() makes. */
#define RANGE_TEXT_MAX 64

/* "10.0.0.0/8"; a whole address without its "/32" or "/128". Returns `text`. */
const char *range_format(const struct range *range, char text[static RANGE_TEXT_MAX]);

/* Is the address in it? An IPv4 address mapped into IPv6 counts as IPv4. */
bool range_contains(const struct range *range, const struct sockaddr *address);

/* Is it in one of them? An empty list contains every address. */
bool ranges_contain(const struct range *ranges, size_t count, const struct sockaddr *address);
