"""
Backpressure through TLS and over Unix sockets: no plaintext and no ciphertext piles up, what counts
as sent is what the kernel took, and nothing is lost. As test_backpressure, whose clients it takes.
"""

import time

import pytest

from harness.h2 import INITIAL_WINDOW_SIZE, WINDOW_INITIAL, WINDOW_MAX
from harness.secure import (
    TLS_1_2,
    TLS_1_3,
    SocketH2,
    TlsSocket,
    authority,
    client_context,
    dial,
    folder,
    start_tls,
)
from harness.stocks import Chain
from harness.wait import wait_stable, wait_until
from test_backpressure import (
    CALLS,
    MESSAGE_BYTES_MAX,
    REASONS,
    Fast,
    Stalled,
    assert_blocked_for,
    whole_messages,
)

BUFFER = 4096


class Way:
    """How one comes to a stockd: `socket(receive_buffer)` gives a connection."""

    def __init__(self, stockd, connect):
        self.stockd = stockd
        self.socket = connect


@pytest.fixture(params=["TLS", "unix"])
def way(request, start_tls, start_stockd, authority, folder):
    """way() starts a stockd that makes updates as fast as it can, and tells how to come to it."""
    number = 0

    def start():
        nonlocal number
        number += 1
        stream = {"interval": "0"}
        if request.param == "TLS":
            stockd = start_tls(stream=stream)
            context = client_context(authority)
            return Way(
                stockd,
                lambda size=None: TlsSocket(dial(stockd.port, receive_buffer=size), context),
            )
        path = folder / f"{number}.sock"
        stockd = start_stockd(grpc={"listen": f"unix:{path}"}, stream=stream)
        return Way(stockd, lambda size=None: dial(path=path, receive_buffer=size))

    start.kind = request.param
    return start


class SecureStalled(Stalled):
    def __init__(self, way, reason):
        self.stockd = way.stockd
        self.reason = reason
        window = WINDOW_INITIAL if reason == "stream_window" else WINDOW_MAX
        self.h2 = SocketH2(
            way.socket(BUFFER if reason == "socket" else None), {INITIAL_WINDOW_SIZE: window}
        ).ready()
        if reason != "connection_window":
            self.h2.open_connection_window()
        self.streams = []
        self.chains = []


class SecureFast(Fast):
    def __init__(self, way):
        self.h2 = SocketH2(way.socket(), {INITIAL_WINDOW_SIZE: WINDOW_MAX}).ready()
        self.h2.open_connection_window()
        self.stream = self.h2.call()
        self.h2.socket.settimeout(20)
        self.buffer = bytearray(1 << 18)
        self.owed = 0


@pytest.mark.parametrize("reason", REASONS)
def test_100_calls_that_nobody_reads(way, sanitized, reason):
    here = way()
    stockd = here.stockd
    fast = SecureFast(here)
    fast.rate()
    fast.close()
    stockd.wait_metric("stockd_streams", 0)
    sent_before = stockd.metric("stock_updates_sent_total")
    bytes_before = stockd.metric("stockd_sent_bytes_total")

    stalled = SecureStalled(here, reason)
    stalled.open(1)
    memory_before = stockd.private_bytes()
    stalled.open(CALLS - 1)

    sent = wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
    sent -= sent_before
    if reason == "stream_window":
        assert stalled.received_bytes() == CALLS * WINDOW_INITIAL
        assert sent == stalled.check()
    elif reason == "connection_window":
        assert stalled.received_bytes() == WINDOW_INITIAL
        assert sent == stalled.check()
    else:
        assert stockd.metric("stockd_sent_bytes_total") - bytes_before < 16 << 20
    assert stockd.metric("stockd_queued_bytes", place="call") <= CALLS * MESSAGE_BYTES_MAX
    assert stockd.metric("stockd_queued_bytes", place="socket") <= 256 << 10

    grown = stockd.private_bytes() - memory_before
    # As without TLS: a session costs the same for one call and for a hundred. AddressSanitizer
    # keeps what was freed, and with TLS that is something for each record.
    allowed = CALLS * 1024 + (32 << 10)
    assert sanitized or grown <= allowed, f"{grown / (CALLS - 1):.0f} bytes a call"
    assert_blocked_for(stockd, reason, CALLS)

    # A fast client beside them, against one at a stockd of its own.
    twin = way()
    fast, alone = SecureFast(here), SecureFast(twin)
    wait_until(lambda: fast.rate() > alone.rate() * 0.6, 60, "the rate of a client that is alone")
    fast.close()
    alone.close()
    stockd.wait_metric("stockd_streams", CALLS)
    memory = stockd.private_bytes()
    assert_blocked_for(stockd, reason, CALLS)
    # Some pages for the scrapes meanwhile; a second of updates would be megabytes.
    assert sanitized or stockd.private_bytes() - memory <= 64 << 10

    stalled.resume(300)
    stalled.close()
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == CALLS + 2


CONNECTIONS = 50


def test_connections_that_are_never_read(way, sanitized):
    """
    What each of them costs beyond one that is idle: at most the rest of one write, for the kernel
    is asked for its room before more is made, and with TLS what encryption adds to that.
    """
    here = way()
    stockd = here.stockd

    def connect():
        h2 = SocketH2(here.socket(BUFFER), {INITIAL_WINDOW_SIZE: WINDOW_MAX}).ready()
        h2.open_connection_window()
        return h2

    warm = connect()
    warm.call()
    stockd.wait_metric("stockd_blocked_streams", 1, reason="socket")
    empty = stockd.private_bytes()
    clients = [connect() for _ in range(CONNECTIONS)]
    for h2 in clients:
        h2.ping()
    idle = stockd.private_bytes()
    for h2 in clients:
        h2.call()
    stockd.wait_metric("stockd_blocked_streams", CONNECTIONS + 1, reason="socket")
    wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
    stalled = stockd.private_bytes()
    if not sanitized:
        session = (idle - empty) / CONNECTIONS
        rest = (stalled - idle) / CONNECTIONS
        # HTTP/2's session with its tables, and GnuTLS's session.
        assert session <= (64 << 10 if way.kind == "TLS" else 32 << 10), f"{session:.0f} bytes"
        assert rest <= 40 << 10, f"{rest:.0f} bytes"
    queued = stockd.metric("stockd_queued_bytes", place="socket")
    assert queued <= (CONNECTIONS + 1) * (34 << 10), queued
    # They are read on, each without a hole.
    for h2 in clients[::5]:
        stream = h2.streams[1]
        h2.wait_updates(stream, 6000, Chain(), 60)
    for h2 in [warm, *clients]:
        h2.close()
    stockd.wait_at_rest()


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=lambda v: v.name)
def test_sent_is_what_the_kernel_took(start_tls, authority, version):
    """
    The messages that count as sent are those of the records that the kernel took whole: what a
    client decrypts later, up to the byte that counts as sent, holds exactly so many.
    """
    stockd = start_tls(stream={"interval": "0"})
    context = client_context(authority, least=version, most=version)
    for receive_buffer in (4096, 10000, 50000):
        before = stockd.metrics()
        sock = TlsSocket(dial(stockd.port, receive_buffer=receive_buffer), context)
        with SocketH2(sock, {INITIAL_WINDOW_SIZE: WINDOW_MAX}) as h2:
            h2.ready()
            h2.open_connection_window()
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


def test_ciphertext_of_many_sessions_does_not_mix(start_tls, authority):
    """
    Sessions share the buffer that they encrypt into. Some stop in the middle of a record, again and
    again, while others go on: each gets its own.
    """
    stockd = start_tls(stream={"interval": "0"})
    context = client_context(authority)
    clients = []
    for number in range(12):
        sock = TlsSocket(dial(stockd.port, receive_buffer=BUFFER if number % 2 else None), context)
        h2 = SocketH2(sock, {INITIAL_WINDOW_SIZE: WINDOW_MAX}).ready()
        h2.open_connection_window()
        clients.append((h2, h2.call(), Chain()))
    for goal in range(1000, 6000, 1000):
        for h2, stream, chain in clients:
            h2.wait_updates(stream, goal, chain)
    for h2, _, _ in clients:
        h2.close()
    stockd.wait_at_rest()


def test_a_stall_through_tls_is_put_out(start_tls, authority):
    """A client that never reads loses its connection after stall_timeout, by that reason."""
    stockd = start_tls(stream={"interval": "0"}, grpc={"stall_timeout": "1s"})
    sock = TlsSocket(dial(stockd.port, receive_buffer=BUFFER), client_context(authority))
    with SocketH2(sock, {INITIAL_WINDOW_SIZE: WINDOW_MAX}) as h2:
        h2.ready().open_connection_window()
        began = time.monotonic()
        h2.call()
        stockd.wait_metric("stockd_connections_closed_total", 1, reason="stalled")
        assert time.monotonic() - began >= 0.9
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_queued_bytes") == 0
