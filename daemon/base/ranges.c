/*
 * Ranges of addresses.
 */
#include "base/ranges.h"

#include "base/reason.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define UNIX_TEXT "unix"
#define IPV4_BITS 32u
#define IPV6_BITS 128u
#define MAPPED_BITS 96u /* in front of an IPv4 address that is mapped into IPv6 */

static unsigned width(sa_family_t family)
{
    return family == AF_INET ? IPV4_BITS : family == AF_INET6 ? IPV6_BITS : 0;
}

/* Sets every bit behind the first `bits` to 0. True if some were not. */
static bool clear_rest(uint8_t *address, unsigned size, unsigned bits)
{
    bool any = false;

    for (unsigned i = bits / 8; i < size; i++) {
        uint8_t keep = i == bits / 8 ? (uint8_t)(0xff00u >> bits % 8) : 0;

        any |= (address[i] & ~keep) != 0;
        address[i] &= keep;
    }
    return any;
}

/* Digits alone, up to `maximum`. */
static bool parse_bits(const char *text, size_t length, unsigned maximum, unsigned *ret)
{
    unsigned bits = 0;

    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        bits = bits * 10 + (unsigned)(text[i] - '0');
        if (bits > maximum)
            return false;
    }
    *ret = bits;
    return length > 0;
}

static bool parse_host(const char *text, size_t length, struct range *range)
{
    char host[INET6_ADDRSTRLEN];

    if (length >= sizeof host || memchr(text, '\0', length))
        return false;
    memcpy(host, text, length);
    host[length] = '\0';
    range->family = strchr(host, ':') ? AF_INET6 : AF_INET;
    return inet_pton(range->family, host, range->address) == 1;
}

/* A shorter prefix has a 0 among the bits that tell a mapped address. */
static void unmap(struct range *range)
{
    static const uint8_t mapped[MAPPED_BITS / 8] = {[10] = 0xff, [11] = 0xff};

    if (range->family != AF_INET6 || memcmp(range->address, mapped, sizeof mapped) != 0)
        return;
    range->family = AF_INET;
    range->prefix_bits = (uint8_t)(range->prefix_bits - MAPPED_BITS);
    memmove(range->address, range->address + sizeof mapped, 4);
    memset(range->address + 4, 0, sizeof range->address - 4);
}

int range_parse(const char *text, size_t length, struct range *ret_range, const char **ret_why)
{
    const char *slash = memchr(text, '/', length);
    size_t host_length = slash ? (size_t)(slash - text) : length;
    struct range range = {0};
    char meant[RANGE_TEXT_MAX];
    unsigned bits = 0;

    if (length == strlen(UNIX_TEXT) && memcmp(text, UNIX_TEXT, length) == 0) {
        *ret_range = (struct range){.family = AF_UNIX};
        return 0;
    }
    if (!parse_host(text, host_length, &range))
        return reason(ret_why,
                      "\"%.*s\" is neither a numeric address without a port nor \"" UNIX_TEXT "\"",
                      reason_shown(host_length), text);
    bits = width(range.family);
    if (slash && !parse_bits(slash + 1, length - host_length - 1, bits, &bits))
        return reason(ret_why, "the length of its prefix is \"%.*s\", not a number from 0 to %u",
                      reason_shown(length - host_length - 1), slash + 1, width(range.family));
    range.prefix_bits = (uint8_t)bits;
    if (clear_rest(range.address, width(range.family) / 8, bits))
        return reason(ret_why, "it has bits beyond its prefix; is %s meant?",
                      range_format(&range, meant));
    unmap(&range);
    *ret_range = range;
    return 0;
}

const char *range_format(const struct range *range, char text[static RANGE_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN] = "";

    if (range->family == AF_UNIX)
        return strcpy(text, UNIX_TEXT);
    (void)inet_ntop(range->family, range->address, host, sizeof host);
    if (range->prefix_bits == width(range->family))
        return strcpy(text, host);
    (void)snprintf(text, RANGE_TEXT_MAX, "%s/%u", host, range->prefix_bits);
    return text;
}

/* The address as a range of it alone. One of another family is in no range. */
static struct range range_of(const struct sockaddr *address)
{
    struct range range = {.family = address->sa_family,
                          .prefix_bits = (uint8_t)width(address->sa_family)};
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;

    /* Copied, because the caller's memory may be aligned for a plain sockaddr only. */
    if (range.family == AF_INET) {
        memcpy(&ipv4, address, sizeof ipv4);
        memcpy(range.address, &ipv4.sin_addr, sizeof ipv4.sin_addr);
    } else if (range.family == AF_INET6) {
        memcpy(&ipv6, address, sizeof ipv6);
        memcpy(range.address, &ipv6.sin6_addr, sizeof ipv6.sin6_addr);
        unmap(&range);
    }
    return range;
}

static bool holds(const struct range *range, const struct range *one)
{
    unsigned bytes = range->prefix_bits / 8u, bits = range->prefix_bits % 8u;

    if (range->family != one->family || memcmp(range->address, one->address, bytes) != 0)
        return false;
    return bits == 0 || (range->address[bytes] ^ one->address[bytes]) >> (8 - bits) == 0;
}

bool range_contains(const struct range *range, const struct sockaddr *address)
{
    const struct range one = range_of(address);

    return holds(range, &one);
}

bool ranges_contain(const struct range *ranges, size_t count, const struct sockaddr *address)
{
    const struct range one = range_of(address);

    for (size_t i = 0; i < count; i++)
        if (holds(&ranges[i], &one))
            return true;
    return count == 0;
}
