/*
 * Updates of any program that can print: a line of JSON each, from a FIFO or from standard input.
 *
 * What is read in a turn is bounded, and while there are lines that were read and not published
 * nothing more is: a writer that is too fast waits in write(2), as with any pipe, instead of
 * filling memory here.
 *
 * Standard input is shared with whoever gave it to us, and so are its flags: O_NONBLOCK would break
 * the shell, or the program, that still has it. A pipe is opened once more instead, by its name in
 * /proc, which makes a file description of our own; where that is not possible, it is asked before
 * each read whether there is something. libuv sets that flag on what it polls, so it polls an epoll
 * descriptor, and that one polls the input.
 */
#include "market/feed_private.h"
#include "market/json.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define LINE_SIZE_MAX 16384
#define BUFFER_SIZE (4 * LINE_SIZE_MAX)

/* Of one turn, so that others have theirs. */
#define TURN_LINES_MAX 256

/* How often it is looked whether there is another FIFO of this name. */
#define LOOK_MS 1000

/* X(identifier): how input is waited for and read. */
enum input_kind {
    INPUT_OURS,   /* a description of our own, which never waits */
    INPUT_SOCKET, /* the same, by a flag of recv(2) */
    INPUT_SHARED, /* poll(2) says whether read(2) would wait */
    INPUT_FILE,   /* a file, or a device such as /dev/null: always ready */
};

struct feed_pipe {
    struct feed feed;
    char *path;       /* of the FIFO; NULL: standard input */
    const char *name; /* the same, for a person */

    int fd; /* -1: none, at present or for ever */
    enum input_kind kind;
    int epoll_fd; /* waits for `fd` alone */
    uv_poll_t poll;
    struct loop_task task;   /* there is more to do than fits into a turn */
    struct wheel_timer look; /* of a FIFO: for another one */

    uint64_t line; /* that is read next, from 1 */
    bool skipping; /* the rest of a line that was too long */
    size_t start;  /* of what is not published yet, in `bytes` */
    size_t end;
    char bytes[BUFFER_SIZE];
};

static void step(struct feed_pipe *pipe);

static void on_readable(uv_poll_t *poll, int status, int events)
{
    step(container_of(poll, struct feed_pipe, poll));
}

static void on_task(struct loop_task *task)
{
    step(container_of(task, struct feed_pipe, task));
}

static void go_on_next_turn(struct feed_pipe *pipe)
{
    (void)uv_poll_stop(&pipe->poll);
    loop_queue(pipe->feed.options.loop, &pipe->task);
}

static void wait_for_input(struct feed_pipe *pipe)
{
    if (pipe->fd < 0)
        (void)uv_poll_stop(&pipe->poll);
    else if (pipe->kind == INPUT_FILE)
        go_on_next_turn(pipe);
    else
        (void)uv_poll_start(&pipe->poll, UV_READABLE, on_readable);
}

/* Takes another input, or with -1 none. False if it cannot be polled (errno). */
static bool set_input(struct feed_pipe *pipe, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    if (fd >= 0 && pipe->kind != INPUT_FILE &&
        epoll_ctl(pipe->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        if (errno != EPERM || pipe->path)
            return false;
        pipe->kind = INPUT_FILE;
    }
    /* By closing it epoll would forget standard input only if nobody else had it. */
    if (pipe->fd >= 0)
        (void)epoll_ctl(pipe->epoll_fd, EPOLL_CTL_DEL, pipe->fd, NULL);
    if (pipe->fd > STDERR_FILENO)
        (void)close(pipe->fd);
    pipe->fd = fd;
    return true;
}

/* The FIFO, for reading, or a negative errno; -ENOSTR if it is something else. */
static int open_fifo(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) < 0 || !S_ISFIFO(status.st_mode)) {
        (void)close(fd);
        return -ENOSTR;
    }
    return fd;
}

static const char *explain_fifo(int error)
{
    if (error == -ENOENT)
        return "there is no such FIFO; mkfifo makes one";
    return error == -ENOSTR ? "not a FIFO" : strerror(-error);
}

static void take_line(struct feed_pipe *pipe, const char *line, size_t size)
{
    struct feed_place place = {pipe->name, pipe->line};
    struct json_update update;
    char error[FEED_ERROR_MAX];
    int r;

    if (pipe->line == 1 && size >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3;
        size -= 3;
    }
    while (size > 0 && strchr(" \t\r", line[size - 1]) && line[size - 1])
        size--;
    if (size == 0)
        return;
    r = json_update_parse(line, size, &update, error);
    if (r == 0)
        (void)feed_publish_name(&pipe->feed, &place, update.ticker, &update.quote);
    else
        feed_fault(&pipe->feed, &place, r < 0 ? "no memory to read it" : error);
}

/* Nothing follows in this input. A last line without an end is one, too. */
static void end_lines(struct feed_pipe *pipe)
{
    if (!pipe->skipping && pipe->end > pipe->start)
        take_line(pipe, pipe->bytes + pipe->start, pipe->end - pipe->start);
    pipe->start = pipe->end = 0;
}

/*
 * The FIFO once more, before the old one is closed: a writer that has just come would otherwise
 * find no reader. Without this, one that has been left by its writers is always readable.
 */
static void reopen(struct feed_pipe *pipe)
{
    int fd = open_fifo(pipe->path);

    if (fd >= 0 && !set_input(pipe, fd)) {
        (void)close(fd);
        fd = -1;
    }
    if (fd < 0)
        (void)set_input(pipe, -1); /* on_look() tries again */
    pipe->line = 1;
    pipe->skipping = false;
    wait_for_input(pipe);
}

/* A FIFO that was removed, and made anew by whoever writes, has no reader: there is no event. */
static void on_look(struct wheel_timer *timer)
{
    struct feed_pipe *pipe = container_of(timer, struct feed_pipe, look);
    struct stat named, ours;

    loop_arm(pipe->feed.options.loop, timer, LOOK_MS, LOOK_MS);
    if (pipe->task.queue || stat(pipe->path, &named) < 0 || !S_ISFIFO(named.st_mode))
        return;
    if (pipe->fd >= 0 && fstat(pipe->fd, &ours) == 0 &&
        (ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)) {
        /* Whoever writes to the old one goes on with it until he leaves, or falls silent. */
        struct pollfd poll_fd = {.fd = pipe->fd, .events = POLLIN};

        bool used = pipe->feed.state == FEED_LIVE && pipe->feed.stats.updates_total > 0;

        if (used || poll(&poll_fd, 1, 0) != 0)
            return;
        /* What is left of a line there is no start of the first one here. */
        end_lines(pipe);
    } else if (pipe->fd >= 0) {
        return;
    }
    reopen(pipe);
}

/* Takes the next line out of the buffer; false if its end is not there yet. */
static bool next_line(struct feed_pipe *pipe)
{
    char *line = pipe->bytes + pipe->start;
    size_t size = pipe->end - pipe->start;
    const char *end = memchr(line, '\n', size);
    size_t length = end ? (size_t)(end - line) : size;

    if (!end && !pipe->skipping && size <= LINE_SIZE_MAX)
        return false;
    pipe->start += end ? length + 1 : length;
    if (pipe->skipping || length > LINE_SIZE_MAX) {
        char what[64];

        (void)snprintf(what, sizeof(what), "a line of more than %d bytes", LINE_SIZE_MAX);
        if (!pipe->skipping)
            feed_fault(&pipe->feed, &(struct feed_place){pipe->name, pipe->line}, what);
        pipe->skipping = !end;
    } else {
        take_line(pipe, line, length);
    }
    pipe->line += end != NULL;
    return end != NULL;
}

/* Up to `size` bytes without waiting: their number, 0 at the end, or a negative errno. */
static ssize_t read_input(const struct feed_pipe *pipe, char *bytes, size_t size)
{
    struct pollfd poll_fd = {.fd = pipe->fd, .events = POLLIN};
    ssize_t n;

    if (pipe->kind == INPUT_SHARED && poll(&poll_fd, 1, 0) == 0)
        return -EAGAIN;
    do
        n = pipe->kind == INPUT_SOCKET ? recv(pipe->fd, bytes, size, MSG_DONTWAIT)
                                       : read(pipe->fd, bytes, size);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* The writers have left, or `error`. */
static void end_input(struct feed_pipe *pipe, int error)
{
    end_lines(pipe);
    feed_gone(&pipe->feed, error != 0   ? strerror(-error)
                           : pipe->path ? "the last writer has left"
                                        : "the end of standard input");
    if (pipe->path) {
        reopen(pipe);
    } else {
        (void)set_input(pipe, -1);
        wait_for_input(pipe);
    }
}

/* A turn's work: lines that are there, then what can be read, then its lines. */
static void step(struct feed_pipe *pipe)
{
    unsigned lines = 0;
    bool was_read = false;
    ssize_t n;

    for (;;) {
        while (lines < TURN_LINES_MAX && next_line(pipe))
            lines++;
        if (lines == TURN_LINES_MAX || was_read)
            break;
        memmove(pipe->bytes, pipe->bytes + pipe->start, pipe->end - pipe->start);
        pipe->end -= pipe->start;
        pipe->start = 0;
        n = read_input(pipe, pipe->bytes + pipe->end, sizeof(pipe->bytes) - pipe->end);
        if (n == -EAGAIN) {
            wait_for_input(pipe);
            return;
        }
        if (n <= 0) {
            end_input(pipe, (int)n);
            return;
        }
        pipe->end += (size_t)n;
        was_read = true;
    }
    if (lines == TURN_LINES_MAX)
        go_on_next_turn(pipe);
    else
        wait_for_input(pipe);
}

static void on_closed(uv_handle_t *handle)
{
    struct feed_pipe *pipe = container_of((uv_poll_t *)(void *)handle, struct feed_pipe, poll);

    (void)close(pipe->epoll_fd);
    free(pipe->path);
    free(pipe);
}

static void pipe_free(struct feed *feed)
{
    struct feed_pipe *pipe = container_of(feed, struct feed_pipe, feed);

    feed_deinit(feed);
    loop_cancel(feed->options.loop, &pipe->task);
    loop_disarm(feed->options.loop, &pipe->look);
    (void)set_input(pipe, -1);
    uv_close((uv_handle_t *)&pipe->poll, on_closed);
}

static const struct feed_ops ops = {.free = pipe_free};

/* What standard input is, and how it can be read without touching what others have of it. */
static int open_stdin(enum input_kind *ret_kind, char error[static FEED_ERROR_MAX])
{
    struct stat status;
    int fd;

    if (fstat(STDIN_FILENO, &status) < 0) {
        (void)snprintf(error, FEED_ERROR_MAX, "standard input: %s", strerror(errno));
        return -EINVAL;
    }
    if (S_ISDIR(status.st_mode)) {
        (void)snprintf(error, FEED_ERROR_MAX, "standard input: is a directory");
        return -EINVAL;
    }
    *ret_kind = INPUT_SHARED;
    if (S_ISSOCK(status.st_mode))
        *ret_kind = INPUT_SOCKET;
    else if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode))
        *ret_kind = INPUT_FILE;
    if (S_ISFIFO(status.st_mode)) {
        /* Not allowed where another user made the pipe; then it is shared. */
        fd = open("/proc/self/fd/0", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0) {
            *ret_kind = INPUT_OURS;
            return fd;
        }
    }
    return STDIN_FILENO;
}

/* The descriptor to read from. A negative one: -EINVAL, with `error`. */
static int open_input(const char *path, enum input_kind *ret_kind,
                      char error[static FEED_ERROR_MAX])
{
    int fd;

    if (!path)
        return open_stdin(ret_kind, error);
    *ret_kind = INPUT_OURS;
    fd = open_fifo(path);
    if (fd >= 0)
        return fd;
    (void)snprintf(error, FEED_ERROR_MAX, "%s: %s", path, explain_fifo(fd));
    return -EINVAL;
}

/* What can be undone by itself; 0, -ENOMEM or -EINVAL. */
static int pipe_init(struct feed_pipe *pipe, const struct feed_options *options,
                     char error[static FEED_ERROR_MAX])
{
    int r, fd = open_input(pipe->path, &pipe->kind, error);

    pipe->fd = pipe->epoll_fd = -1;
    if (fd < 0)
        return fd;
    pipe->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (pipe->epoll_fd < 0 || !set_input(pipe, fd)) {
        (void)snprintf(error, FEED_ERROR_MAX, "%s: %s", pipe->name, strerror(errno));
        if (fd > STDERR_FILENO)
            (void)close(fd);
        return -EINVAL;
    }
    r = uv_poll_init(options->loop->uv, &pipe->poll, pipe->epoll_fd);
    if (r < 0)
        (void)snprintf(error, FEED_ERROR_MAX, "%s: %s", pipe->name, uv_strerror(r));
    return r == UV_ENOMEM ? -ENOMEM : r < 0 ? -EINVAL : 0;
}

int feed_pipe_new(struct feed **ret_feed, const struct feed_options *options, const char *path,
                  char error[static FEED_ERROR_MAX])
{
    _cleanup_free_ struct feed_pipe *pipe = calloc(1, sizeof(*pipe));
    _cleanup_free_ char *copy = path ? strdup(path) : NULL;
    int r;

    if (!pipe || (path && !copy))
        return -ENOMEM;
    pipe->path = copy;
    pipe->name = path ? copy : "standard input";
    pipe->line = 1;
    pipe->task.run = on_task;
    pipe->look.fire = on_look;
    r = pipe_init(pipe, options, error);
    if (r < 0) {
        (void)set_input(pipe, -1);
        if (pipe->epoll_fd >= 0)
            (void)close(pipe->epoll_fd);
        return r;
    }
    feed_init(&pipe->feed, &ops, path ? FEED_KIND_PIPE : FEED_KIND_STDIN, options);
    if (path) {
        /* One without a writer would look as if its last one had left; so only its events count. */
        wait_for_input(pipe);
        loop_arm(options->loop, &pipe->look, LOOK_MS, LOOK_MS);
    } else {
        /* Its writers may have left already: that is no event where it was opened once more. */
        loop_queue(options->loop, &pipe->task);
    }
    copy = NULL;
    *ret_feed = &TAKE_PTR(pipe)->feed;
    return 0;
}
