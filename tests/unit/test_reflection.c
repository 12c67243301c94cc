/*
 * Reflection over a connection in memory, with the embedded descriptor set and with one of
 * described/, where files import and extend each other.
 */
#include "services/reflection_private.h"

#include "base/util.h"
#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "memory.h"
#include "proto/descriptor_set.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PATH "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
#define PATH_ALPHA "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

/* The cases of the protocol's two choices, whose names are as long as a line. */
#define ASK(kind) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##kind
#define ANSWER(kind) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##kind

#define REQUEST_SIZE_MAX 4096
#define ANSWERS_MAX 64

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;
typedef Google__Protobuf__FileDescriptorProto FileProto;

static const char *const usual_services[] = {
    "stockservice.StockService",
    "grpc.reflection.v1.ServerReflection",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
};

static const char *const far_services[] = {"far.top.Tower", "Lonely"};

struct bed {
    struct call_server *calls; /* first, as call_connection_ops wants it */
    struct call_server server;
    struct reflection_service *service;
    const struct method *methods[REFLECTION_METHODS];
    struct world world;
    struct memory memory;
    struct peer peer;
    struct connection *connection;
    struct connection_stats stats;
    struct peer_stream *stream; /* one call, open */
    Response *answers[ANSWERS_MAX];
    size_t answer_count;
    size_t read; /* bytes of its data, of whole answers */
};

/* The set of described/. */
static size_t read_far_set(uint8_t *bytes, size_t size)
{
    FILE *file = fopen(DESCRIBED_SET, "rb");
    size_t n;

    assert_non_null(file);
    n = fread(bytes, 1, size, file);
    assert_in_range(n, 100, size - 1);
    assert_int_equal(fclose(file), 0);
    return n;
}

static void bed_init_peer(struct bed *bed, const struct peer_options *peer)
{
    struct connection_options connection = {
        .max_streams = 10000,
        .max_header_bytes = 8192,
        .stream_window = 65535,
        .connection_window = 65535,
        .ops = &call_connection_ops,
        .context = bed,
        .stats = &bed->stats,
        .loop = &bed->world.loop,
    };

    world_init(&bed->world);
    memory_init(&bed->memory, &bed->world);
    for (unsigned i = 0; i < REFLECTION_METHODS; i++)
        bed->methods[i] = reflection_service_method(bed->service, i);
    bed->stats.loop = &bed->world.loop;
    bed->server = (struct call_server){
        .loop = &bed->world.loop,
        .methods = {bed->methods, REFLECTION_METHODS},
        .max_message_bytes = 1000000,
        .max_input_bytes = UINT64_C(64) << 20,
        .max_calls = 100000,
    };
    assert_int_equal(connection_new(&bed->connection, &bed->memory.transport, "peer", &connection),
                     0);
    peer_init(&bed->peer, &bed->memory, peer);
    bed->stream = peer_request(&bed->peer, PATH, NULL, 0, true);
}

static void bed_init(struct bed *bed)
{
    const struct peer_options peer = {0};

    *bed = (struct bed){.calls = &bed->server};
    assert_int_equal(
        reflection_service_new(&bed->service, usual_services, ELEMENTSOF(usual_services)), 0);
    bed_init_peer(bed, &peer);
}

static void bed_init_far(struct bed *bed)
{
    const struct peer_options peer = {0};
    uint8_t set[16384];
    size_t size = read_far_set(set, sizeof(set));

    *bed = (struct bed){.calls = &bed->server};
    assert_int_equal(reflection_service_new_with(&bed->service, set, size, far_services,
                                                 ELEMENTSOF(far_services)),
                     0);
    memset(set, 0xFF, sizeof(set)); /* it was borrowed for the call only */
    bed_init_peer(bed, &peer);
}

static void bed_deinit(struct bed *bed)
{
    for (size_t i = 0; i < bed->answer_count; i++)
        grpc__reflection__v1__server_reflection_response__free_unpacked(bed->answers[i], NULL);
    connection_close(bed->connection, CLOSE_LOCAL, NULL);
    world_turn(&bed->world);
    world_turn(&bed->world);
    assert_true(bed->memory.closed);
    assert_int_equal(bed->server.calls, 0);
    assert_int_equal(bed->server.queued_bytes, 0);
    assert_null(reflection_service_free(bed->service));
    peer_deinit(&bed->peer);
    memory_deinit(&bed->memory);
    world_deinit(&bed->world);
}

static void settle(struct bed *bed)
{
    peer_settle(&bed->world, &bed->peer);
}

static void send_request(struct bed *bed, const Request *request)
{
    uint8_t body[2 * REQUEST_SIZE_MAX];

    assert_true(grpc__reflection__v1__server_reflection_request__get_packed_size(request) <=
                sizeof(body));
    peer_upload_message(&bed->peer, bed->stream, body,
                        grpc__reflection__v1__server_reflection_request__pack(request, body),
                        false);
}

/* Reads the whole answers that have come; their number so far. */
static size_t take_answers(struct bed *bed)
{
    const struct buffer *data = &bed->stream->data;

    while (data->size - bed->read >= WIRE_PREFIX_SIZE) {
        const uint8_t *bytes = data->bytes + bed->read;
        uint32_t length = wire_prefix_length(bytes);
        Response *answer;

        if (data->size - bed->read - WIRE_PREFIX_SIZE < length)
            break;
        answer = grpc__reflection__v1__server_reflection_response__unpack(NULL, length,
                                                                          bytes + WIRE_PREFIX_SIZE);
        assert_non_null(answer);
        assert_true(bed->answer_count < ANSWERS_MAX);
        bed->answers[bed->answer_count++] = answer;
        bed->read += WIRE_PREFIX_SIZE + length;
    }
    return bed->answer_count;
}

/* The one answer to a question; the call goes on. */
static const Response *ask_request(struct bed *bed, const Request *request)
{
    size_t before = bed->answer_count;

    send_request(bed, request);
    settle(bed);
    assert_int_equal(take_answers(bed), before + 1);
    assert_int_equal(bed->read, bed->stream->data.size);
    assert_false(bed->stream->ended);
    return bed->answers[before];
}

static Request question(Grpc__Reflection__V1__ServerReflectionRequest__MessageRequestCase kind,
                        const char *text)
{
    Request request = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;

    request.message_request_case = kind;
    request.list_services = (char *)text; /* a union of strings */
    return request;
}

static const Response *ask(struct bed *bed,
                           Grpc__Reflection__V1__ServerReflectionRequest__MessageRequestCase kind,
                           const char *text)
{
    Request request = question(kind, text);

    return ask_request(bed, &request);
}

static const Response *ask_symbol(struct bed *bed, const char *name)
{
    return ask(bed, ASK(FILE_CONTAINING_SYMBOL), name);
}

static const Response *ask_extension(struct bed *bed, const char *type, int32_t number)
{
    Grpc__Reflection__V1__ExtensionRequest extension =
        GRPC__REFLECTION__V1__EXTENSION_REQUEST__INIT;
    Request request = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;

    extension.containing_type = (char *)type;
    extension.extension_number = number;
    request.message_request_case = ASK(FILE_CONTAINING_EXTENSION);
    request.file_containing_extension = &extension;
    return ask_request(bed, &request);
}

static void assert_not_found(const Response *answer)
{
    assert_int_equal(answer->message_response_case, ANSWER(ERROR_RESPONSE));
    assert_int_equal(answer->error_response->error_code, WIRE_NOT_FOUND);
    assert_true(strlen(answer->error_response->error_message) > 0);
}

/* The names of the files in an answer, with a blank after each. Borrowed until the next call. */
static const char *files(const Response *answer)
{
    static char text[500];
    size_t length = 0;

    assert_int_equal(answer->message_response_case, ANSWER(FILE_DESCRIPTOR_RESPONSE));
    text[0] = '\0';
    for (size_t i = 0; i < answer->file_descriptor_response->n_file_descriptor_proto; i++) {
        const ProtobufCBinaryData *bytes =
            &answer->file_descriptor_response->file_descriptor_proto[i];
        FileProto *file =
            google__protobuf__file_descriptor_proto__unpack(NULL, bytes->len, bytes->data);

        assert_non_null(file);
        length += (size_t)snprintf(text + length, sizeof(text) - length, "%s ", file->name);
        assert_true(length < sizeof(text));
        google__protobuf__file_descriptor_proto__free_unpacked(file, NULL);
    }
    return text;
}

/* ---- With what is embedded ---- */

static void test_list_services(void **state)
{
    struct bed bed;
    const Response *answer;

    bed_init(&bed);
    answer = ask(&bed, ASK(LIST_SERVICES), "*");
    assert_int_equal(answer->message_response_case, ANSWER(LIST_SERVICES_RESPONSE));
    assert_int_equal(answer->list_services_response->n_service, ELEMENTSOF(usual_services));
    for (size_t i = 0; i < ELEMENTSOF(usual_services); i++)
        assert_string_equal(answer->list_services_response->service[i]->name, usual_services[i]);
    /* Its text does not matter, nor that there is none. */
    answer = ask(&bed, ASK(LIST_SERVICES), "");
    assert_int_equal(answer->list_services_response->n_service, ELEMENTSOF(usual_services));
    bed_deinit(&bed);
}

static void test_embedded_files(void **state)
{
    static const char *const pairs[][2] = {
        {"stockservice.StockService", "stockservice.proto "},
        {"stockservice.StockService.GetUpdates", "stockservice.proto "},
        {"stockservice.EmptyRequest", "stockservice.proto "},
        {"stockservice.StockUpdate", "stockservice.proto "},
        {"stockservice.StockUpdate.marketCap", "stockservice.proto "},
        {"grpc.health.v1.Health", "grpc/health/v1/health.proto "},
        {"grpc.health.v1.Health.List", "grpc/health/v1/health.proto "},
        {"grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto "},
        {"grpc.health.v1.HealthCheckResponse.NOT_SERVING", "grpc/health/v1/health.proto "},
        {"grpc.health.v1.HealthListResponse.StatusesEntry", "grpc/health/v1/health.proto "},
        {"grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto "},
        {"grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto "},
        {"grpc.reflection.v1.ServerReflectionRequest.message_request",
         "grpc/reflection/v1/reflection.proto "},
    };
    struct bed bed;

    bed_init(&bed);
    for (size_t i = 0; i < ELEMENTSOF(pairs); i++) {
        char name[100];

        assert_string_equal(files(ask_symbol(&bed, pairs[i][0])), pairs[i][1]);
        (void)snprintf(name, sizeof(name), "%.*s", (int)strlen(pairs[i][1]) - 1, pairs[i][1]);
        assert_string_equal(files(ask(&bed, ASK(FILE_BY_FILENAME), name)), pairs[i][1]);
    }
    bed_deinit(&bed);
}

/* What is sent is the file as it was compiled, comments included. */
static void test_embedded_bytes(void **state)
{
    Google__Protobuf__FileDescriptorSet *set =
        google__protobuf__file_descriptor_set__unpack(NULL, descriptor_set_size, descriptor_set);
    struct bed bed;

    assert_non_null(set);
    assert_int_equal(set->n_file, 4);
    bed_init(&bed);
    for (size_t i = 0; i < set->n_file; i++) {
        const Response *answer = ask(&bed, ASK(FILE_BY_FILENAME), set->file[i]->name);
        uint8_t packed[16384];
        size_t size = google__protobuf__file_descriptor_proto__get_packed_size(set->file[i]);

        assert_true(size <= sizeof(packed));
        google__protobuf__file_descriptor_proto__pack(set->file[i], packed);
        assert_string_equal(set->file[i]->syntax, "proto3");
        assert_non_null(set->file[i]->source_code_info);
        assert_int_equal(answer->file_descriptor_response->n_file_descriptor_proto, 1);
        assert_int_equal(answer->file_descriptor_response->file_descriptor_proto[0].len, size);
        assert_memory_equal(answer->file_descriptor_response->file_descriptor_proto[0].data, packed,
                            size);
    }
    google__protobuf__file_descriptor_set__free_unpacked(set, NULL);
    bed_deinit(&bed);
}

static void test_not_found(void **state)
{
    static const char *const symbols[] = {
        "",
        ".",
        "stockservice",
        "StockService",
        ".stockservice.StockService",
        "stockservice.StockService.",
        "stockservice.StockService/GetUpdates",
        "/stockservice.StockService/GetUpdates",
        "stockservice.StockService.getUpdates",
        "stockservice.StockUpdate.marketcap",
        "grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING", /* beside the enum, not in it */
    };
    static const char *const names[] = {"", "/stockservice.proto", "health.proto", "stockservice"};
    struct bed bed;

    bed_init(&bed);
    for (size_t i = 0; i < ELEMENTSOF(symbols); i++)
        assert_not_found(ask_symbol(&bed, symbols[i]));
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        assert_not_found(ask(&bed, ASK(FILE_BY_FILENAME), names[i]));
    assert_not_found(ask_extension(&bed, "stockservice.StockUpdate", 1));
    assert_not_found(ask_extension(&bed, "no.Message", 1));
    assert_not_found(ask(&bed, ASK(ALL_EXTENSION_NUMBERS_OF_TYPE), "no.Message"));
    assert_not_found(ask(&bed, ASK(ALL_EXTENSION_NUMBERS_OF_TYPE), "stockservice.StockService"));
    /* The call goes on. */
    assert_string_equal(files(ask_symbol(&bed, "stockservice.StockService")),
                        "stockservice.proto ");
    bed_deinit(&bed);
}

static void test_host_and_request_come_back(void **state)
{
    Request request = question(ASK(FILE_BY_FILENAME), "no.proto");
    const Response *answer;
    struct bed bed;

    bed_init(&bed);
    request.host = (char *)"h\xC3\xB6st.example:50051";
    answer = ask_request(&bed, &request);
    assert_not_found(answer);
    assert_string_equal(answer->valid_host, request.host);
    assert_string_equal(answer->original_request->host, request.host);
    assert_int_equal(answer->original_request->message_request_case, ASK(FILE_BY_FILENAME));
    assert_string_equal(answer->original_request->file_by_filename, "no.proto");
    answer = ask(&bed, ASK(LIST_SERVICES), "x");
    assert_string_equal(answer->valid_host, "");
    assert_string_equal(answer->original_request->list_services, "x");
    bed_deinit(&bed);
}

static void test_half_close(void **state)
{
    Request request = question(ASK(LIST_SERVICES), "");
    struct bed bed;

    bed_init(&bed);
    send_request(&bed, &request);
    send_request(&bed, &request);
    peer_upload(&bed.peer, bed.stream, "", 0, true);
    settle(&bed);
    assert_int_equal(take_answers(&bed), 2);
    assert_true(bed.stream->ended);
    assert_string_equal(peer_field(bed.stream, "grpc-status"), "0");
    assert_int_equal(bed.server.calls, 0);
    bed_deinit(&bed);
}

static void test_half_close_without_a_question(void **state)
{
    struct bed bed;

    bed_init(&bed);
    peer_upload(&bed.peer, bed.stream, "", 0, true);
    settle(&bed);
    assert_true(bed.stream->ended);
    assert_int_equal(bed.stream->data.size, 0);
    assert_string_equal(peer_field(bed.stream, "grpc-status"), "0");
    bed_deinit(&bed);
}

/* A request that ends the call, after one that was answered. */
static void assert_ends(const void *body, size_t size, const char *status)
{
    struct bed bed;

    bed_init(&bed);
    (void)ask(&bed, ASK(LIST_SERVICES), "");
    peer_upload_message(&bed.peer, bed.stream, body, size, false);
    settle(&bed);
    assert_true(bed.stream->ended);
    assert_int_equal(take_answers(&bed), 1);
    assert_string_equal(peer_field(bed.stream, "grpc-status"), status);
    assert_int_equal(bed.server.calls, 0);
    bed_deinit(&bed);
}

static void test_requests_that_end_the_call(void **state)
{
    uint8_t body[2 * REQUEST_SIZE_MAX];
    char name[REQUEST_SIZE_MAX + 1] = {0};
    Request request = question(ASK(FILE_BY_FILENAME), name);
    struct bed bed;

    assert_ends("", 0, "3");               /* asks nothing */
    assert_ends("\x0a\x01h", 3, "3");      /* a host alone */
    assert_ends("\x7a\x01h", 3, "3");      /* a question that is not known: field 15 */
    assert_ends("\x22\xff", 2, "13");      /* no protobuf */
    assert_ends("\x22\x02\xC3(", 4, "13"); /* no UTF-8: in a question, */
    assert_ends("\x0a\x01\xFF\x3a", 4, "13");
    assert_ends("\x0a\x01\xFF\x3a\x00", 5, "13"); /* in the host, */
    assert_ends("\x2a\x03\x0a\x01\x80", 5, "13"); /* and in an extension's type */

    /* As long as may be, and longer. */
    memset(name, 'a', sizeof(name) - 1);
    request.file_by_filename = name + sizeof(name) - 1 - (REQUEST_SIZE_MAX - 3);
    assert_int_equal(grpc__reflection__v1__server_reflection_request__get_packed_size(&request),
                     REQUEST_SIZE_MAX);
    bed_init(&bed);
    assert_not_found(ask_request(&bed, &request));
    bed_deinit(&bed);
    request.file_by_filename--;
    assert_ends(body, grpc__reflection__v1__server_reflection_request__pack(&request, body), "8");
}

static void test_both_versions(void **state)
{
    struct bed bed;

    bed_init(&bed);
    for (unsigned i = 0; i < REFLECTION_METHODS; i++) {
        const struct method *method = reflection_service_method(bed.service, i);

        assert_string_equal(method->service, i == 0 ? "grpc.reflection.v1.ServerReflection"
                                                    : "grpc.reflection.v1alpha.ServerReflection");
        assert_string_equal(method->name, "ServerReflectionInfo");
        assert_int_equal(method->type, METHOD_BIDI_STREAM);
    }
    (void)ask(&bed, ASK(LIST_SERVICES), "");
    bed.stream = peer_request(&bed.peer, PATH_ALPHA, NULL, 0, true);
    bed.read = 0;
    (void)ask(&bed, ASK(LIST_SERVICES), "");
    assert_string_equal(files(ask_symbol(&bed, "grpc.reflection.v1alpha.ErrorResponse")),
                        "grpc/reflection/v1alpha/reflection.proto ");
    assert_int_equal(reflection_service_method(bed.service, 0)->stats->sent_total, 1);
    assert_int_equal(reflection_service_method(bed.service, 1)->stats->sent_total, 2);
    bed_deinit(&bed);
}

/*
 * Whoever asks and takes no answer is not read on: its queue is not much longer than it may be, and
 * with window all its answers come, in order.
 */
static void test_answers_wait_for_room(void **state)
{
    const nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 100};
    const struct peer_options peer = {
        .hold_credit = true, .settings = &settings, .settings_count = 1};
    const unsigned count = ANSWERS_MAX;
    struct bed bed = {.calls = &bed.server};
    uint64_t received;

    assert_int_equal(
        reflection_service_new(&bed.service, usual_services, ELEMENTSOF(usual_services)), 0);
    bed_init_peer(&bed, &peer);
    settle(&bed);
    for (unsigned i = 0; i < count; i++) {
        char name[32];
        Request request = question(ASK(FILE_BY_FILENAME), "grpc/reflection/v1/reflection.proto");

        (void)snprintf(name, sizeof(name), "%u", i);
        request.host = name;
        send_request(&bed, &request);
        settle(&bed);
        /* The longest answer, and one file is less than 8 KiB. */
        assert_in_range(bed.server.queued_bytes, 1, CALL_QUEUE_BYTES_MAX + 8192);
    }
    received = bed.methods[0]->stats->received_total;
    assert_in_range(received, 8, count - 1); /* the others wait */
    assert_int_equal(bed.stream->data.size, 100);
    for (unsigned n = 0; take_answers(&bed) < count; n++) {
        assert_in_range(n, 0, 1000);
        peer_grant(&bed.peer, NULL, 10000);
        peer_grant(&bed.peer, bed.stream, 10000);
        settle(&bed);
        assert_in_range(bed.server.queued_bytes, 0, CALL_QUEUE_BYTES_MAX + 8192);
    }
    for (unsigned i = 0; i < count; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "%u", i);
        assert_string_equal(bed.answers[i]->valid_host, name);
        assert_string_equal(files(bed.answers[i]), "grpc/reflection/v1/reflection.proto ");
    }
    bed_deinit(&bed);
}

/* ---- With files that need each other ---- */

static void test_imports_come_once(void **state)
{
    struct bed bed;

    bed_init_far(&bed);
    assert_string_equal(files(ask_symbol(&bed, "far.base.Extendable")), "base.proto ");
    /* What was asked for, and of its imports, and theirs, those that have not come. */
    assert_string_equal(files(ask_symbol(&bed, "far.top.Tower.Climb")), "top.proto middle.proto ");
    assert_string_equal(files(ask(&bed, ASK(FILE_BY_FILENAME), "top.proto")), "top.proto ");
    assert_string_equal(files(ask(&bed, ASK(FILE_BY_FILENAME), "base.proto")), "base.proto ");
    /* Another call knows nothing of this one. */
    bed.stream = peer_request(&bed.peer, PATH, NULL, 0, true);
    bed.read = 0;
    assert_string_equal(files(ask_symbol(&bed, "far.top.Level")),
                        "top.proto middle.proto base.proto ");
    assert_string_equal(files(ask_symbol(&bed, "far.middle.Between")), "middle.proto ");
    bed_deinit(&bed);
}

static void test_symbols(void **state)
{
    static const char *const pairs[][2] = {
        {"far.base.Extendable.text", "base.proto "},
        {"far.base.Extendable.Inner.Innermost", "base.proto "},
        {"far.base.Extendable.Inner.Innermost.depth", "base.proto "},
        {"far.base.Extendable.Inner.Colour", "base.proto "},
        {"far.base.Extendable.Inner.BLUE", "base.proto "},
        {"far.base.Extendable.Inner.choice", "base.proto "},
        {"far.base.Extendable.Inner.right", "base.proto "},
        {"far.base.early", "base.proto "}, /* an extension */
        {"far.middle.note", "middle.proto "},
        {"far.middle.Between.within", "middle.proto "},
        {"far.top.Tower", "top.proto "},
        {"far.top.Height", "top.proto "},
        {"far.top.HIGH", "top.proto "},
        {"far.top.Level.rooms", "top.proto "},
        {"far.top.Level.RoomsEntry.value", "top.proto "},
        {"Alone", "alone.proto "}, /* without a package */
        {"Alone.another", "alone.proto "},
        {"Lonely.Speak", "alone.proto "},
    };
    static const char *const missing[] = {"far",        "far.base", ".Alone",
                                          "Extendable", "early",    "far.base.Extendable.early"};
    struct bed bed;

    bed_init_far(&bed);
    (void)ask_symbol(&bed, "far.top.Tower"); /* so that later answers hold one file each */
    for (size_t i = 0; i < ELEMENTSOF(pairs); i++)
        assert_string_equal(files(ask_symbol(&bed, pairs[i][0])), pairs[i][1]);
    for (size_t i = 0; i < ELEMENTSOF(missing); i++)
        assert_not_found(ask_symbol(&bed, missing[i]));
    bed_deinit(&bed);
}

static void test_extensions(void **state)
{
    struct bed bed;

    bed_init_far(&bed);
    assert_string_equal(files(ask_extension(&bed, "far.base.Extendable", 101)),
                        "middle.proto base.proto ");
    assert_string_equal(files(ask_extension(&bed, "far.base.Extendable", 150)), "base.proto ");
    assert_string_equal(files(ask_extension(&bed, "far.base.Extendable.Inner", 1000)),
                        "middle.proto ");
    assert_not_found(ask_extension(&bed, "far.base.Extendable", 1)); /* a field of its own */
    assert_not_found(ask_extension(&bed, "far.base.Extendable", 151));
    assert_not_found(ask_extension(&bed, "far.base.Extendable.Inner", 150));
    assert_not_found(ask_extension(&bed, ".far.base.Extendable", 150));
    assert_not_found(ask_extension(&bed, "", 0));
    bed_deinit(&bed);
}

static void test_extension_numbers(void **state)
{
    const Response *answer;
    struct bed bed;

    bed_init_far(&bed);
    answer = ask(&bed, ASK(ALL_EXTENSION_NUMBERS_OF_TYPE), "far.base.Extendable");
    assert_int_equal(answer->message_response_case, ANSWER(ALL_EXTENSION_NUMBERS_RESPONSE));
    assert_string_equal(answer->all_extension_numbers_response->base_type_name,
                        "far.base.Extendable");
    assert_int_equal(answer->all_extension_numbers_response->n_extension_number, 2);
    assert_int_equal(answer->all_extension_numbers_response->extension_number[0], 101);
    assert_int_equal(answer->all_extension_numbers_response->extension_number[1], 150);
    answer = ask(&bed, ASK(ALL_EXTENSION_NUMBERS_OF_TYPE), "far.base.Extendable.Inner");
    assert_int_equal(answer->all_extension_numbers_response->n_extension_number, 1);
    assert_int_equal(answer->all_extension_numbers_response->extension_number[0], 1000);
    /* A message that nothing extends is known all the same. */
    answer = ask(&bed, ASK(ALL_EXTENSION_NUMBERS_OF_TYPE), "Alone");
    assert_int_equal(answer->message_response_case, ANSWER(ALL_EXTENSION_NUMBERS_RESPONSE));
    assert_string_equal(answer->all_extension_numbers_response->base_type_name, "Alone");
    assert_int_equal(answer->all_extension_numbers_response->n_extension_number, 0);
    bed_deinit(&bed);
}

/* ---- Sets that are none ---- */

static int try_set(const uint8_t *set, size_t size, const char *service)
{
    struct reflection_service *reflection = NULL;
    int r = reflection_service_new_with(&reflection, set, size, &service, service ? 1 : 0);

    assert_true((r == 0) == (reflection != NULL));
    assert_null(reflection_service_free(reflection));
    return r;
}

static void test_services_must_be_described(void **state)
{
    static const char *const wrong[] = {"no.Service", "stockservice.StockUpdate", "",
                                        "stockservice.StockService.GetUpdates"};

    for (size_t i = 0; i < ELEMENTSOF(wrong); i++)
        assert_int_equal(try_set(descriptor_set, descriptor_set_size, wrong[i]), -EINVAL);
    assert_int_equal(try_set(descriptor_set, descriptor_set_size, "grpc.health.v1.Health"), 0);
    assert_int_equal(try_set(NULL, 0, NULL), 0); /* nothing at all is described */
    assert_int_equal(try_set(NULL, 0, "grpc.health.v1.Health"), -EINVAL);
}

static void test_broken_sets(void **state)
{
    uint8_t set[16384];
    size_t size = read_far_set(set, sizeof(set));
    Google__Protobuf__FileDescriptorSet *files_set =
        google__protobuf__file_descriptor_set__unpack(NULL, size, set);
    static const char *const spoiled[] = {"other.proto", NULL, NULL, "far.base.Extendable"};
    FileProto *file;
    size_t whole = 0;

    assert_non_null(files_set);
    assert_int_equal(files_set->n_file, 4);
    /* Cut anywhere: a set of fewer files, if they need no others, or none. */
    for (size_t cut = 0; cut < size; cut++) {
        int r = try_set(set, cut, NULL);

        assert_true(r == 0 || r == -EINVAL);
        whole += r == 0;
    }
    assert_in_range(whole, 2, files_set->n_file);
    assert_int_equal(try_set(set, size, "far.top.Tower"), 0);

    /* An import that is not there, a file and a message without a name, an extension of nothing. */
    file = files_set->file[1]; /* which others import and extend */
    assert_string_equal(file->name, "base.proto");
    for (unsigned i = 0; i < ELEMENTSOF(spoiled); i++) {
        char **text = i < 2    ? &file->name
                      : i == 2 ? &file->message_type[0]->name
                               : &file->extension[0]->extendee;
        char *kept = *text;
        uint8_t packed[16384];

        *text = (char *)spoiled[i];
        size = google__protobuf__file_descriptor_set__get_packed_size(files_set);
        assert_true(size <= sizeof(packed));
        google__protobuf__file_descriptor_set__pack(files_set, packed);
        assert_int_equal(try_set(packed, size, NULL), -EINVAL);
        *text = kept;
    }
    google__protobuf__file_descriptor_set__free_unpacked(files_set, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list_services),
        cmocka_unit_test(test_embedded_files),
        cmocka_unit_test(test_embedded_bytes),
        cmocka_unit_test(test_not_found),
        cmocka_unit_test(test_host_and_request_come_back),
        cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_half_close_without_a_question),
        cmocka_unit_test(test_requests_that_end_the_call),
        cmocka_unit_test(test_both_versions),
        cmocka_unit_test(test_answers_wait_for_room),
        cmocka_unit_test(test_imports_come_once),
        cmocka_unit_test(test_symbols),
        cmocka_unit_test(test_extensions),
        cmocka_unit_test(test_extension_numbers),
        cmocka_unit_test(test_services_must_be_described),
        cmocka_unit_test(test_broken_sets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
