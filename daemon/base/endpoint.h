/*
 * One place to listen on, and what a person said about it, as the settings have it:
 *
 *     [::]:4444
 *     0.0.0.0:4443 tls=yes client_certificate=required
 *     unix:/run/stockd/grpc.sock mode=0660 owner=root group=staff
 */
#pragma once

#include "base/address.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

/* X(identifier, text): what a TLS server wants of its client's certificate. */
#define CLIENT_CERTIFICATES(X)                                                                     \
    X(NO, "no")             /* does not ask for one */                                             \
    X(OPTIONAL, "optional") /* asks; one that is shown must be good */                             \
    X(REQUIRED, "required")

enum client_certificate {
#define X(identifier, text) CLIENT_CERTIFICATE_##identifier,
    CLIENT_CERTIFICATES(X)
#undef X
        CLIENT_CERTIFICATE_UNSET, /* as the settings of TLS in general say */
};

extern const char *const client_certificate_texts[CLIENT_CERTIFICATE_UNSET];

/* The mode of a Unix socket where none is given: whoever may enter the directory may connect. */
#define ENDPOINT_MODE_DEFAULT 0666

/* Zeroed memory can be deinitialised. */
struct endpoint {
    struct sockaddr_storage address; /* AF_INET, AF_INET6 or AF_UNIX */
    bool tls;
    enum client_certificate client_certificate;
    char *certificate; /* files of its own; NULL: those of the settings of TLS in general */
    char *key;
    char *client_ca;
    mode_t mode; /* of a Unix socket */
    char *owner; /* names or numbers; NULL: whoever makes it */
    char *group;
    int passed; /* a socket of the service manager that listens there already; 0: none */
};

/* The endpoint at an address, with nothing else said about it; it holds nothing. */
struct endpoint endpoint_at(const struct sockaddr *address);

/*
 * Reads `length` bytes: an address as address_parse() takes, and then, after spaces, NAME=VALUE:
 * tls (yes, no), client_certificate, certificate, key, client_ca, mode (octal), owner, group. What
 * belongs to TLS needs tls=yes; mode, owner and group need a Unix socket; certificate and key come
 * together. 0, -ENOMEM, or -EINVAL; then *ret_why says in words what is wrong, in memory that this
 * thread's next call overwrites.
 */
int endpoint_parse(const char *text, size_t length, struct endpoint *ret_endpoint,
                   const char **ret_why);

/* The same as text that endpoint_parse() reads back, in memory for free(); NULL without memory.
 * That a socket was passed is not in it. */
char *endpoint_format(const struct endpoint *endpoint);

/* A copy that holds copies of what the other holds. 0 or -ENOMEM. */
int endpoint_copy(const struct endpoint *endpoint, struct endpoint *ret_copy);

/* Frees what it holds and zeroes it. */
void endpoint_deinit(struct endpoint *endpoint);

/*
 * Opens a socket that listens there, as address_listen() does. Where a Unix socket's file is left
 * over, with nobody listening behind it, it is replaced; any other file is -EADDRINUSE. Its mode,
 * owner and group are set before anybody can connect. Where the service manager passed a socket, it
 * is a duplicate of that, and nothing else is done. The descriptor, or a negative errno (-ENOENT
 * for an owner or group that does not exist).
 */
int endpoint_listen(const struct endpoint *endpoint, int backlog);
