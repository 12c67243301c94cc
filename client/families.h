/*
 * The client's metrics: one table that says for each family its name, type, help, and what it
 * reads.
 */
#pragma once

#include "base/metrics.h"
#include "client/stats.h"

/* As metrics_render_program(), with the client's table; `context` is a struct stats. */
int client_families_render(void *context, enum metrics_format format, char **ret_text,
                           size_t *ret_size);
