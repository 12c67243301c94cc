/*
 * Lines of JSON from FIFOs whose writers come and go, and from each kind of standard input; and
 * that a writer which is too fast is made to wait.
 */
#include "feed_bed.h"

#include "base/log.h"
#include "base/util.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define A1 "{\"ticker\":\"A\",\"price\":1}\n"
#define A2 "{\"ticker\":\"A\",\"price\":2}\n"
#define B3 "{\"ticker\":\"B\",\"price\":3}\n"

/* Enough turns for what is there to be read, and for the feed to find that there is no more. */
#define TURNS 20

struct line {
    struct feed_bed bed;
    struct feed *feed;
    char *path;
    int writer;
    int stdin_before;
};

static char *make_fifo(void)
{
    char *path = feed_bed_file("", 0);

    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    return path;
}

static int open_writer(const char *path)
{
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static void start_fifo(struct line *line)
{
    char error[FEED_ERROR_MAX] = "";

    feed_bed_init(&line->bed, 4);
    line->path = make_fifo();
    if (feed_pipe_new(&line->feed, &line->bed.options, line->path, error) != 0)
        fail_msg("%s", error);
    line->writer = open_writer(line->path);
}

static void stop_fifo(struct line *line)
{
    feed_bed_deinit(&line->bed, line->feed);
    if (line->writer >= 0)
        (void)close(line->writer);
    (void)unlink(line->path);
    free(line->path);
}

static void turns(struct line *line)
{
    for (unsigned i = 0; i < TURNS; i++)
        feed_bed_turn(&line->bed);
}

static void put(struct line *line, const char *text)
{
    assert_int_equal(write(line->writer, text, strlen(text)), strlen(text));
    turns(line);
}

static void leave(struct line *line)
{
    assert_int_equal(close(line->writer), 0);
    line->writer = -1;
    turns(line);
}

static void test_lines(void **state)
{
    struct line line;

    start_fifo(&line);
    turns(&line);
    assert_int_equal(feed_state(line.feed), FEED_LIVE);
    put(&line, A1);
    assert_int_equal(line.bed.count, 1);
    put(&line, A2 "\n \r\n" B3);
    assert_int_equal(line.bed.count, 3);
    assert_string_equal(line.bed.updates[2].ticker, "B");
    assert_true(line.bed.updates[1].values.change == 1);

    /* In pieces. */
    for (const char *c = A1; *c; c++)
        put(&line, (const char[]){*c, '\0'});
    assert_int_equal(line.bed.count, 4);
    assert_int_equal(feed_stats(line.feed)->updates_total, 4);
    assert_int_equal(feed_stats(line.feed)->faults_total, 0);
    stop_fifo(&line);
}

/* Writers come and go; the last line of one needs no end. */
static void test_writers(void **state)
{
    struct line line;
    int other;

    start_fifo(&line);
    put(&line, A1);
    other = open_writer(line.path);
    leave(&line);
    assert_int_equal(feed_state(line.feed), FEED_LIVE);
    line.writer = other;
    put(&line, "{\"ticker\":\"A\",\"price\":5}");
    assert_int_equal(line.bed.count, 1);
    leave(&line);
    assert_int_equal(line.bed.count, 2);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    assert_int_equal(line.bed.changes, 1);
    feed_bed_expect_log(&line.bed,
                        "warning: the market's feed (pipe) is gone: the last writer has left");

    for (unsigned round = 1; round <= 3; round++) {
        line.writer = open_writer(line.path);
        turns(&line);
        assert_int_equal(feed_state(line.feed), FEED_GONE);
        put(&line, A1);
        assert_int_equal(feed_state(line.feed), FEED_LIVE);
        feed_bed_expect_log(&line.bed, "notice: the market's feed (pipe) is live");
        /* Lines count from its first. */
        put(&line, "nonsense\n");
        feed_bed_expect_log(&line.bed, ":2: column");
        leave(&line);
        assert_int_equal(feed_state(line.feed), FEED_GONE);
        (void)free(feed_bed_log(&line.bed));
        assert_int_equal(line.bed.count, 2 + round);
        assert_int_equal(line.bed.changes, 1 + 2 * round);
    }
    /* One that comes, writes and goes at once. */
    line.writer = open_writer(line.path);
    assert_int_equal(write(line.writer, A2, strlen(A2)), strlen(A2));
    leave(&line);
    assert_int_equal(line.bed.count, 6);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    stop_fifo(&line);
}

/* A FIFO that its writers have left costs nothing: the loop has nothing to wake for. */
static void test_no_spin(void **state)
{
    struct line line;
    struct pollfd backend;

    start_fifo(&line);
    backend = (struct pollfd){.fd = uv_backend_fd(&line.bed.uv), .events = POLLIN};
    put(&line, A1);
    assert_int_equal(poll(&backend, 1, 0), 0);
    leave(&line);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    assert_int_equal(poll(&backend, 1, 0), 0);
    line.writer = open_writer(line.path);
    assert_int_equal(write(line.writer, A2, strlen(A2)), strlen(A2));
    assert_int_equal(poll(&backend, 1, 0), 1);
    stop_fifo(&line);
}

/* Removed, and made anew by whoever writes. */
static void test_new_fifo(void **state)
{
    struct line line;

    start_fifo(&line);
    put(&line, A1);
    leave(&line);
    assert_int_equal(unlink(line.path), 0);
    feed_bed_pass(&line.bed, 3000);
    assert_int_equal(mkfifo(line.path, 0600), 0);
    feed_bed_pass(&line.bed, 3000);
    line.writer = open_writer(line.path);
    put(&line, A2);
    assert_int_equal(line.bed.count, 2);
    assert_int_equal(feed_state(line.feed), FEED_LIVE);

    /* Whoever still writes to the old one is heard until he leaves. */
    assert_int_equal(unlink(line.path), 0);
    assert_int_equal(mkfifo(line.path, 0600), 0);
    feed_bed_pass(&line.bed, 3000);
    put(&line, A1);
    assert_int_equal(line.bed.count, 3);
    leave(&line);
    feed_bed_pass(&line.bed, 3000);
    line.writer = open_writer(line.path);
    put(&line, A2);
    assert_int_equal(line.bed.count, 4);
    /* No FIFO at all when the writer leaves. */
    assert_int_equal(unlink(line.path), 0);
    leave(&line);
    feed_bed_pass(&line.bed, 3000);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    assert_int_equal(mkfifo(line.path, 0600), 0);
    feed_bed_pass(&line.bed, 3000);
    line.writer = open_writer(line.path);
    put(&line, A2);
    assert_int_equal(line.bed.count, 5);
    stop_fifo(&line);
}

/* One that never came to the end of a line stays with the FIFO that was removed, while the next
 * writer begins with a line of his own. */
static void test_rest_of_old_fifo(void **state)
{
    struct line line;
    int silent;

    start_fifo(&line);
    put(&line, "{\"ticker\":\"A\",");
    silent = line.writer;
    assert_int_equal(unlink(line.path), 0);
    assert_int_equal(mkfifo(line.path, 0600), 0);
    feed_bed_pass(&line.bed, 3000);
    feed_bed_expect_log(&line.bed, ":1: column");
    line.writer = open_writer(line.path);
    put(&line, A2);
    assert_int_equal(line.bed.count, 1);
    assert_int_equal(feed_stats(line.feed)->faults_total, 1);
    assert_int_equal(close(silent), 0);
    stop_fifo(&line);
}

static void test_faults(void **state)
{
    static const char *const faults[] = {
        "x\n",   "{\"price\":1}\n",   "{\"ticker\":\"A\",\"price\":0}\n",
        "[1]\n", "{\"ticker\":\"A\n", "{\"ticker\":\"A\xff\",\"price\":1}\n"};
    struct line line;
    char place[64];

    start_fifo(&line);
    put(&line, "\xEF\xBB\xBF" A1);
    for (size_t i = 0; i < ELEMENTSOF(faults); i++) {
        put(&line, faults[i]);
        put(&line, A1);
        (void)snprintf(place, sizeof(place), "%s:%zu: ", line.path, 2 + 2 * i);
        feed_bed_expect_log(&line.bed, place);
    }
    assert_int_equal(line.bed.count, 1 + ELEMENTSOF(faults));
    assert_int_equal(feed_stats(line.feed)->faults_total, ELEMENTSOF(faults));
    stop_fifo(&line);
}

static void test_too_long(void **state)
{
    char long_line[40000];
    struct line line;

    memset(long_line, ' ', sizeof(long_line));
    long_line[sizeof(long_line) - 1] = '\0';
    start_fifo(&line);
    put(&line, A1);
    put(&line, long_line);
    put(&line, long_line);
    put(&line, "\n" A2);
    assert_int_equal(line.bed.count, 2);
    assert_int_equal(feed_stats(line.feed)->faults_total, 1);
    feed_bed_expect_log(&line.bed, ":2: a line of more than 16384 bytes");
    put(&line, "x\n");
    feed_bed_expect_log(&line.bed, ":4: column");
    /* Just not too long; and one that ends with its writer. */
    memcpy(long_line, A1, strlen(A1) - 1);
    long_line[16384] = '\0';
    put(&line, long_line);
    put(&line, "\n");
    assert_int_equal(line.bed.count, 3);
    memset(long_line, 'x', 16384);
    put(&line, long_line);
    put(&line, long_line);
    leave(&line);
    assert_int_equal(feed_stats(line.feed)->faults_total, 3);
    stop_fifo(&line);
}

static void test_full(void **state)
{
    struct line line;

    start_fifo(&line);
    put(&line, A1 B3 "{\"ticker\":\"C\",\"price\":1}\n{\"ticker\":\"D\",\"price\":1}\n"
                     "{\"ticker\":\"E\",\"price\":1}\n" A2);
    assert_int_equal(line.bed.count, 5);
    feed_bed_expect_log(&line.bed, ":5: E: the market has room for 4 tickers, no more");
    assert_int_equal(feed_stats(line.feed)->faults_total, 1);
    stop_fifo(&line);
}

/* What a writer can give in one go is published in several turns, and then it goes on. */
static void test_pressure(void **state)
{
    struct line line;
    size_t written = 0, size = strlen(A1), lines;

    start_fifo(&line);
    assert_true(fcntl(line.writer, F_SETPIPE_SZ, 65536) >= 65536);
    while (write(line.writer, A1, size) == (ssize_t)size)
        written++;
    assert_int_equal(errno, EAGAIN);
    feed_bed_turn(&line.bed);
    lines = line.bed.count;
    assert_in_range(lines, 1, 256);
    feed_bed_turn(&line.bed);
    assert_in_range(line.bed.count, lines, 512);
    feed_bed_wait(&line.bed, written);
    turns(&line);
    assert_int_equal(line.bed.count, written);
    assert_true(line.bed.busy_turn <= 256);
    /* There is room again, and it is used. */
    put(&line, A1);
    assert_int_equal(line.bed.count, written + 1);
    stop_fifo(&line);
}

static void test_stale(void **state)
{
    struct line line;

    start_fifo(&line);
    feed_set_stale_after(line.feed, 1000);
    feed_bed_pass(&line.bed, 1100);
    assert_int_equal(feed_state(line.feed), FEED_STALE);
    put(&line, "nonsense\n");
    assert_int_equal(feed_state(line.feed), FEED_STALE);
    put(&line, A1);
    assert_int_equal(feed_state(line.feed), FEED_LIVE);
    for (unsigned i = 0; i < 5; i++) {
        feed_bed_pass(&line.bed, 900);
        put(&line, A1);
    }
    assert_int_equal(feed_state(line.feed), FEED_LIVE);
    feed_bed_pass(&line.bed, 1100);
    assert_int_equal(feed_state(line.feed), FEED_STALE);
    leave(&line);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    feed_bed_pass(&line.bed, 2000);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    assert_int_equal(line.bed.changes, 4);
    stop_fifo(&line);
}

static void test_refused(void **state)
{
    struct feed_bed bed;
    struct feed *feed = NULL;
    char error[FEED_ERROR_MAX] = "";

    feed_bed_init(&bed, 1);
    assert_int_equal(feed_pipe_new(&feed, &bed.options, "/nonexistent/fifo", error), -EINVAL);
    assert_string_equal(error, "/nonexistent/fifo: there is no such FIFO; mkfifo makes one");
    assert_int_equal(feed_pipe_new(&feed, &bed.options, "/dev/null", error), -EINVAL);
    assert_string_equal(error, "/dev/null: not a FIFO");
    assert_null(feed);
    feed_bed_deinit(&bed, feed);
}

/* With `fd`, which is closed here, as standard input. */
static void start_stdin(struct line *line, int fd)
{
    char error[FEED_ERROR_MAX] = "";

    line->stdin_before = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    assert_true(line->stdin_before >= 0);
    assert_int_equal(dup2(fd, STDIN_FILENO), STDIN_FILENO);
    (void)close(fd);
    feed_bed_init(&line->bed, 4);
    if (feed_pipe_new(&line->feed, &line->bed.options, NULL, error) != 0)
        fail_msg("%s", error);
}

static void stop_stdin(struct line *line)
{
    feed_bed_deinit(&line->bed, line->feed);
    assert_int_equal(dup2(line->stdin_before, STDIN_FILENO), STDIN_FILENO);
    (void)close(line->stdin_before);
}

/* Lines while there is a writer, then its end; and the flags that others see are as they were. */
static void check_stdin(int reader, int writer)
{
    struct line line = {.writer = writer};
    int shared = fcntl(reader, F_DUPFD_CLOEXEC, 3), flags = fcntl(reader, F_GETFL);

    start_stdin(&line, reader);
    assert_int_equal(fcntl(shared, F_GETFL), flags);
    assert_int_equal(flags & O_NONBLOCK, 0);
    turns(&line); /* would wait here for ever */
    put(&line, A1);
    put(&line, A2 "x\n");
    assert_int_equal(line.bed.count, 2);
    feed_bed_expect_log(&line.bed, "standard input:3: column");
    assert_int_equal(feed_state(line.feed), FEED_LIVE);
    put(&line, "{\"ticker\":\"A\",\"price\":5}");
    leave(&line);
    assert_int_equal(line.bed.count, 3);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    feed_bed_expect_log(&line.bed, "the market's feed (stdin) is gone: the end of standard input");
    assert_int_equal(fcntl(shared, F_GETFL), flags);
    assert_true(fcntl(STDIN_FILENO, F_GETFD) >= 0); /* it is not ours to close */
    stop_stdin(&line);
    (void)close(shared);
}

static void test_stdin_pipe(void **state)
{
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    check_stdin(fds[0], fds[1]);
}

static void test_stdin_socket(void **state)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    check_stdin(fds[0], fds[1]);
}

/* A terminal passes on what is typed some time later: a line as a whole, or its end. */
static void type(struct line *line, const char *text)
{
    struct pollfd terminal = {.fd = STDIN_FILENO, .events = POLLIN};

    assert_int_equal(write(line->writer, text, strlen(text)), strlen(text));
    assert_int_equal(poll(&terminal, 1, 20000), 1);
    turns(line);
}

static void test_stdin_terminal(void **state)
{
    struct line line = {.writer = posix_openpt(O_RDWR | O_NOCTTY)};
    int terminal;

    assert_true(line.writer >= 0);
    assert_int_equal(grantpt(line.writer), 0);
    assert_int_equal(unlockpt(line.writer), 0);
    terminal = open(ptsname(line.writer), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(terminal >= 0);
    start_stdin(&line, terminal);
    assert_int_equal(fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK, 0);
    turns(&line); /* would wait here for ever */
    type(&line, A1);
    assert_int_equal(line.bed.count, 1);
    put(&line, "{\"ticker\":\"A\",");
    assert_int_equal(line.bed.count, 1);
    type(&line, "\"price\":5}\n");
    assert_int_equal(line.bed.count, 2);
    type(&line, "\x04"); /* ^D */
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    stop_stdin(&line);
    (void)close(line.writer);
}

/* The writer has left before anything was read. */
static void test_stdin_left(void **state)
{
    struct line line;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], A1 A2, strlen(A1 A2)), strlen(A1 A2));
    (void)close(fds[1]);
    start_stdin(&line, fds[0]);
    assert_int_equal(line.bed.count, 0);
    turns(&line);
    assert_int_equal(line.bed.count, 2);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    stop_stdin(&line);
}

static void test_stdin_file(void **state)
{
    size_t size = 0, count = 5000;
    char *content = malloc(count * strlen(A1)), *path;
    struct line line;

    assert_non_null(content);
    for (size_t i = 0; i < count; i++, size += strlen(A1))
        memcpy(content + size, A1, strlen(A1));
    path = feed_bed_file(content, size);
    start_stdin(&line, open(path, O_RDONLY));
    feed_bed_wait(&line.bed, count);
    turns(&line);
    assert_int_equal(line.bed.count, count);
    assert_true(line.bed.busy_turn <= 256);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    stop_stdin(&line);
    (void)unlink(path);
    free(path);
    free(content);
}

static void test_stdin_nothing(void **state)
{
    struct line line;
    struct feed_bed bed;
    struct feed *feed = NULL;
    char error[FEED_ERROR_MAX] = "";
    int before, folder;

    start_stdin(&line, open("/dev/null", O_RDONLY));
    turns(&line);
    assert_int_equal(feed_state(line.feed), FEED_GONE);
    assert_int_equal(line.bed.changes, 1);
    stop_stdin(&line);

    before = dup(STDIN_FILENO);
    folder = open("/", O_RDONLY | O_DIRECTORY);
    feed_bed_init(&bed, 1);
    assert_int_equal(dup2(folder, STDIN_FILENO), STDIN_FILENO);
    assert_int_equal(feed_pipe_new(&feed, &bed.options, NULL, error), -EINVAL);
    assert_string_equal(error, "standard input: is a directory");
    (void)close(STDIN_FILENO);
    assert_int_equal(feed_pipe_new(&feed, &bed.options, NULL, error), -EINVAL);
    assert_string_equal(error, "standard input: Bad file descriptor");
    assert_int_equal(dup2(before, STDIN_FILENO), STDIN_FILENO);
    (void)close(before);
    (void)close(folder);
    feed_bed_deinit(&bed, feed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_writers),
        cmocka_unit_test(test_no_spin),
        cmocka_unit_test(test_new_fifo),
        cmocka_unit_test(test_rest_of_old_fifo),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_pressure),
        cmocka_unit_test(test_stale),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_stdin_pipe),
        cmocka_unit_test(test_stdin_socket),
        cmocka_unit_test(test_stdin_terminal),
        cmocka_unit_test(test_stdin_left),
        cmocka_unit_test(test_stdin_file),
        cmocka_unit_test(test_stdin_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
