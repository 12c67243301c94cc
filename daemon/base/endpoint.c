/*
 * Places to listen on, as text. Each is one word for the address, and a word for everything else
 * that is said about it, so that a list of them needs no more than commas.
 */
#include "base/endpoint.h"

#include "base/boolean.h"
#include "base/reason.h"
#include "base/text.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define MODE_MAX 0777u

static const char blanks[] = " \t";

const char *const client_certificate_texts[] = {
#define X(identifier, text) [CLIENT_CERTIFICATE_##identifier] = (text),
    CLIENT_CERTIFICATES(X)
#undef X
};

enum option {
    OPTION_TLS,
    OPTION_CLIENT_CERTIFICATE,
    OPTION_CERTIFICATE,
    OPTION_KEY,
    OPTION_CLIENT_CA,
    OPTION_MODE,
    OPTION_OWNER,
    OPTION_GROUP,
    OPTION_COUNT,
};

static const char *const option_names[] = {
    [OPTION_TLS] = "tls",
    [OPTION_CLIENT_CERTIFICATE] = "client_certificate",
    [OPTION_CERTIFICATE] = "certificate",
    [OPTION_KEY] = "key",
    [OPTION_CLIENT_CA] = "client_ca",
    [OPTION_MODE] = "mode",
    [OPTION_OWNER] = "owner",
    [OPTION_GROUP] = "group",
};

struct endpoint endpoint_at(const struct sockaddr *address)
{
    struct endpoint endpoint = {
        .client_certificate = CLIENT_CERTIFICATE_UNSET,
        .mode = ENDPOINT_MODE_DEFAULT,
    };

    memcpy(&endpoint.address, address, address_size(address));
    return endpoint;
}

static bool copy_string(char **slot, const char *string)
{
    *slot = string ? strdup(string) : NULL;
    return !string || *slot;
}

int endpoint_copy(const struct endpoint *endpoint, struct endpoint *ret_copy)
{
    struct endpoint copy = *endpoint;
    bool copied = copy_string(&copy.certificate, endpoint->certificate);

    copied = copy_string(&copy.key, endpoint->key) && copied;
    copied = copy_string(&copy.client_ca, endpoint->client_ca) && copied;
    copied = copy_string(&copy.owner, endpoint->owner) && copied;
    copied = copy_string(&copy.group, endpoint->group) && copied;
    if (!copied) {
        endpoint_deinit(&copy);
        return -ENOMEM;
    }
    *ret_copy = copy;
    return 0;
}

void endpoint_deinit(struct endpoint *endpoint)
{
    free(endpoint->certificate);
    free(endpoint->key);
    free(endpoint->client_ca);
    free(endpoint->owner);
    free(endpoint->group);
    memset(endpoint, 0, sizeof *endpoint);
}

/* ---- Reading ---- */

static int take_tls(struct endpoint *endpoint, const char *value, size_t length,
                    const char **ret_why)
{
    if (!boolean_parse(value, length, &endpoint->tls))
        return reason(ret_why, "tls is \"%.*s\", which is neither yes nor no", reason_shown(length),
                      value);
    return 0;
}

static int take_client_certificate(struct endpoint *endpoint, const char *value, size_t length,
                                   const char **ret_why)
{
    for (unsigned i = 0; i < CLIENT_CERTIFICATE_UNSET; i++)
        if (strlen(client_certificate_texts[i]) == length &&
            memcmp(client_certificate_texts[i], value, length) == 0) {
            endpoint->client_certificate = (enum client_certificate)i;
            return 0;
        }
    return reason(ret_why, "client_certificate is \"%.*s\", none of no, optional and required",
                  reason_shown(length), value);
}

static int take_mode(struct endpoint *endpoint, const char *value, size_t length,
                     const char **ret_why)
{
    unsigned mode = 0;

    for (size_t i = 0; i < length; i++) {
        if (value[i] >= '0' && value[i] <= '7')
            mode = mode * 8 + (unsigned)(value[i] - '0');
        if (value[i] < '0' || value[i] > '7' || mode > MODE_MAX)
            return reason(ret_why, "mode is \"%.*s\", not an octal number up to 0777",
                          reason_shown(length), value);
    }
    endpoint->mode = mode;
    return 0;
}

static int take_string(char **slot, const char *value, size_t length)
{
    *slot = strndup(value, length);
    return *slot ? 0 : -ENOMEM;
}

static int take_path(char **slot, const char *name, const char *value, size_t length,
                     const char **ret_why)
{
    if (*value != '/')
        return reason(ret_why, "%s is \"%.*s\", which is not an absolute path", name,
                      reason_shown(length), value);
    return take_string(slot, value, length);
}

static int take_option(struct endpoint *endpoint, enum option option, const char *value,
                       size_t length, const char **ret_why)
{
    const char *name = option_names[option];

    switch (option) {
    case OPTION_TLS:
        return take_tls(endpoint, value, length, ret_why);
    case OPTION_CLIENT_CERTIFICATE:
        return take_client_certificate(endpoint, value, length, ret_why);
    case OPTION_CERTIFICATE:
        return take_path(&endpoint->certificate, name, value, length, ret_why);
    case OPTION_KEY:
        return take_path(&endpoint->key, name, value, length, ret_why);
    case OPTION_CLIENT_CA:
        return take_path(&endpoint->client_ca, name, value, length, ret_why);
    case OPTION_MODE:
        return take_mode(endpoint, value, length, ret_why);
    case OPTION_OWNER:
        return take_string(&endpoint->owner, value, length);
    case OPTION_GROUP:
        return take_string(&endpoint->group, value, length);
    case OPTION_COUNT:
        break;
    }
    return -EINVAL;
}

/* Takes one NAME=VALUE, which is not in `given` yet but then is. */
static int take_word(struct endpoint *endpoint, const char *word, size_t length, bool given[],
                     const char **ret_why)
{
    const char *equals = memchr(word, '=', length);
    size_t name = equals ? (size_t)(equals - word) : 0;
    unsigned option = 0;

    if (name == 0)
        return reason(ret_why, "\"%.*s\" is not NAME=VALUE; between addresses stands a comma",
                      reason_shown(length), word);
    while (option < OPTION_COUNT &&
           (strlen(option_names[option]) != name || memcmp(option_names[option], word, name) != 0))
        option++;
    if (option == OPTION_COUNT)
        return reason(ret_why,
                      "there is no \"%.*s\" (only tls, client_certificate, certificate, key, "
                      "client_ca, mode, owner, group)",
                      reason_shown(name), word);
    if (given[option])
        return reason(ret_why, "%s is given twice", option_names[option]);
    if (name + 1 == length)
        return reason(ret_why, "%s has no value", option_names[option]);
    given[option] = true;
    return take_option(endpoint, (enum option)option, equals + 1, length - name - 1, ret_why);
}

/* Does what was given belong together? */
static int check_given(const struct endpoint *endpoint, const bool given[], const char **ret_why)
{
    for (unsigned i = OPTION_CLIENT_CERTIFICATE; i <= OPTION_CLIENT_CA; i++)
        if (given[i] && !endpoint->tls)
            return reason(ret_why, "%s needs tls=yes", option_names[i]);
    for (unsigned i = OPTION_MODE; i <= OPTION_GROUP; i++)
        if (given[i] && endpoint->address.ss_family != AF_UNIX)
            return reason(ret_why, "%s is for Unix sockets only", option_names[i]);
    if (given[OPTION_CERTIFICATE] != given[OPTION_KEY])
        return reason(ret_why, "certificate and key come together; %s is missing",
                      given[OPTION_KEY] ? "certificate" : "key");
    return 0;
}

static int take_words(struct endpoint *endpoint, const char *text, size_t length,
                      const char **ret_why)
{
    const char *end = text + length;
    bool given[OPTION_COUNT] = {false};
    const char *word_end = text;
    int r = 0;

    for (const char *word = text; r == 0 && word < end; word = word_end) {
        while (word < end && strchr(blanks, *word))
            word++;
        word_end = word;
        while (word_end < end && !strchr(blanks, *word_end))
            word_end++;
        if (word < word_end)
            r = take_word(endpoint, word, (size_t)(word_end - word), given, ret_why);
    }
    return r == 0 ? check_given(endpoint, given, ret_why) : r;
}

int endpoint_parse(const char *text, size_t length, struct endpoint *ret_endpoint,
                   const char **ret_why)
{
    struct sockaddr_storage address;
    struct endpoint endpoint;
    size_t first = 0;
    int r = 0;

    for (size_t i = 0; i < length; i++)
        if ((text[i] < ' ' && text[i] != '\t') || text[i] > '~' || strchr("\"'`,;", text[i]))
            return reason(ret_why, "it has a character that is not allowed (only printable ASCII, "
                                   "without quotes, commas and semicolons)");
    while (first < length && !strchr(blanks, text[first]))
        first++;
    r = address_parse(text, first, &address, ret_why);
    if (r < 0)
        return r;
    endpoint = endpoint_at((const struct sockaddr *)&address);
    r = take_words(&endpoint, text + first, length - first, ret_why);
    if (r < 0) {
        endpoint_deinit(&endpoint);
        return r;
    }
    *ret_endpoint = endpoint;
    return 0;
}

/* ---- Writing ---- */

static void add_string(struct text *text, enum option option, const char *value)
{
    if (value)
        text_printf(text, " %s=%s", option_names[option], value);
}

char *endpoint_format(const struct endpoint *endpoint)
{
    struct text text = {0};
    char address[ADDRESS_TEXT_MAX];

    text_add_string(&text, address_format((const struct sockaddr *)&endpoint->address, address));
    if (endpoint->tls)
        add_string(&text, OPTION_TLS, "yes");
    if (endpoint->client_certificate != CLIENT_CERTIFICATE_UNSET)
        add_string(&text, OPTION_CLIENT_CERTIFICATE,
                   client_certificate_texts[endpoint->client_certificate]);
    add_string(&text, OPTION_CERTIFICATE, endpoint->certificate);
    add_string(&text, OPTION_KEY, endpoint->key);
    add_string(&text, OPTION_CLIENT_CA, endpoint->client_ca);
    if (endpoint->address.ss_family == AF_UNIX && endpoint->mode != ENDPOINT_MODE_DEFAULT)
        text_printf(&text, " mode=%04o", (unsigned)endpoint->mode);
    add_string(&text, OPTION_OWNER, endpoint->owner);
    add_string(&text, OPTION_GROUP, endpoint->group);
    text_add_char(&text, '\0');
    if (text.failed)
        text_deinit(&text);
    return text.bytes;
}
