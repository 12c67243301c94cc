/* Ranges of addresses: their text, and what is in them. */
#include "base/ranges.h"

#include "base/address.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct range range(const char *text)
{
    struct range range;
    const char *why = NULL;

    memset(&range, 0xff, sizeof range);
    if (range_parse(text, strlen(text), &range, &why) < 0)
        fail_msg("\"%s\": %s", text, why);
    return range;
}

static struct sockaddr_storage at(const char *text)
{
    struct sockaddr_storage address;

    assert_int_equal(address_parse(text, strlen(text), &address, NULL), 0);
    return address;
}

static void reads_and_writes(void **state)
{
    static const struct {
        const char *text;
        int family;
        unsigned prefix_bits;
        const char *written;
    } cases[] = {
        {"10.0.0.0/8", AF_INET, 8, "10.0.0.0/8"},
        {"192.0.2.7", AF_INET, 32, "192.0.2.7"},
        {"192.0.2.7/32", AF_INET, 32, "192.0.2.7"},
        {"192.0.2.6/31", AF_INET, 31, "192.0.2.6/31"},
        {"0.0.0.0/0", AF_INET, 0, "0.0.0.0/0"},
        {"10.0.0.0/008", AF_INET, 8, "10.0.0.0/8"},
        {"::/0", AF_INET6, 0, "::/0"},
        {"::1", AF_INET6, 128, "::1"},
        {"2001:DB8::/32", AF_INET6, 32, "2001:db8::/32"},
        {"2001:db8:8000::/33", AF_INET6, 33, "2001:db8:8000::/33"},
        {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", AF_INET6, 127,
         "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"},
        {"::ffff:192.0.2.7", AF_INET, 32, "192.0.2.7"},
        {"::ffff:10.0.0.0/104", AF_INET, 8, "10.0.0.0/8"},
        {"::ffff:0:0/96", AF_INET, 0, "0.0.0.0/0"},
        {"unix", AF_UNIX, 0, "unix"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct range one = range(cases[i].text);
        struct range again;
        char text[RANGE_TEXT_MAX];

        assert_int_equal(one.family, cases[i].family);
        assert_int_equal(one.prefix_bits, cases[i].prefix_bits);
        assert_string_equal(range_format(&one, text), cases[i].written);
        again = range(text);
        assert_int_equal(again.family, one.family);
        assert_int_equal(again.prefix_bits, one.prefix_bits);
        assert_memory_equal(again.address, one.address, sizeof one.address);
    }
}

static void faults(void **state)
{
    static const struct {
        const char *text;
        const char *why;
    } cases[] = {
        {"", "\"\" is neither a numeric address without a port nor \"unix\""},
        {"localhost", "\"localhost\" is neither"},
        {"10.0.0", "\"10.0.0\" is neither"},
        {"10.0.0.1:80", "\"10.0.0.1:80\" is neither"},
        {"[::1]", "\"[::1]\" is neither"},
        {"fe80::1%lo", "\"fe80::1%lo\" is neither"},
        {" 10.0.0.1", "is neither"},
        {"unix:/a", "\"unix:\" is neither"},
        {"unix/8", "\"unix\" is neither"},
        {"/8", "\"\" is neither"},
        {"0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000",
         "is neither"},
        {"10.0.0.0/", "the length of its prefix is \"\", not a number from 0 to 32"},
        {"10.0.0.0/33", "the length of its prefix is \"33\", not a number from 0 to 32"},
        {"10.0.0.0/-1", "prefix is \"-1\", not"},
        {"10.0.0.0/+8", "prefix is \"+8\", not"},
        {"10.0.0.0/8/8", "prefix is \"8/8\", not"},
        {"10.0.0.0/255.0.0.0", "prefix is \"255.0.0.0\", not"},
        {"10.0.0.0/4294967304", "prefix is \"4294967304\", not"},
        {"::/129", "prefix is \"129\", not a number from 0 to 128"},
        {"10.0.0.1/8", "it has bits beyond its prefix; is 10.0.0.0/8 meant?"},
        {"10.0.0.1/31", "is 10.0.0.0/31 meant?"},
        {"10.0.0.1/0", "is 0.0.0.0/0 meant?"},
        {"2001:db8::1/64", "is 2001:db8::/64 meant?"},
        {"2001:db8:c000::/33", "is 2001:db8:8000::/33 meant?"},
        {"::ffff:0:0/95", "is ::fffe:0:0/95 meant?"},
        {"\033[2J", "\"?[2J\" is neither"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct range one, before;
        const char *why = NULL;

        memset(&one, 0x5a, sizeof one);
        before = one;
        assert_int_equal(range_parse(cases[i].text, strlen(cases[i].text), &one, &why), -EINVAL);
        if (!strstr(why, cases[i].why))
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", cases[i].text, why, cases[i].why);
        assert_memory_equal(&one, &before, sizeof one);
    }
    assert_int_equal(range_parse("10.0.0.1\0", 9, &(struct range){0}, NULL), -EINVAL);
}

/* Only `length` bytes count. */
static void length_counts(void **state)
{
    struct range one;

    assert_int_equal(range_parse("10.0.0.0/16", 10, &one, NULL), -EINVAL);
    assert_int_equal(range_parse("10.0.0.0/88", 10, &one, NULL), 0);
    assert_int_equal(one.prefix_bits, 8);
    assert_int_equal(range_parse("10.0.0.0/8", 8, &one, NULL), 0);
    assert_int_equal(one.prefix_bits, 32);
}

static void contains(void **state)
{
    static const struct {
        const char *range;
        const char *address;
        bool inside;
    } cases[] = {
        {"10.0.0.0/8", "10.0.0.0:1", true},
        {"10.0.0.0/8", "10.255.255.255:1", true},
        {"10.0.0.0/8", "11.0.0.0:1", false},
        {"10.0.0.0/8", "9.255.255.255:1", false},
        {"192.0.2.4/30", "192.0.2.7:1", true},
        {"192.0.2.4/30", "192.0.2.8:1", false},
        {"192.0.2.4/30", "192.0.2.3:1", false},
        {"192.0.2.7", "192.0.2.7:1", true},
        {"192.0.2.7", "192.0.2.6:1", false},
        {"128.0.0.0/1", "255.0.0.0:1", true},
        {"128.0.0.0/1", "127.255.255.255:1", false},
        {"0.0.0.0/0", "203.0.113.1:1", true},
        {"0.0.0.0/0", "[::1]:1", false},
        {"::/0", "[2001:db8::1]:1", true},
        {"::/0", "203.0.113.1:1", false},
        {"::1", "[::1]:1", true},
        {"::1", "[::2]:1", false},
        {"2001:db8::/33", "[2001:db8:7fff:ffff::]:1", true},
        {"2001:db8::/33", "[2001:db8:8000::]:1", false},
        {"fe80::/10", "[fe80::1%7]:1", true},
        {"fe80::/10", "[fec0::1]:1", false},
        {"a00::/8", "10.0.0.1:1", false}, /* the same first byte */
        {"unix", "unix:/run/x", true},
        {"unix", "0.0.0.0:0", false},
        {"0.0.0.0/0", "unix:/run/x", false},
        {"::/0", "unix:/run/x", false},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct range one = range(cases[i].range);
        struct sockaddr_storage address = at(cases[i].address);

        if (range_contains(&one, (struct sockaddr *)&address) != cases[i].inside)
            fail_msg("%s in %s", cases[i].address, cases[i].range);
    }
}

/* What accept() gives for IPv4 peers of a socket that takes IPv6 too, and for Unix sockets. */
static void contains_what_the_kernel_gives(void **state)
{
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6};
    struct sockaddr unnamed = {.sa_family = AF_UNIX}, other = {.sa_family = AF_NETLINK};
    const struct range ipv4 = range("192.0.2.0/24"), everything = range("::/0"),
                       socket = range("unix");

    assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.99", &mapped.sin6_addr), 1);
    assert_true(range_contains(&ipv4, (struct sockaddr *)&mapped));
    assert_false(range_contains(&everything, (struct sockaddr *)&mapped));
    assert_true(range_contains(&socket, &unnamed));
    assert_false(range_contains(&socket, &other));
    assert_false(range_contains(&everything, &other));
}

static void lists(void **state)
{
    const struct range ranges[] = {range("10.0.0.0/8"), range("::1"), range("unix")};
    struct sockaddr_storage inside = at("[::1]:1"), outside = at("192.0.2.1:1");

    assert_true(ranges_contain(ranges, 3, (struct sockaddr *)&inside));
    assert_false(ranges_contain(ranges, 1, (struct sockaddr *)&inside));
    assert_false(ranges_contain(ranges, 3, (struct sockaddr *)&outside));
    assert_true(ranges_contain(NULL, 0, (struct sockaddr *)&outside));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_writes),
        cmocka_unit_test(faults),
        cmocka_unit_test(length_counts),
        cmocka_unit_test(contains),
        cmocka_unit_test(contains_what_the_kernel_gives),
        cmocka_unit_test(lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
