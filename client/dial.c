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
    /* Where the host was given as an address there is no need to say which one it was. */
    if (dial->peer[0] && strcmp(dial->peer, dial->authority) != 0)
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
    if (dial->addresses)
        uv_freeaddrinfo(TAKE_PTR(dial->addresses));
    dial->next = NULL;
}

static void finish(struct dial *dial)
{
    dial_stop(dial);
    dial->ops->failed(dial->user, dial->outcome, dial->error);
}

static void on_connected(void *user, struct transport *transport, int error)
{
    struct dial *dial = user;

    dial->connect = NULL;
    loop_disarm(dial->loop, &dial->timer);
    if (error < 0)
        dial_next(dial, CONNECT_CONNECT_FAILED, uv_strerror(error));
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

/* Tries addresses until an attempt is under way. */
static void try_next(struct dial *dial)
{
    while (dial->next && loop_now_ms(dial->loop) < dial->end_ms) {
        uint64_t share_ms = begin_share_ms(dial);
        const struct sockaddr *address = dial->next->ai_addr;
        int r;

        dial->next = dial->next->ai_next;
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

void dial_init(struct dial *dial, struct loop *loop, const struct dial_ops *ops, void *user)
{
    *dial = (struct dial){.loop = loop, .ops = ops, .user = user, .timer = {.fire = on_timer}};
}

void dial_start(struct dial *dial, const struct target *target, uint64_t end_ms)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct resolution *resolution = calloc(1, sizeof(*resolution));
    uint64_t now_ms = loop_now_ms(dial->loop);
    int r = -ENOMEM;

    dial->authority = target->authority;
    dial->end_ms = end_ms;
    dial->peer[0] = 0;
    if (resolution) {
        *resolution = (struct resolution){.dial = dial, .waited_for = true};
        r = uv_getaddrinfo(dial->loop->uv, &resolution->request, on_resolved, target->host,
                           target->port, &hints);
    }
    if (r < 0) {
        free(resolution);
        set_error(dial, CONNECT_RESOLVE_FAILED, uv_strerror(r));
        finish(dial);
        return;
    }
    dial->resolution = resolution;
    loop_arm(dial->loop, &dial->timer, end_ms > now_ms ? end_ms - now_ms : 1, 1);
}

uint64_t dial_share_left_ms(const struct dial *dial)
{
    uint64_t now_ms = loop_now_ms(dial->loop);

    return dial->share_end_ms > now_ms ? dial->share_end_ms - now_ms : 1;
}
