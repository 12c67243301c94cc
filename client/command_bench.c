/*
 * stock-client bench: how a server does with many calls, some of them slow.
 */
#include "client/commands.h"

#include "client/command_bench_options.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* Descriptors beside those of connections: standard ones, the loop's, a resolver's. */
#define FILES_BESIDE 64

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

struct program {
    uv_loop_t uv;
    struct loop loop;
    struct bench_options options;
    struct bench_run run;
    uv_signal_t signals[ELEMENTSOF(signals)];
};

static void tell(const char *text)
{
    struct text line = {0};

    print_foreign(&line, text);
    text_add_char(&line, 0);
    (void)fprintf(stderr, "stock-client: bench: %s\n", line.failed ? strerror(ENOMEM) : line.bytes);
    text_deinit(&line);
}

static int fail(int error)
{
    char text[200];

    (void)snprintf(text, sizeof(text), "cannot start: %s", strerror(-error));
    tell(text);
    return EXIT_FAILED;
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct program *program = handle->data;

    bench_run_stop(&program->run, EXIT_INTERRUPTED);
}

static void on_stopped(struct bench_run *run)
{
    struct program *program = run->user;

    uv_stop(&program->uv);
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
    tell(text);
    return EXIT_USAGE;
}

static int open_credentials(struct bench_options *options)
{
    char error[CREDENTIALS_ERROR_MAX];
    int r;

    if (!options->tls)
        return 0;
    r = credentials_new(&options->run.tls.credentials, &options->credentials, error);
    if (r == -ENOMEM)
        return fail(r);
    if (r < 0) {
        tell(error);
        return EXIT_USAGE;
    }
    return 0;
}

static int start(struct program *program)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ELEMENTSOF(signals); i++) {
        r = uv_signal_init(&program->uv, &program->signals[i]);
        program->signals[i].data = program;
        if (r == 0)
            r = uv_signal_start(&program->signals[i], on_signal, signals[i]);
    }
    if (r < 0)
        return r;
    program->run.options = program->options.run;
    program->run.options.call.authority = program->run.options.target.authority;
    program->run.loop = &program->loop;
    program->run.stopped = on_stopped;
    program->run.user = program;
    return bench_run_start(&program->run);
}

/* A run without a connection has no results; any other has, also one that was cut short. */
static int report(struct program *program)
{
    struct bench_run *run = &program->run;
    struct text text = {0};
    int r = 0;

    run->report.interrupted = run->exit_code == EXIT_INTERRUPTED;
    if (run->exit_code == EXIT_NO_CONNECTION) {
        tell(run->report.first_error);
        return 0;
    }
    r = bench_report_write(&text, program->options.format, &run->report);
    if (r == 0 && (fwrite(text.bytes, 1, text.size, stdout) != text.size || fflush(stdout) != 0))
        r = errno ? -errno : -EIO;
    text_deinit(&text);
    /* Nobody reads any more: that is no failure. */
    return r == -EPIPE ? 0 : r;
}

static int run_bench(struct program *program)
{
    struct bench_run *bench = &program->run;
    bool flawed;
    int r = start(program);

    if (r < 0)
        return fail(r);
    (void)uv_run(&program->uv, UV_RUN_DEFAULT);
    r = report(program);
    if (r < 0) {
        tell(strerror(-r));
        return EXIT_FAILED;
    }
    flawed = bench->failed > 0 || bench->classes[BENCH_FAST].counters[BENCH_UNTOLD] > 0 ||
             bench->classes[BENCH_SLOW].counters[BENCH_UNTOLD] > 0;
    return bench->exit_code == EXIT_DONE && flawed ? EXIT_FAILED : (int)bench->exit_code;
}

static void close_all(struct program *program, int exit_code)
{
    for (size_t i = 0; i < ELEMENTSOF(program->signals); i++)
        if (program->signals[i].data)
            loop_close_signal(&program->signals[i]);
    loop_deinit(&program->loop);
    /* A resolver that hangs would keep the loop, and exit() too, until it comes back. */
    if (bench_run_abandoned(&program->run) > 0)
        _exit(exit_code);
    (void)uv_run(&program->uv, UV_RUN_DEFAULT);
    (void)uv_loop_close(&program->uv);
    bench_run_deinit(&program->run);
}

int command_bench(int argc, char *argv[])
{
    static struct program program;
    int r = bench_options_read(&program.options, argc, argv);

    if (r < 0) {
        bench_options_deinit(&program.options);
        return fail(r);
    }
    if (r != OPTIONS_RUN) {
        bench_options_deinit(&program.options);
        return r == OPTIONS_DONE ? EXIT_DONE : EXIT_USAGE;
    }
    log_open("stock-client");
    event_use_client();
    log_set_level(program.options.verbose ? LOG_DEBUG : LOG_INFO);
    r = allow_files(program.options.run.connections);
    if (r == 0)
        r = open_credentials(&program.options);
    if (r == 0 && uv_loop_init(&program.uv) == 0 && loop_init(&program.loop, &program.uv) == 0) {
        r = run_bench(&program);
        close_all(&program, r);
    } else if (r == 0) {
        r = fail(-ENOMEM);
    }
    bench_options_deinit(&program.options);
    return r;
}
