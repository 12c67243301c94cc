/*
 * Accepts connections, up to a cap that all listeners of a program share.
 */
#pragma once

#include "base/endpoint.h"
#include "base/loop.h"
#include "net/transport.h"

#include <sys/socket.h>

struct listener;

struct listener_ops {
    /*
     * May one more be taken, from this address? If not it is closed at once; counting that is the
     * callee's. `peer` is the address as text; for a Unix socket, where the address says nothing,
     * it tells process and user: "unix:pid=123,uid=1000" (SO_PEERCRED).
     */
    bool (*admit)(void *context, const struct sockaddr *address, const char *peer);

    /* An admitted connection; the transport is the callee's. */
    void (*accepted)(void *context, struct transport *transport, const struct sockaddr *address,
                     const char *peer);

    /* An admitted connection, or one whose address is not known (`peer` is "unknown" then), could
     * not be had: a negative errno. */
    void (*failed)(void *context, const char *peer, int error);
};

/*
 * Listens on the endpoint, as endpoint_listen() does. 0 or a negative errno. `ops` and `context`
 * are borrowed; the endpoint is not needed any longer.
 */
int listener_new(struct listener **ret_listener, struct loop *loop, const struct endpoint *endpoint,
                 const struct listener_ops *ops, void *context);

/* The address it listens on, with the port that the kernel chose. 0 or a negative errno. */
int listener_address(const struct listener *listener, struct sockaddr_storage *ret_address);

/*
 * Accepts what already waits in the kernel (those clients think they are connected; but see
 * acceptor_take_waiting() for sockets that outlive the process), with the calls
 * to `admit` and so on that belong to it, stops listening, removes a Unix socket's file unless
 * another has taken its place, and frees it once its handles are closed. Not from inside one of
 * these calls. NULL is allowed; returns NULL.
 */
struct listener *listener_free(struct listener *listener);
