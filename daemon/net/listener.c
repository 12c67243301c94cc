/*
 * A listening TCP socket.
 */
#include "net/listener.h"

#include "base/address.h"
#include "base/util.h"
#include "net/socket.h"

#include <errno.h>
#include <uv.h>

/* The kernel cuts this to net.core.somaxconn. */
#define BACKLOG 4096

struct listener {
    uv_tcp_t tcp;
    struct loop *loop;
    const struct listener_ops *ops;
    void *context;
};

static void on_connection(uv_stream_t *server, int status)
{
    struct listener *listener = container_of(server, struct listener, tcp);
    struct sockaddr_storage address;
    struct transport *transport;
    char peer[ADDRESS_TEXT_MAX];
    int r = status;

    if (r >= 0)
        r = socket_accept(&transport, listener->loop, server, &address);
    if (r < 0) {
        listener->ops->refused(listener->context, "unknown", r);
        return;
    }
    (void)address_format((struct sockaddr *)&address, peer);
    if (listener->ops->admit(listener->context)) {
        listener->ops->accepted(listener->context, transport, peer);
    } else {
        transport->ops->close(transport);
        listener->ops->refused(listener->context, peer, 0);
    }
}

static void on_closed(uv_handle_t *handle)
{
    free(container_of(handle, struct listener, tcp));
}

static int listener_bind(struct listener *listener, const struct sockaddr *address)
{
    int r = uv_tcp_init_ex(listener->loop->uv, &listener->tcp, address->sa_family);

    if (r < 0) {
        free(listener);
        return r;
    }
    r = uv_tcp_bind(&listener->tcp, address, 0);
    if (r >= 0)
        r = uv_listen((uv_stream_t *)&listener->tcp, BACKLOG, on_connection);
    if (r < 0)
        uv_close((uv_handle_t *)&listener->tcp, on_closed);
    return r;
}

static int listener_try(struct listener **ret_listener, struct loop *loop,
                        const struct sockaddr *address, const struct listener_ops *ops,
                        void *context)
{
    struct listener *listener = calloc(1, sizeof(*listener));
    int r;

    if (!listener)
        return -ENOMEM;
    listener->loop = loop;
    listener->ops = ops;
    listener->context = context;
    r = listener_bind(listener, address);
    if (r < 0)
        return r;
    *ret_listener = listener;
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
    int size = sizeof(*ret_address);

    return uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)ret_address, &size);
}

struct listener *listener_free(struct listener *listener)
{
    if (listener)
        uv_close((uv_handle_t *)&listener->tcp, on_closed);
    return NULL;
}
