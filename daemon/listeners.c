/*
 * Listeners with TLS each have credentials of their own, even where several read the same files:
 * few have more than two, and so each can be reloaded and freed by itself.
 */
#include "listeners.h"

#include "base/log.h"
#include "base/util.h"
#include "security.h"

#include <errno.h>
#include <uv.h>

/* ---- What is read from files ---- */

/* Logs every fault, so that all of them are seen in one go. */
static int load_group(const struct settings *settings, const char *setting,
                      const struct config_endpoints *endpoints, struct credentials **credentials)
{
    char error[CREDENTIALS_ERROR_MAX];
    int result = 0;

    for (unsigned i = 0; i < endpoints->count; i++) {
        const struct endpoint *endpoint = &endpoints->endpoints[i];
        char text[ADDRESS_TEXT_MAX];
        int r = security_credentials(settings, endpoint, &credentials[i], error);

        if (r == -ENOMEM)
            return r;
        if (r < 0) {
            log_error("%s: %s: %s", setting,
                      address_format((const struct sockaddr *)&endpoint->address, text), error);
            result = r;
        }
    }
    return result;
}

static void free_credentials(struct listeners_credentials *credentials)
{
    for (unsigned group = 0; group < LISTENERS_GROUP_COUNT; group++) {
        for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++)
            credentials->of[group][i] = credentials_unref(credentials->of[group][i]);
    }
}

static int load_credentials(const struct settings *settings,
                            struct listeners_credentials *credentials)
{
    int grpc = load_group(settings, "grpc.listen", &settings->grpc.listen,
                          credentials->of[LISTENERS_GRPC]);
    int metrics;

    if (grpc == -ENOMEM)
        return grpc;
    metrics = load_group(settings, "metrics.listen", &settings->metrics.listen,
                         credentials->of[LISTENERS_METRICS]);
    return metrics < 0 ? metrics : grpc;
}

/* Logs what is wrong with a setting, if anything is. 0 or -EINVAL. */
static int check(const char *setting, const char *fault)
{
    if (!fault)
        return 0;
    log_error("%s: %s", setting, fault);
    return -EINVAL;
}

static int load_password(struct listeners *listeners)
{
    const struct settings *settings = listeners->settings;
    char error[CREDENTIALS_ERROR_MAX];
    int r = security_password(settings, &listeners->password, error);

    if (r < 0)
        return r == -EINVAL ? check("metrics.password_file", error) : r;
    if ((settings->metrics.user[0] == '\0') != !listeners->password)
        return check("metrics.user and metrics.password_file", "one needs the other");
    return check("metrics.user", security_check_user(settings));
}

int listeners_load(struct listeners *listeners, const struct settings *settings)
{
    const char *unused = security_check_certificate(settings);
    int results[3];

    if (unused)
        log_warning("tls.certificate: %s", unused);
    listeners->settings = settings;
    results[0] = check("access.allow_names", security_check_names(settings));
    results[1] = load_credentials(settings, &listeners->credentials);
    results[2] = load_password(listeners);
    for (unsigned i = 0; i < ELEMENTSOF(results); i++) {
        if (results[i] == -ENOMEM)
            return -ENOMEM;
    }
    return MIN(MIN(results[0], results[1]), results[2]);
}

void listeners_reload(struct listeners *listeners)
{
    struct listeners_credentials new = {0};
    unsigned count = 0;

    if (load_credentials(listeners->settings, &new) < 0) {
        log_error("certificates stay as they were");
        free_credentials(&new);
        return;
    }
    for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++) {
        struct credentials *grpc = new.of[LISTENERS_GRPC][i];
        struct credentials *metrics = new.of[LISTENERS_METRICS][i];

        if (grpc)
            server_set_credentials(listeners->server, i, grpc);
        if (metrics)
            exporter_set_credentials(listeners->exporters[i], metrics);
        count += (grpc != NULL) + (metrics != NULL);
    }
    free_credentials(&listeners->credentials);
    listeners->credentials = new;
    log_info("certificates read again for %u listeners with TLS", count);
}

int64_t listeners_certificate_expires(const struct listeners *listeners)
{
    int64_t first = 0;

    for (unsigned group = 0; group < LISTENERS_GROUP_COUNT; group++) {
        for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++) {
            const struct credentials *credentials = listeners->credentials.of[group][i];
            int64_t expires = credentials ? credentials_expires(credentials) : 0;

            if (expires > 0 && (first == 0 || expires < first))
                first = expires;
        }
    }
    return first;
}

/* ---- Listening ---- */

/* A Unix socket's ENOENT has two causes, of which the usual words name one. */
static const char *listen_error(const struct endpoint *endpoint, int error)
{
    return error == -ENOENT && (endpoint->owner || endpoint->group)
               ? "no such directory, or no such owner or group"
               : uv_strerror(error);
}

static int log_listening(const char *what, const struct endpoint *wanted, int r,
                         const struct sockaddr_storage *address)
{
    char text[ADDRESS_TEXT_MAX];

    if (r < 0)
        log_error("cannot listen for %s on %s: %s", what,
                  address_format((const struct sockaddr *)&wanted->address, text),
                  listen_error(wanted, r));
    else
        log_info("listening for %s on %s%s", what,
                 address_format((const struct sockaddr *)address, text),
                 wanted->tls ? " (TLS)" : "");
    return r;
}

static int open_exporter(struct listeners *listeners, unsigned index, uv_loop_t *loop,
                         const struct exporter_options *common)
{
    const struct settings *settings = listeners->settings;
    const struct endpoint *endpoint = &settings->metrics.listen.endpoints[index];
    struct exporter **exporter = &listeners->exporters[index];
    struct exporter_options options = *common;
    struct sockaddr_storage address;
    int r;

    options.credentials = listeners->credentials.of[LISTENERS_METRICS][index];
    options.password = listeners->password;
    options.user = listeners->password ? settings->metrics.user : NULL;
    options.allow = settings->metrics.allow.ranges;
    options.allow_count = settings->metrics.allow.count;
    r = exporter_new(exporter, loop, endpoint, &options);
    if (r >= 0)
        r = exporter_address(*exporter, &address);
    return log_listening("metrics", endpoint, r, &address);
}

int listeners_open(struct listeners *listeners, struct server *server, uv_loop_t *loop,
                   const struct exporter_options *options)
{
    const struct settings *settings = listeners->settings;
    int r = 0;

    listeners->server = server;
    for (unsigned i = 0; r >= 0 && i < settings->grpc.listen.count; i++) {
        const struct endpoint *endpoint = &settings->grpc.listen.endpoints[i];
        struct sockaddr_storage address;

        r = server_listen(server, endpoint, listeners->credentials.of[LISTENERS_GRPC][i], &address);
        r = log_listening("gRPC", endpoint, r, &address);
    }
    for (unsigned i = 0; r >= 0 && i < settings->metrics.listen.count; i++)
        r = open_exporter(listeners, i, loop, options);
    return r;
}

uint64_t listeners_metrics_refused(const struct listeners *listeners)
{
    uint64_t refused = 0;

    for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++)
        refused += listeners->exporters[i] ? exporter_refused(listeners->exporters[i]) : 0;
    return refused;
}

void listeners_close(struct listeners *listeners)
{
    for (unsigned i = 0; i < CONFIG_ENDPOINTS_MAX; i++)
        listeners->exporters[i] = exporter_free(listeners->exporters[i]);
    free_credentials(&listeners->credentials);
    free(TAKE_PTR(listeners->password));
}
