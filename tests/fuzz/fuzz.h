/*
 * What all fuzz targets share: the two functions that libFuzzer looks for, a check that is always
 * made, a reader of input that never runs out, and a clock that only the input moves.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One input; returns 0. Whatever a target finds wrong ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Before the first input; every target has one. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* What must hold, whatever the input was. */
#define CHECK(condition) ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition))
_Noreturn void fuzz_fail(const char *file, int line, const char *condition);

/* Reads bytes from the front; behind the end all are 0. */
struct reader {
    const uint8_t *bytes;
    size_t size;
};

static inline uint8_t read_u8(struct reader *reader)
{
    if (reader->size == 0)
        return 0;
    reader->size--;
    return *reader->bytes++;
}

static inline uint16_t read_u16(struct reader *reader)
{
    uint16_t high = read_u8(reader);

    return (uint16_t)(high << 8 | read_u8(reader));
}

static inline uint32_t read_u32(struct reader *reader)
{
    uint32_t high = read_u16(reader);

    return high << 16 | read_u16(reader);
}

/* Up to `size` bytes, as a part of the input. */
static inline struct reader read_part(struct reader *reader, size_t size)
{
    struct reader part = {reader->bytes, size < reader->size ? size : reader->size};

    reader->bytes += part.size;
    reader->size -= part.size;
    return part;
}

/* A copy in memory of just this size, so that AddressSanitizer sees who reads on, with a NUL behind
 * it if `terminate`; for free(). */
void *fuzz_copy(const uint8_t *bytes, size_t size, bool terminate);

/* Room for so many bytes and no more, for free(). */
void *fuzz_room(size_t size);

/*
 * ---- The clock ----
 *
 * Targets with timers link clock.c. There CLOCK_MONOTONIC, for libuv too, stands still but for
 * these: an hour passes in no time, and an input always finds the same moments.
 */

void clock_reset(void);
void clock_advance_ms(uint64_t ms);
