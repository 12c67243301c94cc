/*
 * The server of gRPC's interoperability tests: TestService on the gRPC layer that stockd is made
 * of. It listens on the loopback, says where on standard output, and ends with SIGTERM or SIGINT.
 */
#include "rpc/server.h"
#include "base/credentials.h"
#include "base/endpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "service.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define STOP_TIMEOUT_MS 10000

struct options {
    const char *port;
    bool tls;
    const char *certificate;
    const char *key;
};

struct program {
    uv_loop_t uv;
    struct loop loop;
    struct server *server;
    struct credentials *credentials;
    bool stopping;
    uv_signal_t signals[2];
};

static const char usage[] =
    "Usage: interop-server [--port PORT] [--tls --certificate FILE --key FILE]\n";

static bool read_options(int argc, char **argv, struct options *ret_options)
{
    static const struct option names[] = {
        {"port", required_argument, NULL, 'p'},
        {"tls", no_argument, NULL, 't'},
        {"certificate", required_argument, NULL, 'c'},
        {"key", required_argument, NULL, 'k'},
        {0},
    };
    struct options options = {.port = "0"};
    int option;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'p':
            options.port = optarg;
            break;
        case 't':
            options.tls = true;
            break;
        case 'c':
            options.certificate = optarg;
            break;
        case 'k':
            options.key = optarg;
            break;
        default:
            return false;
        }
    }
    if (optind < argc || options.tls != (options.certificate != NULL) ||
        options.tls != (options.key != NULL))
        return false;
    *ret_options = options;
    return true;
}

/* 0, or a negative errno that the log has explained. */
static int read_credentials(struct program *program, const struct options *options)
{
    struct credentials_options files = {
        .certificate = options->certificate,
        .key = options->key,
        .client_certificate = CLIENT_CERTIFICATE_NO,
    };
    char why[CREDENTIALS_ERROR_MAX];
    int r;

    if (!options->tls)
        return 0;
    r = credentials_new(&program->credentials, &files, why);
    if (r < 0)
        log_error("%s", r == -EINVAL ? why : uv_strerror(r));
    return r;
}

static int listen_on(struct program *program, const char *port)
{
    char text[ADDRESS_TEXT_MAX];
    struct sockaddr_storage address;
    struct endpoint endpoint;
    const char *why;
    int r;

    (void)snprintf(text, sizeof(text), "127.0.0.1:%s", port);
    r = address_parse(text, strlen(text), &address, &why);
    if (r < 0) {
        log_error("--port: %s", why);
        return r;
    }
    endpoint = endpoint_at((struct sockaddr *)&address);
    endpoint.tls = program->credentials != NULL;
    r = server_listen(program->server, &endpoint, program->credentials, &address);
    if (r < 0) {
        log_error("cannot listen on %s: %s", text, uv_strerror(r));
        return r;
    }
    (void)printf("listening on %s\n", address_format((struct sockaddr *)&address, text));
    return fflush(stdout) == 0 ? 0 : -EIO;
}

static void close_signals(struct program *program)
{
    for (unsigned i = 0; i < ELEMENTSOF(program->signals); i++)
        loop_close_signal(&program->signals[i]);
}

static void on_stopped(void *context)
{
    close_signals(context);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct program *program = handle->data;

    if (program->stopping)
        return;
    program->stopping = true;
    server_stop(program->server, STOP_TIMEOUT_MS, on_stopped, program);
}

static void watch_signals(struct program *program)
{
    static const int numbers[] = {SIGTERM, SIGINT};

    for (unsigned i = 0; i < ELEMENTSOF(numbers); i++) {
        (void)uv_signal_init(&program->uv, &program->signals[i]);
        program->signals[i].data = program;
        (void)uv_signal_start(&program->signals[i], on_signal, numbers[i]);
    }
}

static int run(struct program *program, const struct options *options)
{
    /* What stockd has by default, where a case could feel it. */
    struct server_options server = {
        .methods = test_service_methods(),
        .max_connections = 100,
        .max_streams_total = 1000,
        .max_message_bytes = 4 * 1024 * 1024,
        .request_timeout_ms = 30000,
        .handshake_timeout_ms = 10000,
        .connection =
            {
                .max_streams = 100,
                .max_header_bytes = 8 * 1024,
                .preface_timeout_ms = 10000,
            },
    };
    int r = server_new(&program->server, &program->loop, &server);

    if (r >= 0)
        r = read_credentials(program, options);
    if (r >= 0)
        r = listen_on(program, options->port);
    if (r < 0)
        return r;
    watch_signals(program);
    (void)uv_run(&program->uv, UV_RUN_DEFAULT);
    return 0;
}

int main(int argc, char **argv)
{
    static struct program program;
    struct options options;
    int r;

    if (!read_options(argc, argv, &options)) {
        (void)fputs(usage, stderr);
        return 2;
    }
    log_open("interop-server");
    log_set_level(LOG_DEBUG);
    (void)signal(SIGPIPE, SIG_IGN);
    if (uv_loop_init(&program.uv) < 0 || loop_init(&program.loop, &program.uv) < 0) {
        log_error("cannot make an event loop");
        return EXIT_FAILURE;
    }
    r = run(&program, &options);
    server_free(program.server);
    credentials_unref(program.credentials);
    loop_deinit(&program.loop);
    (void)uv_run(&program.uv, UV_RUN_DEFAULT);
    (void)uv_loop_close(&program.uv);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
