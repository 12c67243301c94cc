/*
 * grpc.health.v1.Health: Check, Watch and List (health-checking.md, gRFC A90), so that balancers
 * know where to send calls.
 *
 * Check of a service that is not known ends with NOT_FOUND; Watch of one says SERVICE_UNKNOWN and
 * stays open. A watcher gets the state at once and then each change; one that cannot be sent to
 * gets only the newest, and no state twice in a row.
 */
#pragma once

#include "rpc/call.h"

#include <stdbool.h>
#include <stddef.h>

/* The states, with the numbers of the protocol. */
enum health_status {
    HEALTH_UNKNOWN = 0,
    HEALTH_SERVING = 1,
    HEALTH_NOT_SERVING = 2,
    HEALTH_SERVICE_UNKNOWN = 3, /* of Watch only */
};

struct health_service;

/*
 * `names` are the services that are known, "" (the whole server) among them; borrowed. All are
 * NOT_SERVING at first. 0 or -ENOMEM.
 */
int health_service_new(struct health_service **ret_service, const char *const *names, size_t count);

/* Its calls must be over. NULL is allowed; returns NULL. */
struct health_service *health_service_free(struct health_service *service);

/* Sets the state of one service that is known (NULL: of all) and tells those who watch it. */
void health_service_set(struct health_service *service, const char *name,
                        enum health_status status);

/* As health_service_set(NULL, HEALTH_NOT_SERVING), for good: later changes are not taken. */
void health_service_shutdown(struct health_service *service);

#define HEALTH_METHODS 3

/* Its methods, for the method table; they live as long as the service. */
const struct method *health_service_method(const struct health_service *service, unsigned index);
