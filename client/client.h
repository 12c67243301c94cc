/*
 * The client as a whole: connects, calls GetUpdates or another method that streams, has what comes
 * processed, and does so again when the server went away, until something says that it is enough.
 *
 *     waiting --> dialling --> handshake --> calling --> settling --+--> stopping --> stopped
 *        ^            |            |                                |
 *        '------------+------------+--------------------------------'
 *
 * settling: the call is over on the wire, and what came before its end is still being processed.
 */
#pragma once

#include "client/backoff.h"
#include "client/call.h"
#include "client/connect_options.h"
#include "client/consumer.h"
#include "client/dial.h"
#include "client/program.h"
#include "client/stats.h"

/* Room for what went wrong, in words. */
#define CLIENT_PROBLEM_MAX (CALL_TEXT_MAX + TARGET_AUTHORITY_SIZE + 128)

struct client_options {
    struct connect_options connect; /* its credentials are borrowed */
    uint64_t window;
    uint64_t time_max_ms; /* 0: no limit */
    bool reconnect;
    bool retry_exhausted;                      /* also when the server says RESOURCE_EXHAUSTED */
    const struct client_call_request *request; /* borrowed */
};

struct client {
    struct client_options options;
    struct loop *loop;
    struct stats *stats;
    struct consumer *consumer;
    void (*stopped)(struct client *client);
    void *user; /* the owner's own */

    /* May be NULL: a call begins, is lost, or will be tried again. */
    void (*changed)(struct client *client);

    /* With client_event_ops; both as struct consumer_ops has them, the second may be NULL. */
    bool (*message)(struct client *client, const uint8_t *message, size_t size,
                    struct text *output);
    void (*settled)(struct client *client);

    struct dial dial;
    struct backoff backoff;
    struct connection *connection;
    uint64_t keepalive_ms;    /* of the next connection */
    uint64_t pings_before;    /* sent before this connection */
    uint64_t received_before; /* bytes, the same */
    uint32_t goaway_error;    /* that the server gave on this connection */
    bool established;         /* the connection's handshake is done */
    bool ever_established;
    bool calling; /* `call` has begun, and its end has not been dealt with */
    struct client_call call;
    char last_error[DIAL_ERROR_MAX];  /* why there was no connection the last time */
    char problem[CLIENT_PROBLEM_MAX]; /* why it tries again, or has failed */
    uint64_t retry_at_ms; /* on the loop's clock: the next attempt, while one is planned */

    struct wheel_timer retry;
    struct wheel_timer time_max;
    struct wheel_timer goodbye_limit;
    struct loop_task settle;
    bool stopping;
    bool has_stopped;
    enum exit_code exit_code;
    uint64_t stop_ns; /* on uv_hrtime()'s clock: when it was told to stop */
};

/*
 * Prepares zeroed memory in which `options`, `loop`, `stats`, `consumer` and `stopped` were set,
 * and begins. `client_consumer_ops` are the consumer's ops, its `user` is the client. `stopped` is
 * called once, at the end of a turn, when client_stop() has been called, by the client itself or
 * from outside, and everything is closed but a resolver that does not come back.
 */
void client_start(struct client *client);

extern const struct consumer_ops client_consumer_ops;

/* The same, but messages are for the client's owner: for methods other than GetUpdates. */
extern const struct consumer_ops client_event_ops;

/* Cancels the call, says goodbye, and stops. The first `exit_code` stands. */
void client_stop(struct client *client, enum exit_code exit_code);

/* Is a call open? */
static inline bool client_is_calling(const struct client *client)
{
    return client->calling && client->call.open && !client->stopping;
}

/* Is the connection up? */
bool client_is_connected(const struct client *client);
