/*
 * From a name to a connected socket: resolves the host, and tries its addresses one after the other
 * in the resolver's order (RFC 6724), each with an equal share of the time that is left, so that
 * one that swallows packets does not keep the others from being tried.
 */
#pragma once

#include "base/address.h"
#include "base/loop.h"
#include "client/stats.h"
#include "client/target.h"
#include "net/socket.h"
#include "net/transport.h"

#include <uv.h>

#define DIAL_ERROR_MAX 256

struct dial_ops {
    /* Connected; the transport is the callee's. */
    void (*connected)(void *user, struct transport *transport, const char *peer);

    /* No address is left. `error` is a text for people about the last one. */
    void (*failed)(void *user, enum connect_outcome outcome, const char *error);
};

struct resolution;

struct dial {
    struct loop *loop;
    const struct dial_ops *ops;
    void *user;
    struct resolution *resolution;  /* under way, or NULL */
    const char *authority;          /* what the addresses are of */
    struct addrinfo *addresses;     /* what it found */
    struct addrinfo *next;          /* of them: not tried yet */
    struct socket_connect *connect; /* under way, or NULL */
    struct wheel_timer timer;
    uint64_t end_ms;       /* of the whole attempt */
    uint64_t share_end_ms; /* of the present address's share */
    unsigned abandoned;    /* resolutions that go on, though nobody waits for them */
    char peer[ADDRESS_TEXT_MAX];
    enum connect_outcome outcome; /* of the last failure, and what it was */
    char error[DIAL_ERROR_MAX];
};

/* Prepares zeroed or used memory. Nothing to free later, but dial_stop() ends what is under way. */
void dial_init(struct dial *dial, struct loop *loop, const struct dial_ops *ops, void *user);

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
