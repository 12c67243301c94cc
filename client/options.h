/*
 * What the command lines of all commands have in common: how they are read, what is said of what is
 * wrong with them, and the options about the connection.
 *
 * Values are read by base/config.h, as the daemon's settings are, so that "64K" and "100ms" mean
 * the same to both programs and what is wrong with a value is said in the same words.
 */
#pragma once

#include "base/config.h"
#include "client/connect_options.h"
#include "client/print.h"

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum options_result {
    OPTIONS_RUN,
    OPTIONS_DONE,  /* --help or --version has been printed */
    OPTIONS_WRONG, /* what is wrong has been printed to standard error */
};

/* Long options that have no letter begin here in a command's own table. */
#define OPTIONS_OWN 256

/* How many long options a command may have of its own. */
#define OPTIONS_OWN_MAX 40

/* RFC 9113, 6.9.1. */
#define OPTIONS_WINDOW_MAX 0x7fffffff

#define OPTIONS_DAYS_MS(days) ((days)*86400e3)

/* The section of a command's settings: there is but one. */
#define OPTIONS_SECTION "client"

/* A setting that is kept in `member` of struct values, which the command defines. */
#define OPTIONS_SETTING(key, type, member, initial, minimum, maximum, help)                        \
    {                                                                                              \
        OPTIONS_SECTION, (key), (type), CONFIG_RESTART, offsetof(struct values, member),           \
            (initial), (minimum), (maximum), (help)                                                \
    }

/* The lines of --help about what all commands have. */
#define OPTIONS_USAGE                                                                              \
    "      --keepalive TIME  ping a server that is silent for TIME, 10s or more\n"                 \
    "  -v, --verbose         tell more on standard error\n"                                        \
    "  -h, --help            print this help, and stop\n"                                          \
    "  -V, --version         print the version, and stop\n"                                        \
    "\n"                                                                                           \
    "Each of these connects with TLS:\n"                                                           \
    "      --tls             trust the authorities that this system trusts\n"                      \
    "      --cacert FILE     trust the authorities in FILE instead\n"                              \
    "      --cert FILE       show the server the certificate in FILE\n"                            \
    "      --key FILE        its private key\n"                                                    \
    "      --server-name NAME  the certificate must be for NAME, not for HOST\n"                   \
    "      --insecure        take any certificate, from anybody\n"

/* A command line that is being read. */
struct options_reader {
    const char *command;             /* its name; NULL: there is none, and no tickers either */
    const char *usage;               /* what --help prints */
    const char *letters;             /* of options without a long name, as getopt(3) has them */
    const struct option *own;        /* the command's long options; ends with one without a name */
    struct connect_options *connect; /* what is read of the connection */

    /* Takes in one of the command's own: `option` is its letter or number, `name` the long name, if
     * it has no letter. optarg is its value. 0 or -ENOMEM. */
    int (*read)(struct options_reader *reader, int option, const char *name);

    struct config config;         /* the values of the command's own table */
    struct config connect_config; /* of those about the connection */
    const char *server_name;
    char **tickers; /* the operands but the address */
    size_t ticker_count;
    bool wrong; /* something has been complained of */
};

/*
 * Prepares zeroed memory in which everything before `config` was set; what `table` has is kept in
 * `values`. 0 or -ENOMEM; options_deinit() frees what it holds in each case.
 */
int options_init(struct options_reader *reader, const struct config_setting *table, size_t count,
                 void *values);

/*
 * Reads the options and the operands. --help and --version may stand anywhere, and then nothing
 * else counts. OPTIONS_RUN, though something may be wrong; OPTIONS_DONE; or -ENOMEM.
 */
int options_read(struct options_reader *reader, int argc, char *argv[]);

/* What is returned when everything has been looked at: OPTIONS_RUN or OPTIONS_WRONG, which is told.
 */
int options_conclude(const struct options_reader *reader);

void options_deinit(struct options_reader *reader);

/* Says what is wrong with an option or an operand. */
void options_complain(struct options_reader *reader, const char *option, const char *why);

/* Sets a value of the table; the option is called as the key is, with "--". 0 or -ENOMEM. */
int options_set(struct options_reader *reader, const char *key, const char *text);

/* The same of an option, or of a variable, that is called otherwise; `set` is config_set() or
 * config_set_port(). */
int options_set_by(struct options_reader *reader,
                   int (*set)(struct config *config, const char *section, const char *key,
                              const char *value, const char *origin),
                   const char *key, const char *text, const char *option);

/* The value of --output. */
void options_read_format(struct options_reader *reader, enum print_format *ret_format);

/* An option's value that is a file's name, borrowed from argv. */
void options_read_file_name(struct options_reader *reader, const char **ret, const char *option);
