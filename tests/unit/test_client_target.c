/*
 * HOST:PORT and unix:PATH as people write them, rightly and wrongly.
 */
#include "client/target.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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
        assert_string_equal(target.text, cases[i].authority);
        assert_string_equal(target.path, "");
    }
}

static void names_are_without_port_brackets_and_scope(void **state)
{
    static const struct {
        const char *text, *name;
    } cases[] = {
        {"localhost:4444", "localhost"},
        {"stocks.example.:1", "stocks.example"},
        {".:1", "."},
        {"10.0.0.1", "10.0.0.1"},
        {"[::1]:4445", "::1"},
        {"[fe80::1%eth0]:5", "fe80::1"},
        {"unix:x", "localhost"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct target target;
        const char *why = NULL;

        assert_int_equal(target_parse(&target, cases[i].text, &why), 0);
        assert_string_equal(target.name, cases[i].name);
    }
}

static void reads_paths_of_unix_sockets(void **state)
{
    static const struct {
        const char *text, *path;
    } cases[] = {
        {"unix:/run/stockd/grpc.sock", "/run/stockd/grpc.sock"},
        {"unix:///run/stockd/grpc.sock", "/run/stockd/grpc.sock"},
        {"unix:grpc.sock", "grpc.sock"},
        {"unix:./a b:1", "./a b:1"},
        {"unix:4444", "4444"},
        {"unix:/", "/"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct target target;
        const char *why = NULL;
        char text[64];

        assert_int_equal(target_parse(&target, cases[i].text, &why), 0);
        assert_string_equal(target.path, cases[i].path);
        assert_string_equal(target.host, "");
        assert_string_equal(target.port, "");
        assert_string_equal(target.authority, "localhost");
        (void)snprintf(text, sizeof(text), "unix:%s", cases[i].path);
        assert_string_equal(target.text, text);
    }
}

static void long_paths_fit_or_are_refused(void **state)
{
    char text[sizeof("unix:") + ADDRESS_PATH_MAX + 1];
    struct target target;
    const char *why = NULL;

    memset(text, 'a', sizeof(text));
    memcpy(text, "unix:", strlen("unix:"));
    text[strlen("unix:") + ADDRESS_PATH_MAX] = 0;
    assert_int_equal(target_parse(&target, text, &why), 0);
    assert_int_equal(strlen(target.path), ADDRESS_PATH_MAX);
    assert_string_equal(target.text, text);

    text[strlen("unix:") + ADDRESS_PATH_MAX] = 'a';
    text[strlen("unix:") + ADDRESS_PATH_MAX + 1] = 0;
    assert_int_equal(target_parse(&target, text, &why), -EINVAL);
    assert_non_null(strstr(why, "longer than 107 bytes"));
}

static void another_name_replaces_name_and_authority(void **state)
{
    static const struct {
        const char *name, *expected, *authority;
    } cases[] = {
        {"stocks.example", "stocks.example", "stocks.example"},
        {"stocks.example.", "stocks.example", "stocks.example."},
        {"10.0.0.1", "10.0.0.1", "10.0.0.1"},
        {"2001:db8::1", "2001:db8::1", "[2001:db8::1]"},
    };
    static const char *const wrong[] = {"", "a b", "stocks.example:1", "[::1]", "a/b"};
    struct target target;
    const char *why = NULL;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        assert_int_equal(target_parse(&target, "127.0.0.1:7", &why), 0);
        assert_int_equal(target_rename(&target, cases[i].name, &why), 0);
        assert_string_equal(target.name, cases[i].expected);
        assert_string_equal(target.authority, cases[i].authority);
        assert_string_equal(target.text, "127.0.0.1:7");
        assert_string_equal(target.host, "127.0.0.1");
        assert_string_equal(target.port, "7");
    }
    for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
        assert_int_equal(target_parse(&target, "127.0.0.1:7", &why), 0);
        why = NULL;
        assert_int_equal(target_rename(&target, wrong[i], &why), -EINVAL);
        assert_non_null(why);
        assert_string_equal(target.name, "127.0.0.1");
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
        {"unix:", "there is no path"},
        {"unix://", "on no host"},
        {"unix://host/path", "on no host"},
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
        cmocka_unit_test(names_are_without_port_brackets_and_scope),
        cmocka_unit_test(reads_paths_of_unix_sockets),
        cmocka_unit_test(long_paths_fit_or_are_refused),
        cmocka_unit_test(another_name_replaces_name_and_authority),
        cmocka_unit_test(tells_what_is_wrong),
        cmocka_unit_test(long_hosts_fit_or_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
