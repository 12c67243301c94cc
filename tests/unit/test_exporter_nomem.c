/*
 * The scrape endpoint, made and scraped with the Nth allocation failing, for every N: it fails
 * cleanly, answers with an error, or does without.
 */
#include "base/exporter.h"

#include "base/util.h"
#include "failmalloc.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 20000

static int render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size)
{
    return metrics_render(metrics_process, metrics_process_count, NULL, format, ret_text, ret_size);
}

static bool ready(void *context)
{
    return true;
}

static const struct exporter_options options = {
    .program = "a-program", .version = "1", .render = render, .ready = ready};

static int start(struct exporter **ret_exporter, uv_loop_t *loop)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct endpoint endpoint = endpoint_at((const struct sockaddr *)&address);

    return exporter_new(ret_exporter, loop, &endpoint, &options);
}

static void test_new(void **state)
{
    uv_loop_t loop;
    struct exporter *exporter = NULL;
    bool failed;
    size_t nth = 0;

    assert_int_equal(uv_loop_init(&loop), 0);
    do {
        failmalloc_arm(++nth);
        int r = start(&exporter, &loop);
        failed = failmalloc_disarm();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        if (failed)
            assert_null(exporter);
        exporter = exporter_free(exporter);
        assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    } while (failed);
    assert_true(nth > 1);
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* Allocates nothing itself. The answer's status, or 0 if the connection ended without one. */
static int scrape(uv_loop_t *loop, const struct exporter *exporter, bool *ret_gzip)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                                  "Accept-Encoding: gzip\r\n\r\n";
    static char answer[65536];
    struct sockaddr_storage address;
    size_t size = 0;
    ssize_t part;

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(exporter_address(exporter, &address), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(struct sockaddr_in)), 0);
    assert_int_equal(send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL), sizeof(request) - 1);
    uint64_t end = uv_hrtime() + (uint64_t)PATIENCE_MS * 1000000;
    for (;;) {
        (void)uv_run(loop, UV_RUN_NOWAIT);
        part = recv(fd, answer + size, sizeof(answer) - 1 - size, MSG_DONTWAIT);
        if (part < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            assert_true(uv_hrtime() < end);
            continue;
        }
        if (part <= 0)
            break;
        size += (size_t)part;
    }
    (void)close(fd);
    answer[size] = '\0';
    *ret_gzip = strstr(answer, "Content-Encoding: gzip\r\n") != NULL;
    return size > 12 ? (int)strtol(answer + strlen("HTTP/1.1 "), NULL, 10) : 0;
}

static void test_scrape(void **state)
{
    uv_loop_t loop;
    struct exporter *exporter;
    bool failed, gzip;
    unsigned errors = 0, plain = 0;
    size_t nth = 0;

    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(start(&exporter, &loop), 0);
    do {
        failmalloc_arm(++nth);
        int status = scrape(&loop, exporter, &gzip);
        failed = failmalloc_disarm();
        errors += status == 500;
        plain += status == 200 && !gzip;
        assert_true(status == 200 || failed);

        /* And the next is served as if nothing had been. */
        assert_int_equal(scrape(&loop, exporter, &gzip), 200);
        assert_true(gzip);
    } while (failed);
    assert_true(errors > 0); /* no memory for the text */
    assert_true(plain > 0);  /* none for its compressed form */
    exporter = exporter_free(exporter);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new),
        cmocka_unit_test(test_scrape),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
