/*
 * The service manager: what it passes to the program, and what it is told. Only systemd.c knows
 * sd-daemon. Under no manager (neither NOTIFY_SOCKET nor LISTEN_FDS nor WATCHDOG_USEC in the
 * environment) all of it does nothing.
 */
#pragma once

#include "base/util.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* Is there a manager that wants to be told something? */
bool systemd_wants_to_know(void);

/*
 * Tells the manager some lines of sd_notify(3), such as "READY=1\nSTATUS=12 streams", 1023 bytes at
 * most. Never waits. False if the manager could not be told just now, most often because it does
 * not read what it was told before; what it must know is then to be told again later. True also
 * where nobody wants to know.
 */
bool systemd_notify(const char *format, ...) _printf_(1, 2);

/* CLOCK_MONOTONIC, for MONOTONIC_USEC=. */
uint64_t systemd_monotonic_us(void);

/* How long the manager waits for WATCHDOG=1 before it ends us, in milliseconds; 0: it does not. */
uint64_t systemd_watchdog_ms(void);

/* More are a fault of the unit. */
#define SYSTEMD_SOCKETS_MAX 64
/* The longest name that FileDescriptorName= takes is 255 bytes. */
#define SYSTEMD_NAME_MAX 256
#define SYSTEMD_ERROR_MAX 512

/* A socket that listens already. */
struct systemd_socket {
    int fd; /* 3 or more; non-blocking, closed on exec; open until the process ends */
    char name[SYSTEMD_NAME_MAX]; /* FileDescriptorName=, or the name of the socket unit */
    struct sockaddr_storage address;
};

struct systemd_sockets {
    struct systemd_socket *sockets; /* for free() */
    unsigned count;
};

/*
 * Takes what sd_listen_fds(3) passes; only the first call finds any, and no child is passed them.
 * 0, -ENOMEM, or -EINVAL: then `error` says in words which of them is no socket of TCP or a Unix
 * stream that listens (a unit with Accept=yes, a FIFO), or that there are too many.
 */
int systemd_sockets_take(struct systemd_sockets *ret_sockets, char error[static SYSTEMD_ERROR_MAX]);
