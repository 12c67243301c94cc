/*
 * stockd's services, and a few of the fuzzers' own, behind connections in memory: all of stockd's
 * gRPC side but its listener. What the server sends is looked at, frame by frame.
 */
#pragma once

#include "memory.h"
#include "rpc/call.h"
#include "services/health.h"
#include "services/reflection.h"
#include "services/stock.h"

#include <stdbool.h>

/* The methods, by index: the first is stock's, then health's, reflection's, and the bed's own. */
#define BED_OWN_METHODS 4
#define BED_METHODS (1 + HEALTH_METHODS + REFLECTION_METHODS + BED_OWN_METHODS)
#define BED_LINKS 2
#define BED_STREAMS 64

/* What was seen of a stream of the server's. */
struct seen_stream {
    uint32_t id;
    bool headers;
    bool ended;
    uint8_t prefix[5]; /* of the message that is being received */
    unsigned prefix_size;
    uint32_t rest;      /* of its body */
    uint32_t ungranted; /* bytes that came and for which no credit was given */
};

/* A connection and its client's end. */
struct link {
    struct call_server *calls; /* first: call_connection_ops looks for it there */
    struct memory memory;
    struct connection *connection; /* NULL before and after */
    bool begun;
    uint32_t next_id; /* of the client's next stream */

    /* From the server's frames. */
    struct seen_stream streams[BED_STREAMS]; /* in a ring, by the order of their ids */
    bool any_frame;
    unsigned settings; /* not acknowledged */
    unsigned pings;
    uint8_t ping[8]; /* the last one */
    uint32_t ungranted;
    bool in_block; /* CONTINUATION must follow */
    bool gone;     /* GOAWAY came */
};

struct bed {
    struct world world;
    struct call_server calls;
    struct connection_stats stats;
    struct connection_options options; /* of connections to come */
    struct stock_service *stock;
    struct health_service *health;
    const struct method *methods[BED_METHODS];
    struct link links[BED_LINKS];
};

/* Makes the services; the caller has set options in `calls`, `options` and `stock`. */
void bed_init(struct bed *bed, const struct stock_options *stock);

/* Closes what is open, and checks that nothing is left of any call. */
void bed_deinit(struct bed *bed);

/* A connection at this link, if there was none yet. */
void bed_connect(struct bed *bed, struct link *link);

/* A turn of the loop, and a look at what the server sent. */
void bed_turn(struct bed *bed);

/* Bytes from the client, `split` at a time (0: all at once). */
void link_deliver(struct link *link, const void *bytes, size_t size, size_t split);

/* What a good client does: acknowledges, answers, gives credit. */
void link_answer(struct link *link);

/* The stream that a byte of the input names: 0 a new one, else one of the last ones. */
uint32_t link_stream(struct link *link, uint8_t which);
