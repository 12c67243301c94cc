/*
 * Names of the grpc_client_* families and their labels are those of go-grpc-prometheus, so that
 * dashboards for it show this client as well.
 */
#include "client/families.h"

#include "base/util.h"
#include "client/call.h"

const char *const connect_outcome_labels[] = {
#define X(identifier, label) [CONNECT_##identifier] = (label),
    CONNECT_OUTCOMES(X)
#undef X
};

const char *const resume_outcome_labels[] = {
#define X(identifier, label) [RESUME_##identifier] = (label),
    RESUME_OUTCOMES(X)
#undef X
};

#define METHOD_LABELS(stats)                                                                       \
    "grpc_type", "server_stream", "grpc_service", CALL_SERVICE, "grpc_method",                     \
        (stats)->method ? (stats)->method : CALL_METHOD

static uint64_t value(const struct metric_family *family, const void *context)
{
    return *(const uint64_t *)(const void *)((const char *)context + family->argument);
}

/* One value of struct stats, at the row's offset. */
static void collect_value(struct metrics_writer *writer, const struct metric_family *family,
                          void *context)
{
    metrics_u64(writer, value(family, context), NULL);
}

/* The same, labelled with the one method that there is. */
static void collect_method(struct metrics_writer *writer, const struct metric_family *family,
                           void *context)
{
    const struct stats *stats = context;

    metrics_u64(writer, value(family, context), METHOD_LABELS(stats), NULL);
}

static void collect_handled(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    const struct stats *stats = context;

    for (unsigned i = 0; i < WIRE_STATUS_COUNT; i++)
        metrics_u64(writer, stats->handled_total[i], METHOD_LABELS(stats), "grpc_code",
                    wire_status_name(i), NULL);
}

static void collect_connects(struct metrics_writer *writer, const struct metric_family *family,
                             void *context)
{
    const struct stats *stats = context;

    for (unsigned i = 0; i < CONNECT_OUTCOME_COUNT; i++)
        metrics_u64(writer, stats->connects_total[i], "outcome", connect_outcome_labels[i], NULL);
}

static void collect_resumes(struct metrics_writer *writer, const struct metric_family *family,
                            void *context)
{
    const struct stats *stats = context;

    for (unsigned i = 0; i < RESUME_OUTCOME_COUNT; i++)
        metrics_u64(writer, stats->resumes_total[i], "outcome", resume_outcome_labels[i], NULL);
}

static void collect_lag(struct metrics_writer *writer, const struct metric_family *family,
                        void *context)
{
    const struct stats *stats = context;

    metrics_double(writer, stats->lag_seconds, NULL);
}

static const struct metric_family families[] = {
    {"stock_updates_received_total", METRIC_COUNTER,
     "Updates that have been processed: waited for, checked, and printed.", collect_value,
     offsetof(struct stats, updates_received_total)},
    {"stock_client_gaps_total", METRIC_COUNTER,
     "Updates whose price is not the price before plus their change.", collect_value,
     offsetof(struct stats, gaps_total)},
    {"stock_client_unprocessed_bytes", METRIC_GAUGE,
     "Bytes of updates that have come and for which the server has got no credit back.",
     collect_value, offsetof(struct stats, unprocessed_bytes)},
    {"stock_client_connects_total", METRIC_COUNTER, "Attempts to connect, by how they ended.",
     collect_connects, 0},
    {"stock_client_received_bytes_total", METRIC_COUNTER, "Bytes received from servers.",
     collect_value, offsetof(struct stats, connection.received_bytes_total)},
    {"stock_client_sent_bytes_total", METRIC_COUNTER, "Bytes sent to servers.", collect_value,
     offsetof(struct stats, connection.sent_bytes_total)},
    {"grpc_client_started_total", METRIC_COUNTER, "Calls started.", collect_method,
     offsetof(struct stats, started_total)},
    {"grpc_client_handled_total", METRIC_COUNTER, "Calls ended, by status.", collect_handled, 0},
    {"grpc_client_msg_received_total", METRIC_COUNTER,
     "Messages taken up to be processed, their delay included.", collect_method,
     offsetof(struct stats, msg_received_total)},
    {"grpc_client_msg_sent_total", METRIC_COUNTER, "Messages accepted by the kernel.",
     collect_method, offsetof(struct stats, msg_sent_total)},
    {"stock_client_market_events_received_total", METRIC_COUNTER,
     "Events of the market that have been processed: waited for, checked, and printed.",
     collect_value, offsetof(struct stats, events_received_total)},
    {"stock_client_market_conflated_total", METRIC_COUNTER,
     "Updates of the market that the server merged into newer ones.", collect_value,
     offsetof(struct stats, conflated_total)},
    {"stock_client_market_dropped_total", METRIC_COUNTER,
     "Updates of the market that the server dropped.", collect_value,
     offsetof(struct stats, dropped_total)},
    {"stock_client_market_gaps_total", METRIC_COUNTER,
     "Gaps in the market's history that the server told of.", collect_value,
     offsetof(struct stats, market_gaps_total)},
    {"stock_client_market_missed_total", METRIC_COUNTER,
     "Updates missing in these gaps, as far as the server knows.", collect_value,
     offsetof(struct stats, missed_total)},
    {"stock_client_market_resumes_total", METRIC_COUNTER,
     "Calls that asked to go on where another ended, by what they began with.", collect_resumes, 0},
    {"stock_client_market_lag_seconds", METRIC_GAUGE,
     "How old the last update of the market was when it was taken up.", collect_lag, 0},
    {"stock_client_build_info", METRIC_GAUGE, "Always 1; the label tells the version.",
     metrics_build_info, 0},
};

int client_families_render(void *context, enum metrics_format format, char **ret_text,
                           size_t *ret_size)
{
    return metrics_render_program(families, ELEMENTSOF(families), context, format, ret_text,
                                  ret_size);
}
