/*
 * What the files of a configuration share.
 */
#pragma once

#include "base/util.h"
#include "configuration.h"

/* Logs what is wrong, if anything is, with the setting that is to blame. 0 or CONFIGURATION_WRONG.
 */
int configuration_check(const char *setting, const char *fault);

/* The worse of two results. */
static inline int configuration_worse(int a, int b)
{
    return a < 0 || b < 0 ? MIN(a, b) : MAX(a, b);
}

/* Collects the tickers, and looks at all that [market] says. 0, -ENOMEM, or CONFIGURATION_WRONG. */
int configuration_complete_market(struct configuration *configuration);
