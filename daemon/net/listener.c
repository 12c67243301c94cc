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
#include <netinet/in.h>
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
    if (!listener->ops->admit(listener->context)) {
        (void)close(fd);
        listener->ops->refused(listener->context, peer, 0);
        return;
    }
    r = socket_accepted(&transport, listener->loop, fd);
    if (r < 0)
        listener->ops->refused(listener->context, peer, r);
    else
        listener->ops->accepted(listener->context, transport, peer);
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
        listener->ops->refused(listener->context, "unknown", -error);
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

static int open_socket(const struct sockaddr *address)
{
    static const int yes = 1, no = 0;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        (address->sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)) < 0) ||
        bind(fd, address, address_size(address)) < 0 || listen(fd, BACKLOG) < 0) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    return fd;
}

static int listener_try(struct listener **ret_listener, struct loop *loop,
                        const struct sockaddr *address, const struct listener_ops *ops,
                        void *context)
{
    _cleanup_free_ struct listener *listener = calloc(1, sizeof(*listener));
    int r;

    if (!listener)
        return -ENOMEM;
    listener->loop = loop;
    listener->ops = ops;
    listener->context = context;
    listener->rest.fire = on_rested;
    listener->fd = open_socket(address);
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

int listener_new(struct listener **ret_listener, struct loop *loop, const struct sockaddr *address,
                 const struct listener_ops *ops, void *context)
{
    int r = listener_try(ret_listener, loop, address, ops, context);

    if (r == -EAFNOSUPPORT && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)address;
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = in6->sin6_port};

        if (IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr))
            r = listener_try(ret_listener, loop, (struct sockaddr *)&in, ops, context);
    }
    return r;
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
