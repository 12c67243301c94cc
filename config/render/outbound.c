/*
 * The kernel chooses the source of a packet when a UDP socket is connected, before there is one; so
 * connecting to an address far away shows the route that packets to anywhere take. What is
 * connected to need not answer, or exist.
 */
#include "config/render/outbound.h"

#include "base/address.h"
#include "base/reason.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* As the original program has it, and its neighbour in IPv6. */
static const char *const far_away[] = {"8.8.8.8:80", "[2001:4860:4860::8888]:80"};

static const struct sockaddr_in *ipv4(const struct sockaddr_storage *address)
{
    return (const void *)address;
}

static const struct sockaddr_in6 *ipv6(const struct sockaddr_storage *address)
{
    return (const void *)address;
}

/* Why nobody else could reach this, or NULL. */
static const char *refusal(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET) {
        uint32_t host = ntohl(ipv4(address)->sin_addr.s_addr);

        return host == INADDR_ANY         ? "stands for every address, and is none"
               : host == INADDR_BROADCAST ? "is for broadcasts"
               : IN_MULTICAST(host)       ? "is for multicast"
                                          : NULL;
    }
    return IN6_IS_ADDR_UNSPECIFIED(&ipv6(address)->sin6_addr)
               ? "stands for every address, and is none"
           : IN6_IS_ADDR_MULTICAST(&ipv6(address)->sin6_addr) ? "is for multicast"
           : IN6_IS_ADDR_LINKLOCAL(&ipv6(address)->sin6_addr)
               ? "is valid on one link only, which Prometheus cannot be told"
               : NULL;
}

static int source_to(const struct sockaddr_storage *target, struct sockaddr_storage *ret_address)
{
    _cleanup_close_ int fd = socket(target->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage found = {0};
    socklen_t size = sizeof found;

    if (fd < 0 ||
        connect(fd, (const struct sockaddr *)target, address_size((const void *)target)) < 0 ||
        getsockname(fd, (struct sockaddr *)&found, &size) < 0)
        return -errno;
    if (refusal(&found))
        return -ENETUNREACH;
    *ret_address = found;
    return 0;
}

int outbound_find(struct sockaddr_storage *ret_address)
{
    int first = 0;

    for (size_t i = 0; i < ELEMENTSOF(far_away); i++) {
        struct sockaddr_storage target;
        int r = address_parse(far_away[i], strlen(far_away[i]), &target, NULL);

        if (r == 0)
            r = source_to(&target, ret_address);
        if (r == 0)
            return 0;
        if (first == 0)
            first = r;
    }
    return first;
}

int outbound_parse(const char *text, struct sockaddr_storage *ret_address, const char **ret_why)
{
    bool bare = strchr(text, ':') && *text != '[';
    struct sockaddr_storage address;
    size_t length = strlen(text);
    char whole[80];
    int size = snprintf(whole, sizeof whole, bare ? "[%s]:0" : "%s:0", text);

    /* An interface's name means something on this machine only, and nothing in a URL. */
    if (strchr(text, '%'))
        return reason(ret_why,
                      "\"%.*s\" is valid on one link only, which Prometheus cannot be told",
                      reason_shown(length), text);
    if (length == 0 || (size_t)size >= sizeof whole || (*text == '[' && text[length - 1] != ']') ||
        address_parse(whole, (size_t)size, &address, NULL) < 0 || address.ss_family == AF_UNIX)
        return reason(ret_why, "\"%.*s\" is not a numeric address without a port",
                      reason_shown(length), text);
    if (refusal(&address))
        return reason(ret_why, "%.*s %s", reason_shown(length), text, refusal(&address));
    *ret_address = address;
    return 0;
}

const char *outbound_host(const struct sockaddr_storage *address,
                          char host[static OUTBOUND_HOST_MAX])
{
    char text[ADDRESS_TEXT_MAX];
    const char *end = strrchr(address_format((const struct sockaddr *)address, text), ':');

    (void)snprintf(host, OUTBOUND_HOST_MAX, "%.*s", (int)(end - text), text);
    return host;
}
