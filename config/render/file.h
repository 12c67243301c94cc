/*
 * Files that are read whole.
 */
#pragma once

#include "base/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* The largest file that is read. */
#define FILE_SIZE_MAX ((size_t)1 << 20)

struct file {
    char *bytes; /* NULL: it was not read */
    size_t size;
    struct stat status;
};

/*
 * Reads a file of any kind up to its end. One that cannot be read, or is too large, is a fault of
 * `config`, which begins with `origin`, if that is not NULL. If it is only `optional`, it need not
 * be there, and counts as missing if it is a directory. 0 or -ENOMEM. The caller frees.
 */
int file_read(struct file *ret_file, const char *path, const char *origin, bool optional,
              struct config *config);
void file_deinit(struct file *file);
