/*
 * gRPC's wire rules (proto/wire.h, proto/utf8.h) and numbers as text (base/number.h): each function
 * against a slower one that is plainly right, or against its reverse.
 */
#include "base/number.h"
#include "base/util.h"
#include "fuzz.h"
#include "proto/utf8.h"
#include "proto/wire.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

static void try_status(const char *text, size_t length)
{
    int status = wire_status_parse(text, length);
    bool digits = length > 0;
    unsigned value = 0;

    for (size_t i = 0; i < length; i++) {
        digits = digits && text[i] >= '0' && text[i] <= '9';
        if (digits)
            value = MIN(value * 10 + (unsigned)(text[i] - '0'), 1000U);
    }
    CHECK(status == (!digits ? -EINVAL : value >= WIRE_STATUS_COUNT ? WIRE_UNKNOWN : (int)value));
    CHECK(wire_status_name(value) && wire_status_name((unsigned)status));
    CHECK(wire_status_from_http(value) < WIRE_STATUS_COUNT);
    CHECK(wire_status_from_rst(value) < WIRE_STATUS_COUNT);
}

static void try_timeout(const char *text, size_t length)
{
    static const char units[] = "HMSmun";
    static const int64_t unit_ns[] = {3600000000000, 60000000000, 1000000000, 1000000, 1000, 1};
    const char *unit = length > 0 && text[length - 1] ? strchr(units, text[length - 1]) : NULL;
    bool valid = unit && length >= 2 && length <= 9;
    int64_t timeout_ns = -7;
    __int128 expected = 0;
    int r = wire_timeout_parse(text, length, &timeout_ns);

    for (size_t i = 0; valid && i < length - 1; i++) {
        valid = text[i] >= '0' && text[i] <= '9';
        expected = expected * 10 + (text[i] - '0');
    }
    if (!valid) {
        CHECK(r == -EINVAL && timeout_ns == -7);
        return;
    }
    expected *= unit_ns[unit - units];
    CHECK(r == 0 && timeout_ns == (int64_t)MIN(expected, (__int128)WIRE_TIMEOUT_MAX_NS));
}

/* What percent-encoding makes of text that is no UTF-8. */
static size_t repair(const char *text, size_t length, char *ret_text)
{
    size_t written = 0, size;
    uint32_t code;

    for (; length > 0; text += size, length -= size) {
        bool valid = utf8_decode(text, length, &code, &size);
        const char *from = valid ? text : UTF8_REPLACEMENT;
        size_t count = valid ? size : strlen(UTF8_REPLACEMENT);

        CHECK(size >= 1 && size <= length);
        memcpy(ret_text + written, from, count);
        written += count;
    }
    return written;
}

static void try_message_encode(const char *text, size_t length, size_t room)
{
    size_t most = 9 * length;
    char *encoded = fuzz_room(most + 1), *again = fuzz_room(most + 1), *back = fuzz_room(most + 1);
    char *cut = fuzz_room(room);
    char *repaired = fuzz_room(3 * length + 1);
    size_t size = wire_message_encode(text, length, encoded, most);
    size_t repaired_size = repair(text, length, repaired);
    size_t back_size;

    CHECK(size <= most);
    for (size_t i = 0; i < size; i++)
        CHECK(encoded[i] >= 0x20 && encoded[i] <= 0x7E);
    back_size = wire_message_decode(encoded, size, back);
    CHECK(back_size == repaired_size && memcmp(back, repaired, back_size) == 0);
    CHECK(wire_message_encode(back, back_size, again, most) == size);
    CHECK(memcmp(again, encoded, size) == 0);

    /* Cut, it is the same up to a whole character, which is worth 12 bytes at most. */
    back_size = wire_message_encode(text, length, cut, room);
    CHECK(back_size <= MIN(room, size) && memcmp(cut, encoded, back_size) == 0);
    CHECK(back_size == size || room - back_size < 12);
    size = wire_message_decode(cut, back_size, back);
    CHECK(repair(back, size, repaired) == size && memcmp(back, repaired, size) == 0);
    free(encoded);
    free(again);
    free(back);
    free(cut);
    free(repaired);
}

static void try_message_decode(const char *text, size_t length)
{
    char *decoded = fuzz_room(length);
    char *in_place = fuzz_copy((const uint8_t *)text, length, false);
    size_t size = wire_message_decode(text, length, decoded);

    CHECK(size <= length);
    CHECK(wire_message_decode(in_place, length, in_place) == size);
    CHECK(size == 0 || memcmp(in_place, decoded, size) == 0);
    free(decoded);
    free(in_place);
}

static void try_base64(const uint8_t *bytes, size_t size)
{
    size_t encoded_size = (size * 4 + 2) / 3;
    char *encoded = fuzz_room(encoded_size + 3);
    uint8_t *decoded = fuzz_room(3 * ((encoded_size + 3) / 4) + 2);
    size_t most = 3 * (size / 4) + 2;
    uint8_t *any = fuzz_room(most);
    ssize_t n;

    CHECK(wire_base64_encode(bytes, size, encoded) == encoded_size);
    CHECK(wire_base64_decode(encoded, encoded_size, decoded) == (ssize_t)size);
    CHECK(size == 0 || memcmp(decoded, bytes, size) == 0);
    memcpy(encoded + encoded_size, "===", 3);
    encoded_size = (encoded_size + 3) / 4 * 4;
    CHECK(wire_base64_decode(encoded, encoded_size, decoded) == (ssize_t)size);
    CHECK(size == 0 || memcmp(decoded, bytes, size) == 0);

    /* Any text; what it means has one encoding, which means the same. */
    n = wire_base64_decode((const char *)bytes, size, any);
    CHECK(n == -EINVAL || (n >= 0 && (size_t)n <= most));
    if (n >= 0) {
        free(encoded);
        free(decoded);
        encoded = fuzz_room((size_t)n * 2 + 3);
        decoded = fuzz_room((size_t)n + 2);
        encoded_size = wire_base64_encode(any, (size_t)n, encoded);
        CHECK(encoded_size <= size);
        CHECK(wire_base64_decode(encoded, encoded_size, decoded) == n);
        CHECK(n == 0 || memcmp(decoded, any, (size_t)n) == 0);
    }
    free(encoded);
    free(decoded);
    free(any);
}

static void try_content_type(const char *text, size_t length)
{
    static const char type[] = "application/grpc";
    size_t own = strlen(type);
    bool expected = length >= own && strncasecmp(text, type, own) == 0 &&
                    (length == own || text[own] == '+' || text[own] == ';');

    CHECK(wire_is_grpc_content_type(text, length) == expected);
}

static void try_count(const uint8_t *bytes, size_t size)
{
    unsigned count = 0;
    size_t at = 0;

    while (size - at >= WIRE_PREFIX_SIZE) {
        uint64_t length = (uint64_t)bytes[at + 1] << 24 | (uint64_t)bytes[at + 2] << 16 |
                          (uint64_t)bytes[at + 3] << 8 | bytes[at + 4];

        if (length > size - at - WIRE_PREFIX_SIZE)
            break;
        at += WIRE_PREFIX_SIZE + (size_t)length;
        count++;
    }
    CHECK(wire_count_messages(bytes, size) == count);
}

/* A character has one form, which is the shortest. */
static void try_utf8(const char *text, size_t length)
{
    size_t size = 0;

    for (; length > 0; text += size, length -= size) {
        uint32_t code = 0xDEAD0000;
        uint8_t form[4];

        if (!utf8_decode(text, length, &code, &size)) {
            CHECK(code == 0xDEAD0000 && size >= 1 && size <= 3 && size <= length);
            continue;
        }
        CHECK(code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF));
        CHECK(size == (code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4));
        for (size_t i = size; i-- > 1; code >>= 6)
            form[i] = (uint8_t)(0x80 | (code & 0x3F));
        form[0] = (uint8_t)(size == 1 ? code : (0xF00U >> size & 0xFF) | code);
        CHECK(memcmp(form, text, size) == 0);
        (void)utf8_is_unsafe(code);
    }
}

static void try_number(const uint8_t *bytes, size_t size)
{
    char text[NUMBER_TEXT_MAX];
    uint64_t bits, back_bits;
    double value, back;
    int digits;

    if (size < sizeof(value))
        return;
    memcpy(&value, bytes, sizeof(value));
    memcpy(&bits, bytes, sizeof(bits));
    if (!isfinite(value))
        return;
    digits = number_format(value, text);
    CHECK(digits >= 1 && digits <= 17 && strlen(text) < sizeof(text));
    back = strtod(text, NULL);
    memcpy(&back_bits, &back, sizeof(back));
    CHECK(back_bits == bits);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    size_t room = size > 0 ? bytes[0] : 0;
    uint8_t *copy;

    if (size > 0)
        size--, bytes++;
    copy = fuzz_copy(bytes, size, false);
    try_status((const char *)copy, size);
    try_timeout((const char *)copy, size);
    try_message_encode((const char *)copy, size, room);
    try_message_decode((const char *)copy, size);
    try_base64(copy, size);
    try_content_type((const char *)copy, size);
    try_count(copy, size);
    try_utf8((const char *)copy, size);
    try_number(copy, size);
    free(copy);
    return 0;
}
