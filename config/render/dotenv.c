/*
 * A parser of its own, because libinih, which reads stockd's configuration, would keep quotes as
 * part of a value, end one at " ;", cut long lines in two, and not see that a quoted value goes on
 * in the next line. The rules are those of godotenv, which the original program has: whatever that
 * refuses is refused here, and what is taken means the same to both, except that a comment begins
 * at the first " #" of its line, also if there is no value before it, and that a quote is closed by
 * one quote, where godotenv takes all that there are.
 */
#include "config/render/dotenv.h"

#include "base/text.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* How much of a line a message shows. */
#define SHOWN_MAX 60

struct reader {
    struct config *config;
    const char *file;
    const char *at;
    const char *end;
    unsigned line;
    struct dotenv_variable *variables;
    size_t count;
};

/* A value as it is written. */
struct written {
    const char *begin;
    const char *end;
    char quote; /* or 0 */
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\v' || c == '\f' || c == '\r';
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && is_blank(*at))
        at++;
    return at;
}

static const char *trim_end(const char *begin, const char *end)
{
    while (end > begin && is_blank(end[-1]))
        end--;
    return end;
}

static const char *line_end(const struct reader *reader, const char *at)
{
    const char *end = memchr(at, '\n', (size_t)(reader->end - at));

    return end ? end : reader->end;
}

static int fault(struct reader *reader, const char *begin, const char *end, const char *what)
{
    size_t size = (size_t)(end - begin);

    return config_fault(reader->config, "%s:%u: %.*s%s: %s", reader->file, reader->line,
                        (int)MIN(size, (size_t)SHOWN_MAX), begin, size > SHOWN_MAX ? "..." : "",
                        what);
}

static bool is_name(const char *begin, const char *end)
{
    for (const char *c = begin; c < end; c++)
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '.')
            return false;
    return begin < end;
}

/* "export" and a blank may stand before a name. */
static const char *skip_export(const char *begin, const char *end)
{
    static const char word[] = "export";
    const char *behind = begin + strlen(word);

    if ((size_t)(end - begin) > strlen(word) && memcmp(begin, word, strlen(word)) == 0 &&
        is_blank(*behind))
        return skip_blanks(behind, end);
    return begin;
}

static struct dotenv_variable *find(struct reader *reader, const char *name, size_t size)
{
    for (size_t i = 0; i < reader->count; i++)
        if (strlen(reader->variables[i].name) == size &&
            memcmp(reader->variables[i].name, name, size) == 0)
            return &reader->variables[i];
    return NULL;
}

/* Does a "$" with this behind it name a variable, or a command? */
static bool is_expansion(const char *at, const char *end)
{
    return at < end && (isalnum((unsigned char)*at) || *at == '_' || *at == '{' || *at == '(');
}

/* What a backslash and this character stand for. */
static char escaped(char quote, char c)
{
    if (quote && c == 'n')
        return '\n';
    if (quote && c == 'r')
        return '\r';
    return c;
}

/*
 * What is written becomes what is meant. Single quotes take everything as it is; a backslash
 * protects "$" elsewhere, and in double quotes any character but n and r.
 */
static const char *unescape(const struct written *written, struct text *text)
{
    for (const char *c = written->begin; c < written->end; c++) {
        bool escapes = *c == '\\' && c + 1 < written->end && written->quote != '\'';

        if (escapes && (written->quote || c[1] == '$')) {
            const char meant = escaped(written->quote, *++c);

            text_add_char(text, meant);
            continue;
        }
        if (*c == '$' && written->quote != '\'' && is_expansion(c + 1, written->end))
            return "\"$\" before a name is not supported (\\$ is a dollar sign)";
        text_add_char(text, *c);
    }
    for (size_t i = 0; i < text->size; i++)
        if (iscntrl((unsigned char)text->bytes[i]))
            return "a control character is in the value";
    return NULL;
}

static int take(struct reader *reader, struct dotenv_variable *variable,
                const struct written *written)
{
    struct text text = {0};
    const char *wrong = unescape(written, &text);
    int r = 0;

    text_add_char(&text, '\0');
    if (text.failed)
        r = -ENOMEM;
    else if (wrong)
        r = config_fault(reader->config, "%s:%u: %s: %s", reader->file, reader->line,
                         variable->name, wrong);
    else {
        free(variable->value);
        variable->value = TAKE_PTR(text.bytes);
        variable->line = reader->line;
    }
    text_deinit(&text);
    return r;
}

/* A value in quotes, at whose first one `at` is; it may go on over lines. False: it has no end. */
static bool find_quoted(const struct reader *reader, const char *at, struct written *ret)
{
    const char *c = at + 1;

    while (c < reader->end && *c != *at)
        c += *c == '\\' && c + 1 < reader->end ? 2 : 1;
    if (c >= reader->end)
        return false;
    *ret = (struct written){.begin = at + 1, .end = c, .quote = *at};
    return true;
}

/* A value up to the line's end, or to a comment, which has a blank before it. */
static struct written find_plain(const char *begin, const char *end)
{
    const char *at = skip_blanks(begin, end);

    for (const char *c = at; c < end; c++)
        if (*c == '#' && c > begin && is_blank(c[-1]))
            end = c;
    return (struct written){.begin = at, .end = trim_end(at, MAX(at, end))};
}

/* Only blanks and a comment may follow a value in quotes. */
static bool is_rest(const char *at, const char *end)
{
    at = skip_blanks(at, end);
    return at == end || *at == '#';
}

/* What stands from `at`, which is no blank, to the end of its line, or of its value. */
static int read_statement(struct reader *reader)
{
    const char *begin = reader->at;
    const char *end = line_end(reader, begin);
    const char *name = skip_export(begin, end);
    const char *sign = name;
    const char *name_end, *value;
    struct dotenv_variable *variable = NULL;
    struct written written = {0};
    int r = 0;

    while (sign < end && *sign != '=' && *sign != ':')
        sign++;
    name_end = trim_end(name, sign);
    reader->at = end;
    if (sign == end || !is_name(name, name_end))
        return fault(reader, begin, trim_end(begin, end), "this is not NAME=VALUE");
    value = skip_blanks(sign + 1, end);
    if (value < end && (*value == '"' || *value == '\'')) {
        if (!find_quoted(reader, value, &written)) {
            reader->at = reader->end;
            return fault(reader, begin, trim_end(begin, end), "the quote has no end");
        }
        reader->at = line_end(reader, written.end);
        if (!is_rest(written.end + 1, reader->at))
            return fault(reader, begin, trim_end(begin, end),
                         "only a comment may follow the quote's end");
    } else {
        written = find_plain(sign + 1, end);
    }
    variable = find(reader, name, (size_t)(name_end - name));
    if (variable)
        r = take(reader, variable, &written);
    for (const char *c = begin; c < reader->at; c++)
        reader->line += *c == '\n';
    return r;
}

/* One line, or as many as a value in quotes takes. */
static int read_line(struct reader *reader)
{
    reader->at = skip_blanks(reader->at, reader->end);
    if (reader->at < reader->end && *reader->at == '\n') {
        reader->at++;
        reader->line++;
        return 0;
    }
    if (reader->at < reader->end && *reader->at == '#') {
        reader->at = line_end(reader, reader->at);
        return 0;
    }
    return reader->at < reader->end ? read_statement(reader) : 0;
}

int dotenv_read(struct config *config, const char *file, const char *bytes, size_t size,
                struct dotenv_variable *variables, size_t count)
{
    static const char mark[] = "\xef\xbb\xbf"; /* of UTF-8, which some editors write */
    struct reader reader = {
        .config = config,
        .file = file,
        .at = bytes,
        .end = bytes + size,
        .line = 1,
        .variables = variables,
        .count = count,
    };
    int r = 0;

    if (size > 0 && memchr(bytes, '\0', size))
        return config_fault(config, "%s: a NUL byte is in the file", file);
    if (size >= strlen(mark) && memcmp(bytes, mark, strlen(mark)) == 0)
        reader.at += strlen(mark);
    while (r == 0 && reader.at < reader.end)
        r = read_line(&reader);
    return r;
}
