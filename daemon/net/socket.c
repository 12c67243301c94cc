/*
 * TCP and Unix sockets as transports. All of them read into one buffer, since what it holds is used
 * before the next socket is looked at, and a socket that has more to read than its share of a turn
 * waits for the next turn, so that one busy peer cannot keep the loop.
 */
#include "net/socket.h"

#include "base/util.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_SIZE (64 * 1024)
#define READ_TURN_MAX (128 * 1024)

struct socket {
    struct transport transport;
    struct loop *loop;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe; /* a Unix socket */
    } io;
    uv_write_t write;
    uv_shutdown_t shutdown;
    struct loop_task read_on;
    uint8_t *kept; /* what `write` is writing */
    size_t read_this_turn;
    int fd;
    int send_buffer_bytes; /* a Unix socket's SO_SNDBUF */
    bool closing;
};

struct socket_connect {
    struct socket *socket;
    uv_connect_t request;
    void (*done)(void *user, struct transport *transport, int error);
    void *user;
};

static struct socket *from_transport(struct transport *transport)
{
    return container_of(transport, struct socket, transport);
}

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    static char bytes[READ_SIZE];

    *buffer = uv_buf_init(bytes, sizeof(bytes));
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer)
{
    struct socket *socket = container_of(stream, struct socket, io.stream);
    struct transport *transport = &socket->transport;

    if (size == 0)
        return;
    if (size < 0) {
        (void)uv_read_stop(stream);
        transport->user_ops->ended(transport->user, size == UV_EOF ? 0 : (int)size);
        return;
    }
    socket->read_this_turn += (size_t)size;
    if (socket->read_this_turn >= READ_TURN_MAX) {
        (void)uv_read_stop(stream);
        loop_queue(socket->loop, &socket->read_on);
    }
    transport->user_ops->received(transport->user, (const uint8_t *)buffer->base, (size_t)size);
}

static void socket_read_on(struct loop_task *task)
{
    struct socket *socket = container_of(task, struct socket, read_on);

    socket->read_this_turn = 0;
    /* Can fail only while closing, and then this task is cancelled. */
    (void)uv_read_start(&socket->io.stream, on_allocate, on_read);
}

static int socket_start(struct transport *transport)
{
    return uv_read_start(&from_transport(transport)->io.stream, on_allocate, on_read);
}

static ssize_t socket_try_write(struct transport *transport, const uint8_t *bytes, size_t size)
{
    uv_buf_t buffer = uv_buf_init((char *)bytes, (unsigned)size);
    int r = uv_try_write(&from_transport(transport)->io.stream, &buffer, 1);

    return r == UV_EAGAIN ? 0 : r;
}

static void on_written(uv_write_t *request, int status)
{
    struct socket *socket = container_of(request, struct socket, write);

    free(TAKE_PTR(socket->kept));
    if (!socket->closing)
        socket->transport.user_ops->written(socket->transport.user, status);
}

static int socket_write(struct transport *transport, const uint8_t *bytes, size_t size)
{
    struct socket *socket = from_transport(transport);
    uv_buf_t buffer;
    int r;

    socket->kept = malloc(size);
    if (!socket->kept)
        return -ENOMEM;
    memcpy(socket->kept, bytes, size);
    buffer = uv_buf_init((char *)socket->kept, (unsigned)size);
    r = uv_write(&socket->write, &socket->io.stream, &buffer, 1, on_written);
    if (r < 0)
        free(TAKE_PTR(socket->kept));
    return r;
}

static size_t socket_room(struct transport *transport)
{
    int unsent;

    if (ioctl(from_transport(transport)->fd, SIOCOUTQNSD, &unsent) < 0)
        return SIZE_MAX;
    return unsent < SOCKET_UNSENT_MAX ? (size_t)(SOCKET_UNSENT_MAX - unsent) : 0;
}

/*
 * What the peer has not read is charged to the writer, with the kernel's overhead, up to SO_SNDBUF;
 * the write that reaches it is cut there, about.
 */
static size_t socket_room_unix(struct transport *transport)
{
    const struct socket *socket = from_transport(transport);
    int unread;

    if (ioctl(socket->fd, SIOCOUTQ, &unread) < 0)
        return SIZE_MAX;
    return unread < socket->send_buffer_bytes ? (size_t)(socket->send_buffer_bytes - unread) : 0;
}

static size_t socket_unsent(struct transport *transport)
{
    int unsent;

    return ioctl(from_transport(transport)->fd, SIOCOUTQNSD, &unsent) < 0 ? 0 : (size_t)unsent;
}

static size_t socket_unsent_unix(struct transport *transport)
{
    int unread;

    return ioctl(from_transport(transport)->fd, SIOCOUTQ, &unread) < 0 ? 0 : (size_t)unread;
}

/* libuv before 1.44.2 calls it even where there is none. */
static void on_shut(uv_shutdown_t *request, int status)
{
}

static void socket_shutdown(struct transport *transport)
{
    struct socket *socket = from_transport(transport);

    (void)uv_shutdown(&socket->shutdown, &socket->io.stream, on_shut);
}

static void on_closed(uv_handle_t *handle)
{
    struct socket *socket = container_of(handle, struct socket, io.handle);

    if (socket->transport.user_ops)
        socket->transport.user_ops->closed(socket->transport.user);
    free(socket);
}

static void socket_close(struct transport *transport)
{
    struct socket *socket = from_transport(transport);

    if (socket->closing)
        return;
    socket->closing = true;
    loop_cancel(socket->loop, &socket->read_on);
    uv_close(&socket->io.handle, on_closed);
}

/* They differ in what they ask the kernel only, so that the fast path has nothing to tell apart. */
#define SOCKET_OPS(room_, unsent_)                                                                 \
    {                                                                                              \
        .start = socket_start, .try_write = socket_try_write, .write = socket_write,               \
        .room = (room_), .unsent = (unsent_), .shutdown = socket_shutdown, .close = socket_close   \
    }

static const struct transport_ops tcp_ops = SOCKET_OPS(socket_room, socket_unsent);
static const struct transport_ops unix_ops = SOCKET_OPS(socket_room_unix, socket_unsent_unix);

static bool is_unix(const struct socket *socket)
{
    return socket->transport.ops == &unix_ops;
}

/* From here on the socket is freed by socket_close() only. */
static int socket_new(struct socket **ret_socket, struct loop *loop, int family)
{
    struct socket *socket = calloc(1, sizeof(*socket));
    int r;

    if (!socket)
        return -ENOMEM;
    socket->loop = loop;
    socket->read_on.run = socket_read_on;
    if (family == AF_UNIX) {
        socket->transport.ops = &unix_ops;
        r = uv_pipe_init(loop->uv, &socket->io.pipe, 0);
    } else {
        socket->transport.ops = &tcp_ops;
        r = uv_tcp_init(loop->uv, &socket->io.tcp);
    }
    if (r < 0) {
        free(socket);
        return r;
    }
    *ret_socket = socket;
    return 0;
}

/* Small frames leave at once, and little lies unsent in the kernel. */
static int tune_tcp(struct socket *socket)
{
    int unsent_max = SOCKET_UNSENT_MAX;
    int r = uv_tcp_nodelay(&socket->io.tcp, 1);

    if (r < 0)
        return r;
    if (setsockopt(socket->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_max, sizeof(unsent_max)) < 0)
        return -errno;
    return 0;
}

static int tune_unix(struct socket *socket)
{
    socklen_t size = sizeof(socket->send_buffer_bytes);

    if (getsockopt(socket->fd, SOL_SOCKET, SO_SNDBUF, &socket->send_buffer_bytes, &size) < 0)
        return -errno;
    return 0;
}

static int socket_tune(struct socket *socket)
{
    int r = uv_fileno(&socket->io.handle, &socket->fd);

    if (r < 0)
        return r;
    return is_unix(socket) ? tune_unix(socket) : tune_tcp(socket);
}

int socket_accepted(struct transport **ret_transport, struct loop *loop, int fd)
{
    struct socket *socket;
    int family, r = 0;
    socklen_t size = sizeof(family);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) < 0) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    r = socket_new(&socket, loop, family);
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    r = is_unix(socket) ? uv_pipe_open(&socket->io.pipe, fd) : uv_tcp_open(&socket->io.tcp, fd);
    if (r < 0)
        (void)close(fd);
    else
        r = socket_tune(socket);
    if (r < 0) {
        socket_close(&socket->transport);
        return r;
    }
    *ret_transport = &socket->transport;
    return 0;
}

static void on_connected(uv_connect_t *request, int status)
{
    struct socket_connect *connect = container_of(request, struct socket_connect, request);
    struct socket *socket = connect->socket;
    int r = status;

    /* Given up: the handle is closing. */
    if (!connect->done) {
        free(connect);
        return;
    }
    if (r >= 0)
        r = socket_tune(socket);
    if (r < 0)
        socket_close(&socket->transport);
    connect->done(connect->user, r < 0 ? NULL : &socket->transport, r < 0 ? r : 0);
    free(connect);
}

/*
 * libuv wants the path as a string, and cuts one that has no NUL within its array short, which
 * would name another file.
 */
static int connect_unix(struct socket_connect *connect, const struct sockaddr_un *address)
{
    if (address->sun_path[0] == '\0')
        return -EINVAL;
    if (!memchr(address->sun_path, '\0', sizeof(address->sun_path)))
        return -ENAMETOOLONG;
    uv_pipe_connect(&connect->request, &connect->socket->io.pipe, address->sun_path, on_connected);
    return 0;
}

int socket_connect(struct socket_connect **ret_connect, struct loop *loop,
                   const struct sockaddr *address,
                   void (*done)(void *user, struct transport *transport, int error), void *user)
{
    _cleanup_free_ struct socket_connect *connect = calloc(1, sizeof(*connect));
    int r;

    if (!connect)
        return -ENOMEM;
    connect->done = done;
    connect->user = user;
    r = socket_new(&connect->socket, loop, address->sa_family);
    if (r < 0)
        return r;
    if (is_unix(connect->socket))
        r = connect_unix(connect, (const struct sockaddr_un *)(const void *)address);
    else
        r = uv_tcp_connect(&connect->request, &connect->socket->io.tcp, address, on_connected);
    if (r < 0) {
        socket_close(&connect->socket->transport);
        return r;
    }
    *ret_connect = TAKE_PTR(connect);
    return 0;
}

void socket_connect_cancel(struct socket_connect *connect)
{
    connect->done = NULL;
    socket_close(&connect->socket->transport);
}
