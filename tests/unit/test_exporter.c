/*
 * The scrape endpoint, run in a loop of this process and driven through real sockets by clients
 * that are polite, odd, slow, silent, or gone.
 */
#include "base/exporter.h"

#include "base/log.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

/* How long anything may take before a test gives up. */
#define PATIENCE_MS 20000

#define TEXT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define OPENMETRICS_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* The program that is scraped. */
struct program {
    uv_loop_t loop;
    uv_timer_t tick; /* makes the loop come back to the test */
    uv_prepare_t prepare;
    uint64_t turns;
    struct exporter *exporter;
    uint16_t port;
    bool ready;
    bool no_memory;
    size_t text_size; /* of the text, which is otherwise one line */
    unsigned renders;

    /* How start_exporter() starts it. */
    const char *user;
    const char *password;
    const struct range *allow;
    size_t allow_count;
};

static int render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct program *program = context;

    program->renders++;
    if (program->no_memory)
        return -ENOMEM;
    const char *text = format == METRICS_TEXT ? "a_metric 1\n" : "a_metric 1\n# EOF\n";
    size_t size = MAX(program->text_size, strlen(text));
    char *copy = malloc(size + 1);
    assert_non_null(copy);
    for (size_t i = 0; i < size; i++)
        copy[i] = text[i % strlen(text)];
    copy[size] = '\0';
    *ret_text = copy;
    *ret_size = size;
    return 0;
}

static bool ready(void *context)
{
    return ((struct program *)context)->ready;
}

static void on_tick(uv_timer_t *timer)
{
}

static void on_prepare(uv_prepare_t *prepare)
{
    ((struct program *)prepare->data)->turns++;
}

static int start_exporter(struct program *program, const struct sockaddr *address)
{
    const struct exporter_options options = {
        .program = "a-program",
        .version = "1.2.3",
        .render = render,
        .ready = ready,
        .context = program,
        .user = program->user,
        .password = program->password,
        .allow = program->allow,
        .allow_count = program->allow_count,
    };
    struct endpoint endpoint = endpoint_at(address);

    return exporter_new(&program->exporter, &program->loop, &endpoint, &options);
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}

static uint16_t exporter_port(const struct exporter *exporter)
{
    struct sockaddr_storage address;

    assert_int_equal(exporter_address(exporter, &address), 0);
    /* The port is at the same place for both families. */
    return ntohs(((const struct sockaddr_in *)(const void *)&address)->sin_port);
}

static int set_up(void **state)
{
    struct program *program = calloc(1, sizeof(*program));
    struct sockaddr_in address = loopback(0);

    assert_non_null(program);
    assert_int_equal(uv_loop_init(&program->loop), 0);
    assert_int_equal(uv_timer_init(&program->loop, &program->tick), 0);
    assert_int_equal(uv_timer_start(&program->tick, on_tick, 1, 1), 0);
    uv_unref((uv_handle_t *)&program->tick);
    assert_int_equal(uv_prepare_init(&program->loop, &program->prepare), 0);
    program->prepare.data = program;
    assert_int_equal(uv_prepare_start(&program->prepare, on_prepare), 0);
    uv_unref((uv_handle_t *)&program->prepare);
    assert_int_equal(start_exporter(program, (const struct sockaddr *)&address), 0);
    program->port = exporter_port(program->exporter);
    *state = program;
    return 0;
}

/* Starts it anew, after a change of how. */
static void restart(struct program *program)
{
    struct sockaddr_in address = loopback(0);

    program->exporter = exporter_free(program->exporter);
    assert_int_equal(start_exporter(program, (const struct sockaddr *)&address), 0);
    program->port = exporter_port(program->exporter);
}

static int tear_down(void **state)
{
    struct program *program = *state;

    program->exporter = exporter_free(program->exporter);
    uv_close((uv_handle_t *)&program->tick, NULL);
    uv_close((uv_handle_t *)&program->prepare, NULL);
    assert_int_equal(uv_run(&program->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&program->loop), 0);
    free(program);
    return 0;
}

/* ------------------------------------ clients ------------------------------------ */

struct client {
    struct program *program;
    int fd;
    bool ended;   /* the server closed */
    bool reading; /* false for a client that lets the answer wait */
    char *received;
    size_t size;
    size_t capacity;
};

/* The answer to one request, in the client's memory. */
struct reply {
    int status;
    const char *head;
    size_t head_size;
    const char *body;
    size_t body_size;
};

static struct client client_on(struct program *program, int fd)
{
    struct sockaddr_in address = loopback(program->port);

    assert_true(fd >= 0);
    int r = connect(fd, (const struct sockaddr *)&address, sizeof(address));
    assert_true(r == 0 || errno == EINPROGRESS);
    return (struct client){.program = program, .fd = fd, .reading = true};
}

static int new_socket(void)
{
    return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static struct client client_open(struct program *program)
{
    return client_on(program, new_socket());
}

static void client_close(struct client *client)
{
    if (client->fd >= 0)
        (void)close(client->fd);
    free(client->received);
    *client = (struct client){.fd = -1};
}

/* One turn of the program's loop, then whatever the client can read. */
static void client_turn(struct client *client)
{
    (void)uv_run(&client->program->loop, UV_RUN_ONCE);
    while (client->reading && !client->ended) {
        if (client->capacity - client->size < 65536) {
            client->capacity = client->capacity * 2 + 65536;
            client->received = realloc(client->received, client->capacity);
            assert_non_null(client->received);
        }
        ssize_t size = recv(client->fd, client->received + client->size,
                            client->capacity - client->size - 1, 0);
        if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN))
            return;
        if (size <= 0) {
            client->ended = true;
            return;
        }
        client->size += (size_t)size;
        client->received[client->size] = '\0';
    }
}

static uint64_t deadline(void)
{
    return uv_hrtime() + (uint64_t)PATIENCE_MS * 1000000;
}

/* Sends all of it; false if the server ended the connection before. */
static bool client_send(struct client *client, const char *bytes, size_t size)
{
    uint64_t end = deadline();

    while (size > 0 && !client->ended) {
        ssize_t sent = send(client->fd, bytes, size, MSG_NOSIGNAL);
        if (sent > 0) {
            bytes += sent;
            size -= (size_t)sent;
            continue;
        }
        if (errno == EPIPE || errno == ECONNRESET)
            return false;
        client_turn(client);
        assert_true(uv_hrtime() < end);
    }
    return size == 0;
}

static bool client_say(struct client *client, const char *text)
{
    return client_send(client, text, strlen(text));
}

/* A header's value, or NULL. Valid until the next call. */
static const char *reply_header(const struct reply *reply, const char *name)
{
    static char value[512];
    char start[64];

    (void)snprintf(start, sizeof(start), "\r\n%s: ", name);
    const char *at = strcasestr(reply->head, start);
    if (at == NULL || at >= reply->head + reply->head_size)
        return NULL;
    at += strlen(start);
    (void)snprintf(value, sizeof(value), "%.*s", (int)strcspn(at, "\r"), at);
    return value;
}

/* Takes the reply that begins at *at of what came, if it is whole. */
static bool take_reply(const struct client *client, size_t *at, bool head, struct reply *ret_reply)
{
    static const char version[] = "HTTP/1.1 ";

    *ret_reply = (struct reply){0};
    if (client->size <= *at)
        return false;
    const char *start = client->received + *at, *end = strstr(start, "\r\n\r\n");
    if (end == NULL)
        return false;
    *ret_reply = (struct reply){.head = start, .head_size = (size_t)(end - start)};
    assert_memory_equal(start, version, sizeof(version) - 1);
    ret_reply->status = (int)strtol(start + sizeof(version) - 1, NULL, 10);
    if (ret_reply->status == 100) {
        ret_reply->body = end + 4;
    } else {
        const char *length = reply_header(ret_reply, "Content-Length");
        assert_non_null(length);
        ret_reply->body = end + 4;
        ret_reply->body_size = head ? 0 : strtoul(length, NULL, 10);
    }
    size_t needed = (size_t)(ret_reply->body - client->received) + ret_reply->body_size;
    if (client->size < needed)
        return false;
    *at = needed;
    return true;
}

/* Waits for the next reply after *at. False if the connection ended instead. */
static bool await_reply(struct client *client, size_t *at, bool head, struct reply *ret_reply)
{
    uint64_t end = deadline();

    while (!take_reply(client, at, head, ret_reply)) {
        if (client->ended)
            return false;
        client_turn(client);
        assert_true(uv_hrtime() < end);
    }
    return true;
}

static bool await_end(struct client *client)
{
    uint64_t end = deadline();

    while (!client->ended && uv_hrtime() < end)
        client_turn(client);
    return client->ended;
}

/* A connection, a request with these further headers ("Name: value\r\n"), and its answer. */
static struct client ask(struct program *program, const char *method, const char *path,
                         const char *headers, struct reply *ret_reply)
{
    struct client client = client_open(program);
    char request[2048];
    size_t at = 0;

    (void)snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path,
                   headers);
    assert_true(client_say(&client, request));
    assert_true(await_reply(&client, &at, strcmp(method, "HEAD") == 0, ret_reply));
    assert_int_equal(client.size, at);
    return client;
}

static void assert_body(const struct reply *reply, const char *text)
{
    assert_int_equal(reply->body_size, strlen(text));
    assert_memory_equal(reply->body, text, strlen(text));
}

static void assert_header(const struct reply *reply, const char *name, const char *value)
{
    const char *found = reply_header(reply, name);

    assert_non_null(found);
    assert_string_equal(found, value);
}

/* The endpoint still works for somebody new. */
static void assert_alive(struct program *program)
{
    struct reply reply;
    struct client client = ask(program, "GET", "/-/healthy", "", &reply);

    assert_int_equal(reply.status, 200);
    client_close(&client);
}

/* ------------------------------------- pages ------------------------------------- */

static void test_metrics(void **state)
{
    struct reply reply;
    struct client client = ask(*state, "GET", "/metrics", "", &reply);

    assert_int_equal(reply.status, 200);
    assert_header(&reply, "Content-Type", TEXT_TYPE);
    assert_header(&reply, "Vary", "Accept, Accept-Encoding");
    assert_null(reply_header(&reply, "Content-Encoding"));
    assert_body(&reply, "a_metric 1\n");
    client_close(&client);

    client = ask(*state, "GET", "/metrics?x=1", "", &reply);
    assert_int_equal(reply.status, 200);
    client_close(&client);
}

static void test_pages(void **state)
{
    struct program *program = *state;
    struct reply reply;

    struct client client = ask(program, "GET", "/", "", &reply);
    assert_int_equal(reply.status, 200);
    assert_header(&reply, "Content-Type", "text/html; charset=utf-8");
    assert_memory_equal(reply.body, "<!DOCTYPE html>", strlen("<!DOCTYPE html>"));
    assert_non_null(strstr(reply.body, "a-program 1.2.3"));
    assert_non_null(strstr(reply.body, "<a href=\"/metrics\">"));
    assert_non_null(strstr(reply.body, "<a href=\"/-/healthy\">"));
    assert_non_null(strstr(reply.body, "<a href=\"/-/ready\">"));
    client_close(&client);

    client = ask(program, "GET", "/-/healthy", "", &reply);
    assert_int_equal(reply.status, 200);
    client_close(&client);

    client = ask(program, "GET", "/-/ready", "", &reply);
    assert_int_equal(reply.status, 503);
    client_close(&client);
    program->ready = true;
    client = ask(program, "GET", "/-/ready", "", &reply);
    assert_int_equal(reply.status, 200);
    client_close(&client);
    assert_int_equal(program->renders, 0);

    program->no_memory = true;
    client = ask(program, "GET", "/metrics", "", &reply);
    assert_int_equal(reply.status, 500);
    client_close(&client);
}

static void test_not_found(void **state)
{
    static const char *const paths[] = {"/metrics/",    "/Metrics", "/-/",
                                        "/favicon.ico", "//",       "/../metrics"};
    struct reply reply;

    for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
        struct client client = ask(*state, "GET", paths[i], "", &reply);
        assert_int_equal(reply.status, 404);
        client_close(&client);
    }
}

static void test_methods(void **state)
{
    static const char *const methods[] = {"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"};
    static const char *const paths[] = {"/metrics", "/", "/-/healthy", "/-/ready"};
    struct program *program = *state;
    struct reply reply;

    for (size_t i = 0; i < ELEMENTSOF(methods) * ELEMENTSOF(paths); i++) {
        struct client client = ask(program, methods[i / ELEMENTSOF(paths)],
                                   paths[i % ELEMENTSOF(paths)], "Content-Length: 0\r\n", &reply);
        assert_int_equal(reply.status, 405);
        assert_header(&reply, "Allow", "GET, HEAD");
        client_close(&client);
    }
    assert_int_equal(program->renders, 0);
}

/* HEAD says what GET would, and the connection is still in step after it. */
static void test_head(void **state)
{
    static const char *const paths[] = {"/metrics", "/", "/-/healthy", "/-/ready", "/nowhere"};
    struct reply get, head, after;

    for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
        struct client getter = ask(*state, "GET", paths[i], "Accept-Encoding: gzip\r\n", &get);
        struct client header = ask(*state, "HEAD", paths[i], "Accept-Encoding: gzip\r\n", &head);
        static const char *const names[] = {"Content-Type", "Content-Length", "Content-Encoding",
                                            "Vary"};
        assert_int_equal(head.status, get.status);
        for (size_t k = 0; k < ELEMENTSOF(names); k++) {
            char expected[512];
            const char *value = reply_header(&get, names[k]);
            if (value == NULL) {
                assert_null(reply_header(&head, names[k]));
                continue;
            }
            (void)snprintf(expected, sizeof(expected), "%s", value);
            assert_header(&head, names[k], expected);
        }
        size_t at = header.size;
        assert_true(client_say(&header, "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_true(await_reply(&header, &at, false, &after));
        assert_int_equal(after.status, 200);
        client_close(&getter);
        client_close(&header);
    }
}

/* ---------------------------------- negotiation ---------------------------------- */

static void test_accept(void **state)
{
    static const struct {
        const char *headers;
        bool openmetrics;
    } cases[] = {
        {"", false},
        {"Accept: */*\r\n", false},
        {"Accept: text/plain\r\n", false},
        {"Accept: application/json\r\n", false},
        {"Accept:\r\n", false},
        {"Accept: ,;,q=1,;;\r\n", false},
        {"Accept: application/openmetrics-text\r\n", true},
        {"Accept: APPLICATION/OpenMetrics-Text ; Version=1.0.0\r\n", true},
        {"Accept: application/openmetrics-text; version=\"1.0.0\"\r\n", true},
        {"Accept: application/openmetrics-text; version=0.0.1\r\n", false},
        {"Accept: application/openmetrics-text; version=2.0.0\r\n", false},
        {"Accept: application/openmetrics-text; q=0\r\n", false},
        {"Accept: application/openmetrics-text; q=0.000, */*; q=0.1\r\n", false},
        {"Accept: application/openmetrics-text; q=0.001\r\n", true},
        {"Accept: application/openmetrics-text; q=x\r\n", false},
        {"Accept: application/openmetrics-text, text/plain\r\n", true},
        {"Accept: application/openmetrics-text; q=0.5, text/plain\r\n", false},
        {"Accept: application/openmetrics-text; q=0.5, text/plain;q=0.49\r\n", true},
        {"Accept: application/openmetrics-text; q=0.5, text/*;q=0.6\r\n", false},
        {"Accept: text/plain;q=0.4, application/openmetrics-text; q=0.5, */*\r\n", true},
        {"Accept: text/plain;version=1.0.4, application/openmetrics-text;q=0.1\r\n", true},
        {"Accept: x/y;a=\",application/openmetrics-text\"\r\n", false},
        {"Accept: x/y;a=\"\\\",application/openmetrics-text\"\r\n", false},
        {"Accept: x/y;a=\"unfinished, application/openmetrics-text\r\n", false},
        {"Accept: text/plain;q=0.3\r\nAccept: application/openmetrics-text;q=0.5\r\n", true},
        /* Prometheus 2.42, 2.50 and 3 */
        {"Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
         "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n",
         true},
        {"Accept: application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;"
         "version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n",
         true},
        {"Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
         "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
         "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n",
         true},
    };
    struct reply reply;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct client client = ask(*state, "GET", "/metrics", cases[i].headers, &reply);
        if (strcmp(reply_header(&reply, "Content-Type"),
                   cases[i].openmetrics ? OPENMETRICS_TYPE : TEXT_TYPE) != 0)
            fail_msg("%s", cases[i].headers);
        assert_int_equal(reply.status, 200);
        assert_body(&reply, cases[i].openmetrics ? "a_metric 1\n# EOF\n" : "a_metric 1\n");
        client_close(&client);
    }
}

/* Unpacks a gzip body; the result is the caller's. */
static char *gunzip(const struct reply *reply, size_t size)
{
    z_stream stream = {
        .next_in = (Bytef *)(uintptr_t)reply->body,
        .avail_in = (uInt)reply->body_size,
    };
    char *text = malloc(size + 1);

    assert_non_null(text);
    assert_int_equal(inflateInit2(&stream, 15 + 16), Z_OK);
    stream.next_out = (Bytef *)text;
    stream.avail_out = (uInt)size + 1;
    assert_int_equal(inflate(&stream, Z_FINISH), Z_STREAM_END);
    assert_int_equal(stream.total_out, size);
    assert_int_equal(stream.avail_in, 0);
    assert_int_equal(inflateEnd(&stream), Z_OK);
    text[size] = '\0';
    return text;
}

static void test_accept_encoding(void **state)
{
    static const struct {
        const char *headers;
        bool gzip;
    } cases[] = {
        {"Accept-Encoding: gzip\r\n", true},
        {"Accept-Encoding: GZIP\r\n", true},
        {"Accept-Encoding: x-gzip\r\n", true},
        {"Accept-Encoding: deflate, gzip;q=0.5\r\n", true},
        {"Accept-Encoding: gzip;q=0\r\n", false},
        {"Accept-Encoding: gzip; q=0.0\r\n", false},
        {"Accept-Encoding: gzip;q=0, *\r\n", false},
        {"Accept-Encoding: *;q=0.1\r\n", true},
        {"Accept-Encoding: *;q=0\r\n", false},
        {"Accept-Encoding: *;q=0, gzip\r\n", true},
        {"Accept-Encoding: identity\r\n", false},
        {"Accept-Encoding: br, deflate\r\n", false},
        {"Accept-Encoding: gzipped\r\n", false},
        {"Accept-Encoding:\r\n", false},
    };
    struct reply reply;

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct client client = ask(*state, "GET", "/metrics", cases[i].headers, &reply);
        if ((reply_header(&reply, "Content-Encoding") != NULL) != cases[i].gzip)
            fail_msg("%s", cases[i].headers);
        if (cases[i].gzip) {
            assert_header(&reply, "Content-Encoding", "gzip");
            free(gunzip(&reply, strlen("a_metric 1\n")));
        } else {
            assert_body(&reply, "a_metric 1\n");
        }
        assert_header(&reply, "Vary", "Accept, Accept-Encoding");
        client_close(&client);
    }
}

static void test_large_gzip(void **state)
{
    struct program *program = *state;
    struct reply reply;

    program->text_size = 3000001;
    struct client client = ask(program, "GET", "/metrics", "Accept-Encoding: gzip\r\n", &reply);
    assert_true(reply.body_size < program->text_size / 20);
    char *text = gunzip(&reply, program->text_size);
    for (size_t i = 0; i < program->text_size; i++)
        assert_int_equal(text[i], "a_metric 1\n"[i % 11]);
    free(text);
    client_close(&client);
}

/* -------------------------------- requests of all sizes -------------------------------- */

/* A body is no harm, and its end is found. */
static void test_body(void **state)
{
    static char body[100 * 1024];
    static const struct {
        const char *method;
        int status;
    } cases[] = {{"POST", 405}, {"GET", 200}, {"PUT", 405}, {"HEAD", 200}};
    struct client client = client_open(*state);
    struct reply reply;
    size_t at = 0;

    memset(body, 'b', sizeof(body));
    for (size_t i = 0; i < 4 * ELEMENTSOF(cases); i++) {
        size_t k = i % ELEMENTSOF(cases);
        char request[256];

        (void)snprintf(request, sizeof(request),
                       "%s /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                       cases[k].method, sizeof(body));
        assert_true(client_say(&client, request));
        assert_true(client_send(&client, body, sizeof(body)));
        assert_true(await_reply(&client, &at, strcmp(cases[k].method, "HEAD") == 0, &reply));
        assert_int_equal(reply.status, cases[k].status);
        assert_int_equal(client.size, at);
    }
    client_close(&client);
}

static void test_expect(void **state)
{
    struct reply reply;
    struct client client = ask(*state, "POST", "/metrics",
                               "Expect: 100-continue\r\nContent-Length: 100000000\r\n", &reply);

    assert_int_equal(reply.status, 405);
    client_close(&client);
}

/* A body without end is cut off. */
static void test_endless_body(void **state)
{
    static char body[64 * 1024];
    struct client client = client_open(*state);
    size_t sent = 0;

    assert_true(client_say(&client, "POST /metrics HTTP/1.1\r\nHost: x\r\n"
                                    "Content-Length: 1000000000\r\n\r\n"));
    while (sent < 100 * 1024 * 1024 && client_send(&client, body, sizeof(body)))
        sent += sizeof(body);
    assert_true(sent < 100 * 1024 * 1024);
    client_close(&client);
    assert_alive(*state);
}

/* More headers than there is memory for: an error or the end, but not a hang. */
static void test_large_head(void **state)
{
    static char value[100 * 1024];
    struct client client = client_open(*state);
    struct reply reply;
    size_t at = 0;

    memset(value, 'v', sizeof(value));
    (void)client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\nX: ");
    (void)client_send(&client, value, sizeof(value));
    (void)client_say(&client, "\r\n\r\n");
    if (await_reply(&client, &at, false, &reply))
        assert_in_range(reply.status, 400, 499);
    assert_true(await_end(&client));
    client_close(&client);
    assert_alive(*state);
}

/* Eight kilobytes of headers are a proxy's ordinary business. */
static void test_long_headers(void **state)
{
    static char request[9 * 1024];
    struct client client = client_open(*state);
    struct reply reply;
    size_t at = 0;

    (void)snprintf(request, sizeof(request),
                   "GET /metrics HTTP/1.1\r\nHost: x\r\nCookie: %*s\r\n\r\n", 8000, "c");
    assert_true(client_say(&client, request));
    assert_true(await_reply(&client, &at, false, &reply));
    assert_int_equal(reply.status, 200);
    client_close(&client);
}

static void test_byte_by_byte(void **state)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    struct client client = client_open(*state);
    struct reply reply;
    size_t at = 0;

    for (size_t i = 0; i < sizeof(request) - 1; i++) {
        assert_true(client_send(&client, request + i, 1));
        client_turn(&client);
        client_turn(&client);
    }
    assert_true(await_reply(&client, &at, false, &reply));
    assert_int_equal(reply.status, 200);
    client_close(&client);
}

/* Requests that libmicrohttpd has read but not looked at, of which no descriptor tells. */
static void test_pipelined(void **state)
{
    static char requests[100 * 64];
    struct client client = client_open(*state);
    struct reply reply;
    size_t at = 0, size = 0;

    for (int i = 0; i < 100; i++)
        size += (size_t)snprintf(requests + size, sizeof(requests) - size,
                                 "GET %s HTTP/1.1\r\nHost: x\r\n\r\n",
                                 i % 2 == 0 ? "/metrics" : "/nowhere");
    assert_true(client_send(&client, requests, size));
    for (int i = 0; i < 100; i++) {
        assert_true(await_reply(&client, &at, false, &reply));
        assert_int_equal(reply.status, i % 2 == 0 ? 200 : 404);
    }
    assert_int_equal(client.size, at);
    client_close(&client);
}

static void test_garbage(void **state)
{
    static const char *const garbage[] = {
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /metrics HTTP/1.1\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"};

    for (size_t i = 0; i < ELEMENTSOF(garbage); i++) {
        struct client client = client_open(*state);
        assert_true(client_say(&client, garbage[i]));
        assert_alive(*state);
        client_close(&client);
    }
    assert_alive(*state);
}

/* ---------------------------------- many and slow ---------------------------------- */

static void test_many(void **state)
{
    struct program *program = *state;
    struct client client = client_open(program);
    struct reply reply;
    size_t at;

    program->text_size = 20000;
    for (int i = 0; i < 2000; i++) {
        client.size = at = 0;
        assert_true(client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_true(await_reply(&client, &at, false, &reply));
        assert_int_equal(reply.body_size, 20000);
    }
    client_close(&client);
    for (int i = 0; i < 1000; i++) {
        client = ask(program, "GET", "/metrics", "Connection: close\r\n", &reply);
        assert_true(await_end(&client));
        client_close(&client);
    }
    assert_int_equal(program->renders, 3000);
}

static void test_parallel(void **state)
{
    struct program *program = *state;
    struct client clients[50];
    struct reply reply;

    program->text_size = 500000;
    for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
        clients[i] = client_open(program);
        assert_true(client_say(&clients[i], "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    }
    for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
        size_t at = 0;
        assert_true(await_reply(&clients[i], &at, false, &reply));
        assert_int_equal(reply.body_size, 500000);
        client_close(&clients[i]);
    }
}

/* A client that doesn't read its answer keeps nobody waiting, and gets it whole later. */
static void test_slow(void **state)
{
    struct program *program = *state;
    struct client client = client_open(program);
    struct reply reply;
    size_t at = 0;

    program->text_size = 20 * 1024 * 1024;
    client.reading = false;
    assert_true(client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    while (program->renders == 0)
        client_turn(&client);
    for (int i = 0; i < 50; i++)
        assert_alive(program);
    client.reading = true;
    assert_true(await_reply(&client, &at, false, &reply));
    assert_int_equal(reply.body_size, 20 * 1024 * 1024);
    client_close(&client);
}

static void test_aborted(void **state)
{
    struct program *program = *state;

    program->text_size = 1000000;
    for (int i = 0; i < 300; i++) {
        struct client client = client_open(program);
        assert_true(client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        for (int turns = i % 5; turns > 0; turns--)
            client_turn(&client);
        if (i % 2 == 0) {
            struct linger reset = {.l_onoff = 1};
            (void)setsockopt(client.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        }
        client_close(&client);
    }
    assert_alive(program);
}

/* Silent connections give way, the longest silent first; one that is in use stays. */
static void test_silent(void **state)
{
    struct client silent[150], busy = client_open(*state);
    struct reply reply;
    size_t at = 0;

    for (size_t i = 0; i < ELEMENTSOF(silent); i++) {
        silent[i] = client_open(*state);
        assert_true(client_say(&busy, "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_true(await_reply(&busy, &at, false, &reply));
        assert_int_equal(reply.status, 200);
    }
    for (int i = 0; i < 10; i++)
        assert_alive(*state);
    assert_true(await_end(&silent[0]));
    client_turn(&silent[ELEMENTSOF(silent) - 1]);
    assert_false(silent[ELEMENTSOF(silent) - 1].ended);
    for (size_t i = 0; i < ELEMENTSOF(silent); i++)
        client_close(&silent[i]);
    client_close(&busy);
}

/* ---------------------------------- descriptors ---------------------------------- */

/* Takes all descriptors but `left`; returns how many were taken. */
static size_t exhaust_descriptors(int *fds, size_t size, size_t left, struct rlimit *ret_limit)
{
    struct rlimit limit;
    size_t count = 0;
    int highest = open("/dev/null", O_RDONLY | O_CLOEXEC);

    assert_int_equal(getrlimit(RLIMIT_NOFILE, ret_limit), 0);
    limit = *ret_limit;
    limit.rlim_cur = (rlim_t)highest + 32;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    (void)close(highest);
    while (count < size && (fds[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        count++;
    assert_true(count < size && errno == EMFILE && count >= left);
    for (; left > 0; left--)
        (void)close(fds[--count]);
    return count;
}

static void restore_descriptors(const int *fds, size_t count, const struct rlimit *limit)
{
    while (count > 0)
        (void)close(fds[--count]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, limit), 0);
}

static void on_enough(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

/* A client that can't be accepted for want of a descriptor waits; the loop sleeps meanwhile. */
static void test_no_descriptors(void **state)
{
    struct program *program = *state;
    int fds[64] = {0}, fd = new_socket();
    struct rlimit limit;
    struct reply reply;
    static uv_timer_t enough; /* closed after this function has returned */
    bool over = false;
    size_t at = 0;

    size_t count = exhaust_descriptors(fds, ELEMENTSOF(fds), 0, &limit);
    struct client client = client_on(program, fd);
    assert_true(client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    (void)uv_timer_stop(&program->tick);
    assert_int_equal(uv_timer_init(&program->loop, &enough), 0);
    enough.data = &over;
    assert_int_equal(uv_timer_start(&enough, on_enough, 500, 0), 0);
    uint64_t before = program->turns;
    log_set_level(LOG_ERR); /* it warns */
    while (!over)
        (void)uv_run(&program->loop, UV_RUN_ONCE);
    log_set_level(LOG_INFO);
    uint64_t turns = program->turns - before;
    restore_descriptors(fds, count, &limit);
    uv_close((uv_handle_t *)&enough, NULL);
    assert_int_equal(uv_timer_start(&program->tick, on_tick, 1, 1), 0);
    assert_int_equal(client.size, 0);
    assert_true(turns < 100);

    assert_true(await_reply(&client, &at, false, &reply));
    assert_int_equal(reply.status, 200);
    client_close(&client);
}

/* exporter_new() with too few descriptors fails and leaves nothing behind. */
static void test_new_fails(void **state)
{
    struct program *program = *state;
    struct exporter *first = program->exporter;
    struct sockaddr_in address = loopback(program->port);
    struct sockaddr_storage other = {.ss_family = AF_APPLETALK};
    int r = -1;

    assert_int_equal(start_exporter(program, (const struct sockaddr *)&address), -EADDRINUSE);
    assert_int_equal(start_exporter(program, (const struct sockaddr *)&other), -EAFNOSUPPORT);
    address = loopback(0);
    for (size_t left = 0; r < 0; left++) {
        struct rlimit limit;
        int fds[64] = {0};

        assert_true(left < 10);
        size_t count = exhaust_descriptors(fds, ELEMENTSOF(fds), left, &limit);
        r = start_exporter(program, (const struct sockaddr *)&address);
        restore_descriptors(fds, count, &limit);
        (void)uv_run(&program->loop, UV_RUN_NOWAIT);
        assert_true(r == 0 || left < 3);
    }
    assert_ptr_not_equal(program->exporter, first);
    (void)exporter_free(program->exporter);
    program->exporter = first;
    assert_alive(program);
}

/*
 * Connections of others may have taken all descriptors. Of those that the endpoint has itself the
 * one that is idle for longest makes room for a newcomer, and no other.
 */
static void test_no_descriptors_but_own(void **state)
{
    struct program *program = *state;
    struct client idle, busy, client;
    struct rlimit limit;
    struct reply reply;
    int fds[64] = {0}, fd;
    size_t at = 0;

    idle = ask(program, "GET", "/-/healthy", "", &reply);
    busy = ask(program, "GET", "/-/healthy", "", &reply);
    fd = new_socket();
    size_t count = exhaust_descriptors(fds, ELEMENTSOF(fds), 0, &limit);
    log_set_level(LOG_ERR); /* it warns */
    client = client_on(program, fd);
    assert_true(client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_true(await_reply(&client, &at, false, &reply));
    assert_int_equal(reply.status, 200);
    log_set_level(LOG_INFO);
    restore_descriptors(fds, count, &limit);
    assert_true(await_end(&idle));
    at = busy.size;
    assert_true(client_say(&busy, "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_true(await_reply(&busy, &at, false, &reply));
    client_close(&idle);
    client_close(&busy);
    client_close(&client);
}

/* ------------------------------------ access ------------------------------------ */

#define RIGHT_PASSWORD "Authorization: Basic c2NyYXBlcjpzZTpjcmV0\r\n" /* scraper:se:cret */

static void test_password(void **state)
{
    static const char *const wrong[] = {
        "",
        "Authorization: Basic c2NyYXBlcjpzZTpjcmU=\r\n",     /* scraper:se:cre */
        "Authorization: Basic c2NyYXBlcjpzZTpjcmV0MQ==\r\n", /* scraper:se:cret1 */
        "Authorization: Basic c2NyYXBlOnNlOmNyZXQ=\r\n",     /* scrape:se:cret */
        "Authorization: Basic U2NyYXBlcjpzZTpjcmV0\r\n",     /* Scraper:se:cret */
        "Authorization: Basic c2NyYXBlcjpTRTpDUkVU\r\n",     /* scraper:SE:CRET */
        "Authorization: Basic c2NyYXBlcjo=\r\n",             /* scraper: */
        "Authorization: Basic c2NyYXBlcg==\r\n",             /* scraper */
        "Authorization: Basic OnNlOmNyZXQ=\r\n",             /* :se:cret */
        "Authorization: Basic Og==\r\n",                     /* : */
        "Authorization: Basic \r\n",                         /* nothing */
        "Authorization: Basic\r\n",
        "Authorization: Basic !!!!\r\n",
        "Authorization: Bearer c2NyYXBlcjpzZTpjcmV0\r\n",
        "Authorization: \r\n",
    };
    static const char *const paths[] = {"/metrics", "/", "/nowhere"};
    struct program *program = *state;
    uint64_t refused = 0;
    struct reply reply;
    struct client client;

    program->user = "scraper";
    program->password = "se:cret";
    restart(program);
    for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
        client = ask(program, "GET", "/metrics", wrong[i], &reply);
        assert_int_equal(reply.status, 401);
        assert_header(&reply, "WWW-Authenticate", "Basic realm=\"a-program\", charset=\"UTF-8\"");
        assert_int_equal(exporter_refused(program->exporter), ++refused);
        client_close(&client);
    }
    for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
        client = ask(program, "GET", paths[i], "", &reply);
        assert_int_equal(reply.status, 401);
        client_close(&client);
        client = ask(program, "HEAD", paths[i], "", &reply);
        assert_int_equal(reply.status, 401);
        client_close(&client);
        client = ask(program, "GET", paths[i], RIGHT_PASSWORD, &reply);
        assert_int_equal(reply.status, strcmp(paths[i], "/nowhere") == 0 ? 404 : 200);
        client_close(&client);
    }
    assert_int_equal(exporter_refused(program->exporter), refused + 2 * ELEMENTSOF(paths));
    assert_int_equal(program->renders, 1);
}

/* Probes need none, and are not counted. */
static void test_password_of_probes(void **state)
{
    struct program *program = *state;
    struct reply reply;
    struct client client;

    program->user = "scraper";
    program->password = "se:cret";
    program->ready = true;
    restart(program);
    assert_alive(program);
    client = ask(program, "GET", "/-/ready", "Authorization: Basic bm86bm8=\r\n", &reply);
    assert_int_equal(reply.status, 200);
    client_close(&client);
    assert_int_equal(exporter_refused(program->exporter), 0);
}

/* Each request is judged for itself, also on one connection. */
static void test_password_each_time(void **state)
{
    static const char requests[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n" RIGHT_PASSWORD "\r\n"
                                   "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
                                   "GET /metrics HTTP/1.1\r\nHost: x\r\n" RIGHT_PASSWORD "\r\n";
    static const int statuses[] = {200, 401, 200};
    struct program *program = *state;
    struct client client;
    struct reply reply;
    size_t at = 0;

    program->user = "scraper";
    program->password = "se:cret";
    restart(program);
    client = client_open(program);
    assert_true(client_say(&client, requests));
    for (size_t i = 0; i < ELEMENTSOF(statuses); i++) {
        assert_true(await_reply(&client, &at, false, &reply));
        assert_int_equal(reply.status, statuses[i]);
    }
    client_close(&client);
}

static struct range range_of(const char *text)
{
    struct range range;
    const char *why;

    assert_int_equal(range_parse(text, strlen(text), &range, &why), 0);
    return range;
}

/* Whoever is not on the list is turned away before a byte of theirs is looked at. */
static void test_allow(void **state)
{
    const struct range allow[] = {range_of("127.1.2.0/24"), range_of("::1")};
    struct sockaddr_in from = loopback(0);
    struct program *program = *state;
    struct reply reply;
    size_t at = 0;

    program->allow = allow;
    program->allow_count = ELEMENTSOF(allow);
    restart(program);
    for (unsigned i = 1; i <= 3; i++) {
        struct client client = client_open(program);
        assert_true(await_end(&client));
        assert_int_equal(client.size, 0);
        assert_int_equal(exporter_refused(program->exporter), i);
        client_close(&client);
    }
    int fd = new_socket();
    from.sin_addr.s_addr = htonl(0x7f010203); /* 127.1.2.3 */
    assert_int_equal(bind(fd, (const struct sockaddr *)&from, sizeof(from)), 0);
    struct client client = client_on(program, fd);
    assert_true(client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_true(await_reply(&client, &at, false, &reply));
    assert_int_equal(reply.status, 200);
    assert_int_equal(exporter_refused(program->exporter), 3);
    client_close(&client);
}

/* A scrape on a connection that is open: its status, or 0 if it was closed. */
static int scrape_again(struct client *client, const char *headers)
{
    struct reply reply;
    size_t at = client->size;
    char request[256];

    (void)snprintf(request, sizeof(request), "GET /metrics HTTP/1.1\r\nHost: x\r\n%s\r\n", headers);
    if (!client_say(client, request) || !await_reply(client, &at, false, &reply))
        return 0;
    return reply.status;
}

/* What it was given before it never looks at again, be it freed. */
static void configure(struct program *program, const char *user, const char *password,
                      const struct range *allow, size_t allow_count)
{
    static char *own[2];
    static struct range *own_allow;
    struct exporter_options options = {.allow_count = allow_count};
    char *before[] = {own[0], own[1]};
    struct range *allow_before = own_allow;

    own[0] = user ? strdup(user) : NULL;
    own[1] = password ? strdup(password) : NULL;
    own_allow = allow_count ? malloc(allow_count * sizeof(*allow)) : NULL;
    if (own_allow)
        memcpy(own_allow, allow, allow_count * sizeof(*allow));
    options.user = own[0];
    options.password = own[1];
    options.allow = own_allow;
    exporter_configure(program->exporter, &options);
    free(before[0]);
    free(before[1]);
    free(allow_before);
}

/* Others may read from now on: the password is asked for at the next request of an open connection
 * too, addresses only where one is new. All else stays. */
static void test_configure(void **state)
{
    const struct range elsewhere = range_of("127.1.2.0/24");
    struct program *program = *state;
    struct client client = client_open(program), refused;

    assert_int_equal(scrape_again(&client, ""), 200);
    configure(program, "scraper", "se:cret", NULL, 0);
    assert_int_equal(scrape_again(&client, ""), 401);
    assert_int_equal(scrape_again(&client, RIGHT_PASSWORD), 200);
    configure(program, "scraper", "other", NULL, 0);
    assert_int_equal(scrape_again(&client, RIGHT_PASSWORD), 401);
    assert_int_equal(exporter_refused(program->exporter), 2);
    configure(program, NULL, NULL, &elsewhere, 1);
    assert_int_equal(scrape_again(&client, ""), 200);
    refused = client_open(program);
    assert_true(await_end(&refused));
    assert_int_equal(refused.size, 0);
    assert_int_equal(exporter_refused(program->exporter), 3);
    client_close(&refused);
    configure(program, NULL, NULL, NULL, 0);
    assert_alive(program);
    assert_int_equal(scrape_again(&client, ""), 200);
    assert_int_equal(exporter_refused(program->exporter), 3);
    client_close(&client);
}

/* At a Unix socket it is the same, and its file goes with it. */
static void test_unix(void **state)
{
    const struct range nobody = range_of("127.0.0.1"), local = range_of("unix");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct program *program = *state;
    struct reply reply;

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/test-exporter-%ld.sock",
                   (long)getpid());
    program->text_size = 5 * 1024 * 1024;
    program->allow = &local;
    for (program->allow_count = 0; program->allow_count < 2; program->allow_count++) {
        program->exporter = exporter_free(program->exporter);
        assert_int_equal(start_exporter(program, (const struct sockaddr *)&address), 0);
        for (int i = 0; i < 100; i++) {
            struct client client = {.program = program, .reading = true};
            size_t at = 0;

            client.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            assert_int_equal(connect(client.fd, (const struct sockaddr *)&address, sizeof(address)),
                             0);
            for (int k = 0; k < 2; k++) {
                assert_true(client_say(&client, i % 10 == 0
                                                    ? "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
                                                    : "GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
                assert_true(await_reply(&client, &at, false, &reply));
                assert_int_equal(reply.status, 200);
            }
            client_close(&client);
        }
        assert_int_equal(exporter_refused(program->exporter), 0);
    }
    program->exporter = exporter_free(program->exporter);
    assert_int_equal(access(address.sun_path, F_OK), -1);

    program->allow = &nobody;
    program->allow_count = 1;
    assert_int_equal(start_exporter(program, (const struct sockaddr *)&address), 0);
    struct client client = {.program = program, .reading = true};
    client.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(client.fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_true(await_end(&client));
    assert_int_equal(exporter_refused(program->exporter), 1);
    client_close(&client);
}

/* ------------------------------------ life ------------------------------------ */

/* "[::]" takes IPv4 too. */
static void test_dual_stack(void **state)
{
    struct program *program = *state;
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any};
    struct exporter *first = program->exporter;
    uint16_t first_port = program->port;

    assert_int_equal(start_exporter(program, (const struct sockaddr *)&address), 0);
    program->port = exporter_port(program->exporter);
    assert_true(program->port != 0 && program->port != first_port);
    assert_alive(program);

    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin6_addr = in6addr_loopback;
    address.sin6_port = htons(program->port);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) {
        struct client client = {.program = program, .fd = fd, .reading = true};
        struct reply reply;
        size_t at = 0;

        assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
        assert_true(client_say(&client, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_true(await_reply(&client, &at, false, &reply));
        assert_int_equal(reply.status, 200);
        client_close(&client);
    } else if (fd >= 0) {
        (void)close(fd);
    }
    (void)exporter_free(program->exporter);
    program->exporter = first;
}

/* Its end doesn't wait for anybody, and the port is free at once. */
static void test_end(void **state)
{
    struct program *program = *state;
    struct client clients[20];
    struct sockaddr_in address = loopback(program->port);

    program->text_size = 20 * 1024 * 1024;
    for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
        clients[i] = client_open(program);
        clients[i].reading = false;
        if (i % 4 == 1)
            assert_true(client_say(&clients[i], "GET /metrics HT"));
        if (i % 4 == 2)
            assert_true(client_say(&clients[i], "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        if (i % 4 == 3)
            assert_true(client_say(&clients[i], "POST / HTTP/1.1\r\nHost: x\r\n"
                                                "Content-Length: 100\r\n\r\nx"));
    }
    while (program->renders < ELEMENTSOF(clients) / 4)
        client_turn(&clients[0]);
    program->exporter = exporter_free(program->exporter);
    assert_null(program->exporter);
    assert_null(exporter_free(NULL));
    assert_int_equal(start_exporter(program, (const struct sockaddr *)&address), 0);
    assert_alive(program);
    for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
        clients[i].reading = true;
        assert_true(await_end(&clients[i]));
        client_close(&clients[i]);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_metrics),
        TEST(test_pages),
        TEST(test_not_found),
        TEST(test_methods),
        TEST(test_head),
        TEST(test_accept),
        TEST(test_accept_encoding),
        TEST(test_large_gzip),
        TEST(test_body),
        TEST(test_expect),
        TEST(test_endless_body),
        TEST(test_large_head),
        TEST(test_long_headers),
        TEST(test_byte_by_byte),
        TEST(test_pipelined),
        TEST(test_garbage),
        TEST(test_many),
        TEST(test_parallel),
        TEST(test_slow),
        TEST(test_aborted),
        TEST(test_silent),
        TEST(test_no_descriptors),
        TEST(test_no_descriptors_but_own),
        TEST(test_password),
        TEST(test_password_of_probes),
        TEST(test_password_each_time),
        TEST(test_allow),
        TEST(test_configure),
        TEST(test_unix),
        TEST(test_new_fails),
        TEST(test_dual_stack),
        TEST(test_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
