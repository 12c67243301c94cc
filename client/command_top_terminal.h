/*
 * The terminal of `stock-client top` on the loop: keys, a size that changes, ^Z, and a picture as
 * often as it is due.
 */
#pragma once

#include "base/loop.h"
#include "base/wheel.h"

#include <stdbool.h>
#include <stdint.h>

struct top_terminal {
    struct loop *loop;
    uint64_t interval_ms; /* between two pictures */
    void *user;

    void (*key)(void *user, int key);
    void (*draw)(void *user); /* a picture is due */
    void (*gone)(void *user); /* there is no terminal any more */

    int epoll; /* watches the keyboard */
    uv_poll_t keys;
    uv_signal_t signals[3];
    struct wheel_timer due;
    struct loop_task now;
    int log_level;
    bool open;
    bool watched; /* `keys` is open */
    bool silent;  /* messages would have gone to the terminal */
};

/*
 * Takes the terminal, in zeroed memory in which the members up to `gone` were set. 0; 1 if there is
 * none that will do: *ret_error says why; or a negative errno.
 */
int top_terminal_open(struct top_terminal *terminal, const char **ret_error);

/* Draws at the end of this turn. */
void top_terminal_draw(struct top_terminal *terminal);

/*
 * Gives it back, as it was. Does nothing if it is not open. The caller runs the loop once more
 * before the memory goes.
 */
void top_terminal_close(struct top_terminal *terminal);
