/*
 * Reading goes by read(), not by the size that a file says it has: a template may come through a
 * pipe.
 */
#include "config/render/file.h"

#include "base/text.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES 16384

/* 0, or a negative errno: -EFBIG if there is too much. */
static int read_all(int fd, struct text *text)
{
    for (;;) {
        ssize_t size;

        if (!text_reserve(text, PIECE_BYTES))
            return -ENOMEM;
        size = read(fd, text->bytes + text->size, PIECE_BYTES);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return size < 0 ? -errno : 0;
        text->size += (size_t)size;
        if (text->size > FILE_SIZE_MAX)
            return -EFBIG;
    }
}

int file_read(struct file *ret_file, const char *path, const char *origin, bool optional,
              struct config *config)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    const char *separator = origin ? ": " : "";
    struct text text = {0};
    struct stat status = {0};
    int r = fd < 0 || fstat(fd, &status) < 0 ? -errno : 0;

    if (optional && (r == -ENOENT || (r == 0 && S_ISDIR(status.st_mode))))
        return 0;
    if (r == 0)
        r = read_all(fd, &text);
    if (r == 0) {
        *ret_file = (struct file){.bytes = text.bytes, .size = text.size, .status = status};
        return 0;
    }
    text_deinit(&text);
    if (r == -ENOMEM)
        return r;
    if (!origin)
        origin = "";
    if (r == -EFBIG)
        return config_fault(config, "%s%s%s: the file is larger than %zu bytes", origin, separator,
                            path, FILE_SIZE_MAX);
    return config_fault(config, "%s%s%s: cannot be read: %s", origin, separator, path,
                        strerror(-r));
}

void file_deinit(struct file *file)
{
    free(file->bytes);
    *file = (struct file){0};
}
