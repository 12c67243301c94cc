/*
 * What sd-daemon has is taken from it, except sd_notify(). That makes a blocking socket for each
 * message, and so it has two ways to do harm: it waits for ever for a manager that does not read
 * (and with it the loop, which is to prove by its messages that it turns), and it says nothing when
 * descriptors have run out, for which a healthy program would be killed by its watchdog. Here one
 * socket is made with the first message, kept, and never waited for.
 */
#include "base/systemd.h"

#include "base/address.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#define NOTIFY_MAX 1024

/* ---- What the manager is told ---- */

/* Where it wants to be told; false: nowhere. */
static bool find_manager(struct sockaddr_un *ret_address, socklen_t *ret_size)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t length = path ? strlen(path) : 0;

    if (length < 2 || length > sizeof(ret_address->sun_path) || (*path != '/' && *path != '@'))
        return false;
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret_address->sun_path, path, length);
    if (*path == '@') /* no file, but a name that begins with NUL */
        ret_address->sun_path[0] = '\0';
    *ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    return true;
}

bool systemd_wants_to_know(void)
{
    struct sockaddr_un address;
    socklen_t size;

    return find_manager(&address, &size);
}

bool systemd_notify(const char *format, ...)
{
    static int fd = -1;
    char text[NOTIFY_MAX];
    struct sockaddr_un address;
    socklen_t size;
    va_list arguments;
    int length;

    if (!find_manager(&address, &size))
        return true;
    if (fd < 0)
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    va_start(arguments, format);
    length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    length = MIN(MAX(length, 0), (int)sizeof text - 1);
    return sendto(fd, text, (size_t)length, MSG_NOSIGNAL, (const struct sockaddr *)&address,
                  size) >= 0;
}

uint64_t systemd_monotonic_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail */
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t systemd_watchdog_ms(void)
{
    uint64_t us = 0;

    if (sd_watchdog_enabled(0, &us) <= 0)
        return 0;
    return MAX(us / 1000, (uint64_t)1);
}

/* ---- What it passes ---- */

static int option(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof value;

    return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

/* What is wrong with a socket that is passed; NULL: nothing. */
static const char *find_fault(int fd)
{
    int family = option(fd, SO_DOMAIN), type = option(fd, SO_TYPE);

    if (type < 0)
        return "is no socket";
    if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
        return "is neither an IP nor a Unix socket";
    if (type != SOCK_STREAM)
        return "is no stream socket (its unit needs ListenStream=)";
    if (family != AF_UNIX && option(fd, SO_PROTOCOL) != IPPROTO_TCP)
        return "is no TCP socket";
    if (option(fd, SO_ACCEPTCONN) != 1)
        return "does not listen (its unit needs Accept=no)";
    return NULL;
}

static int take_one(struct systemd_socket *ret_socket, int fd, const char *name)
{
    struct systemd_socket taken = {.fd = fd};
    socklen_t size = sizeof taken.address;
    int flags = fcntl(fd, F_GETFL);

    (void)snprintf(taken.name, sizeof taken.name, "%s", name);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        getsockname(fd, (struct sockaddr *)&taken.address, &size) < 0)
        return -errno;
    *ret_socket = taken;
    return 0;
}

/* Of `count` with these names. 0 or -EINVAL. */
static int take_all(struct systemd_socket *ret_sockets, unsigned count, char *const *names,
                    char *error)
{
    for (unsigned i = 0; i < count; i++) {
        int fd = SD_LISTEN_FDS_START + (int)i;
        const char *fault = find_fault(fd);
        int r = 0;

        if (!fault && strlen(names[i]) >= SYSTEMD_NAME_MAX)
            fault = "has too long a name";
        if (!fault)
            r = take_one(&ret_sockets[i], fd, names[i]);
        if (r < 0)
            fault = strerror(-r);
        if (!fault)
            continue;
        (void)snprintf(error, SYSTEMD_ERROR_MAX,
                       "descriptor %d that the service manager passes, \"%.100s\", %s", fd,
                       names[i], fault);
        return -EINVAL;
    }
    return 0;
}

static void free_names(char **names)
{
    for (char **name = names; name && *name; name++)
        free(*name);
    free(names);
}

/* Takes `count`, which is not 0. */
static int take_named(struct systemd_sockets *ret_sockets, unsigned count, char *const *names,
                      char *error)
{
    _cleanup_free_ struct systemd_socket *sockets = NULL;
    int r;

    if (count > SYSTEMD_SOCKETS_MAX) {
        (void)snprintf(error, SYSTEMD_ERROR_MAX,
                       "the service manager passes %u sockets, more than %d", count,
                       SYSTEMD_SOCKETS_MAX);
        return -EINVAL;
    }
    sockets = calloc(count, sizeof *sockets);
    if (!sockets)
        return -ENOMEM;
    r = take_all(sockets, count, names, error);
    if (r < 0)
        return r;
    *ret_sockets = (struct systemd_sockets){TAKE_PTR(sockets), count};
    return 0;
}

int systemd_sockets_take(struct systemd_sockets *ret_sockets, char error[static SYSTEMD_ERROR_MAX])
{
    char **names = NULL;
    int count = sd_listen_fds_with_names(1, &names);
    int r;

    if (count == 0) {
        *ret_sockets = (struct systemd_sockets){0};
        return 0;
    }
    if (count == -ENOMEM)
        return -ENOMEM;
    if (count < 0) {
        (void)snprintf(error, SYSTEMD_ERROR_MAX,
                       "the sockets that the service manager passes cannot be taken: LISTEN_FDS "
                       "and LISTEN_FDNAMES do not agree, or do not say what is there (%s)",
                       strerror(-count));
        return -EINVAL;
    }
    r = take_named(ret_sockets, (unsigned)count, names, error);
    free_names(names);
    return r;
}
