"""
Backpressure: what a client does not take is not made, not sent and not kept, and nothing is lost.

Three ways to stop reading, with 100 calls on a connection and `interval = 0`: giving no credit for
the streams, giving none for the connection, and not reading the socket at all.
"""

import os
import signal
import time

import pytest

from harness.clients import get_updates, open_channel
from harness.h2 import (
    DATA,
    EMPTY_REQUEST,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    WINDOW_INITIAL,
    WINDOW_MAX,
    RawH2,
    frame,
    request_headers,
)
from harness.stocks import Chain, pb2
from harness.wait import wait_stable, wait_until

CALLS = 100
REASONS = ("stream_window", "connection_window", "socket")

# One update with its prefix: fixed parts and the extremes of the variable ones.
MESSAGE_BYTES_MIN, MESSAGE_BYTES_MAX = 85, 110


class Stalled:
    """A client with calls that it stops reading, in one of the three ways."""

    def __init__(self, stockd, reason):
        self.stockd = stockd
        self.reason = reason
        stream_window = WINDOW_INITIAL if reason == "stream_window" else WINDOW_MAX
        self.h2 = RawH2(
            stockd.port,
            settings={INITIAL_WINDOW_SIZE: stream_window},
            receive_buffer=4096 if reason == "socket" else None,
        )
        self.h2.ready()
        if reason != "connection_window":
            self.h2.open_connection_window()
        self.streams = []
        self.chains = []

    def open(self, count):
        """Opens calls, and reads, or does not, until nothing comes any more."""
        first = len(self.streams)
        many = b""
        for _ in range(count):
            stream = self.h2.stream(self.h2.next_stream)
            self.h2.next_stream += 2
            block = self.h2.header_block(request_headers())
            many += frame(HEADERS, END_HEADERS, stream.id, block)
            many += frame(DATA, END_STREAM, stream.id, EMPTY_REQUEST)
            self.streams.append(stream)
            self.chains.append(Chain())
        self.h2.send(many)
        if self.reason == "stream_window":
            self.h2.wait(
                lambda: all(s.data_bytes == WINDOW_INITIAL for s in self.streams[first:]),
                60,
                "a full window on each stream",
            )
        elif self.reason == "connection_window":
            self.h2.wait(lambda: self.received_bytes() == WINDOW_INITIAL, 60, "a full window")
        self.stockd.wait_metric("stockd_blocked_streams", len(self.streams), 60, reason=self.reason)
        if self.reason != "socket":
            self.h2.ping()

    def received_bytes(self):
        return sum(stream.data_bytes for stream in self.streams)

    def check(self):
        """Checks the chains of what has come so far; the number of whole updates."""
        for stream, chain in zip(self.streams, self.chains):
            chain.check_bytes(stream.take_bodies())
        return sum(chain.count for chain in self.chains)

    def resume(self, more):
        """Reads on until every call has `more` further updates, without a hole."""
        self.check()
        goals = [chain.count + more for chain in self.chains]
        given = {stream.id: stream.data_bytes for stream in self.streams}
        total_given = sum(given.values())

        def enough():
            nonlocal total_given
            self.check()
            if self.reason == "stream_window":
                credit = {}
                for stream, chain, goal in zip(self.streams, self.chains, goals):
                    behind = stream.data_bytes - given[stream.id]
                    if chain.count < goal and (behind > 10000 or not behind):
                        # A first piece, then what has been read.
                        credit[stream.id] = max(behind, 0) or 20000
                        given[stream.id] += credit[stream.id]
                if credit:
                    self.h2.give(credit)
            elif self.reason == "connection_window":
                total = self.received_bytes()
                if total > total_given or total == WINDOW_INITIAL:
                    self.h2.window_update(0, max(total - total_given, WINDOW_INITIAL))
                    total_given = max(total, total_given + 1)
            return all(chain.count >= goal for chain, goal in zip(self.chains, goals))

        self.h2.wait(enough, 90, f"{more} further updates on each of {len(self.streams)} calls")

    def close(self):
        self.h2.close()


class Fast:
    """A client that takes all it can get, and counts bytes alone."""

    def __init__(self, stockd):
        self.h2 = RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: WINDOW_MAX})
        self.h2.ready()
        self.h2.open_connection_window()
        self.stream = self.h2.call()
        self.h2.socket.settimeout(20)
        self.buffer = bytearray(1 << 18)
        self.owed = 0

    def rate(self, seconds=0.3):
        """Bytes a second, over that time."""
        began = time.monotonic()
        received = 0
        while (took := time.monotonic() - began) < seconds:
            size = self.h2.socket.recv_into(self.buffer)
            assert size, "the connection ended"
            received += size
            self.give_back(size)
        return received / took

    def give_back(self, size):
        """The largest window there is lasts for a second only. Frame headers need no credit."""
        self.owed += size
        if self.owed > 64 << 20:
            self.h2.give({self.stream.id: self.owed * 99 // 100})
            self.owed = 0

    def close(self):
        self.h2.close()


@pytest.mark.parametrize("reason", REASONS)
def test_100_calls_that_nobody_reads(start_stockd, sanitized, reason):
    stockd = start_stockd(stream={"interval": "0"})

    # A fast client warms the daemon up.
    fast = Fast(stockd)
    fast.rate()
    fast.close()
    stockd.wait_metric("stockd_streams", 0)
    sent_before = stockd.metric("stock_updates_sent_total")
    bytes_before = stockd.metric("stockd_sent_bytes_total")

    # One stalled call, then 99 more: what do they cost?
    stalled = Stalled(stockd, reason)
    stalled.open(1)
    memory_before = stockd.private_bytes()
    stalled.open(CALLS - 1)

    # Sent stops where the window, or the socket, is full, and stays there.
    sent = wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
    sent -= sent_before
    if reason == "stream_window":
        assert stalled.received_bytes() == CALLS * WINDOW_INITIAL
        assert sent == stalled.check()
        assert sent >= CALLS * (WINDOW_INITIAL // MESSAGE_BYTES_MAX)
        assert sent <= CALLS * (WINDOW_INITIAL // MESSAGE_BYTES_MIN)
    elif reason == "connection_window":
        assert stalled.received_bytes() == WINDOW_INITIAL
        assert sent == stalled.check()
    else:
        # Only what the kernel's two buffers hold.
        assert stockd.metric("stockd_sent_bytes_total") - bytes_before < 16 << 20
    # A call keeps no more than the rest of one message that the window cut in two.
    assert stockd.metric("stockd_queued_bytes", place="call") <= CALLS * MESSAGE_BYTES_MAX
    assert stockd.metric("stockd_queued_bytes", place="socket") <= 256 << 10

    # Nothing is kept for them.
    grown = stockd.private_bytes() - memory_before
    # Whole pages, and what the first of them needed for all (the exact test is the next one).
    allowed = CALLS * 1024 + (16 << 10) if not sanitized else CALLS * 64 * 1024
    assert grown <= allowed, f"{grown / (CALLS - 1):.0f} bytes a call"

    # Blocked streams and their time, by the right reason.
    assert_blocked_for(stockd, reason, CALLS)

    # A fast client beside them has the rate of one that is alone: at another stockd, measured in
    # turn, so that what else the machine does counts for both.
    twin = start_stockd(stream={"interval": "0"})
    fast, alone = Fast(stockd), Fast(twin)
    wait_until(lambda: fast.rate() > alone.rate() * 0.6, 60, "the rate of a client that is alone")
    fast.close()
    alone.close()
    stockd.wait_metric("stockd_streams", CALLS)

    # All this time nothing was sent or kept, and it stays so.
    memory = stockd.private_bytes()
    assert_blocked_for(stockd, reason, CALLS)
    if reason != "socket":
        assert stalled.h2.pump(0) is False
    assert stockd.private_bytes() - memory <= (16 << 10 if not sanitized else 4 << 20)

    # Reading on, no update is missing in any call.
    stalled.resume(300)
    stalled.close()
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == CALLS + 2


@pytest.mark.parametrize("reason", REASONS)
def test_a_stalled_call_costs_less_than_a_kibibyte(start_stockd, sanitized, reason):
    """The call itself, its stream and its walk included; over so many that pages do not matter."""
    stockd = start_stockd(stream={"interval": "0"})
    stalled = Stalled(stockd, reason)
    stalled.open(CALLS)
    before = stockd.private_bytes()
    stalled.open(8 * CALLS)
    grown = stockd.private_bytes() - before
    stalled.close()
    # Once for all of them: the rest of one write, if the socket was full for a moment.
    rest = 128 << 10
    # AddressSanitizer surrounds each allocation, and does not give back what was freed.
    assert (grown - rest) / (8 * CALLS) <= (1024 if not sanitized else 64 * 1024)
    stockd.wait_at_rest()


def assert_blocked_for(stockd, reason, count):
    """`count` streams are blocked for that reason alone, and their time is counted."""

    def look():
        """The metrics, and between which times they were read."""
        earliest = time.monotonic()
        metrics = stockd.metrics()
        return metrics, earliest, time.monotonic()

    before, *began = look()
    blocked = before.by("stockd_blocked_streams", "reason")
    assert blocked == {other: count if other == reason else 0 for other in REASONS}, blocked
    assert before.sum("stockd_streams", state="blocked") == count
    assert before.sum("stockd_streams", state="sending") == 0

    name = "stockd_blocked_seconds_total"
    start = before.sum(name, reason=reason)
    stockd.wait_metric(name, lambda seconds: seconds - start > count * 0.5, 60, reason=reason)
    after, *ended = look()
    grown = (after.sum(name, reason=reason) - start) / count
    shortest, longest = ended[0] - began[1], ended[1] - began[0]
    assert shortest * 0.9 <= grown <= longest * 1.1, (shortest, grown, longest)
    for other in REASONS:
        name = "stockd_blocked_episodes_total"
        # It is one long episode for each stream.
        assert after.sum(name, reason=other) == before.sum(name, reason=other)
        if other != reason:
            name = "stockd_blocked_seconds_total"
            assert after.sum(name, reason=other) == before.sum(name, reason=other)
    assert after.sum("stockd_blocked_episodes_total", reason=reason) >= count


def test_blocked_calls_cost_no_time(start_stockd):
    """A call that cannot send is not asked again and again."""
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 300}) as h2:
        h2.ready()
        streams = [h2.call() for _ in range(CALLS)]
        stockd.wait_metric("stockd_blocked_streams", CALLS)
        h2.wait(lambda: all(stream.data_bytes == 300 for stream in streams), what="full windows")
        name = "stockd_blocked_seconds_total"
        blocked, used, began = stockd.metric(name), stockd.cpu_seconds(), time.monotonic()
        stockd.wait_metric(name, lambda seconds: seconds - blocked > CALLS, 60)
        # What the scrapes cost is in it, too.
        assert stockd.cpu_seconds() - used < 0.3 * (time.monotonic() - began)


def test_every_stall_of_a_stream_is_an_episode(start_stockd):
    """Credit for a few messages at a time, ten times."""
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 1000}) as h2:
        stream = h2.ready().call()
        chain = Chain()
        for stalls in range(1, 11):
            h2.wait(lambda n=stalls: stream.data_bytes == 1000 * n, what="a full window")
            stockd.wait_metric("stockd_blocked_episodes_total", stalls, reason="stream_window")
            chain.check_bytes(stream.take_bodies())
            stream.give(1000)
        # Each WINDOW_UPDATE was counted, by what it was for.
        stockd.wait_metric("stockd_window_updates_received_total", 10, scope="stream")
        h2.window_update(0, 1)
        stockd.wait_metric("stockd_window_updates_received_total", 1, scope="connection")
        metrics = stockd.metrics()
        assert metrics.sum("stockd_blocked_episodes_total", reason="connection_window") == 0
        assert metrics.sum("stockd_blocked_episodes_total", reason="socket") == 0


def test_a_message_is_sent_when_its_last_byte_is(start_stockd):
    """Windows of any size cut messages anywhere; sent counts whole ones only."""
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2:
        stream = h2.ready().call()
        stockd.wait_metric("stockd_blocked_streams", 1, reason="stream_window")
        chain = Chain()
        given = 0
        for size in [1, 4, 1, 50, 30, 10, 1, 1, 1, 1, 1, 1, 300, 7, 93, 1, 1, 99, 1000, 3]:
            given += size
            stream.give(size)
            h2.wait(lambda: stream.data_bytes == given, what="what the window allows")
            chain.check_bytes(stream.take_bodies())
            stockd.wait_metric("stock_updates_sent_total", chain.count)
        assert chain.count > 10
        assert stockd.metric("grpc_server_msg_sent_total", grpc_method="GetUpdates") == chain.count


def test_sent_is_what_the_kernel_took(start_stockd):
    """
    A socket that nobody reads takes a part of a write. The messages that count as sent are exactly
    those whose last byte is among the bytes that the kernel took, by the bytes that come out later.
    """
    stockd = start_stockd(stream={"interval": "0"})
    for receive_buffer in (4096, 10000, 50000):
        before = stockd.metrics()
        with RawH2(
            stockd.port,
            settings={INITIAL_WINDOW_SIZE: WINDOW_MAX},
            receive_buffer=receive_buffer,
        ) as h2:
            h2.ready()
            h2.open_connection_window()
            # What ready() has read is among the bytes that were taken.
            stream = h2.call()
            stockd.wait_metric("stockd_blocked_streams", 1, reason="socket")
            wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
            after = stockd.metrics()

            def grown(name):
                return int(after.sum(name) - before.sum(name))

            taken = grown("stockd_sent_bytes_total")
            raw = bytearray(taken - h2.received_bytes)
            h2.socket.settimeout(20)
            view = memoryview(raw)
            while view:
                view = view[h2.socket.recv_into(view) :]
            assert whole_messages(raw, stream.id) == grown("stock_updates_sent_total") > 0
            assert grown("grpc_server_msg_sent_total") == grown("stock_updates_sent_total")
        stockd.wait_at_rest()


def whole_messages(raw, stream):
    """How many messages lie whole in the DATA frames of these bytes, which may end anywhere."""
    body = bytearray()
    position = 0
    while position + 9 <= len(raw):
        size = int.from_bytes(raw[position : position + 3], "big")
        number = int.from_bytes(raw[position + 5 : position + 9], "big")
        if raw[position + 3] == DATA and number == stream:
            body += raw[position + 9 : position + 9 + size]
        position += 9 + size
    count = position = 0
    while position + 5 <= len(body):
        position += 5 + int.from_bytes(body[position + 1 : position + 5], "big")
        count += position <= len(body)
    return count


def test_shrinking_the_window_below_zero_is_understood(start_stockd):
    """SETTINGS may make a window negative (RFC 9113, 6.9.2): credit must first lift it above 0."""
    stockd = start_stockd(stream={"interval": "0"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 5000}) as h2:
        stream = h2.ready().call()
        chain = Chain()
        h2.wait(lambda: stream.data_bytes == 5000, what="a full window")
        h2.settings_acks = 0
        h2.send(frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x00"))
        h2.wait(lambda: h2.settings_acks, what="SETTINGS")
        stream.give(5000)
        h2.ping()
        assert stream.data_bytes == 5000
        stream.give(1)
        h2.wait(lambda: stream.data_bytes == 5001, what="one byte")
        stream.give(100_000 - 1)
        h2.wait(lambda: stream.data_bytes == 65535, what="the connection's window")
        stockd.wait_metric("stockd_blocked_streams", 1, reason="connection_window")
        h2.window_update(0, 100_000)
        h2.wait(lambda: stream.data_bytes == 105_000, what="the rest")
        chain.check_bytes(stream.take_bodies())
        stockd.wait_metric("stock_updates_sent_total", chain.count)


def test_a_paced_walk_pauses_while_blocked(start_stockd):
    """No backlog is made meanwhile, and it goes on where it was."""
    pace = {"interval": "4ms", "seed": "11"}
    window = 500
    stockd = start_stockd(stream=pace)
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: window}) as h2:
        stream = h2.ready().call()
        h2.wait(lambda: stream.data_bytes == window, what="a full window")
        # Time for 200 updates more.
        stockd.wait_metric(
            "stockd_blocked_seconds_total", lambda seconds: seconds > 0.8, reason="stream_window"
        )
        sent = stockd.metric("stock_updates_sent_total")
        began = time.monotonic()
        stream.give(60_000)
        bodies = []

        def more(count):
            bodies.extend(stream.take_bodies())
            return len(bodies) >= count

        h2.wait(lambda: more(54), what="updates")
        # The pace is kept from the first of them on: the ones of the pause do not come in a burst.
        assert time.monotonic() - began >= (54 - sent - 2) * 0.004 * 0.9
        Chain().check_bytes(bodies)
    # The pause changed nothing in the walk: the same call of the same seed that never paused.
    twin = start_stockd(stream=pace)
    with RawH2(twin.port) as h2:
        stream = h2.ready().call()
        same = []
        h2.wait(lambda: same.extend(stream.take_bodies()) or len(same) >= 54, what="updates")

    def prices(encoded):
        return [pb2().StockUpdate.FromString(body).price for body in encoded[:54]]

    assert prices(bodies) == prices(same)


LAG = "stockd_send_lag_seconds"


def assert_lags_complete(metrics):
    """Every update that was sent has a lag, and no other."""
    assert metrics.sum(f"{LAG}_count") == metrics.sum("stock_updates_sent_total")


def test_updates_in_time_are_not_late(start_stockd):
    """Nobody waits: nearly all leave well before the next would be due."""
    stockd = start_stockd(stream={"interval": "400ms"})
    with RawH2(stockd.port) as h2:
        h2.ready()
        streams = [h2.call() for _ in range(20)]
        chains = [Chain() for _ in streams]
        for stream, chain in zip(streams, chains):
            h2.wait_updates(stream, 8, chain)
        metrics = stockd.metrics()
    sent = metrics.sum("stock_updates_sent_total")
    assert_lags_complete(metrics)
    assert sent >= 20 * 8
    # A turn that the machine held up makes all of its updates late, but not those of the next.
    assert metrics.later(LAG, 0.2) <= 0.25 * sent
    # They were due before they left, and by the clock of milliseconds.
    assert metrics.sum(f"{LAG}_sum") > 0


@pytest.mark.parametrize("window", [0, 150])
def test_a_blocked_update_is_late_for_as_long_as_it_was_blocked(start_stockd, window):
    """One that waits before its first byte, and one that waits in the middle."""
    stockd = start_stockd(stream={"interval": "50ms"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: window}) as h2:
        stream = h2.ready().call()
        h2.wait(lambda: stream.data_bytes == window, what="a full window")
        blocked = stockd.wait_metric(
            "stockd_blocked_seconds_total", lambda seconds: seconds > 1, reason="stream_window"
        )
        metrics = stockd.metrics()
        assert_lags_complete(metrics)
        before = metrics.sum("stock_updates_sent_total")
        assert before == (1 if window else 0)
        lateness, late = metrics.sum(f"{LAG}_sum"), metrics.later(LAG, 1)

        stream.give(60_000)
        chain = Chain()
        h2.wait_updates(stream, 12, chain)
        metrics = stockd.metrics()
        assert_lags_complete(metrics)
        # What was due stood there all the time; no update was made up for, so none is late but
        # this and one that was due behind it.
        assert 1 <= metrics.later(LAG, 1) - late <= 2
        assert metrics.sum(f"{LAG}_sum") - lateness >= blocked
    stockd.wait_at_rest()


def test_updates_that_wait_for_a_socket_are_late(start_stockd):
    """
    What a write left over counts when it is taken, with the time that it lay there; and never if
    the connection dies.
    """
    stockd = start_stockd(stream={"interval": "0"})
    for dies in (True, False):
        settings = {INITIAL_WINDOW_SIZE: WINDOW_MAX}
        before = stockd.metrics()
        with RawH2(stockd.port, settings=settings, receive_buffer=4096) as h2:
            h2.ready()
            h2.open_connection_window()
            stream = h2.call()
            start = before.sum("stockd_blocked_seconds_total", reason="socket")
            stockd.wait_metric(
                "stockd_blocked_seconds_total",
                lambda seconds, start=start: seconds - start > 1.2,
                reason="socket",
            )
            metrics = stockd.metrics()
            assert_lags_complete(metrics)
            assert metrics.sum("stockd_queued_bytes", place="socket") > 0
            late = metrics.later(LAG, 1)
            if dies:
                h2.abort()
            else:
                # Until what lay there has come, with all that the kernel held before it.
                def grown(late=late):
                    stream.take_bodies()
                    return stockd.metrics().later(LAG, 1) > late

                h2.wait(grown, 60, "late updates")
        metrics = stockd.wait_at_rest()
        assert_lags_complete(metrics)
        if dies:
            assert metrics.later(LAG, 1) == late
        else:
            assert metrics.later(LAG, 1) > late


def test_paced_streams_block_only_when_there_is_something_to_send(start_stockd):
    """A window of zero blocks a call from its first update on, not while it waits for it."""
    stockd = start_stockd(stream={"interval": "10ms", "initial_delay": "1s"})
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2:
        began = time.monotonic()
        h2.ready().call()
        h2.ping()
        early = stockd.metrics()
        if time.monotonic() - began < 0.9:
            assert early.sum("stockd_streams") == 1
            assert early.sum("stockd_blocked_streams") == 0
        stockd.wait_metric("stockd_blocked_streams", 1, reason="stream_window")
        assert time.monotonic() - began >= 0.9


def test_grpcio_calls_that_stop_reading(start_stockd):
    """A client that we did not write, with its own ideas of windows."""
    calls = 20
    stockd = start_stockd(stream={"interval": "0"})
    with open_channel(stockd.port) as channel:
        running = [(get_updates(channel), Chain()) for _ in range(calls)]
        for call, chain in running:
            chain.check(next(call))
        stopped = wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
        stockd.wait_metric("stockd_blocked_streams", calls)
        assert stopped < calls * (64 << 20) / MESSAGE_BYTES_MIN
        for call, chain in running:
            while chain.count < 2000:
                chain.check(next(call))
        for call, _ in running:
            call.cancel()
    stockd.wait_at_rest()


def test_a_stopped_process_presses_back(start_stockd, js_client, start_program):
    """A real client under SIGSTOP reads nothing at all; after SIGCONT nothing is missing."""
    stockd = start_stockd(stream={"interval": "0"})
    program = start_program([*js_client.argv, stockd.port, "updates", 30000, 2], "grpc-js")
    stockd.wait_metric("stock_updates_sent_total", lambda sent: sent > 2000, 60)
    os.kill(program.pid, signal.SIGSTOP)
    try:
        wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
        stockd.wait_metric("stockd_blocked_streams", 2)
    finally:
        os.kill(program.pid, signal.SIGCONT)
    assert program.wait(90) == 0
    assert '"fault":null' in program.output()
    assert program.output().count('"fault":null') == 2, program.output()
