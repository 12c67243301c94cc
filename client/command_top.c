/*
 * stock-client top: the market as a table on the whole screen.
 *
 *     server --events--> model, tally --(some times a second)--> picture --> terminal
 *                          ^                                                    |
 *                          '-------------------- keys --------------------------'
 *
 * The server merges what comes faster than pictures do, so that neither end works for what nobody
 * could see.
 */
#include "client/command_top_draw.h"
#include "client/command_top_terminal.h"
#include "client/commands.h"
#include "client/random.h"
#include "client/screen.h"
#include "client/session.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Lags are those of the last so many milliseconds, or up to twice as many. */
#define LAGS_MS 5000

static const char usage[] =
    "Usage: stock-client top [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "Show tickers of the server at ADDRESS, " TARGET_DEFAULT " by default, or all of them, as a\n"
    "table that is kept up to date; ? shows its keys, q ends it.\n"
    "\n"
    "  -i, --interval TIME   draw each TIME, and let the server merge what comes faster (250ms)\n"
    "  -w, --window BYTES    let the server be so far ahead of what is processed (65535)\n"
    "  -t, --max-time TIME   stop after TIME, such as 30s\n" SUBSCRIBE_USAGE "\n"
    "NO_COLOR=1 in the environment makes it do without colours. stock-client(1) explains the\n"
    "columns, and the exit codes: 0 done, 1 call failed, 2 wrong usage, 3 no connection,\n"
    "130 interrupted.\n";

static const char *const own_options[] = {"max-time", "interval", "window", "no-reconnect", NULL};

static const struct subscribe_command command = {
    .name = "top",
    .usage = usage,
    .options = own_options,
    .interval = "250ms",
    .interval_min_ms = 50,
};

struct top_command {
    struct session session;
    struct top_model model;
    struct top_keys keys;
    struct top_terminal terminal;
    struct tally tally;
    struct rate updates;
    struct rate bytes;
    uint64_t turned_ms; /* when the tally's ages turned */
};

/* ---- The picture ---- */

static enum top_link link_of(const struct top_command *top)
{
    const struct client *client = &top->session.client;

    if (client_is_calling(client))
        return TOP_CONNECTED;
    return client->problem[0] ? TOP_LOST : TOP_CONNECTING;
}

static void on_draw(void *user)
{
    struct top_command *top = user;
    struct session *session = &top->session;
    struct client *client = &session->client;
    uint64_t now_ms = loop_now_ms(&session->program.loop);
    const struct top_picture picture = {
        .model = &top->model,
        .keys = &top->keys,
        .tally = &top->tally,
        .server = session->options.client.connect.target.text,
        .link = link_of(top),
        .why = client->problem,
        .retry_ms = client->retry_at_ms > now_ms ? client->retry_at_ms - now_ms : 0,
        .reconnects = session_reconnects(session),
        .unprocessed = session->stats.unprocessed_bytes,
        .window = session->options.client.window,
        .updates_a_second = rate_per_second(&top->updates, now_ms),
        .bytes_a_second = rate_per_second(&top->bytes, now_ms),
        .now_ns = session_unix_ns(),
        .now_ms = now_ms,
    };

    if (now_ms >= top->turned_ms + LAGS_MS) {
        tally_turn(&top->tally);
        top->turned_ms = now_ms;
    }
    if (top_draw(&picture) < 0) {
        (void)snprintf(client->problem, sizeof(client->problem), "out of memory");
        session_end(session, EXIT_FAILED);
    }
}

static void on_key(void *user, int key)
{
    struct top_command *top = user;
    uint64_t now_ms = loop_now_ms(&top->session.program.loop);

    switch (top_keys_press(&top->keys, key)) {
    case TOP_NOTHING:
        return;
    case TOP_QUIT:
        session_end(&top->session, EXIT_DONE);
        return;
    case TOP_PAUSE:
        /* Without memory for it the table just goes on. */
        (void)top_model_freeze(&top->model, !top->model.frozen, session_unix_ns(), now_ms);
        break;
    case TOP_CLEAR:
        screen_forget();
        break;
    case TOP_DRAW:
        break;
    }
    top_terminal_draw(&top->terminal);
}

static void on_gone(void *user)
{
    struct top_command *top = user;

    session_end(&top->session, EXIT_INTERRUPTED);
}

/* ---- The session ---- */

/* The server's part of it: a snapshot, and then at most one update of a ticker for each picture. */
static int prepare(struct session *session)
{
    struct subscribe_options *options = &session->options;

    options->subscribe.policy = STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_CONFLATE;
    options->subscribe.min_interval_ms = (uint32_t)options->interval_ms;
    options->subscribe.snapshot = true;
    return subscribe_options_pack(options);
}

static int on_start(struct session *session)
{
    struct top_command *top = session->user;
    const char *error = "";
    char text[200];
    int r;

    /* How wide characters are, and which the terminal has; numbers are the same everywhere. */
    (void)setlocale(LC_CTYPE, "");
    top_model_init(&top->model, (uint32_t)client_random_between(0, UINT32_MAX));
    top->keys.model = &top->model;
    top->terminal = (struct top_terminal){
        .loop = &session->program.loop,
        .interval_ms = session->options.interval_ms,
        .user = top,
        .key = on_key,
        .draw = on_draw,
        .gone = on_gone,
    };
    r = top_terminal_open(&top->terminal, &error);
    if (r == 0)
        return 0;
    (void)snprintf(text, sizeof(text), "top: %s", r < 0 ? strerror(-r) : error);
    program_tell_failure(text);
    return r < 0 ? EXIT_FAILED : EXIT_USAGE;
}

static bool on_event(struct session *session, const Stockservice__MarketEvent *event, size_t bytes)
{
    struct top_command *top = session->user;
    uint64_t now_ms = loop_now_ms(&session->program.loop);
    uint64_t now_ns = session_unix_ns();
    bool update = event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;

    tally_event(&top->tally, event, bytes, now_ns);
    rate_add(&top->updates, update && !event->snapshot, now_ms);
    rate_add(&top->bytes, (double)bytes, now_ms);
    return top_model_add(&top->model, event, now_ns, now_ms) == 0;
}

static void on_changed(struct session *session)
{
    struct top_command *top = session->user;

    if (client_is_calling(&session->client))
        top_model_restart(&top->model);
    top_terminal_draw(&top->terminal);
}

static void on_stop(struct session *session)
{
    struct top_command *top = session->user;
    const struct client *client = &session->client;

    top_terminal_close(&top->terminal);
    top_model_deinit(&top->model);
    /* What was not to be seen while the screen was. */
    if (top->terminal.silent &&
        (client->exit_code == EXIT_FAILED || client->exit_code == EXIT_NO_CONNECTION))
        program_tell(LOG_ERR,
                     log_fields(LOG_EVENT(GAVE_UP),
                                {"STOCKD_TARGET", client->options.connect.target.text},
                                {"STOCKD_ERROR", client->problem}),
                     client->problem);
}

static const struct session_ops ops = {
    .prepare = prepare,
    .start = on_start,
    .event = on_event,
    .changed = on_changed,
    .stop = on_stop,
};

int command_top(int argc, char *argv[])
{
    static struct top_command top;

    top.session.ops = &ops;
    top.session.user = &top;
    return session_main(&top.session, &command, argc, argv);
}
