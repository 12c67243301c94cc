/*
 * A listening TCP socket.
 *
 * Connections are accepted here, not by libuv: while accept fails for want of descriptors or memory
 * libuv tries again at once, for ever, and the loop gets to nothing else. Here the listener rests
 * for a moment instead. Nor does libuv stop before the queue is empty, so that a storm of
 * connections would be accepted whole before the first of them is served.
 */
#include "net/listener.h"

#include "base/address.h"
#include "base/util.h"
#include "net/socket.h"

#include <errno.h>
#include <unistd.h>
#include <uv.h>

/* The kernel cuts this to net.core.somaxconn. */
#define BACKLOG 4096
#define ACCEPTS_PER_TURN 64
#define ACCEPT_REST_MS 100

struct listener {
    uv_poll_t poll;
    int fd;
    struct wheel_timer rest;
    struct loop *loop;
    const struct listener_ops *ops;
    void *context;
};

static void take_connection(struct listener *listener, int fd, const struct sockaddr *address)
{
    struct transport *transport;
    char peer[ADDRESS_TEXT_MAX];
    int r;

    (void)address_format(address, peer);
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

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
    struct listener *listener = container_of(poll, struct listener, poll);

    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage address = {0};
        socklen_t size = sizeof(address);
        int fd =
            accept4(listener->fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        int error = errno;

        if (fd >= 0) {
            take_connection(listener, fd, (struct sockaddr *)&address);
            continue;
        }
        if (error == EAGAIN || error == EWOULDBLOCK)
            return;
        /* These went before they were accepted: nobody was refused. */
        if (error == EINTR || error == ECONNABORTED)
            continue;
        /* Most often there are no descriptors or no memory, which only time can bring back. */
        listener->ops->failed(listener->context, "unknown", -error);
        (void)uv_poll_stop(poll);
        loop_arm(listener->loop, &listener->rest, ACCEPT_REST_MS, 10);
        return;
    }
}

static void on_rested(struct wheel_timer *timer)
{
    struct listener *listener = container_of(timer, struct listener, rest);

    (void)uv_poll_start(&listener->poll, UV_READABLE, on_acceptable);
}

int listener_new(struct listener **ret_listener, struct loop *loop, const struct endpoint *endpoint,
                 const struct listener_ops *ops, void *context)
{
    _cleanup_free_ struct listener *listener = calloc(1, sizeof(*listener));
    int r;

    if (!listener)
        return -ENOMEM;
    listener->loop = loop;
    listener->ops = ops;
    listener->context = context;
    listener->rest.fire = on_rested;
    listener->fd = endpoint_listen(endpoint, BACKLOG);
    if (listener->fd < 0)
        return listener->fd;
    r = uv_poll_init(loop->uv, &listener->poll, listener->fd);
    if (r < 0) {
        (void)close(listener->fd);
        return r;
    }
    /* Can fail only while closing. */
    (void)uv_poll_start(&listener->poll, UV_READABLE, on_acceptable);
    *ret_listener = TAKE_PTR(listener);
    return 0;
}

int listener_address(const struct listener *listener, struct sockaddr_storage *ret_address)
{
    socklen_t size = sizeof(*ret_address);

    return getsockname(listener->fd, (struct sockaddr *)ret_address, &size) < 0 ? -errno : 0;
}

static void on_closed(uv_handle_t *handle)
{
    free(container_of(handle, struct listener, poll));
}

struct listener *listener_free(struct listener *listener)
{
    if (listener) {
        loop_disarm(listener->loop, &listener->rest);
        /* First, because libuv must forget the descriptor before it is closed. */
        uv_close((uv_handle_t *)&listener->poll, on_closed);
        (void)close(listener->fd);
    }
    return NULL;
}
