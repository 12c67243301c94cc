/*
 * A listener whose kernel has nothing to give: accept4() of this file stands in for libc's.
 */
#include "net/listener.h"

#include "base/acceptor.h"
#include "base/address.h"
#include "base/util.h"
#include "net/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
    int error; /* what accept4() fails with; 0: it works */
    unsigned tries;
    unsigned accepted;
    unsigned refused;
    int refused_with;
    bool full;
    char peer[ACCEPTOR_PEER_MAX];
    sa_family_t family;
    int client; /* where TCP's options are of interest */
    int nodelay;
    int unsent_max;
} seen;

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    seen.tries++;
    if (seen.error) {
        errno = seen.error;
        return -1;
    }
    return (int)syscall(SYS_accept4, fd, address, size, flags);
}

static bool on_admit(void *context, const struct sockaddr *address, const char *peer)
{
    (void)snprintf(seen.peer, sizeof(seen.peer), "%s", peer);
    seen.family = address->sa_family;
    if (seen.full)
        seen.refused++;
    return !seen.full;
}

static void on_transport_closed(void *user)
{
}

static const struct transport_user nobody = {.closed = on_transport_closed};

/* The option of TCP on the socket of this process that `fd` is connected to. */
static int option_of_peer(int fd, int name)
{
    struct sockaddr_in own, peer;
    socklen_t size = sizeof(own);
    int value = -1;

    assert_int_equal(getsockname(fd, (struct sockaddr *)&own, &size), 0);
    for (int other = 0; other < 64; other++) {
        size = sizeof(peer);
        if (getpeername(other, (struct sockaddr *)&peer, &size) < 0 || peer.sin_family != AF_INET ||
            peer.sin_port != own.sin_port)
            continue;
        size = sizeof(value);
        assert_int_equal(getsockopt(other, IPPROTO_TCP, name, &value, &size), 0);
        return value;
    }
    fail_msg("nobody has accepted it");
    return -1;
}

static void on_accepted(void *context, struct transport *transport, const struct sockaddr *address,
                        const char *peer)
{
    assert_string_equal(peer, seen.peer); /* as admitted */
    assert_int_equal(address->sa_family, seen.family);
    seen.accepted++;
    if (seen.client > 0) {
        seen.nodelay = option_of_peer(seen.client, TCP_NODELAY);
        seen.unsent_max = option_of_peer(seen.client, TCP_NOTSENT_LOWAT);
    }
    transport->user_ops = &nobody;
    transport->ops->close(transport);
}

static void on_failed(void *context, const char *peer, int error)
{
    seen.refused++;
    seen.refused_with = error;
}

static const struct listener_ops ops = {on_admit, on_accepted, on_failed};

struct bed {
    uv_loop_t uv;
    struct loop loop;
    struct listener *listener;
    struct sockaddr_storage address;
    uv_timer_t timer;
    bool expired;
};

static void bed_init_for(struct bed *bed, const struct endpoint *endpoint)
{
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(uv_loop_init(&bed->uv), 0);
    assert_int_equal(loop_init(&bed->loop, &bed->uv), 0);
    assert_int_equal(listener_new(&bed->listener, &bed->loop, endpoint, &ops, NULL), 0);
    assert_int_equal(listener_address(bed->listener, &bed->address), 0);
    assert_int_equal(uv_timer_init(&bed->uv, &bed->timer), 0);
    bed->timer.data = bed;
}

static void bed_init_at(struct bed *bed, const struct sockaddr *address)
{
    const struct endpoint endpoint = endpoint_at(address);

    bed_init_for(bed, &endpoint);
}

static void bed_init(struct bed *bed)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };

    bed_init_at(bed, (const struct sockaddr *)&address);
}

static void bed_deinit(struct bed *bed)
{
    bed->listener = listener_free(bed->listener);
    uv_close((uv_handle_t *)&bed->timer, NULL);
    loop_deinit(&bed->loop);
    assert_int_equal(uv_run(&bed->uv, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&bed->uv), 0);
}

static int connect_to(const struct bed *bed)
{
    const struct sockaddr *address = (const struct sockaddr *)&bed->address;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, address, address_size(address)), 0);
    return fd;
}

static void on_expired(uv_timer_t *timer)
{
    struct bed *bed = timer->data;

    bed->expired = true;
}

/* Runs the loop until `*count` is `wanted`, which must be before ten seconds are over. */
static void run_until(struct bed *bed, const unsigned *count, unsigned wanted)
{
    bed->expired = false;
    assert_int_equal(uv_timer_start(&bed->timer, on_expired, 10000, 0), 0);
    while (*count < wanted) {
        (void)uv_run(&bed->uv, UV_RUN_ONCE);
        assert_false(bed->expired);
    }
}

/* The loop must come round, and rest, or this test would never end. */
static void test_shortage(void **state)
{
    static const int errors[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM};
    struct bed bed;

    for (unsigned i = 0; i < ELEMENTSOF(errors); i++) {
        int fd;

        bed_init(&bed);
        fd = connect_to(&bed);
        seen.error = errors[i];
        run_until(&bed, &seen.refused, 3);
        assert_int_equal(seen.refused_with, -errors[i]);
        assert_int_equal(seen.tries, 3); /* one in each turn, with a rest between them */
        assert_int_equal(seen.accepted, 0);
        seen.error = 0;
        run_until(&bed, &seen.accepted, 1);
        (void)close(fd);
        bed_deinit(&bed);
    }
}

static void test_peer(void **state)
{
    struct bed bed;
    int fd;

    bed_init(&bed);
    fd = connect_to(&bed);
    run_until(&bed, &seen.accepted, 1);
    assert_int_equal(strncmp(seen.peer, "127.0.0.1:", strlen("127.0.0.1:")), 0);
    assert_int_equal(seen.family, AF_INET);
    (void)close(fd);
    bed_deinit(&bed);
}

static void test_freed_while_it_rests(void **state)
{
    struct bed bed;
    int fd;

    bed_init(&bed);
    fd = connect_to(&bed);
    seen.error = EMFILE;
    run_until(&bed, &seen.refused, 1);
    bed_deinit(&bed);
    (void)close(fd);
}

/* A connection that went by itself was not refused, and there is no need to rest. */
static void test_gone_before_accepted(void **state)
{
    struct bed bed;
    int fd;

    bed_init(&bed);
    fd = connect_to(&bed);
    seen.error = ECONNABORTED;
    run_until(&bed, &seen.tries, 2);
    assert_int_equal(seen.refused, 0);
    seen.error = 0;
    run_until(&bed, &seen.accepted, 1);
    (void)close(fd);
    bed_deinit(&bed);
}

/* Of a storm so many are accepted in one turn, and the others in the next. */
static void test_a_turn_has_an_end(void **state)
{
    int fds[150];
    struct bed bed;

    bed_init(&bed);
    for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
        fds[i] = connect_to(&bed);
    (void)uv_run(&bed.uv, UV_RUN_ONCE);
    assert_in_range(seen.accepted, 1, ELEMENTSOF(fds) - 1);
    run_until(&bed, &seen.accepted, ELEMENTSOF(fds));
    for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
        (void)close(fds[i]);
    bed_deinit(&bed);
}

static void test_full(void **state)
{
    struct bed bed;
    char byte;
    int fd;

    bed_init(&bed);
    seen.full = true;
    fd = connect_to(&bed);
    run_until(&bed, &seen.refused, 1);
    assert_int_equal(seen.refused_with, 0);
    assert_int_equal(read(fd, &byte, 1), 0);
    (void)close(fd);
    bed_deinit(&bed);
}

static void test_taken(void **state)
{
    struct listener *listener;
    struct endpoint endpoint;
    struct bed bed;

    bed_init(&bed);
    endpoint = endpoint_at((struct sockaddr *)&bed.address);
    assert_int_equal(listener_new(&listener, &bed.loop, &endpoint, &ops, NULL), -EADDRINUSE);
    bed_deinit(&bed);
}

/* Who waits when it ends thinks to be connected: each is admitted, or refused, as ever. */
static void test_waiting_at_the_end(void **state)
{
    int fds[150];
    struct bed bed;

    for (int full = 0; full < 2; full++) {
        bed_init(&bed);
        seen.full = full;
        for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
            fds[i] = connect_to(&bed);
        bed.listener = listener_free(bed.listener);
        assert_int_equal(full ? seen.refused : seen.accepted, ELEMENTSOF(fds));
        for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
            (void)close(fds[i]);
        bed_deinit(&bed);
    }
}

static void test_unix(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char expected[ACCEPTOR_PEER_MAX];
    struct bed bed;
    int fds[2];

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/test-listener-%ld.sock",
                   (long)getpid());
    (void)snprintf(expected, sizeof(expected), "unix:pid=%ld,uid=%lu", (long)getpid(),
                   (unsigned long)getuid());
    bed_init_at(&bed, (const struct sockaddr *)&address);
    fds[0] = connect_to(&bed);
    run_until(&bed, &seen.accepted, 1);
    assert_string_equal(seen.peer, expected);
    assert_int_equal(seen.family, AF_UNIX);
    fds[1] = connect_to(&bed); /* still waits when it ends */
    bed.listener = listener_free(bed.listener);
    assert_int_equal(seen.accepted, 2);
    assert_int_equal(access(address.sun_path, F_OK), -1);
    (void)close(fds[0]);
    (void)close(fds[1]);
    bed_deinit(&bed);
}

/* A bare socket, as a service manager makes it: nothing is set that its connections inherit. */
static int listen_barely(void)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

/* What is accepted is the same, whoever made the socket that listens. */
static void test_options_of_accepted(void **state)
{
    struct bed bed;

    for (int passed = 0; passed < 2; passed++) {
        const struct sockaddr_in any = {
            .sin_family = AF_INET,
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        };
        struct endpoint endpoint = endpoint_at((const struct sockaddr *)&any);

        if (passed)
            endpoint.passed = listen_barely();
        bed_init_for(&bed, &endpoint);
        seen.client = connect_to(&bed);
        run_until(&bed, &seen.accepted, 1);
        assert_int_equal(seen.nodelay, 1);
        assert_int_equal(seen.unsent_max, SOCKET_UNSENT_MAX);
        (void)close(seen.client);
        bed_deinit(&bed);
        if (passed)
            (void)close(endpoint.passed);
    }
}

/* Who waits at the end is for the next process. */
static void test_passed_at_the_end(void **state)
{
    struct endpoint endpoint = {.address.ss_family = AF_INET};
    struct bed bed;
    int fds[3];

    endpoint.passed = listen_barely();
    bed_init_for(&bed, &endpoint);
    for (unsigned i = 0; i < ELEMENTSOF(fds); i++)
        fds[i] = connect_to(&bed);
    bed.listener = listener_free(bed.listener);
    bed_deinit(&bed);
    assert_int_equal(seen.accepted, 0);
    assert_int_equal(seen.refused, 0);
    assert_int_equal(seen.tries, 0);
    for (unsigned i = 0; i < ELEMENTSOF(fds); i++) {
        int taken = accept4(endpoint.passed, NULL, NULL, SOCK_CLOEXEC);

        assert_true(taken >= 0);
        (void)close(taken);
        (void)close(fds[i]);
    }
    (void)close(endpoint.passed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shortage),
        cmocka_unit_test(test_peer),
        cmocka_unit_test(test_freed_while_it_rests),
        cmocka_unit_test(test_gone_before_accepted),
        cmocka_unit_test(test_a_turn_has_an_end),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_waiting_at_the_end),
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_options_of_accepted),
        cmocka_unit_test(test_passed_at_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
