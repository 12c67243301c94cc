/*
 * The commands of stock-client, each in a file of its own: `stock-client NAME ...`.
 */
#pragma once

/* X(name, help): a function command_NAME() runs it, NAME is what is typed, and the line of --help
 * begins with it. */
#define COMMANDS(X)                                                                                \
    X(watch, "watch   print what a subscription brings, and go on where it was")                   \
    X(top, "top     show tickers as a table on the whole screen")                                  \
    X(stat, "stat    print a line a second about a subscription")                                  \
    X(bench, "bench   measure a server with many calls")                                           \
    X(check, "check   ask for health and wait for an update, for scripts")                         \
    X(list, "list    list tickers and their last values")

/* `argv[0]` is the command's name, or stands for it. The program's exit code. */
#define X(name, help) int command_##name(int argc, char *argv[]);
COMMANDS(X)
#undef X

/* What there is without a command: the updates of GetUpdates. `argv[0]` is the program's name. */
int command_updates(int argc, char *argv[]);
