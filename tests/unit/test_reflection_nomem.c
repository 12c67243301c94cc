/* Making the reflection service without memory. */
#include "services/reflection.h"

#include "failmalloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void test_every_allocation(void **state)
{
    static const char *const services[] = {"stockservice.StockService"};
    bool fired = true;
    size_t nth = 1;

    for (; fired; nth++) {
        struct reflection_service *service = NULL;
        int r;

        failmalloc_arm(nth);
        r = reflection_service_new(&service, services, 1);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : 0);
        assert_true(fired == (service == NULL));
        assert_null(reflection_service_free(service));
    }
    /* Every symbol has a name, and there are dozens of them. */
    assert_true(nth > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
