#pragma once

/*
 * What the load sends and receives through: a TCP socket as it is, or TLS over it. TLS reads as
 * much ciphertext at once as a plain socket would read of its bytes, and decrypts it from there, so
 * that the load needs no more system calls for it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * One version and one cipher, in GnuTLS's words, so that every server does the same work: that
 * which most servers choose where the processor has instructions for it.
 */
#define CHANNEL_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM"

struct channel_tls;

struct channel {
    int fd;
    struct channel_tls *tls; /* NULL if plain */
};

enum channel_state { CHANNEL_READY, CHANNEL_WANTS_READ, CHANNEL_WANTS_WRITE, CHANNEL_FAILED };

/*
 * Reads the authorities that servers are to be certified by from the PEM file at `path`, for all
 * channels with TLS. Returns false if it has none.
 */
bool channel_trust(const char *path);

/*
 * Begins on the connected or connecting non-blocking socket `fd`; with `tls` there is a handshake
 * to come. Returns false without memory.
 */
bool channel_open(struct channel *channel, int fd, bool tls);

/* Closes the socket, too; nothing if that was done before. */
void channel_close(struct channel *channel);

/*
 * Goes on with the handshake; to be called at first, and when the socket is as it wants it. The
 * server must be "localhost", certified by whom channel_trust() was told, and speak h2. When it has
 * failed, `ret_why` is set.
 */
enum channel_state channel_handshake(struct channel *channel, const char **ret_why);

/* Whether bytes can be sent and received: at once if it is plain. */
bool channel_ready(const struct channel *channel);

/* Of a handshake that is over: version, key exchange and cipher; for free(). NULL if plain. */
char *channel_describe(const struct channel *channel);

/*
 * As recv() and send() of a non-blocking socket: how many bytes, 0 at the end, or -1 and errno.
 * `size` is at least CHANNEL_READ_BYTES_MIN; all that was received of whole TLS records fits.
 */
enum { CHANNEL_READ_BYTES_MIN = 64 * 1024 };
ssize_t channel_read(struct channel *channel, uint8_t *bytes, size_t size);

/* What was not sent, the caller sends again, with more behind it if it likes. */
ssize_t channel_write(struct channel *channel, const uint8_t *bytes, size_t size);
