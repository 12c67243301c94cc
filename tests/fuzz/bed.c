#include "bed.h"

#include "base/util.h"
#include "fuzz.h"
#include "program.h"

#include <string.h>

static const char *const service_names[] = {
    "",
    "stockservice.StockService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
};

/* A batch of the connection's, and a frame more: what a socket that takes nothing may cost. */
#define KEPT_MAX ((size_t)(256 * 1024))

#define SERVER_MESSAGE_MAX (1U << 20)
#define FRAME_MAX 16384

/* ---- Methods that do what those of stockd never do ---- */

struct own {
    struct call *call;
    unsigned left; /* messages to send */
    uint32_t size; /* of each */
    bool finish;
};

static void own_fill(struct own *own)
{
    struct message *message = message_new(own->size);
    int r = 0;

    CHECK(message);
    memset(message_body(message), 'm', own->size);
    while (own->left > 0 && r == 0) {
        r = call_send(own->call, message);
        CHECK(r >= 0);
        own->left -= r == 0;
    }
    (void)message_unref(message);
    if (own->left == 0 && own->finish)
        call_finish(own->call, WIRE_OK, NULL);
}

/* Metadata go back as headers and trailers; gzip where it is taken. */
static void own_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct own *own = calloc(1, sizeof(*own));
    struct header header;

    CHECK(own && !call_data(call));
    own->call = call;
    call_set_data(call, own);
    for (size_t i = 0; call_metadata(call, i, &header); i++) {
        CHECK(call_add_header(call, &header) >= 0);
        CHECK(call_add_trailer(call, &header) >= 0);
    }
    CHECK(call_time_left_ms(call) >= 0 && call_peer(call));
    CHECK(call_use_gzip(call) >= 0);
}

/*
 * An order: how to end, how many messages of which size to send before, and a text. It may come as
 * the one request of a call or as one of many.
 */
static void own_message(struct call *call, const uint8_t *bytes, size_t size)
{
    struct reader reader = {bytes, size};
    struct own *own = call_data(call);
    uint8_t how = read_u8(&reader);
    enum wire_status status = read_u8(&reader) % WIRE_STATUS_COUNT;
    char *text;

    CHECK(own && own->call == call && bytes);
    (void)call_was_compressed(call);
    own->left += read_u8(&reader);
    own->size = read_u16(&reader) % 20000;
    if (how & 8)
        CHECK(call_send_headers(call) >= 0);
    text = fuzz_copy(reader.bytes, reader.size, true);
    if (how & 16)
        call_resume(call);
    own->finish = how & 4;
    own_fill(own);
    switch (how & 3) {
    case 1:
        call_finish(call, status, text);
        break;
    case 2:
        call_abort(call, status, text);
        break;
    case 3:
        call_shutdown(call, status, text);
    }
    free(text);
}

static void own_once(struct call *call, const uint8_t *request, size_t size)
{
    own_begin(call, NULL, 0);
    own_message(call, request, size);
}

static void own_half_close(struct call *call)
{
    struct own *own = call_data(call);

    own->finish = true;
    own_fill(own);
}

static void own_room(struct call *call)
{
    own_fill(call_data(call));
}

static void own_end(struct call *call, enum wire_status status)
{
    CHECK(call_data(call) && status < WIRE_STATUS_COUNT);
    free(call_data(call));
}

static struct method_stats own_stats[BED_OWN_METHODS];
static const struct method own_methods[BED_OWN_METHODS] = {
    {.service = "fuzz.Fuzz",
     .name = "Unary",
     .type = METHOD_UNARY,
     .begin = own_once,
     .end = own_end,
     .stats = &own_stats[0]},
    {.service = "fuzz.Fuzz",
     .name = "Down",
     .type = METHOD_SERVER_STREAM,
     .begin = own_once,
     .room = own_room,
     .end = own_end,
     .stats = &own_stats[1]},
    {.service = "fuzz.Fuzz",
     .name = "Up",
     .type = METHOD_CLIENT_STREAM,
     .begin = own_begin,
     .message = own_message,
     .half_close = own_half_close,
     .end = own_end,
     .stats = &own_stats[2]},
    {.service = "fuzz.Fuzz",
     .name = "Chat",
     .type = METHOD_BIDI_STREAM,
     .begin = own_begin,
     .message = own_message,
     .half_close = own_half_close,
     .room = own_room,
     .end = own_end,
     .stats = &own_stats[3]},
};

/* ---- What the server sent ---- */

/* NULL: a later stream is remembered in its place. */
static struct seen_stream *seen(struct link *link, uint32_t id)
{
    struct seen_stream *stream = &link->streams[id / 2 % BED_STREAMS];

    CHECK(id % 2 == 1);
    if (stream->id > id)
        return NULL;
    if (stream->id < id)
        *stream = (struct seen_stream){.id = id};
    return stream;
}

/* Messages, one after the other: each flag is 0 or 1, and no length is absurd. */
static void see_data(struct seen_stream *stream, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        size_t n;

        if (stream->rest > 0) {
            n = MIN(size, (size_t)stream->rest);
            stream->rest -= (uint32_t)n;
        } else {
            n = 1;
            stream->prefix[stream->prefix_size++] = *bytes;
            if (stream->prefix_size == sizeof(stream->prefix)) {
                CHECK(stream->prefix[0] <= 1);
                stream->rest = frame_u32(stream->prefix + 1);
                CHECK(stream->rest <= SERVER_MESSAGE_MAX);
                stream->prefix_size = 0;
            }
        }
        bytes += n;
        size -= n;
    }
}

static void see_stream_frame(struct link *link, uint8_t type, uint8_t flags, uint32_t id,
                             const uint8_t *payload, size_t size)
{
    struct seen_stream *stream = seen(link, id);

    if (!stream)
        return;
    CHECK(!stream->ended || type == FRAME_RST_STREAM);
    if (type == FRAME_HEADERS) {
        stream->headers = true;
    } else if (type == FRAME_DATA) {
        CHECK(stream->headers && !(flags & FLAG_PADDED));
        see_data(stream, payload, size);
        stream->ungranted += (uint32_t)size;
        link->ungranted += (uint32_t)size;
    }
    if (type == FRAME_RST_STREAM || flags & FLAG_END_STREAM)
        stream->ended = true;
    /* A response ends where a message does. */
    if (type != FRAME_RST_STREAM && flags & FLAG_END_STREAM)
        CHECK(stream->rest == 0 && stream->prefix_size == 0);
}

static void see_frame(struct link *link, const uint8_t *head, size_t size)
{
    const uint8_t *payload = head + FRAME_HEAD;
    uint8_t type = head[3], flags = head[4];
    uint32_t id = frame_u32(head + 5);

    CHECK(size <= FRAME_MAX && (link->any_frame || type == FRAME_SETTINGS));
    CHECK(link->in_block == (type == FRAME_CONTINUATION));
    link->any_frame = true;
    if (type == FRAME_HEADERS || type == FRAME_CONTINUATION)
        link->in_block = !(flags & FLAG_END_HEADERS);
    switch (type) {
    case FRAME_DATA:
    case FRAME_HEADERS:
    case FRAME_RST_STREAM:
        see_stream_frame(link, type, type == FRAME_RST_STREAM ? 0 : flags, id, payload, size);
        break;
    case FRAME_SETTINGS:
        link->settings += !(flags & FLAG_ACK);
        break;
    case FRAME_PING:
        CHECK(size == sizeof(link->ping));
        if (!(flags & FLAG_ACK)) {
            memcpy(link->ping, payload, size);
            link->pings++;
        }
        break;
    case FRAME_GOAWAY:
        link->gone = true;
        break;
    default:
        CHECK(type == FRAME_WINDOW_UPDATE || type == FRAME_CONTINUATION);
    }
}

/* Looks at the whole frames that were accepted, and drops them. */
static void link_look(struct link *link)
{
    struct buffer *out = &link->memory.out;
    size_t size = out->size - link->memory.kept;
    size_t at = 0;

    while (size - at >= FRAME_HEAD) {
        size_t payload = frame_u32(out->bytes + at) >> 8;

        if (size - at - FRAME_HEAD < payload)
            break;
        see_frame(link, out->bytes + at, payload);
        at += FRAME_HEAD + payload;
    }
    if (at > 0)
        memmove(out->bytes, out->bytes + at, out->size - at);
    out->size -= at;
}

/* ---- Links ---- */

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct link *link = connection_context(connection);

    CHECK(link->connection == connection && reason < CLOSE_REASON_COUNT);
    link->connection = NULL;
}

void bed_connect(struct bed *bed, struct link *link)
{
    struct connection_ops *ops;
    static struct connection_ops server_ops;

    if (link->begun)
        return;
    server_ops = call_connection_ops;
    server_ops.closed = on_closed;
    ops = &server_ops;
    link->begun = true;
    link->calls = &bed->calls;
    link->next_id = 1;
    memory_init(&link->memory, &bed->world);
    link->memory.release_now = true;
    bed->options.loop = &bed->world.loop;
    bed->options.stats = &bed->stats;
    bed->options.ops = ops;
    bed->options.context = link;
    CHECK(connection_new(&link->connection, &link->memory.transport, "192.0.2.1:1",
                         &bed->options) == 0);
}

void link_deliver(struct link *link, const void *bytes, size_t size, size_t split)
{
    if (link->begun && link->memory.started)
        memory_deliver(&link->memory, bytes, size, split);
}

void link_answer(struct link *link)
{
    struct buffer answer = {0};

    for (; link->settings > 0; link->settings--)
        frame_add(&answer, FRAME_SETTINGS, FLAG_ACK, 0, NULL, 0);
    if (link->pings > 0)
        frame_add(&answer, FRAME_PING, FLAG_ACK, 0, link->ping, sizeof(link->ping));
    link->pings = 0;
    if (link->ungranted > 0)
        frame_add_u32(&answer, FRAME_WINDOW_UPDATE, 0, link->ungranted);
    link->ungranted = 0;
    for (unsigned i = 0; i < BED_STREAMS; i++) {
        struct seen_stream *stream = &link->streams[i];

        if (stream->ungranted > 0 && !stream->ended)
            frame_add_u32(&answer, FRAME_WINDOW_UPDATE, stream->id, stream->ungranted);
        stream->ungranted = 0;
    }
    link_deliver(link, answer.bytes, answer.size, 0);
    buffer_deinit(&answer);
}

uint32_t link_stream(struct link *link, uint8_t which)
{
    uint32_t back = 2 * (uint32_t)which;

    if (which == 0) {
        link->next_id += 2;
        return link->next_id - 2;
    }
    return back < link->next_id ? link->next_id - back : link->next_id;
}

/* ---- The bed ---- */

static uint64_t handled(const struct method_stats *stats)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < WIRE_STATUS_COUNT; i++)
        sum += stats->handled_total[i];
    return sum;
}

static uint64_t unfinished(const struct bed *bed)
{
    uint64_t started = bed->calls.other.started_total;
    uint64_t ended = handled(&bed->calls.other);

    for (unsigned i = 0; i < BED_METHODS; i++) {
        started += bed->methods[i]->stats->started_total;
        ended += handled(bed->methods[i]->stats);
    }
    CHECK(ended <= started);
    return started - ended;
}

static void check_bounds(const struct bed *bed)
{
    const struct call_server *calls = &bed->calls;
    uint64_t longest = MAX(SERVER_MESSAGE_MAX, calls->max_message_bytes);

    CHECK(calls->calls <= calls->max_calls);
    CHECK(calls->calls <= bed->stats.streams);
    CHECK(unfinished(bed) <= calls->calls);
    CHECK(calls->queued_bytes <= calls->calls * (CALL_QUEUE_BYTES_MAX + longest));
    CHECK(calls->input_bytes <=
          calls->max_input_bytes + calls->calls * (CALL_INPUT_BYTES_FREE + 1));
    for (unsigned i = 0; i < BED_LINKS; i++) {
        CHECK(bed->links[i].memory.kept <= KEPT_MAX);
        CHECK(bed->links[i].memory.early_writes == 0);
    }
}

void bed_turn(struct bed *bed)
{
    world_turn(&bed->world);
    for (unsigned i = 0; i < BED_LINKS; i++)
        link_look(&bed->links[i]);
    check_bounds(bed);
}

/* Made once: it reads all descriptors, and keeps nothing of a call. */
static struct reflection_service *reflection(void)
{
    static struct reflection_service *service;

    if (!service)
        CHECK(reflection_service_new(&service, service_names + 1, ELEMENTSOF(service_names) - 1) ==
              0);
    return service;
}

void bed_init(struct bed *bed, const struct stock_options *stock)
{
    const struct method **method = bed->methods;

    world_init(&bed->world);
    CHECK(stock_service_new(&bed->stock, &bed->world.loop, stock) == 0);
    CHECK(health_service_new(&bed->health, service_names, ELEMENTSOF(service_names)) == 0);
    *method++ = stock_service_get_updates(bed->stock);
    for (unsigned i = 0; i < HEALTH_METHODS; i++)
        *method++ = health_service_method(bed->health, i);
    for (unsigned i = 0; i < REFLECTION_METHODS; i++)
        *method++ = reflection_service_method(reflection(), i);
    for (unsigned i = 0; i < BED_OWN_METHODS; i++)
        *method++ = &own_methods[i];
    bed->stats.loop = &bed->world.loop;
    bed->calls.loop = &bed->world.loop;
    bed->calls.methods = (struct method_table){bed->methods, BED_METHODS};
    health_service_set(bed->health, NULL, HEALTH_SERVING);
}

static void link_deinit(struct bed *bed, struct link *link)
{
    if (!link->begun)
        return;
    if (link->connection)
        connection_close(link->connection, CLOSE_SHUTDOWN, NULL);
    for (unsigned i = 0; i < 3 && !link->memory.closed; i++)
        world_turn(&bed->world);
    CHECK(!link->connection);
    memory_deinit(&link->memory);
}

void bed_deinit(struct bed *bed)
{
    for (unsigned i = 0; i < BED_LINKS; i++)
        link_deinit(bed, &bed->links[i]);
    CHECK(bed->calls.calls == 0 && bed->calls.queued_bytes == 0 && bed->calls.input_bytes == 0);
    CHECK(bed->stats.streams == 0 && bed->stats.connections == 0 && bed->stats.unsent_bytes == 0);
    for (unsigned i = 0; i < BLOCKED_REASON_COUNT; i++)
        CHECK(bed->stats.blocked[i] == 0);
    CHECK(unfinished(bed) == 0);
    bed->stock = stock_service_free(bed->stock);
    bed->health = health_service_free(bed->health);
    world_deinit(&bed->world);
}
