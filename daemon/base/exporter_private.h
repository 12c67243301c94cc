/*
 * What the two halves of the scrape endpoint share: exporter.c, with its connections and its life,
 * and exporter_pages.c, with its answers.
 */
#pragma once

#include "base/acceptor.h"
#include "base/exporter.h"
#include "base/log.h"

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define EXPORTER_CONNECTIONS_MAX 64

/* A client's connection; `fd` is -1 in an unused slot. */
struct exporter_slot {
    int fd;
    uint64_t used_at;                /* exporter->clock of its last request, or of its start */
    struct credentials *credentials; /* that it began with; NULL without TLS */
    bool asked;                      /* had a request: its TLS handshake is over */
    bool evicted;
};

struct exporter {
    struct exporter_options options;
    struct MHD_Daemon *daemon;
    struct acceptor *acceptor;
    uv_poll_t daemon_poll;   /* libmicrohttpd's epoll descriptor */
    uv_timer_t daemon_timer; /* MHD_get_timeout() */
    uv_idle_t daemon_again;  /* the same, where it is 0: in the loop's next turn */
    unsigned handles;        /* that are initialised and not yet closed, the acceptor as one */
    bool closing;
    bool tls;
    uint64_t refused;
    uint64_t clock;          /* counts connections and requests */
    unsigned unasked;        /* TLS connections that had no request yet */
    uint64_t eager_start_ms; /* of the time in which `eager_runs` were made */
    unsigned eager_runs;
    struct log_limit accept_log;
    struct exporter_slot slots[EXPORTER_CONNECTIONS_MAX];
};

/* A request has come on it. */
void exporter_slot_used(struct exporter *exporter, struct exporter_slot *slot);

/* libmicrohttpd's MHD_AccessHandlerCallback; `user` is the exporter. */
enum MHD_Result exporter_on_request(void *user, struct MHD_Connection *connection, const char *path,
                                    const char *method, const char *version, const char *body,
                                    size_t *body_size, void **state);
