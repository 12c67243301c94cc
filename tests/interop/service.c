/*
 * Every streaming call that answers is an `exchange`: a list of answers that are wished for, of
 * which the next one is made only when the call's queue has room for it and its time has come. So
 * a client that asks for two thousand messages and reads them slowly costs no more here than one
 * that asks for one.
 */
#include "service.h"

#include "base/loop.h"
#include "base/util.h"
#include "grpc/testing/empty.pb-c.h"
#include "grpc/testing/messages.pb-c.h"
#include "rpc/call.h"

#include <errno.h>
#include <string.h>

#define SERVICE "grpc.testing.TestService"

#define ECHO_INITIAL "x-grpc-test-echo-initial"
#define ECHO_TRAILING "x-grpc-test-echo-trailing-bin"

/* The largest payload that is made for anybody, and the longest list of wishes. */
#define PAYLOAD_BYTES_MAX (16 * 1024 * 1024)
#define OUTPUTS_MAX 100000

/* ---- What all methods share ---- */

/* Metadata of these two names comes back, in the headers and in the trailers. */
static void echo_metadata(struct call *call)
{
    struct header header;

    for (size_t i = 0; call_metadata(call, i, &header); i++) {
        if (header_is(&header, ECHO_INITIAL)) {
            (void)call_add_header(call, &header);
        } else if (header_is(&header, ECHO_TRAILING)) {
            /* Base64 is accepted with its padding, but sent without. */
            while (header.value_length > 0 && header.value[header.value_length - 1] == '=')
                header.value_length--;
            (void)call_add_trailer(call, &header);
        }
    }
}

static void finish_without_memory(struct call *call)
{
    call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
}

static void finish_unreadable(struct call *call)
{
    call_finish(call, WIRE_INTERNAL, "the request is no message of this method");
}

static void finish_as_asked(struct call *call, const Grpc__Testing__EchoStatus *status)
{
    bool known = status->code >= 0 && status->code < WIRE_STATUS_COUNT;

    call_finish(call, known ? (enum wire_status)status->code : WIRE_UNKNOWN, status->message);
}

/* Did the message come as the client says that it sent it? If not, the call is over. */
static bool check_compression(struct call *call, const Grpc__Testing__BoolValue *expected)
{
    if (!expected || (expected->value != 0) == call_was_compressed(call))
        return true;
    call_finish(call, WIRE_INVALID_ARGUMENT,
                expected->value ? "the message should have come compressed"
                                : "the message should not have come compressed");
    return false;
}

static bool check_size(struct call *call, int32_t size)
{
    if (size >= 0 && size <= PAYLOAD_BYTES_MAX)
        return true;
    call_finish(call, WIRE_INVALID_ARGUMENT, "a payload of this size is not to be had");
    return false;
}

/* A message of any type of protobuf-c's. One reference, the caller's. NULL: no memory. */
static struct message *make_message(const void *content)
{
    const ProtobufCMessage *base = content;
    struct message *message = message_new((uint32_t)protobuf_c_message_get_packed_size(base));

    if (message)
        (void)protobuf_c_message_pack(base, message_body(message));
    return message;
}

/* The only message of an answer, and the end. */
static void answer(struct call *call, struct message *message)
{
    int r = message ? call_send(call, message) : -ENOMEM;

    message_unref(message);
    if (r < 0)
        finish_without_memory(call);
    else
        call_finish(call, WIRE_OK, NULL);
}

/* For methods that keep nothing of their calls, and those that keep one block. */
static void on_end(struct call *call, enum wire_status status)
{
    free(call_data(call));
}

/* ---- Unary calls ---- */

static void on_empty(struct call *call, const uint8_t *request, size_t size)
{
    Grpc__Testing__Empty response = GRPC__TESTING__EMPTY__INIT;
    Grpc__Testing__Empty *empty = grpc__testing__empty__unpack(NULL, size, request);

    if (!empty) {
        finish_unreadable(call);
        return;
    }
    grpc__testing__empty__free_unpacked(empty, NULL);
    echo_metadata(call);
    answer(call, make_message(&response));
}

static void answer_simple(struct call *call, const Grpc__Testing__SimpleRequest *request)
{
    Grpc__Testing__SimpleResponse response = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
    Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
    _cleanup_free_ uint8_t *zeros = calloc(1, (size_t)request->response_size + 1);

    if (!zeros) {
        finish_without_memory(call);
        return;
    }
    payload.body = (ProtobufCBinaryData){(size_t)request->response_size, zeros};
    response.payload = &payload;
    if (request->response_compressed && request->response_compressed->value)
        (void)call_use_gzip(call);
    answer(call, make_message(&response));
}

static void on_unary(struct call *call, const uint8_t *request, size_t size)
{
    Grpc__Testing__SimpleRequest *simple =
        grpc__testing__simple_request__unpack(NULL, size, request);

    if (!simple) {
        finish_unreadable(call);
        return;
    }
    echo_metadata(call);
    if (check_compression(call, simple->expect_compressed) &&
        check_size(call, simple->response_size)) {
        if (simple->response_status && simple->response_status->code != 0)
            finish_as_asked(call, simple->response_status);
        else
            answer_simple(call, simple);
    }
    grpc__testing__simple_request__free_unpacked(simple, NULL);
}

/* ---- StreamingInputCall ---- */

static void on_input_begin(struct call *call, const uint8_t *request, size_t size)
{
    uint32_t *sum = calloc(1, sizeof(*sum));

    echo_metadata(call);
    call_set_data(call, sum);
    if (!sum)
        finish_without_memory(call);
}

static void on_input(struct call *call, const uint8_t *message, size_t size)
{
    uint32_t *sum = call_data(call);
    Grpc__Testing__StreamingInputCallRequest *request =
        grpc__testing__streaming_input_call_request__unpack(NULL, size, message);

    if (!request) {
        finish_unreadable(call);
        return;
    }
    if (check_compression(call, request->expect_compressed) && request->payload)
        *sum += (uint32_t)request->payload->body.len;
    grpc__testing__streaming_input_call_request__free_unpacked(request, NULL);
}

static void on_input_end(struct call *call)
{
    Grpc__Testing__StreamingInputCallResponse response =
        GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;
    const uint32_t *sum = call_data(call);

    response.aggregated_payload_size = (int32_t)*sum;
    answer(call, make_message(&response));
}

/* ---- Calls that answer with a stream ---- */

/* A message that is wished for. */
struct output {
    uint32_t size;
    uint32_t delay_ms;
    bool compressed;
};

struct exchange {
    struct call *call;
    struct wheel_timer timer; /* armed: the next output is not due */
    struct output *outputs;
    size_t next;
    size_t count;
    size_t capacity;
    struct message *held; /* the next output, made, which found no room in the call's queue */
    bool due;             /* the next output's delay is over */
    bool waiting;         /* for the client's end, before the first answer */
    bool complete;        /* no further output will be wished for */
    Grpc__Testing__EchoStatus *status; /* how to end; NULL: OK */
};

static void exchange_run(struct exchange *exchange);

static void on_due(struct wheel_timer *timer)
{
    struct exchange *exchange = container_of(timer, struct exchange, timer);

    exchange->due = true;
    exchange_run(exchange);
}

static struct exchange *exchange_begin(struct call *call)
{
    struct exchange *exchange = calloc(1, sizeof(*exchange));

    echo_metadata(call);
    if (!exchange) {
        finish_without_memory(call);
        return NULL;
    }
    exchange->call = call;
    exchange->timer.fire = on_due;
    call_set_data(call, exchange);
    return exchange;
}

static void on_exchange_end(struct call *call, enum wire_status status)
{
    struct exchange *exchange = call_data(call);

    if (!exchange)
        return;
    loop_disarm(call_loop(call), &exchange->timer);
    message_unref(exchange->held);
    if (exchange->status)
        grpc__testing__echo_status__free_unpacked(exchange->status, NULL);
    free(exchange->outputs);
    free(exchange);
}

/* Sends `output`, or what was made of it before. As call_send(). */
static int exchange_send(struct exchange *exchange, const struct output *output)
{
    Grpc__Testing__StreamingOutputCallResponse response =
        GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
    Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
    int r;

    if (!exchange->held) {
        _cleanup_free_ uint8_t *zeros = calloc(1, (size_t)output->size + 1);

        if (!zeros)
            return -ENOMEM;
        payload.body = (ProtobufCBinaryData){output->size, zeros};
        response.payload = &payload;
        exchange->held = make_message(&response);
        if (!exchange->held)
            return -ENOMEM;
    }
    r = output->compressed ? call_send(exchange->call, exchange->held)
                           : call_send_plain(exchange->call, exchange->held);
    if (r == 0)
        exchange->held = message_unref(exchange->held);
    return r;
}

/* Sends what is wished for, as far as time and room allow. */
static void exchange_run(struct exchange *exchange)
{
    struct loop *loop = call_loop(exchange->call);

    if (exchange->waiting || wheel_armed(&exchange->timer))
        return;
    while (exchange->next < exchange->count) {
        const struct output *output = &exchange->outputs[exchange->next];
        int r;

        if (output->delay_ms > 0 && !exchange->due) {
            loop_arm(loop, &exchange->timer, output->delay_ms, 1);
            return;
        }
        r = exchange_send(exchange, output);
        if (r < 0)
            finish_without_memory(exchange->call);
        if (r != 0)
            return; /* on_room() goes on, unless the call is over */
        exchange->due = false;
        exchange->next++;
    }
    if (exchange->complete && exchange->status)
        finish_as_asked(exchange->call, exchange->status);
    else if (exchange->complete)
        call_finish(exchange->call, WIRE_OK, NULL);
}

static void on_room(struct call *call)
{
    struct exchange *exchange = call_data(call);

    if (exchange)
        exchange_run(exchange);
}

/* Room for `count` more outputs. 0, 1 if that is too much, or -ENOMEM. */
static int exchange_reserve(struct exchange *exchange, size_t count)
{
    size_t kept = exchange->count - exchange->next;
    size_t capacity = MAX(exchange->capacity, (size_t)8);
    struct output *outputs;

    if (kept + count > OUTPUTS_MAX)
        return 1;
    if (exchange->next > 0)
        memmove(exchange->outputs, exchange->outputs + exchange->next,
                kept * sizeof(*exchange->outputs));
    exchange->next = 0;
    exchange->count = kept;
    while (capacity < kept + count)
        capacity *= 2;
    if (capacity == exchange->capacity)
        return 0;
    outputs = reallocarray(exchange->outputs, capacity, sizeof(*outputs));
    if (!outputs)
        return -ENOMEM;
    exchange->outputs = outputs;
    exchange->capacity = capacity;
    return 0;
}

/* Adds the outputs that a request wishes for. True, or the call is over. */
static bool exchange_add(struct exchange *exchange,
                         const Grpc__Testing__StreamingOutputCallRequest *request)
{
    int r = exchange_reserve(exchange, request->n_response_parameters);

    if (r < 0)
        finish_without_memory(exchange->call);
    if (r > 0)
        call_finish(exchange->call, WIRE_RESOURCE_EXHAUSTED, "too many messages are wished for");
    if (r != 0)
        return false;
    for (size_t i = 0; i < request->n_response_parameters; i++) {
        const Grpc__Testing__ResponseParameters *wish = request->response_parameters[i];

        struct output output = {
            .size = (uint32_t)wish->size,
            .delay_ms = wish->interval_us > 0 ? ((uint32_t)wish->interval_us + 999) / 1000 : 0,
            .compressed = wish->compressed && wish->compressed->value,
        };

        if (!check_size(exchange->call, wish->size))
            return false;
        if (output.compressed)
            (void)call_use_gzip(exchange->call); /* before the first answer says otherwise */
        exchange->outputs[exchange->count++] = output;
    }
    return true;
}

static void on_exchange_message(struct call *call, const uint8_t *message, size_t size)
{
    struct exchange *exchange = call_data(call);
    Grpc__Testing__StreamingOutputCallRequest *request =
        grpc__testing__streaming_output_call_request__unpack(NULL, size, message);

    if (!request) {
        finish_unreadable(call);
        return;
    }
    /* Nothing is answered any more behind a status. */
    if (!exchange->status && exchange_add(exchange, request)) {
        if (request->response_status && request->response_status->code != 0) {
            exchange->status = TAKE_PTR(request->response_status);
            exchange->complete = true;
        }
        exchange_run(exchange);
    }
    grpc__testing__streaming_output_call_request__free_unpacked(request, NULL);
}

static void on_exchange_half_close(struct call *call)
{
    struct exchange *exchange = call_data(call);

    exchange->waiting = false;
    exchange->complete = true;
    exchange_run(exchange);
}

static void on_output_begin(struct call *call, const uint8_t *request, size_t size)
{
    if (!exchange_begin(call))
        return;
    on_exchange_message(call, request, size);
    on_exchange_half_close(call);
}

static void on_full_duplex_begin(struct call *call, const uint8_t *request, size_t size)
{
    (void)exchange_begin(call);
}

static void on_half_duplex_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct exchange *exchange = exchange_begin(call);

    if (exchange)
        exchange->waiting = true;
}

/* ---- The table ---- */

#define STATS (&(struct method_stats){0})

static const struct method empty_call = {
    .service = SERVICE,
    .name = "EmptyCall",
    .type = METHOD_UNARY,
    .begin = on_empty,
    .end = on_end,
    .stats = STATS,
};

static const struct method unary_call = {
    .service = SERVICE,
    .name = "UnaryCall",
    .type = METHOD_UNARY,
    .begin = on_unary,
    .end = on_end,
    .stats = STATS,
};

static const struct method streaming_input_call = {
    .service = SERVICE,
    .name = "StreamingInputCall",
    .type = METHOD_CLIENT_STREAM,
    .begin = on_input_begin,
    .message = on_input,
    .half_close = on_input_end,
    .end = on_end,
    .stats = STATS,
};

static const struct method streaming_output_call = {
    .service = SERVICE,
    .name = "StreamingOutputCall",
    .type = METHOD_SERVER_STREAM,
    .begin = on_output_begin,
    .room = on_room,
    .end = on_exchange_end,
    .stats = STATS,
};

static const struct method full_duplex_call = {
    .service = SERVICE,
    .name = "FullDuplexCall",
    .type = METHOD_BIDI_STREAM,
    .begin = on_full_duplex_begin,
    .message = on_exchange_message,
    .half_close = on_exchange_half_close,
    .room = on_room,
    .end = on_exchange_end,
    .stats = STATS,
};

static const struct method half_duplex_call = {
    .service = SERVICE,
    .name = "HalfDuplexCall",
    .type = METHOD_BIDI_STREAM,
    .begin = on_half_duplex_begin,
    .message = on_exchange_message,
    .half_close = on_exchange_half_close,
    .room = on_room,
    .end = on_exchange_end,
    .stats = STATS,
};

struct method_table test_service_methods(void)
{
    static const struct method *const methods[] = {
        &empty_call,       &unary_call,       &streaming_input_call, &streaming_output_call,
        &full_duplex_call, &half_duplex_call,
    };

    return (struct method_table){methods, ELEMENTSOF(methods)};
}
