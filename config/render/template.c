/*
 * The rules are those of text/template's lexer, its oddities included: where a blank is needed, and
 * where one is too many. Somebody whose template worked there must get the same bytes here; and
 * what this program does not understand must be an error, for a configuration with "{{" in it, or
 * with something missing, is worse than none.
 */
#include "config/render/template.h"

#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* How much of what is wrong a message shows. */
#define SHOWN_MAX 60

struct template
{
    struct config *config;
    const char *file;
    const char *at; /* where the next text begins */
    const char *end;
    const char *counted; /* up to here the lines are counted */
    unsigned line;
    const struct template_value *values;
    size_t count;
    struct text *text;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static const char *skip_blanks(const struct template *template, const char *at)
{
    while (at < template->end && is_blank(*at))
        at++;
    return at;
}

static bool begins(const struct template *template, const char *at, const char *what)
{
    return (size_t)(template->end - at) >= strlen(what) && memcmp(at, what, strlen(what)) == 0;
}

static const char *find(const char *at, const char *end, const char *what)
{
    return memmem(at, (size_t)(end - at), what, strlen(what));
}

/* The line that `at` is on; never asked of what is before a place that was asked of already. */
static unsigned line_of(struct template *template, const char *at)
{
    for (; template->counted < at; template->counted++)
        template->line += *template->counted == '\n';
    return template->line;
}

/* The faults. From `open` to `end` is shown, as far as there is room. */
static int fault(struct template *template, const char *open, const char *end, const char *what)
{
    size_t size = (size_t)(end - open);

    return config_fault(template->config, "%s:%u: %.*s%s: %s", template->file,
                        line_of(template, open), (int)MIN(size, (size_t)SHOWN_MAX), open,
                        size > SHOWN_MAX ? "..." : "", what);
}

static int fault_unknown(struct template *template, const char *open, const char *end,
                         const char *what)
{
    struct text text = {0};
    int r = -ENOMEM;

    text_add_string(&text, what);
    for (size_t i = 0; i < template->count; i++)
        text_printf(&text, "%s{{.%s}}",
                    i == 0                    ? "; there are "
                    : i + 1 < template->count ? ", "
                                              : " and ",
                    template->values[i].name);
    text_add_char(&text, '\0');
    if (!text.failed)
        r = fault(template, open, end, text.bytes);
    text_deinit(&text);
    return r;
}

/* The fault that something has no end. Of what might be anything its first line is shown. */
static int fault_endless(struct template *template, const char *open, const char *what)
{
    const char *end = find(open, template->at, "\n");

    return fault(template, open, end ? end : template->at, what);
}

/*
 * What "{{" begins at `open` and is none of the things that it may be. Goes on behind its end,
 * which must come before the next "{{": so no byte is looked at again for each "{{" before it.
 */
static int refuse(struct template *template, const char *open, bool named)
{
    const char *next = find(open + 2, template->end, "{{");
    const char *limit = next ? next : template->end;
    const char *end = find(open + 2, limit, "}}");

    template->at = end ? end + 2 : limit;
    if (!end)
        return fault_endless(template, open, "the {{ has no }}");
    return fault_unknown(template, open, template->at,
                         named ? "there is no such placeholder"
                               : "only placeholders and comments are understood");
}

/* Is here the end, "}}" or " -}}"? Then the next text begins behind it. */
static bool close_action(struct template *template, const char *at)
{
    if (begins(template, at, "}}")) {
        template->at = at + 2;
        return true;
    }
    if (at < template->end && is_blank(*at) && begins(template, at + 1, "-}}")) {
        template->at = skip_blanks(template, at + 4);
        return true;
    }
    return false;
}

/* `at` is behind the comment's beginning. */
static int read_comment(struct template *template, const char *open, const char *at)
{
    const char *end = find(at, template->end, "*/");

    if (!end) {
        template->at = template->end;
        return fault_endless(template, open, "the comment has no */");
    }
    if (close_action(template, end + 2))
        return 0;
    template->at = end + 2;
    return fault(template, open, template->at, "}} or \" -}}\" must follow the comment at once");
}

static int read_placeholder(struct template *template, const char *open, const char *at)
{
    const char *name = NULL;
    const char *close = NULL;
    const char *before = NULL;

    at = skip_blanks(template, at);
    if (at == template->end || *at != '.')
        return refuse(template, open, false);
    name = ++at;
    while (at < template->end && (isalnum((unsigned char)*at) || *at == '_'))
        at++;
    close = skip_blanks(template, at);
    before = template->at;
    /* The marker's blank is the last of them. */
    if (at == name ||
        (!close_action(template, close) && (close == at || !close_action(template, close - 1))))
        return refuse(template, open, false);
    for (size_t i = 0; i < template->count; i++)
        if (strlen(template->values[i].name) == (size_t)(at - name) &&
            memcmp(template->values[i].name, name, (size_t)(at - name)) == 0) {
            text_add_string(template->text, template->values[i].text);
            return 0;
        }
    template->at = before;
    return refuse(template, open, true);
}

/* The text up to the next "{{", and what that begins. */
static int read_next(struct template *template)
{
    const char *open = find(template->at, template->end, "{{");
    const char *text_end = open ? open : template->end;
    const char *inside = text_end + 2;
    bool trimmed =
        open && begins(template, inside, "-") && inside + 1 < template->end && is_blank(inside[1]);

    while (trimmed && text_end > template->at && is_blank(text_end[-1]))
        text_end--;
    text_add(template->text, template->at, (size_t)(text_end - template->at));
    if (!open) {
        template->at = template->end;
        return 0;
    }
    if (trimmed)
        inside += 2;
    return begins(template, inside, "/*") ? read_comment(template, open, inside + 2)
                                          : read_placeholder(template, open, inside);
}

int template_render(struct config *config, const char *file, const char *bytes, size_t size,
                    const struct template_value *values, size_t count, struct text *text)
{
    struct template template = {
        .config = config,
        .file = file,
        .at = bytes,
        .end = bytes + size,
        .counted = bytes,
        .line = 1,
        .values = values,
        .count = count,
        .text = text,
    };
    const char *nul = size > 0 ? memchr(bytes, '\0', size) : NULL;
    int r = 0;

    if (nul)
        return config_fault(config, "%s:%u: a NUL byte is in the line", file,
                            line_of(&template, nul));
    while (r == 0 && template.at < template.end && config->faults.count < CONFIG_FAULTS_MAX)
        r = read_next(&template);
    return r == 0 && text->failed ? -ENOMEM : r;
}
