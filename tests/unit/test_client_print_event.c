/*
 * Events of the market as text, JSON and CSV, to the byte.
 */
#include "client/print_event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

static Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
static Stockservice__Gap gap = STOCKSERVICE__GAP__INIT;
static Stockservice__Heartbeat heartbeat = STOCKSERVICE__HEARTBEAT__INIT;

static Stockservice__MarketEvent event_of(Stockservice__MarketEvent__EventCase kind)
{
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;

    update.ticker = (char *)"A,\"B\"";
    update.price = 2.5;
    update.timestamp = (char *)"T";
    gap.reason = STOCKSERVICE__GAP__REASON__REASON_HISTORY;
    gap.from_sequence = 3;
    gap.to_sequence = 9;
    gap.updates = 7;
    event.epoch = 5;
    event.sequence = 12;
    event.event_case = kind;
    if (kind == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE)
        event.update = &update;
    else if (kind == STOCKSERVICE__MARKET_EVENT__EVENT_GAP)
        event.gap = &gap;
    else if (kind == STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT)
        event.heartbeat = &heartbeat;
    return event;
}

static void check(enum print_format format, const Stockservice__MarketEvent *event,
                  const char *expected)
{
    struct text text = {0};

    print_event(&text, format, event);
    text_add_char(&text, 0);
    assert_string_equal(text.bytes, expected);
    text_deinit(&text);
}

#define TEXT_FIELDS                                                                                \
    "ticker:\"A,\\\"B\\\"\" price:2.50 change:0.00 changePercent:0.00 volume:0 openPrice:0.00 "    \
    "highPrice:0.00 lowPrice:0.00 marketCap:0 timestamp:\"T\""

static void as_text(void **state)
{
    Stockservice__MarketEvent event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE);

    check(PRINT_TEXT, &event, "sequence:12 " TEXT_FIELDS "\n");
    event.conflated = 4;
    event.dropped = 2;
    event.snapshot = true;
    check(PRINT_TEXT, &event, "sequence:12 " TEXT_FIELDS " conflated:4 dropped:2 snapshot\n");
    event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_GAP);
    event.snapshot = true;
    check(PRINT_TEXT, &event, "sequence:12 gap reason:history from:3 to:9 updates:7\n");
    gap.reason = STOCKSERVICE__GAP__REASON__REASON_EPOCH;
    gap.to_sequence = gap.updates = 0;
    check(PRINT_TEXT, &event, "sequence:12 gap reason:epoch from:3\n");
    event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT);
    event.dropped = 1;
    check(PRINT_TEXT, &event, "sequence:12 heartbeat dropped:1\n");
    event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT__NOT_SET);
    check(PRINT_TEXT, &event, "sequence:12 other\n");
}

static void as_json(void **state)
{
    Stockservice__MarketEvent event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE);

    event.time_unix_nano = 99;
    event.resume_sequence = 8;
    check(PRINT_JSON, &event,
          "{\"type\":\"update\",\"epoch\":\"5\",\"sequence\":\"12\",\"conflated\":\"0\","
          "\"dropped\":\"0\",\"resumeSequence\":\"8\",\"timeUnixNano\":\"99\",\"snapshot\":false,"
          "\"update\":{\"ticker\":\"A,\\\"B\\\"\",\"price\":2.5,\"change\":0,\"changePercent\":0,"
          "\"volume\":\"0\",\"openPrice\":0,\"highPrice\":0,\"lowPrice\":0,\"marketCap\":\"0\","
          "\"timestamp\":\"T\"}}\n");
    event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_GAP);
    event.snapshot = true;
    check(PRINT_JSON, &event,
          "{\"type\":\"gap\",\"epoch\":\"5\",\"sequence\":\"12\",\"conflated\":\"0\","
          "\"dropped\":\"0\",\"timeUnixNano\":\"0\",\"snapshot\":true,"
          "\"gap\":{\"reason\":\"REASON_HISTORY\",\"fromSequence\":\"3\",\"toSequence\":\"9\","
          "\"updates\":\"7\"}}\n");
    gap.reason = (Stockservice__Gap__Reason)77; /* of a newer server */
    check(PRINT_JSON, &event,
          "{\"type\":\"gap\",\"epoch\":\"5\",\"sequence\":\"12\",\"conflated\":\"0\","
          "\"dropped\":\"0\",\"timeUnixNano\":\"0\",\"snapshot\":true,"
          "\"gap\":{\"reason\":77,\"fromSequence\":\"3\",\"toSequence\":\"9\","
          "\"updates\":\"7\"}}\n");
    event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT);
    check(PRINT_JSON, &event,
          "{\"type\":\"heartbeat\",\"epoch\":\"5\",\"sequence\":\"12\",\"conflated\":\"0\","
          "\"dropped\":\"0\",\"timeUnixNano\":\"0\",\"snapshot\":false,\"heartbeat\":{}}\n");
}

static unsigned columns_of(const char *line)
{
    unsigned columns = 1;
    int quoted = 0;

    for (; *line; line++) {
        quoted ^= *line == '"';
        columns += *line == ',' && !quoted;
    }
    return columns;
}

static void as_csv(void **state)
{
    Stockservice__MarketEvent event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE);
    struct text text = {0};

    event.resume_sequence = 8;
    event.time_unix_nano = 99;
    check(PRINT_CSV, &event,
          "update,5,12,8,0,0,99,false,,,,,\"A,\"\"B\"\"\",2.5,0,0,0,0,0,0,0,T\n");
    event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_GAP);
    check(PRINT_CSV, &event, "gap,5,12,,0,0,,false,history,3,9,7,,,,,,,,,,\n");
    event = event_of(STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT);
    check(PRINT_CSV, &event, "heartbeat,5,12,,0,0,,false,,,,,,,,,,,,,,\n");
    /* All have as many columns as the header. */
    print_event_header(&text, PRINT_CSV);
    text_add_char(&text, 0);
    assert_int_equal(columns_of(text.bytes), 22);
    assert_int_equal(
        columns_of("update,5,12,8,0,0,99,false,,,,,\"A,\"\"B\"\"\",2.5,0,0,0,0,0,0,0,T"), 22);
    assert_int_equal(columns_of("gap,5,12,,0,0,,false,history,3,9,7,,,,,,,,,,"), 22);
    assert_int_equal(columns_of("heartbeat,5,12,,0,0,,false,,,,,,,,,,,,,,"), 22);
    text_deinit(&text);
}

static void only_csv_has_a_header(void **state)
{
    struct text text = {0};

    print_event_header(&text, PRINT_TEXT);
    print_event_header(&text, PRINT_JSON);
    assert_int_equal(text.size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_text),
        cmocka_unit_test(as_json),
        cmocka_unit_test(as_csv),
        cmocka_unit_test(only_csv_has_a_header),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
