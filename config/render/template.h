/*
 * Templates in the form that Go's text/template gave them, and of that language the part that
 * configurations with an address in them need: {{.NAME}}, comments, and the trim markers.
 */
#pragma once

#include "base/config.h"
#include "base/text.h"

#include <stddef.h>

/* A placeholder, {{.NAME}}, and the text that takes its place. */
struct template_value {
    const char *name;
    const char *text;
};

/*
 * Adds to `text` what the template becomes. Between {{ and }} may stand, as text/template has it:
 *
 *   - .NAME, with blanks and line ends round it;
 *   - a comment, with nothing round it;
 *   - in both cases "- " at the very beginning, which takes away the blanks and line ends before
 *     the {{, and " -" at the very end, for those behind the }}.
 *
 * Whatever else stands there is a fault of `config`, with `file`, the line and the placeholders
 * that there are, as is a NUL byte. All other bytes stay what they are. 0 or -ENOMEM.
 */
int template_render(struct config *config, const char *file, const char *bytes, size_t size,
                    const struct template_value *values, size_t count, struct text *text);
