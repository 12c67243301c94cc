/*
 * From a target to a transport, or to words about why there is none: over real sockets of both
 * kinds, and with TLS against our own server side and against what is no TLS at all.
 */
#include "client/dial.h"

#include "base/credentials.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#include "certificates.h"

/* ---- Certificates ---- */

static struct certificate authority, stranger, server, old, strange, client;

static struct credentials *client_credentials, *client_identity, *server_credentials,
    *strict_credentials, *old_credentials, *strange_credentials;

static const char *write_certificate(const struct certificate *certificate, const char *name,
                                     struct credentials_options *options)
{
    char file[64];

    (void)snprintf(file, sizeof(file), "%s.key", name);
    options->key = certificates_path(file);
    (void)snprintf(file, sizeof(file), "%s.crt", name);
    options->certificate = certificates_path(file);
    certificate_write(certificate, options->certificate, options->key);
    return options->certificate;
}

static struct credentials *open_credentials(const struct credentials_options *options)
{
    struct credentials *credentials = NULL;
    char error[CREDENTIALS_ERROR_MAX];

    if (credentials_new(&credentials, options, error) < 0)
        fail_msg("%s", error);
    return credentials;
}

static struct credentials *open_server(const struct certificate *certificate, const char *name,
                                       const char *client_ca)
{
    struct credentials_options options = {
        .ca = client_ca,
        .client_certificate = client_ca ? CLIENT_CERTIFICATE_REQUIRED : CLIENT_CERTIFICATE_NO,
    };

    (void)write_certificate(certificate, name, &options);
    return open_credentials(&options);
}

static int open_all(void **state)
{
    static const struct certificate_options is_authority = {.common_name = "authority",
                                                            .authority = true,
                                                            .begin_days = -99,
                                                            .end_days = 9},
                                            is_stranger = {.common_name = "stranger",
                                                           .authority = true},
                                            is_server = {.issuer = &authority,
                                                         .common_name = "server",
                                                         .dns = {"stocks.example", "localhost"}},
                                            is_old = {.issuer = &authority,
                                                      .dns = {"stocks.example"},
                                                      .begin_days = -9,
                                                      .end_days = -2},
                                            is_strange = {.issuer = &stranger,
                                                          .dns = {"stocks.example"}},
                                            is_client = {.issuer = &authority,
                                                         .common_name = "client"};
    struct credentials_options options = {.client = true};
    char ca[256];

    certificates_begin();
    certificate_make(&authority, &is_authority);
    certificate_make(&stranger, &is_stranger);
    certificate_make(&server, &is_server);
    certificate_make(&old, &is_old);
    certificate_make(&strange, &is_strange);
    certificate_make(&client, &is_client);
    (void)snprintf(ca, sizeof(ca), "%s", certificates_path("ca.pem"));
    certificate_write(&authority, ca, NULL);

    options.ca = ca;
    client_credentials = open_credentials(&options);
    (void)write_certificate(&client, "client", &options);
    client_identity = open_credentials(&options);
    server_credentials = open_server(&server, "server", NULL);
    strict_credentials = open_server(&server, "server", ca);
    old_credentials = open_server(&old, "old", NULL);
    strange_credentials = open_server(&strange, "strange", NULL);
    return 0;
}

static int close_all(void **state)
{
    struct certificate *made[] = {&authority, &stranger, &server, &old, &strange, &client};
    struct credentials *opened[] = {client_credentials, client_identity, server_credentials,
                                    strict_credentials, old_credentials, strange_credentials};

    for (size_t i = 0; i < ELEMENTSOF(made); i++)
        certificate_deinit(made[i]);
    for (size_t i = 0; i < ELEMENTSOF(opened); i++)
        credentials_unref(opened[i]);
    certificates_end();
    return 0;
}

/* ---- A resolver ---- */

#define NAME "stocks.example"

/* What the resolver has for every name and every address; the port is the first's. */
static struct sockaddr_in found[2];
static size_t found_count;

/* In the place of the C library's, so that a name has the addresses that a test wants. */
__attribute__((visibility("default"))) int getaddrinfo(const char *restrict node,
                                                       const char *restrict service,
                                                       const struct addrinfo *restrict hints,
                                                       struct addrinfo **restrict ret)
{
    struct addrinfo **end = ret;

    *ret = NULL;
    for (size_t i = 0; i < found_count; i++) {
        /* In one piece, as freeaddrinfo() expects it. */
        struct addrinfo *one = calloc(1, sizeof(*one) + sizeof(found[i]));

        if (!one)
            return EAI_MEMORY;
        one->ai_family = AF_INET;
        one->ai_socktype = SOCK_STREAM;
        one->ai_addrlen = sizeof(found[i]);
        one->ai_addr = (struct sockaddr *)(one + 1);
        memcpy(one->ai_addr, &found[i], sizeof(found[i]));
        *end = one;
        end = &one->ai_next;
    }
    return found_count > 0 ? 0 : EAI_NONAME;
}

/* ---- A scene: a dialler and what it dials ---- */

struct scene {
    uv_loop_t uv;
    struct loop loop;
    uv_timer_t tick; /* makes the loop come back to the test */
    struct dial dial;
    struct target target;

    /* The server. */
    int listening;
    int other;                       /* at another address, where nobody accepts; -1: nowhere */
    int peer;                        /* accepted, and in the hands of the test */
    const char *answer;              /* then this is written */
    bool end;                        /* and no more comes */
    struct credentials *credentials; /* or this is spoken */
    struct tls_handshake *handshake;
    struct transport *server;
    unsigned accepted;

    /* What the dialler told. */
    struct transport *client;
    char peer_text[ADDRESS_TEXT_MAX];
    unsigned connected, failed;
    enum connect_outcome outcome;
    char error[DIAL_ERROR_MAX];
    unsigned closed; /* transports */
};

static void on_received(void *user, const uint8_t *bytes, size_t size)
{
}

static void on_ended(void *user, int error)
{
}

static void on_written(void *user, int error)
{
}

static void on_closed(void *user)
{
    struct scene *scene = user;

    scene->closed++;
}

static const struct transport_user user_ops = {on_received, on_ended, on_written, on_closed};

static struct transport *use(struct scene *scene, struct transport *transport)
{
    transport->user = scene;
    transport->user_ops = &user_ops;
    assert_int_equal(transport->ops->start(transport), 0);
    return transport;
}

static void on_connected(void *user, struct transport *transport, const char *peer)
{
    struct scene *scene = user;

    scene->connected++;
    scene->client = use(scene, transport);
    (void)snprintf(scene->peer_text, sizeof(scene->peer_text), "%s", peer);
}

static void on_failed(void *user, enum connect_outcome outcome, const char *error)
{
    struct scene *scene = user;

    scene->failed++;
    scene->outcome = outcome;
    (void)snprintf(scene->error, sizeof(scene->error), "%s", error);
}

static const struct dial_ops ops = {.connected = on_connected, .failed = on_failed};

static void on_server_done(void *user, struct transport *transport, enum tls_outcome outcome,
                           const char *detail)
{
    struct scene *scene = user;

    scene->handshake = NULL;
    if (transport)
        scene->server = use(scene, transport);
}

static void serve_tls(struct scene *scene, int fd)
{
    const struct tls_options options = {
        .credentials = scene->credentials, .done = on_server_done, .user = scene};
    struct transport *transport = NULL;

    assert_int_equal(socket_accepted(&transport, &scene->loop, fd), 0);
    assert_int_equal(tls_handshake(&scene->handshake, &scene->loop, transport, &options), 0);
}

static void serve(struct scene *scene)
{
    int fd = accept4(scene->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    scene->accepted++;
    if (scene->credentials) {
        serve_tls(scene, fd);
        return;
    }
    scene->peer = fd;
    if (scene->answer)
        assert_int_equal(write(fd, scene->answer, strlen(scene->answer)), strlen(scene->answer));
    if (scene->end)
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
}

static void on_tick(uv_timer_t *timer)
{
}

/* Runs the loop, and the server, until `condition` holds. */
#define RUN_UNTIL(scene, condition)                                                                \
    do {                                                                                           \
        uint64_t end_ = uv_hrtime() + UINT64_C(20000000000);                                       \
        while (!(condition)) {                                                                     \
            (void)uv_run(&(scene)->uv, UV_RUN_ONCE);                                               \
            serve(scene);                                                                          \
            assert_true(uv_hrtime() < end_);                                                       \
        }                                                                                          \
    } while (0)

/* Listens on a socket of `family`, and makes it the target. */
static void scene_begin(struct scene *scene, int family)
{
    struct sockaddr_storage address;
    char text[ADDRESS_TEXT_MAX];
    socklen_t size = sizeof(address);
    const char *why = NULL;

    *scene = (struct scene){.listening = -1, .other = -1, .peer = -1};
    assert_int_equal(uv_loop_init(&scene->uv), 0);
    assert_int_equal(loop_init(&scene->loop, &scene->uv), 0);
    assert_int_equal(uv_timer_init(&scene->uv, &scene->tick), 0);
    assert_int_equal(uv_timer_start(&scene->tick, on_tick, 1, 1), 0);

    if (family == AF_UNIX)
        (void)snprintf(text, sizeof(text), "unix:%s", certificates_path("socket"));
    else
        (void)snprintf(text, sizeof(text), "127.0.0.1:0");
    assert_int_equal(address_parse(text, strlen(text), &address, &why), 0);
    scene->listening = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(scene->listening, (const struct sockaddr *)&address,
                          address_size((const struct sockaddr *)&address)),
                     0);
    assert_int_equal(listen(scene->listening, 8), 0);
    assert_int_equal(getsockname(scene->listening, (struct sockaddr *)&address, &size), 0);
    if (family == AF_INET)
        memcpy(&found[0], &address, sizeof(found[0]));
    found_count = 1;
    (void)address_format((const struct sockaddr *)&address, text);
    assert_int_equal(target_parse(&scene->target, text, &why), 0);
}

static void scene_dial(struct scene *scene, struct credentials *credentials, bool insecure,
                       uint64_t timeout_ms)
{
    const struct dial_tls tls = {.credentials = credentials, .insecure = insecure};

    dial_init(&scene->dial, &scene->loop, &tls, &ops, scene);
    dial_start(&scene->dial, &scene->target, loop_now_ms(&scene->loop) + timeout_ms);
}

static void scene_name(struct scene *scene, const char *name)
{
    const char *why = NULL;

    assert_int_equal(target_rename(&scene->target, name, &why), 0);
}

static void scene_end(struct scene *scene)
{
    unsigned open = scene->closed;

    dial_stop(&scene->dial);
    if (scene->handshake)
        tls_handshake_cancel(scene->handshake);
    if (scene->client && ++open)
        scene->client->ops->close(scene->client);
    if (scene->server && ++open)
        scene->server->ops->close(scene->server);
    RUN_UNTIL(scene, scene->closed == open);
    uv_close((uv_handle_t *)&scene->tick, NULL);
    loop_deinit(&scene->loop);
    assert_int_equal(uv_run(&scene->uv, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&scene->uv), 0);
    (void)close(scene->listening);
    if (scene->other >= 0)
        (void)close(scene->other);
    if (scene->peer >= 0)
        (void)close(scene->peer);
    if (scene->target.path[0])
        (void)unlink(scene->target.path);
}

/* Dials until that is over, and expects it to have failed with these words. */
static void expect_failure(struct scene *scene, struct credentials *credentials,
                           enum connect_outcome outcome, const char *const words[], size_t count)
{
    scene_dial(scene, credentials, false, 15000);
    RUN_UNTIL(scene, scene->connected + scene->failed > 0);
    assert_int_equal(scene->connected, 0);
    assert_int_equal(scene->failed, 1);
    if (scene->outcome != outcome)
        fail_msg("%s, not %s: %s", connect_outcome_labels[scene->outcome],
                 connect_outcome_labels[outcome], scene->error);
    for (size_t i = 0; i < count; i++)
        if (!strstr(scene->error, words[i]))
            fail_msg("\"%s\" does not say \"%s\"", scene->error, words[i]);
}

#define EXPECT_FAILURE(scene, credentials, outcome, ...)                                           \
    do {                                                                                           \
        const char *const words_[] = {__VA_ARGS__};                                                \
        expect_failure(scene, credentials, outcome, words_, ELEMENTSOF(words_));                   \
    } while (0)

/* ---- Tests ---- */

static const int families[] = {AF_INET, AF_UNIX};

static void connects_to_sockets_of_both_kinds(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct scene scene;

        scene_begin(&scene, families[i]);
        scene_dial(&scene, NULL, false, 15000);
        RUN_UNTIL(&scene, scene.connected + scene.failed > 0 && scene.accepted > 0);
        assert_int_equal(scene.connected, 1);
        assert_string_equal(scene.peer_text, scene.target.text);
        assert_string_equal(scene.dial.agreed, "");
        scene_end(&scene);
    }
}

static void tells_that_nobody_is_there(void **state)
{
    struct scene scene;

    scene_begin(&scene, AF_UNIX);
    assert_int_equal(unlink(scene.target.path), 0);
    EXPECT_FAILURE(&scene, NULL, CONNECT_CONNECT_FAILED, "no such file");
    /* The address that was given is not repeated. */
    assert_null(strstr(scene.error, "unix:"));
    scene_end(&scene);

    scene_begin(&scene, AF_UNIX);
    (void)close(scene.listening);
    scene.listening = -1;
    EXPECT_FAILURE(&scene, NULL, CONNECT_CONNECT_FAILED, "refused");
    scene_end(&scene);
}

static void secures_sockets_of_both_kinds(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct scene scene;

        scene_begin(&scene, families[i]);
        scene.credentials = server_credentials;
        if (families[i] == AF_INET)
            scene_name(&scene, "stocks.example");
        scene_dial(&scene, client_credentials, false, 15000);
        RUN_UNTIL(&scene, (scene.connected > 0 && scene.server) || scene.failed > 0);
        if (scene.failed)
            fail_msg("%s", scene.error);
        assert_string_equal(scene.peer_text, scene.target.text);
        assert_non_null(strstr(scene.dial.agreed, "TLS1.3, AES-"));
        scene_end(&scene);
    }
}

static void shows_its_certificate(void **state)
{
    struct scene scene;

    scene_begin(&scene, AF_UNIX);
    scene.credentials = strict_credentials;
    scene_dial(&scene, client_identity, false, 15000);
    RUN_UNTIL(&scene, (scene.connected > 0 && scene.server) || scene.failed > 0);
    assert_int_equal(scene.failed, 0);
    assert_string_equal(tls_peer_name(scene.server), "client");
    scene_end(&scene);
}

static void tells_what_is_wrong_with_a_certificate(void **state)
{
    const struct {
        struct credentials *credentials;
        const char *name, *why;
    } cases[] = {
        {server_credentials, "elsewhere.example", "for another name than \"elsewhere.example\""},
        {old_credentials, "stocks.example", "expired"},
        {strange_credentials, "stocks.example", "not trusted"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct scene scene;
        char with[64];

        (void)snprintf(with, sizeof(with), "TLS with \"%s\" failed: ", cases[i].name);
        scene_begin(&scene, AF_INET);
        scene.credentials = cases[i].credentials;
        scene_name(&scene, cases[i].name);
        EXPECT_FAILURE(&scene, client_credentials, CONNECT_TLS_FAILED, with, cases[i].why);
        scene_end(&scene);

        /* And takes it all the same when told to. */
        scene_begin(&scene, AF_INET);
        scene.credentials = cases[i].credentials;
        scene_name(&scene, cases[i].name);
        scene_dial(&scene, client_credentials, true, 15000);
        RUN_UNTIL(&scene, (scene.connected > 0 && scene.server) || scene.failed > 0);
        assert_int_equal(scene.connected, 1);
        scene_end(&scene);
    }
}

static void tells_what_is_no_tls(void **state)
{
    static const struct {
        const char *answer, *why;
    } cases[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1"},
        {"SSH-2.0-OpenSSH\r\n", "does not speak TLS"},
        {"\x15\x03\x01", "closed the connection"},
        {"", "closed the connection"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct scene scene;

        scene_begin(&scene, AF_INET);
        scene.answer = cases[i].answer;
        scene.end = true;
        EXPECT_FAILURE(&scene, client_credentials, CONNECT_TLS_FAILED, "\"127.0.0.1\"",
                       cases[i].why);
        scene_end(&scene);
    }
}

static void silence_ends_with_its_time(void **state)
{
    struct scene scene;
    uint64_t begun_ms;

    scene_begin(&scene, AF_INET);
    begun_ms = uv_now(&scene.uv);
    scene_dial(&scene, client_credentials, false, 200);
    RUN_UNTIL(&scene, scene.failed > 0);
    assert_int_equal(scene.accepted, 1);
    assert_int_equal(scene.outcome, CONNECT_TIMED_OUT);
    assert_non_null(strstr(scene.error, "\"127.0.0.1\""));
    assert_true(uv_now(&scene.uv) - begun_ms >= 199);
    scene_end(&scene);
}

static void a_handshake_can_be_given_up(void **state)
{
    struct scene scene;

    scene_begin(&scene, AF_INET);
    scene_dial(&scene, client_credentials, false, 15000);
    RUN_UNTIL(&scene, scene.dial.handshake != NULL && scene.accepted > 0);
    dial_stop(&scene.dial);
    assert_null(scene.dial.handshake);
    scene_end(&scene);
    assert_int_equal(scene.connected + scene.failed, 0);
}

/* What is behind a transport was no good: there is one address, so that is the end. */
static void the_next_address_of_one_is_none(void **state)
{
    struct scene scene;

    scene_begin(&scene, AF_UNIX);
    scene_dial(&scene, NULL, false, 15000);
    RUN_UNTIL(&scene, scene.connected > 0 && scene.accepted > 0);
    dial_next(&scene.dial, CONNECT_HANDSHAKE_FAILED, "no good");
    assert_int_equal(scene.failed, 1);
    assert_int_equal(scene.outcome, CONNECT_HANDSHAKE_FAILED);
    assert_string_equal(scene.error, "no good");
    scene_end(&scene);
}

/* The target becomes a name with two addresses: another one first, then the one that is served. */
static void scene_add_address(struct scene *scene, bool listens)
{
    const char *why = NULL;
    char text[64];

    found[1] = found[0];
    found[0].sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    found_count = 2;
    (void)snprintf(text, sizeof(text), NAME ":%d", ntohs(found[1].sin_port));
    assert_int_equal(target_parse(&scene->target, text, &why), 0);
    if (!listens)
        return;
    scene->other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(
        bind(scene->other, (const struct sockaddr *)(const void *)&found[0], sizeof(found[0])), 0);
    assert_int_equal(listen(scene->other, 8), 0);
}

/* An address that refuses, or one that takes the connection and never answers. */
static void addresses_are_tried_in_turn(void **state)
{
    for (unsigned silent = 0; silent <= 1; silent++) {
        struct scene scene;
        char peer[ADDRESS_TEXT_MAX];
        uint64_t begun_ms;

        scene_begin(&scene, AF_INET);
        scene.credentials = server_credentials;
        scene_add_address(&scene, silent);
        begun_ms = uv_now(&scene.uv);
        scene_dial(&scene, client_credentials, false, 2000);
        RUN_UNTIL(&scene, (scene.connected > 0 && scene.server) || scene.failed > 0);
        if (scene.failed)
            fail_msg("%s", scene.error);
        (void)address_format((const struct sockaddr *)(const void *)&found[1], peer);
        assert_string_equal(scene.peer_text, peer);
        /* Half of the time was the first address's. */
        if (silent)
            assert_true(uv_now(&scene.uv) - begun_ms >= 999);
        scene_end(&scene);
    }
}

static void the_last_address_gives_the_reason(void **state)
{
    struct scene scene;
    char peer[ADDRESS_TEXT_MAX];

    scene_begin(&scene, AF_INET);
    scene.credentials = old_credentials;
    scene_add_address(&scene, false);
    (void)address_format((const struct sockaddr *)(const void *)&found[1], peer);
    EXPECT_FAILURE(&scene, client_credentials, CONNECT_TLS_FAILED, peer,
                   ": TLS with \"" NAME "\" failed: ", "expired");
    scene_end(&scene);
}

static void a_name_without_an_address_is_told(void **state)
{
    struct scene scene;

    scene_begin(&scene, AF_INET);
    found_count = 0;
    EXPECT_FAILURE(&scene, NULL, CONNECT_RESOLVE_FAILED, "unknown node or service");
    scene_end(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connects_to_sockets_of_both_kinds),
        cmocka_unit_test(tells_that_nobody_is_there),
        cmocka_unit_test(secures_sockets_of_both_kinds),
        cmocka_unit_test(shows_its_certificate),
        cmocka_unit_test(tells_what_is_wrong_with_a_certificate),
        cmocka_unit_test(tells_what_is_no_tls),
        cmocka_unit_test(silence_ends_with_its_time),
        cmocka_unit_test(a_handshake_can_be_given_up),
        cmocka_unit_test(the_next_address_of_one_is_none),
        cmocka_unit_test(addresses_are_tried_in_turn),
        cmocka_unit_test(the_last_address_gives_the_reason),
        cmocka_unit_test(a_name_without_an_address_is_told),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, open_all, close_all);
}
