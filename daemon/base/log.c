/*
 * Log messages. What a peer sent (a user agent, a path) ends up in messages, so everything that
 * could break a line, move a terminal's cursor or reverse the direction of text is written as an
 * escape: one message is one line, and nobody but this program begins a line.
 *
 * No memory is allocated: a message that reports that there is none must get out.
 */
#include "base/log.h"

#include "base/events.h"
#include "base/journal.h"
#include "proto/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* A line on standard error, its end included: PIPE_BUF, so that a pipe takes it whole. */
#define LINE_MAX_BYTES 4096
/* Time and level of a line are shorter than this. */
#define PREFIX_MAX_BYTES 64
/* Fields of one message in the journal, and the bytes of one, name included. */
#define FIELDS_MAX JOURNAL_FIELDS_MAX
#define FIELD_MAX_BYTES 512

/* What the end of the program waits for the journal. */
#define SETTLE_MS 1000

/* U+2026, without a NUL. */
static const char ellipsis[] = {'\xe2', '\x80', '\xa6'};

static struct {
    const char *identifier;
    int level;
    bool journal;
    bool never_wait;
    unsigned lost; /* since the last message */
    /* Of the second that was formatted last. */
    time_t second;
    char time_text[32];
    char zone_text[8];
} log_state = {.level = LOG_INFO, .second = (time_t)-1};

static const struct {
    const char *name;
    int level;
} level_names[] = {
    {"error", LOG_ERR}, {"warning", LOG_WARNING}, {"notice", LOG_NOTICE},
    {"info", LOG_INFO}, {"debug", LOG_DEBUG},
};

int log_level_from_name(const char *name)
{
    for (size_t i = 0; i < ELEMENTSOF(level_names); i++)
        if (strcmp(level_names[i].name, name) == 0)
            return level_names[i].level;
    return -EINVAL;
}

const char *log_level_name(int level)
{
    for (size_t i = 0; i < ELEMENTSOF(level_names); i++)
        if (level_names[i].level >= level)
            return level_names[i].name;
    return "debug";
}

/* Whether standard error is the stream that systemd connected to the journal. */
static bool stderr_is_journal(void)
{
    const char *text = getenv("JOURNAL_STREAM");
    struct stat status;
    char expected[64];

    if (text == NULL || fstat(STDERR_FILENO, &status) < 0)
        return false;
    (void)snprintf(expected, sizeof(expected), "%ju:%ju", (uintmax_t)status.st_dev,
                   (uintmax_t)status.st_ino);
    return strcmp(text, expected) == 0;
}

/* For reading only: a write that the caller made impossible fails, instead of being lost. */
void log_open_standard_files(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        (void)close(fd);
}

void log_open(const char *identifier)
{
    int saved_errno = errno;

    log_state.identifier = identifier;
    log_state.journal = stderr_is_journal();
    log_state.never_wait = false;
    log_state.lost = 0;
    log_state.second = (time_t)-1;
    tzset();
    errno = saved_errno;
}

bool log_to_journal(void)
{
    return log_state.journal;
}

void log_never_wait(void)
{
    log_state.never_wait = true;
}

void log_close(void)
{
    int saved_errno = errno;

    if (log_state.journal)
        (void)journal_settle(JOURNAL_SOCKET, SETTLE_MS);
    errno = saved_errno;
}

void log_set_level(int level)
{
    log_state.level = level;
}

bool log_enabled(int level)
{
    return level <= log_state.level;
}

const char *log_format_number(uint64_t value, char text[static LOG_NUMBER_MAX])
{
    (void)snprintf(text, LOG_NUMBER_MAX, "%ju", (uintmax_t)value);
    return text;
}

/* The escaped form of one byte; returns its size. */
static size_t escape_byte(unsigned char byte, char escaped[static 8])
{
    static const char names[] = "abtnvfr"; /* from 0x07 on */
    static const char digits[] = "0123456789abcdef";

    escaped[0] = '\\';
    if (byte == '\\') {
        escaped[1] = '\\';
        return 2;
    }
    if (byte >= 0x07 && byte <= 0x0d) {
        escaped[1] = names[byte - 0x07];
        return 2;
    }
    escaped[1] = 'x';
    escaped[2] = digits[byte >> 4];
    escaped[3] = digits[byte & 15];
    return 4;
}

/*
 * Writes `text` with its unsafe parts escaped into `size` bytes, an ellipsis last if it does not
 * fit or is `cut` already; no NUL. Returns the bytes written.
 */
static size_t escape(const char *text, size_t length, bool cut, char *ret_text, size_t size)
{
    size_t room = size - sizeof(ellipsis), used = 0;
    size_t before_room = 0; /* the end of what leaves room for the ellipsis */

    for (size_t i = 0; i < length;) {
        char escaped[4 * 4 + 8];
        uint32_t code;
        size_t taken, made = 0;
        bool valid = utf8_decode(text + i, length - i, &code, &taken);

        if (!valid && cut && taken == length - i)
            break; /* the character that the cut went through */
        if (valid && !utf8_is_unsafe(code) && code != '\\') {
            memcpy(escaped, text + i, taken);
            made = taken;
        } else {
            for (size_t k = 0; k < taken; k++)
                made += escape_byte((unsigned char)text[i + k], escaped + made);
        }
        if (used + made > size) {
            cut = true;
            break;
        }
        memcpy(ret_text + used, escaped, made);
        used += made;
        if (used <= room)
            before_room = used;
        i += taken;
    }
    if (!cut)
        return used;
    memcpy(ret_text + before_room, ellipsis, sizeof(ellipsis));
    return before_room + sizeof(ellipsis);
}

/* "2026-01-31T09:30:00.123+01:00 info: "; returns its length. */
static size_t format_prefix(int level, char prefix[static PREFIX_MAX_BYTES])
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != log_state.second) {
        struct tm local;
        char zone[8];

        if (localtime_r(&now.tv_sec, &local) == NULL)
            memset(&local, 0, sizeof(local));
        (void)strftime(log_state.time_text, sizeof(log_state.time_text), "%Y-%m-%dT%H:%M:%S",
                       &local);
        (void)strftime(zone, sizeof(zone), "%z", &local);
        (void)snprintf(log_state.zone_text, sizeof(log_state.zone_text), "%.3s:%.2s", zone,
                       zone + 3);
        log_state.second = now.tv_sec;
    }
    int length = snprintf(prefix, PREFIX_MAX_BYTES, "%s.%03ld%s %s: ", log_state.time_text,
                          now.tv_nsec / 1000000, log_state.zone_text, log_level_name(level));
    return MIN((size_t)length, (size_t)PREFIX_MAX_BYTES - 1);
}

static void put_line(int level, const char *message, size_t length)
{
    char line[LINE_MAX_BYTES];
    size_t size = format_prefix(level, line), written = 0;

    memcpy(line + size, message, length);
    size += length;
    line[size++] = '\n';
    /* One write; a second only where the first was cut short, by a full file system for one. */
    while (written < size) {
        ssize_t r = write(STDERR_FILENO, line + written, size - written);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return;
        written += (size_t)r;
    }
}

/* A pipe that has room takes a line of PIPE_BUF whole. */
static bool would_wait(void)
{
    struct pollfd standard_error = {.fd = STDERR_FILENO, .events = POLLOUT};

    return log_state.never_wait && poll(&standard_error, 1, 0) == 0;
}

static void write_line(int level, const char *message, size_t length)
{
    char note[80];

    if (log_state.lost > 0 && !would_wait()) {
        int size = snprintf(note, sizeof(note), "%u messages were lost: standard error was full",
                            log_state.lost);
        log_state.lost = 0;
        put_line(LOG_WARNING, note, (size_t)size);
    }
    if (would_wait())
        log_state.lost++;
    else
        put_line(level, message, length);
}

/* One "NAME=value" for the journal, in `room`, cut to its size; escaped as the message is, since
 * journalctl -x puts values into its text as they are. */
static struct iovec journal_field(const char *name, const char *value, char *room, size_t size)
{
    size_t used = (size_t)snprintf(room, size, "%s=", name);

    return (struct iovec){room,
                          used + escape(value, strlen(value), false, room + used, size - used)};
}

/* 0 or a negative errno. */
static int send_to_journal(int level, const struct log_field *fields, const char *message,
                           size_t length)
{
    char texts[FIELDS_MAX][FIELD_MAX_BYTES], message_text[LINE_MAX_BYTES];
    struct iovec vectors[FIELDS_MAX];
    int count = 0;

    vectors[count++] = (struct iovec){message_text, sizeof("MESSAGE=") - 1 + length};
    memcpy(message_text, "MESSAGE=", sizeof("MESSAGE=") - 1);
    memcpy(message_text + sizeof("MESSAGE=") - 1, message, length);

    char priority[16];
    (void)snprintf(priority, sizeof(priority), "%d", level);
    vectors[count] = journal_field("PRIORITY", priority, texts[count], FIELD_MAX_BYTES);
    count++;
    if (log_state.identifier != NULL) {
        vectors[count] =
            journal_field("SYSLOG_IDENTIFIER", log_state.identifier, texts[count], FIELD_MAX_BYTES);
        count++;
    }
    for (; fields != NULL && fields->name != NULL && count < FIELDS_MAX; fields++) {
        if (fields->value == NULL)
            continue;
        vectors[count] = journal_field(fields->name, fields->value, texts[count], FIELD_MAX_BYTES);
        count++;
    }
    return journal_send(JOURNAL_SOCKET, vectors, (unsigned)count, !log_state.never_wait);
}

static int tell_lost(void)
{
    char text[80];
    int size = snprintf(text, sizeof(text), "%u messages were lost: the journal took none",
                        log_state.lost);
    int r = send_to_journal(
        LOG_WARNING,
        log_fields(LOG_EVENT(MESSAGES_DROPPED), {"STOCKD_DROPPED", log_number(log_state.lost)}),
        text, (size_t)size);

    if (r == 0)
        log_state.lost = 0;
    return r;
}

/* False: there is no journal. While it takes nothing more, messages are lost; nor is there room for
 * them on standard error then, which the same journald reads. */
static bool write_entry(int level, const struct log_field *fields, const char *message,
                        size_t length)
{
    int r = log_state.lost > 0 ? tell_lost() : 0;

    if (r == 0)
        r = send_to_journal(level, fields, message, length);
    if (r != -EAGAIN)
        return r == 0;
    log_state.lost++;
    return true;
}

void log_message(int level, const struct log_field *fields, const char *format, ...)
{
    int saved_errno = errno; /* vsnprintf() may be asked for it, by %m */
    char raw[LINE_MAX_BYTES], message[LINE_MAX_BYTES - PREFIX_MAX_BYTES - 1];
    va_list arguments;

    if (!log_enabled(level))
        return;
    va_start(arguments, format);
    int length = vsnprintf(raw, sizeof(raw), format, arguments);
    va_end(arguments);
    if (length < 0) {
        (void)snprintf(raw, sizeof(raw), "(a message that cannot be formatted: %.1000s)", format);
        length = (int)strlen(raw);
    }
    bool cut = (size_t)length >= sizeof(raw);
    size_t size =
        escape(raw, cut ? sizeof(raw) - 1 : (size_t)length, cut, message, sizeof(message));

    if (!log_state.journal || !write_entry(level, fields, message, size))
        write_line(level, message, size);
    errno = saved_errno;
}

bool log_limit_pass(struct log_limit *limit, uint64_t now_ms, unsigned *ret_dropped)
{
    if (now_ms - limit->interval_start_ms >= LOG_LIMIT_INTERVAL_MS) {
        limit->interval_start_ms = now_ms;
        limit->passed = 0;
    }
    if (limit->passed >= LOG_LIMIT_BURST) {
        limit->dropped++;
        return false;
    }
    limit->passed++;
    *ret_dropped = limit->dropped;
    limit->dropped = 0;
    return true;
}
