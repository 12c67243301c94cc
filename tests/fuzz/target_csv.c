/*
 * Recordings, which anybody may have made: a file of CSV that comes in one piece and in pieces, and
 * its fields as numbers, times and names of columns. The first byte of the input is the size of the
 * pieces.
 *
 * What must hold: however the bytes come, the records and faults are the same; every byte is used
 * once, and lines are counted right; a fault costs its line and no more; a time is a time in RFC
 * 3339 again.
 */
#include "base/util.h"
#include "fuzz.h"
#include "market/csv.h"
#include "market/feed_time.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001B3);
    return hash;
}

/* The time in another form is the same time. */
static void check_time(int64_t ns)
{
    int64_t second = feed_time_second(ns), again;
    int64_t rest_ns = ns % 1000000000 + (ns % 1000000000 < 0 ? 1000000000 : 0);
    time_t moment = (time_t)second;
    struct tm parts;
    char text[64];
    size_t size;

    CHECK(gmtime_r(&moment, &parts));
    size = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    size += (size_t)snprintf(text + size, sizeof(text) - size, ".%09lldZ", (long long)rest_ns);
    /* At the very end of the range the second itself is out of it. */
    if (feed_time_parse(text, size, &again) == NULL)
        CHECK(again == ns);
    else
        CHECK(ns < INT64_MIN + 1000000000);
}

static void check_field(const struct csv_field *field)
{
    char *copy = fuzz_copy((const uint8_t *)field->bytes, field->size, false);
    struct csv_field same = {copy, field->size};
    const char *wrong;
    double number = -1;
    int64_t ns;

    if (csv_number(&same, &number))
        CHECK(isfinite(number));
    else
        CHECK(number == -1);
    wrong = feed_time_parse(copy, field->size, &ns);
    if (wrong)
        CHECK(strlen(wrong) > 0 && strlen(wrong) < 128);
    else
        check_time(ns);
    if (isfinite(number) && feed_time_of_real(number, &ns) == NULL)
        check_time(ns);
    free(copy);
}

static uint64_t check_record(const struct csv_record *record, uint64_t hash)
{
    int column = csv_column(record, "time|price");

    CHECK(record->count <= CSV_FIELDS_MAX);
    CHECK(record->count == 0 || record->fault[0] == '\0');
    CHECK(strlen(record->fault) < CSV_FAULT_MAX);
    CHECK(column >= CSV_TWICE && column < (int)record->count);
    hash = mix(hash, record->fault, strlen(record->fault) + 1);
    for (unsigned i = 0; i < record->count; i++) {
        hash = mix(hash, &record->fields[i].size, sizeof(record->fields[i].size));
        hash = mix(hash, record->fields[i].bytes, record->fields[i].size);
        check_field(&record->fields[i]);
    }
    return hash;
}

/* Reads it all, `step` bytes at a time, and returns what the records come to. */
static uint64_t read_all(const uint8_t *bytes, size_t size, size_t step)
{
    struct csv csv = {0};
    size_t start = 0, end = 0, used;
    uint64_t hash = 0, last_line = 0, lines = 1;
    static struct csv_record record;

    for (;;) {
        char *part = fuzz_copy(bytes + start, end - start, false);
        bool found = csv_next(&csv, part, end - start, end == size, &used, &record);

        CHECK(used <= end - start);
        for (size_t i = 0; i < used; i++)
            lines += bytes[start + i] == '\n';
        CHECK(csv.next_line == lines || (csv.next_line == 0 && start + used == 0));
        if (found) {
            CHECK(used > 0);
            CHECK(csv.line > last_line && csv.line <= lines);
            last_line = csv.line;
            hash = check_record(&record, mix(hash, &csv.line, sizeof(csv.line)));
        }
        start += used;
        free(part);
        if (found)
            continue;
        if (end == size)
            break;
        end += MIN(step, size - end);
    }
    CHECK(start == size);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct reader reader = {bytes, size};
    size_t step = read_u8(&reader) + 1U;
    uint64_t whole = read_all(reader.bytes, reader.size, SIZE_MAX);

    CHECK(read_all(reader.bytes, reader.size, step) == whole);
    return 0;
}
