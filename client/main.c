/*
 * stock-client: finds out which command is meant, and runs it.
 */
#include "client/commands.h"
#include "client/program.h"

#include "base/log.h"
#include "base/util.h"

#include <signal.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char *argv[]);
} commands[] = {
#define X(name, help) {#name, command_##name},
    COMMANDS(X)
#undef X
};

static int run(int argc, char *argv[])
{
    for (size_t i = 0; argc > 1 && i < ELEMENTSOF(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    return command_updates(argc, argv);
}

int main(int argc, char *argv[])
{
    int exit_code;

    log_open_standard_files();
    (void)signal(SIGPIPE, SIG_IGN);
    exit_code = run(argc, argv);
    /* What --help and --version say may still have to be written. */
    if (exit_code == EXIT_DONE)
        exit_code = program_write(NULL, 0);
    log_close();
    return exit_code;
}
