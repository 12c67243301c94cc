/*
 * Dialling, and reading the command line, with the Nth allocation failing, for every N: each
 * attempt ends, once, one way or the other, and leaves nothing behind.
 */
#include "client/dial.h"

#include "base/credentials.h"
#include "base/util.h"
#include "client/command_updates.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#include "failmalloc.h"

struct scene {
    struct transport *client;
    unsigned connected, failed, closed;
    enum connect_outcome outcome;
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

static void on_connected(void *user, struct transport *transport, const char *peer)
{
    struct scene *scene = user;

    scene->connected++;
    scene->client = transport;
    transport->user = scene;
    transport->user_ops = &user_ops;
    transport->ops->close(transport);
}

static void on_failed(void *user, enum connect_outcome outcome, const char *error)
{
    struct scene *scene = user;

    scene->failed++;
    scene->outcome = outcome;
    assert_true(*error);
}

static const struct dial_ops ops = {.connected = on_connected, .failed = on_failed};

static void on_tick(uv_timer_t *timer)
{
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
}

/* A server that takes a connection and ends it at once. */
static void serve(int listening)
{
    int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        (void)close(fd);
}

/*
 * libuv aborts where its table of watched descriptors cannot grow, and which attempt that befalls
 * depends on how many descriptors this process was started with. So the table grows before.
 */
static void grow_table(uv_loop_t *uv, int listening)
{
    int high = fcntl(listening, F_DUPFD_CLOEXEC, 100);
    uv_poll_t poll;

    assert_true(high >= 0);
    assert_int_equal(uv_poll_init(uv, &poll, high), 0);
    assert_int_equal(uv_poll_start(&poll, UV_READABLE, on_poll), 0);
    uv_close((uv_handle_t *)&poll, NULL);
    assert_int_equal(uv_run(uv, UV_RUN_DEFAULT), 0);
    (void)close(high);
}

/* True if the Nth allocation of an attempt was reached, and so failed. */
static bool dial_with(size_t nth, const struct target *target, int listening,
                      struct credentials *credentials)
{
    const struct dial_tls tls = {.credentials = credentials};
    struct scene scene = {0};
    struct dial dial;
    struct loop loop;
    uv_loop_t uv;
    uv_timer_t tick;
    bool fired;

    assert_int_equal(uv_loop_init(&uv), 0);
    grow_table(&uv, listening);
    assert_int_equal(loop_init(&loop, &uv), 0);
    assert_int_equal(uv_timer_init(&uv, &tick), 0);
    assert_int_equal(uv_timer_start(&tick, on_tick, 1, 1), 0);
    dial_init(&dial, &loop, &tls, &ops, &scene);

    failmalloc_arm(nth);
    dial_start(&dial, target, loop_now_ms(&loop) + 15000);
    while (scene.connected + scene.failed == 0) {
        (void)uv_run(&uv, UV_RUN_ONCE);
        serve(listening);
    }
    fired = failmalloc_disarm();

    assert_int_equal(scene.connected + scene.failed, 1);
    dial_stop(&dial);
    assert_int_equal(dial.abandoned, 0);
    if (!fired && !credentials)
        assert_int_equal(scene.connected, 1);
    else if (!fired)
        assert_int_equal(scene.outcome, CONNECT_TLS_FAILED); /* the server is none */
    uv_close((uv_handle_t *)&tick, NULL);
    loop_deinit(&loop);
    assert_int_equal(uv_run(&uv, UV_RUN_DEFAULT), 0);
    assert_int_equal(scene.closed, scene.connected);
    assert_int_equal(uv_loop_close(&uv), 0);
    serve(listening);
    return fired;
}

static void dial_all(const struct target *target, int listening, struct credentials *credentials)
{
    size_t nth = 1;

    while (dial_with(nth, target, listening, credentials))
        nth++;
    assert_true(nth > 1);
}

static int listen_on(const char *text, struct target *ret_target)
{
    struct sockaddr_storage address;
    char bound[ADDRESS_TEXT_MAX];
    socklen_t size = sizeof(address);
    const char *why = NULL;
    int fd;

    assert_int_equal(address_parse(text, strlen(text), &address, &why), 0);
    fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address,
                          address_size((const struct sockaddr *)&address)),
                     0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)address_format((const struct sockaddr *)&address, bound);
    assert_int_equal(target_parse(ret_target, bound, &why), 0);
    return fd;
}

static void every_attempt_ends(void **state)
{
    /* What a client trusts is not what this is about: an authority of the system's, or none. */
    const struct credentials_options options = {.client = true};
    struct credentials *credentials = NULL;
    char error[CREDENTIALS_ERROR_MAX];
    char folder[] = "/tmp/test-dial-XXXXXX";
    char text[64];
    const char *texts[] = {"127.0.0.1:0", text};

    assert_non_null(mkdtemp(folder));
    (void)snprintf(text, sizeof(text), "unix:%s/socket", folder);
    assert_int_equal(credentials_new(&credentials, &options, error), 0);
    for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
        struct target target;
        int listening = listen_on(texts[i], &target);

        dial_all(&target, listening, NULL);
        dial_all(&target, listening, credentials);
        (void)close(listening);
        if (target.path[0])
            assert_int_equal(unlink(target.path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
    credentials_unref(credentials);
}

static void command_lines_are_read_whole_or_not(void **state)
{
    const char *const line[] = {"stock-client", "--cacert",      "ca.pem", "--cert",
                                "c.pem",        "--key",         "k.pem",  "--keepalive",
                                "1m",           "--server-name", "a",      "unix:b",
                                "--delay",      "1s:2s",         NULL};
    char *argv[ELEMENTSOF(line)];
    size_t nth = 1;
    bool fired;

    do {
        struct subscribe_options options;
        int r;

        /* It moves them. */
        memcpy(argv, line, sizeof(argv));
        optind = 0;
        failmalloc_arm(nth);
        r = subscribe_options_read(&options, &updates_command, ELEMENTSOF(line) - 1, argv);
        fired = failmalloc_disarm();
        assert_int_equal(r, fired ? -ENOMEM : OPTIONS_RUN);
        if (!fired) {
            assert_string_equal(options.client.connect.credentials.ca, "ca.pem");
            assert_string_equal(options.client.connect.target.name, "a");
        }
        subscribe_options_deinit(&options);
        nth++;
    } while (fired);
    assert_true(nth > 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_attempt_ends),
        cmocka_unit_test(command_lines_are_read_whole_or_not),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    if (uv_replace_allocator(malloc, realloc, calloc, free) != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
