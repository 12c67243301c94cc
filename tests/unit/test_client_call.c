/*
 * The status of a call, whatever way a server ends it: raw HTTP/2 of a server, byte for byte, goes
 * into a connection without a socket.
 */
#include "client/call.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#include "memory.h"

enum {
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_RST_STREAM = 3,
    FRAME_SETTINGS = 4,
    FRAME_GOAWAY = 7,
    FLAG_END_STREAM = 1,
    FLAG_END_HEADERS = 4,
};

/* ---- A server's bytes ---- */

static void add_frame(struct buffer *buffer, uint8_t type, uint8_t flags, uint8_t stream,
                      const void *payload, size_t size)
{
    const uint8_t head[] = {
        (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, type, flags, 0, 0, 0, stream};

    buffer_append(buffer, head, sizeof(head));
    buffer_append(buffer, payload, size);
}

/* `fields` is "name value\nname value\n…"; each goes as a literal that is not indexed. */
static void add_headers(struct buffer *buffer, const char *fields, bool end)
{
    struct buffer block = {0};

    while (*fields) {
        size_t name = strcspn(fields, " ");
        size_t value = strcspn(fields + name + 1, "\n");
        const uint8_t name_head[] = {0, (uint8_t)name};
        const uint8_t value_head[] = {(uint8_t)value};

        assert_true(name < 127 && value < 127);
        buffer_append(&block, name_head, sizeof(name_head));
        buffer_append(&block, fields, name);
        buffer_append(&block, value_head, sizeof(value_head));
        buffer_append(&block, fields + name + 1, value);
        fields += name + 1 + value + 1;
    }
    add_frame(buffer, FRAME_HEADERS, FLAG_END_HEADERS | (end ? FLAG_END_STREAM : 0), 1, block.bytes,
              block.size);
    buffer_deinit(&block);
}

static void add_reset(struct buffer *buffer, uint8_t code)
{
    const uint8_t payload[] = {0, 0, 0, code};

    add_frame(buffer, FRAME_RST_STREAM, 0, 1, payload, sizeof(payload));
}

/* ---- The client's side ---- */

struct scene {
    struct world world;
    struct memory memory;
    struct stats stats;
    struct connection *connection;
    struct client_call call;
    const struct client_call_request *request;
    struct buffer body; /* what came through `data` of an accepted call */
    bool established;
    bool over;
};

static void on_data(struct stream *stream, const uint8_t *bytes, size_t size)
{
    struct scene *scene = connection_context(stream->connection);

    if (scene->call.accepted && !scene->call.decided)
        buffer_append(&scene->body, bytes, size);
    client_call_consume(&scene->call, size);
}

static void on_close(struct stream *stream, uint32_t error_code, bool local)
{
    struct scene *scene = connection_context(stream->connection);

    assert_false(scene->over);
    client_call_closed(stream, error_code);
    scene->over = true;
}

static void on_established(struct connection *connection)
{
    struct scene *scene = connection_context(connection);

    scene->established = true;
    assert_int_equal(client_call_start(&scene->call, connection, "https", "host.example:1",
                                       scene->request, &scene->stats),
                     0);
}

static void on_closed(struct connection *connection, enum close_reason reason, const char *detail)
{
    struct scene *scene = connection_context(connection);

    scene->connection = NULL;
    client_call_explain_loss(&scene->call, detail ? detail : close_reason_labels[reason]);
}

static const struct connection_ops ops = {
    .header = client_call_header,
    .headers_end = client_call_headers_end,
    .data = on_data,
    .half_close = client_call_half_close,
    .read = client_call_read,
    .close = on_close,
    .accepted = client_call_accepted,
    .count = wire_count_messages,
    .established = on_established,
    .closed = on_closed,
};

/* A connection on which the call has been sent. */
static void scene_begin_with(struct scene *scene, const struct client_call_request *request)
{
    const struct connection_options options = {
        .client = true,
        .loop = &scene->world.loop,
        .stats = &scene->stats.connection,
        .ops = &ops,
        .context = scene,
        .max_header_bytes = 65536,
        .stream_window = 65535,
        .connection_window = 65535,
    };
    struct buffer hello = {0};

    *scene = (struct scene){.request = request};
    world_init(&scene->world);
    memory_init(&scene->memory, &scene->world);
    scene->stats.connection.loop = &scene->world.loop;
    assert_int_equal(connection_new(&scene->connection, &scene->memory.transport, "peer", &options),
                     0);
    world_turn(&scene->world);
    add_frame(&hello, FRAME_SETTINGS, 0, 0, NULL, 0);
    memory_deliver(&scene->memory, hello.bytes, hello.size, 0);
    buffer_deinit(&hello);
    world_turn(&scene->world);
    assert_true(scene->established);
    assert_int_equal(scene->stats.msg_sent_total, 1);
}

static void scene_begin(struct scene *scene)
{
    scene_begin_with(scene, &client_call_get_updates);
}

static void scene_end(struct scene *scene)
{
    if (scene->connection)
        connection_close(scene->connection, CLOSE_LOCAL, NULL);
    while (scene->connection)
        world_turn(&scene->world);
    assert_true(scene->over);
    memory_deinit(&scene->memory);
    world_deinit(&scene->world);
    buffer_deinit(&scene->body);
}

/* ---- Tests ---- */

#define OK_HEADERS ":status 200\ncontent-type application/grpc\n"

struct answer {
    const char *headers;
    bool headers_end;
    const char *body; /* NULL: none */
    bool body_end;
    const char *trailers; /* NULL: none */
    int reset;            /* negative: none */
    enum wire_status status;
    const char *text; /* a part of it */
};

static void make_answer(struct buffer *buffer, const struct answer *answer)
{
    if (answer->headers)
        add_headers(buffer, answer->headers, answer->headers_end);
    if (answer->body)
        add_frame(buffer, FRAME_DATA, answer->body_end ? FLAG_END_STREAM : 0, 1, answer->body,
                  strlen(answer->body));
    if (answer->trailers)
        add_headers(buffer, answer->trailers, true);
    if (answer->reset >= 0)
        add_reset(buffer, (uint8_t)answer->reset);
}

static const struct answer answers[] = {
    {OK_HEADERS, false, "body", false, "grpc-status 0\n", -1, WIRE_OK, ""},
    {OK_HEADERS, false, NULL, false, "grpc-status 0\n", -1, WIRE_OK, ""},
    {OK_HEADERS, false, "body", false, "grpc-status 10\ngrpc-message a%20b%25%\n", -1, WIRE_ABORTED,
     "a b%%"},
    {OK_HEADERS, false, NULL, false, "grpc-status 99\n", -1, WIRE_UNKNOWN, ""},
    {OK_HEADERS, false, NULL, false, "grpc-status x\n", -1, WIRE_UNKNOWN, ""},
    {OK_HEADERS, false, "body", false, "other 1\n", -1, WIRE_UNKNOWN, "no grpc-status"},
    {OK_HEADERS, false, "body", true, NULL, -1, WIRE_INTERNAL, "no trailers"},
    /* The grpc-status of response headers means nothing: only that of trailers does. */
    {OK_HEADERS "grpc-status 5\n", false, "body", false, "grpc-status 0\n", -1, WIRE_OK, ""},

    /* Trailers-Only. */
    {OK_HEADERS "grpc-status 16\ngrpc-message who%3F\n", true, NULL, false, NULL, -1,
     WIRE_UNAUTHENTICATED, "who?"},
    {":status 200\ngrpc-status 7\n", true, NULL, false, NULL, -1, WIRE_PERMISSION_DENIED, ""},
    {":status 503\ngrpc-status 8\n", true, NULL, false, NULL, -1, WIRE_RESOURCE_EXHAUSTED, ""},
    {OK_HEADERS, true, NULL, false, NULL, -1, WIRE_UNKNOWN, "no grpc-status"},

    /* No gRPC: the HTTP status decides. */
    {":status 400\n", true, NULL, false, NULL, -1, WIRE_INTERNAL, "HTTP status 400"},
    {":status 401\ncontent-type text/html\n", false, "<html>", true, NULL, -1, WIRE_UNAUTHENTICATED,
     "HTTP status 401"},
    {":status 403\n", true, NULL, false, NULL, -1, WIRE_PERMISSION_DENIED, "403"},
    {":status 404\n", true, NULL, false, NULL, -1, WIRE_UNIMPLEMENTED, "404"},
    {":status 429\n", true, NULL, false, NULL, -1, WIRE_UNAVAILABLE, "429"},
    {":status 502\n", true, NULL, false, NULL, -1, WIRE_UNAVAILABLE, "502"},
    {":status 503\n", false, "busy", false, NULL, -1, WIRE_UNAVAILABLE, "503"},
    {":status 504\n", true, NULL, false, NULL, -1, WIRE_UNAVAILABLE, "504"},
    {":status 500\n", true, NULL, false, NULL, -1, WIRE_UNKNOWN, "500"},
    {":status 200\ncontent-type text/html\n", false, "<html>", true, NULL, -1, WIRE_UNKNOWN,
     "content type"},
    {":status 200\n", false, "x", true, NULL, -1, WIRE_UNKNOWN, "content type"},

    /* Resets. */
    {NULL, false, NULL, false, NULL, 7, WIRE_UNAVAILABLE, "error 7"},
    {OK_HEADERS, false, "body", false, NULL, 8, WIRE_CANCELLED, "error 8"},
    {OK_HEADERS, false, NULL, false, NULL, 11, WIRE_RESOURCE_EXHAUSTED, "error 11"},
    {OK_HEADERS, false, NULL, false, NULL, 12, WIRE_PERMISSION_DENIED, "error 12"},
    {OK_HEADERS, false, NULL, false, NULL, 2, WIRE_INTERNAL, "error 2"},
    {OK_HEADERS, false, NULL, false, NULL, 0, WIRE_INTERNAL, "error 0"},
};

static void check_answer(const struct answer *answer, size_t split)
{
    struct buffer bytes = {0};
    struct scene scene;

    scene_begin(&scene);
    make_answer(&bytes, answer);
    memory_deliver(&scene.memory, bytes.bytes, bytes.size, split);
    world_turn(&scene.world);
    assert_true(scene.over);
    if (scene.call.status != answer->status || !strstr(scene.call.text, answer->text))
        fail_msg("answer %td: %s \"%s\"", answer - answers, wire_status_name(scene.call.status),
                 scene.call.text);
    scene_end(&scene);
    buffer_deinit(&bytes);
}

static void every_end_has_its_status(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(answers); i++) {
        check_answer(&answers[i], 0);
        check_answer(&answers[i], 1);
    }
}

static void informational_headers_are_passed_over(void **state)
{
    struct buffer bytes = {0};
    struct scene scene;

    scene_begin(&scene);
    add_headers(&bytes, ":status 103\nlink x\n", false);
    add_headers(&bytes, OK_HEADERS, false);
    add_frame(&bytes, FRAME_DATA, 0, 1, "body", 4);
    add_headers(&bytes, "grpc-status 0\n", true);
    memory_deliver(&scene.memory, bytes.bytes, bytes.size, 0);
    world_turn(&scene.world);
    assert_true(scene.over);
    assert_int_equal(scene.call.status, WIRE_OK);
    assert_int_equal(scene.body.size, 4);
    scene_end(&scene);
    buffer_deinit(&bytes);
}

static void lost_connection_is_unavailable(void **state)
{
    struct buffer bytes = {0};
    struct scene scene;

    scene_begin(&scene);
    add_headers(&bytes, OK_HEADERS, false);
    memory_deliver(&scene.memory, bytes.bytes, bytes.size, 0);
    memory_end(&scene.memory, -ECONNRESET);
    while (scene.connection)
        world_turn(&scene.world);
    assert_int_equal(scene.call.status, WIRE_UNAVAILABLE);
    assert_string_equal(scene.call.text, "the connection was lost: connection reset by peer");
    scene_end(&scene);
    buffer_deinit(&bytes);
}

/* The trailers have spoken: that the connection goes afterwards changes nothing. */
static void first_verdict_stands(void **state)
{
    struct buffer bytes = {0};
    struct scene scene;

    scene_begin(&scene);
    add_headers(&bytes, OK_HEADERS, false);
    add_headers(&bytes, "grpc-status 9\ngrpc-message first\n", true);
    memory_deliver(&scene.memory, bytes.bytes, bytes.size, 0);
    memory_end(&scene.memory, -ECONNRESET);
    while (scene.connection)
        world_turn(&scene.world);
    client_call_decide(&scene.call, WIRE_INTERNAL, "later");
    assert_int_equal(scene.call.status, WIRE_FAILED_PRECONDITION);
    assert_string_equal(scene.call.text, "first");
    scene_end(&scene);
    buffer_deinit(&bytes);
}

static void cancelling_resets_the_stream(void **state)
{
    static const uint8_t reset[] = {0, 0, 4, FRAME_RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, 8};
    const uint8_t *sent;
    struct scene scene;
    size_t size;

    scene_begin(&scene);
    (void)memory_take(&scene.memory, &sent);
    client_call_cancel(&scene.call);
    world_turn(&scene.world);
    size = memory_take(&scene.memory, &sent);
    assert_non_null(memmem(sent, size, reset, sizeof(reset)));
    assert_true(scene.over);
    assert_int_equal(scene.call.status, WIRE_CANCELLED);
    scene_end(&scene);
}

/* The request: its headers, then an empty message and END_STREAM in one DATA frame. */
static void request_is_whole(void **state)
{
    static const uint8_t data[] = {0, 0, 5, FRAME_DATA, FLAG_END_STREAM, 0, 0, 0, 1, 0, 0, 0, 0, 0};
    struct peer_options options = {.server = true};
    struct peer peer;
    struct scene scene;
    struct peer_stream *stream;
    const struct {
        const char *name, *value;
    } fields[] = {
        {":method", "POST"},
        {":scheme", "https"},
        {":path", "/stockservice.StockService/GetUpdates"},
        {":authority", "host.example:1"},
        {"te", "trailers"},
        {"content-type", "application/grpc"},
        {"user-agent", "stock-client/" STOCKD_VERSION},
    };

    scene_begin(&scene);
    assert_non_null(memmem(scene.memory.out.bytes, scene.memory.out.size, data, sizeof(data)));
    peer_init(&peer, &scene.memory, &options);
    peer_settle(&scene.world, &peer);
    stream = LIST_FIRST(&peer.streams);
    assert_non_null(stream);
    for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
        const char *value = peer_field(stream, fields[i].name);

        assert_non_null(value);
        assert_string_equal(value, fields[i].value);
    }
    assert_true(stream->ended);
    assert_int_equal(stream->data.size, WIRE_PREFIX_SIZE);
    scene_end(&scene);
    peer_deinit(&peer);
}

/* One that names many tickers takes more than a frame. */
static void long_request_is_whole(void **state)
{
    static uint8_t bytes[WIRE_PREFIX_SIZE + 40000];
    struct client_call_request request = client_call_get_updates;
    struct peer_options options = {.server = true};
    struct peer peer;
    struct scene scene;
    struct peer_stream *stream;

    wire_prefix_write(bytes, sizeof(bytes) - WIRE_PREFIX_SIZE);
    request.bytes = bytes;
    request.size = sizeof(bytes);
    scene_begin_with(&scene, &request);
    peer_init(&peer, &scene.memory, &options);
    peer_settle(&scene.world, &peer);
    stream = LIST_FIRST(&peer.streams);
    assert_non_null(stream);
    assert_true(stream->ended);
    assert_int_equal(stream->data.size, sizeof(bytes));
    scene_end(&scene);
    peer_deinit(&peer);
}

static void long_texts_are_cut(void **state)
{
    char fields[4 * CALL_TEXT_MAX];
    size_t used = (size_t)snprintf(fields, sizeof(fields), OK_HEADERS "grpc-status 2\n");
    struct header header = {"grpc-message", strlen("grpc-message"), fields, 3 * CALL_TEXT_MAX};
    struct scene scene;

    scene_begin(&scene);
    memset(fields + used, 'm', sizeof(fields) - used);
    assert_int_equal(client_call_header(&scene.call.stream, &header), 0);
    assert_int_equal(strlen(scene.call.grpc_message), CALL_TEXT_MAX - 1);
    client_call_cancel(&scene.call);
    scene_end(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_is_whole),
        cmocka_unit_test(long_request_is_whole),
        cmocka_unit_test(every_end_has_its_status),
        cmocka_unit_test(informational_headers_are_passed_over),
        cmocka_unit_test(lost_connection_is_unavailable),
        cmocka_unit_test(first_verdict_stands),
        cmocka_unit_test(cancelling_resets_the_stream),
        cmocka_unit_test(long_texts_are_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
