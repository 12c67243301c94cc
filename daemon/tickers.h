/*
 * The tickers that the settings name, from all places that may name one: market.tickers, the lines
 * of market.tickers_file, and sections [ticker NAME]. What a place does not say of a ticker comes
 * from the places before it, and in the end from [market].
 */
#pragma once

#include "base/names.h"
#include "market/feed.h"
#include "settings.h"

/* Zeroed memory has none, and may be deinitialised. */
struct tickers {
    struct feed_ticker *tickers; /* in the order above; their names are owned */
    size_t count;
    uint64_t file_hash; /* of all that is in the file; 0: there is no file */
    struct names names; /* to indices, as soon as there is one */
};

/*
 * Collects them. What is wrong is told by `tell`, all of it, or enough; `setting` is that to
 * blame. If nobody names one, and there is a walk of them, there are some to have something to look
 * at. 0, 1 if something was wrong, or -ENOMEM. To be deinitialised in any case.
 */
int tickers_init(struct tickers *tickers, const struct config *config,
                 const struct settings *settings,
                 void (*tell)(const char *setting, const char *text));
void tickers_deinit(struct tickers *tickers);
