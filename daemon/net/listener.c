/*
 * A listening socket whose connections become transports.
 */
#include "net/listener.h"

#include "base/acceptor.h"
#include "base/util.h"
#include "net/socket.h"

#include <errno.h>
#include <unistd.h>

/* The kernel cuts this to net.core.somaxconn. */
#define BACKLOG 4096
#define ACCEPTS_PER_TURN 64
#define ACCEPT_REST_MS 100

struct listener {
    struct acceptor *acceptor;
    struct loop *loop;
    const struct listener_ops *ops;
    void *context;
};

static void on_accepted(void *context, int fd, const struct sockaddr *address)
{
    struct listener *listener = context;
    struct transport *transport;
    char peer[ACCEPTOR_PEER_MAX];
    int r;

    (void)acceptor_peer(fd, address, peer);
    if (!listener->ops->admit(listener->context, address, peer)) {
        (void)close(fd);
        return;
    }
    r = socket_accepted(&transport, listener->loop, fd);
    if (r < 0)
        listener->ops->failed(listener->context, peer, r);
    else
        listener->ops->accepted(listener->context, transport, address, peer);
}

static unsigned on_failed(void *context, int error)
{
    struct listener *listener = context;

    listener->ops->failed(listener->context, "unknown", error);
    return ACCEPT_REST_MS;
}

static void on_closed(void *context)
{
    free(context);
}

static const struct acceptor_ops acceptor_ops = {
    .accepted = on_accepted,
    .failed = on_failed,
    .closed = on_closed,
};

int listener_new(struct listener **ret_listener, struct loop *loop, const struct endpoint *endpoint,
                 const struct listener_ops *ops, void *context)
{
    _cleanup_free_ struct listener *listener = calloc(1, sizeof(*listener));
    const struct acceptor_options options = {
        .accepts_per_turn = ACCEPTS_PER_TURN,
        .ops = &acceptor_ops,
        .context = listener,
    };
    int r;

    if (!listener)
        return -ENOMEM;
    listener->loop = loop;
    listener->ops = ops;
    listener->context = context;
    r = acceptor_listen(&listener->acceptor, loop->uv, endpoint, BACKLOG, &options);
    if (r < 0)
        return r;
    *ret_listener = TAKE_PTR(listener);
    return 0;
}

int listener_address(const struct listener *listener, struct sockaddr_storage *ret_address)
{
    return acceptor_address(listener->acceptor, ret_address);
}

struct listener *listener_free(struct listener *listener)
{
    if (listener) {
        acceptor_take_waiting(listener->acceptor);
        listener->acceptor = acceptor_free(listener->acceptor);
    }
    return NULL;
}
