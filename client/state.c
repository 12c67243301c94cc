#include "client/state.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The whole file is as small as its two lines. */
#define CONTENT_MAX 128
#define CONTENT_FORMAT "stock-client position\nepoch %" PRIu64 "\nsequence %" PRIu64 "\n"

static int fault(char error[static STATE_ERROR_MAX], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static int fault(char error[static STATE_ERROR_MAX], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(error, STATE_ERROR_MAX, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

static int lock(struct state *state, char error[static STATE_ERROR_MAX])
{
    _cleanup_free_ char *path = NULL;

    if (asprintf(&path, "%s.lock", state->path) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    state->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (state->lock < 0)
        return fault(error, "cannot open %s: %s", path, strerror(errno));
    if (flock(state->lock, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? fault(error, "%s: another program uses it now", state->path)
                                : fault(error, "cannot lock %s: %s", path, strerror(errno));
}

/* All of it, as text. The number of bytes; -1 with errno. */
static ssize_t read_file(int fd, char text[static CONTENT_MAX])
{
    size_t size = 0;
    ssize_t r;

    do {
        r = read(fd, text + size, CONTENT_MAX - 1 - size);
        size += r > 0 ? (size_t)r : 0;
    } while ((r < 0 && errno == EINTR) || (r > 0 && size < CONTENT_MAX - 1));
    text[size] = 0;
    return r < 0 ? -1 : (ssize_t)size;
}

/* The number behind `word`; 0 if there is none. */
static uint64_t number_after(const char *text, const char *word)
{
    const char *found = strstr(text, word);

    return found ? strtoull(found + strlen(word), NULL, 10) : 0;
}

/* What is read must be what would be written: so nothing else is taken for a position. */
static bool parse(struct state *state, const char *text)
{
    char again[CONTENT_MAX];

    state->epoch = number_after(text, "\nepoch ");
    state->sequence = number_after(text, "\nsequence ");
    (void)snprintf(again, sizeof(again), CONTENT_FORMAT, state->epoch, state->sequence);
    return state->epoch != 0 && strcmp(text, again) == 0;
}

static int load(struct state *state, char error[static STATE_ERROR_MAX])
{
    char text[CONTENT_MAX];
    struct stat status;
    ssize_t size;
    int fd = open(state->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return errno == ENOENT ? 0
                               : fault(error, "cannot read %s: %s", state->path, strerror(errno));
    if (fstat(fd, &status) == 0 && !S_ISREG(status.st_mode)) {
        (void)close(fd);
        return fault(error, "%s is no regular file", state->path);
    }
    size = read_file(fd, text);
    (void)close(fd);
    if (size < 0)
        return fault(error, "cannot read %s: %s", state->path, strerror(errno));
    if (!parse(state, text))
        return fault(error, "%s has no position of stock-client in it; it is left as it is",
                     state->path);
    state->known = true;
    return 0;
}

/* Better known now than when there is something to keep. */
static int try_folder(const struct state *state, char error[static STATE_ERROR_MAX])
{
    int fd = open(state->next_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

    if (fd < 0)
        return fault(error, "cannot write %s: %s", state->next_path, strerror(errno));
    (void)close(fd);
    (void)unlink(state->next_path);
    return 0;
}

/*
 * A symbolic link stays one: what it leads to is written anew, and is the same file by whichever
 * name, to the lock as well.
 */
static int follow(struct state *state, const char *path, char error[static STATE_ERROR_MAX])
{
    struct stat status;

    if (lstat(path, &status) < 0 || !S_ISLNK(status.st_mode)) {
        state->path = strdup(path);
        return state->path ? 0 : -ENOMEM;
    }
    state->path = realpath(path, NULL);
    if (state->path)
        return 0;
    return errno == ENOMEM
               ? -ENOMEM
               : fault(error, "cannot follow the symbolic link %s: %s", path, strerror(errno));
}

int state_open(struct state *state, const char *path, char error[static STATE_ERROR_MAX])
{
    int r;

    *state = (struct state){.lock = -1};
    if (!*path)
        return fault(error, "there is no file name");
    r = follow(state, path, error);
    if (r < 0)
        return r;
    if (asprintf(&state->next_path, "%s.new", state->path) < 0) {
        state->next_path = NULL;
        return -ENOMEM;
    }
    r = lock(state, error);
    if (r == 0)
        r = load(state, error);
    if (r == 0)
        r = try_folder(state, error);
    return r;
}

/* The name is the disk's only when its folder is. */
static int sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *folder =
        slash ? strndup(path, MAX((size_t)(slash - path), (size_t)1)) : strdup(".");
    int fd, r;

    if (!folder)
        return -ENOMEM;
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* Not all file systems can. */
    r = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    (void)close(fd);
    return r;
}

static int write_next(const struct state *state, const char *text, size_t size)
{
    int fd = open(state->next_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int r = 0;
    ssize_t n;

    if (fd < 0)
        return -errno;
    do
        n = write(fd, text, size);
    while (n < 0 && errno == EINTR);
    if (n >= 0 && (size_t)n < size)
        r = -ENOSPC;
    else if (n < 0 || fdatasync(fd) < 0)
        r = -errno;
    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

int state_save(struct state *state, uint64_t epoch, uint64_t sequence)
{
    char text[CONTENT_MAX];
    int size = snprintf(text, sizeof(text), CONTENT_FORMAT, epoch, sequence);
    int r;

    if (state->known && state->epoch == epoch && state->sequence == sequence)
        return 0;
    r = write_next(state, text, (size_t)size);
    if (r == 0 && rename(state->next_path, state->path) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlink(state->next_path);
        return r;
    }
    state->known = true;
    state->epoch = epoch;
    state->sequence = sequence;
    return sync_folder(state->path);
}

void state_close(struct state *state)
{
    if (state->path && state->lock >= 0)
        (void)close(state->lock);
    free(state->path);
    free(state->next_path);
    *state = (struct state){.lock = -1};
}
