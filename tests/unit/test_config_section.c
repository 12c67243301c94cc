/* Sections that have names: how they are made, refined, shown and compared, and what is wrong. */
#include "base/config.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct values {
    uint64_t count;
};

static const char *const colours[] = {"red", "green", "blue", NULL};

static const struct config_setting table[] = {
    {"fixed", "number", CONFIG_COUNT, CONFIG_RELOAD, offsetof(struct values, count), "7", 1, 1000,
     "How many."},
};

struct animal {
    double weight;
    uint64_t sleep_ms;
    char *sound;
    int colour;
};

enum {
    WEIGHT,
    SLEEP,
    SOUND,
    COLOUR,
};

static const struct config_setting animal_table[] = {
    [WEIGHT] = {"animal", "weight", CONFIG_NUMBER, CONFIG_RESTART, offsetof(struct animal, weight),
                NULL, 0, 1e5, "How heavy."},
    [SLEEP] = {"animal", "sleep", CONFIG_DURATION, CONFIG_RESTART,
               offsetof(struct animal, sleep_ms), NULL, 1, 1e9, "How long."},
    [SOUND] = {"animal", "sound", CONFIG_STRING, CONFIG_RESTART, offsetof(struct animal, sound),
               NULL, 1, 32, "How loud."},
    [COLOUR] = {"animal", "colour", CONFIG_CHOICE, CONFIG_RESTART, offsetof(struct animal, colour),
                NULL, 0, 0, "How it looks.", colours},
};

static const struct config_kind kind = {
    .section = "animal",
    .table = animal_table,
    .count = ELEMENTSOF(animal_table),
    .size = sizeof(struct animal),
    .sections_max = 4,
    .name_max = 8,
    .change = CONFIG_RESTART,
};

struct fixture {
    char path[64];
    struct values values, other_values;
    struct config config, other;
};

static void begin(struct config *config, struct values *values)
{
    assert_int_equal(config_init(config, table, ELEMENTSOF(table), values), 0);
    config_allow_sections(config, &kind);
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    int fd;

    assert_non_null(fixture);
    strcpy(fixture->path, "/tmp/test-config-section-XXXXXX");
    fd = mkstemp(fixture->path);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    begin(&fixture->config, &fixture->values);
    begin(&fixture->other, &fixture->other_values);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    config_deinit(&fixture->config);
    config_deinit(&fixture->other);
    assert_int_equal(unlink(fixture->path), 0);
    free(fixture);
    return 0;
}

static void load(struct fixture *fixture, struct config *config, const char *text)
{
    FILE *file = fopen(fixture->path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(config_load_file(config, fixture->path, true), 0);
}

/* The faults are these, each behind "FILE:". */
static void expect_faults(const struct fixture *fixture, const char *const *expected)
{
    const struct config_faults *faults = &fixture->config.faults;
    size_t count = 0;

    for (; expected[count]; count++) {
        char text[512];

        (void)snprintf(text, sizeof text, "%s:%s", fixture->path, expected[count]);
        assert_true(count < faults->count);
        assert_string_equal(faults->text[count], text);
    }
    if (count < faults->count)
        fail_msg("%s", faults->text[count]);
}

#define expect(fixture, ...) expect_faults(fixture, (const char *const[]){__VA_ARGS__, NULL})
#define expect_none(fixture) expect_faults(fixture, (const char *const[]){NULL})

static const struct animal *values_of(const struct config *config, const char *name)
{
    const struct config_section *section = config_find_section(config, name);

    assert_non_null(section);
    return section->values;
}

static bool has(const struct config *config, const char *name, unsigned key)
{
    const struct config_section *section = config_find_section(config, name);

    assert_non_null(section);
    return section->origins[key] != NULL;
}

/* ---- Values ---- */

static void test_values(void **state)
{
    struct fixture *fixture = *state;
    const struct config *config = &fixture->config;
    char origin[80];

    load(fixture, &fixture->config,
         "[animal cat]\nweight = 4.5\nsound = meow\n[fixed]\nnumber = 8\n[animal d.o-g] ; comment\n"
         "colour = blue\nsleep = 0.5s\n[animal none]\n[animal cat]\nsleep = 1m\n");
    expect_none(fixture);
    assert_int_equal(fixture->values.count, 8);
    assert_int_equal(config->named.count, 3);
    assert_string_equal(config->named.sections[0].name, "cat");
    assert_string_equal(config->named.sections[1].name, "d.o-g");
    assert_string_equal(config->named.sections[2].name, "none");
    assert_null(config_find_section(config, "dog"));
    assert_null(config_find_section(config, "CAT"));
    assert_true(values_of(config, "cat")->weight == 4.5);
    assert_string_equal(values_of(config, "cat")->sound, "meow");
    assert_int_equal(values_of(config, "cat")->sleep_ms, 60000);
    assert_false(has(config, "cat", COLOUR));
    assert_int_equal(values_of(config, "d.o-g")->colour, 2);
    assert_int_equal(values_of(config, "d.o-g")->sleep_ms, 500);
    assert_null(values_of(config, "d.o-g")->sound);
    for (unsigned key = 0; key < kind.count; key++)
        assert_false(has(config, "none", key));
    (void)snprintf(origin, sizeof origin, "%s:11", fixture->path);
    assert_string_equal(config_find_section(config, "cat")->origins[SLEEP], origin);
    (void)snprintf(origin, sizeof origin, "%s:1", fixture->path);
    assert_string_equal(config_find_section(config, "cat")->origin, origin);
}

/* A later layer replaces what it sets, and leaves the rest. */
static void test_layers(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;

    load(fixture, config, "[animal cat]\nweight = 4.5\nsound = meow\nsound = purr\n");
    load(fixture, config, "[animal cat]\nsound = hiss\n[animal ox]\n");
    assert_int_equal(config_set(config, "animal cat", "weight", "5", "--x"), 0);
    assert_int_equal(config_set(config, "animal hen", "weight", "2", "--x"), 0);
    expect_none(fixture);
    assert_int_equal(config_set(config, "animal a]", "weight", "2", "--x"), 0);
    assert_int_equal(config_set(config, "animal [", "weight", "2", "--x"), 0);
    assert_int_equal(config->faults.count, 2);
    assert_int_equal(config->named.count, 3);
    assert_true(values_of(config, "cat")->weight == 5);
    assert_string_equal(values_of(config, "cat")->sound, "hiss");
    assert_string_equal(config_find_section(config, "hen")->origin, "--x");
    assert_true(values_of(config, "hen")->weight == 2);
}

/* What shows itself in more than one file line by line. */
static void test_faults(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, &fixture->config,
         "[animals cat]\nweight = 1\n[animal]\n[animal ]\n[animal a b]\nx = 1\n[animal a,b]\n"
         "[animal ninechars]\n[animal  cat]\n[animal cat]\nwieght = 1\nnumber = 2\nsleep = 1\n"
         "sleep = 0s\ncolour = pink\nsound =\n[zoo cat]\n[fixed cat]\n[Animal cat]\n");
    expect(fixture, "1: [animals cat]: there is no such section; is [animal NAME] meant?",
           "3: [animal]: there is no such section; is [animal NAME] meant?",
           "4: [animal]: \"\" cannot be a name (1 to 8 characters, of printable ASCII without "
           "spaces, quotes, commas, semicolons and brackets)",
           "5: [animal]: \"a b\" cannot be a name (1 to 8 characters, of printable ASCII without "
           "spaces, quotes, commas, semicolons and brackets)",
           "7: [animal]: \"a,b\" cannot be a name (1 to 8 characters, of printable ASCII without "
           "spaces, quotes, commas, semicolons and brackets)",
           "8: [animal]: \"ninechars\" cannot be a name (1 to 8 characters, of printable ASCII "
           "without spaces, quotes, commas, semicolons and brackets)",
           "9: [animal]: \" cat\" cannot be a name (1 to 8 characters, of printable ASCII without "
           "spaces, quotes, commas, semicolons and brackets)",
           "11: animal cat.wieght: there is no such key; is weight meant?",
           "12: animal cat.number: there is no such key; it belongs in [fixed]",
           "13: animal cat.sleep: \"1\" has no unit (ms, s, m, h or d, such as 100ms)",
           "14: animal cat.sleep: \"0s\" is out of range (1ms to 1000000s)",
           "15: animal cat.colour: \"pink\" is not one of these: red, green or blue",
           "16: animal cat.sound: the value is missing", "17: [zoo cat]: there is no such section",
           "18: [fixed cat]: there is no such section; is [fixed] meant?",
           "19: [Animal cat]: there is no such section; is [animal NAME] meant?");
    assert_int_equal(fixture->config.named.count, 1);
    for (unsigned key = 0; key < kind.count; key++)
        assert_false(has(&fixture->config, "cat", key));
}

static void test_key_of_a_fixed_section(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, &fixture->config, "[fixed]\nweight = 1\n");
    expect(fixture, "2: fixed.weight: there is no such key; it belongs in [animal NAME]");
}

static void test_too_many(void **state)
{
    struct fixture *fixture = *state;

    load(fixture, &fixture->config,
         "[animal a]\n[animal b]\n[animal c]\n[animal d]\n[animal e]\nweight = 1\n[animal a]\n"
         "weight = 2\n");
    expect(fixture, "5: [animal e]: there are more than 4 such sections");
    assert_int_equal(fixture->config.named.count, 4);
    assert_true(values_of(&fixture->config, "a")->weight == 2);
}

/* Where nobody has allowed them there are none. */
static void test_not_allowed(void **state)
{
    struct values values = {0};
    struct config config;

    assert_int_equal(config_init(&config, table, ELEMENTSOF(table), &values), 0);
    assert_int_equal(config_set(&config, "animal cat", "weight", "1", "--x"), 0);
    assert_int_equal(config.faults.count, 1);
    assert_string_equal(config.faults.text[0], "--x: [animal cat]: there is no such section");
    assert_null(config_find_section(&config, "cat"));
    config_deinit(&config);
}

/* ---- Showing ---- */

static char *dump(const struct config *config)
{
    FILE *file = tmpfile();
    char *text;
    size_t size;

    assert_non_null(file);
    assert_int_equal(config_dump(config, fileno(file)), 0);
    size = (size_t)lseek(fileno(file), 0, SEEK_END);
    text = calloc(1, size + 1);
    assert_non_null(text);
    assert_int_equal(pread(fileno(file), text, size, 0), size);
    assert_int_equal(fclose(file), 0);
    return text;
}

static void fail_difference(const struct config_item *item, void *context)
{
    fail_msg("%s = %s, was %s", item->name, item->value, item->value_before);
}

static void test_dump(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;
    _cleanup_free_ char *text = NULL, *empty = NULL;

    empty = dump(config);
    assert_string_equal(empty, "[fixed]\n"
                               "# How many.\n# Default: 7. Range: 1 to 1000. Not set.\nnumber = 7\n"
                               "\n# Sections [animal NAME], at most 4.\n"
                               "# " CONFIG_RESTART_WORDS "\n"
                               "# weight: How heavy. Range: 0 to 100000.\n"
                               "# sleep: How long. Range: 1ms to 1000000s.\n"
                               "# sound: How loud. Range: 1 to 32 bytes.\n"
                               "# colour: How it looks. Range: red, green or blue.\n");
    assert_int_equal(config_set(config, "animal cat", "sound", "meow", "x\ny"), 0);
    assert_int_equal(config_set(config, "animal cat", "colour", "green", "z"), 0);
    assert_int_equal(config_set(config, "animal cat", "weight", "0", "z"), 0);
    assert_int_equal(config_set(config, "animal ox", "sleep", "1500ms", "z"), 0);
    load(fixture, config, "[animal none]\n");
    expect_none(fixture);
    text = dump(config);
    assert_non_null(strstr(text, "\n\n# Named first by x?y\n[animal cat]\n# Set by z\nweight = 0\n"
                                 "# Set by x?y\nsound = meow\n# Set by z\ncolour = green\n\n"
                                 "# Named first by z\n[animal ox]\n# Set by z\nsleep = 1500ms\n"));
    load(fixture, &fixture->other, text);
    assert_int_equal(fixture->other.faults.count, 0);
    assert_int_equal(fixture->other.named.count, 3);
    assert_int_equal(config_each_difference(config, &fixture->other, fail_difference, NULL), 0);
    assert_int_equal(config_each_difference(&fixture->other, config, fail_difference, NULL), 0);
}

struct notes {
    char text[1024];
};

static void note(const struct config_item *item, void *context)
{
    struct notes *notes = context;
    size_t length = strlen(notes->text);

    (void)snprintf(notes->text + length, sizeof notes->text - length, "%s%s%s: %s->%s<%s>\n",
                   item->is_section ? "*" : "", item->change == CONFIG_RESTART ? "!" : "",
                   item->name, item->value_before, item->value, item->origin);
}

static void test_changed(void **state)
{
    struct fixture *fixture = *state;
    struct config *config = &fixture->config;
    struct notes notes = {0};

    assert_int_equal(config_set(config, "animal cat", "sound", "meow", "x"), 0);
    assert_int_equal(config_set(config, "animal cat", "sleep", "90s", "y"), 0);
    assert_int_equal(config_set(config, "fixed", "number", "9", "y"), 0);
    load(fixture, config, "[animal none]\n");
    free(config->named.sections[1].origin);
    config->named.sections[1].origin = strdup("file:1");
    assert_int_equal(config_each_changed(config, note, &notes), 0);
    assert_string_equal(notes.text, "fixed.number: 7->9<y>\n"
                                    "*!animal cat: none->sleep=90s sound=meow<x>\n"
                                    "*!animal none: none->defaults<file:1>\n");
}

static void test_difference(void **state)
{
    struct fixture *fixture = *state;
    struct config *before = &fixture->config, *after = &fixture->other;
    struct notes notes = {0};

    assert_int_equal(config_set(before, "animal same", "sleep", "1s", "x"), 0);
    assert_int_equal(config_set(before, "animal more", "sleep", "1s", "x"), 0);
    assert_int_equal(config_set(before, "animal gone", "sleep", "1s", "x"), 0);
    assert_int_equal(config_set(after, "animal new", "weight", "1", "y"), 0);
    assert_int_equal(config_set(after, "animal more", "sleep", "1s", "y"), 0);
    assert_int_equal(config_set(after, "animal more", "colour", "red", "y"), 0);
    assert_int_equal(config_set(after, "animal same", "sleep", "1000ms", "y"), 0);
    assert_int_equal(config_each_difference(before, after, note, &notes), 0);
    assert_string_equal(notes.text, "*!animal new: none->weight=1<y>\n"
                                    "*!animal more: sleep=1s->sleep=1s colour=red<y>\n"
                                    "*!animal gone: sleep=1s->none<default>\n");
}

/* ---- Values that do not come from layers ---- */

static void test_read_value(void **state)
{
    struct animal animal = {0};
    char why[CONFIG_WHY_MAX] = "";

    assert_true(config_read_value(&animal_table[SLEEP], "1.5s", &animal, why));
    assert_true(config_read_value(&animal_table[WEIGHT], "2.5", &animal, why));
    assert_int_equal(animal.sleep_ms, 1500);
    assert_true(animal.weight == 2.5);
    assert_false(config_read_value(&animal_table[SLEEP], "1.5", &animal, why));
    assert_string_equal(why, "\"1.5\" has no unit (ms, s, m, h or d, such as 100ms)");
    assert_false(config_read_value(&animal_table[WEIGHT], "-1", &animal, why));
    assert_string_equal(why, "\"-1\" is out of range (0 to 100000)");
    assert_int_equal(animal.sleep_ms, 1500);
    assert_true(animal.weight == 2.5);
}

static void test_names(void **state)
{
    assert_true(config_is_name("BRK.A", 5));
    assert_true(config_is_name("]", 1));
    assert_true(config_is_name("~!#", 3));
    assert_false(config_is_name("", 0));
    for (const char *c = " \t\n\"'`,;\x7f\x80"; *c; c++)
        assert_false(config_is_name(c, 1));
    assert_false(config_is_name("", 1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_values),     TEST(test_layers),
        TEST(test_faults),     TEST(test_key_of_a_fixed_section),
        TEST(test_too_many),   TEST(test_not_allowed),
        TEST(test_dump),       TEST(test_changed),
        TEST(test_difference), TEST(test_read_value),
        TEST(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
