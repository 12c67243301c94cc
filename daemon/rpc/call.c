/*
 * A call's life:
 *
 *   open -> headers -> [messages] -> begin -> answers -> trailers -> close
 *
 * A fault before `begin` is answered with Trailers-Only. After call_finish() a call is `finished`:
 * it takes nothing more from its handler, sends what it has, and waits for its stream to close.
 *
 * Sending is pulled: on_read() fills one DATA frame with as many messages as fit. Where a
 * message straddles two frames, its rest becomes `current`, which is all that a stalled call holds.
 */
#include "rpc/call.h"

#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* Above this nothing of a request's header list is kept, and decoding stops (RFC 9113, 10.5.1). */
#define HEADER_BYTES_HARD_MAX (16 * 1024)

/* Custom metadata: of a request it always fits, being counted with less than RFC 9113 counts. */
#define METADATA_BYTES_MAX HEADER_BYTES_HARD_MAX
#define METADATA_FIELDS_MAX 64 /* of an answer's headers, and of its trailers */

#define STATUS_TEXT_MAX 512

/* The longest message that method->pull may write; a bound for the buffer of one that straddles. */
#define PULL_SIZE_MAX 4096

/* HTTP/2's error codes that calls are reset with (RFC 9113, 7). */
enum {
    HTTP2_INTERNAL_ERROR = 0x2,
    HTTP2_CANCEL = 0x8,
    HTTP2_ENHANCE_YOUR_CALM = 0xb,
};

/* Header fields, one after the other: two lengths, then name and value. */
struct metadata {
    uint8_t *bytes;
    size_t size;
    unsigned count;
};

/* What is known of a request until its handler begins. */
struct request {
    size_t header_bytes;
    const struct method *method;
    int64_t timeout_ns;
    struct metadata metadata;
    char path[128]; /* cut, for messages */
    bool post;
    bool grpc;
    bool malformed;
    bool unknown_encoding;
};

struct queue {
    struct message **messages; /* a ring; NULL while empty */
    unsigned capacity;         /* a power of 2 */
    unsigned head;
    unsigned count;
    uint32_t bytes;
};

/* What every message touches comes first and lies close together. */
struct call {
    struct stream stream;

    bool counted; /* in started_total */
    bool begun;
    bool headers_done;  /* the request's */
    bool half_closed;   /* the client's side, as far as the handler knows */
    bool input_held;    /* messages wait in `input` for room in the queue */
    bool responded;     /* our headers are sent */
    bool inside;        /* the bytes sent so far end inside a message */
    bool finished;      /* status and text are set */
    bool trailers_sent; /* handed to the connection */
    bool was_reset;     /* by this side; nothing more is said */
    bool reading;       /* on_read() is on the call stack: it sees to the end itself */
    bool delivering;    /* `input` is being read */
    enum wire_status status;

    const struct method *method; /* NULL until the headers were found good */
    struct method_stats *stats;
    struct call_server *server;
    void *data;
    struct message *current; /* being sent */
    uint32_t current_offset;
    struct queue queue;

    struct wheel_timer timer; /* the request's time limit, then the deadline */
    uint64_t deadline_ms;     /* 0: none */
    struct request *request;  /* until `begin` */
    uint8_t *input;           /* bytes that are no whole message yet, or may not be delivered */
    uint32_t input_size;
    uint32_t input_capacity;
    struct metadata headers;
    struct metadata trailers;
    char *text;
};

struct call *call_from_stream(struct stream *stream)
{
    return container_of(stream, struct call, stream);
}

/* ---- Metadata ---- */

static int metadata_add(struct metadata *metadata, const struct header *header)
{
    uint16_t lengths[2] = {(uint16_t)header->name_length, (uint16_t)header->value_length};
    size_t size = sizeof(lengths) + header->name_length + header->value_length;
    uint8_t *bytes;

    if (metadata->size + size > METADATA_BYTES_MAX)
        return 1;
    bytes = realloc(metadata->bytes, metadata->size + size);
    if (!bytes)
        return -ENOMEM;
    metadata->bytes = bytes;
    bytes += metadata->size;
    metadata->size += size;
    metadata->count++;
    memcpy(bytes, lengths, sizeof(lengths));
    memcpy(bytes + sizeof(lengths), header->name, header->name_length);
    memcpy(bytes + sizeof(lengths) + header->name_length, header->value, header->value_length);
    return 0;
}

/* The field at *offset, which moves on to the next one; false at the end. */
static bool metadata_next(const struct metadata *metadata, size_t *offset,
                          struct header *ret_header)
{
    uint16_t lengths[2];
    const char *text;

    if (*offset >= metadata->size)
        return false;
    memcpy(lengths, metadata->bytes + *offset, sizeof(lengths));
    text = (const char *)metadata->bytes + *offset + sizeof(lengths);
    *ret_header = (struct header){text, lengths[0], text + lengths[0], lengths[1]};
    *offset += sizeof(lengths) + lengths[0] + lengths[1];
    return true;
}

static void metadata_deinit(struct metadata *metadata)
{
    free(metadata->bytes);
    *metadata = (struct metadata){0};
}

static struct request *request_free(struct request *request)
{
    if (request)
        metadata_deinit(&request->metadata);
    free(request);
    return NULL;
}

/* ---- Queue ---- */

static int queue_grow(struct queue *queue)
{
    unsigned capacity = MAX(2 * queue->capacity, 4u);
    struct message **messages = calloc(capacity, sizeof(struct message *));

    if (!messages)
        return -ENOMEM;
    for (unsigned i = 0; i < queue->count; i++)
        messages[i] = queue->messages[(queue->head + i) & (queue->capacity - 1)];
    free(queue->messages);
    queue->messages = messages;
    queue->capacity = capacity;
    queue->head = 0;
    return 0;
}

static int queue_push(struct queue *queue, struct message *message)
{
    if (queue->count == queue->capacity) {
        int r = queue_grow(queue);
        if (r < 0)
            return r;
    }
    queue->messages[(queue->head + queue->count++) & (queue->capacity - 1)] = message;
    queue->bytes += message->size;
    return 0;
}

/* The oldest message, whose reference is the caller's, or NULL. */
static struct message *queue_pop(struct queue *queue)
{
    struct message *message;

    if (queue->count == 0)
        return NULL;
    message = queue->messages[queue->head];
    queue->head = (queue->head + 1) & (queue->capacity - 1);
    queue->bytes -= message->size;
    if (--queue->count == 0) {
        free(TAKE_PTR(queue->messages));
        queue->capacity = 0;
        queue->head = 0;
    }
    return message;
}

static bool queue_full(const struct queue *queue)
{
    return queue->bytes >= CALL_QUEUE_BYTES_MAX;
}

static void call_set_current(struct call *call, struct message *message)
{
    if (call->current)
        call->server->queued_bytes -= call->current->size;
    message_unref(call->current);
    call->current = message;
    call->current_offset = 0;
}

static void call_drop_queue(struct call *call)
{
    struct message *message;

    while ((message = queue_pop(&call->queue))) {
        call->server->queued_bytes -= message->size;
        message_unref(message);
    }
}

/* ---- Ending ---- */

static uint32_t rst_code(enum wire_status status)
{
    switch (status) {
    case WIRE_CANCELLED:
    case WIRE_DEADLINE_EXCEEDED:
    case WIRE_UNAVAILABLE:
        return HTTP2_CANCEL;
    case WIRE_RESOURCE_EXHAUSTED:
        return HTTP2_ENHANCE_YOUR_CALM;
    default:
        return HTTP2_INTERNAL_ERROR;
    }
}

static void call_reset(struct call *call, enum wire_status status)
{
    if (!call->finished) {
        call->finished = true;
        call->status = status;
    }
    call->was_reset = true;
    stream_reset(&call->stream, rst_code(call->status));
}

/* Room for the fields of any answer beside the custom ones. */
#define ANSWER_FIELDS 5

struct answer {
    struct header fields[ANSWER_FIELDS + 2 * METADATA_FIELDS_MAX];
    size_t count;
    char status[12];
    char text[9 * STATUS_TEXT_MAX];
};

static void answer_add(struct answer *answer, const char *name, const char *value)
{
    answer->fields[answer->count++] = HEADER(name, value);
}

static void answer_add_metadata(struct answer *answer, const struct metadata *metadata)
{
    size_t offset = 0;

    while (metadata_next(metadata, &offset, &answer->fields[answer->count]))
        answer->count++;
}

static void answer_add_status(struct answer *answer, const struct call *call)
{
    size_t length;

    (void)snprintf(answer->status, sizeof(answer->status), "%d", (int)call->status);
    answer_add(answer, "grpc-status", answer->status);
    if (!call->text)
        return;
    length =
        wire_message_encode(call->text, strlen(call->text), answer->text, sizeof(answer->text));
    answer->fields[answer->count++] =
        (struct header){"grpc-message", strlen("grpc-message"), answer->text, length};
}

/* One HEADERS frame is the whole answer. */
static int send_trailers_only(struct call *call, const char *http_status)
{
    struct answer answer;

    answer.count = 0;
    answer_add(&answer, ":status", http_status);
    answer_add(&answer, "content-type", "application/grpc");
    answer_add_status(&answer, call);
    if (call->request && call->request->unknown_encoding)
        answer_add(&answer, "grpc-accept-encoding", "identity");
    answer_add_metadata(&answer, &call->headers);
    answer_add_metadata(&answer, &call->trailers);
    call->responded = true;
    call->trailers_sent = true;
    return stream_respond(&call->stream, answer.fields, answer.count, true);
}

static int send_trailers(struct call *call)
{
    struct answer answer;

    answer.count = 0;
    answer_add_status(&answer, call);
    answer_add_metadata(&answer, &call->trailers);
    call->trailers_sent = true;
    return stream_submit_trailers(&call->stream, answer.fields, answer.count);
}

/* What came and will not be delivered any more: its credit is the connection's, and so other
 * calls'.
 */
static void call_drop_input(struct call *call)
{
    free(TAKE_PTR(call->input));
    call->input_size = 0;
    call->input_capacity = 0;
    call->input_held = false;
    stream_consume(&call->stream, call->stream.unconsumed);
}

static void call_set_status(struct call *call, enum wire_status status, const char *text)
{
    call->finished = true;
    call->status = status;
    /* Without memory the status alone must do. */
    if (text && *text && asprintf(&call->text, "%.*s", STATUS_TEXT_MAX, text) < 0)
        call->text = NULL;
    if (!call->delivering)
        call_drop_input(call);
}

/* Sends the end of a finished call, if nothing has to go before it. */
static void call_send_end(struct call *call, const char *http_status)
{
    int r;

    if (call->trailers_sent || call->was_reset || call->reading || call->current ||
        call->queue.count > 0)
        return;
    r = call->responded ? send_trailers(call) : send_trailers_only(call, http_status);
    /* No memory, or more than the client takes: RST_STREAM INTERNAL_ERROR is all that it sees. */
    if (r != 0)
        call->status = WIRE_INTERNAL;
    if (r < 0)
        call_reset(call, WIRE_INTERNAL);
}

void call_finish(struct call *call, enum wire_status status, const char *text)
{
    if (call->finished)
        return;
    call_set_status(call, status, text);
    call_send_end(call, "200");
}

void call_shutdown(struct call *call, enum wire_status status, const char *text)
{
    if (call->finished)
        return;
    call_drop_queue(call);
    if (!call->inside)
        call_set_current(call, NULL);
    call_finish(call, status, text);
}

void call_abort(struct call *call, enum wire_status status, const char *text)
{
    if (call->trailers_sent || call->was_reset)
        return;
    /* A call that was finished, but waits for its client to take the rest, is cut short too. */
    if (call->finished)
        free(TAKE_PTR(call->text));
    call_set_status(call, status, text);
    call_drop_queue(call);
    if (call->inside) {
        call_reset(call, status);
    } else {
        call_set_current(call, NULL);
        call_send_end(call, "200");
    }
}

/* A fault found in the headers: answered before anything else happens. */
static void call_refuse(struct call *call, const char *http_status, enum wire_status status,
                        const char *text)
{
    call_set_status(call, status, text);
    call_send_end(call, http_status);
}

static void on_timer(struct wheel_timer *timer)
{
    struct call *call = container_of(timer, struct call, timer);

    if (call->deadline_ms > 0 && loop_now_ms(call->server->loop) >= call->deadline_ms)
        call_abort(call, WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
    else
        call_abort(call, WIRE_DEADLINE_EXCEEDED, "the request was not complete in time");
}

/* ---- Request headers ---- */

static bool header_is(const struct header *header, const char *name)
{
    return header->name_length == strlen(name) &&
           memcmp(header->name, name, header->name_length) == 0;
}

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

static bool header_is_binary(const struct header *header)
{
    return header->name_length > 4 &&
           memcmp(header->name + header->name_length - 4, "-bin", 4) == 0;
}

static int request_custom_header(struct request *request, const struct header *header)
{
    if (header_is(header, "te") || header_is(header, "user-agent") || header_is(header, "host") ||
        header_is(header, "content-length") || header_starts(header, ":") ||
        header_starts(header, "grpc-"))
        return 0;
    if (header_is_binary(header) && !binary_is_valid(header)) {
        request->malformed = true;
        return 0;
    }
    return metadata_add(&request->metadata, header);
}

/* 0, 1 if it does not fit, or -ENOMEM. */
static int request_header(struct request *request, const struct call_server *server,
                          const struct header *header)
{
    if (header_is(header, ":method")) {
        request->post = value_is(header, "POST");
    } else if (header_is(header, ":path")) {
        request->method = method_table_find(&server->methods, header->value, header->value_length);
        (void)snprintf(request->path, sizeof(request->path), "%.*s", (int)header->value_length,
                       header->value);
    } else if (header_is(header, "content-type")) {
        request->grpc = wire_is_grpc_content_type(header->value, header->value_length);
    } else if (header_is(header, "grpc-timeout")) {
        if (wire_timeout_parse(header->value, header->value_length, &request->timeout_ns) < 0)
            request->malformed = true;
    } else if (header_is(header, "grpc-encoding")) {
        request->unknown_encoding = !value_is(header, "identity");
    } else {
        return request_custom_header(request, header);
    }
    return 0;
}

static int on_header(struct stream *stream, const struct header *header)
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
    if (request->header_bytes > call->server->max_header_bytes)
        return 0;
    if (request_header(request, call->server, header) < 0) {
        call->finished = true;
        call->status = WIRE_RESOURCE_EXHAUSTED;
        return 1;
    }
    return 0;
}

/* Checks in the order that gRPC's own servers have. True if the call may go on. */
static bool request_accept(struct call *call)
{
    const struct request *request = call->request;
    char text[STATUS_TEXT_MAX];

    if (request->header_bytes > call->server->max_header_bytes) {
        (void)snprintf(text, sizeof(text), "request headers are larger than %u bytes",
                       call->server->max_header_bytes);
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
    } else if (request->unknown_encoding) {
        call_refuse(call, "200", WIRE_UNIMPLEMENTED, "unknown grpc-encoding");
    } else if (request->timeout_ns == 0) {
        call_refuse(call, "200", WIRE_DEADLINE_EXCEEDED, "deadline exceeded");
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

/* ---- Request messages ---- */

/* Takes `size` bytes off the front of the input. */
static void input_drop(struct call *call, uint32_t size)
{
    call->input_size -= size;
    if (call->input_size > 0) {
        memmove(call->input, call->input + size, call->input_size);
    } else {
        free(TAKE_PTR(call->input));
        call->input_capacity = 0;
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
    } else {
        call->stats->received_total++;
        call->delivering = true;
        call_begin(call, call->input + WIRE_PREFIX_SIZE, wire_prefix_length(call->input));
        call->delivering = false;
        call_drop_input(call);
    }
}

/* Is the message at `prefix` one that may be taken? Decided before its body has come. */
static bool prefix_accept(struct call *call, const uint8_t *prefix)
{
    uint32_t length = wire_prefix_length(prefix);
    char text[STATUS_TEXT_MAX];

    if (prefix[0] == 1) {
        call_finish(call, WIRE_INTERNAL, "a compressed message without grpc-encoding");
    } else if (prefix[0] > 1) {
        call_finish(call, WIRE_INTERNAL, "a message with an unknown compressed flag");
    } else if (length > call->server->max_message_bytes) {
        (void)snprintf(text, sizeof(text), "a message of %u bytes; the most is %u", length,
                       call->server->max_message_bytes);
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, text);
    }
    return !call->finished;
}

/* Delivers the whole messages in the input, as far as the handler's answers leave room. */
static void call_deliver(struct call *call)
{
    uint32_t done = 0;

    call->delivering = true;
    while (!call->finished && !queue_full(&call->queue) &&
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
        call->stats->received_total++;
        call->method->message(call, prefix + WIRE_PREFIX_SIZE, length);
        done += WIRE_PREFIX_SIZE + length;
    }
    call->delivering = false;
    if (call->finished) {
        call_drop_input(call);
        return;
    }
    if (done > 0)
        input_drop(call, done);
    call->input_held = call->input_size > 0 && queue_full(&call->queue);
    /* Bytes of a message that is not whole have their credit at once, or it could never become
     * whole; what waits for room in the queue keeps its credit back. */
    if (!call->input_held)
        stream_consume(&call->stream, call->stream.unconsumed);
    /* The client's end waited behind what was held. */
    if (call->half_closed)
        call_half_closed(call);
}

static int input_append(struct call *call, const uint8_t *bytes, size_t size)
{
    size_t needed = call->input_size + size;
    size_t capacity = MAX((size_t)call->input_capacity, (size_t)64);
    uint8_t *input;

    while (capacity < needed)
        capacity *= 2;
    if (capacity > call->input_capacity) {
        input = realloc(call->input, capacity);
        if (!input)
            return -ENOMEM;
        call->input = input;
        call->input_capacity = (uint32_t)capacity;
    }
    memcpy(call->input + call->input_size, bytes, size);
    call->input_size = (uint32_t)needed;
    return 0;
}

static void on_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct call *call = call_from_stream(stream);

    if (call->finished) {
        stream_consume(stream, size);
        return;
    }
    if (input_append(call, bytes, size) < 0) {
        call_reset(call, WIRE_RESOURCE_EXHAUSTED);
        return;
    }
    call_deliver(call);
}

static void on_half_close(struct stream *stream)
{
    struct call *call = call_from_stream(stream);

    call->half_closed = true;
    call_half_closed(call);
}

static void on_headers_end(struct stream *stream, bool end)
{
    struct call *call = call_from_stream(stream);

    if (!call->headers_done) {
        call->headers_done = true;
        call->counted = true;
        if (call->request->method)
            call->stats = call->request->method->stats;
        call->stats->started_total++;
        log_debug("%s: call %d %s", connection_peer(stream->connection), stream->id,
                  call->request->path);
        /* A server that stops may have ended it before its headers were whole. */
        if (!call->finished && request_accept(call))
            call_accept(call);
    }
    if (end)
        on_half_close(stream);
}

/* ---- Answers ---- */

void *call_context(const struct call *call)
{
    return call->method->context;
}

void *call_data(const struct call *call)
{
    return call->data;
}

void call_set_data(struct call *call, void *data)
{
    call->data = data;
}

struct loop *call_loop(const struct call *call)
{
    return call->server->loop;
}

const char *call_peer(const struct call *call)
{
    return connection_peer(call->stream.connection);
}

int64_t call_time_left_ms(const struct call *call)
{
    if (call->deadline_ms == 0)
        return INT64_MAX;
    return (int64_t)call->deadline_ms - (int64_t)loop_now_ms(call->server->loop);
}

bool call_metadata(const struct call *call, size_t index, struct header *ret_header)
{
    size_t offset = 0;

    if (!call->request)
        return false;
    for (size_t i = 0; metadata_next(&call->request->metadata, &offset, ret_header); i++) {
        if (i == index)
            return true;
    }
    return false;
}

static int answer_metadata_add(struct metadata *metadata, bool too_late,
                               const struct header *header)
{
    if (too_late || metadata->count == METADATA_FIELDS_MAX)
        return 1;
    return metadata_add(metadata, header);
}

int call_add_header(struct call *call, const struct header *header)
{
    return answer_metadata_add(&call->headers, call->responded, header);
}

int call_add_trailer(struct call *call, const struct header *header)
{
    return answer_metadata_add(&call->trailers, call->trailers_sent, header);
}

static int call_respond(struct call *call)
{
    struct answer answer;
    int r;

    answer.count = 0;
    answer_add(&answer, ":status", "200");
    answer_add(&answer, "content-type", "application/grpc");
    answer_add_metadata(&answer, &call->headers);
    call->responded = true;
    r = stream_respond(&call->stream, answer.fields, answer.count, false);
    if (r < 0)
        call_reset(call, WIRE_INTERNAL);
    metadata_deinit(&call->headers);
    return r == 0 ? 0 : 1;
}

int call_send_headers(struct call *call)
{
    if (call->responded)
        return 0;
    return call->finished ? 1 : call_respond(call);
}

int call_send(struct call *call, struct message *message)
{
    int r;

    if (call->finished || queue_full(&call->queue))
        return 1;
    r = queue_push(&call->queue, message);
    if (r < 0)
        return r;
    message_ref(message);
    call->server->queued_bytes += message->size;
    r = call_send_headers(call);
    if (r == 0)
        stream_resume(&call->stream);
    return r;
}

void call_resume(struct call *call)
{
    if (!call->finished && call_send_headers(call) == 0)
        stream_resume(&call->stream);
}

/* Where on_read() writes, and what it tells about that. */
struct frame {
    uint8_t *bytes;
    size_t size;
    size_t used;
    struct stream_read *read;
};

static void frame_count(struct frame *frame, size_t first_end, unsigned messages)
{
    if (frame->read->messages == 0)
        frame->read->first_end = first_end;
    frame->read->messages += messages;
}

/* Copies of the current message what fits. */
static void frame_copy(struct frame *frame, struct call *call)
{
    size_t rest = call->current->size - call->current_offset;
    size_t size = MIN(rest, frame->size - frame->used);

    memcpy(frame->bytes + frame->used, call->current->bytes + call->current_offset, size);
    frame->used += size;
    call->current_offset += (uint32_t)size;
    call->inside = size < rest;
    if (!call->inside) {
        frame_count(frame, frame->used, 1);
        call_set_current(call, NULL);
    }
}

/* Asks the handler for one message, which does not surely fit: its rest becomes `current`. */
static int frame_pull_straddling(struct frame *frame, struct call *call)
{
    static uint8_t bytes[PULL_SIZE_MAX];
    size_t room = frame->size - frame->used;
    unsigned messages = 1;
    size_t size = call->method->pull(call, bytes, sizeof(bytes), &messages);
    struct message *rest;

    if (size == 0)
        return 0;
    memcpy(frame->bytes + frame->used, bytes, MIN(size, room));
    frame->used += MIN(size, room);
    if (size <= room) {
        frame_count(frame, frame->used, 1);
        return 1;
    }
    rest = message_from_bytes(bytes + room, (uint32_t)(size - room));
    if (!rest)
        return -ENOMEM;
    call->server->queued_bytes += rest->size;
    call_set_current(call, rest);
    call->inside = true;
    return 1;
}

/* Asks the handler for messages. 1 if there were some, 0 if not, -ENOMEM. */
static int frame_pull(struct frame *frame, struct call *call)
{
    const struct method *method = call->method;
    uint8_t *bytes = frame->bytes + frame->used;
    size_t room = frame->size - frame->used;
    unsigned messages = UINT_MAX;
    size_t size;

    if (room < method->pull_size_max)
        return frame_pull_straddling(frame, call);
    size = method->pull(call, bytes, room, &messages);
    if (size == 0)
        return 0;
    frame_count(frame, frame->used + WIRE_PREFIX_SIZE + wire_prefix_length(bytes), messages);
    frame->used += size;
    return 1;
}

static int frame_fill(struct frame *frame, struct call *call)
{
    while (frame->used < frame->size) {
        if (!call->current)
            call_set_current(call, queue_pop(&call->queue));
        if (call->current) {
            frame_copy(frame, call);
        } else if (!call->finished && call->method->pull) {
            int r = frame_pull(frame, call);
            if (r <= 0)
                return r;
        } else {
            break;
        }
    }
    return 0;
}

static ssize_t on_read(struct stream *stream, uint8_t *bytes, size_t size, struct stream_read *ret)
{
    struct call *call = call_from_stream(stream);
    struct frame frame = {.bytes = bytes, .size = size, .read = ret};
    bool whole;
    int r;

    call->reading = true;
    r = frame_fill(&frame, call);
    if (r == 0 && call->input_held && !queue_full(&call->queue))
        call_deliver(call);
    call->reading = false;
    ret->account = call->stats;
    whole = !call->current && call->queue.count == 0;
    ret->more = !whole || (call->method->pull && frame.used == frame.size);
    if (r == 0 && whole && call->finished && !call->trailers_sent && !call->was_reset) {
        ret->end = true;
        r = send_trailers(call);
        if (r > 0)
            call->status = WIRE_INTERNAL;
    }
    if (r >= 0)
        return (ssize_t)frame.used;
    /* The connection resets the stream. */
    call->finished = true;
    call->was_reset = true;
    call->status = WIRE_INTERNAL;
    return r;
}

static void on_accepted(void *account, unsigned messages)
{
    struct method_stats *stats = account;

    stats->sent_total += messages;
}

/* ---- Both ends of its life ---- */

void call_server_log_refusal(struct call_server *server, const char *peer, const char *what,
                             const char *why)
{
    unsigned dropped;

    if (!log_limit_pass(&server->refusals, loop_now_ms(server->loop), &dropped))
        return;
    if (dropped > 0)
        log_warning("%u more refusals were not logged", dropped);
    log_event(LOG_WARNING, log_fields({"STOCKD_PEER", peer}, {"STOCKD_REASON", why}),
              "%s: %s refused: %s", peer, what, why);
}

static struct stream *on_open(struct connection *connection)
{
    struct call_server *server = *(struct call_server **)connection_context(connection);
    struct call *call;

    if (server->calls >= server->max_calls) {
        server->refused_total++;
        call_server_log_refusal(server, connection_peer(connection), "call",
                                "max_streams_total is reached");
        return NULL;
    }
    call = calloc(1, sizeof(*call));
    if (!call)
        return NULL;
    call->request = calloc(1, sizeof(*call->request));
    if (!call->request) {
        free(call);
        return NULL;
    }
    call->request->timeout_ns = WIRE_TIMEOUT_MAX_NS;
    call->server = server;
    call->stats = &server->other;
    call->timer.fire = on_timer;
    server->calls++;
    return &call->stream;
}

static enum wire_status final_status(const struct call *call, bool local)
{
    if (call->finished && (call->trailers_sent || local))
        return call->status;
    /* The client reset it, or went. */
    return WIRE_CANCELLED;
}

static void on_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct call *call = call_from_stream(stream);
    struct call_server *server = call->server;
    enum wire_status status = final_status(call, local);

    loop_disarm(server->loop, &call->timer);
    if (call->counted) {
        call->stats->handled_total[status]++;
        log_debug("%s: call %d ended: %s%s%s", call_peer(call), stream->id,
                  wire_status_name(status), call->text ? ": " : "", call->text ? call->text : "");
    }
    call->finished = true;
    if (call->begun)
        call->method->end(call, status);
    call_drop_queue(call);
    call_set_current(call, NULL);
    request_free(call->request);
    metadata_deinit(&call->headers);
    metadata_deinit(&call->trailers);
    free(call->input);
    free(call->text);
    server->calls--;
    free(call);
}

const struct connection_ops call_connection_ops = {
    .open = on_open,
    .header = on_header,
    .headers_end = on_headers_end,
    .data = on_data,
    .half_close = on_half_close,
    .read = on_read,
    .close = on_close,
    .accepted = on_accepted,
    .count = wire_count_messages,
};
