/*
 * The whole gRPC side of a server over connections in memory. The input is a program (program.h) of
 * what a client, its socket and the time do. After it everything ends, and nothing may be left.
 */
#include "base/util.h"
#include "bed.h"
#include "program.h"
#include "rpc/compression.h"

#include <errno.h>
#include <string.h>

#define TURNS_MAX 2000 /* that a program may ask for: time has to end */

enum action {
    ACTION_BYTES,
    ACTION_PREFACE,
    ACTION_REQUEST,
    ACTION_MESSAGE,
    ACTION_FRAME,
    ACTION_RESET,
    ACTION_GRANT,
    ACTION_PING,
    ACTION_SETTINGS,
    ACTION_GOAWAY,
    ACTION_TURN,
    ACTION_TIME,
    ACTION_ACCEPT,
    ACTION_RELEASE,
    ACTION_FAIL,
    ACTION_DRAIN,
    ACTION_STOP,
    ACTION_CLOSE,
    ACTION_END,
    ACTION_HEALTH,
    ACTION_ANSWER,
    ACTION_LINK,
    ACTION_COUNT,
};

struct run {
    struct bed bed;
    struct link *link; /* that actions are about */
    unsigned turns;
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    log_set_level(LOG_EMERG);
    return 0;
}

static void turn(struct run *run, unsigned count)
{
    for (; count > 0 && run->turns < TURNS_MAX; count--, run->turns++)
        bed_turn(&run->bed);
}

/* ---- What the client sends ---- */

static void send_preface(struct run *run, struct reader *arguments)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct buffer bytes = {0};

    buffer_append(&bytes, preface, strlen(preface));
    if (read_u8(arguments) != 1)
        frame_add_settings(&bytes, arguments);
    link_deliver(run->link, bytes.bytes, bytes.size, 0);
    buffer_deinit(&bytes);
}

/* The headers of a call as official clients send them, but for what the flags change. */
static void send_request(struct run *run, struct reader *arguments)
{
    static const char *const timeouts[] = {NULL, "1m",  "100m", "5S",         "1H",
                                           "0n", "99u", "-1S",  "99999999999"};
    uint32_t stream = link_stream(run->link, read_u8(arguments));
    uint8_t which = read_u8(arguments);
    uint8_t flags = read_u8(arguments);
    const char *timeout = timeouts[read_u8(arguments) % ELEMENTSOF(timeouts)];
    const struct method *method = run->bed.methods[which % BED_METHODS];
    struct buffer block = {0}, bytes = {0};
    char path[128];
    bool index = flags & 128;

    (void)snprintf(path, sizeof(path), "/%s/%s%s", method->service, method->name,
                   which >= 4 * BED_METHODS ? "?" : "");
    block_add_text(&block, index, ":method", flags & 32 ? "GET" : "POST");
    block_add_text(&block, index, ":scheme", "http");
    block_add_text(&block, index, ":path", path);
    block_add_text(&block, index, ":authority", "host.example");
    block_add_text(&block, index, "content-type", flags & 16 ? "text/html" : "application/grpc");
    block_add_text(&block, index, "te", "trailers");
    if (flags & 2)
        block_add_text(&block, index, "grpc-encoding", "gzip");
    if (flags & 4)
        block_add_text(&block, index, "grpc-accept-encoding", "identity,gzip");
    if (timeout)
        block_add_text(&block, index, "grpc-timeout", timeout);
    block_add_input(&block, index, arguments);
    frame_add_block(&bytes, flags & 1 ? FLAG_END_STREAM : 0, stream, &block,
                    flags & 8 ? 40 : 16384);
    link_deliver(run->link, bytes.bytes, bytes.size, flags & 64 ? 7 : 0);
    buffer_deinit(&block);
    buffer_deinit(&bytes);
}

enum {
    MESSAGE_END = 1,
    MESSAGE_GZIP = 2,
    MESSAGE_FLAGGED = 4, /* as compressed, though it is not */
    MESSAGE_LYING = 8,   /* about its length */
    MESSAGE_PADDED = 16,
    MESSAGE_SPLIT = 32,
    MESSAGE_LONG = 64,
    MESSAGE_BARE = 128, /* no prefix */
};

/* A message as a part of a call's body. */
static void make_message(struct buffer *ret_bytes, uint8_t flags, uint8_t extra,
                         const struct reader *body)
{
    struct message *message =
        message_new((uint32_t)body->size + (flags & MESSAGE_LONG ? extra * 64U : 0));
    struct message *zipped;
    uint8_t *bytes;

    CHECK(message);
    bytes = message_body(message);
    memset(bytes, 'x', message->size - MESSAGE_PREFIX_SIZE);
    if (body->size > 0)
        memcpy(bytes, body->bytes, body->size);
    if (flags & MESSAGE_GZIP) {
        zipped = compression_gzip(message);
        CHECK(zipped);
        (void)message_unref(message);
        message = zipped;
    }
    buffer_append(ret_bytes, message->bytes, message->size);
    (void)message_unref(message);
    if (flags & MESSAGE_FLAGGED)
        ret_bytes->bytes[0] = extra > 1 ? extra : 1;
    if (flags & MESSAGE_LYING)
        ret_bytes->bytes[1 + extra % 4] ^= extra;
}

static void send_message(struct run *run, struct reader *arguments)
{
    uint8_t which = read_u8(arguments);
    uint32_t stream = link_stream(run->link, MAX(which, 1));
    uint8_t flags = read_u8(arguments), extra = read_u8(arguments);
    uint8_t frame_flags = flags & MESSAGE_END ? FLAG_END_STREAM : 0;
    struct buffer message = {0}, bytes = {0};
    size_t first;

    if (flags & MESSAGE_BARE)
        buffer_append(&message, arguments->bytes, arguments->size);
    else
        make_message(&message, flags, extra, arguments);
    if (message.size == 0)
        message.bytes = fuzz_copy(NULL, 0, true);
    first = flags & MESSAGE_SPLIT ? extra % (message.size + 1) : 0;
    if (first > 0)
        frame_add(&bytes, FRAME_DATA, 0, stream, message.bytes, first);
    for (size_t at = first; at < message.size || at == first; at += 16384) {
        size_t size = MIN(message.size - at, (size_t)16384);
        bool last = at + size == message.size;

        if (flags & MESSAGE_PADDED && last && size < 16000) {
            static const uint8_t padding[4] = {3};
            struct buffer padded = {0};

            buffer_append(&padded, padding, 1);
            buffer_append(&padded, message.bytes + at, size);
            buffer_append(&padded, padding + 1, 3);
            frame_add(&bytes, FRAME_DATA, frame_flags | FLAG_PADDED, stream, padded.bytes,
                      padded.size);
            buffer_deinit(&padded);
        } else {
            frame_add(&bytes, FRAME_DATA, last ? frame_flags : 0, stream, message.bytes + at, size);
        }
        if (last)
            break;
    }
    link_deliver(run->link, bytes.bytes, bytes.size, 0);
    buffer_deinit(&message);
    buffer_deinit(&bytes);
}

static void send_frame(struct run *run, enum action action, struct reader *arguments)
{
    struct buffer bytes = {0};
    uint8_t which = read_u8(arguments);
    uint32_t stream = which == 255 ? 0 : link_stream(run->link, MAX(which, 1));
    uint8_t type, flags;

    switch (action) {
    case ACTION_FRAME:
        type = read_u8(arguments);
        flags = read_u8(arguments);
        frame_add(&bytes, type, flags, stream, arguments->bytes, MIN(arguments->size, 16384U));
        break;
    case ACTION_RESET:
        frame_add_u32(&bytes, FRAME_RST_STREAM, stream, read_u8(arguments));
        break;
    case ACTION_GRANT:
        frame_add_u32(&bytes, FRAME_WINDOW_UPDATE, stream, read_u32(arguments));
        break;
    case ACTION_PING:
        if (which == 1)
            frame_add(&bytes, FRAME_PING, FLAG_ACK, 0, run->link->ping, 8);
        else
            frame_add(&bytes, FRAME_PING, 0, 0, "fuzzping", 8);
        break;
    case ACTION_SETTINGS:
        if (which == 1)
            frame_add(&bytes, FRAME_SETTINGS, FLAG_ACK, 0, NULL, 0);
        else
            frame_add_settings(&bytes, arguments);
        break;
    default:
        frame_add(&bytes, FRAME_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0why", 11);
    }
    link_deliver(run->link, bytes.bytes, bytes.size, 0);
    buffer_deinit(&bytes);
}

/* ---- What else happens ---- */

static void pass_time(struct run *run, struct reader *arguments)
{
    static const uint32_t units_ms[] = {1, 10, 100, 1000, 5000, 20000, 60000, 3600000};
    uint32_t unit_ms = units_ms[read_u8(arguments) % ELEMENTSOF(units_ms)];

    for (unsigned i = read_u8(arguments) % 16 + 1; i > 0; i--) {
        clock_advance_ms(unit_ms);
        turn(run, 1);
    }
}

static void fail(struct run *run, struct reader *arguments)
{
    struct memory *memory = &run->link->memory;

    if (!run->link->begun)
        return;
    switch (read_u8(arguments) % 4) {
    case 0:
        memory->try_error = -ECONNRESET;
        break;
    case 1:
        memory->keep_error = -ENOMEM;
        break;
    case 2:
        memory_end(memory, 0);
        break;
    default:
        memory_end(memory, -ETIMEDOUT);
    }
}

static void set_room(struct run *run, struct reader *arguments)
{
    struct memory *memory = &run->link->memory;
    uint16_t accept = read_u16(arguments), room = read_u16(arguments);

    if (!run->link->begun)
        return;
    memory->accept = accept == 0xFFFF ? SIZE_MAX : accept;
    memory->room = room == 0xFFFF ? SIZE_MAX : room;
    memory->release_now = !(read_u8(arguments) & 1);
    if (memory->release_now)
        socket_release(memory, 0);
}

static void release(struct run *run, struct reader *arguments)
{
    socket_release(&run->link->memory, read_u8(arguments) == 1 ? -EPIPE : 0);
}

static void stop_call(struct stream *stream)
{
    call_shutdown(call_from_stream(stream), WIRE_UNAVAILABLE, "the server is shutting down");
}

/* As a server stops, gently or not. */
static void stop(struct run *run, enum action action, struct reader *arguments)
{
    struct connection *connection = run->link->connection;

    if (action == ACTION_STOP)
        run->bed.calls.stopping = true;
    if (!connection)
        return;
    switch (action) {
    case ACTION_STOP:
        connection_drain(connection, CLOSE_SHUTDOWN);
        connection_each_stream(connection, stop_call);
        break;
    case ACTION_DRAIN:
        connection_drain(connection, read_u8(arguments) & 1 ? CLOSE_IDLE : CLOSE_SHUTDOWN);
        break;
    case ACTION_CLOSE:
        connection_close(connection, CLOSE_LOCAL, "enough");
        break;
    default:
        connection_end(connection, read_u8(arguments), CLOSE_FLOOD, "too much");
    }
}

static void set_health(struct run *run, struct reader *arguments)
{
    static const char *const names[] = {NULL, "", "stockservice.StockService", "unknown"};
    const char *name = names[read_u8(arguments) % ELEMENTSOF(names)];
    uint8_t status = read_u8(arguments);

    if (status == 255)
        health_service_shutdown(run->bed.health);
    else if (!name || strcmp(name, "unknown") != 0)
        health_service_set(run->bed.health, name, status & 1 ? HEALTH_SERVING : HEALTH_NOT_SERVING);
}

static void choose_link(struct run *run, struct reader *arguments)
{
    run->link = &run->bed.links[read_u8(arguments) % BED_LINKS];
    bed_connect(&run->bed, run->link);
}

static void act(struct run *run, enum action action, struct reader *arguments)
{
    uint8_t split;

    switch (action) {
    case ACTION_BYTES:
        split = read_u8(arguments);
        link_deliver(run->link, arguments->bytes, arguments->size, split);
        break;
    case ACTION_PREFACE:
        send_preface(run, arguments);
        break;
    case ACTION_REQUEST:
        send_request(run, arguments);
        break;
    case ACTION_MESSAGE:
        send_message(run, arguments);
        break;
    case ACTION_TURN:
        turn(run, read_u8(arguments) % 8 + 1U);
        break;
    case ACTION_TIME:
        pass_time(run, arguments);
        break;
    case ACTION_ACCEPT:
        set_room(run, arguments);
        break;
    case ACTION_RELEASE:
        release(run, arguments);
        break;
    case ACTION_FAIL:
        fail(run, arguments);
        break;
    case ACTION_DRAIN:
    case ACTION_STOP:
    case ACTION_CLOSE:
    case ACTION_END:
        stop(run, action, arguments);
        break;
    case ACTION_HEALTH:
        set_health(run, arguments);
        break;
    case ACTION_ANSWER:
        turn(run, 1);
        link_answer(run->link);
        break;
    case ACTION_LINK:
        choose_link(run, arguments);
        break;
    default:
        send_frame(run, action, arguments);
    }
}

static void begin(struct run *run, struct reader *program)
{
    static const uint64_t intervals_ms[] = {0, 1, 50, 1000};
    uint8_t limits = read_u8(program), times = read_u8(program), more = read_u8(program);
    struct stock_options stock = {
        .ticker = "AAPL",
        .start_price = 150,
        .interval_ms = intervals_ms[more & 3],
        .initial_delay_ms = more & 4 ? 500 : 0,
        .compress = more & 8,
        .seed = 7,
    };

    (void)read_u8(program); /* for options to come */
    run->bed.options = (struct connection_options){
        .max_streams = limits & 1 ? 3 : 100,
        .max_header_bytes = limits & 2 ? 512 : 8192,
        .stream_window = limits & 4 ? 1000 : 65535,
        .connection_window = 65535,
        .preface_timeout_ms = times & 1 ? 0 : 10000,
        .keepalive_time_ms = times & 2 ? 7000 : 0,
        .keepalive_timeout_ms = 2000,
        .ping_min_ms = times & 4 ? 300000 : 0,
        .ping_min_idle_ms = times & 4 ? 7200000 : 0,
        .idle_max_ms = times & 8 ? 30000 : 0,
        .age_max_ms = times & 16 ? 60000 : 0,
        .age_grace_ms = times & 32 ? 5000 : 0,
        .stall_timeout_ms = times & 64 ? 10000 : 0,
    };
    run->bed.calls = (struct call_server){
        .max_message_bytes = limits & 8 ? 100 : 20000,
        .max_input_bytes = limits & 16 ? 2000 : 80000,
        .max_calls = limits & 32 ? 2 : 1000,
        .request_timeout_ms = times & 128 ? 30000 : 0,
    };
    bed_init(&run->bed, &stock);
    run->link = &run->bed.links[0];
    bed_connect(&run->bed, run->link);
    if (limits & 64)
        run->link->memory.accept = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct reader program = {bytes, size}, arguments;
    struct run *run = calloc(1, sizeof(*run));
    uint8_t action;

    CHECK(run);
    clock_reset();
    begin(run, &program);
    for (unsigned i = 0; i < PROGRAM_ACTIONS_MAX && program_next(&program, &action, &arguments);
         i++)
        act(run, action % ACTION_COUNT, &arguments);
    bed_turn(&run->bed);
    bed_turn(&run->bed);
    bed_deinit(&run->bed);
    free(run);
    return 0;
}
