/*
 * An acceptor whose kernel has something to give, or an error: accept4() of this file stands in for
 * libc's.
 */
#include "base/acceptor.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define PER_TURN 4

static struct {
    int error;            /* what accept4() fails with; 0: it works */
    unsigned error_count; /* so often, then it works; 0: for ever */
    unsigned tries;
} kernel;

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    kernel.tries++;
    if (kernel.error) {
        errno = kernel.error;
        if (kernel.error_count > 0 && --kernel.error_count == 0)
            kernel.error = 0;
        return -1;
    }
    return (int)syscall(SYS_accept4, fd, address, size, flags);
}

struct bed {
    uv_loop_t loop;
    uv_timer_t patience;
    bool expired;
    struct acceptor *acceptor;
    struct endpoint endpoint;
    unsigned rest_ms;
    bool free_in_accepted;
    bool free_in_failed;

    unsigned accepted;
    unsigned failed;
    int failed_with;
    uint64_t failed_at_ms;
    uint64_t shortest_rest_ms;
    unsigned closed;
    char peer[ACCEPTOR_PEER_MAX];
};

static void on_accepted(void *context, int fd, const struct sockaddr *address)
{
    struct bed *bed = context;

    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    (void)acceptor_peer(fd, address, bed->peer);
    (void)close(fd);
    bed->accepted++;
    if (bed->free_in_accepted)
        bed->acceptor = acceptor_free(bed->acceptor);
}

static unsigned on_failed(void *context, int error)
{
    struct bed *bed = context;
    uint64_t now_ms = uv_now(&bed->loop);

    if (bed->failed > 0)
        bed->shortest_rest_ms = MIN(bed->shortest_rest_ms, now_ms - bed->failed_at_ms);
    bed->failed_at_ms = now_ms;
    bed->failed++;
    bed->failed_with = error;
    if (bed->free_in_failed)
        bed->acceptor = acceptor_free(bed->acceptor);
    return bed->rest_ms;
}

static void on_closed(void *context)
{
    ((struct bed *)context)->closed++;
}

static const struct acceptor_ops ops = {on_accepted, on_failed, on_closed};

static struct acceptor_options options_of(struct bed *bed)
{
    return (struct acceptor_options){.accepts_per_turn = PER_TURN, .ops = &ops, .context = bed};
}

static void on_expired(uv_timer_t *timer)
{
    ((struct bed *)timer->data)->expired = true;
}

static void bed_init(struct bed *bed, const struct endpoint *endpoint)
{
    const struct acceptor_options options = options_of(bed);

    *bed = (struct bed){.endpoint = *endpoint, .rest_ms = 5, .shortest_rest_ms = UINT64_MAX};
    memset(&kernel, 0, sizeof(kernel));
    assert_int_equal(uv_loop_init(&bed->loop), 0);
    assert_int_equal(uv_timer_init(&bed->loop, &bed->patience), 0);
    bed->patience.data = bed;
    assert_int_equal(acceptor_listen(&bed->acceptor, &bed->loop, endpoint, 256, &options), 0);
    assert_int_equal(acceptor_address(bed->acceptor, &bed->endpoint.address), 0);
}

static void bed_init_tcp(struct bed *bed)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    const struct endpoint endpoint = endpoint_at((const struct sockaddr *)&address);

    bed_init(bed, &endpoint);
}

/* At a new path, which goes to *ret_address. */
static void bed_init_unix(struct bed *bed, struct sockaddr_un *ret_address)
{
    static unsigned count;
    struct endpoint endpoint;

    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(ret_address->sun_path, sizeof(ret_address->sun_path),
                   "/tmp/test-acceptor-%ld-%u.sock", (long)getpid(), ++count);
    endpoint = endpoint_at((const struct sockaddr *)ret_address);
    bed_init(bed, &endpoint);
}

static void bed_deinit(struct bed *bed)
{
    bed->acceptor = acceptor_free(bed->acceptor);
    assert_null(bed->acceptor);
    uv_close((uv_handle_t *)&bed->patience, NULL);
    assert_int_equal(uv_run(&bed->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&bed->loop), 0);
    assert_int_equal(bed->closed, 1);
}

/* A socket that is connected, or a negative errno. */
static int try_connect(const struct bed *bed)
{
    const struct sockaddr *address = (const struct sockaddr *)&bed->endpoint.address;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    if (connect(fd, address, address_size(address)) == 0)
        return fd;
    int error = errno;
    (void)close(fd);
    return -error;
}

static void connect_all(const struct bed *bed, int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        fds[i] = try_connect(bed);
        assert_true(fds[i] >= 0);
    }
}

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]);
}

static void run_until(struct bed *bed, const unsigned *count, unsigned wanted)
{
    bed->expired = false;
    assert_int_equal(uv_timer_start(&bed->patience, on_expired, 10000, 0), 0);
    while (*count < wanted) {
        (void)uv_run(&bed->loop, UV_RUN_ONCE);
        assert_false(bed->expired);
    }
    (void)uv_timer_stop(&bed->patience);
}

/* -------------------------------- failures -------------------------------- */

static void test_shortage(void **state)
{
    static const int errors[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM};
    struct bed bed;
    int fd;

    for (size_t i = 0; i < ELEMENTSOF(errors); i++) {
        bed_init_tcp(&bed);
        connect_all(&bed, &fd, 1);
        kernel.error = errors[i];
        run_until(&bed, &bed.failed, 4);
        assert_int_equal(bed.failed_with, -errors[i]);
        assert_int_equal(kernel.tries, 4); /* one each time, with a rest between them */
        assert_true(bed.shortest_rest_ms >= bed.rest_ms);
        assert_int_equal(bed.accepted, 0);
        kernel.error = 0;
        run_until(&bed, &bed.accepted, 1);
        (void)close(fd);
        bed_deinit(&bed);
    }
}

/* Whoever asks for no rest gets one all the same: the loop has other things to do. */
static void test_no_rest(void **state)
{
    struct bed bed;
    int fd;

    bed_init_tcp(&bed);
    bed.rest_ms = 0;
    connect_all(&bed, &fd, 1);
    kernel.error = EMFILE;
    run_until(&bed, &bed.failed, 4);
    assert_true(bed.shortest_rest_ms >= 1);
    (void)close(fd);
    bed_deinit(&bed);
}

/* Without descriptors the kernel says so even when nobody waits: nobody was refused then. */
static void test_shortage_for_nobody(void **state)
{
    struct bed bed;

    bed_init_tcp(&bed);
    kernel.error = EMFILE;
    acceptor_take_waiting(bed.acceptor);
    assert_int_equal(kernel.tries, 1);
    assert_int_equal(bed.failed, 0);
    bed_deinit(&bed);
}

/* A connection that went by itself is no failure, and the next is taken in the same turn. */
static void test_gone(void **state)
{
    static const int errors[] = {ECONNABORTED, EINTR};
    struct bed bed;
    int fd;

    for (size_t i = 0; i < ELEMENTSOF(errors); i++) {
        bed_init_tcp(&bed);
        connect_all(&bed, &fd, 1);
        kernel.error = errors[i];
        kernel.error_count = PER_TURN - 1;
        run_until(&bed, &kernel.tries, 1);
        assert_int_equal(bed.accepted, 1);
        assert_int_equal(bed.failed, 0);
        (void)close(fd);
        bed_deinit(&bed);
    }
}

/* If they all went, the turn ends nevertheless. */
static void test_gone_for_ever(void **state)
{
    struct bed bed;
    int fd;

    bed_init_tcp(&bed);
    connect_all(&bed, &fd, 1);
    kernel.error = ECONNABORTED;
    (void)uv_run(&bed.loop, UV_RUN_ONCE);
    assert_int_equal(kernel.tries, PER_TURN);
    (void)close(fd);
    bed_deinit(&bed);
}

/* ---------------------------------- turns ---------------------------------- */

static void test_turns(void **state)
{
    int fds[2 * PER_TURN + 1];
    struct bed bed;

    bed_init_tcp(&bed);
    connect_all(&bed, fds, ELEMENTSOF(fds));
    (void)uv_run(&bed.loop, UV_RUN_ONCE);
    assert_int_equal(bed.accepted, PER_TURN);
    (void)uv_run(&bed.loop, UV_RUN_ONCE);
    assert_int_equal(bed.accepted, 2 * PER_TURN);
    run_until(&bed, &bed.accepted, ELEMENTSOF(fds));
    assert_int_equal(strncmp(bed.peer, "127.0.0.1:", strlen("127.0.0.1:")), 0);
    close_all(fds, ELEMENTSOF(fds));
    bed_deinit(&bed);
}

static void test_take_waiting(void **state)
{
    int fds[25 * PER_TURN];
    struct bed bed;

    bed_init_tcp(&bed);
    connect_all(&bed, fds, ELEMENTSOF(fds));
    acceptor_take_waiting(bed.acceptor);
    assert_int_equal(bed.accepted, ELEMENTSOF(fds));
    assert_int_equal(bed.failed, 0);
    bed.acceptor = acceptor_free(bed.acceptor);
    assert_int_equal(try_connect(&bed), -ECONNREFUSED); /* at once, before the loop runs */
    close_all(fds, ELEMENTSOF(fds));
    bed_deinit(&bed);
}

/* It does not insist. */
static void test_take_waiting_fails(void **state)
{
    struct bed bed;
    int fd;

    bed_init_tcp(&bed);
    connect_all(&bed, &fd, 1);
    kernel.error = EMFILE;
    acceptor_take_waiting(bed.acceptor);
    assert_int_equal(kernel.tries, 1);
    assert_int_equal(bed.failed, 1);
    assert_int_equal(bed.failed_with, -EMFILE);
    (void)close(fd);
    bed_deinit(&bed);
}

/* ---------------------------------- its end ---------------------------------- */

static void test_freed_in_accepted(void **state)
{
    int fds[PER_TURN];
    struct bed bed;

    for (int take_waiting = 0; take_waiting < 2; take_waiting++) {
        bed_init_tcp(&bed);
        bed.free_in_accepted = true;
        connect_all(&bed, fds, ELEMENTSOF(fds));
        if (take_waiting)
            acceptor_take_waiting(bed.acceptor);
        run_until(&bed, &bed.closed, 1);
        assert_null(bed.acceptor);
        assert_int_equal(bed.accepted, 1);
        assert_int_equal(kernel.tries, 1);
        close_all(fds, ELEMENTSOF(fds));
        bed_deinit(&bed);
    }
}

static void test_freed_in_failed(void **state)
{
    struct bed bed;
    int fd;

    for (int take_waiting = 0; take_waiting < 2; take_waiting++) {
        bed_init_tcp(&bed);
        bed.free_in_failed = true;
        kernel.error = EMFILE;
        connect_all(&bed, &fd, 1);
        if (take_waiting)
            acceptor_take_waiting(bed.acceptor);
        run_until(&bed, &bed.closed, 1);
        assert_null(bed.acceptor);
        assert_int_equal(bed.failed, 1);
        assert_int_equal(kernel.tries, 1);
        (void)close(fd);
        bed_deinit(&bed);
    }
}

static void test_freed_at_rest(void **state)
{
    struct bed bed;
    int fd;

    bed_init_tcp(&bed);
    bed.rest_ms = 60000;
    kernel.error = EMFILE;
    connect_all(&bed, &fd, 1);
    run_until(&bed, &bed.failed, 1);
    bed_deinit(&bed); /* which would wait for a minute */
    assert_int_equal(kernel.tries, 1);
    (void)close(fd);
}

static void test_freed_at_once(void **state)
{
    struct bed bed;

    bed_init_tcp(&bed);
    bed_deinit(&bed);
    assert_null(acceptor_free(NULL));
}

/* What cannot be watched is closed. */
static void test_not_a_socket(void **state)
{
    struct bed bed = {0};
    const struct acceptor_options options = options_of(&bed);
    struct acceptor *acceptor = NULL;
    uv_loop_t loop;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_true(acceptor_new(&acceptor, &loop, fd, &options) < 0);
    assert_null(acceptor);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_taken(void **state)
{
    struct bed bed;
    struct acceptor *second = NULL;

    bed_init_tcp(&bed);
    const struct acceptor_options options = options_of(&bed);
    assert_int_equal(acceptor_listen(&second, &bed.loop, &bed.endpoint, 1, &options), -EADDRINUSE);
    assert_null(second);
    bed_deinit(&bed);
}

/* -------------------------------- Unix sockets -------------------------------- */

static void test_unix(void **state)
{
    struct sockaddr_un address, found;
    char expected[ACCEPTOR_PEER_MAX];
    struct bed bed;
    int fd;

    bed_init_unix(&bed, &address);
    memcpy(&found, &bed.endpoint.address, sizeof(found));
    assert_string_equal(found.sun_path, address.sun_path);
    connect_all(&bed, &fd, 1);
    run_until(&bed, &bed.accepted, 1);
    (void)snprintf(expected, sizeof(expected), "unix:pid=%ld,uid=%lu", (long)getpid(),
                   (unsigned long)getuid());
    assert_string_equal(bed.peer, expected);
    (void)close(fd);
    bed.acceptor = acceptor_free(bed.acceptor);
    assert_int_equal(access(address.sun_path, F_OK), -1);
    bed_deinit(&bed);
}

/* Nobody comes after those that waited, so that nobody is lost between the two steps. */
static void test_unix_take_waiting(void **state)
{
    struct sockaddr_un address;
    int fds[3 * PER_TURN];
    struct bed bed;

    bed_init_unix(&bed, &address);
    connect_all(&bed, fds, ELEMENTSOF(fds));
    acceptor_take_waiting(bed.acceptor);
    assert_int_equal(bed.accepted, ELEMENTSOF(fds));
    assert_int_equal(try_connect(&bed), -ENOENT);
    close_all(fds, ELEMENTSOF(fds));
    bed_deinit(&bed);
}

/* A file that has been put in the place of the socket's is not ours to remove. */
static void test_unix_replaced(void **state)
{
    struct sockaddr_un address;
    struct bed bed, newer;

    bed_init_unix(&bed, &address);
    assert_int_equal(unlink(address.sun_path), 0);
    bed_init(&newer, &bed.endpoint);
    bed_deinit(&bed);
    assert_int_equal(access(address.sun_path, F_OK), 0);
    int fd = try_connect(&newer);
    assert_true(fd >= 0);
    (void)close(fd);
    bed_deinit(&newer);
    assert_int_equal(access(address.sun_path, F_OK), -1);
}

/* ------------------------- sockets of the service manager ------------------------- */

/* Takes what waits at a listening socket, as the next process does; how many there are. */
static unsigned take_all_from(int fd)
{
    unsigned count = 0;
    int taken;

    while ((taken = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        (void)close(taken);
        count++;
    }
    assert_int_equal(errno, EAGAIN);
    return count;
}

/*
 * It accepts as any other. At its end nothing is taken, nobody is refused, and a file stays; the
 * next who listens there serves them all.
 */
static void test_passed(void **state)
{
    const struct sockaddr_in ipv4 = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    struct endpoint endpoints[2];
    struct bed bed;
    int fds[5];

    (void)snprintf(path.sun_path, sizeof(path.sun_path), "/tmp/test-acceptor-%ld-passed.sock",
                   (long)getpid());
    endpoints[0] = endpoint_at((const struct sockaddr *)&ipv4);
    endpoints[1] = endpoint_at((const struct sockaddr *)&path);
    for (size_t i = 0; i < ELEMENTSOF(endpoints); i++) {
        struct endpoint passed = endpoints[i];

        passed.passed = endpoint_listen(&endpoints[i], 16);
        assert_true(passed.passed >= 0);
        bed_init(&bed, &passed);
        connect_all(&bed, fds, 1);
        run_until(&bed, &bed.accepted, 1);

        connect_all(&bed, fds + 1, 2);
        acceptor_take_waiting(bed.acceptor);
        assert_int_equal(bed.accepted, 1);
        bed.acceptor = acceptor_free(bed.acceptor);
        connect_all(&bed, fds + 3, 1);
        run_until(&bed, &bed.closed, 1);
        connect_all(&bed, fds + 4, 1);
        (void)uv_run(&bed.loop, UV_RUN_NOWAIT); /* which goes on */
        assert_int_equal(bed.accepted, 1);
        assert_int_equal(take_all_from(passed.passed), 4);
        (void)close(passed.passed);
        close_all(fds, ELEMENTSOF(fds));
        bed_deinit(&bed);
    }
    assert_int_equal(unlink(path.sun_path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shortage),
        cmocka_unit_test(test_no_rest),
        cmocka_unit_test(test_shortage_for_nobody),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_gone_for_ever),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_take_waiting),
        cmocka_unit_test(test_take_waiting_fails),
        cmocka_unit_test(test_freed_in_accepted),
        cmocka_unit_test(test_freed_in_failed),
        cmocka_unit_test(test_freed_at_rest),
        cmocka_unit_test(test_freed_at_once),
        cmocka_unit_test(test_not_a_socket),
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_unix_take_waiting),
        cmocka_unit_test(test_unix_replaced),
        cmocka_unit_test(test_passed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
