/*
 * What is written: every output, or none of them.
 */
#pragma once

#include "base/config.h"
#include "base/text.h"
#include "config/render/file.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* Zeroed memory can be deinitialised. */
struct output {
    const char *name;   /* as it was given, borrowed; "-": standard output */
    const char *origin; /* who gave it, borrowed */
    struct text text;   /* what is to be in it */
    char *path;         /* without symbolic links; NULL: standard output */
    char *aside;        /* the file beside it, while there is one */
    bool exists;
    bool exchanged; /* the file beside it is the old one */
    bool created;
    struct stat status; /* of what exists */
};

/*
 * Finds where an output is, through symbolic links, and that it can be one: missing in a folder
 * that is there, or a regular file. If not, that is a fault of `config`. 0 or -ENOMEM.
 */
int output_locate(struct output *output, const char *name, const char *origin,
                  struct config *config);

/* Are these the same file? */
bool output_is_file(const struct output *output, const struct stat *status);
bool output_is_output(const struct output *one, const struct output *two);

/*
 * Writes them all. A file is written aside, in the same folder, until what it holds is on the disk,
 * and only when that is so of every file, and standard output has taken what it is to have, do they
 * take their names, and, of a file that was there, owner, group and mode. When something fails,
 * that is a fault of `config` and every file is what it was. 0 or -ENOMEM.
 */
int output_write_all(struct output *outputs, size_t count, struct config *config);

void output_deinit(struct output *output);
