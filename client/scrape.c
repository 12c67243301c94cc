#include "client/scrape.h"

#include "base/address.h"
#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "client/families.h"

#include <string.h>

static bool is_ready(void *context)
{
    const struct scrape *scrape = context;

    return client_is_connected(scrape->client);
}

static int render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size)
{
    const struct scrape *scrape = context;

    return client_families_render(scrape->client->stats, format, ret_text, ret_size);
}

/* The fields of both failures below. */
#define METRICS_FAILURE(address, error)                                                            \
    LOG_EVENT(METRICS_FAILED), {"STOCKD_ADDRESS", (address)},                                      \
    {                                                                                              \
        "STOCKD_ERROR", strerror(-(error))                                                         \
    }

static int start_exporter(struct scrape *scrape, uv_loop_t *loop, const struct endpoint *endpoint,
                          struct exporter **ret_exporter, bool asked)
{
    const struct exporter_options options = {
        .program = "stock-client",
        .version = STOCKD_VERSION,
        .render = render,
        .ready = is_ready,
        .context = scrape,
    };
    const struct sockaddr *address = (const struct sockaddr *)&endpoint->address;
    struct sockaddr_storage bound;
    char text[ADDRESS_TEXT_MAX];
    int r = exporter_new(ret_exporter, loop, endpoint, &options);

    if (r < 0 && !asked) {
        log_event(LOG_WARNING, log_fields(METRICS_FAILURE(address_format(address, text), r)),
                  "no metrics on %s: %s (--metrics gives another address, --no-metrics none)", text,
                  strerror(-r));
        return 0;
    }
    if (r < 0) {
        log_event(LOG_ERR, log_fields(METRICS_FAILURE(address_format(address, text), r)),
                  "cannot serve metrics on %s: %s", text, strerror(-r));
        return r;
    }
    if (exporter_address(*ret_exporter, &bound) == 0) {
        (void)address_format((const struct sockaddr *)&bound, text);
        log_event(LOG_INFO, log_fields(LOG_EVENT(METRICS_SERVED), {"STOCKD_ADDRESS", text}),
                  "metrics on http://%s/metrics", text);
    }
    return 0;
}

int scrape_start(struct scrape *scrape, uv_loop_t *loop, const struct config_endpoints *endpoints,
                 bool asked, struct client *client)
{
    scrape->client = client;
    for (unsigned i = 0; i < endpoints->count; i++) {
        int r =
            start_exporter(scrape, loop, &endpoints->endpoints[i], &scrape->exporters[i], asked);

        if (r < 0)
            return r;
    }
    return 0;
}

void scrape_stop(struct scrape *scrape)
{
    for (size_t i = 0; i < ELEMENTSOF(scrape->exporters); i++)
        scrape->exporters[i] = exporter_free(scrape->exporters[i]);
}
