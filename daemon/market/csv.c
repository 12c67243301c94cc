/*
 * A record is looked at twice: first where it ends and whether it is well-formed, which may be
 * tried again with more bytes, and only then are its fields taken out of their quotes, in place.
 */
#include "market/csv.h"

#include "base/util.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char byte_order_mark[] = "\xEF\xBB\xBF";

enum place {
    AT_START, /* of a field */
    IN_PLAIN,
    IN_QUOTES,
    AFTER_QUOTE, /* which ends the field, or is the first of two */
    AFTER_CR,    /* behind that */
};

struct scan {
    enum place place;
    unsigned field;
    unsigned lines;
    const char *wrong;
};

/* One byte; true if it ends the record. */
static bool scan_byte(struct scan *scan, char c)
{
    scan->lines += c == '\n';
    if (c == '\0') {
        scan->wrong = "a NUL byte, which no text has";
    } else if (scan->place == IN_QUOTES) {
        scan->place = c == '"' ? AFTER_QUOTE : IN_QUOTES;
    } else if (c == '\n') {
        return true;
    } else if (scan->place == AFTER_CR) {
        scan->wrong = "text after the closing quote";
    } else if (c == ',') {
        scan->place = AT_START;
        if (++scan->field == CSV_FIELDS_MAX)
            scan->wrong = "too many fields";
    } else if (c == '"') {
        if (scan->place == IN_PLAIN)
            scan->wrong = "a quote in a field that does not begin with one";
        scan->place = IN_QUOTES;
    } else if (scan->place == AFTER_QUOTE) {
        scan->place = AFTER_CR;
        if (c != '\r')
            scan->wrong = "text after the closing quote";
    } else {
        scan->place = IN_PLAIN;
    }
    return false;
}

static void trim(struct csv_field *field)
{
    while (field->size > 0 && (*field->bytes == ' ' || *field->bytes == '\t')) {
        field->bytes++;
        field->size--;
    }
    while (field->size > 0 &&
           (field->bytes[field->size - 1] == ' ' || field->bytes[field->size - 1] == '\t'))
        field->size--;
}

/* The field in quotes at `from`; returns what is behind the closing one. */
static char *unquote(char *from, const char *end, struct csv_field *ret_field)
{
    char *to = from;

    ret_field->bytes = from++;
    for (;; from++) {
        if (*from == '"' && (++from == end || *from != '"'))
            break;
        *to++ = *from;
    }
    ret_field->size = (size_t)(to - ret_field->bytes);
    return from;
}

/* A well-formed record, without the end of its line. */
static void split(char *bytes, const char *end, struct csv_record *record)
{
    for (;; bytes++) {
        struct csv_field *field = &record->fields[record->count++];

        if (bytes < end && *bytes == '"') {
            bytes = unquote(bytes, end, field);
        } else {
            field->bytes = bytes;
            while (bytes < end && *bytes != ',')
                bytes++;
            field->size = (size_t)(bytes - field->bytes);
            trim(field);
        }
        if (bytes == end)
            return;
    }
}

/* What could not be read is given up up to the end of the line that it begins in. */
static void fail(struct csv *csv, const char *bytes, size_t size, size_t *ret_used)
{
    const char *line_end = memchr(bytes, '\n', size);

    csv->skipping = !line_end;
    csv->next_line += line_end != NULL;
    *ret_used += line_end ? (size_t)(line_end - bytes) + 1 : size;
}

/* The end of a line that was too long; false: it is not there yet. */
static bool skip(struct csv *csv, char **bytes, size_t *size, size_t *ret_used)
{
    const char *line_end = memchr(*bytes, '\n', *size);
    size_t used = line_end ? (size_t)(line_end - *bytes) + 1 : *size;

    *ret_used += used;
    *bytes += used;
    *size -= used;
    csv->skipping = !line_end;
    csv->next_line += line_end != NULL;
    return line_end;
}

/* At the start of the file; false: it cannot be told yet. */
static bool skip_mark(struct csv *csv, char **bytes, size_t *size, bool end, size_t *ret_used)
{
    size_t mark = strlen(byte_order_mark);

    if (csv->next_line > 0)
        return true;
    if (memcmp(*bytes, byte_order_mark, MIN(*size, mark)) == 0 && (*size >= mark || !end)) {
        if (*size < mark)
            return false;
        *bytes += mark;
        *size -= mark;
        *ret_used += mark;
    }
    csv->next_line = 1;
    return true;
}

/* Is this a record? The last one of a file needs no end of line. */
static bool judge(const struct scan *scan, bool complete, bool last, char fault[CSV_FAULT_MAX])
{
    fault[0] = '\0';
    if (scan->wrong)
        (void)snprintf(fault, CSV_FAULT_MAX, "field %u: %s", scan->field + 1, scan->wrong);
    else if (!complete && scan->place == IN_QUOTES)
        (void)snprintf(fault, CSV_FAULT_MAX, "field %u: its quote is not closed", scan->field + 1);
    else if (!complete && !last)
        (void)snprintf(fault, CSV_FAULT_MAX, "a line of more than %d bytes", CSV_RECORD_SIZE_MAX);
    return fault[0] == '\0';
}

bool csv_next(struct csv *csv, char *bytes, size_t size, bool end, size_t *ret_used,
              struct csv_record *ret_record)
{
    struct scan scan = {0};
    size_t limit, i;
    bool complete = false;

    *ret_used = 0;
    if (!skip_mark(csv, &bytes, &size, end, ret_used) ||
        (csv->skipping && !skip(csv, &bytes, &size, ret_used)) || size == 0)
        return false;
    limit = MIN(size, CSV_RECORD_SIZE_MAX);
    for (i = 0; i < limit && !complete && !scan.wrong; i++)
        complete = scan_byte(&scan, bytes[i]);
    if (!complete && !scan.wrong && limit < CSV_RECORD_SIZE_MAX && !end)
        return false;

    ret_record->count = 0;
    csv->line = csv->next_line;
    if (!judge(&scan, complete, end && limit == size, ret_record->fault)) {
        fail(csv, bytes, size, ret_used);
        return true;
    }

    *ret_used += i;
    csv->next_line += scan.lines;
    if (i > 0 && bytes[i - 1] == '\n')
        i--;
    if (i > 0 && bytes[i - 1] == '\r')
        i--;
    if (i > 0)
        split(bytes, bytes + i, ret_record);
    return true;
}

static bool has_name(const struct csv_field *field, const char *name, size_t size)
{
    return field->size == size && strncasecmp(field->bytes, name, size) == 0;
}

int csv_column(const struct csv_record *header, const char *names)
{
    for (;;) {
        size_t size = strcspn(names, "|");
        int found = CSV_NONE;

        for (unsigned i = 0; i < header->count; i++)
            if (has_name(&header->fields[i], names, size))
                found = found == CSV_NONE ? (int)i : CSV_TWICE;
        if (found != CSV_NONE || names[size] == '\0')
            return found;
        names += size + 1;
    }
}

bool csv_number(const struct csv_field *field, double *ret_value)
{
    char text[64], *end;
    double value;

    /* strtod(3) knows more than a table of numbers has: spaces, hexadecimal digits, "nan". */
    if (field->size == 0 || field->size >= sizeof(text))
        return false;
    for (size_t i = 0; i < field->size; i++)
        if (!memchr("0123456789+-.eE", field->bytes[i], strlen("0123456789+-.eE")))
            return false;
    memcpy(text, field->bytes, field->size);
    text[field->size] = '\0';
    value = strtod(text, &end);
    if (*end != '\0' || end == text || !isfinite(value))
        return false;
    *ret_value = value;
    return true;
}
