/*
 * The headers' grammar is that of RFC 9110, 12.5. What a part of them says that is not known, or is
 * no grammar at all, wishes for nothing.
 */
#include "base/exporter_accept.h"

#include "base/util.h"

#include <string.h>
#include <strings.h>

/* A part of a header's value, without the space around it. */
struct part {
    const char *text;
    size_t length;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/*
 * Takes the part of *rest up to `separator` (quoted strings are skipped) off it. False at its end.
 */
static bool next_part(struct part *rest, char separator, struct part *ret_part)
{
    struct part part = {rest->text, 0};
    bool quoted = false;
    size_t end = 0, skip;

    if (rest->length == 0)
        return false;
    for (; end < rest->length && (quoted || rest->text[end] != separator); end++) {
        if (rest->text[end] == '"')
            quoted = !quoted;
        else if (quoted && rest->text[end] == '\\' && end + 1 < rest->length)
            end++;
    }
    part.length = MIN(end, rest->length);
    skip = MIN(end + 1, rest->length);
    rest->text += skip;
    rest->length -= skip;
    while (part.length > 0 && is_blank(part.text[0])) {
        part.text++;
        part.length--;
    }
    while (part.length > 0 && is_blank(part.text[part.length - 1]))
        part.length--;
    *ret_part = part;
    return true;
}

static bool part_is(struct part part, const char *text)
{
    return part.length == strlen(text) && strncasecmp(part.text, text, part.length) == 0;
}

/* Splits "name=value", unquoting a quoted value that has no escapes. */
static void split_parameter(struct part part, struct part *ret_name, struct part *ret_value)
{
    if (!next_part(&part, '=', ret_name))
        *ret_name = (struct part){"", 0};
    if (!next_part(&part, '\0', ret_value))
        *ret_value = (struct part){"", 0};
    if (ret_value->length >= 2 && ret_value->text[0] == '"') {
        ret_value->text++;
        ret_value->length -= 2;
    }
}

/* "0.75" is 750. A weight that is none is 0: what it belongs to is not wanted. */
static int parse_weight(struct part part)
{
    int weight = 0, unit = 1000;

    for (size_t i = 0; i < part.length; i++) {
        if (i == 1) {
            if (part.text[i] != '.')
                return 0;
            continue;
        }
        if (part.text[i] < '0' || part.text[i] > '9')
            return 0;
        weight += (part.text[i] - '0') * unit;
        unit /= 10;
    }
    return MIN(weight, 1000);
}

/* How precisely a media range names "text/plain"; 0 if it does not match that. */
static int text_precision(struct part type)
{
    if (part_is(type, "text/plain"))
        return 3;
    if (part_is(type, "text/*"))
        return 2;
    return part_is(type, "*/*") ? 1 : 0;
}

/* One media range of Accept: its type, its parameters in `rest`. */
static void read_media_range(struct exporter_accept *accept, struct part type, struct part rest)
{
    struct part parameter, name, value, version = {"", 0};
    int weight = 1000, precision;

    while (next_part(&rest, ';', &parameter)) {
        split_parameter(parameter, &name, &value);
        if (part_is(name, "q"))
            weight = parse_weight(value);
        else if (part_is(name, "version"))
            version = value;
    }
    if (part_is(type, "application/openmetrics-text")) {
        if (version.length == 0 || part_is(version, "1.0.0"))
            accept->openmetrics = MAX(accept->openmetrics, weight);
        return;
    }
    if (part_is(type, "text/plain") && version.length > 0 && !part_is(version, "0.0.4"))
        return;
    /* The most precise range that matches decides. */
    precision = text_precision(type);
    if (precision > accept->text_precision ||
        (precision == accept->text_precision && precision > 0 && weight > accept->text)) {
        accept->text_precision = precision;
        accept->text = weight;
    }
}

/* One coding of Accept-Encoding. */
static void read_coding(struct exporter_accept *accept, struct part coding, struct part rest)
{
    struct part parameter, name, value;
    int weight = 1000;

    while (next_part(&rest, ';', &parameter)) {
        split_parameter(parameter, &name, &value);
        if (part_is(name, "q"))
            weight = parse_weight(value);
    }
    if (part_is(coding, "gzip") || part_is(coding, "x-gzip"))
        accept->gzip = weight;
    else if (part_is(coding, "*"))
        accept->any_coding = weight;
}

typedef void (*read_element_fn)(struct exporter_accept *accept, struct part head, struct part rest);

/* Each element of a list: what stands before its first ';', and its parameters. */
static void read_list(struct exporter_accept *accept, const char *value, read_element_fn read)
{
    struct part rest = {value, strlen(value)}, element, head;

    while (next_part(&rest, ',', &element)) {
        if (next_part(&element, ';', &head))
            read(accept, head, element);
    }
}

void exporter_accept_types(struct exporter_accept *accept, const char *value)
{
    read_list(accept, value, read_media_range);
}

void exporter_accept_codings(struct exporter_accept *accept, const char *value)
{
    read_list(accept, value, read_coding);
}

enum metrics_format exporter_accept_format(const struct exporter_accept *accept)
{
    return accept->openmetrics > 0 && accept->openmetrics >= accept->text ? METRICS_OPENMETRICS
                                                                          : METRICS_TEXT;
}

bool exporter_accept_gzip(const struct exporter_accept *accept)
{
    return accept->gzip >= 0 ? accept->gzip > 0 : accept->any_coding > 0;
}
