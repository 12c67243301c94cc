/*
 * A command that subscribes: its loop, its client with all that this needs, and signals that end it
 * in good order. The command itself has but what it does with what comes.
 */
#pragma once

#include "client/client.h"
#include "client/program.h"
#include "client/subscribe_options.h"
#include "stockservice.pb-c.h"

#include <stdbool.h>

struct session;

struct session_ops {
    /* The options have been read: completes them, packed with subscribe_options_pack() where the
     * method is Subscribe. 0; OPTIONS_WRONG after what is wrong has been told; a negative errno. */
    int (*prepare)(struct session *session);

    /* Everything is there, and nothing has begun. 0 or an exit code; `stop` follows in each case.
     */
    int (*start)(struct session *session);

    /* An event has come, `bytes` long with its prefix. False: it cannot be taken in for want of
     * memory, which ends the session. NULL: the method is GetUpdates, whose updates the consumer
     * knows and prints. */
    bool (*event)(struct session *session, const Stockservice__MarketEvent *event, size_t bytes);

    /* All events so far have been taken in, and what was to be printed of them has been written.
     * May be NULL. */
    void (*settled)(struct session *session);

    /* A call begins (client_is_calling()), is lost, or will be tried again. May be NULL. */
    void (*changed)(struct session *session);

    /* It is over: what is open in the loop is closed. */
    void (*stop)(struct session *session);
};

struct session {
    const struct session_ops *ops;
    void *user; /* the command's own */
    struct subscribe_options options;

    struct program program;
    struct stats stats;
    struct consumer consumer; /* its output is standard output, which the command may write to */
    struct client client;
    uint64_t start_ns; /* on uv_hrtime()'s clock */
};

/*
 * The whole of a command, in zeroed memory in which `ops` and `user` were set: reads its options,
 * and runs it to its end. The exit code.
 */
int session_main(struct session *session, const struct subscribe_command *command, int argc,
                 char *argv[]);

/* Ends it; the first exit code stands. */
void session_end(struct session *session, enum exit_code exit_code);

/* Connections after the first. */
uint64_t session_reconnects(const struct session *session);

/* How long it has been running, or ran. */
double session_seconds(const struct session *session);

/* Nanoseconds since the Unix epoch. */
uint64_t session_unix_ns(void);

/* Tells whoever started the program of its end, with figures. */
void session_tell_end(const struct session *session, uint64_t updates, uint64_t gaps,
                      const char *text);
