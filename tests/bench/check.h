#pragma once

/*
 * Checks that what a server streams are real updates, so that no server can look fast by sending
 * something else. The message is decoded by hand: the check runs beside the measurement, on the CPU
 * of the load, and has to be cheap.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A StockUpdate of proto/stockservice.proto, without copies of its texts. */
struct update {
    double price;
    double change;
    double change_percent;
    double open_price;
    double high_price;
    double low_price;
    int64_t volume;
    int64_t market_cap;
    size_t ticker_bytes;
    size_t timestamp_bytes;
};

/* Decodes the `bytes` at `data`. Returns false if they are no StockUpdate. */
bool update_parse(const uint8_t *data, size_t bytes, struct update *ret_update);

/*
 * Returns NULL if every field of `update` is as proto/stockservice.proto says, else what is wrong.
 * `before` is the update directly before it in the same stream, or NULL if that is not known.
 */
const char *update_fault(const struct update *update, const struct update *before);
