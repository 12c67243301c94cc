/*
 * The commands of stock-client, each in a file of its own: `stock-client NAME ...`.
 */
#pragma once

/* X(name): a function command_NAME() runs it, and NAME is what is typed. */
#define COMMANDS(X)                                                                                \
    X(watch)                                                                                       \
    X(top)                                                                                         \
    X(check)                                                                                       \
    X(list)                                                                                        \
    X(stat)                                                                                        \
    X(bench)

/* `argv[0]` is the command's name, or stands for it. The program's exit code. */
#define X(name) int command_##name(int argc, char *argv[]);
COMMANDS(X)
#undef X

/* What there is without a command: the updates of GetUpdates. `argv[0]` is the program's name. */
int command_updates(int argc, char *argv[]);
