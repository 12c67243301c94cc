/*
 * No function of the C library is used for dates: they know time zones, locales and years that this
 * format has not, and are slow for files of millions of lines.
 */
#include "market/feed_time.h"

#include <math.h>

#define NS_PER_S 1000000000

static const char out_of_range[] = "the time is not in the years 1678 to 2261";
static const char no_time[] = "neither an RFC 3339 time nor a number of seconds, ms, µs or ns "
                              "since 1970";

struct text {
    const char *at;
    const char *end;
};

static bool take(struct text *text, const char *characters)
{
    for (const char *c = characters; text->at < text->end && *c; c++) {
        if (*text->at == *c) {
            text->at++;
            return true;
        }
    }
    return false;
}

static bool digit(const struct text *text)
{
    return text->at < text->end && *text->at >= '0' && *text->at <= '9';
}

/* Just so many digits. */
static bool digits(struct text *text, unsigned count, int *ret_value)
{
    int value = 0;

    for (; count > 0; count--) {
        if (!digit(text))
            return false;
        value = value * 10 + (*text->at++ - '0');
    }
    *ret_value = value;
    return true;
}

/* One digit or more, as a number of billionths. */
static bool fraction(struct text *text, int64_t *ret_billionths)
{
    int64_t scale = NS_PER_S / 10;

    if (!digit(text))
        return false;
    for (*ret_billionths = 0; digit(text); text->at++, scale /= 10)
        *ret_billionths += (*text->at - '0') * scale;
    return true;
}

static int days_of_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    return days[month - 1] + (month == 2 && leap);
}

/* Days from 1970-01-01 in the Gregorian calendar. Years that begin in March end with the leap day,
 * and their months have 153 days in each five. */
static int64_t days_since_epoch(int year, int month, int day)
{
    int64_t y = month > 2 ? year : year - 1;
    int64_t m = month > 2 ? month - 3 : month + 9;

    /* A year of four digits is not negative; the year before year 0 is part of no result. */
    return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719468;
}

static const char *to_ns(int64_t seconds, int64_t ns, int64_t *ret_ns)
{
    if (__builtin_mul_overflow(seconds, (int64_t)NS_PER_S, &seconds) ||
        __builtin_add_overflow(seconds, ns, ret_ns))
        return out_of_range;
    return NULL;
}

/* "+01:00", or Z. */
static const char *offset(struct text *text, int *ret_seconds)
{
    bool west = text->at < text->end && *text->at == '-';
    int hours, minutes;

    *ret_seconds = 0;
    if (take(text, "Zz"))
        return NULL;
    if (!take(text, "+-"))
        return "the time has no offset from UTC, such as Z or +01:00";
    if (!digits(text, 2, &hours) || !take(text, ":") || !digits(text, 2, &minutes) || hours > 23 ||
        minutes > 59)
        return "the offset from UTC is not one, such as Z or +01:00";
    *ret_seconds = (hours * 60 + minutes) * (west ? -60 : 60);
    return NULL;
}

static const char *parse_date(struct text *text, int64_t *ret_ns)
{
    int year, month, day, hour, minute, second, east;
    int64_t ns = 0;
    const char *wrong;

    if (!digits(text, 4, &year) || !take(text, "-") || !digits(text, 2, &month) ||
        !take(text, "-") || !digits(text, 2, &day) || !take(text, "Tt ") ||
        !digits(text, 2, &hour) || !take(text, ":") || !digits(text, 2, &minute) ||
        !take(text, ":") || !digits(text, 2, &second) || (take(text, ".") && !fraction(text, &ns)))
        return no_time;
    if (month < 1 || month > 12 || day < 1 || day > days_of_month(year, month) || hour > 23 ||
        minute > 59 || second > 60)
        return "there is no such day, or no such time of a day";
    wrong = offset(text, &east);
    if (wrong)
        return wrong;
    if (text->at < text->end)
        return no_time;
    return to_ns(days_since_epoch(year, month, day) * 86400 + hour * 3600 + minute * 60 + second -
                     east,
                 ns, ret_ns);
}

/* Nanoseconds in the unit of numbers of this size. */
static int64_t unit_of(uint64_t size)
{
    if (size < UINT64_C(100000000000))
        return NS_PER_S;
    if (size < UINT64_C(100000000000000))
        return 1000000;
    return size < UINT64_C(100000000000000000) ? 1000 : 1;
}

static const char *of_number(uint64_t whole, int64_t billionths, bool negative, int64_t *ret_ns)
{
    int64_t unit = unit_of(whole), ns;

    if (whole > INT64_MAX || __builtin_mul_overflow((int64_t)whole, unit, &ns) ||
        __builtin_add_overflow(ns, billionths / (NS_PER_S / unit), &ns))
        return out_of_range;
    *ret_ns = negative ? -ns : ns;
    return NULL;
}

static const char *parse_number(struct text *text, int64_t *ret_ns)
{
    bool negative = take(text, "-");
    int64_t billionths = 0;
    uint64_t whole = 0;

    if (!digit(text))
        return no_time;
    for (; digit(text); text->at++)
        if (__builtin_mul_overflow(whole, UINT64_C(10), &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*text->at - '0'), &whole))
            return out_of_range;
    if ((take(text, ".") && !fraction(text, &billionths)) || text->at < text->end)
        return no_time;
    return of_number(whole, billionths, negative, ret_ns);
}

const char *feed_time_parse(const char *text, size_t size, int64_t *ret_ns)
{
    struct text rest = {text, text + size};
    int64_t ns = 0;
    const char *wrong =
        size > 4 && text[4] == '-' ? parse_date(&rest, &ns) : parse_number(&rest, &ns);

    if (!wrong)
        *ret_ns = ns;
    return wrong;
}

const char *feed_time_of_integer(int64_t value, int64_t *ret_ns)
{
    return of_number(value < 0 ? -(uint64_t)value : (uint64_t)value, 0, value < 0, ret_ns);
}

const char *feed_time_of_real(double value, int64_t *ret_ns)
{
    double whole, rest = modf(fabs(value), &whole);

    if (!(whole < 0x1p63))
        return out_of_range;
    return of_number((uint64_t)whole, (int64_t)(rest * NS_PER_S), value < 0, ret_ns);
}
