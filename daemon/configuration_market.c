/*
 * What the configuration has to say of the market.
 */
#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "configuration_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void tell_fault(const char *setting, const char *text)
{
    (void)configuration_check(setting, text);
}

/* Without opening it: whoever writes would find a reader, and lose it again. */
static int check_pipe(const struct settings *settings)
{
    const char *path = settings->market.pipe;
    char text[FEED_ERROR_MAX];
    const char *why = NULL;
    struct stat status;

    if (settings->market.feed != FEED_KIND_PIPE)
        return 0;
    if (!path)
        return configuration_check("market.pipe", "market.feed = pipe needs the path of a FIFO");
    if (stat(path, &status) < 0)
        why = errno == ENOENT ? "there is no such FIFO; mkfifo makes one" : strerror(errno);
    else if (!S_ISFIFO(status.st_mode))
        why = "not a FIFO";
    else if (faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) < 0)
        why = strerror(errno);
    if (!why)
        return 0;
    (void)snprintf(text, sizeof(text), "%s: %s", path, why);
    return configuration_check("market.pipe", text);
}

static int check_replay(const struct configuration *configuration)
{
    const struct feed_replay_options replay = configuration_replay_options(configuration);
    char error[FEED_ERROR_MAX];
    int r;

    if (configuration_feed_kind(configuration) != FEED_KIND_REPLAY)
        return 0;
    if (!replay.file)
        return configuration_check("market.replay_file",
                                   "market.feed = replay needs the path of a CSV file");
    r = feed_replay_check(&replay, error);
    return r == -EINVAL ? configuration_check("market.replay_file", error) : r;
}

/* A limit of 0 is none. */
static bool is_above(uint64_t soft, uint64_t hard)
{
    return hard > 0 && soft > hard;
}

static int check_limits(const struct settings *settings)
{
    int r = 0;

    if (is_above(settings->market.soft_bytes, settings->market.hard_bytes))
        r = configuration_check("market.soft_bytes", "it is above market.hard_bytes");
    if (is_above(settings->market.soft_age_ms, settings->market.hard_age_ms))
        r = configuration_check("market.soft_age", "it is above market.hard_age");
    if (r == 0 && settings->market.hard_bytes > settings->market.history_size)
        log_event(LOG_WARNING,
                  log_fields(LOG_EVENT(SETTING_DOUBTFUL), {"STOCKD_SETTING", "market.hard_bytes"}),
                  "market.hard_bytes is above market.history_size, where all that waits for a "
                  "subscriber is kept: one that has so much waiting loses its place before");
    return r;
}

int configuration_complete_market(struct configuration *configuration)
{
    const struct settings *settings = &configuration->settings;
    int r = tickers_init(&configuration->tickers, &configuration->config, settings, tell_fault);

    r = r > 0 ? CONFIGURATION_WRONG : r;
    if (r >= 0)
        r = configuration_worse(r, check_replay(configuration));
    if (r >= 0)
        r = configuration_worse(r, check_pipe(settings));
    if (r >= 0)
        r = configuration_worse(r, check_limits(settings));
    return r;
}

struct market_options configuration_market_options(const struct configuration *configuration)
{
    const struct settings *settings = &configuration->settings;

    return (struct market_options){
        .history_bytes_max = settings->market.history_size,
        .history_age_ms = settings->market.history_age_ms,
        .tickers_max = MARKET_TICKERS_MAX,
        .subscriptions_size_max = settings->market.max_subscriptions_size,
        .limits =
            {
                .queue_updates_max = (uint32_t)settings->market.max_queue,
                .soft_bytes = settings->market.soft_bytes,
                .soft_age_ms = settings->market.soft_age_ms,
                .soft_time_ms = settings->market.soft_time_ms,
                .hard_bytes = settings->market.hard_bytes,
                .hard_age_ms = settings->market.hard_age_ms,
            },
    };
}

enum feed_kind configuration_feed_kind(const struct configuration *configuration)
{
    return (enum feed_kind)configuration->settings.market.feed;
}

const struct feed_ticker *configuration_tickers(const struct configuration *configuration,
                                                size_t *ret_count)
{
    *ret_count = configuration->tickers.count;
    return configuration->tickers.tickers;
}

struct feed_replay_options configuration_replay_options(const struct configuration *configuration)
{
    const struct settings *settings = &configuration->settings;

    return (struct feed_replay_options){
        .file = settings->market.replay_file,
        .speed = settings->market.replay_speed,
        .loop = settings->market.replay_loop,
    };
}

const char *configuration_pipe(const struct configuration *configuration)
{
    return configuration->settings.market.pipe;
}

uint64_t configuration_stale_after_ms(const struct configuration *configuration)
{
    return configuration->settings.market.stale_after_ms;
}

uint64_t configuration_min_heartbeat_ms(const struct configuration *configuration)
{
    return configuration->settings.market.min_heartbeat_ms;
}
