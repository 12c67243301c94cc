/*
 * Accepts connections, up to a cap that all listeners of a program share.
 */
#pragma once

#include "base/loop.h"
#include "net/transport.h"

#include <sys/socket.h>

struct listener;

struct listener_ops {
    /* May one more be taken? If not it is closed at once, and `refused` says so. */
    bool (*admit)(void *context);

    /* A connection; the transport is the callee's. `peer` is its address as text. */
    void (*accepted)(void *context, struct transport *transport, const char *peer);

    /* A connection was turned away: over the cap (`error` 0), or accept failed (negative errno). */
    void (*refused)(void *context, const char *peer, int error);
};

/*
 * Listens on `address`. An IPv6 wildcard takes IPv4 too; where the machine has no IPv6 it becomes
 * the IPv4 wildcard. 0 or a negative errno. `ops` and `context` are borrowed.
 */
int listener_new(struct listener **ret_listener, struct loop *loop, const struct sockaddr *address,
                 const struct listener_ops *ops, void *context);

/* The address it listens on, with the port that the kernel chose. 0 or a negative errno. */
int listener_address(const struct listener *listener, struct sockaddr_storage *ret_address);

/* Stops listening and frees it once its handle is closed. NULL is allowed; returns NULL. */
struct listener *listener_free(struct listener *listener);
