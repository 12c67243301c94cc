/*
 * Text of metrics. A scrape may have many samples, so a sample costs no allocation: all of it goes
 * into one buffer that doubles. When the buffer cannot grow, the rest of the rendering does nothing
 * and metrics_render() reports it, so that collect functions need not check each sample.
 */
#include "base/metrics.h"

#include "base/util.h"
#include "proto/utf8.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Most programs' whole text fits. */
#define BUFFER_SIZE_INITIAL (16 * 1024)

struct metrics_writer {
    char *buffer;
    size_t size;
    size_t capacity;
    bool failed;
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
    unsigned i = 0;

    if (isnan(value))
        return; /* it would make the sum useless for ever */
    while (i < histogram->count && value > histogram->bounds[i])
        i++;
    histogram->buckets[i]++;
    histogram->sum += value;
}

/* Makes room for `size` more bytes; NULL if there is no memory, now or before. */
static char *reserve(struct metrics_writer *writer, size_t size)
{
    if (writer->failed)
        return NULL;
    if (size > writer->capacity - writer->size) {
        size_t capacity = MAX(writer->capacity, (size_t)BUFFER_SIZE_INITIAL);
        while (capacity - writer->size < size)
            capacity *= 2;
        char *buffer = realloc(writer->buffer, capacity);
        if (buffer == NULL) {
            writer->failed = true;
            return NULL;
        }
        writer->buffer = buffer;
        writer->capacity = capacity;
    }
    return writer->buffer + writer->size;
}

static void put_bytes(struct metrics_writer *writer, const char *bytes, size_t size)
{
    char *room = reserve(writer, size);

    if (room == NULL)
        return;
    memcpy(room, bytes, size);
    writer->size += size;
}

static void put_text(struct metrics_writer *writer, const char *text)
{
    put_bytes(writer, text, strlen(text));
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
            put_bytes(writer, text + plain, i - plain);
            put_text(writer, replacement);
            plain = i + taken;
        }
        i += taken;
    }
    put_bytes(writer, text + plain, length - plain);
}

static void put_u64(struct metrics_writer *writer, uint64_t value)
{
    char digits[20];
    size_t start = sizeof(digits);

    do {
        digits[--start] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put_bytes(writer, digits + start, sizeof(digits) - start);
}

/* True if the value is not a finite number, which has a fixed text. */
static bool put_special(struct metrics_writer *writer, double value)
{
    if (isfinite(value))
        return false;
    put_text(writer, isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
    return true;
}

/* The fewest significant digits that give back exactly `value`. */
static int shortest_digits(double value)
{
    /* Every decimal of 15 digits survives a double, unless it is too small to have them all. */
    int digits = fabs(value) < DBL_MIN ? 1 : DBL_DIG;
    char text[32];

    for (; digits < DBL_DECIMAL_DIG; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return digits;
}

static void put_double(struct metrics_writer *writer, double value)
{
    char text[32];

    if (put_special(writer, value))
        return;
    if (value >= 0 && value < 1e15 && value == floor(value)) {
        put_u64(writer, (uint64_t)value);
        return;
    }
    (void)snprintf(text, sizeof(text), "%.*g", shortest_digits(value), value);
    put_text(writer, text);
}

/*
 * The value of an "le" label in the canonical form of OpenMetrics, which is Go's: always with a
 * point or an exponent, and an exponent from 1e+06 on and below 1e-04. Used in both formats, so
 * that a change of format between two scrapes does not make a new series.
 */
static void put_bound(struct metrics_writer *writer, double value)
{
    char text[32];

    if (put_special(writer, value))
        return;
    int digits = shortest_digits(value);
    double magnitude = fabs(value);
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
        put_text(writer, text);
        return;
    }
    (void)snprintf(text, sizeof(text), "%.*g", digits, value);
    put_text(writer, text);
    if (strchr(text, '.') == NULL)
        put_text(writer, ".0");
}

/* Name and labels of a sample. */
static void put_sample_start(struct metrics_writer *writer, va_list labels)
{
    char separator = '{';

    put_bytes(writer, writer->name, writer->name_length);
    for (;;) {
        const char *name = va_arg(labels, const char *);
        if (name == NULL)
            break;
        const char *value = va_arg(labels, const char *);
        put_bytes(writer, &separator, 1);
        put_text(writer, name);
        put_bytes(writer, "=\"", 2);
        put_escaped(writer, value != NULL ? value : "", true);
        put_bytes(writer, "\"", 1);
        separator = ',';
    }
    if (separator == ',')
        put_bytes(writer, "}", 1);
    put_bytes(writer, " ", 1);
}

void metrics_u64(struct metrics_writer *writer, uint64_t value, ...)
{
    va_list labels;

    va_start(labels, value);
    put_sample_start(writer, labels);
    va_end(labels);
    put_u64(writer, value);
    put_bytes(writer, "\n", 1);
}

void metrics_double(struct metrics_writer *writer, double value, ...)
{
    va_list labels;

    va_start(labels, value);
    put_sample_start(writer, labels);
    va_end(labels);
    put_double(writer, value);
    put_bytes(writer, "\n", 1);
}

void metrics_histogram(struct metrics_writer *writer, const struct histogram *histogram)
{
    uint64_t total = 0;

    for (unsigned i = 0; i <= histogram->count; i++) {
        total += histogram->buckets[i];
        put_bytes(writer, writer->name, writer->name_length);
        put_text(writer, "_bucket{le=\"");
        put_bound(writer, i < histogram->count ? histogram->bounds[i] : INFINITY);
        put_text(writer, "\"} ");
        put_u64(writer, total);
        put_bytes(writer, "\n", 1);
    }
    put_bytes(writer, writer->name, writer->name_length);
    put_text(writer, "_sum ");
    put_double(writer, histogram->sum);
    put_bytes(writer, "\n", 1);
    put_bytes(writer, writer->name, writer->name_length);
    put_text(writer, "_count ");
    put_u64(writer, total);
    put_bytes(writer, "\n", 1);
}

void metrics_build_info(struct metrics_writer *writer, const struct metric_family *family,
                        void *context)
{
    metrics_u64(writer, 1, "version", STOCKD_VERSION, NULL);
}

/* "# KEYWORD name ", with the name of the family as the format has it. */
static void put_comment_start(struct metrics_writer *writer, const char *keyword, size_t length)
{
    put_text(writer, keyword);
    put_bytes(writer, writer->name, length);
    put_bytes(writer, " ", 1);
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
    size_t length = writer->name_length, start = writer->size;
    if (openmetrics && family->type == METRIC_COUNTER && length > suffix_length &&
        strcmp(family->name + length - suffix_length, suffix) == 0)
        length -= suffix_length;

    put_comment_start(writer, "# HELP ", length);
    put_escaped(writer, family->help, openmetrics);
    put_bytes(writer, "\n", 1);
    put_comment_start(writer, "# TYPE ", length);
    put_text(writer, types[family->type]);
    put_bytes(writer, "\n", 1);

    size_t samples = writer->size;
    family->collect(writer, family, context);
    if (writer->size == samples)
        writer->size = start; /* nothing to say today: not even its name */
}

static void put_table(struct metrics_writer *writer, const struct metric_family *table,
                      size_t count, void *context)
{
    for (size_t i = 0; i < count && !writer->failed; i++)
        put_family(writer, &table[i], context);
}

/* Ends the text and hands it over. */
static int finish(struct metrics_writer *writer, char **ret_text, size_t *ret_size)
{
    if (writer->format == METRICS_OPENMETRICS)
        put_text(writer, "# EOF\n");
    put_bytes(writer, "", 1);
    if (writer->failed) {
        free(writer->buffer);
        return -ENOMEM;
    }
    *ret_text = writer->buffer;
    *ret_size = writer->size - 1;
    return 0;
}

int metrics_render(const struct metric_family *table, size_t count, void *context,
                   enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct metrics_writer writer = {.format = format};

    put_table(&writer, table, count, context);
    return finish(&writer, ret_text, ret_size);
}

int metrics_render_program(const struct metric_family *table, size_t count, void *context,
                           enum metrics_format format, char **ret_text, size_t *ret_size)
{
    struct metrics_writer writer = {.format = format};

    put_table(&writer, table, count, context);
    put_table(&writer, metrics_process, metrics_process_count, context);
    return finish(&writer, ret_text, ret_size);
}
