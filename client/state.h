/*
 * A file that keeps the position of a subscription, so that the next run goes on where this one
 * was. It is always whole: the new one is written beside it, brought to the disk, and takes its
 * place. Two programs cannot have one at once.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define STATE_ERROR_MAX 512

struct state {
    char *path;
    char *next_path; /* what is written before it takes the place of `path` */
    int lock;        /* descriptor of the file that is locked while this is open */
    bool known;      /* the two below are set */
    uint64_t epoch;
    uint64_t sequence;
};

/*
 * Locks PATH.lock, which stays there, and reads the file at `path`, if there is one. 0, -ENOMEM, or
 * -EINVAL with what is wrong in `error`: another program has it, the folder is not there or may not
 * be written to, or the file is none of these; it is never overwritten then. In each case
 * state_close() frees what it holds.
 */
int state_open(struct state *state, const char *path, char error[static STATE_ERROR_MAX]);

/* Keeps a position. 0 or a negative errno; then what was kept before still is. */
int state_save(struct state *state, uint64_t epoch, uint64_t sequence);

void state_close(struct state *state);
