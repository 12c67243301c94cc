/*
 * The types of settings. A text that cannot be taken is answered with a reason that a person can
 * act on, because it ends up in the journal of whoever wrote the file.
 */
#include "base/config_value.h"

#include "base/boolean.h"
#include "base/log.h"
#include "base/number.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Room for the text of any type whose text is made here, rather than kept. */
#define SHORT_TEXT_MAX NUMBER_TEXT_MAX

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

const char *config_shown(const char *text, char result[static CONFIG_QUOTED_MAX - 2])
{
    (void)snprintf(result, CONFIG_QUOTED_MAX - 2, "%.*s%s", CONFIG_QUOTED_MAX - 6, text,
                   strlen(text) > CONFIG_QUOTED_MAX - 6 ? "..." : "");
    return result;
}

const char *config_quoted(const char *text, char result[static CONFIG_QUOTED_MAX])
{
    result[0] = '"';
    (void)config_shown(text, result + 1);
    return strcat(result, "\"");
}

bool config_wrong(char why[static CONFIG_WHY_MAX], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(why, CONFIG_WHY_MAX, format, arguments);
    va_end(arguments);
    return false;
}

/* --- values as text --------------------------------------------------------------------------- */

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

/* Every type whose text has a bound; NULL for the others. */
static const char *format_short(const struct config_setting *setting,
                                const union config_value *value, char text[static SHORT_TEXT_MAX])
{
    switch (setting->type) {
    case CONFIG_COUNT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        format_whole(setting->type, value->whole, text, SHORT_TEXT_MAX);
        return text;
    case CONFIG_NUMBER:
        (void)number_format(value->real, text);
        return text;
    case CONFIG_STRING:
        return value->string;
    case CONFIG_PATH:
        return value->string ? value->string : "";
    case CONFIG_LEVEL:
        return log_level_name(value->chosen);
    case CONFIG_BOOLEAN:
        return value->boolean ? "yes" : "no";
    case CONFIG_CLIENT_CERTIFICATE:
        return client_certificate_texts[value->chosen];
    case CONFIG_CHOICE:
        return setting->choices[value->chosen];
    case CONFIG_SEED:
        if (!value->seed.given)
            return "random";
        (void)snprintf(text, SHORT_TEXT_MAX, "%" PRIu64, value->seed.value);
        return text;
    case CONFIG_ENDPOINTS:
    case CONFIG_RANGES:
    case CONFIG_NAMES:
        break;
    }
    return NULL;
}

char *config_value_format(const struct config_setting *setting, const union config_value *value)
{
    char text[SHORT_TEXT_MAX];
    const char *short_text = format_short(setting, value, text);

    return short_text ? strdup(short_text) : config_list_format(setting->type, &value->list);
}

static void format_limit(const struct config_setting *setting, double limit,
                         char text[static NUMBER_TEXT_MAX])
{
    if (setting->type <= CONFIG_DURATION)
        format_whole(setting->type, (uint64_t)limit, text, NUMBER_TEXT_MAX);
    else
        (void)number_format(limit, text);
}

/* "a, b or c". */
static const char *join_choices(const char *const *choices, char text[static CONFIG_RANGE_TEXT_MAX])
{
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; choices[i] && used < CONFIG_RANGE_TEXT_MAX; i++)
        used += (size_t)snprintf(text + used, CONFIG_RANGE_TEXT_MAX - used, "%s%s",
                                 i == 0           ? ""
                                 : choices[i + 1] ? ", "
                                                  : " or ",
                                 choices[i]);
    return text;
}

const char *config_range(const struct config_setting *setting,
                         char text[static CONFIG_RANGE_TEXT_MAX])
{
    static const char *const words[] = {
        [CONFIG_LEVEL] = "error, warning, notice, info or debug",
        [CONFIG_SEED] = "a whole number below 2^64, or random",
        [CONFIG_BOOLEAN] = "yes or no",
        [CONFIG_CLIENT_CERTIFICATE] = "no, optional or required",
        [CONFIG_PATH] = "an absolute path, or empty",
    };
    char minimum[NUMBER_TEXT_MAX], maximum[NUMBER_TEXT_MAX];
    bool is_list = config_list_is(setting->type);
    const char *what = setting->type == CONFIG_STRING ? "bytes" : "";

    if (setting->type < ELEMENTSOF(words) && words[setting->type])
        return strcpy(text, words[setting->type]);
    if (setting->type == CONFIG_CHOICE)
        return join_choices(setting->choices, text);
    if (is_list)
        what = config_list_noun(setting->type);
    format_limit(setting, setting->minimum, minimum);
    format_limit(setting, setting->maximum, maximum);
    (void)snprintf(text, CONFIG_RANGE_TEXT_MAX, "%s to %s%s%s", minimum, maximum, *what ? " " : "",
                   what);
    return text;
}

const char *config_default(const struct config_setting *setting)
{
    if (!setting->initial)
        return "not set";
    return *setting->initial ? setting->initial : "empty";
}

/* --- text as values --------------------------------------------------------------------------- */

static bool wrong_range(const struct config_setting *setting, const char *text,
                        char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX], range[CONFIG_RANGE_TEXT_MAX];

    return config_wrong(why, "%s is out of range (%s)", config_quoted(text, quote),
                        config_range(setting, range));
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
                        char why[static CONFIG_WHY_MAX])
{
    const struct whole_type *type = &whole_types[setting->type];
    const struct unit *unit = NULL;
    struct decimal decimal = {0};
    char quote[CONFIG_QUOTED_MAX];
    uint64_t value = 0, part = 0;
    bool scanned = scan_decimal(text, &decimal);

    if (scanned && (type->fraction || !decimal.point)) {
        unit = find_unit(type, decimal.rest);
        if (!unit && decimal.rest[0] == '\0') {
            if (decimal.overflow || decimal.whole || decimal.fraction || decimal.long_fraction)
                return config_wrong(why, "%s has no unit (ms, s, m, h or d, such as 100ms)",
                                    config_quoted(text, quote));
            unit = &type->units[type->count - 1];
        }
    }
    if (!unit)
        return config_wrong(why, "%s is not %s", config_quoted(text, quote), type->what);

    part = decimal.fraction * unit->factor;
    if (decimal.long_fraction || part % decimal.fraction_scale != 0)
        return config_wrong(why, "%s is not a whole number of milliseconds",
                            config_quoted(text, quote));
    if (decimal.negative || decimal.overflow ||
        __builtin_mul_overflow(decimal.whole, unit->factor, &value) ||
        __builtin_add_overflow(value, part / decimal.fraction_scale, &value) ||
        value < (uint64_t)setting->minimum || value > (uint64_t)setting->maximum)
        return wrong_range(setting, text, why);
    *ret = value;
    return true;
}

static bool parse_real(const struct config_setting *setting, const char *text, double *ret,
                       char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX];
    char *end = NULL;
    double value = 0;

    /* Neither blanks nor "inf", "nan" and "0x1p3", which strtod() takes too. */
    if (text[strspn(text, "0123456789.eE+-")] == '\0')
        value = strtod(text, &end);
    if (!end || end == text || *end)
        return config_wrong(why, "%s is not a number (such as 150 or 99.95)",
                            config_quoted(text, quote));
    if (!isfinite(value) || value < setting->minimum || value > setting->maximum)
        return wrong_range(setting, text, why);
    *ret = value;
    return true;
}

static bool parse_string(const struct config_setting *setting, const char *text, const char **ret,
                         char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX];
    size_t length = strlen(text);

    for (const char *c = text; *c; c++)
        if (*c <= ' ' || *c > '~' || strchr("\"'`;", *c))
            return config_wrong(
                why,
                "%s has a character that is not allowed (only printable ASCII, without "
                "spaces, quotes and semicolons)",
                config_quoted(text, quote));
    if (length < (size_t)setting->minimum || length > (size_t)setting->maximum)
        return wrong_range(setting, text, why);
    *ret = text;
    return true;
}

static bool parse_seed(const char *text, struct config_seed *ret, char why[static CONFIG_WHY_MAX])
{
    struct decimal decimal = {0};
    char quote[CONFIG_QUOTED_MAX];

    if (strcmp(text, "random") == 0) {
        *ret = (struct config_seed){0};
        return true;
    }
    if (!scan_decimal(text, &decimal) || decimal.negative || decimal.overflow || decimal.point ||
        *decimal.rest)
        return config_wrong(why, "%s is neither a whole number below 2^64 nor \"random\"",
                            config_quoted(text, quote));
    *ret = (struct config_seed){.given = true, .value = decimal.whole};
    return true;
}

bool config_fits_line(const struct config_setting *setting, const char *text)
{
    return strlen(setting->key) + strlen(" = ") + strlen(text) <= CONFIG_LINE_MAX;
}

/* What a file could not hold would be lost in what config_dump() writes. */
static bool parse_path(const struct config_setting *setting, const char *text, const char **ret,
                       char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX];
    size_t length = strlen(text);
    bool blank = false;

    if (length == 0) {
        *ret = NULL;
        return true;
    }
    if (*text != '/')
        return config_wrong(why, "%s is not an absolute path", config_quoted(text, quote));
    for (const char *c = text; *c; c++) {
        if (iscntrl((unsigned char)*c) || (blank && *c == ';'))
            return config_wrong(why,
                                "%s has a character that is not allowed (a control character, or "
                                "a semicolon after a space)",
                                config_quoted(text, quote));
        blank = *c == ' ';
    }
    if (blank)
        return config_wrong(why, "%s ends with a space", config_quoted(text, quote));
    if (!config_fits_line(setting, text))
        return config_wrong(why, "%s is longer than a line may be", config_quoted(text, quote));
    *ret = text;
    return true;
}

static bool parse_level(const struct config_setting *setting, const char *text, int *ret,
                        char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX], range[CONFIG_RANGE_TEXT_MAX];
    int level = log_level_from_name(text);

    if (level < 0)
        return config_wrong(why, "%s is not a level (%s)", config_quoted(text, quote),
                            config_range(setting, range));
    *ret = level;
    return true;
}

static bool parse_boolean(const char *text, bool *ret, char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX];

    return boolean_parse(text, strlen(text), ret) ||
           config_wrong(why, "%s is neither yes nor no", config_quoted(text, quote));
}

static bool parse_client_certificate(const char *text, int *ret, char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX];

    for (int i = 0; i < CLIENT_CERTIFICATE_UNSET; i++)
        if (strcmp(client_certificate_texts[i], text) == 0) {
            *ret = i;
            return true;
        }
    return config_wrong(why, "%s is none of no, optional and required", config_quoted(text, quote));
}

static bool parse_choice(const struct config_setting *setting, const char *text, int *ret,
                         char why[static CONFIG_WHY_MAX])
{
    char quote[CONFIG_QUOTED_MAX], range[CONFIG_RANGE_TEXT_MAX];

    for (int i = 0; setting->choices[i]; i++)
        if (strcmp(setting->choices[i], text) == 0) {
            *ret = i;
            return true;
        }
    return config_wrong(why, "%s is not one of these: %s", config_quoted(text, quote),
                        config_range(setting, range));
}

/* Every type but the lists. */
static bool parse_one(const struct config_setting *setting, const char *text,
                      union config_value *ret, char why[static CONFIG_WHY_MAX])
{
    bool may_be_empty =
        setting->type == CONFIG_PATH || (setting->type == CONFIG_STRING && setting->minimum == 0);

    if (*text == '\0' && !may_be_empty)
        return config_wrong(why, "the value is missing");
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
        return parse_level(setting, text, &ret->chosen, why);
    case CONFIG_SEED:
        return parse_seed(text, &ret->seed, why);
    case CONFIG_BOOLEAN:
        return parse_boolean(text, &ret->boolean, why);
    case CONFIG_CLIENT_CERTIFICATE:
        return parse_client_certificate(text, &ret->chosen, why);
    case CONFIG_CHOICE:
        return parse_choice(setting, text, &ret->chosen, why);
    case CONFIG_PATH:
        return parse_path(setting, text, &ret->string, why);
    case CONFIG_ENDPOINTS:
    case CONFIG_RANGES:
    case CONFIG_NAMES:
        break;
    }
    return config_wrong(why, "its type is unknown");
}

int config_value_parse(const struct config_setting *setting, const char *text,
                       union config_value *ret, char why[static CONFIG_WHY_MAX])
{
    if (config_list_is(setting->type))
        return config_list_parse(setting, text, &ret->list, why);
    return parse_one(setting, text, ret, why) ? 0 : CONFIG_VALUE_WRONG;
}

void config_value_free(const struct config_setting *setting, union config_value *value)
{
    if (config_list_is(setting->type))
        config_list_free(setting->type, &value->list);
}

/* --- values in the program's structure -------------------------------------------------------- */

static void *slot_of(const struct config_setting *setting, void *values)
{
    return (char *)values + setting->offset;
}

void config_value_fetch(const struct config_setting *setting, const void *values,
                        union config_value *ret)
{
    const void *slot = (const char *)values + setting->offset;

    switch (setting->type) {
    case CONFIG_COUNT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        ret->whole = *(const uint64_t *)slot;
        break;
    case CONFIG_NUMBER:
        ret->real = *(const double *)slot;
        break;
    case CONFIG_STRING:
    case CONFIG_PATH:
        ret->string = *(char *const *)slot;
        break;
    case CONFIG_LEVEL:
    case CONFIG_CLIENT_CERTIFICATE:
    case CONFIG_CHOICE:
        ret->chosen = *(const int *)slot;
        break;
    case CONFIG_BOOLEAN:
        ret->boolean = *(const bool *)slot;
        break;
    case CONFIG_SEED:
        ret->seed = *(const struct config_seed *)slot;
        break;
    case CONFIG_ENDPOINTS:
    case CONFIG_RANGES:
    case CONFIG_NAMES:
        ret->list = config_list_fetch(slot);
        break;
    }
}

static int store_string(char **slot, const char *string)
{
    char *copy = string ? strdup(string) : NULL;

    if (string && !copy)
        return -ENOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

int config_value_store(const struct config_setting *setting, void *values,
                       union config_value *value)
{
    void *slot = slot_of(setting, values);

    switch (setting->type) {
    case CONFIG_COUNT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        *(uint64_t *)slot = value->whole;
        break;
    case CONFIG_NUMBER:
        *(double *)slot = value->real;
        break;
    case CONFIG_STRING:
    case CONFIG_PATH:
        return store_string(slot, value->string);
    case CONFIG_LEVEL:
    case CONFIG_CLIENT_CERTIFICATE:
    case CONFIG_CHOICE:
        *(int *)slot = value->chosen;
        break;
    case CONFIG_BOOLEAN:
        *(bool *)slot = value->boolean;
        break;
    case CONFIG_SEED:
        *(struct config_seed *)slot = value->seed;
        break;
    case CONFIG_ENDPOINTS:
    case CONFIG_RANGES:
    case CONFIG_NAMES:
        config_value_clear(setting, values);
        config_list_store(slot, &value->list);
        value->list = (struct config_list){0};
        break;
    }
    return 0;
}

bool config_read_value(const struct config_setting *setting, const char *text, void *values,
                       char why[static CONFIG_WHY_MAX])
{
    union config_value value = {0};

    assert(!config_list_is(setting->type) && setting->type != CONFIG_STRING &&
           setting->type != CONFIG_PATH);
    return config_value_parse(setting, text, &value, why) == 0 &&
           config_value_store(setting, values, &value) == 0;
}

int config_value_may_grow(const struct config_setting *setting, const void *values,
                          const union config_value *value, char why[static CONFIG_WHY_MAX])
{
    const struct config_list there = config_list_fetch((const char *)values + setting->offset);

    return config_list_may_grow(setting, &there, &value->list, why);
}

int config_value_grow(const struct config_setting *setting, void *values, union config_value *value)
{
    void *slot = slot_of(setting, values);
    struct config_list list = config_list_fetch(slot);
    int r = config_list_grow(setting, &list, &value->list);

    config_list_store(slot, &list);
    return r;
}

void config_value_clear(const struct config_setting *setting, void *values)
{
    void *slot = slot_of(setting, values);

    if (config_list_is(setting->type)) {
        struct config_list list = config_list_fetch(slot);

        config_list_free(setting->type, &list);
        config_list_store(slot, &list);
    } else if (setting->type == CONFIG_STRING || setting->type == CONFIG_PATH) {
        free(*(char **)slot);
        *(char **)slot = NULL;
    }
}
