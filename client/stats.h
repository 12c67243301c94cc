/*
 * What the client counts, for /metrics and for the summary at its end.
 */
#pragma once

#include "net/connection.h"
#include "proto/wire.h"

#include <stdint.h>

/* X(identifier, label): how an attempt to connect ended. */
#define CONNECT_OUTCOMES(X)                                                                        \
    X(ESTABLISHED, "established")           /* the server's SETTINGS came */                       \
    X(RESOLVE_FAILED, "resolve_failed")     /* the host has no address */                          \
    X(CONNECT_FAILED, "connect_failed")     /* no address took the connection */                   \
    X(TLS_FAILED, "tls_failed")             /* no TLS, no HTTP/2 over it, a bad certificate */     \
    X(HANDSHAKE_FAILED, "handshake_failed") /* what answered did not speak HTTP/2 */               \
    X(TIMED_OUT, "timed_out")

enum connect_outcome {
#define X(identifier, label) CONNECT_##identifier,
    CONNECT_OUTCOMES(X)
#undef X
        CONNECT_OUTCOME_COUNT,
};

extern const char *const connect_outcome_labels[CONNECT_OUTCOME_COUNT];

/* X(identifier, label): what a call that asked to go on where another ended began with. */
#define RESUME_OUTCOMES(X)                                                                         \
    X(CONTINUED, "continued") /* what came next */                                                 \
    X(GAP, "gap")             /* word of what is missing, and a snapshot */

enum resume_outcome {
#define X(identifier, label) RESUME_##identifier,
    RESUME_OUTCOMES(X)
#undef X
        RESUME_OUTCOME_COUNT,
};

extern const char *const resume_outcome_labels[RESUME_OUTCOME_COUNT];

struct stats {
    uint64_t connects_total[CONNECT_OUTCOME_COUNT];
    uint64_t started_total;                    /* calls */
    uint64_t handled_total[WIRE_STATUS_COUNT]; /* calls, by the status that they ended with */
    uint64_t msg_sent_total;                   /* requests that the kernel has */
    uint64_t msg_received_total;               /* updates that were taken up to be processed */
    uint64_t updates_received_total;           /* updates that have been processed */
    uint64_t gaps_total;                       /* of these, how many did not follow */
    uint64_t unprocessed_bytes;                /* received, and no credit given back: now */
    struct connection_stats connection;

    const char *method; /* that is called; NULL: GetUpdates */

    /* Of Subscribe. */
    uint64_t events_received_total; /* that have been processed */
    uint64_t conflated_total;       /* updates, as the server told */
    uint64_t dropped_total;         /* the same */
    uint64_t missed_total;          /* the same, of gaps whose size is known */
    uint64_t market_gaps_total;     /* told by the server */
    uint64_t resumes_total[RESUME_OUTCOME_COUNT];
    double lag_seconds; /* how old the last update was when it was taken up */
};
