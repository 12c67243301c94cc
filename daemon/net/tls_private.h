/*
 * What the files of TLS share: tls.c (a session as a transport), tls_handshake.c (until it is one)
 * and tls_peer.c (whether the peer is who it should be). They alone in net/ know GnuTLS.
 */
#pragma once

#include "base/credentials.h"
#include "base/wheel.h"
#include "net/tls.h"

#include <gnutls/gnutls.h>

/* A handshake; freed when it is over. */
struct tls_handshake {
    struct tls *tls;
    struct loop_task begin; /* a client's first step, or a server's that had to wait */
    struct wheel_timer timer;
    const char *server_name;
    bool insecure;
    bool sniffed;  /* the first byte was that of TLS */
    bool heard;    /* a server has the whole ClientHello */
    uint8_t *held; /* what came of it, while it waits for its turn */
    size_t held_size;
    bool failed;                      /* all is said; only waits for the peer's end, or the timer */
    gnutls_alert_description_t alert; /* that tells the peer what is wrong with its certificate */
    enum tls_outcome outcome;
    char detail[256];
    void (*done)(void *user, struct transport *transport, enum tls_outcome outcome,
                 const char *detail);
    void *user;
};

struct tls {
    struct transport transport; /* what its user sees */
    struct transport *inner;
    struct loop *loop;
    struct credentials *credentials;
    gnutls_session_t session;
    struct tls_handshake *handshake; /* NULL once it is over */
    char *peer_name;
    bool client;
    bool verified; /* the peer's certificate was found good */

    /* What came, and GnuTLS has not taken; borrowed while the inner transport delivers it. */
    const uint8_t *in;
    size_t in_size;
    bool started;
    bool ended; /* the user was told that no more comes */

    /* Of what was encrypted, and the inner transport did not take at once. */
    bool busy;           /* it keeps something of ours */
    uint8_t *waiting;    /* what comes after that */
    size_t waiting_size; /* of it */
    size_t record_max;   /* plaintext of a record, as far as was seen: GnuTLS does not tell */
    size_t left;         /* plaintext that is in these, and that the user writes again */
    bool user_waits;     /* for `written` */
    bool shut_wanted;    /* shut the inner transport down when `waiting` is gone */
    bool shut;           /* it was: nothing can be sent any more, not even an alert */
    bool closing;
    int broken; /* some of it was lost: a negative errno for who wants to write more */
};

/* GnuTLS has no name for an alert that it does not know. */
static inline const char *tls_alert_name(gnutls_alert_description_t alert)
{
    const char *name = gnutls_alert_get_name(alert);

    return name ? name : "unknown";
}

/* ---- tls.c ---- */

/* Sends what GnuTLS has pushed since the last time. 0 or a negative errno. */
int tls_flush(struct tls *tls);

/* Tells the peer that no more comes, after all that was pushed. */
void tls_shut_inner(struct tls *tls);

/* What the inner transport delivers. */
void tls_delivered(struct tls *tls, const uint8_t *bytes, size_t size);

/* The hooks of a session and of the inner transport, which are the same for its whole life. */
void tls_attach(struct tls *tls);
struct tls *tls_free(struct tls *tls);

/* ---- tls_handshake.c ---- */

/* What the inner transport tells while there is a handshake. */
void tls_handshake_received(struct tls *tls);
void tls_handshake_ended(struct tls *tls, int error);
void tls_handshake_closed(struct tls *tls);

/* ---- tls_peer.c ---- */

/* GnuTLS's callback that judges the peer's certificate. */
int tls_peer_verify(gnutls_session_t session);

/* Finds the peer's first name, once its certificate was found good. */
void tls_peer_find_name(struct tls *tls);

/* Reads a numeric IPv4 or IPv6 address; the number of its bytes, 4 or 16, or 0 if it is none. */
unsigned tls_parse_address(const char *text, uint8_t ret_bytes[static 16]);
