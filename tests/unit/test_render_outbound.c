/* Addresses that others reach a machine by. What is found is for tests/system/test_render.py. */
#include "config/render/outbound.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void taken(void **state)
{
    static const struct {
        const char *text;
        const char *host;
    } cases[] = {
        {"192.0.2.5", "192.0.2.5"},
        {"127.0.0.1", "127.0.0.1"},
        {"169.254.1.1", "169.254.1.1"},
        {"223.255.255.255", "223.255.255.255"},
        {"::1", "[::1]"},
        {"[::1]", "[::1]"},
        {"2001:DB8::5", "[2001:db8::5]"},
        {"[2001:db8::5]", "[2001:db8::5]"},
        {"fd00::1", "[fd00::1]"},
        {"1111:2222:3333:4444:5555:6666:7777:8888", "[1111:2222:3333:4444:5555:6666:7777:8888]"},
        {"::ffff:192.0.2.5", "192.0.2.5"},
        {"[::ffff:192.0.2.5]", "192.0.2.5"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct sockaddr_storage address;
        char host[OUTBOUND_HOST_MAX];
        const char *why = NULL;

        if (outbound_parse(cases[i].text, &address, &why) < 0)
            fail_msg("\"%s\": %s", cases[i].text, why);
        assert_string_equal(outbound_host(&address, host), cases[i].host);
    }
}

#define NONE "is not a numeric address without a port"
#define LINK "is valid on one link only, which Prometheus cannot be told"

static void refused(void **state)
{
    static const struct {
        const char *text;
        const char *why;
    } cases[] = {
        {"", "\"\" " NONE},
        {"localhost", "\"localhost\" " NONE},
        {"192.0.2.5:80", "\"192.0.2.5:80\" " NONE},
        {"[::1]:80", "\"[::1]:80\" " NONE},
        {"[::1", "\"[::1\" " NONE},
        {"::1]", "\"::1]\" " NONE},
        {"[192.0.2.5]", "\"[192.0.2.5]\" " NONE},
        {"192.0.2", "\"192.0.2\" " NONE},
        {"192.0.2.256", "\"192.0.2.256\" " NONE},
        {" 192.0.2.5", "\" 192.0.2.5\" " NONE},
        {"unix:/a", "\"unix:/a\" " NONE},
        {":", "\":\" " NONE},
        {"[]", "\"[]\" " NONE},
        {"1\n2", "\"1?2\" " NONE},
        {"1111111111111111111111111111111111111111111111111111111111111111111111111111111111111111",
         NONE},
        {"0.0.0.0", "0.0.0.0 stands for every address, and is none"},
        {"::", ":: stands for every address, and is none"},
        {"::ffff:0.0.0.0", "stands for every address"},
        {"255.255.255.255", "255.255.255.255 is for broadcasts"},
        {"224.0.0.1", "224.0.0.1 is for multicast"},
        {"239.255.255.255", "is for multicast"},
        {"ff02::1", "ff02::1 is for multicast"},
        {"fe80::1", "fe80::1 " LINK},
        {"febf::1", "febf::1 " LINK},
        {"fe80::1%lo", "\"fe80::1%lo\" " LINK},
        {"[fe80::1%lo]", "\"[fe80::1%lo]\" " LINK},
        {"::1%lo", "\"::1%lo\" " LINK},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct sockaddr_storage address, before;
        const char *why = NULL;

        memset(&address, 0x5a, sizeof address);
        before = address;
        if (outbound_parse(cases[i].text, &address, &why) != -EINVAL)
            fail_msg("\"%s\" is taken", cases[i].text);
        if (!strstr(why, cases[i].why))
            fail_msg("\"%s\": \"%s\", not \"%s\"", cases[i].text, why, cases[i].why);
        assert_memory_equal(&address, &before, sizeof address);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(taken), cmocka_unit_test(refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
