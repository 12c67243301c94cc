/*
 * Every call is a walk of its own that goes a step only when its update can be sent: pull() makes
 * an update where nghttp2 asks for bytes, and nghttp2 asks only while there is window and socket.
 *
 * A paced call has a timer. When it fires the call is `due` and asks to be pulled; the timer is set
 * again when the update has been made. So a call that cannot send stands still at one update that
 * is due, costs nothing while it stands, and goes on from there.
 *
 * What calls are made by can change while they go on: each holds the plan that it began with.
 */
#include "services/stock.h"

#include "base/util.h"
#include "services/stock_update.h"
#include "stockservice.pb-c.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* Timers of an interval may be a tenth of it late, at most this much, and so fire in batches. */
#define SLACK_MAX_MS 10

/* Of a timer that makes use of its slack the lag is up to 10 ms, and a little more of its turn:
 * none of that is above the bound of 20 ms. */
static const double send_lag_bounds[] = {
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60,
};

/* The options, as calls need them while they go on; each of these has a reference. */
struct plan {
    uint64_t references;
    struct stock_service *service;
    uint64_t interval_ms;
    unsigned slack_ms;
    struct stock_texts texts;
    int64_t texts_second; /* that texts.timestamp is for */
};

struct stock_service {
    struct loop *loop;
    struct stock_options options; /* of calls that begin now */
    struct plan *plan;            /* the same */
    uint64_t calls_total;         /* with this seed */
    struct timespec updated;      /* when the last update was made */
    struct histogram send_lag;
    struct method_stats stats;
    struct method get_updates;
};

/* There is one for every call: what can be had elsewhere is not kept here. */
struct walker {
    struct call *call;
    struct plan *plan;
    struct wheel_timer timer; /* not armed: an update is due */
    uint64_t due_ms;          /* when the next update is due, or was */
    struct walk walk;
};

static struct plan *plan_new(struct stock_service *service, const struct stock_options *options)
{
    struct plan *plan = calloc(1, sizeof(*plan));

    if (!plan)
        return NULL;
    plan->references = 1;
    plan->service = service;
    plan->interval_ms = options->interval_ms;
    plan->slack_ms = (unsigned)MIN(MAX(options->interval_ms / 10, 1u), (uint64_t)SLACK_MAX_MS);
    plan->texts_second = INT64_MIN;
    stock_texts_set_ticker(&plan->texts, options->ticker);
    return plan;
}

static struct plan *plan_ref(struct plan *plan)
{
    plan->references++;
    return plan;
}

static void plan_unref(struct plan *plan)
{
    if (--plan->references == 0)
        free(plan);
}

/* An update is made. The time's text changes once a second, so it is made once a second. */
static void refresh_time(struct plan *plan)
{
    struct timespec *now = &plan->service->updated;

    (void)clock_gettime(CLOCK_REALTIME_COARSE, now);
    if (now->tv_sec == plan->texts_second)
        return;
    plan->texts_second = now->tv_sec;
    stock_texts_set_time(&plan->texts, now->tv_sec);
}

static void on_due(struct wheel_timer *timer)
{
    struct walker *walker = container_of(timer, struct walker, timer);

    call_resume(walker->call);
}

/* The next update is due one interval after this one was, or, after a pause, one from now. */
static void walker_wait(struct walker *walker)
{
    const struct plan *plan = walker->plan;
    struct loop *loop = plan->service->loop;
    uint64_t now_ms = loop_now_ms(loop);

    walker->due_ms += plan->interval_ms;
    if (walker->due_ms < now_ms)
        walker->due_ms = now_ms + plan->interval_ms;
    loop_arm(loop, &walker->timer, walker->due_ms - now_ms, plan->slack_ms);
}

static void on_begin(struct call *call, const uint8_t *request, size_t size)
{
    struct stock_service *service = call_context(call);
    Stockservice__EmptyRequest *empty = stockservice__empty_request__unpack(NULL, size, request);
    struct walker *walker;

    if (!empty) {
        call_finish(call, WIRE_INTERNAL, "the request is no stockservice.EmptyRequest");
        return;
    }
    stockservice__empty_request__free_unpacked(empty, NULL);
    walker = calloc(1, sizeof(*walker));
    if (!walker) {
        call_finish(call, WIRE_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    walker->call = call;
    walker->plan = plan_ref(service->plan);
    walker->timer.fire = on_due;
    walk_init(&walker->walk, random_fork(service->options.seed, service->calls_total++),
              service->options.start_price);
    call_set_data(call, walker);
    if (service->options.compress)
        (void)call_use_gzip(call);
    if (call_send_headers(call) != 0)
        return;
    walker->due_ms = loop_now_ms(service->loop) + service->options.initial_delay_ms;
    if (service->options.initial_delay_ms > 0)
        loop_arm(service->loop, &walker->timer, service->options.initial_delay_ms, 1);
    else
        on_due(&walker->timer);
}

static size_t pull_one(struct walker *walker, const struct stock_texts *texts, uint8_t *bytes)
{
    struct walk_step step;

    walk_next(&walker->walk, &step);
    return stock_update_pack(bytes, &step, texts);
}

static size_t on_pull(struct call *call, uint8_t *bytes, size_t size, struct pull *pull)
{
    struct walker *walker = call_data(call);
    struct plan *plan = walker->plan;
    size_t used = 0;
    unsigned count = 0;

    if (wheel_armed(&walker->timer))
        return 0;
    refresh_time(plan);
    if (plan->interval_ms > 0) {
        pull->due_ms = walker->due_ms;
        walker_wait(walker);
        pull->messages = 1;
        return pull_one(walker, &plan->texts, bytes);
    }
    while (count < pull->messages && size - used >= STOCK_UPDATE_SIZE_MAX) {
        used += pull_one(walker, &plan->texts, bytes + used);
        count++;
    }
    pull->messages = count;
    pull->more = true;
    return used;
}

static void on_end(struct call *call, enum wire_status status)
{
    struct walker *walker = call_data(call);

    if (!walker)
        return;
    loop_disarm(call_loop(call), &walker->timer);
    plan_unref(walker->plan);
    free(walker);
}

int stock_service_new(struct stock_service **ret_service, struct loop *loop,
                      const struct stock_options *options)
{
    struct stock_service *service = calloc(1, sizeof(*service));

    if (!service)
        return -ENOMEM;
    service->loop = loop;
    service->plan = plan_new(service, options);
    if (!service->plan) {
        free(service);
        return -ENOMEM;
    }
    histogram_init(&service->send_lag, send_lag_bounds, ELEMENTSOF(send_lag_bounds));
    service->stats.send_lag = &service->send_lag;
    service->options = *options;
    service->options.ticker = NULL; /* lives in the plan */
    service->get_updates = (struct method){
        .service = "stockservice.StockService",
        .name = "GetUpdates",
        .type = METHOD_SERVER_STREAM,
        .context = service,
        .begin = on_begin,
        .pull = on_pull,
        .pull_size_max = STOCK_UPDATE_SIZE_MAX,
        .end = on_end,
        .stats = &service->stats,
    };
    *ret_service = service;
    return 0;
}

int stock_service_configure(struct stock_service *service, const struct stock_options *options)
{
    struct plan *plan = plan_new(service, options);

    if (!plan)
        return -ENOMEM;
    plan_unref(service->plan);
    service->plan = plan;
    if (options->seed != service->options.seed)
        service->calls_total = 0;
    service->options = *options;
    service->options.ticker = NULL;
    return 0;
}

struct stock_service *stock_service_free(struct stock_service *service)
{
    if (!service)
        return NULL;
    plan_unref(service->plan);
    free(service);
    return NULL;
}

const struct method *stock_service_get_updates(const struct stock_service *service)
{
    return &service->get_updates;
}

uint64_t stock_service_updates_sent(const struct stock_service *service)
{
    return service->stats.sent_total;
}

const struct histogram *stock_service_send_lag(const struct stock_service *service)
{
    return &service->send_lag;
}

double stock_service_last_update(const struct stock_service *service)
{
    const struct timespec *updated = &service->updated;
    int64_t ms = (int64_t)updated->tv_sec * 1000 + updated->tv_nsec / 1000000;

    return (double)ms / 1e3;
}

double stock_service_interval(const struct stock_service *service)
{
    return (double)service->options.interval_ms / 1e3;
}
