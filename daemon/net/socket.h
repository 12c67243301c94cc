/*
 * A TCP or Unix socket as a transport, and connecting one.
 */
#pragma once

#include "base/loop.h"
#include "net/transport.h"

#include <sys/socket.h>
#include <uv.h>

/*
 * How many bytes may lie unsent in the kernel before a TCP socket counts as full
 * (TCP_NOTSENT_LOWAT): enough to keep a fast path busy, little enough that a slow reader is felt.
 * Of a Unix socket it is the kernel's SO_SNDBUF, about as much, that bounds what the peer has not
 * read.
 */
#define SOCKET_UNSENT_MAX (128 * 1024)

/* The connected socket `fd`, which it owns from here on, even when this fails. 0 or a negative
 * errno. */
int socket_accepted(struct transport **ret_transport, struct loop *loop, int fd);

/*
 * Connects to `address`, which may be that of a Unix socket; `done` gets the transport, or a
 * negative errno and NULL, never from inside this call. 0 or a negative errno: -EINVAL for a Unix
 * socket without a path, -ENAMETOOLONG for a path of more than 107 bytes. The attempt can be given
 * up with socket_connect_cancel(), after which `done` is not called.
 */
struct socket_connect;
int socket_connect(struct socket_connect **ret_connect, struct loop *loop,
                   const struct sockaddr *address,
                   void (*done)(void *user, struct transport *transport, int error), void *user);
void socket_connect_cancel(struct socket_connect *connect);
