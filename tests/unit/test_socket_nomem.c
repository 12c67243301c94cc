/*
 * Listeners and sockets with the Nth allocation failing, for every N: they fail cleanly, and leave
 * no descriptor and no file behind.
 */
#include "net/listener.h"
#include "net/socket.h"

#include "base/util.h"
#include "failmalloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(directory);
    while (readdir(directory))
        count++;
    (void)closedir(directory);
    return count;
}

struct bed {
    uv_loop_t uv;
    struct loop loop;
    struct sockaddr_un address;
    unsigned connected;
    unsigned accepted;
    unsigned failed;
    int failed_with;
};

static bool on_admit(void *context, const struct sockaddr *address, const char *peer)
{
    return true;
}

static void on_transport_closed(void *user)
{
}

static void on_transport_written(void *user, int error)
{
}

static const struct transport_user nobody = {
    .written = on_transport_written,
    .closed = on_transport_closed,
};

static void on_accepted(void *context, struct transport *transport, const struct sockaddr *address,
                        const char *peer)
{
    ((struct bed *)context)->accepted++;
    transport->user_ops = &nobody;
    transport->ops->close(transport);
}

static void on_failed(void *context, const char *peer, int error)
{
    struct bed *bed = context;

    bed->failed++;
    bed->failed_with = error;
}

static const struct listener_ops listener_ops = {on_admit, on_accepted, on_failed};

static void bed_init(struct bed *bed)
{
    *bed = (struct bed){.address.sun_family = AF_UNIX};
    (void)snprintf(bed->address.sun_path, sizeof(bed->address.sun_path),
                   "/tmp/test-socket-nomem-%ld.sock", (long)getpid());
    assert_int_equal(uv_loop_init(&bed->uv), 0);
    assert_int_equal(loop_init(&bed->loop, &bed->uv), 0);
}

static void bed_deinit(struct bed *bed)
{
    loop_deinit(&bed->loop);
    assert_int_equal(uv_run(&bed->uv, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&bed->uv), 0);
}

static int listen_there(struct bed *bed, struct listener **ret_listener)
{
    const struct endpoint endpoint = endpoint_at((const struct sockaddr *)&bed->address);

    return listener_new(ret_listener, &bed->loop, &endpoint, &listener_ops, bed);
}

static void test_listener(void **state)
{
    struct listener *listener = NULL;
    struct bed bed;
    bool failed;
    size_t nth = 0;

    bed_init(&bed);
    unsigned before = open_descriptors();
    do {
        failmalloc_arm(++nth);
        int r = listen_there(&bed, &listener);
        failed = failmalloc_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        assert_int_equal(access(bed.address.sun_path, F_OK), failed ? -1 : 0);
        if (failed)
            assert_null(listener);
        listener = listener_free(listener);
        (void)uv_run(&bed.uv, UV_RUN_DEFAULT);
        assert_int_equal(open_descriptors(), before);
    } while (failed);
    assert_true(nth > 1);
    bed_deinit(&bed);
}

/* A connection that there is no memory for is told of, and the next is taken. */
static void test_accepted(void **state)
{
    struct listener *listener = NULL;
    struct bed bed;
    bool failed;
    size_t nth = 0;

    bed_init(&bed);
    assert_int_equal(listen_there(&bed, &listener), 0);
    do {
        unsigned done = bed.accepted + bed.failed;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        char byte;

        assert_int_equal(connect(fd, (const struct sockaddr *)&bed.address, sizeof(bed.address)),
                         0);
        failmalloc_arm(++nth);
        while (bed.accepted + bed.failed == done)
            (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
        failed = failmalloc_disarm();
        assert_int_equal(bed.failed, nth - !failed);
        (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
        assert_int_equal(read(fd, &byte, 1), 0); /* closed in both cases */
        (void)close(fd);
    } while (failed);
    assert_true(nth > 1);
    assert_int_equal(bed.failed_with, -ENOMEM);
    assert_int_equal(bed.accepted, 1);
    listener = listener_free(listener);
    bed_deinit(&bed);
}

static void on_connected(void *user, struct transport *transport, int error)
{
    assert_int_equal(error, 0);
    ((struct bed *)user)->connected++;
    transport->user_ops = &nobody;
    transport->ops->close(transport);
}

static void test_connect(void **state)
{
    struct socket_connect *connect_ = NULL;
    struct listener *listener = NULL;
    struct bed bed;
    bool failed;
    size_t nth = 0;

    bed_init(&bed);
    assert_int_equal(listen_there(&bed, &listener), 0);
    unsigned before = open_descriptors();
    do {
        assert_int_equal(open_descriptors(), before);
        failmalloc_arm(++nth);
        int r = socket_connect(&connect_, &bed.loop, (const struct sockaddr *)&bed.address,
                               on_connected, &bed);
        failed = failmalloc_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    } while (failed);
    assert_true(nth > 1);
    while (bed.connected == 0 || bed.accepted == 0)
        (void)uv_run(&bed.uv, UV_RUN_ONCE);
    listener = listener_free(listener);
    bed_deinit(&bed);
}

/* write() without the memory for a copy says so, and can be called again. */
static void test_write(void **state)
{
    static const uint8_t bytes[1000];
    struct transport *transport = NULL;
    struct bed bed;
    int fds[2];

    bed_init(&bed);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(socket_accepted(&transport, &bed.loop, fds[0]), 0);
    transport->user_ops = &nobody;
    failmalloc_arm(1);
    assert_int_equal(transport->ops->write(transport, bytes, sizeof(bytes)), -ENOMEM);
    assert_true(failmalloc_disarm());
    assert_int_equal(transport->ops->write(transport, bytes, sizeof(bytes)), 0);
    (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    transport->ops->close(transport);
    (void)close(fds[1]);
    bed_deinit(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_listener),
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_connect),
        cmocka_unit_test(test_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
