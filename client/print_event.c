#include "client/print_event.h"

#include "base/util.h"

#include <inttypes.h>

/* The columns of CSV before those of the update. */
static const char csv_columns[] = "type,epoch,sequence,resumeSequence,conflated,dropped,"
                                  "timeUnixNano,snapshot,gapReason,gapFrom,gapTo,gapUpdates,";

static const char *type_name(const Stockservice__MarketEvent *event)
{
    switch (event->event_case) {
    case STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE:
        return "update";
    case STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT:
        return "heartbeat";
    case STOCKSERVICE__MARKET_EVENT__EVENT_GAP:
        return "gap";
    default:
        return "other";
    }
}

/* NULL for one that this program does not know. */
static const ProtobufCEnumValue *reason_of(const Stockservice__Gap *gap)
{
    return protobuf_c_enum_descriptor_get_value(&stockservice__gap__reason__descriptor,
                                                gap->reason);
}

static const char *reason_text(const Stockservice__Gap *gap)
{
    switch (gap->reason) {
    case STOCKSERVICE__GAP__REASON__REASON_HISTORY:
        return "history";
    case STOCKSERVICE__GAP__REASON__REASON_EPOCH:
        return "epoch";
    default:
        return "unknown";
    }
}

/* ---- For people ---- */

static void text_gap(struct text *text, const Stockservice__Gap *gap)
{
    text_printf(text, " reason:%s from:%" PRIu64, reason_text(gap), gap->from_sequence);
    if (gap->to_sequence > 0)
        text_printf(text, " to:%" PRIu64, gap->to_sequence);
    if (gap->updates > 0)
        text_printf(text, " updates:%" PRIu64, gap->updates);
}

static void event_as_text(struct text *text, const Stockservice__MarketEvent *event)
{
    text_printf(text, "sequence:%" PRIu64 " ", event->sequence);
    if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE)
        print_update_fields(text, PRINT_TEXT, event->update);
    else
        text_add_string(text, type_name(event));
    if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_GAP)
        text_gap(text, event->gap);
    if (event->conflated > 0)
        text_printf(text, " conflated:%" PRIu64, event->conflated);
    if (event->dropped > 0)
        text_printf(text, " dropped:%" PRIu64, event->dropped);
    if (event->snapshot && event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE)
        text_add_string(text, " snapshot");
}

/* ---- JSON ---- */

static void json_gap(struct text *text, const Stockservice__Gap *gap)
{
    const ProtobufCEnumValue *reason = reason_of(gap);

    text_add_string(text, ",\"gap\":{\"reason\":");
    if (reason)
        text_printf(text, "\"%s\"", reason->name);
    else
        text_printf(text, "%d", (int)gap->reason);
    text_printf(text,
                ",\"fromSequence\":\"%" PRIu64 "\",\"toSequence\":\"%" PRIu64
                "\",\"updates\":\"%" PRIu64 "\"}",
                gap->from_sequence, gap->to_sequence, gap->updates);
}

static void event_as_json(struct text *text, const Stockservice__MarketEvent *event)
{
    text_printf(text,
                "{\"type\":\"%s\",\"epoch\":\"%" PRIu64 "\",\"sequence\":\"%" PRIu64
                "\",\"conflated\":\"%" PRIu64 "\",\"dropped\":\"%" PRIu64 "\"",
                type_name(event), event->epoch, event->sequence, event->conflated, event->dropped);
    if (event->resume_sequence > 0)
        text_printf(text, ",\"resumeSequence\":\"%" PRIu64 "\"", event->resume_sequence);
    text_printf(text, ",\"timeUnixNano\":\"%" PRIu64 "\",\"snapshot\":%s", event->time_unix_nano,
                event->snapshot ? "true" : "false");
    switch (event->event_case) {
    case STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE:
        text_add_string(text, ",\"update\":");
        print_update_fields(text, PRINT_JSON, event->update);
        break;
    case STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT:
        text_add_string(text, ",\"heartbeat\":{}");
        break;
    case STOCKSERVICE__MARKET_EVENT__EVENT_GAP:
        json_gap(text, event->gap);
        break;
    default:
        break;
    }
    text_add_char(text, '}');
}

/* ---- CSV ---- */

static void csv_number(struct text *text, uint64_t value, bool there)
{
    if (there)
        text_printf(text, "%" PRIu64, value);
    text_add_char(text, ',');
}

static void event_as_csv(struct text *text, const Stockservice__MarketEvent *event)
{
    bool is_gap = event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_GAP;
    const Stockservice__Gap *gap = is_gap ? event->gap : NULL;

    text_printf(text, "%s,", type_name(event));
    csv_number(text, event->epoch, true);
    csv_number(text, event->sequence, true);
    csv_number(text, event->resume_sequence, event->resume_sequence > 0);
    csv_number(text, event->conflated, true);
    csv_number(text, event->dropped, true);
    csv_number(text, event->time_unix_nano, event->time_unix_nano > 0);
    text_printf(text, "%s,%s,", event->snapshot ? "true" : "false", gap ? reason_text(gap) : "");
    csv_number(text, gap ? gap->from_sequence : 0, is_gap);
    csv_number(text, gap ? gap->to_sequence : 0, is_gap);
    csv_number(text, gap ? gap->updates : 0, is_gap);
    if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE) {
        print_update_fields(text, PRINT_CSV, event->update);
        return;
    }
    for (unsigned i = 1; i < print_update_field_count; i++)
        text_add_char(text, ',');
}

void print_event_header(struct text *text, enum print_format format)
{
    if (format != PRINT_CSV)
        return;
    text_add_string(text, csv_columns);
    print_header(text, format);
}

void print_event(struct text *text, enum print_format format,
                 const Stockservice__MarketEvent *event)
{
    switch (format) {
    case PRINT_TEXT:
        event_as_text(text, event);
        break;
    case PRINT_JSON:
        event_as_json(text, event);
        break;
    case PRINT_CSV:
        event_as_csv(text, event);
        break;
    }
    text_add_char(text, '\n');
}
