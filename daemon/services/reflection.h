/*
 * grpc.reflection.v1.ServerReflection and its twin v1alpha: which services there are and what their
 * messages look like, for grpcurl and the like, from the descriptor set that the build embeds.
 *
 * Errors are answered in band (error_response); a request that asks nothing ends the call with
 * INVALID_ARGUMENT. A file that is asked for comes with all that it imports, of which each goes
 * over a stream once.
 */
#pragma once

#include "rpc/call.h"

#include <stddef.h>

struct reflection_service;

/*
 * `services` are the names to list, in that order; borrowed. 0, -ENOMEM, or -EINVAL if a service is
 * not in the descriptor set (a fault of the build).
 */
int reflection_service_new(struct reflection_service **ret_service, const char *const *services,
                           size_t count);

/* Its calls must be over. NULL is allowed; returns NULL. */
struct reflection_service *reflection_service_free(struct reflection_service *service);

#define REFLECTION_METHODS 2

/* Its methods, for the method table; they live as long as the service. */
const struct method *reflection_service_method(const struct reflection_service *service,
                                               unsigned index);
