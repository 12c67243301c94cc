/*
 * stock-client list: the tickers of a market and their last values. Two calls tell it all: the
 * tickers, those that have had no update included, and the last update of each.
 */
#include "client/caller.h"
#include "client/commands.h"
#include "client/print.h"
#include "client/session.h"
#include "client/tally.h"

#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "Usage: stock-client list [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "List tickers of the server at ADDRESS, " TARGET_DEFAULT " by default, or all of them, with\n"
    "their last values.\n"
    "\n"
    "  -o, --output FORMAT   print as text (the default), json or csv\n"
    "  -t, --max-time TIME   all of it may take TIME (30s)\n" OPTIONS_USAGE "\n"
    "stock-client(1) explains the columns, and the exit codes: 0 done, 1 call failed, 2 wrong\n"
    "usage, 3 no connection, 130 interrupted.\n";

static const char *const own_options[] = {"max-time", "output", NULL};

static const struct subscribe_command command = {
    .name = "list",
    .usage = usage,
    .options = own_options,
    .max_time = "30s",
};

struct list_command {
    struct caller caller;
    bool asked_for_values; /* the second call, after the one for tickers */
    Stockservice__ListTickersResponse *tickers;
    Stockservice__GetSnapshotResponse *values;
};

/* A line. */
struct row {
    const char *name;
    const Stockservice__Ticker *ticker;     /* NULL: the server's list does not have it */
    const Stockservice__MarketEvent *event; /* NULL: it has had no update */
    size_t order;
};

/* ---- Putting both answers together ---- */

static int by_name(const void *a, const void *b)
{
    const struct row *row_a = a;
    const struct row *row_b = b;
    int r = strcmp(row_a->name, row_b->name);

    return r ? r : (row_a->order > row_b->order) - (row_a->order < row_b->order);
}

static int by_order(const void *a, const void *b)
{
    const struct row *row_a = a;
    const struct row *row_b = b;

    return (row_a->order > row_b->order) - (row_a->order < row_b->order);
}

/* One of them for each name, with what all of them know; the first place counts. */
static size_t merge(struct row *rows, size_t count)
{
    size_t merged = 0;

    for (size_t i = 0; i < count; i++) {
        struct row *last = merged > 0 ? &rows[merged - 1] : NULL;

        if (last && strcmp(last->name, rows[i].name) == 0) {
            last->ticker = last->ticker ? last->ticker : rows[i].ticker;
            last->event = last->event ? last->event : rows[i].event;
        } else {
            rows[merged++] = rows[i];
        }
    }
    return merged;
}

/*
 * Rows in the order of the command line, or of the market. NULL without memory. What the second
 * answer has that the first did not have yet comes last.
 */
static struct row *make_rows(const struct list_command *list, size_t *ret_count)
{
    const Stockservice__SubscribeRequest *wanted = &list->caller.options.subscribe;
    size_t max = wanted->n_tickers + list->tickers->n_tickers + list->values->n_updates;
    struct row *rows = calloc(MAX(max, (size_t)1), sizeof(*rows));
    size_t count = 0;
    size_t kept = 0;

    if (!rows)
        return NULL;
    for (size_t i = 0; i < wanted->n_tickers; i++, count++)
        rows[count] = (struct row){.name = wanted->tickers[i], .order = count};
    for (size_t i = 0; i < list->tickers->n_tickers; i++, count++)
        rows[count] = (struct row){.name = list->tickers->tickers[i]->ticker,
                                   .ticker = list->tickers->tickers[i],
                                   .order = count};
    for (size_t i = 0; i < list->values->n_updates; i++) {
        const Stockservice__MarketEvent *event = list->values->updates[i];

        if (event->event_case != STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE)
            continue;
        rows[count] = (struct row){.name = event->update->ticker, .event = event, .order = count};
        count++;
    }
    qsort(rows, count, sizeof(*rows), by_name);
    count = merge(rows, count);
    /* With names on the command line only those are wanted. */
    for (size_t i = 0; i < count; i++)
        if (wanted->n_tickers == 0 || rows[i].order < wanted->n_tickers)
            rows[kept++] = rows[i];
    qsort(rows, kept, sizeof(*rows), by_order);
    *ret_count = kept;
    return rows;
}

/* ---- For people ---- */

/* Escaped, without quotes, and so cut that it is a column. */
#define NAME_BYTES_MAX 32

static void add_name(struct text *text, const char *name)
{
    struct text quoted = {0};
    size_t size;

    print_string(&quoted, PRINT_TEXT, name);
    if (!quoted.failed && quoted.size > 2) {
        size = MIN(quoted.size - 2, (size_t)NAME_BYTES_MAX);
        /* Not in the middle of a character. */
        while (size < quoted.size - 2 && ((unsigned char)quoted.bytes[1 + size] & 0xC0) == 0x80)
            size--;
        text_add(text, quoted.bytes + 1, size);
    }
    text_deinit(&quoted);
}

static size_t columns_of(const char *bytes, size_t size)
{
    size_t columns = 0;

    for (size_t i = 0; i < size; i++)
        columns += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return columns;
}

static size_t name_columns(const struct row *rows, size_t count)
{
    struct text text = {0};
    size_t columns = strlen("TICKER");

    for (size_t i = 0; i < count; i++) {
        text_take(&text, text.size);
        add_name(&text, rows[i].name);
        columns = MAX(columns, columns_of(text.bytes, text.size));
    }
    text_deinit(&text);
    return columns;
}

/* No number is so long that it would hide the others. */
static void add_number(struct text *text, int width, double value, bool sign)
{
    if (!(fabs(value) < 1e9))
        text_printf(text, " %*.3g", width, value);
    else if (sign)
        text_printf(text, " %+*.2f", width, value);
    else
        text_printf(text, " %*.2f", width, value);
}

static void add_line(struct text *text, const struct row *row, size_t columns, uint64_t now_ns)
{
    char age[TALLY_TEXT_MAX];
    char updates[TALLY_TEXT_MAX] = "-";
    size_t start = text->size;
    size_t used;

    add_name(text, row->name);
    used = columns_of(text->bytes + start, text->size - start);
    text_printf(text, "%*s", (int)(columns - MIN(used, columns)), "");
    if (row->ticker)
        (void)tally_count_text((double)row->ticker->updates, updates);
    if (row->event) {
        const Stockservice__StockUpdate *update = row->event->update;

        add_number(text, 12, update->price, false);
        add_number(text, 10, update->change, true);
        add_number(text, 8, update->changepercent, true);
        text_printf(text, " %10" PRId64, update->volume);
        (void)tally_time_text(tally_age_us(row->event, now_ns), age);
    } else {
        text_printf(text, " %12s %10s %8s %10s", "-", "-", "-", "-");
        (void)snprintf(age, sizeof(age), "-");
    }
    text_printf(text, " %8s %6s\n", updates, age);
}

static void add_table(struct text *text, const struct row *rows, size_t count)
{
    size_t columns = name_columns(rows, count);
    uint64_t now_ns = session_unix_ns();

    text_printf(text, "%-*s %12s %10s %8s %10s %8s %6s\n", (int)columns, "TICKER", "PRICE",
                "CHANGE", "CHANGE%", "VOLUME", "UPDATES", "AGE");
    for (size_t i = 0; i < count; i++)
        add_line(text, &rows[i], columns, now_ns);
}

/* ---- For programs ---- */

static uint64_t row_sequence(const struct row *row)
{
    return row->event ? row->event->sequence : row->ticker ? row->ticker->sequence : 0;
}

static void add_json(struct text *text, const struct list_command *list, const struct row *row)
{
    text_add_string(text, "{\"type\":\"ticker\",\"ticker\":");
    print_string(text, PRINT_JSON, row->name);
    text_printf(text, ",\"epoch\":\"%" PRIu64 "\",\"sequence\":\"%" PRIu64 "\"",
                list->values->epoch, row_sequence(row));
    text_printf(text, ",\"updates\":\"%" PRIu64 "\"", row->ticker ? row->ticker->updates : 0);
    text_printf(text, ",\"timeUnixNano\":\"%" PRIu64 "\",\"update\":",
                row->event ? row->event->time_unix_nano : 0);
    if (row->event)
        print_update_fields(text, PRINT_JSON, row->event->update);
    else
        text_add_string(text, "null");
    text_add_string(text, "}\n");
}

static void add_csv(struct text *text, const struct list_command *list, const struct row *row)
{
    text_printf(text, "%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",", list->values->epoch,
                row_sequence(row), row->ticker ? row->ticker->updates : 0,
                row->event ? row->event->time_unix_nano : 0);
    if (row->event) {
        print_update_fields(text, PRINT_CSV, row->event->update);
    } else {
        print_string(text, PRINT_CSV, row->name);
        for (unsigned i = 1; i < print_update_field_count; i++)
            text_add_char(text, ',');
    }
    text_add_char(text, '\n');
}

static void add_all(struct text *text, const struct list_command *list, const struct row *rows,
                    size_t count)
{
    enum print_format format = list->caller.options.format;

    if (format == PRINT_TEXT) {
        add_table(text, rows, count);
        return;
    }
    if (format == PRINT_CSV) {
        text_add_string(text, "epoch,sequence,updates,timeUnixNano,");
        print_header_fields(text, format);
        text_add_char(text, '\n');
    }
    for (size_t i = 0; i < count; i++) {
        if (format == PRINT_JSON)
            add_json(text, list, &rows[i]);
        else
            add_csv(text, list, &rows[i]);
    }
}

static void fail(struct list_command *list, int exit_code, const char *text)
{
    program_tell_failure(text);
    caller_end(&list->caller, exit_code);
}

static void print_all(struct list_command *list)
{
    struct text text = {0};
    size_t count = 0;
    struct row *rows = make_rows(list, &count);

    if (rows)
        add_all(&text, list, rows, count);
    if (!rows || text.failed)
        fail(list, EXIT_FAILED, strerror(ENOMEM));
    else
        caller_end(&list->caller, program_write(text.bytes, text.size));
    text_deinit(&text);
    free(rows);
}

/* ---- Calls ---- */

static void on_connected(struct caller *caller)
{
    Stockservice__ListTickersRequest request = STOCKSERVICE__LIST_TICKERS_REQUEST__INIT;

    caller_call(caller, "/" CALL_SERVICE "/ListTickers", &request.base);
}

/* One answer to each call, and no more. */
static bool on_message(struct caller *caller, const uint8_t *message, size_t size)
{
    struct list_command *list = container_of(caller, struct list_command, caller);

    if (list->asked_for_values ? (bool)list->values : (bool)list->tickers)
        return false;
    if (!list->asked_for_values) {
        list->tickers = stockservice__list_tickers_response__unpack(NULL, size, message);
        return list->tickers;
    }
    list->values = stockservice__get_snapshot_response__unpack(NULL, size, message);
    return list->values;
}

static void on_ended(struct caller *caller, enum wire_status status, const char *text)
{
    struct list_command *list = container_of(caller, struct list_command, caller);
    Stockservice__GetSnapshotRequest request = STOCKSERVICE__GET_SNAPSHOT_REQUEST__INIT;
    char error[CALL_TEXT_MAX + 64];

    if (status != WIRE_OK) {
        (void)snprintf(error, sizeof(error), "rpc error: code = %s desc = %s",
                       wire_status_name(status), text);
        fail(list, EXIT_FAILED, error);
    } else if (list->values) {
        print_all(list);
    } else if (!list->tickers || list->asked_for_values) {
        fail(list, EXIT_FAILED, "the server has ended the call without an answer");
    } else {
        list->asked_for_values = true;
        request.tickers = list->caller.options.subscribe.tickers;
        request.n_tickers = list->caller.options.subscribe.n_tickers;
        caller_call(caller, "/" CALL_SERVICE "/GetSnapshot", &request.base);
    }
}

static void on_failed(struct caller *caller, const char *why)
{
    struct list_command *list = container_of(caller, struct list_command, caller);
    char text[DIAL_ERROR_MAX + TARGET_AUTHORITY_SIZE + 32];

    (void)snprintf(text, sizeof(text), "cannot connect to %s: %s",
                   list->caller.options.client.connect.target.text, why);
    fail(list, EXIT_NO_CONNECTION, text);
}

static void on_late(struct caller *caller)
{
    struct list_command *list = container_of(caller, struct list_command, caller);
    char text[TARGET_AUTHORITY_SIZE + 100];

    (void)snprintf(text, sizeof(text), "%s from %s within %g s",
                   caller->established ? "no answer" : "no connection",
                   list->caller.options.client.connect.target.text,
                   (double)list->caller.options.client.time_max_ms / 1e3);
    fail(list, caller->established ? EXIT_FAILED : EXIT_NO_CONNECTION, text);
}

static const struct caller_ops ops = {
    .connected = on_connected,
    .message = on_message,
    .ended = on_ended,
    .failed = on_failed,
    .late = on_late,
};

int command_list(int argc, char *argv[])
{
    static struct list_command list;
    int exit_code;

    list.caller.ops = &ops;
    exit_code = caller_main(&list.caller, &command, argc, argv);
    if (list.tickers)
        stockservice__list_tickers_response__free_unpacked(list.tickers, NULL);
    if (list.values)
        stockservice__get_snapshot_response__free_unpacked(list.values, NULL);
    return exit_code;
}
