/*
 * A TLS session as a transport.
 *
 * Sending: all sessions encrypt into one buffer, since nothing stays in it beyond a call. What the
 * inner transport does not take at once is given to it to keep right away, so that no session holds
 * ciphertext, whatever its user does next; the plaintext that is in it was encrypted already when
 * the user writes it again, as transport.h says it must.
 *
 *     plaintext:   | record | record | rec |
 *     ciphertext:  |=record==|=record==|=rec=|
 *                  '-- taken --'----- kept ---'
 *                  | told as |    `left`     |
 *                    taken
 *
 * Only while the inner transport keeps something (the end of a handshake, say) can there be more
 * to send than it may be given; that waits on the heap, and is one write of the user at most.
 *
 * Receiving: GnuTLS takes from what the inner transport delivers, a record at a time, and holds at
 * most an incomplete one. The end of TCP without TLS's own (close_notify) is taken as an end like
 * any other: HTTP/2 tells by itself where messages and streams end, so nothing can be cut unseen.
 */
#include "net/tls_private.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define RECORD_PLAIN_MAX 16384

/* More than any cipher's: header, nonce, content type, tag. */
#define RECORD_OVERHEAD_MAX 64

/* What is encrypted in one go: more than a connection's batch, whose end has most often its own
 * record. A peer may ask for smaller records, and then there are more of them. */
#define SEAL_RECORDS_MAX 256
#define SEAL_MAX ((size_t)10 * RECORD_PLAIN_MAX)

/* Records that were made and not yet given to the inner transport; empty between two calls. */
static struct {
    uint8_t bytes[SEAL_MAX + (SEAL_RECORDS_MAX + 1) * RECORD_OVERHEAD_MAX];
    size_t size;
    struct {
        size_t plain; /* the number of bytes up to the record's end, before and after encryption */
        size_t sealed;
    } ends[SEAL_RECORDS_MAX];
    unsigned count;
} sealed;

/* ---- Sending ---- */

/* The size of what is in `sealed`, which counts as taken out: the next session to use it must find
 * it empty, or that session's peer gets what was for another. */
static size_t sealed_take(void)
{
    size_t size = sealed.size;

    sealed.size = 0;
    return size;
}

/* Gives the inner transport ciphertext to keep, in turn. 0 or a negative errno, and then the
 * session is broken. */
static int tls_keep(struct tls *tls, const uint8_t *bytes, size_t size)
{
    uint8_t *waiting;
    int r;

    if (!tls->busy) {
        r = tls->inner->ops->write(tls->inner, bytes, size);
        if (r < 0)
            tls->broken = r;
        else
            tls->busy = true;
        return r;
    }
    waiting = realloc(tls->waiting, tls->waiting_size + size);
    if (!waiting)
        return tls->broken = -ENOMEM;
    memcpy(waiting + tls->waiting_size, bytes, size);
    tls->waiting = waiting;
    tls->waiting_size += size;
    return 0;
}

int tls_flush(struct tls *tls)
{
    size_t size = sealed_take();
    ssize_t n = 0;

    if (tls->broken || tls->shut || size == 0)
        return tls->broken;
    if (!tls->busy)
        n = tls->inner->ops->try_write(tls->inner, sealed.bytes, size);
    if (n < 0)
        return tls->broken = (int)n;
    return (size_t)n < size ? tls_keep(tls, sealed.bytes + n, size - (size_t)n) : 0;
}

static ssize_t on_push(gnutls_transport_ptr_t pointer, const void *bytes, size_t size)
{
    struct tls *tls = pointer;

    /* Only a handshake with huge certificates has more to say than fits. */
    if (size > sizeof(sealed.bytes) - sealed.size &&
        (tls_flush(tls) < 0 || size > sizeof(sealed.bytes))) {
        gnutls_transport_set_errno(tls->session, EIO);
        return -1;
    }
    memcpy(sealed.bytes + sealed.size, bytes, size);
    sealed.size += size;
    return (ssize_t)size;
}

/* Encrypts as much as fits into `sealed`. How much plaintext that was, or a negative errno. */
static ssize_t seal(struct tls *tls, const uint8_t *bytes, size_t size)
{
    size_t done = 0;

    size = MIN(size, SEAL_MAX);
    for (sealed.count = 0; done < size && sealed.count < SEAL_RECORDS_MAX; sealed.count++) {
        ssize_t n = gnutls_record_send(tls->session, bytes + done, size - done);

        if (n <= 0) {
            sealed.size = 0;
            return tls->broken = n == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EPROTO;
        }
        if ((size_t)n < size - done)
            tls->record_max = (size_t)n;
        done += (size_t)n;
        sealed.ends[sealed.count].plain = done;
        sealed.ends[sealed.count].sealed = sealed.size;
    }
    return (ssize_t)done;
}

/* The plaintext of the records that lie whole in the first `taken` bytes of `sealed`. */
static size_t sealed_plain(size_t taken)
{
    size_t plain = 0;

    for (unsigned i = 0; i < sealed.count && sealed.ends[i].sealed <= taken; i++)
        plain = sealed.ends[i].plain;
    return plain;
}

static struct tls *from_transport(struct transport *transport)
{
    return container_of(transport, struct tls, transport);
}

static ssize_t tls_try_write(struct transport *transport, const uint8_t *bytes, size_t size)
{
    struct tls *tls = from_transport(transport);
    size_t done = 0;

    if (tls->broken)
        return tls->broken;
    while (done < size && !tls->busy) {
        ssize_t piece = seal(tls, bytes + done, size - done);
        size_t sealed_size;
        ssize_t n;

        if (piece < 0)
            return piece;
        sealed_size = sealed_take();
        n = tls->inner->ops->try_write(tls->inner, sealed.bytes, sealed_size);
        if (n < 0)
            return tls->broken = (int)n;
        if ((size_t)n < sealed_size) {
            size_t whole = sealed_plain((size_t)n);

            /* If this fails the user learns it by write(), which has the codes for it. */
            (void)tls_keep(tls, sealed.bytes + n, sealed_size - (size_t)n);
            tls->left = (size_t)piece - whole;
            return (ssize_t)(done + whole);
        }
        done += (size_t)piece;
    }
    return (ssize_t)done;
}

static int tls_write(struct transport *transport, const uint8_t *bytes, size_t size)
{
    struct tls *tls = from_transport(transport);

    if (tls->broken)
        return tls->broken;
    assert(size >= tls->left);
    bytes += tls->left;
    size -= tls->left;
    tls->left = 0;
    while (size > 0) {
        ssize_t piece = seal(tls, bytes, size);
        int r = piece < 0 ? (int)piece : tls_keep(tls, sealed.bytes, sealed_take());

        if (r < 0)
            return r;
        bytes += piece;
        size -= (size_t)piece;
    }
    assert(tls->busy);
    tls->user_waits = true;
    return 0;
}

static size_t tls_room(struct transport *transport)
{
    struct tls *tls = from_transport(transport);
    size_t room = tls->inner->ops->room(tls->inner);
    size_t overhead;

    if (room == SIZE_MAX)
        return room;
    overhead = (room / tls->record_max + 1) * gnutls_record_overhead_size(tls->session);
    return room > overhead ? room - overhead : 0;
}

static size_t tls_unsent(struct transport *transport)
{
    struct tls *tls = from_transport(transport);

    return tls->inner->ops->unsent(tls->inner);
}

void tls_shut_inner(struct tls *tls)
{
    tls->shut_wanted = tls->waiting_size > 0;
    if (tls->shut_wanted)
        return;
    tls->shut = true;
    tls->inner->ops->shutdown(tls->inner);
}

static void tls_shutdown(struct transport *transport)
{
    struct tls *tls = from_transport(transport);

    if (!tls->broken) {
        (void)gnutls_bye(tls->session, GNUTLS_SHUT_WR);
        (void)tls_flush(tls);
    }
    tls_shut_inner(tls);
}

static void on_written(void *user, int error)
{
    struct tls *tls = user;

    tls->busy = false;
    if (error == 0 && tls->waiting) {
        _cleanup_free_ uint8_t *waiting = TAKE_PTR(tls->waiting);
        size_t size = tls->waiting_size;

        tls->waiting_size = 0;
        error = tls_keep(tls, waiting, size);
        if (tls->shut_wanted)
            tls_shut_inner(tls);
        if (error == 0)
            return;
    }
    if (error < 0)
        tls->broken = error;
    if (tls->handshake && error < 0) {
        tls_handshake_ended(tls, error);
    } else if (tls->user_waits) {
        tls->user_waits = false;
        tls->transport.user_ops->written(tls->transport.user, error);
    }
}

/* ---- Receiving ---- */

static ssize_t on_pull(gnutls_transport_ptr_t pointer, void *bytes, size_t size)
{
    struct tls *tls = pointer;
    size_t n = MIN(size, tls->in_size);

    if (n == 0) {
        gnutls_transport_set_errno(tls->session, EAGAIN);
        return -1;
    }
    memcpy(bytes, tls->in, n);
    tls->in += n;
    tls->in_size -= n;
    return (ssize_t)n;
}

/* GnuTLS's own would look at a socket. */
static int on_pull_timeout(gnutls_transport_ptr_t pointer, unsigned ms)
{
    const struct tls *tls = pointer;

    return tls->in_size > 0;
}

/* The session is over because of `code`: the user is told an errno that comes near to it. */
static void tls_receive_failed(struct tls *tls, int code)
{
    int error = code == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EPROTO;

    if (code == GNUTLS_E_FATAL_ALERT_RECEIVED) {
        gnutls_alert_description_t alert = gnutls_alert_get(tls->session);

        /* With TLS 1.3 a client thinks that it is connected before the server has judged it. */
        if (alert == GNUTLS_A_CERTIFICATE_REQUIRED || alert == GNUTLS_A_BAD_CERTIFICATE ||
            alert == GNUTLS_A_UNSUPPORTED_CERTIFICATE || alert == GNUTLS_A_CERTIFICATE_REVOKED ||
            alert == GNUTLS_A_CERTIFICATE_EXPIRED || alert == GNUTLS_A_CERTIFICATE_UNKNOWN ||
            alert == GNUTLS_A_UNKNOWN_CA || alert == GNUTLS_A_ACCESS_DENIED)
            error = -EACCES;
        log_event(tls->client ? LOG_WARNING : LOG_DEBUG,
                  log_fields(LOG_EVENT(TLS_BROKEN), {"STOCKD_ERROR", tls_alert_name(alert)}),
                  "the %s ended TLS with the alert: %s", tls->client ? "server" : "client",
                  tls_alert_name(alert));
    } else {
        log_event(LOG_DEBUG,
                  log_fields(LOG_EVENT(TLS_BROKEN), {"STOCKD_ERROR", gnutls_strerror(code)}),
                  "the %s broke TLS: %s", tls->client ? "server" : "client", gnutls_strerror(code));
        /* Renegotiation, too, is refused for good: RFC 9113, 9.2.1. */
        (void)gnutls_alert_send(
            tls->session, GNUTLS_AL_FATAL,
            code == GNUTLS_E_REHANDSHAKE
                ? GNUTLS_A_NO_RENEGOTIATION
                : (gnutls_alert_description_t)gnutls_error_to_alert(code, NULL));
        (void)tls_flush(tls);
    }
    if (!tls->broken)
        tls->broken = error;
    tls->ended = true;
    tls->transport.user_ops->ended(tls->transport.user, error);
}

/* Decrypts what came, and gives it to the user, who may close the transport meanwhile. */
static void tls_receive(struct tls *tls)
{
    static uint8_t plain[RECORD_PLAIN_MAX];

    while (!tls->closing && !tls->ended) {
        ssize_t n = gnutls_record_recv(tls->session, plain, sizeof(plain));

        if (n > 0) {
            tls->transport.user_ops->received(tls->transport.user, plain, (size_t)n);
        } else if (n == 0) {
            tls->ended = true;
            tls->transport.user_ops->ended(tls->transport.user, 0);
        } else if (n == GNUTLS_E_AGAIN && tls->in_size == 0) {
            break;
        } else if (n == GNUTLS_E_REHANDSHAKE || gnutls_error_is_fatal((int)n)) {
            tls_receive_failed(tls, (int)n);
        }
    }
}

void tls_delivered(struct tls *tls, const uint8_t *bytes, size_t size)
{
    tls->in = bytes;
    tls->in_size = size;
    if (tls->handshake)
        tls_handshake_received(tls);
    /* The handshake may be over now, and the user may have closed what it got. */
    if (!tls->handshake)
        tls_receive(tls);
    tls->in = NULL;
    tls->in_size = 0;
}

static void on_received(void *user, const uint8_t *bytes, size_t size)
{
    tls_delivered(user, bytes, size);
}

static void on_ended(void *user, int error)
{
    struct tls *tls = user;

    if (tls->handshake) {
        tls_handshake_ended(tls, error);
    } else if (!tls->ended) {
        tls->ended = true;
        tls->transport.user_ops->ended(tls->transport.user, error);
    }
}

/* ---- Its life ---- */

static int tls_start(struct transport *transport)
{
    from_transport(transport)->started = true;
    return 0;
}

static void tls_close(struct transport *transport)
{
    struct tls *tls = from_transport(transport);

    if (tls->closing)
        return;
    tls->closing = true;
    tls->inner->ops->close(tls->inner);
}

static void on_closed(void *user)
{
    struct tls *tls = user;

    if (tls->handshake)
        tls_handshake_closed(tls);
    else if (tls->transport.user_ops)
        tls->transport.user_ops->closed(tls->transport.user);
    tls_free(tls);
}

void tls_attach(struct tls *tls)
{
    static const struct transport_ops ops = {
        .start = tls_start,
        .try_write = tls_try_write,
        .write = tls_write,
        .room = tls_room,
        .unsent = tls_unsent,
        .shutdown = tls_shutdown,
        .close = tls_close,
    };
    static const struct transport_user inner_user = {
        .received = on_received,
        .ended = on_ended,
        .written = on_written,
        .closed = on_closed,
    };

    tls->transport.ops = &ops;
    tls->record_max = RECORD_PLAIN_MAX;
    tls->inner->user = tls;
    tls->inner->user_ops = &inner_user;
    gnutls_transport_set_ptr(tls->session, tls);
    gnutls_transport_set_push_function(tls->session, on_push);
    gnutls_transport_set_pull_function(tls->session, on_pull);
    gnutls_transport_set_pull_timeout_function(tls->session, on_pull_timeout);
}

struct tls *tls_free(struct tls *tls)
{
    if (!tls)
        return NULL;
    if (tls->session)
        gnutls_deinit(tls->session);
    credentials_unref(tls->credentials);
    if (tls->handshake)
        free(tls->handshake->held);
    free(tls->handshake);
    free(tls->waiting);
    free(tls->peer_name);
    free(tls);
    return NULL;
}
