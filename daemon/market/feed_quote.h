/*
 * What makes numbers a quote, for whoever reads some: a price is a price, whatever it was written
 * in.
 */
#pragma once

#include "market/market.h"

/* NULL, or what is wrong with the quote. A high or low of 0 is none. */
const char *feed_quote_check(const struct market_quote *quote);

/* A number of shares or dollars, rounded to a whole one. False if it is negative or too large. */
bool feed_quote_whole(double value, int64_t *ret_whole);
