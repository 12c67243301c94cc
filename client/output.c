/*
 * Making the descriptor non-blocking would be simple and wrong: the flag belongs to the open file,
 * which the shell and the other end of a `2>&1` share. So it is asked with poll(2) whether a write
 * would block, and then at most PIPE_BUF bytes are written, which is what a pipe or a terminal that
 * says "writable" has room for.
 *
 * Nor can libuv watch the descriptor, since uv_poll_init() sets that flag. It watches an epoll
 * descriptor of ours, and that one watches the file. Even while nothing waits to be written this
 * tells at once when the reading end of a pipe is closed, so that `stock-client | head -1` ends
 * without waiting for another update.
 */
#include "client/output.h"

#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* A file that does not block takes larger pieces. */
#define PIECE_MAX ((size_t)256 * 1024)

static int watch(struct output *output, uint32_t events)
{
    struct epoll_event event = {.events = events};

    return epoll_ctl(output->epoll, EPOLL_CTL_MOD, output->fd, &event) < 0 ? -errno : 0;
}

/* Does nobody read the other end? */
static bool is_abandoned(const struct output *output)
{
    struct pollfd poll_fd = {.fd = output->fd};

    return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLERR | POLLHUP));
}

static void on_event(uv_poll_t *handle, int status, int events)
{
    struct output *output = handle->data;
    struct epoll_event event;
    int r;

    /* Empties the epoll descriptor; the state itself is asked below. */
    (void)epoll_wait(output->epoll, &event, 1, 0);
    if (output->blocked) {
        output->blocked = false;
        r = watch(output, 0);
        if (r >= 0)
            r = output_flush(output);
    } else {
        r = is_abandoned(output) ? -EPIPE : 1;
    }
    if (r == 0) {
        output->written(output->user);
    } else if (r < 0) {
        /* A file that has failed would go on reporting that for ever. */
        (void)uv_poll_stop(handle);
        output->broken(output->user, r);
    }
}

static int start_watching(struct output *output)
{
    struct epoll_event event = {0};
    int r;

    output->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (output->epoll < 0)
        return -errno;
    if (epoll_ctl(output->epoll, EPOLL_CTL_ADD, output->fd, &event) < 0) {
        r = errno == EPERM ? 0 : -errno; /* EPERM: a file that is always writable */
        (void)close(output->epoll);
        output->epoll = -1;
        return r;
    }
    r = uv_poll_init(output->loop->uv, &output->poll, output->epoll);
    if (r < 0)
        return r;
    output->watched = true;
    output->poll.data = output;
    return uv_poll_start(&output->poll, UV_READABLE, on_event);
}

int output_init(struct output *output, struct loop *loop, int fd)
{
    int r;

    output->loop = loop;
    output->fd = fd;
    r = start_watching(output);
    if (r < 0)
        output_deinit(output);
    return r;
}

static void on_closed(uv_handle_t *handle)
{
    struct output *output = handle->data;

    (void)close(output->epoll);
    output->epoll = -1;
}

void output_deinit(struct output *output)
{
    text_deinit(&output->text);
    if (output->watched) {
        output->watched = false;
        uv_close((uv_handle_t *)&output->poll, on_closed);
    } else if (output->epoll >= 0) {
        (void)close(output->epoll);
        output->epoll = -1;
    }
}

/* Would write() return at once? 1 yes, 0 no. An error or a hang-up is for write() to tell. */
static int is_writable(const struct output *output)
{
    struct pollfd poll_fd = {.fd = output->fd, .events = POLLOUT};

    return output->epoll < 0 || poll(&poll_fd, 1, 0) != 0;
}

int output_flush(struct output *output)
{
    size_t piece_max = output->epoll < 0 ? PIECE_MAX : PIPE_BUF;
    struct text *text = &output->text;
    size_t done = 0;
    int r = 0;

    if (output->blocked)
        return 1;
    while (done < text->size && r == 0) {
        ssize_t size;

        if (!is_writable(output)) {
            r = 1;
            break;
        }
        size = write(output->fd, text->bytes + done, MIN(text->size - done, piece_max));
        if (size >= 0)
            done += (size_t)size;
        else if (errno == EAGAIN)
            r = 1;
        else if (errno != EINTR)
            r = -errno;
    }
    text_take(text, done);
    if (r == 1) {
        r = watch(output, EPOLLOUT);
        if (r < 0)
            return r;
        output->blocked = true;
        r = 1;
    }
    return r;
}
