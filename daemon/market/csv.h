/*
 * Comma-separated values as RFC 4180 has them, read from a buffer piece by piece: no I/O here. What
 * is wrong costs one line and no more; in particular a quote that is never closed does not swallow
 * the rest of the file.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* With the end of its line, or lines. */
#define CSV_RECORD_SIZE_MAX 16384
#define CSV_FIELDS_MAX 256
#define CSV_FAULT_MAX 96

/* A value without its quotes. What is not in quotes is without the spaces around it, too. */
struct csv_field {
    const char *bytes; /* not NUL-terminated */
    size_t size;
};

struct csv_record {
    unsigned count; /* of fields; 0: an empty line, or a fault */
    struct csv_field fields[CSV_FIELDS_MAX];
    char fault[CSV_FAULT_MAX]; /* what is wrong with the line, or "" */
};

/* Zeroed memory is the start of a file. */
struct csv {
    uint64_t line; /* where the last record began, from 1 */
    uint64_t next_line;
    bool skipping; /* the rest of a line that was too long */
};

/*
 * Reads a record from the start of `bytes`, of which *ret_used are done with afterwards, whatever
 * is returned. `end`: nothing comes after them. Lines end with LF or CR LF; a byte order mark
 * before the first is left out. True: there is a record, or a fault. Its fields point into `bytes`,
 * which is changed. False: more bytes are needed; a buffer of CSV_RECORD_SIZE_MAX is always enough.
 */
bool csv_next(struct csv *csv, char *bytes, size_t size, bool end, size_t *ret_used,
              struct csv_record *ret_record);

/* No column has this name; or more than one has. */
#define CSV_NONE (-1)
#define CSV_TWICE (-2)

/*
 * The index of a column by its name in the header, in upper or lower case. `names` is one name or
 * more, as in "price|last": the first of them that is there counts.
 */
int csv_column(const struct csv_record *header, const char *names);

/* The field as a decimal number, with a fraction or an exponent perhaps; never infinite. */
bool csv_number(const struct csv_field *field, double *ret_value);
