/* The tickers that settings, a file and sections name together, and what is wrong with a file. */
#include "tickers.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    char path[64];
    struct settings settings;
    struct config config;
    struct tickers tickers;
};

/* What was told, a line each, with "FILE" for the path; there is one test at a time. */
static char told[32768];
static const char *told_path;

static void tell(const char *setting, const char *text)
{
    size_t length = strlen(told), path_length = strlen(told_path);
    bool is_path = strncmp(text, told_path, path_length) == 0;

    (void)snprintf(told + length, sizeof told - length, "%s: %s%s\n", setting ? setting : "-",
                   is_path ? "FILE" : "", is_path ? text + path_length : text);
}

static void set(struct fixture *fixture, const char *section, const char *key, const char *value)
{
    assert_int_equal(config_set(&fixture->config, section, key, value, "test"), 0);
    if (fixture->config.faults.count > 0)
        fail_msg("%s", fixture->config.faults.text[0]);
}

static void write_file(struct fixture *fixture, const char *bytes, size_t size)
{
    FILE *file = fopen(fixture->path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    set(fixture, "market", "tickers_file", fixture->path);
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    int fd;

    assert_non_null(fixture);
    strcpy(fixture->path, "/tmp/test-tickers-XXXXXX");
    fd = mkstemp(fixture->path);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(settings_init(&fixture->config, &fixture->settings), 0);
    told[0] = '\0';
    told_path = fixture->path;
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    tickers_deinit(&fixture->tickers);
    config_deinit(&fixture->config);
    assert_int_equal(unlink(fixture->path), 0);
    free(fixture);
    return 0;
}

static int collect(struct fixture *fixture)
{
    tickers_deinit(&fixture->tickers);
    told[0] = '\0';
    return tickers_init(&fixture->tickers, &fixture->config, &fixture->settings, tell);
}

/* With a file that has this text. */
static int collect_text(struct fixture *fixture, const char *text)
{
    write_file(fixture, text, strlen(text));
    return collect(fixture);
}

/* The tickers are these, "NAME PRICE INTERVAL VOLATILITY" in a line each. */
static void expect(const struct fixture *fixture, const char *expected)
{
    char text[4096] = "";

    assert_string_equal(told, "");
    for (size_t i = 0; i < fixture->tickers.count; i++) {
        const struct feed_ticker *ticker = &fixture->tickers.tickers[i];
        size_t length = strlen(text);

        (void)snprintf(text + length, sizeof text - length, "%s %g %llu %g\n", ticker->name,
                       ticker->start_price, (unsigned long long)ticker->interval_ms,
                       ticker->volatility);
    }
    assert_string_equal(text, expected);
}

/* ---- Where they come from ---- */

static void test_nothing_named(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(collect(fixture), 0);
    expect(fixture, "AAPL 100 1000 0.001\nAMZN 100 1000 0.001\nGOOG 100 1000 0.001\n"
                    "META 100 1000 0.001\nMSFT 100 1000 0.001\nNVDA 100 1000 0.001\n"
                    "ORCL 100 1000 0.001\nTSLA 100 1000 0.001\n");
    /* Other feeds bring their own. */
    for (int kind = 0; kind < FEED_KIND_COUNT; kind++) {
        fixture->settings.market.feed = kind;
        assert_int_equal(collect(fixture), 0);
        assert_int_equal(fixture->tickers.count, kind == FEED_KIND_WALK ? 8 : 0);
    }
}

static void test_all_places(void **state)
{
    struct fixture *fixture = *state;

    set(fixture, "market", "tickers", "B, A");
    set(fixture, "market", "interval", "2s");
    set(fixture, "market", "start_price", "50");
    set(fixture, "market", "volatility", "0");
    set(fixture, "ticker D", "interval", "3s");
    set(fixture, "ticker C", "volatility", "0.5");
    set(fixture, "ticker A", "start_price", "7");
    assert_int_equal(collect_text(fixture, "ticker,interval,volatility,start_price\n"
                                           "A,4s,0.25,8\nC,5s,0.125,9\nE,,,\n"),
                     0);
    expect(fixture, "B 50 2000 0\nA 7 4000 0.25\nC 9 5000 0.5\nE 50 2000 0\nD 50 3000 0\n");
}

/* A section without settings names a ticker, too, and there are no others then. */
static void test_only_a_section(void **state)
{
    struct fixture *fixture = *state;

    set(fixture, "ticker BRK.A", "interval", "1s");
    assert_int_equal(collect(fixture), 0);
    expect(fixture, "BRK.A 100 1000 0.001\n");
}

static void test_names_of_the_setting(void **state)
{
    struct fixture *fixture = *state;

    set(fixture, "market", "tickers",
        "A, B, A, 12345678901234567890123456789012, 123456789012345678901234567890123, B");
    assert_int_equal(collect(fixture), 1);
    assert_string_equal(told,
                        "market.tickers: \"A\" is given twice\n"
                        "market.tickers: \"123456789012345678901234567890123\" is longer than 32 "
                        "characters\n"
                        "market.tickers: \"B\" is given twice\n");
}

/* ---- The file ---- */

static void test_columns(void **state)
{
    struct fixture *fixture = *state;

    /* In any order, in any case, with others between, quotes, CR LF, empty lines, a mark, short
     * lines, and no end of the last. */
    assert_int_equal(collect_text(fixture, "\xef\xbb\xbfVolatility,name,TICKER ,\"Interval\"\r\n"
                                           "0.5,\"Apple, Inc.\",AAPL,1.5s\r\n\r\n"
                                           ",x,\"MSFT\"\r\n"
                                           " 1 , , ^GSPC , 1d "),
                     0);
    expect(fixture, "AAPL 100 1500 0.5\nMSFT 100 1000 0.001\n^GSPC 100 86400000 1\n");
    assert_int_equal(collect_text(fixture, "ticker\nX\n"), 0);
    expect(fixture, "X 100 1000 0.001\n");
    /* A file without tickers is one. */
    assert_int_equal(collect_text(fixture, "ticker\n"), 0);
    assert_int_equal(fixture->tickers.count, 8);
}

static void test_bad_headers(void **state)
{
    static const char *const cases[][2] = {
        {"", "FILE: the file has no header"},
        {"\n\n", "FILE: the file has no header"},
        {"\n\nAAPL,1\nMSFT,2\n", "FILE:3: the header has no column ticker"},
        {"symbol\nA\n", "FILE:1: the header has no column ticker"},
        {"ticker,Ticker\nA,B\nC D\n", "FILE:1: the header has the column ticker twice"},
        {"ticker,interval,interval\n", "FILE:1: the header has the column interval twice"},
        {"tick\"er\n", NULL},
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        char expected[128];

        assert_int_equal(collect_text(fixture, cases[i][0]), 1);
        (void)snprintf(expected, sizeof expected, "market.tickers_file: %s\n",
                       cases[i][1] ? cases[i][1] : "");
        if (cases[i][1])
            assert_string_equal(told, expected);
        else /* in the words of csv.c */
            assert_int_equal(strncmp(told, "market.tickers_file: FILE:1: ", 29), 0);
        assert_null(strchr(told, '\n')[1] ? told : NULL); /* and that is all */
    }
}

static void test_every_fault_of_a_file(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(
        collect_text(fixture,
                     "ticker,start_price,interval,volatility\n"
                     "A,0,1,2\n"
                     "B,cheap,1s,0\n"
                     ",1,1s,0\n"
                     "A B,1,1s,0\n"
                     "C,1,1s,0\n"
                     "123456789012345678901234567890123,1,1s,0\n"
                     "D,1,1s,0\n"
                     "C,2,2s,0\n"
                     "E,1111111111111111111111111111111111111111111111111111111111111,,\n"),
        1);
    assert_string_equal(
        told,
        "market.tickers_file: FILE:2: A: start_price: \"0\" is out of range (0.01 to 1000000000)\n"
        "market.tickers_file: FILE:2: A: interval: \"1\" has no unit (ms, s, m, h or d, such as "
        "100ms)\n"
        "market.tickers_file: FILE:2: A: volatility: \"2\" is out of range (0 to 1)\n"
        "market.tickers_file: FILE:3: B: start_price: \"cheap\" is not a number (such as 150 or "
        "99.95)\n"
        "market.tickers_file: FILE:4: field 1 cannot be a ticker (1 to 32 characters, of printable "
        "ASCII without spaces, quotes, commas and semicolons)\n"
        "market.tickers_file: FILE:5: field 1 cannot be a ticker (1 to 32 characters, of printable "
        "ASCII without spaces, quotes, commas and semicolons)\n"
        "market.tickers_file: FILE:7: field 1 cannot be a ticker (1 to 32 characters, of printable "
        "ASCII without spaces, quotes, commas and semicolons)\n"
        "market.tickers_file: FILE:9: C is in line 6, too\n"
        "market.tickers_file: FILE:10: E: start_price: more than 60 characters, or a NUL byte\n");
}

static unsigned count_lines(const char *text)
{
    unsigned lines = 0;

    for (; (text = strchr(text, '\n')); text++)
        lines++;
    return lines;
}

/* Of a header and 200 times the same line, with faults in each, the first hundred are told. */
static void collect_faults(struct fixture *fixture, const char *header, const char *line)
{
    char text[4096];

    (void)strcpy(text, header);
    for (unsigned i = 0; i < 200; i++)
        strcat(text, line);
    assert_int_equal(collect_text(fixture, text), 1);
    assert_int_equal(count_lines(told), 100);
}

static void test_many_faults(void **state)
{
    collect_faults(*state, "ticker\n", "; \n");
    assert_non_null(strstr(told, "FILE:100: field 1 cannot"));
    assert_non_null(
        strstr(told, "\nmarket.tickers_file: FILE: there are more faults, which are not shown\n"));
}

/* The last that is shown is the first of two in its line. */
static void test_many_faults_in_pairs(void **state)
{
    collect_faults(*state, "ticker,interval,volatility\nA,soon,0\n", "A,soon,wild\n");
}

static void test_nul_bytes(void **state)
{
    static const char text[] = "ticker,interval\nA\0B,1s\nC,1s\0\n";
    struct fixture *fixture = *state;

    write_file(fixture, text, sizeof text - 1);
    assert_int_equal(collect(fixture), 1);
    assert_true(count_lines(told) == 2);
    assert_non_null(strstr(told, "FILE:2: "));
    assert_non_null(strstr(told, "FILE:3: "));
}

static void test_files_that_cannot_be_read(void **state)
{
    static const char *const cases[][2] = {
        {"/tmp", "/tmp: cannot be read: Not a regular file"},
        {"/dev/zero", "/dev/zero: cannot be read: Not a regular file"},
        {"/tmp/no/such/file", "/tmp/no/such/file: cannot be read: No such file or directory"},
    };
    struct fixture *fixture = *state;
    char expected[128];

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        set(fixture, "market", "tickers_file", cases[i][0]);
        assert_int_equal(collect(fixture), 1);
        (void)snprintf(expected, sizeof expected, "market.tickers_file: %s\n", cases[i][1]);
        assert_string_equal(told, expected);
    }
    /* A FIFO that nobody writes to does not hold up the start. */
    assert_int_equal(unlink(fixture->path), 0);
    assert_int_equal(mkfifo(fixture->path, 0600), 0);
    set(fixture, "market", "tickers_file", fixture->path);
    assert_int_equal(collect(fixture), 1);
    assert_string_equal(told, "market.tickers_file: FILE: cannot be read: Not a regular file\n");
}

static void test_large_file(void **state)
{
    static char text[((size_t)16 << 20) + 1];
    struct fixture *fixture = *state;

    memset(text, '\n', sizeof text);
    memcpy(text, "ticker\nA", 8);
    write_file(fixture, text, sizeof text - 1);
    assert_int_equal(collect(fixture), 0);
    assert_int_equal(fixture->tickers.count, 1);
    write_file(fixture, text, sizeof text);
    assert_int_equal(collect(fixture), 1);
    assert_string_equal(told,
                        "market.tickers_file: FILE: the file is larger than 16777216 bytes\n");
}

/* ---- How many ---- */

/* As many as there may be, and `more`. */
static void write_tickers(struct fixture *fixture, unsigned more)
{
    FILE *file = fopen(fixture->path, "we");

    assert_non_null(file);
    assert_true(fputs("ticker,start_price\n", file) >= 0);
    for (unsigned i = 0; i < SETTINGS_TICKERS_MAX + more; i++)
        assert_true(fprintf(file, "NAME%u,%u\n", i, i + 1) > 0);
    assert_int_equal(fclose(file), 0);
    set(fixture, "market", "tickers_file", fixture->path);
}

static void test_most(void **state)
{
    struct fixture *fixture = *state;

    write_tickers(fixture, 0);
    assert_int_equal(collect(fixture), 0);
    assert_int_equal(fixture->tickers.count, SETTINGS_TICKERS_MAX);
    for (unsigned i = 0; i < SETTINGS_TICKERS_MAX; i++) {
        char name[16];

        (void)snprintf(name, sizeof name, "NAME%u", i);
        assert_string_equal(fixture->tickers.tickers[i].name, name);
        assert_true(fixture->tickers.tickers[i].start_price == i + 1);
    }
    /* One that is there is no more. */
    set(fixture, "market", "tickers", "NAME5");
    set(fixture, "ticker NAME7", "interval", "5s");
    assert_int_equal(collect(fixture), 0);
    assert_int_equal(fixture->tickers.count, SETTINGS_TICKERS_MAX);
    assert_string_equal(fixture->tickers.tickers[0].name, "NAME5");
    assert_int_equal(fixture->tickers.tickers[7].interval_ms, 5000);
}

static void test_too_many(void **state)
{
    struct fixture *fixture = *state;

    write_tickers(fixture, 100);
    assert_int_equal(collect(fixture), 1);
    assert_string_equal(told,
                        "market.tickers_file: there are more than 16384 tickers, all together\n");
    write_tickers(fixture, 0);
    set(fixture, "ticker X", "interval", "5s");
    set(fixture, "ticker Y", "interval", "5s");
    assert_int_equal(collect(fixture), 1);
    assert_string_equal(told, "-: there are more than 16384 tickers, all together\n");
}

/* ---- A file that has changed ---- */

static void test_hash(void **state)
{
    struct fixture *fixture = *state;
    uint64_t one, other;

    assert_int_equal(collect(fixture), 0);
    assert_int_equal(fixture->tickers.file_hash, 0);
    assert_int_equal(collect_text(fixture, "ticker,interval\nA,1s\n"), 0);
    one = fixture->tickers.file_hash;
    assert_int_equal(collect_text(fixture, "ticker,interval\nA,2s\n"), 0);
    other = fixture->tickers.file_hash;
    assert_true(one != 0 && other != 0 && one != other);
    assert_int_equal(collect_text(fixture, "ticker,interval\nA,1s\n"), 0);
    assert_true(fixture->tickers.file_hash == one);
}

/* The file that comes with stockd is one that it takes. */
static void test_sample(void **state)
{
    struct fixture *fixture = *state;

    set(fixture, "market", "tickers_file", CONFIG_DIRECTORY "/samples/tickers.csv");
    assert_int_equal(collect(fixture), 0);
    assert_string_equal(told, "");
    assert_true(fixture->tickers.count > 1);
    for (size_t i = 0; i < fixture->tickers.count; i++)
        assert_true(fixture->tickers.tickers[i].volatility < 0.1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_named),
        TEST(test_all_places),
        TEST(test_only_a_section),
        TEST(test_names_of_the_setting),
        TEST(test_columns),
        TEST(test_bad_headers),
        TEST(test_every_fault_of_a_file),
        TEST(test_many_faults),
        TEST(test_many_faults_in_pairs),
        TEST(test_nul_bytes),
        TEST(test_files_that_cannot_be_read),
        TEST(test_large_file),
        TEST(test_most),
        TEST(test_too_many),
        TEST(test_hash),
        TEST(test_sample),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
