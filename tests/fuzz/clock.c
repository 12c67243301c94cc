/*
 * A clock_gettime() in the place of libc's, for this program and the libraries that it loads.
 * Clocks that tell the time of day are the kernel's: libFuzzer measures itself by them.
 */
#include "fuzz.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS 1000000ULL
#define START_MS 1000000000ULL

static uint64_t now_ms = START_MS;

/* It has libc's name for the linker alone: for the compiler libc's stays what it is. */
__attribute__((visibility("default"))) int
read_clock(clockid_t clock, struct timespec *ret) __asm__("clock_gettime");

int read_clock(clockid_t clock, struct timespec *ret)
{
    if (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_COARSE && clock != CLOCK_BOOTTIME)
        return (int)syscall(SYS_clock_gettime, clock, ret);
    ret->tv_sec = (time_t)(now_ms / 1000);
    ret->tv_nsec = (long)(now_ms % 1000 * NS_PER_MS);
    return 0;
}

void clock_reset(void)
{
    now_ms = START_MS;
}

void clock_advance_ms(uint64_t ms)
{
    now_ms += ms;
}
