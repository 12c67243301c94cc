/*
 * Certificates, keys and priorities from files: each way to get them wrong is told by name.
 */
#include "base/credentials.h"

#include "base/util.h"
#include "certificates.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static struct certificate authority;
static struct certificate middle;
static struct certificate good;
static struct certificate other;
static struct certificate old;
static struct certificate future;

/* What credentials_new() is told in most tests; a test replaces what it is about. */
static struct credentials_options usual;

static char error[CREDENTIALS_ERROR_MAX];

static void append(const char *to, const char *from)
{
    char bytes[8192];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    ssize_t n = read(in, bytes, sizeof(bytes));

    assert_true(n > 0 && n < (ssize_t)sizeof(bytes));
    assert_int_equal(write(out, bytes, (size_t)n), n);
    assert_int_equal(close(in), 0);
    assert_int_equal(close(out), 0);
}

static void write_text(const char *name, const char *text)
{
    certificates_write(certificates_path(name), text, strlen(text), 0600);
}

static void write_encrypted(const char *name)
{
    gnutls_datum_t text;

    assert_int_equal(gnutls_x509_privkey_export2_pkcs8(good.key, GNUTLS_X509_FMT_PEM, "secret",
                                                       GNUTLS_PKCS_PBES2_AES_256, &text),
                     0);
    certificates_write(certificates_path(name), text.data, text.size, 0600);
    gnutls_free(text.data);
}

static char usual_paths[3][128];

static int make_files(void **state)
{
    certificates_begin();
    certificate_make(&authority, &(struct certificate_options){.common_name = "authority",
                                                               .authority = true,
                                                               .begin_days = -99,
                                                               .end_days = 99});
    certificate_make(&middle, &(struct certificate_options){.common_name = "middle",
                                                            .authority = true,
                                                            .issuer = &authority});
    certificate_make(&good,
                     &(struct certificate_options){.common_name = "good", .issuer = &middle});
    certificate_make(&other,
                     &(struct certificate_options){.common_name = "other", .issuer = &authority});
    certificate_make(
        &old, &(struct certificate_options){
                  .common_name = "old", .issuer = &authority, .begin_days = -9, .end_days = -2});
    certificate_make(&future, &(struct certificate_options){.common_name = "future",
                                                            .issuer = &authority,
                                                            .begin_days = 2,
                                                            .end_days = 9});
    certificate_write(&authority, certificates_path("ca.crt"), certificates_path("ca.key"));
    certificate_write(&middle, certificates_path("middle.crt"), NULL);
    certificate_write(&good, certificates_path("good.crt"), certificates_path("good.key"));
    certificate_write(&other, certificates_path("other.crt"), certificates_path("other.key"));
    certificate_write(&old, certificates_path("old.crt"), certificates_path("old.key"));
    certificate_write(&future, certificates_path("future.crt"), certificates_path("future.key"));

    (void)snprintf(usual_paths[0], sizeof(usual_paths[0]), "%s", certificates_path("good.crt"));
    (void)snprintf(usual_paths[1], sizeof(usual_paths[1]), "%s", certificates_path("good.key"));
    (void)snprintf(usual_paths[2], sizeof(usual_paths[2]), "%s", certificates_path("ca.crt"));
    usual = (struct credentials_options){.certificate = usual_paths[0],
                                         .key = usual_paths[1],
                                         .ca = usual_paths[2],
                                         .client_certificate = CLIENT_CERTIFICATE_REQUIRED};
    return 0;
}

static int remove_files(void **state)
{
    struct certificate *all[] = {&authority, &middle, &good, &other, &old, &future};

    for (unsigned i = 0; i < ELEMENTSOF(all); i++)
        certificate_deinit(all[i]);
    certificates_end();
    return 0;
}

static void assert_says(const char *part)
{
    if (!strstr(error, part))
        fail_msg("\"%s\" does not say \"%s\"", error, part);
}

/* Fails, and says these. */
static void assert_wrong(const struct credentials_options *options, const char *name,
                         const char *what)
{
    struct credentials *credentials = (struct credentials *)&usual;

    assert_int_equal(credentials_new(&credentials, options, error), -EINVAL);
    assert_ptr_equal(credentials, &usual); /* left alone */
    assert_says(name);
    assert_says(what);
}

static struct credentials *must_load(const struct credentials_options *options)
{
    struct credentials *credentials = NULL;

    if (credentials_new(&credentials, options, error) < 0)
        fail_msg("%s", error);
    assert_string_equal(error, "");
    assert_non_null(credentials);
    return credentials;
}

/* ---- What is good ---- */

static void test_good(void **state)
{
    struct credentials *credentials = must_load(&usual);

    assert_int_equal(credentials_client_certificate(credentials), CLIENT_CERTIFICATE_REQUIRED);
    assert_true(credentials_expires(credentials) > time(NULL));
    assert_int_equal(credentials_expires(credentials),
                     gnutls_x509_crt_get_expiration_time(good.certificate));
    assert_non_null(credentials_gnutls(credentials));
    assert_non_null(credentials_priority(credentials));
    assert_ptr_equal(credentials_ref(credentials), credentials);
    assert_null(credentials_unref(credentials));
    assert_non_null(credentials_gnutls(credentials));
    assert_null(credentials_unref(credentials));
    assert_null(credentials_unref(NULL));
}

/* The certificates that are shown to a peer are these, in this order. */
static void assert_shown(const struct credentials *credentials,
                         const struct certificate *const *expected, unsigned expected_count)
{
    gnutls_x509_crt_t *list;
    unsigned count;

    assert_int_equal(
        gnutls_certificate_get_x509_crt(credentials_gnutls(credentials), 0, &list, &count), 0);
    assert_int_equal(count, expected_count);
    for (unsigned i = 0; i < count; i++) {
        assert_true(gnutls_x509_crt_equals(list[i], expected[i]->certificate));
        gnutls_x509_crt_deinit(list[i]);
    }
    gnutls_free(list);
}

static void test_chain(void **state)
{
    const struct certificate *const chain[] = {&good, &middle, &authority};
    struct credentials_options options = usual;
    struct credentials *credentials;

    append(certificates_path("chain.crt"), certificates_path("good.crt"));
    append(certificates_path("chain.crt"), certificates_path("middle.crt"));
    options.certificate = certificates_path("chain.crt");
    credentials = must_load(&options);
    assert_shown(credentials, chain, 2);
    credentials_unref(credentials);

    /* The order matters as little as it can. */
    append(certificates_path("disorder.crt"), certificates_path("good.crt"));
    append(certificates_path("disorder.crt"), certificates_path("ca.crt"));
    append(certificates_path("disorder.crt"), certificates_path("middle.crt"));
    options.certificate = certificates_path("disorder.crt");
    credentials = must_load(&options);
    assert_shown(credentials, chain, 3);
    credentials_unref(credentials);

    /* One file may hold it all; then it is the key that nobody else may read. */
    append(certificates_path("all.pem"), certificates_path("good.key"));
    append(certificates_path("all.pem"), certificates_path("chain.crt"));
    options.certificate = certificates_path("all.pem");
    options.key = options.certificate;
    credentials = must_load(&options);
    assert_shown(credentials, chain, 2);
    credentials_unref(credentials);
    assert_int_equal(chmod(options.key, 0644), 0);
    assert_wrong(&options, "all.pem", "every user of this machine can read");
}

static void test_client(void **state)
{
    struct credentials_options options = {.client = true};
    struct credentials *credentials = must_load(&options);

    assert_int_equal(credentials_expires(credentials), 0);
    credentials_unref(credentials);
    options = usual;
    options.client = true;
    credentials = must_load(&options);
    assert_int_equal(credentials_client_certificate(credentials), CLIENT_CERTIFICATE_NO);
    credentials_unref(credentials);
}

/* ---- Files ---- */

static void test_missing(void **state)
{
    struct credentials_options options = usual;

    options.certificate = certificates_path("nowhere.crt");
    assert_wrong(&options,
                 "nowhere.crt: ", "there is no such file; it should hold the certificate");
    options = usual;
    options.key = certificates_path("nowhere.key");
    assert_wrong(&options,
                 "nowhere.key: ", "there is no such file; it should hold the private key");
    options = usual;
    options.ca = certificates_path("nowhere.ca");
    assert_wrong(&options, "nowhere.ca: ", "there is no such file");

    options = usual;
    options.key = NULL;
    assert_wrong(&options, "good.crt: ", "the private key of this certificate is missing");
    options.client = true;
    assert_wrong(&options, "good.crt: ", "the private key of this certificate is missing");
    options = usual;
    options.certificate = "";
    assert_wrong(&options, "good.key: ", "the certificate of this private key is missing");
    options.key = "";
    assert_wrong(&options, "a TLS server needs a certificate", "neither");
    options = usual;
    options.ca = "";
    assert_wrong(&options, "client certificates are asked for (required)", "authorities");
    options.client_certificate = CLIENT_CERTIFICATE_OPTIONAL;
    assert_wrong(&options, "client certificates are asked for (optional)", "authorities");
    options.client_certificate = CLIENT_CERTIFICATE_NO;
    credentials_unref(must_load(&options));
}

/* A file of each kind in each place; none may make the program wait. */
static void test_no_files(void **state)
{
    struct credentials_options options;

    assert_int_equal(mkdir(certificates_path("directory"), 0700), 0);
    assert_int_equal(mkfifo(certificates_path("fifo"), 0600), 0);
    write_text("empty", "");
    write_text("garbage", "\x30\x82\x01garbage");
    for (unsigned place = 0; place < 3; place++) {
        static const struct {
            const char *name;
            const char *what;
        } files[] = {
            {"directory", "is a directory"},
            {"fifo", "is not a regular file"},
            {"empty", "is empty"},
            {"garbage", "PEM"},
        };

        for (unsigned i = 0; i < ELEMENTSOF(files); i++) {
            const char *path = certificates_path(files[i].name);

            options = usual;
            *(place == 0 ? &options.certificate : place == 1 ? &options.key : &options.ca) = path;
            assert_wrong(&options, path, files[i].what);
        }
        options = usual;
        *(place == 0   ? &options.certificate
          : place == 1 ? &options.key
                       : &options.ca) = "/dev/zero";
        assert_wrong(&options, "/dev/zero: ", "is not a regular file");
    }
}

static void test_too_large(void **state)
{
    struct credentials_options options = usual;

    write_text("large", "x");
    assert_int_equal(truncate(certificates_path("large"), CREDENTIALS_FILE_SIZE_MAX + 1), 0);
    options.ca = certificates_path("large");
    assert_wrong(&options, "large: ", "is too large");
    /* Just as large as may be, it is read. */
    assert_int_equal(truncate(certificates_path("large"), CREDENTIALS_FILE_SIZE_MAX), 0);
    assert_wrong(&options, "large: ", "holds no certificate of an authority");
}

static void test_not_readable(void **state)
{
    struct credentials_options options = usual;
    uid_t user = geteuid();
    struct credentials *credentials;
    int r;

    certificate_write(&good, NULL, certificates_path("closed.key"));
    assert_int_equal(chmod(certificates_path("closed.key"), 0), 0);
    options.key = certificates_path("closed.key");
    /* Root may read everything. */
    if (user == 0)
        assert_int_equal(seteuid(65534), 0);
    /* Then already the folder cannot be entered. */
    r = credentials_new(&credentials, &options, error);
    if (user == 0)
        assert_int_equal(seteuid(user), 0);
    assert_int_equal(r, -EINVAL);
    assert_says("this process may not read");
}

static void test_key_permissions(void **state)
{
    static const struct {
        unsigned mode;
        const char *what; /* NULL: good */
    } cases[] = {
        {0400, NULL},
        {0600, NULL},
        {0640, NULL},
        {0660, NULL},
        {0604, "can read this private key (its mode is 0604); take that away with: chmod o-rwx "},
        {0644, "can read"},
        {0602, "can write"},
        {0777, "can read"},
    };
    struct credentials_options options = usual;

    certificate_write(&good, NULL, certificates_path("mode.key"));
    options.key = certificates_path("mode.key");
    for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
        assert_int_equal(chmod(options.key, cases[i].mode), 0);
        if (cases[i].what)
            assert_wrong(&options, "mode.key: ", cases[i].what);
        else
            credentials_unref(must_load(&options));
    }
    /* What matters is the file, not the link to it. */
    assert_int_equal(chmod(options.key, 0600), 0);
    assert_int_equal(symlink(options.key, certificates_path("link.key")), 0);
    options.key = certificates_path("link.key");
    credentials_unref(must_load(&options));
}

static void test_contents(void **state)
{
    struct credentials_options options = usual;

    options.certificate = certificates_path("good.key");
    assert_wrong(&options, "good.key: ", "holds no certificate but a private key; are");
    options = usual;
    assert_int_equal(chmod(certificates_path("good.crt"), 0600), 0);
    options.key = certificates_path("good.crt");
    assert_wrong(&options, "good.crt: ", "no private key in PEM form but a certificate; are");
    options = usual;
    options.ca = certificates_path("good.key");
    assert_wrong(&options, "good.key: ", "holds no certificate of an authority");

    options = usual;
    options.key = certificates_path("other.key");
    assert_wrong(&options, "other.key: this private key does not belong to the certificate in ",
                 "good.crt");

    write_encrypted("password.key");
    options.key = certificates_path("password.key");
    assert_wrong(&options, "password.key: ", "this private key has a password");
    write_text("old-password.key", "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
                                   "DEK-Info: AES-256-CBC,00\n\nAAAA\n"
                                   "-----END EC PRIVATE KEY-----\n");
    options.key = certificates_path("old-password.key");
    assert_wrong(&options, "old-password.key: ", "this private key has a password");

    write_text("damaged.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    options.key = certificates_path("damaged.key");
    assert_wrong(&options, "damaged.key: ", "is damaged");
    write_text("damaged.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    options = usual;
    options.certificate = certificates_path("damaged.crt");
    assert_wrong(&options, "damaged.crt: ", "is damaged");
    options = usual;
    options.ca = certificates_path("damaged.crt");
    assert_wrong(&options, "damaged.crt: ", "is damaged");
}

/* Every error must fit, and end where it should, however long the paths are. */
static void test_long_path(void **state)
{
    char path[2000];
    struct credentials_options options = usual;

    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = 0;
    options.certificate = path;
    assert_wrong(&options, "xxxx", "x");
    assert_int_equal(strnlen(error, sizeof(error)), sizeof(error) - 1);
}

/* ---- Time ---- */

static char *log_of(const struct credentials_options *options, struct credentials **ret)
{
    static char text[1024];
    int saved = dup(STDERR_FILENO);
    int ends[2];
    ssize_t n;

    assert_int_equal(pipe(ends), 0);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    *ret = NULL;
    (void)credentials_new(ret, options, error);
    assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    (void)close(ends[1]);
    n = read(ends[0], text, sizeof(text) - 1);
    assert_true(n >= 0);
    text[n] = 0;
    (void)close(ends[0]);
    (void)close(saved);
    return text;
}

static void test_time(void **state)
{
    struct credentials_options options = usual;
    struct credentials *credentials;
    const char *text = log_of(&options, &credentials);

    assert_string_equal(text, "");
    credentials_unref(credentials);

    options.certificate = certificates_path("old.crt");
    options.key = certificates_path("old.key");
    text = log_of(&options, &credentials);
    assert_non_null(credentials);
    assert_non_null(strstr(text, "warning: "));
    assert_non_null(strstr(text, "old.crt: the certificate expired on 2"));
    assert_true(credentials_expires(credentials) < time(NULL));
    assert_string_equal(error, "");
    credentials_unref(credentials);
    options.client = true;
    assert_wrong(&options, "old.crt: ", "the certificate expired on 2");

    options = usual;
    options.certificate = certificates_path("future.crt");
    options.key = certificates_path("future.key");
    text = log_of(&options, &credentials);
    assert_non_null(credentials);
    assert_non_null(strstr(text, "future.crt: the certificate is not valid before 2"));
    credentials_unref(credentials);
    options.client = true;
    assert_wrong(&options, "future.crt: ", "the certificate is not valid before 2");
}

/* ---- Priorities ---- */

static void test_wrong_priorities(void **state)
{
    static const struct {
        const char *text;
        const char *what;
    } cases[] = {
        {"NORMAL:+BOGUS:+X", "GnuTLS does not know \"+BOGUS\", at character 8"},
        {"NRMAL", "GnuTLS does not know \"NRMAL\", at character 1"},
        {"NORMAL:%NO_SUCH", "GnuTLS does not know \"%NO_SUCH\", at character 8"},
        {"NORMAL:", "at character 8"},
        {"@NOPE", "GnuTLS does not know \"@NOPE\""},
        {"NORMAL:-VERS-ALL:+VERS-TLS1.1", "leave nothing to agree on"},
        {"NORMAL:-VERS-ALL:+VERS-DTLS1.2", "leave nothing to agree on"},
        {"NORMAL:-CIPHER-ALL:+AES-128-CBC", "leave nothing to agree on"},
        {"NORMAL:-VERS-TLS1.3:-KX-ALL:+RSA", "leave nothing to agree on"},
        {"NONE", "leave nothing to agree on"},
    };
    struct credentials_options options = usual;

    for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
        options.priorities = cases[i].text;
        assert_wrong(&options, cases[i].text, cases[i].what);
    }
}

static bool suite_allowed(unsigned index)
{
    gnutls_kx_algorithm_t kx;
    gnutls_cipher_algorithm_t cipher;
    gnutls_mac_algorithm_t mac;
    gnutls_protocol_t least;
    const char *name = gnutls_cipher_suite_info(index, NULL, &kx, &cipher, &mac, &least);

    assert_non_null(name);
    if (mac != GNUTLS_MAC_AEAD)
        return false;
    if (least == GNUTLS_TLS1_3)
        return true;
    return least == GNUTLS_TLS1_2 &&
           (kx == GNUTLS_KX_ECDHE_RSA || kx == GNUTLS_KX_ECDHE_ECDSA || kx == GNUTLS_KX_DHE_RSA);
}

/* Whatever is asked for, what remains is what HTTP/2 allows, from TLS 1.2 on. */
static void test_priorities(void **state)
{
    static const char *const texts[] = {
        NULL,
        "",
        "NORMAL",
        "SECURE256",
        "PERFORMANCE:%COMPAT",
        "LEGACY:+VERS-ALL:+CIPHER-ALL:+KX-ALL:+MAC-ALL:+3DES-CBC:+ARCFOUR-128:+NULL",
        "NORMAL:+GOST",
        "NORMAL:+VERS-TLS1.1:+VERS-TLS1.0:+VERS-SSL3.0:+RSA:+PSK:+RSA-PSK",
    };
    struct credentials_options options = usual;

    for (unsigned i = 0; i < ELEMENTSOF(texts); i++) {
        struct credentials *credentials;
        const unsigned *versions;
        unsigned suites = 0;
        unsigned index;
        int count;
        int r;

        options.priorities = texts[i];
        credentials = must_load(&options);
        count = gnutls_priority_protocol_list(credentials_priority(credentials), &versions);
        assert_int_equal(count, 2);
        for (int k = 0; k < count; k++)
            assert_true(versions[k] == GNUTLS_TLS1_3 || versions[k] == GNUTLS_TLS1_2);
        for (unsigned k = 0;; k++) {
            r = gnutls_priority_get_cipher_suite_index(credentials_priority(credentials), k,
                                                       &index);
            if (r == GNUTLS_E_UNKNOWN_CIPHER_SUITE)
                continue;
            if (r < 0)
                break;
            suites++;
            if (!suite_allowed(index))
                fail_msg("\"%s\" allows %s", texts[i],
                         gnutls_cipher_suite_info(index, NULL, NULL, NULL, NULL, NULL));
        }
        assert_true(suites > 3);
        credentials_unref(credentials);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),         cmocka_unit_test(test_chain),
        cmocka_unit_test(test_client),       cmocka_unit_test(test_missing),
        cmocka_unit_test(test_no_files),     cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_not_readable), cmocka_unit_test(test_key_permissions),
        cmocka_unit_test(test_contents),     cmocka_unit_test(test_long_path),
        cmocka_unit_test(test_time),         cmocka_unit_test(test_wrong_priorities),
        cmocka_unit_test(test_priorities),
    };

    return cmocka_run_group_tests(tests, make_files, remove_files);
}
