/*
 * Places to listen on.
 */
#include "base/endpoint.h"

#include <string.h>

struct endpoint endpoint_at(const struct sockaddr *address)
{
    struct endpoint endpoint = {
        .client_certificate = CLIENT_CERTIFICATE_UNSET,
        .mode = ENDPOINT_MODE_DEFAULT,
    };

    memcpy(&endpoint.address, address, address_size(address));
    return endpoint;
}

int endpoint_listen(const struct endpoint *endpoint, int backlog)
{
    return address_listen((const struct sockaddr *)&endpoint->address, backlog);
}
