/*
 * Updates processed with the Nth allocation failing, for every N: either everything is printed and
 * has its credit, or the consumer says that there is no memory and prints nothing that is cut.
 */
#include "client/consumer.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#include "failmalloc.h"
#include "memory.h"

/* Enough that buffers have to grow. */
#define UPDATES 200

struct scene {
    struct stats stats;
    size_t credit;
    int error;     /* that the consumer reported */
    bool bad;      /* a message that was said to be none */
    size_t lines;  /* whole ones in the file */
    size_t excess; /* bytes after the last whole line */
};

static void on_credit(void *user, size_t size)
{
    ((struct scene *)user)->credit += size;
}

static void on_idle(void *user)
{
}

static void on_bad(void *user, enum wire_status status, const char *text)
{
    ((struct scene *)user)->bad = true;
}

static void on_enough(void *user)
{
    fail_msg("no count was asked for");
}

static void on_broken(void *user, int error)
{
    ((struct scene *)user)->error = error;
}

static const struct consumer_ops ops = {
    .credit = on_credit,
    .idle = on_idle,
    .bad_message = on_bad,
    .enough = on_enough,
    .broken = on_broken,
};

static size_t make_stream(uint8_t *bytes)
{
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    size_t used = 0;

    update.ticker = (char *)"AAPL";
    for (int i = 1; i <= UPDATES; i++) {
        size_t size;

        update.price = i;
        update.change = 1;
        size = stockservice__stock_update__pack(&update, bytes + used + WIRE_PREFIX_SIZE);
        wire_prefix_write(bytes + used, (uint32_t)size);
        used += WIRE_PREFIX_SIZE + size;
    }
    return used;
}

static void count_lines(struct scene *scene, int fd)
{
    char bytes[4096];
    ssize_t size;

    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    while ((size = read(fd, bytes, sizeof(bytes))) > 0) {
        for (ssize_t i = 0; i < size; i++) {
            scene->excess++;
            if (bytes[i] == '\n') {
                scene->lines++;
                scene->excess = 0;
            }
        }
    }
}

/* One run; what came of consumer_init() or consumer_data(). */
static int process(struct scene *scene, struct world *world, const uint8_t *bytes, size_t size,
                   size_t nth, bool *ret_failed)
{
    const struct consumer_options options = {.window = 65535, .format = PRINT_CSV};
    int fd = memfd_create("output", MFD_CLOEXEC);
    struct consumer consumer;
    int r;

    assert_true(fd >= 0);
    failmalloc_arm(nth);
    r = consumer_init(&consumer, &world->loop, &options, fd, &scene->stats, &ops, scene);
    if (r == 0) {
        consumer_begin(&consumer);
        /* The first piece ends in a message, so that the rest has to be kept. */
        r = consumer_data(&consumer, bytes, size / 2 + 3);
        if (r == 0)
            r = consumer_data(&consumer, bytes + size / 2 + 3, size - size / 2 - 3);
        *ret_failed = failmalloc_disarm();
        consumer_deinit(&consumer);
    } else {
        *ret_failed = failmalloc_disarm();
    }
    count_lines(scene, fd);
    (void)close(fd);
    return r;
}

static void every_allocation_may_fail(void **state)
{
    static uint8_t bytes[UPDATES * 64];
    size_t size = make_stream(bytes);
    struct world world;
    bool failed = true;

    assert_true(size <= sizeof(bytes));
    world_init(&world);
    for (size_t nth = 1; failed; nth++) {
        struct scene scene = {0};
        int r = process(&scene, &world, bytes, size, nth, &failed);

        if (failed)
            assert_true(r == -ENOMEM || scene.error == -ENOMEM);
        else
            assert_true(nth > 3 && r == 0 && scene.error == 0);
        assert_false(scene.bad);
        assert_int_equal(scene.excess, 0);
        /* The header is the first line. */
        if (scene.stats.updates_received_total > 0)
            assert_int_equal(scene.lines, scene.stats.updates_received_total + 1);
        if (!failed) {
            assert_int_equal(scene.lines, UPDATES + 1);
            assert_int_equal(scene.credit, size);
        }
    }
    world_turn(&world);
    world_deinit(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
