/*
 * The life of a connection: how it ends with a word, drains, is kept alive and found dead, and what
 * becomes of streams and sockets that stall. Times are real and short; tests wait for what has to
 * happen, and where something must not happen, its time is an hour or has passed for certain.
 */
#include "net/connection.h"

#include "base/util.h"
#include "memory.h"
#include "proto/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HOUR_MS 3600000
#define LINGER_MS 1000
#define MESSAGE_SIZE 100

/* Where the layer above can be called. */
enum callback {
    IN_OPEN,
    IN_HEADER,
    IN_HEADERS_END,
    IN_DATA,
    IN_STALLED,
    IN_HALF_CLOSE,
    IN_READ,
    IN_CLOSE,
    IN_ACCEPTED,
    IN_ESTABLISHED,
    IN_GOAWAY,
    CALLBACK_COUNT,
};

enum action {
    DO_NOTHING,
    DO_END,
    DO_DRAIN,
    DO_CLOSE,
    DO_END_AND_CLOSE,
    DO_DRAIN_AND_END,
    ACTION_COUNT,
};

struct bed {
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
    struct connection_ops ops;

    enum callback act_in;
    enum action action;
    bool acted;

    uint64_t limit; /* bytes of each answer that begins from now on */
    bool paced;     /* answers go on after that */
    bool reset_stalled;
    unsigned opened;
    unsigned lost; /* closed with the connection */
    unsigned closed_streams;
    unsigned stalls;
    enum blocked_reason stall_reason;
    uint64_t accepted;
    uint64_t received;
    unsigned closes;
    enum close_reason reason;
    char detail[64];
    uint64_t closed_at_ms;
    struct item *items;
};

struct item {
    struct stream stream;
    struct bed *bed;
    struct item *next;
    uint64_t position;
    uint64_t limit;
};

static struct item *from_stream(struct stream *stream)
{
    return container_of(stream, struct item, stream);
}

static uint64_t now_ms(struct bed *bed)
{
    uv_update_time(&bed->world.uv);
    return uv_now(&bed->world.uv);
}

/* ---- The layer above ---- */

static void end(struct bed *bed)
{
    connection_end(bed->connection, NGHTTP2_ENHANCE_YOUR_CALM, CLOSE_FLOOD, "enough");
    connection_end(bed->connection, NGHTTP2_INTERNAL_ERROR, CLOSE_LOCAL, "too late");
}

static bool acts_at_once(enum action action)
{
    return action != DO_NOTHING && action != DO_DRAIN;
}

/* After an end, nothing but the end of streams may come. */
static void enter(struct bed *bed, enum callback callback)
{
    if (bed->acted && acts_at_once(bed->action))
        assert_true(callback == IN_CLOSE || callback == IN_ACCEPTED);
    if (callback != bed->act_in || bed->acted || bed->action == DO_NOTHING)
        return;
    bed->acted = true;
    if (bed->action == DO_DRAIN || bed->action == DO_DRAIN_AND_END) {
        connection_drain(bed->connection, CLOSE_SHUTDOWN);
        connection_drain(bed->connection, CLOSE_AGE);
    }
    if (bed->action == DO_END || bed->action == DO_END_AND_CLOSE || bed->action == DO_DRAIN_AND_END)
        end(bed);
    if (bed->action == DO_CLOSE || bed->action == DO_END_AND_CLOSE)
        connection_close(bed->connection, CLOSE_LOCAL, "closed");
}

static struct stream *on_open(struct connection *connection)
{
    struct bed *bed = connection_context(connection);
    struct item *item;

    enter(bed, IN_OPEN);
    item = calloc(1, sizeof(*item));
    assert_non_null(item);
    item->bed = bed;
    item->limit = bed->limit;
    item->next = bed->items;
    bed->items = item;
    bed->opened++;
    return &item->stream;
}

static int on_header(struct stream *stream, const struct header *header)
{
    enter(from_stream(stream)->bed, IN_HEADER);
    return 0;
}

static void on_headers_end(struct stream *stream, bool at_end)
{
    struct bed *bed = from_stream(stream)->bed;
    const struct header headers[] = {HEADER(":status", "200")};

    enter(bed, IN_HEADERS_END);
    if (stream_respond(stream, headers, 1, false) == 0)
        stream_resume(stream);
}

static void on_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct bed *bed = from_stream(stream)->bed;

    enter(bed, IN_DATA);
    bed->received += size;
    stream_consume(stream, size);
}

static void on_stalled(struct stream *stream, enum blocked_reason reason)
{
    struct bed *bed = from_stream(stream)->bed;

    assert_int_equal(stream_blocked(stream), reason);
    bed->stalls++;
    bed->stall_reason = reason;
    enter(bed, IN_STALLED);
    if (bed->reset_stalled)
        stream_reset(stream, NGHTTP2_ENHANCE_YOUR_CALM);
}

static void on_half_close(struct stream *stream)
{
    enter(from_stream(stream)->bed, IN_HALF_CLOSE);
}

static ssize_t on_read(struct stream *stream, uint8_t *bytes, size_t size, struct stream_read *ret)
{
    struct item *item = from_stream(stream);
    const struct header status = HEADER("grpc-status", "0");
    size_t n = (size_t)MIN((uint64_t)size, item->limit - item->position);

    enter(item->bed, IN_READ);
    n -= n % MESSAGE_SIZE == n ? 0 : n % MESSAGE_SIZE;
    for (size_t i = 0; i < n; i++) {
        uint8_t prefix[WIRE_PREFIX_SIZE];
        size_t offset = (item->position + i) % MESSAGE_SIZE;

        wire_prefix_write(prefix, MESSAGE_SIZE - WIRE_PREFIX_SIZE);
        bytes[i] = offset < WIRE_PREFIX_SIZE ? prefix[offset] : 'm';
        if (offset == MESSAGE_SIZE - 1 && ret->messages++ == 0)
            ret->first_end = i + 1;
    }
    item->position += n;
    ret->account = item->bed;
    ret->more = item->position < item->limit;
    if (!ret->more && !item->bed->paced) {
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

    bed->closed_streams++;
    bed->lost += error_code == STREAM_CONNECTION_LOST;
    enter(bed, IN_CLOSE);
    while (*link != item)
        link = &(*link)->next;
    *link = item->next;
    free(item);
}

static void on_accepted(void *account, unsigned messages, uint64_t lag_ns)
{
    struct bed *bed = account;

    enter(bed, IN_ACCEPTED);
    bed->accepted += messages;
}

static void on_established(struct connection *connection)
{
    enter(connection_context(connection), IN_ESTABLISHED);
}

static void on_goaway(struct connection *connection, uint32_t error_code, int32_t last_stream_id)
{
    enter(connection_context(connection), IN_GOAWAY);
}

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct bed *bed = connection_context(connection);

    /* Too late, and harmless. */
    end(bed);
    connection_drain(connection, CLOSE_LOCAL);
    bed->closes++;
    bed->reason = reason;
    bed->closed_at_ms = now_ms(bed);
    (void)snprintf(bed->detail, sizeof(bed->detail), "%s", detail ? detail : "");
    bed->connection = NULL;
}

static const struct connection_ops test_ops = {
    .open = on_open,
    .header = on_header,
    .headers_end = on_headers_end,
    .data = on_data,
    .stalled = on_stalled,
    .half_close = on_half_close,
    .read = on_read,
    .close = on_close,
    .accepted = on_accepted,
    .count = wire_count_messages,
    .established = on_established,
    .goaway = on_goaway,
    .closed = on_closed,
};

/* ---- The bed ---- */

static const struct peer_options usual_peer = {.hold_credit = true};
static const struct peer_options silent_peer = {.hold_credit = true, .hold_pings = true};
static const struct peer_options server_peer = {.server = true, .hold_pings = true};

/* `options` gives the times; the rest is as usual. */
static void bed_init(struct bed *bed, const struct connection_options *options,
                     const struct peer_options *peer)
{
    struct connection_options own = *options;

    *bed = (struct bed){.limit = UINT64_MAX, .ops = test_ops};
    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    bed->stats.loop = &bed->world.loop;
    own.client = peer->server;
    own.loop = &bed->world.loop;
    own.stats = &bed->stats;
    own.ops = &bed->ops;
    own.context = bed;
    own.max_streams = 100;
    own.max_header_bytes = 8192;
    own.stream_window = own.connection_window = 65535;
    peer_init(&bed->peer, &bed->memory, peer);
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "peer", &own), 0);
}

static void bed_deinit(struct bed *bed)
{
    if (bed->connection)
        connection_close(bed->connection, CLOSE_LOCAL, NULL);
    for (unsigned i = 0; i < 4; i++)
        world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(bed->closes, 1);
    assert_int_equal(bed->closed_streams, bed->opened);
    assert_null(bed->items);
    assert_int_equal(bed->stats.connections, 0);
    assert_int_equal(bed->stats.streams, 0);
    assert_int_equal(bed->stats.unsent_bytes, 0);
    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        assert_int_equal(bed->stats.blocked[i], 0);
    assert_int_equal(bed->stats.closed_total[bed->reason], 1);
    peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world);
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

static struct peer_stream *get(struct bed *bed)
{
    return peer_request(&bed->peer, "/s/m", NULL, 0, false);
}

/* Sleeps, while the peer does what it does, until `condition`; ctest ends what waits in vain. */
#define WAIT_FOR(bed, condition)                                                                   \
    while (!(condition)) {                                                                         \
        world_sleep(&(bed)->world);                                                                \
        (void)peer_pump(&(bed)->peer);                                                             \
    }

static void wait_closed(struct bed *bed)
{
    while (bed->closes == 0)
        world_sleep(&bed->world);
}

/* Lets the time pass, in turns, without the peer. */
static void pass(struct bed *bed, uint64_t ms)
{
    uint64_t until_ms = now_ms(bed) + ms;

    while (now_ms(bed) < until_ms)
        world_sleep(&bed->world);
}

/* A socket that takes `size` bytes more, with an endless answer that fills it. */
static void block_socket(struct bed *bed, struct peer_stream *stream, size_t size)
{
    bed->memory.accept = size;
    peer_grant(&bed->peer, NULL, 1 << 20);
    peer_grant(&bed->peer, stream, 1 << 20);
    settle(bed);
    assert_true(bed->memory.kept > 0);
}

/* ---- An end with a word ---- */

static void test_end(void **state)
{
    const struct connection_options options = {0};
    uint64_t ended_ms;
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    (void)get(&bed);
    (void)get(&bed);
    settle(&bed);
    assert_int_equal(bed.opened, 2);
    ended_ms = now_ms(&bed);
    end(&bed);
    assert_int_equal(bed.lost, 2); /* at once */
    assert_null(bed.items);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    assert_int_equal(bed.peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_string_equal(bed.peer.goaway_debug, "enough");
    assert_int_equal(bed.peer.goaway_last, 3);
    assert_true(bed.memory.shut);

    /* What still comes is read and thrown away. */
    (void)get(&bed);
    memory_deliver(&bed.memory, "no HTTP/2 at all", 16, 1);
    assert_int_equal(bed.opened, 2);
    wait_closed(&bed);
    assert_true(bed.closed_at_ms - ended_ms >= LINGER_MS);
    assert_int_equal(bed.reason, CLOSE_FLOOD);
    assert_string_equal(bed.detail, "enough");
    bed_deinit(&bed);
}

/* The peer's end of file makes lingering needless. */
static void test_end_and_end_of_file(void **state)
{
    const struct connection_options options = {0};
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    settle(&bed);
    connection_end(bed.connection, NGHTTP2_NO_ERROR, CLOSE_LOCAL, NULL);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    assert_string_equal(bed.peer.goaway_debug, "");
    memory_end(&bed.memory, 0);
    assert_true(bed.memory.closing);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_LOCAL);
    assert_string_equal(bed.detail, nghttp2_http2_strerror(NGHTTP2_NO_ERROR));
    bed_deinit(&bed);
}

/* A peer that ends its side with the fault still reads ours. */
static void test_end_after_end_of_file(void **state)
{
    const struct connection_options options = {0};
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    settle(&bed);
    end(&bed);
    memory_end(&bed.memory, 0);
    assert_false(bed.memory.closing);
    wait_closed(&bed);
    assert_true(bed.memory.shut);
    (void)peer_pump(&bed.peer);
    assert_int_equal(bed.peer.goaways, 1);
    assert_string_equal(bed.peer.goaway_debug, "enough");
    assert_int_equal(bed.reason, CLOSE_FLOOD);
    bed_deinit(&bed);

    /* One that is lost does not. */
    bed_init(&bed, &options, &usual_peer);
    settle(&bed);
    end(&bed);
    memory_end(&bed.memory, -ECONNRESET);
    assert_true(bed.memory.closing);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_FLOOD);
    bed_deinit(&bed);
}

/* The first word is SETTINGS, even if the second is the last. */
static void test_end_at_once(void **state)
{
    const struct connection_options options = {0};
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    end(&bed);
    settle(&bed);
    assert_int_equal(bed.peer.error, 0);
    assert_int_equal(bed.peer.settings, 1);
    assert_int_equal(bed.peer.goaways, 1);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_FLOOD);
}

/* A socket that takes nothing has a second. */
static void test_end_while_blocked(void **state)
{
    const struct connection_options options = {0};
    uint64_t ended_ms;
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    (void)get(&bed);
    settle(&bed);
    block_socket(&bed, LIST_FIRST(&bed.peer.streams), 1000);
    ended_ms = now_ms(&bed);
    end(&bed);
    assert_int_equal(bed.lost, 1);
    wait_closed(&bed);
    assert_true(bed.closed_at_ms - ended_ms >= LINGER_MS);
    assert_false(bed.memory.shut);
    assert_int_equal(bed.reason, CLOSE_FLOOD);
    assert_string_equal(bed.detail, "enough");
    bed_deinit(&bed);
}

/* If it takes something within that second, the word comes whole, in pieces or not. */
static void test_end_while_blocked_for_a_moment(void **state)
{
    const struct connection_options options = {0};

    for (size_t take = 0; take < 40; take++) {
        struct bed bed;

        bed_init(&bed, &options, &usual_peer);
        (void)get(&bed);
        settle(&bed);
        block_socket(&bed, LIST_FIRST(&bed.peer.streams), 1000);
        end(&bed);
        world_turn(&bed.world);
        bed.memory.accept = take;
        memory_release(&bed.memory, 0);
        world_turn(&bed.world);
        if (bed.memory.kept > 0) {
            assert_false(bed.memory.shut);
            memory_release(&bed.memory, 0);
        }
        settle(&bed);
        assert_true(bed.memory.shut);
        assert_int_equal(bed.peer.error, 0);
        assert_int_equal(bed.peer.goaways, 1);
        assert_string_equal(bed.peer.goaway_debug, "enough");
        bed_deinit(&bed);
        assert_int_equal(bed.reason, CLOSE_FLOOD);
    }
}

/* DATA on stream 0: nghttp2 ends the session by itself. */
static const uint8_t fault[] = {0, 0, 1, NGHTTP2_DATA, 0, 0, 0, 0, 0, 'x'};

static void test_own_end_of_nghttp2(void **state)
{
    const struct connection_options options = {0};
    uint64_t ended_ms;
    struct bed bed;

    /* While the socket is blocked: a second. */
    bed_init(&bed, &options, &usual_peer);
    (void)get(&bed);
    settle(&bed);
    block_socket(&bed, LIST_FIRST(&bed.peer.streams), 1000);
    ended_ms = now_ms(&bed);
    memory_deliver(&bed.memory, fault, sizeof(fault), 0);
    assert_int_equal(bed.lost, 1);
    wait_closed(&bed);
    assert_true(bed.closed_at_ms - ended_ms >= LINGER_MS);
    assert_int_equal(bed.reason, CLOSE_PROTOCOL_ERROR);
    assert_string_not_equal(bed.detail, "");
    bed_deinit(&bed);

    /* For a moment only, or not at all: its GOAWAY comes. */
    for (unsigned blocked = 0; blocked < 2; blocked++) {
        bed_init(&bed, &options, &usual_peer);
        (void)get(&bed);
        settle(&bed);
        if (blocked)
            block_socket(&bed, LIST_FIRST(&bed.peer.streams), 1000);
        memory_deliver(&bed.memory, fault, sizeof(fault), 0);
        assert_int_equal(bed.lost, 1);
        bed.memory.accept = SIZE_MAX;
        if (blocked)
            memory_release(&bed.memory, 0);
        settle(&bed);
        assert_int_equal(bed.peer.goaways, 1);
        assert_int_equal(bed.peer.goaway_code, NGHTTP2_PROTOCOL_ERROR);
        assert_true(bed.memory.shut);
        bed_deinit(&bed);
        assert_int_equal(bed.reason, CLOSE_PROTOCOL_ERROR);
        assert_string_equal(bed.detail, nghttp2_http2_strerror(NGHTTP2_PROTOCOL_ERROR));
    }
}

/* ---- Drain ---- */

static void test_drain_in_two_steps(void **state)
{
    const struct connection_options options = {0};
    struct peer_stream *before, *between, *after;
    struct buffer crossing = {0};
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    bed.limit = 1000;
    bed.paced = true;
    before = get(&bed);
    settle(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    connection_drain(bed.connection, CLOSE_AGE); /* the first stands */

    /* A request that the peer sends before it can know. */
    between = get(&bed);
    peer_produce(&bed.peer, &crossing);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    assert_int_equal(bed.peer.goaway_code, NGHTTP2_NO_ERROR);
    assert_int_equal(bed.peer.goaway_last, INT32_MAX);
    assert_int_equal(bed.peer.pings, 1);
    memory_deliver(&bed.memory, crossing.bytes, crossing.size, 0);
    settle(&bed);
    assert_int_equal(bed.opened, 2);
    assert_int_equal(between->blocks, 1);
    assert_int_equal(bed.peer.goaways, 1);

    /* An answer to some other PING is none. */
    bed.peer.ping_opaque[0] ^= 1;
    peer_pong(&bed.peer);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    bed.peer.ping_opaque[0] ^= 1;
    peer_pong(&bed.peer);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(bed.peer.goaway_code, NGHTTP2_NO_ERROR);
    assert_int_equal(bed.peer.goaway_last, between->id);
    after = get(&bed);
    settle(&bed);
    assert_int_equal(after->blocks, 0);
    assert_int_equal(bed.opened, 2);
    connection_drain(bed.connection, CLOSE_AGE);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(bed.peer.pings, 1);

    /* What is open goes on, and then it is over. */
    bed.paced = false;
    for (struct item *item = bed.items; item; item = item->next)
        stream_resume(&item->stream);
    settle(&bed);
    assert_true(before->ended && between->ended);
    assert_int_equal(between->data.size, 1000);
    assert_true(bed.memory.shut);
    memory_end(&bed.memory, 0);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_SHUTDOWN);
    buffer_deinit(&crossing);
    bed_deinit(&bed);
}

/* A connection without streams waits for the answer too: one may be on its way. */
static void test_drain_without_streams(void **state)
{
    const struct connection_options options = {0};
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    settle(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    assert_false(bed.memory.shut);
    peer_pong(&bed.peer);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(bed.peer.goaway_last, 0);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_SHUTDOWN);
}

/* Who does not answer gets five seconds. */
static void test_drain_without_an_answer(void **state)
{
    const struct connection_options options = {0};
    uint64_t drained_ms;
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    settle(&bed);
    drained_ms = now_ms(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    WAIT_FOR(&bed, bed.peer.goaways == 2);
    assert_true(now_ms(&bed) - drained_ms >= 5000);
    settle(&bed);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
}

/* While the socket is blocked the second step waits, so that no stream falls between. */
static void test_drain_while_blocked(void **state)
{
    const struct connection_options options = {0};
    struct peer_stream *stream;
    struct buffer crossing = {0};
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    stream = get(&bed);
    settle(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    (void)get(&bed);
    peer_produce(&bed.peer, &crossing);
    settle(&bed);
    block_socket(&bed, stream, 100);
    peer_pong(&bed.peer);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    memory_deliver(&bed.memory, crossing.bytes, crossing.size, 0);
    assert_int_equal(bed.opened, 2);
    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(bed.peer.goaway_last, 3);
    assert_int_equal(bed.lost, 0);
    buffer_deinit(&crossing);
    bed_deinit(&bed);

    /* The first step too. */
    bed_init(&bed, &options, &silent_peer);
    (void)get(&bed);
    settle(&bed);
    block_socket(&bed, LIST_FIRST(&bed.peer.streams), 100);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 0);
    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    bed_deinit(&bed);
}

/* Who has said nothing yet has a second for it. */
static void test_drain_before_the_preface(void **state)
{
    const struct connection_options options = {0};
    uint64_t drained_ms;
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    drained_ms = now_ms(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    while (!bed.memory.shut)
        world_sleep(&bed.world);
    assert_true(now_ms(&bed) - drained_ms >= 1000);
    (void)peer_pump(&bed.peer);
    assert_int_equal(bed.peer.goaways, 1);
    assert_int_equal(bed.peer.goaway_last, 0);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_SHUTDOWN);
}

/* One that waited to be accepted, and has sent its preface and a request meanwhile, is served. */
static void test_drain_of_one_just_accepted(void **state)
{
    const struct connection_options options = {0};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    stream = get(&bed);
    bed.limit = 100;
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    connection_drain(bed.connection, CLOSE_AGE);
    world_turn(&bed.world);
    assert_false(bed.memory.shut);
    settle(&bed);
    assert_true(stream->ended);
    assert_int_equal(stream->data.size, 100);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(bed.peer.goaway_last, stream->id);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_SHUTDOWN);
}

/* A PING that came before the notice would be answered by a peer that does not know. */
static void test_drain_says_it_before_it_asks(void **state)
{
    const struct connection_options options = {0};
    const uint8_t *bytes;
    uint8_t types[3] = {0};
    unsigned count = 0;
    size_t size;
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    settle(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    world_turn(&bed.world);
    size = memory_take(&bed.memory, &bytes);
    for (size_t at = 0; at + 9 <= size && count < ELEMENTSOF(types); count++) {
        types[count] = bytes[at + 3];
        at += 9 + ((size_t)bytes[at] << 16 | (size_t)bytes[at + 1] << 8 | bytes[at + 2]);
    }
    assert_int_equal(count, 2);
    assert_int_equal(types[0], NGHTTP2_GOAWAY);
    assert_int_equal(types[1], NGHTTP2_PING);
    bed_deinit(&bed);
}

/* A client has nothing to wait for either. */
static void test_drain_of_a_client(void **state)
{
    const struct connection_options options = {0};
    struct bed bed;

    bed_init(&bed, &options, &server_peer);
    settle(&bed);
    connection_drain(bed.connection, CLOSE_LOCAL);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    assert_int_equal(bed.peer.pings, 0);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_LOCAL);
}

/* A fault in the middle of a drain is the reason. */
static void test_end_while_draining(void **state)
{
    const struct connection_options options = {0};
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    (void)get(&bed);
    settle(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    end(&bed); /* before the notice has left */
    settle(&bed);
    assert_int_equal(bed.peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_string_equal(bed.peer.goaway_debug, "enough");
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_FLOOD);
}

/* ---- Keepalive ---- */

static void test_keepalive_closes(void **state)
{
    const struct connection_options options = {.keepalive_time_ms = 30, .keepalive_timeout_ms = 40};

    for (unsigned client = 0; client < 2; client++) {
        uint64_t heard_ms, pinged_ms;
        struct bed bed;

        bed_init(&bed, &options, client ? &server_peer : &silent_peer);
        settle(&bed);
        heard_ms = now_ms(&bed);
        WAIT_FOR(&bed, bed.peer.pings == 1);
        pinged_ms = now_ms(&bed);
        assert_int_equal(bed.stats.pings_sent_total, 1);
        assert_true(pinged_ms - heard_ms >= 20); /* heard_ms may be later than what was heard */
        wait_closed(&bed);
        assert_int_equal(bed.reason, CLOSE_KEEPALIVE);
        assert_string_not_equal(bed.detail, "");
        assert_int_equal(bed.stats.pings_sent_total, 1);
        bed_deinit(&bed);
    }
}

/* An answer, or any other byte, is life; then it begins again. */
static void test_keepalive_lives(void **state)
{
    const struct connection_options options = {.keepalive_time_ms = 20,
                                               .keepalive_timeout_ms = HOUR_MS};

    for (unsigned other = 0; other < 2; other++) {
        struct bed bed;

        bed_init(&bed, &options, &silent_peer);
        settle(&bed);
        for (unsigned i = 1; i <= 3; i++) {
            WAIT_FOR(&bed, bed.peer.pings == i);
            /* No second one while the first waits. */
            pass(&bed, 60);
            (void)peer_pump(&bed.peer);
            assert_int_equal(bed.peer.pings, i);
            if (other)
                peer_grant(&bed.peer, NULL, 1);
            else
                peer_pong(&bed.peer);
            (void)peer_pump(&bed.peer);
        }
        assert_int_equal(bed.closes, 0);
        assert_int_equal(bed.stats.pings_sent_total, 3);
        bed_deinit(&bed);
    }
}

/* Nobody pings a connection on which bytes come. */
static void test_keepalive_hears(void **state)
{
    const struct connection_options options = {.keepalive_time_ms = 300,
                                               .keepalive_timeout_ms = HOUR_MS};
    uint64_t until_ms, last_ms, gap_ms = 0;
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    settle(&bed);
    last_ms = now_ms(&bed);
    until_ms = last_ms + 900;
    while (now_ms(&bed) < until_ms) {
        gap_ms = MAX(gap_ms, now_ms(&bed) - last_ms);
        last_ms = now_ms(&bed);
        peer_grant(&bed.peer, NULL, 1);
        (void)peer_pump(&bed.peer);
        world_sleep(&bed.world);
    }
    /* Unless the machine slept. */
    if (gap_ms < 200)
        assert_int_equal(bed.stats.pings_sent_total, 0);
    bed_deinit(&bed);
}

/* If this process slept, the answer lies in the socket and counts. */
static void test_keepalive_after_sleep(void **state)
{
    const struct connection_options options = {.keepalive_time_ms = 10, .keepalive_timeout_ms = 10};
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    settle(&bed);
    for (unsigned i = 0; i < 20; i++) {
        unsigned pings = bed.peer.pings;

        while (bed.peer.pings == pings) {
            uv_sleep(15);
            world_turn(&bed.world); /* timers first, then what is in the socket */
            (void)peer_pump(&bed.peer);
        }
        uv_sleep(30);
        world_turn(&bed.world);
        (void)peer_pump(&bed.peer);
        assert_int_equal(bed.closes, 0);
        assert_false(bed.memory.closing);
    }
    bed_deinit(&bed);
}

/* What a closed connection had still to do is not begun: its memory would be gone by then. */
static void test_keepalive_closes_as_a_drain_is_due(void **state)
{
    const struct connection_options options = {.keepalive_time_ms = 1000,
                                               .keepalive_timeout_ms = 10};
    uint64_t drained_ms;
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    settle(&bed);
    drained_ms = now_ms(&bed);
    connection_drain(bed.connection, CLOSE_SHUTDOWN);
    while (bed.stats.pings_sent_total == 0)
        world_sleep(&bed.world);
    world_turn(&bed.world);
    uv_sleep(50); /* no answer: the next turn suspects, the one after it closes */
    world_turn(&bed.world);
    assert_int_equal(bed.closes, 0);
    while (now_ms(&bed) - drained_ms <= 5000)
        uv_sleep(10);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_KEEPALIVE);
    bed_deinit(&bed);
}

/* A PING that cannot leave is not waited for: a full socket is the stall policy's. */
static void test_keepalive_while_blocked(void **state)
{
    const struct connection_options options = {.keepalive_time_ms = 20, .keepalive_timeout_ms = 20};
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    (void)get(&bed);
    settle(&bed);
    block_socket(&bed, LIST_FIRST(&bed.peer.streams), 100);
    pass(&bed, 150);
    assert_int_equal(bed.closes, 0);
    bed.memory.accept = SIZE_MAX;
    memory_release(&bed.memory, 0);
    WAIT_FOR(&bed, bed.peer.pings == 1);
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_KEEPALIVE);
    bed_deinit(&bed);
}

/* ---- The peer's pings ---- */

static void ping(struct bed *bed)
{
    peer_ping(&bed->peer);
    settle(bed);
}

static void test_too_many_pings(void **state)
{
    /* With a stream and without. */
    const struct connection_options options[] = {
        {.ping_min_ms = HOUR_MS},
        {.ping_min_idle_ms = HOUR_MS},
    };

    for (unsigned idle = 0; idle < 2; idle++) {
        struct bed bed;

        bed_init(&bed, &options[idle], &usual_peer);
        bed.paced = true;
        bed.limit = 0;
        if (!idle)
            (void)get(&bed);
        settle(&bed);
        /* The HEADERS of an answer forgive it, and the first of all has none before it. */
        ping(&bed);
        for (unsigned i = 1; i <= 2; i++) {
            ping(&bed);
            assert_int_equal(bed.peer.goaways, 0);
        }
        ping(&bed);
        assert_int_equal(bed.peer.goaways, 1);
        assert_int_equal(bed.peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
        assert_string_equal(bed.peer.goaway_debug, "too_many_pings");
        assert_true(bed.memory.shut);
        memory_end(&bed.memory, 0);
        wait_closed(&bed);
        assert_int_equal(bed.reason, CLOSE_TOO_MANY_PINGS);
        assert_string_equal(bed.detail, "too_many_pings");
        bed_deinit(&bed);
    }
}

/* Each limit is for its own state; none, and a client's, are no limit. */
static void test_allowed_pings(void **state)
{
    const struct connection_options options[] = {
        {.ping_min_ms = HOUR_MS},      /* used without a stream */
        {.ping_min_idle_ms = HOUR_MS}, /* with one */
        {0},
        {.ping_min_ms = HOUR_MS, .ping_min_idle_ms = HOUR_MS}, /* by a client */
    };

    for (unsigned i = 0; i < ELEMENTSOF(options); i++) {
        struct bed bed;

        bed_init(&bed, &options[i], i == 3 ? &server_peer : &usual_peer);
        bed.paced = true;
        bed.limit = 0;
        if (i == 1)
            (void)get(&bed);
        settle(&bed);
        for (unsigned k = 1; k <= 10; k++)
            ping(&bed);
        assert_int_equal(bed.peer.pongs, 10);
        assert_int_equal(bed.peer.goaways, 0);
        bed_deinit(&bed);
    }
}

/* Pings that keep their distance never add up. */
static void test_slow_pings(void **state)
{
    const struct connection_options options = {.ping_min_ms = 20, .ping_min_idle_ms = 20};
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    settle(&bed);
    for (unsigned i = 1; i <= 6; i++) {
        ping(&bed);
        pass(&bed, 25);
    }
    assert_int_equal(bed.peer.goaways, 0);
    assert_int_equal(bed.peer.pongs, 6);
    bed_deinit(&bed);
}

/* Who measures bandwidth pings after what it is sent (gRFC A8). */
static void test_answers_forgive_pings(void **state)
{
    const struct connection_options options = {.ping_min_ms = HOUR_MS, .ping_min_idle_ms = HOUR_MS};
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    bed.paced = true;
    bed.limit = 0;
    (void)get(&bed);
    settle(&bed);
    for (unsigned i = 0; i < 20; i++) {
        /* DATA, then as many as are allowed. */
        bed.items->limit += MESSAGE_SIZE;
        stream_resume(&bed.items->stream);
        settle(&bed);
        for (unsigned k = 0; k < 3; k++)
            ping(&bed);
    }
    for (unsigned i = 0; i < 20; i++) {
        /* HEADERS. */
        (void)get(&bed);
        settle(&bed);
        for (unsigned k = 0; k < 3; k++)
            ping(&bed);
    }
    assert_int_equal(bed.peer.goaways, 0);
    ping(&bed);
    assert_int_equal(bed.peer.goaways, 1);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_TOO_MANY_PINGS);
}

/* ---- Idleness and age ---- */

static void test_idle(void **state)
{
    const struct connection_options options = {.idle_max_ms = 60};
    struct peer_stream *stream;
    uint64_t since_ms;
    struct bed bed;

    /* From the start. */
    bed_init(&bed, &options, &usual_peer);
    since_ms = now_ms(&bed);
    WAIT_FOR(&bed, bed.memory.shut);
    assert_true(now_ms(&bed) - since_ms >= 50);
    assert_int_equal(bed.peer.goaways, 2);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_IDLE);

    /* Not while there is a stream, but from its end on. */
    bed_init(&bed, &options, &usual_peer);
    bed.paced = true;
    bed.limit = 0;
    stream = get(&bed);
    settle(&bed);
    if (bed.opened == 1 && bed.peer.goaways == 0) { /* or the machine slept */
        pass(&bed, 200);
        settle(&bed);
        assert_int_equal(bed.peer.goaways, 0);
        since_ms = now_ms(&bed);
        peer_reset(&bed.peer, stream, NGHTTP2_CANCEL);
        WAIT_FOR(&bed, bed.memory.shut);
        assert_true(now_ms(&bed) - since_ms >= 60);
        assert_int_equal(bed.peer.goaways, 2);
    }
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_IDLE);
}

/* A stream that crosses the first step is served to its end. */
static void test_idle_and_a_late_stream(void **state)
{
    const struct connection_options options = {.idle_max_ms = 30};
    struct peer_stream *stream;
    struct buffer crossing = {0};
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    bed.limit = 1000;
    settle(&bed);
    stream = get(&bed);
    peer_produce(&bed.peer, &crossing);
    WAIT_FOR(&bed, bed.peer.goaways == 1);
    memory_deliver(&bed.memory, crossing.bytes, crossing.size, 0);
    peer_pong(&bed.peer);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 2);
    assert_int_equal(bed.peer.goaway_last, stream->id);
    assert_true(stream->ended);
    assert_int_equal(stream->data.size, 1000);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_IDLE);
    buffer_deinit(&crossing);
}

static void test_age(void **state)
{
    const struct connection_options options = {.age_max_ms = 100};
    struct peer_stream *stream;
    uint64_t since_ms;
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    since_ms = now_ms(&bed);
    bed.paced = true;
    bed.limit = 1000;
    stream = get(&bed);
    WAIT_FOR(&bed, bed.peer.goaways == 2);
    assert_true(now_ms(&bed) - since_ms >= 80);
    assert_int_equal(bed.peer.goaway_last, stream->id);
    assert_false(bed.memory.shut);

    /* Without a grace it may go on for ever. */
    pass(&bed, 200);
    assert_int_equal(bed.lost, 0);
    bed.paced = false;
    stream_resume(&bed.items->stream);
    settle(&bed);
    assert_true(stream->ended);
    assert_true(bed.memory.shut);
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_AGE);
}

static void test_age_grace(void **state)
{
    const struct connection_options options = {.age_max_ms = 50, .age_grace_ms = 80};
    uint64_t drained_ms;
    struct bed bed;

    bed_init(&bed, &options, &silent_peer);
    bed.paced = true;
    bed.limit = 0;
    (void)get(&bed);
    WAIT_FOR(&bed, bed.peer.goaways == 1);
    drained_ms = now_ms(&bed);
    WAIT_FOR(&bed, bed.memory.shut);
    assert_true(now_ms(&bed) - drained_ms >= 60);
    assert_int_equal(bed.lost, 1);
    assert_int_equal(bed.peer.goaway_code, NGHTTP2_NO_ERROR);
    assert_string_equal(bed.peer.goaway_debug, "max_age");
    bed_deinit(&bed);
    assert_int_equal(bed.reason, CLOSE_AGE);
}

/* A tenth more or less, not all the same. */
static void test_age_jitter(void **state)
{
    const struct connection_options options = {.age_max_ms = 500};
    uint64_t first_ms = 0, last_ms = 0;
    struct bed beds[12];
    unsigned open = ELEMENTSOF(beds);

    for (unsigned i = 0; i < ELEMENTSOF(beds); i++) {
        bed_init(&beds[i], &options, &usual_peer);
        settle(&beds[i]);
    }
    for (uint64_t start_ms = now_ms(&beds[0]); open > 0;) {
        world_sleep(&beds[0].world);
        for (unsigned i = 0; i < ELEMENTSOF(beds); i++) {
            if (beds[i].memory.shut)
                continue;
            settle(&beds[i]);
            if (!beds[i].memory.shut)
                continue;
            open--;
            last_ms = now_ms(&beds[i]) - start_ms;
            if (first_ms == 0)
                first_ms = last_ms;
        }
    }
    /* Slow machines only make it longer. */
    assert_true(first_ms >= 400);
    assert_true(last_ms - first_ms >= 10);
    for (unsigned i = 0; i < ELEMENTSOF(beds); i++)
        bed_deinit(&beds[i]);
}

/* A client's connection has no such limits. */
static void test_client_has_no_age(void **state)
{
    const struct connection_options options = {
        .idle_max_ms = 10, .age_max_ms = 10, .age_grace_ms = 10};
    struct bed bed;

    bed_init(&bed, &options, &server_peer);
    settle(&bed);
    pass(&bed, 60);
    settle(&bed);
    assert_int_equal(bed.peer.goaways, 0);
    assert_int_equal(bed.closes, 0);
    bed_deinit(&bed);
}

/* ---- Stalls ---- */

static void test_stalled_by_window(void **state)
{
    const struct connection_options options = {.stall_timeout_ms = 80};

    for (unsigned whole = 0; whole < 2; whole++) {
        struct peer_stream *stream;
        uint64_t since_ms;
        struct bed bed;

        bed_init(&bed, &options, &usual_peer);
        stream = get(&bed);
        if (whole) /* the stream has more than the connection */
            peer_settings(&bed.peer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20);
        since_ms = now_ms(&bed);
        settle(&bed);
        assert_int_equal(stream->data.size, 65535);
        WAIT_FOR(&bed, bed.stalls == 1);
        assert_true(now_ms(&bed) - since_ms >= 80);
        assert_int_equal(bed.stall_reason,
                         whole ? BLOCKED_CONNECTION_WINDOW : BLOCKED_STREAM_WINDOW);
        assert_int_equal(bed.stats.streams_stalled_total, 1);

        /* Left alone, it is told again after the next such time. */
        since_ms = now_ms(&bed);
        WAIT_FOR(&bed, bed.stalls == 2);
        assert_true(now_ms(&bed) - since_ms >= 70);

        /* What the layer above does about it is its choice. */
        bed.reset_stalled = true;
        WAIT_FOR(&bed, stream->reset);
        assert_int_equal(stream->reset_code, NGHTTP2_ENHANCE_YOUR_CALM);
        assert_int_equal(bed.stalls, 3);
        assert_int_equal(bed.stats.streams_stalled_total, 3);
        pass(&bed, 150);
        assert_int_equal(bed.stalls, 3);
        assert_int_equal(bed.closes, 0);
        bed_deinit(&bed);
    }
}

/* A byte now and then is progress; nothing to send is no stall. */
static void test_not_stalled(void **state)
{
    const struct connection_options options = {.stall_timeout_ms = 400};
    uint64_t until_ms, last_ms, gap_ms = 0;
    struct peer_stream *slow;
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    slow = get(&bed);
    settle(&bed);
    bed.paced = true;
    bed.limit = 0;
    (void)get(&bed); /* this one never has anything */
    settle(&bed);
    peer_grant(&bed.peer, NULL, 1 << 20);
    last_ms = now_ms(&bed);
    until_ms = last_ms + 1200;
    while (now_ms(&bed) < until_ms) {
        gap_ms = MAX(gap_ms, now_ms(&bed) - last_ms);
        last_ms = now_ms(&bed);
        peer_grant(&bed.peer, slow, 1);
        settle(&bed);
        pass(&bed, 20);
    }
    if (gap_ms < 80) /* the machine did not sleep */
        assert_int_equal(bed.stalls, 0);
    assert_int_equal(bed.closes, 0);

    /* It is found when it comes. */
    WAIT_FOR(&bed, bed.stalls > 0);
    bed_deinit(&bed);
}

static void test_stalled_socket(void **state)
{
    const struct connection_options options = {.stall_timeout_ms = 80};
    uint64_t since_ms;
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    (void)get(&bed);
    settle(&bed);
    since_ms = now_ms(&bed);
    block_socket(&bed, LIST_FIRST(&bed.peer.streams), 100);
    wait_closed(&bed);
    assert_true(bed.closed_at_ms - since_ms >= 80);
    assert_int_equal(bed.reason, CLOSE_STALLED);
    assert_string_not_equal(bed.detail, "");
    assert_int_equal(bed.stalls, 0); /* it is the socket's fault, not the stream's */
    assert_int_equal(bed.lost, 1);
    bed_deinit(&bed);
}

/* Room that changes, or a write that ends, is progress. */
static void test_slow_socket(void **state)
{
    const struct connection_options options = {.stall_timeout_ms = 80};
    uint64_t until_ms;
    struct bed bed;

    bed_init(&bed, &options, &usual_peer);
    (void)get(&bed);
    settle(&bed);
    block_socket(&bed, LIST_FIRST(&bed.peer.streams), 100);
    until_ms = now_ms(&bed) + 400;
    for (bed.memory.room = 1000; now_ms(&bed) < until_ms; bed.memory.room++)
        world_turn(&bed.world);
    assert_int_equal(bed.closes, 0);
    until_ms = now_ms(&bed) + 400;
    while (now_ms(&bed) < until_ms) {
        bed.memory.accept = 0;
        memory_release(&bed.memory, 0);
        peer_grant(&bed.peer, NULL, 1000);
        peer_grant(&bed.peer, LIST_FIRST(&bed.peer.streams), 1000);
        (void)peer_pump(&bed.peer);
        world_turn(&bed.world);
        assert_true(bed.memory.kept > 0);
        assert_int_equal(bed.closes, 0);
    }
    wait_closed(&bed);
    assert_int_equal(bed.reason, CLOSE_STALLED);
    bed_deinit(&bed);
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
    settle(bed);
    if (!bed->memory.closing) {
        peer_upload(&bed->peer, streams[0], "0123456789", 10, false);
        settle(bed);
    }
    while (bed->act_in == IN_STALLED && !bed->acted)
        world_sleep(&bed->world);
    settle(bed);
    if (!bed->memory.closing)
        assert_int_equal(nghttp2_submit_goaway(bed->peer.session, 0, 0, 0, NULL, 0), 0);
    settle(bed);
    if (bed->act_in == IN_CLOSE && !bed->acted && !bed->memory.closing) {
        peer_reset(&bed->peer, streams[0], NGHTTP2_CANCEL);
        settle(bed);
    }
}

static void test_actions_in_callbacks(void **state)
{
    const struct connection_options options = {.stall_timeout_ms = 20,
                                               .keepalive_time_ms = HOUR_MS,
                                               .idle_max_ms = HOUR_MS,
                                               .age_max_ms = HOUR_MS};

    for (unsigned in = 0; in < CALLBACK_COUNT; in++) {
        for (unsigned action = 1; action < ACTION_COUNT; action++) {
            bool ends = action == DO_END || action == DO_DRAIN_AND_END;
            struct bed bed;

            bed_init(&bed, &options, &usual_peer);
            bed.act_in = in;
            bed.action = action;
            run_busy_scenario(&bed);
            assert_true(bed.acted);
            if (ends) {
                assert_true(bed.peer.settings > 0);
                assert_int_equal(bed.peer.error, 0);
                assert_int_equal(bed.peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
                assert_string_equal(bed.peer.goaway_debug, "enough");
                assert_true(bed.memory.shut);
                assert_null(bed.items);
            }
            if (action == DO_CLOSE || action == DO_END_AND_CLOSE)
                assert_true(bed.memory.closing);
            if (action == DO_DRAIN) /* one is enough after the peer's own */
                assert_int_equal(bed.peer.goaways, in == IN_GOAWAY || in == IN_CLOSE ? 1 : 2);
            bed_deinit(&bed);
            if (action != DO_DRAIN)
                assert_int_equal(bed.reason, action == DO_CLOSE ? CLOSE_LOCAL : CLOSE_FLOOD);
            else
                assert_true(bed.reason == CLOSE_SHUTDOWN || bed.reason == CLOSE_LOCAL);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_end_and_end_of_file),
        cmocka_unit_test(test_end_after_end_of_file),
        cmocka_unit_test(test_end_at_once),
        cmocka_unit_test(test_end_while_blocked),
        cmocka_unit_test(test_end_while_blocked_for_a_moment),
        cmocka_unit_test(test_own_end_of_nghttp2),
        cmocka_unit_test(test_drain_in_two_steps),
        cmocka_unit_test(test_drain_without_streams),
        cmocka_unit_test(test_drain_without_an_answer),
        cmocka_unit_test(test_drain_while_blocked),
        cmocka_unit_test(test_drain_before_the_preface),
        cmocka_unit_test(test_drain_of_one_just_accepted),
        cmocka_unit_test(test_drain_says_it_before_it_asks),
        cmocka_unit_test(test_drain_of_a_client),
        cmocka_unit_test(test_end_while_draining),
        cmocka_unit_test(test_keepalive_closes),
        cmocka_unit_test(test_keepalive_lives),
        cmocka_unit_test(test_keepalive_hears),
        cmocka_unit_test(test_keepalive_after_sleep),
        cmocka_unit_test(test_keepalive_closes_as_a_drain_is_due),
        cmocka_unit_test(test_keepalive_while_blocked),
        cmocka_unit_test(test_too_many_pings),
        cmocka_unit_test(test_allowed_pings),
        cmocka_unit_test(test_slow_pings),
        cmocka_unit_test(test_answers_forgive_pings),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_idle_and_a_late_stream),
        cmocka_unit_test(test_age),
        cmocka_unit_test(test_age_grace),
        cmocka_unit_test(test_age_jitter),
        cmocka_unit_test(test_client_has_no_age),
        cmocka_unit_test(test_stalled_by_window),
        cmocka_unit_test(test_not_stalled),
        cmocka_unit_test(test_stalled_socket),
        cmocka_unit_test(test_slow_socket),
        cmocka_unit_test(test_actions_in_callbacks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
