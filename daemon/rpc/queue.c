/* See queue.h. */
#include "rpc/queue.h"

#include "base/util.h"

#include <errno.h>

static int queue_grow(struct queue *queue)
{
    unsigned capacity = MAX(2 * queue->capacity, 4u);
    struct message **messages = calloc(capacity, sizeof(struct message *));

    if (!messages)
        return -ENOMEM;
    for (unsigned i = 0; i < queue->count; i++)
        messages[i] = queue->messages[(queue->head + i) & (queue->capacity - 1)];
    free(queue->messages);
    queue->messages = messages;
    queue->capacity = capacity;
    queue->head = 0;
    return 0;
}

int queue_push(struct queue *queue, struct message *message)
{
    if (queue->count == queue->capacity) {
        int r = queue_grow(queue);
        if (r < 0)
            return r;
    }
    queue->messages[(queue->head + queue->count++) & (queue->capacity - 1)] = message;
    queue->bytes += message->size;
    return 0;
}

struct message *queue_pop(struct queue *queue)
{
    struct message *message;

    if (queue->count == 0)
        return NULL;
    message = queue->messages[queue->head];
    queue->head = (queue->head + 1) & (queue->capacity - 1);
    queue->bytes -= message->size;
    if (--queue->count == 0) {
        free(TAKE_PTR(queue->messages));
        queue->capacity = 0;
        queue->head = 0;
    }
    return message;
}
