/*
 * What every command is as a program: a loop, signals that end it in good order, and words to
 * whoever started it.
 */
#pragma once

#include "base/log.h"
#include "base/loop.h"
#include "client/connect_options.h"

#include <stdbool.h>
#include <uv.h>

/* The program's exit codes, as the manual page has them. */
enum exit_code {
    EXIT_DONE = 0,
    EXIT_FAILED = 1, /* the call failed, or this program did */
    EXIT_USAGE = 2,
    EXIT_NO_CONNECTION = 3,
    EXIT_INTERRUPTED = 130,
};

struct program {
    void (*interrupted)(struct program *program); /* SIGINT, SIGTERM or SIGHUP has come */

    uv_loop_t uv;
    struct loop loop;
    uv_signal_t signals[3];
    bool has_uv;
    bool has_loop;
};

/*
 * What comes before anything is connected: opens the log, and reads the files that TLS needs. 0, or
 * an exit code after what is wrong has been told.
 */
int program_prepare(struct connect_options *connect);

/* The exit code for what a command's options were read with, or prepared: an enum options_result
 * other than OPTIONS_RUN, or a negative errno, which is told. */
int program_exit_code(int result);

/* Opens the loop in zeroed memory in which `interrupted` was set. 0, or an exit code after what is
 * wrong has been told; program_close() follows in each case. */
int program_open(struct program *program);

/* Until uv_stop() is called. */
void program_run(struct program *program);

/*
 * Closes the loop when nothing else is open in it. A resolver that hangs (`abandoned`: how many)
 * would keep it, and exit() too, until it comes back: then this ends the process, with `exit_code`.
 */
void program_close(struct program *program, unsigned abandoned, int exit_code);

/* To whoever started the program, without time and level; or to the journal, as a message with
 * these fields, of which the first are those of an event. The text may have a server's words in it.
 */
void program_tell(int level, const struct log_field *fields, const char *text);

/* The same of what it ends for before it has begun. */
void program_tell_failure(const char *error);

/* The same of a negative errno. EXIT_FAILED. */
int program_fail(int error);

/* All of it to standard output. EXIT_DONE, also if nobody reads that any more; or EXIT_FAILED after
 * it has been told why not. */
int program_write(const char *bytes, size_t size);
