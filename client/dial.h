/*
 * From a name to something that bytes can be sent through: resolves the host, and tries its
 * addresses one after the other in the resolver's order (RFC 6724), TLS's handshake included, each
 * with an equal share of the time that is left, so that one that swallows packets does not keep the
 * others from being tried. A Unix socket is one address that needs no resolver.
 */
#pragma once

#include "base/address.h"
#include "base/loop.h"
#include "client/stats.h"
#include "client/target.h"
#include "net/socket.h"
#include "net/tls.h"
#include "net/transport.h"

#include <uv.h>

/* TLS's words about a certificate have up to 256 bytes, and a name and an address are added. */
#define DIAL_ERROR_MAX 768

/* What both sides agreed on, such as "TLS1.3, AES-128-GCM". */
#define DIAL_AGREED_MAX 64

struct dial_tls {
    struct credentials *credentials; /* NULL: no TLS */
    bool insecure;                   /* any certificate will do */
};

struct dial_ops {
    /* Connected; the transport is the callee's, to be started or closed before it returns. */
    void (*connected)(void *user, struct transport *transport, const char *peer);

    /* No address is left. `error` is a text for people about the last one. */
    void (*failed)(void *user, enum connect_outcome outcome, const char *error);
};

struct resolution;

struct dial {
    struct loop *loop;
    const struct dial_ops *ops;
    void *user;
    struct dial_tls tls;
    const struct target *target;
    struct resolution *resolution;   /* under way, or NULL */
    struct addrinfo *addresses;      /* what it found */
    struct addrinfo *next;           /* of them: not tried yet */
    struct sockaddr_un path;         /* of a Unix socket */
    bool path_next;                  /* it is not tried yet */
    struct socket_connect *connect;  /* under way, or NULL */
    struct tls_handshake *handshake; /* the same */
    struct wheel_timer timer;
    uint64_t end_ms;       /* of the whole attempt */
    uint64_t share_end_ms; /* of the present address's share */
    unsigned abandoned;    /* resolutions that go on, though nobody waits for them */
    char peer[ADDRESS_TEXT_MAX];
    char agreed[DIAL_AGREED_MAX]; /* empty without TLS */
    enum connect_outcome outcome; /* of the last failure, and what it was */
    char error[DIAL_ERROR_MAX];
};

/*
 * Prepares zeroed or used memory; the credentials are borrowed. Nothing to free later, but
 * dial_stop() ends what is under way.
 */
void dial_init(struct dial *dial, struct loop *loop, const struct dial_tls *tls,
               const struct dial_ops *ops, void *user);

/*
 * Begins an attempt that ends at `end_ms` on the loop's clock; `target` is borrowed until it is
 * over. One of the ops is called, perhaps from inside this.
 */
void dial_start(struct dial *dial, const struct target *target, uint64_t end_ms);

/*
 * What `connected` gave turned out to be no good, for the reason that `error` is about: goes on
 * with the next address. As dial_start().
 */
void dial_next(struct dial *dial, enum connect_outcome outcome, const char *error);

/* Milliseconds of the present address's share that are left, at least 1. */
uint64_t dial_share_left_ms(const struct dial *dial);

/* Ends the attempt without a word; nothing happens if there is none. */
void dial_stop(struct dial *dial);
