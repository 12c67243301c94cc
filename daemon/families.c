/*
 * The families of stockd's metrics. Every one is there from the start, at zero, with each of its
 * labels' values; no label takes a value that a client chooses.
 */
#include "families.h"

#include "base/util.h"

static struct connection_stats *net_stats(void *context)
{
    return server_connection_stats(((struct families_context *)context)->server);
}

static const struct call_server *calls(void *context)
{
    return server_calls(((struct families_context *)context)->server);
}

/* ---- gRPC: one sample a method, and one for all paths that name none ---- */

struct method_labels {
    const char *type;
    const char *service;
    const char *name;
    const struct method_stats *stats;
};

/* The index-th method's labels; the last one's are `other`. False when there are no more. */
static bool method_at(void *context, size_t index, struct method_labels *ret_labels)
{
    const struct call_server *server = calls(context);
    const struct method *method;

    if (index > server->methods.count)
        return false;
    if (index == server->methods.count) {
        /* An unknown method's kind is unknown too; it is treated like a stream both ways. */
        *ret_labels = (struct method_labels){method_type_labels[METHOD_BIDI_STREAM], "other",
                                             "other", &server->other};
        return true;
    }
    method = server->methods.methods[index];
    *ret_labels = (struct method_labels){method_type_labels[method->type], method->service,
                                         method->name, method->stats};
    return true;
}

/* `argument` is the counter's offset in struct method_stats. */
static void collect_method(struct metrics_writer *writer, const struct metric_family *family,
                           void *context)
{
    struct method_labels method;

    for (size_t i = 0; method_at(context, i, &method); i++) {
        const void *value = (const char *)method.stats + family->argument;

        metrics_u64(writer, *(const uint64_t *)value, "grpc_type", method.type, "grpc_service",
                    method.service, "grpc_method", method.name, NULL);
    }
}

static void collect_handled(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    struct method_labels method;

    for (size_t i = 0; method_at(context, i, &method); i++) {
        for (unsigned status = 0; status < WIRE_STATUS_COUNT; status++)
            metrics_u64(writer, method.stats->handled_total[status], "grpc_type", method.type,
                        "grpc_service", method.service, "grpc_method", method.name, "grpc_code",
                        wire_status_name(status), NULL);
    }
}

/* ---- Connections and streams ---- */

/* `argument` is the counter's offset in struct connection_stats. */
static void collect_net(struct metrics_writer *writer, const struct metric_family *family,
                        void *context)
{
    const void *value = (const char *)net_stats(context) + family->argument;

    metrics_u64(writer, *(const uint64_t *)value, NULL);
}

static void collect_updates_sent(struct metrics_writer *writer, const struct metric_family *family,
                                 void *context)
{
    const struct stock_service *stock = ((struct families_context *)context)->stock;

    metrics_u64(writer, stock_service_updates_sent(stock), NULL);
}

static void collect_send_lag(struct metrics_writer *writer, const struct metric_family *family,
                             void *context)
{
    const struct stock_service *stock = ((struct families_context *)context)->stock;

    metrics_histogram(writer, stock_service_send_lag(stock));
}

static void collect_last_update(struct metrics_writer *writer, const struct metric_family *family,
                                void *context)
{
    const struct stock_service *stock = ((struct families_context *)context)->stock;

    metrics_double(writer, stock_service_last_update(stock), NULL);
}

static void collect_interval(struct metrics_writer *writer, const struct metric_family *family,
                             void *context)
{
    const struct stock_service *stock = ((struct families_context *)context)->stock;

    metrics_double(writer, stock_service_interval(stock), NULL);
}

static void collect_closed(struct metrics_writer *writer, const struct metric_family *family,
                           void *context)
{
    for (unsigned i = 0; i < CLOSE_REASON_COUNT; i++)
        metrics_u64(writer, net_stats(context)->closed_total[i], "reason", close_reason_labels[i],
                    NULL);
}

static void collect_streams(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    const struct connection_stats *stats = net_stats(context);
    uint64_t blocked = 0;

    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        blocked += stats->blocked[i];
    metrics_u64(writer, stats->streams - blocked, "state", "sending", NULL);
    metrics_u64(writer, blocked, "state", "blocked", NULL);
}

/* `argument` is the offset of an array, by reason, in struct connection_stats. */
static void collect_by_blocked_reason(struct metrics_writer *writer,
                                      const struct metric_family *family, void *context)
{
    const void *values = (const char *)net_stats(context) + family->argument;

    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        metrics_u64(writer, ((const uint64_t *)values)[i], "reason", blocked_reason_labels[i],
                    NULL);
}

static void collect_blocked_seconds(struct metrics_writer *writer,
                                    const struct metric_family *family, void *context)
{
    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        metrics_double(writer, (double)connection_stats_blocked_ns(net_stats(context), i) / 1e9,
                       "reason", blocked_reason_labels[i], NULL);
}

static void collect_queued(struct metrics_writer *writer, const struct metric_family *family,
                           void *context)
{
    metrics_u64(writer, calls(context)->input_bytes, "place", "request", NULL);
    metrics_u64(writer, calls(context)->queued_bytes, "place", "call", NULL);
    metrics_u64(writer, net_stats(context)->unsent_bytes, "place", "socket", NULL);
}

static void collect_window_updates(struct metrics_writer *writer,
                                   const struct metric_family *family, void *context)
{
    const struct connection_stats *stats = net_stats(context);

    metrics_u64(writer, stats->window_updates_stream_total, "scope", "stream", NULL);
    metrics_u64(writer, stats->window_updates_connection_total, "scope", "connection", NULL);
}

static void collect_refused(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    for (unsigned i = 0; i < REFUSAL_REASON_COUNT; i++)
        metrics_u64(writer, calls(context)->refused_total[i], "reason", refusal_reason_labels[i],
                    NULL);
}

/* ---- TLS ---- */

static void collect_handshakes(struct metrics_writer *writer, const struct metric_family *family,
                               void *context)
{
    const struct families_context *all = context;
    const struct server_tls_stats *stats = server_tls_stats(all->server);

    for (unsigned i = 0; i < TLS_OUTCOME_COUNT; i++)
        metrics_u64(writer, stats->handshakes_total[i], "outcome", tls_outcome_labels[i], NULL);
}

static void collect_handshakes_now(struct metrics_writer *writer,
                                   const struct metric_family *family, void *context)
{
    const struct families_context *all = context;

    metrics_u64(writer, server_tls_stats(all->server)->handshakes, NULL);
}

static void collect_certificate(struct metrics_writer *writer, const struct metric_family *family,
                                void *context)
{
    const struct families_context *all = context;

    metrics_u64(writer, (uint64_t)listeners_certificate_expires(all->listeners), NULL);
}

/* ---- The market ---- */

static const struct market *market_of(void *context)
{
    return ((struct families_context *)context)->exchange->market;
}

static const struct market_service *market_service_of(void *context)
{
    return ((struct families_context *)context)->exchange->service;
}

/* NULL: none, or it has been closed. */
static const struct feed *feed_of(void *context)
{
    return ((struct families_context *)context)->exchange->feed;
}

/* `argument` is the value's offset in struct market_stats. */
static void collect_market(struct metrics_writer *writer, const struct metric_family *family,
                           void *context)
{
    const void *value = (const char *)market_stats(market_of(context)) + family->argument;

    metrics_u64(writer, *(const uint64_t *)value, NULL);
}

static void collect_tickers(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    metrics_u64(writer, market_tickers(market_of(context)), NULL);
}

static void collect_sequence(struct metrics_writer *writer, const struct metric_family *family,
                             void *context)
{
    metrics_u64(writer, market_sequence(market_of(context)), NULL);
}

/* `argument` is the offset of an array, by policy, in struct market_stats. */
static void collect_by_policy(struct metrics_writer *writer, const struct metric_family *family,
                              void *context)
{
    const void *values = (const char *)market_stats(market_of(context)) + family->argument;

    for (unsigned i = 0; i < SLOW_POLICY_COUNT; i++)
        metrics_u64(writer, ((const uint64_t *)values)[i], "policy", slow_policy_labels[i], NULL);
}

static void collect_cut_off(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    const struct market_stats *stats = market_stats(market_of(context));

    for (unsigned i = 0; i < CUT_OFF_REASON_COUNT; i++)
        metrics_u64(writer, stats->cut_off_total[i], "reason", cut_off_reason_labels[i], NULL);
}

static void collect_resumes(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    const struct market_stats *stats = market_stats(market_of(context));

    for (unsigned i = 0; i < RESUME_OUTCOME_COUNT; i++)
        metrics_u64(writer, stats->resumes_total[i], "outcome", resume_outcome_labels[i], NULL);
}

static void collect_queue_age(struct metrics_writer *writer, const struct metric_family *family,
                              void *context)
{
    metrics_histogram(writer, &market_stats(market_of(context))->queue_age);
}

static void collect_market_sent(struct metrics_writer *writer, const struct metric_family *family,
                                void *context)
{
    metrics_u64(writer, market_service_events_sent(market_service_of(context)), NULL);
}

static void collect_market_lag(struct metrics_writer *writer, const struct metric_family *family,
                               void *context)
{
    metrics_histogram(writer, market_service_send_lag(market_service_of(context)));
}

static void collect_feed_state(struct metrics_writer *writer, const struct metric_family *family,
                               void *context)
{
    const struct feed *feed = feed_of(context);

    for (unsigned i = 0; i < FEED_STATE_COUNT; i++)
        metrics_u64(writer, feed && feed_state(feed) == i, "state", feed_state_labels[i], NULL);
}

static void collect_feed_faults(struct metrics_writer *writer, const struct metric_family *family,
                                void *context)
{
    const struct feed *feed = feed_of(context);

    metrics_u64(writer, feed ? feed_stats(feed)->faults_total : 0, NULL);
}

static void collect_replay_late(struct metrics_writer *writer, const struct metric_family *family,
                                void *context)
{
    const struct feed *feed = feed_of(context);

    metrics_u64(writer, feed ? feed_stats(feed)->late_total : 0, NULL);
}

static void collect_feed_last(struct metrics_writer *writer, const struct metric_family *family,
                              void *context)
{
    const struct feed *feed = feed_of(context);

    metrics_double(writer, feed ? (double)feed_stats(feed)->last_unix_ns / 1e9 : 0, NULL);
}

/* ---- The program ---- */

static void collect_metrics_refused(struct metrics_writer *writer,
                                    const struct metric_family *family, void *context)
{
    const struct families_context *all = context;

    metrics_u64(writer, listeners_metrics_refused(all->listeners), NULL);
}

static void collect_lag(struct metrics_writer *writer, const struct metric_family *family,
                        void *context)
{
    metrics_histogram(writer, &((struct families_context *)context)->loop->lag);
}

#define METHOD(member) offsetof(struct method_stats, member)
#define NET(member) offsetof(struct connection_stats, member)
#define MARKET(member) offsetof(struct market_stats, member)

static const struct metric_family families[] = {
    {"stock_updates_sent_total", METRIC_COUNTER,
     "Stock updates whose last byte the kernel has accepted.", collect_updates_sent, 0},
    {"stockd_send_lag_seconds", METRIC_HISTOGRAM,
     "From when an update was due until the kernel had accepted its last byte.", collect_send_lag,
     0},
    {"stockd_feed_last_update_timestamp_seconds", METRIC_GAUGE,
     "When the last update was made, in seconds since the Unix epoch; 0 if none was yet.",
     collect_last_update, 0},
    {"stockd_feed_interval_seconds", METRIC_GAUGE,
     "Time between two updates of a call that begins now; 0: as fast as the client takes them.",
     collect_interval, 0},
    {"stockd_market_updates_total", METRIC_COUNTER, "Updates that the market has taken.",
     collect_market, MARKET(updates_total)},
    {"stockd_market_tickers", METRIC_GAUGE, "Tickers of the market.", collect_tickers, 0},
    {"stockd_market_sequence", METRIC_GAUGE, "Sequence number of the market's newest update.",
     collect_sequence, 0},
    {"stockd_market_history_bytes", METRIC_GAUGE, "Bytes of updates that the history keeps.",
     collect_market, MARKET(history_bytes)},
    {"stockd_market_history_updates", METRIC_GAUGE, "Updates that the history keeps.",
     collect_market, MARKET(history_updates)},
    {"stockd_market_last_update_timestamp_seconds", METRIC_GAUGE,
     "When the feed last gave an update, in seconds since the Unix epoch; 0 if none was yet.",
     collect_feed_last, 0},
    {"stockd_market_feed_state", METRIC_GAUGE,
     "1 for the state that the market's feed is in; all 0 without a feed.", collect_feed_state, 0},
    {"stockd_market_feed_faults_total", METRIC_COUNTER, "Lines of a feed that could not be taken.",
     collect_feed_faults, 0},
    {"stockd_market_replay_late_total", METRIC_COUNTER,
     "Lines of a recording that were published late, because their time is before that of a line "
     "above them.",
     collect_replay_late, 0},
    {"stockd_market_subscribers", METRIC_GAUGE, "Subscriptions open now, by policy.",
     collect_by_policy, MARKET(subscribers)},
    {"stockd_market_subscribers_behind", METRIC_GAUGE,
     "Subscriptions for which something waited when they were looked at last, by policy.",
     collect_by_policy, MARKET(behind)},
    {"stockd_market_subscriptions_bytes", METRIC_GAUGE,
     "Memory that subscriptions take, what the history keeps for all not included.", collect_market,
     MARKET(subscriptions_size)},
    {"stockd_market_conflated_total", METRIC_COUNTER,
     "Updates that were merged into newer ones of the same ticker, for one subscription each.",
     collect_market, MARKET(conflated_total)},
    {"stockd_market_dropped_total", METRIC_COUNTER,
     "Updates that were dropped, for one subscription each.", collect_market,
     MARKET(dropped_total)},
    {"stockd_market_heartbeats_total", METRIC_COUNTER, "Heartbeats given to subscriptions.",
     collect_market, MARKET(heartbeats_total)},
    {"stockd_market_gaps_total", METRIC_COUNTER, "Gaps told to subscriptions.", collect_market,
     MARKET(gaps_total)},
    {"stockd_market_cut_off_total", METRIC_COUNTER,
     "Subscriptions that were cut off because they were too slow, by reason.", collect_cut_off, 0},
    {"stockd_market_resumes_total", METRIC_COUNTER,
     "Subscriptions that wished to resume, by what came of it.", collect_resumes, 0},
    {"stockd_market_events_sent_total", METRIC_COUNTER,
     "Events of subscriptions whose last byte the kernel has accepted.", collect_market_sent, 0},
    {"stockd_market_queue_age_seconds", METRIC_HISTOGRAM,
     "From when the market took an update until a subscription gave it to its connection.",
     collect_queue_age, 0},
    {"stockd_market_send_lag_seconds", METRIC_HISTOGRAM,
     "From when the market took an update until the kernel had accepted its last byte.",
     collect_market_lag, 0},
    {"grpc_server_started_total", METRIC_COUNTER, "Calls begun.", collect_method,
     METHOD(started_total)},
    {"grpc_server_handled_total", METRIC_COUNTER, "Calls ended, by status code.", collect_handled,
     0},
    {"grpc_server_msg_received_total", METRIC_COUNTER, "Messages received.", collect_method,
     METHOD(received_total)},
    {"grpc_server_msg_sent_total", METRIC_COUNTER,
     "Messages whose last byte the kernel has accepted.", collect_method, METHOD(sent_total)},
    {"stockd_connections", METRIC_GAUGE, "Connections open now.", collect_net, NET(connections)},
    {"stockd_connections_accepted_total", METRIC_COUNTER, "Connections accepted.", collect_net,
     NET(connections_total)},
    {"stockd_connections_closed_total", METRIC_COUNTER, "Connections closed, by reason.",
     collect_closed, 0},
    {"stockd_refused_total", METRIC_COUNTER,
     "Connections and streams refused because of a limit or an error, by reason.", collect_refused,
     0},
    {"stockd_streams", METRIC_GAUGE, "Streams open now, by whether flow control blocks them.",
     collect_streams, 0},
    {"stockd_blocked_streams", METRIC_GAUGE,
     "Streams that have something to send now and cannot, by reason.", collect_by_blocked_reason,
     NET(blocked)},
    {"stockd_blocked_seconds_total", METRIC_COUNTER,
     "Time that streams with something to send could not send, summed over streams, by reason.",
     collect_blocked_seconds, 0},
    {"stockd_blocked_episodes_total", METRIC_COUNTER,
     "Times that a stream with something to send became blocked, by reason.",
     collect_by_blocked_reason, NET(blocked_episodes_total)},
    {"stockd_sent_bytes_total", METRIC_COUNTER, "Bytes that the kernel accepted from gRPC.",
     collect_net, NET(sent_bytes_total)},
    {"stockd_received_bytes_total", METRIC_COUNTER, "Bytes received by gRPC.", collect_net,
     NET(received_bytes_total)},
    {"stockd_queued_bytes", METRIC_GAUGE,
     "Bytes that stockd holds, by where they wait: of requests that are not whole, in the queues "
     "of "
     "calls, and for a socket.",
     collect_queued, 0},
    {"stockd_window_updates_received_total", METRIC_COUNTER,
     "WINDOW_UPDATE frames received, by what they are for.", collect_window_updates, 0},
    {"stockd_pings_received_total", METRIC_COUNTER, "PING frames received.", collect_net,
     NET(pings_received_total)},
    {"stockd_keepalive_pings_sent_total", METRIC_COUNTER,
     "PING frames sent to clients of which nothing was heard.", collect_net, NET(pings_sent_total)},
    {"stockd_streams_stalled_total", METRIC_COUNTER,
     "Streams that a client kept from sending anything for stall_timeout.", collect_net,
     NET(streams_stalled_total)},
    {"stockd_tls_pending_handshakes", METRIC_GAUGE, "TLS handshakes under way.",
     collect_handshakes_now, 0},
    {"stockd_tls_handshakes_total", METRIC_COUNTER, "TLS handshakes, by how they ended.",
     collect_handshakes, 0},
    {"stockd_tls_certificate_expiry_timestamp_seconds", METRIC_GAUGE,
     "When the first of the server's certificates ends, in seconds since the Unix epoch; 0 without "
     "TLS.",
     collect_certificate, 0},
    {"stockd_metrics_refused_total", METRIC_COUNTER,
     "Connections and requests for metrics that were refused because of their address or "
     "password.",
     collect_metrics_refused, 0},
    {"stockd_event_loop_lag_seconds", METRIC_HISTOGRAM,
     "How long one turn of the event loop kept new events waiting.", collect_lag, 0},
    {"stockd_build_info", METRIC_GAUGE, "Always 1; the labels tell the version.",
     metrics_build_info, 0},
};

int families_render(void *context, enum metrics_format format, char **ret_text, size_t *ret_size)
{
    return metrics_render_program(families, ELEMENTSOF(families), context, format, ret_text,
                                  ret_size);
}
