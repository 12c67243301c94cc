/*
 * The answer's side of a call. Sending is pulled: call_on_read() fills one DATA frame with as many
 * messages as fit. Where a message straddles two frames, its rest becomes `current`, which is all
 * that a stalled call holds. A method whose messages stay whole leaves what does not fit where it
 * is, and its call holds nothing.
 */
#include "rpc/call_private.h"

#include "base/util.h"
#include "rpc/compression.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* The longest message that method->pull may write; a bound for the buffer of one that straddles. */
#define PULL_SIZE_MAX 4096

#define NS_PER_MS 1000000

void call_set_current(struct call *call, struct message *message)
{
    if (call->current)
        call->server->queued_bytes -= call->current->size;
    message_unref(call->current);
    call->current = message;
    call->current_offset = 0;
}

void call_drop_queue(struct call *call)
{
    struct message *message;

    while ((message = queue_pop(&call->queue))) {
        call->server->queued_bytes -= message->size;
        message_unref(message);
    }
}

int call_send(struct call *call, struct message *message)
{
    /* A twin is worth making only for a queue that takes it. */
    if (call->gzip && !call->finished && !call_queue_full(call))
        message = compression_twin(message);
    return call_send_plain(call, message);
}

int call_send_plain(struct call *call, struct message *message)
{
    int r;

    if (call->finished)
        return 1;
    if (call_queue_full(call)) {
        call->room_wanted = true;
        return 1;
    }
    r = queue_push(&call->queue, message);
    if (r < 0)
        return r;
    message_ref(message);
    call->server->queued_bytes += message->size;
    r = call_send_headers(call);
    if (r == 0)
        stream_resume(&call->stream);
    return r;
}

void call_resume(struct call *call)
{
    if (call->finished || call_send_headers(call) != 0)
        return;
    call->more = true;
    stream_resume(&call->stream);
}

/* Where call_on_read() writes, and what it tells about that. */
struct frame {
    uint8_t *bytes;
    size_t size;
    size_t used;
    struct stream_read *read;
};

/* Notes messages that end in the frame: where the first of them does, and when they were due. */
static void frame_count(struct frame *frame, size_t first_end, unsigned messages, uint64_t due_ns)
{
    struct stream_read *read = frame->read;

    if (read->messages == 0) {
        read->first_end = first_end;
        read->first_due_ns = due_ns;
    }
    if (read->messages + messages > 1 && (read->due_ns == 0 || due_ns < read->due_ns))
        read->due_ns = due_ns;
    read->messages += messages;
}

/* When something was due that says so, or has 0, for now; 0 if nobody asks. */
static uint64_t call_due_ns(struct call *call, uint64_t due_ns)
{
    if (!call->stats->send_lag)
        return 0;
    return due_ns > 0 ? due_ns : stream_flush_ns(&call->stream);
}

/* Copies of the current message what fits. */
static void frame_copy(struct frame *frame, struct call *call)
{
    size_t rest = call->current->size - call->current_offset;
    size_t size = MIN(rest, frame->size - frame->used);

    memcpy(frame->bytes + frame->used, call->current->bytes + call->current_offset, size);
    frame->used += size;
    call->current_offset += (uint32_t)size;
    call->inside = size < rest;
    if (!call->inside) {
        frame_count(frame, frame->used, 1, call_due_ns(call, call->current->due_ns));
        call_set_current(call, NULL);
    }
}

/*
 * The message in `bytes`, of `size` bytes, shorter where that can be: its place, `bytes` or one of
 * this function's own, and its size then.
 */
static uint8_t *compress(uint8_t *bytes, size_t *size)
{
    static uint8_t compressed[PULL_SIZE_MAX];
    size_t body_size = *size - WIRE_PREFIX_SIZE;
    size_t shorter = body_size == 0
                         ? 0
                         : compression_gzip_bytes(bytes + WIRE_PREFIX_SIZE, body_size,
                                                  compressed + WIRE_PREFIX_SIZE, body_size - 1);

    if (shorter == 0)
        return bytes;
    wire_prefix_write(compressed, (uint32_t)shorter);
    compressed[0] = 1;
    *size = WIRE_PREFIX_SIZE + shorter;
    return compressed;
}

/* Asks the handler for one message, which does not surely fit, or is to be compressed: its rest
 * becomes `current`. */
static int frame_pull_one(struct frame *frame, struct call *call)
{
    static uint8_t buffer[PULL_SIZE_MAX];
    size_t room = frame->size - frame->used;
    struct pull pull = {.messages = 1};
    size_t size = call->method->pull(call, buffer, sizeof(buffer), &pull);
    uint8_t *bytes = buffer;
    struct message *rest;
    uint64_t due_ns;

    call->more = pull.more;
    if (size == 0)
        return 0;
    due_ns = call_due_ns(call, pull.due_ms * NS_PER_MS);
    if (call->gzip)
        bytes = compress(buffer, &size);
    memcpy(frame->bytes + frame->used, bytes, MIN(size, room));
    frame->used += MIN(size, room);
    if (size <= room) {
        frame_count(frame, frame->used, 1, due_ns);
        return 1;
    }
    rest = message_from_bytes(bytes + room, (uint32_t)(size - room));
    if (!rest)
        return -ENOMEM;
    rest->due_ns = due_ns;
    call->server->queued_bytes += rest->size;
    call_set_current(call, rest);
    call->inside = true;
    return 1;
}

/*
 * May messages of the call wait for so much window that they fit whole? A client gives credit when
 * it has taken some part of its window, half of it mostly: one that gives each stream less than
 * two messages' worth might wait for the rest of a message that waits for its credit.
 */
static bool keeps_whole(const struct call *call)
{
    return stream_initial_window(&call->stream) >= 2 * call->method->pull_size_max;
}

/* Asks the handler for messages that fit. 1 if there may be more that do, else 0. */
static int frame_pull_whole(struct frame *frame, struct call *call)
{
    uint8_t *bytes = frame->bytes + frame->used;
    struct pull pull = {.messages = UINT_MAX};
    size_t size = call->method->pull(call, bytes, frame->size - frame->used, &pull);

    call->more = pull.more;
    if (size > 0)
        frame_count(frame, frame->used + WIRE_PREFIX_SIZE + wire_prefix_length(bytes),
                    pull.messages, call_due_ns(call, pull.due_ms * NS_PER_MS));
    frame->used += size;
    if (frame->used == 0)
        frame->read->needed = pull.needed;
    return size > 0 && pull.needed == 0;
}

/* Asks the handler for messages. 1 if there were some, 0 if not, -ENOMEM. */
static int frame_pull(struct frame *frame, struct call *call)
{
    const struct method *method = call->method;
    uint8_t *bytes = frame->bytes + frame->used;
    size_t room = frame->size - frame->used;
    struct pull pull = {.messages = UINT_MAX};
    size_t size;

    if (method->whole_messages && keeps_whole(call))
        return frame_pull_whole(frame, call);
    if (room < method->pull_size_max || call->gzip)
        return frame_pull_one(frame, call);
    size = method->pull(call, bytes, room, &pull);
    call->more = pull.more;
    if (size == 0)
        return 0;
    frame_count(frame, frame->used + WIRE_PREFIX_SIZE + wire_prefix_length(bytes), pull.messages,
                call_due_ns(call, pull.due_ms * NS_PER_MS));
    frame->used += size;
    return 1;
}

static int frame_fill(struct frame *frame, struct call *call)
{
    while (frame->used < frame->size) {
        if (!call->current)
            call_set_current(call, queue_pop(&call->queue));
        if (call->current) {
            frame_copy(frame, call);
        } else if (!call->finished && call->method->pull) {
            int r = frame_pull(frame, call);
            if (r <= 0)
                return r;
        } else {
            break;
        }
    }
    return 0;
}

/* What waited for room in the queue goes on: what was held of the input, and the handler. */
static void call_use_room(struct call *call)
{
    if (call->room_wanted && !call->finished && !call_queue_full(call)) {
        call->room_wanted = false;
        if (call->method->room)
            call->method->room(call);
    }
    if (call->input_held && !call_queue_full(call))
        call_deliver(call);
}

ssize_t call_on_read(struct stream *stream, uint8_t *bytes, size_t size, struct stream_read *ret)
{
    struct call *call = call_from_stream(stream);
    struct frame frame = {.bytes = bytes, .size = size, .read = ret};
    bool whole;
    int r;

    call->reading = true;
    r = frame_fill(&frame, call);
    if (r == 0 && (call->input_held || call->room_wanted))
        call_use_room(call);
    call->reading = false;
    ret->account = call->stats;
    call->messages += ret->messages;
    whole = !call->current && call->queue.count == 0;
    ret->more = !whole || call->more;
    if (r == 0 && whole && call->finished && !call->trailers_sent && !call->was_reset) {
        ret->end = true;
        r = call_send_trailers(call);
        if (r > 0)
            call->status = WIRE_INTERNAL;
    }
    if (r >= 0)
        return (ssize_t)frame.used;
    /* The connection resets the stream. */
    call->finished = true;
    call->was_reset = true;
    call->status = WIRE_INTERNAL;
    return r;
}
