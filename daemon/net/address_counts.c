/*
 * A hash table with open addressing and linear probing, 16 bytes a slot.
 *
 * Addresses are the peers' choice, above all those of IPv6, of which anybody can have thousands. If
 * they could foresee what falls together they could make each look-up walk through all of them.
 * Hence SipHash (Aumasson and Bernstein, 2012) with a secret seed.
 */
#include "net/address_counts.h"

#include "base/util.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define CAPACITY_MIN 16u

struct address_count {
    uint64_t bits;   /* of the address; what counts as one has the same ones */
    uint32_t family; /* and the same family */
    uint32_t count;  /* 0: the slot is free */
};

/* A slot of its own, for an address that is looked for. */
static struct address_count key_of(const struct sockaddr *address)
{
    struct address_count key = {.family = address->sa_family};
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;

    /* Copied, because the caller's memory may be aligned for a plain sockaddr only. */
    if (key.family == AF_INET) {
        memcpy(&ipv4, address, sizeof ipv4);
        key.bits = ipv4.sin_addr.s_addr;
    } else if (key.family == AF_INET6) {
        memcpy(&ipv6, address, sizeof ipv6);
        if (IN6_IS_ADDR_V4MAPPED(&ipv6.sin6_addr)) {
            key.family = AF_INET;
            key.bits = ipv6.sin6_addr.s6_addr32[3];
        } else {
            memcpy(&key.bits, &ipv6.sin6_addr, sizeof key.bits);
        }
    }
    return key;
}

static bool same(const struct address_count *a, const struct address_count *b)
{
    return a->bits == b->bits && a->family == b->family;
}

/* ---- Hash ---- */

static inline uint64_t rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void sip_round(uint64_t v[static 4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

/* SipHash-1-3 of two words; the seed is half of its key, which is enough for what it hides. */
static uint64_t hash(const struct address_count *key, uint64_t seed)
{
    const uint64_t words[] = {key->bits, key->family};
    uint64_t v[] = {
        seed ^ UINT64_C(0x736f6d6570736575),
        UINT64_C(0x646f72616e646f6d),
        seed ^ UINT64_C(0x6c7967656e657261),
        UINT64_C(0x7465646279746573),
    };

    for (size_t i = 0; i < ELEMENTSOF(words); i++) {
        v[3] ^= words[i];
        sip_round(v);
        v[0] ^= words[i];
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Early in a machine's life there may be no randomness yet; to wait for it is not worth that. */
static uint64_t choose_seed(void)
{
    struct timespec now;
    uint64_t seed = 0;

    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == sizeof seed)
        return seed;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_nsec * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)now.tv_sec ^
           (uint64_t)(uintptr_t)&seed;
}

/* ---- Table ---- */

/* Where the search for a key begins; the capacity is a power of two. */
static uint32_t home(const struct address_counts *counts, const struct address_count *key)
{
    return (uint32_t)hash(key, counts->seed) & (counts->capacity - 1);
}

static uint32_t next(const struct address_counts *counts, uint32_t index)
{
    return (index + 1) & (counts->capacity - 1);
}

/* The slot that has the key, or the free one where it belongs. There is always a free one. */
static struct address_count *find(const struct address_counts *counts,
                                  const struct address_count *key)
{
    uint32_t index = home(counts, key);

    while (counts->slots[index].count > 0 && !same(&counts->slots[index], key))
        index = next(counts, index);
    return &counts->slots[index];
}

/* Moves everything into a table of another size. 0 or -ENOMEM; then nothing has changed. */
static int resize(struct address_counts *counts, uint32_t capacity)
{
    struct address_counts resized = {
        .slots = calloc(capacity, sizeof *resized.slots),
        .capacity = capacity,
        .used = counts->used,
        .seed = counts->seed,
    };

    if (!resized.slots)
        return -ENOMEM;
    for (uint32_t i = 0; i < counts->capacity; i++)
        if (counts->slots[i].count > 0)
            *find(&resized, &counts->slots[i]) = counts->slots[i];
    free(counts->slots);
    *counts = resized;
    return 0;
}

/* Is there room for another address, with a quarter of the slots left free? */
static int make_room(struct address_counts *counts)
{
    if (counts->capacity == 0)
        return resize(counts, CAPACITY_MIN);
    if (counts->used < counts->capacity - counts->capacity / 4)
        return 0;
    if (counts->capacity > UINT32_MAX / 2)
        return -ENOMEM;
    return resize(counts, counts->capacity * 2);
}

/*
 * Frees a slot. Those behind it, up to the next free one, may have come to their place past this
 * one: each that would not be found any more moves up, and leaves a slot for the next.
 */
static void free_slot(struct address_counts *counts, uint32_t hole)
{
    uint32_t mask = counts->capacity - 1;

    for (uint32_t i = next(counts, hole); counts->slots[i].count > 0; i = next(counts, i)) {
        uint32_t from_home = (i - home(counts, &counts->slots[i])) & mask;

        if (from_home >= ((i - hole) & mask)) {
            counts->slots[hole] = counts->slots[i];
            hole = i;
        }
    }
    counts->slots[hole] = (struct address_count){0};
    counts->used--;
}

uint32_t address_counts_get(const struct address_counts *counts, const struct sockaddr *address)
{
    const struct address_count key = key_of(address);

    return counts->capacity > 0 ? find(counts, &key)->count : 0;
}

int address_counts_add(struct address_counts *counts, const struct sockaddr *address)
{
    const struct address_count key = key_of(address);
    struct address_count *slot = NULL;

    if (counts->capacity == 0)
        counts->seed = choose_seed();
    slot = counts->capacity > 0 ? find(counts, &key) : NULL;
    if (!slot || slot->count == 0) {
        int r = make_room(counts);

        if (r < 0)
            return r;
        slot = find(counts, &key);
        *slot = key;
        counts->used++;
    }
    slot->count++;
    return 0;
}

void address_counts_remove(struct address_counts *counts, const struct sockaddr *address)
{
    const struct address_count key = key_of(address);
    struct address_count *slot = counts->capacity > 0 ? find(counts, &key) : NULL;

    if (!slot || slot->count == 0 || --slot->count > 0)
        return;
    free_slot(counts, (uint32_t)(slot - counts->slots));
    if (counts->used == 0)
        address_counts_deinit(counts);
    else if (counts->capacity > CAPACITY_MIN && counts->used < counts->capacity / 8)
        (void)resize(counts, counts->capacity / 2); /* without memory it stays large */
}

void address_counts_deinit(struct address_counts *counts)
{
    free(counts->slots);
    *counts = (struct address_counts){0};
}
