/*
 * Only the form is checked here, so that a slip of the pen is an error of usage, told at once, and
 * not a name that the resolver looks for again and again.
 */
#include "client/target.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool is_host_character(unsigned char c)
{
    /* Bytes above 127: names of other scripts, as the resolver's own locale has them. */
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c > 127;
}

static int parse_name(struct target *target, const char *text, size_t length, const char **ret_why)
{
    if (length == 0) {
        *ret_why = "there is no host";
        return -EINVAL;
    }
    if (length > TARGET_HOST_MAX) {
        *ret_why = "the host is too long";
        return -EINVAL;
    }
    for (size_t i = 0; i < length; i++) {
        if (!is_host_character((unsigned char)text[i])) {
            *ret_why = "the host has a character that no name has";
            return -EINVAL;
        }
    }
    (void)snprintf(target->host, sizeof(target->host), "%.*s", (int)length, text);
    return 0;
}

/* What stands between the brackets: an IPv6 address, perhaps with "%scope". */
static int parse_ipv6(struct target *target, const char *text, size_t length, const char **ret_why)
{
    const char *percent = memchr(text, '%', length);
    size_t address_length = percent ? (size_t)(percent - text) : length;
    char address[INET6_ADDRSTRLEN];
    struct in6_addr binary;

    *ret_why = "what is in the brackets is no IPv6 address";
    if (address_length >= sizeof(address) || length > TARGET_HOST_MAX)
        return -EINVAL;
    (void)snprintf(address, sizeof(address), "%.*s", (int)address_length, text);
    if (inet_pton(AF_INET6, address, &binary) != 1)
        return -EINVAL;
    if (percent && length - address_length < 2) {
        *ret_why = "there is no scope after the '%'";
        return -EINVAL;
    }
    (void)snprintf(target->host, sizeof(target->host), "%.*s", (int)length, text);
    /* A scope means something on this machine alone, so the server is not told (RFC 6874). */
    (void)snprintf(target->authority, sizeof(target->authority), "[%s]", address);
    return 0;
}

static int parse_port(struct target *target, const char *text, const char **ret_why)
{
    size_t length = strspn(text, "0123456789");
    unsigned port = 0;

    if (length == 0 || text[length]) {
        *ret_why = "the port is no number";
        return -EINVAL;
    }
    for (size_t i = 0; i < length && port <= 65535; i++)
        port = port * 10 + (unsigned)(text[i] - '0');
    if (port < 1 || port > 65535) {
        *ret_why = "the port is out of range (1 to 65535)";
        return -EINVAL;
    }
    (void)snprintf(target->port, sizeof(target->port), "%u", port & 0xffff);
    return 0;
}

int target_parse(struct target *ret_target, const char *text, const char **ret_why)
{
    struct target target = {0};
    const char *rest;
    size_t used;
    int r;

    if (text[0] == '[') {
        const char *end = strchr(text, ']');

        if (!end) {
            *ret_why = "there is no ']'";
            return -EINVAL;
        }
        r = parse_ipv6(&target, text + 1, (size_t)(end - text) - 1, ret_why);
        rest = end + 1;
    } else {
        size_t length = strcspn(text, ":");

        if (text[length] && strchr(text + length + 1, ':')) {
            *ret_why = "an IPv6 address wants brackets: [::1]:4444";
            return -EINVAL;
        }
        r = parse_name(&target, text, length, ret_why);
        (void)snprintf(target.authority, sizeof(target.authority), "%s", target.host);
        rest = text + length;
    }
    if (r < 0)
        return r;

    if (*rest == ':') {
        r = parse_port(&target, rest + 1, ret_why);
        if (r < 0)
            return r;
    } else if (*rest) {
        *ret_why = "what follows the ']' is no ':PORT'";
        return -EINVAL;
    } else {
        (void)snprintf(target.port, sizeof(target.port), "%d", TARGET_PORT_DEFAULT);
    }
    used = strlen(target.authority);
    (void)snprintf(target.authority + used, sizeof(target.authority) - used, ":%s", target.port);
    *ret_target = target;
    return 0;
}
