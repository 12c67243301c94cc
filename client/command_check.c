/*
 * stock-client check: does the server serve, and do updates come? For scripts and monitoring: one
 * line, an exit code, and an end within a time.
 *
 *     connected --> Health/Check --SERVING--> Subscribe --an update--> ok
 */
#include "client/caller.h"
#include "client/commands.h"
#include "client/print.h"

#include "base/events.h"
#include "base/log.h"
#include "base/util.h"
#include "grpc/health/v1/health.pb-c.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "Usage: stock-client check [OPTION]... [ADDRESS] [TICKER]...\n"
    "\n"
    "Ask the server at ADDRESS, " TARGET_DEFAULT " by default, for its health, wait for an\n"
    "update of one of the tickers, or of any, and say in one line what was found.\n"
    "\n"
    "      --service NAME    ask for the health of this service, not of the whole server\n"
    "      --health-only     wait for no update\n"
    "  -o, --output FORMAT   print as text (the default) or json\n"
    "  -q, --quiet           print nothing: the exit code tells\n"
    "  -t, --max-time TIME   all of it may take TIME (5s)\n" OPTIONS_USAGE "\n"
    "Exit codes: 0 it serves, and an update came; 1 it does not, or none came in time; 2 wrong\n"
    "usage; 3 no connection; 130 interrupted.\n";

static const char *const own_options[] = {"max-time", "service", "health-only",
                                          "output",   "quiet",   NULL};

static const struct subscribe_command command = {
    .name = "check",
    .usage = usage,
    .options = own_options,
    .max_time = "5s",
};

struct check_command {
    struct caller caller;
    uint64_t start_ns;
    uint64_t connected_ns; /* after the start; the same below; 0: not yet */
    uint64_t update_ns;
    int health; /* what the server said; negative: nothing yet */
    bool subscribed;
    char *ticker; /* of the first update */
    struct text why;
};

static uint64_t elapsed_ns(const struct check_command *check)
{
    return MAX(uv_hrtime() - check->start_ns, UINT64_C(1));
}

/* ---- The line ---- */

static const char *health_name(const struct check_command *check)
{
    const ProtobufCEnumValue *value =
        check->health < 0
            ? NULL
            : protobuf_c_enum_descriptor_get_value(
                  &grpc__health__v1__health_check_response__serving_status__descriptor,
                  check->health);

    return value ? value->name : "UNKNOWN";
}

static void add_text(struct text *text, const struct check_command *check, bool good)
{
    text_add_string(text, good ? "OK: " : "FAILED: ");
    text_add_string(text, check->caller.options.client.connect.target.text);
    if (!good) {
        text_add_string(text, ": ");
        print_foreign(text, check->why.bytes);
    } else {
        text_add_string(text, " is serving");
    }
    if (check->update_ns > 0) {
        text_add_string(text, ", first update ");
        print_string(text, PRINT_TEXT, check->ticker);
        text_printf(text, " after %.1f ms", (double)check->update_ns / 1e6);
    }
}

static void add_milliseconds(struct text *text, const char *name, uint64_t ns)
{
    text_printf(text, ",\"%s\":", name);
    if (ns > 0)
        text_printf(text, "%.3f", (double)ns / 1e6);
    else
        text_add_string(text, "null");
}

static void add_json(struct text *text, const struct check_command *check, bool good)
{
    text_printf(text, "{\"type\":\"check\",\"ok\":%s,\"address\":", good ? "true" : "false");
    print_string(text, PRINT_JSON, check->caller.options.client.connect.target.text);
    text_add_string(text, ",\"service\":");
    print_string(text, PRINT_JSON, check->caller.options.service);
    text_add_string(text, ",\"health\":");
    if (check->health >= 0)
        print_string(text, PRINT_JSON, health_name(check));
    else
        text_add_string(text, "null");
    add_milliseconds(text, "connectedMs", check->connected_ns);
    add_milliseconds(text, "updateMs", check->update_ns);
    text_add_string(text, ",\"ticker\":");
    if (check->ticker)
        print_string(text, PRINT_JSON, check->ticker);
    else
        text_add_string(text, "null");
    text_add_string(text, ",\"error\":");
    if (good)
        text_add_string(text, "null");
    else
        print_string(text, PRINT_JSON, check->why.bytes);
    text_add_char(text, '}');
}

static void conclude(struct check_command *check, int exit_code)
{
    bool good = exit_code == EXIT_DONE;
    struct text text = {0};

    if (check->caller.ending)
        return;
    text_add_char(&check->why, 0);
    if (check->why.failed) {
        caller_end(&check->caller, EXIT_FAILED);
        return;
    }
    if (check->caller.options.format == PRINT_JSON)
        add_json(&text, check, good);
    else
        add_text(&text, check, good);
    text_add_char(&text, '\n');
    if (text.failed ||
        (!check->caller.options.quiet && program_write(text.bytes, text.size) != EXIT_DONE))
        exit_code = EXIT_FAILED;
    text_deinit(&text);
    caller_end(&check->caller, exit_code);
}

static void explain(struct check_command *check, const char *what, enum wire_status status,
                    const char *text)
{
    text_printf(&check->why, "%s: %s%s", what, wire_status_name(status), *text ? ": " : "");
    text_add_string(&check->why, text);
}

/* ---- Calls ---- */

static void on_connected(struct caller *caller)
{
    struct check_command *check = container_of(caller, struct check_command, caller);
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

    check->connected_ns = elapsed_ns(check);
    request.service = (char *)check->caller.options.service;
    caller_call(caller, "/grpc.health.v1.Health/Check", &request.base);
}

static bool on_health(struct check_command *check, const uint8_t *message, size_t size)
{
    Grpc__Health__V1__HealthCheckResponse *response =
        grpc__health__v1__health_check_response__unpack(NULL, size, message);

    if (!response || check->health >= 0) { /* one answer, and no more */
        if (response)
            grpc__health__v1__health_check_response__free_unpacked(response, NULL);
        return false;
    }
    check->health = (int)MIN((unsigned)response->status, (unsigned)INT32_MAX);
    grpc__health__v1__health_check_response__free_unpacked(response, NULL);
    return true;
}

static bool on_message(struct caller *caller, const uint8_t *message, size_t size)
{
    struct check_command *check = container_of(caller, struct check_command, caller);
    Stockservice__MarketEvent *event;

    if (!check->subscribed)
        return on_health(check, message, size);
    event = stockservice__market_event__unpack(NULL, size, message);
    if (!event)
        return false;
    if (event->event_case == STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE && !event->snapshot) {
        check->update_ns = elapsed_ns(check);
        check->ticker = strdup(event->update->ticker);
        if (check->ticker)
            conclude(check, EXIT_DONE);
    }
    stockservice__market_event__free_unpacked(event, NULL);
    return true;
}

static void on_ended(struct caller *caller, enum wire_status status, const char *text)
{
    struct check_command *check = container_of(caller, struct check_command, caller);

    if (check->subscribed) {
        explain(check, "the subscription has ended", status, text);
        conclude(check, EXIT_FAILED);
    } else if (status != WIRE_OK || check->health < 0) {
        explain(check, "no answer about its health", status, text);
        conclude(check, EXIT_FAILED);
    } else if (check->health != GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING) {
        text_printf(&check->why, "it is not serving (%s)", health_name(check));
        conclude(check, EXIT_FAILED);
    } else if (check->caller.options.health_only) {
        conclude(check, EXIT_DONE);
    } else {
        check->subscribed = true;
        caller_call(caller, SUBSCRIBE_PATH, &check->caller.options.subscribe.base);
    }
}

static void on_failed(struct caller *caller, const char *why)
{
    struct check_command *check = container_of(caller, struct check_command, caller);

    text_printf(&check->why, "no connection: %s", why);
    conclude(check, EXIT_NO_CONNECTION);
}

static void on_late(struct caller *caller)
{
    struct check_command *check = container_of(caller, struct check_command, caller);
    double seconds = (double)check->caller.options.client.time_max_ms / 1e3;

    if (!caller->established)
        text_printf(&check->why, "no connection within %g s", seconds);
    else if (!check->subscribed)
        text_printf(&check->why, "no answer about its health within %g s", seconds);
    else
        text_printf(&check->why, "it is serving, but no update came within %g s", seconds);
    conclude(check, caller->established ? EXIT_FAILED : EXIT_NO_CONNECTION);
}

static int prepare(struct caller *caller)
{
    if (caller->options.format == PRINT_CSV) {
        (void)fputs("stock-client: --output: the format is none of text and json\n"
                    "Try 'stock-client check --help'.\n",
                    stderr);
        return OPTIONS_WRONG;
    }
    caller->options.subscribe.policy = STOCKSERVICE__SLOW_POLICY__SLOW_POLICY_CONFLATE;
    return OPTIONS_RUN;
}

static const struct caller_ops ops = {
    .prepare = prepare,
    .connected = on_connected,
    .message = on_message,
    .ended = on_ended,
    .failed = on_failed,
    .late = on_late,
};

int command_check(int argc, char *argv[])
{
    static struct check_command check;
    int exit_code;

    check.start_ns = uv_hrtime();
    check.health = -1;
    check.caller.ops = &ops;
    exit_code = caller_main(&check.caller, &command, argc, argv);
    text_deinit(&check.why);
    free(check.ticker);
    return exit_code;
}
