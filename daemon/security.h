/*
 * What the settings say about TLS and passwords, made into what listeners use.
 */
#pragma once

#include "base/credentials.h"
#include "settings.h"

/*
 * The credentials of a listener: those of its endpoint, and of section tls where it says nothing.
 * NULL for an endpoint without TLS. As credentials_new().
 */
int security_credentials(const struct settings *settings, const struct endpoint *endpoint,
                         struct credentials **ret_credentials,
                         char ret_error[static CREDENTIALS_ERROR_MAX]);

/* What is wrong with access.allow_names where `places` are those for gRPC, or NULL: a list of names
 * that is never looked at would let in everybody. */
const char *security_check_names(const struct settings *settings,
                                 const struct config_endpoints *places);

/* Why tls.certificate has no effect where `places` are all that is listened on, or NULL. */
const char *security_check_certificate(const struct settings *settings,
                                       const struct config_endpoints *places, unsigned groups);

/* What is wrong with metrics.user, or NULL. */
const char *security_check_user(const struct settings *settings);

/*
 * Reads the password that /metrics asks for: the first line of metrics.password_file, in memory
 * that the caller frees; NULL without such a file. 0, -ENOMEM, or -EINVAL for a file that is
 * missing, not readable, readable or writable by others, empty, or has a line that is too long;
 * `ret_error` then names it and says which.
 */
int security_password(const struct settings *settings, char **ret_password,
                      char ret_error[static CREDENTIALS_ERROR_MAX]);
