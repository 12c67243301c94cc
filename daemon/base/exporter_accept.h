/*
 * What a scraper asks for with its Accept and Accept-Encoding headers (RFC 9110, 12.5). Pure: it
 * knows neither HTTP's library nor connections.
 */
#pragma once

#include "base/metrics.h"

#include <stdbool.h>

/* What the headers have said so far; weights in thousandths, -1 for what they did not name. */
struct exporter_accept {
    int openmetrics;
    int text;
    int text_precision; /* of the range that `text` is from */
    int gzip;
    int any_coding; /* 0: not named, which is the same as not wanted */
};

/* Before any header. */
#define EXPORTER_ACCEPT_INIT                                                                       \
    {                                                                                              \
        .openmetrics = -1, .text = -1, .gzip = -1                                                  \
    }

/* Reads a line of Accept, of which there may be several. Malformed parts count for nothing. */
void exporter_accept_types(struct exporter_accept *accept, const char *value);

/* The same for Accept-Encoding. */
void exporter_accept_codings(struct exporter_accept *accept, const char *value);

/*
 * The format to answer with. A client that names OpenMetrics can read it; text is for those that
 * like it better, or name neither.
 */
enum metrics_format exporter_accept_format(const struct exporter_accept *accept);

/* Does the client want gzip? */
bool exporter_accept_gzip(const struct exporter_accept *accept);
