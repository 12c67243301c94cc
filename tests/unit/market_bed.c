/* A market whose clock is the loop's, or slower by what a test says. */
#include "market_bed.h"

#include "base/util.h"
#include "services/market_event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void on_clock(void *context, struct market_time *ret_time)
{
    const struct bed *bed = context;

    ret_time->now_ms = loop_now_ms(&bed->world.loop) - bed->ago_ms;
    ret_time->unix_ns = 1769851800 * UINT64_C(1000000000);
}

void bed_init(struct bed *bed, const struct peer_options *peer, unsigned tickers)
{
    const struct connection_options connection = {
        .max_streams = 10000,
        .max_header_bytes = 8192,
        .stream_window = 65535,
        .connection_window = 1 << 20,
        .ops = &call_connection_ops,
        .context = bed,
        .stats = &bed->stats,
        .loop = &bed->world.loop,
    };
    const struct market_options market = {
        .epoch = 7,
        .history_bytes_max = 1 << 20,
        .tickers_max = MARKET_TICKERS_MAX,
        .subscriptions_size_max = 1 << 20,
        .limits.queue_updates_max = 1000,
        .encode = market_event_encode,
        .clock = on_clock,
        .context = bed,
    };
    struct market_service_options service = {.loop = &bed->world.loop, .heartbeat_min_ms = 5};

    *bed = (struct bed){.calls = &bed->server};
    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    assert_int_equal(market_new(&bed->market, &market), 0);
    for (unsigned i = 0; i < tickers; i++) {
        char name[16];
        unsigned index;

        (void)snprintf(name, sizeof(name), "T%u", i);
        assert_int_equal(market_add_ticker(bed->market, name, &index), 0);
        assert_int_equal(index, i);
    }
    service.market = bed->market;
    assert_int_equal(market_service_new(&bed->service, &service), 0);
    for (unsigned i = 0; i < MARKET_SERVICE_METHODS; i++)
        bed->methods[i] = market_service_method(bed->service, i);
    bed->stats.loop = &bed->world.loop;
    bed->server = (struct call_server){
        .loop = &bed->world.loop,
        .methods = {bed->methods, MARKET_SERVICE_METHODS},
        .max_message_bytes = 1 << 20,
        .max_input_bytes = UINT64_C(64) << 20,
        .max_calls = 100000,
    };
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "peer", &connection),
                     0);
    peer_init(&bed->peer, &bed->memory, peer);
}

void bed_deinit(struct bed *bed)
{
    const struct market_stats *stats = market_stats(bed->market);

    /* Without memory it may be gone. */
    if (!bed->memory.closing)
        connection_close(bed->connection, CLOSE_LOCAL, NULL);
    world_turn(&bed->world);
    world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(bed->server.calls, 0);
    assert_int_equal(bed->server.queued_bytes, 0);
    for (unsigned i = 0; i < SLOW_POLICY_COUNT; i++)
        assert_int_equal(stats->subscribers[i], 0);
    assert_int_equal(stats->subscriptions_size, 0);
    assert_null(market_service_free(bed->service));
    assert_null(market_free(bed->market));
    peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world); /* no timer of a subscription is left */
}

void bed_publish(struct bed *bed, unsigned ticker)
{
    const struct market_quote quote = {.price = 100.25, .volume = 5};

    market_publish(bed->market, ticker, &quote);
}

struct peer_stream *bed_call(struct bed *bed, const char *path, const void *body, size_t size)
{
    struct peer_stream *stream = peer_request(&bed->peer, path, NULL, 0, true);

    peer_upload_message(&bed->peer, stream, body, size, true);
    return stream;
}
