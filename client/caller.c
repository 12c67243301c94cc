#include "client/caller.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "client/connect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* How long the goodbye may take. */
#define GOODBYE_MAX_MS 500

/* Answers about a market of 10,000 tickers have megabytes. */
#define MESSAGE_MAX (64 * 1024 * 1024)
#define WINDOW (1024 * 1024)

/* ---- Ending ---- */

void caller_end(struct caller *caller, int exit_code)
{
    if (caller->ending)
        return;
    caller->ending = true;
    caller->exit_code = exit_code;
    loop_queue(&caller->program.loop, &caller->settle);
}

static void on_goodbye(struct wheel_timer *timer)
{
    struct caller *caller = container_of(timer, struct caller, goodbye);

    if (caller->connection)
        connection_close(caller->connection, CLOSE_LOCAL, NULL);
}

static void continue_ending(struct caller *caller)
{
    loop_disarm(&caller->program.loop, &caller->late);
    dial_stop(&caller->dial);
    if (!caller->connection) {
        uv_stop(&caller->program.uv);
        return;
    }
    if (wheel_armed(&caller->goodbye))
        return;
    if (caller->calling)
        client_call_cancel(&caller->call);
    if (!caller->established) {
        connection_close(caller->connection, CLOSE_LOCAL, NULL);
        return;
    }
    connection_drain(caller->connection, CLOSE_LOCAL);
    loop_arm(&caller->program.loop, &caller->goodbye, GOODBYE_MAX_MS, 1);
}

/* Decisions are made here, at the end of the loop's turn, and not inside of callbacks. */
static void on_settle(struct loop_task *task)
{
    struct caller *caller = container_of(task, struct caller, settle);
    struct client_call *call = &caller->call;

    if (!caller->ending && caller->calling && !call->open) {
        caller->calling = false;
        if (call->status == WIRE_OK && deframer_size(&caller->deframer) > 0) {
            call->status = WIRE_INTERNAL;
            (void)snprintf(call->text, sizeof(call->text), "the response ended inside a message");
        }
        caller->ops->ended(caller, call->status, call->text);
    }
    if (caller->ending)
        continue_ending(caller);
}

static void on_late(struct wheel_timer *timer)
{
    struct caller *caller = container_of(timer, struct caller, late);

    caller->ops->late(caller);
    caller_end(caller, caller->established ? EXIT_FAILED : EXIT_NO_CONNECTION);
}

static void on_interrupted(struct program *program)
{
    caller_end(container_of(program, struct caller, program), EXIT_INTERRUPTED);
}

/* ---- The connection ---- */

static void refuse(struct caller *caller, enum wire_status status, const char *text)
{
    /* The server's own verdict, if it is there already, came after this. */
    caller->call.decided = false;
    client_call_decide(&caller->call, status, text);
    client_call_cancel(&caller->call);
}

static void read_messages(struct caller *caller)
{
    const uint8_t *message;
    size_t size;

    while (!caller->ending) {
        switch (deframer_peek(&caller->deframer, &message, &size)) {
        case DEFRAMER_PARTIAL:
            return;
        case DEFRAMER_WHOLE:
            if (!caller->ops->message(caller, message, size)) {
                refuse(caller, WIRE_INTERNAL, "a message is not one of the method's");
                return;
            }
            (void)deframer_take(&caller->deframer);
            break;
        case DEFRAMER_TOO_LONG:
            refuse(caller, WIRE_RESOURCE_EXHAUSTED, "a message is too long");
            return;
        default:
            refuse(caller, WIRE_INTERNAL, "a message is compressed, or none of gRPC");
            return;
        }
    }
}

static void on_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct caller *caller = connection_context(stream->connection);
    struct client_call *call = client_call_from_stream(stream);

    client_call_consume(call, size);
    if (!call->accepted || call->decided || caller->ending)
        return;
    if (deframer_add(&caller->deframer, bytes, size) < 0)
        refuse(caller, WIRE_RESOURCE_EXHAUSTED, "out of memory");
    else
        read_messages(caller);
}

static void on_stream_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct caller *caller = connection_context(stream->connection);

    client_call_closed(stream, error_code);
    loop_queue(&caller->program.loop, &caller->settle);
}

static void on_established(struct connection *connection)
{
    struct caller *caller = connection_context(connection);

    if (caller->ending)
        return;
    caller->established = true;
    dial_stop(&caller->dial);
    log_event(LOG_DEBUG,
              log_fields(LOG_EVENT(CONNECTED),
                         {"STOCKD_TARGET", caller->options.client.connect.target.text},
                         {"STOCKD_PEER", connection_peer(connection)}),
              "connected to %s (%s)", caller->options.client.connect.target.text,
              connection_peer(connection));
    caller->ops->connected(caller);
}

static void on_connection_closed(struct connection *connection, enum close_reason reason,
                                 const char *detail)
{
    struct caller *caller = connection_context(connection);

    caller->connection = NULL;
    loop_disarm(&caller->program.loop, &caller->goodbye);
    if (caller->established || caller->ending) {
        if (caller->calling)
            client_call_explain_loss(&caller->call, detail ? detail : close_reason_labels[reason]);
        loop_queue(&caller->program.loop, &caller->settle);
        return;
    }
    connect_refused(&caller->dial, &caller->options.client.connect, reason, detail,
                    caller->stats.connection.received_bytes_total == caller->received_before);
}

static const struct connection_ops connection_ops = {
    .header = client_call_header,
    .headers_end = client_call_headers_end,
    .data = on_data,
    .half_close = client_call_half_close,
    .read = client_call_read,
    .close = on_stream_close,
    .accepted = client_call_accepted,
    .count = wire_count_messages,
    .established = on_established,
    .closed = on_connection_closed,
};

static void on_dial_connected(void *user, struct transport *transport, const char *peer)
{
    struct caller *caller = user;
    const struct connection_options options = {
        .loop = &caller->program.loop,
        .stats = &caller->stats.connection,
        .ops = &connection_ops,
        .context = caller,
        .keepalive_time_ms = caller->options.client.connect.keepalive_ms,
        .stream_window = WINDOW,
        .connection_window = WINDOW,
    };

    caller->received_before = caller->stats.connection.received_bytes_total;
    connect_begin(&caller->connection, &caller->dial, transport, peer, &options);
}

static void on_dial_failed(void *user, enum connect_outcome outcome, const char *error)
{
    struct caller *caller = user;

    if (caller->ending)
        return;
    caller->ops->failed(caller, error);
    caller_end(caller, EXIT_NO_CONNECTION);
}

static const struct dial_ops dial_ops = {
    .connected = on_dial_connected,
    .failed = on_dial_failed,
};

/* ---- Calls ---- */

void caller_call(struct caller *caller, const char *path, const ProtobufCMessage *request)
{
    const struct connect_options *connect = &caller->options.client.connect;
    int r;

    deframer_deinit(&caller->deframer);
    caller->deframer.message_max = MESSAGE_MAX;
    caller->calling = true;
    caller->call = (struct client_call){0};
    r = client_call_pack(&caller->request, &caller->request_bytes, path, request);
    if (r == 0)
        r = caller->connection
                ? client_call_start(&caller->call, caller->connection,
                                    connect->tls.credentials ? "https" : "http",
                                    connect->target.authority, &caller->request, &caller->stats)
                : 1;
    if (r < 0)
        client_call_decide(&caller->call, WIRE_RESOURCE_EXHAUSTED, "out of memory");
    else if (r > 0)
        client_call_decide(&caller->call, WIRE_UNAVAILABLE, "the server takes no calls");
    if (r != 0)
        loop_queue(&caller->program.loop, &caller->settle);
}

/* ---- Beginning ---- */

/* The exit code. */
static int run(struct caller *caller)
{
    uint64_t time_ms = caller->options.client.time_max_ms;
    struct loop *loop = &caller->program.loop;
    int r = program_prepare(&caller->options.client.connect);

    if (r != 0)
        return r;
    caller->program.interrupted = on_interrupted;
    caller->stats.connection.loop = loop;
    caller->settle.run = on_settle;
    caller->late.fire = on_late;
    caller->goodbye.fire = on_goodbye;
    caller->exit_code = program_open(&caller->program);
    if (caller->exit_code == 0) {
        dial_init(&caller->dial, loop, &caller->options.client.connect.tls, &dial_ops, caller);
        loop_arm(loop, &caller->late, time_ms, 1);
        dial_start(&caller->dial, &caller->options.client.connect.target,
                   loop_now_ms(loop) + time_ms);
        program_run(&caller->program);
    }
    deframer_deinit(&caller->deframer);
    free(TAKE_PTR(caller->request_bytes));
    program_close(&caller->program, caller->dial.abandoned, caller->exit_code);
    return caller->exit_code;
}

int caller_main(struct caller *caller, const struct subscribe_command *command, int argc,
                char *argv[])
{
    int r = subscribe_options_read(&caller->options, command, argc, argv);
    int exit_code;

    if (r == OPTIONS_RUN && caller->ops->prepare)
        r = caller->ops->prepare(caller);
    exit_code = r == OPTIONS_RUN ? run(caller) : program_exit_code(r);
    subscribe_options_deinit(&caller->options);
    return exit_code;
}
