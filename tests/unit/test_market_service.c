/*
 * Subscribe, ListTickers and GetSnapshot over a connection in memory: what calls hold, what they
 * give back, and what is measured. What they answer is tested with real clients.
 */
#include "services/market.h"

#include "base/util.h"
#include "market_bed.h"
#include "services/market_event.h"
#include "stockservice.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

static struct peer_stream *subscribe(struct bed *bed, const Stockservice__SubscribeRequest *request)
{
    uint8_t bytes[256];

    assert_true(stockservice__subscribe_request__get_packed_size(request) <= sizeof(bytes));
    return bed_call(bed, PATH_SUBSCRIBE, bytes,
                    stockservice__subscribe_request__pack(request, bytes));
}

static void assert_status(const struct peer_stream *stream, const char *status, const char *text)
{
    assert_true(stream->ended);
    assert_non_null(peer_field(stream, "grpc-status"));
    assert_string_equal(peer_field(stream, "grpc-status"), status);
    if (text)
        assert_string_equal(peer_field(stream, "grpc-message"), text);
}

/* The number of whole events in what came; fails if the bytes end inside one. */
static unsigned events_of(const struct peer_stream *stream)
{
    unsigned count = 0;

    for (size_t at = 0; at < stream->data.size; count++) {
        uint32_t length = wire_prefix_length(stream->data.bytes + at);
        Stockservice__MarketEvent *event = stockservice__market_event__unpack(
            NULL, length, stream->data.bytes + at + WIRE_PREFIX_SIZE);

        assert_non_null(event);
        assert_int_equal(event->epoch, 7);
        stockservice__market_event__free_unpacked(event, NULL);
        at += WIRE_PREFIX_SIZE + length;
        assert_true(at <= stream->data.size);
    }
    return count;
}

static const struct peer_options usual = {0};

/* Whatever a window has room for is whole, and a call that waits holds nothing but its place. */
static void test_events_are_whole(void **state)
{
    for (uint32_t window = 2 * MARKET_EVENT_WRITE_MAX; window < 2 * MARKET_EVENT_WRITE_MAX + 300;
         window++) {
        const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
        const struct peer_options peer = {
            .hold_credit = true, .settings = &settings, .settings_count = 1};
        const Stockservice__SubscribeRequest request = STOCKSERVICE__SUBSCRIBE_REQUEST__INIT;
        struct peer_stream *stream;
        unsigned before;
        struct bed bed;

        bed_init(&bed, &peer, 2);
        stream = subscribe(&bed, &request);
        settle(&bed);
        for (unsigned i = 0; i < 40; i++)
            bed_publish(&bed, i % 2);
        settle(&bed);
        before = events_of(stream);
        assert_in_range(before, 2, 30);
        assert_true(stream->data.size + MARKET_EVENT_SIZE_MAX > window);
        assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 1);
        assert_int_equal(bed.server.queued_bytes, 0);
        assert_int_equal(market_service_events_sent(bed.service), before);
        peer_grant(&bed.peer, stream, 1 << 16);
        settle(&bed);
        assert_int_equal(events_of(stream), 40);
        assert_int_equal(market_service_events_sent(bed.service), 40);
        bed_deinit(&bed);
    }
}

/* The subscription goes with the verdict, not with the client's reading of it. */
static void test_cut_off(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1000};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    Stockservice__SubscribeRequest request = STOCKSERVICE__SUBSCRIBE_REQUEST__INIT;
    struct peer_stream *stream;
    struct bed bed;

    request.policy = STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_DISCONNECT;
    request.max_queue = 10;
    bed_init(&bed, &peer, 1);
    stream = subscribe(&bed, &request);
    settle(&bed);
    assert_int_equal(market_stats(bed.market)->subscribers[SLOW_POLICY_DISCONNECT], 1);
    for (unsigned i = 0; i < 10; i++) {
        bed_publish(&bed, 0);
        settle(&bed);
    }
    for (unsigned i = 0; i < 20; i++)
        bed_publish(&bed, 0);
    market_sweep(bed.market);
    assert_int_equal(market_stats(bed.market)->subscribers[SLOW_POLICY_DISCONNECT], 0);
    assert_int_equal(market_stats(bed.market)->subscriptions_size, 0);
    settle(&bed);
    assert_status(stream, "8", NULL);
    assert_false(stream->reset);
    (void)events_of(stream);
    /* Nothing of it is left to be woken. */
    bed_publish(&bed, 0);
    market_sweep(bed.market);
    bed_deinit(&bed);
}

/* Answers that nobody takes have a bound, and whoever goes makes room. */
static void test_answers_have_a_bound(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    struct peer_stream *first, *stream;
    uint64_t size, most = MARKET_SERVICE_ANSWER_BYTES_MAX / 4 * 3;
    struct bed bed;

    bed_init(&bed, &peer, 10000);
    for (unsigned i = 0; i < 10000; i++)
        bed_publish(&bed, i);
    first = stream = bed_call(&bed, PATH_SNAPSHOT, "", 0);
    settle(&bed);
    for (size = bed.server.queued_bytes; !stream->ended;) {
        assert_true(bed.server.queued_bytes <= most);
        stream = bed_call(&bed, PATH_SNAPSHOT, "", 0);
        settle(&bed);
    }
    assert_status(stream, "8", "too many answers wait for this client");
    assert_true(bed.server.queued_bytes + size > most);
    /* Those that are no longer than any call's queue do not count. */
    stream = bed_call(&bed, PATH_SNAPSHOT, "\x0A\x02T1", 4);
    settle(&bed);
    assert_false(stream->ended);
    assert_false(first->ended);
    peer_reset(&bed.peer, first, NGHTTP2_CANCEL);
    settle(&bed);
    stream = bed_call(&bed, PATH_SNAPSHOT, "", 0);
    settle(&bed);
    assert_false(stream->ended);
    bed_deinit(&bed);
}

/* Observations above so many seconds. */
static uint64_t count_later(const struct histogram *histogram, double seconds)
{
    uint64_t count = 0;

    for (unsigned i = 0; i <= histogram->count; i++) {
        if (i == histogram->count || histogram->bounds[i] > seconds)
            count += histogram->buckets[i];
    }
    return count;
}

/* An update is late from when it was published; one from before the call, from the call on. */
static void test_send_lag(void **state)
{
    Stockservice__SubscribeRequest request = STOCKSERVICE__SUBSCRIBE_REQUEST__INIT;
    Stockservice__Position position = STOCKSERVICE__POSITION__INIT;
    const struct histogram *lag;
    struct peer_stream *stream;
    uint64_t begun_ms;
    struct bed bed;

    bed_init(&bed, &usual, 1);
    lag = market_service_send_lag(bed.service);
    bed.ago_ms = 100000;
    bed_publish(&bed, 0);
    bed.ago_ms = 0;
    position.epoch = 7;
    request.resume = &position;
    stream = subscribe(&bed, &request);
    settle(&bed);
    assert_int_equal(events_of(stream), 1);
    assert_int_equal(count_later(lag, -1), 1);
    assert_int_equal(count_later(lag, 60), 0);

    begun_ms = loop_now_ms(&bed.world.loop);
    while (loop_now_ms(&bed.world.loop) < begun_ms + 30)
        world_sleep(&bed.world);
    bed.ago_ms = 25;
    bed_publish(&bed, 0);
    settle(&bed);
    assert_int_equal(events_of(stream), 2);
    assert_true(count_later(lag, 0.02) >= 1);
    bed_deinit(&bed);
}

/* A shorter heartbeat than the least one is the least one; 0 is none. */
static void test_heartbeats(void **state)
{
    Stockservice__SubscribeRequest request = STOCKSERVICE__SUBSCRIBE_REQUEST__INIT;
    struct peer_stream *none, *often;
    uint64_t start_ms;
    struct bed bed;

    bed_init(&bed, &usual, 1);
    market_service_configure(bed.service, 20);
    none = subscribe(&bed, &request);
    request.heartbeat_ms = 1;
    often = subscribe(&bed, &request);
    settle(&bed);
    start_ms = loop_now_ms(&bed.world.loop);
    while (events_of(often) < 3) {
        world_sleep(&bed.world);
        (void)peer_pump(&bed.peer);
    }
    assert_true(loop_now_ms(&bed.world.loop) - start_ms >= 50);
    assert_int_equal(events_of(none), 0);
    bed_deinit(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_are_whole),     cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_answers_have_a_bound), cmocka_unit_test(test_send_lag),
        cmocka_unit_test(test_heartbeats),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
