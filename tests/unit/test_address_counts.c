/* Connections of each address: what counts as one, and a table that grows, shrinks and forgets. */
#include "net/address_counts.h"

#include "base/address.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct sockaddr_storage at(const char *text)
{
    struct sockaddr_storage address;

    assert_int_equal(address_parse(text, strlen(text), &address, NULL), 0);
    return address;
}

static void add(struct address_counts *counts, const char *text)
{
    struct sockaddr_storage address = at(text);

    assert_int_equal(address_counts_add(counts, (struct sockaddr *)&address), 0);
}

static void take(struct address_counts *counts, const char *text)
{
    struct sockaddr_storage address = at(text);

    address_counts_remove(counts, (struct sockaddr *)&address);
}

static uint32_t get(const struct address_counts *counts, const char *text)
{
    struct sockaddr_storage address = at(text);

    return address_counts_get(counts, (struct sockaddr *)&address);
}

/* The IPv4 address with this number. */
static struct sockaddr_in numbered(uint32_t number)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(number)};
}

static void ports_do_not_matter(void **state)
{
    struct address_counts counts = {0};

    assert_int_equal(get(&counts, "10.0.0.1:1"), 0);
    add(&counts, "10.0.0.1:1");
    add(&counts, "10.0.0.1:65535");
    add(&counts, "10.0.0.2:1");
    assert_int_equal(get(&counts, "10.0.0.1:7"), 2);
    assert_int_equal(get(&counts, "10.0.0.2:7"), 1);
    assert_int_equal(get(&counts, "10.0.0.3:1"), 0);
    take(&counts, "10.0.0.1:9");
    assert_int_equal(get(&counts, "10.0.0.1:1"), 1);
    address_counts_deinit(&counts);
    assert_int_equal(get(&counts, "10.0.0.1:1"), 0);
}

static void ipv6_counts_by_its_first_half(void **state)
{
    struct address_counts counts = {0};

    add(&counts, "[2001:db8:0:1::1]:1");
    add(&counts, "[2001:db8:0:1:ffff:ffff:ffff:ffff]:1");
    add(&counts, "[2001:db8:0:2::1]:1");
    assert_int_equal(get(&counts, "[2001:db8:0:1:5::]:1"), 2);
    assert_int_equal(get(&counts, "[2001:db8:0:2::1]:1"), 1);
    assert_int_equal(get(&counts, "[2001:db8:0:3::1]:1"), 0);
    take(&counts, "[2001:db8:0:1:7::]:1");
    assert_int_equal(get(&counts, "[2001:db8:0:1::1]:1"), 1);
    address_counts_deinit(&counts);
}

/* As the peers of a socket look that takes IPv4 and IPv6. */
static void mapped_addresses_are_ipv4(void **state)
{
    struct address_counts counts = {0};
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(80)};

    assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.7", &mapped.sin6_addr), 1);
    assert_int_equal(address_counts_add(&counts, (struct sockaddr *)&mapped), 0);
    assert_int_equal(get(&counts, "192.0.2.7:1"), 1);
    /* Otherwise all of IPv4 would be one: it has the first half in common. */
    assert_int_equal(get(&counts, "192.0.2.8:1"), 0);
    assert_int_equal(get(&counts, "[::1]:1"), 0);
    take(&counts, "192.0.2.7:2");
    assert_int_equal(address_counts_get(&counts, (struct sockaddr *)&mapped), 0);
    address_counts_deinit(&counts);
}

static void families_are_apart(void **state)
{
    struct address_counts counts = {0};
    struct sockaddr unnamed = {.sa_family = AF_UNIX};

    add(&counts, "unix:/a");
    add(&counts, "unix:/b");
    assert_int_equal(address_counts_add(&counts, &unnamed), 0);
    add(&counts, "[::]:1");
    add(&counts, "0.0.0.0:1");
    assert_int_equal(get(&counts, "unix:/c"), 3);
    assert_int_equal(get(&counts, "[::]:2"), 1);
    assert_int_equal(get(&counts, "0.0.0.0:2"), 1);
    address_counts_deinit(&counts);
}

static void unknown_addresses_cannot_be_removed(void **state)
{
    struct address_counts counts = {0};

    take(&counts, "10.0.0.1:1");
    add(&counts, "10.0.0.1:1");
    take(&counts, "10.0.0.2:1");
    assert_int_equal(get(&counts, "10.0.0.1:1"), 1);
    assert_int_equal(counts.used, 1);
    take(&counts, "10.0.0.1:1");
    take(&counts, "10.0.0.1:1");
    assert_int_equal(get(&counts, "10.0.0.1:1"), 0);
    assert_int_equal(counts.used, 0);
}

/* Memory follows the number of addresses that have connections, both ways. */
static void grows_and_shrinks(void **state)
{
    enum { MANY = 20000 };
    struct address_counts counts = {0};
    uint32_t largest = 0;

    for (uint32_t i = 0; i < MANY; i++) {
        struct sockaddr_in address = numbered(i);

        assert_int_equal(address_counts_add(&counts, (struct sockaddr *)&address), 0);
        assert_true(counts.used < counts.capacity);
    }
    largest = counts.capacity;
    assert_int_equal(counts.used, MANY);
    assert_true(largest <= 4 * MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        struct sockaddr_in address = numbered(i);

        assert_int_equal(address_counts_get(&counts, (struct sockaddr *)&address), 1);
        address_counts_remove(&counts, (struct sockaddr *)&address);
        assert_int_equal(address_counts_get(&counts, (struct sockaddr *)&address), 0);
        assert_true(counts.capacity <= 16 || counts.used >= counts.capacity / 8);
    }
    assert_null(counts.slots);
    assert_int_equal(counts.capacity, 0);
    assert_int_equal(counts.used, 0);
}

/* Two tables never put the same addresses at the same places, but for a chance of 2^-64. */
static void seeds_differ(void **state)
{
    struct address_counts one = {0}, other = {0};

    add(&one, "10.0.0.1:1");
    add(&other, "10.0.0.1:1");
    assert_true(one.seed != other.seed);
    address_counts_deinit(&one);
    address_counts_deinit(&other);
}

/* xorshift: the same numbers in each run, so that a failure can be found again. */
static uint32_t random_number(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* IPv4 and IPv6 addresses in turn; those of a pair look the same but for their family. */
static struct sockaddr_storage some_address(uint32_t index)
{
    const uint32_t first = htonl(0x0a000000 + index / 2 * 0x10001);
    struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_addr.s_addr = first};
    struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6};
    struct sockaddr_storage address = {0};

    memcpy(&ipv6.sin6_addr, &first, sizeof first);
    if (index % 2 == 0)
        memcpy(&address, &ipv4, sizeof ipv4);
    else
        memcpy(&address, &ipv6, sizeof ipv6);
    return address;
}

enum { ADDRESSES = 300, STEPS = 200000 };

static void compare(const struct address_counts *counts, const uint32_t model[])
{
    for (uint32_t i = 0; i < ADDRESSES; i++) {
        struct sockaddr_storage address = some_address(i);

        assert_int_equal(address_counts_get(counts, (struct sockaddr *)&address), model[i]);
    }
}

/* Against an array of counts: whatever comes and goes, the two agree. */
static void agrees_with_a_model(void **state)
{
    static uint32_t model[ADDRESSES];
    struct address_counts counts = {0};
    uint32_t random = 2463534242, total = 0;

    for (uint32_t step = 0; step < STEPS; step++) {
        /* Times in which more come alternate with times in which more go. */
        uint32_t likely = step / 5000 % 2 == 0 ? 70 : 30;
        uint32_t index = random_number(&random) % ADDRESSES;
        struct sockaddr_storage address = some_address(index);

        if (random_number(&random) % 100 < likely) {
            assert_int_equal(address_counts_add(&counts, (struct sockaddr *)&address), 0);
            total += model[index]++ == 0;
        } else if (model[index] > 0) {
            address_counts_remove(&counts, (struct sockaddr *)&address);
            total -= --model[index] == 0;
        }
        assert_int_equal(counts.used, total);
        if (step % 500 == 0)
            compare(&counts, model);
    }
    for (uint32_t i = 0; i < ADDRESSES; i++)
        for (; model[i] > 0; model[i]--) {
            struct sockaddr_storage address = some_address(i);

            assert_int_equal(address_counts_get(&counts, (struct sockaddr *)&address), model[i]);
            address_counts_remove(&counts, (struct sockaddr *)&address);
        }
    assert_null(counts.slots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_do_not_matter),
        cmocka_unit_test(ipv6_counts_by_its_first_half),
        cmocka_unit_test(mapped_addresses_are_ipv4),
        cmocka_unit_test(families_are_apart),
        cmocka_unit_test(unknown_addresses_cannot_be_removed),
        cmocka_unit_test(grows_and_shrinks),
        cmocka_unit_test(seeds_differ),
        cmocka_unit_test(agrees_with_a_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
