/*
 * What can happen, for those who look for it later: each kind of message that is worth finding has
 * a name (the journal's field STOCKD_EVENT), an identity for ever (MESSAGE_ID), under which a
 * message catalog explains it (journalctl -x), and fields that say more.
 *
 *     log_event(LOG_INFO, log_fields(LOG_EVENT(REFUSED), {"STOCKD_PEER", peer}), "...");
 *
 * Every message of level info or more urgent has an event. An identity is never given to another
 * event; a new one is made by `systemd-id128 new`.
 *
 * The catalogs are systemd/stockd.catalog and systemd/stock-client.catalog: two, since the programs
 * are installed one without the other. What both may say has an identity for each of them, because
 * the journal runs two entries of one identity together.
 *
 * The fields are a promise to whoever filters by them. An event sends no others, and those without
 * a question mark are in each of its messages; only these may the catalog put into its text.
 * The manual pages stockd(8) and stock-client(1) say what each field means.
 */
#pragma once

/* X(identifier, name, message identity, fields) */

/* Of stockd. */
#define DAEMON_EVENTS(X)                                                                           \
    X(STARTING, "starting", "89ef8e57fe804282bdd66f4fbe0ce7da", "STOCKD_VERSION")                  \
    X(READY, "ready", "b38c406506ac4e7fa28db14ccb8af9d6", "")                                      \
    X(LISTENING, "listening", "bcc53c4b615e4b81b2dbab0658f01aca",                                  \
      "STOCKD_LISTENER STOCKD_ADDRESS")                                                            \
    X(LISTEN_FAILED, "listen-failed", "93196e2e5fc64d20b44eab606724f524",                          \
      "STOCKD_LISTENER STOCKD_ADDRESS STOCKD_ERROR")                                               \
    X(SETTING, "setting", "e630c81a1b9a4555bfe904f2566e7f4b",                                      \
      "STOCKD_SETTING STOCKD_VALUE STOCKD_ORIGIN")                                                 \
    X(ADDRESS_UNUSED, "address-unused", "44c94ea277c2487797e6a34a7cc0b63e",                        \
      "STOCKD_SETTING STOCKD_ADDRESS STOCKD_ORIGIN")                                               \
    X(CONFIGURATION_FAULT, "configuration-fault", "1e1795cf52a6435cbb2585cd890b9fbf",              \
      "STOCKD_SETTING?")                                                                           \
    X(LIMIT_LOWERED, "limit-lowered", "5eb28467123f4652bfa8ca62ea24825a",                          \
      "STOCKD_SETTING STOCKD_VALUE STOCKD_WANTED")                                                 \
    X(RELOADED, "reloaded", "fc3fd631897b4717859a20990264eedf", "")                                \
    X(RELOAD_REFUSED, "reload-refused", "915c22ba17ba4b62b07ef20fdfdc301d", "")                    \
    X(SETTING_DOUBTFUL, "setting-doubtful", "fafb5043fcbe47ab99873fafdcee341e", "STOCKD_SETTING")  \
    X(RESTART_NEEDED, "restart-needed", "5047ee1365cb473a9853d8c612a164d8", "STOCKD_SETTING")      \
    X(STOPPING, "stopping", "9f1d59c344b941c0a03ecff8a1bf4373", "STOCKD_SIGNAL")                   \
    X(ENDING, "ending", "ed4a92dfc11b4bc08b0de8411f36cad2", "STOCKD_STREAMS STOCKD_CONNECTIONS")   \
    X(STOPPED, "stopped", "20283d0d446f4c61903b236c54653233",                                      \
      "STOCKD_UPDATES_SENT STOCKD_CALLS STOCKD_CONNECTIONS STOCKD_SENT_BYTES STOCKD_BLOCKED_MS")   \
    X(CONNECTION_ACCEPTED, "connection-accepted", "555543016b0c45d29ef2bc84e3b5b55c",              \
      "STOCKD_PEER")                                                                               \
    X(CONNECTION_SECURED, "connection-secured", "68a5069425934b7fa0d9494715bd3f1a",                \
      "STOCKD_PEER STOCKD_TLS STOCKD_CERTIFICATE?")                                                \
    X(CONNECTION_CLOSED, "connection-closed", "9afa753ad2fe4bddb954e7d88ce6694e",                  \
      "STOCKD_PEER STOCKD_REASON STOCKD_ERROR?")                                                   \
    X(HANDSHAKE_FAILED, "handshake-failed", "893a63376b0c406483f31df8fb4aef44",                    \
      "STOCKD_PEER STOCKD_REASON STOCKD_ERROR")                                                    \
    X(REFUSED, "refused", "a36c6d3d0fdd4eaf8d4ad3ba6b34b145", "STOCKD_PEER STOCKD_REASON")         \
    X(MESSAGES_DROPPED, "messages-dropped", "51c417aab5e344a4ab11c97da2bfb0be", "STOCKD_DROPPED")  \
    X(CLIENT_STALLED, "client-stalled", "ea07d8b98bfc4b93b7be8ead0677b32e",                        \
      "STOCKD_PEER STOCKD_REASON STOCKD_STREAM? STOCKD_METHOD? STOCKD_DURATION_MS? "               \
      "STOCKD_MESSAGES? STOCKD_ERROR?")                                                            \
    X(CLIENT_EXPELLED, "client-expelled", "c5527cc4463740779ba78fb49667fafc",                      \
      "STOCKD_PEER STOCKD_REASON STOCKD_ERROR?")                                                   \
    X(CALL_STARTED, "call-started", "1dfae045a2054b0eab113e6bf8e290fa",                            \
      "STOCKD_PEER STOCKD_STREAM STOCKD_METHOD STOCKD_USER_AGENT")                                 \
    X(CALL_ENDED, "call-ended", "9b029f78baec400c89186c26d6c52def",                                \
      "STOCKD_PEER STOCKD_STREAM STOCKD_METHOD? STOCKD_STATUS STOCKD_DURATION_MS STOCKD_MESSAGES " \
      "STOCKD_BLOCKED?")                                                                           \
    X(SUBSCRIBER_CUT_OFF, "subscriber-cut-off", "99db6ac97b864139a3488d72c3f89858",                \
      "STOCKD_PEER STOCKD_STREAM STOCKD_METHOD STOCKD_REASON STOCKD_ERROR STOCKD_DURATION_MS? "    \
      "STOCKD_MESSAGES?")                                                                          \
    X(FEED_STATE, "feed-state", "8254c821898c45c8a0dcf123e9ab851e",                                \
      "STOCKD_FEED STOCKD_STATE STOCKD_DURATION_MS STOCKD_ERROR?")                                 \
    X(FEED_FAULT, "feed-fault", "2c88ed0722824ca4b4460d86dd42862a",                                \
      "STOCKD_FEED STOCKD_ERROR STOCKD_FILE? STOCKD_LINE?")

/* Of the parts that both programs have. */
#define SHARED_EVENTS(X)                                                                           \
    X(START_FAILED, "start-failed", "b2de978de5194ceaaa6e2a23e555c821", "STOCKD_ERROR")            \
    X(CERTIFICATE, "certificate", "5af7a372e5124b5a8f3560e7643e473b", "STOCKD_FILE?")              \
    X(ACCEPT_FAILED, "accept-failed", "3f03366ead3a4c45990b3bd2dfdb1800",                          \
      "STOCKD_PEER? STOCKD_REASON? STOCKD_ERROR?")                                                 \
    X(TLS_BROKEN, "tls-broken", "efadb5931e5d426c97274b11b71ddb5f", "STOCKD_ERROR")

/* Of stock-client. */
#define CLIENT_EVENTS(X)                                                                           \
    X(CONNECTED, "connected", "9b13e3cfd5fd448585a8ac6c82488410",                                  \
      "STOCKD_TARGET STOCKD_PEER STOCKD_TLS?")                                                     \
    X(RETRYING, "retrying", "63321b0c0d1e4595b925c108596ab871",                                    \
      "STOCKD_TARGET STOCKD_ERROR STOCKD_WAIT_MS STOCKD_STATUS?")                                  \
    X(GAVE_UP, "gave-up", "04331d8f88b74da4bbaa2679f9d39859", "STOCKD_TARGET STOCKD_ERROR")        \
    X(STREAM_ENDED, "stream-ended", "218b8fb386b14afc86d700d111ed51e0", "STOCKD_TARGET")           \
    X(CALL_FAILED, "call-failed", "c9853126d63b4ffa89d29a956c0251af",                              \
      "STOCKD_TARGET STOCKD_ERROR STOCKD_STATUS")                                                  \
    X(GOING_AWAY, "going-away", "745cfb7a8f4647799afff87c13adf402",                                \
      "STOCKD_TARGET STOCKD_HTTP2_ERROR")                                                          \
    X(DISCONNECTED, "disconnected", "21c12c92dd5a4799912661e118d22485",                            \
      "STOCKD_TARGET STOCKD_REASON")                                                               \
    X(GAP, "gap", "cb00e3eb8b2344d3869bca46548a68a5",                                              \
      "STOCKD_TARGET STOCKD_REASON STOCKD_MISSING?")                                               \
    X(POSITION_NOT_SAVED, "position-not-saved", "6416e7b986a7464aa90f2703a4a2f99d",                \
      "STOCKD_FILE STOCKD_ERROR")                                                                  \
    X(OUTPUT_FAILED, "output-failed", "0c68b6e502ba49b5a36b1b9626a4674d", "STOCKD_ERROR")          \
    X(METRICS_SERVED, "metrics-served", "9f19e374fe874a31b5d6c4f324f3d129", "STOCKD_ADDRESS")      \
    X(METRICS_FAILED, "metrics-failed", "5cdfab862f6b4a4c832933fbee24ffbe",                        \
      "STOCKD_ADDRESS STOCKD_ERROR")                                                               \
    X(UNVERIFIED, "unverified", "8a2a40c49d8e46df8bb54cd42fa94ba7", "STOCKD_TARGET")               \
    X(INTERRUPTED, "interrupted", "1db2c104882a42ae8afb075770143ad3", "STOCKD_SIGNAL")             \
    X(FINISHED, "finished", "ce4331cff3d24cc6a45f84193ec1ed70",                                    \
      "STOCKD_UPDATES_RECEIVED STOCKD_DURATION_MS STOCKD_GAPS STOCKD_RECONNECTS")

/* X(identifier, message identity): of the shared events, when it is stock-client that sends them.
 */
#define SHARED_EVENTS_OF_CLIENT(X)                                                                 \
    X(START_FAILED, "2a34531d1df044d580140c73b3869fec")                                            \
    X(CERTIFICATE, "0286700fe69e475d85cc2f92aa97a8b1")                                             \
    X(ACCEPT_FAILED, "03360122aefb4c2db3cc228593f5271b")                                           \
    X(TLS_BROKEN, "05d335d9cc2a4ea39f6c540b068a2432")

#define EVENTS(X) DAEMON_EVENTS(X) SHARED_EVENTS(X) CLIENT_EVENTS(X)

enum event {
#define X(identifier, name, id, fields) EVENT_##identifier,
    EVENTS(X)
#undef X
        EVENT_COUNT,
};

extern const struct event_text {
    const char *name;
    const char *id; /* 32 hexadecimal digits */
} event_texts[EVENT_COUNT];

/* Of shared events; else NULL. */
extern const char *const event_client_ids[EVENT_COUNT];

/* This program is stock-client: from here on shared events have its identities. */
void event_use_client(void);

/* The identity of an event in this program. */
const char *event_id(enum event event);

/* The first two of a message's log_fields(). */
#define LOG_EVENT(identifier) LOG_EVENT_OF(EVENT_##identifier)

/* The same of an `enum event`. */
#define LOG_EVENT_OF(event)                                                                        \
    {"MESSAGE_ID", event_id(event)},                                                               \
    {                                                                                              \
        "STOCKD_EVENT", event_texts[event].name                                                    \
    }
