/*
 * Events of the market as text: for people, as JSON, as CSV. Updates are written as print.h has
 * them, with what belongs to the event around them.
 */
#pragma once

#include "client/print.h"
#include "stockservice.pb-c.h"

/* What comes before the first event: CSV's header line; nothing for the others. */
void print_event_header(struct text *text, enum print_format format);

/*
 * One event as one line, its end included:
 *
 *     text   sequence:12 ticker:"AAPL" price:148.21 …, with conflated:3, dropped:2 and snapshot
 * where there is something to tell; gap reason:history from:3 to:9 updates:7; heartbeat JSON
 * proto3's JSON mapping of MarketEvent, every field but resumeSequence also at its default, and
 * "type" in front of them: "update", "heartbeat" or "gap" CSV    the same columns for each kind;
 * those that a kind does not have are empty
 *
 * An event of a kind that this program does not know has the type "other", and nothing of its own.
 */
void print_event(struct text *text, enum print_format format,
                 const Stockservice__MarketEvent *event);
