/* Settings: values, layers, files and their faults, and the way back to text. */
#include "base/config.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <cmocka.h>

struct values {
    uint64_t count;
    uint64_t size;
    uint64_t time_ms;
    double number;
    char *word;
    int level;
    struct config_endpoints listen;
    struct config_endpoints optional;
    struct config_seed seed;
    bool flag;
    int requirement;
    char *path;
    char *perhaps;
    struct config_ranges ranges;
    struct config_names names;
};

#define AT(member) offsetof(struct values, member)

static const struct config_setting table[] = {
    {"first", "count", CONFIG_COUNT, CONFIG_RELOAD, AT(count), "7", 1, 1000, "How many."},
    {"first", "size", CONFIG_SIZE, CONFIG_RELOAD, AT(size), "8K", 0, 17179869184.0, "How large."},
    {"first", "interval", CONFIG_DURATION, CONFIG_RELOAD, AT(time_ms), "100ms", 0, 86400000,
     "How long."},
    {"first", "number", CONFIG_NUMBER, CONFIG_RELOAD, AT(number), "0.1", -5, 1e6, "How much."},
    {"second", "word", CONFIG_STRING, CONFIG_RELOAD, AT(word), "abc", 1, 32, "Which."},
    {"second", "level", CONFIG_LEVEL, CONFIG_RELOAD, AT(level), "info", 0, 0, "How loud."},
    {"second", "listen", CONFIG_ENDPOINTS, CONFIG_RESTART, AT(listen), "[::]:1", 1, 16, "Where."},
    {"second", "optional", CONFIG_ENDPOINTS, CONFIG_RELOAD, AT(optional), "", 0, 2, "Where else."},
    {"second", "seed", CONFIG_SEED, CONFIG_RELOAD, AT(seed), "random", 0, 0, "From what."},
    {"third", "flag", CONFIG_BOOLEAN, CONFIG_RELOAD, AT(flag), "no", 0, 0, "Whether."},
    {"third", "requirement", CONFIG_CLIENT_CERTIFICATE, CONFIG_RELOAD, AT(requirement), "no", 0, 0,
     "If so."},
    {"third", "path", CONFIG_PATH, CONFIG_RELOAD, AT(path), "", 0, 0, "Whither."},
    {"third", "perhaps", CONFIG_STRING, CONFIG_RELOAD, AT(perhaps), "", 0, 4, "Which, if any."},
    {"third", "ranges", CONFIG_RANGES, CONFIG_RELOAD, AT(ranges), "", 0, CONFIG_RANGES_MAX,
     "Whence."},
    {"third", "names", CONFIG_NAMES, CONFIG_RELOAD, AT(names), "", 0, CONFIG_NAMES_MAX, "Who."},
};

struct fixture {
    char directory[64];
    char path[128];
    struct values values;
    struct config config;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);

    assert_non_null(fixture);
    strcpy(fixture->directory, "/tmp/test-config-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    (void)snprintf(fixture->path, sizeof fixture->path, "%s/file", fixture->directory);
    assert_int_equal(config_init(&fixture->config, table, ELEMENTSOF(table), &fixture->values), 0);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    config_deinit(&fixture->config);
    assert_null(fixture->values.word);
    assert_null(fixture->values.listen.endpoints);
    assert_null(fixture->values.path);
    assert_null(fixture->values.ranges.ranges);
    assert_null(fixture->values.names.names);
    assert_int_equal(fixture->values.names.count, 0);
    (void)unlink(fixture->path);
    assert_int_equal(rmdir(fixture->directory), 0);
    free(fixture);
    return 0;
}

static void write_bytes(const char *path, const char *bytes, size_t size)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void clear_faults(struct config *config)
{
    while (config->faults.count > 0)
        free(config->faults.text[--config->faults.count]);
}

static void load_bytes(struct fixture *fixture, const char *bytes, size_t size)
{
    write_bytes(fixture->path, bytes, size);
    clear_faults(&fixture->config);
    assert_int_equal(config_load_file(&fixture->config, fixture->path, true), 0);
}

static void load(struct fixture *fixture, const char *text)
{
    load_bytes(fixture, text, strlen(text));
}

/* The faults are these, in this order; "%" in front of one stands for "FILE:". */
static void expect_faults(const struct fixture *fixture, const char *const *expected)
{
    const struct config_faults *faults = &fixture->config.faults;
    size_t count = 0;

    for (; expected[count]; count++) {
        char text[1024];

        (void)snprintf(text, sizeof text, "%s%s%s", expected[count][0] == '%' ? fixture->path : "",
                       expected[count][0] == '%' ? ":" : "",
                       expected[count] + (expected[count][0] == '%'));
        if (count >= faults->count)
            fail_msg("no fault \"%s\"", text);
        assert_string_equal(faults->text[count], text);
    }
    if (faults->count > count)
        fail_msg("fault \"%s\" is not expected", faults->text[count]);
}
#define expect(fixture, ...) expect_faults((fixture), (const char *const[]){__VA_ARGS__, NULL})
#define expect_none(fixture) expect_faults((fixture), (const char *const[]){NULL})

static void expect_endpoint(const struct config_endpoints *endpoints, unsigned index,
                            const char *expected)
{
    _cleanup_free_ char *text = NULL;

    assert_true(index < endpoints->count);
    text = endpoint_format(&endpoints->endpoints[index]);
    assert_non_null(text);
    assert_string_equal(text, expected);
}

/* --- values ----------------------------------------------------------------------------------- */

static void test_defaults(void **state)
{
    struct fixture *fixture = *state;
    const struct values *values = &fixture->values;

    assert_int_equal(values->count, 7);
    assert_int_equal(values->size, 8192);
    assert_int_equal(values->time_ms, 100);
    assert_true(values->number == 0.1);
    assert_string_equal(values->word, "abc");
    assert_int_equal(values->level, LOG_INFO);
    assert_int_equal(values->listen.count, 1);
    assert_int_equal(values->optional.count, 0);
    assert_false(values->seed.given);
    assert_false(values->flag);
    assert_int_equal(values->requirement, CLIENT_CERTIFICATE_NO);
    assert_null(values->path);
    assert_string_equal(values->perhaps, "");
    assert_int_equal(values->ranges.count, 0);
    assert_int_equal(values->names.count, 0);
    expect_none(fixture);
}

static void test_whole_numbers(void **state)
{
    static const struct {
        const char *key;
        const char *text;
        uint64_t value;
    } cases[] = {
        {"count", "1", 1},
        {"count", "1000", 1000},
        {"count", "0010", 10},
        {"size", "0", 0},
        {"size", "0K", 0},
        {"size", "100", 100},
        {"size", "64K", 65536},
        {"size", "4M", 4194304},
        {"size", "16G", UINT64_C(17179869184)},
        {"interval", "0", 0},
        {"interval", "00", 0},
        {"interval", "0s", 0},
        {"interval", "0.000", 0},
        {"interval", "100ms", 100},
        {"interval", "5s", 5000},
        {"interval", "2m", 120000},
        {"interval", "24h", 86400000},
        {"interval", "1d", 86400000},
        {"interval", "1.5s", 1500},
        {"interval", "0.001s", 1},
        {"interval", "2.0ms", 2},
        {"interval", "2.000000000000000000000000000000ms", 2},
        {"interval", "0.25h", 900000},
        {"interval", "0.0009765625d", 84375},
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        const uint64_t *value = strcmp(cases[i].key, "count") == 0  ? &fixture->values.count
                                : strcmp(cases[i].key, "size") == 0 ? &fixture->values.size
                                                                    : &fixture->values.time_ms;

        assert_int_equal(config_set(&fixture->config, "first", cases[i].key, cases[i].text, "test"),
                         0);
        if (fixture->config.faults.count)
            fail_msg("%s", fixture->config.faults.text[0]);
        if (*value != cases[i].value)
            fail_msg("\"%s\" is %lu", cases[i].text, (unsigned long)*value);
    }
}

static void test_other_values(void **state)
{
    static const struct {
        const char *text;
        double value;
    } numbers[] = {{"0.1", 0.1}, {"-5", -5}, {"1e6", 1e6}, {"1.5E+3", 1500}, {".5", .5}, {"3.", 3}};
    static const char *const levels[] = {"error", "warning", "notice", "info", "debug"};
    static const int numbers_of_levels[] = {LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG};
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;

    for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
        assert_int_equal(config_set(config, "first", "number", numbers[i].text, "test"), 0);
        assert_true(fixture->values.number == numbers[i].value);
    }
    for (size_t i = 0; i < ELEMENTSOF(levels); i++) {
        assert_int_equal(config_set(config, "second", "level", levels[i], "test"), 0);
        assert_int_equal(fixture->values.level, numbers_of_levels[i]);
    }
    assert_int_equal(config_set(config, "second", "word", "ES=F#^!~", "test"), 0);
    assert_string_equal(fixture->values.word, "ES=F#^!~");
    assert_int_equal(config_set(config, "second", "seed", "18446744073709551615", "test"), 0);
    assert_true(fixture->values.seed.given);
    assert_true(fixture->values.seed.value == UINT64_MAX);
    assert_int_equal(config_set(config, "second", "seed", "random", "test"), 0);
    assert_false(fixture->values.seed.given);
    assert_int_equal(config_set(config, "second", "listen", " :2 ,127.0.0.1:3\t", "test"), 0);
    assert_int_equal(fixture->values.listen.count, 2);
    expect_endpoint(&fixture->values.listen, 0, "[::]:2");
    expect_endpoint(&fixture->values.listen, 1, "127.0.0.1:3");
    expect_none(fixture);
}

static void set(struct fixture *fixture, const char *key, const char *text)
{
    assert_int_equal(config_set(&fixture->config, "third", key, text, "test"), 0);
    if (fixture->config.faults.count)
        fail_msg("%s", fixture->config.faults.text[0]);
}

static void test_booleans(void **state)
{
    static const char *const words[][2] = {
        {"no", "yes"}, {"false", "true"}, {"off", "on"}, {"0", "1"}};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < ELEMENTSOF(words); i++) {
        set(fixture, "flag", words[i][1]);
        assert_true(fixture->values.flag);
        set(fixture, "flag", words[i][0]);
        assert_false(fixture->values.flag);
    }
}

static void test_client_certificates(void **state)
{
    struct fixture *fixture = *state;

    for (int i = 0; i < CLIENT_CERTIFICATE_UNSET; i++) {
        set(fixture, "requirement", client_certificate_texts[i]);
        assert_int_equal(fixture->values.requirement, i);
    }
}

static void test_paths(void **state)
{
    struct fixture *fixture = *state;

    set(fixture, "path", "/etc/ssl/\"my\" key;.pem");
    assert_string_equal(fixture->values.path, "/etc/ssl/\"my\" key;.pem");
    set(fixture, "path", "/\xc3\xa9");
    assert_string_equal(fixture->values.path, "/\xc3\xa9");
    set(fixture, "path", "");
    assert_null(fixture->values.path);
}

static void test_lists(void **state)
{
    struct fixture *fixture = *state;
    const struct values *values = &fixture->values;
    char text[RANGE_TEXT_MAX];

    set(fixture, "ranges", "10.0.0.0/8,::1 ,\tunix");
    assert_int_equal(values->ranges.count, 3);
    assert_string_equal(range_format(&values->ranges.ranges[0], text), "10.0.0.0/8");
    assert_string_equal(range_format(&values->ranges.ranges[1], text), "::1");
    assert_string_equal(range_format(&values->ranges.ranges[2], text), "unix");
    set(fixture, "ranges", "::1, ::1"); /* no harm in it */
    assert_int_equal(values->ranges.count, 2);
    set(fixture, "names", "client.example, spiffe://a/b, *.c");
    assert_int_equal(values->names.count, 3);
    assert_string_equal(values->names.names[0], "client.example");
    assert_string_equal(values->names.names[1], "spiffe://a/b");
    assert_string_equal(values->names.names[2], "*.c");
    set(fixture, "names", " ");
    assert_int_equal(values->names.count, 0);

    assert_int_equal(config_set(&fixture->config, "second", "listen",
                                ":0, :0 , unix:/a mode=0600, :5 tls=on", "test"),
                     0);
    expect_none(fixture);
    assert_int_equal(values->listen.count, 4);
    expect_endpoint(&values->listen, 1, "[::]:0");
    expect_endpoint(&values->listen, 2, "unix:/a mode=0600");
    expect_endpoint(&values->listen, 3, "[::]:5 tls=yes");
}

#define NOT_DURATION " is not a duration (a number with ms, s, m, h or d, such as 100ms)"
#define NOT_SIZE " is not a size (a number of bytes, or one with K, M or G, such as 64K)"
#define NO_UNIT " has no unit (ms, s, m, h or d, such as 100ms)"
#define NOT_PATH                                                                                   \
    " has a character that is not allowed (a control character, or a semicolon after a space)"
#define NOT_NAME                                                                                   \
    "it has a character that is not allowed (only printable ASCII, without spaces, quotes, "       \
    "commas and semicolons)"
#define NOT_MS " is not a whole number of milliseconds"
#define NOT_WORD                                                                                   \
    " has a character that is not allowed (only printable ASCII, without spaces, quotes and "      \
    "semicolons)"

static const struct bad {
    const char *section;
    const char *key;
    const char *text;
    const char *why;
} bad[] = {
    {"first", "count", "", "the value is missing"},
    {"first", "count", "0", "\"0\" is out of range (1 to 1000)"},
    {"first", "count", "1001", "\"1001\" is out of range (1 to 1000)"},
    {"first", "count", "-1", "\"-1\" is out of range (1 to 1000)"},
    {"first", "count", "18446744073709551617",
     "\"18446744073709551617\" is out of range (1 to 1000)"},
    {"first", "count", "18446744073709551616",
     "\"18446744073709551616\" is out of range (1 to 1000)"},
    {"first", "count", "5x", "\"5x\" is not a whole number"},
    {"first", "count", "5 ", "\"5 \" is not a whole number"},
    {"first", "count", "+5", "\"+5\" is not a whole number"},
    {"first", "count", "5.0", "\"5.0\" is not a whole number"},
    {"first", "count", "0x5", "\"0x5\" is not a whole number"},
    {"first", "size", "17G", "\"17G\" is out of range (0 to 16G)"},
    {"first", "size", "17179869185", "\"17179869185\" is out of range (0 to 16G)"},
    {"first", "size", "17179869184G", "\"17179869184G\" is out of range (0 to 16G)"},
    {"first", "size", "64 K", "\"64 K\"" NOT_SIZE},
    {"first", "size", "64k", "\"64k\"" NOT_SIZE},
    {"first", "size", "64KB", "\"64KB\"" NOT_SIZE},
    {"first", "size", "1.5K", "\"1.5K\"" NOT_SIZE},
    {"first", "size", "K", "\"K\"" NOT_SIZE},
    {"first", "interval", "fast", "\"fast\"" NOT_DURATION},
    {"first", "interval", "5", "\"5\"" NO_UNIT},
    {"first", "interval", "0.5", "\"0.5\"" NO_UNIT},
    {"first", "interval", "-5s", "\"-5s\" is out of range (0 to 1d)"},
    {"first", "interval", "25h", "\"25h\" is out of range (0 to 1d)"},
    {"first", "interval", "86400001ms", "\"86400001ms\" is out of range (0 to 1d)"},
    {"first", "interval", "18446744073709551615d",
     "\"18446744073709551615d\" is out of range (0 to 1d)"},
    {"first", "interval", "0.5ms", "\"0.5ms\"" NOT_MS},
    {"first", "interval", "0.0001s", "\"0.0001s\"" NOT_MS},
    {"first", "interval", "1.00000000001s", "\"1.00000000001s\"" NOT_MS},
    {"first", "interval", "0.000000000000000001", "\"0.000000000000000001\"" NO_UNIT},
    {"first", "interval", "5sec", "\"5sec\"" NOT_DURATION},
    {"first", "interval", "5S", "\"5S\"" NOT_DURATION},
    {"first", "interval", "5s s", "\"5s s\"" NOT_DURATION},
    {"first", "interval", "1.s", "\"1.s\"" NOT_DURATION},
    {"first", "interval", ".5s", "\".5s\"" NOT_DURATION},
    {"first", "interval", "1s500ms", "\"1s500ms\"" NOT_DURATION},
    {"first", "interval", "-", "\"-\"" NOT_DURATION},
    {"first", "number", "-5.1", "\"-5.1\" is out of range (-5 to 1000000)"},
    {"first", "number", "1e7", "\"1e7\" is out of range (-5 to 1000000)"},
    {"first", "number", "1e999", "\"1e999\" is out of range (-5 to 1000000)"},
    {"first", "number", "inf", "\"inf\" is not a number (such as 150 or 99.95)"},
    {"first", "number", "nan", "\"nan\" is not a number (such as 150 or 99.95)"},
    {"first", "number", "0x1", "\"0x1\" is not a number (such as 150 or 99.95)"},
    {"first", "number", " 1", "\" 1\" is not a number (such as 150 or 99.95)"},
    {"first", "number", "1e", "\"1e\" is not a number (such as 150 or 99.95)"},
    {"first", "number", "1.2.3", "\"1.2.3\" is not a number (such as 150 or 99.95)"},
    {"first", "number", "1,5", "\"1,5\" is not a number (such as 150 or 99.95)"},
    {"second", "word", "", "the value is missing"},
    {"second", "word", "a b", "\"a b\"" NOT_WORD},
    {"second", "word", "\"a\"", "\"\"a\"\"" NOT_WORD},
    {"second", "word", "it's", "\"it's\"" NOT_WORD},
    {"second", "word", "a;b", "\"a;b\"" NOT_WORD},
    {"second", "word", "a\033[2J\n", "\"a?[2J?\"" NOT_WORD},
    {"second", "word", "\xc3\xa9", "\"\xc3\xa9\"" NOT_WORD},
    {"second", "word", "123456789012345678901234567890123",
     "\"123456789012345678901234567890123\" is out of range (1 to 32 bytes)"},
    {"second", "word", "1234567890123456789012345678901234567890123456789012345678901234567890",
     "\"12345678901234567890123456789012345678901234567890123456789012...\" is out of range "
     "(1 to 32 bytes)"},
    {"second", "level", "loud", "\"loud\" is not a level (error, warning, notice, info or debug)"},
    {"second", "level", "7", "\"7\" is not a level (error, warning, notice, info or debug)"},
    {"second", "listen", "", "an address is missing (such as [::]:4444)"},
    {"second", "listen", ",:1", "an address is missing beside a comma"},
    {"second", "listen", ":1,", "an address is missing beside a comma"},
    {"second", "listen", ":1, ,:2", "an address is missing beside a comma"},
    {"second", "listen", "[::]:70000", "\"[::]:70000\": port 70000 is out of range (0 to 65535)"},
    {"second", "listen", "[::]:1, localhost:2",
     "\"localhost:2\": \"localhost\" is not a numeric address"},
    {"second", "listen", "[::]:1 [::]:2",
     "\"[::]:1 [::]:2\": \"[::]:2\" is not NAME=VALUE; between addresses stands a comma"},
    {"second", "optional", ":1, :2, :3", "more than 2 addresses"},
    {"second", "listen", ":1, [::]:1", "\"[::]:1\": is given twice"},
    {"second", "listen", ":1, :2, [::]:1 tls=yes", "\"[::]:1 tls=yes\": is given twice"},
    {"second", "listen", "unix:/a, :0, :0, unix:/a mode=0600",
     "\"unix:/a mode=0600\": is given twice"},
    {"second", "listen", ":1 tls=yes mode=0660",
     "\":1 tls=yes mode=0660\": mode is for Unix sockets only"},
    {"third", "flag", "", "the value is missing"},
    {"third", "flag", "2", "\"2\" is neither yes nor no"},
    {"third", "flag", "YES", "\"YES\" is neither yes nor no"},
    {"third", "flag", "yes ", "\"yes \" is neither yes nor no"},
    {"third", "requirement", "", "the value is missing"},
    {"third", "requirement", "yes", "\"yes\" is none of no, optional and required"},
    {"third", "path", "key.pem", "\"key.pem\" is not an absolute path"},
    {"third", "path", "\"/key.pem\"", "\"\"/key.pem\"\" is not an absolute path"},
    {"third", "path", " /a", "\" /a\" is not an absolute path"},
    {"third", "path", "/a ", "\"/a \" ends with a space"},
    {"third", "path", "/a ;b", "\"/a ;b\"" NOT_PATH},
    {"third", "path", "/a\tb", "\"/a?b\"" NOT_PATH},
    {"third", "perhaps", "abcde", "\"abcde\" is out of range (0 to 4 bytes)"},
    {"third", "ranges", "10.0.0.0/8, localhost",
     "\"localhost\": \"localhost\" is neither a numeric address without a port nor \"unix\""},
    {"third", "ranges", "10.0.0.1/8",
     "\"10.0.0.1/8\": it has bits beyond its prefix; is 10.0.0.0/8 meant?"},
    {"third", "ranges", "::1 ::2", "a comma is missing between two ranges"},
    {"third", "ranges", "::1,", "a range is missing beside a comma"},
    {"third", "names", "a, b\"", "\"b\"\": " NOT_NAME},
    {"third", "names", "a;b", "\"a;b\": " NOT_NAME},
    {"third", "names", "\xc3\xa9", "\"\xc3\xa9\": " NOT_NAME},
    {"third", "names", "a b", "a comma is missing between two names"},
    {"third", "names", ",a", "a name is missing beside a comma"},
    {"second", "seed", "-1", "\"-1\" is neither a whole number below 2^64 nor \"random\""},
    {"second", "seed", "1.0", "\"1.0\" is neither a whole number below 2^64 nor \"random\""},
    {"second", "seed", "1s", "\"1s\" is neither a whole number below 2^64 nor \"random\""},
    {"second", "seed", "Random", "\"Random\" is neither a whole number below 2^64 nor \"random\""},
    {"second", "seed", "18446744073709551616",
     "\"18446744073709551616\" is neither a whole number below 2^64 nor \"random\""},
};

static void test_bad_values(void **state)
{
    struct fixture *fixture = *state;

    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        char text[512];

        clear_faults(&fixture->config);
        assert_int_equal(
            config_set(&fixture->config, bad[i].section, bad[i].key, bad[i].text, "--x"), 0);
        (void)snprintf(text, sizeof text, "--x: %s.%s: %s", bad[i].section, bad[i].key, bad[i].why);
        expect(fixture, text);
    }
    /* None of them changed anything. */
    clear_faults(&fixture->config);
    test_defaults(state);
}

/* What does not fit a line could not be dumped so that it is read back. */
static void test_longest_elements(void **state)
{
    static const struct {
        const char *section;
        const char *key;
        const char *begin;
    } cases[] = {
        {"third", "path", "/"},
        {"third", "names", "a"},
        {"second", "listen", "[::]:1 tls=yes client_ca=/"},
    };
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        char text[CONFIG_LINE_MAX + 2] = {0};
        size_t most = CONFIG_LINE_MAX - strlen(cases[i].key) - strlen(" = ");

        memset(text, 'x', most);
        memcpy(text, cases[i].begin, strlen(cases[i].begin));
        assert_int_equal(config_set(config, cases[i].section, cases[i].key, text, "--x"), 0);
        expect_none(fixture);
        text[most] = 'y';
        assert_int_equal(config_set(config, cases[i].section, cases[i].key, text, "--x"), 0);
        assert_int_equal(config->faults.count, 1);
        assert_non_null(strstr(config->faults.text[0], " is longer than a line may be"));
        clear_faults(config);
    }
    assert_int_equal(strlen(fixture->values.path), CONFIG_LINE_MAX - strlen("path = "));
}

static void test_long_lists(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;
    char text[CONFIG_NAMES_MAX * 2 + 3] = "";

    for (size_t i = 0; i < CONFIG_NAMES_MAX; i++)
        memcpy(text + 2 * i, "a,", 3);
    text[2 * CONFIG_NAMES_MAX - 1] = '\0';
    assert_int_equal(config_set(config, "third", "names", text, "--x"), 0);
    expect_none(fixture);
    assert_int_equal(fixture->values.names.count, CONFIG_NAMES_MAX);
    strcat(text, ",b");
    assert_int_equal(config_set(config, "third", "names", text, "--x"), 0);
    expect(fixture, "--x: third.names: more than 256 names");
    assert_int_equal(fixture->values.names.count, CONFIG_NAMES_MAX);
}

static void test_unknown_names(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;

    assert_int_equal(config_set(config, "frist", "count", "1", "--x"), 0);
    assert_int_equal(config_set(config, "fifth", "count", "1", "--x"), 0);
    assert_int_equal(config_set(config, "other-section-that-is-quite-long-indeed", "a", "1", "--x"),
                     0);
    assert_int_equal(config_set(config, "first", "cuont", "1", "--x"), 0);
    assert_int_equal(config_set(config, "first", "SIZE", "1", "--x"), 0);
    assert_int_equal(config_set(config, "first", "word", "1", "--x"), 0);
    assert_int_equal(config_set(config, "first", "wild", "1", "--x"), 0);
    assert_int_equal(config_set(config, "first", "", "1", "--x"), 0);
    expect(fixture, "--x: [frist]: there is no such section; is [first] meant?",
           "--x: [fifth]: there is no such section",
           "--x: [other-section-that-is-quite-long-indeed]: there is no such section",
           "--x: first.cuont: there is no such key; is count meant?",
           "--x: first.SIZE: there is no such key; is size meant?",
           "--x: first.word: there is no such key; it belongs in [second]",
           "--x: first.wild: there is no such key", "--x: first.: there is no such key");
}

/* --- files ------------------------------------------------------------------------------------ */

static void test_file(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, "# A comment.\n"
                  "; Another, \"with\" = signs [and] brackets\n"
                  "\n"
                  "[first]\n"
                  "count=1\n"
                  "  size  =  64K  \n"
                  "\tinterval = 5s ; five seconds\n"
                  "[second] ; a comment\n"
                  "\n"
                  "word = x=y\n"
                  "seed = 5;\n"
                  "seed = 6");
    expect(fixture, "%11: second.seed: \"5;\" is neither a whole number below 2^64 nor \"random\"");
    assert_int_equal(fixture->values.count, 1);
    assert_int_equal(fixture->values.size, 65536);
    assert_int_equal(fixture->values.time_ms, 5000);
    assert_string_equal(fixture->values.word, "x=y");
    assert_int_equal(fixture->values.seed.value, 6);
}

static void test_every_fault_of_a_file(void **state)
{
    static const char interval[] = "%4: first.interval: \"fast\"" NOT_DURATION;
    struct fixture *fixture = *state;

    load(fixture, "count = 1\n"
                  "count = 2\n"
                  "[first]\n"
                  "interval = fast\n"
                  "cuont = 3\n"
                  "interval 5s\n"
                  "interval: 5s\n"
                  "= 5s\n"
                  "interval ;= 5s\n"
                  "[frist]\n"
                  "nothing here counts\n"
                  "[first\n"
                  "nor here\n"
                  "[second] word = x\n"
                  "[]\n"
                  "[ second ]\n"
                  "[second]\n"
                  "word =\n"
                  "listen [::]:1\n"
                  "level = debug\n");
    expect(
        fixture, "%1: \"count = 1\" stands before the first [section]", interval,
        "%5: first.cuont: there is no such key; is count meant?",
        "%6: \"interval 5s\" is not \"key = value\"", "%7: \"interval: 5s\" is not \"key = value\"",
        "%8: \"= 5s\" is not \"key = value\"", "%9: \"interval ;= 5s\" is not \"key = value\"",
        "%10: [frist]: there is no such section; is [first] meant?", "%12: \"[first\" has no \"]\"",
        "%14: \"word = x\" is not allowed after a section", "%15: []: there is no such section",
        "%16: [ second ]: there is no such section; is [second] meant?",
        "%18: second.word: the value is missing", "%19: \"listen [::]:1\" is not \"key = value\"");
    assert_int_equal(fixture->values.level, LOG_DEBUG); /* what is right is taken */
    assert_int_equal(fixture->values.count, 7);
}

/* What libinih would take as the rest of the value of the line before. */
static void test_indented_lines(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, "[first]\n  count = 5\n\tsize = 1\n \v\f nonsense\n   [second]\n  word = w\n");
    expect(fixture, "%4: \"nonsense\" is not \"key = value\"");
    assert_int_equal(fixture->values.count, 5);
    assert_int_equal(fixture->values.size, 1);
    assert_string_equal(fixture->values.word, "w");
}

static void test_line_ends(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, "\xef\xbb\xbf[first]\r\ncount = 3\r\n\r\nsize = 9\r\n");
    expect_none(fixture);
    assert_int_equal(fixture->values.count, 3);
    assert_int_equal(fixture->values.size, 9);

    load(fixture, "\xef\xbb\xbf  # comment\n[first]\ncount = 4\r");
    expect_none(fixture);
    assert_int_equal(fixture->values.count, 4);

    /* The mark means something at the start of the file alone. */
    load(fixture, "[first]\n\xef\xbb\xbf"
                  "count = 5\n");
    expect(fixture, "%2: first.\xef\xbb\xbf"
                    "count: there is no such key");

    /* A comment must not swallow what somebody's editor shows as lines of their own. */
    load(fixture, "# comment\r[first]\rcount = 6\r");
    expect(fixture, "%1: a carriage return is in the middle of the line");
    assert_int_equal(fixture->values.count, 4);

    load(fixture, "");
    expect_none(fixture);
    load(fixture, "\xef\xbb\xbf");
    expect_none(fixture);
    load(fixture, "\n\n   ");
    expect_none(fixture);
}

static void test_long_lines(void **state)
{
    struct fixture *fixture = *state;
    char text[2048];
    int length = 0;

    /* As long as it may be, with blanks round it that do not count. */
    length = snprintf(text, sizeof text, "[first]\n%300scount =%*s%300s\n", "", CONFIG_LINE_MAX - 7,
                      "12", "");
    load_bytes(fixture, text, (size_t)length);
    expect_none(fixture);
    assert_int_equal(fixture->values.count, 12);

    length =
        snprintf(text, sizeof text, "[first]\ncount =%*s\nsize = 5\n", CONFIG_LINE_MAX - 6, "13");
    load_bytes(fixture, text, (size_t)length);
    expect(fixture, "%2: the line is longer than 199 bytes");
    assert_int_equal(fixture->values.count, 12);
    assert_int_equal(fixture->values.size, 5);

    /* libinih alone would find a key in the second part of this one. */
    length = snprintf(text, sizeof text, "[first]\nsize = %*s\n",
                      199 - 7 + (int)strlen("count = 9"), "count = 9");
    load_bytes(fixture, text, (size_t)length);
    expect(fixture, "%2: the line is longer than 199 bytes");
    assert_int_equal(fixture->values.count, 12);

    length = snprintf(text, sizeof text, "#%1000s\n[first]\ncount = 14\n", "[second]");
    load_bytes(fixture, text, (size_t)length);
    expect_none(fixture);
    assert_int_equal(fixture->values.count, 14);

    length = snprintf(text, sizeof text, "[%0150d]\ncount = 15\n", 0);
    load_bytes(fixture, text, (size_t)length);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_int_equal(fixture->values.count, 14);
}

static void test_nul_bytes(void **state)
{
    static const char text[] = "[first]\ncount = 1\0 0\nsize = 2\n#\0\n";
    struct fixture *fixture = *state;

    load_bytes(fixture, text, sizeof text - 1);
    expect(fixture, "%2: a NUL byte is in the line", "%4: a NUL byte is in the line");
    assert_int_equal(fixture->values.count, 7);
    assert_int_equal(fixture->values.size, 2);
}

static void test_large_file(void **state)
{
    static char text[CONFIG_FILE_SIZE_MAX + 1];
    struct fixture *fixture = *state;
    char fault[256];

    memset(text, '\n', sizeof text);
    load_bytes(fixture, text, sizeof text - 1);
    expect_none(fixture);
    (void)snprintf(fault, sizeof fault, "%s: the file is larger than 16777216 bytes",
                   fixture->path);
    load_bytes(fixture, text, sizeof text);
    expect(fixture, fault);
    memset(text, '#', sizeof text);
    load_bytes(fixture, text, sizeof text);
    expect(fixture, fault);
    clear_faults(&fixture->config);
    assert_int_equal(config_load_file(&fixture->config, "/dev/zero", true), 0);
    expect(fixture, "/dev/zero: the file is larger than 16777216 bytes");
}

static void test_many_faults(void **state)
{
    static char text[8 * 3 * CONFIG_FAULTS_MAX];
    struct fixture *fixture = *state;
    const struct config_faults *faults = &fixture->config.faults;

    strcpy(text, "[first]\n");
    for (size_t i = 0; i < 3 * CONFIG_FAULTS_MAX; i++)
        strcat(text, "x = 1\n");
    load(fixture, text);
    assert_int_equal(faults->count, CONFIG_FAULTS_MAX);
    assert_non_null(strstr(faults->text[CONFIG_FAULTS_MAX - 2], ":100: first.x"));
    assert_string_equal(faults->text[CONFIG_FAULTS_MAX - 1],
                        "there are more faults, which are not shown");
}

static void test_unreadable_files(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;
    char fault[256];

    assert_int_equal(config_load_file(config, fixture->path, false), 0);
    expect_none(fixture);
    assert_int_equal(config_load_file(config, fixture->path, true), 0);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: No such file or directory",
                   fixture->path);
    expect(fixture, fault);

    clear_faults(config);
    assert_int_equal(config_load_file(config, fixture->directory, false), 0);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: Is a directory", fixture->directory);
    expect(fixture, fault);

    clear_faults(config);
    assert_int_equal(symlink(fixture->path, fixture->path), 0); /* root may read anything else */
    assert_int_equal(config_load_file(config, fixture->path, false), 0);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: Too many levels of symbolic links",
                   fixture->path);
    expect(fixture, fault);
}

static void test_duplicates(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, "[first]\ncount = 1\ncount = 2\n[second]\nlisten = :1\nlisten = :2, :3\n"
                  "[first]\ncount = 3\n[second]\nlisten = :4\n");
    expect_none(fixture);
    assert_int_equal(fixture->values.count, 3);
    assert_int_equal(fixture->values.listen.count, 4);
    expect_endpoint(&fixture->values.listen, 3, "[::]:4");

    /* The next layer starts anew, and an empty list is one, too. */
    load(fixture, "[second]\nlisten = :5\noptional = :1\noptional = :2\noptional = :3\n");
    expect(fixture, "%5: second.optional: more than 2 addresses");
    assert_int_equal(fixture->values.listen.count, 1);
    assert_int_equal(fixture->values.optional.count, 2);
    load(fixture, "[second]\noptional =\n");
    expect_none(fixture);
    assert_int_equal(fixture->values.optional.count, 0);
    load(fixture, "[second]\noptional = :1\noptional =\noptional = :2\n");
    expect_none(fixture);
    assert_int_equal(fixture->values.optional.count, 1);
}

/* The other lists grow and are replaced by the same rule. */
static void test_lists_in_layers(void **state)
{
    struct fixture *fixture = *state;
    const struct values *values = &fixture->values;
    char text[RANGE_TEXT_MAX];

    load(fixture, "[third]\nranges = ::1\nnames = a, b\nranges = ::2, ::3\nnames = c\n"
                  "names = d;\npath = /a\npath = /b\nflag = yes\nflag = no\n");
    expect(fixture, "%6: third.names: \"d;\": " NOT_NAME);
    assert_int_equal(values->ranges.count, 3);
    assert_string_equal(range_format(&values->ranges.ranges[2], text), "::3");
    assert_int_equal(values->names.count, 3);
    assert_string_equal(values->names.names[2], "c");
    assert_string_equal(values->path, "/b");
    assert_false(values->flag);

    load(fixture, "[third]\nnames = e\nranges =\n");
    expect_none(fixture);
    assert_int_equal(values->names.count, 1);
    assert_string_equal(values->names.names[0], "e");
    assert_int_equal(values->ranges.count, 0);
}

/* One address is one, on whichever line it is; but each layer is by itself. */
static void test_endpoints_given_twice(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, "[second]\nlisten = :1\nlisten = :2, [::]:1 tls=yes\nlisten = :3\n"
                  "listen = unix:/a, :0\nlisten = :0\nlisten = unix:/a\n");
    expect(fixture, "%3: second.listen: \"[::]:1 tls=yes\": is given twice",
           "%7: second.listen: \"unix:/a\": is given twice");
    assert_int_equal(fixture->values.listen.count, 5);
    expect_endpoint(&fixture->values.listen, 0, "[::]:1");
    expect_endpoint(&fixture->values.listen, 1, "[::]:3");

    load(fixture, "[second]\nlisten = :1 tls=yes\n");
    expect_none(fixture);
    assert_int_equal(fixture->values.listen.count, 1);
    expect_endpoint(&fixture->values.listen, 0, "[::]:1 tls=yes");
}

static int load_directory(struct config *config, const char *directory)
{
    return config_load_directories(config, &directory, 1);
}

static void test_drop_in_that_is_no_file(void **state)
{
    struct fixture *fixture = *state;
    char path[96], fault[192];

    (void)snprintf(path, sizeof path, "%s/pipe.conf", fixture->directory);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: Not a regular file", path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(load_directory(&fixture->config, fixture->directory), 0);
    expect(fixture, fault);
    assert_int_equal(unlink(path), 0);

    clear_faults(&fixture->config);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_int_equal(load_directory(&fixture->config, fixture->directory), 0);
    expect(fixture, fault);
    assert_int_equal(unlink(path), 0);

    clear_faults(&fixture->config);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_int_equal(load_directory(&fixture->config, fixture->directory), 0);
    expect_none(fixture);
    assert_int_equal(unlink(path), 0);
}

static void test_directory(void **state)
{
    static const struct {
        const char *name;
        const char *text;
    } files[] = {
        {"9.conf", "[first]\ncount = 9\n"},
        {"10.conf", "[first]\ncount = 10\nsize = 10\n"},
        {"a.conf", "[first]\nnumber = 1\n"},
        {"B.conf", "[first]\nnumber = 2\ninterval = x\n"},
        {".b.conf", "[first]\ncount = 11\n"},
        {"c.conf~", "nonsense\n"},
        {"conf", "nonsense\n"},
        {"d.conf.dpkg-old", "nonsense\n"},
    };
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;
    char path[256], fault[512];

    (void)snprintf(path, sizeof path, "%s/missing", fixture->directory);
    assert_int_equal(load_directory(config, path), 0);
    expect_none(fixture);

    for (size_t i = 0; i < ELEMENTSOF(files); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", fixture->directory, files[i].name);
        write_bytes(path, files[i].text, strlen(files[i].text));
    }
    (void)snprintf(path, sizeof path, "%s/z.conf", fixture->directory);
    assert_int_equal(symlink("nowhere", path), 0);
    assert_int_equal(load_directory(config, fixture->directory), 0);
    assert_int_equal(config->faults.count, 2);
    (void)snprintf(fault, sizeof fault, "%s/B.conf:3: first.interval: \"x\"%s", fixture->directory,
                   NOT_DURATION);
    assert_string_equal(config->faults.text[0], fault);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: No such file or directory", path);
    assert_string_equal(config->faults.text[1], fault);
    assert_int_equal(fixture->values.count, 9);
    assert_int_equal(fixture->values.size, 10);
    assert_true(fixture->values.number == 1);
    assert_int_equal(unlink(path), 0);

    clear_faults(config);
    (void)snprintf(path, sizeof path, "%s/9.conf", fixture->directory);
    assert_int_equal(load_directory(config, path), 0);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: Not a directory", path);
    expect(fixture, fault);

    for (size_t i = 0; i < ELEMENTSOF(files); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", fixture->directory, files[i].name);
        assert_int_equal(unlink(path), 0);
    }
}

/* Files of one name in several directories: the first of them counts. */
static void test_directories(void **state)
{
    static const char *const names[] = {"b", "missing", "a", "c"};
    static const struct {
        const char *path;
        const char *text; /* NULL: a link to /dev/null */
    } files[] = {
        {"a/10.conf", "[first]\ncount = 1\nsize = 1\n"},
        {"a/20.conf", "[first]\ncount = 2\n[second]\nword = hidden\n"},
        {"a/30.conf", "nonsense\n"},
        {"a/40.conf", "nonsense\n"},
        {"b/05.conf", "[first]\ncount = 3\nsize = 3\nnumber = 3\n"},
        {"b/20.conf", "[first]\ncount = 4\n"},
        {"b/30.conf", ""},
        {"b/40.conf", NULL},
        {"c/20.conf", "nonsense\n"},
        {"c/15.conf", "[first]\ncount = 5\nsize = x\n"},
        {"c/30.conf", "nonsense\n"},
    };
    struct fixture *fixture = *state;
    char paths[ELEMENTSOF(names)][128], path[256], fault[512];
    const char *directories[ELEMENTSOF(names)];

    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        (void)snprintf(paths[i], sizeof paths[i], "%s/%s", fixture->directory, names[i]);
        directories[i] = paths[i];
        if (i != 1)
            assert_int_equal(mkdir(paths[i], 0700), 0);
    }
    for (size_t i = 0; i < ELEMENTSOF(files); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", fixture->directory, files[i].path);
        if (files[i].text)
            write_bytes(path, files[i].text, strlen(files[i].text));
        else
            assert_int_equal(symlink("/dev/null", path), 0);
    }
    assert_int_equal(config_load_directories(&fixture->config, directories, ELEMENTSOF(names)), 0);
    (void)snprintf(
        fault, sizeof fault,
        "%s/c/15.conf:3: first.size: \"x\" is not a size (a number of bytes, or one with "
        "K, M or G, such as 64K)",
        fixture->directory);
    expect(fixture, fault);
    assert_int_equal(fixture->values.count, 4);
    assert_int_equal(fixture->values.size, 1);
    assert_true(fixture->values.number == 3);
    assert_string_equal(fixture->values.word, "abc");
    (void)snprintf(path, sizeof path, "%s/b/20.conf:2", fixture->directory);
    assert_string_equal(fixture->config.origin[0], path);

    /* None of them hides that another cannot be read. */
    clear_faults(&fixture->config);
    (void)snprintf(paths[1], sizeof paths[1], "%s/a/10.conf", fixture->directory);
    assert_int_equal(config_load_directories(&fixture->config, directories, ELEMENTSOF(names)), 0);
    assert_int_equal(fixture->config.faults.count, 2);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: Not a directory", paths[1]);
    assert_string_equal(fixture->config.faults.text[0], fault);

    for (size_t i = 0; i < ELEMENTSOF(files); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", fixture->directory, files[i].path);
        assert_int_equal(unlink(path), 0);
    }
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        if (i != 1)
            assert_int_equal(rmdir(directories[i]), 0);
}

/* --- showing ---------------------------------------------------------------------------------- */

static const char *dump(const struct config *config, char *text, size_t size)
{
    FILE *file = tmpfile();
    size_t length = 0;

    assert_non_null(file);
    assert_int_equal(config_dump(config, fileno(file)), 0);
    rewind(file);
    length = fread(text, 1, size - 1, file);
    text[length] = '\0';
    assert_int_equal(fclose(file), 0);
    return text;
}

static void test_dump_text(void **state)
{
    static const char expected[] =
        "[first]\n"
        "# How many.\n"
        "# Default: 7. Range: 1 to 1000. Set by --x?y\n"
        "count = 8\n"
        "# How large.\n"
        "# Default: 8K. Range: 0 to 16G. Not set.\n"
        "size = 8K\n"
        "# How long.\n"
        "# Default: 100ms. Range: 0 to 1d. Not set.\n"
        "interval = 100ms\n"
        "# How much.\n"
        "# Default: 0.1. Range: -5 to 1000000. Not set.\n"
        "number = 0.1\n"
        "\n"
        "[second]\n"
        "# Which.\n"
        "# Default: abc. Range: 1 to 32 bytes. Not set.\n"
        "word = abc\n"
        "# How loud.\n"
        "# Default: info. Range: error, warning, notice, info or debug. Not set.\n"
        "level = info\n"
        "# Where.\n"
        "# Takes effect when stockd is started again.\n"
        "# Default: [::]:1. Range: 1 to 16 addresses. Not set.\n"
        "listen = [::]:1\n"
        "# Where else.\n"
        "# Default: empty. Range: 0 to 2 addresses. Set by --z\n"
        "optional = [::1]:1\n"
        "optional = 127.0.0.1:2\n"
        "# From what.\n"
        "# Default: random. Range: a whole number below 2^64, or random. Not set.\n"
        "seed = random\n"
        "\n"
        "[third]\n"
        "# Whether.\n"
        "# Default: no. Range: yes or no. Set by --f\n"
        "flag = yes\n"
        "# If so.\n"
        "# Default: no. Range: no, optional or required. Not set.\n"
        "requirement = no\n"
        "# Whither.\n"
        "# Default: empty. Range: an absolute path, or empty. Not set.\n"
        "path =\n"
        "# Which, if any.\n"
        "# Default: empty. Range: 0 to 4 bytes. Set by --p\n"
        "perhaps =\n"
        "# Whence.\n"
        "# Default: empty. Range: 0 to 256 ranges. Set by --r\n"
        "ranges = 10.0.0.0/8\n"
        "ranges = ::1\n"
        "# Who.\n"
        "# Default: empty. Range: 0 to 256 names. Not set.\n"
        "names =\n";
    struct fixture *fixture = *state;
    char text[16384];

    assert_int_equal(config_set(&fixture->config, "first", "count", "8", "--x\ny"), 0);
    assert_int_equal(
        config_set(&fixture->config, "second", "optional", "[::1]:1, 127.0.0.1:2", "--z"), 0);
    assert_int_equal(config_set(&fixture->config, "third", "flag", "on", "--f"), 0);
    assert_int_equal(config_set(&fixture->config, "third", "perhaps", "abcd", "--p"), 0);
    assert_string_equal(fixture->values.perhaps, "abcd");
    assert_int_equal(config_set(&fixture->config, "third", "perhaps", "", "--p"), 0);
    assert_int_equal(config_set(&fixture->config, "third", "ranges", "10.0.0.0/8, ::1", "--r"), 0);
    assert_string_equal(dump(&fixture->config, text, sizeof text), expected);
}

static void compare_endpoints(const struct config_endpoints *a, const struct config_endpoints *b)
{
    assert_int_equal(a->count, b->count);
    for (unsigned i = 0; i < a->count; i++) {
        _cleanup_free_ char *text = endpoint_format(&b->endpoints[i]);

        assert_non_null(text);
        expect_endpoint(a, i, text);
    }
}

static void compare(const struct values *a, const struct values *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->time_ms, b->time_ms);
    assert_memory_equal(&a->number, &b->number, sizeof a->number);
    assert_string_equal(a->word, b->word);
    assert_int_equal(a->level, b->level);
    compare_endpoints(&a->listen, &b->listen);
    compare_endpoints(&a->optional, &b->optional);
    assert_int_equal(a->seed.given, b->seed.given);
    assert_true(a->seed.value == b->seed.value);
    assert_int_equal(a->flag, b->flag);
    assert_int_equal(a->requirement, b->requirement);
    assert_int_equal(!a->path, !b->path);
    if (a->path)
        assert_string_equal(a->path, b->path);
    assert_string_equal(a->perhaps, b->perhaps);
    assert_int_equal(a->ranges.count, b->ranges.count);
    for (unsigned i = 0; i < a->ranges.count; i++)
        assert_memory_equal(&a->ranges.ranges[i], &b->ranges.ranges[i], sizeof(struct range));
    assert_int_equal(a->names.count, b->names.count);
    for (unsigned i = 0; i < a->names.count; i++)
        assert_string_equal(a->names.names[i], b->names.names[i]);
}

static void round_trip(struct fixture *fixture)
{
    struct values values = {0};
    struct config again;
    char text[16384];

    (void)dump(&fixture->config, text, sizeof text);
    write_bytes(fixture->path, text, strlen(text));
    assert_int_equal(config_init(&again, table, ELEMENTSOF(table), &values), 0);
    assert_int_equal(config_load_file(&again, fixture->path, true), 0);
    if (again.faults.count)
        fail_msg("%s", again.faults.text[0]);
    compare(&values, &fixture->values);
    config_deinit(&again);
}

static void test_dump_round_trip(void **state)
{
    static const char *const cases[][3] = {
        {"first", "count", "1000"},
        {"first", "size", "1025"},
        {"first", "size", "0"},
        {"first", "size", "3M"},
        {"first", "interval", "1.5s"},
        {"first", "interval", "90m"},
        {"first", "interval", "1d"},
        {"first", "number", "0.30000000000000004"},
        {"first", "number", "-4.9406564584124654e-324"},
        {"first", "number", "123456.78901234567"},
        {"second", "word", "#=[]:,!"},
        {"second", "word", "~2345678901234567890123456789012"},
        {"second", "level", "debug"},
        {"second", "seed", "0"},
        {"second", "seed", "18446744073709551615"},
        {"second", "optional", "[fe80::1%4294967295]:1, [::ffff:1.2.3.4]:65535"},
        {"second", "optional", ""},
        {"second", "optional", "unix:/a tls=yes mode=0, :1 tls=yes certificate=/a key=/b"},
        {"third", "flag", "true"},
        {"third", "flag", "off"},
        {"third", "requirement", "optional"},
        {"third", "path", "/with space/;\"and\" [such] = #things"},
        {"third", "path", ""},
        {"third", "ranges", "::ffff:1.2.3.4, unix, 0.0.0.0/0, 2001:db8::/33"},
        {"third", "names", "#a, [b], =c, *.example"},
    };
    struct fixture *fixture = *state;
    char many[2048] = "";

    round_trip(fixture);
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        assert_int_equal(
            config_set(&fixture->config, cases[i][0], cases[i][1], cases[i][2], "--x\n[y]"), 0);
        expect_none(fixture);
        round_trip(fixture);
    }
    /* More than one line could hold. */
    for (int i = 0; i < 16; i++)
        (void)snprintf(many + strlen(many), sizeof many - strlen(many), "%s[%04x:%s%d",
                       i > 0 ? ", " : "", 0xf000 + i,
                       "ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:", 65000 + i);
    assert_int_equal(config_set(&fixture->config, "second", "listen", many, "--x"), 0);
    expect_none(fixture);
    assert_int_equal(fixture->values.listen.count, 16);
    round_trip(fixture);
}

static void test_dump_to_full_device(void **state)
{
    struct fixture *fixture = *state;
    FILE *full = fopen("/dev/full", "we");

    assert_non_null(full);
    assert_int_equal(config_dump(&fixture->config, fileno(full)), -ENOSPC);
    assert_int_equal(fclose(full), 0);
}

struct changes {
    char text[2048];
};

static void note_change(const struct config_item *item, void *context)
{
    struct changes *changes = context;
    size_t length = strlen(changes->text);

    (void)snprintf(changes->text + length, sizeof changes->text - length, "%s=%s<%s>\n", item->name,
                   item->value, item->origin);
}

static void test_each_changed(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;
    struct changes changes = {0};
    char expected[1024];

    config_each_changed(config, note_change, &changes);
    assert_string_equal(changes.text, "");
    assert_int_equal(config_set(config, "first", "count", "7", "--x"), 0);
    assert_int_equal(config_set(config, "first", "size", "8192", "--x"), 0);
    assert_int_equal(config_set(config, "second", "optional", "", "--x"), 0);
    assert_int_equal(config_set(config, "second", "seed", "0", "--x"), 0);
    load(fixture, "[first]\ninterval = 2000ms\n[second]\nlisten = :5\nlisten = :6\nword = w\n");
    assert_int_equal(config_set(config, "second", "word", "v", "--y"), 0);
    config_each_changed(config, note_change, &changes);
    (void)snprintf(expected, sizeof expected,
                   "first.interval=2s<%s:2>\nsecond.word=v<--y>\nsecond.listen=[::]:5, "
                   "[::]:6<%s:5>\nsecond.seed=0<--x>\n",
                   fixture->path, fixture->path);
    assert_string_equal(changes.text, expected);
}

static void note_difference(const struct config_item *item, void *context)
{
    struct changes *changes = context;
    size_t length = strlen(changes->text);

    (void)snprintf(changes->text + length, sizeof changes->text - length, "%s=%s->%s<%s>\n",
                   item->name, item->value_before, item->value, item->origin);
}

static void test_each_difference(void **state)
{
    static const char *const before[][3] = {
        {"first", "count", "8"},      {"first", "size", "8192"},      {"first", "number", "5"},
        {"second", "level", "debug"}, {"second", "listen", ":1, :2"}, {"second", "seed", "0"},
        {"third", "path", "/a"},      {"third", "names", "one, two"}, {"third", "flag", "yes"},
    };
    static const char *const after[][3] = {
        {"first", "count", "9"},       {"first", "size", "8K"},        {"first", "interval", "1s"},
        {"second", "level", "debug"},  {"second", "listen", ":2, :1"}, {"second", "seed", "1"},
        {"third", "names", "one,two"}, {"third", "flag", "no"},        {"third", "ranges", "::1"},
    };
    struct fixture *fixture = *state;
    struct values values = {0};
    struct config again;
    struct changes changes = {0};

    assert_int_equal(config_init(&again, table, ELEMENTSOF(table), &values), 0);
    assert_int_equal(config_each_difference(&fixture->config, &again, note_difference, &changes),
                     0);
    assert_string_equal(changes.text, "");
    for (size_t i = 0; i < ELEMENTSOF(before); i++)
        assert_int_equal(
            config_set(&fixture->config, before[i][0], before[i][1], before[i][2], "--b"), 0);
    for (size_t i = 0; i < ELEMENTSOF(after); i++)
        assert_int_equal(config_set(&again, after[i][0], after[i][1], after[i][2], "--a"), 0);
    expect_none(fixture);
    assert_int_equal(again.faults.count, 0);
    assert_int_equal(config_each_difference(&fixture->config, &again, note_difference, &changes),
                     0);
    assert_string_equal(changes.text, "first.count=8->9<--a>\n"
                                      "first.interval=100ms->1s<--a>\n"
                                      "first.number=5->0.1<default>\n"
                                      "second.listen=[::]:1, [::]:2->[::]:2, [::]:1<--a>\n"
                                      "second.seed=0->1<--a>\n"
                                      "third.flag=yes->no<--a>\n"
                                      "third.path=/a-><default>\n"
                                      "third.ranges=->::1<--a>\n");
    config_deinit(&again);
}

static void test_own_faults(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(config_fault(&fixture->config, "%d is too\nmuch", 5), 0);
    expect(fixture, "5 is too?much");
    assert_false(fixture->config.faults.out_of_memory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_defaults),
        TEST(test_whole_numbers),
        TEST(test_other_values),
        TEST(test_booleans),
        TEST(test_client_certificates),
        TEST(test_paths),
        TEST(test_lists),
        TEST(test_bad_values),
        TEST(test_longest_elements),
        TEST(test_long_lists),
        TEST(test_unknown_names),
        TEST(test_file),
        TEST(test_every_fault_of_a_file),
        TEST(test_indented_lines),
        TEST(test_line_ends),
        TEST(test_long_lines),
        TEST(test_nul_bytes),
        TEST(test_large_file),
        TEST(test_many_faults),
        TEST(test_unreadable_files),
        TEST(test_duplicates),
        TEST(test_lists_in_layers),
        TEST(test_endpoints_given_twice),
        TEST(test_drop_in_that_is_no_file),
        TEST(test_directory),
        TEST(test_directories),
        TEST(test_dump_text),
        TEST(test_dump_round_trip),
        TEST(test_dump_to_full_device),
        TEST(test_each_changed),
        TEST(test_each_difference),
        TEST(test_own_faults),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
