#include "client/connect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What a server may send as headers: far more than gRPC's own take. */
#define HEADER_BYTES_MAX (64 * 1024)

/* How long the answer to a PING may take; gRPC's default. */
#define KEEPALIVE_TIMEOUT_MS 20000

void connect_begin(struct connection **ret_connection, struct dial *dial,
                   struct transport *transport, const char *peer,
                   const struct connection_options *options)
{
    struct connection_options all = *options;
    int r;

    all.client = true;
    all.max_header_bytes = HEADER_BYTES_MAX;
    all.preface_timeout_ms = dial_share_left_ms(dial);
    all.keepalive_timeout_ms = KEEPALIVE_TIMEOUT_MS;
    r = connection_new(ret_connection, transport, peer, &all);
    if (r < 0)
        dial_next(dial, CONNECT_CONNECT_FAILED, uv_strerror(r));
}

/*
 * With TLS 1.3 the server judges the client's certificate when for the client all is done. Some
 * then tell by an alert, for which net/tls.h has an error of its own; others just close.
 */
static bool refused_certificate(const struct connect_options *options, const char *why)
{
    return options->tls.credentials && strcmp(why, uv_strerror(UV_EACCES)) == 0;
}

void connect_refused(struct dial *dial, const struct connect_options *options,
                     enum close_reason reason, const char *why, bool silent)
{
    enum connect_outcome outcome = CONNECT_HANDSHAKE_FAILED;
    const char *more = "";
    char text[DIAL_ERROR_MAX];

    if (!why)
        why = close_reason_labels[reason];
    if (refused_certificate(options, why)) {
        dial_next(dial, CONNECT_TLS_FAILED,
                  "the server does not accept this client's certificate, or wants one "
                  "(--cert and --key)");
        return;
    }
    if (reason == CLOSE_PREFACE_TIMEOUT) {
        outcome = CONNECT_TIMED_OUT;
        why = "no SETTINGS in time";
    } else if (!options->tls.credentials) {
        more = "; perhaps the server wants TLS (--tls)";
    } else if (silent && (reason == CLOSE_PEER || reason == CLOSE_PEER_LOST)) {
        outcome = CONNECT_TLS_FAILED;
        more = "; perhaps the server does not accept this client's certificate, or wants one "
               "(--cert and --key)";
    }
    (void)snprintf(text, sizeof(text), "connected, but got no HTTP/2 (%s)%s", why, more);
    dial_next(dial, outcome, text);
}
