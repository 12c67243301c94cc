/*
 * What there is without a command, as a test knows it.
 */
#pragma once

#include "client/subscribe_options.h"

extern const struct subscribe_command updates_command;
