/*
 * Random numbers from the kernel.
 */
#include "client/random.h"

#include <sys/random.h>
#include <time.h>

static uint64_t random_bits(void)
{
    struct timespec now;
    uint64_t bits;

    if (getrandom(&bits, sizeof(bits), GRND_NONBLOCK) == (ssize_t)sizeof(bits))
        return bits;
    /* Only in the first moments after boot. Delays are no secrets: the clock will do. */
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    bits = (uint64_t)now.tv_nsec * UINT64_C(0x9e3779b97f4a7c15);
    return bits ^ bits >> 29;
}

double client_random_unit(void)
{
    /* The 53 bits that a double holds. */
    return (double)(random_bits() >> 11) / (double)(UINT64_C(1) << 53);
}

uint64_t client_random_between(uint64_t minimum, uint64_t maximum)
{
    uint64_t count, unfair, bits;

    if (maximum - minimum == UINT64_MAX)
        return random_bits();
    /* Values below this bound would make the first few results likelier than the others. */
    count = maximum - minimum + 1;
    unfair = (UINT64_MAX - count + 1) % count;
    do {
        bits = random_bits();
    } while (bits < unfair);
    return minimum + bits % count;
}
