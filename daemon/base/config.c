/*
 * Settings: the table, the layers that set its values one over the other, the faults that are
 * collected on the way, and how all of it is shown.
 */
#include "base/config.h"

#include "base/address.h"
#include "base/config_layer.h"
#include "base/config_value.h"
#include "base/util.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_COMPARED 40

/* Paths and values may hold anything; in messages it shall neither move a cursor nor end a line. */
void config_replace_controls(char *text)
{
    for (; *text; text++)
        if (iscntrl((unsigned char)*text))
            *text = '?';
}

static struct config_scope fixed_scope(const struct config *config)
{
    return (struct config_scope){.table = config->table,
                                 .count = config->count,
                                 .values = config->values,
                                 .origin = config->origin,
                                 .layer = config->layer};
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
        union config_value value = {0};
        char why[CONFIG_WHY_MAX];
        int r = config_value_parse(&table[i], table[i].initial, &value, why);

        assert(r <= 0);
        if (r == 0)
            r = config_value_store(&table[i], values, &value);
        if (r < 0)
            return r;
    }
    return 0;
}

void config_deinit(struct config *config)
{
    for (size_t i = 0; i < config->count; i++) {
        config_value_clear(&config->table[i], config->values);
        if (config->origin)
            free(config->origin[i]);
    }
    free(config->origin);
    free(config->layer);
    config_sections_deinit(&config->named);
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
    config_replace_controls(text);
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

static bool is_fixed_section(const struct config *config, const char *section)
{
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].section, section) == 0)
            return true;
    return false;
}

static int fault_section(struct config *config, const char *origin, const char *section)
{
    const struct config_kind *kind = config->named.kind;
    size_t length = strcspn(section, " \t");
    _cleanup_free_ char *first = strndup(section, length);
    struct guess guess = {0};
    char name[CONFIG_QUOTED_MAX];

    if (!first)
        return -ENOMEM;
    for (size_t i = 0; i < config->count; i++) {
        consider(&guess, section, config->table[i].section);
        consider(&guess, first, config->table[i].section);
    }
    if (kind)
        consider(&guess, first, kind->section);
    (void)config_shown(section, name);
    if (kind && guess.name == kind->section)
        return config_fault(config, "%s: [%s]: there is no such section; is [%s NAME] meant?",
                            origin, name, kind->section);
    if (guess.name)
        return config_fault(config, "%s: [%s]: there is no such section; is [%s] meant?", origin,
                            name, guess.name);
    return config_fault(config, "%s: [%s]: there is no such section", origin, name);
}

int config_enter_section(struct config *config, const char *section, const char *origin)
{
    const char *name = config_section_name(config, section);
    int r;

    if (is_fixed_section(config, section))
        return 0;
    if (name)
        return config_add_section(config, name, origin);
    r = fault_section(config, origin, section);
    return r < 0 ? r : CONFIG_FAULT;
}

/* The settings of a scope that are in its section: its own, if that has a name. */
static bool is_in_section(const struct config *config, const struct config_scope *scope,
                          size_t index, const char *section)
{
    return scope->table != config->table || strcmp(scope->table[index].section, section) == 0;
}

static int fault_key(struct config *config, const struct config_scope *scope, const char *origin,
                     const char *section, const char *key)
{
    const struct config_kind *kind = config->named.kind;
    struct guess guess = {0};
    char name[CONFIG_QUOTED_MAX];

    for (size_t i = 0; i < scope->count; i++)
        if (is_in_section(config, scope, i, section))
            consider(&guess, key, scope->table[i].key);
    if (guess.name)
        return config_fault(config, "%s: %s.%s: there is no such key; is %s meant?", origin,
                            section, config_shown(key, name), guess.name);
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].key, key) == 0)
            return config_fault(config, "%s: %s.%s: there is no such key; it belongs in [%s]",
                                origin, section, key, config->table[i].section);
    for (size_t i = 0; kind && scope->table == config->table && i < kind->count; i++)
        if (strcmp(kind->table[i].key, key) == 0)
            return config_fault(config, "%s: %s.%s: there is no such key; it belongs in [%s NAME]",
                                origin, section, key, kind->section);
    return config_fault(config, "%s: %s.%s: there is no such key", origin, section,
                        config_shown(key, name));
}

/* --- layers --------------------------------------------------------------------------------- */

/* Takes `value` as the setting's value, or as more of it. */
static int take(const struct config_scope *scope, size_t index, union config_value *value,
                bool more, const char *origin, unsigned layer)
{
    const struct config_setting *setting = &scope->table[index];
    _cleanup_free_ char *origin_copy = strdup(origin);
    int r = 0;

    if (!origin_copy)
        return -ENOMEM;
    config_replace_controls(origin_copy); /* config_dump() makes a comment of one line of it */
    r = more ? config_value_grow(setting, scope->values, value)
             : config_value_store(setting, scope->values, value);
    if (r < 0)
        return r;
    free(scope->origin[index]);
    scope->origin[index] = TAKE_PTR(origin_copy);
    scope->layer[index] = layer;
    return 0;
}

static struct config_scope find_scope(const struct config *config, const char *section)
{
    const char *name = config_section_name(config, section);
    struct config_section *named = name ? config_section_at(config, name) : NULL;

    return named ? config_section_scope(config, named) : fixed_scope(config);
}

int config_set_in_layer(struct config *config, const char *section, const char *key,
                        const char *text, const char *origin, unsigned layer)
{
    const struct config_scope scope = find_scope(config, section);
    const struct config_setting *setting = NULL;
    union config_value value = {0};
    char why[CONFIG_WHY_MAX];
    size_t index = 0;
    bool more = false;
    int r = 0;

    while (index < scope.count && (!is_in_section(config, &scope, index, section) ||
                                   strcmp(scope.table[index].key, key) != 0))
        index++;
    if (index == scope.count)
        return fault_key(config, &scope, origin, section, key);
    setting = &scope.table[index];
    r = config_value_parse(setting, text, &value, why);
    if (r == 0 && scope.layer[index] == layer && config_list_is(setting->type)) {
        more = value.list.count > 0;
        r = config_value_may_grow(setting, scope.values, &value, why);
    }
    if (r == 0)
        r = take(&scope, index, &value, more, origin, layer);
    else if (r > 0)
        r = config_fault(config, "%s: %s.%s: %s", origin, section, key, why);
    config_value_free(setting, &value);
    return r;
}

int config_set(struct config *config, const char *section, const char *key, const char *value,
               const char *origin)
{
    int r = config_enter_section(config, section, origin);

    if (r != 0)
        return MIN(r, 0);
    return config_set_in_layer(config, section, key, value, origin, ++config->layers);
}

int config_set_port(struct config *config, const char *section, const char *key, const char *port,
                    const char *origin)
{
    char address[sizeof("[::]:") + CONFIG_QUOTED_MAX];
    struct sockaddr_storage ignored;
    const char *why = NULL;

    /* Anything else could end up as another address, or as several. */
    if (port[strspn(port, "0123456789")] || strlen(port) > CONFIG_QUOTED_MAX)
        return config_fault(config, "%s: %s.%s: \"%.60s\" is not a port (0 to 65535)", origin,
                            section, key, port);
    (void)snprintf(address, sizeof address, "[::]:%s", port);
    /* Said of the port, not of an address that nobody wrote. */
    if (address_parse(address, strlen(address), &ignored, &why) < 0)
        return config_fault(config, "%s: %s.%s: %s", origin, section, key, why);
    return config_set(config, section, key, address, origin);
}
