/*
 * The texts of the events; events.h says what they are for.
 */
#include "base/events.h"

#include <stdbool.h>

const struct event_text event_texts[EVENT_COUNT] = {
#define X(identifier, name, id, fields) [EVENT_##identifier] = {name, id},
    EVENTS(X)
#undef X
};

const char *const event_client_ids[EVENT_COUNT] = {
#define X(identifier, id) [EVENT_##identifier] = (id),
    SHARED_EVENTS_OF_CLIENT(X)
#undef X
};

static bool is_client;

void event_use_client(void)
{
    is_client = true;
}

const char *event_id(enum event event)
{
    const char *client_id = event_client_ids[event];

    return is_client && client_id ? client_id : event_texts[event].id;
}
