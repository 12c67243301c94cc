/*
 * A template is read once into parts: literal text, and fields with their format.
 */
#include "client/template.h"

#include "base/number.h"
#include "base/util.h"
#include "proto/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum field_kind {
    FIELD_STRING,
    FIELD_DOUBLE,
    FIELD_INT64,
    FIELD_UINT64,
    FIELD_LAG,
};

/* Where a field is: in the event, or in its update. */
struct field {
    const char *name;
    enum field_kind kind;
    bool of_update;
    size_t offset;
};

#define OF_EVENT(name_, kind_, member_)                                                            \
    {                                                                                              \
        (name_), (kind_), false, offsetof(Stockservice__MarketEvent, member_)                      \
    }
#define OF_UPDATE(name_, kind_, member_)                                                           \
    {                                                                                              \
        (name_), (kind_), true, offsetof(Stockservice__StockUpdate, member_)                       \
    }

static const struct field fields[] = {
    OF_EVENT("epoch", FIELD_UINT64, epoch),
    OF_EVENT("sequence", FIELD_UINT64, sequence),
    OF_EVENT("conflated", FIELD_UINT64, conflated),
    OF_EVENT("dropped", FIELD_UINT64, dropped),
    OF_EVENT("lag", FIELD_LAG, time_unix_nano),
    OF_UPDATE("ticker", FIELD_STRING, ticker),
    OF_UPDATE("price", FIELD_DOUBLE, price),
    OF_UPDATE("change", FIELD_DOUBLE, change),
    OF_UPDATE("changePercent", FIELD_DOUBLE, changepercent),
    OF_UPDATE("volume", FIELD_INT64, volume),
    OF_UPDATE("openPrice", FIELD_DOUBLE, openprice),
    OF_UPDATE("highPrice", FIELD_DOUBLE, highprice),
    OF_UPDATE("lowPrice", FIELD_DOUBLE, lowprice),
    OF_UPDATE("marketCap", FIELD_INT64, marketcap),
    OF_UPDATE("timestamp", FIELD_STRING, timestamp),
};

struct template_part {
    const struct field *field; /* NULL: literal text */
    char *literal;
    size_t size; /* of it */
    bool left;
    bool sign;
    int width;
    int precision; /* negative: none */
};

/* ---- Reading ---- */

struct reader {
    struct template *template;
    const char *start;
    const char *at;
    struct text literal; /* what is not a part yet */
    char *error;
};

static int fault_at(const struct reader *reader, const char *at, const char *why)
{
    (void)snprintf(reader->error, TEMPLATE_ERROR_MAX, "character %zu: %s",
                   (size_t)(at - reader->start) + 1, why);
    return -EINVAL;
}

static int add_part(struct template *template, const struct template_part *part)
{
    struct template_part *parts =
        reallocarray(template->parts, template->count + 1, sizeof(*parts));

    if (!parts)
        return -ENOMEM;
    parts[template->count++] = *part;
    template->parts = parts;
    return 0;
}

static int end_literal(struct reader *reader)
{
    struct template_part part = {.literal = reader->literal.bytes, .size = reader->literal.size};
    int r;

    if (reader->literal.failed)
        return -ENOMEM;
    if (part.size == 0)
        return 0;
    r = add_part(reader->template, &part);
    if (r == 0)
        reader->literal = (struct text){0};
    return r;
}

static const struct field *find_field(const char *name, size_t size)
{
    for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
        if (strlen(fields[i].name) == size && memcmp(fields[i].name, name, size) == 0)
            return &fields[i];
    }
    return NULL;
}

/* Digits at `*at`, which moves behind them; -1 if there are none, or they are more than `max`. */
static int read_number(const char **at, int max)
{
    int value = 0;

    if (**at < '0' || **at > '9')
        return -1;
    for (; **at >= '0' && **at <= '9'; (*at)++) {
        value = value * 10 + (**at - '0');
        if (value > max)
            return -1;
    }
    return value;
}

/* [-][+][WIDTH][.PRECISION], up to `end`. */
static int read_format(struct reader *reader, struct template_part *part, const char *at,
                       const char *end)
{
    const char *start = at;

    if (*at == '-') {
        part->left = true;
        at++;
    }
    if (*at == '+') {
        part->sign = true;
        at++;
    }
    if (*at >= '0' && *at <= '9') {
        part->width = read_number(&at, TEMPLATE_WIDTH_MAX);
        if (part->width < 0)
            return fault_at(reader, start, "the width is more than 200");
    }
    if (*at == '.') {
        at++;
        part->precision = read_number(&at, TEMPLATE_PRECISION_MAX);
        if (part->precision < 0)
            return fault_at(reader, start, "the precision is no number from 0 to 30");
    }
    if (at != end)
        return fault_at(reader, at, "a format is [-][+][WIDTH][.PRECISION]");
    if (part->sign && part->field->kind == FIELD_STRING)
        return fault_at(reader, start, "a text has no sign");
    return 0;
}

/* From the brace on. */
static int read_field(struct reader *reader)
{
    struct template_part part = {.precision = -1};
    const char *open = reader->at, *name = open + 1;
    size_t size = strcspn(name, "{}");
    const char *end = name + size;
    const char *colon = memchr(name, ':', size);
    char why[96];
    int r;

    if (*end != '}')
        return fault_at(reader, open, "this brace is not closed");
    part.field = find_field(name, colon ? (size_t)(colon - name) : size);
    if (!part.field) {
        (void)snprintf(why, sizeof(why), "there is no field \"%.*s\"",
                       (int)MIN(colon ? (size_t)(colon - name) : size, (size_t)40), name);
        return fault_at(reader, name, why);
    }
    r = colon ? read_format(reader, &part, colon + 1, end) : 0;
    if (r == 0)
        r = end_literal(reader);
    if (r == 0)
        r = add_part(reader->template, &part);
    reader->at = end + 1;
    return r;
}

static int read_escape(struct reader *reader)
{
    static const char letters[] = "nt\\", meanings[] = "\n\t\\";
    const char *found = reader->at[1] ? strchr(letters, reader->at[1]) : NULL;

    if (!found)
        return fault_at(reader, reader->at, "after a backslash stands n, t or a backslash");
    text_add_char(&reader->literal, meanings[found - letters]);
    reader->at += 2;
    return 0;
}

static int read_next(struct reader *reader)
{
    char c = *reader->at;

    if (c == '\\')
        return read_escape(reader);
    if ((c == '{' || c == '}') && reader->at[1] == c) {
        text_add_char(&reader->literal, c);
        reader->at += 2;
        return 0;
    }
    if (c == '}')
        return fault_at(reader, reader->at, "this brace was not opened (a brace itself is }})");
    if (c == '{')
        return read_field(reader);
    text_add_char(&reader->literal, c);
    reader->at++;
    return 0;
}

int template_parse(struct template *template, const char *source,
                   char error[static TEMPLATE_ERROR_MAX])
{
    struct reader reader = {.template = template, .start = source, .at = source, .error = error};
    int r = 0;

    *template = (struct template){0};
    while (r == 0 && *reader.at)
        r = read_next(&reader);
    if (r == 0)
        r = end_literal(&reader);
    text_deinit(&reader.literal);
    if (r == 0 && template->count == 0)
        r = fault_at(&reader, source, "the template is empty");
    if (r < 0)
        template_deinit(template);
    return r;
}

void template_deinit(struct template *template)
{
    for (size_t i = 0; i < template->count; i++)
        free(template->parts[i].literal);
    free(template->parts);
    *template = (struct template){0};
}

/* ---- Writing ---- */

static void pad(struct text *text, size_t columns, int width)
{
    for (; columns < (size_t)width; columns++)
        text_add_char(text, ' ');
}

/* Characters that may be shown, others as U+FFFD, `max` at most; how many it were. NULL: counts. */
static size_t add_string(struct text *text, const char *string, size_t max)
{
    const char *end = string + strlen(string);
    size_t count = 0;

    for (; string < end && count < max; count++) {
        uint32_t code = 0;
        size_t size = 0;
        bool good =
            utf8_decode(string, (size_t)(end - string), &code, &size) && !utf8_is_unsafe(code);

        if (text && good)
            text_add(text, string, size);
        else if (text)
            text_add_string(text, UTF8_REPLACEMENT);
        string += size;
    }
    return count;
}

static void print_string(struct text *text, const struct template_part *part, const char *string)
{
    size_t max = part->precision >= 0 ? (size_t)part->precision : SIZE_MAX;
    size_t columns = add_string(NULL, string, max);

    if (!part->left)
        pad(text, columns, part->width);
    (void)add_string(text, string, max);
    if (part->left)
        pad(text, columns, part->width);
}

static void print_double(struct text *text, const struct template_part *part, double value)
{
    /* DBL_MAX has 309 digits before its point. */
    char digits[400], shortest[NUMBER_TEXT_MAX];
    const char *sign = part->sign && value >= 0 ? "+" : "";

    if (part->precision >= 0 || !isfinite(value)) {
        (void)snprintf(digits, sizeof(digits), "%s%.*f", sign, MAX(part->precision, 0), value);
    } else {
        (void)number_format(value, shortest);
        (void)snprintf(digits, sizeof(digits), "%s%s", sign, shortest);
    }
    text_printf(text, part->left ? "%-*s" : "%*s", part->width, digits);
}

static void print_number(struct text *text, const struct template_part *part, const void *value)
{
    char digits[32];

    if (part->field->kind == FIELD_UINT64)
        (void)snprintf(digits, sizeof(digits), part->sign ? "+%" PRIu64 : "%" PRIu64,
                       *(const uint64_t *)value);
    else
        (void)snprintf(digits, sizeof(digits), part->sign ? "%+" PRId64 : "%" PRId64,
                       *(const int64_t *)value);
    text_printf(text, part->left ? "%-*s" : "%*s", part->width, digits);
}

static double lag_ms(uint64_t time_ns, uint64_t now_ns)
{
    return now_ns > time_ns ? (double)(now_ns - time_ns) / 1e6 : 0;
}

static void print_field(struct text *text, const struct template_part *part,
                        const Stockservice__MarketEvent *event, uint64_t now_ns)
{
    const struct field *field = part->field;
    const char *base = field->of_update ? (const char *)event->update : (const char *)event;
    const void *value = base + field->offset;

    switch (field->kind) {
    case FIELD_STRING:
        print_string(text, part, *(const char *const *)value);
        break;
    case FIELD_DOUBLE:
        print_double(text, part, *(const double *)value);
        break;
    case FIELD_LAG:
        print_double(text, part, lag_ms(event->time_unix_nano, now_ns));
        break;
    default:
        print_number(text, part, value);
        break;
    }
}

void template_print(struct text *text, const struct template *template,
                    const Stockservice__MarketEvent *event, uint64_t now_ns)
{
    for (size_t i = 0; i < template->count; i++) {
        const struct template_part *part = &template->parts[i];

        if (part->field)
            print_field(text, part, event, now_ns);
        else
            text_add(text, part->literal, part->size);
    }
    text_add_char(text, '\n');
}
