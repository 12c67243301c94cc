/*
 * Renaming is what replaces a file at once, for whoever reads it meanwhile, and after a crash. Of
 * several files the old ones are kept until the last has its name, by exchanging names with the new
 * ones, so that there is a way back.
 */
#include "config/render/output.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define MODE_DEFAULT 0666u
#define MODE_MASK 0777u

static int fault(struct config *config, const struct output *output, const char *why)
{
    return config_fault(config, "%s: %s: cannot be written: %s", output->origin, output->name, why);
}

/* -ENOMEM stays what it is. */
static int fault_errno(struct config *config, const struct output *output, int error)
{
    return error == -ENOMEM ? error : fault(config, output, strerror(-error));
}

/* ---- Where ---- */

/* The path of what does not exist: its folder must. 0 or a negative errno. */
static int locate_new(struct output *output)
{
    const char *slash = strrchr(output->name, '/');
    const char *name = slash ? slash + 1 : output->name;
    _cleanup_free_ char *folder =
        slash ? strndup(output->name, (size_t)(name - output->name)) : strdup(".");
    _cleanup_free_ char *real = folder ? realpath(folder, NULL) : NULL;

    if (!real)
        return folder ? -errno : -ENOMEM;
    /* A name that ends with a slash, or with "..", is that of a folder. */
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EISDIR;
    if (asprintf(&output->path, "%s/%s", strcmp(real, "/") == 0 ? "" : real, name) < 0) {
        output->path = NULL;
        return -ENOMEM;
    }
    return 0;
}

int output_locate(struct output *output, const char *name, const char *origin,
                  struct config *config)
{
    struct stat link;
    int r = 0;

    output->name = name;
    output->origin = origin;
    if (strcmp(name, "-") == 0)
        return 0;
    if (stat(name, &output->status) == 0) {
        output->exists = true;
        if (S_ISDIR(output->status.st_mode))
            return fault_errno(config, output, -EISDIR);
        if (!S_ISREG(output->status.st_mode))
            return fault(config, output, "it is not a regular file (- is standard output)");
        /* Renaming would not ask the file, only its folder. */
        if (access(name, W_OK) < 0)
            return fault_errno(config, output, -errno);
        output->path = realpath(name, NULL);
        return output->path ? 0 : fault_errno(config, output, -errno);
    }
    r = -errno;
    if (r == -ENOENT && lstat(name, &link) == 0)
        return fault(config, output, "it is a symbolic link to what is not there");
    if (r == -ENOENT)
        r = locate_new(output);
    return r < 0 ? fault_errno(config, output, r) : 0;
}

bool output_is_file(const struct output *output, const struct stat *status)
{
    return output->exists && output->status.st_dev == status->st_dev &&
           output->status.st_ino == status->st_ino;
}

bool output_is_output(const struct output *one, const struct output *two)
{
    if (!one->path || !two->path)
        return !one->path && !two->path;
    return strcmp(one->path, two->path) == 0 || (two->exists && output_is_file(one, &two->status));
}

/* ---- Written ---- */

static int write_bytes(int fd, const struct text *text)
{
    for (size_t at = 0; at < text->size;) {
        ssize_t size = write(fd, text->bytes + at, text->size - at);

        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            return -errno;
        at += (size_t)size;
    }
    return 0;
}

/*
 * Whoever reads standard output may let it wait, and then a signal ends that: it is blocked, stays
 * pending, and takes effect when all is taken back. 0 or a negative errno.
 */
static int write_standard_output(const struct text *text, const sigset_t *ends)
{
    _cleanup_close_ int signals = signalfd(-1, ends, SFD_CLOEXEC);
    struct pollfd fds[] = {{.fd = STDOUT_FILENO, .events = POLLOUT},
                           {.fd = signals, .events = POLLIN}};

    for (size_t at = 0; at < text->size;) {
        ssize_t size;

        if (poll(fds, ELEMENTSOF(fds), -1) < 0 && errno != EINTR)
            return -errno;
        if (fds[1].revents)
            return -EINTR;
        /* A pipe that is ready has room for so much. */
        size = write(STDOUT_FILENO, text->bytes + at, MIN(text->size - at, (size_t)PIPE_BUF));
        if (size < 0 && errno != EINTR)
            return -errno;
        at += size > 0 ? (size_t)size : 0;
    }
    return 0;
}

/* Whose file it is, and who may read it, stays as it was. */
static int copy_owner(int fd, const struct output *output)
{
    mode_t mask = umask(0);
    mode_t mode = output->exists ? output->status.st_mode & MODE_MASK : MODE_DEFAULT & ~mask;
    struct stat status;

    (void)umask(mask);
    if (fstat(fd, &status) < 0)
        return -errno;
    if (output->exists &&
        (output->status.st_uid != status.st_uid || output->status.st_gid != status.st_gid) &&
        fchown(fd, output->status.st_uid, output->status.st_gid) < 0)
        return -errno;
    return fchmod(fd, mode) < 0 ? -errno : 0;
}

/* 0 or a negative errno. */
static int write_aside(struct output *output)
{
    _cleanup_close_ int fd = -1;
    _cleanup_free_ char *aside = NULL;
    int folder = (int)(strrchr(output->path, '/') + 1 - output->path);
    int r;

    /* The file's own name may be as long as a name can be. */
    if (asprintf(&aside, "%.*s.stockd-render.XXXXXX", folder, output->path) < 0) {
        aside = NULL;
        return -ENOMEM;
    }
    fd = mkostemp(aside, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    output->aside = TAKE_PTR(aside);
    r = copy_owner(fd, output);
    if (r == 0)
        r = write_bytes(fd, &output->text);
    return r == 0 && fsync(fd) < 0 ? -errno : r;
}

/* ---- Renamed ---- */

/*
 * The last of them need not be taken back. Where a file system cannot exchange names, the old file
 * is lost; 0 or a negative errno.
 */
static int put_in_place(struct output *output, bool last)
{
    unsigned flags = output->exists ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    int r = -EINVAL;

    if (!last || !output->exists)
        r = renameat2(AT_FDCWD, output->aside, AT_FDCWD, output->path, flags) < 0 ? -errno : 0;
    if (r == 0 && output->exists) {
        output->exchanged = true;
        return 0;
    }
    if (r == -EINVAL || r == -ENOSYS)
        r = rename(output->aside, output->path) < 0 ? -errno : 0;
    if (r < 0)
        return r;
    free(output->aside);
    output->aside = NULL;
    output->created = !output->exists;
    return 0;
}

static void take_back(struct output *output)
{
    if (output->exchanged &&
        renameat2(AT_FDCWD, output->aside, AT_FDCWD, output->path, RENAME_EXCHANGE) < 0)
        (void)rename(output->aside, output->path);
    else if (output->created)
        (void)unlink(output->path);
}

/* So that the names are on the disk, too; a file system that cannot do that has none to lose. */
static void sync_folder(const struct output *output)
{
    size_t size = (size_t)(strrchr(output->path, '/') + 1 - output->path);
    _cleanup_free_ char *folder = strndup(output->path, size);
    _cleanup_close_ int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0)
        (void)fsync(fd);
}

static int write_each(struct output *outputs, size_t count, const sigset_t *ends,
                      struct config *config)
{
    struct output *last = NULL;
    size_t faults = config->faults.count;
    int r = 0;

    for (size_t i = 0; i < count; i++) {
        if (!outputs[i].path)
            continue;
        last = &outputs[i];
        r = write_aside(&outputs[i]);
        if (r < 0)
            return fault_errno(config, &outputs[i], r);
    }
    for (size_t i = 0; i < count; i++) {
        r = outputs[i].path ? 0 : write_standard_output(&outputs[i].text, ends);
        if (r < 0)
            return fault_errno(config, &outputs[i], r);
    }
    for (size_t i = 0; i < count && config->faults.count == faults; i++) {
        r = outputs[i].path ? put_in_place(&outputs[i], &outputs[i] == last) : 0;
        if (r < 0)
            return fault_errno(config, &outputs[i], r);
    }
    return 0;
}

int output_write_all(struct output *outputs, size_t count, struct config *config)
{
    static const int ends[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    size_t faults = config->faults.count;
    sigset_t set, before;
    bool failed;
    int r;

    /* Somebody's ^C comes before all of this, or after it; a full pipe or disk is only an error. */
    (void)sigemptyset(&set);
    for (size_t i = 0; i < ELEMENTSOF(ends); i++) {
        struct sigaction action;

        /* One that is ignored, as by nohup(1), stays so; blocked it would be seen. */
        if (sigaction(ends[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            (void)sigaddset(&set, ends[i]);
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)sigprocmask(SIG_BLOCK, &set, &before);
    r = write_each(outputs, count, &set, config);
    failed = r < 0 || config->faults.count > faults;
    for (size_t i = count; i-- > 0;) {
        if (failed)
            take_back(&outputs[i]);
        if (outputs[i].aside)
            (void)unlink(outputs[i].aside);
        if (outputs[i].path && !failed)
            sync_folder(&outputs[i]);
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}

void output_deinit(struct output *output)
{
    text_deinit(&output->text);
    free(output->path);
    free(output->aside);
    *output = (struct output){0};
}
