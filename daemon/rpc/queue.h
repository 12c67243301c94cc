/*
 * Messages that wait to be sent on one call, oldest first. It holds no memory while it is empty.
 */
#pragma once

#include "rpc/message.h"

#include <stdint.h>

/* Zeroed memory is an empty queue. */
struct queue {
    struct message **messages; /* a ring; NULL while empty */
    unsigned capacity;         /* a power of 2 */
    unsigned head;
    unsigned count;
    uint32_t bytes; /* of all its messages */
};

/* Adds `message`, whose reference is the queue's then. 0 or -ENOMEM. */
int queue_push(struct queue *queue, struct message *message);

/* The oldest message, whose reference is the caller's then, or NULL. */
struct message *queue_pop(struct queue *queue);
