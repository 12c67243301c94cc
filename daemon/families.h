/*
 * The metrics of stockd: one table, and where each value is read.
 */
#pragma once

#include "base/loop.h"
#include "base/metrics.h"
#include "rpc/server.h"
#include "services/stock.h"

/* What the families read; the `context` of metrics_render() for this table. */
struct families_context {
    struct loop *loop;
    struct server *server;
    struct stock_service *stock;
};

extern const struct metric_family families[];
extern const size_t families_count;

/* Renders them, and the process_* families. `context` is a struct families_context. As
 * metrics_render(). */
int families_render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size);
