/*
 * The address by which others reach this machine.
 */
#pragma once

#include <sys/socket.h>

/* Room for a host as text, brackets and NUL included. */
#define OUTBOUND_HOST_MAX 48

/*
 * The address from which this machine would send to the internet: of IPv4, or, where there is no
 * such route, of IPv6. Nothing is sent, and no name is looked up. 0, or a negative errno if there
 * is no such address: -ENETUNREACH without a network. The port means nothing.
 */
int outbound_find(struct sockaddr_storage *ret_address);

/*
 * Reads an address that others are to reach this machine by: IPv4 or IPv6, with or without
 * brackets. 0, or -EINVAL for what is none, or cannot be reached by what is written into a file: a
 * wildcard, multicast, an address that counts on one link only; then *ret_why says so, in memory
 * that this thread's next call overwrites. The port means nothing.
 */
int outbound_parse(const char *text, struct sockaddr_storage *ret_address, const char **ret_why);

/* The address as the host of a URL: IPv6 in brackets (RFC 3986, section 3.2.2). Returns `host`. */
const char *outbound_host(const struct sockaddr_storage *address,
                          char host[static OUTBOUND_HOST_MAX]);
