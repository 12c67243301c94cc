/*
 * TLS as a transport over another transport. Its files (tls.c, tls_handshake.c, tls_peer.c) are the
 * only ones of net/ that know GnuTLS.
 *
 * Pressure passes through: what try_write() takes is encrypted and handed on at once, and bytes
 * count as accepted when the kernel has taken the last byte of their record. Between two calls a
 * session holds no plaintext, and no more ciphertext than the transport below it keeps of one
 * batch.
 *
 * ALPN must choose "h2" (RFC 9113, 3.2); renegotiation and compression do not exist, early data is
 * not taken, and sessions are not resumed.
 *
 * To the user of a session the end of the inner transport is an end of file, whether TLS's own end
 * (close_notify) came before it or not: HTTP/2 has ends of its own. What breaks TLS is -EPROTO; a
 * server that does not want our certificate, which it tells after a handshake of TLS 1.3 is over
 * for the client, is -EACCES.
 */
#pragma once

#include "base/credentials.h"
#include "base/loop.h"
#include "net/transport.h"

/* X(identifier, label): how a handshake ended; a label of metrics and logs. */
#define TLS_OUTCOMES(X)                                                                            \
    X(OK, "ok")                                                                                    \
    X(FAILED, "failed") /* no TLS, no common version or cipher, an alert, the end */               \
    X(TIMEOUT, "timeout")                                                                          \
    X(NO_ALPN, "no_alpn")         /* the peer does not speak "h2" */                               \
    X(CERTIFICATE, "certificate") /* the peer's is missing, not trusted, expired, for others */    \
    X(NO_MEMORY, "no_memory")

enum tls_outcome {
#define X(identifier, label) TLS_##identifier,
    TLS_OUTCOMES(X)
#undef X
        TLS_OUTCOME_COUNT,
};

extern const char *const tls_outcome_labels[TLS_OUTCOME_COUNT];

struct tls_options {
    struct credentials *credentials; /* a reference is taken */
    bool client;
    uint64_t timeout_ms;     /* for the whole handshake; 0: no limit */
    const char *server_name; /* client: for SNI, and that the certificate must be for: a name or an
                              * address; borrowed until `done`. No certificate is for NULL. */
    bool insecure;           /* client: takes any certificate */

    /*
     * Called once, never from inside tls_handshake(): with the transport, which is the callee's, to
     * be started or closed before it returns (bytes may be there already); or NULL when it failed,
     * and then the inner transport is gone. `detail` says why in words, or what was agreed on
     * ("TLS1.3, AES-256-GCM"); borrowed for the call.
     */
    void (*done)(void *user, struct transport *transport, enum tls_outcome outcome,
                 const char *detail);
    void *user;
};

struct tls_handshake;

/* Begins a handshake over `inner`, which it owns from here on, even when this fails. 0 or a
 * negative errno: -ENOMEM, what the inner transport fails to start with, -EINVAL for a server_name
 * that cannot be one (`done` is not called then). */
int tls_handshake(struct tls_handshake **ret_handshake, struct loop *loop, struct transport *inner,
                  const struct tls_options *options);

/* Gives up, before `done`, which is not called then. */
void tls_handshake_cancel(struct tls_handshake *handshake);

/*
 * Of a transport that `done` was given: is there a peer's certificate that was found good, and does
 * it have this name: a DNS name, URI, email address or IP address among its alternative names, or,
 * where it has none of these, its common name? Compared whole; DNS names and email domains in any
 * case; wildcards are no match.
 */
bool tls_peer_is(const struct transport *transport, const char *name);

/* The first of those names, or NULL; lives as long as the transport. */
const char *tls_peer_name(const struct transport *transport);
