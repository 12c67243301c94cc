/*
 * A gRPC server: listeners, the connections they accept, and the calls on them, with the caps and
 * counters of all of it.
 */
#pragma once

#include "net/listener.h"
#include "rpc/call.h"

#include <sys/socket.h>

struct server_options {
    struct method_table methods; /* borrowed */
    uint64_t max_connections;
    uint32_t max_streams;       /* a connection */
    uint64_t max_streams_total; /* all connections together */
    uint32_t max_header_bytes;
    uint32_t max_message_bytes;
    uint64_t preface_timeout_ms;
    uint64_t request_timeout_ms;
};

struct server;

/* 0 or -ENOMEM. `options` is copied. */
int server_new(struct server **ret_server, struct loop *loop, const struct server_options *options);

/* Listens on one more address. 0 or a negative errno. *ret_address gets the real port. */
int server_listen(struct server *server, const struct sockaddr *address,
                  struct sockaddr_storage *ret_address);

/*
 * Stops: no connection is accepted any more, each call ends with UNAVAILABLE, each connection with
 * GOAWAY. `stopped` is called when all are gone, or after `timeout_ms` when those that are left
 * have been closed; never from inside this call.
 */
void server_stop(struct server *server, uint64_t timeout_ms, void (*stopped)(void *context),
                 void *context);

/* After server_stop(): closes the connections that are left without waiting; `stopped` follows. */
void server_hurry(struct server *server);

/* After `stopped`, or before anything was listened on. NULL is allowed; returns NULL. */
struct server *server_free(struct server *server);

/* Counters. */
struct connection_stats *server_connection_stats(struct server *server);
const struct call_server *server_calls(const struct server *server);
