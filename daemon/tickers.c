#include "tickers.h"

#include "base/util.h"
#include "market/csv.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_SETTING "market.tickers_file"

/* A file of as many tickers as there may be is far smaller; a device given by mistake ends. */
#define FILE_SIZE_MAX ((size_t)16 << 20)
#define BUFFER_SIZE ((size_t)4 * CSV_RECORD_SIZE_MAX)

/* Of one file. */
#define FAULTS_MAX 100

#define FAULT_TEXT_MAX 1024

static const char *const defaults[] = {
    "AAPL", "AMZN", "GOOG", "META", "MSFT", "NVDA", "ORCL", "TSLA",
};

enum {
    WRONG = 1, /* told */
};

/* ---- Collecting ---- */

/* Finds or adds a ticker; what it adds has what [market] says. 0, WRONG if there are too many (not
 * told), or -ENOMEM. */
static int enter(struct tickers *tickers, const struct settings *settings, const char *name,
                 size_t *ret_index)
{
    uint32_t index;
    char *copy;

    if (!tickers->tickers) {
        tickers->tickers = calloc(SETTINGS_TICKERS_MAX, sizeof(*tickers->tickers));
        if (!tickers->tickers)
            return -ENOMEM;
    }
    if (names_find(&tickers->names, name, strlen(name), &index)) {
        *ret_index = index;
        return 0;
    }
    if (tickers->count == SETTINGS_TICKERS_MAX)
        return WRONG;
    copy = strdup(name);
    if (!copy || names_add(&tickers->names, copy, (uint32_t)tickers->count) < 0) {
        free(copy);
        return -ENOMEM;
    }
    tickers->tickers[tickers->count] = (struct feed_ticker){
        .name = copy,
        .start_price = settings->market.start_price,
        .interval_ms = settings->market.interval_ms,
        .volatility = settings->market.volatility,
    };
    *ret_index = tickers->count++;
    return 0;
}

/* Puts what is set in its place. */
static void refine(struct feed_ticker *ticker, const struct settings_ticker *values,
                   const bool has[SETTINGS_TICKER_KEY_COUNT])
{
    if (has[SETTINGS_TICKER_START_PRICE])
        ticker->start_price = values->start_price;
    if (has[SETTINGS_TICKER_INTERVAL])
        ticker->interval_ms = values->interval_ms;
    if (has[SETTINGS_TICKER_VOLATILITY])
        ticker->volatility = values->volatility;
}

struct collector {
    struct tickers *tickers;
    const struct settings *settings;
    void (*tell)(const char *setting, const char *text);
};

static int fault(const struct collector *collector, const char *setting, const char *format, ...)
    _printf_(3, 4);

static int fault(const struct collector *collector, const char *setting, const char *format, ...)
{
    char text[FAULT_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    collector->tell(setting, text);
    return WRONG;
}

static int fault_full(const struct collector *collector, const char *setting)
{
    return fault(collector, setting, "there are more than %d tickers, all together",
                 SETTINGS_TICKERS_MAX);
}

/* ---- market.tickers ---- */

static int take_names(const struct collector *collector)
{
    const struct config_names *names = &collector->settings->market.tickers;
    int result = 0;

    for (unsigned i = 0; i < names->count; i++) {
        const char *name = names->names[i];
        size_t before = collector->tickers->count, index;
        int r;

        if (strlen(name) > SETTINGS_TICKER_NAME_MAX) {
            result = fault(collector, "market.tickers", "\"%.60s\" is longer than %d characters",
                           name, SETTINGS_TICKER_NAME_MAX);
            continue;
        }
        r = enter(collector->tickers, collector->settings, name, &index);
        if (r < 0)
            return r;
        if (collector->tickers->count == before)
            result = fault(collector, "market.tickers", "\"%s\" is given twice", name);
    }
    return result;
}

/* ---- market.tickers_file ---- */

struct reader {
    const struct collector *collector;
    const char *path;
    int fd;
    struct csv csv;
    struct csv_record record;
    size_t start, end; /* of what is not read yet, in `bytes` */
    size_t size;       /* of the file so far */
    bool ended;
    bool has_header;
    unsigned faults;
    int name_column;
    int columns[SETTINGS_TICKER_KEY_COUNT];
    uint32_t lines[SETTINGS_TICKERS_MAX]; /* where the file names a ticker; 0: not yet */
    char bytes[BUFFER_SIZE];
};

static int fault_line(struct reader *reader, const char *format, ...) _printf_(2, 3);

static int fault_line(struct reader *reader, const char *format, ...)
{
    char text[FAULT_TEXT_MAX];
    va_list arguments;

    if (reader->faults == FAULTS_MAX)
        return WRONG;
    if (++reader->faults == FAULTS_MAX)
        return fault(reader->collector, FILE_SETTING,
                     "%s: there are more faults, which are not shown", reader->path);
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return fault(reader->collector, FILE_SETTING, "%s:%" PRIu64 ": %s", reader->path,
                 reader->csv.line, text);
}

/* FNV-1a, to know a changed file from one that is the same. */
static uint64_t hash(uint64_t before, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        before = (before ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    return before;
}

/* More of the file. 0, WRONG or -ENOMEM. */
static int fill(struct reader *reader)
{
    struct tickers *tickers = reader->collector->tickers;
    ssize_t n;

    memmove(reader->bytes, reader->bytes + reader->start, reader->end - reader->start);
    reader->end -= reader->start;
    reader->start = 0;
    do
        n = read(reader->fd, reader->bytes + reader->end, sizeof(reader->bytes) - reader->end);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ENOMEM ? -ENOMEM
                               : fault(reader->collector, FILE_SETTING, "%s: cannot be read: %s",
                                       reader->path, strerror(errno));
    tickers->file_hash = hash(tickers->file_hash, reader->bytes + reader->end, (size_t)n);
    reader->end += (size_t)n;
    reader->size += (size_t)n;
    reader->ended = n == 0;
    if (reader->size > FILE_SIZE_MAX)
        return fault(reader->collector, FILE_SETTING, "%s: the file is larger than %zu bytes",
                     reader->path, FILE_SIZE_MAX);
    return 0;
}

/* Which columns there are. Others may be there, too, for other programs. */
static int take_header(struct reader *reader)
{
    const char *twice = NULL;

    reader->has_header = true;
    reader->name_column = csv_column(&reader->record, "ticker");
    if (reader->name_column == CSV_NONE)
        return fault_line(reader, "the header has no column ticker");
    if (reader->name_column == CSV_TWICE)
        twice = "ticker";
    for (unsigned i = 0; i < SETTINGS_TICKER_KEY_COUNT; i++) {
        reader->columns[i] = csv_column(&reader->record, settings_ticker_table[i].key);
        if (reader->columns[i] == CSV_TWICE)
            twice = settings_ticker_table[i].key;
    }
    return twice ? fault_line(reader, "the header has the column %s twice", twice) : 0;
}

/* The text of a column, or "" if it has none in this line. False: it is too long. */
static bool copy_value(const struct reader *reader, int column, size_t size_max, char *text)
{
    const struct csv_field *field = &reader->record.fields[MAX(column, 0)];

    text[0] = '\0';
    if (column < 0 || (unsigned)column >= reader->record.count)
        return true;
    if (field->size > size_max || memchr(field->bytes, '\0', field->size))
        return false;
    memcpy(text, field->bytes, field->size);
    text[field->size] = '\0';
    return true;
}

#define VALUE_SIZE_MAX 60

/* All that is wrong with the values of a line is told. 0 or WRONG. */
static int read_values(struct reader *reader, const char *name, struct settings_ticker *values,
                       bool has[SETTINGS_TICKER_KEY_COUNT])
{
    int result = 0;

    for (unsigned i = 0; i < SETTINGS_TICKER_KEY_COUNT; i++) {
        const struct config_setting *setting = &settings_ticker_table[i];
        char text[VALUE_SIZE_MAX + 1], why[CONFIG_WHY_MAX];

        if (!copy_value(reader, reader->columns[i], VALUE_SIZE_MAX, text))
            result = fault_line(reader, "%s: %s: more than %d characters, or a NUL byte", name,
                                setting->key, VALUE_SIZE_MAX);
        else if (text[0] != '\0' && !config_read_value(setting, text, values, why))
            result = fault_line(reader, "%s: %s: %s", name, setting->key, why);
        else
            has[i] = text[0] != '\0';
    }
    return result;
}

static int take_line(struct reader *reader)
{
    struct tickers *tickers = reader->collector->tickers;
    bool has[SETTINGS_TICKER_KEY_COUNT] = {0};
    struct settings_ticker values = {0};
    char name[SETTINGS_TICKER_NAME_MAX + 1];
    size_t index;
    int r;

    if (!copy_value(reader, reader->name_column, SETTINGS_TICKER_NAME_MAX, name) ||
        !config_is_name(name, strlen(name)))
        return fault_line(reader,
                          "field %d cannot be a ticker (1 to %d characters, of printable ASCII "
                          "without spaces, quotes, commas and semicolons)",
                          reader->name_column + 1, SETTINGS_TICKER_NAME_MAX);
    r = read_values(reader, name, &values, has);
    if (r != 0)
        return r;
    r = enter(tickers, reader->collector->settings, name, &index);
    if (r < 0)
        return r;
    if (r > 0) {
        reader->ended = true; /* once is enough */
        reader->start = reader->end;
        return fault_full(reader->collector, FILE_SETTING);
    }
    if (reader->lines[index] > 0)
        return fault_line(reader, "%s is in line %u, too", name, reader->lines[index]);
    reader->lines[index] = (uint32_t)reader->csv.line;
    refine(&tickers->tickers[index], &values, has);
    return 0;
}

/* The next line, of which there is a record, or a fault. */
static int take_record(struct reader *reader)
{
    const struct csv_record *record = &reader->record;

    if (record->fault[0])
        return fault_line(reader, "%s", record->fault);
    if (record->count == 0)
        return 0;
    return reader->has_header ? take_line(reader) : take_header(reader);
}

/* 0, WRONG or -ENOMEM. A header that is wrong makes every line wrong. */
static int read_lines(struct reader *reader)
{
    int result = 0, r;

    for (;;) {
        size_t used;
        bool found = csv_next(&reader->csv, reader->bytes + reader->start,
                              reader->end - reader->start, reader->ended, &used, &reader->record);

        reader->start += used;
        if (found) {
            bool is_header = !reader->has_header;

            r = take_record(reader);
            if (r < 0 || (r > 0 && is_header) || reader->faults >= FAULTS_MAX)
                return r;
            result = MAX(result, r);
            continue;
        }
        if (reader->ended)
            break;
        r = fill(reader);
        if (r != 0)
            return r;
    }
    if (!reader->has_header)
        return fault(reader->collector, FILE_SETTING, "%s: the file has no header", reader->path);
    return result;
}

static int take_file(const struct collector *collector)
{
    _cleanup_free_ struct reader *reader = NULL;
    const char *path = collector->settings->market.tickers_file;
    _cleanup_close_ int fd = -1;
    struct stat status;

    if (!path)
        return 0;
    reader = calloc(1, sizeof(*reader));
    if (!reader)
        return -ENOMEM;
    /* Without waiting, should it be a FIFO. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) < 0)
        return fault(collector, FILE_SETTING, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return fault(collector, FILE_SETTING, "%s: cannot be read: Not a regular file", path);
    reader->collector = collector;
    reader->path = path;
    reader->fd = fd;
    collector->tickers->file_hash = UINT64_C(0xcbf29ce484222325);
    return read_lines(reader);
}

/* ---- Sections ---- */

static int take_sections(const struct collector *collector, const struct config *config)
{
    struct tickers *tickers = collector->tickers;

    for (size_t i = 0; i < config->named.count; i++) {
        const struct config_section *section = &config->named.sections[i];
        bool has[SETTINGS_TICKER_KEY_COUNT];
        size_t index;
        int r = enter(tickers, collector->settings, section->name, &index);

        if (r != 0)
            return r < 0 ? r : fault_full(collector, NULL);
        for (unsigned key = 0; key < SETTINGS_TICKER_KEY_COUNT; key++)
            has[key] = section->origins[key] != NULL;
        refine(&tickers->tickers[index], section->values, has);
    }
    return 0;
}

/* ---- All of them ---- */

int tickers_init(struct tickers *tickers, const struct config *config,
                 const struct settings *settings,
                 void (*tell)(const char *setting, const char *text))
{
    const struct collector collector = {tickers, settings, tell};
    int r, result;

    *tickers = (struct tickers){0};
    result = take_names(&collector);
    r = result < 0 ? result : take_file(&collector);
    result = r < 0 ? r : MAX(result, r);
    r = result < 0 ? result : take_sections(&collector, config);
    result = r < 0 ? r : MAX(result, r);
    if (result != 0 || tickers->count > 0 || settings->market.feed != FEED_KIND_WALK)
        return result;
    for (size_t i = 0; i < ELEMENTSOF(defaults) && result == 0; i++) {
        size_t index;

        result = enter(tickers, settings, defaults[i], &index);
    }
    return result;
}

void tickers_deinit(struct tickers *tickers)
{
    for (size_t i = 0; i < tickers->count; i++)
        free((char *)tickers->tickers[i].name);
    free(tickers->tickers);
    names_deinit(&tickers->names);
    *tickers = (struct tickers){0};
}
