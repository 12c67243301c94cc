/*
 * The file with a position: what is kept comes back, nothing else is taken for one, and two
 * programs cannot have it at once.
 */
#include "client/state.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* After the four headers that it needs. */
#include <cmocka.h>

struct place {
    char folder[64];
    char path[128];
};

static int set_up(void **state)
{
    struct place *place = calloc(1, sizeof(*place));

    (void)snprintf(place->folder, sizeof(place->folder), "/tmp/stock-client-state-XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    (void)snprintf(place->path, sizeof(place->path), "%s/prices", place->folder);
    *state = place;
    return 0;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    static const char *const endings[] = {"", ".lock", ".new"};

    for (size_t i = 0; i < 3; i++) {
        char path[160];

        (void)snprintf(path, sizeof(path), "%s%s", place->path, endings[i]);
        (void)remove(path);
    }
    assert_int_equal(rmdir(place->folder), 0); /* nothing else was left */
    free(place);
    return 0;
}

static void write_file(const char *path, const char *content)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_true(fputs(content, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void what_is_kept_comes_back(void **state)
{
    struct place *place = *state;
    char error[STATE_ERROR_MAX] = "";
    struct state position;

    assert_int_equal(state_open(&position, place->path, error), 0);
    assert_false(position.known);
    assert_int_equal(state_save(&position, UINT64_MAX, 1), 0);
    assert_int_equal(state_save(&position, UINT64_MAX, 77), 0);
    state_close(&position);
    assert_int_equal(state_open(&position, place->path, error), 0);
    assert_true(position.known);
    assert_true(position.epoch == UINT64_MAX);
    assert_int_equal(position.sequence, 77);
    state_close(&position);
    assert_string_equal(error, "");
}

static void refuse(const char *path, const char *expected)
{
    char error[STATE_ERROR_MAX] = "";
    struct state position;

    assert_int_equal(state_open(&position, path, error), -EINVAL);
    assert_non_null(strstr(error, expected));
    state_close(&position);
}

static void only_one_has_it(void **state)
{
    struct place *place = *state;
    char error[STATE_ERROR_MAX] = "";
    struct state position;

    assert_int_equal(state_open(&position, place->path, error), 0);
    refuse(place->path, "another program uses it now");
    state_close(&position);
    assert_int_equal(state_open(&position, place->path, error), 0);
    state_close(&position);
}

static void nothing_else_is_a_position(void **state)
{
    static const char *const contents[] = {
        "",
        "my diary\n",
        "stock-client position\nepoch 1\n",
        "stock-client position\nepoch 0\nsequence 1\n",
        "stock-client position\nepoch 1\nsequence 01\n",
        "stock-client position\nepoch -1\nsequence 1\n",
        "stock-client position\nepoch 1\nsequence 1\nmore\n",
        "stock-client position\nepoch 1\nsequence 99999999999999999999999\n",
    };
    struct place *place = *state;

    for (size_t i = 0; i < sizeof(contents) / sizeof(*contents); i++) {
        char left[200] = "";
        FILE *file;

        write_file(place->path, contents[i]);
        refuse(place->path, "has no position of stock-client in it");
        file = fopen(place->path, "r");
        assert_non_null(file);
        assert_int_equal(fread(left, 1, sizeof(left) - 1, file), strlen(contents[i]));
        (void)fclose(file);
        assert_string_equal(left, contents[i]);
    }
}

static void what_cannot_be_a_file(void **state)
{
    struct place *place = *state;
    char path[200];

    refuse("", "there is no file name");
    refuse("/dev/null/prices", "cannot open /dev/null/prices.lock");
    (void)snprintf(path, sizeof(path), "%s/absent/prices", place->folder);
    refuse(path, "No such file or directory");
    assert_int_equal(mkdir(place->path, 0700), 0);
    refuse(place->path, "is no regular file");
    assert_int_equal(rmdir(place->path), 0);
    /* A FIFO does not hold anybody up. */
    assert_int_equal(mkfifo(place->path, 0600), 0);
    refuse(place->path, "is no regular file");
}

static void what_was_kept_stays_when_nothing_can_be_written(void **state)
{
    struct place *place = *state;
    char error[STATE_ERROR_MAX] = "", next[160];
    struct state position;

    (void)snprintf(next, sizeof(next), "%s.new", place->path);
    assert_int_equal(state_open(&position, place->path, error), 0);
    assert_int_equal(state_save(&position, 5, 6), 0);
    assert_int_equal(mkdir(next, 0700), 0); /* in the way */
    assert_int_equal(state_save(&position, 5, 7), -EISDIR);
    assert_int_equal(position.sequence, 6);
    assert_int_equal(rmdir(next), 0);
    state_close(&position);
    assert_int_equal(state_open(&position, place->path, error), 0);
    assert_int_equal(position.sequence, 6);
    state_close(&position);
}

static void a_link_stays_one(void **test)
{
    struct place *place = *test;
    char link[160];
    char error[STATE_ERROR_MAX];
    struct state state;
    struct state other;
    struct stat status;

    (void)snprintf(link, sizeof(link), "%s/link", place->folder);
    assert_int_equal(symlink("prices", link), 0);
    /* To nothing yet: that would be written wherever it leads. */
    assert_int_equal(state_open(&state, link, error), -EINVAL);
    assert_non_null(strstr(error, link));
    state_close(&state);

    write_file(place->path, "stock-client position\nepoch 5\nsequence 6\n");
    assert_int_equal(state_open(&state, link, error), 0);
    assert_true(state.known && state.epoch == 5 && state.sequence == 6);
    assert_int_equal(state_open(&other, place->path, error), -EINVAL); /* by its other name */
    state_close(&other);
    assert_int_equal(state_save(&state, 5, 7), 0);
    state_close(&state);
    assert_int_equal(lstat(link, &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    assert_int_equal(state_open(&state, place->path, error), 0);
    assert_int_equal(state.sequence, 7);
    state_close(&state);
    assert_int_equal(unlink(link), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_kept_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_one_has_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_else_is_a_position, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_a_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_link_stays_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_kept_stays_when_nothing_can_be_written, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
