/*
 * How a configuration is read and checked.
 *
 * What a reload finds wrong and what --check-config finds wrong is the same, because it is found by
 * the same functions; a new list of addresses, too, is looked at in full, certificates included,
 * although it is for the next start only: a reload that takes it must not be a restart that fails.
 */
#include "configuration_private.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "places.h"
#include "security.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <uv.h>

/* Descriptors that connections may not use: the loop's own, listeners, scrapers, files. */
#define DESCRIPTORS_RESERVED 128

const char *const place_group_names[GROUP_COUNT] = {
#define X(identifier, name) name,
    PLACE_GROUPS(X)
#undef X
};

static const char *const listen_settings[GROUP_COUNT] = {
#define X(identifier, name) name ".listen",
    PLACE_GROUPS(X)
#undef X
};

static const struct config_endpoints *listen_of(const struct settings *settings,
                                                enum place_group group)
{
    return group == GROUP_GRPC ? &settings->grpc.listen : &settings->metrics.listen;
}

/* ---- Faults ---- */

int configuration_check(const char *setting, const char *fault)
{
    if (!fault)
        return 0;
    log_event(LOG_ERR, log_fields(LOG_EVENT(CONFIGURATION_FAULT), {"STOCKD_SETTING", setting}),
              "%s%s%s", setting ? setting : "", setting ? ": " : "", fault);
    return CONFIGURATION_WRONG;
}

/* ---- Settings ---- */

static void free_pointer(struct configuration **configuration)
{
    (void)configuration_free(*configuration);
}

static uint64_t choose_seed(const struct config_seed *seed)
{
    uint64_t value = seed->value;

    if (!seed->given && getrandom(&value, sizeof(value), 0) != sizeof(value))
        value = uv_hrtime();
    return value;
}

int configuration_read(struct configuration **ret_configuration,
                       const struct configuration_source *source)
{
    _cleanup_(free_pointer) struct configuration *new = calloc(1, sizeof(*new));
    const struct arguments *arguments = &source->arguments;
    const struct config_faults *faults;
    size_t faults_of_files;
    int r;

    if (!new)
        return -ENOMEM;
    faults = &new->config.faults;
    r = settings_init(&new->config, &new->settings);
    if (r >= 0)
        r = settings_load(&new->config, arguments->config_file, arguments->instance, source->again);
    faults_of_files = faults->count;
    if (r >= 0)
        r = arguments_apply(source->argc, source->argv, &new->config);
    for (size_t i = 0; i < faults->count; i++)
        (void)configuration_check(NULL, faults->text[i]);
    if (r < 0 || faults->out_of_memory)
        return -ENOMEM;
    if (faults->count > 0)
        return faults_of_files > 0 ? CONFIGURATION_WRONG : CONFIGURATION_WRONG_OPTIONS;
    new->seed = choose_seed(&new->settings.stream.seed);
    *ret_configuration = TAKE_PTR(new);
    return 0;
}

/* ---- What the settings name ---- */

static int choose_places(struct configuration *configuration, const struct systemd_sockets *sockets)
{
    char error[PLACES_ERROR_MAX];
    int result = 0;

    if (places_check(place_group_names, GROUP_COUNT, sockets, error) < 0)
        return configuration_check(NULL, error);
    for (unsigned group = 0; group < GROUP_COUNT; group++) {
        int r = places_choose(place_group_names[group], listen_of(&configuration->settings, group),
                              sockets, &configuration->places[group], error);

        result = configuration_worse(
            result, r == -EINVAL ? configuration_check(listen_settings[group], error) : r);
    }
    return result;
}

/* Is there the same place, with the same said about it? 0 or 1, or -ENOMEM. */
static int has_place(const struct config_endpoints *places, const struct endpoint *endpoint)
{
    _cleanup_free_ char *wanted = endpoint_format(endpoint);

    if (!wanted)
        return -ENOMEM;
    for (unsigned i = 0; i < places->count; i++) {
        _cleanup_free_ char *text = endpoint_format(&places->endpoints[i]);

        if (!text)
            return -ENOMEM;
        if (strcmp(text, wanted) == 0)
            return 1;
    }
    return 0;
}

/* Makes the credentials of one place, or says what is wrong with them. */
static int load_credentials(const struct settings *settings, enum place_group group,
                            const struct endpoint *endpoint, struct credentials **ret_credentials)
{
    char error[CREDENTIALS_ERROR_MAX], text[ADDRESS_TEXT_MAX];
    int r = security_credentials(settings, endpoint, ret_credentials, error);

    if (r != -EINVAL)
        return r;
    log_event(
        LOG_ERR,
        log_fields(LOG_EVENT(CONFIGURATION_FAULT), {"STOCKD_SETTING", listen_settings[group]}),
        "%s: %s: %s", listen_settings[group],
        address_format((const struct sockaddr *)&endpoint->address, text), error);
    return CONFIGURATION_WRONG;
}

/*
 * The same for a place that is listened on, and that the new configuration does not have any more:
 * nobody needs to provide for it until the next start. It keeps what it has, at the worst.
 */
static int renew_credentials(const struct settings *settings, const struct endpoint *endpoint,
                             struct credentials *now, struct credentials **ret_credentials)
{
    char error[CREDENTIALS_ERROR_MAX], text[ADDRESS_TEXT_MAX];
    int r = security_credentials(settings, endpoint, ret_credentials, error);

    if (r != -EINVAL)
        return r;
    log_event(LOG_WARNING, log_fields(LOG_EVENT(CERTIFICATE)),
              "%s is listened on until the next start, with the certificate that it has: %s",
              address_format((const struct sockaddr *)&endpoint->address, text), error);
    *ret_credentials = credentials_ref(now);
    return 0;
}

static int load_all_credentials(struct configuration *configuration,
                                const struct config_endpoints *places,
                                const struct configuration *current)
{
    const struct settings *settings = &configuration->settings;
    int result = 0;

    for (unsigned group = 0; group < GROUP_COUNT; group++) {
        for (unsigned i = 0; i < places[group].count && result >= 0; i++) {
            const struct endpoint *endpoint = &places[group].endpoints[i];
            struct credentials **credentials = &configuration->credentials[group][i];
            int r = has_place(&configuration->places[group], endpoint);

            if (r > 0)
                r = load_credentials(settings, group, endpoint, credentials);
            else if (r == 0)
                r = renew_credentials(settings, endpoint, current->credentials[group][i],
                                      credentials);
            result = configuration_worse(result, r);
        }
    }
    return result;
}

/* The same for places that are for the next start only: are they good? */
static int check_new_places(const struct configuration *configuration,
                            const struct config_endpoints *places)
{
    int result = 0;

    for (unsigned group = 0; group < GROUP_COUNT; group++) {
        const struct config_endpoints *own = &configuration->places[group];

        for (unsigned i = 0; i < own->count && result >= 0; i++) {
            struct credentials *credentials = NULL;
            int r = has_place(&places[group], &own->endpoints[i]);

            if (r == 0)
                r = load_credentials(&configuration->settings, group, &own->endpoints[i],
                                     &credentials);
            else
                r = MIN(r, 0);
            (void)credentials_unref(credentials);
            result = configuration_worse(result, r);
        }
    }
    return result;
}

/* The service manager passes its sockets to whom it starts, and not to a check: what is not in the
 * settings may be in a socket unit, as it is where ExecReload= checks. */
static bool may_be_passed(const struct configuration_source *source)
{
    return source->arguments.check && source->sockets.count == 0;
}

/* A list of names must be one that is looked at: now, and after the next start. */
static int check_names(const struct configuration *configuration,
                       const struct configuration_source *source,
                       const struct config_endpoints *places)
{
    const struct settings *settings = &configuration->settings;
    const char *fault = security_check_names(settings, &configuration->places[GROUP_GRPC]);

    if (may_be_passed(source) && settings->tls.client_certificate != CLIENT_CERTIFICATE_NO)
        return 0;
    if (!fault && security_check_names(settings, &places[GROUP_GRPC]))
        fault = "no address that stockd listens on since its start asks for a client's "
                "certificate, so that nobody's name would be looked at; restart it instead";
    return configuration_check("access.allow_names", fault);
}

static int load_password(struct configuration *configuration)
{
    const struct settings *settings = &configuration->settings;
    char error[CREDENTIALS_ERROR_MAX];
    int r = security_password(settings, &configuration->password, error);

    if (r < 0)
        return r == -EINVAL ? configuration_check("metrics.password_file", error) : r;
    if ((settings->metrics.user[0] == '\0') != !configuration->password)
        return configuration_check(NULL,
                                   "metrics.user and metrics.password_file: one needs the other");
    return configuration_check("metrics.user", security_check_user(settings));
}

/* As many descriptors as the kernel lets us have: the most connections that they are enough for. */
static uint64_t most_connections(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return UINT64_MAX;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur > 2 * DESCRIPTORS_RESERVED ? limit.rlim_cur - DESCRIPTORS_RESERVED
                                                     : limit.rlim_cur / 2;
}

int configuration_complete(struct configuration *configuration,
                           const struct configuration_source *source,
                           const struct configuration *started, const struct configuration *current)
{
    const struct settings *settings = &configuration->settings;
    const struct config_endpoints *places = started ? started->places : configuration->places;
    const char *unused;
    int r = choose_places(configuration, &source->sockets);

    if (r != 0)
        return r;
    configuration->max_connections = MIN(settings->grpc.max_connections, most_connections());
    unused = security_check_certificate(settings, places, GROUP_COUNT);
    if (unused)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(CERTIFICATE), {"STOCKD_FILE", settings->tls.certificate}),
                  "tls.certificate: %s",
                  may_be_passed(source) ? "it is not used, because no address has tls=yes; only a "
                                          "socket that the service manager passes for TLS would "
                                          "use it"
                                        : unused);
    r = check_names(configuration, source, places);
    r = configuration_worse(r, load_all_credentials(configuration, places, current));
    if (r >= 0 && started)
        r = configuration_worse(r, check_new_places(configuration, places));
    if (r >= 0)
        r = configuration_worse(r, load_password(configuration));
    if (r >= 0)
        r = configuration_worse(r, configuration_complete_market(configuration));
    return r;
}

void configuration_forget_secrets(struct configuration *configuration)
{
    for (unsigned group = 0; group < GROUP_COUNT; group++) {
        for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++)
            configuration->credentials[group][i] =
                credentials_unref(configuration->credentials[group][i]);
    }
    if (configuration->password)
        explicit_bzero(configuration->password, strlen(configuration->password));
    free(TAKE_PTR(configuration->password));
}

struct configuration *configuration_free(struct configuration *configuration)
{
    if (!configuration)
        return NULL;
    configuration_forget_secrets(configuration);
    tickers_deinit(&configuration->tickers);
    for (unsigned group = 0; group < GROUP_COUNT; group++)
        config_endpoints_deinit(&configuration->places[group]);
    config_deinit(&configuration->config);
    free(configuration);
    return NULL;
}

/* ---- What is said about it ---- */

/* There may be thousands of sections that have names: so many are said one by one. */
#define SECTIONS_LOGGED_MAX 20

static void log_setting(const struct config_item *item, void *context)
{
    unsigned *sections = context;

    if (item->is_section && ++*sections > SECTIONS_LOGGED_MAX)
        return;
    log_event(LOG_INFO,
              log_fields(LOG_EVENT(SETTING), {"STOCKD_SETTING", item->name},
                         {"STOCKD_VALUE", item->value}, {"STOCKD_ORIGIN", item->origin}),
              "%s = %s (%s)", item->name, item->value, item->origin);
}

/* What was not said one by one. */
static void log_more(unsigned sections, const char *what)
{
    if (sections > SECTIONS_LOGGED_MAX)
        log_event(LOG_INFO,
                  log_fields(LOG_EVENT(MESSAGES_DROPPED),
                             {"STOCKD_DROPPED", log_number(sections - SECTIONS_LOGGED_MAX)}),
                  "%u more sections [ticker NAME]%s", sections - SECTIONS_LOGGED_MAX, what);
}

static void log_limit(const struct configuration *configuration)
{
    uint64_t wanted = configuration->settings.grpc.max_connections;
    uint64_t most = configuration->max_connections;
    struct rlimit limit = {0};

    if (wanted == most)
        return;
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    log_event(LOG_WARNING,
              log_fields(LOG_EVENT(LIMIT_LOWERED), {"STOCKD_SETTING", "grpc.max_connections"},
                         {"STOCKD_VALUE", log_number(most)}, {"STOCKD_WANTED", log_number(wanted)}),
              "grpc.max_connections is lowered from %llu to %llu: the limit of open files is "
              "%llu, and %d are kept for other uses",
              (unsigned long long)wanted, (unsigned long long)most,
              (unsigned long long)limit.rlim_cur, DESCRIPTORS_RESERVED);
}

/* Where a setting comes from; NULL: it is built in. */
static const char *origin_of(const struct config *config, const char *section, const char *key)
{
    for (size_t i = 0; i < config->count; i++) {
        if (strcmp(config->table[i].section, section) == 0 &&
            strcmp(config->table[i].key, key) == 0)
            return config->origin[i];
    }
    return NULL;
}

/* Somebody set an address and finds nobody there: the unit of the sockets says otherwise. */
static void log_unopened(const struct configuration *configuration, enum place_group group)
{
    const struct config_endpoints *listen = listen_of(&configuration->settings, group);
    const struct config_endpoints *places = &configuration->places[group];
    const char *origin = origin_of(&configuration->config, place_group_names[group], "listen");

    if (!origin || places->count == 0 || !places->endpoints[0].passed)
        return;
    for (unsigned i = 0; i < listen->count; i++) {
        const struct endpoint *endpoint = &listen->endpoints[i];
        char text[ADDRESS_TEXT_MAX];

        if (places_have(places, endpoint))
            continue;
        (void)address_format((const struct sockaddr *)&endpoint->address, text);
        log_event(LOG_NOTICE,
                  log_fields(LOG_EVENT(ADDRESS_UNUSED), {"STOCKD_SETTING", listen_settings[group]},
                             {"STOCKD_ADDRESS", text}, {"STOCKD_ORIGIN", origin}),
                  "%s: %s is not opened: the service manager passes sockets in its place (%s)",
                  listen_settings[group], text, origin);
    }
}

void configuration_log(const struct configuration *configuration)
{
    unsigned sections = 0;

    (void)config_each_changed(&configuration->config, log_setting, &sections);
    log_more(sections, "");
    log_limit(configuration);
    for (unsigned group = 0; group < GROUP_COUNT; group++)
        log_unopened(configuration, group);
}

struct changes {
    unsigned reloaded;
    unsigned waiting;
    unsigned sections;
};

static void log_reloaded(const struct config_item *item, void *context)
{
    struct changes *changes = context;

    if (item->change != CONFIG_RELOAD)
        return;
    changes->reloaded++;
    log_event(LOG_INFO,
              log_fields(LOG_EVENT(SETTING), {"STOCKD_SETTING", item->name},
                         {"STOCKD_VALUE", item->value}, {"STOCKD_ORIGIN", item->origin}),
              "%s = %s (was %s; %s)", item->name, item->value, item->value_before, item->origin);
}

static void log_waiting(const struct config_item *item, void *context)
{
    struct changes *changes = context;

    if (item->change != CONFIG_RESTART)
        return;
    changes->waiting++;
    if (item->is_section && ++changes->sections > SECTIONS_LOGGED_MAX)
        return;
    log_event(LOG_WARNING, log_fields(LOG_EVENT(RESTART_NEEDED), {"STOCKD_SETTING", item->name}),
              "%s = %s (is %s; %s) takes effect when stockd is started again", item->name,
              item->value, item->value_before, item->origin);
}

/* A file of the same name may have other lines. */
static void log_tickers_file(const struct configuration *new, const struct configuration *started)
{
    const char *path = new->settings.market.tickers_file;

    if (!path || !started->settings.market.tickers_file ||
        strcmp(path, started->settings.market.tickers_file) != 0 ||
        new->tickers.file_hash == started->tickers.file_hash)
        return;
    log_event(LOG_WARNING,
              log_fields(LOG_EVENT(RESTART_NEEDED), {"STOCKD_SETTING", "market.tickers_file"}),
              "market.tickers_file: what %s has now takes effect when stockd is started again",
              path);
}

static unsigned count_credentials(const struct configuration *configuration)
{
    unsigned count = 0;

    for (unsigned group = 0; group < GROUP_COUNT; group++) {
        for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++)
            count += configuration->credentials[group][i] != NULL;
    }
    return count;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : !a && !b;
}

void configuration_log_changes(const struct configuration *new, const struct configuration *current,
                               const struct configuration *started)
{
    unsigned certificates = count_credentials(new);
    struct changes changes = {0};
    char count[64] = "no setting has changed", files[80] = "";

    if (config_each_difference(&current->config, &new->config, log_reloaded, &changes) < 0 ||
        config_each_difference(&started->config, &new->config, log_waiting, &changes) < 0)
        (void)snprintf(count, sizeof(count), "there is no memory to list what changed");
    else if (changes.reloaded > 0)
        (void)snprintf(count, sizeof(count), "%u setting%s", changes.reloaded,
                       changes.reloaded == 1 ? " has changed" : "s have changed");
    log_more(changes.sections, " have changed, and take effect when stockd is started again");
    log_tickers_file(new, started);
    if (new->settings.grpc.max_connections != current->settings.grpc.max_connections)
        log_limit(new);
    if (certificates > 0)
        (void)snprintf(files, sizeof(files), "; certificates read again for %u listeners with TLS",
                       certificates);
    log_event(LOG_INFO, log_fields(LOG_EVENT(RELOADED)), "configuration read again: %s%s%s", count,
              same_text(new->password, current->password) ? ""
                                                          : "; metrics ask for another password",
              files);
}

/* ---- Its parts, as those who need them want them ---- */

struct server_options configuration_server_options(const struct configuration *configuration)
{
    const struct settings *settings = &configuration->settings;

    return (struct server_options){
        .max_connections = configuration->max_connections,
        .max_streams_total = settings->grpc.max_streams_total,
        .max_message_bytes = (uint32_t)settings->grpc.max_message_bytes,
        .request_timeout_ms = settings->grpc.request_timeout_ms,
        .handshake_timeout_ms = settings->tls.handshake_timeout_ms,
        .connection =
            {
                .max_streams = (uint32_t)settings->grpc.max_streams,
                .max_header_bytes = (uint32_t)settings->grpc.max_header_bytes,
                .preface_timeout_ms = settings->grpc.preface_timeout_ms,
                .keepalive_time_ms = settings->grpc.keepalive_time_ms,
                .keepalive_timeout_ms = settings->grpc.keepalive_timeout_ms,
                .ping_min_ms = settings->grpc.min_ping_interval_ms,
                .ping_min_idle_ms = settings->grpc.min_ping_interval_idle_ms,
                .idle_max_ms = settings->grpc.max_idle_ms,
                .age_max_ms = settings->grpc.max_age_ms,
                .age_grace_ms = settings->grpc.max_age_grace_ms,
                .stall_timeout_ms = settings->grpc.stall_timeout_ms,
            },
        .allow = settings->access.allow.ranges,
        .allow_count = settings->access.allow.count,
        .allow_names = settings->access.allow_names.names,
        .allow_name_count = settings->access.allow_names.count,
        .max_connections_per_address = (uint32_t)settings->access.max_connections_per_address,
    };
}

struct stock_options configuration_stock_options(const struct configuration *configuration)
{
    const struct settings *settings = &configuration->settings;

    return (struct stock_options){
        .ticker = settings->stream.ticker,
        .start_price = settings->stream.start_price,
        .interval_ms = settings->stream.interval_ms,
        .initial_delay_ms = settings->stream.initial_delay_ms,
        .seed = configuration->seed,
        .compress = settings->grpc.compress_updates,
    };
}

void configuration_exporter_options(const struct configuration *configuration, unsigned index,
                                    struct exporter_options *options)
{
    const struct settings *settings = &configuration->settings;

    options->credentials = configuration->credentials[GROUP_METRICS][index];
    options->password = configuration->password;
    options->user = configuration->password ? settings->metrics.user : NULL;
    options->allow = settings->metrics.allow.ranges;
    options->allow_count = settings->metrics.allow.count;
}

int64_t configuration_certificate_expires(const struct configuration *configuration)
{
    int64_t first = 0;

    for (unsigned group = 0; group < GROUP_COUNT; group++) {
        for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++) {
            const struct credentials *credentials = configuration->credentials[group][i];
            int64_t expires = credentials ? credentials_expires(credentials) : 0;

            if (expires > 0 && (first == 0 || expires < first))
                first = expires;
        }
    }
    return first;
}
