/*
 * What the files of a call share: call.c (its life and its end), call_request.c (headers and
 * messages of the request) and call_send.c (messages of the answer).
 */
#pragma once

#include "rpc/call.h"
#include "rpc/metadata.h"
#include "rpc/queue.h"

#define STATUS_TEXT_MAX 512

/* What is known of a request until its handler begins. */
struct request {
    size_t header_bytes;
    const struct method *method;
    int64_t timeout_ns;
    struct metadata metadata;
    char path[128]; /* cut, for messages, like the next */
    char user_agent[128];
    bool post;
    bool grpc;
    bool malformed;
    bool unknown_encoding;
};

/* Custom metadata of the answer. */
struct custom {
    struct metadata headers;
    struct metadata trailers;
};

/* What every message touches comes first and lies close together. */
struct call {
    struct stream stream;

    bool counted; /* in started_total */
    bool begun;
    bool headers_done;  /* the request's */
    bool half_closed;   /* the client's side, as far as the handler knows */
    bool input_held;    /* messages wait in `input` for room in the queue */
    bool responded;     /* our headers are sent */
    bool inside;        /* the bytes sent so far end inside a message */
    bool finished;      /* status and text are set */
    bool trailers_sent; /* handed to the connection */
    bool was_reset;     /* by this side; nothing more is said */
    bool more;          /* method->pull has something, as far as is known */
    bool reading;       /* call_on_read() is on the call stack: it sees to the end itself */
    bool delivering;    /* `input` is being read */
    bool gzip;          /* the answer's messages may be compressed */
    bool gzip_accepted; /* by the client */
    bool gzip_request;  /* the request's messages may be compressed */
    bool compressed;    /* the message that the handler looks at came so */
    bool room_wanted;   /* call_send() found the queue full; method->room waits for it */
    enum wire_status status;

    const struct method *method; /* NULL until the headers were found good */
    struct method_stats *stats;
    struct call_server *server;
    void *data;
    struct message *current; /* being sent */
    uint32_t current_offset;
    uint32_t max_message_bytes; /* the server's when the call began */
    struct queue queue;

    struct wheel_timer timer; /* the request's time limit, then the deadline */
    uint64_t deadline_ms;     /* 0: none */
    struct request *request;  /* until `begin` */
    uint8_t *input;           /* bytes that are no whole message yet, or may not be delivered */
    uint32_t input_size;
    uint32_t input_capacity;
    uint64_t begun_ms;     /* when its headers were whole */
    uint64_t messages;     /* of the answer, given to the connection to their last byte */
    struct custom *custom; /* NULL: none */
    char *text;
};

/* ---- call.c ---- */

/* Ends the call with RST_STREAM, in the HTTP/2 error that stands for its status. */
void call_reset(struct call *call, enum wire_status status);

/* A fault found in the headers: answered before anything else happens. */
void call_refuse(struct call *call, const char *http_status, enum wire_status status,
                 const char *text);

/* The path of the call's method; NULL until that was found. `text`: room for it. */
#define CALL_METHOD_MAX 128
const char *call_method(const struct call *call, char text[static CALL_METHOD_MAX]);

/* Sends the trailers of a finished call that has nothing left to send. As stream_submit_trailers().
 */
int call_send_trailers(struct call *call);

/* ---- call_request.c ---- */

struct request *request_free(struct request *request);

int call_on_header(struct stream *stream, const struct header *header);
void call_on_headers_end(struct stream *stream, bool end);
void call_on_data(struct stream *stream, const uint8_t *bytes, size_t size);
void call_on_half_close(struct stream *stream);

/* Delivers the whole messages in the input, as far as the handler's answers leave room. */
void call_deliver(struct call *call);

/* Frees the input. */
void call_free_input(struct call *call);

/* Frees what came and will not be delivered any more, and gives its credit back. */
void call_drop_input(struct call *call);

/* ---- call_send.c ---- */

ssize_t call_on_read(struct stream *stream, uint8_t *bytes, size_t size, struct stream_read *ret);

/* Puts `message`, or NULL, in the place of the message that is being sent, and frees that. */
void call_set_current(struct call *call, struct message *message);

/* Frees what waits behind the message that is being sent. */
void call_drop_queue(struct call *call);

static inline bool call_queue_full(const struct call *call)
{
    return call->queue.bytes >= CALL_QUEUE_BYTES_MAX;
}
