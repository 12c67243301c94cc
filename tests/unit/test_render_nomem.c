/* stockd-render's parts without memory: whichever allocation fails, it is told, and nothing leaks.
 */
#include "config/render/dotenv.h"
#include "config/render/file.h"
#include "config/render/output.h"
#include "config/render/plan.h"
#include "config/render/template.h"

#include "base/util.h"
#include "failmalloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_template(void **state)
{
    static const char template[] = "{{.A}}{{.B}}{{.C}}";
    static const struct template_value values[] = {{"A", "1"}, {"B", "2"}};
    bool fired = true;
    size_t nth = 1;

    for (; fired; nth++) {
        struct config config = {0};
        struct text text = {0};
        int r;

        failmalloc_arm(nth);
        r = template_render(&config, "f", template, strlen(template), values, 2, &text);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_true(fired || config.faults.count == 1);
        text_deinit(&text);
        config_deinit(&config);
    }
    assert_true(nth > 4);
}

static void test_dotenv(void **state)
{
    static const char bytes[] = "A='1'\nA=2\nB\n";
    bool fired = true;
    size_t nth = 1;

    for (; fired; nth++) {
        struct dotenv_variable variable = {.name = "A"};
        struct config config = {0};
        int r;

        failmalloc_arm(nth);
        r = dotenv_read(&config, "f", bytes, strlen(bytes), &variable, 1);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        if (!fired)
            assert_string_equal(variable.value, "2");
        free(variable.value);
        config_deinit(&config);
    }
    assert_true(nth > 5);
}

/* Standard error is put away: each failure is told there. */
static int make_quietly(struct plan *plan, int argc, char *argv[])
{
    int kept = dup(STDERR_FILENO);
    int null = open("/dev/null", O_WRONLY);
    int status;

    (void)dup2(null, STDERR_FILENO);
    status = plan_make(plan, argc, argv);
    (void)dup2(kept, STDERR_FILENO);
    (void)close(null);
    (void)close(kept);
    return status;
}

static void test_plan(void **state)
{
    char line[] = "render -p a -d b -c /dev/null --ip 127.0.0.1 --env-file /dev/stdin";
    char *argv[12] = {NULL};
    int argc = 0;
    int input[2];
    bool fired = true;
    size_t nth = 1;

    for (char *rest = line; rest; argc++)
        argv[argc] = strsep(&rest, " ");
    setenv("DS_SERVER_PORT", "9091", 1);
    for (; fired; nth++) {
        static const char bytes[] = "PROM_TARGET_GRPC_CLIENT_PORT=2\nDS_TEMPLATE_FILE=x\n";
        struct plan plan;
        int status;

        assert_int_equal(pipe(input), 0);
        assert_int_equal(write(input[1], bytes, strlen(bytes)), strlen(bytes));
        (void)close(input[1]);
        (void)dup2(input[0], STDIN_FILENO);
        (void)close(input[0]);
        failmalloc_arm(nth);
        status = make_quietly(&plan, argc, argv);
        fired = failmalloc_disarm();
        assert_int_equal(status, fired ? EXIT_FAILURE : -1);
        if (!fired) {
            assert_string_equal(plan.host, "127.0.0.1");
            assert_string_equal(plan.client_port, "2");
            assert_string_equal(plan.prometheus.port, "2112");
            assert_string_equal(plan.data_source.port, "9091");
            assert_string_equal(plan.data_source.template_file, "x");
        }
        plan_deinit(&plan);
    }
    assert_true(nth > 20);
}

static size_t files_in(const char *path)
{
    DIR *folder = opendir(path);
    size_t count = 0;

    assert_non_null(folder);
    while (readdir(folder))
        count++;
    (void)closedir(folder);
    return count - 2; /* "." and ".." */
}

static void test_output(void **state)
{
    char folder[] = "/tmp/test-render-XXXXXX";
    char names[2][64];
    bool fired = true;
    size_t nth = 1;

    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < 2; i++)
        (void)snprintf(names[i], sizeof names[i], "%s/%zu", folder, i);
    for (; fired; nth++) {
        struct output outputs[2] = {0};
        struct config config = {0};
        int r = 0;

        text_add_string(&outputs[0].text, "x");
        text_add_string(&outputs[1].text, "y");
        failmalloc_arm(nth);
        for (size_t i = 0; r == 0 && i < 2; i++)
            r = output_locate(&outputs[i], names[i], "test", &config);
        if (r == 0)
            r = output_write_all(outputs, 2, &config);
        fired = failmalloc_disarm();
        if (r < 0) {
            assert_true(fired);
            assert_int_equal(r, -ENOMEM);
            assert_int_equal(files_in(folder), 0);
        } else {
            /* Without memory a folder is not synced; no more. */
            assert_int_equal(files_in(folder), 2);
            (void)unlink(names[0]);
            (void)unlink(names[1]);
        }
        assert_int_equal(config.faults.count, 0);
        for (size_t i = 0; i < 2; i++)
            output_deinit(&outputs[i]);
        config_deinit(&config);
    }
    assert_true(nth > 8);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template),
        cmocka_unit_test(test_dotenv),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_output),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
