/*
 * What was recorded, once more. The file is read as it is needed, in one buffer of a fixed size, so
 * that it may be of any size. Times count from the first line: a line is published as long after it
 * as it was recorded, divided by the speed. One whose time is before that of a line above it is
 * late already, and is published at once: recordings of real trades have such lines, since trades
 * are reported late, and sorting them would need the whole file. They are counted, and the first is
 * told.
 *
 * A line that cannot be used is skipped, counted, and told by its number.
 */
#include "base/config.h"
#include "market/csv.h"
#include "market/feed_private.h"
#include "market/feed_quote.h"
#include "market/feed_time.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define BUFFER_SIZE (4 * CSV_RECORD_SIZE_MAX)

/* Of one turn, so that others have theirs: lines, and buffers that have no end of line in them. */
#define TURN_LINES_MAX 256
#define TURN_READS_MAX 4

/* What follows the last line when the file begins anew, if its lines are all of one moment. */
#define WRAP_NS 1000000000.0

/* A wait longer than this is one for ever, and no number overflows. */
#define WAIT_MS_MAX 1e15

/* X(identifier, names): columns. */
#define COLUMNS(X)                                                                                 \
    X(TICKER, "ticker|symbol")                                                                     \
    X(TIME, "time|timestamp")                                                                      \
    X(PRICE, "price|last")                                                                         \
    X(BID, "bid|bidPrice|bid_price")                                                               \
    X(ASK, "ask|askPrice|ask_price")                                                               \
    X(VOLUME, "volume|size")                                                                       \
    X(HIGH, "high|highPrice")                                                                      \
    X(LOW, "low|lowPrice")                                                                         \
    X(MARKET_CAP, "marketCap|market_cap")

enum column {
#define X(identifier, names) COLUMN_##identifier,
    COLUMNS(X)
#undef X
        COLUMN_COUNT,
};

static const char *const column_names[COLUMN_COUNT] = {
#define X(identifier, names) [COLUMN_##identifier] = (names),
    COLUMNS(X)
#undef X
};

/* The file. */
struct source {
    const char *file; /* borrowed */
    int fd;
    struct csv csv;
    size_t start; /* of what is not read yet, in `bytes` */
    size_t end;
    bool ended; /* nothing comes after `bytes` */
    int columns[COLUMN_COUNT];
    char bytes[BUFFER_SIZE];
};

/* A line that can be published. */
struct trade {
    char ticker[MARKET_TICKER_SIZE_MAX + 1];
    struct market_quote quote;
    int64_t ns;
    uint64_t line;
};

struct feed_replay {
    struct feed feed;
    struct source source;
    char *file;
    double speed;
    bool loop;

    struct wheel_timer timer; /* the next line is due */
    struct loop_task task;    /* there was more to do than fits into a turn */

    struct trade next;
    bool has_next;
    double began_ms;     /* when the first line of this pass was due */
    int64_t first_ns;    /* what the file says of it */
    int64_t latest_ns;   /* the latest of the pass so far */
    uint64_t pass_lines; /* published in this pass */
    bool told_late;      /* that lines are not in order */
};

enum {
    SOURCE_END = 1, /* of the file */
    SOURCE_LATER,   /* enough for this turn */
    SOURCE_FAULT,   /* a line that cannot be used */
};

static void source_close(struct source *source)
{
    if (source->fd >= 0)
        (void)close(source->fd);
    source->fd = -1;
}

/* More of the file. 0 or a negative errno. */
static int source_fill(struct source *source)
{
    ssize_t n;

    memmove(source->bytes, source->bytes + source->start, source->end - source->start);
    source->end -= source->start;
    source->start = 0;
    do
        n = read(source->fd, source->bytes + source->end, sizeof(source->bytes) - source->end);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    source->end += (size_t)n;
    source->ended = n == 0;
    return 0;
}

/* The next record that is not an empty line. 0, SOURCE_END, SOURCE_LATER, or a negative errno. */
static int source_record(struct source *source, struct csv_record *ret_record)
{
    unsigned reads = 0, empty = 0;
    size_t used;
    bool found;
    int r;

    for (;;) {
        found = csv_next(&source->csv, source->bytes + source->start, source->end - source->start,
                         source->ended, &used, ret_record);
        source->start += used;
        if (found && (ret_record->count > 0 || ret_record->fault[0]))
            return 0;
        if (found ? ++empty == TURN_LINES_MAX : reads == TURN_READS_MAX)
            return SOURCE_LATER;
        if (found)
            continue;
        if (source->ended)
            return SOURCE_END;
        r = source_fill(source);
        if (r < 0)
            return r;
        reads++;
    }
}

static int fault(char error[static FEED_ERROR_MAX], const char *format, ...) _printf_(2, 3);

static int fault(char error[static FEED_ERROR_MAX], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(error, FEED_ERROR_MAX, format, arguments);
    va_end(arguments);
    return SOURCE_FAULT;
}

/* Which columns there are. 0 or SOURCE_FAULT. */
static int read_header(struct source *source, const struct csv_record *header,
                       char error[static FEED_ERROR_MAX])
{
    int *columns = source->columns;

    if (header->fault[0])
        return fault(error, "%s", header->fault);
    for (unsigned i = 0; i < COLUMN_COUNT; i++) {
        columns[i] = csv_column(header, column_names[i]);
        if (columns[i] == CSV_TWICE)
            return fault(error, "the header has column %s twice", column_names[i]);
    }
    if (columns[COLUMN_TICKER] < 0)
        return fault(error, "the header has no column ticker or symbol");
    if (columns[COLUMN_TIME] < 0)
        return fault(error, "the header has no column time or timestamp");
    if (columns[COLUMN_PRICE] < 0 && (columns[COLUMN_BID] < 0 || columns[COLUMN_ASK] < 0))
        return fault(error, "the header has no column price or last, nor both bid and ask");
    return 0;
}

/* The value of a column; empty if there is none in this line. */
static struct csv_field value(const struct source *source, const struct csv_record *record,
                              enum column column)
{
    int index = source->columns[column];

    if (index < 0 || (unsigned)index >= record->count)
        return (struct csv_field){"", 0};
    return record->fields[index];
}

/* A number, 0 where there is none. */
static int read_number(const struct source *source, const struct csv_record *record,
                       enum column column, double *ret_value, char error[static FEED_ERROR_MAX])
{
    struct csv_field field = value(source, record, column);

    *ret_value = 0;
    if (field.size == 0 || csv_number(&field, ret_value))
        return 0;
    return fault(error, "%s: '%.*s' is not a number", column_names[column],
                 (int)MIN(field.size, 64), field.bytes);
}

static int read_whole(const struct source *source, const struct csv_record *record,
                      enum column column, int64_t *ret_value, char error[static FEED_ERROR_MAX])
{
    double number;
    int r = read_number(source, record, column, &number, error);

    if (r == 0 && !feed_quote_whole(number, ret_value))
        return fault(error, "%s: below 0, or 2^63 or more", column_names[column]);
    return r;
}

/* Of a quote, the price is in the middle. */
static int read_price(const struct source *source, const struct csv_record *record,
                      struct market_quote *quote, char error[static FEED_ERROR_MAX])
{
    double bid, ask;
    int r;

    if ((r = read_number(source, record, COLUMN_HIGH, &quote->high, error)) != 0 ||
        (r = read_number(source, record, COLUMN_LOW, &quote->low, error)) != 0)
        return r;
    if (value(source, record, COLUMN_PRICE).size > 0)
        return read_number(source, record, COLUMN_PRICE, &quote->price, error);
    if ((r = read_number(source, record, COLUMN_BID, &bid, error)) != 0 ||
        (r = read_number(source, record, COLUMN_ASK, &ask, error)) != 0)
        return r;
    if (value(source, record, COLUMN_BID).size == 0 || value(source, record, COLUMN_ASK).size == 0)
        return fault(error, source->columns[COLUMN_BID] < 0 || source->columns[COLUMN_ASK] < 0
                                ? "no price"
                                : "neither a price nor both bid and ask");
    if (bid <= 0 || ask <= 0)
        return fault(error, "%s: not above 0", bid <= 0 ? "bid" : "ask");
    quote->price = bid / 2 + ask / 2;
    /* There are moments when somebody bids more than another asks. */
    quote->high = fmax(bid, ask);
    quote->low = fmin(bid, ask);
    return 0;
}

/* 0 or SOURCE_FAULT. */
static int read_trade(const struct source *source, const struct csv_record *record,
                      struct trade *trade, char error[static FEED_ERROR_MAX])
{
    struct csv_field ticker = value(source, record, COLUMN_TICKER);
    struct csv_field when = value(source, record, COLUMN_TIME);
    const char *wrong;
    int r;

    *trade = (struct trade){.line = source->csv.line};
    if (record->fault[0])
        return fault(error, "%s", record->fault);
    if (ticker.size == 0)
        return fault(error, "no ticker");
    if (ticker.size > MARKET_TICKER_SIZE_MAX)
        return fault(error, "a ticker of more than %d bytes", MARKET_TICKER_SIZE_MAX);
    memcpy(trade->ticker, ticker.bytes, ticker.size);
    if (!config_is_name(trade->ticker, ticker.size))
        return fault(error, FEED_NO_TICKER, MARKET_TICKER_SIZE_MAX, trade->ticker,
                     MARKET_TICKER_SIZE_MAX);
    if (when.size == 0)
        return fault(error, "no time");
    wrong = feed_time_parse(when.bytes, when.size, &trade->ns);
    if (wrong)
        return fault(error, "'%.*s': %s", (int)MIN(when.size, 64), when.bytes, wrong);
    if ((r = read_price(source, record, &trade->quote, error)) != 0 ||
        (r = read_whole(source, record, COLUMN_VOLUME, &trade->quote.volume, error)) != 0 ||
        (r = read_whole(source, record, COLUMN_MARKET_CAP, &trade->quote.market_cap, error)) != 0)
        return r;
    wrong = feed_quote_check(&trade->quote);
    if (wrong)
        return fault(error, "%s", wrong);
    trade->quote.timed = true;
    trade->quote.second = feed_time_second(trade->ns);
    return 0;
}

/*
 * From the start of the file to its first line, which must be good: what is wrong with it is most
 * likely wrong with all. 0 or -EINVAL.
 */
static int source_begin(struct source *source, struct trade *ret_trade,
                        char error[static FEED_ERROR_MAX])
{
    struct csv_record record;
    char what[FEED_ERROR_MAX];
    bool header = true;
    int r;

    source->start = source->end = 0;
    source->ended = false;
    source->csv = (struct csv){0};
    if (lseek(source->fd, 0, SEEK_SET) < 0) {
        (void)snprintf(error, FEED_ERROR_MAX, "%s: %s", source->file, strerror(errno));
        return -EINVAL;
    }
    r = source_record(source, &record);
    if (r == 0)
        r = read_header(source, &record, what);
    if (r == 0) {
        header = false;
        r = source_record(source, &record);
    }
    if (r == 0)
        r = read_trade(source, &record, ret_trade, what);
    if (r == 0)
        return 0;
    if (r == SOURCE_FAULT)
        (void)snprintf(error, FEED_ERROR_MAX, "%s:%llu: %.384s", source->file,
                       (unsigned long long)source->csv.line, what);
    else if (r < 0)
        (void)snprintf(error, FEED_ERROR_MAX, "%s: %s", source->file, strerror(-r));
    else
        (void)snprintf(error, FEED_ERROR_MAX, "%s: there is no line %s", source->file,
                       header ? "with names of columns" : "behind the names of columns");
    return -EINVAL;
}

/* 0 or -EINVAL. */
static int source_open(struct source *source, const char *file, struct trade *ret_trade,
                       char error[static FEED_ERROR_MAX])
{
    struct stat status;

    source->file = file;
    /* Without waiting, should it be a FIFO. */
    source->fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (source->fd < 0 || fstat(source->fd, &status) < 0) {
        (void)snprintf(error, FEED_ERROR_MAX, "%s: %s", file, strerror(errno));
        return -EINVAL;
    }
    if (!S_ISREG(status.st_mode)) {
        (void)snprintf(error, FEED_ERROR_MAX, "%s: not a regular file", file);
        return -EINVAL;
    }
    (void)posix_fadvise(source->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return source_begin(source, ret_trade, error);
}

/* How much later than the first line of the pass `ns` is, in ms of this replay. */
static double offset_ms(const struct feed_replay *replay, int64_t ns)
{
    int64_t offset;

    if (__builtin_sub_overflow(ns, replay->first_ns, &offset))
        offset = ns > replay->first_ns ? INT64_MAX : INT64_MIN;
    return fmin((double)offset / 1e6 / replay->speed, WAIT_MS_MAX);
}

static void begin_pass(struct feed_replay *replay, double began_ms)
{
    replay->began_ms = began_ms;
    replay->first_ns = replay->latest_ns = replay->next.ns;
    replay->pass_lines = 0;
    replay->has_next = true;
}

/* The end of the file: the start again, or the end of the feed. */
static bool wrap(struct feed_replay *replay)
{
    char why[FEED_ERROR_MAX];
    double wait_ns = WRAP_NS, began_ms = 0;

    if (!replay->loop) {
        (void)snprintf(why, sizeof(why), "the end of %s", replay->file);
        feed_gone(&replay->feed, why);
        return false;
    }
    if (replay->speed > 0) {
        /* The first line follows the last as lines follow each other on average. */
        if (replay->pass_lines > 1 && replay->latest_ns > replay->first_ns)
            wait_ns = ((double)replay->latest_ns - (double)replay->first_ns) /
                      (double)(replay->pass_lines - 1);
        began_ms = replay->began_ms + fmax(offset_ms(replay, replay->latest_ns), 0) +
                   fmax(wait_ns / 1e6 / replay->speed, 1);
    }
    if (source_begin(&replay->source, &replay->next, why) < 0) {
        feed_gone(&replay->feed, why);
        return false;
    }
    begin_pass(replay, began_ms);
    replay->feed.stats.loops_total++;
    return true;
}

/* 0: there is a next line. SOURCE_FAULT: not yet, go on. Else there is none in this turn. */
static int find_next(struct feed_replay *replay)
{
    struct source *source = &replay->source;
    struct csv_record record;
    char what[FEED_ERROR_MAX];
    int r = source_record(source, &record);

    if (r == 0) {
        r = read_trade(source, &record, &replay->next, what);
        if (r == 0)
            replay->has_next = true;
        else
            feed_fault(&replay->feed, &(struct feed_place){replay->file, source->csv.line}, what);
    } else if (r == SOURCE_END) {
        r = wrap(replay) ? 0 : SOURCE_END;
    } else if (r < 0) {
        (void)snprintf(what, sizeof(what), "%.384s: %s", replay->file, strerror(-r));
        feed_gone(&replay->feed, what);
    }
    return r;
}

static void publish(struct feed_replay *replay)
{
    struct feed_place place = {replay->file, replay->next.line};

    if (replay->next.ns >= replay->latest_ns) {
        replay->latest_ns = replay->next.ns;
    } else {
        replay->feed.stats.late_total++;
        if (!replay->told_late)
            feed_remark(&replay->feed, &place,
                        "its time is before that of a line above it; lines that come late, as this "
                        "one, are published at once");
        replay->told_late = true;
    }
    replay->pass_lines++;
    replay->has_next = false;
    (void)feed_publish_name(&replay->feed, &place, replay->next.ticker, &replay->next.quote);
}

/* True if the next line is due; else a timer waits for it. */
static bool due(struct feed_replay *replay)
{
    struct loop *loop = replay->feed.options.loop;
    uint64_t now_ms = loop_now_ms(loop);
    double due_ms;

    if (replay->speed <= 0)
        return true;
    due_ms = replay->began_ms + fmax(offset_ms(replay, replay->next.ns), 0);
    if (due_ms <= (double)now_ms)
        return true;
    loop_arm(loop, &replay->timer, (uint64_t)ceil(due_ms - (double)now_ms), 0);
    /* That nothing was recorded for so long is no silence of the feed. */
    feed_expect(&replay->feed, (uint64_t)due_ms - replay->feed.updated_ms);
    return false;
}

static void run(struct feed_replay *replay)
{
    for (unsigned lines = 0; lines < TURN_LINES_MAX; lines++) {
        if (!replay->has_next) {
            int r = find_next(replay);

            if (r == SOURCE_LATER)
                break;
            if (r == SOURCE_FAULT)
                continue;
            if (r != 0) {
                source_close(&replay->source);
                return;
            }
        }
        if (!due(replay))
            return;
        publish(replay);
    }
    loop_queue(replay->feed.options.loop, &replay->task);
}

static void on_timer(struct wheel_timer *timer)
{
    run(container_of(timer, struct feed_replay, timer));
}

static void on_task(struct loop_task *task)
{
    struct feed_replay *replay = container_of(task, struct feed_replay, task);

    /* What the program did between making its feed and its first turn is no part of the replay. */
    if (replay->feed.stats.updates_total == 0 && replay->feed.stats.faults_total == 0)
        replay->began_ms = (double)loop_now_ms(replay->feed.options.loop);
    run(replay);
}

static void replay_free(struct feed *feed)
{
    struct feed_replay *replay = container_of(feed, struct feed_replay, feed);

    loop_disarm(feed->options.loop, &replay->timer);
    loop_cancel(feed->options.loop, &replay->task);
    feed_deinit(feed);
    source_close(&replay->source);
    free(replay->file);
    free(replay);
}

static const struct feed_ops ops = {.free = replay_free};

int feed_replay_new(struct feed **ret_feed, const struct feed_options *options,
                    const struct feed_replay_options *replay_options,
                    char error[static FEED_ERROR_MAX])
{
    _cleanup_free_ char *file = strdup(replay_options->file);
    _cleanup_free_ struct feed_replay *replay = calloc(1, sizeof(*replay));
    int r;

    if (!file || !replay)
        return -ENOMEM;
    r = source_open(&replay->source, file, &replay->next, error);
    if (r < 0) {
        source_close(&replay->source);
        return r;
    }
    replay->file = TAKE_PTR(file);
    replay->speed = replay_options->speed;
    replay->loop = replay_options->loop;
    replay->timer.fire = on_timer;
    replay->task.run = on_task;
    feed_init(&replay->feed, &ops, FEED_KIND_REPLAY, options);
    begin_pass(replay, (double)loop_now_ms(options->loop));
    loop_queue(options->loop, &replay->task);
    *ret_feed = &TAKE_PTR(replay)->feed;
    return 0;
}

int feed_replay_check(const struct feed_replay_options *replay_options,
                      char error[static FEED_ERROR_MAX])
{
    _cleanup_free_ struct source *source = malloc(sizeof(*source));
    struct trade first;
    int r;

    if (!source)
        return -ENOMEM;
    r = source_open(source, replay_options->file, &first, error);
    source_close(source);
    return r;
}
