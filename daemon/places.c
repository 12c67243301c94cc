/*
 * A socket that is passed has an address, but nobody could say there what else is wanted of it:
 * which certificate, whose clients. So that is looked up in the settings, under its address.
 */
#include "places.h"

#include "base/util.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define TLS_SUFFIX "-tls"

/* Is the socket for the group, and by its name for TLS? */
static bool is_for(const struct systemd_socket *socket, const char *group, bool *ret_tls)
{
    size_t length = strlen(group);

    if (strncmp(socket->name, group, length) != 0)
        return false;
    *ret_tls = strcmp(socket->name + length, TLS_SUFFIX) == 0;
    return *ret_tls || socket->name[length] == '\0';
}

/* ---- Addresses ---- */

/* What two addresses of IP are compared by: an IPv4 address as the IPv6 one that it is mapped to.
 */
struct ip {
    struct in6_addr host;
    in_port_t port;
    uint32_t scope;
};

static struct ip ip_of(const struct sockaddr_storage *address)
{
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct ip ip = {.host.s6_addr = {[10] = 0xff, [11] = 0xff}};

    if (address->ss_family == AF_INET) {
        memcpy(&ipv4, address, sizeof ipv4);
        memcpy(&ip.host.s6_addr[12], &ipv4.sin_addr, sizeof ipv4.sin_addr);
        ip.port = ipv4.sin_port;
        return ip;
    }
    memcpy(&ipv6, address, sizeof ipv6);
    return (struct ip){ipv6.sin6_addr, ipv6.sin6_port, ipv6.sin6_scope_id};
}

static bool same_path(const struct sockaddr_storage *one, const struct sockaddr_storage *other)
{
    struct sockaddr_un a, b;

    memcpy(&a, one, sizeof a);
    memcpy(&b, other, sizeof b);
    /* That of a socket without a file is empty here, which no path of the settings is. */
    return strncmp(a.sun_path, b.sun_path, sizeof a.sun_path) == 0;
}

static bool same_address(const struct sockaddr_storage *one, const struct sockaddr_storage *other)
{
    struct ip a, b;

    if (one->ss_family == AF_UNIX || other->ss_family == AF_UNIX)
        return one->ss_family == other->ss_family && same_path(one, other);
    a = ip_of(one);
    b = ip_of(other);
    return memcmp(&a.host, &b.host, sizeof a.host) == 0 && a.port == b.port && a.scope == b.scope;
}

/*
 * Where a machine has no IPv6, "every address" is that of IPv4 for the service manager as it is for
 * address_listen(): what the settings say of [::] holds for it. Otherwise a port that is meant for
 * TLS would be open without.
 */
static bool stands_for(const struct sockaddr_storage *passed, const struct sockaddr_storage *wanted)
{
    struct sockaddr_in every = {.sin_family = AF_INET};
    struct sockaddr_in6 ipv6;
    struct sockaddr_storage ipv4 = {0};

    memcpy(&ipv6, wanted, sizeof ipv6);
    if (wanted->ss_family != AF_INET6 || !IN6_IS_ADDR_UNSPECIFIED(&ipv6.sin6_addr))
        return false;
    every.sin_port = ipv6.sin6_port;
    memcpy(&ipv4, &every, sizeof every);
    return same_address(passed, &ipv4);
}

/* The endpoint of that address; NULL: there is none. */
static const struct endpoint *find_wanted(const struct config_endpoints *wanted,
                                          const struct sockaddr_storage *address)
{
    for (unsigned i = 0; i < wanted->count; i++)
        if (same_address(&wanted->endpoints[i].address, address))
            return &wanted->endpoints[i];
    for (unsigned i = 0; i < wanted->count; i++)
        if (stands_for(address, &wanted->endpoints[i].address))
            return &wanted->endpoints[i];
    return NULL;
}

bool places_have(const struct config_endpoints *places, const struct endpoint *wanted)
{
    for (unsigned i = 0; i < places->count; i++) {
        const struct sockaddr_storage *address = &places->endpoints[i].address;

        if (same_address(address, &wanted->address) || stands_for(address, &wanted->address))
            return true;
    }
    return false;
}

/* ---- Places ---- */

static unsigned count_for(const char *group, const struct systemd_sockets *sockets)
{
    unsigned count = 0;
    bool tls;

    for (unsigned i = 0; i < sockets->count; i++)
        count += is_for(&sockets->sockets[i], group, &tls);
    return count;
}

/* Makes room for `count` places. */
static int make_places(struct config_endpoints *places, unsigned count)
{
    if (count == 0)
        return 0;
    places->endpoints = calloc(count, sizeof *places->endpoints);
    return places->endpoints ? 0 : -ENOMEM;
}

static int add_copy(struct config_endpoints *places, const struct endpoint *endpoint)
{
    int r = endpoint_copy(endpoint, &places->endpoints[places->count]);

    if (r == 0)
        places->count++;
    return r;
}

static int copy_wanted(const struct config_endpoints *wanted, struct config_endpoints *places)
{
    int r = make_places(places, wanted->count);

    for (unsigned i = 0; r == 0 && i < wanted->count; i++)
        r = add_copy(places, &wanted->endpoints[i]);
    return r;
}

/* Adds the place of one socket, which is for the group. */
static int add_passed(const char *group, const struct config_endpoints *wanted,
                      const struct systemd_socket *socket, bool tls,
                      struct config_endpoints *places, char *error)
{
    const struct endpoint *found = find_wanted(wanted, &socket->address);
    struct endpoint plain = endpoint_at((const struct sockaddr *)&socket->address);
    struct endpoint *place = &places->endpoints[places->count];
    char text[ADDRESS_TEXT_MAX];
    int r;

    if (found && tls && !found->tls) {
        (void)snprintf(error, PLACES_ERROR_MAX,
                       "the service manager passes %s as %s, for TLS, but %s.listen has that "
                       "address without tls=yes",
                       address_format((const struct sockaddr *)&socket->address, text),
                       socket->name, group);
        return -EINVAL;
    }
    r = add_copy(places, found ? found : &plain);
    if (r < 0)
        return r;
    place->address = socket->address;
    place->passed = socket->fd;
    place->tls = place->tls || tls;
    return 0;
}

static int take_passed(const char *group, const struct config_endpoints *wanted,
                       const struct systemd_sockets *sockets, unsigned count,
                       struct config_endpoints *places, char *error)
{
    int r;

    if (count > CONFIG_ENDPOINTS_MAX) {
        (void)snprintf(error, PLACES_ERROR_MAX,
                       "the service manager passes %u sockets for %s, more than %d", count, group,
                       CONFIG_ENDPOINTS_MAX);
        return -EINVAL;
    }
    r = make_places(places, count);
    for (unsigned i = 0; r == 0 && i < sockets->count; i++) {
        bool tls;

        if (is_for(&sockets->sockets[i], group, &tls))
            r = add_passed(group, wanted, &sockets->sockets[i], tls, places, error);
    }
    return r;
}

int places_choose(const char *group, const struct config_endpoints *wanted,
                  const struct systemd_sockets *sockets, struct config_endpoints *ret_places,
                  char error[static PLACES_ERROR_MAX])
{
    unsigned count = count_for(group, sockets);
    struct config_endpoints places = {0};
    int r = count > 0 ? take_passed(group, wanted, sockets, count, &places, error)
                      : copy_wanted(wanted, &places);

    if (r < 0) {
        config_endpoints_deinit(&places);
        return r;
    }
    *ret_places = places;
    return 0;
}

/* ---- Names ---- */

static void say_names(const char *const *groups, size_t count, char *text, size_t size)
{
    size_t used = 0;

    for (size_t i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s, %s" TLS_SUFFIX, i > 0 ? ", " : "",
                                 groups[i], groups[i]);
}

int places_check(const char *const *groups, size_t count, const struct systemd_sockets *sockets,
                 char error[static PLACES_ERROR_MAX])
{
    char address[ADDRESS_TEXT_MAX], names[128] = "";

    for (unsigned i = 0; i < sockets->count; i++) {
        const struct systemd_socket *socket = &sockets->sockets[i];
        bool tls, known = false;

        for (size_t k = 0; k < count && !known; k++)
            known = is_for(socket, groups[k], &tls);
        if (known)
            continue;
        say_names(groups, count, names, sizeof names);
        (void)snprintf(
            error, PLACES_ERROR_MAX,
            "the service manager passes a socket named \"%.100s\" (%s), but names are %s "
            "(FileDescriptorName= in its unit)",
            socket->name, address_format((const struct sockaddr *)&socket->address, address),
            names);
        return -EINVAL;
    }
    return 0;
}
