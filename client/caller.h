/*
 * Calls one after another over one connection, for commands that ask something and then end. Time
 * is limited, and nothing is tried twice.
 *
 *     dialling --> connected: the owner calls --> message ... --> ended: the owner calls again
 *                                                                 or ends
 */
#pragma once

#include "client/call.h"
#include "client/client.h"
#include "client/deframer.h"
#include "client/dial.h"
#include "client/program.h"
#include "client/stats.h"
#include "client/subscribe_options.h"

#include <stdbool.h>

struct caller;

struct caller_ops {
    /* The options have been read: completes them. OPTIONS_RUN, or OPTIONS_WRONG after what is wrong
     * has been told. May be NULL. */
    int (*prepare)(struct caller *caller);

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
    struct subscribe_options options;

    struct program program;
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
    uint64_t received_before; /* bytes, before this connection */
    bool established;
    bool calling; /* `call` has begun, and its end has not been told */
    bool ending;
    int exit_code;
};

/*
 * The whole of a command, in zeroed memory in which `ops` was set: reads its options, and runs it
 * to its end, with the options' target, credentials and time. The exit code, which is 3 without a
 * connection unless caller_end() says otherwise.
 */
int caller_main(struct caller *caller, const struct subscribe_command *command, int argc,
                char *argv[]);

/* Begins a call; the message is packed. Only while none is under way. */
void caller_call(struct caller *caller, const char *path, const ProtobufCMessage *request);

/* Ends it all; the first exit code stands. */
void caller_end(struct caller *caller, int exit_code);
