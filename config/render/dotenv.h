/*
 * .env files: variables for several programs, in the form that the libraries called "dotenv" read.
 */
#pragma once

#include "base/config.h"

#include <stddef.h>

/* A variable that is wanted. Its value is for free(); NULL: the file does not have it. */
struct dotenv_variable {
    const char *name;
    char *value;
    unsigned line; /* where the value is */
};

/*
 * Finds variables in a file:
 *
 *     # a comment
 *     NAME=value # one more
 *     export NAME = 'a value'
 *     NAME: "one with \"escapes\""
 *
 * The last line for a name counts. Other variables are passed over. A line that is no such thing, a
 * quote without its end, and, in a value that is wanted, the expansion of a variable ($X, which is
 * not supported) and control characters are faults of `config`, with `file` and the line. 0 or
 * -ENOMEM; the values are the caller's to free in either case.
 */
int dotenv_read(struct config *config, const char *file, const char *bytes, size_t size,
                struct dotenv_variable *variables, size_t count);
