/*
 * The scrape endpoint over TLS, run in a loop of this process and driven by clients that are
 * polite, slow, stuck, of the wrong kind, or gone.
 */
#include "base/exporter.h"

#include "base/util.h"
#include "certificates.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_NS UINT64_C(20000000000)

/* Made once for all tests: an authority, and what it signed; and one that nobody trusts. */
static struct certificate authority, server, server_renewed, scraper, server_only, stale;
static struct certificate stranger_authority, stranger;

struct program {
    uv_loop_t loop;
    uv_timer_t tick; /* makes the loop come back to the test */
    uv_prepare_t prepare;
    uint64_t turns;
    struct credentials *credentials;
    struct exporter *exporter;
    struct sockaddr_storage address;
    size_t text_size;
    unsigned renders;
};

static int render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct program *program = context;
    size_t size = MAX(program->text_size, (size_t)1);
    char *text = malloc(size + 1);

    assert_non_null(text);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)('a' + i % 23);
    text[size] = '\0';
    program->renders++;
    *ret_text = text;
    *ret_size = size;
    return 0;
}

static bool ready(void *context)
{
    return true;
}

static void on_tick(uv_timer_t *timer)
{
}

static void on_prepare(uv_prepare_t *prepare)
{
    ((struct program *)prepare->data)->turns++;
}

static struct credentials *make_credentials(const struct certificate *own,
                                            enum client_certificate client_certificate)
{
    char error[CREDENTIALS_ERROR_MAX] = "";
    struct credentials *credentials = NULL;
    const char *certificate_path = certificates_path("server.crt");
    const char *key_path = certificates_path("server.key");
    const char *ca_path = certificates_path("ca.crt");
    const struct credentials_options options = {
        .certificate = certificate_path,
        .key = key_path,
        .ca = client_certificate == CLIENT_CERTIFICATE_NO ? NULL : ca_path,
        .client_certificate = client_certificate,
    };

    certificate_write(own, certificate_path, key_path);
    certificate_write(&authority, ca_path, NULL);
    int r = credentials_new(&credentials, &options, error);
    if (r < 0)
        fail_msg("%s", error);
    return credentials;
}

static void program_init(struct program *program, enum client_certificate client_certificate)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct endpoint endpoint = endpoint_at((const struct sockaddr *)&address);
    struct exporter_options options = {
        .program = "a-program",
        .version = "1",
        .render = render,
        .ready = ready,
        .context = program,
    };

    *program = (struct program){0};
    assert_int_equal(uv_loop_init(&program->loop), 0);
    assert_int_equal(uv_timer_init(&program->loop, &program->tick), 0);
    assert_int_equal(uv_timer_start(&program->tick, on_tick, 1, 1), 0);
    assert_int_equal(uv_prepare_init(&program->loop, &program->prepare), 0);
    program->prepare.data = program;
    assert_int_equal(uv_prepare_start(&program->prepare, on_prepare), 0);
    program->credentials = make_credentials(&server, client_certificate);
    options.credentials = program->credentials;
    endpoint.tls = true;
    assert_int_equal(exporter_new(&program->exporter, &program->loop, &endpoint, &options), 0);
    assert_int_equal(exporter_address(program->exporter, &program->address), 0);
}

static void program_deinit(struct program *program)
{
    program->exporter = exporter_free(program->exporter);
    program->credentials = credentials_unref(program->credentials);
    uv_close((uv_handle_t *)&program->tick, NULL);
    uv_close((uv_handle_t *)&program->prepare, NULL);
    assert_int_equal(uv_run(&program->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&program->loop), 0);
}

/* ------------------------------------ clients ------------------------------------ */

struct client {
    struct program *program;
    int fd;
    gnutls_session_t session;
    gnutls_certificate_credentials_t credentials;
    size_t push_max; /* bytes that go out at once */
};

/* Sends little at a time, for clients that do. */
static ssize_t push(gnutls_transport_ptr_t pointer, const void *bytes, size_t size)
{
    struct client *client = pointer;

    for (unsigned turn = 0; client->push_max > 0 && turn < 3; turn++)
        (void)uv_run(&client->program->loop, UV_RUN_NOWAIT);
    return send(client->fd, bytes, client->push_max > 0 ? MIN(size, client->push_max) : size,
                MSG_NOSIGNAL);
}

static ssize_t pull(gnutls_transport_ptr_t pointer, void *bytes, size_t size)
{
    return recv(((struct client *)pointer)->fd, bytes, size, 0);
}

static int connect_plain(struct program *program)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(
        connect(fd, (const struct sockaddr *)&program->address, sizeof(struct sockaddr_in)), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

#define ANY_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:+VERS-TLS1.1:+VERS-TLS1.0"

static void client_init(struct client *client, struct program *program, const char *priorities,
                        const struct certificate *own)
{
    *client = (struct client){.program = program, .fd = connect_plain(program)};
    assert_int_equal(
        gnutls_init(&client->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_FORCE_CLIENT_CERT),
        0);
    assert_int_equal(
        gnutls_priority_set_direct(client->session, priorities ? priorities : ANY_PRIORITIES, NULL),
        0);
    assert_int_equal(gnutls_certificate_allocate_credentials(&client->credentials), 0);
    if (own) {
        gnutls_x509_crt_t chain = own->certificate;
        assert_int_equal(gnutls_certificate_set_x509_key(client->credentials, &chain, 1, own->key),
                         0);
    }
    assert_int_equal(
        gnutls_credentials_set(client->session, GNUTLS_CRD_CERTIFICATE, client->credentials), 0);
    gnutls_transport_set_ptr(client->session, client);
    gnutls_transport_set_push_function(client->session, push);
    gnutls_transport_set_pull_function(client->session, pull);
}

static void client_deinit(struct client *client)
{
    gnutls_deinit(client->session);
    gnutls_certificate_free_credentials(client->credentials);
    (void)close(client->fd);
}

/* Repeats a call of GnuTLS until it has a result; the loop turns meanwhile. */
#define AWAIT(client, call)                                                                        \
    ({                                                                                             \
        uint64_t end_ = uv_hrtime() + PATIENCE_NS;                                                 \
        ssize_t result_;                                                                           \
        while ((result_ = (call)) == GNUTLS_E_AGAIN || result_ == GNUTLS_E_INTERRUPTED) {          \
            (void)uv_run(&(client)->program->loop, UV_RUN_ONCE);                                   \
            assert_true(uv_hrtime() < end_);                                                       \
        }                                                                                          \
        result_;                                                                                   \
    })

static int client_handshake(struct client *client)
{
    return (int)AWAIT(client, gnutls_handshake(client->session));
}

static bool client_ask(struct client *client, const char *path)
{
    char request[256];
    int size = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);

    return AWAIT(client, gnutls_record_send(client->session, request, (size_t)size)) == size;
}

/* Reads an answer: its status, or 0 if the connection ended before its end. */
static int client_read(struct client *client, size_t *ret_size)
{
    size_t capacity = 1 << 16, size = 0, wanted = 0;
    char *answer = malloc(capacity), *end = NULL;
    int status = 0;

    assert_non_null(answer);
    while (!end || size < wanted) {
        if (capacity - size < (1 << 16)) {
            char *larger = realloc(answer, capacity *= 2);
            assert_non_null(larger);
            answer = larger;
        }
        ssize_t part =
            AWAIT(client, gnutls_record_recv(client->session, answer + size, capacity - 1 - size));
        if (part <= 0)
            break;
        size += (size_t)part;
        answer[size] = '\0';
        end = strstr(answer, "\r\n\r\n");
        if (end) {
            const char *length = strcasestr(answer, "\r\nContent-Length: ");
            assert_non_null(length);
            wanted = (size_t)(end + 4 - answer) +
                     strtoul(length + strlen("\r\nContent-Length: "), NULL, 10);
        }
    }
    if (end && size == wanted) {
        status = (int)strtol(answer + strlen("HTTP/1.1 "), NULL, 10);
        if (ret_size)
            *ret_size = wanted - (size_t)(end + 4 - answer);
    }
    free(answer);
    return status;
}

/* The status of the answer, or 0 if there was none: in TLS 1.3 a client that is refused only learns
 * of it after its handshake. */
static int client_get(struct client *client, const char *path, size_t *ret_size)
{
    return client_ask(client, path) ? client_read(client, ret_size) : 0;
}

/* What somebody new gets. */
static int get(struct program *program, const char *priorities, const struct certificate *own)
{
    struct client client;
    int status = 0;

    client_init(&client, program, priorities, own);
    if (client_handshake(&client) == 0)
        status = client_get(&client, "/-/healthy", NULL);
    client_deinit(&client);
    return status;
}

static void assert_alive(struct program *program)
{
    assert_int_equal(get(program, NULL, NULL), 200);
}

/* ----------------------------------- handshakes ----------------------------------- */

static void test_versions(void **state)
{
    struct program program;

    program_init(&program, CLIENT_CERTIFICATE_NO);
    assert_int_equal(get(&program, "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL), 200);
    assert_int_equal(get(&program, "NORMAL:-VERS-ALL:+VERS-TLS1.2", NULL), 200);
    assert_int_equal(get(&program, "NORMAL:-VERS-ALL:+VERS-TLS1.1", NULL), 0);
    assert_int_equal(get(&program, "NORMAL:-VERS-ALL:+VERS-TLS1.0", NULL), 0);
    assert_alive(&program);
    program_deinit(&program);
}

static void test_byte_by_byte(void **state)
{
    static const char *const priorities[] = {"NORMAL:-VERS-ALL:+VERS-TLS1.3",
                                             "NORMAL:-VERS-ALL:+VERS-TLS1.2"};
    struct program program;

    program_init(&program, CLIENT_CERTIFICATE_NO);
    for (size_t i = 0; i < ELEMENTSOF(priorities); i++) {
        struct client client;

        client_init(&client, &program, priorities[i], NULL);
        client.push_max = 1;
        assert_int_equal(client_handshake(&client), 0);
        assert_int_equal(client_get(&client, "/metrics", NULL), 200);
        client_deinit(&client);
    }
    program_deinit(&program);
}

static void test_garbage(void **state)
{
    static const char *const garbage[] = {
        "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\xff\xff\x01\x02\x03",
        "\x16\x03\x01\x01\x04\x02\x02\x02\x02",
        "\x15\x03\x03\x01\x02\x02\x28",
        "\x17\x03\x03\x01\x05hello",
        "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    };
    struct program program;

    program_init(&program, CLIENT_CERTIFICATE_NO);
    for (size_t i = 0; i < ELEMENTSOF(garbage); i++) {
        int fd = connect_plain(&program);

        assert_true(send(fd, garbage[i], strlen(garbage[i]), MSG_NOSIGNAL) > 0);
        for (int turn = 0; turn < 5; turn++)
            (void)uv_run(&program.loop, UV_RUN_NOWAIT);
        assert_alive(&program);
        (void)close(fd);
        assert_alive(&program);
    }
    assert_int_equal(program.renders, 0);
    program_deinit(&program);
}

/* Plain HTTP is turned away, rather than kept until its time is over. */
static void test_plain_http(void **state)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    uint64_t end = uv_hrtime() + PATIENCE_NS;
    struct program program;
    char bytes[256];
    ssize_t size;

    program_init(&program, CLIENT_CERTIFICATE_NO);
    int fd = connect_plain(&program);
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    while ((size = recv(fd, bytes, sizeof(bytes), 0)) != 0) {
        if (size < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            break; /* a reset is an end, too */
        (void)uv_run(&program.loop, UV_RUN_ONCE);
        assert_true(uv_hrtime() < end);
    }
    (void)close(fd);
    program_deinit(&program);
}

/* ------------------------------------ stuck ------------------------------------ */

/* Connections that have begun a handshake and leave it at that. */
static void open_stuck(struct program *program, int *fds, size_t count)
{
    static const char start[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

    for (size_t i = 0; i < count; i++) {
        fds[i] = connect_plain(program);
        assert_true(send(fds[i], start, sizeof(start) - 1, MSG_NOSIGNAL) > 0);
        for (int turn = 0; turn < 3; turn++)
            (void)uv_run(&program->loop, UV_RUN_NOWAIT);
    }
}

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]);
}

static void on_enough(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

/* The loop sleeps while clients are silent in their handshakes. */
static void test_stuck_costs_little(void **state)
{
    static uv_timer_t enough; /* closed after this function has returned */
    struct program program;
    bool over = false;
    int fds[8];

    program_init(&program, CLIENT_CERTIFICATE_NO);
    open_stuck(&program, fds, ELEMENTSOF(fds));
    (void)uv_timer_stop(&program.tick);
    assert_int_equal(uv_timer_init(&program.loop, &enough), 0);
    enough.data = &over;
    assert_int_equal(uv_timer_start(&enough, on_enough, 500, 0), 0);
    uint64_t before = program.turns;
    while (!over)
        (void)uv_run(&program.loop, UV_RUN_ONCE);
    /* Ten or so in ten milliseconds; it would be many thousands. */
    assert_true(program.turns - before < 1000);
    uv_close((uv_handle_t *)&enough, NULL);
    close_all(fds, ELEMENTSOF(fds));
    program_deinit(&program);
}

/* More of them than there are connections lock nobody out. */
static void test_stuck_crowd(void **state)
{
    struct program program;
    int fds[150];

    program_init(&program, CLIENT_CERTIFICATE_NO);
    program.text_size = 2 * 1024 * 1024;
    open_stuck(&program, fds, ELEMENTSOF(fds));
    for (int i = 0; i < 3; i++) {
        struct client client;
        size_t size = 0;

        client_init(&client, &program, NULL, NULL);
        assert_int_equal(client_handshake(&client), 0);
        assert_int_equal(client_get(&client, "/metrics", &size), 200);
        assert_int_equal(size, program.text_size);
        client_deinit(&client);
    }
    close_all(fds, ELEMENTSOF(fds));
    assert_alive(&program);
    program_deinit(&program);
}

/* --------------------------------- many and slow --------------------------------- */

static void test_keep_alive(void **state)
{
    struct program program;
    struct client client;
    size_t size = 0;

    program_init(&program, CLIENT_CERTIFICATE_NO);
    program.text_size = 50000;
    client_init(&client, &program, NULL, NULL);
    assert_int_equal(client_handshake(&client), 0);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(client_get(&client, "/metrics", &size), 200);
        assert_int_equal(size, program.text_size);
    }
    /* Several at once; client_read() takes whole records, and each answer begins one. */
    for (int i = 0; i < 20; i++)
        assert_true(client_ask(&client, "/-/healthy"));
    for (int i = 0; i < 20; i++)
        assert_int_equal(client_read(&client, NULL), 200);
    client_deinit(&client);
    assert_alive(&program);
    program_deinit(&program);
}

/* A client that does not read its answer keeps nobody waiting, and gets it whole later. */
static void test_slow_reader(void **state)
{
    struct program program;
    struct client client;
    size_t size = 0;

    program_init(&program, CLIENT_CERTIFICATE_NO);
    program.text_size = 20 * 1024 * 1024;
    client_init(&client, &program, NULL, NULL);
    assert_int_equal(client_handshake(&client), 0);
    assert_true(client_ask(&client, "/metrics"));
    while (program.renders == 0)
        (void)uv_run(&program.loop, UV_RUN_ONCE);
    for (int i = 0; i < 20; i++)
        assert_alive(&program);
    assert_int_equal(client_read(&client, &size), 200);
    assert_int_equal(size, program.text_size);
    client_deinit(&client);
    program_deinit(&program);
}

/* Its end waits for nobody, in whatever state they are. */
static void test_end(void **state)
{
    struct program program;
    struct client clients[3];
    int fds[5];

    program_init(&program, CLIENT_CERTIFICATE_NO);
    program.text_size = 20 * 1024 * 1024;
    open_stuck(&program, fds, ELEMENTSOF(fds));
    for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
        client_init(&clients[i], &program, NULL, NULL);
        assert_int_equal(client_handshake(&clients[i]), 0);
    }
    assert_true(client_ask(&clients[0], "/metrics"));
    while (program.renders == 0)
        (void)uv_run(&program.loop, UV_RUN_ONCE);
    assert_int_equal(client_get(&clients[1], "/-/ready", NULL), 200);
    program.exporter = exporter_free(program.exporter);
    assert_int_equal(client_read(&clients[0], NULL), 0);
    assert_int_equal(client_read(&clients[2], NULL), 0);
    for (size_t i = 0; i < ELEMENTSOF(clients); i++)
        client_deinit(&clients[i]);
    close_all(fds, ELEMENTSOF(fds));
    program_deinit(&program);
}

/* ---------------------------------- certificates ---------------------------------- */

static void test_client_certificates(void **state)
{
    static const char *const priorities[] = {"NORMAL:-VERS-ALL:+VERS-TLS1.3",
                                             "NORMAL:-VERS-ALL:+VERS-TLS1.2"};
    struct program required, optional, none;

    program_init(&required, CLIENT_CERTIFICATE_REQUIRED);
    program_init(&optional, CLIENT_CERTIFICATE_OPTIONAL);
    program_init(&none, CLIENT_CERTIFICATE_NO);
    for (size_t i = 0; i < ELEMENTSOF(priorities); i++) {
        const char *version = priorities[i];

        assert_int_equal(get(&required, version, &scraper), 200);
        assert_int_equal(get(&required, version, NULL), 0);
        assert_int_equal(get(&required, version, &stranger), 0);
        assert_int_equal(get(&required, version, &stale), 0);
        assert_int_equal(get(&required, version, &server_only), 0);

        assert_int_equal(get(&optional, version, &scraper), 200);
        assert_int_equal(get(&optional, version, NULL), 200);
        assert_int_equal(get(&optional, version, &stranger), 0);
        assert_int_equal(get(&optional, version, &stale), 0);
        assert_int_equal(get(&optional, version, &server_only), 0);

        assert_int_equal(get(&none, version, &stranger), 200); /* nobody asks it */
    }
    program_deinit(&required);
    program_deinit(&optional);
    program_deinit(&none);
}

/* Is this the certificate that the server showed? */
static bool shows(const struct client *client, const struct certificate *expected)
{
    unsigned count = 0;
    const gnutls_datum_t *shown = gnutls_certificate_get_peers(client->session, &count);
    gnutls_datum_t der;
    bool same;

    assert_true(shown && count > 0);
    assert_int_equal(gnutls_x509_crt_export2(expected->certificate, GNUTLS_X509_FMT_DER, &der), 0);
    same = der.size == shown->size && memcmp(der.data, shown->data, der.size) == 0;
    gnutls_free(der.data);
    return same;
}

/* New connections get new credentials; old ones, even in their handshakes, go on. */
static void test_reload(void **state)
{
    struct client before, in_handshake, after;
    struct program program;

    program_init(&program, CLIENT_CERTIFICATE_NO);
    client_init(&before, &program, NULL, NULL);
    assert_int_equal(client_handshake(&before), 0);
    assert_true(shows(&before, &server));
    client_init(&in_handshake, &program, NULL, NULL);
    assert_int_equal(gnutls_handshake(in_handshake.session), GNUTLS_E_AGAIN); /* has said hello */
    for (int turn = 0; turn < 5; turn++)
        (void)uv_run(&program.loop, UV_RUN_NOWAIT);

    struct credentials *renewed = make_credentials(&server_renewed, CLIENT_CERTIFICATE_REQUIRED);
    exporter_configure(program.exporter, &(struct exporter_options){.credentials = renewed});
    (void)credentials_unref(renewed);
    program.credentials = credentials_unref(program.credentials);

    client_init(&after, &program, NULL, &scraper);
    assert_int_equal(client_handshake(&after), 0);
    assert_true(shows(&after, &server_renewed));
    assert_int_equal(client_get(&after, "/-/healthy", NULL), 200);
    assert_int_equal(client_get(&before, "/-/healthy", NULL), 200);
    assert_int_equal(client_handshake(&in_handshake), 0);
    assert_true(shows(&in_handshake, &server));
    assert_int_equal(client_get(&in_handshake, "/-/healthy", NULL), 200);
    assert_int_equal(get(&program, NULL, NULL), 0);
    client_deinit(&before);
    client_deinit(&in_handshake);
    client_deinit(&after);
    program_deinit(&program);
}

static void test_no_credentials(void **state)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct endpoint endpoint = endpoint_at((const struct sockaddr *)&address);
    const struct exporter_options options = {.program = "p", .render = render, .ready = ready};
    struct exporter *exporter = NULL;
    uv_loop_t loop;

    endpoint.tls = true;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(exporter_new(&exporter, &loop, &endpoint, &options), -EINVAL);
    assert_null(exporter);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static int set_up(void **state)
{
    (void)signal(SIGPIPE, SIG_IGN); /* as both programs do */
    certificates_begin();
    certificate_make(&authority,
                     &(struct certificate_options){.common_name = "authority", .authority = true});
    certificate_make(&stranger_authority,
                     &(struct certificate_options){.common_name = "stranger", .authority = true});
    certificate_make(&server, &(struct certificate_options){.common_name = "server",
                                                            .issuer = &authority,
                                                            .dns = {"localhost"}});
    certificate_make(&server_renewed, &(struct certificate_options){.common_name = "renewed",
                                                                    .issuer = &authority,
                                                                    .dns = {"localhost"}});
    certificate_make(&scraper, &(struct certificate_options){.common_name = "scraper",
                                                             .issuer = &authority,
                                                             .purpose = GNUTLS_KP_TLS_WWW_CLIENT});
    certificate_make(&server_only,
                     &(struct certificate_options){.common_name = "server only",
                                                   .issuer = &authority,
                                                   .purpose = GNUTLS_KP_TLS_WWW_SERVER});
    certificate_make(&stale, &(struct certificate_options){.common_name = "stale",
                                                           .issuer = &authority,
                                                           .begin_days = -20,
                                                           .end_days = -10});
    certificate_make(&stranger, &(struct certificate_options){.common_name = "scraper",
                                                              .issuer = &stranger_authority});
    return 0;
}

static int tear_down(void **state)
{
    struct certificate *const all[] = {&authority,   &server, &server_renewed,     &scraper,
                                       &server_only, &stale,  &stranger_authority, &stranger};

    for (size_t i = 0; i < ELEMENTSOF(all); i++)
        certificate_deinit(all[i]);
    certificates_end();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_plain_http),
        cmocka_unit_test(test_stuck_costs_little),
        cmocka_unit_test(test_stuck_crowd),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_no_credentials),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
