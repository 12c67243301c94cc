/*
 * Settings that are lists. What is wrong with one of its elements is said about that element, since
 * a line may have many.
 */
#include "base/config_list.h"

#include "base/config_value.h"
#include "base/endpoint.h"
#include "base/ranges.h"
#include "base/text.h"
#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char blanks[] = " \t";

/* --- the elements ----------------------------------------------------------------------------- */

static int parse_endpoint(const char *text, size_t length, void *element, const char **ret_why)
{
    return endpoint_parse(text, length, element, ret_why);
}

static char *format_endpoint(const void *element)
{
    return endpoint_format(element);
}

static void free_endpoint(void *element)
{
    endpoint_deinit(element);
}

/* Two that the kernel gives ports to are two, whatever their address. */
static bool same_endpoint(const void *a, const void *b)
{
    const struct sockaddr_storage *one = &((const struct endpoint *)a)->address;
    const struct sockaddr_storage *other = &((const struct endpoint *)b)->address;
    struct sockaddr_in ipv4;

    if (one->ss_family != other->ss_family || memcmp(one, other, sizeof *one) != 0)
        return false;
    memcpy(&ipv4, one, sizeof ipv4); /* IPv6 has its port at the same place */
    return one->ss_family == AF_UNIX || ipv4.sin_port != 0;
}

static int parse_range(const char *text, size_t length, void *element, const char **ret_why)
{
    return range_parse(text, length, element, ret_why);
}

static char *format_range(const void *element)
{
    char text[RANGE_TEXT_MAX];

    return strdup(range_format(element, text));
}

bool config_is_name(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (text[i] <= ' ' || text[i] > '~' || strchr("\"'`,;", text[i]))
            return false;
    return length > 0;
}

static int parse_name(const char *text, size_t length, void *element, const char **ret_why)
{
    char *name = NULL;

    if (!config_is_name(text, length)) {
        *ret_why = "it has a character that is not allowed (only printable ASCII, without "
                   "spaces, quotes, commas and semicolons)";
        return -EINVAL;
    }
    name = strndup(text, length);
    if (!name)
        return -ENOMEM;
    *(char **)element = name;
    return 0;
}

static char *format_name(const void *element)
{
    return strdup(*(char *const *)element);
}

static void free_name(void *element)
{
    free(*(char **)element);
}

/* What the types differ in. */
struct list_type {
    const char *one; /* with its article */
    const char *many;
    const char *example;
    size_t size;      /* of an element */
    bool blanks;      /* may be in it */
    const char *same; /* what is wrong if two are the same */
    int (*parse)(const char *text, size_t length, void *element, const char **ret_why);
    char *(*format)(const void *element);
    void (*free)(void *element);
    bool (*is_same)(const void *a, const void *b);
};

static const struct list_type list_types[] = {
    [CONFIG_ENDPOINTS] = {.one = "an address",
                          .many = "addresses",
                          .example = "[::]:4444",
                          .size = sizeof(struct endpoint),
                          .blanks = true,
                          .parse = parse_endpoint,
                          .format = format_endpoint,
                          .free = free_endpoint,
                          .is_same = same_endpoint},
    [CONFIG_RANGES] = {.one = "a range",
                       .many = "ranges",
                       .example = "10.0.0.0/8",
                       .size = sizeof(struct range),
                       .parse = parse_range,
                       .format = format_range},
    [CONFIG_NAMES] = {.one = "a name",
                      .many = "names",
                      .example = "client.example",
                      .size = sizeof(char *),
                      .parse = parse_name,
                      .format = format_name,
                      .free = free_name},
};

/* --- lists ------------------------------------------------------------------------------------ */

bool config_list_is(enum config_type type)
{
    return type < ELEMENTSOF(list_types) && list_types[type].size > 0;
}

const char *config_list_noun(enum config_type type)
{
    return list_types[type].many;
}

static unsigned most(const struct config_setting *setting)
{
    return (unsigned)setting->maximum;
}

static void *element_at(enum config_type type, const struct config_list *list, unsigned index)
{
    return (char *)list->elements + index * list_types[type].size;
}

void config_list_free(enum config_type type, struct config_list *list)
{
    if (list_types[type].free)
        for (unsigned i = 0; i < list->count; i++)
            list_types[type].free(element_at(type, list, i));
    free(list->elements);
    *list = (struct config_list){0};
}

static int wrong_element(char *why, const char *text, size_t length, const char *what)
{
    char element[CONFIG_LINE_MAX + 1], quote[CONFIG_QUOTED_MAX];

    (void)snprintf(element, sizeof element, "%.*s", (int)MIN(length, sizeof element), text);
    (void)config_wrong(why, "%s: %s", config_quoted(element, quote), what);
    return CONFIG_VALUE_WRONG;
}

/* Every list can be written with a line for each element; and so no element is longer than that. */
static int check_length(const struct config_setting *setting, const struct config_list *list,
                        const char *text, size_t length, char *why)
{
    _cleanup_free_ char *shown = config_list_format_one(setting->type, list, list->count);

    if (!shown)
        return -ENOMEM;
    if (!config_fits_line(setting, shown))
        return wrong_element(why, text, length, "is longer than a line may be");
    return 0;
}

static bool holds(enum config_type type, const struct config_list *list, const void *element)
{
    for (unsigned i = 0; list_types[type].is_same && i < list->count; i++)
        if (list_types[type].is_same(element_at(type, list, i), element))
            return true;
    return false;
}

/* Adds one; `list` has room for it. */
static int add(const struct config_setting *setting, struct config_list *list, const char *text,
               size_t length, char *why)
{
    const struct list_type *type = &list_types[setting->type];
    void *element = element_at(setting->type, list, list->count);
    const char *element_why = NULL;
    int r = 0;

    if (!type->blanks && length > strcspn(text, blanks)) {
        (void)config_wrong(why, "a comma is missing between two %s", type->many);
        return CONFIG_VALUE_WRONG;
    }
    r = type->parse(text, length, element, &element_why);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return wrong_element(why, text, length, element_why);
    r = check_length(setting, list, text, length, why);
    if (r == 0 && holds(setting->type, list, element))
        r = wrong_element(why, text, length, "is given twice");
    if (r == 0)
        list->count++;
    else if (type->free)
        type->free(element);
    return r;
}

static int wrong_count(const struct config_setting *setting, char *why)
{
    (void)config_wrong(why, "more than %u %s", most(setting), list_types[setting->type].many);
    return CONFIG_VALUE_WRONG;
}

static int fill(const struct config_setting *setting, const char *text, struct config_list *list,
                char *why)
{
    const struct list_type *type = &list_types[setting->type];

    text += strspn(text, blanks);
    while (*text) {
        size_t length = strcspn(text, ",");
        size_t used = length;
        int r;

        while (used > 0 && strchr(blanks, text[used - 1]))
            used--;
        if (used > 0) {
            r = list->count < most(setting) ? add(setting, list, text, used, why)
                                            : wrong_count(setting, why);
            if (r != 0)
                return r;
            text += length;
            if (*text == '\0')
                return 0;
            text += 1 + strspn(text + 1, blanks);
        }
        if (used == 0 || *text == '\0') {
            (void)config_wrong(why, "%s is missing beside a comma", type->one);
            return CONFIG_VALUE_WRONG;
        }
    }
    return 0;
}

int config_list_parse(const struct config_setting *setting, const char *text,
                      struct config_list *ret, char *why)
{
    const struct list_type *type = &list_types[setting->type];
    struct config_list list = {0};
    size_t commas = 0;
    int r = 0;

    for (const char *c = text; *c; c++)
        commas += *c == ',';
    list.elements = calloc(MIN(commas + 1, (size_t)most(setting)), type->size);
    if (!list.elements)
        return -ENOMEM;
    r = fill(setting, text, &list, why);
    if (r == 0 && list.count < (unsigned)setting->minimum) {
        (void)config_wrong(why, "%s is missing (such as %s)", type->one, type->example);
        r = CONFIG_VALUE_WRONG;
    }
    if (r != 0 || list.count == 0)
        config_list_free(setting->type, &list);
    if (r == 0)
        *ret = list;
    return r;
}

int config_list_may_grow(const struct config_setting *setting, const struct config_list *list,
                         const struct config_list *more, char *why)
{
    if (list->count + more->count > most(setting))
        return wrong_count(setting, why);
    for (unsigned i = 0; i < more->count; i++) {
        _cleanup_free_ char *text = NULL;

        if (!holds(setting->type, list, element_at(setting->type, more, i)))
            continue;
        text = config_list_format_one(setting->type, more, i);
        return text ? wrong_element(why, text, strlen(text), "is given twice") : -ENOMEM;
    }
    return 0;
}

int config_list_grow(const struct config_setting *setting, struct config_list *list,
                     struct config_list *more)
{
    size_t size = list_types[setting->type].size;
    void *grown = NULL;

    if (more->count == 0)
        return 0;
    grown = reallocarray(list->elements, list->count + more->count, size);
    if (!grown)
        return -ENOMEM;
    list->elements = grown;
    memcpy(element_at(setting->type, list, list->count), more->elements, more->count * size);
    list->count += more->count;
    free(more->elements);
    *more = (struct config_list){0};
    return 0;
}

char *config_list_format_one(enum config_type type, const struct config_list *list, unsigned index)
{
    return list_types[type].format(element_at(type, list, index));
}

char *config_list_format(enum config_type type, const struct config_list *list)
{
    struct text text = {0};

    for (unsigned i = 0; i < list->count; i++) {
        _cleanup_free_ char *one = config_list_format_one(type, list, i);

        if (!one) {
            text_deinit(&text);
            return NULL;
        }
        if (i > 0)
            text_add_string(&text, ", ");
        text_add_string(&text, one);
    }
    text_add_char(&text, '\0');
    if (text.failed)
        text_deinit(&text);
    return text.bytes;
}

/* --- lists in the program's structure --------------------------------------------------------- */

/* Copied byte by byte, since for the compiler a pointer to anything is no pointer to an endpoint.
 */
#define SAME_SHAPE(type, member)                                                                   \
    static_assert(sizeof(struct type) == sizeof(struct config_list) &&                             \
                      offsetof(struct type, member) == offsetof(struct config_list, elements) &&   \
                      offsetof(struct type, count) == offsetof(struct config_list, count),         \
                  #type " is no list")

SAME_SHAPE(config_endpoints, endpoints);
SAME_SHAPE(config_ranges, ranges);
SAME_SHAPE(config_names, names);

struct config_list config_list_fetch(const void *slot)
{
    struct config_list list = {0};

    memcpy(&list, slot, sizeof list);
    return list;
}

void config_list_store(void *slot, const struct config_list *list)
{
    memcpy(slot, list, sizeof *list);
}

void config_endpoints_deinit(struct config_endpoints *endpoints)
{
    struct config_list list = config_list_fetch(endpoints);

    config_list_free(CONFIG_ENDPOINTS, &list);
    config_list_store(endpoints, &list);
}
