/*
 * Everything here hangs on two timers of the loop's wheel, so that a loop that does not turn says
 * nothing: neither that it lives nor figures that are no longer true.
 *
 * A message may not get through (systemd.h). Figures and signs of life follow soon anyway; but that
 * the program is ready, or stops, the manager must know, and so that is kept until it was told.
 */
#include "manager.h"

#include "base/systemd.h"
#include "base/util.h"
#include "proto/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define STATUS_INTERVAL_MS 3000
#define SAMPLE_US_MIN (STATUS_INTERVAL_MS * UINT64_C(1000) / 2)
/* After a message that did not get through. */
#define AGAIN_MS 250
/* By the time that this is over it has been asked for twice more. */
#define EXTEND_US (3 * STATUS_INTERVAL_MS * UINT64_C(1000))
/* A step's end is told by the next step, and that of the last by the end of the program, which both
 * come a moment after the time is over. */
#define EXTEND_BEYOND_US 1000000

/* ---- The status in words ---- */

#define COUNT_TEXT_MAX 32

/* "1,234,567". Returns `text`. */
static const char *count_text(uint64_t count, char text[static COUNT_TEXT_MAX])
{
    char digits[COUNT_TEXT_MAX];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, count);
    char *end = text;

    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            *end++ = ',';
        *end++ = digits[i];
    }
    *end = '\0';
    return text;
}

/* "0.3", "1", "10", "12,345": a stream may have an update in many seconds. Returns `text`. */
static const char *rate_text(double rate, char text[static COUNT_TEXT_MAX])
{
    uint64_t tenths = (uint64_t)(rate * 10 + 0.5);

    if (tenths >= 100 || tenths % 10 == 0)
        return count_text((tenths + (tenths >= 100 ? 5 : 0)) / 10, text);
    (void)snprintf(text, COUNT_TEXT_MAX, "%u.%u", (unsigned)tenths / 10, (unsigned)tenths % 10);
    return text;
}

static const char *plural(const char *count)
{
    return strcmp(count, "1") == 0 ? "" : "s";
}

static void describe(const struct manager *manager, char status[static MANAGER_STATUS_MAX])
{
    struct manager_figures figures = manager->options.figures(manager->options.context);
    char streams[COUNT_TEXT_MAX], connections[COUNT_TEXT_MAX];
    char blocked[COUNT_TEXT_MAX], rate[COUNT_TEXT_MAX];

    (void)count_text(figures.streams, streams);
    (void)count_text(figures.connections, connections);
    (void)count_text(figures.blocked, blocked);
    (void)rate_text(manager->rate, rate);
    (void)snprintf(status, MANAGER_STATUS_MAX,
                   "%s%s%s stream%s on %s connection%s, %s blocked, %s update%s/s%s%s%s%s",
                   manager->stopping ? manager->stopping : "", manager->stopping ? ": " : "",
                   streams, plural(streams), connections, plural(connections), blocked, rate,
                   plural(rate), figures.feed[0] ? "; the market's feed " : "", figures.feed,
                   manager->why[0] ? "; the last reload failed: " : "", manager->why);
}

static void sample(struct manager *manager)
{
    uint64_t sent = manager->options.figures(manager->options.context).sent_total;
    uint64_t now_us = systemd_monotonic_us();

    /* While messages do not get through the timer comes more often; a rate takes some time. */
    if (manager->sampled_us > 0 && now_us < manager->sampled_us + SAMPLE_US_MIN)
        return;
    if (manager->sampled_us > 0)
        manager->rate =
            (double)(sent - manager->sent_before) * 1e6 / (double)(now_us - manager->sampled_us);
    manager->sent_before = sent;
    manager->sampled_us = now_us;
}

/* Copies what fits. A line's end in it would be the manager's next line, and it takes no text that
 * is not UTF-8. */
static void copy_words(char *copy, size_t size, const char *words)
{
    size_t length = strlen(words), used = 0, taken = 0;

    for (size_t i = 0; i < length; i += taken) {
        uint32_t code = 0;
        bool safe = utf8_decode(words + i, length - i, &code, &taken) && !utf8_is_unsafe(code);
        size_t made = safe ? taken : 1;

        if (used + made >= size)
            break;
        memcpy(copy + used, safe ? words + i : "?", made);
        used += made;
    }
    copy[used] = '\0';
}

/* ---- Telling it ---- */

/* For how long the manager is asked not to lose its patience; 0: it is not. */
static uint64_t extension_us(const struct manager *manager)
{
    uint64_t now_us = systemd_monotonic_us();

    if (!manager->stopping || manager->stopping_until_us <= now_us)
        return 0;
    return MIN(manager->stopping_until_us - now_us, EXTEND_US);
}

/* False: it did not get through. `state` is a line, or empty. */
static bool tell_status(struct manager *manager, const char *state)
{
    uint64_t extend_us = extension_us(manager);
    char status[MANAGER_STATUS_MAX], extend[64] = "";

    describe(manager, status);
    if (extend_us > 0)
        (void)snprintf(extend, sizeof extend, "\nEXTEND_TIMEOUT_USEC=%" PRIu64, extend_us);
    if (!state[0] && !extend[0] && strcmp(status, manager->status) == 0)
        return true;
    if (!systemd_notify("%sSTATUS=%s%s", state, status, extend))
        return false;
    (void)strcpy(manager->status, status);
    return true;
}

/* Of several states in one message the manager would see only the last. */
static bool tell_all(struct manager *manager)
{
    if (manager->untold_reloading &&
        !systemd_notify("RELOADING=1\nMONOTONIC_USEC=%" PRIu64, systemd_monotonic_us()))
        return false;
    manager->untold_reloading = false;
    if (manager->untold_ready && !tell_status(manager, "READY=1\n"))
        return false;
    manager->untold_ready = false;
    if (!tell_status(manager, manager->untold_stopping ? "STOPPING=1\n" : ""))
        return false;
    manager->untold_stopping = false;
    return true;
}

static void tell(struct manager *manager)
{
    if (systemd_wants_to_know())
        loop_arm(manager->options.loop, &manager->status_timer,
                 tell_all(manager) ? STATUS_INTERVAL_MS : AGAIN_MS, 0);
}

static void on_status_timer(struct wheel_timer *timer)
{
    struct manager *manager = container_of(timer, struct manager, status_timer);

    sample(manager);
    tell(manager);
}

static void on_watchdog_timer(struct wheel_timer *timer)
{
    struct manager *manager = container_of(timer, struct manager, watchdog_timer);
    uint64_t interval_ms = manager->watchdog_interval_ms;

    if (!systemd_notify("WATCHDOG=1"))
        interval_ms = MIN(interval_ms, (uint64_t)AGAIN_MS);
    loop_arm(manager->options.loop, timer, interval_ms, 0);
}

/* ---- The program's life ---- */

void manager_init(struct manager *manager, const struct manager_options *options)
{
    *manager = (struct manager){
        .options = *options,
        .status_timer.fire = on_status_timer,
        .watchdog_timer.fire = on_watchdog_timer,
    };
}

void manager_ready(struct manager *manager)
{
    uint64_t watchdog_ms = systemd_watchdog_ms();

    sample(manager);
    manager->untold_ready = true;
    tell(manager);
    if (watchdog_ms == 0 || !systemd_wants_to_know())
        return;
    manager->watchdog_interval_ms = MAX(watchdog_ms / 2, (uint64_t)1);
    loop_arm(manager->options.loop, &manager->watchdog_timer, manager->watchdog_interval_ms, 0);
}

void manager_reloading(struct manager *manager)
{
    if (manager->stopping)
        return;
    manager->reloading = true;
    manager->untold_reloading = true;
    tell(manager);
}

void manager_reloaded(struct manager *manager, const char *why)
{
    if (!manager->reloading || manager->stopping)
        return;
    manager->reloading = false;
    manager->untold_ready = true;
    copy_words(manager->why, sizeof manager->why, why ? why : "");
    tell(manager);
}

void manager_stopping(struct manager *manager, const char *what, uint64_t timeout_ms)
{
    if (!manager->stopping)
        manager->untold_stopping = true;
    manager->stopping = what;
    manager->stopping_until_us = systemd_monotonic_us() + timeout_ms * 1000 + EXTEND_BEYOND_US;
    tell(manager);
}

void manager_deinit(struct manager *manager)
{
    if (!manager->options.loop)
        return;
    loop_disarm(manager->options.loop, &manager->status_timer);
    loop_disarm(manager->options.loop, &manager->watchdog_timer);
}
