/*
 * A connection's clocks: keepalive and the peer's pings (gRFC A8), idleness, age and the two steps
 * of a drain (gRFC A9; RFC 9113, 6.8), and the search for what has stalled.
 *
 * Bytes come and go far more often than any of these times passes. So nothing is armed again when
 * something happens: only the time of it is noted, and a timer that fires looks whether its time is
 * really over, and otherwise sleeps on until it could be. Idleness, for one, cannot be over before
 * idle_max_ms from now while there are streams.
 *
 * Stalls are found by a sweep, several times within the time that they may last, over all streams
 * of a connection, and only while one is blocked. Each stream counts the sweeps that found it
 * blocked since it last sent a byte, so that sending costs no more than setting that count to zero.
 *
 * Keepalive and a slow reader: while our own socket is blocked a PING cannot leave, so that its
 * answer says nothing. Who reads slowly still takes bytes now and then, and who takes none at all
 * cannot be told from one whose host is gone. Both are for stall_timeout_ms to decide, which closes
 * with its own reason; keepalive waits until the socket has taken what it was given, which a host
 * that is gone never does.
 */
#include "net/connection_private.h"

#include "base/util.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* How long the peer's answer to a drain's PING is waited for: about as long as streams can be on
 * their way. */
#define DRAIN_WAIT_MS 5000

/* How long a peer that was not heard of yet has, when a drain begins, until its first SETTINGS are
 * here. Whoever waited in the kernel to be accepted has most often sent them, and a request. */
#define GREETING_WAIT_MS 1000

/* gRFC A8 allows so many. */
#define STRIKES_MAX 2

/* Sweeps in stall_timeout_ms. */
#define SWEEPS 4

/* How much later than asked for a timer may fire, so that many fire together. */
#define SLACK_MS 10

static const uint8_t keepalive_opaque[8] = "keepaliv";
static const uint8_t drain_opaque[8] = "draining";

static uint64_t now_ms(const struct connection *connection)
{
    return uv_now(connection->loop->uv);
}

/* ---- Keepalive ---- */

static uint64_t keepalive_due_ms(const struct life *life)
{
    return life->pinged_ms > 0 ? life->pinged_ms + life->keepalive_timeout_ms
                               : life->heard_ms + life->keepalive_time_ms;
}

static bool send_ping(struct connection *connection, const uint8_t opaque[static 8])
{
    int r = nghttp2_submit_ping(connection->session, NGHTTP2_FLAG_NONE, opaque);

    if (r < 0)
        connection_fail(connection, r);
    else
        loop_queue(connection->loop, &connection->flush);
    return r == 0;
}

static void check_keepalive(struct connection *connection)
{
    struct life *life = &connection->life;

    if (life->keepalive_time_ms == 0)
        return;
    if (life->heard_ms >= life->pinged_ms) {
        life->pinged_ms = 0;
        life->suspect = false;
    }
    if (now_ms(connection) < keepalive_due_ms(life))
        return;
    if (!connection->established || connection->writing) {
        life->pinged_ms = 0;
        life->heard_ms = now_ms(connection);
    } else if (life->pinged_ms == 0) {
        if (!send_ping(connection, keepalive_opaque))
            return;
        connection->stats->pings_sent_total++;
        if (life->keepalive_timeout_ms > 0)
            life->pinged_ms = now_ms(connection);
        else
            life->heard_ms = now_ms(connection); /* it is waited for by nobody */
    } else if (!life->suspect) {
        /* If it was this process that slept, the answer waits in the socket: let that be read. */
        life->suspect = true;
    } else {
        connection_close(connection, CLOSE_KEEPALIVE, "no answer to a PING");
    }
}

/* ---- The peer's pings ---- */

static void check_strike(struct connection *connection)
{
    struct life *life = &connection->life;
    uint32_t min_ms = LIST_EMPTY(&connection->streams) ? life->ping_min_idle_ms : life->ping_min_ms;
    uint64_t last_ms = life->ping_ms;

    life->ping_ms = MAX(now_ms(connection), (uint64_t)1);
    if (life->answered) {
        life->answered = false;
        life->strikes = 0;
    } else if (last_ms > 0 && life->ping_ms - last_ms < min_ms && ++life->strikes > STRIKES_MAX) {
        connection_end(connection, NGHTTP2_ENHANCE_YOUR_CALM, CLOSE_TOO_MANY_PINGS,
                       "too_many_pings");
    }
}

void connection_on_ping(struct connection *connection, bool ack, const uint8_t opaque[static 8])
{
    struct life *life = &connection->life;

    if (!ack) {
        if (!connection->client)
            check_strike(connection);
    } else if (life->drain == DRAIN_ANNOUNCED && memcmp(opaque, drain_opaque, 8) == 0) {
        life->drain = DRAIN_DUE;
        loop_queue(connection->loop, &connection->flush);
    }
}

/* ---- Drain ---- */

static void life_arm(struct connection *connection);

static void say_last(struct connection *connection)
{
    connection->greeted = true; /* whatever the peer may be, it is told */
    connection->life.drain = DRAIN_DUE;
    loop_queue(connection->loop, &connection->flush);
}

/* The first step: what the peer sends before it can know is still taken. */
static void announce(struct connection *connection)
{
    struct life *life = &connection->life;
    size_t waiting = nghttp2_session_get_outbound_queue_size(connection->session);
    int r = nghttp2_submit_shutdown_notice(connection->session);

    if (r < 0) {
        connection_fail(connection, r);
        return;
    }
    if (nghttp2_session_get_outbound_queue_size(connection->session) == waiting) {
        /* There is no notice to a peer that said itself that it goes: it opens no more streams. */
        say_last(connection);
        return;
    }
    life->drain = DRAIN_ANNOUNCED;
    life->drain_due_ms = now_ms(connection) + DRAIN_WAIT_MS;
    life_arm(connection);
    loop_queue(connection->loop, &connection->flush);
}

/* The PING follows only now: nghttp2 sends PINGs before other frames, and one that overtakes the
 * notice would be answered by a peer that does not know yet. */
void connection_drain_announced(struct connection *connection)
{
    int r;

    if (connection->life.drain != DRAIN_ANNOUNCED)
        return;
    r = nghttp2_submit_ping(connection->session, NGHTTP2_FLAG_NONE, drain_opaque);
    if (r < 0)
        connection_fail(connection, r);
}

void connection_drain(struct connection *connection, enum close_reason reason)
{
    struct life *life = &connection->life;

    if (connection->state != CONNECTION_OPEN || connection->close_wanted ||
        life->drain != DRAIN_NOT)
        return;
    connection->reason = reason;
    if (connection->client) {
        say_last(connection);
    } else if (connection->established) {
        announce(connection);
    } else {
        life->drain = DRAIN_GREETING;
        life->drain_due_ms = now_ms(connection) + GREETING_WAIT_MS;
        life_arm(connection);
    }
}

void connection_drain_greeted(struct connection *connection)
{
    if (connection->life.drain == DRAIN_GREETING)
        announce(connection);
}

/* Only now, when it will leave at once: a stream that came after its last would be lost. */
void connection_drain_on(struct connection *connection)
{
    int r;

    if (connection->life.drain != DRAIN_DUE)
        return;
    connection->life.drain = DRAIN_SAID;
    r = nghttp2_submit_goaway(connection->session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(connection->session),
                              NGHTTP2_NO_ERROR, NULL, 0);
    if (r < 0)
        connection_fail(connection, r);
}

static bool drain_waits(const struct life *life)
{
    return life->drain == DRAIN_GREETING || life->drain == DRAIN_ANNOUNCED;
}

static void check_drain(struct connection *connection)
{
    const struct life *life = &connection->life;

    /* Its keepalive, or its age, may have ended the connection just now. */
    if (connection->state == CONNECTION_OPEN && drain_waits(life) &&
        now_ms(connection) >= life->drain_due_ms)
        say_last(connection);
}

/* ---- Idleness and age ---- */

static uint64_t idle_due_ms(const struct connection *connection)
{
    const struct life *life = &connection->life;
    bool idle = LIST_EMPTY(&connection->streams);

    return (idle ? life->idle_since_ms : now_ms(connection)) + life->idle_max_ms;
}

static void check_idle(struct connection *connection)
{
    if (connection->life.idle_max_ms > 0 && now_ms(connection) >= idle_due_ms(connection))
        connection_drain(connection, CLOSE_IDLE);
}

static void check_age(struct connection *connection)
{
    struct life *life = &connection->life;

    if (life->age_due_ms == 0 || now_ms(connection) < life->age_due_ms)
        return;
    if (life->aged) {
        connection_end(connection, NGHTTP2_NO_ERROR, CLOSE_AGE, "max_age");
        return;
    }
    life->aged = true;
    life->age_due_ms = life->age_grace_ms > 0 ? now_ms(connection) + life->age_grace_ms : 0;
    connection_drain(connection, CLOSE_AGE);
}

/* A tenth more or less, so that connections made together do not all come back together. */
static uint64_t with_jitter(uint64_t age_ms)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random = uv_hrtime();
    return age_ms - age_ms / 10 + random % (age_ms / 5 + 1);
}

/* ---- All of them ---- */

static void life_arm(struct connection *connection)
{
    struct life *life = &connection->life;
    uint64_t now = now_ms(connection);
    uint64_t due_ms = WHEEL_NEVER;

    /* An answer that came begins the next wait, which may be over first. */
    if (life->keepalive_time_ms > 0)
        due_ms = MIN(keepalive_due_ms(life), now + life->keepalive_time_ms);
    if (life->idle_max_ms > 0 && life->drain == DRAIN_NOT)
        due_ms = MIN(due_ms, idle_due_ms(connection));
    if (life->age_due_ms > 0)
        due_ms = MIN(due_ms, life->age_due_ms);
    if (drain_waits(life))
        due_ms = MIN(due_ms, life->drain_due_ms);
    if (due_ms != WHEEL_NEVER)
        loop_arm(connection->loop, &life->timer, due_ms > now ? due_ms - now : 0, SLACK_MS);
}

static void on_life(struct wheel_timer *timer)
{
    struct connection *connection = container_of(timer, struct connection, life.timer);

    check_keepalive(connection);
    check_age(connection);
    check_idle(connection);
    check_drain(connection);
    if (connection->state == CONNECTION_OPEN && !connection->close_wanted)
        life_arm(connection);
}

/* ---- Stalls ---- */

/*
 * What the kernel has not sent yet tells whether the peer took something: below SOCKET_UNSENT_MAX
 * it changes with every byte. Above, and where it is unknown, only the end of what the transport
 * keeps tells, so that a peer is slow rather than stalled if it takes a batch within the time.
 */
static bool socket_stalled(struct connection *connection)
{
    struct life *life = &connection->life;
    uint32_t room = (uint32_t)connection->transport->ops->room(connection->transport);

    if (room != life->room)
        life->stalled = 0;
    life->room = room;
    return ++life->stalled > SWEEPS;
}

/* Is the stream blocked? */
static bool sweep_stream(struct stream *stream)
{
    struct connection *connection = stream->connection;
    enum blocked_reason reason = stream_blocked(stream);

    if (reason == BLOCKED_NOT) {
        stream->stalled = 0;
        return false;
    }
    /* What a socket does to its streams is counted once, for the connection. */
    if (reason == BLOCKED_SOCKET || ++stream->stalled <= SWEEPS)
        return true;
    stream->stalled = 0;
    connection->stats->streams_stalled_total++;
    if (connection->ops->stalled)
        connection->ops->stalled(stream, reason);
    return true;
}

static void on_sweep(struct wheel_timer *timer)
{
    struct connection *connection = container_of(timer, struct connection, life.sweep);
    bool blocked = connection->writing;
    struct stream *stream;

    connection->in_session = true;
    if (connection->writing && socket_stalled(connection))
        connection_close(connection, CLOSE_STALLED, "the socket takes nothing");
    LIST_FOREACH (stream, &connection->streams, link) {
        if (connection->close_wanted)
            break;
        blocked |= sweep_stream(stream);
    }
    connection_leave_session(connection);
    if (blocked && connection->state == CONNECTION_OPEN)
        connection_arm_sweep(connection);
}

void connection_arm_sweep(struct connection *connection)
{
    uint32_t timeout_ms = connection->life.stall_timeout_ms;

    if (connection->state == CONNECTION_OPEN)
        loop_arm(connection->loop, &connection->life.sweep, (timeout_ms + SWEEPS - 1) / SWEEPS,
                 SLACK_MS);
}

/* ---- Start and stop ---- */

static uint32_t to_ms(uint64_t ms)
{
    return (uint32_t)MIN(ms, (uint64_t)UINT32_MAX);
}

void connection_life_start(struct connection *connection, const struct connection_options *options)
{
    uint64_t now = now_ms(connection);

    connection->life = (struct life){
        .timer.fire = on_life,
        .sweep.fire = on_sweep,
        .heard_ms = now,
        .idle_since_ms = now,
        .keepalive_time_ms = to_ms(options->keepalive_time_ms),
        .keepalive_timeout_ms = to_ms(options->keepalive_timeout_ms),
        .ping_min_ms = to_ms(options->ping_min_ms),
        .ping_min_idle_ms = to_ms(options->ping_min_idle_ms),
        .stall_timeout_ms = to_ms(options->stall_timeout_ms),
    };
    if (!options->client) {
        connection->life.idle_max_ms = to_ms(options->idle_max_ms);
        connection->life.age_grace_ms = to_ms(options->age_grace_ms);
        if (options->age_max_ms > 0)
            connection->life.age_due_ms = now + with_jitter(options->age_max_ms);
    }
    life_arm(connection);
}

void connection_life_stop(struct connection *connection)
{
    loop_disarm(connection->loop, &connection->life.timer);
    loop_disarm(connection->loop, &connection->life.sweep);
}
