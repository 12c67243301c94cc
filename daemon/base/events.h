/*
 * What can happen, for those who look for it later: each kind of message that is worth finding has
 * a name (the journal's field STOCKD_EVENT) and an identity for ever (MESSAGE_ID), under which the
 * message catalog (systemd/stockd.catalog) explains it: journalctl -x.
 *
 *     log_event(LOG_INFO, log_fields(LOG_EVENT(REFUSED), {"STOCKD_PEER", peer}), "...");
 *
 * An identity is never given to another event; a new one is made by `systemd-id128 new`.
 */
#pragma once

/* X(identifier, name, message identity) */
#define EVENTS(X)                                                                                  \
    X(STARTING, "starting", "89ef8e57fe804282bdd66f4fbe0ce7da")                                    \
    X(READY, "ready", "b38c406506ac4e7fa28db14ccb8af9d6")                                          \
    X(LISTENING, "listening", "bcc53c4b615e4b81b2dbab0658f01aca")                                  \
    X(LISTEN_FAILED, "listen-failed", "93196e2e5fc64d20b44eab606724f524")                          \
    X(SETTING, "setting", "e630c81a1b9a4555bfe904f2566e7f4b")                                      \
    X(CONFIGURATION_FAULT, "configuration-fault", "1e1795cf52a6435cbb2585cd890b9fbf")              \
    X(LIMIT_LOWERED, "limit-lowered", "5eb28467123f4652bfa8ca62ea24825a")                          \
    X(RELOADED, "reloaded", "fc3fd631897b4717859a20990264eedf")                                    \
    X(RELOAD_REFUSED, "reload-refused", "915c22ba17ba4b62b07ef20fdfdc301d")                        \
    X(RESTART_NEEDED, "restart-needed", "5047ee1365cb473a9853d8c612a164d8")                        \
    X(CERTIFICATE, "certificate", "5af7a372e5124b5a8f3560e7643e473b")                              \
    X(STOPPING, "stopping", "9f1d59c344b941c0a03ecff8a1bf4373")                                    \
    X(ENDING, "ending", "ed4a92dfc11b4bc08b0de8411f36cad2")                                        \
    X(STOPPED, "stopped", "20283d0d446f4c61903b236c54653233")                                      \
    X(CONNECTION_ACCEPTED, "connection-accepted", "555543016b0c45d29ef2bc84e3b5b55c")              \
    X(CONNECTION_CLOSED, "connection-closed", "9afa753ad2fe4bddb954e7d88ce6694e")                  \
    X(HANDSHAKE_FAILED, "handshake-failed", "893a63376b0c406483f31df8fb4aef44")                    \
    X(REFUSED, "refused", "a36c6d3d0fdd4eaf8d4ad3ba6b34b145")                                      \
    X(ACCEPT_FAILED, "accept-failed", "3f03366ead3a4c45990b3bd2dfdb1800")                          \
    X(CALL_STARTED, "call-started", "1dfae045a2054b0eab113e6bf8e290fa")                            \
    X(CALL_ENDED, "call-ended", "9b029f78baec400c89186c26d6c52def")                                \
    X(CLIENT_STALLED, "client-stalled", "ea07d8b98bfc4b93b7be8ead0677b32e")

enum event {
#define X(identifier, name, id) EVENT_##identifier,
    EVENTS(X)
#undef X
        EVENT_COUNT,
};

extern const struct event_text {
    const char *name;
    const char *id; /* 32 hexadecimal digits */
} event_texts[EVENT_COUNT];

/* The first two of a message's log_fields(). */
#define LOG_EVENT(identifier)                                                                      \
    {"MESSAGE_ID", event_texts[EVENT_##identifier].id},                                            \
    {                                                                                              \
        "STOCKD_EVENT", event_texts[EVENT_##identifier].name                                       \
    }
