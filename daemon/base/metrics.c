/*
 * Text of metrics. A scrape may have many samples, so a sample costs no allocation: all of it goes
 * into one buffer that doubles. When the buffer cannot grow, its text remembers that something is
 * missing and metrics_render() reports it, so that collect functions need not check each sample.
 */
#include "base/metrics.h"

#include "base/number.h"
#include "base/text.h"
#include "base/util.h"
#include "proto/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Most programs' whole text fits. */
#define TEXT_SIZE_INITIAL (16 * 1024)

struct metrics_writer {
    struct text text;
    enum metrics_format format;
    const char *name; /* of the family that is being collected */
    size_t name_length;
};

void histogram_init(struct histogram *histogram, const double *bounds, unsigned count)
{
    *histogram = (struct histogram){
        .bounds = bounds,
        .count = MIN(count, (unsigned)HISTOGRAM_BUCKETS_MAX),
    };
}

void histogram_observe(struct histogram *histogram, double value)
{
    histogram_observe_many(histogram, value, 1);
}

void histogram_observe_many(struct histogram *histogram, double value, uint64_t times)
{
    unsigned i = 0;

    /* Either would make the sum useless for ever: infinity times nothing is a NaN, too. */
    if (isnan(value) || times == 0)
        return;
    while (i < histogram->count && value > histogram->bounds[i])
        i++;
    histogram->buckets[i] += times;
    histogram->sum += value * (double)times;
}

/*
 * Escapes backslashes and line feeds, and double quotes if `quotes`. Both formats are UTF-8, and a
 * scraper drops the whole text for one bad byte: what is no character becomes U+FFFD here.
 */
static void put_escaped(struct metrics_writer *writer, const char *text, bool quotes)
{
    size_t length = strlen(text), plain = 0;

    for (size_t i = 0; i < length;) {
        const char *replacement = NULL;
        uint32_t code;
        size_t taken;

        if (!utf8_decode(text + i, length - i, &code, &taken)) {
            replacement = UTF8_REPLACEMENT;
        } else if (text[i] == '\\') {
            replacement = "\\\\";
        } else if (text[i] == '\n') {
            replacement = "\\n";
        } else if (text[i] == '"' && quotes) {
            replacement = "\\\"";
        }
        if (replacement != NULL) {
            text_add(&writer->text, text + plain, i - plain);
            text_add_string(&writer->text, replacement);
            plain = i + taken;
        }
        i += taken;
    }
    text_add(&writer->text, text + plain, length - plain);
}

static void put_u64(struct metrics_writer *writer, uint64_t value)
{
    char digits[20];
    size_t start = sizeof(digits);

    do {
        digits[--start] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    text_add(&writer->text, digits + start, sizeof(digits) - start);
}

/* True if the value is not a finite number, which has a fixed text. */
static bool put_special(struct metrics_writer *writer, double value)
{
    if (isfinite(value))
        return false;
    text_add_string(&writer->text, isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
    return true;
}

static void put_double(struct metrics_writer *writer, double value)
{
    char text[NUMBER_TEXT_MAX];

    if (put_special(writer, value))
        return;
    if (value >= 0 && value < 1e15 && value == floor(value)) {
        put_u64(writer, (uint64_t)value);
        return;
    }
    (void)number_format(value, text);
    text_add_string(&writer->text, text);
}

/*
 * The value of an "le" label in the canonical form of OpenMetrics, which is Go's: always with a
 * point or an exponent, and an exponent from 1e+06 on and below 1e-04. Used in both formats, so
 * that a change of format between two scrapes does not make a new series.
 */
static void put_bound(struct metrics_writer *writer, double value)
{
    char text[NUMBER_TEXT_MAX];
    double magnitude = fabs(value);
    int digits;

    if (put_special(writer, value))
        return;
    digits = number_format(value, text);
    if (magnitude != 0 && (magnitude < 1e-4 || magnitude >= 1e6)) {
        /* Drops the zeros at the end of the fraction, and the point with them. */
        (void)snprintf(text, sizeof(text), "%.*e", digits - 1, value);
        char *exponent = strchr(text, 'e'), *end = exponent;
        if (memchr(text, '.', (size_t)(exponent - text)) != NULL) {
            while (end[-1] == '0')
                end--;
            if (end[-1] == '.')
                end--;
        }
        memmove(end, exponent, strlen(exponent) + 1);
        text_add_string(&writer->text, text);
        return;
    }
    text_add_string(&writer->text, text);
    if (strchr(text, '.') == NULL)
        text_add_string(&writer->text, ".0");
}

/* Name and labels of a sample. */
static void put_sample_start(struct metrics_writer *writer, va_list labels)
{
    char separator = '{';

    text_add(&writer->text, writer->name, writer->name_length);
    for (;;) {
        const char *name = va_arg(labels, const char *);
        if (name == NULL)
            break;
        const char *value = va_arg(labels, const char *);
        text_add_char(&writer->text, separator);
        text_add_string(&writer->text, name);
        text_add_string(&writer->text, "=\"");
        put_escaped(writer, value != NULL ? value : "", true);
        text_add_char(&writer->text, '"');
        separator = ',';
    }
    if (separator == ',')
        text_add_char(&writer->text, '}');
    text_add_char(&writer->text, ' ');
}

void metrics_u64(struct metrics_writer *writer, uint64_t value, ...)
{
    va_list labels;

    va_start(labels, value);
    put_sample_start(writer, labels);
    va_end(labels);
    put_u64(writer, value);
    text_add_char(&writer->text, '\n');
}

void metrics_double(struct metrics_writer *writer, double value, ...)
{
    va_list labels;

    va_start(labels, value);
    put_sample_start(writer, labels);
    va_end(labels);
    put_double(writer, value);
    text_add_char(&writer->text, '\n');
}

void metrics_histogram(struct metrics_writer *writer, const struct histogram *histogram)
{
    uint64_t total = 0;

    for (unsigned i = 0; i <= histogram->count; i++) {
        total += histogram->buckets[i];
        text_add(&writer->text, writer->name, writer->name_length);
        text_add_string(&writer->text, "_bucket{le=\"");
        put_bound(writer, i < histogram->count ? histogram->bounds[i] : INFINITY);
        text_add_string(&writer->text, "\"} ");
        put_u64(writer, total);
        text_add_char(&writer->text, '\n');
    }
    text_add(&writer->text, writer->name, writer->name_length);
    text_add_string(&writer->text, "_sum ");
    put_double(writer, histogram->sum);
    text_add_char(&writer->text, '\n');
    text_add(&writer->text, writer->name, writer->name_length);
    text_add_string(&writer->text, "_count ");
    put_u64(writer, total);
    text_add_char(&writer->text, '\n');
}

void metrics_build_info(struct metrics_writer *writer, const struct metric_family *family,
                        void *context)
{
    metrics_u64(writer, 1, "version", STOCKD_VERSION, NULL);
}

/* "# KEYWORD name ", with the name of the family as the format has it. */
static void put_comment_start(struct metrics_writer *writer, const char *keyword, size_t length)
{
    text_add_string(&writer->text, keyword);
    text_add(&writer->text, writer->name, length);
    text_add_char(&writer->text, ' ');
}

static void put_family(struct metrics_writer *writer, const struct metric_family *family,
                       void *context)
{
    static const char *const types[] = {
        [METRIC_COUNTER] = "counter",
        [METRIC_GAUGE] = "gauge",
        [METRIC_HISTOGRAM] = "histogram",
    };
    static const char suffix[] = "_total";
    const size_t suffix_length = sizeof(suffix) - 1;
    bool openmetrics = writer->format == METRICS_OPENMETRICS;

    writer->name = family->name;
    writer->name_length = strlen(family->name);
    size_t length = writer->name_length, start = writer->text.size;
    if (openmetrics && family->type == METRIC_COUNTER && length > suffix_length &&
        strcmp(family->name + length - suffix_length, suffix) == 0)
        length -= suffix_length;

    put_comment_start(writer, "# HELP ", length);
    put_escaped(writer, family->help, openmetrics);
    text_add_char(&writer->text, '\n');
    put_comment_start(writer, "# TYPE ", length);
    text_add_string(&writer->text, types[family->type]);
    text_add_char(&writer->text, '\n');

    size_t samples = writer->text.size;
    family->collect(writer, family, context);
    if (writer->text.size == samples)
        writer->text.size = start; /* nothing to say today: not even its name */
}

/* Without memory for the buffer nothing is collected, and finish() says so. */
static void start_text(struct metrics_writer *ret_writer, enum metrics_format format)
{
    *ret_writer = (struct metrics_writer){.format = format};
    (void)text_reserve(&ret_writer->text, TEXT_SIZE_INITIAL);
}

static void put_table(struct metrics_writer *writer, const struct metric_family *table,
                      size_t count, void *context)
{
    for (size_t i = 0; i < count && !writer->text.failed; i++)
        put_family(writer, &table[i], context);
}

/* Ends the text and hands it over. */
static int finish(struct metrics_writer *writer, char **ret_text, size_t *ret_size)
{
    if (writer->format == METRICS_OPENMETRICS)
        text_add_string(&writer->text, "# EOF\n");
    text_add_char(&writer->text, '\0');
    if (writer->text.failed) {
        text_deinit(&writer->text);
        return -ENOMEM;
    }
    *ret_text = writer->text.bytes;
    *ret_size = writer->text.size - 1;
    return 0;
}

int metrics_render(const struct metric_family *table, size_t count, void *context,
                   enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct metrics_writer writer;

    start_text(&writer, format);
    put_table(&writer, table, count, context);
    return finish(&writer, ret_text, ret_size);
}

int metrics_render_program(const struct metric_family *table, size_t count, void *context,
                           enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct metrics_writer writer;

    start_text(&writer, format);
    put_table(&writer, table, count, context);
    put_table(&writer, metrics_process, metrics_process_count, context);
    return finish(&writer, ret_text, ret_size);
}
