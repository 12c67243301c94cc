/*
 * Where the program listens: what its settings say, or the sockets that the service manager passes
 * in place of that.
 */
#pragma once

#include "base/config.h"
#include "base/systemd.h"

#define PLACES_ERROR_MAX 512

/*
 * The places of one group, "grpc" or "metrics", in *ret_places, for config_endpoints_deinit():
 * those of `wanted` (copied), or, where the manager has passed sockets for the group, these alone.
 * A socket is for the group if its name is the group's, or that with "-tls" behind; the latter has
 * tls=yes. One whose address stands in `wanted` gets the options that stand there.
 *
 * 0, -ENOMEM, or -EINVAL with `error` in words: a socket named for TLS whose address stands in
 * `wanted` without it; more than CONFIG_ENDPOINTS_MAX.
 */
int places_choose(const char *group, const struct config_endpoints *wanted,
                  const struct systemd_sockets *sockets, struct config_endpoints *ret_places,
                  char error[static PLACES_ERROR_MAX]);

/* Is there one for the address of `wanted`, which the settings name? */
bool places_have(const struct config_endpoints *places, const struct endpoint *wanted);

/* Is each socket for one of the `count` groups? 0, or -EINVAL with `error` naming the one that is
 * not, its address, and the names that there are. */
int places_check(const char *const *groups, size_t count, const struct systemd_sockets *sockets,
                 char error[static PLACES_ERROR_MAX]);
