/*
 * Entries for systemd's journal, in its native protocol. sd_journal_sendv() would do, were it not
 * for its socket, which waits for a journald that does not read: a server that logs would stand
 * still with it, until the watchdog ends it and all of its streams.
 */
#pragma once

#include <stdbool.h>
#include <sys/uio.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define JOURNAL_FIELDS_MAX 16

/*
 * Sends one entry to the journal that listens at `path`: `count` fields "NAME=value",
 * JOURNAL_FIELDS_MAX at most; a value may have any bytes. 0, or a negative errno: -EAGAIN if the
 * journal does not read what it was sent before, and this shall not `wait` for it.
 */
int journal_send(const char *path, const struct iovec *fields, unsigned count, bool wait);

/*
 * Waits, `most_ms` at most, until the journal at `path` is done with what it was sent. To be called
 * before the process ends: journald looks up in /proc which unit an entry is of, so that
 * `journalctl -u` would not show the last words of a process that is gone by then. 0, or a negative
 * errno: -ETIMEDOUT, or what keeps the journal from being sent anything.
 */
int journal_settle(const char *path, unsigned most_ms);
