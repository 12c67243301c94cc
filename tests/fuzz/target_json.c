/*
 * Lines of JSON from whoever writes to the market's pipe. What must hold: what is taken is a quote,
 * whatever was written; what is not, is said in words; and a quote that is written once more is the
 * same quote.
 */
#include "base/util.h"
#include "fuzz.h"
#include "market/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

static void check_quote(const struct market_quote *quote)
{
    CHECK(isfinite(quote->price) && quote->price > 0);
    CHECK(quote->high == 0 || (isfinite(quote->high) && quote->high >= quote->price));
    CHECK(quote->low == 0 || (quote->low > 0 && quote->low <= quote->price));
    CHECK(quote->volume >= 0 && quote->market_cap >= 0);
    CHECK(quote->timed || quote->second == 0);
}

/* Of the ticker only what needs no escapes: the market takes no other. */
static bool is_plain(const char *ticker)
{
    for (; *ticker; ticker++)
        if (*ticker <= ' ' || *ticker > '~' || *ticker == '"' || *ticker == '\\')
            return false;
    return true;
}

static void check_again(const struct json_update *update)
{
    const struct market_quote *quote = &update->quote;
    char text[512], error[FEED_ERROR_MAX];
    struct json_update again;
    int size;

    if (!is_plain(update->ticker))
        return;
    size = snprintf(
        text, sizeof(text), "{\"ticker\":\"%s\",\"price\":%.17g,\"volume\":%lld,\"marketCap\":%lld",
        update->ticker, quote->price, (long long)quote->volume, (long long)quote->market_cap);
    if (quote->high > 0)
        size += snprintf(text + size, sizeof(text) - (size_t)size, ",\"high\":%.17g", quote->high);
    if (quote->low > 0)
        size += snprintf(text + size, sizeof(text) - (size_t)size, ",\"low\":%.17g", quote->low);
    size += snprintf(text + size, sizeof(text) - (size_t)size, "}");
    /* An integer of more than 64 bits is none to jansson, and %.17g may write a real as one. */
    if (quote->price >= 1e18 || quote->high >= 1e18 || quote->low >= 1e18)
        return;
    CHECK(json_update_parse(text, (size_t)size, &again, error) == 0);
    CHECK(strcmp(again.ticker, update->ticker) == 0);
    CHECK(again.quote.price == quote->price && again.quote.high == quote->high &&
          again.quote.low == quote->low);
    CHECK(again.quote.volume == quote->volume && again.quote.market_cap == quote->market_cap);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *line = fuzz_copy(bytes, size, false);
    struct json_update update;
    char error[FEED_ERROR_MAX] = "";
    int r = json_update_parse(line, size, &update, error);

    CHECK(r == 0 || r == JSON_FAULT);
    if (r == 0) {
        CHECK(strlen(update.ticker) >= 1 && strlen(update.ticker) <= MARKET_TICKER_SIZE_MAX);
        check_quote(&update.quote);
        check_again(&update);
    } else {
        CHECK(error[0] != '\0' && strlen(error) < sizeof(error));
    }
    free(line);
    return 0;
}
