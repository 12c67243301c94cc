/*
 * All of these see bytes that a peer chose: each is total (any input gives an answer or -EINVAL),
 * reads nothing beyond the given length, and writes nothing beyond what the header states.
 */
#include "proto/wire.h"

#include "proto/utf8.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

const char *wire_status_name(unsigned status)
{
    static const char *const names[] = {
#define X(identifier, number, name) [number] = (name),
        WIRE_STATUSES(X)
#undef X
    };
    _Static_assert(sizeof(names) / sizeof(names[0]) == WIRE_STATUS_COUNT, "a name for each status");

    return names[status < WIRE_STATUS_COUNT ? status : WIRE_UNKNOWN];
}

int wire_status_parse(const char *text, size_t length)
{
    unsigned status = 0;

    if (length == 0)
        return -EINVAL;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        if (status < WIRE_STATUS_COUNT) /* beyond that it can only grow: no overflow */
            status = status * 10 + (unsigned)(text[i] - '0');
    }
    return status < WIRE_STATUS_COUNT ? (int)status : WIRE_UNKNOWN;
}

enum wire_status wire_status_from_http(unsigned http_status)
{
    switch (http_status) {
    case 400:
        return WIRE_INTERNAL;
    case 401:
        return WIRE_UNAUTHENTICATED;
    case 403:
        return WIRE_PERMISSION_DENIED;
    case 404:
        return WIRE_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return WIRE_UNAVAILABLE;
    default:
        return WIRE_UNKNOWN;
    }
}

enum wire_status wire_status_from_rst(uint32_t error_code)
{
    switch (error_code) {
    case HTTP2_REFUSED_STREAM:
        return WIRE_UNAVAILABLE;
    case HTTP2_CANCEL:
        return WIRE_CANCELLED;
    case HTTP2_ENHANCE_YOUR_CALM:
        return WIRE_RESOURCE_EXHAUSTED;
    case HTTP2_INADEQUATE_SECURITY:
        return WIRE_PERMISSION_DENIED;
    default:
        return WIRE_INTERNAL;
    }
}

unsigned wire_count_messages(const uint8_t *bytes, size_t size)
{
    unsigned count = 0;

    while (size >= WIRE_PREFIX_SIZE && size - WIRE_PREFIX_SIZE >= wire_prefix_length(bytes)) {
        size_t message_size = WIRE_PREFIX_SIZE + (size_t)wire_prefix_length(bytes);
        bytes += message_size;
        size -= message_size;
        count++;
    }
    return count;
}

static const char hexadecimal[] = "0123456789ABCDEF";

size_t wire_message_encode(const char *message, size_t length, char *ret_text, size_t size)
{
    size_t written = 0;

    while (length > 0) {
        const char *character = message;
        uint32_t code = 0;
        size_t count, taken;
        bool valid = utf8_decode(message, length, &code, &taken);

        message += taken;
        length -= taken;
        if (valid && code >= 0x20 && code <= 0x7E && code != '%') {
            if (written == size)
                break;
            ret_text[written++] = *character;
            continue;
        }
        character = valid ? character : UTF8_REPLACEMENT;
        count = valid ? taken : sizeof(UTF8_REPLACEMENT) - 1;
        if (size - written < 3 * count)
            break;
        for (size_t i = 0; i < count; i++) {
            uint8_t byte = (uint8_t)character[i];

            ret_text[written++] = '%';
            ret_text[written++] = hexadecimal[byte >> 4];
            ret_text[written++] = hexadecimal[byte & 0xF];
        }
    }
    return written;
}

/* The value of a hexadecimal digit of either case, or -1. */
static int digit_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    return -1;
}

size_t wire_message_decode(const char *text, size_t length, char *ret_message)
{
    size_t written = 0;

    for (size_t i = 0; i < length; i++) {
        if (text[i] == '%' && length - i > 2) {
            int high = digit_value(text[i + 1]);
            int low = digit_value(text[i + 2]);

            if (high >= 0 && low >= 0) {
                ret_message[written++] = (char)(high << 4 | low);
                i += 2;
                continue;
            }
        }
        ret_message[written++] = text[i];
    }
    return written;
}

int wire_timeout_parse(const char *text, size_t length, int64_t *ret_timeout_ns)
{
    int64_t value = 0, unit_ns;

    if (length < 2 || length > 9)
        return -EINVAL;
    for (size_t i = 0; i < length - 1; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        value = value * 10 + (text[i] - '0');
    }

    switch (text[length - 1]) {
    case 'H':
        unit_ns = INT64_C(3600000000000);
        break;
    case 'M':
        unit_ns = INT64_C(60000000000);
        break;
    case 'S':
        unit_ns = INT64_C(1000000000);
        break;
    case 'm':
        unit_ns = INT64_C(1000000);
        break;
    case 'u':
        unit_ns = INT64_C(1000);
        break;
    case 'n':
        unit_ns = 1;
        break;
    default:
        return -EINVAL;
    }
    *ret_timeout_ns = value > WIRE_TIMEOUT_MAX_NS / unit_ns ? WIRE_TIMEOUT_MAX_NS : value * unit_ns;
    return 0;
}

/* The six bits that a base64 character stands for (RFC 4648, section 4), or -1. */
static int base64_value(char character)
{
    if (character >= 'A' && character <= 'Z')
        return character - 'A';
    if (character >= 'a' && character <= 'z')
        return character - 'a' + 26;
    if (character >= '0' && character <= '9')
        return character - '0' + 52;
    if (character == '+')
        return 62;
    if (character == '/')
        return 63;
    return -1;
}

ssize_t wire_base64_decode(const char *text, size_t length, uint8_t *ret_bytes)
{
    uint32_t bits = 0;
    unsigned bit_count = 0;
    ssize_t written = 0;

    /* Padding, if there is any, makes the length a multiple of 4, and is one or two characters. */
    if (length > 0 && length % 4 == 0 && text[length - 1] == '=')
        length -= text[length - 2] == '=' ? 2 : 1;
    if (length % 4 == 1)
        return -EINVAL;

    for (size_t i = 0; i < length; i++) {
        int value = base64_value(text[i]);

        if (value < 0)
            return -EINVAL;
        bits = bits << 6 | (uint32_t)value;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            ret_bytes[written++] = (uint8_t)(bits >> bit_count);
        }
    }
    return written;
}

size_t wire_base64_encode(const uint8_t *bytes, size_t length, char *ret_text)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    unsigned bit_count = 0;
    size_t written = 0;

    for (size_t i = 0; i < length; i++) {
        bits = bits << 8 | bytes[i];
        bit_count += 8;
        while (bit_count >= 6) {
            bit_count -= 6;
            ret_text[written++] = alphabet[bits >> bit_count & 0x3F];
        }
    }
    if (bit_count > 0)
        ret_text[written++] = alphabet[bits << (6 - bit_count) & 0x3F];
    return written;
}

bool wire_is_grpc_content_type(const char *text, size_t length)
{
    static const char type[] = "application/grpc";
    const size_t type_length = sizeof(type) - 1;

    if (length < type_length || strncasecmp(text, type, type_length) != 0)
        return false;
    return length == type_length || text[type_length] == '+' || text[type_length] == ';';
}
