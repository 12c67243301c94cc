/*
 * A gRPC server: listeners, the connections they accept, and the calls on them, with the caps and
 * counters of all of it.
 */
#pragma once

#include "base/ranges.h"
#include "net/listener.h"
#include "net/tls.h"
#include "rpc/call.h"

#include <sys/socket.h>

struct server_options {
    struct method_table methods; /* borrowed */
    uint64_t max_connections;
    uint64_t max_streams_total; /* all connections together */
    uint32_t max_message_bytes;
    uint64_t request_timeout_ms;
    uint64_t handshake_timeout_ms; /* of TLS */

    /* Of each connection: its limits and times. Its loop, stats, ops, context and windows are the
     * server's to set, whatever stands there; the size of headers is that of each request, too. */
    struct connection_options connection;

    /* Who may connect. Borrowed; empty lists: everybody. Names are looked for in certificates that
     * were found good, on listeners with TLS. */
    const struct range *allow;
    size_t allow_count;
    char *const *allow_names;
    size_t allow_name_count;
    uint32_t max_connections_per_address; /* 0: no limit */
};

/* Counters of TLS handshakes. */
struct server_tls_stats {
    uint64_t handshakes; /* under way */
    uint64_t handshakes_total[TLS_OUTCOME_COUNT];
};

struct server;

/* 0 or -ENOMEM. `options` is copied; what it borrows lives until other options take its place. */
int server_new(struct server **ret_server, struct loop *loop, const struct server_options *options);

/*
 * Other options from now on; `methods` stays what it was, and what was borrowed with the options
 * before is not needed any more. Connections that are open keep their own limits and times
 * (`connection`), and calls that have begun theirs; who is over a lowered cap stays. A handshake
 * that ends later is judged by the new names.
 */
void server_configure(struct server *server, const struct server_options *options);

/*
 * Listens on one more endpoint, with TLS if there are credentials (a reference is taken). 0 or a
 * negative errno. *ret_address gets the real port.
 */
int server_listen(struct server *server, const struct endpoint *endpoint,
                  struct credentials *credentials, struct sockaddr_storage *ret_address);

/* The index-th listener uses these credentials for connections that come from now on. */
void server_set_credentials(struct server *server, unsigned index, struct credentials *credentials);

/*
 * The first step of a stop: no connection is accepted any more, and clients are asked to go
 * (connection_drain()). Calls go on. `drained` is called when all connections are gone, or after
 * `timeout_ms`; never from inside this call.
 */
void server_drain(struct server *server, uint64_t timeout_ms, void (*drained)(void *context),
                  void *context);

/*
 * Stops: as server_drain(), and each call ends with UNAVAILABLE, new ones are refused with
 * REFUSED_STREAM. `stopped` is called when all are gone, or after `timeout_ms` when those that are
 * left have been closed; never from inside this call.
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
const struct server_tls_stats *server_tls_stats(const struct server *server);
