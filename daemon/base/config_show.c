/*
 * Settings as text: a whole configuration as a file, what differs from the defaults, and what one
 * has that another has not.
 */
#include "base/config.h"

#include "base/config_layer.h"
#include "base/config_value.h"
#include "base/text.h"
#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line for each element, because all together may be longer than a line may be. */
static int dump_list(int fd, const struct config_setting *setting, const struct config_list *list)
{
    for (unsigned i = 0; i < list->count; i++) {
        _cleanup_free_ char *text = config_list_format_one(setting->type, list, i);

        if (!text)
            return -ENOMEM;
        if (dprintf(fd, "%s = %s\n", setting->key, text) < 0)
            return -errno;
    }
    return 0;
}

static int dump_value(int fd, const struct config_setting *setting, const void *values)
{
    _cleanup_free_ char *text = NULL;
    union config_value value = {0};

    config_value_fetch(setting, values, &value);
    if (config_list_is(setting->type) && value.list.count > 0)
        return dump_list(fd, setting, &value.list);
    text = config_value_format(setting, &value);
    if (!text)
        return -ENOMEM;
    return dprintf(fd, "%s =%s%s\n", setting->key, *text ? " " : "", text) < 0 ? -errno : 0;
}

static int dump_setting(const struct config *config, size_t index, int fd)
{
    const struct config_setting *setting = &config->table[index];
    const char *origin = config->origin[index];
    char range[CONFIG_RANGE_TEXT_MAX];

    if (dprintf(fd, "# %s\n%s# Default: %s. Range: %s. %s%s\n", setting->help,
                setting->change == CONFIG_RESTART ? "# " CONFIG_RESTART_WORDS "\n" : "",
                config_default(setting), config_range(setting, range),
                origin ? "Set by " : "Not set.", origin ? origin : "") < 0)
        return -errno;
    return dump_value(fd, setting, config->values);
}

/* What sections with names can have; said once, and not in each. */
static int dump_kind(const struct config_kind *kind, int fd)
{
    if (dprintf(fd, "\n# Sections [%s NAME], at most %zu.\n%s", kind->section, kind->sections_max,
                kind->change == CONFIG_RESTART ? "# " CONFIG_RESTART_WORDS "\n" : "") < 0)
        return -errno;
    for (size_t i = 0; i < kind->count; i++) {
        char range[CONFIG_RANGE_TEXT_MAX];

        if (dprintf(fd, "# %s: %s Range: %s.\n", kind->table[i].key, kind->table[i].help,
                    config_range(&kind->table[i], range)) < 0)
            return -errno;
    }
    return 0;
}

static int dump_section(const struct config_kind *kind, const struct config_section *section,
                        int fd)
{
    int r = 0;

    if (dprintf(fd, "\n# Named first by %s\n[%s %s]\n", section->origin, kind->section,
                section->name) < 0)
        return -errno;
    for (size_t i = 0; r == 0 && i < kind->count; i++) {
        if (!section->origins[i])
            continue;
        if (dprintf(fd, "# Set by %s\n", section->origins[i]) < 0)
            return -errno;
        r = dump_value(fd, &kind->table[i], section->values);
    }
    return r;
}

int config_dump(const struct config *config, int fd)
{
    const struct config_sections *named = &config->named;
    const char *section = NULL;
    int r = 0;

    for (size_t i = 0; r == 0 && i < config->count; i++) {
        const char *next = config->table[i].section;

        if (!section || strcmp(section, next) != 0) {
            if (dprintf(fd, "%s[%s]\n", section ? "\n" : "", next) < 0)
                return -errno;
            section = next;
        }
        r = dump_setting(config, i, fd);
    }
    if (r == 0 && named->kind)
        r = dump_kind(named->kind, fd);
    for (size_t i = 0; r == 0 && named->kind && i < named->count; i++)
        r = dump_section(named->kind, &named->sections[i], fd);
    return r;
}

/* --- differences ------------------------------------------------------------------------------ */

/* What differs; its texts are its own, but for the origin. */
struct items {
    struct config_item *items;
    size_t count;
};

static void items_deinit(struct items *items)
{
    for (size_t i = 0; i < items->count; i++) {
        free((char *)items->items[i].name);
        free((char *)items->items[i].value);
        free((char *)items->items[i].value_before);
    }
    free(items->items);
}

/* Takes the texts, whatever comes of it; NULL is one that there was no memory for. */
static int items_add(struct items *items, struct config_item item)
{
    struct config_item *grown = items->items;

    if ((items->count & (items->count - 1)) == 0)
        grown = reallocarray(grown, MAX(2 * items->count, (size_t)1), sizeof *grown);
    if (grown)
        items->items = grown;
    if (!grown || !item.name || !item.value || !item.value_before) {
        free((char *)item.name);
        free((char *)item.value);
        free((char *)item.value_before);
        return -ENOMEM;
    }
    items->items[items->count++] = item;
    return 0;
}

static void items_show(const struct items *items, config_each *each, void *context)
{
    for (size_t i = 0; i < items->count; i++)
        each(&items->items[i], context);
}

/* "stream.interval", or "ticker AAPL". */
static char *join(const char *one, char between, const char *other)
{
    char *text;

    return asprintf(&text, "%s%c%s", one, between, other) < 0 ? NULL : text;
}

static char *format_value(const struct config_setting *setting, const void *values)
{
    union config_value value = {0};

    config_value_fetch(setting, values, &value);
    return config_value_format(setting, &value);
}

static char *format_initial(const struct config_setting *setting)
{
    union config_value value = {0};
    char why[CONFIG_WHY_MAX];
    char *text;

    if (config_value_parse(setting, setting->initial, &value, why) != 0)
        return NULL;
    text = config_value_format(setting, &value);
    config_value_free(setting, &value);
    return text;
}

/* All that a section sets, in one line; NULL stands for no section. */
static char *format_section(const struct config_kind *kind, const struct config_section *section)
{
    struct text text = {0};

    if (!section)
        return strdup(CONFIG_SECTION_NONE);
    for (size_t i = 0; i < kind->count; i++) {
        _cleanup_free_ char *value = NULL;

        if (!section->origins[i])
            continue;
        value = format_value(&kind->table[i], section->values);
        if (!value)
            text.failed = true;
        else
            text_printf(&text, "%s%s=%s", text.size > 0 ? " " : "", kind->table[i].key, value);
    }
    if (text.size == 0)
        text_add_string(&text, CONFIG_SECTION_DEFAULTS);
    text_add_char(&text, '\0');
    if (text.failed)
        text_deinit(&text);
    return text.bytes;
}

/* Takes both texts. Nothing is added where they are the same. */
static int add_setting(struct items *items, const struct config_setting *setting, char *before,
                       char *value, const char *origin)
{
    if (before && value && strcmp(before, value) == 0) {
        free(before);
        free(value);
        return 0;
    }
    return items_add(items, (struct config_item){.name = join(setting->section, '.', setting->key),
                                                 .change = setting->change,
                                                 .value = value,
                                                 .value_before = before,
                                                 .origin = origin ? origin : "default"});
}

/* The same for a section; one of them may be NULL. */
static int add_section(struct items *items, const struct config_kind *kind,
                       const struct config_section *before, const struct config_section *section)
{
    char *text_before = format_section(kind, before), *text = format_section(kind, section);
    const char *name = section ? section->name : before ? before->name : "";

    if (text_before && text && strcmp(text_before, text) == 0) {
        free(text_before);
        free(text);
        return 0;
    }
    return items_add(items, (struct config_item){.name = join(kind->section, ' ', name),
                                                 .is_section = true,
                                                 .change = kind->change,
                                                 .value = text,
                                                 .value_before = text_before,
                                                 .origin = section ? section->origin : "default"});
}

int config_each_changed(const struct config *config, config_each *each, void *context)
{
    _cleanup_(items_deinit) struct items items = {0};
    const struct config_sections *named = &config->named;
    int r = 0;

    for (size_t i = 0; r == 0 && i < config->count; i++) {
        const struct config_setting *setting = &config->table[i];

        if (config->origin[i])
            r = add_setting(&items, setting, format_initial(setting),
                            format_value(setting, config->values), config->origin[i]);
    }
    for (size_t i = 0; r == 0 && i < named->count; i++)
        r = add_section(&items, named->kind, NULL, &named->sections[i]);
    if (r == 0)
        items_show(&items, each, context);
    return r;
}

/* All texts are made before the first is shown: what a reload says of itself is whole, or not said
 * at all. */
int config_each_difference(const struct config *before, const struct config *after,
                           config_each *each, void *context)
{
    _cleanup_(items_deinit) struct items items = {0};
    const struct config_sections *old = &before->named, *new = &after->named;
    int r = 0;

    assert(before->table == after->table && before->count == after->count &&
           old->kind == new->kind);
    for (size_t i = 0; r == 0 && i < after->count; i++) {
        const struct config_setting *setting = &after->table[i];

        r = add_setting(&items, setting, format_value(setting, before->values),
                        format_value(setting, after->values), after->origin[i]);
    }
    for (size_t i = 0; r == 0 && i < new->count; i++)
        r = add_section(&items, new->kind, config_section_at(before, new->sections[i].name),
                        &new->sections[i]);
    for (size_t i = 0; r == 0 && i < old->count; i++)
        if (!config_section_at(after, old->sections[i].name))
            r = add_section(&items, old->kind, &old->sections[i], NULL);
    if (r == 0)
        items_show(&items, each, context);
    return r;
}
