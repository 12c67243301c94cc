/*
 * Accepts connections on a listening socket, so that libuv and libmicrohttpd do not: while accept
 * fails for want of descriptors or memory they try again at once, for ever, and the loop gets to
 * nothing else. Here the acceptor rests for a moment instead. Nor does it take more than some in
 * one turn, so that a storm of connections is not accepted whole before the first is served.
 */
#pragma once

#include "base/address.h"
#include "base/endpoint.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <uv.h>

struct acceptor;

struct acceptor_ops {
    /* A connection; the descriptor (non-blocking, closed on exec) is the callee's. */
    void (*accepted)(void *context, int fd, const struct sockaddr *address);

    /*
     * accept() failed: a negative errno. The acceptor rests for the milliseconds that this returns,
     * at least 1; the callee may make room meanwhile.
     */
    unsigned (*failed)(void *context, int error);

    /* Its handles are closed after acceptor_free(), and so is its descriptor; may be NULL. */
    void (*closed)(void *context);
};

struct acceptor_options {
    unsigned accepts_per_turn;
    const struct acceptor_ops *ops; /* borrowed */
    void *context;
};

/* Accepts on `fd`, which it owns from here on, even when this fails. 0 or a negative errno. */
int acceptor_new(struct acceptor **ret_acceptor, uv_loop_t *loop, int fd,
                 const struct acceptor_options *options);

/*
 * Listens on the endpoint, as endpoint_listen() does, and accepts there; the endpoint is not needed
 * any longer. A Unix socket's file is this acceptor's then: it is removed with it, unless another
 * has taken its place; but that of a socket which the service manager passed stays. 0 or a negative
 * errno.
 */
int acceptor_listen(struct acceptor **ret_acceptor, uv_loop_t *loop,
                    const struct endpoint *endpoint, int backlog,
                    const struct acceptor_options *options);

/* The address of its socket. 0 or a negative errno. */
int acceptor_address(const struct acceptor *acceptor, struct sockaddr_storage *ret_address);

/*
 * Accepts all that waits in the kernel now, however many: before the end, so that nobody who thinks
 * to be connected is left. Before that a Unix socket's file goes, so that nobody comes any more.
 * Ends early where accept fails, after telling so. From a socket of the service manager nothing is
 * taken: it goes on to listen, and the next process accepts who waits there.
 */
void acceptor_take_waiting(struct acceptor *acceptor);

/*
 * Stops listening at once. Frees it once libuv has closed its handles. May be called at any moment,
 * also from inside `accepted` and `failed`, which are not called any more. NULL is allowed; returns
 * NULL.
 */
struct acceptor *acceptor_free(struct acceptor *acceptor);

/* "127.0.0.1:80", or, for a Unix socket, whose addresses say nothing, who is at the other end:
 * "unix:pid=123,uid=1000" (SO_PEERCRED). */
#define ACCEPTOR_PEER_MAX ADDRESS_TEXT_MAX
const char *acceptor_peer(int fd, const struct sockaddr *address,
                          char text[static ACCEPTOR_PEER_MAX]);
