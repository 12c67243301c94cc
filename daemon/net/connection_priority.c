/*
 * Streams of one connection share it equally, whatever the client would prefer: the updates of one
 * call are worth no more than those of another, and who waits for its turn must see its turn come.
 *
 * nghttp2 has RFC 9218's priorities since 1.48, and with them nothing the client says has to be
 * heeded. Before that, it knows only the tree of RFC 7540, and moves streams in it as the client
 * says, so that after each such word the tree is made flat again: every open stream depends on the
 * root and has the same weight. One stream in place is the rule; a client can also put one above
 * all others (the exclusive flag), and then all are put back.
 */
#include "net/connection_private.h"

#if NGHTTP2_VERSION_NUM >= 0x013000

int connection_share(struct connection *connection, const nghttp2_frame *frame)
{
    /* Incremental: a turn for each, instead of everything for the first. */
    const nghttp2_extpri equal = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};

    /* With our SETTINGS_NO_RFC7540_PRIORITIES a PRIORITY frame changes nothing. */
    if (frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    return nghttp2_session_change_extpri_stream_priority(connection->session, frame->hd.stream_id,
                                                         &equal, 1);
}

#else

static int put_back(struct connection *connection, int32_t id)
{
    nghttp2_priority_spec equal;

    nghttp2_priority_spec_default_init(&equal);
    return nghttp2_session_change_stream_priority(connection->session, id, &equal);
}

int connection_share(struct connection *connection, const nghttp2_frame *frame)
{
    const nghttp2_priority_spec *wish =
        frame->hd.type == NGHTTP2_HEADERS ? &frame->headers.pri_spec : &frame->priority.pri_spec;
    struct stream *stream;
    int r;

    /* Of a stream that is not there, nghttp2 says that the argument is wrong. */
    r = put_back(connection, frame->hd.stream_id);
    if (nghttp2_is_fatal(r))
        return r;
    if (!wish->exclusive)
        return 0;
    LIST_FOREACH (stream, &connection->streams, link) {
        r = put_back(connection, stream->id);
        if (nghttp2_is_fatal(r))
            return r;
    }
    return 0;
}

#endif
