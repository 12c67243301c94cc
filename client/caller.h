/*
 * Calls one after another over one connection, for commands that ask something and then end. Time
 * is limited, and nothing is tried twice.
 *
 *     dialling --> connected: the owner calls --> message ... --> ended: the owner calls again
 *                                                                 or ends
 */
#pragma once

#include "base/loop.h"
#include "client/call.h"
#include "client/client.h"
#include "client/deframer.h"
#include "client/dial.h"
#include "client/stats.h"
#include "client/subscribe_options.h"

#include <stdbool.h>
#include <uv.h>

struct caller;

struct caller_ops {
    /* The connection is there: caller_call() begins the first call. */
    void (*connected)(struct caller *caller);

    /*
     * A message of the call has come. False: it is none that the call may send, which ends the call
     * with INTERNAL. It may call caller_end().
     */
    bool (*message)(struct caller *caller, const uint8_t *message, size_t size);

    /* The call is over with `status` and a text, the server's or this side's. Calls again, or ends.
     */
    void (*ended)(struct caller *caller, enum wire_status status, const char *text);

    /* There is no connection, for this reason; what follows is the end. */
    void (*failed)(struct caller *caller, const char *why);

    /* The time is over, `connected` or not. The same. */
    void (*late)(struct caller *caller);
};

struct caller {
    const struct caller_ops *ops;
    const struct subscribe_options *options;

    uv_loop_t uv;
    struct loop loop;
    struct stats stats;
    struct dial dial;
    struct connection *connection;
    struct client_call call;
    struct client_call_request request;
    uint8_t *request_bytes;
    struct deframer deframer;
    struct wheel_timer late;
    struct wheel_timer goodbye;
    struct loop_task settle;
    uv_signal_t signals[3];
    bool established;
    bool calling; /* `call` has begun, and its end has not been told */
    bool ending;
    int exit_code;
};

/*
 * Runs it in zeroed memory in which `ops` and `options` were set, to its end: with the options'
 * target, credentials and time. The exit code, which is 3 without a connection unless caller_end()
 * says otherwise.
 */
int caller_run(struct caller *caller);

/* Begins a call; the message is packed. Only while none is under way. */
void caller_call(struct caller *caller, const char *path, const ProtobufCMessage *request);

/* Ends it all; the first exit code stands. */
void caller_end(struct caller *caller, int exit_code);
