/*
 * The command line of `stock-client bench`.
 */
#pragma once

#include "client/command_bench_run.h"
#include "client/options.h"
#include "client/print.h"

struct bench_options {
    struct bench_run_options run;
    enum print_format format;
    uint8_t *request_bytes; /* of run.call.request */
};

/* What its --help prints. */
extern const char bench_usage[];

/*
 * Reads everything; argv[0] is the program's name or the command's. enum options_result or -ENOMEM.
 * In each case bench_options_deinit() frees what it holds.
 */
int bench_options_read(struct bench_options *ret_options, int argc, char *argv[]);
void bench_options_deinit(struct bench_options *options);
