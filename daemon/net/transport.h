/*
 * What a connection sends and receives bytes through: a TCP socket (socket.c), memory (in tests),
 * and whatever comes later. An implementation embeds struct transport in a struct of its own.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct transport;

/* Who uses the transport; set by the connection before `start`. */
struct transport_user {
    /* Bytes came; borrowed for this call. */
    void (*received)(void *user, const uint8_t *bytes, size_t size);

    /* No more bytes will come: `error` is 0 at end of file, else a negative errno. */
    void (*ended)(void *user, int error);

    /* What write() kept is gone: all of it was accepted, or `error`, a negative errno. */
    void (*written)(void *user, int error);

    /* The transport is closed; its memory goes when this returns. */
    void (*closed)(void *user);
};

struct transport_ops {
    /* Starts delivering. 0 or a negative errno. */
    int (*start)(struct transport *transport);

    /* Writes what the kernel takes at once: 0 to `size`, or a negative errno if it is broken. */
    ssize_t (*try_write)(struct transport *transport, const uint8_t *bytes, size_t size);

    /*
     * Keeps a copy of the bytes and writes them when the kernel takes them; `written` follows. One
     * at a time. After a try_write() that took less than it was given, the next that is written is
     * what it left, by this, in the same turn: a transport that encrypts has done so already. 0,
     * -ENOMEM, or another negative errno; then `written` does not follow.
     */
    int (*write)(struct transport *transport, const uint8_t *bytes, size_t size);

    /*
     * About how many bytes try_write() would take now. SIZE_MAX if unknown. A guess, never waits.
     */
    size_t (*room)(struct transport *transport);

    /* How many of the bytes that try_write() and write() took the kernel has not sent yet; 0 if
     * unknown. Of a Unix socket: that the peer has not read, as the kernel counts them. */
    size_t (*unsent)(struct transport *transport);

    /* Tells the peer that no more comes, once what write() kept is gone. Errors are ignored. */
    void (*shutdown)(struct transport *transport);

    /* Closes at once; `closed` follows, never from inside this call, and nothing else does. */
    void (*close)(struct transport *transport);
};

struct transport {
    const struct transport_ops *ops;
    const struct transport_user *user_ops;
    void *user;
};
