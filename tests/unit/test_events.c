/*
 * The table of events: names and identities that the journal, its catalog and people can rely on.
 * That the catalogs, the manual pages and what is really sent agree with it is for
 * tests/system/test_journal.py.
 */
#include "base/events.h"
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* FIELDS_MAX of log.c, without MESSAGE, PRIORITY and SYSLOG_IDENTIFIER. */
#define FIELDS_KEPT 13

static const char *const fields_of[] = {
#define X(identifier, name, id, fields) [EVENT_##identifier] = (fields),
    EVENTS(X)
#undef X
};

/* A random one of version 4, as `systemd-id128 new` makes them, and no other event's. */
static void check_identity(const char *id)
{
    unsigned found = 0;

    assert_int_equal(strlen(id), 32);
    assert_int_equal(strspn(id, "0123456789abcdef"), 32);
    assert_int_equal(id[12], '4');
    for (unsigned i = 0; i < EVENT_COUNT; i++) {
        found += strcmp(event_texts[i].id, id) == 0;
        found += event_client_ids[i] && strcmp(event_client_ids[i], id) == 0;
    }
    assert_int_equal(found, 1);
}

static void test_identities(void **state)
{
    unsigned shared = 0;

    for (unsigned i = 0; i < EVENT_COUNT; i++) {
        check_identity(event_texts[i].id);
        if (event_client_ids[i]) {
            check_identity(event_client_ids[i]);
            shared++;
        }
    }
#define X(identifier, name, id, fields) assert_non_null(event_client_ids[EVENT_##identifier]);
    SHARED_EVENTS(X)
#undef X
#define X(identifier, name, id, fields) shared--;
    SHARED_EVENTS(X)
#undef X
    assert_int_equal(shared, 0);
}

static void test_names(void **state)
{
    for (unsigned i = 0; i < EVENT_COUNT; i++) {
        const char *name = event_texts[i].name;

        assert_in_range(strlen(name), 1, 30);
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz-"), strlen(name));
        assert_true(name[0] != '-' && name[strlen(name) - 1] != '-');
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(name, event_texts[k].name);
    }
}

/* "STOCKD_PEER STOCKD_ERROR?": each once, in upper case, and no more than a message can have. */
static void test_fields(void **state)
{
    for (unsigned i = 0; i < EVENT_COUNT; i++) {
        char seen[1024] = " ", list[512];
        unsigned count = 2; /* MESSAGE_ID and STOCKD_EVENT */
        char *rest = list;
        const char *field;

        assert_true(strlen(fields_of[i]) < sizeof(list));
        memcpy(list, fields_of[i], strlen(fields_of[i]) + 1);
        while ((field = strsep(&rest, " "))) {
            size_t length = strcspn(field, "?");
            char word[80];

            if (*field == '\0') {
                assert_string_equal(fields_of[i], "");
                continue;
            }
            assert_string_equal(field + length, field[length] ? "?" : "");
            /* The journal takes names of 64 bytes at most. */
            assert_in_range(length, sizeof("STOCKD_"), 64);
            assert_int_equal(strncmp(field, "STOCKD_", 7), 0);
            assert_int_equal(strspn(field, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"), length);
            (void)snprintf(word, sizeof(word), " %.*s ", (int)length, field);
            assert_null(strstr(seen, word));
            (void)strncat(seen, word + 1, sizeof(seen) - strlen(seen) - 1);
            count++;
        }
        assert_in_range(count, 2, FIELDS_KEPT);
    }
}

static void test_log_event_fields(void **state)
{
    const struct log_field *fields =
        log_fields(LOG_EVENT(CLIENT_STALLED), {"STOCKD_PEER", "[::1]:80"});

    assert_string_equal(fields[0].name, "MESSAGE_ID");
    assert_string_equal(fields[0].value, event_texts[EVENT_CLIENT_STALLED].id);
    assert_string_equal(fields[1].name, "STOCKD_EVENT");
    assert_string_equal(fields[1].value, "client-stalled");
    assert_string_equal(fields[2].value, "[::1]:80");
    assert_null(fields[3].name);

    assert_string_equal(event_id(EVENT_ACCEPT_FAILED), event_texts[EVENT_ACCEPT_FAILED].id);
    event_use_client();
    assert_string_equal(event_id(EVENT_ACCEPT_FAILED), event_client_ids[EVENT_ACCEPT_FAILED]);
    assert_string_equal(event_id(EVENT_CONNECTED), event_texts[EVENT_CONNECTED].id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identities),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_log_event_fields),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
