/*
 * One value of a setting, and its text: what config.c and config_file.c share, and nobody else
 * needs. Each type of setting is known here alone: how it is read, written and stored.
 */
#pragma once

#include "base/address.h"
#include "base/config.h"
#include "base/util.h"

/* Room for the reason why a value is not taken. */
#define CONFIG_WHY_MAX 256
/* Room for as much of a text as a message shows of it, in quotes. */
#define CONFIG_QUOTED_MAX 68
/* The longest value as text: a full list of addresses with ", " between them. */
#define CONFIG_VALUE_TEXT_MAX (CONFIG_ADDRESSES_MAX * (ADDRESS_TEXT_MAX + 2))

/* A value that is not stored (yet); the string is borrowed. */
union config_value {
    uint64_t whole;
    double real;
    const char *string;
    int level;
    struct config_addresses addresses;
    struct config_seed seed;
};

/* As much of `text` as a message should show. Returns `result`. */
const char *config_shown(const char *text, char result[static CONFIG_QUOTED_MAX - 2]);

/* The same in quotes. */
const char *config_quoted(const char *text, char result[static CONFIG_QUOTED_MAX]);

/* Says why a value is not taken; false, so that a parser can return it. */
bool config_wrong(char why[static CONFIG_WHY_MAX], const char *format, ...) _printf_(2, 3);

/*
 * Reads a value as a file has it, and holds it against the limits. True, or false and the reason.
 * A string is borrowed from `text`.
 */
bool config_value_parse(const struct config_setting *setting, const char *text,
                        union config_value *ret, char why[static CONFIG_WHY_MAX]);

/* Writes the text that config_value_parse() reads back to the same value. */
void config_value_format(const struct config_setting *setting, const union config_value *value,
                         char text[static CONFIG_VALUE_TEXT_MAX]);

/* The value that the program's structure has for the setting; a string is borrowed from it. */
void config_value_fetch(const struct config_setting *setting, const void *values,
                        union config_value *ret);

/* Puts a value there, in place of the one before. 0 or -ENOMEM; then nothing has changed. */
int config_value_store(const struct config_setting *setting, void *values,
                       const union config_value *value);

/* Frees what the value there owns; a string becomes NULL, all else stays. */
void config_value_clear(const struct config_setting *setting, void *values);
