/*
 * stock-client bench: how a server does with many calls, some of them slow.
 */
#pragma once

/* Runs it; argv[0] is the command's name. The program's exit code. */
int command_bench(int argc, char *argv[]);
