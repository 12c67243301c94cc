/*
 * What one side of a TLS connection shows and trusts: certificate, key, authorities and priorities,
 * read from files. Shared by reference, so that a reload is a new one in the old one's place while
 * connections that began with the old one keep it. For gRPC (net/tls.h) and the exporter alike.
 *
 * TLS 1.2 is the least that is ever spoken, whatever the priorities say.
 */
#pragma once

#include "base/endpoint.h"

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * GnuTLS's own choice but for two things, whose order is ours even where the client's is another.
 * Ciphers: AES-128-GCM costs least on every machine that has instructions for AES, and nobody
 * breaks it. Groups: clients send the key share for X25519 unasked; GnuTLS's order, with P-256
 * before it, would have each of them begin its handshake anew.
 */
#define CREDENTIALS_PRIORITIES_DEFAULT                                                             \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:"            \
    "+CHACHA20-POLY1305:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:+GROUP-SECP384R1:"               \
    "%SERVER_PRECEDENCE"

/* Room for what credentials_new() says is wrong. */
#define CREDENTIALS_ERROR_MAX 512

/* The largest file that is read; that of all authorities of the web has a quarter of a MiB. */
#define CREDENTIALS_FILE_SIZE_MAX ((size_t)4 << 20)

/* Strings that are empty count as NULL: not given. */
struct credentials_options {
    bool client;
    const char *certificate; /* a PEM file, the chain included; a server must have one */
    const char *key;         /* a PEM file that "others" can neither read nor write */
    const char *ca;          /* a PEM file of authorities: a server's for clients; a client's for
                              * servers, NULL: those that the system trusts */
    enum client_certificate client_certificate; /* a server's; not UNSET. NO needs no `ca`. */
    const char *priorities;                     /* GnuTLS's; NULL: CREDENTIALS_PRIORITIES_DEFAULT */
};

struct credentials;

/*
 * Reads the files. 0, -ENOMEM, or -EINVAL for whatever is wrong with them: `ret_error` then names
 * the file and says what: missing, not readable, readable by others (the key), no PEM, a key with a
 * password, key and certificate that do not belong together, expired or not yet valid (a server's
 * own certificate: only a warning in the log), an unknown word in the priorities (with its place),
 * a CA that is needed and not given. A client for which the system trusts no authority is warned of
 * that in the log: it can still do without.
 *
 * Whatever the priorities say, they are left without versions before TLS 1.2, and without what
 * HTTP/2 forbids with TLS 1.2 (RFC 9113, 9.2.2 and appendix A): only ciphers with associated data
 * and ephemeral keys remain. If nothing remains that is -EINVAL too.
 */
int credentials_new(struct credentials **ret_credentials, const struct credentials_options *options,
                    char ret_error[static CREDENTIALS_ERROR_MAX]);

/* One reference more; returns `credentials`. */
struct credentials *credentials_ref(struct credentials *credentials);

/* Gives a reference back. NULL is allowed; returns NULL. */
struct credentials *credentials_unref(struct credentials *credentials);

/* When its own certificate ends, in seconds since 1970; 0 without a certificate. */
int64_t credentials_expires(const struct credentials *credentials);

/* For those who speak to GnuTLS: owned by the credentials. */
gnutls_certificate_credentials_t credentials_gnutls(const struct credentials *credentials);
gnutls_priority_t credentials_priority(const struct credentials *credentials);
enum client_certificate credentials_client_certificate(const struct credentials *credentials);
