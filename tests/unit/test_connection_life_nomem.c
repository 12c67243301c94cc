/*
 * The ends of a connection without memory: whichever allocation fails while one ends with a word,
 * drains, pings or finds a stall, it is closed once, for that or for want of memory, and nothing
 * leaks.
 */
#include "net/connection.h"

#include "base/util.h"
#include "failmalloc.h"
#include "memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct bed {
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
    struct stream streams[4];
    unsigned opened;
    unsigned closed_streams;
    unsigned stalls;
    unsigned closes;
    enum close_reason reason;
};

/* ---- The layer above, which has no memory ---- */

static struct bed *bed_of(struct stream *stream)
{
    return connection_context(stream->connection);
}

static struct stream *on_open(struct connection *connection)
{
    struct bed *bed = connection_context(connection);

    assert_true(bed->opened < ELEMENTSOF(bed->streams));
    return &bed->streams[bed->opened++];
}

static int on_header(struct stream *stream, const struct header *header)
{
    return 0;
}

static void on_headers_end(struct stream *stream, bool end)
{
    const struct header headers[] = {HEADER(":status", "200")};

    if (stream_respond(stream, headers, 1, false) == 0)
        stream_resume(stream);
    else
        stream_reset(stream, NGHTTP2_INTERNAL_ERROR);
}

static ssize_t on_read(struct stream *stream, uint8_t *bytes, size_t size, struct stream_read *ret)
{
    memset(bytes, 'x', size);
    ret->more = true;
    return (ssize_t)size;
}

static void on_stalled(struct stream *stream, enum blocked_reason reason)
{
    bed_of(stream)->stalls++;
    stream_reset(stream, NGHTTP2_ENHANCE_YOUR_CALM);
}

static void on_close(struct stream *stream, uint32_t error_code, bool local)
{
    bed_of(stream)->closed_streams++;
}

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct bed *bed = connection_context(connection);

    bed->closes++;
    bed->reason = reason;
    bed->connection = NULL;
}

static const struct connection_ops ops = {
    .open = on_open,
    .header = on_header,
    .headers_end = on_headers_end,
    .read = on_read,
    .stalled = on_stalled,
    .close = on_close,
    .closed = on_closed,
};

/* ---- Scenarios ---- */

struct scenario {
    struct connection_options options;
    void (*run)(struct bed *bed);
    enum close_reason reason;
    bool silent; /* the peer answers no PING */
    unsigned least;
};

static bool alive(const struct bed *bed)
{
    return bed->connection && !bed->memory.closing && !bed->memory.shut && bed->peer.error == 0;
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

static void get(struct bed *bed)
{
    (void)peer_request(&bed->peer, "/s/m", NULL, 0, false);
    settle(bed);
}

static void run_end(struct bed *bed)
{
    get(bed);
    if (alive(bed))
        connection_end(bed->connection, NGHTTP2_ENHANCE_YOUR_CALM, CLOSE_FLOOD, "enough");
}

static void run_end_while_blocked(struct bed *bed)
{
    bed->memory.accept = 500;
    get(bed);
    if (alive(bed))
        connection_end(bed->connection, NGHTTP2_ENHANCE_YOUR_CALM, CLOSE_FLOOD, "enough");
    bed->memory.accept = SIZE_MAX;
    if (alive(bed) && bed->memory.kept > 0)
        memory_release(&bed->memory, 0);
}

static void run_fault(struct bed *bed)
{
    static const uint8_t fault[] = {0, 0, 1, NGHTTP2_DATA, 0, 0, 0, 0, 0, 'x'};

    get(bed);
    if (alive(bed))
        memory_deliver(&bed->memory, fault, sizeof(fault), 0);
}

static void run_drain(struct bed *bed)
{
    settle(bed);
    if (alive(bed))
        connection_drain(bed->connection, CLOSE_SHUTDOWN);
}

static void run_pings(struct bed *bed)
{
    settle(bed);
    for (unsigned i = 0; i < 4 && alive(bed); i++) {
        peer_ping(&bed->peer);
        settle(bed);
    }
}

static void run_get(struct bed *bed)
{
    get(bed);
}

static void run_stall(struct bed *bed)
{
    get(bed);
    while (alive(bed) && bed->stalls == 0 && bed->closed_streams == 0)
        world_sleep(&bed->world);
    settle(bed);
    if (alive(bed))
        connection_drain(bed->connection, CLOSE_SHUTDOWN);
}

/* As far as the end, whatever it is. */
static void wait_closed(struct bed *bed)
{
    while (bed->connection) {
        settle(bed);
        if (bed->memory.shut && !bed->memory.closing)
            memory_end(&bed->memory, 0);
        world_sleep(&bed->world);
    }
}

static bool run_once(const struct scenario *scenario, unsigned nth)
{
    const struct peer_options peer = {.hold_credit = true, .hold_pings = scenario->silent};
    struct connection_options options = scenario->options;
    struct bed bed = {0};
    bool fired;
    int r;

    world_init(&bed.world);
    memory_init(&bed.memory, &bed.world);
    peer_init(&bed.peer, &bed.memory, &peer);
    bed.stats.loop = &bed.world.loop;
    options.loop = &bed.world.loop;
    options.stats = &bed.stats;
    options.ops = &ops;
    options.context = &bed;
    options.max_streams = 100;
    options.max_header_bytes = 8192;
    options.stream_window = options.connection_window = 65535;
    /* A peer that was never told anything cannot be waited for. */
    options.preface_timeout_ms = 50;

    failmalloc_arm(nth);
    r = connection_new(&bed.connection, &bed.memory.transport, "peer", &options);
    if (r == 0) {
        scenario->run(&bed);
        wait_closed(&bed);
    }
    fired = failmalloc_disarm();
    for (unsigned i = 0; i < 4; i++)
        world_turn(&bed.world);
    assert_true(bed.memory.closed);
    assert_true(r == 0 || (fired && r == -ENOMEM));
    assert_int_equal(bed.closes, r == 0);
    assert_int_equal(bed.closed_streams, bed.opened);
    if (r == 0)
        assert_true(bed.reason == scenario->reason || (fired && bed.reason == CLOSE_NO_MEMORY));
    assert_int_equal(bed.stats.connections, 0);
    assert_int_equal(bed.stats.streams, 0);
    peer_deinit(&bed.peer);
    memory_deinit(&bed.memory);
    world_deinit(&bed.world);
    return fired;
}

static void run(const struct scenario *scenario)
{
    unsigned nth = 1;

    while (run_once(scenario, nth))
        nth++;
    assert_true(nth > scenario->least);
}

static void test_end(void **state)
{
    const struct scenario scenarios[] = {
        {.run = run_end, .reason = CLOSE_FLOOD, .least = 15},
        {.run = run_end_while_blocked, .reason = CLOSE_FLOOD, .least = 15},
        {.run = run_fault, .reason = CLOSE_PROTOCOL_ERROR, .least = 15},
        {.options.ping_min_idle_ms = 3600000,
         .run = run_pings,
         .reason = CLOSE_TOO_MANY_PINGS,
         .least = 15},
    };

    for (unsigned i = 0; i < ELEMENTSOF(scenarios); i++)
        run(&scenarios[i]);
}

static void test_drain(void **state)
{
    const struct scenario scenarios[] = {
        {.run = run_drain, .reason = CLOSE_SHUTDOWN, .least = 12},
        {.options.idle_max_ms = 15, .run = run_drain, .reason = CLOSE_SHUTDOWN, .least = 12},
        {.options = {.age_max_ms = 15, .age_grace_ms = 10},
         .run = run_get,
         .reason = CLOSE_AGE,
         .silent = true,
         .least = 12},
    };

    for (unsigned i = 0; i < ELEMENTSOF(scenarios); i++)
        run(&scenarios[i]);
}

static void test_keepalive(void **state)
{
    const struct scenario scenario = {
        .options = {.keepalive_time_ms = 10, .keepalive_timeout_ms = 10},
        .run = run_get,
        .reason = CLOSE_KEEPALIVE,
        .silent = true,
        .least = 12,
    };

    run(&scenario);
}

static void test_stall(void **state)
{
    const struct scenario scenario = {
        .options.stall_timeout_ms = 8,
        .run = run_stall,
        .reason = CLOSE_SHUTDOWN,
        .least = 12,
    };

    run(&scenario);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_keepalive),
        cmocka_unit_test(test_stall),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
