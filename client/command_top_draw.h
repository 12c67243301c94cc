/*
 * The picture of `stock-client top`: what the stream is like above, the table, and keys below.
 */
#pragma once

#include "client/command_top_keys.h"
#include "client/command_top_model.h"
#include "client/tally.h"

#include <stdbool.h>
#include <stdint.h>

enum top_link {
    TOP_CONNECTING,
    TOP_CONNECTED,
    TOP_LOST, /* and tries again */
};

struct top_picture {
    struct top_model *model;
    struct top_keys *keys;
    const struct tally *tally;

    const char *server; /* as it was given */
    enum top_link link;
    const char *why;         /* LOST: what happened, in words that may be the server's */
    uint64_t retry_ms;       /* LOST: the next attempt begins so soon */
    uint64_t reconnects;     /* connections after the first */
    uint64_t unprocessed;    /* bytes that have come and wait here */
    uint64_t window;         /* as many of them stop the server */
    double updates_a_second; /* over the last seconds */
    double bytes_a_second;
    uint64_t now_ns; /* since the Unix epoch */
    uint64_t now_ms; /* on the loop's clock */
};

/* Draws it on the screen and shows it. 0; 1 if the terminal takes nothing at the moment; -ENOMEM.
 */
int top_draw(const struct top_picture *picture);
