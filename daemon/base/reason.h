/*
 * Why a text is not taken, in words: what the functions that read addresses, ranges and their like
 * tell their callers.
 */
#pragma once

#include "base/util.h"

#include <stddef.h>

/*
 * Lets *ret_why (if not NULL) point to this text, in memory that this thread's next call
 * overwrites. What was written may hold anything; control characters in it become "?". -EINVAL.
 */
int reason(const char **ret_why, const char *format, ...) _printf_(2, 3);

/* How much of a text of this length a reason shows, for "%.*s". */
int reason_shown(size_t length);
