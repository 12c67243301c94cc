/*
 * An update as a line of JSON (RFC 8259), which any program can print:
 *
 *     {"ticker": "AAPL", "price": 150.25, "volume": 100, "time": "2026-01-31T09:30:00Z"}
 *
 * "high", "low" and "marketCap" may be there, too. What `stock-client --output json` prints can be
 * read: a number may be a string, "highPrice", "lowPrice" and "timestamp" mean the same as the
 * short names, and what else there is does not count. The only file that knows jansson.
 */
#pragma once

#include "market/feed.h"

struct json_update {
    char ticker[MARKET_TICKER_SIZE_MAX + 1]; /* not empty */
    struct market_quote quote;
};

/* What came of it. */
enum {
    JSON_FAULT = 1, /* it is not an update; what is wrong, and where, is in `error` */
};

/* Reads a line, with the end of it or without. 0, JSON_FAULT, or -ENOMEM. */
int json_update_parse(const char *line, size_t size, struct json_update *ret_update,
                      char error[static FEED_ERROR_MAX]);
