/*
 * stock-client without a command: prints the updates of GetUpdates.
 */
#include "client/command_updates.h"
#include "client/commands.h"
#include "client/scrape.h"
#include "client/session.h"

#include <inttypes.h>
#include <stdio.h>

static const char usage[] =
    "Usage: stock-client [OPTION]... [HOST:PORT | unix:PATH]\n"
    "       stock-client COMMAND [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "Print the stock updates that a server streams, " TARGET_DEFAULT " by default; or do\n"
    "something else with the market that all of its subscribers share:\n"
    "\n"
#define X(name, help) "  " help "\n"
    COMMANDS(X)
#undef X
        "\n"
        "stock-client COMMAND --help tells more of them. Without a command:\n"
        "\n"
        "  -r                    wait 1, 2 or 3 seconds before each update is processed\n"
        "  -d, --delay MIN:MAX   wait between MIN and MAX instead, such as 50ms:2s\n"
        "  -w, --window BYTES    let the server be so far ahead of what is processed (65535)\n"
        "  -o, --output FORMAT   print updates as text (the default), json or csv\n"
        "  -q, --quiet           print no updates\n"
        "  -n, --count N         stop after N updates\n"
        "  -t, --max-time TIME   stop after TIME, such as 30s\n"
        "      --metrics ADDRESS serve /metrics there ([::]:2113)\n"
        "      --no-metrics      do not serve /metrics\n" SUBSCRIBE_USAGE "\n"
        "The server gets credit to send more only for updates that have been processed, so a\n"
        "slow client slows the server's stream down. stock-client(1) explains how, and the exit\n"
        "codes: 0 done, 1 call failed, 2 wrong usage, 3 no connection, 130 interrupted.\n";

static const char *const own_options[] = {"delay",        "window",   "output",  "quiet",
                                          "count",        "max-time", "metrics", "no-metrics",
                                          "no-reconnect", NULL};

const struct subscribe_command updates_command = {
    .usage = usage,
    .options = own_options,
};

struct updates {
    struct session session;
    struct scrape scrape;
};

static int prepare(struct session *session)
{
    session->options.client.request = &client_call_get_updates;
    return 0;
}

static int on_start(struct session *session)
{
    struct updates *updates = session->user;
    const struct subscribe_options *options = &session->options;
    int r = scrape_start(&updates->scrape, &session->program.uv, &options->metrics,
                         options->metrics_given, &session->client);

    return r < 0 ? EXIT_FAILED : 0;
}

static void summarise(const struct session *session)
{
    const struct stats *stats = &session->stats;
    uint64_t updates = stats->updates_received_total;
    double seconds = session_seconds(session);
    char text[200];

    (void)snprintf(text, sizeof(text),
                   "%" PRIu64 " updates received in %.3f s (%.1f/s), %" PRIu64 " gaps, %" PRIu64
                   " reconnects",
                   updates, seconds, seconds > 0 ? (double)updates / seconds : 0.0,
                   stats->gaps_total, session_reconnects(session));
    session_tell_end(session, updates, stats->gaps_total, text);
}

static void on_stop(struct session *session)
{
    struct updates *updates = session->user;

    scrape_stop(&updates->scrape);
    if (session->client.has_stopped)
        summarise(session);
}

static const struct session_ops ops = {
    .prepare = prepare,
    .start = on_start,
    .stop = on_stop,
};

int command_updates(int argc, char *argv[])
{
    static struct updates updates;

    updates.session.ops = &ops;
    updates.session.user = &updates;
    return session_main(&updates.session, &updates_command, argc, argv);
}
