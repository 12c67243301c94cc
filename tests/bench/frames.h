#pragma once

/*
 * The few rules of HTTP/2 framing (RFC 9113) that the load and the floor need. Both of them read
 * and write frames by hand, because a library's bookkeeping would be a part of what is measured.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FRAME_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum {
    FRAME_HEAD_BYTES = 9,
    FRAME_PREFACE_BYTES = sizeof(FRAME_PREFACE) - 1,
    FRAME_PAYLOAD_BYTES_MAX = 16384, /* until a peer allows more, which neither program does */
    FRAME_WINDOW_BYTES_DEFAULT = 65535,
    MESSAGE_PREFIX_BYTES = 5, /* gRPC: one byte of flags, four of length */
};

enum frame_type {
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_RST_STREAM = 3,
    FRAME_SETTINGS = 4,
    FRAME_PING = 6,
    FRAME_GOAWAY = 7,
    FRAME_WINDOW_UPDATE = 8,
};

enum frame_flag {
    FRAME_ACK = 0x1, /* SETTINGS and PING */
    FRAME_END_STREAM = 0x1,
    FRAME_END_HEADERS = 0x4,
    FRAME_PADDED = 0x8,
};

enum frame_setting {
    FRAME_SETTING_INITIAL_WINDOW_SIZE = 4,
};

struct frame_head {
    uint32_t payload_bytes;
    uint8_t type;
    uint8_t flags;
    uint32_t stream_id;
};

static inline uint32_t frame_get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void frame_put_u32(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 24);
    p[1] = (uint8_t)(value >> 16);
    p[2] = (uint8_t)(value >> 8);
    p[3] = (uint8_t)value;
}

static inline struct frame_head frame_get_head(const uint8_t *p)
{
    return (struct frame_head){
        .payload_bytes = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2],
        .type = p[3],
        .flags = p[4],
        .stream_id = frame_get_u32(p + 5) & 0x7fffffff,
    };
}

/* Writes a frame's head of FRAME_HEAD_BYTES and returns the place behind it. */
static inline uint8_t *frame_put_head(uint8_t *p, size_t payload_bytes, enum frame_type type,
                                      uint8_t flags, uint32_t stream_id)
{
    p[0] = (uint8_t)(payload_bytes >> 16);
    p[1] = (uint8_t)(payload_bytes >> 8);
    p[2] = (uint8_t)payload_bytes;
    p[3] = (uint8_t)type;
    p[4] = flags;
    frame_put_u32(p + 5, stream_id);
    return p + FRAME_HEAD_BYTES;
}

/* Writes a whole WINDOW_UPDATE and returns the place behind it. */
static inline uint8_t *frame_put_window_update(uint8_t *p, uint32_t stream_id, uint32_t bytes)
{
    p = frame_put_head(p, 4, FRAME_WINDOW_UPDATE, 0, stream_id);
    frame_put_u32(p, bytes);
    return p + 4;
}
