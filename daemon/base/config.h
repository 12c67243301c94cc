/*
 * Settings. One table says for each of them its section and key, what it looks like, its limits,
 * its default and what it means; parsing, --dump-config, and the check that the manual page
 * documents every key are driven by it.
 *
 * Values come in layers, each over the one before: built-in defaults, configuration file, drop-in
 * files in the order of their names, environment, command line. Every fault is collected, so that
 * a person sees all of them in one go.
 *
 * Within one file a later line replaces an earlier one for the same key, but a list
 * grows with each line. A layer never adds to the list of the layer before.
 *
 * Besides, there may be sections of which there are any number, each with a name: "[ticker AAPL]".
 * They have a table of their own, and no defaults: what a section does not set is not set.
 */
#pragma once

#include "base/endpoint.h"
#include "base/names.h"
#include "base/ranges.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum config_type {
    CONFIG_COUNT,     /* uint64_t; a whole number */
    CONFIG_SIZE,      /* uint64_t; bytes: "64K", "4M", "1G" (powers of 1024), "100" */
    CONFIG_DURATION,  /* uint64_t; milliseconds: "100ms", "1.5s", "2m", "1h", "1d", and plain "0" */
    CONFIG_NUMBER,    /* double; finite */
    CONFIG_STRING,    /* char *, owned by the structure, never NULL; printable ASCII characters
                       * other than space, quotes and semicolon */
    CONFIG_LEVEL,     /* int; a name that log_level_from_name() knows */
    CONFIG_SEED,      /* struct config_seed; a whole number, or "random" */
    CONFIG_ENDPOINTS, /* struct config_endpoints; "[::]:4444, [::]:4443 tls=yes" */
    CONFIG_BOOLEAN,   /* bool; "yes" or "no"; true, false, on, off, 1 and 0 are taken, too */
    CONFIG_CLIENT_CERTIFICATE, /* int, enum client_certificate; "no", "optional", "required" */
    CONFIG_PATH,   /* char *, owned by the structure; NULL if empty; an absolute path, which may
                    * have spaces in it */
    CONFIG_RANGES, /* struct config_ranges; "10.0.0.0/8, ::1" */
    CONFIG_NAMES,  /* struct config_names; "client.example, spiffe://a/b" */
    CONFIG_CHOICE, /* int, an index in `choices` of the setting */
};

/* When a changed value takes effect. */
enum config_change {
    CONFIG_RELOAD,  /* when the configuration is read again */
    CONFIG_RESTART, /* when the program starts anew */
};

/* The longest line of a file, without blanks at its ends; a comment may be longer. */
#define CONFIG_LINE_MAX 199
/* The largest file, so that a device given by mistake comes to an end. */
#define CONFIG_FILE_SIZE_MAX ((size_t)16 << 20)
/* Further faults are only counted as one. */
#define CONFIG_FAULTS_MAX 100
/* What is said of a setting with CONFIG_RESTART; the manual page has the same words. */
#define CONFIG_RESTART_WORDS "Takes effect when stockd is started again."
#define CONFIG_ENDPOINTS_MAX 16
#define CONFIG_RANGES_MAX 256
#define CONFIG_NAMES_MAX 256
/* Room for a range as text. */
#define CONFIG_RANGE_TEXT_MAX 96

/* The lists: what they hold is owned by the structure. No two endpoints have one address, unless
 * the kernel chooses their ports. */
struct config_endpoints {
    struct endpoint *endpoints;
    unsigned count;
};

struct config_ranges {
    struct range *ranges;
    unsigned count;
};

/* Printable ASCII other than space, quotes, comma and semicolon. */
struct config_names {
    char **names;
    unsigned count;
};

struct config_seed {
    bool given;
    uint64_t value;
};

struct config_setting {
    const char *section;
    const char *key;
    enum config_type type;
    enum config_change change;
    size_t offset; /* of the value in the program's structure */
    const char *initial;
    double minimum;   /* of COUNT, SIZE, DURATION (ms), NUMBER; of STRING its length, of lists */
    double maximum;   /* their number, at most the type's; whole ones are exact to 2^53; of the
                       * other types nothing */
    const char *help; /* one line */
    const char *const *choices; /* of CHOICE its names, and NULL behind them; else NULL */
};

/* Sections that have names. */
struct config_kind {
    const char *section;                /* "ticker", of "[ticker AAPL]" */
    const struct config_setting *table; /* borrowed; of each `initial` is NULL, and no lists */
    size_t count;
    size_t size; /* of the structure that the table's offsets are for */
    size_t sections_max;
    size_t name_max;           /* bytes; at most 32 */
    enum config_change change; /* of all of it */
};

struct config_section {
    char *name;       /* one of config_is_name() without brackets */
    char *origin;     /* where it was named first */
    void *values;     /* zeroed, but for what is set */
    char **origins;   /* for each setting where its value came from; NULL: it is not set */
    unsigned *layers; /* for each setting the layer that set it */
};

/* In the order in which they were named first. */
struct config_sections {
    const struct config_kind *kind; /* NULL: there cannot be any */
    struct config_section *sections;
    size_t count;
    struct names names; /* to indices, as soon as there is one */
};

/* One fault: "file:line: section.key: what is wrong", with as much of that as there is. */
struct config_faults {
    char **text;
    size_t count;
    bool out_of_memory; /* some text could not be kept; still a fault */
};

struct config {
    const struct config_setting *table;
    size_t count;
    void *values;    /* the program's structure */
    char **origin;   /* for each setting where its value came from; NULL: built in */
    unsigned *layer; /* for each setting the layer that set it; 0: built in */
    unsigned layers; /* begun so far */
    struct config_sections named;
    struct config_faults faults;
};

/*
 * Prepares `values` (the structure that the table's offsets are for, zeroed by the caller) with the
 * defaults of the table, which must be valid and grouped by section. The table is borrowed. 0 or
 * -ENOMEM. config_deinit() frees everything, the strings and lists in `values` too, also after a
 * failure; what it freed is set to NULL or 0.
 */
int config_init(struct config *config, const struct config_setting *table, size_t count,
                void *values);
void config_deinit(struct config *config);

/* Allows sections that have names, right after config_init(). `kind` is borrowed. */
void config_allow_sections(struct config *config, const struct config_kind *kind);

/* The section of this name; NULL if there is none. */
const struct config_section *config_find_section(const struct config *config, const char *name);

/* Is it what names consist of: printable ASCII other than space, quotes, comma and semicolon? At
 * least one character. */
bool config_is_name(const char *text, size_t length);

/*
 * Reads one INI file. What is wrong in it (unknown section or key, bad value, a line that is no
 * "key = value", a line too long) becomes a fault; the rest is taken. A missing file is a
 * fault only if `required`. 0 or -ENOMEM.
 */
int config_load_file(struct config *config, const char *path, bool required);

/*
 * The same for a file that nobody named but that was found: it must be a regular one, or /dev/null.
 * A FIFO would hold up the start for ever, and a device might never end.
 */
int config_load_plain_file(struct config *config, const char *path, bool required);

/*
 * Is it, or the folder that it is in, a link to what is not there? Whoever made the link wants what
 * is behind it to be read; a service in a sandbox may not see that. (Folders above those are the
 * system's, and may lead anywhere.)
 */
bool config_leads_nowhere(const char *path);

/*
 * Reads every "*.conf" in the directories whose name does not begin with a dot, as systemd's
 * programs do: in the order of strcmp() of their names, wherever they are; of two with one name
 * only that of the earlier directory counts, so an empty one there, or a link to /dev/null, takes
 * the other's effect away. Each is a layer of its own. A missing directory is fine. 0 or -ENOMEM.
 */
int config_load_directories(struct config *config, const char *const *directories, size_t count);

/*
 * Sets one value, as a layer of its own; `origin` names where it came from ("environment variable
 * X", "--listen"). A section may be one with a name, "ticker AAPL". An unknown key or a bad value
 * is a fault, and the setting stays as it was. 0 or -ENOMEM.
 */
int config_set(struct config *config, const char *section, const char *key, const char *value,
               const char *origin);

/*
 * Sets a setting of endpoints to every address with this port, as environment variables of the
 * original programs do: "[::]:PORT". Anything but the digits of a port is a fault. As config_set().
 */
int config_set_port(struct config *config, const char *section, const char *key, const char *port,
                    const char *origin);

/* Room for the reason why a value is not taken. */
#define CONFIG_WHY_MAX 256

/*
 * Reads a value that did not come from a layer, of a setting that is no list, string or path, into
 * the structure that the setting's offset is for. False: it is not taken, and there is a reason.
 */
bool config_read_value(const struct config_setting *setting, const char *text, void *values,
                       char why[static CONFIG_WHY_MAX]);

/* Frees a list of endpoints that somebody took out of the structure of values. */
void config_endpoints_deinit(struct config_endpoints *endpoints);

/* Adds a fault of the program's own. 0 or -ENOMEM. */
int config_fault(struct config *config, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * What a setting accepts, in words: "1 to 10000", "1K to 64M", "1 to 32 bytes". Returns `text`.
 * Messages, --dump-config and the manual page say it with the same words.
 */
const char *config_range(const struct config_setting *setting,
                         char text[static CONFIG_RANGE_TEXT_MAX]);

/* What a setting has by default, in words: its initial text, "empty", or "not set". */
const char *config_default(const struct config_setting *setting);

/*
 * Writes all settings as an INI file that config_load_file() reads back to the same values: each
 * with its help, its default, where its value came from, and that a change of it waits for the next
 * start if it does, as comments. 0, or a negative errno from
 * writing.
 */
int config_dump(const struct config *config, int fd);

/* A setting, or a whole section that has a name. The texts live during the call. */
struct config_item {
    const char *name; /* "stream.interval", "ticker AAPL" */
    bool is_section;
    enum config_change change;
    /* As a file would have it; of a section its settings in one line, "interval=1s volatility=0.1",
     * or one of the words below. */
    const char *value;
    const char *value_before; /* of a difference */
    const char *origin;       /* where it came from; "default" if nothing sets it any more */
};

#define CONFIG_SECTION_NONE "none"
#define CONFIG_SECTION_DEFAULTS "defaults" /* it is there, and sets nothing */

typedef void config_each(const struct config_item *item, void *context);

/*
 * Calls `each` for every setting whose value differs from its default, and for every section that
 * has a name. 0 or -ENOMEM.
 */
int config_each_changed(const struct config *config, config_each *each, void *context);

/*
 * Calls `each` for every setting whose value differs between two configurations of the same tables,
 * and for every section that has a name and does, or is in one of them only. 0 or -ENOMEM; then
 * nothing was called.
 */
int config_each_difference(const struct config *before, const struct config *after,
                           config_each *each, void *context);
