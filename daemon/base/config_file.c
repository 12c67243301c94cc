/*
 * Reading the files that settings come from.
 *
 * libinih splits a file into sections, keys and values. It forgives much that a person would want
 * to hear of: it cuts long lines in two, takes an indented line as more of the value before it,
 * ends a line at a NUL byte, ignores what follows "]", takes ":" for "=", shortens long names and
 * reports the first bad line only. So each line is looked at before libinih gets it
 * (check_line()), and what it would misread becomes a fault here and an empty line there.
 */
#include "base/config.h"

#include "base/config_layer.h"
#include "base/config_value.h"
#include "base/util.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void close_file(FILE **file)
{
    if (*file)
        (void)fclose(*file);
}
#define _cleanup_file_ _cleanup_(close_file)

/* --- files ------------------------------------------------------------------------------------ */

struct reader {
    struct config *config;
    const char *path;
    FILE *file;
    size_t size;
    unsigned line;
    unsigned layer;
    bool started;  /* a section began; keys before the first have none */
    bool skipping; /* up to the next section; the fault is reported */
    char buffer[CONFIG_LINE_MAX + 1];
    int error; /* errno of reading */
    int r;
};

enum line_fault {
    LINE_FINE,
    LINE_LONG,
    LINE_NUL,
    LINE_RETURN,
};

static int fault_line(struct reader *reader, const char *format, ...) _printf_(2, 3);

static int fault_line(struct reader *reader, const char *format, ...)
{
    char text[CONFIG_WHY_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return config_fault(reader->config, "%s:%u: %s", reader->path, reader->line, text);
}

/* "file:line", or NULL without memory. */
static char *line_origin(const struct reader *reader)
{
    char *origin = NULL;

    return asprintf(&origin, "%s:%u", reader->path, reader->line) < 0 ? NULL : origin;
}

static char *trim(char *text)
{
    char *end = text + strlen(text);

    while (end > text && isspace((unsigned char)end[-1]))
        end--;
    *end = '\0';
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

/*
 * Reads one line into the buffer, without its end and the blanks before it. False at the end of
 * the file. What is more than the buffer takes is dropped, and *ret_fault says so.
 */
static bool fetch_line(struct reader *reader, enum line_fault *ret_fault)
{
    enum line_fault fault = LINE_FINE;
    size_t length = 0;
    bool any = false, returned = false;
    int c;

    while ((c = getc_unlocked(reader->file)) != EOF && reader->size++ < CONFIG_FILE_SIZE_MAX) {
        any = true;
        if (c == '\n')
            break;
        /* CR LF ends a line as LF does; CR alone would hide the lines after it. */
        if (returned)
            fault = fault ? fault : LINE_RETURN;
        returned = c == '\r';
        if (c == '\0')
            fault = LINE_NUL;
        if (length < CONFIG_LINE_MAX && (length > 0 || !isspace(c)))
            reader->buffer[length++] = (char)c;
        else if (!isspace(c))
            fault = fault ? fault : LINE_LONG;
    }
    if (ferror_unlocked(reader->file))
        reader->error = errno;
    reader->buffer[length] = '\0';
    *ret_fault = fault;
    return any || reader->size > CONFIG_FILE_SIZE_MAX;
}

static char *skip_mark(struct reader *reader)
{
    static const char mark[] = "\xef\xbb\xbf"; /* of UTF-8, which some editors write */
    char *line = reader->buffer;

    if (reader->line == 1 && strncmp(line, mark, strlen(mark)) == 0)
        line += strlen(mark);
    return trim(line);
}

/* "[name]", perhaps with a comment. Anything else leads libinih to another section, or to none. */
static bool check_section(struct reader *reader, char *line)
{
    char *end = strchr(line, ']');
    _cleanup_free_ char *origin = NULL;
    char name[CONFIG_LINE_MAX + 1];
    char quote[CONFIG_QUOTED_MAX];
    int r;

    reader->started = true;
    reader->skipping = true;
    if (!end) {
        reader->r = fault_line(reader, "%s has no \"]\"", config_quoted(line, quote));
        return false;
    }
    memcpy(name, line + 1, (size_t)(end - line - 1));
    name[end - line - 1] = '\0';
    end += 1 + strspn(end + 1, " \t");
    if (*end && *end != ';' && *end != '#') {
        reader->r =
            fault_line(reader, "%s is not allowed after a section", config_quoted(end, quote));
        return false;
    }
    origin = line_origin(reader);
    r = origin ? config_enter_section(reader->config, name, origin) : -ENOMEM;
    reader->r = MIN(r, 0);
    reader->skipping = r != 0;
    return r == 0;
}

/* "key = value", where libinih finds the same key that a person reads. */
static bool check_key(struct reader *reader, const char *line)
{
    char quote[CONFIG_QUOTED_MAX];
    bool blank = false;
    const char *c = line;

    if (reader->skipping)
        return false;
    for (; *c && !strchr("=:", *c) && !(blank && *c == ';'); c++)
        blank = isspace((unsigned char)*c);
    if (*c != '=' || c == line) {
        reader->r = fault_line(reader, "%s is not \"key = value\"", config_quoted(line, quote));
        return false;
    }
    if (!reader->started) {
        reader->skipping = true;
        reader->r =
            fault_line(reader, "%s stands before the first [section]", config_quoted(line, quote));
        return false;
    }
    return true;
}

/* May libinih see this line? If not, it is empty or a comment, or the fault is reported. */
static bool check_line(struct reader *reader, char *line, enum line_fault fault)
{
    switch (fault) {
    case LINE_FINE:
        break;
    case LINE_NUL:
        reader->r = fault_line(reader, "a NUL byte is in the line");
        return false;
    case LINE_RETURN:
        reader->r = fault_line(reader, "a carriage return is in the middle of the line");
        return false;
    case LINE_LONG:
        if (!strchr(";#", *line))
            reader->r = fault_line(reader, "the line is longer than %d bytes", CONFIG_LINE_MAX);
        return false;
    }
    if (*line == '\0' || strchr(";#", *line))
        return false;
    return *line == '[' ? check_section(reader, line) : check_key(reader, line);
}

/* An ini_reader, which works like fgets(). */
static char *read_line(char *text, int size, void *context)
{
    struct reader *reader = context;
    enum line_fault fault = LINE_FINE;
    char *line = NULL;

    if (reader->r < 0 || !fetch_line(reader, &fault))
        return NULL;
    if (reader->size > CONFIG_FILE_SIZE_MAX) {
        reader->r = config_fault(reader->config, "%s: the file is larger than %zu bytes",
                                 reader->path, CONFIG_FILE_SIZE_MAX);
        return NULL;
    }
    reader->line++;
    line = skip_mark(reader);
    if (fault == LINE_FINE && strlen(line) >= (size_t)size)
        fault = LINE_LONG; /* libinih was built with a smaller buffer than usual */
    return strcpy(text, check_line(reader, line, fault) ? line : "");
}

/* An ini_handler. Errors go by way of the reader: libinih could only number one of them. */
static int handle_key(void *context, const char *section, const char *key, const char *value)
{
    struct reader *reader = context;
    _cleanup_free_ char *origin = line_origin(reader);

    if (!origin)
        reader->r = -ENOMEM;
    else if (reader->r == 0)
        reader->r = config_set_in_layer(reader->config, section, key, value, origin, reader->layer);
    return 1;
}

/* `file` is NULL if it could not be opened; errno says why. */
static int load_file(struct config *config, const char *path, FILE *file, bool required)
{
    struct reader reader = {
        .config = config, .path = path, .file = file, .layer = ++config->layers};
    int r = 0;

    if (!file) {
        if (errno == ENOMEM)
            return -ENOMEM;
        if (errno == ENOENT && !required)
            return 0;
        return config_fault(config, "%s: cannot be read: %s", path, strerror(errno));
    }
    r = ini_parse_stream(read_line, &reader, handle_key, &reader);
    if (reader.r < 0)
        return reader.r;
    if (r < 0)
        return -ENOMEM; /* a libinih that keeps its line on the heap */
    if (r > 0)
        return config_fault(config, "%s:%d: the line is not understood", path, r);
    if (reader.error > 0)
        return config_fault(config, "%s: cannot be read: %s", path, strerror(reader.error));
    return 0;
}

int config_load_file(struct config *config, const char *path, bool required)
{
    _cleanup_file_ FILE *file = fopen(path, "re");

    return load_file(config, path, file, required);
}

/* A directory says by itself that it cannot be read. */
static bool is_plain(const struct stat *status)
{
    return S_ISREG(status->st_mode) || S_ISDIR(status->st_mode) ||
           (S_ISCHR(status->st_mode) && status->st_rdev == makedev(1, 3));
}

int config_load_plain_file(struct config *config, const char *path, bool required)
{
    _cleanup_file_ FILE *file = NULL;
    struct stat status;
    bool plain = stat(path, &status) < 0 || is_plain(&status);

    if (plain) {
        /* It may have become a FIFO since: to open that would wait for a writer. */
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

        plain = fd < 0 || fstat(fd, &status) < 0 || is_plain(&status);
        file = fd < 0 ? NULL : fdopen(fd, "r");
        if (fd >= 0 && !file)
            (void)close(fd);
    }
    if (!plain)
        return config_fault(config, "%s: cannot be read: Not a regular file", path);
    return load_file(config, path, file, required);
}

static bool is_broken_link(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0 && S_ISLNK(status.st_mode) && stat(path, &status) < 0;
}

bool config_leads_nowhere(const char *path)
{
    const char *name = strrchr(path, '/');
    char folder[PATH_MAX];

    if (is_broken_link(path))
        return true;
    if (!name || (size_t)(name - path) >= sizeof folder)
        return false;
    memcpy(folder, path, (size_t)(name - path));
    folder[name - path] = '\0';
    return is_broken_link(folder);
}

/* --- directories ------------------------------------------------------------------------------ */

struct drop_in {
    char *path;
    const char *name; /* the end of it */
    size_t directory; /* its place among the directories */
};

struct drop_ins {
    struct drop_in *drop_in;
    size_t count;
};

static void drop_ins_deinit(struct drop_ins *drop_ins)
{
    for (size_t i = 0; i < drop_ins->count; i++)
        free(drop_ins->drop_in[i].path);
    free(drop_ins->drop_in);
}

static int drop_ins_add(struct drop_ins *drop_ins, const char *directory, size_t number,
                        const char *name)
{
    _cleanup_free_ char *path = NULL;
    struct drop_in *grown = NULL;

    if (asprintf(&path, "%s/%s", directory, name) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    grown = reallocarray(drop_ins->drop_in, drop_ins->count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    drop_ins->drop_in = grown;
    grown[drop_ins->count++] =
        (struct drop_in){.path = path, .name = path + strlen(directory) + 1, .directory = number};
    TAKE_PTR(path);
    return 0;
}

/* By name; of those with one name first the one that counts. */
static int compare_drop_ins(const void *a, const void *b)
{
    const struct drop_in *one = a, *two = b;
    int r = strcmp(one->name, two->name);

    return r != 0 ? r : (one->directory > two->directory) - (one->directory < two->directory);
}

static void close_directory(DIR **directory)
{
    if (*directory)
        (void)closedir(*directory);
}

/* 0, or the negative errno of reading the directory. */
static int list_directory(struct drop_ins *drop_ins, const char *path, size_t number)
{
    _cleanup_(close_directory) DIR *directory = opendir(path);
    struct dirent *entry = NULL;
    int r = 0;

    if (!directory)
        return -errno;
    for (;;) {
        const char *suffix = NULL;

        errno = 0;
        entry = readdir(directory);
        if (!entry)
            return -errno;
        suffix = strrchr(entry->d_name, '.');
        if (entry->d_name[0] == '.' || !suffix || strcmp(suffix, ".conf") != 0)
            continue;
        r = drop_ins_add(drop_ins, path, number, entry->d_name);
        if (r < 0)
            return r;
    }
}

int config_load_directories(struct config *config, const char *const *directories, size_t count)
{
    _cleanup_(drop_ins_deinit) struct drop_ins drop_ins = {0};
    int r = 0;

    for (size_t i = 0; i < count; i++) {
        r = list_directory(&drop_ins, directories[i], i);
        if (r == -ENOENT && !config_leads_nowhere(directories[i]))
            r = 0;
        if (r < 0 && r != -ENOMEM)
            r = config_fault(config, "%s: cannot be read: %s", directories[i], strerror(-r));
        if (r == -ENOMEM)
            return r;
    }
    if (drop_ins.count > 0)
        qsort(drop_ins.drop_in, drop_ins.count, sizeof *drop_ins.drop_in, compare_drop_ins);
    r = 0;
    for (size_t i = 0; r == 0 && i < drop_ins.count; i++) {
        const struct drop_in *drop_in = &drop_ins.drop_in[i];

        if (i == 0 || strcmp(drop_in->name, drop_in[-1].name) != 0)
            r = config_load_plain_file(config, drop_in->path, true);
    }
    return r;
}
