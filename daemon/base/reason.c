/* One text for each thread, so that nothing needs freeing. */
#include "base/reason.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define SHOWN_MAX 60

static _Thread_local char text[160];

int reason(const char **ret_why, const char *format, ...)
{
    va_list arguments;

    if (!ret_why)
        return -EINVAL;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++)
        if (iscntrl((unsigned char)*c))
            *c = '?';
    *ret_why = text;
    return -EINVAL;
}

int reason_shown(size_t length)
{
    return (int)MIN(length, (size_t)SHOWN_MAX);
}
