/*
 * The market and its subscriptions against a model that keeps everything: each update ever made,
 * and for each subscription the list of those that it still has to get. Random markets,
 * subscriptions of every kind, publishes, pulls, stalls, sweeps, time, limits, losses of streams
 * and resumes go to both, and each event must be the one that the model expects, with its counts.
 *
 * Beside the model there is a client for each stream. It knows nothing but what events tell,
 * follows the position as MarketEvent says, and resumes from there; in the end it must hold the
 * last value of each of its tickers, and what it got and what it was told must be all there was.
 *
 *     test-market_model          all seeds
 *     test-market_model SEED     one of them, such as one that failed
 */
#include "base/util.h"
#include "market/subscription.h"

#include <inttypes.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

/* With the sanitizers each takes six times as long, and they are the first of the same. */
#ifdef __SANITIZE_ADDRESS__
#define SEEDS 4000
#else
#define SEEDS 10000
#endif
#define STEPS 160
#define CLIENTS 6
#define TICKERS_MAX 160
#define EPOCH UINT64_C(0x5eed)
#define SIZE_MIN 64
#define LATE_MS_MAX 251 /* of a heartbeat: its slack, and what rounding adds */

struct update {
    unsigned ticker;
    uint32_t size;
    uint64_t published_ms;
};

enum phase {
    PHASE_GAP,
    PHASE_SNAPSHOT,
    PHASE_SNAPSHOT_END,
    PHASE_LIVE,
};

/* What a subscription must be, in the plainest form. */
struct model {
    bool merging;
    enum phase phase;
    uint64_t start;       /* the newest update when it began */
    uint64_t position;    /* where it began */
    uint64_t gap_from;    /* of a gap */
    bool gap_epoch;       /* the same */
    unsigned snapshot_at; /* the next ticker of the snapshot */

    uint64_t *queue; /* not merging: sequences that wait; from `first` to `end` */
    size_t first, end, room;

    uint64_t waiting[TICKERS_MAX]; /* merging: the newest update that waits, or 0 */
    bool running;                  /* a round has begun, and not ended */
    unsigned turn;                 /* who comes next in it, at least */
    uint64_t head;                 /* when the round began */
    uint64_t done;                 /* everything up to here has been given, or replaced */
    uint64_t earliest_ms;          /* when a round may begin */

    uint64_t conflated, dropped; /* not told yet */
    uint64_t taken_ms;           /* when an event was taken last, or it began */
    uint64_t soft_ms;            /* beyond the soft limits since then; 0: it is not */
    bool hungry;                 /* the last peek gave nothing */
    bool lost;                   /* what comes next is not in the history any more */
};

/* Somebody who subscribes, loses the stream, and comes back. */
struct client {
    struct world *world;
    struct subscription *subscription; /* NULL: none now */
    struct subscription_options options;
    unsigned tickers[TICKERS_MAX];
    bool wanted[TICKERS_MAX];
    struct model model;
    unsigned ready; /* times it was called since the last peek that gave nothing */
    bool cut;       /* cut_off was called */
    enum cut_off_reason cut_reason;
    bool frees_itself; /* in cut_off */
    uint64_t unsent;

    /* What it knows by itself. */
    bool knows;                        /* a position */
    uint64_t epoch, sequence;          /* the position */
    uint64_t have[TICKERS_MAX];        /* the newest update of each ticker that it got */
    uint64_t got;                      /* updates in this stream, without those of a snapshot */
    uint64_t told;                     /* that were conflated or dropped, in this stream */
    uint64_t given_ms[TICKERS_MAX];    /* when it got one in this stream; 0: not yet */
    uint64_t events;                   /* in this stream */
    uint64_t given_at[TICKERS_MAX][2]; /* which of them were the last two of this ticker */
    uint64_t waits_since[TICKERS_MAX]; /* how many there had been when it began to wait */
    uint64_t due;                      /* updates of its tickers since the stream's position */
};

struct world {
    uint64_t seed, random;
    uv_loop_t uv; /* nothing but its clock */
    struct loop loop;
    bool wake_wanted;
    struct market *market;
    struct market_options options;
    uint64_t now_ms;
    uint64_t base; /* sequence before the first update */
    struct update *updates;
    size_t count, room;
    uint64_t last[TICKERS_MAX]; /* sequence of each ticker's newest */
    unsigned tickers;
    struct client clients[CLIENTS];
    struct client *looked_at;
    bool sweeping;
    uint64_t refused; /* subscriptions for which there was no room */
    uint64_t cut_offs[CUT_OFF_REASON_COUNT], resumes[RESUME_OUTCOME_COUNT], gaps, heartbeats;
    uint64_t conflated_told, dropped_told, conflated_most, dropped_most;
};

/* Which seed it was, so that it can be run alone, and whose stream was looked at last. */
static void describe(const struct world *world)
{
    const struct client *client = world->looked_at;

    print_error("seed %" PRIu64 ", at %" PRIu64 " ms, first %" PRIu64 ", newest %" PRIu64 "\n",
                world->seed, world->now_ms, market_first_sequence(world->market),
                world->base + world->count);
    if (!client)
        return;
    print_error("%s, tickers %u of %u, max_queue %u, min_interval %u, heartbeat %" PRIu64
                ", snapshot %d, resume %d\n",
                slow_policy_labels[client->options.policy], client->options.ticker_count,
                world->tickers, client->options.max_queue, client->options.min_interval_ms,
                client->options.heartbeat_ms, client->options.snapshot, client->options.resume);
    print_error("start %" PRIu64 ", position %" PRIu64 ", phase %d, queue %zu to %zu, hungry %d, "
                "lost %d, conflated %" PRIu64 ", dropped %" PRIu64 ", turn %u, running %d\n",
                client->model.start, client->model.position, (int)client->model.phase,
                client->model.first, client->model.end, client->model.hungry, client->model.lost,
                client->model.conflated, client->model.dropped, client->model.turn,
                client->model.running);
}

#define CHECK(world, condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            describe(world);                                                                       \
            fail_msg("%s", #condition);                                                            \
        }                                                                                          \
    } while (0)

/* ---- Chance ---- */

static uint64_t draw(struct world *world)
{
    world->random ^= world->random << 13;
    world->random ^= world->random >> 7;
    world->random ^= world->random << 17;
    return world->random * UINT64_C(0x2545F4914F6CDD1D) >> 11;
}

static uint64_t below(struct world *world, uint64_t bound)
{
    return draw(world) % bound;
}

static bool one_in(struct world *world, uint64_t n)
{
    return below(world, n) == 0;
}

/* ---- Updates ---- */

static void *grow(void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return array;
    *room = MAX(*room * 2, (size_t)64);
    array = realloc(array, *room * size);
    assert_non_null(array);
    return array;
}

static uint32_t size_of(uint64_t sequence)
{
    return SIZE_MIN + (uint32_t)(sequence * 2654435761U >> 7) % (MARKET_EVENT_SIZE_MAX - SIZE_MIN);
}

static void make_bytes(uint8_t *bytes, uint64_t sequence)
{
    for (uint32_t i = 0; i < size_of(sequence); i++)
        bytes[i] = (uint8_t)(sequence >> (i % 8 * 8)) + (uint8_t)(i / 8);
}

static size_t encode(void *context, uint8_t *bytes, const struct market_update *update)
{
    struct world *world = context;

    CHECK(world, update->epoch == EPOCH);
    make_bytes(bytes, update->sequence);
    return size_of(update->sequence);
}

static void clock_of(void *context, struct market_time *ret_time)
{
    struct world *world = context;

    *ret_time = (struct market_time){.now_ms = world->now_ms, .unix_ns = world->now_ms * 1000000};
}

static const struct update *update_at(const struct world *world, uint64_t sequence)
{
    return &world->updates[sequence - world->base - 1];
}

static uint64_t newest(const struct world *world)
{
    return world->base + world->count;
}

/* ---- The model: what waits ---- */

static bool has_queue(const struct model *model)
{
    return model->end > model->first;
}

static uint64_t max_queue(const struct client *client)
{
    uint64_t most = client->world->options.limits.queue_updates_max;

    return client->options.max_queue == 0 ? most : MIN(client->options.max_queue, most);
}

/* The ticker that comes next in a round, at or after `from`; the count of tickers: none. */
static unsigned next_turn(const struct client *client, unsigned from)
{
    while (from < client->world->tickers && client->model.waiting[from] == 0)
        from++;
    return from;
}

static unsigned count_waiting(const struct client *client)
{
    unsigned count = 0;

    for (unsigned i = 0; i < client->world->tickers; i++)
        count += client->model.waiting[i] != 0;
    return count;
}

static void drop_turn(struct client *client)
{
    struct model *model = &client->model;
    unsigned ticker = next_turn(client, model->turn);

    if (ticker == client->world->tickers)
        ticker = next_turn(client, 0);
    model->waiting[ticker] = 0;
    model->dropped++;
}

/* There is one update more for it. */
static void model_add(struct client *client, uint64_t sequence)
{
    struct model *model = &client->model;
    unsigned ticker = update_at(client->world, sequence)->ticker;

    if (!client->wanted[ticker])
        return;
    client->due++;
    if (!model->merging) {
        model->queue = grow(model->queue, model->end, &model->room, sizeof(*model->queue));
        model->queue[model->end++] = sequence;
    } else if (model->waiting[ticker] != 0) {
        model->waiting[ticker] = sequence;
        model->conflated++;
    } else {
        model->waiting[ticker] = sequence;
        client->waits_since[ticker] = client->events;
        if (client->options.policy == SLOW_POLICY_DROP_OLDEST && sequence > model->start &&
            count_waiting(client) > max_queue(client))
            drop_turn(client);
    }
}

/* Of a queue: what the history has lost, and what is too much. */
static void model_settle(struct client *client)
{
    struct model *model = &client->model;
    uint64_t first = market_first_sequence(client->world->market);
    bool drops = client->options.policy == SLOW_POLICY_DROP_OLDEST;

    if (model->merging || model->lost)
        return;
    while (has_queue(model) && model->queue[model->first] < first) {
        if (!drops) {
            model->lost = true;
            return;
        }
        model->first++;
        model->dropped++;
    }
    /* What was there when it began is not dropped, as long as there is some of it. */
    if (!drops || !has_queue(model) || model->queue[model->first] <= model->start)
        return;
    while (model->end - model->first > max_queue(client)) {
        model->first++;
        model->dropped++;
    }
}

static void end_round(struct client *client)
{
    struct model *model = &client->model;

    model->running = false;
    model->turn = 0;
    model->done = model->head;
    model->earliest_ms = client->world->now_ms + client->options.min_interval_ms;
}

/* Whose turn it is; the count of tickers: nobody's, now. */
static unsigned model_turn(struct client *client)
{
    struct world *world = client->world;
    struct model *model = &client->model;
    unsigned ticker;

    if (model->running) {
        ticker = next_turn(client, model->turn);
        if (ticker < world->tickers)
            return ticker;
        end_round(client);
    }
    ticker = next_turn(client, 0);
    if (ticker == world->tickers)
        model->done = newest(world);
    if (ticker == world->tickers || model->earliest_ms > world->now_ms)
        return world->tickers;
    model->running = true;
    model->head = newest(world);
    return ticker;
}

/* Is there something that could be given now? Changes nothing. */
static bool model_available(const struct client *client)
{
    const struct world *world = client->world;
    const struct model *model = &client->model;

    if (model->phase != PHASE_LIVE)
        return true;
    if (!model->merging)
        return has_queue(model) && !model->lost;
    return (model->running && next_turn(client, model->turn) < world->tickers) ||
           (next_turn(client, 0) < world->tickers && model->earliest_ms <= world->now_ms &&
            !(model->running && client->options.min_interval_ms > 0));
}

static bool heartbeat_allowed(const struct client *client)
{
    return client->options.heartbeat_ms > 0 &&
           client->world->now_ms - client->model.taken_ms >= client->options.heartbeat_ms;
}

/* ---- The model: events ---- */

static bool in_snapshot(const struct client *client, unsigned ticker)
{
    uint64_t last = client->world->last[ticker];

    return client->wanted[ticker] && last != 0 && last <= client->model.start;
}

static bool expect_gap(const struct client *client, struct subscription_event *event)
{
    const struct model *model = &client->model;

    event->kind = SUBSCRIPTION_GAP;
    event->snapshot = true;
    event->sequence = model->start;
    event->gap_reason = model->gap_epoch ? RESUME_EPOCH : RESUME_HISTORY;
    event->gap_from = model->gap_from;
    event->gap_to = model->gap_epoch ? 0 : model->start;
    event->gap_updates = model->gap_epoch ? 0 : model->start - model->gap_from + 1;
    return true;
}

static bool expect_snapshot(struct client *client, struct subscription_event *event)
{
    struct model *model = &client->model;

    while (model->snapshot_at < client->world->tickers && !in_snapshot(client, model->snapshot_at))
        model->snapshot_at++;
    if (model->snapshot_at == client->world->tickers) {
        model->phase = PHASE_SNAPSHOT_END;
        event->kind = SUBSCRIPTION_HEARTBEAT;
        event->sequence = model->start;
        return true;
    }
    event->sequence = client->world->last[model->snapshot_at];
    event->snapshot = true;
    return true;
}

static bool expect_update(struct client *client, struct subscription_event *event)
{
    struct world *world = client->world;
    struct model *model = &client->model;
    uint64_t resume;
    unsigned ticker;

    if (!model->merging) {
        model_settle(client);
        if (model->lost || !has_queue(model))
            return false;
        event->sequence = model->queue[model->first];
        event->published_ms = update_at(world, event->sequence)->published_ms;
        return true;
    }
    ticker = model_turn(client);
    if (ticker == world->tickers)
        return false;
    event->sequence = model->waiting[ticker];
    event->published_ms = update_at(world, event->sequence)->published_ms;
    resume = next_turn(client, ticker + 1) == world->tickers ? model->head : model->done;
    event->resume_sequence = resume == event->sequence ? 0 : resume;
    return true;
}

/* What a peek must return now, but for heartbeats, which are allowed and not predicted. */
static bool expect(struct client *client, struct subscription_event *event)
{
    bool expected = true;

    *event = (struct subscription_event){.kind = SUBSCRIPTION_UPDATE};
    if (client->model.phase == PHASE_GAP)
        expected = expect_gap(client, event);
    else if (client->model.phase == PHASE_LIVE)
        expected = expect_update(client, event);
    else
        expected = expect_snapshot(client, event);
    event->conflated = client->model.conflated;
    event->dropped = client->model.dropped;
    return expected;
}

static void model_take(struct client *client, const struct subscription_event *event)
{
    struct model *model = &client->model;
    unsigned ticker;

    model->conflated = model->dropped = 0;
    model->taken_ms = client->world->now_ms;
    if (model->phase == PHASE_GAP) {
        model->phase = PHASE_SNAPSHOT;
    } else if (model->phase == PHASE_SNAPSHOT) {
        model->snapshot_at++;
    } else if (model->phase == PHASE_SNAPSHOT_END) {
        model->phase = PHASE_LIVE;
    } else if (event->kind == SUBSCRIPTION_UPDATE && !model->merging) {
        model->first++;
    } else if (event->kind == SUBSCRIPTION_UPDATE) {
        ticker = update_at(client->world, event->sequence)->ticker;
        model->waiting[ticker] = 0;
        model->turn = ticker + 1;
        if (next_turn(client, model->turn) == client->world->tickers)
            end_round(client);
    }
}

/* ---- The client ---- */

static uint64_t count_queue(const struct client *client)
{
    return client->model.merging ? count_waiting(client) : client->model.end - client->model.first;
}

/* Nothing that still waits is at or before the position: whoever resumes there gets it. */
static void check_position(const struct client *client)
{
    const struct model *model = &client->model;

    CHECK(client->world, client->epoch == EPOCH);
    if (!model->merging) {
        CHECK(client->world, !has_queue(model) || model->queue[model->first] > client->sequence);
        return;
    }
    for (unsigned i = 0; i < client->world->tickers; i++)
        CHECK(client->world, model->waiting[i] == 0 || model->waiting[i] > client->sequence);
}

/* Nobody who waits is overtaken more than twice by the same ticker: in the round that goes on, and
 * in the next. */
static void check_turns(const struct client *client, unsigned ticker)
{
    const struct world *world = client->world;

    for (unsigned i = 0; i < world->tickers && client->given_at[ticker][1] > 0; i++) {
        if (client->model.waiting[i] != 0 && i != ticker)
            CHECK(world, client->given_at[ticker][1] <= client->waits_since[i] ||
                             client->waits_since[i] == 0);
    }
}

static void client_update(struct client *client, const struct subscription_event *event)
{
    struct world *world = client->world;
    unsigned ticker = update_at(world, event->sequence)->ticker;
    uint64_t *given_at = client->given_at[ticker];
    uint8_t bytes[MARKET_EVENT_SIZE_MAX];

    make_bytes(bytes, event->sequence);
    CHECK(world, event->size == size_of(event->sequence));
    CHECK(world, memcmp(event->bytes, bytes, event->size) == 0);
    CHECK(world, client->wanted[ticker]);
    CHECK(world, event->sequence >= client->have[ticker]);
    client->have[ticker] = event->sequence;
    if (event->snapshot) {
        CHECK(world, event->published_ms == 0 && given_at[0] == 0);
        return;
    }
    /* In one stream each comes once. */
    CHECK(world, event->sequence > client->model.position);
    client->got++;
    if (client->options.min_interval_ms > 0 && given_at[0] > 0)
        CHECK(world, world->now_ms - client->given_ms[ticker] >= client->options.min_interval_ms);
    client->given_ms[ticker] = world->now_ms;
    check_turns(client, ticker);
    given_at[1] = given_at[0];
    given_at[0] = client->events;
}

/* Takes an event for what it says. */
static void client_event(struct client *client, const struct subscription_event *event)
{
    struct world *world = client->world;

    client->events++;
    client->told += event->conflated + event->dropped;
    world->conflated_told += event->conflated;
    world->dropped_told += event->dropped;
    if (client->options.policy != SLOW_POLICY_DROP_OLDEST)
        CHECK(world, event->dropped == 0);
    if (!client->model.merging)
        CHECK(world, event->conflated == 0);
    world->gaps += event->kind == SUBSCRIPTION_GAP;
    world->heartbeats += event->kind == SUBSCRIPTION_HEARTBEAT;
    if (event->kind == SUBSCRIPTION_UPDATE)
        client_update(client, event);
    if (!event->snapshot) {
        client->knows = true;
        client->epoch = EPOCH;
        client->sequence = event->resume_sequence > 0 ? event->resume_sequence : event->sequence;
        check_position(client);
    }
    /* What came, what was told, and what waits is all there was. */
    CHECK(world, client->got + client->told + count_queue(client) + client->model.conflated +
                         client->model.dropped ==
                     client->due);
}

/* ---- Pulling ---- */

static void check_event(const struct client *client, const struct subscription_event *event,
                        const struct subscription_event *expected)
{
    const struct world *world = client->world;

    CHECK(world, event->kind == expected->kind);
    CHECK(world, event->sequence == expected->sequence);
    CHECK(world, event->conflated == expected->conflated);
    CHECK(world, event->dropped == expected->dropped);
    CHECK(world, event->resume_sequence == expected->resume_sequence);
    CHECK(world, event->snapshot == expected->snapshot);
    CHECK(world, event->published_ms == expected->published_ms);
    CHECK(world, event->gap_from == expected->gap_from);
    CHECK(world, event->gap_to == expected->gap_to);
    CHECK(world, event->gap_updates == expected->gap_updates);
    if (event->kind == SUBSCRIPTION_GAP)
        CHECK(world, event->gap_reason == expected->gap_reason);
}

static void expect_heartbeat(const struct client *client, struct subscription_event *expected)
{
    const struct model *model = &client->model;

    CHECK(client->world, heartbeat_allowed(client));
    expected->kind = SUBSCRIPTION_HEARTBEAT;
    expected->sequence = model->merging ? model->done : newest(client->world);
}

/* Asks for an event. False: there was none. */
static bool pull(struct client *client)
{
    struct world *world = client->world;
    struct subscription_event event, expected;
    bool expects;

    world->looked_at = client;
    if (client->cut) {
        CHECK(world, !subscription_peek(client->subscription, &event));
        return false;
    }
    expects = expect(client, &expected);
    if (!subscription_peek(client->subscription, &event)) {
        CHECK(world, !expects);
        client->model.hungry = !client->model.lost;
        client->model.soft_ms = 0;
        client->ready = 0;
        return false;
    }
    if (!expects)
        expect_heartbeat(client, &expected);
    check_event(client, &event, &expected);
    client->model.hungry = false;
    if (one_in(world, 8)) { /* it stays the next until it is taken */
        CHECK(world, subscription_peek(client->subscription, &event));
        check_event(client, &event, &expected);
        if (one_in(world, 2))
            return true;
    }
    subscription_take(client->subscription);
    model_take(client, &expected);
    client_event(client, &event);
    return true;
}

static void on_ready(void *context)
{
    struct client *client = context;

    client->world->looked_at = client;
    CHECK(client->world, client->model.hungry && !client->cut);
    client->ready++;
}

/* Whoever had nothing has been told, once, if there is something now, and only then. */
static void check_ready(struct client *client)
{
    struct world *world = client->world;
    struct model *model = &client->model;
    bool available;

    if (!client->subscription || client->cut || !model->hungry)
        return;
    world->looked_at = client;
    available = model_available(client);
    CHECK(world, client->ready <= 1);
    if (available)
        CHECK(world, client->ready == 1);
    else
        CHECK(world, client->ready == 0 || heartbeat_allowed(client));
    if (client->options.heartbeat_ms > 0 &&
        world->now_ms - model->taken_ms > client->options.heartbeat_ms + LATE_MS_MAX)
        CHECK(world, client->ready == 1);
    if (client->ready == 1) {
        model->hungry = false;
        client->ready = 0;
    }
}

static void on_wake_later(void *context)
{
    struct world *world = context;

    world->wake_wanted = true;
}

/* Some are woken later than others, and much may have happened meanwhile. */
static void check_all_ready(struct world *world)
{
    if (world->wake_wanted && one_in(world, 2))
        return;
    while (world->wake_wanted) {
        world->wake_wanted = false;
        market_wake(world->market);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        check_ready(&world->clients[i]);
}

/* ---- Beginning and ending ---- */

static void stream_free(struct client *client)
{
    struct world *world = client->world;

    if (!client->subscription)
        return;
    /* What was not told any more may have been counted, or not. */
    world->conflated_most += client->model.conflated;
    world->dropped_most += client->model.dropped;
    client->subscription = subscription_free(client->subscription);
    free(client->model.queue);
    client->model = (struct model){0};
}

static void on_cut_off(void *context, enum cut_off_reason reason, const char *text)
{
    struct client *client = context;

    CHECK(client->world, client->world->sweeping && !client->cut);
    CHECK(client->world, strlen(text) > 0);
    client->cut = true;
    client->cut_reason = reason;
    client->world->cut_offs[reason]++;
    if (client->frees_itself)
        client->subscription = subscription_free(client->subscription);
}

static uint64_t unsent(void *context)
{
    const struct client *client = context;

    return client->unsent;
}

/* Which tickers: all, one, some, or many; each once, in any order. */
static void choose_tickers(struct client *client)
{
    struct world *world = client->world;
    bool all = world->options.wake_max > 0 && one_in(world, 2); /* or few are ever woken late */
    unsigned kind = all ? 0 : (unsigned)below(world, 4), count = 0;

    memset(client->wanted, 0, sizeof(client->wanted));
    if (kind == 1)
        count = 1;
    else if (kind == 2)
        count = 1 + (unsigned)below(world, MIN(world->tickers, 32u));
    else if (kind == 3)
        count = 1 + (unsigned)below(world, world->tickers);
    client->options.tickers = client->tickers;
    client->options.ticker_count = count;
    if (count == 0)
        memset(client->wanted, true, sizeof(client->wanted));
    for (unsigned i = 0; i < count; i++) {
        unsigned ticker;

        do
            ticker = (unsigned)below(world, world->tickers);
        while (client->wanted[ticker]);
        client->wanted[ticker] = true;
        client->tickers[i] = ticker;
    }
}

static void choose_options(struct client *client)
{
    static const uint32_t intervals[] = {0, 0, 0, 20, 100, 1000};
    static const uint64_t heartbeats[] = {0, 0, 50, 500, 5000};
    struct world *world = client->world;
    struct subscription_options *options = &client->options;

    *options = (struct subscription_options){
        .policy = (enum slow_policy)below(world, SLOW_POLICY_COUNT),
        .max_queue = one_in(world, 3) ? 0 : 1 + (uint32_t)below(world, one_in(world, 2) ? 5 : 200),
        .min_interval_ms = intervals[below(world, ELEMENTSOF(intervals))],
        .heartbeat_ms = heartbeats[below(world, ELEMENTSOF(heartbeats))],
        .snapshot = one_in(world, 2),
        .ready = on_ready,
        .cut_off = on_cut_off,
        .unsent = one_in(world, 2) ? unsent : NULL,
        .context = client,
    };
    choose_tickers(client);
    client->frees_itself = one_in(world, 2);
    client->knows = false;
    memset(client->have, 0, sizeof(client->have));
}

/* Where to go on: mostly where it was, else anywhere. */
static void choose_resume(struct client *client)
{
    struct world *world = client->world;
    struct subscription_options *options = &client->options;

    options->resume = client->knows ? !one_in(world, 8) : one_in(world, 4);
    options->resume_epoch = client->knows ? client->epoch : EPOCH;
    options->resume_sequence = client->sequence;
    if (client->knows && !one_in(world, 5))
        return;
    if (one_in(world, 4))
        options->resume_epoch = EPOCH + 1;
    options->resume_sequence = below(world, newest(world) + 3);
    memset(client->have, 0, sizeof(client->have));
}

static void model_init(struct client *client, enum resume_outcome outcome)
{
    struct world *world = client->world;
    const struct subscription_options *options = &client->options;
    struct model *model = &client->model;
    uint64_t asked = MAX(options->resume_sequence, world->base);

    *model = (struct model){
        .merging = options->policy == SLOW_POLICY_CONFLATE || options->min_interval_ms > 0,
        .start = newest(world),
        .position = options->resume && outcome == RESUME_COMPLETE ? asked : newest(world),
        .gap_from = asked + 1,
        .gap_epoch = outcome == RESUME_EPOCH,
        .taken_ms = world->now_ms,
        .phase = PHASE_LIVE,
    };
    if (options->resume && outcome != RESUME_COMPLETE)
        model->phase = PHASE_GAP;
    else if (options->snapshot && !options->resume)
        model->phase = PHASE_SNAPSHOT;
    model->done = model->position;
    client->due = client->got = client->told = client->events = 0;
    client->ready = 0;
    client->cut = false;
    memset(client->given_at, 0, sizeof(client->given_at));
    memset(client->waits_since, 0, sizeof(client->waits_since));
    /* Of a snapshot that was not told to its end it may have values that come again. */
    for (unsigned i = 0; i < TICKERS_MAX && !model->merging; i++)
        client->have[i] = MIN(client->have[i], model->position);
    for (uint64_t i = model->position + 1; i <= newest(world); i++)
        model_add(client, i);
}

static enum resume_outcome expect_outcome(const struct client *client)
{
    const struct world *world = client->world;
    uint64_t asked = MAX(client->options.resume_sequence, world->base);

    if (client->options.resume_epoch != EPOCH)
        return RESUME_EPOCH;
    if (asked > newest(world))
        return RESUME_AHEAD;
    return asked + 1 < market_first_sequence(world->market) ? RESUME_HISTORY : RESUME_COMPLETE;
}

static void stream_new(struct client *client)
{
    struct world *world = client->world;
    uint64_t before = market_stats(world->market)->subscriptions_size;
    enum resume_outcome outcome = RESUME_COMPLETE;
    int r;

    if (!client->knows || one_in(world, 6))
        choose_options(client);
    choose_resume(client);
    if (client->options.resume)
        outcome = expect_outcome(client);
    r = subscription_new(&client->subscription, world->market, &world->loop, &client->options);
    CHECK(world, (r == SUBSCRIPTION_AHEAD) == (outcome == RESUME_AHEAD));
    if (r == SUBSCRIPTION_NO_ROOM) {
        CHECK(world, before + 8192 > world->options.subscriptions_size_max);
        client->subscription = NULL;
        world->refused++;
        return;
    }
    world->resumes[outcome] += client->options.resume;
    if (r == SUBSCRIPTION_AHEAD) {
        client->knows = false;
        client->subscription = NULL;
        return;
    }
    CHECK(world, r == 0);
    CHECK(world,
          market_stats(world->market)->subscriptions_size <= world->options.subscriptions_size_max);
    model_init(client, outcome);
}

/* ---- Steps ---- */

static void publish(struct world *world, unsigned ticker)
{
    const struct market_quote quote = {.price = 1 + (double)below(world, 1000)};
    uint64_t sequence;

    world->updates = grow(world->updates, world->count, &world->room, sizeof(*world->updates));
    sequence = world->base + ++world->count;
    world->updates[world->count - 1] =
        (struct update){.ticker = ticker, .size = size_of(sequence), .published_ms = world->now_ms};
    world->last[ticker] = sequence;
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (world->clients[i].subscription && !world->clients[i].cut)
            model_add(&world->clients[i], sequence);
    }
    market_publish(world->market, ticker, &quote);
    CHECK(world, market_sequence(world->market) == sequence);
    check_all_ready(world);
}

static void add_ticker(struct world *world)
{
    char name[16];
    unsigned ticker;

    if (world->tickers == world->options.tickers_max)
        return;
    (void)snprintf(name, sizeof(name), "T%u", world->tickers);
    CHECK(world, market_add_ticker(world->market, name, &ticker) == 0);
    CHECK(world, ticker == world->tickers);
    world->tickers++;
}

/* Some tickers change often, most do not. */
static void publish_some(struct world *world)
{
    uint64_t count = 1 + below(world, one_in(world, 10) ? 300 : 12);
    unsigned busy = 1 + (unsigned)below(world, world->tickers);

    /* More than the history can hold, now and then. */
    if (one_in(world, 200))
        count = 1500;
    while (count-- > 0)
        publish(world, (unsigned)below(world, one_in(world, 3) ? world->tickers : busy));
}

static void wait_ms(struct world *world, uint64_t ms)
{
    world->now_ms += ms;
    world->uv.time = world->now_ms;
    wheel_advance(&world->loop.wheel, world->now_ms, 1000);
    check_all_ready(world);
}

static void pass_time(struct world *world)
{
    static const uint64_t spans[] = {1, 5, 30, 200, 1200, 6000};

    wait_ms(world, 1 + below(world, spans[below(world, ELEMENTSOF(spans))]));
}

static void pull_some(struct client *client)
{
    uint64_t most = one_in(client->world, 3) ? UINT64_MAX : 1 + below(client->world, 6);

    while (most-- > 0 && pull(client))
        ;
}

static struct market_limits draw_limits(struct world *world)
{
    bool soft = one_in(world, 2), hard = one_in(world, 2);

    return (struct market_limits){
        .queue_updates_max = one_in(world, 2) ? 1 + (uint32_t)below(world, 300) : 100000,
        .soft_bytes = soft && one_in(world, 2) ? 1 + below(world, 20000) : 0,
        .soft_age_ms = soft && one_in(world, 2) ? 1 + below(world, 1000) : 0,
        .soft_time_ms = below(world, one_in(world, 2) ? 50 : 3000),
        .hard_bytes = hard ? 1 + below(world, 60000) : 0,
        .hard_age_ms = hard && one_in(world, 2) ? 1 + below(world, 10000) : 0,
    };
}

static void set_limits(struct world *world)
{
    world->options.limits = draw_limits(world);
    market_set_limits(world->market, &world->options.limits);
}

/* ---- Sweeping ---- */

#define NOT_CUT CUT_OFF_REASON_COUNT

static enum cut_off_reason expect_soft(struct client *client, uint64_t bytes, uint64_t age_ms)
{
    const struct world *world = client->world;
    const struct market_limits *limits = &world->options.limits;
    bool by_bytes = limits->soft_bytes > 0 && bytes > limits->soft_bytes;
    bool by_age = limits->soft_age_ms > 0 && age_ms > limits->soft_age_ms;

    if (!by_bytes && !by_age) {
        client->model.soft_ms = 0;
        return NOT_CUT;
    }
    if (client->model.soft_ms == 0)
        client->model.soft_ms = world->now_ms;
    if (world->now_ms - client->model.soft_ms < limits->soft_time_ms)
        return NOT_CUT;
    return by_bytes ? CUT_OFF_SOFT_BYTES : CUT_OFF_SOFT_AGE;
}

/* Why a sweep must cut it off, if so. */
/* It had nothing, and has not been told that there is something: a sweep may just have told it. */
static bool is_hungry(const struct client *client)
{
    return client->model.hungry && client->ready == 0;
}

static enum cut_off_reason expect_cut_off(struct client *client)
{
    const struct world *world = client->world;
    const struct market_limits *limits = &world->options.limits;
    struct model *model = &client->model;
    uint64_t bytes = 0, age_ms;
    bool all = client->options.policy == SLOW_POLICY_DISCONNECT;

    if (model->merging || is_hungry(client) || client->options.policy == SLOW_POLICY_DROP_OLDEST)
        return NOT_CUT;
    model_settle(client);
    if (model->lost)
        return CUT_OFF_HISTORY;
    if (!has_queue(model) || model->queue[model->first] <= model->start) {
        model->soft_ms = 0;
        return NOT_CUT;
    }
    for (size_t i = model->first; i < model->end; i++)
        bytes += size_of(model->queue[i]);
    if (client->options.unsent)
        bytes += client->unsent;
    age_ms = world->now_ms - update_at(world, model->queue[model->first])->published_ms;
    if (all && count_queue(client) > max_queue(client))
        return CUT_OFF_MAX_QUEUE;
    if (limits->hard_bytes > 0 && bytes > limits->hard_bytes)
        return CUT_OFF_HARD_BYTES;
    if (limits->hard_age_ms > 0 && age_ms > limits->hard_age_ms)
        return CUT_OFF_HARD_AGE;
    return all ? expect_soft(client, bytes, age_ms) : NOT_CUT;
}

static void check_gauges(struct world *world)
{
    const struct market_stats *stats = market_stats(world->market);
    uint64_t first = market_first_sequence(world->market), bytes = 0;
    uint64_t subscribers[SLOW_POLICY_COUNT] = {0};

    for (uint64_t i = first; i <= newest(world); i++)
        bytes += size_of(i);
    CHECK(world, stats->history_bytes == bytes && bytes <= world->options.history_bytes_max);
    CHECK(world, stats->history_updates == newest(world) + 1 - first);
    CHECK(world, stats->updates_total == world->count);
    /* Nothing is forgotten without need. */
    if (world->options.history_age_ms == 0 && first > world->base + 1)
        CHECK(world,
              bytes + (uint64_t)3 * MARKET_EVENT_SIZE_MAX > world->options.history_bytes_max);
    for (unsigned i = 0; i < CLIENTS; i++)
        subscribers[world->clients[i].options.policy] += world->clients[i].subscription != NULL;
    for (unsigned i = 0; i < SLOW_POLICY_COUNT; i++)
        CHECK(world, stats->subscribers[i] == subscribers[i]);
    CHECK(world, stats->gaps_total == world->gaps && stats->heartbeats_total == world->heartbeats);
    CHECK(world, memcmp(stats->cut_off_total, world->cut_offs, sizeof(world->cut_offs)) == 0);
    CHECK(world, memcmp(stats->resumes_total, world->resumes, sizeof(world->resumes)) == 0);
}

static void sweep(struct world *world)
{
    uint64_t behind[SLOW_POLICY_COUNT] = {0}, first;

    world->sweeping = true;
    market_sweep(world->market);
    world->sweeping = false;
    first = market_first_sequence(world->market);
    if (world->options.history_age_ms > 0 && first <= newest(world))
        CHECK(world, world->now_ms - update_at(world, first)->published_ms <=
                         world->options.history_age_ms);
    check_gauges(world);
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *client = &world->clients[i];
        bool freed = client->cut && client->frees_itself;
        enum cut_off_reason reason;

        if (!client->subscription && !freed)
            continue;
        if (client->cut && client->cut_reason == NOT_CUT) /* in an earlier one */
            continue;
        world->looked_at = client;
        reason = expect_cut_off(client);
        CHECK(world, client->cut ? client->cut_reason == reason : reason == NOT_CUT);
        client->cut_reason = NOT_CUT;
        if (!client->cut && !is_hungry(client) && count_queue(client) > 0)
            behind[client->options.policy]++;
        if (freed) {
            free(client->model.queue);
            client->model = (struct model){0};
            client->cut = false;
        }
    }
    CHECK(world, memcmp(market_stats(world->market)->behind, behind, sizeof(behind)) == 0);
    check_all_ready(world);
}

static void check_queue(struct client *client)
{
    struct subscription_queue queue;

    if (client->cut || client->model.phase != PHASE_LIVE)
        return;
    model_settle(client);
    subscription_queue(client->subscription, &queue);
    if (!client->model.lost)
        CHECK(client->world, queue.updates == count_queue(client));
}

static void step(struct world *world)
{
    struct client *client = &world->clients[below(world, CLIENTS)];

    switch (below(world, 18)) {
    case 0:
    case 16:
    case 17:
        sweep(world);
        break;
    case 1:
    case 2:
        pass_time(world);
        break;
    case 3:
        if (one_in(world, 6))
            set_limits(world);
        for (uint64_t i = one_in(world, 10) ? below(world, 80) : 0; i > 0; i--)
            add_ticker(world);
        if (client->subscription)
            check_queue(client);
        client->unsent = below(world, 3) * below(world, 10000);
        break;
    case 4:
        if (client->subscription && one_in(world, 2))
            stream_free(client);
        else if (!client->subscription)
            stream_new(client);
        break;
    case 5:
    case 6:
    case 7:
    case 8:
        publish_some(world);
        break;
    default:
        if (!client->subscription)
            stream_new(client);
        else
            pull_some(client);
        break;
    }
}

/* ---- The whole ---- */

static void world_init(struct world *world, uint64_t seed)
{
    *world = (struct world){.seed = seed, .random = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15)};
    for (unsigned i = 0; i < 8; i++)
        (void)draw(world);
    world->now_ms = 1 + below(world, 100000);
    world->uv.time = world->now_ms;
    world->loop.uv = &world->uv;
    wheel_init(&world->loop.wheel, world->now_ms);
    world->options = (struct market_options){
        .epoch = EPOCH,
        .history_bytes_max = 65536 + below(world, 2) * below(world, 100000),
        .history_age_ms = one_in(world, 3) ? 1 + below(world, 20000) : 0,
        .tickers_max = 1 + (unsigned)below(world, one_in(world, 2) ? 8 : TICKERS_MAX),
        .subscriptions_size_max = one_in(world, 10) ? 2000 : 1000000,
        .limits = draw_limits(world),
        .encode = encode,
        .clock = clock_of,
        .wake_later = on_wake_later,
        .wake_max = (unsigned)below(world, 3),
        .context = world,
    };
    assert_int_equal(market_new(&world->market, &world->options), 0);
    world->base = market_sequence(world->market);
    for (unsigned i = 0; i < CLIENTS; i++)
        world->clients[i].world = world;
    do
        add_ticker(world);
    while (!one_in(world, 1 + world->options.tickers_max));
}

/* Whoever is still there gets all that there is, and has then each ticker's last value. */
static void drain(struct world *world)
{
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < CLIENTS; i++) {
            while (world->clients[i].subscription && pull(&world->clients[i]))
                ;
        }
        wait_ms(world, 1000);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        const struct client *client = &world->clients[i];

        if (!client->subscription || client->cut || client->model.lost)
            continue;
        for (unsigned j = 0; j < 200 && count_queue(client) > 0; j++) {
            wait_ms(world, 1000);
            while (pull(&world->clients[i]))
                ;
        }
        CHECK(world, count_queue(client) == 0);
        CHECK(world, client->got + client->told + client->model.conflated + client->model.dropped ==
                         client->due);
        for (unsigned j = 0; j < world->tickers; j++) {
            if (client->options.policy != SLOW_POLICY_DROP_OLDEST && client->wanted[j] &&
                world->last[j] > client->model.position)
                CHECK(world, client->have[j] == world->last[j]);
        }
    }
}

/* What has happened in all seeds together. */
static struct {
    uint64_t cut_offs[CUT_OFF_REASON_COUNT], resumes[RESUME_OUTCOME_COUNT];
    uint64_t gaps, heartbeats, conflated, dropped, forgotten, refused;
} happened;

static void note(const struct world *world)
{
    for (unsigned i = 0; i < CUT_OFF_REASON_COUNT; i++)
        happened.cut_offs[i] += world->cut_offs[i];
    for (unsigned i = 0; i < RESUME_OUTCOME_COUNT; i++)
        happened.resumes[i] += world->resumes[i];
    happened.gaps += world->gaps;
    happened.heartbeats += world->heartbeats;
    happened.conflated += world->conflated_told;
    happened.dropped += world->dropped_told;
    happened.forgotten += market_first_sequence(world->market) - world->base - 1;
    happened.refused += world->refused;
}

static void run(uint64_t seed)
{
    struct world *world = calloc(1, sizeof(*world));
    const struct market_stats *stats;

    assert_non_null(world);
    world_init(world, seed);
    for (unsigned i = 0; i < STEPS; i++)
        step(world);
    drain(world);
    for (unsigned i = 0; i < CLIENTS; i++)
        stream_free(&world->clients[i]);
    check_gauges(world);
    stats = market_stats(world->market);
    CHECK(world, stats->subscriptions_size == 0);
    CHECK(world, stats->conflated_total >= world->conflated_told &&
                     stats->conflated_total <= world->conflated_told + world->conflated_most);
    CHECK(world, stats->dropped_total >= world->dropped_told &&
                     stats->dropped_total <= world->dropped_told + world->dropped_most);
    CHECK(world, wheel_next(&world->loop.wheel) == WHEEL_NEVER);
    note(world);
    world->market = market_free(world->market);
    free(world->updates);
    free(world);
}

static uint64_t only_seed = UINT64_MAX;

static void test_market_model(void **state)
{
    if (only_seed != UINT64_MAX) {
        run(only_seed);
        return;
    }
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        run(seed);
    /* A model that nothing happens to proves nothing. */
    for (unsigned i = 0; i < CUT_OFF_REASON_COUNT; i++)
        assert_true(happened.cut_offs[i] > SEEDS / 100);
    for (unsigned i = 0; i < RESUME_OUTCOME_COUNT; i++)
        assert_true(happened.resumes[i] > SEEDS / 10);
    assert_true(happened.gaps > SEEDS / 10 && happened.heartbeats > SEEDS);
    assert_true(happened.conflated > SEEDS * 10 && happened.dropped > SEEDS * 10);
    assert_true(happened.forgotten > SEEDS * 10 && happened.refused > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_market_model)};

    if (argc > 1)
        only_seed = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
