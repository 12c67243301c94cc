/*
 * An entry is one datagram; of each field it has the name, the size of the value and the value,
 * which is the one form that no byte in a value can break out of.
 */
#include "base/journal.h"

#include "base/util.h"

#include <endian.h>
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

/* For bursts, as libsystemd asks for; the kernel gives what it has for us. */
#define SEND_BUFFER_BYTES (8 << 20)
/* Of one field: its name, its size between two line feeds, its value and a line feed. */
#define PARTS 4

struct parts {
    struct iovec vectors[JOURNAL_FIELDS_MAX * PARTS];
    size_t count;
    struct {
        char line_feed;
        uint8_t bytes[sizeof(uint64_t)]; /* little endian */
    } sizes[JOURNAL_FIELDS_MAX];
};

/* The same socket for all entries: it is there, too, when descriptors have run out. */
static int journal_fd = -1;

static int get_socket(void)
{
    int size = SEND_BUFFER_BYTES;

    if (journal_fd >= 0)
        return journal_fd;
    journal_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (journal_fd < 0)
        return -errno;
    (void)setsockopt(journal_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return journal_fd;
}

/* False: the path is too long. */
static bool set_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path)
        return false;
    (void)strcpy(address->sun_path, path);
    return true;
}

static void add_part(struct parts *parts, const void *bytes, size_t size)
{
    parts->vectors[parts->count++] = (struct iovec){(void *)bytes, size};
}

/* False: it is no "NAME=value". */
static bool add_field(struct parts *parts, unsigned number, const struct iovec *field)
{
    const char *text = field->iov_base, *equals = memchr(text, '=', field->iov_len);
    uint64_t size;

    if (!equals || equals == text)
        return false;
    size = field->iov_len - (size_t)(equals + 1 - text);
    size = htole64(size);
    parts->sizes[number].line_feed = '\n';
    memcpy(parts->sizes[number].bytes, &size, sizeof size);
    add_part(parts, text, (size_t)(equals - text));
    add_part(parts, &parts->sizes[number], sizeof parts->sizes[number]);
    add_part(parts, equals + 1, (size_t)le64toh(size));
    add_part(parts, "\n", 1);
    return true;
}

int journal_send(const char *path, const struct iovec *fields, unsigned count, bool wait)
{
    struct sockaddr_un address;
    struct parts parts = {.count = 0};
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address};
    int fd = get_socket();
    ssize_t r;

    if (fd < 0)
        return fd;
    if (count > JOURNAL_FIELDS_MAX || !set_address(&address, path))
        return -EINVAL;
    for (unsigned i = 0; i < count; i++)
        if (!add_field(&parts, i, &fields[i]))
            return -EINVAL;
    message.msg_iov = parts.vectors;
    message.msg_iovlen = parts.count;
    do {
        r = sendmsg(fd, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* 0 once the journal has received all datagrams, else -EAGAIN. */
static int all_received(void)
{
    int unread;

    if (ioctl(journal_fd, SIOCOUTQ, &unread) < 0)
        return -errno;
    return unread > 0 ? -EAGAIN : 0;
}

/*
 * journald has a datagram's sender looked up before it receives the next one, so that it is done
 * with the last entry when it has received something behind it: an empty datagram, which it
 * ignores.
 */
int journal_settle(const char *path, unsigned most_ms)
{
    struct sockaddr_un address;
    bool sent = false;
    int r;

    if (journal_fd < 0)
        return 0;
    if (!set_address(&address, path))
        return -EINVAL;
    for (unsigned waited_ms = 0;; waited_ms++) {
        if (!sent && sendto(journal_fd, "", 0, MSG_NOSIGNAL | MSG_DONTWAIT,
                            (const struct sockaddr *)&address, sizeof address) == 0)
            sent = true;
        r = sent ? all_received() : -errno;
        if (r != -EAGAIN || waited_ms == most_ms)
            break;
        (void)poll(NULL, 0, 1);
    }
    return r == -EAGAIN ? -ETIMEDOUT : r;
}
