/*
 * stock-client watch: prints what a subscription to the market brings, and goes on where it was
 * when the connection, the server or this program itself went away.
 *
 *     event --> printed --(written to standard output)--> processed --(once a second)--> state file
 *
 * Only what has been written counts as done: what is lost with the program is asked for again.
 */
#include "client/commands.h"
#include "client/count.h"
#include "client/print_event.h"
#include "client/scrape.h"
#include "client/session.h"
#include "client/state.h"
#include "client/template.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A position goes to the disk no sooner than so long after the one before. */
#define SAVE_MS 1000

static const char usage[] =
    "Usage: stock-client watch [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "Subscribe to tickers of the server at ADDRESS, " TARGET_DEFAULT " by default, or to all of\n"
    "them, and print what comes.\n"
    "\n"
    "      --policy POLICY   what becomes of updates that are not taken in time: block (the\n"
    "                        default), conflate, drop-oldest or disconnect\n"
    "      --max-queue N     updates that may wait, with drop-oldest and disconnect\n"
    "      --min-interval TIME  at most one update of each ticker in TIME\n"
    "      --heartbeat TIME  have the server speak after TIME of silence (15s)\n"
    "      --snapshot        begin with the last value of each ticker\n"
    "      --resume EPOCH:SEQUENCE  go on behind this position\n"
    "      --state FILE      keep the position in FILE, and go on there the next time\n"
    "  -F, --format TEMPLATE  print updates so, such as '{ticker} {price:.2} {change:+}'\n"
    "  -o, --output FORMAT   print as text (the default), json or csv\n"
    "  -q, --quiet           print nothing\n"
    "  -r                    wait 1, 2 or 3 seconds before each event is processed\n"
    "  -d, --delay MIN:MAX   wait between MIN and MAX instead, such as 50ms:2s\n"
    "  -w, --window BYTES    let the server be so far ahead of what is processed (65535)\n"
    "  -n, --count N         stop after N updates\n"
    "  -t, --max-time TIME   stop after TIME, such as 30s\n"
    "      --metrics ADDRESS serve /metrics there ([::]:2113)\n"
    "      --no-metrics      do not serve /metrics\n" SUBSCRIBE_USAGE "\n"
    "After a loss of the connection, and after it was cut off, it goes on where it was, and\n"
    "tells what is missing. stock-client(1) explains how, and the exit codes: 0 done, 1 call\n"
    "failed, 2 wrong usage, 3 no connection, 130 interrupted.\n";

static const char *const own_options[] = {
    "max-time",  "window", "no-reconnect", "count",     "output",     "policy",
    "max-queue", "delay",  "min-interval", "heartbeat", "snapshot",   "quiet",
    "format",    "resume", "state",        "metrics",   "no-metrics", NULL};

static const struct subscribe_command command = {
    .name = "watch",
    .usage = usage,
    .options = own_options,
};

struct watch_command {
    struct session session;
    struct template template;
    struct state state;
    struct scrape scrape;
    struct wheel_timer save;
    Stockservice__Position taken;     /* of the last event that was taken in; epoch 0: none yet */
    Stockservice__Position processed; /* of the last one that was written */
    Stockservice__Position saved;
    bool resuming;  /* the call has asked to go on, and nothing has come of it */
    bool beginning; /* no position is kept that the next event follows */
    bool late;      /* one is to be kept as soon as what was printed before it is written */
    bool failed;    /* the state could not be saved */
    uint64_t updates;
    uint64_t snapshots; /* of these */
};

/* ---- The position ---- */

static void save_position(struct watch_command *watch, const Stockservice__Position *position)
{
    int r;

    if (!watch->session.options.state || watch->failed || position->epoch == 0 ||
        (position->epoch == watch->saved.epoch && position->sequence == watch->saved.sequence))
        return;
    r = state_save(&watch->state, position->epoch, position->sequence);
    if (r == 0) {
        watch->saved = *position;
        return;
    }
    /* What was saved before still is: the next run repeats, and loses nothing. */
    watch->failed = true;
    log_event(LOG_ERR,
              log_fields(LOG_EVENT(POSITION_NOT_SAVED),
                         {"STOCKD_FILE", watch->session.options.state},
                         {"STOCKD_ERROR", strerror(-r)}),
              "cannot save the position in %s: %s", watch->session.options.state, strerror(-r));
    session_end(&watch->session, EXIT_FAILED);
}

static void on_save(struct wheel_timer *timer)
{
    struct watch_command *watch = container_of(timer, struct watch_command, save);

    save_position(watch, &watch->processed);
}

/*
 * The first event ever, or after a gap: from here on nothing may be missing, so the position before
 * it is kept before a byte of it is printed. The snapshot before has to be written then: who begins
 * behind it does not get it again.
 */
static void save_start(struct watch_command *watch, const Stockservice__MarketEvent *event)
{
    Stockservice__Position before = STOCKSERVICE__POSITION__INIT;

    watch->beginning = false;
    if (!watch->session.options.state)
        return;
    if (output_flush(&watch->session.consumer.output) != 0) {
        watch->late = true; /* it is full, or broken, which is told elsewhere */
        return;
    }
    before.epoch = event->epoch;
    before.sequence = event->sequence;
    if (event->resume_sequence > 0)
        before.sequence = event->resume_sequence;
    else if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE && event->sequence > 0)
        before.sequence--;
    save_position(watch, &before);
}

/* All that was taken in has been written. */
static void on_settled(struct session *session)
{
    struct watch_command *watch = session->user;

    watch->processed = watch->taken;
    if (watch->late)
        save_position(watch, &watch->processed);
    watch->late = false;
    if (session->options.state && watch->processed.epoch != 0 && !wheel_armed(&watch->save))
        loop_arm(&session->program.loop, &watch->save, SAVE_MS, 1);
}

/* The next call goes on behind what has been taken in. 0 or -ENOMEM. */
static int ask_for_rest(struct watch_command *watch)
{
    struct subscribe_options *options = &watch->session.options;

    if (watch->taken.epoch != 0) {
        options->resume = watch->taken;
        options->subscribe.resume = &options->resume;
    }
    watch->resuming = options->subscribe.resume;
    return subscribe_options_pack(options);
}

static void on_changed(struct session *session)
{
    struct watch_command *watch = session->user;

    if (client_is_calling(&session->client))
        return;
    /* Everything that came has been written: no call is open, and none is being dealt with. */
    if (ask_for_rest(watch) < 0) {
        log_event(LOG_ERR,
                  log_fields(LOG_EVENT(GAVE_UP),
                             {"STOCKD_TARGET", session->options.client.connect.target.text},
                             {"STOCKD_ERROR", strerror(ENOMEM)}),
                  "%s", strerror(ENOMEM));
        session_end(session, EXIT_FAILED);
    }
}

/* ---- Events ---- */

static void tell_gap(const struct session *session, const Stockservice__Gap *gap)
{
    const char *target = session->options.client.connect.target.text;

    if (gap->reason == STOCKSERVICE__GAP__REASON__REASON_EPOCH)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(GAP), {"STOCKD_TARGET", target}, {"STOCKD_REASON", "epoch"}),
                  "gap: the server was started anew; what has happened since %" PRIu64
                  " is not known",
                  gap->from_sequence);
    else
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(GAP), {"STOCKD_TARGET", target},
                             {"STOCKD_REASON", "history"},
                             {"STOCKD_MISSING", log_number(gap->updates)}),
                  "gap: %" PRIu64 " updates are missing, from %" PRIu64 " to %" PRIu64,
                  gap->updates, gap->from_sequence, gap->to_sequence);
}

static void count(struct watch_command *watch, const Stockservice__MarketEvent *event,
                  uint64_t now_ns)
{
    struct stats *stats = &watch->session.stats;
    bool is_gap = event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_GAP;

    count_add(&stats->conflated_total, event->conflated);
    count_add(&stats->dropped_total, event->dropped);
    if (watch->resuming)
        stats->resumes_total[is_gap ? RESUME_GAP : RESUME_CONTINUED]++;
    watch->resuming = false;
    if (is_gap) {
        stats->market_gaps_total++;
        count_add(&stats->missed_total, event->gap->updates);
        tell_gap(&watch->session, event->gap);
    } else if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE) {
        watch->updates++;
        watch->snapshots += event->snapshot;
        if (!event->snapshot && event->time_unix_nano > 0)
            stats->lag_seconds = ((double)now_ns - (double)event->time_unix_nano) / 1e9;
    }
}

/* Heartbeats are for the position, and are shown only where they tell of something else, too. */
static void print(struct watch_command *watch, const Stockservice__MarketEvent *event,
                  uint64_t now_ns)
{
    const struct subscribe_options *options = &watch->session.options;
    struct text *text = &watch->session.consumer.output.text;

    if (options->quiet)
        return;
    if (options->template) {
        if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE)
            template_print(text, &watch->template, event, now_ns);
    } else if (event->event_case != STOCKSERVICE__MARKET_EVENT__EVENT_HEARTBEAT ||
               event->conflated > 0 || event->dropped > 0) {
        print_event(text, options->format, event);
    }
}

static bool on_event(struct session *session, const Stockservice__MarketEvent *event, size_t bytes)
{
    struct watch_command *watch = session->user;
    struct consumer *consumer = &session->consumer;
    uint64_t now_ns = session_unix_ns();

    if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_GAP ||
        (!event->snapshot && event->epoch != watch->taken.epoch))
        watch->beginning = true;
    if (watch->beginning && !event->snapshot)
        save_start(watch, event);
    count(watch, event, now_ns);
    print(watch, event, now_ns);
    /* As the contract has it: a snapshot does not move the position. */
    if (!event->snapshot) {
        watch->taken.epoch = event->epoch;
        watch->taken.sequence = event->resume_sequence ? event->resume_sequence : event->sequence;
    }
    /* With this event it is enough, once it has been written. */
    if (session->options.count > 0 && watch->updates >= session->options.count)
        consumer->options.count = consumer->processed + consumer->printed_updates + 1;
    return true;
}

/* ---- Beginning and end ---- */

static int on_start(struct session *session)
{
    struct watch_command *watch = session->user;
    const struct subscribe_options *options = &session->options;

    watch->save.fire = on_save;
    /* What goes on may be written behind what was written before. */
    if (!options->quiet && !options->template && !watch->state.known)
        print_event_header(&session->consumer.output.text, options->format);
    if (scrape_start(&watch->scrape, &session->program.uv, &options->metrics,
                     options->metrics_given, &session->client) < 0)
        return EXIT_FAILED;
    return 0;
}

static void summarise(const struct watch_command *watch)
{
    const struct session *session = &watch->session;
    const struct stats *stats = &session->stats;
    double seconds = session_seconds(session);
    char text[400];

    (void)snprintf(text, sizeof(text),
                   "%" PRIu64 " updates received in %.3f s (%.1f/s), %" PRIu64
                   " of snapshots; %" PRIu64 " conflated, %" PRIu64 " dropped, %" PRIu64
                   " gaps (%" PRIu64 " updates), %" PRIu64 " reconnects",
                   watch->updates, seconds, seconds > 0 ? (double)watch->updates / seconds : 0.0,
                   watch->snapshots, stats->conflated_total, stats->dropped_total,
                   stats->market_gaps_total, stats->missed_total, session_reconnects(session));
    session_tell_end(session, watch->updates, stats->market_gaps_total, text);
}

static void on_stop(struct session *session)
{
    struct watch_command *watch = session->user;

    loop_disarm(&session->program.loop, &watch->save);
    scrape_stop(&watch->scrape);
    save_position(watch, &watch->processed);
    if (watch->failed)
        session->client.exit_code = EXIT_FAILED;
    if (session->client.has_stopped)
        summarise(watch);
}

/* What is wrong with files and templates is known before anything is connected: 0, a negative
 * errno, or OPTIONS_WRONG after it has been told. */
static int prepare(struct session *session)
{
    struct watch_command *watch = session->user;
    struct subscribe_options *options = &session->options;
    char error[MAX(STATE_ERROR_MAX, TEMPLATE_ERROR_MAX)];
    int r = 0;

    options->client.retry_exhausted = true;
    stockservice__position__init(&watch->taken);
    if (options->template)
        r = template_parse(&watch->template, options->template, error);
    if (r == -EINVAL) {
        (void)fprintf(stderr, "stock-client: --format: %s\n", error);
        return OPTIONS_WRONG;
    }
    if (r == 0 && options->state)
        r = state_open(&watch->state, options->state, error);
    if (r == -EINVAL) {
        program_tell_failure(error);
        return OPTIONS_WRONG;
    }
    if (r < 0)
        return r;
    if (watch->state.known) {
        watch->taken.epoch = watch->state.epoch;
        watch->taken.sequence = watch->state.sequence;
    }
    watch->processed = watch->saved = watch->taken;
    return ask_for_rest(watch);
}

static const struct session_ops ops = {
    .prepare = prepare,
    .start = on_start,
    .event = on_event,
    .settled = on_settled,
    .changed = on_changed,
    .stop = on_stop,
};

int command_watch(int argc, char *argv[])
{
    static struct watch_command watch;
    int exit_code;

    watch.session.ops = &ops;
    watch.session.user = &watch;
    exit_code = session_main(&watch.session, &command, argc, argv);
    template_deinit(&watch.template);
    state_close(&watch.state);
    return exit_code;
}
