/*
 * The resolver runs in a thread of libuv's and cannot be stopped there. An attempt that is over
 * leaves it behind: it owns its memory, and frees it when it comes back to find nobody waiting.
 */
#include "client/dial.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct resolution {
    uv_getaddrinfo_t request;
    struct dial *dial;
    bool waited_for;
};

static void set_error(struct dial *dial, enum connect_outcome outcome, const char *error)
{
    dial->outcome = outcome;
    /* Where an address was given there is no need to say which one it was. */
    if (dial->peer[0] && strcmp(dial->peer, dial->target->text) != 0)
        (void)snprintf(dial->error, sizeof(dial->error), "%s: %s", dial->peer, error);
    else
        (void)snprintf(dial->error, sizeof(dial->error), "%s", error);
}

void dial_stop(struct dial *dial)
{
    loop_disarm(dial->loop, &dial->timer);
    if (dial->resolution) {
        dial->resolution->waited_for = false;
        dial->abandoned++;
        (void)uv_cancel((uv_req_t *)&TAKE_PTR(dial->resolution)->request);
    }
    if (dial->connect)
        socket_connect_cancel(TAKE_PTR(dial->connect));
    if (dial->handshake)
        tls_handshake_cancel(TAKE_PTR(dial->handshake));
    if (dial->addresses)
        uv_freeaddrinfo(TAKE_PTR(dial->addresses));
    dial->next = NULL;
    dial->path_next = false;
}

static void finish(struct dial *dial)
{
    dial_stop(dial);
    dial->ops->failed(dial->user, dial->outcome, dial->error);
}

static void tls_failed(struct dial *dial, enum connect_outcome outcome, const char *why)
{
    char text[DIAL_ERROR_MAX - ADDRESS_TEXT_MAX - 2]; /* an address may come before it */

    (void)snprintf(text, sizeof(text), "TLS with \"%s\" failed: %s", dial->target->name, why);
    dial_next(dial, outcome, text);
}

static void on_tls_done(void *user, struct transport *transport, enum tls_outcome outcome,
                        const char *detail)
{
    struct dial *dial = user;

    dial->handshake = NULL;
    if (transport) {
        (void)snprintf(dial->agreed, sizeof(dial->agreed), "%s", detail);
        dial->ops->connected(dial->user, transport, dial->peer);
    } else {
        tls_failed(dial, outcome == TLS_TIMEOUT ? CONNECT_TIMED_OUT : CONNECT_TLS_FAILED, detail);
    }
}

/* The handshake has what the address's share has left. */
static void secure(struct dial *dial, struct transport *transport)
{
    const struct tls_options options = {
        .credentials = dial->tls.credentials,
        .client = true,
        .timeout_ms = dial_share_left_ms(dial),
        .server_name = dial->target->name,
        .insecure = dial->tls.insecure,
        .done = on_tls_done,
        .user = dial,
    };
    int r = tls_handshake(&dial->handshake, dial->loop, transport, &options);

    if (r == -EINVAL)
        tls_failed(dial, CONNECT_TLS_FAILED, "this is a name that no server can have");
    else if (r < 0)
        tls_failed(dial, CONNECT_TLS_FAILED, uv_strerror(r));
}

static void on_connected(void *user, struct transport *transport, int error)
{
    struct dial *dial = user;

    dial->connect = NULL;
    loop_disarm(dial->loop, &dial->timer);
    if (error < 0)
        dial_next(dial, CONNECT_CONNECT_FAILED, uv_strerror(error));
    else if (dial->tls.credentials)
        secure(dial, transport);
    else
        dial->ops->connected(dial->user, transport, dial->peer);
}

/* The addresses that are left share the time that is left. */
static uint64_t begin_share_ms(struct dial *dial)
{
    uint64_t now_ms = loop_now_ms(dial->loop);
    uint64_t left_ms = dial->end_ms > now_ms ? dial->end_ms - now_ms : 0;
    unsigned count = 0;

    for (const struct addrinfo *address = dial->next; address; address = address->ai_next)
        count++;
    left_ms = MAX(left_ms / MAX(count, 1u), (uint64_t)1);
    dial->share_end_ms = now_ms + left_ms;
    return left_ms;
}

static const struct sockaddr *take_address(struct dial *dial)
{
    const struct sockaddr *address;

    if (dial->path_next) {
        dial->path_next = false;
        return (const struct sockaddr *)&dial->path;
    }
    if (!dial->next)
        return NULL;
    address = dial->next->ai_addr;
    dial->next = dial->next->ai_next;
    return address;
}

/* Tries addresses until an attempt is under way. */
static void try_next(struct dial *dial)
{
    while (loop_now_ms(dial->loop) < dial->end_ms) {
        uint64_t share_ms = begin_share_ms(dial);
        const struct sockaddr *address = take_address(dial);
        int r;

        if (!address)
            break;
        (void)address_format(address, dial->peer);
        r = socket_connect(&dial->connect, dial->loop, address, on_connected, dial);
        if (r == 0) {
            loop_arm(dial->loop, &dial->timer, share_ms, 1);
            return;
        }
        set_error(dial, CONNECT_CONNECT_FAILED, uv_strerror(r));
    }
    finish(dial);
}

void dial_next(struct dial *dial, enum connect_outcome outcome, const char *error)
{
    set_error(dial, outcome, error);
    try_next(dial);
}

static void on_timer(struct wheel_timer *timer)
{
    struct dial *dial = container_of(timer, struct dial, timer);

    if (dial->connect) {
        socket_connect_cancel(TAKE_PTR(dial->connect));
        dial_next(dial, CONNECT_TIMED_OUT, "no answer in time");
    } else {
        set_error(dial, CONNECT_TIMED_OUT, "the resolver gave no answer in time");
        finish(dial);
    }
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *addresses)
{
    struct resolution *resolution = container_of(request, struct resolution, request);
    struct dial *dial = resolution->dial;
    bool waited_for = resolution->waited_for;

    free(resolution);
    if (!waited_for) {
        dial->abandoned--;
        uv_freeaddrinfo(addresses);
        return;
    }
    dial->resolution = NULL;
    loop_disarm(dial->loop, &dial->timer);
    dial->addresses = addresses;
    dial->next = addresses;
    if (status < 0) {
        set_error(dial, CONNECT_RESOLVE_FAILED, uv_strerror(status));
        finish(dial);
    } else {
        try_next(dial);
    }
}

void dial_init(struct dial *dial, struct loop *loop, const struct dial_tls *tls,
               const struct dial_ops *ops, void *user)
{
    *dial = (struct dial){
        .loop = loop, .ops = ops, .user = user, .tls = *tls, .timer = {.fire = on_timer}};
}

static void start_path(struct dial *dial)
{
    dial->path = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(dial->path.sun_path, dial->target->path, strlen(dial->target->path) + 1);
    dial->path_next = true;
    try_next(dial);
}

static void start_resolver(struct dial *dial)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct resolution *resolution = calloc(1, sizeof(*resolution));
    uint64_t now_ms = loop_now_ms(dial->loop);
    int r = -ENOMEM;

    if (resolution) {
        *resolution = (struct resolution){.dial = dial, .waited_for = true};
        r = uv_getaddrinfo(dial->loop->uv, &resolution->request, on_resolved, dial->target->host,
                           dial->target->port, &hints);
    }
    if (r < 0) {
        free(resolution);
        set_error(dial, CONNECT_RESOLVE_FAILED, uv_strerror(r));
        finish(dial);
        return;
    }
    dial->resolution = resolution;
    loop_arm(dial->loop, &dial->timer, dial->end_ms > now_ms ? dial->end_ms - now_ms : 1, 1);
}

void dial_start(struct dial *dial, const struct target *target, uint64_t end_ms)
{
    dial->target = target;
    dial->end_ms = end_ms;
    dial->peer[0] = 0;
    dial->agreed[0] = 0;
    if (target->path[0])
        start_path(dial);
    else
        start_resolver(dial);
}

uint64_t dial_share_left_ms(const struct dial *dial)
{
    uint64_t now_ms = loop_now_ms(dial->loop);

    return dial->share_end_ms > now_ms ? dial->share_end_ms - now_ms : 1;
}
