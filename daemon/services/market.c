/*
 * Subscribe is a subscription of the market with a call around it: where nghttp2 asks for bytes,
 * events are taken from the subscription, as many as there is room for, and what does not fit stays
 * in it. So a subscriber's queue is its place in the market, and nothing else anywhere.
 *
 * The two others are answered from what the market has, encoded, of each ticker.
 *
 * What a request may cost is bounded: protobuf-c gets its memory from a budget, as a message of two
 * bytes a name would become forty times as large; and names are looked up once each.
 */
#include "services/market.h"

#include "base/util.h"
#include "market/subscription.h"
#include "services/market_event.h"
#include "services/strings.h"
#include "stockservice.pb-c.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

/* What one request may take while it is read; enough for more than 100,000 names. */
#define REQUEST_MEMORY_MAX ((size_t)32 * 1024 * 1024)

/* What answers may take that wait for their clients; the rest is for those that are given up, but
 * not gone yet. */
#define KEPT_BYTES_MAX (MARKET_SERVICE_ANSWER_BYTES_MAX / 4 * 3)

/* A status' text with names that are not known. */
#define NAMES_TEXT_MAX 400
#define NAME_SHOWN_MAX 40

#define SERVICE_NAME "stockservice.StockService"

enum {
    METHOD_SUBSCRIBE,
    METHOD_LIST_TICKERS,
    METHOD_GET_SNAPSHOT,
};

typedef Stockservice__SubscribeRequest SubscribeRequest;
typedef Stockservice__GetSnapshotRequest SnapshotRequest;
typedef Stockservice__ListTickersRequest ListRequest;
typedef Stockservice__ListTickersResponse ListResponse;
typedef Stockservice__Ticker ListTicker;

/* An update is sent in the turn in which it is published, unless its client is slow. */
static const double send_lag_bounds[] = {
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60,
};

struct market_service {
    struct loop *loop;
    struct market *market;
    uint64_t heartbeat_min_ms;
    TAILQ_HEAD(waiting_list, waiting) waiting; /* from the one that waits longest */
    uint64_t waiting_bytes;
    uint64_t aborted_bytes; /* of those */
    struct histogram send_lag;
    struct method_stats stats[MARKET_SERVICE_METHODS];
    struct method methods[MARKET_SERVICE_METHODS];
};

/* Tickers of a request, each once. */
struct tickers {
    unsigned indices[MARKET_TICKERS_MAX];
    unsigned count;
};

/* ---- Requests ---- */

struct budget {
    ProtobufCAllocator allocator;
    size_t left;
    bool exceeded;
};

/* Before what is given is its size: of a text with a NUL in it protobuf-c does not tell the length,
 * and what stands before the NUL may be the name of something else. */
#define SIZE_ROOM alignof(max_align_t)

static void *budget_alloc(void *data, size_t size)
{
    struct budget *budget = data;
    char *room;

    if (size > budget->left) {
        budget->exceeded = true;
        return NULL;
    }
    budget->left -= size;
    room = malloc(SIZE_ROOM + size);
    if (!room)
        return NULL;
    memcpy(room, &size, sizeof(size));
    return room + SIZE_ROOM;
}

static void budget_free(void *data, void *pointer)
{
    if (pointer)
        free((char *)pointer - SIZE_ROOM);
}

/* The length of a text that budget_alloc() made room for. */
static size_t text_size(const char *text)
{
    size_t size;

    memcpy(&size, text - SIZE_ROOM, sizeof(size));
    return size - 1;
}

static void budget_init(struct budget *budget)
{
    *budget = (struct budget){
        .allocator = {budget_alloc, budget_free, budget},
        .left = REQUEST_MEMORY_MAX,
    };
}

/* Reads a request, which protobuf_c_message_free_unpacked() frees. NULL: the call is ended. */
static ProtobufCMessage *read_request(struct call *call, const ProtobufCMessageDescriptor *type,
                                      struct budget *budget, const uint8_t *bytes, size_t size)
{
    ProtobufCMessage *request;
    char text[100];

    budget_init(budget);
    request = protobuf_c_message_unpack(type, &budget->allocator, size, bytes);
    if (request)
        return request;
    (void)snprintf(text, sizeof(text), "the request is no %s", type->name);
    if (budget->exceeded)
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "the request is too large");
    else
        call_finish(call, WIRE_INTERNAL, text);
    return NULL;
}

/* ---- Tickers of a request ---- */

/* Names that are not known, as far as there is room for them. */
struct unknown {
    char text[NAMES_TEXT_MAX];
    size_t length;
    size_t count;
    size_t shown;
};

static void unknown_add(struct unknown *unknown, const char *name, size_t size)
{
    size_t rest = sizeof(unknown->text) - unknown->length;
    bool whole = size <= NAME_SHOWN_MAX;
    char shown[NAME_SHOWN_MAX + 1];
    size_t length = 0;
    int r;

    unknown->count++;
    if (unknown->shown + 1 < unknown->count)
        return;
    for (; length < MIN(size, (size_t)NAME_SHOWN_MAX); length++) {
        shown[length] = '?';
        if (name[length] >= ' ' && name[length] <= '~')
            shown[length] = name[length];
    }
    shown[length] = '\0';
    r = snprintf(unknown->text + unknown->length, rest, "%s\"%s\"%s",
                 unknown->shown > 0 ? ", " : "", shown, whole ? "" : "...");
    if (r > 0 && (size_t)r < rest) {
        unknown->length += (size_t)r;
        unknown->shown++;
    }
}

static void finish_unknown(struct call *call, const struct unknown *unknown)
{
    char text[NAMES_TEXT_MAX + 100], more[40] = "";

    if (unknown->count > unknown->shown)
        (void)snprintf(more, sizeof(more), " and %zu more", unknown->count - unknown->shown);
    (void)snprintf(text, sizeof(text), "unknown ticker%s: %.*s%s", unknown->count == 1 ? "" : "s",
                   (int)unknown->length, unknown->text, more);
    call_finish(call, WIRE_NOT_FOUND, text);
}

/*
 * Finds the tickers of these names, in their order. False: some are not known, or no text; the call
 * is ended.
 */
static bool find_tickers(struct call *call, char *const *names, size_t count,
                         struct tickers *ret_tickers)
{
    const struct market_service *service = call_context(call);
    uint64_t found[(MARKET_TICKERS_MAX + 63) / 64] = {0};
    struct unknown unknown;

    unknown.length = unknown.count = unknown.shown = 0;
    ret_tickers->count = 0;
    for (size_t i = 0; i < count; i++) {
        size_t size = text_size(names[i]);
        unsigned index;

        if (!string_is_utf8(names[i])) {
            call_finish(call, WIRE_INTERNAL, "a ticker's name is no UTF-8");
            return false;
        }
        if (!market_find_ticker(service->market, names[i], size, &index)) {
            unknown_add(&unknown, names[i], size);
        } else if (!(found[index / 64] >> index % 64 & 1)) {
            found[index / 64] |= UINT64_C(1) << index % 64;
            ret_tickers->indices[ret_tickers->count++] = index;
        }
    }
    if (unknown.count > 0)
        finish_unknown(call, &unknown);
    return unknown.count == 0;
}

/* ---- Subscribe ---- */

static void on_ready(void *context)
{
    call_resume(context);
}

static void on_cut_off(void *context, enum cut_off_reason reason, const char *text)
{
    struct call *call = context;
    struct subscription *subscription = call_data(call);

    call_cut_off(call, cut_off_reason_labels[reason], text);
    call_set_data(call, NULL);
    (void)subscription_free(subscription);
}

static uint64_t on_unsent(void *context)
{
    return call_unsent_bytes(context);
}

/* False: there is no such policy. */
static bool find_policy(Stockservice__SlowPolicy number, enum slow_policy *ret_policy)
{
    switch ((int)number) {
    case STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_UNSPECIFIED:
    case STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_BLOCK:
        *ret_policy = SLOW_POLICY_BLOCK;
        return true;
    case STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_CONFLATE:
        *ret_policy = SLOW_POLICY_CONFLATE;
        return true;
    case STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_DROP_OLDEST:
        *ret_policy = SLOW_POLICY_DROP_OLDEST;
        return true;
    case STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_DISCONNECT:
        *ret_policy = SLOW_POLICY_DISCONNECT;
        return true;
    default:
        return false;
    }
}

/* What the request wants, but for its tickers. False: it cannot be, and the call is ended. */
static bool read_options(struct call *call, const SubscribeRequest *request,
                         struct subscription_options *ret_options)
{
    const struct market_service *service = call_context(call);
    char text[100];

    *ret_options = (struct subscription_options){
        .max_queue = request->max_queue,
        .min_interval_ms = request->min_interval_ms,
        .heartbeat_ms = request->heartbeat_ms > 0
                            ? MAX((uint64_t)request->heartbeat_ms, service->heartbeat_min_ms)
                            : 0,
        .snapshot = request->snapshot,
        .ready = on_ready,
        .cut_off = on_cut_off,
        .unsent = on_unsent,
        .context = call,
    };
    if (!find_policy(request->policy, &ret_options->policy)) {
        (void)snprintf(text, sizeof(text), "policy: there is no SlowPolicy with the number %d",
                       (int)request->policy);
        call_finish(call, WIRE_INVALID_ARGUMENT, text);
        return false;
    }
    if (request->resume && request->resume->epoch == 0) {
        call_finish(call, WIRE_INVALID_ARGUMENT,
                    "resume.epoch: 0 is no epoch; it comes from an event");
        return false;
    }
    if (request->resume) {
        ret_options->resume = true;
        ret_options->resume_epoch = request->resume->epoch;
        ret_options->resume_sequence = request->resume->sequence;
    }
    return true;
}

static void finish_ahead(struct call *call, uint64_t sequence)
{
    const struct market_service *service = call_context(call);
    char text[160];

    (void)snprintf(text, sizeof(text),
                   "resume.sequence: %" PRIu64 " is behind the newest update, which is %" PRIu64,
                   sequence, market_sequence(service->market));
    call_finish(call, WIRE_OUT_OF_RANGE, text);
}

static void subscribe(struct call *call, const struct subscription_options *options)
{
    struct market_service *service = call_context(call);
    struct subscription *subscription;
    int r = subscription_new(&subscription, service->market, service->loop, options);

    if (r == 0) {
        call_set_data(call, subscription);
        call_resume(call);
    } else if (r == SUBSCRIPTION_AHEAD) {
        finish_ahead(call, options->resume_sequence);
    } else {
        call_finish(call, WIRE_RESOURCE_EXHAUSTED,
                    r == SUBSCRIPTION_NO_ROOM
                        ? "the subscriptions of all clients take as much memory as they may"
                        : "no memory");
    }
}

static void subscribe_begin(struct call *call, const uint8_t *bytes, size_t size)
{
    static struct tickers tickers; /* too large for the stack, and used here only */
    struct subscription_options options;
    SubscribeRequest *request;
    struct budget budget;

    request = (SubscribeRequest *)read_request(call, &stockservice__subscribe_request__descriptor,
                                               &budget, bytes, size);
    if (!request)
        return;
    if (read_options(call, request, &options) &&
        find_tickers(call, request->tickers, request->n_tickers, &tickers)) {
        options.tickers = tickers.indices;
        options.ticker_count = tickers.count;
        subscribe(call, &options);
    }
    stockservice__subscribe_request__free_unpacked(request, &budget.allocator);
}

/* Writes an event where there is room for any, or one that is known to fit; 0: it does not, and
 * *ret_needed is its size. */
static size_t put_event(uint8_t *bytes, size_t room, uint64_t epoch,
                        const struct subscription_event *event, uint16_t *ret_needed)
{
    uint8_t written[MARKET_EVENT_WRITE_MAX];
    size_t size;

    if (room >= MARKET_EVENT_WRITE_MAX)
        return market_event_write(bytes, epoch, event);
    size = market_event_write(written, epoch, event);
    if (size > room) {
        *ret_needed = (uint16_t)size;
        return 0;
    }
    memcpy(bytes, written, size);
    return size;
}

static size_t subscribe_pull(struct call *call, uint8_t *bytes, size_t size, struct pull *pull)
{
    const struct market_service *service = call_context(call);
    struct subscription *subscription = call_data(call);
    uint64_t epoch = market_epoch(service->market);
    uint64_t due_ms = UINT64_MAX;
    size_t used = 0;
    unsigned count = 0;

    for (; count < pull->messages; count++) {
        struct subscription_event event;
        size_t length;

        if (!subscription_peek(subscription, &event))
            break;
        length = put_event(bytes + used, size - used, epoch, &event, &pull->needed);
        pull->more = true;
        if (length == 0)
            break;
        subscription_take(subscription);
        pull->more = false;
        used += length;
        if (event.published_ms > 0)
            due_ms = MIN(due_ms, event.published_ms);
    }
    /* Whoever was asked for no more has not heard that there is no more. */
    if (count == pull->messages)
        pull->more = true;
    pull->messages = count;
    /* What came before the call did was due when the call came. */
    pull->due_ms = due_ms == UINT64_MAX ? 0 : MAX(due_ms, call_begun_ms(call));
    return used;
}

static void subscribe_end(struct call *call, enum wire_status status)
{
    (void)subscription_free(call_data(call));
}

/* ---- ListTickers and GetSnapshot ---- */

/*
 * An answer that its client has not taken yet: the call's data. No longer than the queue that any
 * call may have, it is not kept account of.
 */
struct waiting {
    TAILQ_ENTRY(waiting) link;
    struct call *call;
    struct message *message; /* a reference: nobody else has one when it has gone from the call */
    bool aborted;            /* it waits only for its call's end */
};

/* So many are kept account of at most. */
#define WAITING_MAX (MARKET_SERVICE_ANSWER_BYTES_MAX / CALL_QUEUE_BYTES_MAX)

static bool is_long(size_t size)
{
    return size > CALL_QUEUE_BYTES_MAX;
}

/* False: no memory. */
static bool keep_account(struct call *call, struct message *message)
{
    struct market_service *service = call_context(call);
    struct waiting *waiting = malloc(sizeof(*waiting));

    if (!waiting)
        return false;
    *waiting = (struct waiting){.call = call, .message = message_ref(message)};
    TAILQ_INSERT_TAIL(&service->waiting, waiting, link);
    service->waiting_bytes += message->size;
    call_set_data(call, waiting);
    return true;
}

static void forget(struct market_service *service, struct waiting *waiting)
{
    TAILQ_REMOVE(&service->waiting, waiting, link);
    service->waiting_bytes -= waiting->message->size;
    service->aborted_bytes -= waiting->aborted ? waiting->message->size : 0;
    call_set_data(waiting->call, NULL);
    message_unref(waiting->message);
    free(waiting);
}

/* Answers with what of `message` is used; it is taken, and NULL without memory for it. */
static void answer(struct call *call, struct message *message)
{
    if (message && (!is_long(message->size) || keep_account(call, message)) &&
        call_send(call, message) == 0)
        call_finish(call, WIRE_OK, NULL);
    else
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
    message_unref(message);
}

static void answer_end(struct call *call, enum wire_status status)
{
    struct waiting *waiting = call_data(call);

    if (waiting)
        forget(call_context(call), waiting);
}

/* What waits for a connection, whose text of its peer is its own: the text's place says whose. */
struct share {
    const char *peer;
    uint64_t bytes;
};

static int compare_shares(const void *a, const void *b)
{
    uintptr_t one = (uintptr_t)((const struct share *)a)->peer;
    uintptr_t other = (uintptr_t)((const struct share *)b)->peer;

    return (one > other) - (one < other);
}

/* The connection for which most waits; something does. */
static const char *find_greediest(const struct market_service *service)
{
    struct share shares[WAITING_MAX] = {0}, greediest = {0};
    const struct waiting *waiting;
    size_t count = 0;

    TAILQ_FOREACH (waiting, &service->waiting, link) {
        if (!waiting->aborted)
            shares[count++] = (struct share){call_peer(waiting->call), waiting->message->size};
    }
    qsort(shares, count, sizeof(shares[0]), compare_shares);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && shares[i].peer == shares[i - 1].peer)
            shares[i].bytes += shares[i - 1].bytes;
        if (shares[i].bytes > greediest.bytes)
            greediest = shares[i];
    }
    return greediest.peer;
}

/* Ends the call of the answer that waits longest for this connection. What is sent in part goes
 * when the client has been told that nothing follows. */
static void give_up(struct market_service *service, const char *peer)
{
    struct waiting *waiting = TAILQ_FIRST(&service->waiting);

    while (waiting->aborted || call_peer(waiting->call) != peer)
        waiting = TAILQ_NEXT(waiting, link);
    call_abort(waiting->call, WIRE_RESOURCE_EXHAUSTED,
               "too many answers wait for this client, and others need the room");
    if (waiting->message->references == 1) {
        forget(service, waiting);
    } else {
        waiting->aborted = true;
        service->aborted_bytes += waiting->message->size;
    }
}

/*
 * Is there room for an answer of this size? If not, the call is ended. Nobody is refused because of
 * others who take nothing: answers are given up of the connection for which most wait. It is
 * refused more itself.
 */
static bool has_room(struct call *call, size_t size)
{
    struct market_service *service = call_context(call);

    if (!is_long(size))
        return true;
    while (service->waiting_bytes - service->aborted_bytes + size > KEPT_BYTES_MAX) {
        const char *peer = find_greediest(service);

        if (peer == call_peer(call)) {
            call_finish(call, WIRE_RESOURCE_EXHAUSTED, "too many answers wait for this client");
            return false;
        }
        give_up(service, peer);
    }
    if (service->waiting_bytes + size <= MARKET_SERVICE_ANSWER_BYTES_MAX)
        return true;
    call_finish(call, WIRE_RESOURCE_EXHAUSTED,
                "too many answers wait for clients that do not take them");
    return false;
}

/* What a list is made of while it is packed. */
struct list {
    ListTicker *tickers;
    ListTicker **pointers;
};

static struct list *list_free(struct list *list)
{
    free(list->tickers);
    free(list->pointers);
    return NULL;
}

/* 0 or -ENOMEM. */
static int list_make(struct list *list, const struct market *market)
{
    unsigned count = market_tickers(market);

    list->tickers = calloc(MAX(count, 1U), sizeof(*list->tickers));
    list->pointers = calloc(MAX(count, 1U), sizeof(ListTicker *));
    if (!list->tickers || !list->pointers) {
        list_free(list);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < count; i++) {
        struct market_ticker_state state;

        market_ticker_state(market, i, &state);
        list->tickers[i] = (ListTicker)STOCKSERVICE__TICKER__INIT;
        list->tickers[i].ticker = (char *)market_ticker_name(market, i);
        list->tickers[i].updates = state.updates;
        list->tickers[i].sequence = state.sequence;
        list->pointers[i] = &list->tickers[i];
    }
    return 0;
}

static void list_begin(struct call *call, const uint8_t *bytes, size_t size)
{
    const struct market *market = ((const struct market_service *)call_context(call))->market;
    ListResponse response = STOCKSERVICE__LIST_TICKERS_RESPONSE__INIT;
    struct message *message;
    ListRequest *request;
    struct budget budget;
    struct list list;
    size_t body_size;

    request = (ListRequest *)read_request(call, &stockservice__list_tickers_request__descriptor,
                                          &budget, bytes, size);
    if (!request)
        return;
    stockservice__list_tickers_request__free_unpacked(request, &budget.allocator);
    if (list_make(&list, market) < 0) {
        answer(call, NULL);
        return;
    }
    response.n_tickers = market_tickers(market);
    response.tickers = list.pointers;
    response.epoch = market_epoch(market);
    response.sequence = market_sequence(market);
    body_size = stockservice__list_tickers_response__get_packed_size(&response);
    if (has_room(call, MESSAGE_PREFIX_SIZE + body_size)) {
        message = message_new((uint32_t)body_size);
        if (message)
            stockservice__list_tickers_response__pack(&response, message_body(message));
        answer(call, message);
    }
    list_free(&list);
}

enum {
    SNAPSHOT_TAG_UPDATES = 1 << 3 | 2,
    SNAPSHOT_EVENT_HEAD_MAX = 1 + 2, /* tag, and a length of two bytes */
};

static_assert(MARKET_EVENT_SIZE_MAX < 1 << 14, "the length of an event takes two bytes at most");
static_assert((uint64_t)MARKET_TICKERS_MAX * (MARKET_EVENT_SIZE_MAX + SNAPSHOT_EVENT_HEAD_MAX) <
                  MARKET_SERVICE_ANSWER_BYTES_MAX - KEPT_BYTES_MAX,
              "a snapshot of all tickers has room");

/* The last value of a ticker, without its prefix; false: there is none yet. */
static bool last_value(const struct market *market, unsigned ticker, const uint8_t **ret_bytes,
                       size_t *ret_size)
{
    struct market_ticker_state state;

    market_ticker_state(market, ticker, &state);
    if (state.sequence == 0)
        return false;
    *ret_bytes = state.bytes + WIRE_PREFIX_SIZE;
    *ret_size = state.size - WIRE_PREFIX_SIZE;
    return true;
}

/* Appends the last value as an element of the repeated field; the place after it. */
static uint8_t *put_last_value(uint8_t *at, const uint8_t *bytes, size_t size)
{
    *at++ = SNAPSHOT_TAG_UPDATES;
    if (size >= 0x80)
        *at++ = (uint8_t)size | 0x80;
    *at++ = (uint8_t)(size >= 0x80 ? size >> 7 : size);
    memcpy(at, bytes, size);
    return at + size;
}

/*
 * The updates are there as bytes, so the answer is put together from them: elements of a repeated
 * field, and then what protobuf-c makes of the other fields. NULL: no memory, or no room and the
 * call is ended.
 */
static void answer_snapshot(struct call *call, const struct tickers *tickers)
{
    const struct market *market = ((const struct market_service *)call_context(call))->market;
    Stockservice__GetSnapshotResponse rest = STOCKSERVICE__GET_SNAPSHOT_RESPONSE__INIT;
    size_t bound = 0, size;
    struct message *message;
    const uint8_t *bytes;
    uint8_t *at;

    rest.epoch = market_epoch(market);
    rest.sequence = market_sequence(market);
    for (unsigned i = 0; i < tickers->count; i++) {
        if (last_value(market, tickers->indices[i], &bytes, &size))
            bound += size + SNAPSHOT_EVENT_HEAD_MAX;
    }
    bound += stockservice__get_snapshot_response__get_packed_size(&rest);
    if (!has_room(call, MESSAGE_PREFIX_SIZE + bound))
        return;
    message = message_new((uint32_t)bound);
    if (message) {
        at = message_body(message);
        for (unsigned i = 0; i < tickers->count; i++) {
            if (last_value(market, tickers->indices[i], &bytes, &size))
                at = put_last_value(at, bytes, size);
        }
        at += stockservice__get_snapshot_response__pack(&rest, at);
        message = message_trim(message, (uint32_t)(at - message_body(message)));
    }
    answer(call, message);
}

static void snapshot_begin(struct call *call, const uint8_t *bytes, size_t size)
{
    static struct tickers tickers;
    const struct market_service *service = call_context(call);
    SnapshotRequest *request;
    struct budget budget;
    bool found;

    request = (SnapshotRequest *)read_request(call, &stockservice__get_snapshot_request__descriptor,
                                              &budget, bytes, size);
    if (!request)
        return;
    found = find_tickers(call, request->tickers, request->n_tickers, &tickers);
    if (found && request->n_tickers == 0) {
        tickers.count = market_tickers(service->market);
        for (unsigned i = 0; i < tickers.count; i++)
            tickers.indices[i] = i;
    }
    stockservice__get_snapshot_request__free_unpacked(request, &budget.allocator);
    if (found)
        answer_snapshot(call, &tickers);
}

/* ---- The service ---- */

static void make_methods(struct market_service *service)
{
    service->methods[METHOD_SUBSCRIBE] = (struct method){
        .name = "Subscribe",
        .type = METHOD_SERVER_STREAM,
        .begin = subscribe_begin,
        .pull = subscribe_pull,
        .pull_size_max = MARKET_EVENT_WRITE_MAX,
        .whole_messages = true,
        .end = subscribe_end,
    };
    service->methods[METHOD_LIST_TICKERS] = (struct method){
        .name = "ListTickers",
        .type = METHOD_UNARY,
        .begin = list_begin,
        .end = answer_end,
    };
    service->methods[METHOD_GET_SNAPSHOT] = (struct method){
        .name = "GetSnapshot",
        .type = METHOD_UNARY,
        .begin = snapshot_begin,
        .end = answer_end,
    };
    for (unsigned i = 0; i < MARKET_SERVICE_METHODS; i++) {
        service->methods[i].service = SERVICE_NAME;
        service->methods[i].context = service;
        service->methods[i].stats = &service->stats[i];
    }
    service->stats[METHOD_SUBSCRIBE].send_lag = &service->send_lag;
}

int market_service_new(struct market_service **ret_service,
                       const struct market_service_options *options)
{
    struct market_service *service = calloc(1, sizeof(*service));

    if (!service)
        return -ENOMEM;
    service->loop = options->loop;
    service->market = options->market;
    service->heartbeat_min_ms = options->heartbeat_min_ms;
    TAILQ_INIT(&service->waiting);
    histogram_init(&service->send_lag, send_lag_bounds, ELEMENTSOF(send_lag_bounds));
    make_methods(service);
    *ret_service = service;
    return 0;
}

void market_service_configure(struct market_service *service, uint64_t heartbeat_min_ms)
{
    service->heartbeat_min_ms = heartbeat_min_ms;
}

struct market_service *market_service_free(struct market_service *service)
{
    free(service);
    return NULL;
}

const struct method *market_service_method(const struct market_service *service, unsigned index)
{
    return &service->methods[index];
}

const struct histogram *market_service_send_lag(const struct market_service *service)
{
    return &service->send_lag;
}

uint64_t market_service_subscribed(const struct market_service *service)
{
    return service->stats[METHOD_SUBSCRIBE].started_total;
}

uint64_t market_service_events_sent(const struct market_service *service)
{
    return service->stats[METHOD_SUBSCRIBE].sent_total;
}
