/*
 * CSV as it is and as it should not be, in one piece and byte by byte: however it comes, the
 * records are the same, and what is wrong costs a line.
 */
#include "market/csv.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

#define TEXT_MAX 4096

/* Records of `text` as "LINE:[a][b]\n", faults as "LINE!what\n"; `step` bytes come at a time. */
static void read_all(const char *text, size_t size, size_t step, char result[TEXT_MAX])
{
    struct csv csv = {0};
    char *buffer = malloc(size + 1);
    size_t start = 0, end = 0, used, n = 0;
    struct csv_record record;

    assert_non_null(buffer);
    result[0] = '\0';
    for (;;) {
        /* Memory of just this size, so that AddressSanitizer sees who reads on. */
        char *bytes = malloc(MAX(end - start, 1));
        bool found;

        assert_non_null(bytes);
        memcpy(bytes, buffer + start, end - start);
        found = csv_next(&csv, bytes, end - start, end == size, &used, &record);
        assert_true(used <= end - start);
        start += used;
        if (found) {
            assert_true(used > 0);
            n +=
                (size_t)snprintf(result + n, TEXT_MAX - n, "%llu%s%s", (unsigned long long)csv.line,
                                 record.fault[0] ? "!" : ":", record.fault);
            for (unsigned i = 0; i < record.count; i++)
                n += (size_t)snprintf(result + n, TEXT_MAX - n, "[%.*s]",
                                      (int)record.fields[i].size, record.fields[i].bytes);
            n += (size_t)snprintf(result + n, TEXT_MAX - n, "\n");
            assert_true(n < TEXT_MAX);
        }
        free(bytes);
        if (found)
            continue;
        if (end == size)
            break;
        step = MIN(step, size - end);
        memcpy(buffer + end, text + end, step);
        end += step;
    }
    assert_int_equal(start, size);
    free(buffer);
}

static void check_sized(const char *text, size_t size, const char *expected)
{
    char result[TEXT_MAX];

    for (size_t step = 1; step <= size; step++) {
        read_all(text, size, step, result);
        assert_string_equal(result, expected);
    }
}

static void check(const char *text, const char *expected)
{
    check_sized(text, strlen(text), expected);
}

static void test_records(void **state)
{
    check("a,b\nc,d\n", "1:[a][b]\n2:[c][d]\n");
    check("a,b\r\nc,d\r\n", "1:[a][b]\n2:[c][d]\n");
    check("a,b\nc,d", "1:[a][b]\n2:[c][d]\n");
    check("a,b\r\nc,d\r", "1:[a][b]\n2:[c][d]\n");
    check("\xEF\xBB\xBF"
          "a,b\n",
          "1:[a][b]\n");
    check("\xEF\xBB\xBF\"a\",b\n", "1:[a][b]\n");
    check("a\n\xEF\xBB\xBF"
          "b\n",
          "1:[a]\n2:[\xEF\xBB\xBF"
          "b]\n");
    check("\xEF\xBB", "1:[\xEF\xBB]\n");
    check("a\n\n\r\nb\n", "1:[a]\n2:\n3:\n4:[b]\n");
    check(",\n,,", "1:[][]\n2:[][][]\n");
    check(" a ,\tb c \n", "1:[a][b c]\n");
    check("a\rb,c\n", "1:[a\rb][c]\n");
}

static void test_quotes(void **state)
{
    check("\"a\",\"b\"\n", "1:[a][b]\n");
    check("\"a,b\",\"c\"\"d\"\n", "1:[a,b][c\"d]\n");
    check("\"\",\"\"\"\"\n", "1:[][\"]\n");
    check("\" a \"\r\n", "1:[ a ]\n");
    check("\"a\"", "1:[a]\n");
    check("\"a\"\r", "1:[a]\n");
    check("x,\"a\nb\r\nc\"\ny\n", "1:[x][a\nb\r\nc]\n4:[y]\n");
}

/* A line is lost, and nothing else. */
static void test_faults(void **state)
{
    check("a\nb\"c,d\ne\n",
          "1:[a]\n2!field 1: a quote in a field that does not begin with one\n3:[e]\n");
    check("\"a\"b,c\nd\n", "1!field 1: text after the closing quote\n2:[d]\n");
    check("a,\"b\" ,c\nd\n", "1!field 2: text after the closing quote\n2:[d]\n");
    check("\"a\"\rb\nd\n", "1!field 1: text after the closing quote\n2:[d]\n");
    check("\"a\"\r\"\nd\n", "1!field 1: text after the closing quote\n2:[d]\n");
    check("a,\"b\nc,d\ne", "1!field 2: its quote is not closed\n2:[c][d]\n3:[e]\n");
    check("\"", "1!field 1: its quote is not closed\n");
    check_sized("a,\0b\nc\n", 7, "1!field 2: a NUL byte, which no text has\n2:[c]\n");
}

static void test_too_long(void **state)
{
    size_t size = 3 * CSV_RECORD_SIZE_MAX;
    char *text = malloc(size), result[TEXT_MAX], expected[64];

    assert_non_null(text);
    (void)snprintf(expected, sizeof(expected), "1!a line of more than %d bytes\n2:[b]\n",
                   CSV_RECORD_SIZE_MAX);
    memset(text, 'a', size);
    memcpy(text + size - 3, "\nb\n", 3);
    for (size_t step = 1000; step <= size; step += 7777) {
        read_all(text, size, step, result);
        assert_string_equal(result, expected);
    }
    read_all(text, size - 3, size, result);
    assert_memory_equal(result, expected, strlen(expected) - strlen("2:[b]\n"));

    /* One that is just not too long; the check below is of the line's end. */
    text[CSV_RECORD_SIZE_MAX - 2] = ',';
    text[CSV_RECORD_SIZE_MAX - 1] = '\n';
    memcpy(text + CSV_RECORD_SIZE_MAX, "b", 1);
    {
        struct csv csv = {0};
        struct csv_record record;
        size_t used;

        assert_true(csv_next(&csv, text, size, false, &used, &record));
        assert_string_equal(record.fault, "");
        assert_int_equal(record.count, 2);
        assert_int_equal(used, CSV_RECORD_SIZE_MAX);
    }

    /* A quote that stays open is given up where there is no more room; the lines in it are not. */
    memset(text, 'a', size);
    memcpy(text, "\"x\ny,z\n", 7);
    {
        struct csv csv = {0};
        struct csv_record record;
        size_t used;

        assert_true(csv_next(&csv, text, size, false, &used, &record));
        assert_string_equal(record.fault, "field 1: its quote is not closed");
        assert_int_equal(used, 3);
        assert_true(csv_next(&csv, text + 3, size - 3, false, &used, &record));
        assert_int_equal(record.count, 2);
        assert_int_equal(csv.line, 2);
    }
    free(text);
}

static void test_too_many_fields(void **state)
{
    char text[2 * CSV_FIELDS_MAX + 8];
    struct csv csv = {0};
    struct csv_record record;
    size_t used, size = 2 * CSV_FIELDS_MAX;

    for (size_t i = 0; i < size; i += 2)
        memcpy(text + i, "a,", 2);
    text[size - 1] = '\n';
    assert_true(csv_next(&csv, text, size, true, &used, &record));
    assert_int_equal(record.count, CSV_FIELDS_MAX);
    text[size - 1] = ',';
    memcpy(text + size, "\nb\n", 3);
    csv = (struct csv){0};
    assert_true(csv_next(&csv, text, size + 3, true, &used, &record));
    assert_non_null(strstr(record.fault, "too many fields"));
    assert_int_equal(record.count, 0);
    assert_true(csv_next(&csv, text + used, size + 3 - used, true, &used, &record));
    assert_int_equal(record.count, 1);
    assert_int_equal(csv.line, 2);
}

static int column_of(const char *header, const char *names)
{
    char text[64];
    struct csv csv = {0};
    struct csv_record record;
    size_t used;

    (void)strcpy(text, header);
    assert_true(csv_next(&csv, text, strlen(text), true, &used, &record));
    return csv_column(&record, names);
}

static void test_columns(void **state)
{
    assert_int_equal(column_of("time,price", "price"), 1);
    assert_int_equal(column_of("Time, PRICE ", "price"), 1);
    assert_int_equal(column_of("\"time\",x", "time|timestamp"), 0);
    assert_int_equal(column_of("timestamp,time", "time|timestamp"), 1);
    assert_int_equal(column_of("timestamp,x", "time|timestamp"), 0);
    assert_int_equal(column_of("prices,pric", "price"), CSV_NONE);
    assert_int_equal(column_of("a,", "price"), CSV_NONE);
    assert_int_equal(column_of("price,Price", "price"), CSV_TWICE);
    /* The one that does not count may be there twice. */
    assert_int_equal(column_of("last,price,last", "price|last"), 1);
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        double value;
    } good[] = {{"1", 1},      {"150.25", 150.25}, {"-0.5", -0.5}, {"+2", 2},
                {"1e3", 1000}, {".5", 0.5},        {"5.", 5},      {"1E-2", 0.01}};
    static const char *const bad[] = {
        "",         "abc",
        "1,5",      "0x10",
        "nan",      "inf",
        "1 2",      " 1",
        "1e",       "--1",
        ".",        "1e999",
        "$1",       "1.2.3",
        "infinity", "0000000000000000000000000000000000000000000000000000000000000001"};
    double value;

    for (size_t i = 0; i < ELEMENTSOF(good); i++) {
        struct csv_field field = {good[i].text, strlen(good[i].text)};

        assert_true(csv_number(&field, &value));
        assert_true(value == good[i].value);
    }
    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        struct csv_field field = {bad[i], strlen(bad[i])};

        value = 7;
        assert_false(csv_number(&field, &value));
        assert_true(value == 7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),         cmocka_unit_test(test_quotes),
        cmocka_unit_test(test_faults),          cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_too_many_fields), cmocka_unit_test(test_columns),
        cmocka_unit_test(test_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
