/*
 * Log messages, with standard error replaced by a pipe and the journal by a function of this file.
 */
#include "base/log.h"

#include "base/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ------------------------------ the journal's stand-in ------------------------------ */

static struct {
    unsigned calls, settled;
    bool waited;
    bool stays; /* what is there; what comes later is not kept */
    int result;
    char text[16384]; /* the fields, each with a line feed after it */
} journal;

/* Takes the place of journal.c. */
int journal_send(const char *path, const struct iovec *vectors, unsigned count, bool wait)
{
    size_t size = 0;

    assert_string_equal(path, "/run/systemd/journal/socket");
    journal.calls++;
    journal.waited = wait;
    if (journal.stays && journal.text[0])
        return journal.result;
    for (unsigned i = 0; i < count; i++) {
        assert_true(size + vectors[i].iov_len + 2 < sizeof(journal.text));
        memcpy(journal.text + size, vectors[i].iov_base, vectors[i].iov_len);
        size += vectors[i].iov_len;
        journal.text[size++] = '\n';
    }
    journal.text[size] = '\0';
    return journal.result;
}

int journal_settle(const char *path, unsigned most_ms)
{
    assert_string_equal(path, "/run/systemd/journal/socket");
    assert_in_range(most_ms, 1, 1000);
    journal.settled++;
    return journal.result;
}

/* --------------------------------- standard error --------------------------------- */

static int real_stderr = -1, pipe_out = -1;

static int set_up(void **state)
{
    int fds[2];

    memset(&journal, 0, sizeof(journal));
    (void)unsetenv("JOURNAL_STREAM");
    (void)setenv("TZ", "UTC-5:30", 1); /* POSIX's sign: east */
    /* In packet mode a read gives what one write took. */
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_DIRECT), 0);
    (void)fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    (void)dup2(fds[1], STDERR_FILENO);
    (void)close(fds[1]);
    pipe_out = fds[0];
    (void)fcntl(pipe_out, F_SETFL, O_NONBLOCK);
    log_set_level(LOG_DEBUG);
    log_open("test-log");
    return 0;
}

static int tear_down(void **state)
{
    (void)dup2(real_stderr, STDERR_FILENO);
    (void)close(real_stderr);
    (void)close(pipe_out);
    return 0;
}

/* What one write wrote; "" for nothing. */
static const char *written(void)
{
    static char text[65536];
    ssize_t size = read(pipe_out, text, sizeof(text) - 1);

    text[size > 0 ? size : 0] = '\0';
    return text;
}

/* The message of the only line that was written. */
static const char *message_of(const char *line)
{
    const char *message = strstr(line, ": ");

    assert_non_null(message);
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    return message + 2;
}

/* ------------------------------------- tests ------------------------------------- */

static void test_line(void **state)
{
    regex_t pattern;

    assert_int_equal(
        regcomp(&pattern,
                "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}\\+05:30 "
                "warning: 3 of 4 streams\n$",
                REG_EXTENDED),
        0);
    log_warning("%d of %d streams", 3, 4);
    assert_int_equal(regexec(&pattern, written(), 0, NULL, 0), 0);
    regfree(&pattern);
}

/* The time of a line is the time at which it was written, in the local zone. */
static void test_time(void **state)
{
    time_t before = time(NULL);
    log_info("now");
    time_t after = time(NULL);
    struct tm fields = {0};

    assert_non_null(strptime(written(), "%Y-%m-%dT%H:%M:%S", &fields));
    time_t seconds = timegm(&fields) - (5 * 60 + 30) * 60;
    assert_true(seconds >= before && seconds <= after);
}

static void test_levels(void **state)
{
    static const struct {
        int level;
        const char *name;
    } levels[] = {{LOG_ERR, "error"},
                  {LOG_WARNING, "warning"},
                  {LOG_NOTICE, "notice"},
                  {LOG_INFO, "info"},
                  {LOG_DEBUG, "debug"}};

    for (size_t i = 0; i < ELEMENTSOF(levels); i++) {
        assert_int_equal(log_level_from_name(levels[i].name), levels[i].level);
        assert_string_equal(log_level_name(levels[i].level), levels[i].name);
        log_set_level(levels[i].level);
        for (size_t k = 0; k < ELEMENTSOF(levels); k++) {
            char expected[32];

            log_message(levels[k].level, NULL, "x");
            const char *text = written();
            assert_int_equal(log_enabled(levels[k].level), k <= i);
            if (k > i) {
                assert_string_equal(text, "");
                continue;
            }
            (void)snprintf(expected, sizeof(expected), " %s: x\n", levels[k].name);
            assert_non_null(strstr(text, expected));
        }
    }
    assert_int_equal(log_level_from_name("fatal"), -EINVAL);
    assert_int_equal(log_level_from_name(""), -EINVAL);
    assert_int_equal(log_level_from_name("INFO"), -EINVAL);
}

static void test_errno(void **state)
{
    errno = ENOENT;
    log_error("no file: %m");
    assert_int_equal(errno, ENOENT);
    assert_string_equal(message_of(written()), "no file: No such file or directory\n");

    (void)close(STDERR_FILENO); /* write() fails now */
    errno = EXDEV;
    log_error("lost");
    log_open("test-log");
    assert_int_equal(errno, EXDEV);
}

/* Nothing that a peer sends begins a line, reaches the terminal, or turns text round. */
static void test_escapes(void **state)
{
    static const struct {
        const char *raw;
        const char *escaped;
    } cases[] = {
        {"plain text, 100 %", "plain text, 100 %"},
        {"a\nb\r\n", "a\\nb\\r\\n"},
        {"\a\b\t\n\v\f\r", "\\a\\b\\t\\n\\v\\f\\r"},
        {"\x01\x1b[31m\x7f", "\\x01\\x1b[31m\\x7f"},
        {"C:\\n", "C:\\\\n"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\x88", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\x88"},
        {"\xc2\x85|\xc2\x9b", "\\xc2\\x85|\\xc2\\x9b"},                 /* NEL, CSI */
        {"\xe2\x80\xa8\xe2\x80\xae", "\\xe2\\x80\\xa8\\xe2\\x80\\xae"}, /* U+2028, U+202E */
        {"\xff\xc3|\xe2\x82|\xf0\x9f\x93", "\\xff\\xc3|\\xe2\\x82|\\xf0\\x9f\\x93"},
        {"\xc0\x8a", "\\xc0\\x8a"},                   /* overlong line feed */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},          /* surrogate */
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, /* above U+10FFFF */
        {"", ""},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        char expected[256];

        log_info("%s", cases[i].raw);
        (void)snprintf(expected, sizeof(expected), "%s\n", cases[i].escaped);
        assert_string_equal(message_of(written()), expected);
    }
}

/* A long message is cut at a whole character, says so, and still goes out in one write. */
static void test_long(void **state)
{
    static char raw[20000];

    for (unsigned width = 1; width <= 4; width++) {
        static const char *const characters[] = {"x", "\xc3\xa9", "\xe2\x82\xac",
                                                 "\xf0\x9f\x93\x88"};
        raw[0] = '\0';
        for (size_t size = 0; size + width < sizeof(raw); size += width)
            memcpy(raw + size, characters[width - 1], width + 1);
        log_info("%s", raw);
        const char *line = written(), *message = message_of(line);
        size_t size = strlen(message) - strlen("\xe2\x80\xa6\n");
        assert_true(strlen(line) <= PIPE_BUF);
        assert_true(strlen(line) > PIPE_BUF / 2);
        assert_string_equal(message + size, "\xe2\x80\xa6\n");
        assert_int_equal(size % width, 0);
        assert_memory_equal(message, raw, size);
    }

    /* What grows by escaping. */
    memset(raw, '\n', sizeof(raw) - 1);
    raw[sizeof(raw) - 1] = '\0';
    log_info("%s", raw);
    const char *line = written(), *message = message_of(line);
    size_t size = strlen(message) - strlen("\xe2\x80\xa6\n");
    assert_true(strlen(line) <= PIPE_BUF);
    assert_string_equal(message + size, "\xe2\x80\xa6\n");
    for (size_t i = 0; i < size; i++)
        assert_int_equal(message[i], i % 2 == 0 ? '\\' : 'n');
    assert_int_equal(size % 2, 0);
}

/* The longest message that is not cut, and the shortest that is. */
static void test_length_boundary(void **state)
{
    static char raw[PIPE_BUF];
    bool was_cut = false;

    memset(raw, 'x', sizeof(raw));
    for (size_t size = PIPE_BUF - 128; size < PIPE_BUF; size++) {
        log_info("%.*s", (int)size, raw);
        const char *line = written(), *message = message_of(line);
        bool cut = strstr(message, "\xe2\x80\xa6") != NULL;
        assert_true(strlen(line) <= PIPE_BUF);
        assert_true(cut || strlen(message) == size + 1);
        assert_true(cut || !was_cut);
        was_cut = cut;
    }
    assert_true(was_cut);
}

/* Is it used now? */
static bool use_journal(void)
{
    struct stat status;
    char text[64];

    assert_int_equal(fstat(STDERR_FILENO, &status), 0);
    (void)snprintf(text, sizeof(text), "%ju:%ju", (uintmax_t)status.st_dev,
                   (uintmax_t)status.st_ino);
    (void)setenv("JOURNAL_STREAM", text, 1);
    assert_false(log_to_journal());
    log_open("test-log");
    return log_to_journal();
}

static void test_journal(void **state)
{
    assert_true(use_journal());
    log_event(LOG_NOTICE,
              log_fields({"STOCKD_PEER", "[::1]:80"}, {"STOCKD_NONE", NULL}, {"STOCKD_X", "a\nb"}),
              "closed\n%d", 7);
    assert_int_equal(journal.calls, 1);
    assert_string_equal(journal.text, "MESSAGE=closed\\n7\nPRIORITY=5\nSYSLOG_IDENTIFIER=test-log\n"
                                      "STOCKD_PEER=[::1]:80\nSTOCKD_X=a\\nb\n");
    assert_string_equal(written(), "");

    log_debug("plain");
    assert_string_equal(journal.text, "MESSAGE=plain\nPRIORITY=7\nSYSLOG_IDENTIFIER=test-log\n");
}

static void test_close(void **state)
{
    log_close();
    assert_int_equal(journal.settled, 0);
    assert_true(use_journal());
    log_info("the last words");
    log_close();
    assert_int_equal(journal.settled, 1);
}

/* A terminal shows some of them as they are: no value moves its cursor, or is more than a line. */
static void test_escaped_fields(void **state)
{
    assert_true(use_journal());
    log_event(LOG_INFO,
              log_fields({"A", "\xc2\x9b"
                               "31m"},
                         {"B", "\xe2\x80\xae"}, {"C", "\xff"}, {"D", "\\"}, {"E", ""}),
              "fields");
    assert_string_equal(journal.text, "MESSAGE=fields\nPRIORITY=6\nSYSLOG_IDENTIFIER=test-log\n"
                                      "A=\\xc2\\x9b31m\nB=\\xe2\\x80\\xae\nC=\\xff\n"
                                      "D=\\\\\nE=\n");
}

/* Each figure of a message has a text of its own, in full. */
static void test_numbers(void **state)
{
    assert_true(use_journal());
    log_event(
        LOG_INFO,
        log_fields({"A", log_number(0)}, {"B", log_number(UINT64_MAX)}, {"C", log_number(42)}),
        "figures");
    assert_string_equal(journal.text, "MESSAGE=figures\nPRIORITY=6\nSYSLOG_IDENTIFIER=test-log\n"
                                      "A=0\nB=18446744073709551615\nC=42\n");
}

static const char *never(void)
{
    fail_msg("a field of a message that nobody wants was made");
    return NULL;
}

/* The fields of a message that is dropped cost nothing. */
static void test_dropped_fields(void **state)
{
    assert_true(use_journal());
    log_set_level(LOG_INFO);
    log_event(LOG_DEBUG, log_fields({"A", never()}), "dropped");
    assert_int_equal(journal.calls, 0);
}

/* Many and long fields are cut, the message isn't lost. */
static void test_journal_limits(void **state)
{
    static char long_value[5000], long_message[10000];
    struct log_field fields[40] = {{NULL, NULL}};

    memset(long_value, 'v', sizeof(long_value) - 1);
    memset(long_message, 'm', sizeof(long_message) - 1);
    for (size_t i = 0; i < 39; i++)
        fields[i] = (struct log_field){"FIELD", long_value};
    assert_true(use_journal());
    log_message(LOG_INFO, fields, "%s", long_message);
    assert_int_equal(journal.calls, 1);
    assert_non_null(strstr(journal.text, "mmm\xe2\x80\xa6\nPRIORITY=6\n"));
    assert_non_null(strstr(journal.text, "\nFIELD=vvv"));
}

/* A journal that takes nothing is no reason to be silent. */
static void test_journal_fails(void **state)
{
    assert_true(use_journal());
    journal.result = -ENOBUFS;
    errno = EPIPE;
    log_info("still here");
    assert_int_equal(errno, EPIPE);
    assert_int_equal(journal.calls, 1);
    assert_string_equal(message_of(written()), "still here\n");
}

/* JOURNAL_STREAM is inherited by children whose standard error is something else. */
static void test_journal_not_ours(void **state)
{
    static const char *const streams[] = {"", "1:2", "x", ":", "99999999999999999999:1"};

    for (size_t i = 0; i < ELEMENTSOF(streams); i++) {
        (void)setenv("JOURNAL_STREAM", streams[i], 1);
        log_open("test-log");
        assert_false(log_to_journal());
        log_info("to standard error");
        assert_int_equal(journal.calls, 0);
        assert_string_equal(message_of(written()), "to standard error\n");
    }

    assert_true(use_journal());
    (void)unsetenv("JOURNAL_STREAM");
    log_open("test-log");
    log_info("looked again");
    assert_int_equal(journal.calls, 0);
    assert_string_equal(message_of(written()), "looked again\n");
}

/* Whoever has our standard error and does not read it must not stop us. */
static void test_never_wait(void **state)
{
    unsigned taken = 0, lost = 0;
    const char *line;

    log_never_wait();
    for (unsigned i = 0; i < 200; i++)
        log_info("message %u", i);
    while (*(line = written())) {
        char expected[32];

        (void)snprintf(expected, sizeof(expected), "info: message %u\n", taken++);
        assert_non_null(strstr(line, expected));
    }
    assert_in_range(taken, 1, 199);
    log_info("again");
    line = strstr(written(), "warning: ");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "warning: %u messages were lost: ", &lost), 1);
    assert_int_equal(taken + lost, 200);
    assert_non_null(strstr(written(), "info: again\n"));
    log_info("and again");
    assert_non_null(strstr(written(), "info: and again\n"));
    assert_string_equal(written(), "");
}

/* The same of a journald that does not read; nor does it read what is written to standard error. */
static void test_never_wait_for_the_journal(void **state)
{
    assert_true(use_journal());
    log_info("told before");
    assert_true(journal.waited);
    log_never_wait();
    journal.result = -EAGAIN;
    log_info("lost");
    assert_false(journal.waited);
    log_info("lost, too");
    assert_int_equal(journal.calls, 3);
    assert_string_equal(written(), "");
    journal.result = 0;
    log_info("again");
    assert_int_equal(journal.calls, 5);
    assert_non_null(strstr(journal.text, "MESSAGE=again\n"));
    log_info("and again");
    assert_int_equal(journal.calls, 6);
    assert_string_equal(written(), "");
}

/* What was lost is told first. */
static void test_lost_for_the_journal(void **state)
{
    assert_true(use_journal());
    log_never_wait();
    journal.result = -EAGAIN;
    log_info("lost");
    log_info("lost, too");
    journal.result = 0;
    journal.stays = true;
    journal.text[0] = '\0';
    log_info("again");
    assert_non_null(strstr(journal.text, "MESSAGE=2 messages were lost: the journal took none\n"
                                         "PRIORITY=4\n"
                                         "SYSLOG_IDENTIFIER=test-log\n"
                                         "MESSAGE_ID=51c417aab5e344a4ab11c97da2bfb0be\n"
                                         "STOCKD_EVENT=messages-dropped\n"
                                         "STOCKD_DROPPED=2\n"));
}

static void test_limit(void **state)
{
    struct log_limit limit = {0};
    unsigned dropped = 99;
    uint64_t now = 1000; /* the clock may be young */

    for (unsigned i = 0; i < LOG_LIMIT_BURST; i++) {
        assert_true(log_limit_pass(&limit, now, &dropped));
        assert_int_equal(dropped, 0);
    }
    for (unsigned i = 0; i < 3; i++)
        assert_false(log_limit_pass(&limit, now + i, &dropped));

    now += LOG_LIMIT_INTERVAL_MS;
    assert_true(log_limit_pass(&limit, now, &dropped));
    assert_int_equal(dropped, 3);
    assert_true(log_limit_pass(&limit, now, &dropped));
    assert_int_equal(dropped, 0);
    for (unsigned i = 2; i < LOG_LIMIT_BURST; i++)
        assert_true(log_limit_pass(&limit, now, &dropped));
    assert_false(log_limit_pass(&limit, now + LOG_LIMIT_INTERVAL_MS - 1, &dropped));
    assert_true(log_limit_pass(&limit, now + LOG_LIMIT_INTERVAL_MS, &dropped));
    assert_int_equal(dropped, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_errno, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_escapes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_long, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_length_boundary, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_journal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_escaped_fields, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_numbers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dropped_fields, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_journal_limits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_journal_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_journal_not_ours, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_never_wait, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_never_wait_for_the_journal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lost_for_the_journal, set_up, tear_down),
        cmocka_unit_test(test_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
