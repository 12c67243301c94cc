/*
 * The listeners of /metrics that a command has, with this program's families.
 */
#pragma once

#include "base/config.h"
#include "base/exporter.h"
#include "client/client.h"

struct scrape {
    struct exporter *exporters[CONFIG_ENDPOINTS_MAX];
    struct client *client;
};

/*
 * Serves the client's stats on all of the endpoints, and tells where; `scrape` is zeroed memory.
 * What cannot be had is told, and is a failure only if a person has `asked` for these addresses:
 * 0 or a negative errno.
 */
int scrape_start(struct scrape *scrape, uv_loop_t *loop, const struct config_endpoints *endpoints,
                 bool asked, struct client *client);

/* Zeroed memory is allowed. The caller runs the loop once more before the memory goes. */
void scrape_stop(struct scrape *scrape);
