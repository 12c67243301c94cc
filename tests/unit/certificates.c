#include "certificates.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define DAY ((time_t)24 * 60 * 60)

static char folder[64];

#define must(call) assert_true((call) >= 0)

static void set_names(gnutls_x509_crt_t certificate, const struct certificate_options *options)
{
    uint8_t address[16];

    for (unsigned i = 0; i < 3 && options->dns[i]; i++)
        must(gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_DNSNAME, options->dns[i],
                                                  (unsigned)strlen(options->dns[i]),
                                                  GNUTLS_FSAN_APPEND));
    if (options->email)
        must(gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_RFC822NAME,
                                                  options->email, (unsigned)strlen(options->email),
                                                  GNUTLS_FSAN_APPEND));
    if (options->uri)
        must(gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_URI, options->uri,
                                                  (unsigned)strlen(options->uri),
                                                  GNUTLS_FSAN_APPEND));
    if (options->address) {
        bool four = inet_pton(AF_INET, options->address, address) == 1;

        assert_true(four || inet_pton(AF_INET6, options->address, address) == 1);
        must(gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_IPADDRESS, address,
                                                  four ? 4 : 16, GNUTLS_FSAN_APPEND));
    }
}

void certificate_make(struct certificate *certificate, const struct certificate_options *options)
{
    static uint32_t serial;
    bool days = options->begin_days != 0 || options->end_days != 0;
    gnutls_x509_crt_t crt;
    const struct certificate *issuer = options->issuer ? options->issuer : certificate;
    uint32_t number = ++serial;

    must(gnutls_x509_privkey_init(&certificate->key));
    must(gnutls_x509_privkey_generate(certificate->key, GNUTLS_PK_ECDSA,
                                      GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0));
    must(gnutls_x509_crt_init(&certificate->certificate));
    crt = certificate->certificate;
    must(gnutls_x509_crt_set_version(crt, 3));
    must(gnutls_x509_crt_set_serial(crt, &number, sizeof(number)));
    must(gnutls_x509_crt_set_activation_time(crt,
                                             time(NULL) + (days ? options->begin_days : -1) * DAY));
    must(gnutls_x509_crt_set_expiration_time(crt,
                                             time(NULL) + (days ? options->end_days : 1) * DAY));
    must(gnutls_x509_crt_set_key(crt, certificate->key));
    must(gnutls_x509_crt_set_basic_constraints(crt, options->authority, -1));
    if (options->common_name)
        must(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0,
                                           options->common_name,
                                           (unsigned)strlen(options->common_name)));
    if (options->purpose)
        must(gnutls_x509_crt_set_key_purpose_oid(crt, options->purpose, 0));
    if (options->authority)
        must(gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_KEY_CERT_SIGN));
    set_names(crt, options);
    must(gnutls_x509_crt_sign2(crt, issuer->certificate, issuer->key, GNUTLS_DIG_SHA256, 0));
}

void certificate_deinit(struct certificate *certificate)
{
    gnutls_x509_crt_deinit(certificate->certificate);
    gnutls_x509_privkey_deinit(certificate->key);
}

void certificates_write(const char *path, const void *bytes, size_t size, unsigned mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(close(fd), 0);
}

void certificate_write(const struct certificate *certificate, const char *certificate_path,
                       const char *key_path)
{
    gnutls_datum_t text;

    if (certificate_path) {
        must(gnutls_x509_crt_export2(certificate->certificate, GNUTLS_X509_FMT_PEM, &text));
        certificates_write(certificate_path, text.data, text.size, 0644);
        gnutls_free(text.data);
    }
    if (key_path) {
        must(gnutls_x509_privkey_export2_pkcs8(certificate->key, GNUTLS_X509_FMT_PEM, NULL,
                                               GNUTLS_PKCS_PLAIN, &text));
        certificates_write(key_path, text.data, text.size, 0600);
        gnutls_free(text.data);
    }
}

void certificates_begin(void)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/stockd-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
}

const char *certificates_path(const char *name)
{
    static char paths[4][128];
    static unsigned turn;
    char *path = paths[turn++ % 4];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

void certificates_end(void)
{
    DIR *directory = opendir(folder);
    const struct dirent *entry;

    assert_non_null(directory);
    while ((entry = readdir(directory))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            unlinkat(dirfd(directory), entry->d_name, 0) < 0)
            assert_int_equal(unlinkat(dirfd(directory), entry->d_name, AT_REMOVEDIR), 0);
    }
    assert_int_equal(closedir(directory), 0);
    assert_int_equal(rmdir(folder), 0);
}
