/* Sockets that are passed while there is no memory. */
#include "base/systemd.h"

#include "failmalloc.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define FIRST 3

static void pass_one(void)
{
    char pid[32];
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    assert_int_equal(listen(fd, 5), 0);
    if (fd != FIRST) {
        assert_int_equal(dup2(fd, FIRST), FIRST);
        (void)close(fd);
    }
    (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
    assert_int_equal(setenv("LISTEN_PID", pid, 1), 0);
    assert_int_equal(setenv("LISTEN_FDS", "1", 1), 0);
    assert_int_equal(setenv("LISTEN_FDNAMES", "grpc", 1), 0);
}

static void test_take(void **state)
{
    bool fired = true;
    size_t nth = 1;

    for (; fired; nth++) {
        struct systemd_sockets sockets = {.count = 7};
        char error[SYSTEMD_ERROR_MAX];
        int r;

        pass_one();
        failmalloc_arm(nth);
        r = systemd_sockets_take(&sockets, error);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_int_equal(sockets.count, fired ? 7 : 1);
        if (!fired)
            free(sockets.sockets);
    }
    assert_int_equal(nth, 1 + 2);
    (void)close(FIRST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
