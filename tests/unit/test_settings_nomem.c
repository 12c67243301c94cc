/* Finding stockd's settings without memory. */
#include "settings.h"

#include "failmalloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_every_allocation(void **state)
{
    char path[] = "/tmp/test-settings-nomem-XXXXXX";
    int fd = mkstemp(path);
    bool fired = true;
    size_t nth = 1;

    assert_true(fd >= 0);
    assert_true(dprintf(fd, "[stream]\nticker = FILE\n") > 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(setenv("GRPC_SERVER_PORT", "5", 1), 0);
    assert_int_equal(setenv("STOCK_SERVICE_METRICS_SERVER_PORT", "bad", 1), 0);
    for (; fired; nth++) {
        struct settings settings = {0};
        struct config config;
        int r;

        assert_int_equal(settings_init(&config, &settings), 0);
        failmalloc_arm(nth);
        r = settings_load(&config, path, NULL, false);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        if (!fired) {
            assert_int_equal(config.faults.count, 1);
            assert_string_equal(settings.stream.ticker, "FILE");
            assert_non_null(strstr(config.origin[0], "GRPC_SERVER_PORT"));
        }
        config_deinit(&config);
    }
    /* The directory's name; origins, the ticker, the address, the fault. */
    assert_true(nth > 9);
    assert_int_equal(unlink(path), 0);
}

/* The same for what is searched, which asks for more names. */
static void test_every_allocation_of_a_search(void **state)
{
    char root[] = "/tmp/test-settings-nomem-XXXXXX";
    bool fired = true;
    size_t nth = 1;

    assert_non_null(mkdtemp(root));
    for (; fired; nth++) {
        struct settings settings = {0};
        struct config config;
        int r;

        assert_int_equal(settings_init(&config, &settings), 0);
        failmalloc_arm(nth);
        r = settings_search(&config, root, "1");
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_int_equal(config.faults.count, 0);
        config_deinit(&config);
    }
    /* A name for each of four files, four directories, four of the instance, and theirs. */
    assert_true(nth > 13);
    assert_int_equal(rmdir(root), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_every_allocation_of_a_search),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
