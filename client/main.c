/*
 * stock-client: finds out which command is meant, and runs it.
 */
#include "client/commands.h"

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

int main(int argc, char *argv[])
{
    log_open_standard_files();
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; argc > 1 && i < ELEMENTSOF(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    return command_updates(argc, argv);
}
