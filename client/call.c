/*
 * The status of a call has many sources: trailers, an HTTP status, a content type, RST_STREAM, the
 * loss of the connection, and this side's own verdict. The first that speaks is right, since
 * each later one is only how the stream was cleared away.
 */
#include "client/call.h"

#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* An EmptyRequest is a message of no bytes, so there is but its prefix. */
static const uint8_t empty_request[WIRE_PREFIX_SIZE];

const struct client_call_request client_call_get_updates = {
    .path = "/" CALL_SERVICE "/" CALL_METHOD,
    .bytes = empty_request,
    .size = sizeof(empty_request),
};

static void begin_block(struct client_call *call)
{
    call->http_status = 0;
    call->grpc_content = false;
    call->grpc_status = -1;
    call->grpc_message[0] = 0;
}

int client_call_pack(struct client_call_request *ret_request, uint8_t **bytes, const char *path,
                     const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(WIRE_PREFIX_SIZE + size);

    if (!packed)
        return -ENOMEM;
    wire_prefix_write(packed, (uint32_t)size);
    (void)protobuf_c_message_pack(message, packed + WIRE_PREFIX_SIZE);
    free(*bytes);
    *bytes = packed;
    *ret_request = (struct client_call_request){path, packed, WIRE_PREFIX_SIZE + size};
    return 0;
}

int client_call_start(struct client_call *call, struct connection *connection, const char *scheme,
                      const char *authority, const struct client_call_request *request,
                      struct stats *stats)
{
    const struct header headers[] = {
        HEADER(":method", "POST"),
        HEADER(":scheme", scheme),
        HEADER(":path", request->path),
        HEADER(":authority", authority),
        HEADER("te", "trailers"),
        HEADER("content-type", "application/grpc"),
        HEADER("user-agent", "stock-client/" STOCKD_VERSION),
        HEADER("grpc-accept-encoding", "identity"),
    };
    int r;

    *call = (struct client_call){.stats = stats, .request = request};
    begin_block(call);
    stats->started_total++;
    r = stream_request(connection, &call->stream, headers, ELEMENTSOF(headers));
    if (r == 0)
        call->open = true;
    return r;
}

void client_call_decide(struct client_call *call, enum wire_status status, const char *text)
{
    if (call->decided)
        return;
    call->decided = true;
    call->status = status;
    (void)snprintf(call->text, sizeof(call->text), "%s", text);
}

void client_call_explain_loss(struct client_call *call, const char *why)
{
    if (call->lost)
        (void)snprintf(call->text, sizeof(call->text), "the connection was lost: %s", why);
}

void client_call_cancel(struct client_call *call)
{
    client_call_decide(call, WIRE_CANCELLED, "the call was cancelled");
    if (call->open)
        stream_reset(&call->stream, HTTP2_CANCEL);
}

void client_call_consume(struct client_call *call, size_t size)
{
    if (call->open)
        stream_consume(&call->stream, size);
}

void client_call_credit_flush(struct client_call *call)
{
    if (call->open)
        stream_credit_flush(&call->stream);
}

int client_call_header(struct stream *stream, const struct header *header)
{
    struct client_call *call = client_call_from_stream(stream);

    if (header_is(header, ":status")) {
        /* nghttp2 lets nothing but three digits through. */
        for (size_t i = 0; i < header->value_length; i++)
            call->http_status = call->http_status * 10 + (unsigned)(header->value[i] - '0');
    } else if (header_is(header, "content-type")) {
        call->grpc_content = wire_is_grpc_content_type(header->value, header->value_length);
    } else if (header_is(header, "grpc-status")) {
        call->grpc_status = wire_status_parse(header->value, header->value_length);
        if (call->grpc_status < 0)
            call->grpc_status = WIRE_UNKNOWN;
    } else if (header_is(header, "grpc-message")) {
        size_t size = MIN(header->value_length, sizeof(call->grpc_message) - 1);

        size = wire_message_decode(header->value, size, call->grpc_message);
        call->grpc_message[size] = 0;
    }
    return 0;
}

/* A response that is not gRPC's and says no grpc-status: what its HTTP status stands for. */
static void decide_from_http(struct client_call *call)
{
    char text[64];

    if (call->http_status != 200) {
        (void)snprintf(text, sizeof(text), "the server answered with HTTP status %u",
                       call->http_status);
        client_call_decide(call, wire_status_from_http(call->http_status), text);
    } else if (!call->grpc_content) {
        client_call_decide(call, WIRE_UNKNOWN,
                           "the content type of the response is not application/grpc");
    } else {
        client_call_decide(call, WIRE_UNKNOWN, "the response ended with no grpc-status");
    }
}

void client_call_headers_end(struct stream *stream, bool end)
{
    struct client_call *call = client_call_from_stream(stream);
    bool informational = !call->accepted && call->http_status >= 100 && call->http_status < 200;

    if (informational) {
        begin_block(call);
        return;
    }
    /* Trailers have no :status and no content type of their own. */
    if (call->accepted)
        call->http_status = 200;
    if ((end || call->http_status != 200) && call->grpc_status >= 0) {
        call->told = !call->decided;
        client_call_decide(call, (enum wire_status)call->grpc_status, call->grpc_message);
    } else if (call->accepted) {
        client_call_decide(call, WIRE_UNKNOWN, "the trailers have no grpc-status");
    } else if (end || call->http_status != 200 || !call->grpc_content) {
        decide_from_http(call);
    } else {
        call->accepted = true;
    }
    begin_block(call);
    if (call->decided && !end)
        stream_reset(stream, HTTP2_CANCEL);
}

void client_call_half_close(struct stream *stream)
{
    client_call_decide(client_call_from_stream(stream), WIRE_INTERNAL,
                       "the response ended with no trailers");
}

ssize_t client_call_read(struct stream *stream, uint8_t *bytes, size_t size,
                         struct stream_read *ret)
{
    struct client_call *call = client_call_from_stream(stream);

    size_t left = call->request->size - call->request_sent;
    size_t part = MIN(left, size);

    memcpy(bytes, call->request->bytes + call->request_sent, part);
    call->request_sent += part;
    if (part == left) {
        ret->account = call->stats;
        ret->messages = 1;
        ret->first_end = part;
        ret->end = true;
    }
    ret->more = part < left;
    return (ssize_t)part;
}

void client_call_closed(struct stream *stream, uint32_t error_code)
{
    struct client_call *call = client_call_from_stream(stream);
    char text[64];

    call->open = false;
    if (error_code == STREAM_CONNECTION_LOST) {
        call->lost = !call->decided;
        client_call_decide(call, WIRE_UNAVAILABLE, "the connection was lost");
    } else {
        (void)snprintf(text, sizeof(text), "the stream was reset with HTTP/2 error %" PRIu32,
                       error_code);
        client_call_decide(call, wire_status_from_rst(error_code), text);
    }
}

void client_call_accepted(void *account, unsigned messages, uint64_t lag_ns)
{
    struct stats *stats = account;

    stats->msg_sent_total += messages;
}
