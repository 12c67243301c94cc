/*
 * TLS (net/tls.h) between two sessions of ours, over memory that the input may do anything to: it
 * changes, adds, drops and delays bytes on their way. The input is a program (program.h). The first
 * byte of the options chooses each side's versions, and whether a client's certificate is shown and
 * required.
 *
 * Files with credentials are read too: one action writes any bytes in the place of one.
 */
#include "base/log.h"
#include "base/util.h"
#include "certificates.h"
#include "net/tls.h"
#include "program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TURNS_MAX 500
#define HANDSHAKE_MS 10000

enum action {
    ACTION_PUMP,
    ACTION_BYTES,
    ACTION_CHANGE,
    ACTION_DROP,
    ACTION_WRITE,
    ACTION_TURN,
    ACTION_TIME,
    ACTION_ACCEPT,
    ACTION_RELEASE,
    ACTION_END,
    ACTION_SHUTDOWN,
    ACTION_CLOSE,
    ACTION_CREDENTIALS,
    ACTION_COUNT,
};

struct side {
    struct memory memory;
    struct tls_handshake *handshake;
    struct transport *transport; /* once it is made, until it is closed */
    bool done;
    bool closed;
    bool shut;
    bool ended;
    size_t waiting; /* bytes that write() was given */
    struct buffer received;
    struct buffer sent;
};

struct run {
    struct world world;
    struct side sides[2]; /* the server, the client */
    bool changed;         /* what is on its way is not what was sent any more */
    unsigned turns;
};

/* ---- What stays from one input to the next ---- */

enum {
    VERSION_ANY,
    VERSION_12,
    VERSION_COUNT,
};

/* By side, as in `sides`, versions, and whether the server requires what the client does not have.
 */
static struct credentials *credentials[2][VERSION_COUNT][2];

static struct credentials *make_credentials(bool client, bool strict, const char *priorities)
{
    char error[CREDENTIALS_ERROR_MAX];
    struct credentials_options options = {
        .client = client,
        .certificate = certificates_path(client ? "client.crt" : "server.crt"),
        .key = certificates_path(client ? "client.key" : "server.key"),
        .ca = certificates_path("authority.crt"),
        .client_certificate = strict ? CLIENT_CERTIFICATE_REQUIRED : CLIENT_CERTIFICATE_OPTIONAL,
        .priorities = priorities,
    };
    struct credentials *made;

    if (client && strict)
        options.certificate = options.key = NULL;
    CHECK(credentials_new(&made, &options, error) == 0);
    return made;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char old[] = "NORMAL:-VERS-ALL:+VERS-TLS1.2";
    struct certificate authority, server, client;
    const struct certificate_options authority_options = {.common_name = "a", .authority = true};
    const struct certificate_options server_options = {
        .common_name = "server", .issuer = &authority, .dns = {"stock.example"}};
    const struct certificate_options client_options = {.common_name = "client",
                                                       .issuer = &authority};

    log_set_level(LOG_EMERG);
    certificates_begin();
    (void)atexit(certificates_end);
    certificate_make(&authority, &authority_options);
    certificate_make(&server, &server_options);
    certificate_make(&client, &client_options);
    certificate_write(&authority, certificates_path("authority.crt"), NULL);
    certificate_write(&server, certificates_path("server.crt"), certificates_path("server.key"));
    certificate_write(&client, certificates_path("client.crt"), certificates_path("client.key"));
    for (unsigned i = 0; i < 2 * VERSION_COUNT * 2; i++)
        credentials[i & 1][i >> 1 & 1][i >> 2] =
            make_credentials(i & 1, i >> 2, (i >> 1 & 1) == VERSION_12 ? old : NULL);
    certificate_deinit(&authority);
    certificate_deinit(&server);
    certificate_deinit(&client);
    return 0;
}

/* ---- The user of a session ---- */

static void on_received(void *user, const uint8_t *bytes, size_t size)
{
    struct side *side = user;

    CHECK(!side->closed && !side->ended && size > 0);
    buffer_append(&side->received, bytes, size);
}

static void side_close(struct side *side)
{
    struct transport *transport = TAKE_PTR(side->transport);

    if (transport)
        transport->ops->close(transport);
}

static void on_ended(void *user, int error)
{
    struct side *side = user;

    CHECK(!side->closed && !side->ended && error <= 0);
    side->ended = true;
}

static void on_written(void *user, int error)
{
    struct side *side = user;

    CHECK(!side->closed && side->waiting > 0 && error <= 0);
    side->waiting = 0;
}

static void on_closed(void *user)
{
    struct side *side = user;

    CHECK(!side->closed && side->memory.closed);
    side->closed = true;
    side->transport = NULL;
}

static const struct transport_user side_user = {on_received, on_ended, on_written, on_closed};

static void on_done(void *user, struct transport *transport, enum tls_outcome outcome,
                    const char *detail)
{
    struct side *side = user;

    CHECK(!side->done && (outcome == TLS_OK) == (transport != NULL) && detail);
    CHECK(transport || side->memory.closed);
    side->done = true;
    side->handshake = NULL;
    side->transport = transport;
    if (!transport)
        return;
    transport->user_ops = &side_user;
    transport->user = side;
    (void)tls_peer_name(transport);
    CHECK(!tls_peer_is(transport, "nobody.example"));
    if (transport->ops->start(transport) < 0)
        side_close(side);
}

/* What a connection's flush does. */
static void side_write(struct side *side, const uint8_t *bytes, size_t size)
{
    ssize_t n;

    if (!side->transport || side->waiting > 0 || side->shut || size == 0)
        return;
    (void)side->transport->ops->room(side->transport);
    n = side->transport->ops->try_write(side->transport, bytes, size);
    if (n < 0) {
        side_close(side);
        return;
    }
    CHECK((size_t)n <= size);
    buffer_append(&side->sent, bytes, size);
    if ((size_t)n == size)
        return;
    if (side->transport->ops->write(side->transport, bytes + n, size - (size_t)n) < 0)
        side_close(side);
    else
        side->waiting = size - (size_t)n;
}

/* ---- The way between them ---- */

static struct side *choose(struct run *run, struct reader *arguments)
{
    return &run->sides[read_u8(arguments) & 1];
}

/* The bytes that this side sent and that are on their way. */
static size_t on_the_way(const struct side *side)
{
    return side->memory.out.size - side->memory.kept - side->memory.taken;
}

static void pump(struct run *run, struct side *from, size_t most, size_t split)
{
    struct side *to = &run->sides[from == &run->sides[0]];
    size_t size = MIN(on_the_way(from), most);
    uint8_t *bytes;

    if (size == 0)
        return;
    bytes = fuzz_copy(from->memory.out.bytes + from->memory.taken, size, false);
    from->memory.taken += size;
    if (to->memory.started && !to->memory.closing)
        memory_deliver(&to->memory, bytes, size, split);
    free(bytes);
}

static void change(struct run *run, struct reader *arguments)
{
    struct side *side = choose(run, arguments);
    size_t size = on_the_way(side);
    size_t at = read_u16(arguments);
    uint8_t bits = read_u8(arguments);

    if (size == 0 || bits == 0)
        return;
    side->memory.out.bytes[side->memory.taken + at % size] ^= bits;
    run->changed = true;
}

static void turn(struct run *run, unsigned count)
{
    for (; count > 0 && run->turns < TURNS_MAX; count--, run->turns++)
        world_turn(&run->world);
}

static void set_socket(struct side *side, struct reader *arguments)
{
    uint8_t how = read_u8(arguments), flags = read_u8(arguments);

    side->memory.accept = how == 0xFF ? SIZE_MAX : how * 16U;
    side->memory.room = side->memory.accept;
    side->memory.release_now = !(flags & 1);
    if (flags & 2)
        side->memory.try_error = -ECONNRESET;
    if (flags & 4)
        side->memory.keep_error = -ENOMEM;
    if (side->memory.release_now)
        socket_release(&side->memory, 0);
}

/* Any bytes as a certificate, a key, or authorities; wrong ones are told of by name. */
static void read_files(struct reader *arguments)
{
    uint8_t which = read_u8(arguments) % 3;
    const char *path = certificates_path("any.pem");
    char error[CREDENTIALS_ERROR_MAX] = "";
    struct credentials_options options = {
        .certificate = which == 0 ? path : certificates_path("server.crt"),
        .key = which == 1 ? path : certificates_path("server.key"),
        .ca = which == 2 ? path : NULL,
        .client_certificate = CLIENT_CERTIFICATE_OPTIONAL,
    };
    struct credentials *made = NULL;
    int r;

    if (which != 2)
        options.client_certificate = CLIENT_CERTIFICATE_NO;
    certificates_write(path, arguments->bytes, arguments->size, 0600);
    r = credentials_new(&made, &options, error);
    CHECK(r == 0 || (r == -EINVAL && strstr(error, "any.pem") && !strpbrk(error, "\n\x1b")));
    if (r == 0)
        credentials_unref(made);
}

static void act(struct run *run, enum action action, struct reader *arguments)
{
    struct side *side =
        action == ACTION_CREDENTIALS || action == ACTION_CHANGE ? NULL : choose(run, arguments);
    size_t size;

    switch (action) {
    case ACTION_PUMP:
        size = read_u16(arguments);
        pump(run, side, size == 0 ? SIZE_MAX : size, read_u8(arguments));
        break;
    case ACTION_BYTES:
        size = read_u8(arguments);
        run->changed = true;
        if (side->memory.started && !side->memory.closing)
            memory_deliver(&side->memory, arguments->bytes, arguments->size, size);
        break;
    case ACTION_CHANGE:
        change(run, arguments);
        break;
    case ACTION_DROP:
        size = read_u16(arguments);
        size = MIN(on_the_way(side), size);
        run->changed = run->changed || size > 0;
        side->memory.taken += size;
        break;
    case ACTION_WRITE:
        size = (size_t)read_u16(arguments) * 4;
        if (arguments->size > 0)
            side_write(side, arguments->bytes, arguments->size);
        else {
            uint8_t *bytes = calloc(1, size + 1);

            CHECK(bytes);
            side_write(side, bytes, size);
            free(bytes);
        }
        break;
    case ACTION_TURN:
        turn(run, read_u8(arguments) % 8 + 1U);
        break;
    case ACTION_TIME:
        clock_advance_ms(read_u16(arguments));
        turn(run, 1);
        break;
    case ACTION_ACCEPT:
        set_socket(side, arguments);
        break;
    case ACTION_RELEASE:
        socket_release(&side->memory, read_u8(arguments) == 1 ? -EPIPE : 0);
        break;
    case ACTION_END:
        if (side->memory.started && !side->memory.closing && !side->ended)
            memory_end(&side->memory, read_u8(arguments) == 1 ? -ECONNRESET : 0);
        break;
    case ACTION_SHUTDOWN:
        if (side->transport && !side->shut && side->waiting == 0) {
            side->shut = true;
            side->transport->ops->shutdown(side->transport);
        }
        break;
    case ACTION_CLOSE:
        side_close(side);
        break;
    default:
        read_files(arguments);
    }
}

/* ---- From begin to end ---- */

static void begin_side(struct run *run, unsigned which, unsigned version, unsigned strict)
{
    struct side *side = &run->sides[which];
    const struct tls_options options = {
        .credentials = credentials[which][version][strict],
        .client = which == 1,
        .timeout_ms = HANDSHAKE_MS,
        .server_name = which == 1 ? "stock.example" : NULL,
        .done = on_done,
        .user = side,
    };

    memory_init(&side->memory, &run->world);
    side->memory.release_now = true;
    CHECK(tls_handshake(&side->handshake, &run->world.loop, &side->memory.transport, &options) ==
          0);
}

/* Where nobody touched it, what came is what was sent, from its first byte on. */
static void check_bytes(const struct run *run)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct buffer *received = &run->sides[i].received;
        const struct buffer *sent = &run->sides[1 - i].sent;

        /* What was changed is found out, and nothing of it given to anybody. */
        CHECK(received->size <= sent->size);
        CHECK(received->size == 0 || memcmp(received->bytes, sent->bytes, received->size) == 0);
    }
}

static void end(struct run *run)
{
    /* No handshake outlives its time, whatever came. */
    for (unsigned i = 0; i < 30; i++) {
        clock_advance_ms(HANDSHAKE_MS / 10);
        world_turn(&run->world);
    }
    check_bytes(run);
    for (unsigned i = 0; i < 2; i++) {
        struct side *side = &run->sides[i];

        CHECK(side->done && !side->handshake);
        side_close(side);
    }
    for (unsigned i = 0; i < 10; i++)
        world_turn(&run->world);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(run->sides[i].memory.closed);
        memory_deinit(&run->sides[i].memory);
        buffer_deinit(&run->sides[i].received);
        buffer_deinit(&run->sides[i].sent);
    }
    world_deinit(&run->world);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct reader program = {bytes, size}, arguments;
    struct run *run = calloc(1, sizeof(*run));
    uint8_t action, versions = read_u8(&program);

    CHECK(run);
    (void)read_part(&program, PROGRAM_OPTIONS - 1);
    clock_reset();
    world_init(&run->world);
    begin_side(run, 0, versions & 1, versions >> 2 & 1);
    begin_side(run, 1, versions >> 1 & 1, versions >> 3 & 1);
    turn(run, 1);
    for (unsigned i = 0; i < PROGRAM_ACTIONS_MAX && program_next(&program, &action, &arguments);
         i++)
        act(run, action % ACTION_COUNT, &arguments);
    end(run);
    free(run);
    return 0;
}
