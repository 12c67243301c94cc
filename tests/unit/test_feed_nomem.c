/*
 * Feeds that find no memory: they say so, leak nothing, and one that runs loses a line at most.
 */
#include "failmalloc.h"
#include "feed_bed.h"
#include "market/json.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define LINE "{\"ticker\":\"A\",\"price\":1,\"time\":5,\"x\":[1,2,{\"y\":\"z\"}]}\n"

static const struct feed_ticker two[] = {{"A", 1, 1000, 0.001}, {"B", 1, 1000, 0.001}};
static char *path;

static int make_walk(struct feed **ret_feed, const struct feed_options *options)
{
    return feed_walk_new(ret_feed, options, two, 2, 1);
}

static int make_replay(struct feed **ret_feed, const struct feed_options *options)
{
    const struct feed_replay_options replay = {.file = path, .speed = 1};
    char error[FEED_ERROR_MAX];

    return feed_replay_new(ret_feed, options, &replay, error);
}

static int make_pipe(struct feed **ret_feed, const struct feed_options *options)
{
    char error[FEED_ERROR_MAX];

    return feed_pipe_new(ret_feed, options, path, error);
}

/* The number of allocations that can fail. */
static size_t make(int (*new)(struct feed **ret_feed, const struct feed_options *options))
{
    for (size_t nth = 1;; nth++) {
        struct feed_bed bed;
        struct feed *feed = NULL;
        bool fired;
        int r;

        feed_bed_init(&bed, 4);
        failmalloc_arm(nth);
        r = new (&feed, &bed.options);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_int_equal(feed != NULL, !fired);
        feed_bed_turn(&bed);
        feed_bed_deinit(&bed, feed);
        if (!fired)
            return nth - 1;
    }
}

static void test_walk(void **state)
{
    assert_in_range(make(make_walk), 1, 9); /* the feed, and perhaps the market's tickers */
}

static void test_replay(void **state)
{
    static const char content[] = "ticker,time,price\nA,1,1\n";

    path = feed_bed_file(content, strlen(content));
    assert_int_equal(make(make_replay), 2);
    (void)unlink(path);
    free(path);
}

static void test_replay_check(void **state)
{
    static const char content[] = "ticker,time,price\nA,1,1\n";
    struct feed_replay_options options = {.speed = 1};
    char error[FEED_ERROR_MAX];

    options.file = path = feed_bed_file(content, strlen(content));
    failmalloc_arm(1);
    assert_int_equal(feed_replay_check(&options, error), -ENOMEM);
    assert_true(failmalloc_disarm());
    assert_int_equal(feed_replay_check(&options, error), 0);
    (void)unlink(path);
    free(path);
}

static void make_fifo(void)
{
    path = feed_bed_file("", 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
}

static void test_pipe(void **state)
{
    make_fifo();
    assert_int_equal(make(make_pipe), 2);
    (void)unlink(path);
    free(path);
}

static void test_json(void **state)
{
    bool fired = true;
    size_t nth = 1;

    json_set_alloc_funcs(malloc, free);
    for (; fired; nth++) {
        struct json_update update;
        char error[FEED_ERROR_MAX] = "";
        int r;

        failmalloc_arm(nth);
        r = json_update_parse(LINE, strlen(LINE), &update, error);
        fired = failmalloc_disarm();
        if (fired)
            assert_true(r == -ENOMEM || r == JSON_FAULT); /* jansson tells some as a syntax error */
        else
            assert_int_equal(r, 0);
    }
    assert_true(nth > 10);
}

/* Of two lines and a new ticker, each allocation fails once: what comes later is there. */
static void test_running(void **state)
{
    bool fired = true;

    json_set_alloc_funcs(malloc, free);
    for (size_t nth = 1; fired; nth++) {
        struct feed_bed bed;
        struct feed *feed;
        int writer;

        make_fifo();
        feed_bed_init(&bed, 4);
        assert_int_equal(make_pipe(&feed, &bed.options), 0);
        writer = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(write(writer, LINE LINE, 2 * strlen(LINE)), 2 * strlen(LINE));
        /* Its allocation is the test's own. */
        bed.updates = calloc(8, sizeof(bed.updates[0]));
        bed.capacity = 8;
        failmalloc_arm(nth);
        for (unsigned i = 0; i < 4; i++)
            feed_bed_turn(&bed);
        fired = failmalloc_disarm();
        assert_int_equal(bed.count, fired ? 1 : 2);
        assert_int_equal(feed_stats(feed)->faults_total, fired ? 1 : 0);
        if (fired)
            feed_bed_expect_log(&bed, path);
        assert_int_equal(feed_state(feed), FEED_LIVE);
        (void)close(writer);
        feed_bed_deinit(&bed, feed);
        (void)unlink(path);
        free(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk),         cmocka_unit_test(test_replay),
        cmocka_unit_test(test_replay_check), cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_json),         cmocka_unit_test(test_running),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
