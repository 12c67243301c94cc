/*
 * Entries for the journal, with a socket of this test in the place of journald's.
 */
#include "base/journal.h"

#include "base/util.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_S 20

static char folder[] = "/tmp/test-journal-XXXXXX";
static char path[sizeof(folder) + sizeof("/socket")];
static int journald = -1;

static int set_up(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/socket", folder);
    (void)strcpy(address.sun_path, path);
    journald = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(journald, (const struct sockaddr *)&address, sizeof address), 0);
    (void)alarm(PATIENCE_S); /* who waits for ever has failed */
    return 0;
}

static int tear_down(void **state)
{
    (void)alarm(0);
    (void)close(journald);
    (void)unlink(path);
    assert_int_equal(rmdir(folder), 0);
    (void)strcpy(folder + strlen(folder) - 6, "XXXXXX");
    return 0;
}

static struct iovec field_of(const char *text)
{
    return (struct iovec){(void *)text, strlen(text)};
}

/* The next field of an entry must be this one; what is behind it. */
static const char *expect_field(const char *entry, const char *name, const char *value)
{
    uint64_t size;

    assert_memory_equal(entry, name, strlen(name));
    entry += strlen(name);
    assert_int_equal(*entry++, '\n');
    memcpy(&size, entry, sizeof size);
    assert_int_equal(le64toh(size), strlen(value));
    entry += sizeof size;
    assert_memory_equal(entry, value, strlen(value));
    entry += strlen(value);
    assert_int_equal(*entry++, '\n');
    return entry;
}

/* Whatever is in a value, it makes no other field. */
static void test_fields(void **state)
{
    const struct iovec fields[] = {
        field_of("MESSAGE=a message"),
        field_of("STOCKD_PEER=me\nSTOCKD_EVENT=forged\n"),
        field_of("STOCKD_REASON=a=b"),
        field_of("STOCKD_ERROR="),
    };
    char entry[1024];
    const char *end = entry;
    ssize_t n;

    assert_int_equal(journal_send(path, fields, ELEMENTSOF(fields), false), 0);
    n = recv(journald, entry, sizeof entry, 0);
    assert_in_range(n, 1, (ssize_t)sizeof entry - 1);
    end = expect_field(end, "MESSAGE", "a message");
    end = expect_field(end, "STOCKD_PEER", "me\nSTOCKD_EVENT=forged\n");
    end = expect_field(end, "STOCKD_REASON", "a=b");
    end = expect_field(end, "STOCKD_ERROR", "");
    assert_ptr_equal(end, entry + n);
}

static void test_no_field(void **state)
{
    const struct iovec none[] = {field_of("MESSAGE")}, nameless[] = {field_of("=value")};
    const struct iovec good = field_of("MESSAGE=good");
    struct iovec many[JOURNAL_FIELDS_MAX + 1];
    char entry[1024];

    for (unsigned i = 0; i < ELEMENTSOF(many); i++)
        many[i] = good;
    assert_int_equal(journal_send(path, none, 1, false), -EINVAL);
    assert_int_equal(journal_send(path, nameless, 1, false), -EINVAL);
    assert_int_equal(journal_send(path, many, ELEMENTSOF(many), false), -EINVAL);
    assert_int_equal(recv(journald, entry, sizeof entry, 0), -1);
    assert_int_equal(journal_send(path, many, JOURNAL_FIELDS_MAX, false), 0);
    assert_in_range(recv(journald, entry, sizeof entry, 0), 1, sizeof entry);
}

static void test_a_journal_that_does_not_read(void **state)
{
    const struct iovec field = field_of("MESSAGE=one of many");
    unsigned sent = 0, received = 0;
    char entry[1024];
    int r;

    while ((r = journal_send(path, &field, 1, false)) == 0)
        sent++;
    assert_int_equal(r, -EAGAIN);
    while (recv(journald, entry, sizeof entry, 0) > 0)
        received++;
    assert_int_equal(received, sent);
    assert_int_equal(journal_send(path, &field, 1, false), 0);
}

/* Reads what comes, the empty datagram behind the last entry included. */
static void *read_late(void *unused)
{
    char entry[1024];
    ssize_t n;

    do {
        (void)poll(NULL, 0, 5);
        n = recv(journald, entry, sizeof entry, 0);
    } while (n != 0);
    return NULL;
}

static void test_settling(void **state)
{
    const struct iovec field = field_of("MESSAGE=the last words");
    char entry[1024];
    pthread_t reader;

    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(journal_send(path, &field, 1, false), 0);
    /* Nobody reads; then somebody reads all but the last datagram. */
    assert_int_equal(journal_settle(path, 20), -ETIMEDOUT);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(recv(journald, entry, sizeof entry, 0), 31);
    assert_int_equal(journal_settle(path, 20), -ETIMEDOUT);
    assert_int_equal(recv(journald, entry, sizeof entry, 0), 0);
    assert_int_equal(recv(journald, entry, sizeof entry, 0), 0);
    assert_int_equal(journal_send(path, &field, 1, false), 0);
    assert_int_equal(pthread_create(&reader, NULL, read_late, NULL), 0);
    assert_int_equal(journal_settle(path, PATIENCE_S * 1000), 0);
    assert_int_equal(pthread_join(reader, NULL), 0);
    /* Nor does one wait that takes nothing more. */
    while (journal_send(path, &field, 1, false) == 0)
        ;
    assert_int_equal(journal_settle(path, 20), -ETIMEDOUT);
}

static void test_no_journal(void **state)
{
    const struct iovec field = field_of("MESSAGE=for nobody");
    char long_path[200];

    assert_int_equal(journal_send("/nowhere/socket", &field, 1, true), -ENOENT);
    memset(long_path, 'x', sizeof long_path);
    long_path[sizeof long_path - 1] = '\0';
    assert_int_equal(journal_send(long_path, &field, 1, true), -EINVAL);
    (void)close(journald);
    journald = -1;
    assert_int_equal(journal_send(path, &field, 1, true), -ECONNREFUSED);
    assert_int_equal(journal_settle(path, PATIENCE_S * 1000), -ECONNREFUSED);
    assert_int_equal(journal_settle(long_path, PATIENCE_S * 1000), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fields, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_field, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_journal_that_does_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_settling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_journal, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
