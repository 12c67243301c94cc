/*
 * Standard output that never makes the loop wait. What reads it may be slow or stand still (a
 * pager, a terminal stopped with ^S, a full pipe); then the client has to press back on the server
 * and still answer PINGs, signals and scrapes.
 */
#pragma once

#include "base/loop.h"
#include "base/text.h"

#include <stdbool.h>
#include <uv.h>

struct output {
    struct loop *loop;
    struct text text; /* what is to be written; added to by the owner */
    int fd;
    int epoll;    /* -1: the file never blocks for long (a regular file, /dev/null) */
    bool watched; /* `poll` is open */
    bool blocked; /* waits until the file takes more */
    uv_poll_t poll;
    void *user;

    /* All text has been written, after output_flush() said that it waits. */
    void (*written)(void *user);

    /* Writing failed; `error` is a negative errno, -EPIPE when nobody reads any more. */
    void (*broken)(void *user, int error);
};

/*
 * Prepares zeroed memory in which `user`, `written` and `broken` were set. `fd` is borrowed, and
 * its flags stay as they are: other programs share them. 0 or a negative errno.
 */
int output_init(struct output *output, struct loop *loop, int fd);

/* Closes the handle; the caller runs the loop once more before the memory goes. */
void output_deinit(struct output *output);

/*
 * Writes all text. 0; 1 if the rest waits for the file, and `written` or `broken` follows; or a
 * negative errno.
 */
int output_flush(struct output *output);

/* May the owner add text now? False while a flush waits. */
static inline bool output_ready(const struct output *output)
{
    return !output->blocked;
}
