/*
 * Updates as text: for people, as JSON, as CSV.
 */
#pragma once

#include "base/text.h"
#include "stockservice.pb-c.h"

/* X(identifier, name on the command line) */
#define PRINT_FORMATS(X)                                                                           \
    X(TEXT, "text")                                                                                \
    X(JSON, "json")                                                                                \
    X(CSV, "csv")

enum print_format {
#define X(identifier, name) PRINT_##identifier,
    PRINT_FORMATS(X)
#undef X
};

/* The format of that name, or -EINVAL. */
int print_format_from_name(const char *name);

/* What comes before the first update: CSV's header line; nothing for the others. */
void print_header(struct text *text, enum print_format format);

/*
 * One update as one line, its end included:
 *
 *     text   ticker:"AAPL" price:148.21 change:-1.79 … timestamp:"…"; two decimals; in strings
 *            quotes, backslashes, utf8_is_unsafe() and bytes that are no UTF-8 escaped as in C
 *     JSON   proto3's JSON mapping: the names of the .proto file, int64 and numbers that are not
 *            finite as strings; every field, also at its default; utf8_is_unsafe() escaped, and
 *            U+FFFD for what is no UTF-8
 *     CSV    the fields in the order of the header, strings quoted where RFC 4180 asks for it;
 *            U+FFFD for what is no UTF-8 and for utf8_is_unsafe() other than line breaks and tabs
 *
 * JSON and CSV write doubles with as many digits as it takes to read the same value back.
 */
void print_update(struct text *text, enum print_format format,
                  const Stockservice__StockUpdate *update);

/* The same without the end of the line, for a line that has more. */
void print_header_fields(struct text *text, enum print_format format);
void print_update_fields(struct text *text, enum print_format format,
                         const Stockservice__StockUpdate *update);

/* A string as these formats have it, in quotes where they do. */
void print_string(struct text *text, enum print_format format, const char *string);

/* What others have said, as a part of a line for people: what could do something to a terminal, and
 * line breaks, become U+FFFD. */
void print_foreign(struct text *text, const char *foreign);

/* How many fields there are: columns of CSV. */
extern const unsigned print_update_field_count;
