/*
 * What happens inside callbacks of the connection and the consumer only leaves its mark; the
 * decisions are made in one place, on_settle(), at the end of the loop's turn.
 */
#include "client/client.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "client/connect.h"
#include "client/random.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* How long the goodbye may take: RST_STREAM, GOAWAY, and the server's closing. */
#define GOODBYE_MAX_MS 1000

static void client_attempt(struct client *client);

/* What every message about the server has, with the event first. */
#define TARGET_FIELD(client)                                                                       \
    {                                                                                              \
        "STOCKD_TARGET", (client)->options.connect.target.text                                     \
    }

/* ---- Ending ---- */

void client_stop(struct client *client, enum exit_code exit_code)
{
    if (client->stopping)
        return;
    client->stopping = true;
    client->exit_code = exit_code;
    client->stop_ns = uv_hrtime();
    consumer_stop(client->consumer);
    loop_queue(client->loop, &client->settle);
}

static void on_goodbye_limit(struct wheel_timer *timer)
{
    struct client *client = container_of(timer, struct client, goodbye_limit);

    if (client->connection)
        connection_close(client->connection, CLOSE_LOCAL, NULL);
}

/* Ends the connection, in good order where it can be and within a bounded time. */
static void say_goodbye(struct client *client)
{
    if (wheel_armed(&client->goodbye_limit))
        return;
    if (!client->established) {
        connection_close(client->connection, CLOSE_LOCAL, NULL);
        return;
    }
    connection_drain(client->connection, CLOSE_LOCAL);
    loop_arm(client->loop, &client->goodbye_limit, GOODBYE_MAX_MS, 1);
}

/* Every turn that anything changed in, from client_stop() until nothing is left. */
static void continue_stopping(struct client *client)
{
    loop_disarm(client->loop, &client->retry);
    loop_disarm(client->loop, &client->time_max);
    dial_stop(&client->dial);
    if (client->connection) {
        if (client->calling)
            client_call_cancel(&client->call);
        say_goodbye(client);
        return;
    }
    if (client->calling) {
        client->calling = false;
        client_call_decide(&client->call, WIRE_CANCELLED, "");
        client->stats->handled_total[client->call.status]++;
    }
    if (!client->has_stopped) {
        client->has_stopped = true;
        client->stopped(client);
    }
}

/* What people read where messages are not shown. */
static void set_problem(struct client *client, const char *text)
{
    (void)snprintf(client->problem, sizeof(client->problem), "%s", text);
}

static void tell_change(struct client *client)
{
    if (client->changed)
        client->changed(client);
}

static void give_up(struct client *client, const char *error)
{
    (void)snprintf(client->problem, sizeof(client->problem), "cannot connect to %s: %s",
                   client->options.connect.target.text, error);
    log_event(LOG_ERR,
              log_fields(LOG_EVENT(GAVE_UP), TARGET_FIELD(client), {"STOCKD_ERROR", error}),
              "cannot connect to %s: %s", client->options.connect.target.text, error);
}

static void on_time_max(struct wheel_timer *timer)
{
    struct client *client = container_of(timer, struct client, time_max);

    if (!client->ever_established) {
        give_up(client, client->last_error[0] ? client->last_error : "no answer in time");
        client_stop(client, EXIT_NO_CONNECTION);
        return;
    }
    client_stop(client, EXIT_DONE);
}

/* ---- Trying again ---- */

static void on_retry(struct wheel_timer *timer)
{
    client_attempt(container_of(timer, struct client, retry));
}

/* Arms the timer for the next attempt, and says why there has to be one; `status`: of the call that
 * was lost, or NULL. */
static void plan_retry(struct client *client, const char *why, const char *status)
{
    uint64_t wait_ms = backoff_wait_ms(&client->backoff, loop_now_ms(client->loop));
    char when[32] = "at once";

    loop_arm(client->loop, &client->retry, wait_ms, 1);
    client->retry_at_ms = loop_now_ms(client->loop) + wait_ms;
    set_problem(client, why);
    if (wait_ms > 0)
        (void)snprintf(when, sizeof(when), "in %.1f s", (double)wait_ms / 1e3);
    log_event(LOG_WARNING,
              log_fields(LOG_EVENT(RETRYING), TARGET_FIELD(client), {"STOCKD_ERROR", why},
                         {"STOCKD_WAIT_MS", log_number(wait_ms)}, {"STOCKD_STATUS", status}),
              "%s; trying again %s", why, when);
    tell_change(client);
}

static void on_dial_failed(void *user, enum connect_outcome outcome, const char *error)
{
    struct client *client = user;
    char text[TARGET_AUTHORITY_SIZE + DIAL_ERROR_MAX + 64];

    client->stats->connects_total[outcome]++;
    (void)snprintf(client->last_error, sizeof(client->last_error), "%s", error);
    if (client->stopping)
        return;
    if (client->options.reconnect) {
        (void)snprintf(text, sizeof(text), "cannot connect to %s: %s",
                       client->options.connect.target.text, error);
        plan_retry(client, text, NULL);
    } else {
        give_up(client, error);
        client_stop(client, EXIT_NO_CONNECTION);
    }
}

/* Is there hope in another call? */
static bool may_retry(const struct client *client)
{
    const struct client_call *call = &client->call;

    if (!client->options.reconnect)
        return false;
    return call->status == WIRE_UNAVAILABLE || (call->status == WIRE_RESOURCE_EXHAUSTED &&
                                                call->told && client->options.retry_exhausted);
}

/* The call is over and everything that came of it has been processed. */
static void end_call(struct client *client)
{
    struct client_call *call = &client->call;
    char text[CALL_TEXT_MAX + 64];

    client->calling = false;
    if (call->status == WIRE_OK && consumer_has_partial(client->consumer)) {
        call->status = WIRE_INTERNAL;
        (void)snprintf(call->text, sizeof(call->text), "the response ended inside a message");
    }
    client->stats->handled_total[call->status]++;
    if (client->consumer->call_updates > 0)
        backoff_reset(&client->backoff);

    (void)snprintf(text, sizeof(text), "rpc error: code = %s desc = %s",
                   wire_status_name(call->status), call->text);
    if (call->status == WIRE_OK) {
        log_event(LOG_INFO, log_fields(LOG_EVENT(STREAM_ENDED), TARGET_FIELD(client)),
                  "the server has ended the stream");
        client_stop(client, EXIT_DONE);
    } else if (may_retry(client)) {
        plan_retry(client, text, wire_status_name(call->status));
    } else {
        set_problem(client, text);
        log_event(LOG_ERR,
                  log_fields(LOG_EVENT(CALL_FAILED), TARGET_FIELD(client), {"STOCKD_ERROR", text},
                             {"STOCKD_STATUS", wire_status_name(call->status)}),
                  "%s", text);
        client_stop(client, EXIT_FAILED);
    }
}

static void on_settle(struct loop_task *task)
{
    struct client *client = container_of(task, struct client, settle);

    if (!client->stopping && client->calling && !client->call.open) {
        /* The connection has served. The next attempt makes its own. */
        if (client->connection)
            say_goodbye(client);
        else if (consumer_is_idle(client->consumer))
            end_call(client);
    }
    if (client->stopping)
        continue_stopping(client);
}

/* ---- What the consumer tells ---- */

static void on_credit(void *user, size_t size)
{
    struct client *client = user;

    if (!client->calling)
        return;
    client_call_consume(&client->call, size);
    /*
     * With a delay there is time for a frame after each update, and a server that waits for credit
     * then follows the pace of this client update by update. Without one, few frames are worth
     * more.
     */
    if (client->consumer->options.delay_max_ms > 0)
        client_call_credit_flush(&client->call);
}

static void on_idle(void *user)
{
    struct client *client = user;

    if (client->calling && !client->call.open)
        loop_queue(client->loop, &client->settle);
}

static void on_bad_message(void *user, enum wire_status status, const char *text)
{
    struct client *client = user;

    /* The server's own verdict, if it is there already, came after this message: ours is first. */
    client->call.decided = false;
    client->call.told = false;
    client_call_decide(&client->call, status, text);
    client_call_cancel(&client->call);
    loop_queue(client->loop, &client->settle);
}

static void on_enough(void *user)
{
    client_stop(user, EXIT_DONE);
}

static void on_broken(void *user, int error)
{
    struct client *client = user;

    /* Whoever reads has had enough, as `head` has: that is no failure. */
    if (error == -EPIPE) {
        client_stop(client, EXIT_DONE);
        return;
    }
    (void)snprintf(client->problem, sizeof(client->problem), "cannot write to standard output: %s",
                   strerror(-error));
    log_event(LOG_ERR, log_fields(LOG_EVENT(OUTPUT_FAILED), {"STOCKD_ERROR", strerror(-error)}),
              "cannot write to standard output: %s", strerror(-error));
    client_stop(client, EXIT_FAILED);
}

static bool on_message(void *user, const uint8_t *message, size_t size, struct text *output)
{
    struct client *client = user;

    return client->message(client, message, size, output);
}

static void on_settled(void *user)
{
    struct client *client = user;

    if (client->settled)
        client->settled(client);
}

const struct consumer_ops client_event_ops = {
    .credit = on_credit,
    .idle = on_idle,
    .bad_message = on_bad_message,
    .message = on_message,
    .settled = on_settled,
    .enough = on_enough,
    .broken = on_broken,
};

const struct consumer_ops client_consumer_ops = {
    .credit = on_credit,
    .idle = on_idle,
    .bad_message = on_bad_message,
    .enough = on_enough,
    .broken = on_broken,
};

/* ---- What the connection tells ---- */

static void on_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct client *client = connection_context(stream->connection);
    struct client_call *call = client_call_from_stream(stream);

    /* The body of a response that is not gRPC's, or of a call that is over, is for nobody. */
    if (!call->accepted || call->decided) {
        client_call_consume(call, size);
        return;
    }
    if (consumer_data(client->consumer, bytes, size) < 0) {
        client_call_decide(call, WIRE_RESOURCE_EXHAUSTED, "out of memory");
        client_call_cancel(call);
    }
}

static void on_stream_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct client *client = connection_context(stream->connection);

    client_call_closed(stream, error_code);
    loop_queue(client->loop, &client->settle);
}

static void on_established(struct connection *connection)
{
    struct client *client = connection_context(connection);
    int r;

    if (client->stopping)
        return;
    client->established = true;
    client->ever_established = true;
    client->stats->connects_total[CONNECT_ESTABLISHED]++;
    dial_stop(&client->dial);
    log_event(LOG_INFO,
              log_fields(LOG_EVENT(CONNECTED), TARGET_FIELD(client),
                         {"STOCKD_PEER", connection_peer(connection)},
                         {"STOCKD_TLS", client->dial.agreed[0] ? client->dial.agreed : NULL}),
              "connected to %s (%s%s%s)", client->options.connect.target.text,
              connection_peer(connection), client->dial.agreed[0] ? ", " : "", client->dial.agreed);

    client->calling = true;
    consumer_begin(client->consumer);
    r = client_call_start(
        &client->call, connection, client->options.connect.tls.credentials ? "https" : "http",
        client->options.connect.target.authority, client->options.request, client->stats);
    if (r < 0)
        client_call_decide(&client->call, WIRE_RESOURCE_EXHAUSTED, "out of memory");
    else if (r > 0)
        client_call_decide(&client->call, WIRE_UNAVAILABLE, "the server takes no calls");
    if (r != 0)
        loop_queue(client->loop, &client->settle);
    tell_change(client);
}

/* Has this connection sent a PING? Then it was for keepalive. */
static bool has_pinged(const struct client *client)
{
    return client->stats->connection.pings_sent_total > client->pings_before;
}

/* What the server's GOAWAY means; NULL: just that it goes. */
static const char *goaway_text(const struct client *client)
{
    switch (client->goaway_error) {
    case HTTP2_NO_ERROR:
        return NULL;
    case HTTP2_ENHANCE_YOUR_CALM:
        return has_pinged(client) ? "the server finds that PINGs come too often (too_many_pings); "
                                    "a longer --keepalive would do"
                                  : "the server finds that it is asked for too much "
                                    "(ENHANCE_YOUR_CALM)";
    case HTTP2_INADEQUATE_SECURITY:
        return client->options.connect.tls.credentials
                   ? "the server wants better TLS (INADEQUATE_SECURITY)"
                   : "the server wants TLS (--tls)";
    default:
        return "the server ended the connection with an error";
    }
}

static void on_goaway(struct connection *connection, uint32_t error_code, int32_t last_stream_id)
{
    struct client *client = connection_context(connection);

    log_event(LOG_DEBUG,
              log_fields(LOG_EVENT(GOING_AWAY), TARGET_FIELD(client),
                         {"STOCKD_HTTP2_ERROR", log_number(error_code)}),
              "the server is going away (HTTP/2 error %" PRIu32 ", last stream %" PRId32 ")",
              error_code, last_stream_id);
    client->goaway_error = error_code;
    /* gRFC A8: so that the next connection is not ended for the same reason. */
    if (error_code == HTTP2_ENHANCE_YOUR_CALM && has_pinged(client))
        client->keepalive_ms *= 2;
    /* A call that the server has not looked at is now reset, and that would not say why. */
    if (error_code != HTTP2_NO_ERROR && client->calling && client->call.open &&
        client->call.stream.id > last_stream_id)
        client_call_decide(&client->call, WIRE_UNAVAILABLE, goaway_text(client));
}

/* Why an established connection was lost. */
static const char *loss_text(const struct client *client, enum close_reason reason,
                             const char *detail)
{
    const char *text = goaway_text(client);

    return text ? text : detail ? detail : close_reason_labels[reason];
}

static void on_connection_closed(struct connection *connection, enum close_reason reason,
                                 const char *detail)
{
    struct client *client = connection_context(connection);

    client->connection = NULL;
    loop_disarm(client->loop, &client->goodbye_limit);
    if (client->established || client->stopping) {
        log_event(LOG_DEBUG,
                  log_fields(LOG_EVENT(DISCONNECTED), TARGET_FIELD(client),
                             {"STOCKD_REASON", close_reason_labels[reason]}),
                  "the connection is closed: %s", close_reason_labels[reason]);
        if (client->calling)
            client_call_explain_loss(&client->call, loss_text(client, reason, detail));
        loop_queue(client->loop, &client->settle);
    } else {
        connect_refused(&client->dial, &client->options.connect, reason,
                        loss_text(client, reason, detail),
                        client->stats->connection.received_bytes_total == client->received_before);
    }
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
    .goaway = on_goaway,
    .closed = on_connection_closed,
};

/* ---- Beginning ---- */

static void on_dial_connected(void *user, struct transport *transport, const char *peer)
{
    struct client *client = user;
    const struct connection_options options = {
        .loop = client->loop,
        .stats = &client->stats->connection,
        .ops = &connection_ops,
        .context = client,
        .keepalive_time_ms = client->keepalive_ms,
        .stream_window = (uint32_t)client->options.window,
        .connection_window = (uint32_t)MAX(client->options.window, (uint64_t)65535),
    };

    client->goaway_error = HTTP2_NO_ERROR;
    client->pings_before = client->stats->connection.pings_sent_total;
    client->received_before = client->stats->connection.received_bytes_total;
    connect_begin(&client->connection, &client->dial, transport, peer, &options);
}

static const struct dial_ops dial_ops = {
    .connected = on_dial_connected,
    .failed = on_dial_failed,
};

static void client_attempt(struct client *client)
{
    client->established = false;
    backoff_begin(&client->backoff, loop_now_ms(client->loop), client_random_unit());
    dial_start(&client->dial, &client->options.connect.target, client->backoff.connect_by_ms);
}

void client_start(struct client *client)
{
    client->stats->connection.loop = client->loop;
    client->settle.run = on_settle;
    client->retry.fire = on_retry;
    client->time_max.fire = on_time_max;
    client->goodbye_limit.fire = on_goodbye_limit;
    client->keepalive_ms = client->options.connect.keepalive_ms;
    dial_init(&client->dial, client->loop, &client->options.connect.tls, &dial_ops, client);
    if (client->options.time_max_ms > 0)
        loop_arm(client->loop, &client->time_max, client->options.time_max_ms, 1);
    client_attempt(client);
}

bool client_is_connected(const struct client *client)
{
    return client->connection && client->established && !client->stopping;
}
