#include "client/program.h"

#include "base/credentials.h"
#include "base/events.h"
#include "base/util.h"
#include "client/options.h"
#include "client/print.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

static_assert(ELEMENTSOF(signals) == ELEMENTSOF(((struct program *)NULL)->signals),
              "each signal has its handle");

void program_tell(int level, const struct log_field *fields, const char *text)
{
    struct text line = {0};

    if (log_to_journal()) {
        log_event(level, fields, "%s", text);
        return;
    }
    print_foreign(&line, text);
    text_add_char(&line, 0);
    (void)fprintf(stderr, "stock-client: %s\n", line.failed ? strerror(ENOMEM) : line.bytes);
    text_deinit(&line);
}

void program_tell_failure(const char *error)
{
    program_tell(LOG_ERR, log_fields(LOG_EVENT(START_FAILED), {"STOCKD_ERROR", error}), error);
}

int program_fail(int error)
{
    char text[200];

    (void)snprintf(text, sizeof(text), "cannot start: %s", strerror(-error));
    program_tell_failure(text);
    return EXIT_FAILED;
}

int program_write(const char *bytes, size_t size)
{
    const char *error;
    char text[200];

    errno = 0;
    if (size > 0)
        (void)fwrite(bytes, 1, size, stdout);
    if (!ferror(stdout) && fflush(stdout) == 0)
        return EXIT_DONE;
    if (errno == EPIPE) {
        clearerr(stdout);
        return EXIT_DONE;
    }
    error = strerror(errno ? errno : EIO);
    (void)snprintf(text, sizeof(text), "cannot write to standard output: %s", error);
    program_tell(LOG_ERR, log_fields(LOG_EVENT(OUTPUT_FAILED), {"STOCKD_ERROR", error}), text);
    return EXIT_FAILED;
}

static int open_credentials(struct connect_options *connect)
{
    char error[CREDENTIALS_ERROR_MAX];
    int r;

    if (!connect->tls_wanted)
        return 0;
    r = credentials_new(&connect->tls.credentials, &connect->credentials, error);
    if (r == -ENOMEM)
        return program_fail(r);
    if (r < 0) {
        program_tell_failure(error);
        return EXIT_USAGE;
    }
    if (connect->tls.insecure)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(UNVERIFIED), {"STOCKD_TARGET", connect->target.text}),
                  "whoever the server is, its certificate is taken (--insecure)");
    return 0;
}

int program_prepare(struct connect_options *connect)
{
    log_open("stock-client");
    event_use_client();
    log_set_level(connect->verbose ? LOG_DEBUG : LOG_INFO);
    return open_credentials(connect);
}

int program_exit_code(int result)
{
    if (result < 0)
        return program_fail(result);
    return result == OPTIONS_WRONG ? EXIT_USAGE : EXIT_DONE;
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct program *program = handle->data;

    /* A second one changes nothing: the goodbye is short, and timeout(1) always sends two. */
    log_event(LOG_DEBUG, log_fields(LOG_EVENT(INTERRUPTED), {"STOCKD_SIGNAL", strsignal(number)}),
              "%s", strsignal(number));
    program->interrupted(program);
}

static int open_all(struct program *program)
{
    int r = uv_loop_init(&program->uv);

    if (r < 0)
        return r;
    program->has_uv = true;
    r = loop_init(&program->loop, &program->uv);
    if (r < 0)
        return r;
    program->has_loop = true;
    for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
        r = uv_signal_init(&program->uv, &program->signals[i]);
        if (r < 0)
            return r;
        program->signals[i].data = program;
        r = uv_signal_start(&program->signals[i], on_signal, signals[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

int program_open(struct program *program)
{
    int r = open_all(program);

    return r < 0 ? program_fail(r) : 0;
}

void program_run(struct program *program)
{
    (void)uv_run(&program->uv, UV_RUN_DEFAULT);
}

void program_close(struct program *program, unsigned abandoned, int exit_code)
{
    for (size_t i = 0; i < ELEMENTSOF(program->signals); i++)
        if (program->signals[i].data)
            loop_close_signal(&program->signals[i]);
    if (program->has_loop)
        loop_deinit(&program->loop);
    if (abandoned > 0) {
        log_close();
        _exit(exit_code);
    }
    if (!program->has_uv)
        return;
    (void)uv_run(&program->uv, UV_RUN_DEFAULT);
    (void)uv_loop_close(&program->uv);
}
