/* Settings without memory: whichever allocation fails, nothing leaks and nothing is half done. */
#include "base/config.h"

#include "base/util.h"
#include "failmalloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct values {
    char *word;
    char *other;
    uint64_t count;
    struct config_endpoints listen;
    char *path;
    struct config_ranges ranges;
    struct config_names names;
};

static const struct config_setting table[] = {
    {"a", "word", CONFIG_STRING, CONFIG_RELOAD, offsetof(struct values, word), "abc", 1, 32, "W."},
    {"a", "other", CONFIG_STRING, CONFIG_RELOAD, offsetof(struct values, other), "def", 1, 32,
     "O."},
    {"b", "count", CONFIG_COUNT, CONFIG_RELOAD, offsetof(struct values, count), "7", 1, 1000, "C."},
    {"b", "listen", CONFIG_ENDPOINTS, CONFIG_RELOAD, offsetof(struct values, listen), ":1", 1, 16,
     "L."},
    {"c", "path", CONFIG_PATH, CONFIG_RELOAD, offsetof(struct values, path), "", 0, 0, "P."},
    {"c", "ranges", CONFIG_RANGES, CONFIG_RELOAD, offsetof(struct values, ranges), "::1", 0, 256,
     "R."},
    {"c", "names", CONFIG_NAMES, CONFIG_RELOAD, offsetof(struct values, names), "x", 0, 256, "N."},
};

static const struct config_setting kind_table[] = {
    {"kind", "word", CONFIG_STRING, CONFIG_RELOAD, 0, NULL, 1, 32, "W."},
    {"kind", "count", CONFIG_COUNT, CONFIG_RELOAD, sizeof(char *), NULL, 1, 1000, "C."},
};

static const struct config_kind kind = {
    .section = "kind",
    .table = kind_table,
    .count = ELEMENTSOF(kind_table),
    .size = sizeof(char *) + sizeof(uint64_t),
    .sections_max = 3,
    .name_max = 3,
    .change = CONFIG_RELOAD,
};

/* All kinds of faults, and values of the types that allocate. */
static const char text[] =
    "[a]\nword = from_file\nwrod = x\ncount = 1\nother = a b\n[x]\n[b]\ncount = many\n"
    "listen = :1\nlisten = :2 tls=yes client_ca=/ca, unix:/a owner=b\nlisten = :1 tls=yes\n"
    "nonsense\n[c]\npath = /p\nranges = ::1, ::2\nranges = unix\nranges = x\nnames = a, b\n"
    "names = c\nnames = d, \"\n[c\n[kind one]\nword = a\ncount = 0\n[kind two]\nwrod = b\n"
    "word = c\nword = d\n[kind long]\n[kinds x]\n";
#define FAULTS 14 /* in it */

static char directory[] = "/tmp/test-config-nomem-XXXXXX";

static const struct {
    const char *name;
    const char *text;
} files[] = {
    {"file", text},
    {"1.conf", text},
    {"2.conf", text},
    {"names", "[c]\nnames = a, b\nnames = c, d, e\n"},
};

static int setup(void **state)
{
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chdir(directory), 0);
    for (size_t i = 0; i < ELEMENTSOF(files); i++) {
        FILE *file = fopen(files[i].name, "we");

        assert_non_null(file);
        assert_true(fputs(files[i].text, file) >= 0);
        assert_int_equal(fclose(file), 0);
    }
    return 0;
}

static int teardown(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(files); i++)
        assert_int_equal(unlink(files[i].name), 0);
    return rmdir(directory);
}

static int load_all(struct config *config, struct values *values)
{
    int r = config_init(config, table, ELEMENTSOF(table), values);

    config_allow_sections(config, &kind);
    if (r == 0)
        r = config_load_file(config, "file", true);
    if (r == 0)
        r = config_load_directories(config, (const char *const[]){".", "none", "./."}, 3);
    if (r == 0)
        r = config_load_file(config, "missing", true);
    if (r == 0)
        r = config_load_directories(config, (const char *const[]){"file"}, 1);
    if (r == 0)
        r = config_set(config, "a", "other", "from_option", "--other");
    if (r == 0)
        r = config_set(config, "z", "other", "x", "--z");
    if (r == 0)
        r = config_fault(config, "a fault of %s own", "my");
    return r;
}

/* Each allocation in turn; at last none fails. */
static void test_every_allocation(void **state)
{
    size_t nth = 1;

    for (;; nth++) {
        struct values values = {0};
        struct config config;
        bool fired;
        int r;

        failmalloc_arm(nth);
        r = load_all(&config, &values);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        if (!fired) {
            assert_int_equal(config.faults.count, 3 * FAULTS + 4);
            assert_false(config.faults.out_of_memory);
            assert_string_equal(values.word, "from_file");
            assert_int_equal(values.count, 7);
            assert_string_equal(values.other, "from_option");
            assert_int_equal(values.listen.count, 3);
            assert_string_equal(values.path, "/p");
            assert_int_equal(values.ranges.count, 3);
            assert_int_equal(values.names.count, 3);
            assert_string_equal(values.names.names[2], "c");
            assert_int_equal(config.named.count, 2);
            assert_string_equal(config.named.sections[1].name, "two");
            assert_string_equal(*(char **)config.named.sections[1].values, "d");
        }
        config_deinit(&config);
        assert_null(values.word);
        assert_null(values.other);
        assert_null(values.listen.endpoints);
        assert_null(values.path);
        assert_null(values.ranges.ranges);
        assert_null(values.names.names);
        if (!fired)
            break;
    }
    /* Each fault takes a text and its place in the list, each value its origin. */
    assert_true(nth > 2 * (3 * FAULTS + 4));
}

/* A value whose origin or copy cannot be kept is the one of before. */
static void test_set_is_all_or_nothing(void **state)
{
    struct values values = {0};
    struct config config;
    bool fired = true;

    assert_int_equal(config_init(&config, table, ELEMENTSOF(table), &values), 0);
    assert_int_equal(config_set(&config, "a", "word", "before", "--before"), 0);
    for (size_t nth = 1; fired; nth++) {
        int r;

        failmalloc_arm(nth);
        r = config_set(&config, "a", "word", "after", "--after");
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_string_equal(values.word, fired ? "before" : "after");
        assert_string_equal(config.origin[0], fired ? "--before" : "--after");
        assert_true(nth < 10);
    }
    config_deinit(&config);
}

/* Nor does a list get a part of what a line adds to it. */
static void test_growing_is_all_or_nothing(void **state)
{
    bool fired = true;
    size_t nth = 1;

    for (; fired; nth++) {
        struct values values = {0};
        struct config config;
        int r;

        assert_int_equal(config_init(&config, table, ELEMENTSOF(table), &values), 0);
        failmalloc_arm(nth);
        r = config_load_file(&config, "names", true);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_int_equal(config.faults.count, 0);
        /* The default, the first line, or all of it. */
        assert_true(values.names.count == 1 || values.names.count == 2 || values.names.count == 5);
        assert_string_equal(values.names.names[0], values.names.count == 1 ? "x" : "a");
        if (!fired)
            assert_string_equal(values.names.names[4], "e");
        config_deinit(&config);
    }
    assert_true(nth > 10);
}

static void note(const struct config_item *item, void *context)
{
    (*(unsigned *)context)++;
}

static void test_showing(void **state)
{
    struct values values = {0};
    struct config config;
    FILE *null = fopen("/dev/null", "we");
    bool fired = true;

    assert_non_null(null);
    assert_int_equal(load_all(&config, &values), 0);
    for (size_t nth = 1; fired; nth++) {
        int r;

        failmalloc_arm(nth);
        r = config_dump(&config, fileno(null));
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_true(fired || nth > 10);
    }
    fired = true;
    for (size_t nth = 1; fired; nth++) {
        unsigned count = 0;
        int r;

        failmalloc_arm(nth);
        r = config_each_changed(&config, note, &count);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        if (!fired)
            assert_int_equal(count, 8); /* all but the one whose line is wrong */
        assert_true(fired || nth > 20);
    }
    assert_int_equal(fclose(null), 0);
    config_deinit(&config);
}

/* All differences are told, or none. */
static void test_differences(void **state)
{
    struct values one = {0}, two = {0};
    struct config before, after;
    bool fired = true;

    assert_int_equal(config_init(&before, table, ELEMENTSOF(table), &one), 0);
    config_allow_sections(&before, &kind);
    assert_int_equal(config_set(&before, "kind old", "word", "e", "--old"), 0);
    assert_int_equal(load_all(&after, &two), 0);
    for (size_t nth = 1; fired; nth++) {
        unsigned count = 0;
        int r;

        failmalloc_arm(nth);
        r = config_each_difference(&before, &after, note, &count);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_int_equal(count, fired ? 0 : 9);
        assert_true(fired || nth > 2 * ELEMENTSOF(table));
    }
    config_deinit(&before);
    config_deinit(&after);
}

/* A caller that goes on after -ENOMEM must not take the settings for good. */
static void test_a_fault_that_is_lost_is_remembered(void **state)
{
    struct values values = {0};
    struct config config;

    assert_int_equal(config_init(&config, table, ELEMENTSOF(table), &values), 0);
    failmalloc_arm(1);
    assert_int_equal(config_set(&config, "b", "count", "0", "--count"), -ENOMEM);
    assert_true(failmalloc_disarm());
    assert_int_equal(config.faults.count, 0);
    assert_true(config.faults.out_of_memory);
    config_deinit(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_set_is_all_or_nothing),
        cmocka_unit_test(test_growing_is_all_or_nothing),
        cmocka_unit_test(test_showing),
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_a_fault_that_is_lost_is_remembered),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
