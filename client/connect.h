/*
 * From what was dialled to a connection of HTTP/2: the same for all of the client's connections.
 */
#pragma once

#include "client/connect_options.h"
#include "client/dial.h"
#include "net/connection.h"

/*
 * Begins HTTP/2 over what the dial's `connected` gave, within the present address's share of the
 * time. Of `options` these are for the caller to say: loop, stats, ops, context, keepalive_time_ms
 * and the windows. Without memory it goes on with the next address; *ret_connection is then NULL.
 */
void connect_begin(struct connection **ret_connection, struct dial *dial,
                   struct transport *transport, const char *peer,
                   const struct connection_options *options);

/*
 * That connection was closed before the server's SETTINGS came. `why` says more than `reason` does,
 * or is NULL; `silent`: not a byte has come over it. Goes on with the next address, as dial_next(),
 * with a text about what the server may have wanted.
 */
void connect_refused(struct dial *dial, const struct connect_options *options,
                     enum close_reason reason, const char *why, bool silent);
