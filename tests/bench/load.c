/*
 * The load: one client for every server of the benchmark. It opens connections and streams of
 * /stockservice.StockService/GetUpdates, counts the messages that arrive, and prints what it saw as
 * JSON, one object a line. With TLS it does the same through that.
 *
 * It must never be what is measured. So it parses HTTP/2 frames by hand, straight from one receive
 * buffer that all connections share and that stays in the cache, never copies a message that it
 * does not check, and skips the header blocks of the answers: HEADERS with END_STREAM, RST_STREAM
 * or a closed connection is the end of a stream, and no stream of this service ends by itself.
 *
 * Modes: `run` reads everything and gives credit back; `stall` reads but never gives credit back,
 * so that every stream comes to rest when its window is used up; `noread` asks and never reads the
 * socket at all; `call` makes short calls (calls.h), and then what is counted as messages are the
 * calls that ended well, and as streams those that are open at a time.
 *
 * With --subscribe the streams are of Subscribe, all of one market, and every message is checked
 * (fanout.h). Then the measured interval begins and ends where all streams have the same updates.
 */

#include "tests/bench/calls.h"
#include "tests/bench/channel.h"
#include "tests/bench/check.h"
#include "tests/bench/fanout.h"
#include "tests/bench/frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    RECEIVE_BYTES = 256 * 1024,
    EVENTS_MAX = 256,
    CONTROL_BYTES = 1024,      /* as much of a frame other than DATA as is ever looked at */
    CHECK_BYTES = 512,         /* a checked message must fit */
    CHECK_PERIOD = 4096,       /* of so many messages of a checked stream, ... */
    CHECK_RUN = 64,            /* ... so many in a row are decoded */
    OPENING_MAX = 128,         /* connections that wait for the server's first byte */
    STALL_QUIET_MS = 1000,     /* a stalled load is at rest when nothing came for so long, ... */
    STALL_QUIET_MS_MAX = 5000, /* ... or for so long if some streams never got a message */
    WHOLE_WAIT_MS = 2000,      /* how long to wait until all streams have the same updates */
};

enum mode { MODE_RUN, MODE_STALL, MODE_NOREAD, MODE_CALL };

struct stream {
    uint64_t messages; /* complete ones */
    uint64_t messages_at_begin;
    uint32_t body_left; /* bytes missing of the message that is being received */
    uint32_t uncredited;
    uint8_t prefix[MESSAGE_PREFIX_BYTES];
    uint8_t prefix_bytes;
    bool ended;

    /* Of Subscribe. */
    uint64_t sequence; /* of the last update; 0: none yet */
    uint8_t *part;     /* of a message that did not come in one piece; NULL otherwise */
    size_t part_bytes;
};

/* The stream of a connection whose messages are decoded: its first. */
struct checker {
    struct update before;
    bool before_known;
    size_t bytes;
    uint8_t message[CHECK_BYTES];
};

struct connection {
    struct channel channel;
    bool heard; /* the server has sent something */
    bool writes_armed;
    struct frame_head head;
    size_t head_bytes;
    size_t payload_done;
    size_t pad_bytes;
    uint64_t uncredited;
    struct stream *streams;
    struct checker checker;
    struct calls *calls; /* NULL but in MODE_CALL */
    uint8_t head_buffer[FRAME_HEAD_BYTES];
    uint8_t control[CONTROL_BYTES];
    uint8_t *out;
    size_t out_bytes;
    size_t out_space;
};

struct options {
    enum mode mode;
    uint16_t port;
    unsigned connections;
    unsigned streams;
    uint32_t window;
    uint32_t connection_window;
    double seconds;
    double warmup_seconds;
    double first_max_seconds;
    double open_rate;
    pid_t server_pid;
    const char *ca; /* NULL: no TLS */
    bool until_eof;
    bool spin;
    bool subscribe;
};

struct load {
    struct options options;
    struct connection *connections;
    struct fanout *fanout; /* NULL but with --subscribe */
    unsigned opened;
    unsigned heard;
    int epoll_fd;
    uint8_t *buffer;
    uint64_t messages;
    uint64_t bytes;
    uint64_t checked;
    uint64_t streams_started;
    char *tls; /* what the first handshake came to */

    double start;
    double first_all; /* 0 until every stream had a message */
    double last_read;
    bool settled;

    double begin; /* of the measured interval; 0 before it */
    uint64_t messages_at_begin;
    uint64_t bytes_at_begin;
    double server_cpu_at_begin;
    double own_cpu_at_begin;

    uint64_t connections_lost;
    uint64_t streams_ended;
    uint64_t faults;
    char first_fault[160];
};

static double clock_read(clockid_t clock)
{
    struct timespec t;

    if (clock_gettime(clock, &t) < 0)
        return 0;
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

/* CPU time of all threads of the server, user and system; 0 if there is no such process. */
static double server_cpu(const struct load *l)
{
    clockid_t clock;

    if (l->options.server_pid == 0 || clock_getcpuclockid(l->options.server_pid, &clock) != 0)
        return 0;
    return clock_read(clock);
}

static void fault(struct load *l, const char *what)
{
    if (l->faults++ == 0)
        snprintf(l->first_fault, sizeof(l->first_fault), "%s", what);
}

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- sending ------------------------------------------------------------------------------- */

static uint8_t *out_reserve(struct connection *c, size_t bytes)
{
    if (c->out_bytes + bytes > c->out_space) {
        size_t space = 2 * (c->out_bytes + bytes);
        uint8_t *out = realloc(c->out, space);

        if (!out)
            fail("realloc");
        c->out = out;
        c->out_space = space;
    }
    return c->out + c->out_bytes;
}

static void connection_arm(struct load *l, struct connection *c, bool writes)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

    if (writes == c->writes_armed)
        return;
    c->writes_armed = writes;
    if (writes)
        event.events |= EPOLLOUT;
    (void)epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, c->channel.fd, &event);
}

static void connection_lose(struct load *l, struct connection *c, const char *why)
{
    if (c->channel.fd < 0)
        return;
    channel_close(&c->channel);
    l->connections_lost++;
    fault(l, why);
}

static void connection_flush(struct load *l, struct connection *c)
{
    ssize_t n;

    if (c->channel.fd < 0 || c->out_bytes == 0)
        return;
    n = channel_write(&c->channel, c->out, c->out_bytes);
    if (n < 0 && errno != EAGAIN) {
        connection_lose(l, c, "sending failed");
        return;
    }
    if (n > 0) {
        c->out_bytes -= (size_t)n;
        memmove(c->out, c->out + n, c->out_bytes);
    }
    connection_arm(l, c, c->out_bytes > 0);
}

/* Appends one header field whose name is entry `name` of HPACK's static table. */
static uint8_t *put_field(uint8_t *p, unsigned name, const char *value)
{
    size_t bytes = strlen(value);

    if (name < 15) {
        *p++ = (uint8_t)name;
    } else {
        *p++ = 15;
        *p++ = (uint8_t)(name - 15);
    }
    *p++ = (uint8_t)bytes;
    memcpy(p, value, bytes);
    return p + bytes;
}

/* Of GetUpdates, or of Subscribe to all tickers; both have no arguments then. */
static uint8_t *put_request(uint8_t *p, uint32_t stream_id, bool subscribe)
{
    static const uint8_t post_http[] = {0x83, 0x86};
    static const uint8_t te_trailers[] = "\0\2te\10trailers";
    uint8_t *head = p;

    p += FRAME_HEAD_BYTES;
    memcpy(p, post_http, sizeof(post_http));
    p = put_field(p + sizeof(post_http), 4,
                  subscribe ? "/stockservice.StockService/Subscribe"
                            : "/stockservice.StockService/GetUpdates");
    p = put_field(p, 1, "localhost");
    p = put_field(p, 31, "application/grpc");
    memcpy(p, te_trailers, sizeof(te_trailers) - 1);
    p = put_field(p + sizeof(te_trailers) - 1, 58, "stockd-bench");
    frame_put_head(head, (size_t)(p - head) - FRAME_HEAD_BYTES, FRAME_HEADERS, FRAME_END_HEADERS,
                   stream_id);
    p = frame_put_head(p, MESSAGE_PREFIX_BYTES, FRAME_DATA, FRAME_END_STREAM, stream_id);
    memset(p, 0, MESSAGE_PREFIX_BYTES);
    return p + MESSAGE_PREFIX_BYTES;
}

/* Makes as many calls as may be open at a time. */
static void connection_call(struct connection *c)
{
    uint8_t *p, *end;

    do {
        p = out_reserve(c, CALL_BYTES_MAX);
        end = calls_put(c->calls, p);
        c->out_bytes += (size_t)(end - p);
    } while (end > p);
}

/* Everything that a connection ever asks for, in one go: the streams are to start in one phase. In
 * MODE_CALL that is only the begin. */
static void connection_ask(struct load *l, struct connection *c)
{
    const struct options *o = &l->options;
    uint8_t *p = out_reserve(c, 256 + 256 * (size_t)o->streams);

    memcpy(p, FRAME_PREFACE, FRAME_PREFACE_BYTES);
    p = frame_put_head(p + FRAME_PREFACE_BYTES, 6, FRAME_SETTINGS, 0, 0);
    p[0] = 0;
    p[1] = FRAME_SETTING_INITIAL_WINDOW_SIZE;
    frame_put_u32(p + 2, o->window);
    p += 6;
    if (o->connection_window > FRAME_WINDOW_BYTES_DEFAULT)
        p = frame_put_window_update(p, 0, o->connection_window - FRAME_WINDOW_BYTES_DEFAULT);
    for (unsigned i = 0; i < o->streams && !c->calls; i++)
        p = put_request(p, 2 * i + 1, o->subscribe);
    c->out_bytes = (size_t)(p - c->out);
    if (c->calls)
        connection_call(c);
    connection_flush(l, c);
}

static void connection_handshake(struct load *l, struct connection *c)
{
    const char *why = NULL;

    switch (channel_handshake(&c->channel, &why)) {
    case CHANNEL_READY:
        if (!l->tls)
            l->tls = channel_describe(&c->channel);
        connection_arm(l, c, false);
        connection_ask(l, c);
        break;
    case CHANNEL_WANTS_READ:
        connection_arm(l, c, false);
        break;
    case CHANNEL_WANTS_WRITE:
        connection_arm(l, c, true);
        break;
    case CHANNEL_FAILED:
        connection_lose(l, c, why);
        break;
    }
}

static void connection_open(struct load *l, struct connection *c)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(l->options.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS)
        fail("connect");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    c->streams = calloc(l->options.streams, sizeof(*c->streams));
    if (l->options.mode == MODE_CALL)
        c->calls = calls_new(l->options.streams);
    if (!c->streams || !c->calls != (l->options.mode != MODE_CALL))
        fail("calloc");
    if (!channel_open(&c->channel, fd, l->options.ca))
        fail("TLS");
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
    if (channel_ready(&c->channel))
        connection_ask(l, c);
    else
        connection_handshake(l, c);
}

static void load_open_some(struct load *l)
{
    const struct options *o = &l->options;
    unsigned allowed = o->connections;

    if (o->open_rate > 0) {
        double due = (now() - l->start) * o->open_rate + 1;

        if (due < allowed)
            allowed = (unsigned)due;
    }
    while (l->opened < allowed && l->opened - l->heard < OPENING_MAX)
        connection_open(l, &l->connections[l->opened++]);
}

/* --- receiving ----------------------------------------------------------------------------- */

static void checker_feed(struct checker *k, uint64_t index, const uint8_t *p, size_t bytes)
{
    if (index % CHECK_PERIOD >= CHECK_RUN)
        return;
    if (k->bytes + bytes <= CHECK_BYTES)
        memcpy(k->message + k->bytes, p, bytes);
    k->bytes += bytes;
}

/* `index` is that of the message that is now complete. */
static void checker_end(struct load *l, struct checker *k, uint64_t index)
{
    const char *wrong = "a message that is no StockUpdate";
    struct update update;

    if (index % CHECK_PERIOD >= CHECK_RUN)
        return;
    if (index % CHECK_PERIOD == 0)
        k->before_known = false;
    if (k->bytes <= CHECK_BYTES && update_parse(k->message, k->bytes, &update)) {
        wrong = update_fault(&update, k->before_known ? &k->before : NULL);
        k->before = update;
        k->before_known = true;
    }
    if (wrong)
        fault(l, wrong);
    k->bytes = 0;
    l->checked++;
}

static uint64_t streams_wanted(const struct load *l)
{
    return (uint64_t)l->options.connections * l->options.streams;
}

static void stream_started(struct load *l)
{
    if (++l->streams_started == streams_wanted(l))
        l->first_all = now();
}

static inline void message_end(struct load *l, struct connection *c, struct stream *s)
{
    if (s == c->streams && !l->fanout)
        checker_end(l, &c->checker, s->messages);
    l->messages++;
    if (s->messages++ == 0)
        stream_started(l);
}

/* The `bytes` at `p` are the next of a MarketEvent, of which others may be in `part`. */
static void event_feed(struct load *l, struct stream *s, const uint8_t *p, size_t bytes)
{
    bool last = bytes == s->body_left;
    const char *wrong;

    if (!last || s->part) {
        if (!s->part && !(s->part = malloc(FANOUT_MESSAGE_BYTES)))
            fail("malloc");
        if (s->part_bytes + bytes <= FANOUT_MESSAGE_BYTES)
            memcpy(s->part + s->part_bytes, p, bytes);
        s->part_bytes += bytes;
    }
    if (!last)
        return;
    wrong = fanout_take(l->fanout, &s->sequence, s->part ? s->part : p,
                        s->part ? s->part_bytes : bytes);
    if (wrong)
        fault(l, wrong);
    l->checked++;
    free(s->part);
    s->part = NULL;
    s->part_bytes = 0;
}

/* Walks over the messages in `bytes` of a stream's data; a message may begin and end anywhere. */
static void stream_feed(struct load *l, struct connection *c, struct stream *s, const uint8_t *p,
                        size_t bytes)
{
    while (bytes > 0) {
        if (s->body_left > 0) {
            size_t take = bytes < s->body_left ? bytes : s->body_left;

            if (l->fanout)
                event_feed(l, s, p, take);
            else if (s == c->streams)
                checker_feed(&c->checker, s->messages, p, take);
            p += take;
            bytes -= take;
            s->body_left -= (uint32_t)take;
            if (s->body_left == 0)
                message_end(l, c, s);
            continue;
        }
        if (s->prefix_bytes == 0 && bytes >= MESSAGE_PREFIX_BYTES) {
            if (p[0] != 0)
                fault(l, "a compressed message, which was not asked for");
            s->body_left = frame_get_u32(p + 1);
            p += MESSAGE_PREFIX_BYTES;
            bytes -= MESSAGE_PREFIX_BYTES;
        } else {
            s->prefix[s->prefix_bytes++] = *p++;
            bytes--;
            if (s->prefix_bytes < MESSAGE_PREFIX_BYTES)
                continue;
            s->prefix_bytes = 0;
            s->body_left = frame_get_u32(s->prefix + 1);
        }
        if (s->body_left == 0)
            message_end(l, c, s);
    }
}

static struct stream *connection_stream(struct load *l, struct connection *c, uint32_t id)
{
    uint32_t index = (id - 1) / 2;

    return id % 2 == 1 && index < l->options.streams ? &c->streams[index] : NULL;
}

static void stream_end(struct load *l, struct stream *s, const char *why)
{
    if (!s || s->ended)
        return;
    s->ended = true;
    l->streams_ended++;
    fault(l, why);
}

static bool is_measured(const struct options *o)
{
    return o->mode == MODE_RUN || o->mode == MODE_CALL;
}

/* Gives back the credit of what was consumed, when it is half a window, as most clients do. */
static void connection_credit(struct load *l, struct connection *c, struct stream *s)
{
    const struct options *o = &l->options;

    if (!is_measured(o))
        return;
    if (s && s->uncredited >= o->window / 2 && !s->ended) {
        uint8_t *p = out_reserve(c, FRAME_HEAD_BYTES + 4);

        c->out_bytes += (size_t)(frame_put_window_update(p, c->head.stream_id, s->uncredited) - p);
        s->uncredited = 0;
    }
    if (c->uncredited >= o->connection_window / 2) {
        uint8_t *p = out_reserve(c, FRAME_HEAD_BYTES + 4);

        c->out_bytes += (size_t)(frame_put_window_update(p, 0, (uint32_t)c->uncredited) - p);
        c->uncredited = 0;
    }
}

/* The same for what calls.c has to know of it; a call that has ended makes room for the next. */
static void call_frame_end(struct load *l, struct connection *c)
{
    const char *why = "a header block that is too long to be read here";

    if (c->head.type == FRAME_HEADERS && c->head.payload_bytes > CONTROL_BYTES) {
        fault(l, why);
        return;
    }
    switch (calls_frame(c->calls, &c->head, c->control, &why)) {
    case CALLS_END:
        l->messages++;
        l->checked++;
        if (l->streams_started < streams_wanted(l))
            stream_started(l);
        break;
    case CALLS_FAULT:
        fault(l, why);
        break;
    case CALLS_NOTHING:
        break;
    }
}

/* A frame is complete; the first bytes of its payload are in `control` unless it is DATA. */
static void frame_end(struct load *l, struct connection *c)
{
    const struct frame_head *h = &c->head;
    struct stream *s = c->calls ? NULL : connection_stream(l, c, h->stream_id);
    uint8_t *p;

    if (c->calls)
        call_frame_end(l, c);

    switch (h->type) {
    case FRAME_DATA:
        connection_credit(l, c, s);
        if (h->flags & FRAME_END_STREAM)
            stream_end(l, s, "a stream ended with DATA");
        break;
    case FRAME_HEADERS:
        if (h->flags & FRAME_END_STREAM)
            stream_end(l, s, "a stream ended with trailers");
        break;
    case FRAME_RST_STREAM:
        stream_end(l, s, "a stream was reset");
        break;
    case FRAME_GOAWAY:
        fault(l, "the server sent GOAWAY");
        break;
    case FRAME_SETTINGS:
    case FRAME_PING:
        if (h->flags & FRAME_ACK)
            break;
        p = out_reserve(c, FRAME_HEAD_BYTES + 8);
        if (h->type == FRAME_SETTINGS) {
            frame_put_head(p, 0, FRAME_SETTINGS, FRAME_ACK, 0);
            c->out_bytes += FRAME_HEAD_BYTES;
        } else {
            memcpy(frame_put_head(p, 8, FRAME_PING, FRAME_ACK, 0), c->control, 8);
            c->out_bytes += FRAME_HEAD_BYTES + 8;
        }
        break;
    default:
        break;
    }
}

/* Takes `bytes` of the payload of a DATA frame, whose padding is credit but no data. */
static void data_feed(struct load *l, struct connection *c, const uint8_t *p, size_t bytes)
{
    const struct frame_head *h = &c->head;
    struct stream *s = c->calls ? NULL : connection_stream(l, c, h->stream_id);
    size_t data_end;

    c->uncredited += bytes;
    if (c->calls) {
        calls_data(c->calls, h->stream_id, p, bytes);
        c->payload_done += bytes;
        return;
    }
    if (!s) {
        fault(l, "DATA on a stream that was never opened");
        return;
    }
    s->uncredited += (uint32_t)bytes;
    if (h->flags & FRAME_PADDED && c->payload_done == 0) {
        c->pad_bytes = *p++;
        c->payload_done++;
        bytes--;
    }
    data_end = h->payload_bytes - c->pad_bytes;
    if (c->payload_done < data_end) {
        size_t left = data_end - c->payload_done;

        stream_feed(l, c, s, p, bytes < left ? bytes : left);
    }
    c->payload_done += bytes;
}

static void control_feed(struct connection *c, const uint8_t *p, size_t bytes)
{
    if (c->payload_done < CONTROL_BYTES) {
        size_t space = CONTROL_BYTES - c->payload_done;

        memcpy(c->control + c->payload_done, p, bytes < space ? bytes : space);
    }
    c->payload_done += bytes;
}

/* Reads the head of the next frame from `p`; returns how many bytes of it there were. */
static size_t head_feed(struct connection *c, const uint8_t *p, size_t bytes)
{
    size_t take = FRAME_HEAD_BYTES - c->head_bytes;

    if (take > bytes)
        take = bytes;
    memcpy(c->head_buffer + c->head_bytes, p, take);
    c->head_bytes += take;
    if (c->head_bytes == FRAME_HEAD_BYTES) {
        c->head = frame_get_head(c->head_buffer);
        c->payload_done = 0;
        c->pad_bytes = 0;
    }
    return take;
}

static void connection_feed(struct load *l, struct connection *c, const uint8_t *p, size_t bytes)
{
    while (bytes > 0) {
        size_t take;

        if (c->head_bytes < FRAME_HEAD_BYTES) {
            take = head_feed(c, p, bytes);
        } else {
            take = c->head.payload_bytes - c->payload_done;
            if (take > bytes)
                take = bytes;
            if (c->head.type == FRAME_DATA)
                data_feed(l, c, p, take);
            else
                control_feed(c, p, take);
        }
        p += take;
        bytes -= take;
        if (c->head_bytes == FRAME_HEAD_BYTES && c->payload_done == c->head.payload_bytes) {
            frame_end(l, c);
            c->head_bytes = 0;
        }
    }
}

static void connection_read(struct load *l, struct connection *c)
{
    ssize_t n;

    if (!channel_ready(&c->channel)) {
        connection_handshake(l, c);
        return;
    }
    if (!c->heard) {
        c->heard = true;
        l->heard++;
    }
    if (l->options.mode == MODE_NOREAD) {
        /* It has been accepted, which was all there is to know. What is readable stays there. */
        (void)epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, c->channel.fd, NULL);
        return;
    }
    n = channel_read(&c->channel, l->buffer, RECEIVE_BYTES);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        connection_lose(l, c, n < 0 ? "receiving failed" : "the server closed a connection");
        return;
    }
    l->bytes += (uint64_t)n;
    connection_feed(l, c, l->buffer, (size_t)n);
    if (c->calls)
        connection_call(c);
    connection_flush(l, c);
}

static void connection_writable(struct load *l, struct connection *c)
{
    if (channel_ready(&c->channel))
        connection_flush(l, c);
    else
        connection_handshake(l, c);
}

/* --- the course of a run ------------------------------------------------------------------- */

/* Says once that the load has come to the state which its mode is for. */
static void load_settle(struct load *l, double t)
{
    bool opened = l->opened == l->options.connections && l->heard == l->opened;
    double quiet_ms = l->first_all > 0 ? STALL_QUIET_MS : STALL_QUIET_MS_MAX;

    if (l->settled)
        return;
    if (is_measured(&l->options))
        l->settled = l->first_all > 0;
    else if (l->options.mode == MODE_STALL)
        l->settled = opened && t - l->last_read > quiet_ms / 1000.0;
    else
        l->settled = opened;
    if (!l->settled)
        return;
    printf("{\"event\": \"settled\", \"seconds\": %.4f, \"messages\": %llu}\n", t - l->start,
           (unsigned long long)l->messages);
    fflush(stdout);
}

static void load_begin(struct load *l, double t)
{
    for (unsigned i = 0; i < l->opened; i++) {
        struct connection *c = &l->connections[i];

        for (unsigned k = 0; k < l->options.streams; k++)
            c->streams[k].messages_at_begin = c->streams[k].messages;
    }
    if (l->fanout)
        fanout_begin(l->fanout);
    l->messages_at_begin = l->messages;
    l->bytes_at_begin = l->bytes;
    l->server_cpu_at_begin = server_cpu(l);
    l->own_cpu_at_begin = clock_read(CLOCK_PROCESS_CPUTIME_ID);
    l->begin = t;
}

/* What was due at the time `due` can be done: between two updates, if there is a time between. */
static bool load_is_whole(const struct load *l, double t, double due)
{
    return !l->fanout || fanout_is_whole(l->fanout) || t - due >= WHOLE_WAIT_MS / 1000.0;
}

/* Moves from one part of the run to the next. Returns false when the run is over. */
static bool load_advance(struct load *l)
{
    const struct options *o = &l->options;
    double t = now();

    load_settle(l, t);
    if (l->connections_lost == o->connections)
        return false;
    if (!is_measured(o))
        return t - l->start < o->seconds;
    if (l->begin > 0) {
        double end = l->begin + o->seconds;

        return t < end || !load_is_whole(l, t, end);
    }
    if ((l->first_all > 0 && t - l->first_all >= o->warmup_seconds &&
         load_is_whole(l, t, l->first_all + o->warmup_seconds)) ||
        t - l->start >= o->first_max_seconds)
        load_begin(l, t);
    return true;
}

static bool stdin_ended(void)
{
    char byte;

    return read(STDIN_FILENO, &byte, 1) <= 0;
}

static void load_run(struct load *l)
{
    struct epoll_event events[EVENTS_MAX];

    l->start = l->last_read = now();
    do {
        int timeout_ms = l->opened < l->options.connections ? 1 : 10;
        int n;

        if (l->opened < l->options.connections)
            load_open_some(l);
        n = epoll_wait(l->epoll_fd, events, EVENTS_MAX, l->options.spin ? 0 : timeout_ms);
        if (n > 0)
            l->last_read = now();
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;

            if (!c) {
                if (stdin_ended())
                    return;
                continue;
            }
            if (events[i].events & EPOLLOUT)
                connection_writable(l, c);
            if (c->channel.fd >= 0 && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                connection_read(l, c);
        }
    } while (load_advance(l));
}

/* Jain's index over what each stream got: 1 is equal shares, 1/n is one stream with everything. */
static double load_fairness(const struct load *l, uint64_t *ret_min, uint64_t *ret_max)
{
    uint64_t min = UINT64_MAX, max = 0;
    double sum = 0, squares = 0;

    for (unsigned i = 0; i < l->opened; i++) {
        for (unsigned k = 0; k < l->options.streams; k++) {
            const struct stream *s = &l->connections[i].streams[k];
            uint64_t n = s->messages - s->messages_at_begin;

            min = n < min ? n : min;
            max = n > max ? n : max;
            sum += (double)n;
            squares += (double)n * (double)n;
        }
    }
    *ret_min = min;
    *ret_max = max;
    return squares > 0 ? sum * sum / (squares * (double)streams_wanted(l)) : 0;
}

static void load_report(struct load *l)
{
    double elapsed = l->begin > 0 ? now() - l->begin : 0;
    double cpu = l->begin > 0 ? server_cpu(l) - l->server_cpu_at_begin : 0;
    double own = l->begin > 0 ? clock_read(CLOCK_PROCESS_CPUTIME_ID) - l->own_cpu_at_begin : 0;
    uint64_t min, max;
    double jain = load_fairness(l, &min, &max);

    printf("{\"event\": \"done\", \"seconds\": %.6f, \"messages\": %llu, \"bytes\": %llu, ",
           elapsed, (unsigned long long)(l->begin > 0 ? l->messages - l->messages_at_begin : 0),
           (unsigned long long)(l->begin > 0 ? l->bytes - l->bytes_at_begin : 0));
    printf("\"messages_total\": %llu, \"bytes_total\": %llu, ", (unsigned long long)l->messages,
           (unsigned long long)l->bytes);
    printf("\"server_cpu_seconds\": %.6f, \"load_cpu_seconds\": %.6f, ", cpu, own);
    printf("\"streams\": %llu, \"streams_started\": %llu, ", (unsigned long long)streams_wanted(l),
           (unsigned long long)l->streams_started);
    if (l->first_all > 0)
        printf("\"first_all_seconds\": %.6f, ", l->first_all - l->start);
    else
        printf("\"first_all_seconds\": null, ");
    if (l->tls)
        printf("\"tls\": \"%s\", ", l->tls);
    if (l->fanout)
        printf("\"updates\": %llu, \"last_lag_ms\": %.3f, ",
               (unsigned long long)fanout_updates(l->fanout), fanout_lag_ms(l->fanout));
    printf("\"stream_messages_min\": %llu, \"stream_messages_max\": %llu, \"jain\": %.6f, ",
           (unsigned long long)min, (unsigned long long)max, jain);
    printf("\"checked\": %llu, \"connections_lost\": %llu, \"streams_ended\": %llu, "
           "\"faults\": %llu, \"first_fault\": \"%s\"}\n",
           (unsigned long long)l->checked, (unsigned long long)l->connections_lost,
           (unsigned long long)l->streams_ended, (unsigned long long)l->faults, l->first_fault);
}

/* --- the command line ---------------------------------------------------------------------- */

static const char help[] =
    "usage: load --port PORT [options]\n"
    "  --mode run|stall|noread|call\n"
    "                            read all, give no credit back, never read, or make short calls "
    "(run)\n"
    "  --subscribe               streams of Subscribe, and each message is checked; with run\n"
    "  --ca FILE                 use TLS; the server is certified by one of these, as localhost\n"
    "  --connections N           (1)\n"
    "  --streams N               streams of each connection; calls open at a time (1)\n"
    "  --window BYTES            initial window of each stream (65535)\n"
    "  --connection-window BYTES window of each connection, at least 65535 (that of a stream)\n"
    "  --seconds S               how long to measure; in the other modes, how long to stay (5)\n"
    "  --warmup S                from the last stream's first message to the measurement (1)\n"
    "  --first-max S             measure after this time even if streams got no message yet (30)\n"
    "  --open-rate N             connections to open a second; 0 is as fast as it goes (0)\n"
    "  --server-pid PID          measure the CPU time of this process\n"
    "  --until-eof               end early when the standard input ends\n"
    "  --spin                    never sleep, so that the server need not wake this program\n";

static double number(const char *name, const char *text, double min, double max)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= min && value <= max)) {
        fprintf(stderr, "load: --%s: not a number from %g to %g: %s\n", name, min, max, text);
        exit(2);
    }
    return value;
}

static enum mode mode_parse(const char *text)
{
    static const char *const names[] = {"run", "stall", "noread", "call"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(text, names[i]) == 0)
            return (enum mode)i;
    fprintf(stderr, "load: --mode: unknown: %s\n", text);
    exit(2);
}

static void options_set(struct options *o, const char *name, char short_name, const char *value)
{
    static const double window_max = 0x7fffffff;

    switch (short_name) {
    case 'm':
        o->mode = mode_parse(value);
        break;
    case 'p':
        o->port = (uint16_t)number(name, value, 1, 65535);
        break;
    case 'c':
        o->connections = (unsigned)number(name, value, 1, 100000);
        break;
    case 's':
        o->streams = (unsigned)number(name, value, 1, 100000);
        break;
    case 'w':
        o->window = (uint32_t)number(name, value, 2, window_max);
        break;
    case 'W':
        o->connection_window =
            (uint32_t)number(name, value, FRAME_WINDOW_BYTES_DEFAULT, window_max);
        break;
    case 't':
        o->seconds = number(name, value, 0, 86400);
        break;
    case 'u':
        o->warmup_seconds = number(name, value, 0, 86400);
        break;
    case 'f':
        o->first_max_seconds = number(name, value, 0, 86400);
        break;
    case 'r':
        o->open_rate = number(name, value, 0, 1e9);
        break;
    case 'P':
        o->server_pid = (pid_t)number(name, value, 1, 0x7fffffff);
        break;
    case 'a':
        o->ca = value;
        break;
    case 'e':
        o->until_eof = true;
        break;
    case 'S':
        o->spin = true;
        break;
    case 'b':
        o->subscribe = true;
        break;
    case 'h':
        fputs(help, stdout);
        exit(0);
    default:
        fputs(help, stderr);
        exit(2);
    }
}

static struct options options_parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"mode", 1, NULL, 'm'},
        {"port", 1, NULL, 'p'},
        {"connections", 1, NULL, 'c'},
        {"streams", 1, NULL, 's'},
        {"window", 1, NULL, 'w'},
        {"connection-window", 1, NULL, 'W'},
        {"seconds", 1, NULL, 't'},
        {"warmup", 1, NULL, 'u'},
        {"first-max", 1, NULL, 'f'},
        {"open-rate", 1, NULL, 'r'},
        {"server-pid", 1, NULL, 'P'},
        {"ca", 1, NULL, 'a'},
        {"until-eof", 0, NULL, 'e'},
        {"spin", 0, NULL, 'S'},
        {"subscribe", 0, NULL, 'b'},
        {"help", 0, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options o = {
        .connections = 1,
        .streams = 1,
        .window = FRAME_WINDOW_BYTES_DEFAULT,
        .seconds = 5,
        .warmup_seconds = 1,
        .first_max_seconds = 30,
    };
    int index = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", known, &index)) != -1)
        options_set(&o, c == '?' ? "" : known[index].name, (char)c, optarg);
    if (optind < argc || o.port == 0 || (o.subscribe && o.mode != MODE_RUN))
        options_set(&o, "", '?', NULL);
    if (o.connection_window == 0)
        o.connection_window =
            o.window > FRAME_WINDOW_BYTES_DEFAULT ? o.window : FRAME_WINDOW_BYTES_DEFAULT;
    return o;
}

int main(int argc, char **argv)
{
    struct load l = {.options = options_parse(argc, argv)};
    struct epoll_event event = {.events = EPOLLIN};
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (l.options.ca && !channel_trust(l.options.ca)) {
        fprintf(stderr, "load: no certificate in %s\n", l.options.ca);
        return 1;
    }
    l.connections = calloc(l.options.connections, sizeof(*l.connections));
    l.buffer = malloc(RECEIVE_BYTES);
    l.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (l.options.subscribe)
        l.fanout = fanout_new(streams_wanted(&l));
    if (!l.connections || !l.buffer || l.epoll_fd < 0 || !l.fanout != !l.options.subscribe)
        fail("start");
    if (l.options.until_eof && epoll_ctl(l.epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
        fail("standard input");
    load_run(&l);
    load_report(&l);
    return 0;
}
