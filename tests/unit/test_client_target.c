/*
 * HOST:PORT as people write it, rightly and wrongly.
 */
#include "client/target.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static void reads_what_is_right(void **state)
{
    static const struct {
        const char *text, *host, *port, *authority;
    } cases[] = {
        {"localhost:4444", "localhost", "4444", "localhost:4444"},
        {"localhost", "localhost", "4444", "localhost:4444"},
        {"stocks.example.com:1", "stocks.example.com", "1", "stocks.example.com:1"},
        {"a_b-c.d:65535", "a_b-c.d", "65535", "a_b-c.d:65535"},
        {"10.0.0.1:080", "10.0.0.1", "80", "10.0.0.1:80"},
        {"[::1]:4445", "::1", "4445", "[::1]:4445"},
        {"[::1]", "::1", "4444", "[::1]:4444"},
        {"[fe80::1%eth0]:5", "fe80::1%eth0", "5", "[fe80::1]:5"},
        {"[::ffff:1.2.3.4]:5", "::ffff:1.2.3.4", "5", "[::ffff:1.2.3.4]:5"},
        {"b\xc3\xbc"
         "cher.example:7",
         "b\xc3\xbc"
         "cher.example",
         "7",
         "b\xc3\xbc"
         "cher.example:7"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct target target;
        const char *why = NULL;

        assert_int_equal(target_parse(&target, cases[i].text, &why), 0);
        assert_string_equal(target.host, cases[i].host);
        assert_string_equal(target.port, cases[i].port);
        assert_string_equal(target.authority, cases[i].authority);
    }
}

static void tells_what_is_wrong(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "there is no host"},
        {":4444", "there is no host"},
        {"::1", "wants brackets"},
        {"::1:4444", "wants brackets"},
        {"a:b:c", "wants brackets"},
        {"a:", "the port is no number"},
        {"a:x", "the port is no number"},
        {"a:12x", "the port is no number"},
        {"a:-1", "the port is no number"},
        {"a:+1", "the port is no number"},
        {"a: 1", "the port is no number"},
        {"a:0", "out of range"},
        {"a:65536", "out of range"},
        {"a:99999999999999999999999999", "out of range"},
        {"[::1", "there is no ']'"},
        {"[]:1", "no IPv6 address"},
        {"[1.2.3.4]:1", "no IPv6 address"},
        {"[localhost]:1", "no IPv6 address"},
        {"[::1%]:1", "no scope"},
        {"[::1]4444", "no ':PORT'"},
        {"[::1]:", "the port is no number"},
        {"http://a:1", "wants brackets"},
        {"http//a:1", "no name has"},
        {"a b:1", "no name has"},
        {"a\n:1", "no name has"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct target target = {.port = "kept"};
        const char *why = NULL;

        assert_int_equal(target_parse(&target, cases[i].text, &why), -EINVAL);
        assert_non_null(why);
        if (!strstr(why, cases[i].why))
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", cases[i].text, why, cases[i].why);
        assert_string_equal(target.port, "kept");
    }
}

static void long_hosts_fit_or_are_refused(void **state)
{
    char text[TARGET_HOST_MAX + 16];
    struct target target;
    const char *why = NULL;

    memset(text, 'a', sizeof(text));
    memcpy(text + TARGET_HOST_MAX, ":65535", sizeof(":65535"));
    assert_int_equal(target_parse(&target, text, &why), 0);
    assert_int_equal(strlen(target.host), TARGET_HOST_MAX);
    assert_string_equal(target.authority, text);

    memcpy(text + TARGET_HOST_MAX, "a:65535", sizeof("a:65535"));
    assert_int_equal(target_parse(&target, text, &why), -EINVAL);
    assert_string_equal(why, "the host is too long");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_right),
        cmocka_unit_test(tells_what_is_wrong),
        cmocka_unit_test(long_hosts_fit_or_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
