/*
 * The states are a table that is made once; a watcher hangs on the entry that it watches and knows
 * the state that it was sent last. A change wakes the watchers, and the message is made when it can
 * be sent: whoever takes nothing has nothing waiting, and gets the state of that moment.
 *
 * A name that is not known stays unknown, so nothing is kept of it.
 */
#include "services/health.h"

#include "base/util.h"
#include "grpc/health/v1/health.pb-c.h"
#include "services/strings.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/queue.h>

#define SERVICE_NAME "grpc.health.v1.Health"

/* What the official servers list at most; a client may rely on it (gRFC A90). */
#define LIST_MAX 100

/* An answer with its prefix: one field, of one byte. */
#define ANSWER_SIZE_MAX (WIRE_PREFIX_SIZE + 2)

#define NOTHING_SENT (-1)

static_assert((int)HEALTH_UNKNOWN ==
                      GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__UNKNOWN &&
                  (int)HEALTH_SERVING ==
                      GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING &&
                  (int)HEALTH_NOT_SERVING ==
                      GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING &&
                  (int)HEALTH_SERVICE_UNKNOWN ==
                      GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
              "enum health_status has the protocol's numbers");

typedef Grpc__Health__V1__HealthCheckRequest HealthRequest;
typedef Grpc__Health__V1__HealthCheckResponse HealthResponse;
typedef Grpc__Health__V1__HealthListResponse HealthListResponse;
typedef Grpc__Health__V1__HealthListResponse__StatusesEntry HealthListEntry;

struct watcher {
    LIST_ENTRY(watcher) link; /* of its entry */
    struct call *call;
    const struct entry *entry; /* NULL: not known */
    int sent;                  /* an enum health_status, or NOTHING_SENT */
};

/* One service that is known. */
struct entry {
    const char *name;
    enum health_status status;
    LIST_HEAD(, watcher) watchers;
};

struct health_service {
    bool shut_down;
    struct method methods[HEALTH_METHODS];
    struct method_stats stats[HEALTH_METHODS];
    size_t count;
    struct entry entries[];
};

static struct entry *find(struct health_service *service, const char *name)
{
    for (size_t i = 0; i < service->count; i++) {
        if (strcmp(service->entries[i].name, name) == 0)
            return &service->entries[i];
    }
    return NULL;
}

/* Reads a request for one service. False: it is none, and the call is ended. */
static bool read_request(struct call *call, const uint8_t *bytes, size_t size,
                         struct entry **ret_entry)
{
    HealthRequest *request = grpc__health__v1__health_check_request__unpack(NULL, size, bytes);
    bool good = request && string_is_utf8(request->service);

    if (good)
        *ret_entry = find(call_context(call), request->service);
    else
        call_finish(call, WIRE_INTERNAL, "the request is no grpc.health.v1.HealthCheckRequest");
    if (request)
        grpc__health__v1__health_check_request__free_unpacked(request, NULL);
    return good;
}

/* Writes the body of an answer; its size. */
static size_t pack_status(enum health_status status, uint8_t *bytes)
{
    HealthResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    response.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
    return grpc__health__v1__health_check_response__pack(&response, bytes);
}

/* Answers a unary call; `message` is taken, and NULL without memory for it. */
static void answer(struct call *call, struct message *message)
{
    if (message && call_send(call, message) == 0)
        call_finish(call, WIRE_OK, NULL);
    else
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
    message_unref(message);
}

/* ---- Check ---- */

static void check_begin(struct call *call, const uint8_t *bytes, size_t size)
{
    uint8_t body[ANSWER_SIZE_MAX];
    struct message *message;
    struct entry *entry;
    size_t body_size;

    if (!read_request(call, bytes, size, &entry))
        return;
    if (!entry) {
        call_finish(call, WIRE_NOT_FOUND, "unknown service");
        return;
    }
    body_size = pack_status(entry->status, body);
    message = message_new((uint32_t)body_size);
    if (message)
        memcpy(message_body(message), body, body_size);
    answer(call, message);
}

static void check_end(struct call *call, enum wire_status status)
{
    /* Nothing is kept of it. */
}

/* ---- List ---- */

/* NULL: no memory. */
static struct message *pack_list(const struct health_service *service)
{
    HealthListResponse list = GRPC__HEALTH__V1__HEALTH_LIST_RESPONSE__INIT;
    HealthResponse responses[LIST_MAX];
    HealthListEntry entries[LIST_MAX];
    HealthListEntry *pointers[LIST_MAX];
    struct message *message;

    for (size_t i = 0; i < service->count; i++) {
        responses[i] = (HealthResponse)GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
        responses[i].status =
            (Grpc__Health__V1__HealthCheckResponse__ServingStatus)service->entries[i].status;
        entries[i] = (HealthListEntry)GRPC__HEALTH__V1__HEALTH_LIST_RESPONSE__STATUSES_ENTRY__INIT;
        entries[i].key = (char *)service->entries[i].name;
        entries[i].value = &responses[i];
        pointers[i] = &entries[i];
    }
    list.n_statuses = service->count;
    list.statuses = pointers;
    message = message_new((uint32_t)grpc__health__v1__health_list_response__get_packed_size(&list));
    if (message)
        grpc__health__v1__health_list_response__pack(&list, message_body(message));
    return message;
}

static void list_begin(struct call *call, const uint8_t *bytes, size_t size)
{
    const struct health_service *service = call_context(call);
    Grpc__Health__V1__HealthListRequest *request =
        grpc__health__v1__health_list_request__unpack(NULL, size, bytes);

    if (!request) {
        call_finish(call, WIRE_INTERNAL, "the request is no grpc.health.v1.HealthListRequest");
        return;
    }
    grpc__health__v1__health_list_request__free_unpacked(request, NULL);
    if (service->count > LIST_MAX)
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "there are more services than List may name");
    else
        answer(call, pack_list(service));
}

/* ---- Watch ---- */

static void watch_begin(struct call *call, const uint8_t *bytes, size_t size)
{
    struct watcher *watcher;
    struct entry *entry;

    if (!read_request(call, bytes, size, &entry))
        return;
    watcher = calloc(1, sizeof(*watcher));
    if (!watcher) {
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    watcher->call = call;
    watcher->entry = entry;
    watcher->sent = NOTHING_SENT;
    if (entry)
        LIST_INSERT_HEAD(&entry->watchers, watcher, link);
    call_set_data(call, watcher);
    call_resume(call);
}

static size_t watch_pull(struct call *call, uint8_t *bytes, size_t size, struct pull *pull)
{
    struct watcher *watcher = call_data(call);
    enum health_status status = watcher->entry ? watcher->entry->status : HEALTH_SERVICE_UNKNOWN;
    size_t body_size;

    /* What changed and changed back while nothing could be sent is no change. */
    if ((int)status == watcher->sent)
        return 0;
    watcher->sent = (int)status;
    body_size = pack_status(status, bytes + WIRE_PREFIX_SIZE);
    wire_prefix_write(bytes, (uint32_t)body_size);
    pull->messages = 1;
    return WIRE_PREFIX_SIZE + body_size;
}

static void watch_end(struct call *call, enum wire_status status)
{
    struct watcher *watcher = call_data(call);

    if (watcher && watcher->entry)
        LIST_REMOVE(watcher, link);
    free(watcher);
}

/* ---- The service ---- */

static void entry_set(struct entry *entry, enum health_status status)
{
    struct watcher *watcher;

    if (entry->status == status)
        return;
    entry->status = status;
    LIST_FOREACH (watcher, &entry->watchers, link)
        call_resume(watcher->call);
}

void health_service_set(struct health_service *service, const char *name, enum health_status status)
{
    struct entry *one = name ? find(service, name) : NULL;

    assert(one || !name);
    if (service->shut_down)
        return;
    if (one) {
        entry_set(one, status);
        return;
    }
    for (size_t i = 0; i < service->count; i++)
        entry_set(&service->entries[i], status);
}

void health_service_shutdown(struct health_service *service)
{
    health_service_set(service, NULL, HEALTH_NOT_SERVING);
    service->shut_down = true;
}

static void make_methods(struct health_service *service)
{
    service->methods[0] = (struct method){
        .name = "Check",
        .type = METHOD_UNARY,
        .begin = check_begin,
        .end = check_end,
    };
    service->methods[1] = (struct method){
        .name = "List",
        .type = METHOD_UNARY,
        .begin = list_begin,
        .end = check_end,
    };
    service->methods[2] = (struct method){
        .name = "Watch",
        .type = METHOD_SERVER_STREAM,
        .begin = watch_begin,
        .pull = watch_pull,
        .pull_size_max = ANSWER_SIZE_MAX,
        .end = watch_end,
    };
    for (unsigned i = 0; i < HEALTH_METHODS; i++) {
        service->methods[i].service = SERVICE_NAME;
        service->methods[i].context = service;
        service->methods[i].stats = &service->stats[i];
    }
}

int health_service_new(struct health_service **ret_service, const char *const *names, size_t count)
{
    struct health_service *service =
        calloc(1, sizeof(*service) + count * sizeof(service->entries[0]));

    if (!service)
        return -ENOMEM;
    service->count = count;
    for (size_t i = 0; i < count; i++) {
        service->entries[i].name = names[i];
        service->entries[i].status = HEALTH_NOT_SERVING;
    }
    make_methods(service);
    *ret_service = service;
    return 0;
}

struct health_service *health_service_free(struct health_service *service)
{
    free(service);
    return NULL;
}

const struct method *health_service_method(const struct health_service *service, unsigned index)
{
    return &service->methods[index];
}
