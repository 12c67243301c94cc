/*
 * Calls with gzip, and handlers that wait for room, without memory: whichever allocation fails, of
 * ours, of zlib or of nghttp2, every call ends exactly once and nothing leaks or stays booked. A
 * message that cannot be compressed for want of memory goes as it is.
 */
#include "rpc/call.h"

#include "base/util.h"
#include "failmalloc.h"
#include "memory.h"
#include "rpc/compression.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PULL_SIZE 200
#define PULLS 40
#define ROOM_SIZE 9000
#define ROOMS 20

struct bed {
    struct call_server *calls; /* first, as call_connection_ops wants it */
    struct call_server server;
    struct connection_ops ops;
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
};

static unsigned begins, ends, rooms, pulls;
static unsigned sent; /* by handlers of Room */

/* ---- Handlers ---- */

static void on_end(struct call *call, enum wire_status status)
{
    ends++;
}

static void zip_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct message *message = message_new((uint32_t)size);
    const struct header header = HEADER("echo-bin", "AAE=");

    begins++;
    (void)call_use_gzip(call);
    if (!message || call_add_header(call, &header) < 0) {
        message_unref(message);
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    memcpy(message_body(message), request, size);
    if (call_send(call, message) < 0 || call_send_plain(call, message) < 0)
        call_abort(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
    message_unref(message);
    call_finish(call, WIRE_OK, NULL);
}

static void pull_begin(struct call *call, const uint8_t *request, size_t size)
{
    begins++;
    (void)call_use_gzip(call);
    call_resume(call);
}

static size_t on_pull(struct call *call, uint8_t *bytes, size_t size, struct pull *pull)
{
    if (pulls == PULLS)
        return 0;
    wire_prefix_write(bytes, PULL_SIZE - WIRE_PREFIX_SIZE);
    memset(bytes + WIRE_PREFIX_SIZE, 'p', PULL_SIZE - WIRE_PREFIX_SIZE);
    pull->messages = 1;
    pull->more = true;
    if (++pulls == PULLS)
        call_finish(call, WIRE_OK, NULL);
    return PULL_SIZE;
}

static void room_fill(struct call *call)
{
    while (sent < ROOMS) {
        struct message *message = message_new(ROOM_SIZE);
        int r;

        if (message)
            memset(message_body(message), 'r', ROOM_SIZE);
        r = message ? call_send_plain(call, message) : -1;
        message_unref(message);
        if (r < 0)
            call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
        if (r != 0)
            return;
        sent++;
    }
    call_finish(call, WIRE_OK, NULL);
}

static void room_begin(struct call *call, const uint8_t *request, size_t size)
{
    begins++;
    room_fill(call);
}

static void on_room(struct call *call)
{
    rooms++;
    room_fill(call);
}

static struct method_stats stats[3];
static const struct method zip = {.service = "t.T",
                                  .name = "Zip",
                                  .type = METHOD_UNARY,
                                  .begin = zip_begin,
                                  .end = on_end,
                                  .stats = &stats[0]};
static const struct method pull = {.service = "t.T",
                                   .name = "Pull",
                                   .type = METHOD_SERVER_STREAM,
                                   .begin = pull_begin,
                                   .pull = on_pull,
                                   .pull_size_max = PULL_SIZE,
                                   .end = on_end,
                                   .stats = &stats[1]};
static const struct method room = {.service = "t.T",
                                   .name = "Room",
                                   .type = METHOD_SERVER_STREAM,
                                   .begin = room_begin,
                                   .room = on_room,
                                   .end = on_end,
                                   .stats = &stats[2]};
static const struct method *const methods[] = {&zip, &pull, &room};

/* ---- The bed ---- */

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct bed *bed = connection_context(connection);

    bed->connection = NULL;
}

/* What the loop and the transport need is taken before any allocation fails, and a connection is
 * there: what its making needs is tested elsewhere. */
static void bed_init(struct bed *bed)
{
    const struct peer_options peer = {0};
    struct connection_options options = {
        .max_streams = 100,
        .max_header_bytes = 8192,
        .stream_window = 65535,
        .connection_window = 65535,
        .context = bed,
    };

    *bed = (struct bed){.calls = &bed->server};
    begins = ends = rooms = pulls = sent = 0;
    memset(stats, 0, sizeof(stats));
    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    peer_init(&bed->peer, &bed->memory, &peer);
    bed->stats.loop = options.loop = &bed->world.loop;
    bed->server = (struct call_server){
        .loop = &bed->world.loop,
        .methods = {methods, ELEMENTSOF(methods)},
        .max_message_bytes = 100000,
        .max_input_bytes = UINT64_C(64) << 20,
        .max_calls = 1000,
    };
    bed->ops = call_connection_ops;
    bed->ops.closed = on_closed;
    options.ops = &bed->ops;
    options.stats = &bed->stats;
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "a peer", &options),
                     0);
    peer_settle(&bed->world, &bed->peer);
}

static void bed_deinit(struct bed *bed)
{
    uint64_t started = bed->server.other.started_total, handled = 0;

    if (bed->connection)
        connection_close(bed->connection, CLOSE_LOCAL, NULL);
    for (unsigned i = 0; i < 3; i++)
        world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(begins, ends);
    assert_int_equal(bed->server.calls, 0);
    assert_int_equal(bed->server.queued_bytes, 0);
    assert_int_equal(bed->server.input_bytes, 0);
    assert_int_equal(bed->stats.streams, 0);
    for (unsigned s = 0; s < WIRE_STATUS_COUNT; s++) {
        handled += bed->server.other.handled_total[s];
        for (unsigned i = 0; i < ELEMENTSOF(stats); i++)
            handled += stats[i].handled_total[s];
    }
    for (unsigned i = 0; i < ELEMENTSOF(stats); i++)
        started += stats[i].started_total;
    assert_int_equal(started, handled);
    peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world);
}

/* ---- Scenarios ---- */

static const struct field gzip_both[] = {{"grpc-encoding", "gzip"},
                                         {"grpc-accept-encoding", "gzip"}};

static bool ended_well(const struct peer_stream *stream)
{
    const char *status = peer_field(stream, "grpc-status");

    return stream->ended && status && strcmp(status, "0") == 0;
}

/* A compressed message that is compressed for its way back. */
static void check_zip(struct bed *bed, const struct peer_stream *stream, bool must_work)
{
    const uint8_t *bytes = stream->data.bytes;
    size_t first;

    if (!ended_well(stream)) {
        assert_false(must_work);
        return;
    }
    first = WIRE_PREFIX_SIZE + wire_prefix_length(bytes);
    assert_int_equal(stream->data.size - first, 8000 + WIRE_PREFIX_SIZE);
    assert_int_equal(bytes[first], 0);
    assert_string_equal(peer_field(stream, "echo-bin"), "AAE");
    assert_true(!must_work || bytes[0] == 1);
    if (bytes[0] == 0)
        assert_int_equal(first, 8000 + WIRE_PREFIX_SIZE);
}

static void run(struct bed *bed, const uint8_t *compressed, size_t size, bool must_work)
{
    struct peer_stream *streams[3];

    streams[0] = peer_request(&bed->peer, "/t.T/Zip", gzip_both, 2, true);
    peer_upload(&bed->peer, streams[0], compressed, size, true);
    peer_settle(&bed->world, &bed->peer);
    streams[1] = peer_request(&bed->peer, "/t.T/Pull", gzip_both, 2, true);
    peer_upload(&bed->peer, streams[1], compressed, size, true);
    peer_settle(&bed->world, &bed->peer);
    streams[2] = peer_request(&bed->peer, "/t.T/Room", gzip_both, 2, true);
    peer_upload(&bed->peer, streams[2], compressed, size, true);
    peer_settle(&bed->world, &bed->peer);

    check_zip(bed, streams[0], must_work);
    if (ended_well(streams[1]))
        assert_int_equal(wire_count_messages(streams[1]->data.bytes, streams[1]->data.size), PULLS);
    else
        assert_false(must_work);
    if (ended_well(streams[2]))
        assert_int_equal(streams[2]->data.size, ROOMS * (ROOM_SIZE + WIRE_PREFIX_SIZE));
    else
        assert_false(must_work);
    assert_true(!must_work || rooms > 0);
}

static void test_gzip_and_room(void **state)
{
    struct message *message = message_new(8000);
    struct message *twin;
    struct bed bed;
    size_t nth;

    assert_non_null(message);
    memset(message_body(message), 'm', 8000);
    twin = compression_gzip(message);
    assert_non_null(twin);
    for (nth = 1;; nth++) {
        bool failed;

        bed_init(&bed);
        failmalloc_arm(nth);
        run(&bed, twin->bytes, twin->size, false);
        failed = failmalloc_disarm();
        bed_deinit(&bed);
        if (!failed)
            break;
    }
    assert_true(nth > 50);
    bed_init(&bed);
    run(&bed, twin->bytes, twin->size, true);
    bed_deinit(&bed);
    message_unref(twin);
    message_unref(message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gzip_and_room)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
