/*
 * The health service over a connection in memory: what Check, List and Watch answer, and that a
 * watcher who takes nothing costs nothing and then hears only the newest.
 */
#include "services/health.h"

#include "base/util.h"
#include "grpc/health/v1/health.pb-c.h"
#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define CHECK "/grpc.health.v1.Health/Check"
#define LIST "/grpc.health.v1.Health/List"
#define WATCH "/grpc.health.v1.Health/Watch"

static const char *const usual_names[] = {"", "stockservice.StockService", "other.Service"};

struct bed {
    struct call_server *calls; /* first, as call_connection_ops wants it */
    struct call_server server;
    struct health_service *service;
    const struct method *methods[HEALTH_METHODS];
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
};

static void bed_init_with(struct bed *bed, const char *const *names, size_t count,
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
    assert_int_equal(health_service_new(&bed->service, names, count), 0);
    for (unsigned i = 0; i < HEALTH_METHODS; i++)
        bed->methods[i] = health_service_method(bed->service, i);
    bed->stats.loop = &bed->world.loop;
    bed->server = (struct call_server){
        .loop = &bed->world.loop,
        .methods = {bed->methods, HEALTH_METHODS},
        .max_message_bytes = 100000,
        .max_input_bytes = UINT64_C(64) << 20,
        .max_calls = 100000,
    };
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "peer", &connection),
                     0);
    peer_init(&bed->peer, &bed->memory, peer);
}

static void bed_init(struct bed *bed)
{
    const struct peer_options peer = {0};

    bed_init_with(bed, usual_names, ELEMENTSOF(usual_names), &peer);
}

static void bed_deinit(struct bed *bed)
{
    connection_close(bed->connection, CLOSE_LOCAL, NULL);
    world_turn(&bed->world);
    world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(bed->server.calls, 0);
    assert_int_equal(bed->server.queued_bytes, 0);
    health_service_set(bed->service, NULL, HEALTH_UNKNOWN); /* no watcher is left to be told */
    assert_null(health_service_free(bed->service));
    peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world);
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

/* A call whose request is for a name of `length` bytes. */
static struct peer_stream *ask_bytes(struct bed *bed, const char *path, const char *name,
                                     size_t length)
{
    struct peer_stream *stream = peer_request(&bed->peer, path, NULL, 0, true);
    uint8_t body[300];

    assert_true(length < 128);
    body[0] = 1 << 3 | 2;
    body[1] = (uint8_t)length;
    memcpy(body + 2, name, length);
    peer_upload_message(&bed->peer, stream, body, length > 0 ? length + 2 : 0, true);
    return stream;
}

static struct peer_stream *ask(struct bed *bed, const char *path, const char *name)
{
    return ask_bytes(bed, path, name, strlen(name));
}

/* All states that a stream got, as digits: "2" for one NOT_SERVING. Borrowed until the next call.
 */
static const char *states(const struct peer_stream *stream)
{
    static char text[100];
    size_t offset = 0, count = 0;

    while (offset < stream->data.size) {
        uint32_t length = wire_prefix_length(stream->data.bytes + offset);
        Grpc__Health__V1__HealthCheckResponse *response;

        assert_int_equal(stream->data.bytes[offset], 0);
        offset += WIRE_PREFIX_SIZE;
        assert_true(offset + length <= stream->data.size);
        response = grpc__health__v1__health_check_response__unpack(NULL, length,
                                                                   stream->data.bytes + offset);
        assert_non_null(response);
        assert_in_range(response->status, 0, 3);
        assert_true(count + 1 < sizeof(text));
        text[count++] = (char)('0' + (int)response->status);
        grpc__health__v1__health_check_response__free_unpacked(response, NULL);
        offset += length;
    }
    text[count] = '\0';
    return text;
}

static void assert_check(struct bed *bed, const char *name, const char *wanted)
{
    struct peer_stream *stream = ask(bed, CHECK, name);

    settle(bed);
    assert_string_equal(states(stream), wanted);
    assert_string_equal(peer_field(stream, "grpc-status"), "0");
    assert_true(stream->ended);
}

static void assert_status(const struct peer_stream *stream, const char *status)
{
    assert_int_equal(stream->data.size, 0);
    assert_string_equal(peer_field(stream, "grpc-status"), status);
    assert_true(stream->ended);
}

static void test_check(void **state)
{
    struct bed bed;

    bed_init(&bed);
    assert_check(&bed, "", "2"); /* nothing is said to serve before it was set */
    assert_check(&bed, "other.Service", "2");
    health_service_set(bed.service, "other.Service", HEALTH_SERVING);
    assert_check(&bed, "other.Service", "1");
    assert_check(&bed, "", "2");
    assert_check(&bed, "stockservice.StockService", "2");
    health_service_set(bed.service, NULL, HEALTH_SERVING);
    assert_check(&bed, "", "1");
    assert_check(&bed, "stockservice.StockService", "1");
    health_service_set(bed.service, "", HEALTH_UNKNOWN);
    assert_check(&bed, "", "0");
    assert_check(&bed, "other.Service", "1");
    bed_deinit(&bed);
}

static void test_check_of_an_unknown_service(void **state)
{
    static const char *const names[] = {"stockservice", "stockservice.StockServicE",
                                        "stockservice.StockService2", "*"};
    struct bed bed;

    bed_init(&bed);
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        struct peer_stream *stream = ask(&bed, CHECK, names[i]);

        settle(&bed);
        assert_status(stream, "5");
        assert_string_equal(peer_field(stream, "grpc-message"), "unknown service");
    }
    bed_deinit(&bed);
}

static void test_bad_requests(void **state)
{
    static const char *const paths[] = {CHECK, WATCH, LIST};
    struct bed bed;

    bed_init(&bed);
    for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
        struct peer_stream *stream = peer_request(&bed.peer, paths[i], NULL, 0, true);

        peer_upload_message(&bed.peer, stream, "\x0a\xff", 2, true); /* a length without its end */
        settle(&bed);
        assert_status(stream, "13");
    }
    for (size_t i = 0; i < 2; i++) {
        struct peer_stream *stream = ask_bytes(&bed, paths[i], "a\xffz", 3); /* no UTF-8 */

        settle(&bed);
        assert_status(stream, "13");
    }
    bed_deinit(&bed);
}

/* The state that List gives for a name: '0' and so on, or '-'. */
static char listed(const Grpc__Health__V1__HealthListResponse *list, const char *name)
{
    char found = '-';

    for (size_t i = 0; i < list->n_statuses; i++) {
        if (strcmp(list->statuses[i]->key, name) != 0)
            continue;
        assert_int_equal(found, '-'); /* once */
        assert_non_null(list->statuses[i]->value);
        found = (char)('0' + (int)list->statuses[i]->value->status);
    }
    return found;
}

static Grpc__Health__V1__HealthListResponse *list(struct bed *bed)
{
    struct peer_stream *stream = peer_request(&bed->peer, LIST, NULL, 0, true);
    Grpc__Health__V1__HealthListResponse *response;

    peer_upload_message(&bed->peer, stream, "", 0, true);
    settle(bed);
    assert_string_equal(peer_field(stream, "grpc-status"), "0");
    assert_true(stream->data.size >= WIRE_PREFIX_SIZE);
    assert_int_equal(stream->data.size, WIRE_PREFIX_SIZE + wire_prefix_length(stream->data.bytes));
    response = grpc__health__v1__health_list_response__unpack(
        NULL, stream->data.size - WIRE_PREFIX_SIZE, stream->data.bytes + WIRE_PREFIX_SIZE);
    assert_non_null(response);
    return response;
}

static void test_list(void **state)
{
    Grpc__Health__V1__HealthListResponse *response;
    struct bed bed;

    bed_init(&bed);
    health_service_set(bed.service, "other.Service", HEALTH_SERVING);
    health_service_set(bed.service, "", HEALTH_UNKNOWN);
    (void)ask(&bed, WATCH, "never.Known"); /* of which nothing is kept */
    response = list(&bed);
    assert_int_equal(response->n_statuses, 3);
    assert_int_equal(listed(response, ""), '0');
    assert_int_equal(listed(response, "other.Service"), '1');
    assert_int_equal(listed(response, "stockservice.StockService"), '2');
    grpc__health__v1__health_list_response__free_unpacked(response, NULL);
    bed_deinit(&bed);
}

/* gRFC A90: up to 100 services are listed; with more the call fails, and Check goes on. */
static void test_list_of_too_many(void **state)
{
    const struct peer_options peer = {0};
    Grpc__Health__V1__HealthListResponse *response;
    const char *names[101];
    char texts[101][16];
    struct peer_stream *stream;
    struct bed bed;

    for (unsigned i = 0; i < ELEMENTSOF(names); i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "service.%u", i);
        names[i] = texts[i];
    }
    bed_init_with(&bed, names, 100, &peer);
    response = list(&bed);
    assert_int_equal(response->n_statuses, 100);
    grpc__health__v1__health_list_response__free_unpacked(response, NULL);
    bed_deinit(&bed);

    bed_init_with(&bed, names, 101, &peer);
    stream = peer_request(&bed.peer, LIST, NULL, 0, true);
    peer_upload_message(&bed.peer, stream, "", 0, true);
    settle(&bed);
    assert_status(stream, "8");
    assert_check(&bed, "service.100", "2");
    bed_deinit(&bed);
}

static void test_watch(void **state)
{
    struct peer_stream *server, *stock, *other;
    struct bed bed;

    bed_init(&bed);
    server = ask(&bed, WATCH, "");
    stock = ask(&bed, WATCH, "stockservice.StockService");
    other = ask(&bed, WATCH, "stockservice.StockService");
    settle(&bed);
    assert_string_equal(states(server), "2"); /* at once */
    assert_string_equal(states(stock), "2");
    health_service_set(bed.service, "stockservice.StockService", HEALTH_SERVING);
    settle(&bed);
    assert_string_equal(states(server), "2");
    assert_string_equal(states(stock), "21");
    assert_string_equal(states(other), "21");
    /* No state twice. */
    health_service_set(bed.service, "stockservice.StockService", HEALTH_SERVING);
    health_service_set(bed.service, NULL, HEALTH_SERVING);
    settle(&bed);
    assert_string_equal(states(server), "21");
    assert_string_equal(states(stock), "21");
    /* Whoever leaves is told no more, and the others are. */
    peer_reset(&bed.peer, stock, NGHTTP2_CANCEL);
    settle(&bed);
    assert_int_equal(bed.server.calls, 2);
    health_service_set(bed.service, NULL, HEALTH_UNKNOWN);
    settle(&bed);
    assert_string_equal(states(server), "210");
    assert_string_equal(states(other), "210");
    assert_string_equal(states(stock), "21");
    assert_false(server->ended);
    assert_false(other->ended);
    bed_deinit(&bed);
}

static void test_watch_of_an_unknown_service(void **state)
{
    struct peer_stream *stream;
    struct bed bed;

    bed_init(&bed);
    stream = ask(&bed, WATCH, "never.Known");
    settle(&bed);
    assert_string_equal(states(stream), "3");
    health_service_set(bed.service, NULL, HEALTH_SERVING);
    health_service_shutdown(bed.service);
    settle(&bed);
    assert_string_equal(states(stream), "3");
    assert_false(stream->ended); /* it stays open */
    assert_int_equal(bed.server.calls, 1);
    assert_int_equal(bed.server.queued_bytes, 0);
    bed_deinit(&bed);
}

/* Without window only the newest state is sent when there is some; nothing waits till then. */
static void test_watch_blocked(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    static const enum health_status changes[] = {HEALTH_SERVING, HEALTH_UNKNOWN,
                                                 HEALTH_NOT_SERVING};
    struct peer_stream *stream;
    struct bed bed;

    bed_init_with(&bed, usual_names, ELEMENTSOF(usual_names), &peer);
    stream = ask(&bed, WATCH, "");
    settle(&bed);
    for (unsigned i = 0; i < 1000; i++) {
        health_service_set(bed.service, "", changes[i % ELEMENTSOF(changes)]);
        if (i % 100 == 0)
            settle(&bed);
        assert_int_equal(bed.server.queued_bytes, 0);
    }
    health_service_set(bed.service, "", HEALTH_SERVING);
    settle(&bed);
    assert_int_equal(stream->data.size, 0);

    /* Room for one answer, of 7 bytes, and 3 of the next. */
    peer_grant(&bed.peer, stream, 10);
    settle(&bed);
    assert_string_equal(states(stream), "1");
    health_service_set(bed.service, "", HEALTH_NOT_SERVING);
    settle(&bed);
    assert_int_equal(stream->data.size, 10);
    /* The one that is begun goes whole; then comes the newest again. */
    health_service_set(bed.service, "", HEALTH_UNKNOWN);
    health_service_set(bed.service, "", HEALTH_SERVING);
    peer_grant(&bed.peer, stream, 1000);
    settle(&bed);
    assert_string_equal(states(stream), "121");
    bed_deinit(&bed);
}

/* A state that has come back by the time that it can be sent is no change. */
static void test_watch_back_and_forth(void **state)
{
    const struct peer_options peer = {.hold_credit = true};
    struct peer_stream *stream;
    struct bed bed;

    bed_init_with(&bed, usual_names, ELEMENTSOF(usual_names), &peer);
    stream = ask(&bed, WATCH, "");
    settle(&bed);
    health_service_set(bed.service, "", HEALTH_SERVING);
    health_service_set(bed.service, "", HEALTH_NOT_SERVING);
    settle(&bed);
    assert_string_equal(states(stream), "2");
    assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 0);
    bed_deinit(&bed);
}

/* Who has taken all there is, and has no window left, is not blocked: there is nothing to send. */
static void test_watch_is_not_blocked_by_nothing(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 7};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    struct peer_stream *stream;
    struct bed bed;

    bed_init_with(&bed, usual_names, ELEMENTSOF(usual_names), &peer);
    stream = ask(&bed, WATCH, "");
    settle(&bed);
    assert_int_equal(stream->data.size, 7);
    health_service_set(bed.service, NULL, HEALTH_NOT_SERVING); /* as it was */
    health_service_set(bed.service, "other.Service", HEALTH_SERVING);
    settle(&bed);
    assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 0);
    assert_int_equal(bed.stats.blocked_episodes_total[BLOCKED_STREAM_WINDOW], 0);
    health_service_set(bed.service, "", HEALTH_SERVING);
    settle(&bed);
    assert_int_equal(bed.stats.blocked[BLOCKED_STREAM_WINDOW], 1);
    assert_string_equal(states(stream), "2");
    bed_deinit(&bed);
}

static void test_shutdown(void **state)
{
    struct peer_stream *watch;
    struct bed bed;

    bed_init(&bed);
    health_service_set(bed.service, NULL, HEALTH_SERVING);
    watch = ask(&bed, WATCH, "");
    settle(&bed);
    health_service_shutdown(bed.service);
    settle(&bed);
    assert_string_equal(states(watch), "12");
    /* For good. */
    health_service_set(bed.service, NULL, HEALTH_SERVING);
    health_service_set(bed.service, "", HEALTH_SERVING);
    settle(&bed);
    assert_string_equal(states(watch), "12");
    for (size_t i = 0; i < ELEMENTSOF(usual_names); i++)
        assert_check(&bed, usual_names[i], "2");
    watch = ask(&bed, WATCH, "other.Service");
    health_service_shutdown(bed.service); /* twice is as once */
    settle(&bed);
    assert_string_equal(states(watch), "2");
    assert_check(&bed, "", "2");
    bed_deinit(&bed);
}

static void test_methods(void **state)
{
    static const struct {
        const char *name;
        enum method_type type;
    } wanted[] = {{"Check", METHOD_UNARY}, {"List", METHOD_UNARY}, {"Watch", METHOD_SERVER_STREAM}};
    struct bed bed;

    bed_init(&bed);
    for (unsigned i = 0; i < ELEMENTSOF(wanted); i++) {
        const struct method *method = health_service_method(bed.service, i);

        assert_string_equal(method->service, "grpc.health.v1.Health");
        assert_string_equal(method->name, wanted[i].name);
        assert_int_equal(method->type, wanted[i].type);
        assert_int_equal(method->stats->started_total, 0);
    }
    assert_check(&bed, "", "2");
    (void)ask(&bed, WATCH, "");
    settle(&bed);
    assert_int_equal(health_service_method(bed.service, 0)->stats->handled_total[WIRE_OK], 1);
    assert_int_equal(health_service_method(bed.service, 1)->stats->started_total, 0);
    assert_int_equal(health_service_method(bed.service, 2)->stats->started_total, 1);
    assert_int_equal(health_service_method(bed.service, 2)->stats->sent_total, 1);
    bed_deinit(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_check_of_an_unknown_service),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_list_of_too_many),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_watch_of_an_unknown_service),
        cmocka_unit_test(test_watch_blocked),
        cmocka_unit_test(test_watch_back_and_forth),
        cmocka_unit_test(test_watch_is_not_blocked_by_nothing),
        cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_methods),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
