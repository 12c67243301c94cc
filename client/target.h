/*
 * Where the server is, as a person writes it: "localhost:4444", "10.0.0.1", "[::1]:4444".
 */
#pragma once

#include <stddef.h>

#define TARGET_DEFAULT "localhost:4444"
#define TARGET_PORT_DEFAULT 4444

/* RFC 1035: a name has at most 253 characters; an IPv6 address with a scope is shorter. */
#define TARGET_HOST_MAX 255

struct target {
    char host[TARGET_HOST_MAX + 1]; /* for the resolver: no brackets, the scope included */
    char port[sizeof("65535")];
    char authority[TARGET_HOST_MAX + sizeof("[]:65535")]; /* HTTP/2's: no scope */
};

/*
 * Reads HOST[:PORT]. HOST is a name, an IPv4 address, or an IPv6 address in brackets; PORT is 1 to
 * 65535. 0 or -EINVAL; then *ret_why says in words what is wrong.
 */
int target_parse(struct target *ret_target, const char *text, const char **ret_why);
