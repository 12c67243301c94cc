/*
 * Sockets as transports, of both kinds: what comes and goes, how much the kernel swallows for a
 * peer that does not read, connecting, and giving that up.
 */
#include "net/socket.h"

#include "base/address.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* A transport and what its user has seen, in a loop of its own. */
struct bed {
    uv_loop_t uv;
    struct loop loop;
    uv_timer_t patience; /* makes the loop come back to the test */

    struct sockaddr_storage address; /* of `listening` */
    int listening;
    int peer; /* the other end of `transport` */
    struct transport *transport;

    unsigned connected; /* calls of on_connected() */
    int connect_error;
    size_t received;
    uint8_t last;
    bool ended;
    int ended_with;
    unsigned written;
    int written_with;
    unsigned closed;
};

static void on_received(void *user, const uint8_t *bytes, size_t size)
{
    struct bed *bed = user;

    bed->received += size;
    bed->last = bytes[size - 1];
}

static void on_ended(void *user, int error)
{
    struct bed *bed = user;

    bed->ended = true;
    bed->ended_with = error;
}

static void on_written(void *user, int error)
{
    struct bed *bed = user;

    bed->written++;
    bed->written_with = error;
}

static void on_closed(void *user)
{
    struct bed *bed = user;

    bed->closed++;
    bed->transport = NULL;
}

static const struct transport_user user_ops = {on_received, on_ended, on_written, on_closed};

static void use(struct bed *bed, struct transport *transport)
{
    bed->transport = transport;
    transport->user = bed;
    transport->user_ops = &user_ops;
    assert_int_equal(transport->ops->start(transport), 0);
}

static void on_connected(void *user, struct transport *transport, int error)
{
    struct bed *bed = user;

    bed->connected++;
    bed->connect_error = error;
    if (transport)
        use(bed, transport);
}

static void on_tick(uv_timer_t *timer)
{
}

#define RUN_UNTIL(bed, condition)                                                                  \
    do {                                                                                           \
        uint64_t end_ = uv_hrtime() + UINT64_C(10000000000);                                       \
        assert_int_equal(uv_timer_start(&(bed)->patience, on_tick, 1, 1), 0);                      \
        while (!(condition)) {                                                                     \
            (void)uv_run(&(bed)->uv, UV_RUN_ONCE);                                                 \
            assert_true(uv_hrtime() < end_);                                                       \
        }                                                                                          \
        (void)uv_timer_stop(&(bed)->patience);                                                     \
    } while (0)

static const int families[] = {AF_INET, AF_UNIX};

static void bed_init(struct bed *bed, int family)
{
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    socklen_t size;

    *bed = (struct bed){.peer = -1};
    assert_int_equal(uv_loop_init(&bed->uv), 0);
    assert_int_equal(loop_init(&bed->loop, &bed->uv), 0);
    assert_int_equal(uv_timer_init(&bed->uv, &bed->patience), 0);
    (void)snprintf(path.sun_path, sizeof(path.sun_path), "/tmp/test-socket-%ld.sock",
                   (long)getpid());
    if (family == AF_UNIX)
        memcpy(&bed->address, &path, sizeof(path));
    else
        memcpy(&bed->address, &tcp, sizeof(tcp));
    bed->listening = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size = address_size((const struct sockaddr *)&bed->address);
    assert_int_equal(bind(bed->listening, (const struct sockaddr *)&bed->address, size), 0);
    assert_int_equal(listen(bed->listening, 8), 0);
    size = sizeof(bed->address);
    assert_int_equal(getsockname(bed->listening, (struct sockaddr *)&bed->address, &size), 0);
}

/* A transport by socket_accepted(), whose peer is a plain socket. */
static void bed_init_accepted(struct bed *bed, int family)
{
    const struct sockaddr *address = (const struct sockaddr *)&bed->address;
    struct transport *transport = NULL;

    bed_init(bed, family);
    bed->peer = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(bed->peer, address, address_size(address)), 0);
    int fd = accept4(bed->listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(socket_accepted(&transport, &bed->loop, fd), 0);
    use(bed, transport);
    assert_int_equal(fcntl(bed->peer, F_SETFL, O_NONBLOCK), 0);
}

static void bed_deinit(struct bed *bed)
{
    if (bed->transport)
        bed->transport->ops->close(bed->transport);
    (void)close(bed->listening);
    if (bed->peer >= 0)
        (void)close(bed->peer);
    if (bed->address.ss_family == AF_UNIX)
        (void)unlink(((struct sockaddr_un *)(void *)&bed->address)->sun_path);
    uv_close((uv_handle_t *)&bed->patience, NULL);
    loop_deinit(&bed->loop);
    assert_int_equal(uv_run(&bed->uv, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&bed->uv), 0);
    assert_null(bed->transport);
}

/* Reads what is there; the number of bytes. */
static size_t drain_peer(struct bed *bed)
{
    static char bytes[65536];
    size_t total = 0;
    ssize_t size;

    while ((size = recv(bed->peer, bytes, sizeof(bytes), 0)) > 0)
        total += (size_t)size;
    return total;
}

static void test_both_ways(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct bed bed;
        char byte;

        bed_init_accepted(&bed, families[i]);
        assert_int_equal(send(bed.peer, "abc", 3, 0), 3);
        RUN_UNTIL(&bed, bed.received == 3);
        assert_int_equal(bed.last, 'c');
        assert_int_equal(bed.transport->ops->try_write(bed.transport, (const uint8_t *)"defg", 4),
                         4);
        assert_int_equal(drain_peer(&bed), 4);

        /* The end of each direction. */
        bed.transport->ops->shutdown(bed.transport);
        RUN_UNTIL(&bed, recv(bed.peer, &byte, 1, 0) == 0);
        assert_int_equal(shutdown(bed.peer, SHUT_WR), 0);
        RUN_UNTIL(&bed, bed.ended);
        assert_int_equal(bed.ended_with, 0);
        bed.transport->ops->close(bed.transport);
        bed.transport->ops->close(bed.transport); /* once is enough */
        assert_int_equal(bed.closed, 0);          /* not from inside */
        RUN_UNTIL(&bed, bed.closed == 1);
        bed_deinit(&bed);
    }
}

/*
 * A peer that never reads: the kernel takes so much, which is little and known before, and no more
 * comes until it reads; then all of it does, in order.
 */
static void test_no_reader(void **state)
{
    static uint8_t bytes[128 * 1024];

    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        size_t total = 0, got = 0;
        struct bed bed;

        bed_init_accepted(&bed, families[i]);
        struct transport *transport = bed.transport;
        size_t room = transport->ops->room(transport);
        assert_in_range(room, 64 * 1024, 512 * 1024);
        for (;;) {
            ssize_t taken = transport->ops->try_write(transport, bytes, sizeof(bytes));
            assert_true(taken >= 0);
            total += (size_t)taken;
            if ((size_t)taken < sizeof(bytes))
                break;
        }
        /* TCP's peer has a buffer of its own, of up to 6 MB where the kernel is left as it is. */
        assert_true(total <= (families[i] == AF_UNIX ? 512 * 1024 : 16 * 1024 * 1024));
        assert_true(transport->ops->room(transport) < 16 * 1024);

        bytes[sizeof(bytes) - 1] = 'z';
        assert_int_equal(transport->ops->write(transport, bytes, sizeof(bytes)), 0);
        (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
        assert_int_equal(bed.written, 0);
        RUN_UNTIL(&bed, (got += drain_peer(&bed)) == total + sizeof(bytes));
        RUN_UNTIL(&bed, bed.written == 1);
        assert_int_equal(bed.written_with, 0);
        assert_true(transport->ops->room(transport) >= 64 * 1024);
        bytes[sizeof(bytes) - 1] = 0;
        bed_deinit(&bed);
    }
}

/* What write() kept when its socket is closed goes with it, untold. */
static void test_closed_with_bytes_kept(void **state)
{
    static uint8_t bytes[128 * 1024];

    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct bed bed;

        bed_init_accepted(&bed, families[i]);
        while (bed.transport->ops->try_write(bed.transport, bytes, sizeof(bytes)) > 0)
            ;
        assert_int_equal(bed.transport->ops->write(bed.transport, bytes, sizeof(bytes)), 0);
        bed.transport->ops->close(bed.transport);
        RUN_UNTIL(&bed, bed.closed == 1);
        assert_int_equal(bed.written, 0);
        bed_deinit(&bed);
    }
}

/* A peer that is gone makes an error, not a signal. */
static void test_peer_gone(void **state)
{
    static uint8_t bytes[128 * 1024];

    (void)signal(SIGPIPE, SIG_IGN); /* as both programs do */
    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct bed bed;
        ssize_t taken = 0;

        bed_init_accepted(&bed, families[i]);
        (void)close(bed.peer);
        bed.peer = -1;
        RUN_UNTIL(&bed, bed.ended);
        RUN_UNTIL(&bed,
                  (taken = bed.transport->ops->try_write(bed.transport, bytes, sizeof(bytes))) < 0);
        assert_true(taken == -EPIPE || taken == -ECONNRESET);
        bed_deinit(&bed);
    }
}

/* Much that comes at once is delivered over several turns of the loop. */
static void test_share_of_a_turn(void **state)
{
    static uint8_t bytes[64 * 1024];

    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        const size_t wanted = 4 * 1024 * 1024;
        size_t sent = 0;
        struct bed bed;

        bed_init_accepted(&bed, families[i]);
        /* A loop does not turn for a socket that waits for its next turn alone. */
        assert_int_equal(uv_timer_start(&bed.patience, on_tick, 1, 1), 0);
        while (bed.received < wanted) {
            size_t before = bed.received;
            ssize_t size;

            while (sent < wanted && (size = send(bed.peer, bytes, sizeof(bytes), 0)) > 0)
                sent += (size_t)size;
            (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
            assert_true(bed.received - before < 256 * 1024);
        }
        bed_deinit(&bed);
    }
}

static void test_options(void **state)
{
    struct bed bed;
    int value = 0;
    socklen_t size = sizeof(value);
    int fds[2];

    /* The peer's end tells of the accepted one's nothing, so one more is looked at directly. */
    bed_init(&bed, AF_INET);
    const struct sockaddr *address = (const struct sockaddr *)&bed.address;
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fds[0], address, address_size(address)), 0);
    fds[1] = accept4(bed.listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_int_equal(socket_accepted(&bed.transport, &bed.loop, fds[1]), 0);
    use(&bed, bed.transport);
    assert_int_equal(getsockopt(fds[1], IPPROTO_TCP, TCP_NODELAY, &value, &size), 0);
    assert_true(value != 0);
    assert_int_equal(getsockopt(fds[1], IPPROTO_TCP, TCP_NOTSENT_LOWAT, &value, &size), 0);
    assert_int_equal(value, SOCKET_UNSENT_MAX);
    (void)close(fds[0]);
    bed_deinit(&bed);
}

/* It is closed where it cannot be used. */
static void test_no_socket(void **state)
{
    struct transport *transport = NULL;
    struct bed bed;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    bed_init(&bed, AF_INET);
    assert_int_equal(socket_accepted(&transport, &bed.loop, fd), -ENOTSOCK);
    assert_null(transport);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    bed_deinit(&bed);
}

/* -------------------------------- connecting -------------------------------- */

static void test_connect(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct socket_connect *connect_ = NULL;
        struct bed bed;

        bed_init(&bed, families[i]);
        assert_int_equal(socket_connect(&connect_, &bed.loop, (const struct sockaddr *)&bed.address,
                                        on_connected, &bed),
                         0);
        assert_int_equal(bed.connected, 0); /* not from inside */
        RUN_UNTIL(&bed, bed.connected == 1);
        assert_int_equal(bed.connect_error, 0);
        assert_non_null(bed.transport);
        bed.peer = accept4(bed.listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        assert_true(bed.peer >= 0);
        assert_true(bed.transport->ops->room(bed.transport) >= 64 * 1024);
        assert_int_equal(bed.transport->ops->try_write(bed.transport, (const uint8_t *)"x", 1), 1);
        assert_int_equal(drain_peer(&bed), 1);
        bed_deinit(&bed);
    }
}

static void test_connect_refused(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct socket_connect *connect_ = NULL;
        struct bed bed;

        bed_init(&bed, families[i]);
        (void)close(bed.listening); /* of a Unix socket the file stays */
        bed.listening = -1;
        assert_int_equal(socket_connect(&connect_, &bed.loop, (const struct sockaddr *)&bed.address,
                                        on_connected, &bed),
                         0);
        RUN_UNTIL(&bed, bed.connected == 1);
        assert_int_equal(bed.connect_error, -ECONNREFUSED);
        assert_null(bed.transport);
        bed_deinit(&bed);
    }
}

static void test_connect_cancelled(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(families); i++) {
        struct socket_connect *connect_ = NULL;
        struct bed bed;

        bed_init(&bed, families[i]);
        assert_int_equal(socket_connect(&connect_, &bed.loop, (const struct sockaddr *)&bed.address,
                                        on_connected, &bed),
                         0);
        socket_connect_cancel(connect_);
        for (int turn = 0; turn < 10; turn++)
            (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
        assert_int_equal(bed.connected, 0);
        bed_deinit(&bed);
    }
}

/* A path is used whole or not at all. */
static void test_connect_paths(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct socket_connect *connect_ = NULL;
    struct bed bed;

    bed_init(&bed, AF_UNIX);
    assert_int_equal(
        socket_connect(&connect_, &bed.loop, (const struct sockaddr *)&address, on_connected, &bed),
        -EINVAL);
    memset(address.sun_path, 'x', sizeof(address.sun_path));
    assert_int_equal(
        socket_connect(&connect_, &bed.loop, (const struct sockaddr *)&address, on_connected, &bed),
        -ENAMETOOLONG);
    (void)uv_run(&bed.uv, UV_RUN_NOWAIT);
    assert_int_equal(bed.connected, 0);

    /* The longest that there is, where nobody is. */
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/%0*d",
                   (int)ADDRESS_PATH_MAX - 5, 0);
    assert_int_equal(strlen(address.sun_path), ADDRESS_PATH_MAX);
    assert_int_equal(
        socket_connect(&connect_, &bed.loop, (const struct sockaddr *)&address, on_connected, &bed),
        0);
    RUN_UNTIL(&bed, bed.connected == 1);
    assert_int_equal(bed.connect_error, -ENOENT);
    bed_deinit(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_no_reader),
        cmocka_unit_test(test_closed_with_bytes_kept),
        cmocka_unit_test(test_peer_gone),
        cmocka_unit_test(test_share_of_a_turn),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_no_socket),
        cmocka_unit_test(test_connect),
        cmocka_unit_test(test_connect_refused),
        cmocka_unit_test(test_connect_cancelled),
        cmocka_unit_test(test_connect_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
