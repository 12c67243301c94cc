/*
 * Each call of the market's service with the n-th allocation failing, for every n: whatever becomes
 * of it, nothing is left or stays booked.
 */
#include "failmalloc.h"
#include "market_bed.h"
#include "stockservice.pb-c.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct peer_options usual = {0};

static void test_new(void **state)
{
    struct market_service *service = NULL;
    const struct market_service_options options = {.heartbeat_min_ms = 1};
    int r;

    failmalloc_arm(1);
    r = market_service_new(&service, &options);
    assert_true(failmalloc_disarm());
    assert_int_equal(r, -ENOMEM);
    assert_null(service);
}

/* What a client is told, if it is: nghttp2 1.52 may have lost it for want of memory. */
static void assert_told(const struct peer_stream *stream)
{
    const char *status = peer_field(stream, "grpc-status");

    if (status)
        assert_true(strcmp(status, "0") == 0 || strcmp(status, "8") == 0 ||
                    strcmp(status, "13") == 0);
}

static void try_each(const char *path, const void *body, size_t size, bool goes_on)
{
    size_t nth = 1;

    for (;; nth++) {
        struct peer_stream *stream;
        struct bed bed;
        bool failed;

        bed_init(&bed, &usual, 3);
        peer_settle(&bed.world, &bed.peer);
        bed_publish(&bed, 0);
        bed_publish(&bed, 1);
        stream = bed_call(&bed, path, body, size);
        failmalloc_arm(nth);
        peer_settle(&bed.world, &bed.peer);
        if (!bed.memory.closing)
            bed_publish(&bed, 1);
        peer_settle(&bed.world, &bed.peer);
        failed = failmalloc_disarm();
        assert_told(stream);
        if (!failed) {
            assert_true(stream->data.size > 0);
            assert_true(goes_on == !peer_field(stream, "grpc-status"));
        }
        bed_deinit(&bed);
        if (!failed)
            break;
    }
    assert_true(nth > 3);
}

static void test_subscribe(void **state)
{
    static char name[] = "T1";
    static char *names[] = {name};
    Stockservice__SubscribeRequest request = STOCKSERVICE__SUBSCRIBE_REQUEST__INIT;
    uint8_t bytes[100];

    request.snapshot = true;
    try_each(PATH_SUBSCRIBE, bytes, stockservice__subscribe_request__pack(&request, bytes), true);
    request.tickers = names;
    request.n_tickers = 1;
    request.policy = STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_CONFLATE;
    try_each(PATH_SUBSCRIBE, bytes, stockservice__subscribe_request__pack(&request, bytes), true);
}

static void test_list(void **state)
{
    try_each(PATH_LIST, "", 0, false);
}

static void test_snapshot(void **state)
{
    static char name[] = "T1";
    static char *names[] = {name};
    Stockservice__GetSnapshotRequest request = STOCKSERVICE__GET_SNAPSHOT_REQUEST__INIT;
    uint8_t bytes[100];

    try_each(PATH_SNAPSHOT, "", 0, false);
    request.tickers = names;
    request.n_tickers = 1;
    try_each(PATH_SNAPSHOT, bytes, stockservice__get_snapshot_request__pack(&request, bytes),
             false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new),
        cmocka_unit_test(test_subscribe),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_snapshot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
