/*
 * One call with one request, seen from the client: its request, and the status that its response,
 * a reset, or the loss of the connection comes down to.
 *
 * Sources: PROTOCOL-HTTP2.md, statuscodes.md and http-grpc-status-mapping.md of
 * github.com/grpc/grpc/doc.
 */
#pragma once

#include "base/util.h"
#include "client/stats.h"
#include "net/connection.h"
#include "proto/wire.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* A server's text for people is cut here. */
#define CALL_TEXT_MAX 1024

#define CALL_SERVICE "stockservice.StockService"
#define CALL_METHOD "GetUpdates"

/* What is asked for. */
struct client_call_request {
    const char *path;     /* "/SERVICE/METHOD" */
    const uint8_t *bytes; /* of the message with its prefix */
    size_t size;
};

/* GetUpdates, which has nothing to say. */
extern const struct client_call_request client_call_get_updates;

/*
 * Makes the request of a message, packed with its prefix. The bytes are in `*bytes`, for free();
 * what was there before is freed. 0 or -ENOMEM.
 */
int client_call_pack(struct client_call_request *ret_request, uint8_t **bytes, const char *path,
                     const ProtobufCMessage *message);

struct client_call {
    struct stream stream;
    const struct client_call_request *request;
    size_t request_sent; /* bytes of it */
    struct stats *stats;
    bool open;     /* the stream exists */
    bool accepted; /* the response's headers came and were gRPC's */
    bool decided;  /* the status stands; what comes later changes nothing */
    bool told;     /* and it is the server that said so */
    bool lost;     /* and it is that the connection was lost */
    enum wire_status status;
    char text[CALL_TEXT_MAX];

    /* Of the header block that is being received. */
    unsigned http_status;
    bool grpc_content;
    int grpc_status; /* negative: none */
    char grpc_message[CALL_TEXT_MAX];
};

/*
 * Starts the call; `call` is overwritten. `scheme` is "http", or "https" over TLS; `authority` is
 * the server's name for HTTP/2; `request` is borrowed until the call is over. 0; 1 if the
 * connection takes no new streams; -ENOMEM.
 */
int client_call_start(struct client_call *call, struct connection *connection, const char *scheme,
                      const char *authority, const struct client_call_request *request,
                      struct stats *stats);

/* Sets the status, unless there is one. `text` is copied. */
void client_call_decide(struct client_call *call, enum wire_status status, const char *text);

/* Why the connection was lost: added to the status's text, if it is that. */
void client_call_explain_loss(struct client_call *call, const char *why);

/* Resets the stream, if there is one; the status is CANCELLED unless there is one. */
void client_call_cancel(struct client_call *call);

/* Credit for bytes that came through the `data` of struct connection_ops. */
void client_call_consume(struct client_call *call, size_t size);

/* Sends that credit at once to a server that waits for it, as stream_credit_flush() does. */
void client_call_credit_flush(struct client_call *call);

/* The functions of struct connection_ops that the client's connection has for its streams. */
int client_call_header(struct stream *stream, const struct header *header);
void client_call_headers_end(struct stream *stream, bool end);
void client_call_half_close(struct stream *stream);
ssize_t client_call_read(struct stream *stream, uint8_t *bytes, size_t size,
                         struct stream_read *ret);
void client_call_closed(struct stream *stream, uint32_t error_code);
void client_call_accepted(void *account, unsigned messages, uint64_t lag_ns);

static inline struct client_call *client_call_from_stream(struct stream *stream)
{
    return container_of(stream, struct client_call, stream);
}
