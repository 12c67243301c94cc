/*
 * A command that subscribes: its loop, its client with all that this needs, and signals that end it
 * in good order. The command itself has but what it does with what comes.
 */
#pragma once

#include "base/log.h"
#include "base/loop.h"
#include "client/client.h"
#include "client/subscribe_options.h"
#include "stockservice.pb-c.h"

#include <stdbool.h>

struct session;

struct session_ops {
    /* Everything is there, and nothing has begun. 0 or an exit code; `stop` follows in each case.
     */
    int (*start)(struct session *session);

    /* An event has come, `bytes` long with its prefix. False: it cannot be taken in for want of
     * memory, which ends the session. */
    bool (*event)(struct session *session, const Stockservice__MarketEvent *event, size_t bytes);

    /* All events so far have been taken in, and what was to be printed of them has been written.
     * May be NULL. */
    void (*settled)(struct session *session);

    /* A call begins (client_is_calling()), is lost, or will be tried again. */
    void (*changed)(struct session *session);

    /* It is over: what is open in the loop is closed. */
    void (*stop)(struct session *session);
};

struct session {
    const struct session_ops *ops;
    void *user; /* the command's own */
    struct subscribe_options options;

    uv_loop_t uv;
    struct loop loop;
    struct stats stats;
    struct consumer consumer; /* its output is standard output, which the command may write to */
    struct client client;
    uv_signal_t signals[3];
    uint64_t start_ns; /* on uv_hrtime()'s clock */
};

/*
 * Runs it in zeroed memory in which `ops`, `user` and `options` were set, the latter packed, to its
 * end; the memory of `options` is freed. The exit code.
 */
int session_run(struct session *session);

/* Ends it; the first exit code stands. */
void session_end(struct session *session, enum exit_code exit_code);

/* Connections after the first. */
uint64_t session_reconnects(const struct session *session);

/* How long it has been running, or ran. */
double session_seconds(const struct session *session);

/* Nanoseconds since the Unix epoch. */
uint64_t session_unix_ns(void);

/* What a command without a session does first: opens the log, and reads the files that TLS needs,
 * so that what is wrong with one is told before anything is connected. 0, or an exit code. */
int session_prepare(struct subscribe_options *options);

/* The exit code for what subscribe_options_read() has returned, if it is not OPTIONS_RUN; a lack of
 * memory is told. */
int session_exit_code(int result);

/* To whoever started the program, without time and level; or to the journal, as a message with
 * these fields, of which the first are those of an event. The text may have a server's words in it.
 */
void session_tell(int level, const struct log_field *fields, const char *text);

/* The same of what it ends for before it has begun. */
void session_tell_failure(const char *error);

/* The same of its end, with figures. */
void session_tell_end(const struct session *session, uint64_t updates, uint64_t gaps,
                      const char *text);
