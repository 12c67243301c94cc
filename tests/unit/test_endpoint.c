/*
 * Places to listen on: their text, and Unix sockets, whose files need care. bind(), lchown(),
 * listen(), connect(), flock() and nanosleep() of this file stand in for libc's, to fail, and to
 * look at what is there by then.
 */
#include "base/endpoint.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* --- text ------------------------------------------------------------------------------------- */

static struct endpoint parse(const char *text)
{
    struct endpoint endpoint;
    const char *why = NULL;

    memset(&endpoint, 0xff, sizeof endpoint);
    if (endpoint_parse(text, strlen(text), &endpoint, &why) < 0)
        fail_msg("\"%s\": %s", text, why);
    return endpoint;
}

static void test_reads_and_writes(void **state)
{
    static const struct {
        const char *text;
        const char *written;
    } cases[] = {
        {"[::]:4444", "[::]:4444"},
        {":4444", "[::]:4444"},
        {"[::]:4444 tls=no", "[::]:4444"},
        {"[::]:4443 tls=yes", "[::]:4443 tls=yes"},
        {"0.0.0.0:4443\t tls=on", "0.0.0.0:4443 tls=yes"},
        {":1 tls=true", "[::]:1 tls=yes"},
        {":1 tls=1", "[::]:1 tls=yes"},
        {":1 tls=off", "[::]:1"},
        {":1 client_certificate=required tls=yes  ", "[::]:1 tls=yes client_certificate=required"},
        {":1 tls=yes client_certificate=no", "[::]:1 tls=yes client_certificate=no"},
        {":1 tls=yes client_certificate=optional", "[::]:1 tls=yes client_certificate=optional"},
        {":1 client_ca=/c key=/b=b tls=yes certificate=/a",
         "[::]:1 tls=yes certificate=/a key=/b=b client_ca=/c"},
        {"unix:/run/stockd/grpc.sock", "unix:/run/stockd/grpc.sock"},
        {"unix:/a mode=666", "unix:/a"},
        {"unix:/a mode=0", "unix:/a mode=0000"},
        {"unix:/a mode=00777", "unix:/a mode=0777"},
        {"unix:/a group=staff owner=0 mode=660", "unix:/a mode=0660 owner=0 group=staff"},
        {"unix:/a tls=yes owner=root", "unix:/a tls=yes owner=root"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct endpoint endpoint = parse(cases[i].text);
        _cleanup_free_ char *text = endpoint_format(&endpoint);
        _cleanup_free_ char *again = NULL;

        assert_non_null(text);
        assert_string_equal(text, cases[i].written);
        endpoint_deinit(&endpoint);
        endpoint = parse(text);
        again = endpoint_format(&endpoint);
        assert_non_null(again);
        assert_string_equal(again, cases[i].written);
        endpoint_deinit(&endpoint);
    }
}

static void test_fields(void **state)
{
    static const struct endpoint zero;
    struct endpoint endpoint = parse(":1");

    assert_int_equal(endpoint.address.ss_family, AF_INET6);
    assert_false(endpoint.tls);
    assert_int_equal(endpoint.client_certificate, CLIENT_CERTIFICATE_UNSET);
    assert_null(endpoint.certificate);
    assert_null(endpoint.key);
    assert_null(endpoint.client_ca);
    assert_null(endpoint.owner);
    assert_null(endpoint.group);
    assert_int_equal(endpoint.mode, ENDPOINT_MODE_DEFAULT);
    endpoint_deinit(&endpoint);

    endpoint = parse("unix:/s tls=yes client_certificate=optional certificate=/c key=/k "
                     "client_ca=/ca mode=0640 owner=o group=g");
    assert_string_equal(((struct sockaddr_un *)&endpoint.address)->sun_path, "/s");
    assert_true(endpoint.tls);
    assert_int_equal(endpoint.client_certificate, CLIENT_CERTIFICATE_OPTIONAL);
    assert_string_equal(endpoint.certificate, "/c");
    assert_string_equal(endpoint.key, "/k");
    assert_string_equal(endpoint.client_ca, "/ca");
    assert_int_equal(endpoint.mode, 0640);
    assert_string_equal(endpoint.owner, "o");
    assert_string_equal(endpoint.group, "g");
    endpoint_deinit(&endpoint);
    assert_memory_equal(&endpoint, &zero, sizeof zero);
    endpoint_deinit(&endpoint);
}

#define NOT_ALLOWED "it has a character that is not allowed (only printable ASCII"

static void test_faults(void **state)
{
    static const struct {
        const char *text;
        const char *why;
    } cases[] = {
        {"", "\"\" has no port"},
        {" :1", "\"\" has no port"},
        {"tls=yes", "\"tls=yes\" has no port"},
        {"[::]:70000 tls=yes", "port 70000 is out of range (0 to 65535)"},
        {"unix:@name", "\"unix:@name\" has no file, and so no permissions"},
        {":1 :2", "\":2\" is not NAME=VALUE; between addresses stands a comma"},
        {":1 tls", "\"tls\" is not NAME=VALUE"},
        {":1 =yes", "\"=yes\" is not NAME=VALUE"},
        {":1 tls =yes", "\"tls\" is not NAME=VALUE"},
        {":1 tls=", "tls has no value"},
        {":1 tls= yes", "tls has no value"},
        {":1 tsl=yes", "there is no \"tsl\" (only tls, client_certificate, certificate, key, "
                       "client_ca, mode, owner, group)"},
        {":1 TLS=yes", "there is no \"TLS\""},
        {":1 tls=yes tls=yes", "tls is given twice"},
        {":1 tls=maybe", "tls is \"maybe\", which is neither yes nor no"},
        {":1 tls=Yes", "tls is \"Yes\", which"},
        {":1 tls=yes client_certificate=yes",
         "client_certificate is \"yes\", none of no, optional and required"},
        {":1 client_certificate=no", "client_certificate needs tls=yes"},
        {":1 certificate=/a key=/b", "certificate needs tls=yes"},
        {":1 key=/b tls=no", "key needs tls=yes"},
        {":1 client_ca=/a", "client_ca needs tls=yes"},
        {":1 tls=yes certificate=/a", "certificate and key come together; key is missing"},
        {":1 tls=yes key=/a", "certificate and key come together; certificate is missing"},
        {":1 tls=yes certificate=a key=/b", "certificate is \"a\", which is not an absolute path"},
        {":1 tls=yes certificate=/a key=~/b", "key is \"~/b\", which is not an absolute path"},
        {":1 tls=yes client_ca=ca", "client_ca is \"ca\", which is not an absolute path"},
        {":1 mode=0666", "mode is for Unix sockets only"},
        {":1 owner=root", "owner is for Unix sockets only"},
        {"1.2.3.4:1 group=0", "group is for Unix sockets only"},
        {"unix:/a mode=1000", "mode is \"1000\", not an octal number up to 0777"},
        {"unix:/a mode=668", "mode is \"668\", not"},
        {"unix:/a mode=-1", "mode is \"-1\", not"},
        {"unix:/a mode=0x1ff", "mode is \"0x1ff\", not"},
        {"unix:/a mode=40000000000000000000777", "mode is \"40000000000000000000777\", not"},
        {"unix:/a mode=rw", "mode is \"rw\", not"},
        {"unix:/a,b", NOT_ALLOWED},
        {"unix:/a;b", NOT_ALLOWED},
        {"unix:/\"", NOT_ALLOWED},
        {"unix:/\xc3\xa9", NOT_ALLOWED},
        {"unix:/a\n", NOT_ALLOWED},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct endpoint endpoint, before;
        const char *why = NULL;

        memset(&endpoint, 0x5a, sizeof endpoint);
        before = endpoint;
        assert_int_equal(endpoint_parse(cases[i].text, strlen(cases[i].text), &endpoint, &why),
                         -EINVAL);
        if (!strstr(why, cases[i].why))
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", cases[i].text, why, cases[i].why);
        assert_memory_equal(&endpoint, &before, sizeof endpoint);
    }
    assert_int_equal(endpoint_parse("unix:/a\0b", 9, &(struct endpoint){0}, NULL), -EINVAL);
}

/* Only `length` bytes count. */
static void test_length(void **state)
{
    struct endpoint endpoint;

    assert_int_equal(endpoint_parse(":1 tls=yes", 2, &endpoint, NULL), 0);
    assert_false(endpoint.tls);
    assert_int_equal(endpoint_parse(":1 tls=1yes", 8, &endpoint, NULL), 0);
    assert_true(endpoint.tls);
    endpoint_deinit(&endpoint);
}

/* --- listening -------------------------------------------------------------------------------- */

/* What the stand-ins do, and what they saw. */
static struct {
    int chown_error;
    bool pretend_chown; /* succeed without doing it, since only root may */
    uid_t owner;
    gid_t group;
    unsigned chowns;
    int listen_error;
    int connect_error;
    mode_t mode_at_listen; /* of `path` */
    unsigned chowns_at_listen;
    void (*in_the_way)(void); /* the address is in use */
    void (*in_connect)(void);
    void (*on_blocked)(void); /* the lock is somebody else's */
    unsigned locks;           /* that were tried */
} hooks;

struct fixture {
    char directory[32];
    char path[96];
    char text[256];
};

static struct fixture fixture;

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int r = (int)syscall(SYS_bind, fd, address, size);

    if (r < 0 && errno == EADDRINUSE && hooks.in_the_way) {
        hooks.in_the_way();
        errno = EADDRINUSE;
    }
    return r;
}

int lchown(const char *path, uid_t owner, gid_t group)
{
    hooks.chowns++;
    hooks.owner = owner;
    hooks.group = group;
    if (hooks.chown_error) {
        errno = hooks.chown_error;
        return -1;
    }
    return hooks.pretend_chown ? 0 : (int)syscall(SYS_lchown, path, owner, group);
}

int listen(int fd, int backlog)
{
    struct stat status;

    if (stat(fixture.path, &status) == 0)
        hooks.mode_at_listen = status.st_mode;
    hooks.chowns_at_listen = hooks.chowns;
    if (hooks.listen_error) {
        errno = hooks.listen_error;
        return -1;
    }
    return (int)syscall(SYS_listen, fd, backlog);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    if (hooks.in_connect)
        hooks.in_connect();
    if (hooks.connect_error) {
        errno = hooks.connect_error;
        return -1;
    }
    return (int)syscall(SYS_connect, fd, address, size);
}

int flock(int fd, int operation)
{
    int r = (int)syscall(SYS_flock, fd, operation);

    hooks.locks++;
    if (r < 0 && errno == EWOULDBLOCK && hooks.on_blocked) {
        hooks.on_blocked();
        errno = EWOULDBLOCK;
    }
    return r;
}

/* Nobody needs to wait here in earnest. */
int nanosleep(const struct timespec *wanted, struct timespec *remaining)
{
    return 0;
}

static int setup(void **state)
{
    memset(&hooks, 0, sizeof hooks);
    strcpy(fixture.directory, "/tmp/test-endpoint-XXXXXX");
    assert_non_null(mkdtemp(fixture.directory));
    (void)snprintf(fixture.path, sizeof fixture.path, "%s/socket", fixture.directory);
    return 0;
}

static int teardown(void **state)
{
    (void)unlink(fixture.path);
    return rmdir(fixture.directory);
}

/* Listens at the fixture's path, with these options. */
static int listen_there(const char *options)
{
    struct endpoint endpoint;
    int fd = -1;

    (void)snprintf(fixture.text, sizeof fixture.text, "unix:%s%s", fixture.path, options);
    endpoint = parse(fixture.text);
    fd = endpoint_listen(&endpoint, 4);
    endpoint_deinit(&endpoint);
    return fd;
}

/* 0, or the errno of connecting to the fixture's path. */
static int connect_there(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int error = 0;

    assert_true(fd >= 0);
    strcpy(address.sun_path, fixture.path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        error = errno;
    assert_int_equal(close(fd), 0);
    return error;
}

static struct stat status_there(void)
{
    struct stat status;

    assert_int_equal(lstat(fixture.path, &status), 0);
    return status;
}

static bool nothing_there(void)
{
    struct stat status;

    return lstat(fixture.path, &status) < 0 && errno == ENOENT;
}

/* As a daemon does that is killed: the file stays. */
static void leave_over(void)
{
    int fd = listen_there("");

    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(connect_there(), ECONNREFUSED);
}

static void test_listens_on_tcp(void **state)
{
    struct endpoint endpoint = parse("127.0.0.1:0");
    int fd = endpoint_listen(&endpoint, 1);

    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    endpoint = parse("192.0.2.1:0"); /* for documentation */
    assert_int_equal(endpoint_listen(&endpoint, 1), -EADDRNOTAVAIL);
    endpoint_deinit(&endpoint);
}

/* What is passed listens already; neither its address nor its file is looked at. */
static void test_passed(void **state)
{
    struct endpoint endpoint = parse("unix:/nowhere/socket mode=0600 owner=nobody-of-that-name");
    struct endpoint own = parse("127.0.0.1:0");
    struct sockaddr_in address, duplicate;
    socklen_t size = sizeof address;
    int listens = 0, first, second;

    endpoint.passed = endpoint_listen(&own, 5);
    assert_true(endpoint.passed >= 0);
    first = endpoint_listen(&endpoint, 5);
    second = endpoint_listen(&endpoint, 5);
    assert_true(first > STDERR_FILENO && first != endpoint.passed);
    assert_true(second > STDERR_FILENO && second != first && second != endpoint.passed);
    assert_true(fcntl(first, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(getsockname(endpoint.passed, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(getsockname(first, (struct sockaddr *)&duplicate, &size), 0);
    assert_int_equal(duplicate.sin_port, address.sin_port);
    (void)close(first);
    (void)close(second);
    size = sizeof listens;
    assert_int_equal(getsockopt(endpoint.passed, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size), 0);
    assert_int_equal(listens, 1);
    (void)close(endpoint.passed);
    assert_int_equal(endpoint_listen(&endpoint, 5), -EBADF);
    endpoint_deinit(&endpoint);
    endpoint_deinit(&own);
}

/* Where it came from is not a thing that a person said. */
static void test_passed_has_no_text(void **state)
{
    struct endpoint endpoint = parse("[::]:4443 tls=yes");
    char *text = NULL;

    assert_int_equal(endpoint.passed, 0);
    endpoint.passed = 3;
    text = endpoint_format(&endpoint);
    assert_string_equal(text, "[::]:4443 tls=yes");
    free(text);
    endpoint_deinit(&endpoint);
}

static void test_copy(void **state)
{
    static const char full[] =
        "unix:/socket tls=yes client_certificate=optional certificate=/c key=/k client_ca=/ca "
        "mode=0640 owner=o group=g";
    struct endpoint endpoint = parse(full), plain = parse("[::]:1"), copy;
    char *text = NULL;

    endpoint.passed = 3;
    assert_int_equal(endpoint_copy(&endpoint, &copy), 0);
    endpoint_deinit(&endpoint);
    text = endpoint_format(&copy);
    assert_string_equal(text, full);
    assert_int_equal(copy.passed, 3);
    free(text);
    endpoint_deinit(&copy);
    assert_int_equal(endpoint_copy(&plain, &copy), 0);
    assert_null(copy.certificate);
    endpoint_deinit(&copy);
    endpoint_deinit(&plain);
}

static void test_listens_on_a_file(void **state)
{
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address;
    int fd = listen_there("");

    assert_true(fd >= 0);
    assert_int_equal(connect_there(), 0);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    assert_string_equal(address.sun_path, fixture.path);
    assert_int_equal(status_there().st_mode, S_IFSOCK | ENDPOINT_MODE_DEFAULT);
    assert_int_equal(hooks.chowns, 0);
    assert_int_equal(close(fd), 0);
}

/* Whatever the umask is; and it is that again. */
static void test_mode(void **state)
{
    static const struct {
        const char *options;
        mode_t mode;
        mode_t umask;
    } cases[] = {
        {" mode=0660", 0660, 0077}, {" mode=0777", 0777, 0777}, {" mode=0600", 0600, 0},
        {" mode=0", 0, 0},          {"", 0666, 0027},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        mode_t before = umask(cases[i].umask);
        int fd = listen_there(cases[i].options);

        assert_int_equal(umask(before), cases[i].umask);
        assert_true(fd >= 0);
        assert_int_equal(status_there().st_mode, S_IFSOCK | cases[i].mode);
        assert_int_equal(hooks.mode_at_listen, S_IFSOCK | cases[i].mode);
        assert_int_equal(close(fd), 0);
        assert_int_equal(unlink(fixture.path), 0);
    }
}

static void test_owner(void **state)
{
    static const struct {
        const char *options;
        uid_t owner;
        gid_t group;
    } cases[] = {
        {" owner=root", 0, (gid_t)-1},
        {" group=root", (uid_t)-1, 0},
        {" owner=root group=4294967294", 0, 4294967294},
        {" owner=7 group=8", 7, 8},
    };

    hooks.pretend_chown = true;
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        int fd = -1;

        hooks.chowns = 0;
        fd = listen_there(cases[i].options);
        assert_true(fd >= 0);
        assert_int_equal(hooks.chowns, 1);
        assert_int_equal(hooks.chowns_at_listen, 1); /* before anybody could connect */
        assert_int_equal(hooks.owner, cases[i].owner);
        assert_int_equal(hooks.group, cases[i].group);
        assert_int_equal(close(fd), 0);
        assert_int_equal(unlink(fixture.path), 0);
    }
}

static void test_owner_is_really_set(void **state)
{
    char options[64];
    int fd = -1;

    /* One's own is the one that everybody may set. */
    (void)snprintf(options, sizeof options, " owner=%u group=%u", geteuid(), getegid());
    fd = listen_there(options);
    assert_true(fd >= 0);
    assert_int_equal(hooks.chowns, 1);
    assert_int_equal(status_there().st_uid, geteuid());
    assert_int_equal(status_there().st_gid, getegid());
    assert_int_equal(close(fd), 0);
}

static void test_nobody_of_that_name(void **state)
{
    assert_int_equal(listen_there(" owner=no-such-user"), -ENOENT);
    assert_int_equal(listen_there(" group=no-such-group"), -ENOENT);
    assert_int_equal(listen_there(" owner=4294967295"), -ENOENT); /* means: as it is */
    assert_int_equal(listen_there(" owner=-1"), -ENOENT);
    assert_true(nothing_there());
}

/* What fails after the file was made takes it away again. */
static void test_failures(void **state)
{
    hooks.chown_error = EPERM;
    assert_int_equal(listen_there(" owner=0"), -EPERM);
    assert_true(nothing_there());
    hooks.chown_error = 0;
    hooks.listen_error = ENOBUFS;
    assert_int_equal(listen_there(""), -ENOBUFS);
    assert_true(nothing_there());
    hooks.listen_error = 0;

    strcpy(strrchr(fixture.path, '/'), "/missing/socket");
    assert_int_equal(listen_there(""), -ENOENT);
    strcpy(strstr(fixture.path, "/missing"), "/socket");
}

static void test_left_over_file(void **state)
{
    struct stat before, after;
    int fd = -1;

    leave_over();
    before = status_there();
    fd = listen_there(" mode=0600");
    assert_true(fd >= 0);
    after = status_there();
    assert_int_equal(after.st_mode, S_IFSOCK | 0600);
    assert_true(before.st_ino != after.st_ino || before.st_ctim.tv_nsec != after.st_ctim.tv_nsec);
    assert_int_equal(connect_there(), 0);
    assert_int_equal(close(fd), 0);
}

static void test_somebody_listens(void **state)
{
    int fd = listen_there("");

    assert_true(fd >= 0);
    assert_int_equal(listen_there(""), -EADDRINUSE);
    assert_int_equal(connect_there(), 0); /* still */

    /* One that lets nobody in, or has no room, is no less alive. */
    hooks.connect_error = EACCES;
    assert_int_equal(listen_there(""), -EADDRINUSE);
    hooks.connect_error = EAGAIN;
    assert_int_equal(listen_there(""), -EADDRINUSE);
    hooks.connect_error = 0;
    assert_int_equal(connect_there(), 0);
    assert_int_equal(close(fd), 0);
}

static void test_other_files(void **state)
{
    char target[128];
    struct stat before, after;
    int fd = open(fixture.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    before = status_there();
    assert_int_equal(listen_there(""), -EADDRINUSE);
    after = status_there();
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(before.st_mode, after.st_mode);
    assert_int_equal(unlink(fixture.path), 0);

    assert_int_equal(mkdir(fixture.path, 0700), 0);
    assert_int_equal(listen_there(""), -EADDRINUSE);
    assert_int_equal(rmdir(fixture.path), 0);

    /* Nor is a link followed, wherever it leads. */
    leave_over();
    (void)snprintf(target, sizeof target, "%s/target", fixture.directory);
    assert_int_equal(rename(fixture.path, target), 0);
    assert_int_equal(symlink(target, fixture.path), 0);
    assert_int_equal(listen_there(""), -EADDRINUSE);
    assert_true(S_ISLNK(status_there().st_mode));
    assert_int_equal(unlink(target), 0);
    assert_int_equal(listen_there(""), -EADDRINUSE);
}

static void remove_file(void)
{
    (void)unlink(fixture.path);
    hooks.in_connect = NULL;
    hooks.in_the_way = NULL;
}

/* Whoever listened takes the file away while we look at it. */
static void test_file_that_vanishes(void **state)
{
    int fd = -1;

    leave_over();
    hooks.in_connect = remove_file;
    hooks.connect_error = ECONNREFUSED;
    fd = listen_there("");
    assert_true(fd >= 0);
    hooks.connect_error = 0;
    assert_int_equal(connect_there(), 0);
    assert_int_equal(close(fd), 0);

    hooks.in_the_way = remove_file;
    fd = listen_there("");
    assert_true(fd >= 0);
    assert_null(hooks.in_the_way);
    assert_int_equal(connect_there(), 0);
    assert_int_equal(close(fd), 0);
}

/* Another program that is about to listen: it has the lock, and a file that looks left over. */
static struct {
    int fd;
    int lock;
} other;

static void let_other_listen(void)
{
    assert_int_equal(syscall(SYS_listen, other.fd, 1), 0);
    assert_int_equal(close(other.lock), 0);
    hooks.on_blocked = NULL;
}

static void test_two_that_start_at_once(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    other.lock = open(fixture.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(other.lock >= 0);
    assert_int_equal(flock(other.lock, LOCK_EX | LOCK_NB), 0);
    other.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(other.fd >= 0);
    strcpy(address.sun_path, fixture.path);
    assert_int_equal(bind(other.fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(connect_there(), ECONNREFUSED);

    hooks.on_blocked = let_other_listen;
    assert_int_equal(listen_there(""), -EADDRINUSE);
    assert_null(hooks.on_blocked);
    assert_int_equal(connect_there(), 0);
    assert_int_equal(close(other.fd), 0);
}

/* The lock is let go of, and whoever holds it for long does not keep the daemon from starting. */
static void test_lock(void **state)
{
    int fd = listen_there("");
    int lock = open(fixture.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_true(lock >= 0);
    assert_int_equal(flock(lock, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(close(fd), 0);
    hooks.locks = 0;
    fd = listen_there("");
    assert_true(fd >= 0);
    assert_true(hooks.locks > 1);
    assert_int_equal(close(fd), 0);
    assert_int_equal(close(lock), 0);
}

/* As long as the kernel lets it be, where there is no NUL to spare. */
static void test_longest_path(void **state)
{
    char text[256] = "unix:";
    struct endpoint endpoint;
    size_t length = 0;
    int fd = -1;

    (void)snprintf(text, sizeof text, "unix:%s/", fixture.directory);
    length = strlen(text);
    memset(text + length, 'x', strlen("unix:") + 107 - length);
    text[strlen("unix:") + 107] = '\0';
    endpoint = parse(text);
    fd = endpoint_listen(&endpoint, 1);
    assert_true(fd >= 0);
    assert_int_equal(access(text + strlen("unix:"), F_OK), 0);
    assert_int_equal(unlink(text + strlen("unix:")), 0);
    assert_int_equal(close(fd), 0);
    endpoint_deinit(&endpoint);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_and_writes),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_listens_on_tcp),
        cmocka_unit_test(test_passed),
        cmocka_unit_test(test_passed_has_no_text),
        cmocka_unit_test(test_copy),
        TEST(test_listens_on_a_file),
        TEST(test_mode),
        TEST(test_owner),
        TEST(test_owner_is_really_set),
        TEST(test_nobody_of_that_name),
        TEST(test_failures),
        TEST(test_left_over_file),
        TEST(test_somebody_listens),
        TEST(test_other_files),
        TEST(test_file_that_vanishes),
        TEST(test_two_that_start_at_once),
        TEST(test_lock),
        TEST(test_longest_path),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
