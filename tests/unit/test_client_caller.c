/*
 * The commands that ask something and then end, check and list, each in a process of its own,
 * against a server that answers with bytes that are written here.
 */
#include "client/commands.h"
#include "client/program.h"

#include "base/text.h"
#include "base/util.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto/wire.h"
#include "stockservice.pb-c.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#define ARGUMENTS_MAX 16

/* A server that does nothing of its own has no reason to wait longer for a client. */
#define SILENCE_MAX_MS 20000

enum {
    FRAME_HEADER_SIZE = 9,
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_SETTINGS = 4,
    FRAME_GOAWAY = 7,
    FLAG_END_STREAM = 1,
    FLAG_ACK = 1,
    FLAG_END_HEADERS = 4,
    PREFACE_SIZE = 24,
};

/* What the server has for a call: messages, with their prefixes, and then a status. */
struct answer {
    struct text messages;
    int status; /* negative: the call stays open */
};

/* What came of a command. */
static struct outcome {
    int exit_code;
    char output[4096];
    char errors[4096];
    struct text requests; /* messages with their prefixes, one after the other */
} outcome;

/* ---- The server ---- */

static bool read_whole(int fd, void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        ssize_t part;

        if (poll(&wait, 1, SILENCE_MAX_MS) != 1)
            return false;
        part = read(fd, (char *)bytes + done, size - done);
        if (part <= 0)
            return false;
        done += (size_t)part;
    }
    return true;
}

static void add_frame(struct text *text, unsigned type, unsigned flags, uint32_t stream,
                      const void *payload, size_t size)
{
    const uint8_t header[FRAME_HEADER_SIZE] = {(uint8_t)(size >> 16),
                                               (uint8_t)(size >> 8),
                                               (uint8_t)size,
                                               (uint8_t)type,
                                               (uint8_t)flags,
                                               0,
                                               0,
                                               0,
                                               (uint8_t)stream};

    text_add(text, (const char *)header, sizeof(header));
    text_add(text, payload, size);
}

static void send_text(int fd, struct text *text)
{
    /* The client may be gone: then there is nobody to be told. */
    (void)send(fd, text->bytes, text->size, MSG_NOSIGNAL);
    text_deinit(text);
}

/* RFC 7541: each header as a literal that is not kept, or (:status 200) from the static table. */
static void send_answer(int fd, uint32_t stream, const struct answer *answer)
{
    static const char headers[] = "\x88\x0f\x10\x10"
                                  "application/grpc";
    char trailers[] = "\x00\x0bgrpc-status\x01?";
    struct text text = {0};

    add_frame(&text, FRAME_HEADERS, FLAG_END_HEADERS, stream, headers, sizeof(headers) - 1);
    if (answer->messages.size > 0)
        add_frame(&text, FRAME_DATA, 0, stream, answer->messages.bytes, answer->messages.size);
    trailers[sizeof(trailers) - 2] = (char)('0' + answer->status);
    if (answer->status >= 0)
        add_frame(&text, FRAME_HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, stream, trailers,
                  sizeof(trailers) - 1);
    send_text(fd, &text);
}

/* Answers one call after the other until the client says goodbye. */
static void serve(int fd, const struct answer *answers, size_t count)
{
    uint8_t payload[1 << 14];
    uint8_t header[FRAME_HEADER_SIZE];
    struct text text = {0};
    size_t answered = 0;

    if (!read_whole(fd, payload, PREFACE_SIZE))
        return;
    add_frame(&text, FRAME_SETTINGS, 0, 0, NULL, 0);
    send_text(fd, &text);
    while (read_whole(fd, header, sizeof(header))) {
        size_t size = (size_t)header[0] << 16 | (size_t)header[1] << 8 | header[2];
        unsigned type = header[3];

        if (size > sizeof(payload) || !read_whole(fd, payload, size))
            return;
        if (type == FRAME_SETTINGS && !(header[4] & FLAG_ACK)) {
            add_frame(&text, FRAME_SETTINGS, FLAG_ACK, 0, NULL, 0);
            send_text(fd, &text);
        }
        if (type == FRAME_GOAWAY)
            return;
        if (type == FRAME_DATA)
            text_add(&outcome.requests, (const char *)payload, size);
        if (type == FRAME_DATA && (header[4] & FLAG_END_STREAM) && answered < count)
            send_answer(fd, header[8], &answers[answered++]);
    }
}

/* ---- The command ---- */

static _Noreturn void run_command(int (*command)(int argc, char *argv[]), const char *line,
                                  FILE *output, FILE *errors)
{
    char *argv[ARGUMENTS_MAX + 1] = {(char *)"command"};
    char *text = strdup(line);
    char *rest = NULL;
    int argc = 1;
    int exit_code;

    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        argv[argc++] = word;
    (void)dup2(fileno(output), STDOUT_FILENO);
    (void)dup2(fileno(errors), STDERR_FILENO);
    exit_code = command(argc, argv);
    (void)fflush(stdout);
    _exit(exit_code);
}

static void read_file(FILE *file, char text[4096])
{
    size_t size;

    rewind(file);
    size = fread(text, 1, 4095, file);
    text[size] = 0;
    (void)fclose(file);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

/* How the server takes a connection. */
enum welcome {
    SERVES,
    IS_MUTE,  /* takes it, and never says a word */
    HANGS_UP, /* at once */
    IS_GONE,  /* there is none */
};

static void run(int (*command)(int argc, char *argv[]), const char *options, enum welcome welcome,
                const struct answer *answers, size_t count)
{
    char folder[] = "/tmp/test-caller-XXXXXX";
    char path[64];
    char line[256];
    FILE *output = tmpfile();
    FILE *errors = tmpfile();
    int listener;
    int fd = -1;
    int status;
    pid_t pid;

    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/s", folder);
    (void)snprintf(line, sizeof(line), "unix:%s %s", path, options);
    listener = listen_at(path);
    if (welcome == IS_GONE) {
        assert_int_equal(close(listener), 0);
        listener = -1;
    }
    (void)fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        run_command(command, line, output, errors);
    text_deinit(&outcome.requests);
    if (welcome != IS_GONE) {
        struct pollfd wait = {.fd = listener, .events = POLLIN};

        if (poll(&wait, 1, SILENCE_MAX_MS) == 1)
            fd = accept(listener, NULL, NULL);
    }
    if (welcome == SERVES && fd >= 0)
        serve(fd, answers, count);
    if (welcome != IS_MUTE && fd >= 0) {
        (void)close(fd);
        fd = -1;
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    outcome.exit_code = WEXITSTATUS(status);
    if (listener >= 0)
        (void)close(listener);
    if (fd >= 0)
        (void)close(fd);
    (void)unlink(path);
    (void)rmdir(folder);
    read_file(output, outcome.output);
    read_file(errors, outcome.errors);
}

static void check_outcome(int exit_code, const char *output, const char *errors)
{
    if (!strstr(outcome.output, output))
        fail_msg("\"%s\" is not in the output: %s", output, outcome.output);
    if (!strstr(outcome.errors, errors))
        fail_msg("\"%s\" is not in: %s", errors, outcome.errors);
    assert_int_equal(outcome.exit_code, exit_code);
}

/* ---- Messages ---- */

static void add_message(struct text *text, const ProtobufCMessage *message)
{
    uint8_t bytes[1024];
    size_t size = protobuf_c_message_get_packed_size(message);

    assert_true(WIRE_PREFIX_SIZE + size <= sizeof(bytes));
    wire_prefix_write(bytes, (uint32_t)size);
    (void)protobuf_c_message_pack(message, bytes + WIRE_PREFIX_SIZE);
    text_add(text, (const char *)bytes, WIRE_PREFIX_SIZE + size);
}

static struct answer health(int status)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    struct answer answer = {0};

    response.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
    add_message(&answer.messages, &response.base);
    return answer;
}

static Stockservice__MarketEvent event_of(Stockservice__StockUpdate *update, const char *ticker)
{
    Stockservice__MarketEvent event = STOCKSERVICE__MARKET_EVENT__INIT;

    stockservice__stock_update__init(update);
    update->ticker = (char *)ticker;
    update->price = 12.5;
    event.event_case = STOCKSERVICE__MARKET_EVENT__EVENT_UPDATE;
    event.update = update;
    event.epoch = 1;
    event.sequence = 7;
    return event;
}

static struct answer events(bool snapshot, const char *ticker)
{
    Stockservice__StockUpdate update;
    Stockservice__MarketEvent event = event_of(&update, ticker);
    struct answer answer = {.status = -1};

    event.snapshot = snapshot;
    add_message(&answer.messages, &event.base);
    return answer;
}

/* ---- check ---- */

static void check_is_ok_with_the_first_update(void **state)
{
    struct answer answers[] = {health(1), events(false, "AA\nPL")};

    run(command_check, "-v", SERVES, answers, ELEMENTSOF(answers));
    check_outcome(EXIT_DONE, " is serving, first update \"AA\\nPL\" after ", "connected to unix:");
    run(command_check, "-o json", SERVES, answers, ELEMENTSOF(answers));
    check_outcome(EXIT_DONE, "\"ticker\":\"AA\\nPL\",\"error\":null}\n", "");
    run(command_check, "-q", SERVES, answers, ELEMENTSOF(answers));
    assert_string_equal(outcome.output, "");
    check_outcome(EXIT_DONE, "", "");
    for (size_t i = 0; i < ELEMENTSOF(answers); i++)
        text_deinit(&answers[i].messages);
}

/* The last value of a ticker says nothing about whether updates come. */
static void check_waits_for_an_update_that_is_new(void **state)
{
    struct answer answers[] = {health(1), events(true, "AAPL")};

    run(command_check, "-t 300ms", SERVES, answers, ELEMENTSOF(answers));
    check_outcome(EXIT_FAILED, ": it is serving, but no update came within 0.3 s\n", "");
    run(command_check, "-t 300ms --health-only", SERVES, answers, ELEMENTSOF(answers));
    check_outcome(EXIT_DONE, " is serving\n", "");
    for (size_t i = 0; i < ELEMENTSOF(answers); i++)
        text_deinit(&answers[i].messages);
}

static void check_says_what_the_server_does_not_do(void **state)
{
    struct answer not_serving = health(2);
    struct answer twice = health(1);
    struct answer unknown = {.status = 5};
    struct answer nothing = {0};
    struct answer half = health(1);
    struct answer ended[] = {health(1), {.status = 8}};

    run(command_check, "", SERVES, &not_serving, 1);
    check_outcome(EXIT_FAILED, ": it is not serving (NOT_SERVING)\n", "");
    text_add(&twice.messages, not_serving.messages.bytes, not_serving.messages.size);
    run(command_check, "", SERVES, &twice, 1);
    check_outcome(EXIT_FAILED, "no answer about its health: Internal: a message is not one of", "");
    run(command_check, "--service other", SERVES, &unknown, 1);
    check_outcome(EXIT_FAILED, "no answer about its health: NotFound", "");
    assert_int_equal(outcome.requests.size, WIRE_PREFIX_SIZE + 2 + strlen("other"));
    run(command_check, "", SERVES, &nothing, 1);
    check_outcome(EXIT_FAILED, "no answer about its health: OK\n", "");
    half.messages.size--;
    run(command_check, "", SERVES, &half, 1);
    check_outcome(EXIT_FAILED, "Internal: the response ended inside a message\n", "");
    run(command_check, "", SERVES, ended, ELEMENTSOF(ended));
    check_outcome(EXIT_FAILED, "the subscription has ended: ResourceExhausted", "");
    text_deinit(&not_serving.messages);
    text_deinit(&twice.messages);
    text_deinit(&half.messages);
    text_deinit(&ended[0].messages);
}

static void check_says_that_there_is_no_connection(void **state)
{
    run(command_check, "", IS_GONE, NULL, 0);
    check_outcome(EXIT_NO_CONNECTION, ": no connection: connection refused\n", "");
    run(command_check, "", HANGS_UP, NULL, 0);
    check_outcome(EXIT_NO_CONNECTION, "connected, but got no HTTP/2 (", "");
    check_outcome(EXIT_NO_CONNECTION, "); perhaps the server wants TLS (--tls)\n", "");
    run(command_check, "-t 300ms", IS_MUTE, NULL, 0);
    check_outcome(EXIT_NO_CONNECTION, ": no connection", "");
}

static void check_takes_no_csv(void **state)
{
    run(command_check, "-o csv", IS_GONE, NULL, 0);
    check_outcome(EXIT_USAGE, "",
                  "stock-client: --output: the format is none of text and json\n"
                  "Try 'stock-client check --help'.\n");
}

/* ---- list ---- */

static struct answer tickers(const char *first, const char *second)
{
    Stockservice__Ticker a = STOCKSERVICE__TICKER__INIT;
    Stockservice__Ticker b = STOCKSERVICE__TICKER__INIT;
    Stockservice__Ticker *both[] = {&a, &b};
    Stockservice__ListTickersResponse response = STOCKSERVICE__LIST_TICKERS_RESPONSE__INIT;
    struct answer answer = {0};

    a.ticker = (char *)first;
    a.updates = 3;
    a.sequence = 7;
    b.ticker = (char *)second;
    response.tickers = both;
    response.n_tickers = ELEMENTSOF(both);
    response.epoch = 1;
    add_message(&answer.messages, &response.base);
    return answer;
}

static struct answer values(const char *first, const char *second)
{
    Stockservice__StockUpdate updates[2];
    Stockservice__MarketEvent a = event_of(&updates[0], first);
    Stockservice__MarketEvent b = event_of(&updates[1], second);
    Stockservice__MarketEvent *both[] = {&a, &b};
    Stockservice__GetSnapshotResponse response = STOCKSERVICE__GET_SNAPSHOT_RESPONSE__INIT;
    struct answer answer = {0};

    response.updates = both;
    response.n_updates = second ? 2 : 1;
    response.epoch = 1;
    add_message(&answer.messages, &response.base);
    return answer;
}

/* All of them are in the output, in this order, and once. */
static void check_order(const char *const names[])
{
    const char *place = outcome.output;

    for (; *names; names++) {
        const char *found = strstr(place, *names);

        if (!found)
            fail_msg("%s is missing, or too early: %s", *names, outcome.output);
        place = found + 1;
        assert_null(strstr(place, *names));
    }
}

static void list_puts_both_answers_together(void **state)
{
    struct answer answers[] = {tickers("MSFT", "AAPL"), values("AAPL", "ZNEW")};

    /* In the market's order; what has come between the two calls is last. */
    run(command_list, "", SERVES, answers, ELEMENTSOF(answers));
    check_outcome(EXIT_DONE, "TICKER", "");
    check_order((const char *const[]){"TICKER", "\nMSFT", "\nAAPL", "\nZNEW", NULL});
    /* In the order of the command line, each once, known or not. */
    run(command_list, "NONE AAPL MSFT AAPL -o json", SERVES, answers, ELEMENTSOF(answers));
    check_outcome(EXIT_DONE, "\"ticker\":\"NONE\",\"epoch\":\"1\",\"sequence\":\"0\"", "");
    check_order((const char *const[]){"{\"type\":\"ticker\",\"ticker\":\"NONE\"",
                                      "{\"type\":\"ticker\",\"ticker\":\"AAPL\"",
                                      "{\"type\":\"ticker\",\"ticker\":\"MSFT\"", NULL});
    assert_null(strstr(outcome.output, "ZNEW"));
    /* CSV has as many columns where there is no value. */
    run(command_list, "-o csv MSFT", SERVES, answers, ELEMENTSOF(answers));
    check_outcome(EXIT_DONE, "\n1,7,3,0,MSFT,,,,,,,,,\n", "");
    for (size_t i = 0; i < ELEMENTSOF(answers); i++)
        text_deinit(&answers[i].messages);
}

static void list_says_what_went_wrong(void **state)
{
    struct answer refused = {.status = 7};
    struct answer nothing = {0};
    struct answer none[] = {tickers("A", "B"), {.status = 0}};
    struct answer twice = tickers("A", "B");

    text_add(&twice.messages, none[0].messages.bytes, none[0].messages.size);
    run(command_list, "", SERVES, &refused, 1);
    check_outcome(EXIT_FAILED, "", "rpc error: code = PermissionDenied desc = ");
    run(command_list, "", SERVES, &nothing, 1);
    check_outcome(EXIT_FAILED, "", "the server has ended the call without an answer\n");
    run(command_list, "", SERVES, none, ELEMENTSOF(none));
    check_outcome(EXIT_FAILED, "", "the server has ended the call without an answer\n");
    assert_string_equal(outcome.output, "");
    run(command_list, "", SERVES, &twice, 1);
    check_outcome(EXIT_FAILED, "", "rpc error: code = Internal desc = a message is not one of");
    run(command_list, "-t 300ms", SERVES, NULL, 0);
    check_outcome(EXIT_FAILED, "", "stock-client: no answer from unix:");
    check_outcome(EXIT_FAILED, "", " within 0.3 s\n");
    run(command_list, "", IS_GONE, NULL, 0);
    check_outcome(EXIT_NO_CONNECTION, "", ": connection refused\n");
    run(command_list, "--cacert /none", IS_GONE, NULL, 0);
    check_outcome(EXIT_USAGE, "", "/none: there is no such file");
    text_deinit(&none[0].messages);
    text_deinit(&twice.messages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_is_ok_with_the_first_update),
        cmocka_unit_test(check_waits_for_an_update_that_is_new),
        cmocka_unit_test(check_says_what_the_server_does_not_do),
        cmocka_unit_test(check_says_that_there_is_no_connection),
        cmocka_unit_test(check_takes_no_csv),
        cmocka_unit_test(list_puts_both_answers_together),
        cmocka_unit_test(list_says_what_went_wrong),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
