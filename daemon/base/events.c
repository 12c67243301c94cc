/*
 * The texts of the events; events.h says what they are for.
 */
#include "base/events.h"

const struct event_text event_texts[EVENT_COUNT] = {
#define X(identifier, name, id, fields) [EVENT_##identifier] = {name, id},
    EVENTS(X)
#undef X
};
