/*
 * The floor: the least that any server of this service could spend. All its messages were made
 * before the first client came; what is left is to frame them, to keep to each peer's flow control
 * and to hand them to the kernel. It knows nothing of gRPC but the shape of the answer, checks
 * nothing that it is asked, and is no server for any other use.
 *
 * The ready messages are a walk that comes back to its start, so that however many of them a frame
 * takes, the stream as a whole is a correct one: price[n] = price[n-1] + change[n].
 */

#include "tests/bench/frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 256,
    RECEIVE_BYTES = 64 * 1024,
    CONTROL_BYTES = 256,
    FRAMES_MAX = 8, /* in one write: 128 KiB, as stockd */
    STREAMS_MAX = 1024,
    STEPS = 4, /* of the walk, before it is back */
};

struct stream {
    uint32_t id;
    int64_t window;
    unsigned step; /* the next message's place in the walk */
    bool answered; /* the response headers are sent */
};

struct connection {
    int fd;
    bool blocked; /* the socket takes no more for now */
    size_t preface_left;
    uint8_t head[FRAME_HEAD_BYTES];
    size_t head_bytes;
    size_t payload_done;
    uint8_t control[CONTROL_BYTES];

    int64_t window;
    int64_t window_initial;
    unsigned next; /* the stream whose turn it is */
    unsigned streams_open;
    unsigned unanswered;
    struct stream streams[STREAMS_MAX];

    uint8_t answers[4096]; /* frames other than DATA that are still to be written */
    size_t answers_bytes;

    struct iovec parts[2 * FRAMES_MAX]; /* a write that is under way: heads and messages in turn */
    unsigned parts_first, parts_end;
    uint8_t heads[FRAMES_MAX][FRAME_HEAD_BYTES];
};

struct floor {
    int epoll_fd;
    int listen_fd;
    size_t message_bytes; /* with the prefix */
    unsigned frame_messages_max;
    uint8_t *messages; /* STEPS - 1 more than a frame holds, so that it can begin at each step */
    uint8_t received[RECEIVE_BYTES];
};

static const int64_t window_max = 0x7fffffff;

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- the ready messages -------------------------------------------------------------------- */

static uint8_t *put_double(uint8_t *p, unsigned number, double value)
{
    *p++ = (uint8_t)(number << 3 | 1);
    memcpy(p, &value, sizeof(value));
    return p + sizeof(value);
}

static uint8_t *put_varint(uint8_t *p, unsigned number, uint64_t value)
{
    *p++ = (uint8_t)(number << 3);
    for (; value >= 0x80; value >>= 7)
        *p++ = (uint8_t)(value | 0x80);
    *p++ = (uint8_t)value;
    return p;
}

static uint8_t *put_text(uint8_t *p, unsigned number, const char *text)
{
    size_t bytes = strlen(text);

    *p++ = (uint8_t)(number << 3 | 2);
    *p++ = (uint8_t)bytes;
    memcpy(p, text, bytes);
    return p + bytes;
}

static uint8_t *put_message(uint8_t *p, unsigned step)
{
    static const double changes[STEPS] = {1.25, -0.5, -1.25, 0.5};
    uint8_t *prefix = p;
    double before = 150;
    double price;

    for (unsigned i = 0; i < step; i++)
        before += changes[i];
    price = before + changes[step];
    p = put_text(p + MESSAGE_PREFIX_BYTES, 1, "AAPL");
    p = put_double(p, 2, price);
    p = put_double(p, 3, changes[step]);
    p = put_double(p, 4, changes[step] / before * 100);
    p = put_varint(p, 5, 5000 + step);
    p = put_double(p, 6, 150);
    p = put_double(p, 7, price + 1);
    p = put_double(p, 8, price - 1);
    p = put_varint(p, 9, 75000000 + step);
    p = put_text(p, 10, "2026-01-31T09:30:00+01:00");
    prefix[0] = 0;
    frame_put_u32(prefix + 1, (uint32_t)(p - prefix) - MESSAGE_PREFIX_BYTES);
    return p;
}

static void floor_make_messages(struct floor *f)
{
    uint8_t probe[FRAME_PAYLOAD_BYTES_MAX];
    uint8_t *p;

    f->message_bytes = (size_t)(put_message(probe, 0) - probe);
    f->frame_messages_max = (unsigned)(FRAME_PAYLOAD_BYTES_MAX / f->message_bytes);
    f->messages = p = malloc((f->frame_messages_max + STEPS - 1) * f->message_bytes);
    if (!p)
        fail("malloc");
    for (unsigned i = 0; i < f->frame_messages_max + STEPS - 1; i++)
        p = put_message(p, i % STEPS);
}

/* --- reading ------------------------------------------------------------------------------- */

static void connection_close(struct connection *c)
{
    close(c->fd);
    free(c);
}

static struct stream *connection_stream(struct connection *c, uint32_t id)
{
    for (unsigned i = 0; i < c->streams_open; i++)
        if (c->streams[i].id == id)
            return &c->streams[i];
    return NULL;
}

static uint8_t *answer_reserve(struct connection *c, size_t bytes)
{
    static uint8_t nowhere[FRAME_HEAD_BYTES + CONTROL_BYTES] = {0};

    if (c->answers_bytes + bytes > sizeof(c->answers))
        return nowhere; /* a peer that floods us with PINGs is not one of ours */
    c->answers_bytes += bytes;
    return c->answers + c->answers_bytes - bytes;
}

static void connection_settings(struct connection *c, size_t bytes)
{
    if (bytes > CONTROL_BYTES)
        bytes = CONTROL_BYTES;
    for (const uint8_t *p = c->control; p + 6 <= c->control + bytes; p += 6) {
        int64_t value = frame_get_u32(p + 2);

        if (p[0] != 0 || p[1] != FRAME_SETTING_INITIAL_WINDOW_SIZE)
            continue;
        for (unsigned i = 0; i < c->streams_open; i++)
            c->streams[i].window += value - c->window_initial;
        c->window_initial = value;
    }
    frame_put_head(answer_reserve(c, FRAME_HEAD_BYTES), 0, FRAME_SETTINGS, FRAME_ACK, 0);
}

static void connection_frame(struct connection *c, const struct frame_head *h)
{
    struct stream *s;

    switch (h->type) {
    case FRAME_HEADERS:
        if (c->streams_open == STREAMS_MAX)
            break;
        c->streams[c->streams_open++] =
            (struct stream){.id = h->stream_id, .window = c->window_initial};
        c->unanswered++;
        break;
    case FRAME_RST_STREAM:
        s = connection_stream(c, h->stream_id);
        if (s) {
            c->unanswered -= !s->answered;
            *s = c->streams[--c->streams_open];
        }
        break;
    case FRAME_WINDOW_UPDATE:
        s = connection_stream(c, h->stream_id);
        if (h->stream_id == 0)
            c->window += frame_get_u32(c->control) & window_max;
        else if (s)
            s->window += frame_get_u32(c->control) & window_max;
        break;
    case FRAME_SETTINGS:
        if (!(h->flags & FRAME_ACK))
            connection_settings(c, h->payload_bytes);
        break;
    case FRAME_PING:
        if (!(h->flags & FRAME_ACK))
            memcpy(frame_put_head(answer_reserve(c, FRAME_HEAD_BYTES + 8), 8, FRAME_PING, FRAME_ACK,
                                  0),
                   c->control, 8);
        break;
    default:
        break;
    }
}

static void connection_feed(struct connection *c, const uint8_t *p, size_t bytes)
{
    size_t take = bytes < c->preface_left ? bytes : c->preface_left;

    c->preface_left -= take;
    p += take;
    bytes -= take;
    while (bytes > 0) {
        struct frame_head h;

        if (c->head_bytes < FRAME_HEAD_BYTES) {
            take = FRAME_HEAD_BYTES - c->head_bytes;
            take = take < bytes ? take : bytes;
            memcpy(c->head + c->head_bytes, p, take);
            c->head_bytes += take;
        } else {
            take = frame_get_head(c->head).payload_bytes - c->payload_done;
            take = take < bytes ? take : bytes;
            if (c->payload_done + take <= CONTROL_BYTES)
                memcpy(c->control + c->payload_done, p, take);
            c->payload_done += take;
        }
        p += take;
        bytes -= take;
        h = frame_get_head(c->head);
        if (c->head_bytes == FRAME_HEAD_BYTES && c->payload_done == h.payload_bytes) {
            connection_frame(c, &h);
            c->head_bytes = 0;
            c->payload_done = 0;
        }
    }
}

/* --- writing ------------------------------------------------------------------------------- */

/* Puts the response headers of all new streams before anything else. */
static void connection_answer(struct connection *c)
{
    static const uint8_t block[] = "\x88\x0f\x10\x10"
                                   "application/grpc"; /* :status 200, content-type */

    for (unsigned i = 0; c->unanswered > 0 && i < c->streams_open; i++) {
        struct stream *s = &c->streams[i];
        size_t bytes = FRAME_HEAD_BYTES + sizeof(block) - 1;

        if (s->answered || c->answers_bytes + bytes > sizeof(c->answers))
            continue;
        memcpy(frame_put_head(answer_reserve(c, bytes), sizeof(block) - 1, FRAME_HEADERS,
                              FRAME_END_HEADERS, s->id),
               block, sizeof(block) - 1);
        s->answered = true;
        c->unanswered--;
    }
}

/* Adds one DATA frame of as many whole messages as the windows allow to the next write. */
static bool connection_add_frame(struct floor *f, struct connection *c, struct stream *s)
{
    int64_t window = s->window < c->window ? s->window : c->window;
    unsigned messages = f->frame_messages_max;
    uint8_t *head = c->heads[c->parts_end / 2];
    size_t bytes;

    if (!s->answered || window < (int64_t)f->message_bytes)
        return false;
    if (window < (int64_t)(messages * f->message_bytes))
        messages = (unsigned)((size_t)window / f->message_bytes);
    bytes = messages * f->message_bytes;
    frame_put_head(head, bytes, FRAME_DATA, 0, s->id);
    c->parts[c->parts_end++] = (struct iovec){head, FRAME_HEAD_BYTES};
    c->parts[c->parts_end++] = (struct iovec){f->messages + s->step * f->message_bytes, bytes};
    s->step = (s->step + messages) % STEPS;
    s->window -= (int64_t)bytes;
    c->window -= (int64_t)bytes;
    return true;
}

static bool connection_fill(struct floor *f, struct connection *c)
{
    unsigned passed = 0;

    c->parts_first = c->parts_end = 0;
    while (c->parts_end < 2 * FRAMES_MAX && passed < c->streams_open) {
        if (c->next >= c->streams_open)
            c->next = 0;
        passed = connection_add_frame(f, c, &c->streams[c->next++]) ? 0 : passed + 1;
    }
    return c->parts_end > 0;
}

/* Drops the `bytes` that were written from the parts. */
static void connection_written(struct connection *c, size_t bytes)
{
    while (c->parts_first < c->parts_end) {
        struct iovec *part = &c->parts[c->parts_first];

        if (bytes < part->iov_len) {
            part->iov_base = (uint8_t *)part->iov_base + bytes;
            part->iov_len -= bytes;
            return;
        }
        bytes -= part->iov_len;
        c->parts_first++;
    }
}

static void connection_arm(struct floor *f, struct connection *c, bool blocked)
{
    struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = c};

    if (blocked != c->blocked)
        (void)epoll_ctl(f->epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
    c->blocked = blocked;
}

/* Writes all that is left of the answers in one go. False if the peer is gone. */
static bool connection_write_answers(struct connection *c)
{
    ssize_t n = write(c->fd, c->answers, c->answers_bytes);

    if (n < 0)
        return errno == EAGAIN;
    c->answers_bytes -= (size_t)n;
    memmove(c->answers, c->answers + n, c->answers_bytes);
    return true;
}

/*
 * One write of messages; like every fair server it then lets the other connections have their turn,
 * and comes back because the socket is writable. False if the peer is gone.
 */
static bool connection_write(struct floor *f, struct connection *c)
{
    if (c->parts_first == c->parts_end) {
        connection_answer(c);
        if (c->answers_bytes > 0 && !connection_write_answers(c))
            return false;
        if (c->answers_bytes == 0)
            (void)connection_fill(f, c);
    }
    if (c->parts_first < c->parts_end) {
        ssize_t n = writev(c->fd, c->parts + c->parts_first, (int)(c->parts_end - c->parts_first));

        if (n < 0 && errno != EAGAIN)
            return false;
        if (n > 0)
            connection_written(c, (size_t)n);
        /* Answers go between two writes of messages, so that they must not be overtaken for long.
         */
        if (c->parts_first == c->parts_end && c->answers_bytes == 0)
            (void)connection_fill(f, c);
    }
    connection_arm(f, c, c->parts_first < c->parts_end || c->answers_bytes > 0);
    return true;
}

/* --- the loop ------------------------------------------------------------------------------ */

static void floor_accept(struct floor *f)
{
    struct connection *c;
    struct epoll_event event = {.events = EPOLLIN};
    int one = 1;
    int fd = accept4(f->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    event.data.ptr = c = calloc(1, sizeof(*c));
    if (!c)
        fail("calloc");
    c->fd = fd;
    c->preface_left = FRAME_PREFACE_BYTES;
    c->window = c->window_initial = FRAME_WINDOW_BYTES_DEFAULT;
    frame_put_head(answer_reserve(c, FRAME_HEAD_BYTES), 0, FRAME_SETTINGS, 0, 0);
    if (epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

static bool connection_read(struct floor *f, struct connection *c)
{
    ssize_t n = recv(c->fd, f->received, RECEIVE_BYTES, 0);

    if (n == 0 || (n < 0 && errno != EAGAIN))
        return false;
    if (n > 0)
        connection_feed(c, f->received, (size_t)n);
    return true;
}

static void floor_listen(struct floor *f, uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct epoll_event event = {.events = EPOLLIN};
    socklen_t bytes = sizeof(address);

    f->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (f->listen_fd < 0 || bind(f->listen_fd, (struct sockaddr *)&address, bytes) < 0 ||
        listen(f->listen_fd, SOMAXCONN) < 0 ||
        getsockname(f->listen_fd, (struct sockaddr *)&address, &bytes) < 0)
        fail("listen");
    f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (f->epoll_fd < 0 || epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, f->listen_fd, &event) < 0)
        fail("epoll");
    printf("listening on 127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static struct floor f;
    struct epoll_event events[EVENTS_MAX];
    struct rlimit files;

    if (argc != 3 || strcmp(argv[1], "--port") != 0) {
        fprintf(stderr, "usage: floor --port PORT\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    floor_make_messages(&f);
    floor_listen(&f, (uint16_t)strtoul(argv[2], NULL, 10));
    for (;;) {
        int n = epoll_wait(f.epoll_fd, events, EVENTS_MAX, -1);

        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;

            if (!c)
                floor_accept(&f);
            else if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) &&
                      !connection_read(&f, c)) ||
                     !connection_write(&f, c))
                connection_close(c);
        }
    }
}
