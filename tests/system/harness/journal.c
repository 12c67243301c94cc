/*
 * A stand-in for the journal: preloaded into a program, it takes what goes to journald's socket and
 * appends each message to the file that STAND_IN_JOURNAL names: of every field its size (32 bits,
 * of this machine) and its bytes, "NAME=value", at the end of the message a size of UINT32_MAX. One
 * write a message, so that several programs may share the file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define JOURNAL "/run/systemd/journal/socket"

static char entry[1 << 16], message[1 << 16];

static void add(size_t *used, const void *bytes, size_t size)
{
    if (size > sizeof(message) - *used)
        abort();
    memcpy(message + *used, bytes, size);
    *used += size;
}

static void add_size(size_t *used, size_t size)
{
    uint32_t written = (uint32_t)size;

    add(used, &written, sizeof(written));
}

/* The field that begins there, which is a name, a line feed, a size and a value, and a line feed;
 * returns where the next begins. */
static const char *take_field(const char *field, const char *end, size_t *used)
{
    const char *line = memchr(field, '\n', (size_t)(end - field)), *value = line + 1 + 8;
    uint64_t size;

    if (!line || memchr(field, '=', (size_t)(line - field)) || value >= end)
        abort();
    memcpy(&size, line + 1, sizeof(size));
    size = le64toh(size);
    if (size >= (size_t)(end - value) || value[size] != '\n')
        abort();
    add_size(used, (size_t)(line - field) + 1 + size);
    add(used, field, (size_t)(line - field));
    add(used, "=", 1);
    add(used, value, size);
    return value + size + 1;
}

static void take(const char *end)
{
    static int fd = -1;
    size_t used = 0;

    for (const char *field = entry; field < end;)
        field = take_field(field, end, &used);
    add_size(&used, UINT32_MAX);
    /* Kept: later there may be no descriptor left, and that is worth a message too. */
    if (fd < 0)
        fd = open(getenv("STAND_IN_JOURNAL"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, message, used) != (ssize_t)used)
        abort();
}

ssize_t sendmsg(int fd, const struct msghdr *sent, int flags)
{
    const struct sockaddr_un *address = sent->msg_name;
    size_t size = 0;

    if (!address || address->sun_family != AF_UNIX || strcmp(address->sun_path, JOURNAL) != 0)
        return ((ssize_t(*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg"))(fd, sent,
                                                                                          flags);
    for (size_t i = 0; i < sent->msg_iovlen; i++) {
        if (sent->msg_iov[i].iov_len > sizeof(entry) - size)
            abort();
        memcpy(entry + size, sent->msg_iov[i].iov_base, sent->msg_iov[i].iov_len);
        size += sent->msg_iov[i].iov_len;
    }
    take(entry + size);
    return (ssize_t)size;
}
