/*
 * TLS over a transport in memory: both roles against each other, and each against a session of
 * GnuTLS that is not ours and does what ours never would.
 */
#include "net/tls.h"

#include "base/util.h"
#include "certificates.h"
#include "memory.h"

#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define RECORD_MAX 16384
#define OVERHEAD_TLS13 22

/* ---- Certificates ---- */

enum who {
    AUTHORITY,
    STRANGER, /* an authority that nobody trusts */
    SERVER,
    SERVER_ADDRESS, /* for 127.0.0.1 and not for a name */
    SERVER_ADDRESS6,
    SERVER_OLD,
    SERVER_STRANGE, /* signed by the stranger */
    SERVER_FUTURE,
    SERVER_WRONG, /* may only be a client */
    CLIENT,
    CLIENT_OLD,
    CLIENT_STRANGE,
    CLIENT_WRONG, /* may only be a server */
    CLIENT_COMMON,
    WHO_COUNT,
};

static struct certificate certificates[WHO_COUNT];

static const struct certificate_options certificate_options[WHO_COUNT] = {
    [AUTHORITY] = {.common_name = "authority", .authority = true, .begin_days = -99, .end_days = 9},
    [STRANGER] = {.common_name = "stranger", .authority = true},
    [SERVER] = {.common_name = "server",
                .purpose = GNUTLS_KP_TLS_WWW_SERVER,
                .dns = {"stock.example", "*.wild.example"}},
    [SERVER_ADDRESS] = {.common_name = "server", .address = "127.0.0.1"},
    [SERVER_ADDRESS6] = {.common_name = "server", .address = "::1"},
    [SERVER_OLD] = {.dns = {"stock.example"}, .begin_days = -9, .end_days = -2},
    [SERVER_STRANGE] = {.dns = {"stock.example"}},
    [SERVER_FUTURE] = {.dns = {"stock.example"}, .begin_days = 2, .end_days = 9},
    [SERVER_WRONG] = {.dns = {"stock.example"}, .purpose = GNUTLS_KP_TLS_WWW_CLIENT},
    [CLIENT] = {.common_name = "a client",
                .purpose = GNUTLS_KP_TLS_WWW_CLIENT,
                .dns = {"one.example", "two.example", "*.any.example"},
                .email = "Someone@mail.example",
                .uri = "spiffe://example/client",
                .address = "192.0.2.7"},
    [CLIENT_OLD] = {.common_name = "old", .begin_days = -9, .end_days = -2},
    [CLIENT_STRANGE] = {.common_name = "strange"},
    [CLIENT_WRONG] = {.common_name = "wrong", .purpose = GNUTLS_KP_TLS_WWW_SERVER},
    [CLIENT_COMMON] = {.common_name = "Common Name"},
};

static const char *certificate_file(enum who who)
{
    char name[32];

    (void)snprintf(name, sizeof(name), "%d.crt", (int)who);
    return certificates_path(name);
}

static const char *key_file(enum who who)
{
    char name[32];

    (void)snprintf(name, sizeof(name), "%d.key", (int)who);
    return certificates_path(name);
}

static int make_certificates(void **state)
{
    certificates_begin();
    for (unsigned i = 0; i < WHO_COUNT; i++) {
        struct certificate_options options = certificate_options[i];

        if (!options.authority)
            options.issuer =
                &certificates[i == SERVER_STRANGE || i == CLIENT_STRANGE ? STRANGER : AUTHORITY];
        certificate_make(&certificates[i], &options);
        certificate_write(&certificates[i], certificate_file(i), key_file(i));
    }
    return 0;
}

static int remove_certificates(void **state)
{
    for (unsigned i = 0; i < WHO_COUNT; i++)
        certificate_deinit(&certificates[i]);
    certificates_end();
    return 0;
}

#define NOBODY WHO_COUNT

static struct credentials *make_credentials(bool client, enum who who,
                                            enum client_certificate wanted, const char *priorities)
{
    struct credentials_options options = {
        .client = client,
        .ca = client || wanted != CLIENT_CERTIFICATE_NO ? certificate_file(AUTHORITY) : NULL,
        .client_certificate = wanted,
        .priorities = priorities,
    };
    struct credentials *credentials;
    char error[CREDENTIALS_ERROR_MAX];

    if (who != NOBODY) {
        options.certificate = certificate_file(who);
        options.key = key_file(who);
    }
    if (credentials_new(&credentials, &options, error) < 0)
        fail_msg("%s", error);
    return credentials;
}

/* ---- A side under test ---- */

struct side {
    struct world *world;
    struct memory memory;
    struct tls_handshake *handshake;
    struct transport *transport;
    struct buffer received;
    enum tls_outcome outcome;
    char detail[256];
    unsigned dones;
    unsigned ends;
    int end_error;
    unsigned writtens;
    int written_error;
    unsigned closes;
    bool in_call;       /* tls_handshake() is on the stack */
    bool close_on_done; /* closes what it gets */
    size_t close_after; /* closes when so many bytes were received; 0: never */
    const char *greeting;
    size_t waiting; /* bytes that write() was given */
};

static void side_close(struct side *side)
{
    side->transport->ops->close(side->transport);
}

static void on_received(void *user, const uint8_t *bytes, size_t size)
{
    struct side *side = user;

    assert_int_equal(side->closes, 0);
    assert_int_equal(side->ends, 0);
    assert_true(size > 0);
    buffer_append(&side->received, bytes, size);
    if (side->close_after > 0 && side->received.size >= side->close_after)
        side_close(side);
}

static void on_ended(void *user, int error)
{
    struct side *side = user;

    side->ends++;
    side->end_error = error;
}

static void on_written(void *user, int error)
{
    struct side *side = user;

    assert_true(side->waiting > 0);
    side->writtens++;
    side->written_error = error;
    side->waiting = 0;
}

static void on_closed(void *user)
{
    struct side *side = user;

    side->closes++;
    side->transport = NULL;
}

static const struct transport_user side_user = {on_received, on_ended, on_written, on_closed};

/* What connection_flush() does. The bytes that were accepted. */
static size_t side_send(struct side *side, const void *bytes, size_t size)
{
    ssize_t n = side->transport->ops->try_write(side->transport, bytes, size);

    assert_int_equal(side->waiting, 0);
    assert_true(n >= 0 && (size_t)n <= size);
    if ((size_t)n < size) {
        side->waiting = size - (size_t)n;
        assert_int_equal(side->transport->ops->write(side->transport, (const uint8_t *)bytes + n,
                                                     size - (size_t)n),
                         0);
    }
    return (size_t)n;
}

static void on_done(void *user, struct transport *transport, enum tls_outcome outcome,
                    const char *detail)
{
    struct side *side = user;

    assert_false(side->in_call);
    assert_int_equal(side->dones, 0);
    assert_int_equal(outcome == TLS_OK, transport != NULL);
    if (outcome != TLS_OK)
        assert_true(side->memory.closed);
    side->dones++;
    side->handshake = NULL;
    side->outcome = outcome;
    (void)snprintf(side->detail, sizeof(side->detail), "%s", detail);
    side->transport = transport;
    if (!transport)
        return;
    transport->user_ops = &side_user;
    transport->user = side;
    if (side->close_on_done) {
        side_close(side);
        return;
    }
    assert_int_equal(transport->ops->start(transport), 0);
    if (side->greeting)
        (void)side_send(side, side->greeting, strlen(side->greeting));
}

static void side_init(struct side *side, struct world *world)
{
    *side = (struct side){.world = world};
    memory_init(&side->memory, world);
}

/* Takes the credentials. */
static void side_begin(struct side *side, struct credentials *credentials,
                       const struct tls_options *given)
{
    struct tls_options options = *given;

    options.credentials = credentials;
    options.done = on_done;
    options.user = side;
    side->in_call = true;
    assert_int_equal(
        tls_handshake(&side->handshake, &side->world->loop, &side->memory.transport, &options), 0);
    side->in_call = false;
    credentials_unref(credentials);
}

static void side_deinit(struct side *side)
{
    bool begun = side->memory.transport.user_ops != NULL;

    if (side->handshake)
        tls_handshake_cancel(TAKE_PTR(side->handshake));
    else if (side->transport && !side->memory.closing)
        side_close(side);
    for (unsigned i = 0; i < 10 && begun && !side->memory.closed; i++)
        world_turn(side->world);
    buffer_deinit(&side->received);
    memory_deinit(&side->memory);
}

/* ---- Two of them ---- */

struct pair {
    struct world world;
    struct side client;
    struct side server;
    size_t split;
};

static void pair_settle(struct pair *pair)
{
    for (unsigned quiet = 0; quiet < 4; quiet++) {
        world_turn(&pair->world);
        if (memory_pump_pipe(&pair->client.memory, pair->split) > 0)
            quiet = 0;
    }
}

static void pair_init(struct pair *pair)
{
    *pair = (struct pair){0};
    world_init(&pair->world);
    side_init(&pair->client, &pair->world);
    side_init(&pair->server, &pair->world);
    memory_connect(&pair->client.memory, &pair->server.memory);
}

static const struct tls_options client_usual = {.client = true, .server_name = "stock.example"};
static const struct tls_options server_usual = {0};

/* Begins with these and goes on until nothing moves; each may be NULL: the usual. */
static void pair_begin(struct pair *pair, struct credentials *client, struct credentials *server)
{
    side_begin(&pair->server,
               server ? server : make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL),
               &server_usual);
    side_begin(&pair->client,
               client ? client : make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL),
               &client_usual);
    pair_settle(pair);
}

static void pair_deinit(struct pair *pair)
{
    side_deinit(&pair->client);
    side_deinit(&pair->server);
    world_deinit(&pair->world);
}

static void assert_connected(const struct pair *pair)
{
    if (pair->server.outcome != TLS_OK || pair->server.dones != 1)
        fail_msg("server: %u, %s", pair->server.dones, pair->server.detail);
    if (pair->client.outcome != TLS_OK || pair->client.dones != 1)
        fail_msg("client: %u, %s", pair->client.dones, pair->client.detail);
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" does not have \"%s\"", text, part);
}

static void assert_received(const struct side *side, const void *bytes, size_t size)
{
    assert_int_equal(side->received.size, size);
    assert_memory_equal(side->received.bytes, bytes, size);
}

/* Bytes that repeat nowhere near. */
static uint8_t *pattern(size_t size)
{
    uint8_t *bytes = malloc(size);
    uint32_t x = 1;

    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++) {
        x = x * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(x >> 24);
    }
    return bytes;
}

/* ---- A session that is not ours, over our side's memory ---- */

struct raw {
    gnutls_session_t session;
    gnutls_certificate_credentials_t credentials;
    struct side *side;
    struct buffer in;
    size_t taken;
    struct buffer out;
    size_t split;
    int r; /* of its handshake */
};

static ssize_t raw_push(gnutls_transport_ptr_t pointer, const void *bytes, size_t size)
{
    struct raw *raw = pointer;

    buffer_append(&raw->out, bytes, size);
    return (ssize_t)size;
}

static ssize_t raw_pull(gnutls_transport_ptr_t pointer, void *bytes, size_t size)
{
    struct raw *raw = pointer;
    size_t n = MIN(size, raw->in.size - raw->taken);

    if (n == 0) {
        gnutls_transport_set_errno(raw->session, EAGAIN);
        return -1;
    }
    memcpy(bytes, raw->in.bytes + raw->taken, n);
    raw->taken += n;
    return (ssize_t)n;
}

static int raw_pull_timeout(gnutls_transport_ptr_t pointer, unsigned ms)
{
    const struct raw *raw = pointer;

    return raw->in.size > raw->taken;
}

/* `flags`: GNUTLS_CLIENT or GNUTLS_SERVER; `alpn` NULL: none offered. */
static void raw_init(struct raw *raw, struct side *side, unsigned flags, const char *priorities,
                     const char *alpn, enum who who)
{
    gnutls_datum_t protocol = {(unsigned char *)alpn, alpn ? (unsigned)strlen(alpn) : 0};

    *raw = (struct raw){.side = side, .r = GNUTLS_E_AGAIN};
    assert_int_equal(gnutls_init(&raw->session, flags | GNUTLS_NONBLOCK), 0);
    assert_int_equal(gnutls_priority_set_direct(raw->session, priorities, NULL), 0);
    assert_int_equal(gnutls_certificate_allocate_credentials(&raw->credentials), 0);
    if (who != NOBODY)
        assert_int_equal(gnutls_certificate_set_x509_key(raw->credentials,
                                                         &certificates[who].certificate, 1,
                                                         certificates[who].key),
                         0);
    assert_int_equal(gnutls_credentials_set(raw->session, GNUTLS_CRD_CERTIFICATE, raw->credentials),
                     0);
    if (alpn)
        assert_int_equal(gnutls_alpn_set_protocols(raw->session, &protocol, 1, 0), 0);
    gnutls_handshake_set_timeout(raw->session, 0);
    gnutls_transport_set_ptr(raw->session, raw);
    gnutls_transport_set_push_function(raw->session, raw_push);
    gnutls_transport_set_pull_function(raw->session, raw_pull);
    gnutls_transport_set_pull_timeout_function(raw->session, raw_pull_timeout);
}

/* Moves bytes both ways; their number. */
static size_t raw_pump(struct raw *raw)
{
    const uint8_t *bytes;
    size_t size = memory_take(&raw->side->memory, &bytes);
    struct buffer out = raw->out;
    size_t moved = size + out.size;

    buffer_append(&raw->in, bytes, size);
    raw->out = (struct buffer){0};
    if (!raw->side->memory.closing)
        memory_deliver(&raw->side->memory, out.bytes, out.size, raw->split);
    buffer_deinit(&out);
    return moved;
}

static void raw_settle(struct raw *raw)
{
    for (unsigned quiet = 0; quiet < 4; quiet++) {
        world_turn(raw->side->world);
        if (raw->r == GNUTLS_E_AGAIN)
            raw->r = gnutls_handshake(raw->session);
        if (raw_pump(raw) > 0)
            quiet = 0;
    }
}

static void raw_deinit(struct raw *raw)
{
    gnutls_deinit(raw->session);
    gnutls_certificate_free_credentials(raw->credentials);
    buffer_deinit(&raw->in);
    buffer_deinit(&raw->out);
}

/* What it decrypts; it says "again" after each message that is no data. */
static ssize_t raw_recv(struct raw *raw, void *bytes, size_t size)
{
    ssize_t n;

    do
        n = gnutls_record_recv(raw->session, bytes, size);
    while (n == GNUTLS_E_AGAIN && raw->in.size > raw->taken);
    return n;
}

/* Our side with a raw peer, when nothing moves any more. */
struct single {
    struct world world;
    struct side side;
    struct raw raw;
};

static void single_init(struct single *single, bool client, const char *priorities,
                        const char *alpn, enum who who, enum client_certificate wanted)
{
    world_init(&single->world);
    side_init(&single->side, &single->world);
    raw_init(&single->raw, &single->side, client ? GNUTLS_SERVER : GNUTLS_CLIENT, priorities, alpn,
             who);
    side_begin(&single->side,
               make_credentials(client, client ? NOBODY : SERVER,
                                client ? CLIENT_CERTIFICATE_NO : wanted, NULL),
               client ? &client_usual : &server_usual);
    raw_settle(&single->raw);
}

static void single_deinit(struct single *single)
{
    raw_deinit(&single->raw);
    side_deinit(&single->side);
    world_deinit(&single->world);
}

/* Our side has failed, and says so when the peer has gone. */
static void assert_failed(struct single *single, enum tls_outcome outcome, const char *part)
{
    memory_end(&single->side.memory, 0);
    raw_settle(&single->raw);
    assert_int_equal(single->side.dones, 1);
    if (single->side.outcome != outcome)
        fail_msg("%s: %s", tls_outcome_labels[single->side.outcome], single->side.detail);
    assert_has(single->side.detail, part);
}

static void assert_alert(struct raw *raw, gnutls_alert_description_t alert)
{
    char byte;

    if (raw->r >= 0)
        raw->r = (int)gnutls_record_recv(raw->session, &byte, 1);
    assert_int_equal(raw->r, GNUTLS_E_FATAL_ALERT_RECEIVED);
    assert_int_equal(gnutls_alert_get(raw->session), alert);
}

/* ---- The handshake ---- */

static void test_connects(void **state)
{
    static const size_t splits[] = {0, 1, 2, 7, 100};

    for (unsigned i = 0; i < ELEMENTSOF(splits); i++) {
        struct pair pair;

        pair_init(&pair);
        pair.split = splits[i];
        /* As a connection does, which speaks at once. */
        pair.client.greeting = "from the client";
        pair.server.greeting = "from the server";
        pair_begin(&pair, NULL, NULL);
        assert_connected(&pair);
        assert_string_equal(pair.server.detail, "TLS1.3, AES-128-GCM");
        assert_string_equal(pair.client.detail, "TLS1.3, AES-128-GCM");
        assert_received(&pair.server, "from the client", strlen("from the client"));
        assert_received(&pair.client, "from the server", strlen("from the server"));
        assert_null(tls_peer_name(pair.server.transport));
        assert_string_equal(tls_peer_name(pair.client.transport), "stock.example");
        pair_deinit(&pair);
    }
}

/* A preface that came together with the handshake's last message must not be lost. */
static void test_data_with_finished(void **state)
{
    struct single single;

    single_init(&single, false, "NORMAL", "h2", NOBODY, CLIENT_CERTIFICATE_NO);
    single_deinit(&single);

    world_init(&single.world);
    side_init(&single.side, &single.world);
    raw_init(&single.raw, &single.side, GNUTLS_CLIENT, "NORMAL", "h2", NOBODY);
    side_begin(&single.side, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL),
               &server_usual);
    while (single.raw.r == GNUTLS_E_AGAIN) {
        (void)raw_pump(&single.raw);
        single.raw.r = gnutls_handshake(single.raw.session);
    }
    assert_int_equal(single.side.dones, 0);
    assert_int_equal(gnutls_record_send(single.raw.session, "one", 3), 3);
    assert_int_equal(gnutls_record_send(single.raw.session, "two", 3), 3);
    (void)raw_pump(&single.raw);
    assert_int_equal(single.side.dones, 1);
    assert_received(&single.side, "onetwo", 6);
    single_deinit(&single);
}

static void test_versions(void **state)
{
    static const struct {
        const char *priorities;
        const char *detail; /* NULL: fails */
    } cases[] = {
        {"NORMAL", "TLS1.3, AES-128-GCM"},
        {"NORMAL:-VERS-ALL:+VERS-TLS1.2", "TLS1.2, AES-128-GCM"},
        {"NORMAL:-AES-128-GCM", "TLS1.3, AES-256-GCM"},
        {"NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305", "TLS1.3, CHACHA20-POLY1305"},
        {"NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+DHE-RSA", NULL}, /* the key is ECDSA */
        {"NORMAL:-VERS-ALL:+VERS-TLS1.1", NULL},
        {"NORMAL:-VERS-ALL:+VERS-TLS1.0", NULL},
        /* What HTTP/2 forbids: RFC 9113, appendix A. */
        {"NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC:+AES-256-CBC", NULL},
        {"NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA", NULL},
    };

    for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
        for (int client = 0; client < 2; client++) {
            struct single single;

            single_init(&single, client, cases[i].priorities, "h2", client ? SERVER : NOBODY,
                        CLIENT_CERTIFICATE_NO);
            if (cases[i].detail) {
                assert_int_equal(single.side.dones, 1);
                assert_string_equal(single.side.detail, cases[i].detail);
                assert_int_equal(single.raw.r, 0);
            } else {
                assert_true(single.raw.r < 0);
                assert_failed(&single, TLS_FAILED, "");
            }
            single_deinit(&single);
        }
    }
}

static void test_no_common_cipher(void **state)
{
    struct single single;

    single_init(&single, false, "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC", "h2",
                NOBODY, CLIENT_CERTIFICATE_NO);
    assert_alert(&single.raw, GNUTLS_A_HANDSHAKE_FAILURE);
    assert_failed(&single, TLS_FAILED, "no cipher that the client knows is allowed here");
    single_deinit(&single);
}

/* With priorities of a user's own, too, and whatever they say. */
static void test_floor(void **state)
{
    static const char *const priorities[] = {
        "NORMAL:+VERS-ALL",
        "LEGACY:+VERS-TLS1.0:+VERS-TLS1.1:+RSA:+AES-128-CBC:+SHA1:%COMPAT",
    };
    struct pair pair;

    for (unsigned i = 0; i < ELEMENTSOF(priorities); i++) {
        struct single single;

        world_init(&single.world);
        side_init(&single.side, &single.world);
        raw_init(&single.raw, &single.side, GNUTLS_CLIENT,
                 "LEGACY:-VERS-ALL:+VERS-TLS1.1:+VERS-TLS1.0", "h2", NOBODY);
        side_begin(&single.side,
                   make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, priorities[i]),
                   &server_usual);
        raw_settle(&single.raw);
        assert_alert(&single.raw, GNUTLS_A_PROTOCOL_VERSION);
        assert_failed(&single, TLS_FAILED, "neither TLS 1.3 nor TLS 1.2");
        single_deinit(&single);

        pair_init(&pair);
        pair_begin(&pair, NULL,
                   make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, priorities[i]));
        assert_connected(&pair);
        pair_deinit(&pair);
    }
}

static void test_alpn(void **state)
{
    static const char *const versions[] = {"NORMAL", "NORMAL:-VERS-ALL:+VERS-TLS1.2"};
    static const char *const others[] = {NULL, "http/1.1", "h2c", "h"};

    for (unsigned i = 0; i < ELEMENTSOF(versions) * ELEMENTSOF(others); i++) {
        const char *version = versions[i % ELEMENTSOF(versions)];
        const char *other = others[i / ELEMENTSOF(versions)];
        struct single single;

        single_init(&single, false, version, other, NOBODY, CLIENT_CERTIFICATE_NO);
        /* Before the handshake is over for the client, and not after it. */
        assert_true(single.raw.r < 0);
        assert_alert(&single.raw, GNUTLS_A_NO_APPLICATION_PROTOCOL);
        assert_failed(&single, TLS_NO_ALPN, "does not offer HTTP/2");
        single_deinit(&single);

        single_init(&single, true, version, other, SERVER, CLIENT_CERTIFICATE_NO);
        if (single.raw.r == 0)
            assert_alert(&single.raw, GNUTLS_A_NO_APPLICATION_PROTOCOL);
        assert_failed(&single, TLS_NO_ALPN, "");
        single_deinit(&single);
    }
}

/* ---- Certificates ---- */

static void test_client_certificates(void **state)
{
    static const struct {
        enum client_certificate wanted;
        enum who who;
        enum tls_outcome outcome;
        gnutls_alert_description_t alert;
        const char *detail;
        const char *name;
    } cases[] = {
        {CLIENT_CERTIFICATE_NO, NOBODY, TLS_OK, 0, "TLS1", NULL},
        {CLIENT_CERTIFICATE_NO, CLIENT, TLS_OK, 0, "TLS1", NULL},
        {CLIENT_CERTIFICATE_OPTIONAL, NOBODY, TLS_OK, 0, "TLS1", NULL},
        {CLIENT_CERTIFICATE_OPTIONAL, CLIENT, TLS_OK, 0, "TLS1", "one.example"},
        {CLIENT_CERTIFICATE_OPTIONAL, CLIENT_OLD, TLS_CERTIFICATE, GNUTLS_A_CERTIFICATE_EXPIRED,
         "(CN=old) has expired", NULL},
        {CLIENT_CERTIFICATE_REQUIRED, CLIENT, TLS_OK, 0, "TLS1", "one.example"},
        {CLIENT_CERTIFICATE_REQUIRED, CLIENT_COMMON, TLS_OK, 0, "TLS1", "Common Name"},
        {CLIENT_CERTIFICATE_REQUIRED, NOBODY, TLS_CERTIFICATE, GNUTLS_A_CERTIFICATE_REQUIRED,
         "showed no certificate", NULL},
        {CLIENT_CERTIFICATE_REQUIRED, CLIENT_OLD, TLS_CERTIFICATE, GNUTLS_A_CERTIFICATE_EXPIRED,
         "(CN=old) has expired", NULL},
        {CLIENT_CERTIFICATE_REQUIRED, CLIENT_STRANGE, TLS_CERTIFICATE, GNUTLS_A_UNKNOWN_CA,
         "(CN=strange) is not trusted", NULL},
        {CLIENT_CERTIFICATE_REQUIRED, CLIENT_WRONG, TLS_CERTIFICATE,
         GNUTLS_A_UNSUPPORTED_CERTIFICATE, "(CN=wrong) is for another purpose", NULL},
    };
    static const char *const versions[] = {"NORMAL", "NORMAL:-VERS-ALL:+VERS-TLS1.2"};

    for (unsigned i = 0; i < 2 * ELEMENTSOF(cases); i++) {
        unsigned k = i / 2;
        struct single single;

        world_init(&single.world);
        side_init(&single.side, &single.world);
        raw_init(&single.raw, &single.side, GNUTLS_CLIENT | GNUTLS_FORCE_CLIENT_CERT,
                 versions[i % 2], "h2", cases[k].who);
        side_begin(&single.side, make_credentials(false, SERVER, cases[k].wanted, NULL),
                   &server_usual);
        raw_settle(&single.raw);
        if (cases[k].outcome == TLS_OK) {
            assert_int_equal(single.raw.r, 0);
            assert_int_equal(single.side.dones, 1);
            assert_has(single.side.detail, cases[k].detail);
            if (cases[k].name)
                assert_string_equal(tls_peer_name(single.side.transport), cases[k].name);
            else
                assert_null(tls_peer_name(single.side.transport));
        } else {
            /* TLS 1.2 has no word of its own for a missing certificate. */
            if (cases[k].alert == GNUTLS_A_CERTIFICATE_REQUIRED && i % 2 == 1)
                assert_alert(&single.raw, GNUTLS_A_HANDSHAKE_FAILURE);
            else
                assert_alert(&single.raw, cases[k].alert);
            assert_failed(&single, cases[k].outcome, cases[k].detail);
        }
        single_deinit(&single);
    }
}

static void test_server_certificates(void **state)
{
    static const struct {
        enum who who;
        const char *name;
        bool insecure;
        const char *detail; /* NULL: good */
    } cases[] = {
        {SERVER, "stock.example", false, NULL},
        {SERVER, "STOCK.example", false, NULL},
        {SERVER, "one.wild.example", false, NULL},
        {SERVER, "two.one.wild.example", false,
         "is for another name than \"two.one.wild.example\""},
        {SERVER, "wrong.example", false, "is for another name than \"wrong.example\""},
        {SERVER, "server", false, "is for another name than \"server\""},
        {SERVER, NULL, false, "is for another name"},
        {SERVER, NULL, true, NULL},
        {SERVER, "127.0.0.1", false, "is for another name than \"127.0.0.1\""},
        {SERVER_ADDRESS, "127.0.0.1", false, NULL},
        {SERVER_ADDRESS, "127.0.0.2", false, "is for another name than \"127.0.0.2\""},
        {SERVER_ADDRESS, "::1", false, "is for another name than \"::1\""},
        {SERVER_ADDRESS6, "::1", false, NULL},
        {SERVER_ADDRESS6, "0:0::1", false, NULL},
        {SERVER_STRANGE, "stock.example", false, "is not trusted"},
        {SERVER_STRANGE, "stock.example", true, NULL},
        {SERVER_OLD, "stock.example", false, "has expired"},
        {SERVER_OLD, "stock.example", true, NULL},
        {SERVER_FUTURE, "stock.example", false, "is not valid yet"},
        {SERVER_WRONG, "stock.example", false, "is for another purpose"},
    };

    for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
        struct tls_options options = {
            .client = true, .server_name = cases[i].name, .insecure = cases[i].insecure};
        struct pair pair;

        pair_init(&pair);
        side_begin(&pair.server, make_credentials(false, cases[i].who, CLIENT_CERTIFICATE_NO, NULL),
                   &server_usual);
        side_begin(&pair.client, make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL),
                   &options);
        pair_settle(&pair);
        if (cases[i].detail) {
            assert_int_equal(pair.client.dones + pair.server.dones, 0);
            assert_true(pair.client.memory.shut && pair.server.memory.shut);
            memory_end(&pair.client.memory, 0);
            memory_end(&pair.server.memory, 0);
            pair_settle(&pair);
            assert_int_equal(pair.client.outcome, TLS_CERTIFICATE);
            assert_has(pair.client.detail, cases[i].detail);
            assert_int_equal(pair.server.outcome, TLS_FAILED);
            assert_has(pair.server.detail, "the client ended the handshake with the alert");
        } else {
            assert_connected(&pair);
            /* What was not looked at is nobody's name. */
            assert_int_equal(tls_peer_name(pair.client.transport) == NULL, cases[i].insecure);
            assert_false(cases[i].insecure && tls_peer_is(pair.client.transport, "stock.example"));
        }
        pair_deinit(&pair);
    }
}

static void test_system_trust(void **state)
{
    struct credentials_options options = {.client = true};
    struct credentials *credentials;
    char error[CREDENTIALS_ERROR_MAX];
    struct pair pair;

    pair_init(&pair);
    assert_int_equal(credentials_new(&credentials, &options, error), 0);
    pair_begin(&pair, credentials, NULL);
    memory_end(&pair.client.memory, 0);
    pair_settle(&pair);
    assert_int_equal(pair.client.outcome, TLS_CERTIFICATE);
    assert_has(pair.client.detail, "is not trusted");
    pair_deinit(&pair);
}

static void test_names(void **state)
{
    static const struct {
        const char *name;
        bool is;
    } cases[] = {
        {"one.example", true},
        {"ONE.Example", true},
        {"two.example", true},
        {"*.any.example", true}, /* compared whole, not as a pattern */
        {"x.any.example", false},
        {"one.example.", false},
        {"ne.example", false},
        {"one.exampl", false},
        {"", false},
        {"Someone@mail.example", true},
        {"Someone@MAIL.example", true},
        {"someone@mail.example", false},
        {"spiffe://example/client", true},
        {"spiffe://EXAMPLE/client", false},
        {"192.0.2.7", true},
        {"192.0.2.8", false},
        {"::ffff:192.0.2.7", false},
        {"c000:207::", false}, /* begins with the same bytes */
        {"a client", false},   /* the common name counts only where there is no other */
    };
    struct pair pair;

    pair_init(&pair);
    pair_begin(&pair, make_credentials(true, CLIENT, CLIENT_CERTIFICATE_NO, NULL),
               make_credentials(false, SERVER, CLIENT_CERTIFICATE_REQUIRED, NULL));
    assert_connected(&pair);
    for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
        if (tls_peer_is(pair.server.transport, cases[i].name) != cases[i].is)
            fail_msg("%s", cases[i].name);
    }
    pair_deinit(&pair);

    pair_init(&pair);
    pair_begin(&pair, make_credentials(true, CLIENT_COMMON, CLIENT_CERTIFICATE_NO, NULL),
               make_credentials(false, SERVER, CLIENT_CERTIFICATE_REQUIRED, NULL));
    assert_connected(&pair);
    assert_true(tls_peer_is(pair.server.transport, "Common Name"));
    assert_false(tls_peer_is(pair.server.transport, "common name"));
    pair_deinit(&pair);
}

/* A client shows what it has, also where the server asks for other authorities': then the server
 * can say what is wrong with it. */
static void test_client_shows_its_certificate(void **state)
{
    struct pair pair;

    pair_init(&pair);
    pair_begin(&pair, make_credentials(true, CLIENT_STRANGE, CLIENT_CERTIFICATE_NO, NULL),
               make_credentials(false, SERVER, CLIENT_CERTIFICATE_REQUIRED, NULL));
    memory_end(&pair.server.memory, 0);
    pair_settle(&pair);
    assert_int_equal(pair.server.outcome, TLS_CERTIFICATE);
    assert_has(pair.server.detail, "(CN=strange) is not trusted");
    pair_deinit(&pair);
}

/* With TLS 1.3 a client is told after it thinks to be connected. */
static void test_client_is_told(void **state)
{
    struct pair pair;

    pair_init(&pair);
    pair_begin(&pair, NULL, make_credentials(false, SERVER, CLIENT_CERTIFICATE_REQUIRED, NULL));
    assert_int_equal(pair.client.outcome, TLS_OK);
    assert_int_equal(pair.client.ends, 1);
    assert_int_equal(pair.client.end_error, -EACCES);
    pair_deinit(&pair);
}

/* ---- Handshakes that come to nothing ---- */

static void test_no_tls(void **state)
{
    static const struct {
        bool client;
        const char *bytes;
        size_t size;
        const char *detail;
        const char *answer;
    } cases[] = {
        {false, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 26, "does not speak TLS but HTTP",
         "HTTP/1.1 400 Bad Request\r\n"},
        {false, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, "the client speaks HTTP/2 without TLS",
         NULL},
        {false, "\0\0\0", 3, "the client does not speak TLS", NULL},
        {false, "\x80\x2e\x01\x03\x01", 5, "the client does not speak TLS", NULL},
        {true, "HTTP/1.1 400 Bad Request\r\n", 26, "the server does not speak TLS but HTTP/1",
         NULL},
        {true, "\0\0\0\4\0\0\0\0\0", 9, "the server speaks HTTP/2 without TLS", NULL},
        {true, "SSH-2.0\r\n", 9, "the server does not speak TLS", NULL},
    };

    for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
        const uint8_t *bytes;
        struct world world;
        struct side side;
        size_t size;

        world_init(&world);
        side_init(&side, &world);
        side_begin(&side,
                   make_credentials(cases[i].client, cases[i].client ? NOBODY : SERVER,
                                    CLIENT_CERTIFICATE_NO, NULL),
                   cases[i].client ? &client_usual : &server_usual);
        world_turn(&world);
        (void)memory_take(&side.memory, &bytes);
        memory_deliver(&side.memory, cases[i].bytes, cases[i].size, 0);
        memory_deliver(&side.memory, cases[i].bytes, cases[i].size, 1);
        assert_true(side.memory.shut);
        size = memory_take(&side.memory, &bytes);
        if (cases[i].answer)
            assert_memory_equal(bytes, cases[i].answer, strlen(cases[i].answer));
        memory_end(&side.memory, 0);
        world_turn(&world);
        world_turn(&world);
        assert_int_equal(side.dones, 1);
        assert_int_equal(side.outcome, TLS_FAILED);
        assert_has(side.detail, cases[i].detail);
        if (strcmp(cases[i].detail, "the client speaks HTTP/2 without TLS") == 0) {
            /* GOAWAY is all of the answer: SETTINGS would say that it is connected. */
            assert_int_equal(size, 9 + bytes[2]);
            assert_int_equal(bytes[3], NGHTTP2_GOAWAY);
            assert_int_equal(bytes[16], NGHTTP2_INADEQUATE_SECURITY);
        }
        side_deinit(&side);
        world_deinit(&world);
    }
}

/* Every byte of a client's first message may be wrong. */
static void test_garbage(void **state)
{
    struct world world;
    struct side client;
    struct buffer hello = {0};
    const uint8_t *bytes;
    size_t size;

    world_init(&world);
    side_init(&client, &world);
    side_begin(&client, make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL), &client_usual);
    world_turn(&world);
    size = memory_take(&client.memory, &bytes);
    assert_true(size > 100);
    buffer_append(&hello, bytes, size);
    for (size_t i = 0; i < hello.size; i++) {
        struct side side;

        side_init(&side, &world);
        side_begin(&side, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL),
                   &server_usual);
        hello.bytes[i] ^= 0xff;
        memory_deliver(&side.memory, hello.bytes, hello.size, 0);
        hello.bytes[i] ^= 0xff;
        memory_end(&side.memory, 0);
        world_turn(&world);
        world_turn(&world);
        assert_int_equal(side.dones, 1);
        assert_int_not_equal(side.outcome, TLS_OK);
        side_deinit(&side);
    }
    buffer_deinit(&hello);
    side_deinit(&client);
    world_deinit(&world);
}

/* The peer's alert may have a number that nobody has given a name. */
static void test_alert_without_name(void **state)
{
    struct single single;
    struct side *side = &single.side;

    world_init(&single.world);
    side_init(side, &single.world);
    raw_init(&single.raw, side, GNUTLS_CLIENT, "NORMAL:-VERS-TLS1.3", "h2", NOBODY);
    side_begin(side, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL), &server_usual);
    single.raw.r = gnutls_handshake(single.raw.session);
    (void)raw_pump(&single.raw);
    memory_deliver(&side->memory, "\x15\x03\x03\0\2\2\xc8", 7, 0);
    assert_failed(&single, TLS_FAILED, "alert: unknown");
    single_deinit(&single);
}

static void test_timeout(void **state)
{
    struct tls_options options = {.timeout_ms = 20};
    struct world world;
    struct side side;

    world_init(&world);
    side_init(&side, &world);
    side_begin(&side, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL), &options);
    memory_deliver(&side.memory, "\x16\x03\x01", 3, 0);
    while (side.dones == 0)
        world_sleep(&world);
    assert_int_equal(side.outcome, TLS_TIMEOUT);
    assert_has(side.detail, "did not end the handshake in time");
    side_deinit(&side);

    /* It is for the handshake alone. */
    struct pair pair;

    pair_init(&pair);
    options.timeout_ms = 10000;
    side_begin(&pair.server, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL),
               &options);
    side_begin(&pair.client, make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL),
               &client_usual);
    assert_int_not_equal(wheel_next(&pair.world.loop.wheel), WHEEL_NEVER);
    pair_settle(&pair);
    assert_connected(&pair);
    assert_int_equal(wheel_next(&pair.world.loop.wheel), WHEEL_NEVER);
    pair_deinit(&pair);
    world_deinit(&world);
}

/* A peer that neither reads what was wrong nor goes away is closed after a moment. */
static void test_linger(void **state)
{
    struct world world;
    struct side side;

    world_init(&world);
    side_init(&side, &world);
    side_begin(&side, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL), &server_usual);
    memory_deliver(&side.memory, "GET ", 4, 0);
    world_turn(&world);
    assert_int_equal(side.dones, 0);
    while (side.dones == 0)
        world_sleep(&world);
    assert_int_equal(side.outcome, TLS_FAILED);
    side_deinit(&side);
    world_deinit(&world);
}

/* A server whose turn has no time left: with a ClientHello that came, and must wait. */
static void waiting_init(struct single *single)
{
    world_init(&single->world);
    side_init(&single->side, &single->world);
    raw_init(&single->raw, &single->side, GNUTLS_CLIENT, "NORMAL", "h2", NOBODY);
    single->raw.split = 100;
    side_begin(&single->side, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL),
               &server_usual);
    loop_spend(&single->world.loop, LOOP_COSTLY_NS_MAX);
    single->raw.r = gnutls_handshake(single->raw.session);
    (void)raw_pump(&single->raw);
    assert_int_equal(single->side.memory.accepted, 0);
}

/* Many clients at once must not keep everybody else waiting until all of them are answered. */
static void test_hello_waits(void **state)
{
    struct single single;
    struct side *side = &single.side;

    waiting_init(&single);
    world_turn(&single.world);
    assert_int_equal(side->memory.accepted, 0);
    raw_settle(&single.raw);
    assert_int_equal(single.raw.r, 0);
    assert_int_equal(side->outcome, TLS_OK);
    single_deinit(&single);

    /* It goes while it waits, or is not wanted any more. */
    waiting_init(&single);
    memory_end(&side->memory, 0);
    raw_settle(&single.raw);
    assert_int_equal(side->dones, 1);
    assert_int_equal(side->outcome, TLS_FAILED);
    single_deinit(&single);
    waiting_init(&single);
    single_deinit(&single);
}

/* What waits is bounded: behind its hello a client has nothing to say. */
static void test_hello_endless(void **state)
{
    static uint8_t bytes[18 * 1024];
    struct single single;

    waiting_init(&single);
    memory_deliver(&single.side.memory, bytes, sizeof(bytes), 1000);
    assert_failed(&single, TLS_FAILED, "more than a handshake begins with");
    single_deinit(&single);
}

/* At any point of the handshake: the end, a reset, or that it is not wanted any more. */
static void test_interrupted(void **state)
{
    enum { END, RESET, CANCEL, KINDS };

    for (unsigned kind = 0; kind < KINDS; kind++) {
        bool over = false;

        for (size_t limit = 0; !over; limit += 40) {
            struct pair pair;
            size_t moved = 0;

            pair_init(&pair);
            side_begin(&pair.server, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL),
                       &server_usual);
            side_begin(&pair.client, make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL),
                       &client_usual);
            for (unsigned quiet = 0; quiet < 4 && moved < limit; quiet++) {
                const uint8_t *bytes;
                size_t size;

                world_turn(&pair.world);
                size = memory_take(&pair.client.memory, &bytes);
                size = MIN(size, limit - moved);
                memory_deliver(&pair.server.memory, bytes, size, 0);
                moved += size;
                quiet = size > 0 ? 0 : quiet;
                size = memory_take(&pair.server.memory, &bytes);
                size = MIN(size, limit - moved);
                memory_deliver(&pair.client.memory, bytes, size, 0);
                moved += size;
                quiet = size > 0 ? 0 : quiet;
            }
            over = pair.server.dones > 0;
            if (!over && kind == CANCEL) {
                tls_handshake_cancel(TAKE_PTR(pair.server.handshake));
                world_turn(&pair.world);
                world_turn(&pair.world);
                assert_true(pair.server.memory.closed);
                assert_int_equal(pair.server.dones, 0);
            } else if (!over) {
                memory_end(&pair.server.memory, kind == END ? 0 : -ECONNRESET);
                world_turn(&pair.world);
                world_turn(&pair.world);
                assert_int_equal(pair.server.dones, 1);
                assert_int_equal(pair.server.outcome, TLS_FAILED);
                assert_has(pair.server.detail, kind == END ? "in the middle of the handshake"
                                                           : "connection reset by peer");
            }
            pair_deinit(&pair);
            assert_true(limit < 10000);
        }
    }
}

/* The socket may take nothing, or fail, while the handshake is on. */
static void test_handshake_blocked(void **state)
{
    for (size_t accept = 0; accept < 1500; accept += 100) {
        struct pair pair;

        pair_init(&pair);
        pair.server.memory.accept = accept;
        pair.server.memory.release_now = true;
        pair.client.memory.accept = accept;
        pair.client.memory.release_now = true;
        pair.client.greeting = "hello";
        pair.server.greeting = "welcome";
        pair_begin(&pair, NULL, NULL);
        assert_connected(&pair);
        assert_received(&pair.server, "hello", 5);
        assert_received(&pair.client, "welcome", 7);
        pair_deinit(&pair);

        pair_init(&pair);
        pair.server.memory.accept = accept;
        pair.server.memory.keep_error = -ENOMEM;
        pair_begin(&pair, NULL, NULL);
        if (accept < 500) {
            assert_int_equal(pair.server.dones, 1);
            assert_int_equal(pair.server.outcome, TLS_NO_MEMORY);
        }
        pair_deinit(&pair);
    }
    struct pair pair;

    pair_init(&pair);
    pair.server.memory.try_error = -EPIPE;
    pair_begin(&pair, NULL, NULL);
    assert_int_equal(pair.server.outcome, TLS_FAILED);
    assert_has(pair.server.detail, "broken pipe");
    pair_deinit(&pair);

    pair_init(&pair);
    pair.server.memory.accept = 10;
    pair_begin(&pair, NULL, NULL);
    memory_release(&pair.server.memory, -ECONNRESET);
    pair_settle(&pair);
    assert_int_equal(pair.server.outcome, TLS_FAILED);
    assert_has(pair.server.detail, "connection reset by peer");
    pair_deinit(&pair);
}

static void test_start_fails(void **state)
{
    struct credentials *credentials = make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL);
    struct tls_options options = {.credentials = credentials, .done = on_done};
    struct tls_handshake *handshake;
    struct world world;
    struct side side;

    world_init(&world);
    side_init(&side, &world);
    side.memory.start_error = -ENOTCONN;
    assert_int_equal(tls_handshake(&handshake, &world.loop, &side.memory.transport, &options),
                     -ENOTCONN);
    assert_true(side.memory.closing);
    world_turn(&world);
    world_turn(&world);
    side_deinit(&side);
    credentials_unref(credentials);
    world_deinit(&world);
}

/* ---- Sending ---- */

/* For any number of bytes that the socket takes: whole records count, the rest is `written`. */
static void test_short_writes(void **state)
{
    enum { SIZE = 100000 };
    const size_t sealed = SIZE + (SIZE + RECORD_MAX - 1) / RECORD_MAX * OVERHEAD_TLS13;
    uint8_t *bytes = pattern(SIZE);

    for (size_t accept = 0; accept <= sealed; accept += accept < 50 ? 1 : 1021) {
        struct pair pair;
        size_t accepted;

        pair_init(&pair);
        pair_begin(&pair, NULL, NULL);
        pair.server.memory.accept = accept;
        accepted = side_send(&pair.server, bytes, SIZE);
        assert_int_equal(accepted, accept / (RECORD_MAX + OVERHEAD_TLS13) * RECORD_MAX);
        assert_int_equal(pair.server.memory.kept, sealed - accept);
        assert_int_equal(pair.server.writtens, 0);
        pair_settle(&pair);
        /* Nothing that was told to be accepted needs what is kept. */
        assert_int_equal(pair.client.received.size, accepted);
        memory_release(&pair.server.memory, 0);
        assert_int_equal(pair.server.writtens, 1);
        assert_int_equal(pair.server.written_error, 0);
        pair.server.memory.accept = SIZE_MAX;
        assert_int_equal(side_send(&pair.server, "end", 3), 3);
        pair_settle(&pair);
        assert_int_equal(pair.client.received.size, SIZE + 3);
        assert_memory_equal(pair.client.received.bytes, bytes, SIZE);
        pair_deinit(&pair);
    }
    free(bytes);
}

/* More than fits into what all share, with and without a short write before it. */
static void test_large_writes(void **state)
{
    enum { SIZE = 1000000 };
    static const size_t accepts[] = {0, 1, 100000, 170000, 500000, SIZE_MAX};
    uint8_t *bytes = pattern(SIZE);

    for (unsigned i = 0; i < ELEMENTSOF(accepts); i++) {
        struct pair pair;
        size_t accepted;

        pair_init(&pair);
        pair.server.memory.release_now = true;
        pair_begin(&pair, NULL, NULL);
        pair.server.memory.accept = accepts[i];
        accepted = side_send(&pair.server, bytes, SIZE);
        assert_true(accepted <= accepts[i]);
        assert_true(accepted + RECORD_MAX + 1400 >= MIN(accepts[i], (size_t)SIZE));
        pair_settle(&pair);
        assert_int_equal(pair.server.writtens, accepts[i] < SIZE_MAX);
        assert_received(&pair.client, bytes, SIZE);

        /* Without try_write() before it. */
        assert_int_equal(pair.server.transport->ops->write(pair.server.transport, bytes, SIZE), 0);
        pair.server.waiting = SIZE;
        pair_settle(&pair);
        assert_int_equal(pair.server.waiting, 0);
        assert_int_equal(pair.client.received.size, 2 * SIZE);
        pair_deinit(&pair);
    }
    free(bytes);
}

/* Another session sends between a short write and the write of its rest. */
static void test_sessions_share(void **state)
{
    enum { SIZE = 50000 };
    uint8_t *bytes = pattern(2 * SIZE);
    struct pair one;
    struct pair two;
    ssize_t n;

    pair_init(&one);
    pair_init(&two);
    pair_begin(&one, NULL, NULL);
    pair_begin(&two, NULL, NULL);
    one.server.memory.accept = 20000;
    n = one.server.transport->ops->try_write(one.server.transport, bytes, SIZE);
    assert_int_equal(n, RECORD_MAX);
    assert_int_equal(side_send(&two.server, bytes + SIZE, SIZE), SIZE);
    assert_int_equal(
        one.server.transport->ops->write(one.server.transport, bytes + n, SIZE - (size_t)n), 0);
    one.server.waiting = SIZE - (size_t)n;
    memory_release(&one.server.memory, 0);
    pair_settle(&one);
    pair_settle(&two);
    assert_received(&one.client, bytes, SIZE);
    assert_received(&two.client, bytes + SIZE, SIZE);
    pair_deinit(&one);
    pair_deinit(&two);
    free(bytes);
}

/* What is blocked is the rest of one batch below, and nothing here. */
static void test_backpressure(void **state)
{
    enum { SIZE = 128 * 1024, PAIRS = 8 };
    uint8_t *bytes = pattern(SIZE);
    struct pair *pairs = calloc(PAIRS, sizeof(*pairs));
    size_t before;
    size_t after;

    assert_non_null(pairs);
    for (unsigned i = 0; i < PAIRS; i++) {
        pair_init(&pairs[i]);
        pair_begin(&pairs[i], NULL, NULL);
        /* What stores bytes for the test is there already. */
        assert_int_equal(side_send(&pairs[i].server, bytes, SIZE), SIZE);
        pair_settle(&pairs[i]);
        pairs[i].server.memory.discard = true;
        pairs[i].server.memory.accept = 1;
    }
    before = mallinfo2().uordblks;
    for (unsigned i = 0; i < PAIRS; i++) {
        assert_int_equal(side_send(&pairs[i].server, bytes, SIZE), 0);
        assert_int_equal(pairs[i].server.memory.kept,
                         SIZE + SIZE / RECORD_MAX * OVERHEAD_TLS13 - 1);
        /* More is not taken, and not kept either. */
        assert_int_equal(
            pairs[i].server.transport->ops->try_write(pairs[i].server.transport, bytes, SIZE), 0);
    }
    after = mallinfo2().uordblks;
    assert_true(after < before + PAIRS * 1024);
    for (unsigned i = 0; i < PAIRS; i++)
        pair_deinit(&pairs[i]);
    free(pairs);
    free(bytes);
}

static void test_room(void **state)
{
    struct pair pair;
    struct transport *transport;

    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    transport = pair.server.transport;
    assert_int_equal(transport->ops->room(transport), SIZE_MAX);
    for (size_t room = 0; room < 200000; room += 97) {
        size_t plain;

        pair.server.memory.room = room;
        plain = transport->ops->room(transport);
        if (plain == 0) {
            assert_true(room < 100);
            continue;
        }
        /* It fits, and little is left over. */
        assert_true(plain + (plain + RECORD_MAX - 1) / RECORD_MAX * OVERHEAD_TLS13 <= room);
        assert_true(plain + (plain / RECORD_MAX + 2) * OVERHEAD_TLS13 >= room);
    }
    pair_deinit(&pair);
}

/* Both ways, in pieces of any size, over a socket that takes what it likes. */
static void test_large_transfers(void **state)
{
    enum { SIZE = 3000000 };
    uint8_t *bytes = pattern(SIZE);
    uint32_t x = 7;
    struct pair pair;
    size_t sent[2] = {0};

    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    pair.client.memory.release_now = true;
    pair.server.memory.release_now = true;
    while (pair.client.received.size < SIZE || pair.server.received.size < SIZE) {
        struct side *sides[] = {&pair.client, &pair.server};

        for (unsigned i = 0; i < 2; i++) {
            size_t size;

            x = x * 1664525 + 1013904223;
            size = MIN((size_t)(x >> 8) % ((x & 1) ? 200000 : 100) + 1, SIZE - sent[i]);
            sides[i]->memory.accept = (x & 6) ? SIZE_MAX : x % 50000;
            if (size > 0 && sides[i]->waiting == 0) {
                (void)side_send(sides[i], bytes + sent[i], size);
                sent[i] += size;
            }
        }
        world_turn(&pair.world);
        (void)memory_pump_pipe(&pair.client.memory, (x >> 16) % 20000 + 100);
    }
    assert_received(&pair.client, bytes, SIZE);
    assert_received(&pair.server, bytes, SIZE);
    pair_deinit(&pair);
    free(bytes);
}

/* A peer may ask for small records (RFC 8449): they cost more, and are counted as well. */
static void test_small_records(void **state)
{
    enum { SIZE = 300000 };
    uint8_t *bytes = pattern(SIZE);
    uint8_t *got = malloc(SIZE);
    struct single single;
    size_t done = 0;
    size_t accepted;
    size_t room;

    assert_non_null(got);
    world_init(&single.world);
    side_init(&single.side, &single.world);
    raw_init(&single.raw, &single.side, GNUTLS_CLIENT | GNUTLS_ALLOW_ID_CHANGE, "NORMAL", "h2",
             NOBODY);
    assert_int_equal(gnutls_record_set_max_recv_size(single.raw.session, 512), 0);
    side_begin(&single.side, make_credentials(false, SERVER, CLIENT_CERTIFICATE_NO, NULL),
               &server_usual);
    raw_settle(&single.raw);
    single.side.memory.accept = 250000;
    single.side.memory.release_now = true;
    accepted = side_send(&single.side, bytes, SIZE);
    assert_true(accepted > 200000 && accepted < 245000);
    /* Now it is known what they cost. */
    single.side.memory.room = 100000;
    room = single.side.transport->ops->room(single.side.transport);
    assert_true(room > 90000 && room + room / 512 * OVERHEAD_TLS13 < 100000);
    single.side.memory.accept = SIZE_MAX;
    raw_settle(&single.raw);
    assert_int_equal(single.side.writtens, 1);
    while (done < SIZE) {
        ssize_t n = gnutls_record_recv(single.raw.session, got + done, SIZE - done);

        assert_true(n > 0 && n <= 512);
        done += (size_t)n;
    }
    assert_memory_equal(got, bytes, SIZE);
    single_deinit(&single);
    free(bytes);
    free(got);
}

static void test_write_errors(void **state)
{
    uint8_t bytes[100] = {0};
    struct transport *transport;
    struct pair pair;
    unsigned tries;

    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    transport = pair.server.transport;
    pair.server.memory.try_error = -EPIPE;
    assert_int_equal(transport->ops->try_write(transport, bytes, sizeof(bytes)), -EPIPE);
    /* A record is lost: nothing can follow it, and nobody is asked to try. */
    tries = pair.server.memory.try_writes;
    assert_int_equal(transport->ops->try_write(transport, bytes, sizeof(bytes)), -EPIPE);
    assert_int_equal(transport->ops->write(transport, bytes, sizeof(bytes)), -EPIPE);
    assert_int_equal(pair.server.memory.try_writes, tries);
    assert_int_equal(pair.server.memory.keeps, 0);
    pair_deinit(&pair);

    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    transport = pair.server.transport;
    pair.server.memory.accept = 10;
    pair.server.memory.keep_error = -ENOMEM;
    assert_int_equal(transport->ops->try_write(transport, bytes, sizeof(bytes)), 0);
    assert_int_equal(transport->ops->write(transport, bytes, sizeof(bytes)), -ENOMEM);
    pair_deinit(&pair);

    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    pair.server.memory.accept = 10;
    assert_int_equal(side_send(&pair.server, bytes, sizeof(bytes)), 0);
    memory_release(&pair.server.memory, -ECONNRESET);
    assert_int_equal(pair.server.writtens, 1);
    assert_int_equal(pair.server.written_error, -ECONNRESET);
    pair_deinit(&pair);
}

/* ---- The end ---- */

static void test_close_notify(void **state)
{
    static const size_t accepts[] = {SIZE_MAX, 30, 0};

    for (unsigned i = 0; i < ELEMENTSOF(accepts); i++) {
        struct pair pair;

        pair_init(&pair);
        pair_begin(&pair, NULL, NULL);
        pair.server.memory.accept = accepts[i];
        (void)side_send(&pair.server, "the last words", 14);
        pair.server.transport->ops->shutdown(pair.server.transport);
        if (accepts[i] < SIZE_MAX) {
            assert_false(pair.server.memory.shut);
            memory_release(&pair.server.memory, 0);
            /* What close_notify takes is behind it. */
            assert_true(pair.server.memory.kept > 0);
            assert_true(pair.server.memory.shut);
            memory_release(&pair.server.memory, 0);
            assert_int_equal(pair.server.writtens, 1);
        }
        assert_true(pair.server.memory.shut);
        pair_settle(&pair);
        assert_received(&pair.client, "the last words", 14);
        assert_int_equal(pair.client.ends, 1);
        assert_int_equal(pair.client.end_error, 0);
        /* The end of TCP comes after it, and is no news. */
        memory_end(&pair.client.memory, 0);
        assert_int_equal(pair.client.ends, 1);
        /* The other direction is still open. */
        assert_int_equal(side_send(&pair.client, "yes", 3), 3);
        pair_settle(&pair);
        assert_received(&pair.server, "yes", 3);
        pair_deinit(&pair);
    }
}

static void test_end_without_notify(void **state)
{
    struct pair pair;

    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    memory_end(&pair.server.memory, 0);
    assert_int_equal(pair.server.ends, 1);
    assert_int_equal(pair.server.end_error, 0);
    memory_end(&pair.client.memory, -ECONNRESET);
    assert_int_equal(pair.client.ends, 1);
    assert_int_equal(pair.client.end_error, -ECONNRESET);
    pair_deinit(&pair);
}

/* The user may close at any moment, also in the middle of what it receives. */
static void test_close(void **state)
{
    struct pair pair;

    pair_init(&pair);
    pair.server.close_on_done = true;
    pair.client.greeting = "x";
    pair_begin(&pair, NULL, NULL);
    assert_int_equal(pair.server.closes, 1);
    assert_int_equal(pair.server.received.size, 0);
    pair_deinit(&pair);

    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    pair.server.close_after = 3;
    assert_int_equal(side_send(&pair.client, "one", 3), 3);
    assert_int_equal(side_send(&pair.client, "two", 3), 3);
    pair_settle(&pair);
    assert_int_equal(pair.server.closes, 1);
    assert_received(&pair.server, "one", 3);
    pair_deinit(&pair);

    /* While something is kept. */
    pair_init(&pair);
    pair_begin(&pair, NULL, NULL);
    pair.server.memory.accept = 0;
    assert_int_equal(side_send(&pair.server, "one", 3), 0);
    pair.server.transport->ops->shutdown(pair.server.transport);
    side_close(&pair.server);
    pair_settle(&pair);
    assert_int_equal(pair.server.closes, 1);
    assert_int_equal(pair.server.writtens, 0);
    pair_deinit(&pair);
}

/* ---- What else a peer may send ---- */

static void test_key_update(void **state)
{
    for (int client = 0; client < 2; client++) {
        char got[16];
        struct single single;

        single_init(&single, client, "NORMAL", "h2", client ? SERVER : NOBODY,
                    CLIENT_CERTIFICATE_NO);
        assert_int_equal(single.raw.r, 0);
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(gnutls_session_key_update(single.raw.session, GNUTLS_KU_PEER), 0);
            assert_int_equal(gnutls_record_send(single.raw.session, "abc", 3), 3);
            raw_settle(&single.raw);
            assert_int_equal(single.side.received.size, 3 * (i + 1));
            /* The answer goes with what is sent next, and does not spoil the count. */
            single.side.memory.accept = i == 0 ? 20 : SIZE_MAX;
            single.side.memory.release_now = true;
            assert_int_equal(side_send(&single.side, "defg", 4), i == 0 ? 0 : 4);
            raw_settle(&single.raw);
            assert_int_equal(raw_recv(&single.raw, got, sizeof(got)), 4);
            assert_memory_equal(got, "defg", 4);
        }
        single_deinit(&single);
    }
}

/* GnuTLS puts an end to those who ask for nothing else. */
static void test_key_update_flood(void **state)
{
    struct single single;
    unsigned i = 0;

    single_init(&single, false, "NORMAL", "h2", NOBODY, CLIENT_CERTIFICATE_NO);
    while (single.side.ends == 0) {
        assert_true(i++ < 1000);
        assert_int_equal(gnutls_session_key_update(single.raw.session, GNUTLS_KU_PEER), 0);
        (void)raw_pump(&single.raw);
    }
    assert_int_equal(single.side.end_error, -EPROTO);
    single_deinit(&single);
}

static void test_renegotiation(void **state)
{
    for (int client = 0; client < 2; client++) {
        struct single single;

        single_init(&single, client, "NORMAL:-VERS-ALL:+VERS-TLS1.2", "h2",
                    client ? SERVER : NOBODY, CLIENT_CERTIFICATE_NO);
        assert_int_equal(single.raw.r, 0);
        if (client)
            assert_int_equal(gnutls_rehandshake(single.raw.session), 0);
        else
            assert_int_equal(gnutls_handshake(single.raw.session), GNUTLS_E_AGAIN);
        raw_settle(&single.raw);
        assert_int_equal(single.side.ends, 1);
        assert_int_equal(single.side.end_error, -EPROTO);
        assert_int_equal(
            single.side.transport->ops->try_write(single.side.transport, (const uint8_t *)"x", 1),
            -EPROTO);
        single_deinit(&single);
    }
}

/* A byte that was changed on the way. */
static void test_damaged(void **state)
{
    struct single single;

    single_init(&single, false, "NORMAL", "h2", NOBODY, CLIENT_CERTIFICATE_NO);
    assert_int_equal(gnutls_record_send(single.raw.session, "good", 4), 4);
    assert_int_equal(gnutls_record_send(single.raw.session, "evil", 4), 4);
    single.raw.out.bytes[single.raw.out.size - 1] ^= 1;
    raw_settle(&single.raw);
    assert_received(&single.side, "good", 4);
    assert_int_equal(single.side.ends, 1);
    assert_int_equal(single.side.end_error, -EPROTO);
    assert_alert(&single.raw, GNUTLS_A_BAD_RECORD_MAC);
    /* Whatever comes then is nobody's. */
    memory_deliver(&single.side.memory, "abc", 3, 0);
    memory_end(&single.side.memory, 0);
    assert_int_equal(single.side.ends, 1);
    single_deinit(&single);
}

/* Who has said that no more comes sends no alert either. */
static void test_damaged_after_shutdown(void **state)
{
    struct single single;

    single_init(&single, false, "NORMAL", "h2", NOBODY, CLIENT_CERTIFICATE_NO);
    single.side.transport->ops->shutdown(single.side.transport);
    assert_true(single.side.memory.shut);
    assert_int_equal(gnutls_record_send(single.raw.session, "evil", 4), 4);
    single.raw.out.bytes[single.raw.out.size - 1] ^= 1;
    raw_settle(&single.raw);
    assert_int_equal(single.side.ends, 1);
    assert_int_equal(single.side.end_error, -EPROTO);
    single_deinit(&single);
}

static void test_alert_later(void **state)
{
    struct single single;

    single_init(&single, false, "NORMAL", "h2", NOBODY, CLIENT_CERTIFICATE_NO);
    assert_int_equal(
        gnutls_alert_send(single.raw.session, GNUTLS_AL_FATAL, GNUTLS_A_INTERNAL_ERROR), 0);
    raw_settle(&single.raw);
    assert_int_equal(single.side.ends, 1);
    assert_int_equal(single.side.end_error, -EPROTO);
    single_deinit(&single);
}

/* Does a ClientHello (RFC 8446, 4.1.2) have this extension? */
static bool hello_has(const uint8_t *hello, size_t size, unsigned extension)
{
    size_t at = 5 + 4 + 2 + 32; /* headers of record and message, version, random */

    at += 1 + hello[at];                                /* session id */
    at += 2 + (size_t)(hello[at] << 8 | hello[at + 1]); /* ciphers */
    at += 1 + hello[at] + 2;                            /* compression */
    while (at + 4 <= size) {
        if ((unsigned)(hello[at] << 8 | hello[at + 1]) == extension)
            return true;
        at += 4 + (size_t)(hello[at + 2] << 8 | hello[at + 3]);
    }
    assert_int_equal(at, size);
    return false;
}

static void test_hello(void **state)
{
    static const struct {
        unsigned extension;
        bool there;
    } cases[] = {
        {0, true},   /* server_name */
        {16, true},  /* ALPN */
        {43, true},  /* supported_versions */
        {35, false}, /* session_ticket */
        {41, false}, /* pre_shared_key */
        {42, false}, /* early_data */
    };
    struct world world;
    struct side side;
    const uint8_t *bytes;
    size_t size;

    world_init(&world);
    side_init(&side, &world);
    side_begin(&side, make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL), &client_usual);
    world_turn(&world);
    size = memory_take(&side.memory, &bytes);
    for (unsigned i = 0; i < ELEMENTSOF(cases); i++)
        assert_int_equal(hello_has(bytes, size, cases[i].extension), cases[i].there);
    side_deinit(&side);

    /* An address is no name (RFC 6066, 3). */
    side_init(&side, &world);
    side_begin(&side, make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL),
               &(struct tls_options){.client = true, .server_name = "192.0.2.7"});
    world_turn(&world);
    size = memory_take(&side.memory, &bytes);
    assert_false(hello_has(bytes, size, 0));
    side_deinit(&side);
    world_deinit(&world);
}

/* A server's tickets, which we do not ask for, are no data; and we give none. */
static void test_no_tickets(void **state)
{
    static const char *const versions[] = {"NORMAL", "NORMAL:-VERS-ALL:+VERS-TLS1.2"};

    for (unsigned i = 0; i < ELEMENTSOF(versions); i++) {
        gnutls_datum_t key;
        struct single single;

        world_init(&single.world);
        side_init(&single.side, &single.world);
        raw_init(&single.raw, &single.side, GNUTLS_SERVER, versions[i], "h2", SERVER);
        assert_int_equal(gnutls_session_ticket_key_generate(&key), 0);
        assert_int_equal(gnutls_session_ticket_enable_server(single.raw.session, &key), 0);
        side_begin(&single.side, make_credentials(true, NOBODY, CLIENT_CERTIFICATE_NO, NULL),
                   &client_usual);
        raw_settle(&single.raw);
        assert_int_equal(single.raw.r, 0);
        assert_int_equal(gnutls_record_send(single.raw.session, "data", 4), 4);
        raw_settle(&single.raw);
        assert_received(&single.side, "data", 4);
        single_deinit(&single);
        gnutls_free(key.data);

        single_init(&single, false, versions[i], "h2", NOBODY, CLIENT_CERTIFICATE_NO);
        assert_false(gnutls_session_get_flags(single.raw.session) & GNUTLS_SFLAGS_SESSION_TICKET);
        single_deinit(&single);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connects),
        cmocka_unit_test(test_data_with_finished),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_no_common_cipher),
        cmocka_unit_test(test_floor),
        cmocka_unit_test(test_alpn),
        cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_server_certificates),
        cmocka_unit_test(test_system_trust),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_client_shows_its_certificate),
        cmocka_unit_test(test_client_is_told),
        cmocka_unit_test(test_no_tls),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_alert_without_name),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_linger),
        cmocka_unit_test(test_hello_waits),
        cmocka_unit_test(test_hello_endless),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_handshake_blocked),
        cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_short_writes),
        cmocka_unit_test(test_large_writes),
        cmocka_unit_test(test_sessions_share),
        cmocka_unit_test(test_backpressure),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_large_transfers),
        cmocka_unit_test(test_small_records),
        cmocka_unit_test(test_write_errors),
        cmocka_unit_test(test_close_notify),
        cmocka_unit_test(test_end_without_notify),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_key_update),
        cmocka_unit_test(test_key_update_flood),
        cmocka_unit_test(test_renegotiation),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_damaged_after_shutdown),
        cmocka_unit_test(test_alert_later),
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_no_tickets),
    };

    return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
