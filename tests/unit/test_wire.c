/*
 * The wire rules against tables taken from the gRPC documents, and against their own reverse on
 * random input. Every input is a block of exactly its size, so that the sanitizer build sees a
 * byte read too far.
 */
#include "proto/wire.h"

#include "base/util.h"

#include <errno.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>
/* After the headers that it needs. */
#include <cmocka.h>

/* The bytes of a string literal, which may hold NULs, and their number. */
#define BYTES(literal) (literal), sizeof(literal) - 1

struct text {
    const char *text;
    size_t length;
};

static uint64_t random_state = 1;

static uint64_t draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* A block of its own for these bytes; NULL for none. */
static void *exact(const void *bytes, size_t size)
{
    void *copy;

    if (size == 0)
        return NULL;
    copy = malloc(size);
    assert_non_null(copy);
    return memcpy(copy, bytes, size);
}

static void test_status_names(void **state)
{
    assert_string_equal(wire_status_name(0), "OK");
    assert_string_equal(wire_status_name(1), "Canceled");
    assert_string_equal(wire_status_name(4), "DeadlineExceeded");
    assert_string_equal(wire_status_name(16), "Unauthenticated");
    assert_string_equal(wire_status_name(17), "Unknown");
    assert_string_equal(wire_status_name(UINT32_MAX), "Unknown");
    for (unsigned i = 0; i < WIRE_STATUS_COUNT; i++) {
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(wire_status_name(i), wire_status_name(k));
    }
}

static void test_status_parse(void **state)
{
    static const struct {
        struct text in;
        int out;
    } table[] = {
        {{BYTES("0")}, WIRE_OK},
        {{BYTES("1")}, WIRE_CANCELLED},
        {{BYTES("16")}, WIRE_UNAUTHENTICATED},
        {{BYTES("007")}, WIRE_PERMISSION_DENIED},
        {{BYTES("00000000000000000000000000000014")}, WIRE_UNAVAILABLE},
        {{BYTES("17")}, WIRE_UNKNOWN},
        {{BYTES("99")}, WIRE_UNKNOWN},
        {{BYTES("4294967296")}, WIRE_UNKNOWN},
        {{BYTES("18446744073709551616")}, WIRE_UNKNOWN},
        {{BYTES("1844674407370955161600000000000000000000")}, WIRE_UNKNOWN},
        {{BYTES("")}, -EINVAL},
        {{BYTES(" ")}, -EINVAL},
        {{BYTES("-1")}, -EINVAL},
        {{BYTES("+1")}, -EINVAL},
        {{BYTES(" 1")}, -EINVAL},
        {{BYTES("1 ")}, -EINVAL},
        {{BYTES("1\0")}, -EINVAL},
        {{BYTES("0x1")}, -EINVAL},
        {{BYTES("99999999999999999999a")}, -EINVAL},
        {{BYTES("OK")}, -EINVAL},
        {{BYTES("\xd9\xa1")}, -EINVAL},
    };

    for (size_t i = 0; i < ELEMENTSOF(table); i++) {
        char *text = exact(table[i].in.text, table[i].in.length);
        assert_int_equal(wire_status_parse(text, table[i].in.length), table[i].out);
        free(text);
    }
    for (int status = 0; status < 1000; status++) {
        char text[8];
        int length = snprintf(text, sizeof(text), "%d", status);
        assert_int_equal(wire_status_parse(text, (size_t)length),
                         status <= 16 ? status : WIRE_UNKNOWN);
    }
}

static void test_status_of_http_and_rst(void **state)
{
    static const struct {
        unsigned http;
        enum wire_status status;
    } http[] = {
        {400, WIRE_INTERNAL},      {401, WIRE_UNAUTHENTICATED}, {403, WIRE_PERMISSION_DENIED},
        {404, WIRE_UNIMPLEMENTED}, {429, WIRE_UNAVAILABLE},     {502, WIRE_UNAVAILABLE},
        {503, WIRE_UNAVAILABLE},   {504, WIRE_UNAVAILABLE},
    };
    static const struct {
        uint32_t code;
        enum wire_status status;
    } rst[] = {
        {7, WIRE_UNAVAILABLE},
        {8, WIRE_CANCELLED},
        {11, WIRE_RESOURCE_EXHAUSTED},
        {12, WIRE_PERMISSION_DENIED},
    };

    for (unsigned code = 0; code < 1000; code++) {
        enum wire_status expected = WIRE_UNKNOWN;
        for (size_t i = 0; i < ELEMENTSOF(http); i++) {
            if (http[i].http == code)
                expected = http[i].status;
        }
        assert_int_equal(wire_status_from_http(code), expected);
    }
    for (uint32_t code = 0; code < 300; code++) {
        enum wire_status expected = WIRE_INTERNAL;
        for (size_t i = 0; i < ELEMENTSOF(rst); i++) {
            if (rst[i].code == code)
                expected = rst[i].status;
        }
        assert_int_equal(wire_status_from_rst(code), expected);
    }
    assert_int_equal(wire_status_from_rst(UINT32_MAX), WIRE_INTERNAL);
}

static void test_prefix(void **state)
{
    uint8_t prefix[WIRE_PREFIX_SIZE];

    wire_prefix_write(prefix, 0x01020384);
    assert_memory_equal(prefix, "\0\1\2\3\x84", WIRE_PREFIX_SIZE);
    for (unsigned bit = 0; bit < 32; bit++) {
        wire_prefix_write(prefix, UINT32_MAX >> bit);
        assert_int_equal(wire_prefix_length(prefix), UINT32_MAX >> bit);
    }
    prefix[0] = 1; /* the flag is no part of the length */
    prefix[1] = 0x80;
    prefix[2] = prefix[3] = prefix[4] = 0;
    assert_int_equal(wire_prefix_length(prefix), 0x80000000);
}

static void test_count_messages(void **state)
{
    uint8_t *bytes;

    for (unsigned round = 0; round < 200; round++) {
        uint8_t buffer[512] = {0};
        size_t ends[100];
        size_t size = 0, count = 0;

        while (count < ELEMENTSOF(ends)) {
            uint32_t length = draw() % 4 ? (uint32_t)(draw() % 8) : (uint32_t)(draw() % 100);
            if (size + WIRE_PREFIX_SIZE + length > sizeof(buffer))
                break;
            wire_prefix_write(buffer + size, length);
            size += WIRE_PREFIX_SIZE + length;
            ends[count++] = size;
        }
        /* Cut anywhere, exactly those count that end before the cut. */
        for (size_t cut = 0; cut <= size; cut++) {
            unsigned whole = 0;
            while (whole < count && ends[whole] <= cut)
                whole++;
            bytes = exact(buffer, cut);
            assert_int_equal(wire_count_messages(bytes, cut), whole);
            free(bytes);
        }
    }

    bytes = exact("\0\xff\xff\xff\xff\0\0\0\0\0", 10);
    assert_int_equal(wire_count_messages(bytes, 10), 0);
    free(bytes);
    bytes = exact("\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 14);
    assert_int_equal(wire_count_messages(bytes, 14), 2);
    free(bytes);
}

#define REPLACED "%EF%BF%BD"

static void test_message_encode(void **state)
{
    static const struct {
        struct text in, out;
    } table[] = {
        {{BYTES("")}, {BYTES("")}},
        {{BYTES("plain text ~!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}")},
         {BYTES("plain text ~!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}")}},
        {{BYTES("100%")}, {BYTES("100%25")}},
        {{BYTES("\t\r\n\0\x1f\x7f")}, {BYTES("%09%0D%0A%00%1F%7F")}},
        {{BYTES("\t\ntest with whitespace\r\nand Unicode BMP \xE2\x98\xBA and non-BMP "
                "\xF0\x9F\x98\x88\t\n")},
         {BYTES("%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP "
                "%F0%9F%98%88%09%0A")}}, /* "special_status_message" of the interop tests */
        {{BYTES("\xC3\xA9")}, {BYTES("%C3%A9")}},
        /* The example of Unicode 15, section 3.9, table 3-8 and those after it. */
        {{BYTES("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64")},
         {BYTES("a" REPLACED REPLACED REPLACED "b" REPLACED "c" REPLACED REPLACED "d")}},
        {{BYTES("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41")},
         {BYTES(REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED "A")}},
        {{BYTES("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41")},
         {BYTES(REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED REPLACED "A")}},
        {{BYTES("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42")},
         {BYTES(REPLACED REPLACED REPLACED REPLACED REPLACED "A" REPLACED REPLACED "B")}},
        {{BYTES("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41")},
         {BYTES(REPLACED REPLACED REPLACED REPLACED "A")}},
        /* The ends of every range. */
        {{BYTES("\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF")},
         {BYTES("%C2%80%DF%BF%E0%A0%80%ED%9F%BF%EE%80%80%EF%BF%BF")}},
        {{BYTES("\xF0\x90\x80\x80\xF4\x8F\xBF\xBF")}, {BYTES("%F0%90%80%80%F4%8F%BF%BF")}},
        {{BYTES("\xC1\xBF")}, {BYTES(REPLACED REPLACED)}},
        {{BYTES("\xF5\x80")}, {BYTES(REPLACED REPLACED)}},
        /* Cut off at the end: one U+FFFD for what could have begun a character. */
        {{BYTES("x\xF0\x9F\x98")}, {BYTES("x" REPLACED)}},
        {{BYTES("x\xE2\x98")}, {BYTES("x" REPLACED)}},
        {{BYTES("x\xC3")}, {BYTES("x" REPLACED)}},
    };

    for (size_t i = 0; i < ELEMENTSOF(table); i++) {
        size_t length = table[i].in.length;
        char *in = exact(table[i].in.text, length);
        char *out = malloc(9 * length + 1);

        assert_int_equal(wire_message_encode(in, length, out, 9 * length), table[i].out.length);
        assert_memory_equal(out, table[i].out.text, table[i].out.length);
        free(out);
        free(in);
    }
}

/* Are these bytes UTF-8, by the C library's own judgement? */
static bool is_utf8(const char *text, size_t length)
{
    mbstate_t mb = {0};

    while (length > 0) {
        wchar_t character;
        size_t size = mbrtowc(&character, text, length, &mb);
        if (size == (size_t)-1 || size == (size_t)-2)
            return false;
        size = MAX(size, 1U); /* NUL */
        text += size;
        length -= size;
    }
    return true;
}

/* Bytes that are UTF-8 rather often, or nearly. */
static size_t random_bytes(char *bytes, size_t size_max)
{
    static const char *const pieces[] = {"a",
                                         "%",
                                         "%4",
                                         "%41",
                                         "\xC3\xA9",
                                         "\xE2\x98",
                                         "\xF0\x9F",
                                         "\xE2\x98\xBA",
                                         "\xF0\x9F\x98\x88",
                                         "\x80",
                                         "\xED\xA0",
                                         "\n"};
    size_t size = 0, want = draw() % (size_max - 4);

    while (size < want) {
        const char *piece = pieces[draw() % ELEMENTSOF(pieces)];
        if (draw() % 8 == 0)
            bytes[size++] = (char)draw();
        else
            size += (size_t)(stpcpy(bytes + size, piece) - (bytes + size));
    }
    return MIN(size, want);
}

static void check_encoded(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        assert_in_range((uint8_t)text[i], 0x20, 0x7E);
        if (text[i] != '%')
            continue;
        assert_true(length - i > 2);
        for (size_t k = i + 1; k <= i + 2; k++)
            assert_non_null(memchr("0123456789ABCDEF", text[k], 16));
    }
}

static void test_message_round_trip(void **state)
{
    unsigned valid = 0;

    assert_non_null(setlocale(LC_CTYPE, "C.UTF-8"));
    for (unsigned round = 0; round < 20000; round++) {
        char bytes[64], text[64 * 9], back[64 * 9];
        size_t length = random_bytes(bytes, sizeof(bytes));
        char *in = exact(bytes, length);
        size_t encoded = wire_message_encode(in, length, text, 9 * length);
        size_t decoded = wire_message_decode(text, encoded, back);

        check_encoded(text, encoded);
        assert_true(is_utf8(back, decoded));
        if (is_utf8(bytes, length)) {
            valid++;
            assert_int_equal(decoded, length);
            assert_memory_equal(back, bytes, length);
        } else {
            assert_true(decoded != length || memcmp(back, bytes, length) != 0);
        }

        /* Any smaller room: a beginning of the same text, cut at a whole character. */
        for (size_t size = 0; size <= encoded; size += 1 + round % 3) {
            char *cut = malloc(MAX(size, 1U));
            size_t written = wire_message_encode(in, length, cut, size);

            assert_true(written <= size && size - written < 12);
            assert_memory_equal(cut, text, written);
            decoded = wire_message_decode(cut, written, back);
            assert_true(is_utf8(back, decoded));
            free(cut);
        }
        free(in);
    }
    assert_in_range(valid, 1000, 19000); /* both kinds were tried */
}

static void test_message_decode(void **state)
{
    static const struct {
        struct text in, out;
    } table[] = {
        {{BYTES("")}, {BYTES("")}},
        {{BYTES("abc")}, {BYTES("abc")}},
        {{BYTES("%41%6a%6A")}, {BYTES("Ajj")}},
        {{BYTES("%")}, {BYTES("%")}},
        {{BYTES("%4")}, {BYTES("%4")}},
        {{BYTES("a%4")}, {BYTES("a%4")}},
        {{BYTES("%4G%G4")}, {BYTES("%4G%G4")}},
        {{BYTES("%%41")}, {BYTES("%A")}},
        {{BYTES("%%%")}, {BYTES("%%%")}},
        {{BYTES("%2541")}, {BYTES("%41")}}, /* decoded once, not twice */
        {{BYTES("%00")}, {BYTES("\0")}},
        {{BYTES("%fF%Ff")}, {BYTES("\xff\xff")}},
        {{BYTES("%+1% 1%0x")}, {BYTES("%+1% 1%0x")}},
        {{BYTES("\xff\x01")}, {BYTES("\xff\x01")}},
        {{BYTES("%:0%@0%`0%/0%g0")}, {BYTES("%:0%@0%`0%/0%g0")}},
    };

    for (size_t i = 0; i < ELEMENTSOF(table); i++) {
        size_t length = table[i].in.length;
        char *in = exact(table[i].in.text, length);
        char *out = malloc(MAX(length, 1U));

        assert_int_equal(wire_message_decode(in, length, out), table[i].out.length);
        assert_memory_equal(out, table[i].out.text, table[i].out.length);
        /* In place. */
        assert_int_equal(wire_message_decode(in, length, in), table[i].out.length);
        if (length > 0)
            assert_memory_equal(in, table[i].out.text, table[i].out.length);
        free(out);
        free(in);
    }
}

static void test_timeout(void **state)
{
    static const struct {
        struct text in;
        int64_t out; /* -1: refused */
    } table[] = {
        {{BYTES("0n")}, 0},
        {{BYTES("1n")}, 1},
        {{BYTES("1u")}, 1000},
        {{BYTES("1m")}, 1000000},
        {{BYTES("1S")}, 1000000000},
        {{BYTES("1M")}, INT64_C(60000000000)},
        {{BYTES("1H")}, INT64_C(3600000000000)},
        {{BYTES("0H")}, 0},
        {{BYTES("00000001m")}, 1000000},
        {{BYTES("99999999n")}, 99999999},
        {{BYTES("99999999u")}, INT64_C(99999999000)},
        {{BYTES("99999999m")}, INT64_C(99999999000000)},
        {{BYTES("99999999S")}, INT64_C(99999999000000000)},
        {{BYTES("99999999M")}, INT64_C(5999999940000000000)},
        {{BYTES("2562047H")}, INT64_C(9223369200000000000)},
        {{BYTES("2562048H")}, WIRE_TIMEOUT_MAX_NS},
        {{BYTES("99999999H")}, WIRE_TIMEOUT_MAX_NS},
        {{BYTES("")}, -1},
        {{BYTES("1")}, -1},
        {{BYTES("S")}, -1},
        {{BYTES("123456789S")}, -1},
        {{BYTES("000000000n")}, -1},
        {{BYTES("+5S")}, -1},
        {{BYTES("-5S")}, -1},
        {{BYTES(" 5S")}, -1},
        {{BYTES("5S ")}, -1},
        {{BYTES("5 S")}, -1},
        {{BYTES("5s")}, -1},
        {{BYTES("5h")}, -1},
        {{BYTES("5N")}, -1},
        {{BYTES("5U")}, -1},
        {{BYTES("5ms")}, -1},
        {{BYTES("1.5S")}, -1},
        {{BYTES("0x1S")}, -1},
        {{BYTES("5S\0")}, -1},
        {{BYTES("5\0S")}, -1},
        {{BYTES("SS")}, -1},
        {{BYTES("99999999999999999999999999999999999999S")}, -1},
    };

    for (size_t i = 0; i < ELEMENTSOF(table); i++) {
        char *text = exact(table[i].in.text, table[i].in.length);
        int64_t timeout_ns = -7;
        int r = wire_timeout_parse(text, table[i].in.length, &timeout_ns);

        assert_int_equal(r, table[i].out < 0 ? -EINVAL : 0);
        assert_int_equal(timeout_ns, table[i].out < 0 ? -7 : table[i].out); /* kept on error */
        free(text);
    }
    /* No other unit. */
    for (int unit = 0; unit < 256; unit++) {
        const char text[] = {'1', (char)unit};
        int64_t timeout_ns;
        bool known = unit != 0 && strchr("HMSmun", unit);
        assert_int_equal(wire_timeout_parse(text, 2, &timeout_ns), known ? 0 : -EINVAL);
    }
}

static void test_base64_tables(void **state)
{
    static const struct {
        struct text text, bytes;
    } good[] = {
        /* RFC 4648, section 10, and the same without padding. */
        {{BYTES("")}, {BYTES("")}},
        {{BYTES("Zg==")}, {BYTES("f")}},
        {{BYTES("Zg")}, {BYTES("f")}},
        {{BYTES("Zm8=")}, {BYTES("fo")}},
        {{BYTES("Zm8")}, {BYTES("fo")}},
        {{BYTES("Zm9v")}, {BYTES("foo")}},
        {{BYTES("Zm9vYg==")}, {BYTES("foob")}},
        {{BYTES("Zm9vYmE")}, {BYTES("fooba")}},
        {{BYTES("Zm9vYmFy")}, {BYTES("foobar")}},
        {{BYTES("q6ur")}, {BYTES("\xab\xab\xab")}},
        {{BYTES("AP/+")}, {BYTES("\x00\xff\xfe")}},
        {{BYTES("Zh")}, {BYTES("f")}}, /* the bits that are left over do not matter */
        {{BYTES("Zm9=")}, {BYTES("fo")}},
    };
    static const struct text bad[] = {
        {BYTES("Z")},        {BYTES("=")},        {BYTES("==")},         {BYTES("===")},
        {BYTES("====")},     {BYTES("Z=")},       {BYTES("Z==")},        {BYTES("Z===")},
        {BYTES("Zg=")},      {BYTES("Zm8==")},    {BYTES("Zm9v=")},      {BYTES("Zm9v==")},
        {BYTES("Zm9v====")}, {BYTES("Zg==Zg==")}, {BYTES("Zg==Zm9v")},   {BYTES("Z=m8")},
        {BYTES("Zm9vY")},    {BYTES("Zm 9")},     {BYTES("Zm9v\n")},     {BYTES(" Zm9")},
        {BYTES("Zm-_")},     {BYTES("Zm9\0")},    {BYTES("Zm\xc3\xa9")}, {BYTES("Zm,v")},
    };
    uint8_t bytes[32];
    char text[32];

    for (size_t i = 0; i < ELEMENTSOF(good); i++) {
        size_t length = good[i].text.length;
        char *in = exact(good[i].text.text, length);
        uint8_t *out = malloc(3 * (length / 4) + 2);

        assert_int_equal(wire_base64_decode(in, length, out), good[i].bytes.length);
        assert_memory_equal(out, good[i].bytes.text, good[i].bytes.length);
        free(out);
        free(in);
    }
    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        char *in = exact(bad[i].text, bad[i].length);
        assert_int_equal(wire_base64_decode(in, bad[i].length, bytes), -EINVAL);
        free(in);
    }
    assert_int_equal(wire_base64_encode((const uint8_t *)"f", 1, text), 2);
    assert_memory_equal(text, "Zg", 2);
    assert_int_equal(wire_base64_encode((const uint8_t *)"\x00\xff\xfe\xfb", 4, text), 6);
    assert_memory_equal(text, "AP/++w", 6);
    assert_int_equal(wire_base64_encode(NULL, 0, text), 0);
}

static void test_base64_round_trip(void **state)
{
    for (size_t size = 0; size < 300; size++) {
        size_t length = (size * 4 + 2) / 3;
        uint8_t *bytes = malloc(size + 1);
        char *text = malloc(length + 4);

        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)draw();
        assert_int_equal(wire_base64_encode(bytes, size, text), length);

        /* Cut anywhere: the whole bytes so far, but for a lone character, which means nothing. */
        for (size_t cut = 0; cut <= length; cut++) {
            char *in = exact(text, cut);
            uint8_t *out = malloc(3 * (cut / 4) + 2);
            ssize_t written = wire_base64_decode(in, cut, out);

            if (cut % 4 == 1) {
                assert_int_equal(written, -EINVAL);
            } else {
                assert_int_equal(written, cut * 3 / 4);
                assert_memory_equal(out, bytes, (size_t)written);
            }
            free(out);
            free(in);
        }

        /* Padded. */
        while (length % 4 != 0)
            text[length++] = '=';
        char *in = exact(text, length);
        uint8_t *out = malloc(3 * (length / 4) + 2);
        assert_int_equal(wire_base64_decode(in, length, out), size);
        assert_memory_equal(out, bytes, size);
        free(out);
        free(in);
        free(text);
        free(bytes);
    }
}

/* Of the 256 bytes, 64 stand for something, and each for something else. */
static void test_base64_alphabet(void **state)
{
    bool seen[64] = {false};
    unsigned known = 0;

    for (int c = 0; c < 256; c++) {
        const char text[] = {'A', 'A', 'A', (char)c};
        uint8_t bytes[5];

        if (c == '=')
            continue; /* padding, here */
        if (wire_base64_decode(text, 4, bytes) < 0)
            continue;
        known++;
        assert_true(bytes[0] == 0 && bytes[1] == 0 && bytes[2] < 64);
        assert_false(seen[bytes[2]]);
        seen[bytes[2]] = true;
    }
    assert_int_equal(known, 64);
}

static void test_content_type(void **state)
{
    static const struct text good[] = {
        {BYTES("application/grpc")},      {BYTES("application/grpc+proto")},
        {BYTES("application/grpc+json")}, {BYTES("application/grpc;charset=utf-8")},
        {BYTES("application/grpc+")},     {BYTES("application/grpc;")},
        {BYTES("Application/GRPC")},      {BYTES("APPLICATION/GRPC+PROTO")},
    };
    static const struct text bad[] = {
        {BYTES("")},
        {BYTES("application/grpc-web")},
        {BYTES("application/grpc-web+proto")},
        {BYTES("application/grpcx")},
        {BYTES("application/grpc ")},
        {BYTES("application/grpc\0")},
        {BYTES(" application/grpc")},
        {BYTES("application/json")},
        {BYTES("text/plain")},
        {BYTES("application\0grpc+proto")},
    };
    static const char whole[] = "application/grpc";

    for (size_t i = 0; i < ELEMENTSOF(good); i++) {
        char *text = exact(good[i].text, good[i].length);
        assert_true(wire_is_grpc_content_type(text, good[i].length));
        free(text);
    }
    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        char *text = exact(bad[i].text, bad[i].length);
        assert_false(wire_is_grpc_content_type(text, bad[i].length));
        free(text);
    }
    for (size_t cut = 0; cut < sizeof(whole) - 1; cut++) {
        char *text = exact(whole, cut);
        assert_false(wire_is_grpc_content_type(text, cut));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_names),
        cmocka_unit_test(test_status_parse),
        cmocka_unit_test(test_status_of_http_and_rst),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_count_messages),
        cmocka_unit_test(test_message_encode),
        cmocka_unit_test(test_message_round_trip),
        cmocka_unit_test(test_message_decode),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_base64_tables),
        cmocka_unit_test(test_base64_round_trip),
        cmocka_unit_test(test_base64_alphabet),
        cmocka_unit_test(test_content_type),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
