/*
 * Connections and calls without memory: whichever allocation fails, of ours or of nghttp2, every
 * stream and the connection end exactly once, nothing leaks, every gauge comes back to rest, and a
 * connection that survives it serves the next call as if nothing had been.
 */
#include "rpc/call.h"

#include "base/util.h"
#include "failmalloc.h"
#include "memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PULL_SIZE 100

struct bed {
    struct call_server *calls; /* first, as call_connection_ops wants it */
    struct call_server server;
    struct connection_ops ops;
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
    unsigned opened;
    unsigned closes; /* of streams */
    unsigned closed; /* of the connection */
    enum close_reason reason;
    unsigned begins;
    unsigned ends;
    unsigned answered; /* streams of a client that ended well */
};

static struct bed *bed_of(struct connection *connection)
{
    return connection_context(connection);
}

/* ---- Handlers that have no memory themselves ---- */

static struct bed *current_bed;

static void on_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct header header;
    struct message *message;
    void *data;

    current_bed->begins++;
    data = malloc(100);
    call_set_data(call, data);
    for (size_t i = 0; call_metadata(call, i, &header); i++) {
        if (call_add_header(call, &header) < 0 || call_add_trailer(call, &header) < 0) {
            call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory for metadata");
            return;
        }
    }
    if (!request) /* of a stream of requests: there is one yet to come */
        return;
    message = message_new((uint32_t)size);
    if (!data || !message) {
        message_unref(message);
        call_abort(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    memcpy(message_body(message), request, size);
    (void)call_send(call, message);
    (void)call_send(call, message);
    message_unref(message);
    call_finish(call, WIRE_OK, "a text");
}

static void on_message(struct call *call, const uint8_t *bytes, size_t size)
{
    struct message *message = message_new((uint32_t)size);

    if (!message) {
        call_abort(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    memcpy(message_body(message), bytes, size);
    if (call_send(call, message) < 0)
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
    message_unref(message);
}

static void on_half_close(struct call *call)
{
    call_finish(call, WIRE_OK, NULL);
}

static void pull_begin(struct call *call, const uint8_t *request, size_t size)
{
    current_bed->begins++;
    call_resume(call);
}

static size_t on_pull(struct call *call, uint8_t *bytes, size_t size, struct pull *pull)
{
    wire_prefix_write(bytes, PULL_SIZE - WIRE_PREFIX_SIZE);
    memset(bytes + WIRE_PREFIX_SIZE, 'p', PULL_SIZE - WIRE_PREFIX_SIZE);
    pull->messages = 1;
    pull->more = true;
    return PULL_SIZE;
}

static void on_end(struct call *call, enum wire_status status)
{
    free(call_data(call));
    current_bed->ends++;
}

static struct method_stats stats[3];
static const struct method echo = {.service = "t.T",
                                   .name = "Echo",
                                   .type = METHOD_UNARY,
                                   .begin = on_begin,
                                   .end = on_end,
                                   .stats = &stats[0]};
static const struct method chat = {.service = "t.T",
                                   .name = "Chat",
                                   .type = METHOD_BIDI_STREAM,
                                   .begin = on_begin,
                                   .message = on_message,
                                   .half_close = on_half_close,
                                   .end = on_end,
                                   .stats = &stats[1]};
static const struct method pull = {.service = "t.T",
                                   .name = "Pull",
                                   .type = METHOD_SERVER_STREAM,
                                   .begin = pull_begin,
                                   .pull = on_pull,
                                   .pull_size_max = PULL_SIZE,
                                   .end = on_end,
                                   .stats = &stats[2]};
static const struct method *const methods[] = {&echo, &chat, &pull};

/* ---- The bed ---- */

static struct stream *server_open(struct connection *connection)
{
    struct stream *stream = call_connection_ops.open(connection);

    if (stream)
        bed_of(connection)->opened++;
    return stream;
}

static void server_close(struct stream *stream, uint32_t error_code, bool local)
{
    bed_of(stream->connection)->closes++;
    call_connection_ops.close(stream, error_code, local);
}

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct bed *bed = bed_of(connection);

    bed->closed++;
    bed->reason = reason;
    bed->connection = NULL;
}

/* What the loop and the transport need is taken before any allocation fails. */
static void bed_init(struct bed *bed, const struct peer_options *peer)
{
    *bed = (struct bed){.calls = &bed->server};
    current_bed = bed;
    memset(stats, 0, sizeof(stats));
    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    peer_init(&bed->peer, &bed->memory, peer);
    bed->stats.loop = &bed->world.loop;
    bed->server = (struct call_server){
        .loop = &bed->world.loop,
        .methods = {methods, ELEMENTSOF(methods)},
        .max_message_bytes = 100000,
        .max_input_bytes = UINT64_C(64) << 20,
        .max_calls = 1000,
        .request_timeout_ms = 60000,
    };
    bed->ops = call_connection_ops;
    bed->ops.open = server_open;
    bed->ops.close = server_close;
    bed->ops.closed = on_closed;
}

static int connect_bed(struct bed *bed, bool client, const struct connection_ops *ops)
{
    const struct connection_options options = {
        .client = client,
        .max_streams = 100,
        .max_header_bytes = 8192,
        .preface_timeout_ms = 60000,
        .stream_window = 70000,
        .connection_window = 100000,
        .ops = ops,
        .context = bed,
        .stats = &bed->stats,
        .loop = &bed->world.loop,
    };

    return connection_new(&bed->connection, &bed->memory.transport, "a peer", &options);
}

static void bed_deinit(struct bed *bed, bool connected)
{
    if (bed->connection)
        connection_close(bed->connection, CLOSE_LOCAL, NULL);
    for (unsigned i = 0; i < 3; i++)
        world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(bed->closed, connected);
    assert_int_equal(bed->closes, bed->opened);
    assert_int_equal(bed->ends, bed->begins);
    assert_int_equal(bed->server.calls, 0);
    assert_int_equal(bed->server.queued_bytes, 0);
    assert_int_equal(bed->stats.connections, 0);
    assert_int_equal(bed->stats.streams, 0);
    assert_int_equal(bed->stats.unsent_bytes, 0);
    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        assert_int_equal(bed->stats.blocked[i], 0);
    for (unsigned i = 0; i < ELEMENTSOF(stats); i++) {
        uint64_t handled = 0;

        for (unsigned s = 0; s < WIRE_STATUS_COUNT; s++)
            handled += stats[i].handled_total[s];
        assert_int_equal(handled, stats[i].started_total);
    }
    peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world);
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

static bool alive(const struct bed *bed)
{
    return bed->connection && !bed->memory.closing && !bed->memory.shut && bed->peer.error == 0;
}

/* ---- Scenarios ---- */

static struct peer_stream *call_with(struct bed *bed, const char *path, const struct field *fields,
                                     size_t count, const void *body, size_t size)
{
    struct peer_stream *stream = peer_request(&bed->peer, path, fields, count, true);

    peer_upload_message(&bed->peer, stream, body, size, true);
    return stream;
}

static void assert_ok(const struct peer_stream *stream)
{
    assert_true(stream->ended);
    assert_non_null(peer_field(stream, "grpc-status"));
    assert_string_equal(peer_field(stream, "grpc-status"), "0");
}

/* One request, from accept to close. */
static void one_call(struct bed *bed, bool must_work)
{
    struct peer_stream *stream = call_with(bed, "/t.T/Echo", NULL, 0, "hello", 5);

    settle(bed);
    if (must_work) {
        assert_ok(stream);
        assert_int_equal(stream->data.size, 20);
    }
    if (alive(bed))
        memory_end(&bed->memory, 0);
}

/* Calls of all kinds, a short write, a full queue, faults, a client that resets, a drain. */
static void several_calls(struct bed *bed, bool must_work)
{
    static char large[30000];
    const struct field fields[] = {{"grpc-timeout", "1H"}, {"custom", "x"}, {"data-bin", "AAEC"}};
    struct peer_stream *streams[7];

    streams[0] = call_with(bed, "/t.T/Echo", fields, ELEMENTSOF(fields), "hello", 5);
    streams[1] = call_with(bed, "/t.T/Pull", NULL, 0, "", 0);
    streams[2] = peer_request(&bed->peer, "/t.T/Chat", NULL, 0, true);
    streams[3] = call_with(bed, "/t.T/Unknown", NULL, 0, "", 0);
    streams[4] = call_with(bed, "/t.T/Echo", NULL, 0, large, sizeof(large));
    streams[5] = peer_request(&bed->peer, "/t.T/Chat", NULL, 0, true);
    peer_upload(&bed->peer, streams[5], "\0\0\0\0\5hal", 8, true);
    bed->memory.accept = 5000; /* and then the transport keeps the rest for a turn */
    bed->memory.release_now = true;
    for (unsigned i = 0; i < 5; i++)
        peer_upload_message(&bed->peer, streams[2], large, 20000, false);
    settle(bed);
    bed->memory.accept = SIZE_MAX;
    peer_grant(&bed->peer, streams[1], 250);
    peer_grant(&bed->peer, NULL, 1 << 20);
    peer_grant(&bed->peer, streams[2], 1 << 20);
    settle(bed);
    peer_upload(&bed->peer, streams[2], "", 0, true);
    peer_reset(&bed->peer, streams[1], NGHTTP2_CANCEL);
    settle(bed);
    streams[6] = call_with(bed, "/t.T/Pull", NULL, 0, "", 0);
    settle(bed);
    if (must_work) {
        assert_ok(streams[0]);
        assert_ok(streams[2]);
        assert_int_equal(streams[2]->data.size, 5 * 20005);
        assert_string_equal(peer_field(streams[3], "grpc-status"), "12");
        assert_ok(streams[4]);
        assert_string_equal(peer_field(streams[5], "grpc-status"), "13");
        assert_true(streams[6]->data.size > 0);
    }
}

/* After whatever failed, a connection that is still there works. */
static void assert_still_works(struct bed *bed)
{
    struct peer_stream *stream;

    settle(bed);
    if (!alive(bed) || bed->peer.goaways > 0)
        return;
    peer_grant(&bed->peer, NULL, 1 << 20);
    stream = call_with(bed, "/t.T/Echo", NULL, 0, "after", 5);
    settle(bed);
    assert_ok(stream);
    connection_drain(bed->connection, CLOSE_SHUTDOWN);
    settle(bed);
}

static void run_server(void (*scenario)(struct bed *bed, bool must_work), unsigned least)
{
    const struct peer_options peer = {.hold_credit = true};
    bool fired = true;

    for (unsigned nth = 1; fired; nth++) {
        struct bed bed;
        int r;

        bed_init(&bed, &peer);
        failmalloc_arm(nth);
        r = connect_bed(&bed, false, &bed.ops);
        if (r == 0) {
            /* A million allocations are never reached: the last round is the one without failure.
             */
            scenario(&bed, false);
            fired = failmalloc_disarm();
            assert_still_works(&bed);
        } else {
            fired = failmalloc_disarm();
            assert_true(fired);
            assert_int_equal(r, -ENOMEM);
        }
        if (fired && bed.closed > 0)
            assert_true(bed.reason == CLOSE_NO_MEMORY || bed.reason == CLOSE_PEER ||
                        bed.reason == CLOSE_PEER_LOST || bed.reason == CLOSE_SHUTDOWN);
        bed_deinit(&bed, r == 0);
        if (!fired)
            assert_true(nth > least);
    }
    for (unsigned again = 0; again < 1; again++) {
        struct bed bed;

        bed_init(&bed, &peer);
        assert_int_equal(connect_bed(&bed, false, &bed.ops), 0);
        scenario(&bed, true);
        bed_deinit(&bed, true);
    }
}

static void test_one_call(void **state)
{
    run_server(one_call, 40);
}

static void test_several_calls(void **state)
{
    run_server(several_calls, 150);
}

/* ---- The client's side ---- */

struct request {
    struct stream stream;
    struct bed *bed;
    bool sent;
};

static int client_header(struct stream *stream, const struct header *header)
{
    return 0;
}

static void client_headers_end(struct stream *stream, bool end)
{
    /* Only that it is called without harm is of interest. */
}

static void client_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    stream_consume(stream, size);
}

static void client_half_close(struct stream *stream)
{
    /* As above. */
}

static ssize_t client_read(struct stream *stream, uint8_t *bytes, size_t size,
                           struct stream_read *ret)
{
    memcpy(bytes, "\0\0\0\0\3abc", 8);
    ret->end = true;
    return 8;
}

static void client_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct request *request = container_of(stream, struct request, stream);

    request->bed->closes++;
    request->bed->answered += error_code == 0;
    free(request);
}

static const struct connection_ops client_ops = {
    .header = client_header,
    .headers_end = client_headers_end,
    .data = client_data,
    .half_close = client_half_close,
    .read = client_read,
    .close = client_close,
    .closed = on_closed,
};

static void client_request(struct bed *bed)
{
    struct header headers[24] = {
        HEADER(":method", "POST"),
        HEADER(":scheme", "http"),
        HEADER(":path", "/t.T/Echo"),
        HEADER(":authority", "x"),
    };
    struct request *request;
    int r;

    /* More than fit on the stack of connection.c. */
    for (unsigned i = 4; i < ELEMENTSOF(headers); i++)
        headers[i] = HEADER("name", "value");
    if (!alive(bed))
        return;
    request = calloc(1, sizeof(*request));
    if (!request)
        return;
    request->bed = bed;
    r = stream_request(bed->connection, &request->stream, headers, ELEMENTSOF(headers));
    if (r == 0)
        bed->opened++;
    else
        free(request);
}

static void answer_all(struct bed *bed)
{
    struct peer_stream *stream;

    LIST_FOREACH (stream, &bed->peer.streams, link) {
        if (stream->ended && !stream->upload_end && !stream->closed) {
            peer_respond(&bed->peer, stream);
            peer_upload(&bed->peer, stream, "\0\0\0\0\3xyz", 8, true);
        }
    }
    settle(bed);
}

static void test_client(void **state)
{
    const struct peer_options peer = {.server = true};
    bool fired = true;

    for (unsigned nth = 1; fired; nth++) {
        struct bed bed;
        int r;

        bed_init(&bed, &peer);
        failmalloc_arm(nth);
        r = connect_bed(&bed, true, &client_ops);
        if (r == 0) {
            client_request(&bed);
            settle(&bed);
            client_request(&bed);
            settle(&bed);
            answer_all(&bed);
            client_request(&bed);
            settle(&bed);
        }
        fired = failmalloc_disarm();
        if (r == 0 && alive(&bed)) {
            unsigned answered = bed.answered;

            client_request(&bed);
            settle(&bed);
            answer_all(&bed);
            if (alive(&bed))
                assert_true(bed.answered > answered);
            if (!fired)
                assert_int_equal(bed.answered, 4);
        }
        bed_deinit(&bed, r == 0);
        if (!fired)
            assert_true(nth > 30);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_call),
        cmocka_unit_test(test_several_calls),
        cmocka_unit_test(test_client),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
