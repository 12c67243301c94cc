/*
 * Socket addresses as text, and sockets that listen on them. socket() and bind() of this file stand
 * in for libc's, to make a machine without IPv6 of any.
 */
#include "base/address.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

/* What calls for IPv6 fail with; 0: they work. */
static int socket_error, bind_error;

int socket(int family, int type, int protocol)
{
    if (family == AF_INET6 && socket_error) {
        errno = socket_error;
        return -1;
    }
    return (int)syscall(SYS_socket, family, type, protocol);
}

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    if (address->sa_family == AF_INET6 && bind_error) {
        errno = bind_error;
        return -1;
    }
    return (int)syscall(SYS_bind, fd, address, size);
}

static void test_reads_and_writes(void **state)
{
    static const struct {
        const char *text;
        int family;
        const char *written;
    } cases[] = {
        {"[::]:4444", AF_INET6, "[::]:4444"},
        {":2112", AF_INET6, "[::]:2112"},
        {"127.0.0.1:0", AF_INET, "127.0.0.1:0"},
        {"0.0.0.0:65535", AF_INET, "0.0.0.0:65535"},
        {"[2001:DB8:0:0:0:0:0:1]:00080", AF_INET6, "[2001:db8::1]:80"},
        {"[::ffff:192.0.2.7]:443", AF_INET, "192.0.2.7:443"},
        {"[fe80::1%lo]:1", AF_INET6, "[fe80::1%lo]:1"},
        {"[fe80::1%4294967295]:1", AF_INET6, "[fe80::1%4294967295]:1"},
        {"unix:/run/stockd/grpc.sock", AF_UNIX, "unix:/run/stockd/grpc.sock"},
        {"unix:/with space:and/@colon:80", AF_UNIX, "unix:/with space:and/@colon:80"},
        {"unix:/", AF_UNIX, "unix:/"},
    };

    (void)state;
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct sockaddr_storage address;
        char text[ADDRESS_TEXT_MAX];

        memset(&address, 0xff, sizeof address);
        assert_int_equal(address_parse(cases[i].text, strlen(cases[i].text), &address, NULL), 0);
        assert_int_equal(address.ss_family, cases[i].family);
        assert_string_equal(address_format((struct sockaddr *)&address, text), cases[i].written);
    }
}

static void test_fields(void **state)
{
    struct sockaddr_storage address;
    struct sockaddr_in6 ipv6;
    struct sockaddr_in ipv4;
    struct sockaddr_un file;

    (void)state;
    assert_int_equal(address_parse("[fe80::1%7]:4444", 16, &address, NULL), 0);
    memcpy(&ipv6, &address, sizeof ipv6);
    assert_int_equal(ntohs(ipv6.sin6_port), 4444);
    assert_int_equal(ipv6.sin6_scope_id, 7);
    assert_int_equal(ipv6.sin6_addr.s6_addr[15], 1);
    assert_int_equal(address_size((struct sockaddr *)&address), sizeof ipv6);

    /* Only `length` bytes count. */
    assert_int_equal(address_parse("10.0.0.1:805", 11, &address, NULL), 0);
    memcpy(&ipv4, &address, sizeof ipv4);
    assert_int_equal(ntohs(ipv4.sin_port), 80);
    assert_int_equal(ntohl(ipv4.sin_addr.s_addr), 0x0a000001);
    assert_int_equal(address_size((struct sockaddr *)&address), sizeof ipv4);

    assert_int_equal(address_parse("unix:/abc", 8, &address, NULL), 0);
    memcpy(&file, &address, sizeof file);
    assert_string_equal(file.sun_path, "/ab");
    assert_int_equal(address_size((struct sockaddr *)&address), sizeof file);
}

static void test_faults(void **state)
{
    static const struct {
        const char *text;
        const char *why;
    } cases[] = {
        {"", "has no port"},
        {"4444", "\"4444\" has no port"},
        {"[::1]", "has no port"},
        {"127.0.0.1", "has no port"},
        {"127.0.0.1:", "the port is missing"},
        {":", "the port is missing"},
        {"[::]:70000", "port 70000 is out of range (0 to 65535)"},
        {"[::]:65536", "port 65536 is out of range (0 to 65535)"},
        {"[::]:99999999999999999999999", "is out of range (0 to 65535)"},
        {"[::]:-1", "\"-1\" is not a port (0 to 65535)"},
        {"[::]:+1", "\"+1\" is not a port"},
        {"[::]:http", "\"http\" is not a port"},
        {"[::]:80 ", "\"80 \" is not a port"},
        {"::1:80", "needs brackets"},
        {"localhost:80", "\"localhost\" is not a numeric address"},
        {"127.0.1:80", "\"127.0.1\" is not a numeric address"},
        {"1.2.3.4.5:80", "is not a numeric address"},
        {" 127.0.0.1:80", "is not a numeric address"},
        {"*:80", "is not a numeric address"},
        {"]:80", "is not a numeric address"},
        {"[:80", "is not a numeric address"},
        {"[]:80", "is not an IPv6 address"},
        {"[127.0.0.1]:80", "\"127.0.0.1\" is not an IPv6 address"},
        {"[::g]:80", "is not an IPv6 address"},
        {"[fe80::1%]:80", "there is no interface \"\""},
        {"[fe80::1%0]:80", "there is no interface \"0\""},
        {"[fe80::1%-1]:80", "there is no interface \"-1\""},
        {"[fe80::1%4294967296]:80", "there is no interface"},
        {"[fe80::1%no-such-if]:80", "there is no interface \"no-such-if\""},
        {"[\033[2J]:80", "\"?[2J\" is not an IPv6 address"},
        {"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:80",
         "is not an IPv6 address"},
        {"00000000000000000000000000000000000000000000000000000000000000000000000001:80",
         "is not a numeric address"},
        {"unix:", "\"unix:\" has no absolute path (such as unix:/run/stockd/grpc.sock)"},
        {"unix:grpc.sock", "\"unix:grpc.sock\" has no absolute path"},
        {"unix:./grpc.sock", "has no absolute path"},
        {"unix:4444", "\"unix:4444\" has no absolute path"},
        {"unix:@stockd", "\"unix:@stockd\" has no file, and so no permissions"},
        {"unix", "\"unix\" has no port"},
        {"Unix:/a", "\"/a\" is not a port"},
    };

    (void)state;
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct sockaddr_storage address, before;
        const char *why = NULL;

        memset(&address, 0x5a, sizeof address);
        before = address;
        assert_int_equal(address_parse(cases[i].text, strlen(cases[i].text), &address, &why),
                         -EINVAL);
        if (!strstr(why, cases[i].why))
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", cases[i].text, why, cases[i].why);
        assert_memory_equal(&address, &before, sizeof address);
        assert_int_equal(address_parse(cases[i].text, strlen(cases[i].text), &address, NULL),
                         -EINVAL);
    }
    assert_int_equal(address_parse("[::]\0:80", 8, &(struct sockaddr_storage){0}, NULL), -EINVAL);
}

/* Addresses come from accept(2) too, where IPv4 peers of a dual-stack socket look like this. */
static void test_formats_mapped(void **state)
{
    struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    char text[ADDRESS_TEXT_MAX];

    (void)state;
    assert_int_equal(inet_pton(AF_INET6, "::ffff:198.51.100.1", &ipv6.sin6_addr), 1);
    assert_string_equal(address_format((struct sockaddr *)&ipv6, text), "198.51.100.1:80");
}

/* The kernel's limit is 108 bytes, and a NUL is one of them. */
static void test_longest_path(void **state)
{
    char text[200] = "unix:/", written[ADDRESS_TEXT_MAX];
    struct sockaddr_storage address;
    const char *why = NULL;

    (void)state;
    memset(text + strlen(text), 'x', 106);
    assert_int_equal(address_parse(text, strlen(text), &address, &why), 0);
    assert_string_equal(address_format((struct sockaddr *)&address, written), text);
    strcat(text, "x");
    assert_int_equal(address_parse(text, strlen(text), &address, &why), -EINVAL);
    assert_string_equal(why, "its path has 108 bytes, but a Unix socket's may have 107 at most");
}

/* Peers of a Unix socket have no address, and the kernel says so in as few bytes as possible. */
static void test_formats_unnamed(void **state)
{
    struct sockaddr address = {.sa_family = AF_UNIX};
    char text[ADDRESS_TEXT_MAX];

    (void)state;
    assert_string_equal(address_format(&address, text), "unix");
}

static void test_formats_longest(void **state)
{
    struct sockaddr_in6 ipv6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(65535), .sin6_scope_id = UINT32_MAX};
    char text[ADDRESS_TEXT_MAX];

    (void)state;
    memset(&ipv6.sin6_addr, 0xff, sizeof ipv6.sin6_addr);
    assert_string_equal(address_format((struct sockaddr *)&ipv6, text),
                        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535");
}

static void test_other_family(void **state)
{
    struct sockaddr address = {.sa_family = AF_NETLINK};
    char text[ADDRESS_TEXT_MAX];

    (void)state;
    assert_string_equal(address_format(&address, text), "unknown");
    assert_int_equal(address_size(&address), 0);
}

static int listen_on(const char *text)
{
    struct sockaddr_storage address;

    assert_int_equal(address_parse(text, strlen(text), &address, NULL), 0);
    return address_listen((struct sockaddr *)&address, 1);
}

/* Closes the socket; returns its address as text, with a port of 1 in place of any. */
static const char *listens_on(int fd)
{
    static char text[ADDRESS_TEXT_MAX];
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int accepts = 0;
    socklen_t accepts_size = sizeof accepts;

    assert_true(fd >= 0);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &accepts_size), 0);
    assert_int_equal(accepts, 1);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)close(fd);
    /* The port is at the same place for both families. */
    assert_true(((struct sockaddr_in *)&address)->sin_port != 0);
    ((struct sockaddr_in *)&address)->sin_port = htons(1);
    return address_format((struct sockaddr *)&address, text);
}

static void test_listens(void **state)
{
    struct sockaddr other = {.sa_family = AF_UNIX};

    assert_string_equal(listens_on(listen_on("127.0.0.1:0")), "127.0.0.1:1");
    assert_string_equal(listens_on(listen_on("[::]:0")), "[::]:1");
    assert_int_equal(listen_on("192.0.2.1:0"), -EADDRNOTAVAIL); /* for documentation */
    assert_int_equal(address_listen(&other, 1), -EAFNOSUPPORT);
}

/* Only the wildcard has a counterpart, and only the want of IPv6 is a reason to take that. */
static void test_listens_without_ipv6(void **state)
{
    socket_error = EAFNOSUPPORT; /* the kernel has none */
    assert_string_equal(listens_on(listen_on("[::]:0")), "0.0.0.0:1");
    assert_int_equal(listen_on("[::1]:0"), -EAFNOSUPPORT);
    assert_string_equal(listens_on(listen_on("127.0.0.1:0")), "127.0.0.1:1");
    socket_error = EMFILE;
    assert_int_equal(listen_on("[::]:0"), -EMFILE);
    socket_error = 0;

    bind_error = EADDRNOTAVAIL; /* it is turned off */
    assert_string_equal(listens_on(listen_on("[::]:0")), "0.0.0.0:1");
    assert_int_equal(listen_on("[::1]:0"), -EADDRNOTAVAIL);
    bind_error = EADDRINUSE;
    assert_int_equal(listen_on("[::]:0"), -EADDRINUSE);
    bind_error = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_and_writes), cmocka_unit_test(test_fields),
        cmocka_unit_test(test_faults),           cmocka_unit_test(test_formats_mapped),
        cmocka_unit_test(test_longest_path),     cmocka_unit_test(test_formats_unnamed),
        cmocka_unit_test(test_formats_longest),  cmocka_unit_test(test_other_family),
        cmocka_unit_test(test_listens),          cmocka_unit_test(test_listens_without_ipv6),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
