/*
 * Which places a program listens on, where a service manager may have passed sockets.
 */
#include "places.h"

#include "base/address.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

#define MOST 20

/* What is passed: up to the first without a name. Descriptors count from 3. */
struct passed {
    const char *name;
    const char *address; /* as address_parse() takes it */
};

static struct systemd_sockets passed_of(const struct passed *passed)
{
    struct systemd_sockets sockets = {calloc(MOST, sizeof *sockets.sockets), 0};

    assert_non_null(sockets.sockets);
    for (; passed[sockets.count].name; sockets.count++) {
        const struct passed *one = &passed[sockets.count];
        struct systemd_socket *socket = &sockets.sockets[sockets.count];

        (void)snprintf(socket->name, sizeof socket->name, "%s", one->name);
        socket->fd = 3 + (int)sockets.count;
        assert_int_equal(address_parse(one->address, strlen(one->address), &socket->address, NULL),
                         0);
    }
    return sockets;
}

/* The settings: up to the first NULL. */
static struct config_endpoints wanted_of(const char *const *texts)
{
    struct config_endpoints wanted = {calloc(MOST, sizeof *wanted.endpoints), 0};

    assert_non_null(wanted.endpoints);
    for (; texts[wanted.count]; wanted.count++) {
        const char *text = texts[wanted.count], *why = "";

        if (endpoint_parse(text, strlen(text), &wanted.endpoints[wanted.count], &why) < 0)
            fail_msg("%s: %s", text, why);
    }
    return wanted;
}

struct choice {
    const char *wanted[4];
    struct passed passed[4];
    const char *places[4]; /* as endpoint_format() has them */
    int fds[4];            /* 0: its own */
};

static void assert_choice(const char *group, const struct choice *choice)
{
    struct config_endpoints wanted = wanted_of(choice->wanted), places = {0};
    struct systemd_sockets sockets = passed_of(choice->passed);
    char error[PLACES_ERROR_MAX] = "";
    int r = places_choose(group, &wanted, &sockets, &places, error);

    if (r < 0)
        fail_msg("%s", error);
    /* What is chosen is a copy. */
    config_endpoints_deinit(&wanted);
    free(sockets.sockets);
    for (unsigned i = 0; i < places.count; i++) {
        char *text = endpoint_format(&places.endpoints[i]);

        assert_non_null(choice->places[i]);
        assert_string_equal(text, choice->places[i]);
        assert_int_equal(places.endpoints[i].passed, choice->fds[i]);
        free(text);
    }
    assert_null(choice->places[places.count]);
    config_endpoints_deinit(&places);
}

static void test_nothing_passed(void **state)
{
    static const struct choice choices[] = {
        {.wanted = {NULL}},
        {.wanted = {"[::]:4444", "127.0.0.1:4443 tls=yes certificate=/c key=/k client_ca=/ca",
                    "unix:/s mode=0600 owner=o group=g"},
         .places = {"[::]:4444", "127.0.0.1:4443 tls=yes certificate=/c key=/k client_ca=/ca",
                    "unix:/s mode=0600 owner=o group=g"}},
        /* For others. */
        {.wanted = {"[::]:4444"},
         .passed = {{"metrics", "[::]:4444"}, {"metrics-tls", "[::]:1"}},
         .places = {"[::]:4444"}},
        {.wanted = {"[::]:4444"},
         .passed = {{"grp", "[::]:1"}, {"grpc2", "[::]:2"}, {"grpc-tl", "[::]:3"}},
         .places = {"[::]:4444"}},
        {.wanted = {"[::]:4444"},
         .passed = {{"grpc-tls-tls", "[::]:1"}, {"", "[::]:2"}, {"GRPC", "[::]:3"}},
         .places = {"[::]:4444"}},
    };

    for (size_t i = 0; i < ELEMENTSOF(choices); i++)
        assert_choice("grpc", &choices[i]);
}

static void test_passed(void **state)
{
    static const struct choice choices[] = {
        /* In place of the whole list, in the order of the manager. */
        {.wanted = {"[::]:4444", "[::]:4443 tls=yes"},
         .passed = {{"metrics", "[::]:2112"}, {"grpc", "[::]:2"}, {"grpc", "127.0.0.1:1"}},
         .places = {"[::]:2", "127.0.0.1:1"},
         .fds = {4, 5}},
        {.wanted = {NULL},
         .passed = {{"grpc", "unix:/run/a"}},
         .places = {"unix:/run/a"},
         .fds = {3}},
        /* TLS by name, by address, and by both. */
        {.wanted = {"[::]:4443 tls=yes client_certificate=required certificate=/c key=/k",
                    "[::]:1"},
         .passed = {{"grpc-tls", "[::]:5"}, {"grpc", "[::]:4443"}, {"grpc", "[::]:1"}},
         .places = {"[::]:5 tls=yes",
                    "[::]:4443 tls=yes client_certificate=required certificate=/c key=/k",
                    "[::]:1"},
         .fds = {3, 4, 5}},
        {.wanted = {"[::]:4443 tls=yes client_ca=/ca"},
         .passed = {{"grpc-tls", "[::]:4443"}},
         .places = {"[::]:4443 tls=yes client_ca=/ca"},
         .fds = {3}},
    };

    for (size_t i = 0; i < ELEMENTSOF(choices); i++)
        assert_choice("grpc", &choices[i]);
}

/* Each of them is looked for where the settings have but one with TLS. */
static void test_addresses(void **state)
{
    static const struct {
        const char *wanted;
        const char *passed;
        bool same;
    } cases[] = {
        {"[::]:4444", "[::]:4444", true},
        {":4444", "[::]:4444", true},
        {"[::]:4444", "[::]:4445", false},
        {"[::]:4444", "[::1]:4444", false},
        {"[0:0::0]:4444", "[::]:4444", true},
        {"127.0.0.1:4444", "127.0.0.1:4444", true},
        {"127.0.0.1:4444", "127.0.0.2:4444", false},
        {"127.0.0.1:4444", "[::1]:4444", false},
        {"127.0.0.1:0", "127.0.0.1:4444", false},
        {"0.0.0.0:4444", "0.0.0.0:4444", true},
        {"0.0.0.0:4444", "[::]:4444", false},
        /* Where there is no IPv6, this is every address. */
        {"[::]:4444", "0.0.0.0:4444", true},
        {"[::]:4444", "0.0.0.0:4445", false},
        {"[::]:4444", "127.0.0.1:4444", false},
        {"[fe80::1%1]:4444", "[fe80::1%1]:4444", true},
        {"[fe80::1%1]:4444", "[fe80::1%2]:4444", false},
        {"unix:/run/a", "unix:/run/a", true},
        {"unix:/run/a", "unix:/run/ab", false},
        {"unix:/run/ab", "unix:/run/a", false},
        {"unix:/run/a", "[::]:4444", false},
        {"[::]:4444", "unix:/run/a", false},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct choice choice = {.passed = {{"grpc", cases[i].passed}}, .fds = {3}};
        char wanted[80], place[80];

        (void)snprintf(wanted, sizeof wanted, "%s tls=yes", cases[i].wanted);
        choice.wanted[0] = wanted;
        {
            struct sockaddr_storage address;
            char text[ADDRESS_TEXT_MAX];

            assert_int_equal(
                address_parse(cases[i].passed, strlen(cases[i].passed), &address, NULL), 0);
            (void)snprintf(place, sizeof place, "%s%s",
                           address_format((const struct sockaddr *)&address, text),
                           cases[i].same ? " tls=yes" : "");
        }
        choice.places[0] = place;
        assert_choice("grpc", &choice);
    }
}

/* The kernel says of an IPv6 socket for an IPv4 address that it is one. */
static void test_mapped_address(void **state)
{
    static const struct passed passed[] = {{"grpc", "127.0.0.1:4444"}, {NULL}};
    static const char *const texts[] = {"127.0.0.1:4444 tls=yes", NULL};
    struct sockaddr_in6 mapped = {
        .sin6_family = AF_INET6,
        .sin6_port = htons(4444),
        .sin6_flowinfo = htonl(7), /* counts for nothing */
        .sin6_addr.s6_addr = {[10] = 0xff, [11] = 0xff, 127, 0, 0, 1},
    };
    struct config_endpoints wanted = wanted_of(texts), places;
    struct systemd_sockets sockets = passed_of(passed);
    char error[PLACES_ERROR_MAX];

    memset(&sockets.sockets[0].address, 0, sizeof sockets.sockets[0].address);
    memcpy(&sockets.sockets[0].address, &mapped, sizeof mapped);
    assert_int_equal(places_choose("grpc", &wanted, &sockets, &places, error), 0);
    assert_int_equal(places.count, 1);
    assert_true(places.endpoints[0].tls);
    config_endpoints_deinit(&places);
    config_endpoints_deinit(&wanted);
    free(sockets.sockets);
}

/* "@stockd" is no path, and all of them look alike to who reads them as one. */
static void test_socket_without_a_file(void **state)
{
    static const struct passed passed[] = {{"grpc", "unix:/a"}, {NULL}};
    static const char *const texts[] = {"unix:/stockd tls=yes", NULL};
    struct config_endpoints wanted = wanted_of(texts), places;
    struct systemd_sockets sockets = passed_of(passed);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0stockd"};
    char error[PLACES_ERROR_MAX];

    memcpy(&sockets.sockets[0].address, &address, sizeof address);
    assert_int_equal(places_choose("grpc", &wanted, &sockets, &places, error), 0);
    assert_int_equal(places.count, 1);
    assert_false(places.endpoints[0].tls);
    assert_int_equal(places.endpoints[0].passed, 3);
    config_endpoints_deinit(&places);
    config_endpoints_deinit(&wanted);
    free(sockets.sockets);
}

static void test_exact_address_first(void **state)
{
    static const struct choice choice = {
        .wanted = {"[::]:4444 tls=yes", "0.0.0.0:4444"},
        .passed = {{"grpc", "0.0.0.0:4444"}},
        .places = {"0.0.0.0:4444"},
        .fds = {3},
    };

    assert_choice("grpc", &choice);
}

static void assert_no_choice(const char *const *texts, const struct passed *passed, const char *why)
{
    struct config_endpoints wanted = wanted_of(texts), places = {.count = 7};
    struct systemd_sockets sockets = passed_of(passed);
    char error[PLACES_ERROR_MAX] = "";

    assert_int_equal(places_choose("metrics", &wanted, &sockets, &places, error), -EINVAL);
    assert_string_equal(error, why);
    assert_int_equal(places.count, 7);
    config_endpoints_deinit(&wanted);
    free(sockets.sockets);
}

static void test_faults(void **state)
{
    static const char *const none[] = {NULL};
    static const char *const plain[] = {"[::]:2112", NULL};
    static const struct passed tls[] = {
        {"metrics-tls", "[::]:1"}, {"metrics-tls", "[::]:2112"}, {NULL}};
    struct passed many[MOST] = {{NULL}};

    assert_no_choice(plain, tls,
                     "the service manager passes [::]:2112 as metrics-tls, for TLS, but "
                     "metrics.listen has that address without tls=yes");
    for (int i = 0; i <= CONFIG_ENDPOINTS_MAX; i++)
        many[i] = (struct passed){"metrics", "[::]:1"};
    assert_no_choice(none, many, "the service manager passes 17 sockets for metrics, more than 16");
}

static void test_most(void **state)
{
    static const char *const none[] = {NULL};
    struct config_endpoints wanted = wanted_of(none), places;
    struct passed many[MOST] = {{NULL}};
    struct systemd_sockets sockets;
    char error[PLACES_ERROR_MAX];

    for (int i = 0; i < CONFIG_ENDPOINTS_MAX; i++)
        many[i] = (struct passed){"grpc", "[::]:1"};
    many[CONFIG_ENDPOINTS_MAX] = (struct passed){"metrics", "[::]:1"};
    sockets = passed_of(many);
    assert_int_equal(places_choose("grpc", &wanted, &sockets, &places, error), 0);
    assert_int_equal(places.count, CONFIG_ENDPOINTS_MAX);
    config_endpoints_deinit(&places);
    config_endpoints_deinit(&wanted);
    free(sockets.sockets);
}

static void test_names(void **state)
{
    static const char *const groups[] = {"grpc", "metrics"};
    static const struct passed good[] = {{"grpc", "[::]:1"},
                                         {"grpc-tls", "[::]:2"},
                                         {"metrics", "[::]:3"},
                                         {"metrics-tls", "unix:/run/m"},
                                         {NULL}};
    static const struct passed bad[] = {{"grpc", "[::]:1"}, {"stockd.socket", "[::]:4444"}, {NULL}};
    static const struct passed nearly[] = {{"grpc-", "unix:/run/m"}, {NULL}};
    struct systemd_sockets sockets = passed_of(good);
    char error[PLACES_ERROR_MAX] = "";

    assert_int_equal(places_check(groups, 2, &sockets, error), 0);
    assert_string_equal(error, "");
    sockets.count = 0;
    assert_int_equal(places_check(groups, 2, &sockets, error), 0);
    free(sockets.sockets);

    sockets = passed_of(bad);
    assert_int_equal(places_check(groups, 2, &sockets, error), -EINVAL);
    assert_string_equal(error, "the service manager passes a socket named \"stockd.socket\" "
                               "([::]:4444), but names are grpc, grpc-tls, metrics, metrics-tls "
                               "(FileDescriptorName= in its unit)");
    free(sockets.sockets);

    sockets = passed_of(nearly);
    assert_int_equal(places_check(groups, 2, &sockets, error), -EINVAL);
    assert_non_null(strstr(error, "\"grpc-\" (unix:/run/m)"));
    free(sockets.sockets);
}

/* What the settings ask for, as against where the sockets are. */
static void test_have(void **state)
{
    static const struct passed passed[] = {
        {"grpc", "[::1]:4444"}, {"grpc", "0.0.0.0:4445"}, {"grpc", "unix:/run/g"}, {NULL}};
    static const struct {
        const char *wanted;
        bool had;
    } cases[] = {
        {"[::1]:4444", true},   {"[::1]:4445", false},       {"127.0.0.1:4444", false},
        {"0.0.0.0:4445", true}, {"[::]:4445 tls=yes", true}, {"[::]:4444", false},
        {"unix:/run/g", true},  {"unix:/run/h", false},
    };
    struct systemd_sockets sockets = passed_of(passed);
    struct config_endpoints none = {0}, places = {0};
    char error[PLACES_ERROR_MAX];

    (void)state;
    assert_int_equal(places_choose("grpc", &none, &sockets, &places, error), 0);
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct config_endpoints wanted = wanted_of((const char *const[]){cases[i].wanted, NULL});

        assert_int_equal(places_have(&places, &wanted.endpoints[0]), cases[i].had);
        assert_false(places_have(&none, &wanted.endpoints[0]));
        config_endpoints_deinit(&wanted);
    }
    config_endpoints_deinit(&places);
    free(sockets.sockets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_passed),
        cmocka_unit_test(test_passed),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_mapped_address),
        cmocka_unit_test(test_socket_without_a_file),
        cmocka_unit_test(test_exact_address_first),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_most),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_have),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
