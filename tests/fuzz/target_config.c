/*
 * Settings, from a file and one by one, and the texts that they are made of: whatever is taken is
 * written in a form that is read back to the same. And what stockd-render reads besides.
 */
#include "base/config.h"
#include "base/endpoint.h"
#include "base/log.h"
#include "base/ranges.h"
#include "base/text.h"
#include "base/util.h"
#include "client/target.h"
#include "config/render/dotenv.h"
#include "config/render/template.h"
#include "fuzz.h"
#include "settings.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static int input_fd = -1, dump_fd = -1;
static char input_path[64], dump_path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    input_fd = memfd_create("input", MFD_CLOEXEC);
    dump_fd = memfd_create("dump", MFD_CLOEXEC);
    CHECK(input_fd >= 0 && dump_fd >= 0);
    (void)snprintf(input_path, sizeof(input_path), "/proc/self/fd/%d", input_fd);
    (void)snprintf(dump_path, sizeof(dump_path), "/proc/self/fd/%d", dump_fd);
    log_set_level(LOG_EMERG);
    return 0;
}

/* ---- Addresses, endpoints, ranges ---- */

static void try_endpoint(const char *text, size_t length)
{
    struct endpoint one = {0}, two = {0};
    const char *why = NULL;
    char *format, *again;
    int r = endpoint_parse(text, length, &one, &why);

    if (r < 0) {
        CHECK(r == -EINVAL && why && *why);
        return;
    }
    format = endpoint_format(&one);
    CHECK(format && endpoint_parse(format, strlen(format), &two, &why) == 0);
    again = endpoint_format(&two);
    CHECK(again && strcmp(format, again) == 0);
    CHECK(one.tls == two.tls && one.mode == two.mode);
    CHECK(one.client_certificate == two.client_certificate);
    CHECK(memcmp(&one.address, &two.address, address_size((struct sockaddr *)&one.address)) == 0);
    endpoint_deinit(&one);
    endpoint_deinit(&two);
    free(format);
    free(again);
}

static void try_address(const char *text, size_t length)
{
    struct sockaddr_storage one, two;
    char format[ADDRESS_TEXT_MAX];
    const char *why = NULL;
    int r;

    memset(&one, 0, sizeof(one));
    memset(&two, 0, sizeof(two));
    r = address_parse(text, length, &one, &why);
    if (r < 0) {
        CHECK(r == -EINVAL && why && *why);
        return;
    }
    (void)address_format((struct sockaddr *)&one, format);
    CHECK(address_parse(format, strlen(format), &two, NULL) == 0);
    CHECK(memcmp(&one, &two, sizeof(one)) == 0);
}

static void try_range(const char *text, size_t length)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct range one = {0}, two = {0};
    char format[RANGE_TEXT_MAX];
    const char *why = NULL;
    int r = range_parse(text, length, &one, &why);

    if (r < 0) {
        CHECK(r == -EINVAL && why && *why);
        return;
    }
    (void)range_format(&one, format);
    CHECK(range_parse(format, strlen(format), &two, &why) == 0);
    CHECK(one.family == two.family && one.prefix_bits == two.prefix_bits);
    CHECK(memcmp(one.address, two.address, sizeof(one.address)) == 0);
    /* Its own first address is in it, and of another family none. */
    memcpy(&four.sin_addr, one.address, sizeof(four.sin_addr));
    memcpy(&six.sin6_addr, one.address, sizeof(six.sin6_addr));
    CHECK(range_contains(&one, (struct sockaddr *)&four) == (one.family == AF_INET) ||
          one.family == AF_INET6);
    CHECK(one.family != AF_INET6 || range_contains(&one, (struct sockaddr *)&six));
    CHECK(range_contains(&one, (struct sockaddr *)&local) == (one.family == AF_UNIX));
}

static void try_target(const char *text)
{
    struct target target;
    const char *why = NULL;
    int r = target_parse(&target, text, &why);

    CHECK(r == 0 || (r == -EINVAL && why && *why));
}

/* ---- Settings ---- */

static void rewrite(int fd, const void *bytes, size_t size)
{
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(pwrite(fd, bytes, size, 0) == (ssize_t)size);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
}

static void add_changed(const struct config_item *item, void *context)
{
    CHECK(item->origin && *item->origin);
    text_printf(context, "%s=%s\n", item->name, item->value);
}

static void no_difference(const struct config_item *item, void *context)
{
    CHECK(!"the copy is the same");
}

static void begin(struct config *config, struct settings *settings)
{
    memset(settings, 0, sizeof(*settings));
    CHECK(settings_init(config, settings) == 0);
}

/* What was taken, written as a file, is taken again without a fault, and is the same. */
static void check_dump(const struct config *config)
{
    struct settings settings;
    struct config copy;
    struct text one = {0}, two = {0};

    for (size_t i = 0; i < config->faults.count; i++)
        CHECK(*config->faults.text[i] && !strpbrk(config->faults.text[i], "\n\r\x1b"));
    rewrite(dump_fd, "", 0);
    CHECK(config_dump(config, dump_fd) == 0);
    begin(&copy, &settings);
    CHECK(config_load_file(&copy, dump_path, true) == 0);
    for (size_t i = 0; i < copy.faults.count; i++)
        (void)fprintf(stderr, "%s\n", copy.faults.text[i]);
    CHECK(copy.faults.count == 0);
    CHECK(config_each_changed(config, add_changed, &one) == 0);
    CHECK(config_each_changed(&copy, add_changed, &two) == 0);
    CHECK(one.size == two.size && (one.size == 0 || memcmp(one.bytes, two.bytes, one.size) == 0));
    CHECK(config_each_difference(config, &copy, no_difference, NULL) == 0);
    text_deinit(&one);
    text_deinit(&two);
    config_deinit(&copy);
}

static void try_file(const uint8_t *bytes, size_t size)
{
    struct settings settings;
    struct config config;

    rewrite(input_fd, bytes, size);
    begin(&config, &settings);
    CHECK(config_load_file(&config, input_path, true) == 0);
    check_dump(&config);
    config_deinit(&config);
}

static void try_value(const char *value, bool ports)
{
    struct settings settings;
    struct config config;
    char *section;
    size_t faults;

    begin(&config, &settings);
    for (size_t i = 0; i < settings_table_count; i++) {
        const struct config_setting *setting = &settings_table[i];

        if (ports && setting->type == CONFIG_ENDPOINTS)
            CHECK(config_set_port(&config, setting->section, setting->key, value, "fuzz") == 0);
        else
            CHECK(config_set(&config, setting->section, setting->key, value, "fuzz") == 0);
    }
    for (size_t i = 0; i < SETTINGS_TICKER_KEY_COUNT; i++)
        CHECK(config_set(&config, "ticker A", settings_ticker_table[i].key, value, "fuzz") == 0);
    CHECK(config_set(&config, value, value, value, "fuzz") == 0);
    faults = config.faults.count;
    if (asprintf(&section, "ticker %s", value) < 0)
        abort();
    CHECK(config_set(&config, section, "volatility", "0.5", "fuzz") == 0);
    CHECK(config.faults.count > faults || config_find_section(&config, value));
    free(section);
    check_dump(&config);
    config_deinit(&config);
}

/* ---- stockd-render's templates and .env files ---- */

static void check_faults(const struct config *config)
{
    for (size_t i = 0; i < config->faults.count; i++)
        CHECK(*config->faults.text[i] && !strpbrk(config->faults.text[i], "\n\r\x1b"));
}

/* Its bytes in memory of just this size. */
static void try_template(const uint8_t *bytes, size_t size)
{
    static const struct template_value values[] = {{"IP", "192.0.2.5"}, {"Port", ""}};
    char *copy = fuzz_copy(bytes, size, false);
    struct config config = {0};
    struct text text = {0};

    CHECK(template_render(&config, "f", copy, size, values, ELEMENTSOF(values), &text) == 0);
    check_faults(&config);
    if (config.faults.count == 0 && !memmem(copy, size, "{{", 2))
        CHECK(text.size == size && (size == 0 || memcmp(text.bytes, copy, size) == 0));
    /* {{.IP}} is the only one that can become longer than it was. */
    CHECK(text.size <= size / 7 * 9 + size % 7);
    text_deinit(&text);
    config_deinit(&config);
    free(copy);
}

static void try_env_file(const uint8_t *bytes, size_t size)
{
    struct dotenv_variable variables[] = {{.name = "A"}, {.name = "B_1"}};
    char *copy = fuzz_copy(bytes, size, false);
    struct config config = {0};

    CHECK(dotenv_read(&config, "f", copy, size, variables, ELEMENTSOF(variables)) == 0);
    check_faults(&config);
    for (size_t i = 0; i < ELEMENTSOF(variables); i++) {
        const char *value = variables[i].value;

        CHECK(!value || (strlen(value) <= size && variables[i].line > 0));
        for (; value && *value; value++)
            CHECK((unsigned char)*value >= ' ' && *value != 0x7f);
        free(variables[i].value);
    }
    config_deinit(&config);
    free(copy);
}

enum {
    TRY_TEXTS,
    TRY_VALUE,
    TRY_PORT,
    TRY_FILE,
    TRY_TEMPLATE,
    TRY_ENV_FILE,
    TRY_COUNT,
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct reader reader = {bytes, size};
    uint8_t what = read_u8(&reader);
    char *text = fuzz_copy(reader.bytes, reader.size, true);

    switch (what % TRY_COUNT) {
    case TRY_TEXTS:
        try_address(text, reader.size);
        try_endpoint(text, reader.size);
        try_range(text, reader.size);
        try_target(text);
        break;
    case TRY_VALUE:
    case TRY_PORT:
        try_value(text, what % TRY_COUNT == TRY_PORT);
        break;
    case TRY_TEMPLATE:
        try_template(reader.bytes, reader.size);
        break;
    case TRY_ENV_FILE:
        try_env_file(reader.bytes, reader.size);
        break;
    default:
        try_file(reader.bytes, reader.size);
    }
    free(text);
    return 0;
}
