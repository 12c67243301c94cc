/*
 * The metrics of stockd: one table, and where each value is read.
 */
#pragma once

#include "base/loop.h"
#include "base/metrics.h"
#include "exchange.h"
#include "listeners.h"
#include "rpc/server.h"
#include "services/stock.h"

/* What the families read; the `context` of families_render(). */
struct families_context {
    struct loop *loop;
    struct server *server;
    struct stock_service *stock;
    const struct listeners *listeners;
    const struct exchange *exchange; /* it may have no feed */
};

/* As metrics_render_program(), with stockd's table; `context` is a struct families_context. */
int families_render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size);
