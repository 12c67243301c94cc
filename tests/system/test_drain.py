"""
How stockd goes: balancers are told first, clients are asked to go in two steps, calls go on for
drain_timeout, and servers behind a balancer are restarted one after the other without a call that
fails. Rule 33 of the list that test_conformance.py names is here, too.
"""

import json
import signal
import socket
import threading
import time

import grpc
import pytest

from harness.clients import CHANNEL_OPTIONS, get_updates, open_channel
from harness.h2 import (
    ACK,
    EMPTY_REQUEST,
    GOAWAY,
    NO_ERROR,
    PING,
    REFUSED_STREAM,
    RawH2,
    frame,
    message,
    request_headers,
)
from harness.metrics import http_request
from harness.stocks import Chain
from harness.wait import wait_until

DEADLINE_EXCEEDED, UNAVAILABLE = 4, 14
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
PACED = {"interval": "5ms"}
LONG = {"drain_timeout": "1m"}
NOTICE = 2**31 - 1


def drain(stockd):
    stockd.send_signal(signal.SIGTERM)
    stockd.wait_log("stopping")


def final(h2):
    """The GOAWAY that names a last stream, or None."""
    return next((last for last, _, _ in h2.goaways if last != NOTICE), None)


def events(h2):
    """What came of GOAWAY and of the server's PINGs, in order."""
    return [
        one.type
        for one in h2.frames
        if one.type == GOAWAY or (one.type == PING and not one.flags & ACK)
    ]


# --- Two steps --------------------------------------------------------------------------------


def test_rule_33_streams_between_the_two_goaways_are_taken(start_stockd):
    """A notice, a PING, and only when that is answered the last stream's number."""
    stockd = start_stockd(stream=PACED, grpc=LONG)
    with RawH2(stockd.port) as h2:
        first = h2.ready().call()
        h2.wait_updates(first, 2, Chain())
        h2.auto_ack = False
        drain(stockd)
        h2.wait(lambda: h2.peer_pings, what="the PING")
        assert events(h2) == [GOAWAY, PING]
        assert h2.goaways == [(NOTICE, NO_ERROR, b"")]
        # What is opened now is served like any other.
        between = [h2.call() for _ in range(3)]
        for stream in between:
            h2.wait_updates(stream, 3, Chain())
        assert h2.answer(request_headers(CHECK)).status == 0
        assert len(h2.goaways) == 1
        last = h2.call()
        h2.send(frame(PING, ACK, 0, h2.peer_pings[0]))
        h2.wait(lambda: len(h2.goaways) == 2, what="the final GOAWAY")
        assert h2.goaways[1][:2] == (last.id, NO_ERROR)
        # Later ones are not: the client knows, and may repeat them elsewhere.
        late = h2.call()
        h2.wait_updates(last, 5, Chain())
        assert not late.blocks and late.rst in (None, REFUSED_STREAM)
        # The others go on, and the last of them ends the connection.
        for stream in (first, last, *between):
            assert not stream.over
            stream.reset()
        h2.wait_closed()
        assert not h2.reset_by_peer
    assert stockd.wait() == 0


def test_rule_33_without_an_answer_it_goes_on_after_five_seconds(start_stockd):
    stockd = start_stockd(stream=PACED, grpc=LONG)
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        chain = Chain()
        h2.wait_updates(stream, 2, chain)
        h2.auto_ack = False
        drain(stockd)
        h2.wait(lambda: h2.goaway, what="the notice")
        began = time.monotonic()
        # An answer to something else is none.
        h2.send(frame(PING, ACK, 0, b"whatever"))
        h2.wait(lambda: len(h2.goaways) == 2, what="the final GOAWAY")
        assert time.monotonic() - began >= 4.8
        assert final(h2) == stream.id
        h2.wait_updates(stream, chain.count + 10, chain)
        stream.reset()
        h2.wait_closed()
    assert stockd.wait() == 0


def test_rule_33_a_connection_without_calls_goes_at_once(start_stockd):
    stockd = start_stockd(grpc=LONG)
    with RawH2(stockd.port) as h2, RawH2(stockd.port, preface=False) as silent:
        h2.ready()
        stockd.wait_metric("stockd_connections", 2)
        drain(stockd)
        h2.wait_closed()
        assert [code for _, code, _ in h2.goaways] == [NO_ERROR, NO_ERROR]
        assert final(h2) == 0 and not h2.reset_by_peer
        # One that has said nothing yet has nothing that could go on.
        silent.wait_closed()
    assert stockd.wait(10) == 0


# --- Who is told what, and when ---------------------------------------------------------------


@pytest.mark.parametrize("drain_timeout", ["0", "1m"])
@pytest.mark.parametrize("name", [b"", b"stockservice.StockService"])
def test_watchers_are_told_first(start_stockd, drain_timeout, name):
    """NOT_SERVING is there before any call ends and before any GOAWAY, whatever the timeout."""
    stockd = start_stockd(stream=PACED, grpc={"drain_timeout": drain_timeout})
    request = message(b"\x0a" + bytes([len(name)]) + name if name else b"")
    with RawH2(stockd.port) as h2:
        watch = h2.ready().call(request_headers(WATCH), request)
        stream = h2.call()
        h2.wait_updates(stream, 2, Chain())
        assert watch.take_bodies() == [SERVING]
        order = []

        def look():
            if watch.data_bytes > 7 and "told" not in order:
                order.append("told")
            if (watch.over or stream.over or final(h2) is not None) and "ends" not in order:
                order.append("ends")
            return len(order) == 2

        # As it is on the wire: frame by frame, in the order in which they came.
        on_data, on_control = h2._data, h2._control
        h2._data = lambda *all_: (on_data(*all_), look())
        h2._control = lambda *all_: (on_control(*all_), look())
        stockd.send_signal(signal.SIGTERM)
        h2.wait(lambda: len(order) == 2, what="the end of the drain")
        assert order == ["told", "ends"]
        assert watch.take_bodies() == [NOT_SERVING]
        if drain_timeout == "0":
            h2.wait_closed()
            assert stream.status == UNAVAILABLE and watch.status == UNAVAILABLE
        else:
            h2.ping()
            assert not stream.over and not watch.over
            assert h2.goaway and h2.goaway[1] == NO_ERROR


def test_health_and_readiness_while_draining(start_stockd):
    """Asked between the two GOAWAYs, it says so as well; and it is alive, but not ready."""
    stockd = start_stockd(stream=PACED, grpc=LONG)
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        assert http_request(stockd.metrics_port, "/-/ready").status == 200
        h2.auto_ack = False
        drain(stockd)
        h2.wait(lambda: h2.goaway, what="the notice")
        answer = h2.answer(request_headers(CHECK))
        assert answer.status == 0 and answer.take_bodies() == [NOT_SERVING]
        assert http_request(stockd.metrics_port, "/-/ready").status == 503
        assert http_request(stockd.metrics_port, "/-/healthy").status == 200
        assert stockd.metric("stockd_connections") == 1
        stream.reset()
        h2.send(frame(PING, ACK, 0, h2.peer_pings[0]))
        h2.wait_closed()
    assert stockd.wait() == 0


def test_calls_that_end_in_time_end_well(start_stockd):
    """By their deadline, their client's will, or their own end; then stockd ends by itself."""
    stockd = start_stockd(stream=PACED, grpc=LONG)
    with RawH2(stockd.port) as h2:
        h2.ready()
        timed = h2.call(request_headers(grpc_timeout="700m"))
        cancelled = h2.call()
        reflect = h2.begin(request_headers(REFLECT))
        reflect.send(message(b"\x3a\x01x"))  # list_services
        h2.wait(lambda: reflect.take_messages(), what="a list of services")
        unfinished = h2.begin(request_headers(CHECK))
        chains = [Chain(), Chain()]
        for stream, chain in zip((timed, cancelled), chains):
            h2.wait_updates(stream, 2, chain)
        drain(stockd)
        h2.wait(lambda: final(h2) is not None, what="the final GOAWAY")
        # A request that was begun is finished, and a stream of requests goes on.
        unfinished.send(EMPTY_REQUEST, end=True)
        assert h2.wait_over(unfinished).status == 0
        reflect.send(message(b"\x3a\x01x"))
        h2.wait(lambda: reflect.take_messages(), what="a list of services")
        reflect.send(b"", end=True)
        assert h2.wait_over(reflect).status == 0
        h2.wait_updates(cancelled, chains[1].count + 20, chains[1])
        cancelled.reset()
        assert h2.wait_over(timed).status == DEADLINE_EXCEEDED
        chains[0].check_bytes(timed.take_bodies())
        h2.wait_closed()
        assert not h2.reset_by_peer
    assert stockd.wait(10) == 0


def test_calls_that_are_left_end_at_drain_timeout(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"drain_timeout": "700ms"})
    with RawH2(stockd.port) as h2, open_channel(stockd.port) as channel:
        call = get_updates(channel)
        theirs = Chain()
        theirs.check(next(call))
        streams = [h2.ready().call() for _ in range(3)]
        chains = [Chain() for _ in streams]
        for stream, chain in zip(streams, chains):
            h2.wait_updates(stream, 2, chain)
        began = time.monotonic()
        drain(stockd)
        h2.wait_closed()
        assert time.monotonic() - began >= 0.65
        for stream, chain in zip(streams, chains):
            assert stream.status == UNAVAILABLE
            assert "shutting%20down" in stream.trailers["grpc-message"].replace(" ", "%20")
            chain.check_bytes(stream.take_bodies())
            # It went on all the time.
            assert chain.count > 20
        with pytest.raises(grpc.RpcError):
            for update in call:
                theirs.check(update)
        assert call.code() == grpc.StatusCode.UNAVAILABLE and "shutting down" in call.details()
    assert stockd.wait() == 0


def test_a_second_signal_hurries(start_stockd):
    stockd = start_stockd(stream=PACED, grpc={"drain_timeout": "1h"})
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        chain = Chain()
        h2.wait_updates(stream, 2, chain)
        drain(stockd)
        h2.wait(lambda: final(h2) is not None, what="the final GOAWAY")
        h2.wait_updates(stream, chain.count + 20, chain)
        assert stockd.running()
        stockd.send_signal(signal.SIGTERM)
        h2.wait_over(stream)
        assert stream.status == UNAVAILABLE
    assert stockd.wait(10) == 0


def test_new_connections_are_refused_while_draining(start_stockd):
    stockd = start_stockd(stream=PACED, grpc=LONG)
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        h2.wait_updates(stream, 2, Chain())
        drain(stockd)

        def refused():
            try:
                socket.create_connection(("127.0.0.1", stockd.port)).close()
                return False
            except ConnectionRefusedError:
                return True

        wait_until(refused)
        assert not stream.over
        stream.reset()
        h2.wait_closed()
    assert stockd.wait() == 0


def test_clients_in_the_backlog_are_served(start_stockd):
    """They think they are connected, and have sent their requests: none of these is lost."""
    stockd = start_stockd(stream=PACED, grpc=LONG)
    waiting = []
    with RawH2(stockd.port) as inside:
        stream = inside.ready().call()
        inside.wait_updates(stream, 2, Chain())
        stockd.send_signal(signal.SIGSTOP)
        try:
            for _ in range(30):
                h2 = RawH2(stockd.port)
                waiting.append((h2, h2.call(request_headers(CHECK))))
            stockd.send_signal(signal.SIGTERM)
        finally:
            stockd.send_signal(signal.SIGCONT)
        for h2, call in waiting:
            assert h2.wait_over(call).status == 0
            h2.wait_closed()
            assert h2.goaway and h2.goaway[1] == NO_ERROR and not h2.reset_by_peer
            h2.close()
        inside.wait(lambda: final(inside) is not None, what="the final GOAWAY")
        stream.reset()
    assert stockd.wait() == 0


# --- A rolling restart ------------------------------------------------------------------------


def free_ports(count):
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def balanced_channel(ports):
    """Each call goes to the next server of which Watch says that it serves."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "stockservice.StockService"},
    }
    options = [
        *CHANNEL_OPTIONS,
        ("grpc.service_config", json.dumps(config)),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    return grpc.insecure_channel(
        "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports), options=options
    )


class Callers:
    """Threads that make unary calls as fast as they can, and streams that end in time."""

    def __init__(self, channel, count):
        self.check = channel.unary_unary(CHECK)
        self.channel = channel
        self.done = 0
        self.streams = 0
        self.faults = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.call, daemon=True) for _ in range(count)]
        self.threads += [threading.Thread(target=self.stream, daemon=True) for _ in range(2)]

    def call(self):
        while not self.over.is_set():
            try:
                # Only one of a server that takes calls no more says NOT_SERVING.
                assert self.check(b"", timeout=20) in (SERVING, NOT_SERVING)
                self.done += 1
            except (grpc.RpcError, AssertionError) as fault:
                self.faults.append(fault)

    def stream(self):
        while not self.over.is_set():
            chain = Chain()
            try:
                for update in get_updates(self.channel, timeout=20):
                    chain.check(update)
                    if chain.count == 30:
                        break
                assert chain.count == 30
                self.streams += 1
            except (grpc.RpcError, AssertionError) as fault:
                self.faults.append(fault)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(40)


def test_a_rolling_restart_loses_no_call(start_stockd):
    """Two servers, twice each, under a load of calls: not one fails."""
    ports = free_ports(2)

    def start(port):
        grpc_ = {"listen": f"127.0.0.1:{port}", "drain_timeout": "20s"}
        return start_stockd(stream=PACED, grpc=grpc_)

    def serves(stockd):
        return stockd.metric("grpc_server_handled_total", grpc_method="Check", grpc_code="OK") > 20

    servers = [start(port) for port in ports]
    with balanced_channel(ports) as channel, Callers(channel, 4) as callers:
        for stockd in servers:
            wait_until(lambda s=stockd: serves(s), what="calls on both servers")
        for i in (0, 1, 0, 1):
            before = callers.done
            drain(servers[i])
            assert servers[i].wait(20) == 0
            assert not callers.faults, callers.faults[:3]
            # The other one has all of them meanwhile.
            wait_until(lambda: callers.done > before + 50, what="calls on the other server")
            servers[i] = start(ports[i])
            wait_until(lambda: serves(servers[i]), what="calls on the new server")
        streams = callers.streams
        wait_until(lambda: callers.streams > streams, what="a stream that ends")
    assert not callers.faults, callers.faults[:3]
    assert callers.done > 200 and callers.streams > 2
