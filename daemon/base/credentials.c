/*
 * Certificates and keys from files. Whoever runs a server meets TLS first by a mistake in one of
 * these files, often at night, when a certificate was renewed: so each way to get them wrong has a
 * sentence of its own here, which names the file and what to do, where GnuTLS would say
 * "Base64 unexpected header error".
 */
#include "base/credentials.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/x509.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct credentials {
    unsigned references;
    enum client_certificate client_certificate;
    int64_t expires;
    gnutls_certificate_credentials_t certificate;
    gnutls_priority_t priority;
};

/*
 * Taken from every priority string, at its end. Versions that are too old; and what HTTP/2 forbids
 * with TLS 1.2, since a server that agreed on that would be sent away with INADEQUATE_SECURITY.
 * Nothing is left out that only works with credentials which are never set, such as SRP's.
 */
#define PRIORITIES_NEVER                                                                           \
    ":-VERS-TLS1.1:-VERS-TLS1.0:-VERS-SSL3.0:-VERS-DTLS-ALL"                                       \
    ":-RSA:-PSK:-RSA-PSK:-VKO-GOST-12"                                                             \
    ":-AES-128-CBC:-AES-192-CBC:-AES-256-CBC:-3DES-CBC:-CAMELLIA-128-CBC:-CAMELLIA-192-CBC"        \
    ":-CAMELLIA-256-CBC:-ARCFOUR-128:-GOST28147-TC26Z-CNT:-NULL"

static void say(char error[static CREDENTIALS_ERROR_MAX], const char *format, ...) _printf_(2, 3);
static void say(char error[static CREDENTIALS_ERROR_MAX], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(error, CREDENTIALS_ERROR_MAX, format, arguments);
    va_end(arguments);
}

/* Says what is wrong. -EINVAL, so that it can be returned; a macro, so that analysers see that. */
#define wrong(error, ...) (say((error), __VA_ARGS__), -EINVAL)

/* The same for what GnuTLS said of a file, unless that was only want of memory. */
static int wrong_gnutls(char error[static CREDENTIALS_ERROR_MAX], const char *path, int code)
{
    if (code == GNUTLS_E_MEMORY_ERROR)
        return -ENOMEM;
    return wrong(error, "%s: %s", path, gnutls_strerror(code));
}

static bool given(const char *text)
{
    return text && *text;
}

/* ---- Files ---- */

/* The bytes of a file, with a NUL behind them. They may be a key: what frees them wipes them. */
struct file {
    char *bytes;
    size_t size;
    size_t capacity;
};

static void file_deinit(struct file *file)
{
    if (file->bytes)
        explicit_bzero(file->bytes, file->capacity);
    free(file->bytes);
}
#define _cleanup_file_ _cleanup_(file_deinit)

static gnutls_datum_t file_datum(const struct file *file)
{
    return (gnutls_datum_t){(unsigned char *)file->bytes, (unsigned)file->size};
}

static bool file_has(const struct file *file, const char *text)
{
    return memmem(file->bytes, file->size, text, strlen(text));
}

static int file_check(const char *path, const struct stat *status, bool secret,
                      char error[static CREDENTIALS_ERROR_MAX])
{
    if (S_ISDIR(status->st_mode))
        return wrong(error, "%s: is a directory; name the file in it", path);
    if (!S_ISREG(status->st_mode))
        return wrong(error, "%s: is not a regular file", path);
    if (secret && (status->st_mode & (S_IROTH | S_IWOTH)))
        return wrong(error,
                     "%s: every user of this machine can %s this private key (its mode is %04o); "
                     "take that away with: chmod o-rwx %s",
                     path, status->st_mode & S_IROTH ? "read" : "write",
                     (unsigned)(status->st_mode & 07777), path);
    if (status->st_size == 0)
        return wrong(error, "%s: is empty", path);
    if ((uintmax_t)status->st_size > CREDENTIALS_FILE_SIZE_MAX)
        return wrong(error, "%s: is too large for what it should be (over %zu MiB)", path,
                     CREDENTIALS_FILE_SIZE_MAX >> 20);
    return 0;
}

static int file_read(struct file *file, int fd, const char *path,
                     char error[static CREDENTIALS_ERROR_MAX])
{
    while (file->size < file->capacity - 1) {
        ssize_t n = read(fd, file->bytes + file->size, file->capacity - 1 - file->size);

        if (n < 0 && errno != EINTR)
            return wrong(error, "%s: cannot be read: %s", path, strerror(errno));
        if (n == 0)
            break;
        if (n > 0)
            file->size += (size_t)n;
    }
    file->bytes[file->size] = '\0';
    return 0;
}

/* Reads a file of what is called `what` in messages; nobody else may know it if it is `secret`. */
static int file_load(struct file *file, const char *path, const char *what, bool secret,
                     char error[static CREDENTIALS_ERROR_MAX])
{
    struct stat status;
    int r;
    /* O_NONBLOCK: to open a FIFO would wait for a writer. */
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0 && errno == ENOENT)
        return wrong(error, "%s: there is no such file; it should hold the %s", path, what);
    if (fd < 0 && errno == EACCES)
        return wrong(error,
                     "%s: this process may not read the %s; give its user or group the right to "
                     "read the file and to enter the directories above it",
                     path, what);
    if (fd < 0)
        return wrong(error, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &status) < 0)
        return wrong(error, "%s: %s", path, strerror(errno));
    r = file_check(path, &status, secret, error);
    if (r < 0)
        return r;
    file->capacity = (size_t)status.st_size + 1;
    file->bytes = malloc(file->capacity);
    if (!file->bytes)
        return -ENOMEM;
    return file_read(file, fd, path, error);
}

/* ---- Its own certificate ---- */

/* A certificate and the chain that leads to its authority. */
struct chain {
    gnutls_x509_crt_t *certificates;
    unsigned count;
};

static void chain_deinit(struct chain *chain)
{
    for (unsigned i = 0; i < chain->count; i++)
        gnutls_x509_crt_deinit(chain->certificates[i]);
    gnutls_free(chain->certificates);
}

static int chain_load(struct chain *chain, const char *path,
                      char error[static CREDENTIALS_ERROR_MAX])
{
    _cleanup_file_ struct file file = {0};
    gnutls_datum_t datum;
    int r = file_load(&file, path, "certificate", false, error);

    if (r < 0)
        return r;
    if (!file_has(&file, "-----BEGIN ")) {
        return wrong(error, "%s: holds no PEM text (\"-----BEGIN CERTIFICATE-----\"); convert it",
                     path);
    }
    if (!file_has(&file, "CERTIFICATE-----"))
        return wrong(error, "%s: holds no certificate%s", path,
                     file_has(&file, "PRIVATE KEY-----")
                         ? " but a private key; are certificate and key swapped?"
                         : "");
    datum = file_datum(&file);
    r = gnutls_x509_crt_list_import2(&chain->certificates, &chain->count, &datum,
                                     GNUTLS_X509_FMT_PEM, 0);
    if (r < 0) {
        *chain = (struct chain){0};
        if (r == GNUTLS_E_MEMORY_ERROR)
            return -ENOMEM;
        return wrong(error, "%s: its certificate is damaged: %s", path, gnutls_strerror(r));
    }
    return 0;
}

static int key_load(gnutls_x509_privkey_t key, const char *path,
                    char error[static CREDENTIALS_ERROR_MAX])
{
    _cleanup_file_ struct file file = {0};
    gnutls_datum_t datum;
    int r = file_load(&file, path, "private key", true, error);

    if (r < 0)
        return r;
    if (file_has(&file, "BEGIN ENCRYPTED PRIVATE KEY") || file_has(&file, "4,ENCRYPTED"))
        return wrong(error,
                     "%s: this private key has a password, which nobody is there to enter; take it "
                     "off with: openssl pkey -in %s -out NEW",
                     path, path);
    if (!file_has(&file, "PRIVATE KEY-----"))
        return wrong(error, "%s: holds no private key in PEM form%s", path,
                     file_has(&file, "CERTIFICATE-----")
                         ? " but a certificate; are certificate and key swapped?"
                         : " (\"-----BEGIN PRIVATE KEY-----\")");
    datum = file_datum(&file);
    r = gnutls_x509_privkey_import2(key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (r == GNUTLS_E_MEMORY_ERROR)
        return -ENOMEM;
    if (r < 0)
        return wrong(error, "%s: its private key is damaged: %s", path, gnutls_strerror(r));
    return 0;
}

/* "2026-01-31 09:30 UTC" */
static const char *format_time(time_t when, char text[static 32])
{
    struct tm parts;

    if (!gmtime_r(&when, &parts) || strftime(text, 32, "%Y-%m-%d %H:%M UTC", &parts) == 0)
        (void)snprintf(text, 32, "%jd", (intmax_t)when);
    return text;
}

/*
 * A server with an expired certificate still serves clients that do not look, and it can be given a
 * new one while it runs: that is better than not to start. A client would only be refused.
 */
static int check_times(gnutls_x509_crt_t certificate, const char *path, bool client,
                       char error[static CREDENTIALS_ERROR_MAX])
{
    time_t now = time(NULL);
    time_t begin = gnutls_x509_crt_get_activation_time(certificate);
    time_t end = gnutls_x509_crt_get_expiration_time(certificate);
    char when[32];

    if (now <= end && now >= begin)
        return 0;
    if (now > end)
        say(error, "%s: the certificate expired on %s; renew it", path, format_time(end, when));
    else
        say(error, "%s: the certificate is not valid before %s; is the clock right?", path,
            format_time(begin, when));
    if (client)
        return -EINVAL;
    log_event(LOG_WARNING, log_fields(LOG_EVENT(CERTIFICATE), {"STOCKD_FILE", path}), "%s", error);
    *error = '\0';
    return 0;
}

static int load_pair(struct credentials *credentials, const struct credentials_options *options,
                     gnutls_x509_privkey_t key, char error[static CREDENTIALS_ERROR_MAX])
{
    _cleanup_(chain_deinit) struct chain chain = {0};
    int r = chain_load(&chain, options->certificate, error);

    if (r < 0)
        return r;
    r = key_load(key, options->key, error);
    if (r < 0)
        return r;
    r = gnutls_certificate_set_x509_key(credentials->certificate, chain.certificates,
                                        (int)chain.count, key);
    if (r == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
        return wrong(error,
                     "%s: this private key does not belong to the certificate in %s; were both "
                     "renewed together?",
                     options->key, options->certificate);
    if (r < 0)
        return wrong_gnutls(error, options->certificate, r);
    credentials->expires = gnutls_x509_crt_get_expiration_time(chain.certificates[0]);
    return check_times(chain.certificates[0], options->certificate, options->client, error);
}

static int load_own(struct credentials *credentials, const struct credentials_options *options,
                    char error[static CREDENTIALS_ERROR_MAX])
{
    gnutls_x509_privkey_t key;
    int r;

    if (!given(options->certificate) && !given(options->key)) {
        if (options->client)
            return 0;
        return wrong(error, "a TLS server needs a certificate and its private key, and neither "
                            "file is named");
    }
    if (!given(options->key))
        return wrong(error, "%s: the private key of this certificate is missing; name its file too",
                     options->certificate);
    if (!given(options->certificate))
        return wrong(error, "%s: the certificate of this private key is missing; name its file too",
                     options->key);
    if (gnutls_x509_privkey_init(&key) < 0)
        return -ENOMEM;
    r = load_pair(credentials, options, key, error);
    gnutls_x509_privkey_deinit(key);
    return r;
}

/* ---- Whom it trusts ---- */

static int load_ca(struct credentials *credentials, const char *path,
                   char error[static CREDENTIALS_ERROR_MAX])
{
    _cleanup_file_ struct file file = {0};
    gnutls_datum_t datum;
    int r = file_load(&file, path, "certificates of the authorities", false, error);

    if (r < 0)
        return r;
    datum = file_datum(&file);
    r = file_has(&file, "CERTIFICATE-----")
            ? gnutls_certificate_set_x509_trust_mem(credentials->certificate, &datum,
                                                    GNUTLS_X509_FMT_PEM)
            : 0;
    if (r == 0)
        return wrong(error,
                     "%s: holds no certificate of an authority in PEM form (\"-----BEGIN "
                     "CERTIFICATE-----\")",
                     path);
    if (r == GNUTLS_E_MEMORY_ERROR)
        return -ENOMEM;
    if (r < 0)
        return wrong(error, "%s: a certificate in it is damaged: %s", path, gnutls_strerror(r));
    return 0;
}

static int load_trust(struct credentials *credentials, const struct credentials_options *options,
                      char error[static CREDENTIALS_ERROR_MAX])
{
    int r;

    if (given(options->ca))
        return load_ca(credentials, options->ca, error);
    if (options->client) {
        r = gnutls_certificate_set_x509_system_trust(credentials->certificate);
        if (r == GNUTLS_E_MEMORY_ERROR)
            return -ENOMEM;
        if (r <= 0)
            log_event(LOG_WARNING, log_fields(LOG_EVENT(CERTIFICATE)),
                      "this system trusts no authority (is the package ca-certificates there?), "
                      "so a server's certificate will be found good only with a CA file");
        return 0;
    }
    if (options->client_certificate != CLIENT_CERTIFICATE_NO)
        return wrong(error,
                     "client certificates are asked for (%s), and no file names the "
                     "authorities that may sign them",
                     client_certificate_texts[options->client_certificate]);
    return 0;
}

/* ---- Priorities ---- */

/* GnuTLS takes a string that leaves no cipher, as long as it leaves a version. */
static bool priority_has_cipher(gnutls_priority_t priority)
{
    unsigned suite;
    int r = GNUTLS_E_UNKNOWN_CIPHER_SUITE;

    for (unsigned i = 0; r == GNUTLS_E_UNKNOWN_CIPHER_SUITE; i++)
        r = gnutls_priority_get_cipher_suite_index(priority, i, &suite);
    return r >= 0;
}

static int load_priorities(struct credentials *credentials, const char *priorities,
                           char error[static CREDENTIALS_ERROR_MAX])
{
    _cleanup_free_ char *text = NULL;
    const char *place = NULL;
    int r;

    if (!given(priorities))
        priorities = CREDENTIALS_PRIORITIES_DEFAULT;
    if (asprintf(&text, "%s" PRIORITIES_NEVER, priorities) < 0) {
        text = NULL;
        return -ENOMEM;
    }
    r = gnutls_priority_init(&credentials->priority, text, &place);
    if (r < 0)
        credentials->priority = NULL;
    if (r == GNUTLS_E_MEMORY_ERROR)
        return -ENOMEM;
    if (r == GNUTLS_E_NO_PRIORITIES_WERE_SET ||
        (r >= 0 && !priority_has_cipher(credentials->priority)))
        return wrong(
            error,
            "TLS priorities \"%.200s\" leave nothing to agree on; TLS 1.3 or 1.2 is needed, "
            "and ciphers that HTTP/2 allows: AES-GCM, AES-CCM or CHACHA20-POLY1305, with "
            "ECDHE or DHE",
            priorities);
    if (r < 0) {
        size_t at = place ? (size_t)(place - text) : 0;
        const char *word = priorities + MIN(at, strlen(priorities));

        return wrong(error,
                     "TLS priorities \"%.200s\": GnuTLS does not know \"%.*s\", at character %zu",
                     priorities, (int)MIN(strcspn(word, ":"), (size_t)60), word, at + 1);
    }
    return 0;
}

/* ---- All together ---- */

static void credentials_unref_pointer(struct credentials **credentials)
{
    credentials_unref(*credentials);
}

int credentials_new(struct credentials **ret_credentials, const struct credentials_options *options,
                    char ret_error[static CREDENTIALS_ERROR_MAX])
{
    _cleanup_(credentials_unref_pointer) struct credentials *credentials =
        calloc(1, sizeof(*credentials));
    int r;

    *ret_error = '\0';
    if (!credentials)
        return -ENOMEM;
    credentials->references = 1;
    credentials->client_certificate =
        options->client ? CLIENT_CERTIFICATE_NO : options->client_certificate;
    if (gnutls_certificate_allocate_credentials(&credentials->certificate) < 0) {
        credentials->certificate = NULL;
        return -ENOMEM;
    }
    r = load_own(credentials, options, ret_error);
    if (r >= 0)
        r = load_trust(credentials, options, ret_error);
    if (r >= 0)
        r = load_priorities(credentials, options->priorities, ret_error);
    if (r < 0)
        return r;
    *ret_credentials = TAKE_PTR(credentials);
    return 0;
}

struct credentials *credentials_ref(struct credentials *credentials)
{
    credentials->references++;
    return credentials;
}

struct credentials *credentials_unref(struct credentials *credentials)
{
    if (!credentials || --credentials->references > 0)
        return NULL;
    if (credentials->certificate)
        gnutls_certificate_free_credentials(credentials->certificate);
    if (credentials->priority)
        gnutls_priority_deinit(credentials->priority);
    free(credentials);
    return NULL;
}

int64_t credentials_expires(const struct credentials *credentials)
{
    return credentials->expires;
}

gnutls_certificate_credentials_t credentials_gnutls(const struct credentials *credentials)
{
    return credentials->certificate;
}

gnutls_priority_t credentials_priority(const struct credentials *credentials)
{
    return credentials->priority;
}

enum client_certificate credentials_client_certificate(const struct credentials *credentials)
{
    return credentials->client_certificate;
}
