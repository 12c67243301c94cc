/*
 * Settings: text to values and back, and the layers that they come in.
 *
 * libinih splits a file into sections, keys and values. It forgives much that a person would want
 * to hear of: it cuts long lines in two, takes an indented line as more of the value before it,
 * ends a line at a NUL byte, ignores what follows "]", takes ":" for "=", shortens long names and
 * reports the first bad line only. So each line is looked at before libinih gets it
 * (check_line()), and what it would misread becomes a fault here and an empty line there.
 */
#include "base/config.h"

#include "base/address.h"
#include "base/log.h"
#include "base/util.h"

#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WHY_MAX 256
#define QUOTED_MAX 68
#define NAME_MAX_COMPARED 40
/* The longest value as text: a full list of addresses with ", " between them. */
#define VALUE_TEXT_MAX (CONFIG_ADDRESSES_MAX * (ADDRESS_TEXT_MAX + 2))

/* A value that is not stored (yet); the string is borrowed. */
union value {
    uint64_t whole;
    double real;
    const char *string;
    int level;
    struct config_addresses addresses;
    struct config_seed seed;
};

struct unit {
    const char *name;
    uint64_t factor;
};

/* Each from the largest to the smallest, as format_whole() wants them. */
static const struct unit count_units[] = {{"", 1}};
static const struct unit size_units[] = {
    {"G", (uint64_t)1 << 30}, {"M", (uint64_t)1 << 20}, {"K", (uint64_t)1 << 10}, {"", 1}};
static const struct unit duration_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

/* What the types that are whole numbers inside have in common. */
struct whole_type {
    const struct unit *units;
    size_t count;
    bool fraction; /* "1.5s" */
    const char *what;
};

static const struct whole_type whole_types[] = {
    [CONFIG_COUNT] = {count_units, ELEMENTSOF(count_units), false, "a whole number"},
    [CONFIG_SIZE] = {size_units, ELEMENTSOF(size_units), false,
                     "a size (a number of bytes, or one with K, M or G, such as 64K)"},
    [CONFIG_DURATION] = {duration_units, ELEMENTSOF(duration_units), true,
                         "a duration (a number with ms, s, m, h or d, such as 100ms)"},
};

static void close_file(FILE **file)
{
    if (*file)
        (void)fclose(*file);
}
#define _cleanup_file_ _cleanup_(close_file)

/* As much of `text` as a message should show. */
static const char *shown(const char *text, char result[static QUOTED_MAX - 2])
{
    (void)snprintf(result, QUOTED_MAX - 2, "%.*s%s", QUOTED_MAX - 6, text,
                   strlen(text) > QUOTED_MAX - 6 ? "..." : "");
    return result;
}

/* The same in quotes. */
static const char *quoted(const char *text, char result[static QUOTED_MAX])
{
    result[0] = '"';
    (void)shown(text, result + 1);
    return strcat(result, "\"");
}

/* Paths and values may hold anything; in messages it shall neither move a cursor nor end a line. */
static void replace_controls(char *text)
{
    for (; *text; text++)
        if (iscntrl((unsigned char)*text))
            *text = '?';
}

static bool wrong(char why[static WHY_MAX], const char *format, ...) _printf_(2, 3);

/* Says why a value is not taken; false, so that a parser can return it. */
static bool wrong(char why[static WHY_MAX], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(why, WHY_MAX, format, arguments);
    va_end(arguments);
    return false;
}

/* --- values as text ------------------------------------------------------------------------- */

static void format_whole(enum config_type type, uint64_t value, char *text, size_t size)
{
    const struct whole_type *whole = &whole_types[type];
    const struct unit *unit = whole->units;

    if (value == 0) {
        (void)snprintf(text, size, "0");
        return;
    }
    while (value % unit->factor != 0)
        unit++;
    (void)snprintf(text, size, "%" PRIu64 "%s", value / unit->factor, unit->name);
}

/* A short text that reads back as the same number. */
static void format_real(double value, char *text, size_t size)
{
    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(text, size, "%.*g", precision, value);
        if (strtod(text, NULL) == value)
            return;
    }
}

static void format_addresses(const struct config_addresses *addresses, char *text)
{
    char address[ADDRESS_TEXT_MAX];
    char *end = text;

    *end = '\0';
    for (unsigned i = 0; i < addresses->count; i++) {
        const struct sockaddr *one = (const struct sockaddr *)&addresses->address[i];

        end = stpcpy(end, i > 0 ? ", " : "");
        end = stpcpy(end, address_format(one, address));
    }
}

static void format_value(const struct config_setting *setting, const union value *value,
                         char text[static VALUE_TEXT_MAX])
{
    switch (setting->type) {
    case CONFIG_COUNT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        format_whole(setting->type, value->whole, text, VALUE_TEXT_MAX);
        break;
    case CONFIG_NUMBER:
        format_real(value->real, text, VALUE_TEXT_MAX);
        break;
    case CONFIG_STRING:
        (void)snprintf(text, VALUE_TEXT_MAX, "%s", value->string);
        break;
    case CONFIG_LEVEL:
        (void)snprintf(text, VALUE_TEXT_MAX, "%s", log_level_name(value->level));
        break;
    case CONFIG_ADDRESSES:
        format_addresses(&value->addresses, text);
        break;
    case CONFIG_SEED:
        if (value->seed.given)
            (void)snprintf(text, VALUE_TEXT_MAX, "%" PRIu64, value->seed.value);
        else
            (void)snprintf(text, VALUE_TEXT_MAX, "random");
        break;
    }
}

static void format_limit(const struct config_setting *setting, double limit, char *text,
                         size_t size)
{
    if (setting->type <= CONFIG_DURATION)
        format_whole(setting->type, (uint64_t)limit, text, size);
    else
        format_real(limit, text, size);
}

const char *config_range(const struct config_setting *setting,
                         char text[static CONFIG_RANGE_TEXT_MAX])
{
    char minimum[32], maximum[32];
    const char *what = setting->type == CONFIG_STRING      ? " bytes"
                       : setting->type == CONFIG_ADDRESSES ? " addresses"
                                                           : "";

    if (setting->type == CONFIG_LEVEL)
        return strcpy(text, "error, warning, notice, info or debug");
    if (setting->type == CONFIG_SEED)
        return strcpy(text, "a whole number below 2^64, or random");
    format_limit(setting, setting->minimum, minimum, sizeof minimum);
    format_limit(setting, setting->maximum, maximum, sizeof maximum);
    (void)snprintf(text, CONFIG_RANGE_TEXT_MAX, "%s to %s%s", minimum, maximum, what);
    return text;
}

/* --- text as values ------------------------------------------------------------------------- */

static bool wrong_range(const struct config_setting *setting, const char *text,
                        char why[static WHY_MAX])
{
    char quote[QUOTED_MAX], range[CONFIG_RANGE_TEXT_MAX];

    return wrong(why, "%s is out of range (%s)", quoted(text, quote), config_range(setting, range));
}

/* A number that is written as digits, perhaps with a fraction, and what follows it. */
struct decimal {
    bool negative;
    bool overflow;      /* `whole` did not fit */
    bool long_fraction; /* `fraction` did not fit: more digits than any unit can use */
    uint64_t whole;
    uint64_t fraction;       /* of `fraction_scale` */
    uint64_t fraction_scale; /* a power of ten */
    bool point;
    const char *rest;
};

/* 10^10 is the largest scale that can matter: a day has 2^10 * 3^3 * 5^5 ms. */
#define FRACTION_SCALE_MAX UINT64_C(10000000000)

static bool scan_decimal(const char *text, struct decimal *ret)
{
    struct decimal decimal = {.fraction_scale = 1};

    decimal.negative = *text == '-';
    text += decimal.negative;
    if (!isdigit((unsigned char)*text))
        return false;
    for (; isdigit((unsigned char)*text); text++) {
        uint64_t digit = (uint64_t)(*text - '0');

        decimal.overflow |= __builtin_mul_overflow(decimal.whole, 10, &decimal.whole);
        decimal.overflow |= __builtin_add_overflow(decimal.whole, digit, &decimal.whole);
    }
    if (text[0] == '.' && isdigit((unsigned char)text[1])) {
        decimal.point = true;
        for (text++; isdigit((unsigned char)*text); text++) {
            if (decimal.fraction_scale < FRACTION_SCALE_MAX) {
                decimal.fraction = decimal.fraction * 10 + (uint64_t)(*text - '0');
                decimal.fraction_scale *= 10;
            } else if (*text != '0') {
                decimal.long_fraction = true;
            }
        }
    }
    decimal.rest = text;
    *ret = decimal;
    return true;
}

static const struct unit *find_unit(const struct whole_type *type, const char *name)
{
    for (size_t i = 0; i < type->count; i++)
        if (strcmp(type->units[i].name, name) == 0)
            return &type->units[i];
    return NULL;
}

static bool parse_whole(const struct config_setting *setting, const char *text, uint64_t *ret,
                        char why[static WHY_MAX])
{
    const struct whole_type *type = &whole_types[setting->type];
    const struct unit *unit = NULL;
    struct decimal decimal = {0};
    char quote[QUOTED_MAX];
    uint64_t value = 0, part = 0;
    bool scanned = scan_decimal(text, &decimal);

    if (scanned && (type->fraction || !decimal.point)) {
        unit = find_unit(type, decimal.rest);
        if (!unit && decimal.rest[0] == '\0') {
            if (decimal.overflow || decimal.whole || decimal.fraction || decimal.long_fraction)
                return wrong(why, "%s has no unit (ms, s, m, h or d, such as 100ms)",
                             quoted(text, quote));
            unit = &type->units[type->count - 1];
        }
    }
    if (!unit)
        return wrong(why, "%s is not %s", quoted(text, quote), type->what);

    part = decimal.fraction * unit->factor;
    if (decimal.long_fraction || part % decimal.fraction_scale != 0)
        return wrong(why, "%s is not a whole number of milliseconds", quoted(text, quote));
    if (decimal.negative || decimal.overflow ||
        __builtin_mul_overflow(decimal.whole, unit->factor, &value) ||
        __builtin_add_overflow(value, part / decimal.fraction_scale, &value) ||
        value < (uint64_t)setting->minimum || value > (uint64_t)setting->maximum)
        return wrong_range(setting, text, why);
    *ret = value;
    return true;
}

static bool parse_real(const struct config_setting *setting, const char *text, double *ret,
                       char why[static WHY_MAX])
{
    char quote[QUOTED_MAX];
    char *end = NULL;
    double value = 0;

    /* Neither blanks nor "inf", "nan" and "0x1p3", which strtod() takes too. */
    if (text[strspn(text, "0123456789.eE+-")] == '\0')
        value = strtod(text, &end);
    if (!end || end == text || *end)
        return wrong(why, "%s is not a number (such as 150 or 99.95)", quoted(text, quote));
    if (!isfinite(value) || value < setting->minimum || value > setting->maximum)
        return wrong_range(setting, text, why);
    *ret = value;
    return true;
}

static bool parse_string(const struct config_setting *setting, const char *text, const char **ret,
                         char why[static WHY_MAX])
{
    char quote[QUOTED_MAX];
    size_t length = strlen(text);

    for (const char *c = text; *c; c++)
        if (*c <= ' ' || *c > '~' || strchr("\"'`;", *c))
            return wrong(why,
                         "%s has a character that is not allowed (only printable ASCII, without "
                         "spaces, quotes and semicolons)",
                         quoted(text, quote));
    if (length < (size_t)setting->minimum || length > (size_t)setting->maximum)
        return wrong_range(setting, text, why);
    *ret = text;
    return true;
}

static bool parse_seed(const char *text, struct config_seed *ret, char why[static WHY_MAX])
{
    struct decimal decimal = {0};
    char quote[QUOTED_MAX];

    if (strcmp(text, "random") == 0) {
        *ret = (struct config_seed){0};
        return true;
    }
    if (!scan_decimal(text, &decimal) || decimal.negative || decimal.overflow || decimal.point ||
        *decimal.rest)
        return wrong(why, "%s is neither a whole number below 2^64 nor \"random\"",
                     quoted(text, quote));
    *ret = (struct config_seed){.given = true, .value = decimal.whole};
    return true;
}

static bool parse_addresses(const struct config_setting *setting, const char *text,
                            struct config_addresses *ret, char why[static WHY_MAX])
{
    static const char blanks[] = " \t";
    struct config_addresses addresses = {0};

    text += strspn(text, blanks);
    while (*text) {
        size_t length = strcspn(text, ",");
        size_t used = length;
        const char *address_why = NULL;

        while (used > 0 && strchr(blanks, text[used - 1]))
            used--;
        if (used == 0)
            return wrong(why, "an address is missing beside a comma");
        if (strcspn(text, blanks) < used)
            return wrong(why, "a comma is missing between two addresses");
        if (addresses.count == (unsigned)setting->maximum)
            return wrong(why, "more than %u addresses", (unsigned)setting->maximum);
        if (address_parse(text, used, &addresses.address[addresses.count], &address_why) < 0)
            return wrong(why, "%s", address_why);
        addresses.count++;
        text += length;
        if (*text == ',') {
            text++;
            text += strspn(text, blanks);
            if (*text == '\0')
                return wrong(why, "an address is missing beside a comma");
        }
    }
    if (addresses.count < (unsigned)setting->minimum)
        return wrong(why, "an address is missing (such as [::]:4444)");
    *ret = addresses;
    return true;
}

/* True, or false and the reason. */
static bool parse_value(const struct config_setting *setting, const char *text, union value *ret,
                        char why[static WHY_MAX])
{
    char quote[QUOTED_MAX], range[CONFIG_RANGE_TEXT_MAX];

    if (*text == '\0' && setting->type != CONFIG_ADDRESSES)
        return wrong(why, "the value is missing");
    switch (setting->type) {
    case CONFIG_COUNT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        return parse_whole(setting, text, &ret->whole, why);
    case CONFIG_NUMBER:
        return parse_real(setting, text, &ret->real, why);
    case CONFIG_STRING:
        return parse_string(setting, text, &ret->string, why);
    case CONFIG_LEVEL:
        ret->level = log_level_from_name(text);
        if (ret->level < 0)
            return wrong(why, "%s is not a level (%s)", quoted(text, quote),
                         config_range(setting, range));
        return true;
    case CONFIG_ADDRESSES:
        return parse_addresses(setting, text, &ret->addresses, why);
    case CONFIG_SEED:
        return parse_seed(text, &ret->seed, why);
    }
    return wrong(why, "its type is unknown");
}

/* --- the program's structure ---------------------------------------------------------------- */

static void *slot_of(const struct config *config, size_t index)
{
    return (char *)config->values + config->table[index].offset;
}

static void fetch_value(const struct config *config, size_t index, union value *ret)
{
    const void *slot = slot_of(config, index);

    switch (config->table[index].type) {
    case CONFIG_COUNT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        ret->whole = *(const uint64_t *)slot;
        break;
    case CONFIG_NUMBER:
        ret->real = *(const double *)slot;
        break;
    case CONFIG_STRING:
        ret->string = *(char *const *)slot;
        break;
    case CONFIG_LEVEL:
        ret->level = *(const int *)slot;
        break;
    case CONFIG_ADDRESSES:
        ret->addresses = *(const struct config_addresses *)slot;
        break;
    case CONFIG_SEED:
        ret->seed = *(const struct config_seed *)slot;
        break;
    }
}

/* 0 or -ENOMEM; then nothing has changed. */
static int store_value(struct config *config, size_t index, const union value *value)
{
    void *slot = slot_of(config, index);
    char *copy = NULL;

    switch (config->table[index].type) {
    case CONFIG_COUNT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        *(uint64_t *)slot = value->whole;
        break;
    case CONFIG_NUMBER:
        *(double *)slot = value->real;
        break;
    case CONFIG_STRING:
        copy = strdup(value->string);
        if (!copy)
            return -ENOMEM;
        free(*(char **)slot);
        *(char **)slot = copy;
        break;
    case CONFIG_LEVEL:
        *(int *)slot = value->level;
        break;
    case CONFIG_ADDRESSES:
        *(struct config_addresses *)slot = value->addresses;
        break;
    case CONFIG_SEED:
        *(struct config_seed *)slot = value->seed;
        break;
    }
    return 0;
}

int config_init(struct config *config, const struct config_setting *table, size_t count,
                void *values)
{
    *config = (struct config){.table = table, .count = count, .values = values};
    config->origin = calloc(count, sizeof *config->origin);
    config->layer = calloc(count, sizeof *config->layer);
    if (!config->origin || !config->layer)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        union value value = {0};
        char why[WHY_MAX];
        bool valid = parse_value(&table[i], table[i].initial, &value, why);

        assert(valid);
        (void)valid;
        if (store_value(config, i, &value) < 0)
            return -ENOMEM;
    }
    return 0;
}

void config_deinit(struct config *config)
{
    for (size_t i = 0; i < config->count; i++) {
        if (config->table[i].type == CONFIG_STRING) {
            char **string = slot_of(config, i);

            free(*string);
            *string = NULL;
        }
        if (config->origin)
            free(config->origin[i]);
    }
    free(config->origin);
    free(config->layer);
    for (size_t i = 0; i < config->faults.count; i++)
        free(config->faults.text[i]);
    free(config->faults.text);
    *config = (struct config){0};
}

/* --- faults --------------------------------------------------------------------------------- */

int config_fault(struct config *config, const char *format, ...)
{
    struct config_faults *faults = &config->faults;
    _cleanup_free_ char *text = NULL;
    char **grown = NULL;
    va_list arguments;
    int r = 0;

    if (faults->count == CONFIG_FAULTS_MAX)
        return 0;
    va_start(arguments, format);
    if (faults->count == CONFIG_FAULTS_MAX - 1)
        r = asprintf(&text, "there are more faults, which are not shown");
    else
        r = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (r < 0)
        text = NULL;
    else
        grown = reallocarray(faults->text, faults->count + 1, sizeof *grown);
    if (!grown) {
        faults->out_of_memory = true;
        return -ENOMEM;
    }
    replace_controls(text);
    faults->text = grown;
    faults->text[faults->count++] = TAKE_PTR(text);
    return 0;
}

/*
 * How many characters must be typed, deleted or replaced to make one name from the other
 * (Levenshtein); case does not count.
 */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[NAME_MAX_COMPARED + 1];
    size_t length = strlen(b);

    if (strlen(a) > NAME_MAX_COMPARED || length > NAME_MAX_COMPARED)
        return UINT_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = (unsigned)j;
    for (size_t i = 0; a[i]; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < length; j++) {
            unsigned replaced =
                diagonal + (tolower((unsigned char)a[i]) != tolower((unsigned char)b[j]));
            unsigned typed = MIN(row[j], row[j + 1]) + 1;

            diagonal = row[j + 1];
            row[j + 1] = MIN(replaced, typed);
        }
    }
    return row[length];
}

/* What was probably meant by an unknown name, or NULL: few enough letters are different. */
struct guess {
    const char *name;
    unsigned distance;
};

static void consider(struct guess *guess, const char *written, const char *known)
{
    unsigned distance = edit_distance(written, known);

    if (distance <= 1 + strlen(known) / 4 && (!guess->name || distance < guess->distance))
        *guess = (struct guess){.name = known, .distance = distance};
}

static bool section_known(const struct config *config, const char *section)
{
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].section, section) == 0)
            return true;
    return false;
}

static int fault_section(struct config *config, const char *origin, const char *section)
{
    struct guess guess = {0};
    char name[QUOTED_MAX];

    for (size_t i = 0; i < config->count; i++)
        consider(&guess, section, config->table[i].section);
    if (guess.name)
        return config_fault(config, "%s: [%s]: there is no such section; is [%s] meant?", origin,
                            shown(section, name), guess.name);
    return config_fault(config, "%s: [%s]: there is no such section", origin, shown(section, name));
}

static int fault_key(struct config *config, const char *origin, const char *section,
                     const char *key)
{
    struct guess guess = {0};
    char name[QUOTED_MAX];

    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].section, section) == 0)
            consider(&guess, key, config->table[i].key);
    if (guess.name)
        return config_fault(config, "%s: %s.%s: there is no such key; is %s meant?", origin,
                            section, shown(key, name), guess.name);
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].key, key) == 0)
            return config_fault(config, "%s: %s.%s: there is no such key; it belongs in [%s]",
                                origin, section, key, config->table[i].section);
    return config_fault(config, "%s: %s.%s: there is no such key", origin, section,
                        shown(key, name));
}

/* --- layers --------------------------------------------------------------------------------- */

/* Puts the addresses that this layer gave before in front of `value`. */
static bool join_addresses(const struct config *config, size_t index, union value *value,
                           char why[static WHY_MAX])
{
    const struct config_addresses *before = slot_of(config, index);
    struct config_addresses joined = *before;

    if (value->addresses.count == 0)
        return true;
    for (unsigned i = 0; i < value->addresses.count; i++) {
        if (joined.count == (unsigned)config->table[index].maximum)
            return wrong(why, "more than %u addresses", joined.count);
        joined.address[joined.count++] = value->addresses.address[i];
    }
    value->addresses = joined;
    return true;
}

static int set_value(struct config *config, const char *section, const char *key, const char *text,
                     const char *origin, unsigned layer)
{
    _cleanup_free_ char *origin_copy = NULL;
    union value value = {0};
    char why[WHY_MAX];
    size_t index = 0;

    while (index < config->count && (strcmp(config->table[index].section, section) != 0 ||
                                     strcmp(config->table[index].key, key) != 0))
        index++;
    if (index == config->count)
        return fault_key(config, origin, section, key);
    if (!parse_value(&config->table[index], text, &value, why) ||
        (config->table[index].type == CONFIG_ADDRESSES && config->layer[index] == layer &&
         !join_addresses(config, index, &value, why)))
        return config_fault(config, "%s: %s.%s: %s", origin, section, key, why);

    origin_copy = strdup(origin);
    if (!origin_copy)
        return -ENOMEM;
    replace_controls(origin_copy); /* config_dump() makes a comment of one line of it */
    if (store_value(config, index, &value) < 0)
        return -ENOMEM;
    free(config->origin[index]);
    config->origin[index] = TAKE_PTR(origin_copy);
    config->layer[index] = layer;
    return 0;
}

int config_set(struct config *config, const char *section, const char *key, const char *value,
               const char *origin)
{
    if (!section_known(config, section))
        return fault_section(config, origin, section);
    return set_value(config, section, key, value, origin, ++config->layers);
}

/* --- files ---------------------------------------------------------------------------------- */

struct reader {
    struct config *config;
    const char *path;
    FILE *file;
    size_t size;
    unsigned line;
    unsigned layer;
    bool started;  /* a section began; keys before the first have none */
    bool skipping; /* up to the next section; the fault is reported */
    char buffer[CONFIG_LINE_MAX + 1];
    int error; /* errno of reading */
    int r;
};

enum line_fault {
    LINE_FINE,
    LINE_LONG,
    LINE_NUL,
    LINE_RETURN,
};

static int fault_line(struct reader *reader, const char *format, ...) _printf_(2, 3);

static int fault_line(struct reader *reader, const char *format, ...)
{
    char text[WHY_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return config_fault(reader->config, "%s:%u: %s", reader->path, reader->line, text);
}

/* "file:line", or NULL without memory. */
static char *line_origin(const struct reader *reader)
{
    char *origin = NULL;

    return asprintf(&origin, "%s:%u", reader->path, reader->line) < 0 ? NULL : origin;
}

static char *trim(char *text)
{
    char *end = text + strlen(text);

    while (end > text && isspace((unsigned char)end[-1]))
        end--;
    *end = '\0';
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

/*
 * Reads one line into the buffer, without its end and the blanks before it. False at the end of
 * the file. What is more than the buffer takes is dropped, and *ret_fault says so.
 */
static bool fetch_line(struct reader *reader, enum line_fault *ret_fault)
{
    enum line_fault fault = LINE_FINE;
    size_t length = 0;
    bool any = false, returned = false;
    int c;

    while ((c = getc_unlocked(reader->file)) != EOF && reader->size++ < CONFIG_FILE_SIZE_MAX) {
        any = true;
        if (c == '\n')
            break;
        /* CR LF ends a line as LF does; CR alone would hide the lines after it. */
        if (returned)
            fault = fault ? fault : LINE_RETURN;
        returned = c == '\r';
        if (c == '\0')
            fault = LINE_NUL;
        if (length < CONFIG_LINE_MAX && (length > 0 || !isspace(c)))
            reader->buffer[length++] = (char)c;
        else if (!isspace(c))
            fault = fault ? fault : LINE_LONG;
    }
    if (ferror_unlocked(reader->file))
        reader->error = errno;
    reader->buffer[length] = '\0';
    *ret_fault = fault;
    return any || reader->size > CONFIG_FILE_SIZE_MAX;
}

static char *skip_mark(struct reader *reader)
{
    static const char mark[] = "\xef\xbb\xbf"; /* of UTF-8, which some editors write */
    char *line = reader->buffer;

    if (reader->line == 1 && strncmp(line, mark, strlen(mark)) == 0)
        line += strlen(mark);
    return trim(line);
}

/* "[name]", perhaps with a comment. Anything else leads libinih to another section, or to none. */
static bool check_section(struct reader *reader, char *line)
{
    char *end = strchr(line, ']');
    _cleanup_free_ char *origin = NULL;
    char name[CONFIG_LINE_MAX + 1];
    char quote[QUOTED_MAX];

    reader->started = true;
    reader->skipping = true;
    if (!end) {
        reader->r = fault_line(reader, "%s has no \"]\"", quoted(line, quote));
        return false;
    }
    memcpy(name, line + 1, (size_t)(end - line - 1));
    name[end - line - 1] = '\0';
    end += 1 + strspn(end + 1, " \t");
    if (*end && *end != ';' && *end != '#') {
        reader->r = fault_line(reader, "%s is not allowed after a section", quoted(end, quote));
        return false;
    }
    if (!section_known(reader->config, name)) {
        origin = line_origin(reader);
        reader->r = origin ? fault_section(reader->config, origin, name) : -ENOMEM;
        return false;
    }
    reader->skipping = false;
    return true;
}

/* "key = value", where libinih finds the same key that a person reads. */
static bool check_key(struct reader *reader, const char *line)
{
    char quote[QUOTED_MAX];
    bool blank = false;
    const char *c = line;

    if (reader->skipping)
        return false;
    for (; *c && !strchr("=:", *c) && !(blank && *c == ';'); c++)
        blank = isspace((unsigned char)*c);
    if (*c != '=' || c == line) {
        reader->r = fault_line(reader, "%s is not \"key = value\"", quoted(line, quote));
        return false;
    }
    if (!reader->started) {
        reader->skipping = true;
        reader->r = fault_line(reader, "%s stands before the first [section]", quoted(line, quote));
        return false;
    }
    return true;
}

/* May libinih see this line? If not, it is empty or a comment, or the fault is reported. */
static bool check_line(struct reader *reader, char *line, enum line_fault fault)
{
    switch (fault) {
    case LINE_FINE:
        break;
    case LINE_NUL:
        reader->r = fault_line(reader, "a NUL byte is in the line");
        return false;
    case LINE_RETURN:
        reader->r = fault_line(reader, "a carriage return is in the middle of the line");
        return false;
    case LINE_LONG:
        if (!strchr(";#", *line))
            reader->r = fault_line(reader, "the line is longer than %d bytes", CONFIG_LINE_MAX);
        return false;
    }
    if (*line == '\0' || strchr(";#", *line))
        return false;
    return *line == '[' ? check_section(reader, line) : check_key(reader, line);
}

/* An ini_reader, which works like fgets(). */
static char *read_line(char *text, int size, void *context)
{
    struct reader *reader = context;
    enum line_fault fault = LINE_FINE;
    char *line = NULL;

    if (reader->r < 0 || !fetch_line(reader, &fault))
        return NULL;
    if (reader->size > CONFIG_FILE_SIZE_MAX) {
        reader->r = config_fault(reader->config, "%s: the file is larger than %zu bytes",
                                 reader->path, CONFIG_FILE_SIZE_MAX);
        return NULL;
    }
    reader->line++;
    line = skip_mark(reader);
    if (fault == LINE_FINE && strlen(line) >= (size_t)size)
        fault = LINE_LONG; /* libinih was built with a smaller buffer than usual */
    return strcpy(text, check_line(reader, line, fault) ? line : "");
}

/* An ini_handler. Errors go by way of the reader: libinih could only number one of them. */
static int handle_key(void *context, const char *section, const char *key, const char *value)
{
    struct reader *reader = context;
    _cleanup_free_ char *origin = line_origin(reader);

    if (!origin)
        reader->r = -ENOMEM;
    else if (reader->r == 0)
        reader->r = set_value(reader->config, section, key, value, origin, reader->layer);
    return 1;
}

int config_load_file(struct config *config, const char *path, bool required)
{
    _cleanup_file_ FILE *file = fopen(path, "re");
    struct reader reader = {
        .config = config, .path = path, .file = file, .layer = ++config->layers};
    int r = 0;

    if (!file) {
        if (errno == ENOMEM)
            return -ENOMEM;
        if (errno == ENOENT && !required)
            return 0;
        return config_fault(config, "%s: cannot be read: %s", path, strerror(errno));
    }
    r = ini_parse_stream(read_line, &reader, handle_key, &reader);
    if (reader.r < 0)
        return reader.r;
    if (r < 0)
        return -ENOMEM; /* a libinih that keeps its line on the heap */
    if (r > 0)
        return config_fault(config, "%s:%d: the line is not understood", path, r);
    if (reader.error > 0)
        return config_fault(config, "%s: cannot be read: %s", path, strerror(reader.error));
    return 0;
}

struct names {
    char **name;
    size_t count;
};

static void names_deinit(struct names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->name[i]);
    free(names->name);
}

static int names_add(struct names *names, const char *directory, const char *name)
{
    _cleanup_free_ char *path = NULL;
    char **grown = NULL;

    if (asprintf(&path, "%s/%s", directory, name) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    grown = reallocarray(names->name, names->count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    names->name = grown;
    names->name[names->count++] = TAKE_PTR(path);
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void close_directory(DIR **directory)
{
    if (*directory)
        (void)closedir(*directory);
}

/* 0, or the negative errno of reading the directory. */
static int list_directory(const char *path, struct names *names)
{
    _cleanup_(close_directory) DIR *directory = opendir(path);
    struct dirent *entry = NULL;
    int r = 0;

    if (!directory)
        return -errno;
    for (;;) {
        const char *suffix = NULL;

        errno = 0;
        entry = readdir(directory);
        if (!entry)
            return -errno;
        suffix = strrchr(entry->d_name, '.');
        if (entry->d_name[0] == '.' || !suffix || strcmp(suffix, ".conf") != 0)
            continue;
        r = names_add(names, path, entry->d_name);
        if (r < 0)
            return r;
    }
}

int config_load_directory(struct config *config, const char *directory)
{
    _cleanup_(names_deinit) struct names names = {0};
    int r = list_directory(directory, &names);

    if (r == -ENOMEM)
        return r;
    if (r < 0 && r != -ENOENT)
        return config_fault(config, "%s: cannot be read: %s", directory, strerror(-r));
    if (names.count > 0)
        qsort(names.name, names.count, sizeof *names.name, compare_names);
    for (size_t i = 0; i < names.count; i++) {
        r = config_load_file(config, names.name[i], true);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- showing -------------------------------------------------------------------------------- */

/* One line for each address, because sixteen of them are longer than a line may be. */
static bool dump_addresses(int fd, const char *key, const struct config_addresses *addresses)
{
    char text[ADDRESS_TEXT_MAX];

    if (addresses->count == 0)
        return dprintf(fd, "%s =\n", key) >= 0;
    for (unsigned i = 0; i < addresses->count; i++) {
        const struct sockaddr *one = (const struct sockaddr *)&addresses->address[i];

        if (dprintf(fd, "%s = %s\n", key, address_format(one, text)) < 0)
            return false;
    }
    return true;
}

static bool dump_setting(const struct config *config, size_t index, int fd)
{
    const struct config_setting *setting = &config->table[index];
    const char *origin = config->origin[index];
    char range[CONFIG_RANGE_TEXT_MAX], text[VALUE_TEXT_MAX];
    union value value = {0};

    if (dprintf(fd, "# %s\n# Default: %s. Range: %s. %s%s\n", setting->help, setting->initial,
                config_range(setting, range), origin ? "Set by " : "Not set.",
                origin ? origin : "") < 0)
        return false;
    fetch_value(config, index, &value);
    if (setting->type == CONFIG_ADDRESSES)
        return dump_addresses(fd, setting->key, &value.addresses);
    format_value(setting, &value, text);
    return dprintf(fd, "%s = %s\n", setting->key, text) >= 0;
}

int config_dump(const struct config *config, int fd)
{
    const char *section = NULL;

    for (size_t i = 0; i < config->count; i++) {
        const char *next = config->table[i].section;

        if (!section || strcmp(section, next) != 0) {
            if (dprintf(fd, "%s[%s]\n", section ? "\n" : "", next) < 0)
                return -errno;
            section = next;
        }
        if (!dump_setting(config, i, fd))
            return -errno;
    }
    return 0;
}

void config_each_changed(const struct config *config,
                         void (*each)(const struct config_setting *setting, const char *value,
                                      const char *origin, void *context),
                         void *context)
{
    for (size_t i = 0; i < config->count; i++) {
        const struct config_setting *setting = &config->table[i];
        char text[VALUE_TEXT_MAX], initial_text[VALUE_TEXT_MAX], why[WHY_MAX];
        union value value = {0}, initial = {0};

        if (!config->origin[i] || !parse_value(setting, setting->initial, &initial, why))
            continue;
        fetch_value(config, i, &value);
        format_value(setting, &value, text);
        format_value(setting, &initial, initial_text);
        if (strcmp(text, initial_text) != 0)
            each(setting, text, config->origin[i], context);
    }
}
