/*
 * Where the server is, as a person writes it: "localhost:4444", "10.0.0.1", "[::1]:4444",
 * "unix:/run/stockd/grpc.sock".
 */
#pragma once

#include "base/address.h"

#include <stdbool.h>
#include <stddef.h>

#define TARGET_DEFAULT "localhost:4444"
#define TARGET_PORT_DEFAULT 4444

/* RFC 1035: a name has at most 253 characters; an IPv6 address with a scope is shorter. */
#define TARGET_HOST_MAX 255

/* A host with its brackets and port. */
#define TARGET_AUTHORITY_SIZE (TARGET_HOST_MAX + sizeof("[]:65535"))

struct target {
    char path[ADDRESS_PATH_MAX + 1]; /* of a Unix socket; then there are no host and no port */
    char host[TARGET_HOST_MAX + 1];  /* for the resolver: no brackets, the scope included */
    char port[sizeof("65535")];
    char name[TARGET_HOST_MAX + 1];        /* that a certificate must be for: no scope */
    char authority[TARGET_AUTHORITY_SIZE]; /* HTTP/2's: no scope */
    char text[TARGET_AUTHORITY_SIZE];      /* for people */
};

/*
 * Reads HOST[:PORT] or unix:PATH. HOST is a name, an IPv4 address, or an IPv6 address in brackets;
 * PORT is 1 to 65535. PATH may be relative; "unix:///PATH", as gRPC also has it, is the same as
 * "unix:/PATH". The name and authority of a Unix socket are "localhost", as gRPC's are. 0 or
 * -EINVAL; then *ret_why says in words what is wrong.
 */
int target_parse(struct target *ret_target, const char *text, const char **ret_why);

/*
 * The server goes by another name than where it is found, a host's name or an address without
 * brackets: it becomes `name` and `authority`, without a port, as in gRPC's libraries. As
 * target_parse().
 */
int target_rename(struct target *target, const char *name, const char **ret_why);
