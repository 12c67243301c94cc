/*
 * Sockets that listen at an endpoint.
 *
 * A Unix socket's file outlives whoever made it, so that one that is in the way is most often left
 * over from a program that was killed. Whether it is can only be told by connecting, and a socket
 * that somebody has bound but does not listen on yet looks left over, too. Hence the lock on the
 * directory: of two programs that start at once, one waits until the other listens.
 *
 * Nobody can connect before listen(), which comes last; the file has its mode from the start, by
 * way of the umask, and its owner before that.
 */
#include "base/endpoint.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long the lock is waited for. Whoever holds it for longer is no program that starts. */
#define LOCK_TRIES 100
#define LOCK_PAUSE_NS 10000000

#define ID_NONE UINT32_MAX /* chown() leaves it as it is */

/* A number in decimal digits that chown() takes. */
static bool parse_id(const char *text, uint32_t *ret)
{
    char *end = NULL;
    unsigned long number = 0;

    errno = 0;
    number = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || number >= ID_NONE)
        return false;
    *ret = (uint32_t)number;
    return true;
}

/* What a look-up that found nothing left in errno; most of it says no more than that. */
static int lookup_error(void)
{
    return errno == ENOMEM || errno == EMFILE || errno == ENFILE || errno == EIO ? -errno : -ENOENT;
}

static int find_owner(const char *name, uint32_t *ret)
{
    const struct passwd *user = NULL;

    if (!name || parse_id(name, ret))
        return 0;
    errno = 0;
    user = getpwnam(name);
    if (!user)
        return lookup_error();
    *ret = user->pw_uid;
    return 0;
}

static int find_group(const char *name, uint32_t *ret)
{
    const struct group *group = NULL;

    if (!name || parse_id(name, ret))
        return 0;
    errno = 0;
    group = getgrnam(name);
    if (!group)
        return lookup_error();
    *ret = group->gr_gid;
    return 0;
}

/*
 * A descriptor that holds the lock until it is closed, or a negative one where there is none: in a
 * directory that may not be read, nobody can wait for anybody.
 */
static int lock_directory(const char *path)
{
    static const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
    char directory[sizeof((struct sockaddr_un){0}.sun_path) + 1];
    char *slash = NULL;
    int fd = -1;

    (void)strcpy(directory, path);
    slash = strrchr(directory, '/');
    if (!slash)
        return -1;
    slash[slash == directory] = '\0';
    fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
        if (errno != EWOULDBLOCK || i == LOCK_TRIES)
            break;
        (void)nanosleep(&pause, NULL);
    }
    return fd;
}

static int open_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    return fd;
}

/* Is the file a socket with nobody behind it? Or gone by now. */
static bool is_left_over(const struct sockaddr_un *address)
{
    struct stat status;
    _cleanup_close_ int fd = -1;

    if (lstat(address->sun_path, &status) < 0)
        return errno == ENOENT;
    if (!S_ISSOCK(status.st_mode))
        return false;
    fd = open_socket();
    if (fd < 0)
        return false;
    return connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
           errno == ECONNREFUSED;
}

static int bind_with_mode(int fd, const struct sockaddr_un *address, mode_t mode)
{
    mode_t before = umask(~mode & 0777);
    int r = bind(fd, (const struct sockaddr *)address, sizeof *address) < 0 ? -errno : 0;

    (void)umask(before);
    return r;
}

/* 0, or a negative errno; then nothing is left of what it made. */
static int listen_on_file(int fd, const struct endpoint *endpoint,
                          const struct sockaddr_un *address, uint32_t owner, uint32_t group,
                          int backlog)
{
    int r = bind_with_mode(fd, address, endpoint->mode);

    if (r == -EADDRINUSE && is_left_over(address)) {
        (void)unlink(address->sun_path);
        r = bind_with_mode(fd, address, endpoint->mode);
    }
    if (r < 0)
        return r;
    if (((owner != ID_NONE || group != ID_NONE) && lchown(address->sun_path, owner, group) < 0) ||
        listen(fd, backlog) < 0) {
        r = -errno;
        (void)unlink(address->sun_path);
    }
    return r;
}

static int listen_unix(const struct endpoint *endpoint, int backlog)
{
    uint32_t owner = ID_NONE, group = ID_NONE;
    struct sockaddr_un address;
    int lock = -1, fd = -1;
    int r = find_owner(endpoint->owner, &owner);

    if (r == 0)
        r = find_group(endpoint->group, &group);
    if (r < 0)
        return r;
    fd = open_socket();
    if (fd < 0)
        return fd;
    memcpy(&address, &endpoint->address, sizeof address);
    lock = lock_directory(address.sun_path);
    r = listen_on_file(fd, endpoint, &address, owner, group, backlog);
    if (lock >= 0)
        (void)close(lock);
    if (r == 0)
        return fd;
    (void)close(fd);
    return r;
}

int endpoint_listen(const struct endpoint *endpoint, int backlog)
{
    /* Whoever closes it later closes his own; the one that was passed is there to be listened on
     * again. */
    if (endpoint->passed) {
        int fd = fcntl(endpoint->passed, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

        return fd < 0 ? -errno : fd;
    }
    if (endpoint->address.ss_family == AF_UNIX)
        return listen_unix(endpoint, backlog);
    return address_listen((const struct sockaddr *)&endpoint->address, backlog);
}
