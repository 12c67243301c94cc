/*
 * Nothing that is in a market comes unchecked from outside: what this file lets pass is what a
 * StockUpdate promises.
 */
#include "market/feed_quote.h"

#include <math.h>

/* Beyond what anything costs in anything, and so far from the ends of what a double can be that a
 * price in percent of any other is finite. */
#define PRICE_MIN 1e-100
#define PRICE_MAX 1e100

const char *feed_quote_check(const struct market_quote *quote)
{
    if (!isfinite(quote->price) || quote->price <= 0)
        return "the price is not above 0";
    if (quote->price < PRICE_MIN || quote->price > PRICE_MAX)
        return "the price is not in the range of 1e-100 to 1e100";
    if (!isfinite(quote->high) || quote->high < 0 ||
        (quote->high > 0 && quote->high < quote->price))
        return "the highest price is below the price";
    if (!isfinite(quote->low) || quote->low < 0 || quote->low > quote->price)
        return "the lowest price is above the price, or not above 0";
    return NULL;
}

bool feed_quote_whole(double value, int64_t *ret_whole)
{
    /* Also false for what is not a number. */
    if (!(value >= 0 && value < 0x1p63))
        return false;
    *ret_whole = (int64_t)rint(value);
    return true;
}
