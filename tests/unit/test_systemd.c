/*
 * What a service manager passes and is told, with this test in its place.
 *
 * Sockets are passed as descriptors 3 and so on; these tests come first, since the socket that
 * messages go out on stays open from the first of them.
 */
#include "base/systemd.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define FIRST 3
#define AWAY 200 /* descriptors from here on are in nobody's way */
#define PATIENCE_S 20

/* ---- Sockets ---- */

static int away(int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, AWAY);

    assert_true(fd >= 0 && moved >= AWAY);
    (void)close(fd);
    return moved;
}

static int make(int family, int type, const void *address, socklen_t size, bool listens)
{
    int fd = away(socket(family, type, 0));

    if (address)
        assert_int_equal(bind(fd, address, size), 0);
    if (listens)
        assert_int_equal(listen(fd, 5), 0);
    return fd;
}

static int make_ipv4(int type, bool listens)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };

    return make(AF_INET, type, &address, sizeof address, listens);
}

static void set(const char *name, const char *value)
{
    assert_int_equal(value ? setenv(name, value, 1) : unsetenv(name), 0);
}

/* Passes `fds` as the manager does, and closes them here. */
static void pass(const int *fds, int count, const char *names)
{
    char text[32];

    for (int i = 0; i < count; i++) {
        assert_int_equal(dup2(fds[i], FIRST + i), FIRST + i);
        (void)close(fds[i]);
    }
    (void)snprintf(text, sizeof text, "%ld", (long)getpid());
    set("LISTEN_PID", text);
    (void)snprintf(text, sizeof text, "%d", count);
    set("LISTEN_FDS", text);
    set("LISTEN_FDNAMES", names);
}

static void close_passed(int count)
{
    for (int i = 0; i < count; i++)
        (void)close(FIRST + i);
}

static void assert_environment_clean(void)
{
    assert_null(getenv("LISTEN_PID"));
    assert_null(getenv("LISTEN_FDS"));
    assert_null(getenv("LISTEN_FDNAMES"));
}

static void test_takes_sockets(void **state)
{
    const struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_un unix_address = {.sun_family = AF_UNIX}, found;
    struct systemd_sockets sockets, again;
    char error[SYSTEMD_ERROR_MAX] = "";
    int fds[3];

    (void)snprintf(unix_address.sun_path, sizeof unix_address.sun_path,
                   "/tmp/test-systemd-%ld.sock", (long)getpid());
    fds[0] = make_ipv4(SOCK_STREAM, true);
    fds[1] = make(AF_INET6, SOCK_STREAM, &ipv6, sizeof ipv6, true);
    fds[2] = make(AF_UNIX, SOCK_STREAM, &unix_address, sizeof unix_address, true);
    pass(fds, 3, "grpc:metrics:odd name");

    assert_int_equal(systemd_sockets_take(&sockets, error), 0);
    assert_int_equal(sockets.count, 3);
    assert_string_equal(error, "");
    assert_environment_clean();
    for (int i = 0; i < 3; i++) {
        assert_int_equal(sockets.sockets[i].fd, FIRST + i);
        assert_true(fcntl(FIRST + i, F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(FIRST + i, F_GETFD) & FD_CLOEXEC);
    }
    assert_string_equal(sockets.sockets[0].name, "grpc");
    assert_string_equal(sockets.sockets[1].name, "metrics");
    assert_string_equal(sockets.sockets[2].name, "odd name");
    assert_int_equal(sockets.sockets[0].address.ss_family, AF_INET);
    assert_int_equal(sockets.sockets[1].address.ss_family, AF_INET6);
    memcpy(&found, &sockets.sockets[2].address, sizeof found);
    assert_int_equal(found.sun_family, AF_UNIX);
    assert_string_equal(found.sun_path, unix_address.sun_path);

    assert_int_equal(systemd_sockets_take(&again, error), 0);
    assert_int_equal(again.count, 0);
    assert_null(again.sockets);
    free(sockets.sockets);
    close_passed(3);
    (void)unlink(unix_address.sun_path);
}

/* Neither without a manager, nor what another process was passed. */
static void test_no_sockets(void **state)
{
    struct systemd_sockets sockets = {.count = 7};
    char error[SYSTEMD_ERROR_MAX];
    int fd;

    assert_environment_clean();
    assert_int_equal(systemd_sockets_take(&sockets, error), 0);
    assert_int_equal(sockets.count, 0);
    assert_null(sockets.sockets);

    fd = make_ipv4(SOCK_STREAM, true);
    pass(&fd, 1, "grpc");
    set("LISTEN_PID", "1");
    assert_int_equal(systemd_sockets_take(&sockets, error), 0);
    assert_int_equal(sockets.count, 0);
    assert_environment_clean();
    close_passed(1);
}

/* Without names, which systemd always gives but others may not. */
static void test_no_names(void **state)
{
    struct systemd_sockets sockets;
    char error[SYSTEMD_ERROR_MAX];
    int fd = make_ipv4(SOCK_STREAM, true);

    pass(&fd, 1, NULL);
    assert_int_equal(systemd_sockets_take(&sockets, error), 0);
    assert_int_equal(sockets.count, 1);
    assert_string_equal(sockets.sockets[0].name, "unknown");
    free(sockets.sockets);
    close_passed(1);
}

static void assert_refused(const int *fds, int count, const char *names, const char *why)
{
    struct systemd_sockets sockets = {.count = 7};
    char error[SYSTEMD_ERROR_MAX] = "";

    pass(fds, count, names);
    assert_int_equal(systemd_sockets_take(&sockets, error), -EINVAL);
    if (!strstr(error, why))
        fail_msg("\"%s\" does not say \"%s\"", error, why);
    assert_int_equal(sockets.count, 7);
    assert_environment_clean();
    close_passed(count);
}

static void test_bad_sockets(void **state)
{
    int pair[2], fds[2];

    fds[0] = make_ipv4(SOCK_STREAM, false);
    assert_refused(fds, 1, "grpc", "\"grpc\", does not listen (its unit needs Accept=no)");

    /* The second of two is the one that is named. */
    fds[0] = make_ipv4(SOCK_STREAM, true);
    fds[1] = make_ipv4(SOCK_DGRAM, false);
    assert_refused(fds, 2, "grpc:metrics",
                   "descriptor 4 that the service manager passes, "
                   "\"metrics\", is no stream socket");

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    fds[0] = away(pair[0]);
    assert_refused(fds, 1, "grpc", "does not listen");
    (void)close(pair[1]);

    fds[0] = make(AF_UNIX, SOCK_SEQPACKET, NULL, 0, false);
    assert_refused(fds, 1, "grpc", "is no stream socket");

    fds[0] = make(AF_NETLINK, SOCK_RAW, NULL, 0, false);
    assert_refused(fds, 1, "grpc", "is neither an IP nor a Unix socket");

    assert_int_equal(pipe(pair), 0);
    fds[0] = away(pair[0]);
    assert_refused(fds, 1, "grpc", "is no socket");
    (void)close(pair[1]);
}

static void test_bad_environment(void **state)
{
    struct systemd_sockets sockets = {0};
    char error[SYSTEMD_ERROR_MAX];
    char name[SYSTEMD_NAME_MAX + 1];
    int fds[SYSTEMD_SOCKETS_MAX + 1];

    fds[0] = make_ipv4(SOCK_STREAM, true);
    assert_refused(fds, 1, "grpc:metrics", "LISTEN_FDNAMES do not agree");

    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    fds[0] = make_ipv4(SOCK_STREAM, true);
    assert_refused(fds, 1, name, "has too long a name");
    name[sizeof name - 2] = '\0'; /* the longest that there may be */
    fds[0] = make_ipv4(SOCK_STREAM, true);
    pass(fds, 1, name);
    assert_int_equal(systemd_sockets_take(&sockets, error), 0);
    assert_string_equal(sockets.sockets[0].name, name);
    free(sockets.sockets);
    close_passed(1);

    /* A descriptor that is not there. */
    pass(fds, 0, NULL);
    set("LISTEN_FDS", "1");
    (void)close(FIRST);
    assert_int_equal(systemd_sockets_take(&sockets, error), -EINVAL);
    assert_non_null(strstr(error, "do not say what is there"));
    assert_environment_clean();

    for (int i = 0; i < SYSTEMD_SOCKETS_MAX + 1; i++)
        fds[i] = make_ipv4(SOCK_STREAM, true);
    assert_refused(fds, SYSTEMD_SOCKETS_MAX + 1, NULL, "65 sockets, more than 64");
}

/* A program that is started by this one finds neither the sockets nor anything said of them. */
static void test_children(void **state)
{
    struct systemd_sockets sockets;
    static char name[] = "sh", option[] = "-c",
                script[] = "test -e /proc/self/fd/1 -a ! -e /proc/self/fd/3 -a -z \"$LISTEN_FDS\"";
    char *const shell[] = {name, option, script, NULL};
    char error[SYSTEMD_ERROR_MAX];
    int fd = make_ipv4(SOCK_STREAM, true);
    pid_t child;
    int status;

    pass(&fd, 1, "grpc");
    assert_int_equal(systemd_sockets_take(&sockets, error), 0);
    assert_int_equal(posix_spawn(&child, "/bin/sh", NULL, NULL, shell, environ), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    free(sockets.sockets);
    close_passed(1);
}

/* ---- Messages ---- */

/* A manager's socket at this path, or, where it begins with '@', without a file. */
static int manager_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    int yes = 1;
    int fd;

    memcpy(address.sun_path, path, strlen(path));
    if (*path == '@')
        address.sun_path[0] = '\0';
    fd = make(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, &address, size, false);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes), 0);
    set("NOTIFY_SOCKET", path);
    return fd;
}

/* The next message has this text, and comes from this process: the manager asks for that. */
static void assert_told(int manager, const char *text)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    char told[4096];
    struct iovec vector = {told, sizeof told};
    struct msghdr message = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    ssize_t size = recvmsg(manager, &message, 0);
    struct ucred sender;

    assert_true(size >= 0 && size < (ssize_t)sizeof told);
    told[size] = '\0';
    assert_string_equal(told, text);
    assert_non_null(CMSG_FIRSTHDR(&message));
    memcpy(&sender, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof sender);
    assert_int_equal(sender.pid, getpid());
}

static void assert_told_nothing(int manager)
{
    char told[1];

    assert_int_equal(recv(manager, told, sizeof told, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

/* `start` makes it a file or a name. */
static void path_of(char *path, size_t size, const char *start)
{
    (void)snprintf(path, size, "%stest-systemd-%ld", start, (long)getpid());
    (void)unlink(path);
}

static void test_nobody_to_tell(void **state)
{
    static const char *const none[] = {NULL, "", "/", "@", "run/notify", "vsock:2:1234"};
    char path[2 + sizeof((struct sockaddr_un *)NULL)->sun_path];

    for (size_t i = 0; i < ELEMENTSOF(none); i++) {
        set("NOTIFY_SOCKET", none[i]);
        assert_false(systemd_wants_to_know());
        assert_true(systemd_notify("READY=1"));
    }
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0'; /* a byte more than there is room for */
    set("NOTIFY_SOCKET", path);
    assert_false(systemd_wants_to_know());
    path[sizeof path - 2] = '\0';
    set("NOTIFY_SOCKET", path);
    assert_true(systemd_wants_to_know());
    set("NOTIFY_SOCKET", NULL);
}

static void test_tells(void **state)
{
    static const char *const starts[] = {"/tmp/", "@"};
    char path[64], text[2048];

    for (size_t i = 0; i < ELEMENTSOF(starts); i++) {
        path_of(path, sizeof path, starts[i]);
        int manager = manager_at(path);

        assert_true(systemd_wants_to_know());
        assert_true(systemd_notify("READY=1\nSTATUS=%d %s", 12, "streams"));
        assert_true(systemd_notify("WATCHDOG=1"));
        assert_told(manager, "READY=1\nSTATUS=12 streams");
        assert_told(manager, "WATCHDOG=1");
        assert_told_nothing(manager);

        memset(text, 'x', sizeof text - 1);
        text[sizeof text - 1] = '\0';
        assert_true(systemd_notify("%s", text));
        text[1023] = '\0';
        assert_told(manager, text);
        (void)close(manager);
        (void)unlink(path);
    }
    set("NOTIFY_SOCKET", NULL);
}

/* That it ends at all is what is tested: a manager that does not read is not waited for. */
static void test_never_waits(void **state)
{
    char path[64];
    int manager;
    unsigned told = 0;

    path_of(path, sizeof path, "/tmp/");
    manager = manager_at(path);
    (void)alarm(PATIENCE_S);
    while (systemd_notify("WATCHDOG=1"))
        told++;
    assert_true(told > 0);
    assert_false(systemd_notify("STOPPING=1"));
    for (unsigned i = 0; i < told; i++)
        assert_told(manager, "WATCHDOG=1");
    assert_told_nothing(manager);
    assert_true(systemd_notify("STOPPING=1"));
    assert_told(manager, "STOPPING=1");
    (void)alarm(0);

    /* One that has gone, and one that comes back. */
    (void)close(manager);
    assert_false(systemd_notify("WATCHDOG=1"));
    (void)unlink(path);
    assert_false(systemd_notify("WATCHDOG=1"));
    manager = manager_at(path);
    assert_true(systemd_notify("WATCHDOG=1"));
    assert_told(manager, "WATCHDOG=1");
    (void)close(manager);
    (void)unlink(path);
    set("NOTIFY_SOCKET", NULL);
}

/* A program that has run out of descriptors is alive. */
static void test_tells_without_descriptors(void **state)
{
    struct rlimit before, none;
    char path[64];
    int manager;

    path_of(path, sizeof path, "@");
    manager = manager_at(path);
    assert_true(systemd_notify("READY=1"));
    assert_told(manager, "READY=1");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(socket(AF_UNIX, SOCK_DGRAM, 0), -1);
    bool told = systemd_notify("WATCHDOG=1");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(told);
    assert_told(manager, "WATCHDOG=1");
    (void)close(manager);
    set("NOTIFY_SOCKET", NULL);
}

/* ---- Time ---- */

static void test_watchdog(void **state)
{
    static const struct {
        const char *us;
        uint64_t ms;
    } cases[] = {
        {NULL, 0}, {"2000000", 2000}, {"30000000", 30000}, {"1999", 1}, {"1", 1}, {"soon", 0},
    };
    char pid[32];

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        set("WATCHDOG_USEC", cases[i].us);
        set("WATCHDOG_PID", NULL);
        assert_int_equal(systemd_watchdog_ms(), cases[i].ms);
        (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
        set("WATCHDOG_PID", pid);
        assert_int_equal(systemd_watchdog_ms(), cases[i].ms);
        set("WATCHDOG_PID", "1");
        assert_int_equal(systemd_watchdog_ms(), 0);
    }
    set("WATCHDOG_USEC", NULL);
    set("WATCHDOG_PID", NULL);
}

static uint64_t clock_us(void)
{
    struct timespec now;

    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void test_monotonic(void **state)
{
    uint64_t before_us = clock_us();
    uint64_t us = systemd_monotonic_us();

    assert_in_range(us, before_us, clock_us());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_sockets),   cmocka_unit_test(test_no_sockets),
        cmocka_unit_test(test_no_names),        cmocka_unit_test(test_bad_sockets),
        cmocka_unit_test(test_bad_environment), cmocka_unit_test(test_children),
        cmocka_unit_test(test_nobody_to_tell),  cmocka_unit_test(test_tells),
        cmocka_unit_test(test_never_waits),     cmocka_unit_test(test_tells_without_descriptors),
        cmocka_unit_test(test_watchdog),        cmocka_unit_test(test_monotonic),
    };
    static const char *const names[] = {"LISTEN_PID",    "LISTEN_FDS",    "LISTEN_FDNAMES",
                                        "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};

    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        (void)unsetenv(names[i]); /* of whoever runs the tests */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
