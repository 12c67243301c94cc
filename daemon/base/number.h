/*
 * Numbers as text that says neither more nor less than the number.
 */
#pragma once

/* Room for the longest text, such as "-2.2250738585072014e-308", with its NUL, and to spare. */
#define NUMBER_TEXT_MAX 40

/*
 * Writes `value`, which is finite, as printf's %g does with the fewest significant digits from
 * which strtod(3) makes exactly the same value again. Returns the number of those digits, 1 to 17;
 * some of 15 or fewer may be zeros that %g leaves out.
 */
int number_format(double value, char text[static NUMBER_TEXT_MAX]);
