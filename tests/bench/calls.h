#pragma once

/*
 * Short calls of grpc.health.v1.Health/Check on one connection: writes the requests and checks each
 * answer, of which every byte is looked at. That needs HPACK in full, because servers put what they
 * answer into the table of their connection; so it is nghttp2's.
 */

#include "tests/bench/frames.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct calls;

/* For up to `open_max` calls at a time. NULL without memory. */
struct calls *calls_new(unsigned open_max);

/* How many of them are open. */
unsigned calls_open(const struct calls *calls);

/* At most what the next call needs; CALL_BYTES_MAX is enough for it. */
enum { CALL_BYTES_MAX = 256 };

/*
 * Writes the next call to `p` and returns the place behind it, or `p` if it has to wait: because
 * `open_max` are open, or because one of long ago still is.
 */
uint8_t *calls_put(struct calls *calls, uint8_t *p);

/* What a frame of an answer was. */
enum calls_outcome { CALLS_NOTHING, CALLS_END, CALLS_FAULT };

/* Some data of an answer came. */
void calls_data(struct calls *calls, uint32_t stream_id, const uint8_t *bytes, size_t size);

/*
 * A frame has ended; of DATA the payload was given to calls_data(), of another frame it is at
 * `payload`. CALLS_END: a call has ended well. CALLS_FAULT: `ret_why` says what is wrong with the
 * answer; if the frame was to end the call, it has.
 */
enum calls_outcome calls_frame(struct calls *calls, const struct frame_head *head,
                               const uint8_t *payload, const char **ret_why);
