/*
 * The two text formats, to the byte; and the process_* families, against what the kernel says.
 */
#include "base/metrics.h"

#include "base/util.h"

#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* Renders a table; the text is freed by the next call. */
static const char *render(const struct metric_family *table, size_t count, void *context,
                          enum metrics_format format)
{
    static char *text;
    size_t size = 0;

    free(text);
    text = NULL;
    assert_int_equal(metrics_render(table, count, context, format, &text, &size), 0);
    assert_int_equal(strlen(text), size);
    return text;
}

/* The same, as a program does. */
static const char *render_program(const struct metric_family *table, size_t count, void *context,
                                  enum metrics_format format)
{
    static char *text;
    size_t size = 0;

    free(text);
    text = NULL;
    assert_int_equal(metrics_render_program(table, count, context, format, &text, &size), 0);
    assert_int_equal(strlen(text), size);
    return text;
}

/* ---------------------------------- whole texts ---------------------------------- */

static const double bounds[] = {0.001, 0.5, 1, 10, 1000000, 1.5e7};

static void collect_updates(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    metrics_u64(writer, family->argument, NULL);
}

static void collect_calls(struct metrics_writer *writer, const struct metric_family *family,
                          void *context)
{
    metrics_u64(writer, UINT64_MAX, "grpc_type", "unary", "grpc_code", "OK", NULL);
    metrics_u64(writer, 0, "grpc_type", "a\\b\"c\nd", NULL);
    metrics_u64(writer, 10, "grpc_type", "", NULL);
    metrics_u64(writer, 11, "grpc_type", "caf\xc3\xa9 \xff\xe2\x82 \xed\xa0\x80", NULL);
}

static void collect_load(struct metrics_writer *writer, const struct metric_family *family,
                         void *context)
{
    metrics_double(writer, -0.25, "place", "here", NULL);
    metrics_double(writer, NAN, "place", "there", NULL);
}

static void collect_lag(struct metrics_writer *writer, const struct metric_family *family,
                        void *context)
{
    metrics_histogram(writer, context);
}

static void collect_nothing(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
}

static const struct metric_family families[] = {
    {"stock_updates_sent_total", METRIC_COUNTER, "Updates sent.", collect_updates, 42},
    {"calls_total", METRIC_COUNTER, "Says \"a\\b\",\nand more.", collect_calls, 0},
    {"nothing_total", METRIC_COUNTER, "Has no samples.", collect_nothing, 0},
    {"load", METRIC_GAUGE, "A number.", collect_load, 0},
    {"total_lag_seconds", METRIC_HISTOGRAM, "How late.", collect_lag, 0},
};

/* The samples, which are the same in both formats. */
#define CALLS                                                                                      \
    "calls_total{grpc_type=\"unary\",grpc_code=\"OK\"} 18446744073709551615\n"                     \
    "calls_total{grpc_type=\"a\\\\b\\\"c\\nd\"} 0\n"                                               \
    "calls_total{grpc_type=\"\"} 10\n"                                                             \
    "calls_total{grpc_type=\"caf\xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd"                    \
    "\xef\xbf\xbd\xef\xbf\xbd\"} 11\n"
#define LOAD "load{place=\"here\"} -0.25\nload{place=\"there\"} NaN\n"
#define LAG                                                                                        \
    "total_lag_seconds_bucket{le=\"0.001\"} 2\n"                                                   \
    "total_lag_seconds_bucket{le=\"0.5\"} 2\n"                                                     \
    "total_lag_seconds_bucket{le=\"1.0\"} 3\n"                                                     \
    "total_lag_seconds_bucket{le=\"10.0\"} 3\n"                                                    \
    "total_lag_seconds_bucket{le=\"1e+06\"} 3\n"                                                   \
    "total_lag_seconds_bucket{le=\"1.5e+07\"} 3\n"                                                 \
    "total_lag_seconds_bucket{le=\"+Inf\"} 4\n"                                                    \
    "total_lag_seconds_sum 20000001.0015\n"                                                        \
    "total_lag_seconds_count 4\n"

static void fill_histogram(struct histogram *histogram)
{
    histogram_init(histogram, bounds, ELEMENTSOF(bounds));
    histogram_observe(histogram, 0.0005);
    histogram_observe(histogram, 0.001); /* a bound belongs to its bucket */
    histogram_observe(histogram, 1);
    histogram_observe(histogram, NAN); /* ignored */
    histogram_observe(histogram, 2e7);
}

/* A row of equal values is what it would be one by one. */
static void test_observe_many(void **state)
{
    static const double values[] = {-1, 0, 0.001, 0.25, 1, 2, 3e7};
    struct histogram many, one_by_one;

    histogram_init(&many, bounds, ELEMENTSOF(bounds));
    histogram_init(&one_by_one, bounds, ELEMENTSOF(bounds));
    for (unsigned i = 0; i < ELEMENTSOF(values); i++) {
        histogram_observe_many(&many, values[i], i);
        for (unsigned k = 0; k < i; k++)
            histogram_observe(&one_by_one, values[i]);
    }
    histogram_observe_many(&many, NAN, 5);
    histogram_observe_many(&many, INFINITY, 0);
    assert_memory_equal(many.buckets, one_by_one.buckets, sizeof(many.buckets));
    assert_float_equal(many.sum, one_by_one.sum, 0.01);
}

static void test_text(void **state)
{
    struct histogram histogram;

    fill_histogram(&histogram);
    assert_string_equal(render(families, ELEMENTSOF(families), &histogram, METRICS_TEXT),
                        "# HELP stock_updates_sent_total Updates sent.\n"
                        "# TYPE stock_updates_sent_total counter\n"
                        "stock_updates_sent_total 42\n"
                        "# HELP calls_total Says \"a\\\\b\",\\nand more.\n"
                        "# TYPE calls_total counter\n" CALLS "# HELP load A number.\n"
                        "# TYPE load gauge\n" LOAD "# HELP total_lag_seconds How late.\n"
                        "# TYPE total_lag_seconds histogram\n" LAG);
}

static void test_openmetrics(void **state)
{
    struct histogram histogram;

    fill_histogram(&histogram);
    assert_string_equal(render(families, ELEMENTSOF(families), &histogram, METRICS_OPENMETRICS),
                        "# HELP stock_updates_sent Updates sent.\n"
                        "# TYPE stock_updates_sent counter\n"
                        "stock_updates_sent_total 42\n"
                        "# HELP calls Says \\\"a\\\\b\\\",\\nand more.\n"
                        "# TYPE calls counter\n" CALLS "# HELP load A number.\n"
                        "# TYPE load gauge\n" LOAD "# HELP total_lag_seconds How late.\n"
                        "# TYPE total_lag_seconds histogram\n" LAG "# EOF\n");
}

/* The process's families follow the program's own, before the end. */
static void test_program(void **state)
{
    static const struct metric_family info = {"test_build_info", METRIC_GAUGE, "Always 1.",
                                              metrics_build_info, 0};
    static const char start[] = "# HELP test_build_info Always 1.\n"
                                "# TYPE test_build_info gauge\n"
                                "test_build_info{version=\"" STOCKD_VERSION "\"} 1\n"
                                "# HELP process_";
    const char *text = render_program(&info, 1, NULL, METRICS_OPENMETRICS);
    const char *end = strstr(text, "# EOF\n");

    assert_memory_equal(text, start, strlen(start));
    assert_non_null(strstr(text, "\nprocess_start_time_seconds "));
    assert_non_null(end);
    assert_string_equal(end, "# EOF\n");
}

static void test_empty(void **state)
{
    assert_string_equal(render(NULL, 0, NULL, METRICS_TEXT), "");
    assert_string_equal(render(NULL, 0, NULL, METRICS_OPENMETRICS), "# EOF\n");
}

/* ------------------------------------ numbers ------------------------------------ */

static void collect_double(struct metrics_writer *writer, const struct metric_family *family,
                           void *context)
{
    metrics_double(writer, *(double *)context, NULL);
}

/* The text of a value as a sample has it. */
static const char *value_text(double value)
{
    static const struct metric_family family = {"v", METRIC_GAUGE, "A value.", collect_double, 0};
    static const char before[] = "# HELP v A value.\n# TYPE v gauge\nv ";
    const char *text = render(&family, 1, &value, METRICS_TEXT);
    static char line[64];

    assert_memory_equal(text, before, sizeof(before) - 1);
    (void)snprintf(line, sizeof(line), "%s", text + sizeof(before) - 1);
    line[strcspn(line, "\n")] = '\0';
    return line;
}

static void test_values(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0"},
        {1, "1"},
        {-1, "-1"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1.0 / 3, "0.3333333333333333"},
        {123456789, "123456789"},
        {999999999999999, "999999999999999"},
        {1e15, "1e+15"},
        {9007199254740993.0, "9007199254740992"},
        {1e300, "1e+300"},
        {-1.5e-7, "-1.5e-07"},
        {5e-324, "5e-324"},
        {DBL_MAX, "1.7976931348623157e+308"},
        {INFINITY, "+Inf"},
        {-INFINITY, "-Inf"},
        {NAN, "NaN"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++)
        assert_string_equal(value_text(cases[i].value), cases[i].text);
}

/* Any value comes back as it was, and no shorter text does that. */
static void test_round_trip(void **state)
{
    uint64_t random = 88172645463325252u;

    for (int i = 0; i < 20000; i++) {
        double value;
        char shorter[400];

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        memcpy(&value, &random, sizeof(value));
        if (i % 3 == 0)
            value = (double)(random % 100000000) / 1000;
        if (!isfinite(value))
            continue;
        const char *text = value_text(value);
        assert_true(strtod(text, NULL) == value);
        int digits = 0; /* significant ones: without leading and closing zeros */
        int zeros = 0;
        for (const char *c = text; *c != '\0' && *c != 'e'; c++) {
            if (*c == '0')
                zeros += digits > 0;
            if (*c >= '1' && *c <= '9') {
                digits += zeros + 1;
                zeros = 0;
            }
        }
        if (digits < 2)
            continue;
        (void)snprintf(shorter, sizeof(shorter), "%.*g", digits - 1, value);
        assert_true(strtod(shorter, NULL) != value);
    }
}

/* Go's and Python's client libraries write these, so that series of all exporters agree. */
static void test_bounds(void **state)
{
    static const struct metric_family family = {"h", METRIC_HISTOGRAM, "H.", collect_lag, 0};
    static const double values[] = {-2.5,    0,        1e-7, 0.00001, 0.0001, 0.00025,
                                    1.0 / 3, 100000.0, 1e6,  1234567, 1e21};
    static const char *const texts[] = {
        "-2.5",     "0.0",   "1e-07",        "1e-05", "0.0001", "0.00025", "0.3333333333333333",
        "100000.0", "1e+06", "1.234567e+06", "1e+21"};
    struct histogram histogram;

    histogram_init(&histogram, values, ELEMENTSOF(values));
    const char *at = render(&family, 1, &histogram, METRICS_OPENMETRICS);
    for (size_t i = 0; i < ELEMENTSOF(values); i++) {
        char expected[64];

        (void)snprintf(expected, sizeof(expected), "h_bucket{le=\"%s\"} 0\n", texts[i]);
        at = strstr(at, expected);
        assert_non_null(at);
    }
    assert_non_null(strstr(at, "h_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n# EOF\n"));
}

/* More text than the first buffer holds, and single values larger than it. */
static void collect_much(struct metrics_writer *writer, const struct metric_family *family,
                         void *context)
{
    for (uint64_t i = 0; i < 5000; i++)
        metrics_u64(writer, i, "label", "value", NULL);
    metrics_u64(writer, 5000, "label", (const char *)context, NULL);
}

static void test_much(void **state)
{
    static const struct metric_family family = {"much", METRIC_GAUGE, "Much.", collect_much, 0};
    const size_t length = 200000;
    _cleanup_free_ char *value = malloc(length + 1);

    assert_non_null(value);
    memset(value, '"', length);
    value[length] = '\0';
    const char *at = render(&family, 1, value, METRICS_TEXT);
    for (uint64_t i = 0; i < 5000; i++) {
        char line[64];

        (void)snprintf(line, sizeof(line), "\nmuch{label=\"value\"} %ju\n", (uintmax_t)i);
        at = strstr(at, line);
        assert_non_null(at);
    }
    at = strstr(at, "{label=\"\\\"");
    assert_non_null(at);
    assert_int_equal(strlen(at), strlen("{label=\"\"} 5000\n") + 2 * length);
}

/* ------------------------------------ process_* ------------------------------------ */

/* The value of a sample without labels; NAN if it isn't there. */
static double sample(const char *name)
{
    const char *text = render(metrics_process, metrics_process_count, NULL, METRICS_TEXT);
    char start[128];

    (void)snprintf(start, sizeof(start), "\n%s ", name);
    const char *at = strstr(text, start);
    return at != NULL ? strtod(at + strlen(start), NULL) : NAN;
}

static void test_process(void **state)
{
    struct rlimit limit, unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    double now = (double)time(NULL);

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_true(sample("process_max_fds") == (double)limit.rlim_cur);
    assert_true(sample("process_threads") == 1);
    assert_true(sample("process_start_time_seconds") > now - 3600);
    assert_true(sample("process_start_time_seconds") < now + 2);
    assert_true(sample("process_resident_memory_bytes") > 100000);
    assert_true(sample("process_virtual_memory_bytes") >= sample("process_resident_memory_bytes"));
    assert_false(isnan(sample("process_heap_bytes")));
    if (setrlimit(RLIMIT_AS, &unlimited) == 0)
        assert_true(isinf(sample("process_virtual_memory_max_bytes")));
    else
        assert_true(sample("process_virtual_memory_max_bytes") > 0);

    double before = sample("process_cpu_seconds_total");
    for (clock_t start = clock(); clock() - start < CLOCKS_PER_SEC / 50;)
        ;
    assert_true(sample("process_cpu_seconds_total") >= before + 0.02);
    assert_true(sample("process_cpu_seconds_total") <= (double)clock() / CLOCKS_PER_SEC + 0.1);
}

static void test_process_descriptors(void **state)
{
    struct rlimit limit, small;
    int fds[40];
    const size_t count = ELEMENTSOF(fds);

    double before = sample("process_open_fds");
    assert_true(before >= 3);
    for (size_t i = 0; i < count; i++)
        fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(sample("process_open_fds") == before + (double)count);

    /* When there are none left, it can still be seen how many are open. */
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    small = (struct rlimit){(rlim_t)before + count, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
        ;
    double at_limit = sample("process_open_fds"),
           resident = sample("process_resident_memory_bytes");
    for (int fd = fds[0]; fd < (int)small.rlim_cur; fd++)
        (void)close(fd);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_true(at_limit >= before + (double)count);
    assert_true(isnan(resident)); /* left out, not wrong */
}

/* ------------------------------- other people's parsers ------------------------------- */

/* Feeds both formats to a command of the shell; true if it succeeds and prints nothing. */
static bool accepted_by(const char *command, enum metrics_format format)
{
    struct histogram histogram;
    const char *text;
    char answer[512];
    int to[2], from[2];

    fill_histogram(&histogram);
    text = render_program(families, ELEMENTSOF(families), &histogram, format);

    assert_int_equal(pipe2(to, O_CLOEXEC) | pipe2(from, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        (void)dup2(to[0], STDIN_FILENO);
        (void)dup2(from[1], STDOUT_FILENO);
        (void)dup2(from[1], STDERR_FILENO);
        (void)execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    (void)close(to[0]);
    (void)close(from[1]);
    /* It fits into the pipe. */
    assert_int_equal(write(to[1], text, strlen(text)), strlen(text));
    (void)close(to[1]);
    ssize_t size = read(from[0], answer, sizeof(answer) - 1);
    (void)close(from[0]);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    answer[MAX(size, (ssize_t)0)] = '\0';
    if (status != 0 || size != 0)
        print_message("%s: status %d: %s\n", command, status, answer);
    return status == 0 && size == 0;
}

/* A test that cannot be made has not passed. */
static void require(const char *command, const char *package)
{
    char line[256];

    (void)snprintf(line, sizeof(line), "%s >/dev/null 2>&1", command);
    if (system(line) != 0) /* NOLINT(cert-env33-c): the commands are this file's */
        fail_msg("\"%s\" does not work here; Debian's package %s has it", command, package);
}

static void test_promtool(void **state)
{
    require("promtool --version", "prometheus");
    assert_true(accepted_by("promtool check metrics", METRICS_TEXT));
}

#define PARSER "/usr/bin/python3 -c 'from prometheus_client."

static void test_python_client(void **state)
{
    require("/usr/bin/python3 -c 'import prometheus_client'", "python3-prometheus-client");
    assert_true(accepted_by(PARSER "openmetrics.parser import text_string_to_metric_families as p; "
                                   "import sys; n = len(list(p(sys.stdin.read()))); "
                                   "sys.exit(n != 13)'",
                            METRICS_OPENMETRICS));
    assert_true(accepted_by(PARSER "parser import text_string_to_metric_families as p; "
                                   "import sys; n = len(list(p(sys.stdin.read()))); "
                                   "sys.exit(n != 13)'",
                            METRICS_TEXT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_observe_many),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_openmetrics),
        cmocka_unit_test(test_program),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_much),
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_process_descriptors),
        cmocka_unit_test(test_promtool),
        cmocka_unit_test(test_python_client),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
