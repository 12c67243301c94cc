/*
 * The flush: frames out of nghttp2 into one batch, the batch into the transport, and the count of
 * the messages that the kernel has accepted.
 *
 * Why frames are copied out of nghttp2 into a batch: one write of 80 KiB or more costs a third of
 * eight writes of 16 KiB, and nghttp2 hands out a frame at a time, each overwriting the last.
 *
 * Why the kernel is asked for its room before more than a little is pulled: what is pulled and not
 * accepted has to be kept for as long as the peer does not read, and for a thousand such peers that
 * is memory. Asking costs an ioctl a batch, and nothing at all for a connection that sends little.
 */
#include "net/connection_private.h"

#include "base/util.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define FRAME_SIZE_MAX (9 + FRAME_PAYLOAD_MAX)

/* A batch: what is pulled without asking for room, and the most that is pulled at once. */
#define BATCH_UNASKED (16 * 1024)
#define BATCH_MAX (128 * 1024)

/* Frames with messages in one batch. */
#define BATCH_MARKS_MAX 2048

/* The batch being filled: one for all connections, since none keeps it beyond its flush. */
static struct {
    uint8_t bytes[BATCH_MAX + FRAME_SIZE_MAX + 64]; /* nghttp2's buffers have a few more */
    size_t size;
    struct mark marks[BATCH_MARKS_MAX];
    size_t mark_count;
    uint64_t begun_ns; /* 0: nobody has asked */
} batch;

uint64_t stream_flush_ns(const struct stream *stream)
{
    if (batch.begun_ns == 0)
        batch.begun_ns = uv_hrtime();
    return batch.begun_ns;
}

/* Counts messages that the kernel has taken. *now_ns is the time, or 0 as long as nobody asks. */
static void account(struct connection *connection, void *account_, unsigned messages,
                    uint64_t due_ns, uint64_t *now_ns)
{
    uint64_t lag_ns = 0;

    if (!account_ || messages == 0)
        return;
    if (due_ns > 0) {
        if (*now_ns == 0)
            *now_ns = uv_hrtime();
        lag_ns = *now_ns > due_ns ? *now_ns - due_ns : 0;
    }
    connection->ops->accepted(account_, messages, lag_ns);
}

/*
 * Notes messages that wait for the kernel. All are of one batch, where nearly always one entry is
 * enough: all calls of a method share their account, and what is made when it is sent is due then.
 * At worst there is an entry for each frame, and that is much smaller than the frame, which is kept
 * too.
 */
static int tally_add(struct connection *connection, void *account_, unsigned messages,
                     uint64_t due_ns)
{
    size_t count = connection->tally_count;

    if (messages == 0)
        return 0;
    if (count > 0) {
        struct tally *last = &connection->tallies[count - 1];

        if (last->account == account_ && last->due_ns == due_ns) {
            last->messages += messages;
            return 0;
        }
    }
    /* The room is the next power of 2. */
    if ((count & (count - 1)) == 0) {
        struct tally *tallies =
            realloc(connection->tallies, MAX(2 * count, (size_t)1) * sizeof(*tallies));

        if (!tallies)
            return -ENOMEM;
        connection->tallies = tallies;
    }
    connection->tallies[connection->tally_count++] = (struct tally){account_, due_ns, messages};
    return 0;
}

/* How many of a frame's messages lie whole within the batch's first `accepted` bytes. */
static unsigned mark_accepted(struct connection *connection, const struct mark *mark,
                              size_t accepted)
{
    size_t first_end = (size_t)mark->offset + mark->first_end;

    if (accepted >= (size_t)mark->offset + mark->size)
        return mark->messages;
    if (accepted < first_end)
        return 0;
    return 1 + connection->ops->count(batch.bytes + first_end, accepted - first_end);
}

/* Notes the last `messages` of a frame, which the kernel did not take. 0 or -ENOMEM. */
static int mark_keep(struct connection *connection, const struct mark *mark, unsigned messages)
{
    unsigned first = messages == mark->messages && mark->first_due_ns != mark->due_ns;
    int r = tally_add(connection, mark->account, first, mark->first_due_ns);

    return r < 0 ? r : tally_add(connection, mark->account, messages - first, mark->due_ns);
}

/* The kernel took `accepted` bytes of the batch: count their messages, note the others. */
static int batch_settle(struct connection *connection, size_t accepted)
{
    uint64_t now_ns = 0;

    connection->stats->sent_bytes_total += accepted;
    for (size_t i = 0; i < batch.mark_count; i++) {
        const struct mark *mark = &batch.marks[i];
        unsigned messages = mark_accepted(connection, mark, accepted);
        unsigned first = messages > 0 && mark->first_due_ns != mark->due_ns;

        account(connection, mark->account, first, mark->first_due_ns, &now_ns);
        account(connection, mark->account, messages - first, mark->due_ns, &now_ns);
        if (messages < mark->messages) {
            int r = mark_keep(connection, mark, mark->messages - messages);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* Takes one frame. 1 if there was one, 0 if nothing may be sent now, or nghttp2's error. */
static int batch_take(struct connection *connection)
{
    const uint8_t *bytes;
    ssize_t size;
    int turn;

    do {
        turn = connection_give_turn(connection);
        if (turn < 0)
            return turn;
        connection->mark = (struct mark){0};
        size = nghttp2_session_mem_send(connection->session, &bytes);
    } while (size == 0 && turn > 0 && !connection->close_wanted);
    if (size <= 0)
        return (int)size;
    assert(batch.size + (size_t)size <= sizeof(batch.bytes));
    memcpy(batch.bytes + batch.size, bytes, (size_t)size);
    if (!connection->announced)
        connection_announce(connection, batch.bytes + batch.size, (size_t)size);
    batch.size += (size_t)size;
    if (connection->mark.messages > 0) {
        connection->mark.offset = (uint32_t)batch.size - connection->mark.size;
        batch.marks[batch.mark_count++] = connection->mark;
    }
    return 1;
}

/* Fills the batch. 1 if it is full and there may be more, 0 if that was all, or nghttp2's error. */
static int batch_fill(struct connection *connection)
{
    size_t limit = BATCH_UNASKED;
    int r;

    batch.size = 0;
    batch.mark_count = 0;
    batch.begun_ns = 0;
    for (;;) {
        if (batch.size >= limit && limit == BATCH_UNASKED) {
            size_t room = connection->transport->ops->room(connection->transport);
            limit = MIN(room, (size_t)BATCH_MAX);
        }
        if (batch.size >= limit || batch.mark_count == BATCH_MARKS_MAX)
            return 1;
        r = batch_take(connection);
        if (r <= 0 || connection->close_wanted || connection->said)
            return MIN(r, 0);
    }
}

/* The transport took only `accepted` bytes of the batch: it keeps the others. */
static int batch_keep(struct connection *connection, size_t accepted)
{
    size_t rest = batch.size - accepted;
    int r = connection->transport->ops->write(connection->transport, batch.bytes + accepted, rest);

    if (r < 0)
        return r;
    connection->unsent = rest;
    connection->stats->unsent_bytes += rest;
    connection_set(connection, true, connection->window_empty);
    return 0;
}

static void connection_flush(struct connection *connection)
{
    ssize_t accepted;
    bool full;
    int r;

    connection->in_session = true;
    r = batch_fill(connection);
    if (r < 0)
        connection_fail(connection, r);
    full = r > 0;
    /* With nothing left, nothing can be left to say. */
    if (connection->state == CONNECTION_ENDING && r == 0)
        connection->said = true;
    connection_leave_session(connection);
    if (connection->state == CONNECTION_CLOSING || batch.size == 0)
        return;

    accepted =
        connection->transport->ops->try_write(connection->transport, batch.bytes, batch.size);
    if (accepted < 0) {
        connection_close(connection, CLOSE_PEER_LOST, uv_strerror((int)accepted));
        return;
    }
    connection->in_session = true;
    r = batch_settle(connection, (size_t)accepted);
    connection_leave_session(connection);
    if (connection->state == CONNECTION_CLOSING)
        return;
    if (r >= 0 && (size_t)accepted < batch.size)
        r = batch_keep(connection, (size_t)accepted);
    if (r < 0)
        connection_close(connection, r == -ENOMEM ? CLOSE_NO_MEMORY : CLOSE_PEER_LOST,
                         uv_strerror(r));
    else if (full && !connection->writing)
        loop_queue(connection->loop, &connection->flush);
}

void connection_on_flush(struct loop_task *task)
{
    struct connection *connection = container_of(task, struct connection, flush);

    if (connection->close_wanted) {
        connection_leave_session(connection);
        return;
    }
    if (connection->state >= CONNECTION_LINGERING || connection->writing || !connection->greeted)
        return;
    if (connection->state == CONNECTION_OPEN)
        connection_drain_on(connection);
    connection_flush(connection);
    if (connection->writing || connection->state >= CONNECTION_LINGERING)
        return;
    if (connection->state == CONNECTION_ENDING
            ? connection->said
            : !nghttp2_session_want_read(connection->session) &&
                  !nghttp2_session_want_write(connection->session))
        connection_linger(connection);
}

void connection_count_kept(struct connection *connection)
{
    uint64_t now_ns = 0;

    for (size_t i = 0; i < connection->tally_count; i++) {
        const struct tally *tally = &connection->tallies[i];

        account(connection, tally->account, tally->messages, tally->due_ns, &now_ns);
    }
    free(TAKE_PTR(connection->tallies));
    connection->tally_count = 0;
}
