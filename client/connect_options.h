/*
 * Where the server is, and how to connect to it: what each command is told in the same way, by the
 * options of client/options.h.
 */
#pragma once

#include "base/credentials.h"
#include "client/dial.h"
#include "client/target.h"

#include <stdbool.h>
#include <stdint.h>

struct connect_options {
    struct target target;
    bool tls_wanted;                        /* `tls` is for the program to set */
    struct credentials_options credentials; /* with it; borrowed from argv */
    struct dial_tls tls;
    uint64_t keepalive_ms; /* without a byte from the server, before it gets a PING; 0: never */
    bool verbose;
};
