/*
 * The layers of settings, for whatever brings one: config.c knows the table and what was set by
 * whom, config_file.c reads files for it. Nobody else needs this.
 */
#pragma once

#include "base/config.h"

bool config_section_known(const struct config *config, const char *section);

/* Adds the fault that there is no such section, and a guess at what was meant. 0 or -ENOMEM. */
int config_fault_section(struct config *config, const char *origin, const char *section);

/*
 * Sets one value in a layer that the caller began by counting config->layers up. The section must
 * be known; an unknown key or a bad value is a fault, and the setting stays as it was. 0 or
 * -ENOMEM.
 */
int config_set_in_layer(struct config *config, const char *section, const char *key,
                        const char *text, const char *origin, unsigned layer);
