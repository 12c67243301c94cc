/*
 * Certificates made while a test runs, so that none in the tree expires.
 */
#pragma once

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdbool.h>

struct certificate {
    gnutls_x509_crt_t certificate;
    gnutls_x509_privkey_t key;
};

struct certificate_options {
    const char *common_name;          /* NULL: none */
    const struct certificate *issuer; /* NULL: signed by itself */
    bool authority;
    int begin_days; /* from today; 0 for both: from yesterday to tomorrow */
    int end_days;
    const char *purpose; /* an OID, GNUTLS_KP_...; NULL: none said */
    const char *dns[3];
    const char *email;
    const char *uri;
    const char *address; /* IPv4 or IPv6 */
};

void certificate_make(struct certificate *certificate, const struct certificate_options *options);
void certificate_deinit(struct certificate *certificate);

/* Writes PEM files; either name may be NULL. The key is readable by its owner alone. */
void certificate_write(const struct certificate *certificate, const char *certificate_path,
                       const char *key_path);

/* A folder of the test's own, and a file's path in it; the text is overwritten by the fourth call
 * after. */
void certificates_begin(void);
const char *certificates_path(const char *name);

/* Removes the folder and what is in it. */
void certificates_end(void);

/* Writes any bytes to a file. */
void certificates_write(const char *path, const void *bytes, size_t size, unsigned mode);
