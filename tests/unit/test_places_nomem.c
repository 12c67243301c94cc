/* Places without memory: whichever allocation fails, nothing leaks and nothing is half done. */
#include "places.h"

#include "failmalloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char full[] =
    "unix:/socket tls=yes certificate=/c key=/k client_ca=/ca owner=o group=g";

/* How many allocations it takes; `count` sockets are passed. */
static size_t choose_with(unsigned count)
{
    struct endpoint endpoints[2];
    struct config_endpoints wanted = {endpoints, 2};
    struct systemd_socket passed[2] = {{.fd = 3, .name = "grpc"}, {.fd = 4, .name = "grpc-tls"}};
    const struct systemd_sockets sockets = {passed, count};
    bool fired = true;
    size_t nth = 1;

    assert_int_equal(endpoint_parse(full, strlen(full), &endpoints[0], NULL), 0);
    assert_int_equal(endpoint_parse(":1", 2, &endpoints[1], NULL), 0);
    passed[0].address = endpoints[0].address;
    assert_int_equal(address_parse(":2", 2, &passed[1].address, NULL), 0);
    for (; fired; nth++) {
        struct config_endpoints places = {.count = 7};
        char error[PLACES_ERROR_MAX] = "";
        int r;

        failmalloc_arm(nth);
        r = places_choose("grpc", &wanted, &sockets, &places, error);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_int_equal(places.count, fired ? 7 : 2);
        if (!fired)
            config_endpoints_deinit(&places);
    }
    endpoint_deinit(&endpoints[0]);
    endpoint_deinit(&endpoints[1]);
    return nth - 2;
}

static void test_choose(void **state)
{
    assert_int_equal(choose_with(0), 1 + 5); /* the list, and a copy of each string */
    assert_int_equal(choose_with(2), 1 + 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
