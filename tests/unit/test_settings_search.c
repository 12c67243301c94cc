/* Where stockd's settings are searched, beside what systemd itself makes of the same files. */
#include "settings.h"

#include "base/util.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A line that is a fault wherever it stands: so the faults tell which files were read, and when. */
#define MARK "mark"
#define IS_MARK ":1: \"" MARK "\" is not \"key = value\""
#define NAMES_MAX 4096

static const char *const folders[] = {SETTINGS_FOLDERS};

struct fixture {
    char root[64];
    struct settings settings;
    struct config config;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);

    assert_non_null(fixture);
    strcpy(fixture->root, "/tmp/test-settings-search-XXXXXX");
    assert_non_null(mkdtemp(fixture->root));
    assert_int_equal(settings_init(&fixture->config, &fixture->settings), 0);
    *state = fixture;
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    return remove(path);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    config_deinit(&fixture->config);
    assert_int_equal(nftw(fixture->root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(fixture);
    return 0;
}

/* The path of a file below the root, in `folder` and "stockd"; folders that lack are made. */
static char *path_in(const struct fixture *fixture, const char *folder, const char *name)
{
    char *path = NULL;

    if (asprintf(&path, "%s%s/stockd/%s", fixture->root, folder, name) < 0)
        abort();
    for (char *slash = path + strlen(fixture->root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    return path;
}

static void put(const struct fixture *fixture, const char *folder, const char *name,
                const char *text)
{
    _cleanup_free_ char *path = path_in(fixture, folder, name);
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void mask(const struct fixture *fixture, const char *folder, const char *name)
{
    _cleanup_free_ char *path = path_in(fixture, folder, name);

    assert_int_equal(symlink("/dev/null", path), 0);
}

/* Begins anew, as a reload does. */
static void search(struct fixture *fixture, const char *instance)
{
    config_deinit(&fixture->config);
    assert_int_equal(settings_init(&fixture->config, &fixture->settings), 0);
    assert_int_equal(settings_search(&fixture->config, fixture->root, instance), 0);
}

static void expect_ticker(struct fixture *fixture, const char *instance, const char *expected)
{
    search(fixture, instance);
    if (fixture->config.faults.count > 0)
        fail_msg("%s", fixture->config.faults.text[0]);
    assert_string_equal(fixture->settings.stream.ticker, expected);
}

/* --- alone ------------------------------------------------------------------------------------ */

static void test_nothing_there(void **state)
{
    expect_ticker(*state, NULL, "AAPL");
    expect_ticker(*state, "1", "AAPL");
}

static void test_first_main_file(void **state)
{
    struct fixture *fixture = *state;
    char ticker[32], text[64], origin[128];

    for (size_t i = ELEMENTSOF(folders); i-- > 0;) {
        (void)snprintf(ticker, sizeof ticker, "FOLDER%zu", i);
        (void)snprintf(text, sizeof text, "[stream]\nticker = %s\n", ticker);
        put(fixture, folders[i], "stockd.conf", text);
        expect_ticker(fixture, NULL, ticker);
        (void)snprintf(origin, sizeof origin, "%s%s/stockd/stockd.conf:2", fixture->root,
                       folders[i]);
        for (size_t j = 0; j < settings_table_count; j++)
            if (fixture->config.origin[j])
                assert_string_equal(fixture->config.origin[j], origin);
    }
}

/* It takes the place of the others even if it is empty, or cannot be read. */
static void test_main_file_without_settings(void **state)
{
    struct fixture *fixture = *state;
    char fault[256];

    put(fixture, "/usr/lib", "stockd.conf", "[stream]\nticker = LIB\n");
    put(fixture, "/usr/local/lib", "stockd.conf", "");
    expect_ticker(fixture, NULL, "AAPL");
    mask(fixture, "/run", "stockd.conf");
    expect_ticker(fixture, NULL, "AAPL");

    free(path_in(fixture, "/etc", "stockd.conf/"));
    search(fixture, NULL);
    (void)snprintf(fault, sizeof fault, "%s/etc/stockd/stockd.conf: cannot be read: Is a directory",
                   fixture->root);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_string_equal(fixture->config.faults.text[0], fault);
    assert_string_equal(fixture->settings.stream.ticker, "AAPL");
}

/* Neither a link that leads nowhere, because a sandbox hides what is there, is passed over, nor a
 * FIFO, which never ends. */
static void test_main_file_that_is_none(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_free_ char *path = path_in(fixture, "/etc", "stockd.conf");
    char fault[256];

    put(fixture, "/run", "stockd.conf", "[stream]\nticker = RUN\n");
    assert_int_equal(symlink("nowhere", path), 0);
    search(fixture, NULL);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: No such file or directory", path);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_string_equal(fixture->config.faults.text[0], fault);
    assert_int_equal(unlink(path), 0);
    expect_ticker(fixture, NULL, "RUN");
    assert_int_equal(mkfifo(path, 0600), 0);
    search(fixture, NULL);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: Not a regular file", path);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_string_equal(fixture->config.faults.text[0], fault);
}

/* The same of a folder: its settings were wanted. */
static void test_folders_that_lead_nowhere(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_free_ char *folder = path_in(fixture, "/etc", "stockd.conf.d");
    _cleanup_free_ char *above = path_in(fixture, "/usr/local/lib", "");
    char fault[256];

    assert_int_equal(symlink("nowhere", folder), 0);
    search(fixture, NULL);
    (void)snprintf(fault, sizeof fault, "%s: cannot be read: No such file or directory", folder);
    assert_int_equal(fixture->config.faults.count, 1);
    assert_string_equal(fixture->config.faults.text[0], fault);
    assert_int_equal(unlink(folder), 0);

    above[strlen(above) - 1] = '\0'; /* the slash */
    assert_int_equal(rmdir(above), 0);
    assert_int_equal(symlink("nowhere", above), 0);
    search(fixture, NULL);
    assert_in_range(fixture->config.faults.count, 1, 2);
    (void)snprintf(fault, sizeof fault, "%s/stockd.conf: cannot be read: No such file or directory",
                   above);
    assert_string_equal(fixture->config.faults.text[0], fault);
    assert_int_equal(unlink(above), 0);

    /* Where the folders lie is the system's matter. */
    above[strlen(above) - strlen("/stockd")] = '\0';
    assert_int_equal(rmdir(above), 0);
    assert_int_equal(symlink("nowhere", above), 0);
    put(fixture, "/run", "stockd.conf", "[stream]\nticker = RUN\n");
    expect_ticker(fixture, NULL, "RUN");
}

static void test_drop_ins_of_all_folders(void **state)
{
    struct fixture *fixture = *state;

    put(fixture, "/etc", "stockd.conf", "[stream]\nticker = MAIN\ninterval = 1s\n");
    put(fixture, "/usr/lib", "stockd.conf.d/50.conf", "[stream]\nticker = LIB\n");
    expect_ticker(fixture, NULL, "LIB");
    put(fixture, "/run", "stockd.conf.d/50.conf", "[stream]\nticker = RUN\n");
    expect_ticker(fixture, NULL, "RUN");
    put(fixture, "/usr/local/lib", "stockd.conf.d/60.conf", "[stream]\nticker = LOCAL\n");
    expect_ticker(fixture, NULL, "LOCAL");
    put(fixture, "/etc", "stockd.conf.d/60.conf", "");
    expect_ticker(fixture, NULL, "RUN");
    mask(fixture, "/etc", "stockd.conf.d/50.conf");
    expect_ticker(fixture, NULL, "MAIN");
    assert_int_equal(fixture->settings.stream.interval_ms, 1000);
}

static void test_instances(void **state)
{
    struct fixture *fixture = *state;

    put(fixture, "/etc", "stockd.conf.d/90.conf", "[stream]\nticker = ALL\ninterval = 1s\n");
    put(fixture, "/usr/lib", "stockd@1.conf.d/10.conf", "[stream]\nticker = ONE\n");
    put(fixture, "/usr/lib", "stockd@2.conf.d/10.conf", "[stream]\nticker = TWO\n");
    expect_ticker(fixture, NULL, "ALL");
    expect_ticker(fixture, "1", "ONE");
    expect_ticker(fixture, "2", "TWO");
    assert_int_equal(fixture->settings.stream.interval_ms, 1000);
    expect_ticker(fixture, "3", "ALL");
    put(fixture, "/run", "stockd@1.conf.d/10.conf", "[stream]\nticker = RUN\n");
    expect_ticker(fixture, "1", "RUN");
    expect_ticker(fixture, "2", "TWO");
}

/* --- beside systemd-analyze ------------------------------------------------------------------- */

struct listing {
    char text[NAMES_MAX]; /* one a line */
};

static void add(struct listing *names, const char *name, size_t length)
{
    size_t size = strlen(names->text);

    assert_true(size + length + 2 <= sizeof names->text);
    (void)snprintf(names->text + size, sizeof names->text - size, "%.*s\n", (int)length, name);
}

static void collect_ours(struct fixture *fixture, const char *instance, struct listing *names)
{
    search(fixture, instance);
    for (size_t i = 0; i < fixture->config.faults.count; i++) {
        const char *fault = fixture->config.faults.text[i];
        const char *end = strstr(fault, IS_MARK);

        if (!end || strcmp(end, IS_MARK) != 0)
            fail_msg("%s", fault);
        else
            add(names, fault, (size_t)(end - fault));
    }
}

/*
 * systemd-analyze writes "# PATH" above the contents of each file. It names what is masked, too,
 * but then nothing follows.
 */
static void collect_theirs(const struct fixture *fixture, const char *file, struct listing *names)
{
    char command[256], line[512], path[512] = "";
    FILE *pipe = NULL;
    int status = -1;

    (void)snprintf(command, sizeof command, "systemd-analyze --root=%s --no-pager cat-config %s",
                   fixture->root, file);
    pipe = popen(command, "re"); /* NOLINT(cert-env33-c): the command is this file's */
    assert_non_null(pipe);
    while (fgets(line, sizeof line, pipe)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "# /", 3) == 0)
            strcpy(path, line + 2);
        else if (strcmp(line, MARK) == 0)
            add(names, path, strlen(path));
    }
    status = pclose(pipe);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("\"%s\" failed; Debian's package systemd has it", command);
}

static size_t count_lines(const char *text)
{
    size_t count = 0;

    for (; *text; text++)
        count += *text == '\n';
    return count;
}

/* With the files that are there now: the same ones, `count` of them, in the same order. */
static void expect_same(struct fixture *fixture, size_t count)
{
    struct listing ours = {0}, theirs = {0};

    collect_ours(fixture, NULL, &ours);
    collect_theirs(fixture, SETTINGS_FILE, &theirs);
    assert_string_equal(ours.text, theirs.text);
    assert_int_equal(count_lines(ours.text), count);

    /* An instance has more of them. What it adds to the others is shown by another name. */
    memset(&ours, 0, sizeof ours);
    collect_ours(fixture, "a-1", &ours);
    collect_theirs(fixture, "stockd/stockd@a-1.conf", &theirs);
    assert_string_equal(ours.text, theirs.text);
    assert_int_equal(count_lines(ours.text), count + 4);
}

static void test_same_as_systemd(void **state)
{
    static const struct {
        const char *folder;
        const char *name;
    } marked[] = {
        {"/etc", "10-all.conf"},
        {"/run", "10-all.conf"},
        {"/usr/local/lib", "10-all.conf"},
        {"/usr/lib", "10-all.conf"},
        {"/usr/lib", "9-lib.conf"},
        {"/etc", "B-etc.conf"},
        {"/run", "a-run.conf"},
        {"/usr/local/lib", "A-local.conf"},
        {"/usr/lib", "50-two.conf"},
        {"/usr/local/lib", "50-two.conf"},
        {"/run", "60-late.conf"},
        {"/usr/lib", "60-late.conf"},
        {"/usr/lib", "70-null.conf"},
        {"/usr/lib", "80-empty.conf"},
        {"/etc", "90-not-masked.conf"},
        {"/etc", ".hidden.conf"},
        {"/etc", "conf"},
        {"/etc", "backup.conf~"},
        {"/run", "old.conf.dpkg-old"},
        {"/run", "README"},
        {"/usr/lib", "in.CONF"},
    };
    struct fixture *fixture = *state;
    char name[128];

    for (size_t i = 0; i < ELEMENTSOF(marked); i++) {
        (void)snprintf(name, sizeof name, "stockd.conf.d/%s", marked[i].name);
        put(fixture, marked[i].folder, name, MARK "\n");
    }
    for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
        (void)snprintf(name, sizeof name, "stockd@a-1.conf.d/%zu.conf", 9 - i);
        put(fixture, folders[i], name, MARK "\n");
        put(fixture, folders[i], "stockd@b.conf.d/10.conf", MARK "\n");
    }
    mask(fixture, "/run", "stockd.conf.d/70-null.conf");
    put(fixture, "/usr/local/lib", "stockd.conf.d/80-empty.conf", "");
    mask(fixture, "/run", "stockd.conf.d/90-not-masked.conf");
    expect_same(fixture, 8);

    for (size_t i = ELEMENTSOF(folders); i-- > 0;) {
        put(fixture, folders[i], "stockd.conf", MARK "\n");
        expect_same(fixture, 9);
    }
    put(fixture, "/etc", "stockd.conf", "");
    expect_same(fixture, 8);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_there),
        TEST(test_first_main_file),
        TEST(test_main_file_without_settings),
        TEST(test_main_file_that_is_none),
        TEST(test_folders_that_lead_nowhere),
        TEST(test_drop_ins_of_all_folders),
        TEST(test_instances),
        TEST(test_same_as_systemd),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
