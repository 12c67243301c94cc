/*
 * Lines of a person's own: text with fields in braces.
 *
 *     {NAME}          a field: epoch sequence conflated dropped ticker price change changePercent
 *                     volume openPrice highPrice lowPrice marketCap timestamp, and lag, the
 *                     update's age in ms
 *     {NAME:FORMAT}   FORMAT is [-][+][WIDTH][.PRECISION], as in printf(3): `-` to the left, `+` a
 *                     sign, also of positive numbers; PRECISION is digits behind the point, of
 * texts the most characters
 *     {{ }}           a brace
 *     \n \t \\        newline, tab, backslash
 *
 * Numbers without PRECISION are written with as many digits as it takes to read them back. Texts
 * from the server never bring control characters.
 */
#pragma once

#include "base/text.h"
#include "stockservice.pb-c.h"

#include <stddef.h>
#include <stdint.h>

#define TEMPLATE_ERROR_MAX 256
#define TEMPLATE_WIDTH_MAX 200
#define TEMPLATE_PRECISION_MAX 30

struct template_part;

struct template
{
    struct template_part *parts;
    size_t count;
};

/* 0, -ENOMEM, or -EINVAL with what is wrong, and at which character from 1 on, in `error`. */
int template_parse(struct template *template, const char *source,
                   char error[static TEMPLATE_ERROR_MAX]);

/* Writes one update and the end of the line. `event` is one; `now_ns` is since the Unix epoch. */
void template_print(struct text *text, const struct template *template,
                    const Stockservice__MarketEvent *event, uint64_t now_ns);

/* Zeroed memory is allowed. */
void template_deinit(struct template *template);
