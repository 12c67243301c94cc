"""
Keepalive in both directions, and how long connections live (gRFC A8 and A9, keepalive.md): rules
30, 31 and 32 of the list that test_conformance.py names. Times are settings, and short here; what
a test says of time is "not before", and, where a clock of this process must not stand still, it is
asked whether it did.
"""

import statistics
import time

import pytest

from harness.h2 import (
    ENHANCE_YOUR_CALM,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PING,
    REFUSED_STREAM,
    WINDOW_MAX,
    RawH2,
    frame,
    request_headers,
)
from harness.stocks import Chain

CHECK = "/grpc.health.v1.Health/Check"
PACED = {"interval": "5ms"}
NEVER_SENDS = {"interval": "1h", "initial_delay": "1h"}


def check(h2):
    """A unary call that is over; its state is SERVING."""
    stream = h2.answer(request_headers(CHECK))
    assert stream.status == 0 and stream.take_bodies() == [b"\x08\x01"]
    return stream


def closed_reasons(stockd):
    reasons = stockd.metrics().by("stockd_connections_closed_total", "reason")
    return {reason: count for reason, count in reasons.items() if count}


def steadily(attempt, tries=6):
    """
    Runs attempt(), which returns the longest time that this process let pass between two of its
    steps and the longest that the test allows: one that was held up too long proves nothing, and
    is repeated.
    """
    for _ in range(tries):
        longest, allowed = attempt()
        if longest <= allowed:
            return
    raise AssertionError(f"this process stood still for {longest:.2f} s, {tries} times")


# --- Rule 30: the server's pings --------------------------------------------------------------


@pytest.mark.parametrize("streams", [0, 3])
@pytest.mark.parametrize("how", ["silent", "gone"])
def test_rule_30_a_client_that_does_not_answer_is_closed_once(start_stockd, how, streams):
    """
    One that reads and never answers, and one whose host is gone: there is no FIN, no reset, and no
    acknowledgement of TCP.
    """
    keepalive = {"keepalive_time": "300ms", "keepalive_timeout": "300ms"}
    stockd = start_stockd(stream=PACED, grpc=keepalive)
    with RawH2(stockd.port) as h2:
        h2.ready()
        for stream in [h2.call() for _ in range(streams)]:
            h2.wait_updates(stream, 2, Chain())
        h2.auto_ack = False
        began = time.monotonic()
        if how == "gone":
            h2.vanish()
            stockd.wait_metric("stockd_connections_closed_total", 1, reason="keepalive")
        else:
            h2.wait_closed()
            assert len(h2.peer_pings) == 1
        assert time.monotonic() - began >= 0.5
        metrics = stockd.wait_at_rest()
        assert closed_reasons(stockd) == {"keepalive": 1}
        assert metrics.sum("stockd_keepalive_pings_sent_total") == 1
        # Each of its calls was lost, once.
        assert metrics.sum("grpc_server_handled_total") == streams
        assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == streams


def test_rule_30_not_before_its_time(start_stockd):
    """The defaults are hours; nobody is pinged whose time is not over."""
    stockd = start_stockd(grpc={"keepalive_time": "1h", "keepalive_timeout": "100ms"})
    with RawH2(stockd.port) as idle, RawH2(stockd.port) as other:
        idle.ready()
        other.ready()
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            other.ping()
            idle.pump(0.02)
        assert not idle.peer_pings and not idle.eof
    assert stockd.metric("stockd_keepalive_pings_sent_total") == 0


def test_rule_30_a_client_that_answers_stays(start_stockd):
    keepalive = {"keepalive_time": "100ms", "keepalive_timeout": "20s"}
    stockd = start_stockd(grpc=keepalive)
    with RawH2(stockd.port) as h2:
        h2.ready()
        h2.wait(lambda: len(h2.peer_pings) >= 5, what="five PINGs")
        check(h2)
        assert stockd.metric("stockd_keepalive_pings_sent_total") >= 5
    stockd.wait_at_rest()
    assert closed_reasons(stockd) == {"peer_closed": 1}


def test_rule_30_any_byte_is_an_answer(start_stockd):
    """The PINGs are never answered, but for each there comes one byte of an endless frame."""
    stockd = start_stockd(grpc={"keepalive_time": "150ms", "keepalive_timeout": "1s"})

    def attempt():
        with RawH2(stockd.port) as h2:
            h2.ready()
            h2.auto_ack = False
            rest = frame(0xFA, 0, 0, bytes(100))
            longest, last, answered = 0, time.monotonic(), 0
            while answered < 10 and not h2.eof:
                h2.pump(0.02)
                if len(h2.peer_pings) > answered:
                    answered = len(h2.peer_pings)
                    h2.send(rest[answered : answered + 1] if answered > 1 else rest[:2])
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
            if longest <= 0.5:
                assert not h2.eof, f"closed after {answered} PINGs"
            return longest, 0.5

    steadily(attempt)


def test_rule_30_a_client_that_talks_is_not_pinged(start_stockd):
    """Any read is life: where bytes come all the time nobody has to be asked."""
    stockd = start_stockd(grpc={"keepalive_time": "700ms", "keepalive_timeout": "200ms"})

    def attempt():
        with RawH2(stockd.port) as h2:
            h2.ready()
            h2.auto_ack = False
            began = last = time.monotonic()
            longest = 0
            # A byte at a time, and so frames that take long to become whole.
            talk = frame(PING, 0, 0, bytes(8)) * 100
            for i in range(len(talk)):
                h2.send(talk[i : i + 1])
                h2.pump(0.02)
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
                if last - began > 2:
                    break
            if longest <= 0.4:
                assert not h2.peer_pings and not h2.eof
            return longest, 0.4

    steadily(attempt)


def test_rule_30_a_slow_reader_is_not_a_dead_one(start_stockd):
    """
    A socket that nobody reads cannot carry a PING, so that no answer says nothing; whether it is
    put out is for stall_timeout to say.
    """
    keepalive = {"keepalive_time": "150ms", "keepalive_timeout": "100ms", "stall_timeout": "0"}
    stockd = start_stockd(stream={"interval": "0"}, grpc=keepalive)
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: WINDOW_MAX}, receive_buffer=4096) as h2:
        h2.ready()
        h2.open_connection_window()
        stream = h2.call()
        stockd.wait_metric("stockd_blocked_streams", 1, reason="socket")
        name = "stockd_blocked_seconds_total"
        blocked = stockd.metric(name, reason="socket")
        # Several times what a dead one would get.
        stockd.wait_metric(name, lambda seconds: seconds > blocked + 1.5, reason="socket")
        assert stockd.metric("stockd_connections") == 1
        h2.wait_updates(stream, 20000, Chain(), 60)


# --- Rule 31: the client's pings --------------------------------------------------------------

LIMITED = {"min_ping_interval": "5m", "min_ping_interval_idle": "2h"}


def burst(h2, count):
    """So many PINGs, one by one, each when the one before was answered; False if it ended."""
    for _ in range(count):
        before = len(h2.pings)
        h2.send(frame(PING, 0, 0, bytes(8)))
        deadline = time.monotonic() + 20
        while len(h2.pings) == before and not h2.goaway and not h2.eof:
            assert time.monotonic() < deadline
            h2.pump(0.5)
        if h2.goaway or h2.eof:
            return False
    return True


def assert_too_many(stockd, h2):
    h2.wait_closed()
    assert not h2.reset_by_peer
    assert h2.goaway[1:] == (ENHANCE_YOUR_CALM, b"too_many_pings"), h2.goaway
    stockd.wait_at_rest()
    assert closed_reasons(stockd) == {"too_many_pings": 1}


@pytest.mark.parametrize("streams", [0, 1])
def test_rule_31_over_two_strikes_are_too_many_pings(start_stockd, streams):
    """The first is free and two more are forgiven; the fourth is one too many."""
    stockd = start_stockd(stream=NEVER_SENDS, grpc=LIMITED)
    with RawH2(stockd.port) as h2:
        h2.ready()
        for _ in range(streams):
            stream = h2.call()
            h2.wait(lambda: stream.blocks, what="headers, which make a PING free")
        assert burst(h2, 3), h2.goaway
        assert not burst(h2, 1)
        assert len(h2.pings) <= 4
        assert_too_many(stockd, h2)


def test_rule_31_the_defaults(start_stockd):
    """Five minutes and two hours: as gRPC's own servers."""
    stockd = start_stockd(grpc=LIMITED, arguments=["--dump-config"], wait=False)
    assert stockd.wait() == 0
    # The same words must be what stands there without any setting.
    assert "min_ping_interval = 5m" in stockd.output()
    bare = start_stockd(grpc={"min_ping_interval": "300s", "min_ping_interval_idle": "120m"})
    with RawH2(bare.port) as h2:
        h2.ready()
        assert burst(h2, 3) and not burst(h2, 1)


def test_rule_31_answers_reset_the_strikes(start_stockd):
    """A client that measures its bandwidth pings when DATA comes, for ever."""
    stockd = start_stockd(stream=PACED, grpc=LIMITED)
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        chain = Chain()
        for _ in range(40):
            h2.wait_updates(stream, chain.count + 1, chain)
            assert burst(h2, 1), h2.goaway
        stream.reset()
        # The same for HEADERS alone, which is all that these answers are.
        for _ in range(10):
            assert h2.answer(request_headers("/no.Service/Method")).status == 12
            assert burst(h2, 1), h2.goaway
        # After the last answer one is free, and then they count again.
        assert burst(h2, 2)
        assert not burst(h2, 2)
        assert_too_many(stockd, h2)


def test_rule_31_with_and_without_a_stream_are_two_limits(start_stockd):
    limits = {"min_ping_interval": "0", "min_ping_interval_idle": "2h"}
    stockd = start_stockd(stream=NEVER_SENDS, grpc=limits)
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        assert burst(h2, 30)
        stream.reset()
        assert not burst(h2, 4)
        assert_too_many(stockd, h2)


def test_rule_31_without_a_stream_it_may_be_permitted(start_stockd):
    limits = {"min_ping_interval": "5m", "min_ping_interval_idle": "0"}
    stockd = start_stockd(stream=NEVER_SENDS, grpc=limits)
    with RawH2(stockd.port) as h2:
        h2.ready()
        assert burst(h2, 30)
        h2.call()
        assert not burst(h2, 5)
        assert_too_many(stockd, h2)


def test_rule_31_who_waits_between_two_pings_lives(start_stockd):
    limits = {"min_ping_interval": "100ms", "min_ping_interval_idle": "100ms"}
    stockd = start_stockd(grpc=limits)
    with RawH2(stockd.port) as h2:
        h2.ready()
        for _ in range(8):
            assert burst(h2, 1), h2.goaway
            until = time.monotonic() + 0.15
            while time.monotonic() < until:
                h2.pump(0.01)
        # Answers to the server's own are none.
        for _ in range(8):
            h2.send(frame(PING, 1, 0, bytes(8)))
        assert burst(h2, 1), h2.goaway


# --- Rule 32: idleness and age ----------------------------------------------------------------


def test_rule_32_off_by_default(start_stockd):
    stockd = start_stockd(stream=PACED, arguments=["--dump-config"], wait=False)
    assert stockd.wait() == 0
    for key in ("max_idle", "max_age", "max_age_grace"):
        assert f"\n{key} = 0" in stockd.output()


def test_rule_32_an_idle_connection_is_ended(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_idle": "400ms"})
    with RawH2(stockd.port) as idle, RawH2(stockd.port) as busy:
        began = time.monotonic()
        idle.ready()
        stream = busy.ready().call()
        chain = Chain()
        idle.wait_closed()
        assert time.monotonic() - began >= 0.4
        assert not idle.reset_by_peer
        assert idle.goaway[1] == NO_ERROR
        # One with a call stays, however long; PINGs are no use of a connection.
        while time.monotonic() - began < 1.2:
            busy.wait_updates(stream, chain.count + 1, chain)
        assert not busy.goaway
        stream.reset()
        busy.ping()
        ended = time.monotonic()
        busy.wait_closed()
        assert time.monotonic() - ended >= 0.35
        assert busy.goaway[1] == NO_ERROR
    stockd.wait_at_rest()
    assert closed_reasons(stockd) == {"idle": 2}


def test_rule_32_age_differs_from_connection_to_connection(start_stockd):
    """A tenth more or less: those that came together do not all come back together."""
    stockd = start_stockd(grpc={"max_age": "1500ms"})
    connections = []
    try:
        for _ in range(30):
            h2 = RawH2(stockd.port)
            connections.append((h2, time.monotonic()))
        ages = {}
        while len(ages) < len(connections):
            for h2, began in connections:
                if h2 not in ages:
                    h2.pump(0)
                    if h2.goaway:
                        ages[h2] = time.monotonic() - began
                    assert not h2.eof or h2.goaway
            assert time.monotonic() - connections[0][1] < 20
            time.sleep(0.001)
        # Allowances are for the time between the kernel's accept and this clock.
        assert min(ages.values()) >= 1.35 - 0.05, sorted(ages.values())
        assert statistics.pstdev(ages.values()) > 0.02, sorted(ages.values())
        for h2, _ in connections:
            h2.wait_closed()
            assert h2.goaway[1] == NO_ERROR and not h2.reset_by_peer
    finally:
        for h2, _ in connections:
            h2.close()
    stockd.wait_at_rest()
    assert closed_reasons(stockd) == {"age": 30}


def test_rule_32_calls_of_an_old_connection_go_on(start_stockd):
    """Without a grace they have no end; new calls are for another connection."""
    stockd = start_stockd(stream=PACED, grpc={"max_age": "300ms"})
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        chain = Chain()
        h2.wait(lambda: h2.goaway and h2.goaway[0] == stream.id, what="the final GOAWAY")
        late = h2.call()
        h2.wait_updates(stream, 100 + chain.count, chain)
        assert not late.blocks and late.rst in (None, REFUSED_STREAM)
        stream.reset()
        h2.wait_closed()
    stockd.wait_at_rest()
    assert closed_reasons(stockd) == {"age": 1}
    assert stockd.metric("grpc_server_started_total") == 1


def test_rule_32_the_grace_is_the_end_of_an_old_connections_calls(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_age": "300ms", "max_age_grace": "700ms"})
    with RawH2(stockd.port) as h2:
        began = time.monotonic()
        stream = h2.ready().call()
        h2.wait(lambda: h2.goaway, what="GOAWAY")
        told = time.monotonic()
        assert told - began >= 0.25
        h2.wait_closed()
        assert time.monotonic() - told >= 0.6
        # It is told why, and not cut off.
        assert not h2.reset_by_peer
        assert all(code == NO_ERROR for _, code, _ in h2.goaways)
        Chain().check_bytes(stream.take_bodies())
    stockd.wait_at_rest()
    assert closed_reasons(stockd) == {"age": 1}


def test_rule_32_a_call_that_ends_within_the_grace_notices_nothing(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"max_age": "200ms", "max_age_grace": "1m"})
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call(request_headers(grpc_timeout="600m"))
        h2.wait_over(stream)
        assert h2.goaway and stream.status == 4 and stream.ended
        assert Chain().check_bytes(stream.take_bodies()) > 0
        h2.wait_closed()
    stockd.wait_at_rest()
    assert closed_reasons(stockd) == {"age": 1}
