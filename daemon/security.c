/*
 * Files that hold secrets are checked before they are used: a key or password that everybody on the
 * machine can read is a mistake that nobody would notice otherwise.
 */
#include "security.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PASSWORD_MAX 256

static enum client_certificate asked_of_clients(const struct settings *settings,
                                                const struct endpoint *endpoint)
{
    if (!endpoint->tls)
        return CLIENT_CERTIFICATE_NO;
    return endpoint->client_certificate != CLIENT_CERTIFICATE_UNSET
               ? endpoint->client_certificate
               : (enum client_certificate)settings->tls.client_certificate;
}

int security_credentials(const struct settings *settings, const struct endpoint *endpoint,
                         struct credentials **ret_credentials,
                         char ret_error[static CREDENTIALS_ERROR_MAX])
{
    struct credentials_options options = {
        .certificate = endpoint->certificate ? endpoint->certificate : settings->tls.certificate,
        .key = endpoint->certificate ? endpoint->key : settings->tls.key,
        .ca = endpoint->client_ca ? endpoint->client_ca : settings->tls.client_ca,
        .client_certificate = asked_of_clients(settings, endpoint),
        .priorities = settings->tls.priorities,
    };

    *ret_credentials = NULL;
    if (!endpoint->tls)
        return 0;
    if (!options.certificate || !options.key) {
        (void)snprintf(ret_error, CREDENTIALS_ERROR_MAX,
                       "tls=yes needs tls.certificate and tls.key, or both in its own line");
        return -EINVAL;
    }
    return credentials_new(ret_credentials, &options, ret_error);
}

const char *security_check_names(const struct settings *settings,
                                 const struct config_endpoints *places)
{
    if (settings->access.allow_names.count == 0)
        return NULL;
    for (unsigned i = 0; i < places->count; i++) {
        if (asked_of_clients(settings, &places->endpoints[i]) != CLIENT_CERTIFICATE_NO)
            return NULL;
    }
    return "no address in grpc.listen asks for a client's certificate, so that nobody's name would "
           "be looked at; set tls.client_certificate, or leave the list empty";
}

static bool any_tls(const struct config_endpoints *endpoints)
{
    for (unsigned i = 0; i < endpoints->count; i++) {
        if (endpoints->endpoints[i].tls)
            return true;
    }
    return false;
}

const char *security_check_certificate(const struct settings *settings,
                                       const struct config_endpoints *places, unsigned groups)
{
    bool used = false;

    for (unsigned i = 0; i < groups; i++)
        used = used || any_tls(&places[i]);
    return settings->tls.certificate && !used
               ? "it is not used, because no address has tls=yes: all of them speak without TLS"
               : NULL;
}

const char *security_check_user(const struct settings *settings)
{
    return strchr(settings->metrics.user, ':')
               ? "it has a colon, and HTTP takes what is behind that for the password"
               : NULL;
}

/* The bytes of a regular file that others cannot read; their number, or -EINVAL. */
static ssize_t read_secret(const char *path, char *bytes, size_t size,
                           char ret_error[static CREDENTIALS_ERROR_MAX])
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    const char *why = NULL;
    ssize_t n = -1;

    if (fd >= 0 && fstat(fd, &status) == 0) {
        if (!S_ISREG(status.st_mode))
            why = "is not a regular file";
        else if (status.st_mode & S_IROTH)
            why = "can be read by others; take that away: chmod o-rw";
        else if (status.st_mode & S_IWOTH)
            why = "can be written by others; take that away: chmod o-w";
        else
            n = read(fd, bytes, size);
    }
    if (n >= 0)
        return n;
    (void)snprintf(ret_error, CREDENTIALS_ERROR_MAX, "%s: %s", path, why ? why : strerror(errno));
    return -EINVAL;
}

int security_password(const struct settings *settings, char **ret_password,
                      char ret_error[static CREDENTIALS_ERROR_MAX])
{
    const char *path = settings->metrics.password_file;
    char bytes[PASSWORD_MAX + 2];
    size_t length;
    ssize_t n;

    *ret_password = NULL;
    if (!path)
        return 0;
    n = read_secret(path, bytes, sizeof(bytes) - 1, ret_error);
    if (n < 0)
        return (int)n;
    bytes[n] = '\0';
    length = strcspn(bytes, "\r\n");
    if (length == 0 || length > PASSWORD_MAX) {
        (void)snprintf(ret_error, CREDENTIALS_ERROR_MAX,
                       "%s: its first line is no password of 1 to %d bytes", path, PASSWORD_MAX);
        return -EINVAL;
    }
    *ret_password = strndup(bytes, length);
    return *ret_password ? 0 : -ENOMEM;
}
