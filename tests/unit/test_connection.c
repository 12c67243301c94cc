/*
 * A connection between a layer above that is the test's own and a peer that is a session of
 * nghttp2's: every byte, every write and every turn is the test's decision.
 */
#include "net/connection.h"

#include "base/util.h"
#include "memory.h"
#include "net/connection_guard.h"
#include "proto/wire.h"

#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ENDS_MAX 4096
#define LAGS 8
#define LAG_NS UINT64_C(1000000000)
#define STREAMS_LOGGED 8
#define MESSAGES_LOGGED 64
#define CLIENT_MAGIC "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

/* Where the layer above can be called. */
enum callback {
    IN_NOTHING,
    IN_OPEN,
    IN_HEADER,
    IN_HEADERS_END,
    IN_DATA,
    IN_HALF_CLOSE,
    IN_READ,
    IN_CLOSE,
    IN_ACCEPTED,
    IN_ESTABLISHED,
    IN_GOAWAY,
    IN_EACH,
    CALLBACK_COUNT,
};

enum action {
    DO_CLOSE,
    DO_DRAIN,
    DO_RESET_ALL,
    ACTION_COUNT,
};

struct bed;

/* Where messages are counted: all, and by how late they are said to be. */
struct account {
    struct bed *bed;
    uint64_t accepted;
    uint64_t late[LAGS];
};

/* What became of a stream. */
struct end {
    int32_t id;
    uint32_t code;
    bool local;
};

/* How the layer above answers each request. */
struct script {
    size_t message_size;   /* prefix included; 0: it never responds */
    uint64_t limit;        /* bytes of body, UINT64_MAX: endless */
    bool hold;             /* bytes that come are not consumed */
    bool stay_open;        /* no trailers at the limit */
    bool two_accounts;     /* streams take turns */
    bool refuse;           /* open() says no */
    unsigned large_header; /* bytes of a header of the answer */
    int read_error;
};

struct bed {
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
    struct connection_ops ops;
    struct script script;
    bool client;
    struct account accounts[2];

    enum callback act_in;
    unsigned act_at; /* the how-manieth time */
    enum action action;
    bool acted;

    unsigned opened;
    unsigned end_count;
    struct end ends[ENDS_MAX];
    unsigned closes; /* of the connection */
    enum close_reason reason;
    char detail[64];
    unsigned established;
    unsigned goaways;
    uint32_t goaway_code;
    int32_t goaway_last;
    unsigned half_closes;
    unsigned refused;
    unsigned stops; /* fields that stopped decoding */
    unsigned header_blocks;
    uint64_t received;
    uint8_t lags[STREAMS_LOGGED][MESSAGES_LOGGED]; /* of each stream's first messages */
    struct item *items;                            /* the newest first */
};

/* A call of the layer above. */
struct item {
    struct stream stream;
    struct bed *bed;
    struct account *account;
    struct item *next;
    uint64_t position;
    unsigned reads;
    uint64_t due_ns; /* of the message that it is in the middle of */
    bool submitted;
    struct buffer body;
    struct buffer headers;
};

static struct item *from_stream(struct stream *stream)
{
    return container_of(stream, struct item, stream);
}

static void reset_stream(struct stream *stream)
{
    stream_reset(stream, NGHTTP2_CANCEL);
}

/*
 * Every callback begins here. Nothing but ends may come after connection_close(); only a row of
 * calls that it was called from goes on: of messages, which did go, and of
 * connection_each_stream().
 */
static void enter(struct bed *bed, enum callback callback)
{
    if (bed->acted && bed->action == DO_CLOSE)
        assert_true(callback == IN_CLOSE ||
                    (callback == bed->act_in && (callback == IN_ACCEPTED || callback == IN_EACH)));
    if (callback != bed->act_in || bed->acted || bed->act_at-- > 0)
        return;
    bed->acted = true;
    switch (bed->action) {
    case DO_CLOSE:
        connection_close(bed->connection, CLOSE_LOCAL, "from a callback");
        connection_close(bed->connection, CLOSE_FLOOD, "too late");
        break;
    case DO_DRAIN:
        connection_drain(bed->connection, CLOSE_SHUTDOWN);
        break;
    case DO_RESET_ALL:
        connection_each_stream(bed->connection, reset_stream);
        break;
    case ACTION_COUNT:
        break;
    }
}

static struct item *item_new(struct bed *bed)
{
    struct item *item = calloc(1, sizeof(*item));

    assert_non_null(item);
    item->bed = bed;
    item->account = &bed->accounts[bed->script.two_accounts ? bed->opened % 2 : 0];
    item->next = bed->items;
    bed->items = item;
    bed->opened++;
    return item;
}

static struct stream *on_open(struct connection *connection)
{
    struct bed *bed = connection_context(connection);

    enter(bed, IN_OPEN);
    return bed->script.refuse ? NULL : &item_new(bed)->stream;
}

static void on_refused(struct connection *connection)
{
    struct bed *bed = connection_context(connection);

    bed->refused++;
}

static int on_header(struct stream *stream, const struct header *header)
{
    struct item *item = from_stream(stream);

    enter(item->bed, IN_HEADER);
    if (header->name_length == 4 && memcmp(header->name, "stop", 4) == 0) {
        item->bed->stops++;
        return 1;
    }
    buffer_append(&item->headers, header->name, header->name_length);
    buffer_append(&item->headers, "=", 1);
    buffer_append(&item->headers, header->value, header->value_length);
    buffer_append(&item->headers, ";", 1);
    return 0;
}

static void item_respond(struct item *item)
{
    const struct script *script = &item->bed->script;
    static char large[20000];
    struct header headers[] = {
        HEADER(":status", "200"),
        HEADER("content-type", "application/grpc"),
        {"large", 5, large, script->large_header},
    };

    memset(large, 'x', sizeof(large));
    if (script->message_size == 0)
        return;
    if (stream_respond(&item->stream, headers, script->large_header > 0 ? 3 : 2, false) == 0)
        stream_resume(&item->stream);
}

static void on_headers_end(struct stream *stream, bool end)
{
    struct item *item = from_stream(stream);

    enter(item->bed, IN_HEADERS_END);
    item->bed->header_blocks++;
    item->bed->half_closes += end;
    if (item->position == 0 && !item->bed->client)
        item_respond(item);
}

static void on_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct item *item = from_stream(stream);

    enter(item->bed, IN_DATA);
    buffer_append(&item->body, bytes, size);
    item->bed->received += size;
    if (!item->bed->script.hold)
        stream_consume(stream, size);
}

static void on_half_close(struct stream *stream)
{
    struct bed *bed = from_stream(stream)->bed;

    enter(bed, IN_HALF_CLOSE);
    bed->half_closes++;
}

/* The byte at `position` of an endless row of messages. */
static uint8_t pattern(uint64_t position, size_t message_size)
{
    uint64_t index = position / message_size;
    size_t offset = position % message_size;
    uint8_t prefix[WIRE_PREFIX_SIZE];

    wire_prefix_write(prefix, (uint32_t)(message_size - WIRE_PREFIX_SIZE));
    return offset < WIRE_PREFIX_SIZE ? prefix[offset] : (uint8_t)(index * 31 + offset);
}

/*
 * How late what begins in this call of on_read() is said to be, in LAG_NS: that differs from one
 * call to the next, and is by far more than what the test takes.
 */
static unsigned read_lag(const struct item *item)
{
    return 1 + item->reads % (LAGS - 1);
}

/* Begins and ends the messages that have a first or a last byte at `offset` of what is read. */
static void read_byte(struct item *item, size_t offset, size_t message_size,
                      struct stream_read *ret)
{
    uint64_t position = item->position + offset;
    uint64_t index = position / message_size;
    unsigned stream = (unsigned)item->stream.id / 2;

    if (position % message_size == 0) {
        item->due_ns = stream_flush_ns(&item->stream) - read_lag(item) * LAG_NS;
        if (stream < STREAMS_LOGGED && index < MESSAGES_LOGGED)
            item->bed->lags[stream][index] = (uint8_t)read_lag(item);
    }
    if ((position + 1) % message_size > 0)
        return;
    if (ret->messages++ == 0) {
        ret->first_end = offset + 1;
        ret->first_due_ns = item->due_ns;
    } else {
        ret->due_ns = item->due_ns;
    }
}

static ssize_t on_read(struct stream *stream, uint8_t *bytes, size_t size, struct stream_read *ret)
{
    struct item *item = from_stream(stream);
    const struct script *script = &item->bed->script;
    const struct header status = HEADER("grpc-status", "0");
    size_t message_size = MAX(script->message_size, (size_t)WIRE_PREFIX_SIZE);
    size_t n = (size_t)MIN((uint64_t)size, script->limit - item->position);

    enter(item->bed, IN_READ);
    if (script->read_error)
        return script->read_error;
    for (size_t i = 0; i < n; i++) {
        bytes[i] = pattern(item->position + i, message_size);
        read_byte(item, i, message_size, ret);
    }
    item->position += n;
    item->reads++;
    ret->account = item->account;
    ret->more = item->position < script->limit;
    if (!ret->more && !script->stay_open) {
        ret->end = true;
        (void)stream_submit_trailers(stream, &status, 1);
    }
    return (ssize_t)n;
}

static void on_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct item *item = from_stream(stream);
    struct bed *bed = item->bed;
    struct item **link = &bed->items;

    enter(bed, IN_CLOSE);
    assert_int_equal(stream_blocked(stream), BLOCKED_NOT);
    assert_true(bed->end_count < ENDS_MAX);
    for (unsigned i = 0; i < bed->end_count; i++)
        assert_int_not_equal(bed->ends[i].id, stream->id);
    bed->ends[bed->end_count++] = (struct end){stream->id, error_code, local};
    while (*link != item)
        link = &(*link)->next;
    *link = item->next;
    buffer_deinit(&item->body);
    buffer_deinit(&item->headers);
    free(item);
}

static void on_accepted(void *account, unsigned messages, uint64_t lag_ns)
{
    struct account *counted = account;

    enter(counted->bed, IN_ACCEPTED);
    assert_true(messages > 0);
    assert_in_range(lag_ns / LAG_NS, 1, LAGS - 1);
    counted->accepted += messages;
    counted->late[lag_ns / LAG_NS] += messages;
}

static void on_established(struct connection *connection)
{
    struct bed *bed = connection_context(connection);

    enter(bed, IN_ESTABLISHED);
    bed->established++;
}

static void on_goaway(struct connection *connection, uint32_t error_code, int32_t last_stream_id)
{
    struct bed *bed = connection_context(connection);

    enter(bed, IN_GOAWAY);
    bed->goaways++;
    bed->goaway_code = error_code;
    bed->goaway_last = last_stream_id;
}

static void fail_on_stream(struct stream *stream)
{
    fail_msg("stream %d has outlived its connection", stream->id);
}

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct bed *bed = connection_context(connection);

    connection_each_stream(connection, fail_on_stream);
    /* Too late for anything, and harmless. */
    connection_close(connection, CLOSE_LOCAL, NULL);
    connection_drain(connection, CLOSE_LOCAL);
    bed->closes++;
    bed->reason = reason;
    (void)snprintf(bed->detail, sizeof(bed->detail), "%s", detail ? detail : "");
    bed->connection = NULL;
}

static const struct connection_ops test_ops = {
    .open = on_open,
    .refused = on_refused,
    .header = on_header,
    .headers_end = on_headers_end,
    .data = on_data,
    .half_close = on_half_close,
    .read = on_read,
    .close = on_close,
    .accepted = on_accepted,
    .count = wire_count_messages,
    .established = on_established,
    .goaway = on_goaway,
    .closed = on_closed,
};

static const struct connection_options usual_options = {
    .max_streams = 100,
    .max_header_bytes = 8192,
    .stream_window = 65535,
    .connection_window = 65535,
};

static void bed_init_alone(struct bed *bed, const struct connection_options *options)
{
    struct connection_options own = *options;

    bed->accounts[0].bed = bed;
    bed->accounts[1].bed = bed;
    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    bed->ops = test_ops;
    bed->stats.loop = &bed->world.loop;
    own.loop = &bed->world.loop;
    own.stats = &bed->stats;
    own.ops = &bed->ops;
    own.context = bed;
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "[::1]:1234", &own),
                     0);
    assert_string_equal(connection_peer(bed->connection), "[::1]:1234");
}

static void bed_init(struct bed *bed, const struct script *script, const struct peer_options *peer)
{
    struct connection_options options = usual_options;

    *bed = (struct bed){.script = *script, .client = peer->server};
    options.client = peer->server;
    bed_init_alone(bed, &options);
    peer_init(&bed->peer, &bed->memory, peer);
}

static void assert_at_rest(const struct connection_stats *stats)
{
    uint64_t closed = 0;

    assert_int_equal(stats->connections, 0);
    assert_int_equal(stats->streams, 0);
    assert_int_equal(stats->unsent_bytes, 0);
    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        assert_int_equal(stats->blocked[i], 0);
    for (unsigned i = 0; i < CLOSE_REASON_COUNT; i++)
        closed += stats->closed_total[i];
    assert_int_equal(closed, stats->connections_total);
}

/* Every ending has this in common. */
static void bed_deinit(struct bed *bed)
{
    if (bed->connection)
        connection_close(bed->connection, CLOSE_LOCAL, NULL);
    for (unsigned i = 0; i < 4; i++)
        world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_null(bed->connection);
    assert_int_equal(bed->closes, 1);
    assert_int_equal(bed->end_count, bed->opened);
    assert_null(bed->items);
    assert_at_rest(&bed->stats);
    assert_int_equal(bed->stats.closed_total[bed->reason], 1);
    if (bed->peer.session)
        peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world);
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

/* Sleeps until the connection is closed; ctest ends a test that waits in vain. */
static void wait_closed(struct bed *bed)
{
    while (bed->closes == 0)
        world_sleep(&bed->world);
}

static struct peer_stream *get(struct bed *bed)
{
    return peer_request(&bed->peer, "/s/m", NULL, 0, false);
}

static void assert_pattern(const struct buffer *data, size_t message_size)
{
    for (size_t i = 0; i < data->size; i++)
        assert_int_equal(data->bytes[i], pattern(i, message_size));
}

/* ---- Handshake ---- */

static void test_handshake(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.message_size = 20, .limit = 100};
    struct bed bed;

    bed_init(&bed, &script, &peer);
    world_turn(&bed.world);
    assert_int_equal(bed.memory.try_writes, 0); /* a server waits for the preface */
    settle(&bed);
    assert_int_equal(bed.established, 1);
    assert_int_equal(bed.peer.settings, 1);
    assert_int_equal(bed.stats.connections, 1);
    assert_int_equal(nghttp2_session_get_remote_settings(bed.peer.session,
                                                         NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS),
                     100);
    assert_int_equal(nghttp2_session_get_remote_settings(bed.peer.session,
                                                         NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE),
                     8192);
    assert_int_equal(bed.stats.sent_bytes_total, bed.memory.accepted);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_LOCAL);
}

static void test_windows_are_announced(void **state)
{
    struct connection_options options = usual_options;
    const struct peer_options peer = {0};
    struct bed bed = {0};

    options.stream_window = 1000;
    options.connection_window = 100000;
    bed_init_alone(&bed, &options);
    peer_init(&bed.peer, &bed.memory, &peer);
    settle(&bed);
    assert_int_equal(
        nghttp2_session_get_remote_settings(bed.peer.session, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE),
        1000);
    assert_int_equal(nghttp2_session_get_remote_window_size(bed.peer.session), 100000);
    bed_deinit(&bed);
}

static void test_a_request_and_its_answer(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.message_size = 20, .limit = 100};
    static const size_t splits[] = {0, 1, 2, 7, 10};

    for (size_t i = 0; i < ELEMENTSOF(splits); i++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &script, &peer);
        bed.peer.split = splits[i];
        stream = peer_request(&bed.peer, "/s/m", NULL, 0, true);
        peer_upload(&bed.peer, stream, "some bytes", 10, true);
        settle(&bed);
        assert_int_equal(bed.received, 10);
        assert_int_equal(bed.half_closes, 1);
        assert_int_equal(stream->blocks, 2);
        assert_string_equal(peer_field(stream, ":status"), "200");
        assert_string_equal(peer_field(stream, "grpc-status"), "0");
        assert_int_equal(stream->data.size, 100);
        assert_pattern(&stream->data, 20);
        assert_true(stream->ended && stream->closed);
        assert_int_equal(stream->close_code, 0);
        assert_int_equal(bed.accounts[0].accepted, 5);
        assert_int_equal(bed.end_count, 1);
        assert_int_equal(bed.ends[0].code, 0);
        assert_false(bed.ends[0].local);
        assert_int_equal(bed.stats.streams, 0);
        bed_deinit(&bed);
    }
}

/* PROTOCOL-HTTP2.md: RST_STREAM NO_ERROR follows trailers that the client's end has not. */
static void test_trailers_before_half_close(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.message_size = 20, .limit = 100};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = peer_request(&bed.peer, "/s/m", NULL, 0, true);
    settle(&bed);
    assert_true(stream->ended && stream->reset);
    assert_int_equal(stream->reset_code, NGHTTP2_NO_ERROR);
    assert_int_equal(stream->data.size, 100);
    assert_int_equal(bed.end_count, 1);
    assert_true(bed.ends[0].local);
    bed_deinit(&bed);
}

/* HEADERS with END_STREAM after DATA: a half-close like any other. */
static void test_request_trailers(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {0};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = peer_request(&bed.peer, "/s/m", NULL, 0, true);
    stream->upload_trailers = true;
    peer_upload(&bed.peer, stream, "abc", 3, true);
    settle(&bed);
    assert_int_equal(bed.header_blocks, 2);
    assert_int_equal(bed.half_closes, 1);
    assert_int_equal(bed.received, 3);
    assert_true(bed.items->stream.half_closed);
    bed_deinit(&bed);
}

static void test_a_header_that_stops_decoding(void **state)
{
    const struct field fields[] = {{"stop", "now"}, {"later", "x"}};
    const struct peer_options peer = {0};
    const struct script script = {.message_size = 20, .limit = 100};
    struct peer_stream *stopped, *other;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stopped = peer_request(&bed.peer, "/s/m", fields, 2, true);
    other = get(&bed);
    settle(&bed);
    assert_true(stopped->reset);
    assert_int_equal(stopped->reset_code, NGHTTP2_INTERNAL_ERROR);
    assert_int_equal(other->data.size, 100);
    assert_int_equal(bed.end_count, 2);
    bed_deinit(&bed);
}

static void test_refused(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.refuse = true};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = peer_request(&bed.peer, "/s/m", NULL, 0, true);
    peer_upload(&bed.peer, stream, "abc", 3, false);
    settle(&bed);
    assert_true(stream->reset);
    assert_int_equal(stream->reset_code, NGHTTP2_REFUSED_STREAM);
    assert_int_equal(bed.stats.streams, 0);
    assert_int_equal(bed.closes, 0);
    bed_deinit(&bed);
}

/* ---- What comes first ---- */

static void test_preface_timeout(void **state)
{
    static const size_t sizes[] = {0, 1, 23, 24, 30}; /* of the preface; 24 lacks SETTINGS */

    for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
        static const uint8_t preface[] = CLIENT_MAGIC "\0\0\0\4\0\0";
        struct connection_options options = usual_options;
        struct bed bed = {0};
        uint64_t start_ms;

        options.preface_timeout_ms = 20;
        bed_init_alone(&bed, &options);
        start_ms = loop_now_ms(&bed.world.loop);
        if (sizes[i] > 0)
            memory_deliver(&bed.memory, preface, sizes[i], 0);
        wait_closed(&bed);
        assert_true(loop_now_ms(&bed.world.loop) - start_ms >= 20);
        assert_int_equal(bed.reason, CLOSE_PREFACE_TIMEOUT);
        bed_deinit(&bed);
    }
}

static void count_down(struct wheel_timer *timer)
{
    /* That it is disarmed is all that is asked. */
}

static void test_no_timeout_once_established(void **state)
{
    const struct peer_options peer = {0};
    struct wheel_timer later = {.fire = count_down};
    struct connection_options options = usual_options;
    struct bed bed = {0};

    options.preface_timeout_ms = 10;
    bed_init_alone(&bed, &options);
    peer_init(&bed.peer, &bed.memory, &peer);
    loop_arm(&bed.world.loop, &later, 60, 1);
    settle(&bed);
    while (wheel_armed(&later))
        world_sleep(&bed.world);
    assert_int_equal(bed.closes, 0);
    bed_deinit(&bed);
}

static void test_bad_preface(void **state)
{
    static const uint8_t tls_hello[] = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01};
    static const struct {
        const void *bytes;
        size_t size;
        size_t split;
        enum close_reason reason;
    } cases[] = {
        {tls_hello, sizeof(tls_hello), 0, CLOSE_BAD_PREFACE},
        {tls_hello, sizeof(tls_hello), 1, CLOSE_BAD_PREFACE},
        {"\0\0\0\4\0\0\0\0\0", 9, 0, CLOSE_BAD_PREFACE}, /* SETTINGS with no preface */
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", 24, 0, CLOSE_BAD_PREFACE},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", 24, 1, CLOSE_BAD_PREFACE},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct bed bed = {0};

        bed_init_alone(&bed, &usual_options);
        memory_deliver(&bed.memory, cases[i].bytes, cases[i].size, cases[i].split);
        memory_end(&bed.memory, 0);
        wait_closed(&bed);
        assert_int_equal(bed.reason, cases[i].reason);
        bed_deinit(&bed);
    }
}

static void test_first_frame_is_not_settings(void **state)
{
    static const uint8_t bytes[] = CLIENT_MAGIC "\0\0\10\6\0\0\0\0\0"
                                                "12345678";
    struct bed bed = {0};

    bed_init_alone(&bed, &usual_options);
    memory_deliver(&bed.memory, bytes, sizeof(bytes) - 1, 0);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_PROTOCOL_ERROR);
    bed_deinit(&bed);
}

static void test_http1_is_answered(void **state)
{
    static const char *const requests[] = {
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /stockservice.StockService/GetUpdates HTTP/1.1\r\n\r\n",
        "PUT / HTTP/1.0\r\n\r\n",
    };

    for (size_t i = 0; i < ELEMENTSOF(requests); i++) {
        static const char line[] = "HTTP/1.1 505 ";
        struct bed bed = {0};
        const uint8_t *bytes;
        size_t size;

        bed_init_alone(&bed, &usual_options);
        memory_deliver(&bed.memory, requests[i], strlen(requests[i]), 0);
        size = memory_take(&bed.memory, &bytes);
        assert_true(size > strlen(line));
        assert_memory_equal(bytes, line, strlen(line));
        assert_true(bed.memory.shut);
        memory_deliver(&bed.memory, "more", 4, 0); /* is read, and means nothing */
        world_turn(&bed.world);
        assert_int_equal(bed.closes, 0);
        memory_end(&bed.memory, 0);
        wait_closed(&bed);
        assert_int_equal(bed.reason, CLOSE_BAD_PREFACE);
        assert_string_equal(bed.detail, "HTTP/1");
        bed_deinit(&bed);
    }
}

/* A peer that does not go by itself after the answer is waited for no longer than the linger. */
static void test_linger_ends(void **state)
{
    struct bed bed = {0};

    bed_init_alone(&bed, &usual_options);
    memory_deliver(&bed.memory, "GET /", 5, 0);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_BAD_PREFACE);
    bed_deinit(&bed);
}

/* ---- Writing ---- */

/* Nothing is pulled, and nothing written, while a write is pending: memory checks the latter. */
static void test_one_write_in_flight(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct bed bed;
    uint64_t position;

    bed_init(&bed, &script, &peer);
    settle(&bed);
    (void)get(&bed);
    bed.memory.accept = 1000;
    (void)peer_pump(&bed.peer);
    world_turn(&bed.world);
    assert_int_equal(bed.memory.keeps, 1);
    assert_true(bed.memory.kept > 0);
    assert_int_equal(bed.stats.unsent_bytes, bed.memory.kept);
    assert_int_equal(bed.accounts[0].accepted, 9); /* 1000 bytes less SETTINGS' ACK and HEADERS */

    position = bed.items->position;
    for (unsigned i = 0; i < 10; i++) {
        stream_resume(&bed.items->stream);
        world_turn(&bed.world);
    }
    assert_int_equal(bed.items->position, position);
    assert_int_equal(bed.memory.keeps, 1);

    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    assert_int_equal(bed.stats.unsent_bytes, 0);
    settle(&bed);
    assert_int_equal(bed.items->position, 65535); /* the window */
    assert_int_equal(bed.memory.keeps, 1);
    bed_deinit(&bed);
}

/* Where the kernel says that it has little room, little is pulled. */
static void test_room_bounds_a_batch(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 30};
    const struct peer_options peer = {.settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    static const size_t rooms[] = {0, 1, 16384, 40000, 131072, SIZE_MAX};

    for (size_t i = 0; i < ELEMENTSOF(rooms); i++) {
        size_t bound = MAX(MIN(rooms[i], (size_t)131072), (size_t)16384) + 16393;
        struct bed bed;

        bed_init(&bed, &script, &peer);
        peer_grant(&bed.peer, NULL, 1 << 30);
        settle(&bed);
        bed.memory.accept = 0;
        bed.memory.room = rooms[i];
        (void)get(&bed);
        (void)peer_pump(&bed.peer);
        world_turn(&bed.world);
        assert_true(bed.memory.rooms > 0);
        assert_in_range(bed.stats.unsent_bytes, MAX(MIN(rooms[i], (size_t)131072), (size_t)16384),
                        bound);
        bed_deinit(&bed);
    }
}

/* Per stream, from the bytes that the transport accepted: how many bytes of DATA, whole or not. */
static void data_bytes(const uint8_t *bytes, size_t size, uint64_t ret_bytes[static STREAMS_LOGGED])
{
    memset(ret_bytes, 0, STREAMS_LOGGED * sizeof(*ret_bytes));
    while (size > 9) {
        size_t length = (size_t)bytes[0] << 16 | (size_t)bytes[1] << 8 | bytes[2];
        size_t there = MIN(length, size - 9);

        if (bytes[3] == NGHTTP2_DATA)
            ret_bytes[bytes[8] / 2] += there;
        bytes += 9 + there;
        size -= 9 + there;
    }
}

/* Counted are the messages among the accepted bytes, no more and no less, and each as late as it
 * is. */
static void assert_counted(struct bed *bed)
{
    uint64_t bytes[STREAMS_LOGGED], messages[2] = {0}, late[2][LAGS] = {{0}};

    data_bytes(bed->memory.out.bytes, bed->memory.out.size - bed->memory.kept, bytes);
    for (unsigned i = 0; i < STREAMS_LOGGED; i++) {
        unsigned account = bed->script.two_accounts ? i % 2 : 0;
        uint64_t count = bytes[i] / bed->script.message_size;

        assert_true(count <= MESSAGES_LOGGED);
        messages[account] += count;
        for (uint64_t k = 0; k < count; k++)
            late[account][bed->lags[i][k]]++;
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(bed->accounts[i].accepted, messages[i]);
        assert_memory_equal(bed->accounts[i].late, late[i], sizeof(late[i]));
    }
}

/*
 * Two requests are answered while the transport takes `accept` bytes; the rest is kept and released
 * later. Appends all that comes out to `ret_out`. Returns the bytes of the first write.
 */
static void answer_with_short_write(const struct script *script, size_t accept,
                                    struct buffer *ret_out)
{
    const struct peer_options peer = {.hold_credit = true};
    struct bed bed;
    bool kept;

    bed_init(&bed, script, &peer);
    settle(&bed);
    (void)get(&bed);
    (void)get(&bed);
    bed.memory.accept = accept;
    (void)peer_pump(&bed.peer);
    world_turn(&bed.world);
    assert_counted(&bed);
    kept = bed.memory.kept > 0;
    bed.memory.accept = SIZE_MAX;
    if (kept) {
        memory_release(&bed.memory, 0);
        assert_int_equal(bed.memory.accepted, bed.memory.out.size);
        assert_counted(&bed);
    }
    settle(&bed);
    assert_counted(&bed);
    assert_int_equal(bed.stats.sent_bytes_total, bed.memory.accepted);
    if (script->limit < 65535)
        assert_int_equal(bed.end_count, 2);
    buffer_append(ret_out, bed.memory.out.bytes, bed.memory.out.size);
    bed_deinit(&bed);
}

static void test_short_write_at_every_offset(void **state)
{
    const struct script script = {.message_size = 17, .limit = 85, .two_accounts = true};
    struct buffer whole = {0};

    answer_with_short_write(&script, SIZE_MAX, &whole);
    for (size_t accept = 0; accept <= whole.size; accept++) {
        struct buffer out = {0};

        answer_with_short_write(&script, accept, &out);
        assert_int_equal(out.size, whole.size);
        assert_memory_equal(out.bytes, whole.bytes, whole.size);
        buffer_deinit(&out);
    }
    buffer_deinit(&whole);
}

/* The same with messages that straddle frames, and frames that straddle batches. */
static void test_short_write_in_large_batches(void **state)
{
    const struct script script = {.message_size = 1021, .limit = 1021 * 30, .two_accounts = true};
    struct buffer whole = {0};

    answer_with_short_write(&script, SIZE_MAX, &whole);
    for (size_t accept = 0; accept <= whole.size + 400; accept += 397) {
        struct buffer out = {0};

        answer_with_short_write(&script, accept, &out);
        assert_int_equal(out.size, whole.size);
        buffer_deinit(&out);
    }
    buffer_deinit(&whole);
}

static void test_transport_errors(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};

    for (unsigned kind = 0; kind < 4; kind++) {
        struct bed bed;

        bed_init(&bed, &script, &peer);
        settle(&bed);
        (void)get(&bed);
        bed.memory.accept = 500;
        if (kind == 0)
            bed.memory.try_error = -EPIPE;
        if (kind == 1)
            bed.memory.keep_error = -ENOMEM;
        if (kind == 2)
            bed.memory.keep_error = -ECONNRESET;
        (void)peer_pump(&bed.peer);
        world_turn(&bed.world);
        if (kind == 3)
            memory_release(&bed.memory, -ECONNRESET);
        wait_closed(&bed);
        assert_int_equal(bed.reason, kind == 1 ? CLOSE_NO_MEMORY : CLOSE_PEER_LOST);
        assert_int_equal(bed.end_count, 1);
        assert_int_equal(bed.ends[0].code, STREAM_CONNECTION_LOST);
        bed_deinit(&bed);
    }
}

static void test_transport_does_not_start(void **state)
{
    struct connection *connection = (struct connection *)(uintptr_t)1;
    struct connection_options options = usual_options;
    struct bed bed = {0};

    world_init(&bed.world);
    memory_init(&bed.memory, &bed.world);
    bed.memory.start_error = -ENOTCONN;
    bed.stats.loop = options.loop = &bed.world.loop;
    options.stats = &bed.stats;
    options.ops = &test_ops;
    assert_int_equal(connection_new(&connection, &bed.memory.transport, "x", &options), -ENOTCONN);
    assert_ptr_equal(connection, (void *)(uintptr_t)1);
    assert_true(bed.memory.closing);
    world_turn(&bed.world);
    assert_true(bed.memory.closed);
    assert_at_rest(&bed.stats);
    memory_deinit(&bed.memory);
    world_deinit(&bed.world);
}

/* ---- What blocks ---- */

static void assert_blocked(struct bed *bed, unsigned stream, unsigned connection, unsigned socket)
{
    assert_int_equal(bed->stats.blocked[BLOCKED_STREAM_WINDOW], stream);
    assert_int_equal(bed->stats.blocked[BLOCKED_CONNECTION_WINDOW], connection);
    assert_int_equal(bed->stats.blocked[BLOCKED_SOCKET], socket);
}

static void assert_episodes(struct bed *bed, unsigned stream, unsigned connection, unsigned socket)
{
    assert_int_equal(bed->stats.blocked_episodes_total[BLOCKED_STREAM_WINDOW], stream);
    assert_int_equal(bed->stats.blocked_episodes_total[BLOCKED_CONNECTION_WINDOW], connection);
    assert_int_equal(bed->stats.blocked_episodes_total[BLOCKED_SOCKET], socket);
}

static void test_blocked_by_stream_window(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1000};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct peer_stream *one, *two;
    uint64_t start_ns = uv_hrtime();
    uint64_t blocked_ns;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    one = get(&bed);
    two = get(&bed);
    settle(&bed);
    assert_int_equal(one->data.size, 1000);
    assert_int_equal(two->data.size, 1000);
    assert_blocked(&bed, 2, 0, 0);
    assert_episodes(&bed, 2, 0, 0);
    assert_int_equal(stream_blocked(&bed.items->stream), BLOCKED_STREAM_WINDOW);
    world_sleep(&bed.world);
    blocked_ns = connection_stats_blocked_ns(&bed.stats, BLOCKED_STREAM_WINDOW);
    assert_in_range(blocked_ns, 1, 2 * (uv_hrtime() - start_ns));

    /* Resuming what is blocked changes nothing. */
    stream_resume(&bed.items->stream);
    settle(&bed);
    assert_episodes(&bed, 2, 0, 0);

    /* Credit for one: it sends that much, and is blocked once more. */
    peer_grant(&bed.peer, one, 500);
    settle(&bed);
    assert_int_equal(one->data.size, 1500);
    assert_blocked(&bed, 2, 0, 0);
    assert_episodes(&bed, 3, 0, 0);
    assert_int_equal(bed.stats.window_updates_stream_total, 1);

    /* The windows of both by SETTINGS: larger, then so small that they are below zero. */
    peer_settings(&bed.peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1200);
    settle(&bed);
    assert_int_equal(one->data.size, 1700);
    assert_int_equal(two->data.size, 1200);
    assert_episodes(&bed, 5, 0, 0);
    peer_settings(&bed.peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    settle(&bed);
    peer_grant(&bed.peer, two, 1200); /* exactly back to 0: still nothing */
    settle(&bed);
    assert_int_equal(two->data.size, 1200);
    assert_blocked(&bed, 2, 0, 0);
    assert_episodes(&bed, 5, 0, 0);
    peer_grant(&bed.peer, two, 1);
    settle(&bed);
    assert_int_equal(two->data.size, 1201);

    /* One that is reset while blocked leaves the books; so does one that the peer resets. */
    stream_reset(&bed.items->stream, NGHTTP2_CANCEL);
    assert_blocked(&bed, 1, 0, 0);
    peer_reset(&bed.peer, one, NGHTTP2_CANCEL);
    settle(&bed);
    assert_blocked(&bed, 0, 0, 0);
    assert_int_equal(bed.stats.streams, 0);
    blocked_ns = connection_stats_blocked_ns(&bed.stats, BLOCKED_STREAM_WINDOW);
    world_sleep(&bed.world);
    assert_int_equal(connection_stats_blocked_ns(&bed.stats, BLOCKED_STREAM_WINDOW), blocked_ns);
    assert_int_equal(connection_stats_blocked_ns(&bed.stats, BLOCKED_SOCKET), 0);
    bed_deinit(&bed);
}

static void test_blocked_by_connection_window(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 20};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct peer_stream *streams[3], *late;
    struct bed bed;
    size_t total = 0;

    bed_init(&bed, &script, &peer);
    for (unsigned i = 0; i < 3; i++)
        streams[i] = get(&bed);
    settle(&bed);
    for (unsigned i = 0; i < 3; i++)
        total += streams[i]->data.size;
    assert_int_equal(total, 65535);
    assert_blocked(&bed, 0, 3, 0);
    assert_episodes(&bed, 0, 3, 0);
    assert_int_equal(stream_blocked(&bed.items->stream), BLOCKED_CONNECTION_WINDOW);

    /* A new one is blocked from the start. */
    late = get(&bed);
    settle(&bed);
    assert_int_equal(late->data.size, 0);
    assert_int_equal(late->blocks, 1);
    assert_blocked(&bed, 0, 4, 0);
    assert_episodes(&bed, 0, 4, 0);

    /* The stream's own window is the nearer reason. */
    peer_settings(&bed.peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    settle(&bed);
    assert_blocked(&bed, 4, 0, 0);
    assert_episodes(&bed, 4, 4, 0);
    peer_grant(&bed.peer, NULL, 1000);
    settle(&bed);
    assert_blocked(&bed, 4, 0, 0);
    peer_settings(&bed.peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 20);
    settle(&bed);
    assert_blocked(&bed, 0, 4, 0);
    assert_int_equal(bed.stats.window_updates_connection_total, 1);

    peer_grant(&bed.peer, NULL, 1 << 22);
    settle(&bed);
    /* Now each stream has used up its own. */
    assert_blocked(&bed, 4, 0, 0);
    bed_deinit(&bed);
}

static void test_blocked_by_socket(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 20};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct bed bed;

    bed_init(&bed, &script, &peer);
    peer_grant(&bed.peer, NULL, 1 << 17);
    settle(&bed);
    bed.memory.accept = 0;
    (void)get(&bed);
    (void)get(&bed);
    (void)peer_pump(&bed.peer);
    world_turn(&bed.world);
    assert_blocked(&bed, 0, 0, 2);
    assert_episodes(&bed, 0, 0, 2);
    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    settle(&bed);
    assert_blocked(&bed, 0, 2, 0);
    assert_episodes(&bed, 0, 2, 2);

    bed.memory.accept = 0;
    peer_grant(&bed.peer, NULL, 1 << 20);
    (void)peer_pump(&bed.peer);
    world_turn(&bed.world);
    assert_blocked(&bed, 0, 0, 2);
    assert_episodes(&bed, 0, 2, 4);
    /* Closing with a write in flight: bed_deinit() looks at the books. */
    bed_deinit(&bed);
}

/* What the kernel holds and what it did not take; the kernel is asked once in a turn. */
static void test_unsent_bytes(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 20};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    uint64_t now_ms;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    settle(&bed);
    bed.memory.unsent = 1000;
    now_ms = loop_now_ms(&bed.world.loop);
    assert_int_equal(connection_unsent_bytes(bed.connection), 1000);
    bed.memory.unsent = 2000;
    assert_int_equal(connection_unsent_bytes(bed.connection), 1000);
    while (loop_now_ms(&bed.world.loop) == now_ms)
        world_sleep(&bed.world);
    assert_int_equal(connection_unsent_bytes(bed.connection), 2000);

    bed.memory.accept = 0;
    (void)get(&bed);
    (void)peer_pump(&bed.peer);
    world_turn(&bed.world);
    assert_true(bed.memory.kept > 0);
    assert_int_equal(connection_unsent_bytes(bed.connection), 2000 + bed.memory.kept);
    connection_close(bed.connection, CLOSE_LOCAL, NULL);
    assert_int_equal(connection_unsent_bytes(bed.connection), 0);
    bed_deinit(&bed);
}

/* A stream that has nothing to send is never blocked, whatever its window. */
static void test_idle_is_not_blocked(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 100};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = 100, .stay_open = true};
    struct bed bed;

    bed_init(&bed, &script, &peer);
    (void)get(&bed);
    settle(&bed);
    assert_int_equal(bed.accounts[0].accepted, 1);
    assert_blocked(&bed, 0, 0, 0);
    assert_episodes(&bed, 0, 0, 0);
    bed.script.limit = 300;
    stream_resume(&bed.items->stream);
    settle(&bed);
    assert_blocked(&bed, 1, 0, 0);
    peer_grant(&bed.peer, LIST_FIRST(&bed.peer.streams), 200);
    settle(&bed);
    assert_blocked(&bed, 0, 0, 0);
    assert_int_equal(bed.accounts[0].accepted, 3);
    bed_deinit(&bed);
}

/* Streams of one connection get the same, to a frame, whatever priority the client would like. */
static void test_fairness(void **state)
{
    const struct field urgent = {"priority", "u=0"};
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 30};
    const struct peer_options peer = {.settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    size_t least = SIZE_MAX, most = 0;
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    settle(&bed);
    peer_grant(&bed.peer, NULL, 1 << 30);
    (void)peer_request(&bed.peer, "/s/m", &urgent, 1, false);
    for (unsigned i = 0; i < 4; i++)
        (void)get(&bed);
    for (unsigned i = 0; i < 100; i++) {
        (void)peer_pump(&bed.peer);
        world_turn(&bed.world);
    }
    (void)peer_pump(&bed.peer);
    LIST_FOREACH (stream, &bed.peer.streams, link) {
        least = MIN(least, stream->data.size);
        most = MAX(most, stream->data.size);
    }
    assert_true(least > 500000);
    assert_true(most - least <= 2 * 16384);
    bed_deinit(&bed);
}

/* A turn writes a batch at most, so that one connection cannot keep the loop. */
static void test_a_turn_is_one_batch(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 30};
    const struct peer_options peer = {.settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct bed bed;

    bed_init(&bed, &script, &peer);
    peer_grant(&bed.peer, NULL, 1 << 30);
    settle(&bed);
    (void)get(&bed);
    (void)peer_pump(&bed.peer);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t before = bed.memory.accepted;

        world_turn(&bed.world);
        assert_in_range(bed.memory.accepted - before, 65536, 131072 + 16393);
    }
    bed_deinit(&bed);
}

/* ---- Credit ---- */

static void test_credit_only_by_consume(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.hold = true};
    static uint8_t bytes[100000];
    struct peer_stream *one, *two;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    one = peer_request(&bed.peer, "/s/m", NULL, 0, true);
    peer_upload(&bed.peer, one, bytes, sizeof(bytes), false);
    settle(&bed);
    assert_int_equal(bed.received, 65535);
    assert_int_equal(bed.items->stream.unconsumed, 65535);
    assert_int_equal(bed.peer.window_updates, 0);

    stream_consume(&bed.items->stream, 0);
    stream_consume(&bed.items->stream, 40000);
    settle(&bed);
    assert_int_equal(bed.received, 100000);
    assert_int_equal(bed.items->stream.unconsumed, 60000);

    /* What it kept of the connection's window comes back when the stream closes. */
    bed.peer.window_updates_bytes = 0;
    peer_reset(&bed.peer, one, NGHTTP2_CANCEL);
    settle(&bed);
    assert_int_equal(bed.end_count, 1);
    two = peer_request(&bed.peer, "/s/m", NULL, 0, true);
    peer_upload(&bed.peer, two, bytes, 65535, false);
    settle(&bed);
    assert_int_equal(bed.received, 165535);
    bed_deinit(&bed);
}

/* To a peer that has no window left credit goes at once if that is wanted, to the byte, and what
 * another stream holds does not. */
static void test_credit_flush(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.hold = true};
    static uint8_t bytes[60000];
    struct stream *first;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    peer_upload(&bed.peer, peer_request(&bed.peer, "/s/m", NULL, 0, true), bytes, 20000, false);
    settle(&bed);
    first = &bed.items->stream;
    peer_upload(&bed.peer, peer_request(&bed.peer, "/s/m", NULL, 0, true), bytes, 60000, false);
    settle(&bed);
    assert_int_equal(bed.received, 65535);

    stream_credit_flush(first); /* of nothing */
    settle(&bed);
    assert_int_equal(bed.peer.window_updates, 0);
    for (unsigned i = 1; i <= 3; i++) {
        stream_consume(first, 100);
        settle(&bed);
        assert_int_equal(bed.peer.window_updates_bytes, (i - 1) * 100);
        stream_credit_flush(first);
        stream_credit_flush(first);
        settle(&bed);
        assert_int_equal(bed.peer.window_updates_bytes, i * 100);
        assert_int_equal(bed.received, 65535 + i * 100);
    }
    /* The first stream's own window is far from used up. */
    assert_int_equal(bed.peer.window_updates_stream, 0);
    /* The credit that follows in its portions is neither less for it nor more. */
    stream_consume(first, 19700);
    stream_credit_flush(first);
    settle(&bed);
    assert_int_equal(bed.peer.window_updates_bytes, 20000);
    assert_int_equal(bed.received, 80000);
    bed_deinit(&bed);
}

/* A peer that has used up its window, and sends no more, has not a frame for each little credit. */
static void test_credit_flush_is_no_flood(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.hold = true};
    static uint8_t bytes[65535];
    struct bed bed;

    bed_init(&bed, &script, &peer);
    peer_upload(&bed.peer, peer_request(&bed.peer, "/s/m", NULL, 0, true), bytes, sizeof(bytes),
                false);
    settle(&bed);
    assert_int_equal(bed.received, 65535);
    for (unsigned i = 0; i < 655; i++) {
        stream_consume(&bed.items->stream, 100);
        stream_credit_flush(&bed.items->stream);
        settle(&bed);
    }
    /* 100, 100, 200, 400 and so on, of the stream and of the connection. */
    assert_int_equal(bed.peer.window_updates, 10);
    assert_int_equal(bed.peer.window_updates_bytes, 51200);
    assert_int_equal(bed.peer.window_updates_stream, 51200);
    bed_deinit(&bed);
}

/* Bytes for a stream that this side has reset are nobody's, and their credit goes back at once. */
static void test_credit_after_reset(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.hold = true};
    static uint8_t bytes[30000];
    struct bed bed;

    bed_init(&bed, &script, &peer);
    for (unsigned i = 0; i < 10; i++) {
        struct peer_stream *stream = peer_request(&bed.peer, "/s/m", NULL, 0, true);

        settle(&bed);
        peer_upload(&bed.peer, stream, bytes, sizeof(bytes), true);
        stream_reset(&bed.items->stream, NGHTTP2_CANCEL);
        (void)peer_pump(&bed.peer); /* the bytes cross the RST_STREAM */
        settle(&bed);
        assert_int_equal(stream->uploaded, sizeof(bytes));
        assert_true(stream->reset);
        assert_int_equal(stream->reset_code, NGHTTP2_CANCEL);
    }
    assert_int_equal(bed.received, 0);
    assert_int_equal(bed.end_count, 10);
    bed_deinit(&bed);
}

/* ---- Endings ---- */

static void test_peer_resets(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = peer_request(&bed.peer, "/s/m", NULL, 0, true);
    settle(&bed);
    peer_reset(&bed.peer, stream, NGHTTP2_CANCEL);
    settle(&bed);
    assert_int_equal(bed.end_count, 1);
    assert_int_equal(bed.ends[0].code, NGHTTP2_CANCEL);
    assert_false(bed.ends[0].local);
    assert_int_equal(bed.closes, 0);
    bed_deinit(&bed);
}

static void test_peer_goes(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    static const struct {
        bool with_call;
        int error;
        enum close_reason reason;
    } cases[] = {
        {false, 0, CLOSE_PEER},
        {true, 0, CLOSE_PEER_LOST},
        {false, -ECONNRESET, CLOSE_PEER_LOST},
        {true, -ECONNRESET, CLOSE_PEER_LOST},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct bed bed;

        bed_init(&bed, &script, &peer);
        if (cases[i].with_call)
            (void)get(&bed);
        settle(&bed);
        memory_end(&bed.memory, cases[i].error);
        wait_closed(&bed);
        assert_int_equal(bed.reason, cases[i].reason);
        assert_int_equal(bed.end_count, cases[i].with_call);
        bed_deinit(&bed);
    }
}

static void test_local_reset(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = get(&bed);
    settle(&bed);
    stream_reset(&bed.items->stream, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(bed.end_count, 0); /* not before it returns */
    stream_reset(&bed.items->stream, NGHTTP2_CANCEL);
    stream_resume(&bed.items->stream);
    assert_int_equal(stream_respond(&bed.items->stream, NULL, 0, true), 1);
    assert_int_equal(stream_submit_trailers(&bed.items->stream, NULL, 0), 1);
    settle(&bed);
    assert_int_equal(stream->reset_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(bed.end_count, 1);
    assert_true(bed.ends[0].local);
    assert_int_equal(bed.ends[0].code, NGHTTP2_ENHANCE_YOUR_CALM);
    bed_deinit(&bed);
}

static void test_read_error_resets(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX, .read_error = -ENOMEM};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = get(&bed);
    settle(&bed);
    assert_true(stream->reset);
    assert_int_equal(stream->reset_code, NGHTTP2_INTERNAL_ERROR);
    assert_int_equal(bed.end_count, 1);
    assert_true(bed.ends[0].local);
    assert_int_equal(bed.closes, 0);
    bed_deinit(&bed);
}

/* More than the peer's MAX_HEADER_LIST_SIZE must not be sent: the stream is reset instead. */
static void test_header_list_of_the_peer(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 1000};
    const struct peer_options peer = {.settings = &settings, .settings_count = 1};
    /* :status 200, content-type and the large one's name, each with 32 more */
    const unsigned others = 7 + 3 + 32 + 12 + 16 + 32 + 5 + 32;

    for (unsigned over = 0; over < 2; over++) {
        const struct script script = {
            .message_size = 20, .limit = 20, .large_header = 1000 - others + over};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &script, &peer);
        settle(&bed);
        stream = get(&bed);
        settle(&bed);
        assert_int_equal(stream->blocks, over ? 0 : 2);
        assert_int_equal(stream->reset, over);
        if (over)
            assert_int_equal(stream->reset_code, NGHTTP2_INTERNAL_ERROR);
        bed_deinit(&bed);
    }
}

static void test_goaway_reasons(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
        enum close_reason reason;
        uint32_t code;
    } cases[] = {
        /* WINDOW_UPDATE of 0 for the connection */
        {"\0\0\4\10\0\0\0\0\0\0\0\0\0", 13, CLOSE_PROTOCOL_ERROR, NGHTTP2_PROTOCOL_ERROR},
        /* the window of the connection beyond 2^31-1 */
        {"\0\0\4\10\0\0\0\0\0\x7f\xff\xff\xff\0\0\4\10\0\0\0\0\0\0\0\0\1", 26, CLOSE_PROTOCOL_ERROR,
         NGHTTP2_FLOW_CONTROL_ERROR},
        /* DATA on stream 0 */
        {"\0\0\1\0\0\0\0\0\0x", 10, CLOSE_PROTOCOL_ERROR, NGHTTP2_PROTOCOL_ERROR},
        /* HEADERS that HPACK cannot decode */
        {"\0\0\1\1\5\0\0\0\3\xff", 10, CLOSE_PROTOCOL_ERROR, NGHTTP2_COMPRESSION_ERROR},
        /* PING of 7 bytes */
        {"\0\0\7\6\0\0\0\0\0 1234567", 16, CLOSE_PROTOCOL_ERROR, NGHTTP2_FRAME_SIZE_ERROR},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        const struct peer_options peer = {.hold_credit = true};
        const struct script script = {.message_size = 100, .limit = UINT64_MAX};
        struct bed bed;

        bed_init(&bed, &script, &peer);
        (void)get(&bed);
        settle(&bed);
        memory_deliver(&bed.memory, cases[i].bytes, cases[i].size, 0);
        settle(&bed);
        assert_int_equal(bed.peer.goaways, 1);
        assert_int_equal(bed.peer.goaway_code, cases[i].code);
        assert_true(bed.memory.shut); /* lingers for the peer's end */
        memory_end(&bed.memory, -ECONNRESET);
        wait_closed(&bed);
        assert_int_equal(bed.reason, cases[i].reason);
        bed_deinit(&bed);
    }
}

static void test_ping_flood(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {0};
    static const uint8_t ping[] = "\0\0\10\6\0\0\0\0\0"
                                  "12345678";
    struct bed bed;

    bed_init(&bed, &script, &peer);
    settle(&bed);
    bed.memory.accept = 0;
    /* The first is answered into the transport, which takes nothing; then they pile up. */
    for (unsigned i = 0; i < 2000 && !bed.memory.closing; i++) {
        memory_deliver(&bed.memory, ping, sizeof(ping) - 1, 0);
        world_turn(&bed.world);
        assert_true(i < 200);
    }
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_FLOOD);
    bed_deinit(&bed);
}

static void test_drain(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    const struct script script = {.message_size = 100, .limit = UINT64_MAX};
    struct peer_stream *stream, *late;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = get(&bed);
    settle(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(bed.peer.goaway_last, stream->id);
    late = get(&bed); /* that session does as it is told, and does not send it */
    settle(&bed);
    assert_int_equal(late->blocks, 0);
    assert_int_equal(bed.opened, 1);
    assert_int_equal(bed.closes, 0);
    assert_false(bed.memory.shut);

    /* The open one goes on, and ends. */
    bed.script.limit = bed.items->position + 1000;
    peer_grant(&bed.peer, stream, 1 << 20);
    peer_grant(&bed.peer, NULL, 1 << 20);
    settle(&bed);
    assert_true(stream->ended);
    assert_string_equal(peer_field(stream, "grpc-status"), "0");
    assert_true(bed.memory.shut);
    memory_end(&bed.memory, 0);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_SHUTDOWN);
    bed_deinit(&bed);
}

/* A client that says nothing is told too, and does not hold up the end for long. */
static void test_drain_before_the_preface(void **state)
{
    struct bed bed = {0};
    const uint8_t *bytes;

    bed_init_alone(&bed, &usual_options);
    world_turn(&bed.world);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    while (!bed.memory.shut)
        world_sleep(&bed.world);
    assert_true(memory_take(&bed.memory, &bytes) > 9);
    memory_end(&bed.memory, 0);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_SHUTDOWN);
    bed_deinit(&bed);
}

static void test_drain_while_writing(void **state)
{
    const struct peer_options peer = {0};
    const struct script script = {.message_size = 100, .limit = 1000};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    settle(&bed);
    bed.memory.accept = 0;
    stream = get(&bed);
    (void)peer_pump(&bed.peer);
    world_turn(&bed.world);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    world_turn(&bed.world);
    assert_int_equal(bed.peer.goaways, 0);
    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(stream->data.size, 1000);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_SHUTDOWN);
}

/* ---- Floods ---- */

/* Frames as they are on the wire, which no session of nghttp2's would send. */
static void raw(struct buffer *buffer, uint8_t type, uint8_t flags, int32_t id, const void *payload,
                size_t size)
{
    const uint8_t head[9] = {
        (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size,      type,        flags,
        (uint8_t)(id >> 24),   (uint8_t)(id >> 16),  (uint8_t)(id >> 8), (uint8_t)id,
    };

    buffer_append(buffer, head, sizeof(head));
    buffer_append(buffer, payload, size);
}

static void raw_number(struct buffer *buffer, uint8_t type, int32_t id, uint32_t number)
{
    const uint8_t payload[] = {(uint8_t)(number >> 24), (uint8_t)(number >> 16),
                               (uint8_t)(number >> 8), (uint8_t)number};

    raw(buffer, type, 0, id, payload, sizeof(payload));
}

static void raw_setting(struct buffer *buffer, uint16_t id, uint32_t value)
{
    const uint8_t entry[] = {(uint8_t)(id >> 8),     (uint8_t)id,           (uint8_t)(value >> 24),
                             (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};

    raw(buffer, NGHTTP2_SETTINGS, 0, 0, entry, sizeof(entry));
}

/* A request whose header block touches no table; `more` are fields in HPACK. */
static void raw_request(struct buffer *buffer, int32_t id, bool end, const char *more)
{
    uint8_t block[256] = {0x83, 0x86, 0x04, 4, '/', 's', '/', 'm', 0x01, 1, 'x'};
    const size_t usual = 11;

    memcpy(block + usual, more, strlen(more));
    raw(buffer, NGHTTP2_HEADERS,
        (uint8_t)(NGHTTP2_FLAG_END_HEADERS | (end ? NGHTTP2_FLAG_END_STREAM : 0)), id, block,
        usual + strlen(more));
}

static void raw_send(struct bed *bed, struct buffer *buffer)
{
    memory_deliver(&bed->memory, buffer->bytes, buffer->size, 0);
    buffer_deinit(buffer);
    *buffer = (struct buffer){0};
    world_turn(&bed->world);
}

/* A connection whose peer has said all that it must before requests. */
static void raw_init(struct bed *bed, const struct script *script, uint32_t max_streams)
{
    struct connection_options options = usual_options;
    struct buffer hello = {0};

    *bed = (struct bed){.script = *script};
    options.max_streams = max_streams;
    bed_init_alone(bed, &options);
    buffer_append(&hello, CLIENT_MAGIC, strlen(CLIENT_MAGIC));
    raw(&hello, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    raw_send(bed, &hello);
    raw(&hello, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
    raw_send(bed, &hello);
    assert_int_equal(bed->established, 1);
}

/* What the connection has sent so far. */
struct sent {
    unsigned frames[256]; /* by type */
    unsigned resets[16];  /* by error code */
    uint32_t goaway_code;
};

static struct sent look(const struct bed *bed)
{
    const uint8_t *bytes = bed->memory.out.bytes;
    size_t size = bed->memory.out.size - bed->memory.kept;
    struct sent sent = {0};

    for (size_t at = 0; at + 9 <= size;) {
        const uint8_t *head = bytes + at, *payload = head + 9;
        size_t length = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];

        sent.frames[head[3]]++;
        if (head[3] == NGHTTP2_RST_STREAM)
            sent.resets[payload[3] & 15]++;
        if (head[3] == NGHTTP2_GOAWAY)
            sent.goaway_code = payload[7];
        at += 9 + length;
    }
    return sent;
}

/* Has the connection come to its end? Then whatever the peer sends does nothing any more. */
static bool has_ended(struct bed *bed)
{
    unsigned opened = bed->opened;
    struct buffer more = {0};

    if (bed->memory.closing)
        return true;
    raw_request(&more, INT32_MAX, true, "");
    raw_send(bed, &more);
    return bed->opened == opened && bed->stats.streams == 0;
}

static void assert_flooded(struct bed *bed)
{
    unsigned opened = bed->opened;

    assert_true(has_ended(bed));
    assert_int_equal(bed->opened, opened);
    if (!bed->memory.closing && bed->memory.accept > 0) {
        struct sent sent = look(bed);

        assert_int_equal(sent.frames[NGHTTP2_GOAWAY], 1);
        assert_int_equal(sent.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
        assert_true(bed->memory.shut);
        memory_end(&bed->memory, 0);
    }
    wait_closed(bed);
    assert_int_equal(bed->reason, CLOSE_FLOOD);
    bed_deinit(bed);
}

/* Nothing was held against the peer: a request is taken as ever. */
static void assert_lives(struct bed *bed, int32_t id)
{
    unsigned opened = bed->opened;
    struct buffer request = {0};

    raw_request(&request, id, true, "");
    raw_send(bed, &request);
    assert_int_equal(bed->opened, opened + 1);
    assert_int_equal(look(bed).frames[NGHTTP2_GOAWAY], 0);
    bed_deinit(bed);
}

static void test_rapid_reset(void **state)
{
    static const unsigned batches[] = {1, 10, 3000};
    const struct script script = {0};

    for (size_t i = 0; i < ELEMENTSOF(batches); i++) {
        for (unsigned blocked = 0; blocked < 2; blocked++) {
            struct buffer many = {0};
            struct bed bed;
            unsigned opened;

            raw_init(&bed, &script, 100);
            bed.memory.accept = blocked ? 0 : SIZE_MAX;
            for (int32_t id = 1; id < 6000; id += 2) {
                raw_request(&many, id, true, "");
                raw_number(&many, NGHTTP2_RST_STREAM, id, NGHTTP2_CANCEL);
                if ((unsigned)(id / 2) % batches[i] == batches[i] - 1)
                    raw_send(&bed, &many);
            }
            opened = bed.header_blocks; /* that is when a handler can start */
            assert_in_range(opened, GUARD_RESETS_BURST, 1000);
            assert_int_equal(bed.stats.streams, 0);
            assert_flooded(&bed);
        }
    }
}

static void pass(struct bed *bed, uint64_t ms)
{
    uint64_t start_ms = loop_now_ms(&bed->world.loop);

    while (loop_now_ms(&bed->world.loop) < start_ms + ms)
        world_sleep(&bed->world);
}

/* All calls of a busy client are given up at once, more than once. */
static void test_calls_that_lasted_may_be_reset(void **state)
{
    const struct script script = {0};
    struct buffer many = {0};
    struct bed bed;
    int32_t id = 1;

    raw_init(&bed, &script, 1000);
    for (unsigned round = 0; round < 3; round++) {
        int32_t first = id;

        for (; id < first + 2000; id += 2)
            raw_request(&many, id, false, "");
        raw_send(&bed, &many);
        assert_int_equal(bed.stats.streams, 1000);
        pass(&bed, (uint64_t)2 * GUARD_YOUNG_MS);
        for (; first < id; first += 2)
            raw_number(&many, NGHTTP2_RST_STREAM, first, NGHTTP2_CANCEL);
        raw_send(&bed, &many);
        assert_int_equal(bed.stats.streams, 0);
    }
    assert_lives(&bed, id);
}

/* Each call that is given up stands beside one that ends well. */
static void test_every_other_call_is_reset(void **state)
{
    const struct script script = {.message_size = 20, .limit = 20};
    struct buffer many = {0};
    struct bed bed;
    int32_t id = 1;

    raw_init(&bed, &script, 1000);
    for (unsigned i = 0; i < 1500; i++, id += 4) {
        raw_request(&many, id, true, "");
        raw_request(&many, id + 2, false, "");
        raw_number(&many, NGHTTP2_RST_STREAM, id + 2, NGHTTP2_CANCEL);
        raw_send(&bed, &many);
        world_turn(&bed.world);
        assert_int_equal(bed.end_count, 2 * (i + 1));
    }
    assert_lives(&bed, id);
}

enum made_by {
    MADE_BY_WINDOW_UPDATE,
    MADE_BY_SETTINGS,
    MADE_BY_LENGTH,
    MADE_BY_HEADER,
    MADE_BY_STOP,
    MADE_BY_TRAILERS,
    MADE_BY_MAX_STREAMS,
    MADE_BY_COUNT,
};

/* A request, and what makes the other side reset it. The error code of that. */
static uint32_t make_reset(struct buffer *buffer, enum made_by by, int32_t id)
{
    switch (by) {
    case MADE_BY_WINDOW_UPDATE:
        raw_request(buffer, id, true, "");
        raw_number(buffer, NGHTTP2_WINDOW_UPDATE, id, INT32_MAX);
        return NGHTTP2_FLOW_CONTROL_ERROR;
    case MADE_BY_SETTINGS:
        raw_setting(buffer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
        raw_request(buffer, id, true, "");
        raw_number(buffer, NGHTTP2_WINDOW_UPDATE, id, 1);
        raw_setting(buffer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
        return NGHTTP2_FLOW_CONTROL_ERROR;
    case MADE_BY_LENGTH:
        raw_request(buffer, id, false,
                    "\x0f\x0d\x01"
                    "3");
        raw(buffer, NGHTTP2_DATA, 0, id, "four", 4);
        return NGHTTP2_PROTOCOL_ERROR;
    case MADE_BY_HEADER:
        raw_request(buffer, id, true,
                    "\x10\x0a"
                    "connection\1x");
        return NGHTTP2_PROTOCOL_ERROR;
    case MADE_BY_STOP:
        raw_request(buffer, id, true, "\x10\4stop\1x");
        return NGHTTP2_INTERNAL_ERROR;
    case MADE_BY_TRAILERS: /* that are none: END_STREAM is missing */
        raw_request(buffer, id, false, "");
        raw(buffer, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, "\x10\1a\1b", 5);
        return NGHTTP2_PROTOCOL_ERROR;
    case MADE_BY_MAX_STREAMS:
    case MADE_BY_COUNT:
        break;
    }
    raw_request(buffer, id, true, "");
    return NGHTTP2_REFUSED_STREAM;
}

static void test_made_resets(void **state)
{
    for (unsigned by = 0; by < MADE_BY_COUNT; by++) {
        const struct script script = {0};
        unsigned max_streams = by == MADE_BY_MAX_STREAMS ? 10 : 100;
        struct buffer many = {0};
        uint32_t code = 0;
        struct bed bed;
        int32_t id = 1;

        raw_init(&bed, &script, max_streams);
        for (; bed.memory.try_writes < 5000 && look(&bed).frames[NGHTTP2_GOAWAY] == 0; id += 2) {
            assert_true(id < 2 * 2000);
            code = make_reset(&many, by, id);
            raw_send(&bed, &many);
        }
        /* The last that counts is not sent any more where it is known before. */
        assert_in_range(look(&bed).resets[code], GUARD_MADE_RESETS_BURST - 1, 500);
        assert_in_range(bed.opened, by == MADE_BY_MAX_STREAMS ? 10 : GUARD_MADE_RESETS_BURST,
                        by == MADE_BY_MAX_STREAMS ? 10 : 501);
        assert_flooded(&bed);
    }
}

/* One frame that makes all streams be reset: nghttp2 has queued that before it can be counted. */
static void test_made_resets_all_at_once(void **state)
{
    const struct script script = {0};
    struct buffer many = {0};
    struct bed bed;

    raw_init(&bed, &script, 1000);
    for (int32_t id = 1; id < 2 * 700; id += 2) {
        raw_request(&many, id, false, "");
        raw_number(&many, NGHTTP2_WINDOW_UPDATE, id, 1);
    }
    raw_setting(&many, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
    raw_send(&bed, &many);
    assert_int_equal(bed.opened, 700);
    assert_int_equal(bed.stats.streams, 0);
    assert_flooded(&bed);
}

/* With the socket blocked nothing is sent, but it counts all the same, as it does before the end of
 * a read. */
static void test_made_resets_while_blocked(void **state)
{
    static const enum made_by cases[] = {MADE_BY_WINDOW_UPDATE, MADE_BY_LENGTH, MADE_BY_HEADER,
                                         MADE_BY_STOP};

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        const struct script script = {0};
        struct buffer many = {0};
        struct bed bed;
        unsigned opened;

        raw_init(&bed, &script, 1000);
        bed.memory.accept = 0;
        for (int32_t id = 1; id < 2000; id += 2) {
            (void)make_reset(&many, cases[i], id);
            raw_send(&bed, &many);
        }
        opened = bed.opened;
        assert_in_range(opened, GUARD_MADE_RESETS_BURST, 501);
        assert_flooded(&bed);
    }
}

/* Resets that this side decides on, for whatever reason, are none of the peer's. */
static void test_own_resets_are_not_held_against_the_peer(void **state)
{
    const struct script scripts[] = {
        {0},                              /* the layer above resets, as at a deadline */
        {.message_size = 20, .limit = 0}, /* ends the call before the client does */
        {.refuse = true},                 /* has no room for it */
        {.message_size = 20, .limit = 20, .read_error = -EIO},
    };

    for (size_t i = 0; i < ELEMENTSOF(scripts); i++) {
        struct buffer many = {0};
        struct bed bed;
        int32_t id = 1;

        raw_init(&bed, &scripts[i], 100);
        for (; id < 2 * 1500; id += 2) {
            raw_request(&many, id, false, "");
            raw_send(&bed, &many);
            connection_each_stream(bed.connection, reset_stream);
            world_turn(&bed.world);
        }
        assert_int_equal(look(&bed).frames[NGHTTP2_RST_STREAM], 1500);
        bed.script.refuse = false;
        assert_lives(&bed, id);
    }
}

/* RFC 9113, 5.1.2: over the limit it is the stream that fails, also when the limit is known. */
static void test_streams_over_the_limit(void **state)
{
    const struct script script = {0};
    struct buffer many = {0};
    struct bed bed;
    int32_t id = 1;

    raw_init(&bed, &script, 10);
    for (; id < 2 * 13; id += 2)
        raw_request(&many, id, true, "");
    raw_send(&bed, &many);
    assert_int_equal(bed.opened, 10);
    assert_int_equal(look(&bed).resets[NGHTTP2_REFUSED_STREAM], 3);
    assert_int_equal(bed.refused, 3);
    /* The others go on, a place that becomes free can be taken, and only that. */
    raw_number(&many, NGHTTP2_RST_STREAM, 3, NGHTTP2_CANCEL);
    raw_request(&many, id, true, "");
    raw_request(&many, id + 2, true, "");
    raw_send(&bed, &many);
    assert_int_equal(bed.opened, 11);
    assert_int_equal(bed.stats.streams, 10);
    assert_int_equal(bed.refused, 4);
    raw_number(&many, NGHTTP2_RST_STREAM, 5, NGHTTP2_CANCEL);
    raw_send(&bed, &many);
    assert_lives(&bed, id + 4);
}

/* What is allocated now. */
static size_t heap_size(void)
{
#ifdef __SANITIZE_ADDRESS__
    size_t __sanitizer_get_current_allocated_bytes(void);

    return __sanitizer_get_current_allocated_bytes();
#else
    return mallinfo2().uordblks;
#endif
}

/* Answers that the peer does not read: what they hold is bounded, and then it is over. */
static void test_answers_that_wait(void **state)
{
    const struct script script = {0};

    for (unsigned i = 0; i < 4; i++) {
        uint8_t type = i % 2 ? NGHTTP2_PING : NGHTTP2_SETTINGS;
        unsigned batch = i / 2 ? 1000 : 1;
        struct buffer many = {0};
        size_t before, held = 0;
        unsigned sent = 0;
        struct bed bed;

        raw_init(&bed, &script, 100);
        bed.memory.accept = 0;
        raw(&many, type, 0, 0, "12345678", type == NGHTTP2_PING ? 8 : 0);
        raw_send(&bed, &many); /* this answer is in the transport, which is blocked from now on */
        before = heap_size();
        for (; sent < 1000 && !bed.memory.closing; sent += batch) {
            for (unsigned k = 0; k < batch; k++)
                raw(&many, type, 0, 0, "12345678", type == NGHTTP2_PING ? 8 : 0);
            raw_send(&bed, &many);
            if (!bed.memory.closing)
                held = heap_size() - before;
        }
        assert_true(batch > 1 || sent == 101);
        assert_in_range(held, batch == 1 ? 1000 : 0, 17 * 1024);
        assert_flooded(&bed);
    }
}

static void test_many_settings(void **state)
{
    for (size_t count = 32; count <= 33; count++) {
        const struct script script = {0};
        uint8_t entries[33 * 6] = {0};
        struct buffer frame = {0};
        struct bed bed;

        for (size_t i = 0; i < count; i++)
            entries[6 * i] = 0xee; /* means nothing to anybody */
        raw_init(&bed, &script, 100);
        raw(&frame, NGHTTP2_SETTINGS, 0, 0, entries, 6 * count);
        raw_send(&bed, &frame);
        if (count == 32)
            assert_lives(&bed, 1);
        else
            assert_flooded(&bed);
    }
}

static void test_empty_data(void **state)
{
    const struct script script = {0};

    /* Without and with padding; on one stream, and in turns on ten. */
    for (unsigned i = 0; i < 4; i++) {
        uint8_t flags = i % 2 ? NGHTTP2_FLAG_PADDED : 0;
        unsigned streams = i / 2 ? 10 : 1;
        struct buffer frames = {0};
        struct bed bed;

        raw_init(&bed, &script, 100);
        for (unsigned k = 0; k < streams; k++)
            raw_request(&frames, (int32_t)(1 + 2 * k), false, "");
        for (unsigned round = 0; round < 3; round++) {
            for (unsigned k = 0; k < 10; k++) {
                raw(&frames, NGHTTP2_DATA, flags, (int32_t)(1 + 2 * (k % streams)), "\2\0\0",
                    flags ? 3 : 0);
                raw(&frames, NGHTTP2_PING, 0, 0, "12345678", 8); /* changes nothing */
            }
            if (round < 2)
                raw(&frames, NGHTTP2_DATA, 0, 1, "x", 1);
        }
        raw_send(&bed, &frames);
        assert_int_equal(bed.received, 2);
        assert_int_equal(bed.stats.streams, streams);
        raw(&frames, NGHTTP2_DATA, flags, 1, "\2\0\0", flags ? 3 : 0);
        raw_send(&bed, &frames);
        assert_flooded(&bed);
    }
}

/* An empty frame that ends a stream is how calls end. */
static void test_empty_ends(void **state)
{
    const struct script script = {.message_size = 20, .limit = 20};
    struct buffer frames = {0};
    struct bed bed;
    int32_t id = 1;

    raw_init(&bed, &script, 100);
    for (; id < 100; id += 2)
        raw_request(&frames, id, false, "");
    for (id = 1; id < 100; id += 2)
        raw(&frames, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, id, NULL, 0);
    raw_send(&bed, &frames);
    assert_lives(&bed, id);
}

static void test_window_update_flood(void **state)
{
    const struct script script = {0};

    for (int32_t id = 0; id < 2; id++) {
        struct buffer frames = {0};
        struct bed bed;

        raw_init(&bed, &script, 100);
        raw_request(&frames, 1, true, "");
        raw_request(&frames, 3, true, "");
        for (unsigned i = 0; i < 5 + 2 * 2; i++)
            raw_number(&frames, NGHTTP2_WINDOW_UPDATE, id, 1);
        raw_send(&bed, &frames);
        assert_int_equal(bed.stats.streams, 2);
        raw_number(&frames, NGHTTP2_WINDOW_UPDATE, id, 1);
        raw_send(&bed, &frames);
        assert_flooded(&bed);
    }
}

/*
 * A slow client with a window of one full frame, which holds 140 messages, and which gives credit
 * back for each of them, on the stream and on the connection.
 */
static void test_credit_for_each_message(void **state)
{
    const size_t message_size = 117, messages = 140;
    const nghttp2_settings_entry window = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                           (uint32_t)(message_size * messages)};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &window, .settings_count = 1};
    const struct script script = {.message_size = message_size, .limit = UINT64_MAX};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    stream = get(&bed);
    settle(&bed);
    for (unsigned round = 1; round <= 100; round++) {
        assert_int_equal(stream->data.size, round * message_size * messages);
        assert_int_equal(stream->data_frames, round);
        for (size_t i = 0; i < messages; i++) {
            peer_grant(&bed.peer, stream, (int32_t)message_size);
            peer_grant(&bed.peer, NULL, (int32_t)message_size);
        }
        settle(&bed);
    }
    assert_int_equal(bed.stats.window_updates_stream_total, 100 * messages);
    assert_int_equal(bed.peer.goaways, 0);
    bed_deinit(&bed);
}

static void test_idle_frame_flood(void **state)
{
    const struct {
        uint8_t type, flags;
        int32_t id;
        size_t size;
    } cases[] = {
        {NGHTTP2_PRIORITY, 0, 5, 5},            /* of a stream that may come */
        {NGHTTP2_PRIORITY, 0, 1, 5},            /* of one that is gone */
        {0x10, 0, 0, 6},                        /* PRIORITY_UPDATE */
        {0x0a, 0, 0, 4},                        /* ALTSVC */
        {0xfa, 0xff, 1, 0},                     /* unknown */
        {0xfa, 0xff, 0, 100},                   /* unknown, with something in it */
        {NGHTTP2_GOAWAY, 0, 0, 8},              /* again and again */
        {NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, 8}, /* of what was not asked */
        {NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, 0}, /* too late */
    };
    const struct script script = {0};
    static const uint8_t payload[100];

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct buffer frames = {0};
        struct bed bed;

        raw_init(&bed, &script, 100);
        raw_request(&frames, 1, false, "");
        raw_request(&frames, 3, false, "");
        raw_number(&frames, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
        raw_send(&bed, &frames);
        assert_int_equal(bed.opened, 2);
        for (unsigned k = 0; k < 300; k++)
            raw(&frames, cases[i].type, cases[i].flags, cases[i].id, payload, cases[i].size);
        raw_send(&bed, &frames);
        assert_int_equal(look(&bed).frames[NGHTTP2_GOAWAY], 0);
        assert_int_equal(bed.stats.streams, 1);
        raw(&frames, cases[i].type, cases[i].flags, cases[i].id, payload, cases[i].size);
        raw_send(&bed, &frames);
        assert_flooded(&bed);
    }
}

/* An answer to a PING that this side has sent was asked for, and one more may come. */
static void test_an_answer_that_was_asked_for(void **state)
{
    const struct script script = {0};
    struct buffer frames = {0};
    struct bed bed;

    raw_init(&bed, &script, 100);
    raw_request(&frames, 1, false, "");
    raw(&frames, NGHTTP2_PING, 0, 0, "12345678", 8);
    for (unsigned i = 0; i < 200; i++)
        raw(&frames, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, "12345678", 8);
    raw_send(&bed, &frames);
    assert_int_equal(bed.stats.pings_received_total, 1);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    world_turn(&bed.world);
    assert_int_equal(look(&bed).frames[NGHTTP2_PING], 2); /* our answer, and the drain's */
    raw(&frames, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, "12345678", 8);
    raw_send(&bed, &frames);
    assert_int_equal(look(&bed).goaway_code, NGHTTP2_NO_ERROR);
    assert_int_equal(bed.stats.streams, 1);
    raw(&frames, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, "12345678", 8);
    raw_send(&bed, &frames);
    assert_int_equal(look(&bed).goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(bed.stats.streams, 0);
    bed_deinit(&bed);
}

/* Few bytes that stand for many fields: nothing is told of them once the layer above has enough,
 * and no row of frames goes on for ever. */
static void test_header_bomb(void **state)
{
    const struct script script = {0};
    struct buffer frames = {0};
    uint8_t block[16384];
    struct bed bed;

    memset(block, 0xbe, sizeof(block)); /* the newest entry of the table, again and again */
    memcpy(block, "\x83\x86\x04\4/s/m\x40\4stop\1x", 16);
    raw_init(&bed, &script, 100);
    raw(&frames, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 1, block, sizeof(block));
    for (unsigned i = 0; i < 8; i++) {
        memset(block, 0xbe, sizeof(block));
        raw(&frames, NGHTTP2_CONTINUATION, i == 7 ? NGHTTP2_FLAG_END_HEADERS : 0, 1, block,
            sizeof(block));
    }
    raw_send(&bed, &frames);
    assert_int_equal(bed.stops, 1); /* of 147,000 */
    assert_int_equal(look(&bed).resets[NGHTTP2_INTERNAL_ERROR], 1);
    assert_int_equal(bed.header_blocks, 0);

    /* The table is what it should be, and one more frame is too many. */
    raw_request(&frames, 3, true, "\xbe");
    raw_send(&bed, &frames);
    assert_int_equal(bed.stops, 2);
    raw(&frames, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 5, "\x83\x86", 2);
    for (unsigned i = 0; i < 9; i++)
        raw(&frames, NGHTTP2_CONTINUATION, 0, 5, NULL, 0);
    raw_send(&bed, &frames);
    assert_true(has_ended(&bed));
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_FLOOD);
    bed_deinit(&bed);
}

/* Requests whose answers nobody reads: what waits has a bound. */
static void test_queue_flood(void **state)
{
    const struct script script = {.refuse = true};
    struct buffer request = {0};
    struct bed bed;

    raw_init(&bed, &script, 100);
    bed.memory.accept = 0;
    for (int32_t id = 1; id < 2 * 3000 && !bed.memory.closing; id += 2) {
        raw_request(&request, id, true, "");
        raw_send(&bed, &request);
    }
    assert_true(bed.memory.closing);
    assert_flooded(&bed);
}

/* ---- From inside callbacks ---- */

static void run_busy_scenario(struct bed *bed)
{
    struct peer_stream *streams[3];

    for (unsigned i = 0; i < ELEMENTSOF(streams); i++) {
        streams[i] = peer_request(&bed->peer, "/s/m", NULL, 0, true);
        peer_upload(&bed->peer, streams[i], "0123456789", 10, i > 0);
    }
    bed->memory.accept = 700;
    bed->memory.release_now = true;
    settle(bed);
    bed->memory.accept = SIZE_MAX;
    for (unsigned i = 0; i < 3 && bed->connection; i++) {
        if (bed->memory.closing)
            break;
        if (bed->act_in == IN_EACH)
            connection_each_stream(bed->connection, reset_stream);
        peer_upload(&bed->peer, streams[0], "0123456789", 10, false);
        settle(bed);
    }
    if (!bed->memory.closing)
        assert_int_equal(nghttp2_submit_goaway(bed->peer.session, 0, 0, 0, NULL, 0), 0);
    settle(bed);
}

static void each_closes(struct stream *stream)
{
    enter(from_stream(stream)->bed, IN_EACH);
}

static void test_actions_in_callbacks(void **state)
{
    const struct peer_options peer = {.hold_credit = true};

    for (unsigned in = IN_OPEN; in < CALLBACK_COUNT; in++) {
        for (unsigned action = 0; action < ACTION_COUNT; action++) {
            for (unsigned at = 0; at < 3; at++) {
                const struct script script = {.message_size = 100,
                                              .limit = at == 1 ? 1000 : UINT64_MAX,
                                              .two_accounts = true};
                struct bed bed;
                bool acted;

                bed_init(&bed, &script, &peer);
                bed.act_in = in;
                bed.act_at = in == IN_ESTABLISHED || in == IN_GOAWAY ? 0
                             : in == IN_HALF_CLOSE                   ? at / 2
                                                                     : at;
                bed.action = action;
                if (in == IN_EACH) {
                    (void)get(&bed);
                    (void)get(&bed);
                    (void)get(&bed);
                    settle(&bed);
                    connection_each_stream(bed.connection, each_closes);
                }
                run_busy_scenario(&bed);
                if (in != IN_CLOSE && (at == 0 || in != IN_EACH))
                    assert_true(bed.acted);
                acted = bed.acted;
                bed_deinit(&bed);
                if (acted && action == DO_CLOSE) {
                    assert_int_equal(bed.reason, CLOSE_LOCAL);
                    assert_string_equal(bed.detail, "from a callback");
                }
            }
        }
    }
}

/* ---- The client's side ---- */

static const struct header request_headers[] = {
    {":method", 7, "POST", 4},
    {":scheme", 7, "http", 4},
    {":path", 5, "/s/m", 4},
    {":authority", 10, "x", 1},
};

/* The request is a body of `limit` bytes. */
static struct item *client_request(struct bed *bed)
{
    struct item *item = item_new(bed);
    int r;

    r = stream_request(bed->connection, &item->stream, request_headers,
                       ELEMENTSOF(request_headers));
    assert_int_equal(r, 0);
    item->position = 0;
    return item;
}

static void answer_request(struct bed *bed)
{
    struct peer_stream *stream = LIST_FIRST(&bed->peer.streams);

    assert_non_null(stream);
    peer_respond(&bed->peer, stream);
    peer_upload(&bed->peer, stream, "an answer", 9, true);
}

static const struct peer_options server_peer = {.server = true};

static void test_client(void **state)
{
    const struct script script = {.message_size = 10, .limit = 30};
    static const size_t splits[] = {0, 1, 5};

    for (size_t i = 0; i < ELEMENTSOF(splits); i++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &script, &server_peer);
        bed.peer.split = splits[i];
        (void)client_request(&bed);
        assert_int_equal(bed.stats.streams, 1);
        settle(&bed);
        assert_int_equal(bed.established, 1);
        stream = LIST_FIRST(&bed.peer.streams);
        assert_string_equal(peer_field(stream, ":path"), "/s/m");
        assert_int_equal(stream->data.size, 30);
        assert_true(stream->ended); /* by END_STREAM, not by trailers */
        assert_int_equal(stream->blocks, 1);
        assert_int_equal(bed.accounts[0].accepted, 3);
        assert_int_equal(bed.end_count, 0);
        answer_request(&bed);
        settle(&bed);
        assert_int_equal(bed.received, 9);
        assert_int_equal(bed.header_blocks, 2);
        assert_int_equal(bed.half_closes, 1);
        assert_int_equal(bed.end_count, 1);
        assert_int_equal(bed.ends[0].code, 0);
        bed_deinit(&bed);
    }
}

static void test_client_refused_and_reset(void **state)
{
    const struct script script = {.message_size = 10, .limit = 30};
    struct bed bed;

    bed_init(&bed, &script, &server_peer);
    (void)client_request(&bed);
    settle(&bed);
    peer_reset(&bed.peer, LIST_FIRST(&bed.peer.streams), NGHTTP2_REFUSED_STREAM);
    settle(&bed);
    assert_int_equal(bed.end_count, 1);
    assert_int_equal(bed.ends[0].code, NGHTTP2_REFUSED_STREAM);
    assert_false(bed.ends[0].local);

    (void)client_request(&bed);
    settle(&bed);
    stream_reset(&bed.items->stream, NGHTTP2_CANCEL);
    settle(&bed);
    assert_int_equal(LIST_FIRST(&bed.peer.streams)->reset_code, NGHTTP2_CANCEL);
    assert_true(bed.ends[1].local);

    /* Reset before its headers left. */
    stream_reset(&client_request(&bed)->stream, NGHTTP2_CANCEL);
    settle(&bed);
    assert_int_equal(bed.end_count, 3);
    assert_true(bed.ends[2].local);
    bed_deinit(&bed);
}

static void test_client_goaway(void **state)
{
    const struct script script = {.message_size = 10, .limit = 30};
    struct item *item;
    struct bed bed;

    bed_init(&bed, &script, &server_peer);
    (void)client_request(&bed);
    settle(&bed);
    (void)client_request(&bed); /* crosses the GOAWAY */
    assert_int_equal(nghttp2_submit_goaway(bed.peer.session, 0, 1, NGHTTP2_ENHANCE_YOUR_CALM,
                                           (const uint8_t *)"too_many_pings", 14),
                     0);
    settle(&bed);
    assert_int_equal(bed.goaways, 1);
    assert_int_equal(bed.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(bed.goaway_last, 1);
    assert_int_equal(bed.end_count, 1);
    assert_int_equal(bed.ends[0].id, 3);
    assert_int_equal(bed.ends[0].code, NGHTTP2_REFUSED_STREAM);

    item = calloc(1, sizeof(*item));
    assert_non_null(item);
    assert_int_equal(stream_request(bed.connection, &item->stream, request_headers, 4), 1);
    free(item);

    /* The one that the peer took is answered, and then the connection ends by itself. */
    while (LIST_FIRST(&bed.peer.streams)->id != 1) {
        struct peer_stream *refused = LIST_FIRST(&bed.peer.streams);

        LIST_REMOVE(refused, link);
        buffer_deinit(&refused->headers);
        buffer_deinit(&refused->data);
        free(refused);
    }
    answer_request(&bed);
    settle(&bed);
    assert_int_equal(bed.end_count, 2);
    assert_int_equal(bed.ends[1].code, 0);
    assert_true(bed.memory.shut);
    memory_end(&bed.memory, 0);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_PEER);
    bed_deinit(&bed);
}

/* A request that waits for the connection to be usable is not blocked by a window it has not got.
 */
static void test_client_request_before_settings(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1000};
    const struct peer_options peer = {.server = true, .settings = &settings, .settings_count = 1};
    const struct script script = {.message_size = 10, .limit = 30, .stay_open = true};
    struct item *item;
    struct bed bed;

    bed_init(&bed, &script, &peer);
    bed.memory.accept = 0;
    world_turn(&bed.world); /* the preface hangs */
    item = client_request(&bed);
    (void)peer_pump(&bed.peer);
    assert_int_equal(bed.established, 1);
    assert_int_equal(item->stream.lack, 0);
    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    settle(&bed);
    assert_int_equal(LIST_FIRST(&bed.peer.streams)->data.size, 30);
    bed_deinit(&bed);
}

static void test_client_gets_http1(void **state)
{
    static const char answer[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    const struct script script = {.message_size = 10, .limit = 30};
    struct bed bed;

    bed_init(&bed, &script, &server_peer);
    (void)client_request(&bed);
    world_turn(&bed.world);
    memory_deliver(&bed.memory, answer, strlen(answer), 0);
    world_turn(&bed.world);
    memory_end(&bed.memory, 0);
    wait_closed(&bed);
    assert_int_not_equal(bed.reason, CLOSE_PEER);
    assert_int_equal(bed.ends[0].code, STREAM_CONNECTION_LOST);
    bed_deinit(&bed);
}

/* ---- Both roles, one against the other ---- */

static void test_connection_to_connection(void **state)
{
    struct connection_options options = usual_options;
    struct bed server = {.script = {.message_size = 50, .limit = 200000}};
    struct bed client = {.client = true, .script = {.message_size = 10, .limit = 30}};

    /* One loop for both: the client's bed runs on the server's. */
    bed_init_alone(&server, &options);
    client.accounts[0].bed = &client;
    client.ops = test_ops;
    client.stats.loop = &server.world.loop;
    memory_init(&client.memory, &server.world);
    options.client = true;
    options.loop = &server.world.loop;
    options.stats = &client.stats;
    options.ops = &client.ops;
    options.context = &client;
    assert_int_equal(connection_new(&client.connection, &client.memory.transport, "x", &options),
                     0);
    memory_connect(&client.memory, &server.memory);
    for (unsigned i = 0; i < 20; i++)
        (void)client_request(&client);
    for (unsigned quiet = 0; quiet < 4; quiet++) {
        world_turn(&server.world);
        if (memory_pump_pipe(&client.memory, 1000) > 0)
            quiet = 0;
    }
    assert_int_equal(server.end_count, 20);
    assert_int_equal(client.end_count, 20);
    assert_int_equal(client.received, 20 * 200000);
    assert_int_equal(server.received, 20 * 30);
    assert_int_equal(server.accounts[0].accepted, 20 * 4000);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(client.ends[i].code, 0);
    connection_drain(client.connection, CLOSE_LOCAL);
    for (unsigned i = 0; i < 5; i++) {
        world_turn(&server.world);
        (void)memory_pump_pipe(&client.memory, 0);
    }
    assert_true(client.memory.shut && server.memory.shut);
    memory_end(&client.memory, 0);
    memory_end(&server.memory, 0);
    world_turn(&server.world);
    assert_int_equal(client.reason, CLOSE_LOCAL);
    assert_int_equal(server.reason, CLOSE_PEER);
    assert_at_rest(&client.stats);
    memory_deinit(&client.memory);
    bed_deinit(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshake),
        cmocka_unit_test(test_windows_are_announced),
        cmocka_unit_test(test_a_request_and_its_answer),
        cmocka_unit_test(test_trailers_before_half_close),
        cmocka_unit_test(test_request_trailers),
        cmocka_unit_test(test_a_header_that_stops_decoding),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_preface_timeout),
        cmocka_unit_test(test_no_timeout_once_established),
        cmocka_unit_test(test_bad_preface),
        cmocka_unit_test(test_first_frame_is_not_settings),
        cmocka_unit_test(test_http1_is_answered),
        cmocka_unit_test(test_linger_ends),
        cmocka_unit_test(test_one_write_in_flight),
        cmocka_unit_test(test_room_bounds_a_batch),
        cmocka_unit_test(test_short_write_at_every_offset),
        cmocka_unit_test(test_short_write_in_large_batches),
        cmocka_unit_test(test_transport_errors),
        cmocka_unit_test(test_transport_does_not_start),
        cmocka_unit_test(test_blocked_by_stream_window),
        cmocka_unit_test(test_blocked_by_connection_window),
        cmocka_unit_test(test_blocked_by_socket),
        cmocka_unit_test(test_unsent_bytes),
        cmocka_unit_test(test_idle_is_not_blocked),
        cmocka_unit_test(test_fairness),
        cmocka_unit_test(test_a_turn_is_one_batch),
        cmocka_unit_test(test_credit_only_by_consume),
        cmocka_unit_test(test_credit_flush),
        cmocka_unit_test(test_credit_flush_is_no_flood),
        cmocka_unit_test(test_credit_after_reset),
        cmocka_unit_test(test_peer_resets),
        cmocka_unit_test(test_peer_goes),
        cmocka_unit_test(test_local_reset),
        cmocka_unit_test(test_read_error_resets),
        cmocka_unit_test(test_header_list_of_the_peer),
        cmocka_unit_test(test_goaway_reasons),
        cmocka_unit_test(test_ping_flood),
        cmocka_unit_test(test_queue_flood),
        cmocka_unit_test(test_rapid_reset),
        cmocka_unit_test(test_calls_that_lasted_may_be_reset),
        cmocka_unit_test(test_every_other_call_is_reset),
        cmocka_unit_test(test_made_resets),
        cmocka_unit_test(test_made_resets_all_at_once),
        cmocka_unit_test(test_made_resets_while_blocked),
        cmocka_unit_test(test_own_resets_are_not_held_against_the_peer),
        cmocka_unit_test(test_streams_over_the_limit),
        cmocka_unit_test(test_answers_that_wait),
        cmocka_unit_test(test_many_settings),
        cmocka_unit_test(test_empty_data),
        cmocka_unit_test(test_empty_ends),
        cmocka_unit_test(test_window_update_flood),
        cmocka_unit_test(test_credit_for_each_message),
        cmocka_unit_test(test_idle_frame_flood),
        cmocka_unit_test(test_an_answer_that_was_asked_for),
        cmocka_unit_test(test_header_bomb),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_drain_before_the_preface),
        cmocka_unit_test(test_drain_while_writing),
        cmocka_unit_test(test_actions_in_callbacks),
        cmocka_unit_test(test_client),
        cmocka_unit_test(test_client_refused_and_reset),
        cmocka_unit_test(test_client_goaway),
        cmocka_unit_test(test_client_request_before_settings),
        cmocka_unit_test(test_client_gets_http1),
        cmocka_unit_test(test_connection_to_connection),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
