/*
 * What of a scrape is this program's to read: the Accept and Accept-Encoding headers
 * (base/exporter_accept.h). A line of the input is a header of its own.
 */
#include "base/exporter_accept.h"
#include "base/util.h"
#include "fuzz.h"

#include <string.h>

#define WEIGHT_MAX 1000

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

static void check_weights(const struct exporter_accept *accept)
{
    CHECK(accept->openmetrics >= -1 && accept->openmetrics <= WEIGHT_MAX);
    CHECK(accept->text >= -1 && accept->text <= WEIGHT_MAX);
    CHECK(accept->gzip >= -1 && accept->gzip <= WEIGHT_MAX);
    CHECK(accept->any_coding >= 0 && accept->any_coding <= WEIGHT_MAX);
    CHECK(exporter_accept_format(accept) <= METRICS_OPENMETRICS);
    /* What nobody named is not given. */
    if (exporter_accept_format(accept) == METRICS_OPENMETRICS)
        CHECK(accept->openmetrics > 0);
    if (exporter_accept_gzip(accept))
        CHECK(accept->gzip > 0 || (accept->gzip == -1 && accept->any_coding > 0));
}

static bool same(const struct exporter_accept *one, const struct exporter_accept *two)
{
    return one->openmetrics == two->openmetrics && one->text == two->text &&
           one->text_precision == two->text_precision && one->gzip == two->gzip &&
           one->any_coding == two->any_coding;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct exporter_accept accept = EXPORTER_ACCEPT_INIT;
    struct reader reader = {bytes, size};

    while (reader.size > 0) {
        const uint8_t *end = memchr(reader.bytes, '\n', reader.size);
        size_t length = end ? (size_t)(end - reader.bytes) : reader.size;
        struct reader part = read_part(&reader, length);
        char *line = fuzz_copy(part.bytes, part.size, true);
        struct exporter_accept one = EXPORTER_ACCEPT_INIT, two;

        (void)read_u8(&reader);
        exporter_accept_types(&accept, line);
        exporter_accept_codings(&accept, line);
        check_weights(&accept);

        /* The two do not touch what is the other's. */
        exporter_accept_types(&one, line);
        CHECK(one.gzip == -1 && one.any_coding == 0);
        two = one;
        exporter_accept_codings(&two, line);
        CHECK(one.openmetrics == two.openmetrics && one.text == two.text);
        /* A line that says nothing changes nothing. */
        one = two;
        exporter_accept_types(&two, "");
        exporter_accept_codings(&two, " , ,");
        CHECK(same(&one, &two));
        free(line);
    }
    return 0;
}
