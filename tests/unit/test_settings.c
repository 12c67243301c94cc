/* stockd's settings: the table, what is written about it, and where values come from. */
#include "settings.h"

#include "base/credentials.h"
#include "base/util.h"
#include "market/feed.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <cmocka.h>

#define SAMPLE CONFIG_DIRECTORY "/stockd.conf"
#define MANUAL CONFIG_DIRECTORY "/stockd.conf.5"

struct fixture {
    char directory[64];
    char path[128];
    char drop_ins[160];
    char drop_in[256];
    struct settings settings;
    struct config config;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);

    assert_non_null(fixture);
    strcpy(fixture->directory, "/tmp/test-settings-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    (void)snprintf(fixture->path, sizeof fixture->path, "%s/other.conf", fixture->directory);
    (void)snprintf(fixture->drop_ins, sizeof fixture->drop_ins, "%s.d", fixture->path);
    (void)snprintf(fixture->drop_in, sizeof fixture->drop_in, "%s/5.conf", fixture->drop_ins);
    assert_int_equal(settings_init(&fixture->config, &fixture->settings), 0);
    assert_int_equal(unsetenv("GRPC_SERVER_PORT"), 0);
    assert_int_equal(unsetenv("STOCK_SERVICE_METRICS_SERVER_PORT"), 0);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    config_deinit(&fixture->config);
    (void)unlink(fixture->drop_in);
    (void)rmdir(fixture->drop_ins);
    (void)unlink(fixture->path);
    assert_int_equal(rmdir(fixture->directory), 0);
    free(fixture);
    return 0;
}

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t size = 0;

    if (!file)
        fail_msg("%s: %s", path, strerror(errno));
    if (getdelim(&text, &size, '\0', file) <= 0 || !text)
        abort();
    assert_int_equal(fclose(file), 0);
    return text;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void expect_no_faults(const struct fixture *fixture)
{
    if (fixture->config.faults.count > 0)
        fail_msg("%s", fixture->config.faults.text[0]);
}

static void fail_changed(const struct config_item *item, void *context)
{
    fail_msg("%s: %s = %s is not the default", item->origin, item->name, item->value);
}

/* --- the table -------------------------------------------------------------------------------- */

/* What the type allows; for other types than lists anything. */
static double list_maximum(enum config_type type)
{
    return type == CONFIG_ENDPOINTS ? CONFIG_ENDPOINTS_MAX
           : type == CONFIG_RANGES  ? CONFIG_RANGES_MAX
           : type == CONFIG_NAMES   ? CONFIG_NAMES_MAX
                                    : 1e300;
}

static void test_table(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;

    for (size_t i = 0; i < settings_table_count; i++) {
        const struct config_setting *one = &settings_table[i];

        /* Each default is one that a file could give, whatever NDEBUG lets config_init() pass. */
        assert_int_equal(config_set(config, one->section, one->key, one->initial, "table"), 0);
        expect_no_faults(fixture);
        assert_true(one->minimum <= one->maximum);
        assert_true(one->maximum <= list_maximum(one->type));
        assert_true(strlen(one->help) > 10);
        assert_null(strchr(one->help, '\n'));
        for (size_t j = 0; j < i; j++) {
            assert_true(strcmp(one->section, settings_table[j].section) != 0 ||
                        strcmp(one->key, settings_table[j].key) != 0);
            assert_int_not_equal(one->offset, settings_table[j].offset);
        }
        /* Grouped: a section that begins did not occur before. */
        for (size_t j = 0; i > 0 && j < i; j++)
            if (strcmp(one->section, settings_table[i - 1].section) != 0)
                assert_string_not_equal(one->section, settings_table[j].section);
    }
    config_each_changed(config, fail_changed, NULL);
}

static void expect_endpoint(const struct config_endpoints *endpoints, const char *expected)
{
    _cleanup_free_ char *text = NULL;

    assert_int_equal(endpoints->count, 1);
    text = endpoint_format(&endpoints->endpoints[0]);
    assert_non_null(text);
    assert_string_equal(text, expected);
}

static void test_defaults(void **state)
{
    const struct fixture *fixture = *state;
    const struct settings *settings = &fixture->settings;

    expect_endpoint(&settings->grpc.listen, "[::]:4444");
    assert_int_equal(settings->grpc.max_connections, 10000);
    assert_int_equal(settings->grpc.max_streams, 1000);
    assert_int_equal(settings->grpc.max_streams_total, 250000);
    assert_int_equal(settings->grpc.max_header_bytes, 8192);
    assert_int_equal(settings->grpc.max_message_bytes, 4194304);
    assert_int_equal(settings->grpc.preface_timeout_ms, 10000);
    assert_int_equal(settings->grpc.request_timeout_ms, 30000);
    assert_int_equal(settings->grpc.drain_timeout_ms, 0);
    assert_int_equal(settings->grpc.shutdown_timeout_ms, 5000);
    assert_int_equal(settings->grpc.stall_timeout_ms, 600000);
    assert_int_equal(settings->grpc.keepalive_time_ms, 7200000);
    assert_int_equal(settings->grpc.keepalive_timeout_ms, 20000);
    assert_int_equal(settings->grpc.min_ping_interval_ms, 300000);
    assert_int_equal(settings->grpc.min_ping_interval_idle_ms, 7200000);
    assert_int_equal(settings->grpc.max_idle_ms, 0);
    assert_int_equal(settings->grpc.max_age_ms, 0);
    assert_int_equal(settings->grpc.max_age_grace_ms, 0);
    assert_false(settings->grpc.compress_updates);
    assert_null(settings->tls.certificate);
    assert_null(settings->tls.key);
    assert_null(settings->tls.client_ca);
    assert_int_equal(settings->tls.client_certificate, CLIENT_CERTIFICATE_NO);
    assert_string_equal(settings->tls.priorities, CREDENTIALS_PRIORITIES_DEFAULT);
    assert_int_equal(settings->tls.handshake_timeout_ms, 10000);
    assert_int_equal(settings->access.allow.count, 0);
    assert_int_equal(settings->access.allow_names.count, 0);
    assert_int_equal(settings->access.max_connections_per_address, 0);
    expect_endpoint(&settings->metrics.listen, "[::]:2112");
    assert_int_equal(settings->metrics.allow.count, 0);
    assert_string_equal(settings->metrics.user, "");
    assert_null(settings->metrics.password_file);
    assert_int_equal(settings->stream.interval_ms, 100);
    assert_int_equal(settings->stream.initial_delay_ms, 0);
    assert_string_equal(settings->stream.ticker, "AAPL");
    assert_true(settings->stream.start_price == 150.0);
    assert_false(settings->stream.seed.given);
    assert_int_equal(settings->market.feed, FEED_KIND_WALK);
    assert_int_equal(settings->market.tickers.count, 0);
    assert_null(settings->market.tickers_file);
    assert_null(settings->market.pipe);
    assert_null(settings->market.replay_file);
    assert_true(settings->market.replay_speed == 1.0);
    assert_false(settings->market.replay_loop);
    assert_true(settings->market.start_price == 100.0);
    assert_int_equal(settings->market.interval_ms, 1000);
    assert_true(settings->market.volatility == 0.001);
    assert_int_equal(settings->market.stale_after_ms, 60000);
    assert_int_equal(settings->market.history_size, 16 << 20);
    assert_int_equal(settings->market.history_age_ms, 600000);
    assert_int_equal(settings->market.max_queue, 10000);
    assert_int_equal(settings->market.soft_bytes, 256 << 10);
    assert_int_equal(settings->market.soft_age_ms, 5000);
    assert_int_equal(settings->market.soft_time_ms, 10000);
    assert_int_equal(settings->market.hard_bytes, 4 << 20);
    assert_int_equal(settings->market.hard_age_ms, 60000);
    assert_int_equal(settings->market.min_heartbeat_ms, 1000);
    assert_int_equal(settings->market.max_subscriptions_size, 256 << 20);
    assert_int_equal(settings->log.level, LOG_INFO);
}

/* Each kind of feed can be chosen by its name, and is the one that has it. */
static void test_feeds(void **state)
{
    static const struct {
        const char *name;
        int kind;
    } feeds[] = {
#define X(identifier, label) {label, FEED_KIND_##identifier},
        FEED_KINDS(X)
#undef X
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < ELEMENTSOF(feeds); i++) {
        assert_int_equal(config_set(&fixture->config, "market", "feed", feeds[i].name, "x"), 0);
        assert_int_equal(fixture->settings.market.feed, feeds[i].kind);
    }
    expect_no_faults(fixture);
    assert_int_equal(config_set(&fixture->config, "market", "feed", "Walk", "x"), 0);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_string_equal(fixture->config.faults.text[0],
                        "x: market.feed: \"Walk\" is not one of these: none, walk, replay, pipe or "
                        "stdin");
}

/* All sections [ticker NAME] that there may be can be written, and read back to the same. */
static void test_as_many_tickers_as_there_may_be(void **state)
{
    struct fixture *fixture = *state;
    struct settings settings = {0};
    struct config again;
    char text[32];
    FILE *file;

    for (unsigned i = 0; i < SETTINGS_TICKERS_MAX; i++) {
        (void)snprintf(text, sizeof text, "ticker %u", i);
        assert_int_equal(config_set(&fixture->config, text, "volatility", "0.5", "x"), 0);
    }
    expect_no_faults(fixture);
    file = fopen(fixture->path, "we");
    assert_non_null(file);
    assert_int_equal(config_dump(&fixture->config, fileno(file)), 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(settings_init(&again, &settings), 0);
    assert_int_equal(config_load_file(&again, fixture->path, true), 0);
    assert_int_equal(again.faults.count, 0);
    assert_int_equal(again.named.count, SETTINGS_TICKERS_MAX);
    assert_int_equal(config_each_difference(&fixture->config, &again, fail_changed, NULL), 0);
    config_deinit(&again);
    assert_int_equal(config_set(&fixture->config, "ticker X", "volatility", "0.5", "x"), 0);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_string_equal(fixture->config.faults.text[0],
                        "x: [ticker X]: there are more than 16384 such sections");
}

/* --- what is written about it ----------------------------------------------------------------- */

static void test_sample_changes_nothing(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(config_load_file(&fixture->config, SAMPLE, true), 0);
    expect_no_faults(fixture);
    for (size_t i = 0; i < settings_table_count; i++)
        assert_null(fixture->config.origin[i]);
}

/* Is it a setting that is commented out ("#key = value" or "#key ="), and no sentence? */
static bool is_commented_setting(const char *line)
{
    size_t length = line[0] == '#' ? strspn(line + 1, "abcdefghijklmnopqrstuvwxyz_") : 0;

    return length > 0 && strncmp(line + 1 + length, " =", 2) == 0;
}

/* With every key uncommented each setting is set once, to its default. */
static void test_sample_shows_the_defaults(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_free_ char *text = read_file(SAMPLE);
    size_t count = 0;

    for (char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (is_commented_setting(line)) {
            *line = ' ';
            count++;
        }
    }
    assert_int_equal(count, settings_table_count);
    write_file(fixture->path, text);
    assert_int_equal(config_load_file(&fixture->config, fixture->path, true), 0);
    expect_no_faults(fixture);
    for (size_t i = 0; i < settings_table_count; i++)
        if (!fixture->config.origin[i])
            fail_msg("%s does not have %s.%s", SAMPLE, settings_table[i].section,
                     settings_table[i].key);
    config_each_changed(&fixture->config, fail_changed, NULL);
}

/* The text from `begin` up to the first of `ends`, or NULL if `begin` is not there. */
static char *cut(const char *text, const char *begin, const char *const *ends)
{
    const char *start = strstr(text, begin);
    const char *end = NULL;

    if (!start)
        return NULL;
    start += strlen(begin);
    end = start + strlen(start);
    for (; *ends; ends++) {
        const char *one = strstr(start, *ends);

        end = one && one < end ? one : end;
    }
    return strndup(start, (size_t)(end - start));
}

static const char *type_name(enum config_type type)
{
    static const char *const names[] = {
        [CONFIG_COUNT] = "count",       [CONFIG_SIZE] = "size",
        [CONFIG_DURATION] = "duration", [CONFIG_NUMBER] = "number",
        [CONFIG_STRING] = "string",     [CONFIG_LEVEL] = "level",
        [CONFIG_SEED] = "seed",         [CONFIG_ENDPOINTS] = "endpoints",
        [CONFIG_BOOLEAN] = "boolean",   [CONFIG_CLIENT_CERTIFICATE] = "requirement",
        [CONFIG_PATH] = "path",         [CONFIG_RANGES] = "ranges",
        [CONFIG_NAMES] = "names",       [CONFIG_CHOICE] = "feed",
    };

    return names[type];
}

/* Does the section of the manual page that begins so document the setting? */
static void check_manual(const char *manual, const char *heading, const struct config_setting *one)
{
    _cleanup_free_ char *section = NULL;
    _cleanup_free_ char *item = NULL;
    char begin[128], expected[256], range[CONFIG_RANGE_TEXT_MAX];

    (void)snprintf(begin, sizeof begin, "\n.Ss %s\n", heading);
    section = cut(manual, begin, (const char *const[]){"\n.Ss ", "\n.Sh ", NULL});
    if (!section) {
        fail_msg("%s has no section %s", MANUAL, one->section);
        return;
    }
    (void)snprintf(begin, sizeof begin, "\n.It Ic %s No = Ar %s\n", one->key, type_name(one->type));
    item = cut(section, begin, (const char *const[]){"\n.It ", "\n.El", NULL});
    if (!item) {
        fail_msg("%s does not document %s.%s", MANUAL, one->section, one->key);
        return;
    }
    (void)snprintf(expected, sizeof expected, "\n.br\nDefault: %s.\nRange: %s.",
                   config_default(one), config_range(one, range));
    if (!strstr(item, expected))
        fail_msg("%s.%s: %s does not say:%s", one->section, one->key, MANUAL, expected);
    assert_true(strstr(item, expected) - item > 10); /* and what it means, before that */
    if (!strstr(item, "\n" CONFIG_RESTART_WORDS) != (one->change != CONFIG_RESTART))
        fail_msg("%s.%s: %s does not say, or wrongly says: %s", one->section, one->key, MANUAL,
                 CONFIG_RESTART_WORDS);
}

static void test_manual_documents_each_key(void **state)
{
    _cleanup_free_ char *manual = read_file(MANUAL);
    char heading[64];

    for (size_t i = 0; i < settings_table_count; i++) {
        (void)snprintf(heading, sizeof heading, "Section %s", settings_table[i].section);
        check_manual(manual, heading, &settings_table[i]);
    }
    for (size_t i = 0; i < SETTINGS_TICKER_KEY_COUNT; i++)
        check_manual(manual, "Sections ticker", &settings_ticker_table[i]);
}

/* ... and nothing else, such as a key that has gone. */
static void test_manual_documents_no_other_key(void **state)
{
    _cleanup_free_ char *manual = read_file(MANUAL);
    size_t items = 0;

    for (const char *c = manual; (c = strstr(c, "\n.It Ic ")); c++)
        items++;
    assert_int_equal(items, settings_table_count + SETTINGS_TICKER_KEY_COUNT);
}

static void test_manual_documents_the_environment_and_files(void **state)
{
    _cleanup_free_ char *manual = read_file(MANUAL);
    static const char *const expected[] = {
        "\n.It Ev GRPC_SERVER_PORT\n",
        "\n.It Ev STOCK_SERVICE_METRICS_SERVER_PORT\n",
        "\n.It Pa /etc/" SETTINGS_FILE "\n",
        "\n.It Pa /etc/" SETTINGS_FILE ".d/*.conf\n",
        "\n.It Pa /etc/stockd/stockd@ Ns Ar NAME Ns Pa .conf.d/*.conf\n",
    };
    char limits[64];

    for (size_t i = 0; i < ELEMENTSOF(expected); i++)
        if (!strstr(manual, expected[i]))
            fail_msg("%s lacks %s", MANUAL, expected[i]);
    (void)snprintf(limits, sizeof limits, "\nA line may have %d bytes,", CONFIG_LINE_MAX);
    assert_non_null(strstr(manual, limits));
    (void)snprintf(limits, sizeof limits, "in one go, at most %d,", CONFIG_FAULTS_MAX);
    assert_non_null(strstr(manual, limits));
    assert_non_null(strstr(manual, "\nfile 16 MiB.\n"));
    assert_int_equal(CONFIG_FILE_SIZE_MAX, 16 << 20);
}

/* The search path, in its order. */
static void test_manual_documents_the_folders(void **state)
{
    static const char *const folders[] = {SETTINGS_FOLDERS};
    _cleanup_free_ char *manual = read_file(MANUAL);
    const char *at = strstr(manual, "\n.Ss Where the files are\n");
    const char *end = at ? strstr(at, "\n.El\n") : NULL;
    char expected[64];

    assert_non_null(end);
    for (size_t i = 0; at && i < ELEMENTSOF(folders); i++) {
        (void)snprintf(expected, sizeof expected, "\n.It Pa %s/stockd\n", folders[i]);
        at = strstr(at, expected);
        if (!at || at > end)
            fail_msg("%s lacks, or has in another place: %s", MANUAL, expected);
    }
    at = at ? strstr(at + 1, "\n.It ") : NULL;
    assert_true(!at || at > end);
}

/* --- layers ----------------------------------------------------------------------------------- */

static void test_layers(void **state)
{
    struct fixture *fixture = *state;
    const struct settings *settings = &fixture->settings;

    write_file(fixture->path,
               "[grpc]\nlisten = :1\nlisten = :2\nmax_streams = 5\n[metrics]\nlisten = :3\n"
               "[stream]\nticker = FILE\ninterval = 1s\n");
    assert_int_equal(mkdir(fixture->drop_ins, 0700), 0);
    write_file(fixture->drop_in, "[grpc]\nlisten = 127.0.0.1:4\n[stream]\nticker = DROPIN\n");
    assert_int_equal(setenv("STOCK_SERVICE_METRICS_SERVER_PORT", "0", 1), 0);
    assert_int_equal(settings_load(&fixture->config, fixture->path, NULL, false), 0);
    expect_no_faults(fixture);
    expect_endpoint(&settings->grpc.listen, "127.0.0.1:4");
    expect_endpoint(&settings->metrics.listen, "[::]:0");
    assert_int_equal(settings->grpc.max_streams, 5);
    assert_int_equal(settings->stream.interval_ms, 1000);
    assert_string_equal(settings->stream.ticker, "DROPIN");

    assert_int_equal(setenv("GRPC_SERVER_PORT", "65535", 1), 0);
    assert_int_equal(settings_load(&fixture->config, fixture->path, NULL, false), 0);
    expect_no_faults(fixture);
    expect_endpoint(&settings->grpc.listen, "[::]:65535");

    assert_int_equal(config_set(&fixture->config, "grpc", "listen", ":7", "--listen"), 0);
    expect_endpoint(&settings->grpc.listen, "[::]:7");
}

static void test_empty_variables(void **state)
{
    struct fixture *fixture = *state;

    write_file(fixture->path, "[metrics]\nlisten =\n");
    assert_int_equal(setenv("GRPC_SERVER_PORT", "", 1), 0);
    assert_int_equal(setenv("STOCK_SERVICE_METRICS_SERVER_PORT", "", 1), 0);
    assert_int_equal(settings_load(&fixture->config, fixture->path, NULL, false), 0);
    expect_no_faults(fixture);
    expect_endpoint(&fixture->settings.grpc.listen, "[::]:4444");
    assert_int_equal(fixture->settings.metrics.listen.count, 0);
}

static void test_bad_variables(void **state)
{
    static const struct {
        const char *port;
        const char *why;
    } cases[] = {
        {"70000", "port 70000 is out of range (0 to 65535)"},
        {"65536", "port 65536 is out of range (0 to 65535)"},
        {"-1", "\"-1\" is not a port (0 to 65535)"},
        {"4444 ", "\"4444 \" is not a port (0 to 65535)"},
        {"1,[::]:2", "\"1,[::]:2\" is not a port (0 to 65535)"},
        {"]:80", "\"]:80\" is not a port (0 to 65535)"},
        {"http\n", "\"http?\" is not a port (0 to 65535)"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        void *inner = NULL;
        struct fixture *fixture = NULL;
        char expected[256];

        (void)setup(&inner);
        fixture = inner;
        write_file(fixture->path, "[stream]\ninterval = fast\n");
        assert_int_equal(setenv("GRPC_SERVER_PORT", cases[i].port, 1), 0);
        assert_int_equal(setenv("STOCK_SERVICE_METRICS_SERVER_PORT", cases[i].port, 1), 0);
        assert_int_equal(settings_load(&fixture->config, fixture->path, NULL, false), 0);
        assert_int_equal(fixture->config.faults.count, 3);
        (void)snprintf(expected, sizeof expected,
                       "%s:2: stream.interval: \"fast\" is not a duration (a number with ms, s, m, "
                       "h or d, such as 100ms)",
                       fixture->path);
        assert_string_equal(fixture->config.faults.text[0], expected);
        (void)snprintf(expected, sizeof expected,
                       "environment variable GRPC_SERVER_PORT: grpc.listen: %s", cases[i].why);
        assert_string_equal(fixture->config.faults.text[1], expected);
        (void)snprintf(expected, sizeof expected,
                       "environment variable STOCK_SERVICE_METRICS_SERVER_PORT: metrics.listen: %s",
                       cases[i].why);
        assert_string_equal(fixture->config.faults.text[2], expected);
        expect_endpoint(&fixture->settings.grpc.listen, "[::]:4444");
        (void)teardown(&inner);
    }
}

static void test_missing_file(void **state)
{
    struct fixture *fixture = *state;
    char expected[256];

    assert_int_equal(settings_load(&fixture->config, fixture->path, NULL, false), 0);
    (void)snprintf(expected, sizeof expected, "%s: cannot be read: No such file or directory",
                   fixture->path);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_string_equal(fixture->config.faults.text[0], expected);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_table),
        TEST(test_defaults),
        TEST(test_feeds),
        TEST(test_as_many_tickers_as_there_may_be),
        TEST(test_sample_changes_nothing),
        TEST(test_sample_shows_the_defaults),
        cmocka_unit_test(test_manual_documents_each_key),
        cmocka_unit_test(test_manual_documents_no_other_key),
        cmocka_unit_test(test_manual_documents_the_environment_and_files),
        cmocka_unit_test(test_manual_documents_the_folders),
        TEST(test_layers),
        TEST(test_empty_variables),
        cmocka_unit_test(test_bad_variables),
        TEST(test_missing_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
