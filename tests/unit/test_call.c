/*
 * Calls of all four kinds over a connection in memory: what a client sees of them on the wire, and
 * what they hold while it does not read.
 */
#include "rpc/call.h"

#include "base/util.h"
#include "memory.h"
#include "rpc/compression.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MAX_MESSAGE_BYTES 10000
#define MAX_HEADER_BYTES 1000
#define PULL_SIZE 40

/* What the handlers saw. */
static struct {
    unsigned begins;
    unsigned messages;
    unsigned half_closes;
    unsigned ends;
    enum wire_status status; /* of the last end */
    struct call *call;       /* the last one that began */
    uint64_t received;       /* bytes of messages */
    size_t longest;
    unsigned compressed; /* messages */
    int gzip;            /* of the last call_use_gzip() */
    unsigned rooms;
    bool rooms_unused;
    uint64_t input_bytes; /* of the server, the most while a handler had a message */
    unsigned pulls;       /* of whole_pull() */
    uint64_t pull_due_ms; /* what pull_pull() says */
    uint64_t send_due_ns; /* what zip_message() says of its messages */
} seen;

static const struct call_server *seen_server;

struct handler {
    uint64_t sum;
    unsigned pulled;
    unsigned count;
    uint8_t size;
    char mode;
};

static void send_bytes(struct call *call, const void *bytes, size_t size)
{
    struct message *message = message_new((uint32_t)size);

    assert_non_null(message);
    if (size > 0)
        memcpy(message_body(message), bytes, size);
    /* Full: dropped, which a test sees. */
    (void)call_send(call, message);
    message_unref(message);
}

static void handler_begin(struct call *call)
{
    struct handler *handler = calloc(1, sizeof(*handler));

    assert_non_null(handler);
    call_set_data(call, handler);
    seen.begins++;
    seen.call = call;
}

static void on_end(struct call *call, enum wire_status status)
{
    struct message *message = message_new(0);

    seen.ends++;
    seen.status = status;
    free(call_data(call));
    seen.call = NULL;
    /* All of it is too late, and harmless. */
    assert_int_equal(call_send(call, message), 1);
    message_unref(message);
    call_resume(call);
    call_finish(call, WIRE_OK, "late");
    call_shutdown(call, WIRE_OK, "late");
}

/* Unary: the request is the answer; its metadata come back as headers and as trailers. */
static void echo_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct header header;

    handler_begin(call);
    for (size_t i = 0; call_metadata(call, i, &header); i++) {
        struct header renamed = header;

        assert_int_equal(call_add_header(call, &header), 0);
        renamed.name = "trailer-bin";
        renamed.name_length =
            header.name_length >= 4 && memcmp(header.name + header.name_length - 4, "-bin", 4) == 0
                ? 11
                : 7;
        assert_int_equal(call_add_trailer(call, &renamed), 0);
    }
    send_bytes(call, request, size);
    call_finish(call, WIRE_OK, NULL);
    assert_int_equal(call_add_header(call, &header), 1);
}

/* Unary: "<status> <text>" is how it ends, with no message. */
static void status_begin(struct call *call, const uint8_t *request, size_t size)
{
    handler_begin(call);
    char text[2000];

    assert_true(size > 1 && size < sizeof(text));
    memcpy(text, request, size);
    text[size] = 0;
    call_finish(call, (enum wire_status)(request[0] - 'A'), text + 1);
}

/* Unary: never ends by itself. */
static void idle_begin(struct call *call, const uint8_t *request, size_t size)
{
    handler_begin(call);
}

static void sum_begin(struct call *call, const uint8_t *request, size_t size)
{
    assert_null(request);
    handler_begin(call);
}

static void sum_message(struct call *call, const uint8_t *message, size_t size)
{
    struct handler *handler = call_data(call);

    assert_non_null(message); /* also of an empty one that came compressed */
    seen.messages++;
    seen.received += size;
    seen.longest = MAX(seen.longest, size);
    seen.compressed += call_was_compressed(call);
    seen.input_bytes = MAX(seen.input_bytes, seen_server->input_bytes);
    for (size_t i = 0; i < size; i++)
        handler->sum += message[i];
}

static void sum_half_close(struct call *call)
{
    struct handler *handler = call_data(call);
    char text[32];

    seen.half_closes++;
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)handler->sum);
    send_bytes(call, text, strlen(text));
    call_finish(call, WIRE_OK, NULL);
}

/* Server stream: as many messages of 1000 bytes as the queue takes, then the end. */
static void many_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct message *message = message_new(1000);
    struct handler *handler;

    handler_begin(call);
    handler = call_data(call);
    memset(message_body(message), 'm', 1000);
    while (handler->count < 1000 && call_send(call, message) == 0)
        handler->count++;
    message_unref(message);
    seen.messages = handler->count;
    if (size == 0)
        call_finish(call, WIRE_OK, "that was all");
}

/*
 * Server stream by pull: messages of a size, so many of them, and how it ends: 'l' with the last
 * message, 'a' asked for one more, 'n' never; 'x' is 'l' by call_abort(). A fourth byte wants gzip.
 */
static void pull_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct handler *handler;

    assert_in_range(size, 3, 4);
    handler_begin(call);
    if (size == 4)
        seen.gzip = call_use_gzip(call);
    handler = call_data(call);
    handler->size = request[0];
    handler->count = request[1];
    handler->mode = (char)request[2];
    call_resume(call);
}

static size_t pull_pull(struct call *call, uint8_t *bytes, size_t size, struct pull *pull)
{
    struct handler *handler = call_data(call);
    size_t used = 0;
    unsigned count = 0;

    assert_true(size >= PULL_SIZE);
    if (handler->pulled == handler->count && handler->mode == 'a')
        call_finish(call, WIRE_OUT_OF_RANGE, "no more");
    while (handler->pulled < handler->count && count < pull->messages &&
           size - used >= (size_t)handler->size + 5) {
        wire_prefix_write(bytes + used, handler->size);
        memset(bytes + used + 5, 'a' + (int)(handler->pulled % 26), handler->size);
        used += handler->size + 5U;
        handler->pulled++;
        count++;
    }
    pull->messages = count;
    pull->due_ms = seen.pull_due_ms;
    pull->more = handler->pulled < handler->count || handler->mode == 'a';
    if (count > 0 && handler->pulled == handler->count && handler->mode == 'l')
        call_finish(call, WIRE_OUT_OF_RANGE, "no more");
    if (count > 0 && handler->pulled == handler->count && handler->mode == 'x')
        call_abort(call, WIRE_OUT_OF_RANGE, "no more");
    return used;
}

/* The same with messages that are not cut: one that has no room waits. */
static size_t whole_pull(struct call *call, uint8_t *bytes, size_t size, struct pull *pull)
{
    struct handler *handler = call_data(call);
    size_t length = handler->size + WIRE_PREFIX_SIZE;
    size_t used = 0;
    unsigned count = 0;

    seen.pulls++;
    assert_true(size > 0);
    for (; handler->pulled < handler->count && count < pull->messages; count++) {
        if (size - used < length) {
            pull->needed = (uint16_t)length;
            break;
        }
        wire_prefix_write(bytes + used, handler->size);
        memset(bytes + used + WIRE_PREFIX_SIZE, 'a' + (int)(handler->pulled % 26), handler->size);
        used += length;
        handler->pulled++;
    }
    pull->messages = count;
    pull->more = handler->pulled < handler->count;
    if (!pull->more && handler->mode == 'l')
        call_finish(call, WIRE_OUT_OF_RANGE, "no more");
    return used;
}

/* Bidi: each message is its own answer, but for some, which are orders. */
static void chat_message(struct call *call, const uint8_t *message, size_t size)
{
    seen.messages++;
    seen.received += size;
    if (size == 1 && message[0] == 'F')
        call_finish(call, WIRE_ABORTED, "finished");
    else if (size == 1 && message[0] == 'A')
        call_abort(call, WIRE_RESOURCE_EXHAUSTED, "aborted");
    else
        send_bytes(call, message, size);
}

static void chat_half_close(struct call *call)
{
    seen.half_closes++;
    call_finish(call, WIRE_OK, NULL);
}

/* Bidi: as Chat, compressed where the client takes it, but for what begins with a 'P'. */
static void zip_begin(struct call *call, const uint8_t *request, size_t size)
{
    handler_begin(call);
    seen.gzip = call_use_gzip(call);
}

static void zip_message(struct call *call, const uint8_t *bytes, size_t size)
{
    struct message *message = message_new((uint32_t)size);

    seen.messages++;
    seen.received += size;
    seen.compressed += call_was_compressed(call);
    assert_non_null(bytes);
    assert_non_null(message);
    memcpy(message_body(message), bytes, size);
    message->due_ns = seen.send_due_ns;
    if (size > 0 && bytes[0] == 'P')
        (void)call_send_plain(call, message);
    else
        (void)call_send(call, message);
    message_unref(message);
}

/* Unary, the same. */
static void zip_echo_begin(struct call *call, const uint8_t *request, size_t size)
{
    zip_begin(call, request, size);
    zip_message(call, request, size);
    assert_int_equal(call_use_gzip(call), 1); /* too late */
    call_finish(call, WIRE_OK, NULL);
}

/* Server stream: so many messages of so many KiB, as the queue takes them. */
static void room_fill(struct call *call)
{
    struct handler *handler = call_data(call);

    while (handler->pulled < handler->count) {
        struct message *message = message_new(handler->size * 1024U);
        int r;

        assert_non_null(message);
        memset(message_body(message), 'a' + (int)(handler->pulled % 26), handler->size * 1024U);
        r = call_send(call, message);
        message_unref(message);
        if (r != 0)
            return;
        handler->pulled++;
    }
    call_finish(call, WIRE_OK, NULL);
}

static void room_room(struct call *call)
{
    seen.rooms++;
    if (!seen.rooms_unused)
        room_fill(call);
}

static void room_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct handler *handler;

    assert_int_equal(size, 2);
    handler_begin(call);
    handler = call_data(call);
    handler->count = request[0];
    handler->size = request[1];
    room_fill(call);
}

static struct method_stats stats[11];
static const struct method methods[] = {
    {.service = "t.T",
     .name = "Echo",
     .type = METHOD_UNARY,
     .begin = echo_begin,
     .end = on_end,
     .stats = &stats[0]},
    {.service = "t.T",
     .name = "Status",
     .type = METHOD_UNARY,
     .begin = status_begin,
     .end = on_end,
     .stats = &stats[1]},
    {.service = "t.T",
     .name = "Idle",
     .type = METHOD_UNARY,
     .begin = idle_begin,
     .end = on_end,
     .stats = &stats[2]},
    {.service = "t.T",
     .name = "Sum",
     .type = METHOD_CLIENT_STREAM,
     .begin = sum_begin,
     .message = sum_message,
     .half_close = sum_half_close,
     .end = on_end,
     .stats = &stats[3]},
    {.service = "t.T",
     .name = "Many",
     .type = METHOD_SERVER_STREAM,
     .begin = many_begin,
     .end = on_end,
     .stats = &stats[4]},
    {.service = "t.T",
     .name = "Pull",
     .type = METHOD_SERVER_STREAM,
     .begin = pull_begin,
     .pull = pull_pull,
     .pull_size_max = PULL_SIZE,
     .end = on_end,
     .stats = &stats[5]},
    {.service = "t.T",
     .name = "Chat",
     .type = METHOD_BIDI_STREAM,
     .begin = sum_begin,
     .message = chat_message,
     .half_close = chat_half_close,
     .end = on_end,
     .stats = &stats[6]},
    {.service = "t.T",
     .name = "Zip",
     .type = METHOD_BIDI_STREAM,
     .begin = zip_begin,
     .message = zip_message,
     .half_close = chat_half_close,
     .end = on_end,
     .stats = &stats[7]},
    {.service = "t.T",
     .name = "ZipEcho",
     .type = METHOD_UNARY,
     .begin = zip_echo_begin,
     .end = on_end,
     .stats = &stats[8]},
    {.service = "t.T",
     .name = "Room",
     .type = METHOD_SERVER_STREAM,
     .begin = room_begin,
     .room = room_room,
     .end = on_end,
     .stats = &stats[9]},
    {.service = "t.T",
     .name = "Whole",
     .type = METHOD_SERVER_STREAM,
     .begin = pull_begin,
     .pull = whole_pull,
     .pull_size_max = PULL_SIZE,
     .whole_messages = true,
     .end = on_end,
     .stats = &stats[10]},
};
static const struct method *const method_pointers[] = {
    &methods[0], &methods[1], &methods[2], &methods[3], &methods[4],  &methods[5],
    &methods[6], &methods[7], &methods[8], &methods[9], &methods[10],
};
#define STATS_OF_MANY (&stats[4])
#define STATS_OF_PULL (&stats[5])
#define STATS_OF_CHAT (&stats[6])
#define STATS_OF_ZIP (&stats[7])
#define STATS_OF_ROOM (&stats[9])
#define STATS_OF_WHOLE (&stats[10])

struct bed {
    struct call_server *calls; /* first, as call_connection_ops wants it */
    struct call_server server;
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
};

static void bed_init_stall(struct bed *bed, const struct peer_options *peer,
                           uint64_t stall_timeout_ms)
{
    struct connection_options options = {
        .stall_timeout_ms = stall_timeout_ms,
        .max_streams = 100,
        .max_header_bytes = MAX_HEADER_BYTES,
        .stream_window = 65535,
        .connection_window = 65535,
        .ops = &call_connection_ops,
        .context = bed,
        .stats = &bed->stats,
        .loop = &bed->world.loop,
    };

    *bed = (struct bed){.calls = &bed->server};
    seen_server = &bed->server;
    memset(&seen, 0, sizeof(seen));
    memset(stats, 0, sizeof(stats));
    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    bed->stats.loop = &bed->world.loop;
    bed->server = (struct call_server){
        .loop = &bed->world.loop,
        .methods = {method_pointers, ELEMENTSOF(method_pointers)},
        .max_message_bytes = MAX_MESSAGE_BYTES,
        .max_input_bytes = UINT64_C(64) << 20,
        .max_calls = 50,
    };
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "peer", &options), 0);
    peer_init(&bed->peer, &bed->memory, peer);
}

static void bed_init(struct bed *bed, const struct peer_options *peer)
{
    bed_init_stall(bed, peer, 0);
}

static void bed_deinit(struct bed *bed)
{
    uint64_t started = bed->server.other.started_total;
    uint64_t handled = 0;

    connection_close(bed->connection, CLOSE_LOCAL, NULL);
    world_turn(&bed->world);
    world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(bed->server.calls, 0);
    assert_int_equal(bed->server.queued_bytes, 0);
    assert_int_equal(bed->server.input_bytes, 0);
    assert_int_equal(bed->stats.streams, 0);
    assert_int_equal(bed->stats.unsent_bytes, 0);
    assert_int_equal(seen.begins, seen.ends);
    for (unsigned i = 0; i < ELEMENTSOF(stats); i++)
        started += stats[i].started_total;
    for (unsigned s = 0; s < WIRE_STATUS_COUNT; s++) {
        handled += bed->server.other.handled_total[s];
        for (unsigned i = 0; i < ELEMENTSOF(stats); i++)
            handled += stats[i].handled_total[s];
    }
    assert_int_equal(started, handled);
    peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world);
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

static const struct peer_options usual = {0};
static const struct peer_options holding = {.hold_credit = true};

/* A call with one request message. */
static struct peer_stream *call_with(struct bed *bed, const char *path, const void *body,
                                     size_t size)
{
    struct peer_stream *stream = peer_request(&bed->peer, path, NULL, 0, true);

    peer_upload_message(&bed->peer, stream, body, size, true);
    return stream;
}

static void assert_status(const struct peer_stream *stream, enum wire_status status,
                          const char *text)
{
    char number[12];

    assert_true(stream->ended);
    (void)snprintf(number, sizeof(number), "%d", (int)status);
    assert_non_null(peer_field(stream, "grpc-status"));
    assert_string_equal(peer_field(stream, "grpc-status"), number);
    if (text) {
        assert_non_null(peer_field(stream, "grpc-message"));
        assert_string_equal(peer_field(stream, "grpc-message"), text);
    } else {
        assert_null(peer_field(stream, "grpc-message"));
    }
}

/* The number of whole messages in what came; fails if the bytes end inside one. */
static unsigned whole_messages(const struct buffer *data)
{
    size_t offset = 0;
    unsigned count = 0;

    while (offset < data->size) {
        assert_true(data->size - offset >= WIRE_PREFIX_SIZE);
        assert_int_equal(data->bytes[offset], 0);
        offset += WIRE_PREFIX_SIZE + wire_prefix_length(data->bytes + offset);
        count++;
    }
    assert_int_equal(offset, data->size);
    return count;
}

/* ---- The four kinds ---- */

static void test_unary(void **state)
{
    for (size_t split = 0; split < 60; split++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        bed.peer.split = split;
        stream = call_with(&bed, "/t.T/Echo", "hello", 5);
        settle(&bed);
        assert_status(stream, WIRE_OK, NULL);
        assert_string_equal(peer_field(stream, ":status"), "200");
        assert_string_equal(peer_field(stream, "content-type"), "application/grpc");
        assert_int_equal(stream->blocks, 2);
        assert_int_equal(stream->data.size, 10);
        assert_memory_equal(stream->data.bytes, "\0\0\0\0\5hello", 10);
        assert_int_equal(stream->close_code, 0);
        assert_false(stream->reset);
        assert_int_equal(seen.ends, 1);
        assert_int_equal(stats[0].started_total, 1);
        assert_int_equal(stats[0].received_total, 1);
        assert_int_equal(stats[0].sent_total, 1);
        assert_int_equal(stats[0].handled_total[WIRE_OK], 1);
        bed_deinit(&bed);
    }
}

static void test_empty_message(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = call_with(&bed, "/t.T/Echo", "", 0);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    assert_int_equal(stream->data.size, 5);
    bed_deinit(&bed);
}

/* Each byte in a frame of its own, all in one, and everything between. */
static void test_client_stream(void **state)
{
    for (size_t piece = 1; piece <= 200; piece += piece < 20 ? 1 : 30) {
        struct buffer body = {0};
        struct peer_stream *stream;
        struct bed bed;

        for (unsigned i = 0; i < 20; i++) {
            uint8_t message[WIRE_PREFIX_SIZE + 20];

            memset(message, (int)i, sizeof(message));
            wire_prefix_write(message, i);
            buffer_append(&body, message, WIRE_PREFIX_SIZE + i);
        }
        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, "/t.T/Sum", NULL, 0, true);
        for (size_t offset = 0; offset < body.size; offset += piece) {
            peer_upload(&bed.peer, stream, body.bytes + offset, MIN(piece, body.size - offset),
                        offset + piece >= body.size);
            (void)peer_pump(&bed.peer);
        }
        settle(&bed);
        assert_status(stream, WIRE_OK, NULL);
        assert_int_equal(seen.messages, 20);
        assert_int_equal(seen.longest, 19);
        assert_int_equal(stream->data.size, 9);
        assert_memory_equal(stream->data.bytes + 5, "2470", 4); /* of the squares up to 19 */
        bed_deinit(&bed);
        buffer_deinit(&body);
    }
}

/* Request trailers are a half-close. */
static void test_client_stream_ends_with_trailers(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = peer_request(&bed.peer, "/t.T/Sum", NULL, 0, true);
    stream->upload_trailers = true;
    peer_upload_message(&bed.peer, stream, "\1\2", 2, true);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    assert_int_equal(seen.half_closes, 1);
    bed_deinit(&bed);
}

static void test_server_stream_by_queue(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &holding);
    stream = call_with(&bed, "/t.T/Many", "", 0);
    settle(&bed);
    /* The queue is full when it holds 64 KiB, with the last message over it. */
    assert_int_equal(seen.messages, (CALL_QUEUE_BYTES_MAX + 1004) / 1005);
    assert_int_equal(stream->data.size, 65535);
    assert_false(stream->ended);
    assert_int_equal(STATS_OF_MANY->sent_total, 65535 / 1005);
    assert_int_equal(bed.server.queued_bytes, 1005); /* the one that it is in the middle of */
    peer_grant(&bed.peer, stream, 10000);
    peer_grant(&bed.peer, NULL, 10000);
    settle(&bed);
    assert_status(stream, WIRE_OK, "that was all");
    assert_int_equal(whole_messages(&stream->data), seen.messages);
    assert_int_equal(STATS_OF_MANY->sent_total, seen.messages);
    assert_int_equal(bed.server.queued_bytes, 0);
    bed_deinit(&bed);
}

/* However the window cuts the messages, and however the handler ends inside pull(). */
static void test_server_stream_by_pull(void **state)
{
    static const char modes[] = "lax";

    for (const char *mode = modes; *mode; mode++) {
        for (uint32_t window = 1; window <= 130; window++) {
            const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
            const struct peer_options peer = {
                .hold_credit = true, .settings = &settings, .settings_count = 1};
            const uint8_t request[3] = {PULL_SIZE - 5, 7, (uint8_t)*mode};
            struct peer_stream *stream;
            struct bed bed;

            bed_init(&bed, &peer);
            stream = call_with(&bed, "/t.T/Pull", request, 3);
            settle(&bed);
            for (unsigned i = 0; i < 7 * PULL_SIZE + 1 && !stream->ended; i++) {
                assert_int_equal(stream->data.size, MIN(window * (i + 1), 7 * PULL_SIZE));
                assert_true(bed.server.queued_bytes <= PULL_SIZE);
                peer_grant(&bed.peer, stream, (int32_t)window);
                settle(&bed);
            }
            assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
            assert_int_equal(whole_messages(&stream->data), 7);
            for (unsigned i = 0; i < 7; i++)
                assert_int_equal(stream->data.bytes[i * PULL_SIZE + PULL_SIZE - 1], 'a' + i);
            assert_int_equal(STATS_OF_PULL->sent_total, 7);
            assert_int_equal(seen.status, WIRE_OUT_OF_RANGE);
            bed_deinit(&bed);
        }
    }
}

/* A window that ends with a message blocks a call that has another one, and no other call. */
static void test_window_that_ends_with_a_message(void **state)
{
    for (unsigned count = 1; count <= 2; count++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, PULL_SIZE};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        const uint8_t request[3] = {PULL_SIZE - 5, (uint8_t)count, '-'};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &peer);
        stream = call_with(&bed, "/t.T/Pull", request, 3);
        settle(&bed);
        assert_int_equal(whole_messages(&stream->data), 1);
        assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], count - 1);
        bed_deinit(&bed);
    }
}

/* Messages that are not cut: a window takes as many as fit, and the next when it does. */
static void test_whole_messages(void **state)
{
    for (uint32_t window = 2 * PULL_SIZE; window <= 4 * PULL_SIZE; window++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        const uint8_t request[3] = {PULL_SIZE - 5, 7, 'l'};
        struct peer_stream *stream;
        size_t granted = window;
        struct bed bed;

        bed_init(&bed, &peer);
        stream = call_with(&bed, "/t.T/Whole", request, 3);
        settle(&bed);
        while (granted < 7 * PULL_SIZE) {
            /* A few bytes, and just one to where the next one fits. */
            size_t lacks = PULL_SIZE - granted % PULL_SIZE,
                   step = lacks > 8 ? 7 : MAX(lacks - 1, 1U);
            unsigned pulls = seen.pulls;

            assert_int_equal(whole_messages(&stream->data), granted / PULL_SIZE);
            assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 1);
            assert_int_equal(bed.stats.blocked[BLOCKED_CONNECTION_WINDOW], 0);
            assert_int_equal(bed.server.queued_bytes, 0);
            assert_false(stream->ended);
            peer_grant(&bed.peer, stream, (int32_t)step);
            settle(&bed);
            /* Too little is no reason to ask, but for the first bytes of an empty window. */
            if (lacks < PULL_SIZE && step < lacks)
                assert_int_equal(seen.pulls, pulls);
            granted += step;
        }
        assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
        assert_int_equal(whole_messages(&stream->data), 7);
        for (unsigned i = 0; i < 7; i++)
            assert_int_equal(stream->data.bytes[i * PULL_SIZE + PULL_SIZE - 1], 'a' + i);
        assert_int_equal(STATS_OF_WHOLE->sent_total, 7);
        bed_deinit(&bed);
    }
}

/* A client with small windows, which may give credit only for a whole one, gets them cut. */
static void test_whole_messages_in_small_windows(void **state)
{
    for (uint32_t window = 1; window < 2 * PULL_SIZE; window++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        const uint8_t request[3] = {PULL_SIZE - 5, 5, 'l'};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &peer);
        stream = call_with(&bed, "/t.T/Whole", request, 3);
        settle(&bed);
        for (unsigned i = 1; !stream->ended; i++) {
            assert_int_equal(stream->data.size, MIN(window * i, 5 * PULL_SIZE));
            peer_grant(&bed.peer, stream, (int32_t)window);
            settle(&bed);
        }
        assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
        assert_int_equal(whole_messages(&stream->data), 5);
        bed_deinit(&bed);
    }
}

/* It waits for a window of 2 messages, less 1 byte, and learns that it will not get that. */
static void test_whole_messages_when_windows_shrink(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                             3 * PULL_SIZE - 1};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const uint8_t request[3] = {PULL_SIZE - 5, 3, 'l'};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &peer);
    stream = call_with(&bed, "/t.T/Whole", request, 3);
    settle(&bed);
    assert_int_equal(stream->data.size, 2 * PULL_SIZE);
    peer_settings(&bed.peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, PULL_SIZE);
    settle(&bed);
    assert_int_equal(stream->data.size, 2 * PULL_SIZE);
    assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 1);
    peer_grant(&bed.peer, stream, PULL_SIZE + 1);
    settle(&bed);
    assert_int_equal(stream->data.size, 2 * PULL_SIZE + 1);
    peer_grant(&bed.peer, stream, PULL_SIZE);
    settle(&bed);
    assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
    bed_deinit(&bed);

    /* A window that grows by SETTINGS is as good as one that grows by itself. */
    bed_init(&bed, &peer);
    stream = call_with(&bed, "/t.T/Whole", request, 3);
    settle(&bed);
    peer_settings(&bed.peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 3 * PULL_SIZE);
    settle(&bed);
    assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
    bed_deinit(&bed);
}

/* The connection's window has room for no whole message, while others use its last bytes. */
static void test_whole_messages_and_the_connection(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1u << 20};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const uint8_t big[3] = {250, 255, 'n'}, whole[3] = {PULL_SIZE - 5, 3, 'l'};
    struct peer_stream *stream, *other;
    struct bed bed;

    bed_init(&bed, &peer);
    stream = call_with(&bed, "/t.T/Whole", big, 3); /* 65025 bytes */
    settle(&bed);
    assert_int_equal(stream->data.size, 255 * 255);
    other = call_with(&bed, "/t.T/Whole", big, 3);
    settle(&bed);
    assert_int_equal(other->data.size, 510); /* and all is used up */
    assert_int_equal(bed.stats.blocked[BLOCKED_CONNECTION_WINDOW], 1);

    peer_grant(&bed.peer, NULL, PULL_SIZE - 1);
    settle(&bed);
    stream = call_with(&bed, "/t.T/Whole", whole, 3);
    settle(&bed);
    assert_int_equal(stream->data.size, 0);
    assert_int_equal(bed.stats.blocked[BLOCKED_CONNECTION_WINDOW], 2);
    assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 0);
    peer_grant(&bed.peer, NULL, 1);
    settle(&bed);
    assert_int_equal(whole_messages(&stream->data), 1);
    assert_int_equal(other->data.size, 510);

    /* One whose messages are cut takes what is left. */
    peer_grant(&bed.peer, NULL, 30);
    settle(&bed);
    assert_int_equal(bed.stats.blocked[BLOCKED_CONNECTION_WINDOW], 2);
    other = call_with(&bed, "/t.T/Pull", whole, 3);
    settle(&bed);
    assert_int_equal(other->data.size, 30);
    assert_int_equal(bed.stats.blocked[BLOCKED_CONNECTION_WINDOW], 3);
    peer_grant(&bed.peer, NULL, 100000);
    settle(&bed);
    assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
    assert_int_equal(bed.stats.blocked[BLOCKED_CONNECTION_WINDOW], 0);
    bed_deinit(&bed);
}

/* Whatever is left of a window: one that waits can be told at once why it ends. */
static void test_whole_messages_can_be_aborted(void **state)
{
    for (uint32_t rest = 0; rest < PULL_SIZE; rest++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                                 2 * PULL_SIZE + rest};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        const uint8_t request[3] = {PULL_SIZE - 5, 100, 'n'};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &peer);
        stream = call_with(&bed, "/t.T/Whole", request, 3);
        settle(&bed);
        assert_int_equal(whole_messages(&stream->data), 2);
        call_resume(seen.call); /* changes nothing */
        settle(&bed);
        assert_int_equal(whole_messages(&stream->data), 2);
        assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 1);
        call_abort(seen.call, WIRE_RESOURCE_EXHAUSTED, "too slow");
        settle(&bed);
        assert_status(stream, WIRE_RESOURCE_EXHAUSTED, "too slow");
        assert_false(stream->reset);
        assert_int_equal(whole_messages(&stream->data), 2);
        assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 0);
        bed_deinit(&bed);
    }
}

/* One that waits for window takes nothing, as one without any. */
static void test_whole_messages_stall(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                             3 * PULL_SIZE - 1};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const uint8_t request[3] = {PULL_SIZE - 5, 255, 'n'};
    struct peer_stream *still;
    struct bed bed;

    bed_init_stall(&bed, &peer, 40);
    still = call_with(&bed, "/t.T/Whole", request, 3);
    settle(&bed);
    assert_int_equal(still->data.size, 2 * PULL_SIZE);
    while (!still->closed) {
        world_sleep(&bed.world);
        (void)peer_pump(&bed.peer);
    }
    assert_status(still, WIRE_RESOURCE_EXHAUSTED,
                  "the client took nothing for the server's stall_timeout");
    assert_int_equal(bed.server.stalled_total, 1);
    bed_deinit(&bed);
}

/* They wait for room in a window, and so they cannot be shorter than what said how much. */
static void test_whole_messages_are_not_compressed(void **state)
{
    const uint8_t request[4] = {35, 10, 'l', 'z'};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = peer_request(&bed.peer, "/t.T/Whole",
                          (const struct field[]){{"grpc-accept-encoding", "gzip"}}, 1, true);
    peer_upload_message(&bed.peer, stream, request, 4, true);
    settle(&bed);
    assert_int_equal(seen.gzip, 1);
    assert_int_equal(whole_messages(&stream->data), 10);
    assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
    bed_deinit(&bed);
}

static void test_bidi(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    settle(&bed);
    assert_int_equal(seen.begins, 1); /* before any message */
    for (unsigned i = 0; i < 1000; i++)
        peer_upload_message(&bed.peer, stream, "0123456789", 10, i == 999);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    assert_int_equal(stream->data.size, 15000);
    assert_memory_equal(stream->data.bytes, stream->upload.bytes, 15000);
    assert_int_equal(STATS_OF_CHAT->sent_total, 1000);
    assert_int_equal(STATS_OF_CHAT->received_total, 1000);
    bed_deinit(&bed);
}

/* ---- Backpressure, both ways ---- */

static void test_a_peer_that_sends_and_never_reads(void **state)
{
    static char body[1000];
    struct peer_stream *stream;
    uint64_t uploaded;
    struct bed bed;

    bed_init(&bed, &holding);
    stream = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    for (unsigned i = 0; i < 1000; i++) {
        body[0] = (char)i;
        peer_upload_message(&bed.peer, stream, body, sizeof(body), i == 999);
    }
    settle(&bed);
    /* Its window (sent), the queue, and the input whose credit is held back. */
    assert_in_range(stream->uploaded, 100000, 65535 + CALL_QUEUE_BYTES_MAX + 1005 + 65535);
    assert_true(bed.server.queued_bytes <= CALL_QUEUE_BYTES_MAX + 2 * 1005);
    assert_int_equal(stream->data.size, 65535);
    uploaded = stream->uploaded;
    for (unsigned i = 0; i < 5; i++)
        settle(&bed);
    assert_int_equal(stream->uploaded, uploaded);

    /* It reads: everything moves again, and nothing is lost. */
    while (!stream->ended) {
        peer_grant(&bed.peer, stream, 30000);
        peer_grant(&bed.peer, NULL, 30000);
        settle(&bed);
    }
    assert_status(stream, WIRE_OK, NULL);
    assert_int_equal(stream->data.size, stream->upload.size);
    assert_memory_equal(stream->data.bytes, stream->upload.bytes, stream->upload.size);
    assert_int_equal(bed.server.queued_bytes, 0);
    bed_deinit(&bed);
}

/* The request ends inside a message while messages before it wait for room. */
static void test_truncated_behind_a_full_queue(void **state)
{
    static char body[1000];
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &holding);
    stream = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    /* The client's window, the message that straddles it, and the queue are full by these. */
    for (unsigned i = 0; i < 66 + 66; i++)
        peer_upload_message(&bed.peer, stream, body, sizeof(body), false);
    settle(&bed);
    peer_upload(&bed.peer, stream, "\0\0\0\0\5hal", 8, true);
    settle(&bed);
    assert_false(stream->ended);
    while (!stream->ended && stream->data.size < 132 * 1005) {
        peer_grant(&bed.peer, stream, 1005);
        peer_grant(&bed.peer, NULL, 1005);
        settle(&bed);
    }
    settle(&bed);
    assert_status(stream, WIRE_INTERNAL, "the request ends inside a message");
    assert_int_equal(whole_messages(&stream->data), 132);
    bed_deinit(&bed);
}

/* A call that has ended, but whose client does not read, keeps no credit from the others. */
static void test_credit_of_a_finished_call(void **state)
{
    static char body[1000];
    struct peer_stream *stream, *other;
    struct bed bed;

    bed_init(&bed, &holding);
    stream = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    for (unsigned i = 0; i < 1000; i++)
        peer_upload_message(&bed.peer, stream, body, sizeof(body), false);
    settle(&bed);
    assert_true(stream->uploaded < stream->upload.size);
    call_finish(seen.call, WIRE_ABORTED, "enough");
    other = peer_request(&bed.peer, "/t.T/Sum", NULL, 0, true);
    for (unsigned i = 0; i < 200; i++)
        peer_upload_message(&bed.peer, other, body, sizeof(body), i == 199);
    settle(&bed);
    assert_true(other->uploaded == other->upload.size);
    assert_int_equal(seen.half_closes, 1);
    bed_deinit(&bed);
}

/* ---- Faults ---- */

static void test_header_faults(void **state)
{
    static char large[MAX_HEADER_BYTES];
    static const struct {
        const char *path;
        struct field field;
        const char *http;
        enum wire_status status;
        const char *text;
    } cases[] = {
        {"/t.T/Echo", {"content-type", NULL}, "415", 3, "content-type is not application/grpc"},
        {"/t.T/Echo",
         {"content-type", "text/plain"},
         "415",
         3,
         "content-type is not application/grpc"},
        {"/t.T/Echo",
         {"content-type", "application/grpc-web"},
         "415",
         3,
         "content-type is not application/grpc"},
        {"/t.T/Echo", {"grpc-timeout", ""}, "400", 13, "malformed grpc-timeout or binary metadata"},
        {"/t.T/Echo",
         {"grpc-timeout", "1"},
         "400",
         13,
         "malformed grpc-timeout or binary metadata"},
        {"/t.T/Echo",
         {"grpc-timeout", "123456789S"},
         "400",
         13,
         "malformed grpc-timeout or binary metadata"},
        {"/t.T/Echo",
         {"grpc-timeout", "+5S"},
         "400",
         13,
         "malformed grpc-timeout or binary metadata"},
        {"/t.T/Echo",
         {"grpc-timeout", "5s"},
         "400",
         13,
         "malformed grpc-timeout or binary metadata"},
        {"/t.T/Echo", {"x-bin", "a"}, "400", 13, "malformed grpc-timeout or binary metadata"},
        {"/t.T/Echo", {"x-bin", "YQ,?"}, "400", 13, "malformed grpc-timeout or binary metadata"},
        {"/t.T/Echo", {":method", "GET"}, "405", 13, "the method is not POST"},
        {"/t.T/No", {"a", "b"}, "200", 12, "unknown method /t.T/No"},
        {"/no.T/Echo", {"a", "b"}, "200", 12, "unknown method /no.T/Echo"},
        {"/Echo", {"a", "b"}, "200", 12, "unknown method /Echo"},
        {"/t.T/Echo", {"grpc-encoding", "snappy"}, "200", 12, "unknown grpc-encoding"},
        {"/t.T/Echo", {"grpc-encoding", "GZIP"}, "200", 12, "unknown grpc-encoding"},
        {"/t.T/Echo", {"grpc-encoding", ""}, "200", 12, "unknown grpc-encoding"},
        {"/t.T/Echo", {"grpc-timeout", "0n"}, "200", 4, "deadline exceeded"},
        {"/t.T/Echo", {"large", large}, "200", 8, "request headers are larger than 1000 bytes"},
        /* The first check that fails decides. */
        {"/no", {"content-type", "text/html"}, "415", 3, "content-type is not application/grpc"},
    };

    memset(large, 'x', sizeof(large) - 1);
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, cases[i].path, &cases[i].field, 1, true);
        settle(&bed);
        assert_status(stream, cases[i].status, cases[i].text);
        assert_string_equal(peer_field(stream, ":status"), cases[i].http);
        assert_string_equal(peer_field(stream, "content-type"), "application/grpc");
        assert_int_equal(stream->blocks, 1); /* Trailers-Only */
        assert_true(stream->reset);          /* PROTOCOL-HTTP2.md */
        assert_int_equal(stream->reset_code, 0);
        assert_int_equal(seen.begins, 0);
        assert_int_equal(bed.server.calls, 0);
        if (strcmp(cases[i].field.name, "grpc-encoding") == 0)
            assert_string_equal(peer_field(stream, "grpc-accept-encoding"), "identity,gzip");
        else
            assert_null(peer_field(stream, "grpc-accept-encoding"));
        bed_deinit(&bed);
    }
}

static void test_header_variants(void **state)
{
    static const struct field fields[] = {
        {"te", NULL},
        {"content-type", "application/grpc+proto"},
        {"content-type", "application/grpc;charset=utf-8"},
        {"grpc-timeout", "99999999H"},
        {"grpc-timeout", "2562047H"}, /* the most that does not overflow a count of nanoseconds */
        {"grpc-timeout", "2562048H"},
        {"grpc-timeout", "99999999M"},
        {"grpc-timeout", "99999999S"},
        {"grpc-timeout", "1H"},
        {"grpc-encoding", "identity"},
        {"grpc-encoding", "gzip"},
        {"grpc-future", "whatever"},
        {"x-bin", ""},
    };

    for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, "/t.T/Echo", &fields[i], 1, true);
        peer_upload_message(&bed.peer, stream, "x", 1, true);
        settle(&bed);
        assert_status(stream, WIRE_OK, NULL);
        assert_null(peer_field(stream, "grpc-future")); /* reserved: never echoed */
        bed_deinit(&bed);
    }
}

/* Far too long a header list is not even decoded to its end. */
static void test_header_bomb(void **state)
{
    static char large[5000];
    const struct field fields[] = {{"a", large}, {"b", large}, {"c", large}, {"d", large}};
    struct peer_stream *stream;
    struct bed bed;

    memset(large, 'x', sizeof(large) - 1);
    bed_init(&bed, &usual);
    stream = peer_request(&bed.peer, "/t.T/Echo", fields, ELEMENTSOF(fields), true);
    settle(&bed);
    assert_true(stream->reset);
    assert_int_equal(bed.server.calls, 0);
    assert_int_equal(seen.begins, 0);
    stream = call_with(&bed, "/t.T/Echo", "x", 1);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    bed_deinit(&bed);
}

static void test_message_faults(void **state)
{
    static const struct {
        const char *path;
        const char *bytes;
        size_t size;
        bool end;
        enum wire_status status;
        const char *text;
    } cases[] = {
        {"/t.T/Echo", "\1\0\0\0\1x", 6, true, 13, "a compressed message without grpc-encoding"},
        {"/t.T/Sum", "\1\0\0\0\1x", 6, false, 13, "a compressed message without grpc-encoding"},
        {"/t.T/Sum", "\2\0\0\0\1x", 6, false, 13, "a message with an unknown compressed flag"},
        {"/t.T/Sum", "\xff\0\0\0\1x", 6, false, 13, "a message with an unknown compressed flag"},
        /* decided from the prefix */
        {"/t.T/Echo", "\0\0\0\x27\x11", 5, false, 8, "a message of 10001 bytes; the most is 10000"},
        {"/t.T/Sum", "\0\xff\xff\xff\xff", 5, false, 8,
         "a message of 4294967295 bytes; the most is 10000"},
        {"/t.T/Echo", "", 0, true, 12, "the request has no message"},
        {"/t.T/Echo", "\0\0\0\0\0\0\0\0\0\0", 10, true, 12,
         "the request has more than one message"},
        {"/t.T/Many", "\0\0\0\0\0\0", 6, false, 12, "the request has more than one message"},
        {"/t.T/Echo", "\0\0\0", 3, true, 13, "the request ends inside a message"},
        {"/t.T/Echo", "\0\0\0\0\5abc", 8, true, 13, "the request ends inside a message"},
        {"/t.T/Sum", "\0\0\0\0\1a\0", 7, true, 13, "the request ends inside a message"},
        {"/t.T/Chat", "\0\0\0\0\2a", 6, true, 13, "the request ends inside a message"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        for (size_t split = 0; split < 2; split++) {
            struct peer_stream *stream;
            struct bed bed;

            bed_init(&bed, &usual);
            bed.peer.split = split;
            stream = peer_request(&bed.peer, cases[i].path, NULL, 0, true);
            peer_upload(&bed.peer, stream, cases[i].bytes, cases[i].size, cases[i].end);
            settle(&bed);
            assert_status(stream, cases[i].status, cases[i].text);
            assert_int_equal(bed.server.calls, 0);
            bed_deinit(&bed);
        }
    }
}

static void test_longest_message(void **state)
{
    static char body[MAX_MESSAGE_BYTES];
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = call_with(&bed, "/t.T/Echo", body, sizeof(body));
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    assert_int_equal(stream->data.size, MAX_MESSAGE_BYTES + 5);
    bed_deinit(&bed);
}

static void test_status_and_text(void **state)
{
    static char long_text[600] = "A";
    static const struct {
        const char *body;
        enum wire_status status;
        const char *text;
    } cases[] = {
        {"CWith 100% \xe2\x82\xac\n", 2, "With 100%25 %E2%82%AC%0A"},
        {"Jx", 9, "x"},
        {"B\xff", 1, "%EF%BF%BD"},
    };
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        stream = call_with(&bed, "/t.T/Status", cases[i].body, strlen(cases[i].body));
        settle(&bed);
        assert_status(stream, cases[i].status, cases[i].text);
        assert_int_equal(stream->blocks, 1);
        assert_int_equal(seen.status, cases[i].status);
    }
    memset(long_text + 1, 'y', sizeof(long_text) - 1);
    stream = call_with(&bed, "/t.T/Status", long_text, sizeof(long_text));
    settle(&bed);
    assert_int_equal(strlen(peer_field(stream, "grpc-message")), 512);
    /* Cut between two characters, not inside one: 510 bytes, then three, the euro sign. */
    for (size_t before = 509; before <= 512; before++) {
        memset(long_text + 1, 'y', sizeof(long_text) - 1);
        memcpy(long_text + 1 + before, "\xe2\x82\xac", 3);
        stream = call_with(&bed, "/t.T/Status", long_text, sizeof(long_text));
        settle(&bed);
        assert_int_equal(strlen(peer_field(stream, "grpc-message")), before + (before == 509) * 9);
    }
    /* A number that is no status is a fault of the handler. */
    stream = call_with(&bed, "/t.T/Status", "Rno such status", 15);
    settle(&bed);
    assert_status(stream, WIRE_UNKNOWN, "no such status");
    assert_int_equal(seen.status, WIRE_UNKNOWN);
    bed_deinit(&bed);
}

static void test_metadata(void **state)
{
    const struct field fields[] = {
        {"custom", "one"}, {"data-bin", "AAEC,AwQ"}, {"user-agent", "test"}, {"grpc-tags", "x"}};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = peer_request(&bed.peer, "/t.T/Echo", fields, ELEMENTSOF(fields), true);
    peer_upload_message(&bed.peer, stream, "x", 1, true);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    assert_string_equal(peer_field(stream, "custom"), "one");
    assert_string_equal(peer_field(stream, "data-bin"), "AAEC,AwQ");
    assert_string_equal(peer_field(stream, "trailer"), "one");
    assert_string_equal(peer_field(stream, "trailer-bin"), "AAEC,AwQ");
    assert_null(peer_field(stream, "user-agent"));
    assert_null(peer_field(stream, "grpc-tags"));
    bed_deinit(&bed);
}

/* gRPC wants base64 sent without its padding, also by a handler that echoes what came with it. */
static void test_padding_is_not_sent(void **state)
{
    const struct field fields[] = {{"data-bin", "AA==,AAE=,AAEC,,AAEC"}, {"text", "a=="}};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = peer_request(&bed.peer, "/t.T/Echo", fields, ELEMENTSOF(fields), true);
    peer_upload_message(&bed.peer, stream, "x", 1, true);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    assert_string_equal(peer_field(stream, "data-bin"), "AA,AAE,AAEC,,AAEC");
    assert_string_equal(peer_field(stream, "trailer-bin"), "AA,AAE,AAEC,,AAEC");
    assert_string_equal(peer_field(stream, "text"), "a==");
    bed_deinit(&bed);
}

/* gRFC A41: nghttp2 refuses these by itself, which this relies on. */
static void test_ambiguous_requests_are_reset(void **state)
{
    static const struct field cases[][2] = {
        {{":authority", "one"}, {":authority", "two"}},
        {{"host", "one"}, {"host", "two"}},
        {{"connection", "keep-alive"}, {"x", "y"}},
        {{"te", "gzip"}, {"x", "y"}},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, "/t.T/Echo", cases[i], 2, true);
        peer_upload_message(&bed.peer, stream, "x", 1, true);
        settle(&bed);
        assert_true(stream->reset);
        assert_int_equal(stream->reset_code, NGHTTP2_PROTOCOL_ERROR);
        assert_int_equal(stream->blocks, 0);
        assert_int_equal(seen.begins, 0);
        stream = call_with(&bed, "/t.T/Echo", "x", 1);
        settle(&bed);
        assert_status(stream, WIRE_OK, NULL);
        bed_deinit(&bed);
    }
}

/* RFC 9113, 10.5.1: the limit is of names and values, and 32 for each field. */
static void test_header_list_size_is_exact(void **state)
{
    static const struct field usual_fields[] = {
        {":method", "POST"},     {":scheme", "http"}, {":path", "/t.T/Echo"},
        {":authority", "stock"}, {"te", "trailers"},  {"content-type", "application/grpc"},
    };
    size_t size = strlen("x") + 32;
    static char value[MAX_HEADER_BYTES];

    for (size_t i = 0; i < ELEMENTSOF(usual_fields); i++)
        size += strlen(usual_fields[i].name) + strlen(usual_fields[i].value) + 32;
    for (size_t more = 0; more < 2; more++) {
        const struct field field = {"x", value};
        struct peer_stream *stream;
        struct bed bed;

        memset(value, 0, sizeof(value));
        memset(value, 'v', MAX_HEADER_BYTES - size + more);
        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, "/t.T/Echo", &field, 1, true);
        peer_upload_message(&bed.peer, stream, "x", 1, true);
        settle(&bed);
        if (more)
            assert_status(stream, WIRE_RESOURCE_EXHAUSTED,
                          "request headers are larger than 1000 bytes");
        else
            assert_status(stream, WIRE_OK, NULL);
        bed_deinit(&bed);
    }
}

/* Trailers that the client would not take become a reset, and are counted as what they were. */
static void test_trailers_too_large_for_the_client(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 150};
    const struct peer_options peer = {.settings = &settings, .settings_count = 1};
    char body[300];
    struct peer_stream *stream;
    struct bed bed;

    memset(body, 'Z', sizeof(body));
    body[0] = 'A'; /* OK */
    bed_init(&bed, &peer);
    settle(&bed);
    stream = call_with(&bed, "/t.T/Status", body, sizeof(body));
    settle(&bed);
    assert_true(stream->reset);
    assert_int_equal(stream->reset_code, NGHTTP2_INTERNAL_ERROR);
    assert_int_equal(seen.status, WIRE_INTERNAL);
    bed_deinit(&bed);
}

/* So do the response's headers, and then nothing else of it is sent, nor counted as well done. */
static void test_headers_too_large_for_the_client(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 90};
    const struct peer_options peer = {.settings = &settings, .settings_count = 1};
    const uint8_t request[3] = {10, 100, 'n'};
    struct peer_stream *streams[3];
    struct bed bed;

    bed_init(&bed, &peer);
    settle(&bed);
    streams[0] = call_with(&bed, "/t.T/Echo", "x", 1);
    streams[1] = call_with(&bed, "/t.T/Pull", request, 3);
    streams[2] = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    peer_upload_message(&bed.peer, streams[2], "x", 1, false);
    settle(&bed);
    for (unsigned i = 0; i < ELEMENTSOF(streams); i++) {
        assert_true(streams[i]->reset);
        assert_int_equal(streams[i]->reset_code, NGHTTP2_INTERNAL_ERROR);
        assert_int_equal(streams[i]->blocks, 0);
        assert_int_equal(streams[i]->data.size, 0);
    }
    assert_int_equal(stats[0].handled_total[WIRE_INTERNAL], 1);
    assert_int_equal(STATS_OF_PULL->handled_total[WIRE_INTERNAL], 1);
    assert_int_equal(STATS_OF_CHAT->handled_total[WIRE_INTERNAL], 1);
    bed_deinit(&bed);
}

/* ---- Time ---- */

static void wait_ended(struct bed *bed, const struct peer_stream *stream)
{
    while (!stream->closed) {
        world_sleep(&bed->world);
        (void)peer_pump(&bed->peer);
    }
}

static struct peer_stream *call_in_time(struct bed *bed, const char *path, const char *timeout,
                                        const void *body, size_t size)
{
    const struct field field = {"grpc-timeout", timeout};
    struct peer_stream *stream = peer_request(&bed->peer, path, &field, 1, true);

    peer_upload_message(&bed->peer, stream, body, size, true);
    return stream;
}

static void test_deadline(void **state)
{
    struct peer_stream *stream;
    uint64_t start_ms;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = call_in_time(&bed, "/t.T/Idle", "30m", "", 0);
    start_ms = loop_now_ms(&bed.world.loop);
    settle(&bed);
    assert_in_range(call_time_left_ms(seen.call), 0, 31);
    wait_ended(&bed, stream);
    assert_true(loop_now_ms(&bed.world.loop) - start_ms >= 30);
    assert_status(stream, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
    assert_int_equal(stream->blocks, 1);
    assert_int_equal(stats[2].handled_total[WIRE_DEADLINE_EXCEEDED], 1);

    /* Of a client stream, that never half-closes. */
    stream = call_in_time(&bed, "/t.T/Sum", "1000u", "", 0);
    stream->upload_end = false;
    wait_ended(&bed, stream);
    assert_status(stream, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
    bed_deinit(&bed);
}

/* A deadline passes while the request is still coming: no handler ever sees it. */
static void test_deadline_of_an_incomplete_request(void **state)
{
    static const char part[] = "\0\0\0\0\5hel";
    const struct field field = {"grpc-timeout", "20m"};

    for (size_t size = 0; size < sizeof(part); size++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        bed.server.request_timeout_ms = 1000000;
        stream = peer_request(&bed.peer, "/t.T/Echo", &field, 1, true);
        peer_upload(&bed.peer, stream, part, size, false);
        wait_ended(&bed, stream);
        assert_status(stream, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
        assert_int_equal(seen.begins, 0);
        assert_int_equal(bed.server.calls, 0);
        assert_int_equal(bed.server.input_bytes, 0);
        bed_deinit(&bed);
    }
}

/* A request is whole in the turn in which its deadline passes, before the timer fires. */
static void test_deadline_before_the_timer(void **state)
{
    const struct field field = {"grpc-timeout", "20m"};
    struct peer_stream *stream;
    uint64_t start_ms;
    struct bed bed;

    bed_init(&bed, &usual);
    stream = peer_request(&bed.peer, "/t.T/Echo", &field, 1, true);
    settle(&bed);
    assert_int_equal(bed.server.calls, 1);
    start_ms = loop_now_ms(&bed.world.loop);
    while (loop_now_ms(&bed.world.loop) - start_ms <= 21)
        uv_update_time(bed.world.loop.uv);
    peer_upload_message(&bed.peer, stream, "late", 4, true);
    while (peer_pump(&bed.peer) > 0)
        ;
    assert_int_equal(seen.begins, 0);
    wait_ended(&bed, stream);
    assert_status(stream, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");

    /* It has begun, and asks. */
    stream = call_in_time(&bed, "/t.T/Idle", "20m", "", 0);
    settle(&bed);
    start_ms = loop_now_ms(&bed.world.loop);
    while (loop_now_ms(&bed.world.loop) - start_ms <= 21)
        uv_update_time(bed.world.loop.uv);
    assert_int_equal(call_time_left_ms(seen.call), 0);
    wait_ended(&bed, stream);
    bed_deinit(&bed);
}

/* However long a client would wait, the time that is left is neither negative nor short. */
static void test_huge_timeouts(void **state)
{
    static const struct {
        const char *timeout;
        int64_t least_ms;
    } cases[] = {
        {"99999999H", INT64_MAX},
        {"2562048H", INT64_MAX},
        {"2562047H", INT64_C(2562047) * 3600000 - 1000},
        {"99999999M", INT64_C(99999999) * 60000 - 1000},
        {"99999999S", INT64_C(99999999) * 1000 - 1000},
        {"99999999m", 99999999 - 1000},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct bed bed;

        bed_init(&bed, &usual);
        (void)call_in_time(&bed, "/t.T/Idle", cases[i].timeout, "", 0);
        settle(&bed);
        assert_non_null(seen.call);
        assert_true(call_time_left_ms(seen.call) >= cases[i].least_ms);
        bed_deinit(&bed);
    }
}

/* With the client's window at zero trailers still go, if no message is cut short by them. */
static void test_deadline_without_window(void **state)
{
    static const uint32_t windows[] = {0, PULL_SIZE, 3 * PULL_SIZE, 1, PULL_SIZE + 1};
    const uint8_t request[3] = {PULL_SIZE - 5, 100, 'n'};

    for (size_t i = 0; i < ELEMENTSOF(windows); i++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, windows[i]};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &peer);
        stream = call_in_time(&bed, "/t.T/Pull", "20m", request, 3);
        wait_ended(&bed, stream);
        assert_int_equal(stream->data.size, windows[i]);
        if (windows[i] % PULL_SIZE == 0) {
            assert_status(stream, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
        } else {
            assert_true(stream->reset && !stream->ended);
            assert_int_equal(stream->reset_code, NGHTTP2_CANCEL);
        }
        assert_int_equal(seen.status, WIRE_DEADLINE_EXCEEDED);
        assert_int_equal(bed.server.queued_bytes, 0);
        bed_deinit(&bed);
    }
}

static void test_request_timeout(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &usual);
    bed.server.request_timeout_ms = 20;
    stream = peer_request(&bed.peer, "/t.T/Echo", NULL, 0, true);
    peer_upload(&bed.peer, stream, "\0\0\0\0\1", 5, false);
    wait_ended(&bed, stream);
    assert_status(stream, WIRE_DEADLINE_EXCEEDED, "the request was not complete in time");
    /* It does not bound what comes after the request. */
    stream = call_in_time(&bed, "/t.T/Idle", "60m", "", 0);
    wait_ended(&bed, stream);
    assert_status(stream, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
    bed_deinit(&bed);
}

/* ---- Ends ---- */

static void test_finish_and_abort_by_a_message(void **state)
{
    struct peer_stream *finished, *aborted;
    struct bed bed;

    bed_init(&bed, &usual);
    finished = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    peer_upload_message(&bed.peer, finished, "a", 1, false);
    peer_upload_message(&bed.peer, finished, "b", 1, false);
    peer_upload_message(&bed.peer, finished, "F", 1, false);
    peer_upload_message(&bed.peer, finished, "never seen", 10, false);
    settle(&bed);
    assert_status(finished, WIRE_ABORTED, "finished");
    assert_int_equal(whole_messages(&finished->data), 2); /* what was queued goes first */
    assert_int_equal(seen.messages, 3);

    aborted = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    peer_upload_message(&bed.peer, aborted, "a", 1, false);
    peer_upload_message(&bed.peer, aborted, "A", 1, false);
    settle(&bed);
    assert_status(aborted, WIRE_RESOURCE_EXHAUSTED, "aborted");
    assert_int_equal(aborted->data.size, 0); /* what was queued is dropped */
    bed_deinit(&bed);
}

/* Ended while the client's window is empty, at `window` bytes. */
static void end_without_window(uint32_t window,
                               void (*end)(struct call *, enum wire_status, const char *),
                               bool finished_before, struct bed *bed,
                               struct peer_stream **ret_stream)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};

    bed_init(bed, &peer);
    *ret_stream = call_with(bed, "/t.T/Many", "stay", finished_before ? 0 : 4);
    settle(bed);
    assert_int_equal((*ret_stream)->data.size, window);
    end(seen.call, WIRE_RESOURCE_EXHAUSTED, "too slow");
    end(seen.call, WIRE_OK, "no news");
    settle(bed);
}

static void test_abort(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    for (unsigned finished = 0; finished < 2; finished++) {
        end_without_window(2010, call_abort, finished, &bed, &stream);
        assert_status(stream, WIRE_RESOURCE_EXHAUSTED, "too slow");
        assert_int_equal(seen.status, WIRE_RESOURCE_EXHAUSTED);
        bed_deinit(&bed);

        end_without_window(2011, call_abort, finished, &bed, &stream);
        assert_true(stream->reset && !stream->ended);
        assert_int_equal(stream->reset_code, NGHTTP2_ENHANCE_YOUR_CALM);
        assert_int_equal(seen.status, WIRE_RESOURCE_EXHAUSTED);
        assert_int_equal(bed.server.calls, 0);
        bed_deinit(&bed);
    }
}

static void test_shutdown(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    end_without_window(2010, call_shutdown, false, &bed, &stream);
    assert_status(stream, WIRE_RESOURCE_EXHAUSTED, "too slow");
    assert_int_equal(whole_messages(&stream->data), 2);
    bed_deinit(&bed);

    /* The message that it is in the middle of is sent to its end first. */
    end_without_window(2011, call_shutdown, false, &bed, &stream);
    assert_false(stream->ended || stream->reset);
    peer_grant(&bed.peer, stream, 3000);
    settle(&bed);
    assert_status(stream, WIRE_RESOURCE_EXHAUSTED, "too slow");
    assert_int_equal(whole_messages(&stream->data), 3);
    bed_deinit(&bed);

    /* A client that never takes that message goes with its connection: the status stands. */
    end_without_window(2011, call_shutdown, false, &bed, &stream);
    bed_deinit(&bed);
    assert_int_equal(seen.status, WIRE_RESOURCE_EXHAUSTED);
}

static void test_finish_with_queue(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    end_without_window(0, call_finish, false, &bed, &stream);
    assert_false(stream->ended || stream->reset);
    assert_true(bed.server.queued_bytes >= CALL_QUEUE_BYTES_MAX);
    for (unsigned i = 0; i < 100 && !stream->ended; i++) {
        peer_grant(&bed.peer, stream, 1001);
        peer_grant(&bed.peer, NULL, 1001);
        settle(&bed);
    }
    assert_status(stream, WIRE_RESOURCE_EXHAUSTED, "too slow");
    assert_int_equal(whole_messages(&stream->data), seen.messages);
    bed_deinit(&bed);
}

static void shut_down(struct stream *stream)
{
    call_shutdown(call_from_stream(stream), WIRE_UNAVAILABLE, "the server is shutting down");
}

/* The server stops between a HEADERS frame and its CONTINUATION; the headers are bad as well. */
static void test_shutdown_before_the_headers_are_whole(void **state)
{
    static char large[900];
    const struct field fields[] = {{"large", large}, {"content-type", "text/plain"}};
    struct buffer sent = {0};
    struct peer_stream *stream;
    struct bed bed;
    uint8_t continuation[9] = {0};
    size_t length, first = 40;

    memset(large, '~', sizeof(large) - 1);
    bed_init(&bed, &usual);
    settle(&bed);
    stream = peer_request(&bed.peer, "/t.T/Echo", fields, 2, true);
    peer_produce(&bed.peer, &sent);
    assert_int_equal(sent.bytes[3], NGHTTP2_HEADERS);
    length = sent.size - 9 - first;
    memcpy(continuation, sent.bytes, 9);
    sent.bytes[0] = 0;
    sent.bytes[1] = 0;
    sent.bytes[2] = (uint8_t)first;
    sent.bytes[4] &= (uint8_t)~NGHTTP2_FLAG_END_HEADERS;
    continuation[1] = (uint8_t)(length >> 8);
    continuation[2] = (uint8_t)length;
    continuation[3] = NGHTTP2_CONTINUATION;
    continuation[4] = NGHTTP2_FLAG_END_HEADERS;
    memory_deliver(&bed.memory, sent.bytes, 9 + first, 0);
    assert_int_equal(bed.server.calls, 1);
    connection_each_stream(bed.connection, shut_down);
    memory_deliver(&bed.memory, continuation, 9, 0);
    memory_deliver(&bed.memory, sent.bytes + 9 + first, length, 0);
    settle(&bed);
    assert_status(stream, WIRE_UNAVAILABLE, "the server is shutting down");
    assert_int_equal(seen.begins, 0);
    buffer_deinit(&sent);
    bed_deinit(&bed);
}

static void test_client_resets(void **state)
{
    const uint8_t request[3] = {10, 255, 'n'};
    struct peer_stream *streams[3];
    struct bed bed;

    bed_init(&bed, &holding);
    streams[0] = call_with(&bed, "/t.T/Many", "stay", 4);
    streams[1] = call_with(&bed, "/t.T/Pull", request, 3);
    streams[2] = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    settle(&bed);
    assert_int_equal(bed.server.calls, 3);
    for (unsigned i = 0; i < 3; i++)
        peer_reset(&bed.peer, streams[i], NGHTTP2_CANCEL);
    (void)peer_pump(&bed.peer);
    assert_int_equal(bed.server.calls, 0); /* at once */
    assert_int_equal(seen.ends, 3);
    assert_int_equal(seen.status, WIRE_CANCELLED);
    assert_int_equal(STATS_OF_MANY->handled_total[WIRE_CANCELLED], 1);
    assert_int_equal(bed.server.queued_bytes, 0);
    bed_deinit(&bed);
}

/* A client cancels while its messages wait for room in the queue of answers. */
static void test_cancelled_while_input_is_held(void **state)
{
    static char body[1000];
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &holding);
    stream = peer_request(&bed.peer, "/t.T/Chat", NULL, 0, true);
    for (unsigned i = 0; i < 300; i++)
        peer_upload_message(&bed.peer, stream, body, sizeof(body), i == 299);
    settle(&bed);
    assert_true(bed.server.input_bytes > 0);
    assert_true(bed.server.queued_bytes >= CALL_QUEUE_BYTES_MAX);
    assert_int_equal(seen.half_closes, 0); /* the end waits behind what is held */
    peer_reset(&bed.peer, stream, NGHTTP2_CANCEL);
    (void)peer_pump(&bed.peer);
    assert_int_equal(bed.server.calls, 0);
    assert_int_equal(bed.server.input_bytes, 0);
    assert_int_equal(bed.server.queued_bytes, 0);
    assert_int_equal(seen.ends, 1);
    assert_int_equal(seen.half_closes, 0);
    /* The connection has its credit back: the next call is not held up. */
    stream = call_with(&bed, "/t.T/Echo", body, sizeof(body));
    peer_grant(&bed.peer, NULL, 100000);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    bed_deinit(&bed);
}

static void stall(struct stream *stream)
{
    call_connection_ops.stalled(stream, BLOCKED_STREAM_WINDOW);
}

#define STALLED "the client took nothing for the server's stall_timeout"

/* At a message boundary its client is told why, in the middle of one only by the reset. */
static void test_stalled(void **state)
{
    static const uint32_t windows[] = {0, PULL_SIZE, 1, PULL_SIZE + 1};
    const uint8_t request[3] = {PULL_SIZE - 5, 100, 'n'};

    for (size_t i = 0; i < ELEMENTSOF(windows); i++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, windows[i]};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &peer);
        stream = call_with(&bed, "/t.T/Pull", request, 3);
        settle(&bed);
        assert_false(stream->ended);
        connection_each_stream(bed.connection, stall);
        connection_each_stream(bed.connection, stall); /* it is told once more: that is no second */
        settle(&bed);
        if (windows[i] % PULL_SIZE == 0) {
            assert_status(stream, WIRE_RESOURCE_EXHAUSTED, STALLED);
        } else {
            assert_true(stream->reset);
            assert_int_equal(stream->reset_code, NGHTTP2_ENHANCE_YOUR_CALM);
        }
        assert_int_equal(bed.server.stalled_total, 1);
        assert_int_equal(bed.server.calls, 0);
        assert_int_equal(seen.status, WIRE_RESOURCE_EXHAUSTED);
        assert_int_equal(STATS_OF_PULL->handled_total[WIRE_RESOURCE_EXHAUSTED], 1);
        bed_deinit(&bed);
    }
}

/* The connection finds by itself who takes nothing, and leaves alone who takes a byte at a time. */
static void test_stall_timeout(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, PULL_SIZE};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const uint8_t request[3] = {PULL_SIZE - 5, 255, 'n'};
    struct peer_stream *still, *inside, *slow;
    uint64_t start_ms;
    struct bed bed;

    bed_init_stall(&bed, &peer, 40);
    still = call_with(&bed, "/t.T/Pull", request, 3);
    inside = call_with(&bed, "/t.T/Pull", request, 3);
    slow = call_with(&bed, "/t.T/Pull", request, 3);
    settle(&bed);
    peer_grant(&bed.peer, inside, 1);
    start_ms = loop_now_ms(&bed.world.loop);
    while (!still->closed || !inside->closed ||
           loop_now_ms(&bed.world.loop) - start_ms < 10 * UINT64_C(40)) {
        peer_grant(&bed.peer, slow, 1);
        world_sleep(&bed.world);
        (void)peer_pump(&bed.peer);
    }
    assert_status(still, WIRE_RESOURCE_EXHAUSTED, STALLED);
    assert_int_equal(still->data.size, PULL_SIZE);
    assert_true(inside->reset);
    assert_int_equal(inside->reset_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_false(slow->closed);
    assert_int_equal(bed.server.stalled_total, 2);
    assert_int_equal(bed.stats.streams_stalled_total, 2);
    assert_int_equal(bed.server.calls, 1);
    bed_deinit(&bed);
}

/* A call that its handler has ended well, but whose client does not take the rest. */
static void test_stalled_when_finished(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1005};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &peer);
    stream = call_with(&bed, "/t.T/Many", "", 0);
    settle(&bed);
    assert_int_equal(bed.server.calls, 1);
    connection_each_stream(bed.connection, stall);
    settle(&bed);
    assert_status(stream, WIRE_RESOURCE_EXHAUSTED, STALLED);
    assert_int_equal(whole_messages(&stream->data), 1);
    assert_int_equal(bed.server.stalled_total, 1);
    assert_int_equal(bed.server.calls, 0);
    bed_deinit(&bed);
}

/* A server that stops takes no new call, and goes on with those it has. */
static void test_stopping(void **state)
{
    struct peer_stream *old, *new;
    struct bed bed;

    bed_init(&bed, &usual);
    old = peer_request(&bed.peer, "/t.T/Sum", NULL, 0, true);
    settle(&bed);
    bed.server.stopping = true;
    new = call_with(&bed, "/t.T/Echo", "x", 1);
    settle(&bed);
    assert_true(new->reset);
    assert_int_equal(new->reset_code, NGHTTP2_REFUSED_STREAM);
    assert_int_equal(new->blocks, 0);
    assert_int_equal(bed.server.refused_total[REFUSAL_SHUTDOWN], 1);
    assert_int_equal(seen.begins, 1);
    peer_upload_message(&bed.peer, old, "\1\2", 2, true);
    settle(&bed);
    assert_status(old, WIRE_OK, NULL);
    bed_deinit(&bed);
}

static void test_max_calls(void **state)
{
    struct peer_stream *streams[3];
    struct bed bed;

    bed_init(&bed, &usual);
    bed.server.max_calls = 2;
    for (unsigned i = 0; i < 3; i++)
        streams[i] = call_with(&bed, "/t.T/Idle", "", 0);
    settle(&bed);
    assert_int_equal(bed.server.calls, 2);
    assert_int_equal(bed.server.refused_total[REFUSAL_MAX_STREAMS_TOTAL], 1);
    assert_true(streams[2]->reset);
    assert_int_equal(streams[2]->reset_code, NGHTTP2_REFUSED_STREAM);
    peer_reset(&bed.peer, streams[0], NGHTTP2_CANCEL);
    streams[2] = call_with(&bed, "/t.T/Echo", "", 0);
    settle(&bed);
    assert_status(streams[2], WIRE_OK, NULL);
    bed_deinit(&bed);
}

/* Requests that never become whole share a bound; a short one always has room. */
static void test_max_input_bytes(void **state)
{
    static const uint8_t half[5 + 10000] = {0, 0, 0, 0x4e, 0x20};
    struct peer_stream *streams[4];
    struct bed bed;

    bed_init(&bed, &usual);
    bed.server.max_message_bytes = 1 << 20;
    bed.server.max_input_bytes = 3 * 16384;
    for (unsigned i = 0; i < 4; i++) {
        streams[i] = peer_request(&bed.peer, "/t.T/Echo", NULL, 0, true);
        peer_upload(&bed.peer, streams[i], half, sizeof(half), false);
        settle(&bed);
    }
    assert_int_equal(bed.server.input_bytes, 3 * 16384);
    for (unsigned i = 0; i < 3; i++)
        assert_false(streams[i]->ended);
    assert_status(streams[3], WIRE_RESOURCE_EXHAUSTED, "too much of unfinished requests is held");
    streams[3] = call_with(&bed, "/t.T/Echo", "short", 5);
    settle(&bed);
    assert_status(streams[3], WIRE_OK, NULL);
    peer_reset(&bed.peer, streams[0], NGHTTP2_CANCEL);
    settle(&bed);
    assert_int_equal(bed.server.input_bytes, 2 * 16384);
    bed_deinit(&bed);
}

/* ---- Room in the queue ---- */

static const struct peer_options wide = {
    .hold_credit = true,
    .settings = &(const nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 100 << 20},
    .settings_count = 1,
};

static void assert_rooms(const struct peer_stream *stream, unsigned count, size_t size)
{
    size_t offset = 0;

    assert_int_equal(stream->data.size, count * (size + WIRE_PREFIX_SIZE));
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(wire_prefix_length(stream->data.bytes + offset), size);
        for (size_t k = 0; k < size; k++)
            assert_int_equal(stream->data.bytes[offset + WIRE_PREFIX_SIZE + k], 'a' + i % 26);
        offset += WIRE_PREFIX_SIZE + size;
    }
}

/* A handler with more than the queue takes goes on when it has room, with little held meanwhile. */
static void test_room(void **state)
{
    static const uint8_t requests[][2] = {{200, 4}, {5, 250}, {100, 64}, {1, 250}, {3, 0}};

    for (size_t i = 0; i < ELEMENTSOF(requests); i++) {
        size_t size = requests[i][1] * 1024U;
        struct peer_stream *stream;
        uint64_t most = 0;
        struct bed bed;

        bed_init(&bed, &wide);
        stream = call_with(&bed, "/t.T/Room", requests[i], 2);
        settle(&bed);
        while (!stream->ended) {
            uint64_t before = stream->data.size;

            most = MAX(most, bed.server.queued_bytes);
            peer_grant(&bed.peer, NULL, 60000);
            settle(&bed);
            assert_true(stream->ended || stream->data.size > before);
        }
        assert_status(stream, WIRE_OK, NULL);
        assert_rooms(stream, requests[i][0], size);
        assert_true(most <= CALL_QUEUE_BYTES_MAX + 2 * (size + WIRE_PREFIX_SIZE));
        assert_true((seen.rooms > 0) ==
                    ((size + 5) * requests[i][0] > 2 * CALL_QUEUE_BYTES_MAX && requests[i][0] > 1));
        assert_int_equal(STATS_OF_ROOM->sent_total, requests[i][0]);
        bed_deinit(&bed);
    }
}

/* Whoever does not send again, when told of room, is not told again. */
static void test_room_is_told_once(void **state)
{
    const uint8_t request[2] = {200, 4};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &holding);
    stream = call_with(&bed, "/t.T/Room", request, 2);
    settle(&bed);
    seen.rooms = 0;
    seen.rooms_unused = true;
    for (unsigned i = 0; i < 50; i++) {
        peer_grant(&bed.peer, NULL, 10000);
        peer_grant(&bed.peer, stream, 10000);
        settle(&bed);
    }
    assert_int_equal(seen.rooms, 1);
    assert_int_equal(bed.server.queued_bytes, 0);
    assert_false(stream->ended);
    seen.rooms_unused = false;
    room_fill(seen.call);
    while (!stream->ended) {
        peer_grant(&bed.peer, NULL, 10000);
        peer_grant(&bed.peer, stream, 10000);
        settle(&bed);
    }
    assert_status(stream, WIRE_OK, NULL);
    assert_rooms(stream, 200, 4096);
    bed_deinit(&bed);
}

/* Whoever has ended is not told. */
static void test_no_room_after_the_end(void **state)
{
    const uint8_t request[2] = {200, 4};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &holding);
    stream = call_with(&bed, "/t.T/Room", request, 2);
    settle(&bed);
    assert_non_null(seen.call);
    seen.rooms = 0;
    call_finish(seen.call, WIRE_ABORTED, "enough");
    while (!stream->ended) {
        peer_grant(&bed.peer, NULL, 10000);
        peer_grant(&bed.peer, stream, 10000);
        settle(&bed);
    }
    assert_status(stream, WIRE_ABORTED, "enough");
    assert_int_equal(seen.rooms, 0);
    bed_deinit(&bed);
}

/* ---- gzip ---- */

static const struct field gzip_both[] = {{"grpc-encoding", "gzip"},
                                         {"grpc-accept-encoding", "identity, gzip"}};

/* Adds a message that is compressed, whatever that does to its length. */
static void upload_gzip(struct bed *bed, struct peer_stream *stream, const void *body, size_t size,
                        bool end)
{
    struct message *message = message_new((uint32_t)size);
    struct message *twin;

    assert_non_null(message);
    if (size > 0)
        memcpy(message_body(message), body, size);
    twin = compression_gzip(message);
    assert_non_null(twin);
    peer_upload(&bed->peer, stream, twin->bytes, twin->size, end);
    message_unref(twin);
    message_unref(message);
}

/* The bodies that came, one after the other; how many were compressed. */
static unsigned unpack(const struct buffer *data, struct buffer *ret_bodies)
{
    unsigned compressed = 0;
    size_t offset = 0;

    while (offset < data->size) {
        const uint8_t *prefix = data->bytes + offset;
        uint32_t length = wire_prefix_length(prefix);

        assert_true(data->size - offset - WIRE_PREFIX_SIZE >= length);
        if (prefix[0] == 0) {
            buffer_append(ret_bodies, prefix + WIRE_PREFIX_SIZE, length);
        } else {
            uint8_t *body = NULL;
            size_t size = 0;

            assert_int_equal(prefix[0], 1);
            assert_int_equal(
                compression_gunzip(prefix + WIRE_PREFIX_SIZE, length, 1 << 20, &body, &size), 0);
            assert_true(size > length); /* only where it makes it shorter */
            buffer_append(ret_bodies, body, size);
            free(body);
            compressed++;
        }
        offset += WIRE_PREFIX_SIZE + length;
    }
    return compressed;
}

/* Compressed messages and others in one stream, however their bytes are split. */
static void test_gzip_requests(void **state)
{
    static char ones[5000];

    memset(ones, 1, sizeof(ones));
    for (size_t split = 0; split < 70; split++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        bed.peer.split = split;
        stream = peer_request(&bed.peer, "/t.T/Sum", gzip_both, 2, true);
        upload_gzip(&bed, stream, ones, 5000, false);
        peer_upload_message(&bed.peer, stream, ones, 100, false);
        upload_gzip(&bed, stream, ones, 0, false);
        upload_gzip(&bed, stream, ones, 1, true);
        settle(&bed);
        assert_status(stream, WIRE_OK, NULL);
        assert_int_equal(stream->data.size, 9);
        assert_memory_equal(stream->data.bytes + 5, "5101", 4);
        assert_int_equal(seen.messages, 4);
        assert_int_equal(seen.compressed, 3);
        assert_int_equal(seen.longest, 5000);
        assert_int_equal(stats[3].received_total, 4);
        /* What it became is held while it lives, and its input too. */
        assert_in_range(seen.input_bytes, 5001, 6000);
        assert_null(peer_field(stream, "grpc-encoding")); /* nobody asked Sum for that */
        bed_deinit(&bed);
    }
}

static void test_gzip_unary(void **state)
{
    static char zeros[8000];

    for (unsigned gzip = 0; gzip < 2; gzip++) {
        struct buffer bodies = {0};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, "/t.T/ZipEcho", gzip_both, 2, true);
        if (gzip)
            upload_gzip(&bed, stream, zeros, sizeof(zeros), true);
        else
            peer_upload_message(&bed.peer, stream, zeros, sizeof(zeros), true);
        settle(&bed);
        assert_status(stream, WIRE_OK, NULL);
        assert_int_equal(seen.compressed, gzip);
        assert_int_equal(seen.gzip, 0);
        assert_string_equal(peer_field(stream, "grpc-encoding"), "gzip");
        assert_int_equal(unpack(&stream->data, &bodies), 1);
        assert_int_equal(bodies.size, sizeof(zeros));
        assert_memory_equal(bodies.bytes, zeros, sizeof(zeros));
        assert_int_equal(stats[8].sent_total, 1);
        buffer_deinit(&bodies);
        bed_deinit(&bed);
    }
}

/* A gzip message of `zeros` zeros, then changed: 'c' in the middle, 't' cut short, 'g' with a byte
 * behind it, 'e' empty, 'f' with an unknown flag. */
static void upload_bad_gzip(struct bed *bed, struct peer_stream *stream, size_t zeros, char change,
                            bool end)
{
    struct message *message = message_new((uint32_t)zeros);
    struct message *twin;
    uint32_t length;
    uint8_t bytes[300];

    assert_non_null(message);
    memset(message_body(message), 0, zeros);
    twin = compression_gzip(message);
    assert_non_null(twin);
    assert_true(twin->size < sizeof(bytes));
    memcpy(bytes, twin->bytes, twin->size);
    length = twin->size - WIRE_PREFIX_SIZE;
    if (change == 'c')
        bytes[twin->size - 6] ^= 1;
    if (change == 't')
        length--;
    if (change == 'g')
        bytes[WIRE_PREFIX_SIZE + length++] = 0;
    if (change == 'e')
        length = 0;
    wire_prefix_write(bytes, length);
    bytes[0] = change == 'f' ? 2 : 1;
    peer_upload(&bed->peer, stream, bytes, WIRE_PREFIX_SIZE + length, end);
    message_unref(twin);
    message_unref(message);
}

#define NO_GZIP "a compressed message that is no gzip"
#define TOO_LONG "a message of 10001 bytes or more; the most is 10000"
#define TOO_MUCH "too much of unfinished requests is held"

static void test_gzip_faults(void **state)
{
    static const struct {
        size_t zeros;
        uint64_t max_input;
        char change;
        enum wire_status status;
        const char *text;
    } cases[] = {
        {1000, 1 << 20, 'c', 13, NO_GZIP},
        {1000, 1 << 20, 't', 13, NO_GZIP},
        {1000, 1 << 20, 'g', 13, NO_GZIP},
        {1000, 1 << 20, 'e', 13, NO_GZIP},
        {1000, 1 << 20, 'f', 13, "a message with an unknown compressed flag"},
        {MAX_MESSAGE_BYTES, 1 << 20, 'c', 13, NO_GZIP},
        {MAX_MESSAGE_BYTES + 1, 1 << 20, '-', 8, TOO_LONG},
        {10 * MAX_MESSAGE_BYTES, 1 << 20, '-', 8, TOO_LONG},
        {10 * MAX_MESSAGE_BYTES, 1 << 20, 'c', 8, TOO_LONG}, /* it is not read to its end */
        {5000, 4000, '-', 8, TOO_MUCH},
        {MAX_MESSAGE_BYTES, 1 << 20, '-', 0, NULL},
        {5000, 6000, '-', 0, NULL},
        {1000, 100, '-', 0, NULL}, /* a short one always has room */
    };
    static const char *const paths[] = {"/t.T/ZipEcho", "/t.T/Sum"};

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        for (size_t p = 0; p < ELEMENTSOF(paths); p++) {
            struct peer_stream *stream;
            struct bed bed;

            bed_init(&bed, &usual);
            bed.server.max_input_bytes = cases[i].max_input;
            stream = peer_request(&bed.peer, paths[p], gzip_both, 2, true);
            upload_bad_gzip(&bed, stream, cases[i].zeros, cases[i].change, true);
            settle(&bed);
            assert_status(stream, cases[i].status, cases[i].text);
            assert_int_equal(seen.messages, cases[i].status == 0);
            assert_int_equal(bed.server.calls, 0);
            assert_int_equal(bed.server.input_bytes, 0);
            bed_deinit(&bed);
        }
    }
}

#define LONG_SIZE (4u << 20)

/* A call with one message that becomes LONG_SIZE bytes. Was it taken? */
static bool upload_long(struct bed *bed, const struct message *twin)
{
    struct peer_stream *stream = peer_request(&bed->peer, "/t.T/Sum", gzip_both, 2, true);

    seen.messages = 0;
    peer_upload(&bed->peer, stream, twin->bytes, twin->size, true);
    settle(bed);
    if (seen.messages > 0)
        assert_status(stream, WIRE_OK, NULL);
    else
        assert_status(stream, WIRE_RESOURCE_EXHAUSTED, "too much is decompressed just now");
    return seen.messages > 0;
}

/* What becomes much longer has a budget for all calls together, which comes back with time. */
static void test_gzip_budget(void **state)
{
    const unsigned most = CALL_INFLATED_BYTES_MAX / LONG_SIZE + 1;
    struct message *message = message_new(LONG_SIZE);
    struct message *twin;
    struct peer_stream *stream;
    struct bed bed;
    unsigned taken = 0;

    assert_non_null(message);
    memset(message_body(message), 0, LONG_SIZE);
    twin = compression_gzip(message);
    assert_non_null(twin);
    bed_init(&bed, &usual);
    bed.server.max_message_bytes = LONG_SIZE;
    bed.server.max_input_bytes = 2 * LONG_SIZE;
    while (upload_long(&bed, twin)) {
        taken++;
        assert_true(taken < 100 * most); /* the clock runs meanwhile */
    }
    assert_true(taken >= most);
    /* Nobody else is harmed: neither plain messages nor short ones. */
    stream = peer_request(&bed.peer, "/t.T/Sum", gzip_both, 2, true);
    peer_upload_message(&bed.peer, stream, "abc", 3, false);
    upload_gzip(&bed, stream, "x", 1, true);
    settle(&bed);
    assert_status(stream, WIRE_OK, NULL);
    while (!upload_long(&bed, twin))
        world_sleep(&bed.world);
    bed_deinit(&bed);
    message_unref(twin);
    message_unref(message);
}

/* Without an encoding no message may be compressed, be it said so or not. */
static void test_gzip_without_an_encoding(void **state)
{
    static const struct field fields[] = {{"grpc-encoding", "identity"},
                                          {"grpc-accept-encoding", "gzip"}};

    for (size_t i = 0; i < 2; i++) {
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, "/t.T/Sum", &fields[i], 1, true);
        upload_gzip(&bed, stream, "x", 1, false);
        settle(&bed);
        assert_status(stream, WIRE_INTERNAL, "a compressed message without grpc-encoding");
        bed_deinit(&bed);
    }
}

/* Each message is compressed where that makes it shorter, its handler lets it, and the client. */
static void test_gzip_answers(void **state)
{
    static const struct {
        struct field field;
        bool accepts;
    } cases[] = {
        {{"grpc-accept-encoding", "gzip"}, true},
        {{"grpc-accept-encoding", "deflate,gzip"}, true},
        {{"grpc-accept-encoding", "identity"}, false},
        {{"grpc-accept-encoding", "deflate"}, false},
        {{"x", "gzip"}, false},
    };
    static char body[3000];

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct buffer bodies = {0};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &usual);
        stream = peer_request(&bed.peer, "/t.T/Zip", &cases[i].field, 1, true);
        memset(body, 'z', sizeof(body));
        peer_upload_message(&bed.peer, stream, body, sizeof(body), false);
        body[0] = 'P';
        peer_upload_message(&bed.peer, stream, body, sizeof(body), false);
        peer_upload_message(&bed.peer, stream, "short", 5, false);
        peer_upload_message(&bed.peer, stream, "", 0, false);
        body[0] = 'z';
        peer_upload_message(&bed.peer, stream, body, sizeof(body), true);
        settle(&bed);
        assert_status(stream, WIRE_OK, NULL);
        assert_int_equal(seen.gzip, cases[i].accepts ? 0 : 1);
        assert_int_equal(unpack(&stream->data, &bodies), cases[i].accepts ? 2 : 0);
        assert_int_equal(bodies.size, 9005);
        assert_memory_equal(bodies.bytes, body, sizeof(body));
        assert_int_equal(bodies.bytes[3000], 'P');
        assert_memory_equal(bodies.bytes + 6000, "short", 5);
        if (cases[i].accepts)
            assert_string_equal(peer_field(stream, "grpc-encoding"), "gzip");
        else
            assert_null(peer_field(stream, "grpc-encoding"));
        assert_int_equal(STATS_OF_ZIP->sent_total, 5);
        assert_int_equal(STATS_OF_ZIP->received_total, 5);
        buffer_deinit(&bodies);
        bed_deinit(&bed);
    }
}

/* What is pulled is compressed one by one, straddles frames and windows, and is counted exactly. */
static void test_gzip_pull(void **state)
{
    static const int32_t grants[] = {1, 7, 29, 100, 20000};

    for (unsigned i = 0; i < 2 * ELEMENTSOF(grants); i++) {
        /* 35 bytes of a letter become shorter, 3 of them don't. */
        const uint8_t request[4] = {i % 2 ? 35 : 3, 200, 'l', 'z'};
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        struct buffer bodies = {0};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &peer);
        stream = peer_request(&bed.peer, "/t.T/Pull", gzip_both, 2, true);
        peer_upload_message(&bed.peer, stream, request, 4, true);
        settle(&bed);
        while (!stream->ended) {
            peer_grant(&bed.peer, stream, grants[i / 2]);
            settle(&bed);
            /* A message that is not whole is held, with nothing else. */
            assert_true(bed.server.queued_bytes <= PULL_SIZE);
            assert_int_equal(STATS_OF_PULL->sent_total,
                             wire_count_messages(stream->data.bytes, stream->data.size));
        }
        assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
        assert_int_equal(unpack(&stream->data, &bodies), i % 2 ? 200 : 0);
        assert_int_equal(bodies.size, 200 * request[0]);
        for (size_t k = 0; k < bodies.size; k++)
            assert_int_equal(bodies.bytes[k], 'a' + k / request[0] % 26);
        assert_int_equal(STATS_OF_PULL->sent_total, 200);
        buffer_deinit(&bodies);
        bed_deinit(&bed);
    }
}

/* Compressed messages are counted when the kernel has their last byte, not before. */
static void test_gzip_sent_means_sent(void **state)
{
    const uint8_t request[4] = {35, 100, 'l', 'z'};
    struct peer_stream *stream;
    struct buffer bodies = {0};
    struct bed bed;

    bed_init(&bed, &usual);
    settle(&bed);
    stream = peer_request(&bed.peer, "/t.T/Pull", gzip_both, 2, true);
    peer_upload_message(&bed.peer, stream, request, 4, true);
    bed.memory.accept = 0;
    settle(&bed);
    assert_true(bed.memory.kept > 0);
    assert_int_equal(STATS_OF_PULL->sent_total, 0);
    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    settle(&bed);
    assert_int_equal(STATS_OF_PULL->sent_total, 100);
    assert_int_equal(unpack(&stream->data, &bodies), 100);
    buffer_deinit(&bodies);
    bed_deinit(&bed);
}

/* One message for several calls is compressed once; those without gzip get it as it is. */
static void test_gzip_is_shared(void **state)
{
    struct message *message = message_new(2000);
    struct peer_stream *streams[4];
    struct call *calls[4];
    struct message *twin;
    struct bed bed;

    memset(message_body(message), 's', 2000);
    bed_init(&bed, &holding);
    for (unsigned i = 0; i < 4; i++) {
        streams[i] = peer_request(&bed.peer, "/t.T/Zip", gzip_both, i < 3 ? 2 : 1, true);
        settle(&bed);
        calls[i] = seen.call;
        assert_non_null(calls[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(call_send(calls[i], message), 0);
    assert_int_equal(call_send_plain(calls[0], message), 0);
    twin = compression_twin(message);
    assert_ptr_not_equal(twin, message);
    assert_int_equal(twin->references, 1 + 3);
    assert_int_equal(message->references, 1 + 2);
    assert_int_equal(bed.server.queued_bytes, 3 * twin->size + 2 * message->size);
    message_unref(message);
    settle(&bed);
    for (unsigned i = 0; i < 4; i++) {
        struct buffer bodies = {0};

        assert_int_equal(unpack(&streams[i]->data, &bodies), i < 3);
        assert_int_equal(bodies.size, i == 0 ? 4000 : 2000);
        buffer_deinit(&bodies);
        peer_reset(&bed.peer, streams[i], NGHTTP2_CANCEL);
    }
    settle(&bed);
    bed_deinit(&bed);
}

/* ---- Anything at any time ---- */

static uint32_t draw(uint32_t *random, uint32_t below)
{
    *random = *random * 1664525 + 1013904223;
    return (*random >> 8) % below;
}

static unsigned blocked_now[BLOCKED_REASON_COUNT + 1];

static void count_blocked(struct stream *stream)
{
    blocked_now[stream_blocked(stream)]++;
}

/* The gauges of what blocks are those that a count finds. */
static void assert_books(struct bed *bed)
{
    unsigned streams = 0;

    memset(blocked_now, 0, sizeof(blocked_now));
    connection_each_stream(bed->connection, count_blocked);
    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        assert_int_equal(bed->stats.blocked[i], blocked_now[i]);
    for (unsigned i = 0; i < ELEMENTSOF(blocked_now); i++)
        streams += blocked_now[i];
    assert_int_equal(bed->stats.streams, streams);
    assert_int_equal(bed->stats.unsent_bytes, bed->memory.kept);
}

static uint32_t *ending_random;

static void maybe_end(struct stream *stream)
{
    static void (*const ends[])(struct call *, enum wire_status,
                                const char *) = {call_finish, call_abort, call_shutdown};

    if (draw(ending_random, 8) == 0)
        ends[draw(ending_random, ELEMENTSOF(ends))](call_from_stream(stream), WIRE_ABORTED, "end");
    if (draw(ending_random, 30) == 0)
        stream_reset(stream, NGHTTP2_CANCEL);
}

static struct peer_stream *some_stream(struct bed *bed, uint32_t *random)
{
    struct peer_stream *stream, *chosen = NULL;

    LIST_FOREACH (stream, &bed->peer.streams, link) {
        if (!stream->closed && (!chosen || draw(random, 3) == 0))
            chosen = stream;
    }
    return chosen;
}

static void random_request(struct bed *bed, uint32_t *random)
{
    static const char modes[] = "laxn";
    const uint8_t request[4] = {(uint8_t)draw(random, PULL_SIZE - 4), (uint8_t)draw(random, 256),
                                (uint8_t)modes[draw(random, 4)], 'z'};
    static char large[9000];
    struct peer_stream *stream;

    switch (draw(random, 8)) {
    case 0:
        (void)call_with(bed, "/t.T/Pull", request, 3);
        break;
    case 5:
        stream = peer_request(&bed->peer, "/t.T/Pull", gzip_both, 2, true);
        peer_upload_message(&bed->peer, stream, request, 4, true);
        break;
    case 6:
        (void)call_with(bed, "/t.T/Room", request, 2);
        break;
    case 7:
        stream = peer_request(&bed->peer, "/t.T/Zip", gzip_both, 2, true);
        upload_gzip(bed, stream, large, draw(random, sizeof(large)), draw(random, 3) == 0);
        break;
    case 1:
        (void)call_with(bed, "/t.T/Echo", large, draw(random, sizeof(large)));
        break;
    case 2:
        (void)call_with(bed, "/t.T/Many", large, draw(random, 2));
        break;
    case 3:
        (void)call_in_time(bed, "/t.T/Idle", "1m", "", 0);
        break;
    default:
        (void)peer_request(&bed->peer, draw(random, 2) ? "/t.T/Chat" : "/t.T/Sum", NULL, 0, true);
        break;
    }
}

static void random_peer_step(struct bed *bed, uint32_t *random)
{
    static char large[9000];
    struct peer_stream *stream = some_stream(bed, random);

    if (!stream) {
        random_request(bed, random);
        return;
    }
    switch (draw(random, 10)) {
    case 0:
    case 1:
        random_request(bed, random);
        break;
    case 2:
    case 3:
        if (!stream->upload_end)
            peer_upload_message(&bed->peer, stream, large, draw(random, sizeof(large)),
                                draw(random, 5) == 0);
        break;
    case 4:
        peer_reset(&bed->peer, stream, NGHTTP2_CANCEL);
        break;
    case 5:
        peer_settings(&bed->peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, draw(random, 3000));
        break;
    case 6:
        peer_grant(&bed->peer, NULL, 1 + (int32_t)draw(random, 5000));
        break;
    default:
        peer_grant(&bed->peer, stream, 1 + (int32_t)draw(random, 3000));
        break;
    }
}

static void random_step(struct bed *bed, uint32_t *random)
{
    bed->memory.accept = draw(random, 3) ? SIZE_MAX : draw(random, 3000);
    if (bed->memory.kept > 0 && draw(random, 3) == 0)
        memory_release(&bed->memory, 0);
    random_peer_step(bed, random);
    if (draw(random, 3) > 0)
        (void)peer_pump(&bed->peer);
    if (draw(random, 4) == 0) {
        ending_random = random;
        connection_each_stream(bed->connection, maybe_end);
    }
    if (draw(random, 3) > 0)
        world_turn(&bed->world);
}

static void test_random_lives(void **state)
{
    uint64_t calls = 0;

    for (uint32_t seed = 1; seed <= 150; seed++) {
        uint32_t random = seed * 2654435761u;
        struct bed bed;

        bed_init(&bed, &holding);
        bed.peer.split = seed % 3 == 0 ? 1 + seed % 50 : 0;
        for (unsigned i = 0; i < 300 && !bed.memory.closing && !bed.memory.shut; i++) {
            random_step(&bed, &random);
            if (!bed.memory.closing)
                assert_books(&bed);
        }
        assert_false(bed.memory.closing); /* nothing in this is a fault of the connection */
        calls += seen.begins;
        bed_deinit(&bed);
    }
    assert_true(calls > 150 * 10);
}

/* ---- How late messages are sent ---- */

/* Lags that differ by more than a test takes, in seconds, and what lies between them. */
enum {
    LAG_NONE,
    LAG_SHORT = 20,
    LAG_LONG = 40,
};
static const double lag_bounds[] = {10, 30};

static struct histogram *measure_lag(struct method_stats *measured)
{
    static struct histogram histogram;

    histogram_init(&histogram, lag_bounds, ELEMENTSOF(lag_bounds));
    measured->send_lag = &histogram;
    return &histogram;
}

static uint64_t ms_ago(const struct bed *bed, unsigned seconds)
{
    return seconds == LAG_NONE ? 0 : loop_now_ms(&bed->world.loop) - seconds * 1000U;
}

static void assert_lags(const struct histogram *histogram, unsigned none, unsigned short_,
                        unsigned long_)
{
    assert_int_equal(histogram->buckets[0], none);
    assert_int_equal(histogram->buckets[1], short_);
    assert_int_equal(histogram->buckets[2], long_);
    assert_true(histogram->sum >= short_ * LAG_SHORT + long_ * LAG_LONG);
}

/*
 * A message that waits in the middle for window keeps the time that it was due at, and what begins
 * behind it in the same frame has its own. The same compressed, where each is pulled by itself.
 */
static void test_lag_of_what_is_pulled(void **state)
{
    for (unsigned gzip = 0; gzip <= 1; gzip++) {
        const uint8_t request[4] = {35, 10, 'l', 'z'};
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        const struct histogram *lag;
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &peer);
        lag = measure_lag(STATS_OF_PULL);
        stream = peer_request(&bed.peer, "/t.T/Pull", gzip_both, gzip ? 2 : 0, true);
        peer_upload_message(&bed.peer, stream, request, 3 + gzip, true);
        settle(&bed);
        seen.pull_due_ms = ms_ago(&bed, LAG_LONG);
        peer_grant(&bed.peer, stream, 10);
        settle(&bed);
        assert_lags(lag, 0, 0, 0);
        seen.pull_due_ms = ms_ago(&bed, LAG_SHORT);
        peer_grant(&bed.peer, stream, 72); /* the rest, another, and some of a third */
        settle(&bed);
        assert_lags(lag, 0, 1, 1);
        seen.pull_due_ms = 0;
        peer_grant(&bed.peer, stream, 10000);
        settle(&bed);
        assert_status(stream, WIRE_OUT_OF_RANGE, "no more");
        assert_lags(lag, 7, 2, 1);
        assert_int_equal(STATS_OF_PULL->sent_total, 10);
        bed_deinit(&bed);
    }
}

/* Messages from the queue were due when they say so, and so was their compressed twin. */
static void test_lag_of_what_is_queued(void **state)
{
    static const unsigned ago[] = {LAG_LONG, LAG_SHORT, LAG_LONG, LAG_NONE};

    for (unsigned gzip = 0; gzip <= 1; gzip++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        const struct histogram *lag;
        struct peer_stream *stream;
        char body[300];
        struct bed bed;

        bed_init(&bed, &peer);
        lag = measure_lag(STATS_OF_ZIP);
        memset(body, 'z', sizeof(body));
        stream = peer_request(&bed.peer, "/t.T/Zip", gzip_both, gzip ? 2 : 0, true);
        for (size_t i = 0; i < ELEMENTSOF(ago); i++) {
            seen.send_due_ns = ms_ago(&bed, ago[i]) * 1000000;
            peer_upload_message(&bed.peer, stream, body, sizeof(body), false);
            settle(&bed);
        }
        assert_int_equal(seen.messages, ELEMENTSOF(ago));
        peer_grant(&bed.peer, stream, 3); /* inside the first */
        settle(&bed);
        assert_lags(lag, 0, 0, 0);
        peer_grant(&bed.peer, stream, gzip ? 37 : 400); /* to inside the second */
        settle(&bed);
        assert_lags(lag, 0, 0, 1);
        /* One frame ends three: behind the first all are as late as the latest. */
        peer_grant(&bed.peer, stream, 10000);
        settle(&bed);
        assert_lags(lag, 0, 1, 3);
        bed_deinit(&bed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unary),
        cmocka_unit_test(test_empty_message),
        cmocka_unit_test(test_client_stream),
        cmocka_unit_test(test_client_stream_ends_with_trailers),
        cmocka_unit_test(test_server_stream_by_queue),
        cmocka_unit_test(test_server_stream_by_pull),
        cmocka_unit_test(test_window_that_ends_with_a_message),
        cmocka_unit_test(test_whole_messages),
        cmocka_unit_test(test_whole_messages_in_small_windows),
        cmocka_unit_test(test_whole_messages_when_windows_shrink),
        cmocka_unit_test(test_whole_messages_and_the_connection),
        cmocka_unit_test(test_whole_messages_can_be_aborted),
        cmocka_unit_test(test_whole_messages_stall),
        cmocka_unit_test(test_whole_messages_are_not_compressed),
        cmocka_unit_test(test_bidi),
        cmocka_unit_test(test_a_peer_that_sends_and_never_reads),
        cmocka_unit_test(test_truncated_behind_a_full_queue),
        cmocka_unit_test(test_credit_of_a_finished_call),
        cmocka_unit_test(test_header_faults),
        cmocka_unit_test(test_header_variants),
        cmocka_unit_test(test_header_bomb),
        cmocka_unit_test(test_message_faults),
        cmocka_unit_test(test_longest_message),
        cmocka_unit_test(test_status_and_text),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_padding_is_not_sent),
        cmocka_unit_test(test_ambiguous_requests_are_reset),
        cmocka_unit_test(test_header_list_size_is_exact),
        cmocka_unit_test(test_trailers_too_large_for_the_client),
        cmocka_unit_test(test_headers_too_large_for_the_client),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_deadline_of_an_incomplete_request),
        cmocka_unit_test(test_deadline_before_the_timer),
        cmocka_unit_test(test_huge_timeouts),
        cmocka_unit_test(test_deadline_without_window),
        cmocka_unit_test(test_request_timeout),
        cmocka_unit_test(test_finish_and_abort_by_a_message),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_finish_with_queue),
        cmocka_unit_test(test_shutdown_before_the_headers_are_whole),
        cmocka_unit_test(test_client_resets),
        cmocka_unit_test(test_cancelled_while_input_is_held),
        cmocka_unit_test(test_stalled),
        cmocka_unit_test(test_stall_timeout),
        cmocka_unit_test(test_stalled_when_finished),
        cmocka_unit_test(test_stopping),
        cmocka_unit_test(test_max_calls),
        cmocka_unit_test(test_max_input_bytes),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_room_is_told_once),
        cmocka_unit_test(test_no_room_after_the_end),
        cmocka_unit_test(test_gzip_requests),
        cmocka_unit_test(test_gzip_unary),
        cmocka_unit_test(test_gzip_faults),
        cmocka_unit_test(test_gzip_budget),
        cmocka_unit_test(test_gzip_without_an_encoding),
        cmocka_unit_test(test_gzip_answers),
        cmocka_unit_test(test_gzip_pull),
        cmocka_unit_test(test_gzip_sent_means_sent),
        cmocka_unit_test(test_gzip_is_shared),
        cmocka_unit_test(test_random_lives),
        cmocka_unit_test(test_lag_of_what_is_pulled),
        cmocka_unit_test(test_lag_of_what_is_queued),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
