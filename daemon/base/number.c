/*
 * The shortest text is found by trying: numbers are written so seldom that an algorithm which
 * computes it would not be worth its size.
 */
#include "base/number.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int number_format(double value, char text[static NUMBER_TEXT_MAX])
{
    /* Every decimal of 15 digits survives a double, unless it is too small to have them all. */
    int digits = fabs(value) < DBL_MIN ? 1 : DBL_DIG;
    char tried[NUMBER_TEXT_MAX];

    for (;; digits++) {
        (void)snprintf(tried, sizeof tried, "%.*g", digits, value);
        if (digits == DBL_DECIMAL_DIG || strtod(tried, NULL) == value)
            break;
    }
    (void)strcpy(text, tried);
    return digits;
}
