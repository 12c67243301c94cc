/*
 * A server over real sockets, as far as its options are about who may come, and that they can be
 * replaced while clients are there: what was borrowed before is freed, so that a sanitizer sees
 * whoever still looks at it.
 */
#include "rpc/server.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#define WAIT_S 20

struct bed {
    uv_loop_t uv;
    struct loop loop;
    uv_timer_t tick; /* so that a turn never sleeps for long */
    struct server *server;
    struct sockaddr_storage address;
    struct server_options options;
    struct range *allow; /* its own, of the options that are in force */
    bool stopped;
};

static void on_tick(uv_timer_t *timer)
{
}

static const struct server_options plain = {
    .max_connections = 100,
    .max_streams_total = 100,
    .max_message_bytes = 1000,
    .request_timeout_ms = 60000,
    .handshake_timeout_ms = 60000,
    .connection = {.max_streams = 100, .max_header_bytes = 8192, .preface_timeout_ms = 60000},
};

static void bed_init(struct bed *bed)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct endpoint endpoint = endpoint_at((const struct sockaddr *)&address);

    *bed = (struct bed){.options = plain};
    assert_int_equal(uv_loop_init(&bed->uv), 0);
    assert_int_equal(loop_init(&bed->loop, &bed->uv), 0);
    assert_int_equal(uv_timer_init(&bed->uv, &bed->tick), 0);
    assert_int_equal(uv_timer_start(&bed->tick, on_tick, 1, 1), 0);
    assert_int_equal(server_new(&bed->server, &bed->loop, &bed->options), 0);
    assert_int_equal(server_listen(bed->server, &endpoint, NULL, &bed->address), 0);
}

static void on_stopped(void *context)
{
    ((struct bed *)context)->stopped = true;
}

static void bed_deinit(struct bed *bed)
{
    server_stop(bed->server, 0, on_stopped, bed);
    while (!bed->stopped)
        (void)uv_run(&bed->uv, UV_RUN_ONCE);
    assert_int_equal(server_connection_stats(bed->server)->connections, 0);
    assert_null(server_free(bed->server));
    free(bed->allow);
    uv_close((uv_handle_t *)&bed->tick, NULL);
    loop_deinit(&bed->loop);
    assert_int_equal(uv_run(&bed->uv, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&bed->uv), 0);
}

/* Puts bed->options in force, with a copy of the ranges that nobody else has. */
static void configure(struct bed *bed)
{
    size_t size = bed->options.allow_count * sizeof(*bed->allow);
    struct range *allow = size > 0 ? malloc(size) : NULL;
    struct server_options options = bed->options;

    if (allow)
        memcpy(allow, options.allow, size);
    options.allow = allow;
    server_configure(bed->server, &options);
    memset(&options, 0xff, sizeof(options));
    free(bed->allow);
    bed->allow = allow;
}

static uint64_t refused(const struct bed *bed, enum refusal_reason reason)
{
    return server_calls(bed->server)->refused_total[reason];
}

static uint64_t refused_at_all(const struct bed *bed)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < REFUSAL_REASON_COUNT; i++)
        sum += refused(bed, i);
    return sum;
}

/* Connects from 127.0.0.`host`; true if the server took it, false if it closed it at once. */
static bool try_from(struct bed *bed, uint8_t host, int *ret_fd)
{
    const uint64_t accepted = server_connection_stats(bed->server)->connections_total;
    const uint64_t before = refused_at_all(bed);
    const time_t until = time(NULL) + WAIT_S;
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host)};

    *ret_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(*ret_fd >= 0);
    assert_int_equal(bind(*ret_fd, (const struct sockaddr *)&from, sizeof(from)), 0);
    assert_int_equal(connect(*ret_fd, (const struct sockaddr *)&bed->address,
                             address_size((const struct sockaddr *)&bed->address)),
                     0);
    while (time(NULL) < until) {
        (void)uv_run(&bed->uv, UV_RUN_ONCE);
        if (server_connection_stats(bed->server)->connections_total > accepted)
            return true;
        if (refused_at_all(bed) > before)
            return false;
    }
    fail_msg("neither taken nor refused");
    return false;
}

static bool are_open(const struct bed *bed, unsigned connections)
{
    return server_connection_stats(bed->server)->connections == connections;
}

/* Who is over a lowered cap stays; a raised one lets others in at once. */
static void test_max_connections(void **state)
{
    struct bed bed;
    int fds[5];

    bed_init(&bed);
    for (unsigned i = 0; i < 3; i++)
        assert_true(try_from(&bed, 1, &fds[i]));
    bed.options.max_connections = 2;
    configure(&bed);
    assert_false(try_from(&bed, 1, &fds[3]));
    assert_int_equal(refused(&bed, REFUSAL_MAX_CONNECTIONS), 1);
    assert_true(are_open(&bed, 3));
    bed.options.max_connections = 4;
    configure(&bed);
    assert_true(try_from(&bed, 1, &fds[4]));
    assert_true(are_open(&bed, 4));
    for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
        (void)close(fds[i]);
    bed_deinit(&bed);
}

/* Those that came when nobody counted are counted all the same. */
static void test_max_per_address(void **state)
{
    struct bed bed;
    int fds[5];

    bed_init(&bed);
    for (unsigned i = 0; i < 2; i++)
        assert_true(try_from(&bed, 2, &fds[i]));
    bed.options.max_connections_per_address = 2;
    configure(&bed);
    assert_false(try_from(&bed, 2, &fds[2]));
    assert_int_equal(refused(&bed, REFUSAL_MAX_PER_ADDRESS), 1);
    assert_true(try_from(&bed, 3, &fds[3]));
    bed.options.max_connections_per_address = 0;
    configure(&bed);
    assert_true(try_from(&bed, 2, &fds[4]));
    for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
        (void)close(fds[i]);
    bed_deinit(&bed);
}

static struct range range_of(const char *text)
{
    struct range range;
    const char *why;

    assert_int_equal(range_parse(text, strlen(text), &range, &why), 0);
    return range;
}

static void test_allow(void **state)
{
    const struct range some[] = {range_of("127.0.0.2"), range_of("127.0.0.3")};
    const struct range one[] = {range_of("127.0.0.1")};
    struct bed bed;
    int fds[5];

    bed_init(&bed);
    assert_true(try_from(&bed, 1, &fds[0]));
    bed.options.allow = some;
    bed.options.allow_count = ELEMENTSOF(some);
    configure(&bed);
    assert_false(try_from(&bed, 1, &fds[1]));
    assert_true(try_from(&bed, 3, &fds[2]));
    bed.options.allow = one;
    bed.options.allow_count = ELEMENTSOF(one);
    configure(&bed);
    assert_false(try_from(&bed, 3, &fds[3]));
    bed.options.allow_count = 0;
    configure(&bed);
    assert_true(try_from(&bed, 3, &fds[4]));
    assert_int_equal(refused(&bed, REFUSAL_ADDRESS), 2);
    assert_true(are_open(&bed, 3)); /* whoever is not allowed any more was not put out */
    for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
        (void)close(fds[i]);
    bed_deinit(&bed);
}

/* What calls are held to goes to where they look for it; their methods and counters stay. */
static void test_limits_of_calls(void **state)
{
    static const struct method method = {.service = "a.B", .name = "C"};
    static const struct method *const methods[] = {&method};
    const struct call_server *calls;
    struct server *server;
    struct bed bed;

    bed_init(&bed);
    bed.options.methods = (struct method_table){methods, 1};
    assert_int_equal(server_new(&server, &bed.loop, &bed.options), 0);
    calls = server_calls(server);
    bed.options = plain; /* without methods */
    bed.options.max_message_bytes = 32 << 20;
    bed.options.max_streams_total = 7;
    bed.options.request_timeout_ms = 5;
    server_configure(server, &bed.options);
    assert_int_equal(calls->methods.count, 1);
    assert_ptr_equal(calls->methods.methods[0], &method);
    assert_ptr_equal(calls->loop, &bed.loop);
    assert_int_equal(calls->max_message_bytes, 32 << 20);
    assert_int_equal(calls->max_input_bytes, 128 << 20);
    assert_int_equal(calls->max_calls, 7);
    assert_int_equal(calls->request_timeout_ms, 5);
    assert_null(server_free(server));
    bed_deinit(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_max_connections),
        cmocka_unit_test(test_max_per_address),
        cmocka_unit_test(test_allow),
        cmocka_unit_test(test_limits_of_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
