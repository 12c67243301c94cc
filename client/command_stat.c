/*
 * stock-client stat: what a subscription brings, in one line a second.
 */
#include "client/command_stat_report.h"
#include "client/commands.h"
#include "client/session.h"

#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

static const char usage[] =
    "Usage: stock-client stat [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "Subscribe to tickers of the server at ADDRESS, " TARGET_DEFAULT " by default, or to all of\n"
    "them, and print once a second what came, what was left out, and how late it was.\n"
    "\n"
    "  -i, --interval TIME   print each TIME instead, such as 10s\n"
    "  -n, --count N         stop after N lines\n"
    "  -o, --output FORMAT   print as text (the default), json or csv\n"
    "      --policy POLICY   what becomes of updates that are not taken in time: block (the\n"
    "                        default), conflate, drop-oldest or disconnect\n"
    "      --max-queue N     updates that may wait, with drop-oldest and disconnect\n"
    "      --min-interval TIME  at most one update of each ticker in TIME\n"
    "      --heartbeat TIME  have the server speak after TIME of silence (15s)\n"
    "      --snapshot        begin with the last value of each ticker\n"
    "  -w, --window BYTES    let the server be so far ahead of what is processed (65535)\n"
    "  -t, --max-time TIME   stop after TIME, such as 30s\n" SUBSCRIBE_USAGE "\n"
    "At its end it sums up on standard error. stock-client(1) explains the columns, and the\n"
    "exit codes: 0 done, 1 call failed, 2 wrong usage, 3 no connection, 130 interrupted.\n";

static const char *const own_options[] = {"max-time",  "interval",     "window",   "no-reconnect",
                                          "count",     "output",       "policy",   "max-queue",
                                          "heartbeat", "min-interval", "snapshot", NULL};

static const struct subscribe_command command = {
    .name = "stat",
    .usage = usage,
    .options = own_options,
    .interval = "1s",
    .interval_min_ms = 10,
};

struct stat_command {
    struct session session;
    struct stat_report report;
    struct tally tally;
    struct lags lags; /* of the lines before */
    struct wheel_timer tick;
    uint64_t next_ms; /* when the next line is due */
    uint64_t line_ns; /* when the one before was, on uv_hrtime()'s clock */
    uint64_t lines;
};

/* While standard output takes nothing there is no line, and the next one is of a longer time. */
static void print_line(struct stat_command *stat)
{
    struct session *session = &stat->session;
    uint64_t now_ns = uv_hrtime();
    struct stat_line line = {
        .time_ns = session_unix_ns(),
        .seconds = (double)(now_ns - stat->line_ns) / 1e9,
        .unprocessed_bytes = session->stats.unprocessed_bytes,
        .reconnects = session_reconnects(session),
        .connected = client_is_calling(&session->client),
    };

    if (!output_ready(&session->consumer.output))
        return;
    lags_merge(&stat->lags, &stat->tally.lags);
    stat_report_take(&stat->report, &stat->tally, &line);
    stat->line_ns = now_ns;
    stat->lines++;
    stat_report_line(&stat->report, &session->consumer.output.text, &line);
    consumer_flush(&session->consumer);
    if (session->options.count > 0 && stat->lines == session->options.count)
        session_end(session, EXIT_DONE);
}

/* Each line has its time from the first one on: being late does not add up. */
static void on_tick(struct wheel_timer *timer)
{
    struct stat_command *stat = container_of(timer, struct stat_command, tick);
    struct loop *loop = &stat->session.program.loop;
    uint64_t now_ms = loop_now_ms(loop);

    print_line(stat);
    if (stat->session.client.stopping)
        return;
    do
        stat->next_ms += stat->session.options.interval_ms;
    while (stat->next_ms <= now_ms);
    loop_arm(loop, &stat->tick, stat->next_ms - now_ms, 1);
}

static int prepare(struct session *session)
{
    struct stat_command *stat = session->user;

    stat->report.format = session->options.format;
    return subscribe_options_pack(&session->options);
}

static int on_start(struct session *session)
{
    struct stat_command *stat = session->user;

    stat->tick.fire = on_tick;
    stat->line_ns = session->start_ns;
    stat->next_ms = loop_now_ms(&session->program.loop) + session->options.interval_ms;
    loop_arm(&session->program.loop, &stat->tick, session->options.interval_ms, 1);
    return 0;
}

static bool on_event(struct session *session, const Stockservice__MarketEvent *event, size_t bytes)
{
    struct stat_command *stat = session->user;

    tally_event(&stat->tally, event, bytes, session_unix_ns());
    return true;
}

static void on_stop(struct session *session)
{
    struct stat_command *stat = session->user;
    struct text text = {0};

    loop_disarm(&session->program.loop, &stat->tick);
    lags_merge(&stat->lags, &stat->tally.lags);
    stat_report_summary(&text, &stat->tally, &stat->lags, session_seconds(session),
                        session_reconnects(session));
    text_add_char(&text, 0);
    if (!text.failed)
        session_tell_end(session, stat->tally.updates, stat->tally.gaps, text.bytes);
    text_deinit(&text);
}

static const struct session_ops ops = {
    .prepare = prepare,
    .start = on_start,
    .event = on_event,
    .stop = on_stop,
};

int command_stat(int argc, char *argv[])
{
    static struct stat_command stat;

    stat.session.ops = &ops;
    stat.session.user = &stat;
    return session_main(&stat.session, &command, argc, argv);
}
