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
static void replace_controls(char *text)
{
    for (; *text; text++)
        if (iscntrl((unsigned char)*text))
            *text = '?';
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
    replace_controls(text);
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

bool config_section_known(const struct config *config, const char *section)
{
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].section, section) == 0)
            return true;
    return false;
}

int config_fault_section(struct config *config, const char *origin, const char *section)
{
    struct guess guess = {0};
    char name[CONFIG_QUOTED_MAX];

    for (size_t i = 0; i < config->count; i++)
        consider(&guess, section, config->table[i].section);
    if (guess.name)
        return config_fault(config, "%s: [%s]: there is no such section; is [%s] meant?", origin,
                            config_shown(section, name), guess.name);
    return config_fault(config, "%s: [%s]: there is no such section", origin,
                        config_shown(section, name));
}

static int fault_key(struct config *config, const char *origin, const char *section,
                     const char *key)
{
    struct guess guess = {0};
    char name[CONFIG_QUOTED_MAX];

    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].section, section) == 0)
            consider(&guess, key, config->table[i].key);
    if (guess.name)
        return config_fault(config, "%s: %s.%s: there is no such key; is %s meant?", origin,
                            section, config_shown(key, name), guess.name);
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->table[i].key, key) == 0)
            return config_fault(config, "%s: %s.%s: there is no such key; it belongs in [%s]",
                                origin, section, key, config->table[i].section);
    return config_fault(config, "%s: %s.%s: there is no such key", origin, section,
                        config_shown(key, name));
}

/* --- layers --------------------------------------------------------------------------------- */

/* Takes `value` as the setting's value, or as more of it. */
static int take(struct config *config, size_t index, union config_value *value, bool more,
                const char *origin, unsigned layer)
{
    const struct config_setting *setting = &config->table[index];
    _cleanup_free_ char *origin_copy = strdup(origin);
    int r = 0;

    if (!origin_copy)
        return -ENOMEM;
    replace_controls(origin_copy); /* config_dump() makes a comment of one line of it */
    r = more ? config_value_grow(setting, config->values, value)
             : config_value_store(setting, config->values, value);
    if (r < 0)
        return r;
    free(config->origin[index]);
    config->origin[index] = TAKE_PTR(origin_copy);
    config->layer[index] = layer;
    return 0;
}

int config_set_in_layer(struct config *config, const char *section, const char *key,
                        const char *text, const char *origin, unsigned layer)
{
    const struct config_setting *setting = NULL;
    union config_value value = {0};
    char why[CONFIG_WHY_MAX];
    size_t index = 0;
    bool more = false;
    int r = 0;

    while (index < config->count && (strcmp(config->table[index].section, section) != 0 ||
                                     strcmp(config->table[index].key, key) != 0))
        index++;
    if (index == config->count)
        return fault_key(config, origin, section, key);
    setting = &config->table[index];
    r = config_value_parse(setting, text, &value, why);
    if (r == 0 && config->layer[index] == layer && config_list_is(setting->type)) {
        more = value.list.count > 0;
        r = config_value_may_grow(setting, config->values, &value, why);
    }
    if (r == 0)
        r = take(config, index, &value, more, origin, layer);
    else if (r > 0)
        r = config_fault(config, "%s: %s.%s: %s", origin, section, key, why);
    config_value_free(setting, &value);
    return r;
}

int config_set(struct config *config, const char *section, const char *key, const char *value,
               const char *origin)
{
    if (!config_section_known(config, section))
        return config_fault_section(config, origin, section);
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

/* --- showing -------------------------------------------------------------------------------- */

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

static int dump_setting(const struct config *config, size_t index, int fd)
{
    const struct config_setting *setting = &config->table[index];
    const char *origin = config->origin[index];
    char range[CONFIG_RANGE_TEXT_MAX];
    _cleanup_free_ char *text = NULL;
    union config_value value = {0};

    if (dprintf(fd, "# %s\n%s# Default: %s. Range: %s. %s%s\n", setting->help,
                setting->change == CONFIG_RESTART ? "# " CONFIG_RESTART_WORDS "\n" : "",
                config_default(setting), config_range(setting, range),
                origin ? "Set by " : "Not set.", origin ? origin : "") < 0)
        return -errno;
    config_value_fetch(setting, config->values, &value);
    if (config_list_is(setting->type) && value.list.count > 0)
        return dump_list(fd, setting, &value.list);
    text = config_value_format(setting, &value);
    if (!text)
        return -ENOMEM;
    return dprintf(fd, "%s =%s%s\n", setting->key, *text ? " " : "", text) < 0 ? -errno : 0;
}

int config_dump(const struct config *config, int fd)
{
    const char *section = NULL;

    for (size_t i = 0; i < config->count; i++) {
        const char *next = config->table[i].section;
        int r = 0;

        if (!section || strcmp(section, next) != 0) {
            if (dprintf(fd, "%s[%s]\n", section ? "\n" : "", next) < 0)
                return -errno;
            section = next;
        }
        r = dump_setting(config, i, fd);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The texts of two values of a setting: the same for the same value. */
struct texts {
    char *before;
    char *now;
};

static void texts_deinit(struct texts *texts)
{
    free(texts->before);
    free(texts->now);
}

static int format_now(const struct config *config, size_t index, char **ret_text)
{
    union config_value value = {0};

    config_value_fetch(&config->table[index], config->values, &value);
    *ret_text = config_value_format(&config->table[index], &value);
    return *ret_text ? 0 : -ENOMEM;
}

static int format_initial(const struct config_setting *setting, char **ret_text)
{
    union config_value value = {0};
    char why[CONFIG_WHY_MAX];

    if (config_value_parse(setting, setting->initial, &value, why) != 0)
        return -ENOMEM;
    *ret_text = config_value_format(setting, &value);
    config_value_free(setting, &value);
    return *ret_text ? 0 : -ENOMEM;
}

int config_each_changed(const struct config *config,
                        void (*each)(const struct config_setting *setting, const char *value,
                                     const char *origin, void *context),
                        void *context)
{
    for (size_t i = 0; i < config->count; i++) {
        _cleanup_(texts_deinit) struct texts texts = {0};
        int r = 0;

        if (!config->origin[i])
            continue;
        r = format_initial(&config->table[i], &texts.before);
        if (r == 0)
            r = format_now(config, i, &texts.now);
        if (r < 0)
            return r;
        if (strcmp(texts.now, texts.before) != 0)
            each(&config->table[i], texts.now, config->origin[i], context);
    }
    return 0;
}

static void texts_free(struct texts *texts, size_t count)
{
    for (size_t i = 0; texts && i < count; i++)
        texts_deinit(&texts[i]);
    free(texts);
}

/* All texts are made before the first is shown: what a reload says of itself is whole, or not said
 * at all. */
int config_each_difference(const struct config *before, const struct config *after,
                           void (*each)(const struct config_setting *setting,
                                        const char *value_before, const char *value,
                                        const char *origin, void *context),
                           void *context)
{
    struct texts *texts = NULL;
    int r = 0;

    assert(before->table == after->table && before->count == after->count);
    texts = calloc(after->count, sizeof *texts);
    if (!texts)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < after->count; i++) {
        r = format_now(before, i, &texts[i].before);
        if (r == 0)
            r = format_now(after, i, &texts[i].now);
    }
    for (size_t i = 0; r == 0 && i < after->count; i++)
        if (strcmp(texts[i].before, texts[i].now) != 0)
            each(&after->table[i], texts[i].before, texts[i].now,
                 after->origin[i] ? after->origin[i] : "default", context);
    texts_free(texts, after->count);
    return r;
}
