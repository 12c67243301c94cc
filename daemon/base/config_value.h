/*
 * One value of a setting, and its text: what config.c and config_file.c share, and nobody else
 * needs. Each type of setting is known here alone: how it is read, written and stored.
 */
#pragma once

#include "base/config.h"
#include "base/config_list.h"
#include "base/util.h"

/* Room for as much of a text as a message shows of it, in quotes. */
#define CONFIG_QUOTED_MAX 68
/* Outcomes of reading a value, besides 0 and -ENOMEM. */
enum {
    CONFIG_VALUE_WRONG = 1, /* it is not taken, and there is a reason */
};

/* A value that is not stored (yet); a string or path is borrowed. */
union config_value {
    uint64_t whole;
    double real;
    const char *string; /* or path, which is NULL if empty */
    int chosen;         /* level, client certificate, choice */
    bool boolean;
    struct config_seed seed;
    struct config_list list;
};

/* As much of `text` as a message should show. Returns `result`. */
const char *config_shown(const char *text, char result[static CONFIG_QUOTED_MAX - 2]);

/* The same in quotes. */
const char *config_quoted(const char *text, char result[static CONFIG_QUOTED_MAX]);

/* Says why a value is not taken; false, so that a parser can return it. */
bool config_wrong(char why[static CONFIG_WHY_MAX], const char *format, ...) _printf_(2, 3);

/* Would "key = value" have a line of its own? What would not could not be dumped and read back. */
bool config_fits_line(const struct config_setting *setting, const char *text);

/*
 * Reads a value as a file has it, and holds it against the limits. 0; CONFIG_VALUE_WRONG and the
 * reason; or -ENOMEM. A string is borrowed from `text`; a list is the caller's, for
 * config_value_free().
 */
int config_value_parse(const struct config_setting *setting, const char *text,
                       union config_value *ret, char why[static CONFIG_WHY_MAX]);

/* Frees the list that a value from config_value_parse() may hold. */
void config_value_free(const struct config_setting *setting, union config_value *value);

/* The text that config_value_parse() reads back to the same value, for free(); NULL without memory.
 */
char *config_value_format(const struct config_setting *setting, const union config_value *value);

/* The value that the program's structure has for the setting; strings and lists are borrowed. */
void config_value_fetch(const struct config_setting *setting, const void *values,
                        union config_value *ret);

/* Puts a value there, in place of the one before; a list moves. 0 or -ENOMEM; then nothing has
 * changed. */
int config_value_store(const struct config_setting *setting, void *values,
                       union config_value *value);

/*
 * May a list be added to the one that is there? 0; CONFIG_VALUE_WRONG and the reason; or -ENOMEM.
 */
int config_value_may_grow(const struct config_setting *setting, const void *values,
                          const union config_value *value, char why[static CONFIG_WHY_MAX]);

/* Moves a list there, behind the one before. 0 or -ENOMEM; then nothing has changed. */
int config_value_grow(const struct config_setting *setting, void *values,
                      union config_value *value);

/* Frees what the value there owns, which becomes NULL or empty; all else stays. */
void config_value_clear(const struct config_setting *setting, void *values);
