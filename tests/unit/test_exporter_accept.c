/*
 * What scrapers ask for.
 */
#include "base/exporter_accept.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static void test_types(void **state)
{
    static const struct {
        const char *lines[2];
        enum metrics_format format;
    } cases[] = {
        {{""}, METRICS_TEXT},
        {{"*/*"}, METRICS_TEXT},
        {{"text/html"}, METRICS_TEXT},
        {{"application/openmetrics-text"}, METRICS_OPENMETRICS},
        {{" Application/OpenMetrics-Text ; VERSION=\"1.0.0\" "}, METRICS_OPENMETRICS},
        {{"application/openmetrics-text;version=0.0.1"}, METRICS_TEXT},
        {{"application/openmetrics-text;q=0"}, METRICS_TEXT},
        {{"application/openmetrics-text;q=0.5,text/plain;q=0.4"}, METRICS_OPENMETRICS},
        {{"application/openmetrics-text;q=0.5,text/plain;q=0.6"}, METRICS_TEXT},
        {{"application/openmetrics-text;q=0.5,text/plain;version=9;q=0.6"}, METRICS_OPENMETRICS},
        /* The most precise range for text decides, wherever it stands. */
        {{"application/openmetrics-text;q=0.5,text/plain;q=0.1,*/*;q=1"}, METRICS_OPENMETRICS},
        {{"application/openmetrics-text;q=0.5,text/*;q=0.9,*/*;q=0.1"}, METRICS_TEXT},
        /* Lines add up. */
        {{"text/plain;q=0.5", "application/openmetrics-text"}, METRICS_OPENMETRICS},
        {{"application/openmetrics-text;q=0.5", "text/plain"}, METRICS_TEXT},
        /* Separators inside quotes are none. */
        {{"x/y;z=\"a,application/openmetrics-text\""}, METRICS_TEXT},
        {{"x/y;z=\"\\\",application/openmetrics-text\""}, METRICS_TEXT},
        /* Empty parts, and weights that are none. */
        {{",,;,application/openmetrics-text;;q=1;,"}, METRICS_OPENMETRICS},
        {{"application/openmetrics-text;q="}, METRICS_TEXT},
        {{"application/openmetrics-text;q=1,5"}, METRICS_OPENMETRICS},
        {{"application/openmetrics-text;q=high"}, METRICS_TEXT},
        {{"application/openmetrics-text;q=-1"}, METRICS_TEXT},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct exporter_accept accept = EXPORTER_ACCEPT_INIT;

        for (size_t line = 0; line < 2 && cases[i].lines[line]; line++)
            exporter_accept_types(&accept, cases[i].lines[line]);
        if (exporter_accept_format(&accept) != cases[i].format)
            fail_msg("%s", cases[i].lines[0]);
    }
}

static void test_codings(void **state)
{
    static const struct {
        const char *line;
        bool gzip;
    } cases[] = {
        {"", false},
        {"identity", false},
        {"gzip", true},
        {"deflate, X-GZIP ;q=0.001", true},
        {"gzip;q=0", false},
        {"gzip;q=0.000", false},
        {"*", true},
        {"*;q=0", false},
        {"gzip;q=0, *", false},
        {"*;q=0, gzip", true},
        {"gzipped", false},
        {"gzip;;q=0", false},
        {"gzip; ;=;q=0;", false},
        {"gzip;=0", true},
        {"gzip;q=1;;", true},
        {";q=1", false},
        {"\"gzip", false},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct exporter_accept accept = EXPORTER_ACCEPT_INIT;

        exporter_accept_codings(&accept, cases[i].line);
        if (exporter_accept_gzip(&accept) != cases[i].gzip)
            fail_msg("%s", cases[i].line);
    }
}

/* Whatever comes is read to its end and no further, which the sanitizer build sees. */
static void test_any_bytes(void **state)
{
    static const char *const words[] = {
        "gzip",       "*",  "application/openmetrics-text",
        "text/plain", "q",  "0.5",
        "=",          ";",  ",",
        "\"",         "\\", " ",
        "\t",
    };
    uint32_t random = 2463534242u;

    for (unsigned i = 0; i < 100000; i++) {
        struct exporter_accept accept = EXPORTER_ACCEPT_INIT;
        char line[256] = "";
        char *exact;

        do {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            (void)strcat(line, words[(random >> 8) % ELEMENTSOF(words)]);
        } while (random % 8 > 0 && strlen(line) < 200);
        exact = strdup(line);
        assert_non_null(exact);
        exporter_accept_types(&accept, exact);
        exporter_accept_codings(&accept, exact);
        free(exact);
        assert_in_range(accept.openmetrics + 1, 0, 1001);
        assert_in_range(accept.text + 1, 0, 1001);
        assert_in_range(accept.gzip + 1, 0, 1001);
        assert_in_range(accept.any_coding, 0, 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_codings),
        cmocka_unit_test(test_any_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
