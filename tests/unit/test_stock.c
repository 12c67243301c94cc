/*
 * GetUpdates over a connection in memory: that no window, however odd, makes a hole in the chain of
 * prices, and what a call does and holds while its client does not read.
 */
#include "services/stock.h"

#include "base/util.h"
#include "memory.h"
#include "services/stock_update.h"
#include "stockservice.pb-c.h"

#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define PATH "/stockservice.StockService/GetUpdates"

struct bed {
    struct call_server *calls; /* first, as call_connection_ops wants it */
    struct call_server server;
    struct stock_service *service;
    const struct method *methods[1];
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
};

static void bed_init(struct bed *bed, const struct stock_options *options,
                     const struct peer_options *peer)
{
    struct connection_options connection = {
        .max_streams = 10000,
        .max_header_bytes = 8192,
        .stream_window = 65535,
        .connection_window = 65535,
        .ops = &call_connection_ops,
        .context = bed,
        .stats = &bed->stats,
        .loop = &bed->world.loop,
    };

    *bed = (struct bed){.calls = &bed->server};
    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    assert_int_equal(stock_service_new(&bed->service, &bed->world.loop, options), 0);
    bed->methods[0] = stock_service_get_updates(bed->service);
    bed->stats.loop = &bed->world.loop;
    bed->server = (struct call_server){
        .loop = &bed->world.loop,
        .methods = {bed->methods, 1},
        .max_message_bytes = 10000,
        .max_input_bytes = UINT64_C(64) << 20,
        .max_calls = 100000,
    };
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "peer", &connection),
                     0);
    if (peer)
        peer_init(&bed->peer, &bed->memory, peer);
}

/* Updates whose lag was counted, and those of them that were later than `ms`, a bound. */
static uint64_t count_later(const struct bed *bed, double ms)
{
    const struct histogram *lag = stock_service_send_lag(bed->service);
    uint64_t count = 0;

    for (unsigned i = 0; i <= lag->count; i++) {
        if (i == lag->count || lag->bounds[i] > ms / 1000)
            count += lag->buckets[i];
    }
    return count;
}

/* Every update that was sent has a lag, and nothing else has, whatever became of the rest. */
static void assert_lags_complete(const struct bed *bed)
{
    assert_int_equal(count_later(bed, -1), stock_service_updates_sent(bed->service));
}

static void bed_deinit(struct bed *bed)
{
    assert_lags_complete(bed);
    connection_close(bed->connection, CLOSE_LOCAL, NULL);
    world_turn(&bed->world);
    world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(bed->server.calls, 0);
    assert_int_equal(bed->server.queued_bytes, 0);
    assert_lags_complete(bed);
    assert_null(stock_service_free(bed->service));
    if (bed->peer.session)
        peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world); /* no timer of a call is left */
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

static struct peer_stream *get_updates(struct bed *bed)
{
    struct peer_stream *stream = peer_request(&bed->peer, PATH, NULL, 0, true);

    peer_upload_message(&bed->peer, stream, "", 0, true);
    return stream;
}

/* One turn that may sleep, and what it moved. */
static void step(struct bed *bed)
{
    world_sleep(&bed->world);
    (void)peer_pump(&bed->peer);
}

/* The update at *offset, which moves on to the next; NULL if it is not whole. */
static Stockservice__StockUpdate *next_update(const struct buffer *data, size_t *offset)
{
    Stockservice__StockUpdate *update;
    uint32_t length;

    if (data->size - *offset < WIRE_PREFIX_SIZE)
        return NULL;
    assert_int_equal(data->bytes[*offset], 0);
    length = wire_prefix_length(data->bytes + *offset);
    assert_true(length < STOCK_UPDATE_SIZE_MAX);
    if (data->size - *offset < WIRE_PREFIX_SIZE + length)
        return NULL;
    update =
        stockservice__stock_update__unpack(NULL, length, data->bytes + *offset + WIRE_PREFIX_SIZE);
    assert_non_null(update);
    *offset += WIRE_PREFIX_SIZE + length;
    return update;
}

/* Looks at every whole update; fails unless price[n] == price[n-1] + change[n]. Their number. */
static unsigned check_chain(const struct buffer *data, double start)
{
    Stockservice__StockUpdate *update;
    double price = start;
    size_t offset = 0;
    unsigned count = 0;

    while ((update = next_update(data, &offset))) {
        assert_true(update->price == price + update->change);
        assert_true(update->price > 0);
        assert_true(update->openprice == start);
        assert_true(update->highprice >= update->price && update->lowprice <= update->price);
        assert_string_equal(update->ticker, "AAPL");
        assert_true(strlen(update->timestamp) >= 20);
        price = update->price;
        count++;
        stockservice__stock_update__free_unpacked(update, NULL);
    }
    return count;
}

static unsigned count_updates(const struct peer_stream *stream)
{
    return check_chain(&stream->data, 150.0);
}

static const struct stock_options unpaced = {.ticker = "AAPL", .start_price = 150.0, .seed = 7};

static void test_odd_windows(void **state)
{
    static const uint32_t windows[] = {1,   2,   3,   4,   5,   6,   7,   50,  99,   100,
                                       101, 104, 105, 106, 107, 108, 149, 150, 1000, 16385};

    for (size_t i = 0; i < ELEMENTSOF(windows); i++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, windows[i]};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        struct peer_stream *stream;
        struct bed bed;

        bed_init(&bed, &unpaced, &peer);
        peer_grant(&bed.peer, NULL, 1 << 24);
        stream = get_updates(&bed);
        settle(&bed);
        for (uint32_t n = 1; stream->data.size < 2000 + 2 * windows[i]; n++) {
            assert_int_equal(stream->data.size, n * windows[i]); /* all that there is room for */
            /* A straddling update's rest is all that is held. */
            assert_true(bed.server.queued_bytes < STOCK_UPDATE_SIZE_MAX);
            assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 1);
            peer_grant(&bed.peer, stream, (int32_t)windows[i]);
            settle(&bed);
        }
        assert_true(count_updates(stream) >= 2000 / STOCK_UPDATE_SIZE_MAX);
        assert_int_equal(count_updates(stream), stock_service_updates_sent(bed.service));
        bed_deinit(&bed);
    }
}

/* The socket takes what it likes, and the chain has no hole. */
static void test_odd_socket(void **state)
{
    const struct peer_options peer = {0};
    struct peer_stream *one, *two;
    uint32_t random = 1;
    struct bed bed;

    bed_init(&bed, &unpaced, &peer);
    bed.memory.release_now = true;
    one = get_updates(&bed);
    two = get_updates(&bed);
    for (unsigned i = 0; i < 300; i++) {
        random = random * 1664525 + 1013904223;
        bed.memory.accept = random >> 12 & 0xffff;
        world_turn(&bed.world);
        (void)peer_pump(&bed.peer);
    }
    assert_true(bed.memory.keeps > 10);
    assert_true(count_updates(one) > 1000);
    assert_true(count_updates(two) > 1000);
    bed_deinit(&bed);
}

/* The first updates of the first two calls. */
static void first_updates(uint64_t seed, double ret_prices[static 20])
{
    const struct stock_options options = {.ticker = "AAPL", .start_price = 150.0, .seed = seed};
    const struct peer_options peer = {.hold_credit = true};
    struct peer_stream *streams[2];
    struct bed bed;

    bed_init(&bed, &options, &peer);
    for (unsigned i = 0; i < 2; i++) {
        streams[i] = get_updates(&bed);
        peer_grant(&bed.peer, NULL, 1 << 20);
        settle(&bed);
    }
    for (unsigned i = 0; i < 20; i++) {
        static size_t offset;
        Stockservice__StockUpdate *update;

        if (i % 10 == 0)
            offset = 0;
        update = next_update(&streams[i / 10]->data, &offset);
        assert_non_null(update);
        ret_prices[i] = update->price;
        stockservice__stock_update__free_unpacked(update, NULL);
    }
    bed_deinit(&bed);
}

static void test_seed(void **state)
{
    double first[20], again[20], other[20];

    first_updates(1, first);
    first_updates(1, again);
    first_updates(2, other);
    assert_memory_equal(first, again, sizeof(first));
    assert_memory_not_equal(first, other, sizeof(first));
    assert_memory_not_equal(first, first + 10, sizeof(first) / 2); /* each call its own walk */
}

static void test_bad_request(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    struct peer_stream *bad, *unknown;
    struct bed bed;

    bed_init(&bed, &unpaced, &peer);
    bad = peer_request(&bed.peer, PATH, NULL, 0, true);
    peer_upload_message(&bed.peer, bad, "\xff\xff\xff", 3, true);
    unknown = peer_request(&bed.peer, PATH, NULL, 0, true);
    peer_upload_message(&bed.peer, unknown, "\x0a\1x", 3, true); /* an unknown field */
    settle(&bed);
    assert_string_equal(peer_field(bad, "grpc-status"), "13");
    assert_true(count_updates(unknown) > 0);
    bed_deinit(&bed);
}

/* ---- Paced ---- */

static void on_time(struct wheel_timer *timer)
{
    /* That it is disarmed is all that is asked. */
}

/* Turns, for at least so long. */
static void pass(struct bed *bed, uint64_t ms)
{
    struct wheel_timer timer = {.fire = on_time};

    loop_arm(&bed->world.loop, &timer, ms, 1);
    while (wheel_armed(&timer))
        step(bed);
}

static void test_paced_pauses_when_blocked(void **state)
{
    const struct stock_options options = {
        .ticker = "AAPL", .start_price = 150.0, .interval_ms = 10, .seed = 3};
    static const uint32_t windows[] = {0, 60}; /* before a message, and inside the first one */

    for (size_t i = 0; i < ELEMENTSOF(windows); i++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, windows[i]};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        struct peer_stream *stream;
        uint64_t freed_ms;
        struct bed bed;

        bed_init(&bed, &options, &peer);
        stream = get_updates(&bed);
        pass(&bed, 100);
        assert_int_equal(stream->data.size, windows[i]);
        assert_int_equal(stock_service_updates_sent(bed.service), 0);
        assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 1);
        assert_int_equal(bed.stats.blocked_episodes_total[BLOCKED_STREAM_WINDOW], 1);

        /* Ten intervals have passed: one update was due all the while, and none was made up for. */
        assert_int_equal(count_later(&bed, -1), 0);
        peer_grant(&bed.peer, stream, 60000);
        freed_ms = loop_now_ms(&bed.world.loop);
        while (count_updates(stream) < 5) {
            uint64_t passed_ms;

            step(&bed);
            passed_ms = loop_now_ms(&bed.world.loop) - freed_ms;
            assert_true(count_updates(stream) <= 2 + passed_ms / 10);
        }
        assert_true(count_later(&bed, 50) >= 1); /* the one that was due */
        assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 0);
        bed_deinit(&bed);
    }
}

/* What a write left over is late for as long as it waits, and never sent if that is never. */
static void test_lag_at_the_socket(void **state)
{
    const struct stock_options options = {
        .ticker = "AAPL", .start_price = 150.0, .interval_ms = 3600 * 1000, .seed = 3};
    const struct peer_options peer = {0};

    for (unsigned lost = 0; lost <= 1; lost++) {
        struct bed bed;

        bed_init(&bed, &options, &peer);
        settle(&bed);
        for (unsigned i = 0; i < 3; i++)
            (void)get_updates(&bed);
        bed.memory.accept = 0;
        settle(&bed); /* from here on they wait, on however busy a machine */
        assert_true(bed.memory.kept > 0);
        pass(&bed, 60);
        assert_int_equal(count_later(&bed, -1), 0);
        bed.memory.accept = SIZE_MAX;
        memory_release(&bed.memory, lost ? -ECONNRESET : 0);
        assert_int_equal(count_later(&bed, 50), lost ? 0 : 3);
        assert_int_equal(stock_service_updates_sent(bed.service), lost ? 0 : 3);
        bed_deinit(&bed);
    }
}

/* What is made when it can be sent is not late, however long it could not; but the update that was
 * under way then is. */
static void test_lag_unpaced(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1000};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &unpaced, &peer);
    stream = get_updates(&bed);
    settle(&bed);
    pass(&bed, 600);
    assert_true(count_updates(stream) > 5);
    assert_int_equal(count_later(&bed, 500), 0);
    peer_grant(&bed.peer, stream, 5000);
    settle(&bed);
    assert_true(count_updates(stream) > 30);
    assert_int_equal(count_later(&bed, 500), 1);
    bed_deinit(&bed);
}

/* The gauges: when something was last made, and the interval of calls that begin now. */
static void test_gauges(void **state)
{
    struct stock_options options = {
        .ticker = "AAPL", .start_price = 150.0, .interval_ms = 3600 * 1000, .seed = 3};
    const struct peer_options peer = {0};
    double before = (double)time(NULL) - 1, first;
    struct bed bed;

    bed_init(&bed, &options, &peer);
    settle(&bed);
    assert_true(stock_service_last_update(bed.service) == 0);
    assert_true(stock_service_interval(bed.service) == 3600);
    (void)get_updates(&bed);
    settle(&bed);
    first = stock_service_last_update(bed.service);
    assert_true(first >= before && first <= (double)time(NULL) + 1);
    pass(&bed, 20);
    assert_true(stock_service_last_update(bed.service) == first);

    /* One by the new options counts, too. */
    options.interval_ms = 25;
    assert_int_equal(stock_service_configure(bed.service, &options), 0);
    assert_true(stock_service_interval(bed.service) == 0.025);
    (void)get_updates(&bed);
    settle(&bed);
    assert_true(stock_service_last_update(bed.service) > first);
    bed_deinit(&bed);
}

static void test_initial_delay(void **state)
{
    const struct stock_options options = {.ticker = "AAPL",
                                          .start_price = 150.0,
                                          .interval_ms = 1000,
                                          .initial_delay_ms = 50,
                                          .seed = 3};
    const struct peer_options peer = {0};
    struct peer_stream *stream;
    uint64_t start_ms;
    struct bed bed;

    bed_init(&bed, &options, &peer);
    stream = get_updates(&bed);
    start_ms = loop_now_ms(&bed.world.loop);
    settle(&bed);
    assert_int_equal(stream->blocks, 1); /* the headers do not wait */
    assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 0);
    while (stream->data.size == 0)
        step(&bed);
    assert_true(loop_now_ms(&bed.world.loop) - start_ms >= 50);
    assert_int_equal(count_updates(stream), 1);
    bed_deinit(&bed);
}

/*
 * Lateness does not add up: after many updates the last is no later than one can be. Turns that
 * came late themselves, on a busy machine, are allowed for.
 */
static void test_interval_is_exact_on_average(void **state)
{
    static const uint64_t intervals[] = {1, 7, 23};

    for (size_t i = 0; i < ELEMENTSOF(intervals); i++) {
        const struct stock_options options = {
            .ticker = "AAPL", .start_price = 150.0, .interval_ms = intervals[i], .seed = 3};
        const struct peer_options peer = {0};
        const unsigned updates = 60;
        struct peer_stream *stream;
        uint64_t start_ms, last_ms, late_ms = 0;
        uint64_t slack_ms = MAX(intervals[i] / 10, (uint64_t)1) + 1;
        struct bed bed;

        bed_init(&bed, &options, &peer);
        settle(&bed);
        stream = get_updates(&bed);
        (void)peer_pump(&bed.peer); /* the call begins here, its first update due at once */
        start_ms = last_ms = loop_now_ms(&bed.world.loop);
        for (unsigned count = 0; count < updates; count = count_updates(stream)) {
            uint64_t gap_ms;

            step(&bed);
            gap_ms = loop_now_ms(&bed.world.loop) - last_ms;
            last_ms += gap_ms;
            /* Turns sleep 5 ms at most; what goes beyond is the machine's. */
            if (gap_ms > MIN(intervals[i], (uint64_t)6))
                late_ms += gap_ms;
            /* Never early. */
            assert_true(count_updates(stream) <= 1 + (last_ms - start_ms) / intervals[i]);
        }
        assert_in_range(last_ms - start_ms, (updates - 1) * intervals[i],
                        (updates - 1) * intervals[i] + slack_ms + late_ms + 6);
        bed_deinit(&bed);
    }
}

static void shut_down(struct stream *stream)
{
    call_shutdown(call_from_stream(stream), WIRE_UNAVAILABLE, "the server is shutting down");
}

static void test_shutdown(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed, &unpaced, &peer);
    stream = get_updates(&bed);
    settle(&bed);
    connection_each_stream(bed.connection, shut_down);
    peer_grant(&bed.peer, NULL, 1000);
    peer_grant(&bed.peer, stream, 1000);
    settle(&bed);
    assert_true(stream->ended);
    assert_string_equal(peer_field(stream, "grpc-status"), "14");
    assert_int_equal(count_updates(stream), stock_service_updates_sent(bed.service));
    bed_deinit(&bed);
}

/* ---- Memory ---- */

#define STALLED 2000

/* What a client sends for STALLED calls, of which each gets a window of `window` bytes. */
static void make_requests(struct buffer *ret_bytes, uint32_t window)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
    const struct peer_options options = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    struct memory memory = {0};
    struct peer peer;

    peer_init(&peer, &memory, &options);
    peer_grant(&peer, NULL, 1 << 30);
    for (unsigned i = 0; i < STALLED; i++) {
        struct peer_stream *stream = peer_request(&peer, PATH, NULL, 0, true);

        peer_upload_message(&peer, stream, "", 0, true);
        /* The window of the connection is the real server's to give. */
        peer_produce(&peer, ret_bytes);
    }
    peer_deinit(&peer);
}

static bool memory_is_measurable(void)
{
#ifdef __SANITIZE_ADDRESS__
    return false;
#else
    return true;
#endif
}

/* Calls that never get their window back, each in the middle of a message, for as long as it is. */
static void test_stalled_calls_are_cheap(void **state)
{
    struct buffer requests = {0};
    struct mallinfo2 before, after;
    size_t each;
    struct bed bed;

    make_requests(&requests, 150);
    bed_init(&bed, &unpaced, NULL);
    bed.memory.discard = true;
    bed.memory.room = SIZE_MAX;
    world_turn(&bed.world);
    before = mallinfo2();
    memory_deliver(&bed.memory, requests.bytes, requests.size, 16384);
    for (unsigned i = 0; i < 50; i++)
        world_turn(&bed.world);
    after = mallinfo2();
    assert_int_equal(bed.server.calls, STALLED);
    assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], STALLED);
    assert_int_equal(stock_service_updates_sent(bed.service), STALLED);
    assert_true(bed.memory.accepted > STALLED * 150);
    each = (after.uordblks - before.uordblks) / STALLED;
    if (memory_is_measurable()) {
        print_message("a stalled call holds %zu bytes\n", each);
        assert_in_range(each, 100, 2047);
    }
    bed_deinit(&bed);
    buffer_deinit(&requests);
}

/* Looks at what came after *offset, which moves on: a chain from *price on, with this ticker and
 * start. Their number. */
static unsigned follow(const struct peer_stream *stream, size_t *offset, const char *ticker,
                       double start, double *price)
{
    Stockservice__StockUpdate *update;
    unsigned count = 0;

    while ((update = next_update(&stream->data, offset))) {
        assert_string_equal(update->ticker, ticker);
        assert_true(update->openprice == start);
        assert_true(update->price == *price + update->change);
        *price = update->price;
        count++;
        stockservice__stock_update__free_unpacked(update, NULL);
    }
    return count;
}

/* New options are for calls that begin later; a call that goes on misses nothing, not even its
 * ticker when nobody else has it any more. */
static void test_configure(void **state)
{
    const struct stock_options before = {
        .ticker = "AAPL", .start_price = 150.0, .interval_ms = 3, .seed = 7};
    const struct stock_options after = {
        .ticker = "MSFT", .start_price = 20.0, .interval_ms = 3600 * 1000, .seed = 8};
    const struct peer_options peer = {0};
    double old_price = 150.0, new_price = 20.0;
    size_t old_offset = 0, new_offset = 0;
    struct peer_stream *old, *new;
    struct bed bed;
    unsigned count;

    bed_init(&bed, &before, &peer);
    old = get_updates(&bed);
    settle(&bed);
    count = follow(old, &old_offset, "AAPL", 150.0, &old_price);
    assert_true(count > 0);
    for (unsigned i = 0; i < 3; i++) /* what is between belongs to no call and goes */
        assert_int_equal(stock_service_configure(bed.service, &after), 0);
    new = get_updates(&bed);
    settle(&bed);
    for (unsigned more = 0; more < 20;) {
        step(&bed);
        more += follow(old, &old_offset, "AAPL", 150.0, &old_price);
    }
    assert_int_equal(follow(new, &new_offset, "MSFT", 20.0, &new_price), 1);
    bed_deinit(&bed);
}

/* The walks of a seed begin anew when it is set, and go on when something else is. */
static void test_configure_seed(void **state)
{
    struct stock_options options = {
        .ticker = "AAPL", .start_price = 150.0, .interval_ms = 3600 * 1000, .seed = 7};
    static const uint64_t seeds[] = {7, 7, 8, 7, 7};
    const struct peer_options peer = {0};
    double prices[ELEMENTSOF(seeds)];
    struct bed bed;

    bed_init(&bed, &options, &peer);
    for (size_t i = 0; i < ELEMENTSOF(seeds); i++) {
        struct peer_stream *stream;
        size_t offset = 0;

        options.seed = seeds[i];
        options.interval_ms++;
        assert_int_equal(stock_service_configure(bed.service, &options), 0);
        stream = get_updates(&bed);
        settle(&bed);
        prices[i] = 150.0;
        assert_int_equal(follow(stream, &offset, "AAPL", 150.0, &prices[i]), 1);
    }
    assert_true(prices[0] != prices[1]);
    assert_true(prices[2] != prices[0] && prices[2] != prices[1]);
    assert_true(prices[3] == prices[0] && prices[4] == prices[1]);
    bed_deinit(&bed);
}

/* Compressing is what a call begins with, too. */
static void test_configure_compress(void **state)
{
    static const struct field gzip[] = {{"grpc-accept-encoding", "gzip"}};
    struct stock_options options = {
        .ticker = "AAPL", .start_price = 150.0, .interval_ms = 3600 * 1000, .seed = 7};
    const struct peer_options peer = {0};
    struct peer_stream *streams[3];
    struct bed bed;

    bed_init(&bed, &options, &peer);
    for (size_t i = 0; i < ELEMENTSOF(streams); i++) {
        options.compress = i == 1;
        assert_int_equal(stock_service_configure(bed.service, &options), 0);
        streams[i] = peer_request(&bed.peer, PATH, gzip, ELEMENTSOF(gzip), true);
        peer_upload_message(&bed.peer, streams[i], "", 0, true);
        settle(&bed);
    }
    for (size_t i = 0; i < ELEMENTSOF(streams); i++) {
        const char *encoding = peer_field(streams[i], "grpc-encoding");

        assert_int_equal(encoding && strcmp(encoding, "gzip") == 0, i == 1);
    }
    bed_deinit(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_odd_windows),
        cmocka_unit_test(test_odd_socket),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_bad_request),
        cmocka_unit_test(test_paced_pauses_when_blocked),
        cmocka_unit_test(test_lag_at_the_socket),
        cmocka_unit_test(test_lag_unpaced),
        cmocka_unit_test(test_gauges),
        cmocka_unit_test(test_initial_delay),
        cmocka_unit_test(test_interval_is_exact_on_average),
        cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_stalled_calls_are_cheap),
        cmocka_unit_test(test_configure),
        cmocka_unit_test(test_configure_seed),
        cmocka_unit_test(test_configure_compress),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
