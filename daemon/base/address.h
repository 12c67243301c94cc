/*
 * Socket addresses as people write them: "[::]:4444", "127.0.0.1:0", ":2112" (every address),
 * "unix:/run/stockd/grpc.sock"; and sockets that listen on them.
 */
#pragma once

#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The longest path of a Unix socket: the kernel's limit, less the NUL. */
#define ADDRESS_PATH_MAX (sizeof((struct sockaddr_un){0}.sun_path) - 1)

/*
 * Room for the longest text that address_format() makes, with its NUL: "unix:" and a path of 107
 * bytes. Others have brackets, 39 characters of address, "%" and 15 of an interface's name, ":" and
 * 5 digits of a port.
 */
#define ADDRESS_TEXT_MAX 113

/*
 * Reads `length` bytes of "ADDRESS:PORT" or "unix:/PATH". ADDRESS is a numeric IPv4 address, a
 * numeric IPv6 address in brackets (a %scope, name or number of an interface, is allowed), or
 * nothing, which means [::]. An IPv4 address mapped into IPv6 comes out as the IPv4 address. PATH
 * may hold any byte but NUL. 0 or -EINVAL; then *ret_why (if not NULL) says in words what is wrong,
 * such as "port 70000 is out of range (0 to 65535)", in memory that this thread's next call
 * overwrites, and *ret_address is left alone.
 */
int address_parse(const char *text, size_t length, struct sockaddr_storage *ret_address,
                  const char **ret_why);

/*
 * "1.2.3.4:80" or "[::1]:80"; IPv4 addresses mapped into IPv6 as IPv4; "unix:/path", or "unix" for
 * a Unix socket without a path, which is what the peers of one have; "unknown" for another family.
 * Returns `text`.
 */
const char *address_format(const struct sockaddr *address, char text[static ADDRESS_TEXT_MAX]);

/* The size of the sockaddr for its family; 0 for a family other than IPv4, IPv6 and Unix. */
socklen_t address_size(const struct sockaddr *address);

/*
 * Opens a TCP socket that listens on `address`, IPv4 or IPv6, does not block and is closed on exec.
 * An IPv6 wildcard takes IPv4 too; where the machine has no IPv6 it becomes the IPv4 wildcard. The
 * descriptor, which is the caller's, or a negative errno: -EAFNOSUPPORT, -EADDRINUSE, ...
 */
int address_listen(const struct sockaddr *address, int backlog);
