#include "tests/bench/calls.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>

/* HealthCheckResponse{status: SERVING}, with its prefix. */
static const uint8_t answer[] = {0, 0, 0, 0, 2, 0x08, 0x01};

/* Calls are answered in any order, but are numbered in one: each has a place by its number, and
 * there are more places than calls, so that one which takes longer does not stop the others. */
enum { PLACES_PER_CALL = 4 };

struct call {
    uint32_t stream_id; /* 0: none */
    uint32_t answer_bytes;
    bool headers_came;
    bool wrong;
};

struct calls {
    nghttp2_hd_inflater *inflater;
    uint32_t next_id;
    unsigned open;
    unsigned open_max;
    unsigned place_count;
    struct call places[];
};

struct calls *calls_new(unsigned open_max)
{
    unsigned place_count = PLACES_PER_CALL * open_max;
    struct calls *calls = calloc(1, sizeof(*calls) + place_count * sizeof(*calls->places));

    if (!calls)
        return NULL;
    calls->next_id = 1;
    calls->open_max = open_max;
    calls->place_count = place_count;
    if (nghttp2_hd_inflate_new(&calls->inflater) != 0) {
        free(calls);
        return NULL;
    }
    return calls;
}

unsigned calls_open(const struct calls *calls)
{
    return calls->open;
}

static struct call *calls_place(struct calls *calls, uint32_t stream_id)
{
    return &calls->places[stream_id / 2 % calls->place_count];
}

/* Of the call `stream_id`, or NULL if it is not open. */
static struct call *calls_find(struct calls *calls, uint32_t stream_id)
{
    struct call *call = calls_place(calls, stream_id);

    return stream_id != 0 && call->stream_id == stream_id ? call : NULL;
}

/* A field that goes into the table, by its name's number in the static one. */
static uint8_t *put_indexed_field(uint8_t *p, unsigned name, const char *value)
{
    size_t bytes = strlen(value);

    *p++ = (uint8_t)(0x40 | name);
    *p++ = (uint8_t)bytes;
    memcpy(p, value, bytes);
    return p + bytes;
}

/*
 * As clients do, the first call on a connection puts into the table what the others will repeat.
 * Each field there has the number 62 when it is new, and one more for each that came after it.
 */
static uint8_t *put_header_block(uint8_t *p, bool first)
{
    static const uint8_t post_http[] = {0x83, 0x86};
    static const uint8_t te_trailers[] = "\x40\2te\10trailers";
    static const uint8_t again[] = {0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62};

    memcpy(p, post_http, sizeof(post_http));
    p += sizeof(post_http);
    if (!first) {
        memcpy(p, again, sizeof(again));
        return p + sizeof(again);
    }
    p = put_indexed_field(p, 4, "/grpc.health.v1.Health/Check");
    p = put_indexed_field(p, 1, "localhost");
    p = put_indexed_field(p, 31, "application/grpc");
    memcpy(p, te_trailers, sizeof(te_trailers) - 1);
    return put_indexed_field(p + sizeof(te_trailers) - 1, 58, "stockd-bench");
}

uint8_t *calls_put(struct calls *calls, uint8_t *p)
{
    uint32_t id = calls->next_id;
    struct call *call = calls_place(calls, id);
    uint8_t *head = p;

    if (calls->open == calls->open_max || call->stream_id != 0)
        return p;
    *call = (struct call){.stream_id = id};
    calls->open++;
    calls->next_id += 2;
    p = put_header_block(p + FRAME_HEAD_BYTES, id == 1);
    frame_put_head(head, (size_t)(p - head) - FRAME_HEAD_BYTES, FRAME_HEADERS, FRAME_END_HEADERS,
                   id);
    p = frame_put_head(p, MESSAGE_PREFIX_BYTES, FRAME_DATA, FRAME_END_STREAM, id);
    memset(p, 0, MESSAGE_PREFIX_BYTES);
    return p + MESSAGE_PREFIX_BYTES;
}

void calls_data(struct calls *calls, uint32_t stream_id, const uint8_t *bytes, size_t size)
{
    struct call *call = calls_find(calls, stream_id);

    if (!call)
        return;
    if (call->answer_bytes + size > sizeof(answer) ||
        memcmp(bytes, answer + call->answer_bytes, size) != 0)
        call->wrong = true;
    else
        call->answer_bytes += (uint32_t)size;
}

static bool is_field(const nghttp2_nv *field, const char *name, const char *value)
{
    return field->namelen == strlen(name) && memcmp(field->name, name, field->namelen) == 0 &&
           field->valuelen == strlen(value) && memcmp(field->value, value, field->valuelen) == 0;
}

/* Decodes a header block, and looks for one field in it. NULL if it is there, else what is wrong.
 */
static const char *calls_expect(struct calls *calls, const uint8_t *block, size_t size,
                                const char *name, const char *value)
{
    bool found = false;
    int flags;

    for (;;) {
        nghttp2_nv field;
        ssize_t n = nghttp2_hd_inflate_hd2(calls->inflater, &field, &flags, block, size, 1);

        if (n < 0)
            return "a header block that is no HPACK";
        block += n;
        size -= (size_t)n;
        if (flags & NGHTTP2_HD_INFLATE_EMIT)
            found |= is_field(&field, name, value);
        if (flags & NGHTTP2_HD_INFLATE_FINAL)
            break;
    }
    nghttp2_hd_inflate_end_headers(calls->inflater);
    return found ? NULL : "an answer without the header that was to be there";
}

static const char *calls_headers(struct calls *calls, struct call *call,
                                 const struct frame_head *head, const uint8_t *payload)
{
    const char *why;

    if (head->flags != FRAME_END_HEADERS && head->flags != (FRAME_END_HEADERS | FRAME_END_STREAM))
        return "a header block in a shape that is not read here";
    if (head->flags & FRAME_END_STREAM)
        return calls_expect(calls, payload, head->payload_bytes, "grpc-status", "0");
    why = calls_expect(calls, payload, head->payload_bytes, ":status", "200");
    if (call)
        call->headers_came = true;
    return why;
}

static const char *answer_fault(const struct call *call, enum frame_type last)
{
    if (last == FRAME_RST_STREAM)
        return "a call was reset";
    if (last == FRAME_DATA)
        return "a call ended without a status";
    if (!call->headers_came || call->wrong || call->answer_bytes != sizeof(answer))
        return "an answer other than SERVING";
    return NULL;
}

enum calls_outcome calls_frame(struct calls *calls, const struct frame_head *head,
                               const uint8_t *payload, const char **ret_why)
{
    struct call *call = calls_find(calls, head->stream_id);
    bool last = head->type == FRAME_RST_STREAM;
    const char *why = NULL;

    if (head->type == FRAME_HEADERS)
        why = calls_headers(calls, call, head, payload);
    if (head->type == FRAME_HEADERS || head->type == FRAME_DATA)
        last = head->flags & FRAME_END_STREAM;
    if (!call && (head->type == FRAME_HEADERS || head->type == FRAME_DATA))
        why = "an answer that nobody waits for";
    if (call && last) {
        if (!why)
            why = answer_fault(call, head->type);
        call->stream_id = 0;
        calls->open--;
    }
    if (why) {
        *ret_why = why;
        return CALLS_FAULT;
    }
    return call && last ? CALLS_END : CALLS_NOTHING;
}
