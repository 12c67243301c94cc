/*
 * The floor of TLS: what GnuTLS alone costs to encrypt, record by record, with the cipher that the
 * load asks for, into memory. There is no socket and no HTTP/2. Both ends of the handshake are in
 * this process. Prints CPU nanoseconds for each byte of plaintext.
 */

#include "tests/bench/channel.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RECORD_BYTES = 16384, PIPE_BYTES = 64 * 1024 };

/* What one end has sent and the other not yet read. */
struct pipe {
    uint8_t bytes[PIPE_BYTES];
    size_t size;
};

struct end {
    gnutls_session_t session;
    struct pipe *in;
    struct pipe *out;
    bool discards; /* what is sent, once the handshake is over */
};

static void check(int r, const char *what)
{
    if (r >= 0)
        return;
    fprintf(stderr, "seal: %s: %s\n", what, gnutls_strerror(r));
    exit(1);
}

static ssize_t on_push(gnutls_transport_ptr_t pointer, const void *bytes, size_t size)
{
    struct end *end = pointer;
    struct pipe *pipe = end->out;

    if (end->discards)
        pipe->size = 0;
    if (size > PIPE_BYTES - pipe->size) {
        gnutls_transport_set_errno(end->session, EAGAIN);
        return -1;
    }
    memcpy(pipe->bytes + pipe->size, bytes, size);
    pipe->size += size;
    return (ssize_t)size;
}

static ssize_t on_pull(gnutls_transport_ptr_t pointer, void *bytes, size_t size)
{
    struct end *end = pointer;
    struct pipe *pipe = end->in;

    if (pipe->size == 0) {
        gnutls_transport_set_errno(end->session, EAGAIN);
        return -1;
    }
    if (size > pipe->size)
        size = pipe->size;
    memcpy(bytes, pipe->bytes, size);
    pipe->size -= size;
    memmove(pipe->bytes, pipe->bytes + size, pipe->size);
    return (ssize_t)size;
}

static int on_pull_timeout(gnutls_transport_ptr_t pointer, unsigned ms)
{
    const struct end *end = pointer;

    (void)ms;
    return end->in->size > 0;
}

static void end_init(struct end *end, unsigned flags, gnutls_certificate_credentials_t credentials)
{
    check(gnutls_init(&end->session, flags | GNUTLS_NONBLOCK), "session");
    check(gnutls_priority_set_direct(end->session, CHANNEL_PRIORITIES, NULL), "priorities");
    check(gnutls_credentials_set(end->session, GNUTLS_CRD_CERTIFICATE, credentials), "credentials");
    gnutls_transport_set_ptr(end->session, end);
    gnutls_transport_set_push_function(end->session, on_push);
    gnutls_transport_set_pull_function(end->session, on_pull);
    gnutls_transport_set_pull_timeout_function(end->session, on_pull_timeout);
}

/* Returns whether the handshake of this end is over. */
static bool end_step(struct end *end)
{
    int r = gnutls_handshake(end->session);

    if (r < 0 && gnutls_error_is_fatal(r))
        check(r, "handshake");
    return r == GNUTLS_E_SUCCESS;
}

static double cpu_seconds(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) < 0)
        return 0;
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* For about `seconds`; returns nanoseconds a byte. */
static double measure(struct end *server, double seconds)
{
    static uint8_t plain[RECORD_BYTES];
    double begin = cpu_seconds();
    double spent = 0;
    uint64_t bytes = 0;

    for (size_t i = 0; i < sizeof(plain); i++)
        plain[i] = (uint8_t)(i * 31);
    do {
        for (unsigned i = 0; i < 64; i++) {
            ssize_t n = gnutls_record_send(server->session, plain, sizeof(plain));

            check((int)n, "sending");
            bytes += (uint64_t)n;
        }
        spent = cpu_seconds() - begin;
    } while (spent < seconds);
    return spent * 1e9 / (double)bytes;
}

int main(int argc, char **argv)
{
    static struct pipe up, down;
    struct end server = {.in = &up, .out = &down};
    struct end client = {.in = &down, .out = &up};
    gnutls_certificate_credentials_t credentials, none;
    bool server_done = false, client_done = false;

    if (argc != 4) {
        fprintf(stderr, "usage: seal CERTIFICATE KEY SECONDS\n");
        return 2;
    }
    check(gnutls_certificate_allocate_credentials(&credentials), "credentials");
    check(gnutls_certificate_allocate_credentials(&none), "credentials");
    check(gnutls_certificate_set_x509_key_file(credentials, argv[1], argv[2], GNUTLS_X509_FMT_PEM),
          argv[2]);
    end_init(&server, GNUTLS_SERVER, credentials);
    end_init(&client, GNUTLS_CLIENT, none);
    for (unsigned i = 0; i < 100 && !(server_done && client_done); i++) {
        client_done = client_done || end_step(&client);
        server_done = server_done || end_step(&server);
    }
    if (!server_done || !client_done) {
        fprintf(stderr, "seal: the handshake did not come to an end\n");
        return 1;
    }
    server.discards = true;
    printf("%.6f\n", measure(&server, strtod(argv[3], NULL)));
    gnutls_deinit(client.session);
    gnutls_deinit(server.session);
    gnutls_certificate_free_credentials(none);
    gnutls_certificate_free_credentials(credentials);
    return 0;
}
