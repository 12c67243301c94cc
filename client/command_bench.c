/*
 * stock-client bench: how a server does with many calls, some of them slow.
 */
#include "client/commands.h"

#include "client/command_bench_options.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* Descriptors beside those of connections: standard ones, the loop's, a resolver's. */
#define FILES_BESIDE 64

struct bench_command {
    struct program program;
    struct bench_options options;
    struct bench_run run;
};

static void on_interrupted(struct program *program)
{
    bench_run_stop(&container_of(program, struct bench_command, program)->run, EXIT_INTERRUPTED);
}

static void on_stopped(struct bench_run *run)
{
    struct bench_command *bench = run->user;

    uv_stop(&bench->program.uv);
}

/* Each connection is an open file; that there are too few is better known before it begins. */
static int allow_files(uint32_t connections)
{
    struct rlimit files;
    char text[200];

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return 0;
    if (files.rlim_cur != RLIM_INFINITY && files.rlim_cur < connections + FILES_BESIDE) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur == RLIM_INFINITY || files.rlim_cur >= connections + FILES_BESIDE)
        return 0;
    (void)snprintf(text, sizeof(text),
                   "--connections: %u need %u open files, and %llu are allowed (ulimit -Hn)",
                   connections, connections + FILES_BESIDE, (unsigned long long)files.rlim_cur);
    program_tell_failure(text);
    return EXIT_USAGE;
}

static int start(struct bench_command *bench)
{
    bench->run.options = bench->options.run;
    bench->run.options.call.authority = bench->run.options.connect.target.authority;
    bench->run.loop = &bench->program.loop;
    bench->run.stopped = on_stopped;
    bench->run.user = bench;
    return bench_run_start(&bench->run);
}

/* A run without a connection has no results; any other has, also one that was cut short. The exit
 * code. */
static int report(struct bench_command *bench)
{
    struct bench_run *run = &bench->run;
    struct text text = {0};
    int r = 0;

    run->report.interrupted = run->exit_code == EXIT_INTERRUPTED;
    if (run->exit_code == EXIT_NO_CONNECTION) {
        program_tell_failure(run->report.first_error);
        return EXIT_DONE;
    }
    r = bench_report_write(&text, bench->options.format, &run->report);
    if (r < 0)
        program_tell_failure(strerror(-r));
    r = r < 0 ? EXIT_FAILED : program_write(text.bytes, text.size);
    text_deinit(&text);
    return r;
}

static int run_bench(struct bench_command *bench)
{
    struct bench_run *run = &bench->run;
    bool flawed;
    int r = start(bench);

    if (r < 0)
        return program_fail(r);
    program_run(&bench->program);
    r = report(bench);
    if (r != EXIT_DONE)
        return r;
    flawed = run->failed > 0 || run->classes[BENCH_FAST].counters[BENCH_UNTOLD] > 0 ||
             run->classes[BENCH_SLOW].counters[BENCH_UNTOLD] > 0;
    return run->exit_code == EXIT_DONE && flawed ? EXIT_FAILED : (int)run->exit_code;
}

/* The exit code. */
static int run_program(struct bench_command *bench)
{
    int exit_code = program_prepare(&bench->options.run.connect);

    if (exit_code == 0)
        exit_code = allow_files(bench->options.run.connections);
    if (exit_code != 0)
        return exit_code;
    bench->program.interrupted = on_interrupted;
    exit_code = program_open(&bench->program);
    if (exit_code == 0)
        exit_code = run_bench(bench);
    program_close(&bench->program, bench_run_abandoned(&bench->run), exit_code);
    bench_run_deinit(&bench->run);
    return exit_code;
}

int command_bench(int argc, char *argv[])
{
    static struct bench_command bench;
    int r = bench_options_read(&bench.options, argc, argv);
    int exit_code = r == OPTIONS_RUN ? run_program(&bench) : program_exit_code(r);

    bench_options_deinit(&bench.options);
    return exit_code;
}
