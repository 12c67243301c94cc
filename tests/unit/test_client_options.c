/*
 * The command line and the environment of stock-client.
 */
#include "client/command_updates.h"

#include "base/util.h"
#include "client/command_bench_options.h"
#include "client/families.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#define ARGUMENTS_MAX 16

/* What was printed to standard error by the last read_options(). */
static char complaints[4096];

/* Reads a command line given as one text, its arguments separated by spaces. */
static int read_line(const char *line, int (*read)(void *user, int argc, char *argv[]), void *user)
{
    static char text[512]; /* as long as options may point to it */
    char *argv[ARGUMENTS_MAX + 1] = {(char *)"stock-client"};
    int argc = 1;
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    size_t size;
    char *rest = NULL;
    int r;

    assert_non_null(file);
    assert_true(strlen(line) < sizeof(text));
    (void)snprintf(text, sizeof(text), "%s", line);
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        assert_true(argc < ARGUMENTS_MAX);
        argv[argc++] = word;
    }
    (void)fflush(stderr);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    r = read(user, argc, argv);
    (void)fflush(stderr);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);

    rewind(file);
    size = fread(complaints, 1, sizeof(complaints) - 1, file);
    complaints[size] = 0;
    (void)fclose(file);
    return r;
}

/* The options of the command below, of the one without a name by default. */
static const struct subscribe_command *command = &updates_command;
static const char *first_ticker;

static int read_subscription(void *user, int argc, char *argv[])
{
    static struct config_endpoints held; /* by the options of the time before */
    struct subscribe_options *options = user;
    int r = subscribe_options_read(options, command, argc, argv);

    config_endpoints_deinit(&held);
    held = options->metrics;
    first_ticker = r == OPTIONS_RUN && options->subscribe.n_tickers > 0
                       ? options->subscribe.tickers[0]
                       : NULL; /* argv is gone when the options come back */
    return r;
}

static int read_options(struct subscribe_options *options, const char *line)
{
    return read_line(line, read_subscription, options);
}

static int read_bench(void *user, int argc, char *argv[])
{
    return bench_options_read(user, argc, argv);
}

static unsigned metrics_port(const struct subscribe_options *options)
{
    assert_int_equal(options->metrics.count, 1);
    return ntohs(((const struct sockaddr_in6 *)&options->metrics.endpoints[0].address)->sin6_port);
}

static int set_up(void **state)
{
    command = &updates_command;
    return unsetenv(OPTIONS_METRICS_VARIABLE);
}

static void defaults_are_the_documented_ones(void **state)
{
    struct subscribe_options options;

    assert_int_equal(read_options(&options, ""), OPTIONS_RUN);
    assert_string_equal(complaints, "");
    assert_string_equal(options.client.connect.target.authority, "localhost:4444");
    assert_int_equal(options.client.window, 65535);
    assert_int_equal(options.client.time_max_ms, 0);
    assert_true(options.client.reconnect);
    assert_int_equal(options.format, PRINT_TEXT);
    assert_false(options.quiet);
    assert_int_equal(options.consumer.delay_max_ms, 0);
    assert_int_equal(options.count, 0);
    assert_int_equal(metrics_port(&options), 2113);
    assert_false(options.metrics_given);
    assert_false(options.client.connect.tls_wanted);
    assert_false(options.client.connect.tls.insecure);
    assert_true(options.client.connect.credentials.client);
    assert_int_equal(options.client.connect.keepalive_ms, 0);
}

static void each_option_about_tls_asks_for_it(void **state)
{
    static const char *const lines[] = {
        "--tls", "--cacert c", "--cert c --key k", "--server-name n", "--insecure",
    };
    struct subscribe_options options;

    for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
        assert_int_equal(read_options(&options, lines[i]), OPTIONS_RUN);
        assert_true(options.client.connect.tls_wanted);
        assert_int_equal(options.client.connect.tls.insecure, strcmp(lines[i], "--insecure") == 0);
        /* Files are for others to read. */
        assert_null(options.client.connect.tls.credentials);
    }
}

static void files_and_names_come_through(void **state)
{
    struct subscribe_options options;

    assert_int_equal(read_options(&options, "--server-name stocks.example 127.0.0.1:7 --cacert=a "
                                            "--cert b --key c --keepalive 10s"),
                     OPTIONS_RUN);
    assert_string_equal(options.client.connect.credentials.ca, "a");
    assert_string_equal(options.client.connect.credentials.certificate, "b");
    assert_string_equal(options.client.connect.credentials.key, "c");
    assert_string_equal(options.client.connect.target.name, "stocks.example");
    assert_string_equal(options.client.connect.target.authority, "stocks.example");
    assert_string_equal(options.client.connect.target.text, "127.0.0.1:7");
    assert_int_equal(options.client.connect.keepalive_ms, 10000);
    assert_int_equal(read_options(&options, "unix:a/b --keepalive 0"), OPTIONS_RUN);
    assert_string_equal(options.client.connect.target.path, "a/b");
    assert_int_equal(options.client.connect.keepalive_ms, 0);
}

static void options_stand_before_and_after_the_address(void **state)
{
    struct subscribe_options options;

    assert_int_equal(read_options(&options, "-q [::1]:5 -n 7 --window 1M --max-time=90s "
                                            "--no-reconnect -o csv --delay 50ms:2s"),
                     OPTIONS_RUN);
    assert_string_equal(options.client.connect.target.authority, "[::1]:5");
    assert_true(options.quiet);
    assert_int_equal(options.count, 7);
    assert_int_equal(options.client.window, 1 << 20);
    assert_int_equal(options.client.time_max_ms, 90000);
    assert_false(options.client.reconnect);
    assert_int_equal(options.format, PRINT_CSV);
    assert_int_equal(options.consumer.delay_min_ms, 50);
    assert_int_equal(options.consumer.delay_max_ms, 2000);
    assert_int_equal(options.consumer.delay_step_ms, 1);
}

static void random_delay_is_whole_seconds(void **state)
{
    struct subscribe_options options;

    assert_int_equal(read_options(&options, "host:1 -r"), OPTIONS_RUN);
    assert_int_equal(options.consumer.delay_min_ms, 1000);
    assert_int_equal(options.consumer.delay_max_ms, 3000);
    assert_int_equal(options.consumer.delay_step_ms, 1000);
}

static void one_delay_is_both(void **state)
{
    struct subscribe_options options;

    assert_int_equal(read_options(&options, "--delay 250ms"), OPTIONS_RUN);
    assert_int_equal(options.consumer.delay_min_ms, 250);
    assert_int_equal(options.consumer.delay_max_ms, 250);
    assert_int_equal(read_options(&options, "--delay 0:1s"), OPTIONS_RUN);
    assert_int_equal(options.consumer.delay_min_ms, 0);
    assert_int_equal(options.consumer.delay_max_ms, 1000);
}

static void metrics_address_has_its_order(void **state)
{
    struct subscribe_options options;

    assert_int_equal(setenv(OPTIONS_METRICS_VARIABLE, "3000", 1), 0);
    assert_int_equal(read_options(&options, ""), OPTIONS_RUN);
    assert_int_equal(metrics_port(&options), 3000);
    assert_true(options.metrics_given);

    /* An option counts more than the environment, which is then not even looked at. */
    assert_int_equal(setenv(OPTIONS_METRICS_VARIABLE, "rubbish", 1), 0);
    assert_int_equal(read_options(&options, "--metrics [::1]:0"), OPTIONS_RUN);
    assert_int_equal(metrics_port(&options), 0);
    assert_true(options.metrics_given);
    assert_int_equal(read_options(&options, "--no-metrics"), OPTIONS_RUN);
    assert_int_equal(options.metrics.count, 0);

    assert_int_equal(read_options(&options, ""), OPTIONS_WRONG);
    assert_non_null(
        strstr(complaints, OPTIONS_METRICS_VARIABLE ": \"rubbish\" is not a port (0 to 65535)\n"));
    assert_int_equal(setenv(OPTIONS_METRICS_VARIABLE, "65536", 1), 0);
    assert_int_equal(read_options(&options, ""), OPTIONS_WRONG);
    assert_non_null(
        strstr(complaints, OPTIONS_METRICS_VARIABLE ": port 65536 is out of range (0 to 65535)\n"));
    assert_int_equal(setenv(OPTIONS_METRICS_VARIABLE, "", 1), 0);
    assert_int_equal(read_options(&options, ""), OPTIONS_RUN);
    assert_int_equal(metrics_port(&options), 2113);
}

static void mistakes_are_named(void **state)
{
    static const struct {
        const char *line, *complaint;
    } cases[] = {
        {"--window 0", "--window: "},
        {"--window 2147483648", "--window: "},
        {"--window x", "--window: \"x\""},
        {"-n -1", "--count: "},
        {"-n 1.5", "--count: "},
        {"-t 5", "--max-time: "},
        {"-t forever", "--max-time: "},
        {"--delay 5", "--delay: "},
        {"--delay 2s:1s", "MIN is more than MAX"},
        {"--delay 1s:", "--delay: "},
        {"--delay :1s", "--delay: "},
        {"--delay 1s:2s:3s", "--delay: "},
        {"--delay -1s:1s", "--delay: "},
        {"-r --delay 1s:2s", "together with -r"},
        {"--delay 1s:2s -r", "together with -r"},
        {"-o xml", "--output: "},
        {"--metrics 2113", "--metrics: "},
        {"--metrics [::]:65536", "--metrics: "},
        {"host:0", "host:0: the port is out of range"},
        {"::1", "wants brackets"},
        {"a b", "only one HOST:PORT"},
        {"--cert c", "--cert: the certificate's private key is missing"},
        {"--key k", "--key: the private key's certificate is missing"},
        {"--cacert=", "--cacert: there is no file name"},
        {"--cert= --key k", "--cert: there is no file name"},
        {"--cert c --key=", "--key: there is no file name"},
        {"--server-name=", "--server-name: there is no host"},
        {"--server-name a:1", "--server-name: "},
        {"--keepalive 9999ms", "--keepalive: less than 10s"},
        {"--keepalive 31d", "--keepalive: "},
        {"--keepalive often", "--keepalive: \"often\""},
        {"unix:", "unix:: there is no path"},
        {"unix://a/b", "on no host"},
        {"--unknown", "--unknown"},
        {"--count", "--count"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct subscribe_options options;

        assert_int_equal(read_options(&options, cases[i].line), OPTIONS_WRONG);
        if (!strstr(complaints, cases[i].complaint))
            fail_msg("%s: \"%s\" is not in: %s", cases[i].line, cases[i].complaint, complaints);
        assert_non_null(strstr(complaints, "--help"));
        /* Where a value came from is in the option's words, not in those of the settings' table. */
        assert_null(strstr(complaints, "client."));
    }
}

static void all_mistakes_come_at_once(void **state)
{
    struct subscribe_options options;

    assert_int_equal(read_options(&options, "-w 0 -n x -o y a:b"), OPTIONS_WRONG);
    assert_non_null(strstr(complaints, "--window"));
    assert_non_null(strstr(complaints, "--count"));
    assert_non_null(strstr(complaints, "--output"));
    assert_non_null(strstr(complaints, "a:b: the port"));
}

/* ---- Commands ---- */

/* One that has all options there are. */
static const char *const all_names[] = {
    "max-time", "interval",  "window",   "no-reconnect", "count",      "output",      "policy",
    "delay",    "max-queue", "snapshot", "min-interval", "quiet",      "heartbeat",   "format",
    "resume",   "state",     "service",  "metrics",      "no-metrics", "health-only", NULL};

static const struct subscribe_command all_command = {
    .name = "all",
    .usage = "all",
    .options = all_names,
    .interval = "2s",
    .interval_min_ms = 50,
    .max_time = "5s",
};

static void the_first_operand_may_be_an_address(void **state)
{
    static const struct {
        const char *line, *target, *first;
        size_t tickers;
    } cases[] = {
        {"", "localhost:4444", NULL, 0},
        {"AAPL", "localhost:4444", "AAPL", 1},
        {"host:1 AAPL MSFT", "host:1", "AAPL", 2},
        {"localhost", "localhost:4444", NULL, 0},
        {"localhost localhost", "localhost:4444", "localhost", 1},
        {"[::1] AAPL", "[::1]:4444", "AAPL", 1},
        {"unix:/a/b A", "unix:/a/b", "A", 1},
        /* Only the first may be: a ticker may look like anything. */
        {"AAPL host:1", "localhost:4444", "AAPL", 2},
        {"-- -x", "localhost:4444", "-x", 1},
    };
    struct subscribe_options options;

    command = &all_command;
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        assert_int_equal(read_options(&options, cases[i].line), OPTIONS_RUN);
        assert_string_equal(options.client.connect.target.text, cases[i].target);
        assert_int_equal(options.subscribe.n_tickers, cases[i].tickers);
        if (cases[i].first)
            assert_string_equal(first_ticker, cases[i].first);
    }
    /* Without a command there are no tickers, and so a host needs no port. */
    command = &updates_command;
    assert_int_equal(read_options(&options, "AAPL"), OPTIONS_RUN);
    assert_string_equal(options.client.connect.target.authority, "AAPL:4444");
}

static void a_subscription_is_what_was_asked_for(void **state)
{
    struct subscribe_options options;

    command = &all_command;
    assert_int_equal(read_options(&options, ""), OPTIONS_RUN);
    assert_int_equal(options.subscribe.heartbeat_ms, 15000);
    assert_int_equal(options.interval_ms, 2000);
    assert_int_equal(options.client.time_max_ms, 5000);
    assert_string_equal(options.service, "");
    assert_int_equal(options.metrics.count, 1);
    assert_int_equal(read_options(&options,
                                  "--policy drop-oldest --max-queue 7 --min-interval 100ms "
                                  "--heartbeat 0 --snapshot -i 50ms -F x --resume 5:0"),
                     OPTIONS_RUN);
    assert_int_equal(options.subscribe.policy, STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_DROP_OLDEST);
    assert_int_equal(options.subscribe.max_queue, 7);
    assert_int_equal(options.subscribe.min_interval_ms, 100);
    assert_int_equal(options.subscribe.heartbeat_ms, 0);
    assert_true(options.subscribe.snapshot);
    assert_int_equal(options.interval_ms, 50);
    assert_non_null(options.subscribe.resume);
    assert_int_equal(options.resume.epoch, 5);
    assert_int_equal(options.resume.sequence, 0);
}

static void mistakes_of_commands_are_named(void **state)
{
    static const struct {
        const char *line, *complaint;
    } cases[] = {
        {"--policy drop", "--policy: the policy is none of block, conflate, drop-oldest and "},
        {"-F x -o text", "--format: cannot be given together with --output"},
        {"--state f --resume 1:2", "--resume: cannot be given together with --state"},
        {"--state=", "--state: there is no file name"},
        {"--resume 0:1", "--resume: a position is EPOCH:SEQUENCE"},
        {"--resume 1", "--resume: a position"},
        {"--resume 1:", "--resume: a position"},
        {"--resume 1:2:3", "--resume: a position"},
        {"--resume +1:2", "--resume: a position"},
        {"--resume 1:-2", "--resume: a position"},
        {"--resume 18446744073709551616:1", "--resume: a position"},
        {"--interval 49ms", "--interval: \"49ms\" is out of range (50ms to 1d)"},
        {"--max-time 0", "--max-time: \"0\" is out of range"},
        {"host:1 --server-name a/b", "--server-name: "},
        {"/nowhere", "/nowhere: "},
    };
    struct subscribe_options options;

    command = &all_command;
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        assert_int_equal(read_options(&options, cases[i].line), OPTIONS_WRONG);
        if (!strstr(complaints, cases[i].complaint))
            fail_msg("%s: \"%s\" is not in: %s", cases[i].line, cases[i].complaint, complaints);
        assert_non_null(strstr(complaints, "Try 'stock-client all --help'.\n"));
    }
}

/* What a command does not name it does not take, neither as a word nor as a letter. */
static void a_command_has_no_options_of_others(void **state)
{
    static const char *const names[] = {"output", NULL};
    static const struct subscribe_command small = {
        .name = "small", .usage = "small", .options = names};
    static const char *const lines[] = {"-r",   "-n 1", "--count 1", "-q", "--metrics [::]:1",
                                        "-t 1s"};
    struct subscribe_options options;

    command = &small;
    for (size_t i = 0; i < ELEMENTSOF(lines); i++)
        assert_int_equal(read_options(&options, lines[i]), OPTIONS_WRONG);
    assert_int_equal(read_options(&options, "-o json -v --tls"), OPTIONS_RUN);
    assert_int_equal(options.format, PRINT_JSON);
    assert_true(options.client.connect.verbose);
    /* The variable is for those that have metrics. */
    assert_int_equal(setenv(OPTIONS_METRICS_VARIABLE, "rubbish", 1), 0);
    assert_int_equal(read_options(&options, ""), OPTIONS_RUN);
    assert_int_equal(options.metrics.count, 0);
}

/* ---- bench ---- */

static void bench_connects_as_the_others_do(void **state)
{
    struct bench_options options;

    assert_int_equal(
        read_line("--server-name n -n 8 -c 4 --keepalive 1m -v host:1 A B", read_bench, &options),
        OPTIONS_RUN);
    assert_true(options.run.connect.tls_wanted);
    assert_true(options.run.connect.verbose);
    assert_int_equal(options.run.connect.keepalive_ms, 60000);
    assert_string_equal(options.run.connect.target.text, "host:1");
    assert_string_equal(options.run.call.scheme, "https");
    assert_string_equal(options.run.call.authority, "n");
    assert_string_equal(options.run.call.request.path, SUBSCRIBE_PATH);
    /* Two tickers of a letter and an enum that is 0, behind the prefix. */
    assert_int_equal(options.run.call.request.size, WIRE_PREFIX_SIZE + 6);
    assert_false(options.run.call.whole);
    bench_options_deinit(&options);

    assert_int_equal(read_line("--method get-updates", read_bench, &options), OPTIONS_RUN);
    assert_string_equal(options.run.call.request.path, client_call_get_updates.path);
    assert_int_equal(options.run.call.request.size, WIRE_PREFIX_SIZE);
    assert_string_equal(options.run.call.scheme, "http");
    bench_options_deinit(&options);
}

static void mistakes_of_bench_are_named(void **state)
{
    static const struct {
        const char *line, *complaint;
    } cases[] = {
        {"--method get-updates AAPL", "AAPL: get-updates has no tickers to choose from"},
        {"--method get-updates --snapshot", "--snapshot: that is for subscribe"},
        {"--method get-updates --heartbeat 1s", "--heartbeat: that is for subscribe"},
        {"--method get-updates --policy block", "--policy: that is for subscribe"},
        {"--method updates", "--method: the method is neither subscribe nor get-updates"},
        {"--stages 1s:1 --rate 5", "--rate: cannot be given together with --stages"},
        {"--stages 1s:1 -n 5", "--calls: cannot be given together with --stages"},
        {"--stages 1s", "--stages: "},
        {"--connections 2", "--connections: there are more of them than calls"},
        {"--slow 101%", "--slow: this is no part of a hundred"},
        {"--window 4095", "--window: \"4095\" is out of range"},
        {"--cert c", "--cert: the certificate's private key is missing"},
        {"--keepalive 9s", "--keepalive: less than 10s"},
        {"host:0", "host:0: the port is out of range"},
        {"-o xml", "--output: the format is none of text, json and csv"},
        {"-r", "'r'"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct bench_options options;

        assert_int_equal(read_line(cases[i].line, read_bench, &options), OPTIONS_WRONG);
        if (!strstr(complaints, cases[i].complaint))
            fail_msg("%s: \"%s\" is not in: %s", cases[i].line, cases[i].complaint, complaints);
        assert_non_null(strstr(complaints, "Try 'stock-client bench --help'.\n"));
        bench_options_deinit(&options);
    }
}

/* ---- The manual page ---- */

/* The manual page's text, without the markup of option names. The caller frees it. */
static char *read_manual(void)
{
    const char *path = CONFIG_DIRECTORY "/../client/stock-client.1";
    FILE *file = fopen(path, "r");
    const size_t capacity = 1 << 16;
    char *text = malloc(capacity);
    size_t size;

    if (!file)
        fail_msg("%s cannot be read", path);
    assert_non_null(text);
    size = fread(text, 1, capacity - 1, file);
    assert_true(size > 0 && size < capacity - 1);
    text[size] = 0;
    (void)fclose(file);
    return text;
}

static void manual_page_has_every_option(void **state)
{
    _cleanup_free_ char *manual = read_manual();
    unsigned found = 0;

    for (const char *option = updates_command.usage; (option = strstr(option, "--")); option += 2) {
        char expected[64];

        (void)snprintf(expected, sizeof(expected), "Fl Fl %.*s",
                       (int)strspn(option + 2, "abcdefghijklmnopqrstuvwxyz-"), option + 2);
        if (!strstr(manual, expected))
            fail_msg("the manual page has no \"%s\"", expected);
        found++;
    }
    assert_true(found >= 12);
    assert_non_null(strstr(manual, OPTIONS_METRICS_VARIABLE));
}

static void manual_page_has_every_outcome(void **state)
{
    _cleanup_free_ char *manual = read_manual();

    for (size_t i = 0; i < CONNECT_OUTCOME_COUNT; i++) {
        char expected[64];

        (void)snprintf(expected, sizeof(expected), "\n.Ql %s", connect_outcome_labels[i]);
        if (!strstr(manual, expected))
            fail_msg("the manual page has no outcome \"%s\"", connect_outcome_labels[i]);
    }
}

static void manual_page_has_every_metric(void **state)
{
    _cleanup_free_ char *manual = read_manual();
    _cleanup_free_ char *metrics = NULL;
    struct stats stats = {0};
    unsigned found = 0;
    size_t size;

    assert_int_equal(client_families_render(&stats, METRICS_TEXT, &metrics, &size), 0);
    for (const char *line = metrics; (line = strstr(line, "# TYPE ")); line++) {
        char name[128];

        assert_int_equal(sscanf(line, "# TYPE %127s", name), 1);
        if (strncmp(name, "process_", strlen("process_")) != 0 && !strstr(manual, name))
            fail_msg("the manual page has no %s", name);
        found++;
    }
    assert_true(found >= 11);
}

/* Every series is there, at zero, before anything has happened. */
static void metrics_are_there_from_the_start(void **state)
{
    static const char started[] =
        "\ngrpc_client_started_total{grpc_type=\"server_stream\","
        "grpc_service=\"stockservice.StockService\",grpc_method=\"GetUpdates\"} 0\n";
    static const char build_info[] =
        "\nstock_client_build_info{version=\"" STOCKD_VERSION "\"} 1\n";
    static const char *const series[] = {
        "\nstock_updates_received_total 0\n",
        "\nstock_client_gaps_total 0\n",
        "\nstock_client_unprocessed_bytes 0\n",
        "\nstock_client_connects_total{outcome=\"established\"} 0\n",
        "\nstock_client_connects_total{outcome=\"tls_failed\"} 0\n",
        "\nstock_client_connects_total{outcome=\"timed_out\"} 0\n",
        started,
        "grpc_method=\"GetUpdates\",grpc_code=\"OK\"} 0\n",
        "grpc_method=\"GetUpdates\",grpc_code=\"Unauthenticated\"} 0\n",
        build_info,
    };
    _cleanup_free_ char *metrics = NULL;
    struct stats stats = {0};
    size_t size;

    assert_int_equal(client_families_render(&stats, METRICS_TEXT, &metrics, &size), 0);
    for (size_t i = 0; i < ELEMENTSOF(series); i++)
        if (!strstr(metrics, series[i]))
            fail_msg("there is no %s", series[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(defaults_are_the_documented_ones, set_up),
        cmocka_unit_test_setup(options_stand_before_and_after_the_address, set_up),
        cmocka_unit_test_setup(each_option_about_tls_asks_for_it, set_up),
        cmocka_unit_test_setup(files_and_names_come_through, set_up),
        cmocka_unit_test_setup(random_delay_is_whole_seconds, set_up),
        cmocka_unit_test_setup(one_delay_is_both, set_up),
        cmocka_unit_test_setup(metrics_address_has_its_order, set_up),
        cmocka_unit_test_setup(mistakes_are_named, set_up),
        cmocka_unit_test_setup(all_mistakes_come_at_once, set_up),
        cmocka_unit_test_setup(the_first_operand_may_be_an_address, set_up),
        cmocka_unit_test_setup(a_subscription_is_what_was_asked_for, set_up),
        cmocka_unit_test_setup(mistakes_of_commands_are_named, set_up),
        cmocka_unit_test_setup(a_command_has_no_options_of_others, set_up),
        cmocka_unit_test(bench_connects_as_the_others_do),
        cmocka_unit_test(mistakes_of_bench_are_named),
        cmocka_unit_test(manual_page_has_every_option),
        cmocka_unit_test(manual_page_has_every_outcome),
        cmocka_unit_test(manual_page_has_every_metric),
        cmocka_unit_test(metrics_are_there_from_the_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
