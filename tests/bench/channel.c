#include "tests/bench/channel.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What GnuTLS may hold of a record that came in part: its plaintext at most, and room to spare. */
#define RECORD_BYTES_MAX (2 * 16384)
#define CIPHERTEXT_BYTES (256 * 1024)

struct channel_tls {
    int fd;
    gnutls_session_t session;
    bool ready;
};

/* What was received and not yet taken by GnuTLS; empty between two calls. One for all channels. */
static struct {
    uint8_t bytes[CIPHERTEXT_BYTES];
    const uint8_t *next;
    size_t left;
} received;

static gnutls_certificate_credentials_t credentials;

bool channel_trust(const char *path)
{
    return gnutls_certificate_allocate_credentials(&credentials) >= 0 &&
           gnutls_certificate_set_x509_trust_file(credentials, path, GNUTLS_X509_FMT_PEM) > 0;
}

/* During the handshake GnuTLS reads the socket, exactly what it needs; then from `received`. */
static ssize_t on_pull(gnutls_transport_ptr_t pointer, void *bytes, size_t size)
{
    struct channel_tls *tls = pointer;

    if (!tls->ready) {
        ssize_t n = recv(tls->fd, bytes, size, 0);

        if (n < 0)
            gnutls_transport_set_errno(tls->session, errno);
        return n;
    }
    if (received.left == 0) {
        gnutls_transport_set_errno(tls->session, EAGAIN);
        return -1;
    }
    if (size > received.left)
        size = received.left;
    memcpy(bytes, received.next, size);
    received.next += size;
    received.left -= size;
    return (ssize_t)size;
}

static bool tls_init(struct channel_tls *tls, int fd)
{
    static const char server_name[] = "localhost";
    gnutls_datum_t h2 = {(unsigned char *)"h2", 2};
    gnutls_session_t session;

    if (gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0)
        return false;
    tls->fd = fd;
    tls->session = session;
    gnutls_transport_set_ptr2(session, tls, (gnutls_transport_ptr_t)(intptr_t)fd);
    gnutls_transport_set_pull_function(session, on_pull);
    gnutls_session_set_verify_cert(session, server_name, 0);
    return gnutls_priority_set_direct(session, CHANNEL_PRIORITIES, NULL) >= 0 &&
           gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials) >= 0 &&
           gnutls_server_name_set(session, GNUTLS_NAME_DNS, server_name, strlen(server_name)) >=
               0 &&
           gnutls_alpn_set_protocols(session, &h2, 1, GNUTLS_ALPN_MANDATORY) >= 0;
}

bool channel_open(struct channel *channel, int fd, bool tls)
{
    *channel = (struct channel){.fd = fd};
    if (!tls)
        return true;
    channel->tls = calloc(1, sizeof(*channel->tls));
    return channel->tls && tls_init(channel->tls, fd);
}

void channel_close(struct channel *channel)
{
    if (channel->fd < 0)
        return;
    if (channel->tls) {
        gnutls_deinit(channel->tls->session);
        free(channel->tls);
        channel->tls = NULL;
    }
    close(channel->fd);
    channel->fd = -1;
}

enum channel_state channel_handshake(struct channel *channel, const char **ret_why)
{
    struct channel_tls *tls = channel->tls;
    gnutls_datum_t protocol;
    int r;

    do
        r = gnutls_handshake(tls->session);
    while (r == GNUTLS_E_INTERRUPTED);
    if (r == GNUTLS_E_AGAIN)
        return gnutls_record_get_direction(tls->session) ? CHANNEL_WANTS_WRITE : CHANNEL_WANTS_READ;
    if (r < 0 && gnutls_error_is_fatal(r)) {
        *ret_why = gnutls_strerror(r);
        return CHANNEL_FAILED;
    }
    if (r < 0)
        return CHANNEL_WANTS_READ;
    if (gnutls_alpn_get_selected_protocol(tls->session, &protocol) < 0) {
        *ret_why = "the server did not choose h2 by ALPN";
        return CHANNEL_FAILED;
    }
    tls->ready = true;
    return CHANNEL_READY;
}

bool channel_ready(const struct channel *channel)
{
    return !channel->tls || channel->tls->ready;
}

char *channel_describe(const struct channel *channel)
{
    return channel->tls ? gnutls_session_get_desc(channel->tls->session) : NULL;
}

static ssize_t tls_read(struct channel_tls *tls, uint8_t *bytes, size_t size)
{
    size_t limit = size - RECORD_BYTES_MAX;
    size_t done = 0;
    ssize_t n = recv(tls->fd, received.bytes,
                     limit < sizeof(received.bytes) ? limit : sizeof(received.bytes), 0);

    if (n <= 0)
        return n;
    received.next = received.bytes;
    received.left = (size_t)n;
    for (;;) {
        n = gnutls_record_recv(tls->session, bytes + done, size - done);
        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || gnutls_error_is_fatal((int)n) || n == GNUTLS_E_REHANDSHAKE) {
            /* What came before is told first; what comes after TLS's end, never. */
            received.left = 0;
            errno = EPROTO;
            return done > 0 ? (ssize_t)done : n == 0 ? 0 : -1;
        } else if (received.left == 0) {
            errno = EAGAIN;
            return done > 0 ? (ssize_t)done : -1;
        }
    }
}

ssize_t channel_read(struct channel *channel, uint8_t *bytes, size_t size)
{
    return channel->tls ? tls_read(channel->tls, bytes, size) : recv(channel->fd, bytes, size, 0);
}

static ssize_t tls_write(struct channel_tls *tls, const uint8_t *bytes, size_t size)
{
    /* A record that the socket did not take whole is kept by GnuTLS, and counts when it is sent. */
    ssize_t n = gnutls_record_send(tls->session, bytes, size);

    if (n >= 0)
        return n;
    errno = n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED ? EAGAIN : EPROTO;
    return -1;
}

ssize_t channel_write(struct channel *channel, const uint8_t *bytes, size_t size)
{
    return channel->tls ? tls_write(channel->tls, bytes, size)
                        : send(channel->fd, bytes, size, MSG_NOSIGNAL);
}
