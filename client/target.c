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

static int check_name(const char *text, size_t length, const char **ret_why)
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
    return 0;
}

/* A dot at a name's end, which tells the resolver that it is complete, is in no certificate. */
static void set_name(struct target *target, const char *name)
{
    size_t length = strlen(name);

    if (length > 1 && name[length - 1] == '.')
        length--;
    (void)snprintf(target->name, sizeof(target->name), "%.*s", (int)length, name);
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
    set_name(target, address);
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

static int parse_path(struct target *target, const char *path, const char **ret_why)
{
    /* Between two slashes and the third there is a host in a URL, and here there is none. */
    if (strncmp(path, "//", 2) == 0) {
        if (path[2] != '/') {
            *ret_why = "a Unix socket is on no host: write unix:PATH or unix:///PATH";
            return -EINVAL;
        }
        path += 2;
    }
    if (!*path) {
        *ret_why = "there is no path";
        return -EINVAL;
    }
    if (strlen(path) > ADDRESS_PATH_MAX) {
        *ret_why = "the path is longer than 107 bytes, which is all that a Unix socket's may have";
        return -EINVAL;
    }
    (void)snprintf(target->path, sizeof(target->path), "%s", path);
    (void)snprintf(target->text, sizeof(target->text), "unix:%s", path);
    (void)snprintf(target->authority, sizeof(target->authority), "localhost");
    set_name(target, "localhost");
    return 0;
}

static int parse_host_and_port(struct target *target, const char *text, const char **ret_why)
{
    const char *rest;
    size_t used;
    int r;

    if (text[0] == '[') {
        const char *end = strchr(text, ']');

        if (!end) {
            *ret_why = "there is no ']'";
            return -EINVAL;
        }
        r = parse_ipv6(target, text + 1, (size_t)(end - text) - 1, ret_why);
        rest = end + 1;
    } else {
        size_t length = strcspn(text, ":");

        if (text[length] && strchr(text + length + 1, ':')) {
            *ret_why = "an IPv6 address wants brackets: [::1]:4444";
            return -EINVAL;
        }
        r = check_name(text, length, ret_why);
        if (r == 0)
            (void)snprintf(target->host, sizeof(target->host), "%.*s", (int)length, text);
        (void)snprintf(target->authority, sizeof(target->authority), "%s", target->host);
        set_name(target, target->host);
        rest = text + length;
    }
    if (r < 0)
        return r;

    if (*rest == ':') {
        r = parse_port(target, rest + 1, ret_why);
        if (r < 0)
            return r;
    } else if (*rest) {
        *ret_why = "what follows the ']' is no ':PORT'";
        return -EINVAL;
    } else {
        (void)snprintf(target->port, sizeof(target->port), "%d", TARGET_PORT_DEFAULT);
    }
    used = strlen(target->authority);
    (void)snprintf(target->authority + used, sizeof(target->authority) - used, ":%s", target->port);
    (void)snprintf(target->text, sizeof(target->text), "%s", target->authority);
    return 0;
}

int target_parse(struct target *ret_target, const char *text, const char **ret_why)
{
    static const char scheme[] = "unix:";
    struct target target = {0};
    int r;

    if (strncmp(text, scheme, strlen(scheme)) == 0)
        r = parse_path(&target, text + strlen(scheme), ret_why);
    else
        r = parse_host_and_port(&target, text, ret_why);
    if (r == 0)
        *ret_target = target;
    return r;
}

int target_rename(struct target *target, const char *name, const char **ret_why)
{
    struct in6_addr binary;
    int r;

    if (inet_pton(AF_INET6, name, &binary) == 1) {
        (void)snprintf(target->authority, sizeof(target->authority), "[%s]", name);
    } else {
        r = check_name(name, strlen(name), ret_why);
        if (r < 0)
            return r;
        (void)snprintf(target->authority, sizeof(target->authority), "%s", name);
    }
    set_name(target, name);
    return 0;
}
