/*
 * The rules of gRPC over HTTP/2 as pure functions: message prefix, status codes, percent-encoded
 * messages, timeouts, binary metadata. No I/O, no allocation, no state; both ends use them.
 *
 * Sources: PROTOCOL-HTTP2.md and statuscodes.md of github.com/grpc/grpc/doc.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Length-Prefixed-Message: one byte Compressed-Flag, four bytes big-endian length. */
#define WIRE_PREFIX_SIZE 5

/* X(identifier, number, name in metrics and logs) */
#define WIRE_STATUSES(X)                                                                           \
    X(OK, 0, "OK")                                                                                 \
    X(CANCELLED, 1, "Canceled")                                                                    \
    X(UNKNOWN, 2, "Unknown")                                                                       \
    X(INVALID_ARGUMENT, 3, "InvalidArgument")                                                      \
    X(DEADLINE_EXCEEDED, 4, "DeadlineExceeded")                                                    \
    X(NOT_FOUND, 5, "NotFound")                                                                    \
    X(ALREADY_EXISTS, 6, "AlreadyExists")                                                          \
    X(PERMISSION_DENIED, 7, "PermissionDenied")                                                    \
    X(RESOURCE_EXHAUSTED, 8, "ResourceExhausted")                                                  \
    X(FAILED_PRECONDITION, 9, "FailedPrecondition")                                                \
    X(ABORTED, 10, "Aborted")                                                                      \
    X(OUT_OF_RANGE, 11, "OutOfRange")                                                              \
    X(UNIMPLEMENTED, 12, "Unimplemented")                                                          \
    X(INTERNAL, 13, "Internal")                                                                    \
    X(UNAVAILABLE, 14, "Unavailable")                                                              \
    X(DATA_LOSS, 15, "DataLoss")                                                                   \
    X(UNAUTHENTICATED, 16, "Unauthenticated")

enum wire_status {
#define X(identifier, number, name) WIRE_##identifier = (number),
    WIRE_STATUSES(X)
#undef X
};
#define WIRE_STATUS_COUNT 17

/* "OK", "Canceled", … as go-grpc-prometheus writes them; "Unknown" for a number beyond the last. */
const char *wire_status_name(unsigned status);

/*
 * Reads a grpc-status value: decimal digits alone. The status, WIRE_UNKNOWN for a number that is no
 * known status, or -EINVAL. Leading zeros are allowed.
 */
int wire_status_parse(const char *text, size_t length);

/*
 * The status of a call whose response was not gRPC, from its HTTP status
 * (http-grpc-status-mapping.md): 400 INTERNAL, 401 UNAUTHENTICATED, 403 PERMISSION_DENIED, 404
 * UNIMPLEMENTED, 429 502 503 504 UNAVAILABLE, others UNKNOWN.
 */
enum wire_status wire_status_from_http(unsigned http_status);

/* The error codes of HTTP/2, in RST_STREAM and GOAWAY (RFC 9113, section 7). */
enum http2_error {
    HTTP2_NO_ERROR = 0x0,
    HTTP2_PROTOCOL_ERROR = 0x1,
    HTTP2_INTERNAL_ERROR = 0x2,
    HTTP2_FLOW_CONTROL_ERROR = 0x3,
    HTTP2_SETTINGS_TIMEOUT = 0x4,
    HTTP2_STREAM_CLOSED = 0x5,
    HTTP2_FRAME_SIZE_ERROR = 0x6,
    HTTP2_REFUSED_STREAM = 0x7,
    HTTP2_CANCEL = 0x8,
    HTTP2_COMPRESSION_ERROR = 0x9,
    HTTP2_CONNECT_ERROR = 0xA,
    HTTP2_ENHANCE_YOUR_CALM = 0xB,
    HTTP2_INADEQUATE_SECURITY = 0xC,
    HTTP2_HTTP_1_1_REQUIRED = 0xD,
};

/*
 * The status that a RST_STREAM means to a client (PROTOCOL-HTTP2.md, Errors): REFUSED_STREAM
 * UNAVAILABLE, CANCEL CANCELLED, ENHANCE_YOUR_CALM RESOURCE_EXHAUSTED, INADEQUATE_SECURITY
 * PERMISSION_DENIED, others INTERNAL.
 */
enum wire_status wire_status_from_rst(uint32_t error_code);

/* Writes the prefix of an uncompressed message of `length` bytes. */
static inline void wire_prefix_write(uint8_t prefix[static WIRE_PREFIX_SIZE], uint32_t length)
{
    prefix[0] = 0;
    prefix[1] = (uint8_t)(length >> 24);
    prefix[2] = (uint8_t)(length >> 16);
    prefix[3] = (uint8_t)(length >> 8);
    prefix[4] = (uint8_t)length;
}

/* The length in a prefix. */
static inline uint32_t wire_prefix_length(const uint8_t prefix[static WIRE_PREFIX_SIZE])
{
    return (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 | (uint32_t)prefix[3] << 8 |
           prefix[4];
}

/*
 * How many whole messages lie in `size` bytes that begin with a message's prefix.
 */
unsigned wire_count_messages(const uint8_t *bytes, size_t size);

/*
 * Percent-encodes `length` bytes for grpc-message: 0x20 to 0x7E pass but for '%'; every other byte
 * becomes %XX, upper case; what is not valid UTF-8 becomes U+FFFD first (one for each maximal
 * invalid part). Writes at most `size` bytes, cut at a whole character; no NUL. Returns the number
 * written. `size` of 9 * length is always enough.
 */
size_t wire_message_encode(const char *message, size_t length, char *ret_text, size_t size);

/*
 * The reverse. A '%' that no two hexadecimal digits follow stands for itself, as PROTOCOL-HTTP2.md
 * asks. At most `length` bytes are written, no NUL; returns the number. In place is allowed.
 */
size_t wire_message_decode(const char *text, size_t length, char *ret_message);

/* No deadline; also what a timeout too long for the clock becomes. */
#define WIRE_TIMEOUT_MAX_NS INT64_MAX

/*
 * Reads a grpc-timeout value: 1 to 8 digits and a unit, one of H M S m u n. Timeouts beyond the
 * range are clamped. 0 or -EINVAL, which leaves *ret_timeout_ns as it was.
 */
int wire_timeout_parse(const char *text, size_t length, int64_t *ret_timeout_ns);

/*
 * Reads one value of "-bin" metadata (several are split at ',' before): base64 of RFC 4648, section
 * 4, with its whole padding or none. Bits left over at the end are ignored. Writes at most
 * 3 * (length / 4) + 2 bytes, some of them also on error. The number written, or -EINVAL.
 */
ssize_t wire_base64_decode(const char *text, size_t length, uint8_t *ret_bytes);

/* Writes base64 without padding: (length * 4 + 2) / 3 bytes, no NUL; returns that number. */
size_t wire_base64_encode(const uint8_t *bytes, size_t length, char *ret_text);

/* Is it "application/grpc", alone or followed by '+' or ';'? In any case, as MIME types are. */
bool wire_is_grpc_content_type(const char *text, size_t length);
