/*
 * The layers of settings, for whatever brings one: config.c knows the table and what was set by
 * whom, config_file.c reads files for it. Nobody else needs this.
 */
#pragma once

#include "base/config.h"

/* Settings that are set together: those of a program, or of one of its sections with a name. */
struct config_scope {
    const struct config_setting *table;
    size_t count;
    void *values;
    char **origin;
    unsigned *layer;
};

/* Outcome besides 0 and -ENOMEM: what is wrong has been added to the faults. */
enum {
    CONFIG_FAULT = 1,
};

/*
 * Is there such a section? One that has a name, "ticker AAPL", is made if it is not there. 0,
 * CONFIG_FAULT or -ENOMEM.
 */
int config_enter_section(struct config *config, const char *section, const char *origin);

/*
 * Sets one value in a layer that the caller began by counting config->layers up. The section must
 * have been entered; an unknown key or a bad value is a fault, and the setting stays as it was. 0
 * or -ENOMEM.
 */
int config_set_in_layer(struct config *config, const char *section, const char *key,
                        const char *text, const char *origin, unsigned layer);

/* In what is shown. */
void config_replace_controls(char *text);

/* ---- config_section.c ---- */

/* The name in "ticker AAPL", if sections of this kind may have one; else NULL. */
const char *config_section_name(const struct config *config, const char *section);

/* Adds the section of this name if it is not there. 0, CONFIG_FAULT or -ENOMEM. */
int config_add_section(struct config *config, const char *name, const char *origin);

/* NULL if it is not there. */
struct config_section *config_section_at(const struct config *config, const char *name);

struct config_scope config_section_scope(const struct config *config,
                                         struct config_section *section);

void config_sections_deinit(struct config_sections *sections);
