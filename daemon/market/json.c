/*
 * jansson reads a line into a tree; what is no update in it is told by its member.
 */
#include "market/json.h"

#include "market/csv.h"
#include "market/feed_quote.h"
#include "market/feed_time.h"

#include "base/util.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void release(json_t **json)
{
    json_decref(*json);
}

/* The member of one of these names, the first that is there; one that is null is not. */
static const json_t *member(const json_t *root, const char *const names[static 2],
                            const char **ret_name)
{
    for (unsigned i = 0; i < 2 && names[i]; i++) {
        const json_t *found = json_object_get(root, names[i]);

        if (found && !json_is_null(found)) {
            *ret_name = names[i];
            return found;
        }
    }
    return NULL;
}

static int fault(char error[static FEED_ERROR_MAX], const char *name, const char *what)
{
    (void)snprintf(error, FEED_ERROR_MAX, "%s: %s", name, what);
    return JSON_FAULT;
}

/* A number, as one or as a string; 0 if there is none. */
static int read_number(const json_t *root, const char *const names[static 2], double *ret_value,
                       char error[static FEED_ERROR_MAX])
{
    const char *name;
    const json_t *found = member(root, names, &name);
    struct csv_field text;

    *ret_value = 0;
    if (!found)
        return 0;
    if (json_is_number(found)) {
        *ret_value = json_number_value(found);
        return 0;
    }
    if (!json_is_string(found))
        return fault(error, name, "not a number");
    text = (struct csv_field){json_string_value(found), json_string_length(found)};
    return csv_number(&text, ret_value) ? 0 : fault(error, name, "not a number");
}

static int read_price(const json_t *root, const char *const names[static 2], double *ret_value,
                      char error[static FEED_ERROR_MAX])
{
    int r = read_number(root, names, ret_value, error);
    const char *name;

    if (r != 0)
        return r;
    if (member(root, names, &name) && !(*ret_value > 0))
        return fault(error, name, "not above 0");
    return 0;
}

static int read_whole(const json_t *root, const char *name, int64_t *ret_value,
                      char error[static FEED_ERROR_MAX])
{
    const json_t *found = json_object_get(root, name);
    double value;
    int r;

    /* As it is, without the detour that would cost its last digits. */
    if (json_is_integer(found) && json_integer_value(found) >= 0) {
        *ret_value = json_integer_value(found);
        return 0;
    }
    r = read_number(root, (const char *const[2]){name, NULL}, &value, error);
    if (r != 0)
        return r;
    return feed_quote_whole(value, ret_value) ? 0 : fault(error, name, "below 0, or 2^63 or more");
}

static int read_time(const json_t *root, struct market_quote *quote,
                     char error[static FEED_ERROR_MAX])
{
    static const char *const names[2] = {"time", "timestamp"};
    const char *name, *wrong;
    const json_t *found = member(root, names, &name);
    int64_t ns;

    if (!found)
        return 0;
    if (json_is_integer(found))
        wrong = feed_time_of_integer(json_integer_value(found), &ns);
    else if (json_is_real(found))
        wrong = feed_time_of_real(json_real_value(found), &ns);
    else if (json_is_string(found))
        wrong = feed_time_parse(json_string_value(found), json_string_length(found), &ns);
    else
        wrong = "neither a string nor a number";
    if (wrong)
        return fault(error, name, wrong);
    quote->timed = true;
    quote->second = feed_time_second(ns);
    return 0;
}

static int read_ticker(const json_t *root, struct json_update *update,
                       char error[static FEED_ERROR_MAX])
{
    const char *name = "ticker";
    const json_t *found = member(root, (const char *const[2]){"ticker", "symbol"}, &name);

    if (!found)
        return fault(error, name, "missing");
    if (!json_is_string(found))
        return fault(error, name, "not a string");
    if (json_string_length(found) == 0 || json_string_length(found) > MARKET_TICKER_SIZE_MAX)
        return fault(error, name, "not 1 to 32 bytes");
    memcpy(update->ticker, json_string_value(found), json_string_length(found) + 1);
    return 0;
}

static int read_update(const json_t *root, struct json_update *update,
                       char error[static FEED_ERROR_MAX])
{
    static const char *const price[2] = {"price"}, *const high[2] = {"high", "highPrice"},
                             *const low[2] = {"low", "lowPrice"};
    struct market_quote *quote = &update->quote;
    const char *name, *wrong;
    int r;

    *update = (struct json_update){0};
    if (!json_is_object(root))
        return fault(error, "column 1", "not an object");
    r = read_ticker(root, update, error);
    if (r != 0)
        return r;
    if (!member(root, price, &name))
        return fault(error, "price", "missing");
    if ((r = read_price(root, price, &quote->price, error)) != 0 ||
        (r = read_price(root, high, &quote->high, error)) != 0 ||
        (r = read_price(root, low, &quote->low, error)) != 0 ||
        (r = read_whole(root, "volume", &quote->volume, error)) != 0 ||
        (r = read_whole(root, "marketCap", &quote->market_cap, error)) != 0 ||
        (r = read_time(root, quote, error)) != 0)
        return r;
    wrong = feed_quote_check(quote);
    return wrong ? fault(error, update->ticker, wrong) : 0;
}

int json_update_parse(const char *line, size_t size, struct json_update *ret_update,
                      char error[static FEED_ERROR_MAX])
{
    json_error_t where = {0};
    _cleanup_(release) json_t *root = json_loadb(line, size, JSON_REJECT_DUPLICATES, &where);
    struct json_update update;
    int r;

    if (!root) {
        /* Without memory jansson says nothing at all of some failures. */
        if (where.text[0] == '\0' || json_error_code(&where) == json_error_out_of_memory)
            return -ENOMEM;
        (void)snprintf(error, FEED_ERROR_MAX, "column %d: %s", where.column, where.text);
        return JSON_FAULT;
    }
    r = read_update(root, &update, error);
    if (r == 0)
        *ret_update = update;
    return r;
}
