/*
 * Sections that have names. There may be many thousands, so each is found by a hash of its name.
 */
#include "base/config_layer.h"
#include "base/config_value.h"
#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void config_allow_sections(struct config *config, const struct config_kind *kind)
{
    config->named.kind = kind;
}

const char *config_section_name(const struct config *config, const char *section)
{
    const struct config_kind *kind = config->named.kind;
    size_t length = kind ? strlen(kind->section) : 0;

    if (!kind || strncmp(section, kind->section, length) != 0 || section[length] != ' ')
        return NULL;
    return section + length + 1;
}

struct config_section *config_section_at(const struct config *config, const char *name)
{
    const struct config_sections *named = &config->named;
    uint32_t index;

    if (!names_find(&named->names, name, strlen(name), &index))
        return NULL;
    return &named->sections[index];
}

const struct config_section *config_find_section(const struct config *config, const char *name)
{
    return config_section_at(config, name);
}

struct config_scope config_section_scope(const struct config *config,
                                         struct config_section *section)
{
    const struct config_kind *kind = config->named.kind;

    return (struct config_scope){.table = kind->table,
                                 .count = kind->count,
                                 .values = section->values,
                                 .origin = section->origins,
                                 .layer = section->layers};
}

static void section_deinit(const struct config_kind *kind, struct config_section *section)
{
    for (size_t i = 0; i < kind->count; i++) {
        if (section->values)
            config_value_clear(&kind->table[i], section->values);
        if (section->origins)
            free(section->origins[i]);
    }
    free(section->name);
    free(section->origin);
    free(section->values);
    free(section->origins);
    free(section->layers);
    *section = (struct config_section){0};
}

void config_sections_deinit(struct config_sections *sections)
{
    for (size_t i = 0; i < sections->count; i++)
        section_deinit(sections->kind, &sections->sections[i]);
    free(sections->sections);
    names_deinit(&sections->names);
    *sections = (struct config_sections){0};
}

/* Makes room for one more. 0 or -ENOMEM. */
static int grow(struct config_sections *sections)
{
    struct config_section *grown;

    if (sections->sections && (sections->count & (sections->count - 1)) != 0)
        return 0;
    grown = reallocarray(sections->sections, MAX(2 * sections->count, (size_t)1), sizeof *grown);
    if (!grown)
        return -ENOMEM;
    sections->sections = grown;
    return 0;
}

static int section_init(struct config_section *section, const struct config_kind *kind,
                        const char *name, const char *origin)
{
    *section = (struct config_section){
        .name = strdup(name),
        .origin = strdup(origin),
        .values = calloc(1, kind->size),
        .origins = calloc(kind->count, sizeof *section->origins),
        .layers = calloc(kind->count, sizeof *section->layers),
    };
    if (!section->name || !section->origin || !section->values || !section->origins ||
        !section->layers)
        return -ENOMEM;
    config_replace_controls(section->origin);
    return 0;
}

static int add(struct config_sections *sections, const char *name, const char *origin)
{
    struct config_section *section;
    int r = grow(sections);

    if (r < 0)
        return r;
    section = &sections->sections[sections->count];
    r = section_init(section, sections->kind, name, origin);
    if (r == 0)
        r = names_add(&sections->names, section->name, (uint32_t)sections->count);
    if (r < 0) {
        section_deinit(sections->kind, section);
        return r;
    }
    sections->count++;
    return 0;
}

int config_add_section(struct config *config, const char *name, const char *origin)
{
    struct config_sections *sections = &config->named;
    const struct config_kind *kind = sections->kind;
    char quote[CONFIG_QUOTED_MAX];
    size_t length = strlen(name);
    int r;

    if (config_section_at(config, name))
        return 0;
    /* With a bracket it could not be written as it is read. */
    if (!config_is_name(name, length) || length > kind->name_max || strpbrk(name, "[]"))
        r = config_fault(config,
                         "%s: [%s]: %s cannot be a name (1 to %zu characters, of printable ASCII "
                         "without spaces, quotes, commas, semicolons and brackets)",
                         origin, kind->section, config_quoted(name, quote), kind->name_max);
    else if (sections->count == kind->sections_max)
        r = config_fault(config, "%s: [%s %s]: there are more than %zu such sections", origin,
                         kind->section, name, kind->sections_max);
    else
        return add(sections, name, origin);
    return r < 0 ? r : CONFIG_FAULT;
}
