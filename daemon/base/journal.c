/*
 * An entry is one datagram; of each field it has the name, the size of the value and the value,
 * which is the one form that no byte in a value can break out of.
 */
#include "base/journal.h"

#include "base/util.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
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
static int get_socket(void)
{
    static int fd = -1;
    int size = SEND_BUFFER_BYTES;

    if (fd >= 0)
        return fd;
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
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
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct parts parts = {.count = 0};
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address};
    int fd = get_socket();
    ssize_t r;

    if (fd < 0)
        return fd;
    if (count > JOURNAL_FIELDS_MAX || strlen(path) >= sizeof address.sun_path)
        return -EINVAL;
    (void)strcpy(address.sun_path, path);
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
