/*
 * Changes programs (program.h) action by action, so that most mutants are still conversations:
 * libFuzzer alone would nearly always break the lengths.
 */
#include "fuzz.h"
#include "program.h"

#include "base/util.h"

#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t size_max);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t size_max, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *two,
                                 size_t two_size, uint8_t *ret_bytes, size_t size_max,
                                 unsigned seed);

#define ARGUMENTS_MAX 0xFFFF

/* Where each action of a program lies; the last one is the program's end. */
struct map {
    size_t count;
    size_t at[PROGRAM_ACTIONS_MAX + 1];
};

static void map_make(struct map *map, const uint8_t *bytes, size_t size)
{
    struct reader program = {bytes, size};
    struct reader arguments;
    uint8_t action;

    (void)read_part(&program, PROGRAM_OPTIONS);
    map->count = 0;
    map->at[0] = size - program.size;
    while (map->count < PROGRAM_ACTIONS_MAX && program_next(&program, &action, &arguments))
        map->at[++map->count] = size - program.size;
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1103515245U + 12345U;
    return *seed >> 12;
}

/* Puts `insert_size` bytes in the place of `old_size` at `at`; the new size, or the old one where
 * that is too much. */
static size_t replace(uint8_t *bytes, size_t size, size_t size_max, size_t at, size_t old_size,
                      const uint8_t *insert, size_t insert_size)
{
    if (size - old_size + insert_size > size_max)
        return size;
    memmove(bytes + at + insert_size, bytes + at + old_size, size - at - old_size);
    if (insert_size > 0)
        memcpy(bytes + at, insert, insert_size);
    return size - old_size + insert_size;
}

static void write_head(uint8_t *bytes, uint8_t action, size_t size)
{
    bytes[0] = action;
    bytes[1] = (uint8_t)(size >> 8);
    bytes[2] = (uint8_t)size;
}

static size_t mutate_arguments(uint8_t *bytes, size_t size, size_t size_max, const struct map *map,
                               size_t index)
{
    static uint8_t copy[PROGRAM_ACTION_HEAD + ARGUMENTS_MAX];
    size_t at = map->at[index];
    size_t old = map->at[index + 1] - at;
    size_t room = MIN(size_max - size + old, sizeof(copy));
    size_t count;

    if (old < PROGRAM_ACTION_HEAD || room < PROGRAM_ACTION_HEAD + 1)
        return size;
    memcpy(copy, bytes + at, old);
    count = LLVMFuzzerMutate(copy + PROGRAM_ACTION_HEAD, old - PROGRAM_ACTION_HEAD,
                             room - PROGRAM_ACTION_HEAD);
    write_head(copy, copy[0], count);
    return replace(bytes, size, size_max, at, old, copy, PROGRAM_ACTION_HEAD + count);
}

/* A new action, with a few small arguments: most of them choose one of a few. */
static size_t insert_action(uint8_t *bytes, size_t size, size_t size_max, size_t at, unsigned *seed)
{
    uint8_t action[PROGRAM_ACTION_HEAD + 6];
    size_t count = next_random(seed) % 7;

    write_head(action, (uint8_t)(next_random(seed) % 32), count);
    for (size_t i = 0; i < count; i++) {
        unsigned value = next_random(seed);

        action[PROGRAM_ACTION_HEAD + i] = (uint8_t)(value % 4 ? value >> 4 & 7 : value >> 4);
    }
    return replace(bytes, size, size_max, at, 0, action, PROGRAM_ACTION_HEAD + count);
}

static size_t copy_action(uint8_t *bytes, size_t size, size_t size_max, const struct map *map,
                          size_t from, size_t to)
{
    size_t count = map->at[from + 1] - map->at[from];
    uint8_t *copy = fuzz_copy(bytes + map->at[from], count, false);

    size = replace(bytes, size, size_max, map->at[to], 0, copy, count);
    free(copy);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t size_max, unsigned seed)
{
    struct map map;
    size_t one, two;

    if (size < PROGRAM_OPTIONS || next_random(&seed) % 16 == 0)
        return LLVMFuzzerMutate(bytes, size, size_max);
    map_make(&map, bytes, size);
    if (map.count == 0)
        return insert_action(bytes, size, size_max, size, &seed);
    one = next_random(&seed) % map.count;
    two = next_random(&seed) % map.count;
    switch (next_random(&seed) % 8) {
    case 0:
        return insert_action(bytes, size, size_max, map.at[one], &seed);
    case 1:
        return replace(bytes, size, size_max, map.at[one], map.at[one + 1] - map.at[one], NULL, 0);
    case 2:
        return copy_action(bytes, size, size_max, &map, one, two);
    case 3: /* a range of them goes, or only the options change */
        if (one < two)
            return replace(bytes, size, size_max, map.at[one], map.at[two] - map.at[one], NULL, 0);
        bytes[next_random(&seed) % PROGRAM_OPTIONS] ^= (uint8_t)(1U << next_random(&seed) % 8);
        return size;
    default:
        return mutate_arguments(bytes, size, size_max, &map, one);
    }
}

/* The beginning of one program and the end of another, without its options. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *two,
                                 size_t two_size, uint8_t *ret_bytes, size_t size_max,
                                 unsigned seed)
{
    struct map maps[2];
    size_t head, tail;

    map_make(&maps[0], one, one_size);
    map_make(&maps[1], two, two_size);
    head = maps[0].at[next_random(&seed) % (maps[0].count + 1)];
    tail = maps[1].at[next_random(&seed) % (maps[1].count + 1)];
    head = MIN(head, size_max);
    memcpy(ret_bytes, one, head);
    two_size = MIN(two_size - tail, size_max - head);
    memcpy(ret_bytes + head, two + tail, two_size);
    return head + two_size;
}
