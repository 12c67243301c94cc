/*
 * Accepting, with an end to each turn and a rest after a failure.
 */
#include "base/acceptor.h"

#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* What acceptor_take_waiting() takes at most: more than any queue in the kernel is set to, and an
 * end, should clients come faster than they are taken. */
#define WAITING_MAX 65536u

/* The file of a Unix socket that this process has made; `path` is empty where there is none. */
struct socket_file {
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];
    dev_t device;
    ino_t inode;
};

struct acceptor {
    uv_poll_t poll;
    uv_timer_t rest;
    int fd;
    unsigned handles; /* that are not yet closed */
    bool closing;
    bool passed; /* its socket is the service manager's, and outlives this process */
    struct acceptor_options options;
    struct socket_file file;
};

/* What one accept has led to. */
enum step {
    STEP_AGAIN, /* there may be more */
    STEP_DONE,
    STEP_FAILED,
};

static void on_acceptable(uv_poll_t *poll, int status, int events);

static void on_rested(uv_timer_t *timer)
{
    struct acceptor *acceptor = container_of(timer, struct acceptor, rest);

    (void)uv_poll_start(&acceptor->poll, UV_READABLE, on_acceptable);
}

/* Leaves connections in the kernel's queue for a moment. */
static void fail(struct acceptor *acceptor, int error)
{
    unsigned rest_ms = acceptor->options.ops->failed(acceptor->options.context, -error);

    if (acceptor->closing)
        return;
    (void)uv_poll_stop(&acceptor->poll);
    (void)uv_timer_start(&acceptor->rest, on_rested, MAX(rest_ms, 1u), 0);
}

/* The kernel looks for a free descriptor first, and for somebody to give it to only then. */
static bool somebody_waits(const struct acceptor *acceptor)
{
    struct pollfd poll_ = {.fd = acceptor->fd, .events = POLLIN};

    return poll(&poll_, 1, 0) != 0;
}

static enum step accept_one(struct acceptor *acceptor)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    int fd =
        accept4(acceptor->fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int error = errno;

    if (fd >= 0) {
        acceptor->options.ops->accepted(acceptor->options.context, fd,
                                        (const struct sockaddr *)&address);
        return acceptor->closing ? STEP_DONE : STEP_AGAIN;
    }
    if (error == EAGAIN || error == EWOULDBLOCK)
        return STEP_DONE;
    /* These went before they were accepted: nobody was refused. */
    if (error == EINTR || error == ECONNABORTED)
        return STEP_AGAIN;
    if (!somebody_waits(acceptor))
        return STEP_DONE;
    /* Most often there are no descriptors or no memory, which only time can bring back. */
    fail(acceptor, error);
    return STEP_FAILED;
}

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
    struct acceptor *acceptor = container_of(poll, struct acceptor, poll);

    for (unsigned i = 0; i < acceptor->options.accepts_per_turn; i++)
        if (accept_one(acceptor) != STEP_AGAIN)
            return;
}

static void remember_file(struct socket_file *file, const struct endpoint *endpoint)
{
    struct sockaddr_un address;
    struct stat status;

    file->path[0] = '\0';
    if (endpoint->address.ss_family != AF_UNIX || endpoint->passed)
        return;
    memcpy(&address, &endpoint->address, sizeof(address));
    /* The kernel allows a path that takes all of the array and has no NUL. */
    (void)snprintf(file->path, sizeof(file->path), "%.*s", (int)sizeof(address.sun_path),
                   address.sun_path);
    /* A socket without a name in the file system, or one that is gone already, leaves nothing. */
    if (lstat(file->path, &status) < 0) {
        file->path[0] = '\0';
        return;
    }
    file->device = status.st_dev;
    file->inode = status.st_ino;
}

/* A newer process may have put its own socket there, which then is the one that clients want. */
static void remove_file(struct socket_file *file)
{
    struct stat status;

    if (file->path[0] && lstat(file->path, &status) == 0 && status.st_dev == file->device &&
        status.st_ino == file->inode)
        (void)unlink(file->path);
    file->path[0] = '\0';
}

int acceptor_new(struct acceptor **ret_acceptor, uv_loop_t *loop, int fd,
                 const struct acceptor_options *options)
{
    struct acceptor *acceptor = calloc(1, sizeof(*acceptor));
    int r = -ENOMEM;

    if (acceptor)
        r = uv_poll_init(loop, &acceptor->poll, fd);
    if (r < 0) {
        (void)close(fd);
        free(acceptor);
        return r; /* libuv's errors are negative errnos on Linux */
    }
    (void)uv_timer_init(loop, &acceptor->rest); /* cannot fail */
    acceptor->handles = 2;
    acceptor->fd = fd;
    acceptor->options = *options;
    /* Can fail only while closing. */
    (void)uv_poll_start(&acceptor->poll, UV_READABLE, on_acceptable);
    *ret_acceptor = acceptor;
    return 0;
}

int acceptor_listen(struct acceptor **ret_acceptor, uv_loop_t *loop,
                    const struct endpoint *endpoint, int backlog,
                    const struct acceptor_options *options)
{
    struct socket_file file;
    int fd = endpoint_listen(endpoint, backlog);
    int r;

    if (fd < 0)
        return fd;
    remember_file(&file, endpoint);
    r = acceptor_new(ret_acceptor, loop, fd, options);
    if (r < 0) {
        remove_file(&file);
        return r;
    }
    (*ret_acceptor)->file = file;
    (*ret_acceptor)->passed = endpoint->passed != 0;
    return 0;
}

int acceptor_address(const struct acceptor *acceptor, struct sockaddr_storage *ret_address)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);

    if (getsockname(acceptor->fd, (struct sockaddr *)&address, &size) < 0)
        return -errno;
    *ret_address = address;
    return 0;
}

void acceptor_take_waiting(struct acceptor *acceptor)
{
    if (acceptor->passed)
        return;
    remove_file(&acceptor->file);
    for (unsigned i = 0; i < WAITING_MAX && !acceptor->closing; i++)
        if (accept_one(acceptor) != STEP_AGAIN)
            return;
}

static void on_closed(uv_handle_t *handle)
{
    struct acceptor *acceptor = handle->data;

    if (--acceptor->handles > 0)
        return;
    if (acceptor->options.ops->closed)
        acceptor->options.ops->closed(acceptor->options.context);
    free(acceptor);
}

struct acceptor *acceptor_free(struct acceptor *acceptor)
{
    if (!acceptor || acceptor->closing)
        return NULL;
    acceptor->closing = true;
    remove_file(&acceptor->file);
    acceptor->poll.data = acceptor;
    acceptor->rest.data = acceptor;
    /* First, because libuv must forget the descriptor before it is closed. */
    uv_close((uv_handle_t *)&acceptor->poll, on_closed);
    uv_close((uv_handle_t *)&acceptor->rest, on_closed);
    (void)close(acceptor->fd);
    return NULL;
}

const char *acceptor_peer(int fd, const struct sockaddr *address,
                          char text[static ACCEPTOR_PEER_MAX])
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    if (address->sa_family != AF_UNIX)
        return address_format(address, text);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        (void)snprintf(text, ACCEPTOR_PEER_MAX, "unix:");
    else
        (void)snprintf(text, ACCEPTOR_PEER_MAX, "unix:pid=%ld,uid=%lu", (long)peer.pid,
                       (unsigned long)peer.uid);
    return text;
}
