/*
 * Decodes UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
 * Where bytes are no character, it says how many of them one U+FFFD stands for, so that whoever
 * replaces or escapes them does it as everybody else does.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/*
 * Do `length` (at least 1) bytes begin with a character? Then *ret_code is its number and
 * *ret_size its size in bytes, 1 to 4. If not, *ret_size is the size, 1 to 3, of the longest part
 * that could have begun one, or 1 (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal
 * Subparts"), and *ret_code is left as it was.
 */
static inline bool utf8_decode(const char *text, size_t length, uint32_t *ret_code,
                               size_t *ret_size)
{
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char first = bytes[0];
    unsigned char low = 0x80, high = 0xBF; /* of the second byte; all others are 80 to BF */

    *ret_size = 1;
    if (first < 0x80) {
        *ret_code = first;
        return true;
    }
    if (first < 0xC2 || first > 0xF4)
        return false;
    if (first == 0xE0)
        low = 0xA0; /* below: longer than needed */
    else if (first == 0xED)
        high = 0x9F; /* above: surrogates */
    else if (first == 0xF0)
        low = 0x90; /* below: longer than needed */
    else if (first == 0xF4)
        high = 0x8F; /* above: beyond U+10FFFF */

    size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    uint32_t code = first & (0x7Fu >> size);
    for (size_t i = 1; i < size; i++) {
        if (i == length || bytes[i] < low || bytes[i] > high)
            return false;
        code = code << 6 | (bytes[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
        *ret_size = i + 1;
    }
    *ret_code = code;
    return true;
}

/*
 * Would the character do something to whoever sees it in a terminal or an editor, rather than be
 * seen where it stands? Controls do (C0, DEL and C1), and what separates lines or turns the
 * direction of the text around it, and the invisible U+FEFF.
 */
static inline bool utf8_is_unsafe(uint32_t code)
{
    return code < 0x20 || (code >= 0x7F && code <= 0x9F)         /* controls */
           || code == 0x061C || code == 0x200E || code == 0x200F /* marks of a direction */
           || (code >= 0x2028 && code <= 0x202E) /* separators; embeddings, overrides */
           || (code >= 0x2066 && code <= 0x2069) /* isolates */
           || code == 0xFEFF;
}
