/*
 * Numeric addresses only, on purpose: a name would make start-up wait for a resolver, and what it
 * answers may change between two starts.
 */
#include "base/address.h"

#include "base/reason.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PORT_MAX 65535u
#define UNIX_PREFIX "unix:"

static int parse_port(const char *text, size_t length, in_port_t *ret_port, const char **ret_why)
{
    unsigned port = 0;

    if (length == 0)
        return reason(ret_why, "the port is missing");
    for (size_t i = 0; i < length; i++)
        if (text[i] < '0' || text[i] > '9')
            return reason(ret_why, "\"%.*s\" is not a port (0 to %u)", reason_shown(length), text,
                          PORT_MAX);
    for (size_t i = 0; i < length; i++) {
        port = port * 10 + (unsigned)(text[i] - '0');
        if (port > PORT_MAX)
            return reason(ret_why, "port %.*s is out of range (0 to %u)", reason_shown(length),
                          text, PORT_MAX);
    }
    *ret_port = htons((in_port_t)port);
    return 0;
}

static int parse_scope(const char *name, uint32_t *ret_scope, const char **ret_why)
{
    char *end = NULL;
    unsigned long number;

    *ret_scope = if_nametoindex(name);
    if (*ret_scope > 0)
        return 0;
    errno = 0;
    number = strtoul(name, &end, 10);
    if (name[0] < '0' || name[0] > '9' || *end || errno || number == 0 || number > UINT32_MAX)
        return reason(ret_why, "there is no interface \"%.*s\"", reason_shown(SIZE_MAX), name);
    *ret_scope = (uint32_t)number;
    return 0;
}

static void set_ipv4(struct sockaddr_storage *address, const struct in_addr *host, in_port_t port)
{
    const struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_port = port, .sin_addr = *host};

    memset(address, 0, sizeof *address);
    memcpy(address, &ipv4, sizeof ipv4);
}

/* `host` is what stands between the brackets. */
static int parse_ipv6(char *host, in_port_t port, struct sockaddr_storage *ret_address,
                      const char **ret_why)
{
    struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_port = port};
    char *scope = strchr(host, '%');

    if (scope)
        *scope++ = '\0';
    if (inet_pton(AF_INET6, host, &ipv6.sin6_addr) != 1)
        return reason(ret_why, "\"%.*s\" is not an IPv6 address", reason_shown(SIZE_MAX), host);
    if (scope) {
        int r = parse_scope(scope, &ipv6.sin6_scope_id, ret_why);
        if (r < 0)
            return r;
    }
    if (IN6_IS_ADDR_V4MAPPED(&ipv6.sin6_addr)) {
        struct in_addr ipv4;

        memcpy(&ipv4, &ipv6.sin6_addr.s6_addr[12], sizeof ipv4);
        set_ipv4(ret_address, &ipv4, port);
        return 0;
    }
    memset(ret_address, 0, sizeof *ret_address);
    memcpy(ret_address, &ipv6, sizeof ipv6);
    return 0;
}

/* `path` is what stands behind "unix:". */
static int parse_unix(const char *path, size_t length, struct sockaddr_storage *ret_address,
                      const char **ret_why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (length > 0 && path[0] == '@')
        return reason(ret_why,
                      "\"unix:%.*s\" has no file, and so no permissions (use "
                      "unix:/absolute/path)",
                      reason_shown(length), path);
    if (length == 0 || path[0] != '/')
        return reason(ret_why,
                      "\"unix:%.*s\" has no absolute path (such as "
                      "unix:/run/stockd/grpc.sock)",
                      reason_shown(length), path);
    if (length > ADDRESS_PATH_MAX)
        return reason(ret_why, "its path has %zu bytes, but a Unix socket's may have %zu at most",
                      length, ADDRESS_PATH_MAX);
    memcpy(address.sun_path, path, length);
    memset(ret_address, 0, sizeof *ret_address);
    memcpy(ret_address, &address, sizeof address);
    return 0;
}

int address_parse(const char *text, size_t length, struct sockaddr_storage *ret_address,
                  const char **ret_why)
{
    const char *colon = memrchr(text, ':', length);
    size_t host_length = colon ? (size_t)(colon - text) : 0;
    char host[INET6_ADDRSTRLEN + 1 + IF_NAMESIZE];
    struct in_addr ipv4;
    in_port_t port = 0;
    int r;

    if (memchr(text, '\0', length))
        return reason(ret_why, "there is a NUL byte in it");
    if (length >= strlen(UNIX_PREFIX) && memcmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
        return parse_unix(text + strlen(UNIX_PREFIX), length - strlen(UNIX_PREFIX), ret_address,
                          ret_why);
    /* "[::1]" has colons, but none of them is before a port. */
    if (!colon || (text[0] == '[' && text[length - 1] == ']'))
        return reason(ret_why, "\"%.*s\" has no port (such as [::]:4444 or 127.0.0.1:4444)",
                      reason_shown(length), text);
    r = parse_port(colon + 1, length - host_length - 1, &port, ret_why);
    if (r < 0)
        return r;

    if (host_length == 0)
        return parse_ipv6((char[]){"::"}, port, ret_address, ret_why);
    if (text[0] == '[' && colon[-1] == ']') {
        text++;
        host_length -= 2;
        if (host_length < sizeof host) {
            memcpy(host, text, host_length);
            host[host_length] = '\0';
            return parse_ipv6(host, port, ret_address, ret_why);
        }
        return reason(ret_why, "\"%.*s\" is not an IPv6 address", reason_shown(host_length), text);
    }
    if (memchr(text, ':', host_length))
        return reason(ret_why,
                      "\"%.*s\" needs brackets round its IPv6 address (such as [::1]:4444)",
                      reason_shown(length), text);
    if (host_length < sizeof host) {
        memcpy(host, text, host_length);
        host[host_length] = '\0';
        if (inet_pton(AF_INET, host, &ipv4) == 1) {
            set_ipv4(ret_address, &ipv4, port);
            return 0;
        }
    }
    return reason(ret_why, "\"%.*s\" is not a numeric address", reason_shown(host_length), text);
}

static const char *format_ipv4(const struct in_addr *host, in_port_t port,
                               char text[static ADDRESS_TEXT_MAX])
{
    char name[INET_ADDRSTRLEN];

    (void)inet_ntop(AF_INET, host, name, sizeof name);
    (void)snprintf(text, ADDRESS_TEXT_MAX, "%s:%u", name, (unsigned)ntohs(port));
    return text;
}

static const char *format_ipv6(const struct sockaddr_in6 *ipv6, char text[static ADDRESS_TEXT_MAX])
{
    char name[INET6_ADDRSTRLEN];
    char scope[1 + IF_NAMESIZE] = "";
    unsigned port = ntohs(ipv6->sin6_port);

    (void)inet_ntop(AF_INET6, &ipv6->sin6_addr, name, sizeof name);
    if (ipv6->sin6_scope_id) {
        scope[0] = '%';
        if (!if_indextoname(ipv6->sin6_scope_id, scope + 1))
            (void)snprintf(scope + 1, sizeof scope - 1, "%u", ipv6->sin6_scope_id);
    }
    /* No address that is not a mapped one takes more than 39 characters. */
    (void)snprintf(text, ADDRESS_TEXT_MAX, "[%.39s%.16s]:%u", name, scope, port);
    return text;
}

/* The caller's memory may be smaller than a sockaddr_un, if the path is. */
static const char *format_unix(const struct sockaddr *address, char text[static ADDRESS_TEXT_MAX])
{
    const char *path = (const char *)address + offsetof(struct sockaddr_un, sun_path);

    if (*path == '\0')
        return strcpy(text, "unix");
    (void)snprintf(text, ADDRESS_TEXT_MAX, UNIX_PREFIX "%.*s", (int)ADDRESS_PATH_MAX, path);
    return text;
}

const char *address_format(const struct sockaddr *address, char text[static ADDRESS_TEXT_MAX])
{
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct in_addr mapped;

    /* Copied, because the caller's memory may be aligned for a plain sockaddr only. */
    switch (address->sa_family) {
    case AF_INET:
        memcpy(&ipv4, address, sizeof ipv4);
        return format_ipv4(&ipv4.sin_addr, ipv4.sin_port, text);
    case AF_INET6:
        memcpy(&ipv6, address, sizeof ipv6);
        if (!IN6_IS_ADDR_V4MAPPED(&ipv6.sin6_addr))
            return format_ipv6(&ipv6, text);
        memcpy(&mapped, &ipv6.sin6_addr.s6_addr[12], sizeof mapped);
        return format_ipv4(&mapped, ipv6.sin6_port, text);
    case AF_UNIX:
        return format_unix(address, text);
    default:
        return strcpy(text, "unknown");
    }
}

socklen_t address_size(const struct sockaddr *address)
{
    switch (address->sa_family) {
    case AF_INET:
        return sizeof(struct sockaddr_in);
    case AF_INET6:
        return sizeof(struct sockaddr_in6);
    case AF_UNIX:
        return sizeof(struct sockaddr_un);
    default:
        return 0;
    }
}

static int try_listen(const struct sockaddr *address, int backlog)
{
    static const int yes = 1, no = 0;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
        (address->sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no) < 0) ||
        bind(fd, address, address_size(address)) < 0 || listen(fd, backlog) < 0) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    return fd;
}

int address_listen(const struct sockaddr *address, int backlog)
{
    struct sockaddr_in6 ipv6;
    struct sockaddr_in ipv4 = {.sin_family = AF_INET};
    int fd;

    if (address->sa_family != AF_INET && address->sa_family != AF_INET6)
        return -EAFNOSUPPORT;
    fd = try_listen(address, backlog);
    /* IPv6 may be missing in the kernel, or be turned off, which leaves it without addresses. */
    if (address->sa_family != AF_INET6 || (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL))
        return fd;
    memcpy(&ipv6, address, sizeof ipv6);
    if (!IN6_IS_ADDR_UNSPECIFIED(&ipv6.sin6_addr))
        return fd;
    ipv4.sin_port = ipv6.sin6_port;
    return try_listen((const struct sockaddr *)&ipv4, backlog);
}
