/*
 * When the server gets its credit back: not before an update has waited, been printed, and been
 * written to standard output, which is a pipe here that the test reads, or does not.
 */
#include "client/consumer.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#include "memory.h"

struct scene {
    struct world world;
    struct stats stats;
    struct consumer consumer;
    int read_fd;
    int write_fd;
    size_t given;  /* bytes given to the consumer */
    size_t credit; /* bytes that came back */
    unsigned idles;
    unsigned enoughs;
    unsigned brokens;
    int error;
    unsigned bads;
    enum wire_status bad_status;
    struct buffer printed; /* what the test read from the pipe */
};

static void on_credit(void *user, size_t size)
{
    struct scene *scene = user;

    scene->credit += size;
    assert_true(scene->credit <= scene->given);
}

static void on_idle(void *user)
{
    ((struct scene *)user)->idles++;
}

static void on_bad(void *user, enum wire_status status, const char *text)
{
    struct scene *scene = user;

    assert_non_null(text);
    scene->bads++;
    scene->bad_status = status;
}

static void on_enough(void *user)
{
    ((struct scene *)user)->enoughs++;
}

static void on_broken(void *user, int error)
{
    struct scene *scene = user;

    scene->brokens++;
    scene->error = error;
}

static const struct consumer_ops ops = {
    .credit = on_credit,
    .idle = on_idle,
    .bad_message = on_bad,
    .enough = on_enough,
    .broken = on_broken,
};

static void scene_begin(struct scene *scene, const struct consumer_options *options)
{
    int fds[2];

    *scene = (struct scene){0};
    world_init(&scene->world);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    scene->read_fd = fds[0];
    scene->write_fd = fds[1];
    assert_int_equal(consumer_init(&scene->consumer, &scene->world.loop, options, scene->write_fd,
                                   &scene->stats, &ops, scene),
                     0);
    consumer_begin(&scene->consumer);
}

static void scene_end(struct scene *scene)
{
    consumer_deinit(&scene->consumer);
    world_deinit(&scene->world);
    (void)close(scene->read_fd);
    (void)close(scene->write_fd);
    buffer_deinit(&scene->printed);
}

static void give(struct scene *scene, const uint8_t *bytes, size_t size)
{
    scene->given += size;
    assert_int_equal(consumer_data(&scene->consumer, bytes, size), 0);
}

/* An update's message, prefix included; the ticker is padded to make it `ticker_size` long. */
static size_t make_message(uint8_t *bytes, double price, double change, size_t ticker_size)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    char *ticker = malloc(ticker_size + 1);
    size_t size;

    assert_non_null(ticker);
    memset(ticker, 'x', ticker_size);
    ticker[ticker_size] = 0;
    update.ticker = ticker;
    update.price = price;
    update.change = change;
    size = stockservice__stock_update__pack(&update, bytes + WIRE_PREFIX_SIZE);
    wire_prefix_write(bytes, (uint32_t)size);
    free(ticker);
    return WIRE_PREFIX_SIZE + size;
}

static size_t give_update(struct scene *scene, double price, double change)
{
    uint8_t bytes[256];
    size_t size = make_message(bytes, price, change, 4);

    give(scene, bytes, size);
    return size;
}

/* Reads what the pipe holds now. */
static void read_pipe(struct scene *scene)
{
    char bytes[4096];
    ssize_t size;

    assert_int_equal(fcntl(scene->read_fd, F_SETFL, O_NONBLOCK), 0);
    while ((size = read(scene->read_fd, bytes, sizeof(bytes))) > 0)
        buffer_append(&scene->printed, bytes, (size_t)size);
}

static unsigned count_lines(const struct scene *scene)
{
    unsigned lines = 0;

    for (size_t i = 0; i < scene->printed.size; i++)
        lines += scene->printed.bytes[i] == '\n';
    return lines;
}

static void credit_comes_with_each_update(void **state)
{
    const struct consumer_options options = {.window = 65535};
    struct scene scene;
    size_t size;

    scene_begin(&scene, &options);
    for (int i = 1; i <= 5; i++) {
        size = give_update(&scene, 150 + i, 1);
        assert_int_equal(scene.credit, scene.given);
        assert_int_equal(scene.stats.updates_received_total, i);
        /* Its line is there without waiting for the next. */
        read_pipe(&scene);
        assert_int_equal(count_lines(&scene), i);
    }
    assert_int_equal(scene.credit, 5 * size);
    assert_int_equal(scene.stats.gaps_total, 0);
    assert_int_equal(scene.stats.unprocessed_bytes, 0);
    assert_true(scene.idles > 0);
    scene_end(&scene);
}

static void half_a_message_gets_no_credit(void **state)
{
    const struct consumer_options options = {.window = 65535};
    struct scene scene;
    uint8_t bytes[256];
    size_t size = make_message(bytes, 1, 1, 4);

    scene_begin(&scene, &options);
    for (size_t i = 0; i + 1 < size; i++) {
        give(&scene, bytes + i, 1);
        assert_int_equal(scene.credit, 0);
        assert_int_equal(scene.stats.unprocessed_bytes, i + 1);
        assert_true(consumer_has_partial(&scene.consumer));
    }
    give(&scene, bytes + size - 1, 1);
    assert_int_equal(scene.credit, size);
    assert_false(consumer_has_partial(&scene.consumer));
    scene_end(&scene);
}

/* Each update waits its own delay after the one before: their credit comes one by one. */
static void delay_holds_credit_back(void **state)
{
    const struct consumer_options options = {
        .window = 65535, .quiet = true, .delay_min_ms = 20, .delay_max_ms = 20};
    struct scene scene;
    uint64_t start_ms;
    size_t size = 0;

    scene_begin(&scene, &options);
    uv_update_time(&scene.world.uv);
    start_ms = uv_now(&scene.world.uv);
    for (int i = 1; i <= 3; i++)
        size = give_update(&scene, 150 + i, 1);
    assert_int_equal(scene.credit, 0);
    assert_int_equal(scene.stats.unprocessed_bytes, 3 * size);
    assert_int_equal(scene.stats.msg_received_total, 1);
    assert_false(consumer_is_idle(&scene.consumer));
    for (unsigned i = 1; i <= 3; i++) {
        while (scene.credit < i * size)
            world_sleep(&scene.world);
        assert_int_equal(scene.credit, i * size);
        assert_int_equal(scene.stats.updates_received_total, i);
        assert_true(uv_now(&scene.world.uv) - start_ms >= 20 * i);
    }
    assert_true(consumer_is_idle(&scene.consumer));
    assert_true(scene.idles > 0);
    scene_end(&scene);
}

static void delays_are_random_steps(void **state)
{
    const struct consumer_options options = {.window = 65535,
                                             .quiet = true,
                                             .delay_min_ms = 10,
                                             .delay_max_ms = 30,
                                             .delay_step_ms = 10};
    unsigned seen[3] = {0};

    /* Of 60 draws each of three values is missed with a chance of 3 * (2/3)^60 = 1e-10. */
    for (int i = 0; i < 60; i++) {
        struct scene scene;
        uint64_t delay_ms;

        scene_begin(&scene, &options);
        (void)give_update(&scene, 1, 1);
        delay_ms = scene.consumer.delay.due_ms - uv_now(&scene.world.uv);
        assert_true(delay_ms == 10 || delay_ms == 20 || delay_ms == 30);
        seen[delay_ms / 10 - 1]++;
        scene_end(&scene);
    }
    assert_true(seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
}

/* A pipe that nobody reads: what does not fit gets no credit; once it is read all of it does. */
static void full_pipe_holds_credit_back(void **state)
{
    const struct consumer_options options = {.window = 1 << 20};
    struct scene scene;
    size_t size = 0;
    const unsigned given = 5000; /* lines of more than ten times what a pipe holds */

    scene_begin(&scene, &options);
    for (unsigned i = 0; i < given; i++)
        size = give_update(&scene, 1 + i, 1);
    assert_true(scene.credit < scene.given);
    assert_int_equal(scene.stats.unprocessed_bytes, scene.given - scene.credit);
    assert_int_equal(scene.credit, scene.stats.updates_received_total * size);
    for (int i = 0; i < 10; i++)
        world_turn(&scene.world);
    assert_true(scene.credit < scene.given);
    /* It is not the descriptor that was made non-blocking: others share it. */
    assert_int_equal(fcntl(scene.write_fd, F_GETFL) & O_NONBLOCK, 0);

    while (scene.credit < scene.given) {
        read_pipe(&scene);
        world_sleep(&scene.world);
    }
    read_pipe(&scene);
    assert_int_equal(count_lines(&scene), given);
    assert_int_equal(scene.stats.updates_received_total, given);
    assert_int_equal(scene.stats.gaps_total, 0);
    scene_end(&scene);
}

static void closed_pipe_is_noticed_while_idle(void **state)
{
    const struct consumer_options options = {.window = 65535};
    struct scene scene;

    scene_begin(&scene, &options);
    (void)give_update(&scene, 1, 1);
    (void)close(scene.read_fd);
    while (scene.brokens == 0)
        world_sleep(&scene.world);
    assert_int_equal(scene.error, -EPIPE);
    assert_true(consumer_is_idle(&scene.consumer));
    for (int i = 0; i < 5; i++)
        world_turn(&scene.world);
    assert_int_equal(scene.brokens, 1);
    scene.read_fd = -1;
    scene_end(&scene);
}

static void closed_pipe_is_noticed_by_a_write(void **state)
{
    const struct consumer_options options = {.window = 65535};
    struct scene scene;

    scene_begin(&scene, &options);
    (void)close(scene.read_fd);
    (void)give_update(&scene, 1, 1);
    assert_int_equal(scene.brokens, 1);
    assert_int_equal(scene.error, -EPIPE);
    assert_int_equal(scene.credit, 0);
    assert_int_equal(scene.stats.updates_received_total, 0);
    scene.read_fd = -1;
    scene_end(&scene);
}

/*
 * The sender of HTTP/2: it may have so many bytes out, and WINDOW_UPDATE comes when half the window
 * is consumed, as libnghttp2 does it. Every message must get through, whatever its size.
 */
static void messages_longer_than_the_window_come_through(void **state)
{
    static const size_t windows[] = {1, 2, 5, 64, 100, 1000, 1001, 65535};
    static const size_t tickers[] = {1, 10, 40, 49, 50, 51, 90, 100, 200, 499, 500, 990, 5000};
    uint8_t bytes[8192];

    for (size_t w = 0; w < ELEMENTSOF(windows); w++) {
        const struct consumer_options options = {.window = windows[w], .quiet = true};
        size_t announced = 0;
        struct scene scene;

        scene_begin(&scene, &options);
        for (size_t t = 0; t < 3 * ELEMENTSOF(tickers); t++) {
            size_t size = make_message(bytes, 1, 0, tickers[t * 5 % ELEMENTSOF(tickers)]);

            for (size_t used = 0; used < size;) {
                size_t room;

                if (scene.credit > announced && scene.credit - announced >= windows[w] / 2)
                    announced = scene.credit;
                room = announced + windows[w] - scene.given;
                if (room == 0)
                    fail_msg("window %zu, message %zu: stuck at %zu", windows[w], size, used);
                room = MIN(room, size - used);
                give(&scene, bytes + used, room);
                used += room;
            }
        }
        assert_int_equal(scene.stats.updates_received_total, 3 * ELEMENTSOF(tickers));
        assert_int_equal(scene.credit, scene.given);
        assert_int_equal(scene.stats.unprocessed_bytes, 0);
        scene_end(&scene);
    }
}

static void gaps_are_counted_within_a_call(void **state)
{
    const struct consumer_options options = {.window = 65535, .quiet = true};
    struct scene scene;

    scene_begin(&scene, &options);
    (void)give_update(&scene, 100, 5);         /* the first follows from nothing */
    (void)give_update(&scene, 101.5, 1.5);     /* follows */
    (void)give_update(&scene, 101.4, -0.1);    /* follows, but for rounding */
    (void)give_update(&scene, 101.402, 0.001); /* does not */
    (void)give_update(&scene, 103.402, 2);     /* follows again */
    assert_int_equal(scene.stats.gaps_total, 1);
    consumer_begin(&scene.consumer);
    (void)give_update(&scene, 150, 1); /* another call */
    assert_int_equal(scene.stats.gaps_total, 1);
    (void)give_update(&scene, NAN, 1);
    assert_int_equal(scene.stats.gaps_total, 2);
    scene_end(&scene);
}

static void count_stops_exactly(void **state)
{
    const struct consumer_options options = {.window = 65535, .count = 3};
    struct scene scene;
    uint8_t bytes[1024];
    size_t size = 0;

    scene_begin(&scene, &options);
    (void)give_update(&scene, 1, 1);
    for (int i = 2; i <= 6; i++)
        size += make_message(bytes + size, i, 1, 4);
    give(&scene, bytes, size);
    assert_int_equal(scene.enoughs, 1);
    assert_int_equal(scene.stats.updates_received_total, 3);
    (void)give_update(&scene, 7, 1);
    assert_int_equal(scene.enoughs, 1);
    assert_int_equal(scene.stats.updates_received_total, 3);
    read_pipe(&scene);
    assert_int_equal(count_lines(&scene), 3);
    scene_end(&scene);
}

static void check_bad(const uint8_t *bytes, size_t size, enum wire_status status)
{
    const struct consumer_options options = {.window = 65535};
    struct scene scene;

    scene_begin(&scene, &options);
    (void)give_update(&scene, 1, 1);
    give(&scene, bytes, size);
    assert_int_equal(scene.bads, 1);
    assert_int_equal(scene.bad_status, status);
    /* What came before it counts, what comes after it does not. */
    (void)give_update(&scene, 2, 1);
    assert_int_equal(scene.bads, 1);
    assert_int_equal(scene.stats.updates_received_total, 1);
    read_pipe(&scene);
    assert_int_equal(count_lines(&scene), 1);
    scene_end(&scene);
}

static void bad_messages_end_the_call(void **state)
{
    const uint8_t compressed[] = {1, 0, 0, 0, 0};
    const uint8_t flag[] = {0x80};
    const uint8_t not_protobuf[] = {0, 0, 0, 0, 2, 0xff, 0xff};
    uint8_t long_one[WIRE_PREFIX_SIZE];

    wire_prefix_write(long_one, CONSUMER_MESSAGE_MAX + 1);
    check_bad(compressed, sizeof(compressed), WIRE_INTERNAL);
    check_bad(flag, sizeof(flag), WIRE_INTERNAL);
    check_bad(not_protobuf, sizeof(not_protobuf), WIRE_INTERNAL);
    check_bad(long_one, sizeof(long_one), WIRE_RESOURCE_EXHAUSTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(credit_comes_with_each_update),
        cmocka_unit_test(half_a_message_gets_no_credit),
        cmocka_unit_test(delay_holds_credit_back),
        cmocka_unit_test(delays_are_random_steps),
        cmocka_unit_test(full_pipe_holds_credit_back),
        cmocka_unit_test(closed_pipe_is_noticed_while_idle),
        cmocka_unit_test(closed_pipe_is_noticed_by_a_write),
        cmocka_unit_test(messages_longer_than_the_window_come_through),
        cmocka_unit_test(gaps_are_counted_within_a_call),
        cmocka_unit_test(count_stops_exactly),
        cmocka_unit_test(bad_messages_end_the_call),
    };

    /* A closed pipe is to be an error, not the end of the test. */
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
