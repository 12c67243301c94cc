/*
 * The request's side of a call: its headers, checked in the order that gRPC's own servers have, and
 * its messages, unframed.
 */
#include "rpc/call_private.h"

#include "base/events.h"
#include "base/util.h"
#include "rpc/compression.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Above this nothing of a request's header list is kept, and decoding stops (RFC 9113, 10.5.1). */
#define HEADER_BYTES_HARD_MAX (16 * 1024)

/* The time in which a spent budget of decompression becomes whole again. */
#define INFLATED_US_MAX 1000000

struct request *request_free(struct request *request)
{
    if (request)
        metadata_deinit(&request->metadata);
    free(request);
    return NULL;
}

/* ---- Headers ---- */

static bool header_starts(const struct header *header, const char *prefix)
{
    return header->name_length >= strlen(prefix) &&
           memcmp(header->name, prefix, strlen(prefix)) == 0;
}

static bool value_is(const struct header *header, const char *value)
{
    return header->value_length == strlen(value) &&
           memcmp(header->value, value, header->value_length) == 0;
}

/* PROTOCOL-HTTP2.md: a "-bin" value may be several, joined with commas; each is base64. */
static bool binary_is_valid(const struct header *header)
{
    const char *text = header->value;
    const char *end = text + header->value_length;
    uint8_t bytes[HEADER_BYTES_HARD_MAX];

    for (;;) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *stop = comma ? comma : end;

        if (wire_base64_decode(text, (size_t)(stop - text), bytes) < 0)
            return false;
        if (!comma)
            return true;
        text = comma + 1;
    }
}

static int request_custom_header(struct request *request, const struct header *header)
{
    if (header_is(header, "te") || header_is(header, "host") ||
        header_is(header, "content-length") || header_starts(header, ":") ||
        header_starts(header, "grpc-"))
        return 0;
    if (header_is_binary(header) && !binary_is_valid(header)) {
        request->malformed = true;
        return 0;
    }
    return metadata_add(&request->metadata, header);
}

static void request_encoding(struct call *call, const struct header *header)
{
    if (value_is(header, "gzip"))
        call->gzip_request = true;
    else if (!value_is(header, "identity"))
        call->request->unknown_encoding = true;
}

/* Keeps of the value what fits, as text. */
static void keep_value(char *text, size_t size, const struct header *header)
{
    size_t length = MIN(header->value_length, size - 1);

    memcpy(text, header->value, length);
    text[length] = '\0';
}

/* 0, 1 if it does not fit, or -ENOMEM. */
static int request_header(struct call *call, const struct header *header)
{
    struct request *request = call->request;

    if (header_is(header, ":method")) {
        request->post = value_is(header, "POST");
    } else if (header_is(header, ":path")) {
        request->method =
            method_table_find(&call->server->methods, header->value, header->value_length);
        keep_value(request->path, sizeof(request->path), header);
    } else if (header_is(header, "content-type")) {
        request->grpc = wire_is_grpc_content_type(header->value, header->value_length);
    } else if (header_is(header, "grpc-timeout")) {
        if (wire_timeout_parse(header->value, header->value_length, &request->timeout_ns) < 0)
            request->malformed = true;
    } else if (header_is(header, "user-agent")) {
        keep_value(request->user_agent, sizeof(request->user_agent), header);
    } else if (header_is(header, "grpc-encoding")) {
        request_encoding(call, header);
    } else if (header_is(header, "grpc-accept-encoding")) {
        call->gzip_accepted |= compression_accepts(header->value, header->value_length, "gzip");
    } else {
        return request_custom_header(request, header);
    }
    return 0;
}

int call_on_header(struct stream *stream, const struct header *header)
{
    struct call *call = call_from_stream(stream);
    struct request *request = call->request;

    /* Trailers of a request mean nothing in gRPC. nghttp2 bounds them like any header block. */
    if (call->headers_done || !request)
        return 0;
    request->header_bytes += header->name_length + header->value_length + 32;
    if (request->header_bytes > HEADER_BYTES_HARD_MAX) {
        call->finished = true;
        call->status = WIRE_RESOURCE_EXHAUSTED;
        return 1;
    }
    /* Too long is told with a status once the block is whole; more is not worth keeping. */
    if (request->header_bytes > connection_max_header_bytes(call->stream.connection))
        return 0;
    if (request_header(call, header) < 0) {
        call->finished = true;
        call->status = WIRE_RESOURCE_EXHAUSTED;
        return 1;
    }
    return 0;
}

/* Checks in the order that gRPC's own servers have. True if the call may go on. */
static bool request_accept(struct call *call)
{
    const uint32_t max_bytes = connection_max_header_bytes(call->stream.connection);
    const struct request *request = call->request;
    char text[STATUS_TEXT_MAX];

    if (request->header_bytes > max_bytes) {
        (void)snprintf(text, sizeof(text), "request headers are larger than %u bytes", max_bytes);
        call_refuse(call, "200", WIRE_RESOURCE_EXHAUSTED, text);
    } else if (!request->grpc) {
        call_refuse(call, "415", WIRE_INVALID_ARGUMENT, "content-type is not application/grpc");
    } else if (request->malformed) {
        call_refuse(call, "400", WIRE_INTERNAL, "malformed grpc-timeout or binary metadata");
    } else if (!request->post) {
        call_refuse(call, "405", WIRE_INTERNAL, "the method is not POST");
    } else if (!request->method) {
        (void)snprintf(text, sizeof(text), "unknown method %s", request->path);
        call_refuse(call, "200", WIRE_UNIMPLEMENTED, text);
    } else if (request->timeout_ns == 0) {
        call_refuse(call, "200", WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
    } else if (request->unknown_encoding) {
        call_refuse(call, "200", WIRE_UNIMPLEMENTED, "unknown grpc-encoding");
    }
    return !call->finished;
}

static bool method_takes_stream(const struct method *method)
{
    return method->type == METHOD_CLIENT_STREAM || method->type == METHOD_BIDI_STREAM;
}

static void call_start_timer(struct call *call)
{
    struct call_server *server = call->server;
    uint64_t now_ms = loop_now_ms(server->loop);
    uint64_t due_ms = call->deadline_ms;

    if (!call->begun && server->request_timeout_ms > 0)
        due_ms = due_ms > 0 ? MIN(due_ms, now_ms + server->request_timeout_ms)
                            : now_ms + server->request_timeout_ms;
    if (due_ms > 0)
        loop_arm(server->loop, &call->timer, due_ms > now_ms ? due_ms - now_ms : 0, 1);
    else
        loop_disarm(server->loop, &call->timer);
}

static void call_begin(struct call *call, const uint8_t *message, size_t size)
{
    call->begun = true;
    call_start_timer(call);
    call->method->begin(call, message, size);
    call->request = request_free(call->request);
}

static void call_accept(struct call *call)
{
    int64_t timeout_ns = call->request->timeout_ns;

    call->method = call->request->method;
    if (timeout_ns < WIRE_TIMEOUT_MAX_NS)
        call->deadline_ms = loop_now_ms(call->server->loop) + (uint64_t)(timeout_ns / 1000000) + 1;
    if (method_takes_stream(call->method))
        call_begin(call, NULL, 0);
    else
        call_start_timer(call);
}

/* ---- Messages ---- */

void call_free_input(struct call *call)
{
    call->server->input_bytes -= call->input_capacity;
    free(TAKE_PTR(call->input));
    call->input_size = 0;
    call->input_capacity = 0;
}

/* What came and will not be delivered any more: its credit is the connection's, and so other
 * calls'.
 */
void call_drop_input(struct call *call)
{
    call_free_input(call);
    call->input_held = false;
    stream_consume(&call->stream, call->stream.unconsumed);
}

/* Takes `size` bytes off the front of the input. */
static void input_drop(struct call *call, uint32_t size)
{
    if (size == call->input_size) {
        call_free_input(call);
        return;
    }
    call->input_size -= size;
    memmove(call->input, call->input + size, call->input_size);
}

static void finish_too_long(struct call *call, uint32_t length, const char *or_more)
{
    char text[STATUS_TEXT_MAX];

    (void)snprintf(text, sizeof(text), "a message of %u bytes%s; the most is %u", length, or_more,
                   call->max_message_bytes);
    call_finish(call, WIRE_RESOURCE_EXHAUSTED, text);
}

/* The most that a message may decompress to: what all unfinished requests together may hold bounds
 * it too. */
static size_t inflated_max(const struct call *call)
{
    const struct call_server *server = call->server;
    uint64_t left = server->max_input_bytes > server->input_bytes
                        ? server->max_input_bytes - server->input_bytes
                        : 0;

    return MIN((uint64_t)call->max_message_bytes, MAX(left, (uint64_t)CALL_INPUT_BYTES_FREE));
}

/* No bytes become more than so many times as many (RFC 1951 allows 258 of 2 bits). */
#define INFLATED_RATIO_MAX 1032

/* What a message of `size` bytes may become at no charge. */
static uint64_t inflated_free(uint32_t size)
{
    return CALL_INPUT_BYTES_FREE + CALL_INFLATED_RATIO_FREE * (uint64_t)size;
}

static uint64_t now_us(const struct call_server *server)
{
    return 1000 * loop_now_ms(server->loop);
}

/* Is there anything left of the budget? */
static bool may_inflate(const struct call_server *server)
{
    return server->inflated_due_us < now_us(server) + INFLATED_US_MAX;
}

/* A message of `size` bytes became so many. */
static void charge_inflated(struct call_server *server, uint32_t size, uint64_t inflated)
{
    uint64_t free_bytes = inflated_free(size);
    uint64_t cost = inflated > free_bytes ? inflated - free_bytes : 0;

    server->inflated_due_us = MAX(server->inflated_due_us, now_us(server)) +
                              cost / (CALL_INFLATED_BYTES_MAX / INFLATED_US_MAX);
}

static void call_take_compressed(struct call *call, const uint8_t *bytes, uint32_t size,
                                 void (*take)(struct call *call, const uint8_t *message,
                                              size_t size))
{
    struct call_server *server = call->server;
    size_t held_max = inflated_max(call);
    size_t max = may_inflate(server) ? held_max : MIN(held_max, inflated_free(size));
    _cleanup_free_ uint8_t *inflated = NULL;
    size_t inflated_size = 0;
    int r = compression_gunzip(bytes, size, max, &inflated, &inflated_size);

    /* Of one that fails nobody knows more than what it may have become. */
    charge_inflated(server, size,
                    r == COMPRESSION_OK ? inflated_size
                                        : MIN((uint64_t)max, (uint64_t)size * INFLATED_RATIO_MAX));
    if (r == COMPRESSION_CORRUPT) {
        call_finish(call, WIRE_INTERNAL, "a compressed message that is no gzip");
    } else if (r == COMPRESSION_TOO_LONG && max < held_max) {
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "too much is decompressed just now");
    } else if (r == COMPRESSION_TOO_LONG && max == call->max_message_bytes) {
        finish_too_long(call, call->max_message_bytes + 1, " or more");
    } else if (r == COMPRESSION_TOO_LONG) {
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "too much of unfinished requests is held");
    } else if (r < 0) {
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
    } else {
        server->input_bytes += inflated_size;
        call->compressed = true;
        call->stats->received_total++;
        /* An empty body is no missing one. */
        take(call, inflated ? inflated : bytes, inflated_size);
        call->compressed = false;
        server->input_bytes -= inflated_size;
    }
}

/*
 * Gives `take`, method->message or call_begin(), the whole message at `prefix`, decompressed if it
 * came compressed. What that becomes is held like any other part of a request while it lives.
 */
static void call_take_message(struct call *call, const uint8_t *prefix,
                              void (*take)(struct call *call, const uint8_t *message, size_t size))
{
    const uint8_t *body = prefix + WIRE_PREFIX_SIZE;
    uint32_t length = wire_prefix_length(prefix);

    if (prefix[0] == 0) {
        call->stats->received_total++;
        take(call, body, length);
    } else {
        call_take_compressed(call, body, length, take);
    }
}

static void call_half_closed(struct call *call)
{
    if (call->finished || call->input_held)
        return;
    if (call->input_size > 0 &&
        (call->input_size < WIRE_PREFIX_SIZE ||
         call->input_size - WIRE_PREFIX_SIZE < wire_prefix_length(call->input))) {
        call_finish(call, WIRE_INTERNAL, "the request ends inside a message");
    } else if (method_takes_stream(call->method)) {
        call->method->half_close(call);
    } else if (call->input_size == 0) {
        call_finish(call, WIRE_UNIMPLEMENTED, "the request has no message");
    } else if (call_time_left_ms(call) == 0) {
        /* It has passed within this turn, and the end of the request came before the timer. */
        call_finish(call, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
    } else {
        call->delivering = true;
        call_take_message(call, call->input, call_begin);
        call->delivering = false;
        call_drop_input(call);
    }
}

/* Is the message at `prefix` one that may be taken? Decided before its body has come. */
static bool prefix_accept(struct call *call, const uint8_t *prefix)
{
    uint32_t length = wire_prefix_length(prefix);

    if (prefix[0] == 1 && !call->gzip_request) {
        call_finish(call, WIRE_INTERNAL, "a compressed message without grpc-encoding");
    } else if (prefix[0] > 1) {
        call_finish(call, WIRE_INTERNAL, "a message with an unknown compressed flag");
    } else if (length > call->max_message_bytes) {
        finish_too_long(call, length, "");
    }
    return !call->finished;
}

void call_deliver(struct call *call)
{
    uint32_t done = 0;

    call->delivering = true;
    while (!call->finished && !call_queue_full(call) &&
           call->input_size - done >= WIRE_PREFIX_SIZE) {
        const uint8_t *prefix = call->input + done;
        uint32_t length = wire_prefix_length(prefix);

        if (!prefix_accept(call, prefix) || call->input_size - done - WIRE_PREFIX_SIZE < length)
            break;
        if (!method_takes_stream(call->method)) {
            if (call->input_size > WIRE_PREFIX_SIZE + length)
                call_finish(call, WIRE_UNIMPLEMENTED, "the request has more than one message");
            break;
        }
        call_take_message(call, prefix, call->method->message);
        done += WIRE_PREFIX_SIZE + length;
    }
    call->delivering = false;
    if (call->finished) {
        call_drop_input(call);
        return;
    }
    if (done > 0)
        input_drop(call, done);
    call->input_held = call->input_size > 0 && call_queue_full(call);
    /* Bytes of a message that is not whole have their credit at once, or it could never become
     * whole; what waits for room in the queue keeps its credit back. */
    if (!call->input_held)
        stream_consume(&call->stream, call->stream.unconsumed);
    /* The client's end waited behind what was held. */
    if (call->half_closed)
        call_half_closed(call);
}

/* 0, 1 if all calls together would hold too much, or -ENOMEM. */
static int input_append(struct call *call, const uint8_t *bytes, size_t size)
{
    struct call_server *server = call->server;
    size_t needed = call->input_size + size;
    size_t capacity = MAX((size_t)call->input_capacity, (size_t)64);
    uint8_t *input;

    while (capacity < needed)
        capacity *= 2;
    if (capacity > call->input_capacity) {
        if (capacity > CALL_INPUT_BYTES_FREE &&
            server->input_bytes + (capacity - call->input_capacity) > server->max_input_bytes)
            return 1;
        input = realloc(call->input, capacity);
        if (!input)
            return -ENOMEM;
        server->input_bytes += capacity - call->input_capacity;
        call->input = input;
        call->input_capacity = (uint32_t)capacity;
    }
    memcpy(call->input + call->input_size, bytes, size);
    call->input_size = (uint32_t)needed;
    return 0;
}

void call_on_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct call *call = call_from_stream(stream);
    int r;

    if (call->finished) {
        stream_consume(stream, size);
        return;
    }
    r = input_append(call, bytes, size);
    if (r > 0)
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "too much of unfinished requests is held");
    else if (r < 0)
        call_reset(call, WIRE_RESOURCE_EXHAUSTED);
    else
        call_deliver(call);
}

void call_on_half_close(struct stream *stream)
{
    struct call *call = call_from_stream(stream);

    call->half_closed = true;
    call_half_closed(call);
}

static void log_begin(const struct call *call)
{
    const struct request *request = call->request;
    const char *peer = call_peer(call);

    log_event(LOG_DEBUG,
              log_fields(LOG_EVENT(CALL_STARTED), {"STOCKD_PEER", peer},
                         {"STOCKD_STREAM", log_number((uint64_t)call->stream.id)},
                         {"STOCKD_METHOD", request->path},
                         {"STOCKD_USER_AGENT", request->user_agent}),
              "%s: call %d %s by %s", peer, call->stream.id, request->path,
              *request->user_agent ? request->user_agent : "a client that does not tell its name");
}

void call_on_headers_end(struct stream *stream, bool end)
{
    struct call *call = call_from_stream(stream);

    if (!call->headers_done) {
        call->headers_done = true;
        call->counted = true;
        call->begun_ms = loop_now_ms(call->server->loop);
        if (call->request->method)
            call->stats = call->request->method->stats;
        call->stats->started_total++;
        log_begin(call);
        /* A server that stops may have ended it before its headers were whole. */
        if (!call->finished && request_accept(call))
            call_accept(call);
    }
    if (end)
        call_on_half_close(stream);
}
