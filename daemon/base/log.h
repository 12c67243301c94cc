/*
 * Log messages: to the journal with structured fields when standard error is the journal
 * (JOURNAL_STREAM names its device and inode), else one line each on standard error:
 *
 *     2026-01-31T09:30:00.123+01:00 info: listening for gRPC on [::]:4444
 *
 * Levels are those of syslog(3). The functions never fail and never change errno.
 */
#pragma once

#include "base/util.h"

#include <stdbool.h>
#include <stdint.h>
#include <syslog.h>

/* A field of the journal beside the message: name in upper case, value as text. */
struct log_field {
    const char *name;
    const char *value;
};

/* A list of fields for log_message(): log_fields({"STOCKD_PEER", peer}, {"STOCKD_REASON", why}). */
#define log_fields(...) ((const struct log_field[]){__VA_ARGS__, {NULL, NULL}})

/*
 * A figure as a field's value: {"STOCKD_STREAMS", log_number(streams)}. Not negative; its unit, if
 * it has one, is the end of the field's name. The text lives as long as the block that it is in.
 */
#define LOG_NUMBER_MAX 21
#define log_number(value) log_format_number((value), (char[LOG_NUMBER_MAX]){0})
const char *log_format_number(uint64_t value, char text[static LOG_NUMBER_MAX]);

/*
 * Opens /dev/null in the place of each standard file that the caller closed. To be called before
 * anything else is opened: descriptor 2 would be the next socket's, and messages would go there.
 */
void log_open_standard_files(void);

/*
 * Decides where messages go; `identifier` (borrowed, for ever) is the SYSLOG_IDENTIFIER. Before the
 * first call messages go to standard error. Call it again when standard error has changed.
 */
void log_open(const char *identifier);

/* Do messages go to the journal, fields and all? */
bool log_to_journal(void);

/*
 * For a program that serves: while standard error is a full pipe or a stopped terminal, or journald
 * does not read, messages are lost from here on, instead of waited with. How many is told when it
 * takes one again.
 */
void log_never_wait(void);

/*
 * To be called before the program ends, when no message follows: waits for the journal to be done
 * with the messages, a second at most, so that it knows which unit they are of.
 */
void log_close(void);

/* Messages of a level above (less urgent than) `level`, LOG_ERR to LOG_DEBUG, are dropped. */
void log_set_level(int level);
bool log_enabled(int level);

/* The level named by `name` (error, warning, notice, info, debug), or -EINVAL. */
int log_level_from_name(const char *name);
const char *log_level_name(int level);

/*
 * One message. `fields` may be NULL; the journal gets the first dozen of them, each cut at 512
 * bytes; one whose value is NULL is left out. In them and in the message control characters, line
 * separators, changes of the direction of text, and what is not UTF-8 are escaped as \n or \x1b;
 * about 4000 bytes of the message are kept, then an ellipsis. %m of the caller's errno works.
 */
void log_message(int level, const struct log_field *fields, const char *format, ...) _printf_(3, 4);

#define log_event(level, fields, ...)                                                              \
    (log_enabled(level) ? log_message((level), (fields), __VA_ARGS__) : (void)0)
#define log_error(...) log_event(LOG_ERR, NULL, __VA_ARGS__)
#define log_warning(...) log_event(LOG_WARNING, NULL, __VA_ARGS__)
#define log_notice(...) log_event(LOG_NOTICE, NULL, __VA_ARGS__)
#define log_info(...) log_event(LOG_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_event(LOG_DEBUG, NULL, __VA_ARGS__)

/*
 * Keeps a peer from filling the log. Zeroed memory is valid. At most LOG_LIMIT_BURST messages in
 * LOG_LIMIT_INTERVAL_MS pass.
 */
#define LOG_LIMIT_BURST 10
#define LOG_LIMIT_INTERVAL_MS 5000

struct log_limit {
    uint64_t interval_start_ms;
    unsigned passed;
    unsigned dropped;
};

/*
 * True if a message may be logged now (`now_ms`: any monotonic clock). The first that passes after
 * some were dropped finds their number in *ret_dropped, else 0.
 */
bool log_limit_pass(struct log_limit *limit, uint64_t now_ms, unsigned *ret_dropped);
