/*
 * A call's life:
 *
 *   open -> headers -> [messages] -> begin -> answers -> trailers -> close
 *
 * A fault before `begin` is answered with Trailers-Only. After call_finish() a call is `finished`:
 * it takes nothing more from its handler, sends what it has, and waits for its stream to close.
 */
#include "rpc/call_private.h"

#include "base/events.h"
#include "base/util.h"
#include "rpc/compression.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define METADATA_FIELDS_MAX 64 /* of an answer's headers, and of its trailers */

struct call *call_from_stream(struct stream *stream)
{
    return container_of(stream, struct call, stream);
}

/* ---- Its end ---- */

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

void call_reset(struct call *call, enum wire_status status)
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
    char status[3];
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
    char *digit = answer->status;
    size_t length;

    /* Statuses end at 16; snprintf() would be a noticeable part of a short call. */
    if (call->status >= 10)
        *digit++ = '1';
    *digit++ = (char)('0' + call->status % 10);
    *digit = '\0';
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
        answer_add(&answer, "grpc-accept-encoding", COMPRESSION_ACCEPTED);
    if (call->custom) {
        answer_add_metadata(&answer, &call->custom->headers);
        answer_add_metadata(&answer, &call->custom->trailers);
    }
    call->responded = true;
    call->trailers_sent = true;
    return stream_respond(&call->stream, answer.fields, answer.count, true);
}

int call_send_trailers(struct call *call)
{
    struct answer answer;

    answer.count = 0;
    answer_add_status(&answer, call);
    if (call->custom)
        answer_add_metadata(&answer, &call->custom->trailers);
    call->trailers_sent = true;
    return stream_submit_trailers(&call->stream, answer.fields, answer.count);
}

/* The length of `text` when it is cut, where it must be, between two characters of UTF-8. */
static int text_length(const char *text)
{
    size_t length = strlen(text);

    if (length <= STATUS_TEXT_MAX)
        return (int)length;
    length = STATUS_TEXT_MAX;
    while (length > STATUS_TEXT_MAX - 3 && ((uint8_t)text[length] & 0xC0) == 0x80)
        length--;
    return (int)length;
}

static void call_set_status(struct call *call, enum wire_status status, const char *text)
{
    call->finished = true;
    /* A handler may pass on a number that it was given. */
    call->status = (unsigned)status < WIRE_STATUS_COUNT ? status : WIRE_UNKNOWN;
    /* Without memory the status alone must do. */
    if (text && *text && asprintf(&call->text, "%.*s", text_length(text), text) < 0)
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
    r = call->responded ? call_send_trailers(call) : send_trailers_only(call, http_status);
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
    call_set_current(call, NULL);
    if (call->inside)
        call_reset(call, status);
    else
        call_send_end(call, "200");
}

void call_refuse(struct call *call, const char *http_status, enum wire_status status,
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

/* ---- For its handler ---- */

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

const char *call_method(const struct call *call, char text[static CALL_METHOD_MAX])
{
    if (!call->method)
        return NULL;
    (void)snprintf(text, CALL_METHOD_MAX, "/%s/%s", call->method->service, call->method->name);
    return text;
}

static uint64_t call_age_ms(const struct call *call)
{
    return loop_now_ms(call->server->loop) - call->begun_ms;
}

int64_t call_time_left_ms(const struct call *call)
{
    uint64_t now_ms = loop_now_ms(call->server->loop);

    if (call->deadline_ms == 0)
        return INT64_MAX;
    return call->deadline_ms > now_ms ? (int64_t)(call->deadline_ms - now_ms) : 0;
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

static struct custom *custom_free(struct custom *custom)
{
    if (custom) {
        metadata_deinit(&custom->headers);
        metadata_deinit(&custom->trailers);
    }
    free(custom);
    return NULL;
}

static int custom_add(struct call *call, bool trailer, const struct header *header)
{
    struct metadata *metadata;

    if (!call->custom)
        call->custom = calloc(1, sizeof(*call->custom));
    if (!call->custom)
        return -ENOMEM;
    metadata = trailer ? &call->custom->trailers : &call->custom->headers;
    return metadata->count == METADATA_FIELDS_MAX ? 1 : metadata_add_unpadded(metadata, header);
}

uint64_t call_begun_ms(const struct call *call)
{
    return call->begun_ms;
}

uint64_t call_unsent_bytes(const struct call *call)
{
    return connection_unsent_bytes(call->stream.connection);
}

int call_use_gzip(struct call *call)
{
    if (!call->gzip_accepted || call->responded || call->finished || call->method->whole_messages)
        return 1;
    call->gzip = true;
    return 0;
}

bool call_was_compressed(const struct call *call)
{
    return call->compressed;
}

int call_add_header(struct call *call, const struct header *header)
{
    return call->responded ? 1 : custom_add(call, false, header);
}

int call_add_trailer(struct call *call, const struct header *header)
{
    return call->trailers_sent ? 1 : custom_add(call, true, header);
}

static int call_respond(struct call *call)
{
    struct answer answer;
    int r;

    answer.count = 0;
    answer_add(&answer, ":status", "200");
    answer_add(&answer, "content-type", "application/grpc");
    if (call->gzip)
        answer_add(&answer, "grpc-encoding", "gzip");
    if (call->custom)
        answer_add_metadata(&answer, &call->custom->headers);
    call->responded = true;
    r = stream_respond(&call->stream, answer.fields, answer.count, false);
    if (r < 0)
        call_reset(call, WIRE_INTERNAL);
    return r == 0 ? 0 : 1;
}

int call_send_headers(struct call *call)
{
    if (call->responded)
        return 0;
    return call->finished ? 1 : call_respond(call);
}

static void on_accepted(void *account, unsigned messages, uint64_t lag_ns)
{
    struct method_stats *stats = account;

    stats->sent_total += messages;
    if (stats->send_lag)
        histogram_observe_many(stats->send_lag, (double)lag_ns / 1e9, messages);
}

/* ---- Both ends of its life ---- */

const char *const refusal_reason_labels[] = {
#define X(identifier, label) [REFUSAL_##identifier] = (label),
    REFUSAL_REASONS(X)
#undef X
};

/* May one more of what a peer can cause be logged? */
static bool warning_pass(struct call_server *server)
{
    unsigned dropped;

    if (!log_limit_pass(&server->refusals, loop_now_ms(server->loop), &dropped))
        return false;
    if (dropped > 0)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(MESSAGES_DROPPED), {"STOCKD_DROPPED", log_number(dropped)}),
                  "%u more refusals were not logged", dropped);
    return true;
}

void call_server_refuse(struct call_server *server, enum refusal_reason reason, const char *peer,
                        const char *why)
{
    server->refused_total[reason]++;
    if (!warning_pass(server))
        return;
    log_event(LOG_WARNING,
              log_fields(LOG_EVENT_OF(reason == REFUSAL_ACCEPT_FAILED ? EVENT_ACCEPT_FAILED
                                                                      : EVENT_REFUSED),
                         {"STOCKD_PEER", peer}, {"STOCKD_REASON", refusal_reason_labels[reason]}),
              "%s: refused: %s", peer, why);
}

static enum event event_of_close(enum close_reason reason)
{
    switch (reason) {
    case CLOSE_STALLED:
        return EVENT_CLIENT_STALLED;
    case CLOSE_FLOOD:
    case CLOSE_TOO_MANY_PINGS:
        return EVENT_CLIENT_EXPELLED;
    default:
        return EVENT_CONNECTION_CLOSED;
    }
}

void call_server_log_closed(struct call_server *server, enum close_reason reason, const char *peer,
                            const char *detail)
{
    enum event event = event_of_close(reason);
    int level = event != EVENT_CONNECTION_CLOSED && warning_pass(server) ? LOG_WARNING : LOG_DEBUG;

    log_event(level,
              log_fields(LOG_EVENT_OF(event), {"STOCKD_PEER", peer},
                         {"STOCKD_REASON", close_reason_labels[reason]}, {"STOCKD_ERROR", detail}),
              "%s: connection closed: %s%s%s", peer, close_reason_labels[reason],
              detail ? ": " : "", detail ? detail : "");
}

static struct call *call_new(struct call_server *server)
{
    _cleanup_free_ struct call *call = calloc(1, sizeof(*call));

    if (!call)
        return NULL;
    call->request = calloc(1, sizeof(*call->request));
    if (!call->request)
        return NULL;
    call->request->timeout_ns = WIRE_TIMEOUT_MAX_NS;
    call->server = server;
    call->max_message_bytes = server->max_message_bytes;
    call->stats = &server->other;
    call->timer.fire = on_timer;
    return TAKE_PTR(call);
}

static struct call_server *server_of(struct connection *connection)
{
    return *(struct call_server **)connection_context(connection);
}

static struct stream *on_open(struct connection *connection)
{
    struct call_server *server = server_of(connection);
    struct call *call;

    if (server->stopping) {
        call_server_refuse(server, REFUSAL_SHUTDOWN, connection_peer(connection),
                           "a call: the server is shutting down");
        return NULL;
    }
    if (server->calls >= server->max_calls) {
        call_server_refuse(server, REFUSAL_MAX_STREAMS_TOTAL, connection_peer(connection),
                           "a call: grpc.max_streams_total is reached");
        return NULL;
    }
    call = call_new(server);
    if (!call) {
        call_server_refuse(server, REFUSAL_NO_MEMORY, connection_peer(connection),
                           "a call: no memory");
        return NULL;
    }
    server->calls++;
    return &call->stream;
}

static void on_refused(struct connection *connection)
{
    call_server_refuse(server_of(connection), REFUSAL_MAX_STREAMS, connection_peer(connection),
                       "a call: grpc.max_streams is reached");
}

/* A client that takes nothing: a call's share of the server's memory is not for ever. */
static void on_stalled(struct stream *stream, enum blocked_reason reason)
{
    struct call *call = call_from_stream(stream);
    struct call_server *server = call->server;
    char method[CALL_METHOD_MAX];

    if (call->trailers_sent || call->was_reset)
        return;
    server->stalled_total++;
    if (warning_pass(server))
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(CLIENT_STALLED), {"STOCKD_PEER", call_peer(call)},
                             {"STOCKD_REASON", blocked_reason_labels[reason]},
                             {"STOCKD_STREAM", log_number((uint64_t)stream->id)},
                             {"STOCKD_METHOD", call_method(call, method)},
                             {"STOCKD_DURATION_MS", log_number(call_age_ms(call))},
                             {"STOCKD_MESSAGES", log_number(call->messages)}),
                  "%s: call %d put out: its client took nothing for the stall_timeout (%s)",
                  call_peer(call), stream->id, blocked_reason_labels[reason]);
    call_abort(call, WIRE_RESOURCE_EXHAUSTED,
               "the client took nothing for the server's stall_timeout");
}

void call_cut_off(struct call *call, const char *reason, const char *text)
{
    char method[CALL_METHOD_MAX];

    if (call->trailers_sent || call->was_reset)
        return;
    if (warning_pass(call->server))
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(SUBSCRIBER_CUT_OFF), {"STOCKD_PEER", call_peer(call)},
                             {"STOCKD_STREAM", log_number((uint64_t)call->stream.id)},
                             {"STOCKD_METHOD", call_method(call, method)},
                             {"STOCKD_REASON", reason}, {"STOCKD_ERROR", text},
                             {"STOCKD_DURATION_MS", log_number(call_age_ms(call))},
                             {"STOCKD_MESSAGES", log_number(call->messages)}),
                  "%s: call %d cut off: %s", call_peer(call), call->stream.id, text);
    call_abort(call, WIRE_RESOURCE_EXHAUSTED, text);
}

static enum wire_status final_status(const struct call *call, uint32_t error_code, bool local)
{
    bool by_client = !call->trailers_sent && !local && error_code != STREAM_CONNECTION_LOST;

    /* Headers of ours that were more than the client takes: the connection has reset it. */
    if (local && !call->trailers_sent && !call->was_reset)
        return WIRE_INTERNAL;
    /* A client that resets a call before it was told its end has cancelled it, and so has one that
     * goes away from a call that had no end yet. */
    return call->finished && !by_client ? call->status : WIRE_CANCELLED;
}

static void log_end(const struct call *call, enum wire_status status)
{
    const struct stream *stream = &call->stream;
    enum blocked_reason blocked = stream->blocked_last;
    char method[CALL_METHOD_MAX];

    log_event(LOG_DEBUG,
              log_fields(LOG_EVENT(CALL_ENDED), {"STOCKD_PEER", call_peer(call)},
                         {"STOCKD_STREAM", log_number((uint64_t)stream->id)},
                         {"STOCKD_METHOD", call_method(call, method)},
                         {"STOCKD_STATUS", wire_status_name(status)},
                         {"STOCKD_DURATION_MS", log_number(call_age_ms(call))},
                         {"STOCKD_MESSAGES", log_number(call->messages)},
                         {"STOCKD_BLOCKED",
                          blocked == BLOCKED_NOT ? NULL : blocked_reason_labels[blocked]}),
              "%s: call %d ended: %s%s%s", call_peer(call), stream->id, wire_status_name(status),
              call->text ? ": " : "", call->text ? call->text : "");
}

static void on_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct call *call = call_from_stream(stream);
    struct call_server *server = call->server;
    enum wire_status status = final_status(call, error_code, local);

    loop_disarm(server->loop, &call->timer);
    if (call->counted) {
        call->stats->handled_total[status]++;
        log_end(call, status);
    }
    call->finished = true;
    if (call->begun)
        call->method->end(call, status);
    call_drop_queue(call);
    call_set_current(call, NULL);
    request_free(call->request);
    call->custom = custom_free(call->custom);
    call_free_input(call);
    free(call->text);
    server->calls--;
    free(call);
}

/* Of what the handler keeps for a call, this much from its start is fetched early. */
#define DATA_PREFETCHED 256

static void on_prefetch(const struct stream *stream)
{
    const struct call *call = container_of(stream, struct call, stream);

    if (call->data)
        util_prefetch(call->data, DATA_PREFETCHED);
}

const struct connection_ops call_connection_ops = {
    .open = on_open,
    .refused = on_refused,
    .header = call_on_header,
    .headers_end = call_on_headers_end,
    .data = call_on_data,
    .stalled = on_stalled,
    .half_close = call_on_half_close,
    .read = call_on_read,
    .prefetch = on_prefetch,
    .stream_size = sizeof(struct call),
    .close = on_close,
    .accepted = on_accepted,
    .count = wire_count_messages,
};
