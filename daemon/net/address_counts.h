/*
 * How many connections there are from each address: IPv4 by address, IPv6 by its first 64 bits,
 * which is what one customer gets and can choose from, Unix sockets all together.
 */
#pragma once

#include <stdint.h>
#include <sys/socket.h>

struct address_count;

/* Zeroed memory is valid and empty. It holds memory for addresses with connections only. */
struct address_counts {
    struct address_count *slots;
    uint32_t capacity;
    uint32_t used;
    uint64_t seed; /* of its hash, chosen when it first holds something: addresses are the
                    * attacker's choice */
};

/* The number from this address. */
uint32_t address_counts_get(const struct address_counts *counts, const struct sockaddr *address);

/* One more. 0 or -ENOMEM. */
int address_counts_add(struct address_counts *counts, const struct sockaddr *address);

/* One that was added is gone. */
void address_counts_remove(struct address_counts *counts, const struct sockaddr *address);

void address_counts_deinit(struct address_counts *counts);
