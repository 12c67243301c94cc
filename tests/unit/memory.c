/* Memory comes from posix_memalign(), which the tests never let fail: see memory.h. */
#include "memory.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#define KEEPER_MS 5

/* Rounds without a byte moved after which nothing will move by itself any more. */
#define QUIET_TURNS 4

static void *take_memory(size_t size)
{
    void *memory = NULL;

    assert_int_equal(posix_memalign(&memory, 16, MAX(size, (size_t)1)), 0);
    return memory;
}

/* ---- Bytes ---- */

void buffer_append(struct buffer *buffer, const void *bytes, size_t size)
{
    if (buffer->size + size > buffer->capacity) {
        size_t capacity = MAX(2 * buffer->capacity, buffer->size + size + 64);
        uint8_t *grown = take_memory(capacity);

        if (buffer->size > 0)
            memcpy(grown, buffer->bytes, buffer->size);
        free(buffer->bytes);
        buffer->bytes = grown;
        buffer->capacity = capacity;
    }
    if (size > 0)
        memcpy(buffer->bytes + buffer->size, bytes, size);
    buffer->size += size;
}

void buffer_deinit(struct buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct buffer){0};
}

/* ---- The loop ---- */

static void on_keeper(uv_timer_t *timer)
{
    /* That a turn ends is all that it is for. */
}

void world_init(struct world *world)
{
    assert_int_equal(uv_loop_init(&world->uv), 0);
    assert_int_equal(loop_init(&world->loop, &world->uv), 0);
    assert_int_equal(uv_timer_init(&world->uv, &world->keeper), 0);
    assert_int_equal(uv_timer_start(&world->keeper, on_keeper, KEEPER_MS, KEEPER_MS), 0);
}

void world_deinit(struct world *world)
{
    assert_int_equal(wheel_next(&world->loop.wheel), WHEEL_NEVER);
    assert_true(TAILQ_EMPTY(world->loop.filling));
    loop_deinit(&world->loop);
    uv_close((uv_handle_t *)&world->keeper, NULL);
    assert_int_equal(uv_run(&world->uv, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&world->uv), 0);
}

void world_turn(struct world *world)
{
    (void)uv_run(&world->uv, UV_RUN_NOWAIT);
}

void world_sleep(struct world *world)
{
    (void)uv_run(&world->uv, UV_RUN_ONCE);
}

/* ---- The transport ---- */

static struct memory *from_transport(struct transport *transport)
{
    return container_of(transport, struct memory, transport);
}

static int memory_start(struct transport *transport)
{
    struct memory *memory = from_transport(transport);

    assert_false(memory->started || memory->closing);
    if (memory->start_error)
        return memory->start_error;
    memory->started = true;
    return 0;
}

static ssize_t memory_try_write(struct transport *transport, const uint8_t *bytes, size_t size)
{
    struct memory *memory = from_transport(transport);

    assert_false(memory->closing || memory->shut);
    memory->try_writes++;
    if (memory->kept > 0)
        memory->early_writes++;
    if (memory->try_error)
        return memory->try_error;
    size = MIN(size, memory->accept);
    if (memory->accept != SIZE_MAX)
        memory->accept -= size;
    if (!memory->discard)
        buffer_append(&memory->out, bytes, size);
    memory->accepted += size;
    return (ssize_t)size;
}

static int memory_write(struct transport *transport, const uint8_t *bytes, size_t size)
{
    struct memory *memory = from_transport(transport);

    assert_false(memory->closing || memory->shut);
    assert_true(size > 0);
    memory->keeps++;
    if (memory->kept > 0)
        memory->early_writes++;
    if (memory->keep_error)
        return memory->keep_error;
    if (!memory->discard)
        buffer_append(&memory->out, bytes, size);
    memory->kept = size;
    if (memory->release_now)
        loop_queue(memory->loop, &memory->task);
    return 0;
}

static size_t memory_unsent(struct transport *transport)
{
    return from_transport(transport)->unsent;
}

static size_t memory_room(struct transport *transport)
{
    struct memory *memory = from_transport(transport);

    memory->rooms++;
    return memory->room;
}

static void memory_shutdown(struct transport *transport)
{
    struct memory *memory = from_transport(transport);

    assert_false(memory->closing || memory->shut);
    memory->shut = true;
}

static void memory_close(struct transport *transport)
{
    struct memory *memory = from_transport(transport);

    assert_false(memory->closing);
    memory->closing = true;
    loop_queue(memory->loop, &memory->task);
}

static const struct transport_ops memory_ops = {
    .start = memory_start,
    .try_write = memory_try_write,
    .write = memory_write,
    .room = memory_room,
    .unsent = memory_unsent,
    .shutdown = memory_shutdown,
    .close = memory_close,
};

static void memory_run(struct loop_task *task)
{
    struct memory *memory = container_of(task, struct memory, task);

    if (!memory->closing) {
        memory_release(memory, 0);
        return;
    }
    memory->closed = true;
    if (memory->transport.user_ops)
        memory->transport.user_ops->closed(memory->transport.user);
}

void memory_init(struct memory *memory, struct world *world)
{
    *memory = (struct memory){
        .transport.ops = &memory_ops,
        .loop = &world->loop,
        .accept = SIZE_MAX,
        .room = SIZE_MAX,
        .task.run = memory_run,
    };
}

void memory_deinit(struct memory *memory)
{
    assert_true(memory->closed || !memory->transport.user_ops);
    assert_int_equal(memory->early_writes, 0);
    buffer_deinit(&memory->out);
}

void memory_deliver(struct memory *memory, const void *bytes, size_t size, size_t split)
{
    const uint8_t *rest = bytes;

    while (size > 0 && !memory->closing) {
        size_t n = split > 0 ? MIN(split, size) : size;
        /* A block of just this size, so that AddressSanitizer sees who reads on. */
        uint8_t *copy = take_memory(n);

        memcpy(copy, rest, n);
        memory->transport.user_ops->received(memory->transport.user, copy, n);
        free(copy);
        rest += n;
        size -= n;
    }
}

void memory_end(struct memory *memory, int error)
{
    if (!memory->closing)
        memory->transport.user_ops->ended(memory->transport.user, error);
}

void memory_release(struct memory *memory, int error)
{
    assert_true(memory->kept > 0);
    if (memory->closing)
        return;
    if (error == 0)
        memory->accepted += memory->kept;
    else
        memory->out.size -= memory->kept;
    memory->kept = 0;
    memory->transport.user_ops->written(memory->transport.user, error);
}

size_t memory_take(struct memory *memory, const uint8_t **ret_bytes)
{
    size_t size = memory->out.size - memory->kept - memory->taken;

    *ret_bytes = memory->out.bytes + memory->taken;
    memory->taken += size;
    return size;
}

void memory_connect(struct memory *one, struct memory *two)
{
    one->other = two;
    two->other = one;
}

static size_t pump_one_way(struct memory *from, size_t split)
{
    const uint8_t *bytes;
    size_t size = memory_take(from, &bytes);

    memory_deliver(from->other, bytes, size, split);
    return size;
}

size_t memory_pump_pipe(struct memory *one, size_t split)
{
    return pump_one_way(one, split) + pump_one_way(one->other, split);
}

/* ---- The peer ---- */

static struct peer_stream *peer_stream_new(struct peer *peer, int32_t id)
{
    struct peer_stream *stream = take_memory(sizeof(*stream));

    *stream = (struct peer_stream){.id = id};
    LIST_INSERT_HEAD(&peer->streams, stream, link);
    return stream;
}

static struct peer_stream *peer_find(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct peer *peer = user;

    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        (void)nghttp2_session_set_stream_user_data(session, frame->hd.stream_id,
                                                   peer_stream_new(peer, frame->hd.stream_id));
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *user)
{
    struct peer_stream *stream = peer_find(session, frame->hd.stream_id);

    if (!stream)
        return 0;
    buffer_append(&stream->headers, name, name_length);
    buffer_append(&stream->headers, ": ", 2);
    buffer_append(&stream->headers, value, value_length);
    buffer_append(&stream->headers, "\n", 1);
    return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                         size_t size, void *user)
{
    struct peer_stream *stream = peer_find(session, id);

    if (stream)
        buffer_append(&stream->data, bytes, size);
    return 0;
}

static void on_stream_frame(struct peer *peer, const nghttp2_frame *frame)
{
    struct peer_stream *stream = peer_find(peer->session, frame->hd.stream_id);

    if (!stream)
        return;
    if (frame->hd.type == NGHTTP2_HEADERS) {
        buffer_append(&stream->headers, "\n", 1);
        stream->blocks++;
    } else if (frame->hd.type == NGHTTP2_DATA) {
        stream->data_frames++;
    } else if (frame->hd.type == NGHTTP2_RST_STREAM) {
        stream->reset = true;
        stream->reset_code = frame->rst_stream.error_code;
    } else if (frame->hd.type == NGHTTP2_WINDOW_UPDATE) {
        peer->window_updates_stream += (uint64_t)frame->window_update.window_size_increment;
    }
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        stream->ended = true;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST &&
        peer->on_request)
        peer->on_request(peer, stream);
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct peer *peer = user;

    if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK))
        peer->settings++;
    if (frame->hd.type == NGHTTP2_WINDOW_UPDATE && frame->hd.stream_id == 0) {
        peer->window_updates++;
        peer->window_updates_bytes += (uint64_t)frame->window_update.window_size_increment;
    }
    if (frame->hd.stream_id > 0)
        on_stream_frame(peer, frame);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error_code, void *user)
{
    struct peer_stream *stream = peer_find(session, id);

    if (stream) {
        stream->closed = true;
        stream->close_code = error_code;
    }
    return 0;
}

static ssize_t on_upload(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t size,
                         uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct peer_stream *stream = source->ptr;
    size_t n = MIN(size, stream->upload.size - stream->uploaded);

    if (n > 0)
        memcpy(bytes, stream->upload.bytes + stream->uploaded, n);
    stream->uploaded += n;
    if (stream->uploaded < stream->upload.size || !stream->upload_end)
        return n > 0 ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (stream->upload_trailers) {
        nghttp2_nv field = {(uint8_t *)"grpc-status", (uint8_t *)"0", 11, 1, 0};

        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        assert_int_equal(nghttp2_submit_trailer(session, id, &field, 1), 0);
    }
    return (ssize_t)n;
}

void peer_init(struct peer *peer, struct memory *memory, const struct peer_options *options)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;

    *peer = (struct peer){.memory = memory, .hold_pings = options->hold_pings};
    peer->looked = options->server ? NGHTTP2_CLIENT_MAGIC_LEN : 0;
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    assert_int_equal(nghttp2_option_new(&option), 0);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_option_set_no_auto_window_update(option, options->hold_credit);
    /* It would answer none when it has no stream and was told GOAWAY. */
    nghttp2_option_set_no_auto_ping_ack(option, 1);
    /* A test may send what the protocol forbids. */
    nghttp2_option_set_no_http_messaging(option, 1);
    nghttp2_option_set_peer_max_concurrent_streams(option, 1u << 20);
    if (options->server)
        assert_int_equal(nghttp2_session_server_new2(&peer->session, callbacks, peer, option), 0);
    else
        assert_int_equal(nghttp2_session_client_new2(&peer->session, callbacks, peer, option), 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    assert_int_equal(nghttp2_submit_settings(peer->session, NGHTTP2_FLAG_NONE, options->settings,
                                             options->settings_count),
                     0);
}

void peer_deinit(struct peer *peer)
{
    struct peer_stream *stream;

    nghttp2_session_del(peer->session);
    buffer_deinit(&peer->answers);
    while ((stream = LIST_FIRST(&peer->streams))) {
        LIST_REMOVE(stream, link);
        buffer_deinit(&stream->headers);
        buffer_deinit(&stream->data);
        buffer_deinit(&stream->upload);
        free(stream);
    }
}

static void add_field(nghttp2_nv *fields, size_t *count, const char *name, const char *value)
{
    fields[(*count)++] = (nghttp2_nv){
        .name = (uint8_t *)name,
        .value = (uint8_t *)value,
        .namelen = strlen(name),
        .valuelen = strlen(value),
    };
}

struct peer_stream *peer_request(struct peer *peer, const char *path, const struct field *fields,
                                 size_t count, bool open)
{
    const struct field usual[] = {
        {":method", "POST"},     {":scheme", "http"}, {":path", path},
        {":authority", "stock"}, {"te", "trailers"},  {"content-type", "application/grpc"},
    };
    nghttp2_nv nv[256];
    size_t nv_count = 0;
    struct peer_stream *stream = peer_stream_new(peer, 0);
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = on_upload};

    assert_true(count + ELEMENTSOF(usual) <= ELEMENTSOF(nv));
    for (size_t i = 0; i < ELEMENTSOF(usual); i++) {
        bool replaced = false;

        for (size_t k = 0; k < count; k++)
            replaced = replaced || strcmp(fields[k].name, usual[i].name) == 0;
        if (!replaced)
            add_field(nv, &nv_count, usual[i].name, usual[i].value);
        for (size_t k = 0; k < count; k++) {
            if (strcmp(fields[k].name, usual[i].name) == 0 && fields[k].value)
                add_field(nv, &nv_count, fields[k].name, fields[k].value);
        }
    }
    for (size_t k = 0; k < count; k++) {
        bool is_usual = false;

        for (size_t i = 0; i < ELEMENTSOF(usual); i++)
            is_usual = is_usual || strcmp(fields[k].name, usual[i].name) == 0;
        if (!is_usual)
            add_field(nv, &nv_count, fields[k].name, fields[k].value);
    }
    stream->id =
        nghttp2_submit_request(peer->session, NULL, nv, nv_count, open ? &provider : NULL, stream);
    assert_true(stream->id > 0);
    return stream;
}

void peer_upload(struct peer *peer, struct peer_stream *stream, const void *bytes, size_t size,
                 bool end)
{
    buffer_append(&stream->upload, bytes, size);
    stream->upload_end = end;
    /* Fails where the session has not asked yet, and then needs no telling. */
    (void)nghttp2_session_resume_data(peer->session, stream->id);
}

void peer_upload_message(struct peer *peer, struct peer_stream *stream, const void *body,
                         size_t size, bool end)
{
    const uint8_t prefix[5] = {0, (uint8_t)(size >> 24), (uint8_t)(size >> 16),
                               (uint8_t)(size >> 8), (uint8_t)size};

    buffer_append(&stream->upload, prefix, sizeof(prefix));
    peer_upload(peer, stream, body, size, end);
}

void peer_respond(struct peer *peer, struct peer_stream *stream)
{
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = on_upload};
    nghttp2_nv nv[2];
    size_t count = 0;

    add_field(nv, &count, ":status", "200");
    add_field(nv, &count, "content-type", "application/grpc");
    stream->upload_trailers = true;
    assert_int_equal(nghttp2_submit_response(peer->session, stream->id, nv, count, &provider), 0);
}

void peer_reset(struct peer *peer, struct peer_stream *stream, uint32_t error_code)
{
    assert_int_equal(
        nghttp2_submit_rst_stream(peer->session, NGHTTP2_FLAG_NONE, stream->id, error_code), 0);
}

void peer_grant(struct peer *peer, struct peer_stream *stream, int32_t size)
{
    assert_int_equal(nghttp2_submit_window_update(peer->session, NGHTTP2_FLAG_NONE,
                                                  stream ? stream->id : 0, size),
                     0);
}

void peer_ping(struct peer *peer)
{
    assert_int_equal(nghttp2_submit_ping(peer->session, NGHTTP2_FLAG_NONE, NULL), 0);
}

void peer_pong(struct peer *peer)
{
    const uint8_t head[] = {0, 0, 8, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, 0, 0, 0};

    buffer_append(&peer->answers, head, sizeof(head));
    buffer_append(&peer->answers, peer->ping_opaque, sizeof(peer->ping_opaque));
}

void peer_settings(struct peer *peer, int32_t id, uint32_t value)
{
    nghttp2_settings_entry entry = {id, value};

    assert_int_equal(nghttp2_submit_settings(peer->session, NGHTTP2_FLAG_NONE, &entry, 1), 0);
}

const char *peer_field(const struct peer_stream *stream, const char *name)
{
    static char value[4][16384];
    static unsigned turn;
    const char *text = (const char *)stream->headers.bytes;
    const char *end = text + stream->headers.size;
    char *found = NULL;
    size_t length = strlen(name);

    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));

        if ((size_t)(stop - text) >= length + 2 && memcmp(text, name, length) == 0 &&
            memcmp(text + length, ": ", 2) == 0) {
            if (!found)
                found = value[turn++ % ELEMENTSOF(value)];
            assert_true((size_t)(stop - text) < sizeof(value[0]));
            memcpy(found, text + length + 2, (size_t)(stop - text) - length - 2);
            found[(size_t)(stop - text) - length - 2] = 0;
        }
        text = stop + 1;
    }
    return found;
}

void peer_produce(struct peer *peer, struct buffer *ret_bytes)
{
    const uint8_t *bytes;
    ssize_t size;

    while ((size = nghttp2_session_mem_send(peer->session, &bytes)) > 0)
        buffer_append(ret_bytes, bytes, (size_t)size);
    assert_int_equal(size, 0);
    buffer_append(ret_bytes, peer->answers.bytes, peer->answers.size);
    peer->answers.size = 0;
}

static uint32_t read_be32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void on_raw_frame(struct peer *peer, uint8_t type, uint8_t flags, const uint8_t *payload,
                         size_t size)
{
    if (type == NGHTTP2_GOAWAY && size >= 8) {
        peer->goaways++;
        peer->goaway_last = (int32_t)read_be32(payload);
        peer->goaway_code = read_be32(payload + 4);
        (void)snprintf(peer->goaway_debug, sizeof(peer->goaway_debug), "%.*s", (int)(size - 8),
                       (const char *)payload + 8);
    } else if (type == NGHTTP2_PING && size == 8 && (flags & NGHTTP2_FLAG_ACK)) {
        peer->pongs++;
    } else if (type == NGHTTP2_PING && size == 8) {
        peer->pings++;
        memcpy(peer->ping_opaque, payload, size);
        if (!peer->hold_pings)
            peer_pong(peer);
    }
}

/* GOAWAY and PING are looked for in the bytes: a session without streams reads nothing any more
 * once it was told GOAWAY. */
static void peer_look(struct peer *peer)
{
    const struct memory *memory = peer->memory;

    while (memory->taken >= peer->looked + 9) {
        const uint8_t *head = memory->out.bytes + peer->looked;
        size_t size = read_be32(head) >> 8;

        if (memory->taken < peer->looked + 9 + size)
            return;
        peer->looked += 9 + size;
        on_raw_frame(peer, head[3], head[4], head + 9, size);
    }
}

size_t peer_pump(struct peer *peer)
{
    struct buffer sent = {0};
    const uint8_t *bytes;
    size_t received = memory_take(peer->memory, &bytes);
    size_t moved;

    if (received > 0 && peer->error == 0) {
        ssize_t n = nghttp2_session_mem_recv(peer->session, bytes, received);

        if (n < 0)
            peer->error = (int)n;
    }
    peer_look(peer);
    peer_produce(peer, &sent);
    moved = received + sent.size;
    if (!peer->memory->closing)
        memory_deliver(peer->memory, sent.bytes, sent.size, peer->split);
    buffer_deinit(&sent);
    return moved;
}

void peer_settle(struct world *world, struct peer *peer)
{
    for (unsigned quiet = 0; quiet < QUIET_TURNS; quiet++) {
        world_turn(world);
        if (peer_pump(peer) > 0)
            quiet = 0;
    }
}
