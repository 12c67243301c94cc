#include "feed_bed.h"

#include "base/util.h"
#include "tests/fuzz/fuzz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define MANY_TURNS 100000

static uint64_t begun_ms; /* of the bed that there is */

static size_t on_encode(void *context, uint8_t *bytes, const struct market_update *update)
{
    struct feed_bed *bed = context;
    struct feed_bed_update *seen;

    if (bed->count == bed->capacity) {
        bed->capacity = bed->capacity ? 2 * bed->capacity : 1024;
        bed->updates = realloc(bed->updates, bed->capacity * sizeof(bed->updates[0]));
        assert_non_null(bed->updates);
    }
    seen = &bed->updates[bed->count++];
    *seen = (struct feed_bed_update){.values = update->values, .second = update->second};
    assert_true(strlen(update->ticker) < sizeof(seen->ticker));
    (void)strcpy(seen->ticker, update->ticker);
    seen->at_ms = loop_now_ms(&bed->loop) - begun_ms;
    *bytes = 0;
    return 1;
}

static void on_clock(void *context, struct market_time *ret_time)
{
    struct feed_bed *bed = context;

    ret_time->now_ms = loop_now_ms(&bed->loop);
    ret_time->unix_ns = UINT64_C(1700000000000000000);
}

static void on_changed(void *context)
{
    struct feed_bed *bed = context;

    bed->changes++;
}

static void on_alive(uv_timer_t *timer)
{
}

void feed_bed_init(struct feed_bed *bed, unsigned tickers_max)
{
    *bed = (struct feed_bed){0};
    clock_reset();
    assert_int_equal(uv_loop_init(&bed->uv), 0);
    assert_int_equal(loop_init(&bed->loop, &bed->uv), 0);
    /* A loop that waits for nothing makes no turns. */
    assert_int_equal(uv_timer_init(&bed->uv, &bed->alive), 0);
    assert_int_equal(uv_timer_start(&bed->alive, on_alive, 3600000, 3600000), 0);
    const struct market_options options = {
        .epoch = 1,
        .history_bytes_max = 65536,
        .tickers_max = tickers_max,
        .limits = {.queue_updates_max = 1},
        .encode = on_encode,
        .clock = on_clock,
        .context = bed,
    };

    assert_int_equal(market_new(&bed->market, &options), 0);
    bed->options = (struct feed_options){
        .loop = &bed->loop, .market = bed->market, .changed = on_changed, .context = bed};
    begun_ms = loop_now_ms(&bed->loop);

    bed->log = memfd_create("log", MFD_CLOEXEC);
    bed->standard_error = dup(STDERR_FILENO);
    assert_true(bed->log >= 0 && bed->standard_error >= 0);
    assert_int_equal(dup2(bed->log, STDERR_FILENO), STDERR_FILENO);
    /* What cmocka says of a failure is for the person who runs the test. */
    bed->stream = stderr;
    stderr = fdopen(bed->standard_error, "w");
    assert_non_null(stderr);
    (void)setvbuf(stderr, NULL, _IONBF, 0);
}

void feed_bed_deinit(struct feed_bed *bed, struct feed *feed)
{
    assert_int_equal(dup2(bed->standard_error, STDERR_FILENO), STDERR_FILENO);
    (void)fclose(stderr);
    stderr = bed->stream;
    (void)close(bed->log);
    assert_null(feed_free(feed));
    (void)uv_run(&bed->uv, UV_RUN_NOWAIT);
    uv_close((uv_handle_t *)&bed->alive, NULL);
    loop_deinit(&bed->loop);
    (void)uv_run(&bed->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&bed->uv), 0);
    (void)market_free(bed->market);
    free(bed->updates);
}

void feed_bed_turn(struct feed_bed *bed)
{
    size_t before = bed->count;

    (void)uv_run(&bed->uv, UV_RUN_NOWAIT);
    bed->busy_turn = MAX(bed->busy_turn, (unsigned)(bed->count - before));
}

void feed_bed_pass(struct feed_bed *bed, uint64_t ms)
{
    while (ms-- > 0) {
        clock_advance_ms(1);
        feed_bed_turn(bed);
    }
}

void feed_bed_wait(struct feed_bed *bed, size_t count)
{
    for (unsigned turns = 0; bed->count < count; turns++) {
        if (turns == MANY_TURNS)
            fail_msg("%zu updates instead of %zu; %s", bed->count, count, feed_bed_log(bed));
        feed_bed_turn(bed);
    }
}

char *feed_bed_log(struct feed_bed *bed)
{
    struct stat status;
    char *text;

    assert_int_equal(fstat(bed->log, &status), 0);
    text = calloc(1, (size_t)status.st_size + 1);
    assert_non_null(text);
    assert_int_equal(pread(bed->log, text, (size_t)status.st_size, 0), status.st_size);
    assert_int_equal(ftruncate(bed->log, 0), 0);
    assert_int_equal(lseek(bed->log, 0, SEEK_SET), 0);
    return text;
}

void feed_bed_expect_log(struct feed_bed *bed, const char *text)
{
    char *log = feed_bed_log(bed);

    if (!strstr(log, text))
        fail_msg("'%s' is not in the log: %s", text, log);
    free(log);
}

char *feed_bed_file(const char *content, size_t size)
{
    const char *folder = getenv("TMPDIR");
    char *path;
    int fd;

    assert_true(asprintf(&path, "%s/test-feed-XXXXXX", folder ? folder : "/tmp") > 0);
    fd = mkstemp(path);
    assert_true(fd >= 0);
    for (size_t written = 0; written < size;) {
        ssize_t n = write(fd, content + written, size - written);

        assert_true(n > 0);
        written += (size_t)n;
    }
    (void)close(fd);
    return path;
}
