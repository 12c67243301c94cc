/*
 * stock-client against a server that sends whatever it likes. The input is a program (program.h) of
 * what the server, the socket, who reads the output, and the time do. Of the client only main() and
 * dial.c are missing: the functions below dial in its place, to connections in memory.
 */
#include "base/log.h"
#include "base/util.h"
#include "client/client.h"
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#define LINKS_MAX 6      /* connections, one after the other */
#define TURNS_MAX 2000   /* that a program may ask for: time has to end */
#define GOODBYE_STEPS 40 /* of 100 ms */

enum action {
    ACTION_BYTES,
    ACTION_CONNECT,
    ACTION_SETTINGS,
    ACTION_HEADERS,
    ACTION_UPDATES,
    ACTION_MESSAGE,
    ACTION_FRAME,
    ACTION_RESET,
    ACTION_GRANT,
    ACTION_PING,
    ACTION_GOAWAY,
    ACTION_TURN,
    ACTION_TIME,
    ACTION_ACCEPT,
    ACTION_RELEASE,
    ACTION_FAIL,
    ACTION_READ,
    ACTION_STOP,
    ACTION_COUNT,
};

struct run {
    struct world world;
    struct stats stats;
    struct consumer consumer;
    struct client client;
    struct memory links[LINKS_MAX];
    unsigned connects;
    struct memory *link; /* the last of them */
    struct dial *dial;   /* that waits, or NULL */
    unsigned stops;
    unsigned turns;
    int read_fd; /* of the output's pipe */
    int write_fd;
    uint64_t window;
    uint64_t given; /* bytes of DATA */
};

static struct run *current;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    log_set_level(LOG_EMERG);
    (void)signal(SIGPIPE, SIG_IGN);
    return 0;
}

/* ---- In the place of client/dial.c ---- */

void dial_init(struct dial *dial, struct loop *loop, const struct dial_tls *tls,
               const struct dial_ops *ops, void *user)
{
    *dial = (struct dial){.loop = loop, .tls = *tls, .ops = ops, .user = user};
}

void dial_start(struct dial *dial, const struct target *target, uint64_t end_ms)
{
    CHECK(!current->dial && target && end_ms > 0);
    current->dial = dial;
}

/* There is no other address. */
void dial_next(struct dial *dial, enum connect_outcome outcome, const char *error)
{
    CHECK(!current->dial && error && *error);
    dial->ops->failed(dial->user, outcome, error);
}

uint64_t dial_share_left_ms(const struct dial *dial)
{
    return 5000;
}

void dial_stop(struct dial *dial)
{
    current->dial = NULL;
}

/* ---- The server ---- */

static void turn(struct run *run, unsigned count)
{
    for (; count > 0 && run->turns < TURNS_MAX; count--, run->turns++)
        world_turn(&run->world);
}

static void deliver(struct run *run, const struct buffer *bytes, size_t split)
{
    if (run->link && run->link->started)
        memory_deliver(run->link, bytes->bytes, bytes->size, split);
}

static void answer_dial(struct run *run, struct reader *arguments)
{
    struct dial *dial = run->dial;

    if (!dial)
        return;
    run->dial = NULL;
    if (read_u8(arguments) == 1 || run->connects == LINKS_MAX) {
        dial->ops->failed(dial->user, CONNECT_CONNECT_FAILED, "nobody is there");
        return;
    }
    run->link = &run->links[run->connects++];
    memory_init(run->link, &run->world);
    run->link->release_now = true;
    dial->ops->connected(dial->user, &run->link->transport, "192.0.2.1:1");
}

/* Headers or trailers, as servers send them and as none should. */
static void make_headers(struct buffer *ret_bytes, uint32_t stream, struct reader *arguments)
{
    static const char *const http[] = {NULL, "200", "404", "503", "100", "2000", "abc", "401"};
    static const char *const types[] = {"application/grpc", NULL, "text/html",
                                        "application/grpc+proto"};
    static const char *const statuses[] = {NULL, "0", "14", "13", "99", "-1", "", "8"};
    uint8_t flags = read_u8(arguments);
    const char *status = http[read_u8(arguments) % ELEMENTSOF(http)];
    const char *type = types[read_u8(arguments) % ELEMENTSOF(types)];
    const char *grpc = statuses[read_u8(arguments) % ELEMENTSOF(statuses)];
    struct buffer block = {0};

    if (status)
        block_add_text(&block, flags & 2, ":status", status);
    if (status && type)
        block_add_text(&block, flags & 2, "content-type", type);
    if (grpc)
        block_add_text(&block, flags & 2, "grpc-status", grpc);
    if (flags & 4)
        block_add_text(&block, false, "grpc-message", "%e2%82%ac is %zz\x80");
    block_add_input(&block, flags & 2, arguments);
    if (block.size > 0)
        frame_add_block(ret_bytes, flags & 1, stream, &block, flags & 8 ? 20 : 16384);
    buffer_deinit(&block);
}

/* DATA of these bytes in frames of `part`. */
static void add_data(struct run *run, struct buffer *ret_bytes, uint32_t stream,
                     const struct buffer *body, size_t part, bool end)
{
    for (size_t at = 0; at < body->size; at += part) {
        size_t size = MIN(part, body->size - at);

        frame_add(ret_bytes, FRAME_DATA, end && at + size == body->size ? FLAG_END_STREAM : 0,
                  stream, body->bytes + at, size);
        run->given += size;
    }
}

/* Updates that follow each other, but for what the input changes. */
static void make_updates(struct run *run, struct buffer *ret_bytes, struct reader *arguments)
{
    uint8_t flags = read_u8(arguments);
    unsigned count = read_u8(arguments) % 32;
    size_t part = read_u8(arguments) + 1U;
    double change = (double)(int8_t)read_u8(arguments) / 4;
    char *ticker = fuzz_copy(arguments->bytes, arguments->size, true);
    Stockservice__StockUpdate update = STOCKSERVICE__STOCK_UPDATE__INIT;
    struct buffer body = {0};

    update.ticker = ticker;
    update.timestamp = ticker;
    update.price = 150;
    update.change = change;
    for (unsigned i = 0; i < count; i++) {
        size_t size = stockservice__stock_update__get_packed_size(&update);
        uint8_t *bytes = malloc(WIRE_PREFIX_SIZE + size);

        CHECK(bytes);
        wire_prefix_write(bytes, (uint32_t)size);
        (void)stockservice__stock_update__pack(&update, bytes + WIRE_PREFIX_SIZE);
        buffer_append(&body, bytes, WIRE_PREFIX_SIZE + size);
        free(bytes);
        update.price += flags & 2 ? 2 * change : change;
    }
    if (flags & 4 && body.size > 0)
        body.bytes[body.size / 2] ^= flags;
    add_data(run, ret_bytes, 1, &body, flags & 8 ? part : 16384, flags & 1);
    buffer_deinit(&body);
    free(ticker);
}

/* A message of any body, its prefix any too. */
static void make_message(struct run *run, struct buffer *ret_bytes, struct reader *arguments)
{
    uint8_t flags = read_u8(arguments);
    struct buffer body = {0};
    uint8_t prefix[WIRE_PREFIX_SIZE];

    wire_prefix_write(prefix, (uint32_t)arguments->size);
    if (flags & 2)
        prefix[0] = read_u8(arguments);
    if (flags & 4)
        prefix[1 + read_u8(arguments) % 4] = read_u8(arguments);
    if (!(flags & 8))
        buffer_append(&body, prefix, sizeof(prefix));
    buffer_append(&body, arguments->bytes, arguments->size);
    add_data(run, ret_bytes, 1, &body, 16384, flags & 1);
    buffer_deinit(&body);
}

static void serve(struct run *run, enum action action, struct reader *arguments)
{
    static const uint32_t streams[] = {1, 0, 2, 3};
    uint32_t stream = streams[action == ACTION_UPDATES || action == ACTION_MESSAGE
                                  ? 0
                                  : read_u8(arguments) % ELEMENTSOF(streams)];
    struct buffer bytes = {0};
    uint8_t type, flags;

    switch (action) {
    case ACTION_SETTINGS:
        if (stream == 1)
            frame_add_settings(&bytes, arguments);
        else
            frame_add(&bytes, FRAME_SETTINGS, FLAG_ACK, 0, NULL, 0);
        break;
    case ACTION_HEADERS:
        make_headers(&bytes, stream, arguments);
        break;
    case ACTION_UPDATES:
        make_updates(run, &bytes, arguments);
        break;
    case ACTION_MESSAGE:
        make_message(run, &bytes, arguments);
        break;
    case ACTION_FRAME:
        type = read_u8(arguments);
        flags = read_u8(arguments);
        frame_add(&bytes, type, flags, stream, arguments->bytes, MIN(arguments->size, 16384U));
        if (type == FRAME_DATA)
            run->given += arguments->size;
        break;
    case ACTION_RESET:
        frame_add_u32(&bytes, FRAME_RST_STREAM, stream, read_u8(arguments));
        break;
    case ACTION_GRANT:
        frame_add_u32(&bytes, FRAME_WINDOW_UPDATE, stream, read_u32(arguments));
        break;
    case ACTION_PING:
        frame_add(&bytes, FRAME_PING, stream == 1 ? 0 : FLAG_ACK, 0, "fuzzping", 8);
        break;
    default: {
        uint8_t payload[] = {0, 0, 0, (uint8_t)stream, 0, 0, 0, read_u8(arguments), 'w', 'h', 'y'};

        frame_add(&bytes, FRAME_GOAWAY, 0, 0, payload, sizeof(payload));
    }
    }
    deliver(run, &bytes, 0);
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

static void change_socket(struct run *run, enum action action, struct reader *arguments)
{
    struct memory *link = run->link;
    uint8_t how = read_u8(arguments);

    if (!link)
        return;
    if (action == ACTION_ACCEPT) {
        link->accept = how == 0xFF ? SIZE_MAX : how;
        link->room = link->accept;
        link->release_now = how != 1;
        if (link->release_now)
            socket_release(link, 0);
    } else if (action == ACTION_RELEASE) {
        socket_release(link, how == 1 ? -EPIPE : 0);
    } else if (link->started) {
        if (how % 4 < 2)
            *(how % 4 ? &link->keep_error : &link->try_error) = how % 4 ? -ENOMEM : -ECONNRESET;
        else
            memory_end(link, how % 4 == 2 ? 0 : -ETIMEDOUT);
    }
}

/* Who reads the output takes some of it, or goes away. */
static void read_output(struct run *run, struct reader *arguments)
{
    uint8_t how = read_u8(arguments);
    char bytes[4096];

    if (run->read_fd < 0)
        return;
    if (how == 255) {
        (void)close(run->read_fd);
        run->read_fd = -1;
        return;
    }
    for (unsigned i = how % 32 + 1; i > 0; i--) {
        if (read(run->read_fd, bytes, sizeof(bytes)) <= 0)
            break;
    }
}

static void act(struct run *run, enum action action, struct reader *arguments)
{
    struct buffer bytes = {0};
    uint8_t split;

    switch (action) {
    case ACTION_BYTES:
        split = read_u8(arguments);
        buffer_append(&bytes, arguments->bytes, arguments->size);
        run->given += arguments->size;
        deliver(run, &bytes, split);
        buffer_deinit(&bytes);
        break;
    case ACTION_CONNECT:
        answer_dial(run, arguments);
        break;
    case ACTION_TURN:
        turn(run, read_u8(arguments) % 8 + 1U);
        break;
    case ACTION_TIME:
        pass_time(run, arguments);
        break;
    case ACTION_ACCEPT:
    case ACTION_RELEASE:
    case ACTION_FAIL:
        change_socket(run, action, arguments);
        break;
    case ACTION_READ:
        read_output(run, arguments);
        break;
    case ACTION_STOP:
        client_stop(&run->client, EXIT_INTERRUPTED);
        break;
    default:
        serve(run, action, arguments);
    }
    CHECK(run->stats.unprocessed_bytes <= run->given);
    CHECK(run->stats.msg_received_total <= run->given);
}

static void on_stopped(struct client *client)
{
    ((struct run *)client->user)->stops++;
}

static void begin(struct run *run, struct reader *program)
{
    uint8_t flags = read_u8(program), delays = read_u8(program), count = read_u8(program);
    struct consumer_options options = {
        .format = flags & 3 ? (flags & 3) - 1U : PRINT_TEXT,
        .quiet = flags & 4,
        .delay_min_ms = delays & 1 ? 10 : 0,
        .delay_max_ms = delays & 2 ? 2000 : 10,
        .count = count % 64,
        .window = flags & 8 ? 100 : 65535,
    };
    const char *why;
    int fds[2];

    (void)read_u8(program); /* for options to come */
    world_init(&run->world);
    CHECK(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    (void)fcntl(fds[0], F_SETPIPE_SZ, 4096);
    run->read_fd = fds[0];
    run->write_fd = fds[1];
    if (delays & 4 || !(delays & 3))
        options.delay_min_ms = options.delay_max_ms = 0;
    CHECK(consumer_init(&run->consumer, &run->world.loop, &options, run->write_fd, &run->stats,
                        &client_consumer_ops, &run->client) == 0);
    run->client = (struct client){
        .options = {.window = options.window,
                    .connect.keepalive_ms = flags & 64 ? 10000 : 0,
                    .time_max_ms = flags & 16 ? 5000 : 0,
                    .reconnect = flags & 32,
                    .request = &client_call_get_updates},
        .loop = &run->world.loop,
        .stats = &run->stats,
        .consumer = &run->consumer,
        .stopped = on_stopped,
        .user = run,
    };
    CHECK(target_parse(&run->client.options.connect.target, "host.example:1", &why) == 0);
    client_start(&run->client);
}

/* Told to stop, it does: within the time of its goodbye, whatever the server does. */
static void end(struct run *run)
{
    uint64_t handled = 0;

    client_stop(&run->client, EXIT_INTERRUPTED);
    for (unsigned i = 0; i < GOODBYE_STEPS; i++) {
        world_turn(&run->world);
        clock_advance_ms(100);
    }
    CHECK(run->stops == 1 && !run->client.connection && !run->dial);
    for (unsigned i = 0; i < WIRE_STATUS_COUNT; i++)
        handled += run->stats.handled_total[i];
    CHECK(handled == run->stats.started_total);
    CHECK(run->stats.connection.connections == 0 && run->stats.connection.streams == 0);
    CHECK(run->stats.connection.unsent_bytes == 0);
    CHECK(run->stats.updates_received_total <= run->stats.msg_received_total);
    CHECK(run->stats.gaps_total <= run->stats.msg_received_total);
    consumer_deinit(&run->consumer);
    world_deinit(&run->world);
    for (unsigned i = 0; i < run->connects; i++)
        memory_deinit(&run->links[i]);
    if (run->read_fd >= 0)
        (void)close(run->read_fd);
    (void)close(run->write_fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct reader program = {bytes, size}, arguments;
    struct run *run = calloc(1, sizeof(*run));
    uint8_t action;

    CHECK(run);
    current = run;
    clock_reset();
    begin(run, &program);
    for (unsigned i = 0; i < PROGRAM_ACTIONS_MAX && program_next(&program, &action, &arguments);
         i++)
        act(run, action % ACTION_COUNT, &arguments);
    end(run);
    free(run);
    return 0;
}
