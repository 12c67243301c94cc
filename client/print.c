/*
 * One table of the fields drives all three formats: their names are those of the .proto file, their
 * order is that of the field numbers.
 */
#include "client/print.h"

#include "base/number.h"
#include "base/util.h"
#include "proto/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum field_type {
    FIELD_STRING,
    FIELD_DOUBLE,
    FIELD_INT64,
};

struct field {
    const char *name;
    enum field_type type;
    size_t offset;
};

#define FIELD(name_, type_, member_)                                                               \
    {                                                                                              \
        (name_), (type_), offsetof(Stockservice__StockUpdate, member_)                             \
    }

static const struct field fields[] = {
    FIELD("ticker", FIELD_STRING, ticker),
    FIELD("price", FIELD_DOUBLE, price),
    FIELD("change", FIELD_DOUBLE, change),
    FIELD("changePercent", FIELD_DOUBLE, changepercent),
    FIELD("volume", FIELD_INT64, volume),
    FIELD("openPrice", FIELD_DOUBLE, openprice),
    FIELD("highPrice", FIELD_DOUBLE, highprice),
    FIELD("lowPrice", FIELD_DOUBLE, lowprice),
    FIELD("marketCap", FIELD_INT64, marketcap),
    FIELD("timestamp", FIELD_STRING, timestamp),
};

const unsigned print_update_field_count = ELEMENTSOF(fields);

static const char *const format_names[] = {
#define X(identifier, name) [PRINT_##identifier] = (name),
    PRINT_FORMATS(X)
#undef X
};

static const void *field_value(const Stockservice__StockUpdate *update, const struct field *field)
{
    return (const char *)update + field->offset;
}

static const char *field_string(const Stockservice__StockUpdate *update, const struct field *field)
{
    return *(const char *const *)field_value(update, field);
}

static double field_double(const Stockservice__StockUpdate *update, const struct field *field)
{
    return *(const double *)field_value(update, field);
}

static int64_t field_int64(const Stockservice__StockUpdate *update, const struct field *field)
{
    return *(const int64_t *)field_value(update, field);
}

int print_format_from_name(const char *name)
{
    for (size_t i = 0; i < ELEMENTSOF(format_names); i++)
        if (strcmp(name, format_names[i]) == 0)
            return (int)i;
    return -EINVAL;
}

/* What follows the backslash for the characters that C and JSON both escape so; 0 for others. */
static char short_escape(uint32_t code)
{
    switch (code) {
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    case '"':
    case '\\':
        return (char)code;
    default:
        return 0;
    }
}

/* The character as it is, if it is one that may be shown so, or with a short escape. */
static bool add_plain(struct text *text, const char *character, size_t size, uint32_t code)
{
    if (short_escape(code)) {
        text_add_char(text, '\\');
        text_add_char(text, short_escape(code));
        return true;
    }
    if (!utf8_is_unsafe(code)) {
        text_add(text, character, size);
        return true;
    }
    return false;
}

static void text_string(struct text *text, const char *string)
{
    const char *end = string + strlen(string);

    text_add_char(text, '"');
    while (string < end) {
        uint32_t code = 0;
        size_t size = 0;
        bool valid = utf8_decode(string, (size_t)(end - string), &code, &size);

        if (!valid || !add_plain(text, string, size, code)) {
            for (size_t i = 0; i < size; i++)
                text_printf(text, "\\x%02x", (unsigned char)string[i]);
        }
        string += size;
    }
    text_add_char(text, '"');
}

static void json_string(struct text *text, const char *string)
{
    const char *end = string + strlen(string);

    text_add_char(text, '"');
    while (string < end) {
        uint32_t code = 0;
        size_t size = 0;

        if (!utf8_decode(string, (size_t)(end - string), &code, &size)) {
            text_add_string(text, UTF8_REPLACEMENT);
        } else if (!add_plain(text, string, size, code)) {
            text_printf(text, "\\u%04x", (unsigned)code);
        }
        string += size;
    }
    text_add_char(text, '"');
}

/* CSV has no escapes: what could do harm is replaced. A line break may stand in quotes. */
static void csv_character(struct text *text, const char *character, size_t size, bool safe)
{
    bool is_break = *character == '\n' || *character == '\r' || *character == '\t';

    if (*character == '"')
        text_add_char(text, '"');
    if (safe || is_break)
        text_add(text, character, size);
    else
        text_add_string(text, UTF8_REPLACEMENT);
}

static void csv_string(struct text *text, const char *string)
{
    const char *end = string + strlen(string);
    bool quoted = strpbrk(string, ",\"\r\n");

    if (quoted)
        text_add_char(text, '"');
    while (string < end) {
        uint32_t code = 0;
        size_t size = 0;
        bool valid = utf8_decode(string, (size_t)(end - string), &code, &size);

        csv_character(text, string, size, valid && !utf8_is_unsafe(code));
        string += size;
    }
    if (quoted)
        text_add_char(text, '"');
}

void print_string(struct text *text, enum print_format format, const char *string)
{
    switch (format) {
    case PRINT_TEXT:
        text_string(text, string);
        break;
    case PRINT_JSON:
        json_string(text, string);
        break;
    case PRINT_CSV:
        csv_string(text, string);
        break;
    }
}

void print_foreign(struct text *text, const char *foreign)
{
    const char *end = foreign + strlen(foreign);

    while (foreign < end) {
        uint32_t code = 0;
        size_t size = 0;
        bool valid = utf8_decode(foreign, (size_t)(end - foreign), &code, &size);

        if (valid && !utf8_is_unsafe(code))
            text_add(text, foreign, size);
        else
            text_add_string(text, UTF8_REPLACEMENT);
        foreign += size;
    }
}

static void shortest_double(struct text *text, double value)
{
    char digits[NUMBER_TEXT_MAX];

    (void)number_format(value, digits);
    text_add_string(text, digits);
}

/* What proto3's JSON mapping calls it; a NULL for a finite number. */
static const char *not_finite(double value)
{
    if (isnan(value))
        return "NaN";
    if (isinf(value))
        return value < 0 ? "-Infinity" : "Infinity";
    return NULL;
}

static void print_text(struct text *text, const Stockservice__StockUpdate *update)
{
    for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
        const struct field *field = &fields[i];

        if (i > 0)
            text_add_char(text, ' ');
        text_add_string(text, field->name);
        text_add_char(text, ':');
        switch (field->type) {
        case FIELD_STRING:
            text_string(text, field_string(update, field));
            break;
        case FIELD_DOUBLE:
            text_printf(text, "%.2f", field_double(update, field));
            break;
        case FIELD_INT64:
            text_printf(text, "%" PRId64, field_int64(update, field));
            break;
        }
    }
}

static void print_json(struct text *text, const Stockservice__StockUpdate *update)
{
    for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
        const struct field *field = &fields[i];
        const char *name;

        text_add_string(text, i == 0 ? "{\"" : ",\"");
        text_add_string(text, field->name);
        text_add_string(text, "\":");
        switch (field->type) {
        case FIELD_STRING:
            json_string(text, field_string(update, field));
            break;
        case FIELD_DOUBLE:
            name = not_finite(field_double(update, field));
            if (name)
                text_printf(text, "\"%s\"", name);
            else
                shortest_double(text, field_double(update, field));
            break;
        case FIELD_INT64:
            text_printf(text, "\"%" PRId64 "\"", field_int64(update, field));
            break;
        }
    }
    text_add_char(text, '}');
}

static void print_csv(struct text *text, const Stockservice__StockUpdate *update)
{
    for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
        const struct field *field = &fields[i];
        const char *name;

        if (i > 0)
            text_add_char(text, ',');
        switch (field->type) {
        case FIELD_STRING:
            csv_string(text, field_string(update, field));
            break;
        case FIELD_DOUBLE:
            name = not_finite(field_double(update, field));
            if (name)
                text_add_string(text, name);
            else
                shortest_double(text, field_double(update, field));
            break;
        case FIELD_INT64:
            text_printf(text, "%" PRId64, field_int64(update, field));
            break;
        }
    }
}

void print_header_fields(struct text *text, enum print_format format)
{
    if (format != PRINT_CSV)
        return;
    for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
        if (i > 0)
            text_add_char(text, ',');
        text_add_string(text, fields[i].name);
    }
}

void print_header(struct text *text, enum print_format format)
{
    print_header_fields(text, format);
    if (format == PRINT_CSV)
        text_add_char(text, '\n');
}

void print_update_fields(struct text *text, enum print_format format,
                         const Stockservice__StockUpdate *update)
{
    switch (format) {
    case PRINT_TEXT:
        print_text(text, update);
        break;
    case PRINT_JSON:
        print_json(text, update);
        break;
    case PRINT_CSV:
        print_csv(text, update);
        break;
    }
}

void print_update(struct text *text, enum print_format format,
                  const Stockservice__StockUpdate *update)
{
    print_update_fields(text, format, update);
    text_add_char(text, '\n');
}
