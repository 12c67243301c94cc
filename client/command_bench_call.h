/*
 * One of the calls of `bench`: what it takes in is counted and forgotten. A fast one takes each
 * message when it comes; a slow one waits before each, and gives no credit meanwhile, as a consumer
 * with work to do would.
 */
#pragma once

#include "base/loop.h"
#include "client/call.h"
#include "client/command_bench_event.h"
#include "client/command_bench_report.h"
#include "client/deframer.h"

#include <sys/queue.h>

/* What all calls of a run have in common. */
struct bench_call_options {
    bool subscribe; /* else GetUpdates */
    struct client_call_request request;
    bool merged; /* by what the request says: only the newest update of a ticker may come */
    bool whole;  /* all tickers are wanted: no sequence number is missing unless that is told */
    uint64_t slow_delay_ms;
    const char *scheme;
    const char *authority;
};

struct bench_call {
    TAILQ_ENTRY(bench_call) link; /* its owner's */
    void *owner;
    const struct bench_call_options *options;
    struct loop *loop;
    struct bench_class *class;
    struct client_call call;
    bool slow;
    bool let_go; /* by bench_call_end() */
    struct deframer deframer;
    struct wheel_timer delay; /* of a slow one, before it takes its next message */
    uint64_t begun_ns;        /* on uv_hrtime()'s clock */
    uint64_t updates;
    uint64_t dropped; /* and told, since `sequence` */
    uint64_t sequence;
    double price;
    bool answered;   /* something has come */
    bool taken;      /* a message has been taken */
    bool positioned; /* `sequence` is known, or `price` */
};

TAILQ_HEAD(bench_calls, bench_call);

/*
 * Begins the call in zeroed memory in which owner, options, loop, class and slow were set. 0; 1 if
 * the connection takes no new streams; -ENOMEM. In the last two cases it is over.
 */
int bench_call_start(struct bench_call *call, struct connection *connection, struct stats *stats);

/* Ends it from this side: that is no failure. `close` follows. */
void bench_call_end(struct bench_call *call);

/* Counts what can be counted at its end only, as of now, and frees what it holds. */
void bench_call_deinit(struct bench_call *call);

static inline struct bench_call *bench_call_from_stream(struct stream *stream)
{
    return container_of(client_call_from_stream(stream), struct bench_call, call);
}

/* The functions of struct connection_ops for these calls, beside those of client/call.h. */
void bench_call_data(struct stream *stream, const uint8_t *bytes, size_t size);
