/*
 * Names begin alike ("BINANCE:BTCUSDT"), and which ones are looked for is up to clients. So the
 * hash takes in all of a name, and a key that nobody knows: SipHash, of one round for each eight
 * bytes and three at the end (Jean-Philippe Aumasson, Daniel J. Bernstein, "SipHash: a fast
 * short-input PRF", 2012). Of hsearch(3) only the first bytes count.
 *
 * A table is never more than half full, and a name that is not at its place is at one of the next.
 */
#include "base/names.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct names_slot {
    const char *name; /* NULL: none */
    uint32_t hash;    /* some of its bits, which spare most comparisons */
    uint32_t value;
};

static inline uint64_t rotate(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void mix(uint64_t v[static 4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static inline void take(uint64_t v[static 4], uint64_t word)
{
    v[3] ^= word;
    mix(v);
    v[0] ^= word;
}

static uint64_t hash_name(const struct names *names, const char *name, size_t size)
{
    uint64_t v[4] = {
        names->key[0] ^ UINT64_C(0x736f6d6570736575),
        names->key[1] ^ UINT64_C(0x646f72616e646f6d),
        names->key[0] ^ UINT64_C(0x6c7967656e657261),
        names->key[1] ^ UINT64_C(0x7465646279746573),
    };
    uint64_t word, last = (uint64_t)size << 56;

    for (; size >= sizeof(word); name += sizeof(word), size -= sizeof(word)) {
        memcpy(&word, name, sizeof(word));
        take(v, le64toh(word));
    }
    word = 0;
    memcpy(&word, name, size);
    take(v, last | le64toh(word));
    v[2] ^= 0xff;
    for (unsigned i = 0; i < 3; i++)
        mix(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

int names_init(struct names *names, size_t room)
{
    size_t count = 2;

    *names = (struct names){0};
    while (count < 2 * room)
        count *= 2;
    names->slots = calloc(count, sizeof(*names->slots));
    if (!names->slots)
        return -ENOMEM;
    names->mask = count - 1;
    /* A system that has no random numbers yet is just starting: where things are in memory is what
     * nobody outside can know then. */
    if (getrandom(names->key, sizeof(names->key), GRND_NONBLOCK) != sizeof(names->key)) {
        names->key[0] = (uintptr_t)names->slots;
        names->key[1] = (uintptr_t)names;
    }
    return 0;
}

void names_deinit(struct names *names)
{
    free(names->slots);
    *names = (struct names){0};
}

/* The name's slot, or the one where it would be. */
static struct names_slot *find(const struct names *names, const char *name, size_t size,
                               uint64_t hash)
{
    for (size_t at = hash & names->mask;; at = (at + 1) & names->mask) {
        struct names_slot *slot = &names->slots[at];

        if (!slot->name || (slot->hash == hash >> 32 && strlen(slot->name) == size &&
                            memcmp(slot->name, name, size) == 0))
            return slot;
    }
}

bool names_find(const struct names *names, const char *name, size_t size, uint32_t *ret_value)
{
    const struct names_slot *slot;

    if (!names->slots)
        return false;
    slot = find(names, name, size, hash_name(names, name, size));
    if (!slot->name)
        return false;
    *ret_value = slot->value;
    return true;
}

void names_add(struct names *names, const char *name, uint32_t value)
{
    size_t size = strlen(name);
    uint64_t hash = hash_name(names, name, size);
    struct names_slot *slot = find(names, name, size, hash);

    assert(!slot->name);
    *slot = (struct names_slot){.name = name, .hash = (uint32_t)(hash >> 32), .value = value};
}
