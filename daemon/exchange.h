/*
 * The market of this program with what belongs to it: its feed, its service, and the sweep that
 * keeps its limits.
 */
#pragma once

#include "base/loop.h"
#include "configuration.h"
#include "market/feed.h"
#include "market/market.h"
#include "services/market.h"

struct exchange_options {
    struct loop *loop;
    const struct configuration *configuration; /* lives as long as the exchange */

    /* The feed's state has changed. Never called from inside a function here. */
    void (*changed)(void *context);
    void *context;
};

/* Zeroed memory can be closed and deinitialised. */
struct exchange {
    struct loop *loop;
    struct market *market;
    struct feed *feed; /* NULL: none, or closed */
    enum feed_kind feed_kind;
    struct market_service *service;
    struct wheel_timer sweep;
    struct loop_task wake;
};

enum {
    EXCHANGE_WRONG = 1, /* the configuration; it was logged */
};

/* Makes the market, its tickers, its feed and its service. 0, -ENOMEM, or the above; what is there
 * then, is for exchange_close() and exchange_deinit() all the same. */
int exchange_init(struct exchange *exchange, const struct exchange_options *options);

/* What of another configuration can be put in force while the market lives, is. */
void exchange_configure(struct exchange *exchange, const struct configuration *configuration);

/* Does the market have a feed, and is that live? */
bool exchange_is_live(const struct exchange *exchange);

/* What is wrong with the feed, for a person, such as "pipe is gone"; NULL: nothing. `text`: room
 * for it. */
#define EXCHANGE_TROUBLE_MAX 64
const char *exchange_trouble(const struct exchange *exchange,
                             char text[static EXCHANGE_TROUBLE_MAX]);

/* Ends feed and sweep. The caller runs the loop once more. */
void exchange_close(struct exchange *exchange);

/* Frees the rest. Calls of the service must be over. */
void exchange_deinit(struct exchange *exchange);
