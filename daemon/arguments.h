/*
 * The command line of stockd.
 */
#pragma once

#include "base/config.h"

#include <stdbool.h>

enum {
    EXIT_USAGE = 2,
    EXIT_CONFIGURATION = 78, /* EX_CONFIG of sysexits.h */
};

struct arguments {
    const char *config_file; /* NULL: none was named */
    const char *instance;    /* the same; never with a file */
    bool check;
    bool dump;
};

/*
 * The first look: what does not depend on the configuration. -1 to go on, or the code to exit with;
 * what there is to say has been printed then.
 */
int arguments_read(int argc, char **argv, struct arguments *ret_arguments);

/*
 * The second look: options that are settings come last, over files and environment. What is wrong
 * becomes a fault of `config`. 0 or -ENOMEM.
 */
int arguments_apply(int argc, char **argv, struct config *config);
