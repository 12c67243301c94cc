/*
 * The linker's --wrap option sends each call of malloc() to __wrap_malloc(), and __real_malloc() is
 * the one that was meant. Unlike a second definition of malloc() this leaves AddressSanitizer's
 * in place, so that the same test finds leaks.
 */
#include "failmalloc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

static size_t countdown; /* 0: not armed */
static bool fired;

void failmalloc_arm(size_t nth)
{
    countdown = nth;
    fired = false;
}

bool failmalloc_disarm(void)
{
    countdown = 0;
    return fired;
}

static bool fails(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    fired = true;
    errno = ENOMEM;
    return true;
}

/* The linker makes up these names; no header declares them. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_reallocarray(void *old, size_t count, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t length);
int __real_vasprintf(char **ret_text, const char *format, va_list arguments);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_reallocarray(void *old, size_t count, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t length);
int __wrap_vasprintf(char **ret_text, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));
int __wrap_asprintf(char **ret_text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What glibc makes of the two with -D_FORTIFY_SOURCE, as packages are built. */
int __wrap___vasprintf_chk(char **ret_text, int flag, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));
int __wrap___asprintf_chk(char **ret_text, int flag, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails() ? NULL : __real_realloc(old, size);
}

void *__wrap_reallocarray(void *old, size_t count, size_t size)
{
    return fails() ? NULL : __real_reallocarray(old, count, size);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t length)
{
    return fails() ? NULL : __real_strndup(text, length);
}

/* glibc leaves the pointer undefined when it fails; so does this, loudly. */
int __wrap_vasprintf(char **ret_text, const char *format, va_list arguments)
{
    if (fails()) {
        *ret_text = (char *)(uintptr_t)1;
        return -1;
    }
    return __real_vasprintf(ret_text, format, arguments);
}

int __wrap_asprintf(char **ret_text, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    int r = __wrap_vasprintf(ret_text, format, arguments);
    va_end(arguments);
    return r;
}

int __wrap___vasprintf_chk(char **ret_text, int flag, const char *format, va_list arguments)
{
    return __wrap_vasprintf(ret_text, format, arguments);
}

int __wrap___asprintf_chk(char **ret_text, int flag, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    int r = __wrap_vasprintf(ret_text, format, arguments);
    va_end(arguments);
    return r;
}
