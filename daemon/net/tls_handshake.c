/*
 * Until a session can carry bytes. A handshake that fails tells the peer why, by an alert or by
 * words of the protocol that it speaks instead of TLS, and then reads on for a moment, since a
 * socket that is closed with something unread in it takes what was said along.
 */
#include "net/tls_private.h"

#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LINGER_MS 1000

/* More than any ClientHello has, and a client sends nothing behind it before it is answered. */
#define HELLO_MAX (17 * 1024)

/* Types of records that a handshake can begin with. */
#define RECORD_ALERT 21
#define RECORD_HANDSHAKE 22

static const gnutls_datum_t protocol = {(unsigned char *)"h2", 2};

const char *const tls_outcome_labels[] = {
#define X(identifier, label) [TLS_##identifier] = (label),
    TLS_OUTCOMES(X)
#undef X
};

/* ---- Failing ---- */

static void handshake_close(struct tls_handshake *handshake)
{
    struct tls *tls = handshake->tls;

    loop_disarm(tls->loop, &handshake->timer);
    loop_cancel(tls->loop, &handshake->begin);
    tls->transport.ops->close(&tls->transport);
}

/* The first cause stands. */
static void set_outcome(struct tls_handshake *handshake, enum tls_outcome outcome,
                        const char *format, ...) _printf_(3, 4);
static void set_outcome(struct tls_handshake *handshake, enum tls_outcome outcome,
                        const char *format, ...)
{
    va_list arguments;

    if (handshake->outcome != TLS_OK)
        return;
    handshake->outcome = outcome;
    va_start(arguments, format);
    (void)vsnprintf(handshake->detail, sizeof(handshake->detail), format, arguments);
    va_end(arguments);
}

/* What was to be said is on its way; the peer is given a moment to read it. */
static void handshake_linger(struct tls_handshake *handshake)
{
    struct tls *tls = handshake->tls;

    handshake->failed = true;
    if (tls->broken) {
        handshake_close(handshake);
        return;
    }
    tls_shut_inner(tls);
    loop_arm(tls->loop, &handshake->timer, LINGER_MS, 10);
}

static void handshake_alert(struct tls_handshake *handshake, gnutls_alert_description_t alert)
{
    (void)gnutls_alert_send(handshake->tls->session, GNUTLS_AL_FATAL, alert);
    (void)tls_flush(handshake->tls);
    handshake_linger(handshake);
}

static void on_timer(struct wheel_timer *timer)
{
    struct tls_handshake *handshake = container_of(timer, struct tls_handshake, timer);

    set_outcome(handshake, TLS_TIMEOUT, "the %s did not end the handshake in time",
                handshake->tls->client ? "server" : "client");
    handshake_close(handshake);
}

/* GnuTLS gave up. */
static void handshake_failed(struct tls_handshake *handshake, int code)
{
    struct tls *tls = handshake->tls;
    const char *peer = tls->client ? "server" : "client";
    int alert = handshake->alert;

    if (code == GNUTLS_E_MEMORY_ERROR) {
        set_outcome(handshake, TLS_NO_MEMORY, "no memory for the handshake");
        handshake_close(handshake);
        return;
    }
    if (code == GNUTLS_E_FATAL_ALERT_RECEIVED) {
        gnutls_alert_description_t received = gnutls_alert_get(tls->session);

        set_outcome(
            handshake, received == GNUTLS_A_NO_APPLICATION_PROTOCOL ? TLS_NO_ALPN : TLS_FAILED,
            "the %s ended the handshake with the alert: %s", peer, tls_alert_name(received));
        handshake_linger(handshake);
        return;
    }
    if (code == GNUTLS_E_NO_APPLICATION_PROTOCOL)
        set_outcome(handshake, TLS_NO_ALPN, "the %s does not offer HTTP/2 (ALPN \"h2\")", peer);
    else if (code == GNUTLS_E_NO_CERTIFICATE_FOUND || code == GNUTLS_E_CERTIFICATE_REQUIRED)
        set_outcome(handshake, TLS_CERTIFICATE, "the %s showed no certificate, and must", peer);
    else if (code == GNUTLS_E_KEY_USAGE_VIOLATION)
        set_outcome(handshake, TLS_CERTIFICATE,
                    "the %s's certificate forbids this use of its key (key usage)", peer);
    else if (code == GNUTLS_E_UNSUPPORTED_VERSION_PACKET)
        set_outcome(handshake, TLS_FAILED,
                    "the %s speaks neither TLS 1.3 nor TLS 1.2, or not as "
                    "the priorities allow",
                    peer);
    else if (code == GNUTLS_E_NO_CIPHER_SUITES)
        set_outcome(handshake, TLS_FAILED, "no cipher that the %s knows is allowed here", peer);
    else
        set_outcome(handshake, TLS_FAILED, "%s", gnutls_strerror(code));
    /* TLS 1.2 has no word of its own for that (RFC 5246, 7.4.6), and GnuTLS says "decode error". */
    if (code == GNUTLS_E_NO_CERTIFICATE_FOUND)
        alert = GNUTLS_A_HANDSHAKE_FAILURE;
    if (!alert)
        alert = gnutls_error_to_alert(code, NULL);
    handshake_alert(handshake, (gnutls_alert_description_t)alert);
}

/* ---- Those who do not speak TLS ---- */

static bool begins_with(const struct tls *tls, const char *text)
{
    return tls->in_size >= strlen(text) && memcmp(tls->in, text, strlen(text)) == 0;
}

static void answer(struct tls *tls, const char *bytes, size_t size)
{
    ssize_t n = tls->inner->ops->try_write(tls->inner, (const uint8_t *)bytes, size);

    if (n < 0)
        tls->broken = (int)n;
}

/* A client without TLS gets its answer in the protocol that it seems to speak. */
static void refuse_client(struct tls_handshake *handshake)
{
    static const char http1[] = "HTTP/1.1 400 Bad Request\r\n"
                                "Content-Type: text/plain\r\n"
                                "Content-Length: 35\r\n"
                                "Connection: close\r\n"
                                "\r\n"
                                "This port speaks gRPC over TLS only";
    /* GOAWAY with INADEQUATE_SECURITY and a text. Without SETTINGS before it: a gRPC client takes
     * these for the sign that it is connected, and after the GOAWAY it tries again at once, without
     * a pause and without a word to its user, thousands of times a second. */
    static const char http2[] = "\0\0\x2b\7\0\0\0\0\0"
                                "\0\0\0\0\0\0\0\xc"
                                "This port speaks gRPC over TLS only";
    struct tls *tls = handshake->tls;

    if (begins_with(tls, "PRI ")) {
        set_outcome(handshake, TLS_FAILED, "the client speaks HTTP/2 without TLS");
        answer(tls, http2, sizeof(http2) - 1);
    } else if (tls->in_size >= 4 && tls->in[0] >= 'A' && tls->in[0] <= 'Z') {
        set_outcome(handshake, TLS_FAILED, "the client does not speak TLS but HTTP, it seems");
        answer(tls, http1, sizeof(http1) - 1);
    } else {
        set_outcome(handshake, TLS_FAILED, "the client does not speak TLS");
    }
    handshake_linger(handshake);
}

static void refuse_server(struct tls_handshake *handshake)
{
    struct tls *tls = handshake->tls;

    if (begins_with(tls, "HTTP/"))
        set_outcome(handshake, TLS_FAILED, "the server does not speak TLS but HTTP/1");
    else if (tls->in_size >= 4 && tls->in[0] == 0 && tls->in[3] == 4)
        set_outcome(handshake, TLS_FAILED, "the server speaks HTTP/2 without TLS");
    else
        set_outcome(handshake, TLS_FAILED, "the server does not speak TLS");
    handshake_linger(handshake);
}

/* ---- Stepping ---- */

static void handshake_succeeded(struct tls_handshake *handshake_)
{
    _cleanup_free_ struct tls_handshake *handshake = handshake_;
    struct tls *tls = handshake->tls;
    gnutls_datum_t chosen;

    /* A server does not come here without; a client's server may have chosen nothing. */
    if (gnutls_alpn_get_selected_protocol(tls->session, &chosen) < 0 ||
        chosen.size != protocol.size || memcmp(chosen.data, protocol.data, protocol.size) != 0) {
        handshake_failed(TAKE_PTR(handshake), GNUTLS_E_NO_APPLICATION_PROTOCOL);
        return;
    }
    (void)snprintf(handshake->detail, sizeof(handshake->detail), "%s, %s",
                   gnutls_protocol_get_name(gnutls_protocol_get_version(tls->session)),
                   gnutls_cipher_get_name(gnutls_cipher_get(tls->session)));
    loop_disarm(tls->loop, &handshake->timer);
    loop_cancel(tls->loop, &handshake->begin);
    tls_peer_find_name(tls);
    tls->handshake = NULL;
    handshake->done(handshake->user, &tls->transport, TLS_OK, handshake->detail);
    assert(tls->started || tls->closing);
}

static void handshake_step(struct tls_handshake *handshake)
{
    struct tls *tls = handshake->tls;
    struct loop *loop = tls->loop;
    uint64_t start_ns = uv_hrtime();
    size_t before;
    int r;

    do {
        before = tls->in_size;
        r = gnutls_handshake(tls->session);
    } while (r < 0 && !gnutls_error_is_fatal(r) && (r != GNUTLS_E_AGAIN || tls->in_size < before));
    loop_spend(loop, uv_hrtime() - start_ns);
    if (tls_flush(tls) < 0) {
        set_outcome(handshake, tls->broken == -ENOMEM ? TLS_NO_MEMORY : TLS_FAILED,
                    "the connection broke: %s", uv_strerror(tls->broken));
        handshake_close(handshake);
    } else if (r == GNUTLS_E_SUCCESS) {
        handshake_succeeded(handshake);
    } else if (gnutls_error_is_fatal(r)) {
        handshake_failed(handshake, r);
    }
}

/*
 * The answer to a ClientHello costs a server more than all the rest: a signature. When the turn has
 * no more time for that, what came is held, and looked at in a later turn, in order of arrival.
 */
static bool must_wait(const struct tls_handshake *handshake)
{
    const struct tls *tls = handshake->tls;

    return !tls->client && !handshake->heard && (handshake->held || !loop_has_time(tls->loop));
}

static void handshake_hold(struct tls_handshake *handshake)
{
    struct tls *tls = handshake->tls;
    size_t size = handshake->held_size + tls->in_size;
    uint8_t *held = size <= HELLO_MAX ? realloc(handshake->held, size) : NULL;

    if (!held) {
        set_outcome(handshake, size <= HELLO_MAX ? TLS_NO_MEMORY : TLS_FAILED,
                    size <= HELLO_MAX ? "no memory for the handshake"
                                      : "the client sends more than a handshake begins with");
        handshake_close(handshake);
        return;
    }
    memcpy(held + handshake->held_size, tls->in, tls->in_size);
    handshake->held = held;
    handshake->held_size = size;
    loop_queue(tls->loop, &handshake->begin);
}

static void on_begin(struct loop_task *task)
{
    struct tls_handshake *handshake = container_of(task, struct tls_handshake, begin);
    struct tls *tls = handshake->tls;
    _cleanup_free_ uint8_t *held = NULL;
    size_t size = handshake->held_size;

    if (tls->client) {
        handshake_step(handshake);
    } else if (!loop_has_time(tls->loop)) {
        loop_queue(tls->loop, task);
    } else {
        held = TAKE_PTR(handshake->held);
        handshake->held_size = 0;
        tls_delivered(tls, held, size);
    }
}

void tls_handshake_received(struct tls *tls)
{
    struct tls_handshake *handshake = tls->handshake;

    if (handshake->failed || tls->closing || tls->in_size == 0)
        return;
    if (!handshake->sniffed && tls->in[0] != RECORD_HANDSHAKE && tls->in[0] != RECORD_ALERT) {
        if (tls->client)
            refuse_server(handshake);
        else
            refuse_client(handshake);
        return;
    }
    handshake->sniffed = true;
    if (must_wait(handshake))
        handshake_hold(handshake);
    else
        handshake_step(handshake);
}

void tls_handshake_ended(struct tls *tls, int error)
{
    const char *peer = tls->client ? "server" : "client";

    if (error < 0)
        set_outcome(tls->handshake, TLS_FAILED, "the connection to the %s broke: %s", peer,
                    uv_strerror(error));
    else
        set_outcome(tls->handshake, TLS_FAILED,
                    "the %s closed the connection in the middle of the handshake", peer);
    handshake_close(tls->handshake);
}

void tls_handshake_closed(struct tls *tls)
{
    struct tls_handshake *handshake = tls->handshake;

    if (handshake->done)
        handshake->done(handshake->user, NULL, handshake->outcome, handshake->detail);
}

/* ---- Beginning ---- */

/* A client may offer no protocol that we speak, or none at all, and GnuTLS does not mind. */
static int on_client_hello(gnutls_session_t session)
{
    struct tls *tls = gnutls_session_get_ptr(session);
    gnutls_datum_t chosen;

    tls->handshake->heard = true;
    return gnutls_alpn_get_selected_protocol(session, &chosen) < 0
               ? GNUTLS_E_NO_APPLICATION_PROTOCOL
               : 0;
}

/* What only one of both sides does. */
static int set_role(struct tls *tls, const struct tls_options *options)
{
    static const gnutls_certificate_request_t requests[] = {
        [CLIENT_CERTIFICATE_NO] = GNUTLS_CERT_IGNORE,
        [CLIENT_CERTIFICATE_OPTIONAL] = GNUTLS_CERT_REQUEST,
        [CLIENT_CERTIFICATE_REQUIRED] = GNUTLS_CERT_REQUIRE,
    };
    uint8_t address[16];
    const char *name = options->server_name;

    if (!tls->client) {
        gnutls_certificate_server_set_request(
            tls->session, requests[credentials_client_certificate(tls->credentials)]);
        gnutls_handshake_set_post_client_hello_function(tls->session, on_client_hello);
        return 0;
    }
    /* Addresses are not for SNI (RFC 6066, 3). */
    if (!name || !*name || tls_parse_address(name, address) > 0)
        return 0;
    return gnutls_server_name_set(tls->session, GNUTLS_NAME_DNS, name, strlen(name));
}

/*
 * No tickets: connections live for hours, so there is little to gain by resuming one; and without
 * it every connection is judged by the certificates and authorities of today. A client shows its
 * certificate also to a server that asks for other authorities, so that it is told what is wrong.
 */
static int session_make(struct tls *tls, const struct tls_options *options)
{
    unsigned role = tls->client ? GNUTLS_CLIENT | GNUTLS_FORCE_CLIENT_CERT : GNUTLS_SERVER;
    int r = gnutls_init(&tls->session, role | GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS);

    if (r < 0) {
        tls->session = NULL;
        return -ENOMEM;
    }
    gnutls_session_set_ptr(tls->session, tls);
    gnutls_handshake_set_timeout(tls->session, 0);
    gnutls_session_set_verify_function(tls->session, tls_peer_verify);
    r = gnutls_priority_set(tls->session, credentials_priority(tls->credentials));
    if (r >= 0)
        r = gnutls_credentials_set(tls->session, GNUTLS_CRD_CERTIFICATE,
                                   credentials_gnutls(tls->credentials));
    if (r >= 0)
        r = gnutls_alpn_set_protocols(tls->session, &protocol, 1, 0);
    if (r >= 0)
        r = set_role(tls, options);
    return r == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : r < 0 ? -EINVAL : 0;
}

static int handshake_make(struct tls *tls, const struct tls_options *options)
{
    struct tls_handshake *handshake = calloc(1, sizeof(*handshake));

    if (!handshake)
        return -ENOMEM;
    tls->handshake = handshake;
    handshake->tls = tls;
    handshake->begin.run = on_begin;
    handshake->timer.fire = on_timer;
    handshake->server_name = options->server_name ? options->server_name : "";
    handshake->insecure = options->insecure;
    handshake->done = options->done;
    handshake->user = options->user;
    return 0;
}

int tls_handshake(struct tls_handshake **ret_handshake, struct loop *loop, struct transport *inner,
                  const struct tls_options *options)
{
    struct tls *tls = calloc(1, sizeof(*tls));
    int r = -ENOMEM;

    if (tls) {
        tls->inner = inner;
        tls->loop = loop;
        tls->client = options->client;
        tls->credentials = credentials_ref(options->credentials);
        r = handshake_make(tls, options);
        if (r >= 0)
            r = session_make(tls, options);
        if (r >= 0) {
            tls_attach(tls);
            r = inner->ops->start(inner);
        }
    }
    if (r < 0) {
        inner->user_ops = NULL;
        inner->ops->close(inner);
        tls_free(tls);
        return r;
    }
    if (options->timeout_ms > 0)
        loop_arm(loop, &tls->handshake->timer, options->timeout_ms, 10);
    if (tls->client)
        loop_queue(loop, &tls->handshake->begin);
    *ret_handshake = tls->handshake;
    return 0;
}

void tls_handshake_cancel(struct tls_handshake *handshake)
{
    handshake->done = NULL;
    handshake_close(handshake);
}
