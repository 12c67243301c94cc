/*
 * The types of settings that are lists, for config_value.c, which knows the other types: one value
 * is a text with commas, and the structure of the program has a pointer and a number for it.
 */
#pragma once

#include "base/config.h"

/* Any list. What `elements` points to depends on the setting's type. */
struct config_list {
    void *elements;
    unsigned count;
};

bool config_list_is(enum config_type type);

/* "addresses": what there are many of in such a list. */
const char *config_list_noun(enum config_type type);

/*
 * Reads a list as a file has it, and holds it against the limits. 0; CONFIG_VALUE_WRONG and the
 * reason; or -ENOMEM.
 */
int config_list_parse(const struct config_setting *setting, const char *text,
                      struct config_list *ret, char *why);

/* May `more` follow what is in `list`? If not, CONFIG_VALUE_WRONG and the reason; or 0. */
int config_list_may_grow(const struct config_setting *setting, const struct config_list *list,
                         const struct config_list *more, char *why);

/* Moves what is in `more` behind what is in `list`. 0 or -ENOMEM; then nothing has changed. */
int config_list_grow(const struct config_setting *setting, struct config_list *list,
                     struct config_list *more);

/* One of its elements as text that is read back to the same, for free(); NULL without memory. */
char *config_list_format_one(enum config_type type, const struct config_list *list, unsigned index);

/* All of them, with ", " between them. */
char *config_list_format(enum config_type type, const struct config_list *list);

/* Frees what it holds, and leaves it empty. */
void config_list_free(enum config_type type, struct config_list *list);

/* The list in the program's structure, which does not have this type. */
struct config_list config_list_fetch(const void *slot);
void config_list_store(void *slot, const struct config_list *list);
