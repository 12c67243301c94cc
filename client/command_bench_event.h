/*
 * What `bench` wants to know of a message, read from its bytes: a benchmark that decodes all of
 * each message would measure its own decoder.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bench_event_kind {
    BENCH_EVENT_NONE, /* none of those that are known */
    BENCH_EVENT_UPDATE,
    BENCH_EVENT_HEARTBEAT,
    BENCH_EVENT_GAP,
};

/* Of a MarketEvent. */
struct bench_event {
    enum bench_event_kind kind;
    uint64_t epoch;
    uint64_t sequence;
    uint64_t conflated;
    uint64_t dropped;
    uint64_t resume_sequence;
    uint64_t time_unix_ns;
    uint64_t gap_updates; /* of a gap */
    bool snapshot;
};

/* False if the bytes are no message of protobuf. Fields that are not known are passed over. */
bool bench_event_parse(const uint8_t *bytes, size_t size, struct bench_event *ret_event);

/* Of a StockUpdate. */
struct bench_update {
    double price;
    double change;
};

bool bench_update_parse(const uint8_t *bytes, size_t size, struct bench_update *ret_update);
