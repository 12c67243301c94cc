/*
 * TLS without memory: whichever allocation of ours fails, a handshake ends exactly once, nothing
 * leaks, and what the other side receives is the beginning of what was sent. GnuTLS's own
 * allocations go through: 3.7.9 and the libtasn1 under it leak, and crash, when they fail.
 */
#include "net/tls.h"

#include "base/util.h"
#include "certificates.h"
#include "failmalloc.h"
#include "memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SIZE 100000

static struct certificate authority;
static struct certificate host;
static uint8_t sent[SIZE];

struct side {
    struct memory memory;
    struct tls_handshake *handshake;
    struct transport *transport;
    struct buffer received;
    unsigned dones;
    enum tls_outcome outcome;
    unsigned closes;
    unsigned writtens;
};

struct bed {
    struct world world;
    struct side client;
    struct side server;
    struct credentials *client_credentials;
    struct credentials *server_credentials;
    bool begun;
    int error; /* of a function that must say so when it has no memory */
};

static int make_certificates(void **state)
{
    certificates_begin();
    certificate_make(&authority,
                     &(struct certificate_options){.common_name = "authority", .authority = true});
    certificate_make(&host, &(struct certificate_options){.common_name = "host",
                                                          .issuer = &authority,
                                                          .dns = {"stock.example"}});
    certificate_write(&authority, certificates_path("ca"), NULL);
    certificate_write(&host, certificates_path("crt"), certificates_path("key"));
    for (size_t i = 0; i < SIZE; i++)
        sent[i] = (uint8_t)(i * i >> 3);
    return 0;
}

static int remove_certificates(void **state)
{
    certificate_deinit(&authority);
    certificate_deinit(&host);
    certificates_end();
    return 0;
}

static void on_received(void *user, const uint8_t *bytes, size_t size)
{
    buffer_append(&((struct side *)user)->received, bytes, size);
}

static void on_ended(void *user, int error)
{
}

static void on_written(void *user, int error)
{
    if (error == 0)
        ((struct side *)user)->writtens++;
}

static void on_closed(void *user)
{
    struct side *side = user;

    side->closes++;
    side->transport = NULL;
}

static const struct transport_user side_user = {on_received, on_ended, on_written, on_closed};

static void on_done(void *user, struct transport *transport, enum tls_outcome outcome,
                    const char *detail)
{
    struct side *side = user;

    side->dones++;
    side->outcome = outcome;
    side->handshake = NULL;
    side->transport = transport;
    assert_int_equal(outcome == TLS_OK, transport != NULL);
    if (transport) {
        transport->user_ops = &side_user;
        transport->user = side;
        assert_int_equal(transport->ops->start(transport), 0);
    }
}

static void bed_settle(struct bed *bed)
{
    for (unsigned quiet = 0; quiet < 4; quiet++) {
        world_turn(&bed->world);
        if (memory_pump_pipe(&bed->client.memory, 0) > 0)
            quiet = 0;
    }
}

static int make_credentials(struct credentials **ret, bool client)
{
    struct credentials_options options = {
        .client = client,
        .certificate = certificates_path("crt"),
        .key = certificates_path("key"),
        .ca = certificates_path("ca"),
        .client_certificate = CLIENT_CERTIFICATE_REQUIRED,
    };
    char error[CREDENTIALS_ERROR_MAX];

    return credentials_new(ret, &options, error);
}

static int begin(struct bed *bed, struct side *side, bool client)
{
    struct tls_options options = {
        .client = client,
        .credentials = client ? bed->client_credentials : bed->server_credentials,
        .server_name = "stock.example",
        .done = on_done,
        .user = side,
    };

    return tls_handshake(&side->handshake, &bed->world.loop, &side->memory.transport, &options);
}

/* A write that the socket takes in part, and the end, during which something waits. */
static void send_some(struct bed *bed)
{
    struct transport *transport = bed->server.transport;
    ssize_t n;
    int r = 0;

    if (!transport)
        return;
    bed->server.memory.accept = 20000;
    n = transport->ops->try_write(transport, sent, SIZE);
    if (n >= 0 && n < SIZE)
        r = transport->ops->write(transport, sent + n, SIZE - (size_t)n);
    if (n < 0)
        r = (int)n;
    if (r < 0)
        bed->error = r;
    else
        transport->ops->shutdown(transport);
    bed_settle(bed);
    (void)(bed->client.transport && tls_peer_is(bed->client.transport, "stock.example"));
}

static void run(struct bed *bed)
{
    bed->error = make_credentials(&bed->server_credentials, false);
    if (bed->error == 0)
        bed->error = make_credentials(&bed->client_credentials, true);
    if (bed->error < 0)
        return;
    bed->error = begin(bed, &bed->server, false);
    if (bed->error == 0)
        bed->error = begin(bed, &bed->client, true);
    if (bed->error < 0)
        return;
    bed->begun = true;
    bed_settle(bed);
    send_some(bed);
}

static void side_deinit(struct bed *bed, struct side *side)
{
    bool used = side->memory.transport.user_ops != NULL || side->memory.closing;

    if (side->handshake)
        tls_handshake_cancel(side->handshake);
    else if (side->transport)
        side->transport->ops->close(side->transport);
    for (unsigned i = 0; i < 4 && used; i++)
        world_turn(&bed->world);
    buffer_deinit(&side->received);
    memory_deinit(&side->memory);
}

static void test_all(void **state)
{
    bool fired = true;
    size_t nth;

    for (nth = 1; fired; nth++) {
        struct bed bed = {0};

        world_init(&bed.world);
        memory_init(&bed.client.memory, &bed.world);
        memory_init(&bed.server.memory, &bed.world);
        memory_connect(&bed.client.memory, &bed.server.memory);
        bed.server.memory.release_now = true;
        failmalloc_arm(nth);
        run(&bed);
        fired = failmalloc_disarm();

        assert_true(bed.error == 0 || bed.error == -ENOMEM);
        assert_int_equal(bed.client.dones, bed.begun);
        assert_int_equal(bed.server.dones, bed.begun);
        if (!fired) {
            assert_int_equal(bed.error, 0);
            assert_int_equal(bed.client.outcome, TLS_OK);
            assert_int_equal(bed.server.outcome, TLS_OK);
            assert_int_equal(bed.client.received.size, SIZE);
            assert_int_equal(bed.server.writtens, 1);
        }
        assert_true(bed.client.received.size <= SIZE);
        if (bed.client.received.size > 0)
            assert_memory_equal(bed.client.received.bytes, sent, bed.client.received.size);
        side_deinit(&bed, &bed.client);
        side_deinit(&bed, &bed.server);
        credentials_unref(bed.client_credentials);
        credentials_unref(bed.server_credentials);
        world_deinit(&bed.world);
    }
    assert_true(nth > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
    };

    return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
