/*
 * Each message of the call is a question, answered at once from the index of the descriptor set.
 * The two versions of the service have the same messages, and so the same code; the call's own is
 * only which files it was sent already.
 */
#include "services/reflection_private.h"

#include "base/util.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/descriptor_set.h"
#include "services/descriptors.h"
#include "services/strings.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/*
 * A question is a name or two, and its answer repeats it. What is longer than this is none, and is
 * not worth a queue's room.
 */
#define REQUEST_SIZE_MAX 4096

/* The cases of the two choices, whose names fill a line. */
#define ASKED(kind) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##kind
#define ANSWERED(kind) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##kind

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;
typedef Grpc__Reflection__V1__FileDescriptorResponse FilesAnswer;
typedef Grpc__Reflection__V1__ExtensionNumberResponse NumbersAnswer;
typedef Grpc__Reflection__V1__ListServiceResponse ListAnswer;
typedef Grpc__Reflection__V1__ServiceResponse ListedService;
typedef Grpc__Reflection__V1__ErrorResponse ErrorAnswer;

struct reflection_service {
    struct descriptors *descriptors;
    ListedService *services;
    ListedService **service_pointers;
    size_t service_count;
    ProtobufCBinaryData *files; /* room for all of an answer's */
    struct method methods[REFLECTION_METHODS];
    struct method_stats stats[REFLECTION_METHODS];
};

/* An answer, and what it points at until it is packed. */
struct answer {
    Response response;
    union {
        FilesAnswer files;
        NumbersAnswer numbers;
        ListAnswer list;
        ErrorAnswer error;
    };
    int32_t *extension_numbers;
};

static void on_begin(struct call *call, const uint8_t *bytes, size_t size)
{
    const struct reflection_service *service = call_context(call);
    bool *sent = calloc(descriptors_file_count(service->descriptors) + 1, sizeof(*sent));

    if (!sent)
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
    call_set_data(call, sent);
}

/* ---- Answers ---- */

static void answer_error(struct answer *answer, const char *text)
{
    answer->error = (ErrorAnswer)GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    answer->error.error_code = WIRE_NOT_FOUND;
    answer->error.error_message = (char *)text;
    answer->response.message_response_case = ANSWERED(ERROR_RESPONSE);
    answer->response.error_response = &answer->error;
}

/*
 * The file goes in any case, since without it an answer would say nothing; what it imports goes
 * once a call.
 */
static void answer_files(struct answer *answer, struct call *call,
                         const struct descriptor_file *file, const char *missing)
{
    const struct reflection_service *service = call_context(call);
    bool *sent = call_data(call);
    size_t count = 0;

    if (!file) {
        answer_error(answer, missing);
        return;
    }
    for (size_t i = 0; i < file->closure_count; i++) {
        const struct descriptor_file *part = file->closure[i];

        if (part != file && sent[part->index])
            continue;
        sent[part->index] = true;
        service->files[count++] = (ProtobufCBinaryData){part->size, (uint8_t *)part->bytes};
    }
    answer->files = (FilesAnswer)GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    answer->files.file_descriptor_proto = service->files;
    answer->files.n_file_descriptor_proto = count;
    answer->response.message_response_case = ANSWERED(FILE_DESCRIPTOR_RESPONSE);
    answer->response.file_descriptor_response = &answer->files;
}

static void answer_extension(struct answer *answer, struct call *call,
                             const Grpc__Reflection__V1__ExtensionRequest *request)
{
    const struct reflection_service *service = call_context(call);
    const struct descriptor_extension *extensions;
    size_t count =
        descriptors_find_extensions(service->descriptors, request->containing_type, &extensions);
    const struct descriptor_file *file = NULL;

    for (size_t i = 0; i < count; i++) {
        if (extensions[i].number == request->extension_number)
            file = extensions[i].file;
    }
    answer_files(answer, call, file, "no extension of that message has that number");
}

/* 0 or -ENOMEM. */
static int answer_numbers(struct answer *answer, const struct reflection_service *service,
                          char *type)
{
    const struct descriptor_extension *extensions;
    size_t count;

    if (!descriptors_find_symbol(service->descriptors, type, DESCRIPTOR_MESSAGE)) {
        answer_error(answer, "no message has that name");
        return 0;
    }
    count = descriptors_find_extensions(service->descriptors, type, &extensions);
    answer->extension_numbers = calloc(count + 1, sizeof(answer->extension_numbers[0]));
    if (!answer->extension_numbers)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        answer->extension_numbers[i] = extensions[i].number;
    answer->numbers = (NumbersAnswer)GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
    answer->numbers.base_type_name = type;
    answer->numbers.extension_number = answer->extension_numbers;
    answer->numbers.n_extension_number = count;
    answer->response.message_response_case = ANSWERED(ALL_EXTENSION_NUMBERS_RESPONSE);
    answer->response.all_extension_numbers_response = &answer->numbers;
    return 0;
}

static void answer_list(struct answer *answer, const struct reflection_service *service)
{
    answer->list = (ListAnswer)GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    answer->list.service = service->service_pointers;
    answer->list.n_service = service->service_count;
    answer->response.message_response_case = ANSWERED(LIST_SERVICES_RESPONSE);
    answer->response.list_services_response = &answer->list;
}

/* 0, 1 if the request asks nothing, or -ENOMEM. */
static int answer_make(struct answer *answer, struct call *call, Request *request)
{
    const struct reflection_service *service = call_context(call);
    const struct descriptors *descriptors = service->descriptors;

    answer->response = (Response)GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    answer->response.valid_host = request->host;
    answer->response.original_request = request;
    switch (request->message_request_case) {
    case ASKED(FILE_BY_FILENAME):
        answer_files(answer, call, descriptors_find_file(descriptors, request->file_by_filename),
                     "no file has that name");
        return 0;
    case ASKED(FILE_CONTAINING_SYMBOL):
        answer_files(
            answer, call,
            descriptors_find_symbol(descriptors, request->file_containing_symbol, DESCRIPTOR_ANY),
            "nothing has that name");
        return 0;
    case ASKED(FILE_CONTAINING_EXTENSION):
        answer_extension(answer, call, request->file_containing_extension);
        return 0;
    case ASKED(ALL_EXTENSION_NUMBERS_OF_TYPE):
        return answer_numbers(answer, service, request->all_extension_numbers_of_type);
    case ASKED(LIST_SERVICES):
        answer_list(answer, service);
        return 0;
    default:
        return 1;
    }
}

/* 0 (the call may be over by now) or -ENOMEM. */
static int answer_send(const struct answer *answer, struct call *call)
{
    const Response *response = &answer->response;
    struct message *message = message_new(
        (uint32_t)grpc__reflection__v1__server_reflection_response__get_packed_size(response));
    int r;

    if (!message)
        return -ENOMEM;
    grpc__reflection__v1__server_reflection_response__pack(response, message_body(message));
    r = call_send(call, message);
    message_unref(message);
    return r < 0 ? r : 0;
}

/* ---- Questions ---- */

/* Is every string of the request UTF-8? */
static bool request_is_utf8(const Request *request)
{
    const char *asked = "";

    switch (request->message_request_case) {
    case ASKED(FILE_BY_FILENAME):
        asked = request->file_by_filename;
        break;
    case ASKED(FILE_CONTAINING_SYMBOL):
        asked = request->file_containing_symbol;
        break;
    case ASKED(FILE_CONTAINING_EXTENSION):
        asked = request->file_containing_extension->containing_type;
        break;
    case ASKED(ALL_EXTENSION_NUMBERS_OF_TYPE):
        asked = request->all_extension_numbers_of_type;
        break;
    case ASKED(LIST_SERVICES):
        asked = request->list_services;
        break;
    default:
        break;
    }
    return string_is_utf8(request->host) && string_is_utf8(asked);
}

static void on_message(struct call *call, const uint8_t *bytes, size_t size)
{
    struct answer answer = {.extension_numbers = NULL};
    Request *request;
    int r;

    if (size > REQUEST_SIZE_MAX) {
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "a question of more than 4096 bytes");
        return;
    }
    request = grpc__reflection__v1__server_reflection_request__unpack(NULL, size, bytes);
    if (!request || !request_is_utf8(request)) {
        call_finish(call, WIRE_INTERNAL, "the request is no ServerReflectionRequest");
    } else {
        r = answer_make(&answer, call, request);
        if (r == 0)
            r = answer_send(&answer, call);
        if (r > 0)
            call_finish(call, WIRE_INVALID_ARGUMENT, "the request asks nothing");
        else if (r < 0)
            call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
    }
    free(answer.extension_numbers);
    if (request)
        grpc__reflection__v1__server_reflection_request__free_unpacked(request, NULL);
}

static void on_half_close(struct call *call)
{
    call_finish(call, WIRE_OK, NULL);
}

static void on_end(struct call *call, enum wire_status status)
{
    free(call_data(call));
}

/* ---- The service ---- */

/* 0, -ENOMEM or -EINVAL. */
static int list_services(struct reflection_service *service, const char *const *names, size_t count)
{
    service->services = calloc(count + 1, sizeof(ListedService));
    service->service_pointers = calloc(count + 1, sizeof(ListedService *));
    if (!service->services || !service->service_pointers)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (!descriptors_find_symbol(service->descriptors, names[i], DESCRIPTOR_SERVICE))
            return -EINVAL;
        service->services[i] = (ListedService)GRPC__REFLECTION__V1__SERVICE_RESPONSE__INIT;
        service->services[i].name = (char *)names[i];
        service->service_pointers[i] = &service->services[i];
    }
    service->service_count = count;
    return 0;
}

static void make_methods(struct reflection_service *service)
{
    static const char *const names[REFLECTION_METHODS] = {
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    };

    for (unsigned i = 0; i < REFLECTION_METHODS; i++)
        service->methods[i] = (struct method){
            .service = names[i],
            .name = "ServerReflectionInfo",
            .type = METHOD_BIDI_STREAM,
            .context = service,
            .begin = on_begin,
            .message = on_message,
            .half_close = on_half_close,
            .end = on_end,
            .stats = &service->stats[i],
        };
}

static void cleanup_service(struct reflection_service **service)
{
    reflection_service_free(*service);
}

int reflection_service_new_with(struct reflection_service **ret_service, const uint8_t *set,
                                size_t size, const char *const *services, size_t count)
{
    _cleanup_(cleanup_service) struct reflection_service *service = calloc(1, sizeof(*service));
    int r;

    if (!service)
        return -ENOMEM;
    r = descriptors_new(&service->descriptors, set, size);
    if (r < 0)
        return r;
    service->files =
        calloc(descriptors_file_count(service->descriptors) + 1, sizeof(service->files[0]));
    if (!service->files)
        return -ENOMEM;
    r = list_services(service, services, count);
    if (r < 0)
        return r;
    make_methods(service);
    *ret_service = TAKE_PTR(service);
    return 0;
}

int reflection_service_new(struct reflection_service **ret_service, const char *const *services,
                           size_t count)
{
    return reflection_service_new_with(ret_service, descriptor_set, descriptor_set_size, services,
                                       count);
}

struct reflection_service *reflection_service_free(struct reflection_service *service)
{
    if (!service)
        return NULL;
    service->descriptors = descriptors_free(service->descriptors);
    free(service->services);
    free(service->service_pointers);
    free(service->files);
    free(service);
    return NULL;
}

const struct method *reflection_service_method(const struct reflection_service *service,
                                               unsigned index)
{
    return &service->methods[index];
}
