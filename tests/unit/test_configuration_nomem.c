/*
 * A configuration that is read without memory: there is none, whichever allocation failed, nothing
 * leaks, and the one in force is what it was.
 */
#include "configuration.h"

#include "base/log.h"
#include "certificates.h"
#include "failmalloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static char config_path[128];

/* Certificates for both groups, a password, lists: whatever takes memory. */
static void write_config(const char *grpc)
{
    char certificate[128], key[128], password[128], tickers[128], text[2048];

    (void)snprintf(certificate, sizeof(certificate), "%s", certificates_path("server.crt"));
    (void)snprintf(key, sizeof(key), "%s", certificates_path("server.key"));
    (void)snprintf(password, sizeof(password), "%s", certificates_path("password"));
    (void)snprintf(tickers, sizeof(tickers), "%s", certificates_path("tickers.csv"));
    certificates_write(password, "secret\n", 7, 0600);
    certificates_write(tickers, "ticker\nC\nD\n", 11, 0600);
    (void)snprintf(text, sizeof(text),
                   "[grpc]\nlisten = 127.0.0.1:0\nlisten = %s\n"
                   "[tls]\ncertificate = %s\nkey = %s\nclient_ca = %s\n"
                   "client_certificate = required\n"
                   "[access]\nallow = 127.0.0.1, ::1\nallow_names = a.example, b.example\n"
                   "[metrics]\nlisten = 127.0.0.1:0 tls=yes\nuser = u\npassword_file = %s\n"
                   "[market]\ntickers = A, B\ntickers_file = %s\n"
                   "[ticker D]\n[ticker E]\ninterval = 2s\nvolatility = 0.5\n",
                   grpc, certificate, key, certificate, password, tickers);
    certificates_write(config_path, text, strlen(text), 0600);
}

static struct configuration_source source_of(void)
{
    static char name[] = "stockd";
    static char *argv[] = {name, NULL};

    return (struct configuration_source){
        .argc = 1,
        .argv = argv,
        .arguments = {.config_file = config_path},
    };
}

static int load(struct configuration **ret_configuration, const struct configuration *started)
{
    const struct configuration_source source = source_of();
    struct configuration *configuration = NULL;
    int r = configuration_read(&configuration, &source);

    if (r == 0)
        r = configuration_complete(configuration, &source, started, started);
    if (r == 0)
        *ret_configuration = configuration;
    else
        (void)configuration_free(configuration);
    return r;
}

/* The first of them, or, if `started` is there, one that has other addresses. */
static struct configuration *load_in_spite(const struct configuration *started)
{
    struct configuration *configuration = NULL;
    size_t nth = 1;

    for (;; nth++) {
        int r;

        failmalloc_arm(nth);
        r = load(&configuration, started);
        if (!failmalloc_disarm()) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_equal(r, -ENOMEM);
        assert_null(configuration);
    }
    assert_true(nth > 50); /* it was tried */
    return configuration;
}

static void test_start(void **state)
{
    struct configuration *configuration;
    const struct feed_ticker *tickers;
    size_t count;

    write_config("127.0.0.1:1 tls=yes");
    configuration = load_in_spite(NULL);
    assert_int_equal(configuration->places[GROUP_GRPC].count, 2);
    assert_null(configuration->credentials[GROUP_GRPC][0]);
    assert_non_null(configuration->credentials[GROUP_GRPC][1]);
    assert_non_null(configuration->credentials[GROUP_METRICS][0]);
    assert_string_equal(configuration->password, "secret");
    assert_true(configuration_certificate_expires(configuration) > 0);
    tickers = configuration_tickers(configuration, &count);
    assert_int_equal(count, 5);
    assert_string_equal(tickers[4].name, "E");
    assert_int_equal(tickers[4].interval_ms, 2000);
    configuration_forget_secrets(configuration);
    assert_null(configuration->password);
    assert_null(configuration->credentials[GROUP_GRPC][1]);
    assert_null(configuration_free(configuration));
}

static void test_reload(void **state)
{
    struct configuration *started = NULL, *new;

    write_config("127.0.0.1:1 tls=yes");
    assert_int_equal(load(&started, NULL), 0);
    write_config("127.0.0.1:2 tls=yes, 127.0.0.1:3 tls=yes");
    new = load_in_spite(started);
    /* Where it would listen, and the credentials of what is listened on. */
    assert_int_equal(new->places[GROUP_GRPC].count, 3);
    assert_null(new->credentials[GROUP_GRPC][0]);
    assert_non_null(new->credentials[GROUP_GRPC][1]);
    assert_null(new->credentials[GROUP_GRPC][2]);
    assert_int_equal(started->places[GROUP_GRPC].count, 2);
    assert_string_equal(started->password, "secret");
    /* What is said about it is told without memory, too. */
    log_set_level(LOG_ERR);
    for (size_t nth = 1;; nth++) {
        failmalloc_arm(nth);
        configuration_log_changes(new, started, started);
        configuration_log(new);
        if (!failmalloc_disarm())
            break;
    }
    assert_null(configuration_free(new));
    assert_null(configuration_free(started));
}

static int set_up(void **state)
{
    struct certificate server;

    certificates_begin();
    (void)snprintf(config_path, sizeof(config_path), "%s", certificates_path("stockd.conf"));
    certificate_make(
        &server, &(struct certificate_options){.common_name = "localhost", .dns = {"localhost"}});
    certificate_write(&server, certificates_path("server.crt"), certificates_path("server.key"));
    certificate_deinit(&server);
    return 0;
}

static int tear_down(void **state)
{
    certificates_end();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_reload),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
