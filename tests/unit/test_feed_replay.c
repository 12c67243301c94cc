/*
 * Recordings: published in order and in their time, at any speed, once or for ever; and what is
 * wrong with one is told by its line.
 */
#include "feed_bed.h"

#include "base/log.h"
#include "base/util.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define SAMPLES CONFIG_DIRECTORY "/samples"

struct recording {
    struct feed_bed bed;
    struct feed *feed;
    char *path;
};

static void start(struct recording *recording, const char *content, double speed, bool loop)
{
    struct feed_replay_options options = {.speed = speed, .loop = loop};
    char error[FEED_ERROR_MAX] = "";

    feed_bed_init(&recording->bed, 4);
    options.file = recording->path = feed_bed_file(content, strlen(content));
    if (feed_replay_new(&recording->feed, &recording->bed.options, &options, error) != 0)
        fail_msg("%s", error);
    assert_int_equal(recording->bed.count, 0); /* not from inside the constructor */
    feed_bed_turn(&recording->bed);
}

static void stop(struct recording *recording)
{
    feed_bed_deinit(&recording->bed, recording->feed);
    (void)unlink(recording->path);
    free(recording->path);
}

/* Tickers and times, as "A0 B1500 ". */
static void expect(const struct recording *recording, const char *expected)
{
    char text[1024] = "";
    size_t n = 0;

    for (size_t i = 0; i < recording->bed.count; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%llu ",
                              recording->bed.updates[i].ticker,
                              (unsigned long long)recording->bed.updates[i].at_ms);
    assert_string_equal(text, expected);
}

static const char trades[] = "time,ticker,price,volume\n"
                             "2026-01-31T09:30:00Z,A,10.5,100\n"
                             "2026-01-31T09:30:00.25Z,B,20,\n"
                             "2026-01-31T10:30:01.25+01:00,A,11,1e3\n";

static void test_trades(void **state)
{
    struct recording recording;
    const struct feed_bed_update *updates;

    start(&recording, trades, 1, false);
    feed_bed_pass(&recording.bed, 1000);
    assert_int_equal(recording.bed.count, 2);
    assert_int_equal(feed_state(recording.feed), FEED_LIVE);
    feed_bed_pass(&recording.bed, 1000);
    expect(&recording, "A0 B250 A1250 ");
    updates = recording.bed.updates;
    assert_true(updates[0].values.price == 10.5 && updates[0].values.volume == 100);
    assert_true(updates[0].second == 1769851800 && updates[2].second == 1769851801);
    assert_true(updates[1].values.volume == 0 && updates[2].values.volume == 1000);
    assert_true(updates[2].values.change == 0.5);
    assert_true(updates[0].values.high == 10.5 && updates[0].values.low == 10.5);

    assert_int_equal(feed_state(recording.feed), FEED_GONE);
    assert_int_equal(recording.bed.changes, 1);
    feed_bed_expect_log(&recording.bed, "warning: the market's feed (replay) is gone: the end of ");
    assert_int_equal(feed_stats(recording.feed)->updates_total, 3);
    assert_int_equal(feed_stats(recording.feed)->faults_total, 0);
    assert_int_equal(feed_stats(recording.feed)->late_total, 0);
    feed_bed_pass(&recording.bed, 10000);
    assert_int_equal(recording.bed.count, 3);
    stop(&recording);
}

static void test_speed(void **state)
{
    struct recording recording;

    start(&recording, trades, 2.5, false);
    feed_bed_pass(&recording.bed, 1000);
    expect(&recording, "A0 B100 A500 ");
    stop(&recording);

    start(&recording, trades, 0.5, false);
    feed_bed_pass(&recording.bed, 3000);
    expect(&recording, "A0 B500 A2500 ");
    stop(&recording);

    start(&recording, trades, 0, false);
    feed_bed_turn(&recording.bed);
    feed_bed_turn(&recording.bed);
    expect(&recording, "A0 B0 A0 ");
    assert_int_equal(feed_state(recording.feed), FEED_GONE);
    stop(&recording);
}

/* At the start again, its time begins anew, after as long as lines are apart on average. */
static void test_loop(void **state)
{
    struct recording recording;

    start(&recording, trades, 1, true);
    feed_bed_pass(&recording.bed, 4000);
    expect(&recording, "A0 B250 A1250 A1875 B2125 A3125 A3750 B4000 ");
    assert_int_equal(feed_stats(recording.feed)->loops_total, 2);
    assert_int_equal(feed_state(recording.feed), FEED_LIVE);
    stop(&recording);

    /* One moment, for ever: once a second, not as fast as can be. */
    start(&recording, "symbol,timestamp,last\nA,5,1\nB,5,1\n", 2, true);
    feed_bed_pass(&recording.bed, 1100);
    expect(&recording, "A0 B0 A500 B500 A1000 B1000 ");
    stop(&recording);
}

/* Who is to be as fast as can be shares the turns all the same. */
static void test_turns(void **state)
{
    struct recording recording;

    start(&recording, trades, 0, true);
    for (unsigned i = 0; i < 100; i++)
        feed_bed_turn(&recording.bed);
    assert_in_range(recording.bed.busy_turn, 100, 256);
    assert_in_range(recording.bed.count, 20000, 26000);
    assert_true(feed_stats(recording.feed)->loops_total >= recording.bed.count / 3 - 1);
    stop(&recording);
}

static void test_late_loop(void **state)
{
    struct recording recording;

    start(&recording, trades, 1, false);
    feed_bed_pass(&recording.bed, 10);
    clock_advance_ms(5000);
    feed_bed_wait(&recording.bed, 3); /* nothing is lost */
    stop(&recording);
}

/* A line whose time has passed comes at once; those behind it keep their time. */
static void test_order(void **state)
{
    struct recording recording;

    start(&recording, "time,ticker,price\n100,A,1\n101,B,1\n99,C,1\n100.5,D,1\n102,A,2\n", 1,
          false);
    feed_bed_pass(&recording.bed, 3000);
    expect(&recording, "A0 B1000 C1000 D1000 A2000 ");
    assert_int_equal(feed_stats(recording.feed)->late_total, 2);
    assert_int_equal(feed_stats(recording.feed)->faults_total, 0);
    feed_bed_expect_log(&recording.bed, ":4: its time is before that of a line above it");
    stop(&recording);
}

static void test_quotes(void **state)
{
    struct recording recording;
    const struct feed_bed_update *updates;

    start(&recording,
          "\xEF\xBB\xBFSymbol,\"Bid\",Ask,Exchange,TIMESTAMP\r\n"
          "A,10,10.5,\"N,Y\",1769851800123\r\n"
          "A,11,10,X,1769851800123456789\r\n",
          1, false);
    feed_bed_pass(&recording.bed, 10);
    updates = recording.bed.updates;
    assert_int_equal(recording.bed.count, 2);
    assert_true(updates[0].values.price == 10.25 && updates[0].values.high == 10.5 &&
                updates[0].values.low == 10);
    /* Crossed. */
    assert_true(updates[1].values.price == 10.5 && updates[1].values.high == 11 &&
                updates[1].values.low == 10);
    stop(&recording);

    /* Both kinds in one file; and what stock-client writes. */
    start(&recording,
          "ticker,price,bid,ask,time\nA,5,,,1\nA,,6,8,1\n"
          "A,,6,,1\nA,,6,-1,1\n",
          0, false);
    feed_bed_pass(&recording.bed, 10);
    assert_int_equal(recording.bed.count, 2);
    assert_true(recording.bed.updates[1].values.price == 7);
    feed_bed_expect_log(&recording.bed, ":4: neither a price nor both bid and ask");
    stop(&recording);
    start(&recording,
          "ticker,price,change,changePercent,volume,openPrice,highPrice,lowPrice,marketCap,"
          "timestamp\nS,10,1,10,7,9,11,9.5,1000,2026-01-31T09:30:00+01:00\n",
          0, false);
    feed_bed_pass(&recording.bed, 10);
    assert_int_equal(recording.bed.count, 1);
    assert_true(recording.bed.updates[0].values.high == 11 &&
                recording.bed.updates[0].values.low == 9.5);
    assert_int_equal(recording.bed.updates[0].values.market_cap, 1000);
    assert_int_equal(recording.bed.updates[0].second, 1769848200);
    stop(&recording);
}

/* Every other line is wrong, each in a way of its own; the others are all there. */
static void test_faults(void **state)
{
    static const struct {
        const char *line;
        const char *what;
    } faults[] = {
        {"A,10", "no price"},
        {",10,1", "no ticker"},
        {"A,,1", "no time"},
        {"A,noon,1", "'noon': neither an RFC 3339 time"},
        {"A,10,x", "price|last: 'x' is not a number"},
        {"A,10,0", "the price is not above 0"},
        {"A,10,-1", "the price is not above 0"},
        {"A,10,1,-5", "volume|size: below 0"},
        {"A,10,1,,0.5", "the highest price is below the price"},
        {"A\"B,10,1", "field 1: a quote"},
    };
    char content[4096] = "ticker,time,price,volume,high\nA,10,1\n", place[64], *log;
    struct recording recording;

    for (size_t i = 0; i < ELEMENTSOF(faults); i++)
        (void)snprintf(content + strlen(content), sizeof(content) - strlen(content),
                       "%s\nA,10,%zu\n", faults[i].line, i + 2);
    start(&recording, content, 1, false);
    feed_bed_pass(&recording.bed, 10);
    assert_int_equal(recording.bed.count, 1 + ELEMENTSOF(faults));
    for (size_t i = 0; i < recording.bed.count; i++)
        assert_true(recording.bed.updates[i].values.price == (double)(i + 1));
    assert_int_equal(feed_stats(recording.feed)->faults_total, ELEMENTSOF(faults));
    log = feed_bed_log(&recording.bed);
    for (size_t i = 0; i < ELEMENTSOF(faults); i++) {
        (void)snprintf(place, sizeof(place), ":%zu: %s", 3 + 2 * i, faults[i].what);
        if (!strstr(log, place))
            fail_msg("%s is not in %s", place, log);
    }
    free(log);
    stop(&recording);
}

/* Tickers that the market does not take, and a log that is not filled by them. */
static void test_market_faults(void **state)
{
    char content[4096] = "ticker,time,price\nA,1,1\nB,1,1\nC,1,1\nD,1,1\nE,1,1\na b,1,1\nA,1,2\n";
    struct recording recording;
    char *log;
    size_t lines = 0;

    for (unsigned i = 0; i < 100; i++)
        (void)strcat(content, "E,1,1\n");
    (void)strcat(content, "A,100,1\nE,100,1\n");
    start(&recording, content, 1, false);
    feed_bed_pass(&recording.bed, 10);
    assert_int_equal(recording.bed.count, 5);
    log = feed_bed_log(&recording.bed);
    assert_non_null(strstr(log, ":6: E: the market has room for 4 tickers, no more"));
    assert_non_null(strstr(log, ":7: 'a b' is not a ticker"));
    for (const char *line = log; (line = strchr(line, '\n')); line++)
        lines++;
    assert_int_equal(lines, LOG_LIMIT_BURST);
    free(log);
    feed_bed_pass(&recording.bed, 99000);
    assert_int_equal(feed_stats(recording.feed)->faults_total, 103);
    feed_bed_expect_log(&recording.bed, "92 more faults of the market's feed were not logged");
    stop(&recording);
}

/* A file of many buffers, with a line of some of them in the middle. */
static void test_large(void **state)
{
    size_t size = 0, room = 4000000;
    char *content = malloc(room), error[FEED_ERROR_MAX] = "";
    struct feed_replay_options options = {.speed = 0};
    struct feed_bed bed;
    struct feed *feed;
    char *path;

    assert_non_null(content);
    size += (size_t)sprintf(content, "ticker,time,price\n");
    for (unsigned i = 1; i <= 50000; i++) {
        size += (size_t)sprintf(content + size, "A,%u,%u\n", i, i);
        if (i == 25000) {
            memset(content + size, 'x', 1000000);
            size += 1000000;
            content[size++] = '\n';
        }
    }
    assert_true(size < room);
    path = feed_bed_file(content, size);
    free(content);
    feed_bed_init(&bed, 1);
    options.file = path;
    assert_int_equal(feed_replay_new(&feed, &bed.options, &options, error), 0);
    feed_bed_wait(&bed, 50000);
    feed_bed_turn(&bed);
    assert_int_equal(feed_state(feed), FEED_GONE);
    assert_int_equal(feed_stats(feed)->faults_total, 1);
    feed_bed_expect_log(&bed, ":25002: a line of more than");
    for (size_t i = 0; i < bed.count; i++)
        assert_true(bed.updates[i].values.price == (double)(i + 1));
    feed_bed_deinit(&bed, feed);
    (void)unlink(path);
    free(path);
}

static void refuse(const char *content, const char *what)
{
    char *path = feed_bed_file(content, strlen(content)), error[FEED_ERROR_MAX] = "";
    struct feed_replay_options options = {.file = path, .speed = 1};
    struct feed_bed bed;
    struct feed *feed = NULL;

    assert_int_equal(feed_replay_check(&options, error), -EINVAL);
    if (strncmp(error, path, strlen(path)) != 0 || !strstr(error, what))
        fail_msg("%s instead of %s", error, what);
    error[0] = '\0';
    feed_bed_init(&bed, 1);
    assert_int_equal(feed_replay_new(&feed, &bed.options, &options, error), -EINVAL);
    assert_non_null(strstr(error, what));
    assert_null(feed);
    feed_bed_deinit(&bed, feed);
    (void)unlink(path);
    free(path);
}

static void test_refused(void **state)
{
    char error[FEED_ERROR_MAX] = "";
    struct feed_replay_options options = {.file = "/nonexistent/file", .speed = 1};

    refuse("", ": there is no line with names of columns");
    refuse("\n\n", ": there is no line with names of columns");
    refuse("ticker,time,price\n", ": there is no line behind the names of columns");
    refuse("time,price\n1,2\n", ":1: the header has no column ticker or symbol");
    refuse("\nticker,price\nA,2\n", ":2: the header has no column time or timestamp");
    refuse("ticker,time\nA,2\n",
           ":1: the header has no column price or last, nor both bid and ask");
    refuse("ticker,time,bid\nA,2,3\n", ":1: the header has no column price");
    refuse("ticker,time,price,Price\nA,2,3,4\n", ":1: the header has column price|last twice");
    refuse("\"ticker,time,price\nA,1,1\n", ":1: field 1: its quote is not closed");
    refuse("ticker,time,price\n\nA,noon,1\nB,1,1\n", ":3: 'noon': neither an RFC 3339");
    refuse("ticker,time,price\na b,1,1\nB,1,1\n",
           ":2: 'a b' is not a ticker: 1 to 32 characters of");
    refuse("ticker,time,price\nA`,1,1\nB,1,1\n", ":2: 'A`' is not a ticker");
    refuse("ticker,time,price\nA,1,1e-300\nA,1,1e300\n", ":2: the price is not in the range");
    assert_int_equal(feed_replay_check(&options, error), -EINVAL);
    assert_string_equal(error, "/nonexistent/file: No such file or directory");
    options.file = "/";
    assert_int_equal(feed_replay_check(&options, error), -EINVAL);
    assert_string_equal(error, "/: not a regular file");
    options.file = "/dev/null";
    assert_int_equal(feed_replay_check(&options, error), -EINVAL);
}

/* A pause of the recording is no silence of the feed; but a feed that has ended is gone. */
static void test_pause(void **state)
{
    struct recording recording;

    start(&recording, "ticker,time,price\nA,0,1\nA,3600,1\n", 1, false);
    feed_set_stale_after(recording.feed, 1000);
    feed_bed_pass(&recording.bed, 10000);
    clock_advance_ms(3600000 - 10000 - 1);
    feed_bed_pass(&recording.bed, 10);
    assert_int_equal(recording.bed.count, 2);
    assert_int_equal(recording.bed.changes, 1);
    assert_int_equal(feed_state(recording.feed), FEED_GONE);
    feed_bed_pass(&recording.bed, 3000);
    assert_int_equal(recording.bed.changes, 1);
    stop(&recording);
}

/* The file is another one when it begins anew. */
static void test_changed_file(void **state)
{
    struct recording recording;

    start(&recording, trades, 1, true);
    feed_bed_pass(&recording.bed, 100);
    assert_int_equal(truncate(recording.path, 3), 0);
    feed_bed_pass(&recording.bed, 10000);
    assert_int_equal(recording.bed.count, 3); /* they were read ahead */
    assert_int_equal(feed_state(recording.feed), FEED_GONE);
    feed_bed_expect_log(&recording.bed, "the header has no column");
    stop(&recording);
}

/* What is installed as an example. */
static void test_samples(void **state)
{
    static const char *const files[] = {SAMPLES "/trades.csv", SAMPLES "/quotes.csv"};

    for (size_t i = 0; i < ELEMENTSOF(files); i++) {
        struct feed_replay_options options = {.file = files[i], .speed = 1};
        char error[FEED_ERROR_MAX] = "";
        struct feed_bed bed;
        struct feed *feed;

        feed_bed_init(&bed, 16);
        if (feed_replay_new(&feed, &bed.options, &options, error) != 0)
            fail_msg("%s", error);
        feed_bed_pass(&bed, 50000);
        assert_int_equal(feed_state(feed), FEED_LIVE);
        feed_bed_pass(&bed, 20000);
        assert_int_equal(feed_state(feed), FEED_GONE);
        assert_in_range(bed.count, 60, 300);
        assert_in_range(market_tickers(bed.market), 4, 16);
        assert_int_equal(feed_stats(feed)->faults_total, 0);
        assert_int_equal(feed_stats(feed)->late_total, 0);
        feed_bed_deinit(&bed, feed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trades),        cmocka_unit_test(test_speed),
        cmocka_unit_test(test_loop),          cmocka_unit_test(test_turns),
        cmocka_unit_test(test_late_loop),     cmocka_unit_test(test_order),
        cmocka_unit_test(test_quotes),        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_market_faults), cmocka_unit_test(test_large),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_pause),
        cmocka_unit_test(test_changed_file),  cmocka_unit_test(test_samples),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
