/*
 * Messages of protobuf: requests of all services of stockd, as bodies of calls that are otherwise
 * faultless, and descriptor sets with questions about them.
 */
#include "base/util.h"
#include "bed.h"
#include "program.h"
#include "proto/descriptor_set.h"
#include "services/descriptors.h"
#include "services/reflection_private.h"

#include <errno.h>
#include <string.h>

#define STREAM 1

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    log_set_level(LOG_EMERG);
    return 0;
}

/* ---- Calls ---- */

static void send_call(struct link *link, const struct method *method, struct reader *input)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct buffer bytes = {0}, block = {0};
    uint8_t prefix[WIRE_PREFIX_SIZE];
    char path[128];

    (void)snprintf(path, sizeof(path), "/%s/%s", method->service, method->name);
    block_add_text(&block, false, ":method", "POST");
    block_add_text(&block, false, ":scheme", "http");
    block_add_text(&block, false, ":path", path);
    block_add_text(&block, false, ":authority", "host.example");
    block_add_text(&block, false, "content-type", "application/grpc");
    block_add_text(&block, false, "te", "trailers");
    buffer_append(&bytes, preface, strlen(preface));
    frame_add(&bytes, FRAME_SETTINGS, 0, 0, NULL, 0);
    frame_add_block(&bytes, 0, STREAM, &block, 16384);
    do {
        /* One message for each line, where the call may have many. */
        const uint8_t *end = memchr(input->bytes, '\n', input->size);
        bool one = method->type != METHOD_BIDI_STREAM || !end;
        struct reader part = read_part(input, one ? input->size : (size_t)(end - input->bytes));

        if (!one)
            (void)read_u8(input);
        wire_prefix_write(prefix, (uint32_t)part.size);
        frame_add(&bytes, FRAME_DATA, 0, STREAM, prefix, sizeof(prefix));
        frame_add(&bytes, FRAME_DATA, 0, STREAM, part.bytes, part.size);
    } while (input->size > 0);
    frame_add(&bytes, FRAME_DATA, FLAG_END_STREAM, STREAM, NULL, 0);
    link_deliver(link, bytes.bytes, bytes.size, 0);
    buffer_deinit(&bytes);
    buffer_deinit(&block);
}

/* Whatever is asked, a call that can end does, and nothing is left of it. */
static void try_call(uint8_t which, struct reader *input)
{
    const struct stock_options stock = {.ticker = "A", .start_price = 1, .interval_ms = 1000};
    struct bed *bed = calloc(1, sizeof(*bed));
    struct link *link;
    const struct method *method;

    CHECK(bed);
    link = &bed->links[0];
    bed->options = (struct connection_options){
        .max_streams = 1,
        .max_header_bytes = 8192,
        .stream_window = 65535,
        .connection_window = 65535,
    };
    bed->calls = (struct call_server){
        .max_message_bytes = 65536,
        .max_input_bytes = 1 << 20,
        .max_calls = 1,
    };
    bed_init(bed, &stock);
    bed_connect(bed, link);
    method = bed->methods[which % (BED_METHODS - BED_OWN_METHODS)];
    send_call(link, method, input);
    for (unsigned i = 0; i < 100 && !link->streams[STREAM / 2].ended; i++) {
        bed_turn(bed);
        link_answer(link);
    }
    CHECK(link->streams[STREAM / 2].headers);
    if (method->type == METHOD_UNARY || method->type == METHOD_BIDI_STREAM)
        CHECK(link->streams[STREAM / 2].ended);
    CHECK(link->connection && !link->gone);
    bed_deinit(bed);
    free(bed);
}

/* ---- Descriptors ---- */

static void ask(const struct descriptors *descriptors, const char *name)
{
    const struct descriptor_extension *extensions;
    const struct descriptor_file *file = descriptors_find_file(descriptors, name);
    size_t count = descriptors_find_extensions(descriptors, name, &extensions);

    CHECK(!file || strcmp(file->name, name) == 0);
    for (size_t i = 0; i < count; i++)
        CHECK(extensions[i].file && strcmp(extensions[i].type, name) == 0);
    file = descriptors_find_symbol(descriptors, name, DESCRIPTOR_ANY);
    if (!file) {
        CHECK(!descriptors_find_symbol(descriptors, name, DESCRIPTOR_MESSAGE));
        CHECK(!descriptors_find_symbol(descriptors, name, DESCRIPTOR_SERVICE));
        return;
    }
    CHECK(file->index < descriptors_file_count(descriptors));
    CHECK(file->closure_count > 0 && file->closure[0] == file);
    for (size_t i = 0; i < file->closure_count; i++)
        CHECK(descriptors_find_file(descriptors, file->closure[i]->name));
}

/* A line is a name; all are looked for in stockd's own descriptors. */
static void try_names(struct reader *input)
{
    static struct descriptors *own;

    if (!own)
        CHECK(descriptors_new(&own, descriptor_set, descriptor_set_size) == 0);
    while (input->size > 0) {
        const uint8_t *end = memchr(input->bytes, '\n', input->size);
        struct reader part = read_part(input, end ? (size_t)(end - input->bytes) : input->size);
        char *name = fuzz_copy(part.bytes, part.size, true);

        (void)read_u8(input);
        ask(own, name);
        free(name);
    }
}

static void try_set(const struct reader *input)
{
    static const char *const names[] = {"", "a", "a.A", "a.A.b", ".a", "google.protobuf.Any"};
    struct descriptors *descriptors = NULL;
    int r = descriptors_new(&descriptors, input->bytes, input->size);

    CHECK(r == 0 || r == -EINVAL);
    if (r < 0)
        return;
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        ask(descriptors, names[i]);
    descriptors_free(descriptors);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = fuzz_copy(bytes, size, false);
    struct reader input = {copy, size};
    uint8_t what = read_u8(&input);

    clock_reset();
    if (what & 128)
        try_set(&input);
    else if (what & 64)
        try_names(&input);
    else
        try_call(what, &input);
    free(copy);
    return 0;
}
