"""
A reload (SIGHUP) reads the whole configuration anew: what comes later gets the new values, what is
open goes on as it began, and a wrong configuration changes nothing at all.

Each setting that can be reloaded has a case, a function that sees the old value at work, reloads,
and sees the new one; while it does, a gRPC client streams and must not notice.
"""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.certificates import Authority, replace_file
from harness.clients import get_updates, open_channel
from harness.h2 import (
    ENHANCE_YOUR_CALM,
    INITIAL_WINDOW_SIZE,
    PING,
    RawH2,
    frame,
    message,
    request_headers,
)
from harness.market import Reader
from harness.metrics import http_request
from harness.process import config_text
from harness.secure import (
    SERVED,
    TLS_1_2,
    TLS_1_3,
    TLS_LISTEN,
    SocketH2,
    attempt,
    authority,
    client_context,
    dial,
    folder,
    secure_channel,
    server_tls,
    several,
    tls_h2,
)
from harness.sockets import passing
from harness.stocks import Chain
from harness.wait import wait_until

RELOADED = "info: configuration read again: "
REFUSED = "error: not reloaded, everything stays as it was: the configuration is wrong"
RESTART_WORDS = "Takes effect when stockd is started again."
REFUSED_TOTAL = "stockd_refused_total"
CLOSED_TOTAL = "stockd_connections_closed_total"
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED = 8, 4
REFUSED_STREAM = 7
PACED = {"interval": "5ms"}
OTHER_ADDRESS = "127.0.0.2"


class Reloader:
    """A stockd whose configuration file can be changed; `sections` is what start_stockd() got."""

    def __init__(self, stockd, sections):
        self.stockd = stockd
        self.path = stockd.config_path
        self.sections = {
            "grpc": {"listen": "127.0.0.1:0", "min_ping_interval": 0, "min_ping_interval_idle": 0},
            "metrics": {"listen": "127.0.0.1:0"},
        }
        for section, keys in sections.items():
            self.sections.setdefault(section, {}).update(keys)

    def write(self, text):
        """In one step, as whoever changes a file of a running program should."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)

    def change(self, **sections):
        """Changes keys; None takes one out."""
        for section, keys in sections.items():
            section = self.sections.setdefault(section, {})
            section.update(keys)
            for key in [key for key, value in section.items() if value is None]:
                del section[key]
        self.write(config_text(self.sections))

    def hang_up(self, outcome):
        """SIGHUP; returns the lines of the log that it led to."""
        before = self.stockd.log()
        self.stockd.send_signal(signal.SIGHUP)
        pattern = re.compile(rf"^\S+ {re.escape(outcome)}.*$", re.MULTILINE)

        def look():
            return pattern.search(self.stockd.log()[len(before) :])

        wait_until(look, what=outcome)
        return [line.partition(" ")[2] for line in self.stockd.log()[len(before) :].splitlines()]

    def reload(self, **sections):
        self.change(**sections)
        return self.hang_up(RELOADED)


class Witness:
    """A client that streams all the while, and looks at every update."""

    def __init__(self, port):
        self.chain = Chain()
        self.fault = None
        self.channel = open_channel(port)
        self.call = get_updates(self.channel)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        self.advance(3)

    def run(self):
        try:
            for update in self.call:
                self.chain.check(update)
        except Exception as error:  # whatever it is, it is for the test to tell
            self.fault = error

    def advance(self, updates):
        """Waits for so many more: nothing was lost, and the connection is the one that it was,
        because a gRPC call has only one."""
        wanted = self.chain.count + updates
        wait_until(lambda: self.fault or self.chain.count >= wanted, what=f"{updates} updates more")
        assert self.fault is None, repr(self.fault)

    def close(self):
        self.call.cancel()
        self.thread.join(20)
        self.channel.close()


class Bed(Reloader):
    def __init__(self, stockd, sections, authority, folder):
        super().__init__(stockd, sections)
        self.authority = authority
        self.folder = folder
        self.port = stockd.grpc_ports[0]
        self.tls_port = stockd.grpc_ports[1]
        self.witness = Witness(self.port)

    def tries(self, **where):
        """Connects: True if it is served, False if it is turned away."""
        answer = attempt(self.port, **where)
        assert answer in (SERVED, "closed", "reset"), answer
        return answer == SERVED

    def refused(self, reason):
        return self.stockd.metric(REFUSED_TOTAL, reason=reason)


@pytest.fixture
def make_bed(start_stockd, authority, folder):
    made = []

    def make(before):
        identity = authority.server()
        sections = {
            "grpc": {"listen": several("127.0.0.1:0", TLS_LISTEN)},
            "tls": server_tls(identity),
            "stream": dict(PACED),
        }
        for section, keys in before.items():
            sections.setdefault(section, {}).update(keys)
        bed = Bed(start_stockd(**sections), sections, authority, folder)
        made.append(bed)
        return bed

    yield make
    for bed in made:
        bed.witness.close()


# --- Each setting -----------------------------------------------------------------------------

CASES = {}


def case(*settings, **before):
    """The function is the case of these settings; `before`: what is configured at the start."""

    def add(function):
        for setting in settings:
            assert setting not in CASES
            CASES[setting] = (function, before)
        return function

    return add


def ready(bed):
    return RawH2(bed.port).ready()


@case("grpc.max_connections")
def max_connections(bed):
    with RawH2(bed.port) as over:
        over.ready()
        bed.reload(grpc={"max_connections": 1})
        assert not bed.tries() and bed.refused("max_connections") == 1
        over.ping()  # there are two, and both stay
        bed.reload(grpc={"max_connections": 3})
        assert bed.tries()


@case("grpc.max_streams", grpc={"max_streams": 50})
def max_streams(bed):
    with RawH2(bed.port) as old:
        assert old.ready().peer_settings[MAX_CONCURRENT_STREAMS] == 50
        bed.reload(grpc={"max_streams": 1})
        with RawH2(bed.port) as new:
            assert new.ready().peer_settings[MAX_CONCURRENT_STREAMS] == 1
            new.wait_updates(new.call(), 1, Chain())
            assert new.wait_over(new.call()).rst == REFUSED_STREAM
        for _ in range(2):
            old.wait_updates(old.call(), 1, Chain())


@case("grpc.max_streams_total")
def max_streams_total(bed):
    with RawH2(bed.port) as h2:
        stream = h2.ready().call()
        h2.wait_updates(stream, 1, Chain())
        bed.reload(grpc={"max_streams_total": 1})
        assert h2.wait_over(h2.call()).rst == REFUSED_STREAM
        assert bed.refused("max_streams_total") == 1 and not stream.over
        bed.reload(grpc={"max_streams_total": 3})
        h2.wait_updates(h2.call(), 1, Chain())


@case("grpc.max_header_bytes")
def max_header_bytes(bed):
    long = [*request_headers(), ("x-long", "x" * 2000)]
    with RawH2(bed.port) as old:
        old.wait_updates(old.ready().call(long), 1, Chain())
        bed.reload(grpc={"max_header_bytes": "1K"})
        with RawH2(bed.port) as new:
            assert new.ready().peer_settings[MAX_HEADER_LIST_SIZE] == 1024
            assert new.answer(long).status == RESOURCE_EXHAUSTED
        # A connection is held to what its client was told.
        old.wait_updates(old.call(long), 1, Chain())


@case("grpc.max_message_bytes")
def max_message_bytes(bed):
    # A field that nobody knows: good protobuf, and long.
    body = message(b"\x7a\xd0\x0f" + bytes(2000))
    with RawH2(bed.port) as h2:
        h2.wait_updates(h2.ready().call(body=body), 1, Chain())
        # One that has begun is held to what held then.
        begun = h2.begin()
        h2.ping()
        bed.reload(grpc={"max_message_bytes": "1K"})
        assert h2.answer(body=body).status == RESOURCE_EXHAUSTED
        begun.send(body, end=True)
        h2.wait_updates(begun, 1, Chain())


@case("grpc.preface_timeout")
def preface_timeout(bed):
    with dial(bed.port) as old:
        wait_until(lambda: bed.stockd.metric("stockd_connections") == 2)
        bed.reload(grpc={"preface_timeout": "100ms"})
        with dial(bed.port) as new:
            while new.recv(1000):
                pass
        bed.stockd.wait_metric(CLOSED_TOTAL, 1, reason="preface_timeout")
        SocketH2(old).ready()


@case("grpc.request_timeout")
def request_timeout(bed):
    with RawH2(bed.port) as h2:
        old = h2.ready().begin()
        h2.ping()
        bed.reload(grpc={"request_timeout": "100ms"})
        new = h2.wait_over(h2.begin())
        assert new.status == DEADLINE_EXCEEDED or new.rst is not None
        assert not old.over
        old.send(message(b""), end=True)
        h2.wait_updates(old, 1, Chain())


@case("grpc.drain_timeout")
def drain_timeout(bed):
    bed.reload(grpc={"drain_timeout": "1h"})
    bed.stockd.send_signal(signal.SIGTERM)
    bed.stockd.wait_log("info: Terminated: stopping$")
    bed.witness.advance(50)


@case("grpc.shutdown_timeout", grpc={"shutdown_timeout": "1h"})
def shutdown_timeout(bed):
    """A call in the middle of a message that its client does not take."""
    with RawH2(bed.port, {INITIAL_WINDOW_SIZE: 20}) as h2:
        stream = h2.ready().call()
        h2.wait(lambda: stream.data_bytes == 20)
        bed.reload(grpc={"shutdown_timeout": "100ms"})
        assert bed.stockd.stop(timeout=60) == 0
        h2.wait_closed()


@case("grpc.stall_timeout")
def stall_timeout(bed):
    no_window = {INITIAL_WINDOW_SIZE: 0}
    with RawH2(bed.port, no_window) as old:
        stays = old.ready().call()
        bed.stockd.wait_metric("stockd_blocked_streams", 1)
        bed.reload(grpc={"stall_timeout": "100ms"})
        with RawH2(bed.port, no_window) as new:
            assert new.wait_over(new.ready().call()).status == RESOURCE_EXHAUSTED
        assert bed.stockd.metric("stockd_streams_stalled_total") == 1
        old.ping()
        assert not stays.over


@case("grpc.keepalive_time")
def keepalive_time(bed):
    with RawH2(bed.port) as old:
        old.ready()
        bed.reload(grpc={"keepalive_time": "100ms"})
        with RawH2(bed.port) as new:
            new.ready().wait(lambda: len(new.peer_pings) >= 2)
        old.ping()
        assert not old.peer_pings


@case("grpc.keepalive_timeout", grpc={"keepalive_time": "100ms", "keepalive_timeout": "1h"})
def keepalive_timeout(bed):
    with RawH2(bed.port) as old:
        old.ready().auto_ack = False
        old.wait(lambda: old.peer_pings)
        bed.reload(grpc={"keepalive_timeout": "100ms"})
        with RawH2(bed.port) as new:
            new.ready().auto_ack = False
            new.wait_closed()
        bed.stockd.wait_metric(CLOSED_TOTAL, 1, reason="keepalive")
        old.ping()


def sends_pings(h2, count=10):
    """PINGs; True if they were answered, False if they were too many."""
    for _ in range(count):
        h2.send(frame(PING, 0, 0, b"01234567"))
    h2.wait(lambda: len(h2.pings) >= count or h2.goaway or h2.eof)
    assert not h2.goaway or h2.goaway[1] == ENHANCE_YOUR_CALM, h2.goaway
    return len(h2.pings) >= count and not h2.goaway


@case("grpc.min_ping_interval")
def min_ping_interval(bed):
    with ready(bed) as old:
        old.wait_updates(old.call(), 1, Chain())
        bed.reload(grpc={"min_ping_interval": "1h"})
        with ready(bed) as new:
            new.wait_updates(new.call(), 1, Chain())
            assert not sends_pings(new)
        with ready(bed) as idle:
            assert sends_pings(idle)
        assert sends_pings(old)


@case("grpc.min_ping_interval_idle")
def min_ping_interval_idle(bed):
    with ready(bed) as old:
        bed.reload(grpc={"min_ping_interval_idle": "1h"})
        with ready(bed) as new:
            assert not sends_pings(new)
        with ready(bed) as busy:
            busy.wait_updates(busy.call(), 1, Chain())
            assert sends_pings(busy)
        assert sends_pings(old)


@case("grpc.max_idle")
def max_idle(bed):
    with ready(bed) as old:
        bed.reload(grpc={"max_idle": "100ms"})
        with ready(bed) as new:
            new.wait_closed()
            assert new.goaway
        old.ping()
        assert old.goaway is None


@case("grpc.max_age")
def max_age(bed):
    with ready(bed) as old:
        bed.reload(grpc={"max_age": "100ms"})
        with ready(bed) as new:
            stream = new.call()
            new.wait(lambda: new.goaway)
            # As long as it has a call it stays.
            new.wait_updates(stream, 50, Chain())
        old.ping()
        assert old.goaway is None


@case("grpc.max_age_grace", grpc={"max_age": "100ms"})
def max_age_grace(bed):
    with ready(bed) as old:
        stream, chain = old.call(), Chain()
        old.wait(lambda: old.goaway)
        bed.reload(grpc={"max_age_grace": "100ms"})
        with ready(bed) as new:
            new.call()
            new.wait_closed()
        old.wait_updates(stream, 100, chain)


@case("grpc.compress_updates")
def compress_updates(bed):
    gzip = [*request_headers(), ("grpc-accept-encoding", "identity,gzip")]

    def encoding(h2):
        stream = h2.call(gzip)
        h2.wait(lambda: stream.blocks)
        return stream.headers.get("grpc-encoding", "identity")

    with ready(bed) as h2:
        assert encoding(h2) == "identity"
        bed.reload(grpc={"compress_updates": "yes"})
        assert encoding(h2) == "gzip"
        bed.reload(grpc={"compress_updates": "no"})
        assert encoding(h2) == "identity"


def shown(port):
    """The certificate that a new connection sees."""
    with client_context().wrap_socket(dial(port)) as sock:
        return sock.getpeercert(binary_form=True)


@case("tls.certificate", "tls.key")
def certificate(bed):
    before = shown(bed.tls_port)
    other = bed.authority.server("other")
    with tls_h2(bed.tls_port, client_context(bed.authority)) as old:
        stream, chain = old.ready().call(), Chain()
        old.wait_updates(stream, 1, chain)
        bed.reload(tls=server_tls(other))
        assert shown(bed.tls_port) != before
        assert attempt(bed.tls_port, client_context(bed.authority)) == SERVED
        old.wait_updates(stream, chain.count + 20, chain)
    # gRPC's own client, too.
    with secure_channel(bed.tls_port, bed.authority) as channel:
        Chain().check(next(get_updates(channel)))


@case("tls.client_ca", tls={"client_certificate": "required"})
def client_ca(bed):
    later = Authority(bed.folder, "later")
    before = client_context(bed.authority, bed.authority.client("before"))
    after = client_context(bed.authority, later.client("after"))
    assert attempt(bed.tls_port, before) == SERVED
    assert "UNKNOWN_CA" in attempt(bed.tls_port, after)
    bed.reload(tls={"client_ca": later.certificate})
    assert "UNKNOWN_CA" in attempt(bed.tls_port, before)
    assert attempt(bed.tls_port, after) == SERVED


@case("tls.client_certificate", tls={"client_certificate": "no"})
def client_certificate(bed):
    nobody = client_context(bed.authority)
    somebody = client_context(bed.authority, bed.authority.client("trader"))
    with tls_h2(bed.tls_port, nobody) as old:
        stream, chain = old.ready().call(), Chain()
        bed.reload(tls={"client_certificate": "required"})
        assert attempt(bed.tls_port, nobody) != SERVED
        assert attempt(bed.tls_port, somebody) == SERVED
        old.wait_updates(stream, 20, chain)
    bed.reload(tls={"client_certificate": "no"})
    assert attempt(bed.tls_port, nobody) == SERVED


@case("tls.priorities")
def priorities(bed):
    new = client_context(bed.authority, least=TLS_1_3)
    old = client_context(bed.authority, most=TLS_1_2)
    assert attempt(bed.tls_port, new) == SERVED == attempt(bed.tls_port, old)
    bed.reload(tls={"priorities": "NORMAL:-VERS-ALL:+VERS-TLS1.2"})
    assert attempt(bed.tls_port, new) != SERVED
    assert attempt(bed.tls_port, old) == SERVED
    bed.reload(tls={"priorities": "NORMAL:-VERS-ALL:+VERS-TLS1.3"})
    assert attempt(bed.tls_port, new) == SERVED
    assert attempt(bed.tls_port, old) != SERVED


@case("tls.handshake_timeout")
def handshake_timeout(bed):
    pending = "stockd_tls_pending_handshakes"
    with dial(bed.tls_port):
        bed.stockd.wait_metric(pending, 1)
        bed.reload(tls={"handshake_timeout": "100ms"})
        with dial(bed.tls_port) as new:
            while new.recv(1000):
                pass
        bed.stockd.wait_metric("stockd_tls_handshakes_total", 1, outcome="timeout")
        assert bed.stockd.metric(pending) == 1


@case("access.allow")
def allow(bed):
    assert bed.tries() and bed.tries(source=OTHER_ADDRESS)
    bed.reload(access={"allow": OTHER_ADDRESS})
    assert not bed.tries() and bed.refused("address") == 1
    assert bed.tries(source=OTHER_ADDRESS)
    bed.reload(access={"allow": "127.0.0.1, ::1"})
    assert bed.tries() and not bed.tries(source=OTHER_ADDRESS)
    bed.reload(access={"allow": None})
    assert bed.tries() and bed.tries(source=OTHER_ADDRESS)


@case("access.allow_names", tls={"client_certificate": "required"})
def allow_names(bed):
    one = client_context(bed.authority, bed.authority.client("one", names=["one.example"]))
    two = client_context(bed.authority, bed.authority.client("two", names=["two.example"]))
    # GnuTLS has said yes, and the connection is closed when the name is looked at.
    assert attempt(bed.tls_port, one) == SERVED == attempt(bed.tls_port, two)
    with tls_h2(bed.tls_port, one) as old:
        stream, chain = old.ready().call(), Chain()
        bed.reload(access={"allow_names": "two.example"})
        assert attempt(bed.tls_port, one) != SERVED and bed.refused("certificate") == 1
        assert attempt(bed.tls_port, two) == SERVED
        old.wait_updates(stream, 20, chain)
    bed.reload(access={"allow_names": "one.example, three.example"})
    assert attempt(bed.tls_port, one) == SERVED and attempt(bed.tls_port, two) != SERVED


@case("access.max_connections_per_address")
def max_connections_per_address(bed):
    with ready(bed) as over:
        bed.reload(access={"max_connections_per_address": 1})
        assert not bed.tries() and bed.refused("max_per_address") == 1
        assert bed.tries(source=OTHER_ADDRESS)
        over.ping()
    bed.reload(access={"max_connections_per_address": 100})
    assert bed.tries()


def scrape_from(bed, source="127.0.0.1"):
    """The status of a scrape from this address; None: the connection was closed."""
    with dial(bed.stockd.metrics_port, source=source) as sock:
        try:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = sock.recv(100)
        except ConnectionError:
            return None
    return int(answer.split()[1]) if answer else None


@case("metrics.allow")
def metrics_allow(bed):
    assert scrape_from(bed) == 200 == scrape_from(bed, OTHER_ADDRESS)
    bed.reload(metrics={"allow": OTHER_ADDRESS})
    assert scrape_from(bed) is None and scrape_from(bed, OTHER_ADDRESS) == 200
    bed.reload(metrics={"allow": None})
    assert scrape_from(bed) == 200


def scrape_as(bed, authorization):
    """`authorization`: base64 of "user:password"."""
    headers = {"Authorization": f"Basic {authorization}"} if authorization else {}
    return http_request(bed.stockd.metrics_port, "/metrics", headers=headers).status


@case("metrics.user", "metrics.password_file")
def metrics_password(bed):
    """On, another name, another file, another password in the same file, off."""
    first, second = bed.folder / "first", bed.folder / "second"
    replace_file(first, b"pass1\n", 0o600)
    replace_file(second, b"pass2\n", 0o600)
    steps = [
        ({"user": "ann", "password_file": first}, "YW5uOnBhc3Mx"),  # ann:pass1
        ({"user": "bob"}, "Ym9iOnBhc3Mx"),  # bob:pass1
        ({"password_file": second}, "Ym9iOnBhc3My"),  # bob:pass2
    ]
    right = [authorization for _, authorization in steps]
    assert scrape_as(bed, None) == 200
    for section, authorization in steps:
        bed.reload(metrics=section)
        for one in (None, *right):
            assert scrape_as(bed, one) == (200 if one == authorization else 401), (section, one)
    replace_file(second, b"pass1\n", 0o600)
    lines = bed.reload()
    changed = "no setting has changed; metrics ask for another password"
    assert lines[-1].startswith(RELOADED + changed)
    assert scrape_as(bed, right[2]) == 401 and scrape_as(bed, right[1]) == 200
    bed.reload(metrics={"user": None, "password_file": None})
    assert scrape_as(bed, None) == 200


@case("stream.interval")
def interval(bed):
    with ready(bed) as h2:
        old, old_chain = h2.call(), Chain()
        h2.wait_updates(old, 1, old_chain)
        bed.reload(stream={"interval": "1h"})
        assert bed.stockd.metric("stockd_feed_interval_seconds") == 3600
        new, new_chain = h2.call(), Chain()
        h2.wait_updates(new, 1, new_chain)
        h2.wait_updates(old, old_chain.count + 100, old_chain)
        assert new_chain.check_bytes(new.take_bodies()) == 1
        bed.reload(stream={"interval": "1ms"})
        h2.wait_updates(h2.call(), 20, Chain())
        assert new_chain.check_bytes(new.take_bodies()) == 1


@case("stream.initial_delay")
def initial_delay(bed):
    with ready(bed) as h2:
        old, chain = h2.call(), Chain()
        h2.wait_updates(old, 1, chain)
        bed.reload(stream={"initial_delay": "1h"})
        new = h2.call()
        h2.wait(lambda: new.blocks)
        h2.wait_updates(old, chain.count + 100, chain)
        assert new.data_bytes == 0
        bed.reload(stream={"initial_delay": "1ms"})
        h2.wait_updates(h2.call(), 1, Chain())
        assert new.data_bytes == 0


@case("stream.ticker")
def ticker(bed):
    with ready(bed) as h2:
        calls = []
        for name in ("AAPL", "X", "A.TICKER-OF-32-CHARACTERS-123456"):
            if name != "AAPL":
                bed.reload(stream={"ticker": name})
            calls.append((h2.call(), Chain(ticker=name)))
            for stream, chain in calls:
                h2.wait_updates(stream, chain.count + 10, chain)


@case("stream.start_price")
def start_price(bed):
    with ready(bed) as h2:
        old, chain = h2.call(), Chain()
        h2.wait_updates(old, 1, chain)
        bed.reload(stream={"start_price": 20})
        h2.wait_updates(h2.call(), 10, Chain(start=20.0))
        h2.wait_updates(old, chain.count + 10, chain)


@case("stream.seed")
def seed(bed):
    def prices(h2):
        chain, stream, seen = Chain(), h2.call(), []

        def enough():
            for body in stream.take_bodies():
                chain.check_bytes([body])
                seen.append(chain.price)
            return len(seen) >= 5

        h2.wait(enough)
        stream.reset()
        return seen[:5]

    with ready(bed) as h2:
        before = prices(h2)
        assert prices(h2) != before
        bed.reload(stream={"ticker": "AAPL"})  # not a change
        assert prices(h2) != before
        bed.reload(stream={"seed": 7})
        first, second = prices(h2), prices(h2)
        bed.reload(stream={"initial_delay": "1ms"})  # the walks of 7 go on, not anew
        assert prices(h2) not in (first, second, before)
        bed.reload(stream={"seed": 8})
        assert prices(h2) not in (first, second)
        bed.reload(stream={"seed": 7})
        assert [prices(h2), prices(h2)] == [first, second]
        bed.reload(stream={"seed": "random"})
        assert prices(h2) not in (before, first, second)


# A market that soon has much for whoever takes nothing of it, and no limits.
BUSY = {
    "tickers": "T",
    "interval": "1ms",
    "history_size": "256M",
    "max_queue": 10000000,
    "soft_bytes": 0,
    "soft_age": 0,
    "soft_time": 0,
    "hard_bytes": 0,
    "hard_age": 0,
}


def cut_off_by(bed, reason, **limits):
    """A subscriber that takes nothing any more is there until these are its limits."""
    with Reader(bed.port, window=1000, policy="SLOW_POLICY_DISCONNECT") as slow:
        behind = bed.stockd.metric("stockd_market_sequence") + 300
        wait_until(
            lambda: bed.stockd.metric("stockd_market_sequence") > behind, what="300 updates"
        )
        slow.h2.ping()
        assert not slow.stream.over
        bed.reload(market=limits)
        status, text = slow.wait_over()
        assert status == RESOURCE_EXHAUSTED, text
    assert bed.stockd.metric("stockd_market_cut_off_total", reason=reason) == 1


@case("market.max_queue", market=BUSY)
def max_queue(bed):
    cut_off_by(bed, "max_queue", max_queue=100)


@case("market.hard_bytes", market=BUSY)
def hard_bytes(bed):
    cut_off_by(bed, "hard_bytes", hard_bytes="5K")


@case("market.hard_age", market=BUSY)
def hard_age(bed):
    cut_off_by(bed, "hard_age", hard_age="50ms")


@case("market.soft_bytes", market=BUSY)
def soft_bytes(bed):
    cut_off_by(bed, "soft_bytes", soft_bytes="5K")


@case("market.soft_age", market=BUSY)
def soft_age(bed):
    cut_off_by(bed, "soft_age", soft_age="50ms")


@case("market.soft_time", market={**BUSY, "soft_age": "50ms", "soft_time": "1h"})
def soft_time(bed):
    cut_off_by(bed, "soft_age", soft_time="10ms")


@case("market.stale_after", market={"feed": "pipe", "stale_after": 0})
def stale_after(bed):
    assert bed.stockd.metric("stockd_market_feed_state", state="live") == 1
    bed.reload(market={"stale_after": "50ms"})
    bed.stockd.wait_metric("stockd_market_feed_state", 1, state="stale")


@case("market.min_heartbeat", market={"feed": "none", "min_heartbeat": "1h"})
def min_heartbeat(bed):
    with Reader(bed.port, heartbeat_ms=100) as old:
        bed.reload(market={"min_heartbeat": "100ms"})
        with Reader(bed.port, heartbeat_ms=100) as new:
            new.wait(lambda events: len(events) >= 5, "heartbeats")
        old.h2.ping()
        assert old.read() == []


@case("log.level")
def log_level(bed):
    accepted = re.compile("debug: 127.0.0.1:[0-9]+: connection accepted")
    assert bed.tries() and not accepted.search(bed.stockd.log())
    lines = bed.reload(log={"level": "debug"})
    assert any(line.startswith("info: log.level = debug (was info; ") for line in lines), lines
    assert bed.tries()
    bed.stockd.wait_log(accepted.pattern)
    # That it grows quiet is the last that it says.
    lines = bed.reload(log={"level": "error"})
    assert any(line.startswith("info: log.level = error (was debug; ") for line in lines), lines
    length = len(bed.stockd.log())
    assert bed.tries()
    # Back at the default, which is said; but nothing of what happened before.
    lines = bed.reload(log={"level": None})
    assert any(line.startswith("info: log.level = info (was error; ") for line in lines), lines
    assert not accepted.search(bed.stockd.log()[length:])


@pytest.mark.parametrize("setting", CASES)
def test_each_setting(make_bed, authority, tmp_path, setting):
    function, before = CASES[setting]
    before = {section: dict(keys) for section, keys in before.items()}
    if before.get("market", {}).get("feed") == "pipe":
        before["market"]["pipe"] = tmp_path / "feed"
        os.mkfifo(before["market"]["pipe"])
    if "client_certificate" in before.get("tls", {}):
        before["tls"]["client_ca"] = authority.certificate
    bed = make_bed(before)
    function(bed)
    if bed.stockd.running():
        bed.witness.advance(10)


def reloadable(dump):
    """The settings of a --dump-config that need no restart."""
    found, section, waits = set(), None, False
    for line in dump.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.startswith("#"):
            waits = waits or RESTART_WORDS in line
        elif " =" in line:
            key = line.partition(" =")[0].strip()
            if not waits:
                found.add(f"{section}.{key}")
            waits = False
    return found


def test_each_setting_has_a_case(run_stockd):
    dump = run_stockd("--config", "/dev/null", "--dump-config").stdout
    assert RESTART_WORDS in dump
    assert reloadable(dump) == set(CASES)


# --- What is said, and what a wrong one does --------------------------------------------------


@pytest.fixture
def bed(make_bed):
    return make_bed({})


def test_nothing_new_is_said_too(bed):
    for _ in range(2):
        assert bed.reload() == [
            RELOADED + "no setting has changed; certificates read again for 1 listeners with TLS"
        ]
    bed.witness.advance(10)


def test_what_changed_is_said(bed):
    """With both values, and with where the new one comes from."""
    lines = bed.reload(stream={"interval": "7ms"}, grpc={"max_streams": 9})
    number = {}
    for line, text in enumerate(bed.path.read_text().splitlines(), 1):
        number[text] = line
    interval, streams = number["interval = 7ms"], number["max_streams = 9"]
    assert lines == [
        f"info: grpc.max_streams = 9 (was 1000; {bed.path}:{streams})",
        f"info: stream.interval = 7ms (was 5ms; {bed.path}:{interval})",
        RELOADED + "2 settings have changed; certificates read again for 1 listeners with TLS",
    ]
    lines = bed.reload(stream={"interval": None})
    assert lines[0] == "info: stream.interval = 100ms (was 7ms; default)"
    assert lines[1].startswith(RELOADED + "1 setting has changed")
    bed.witness.advance(10)


def test_drop_ins_and_options_count_as_at_the_start(start_stockd):
    """The command line stays over the files, and files that are new are read."""
    stockd = start_stockd(arguments=["--set", "stream.ticker=OPTION"], stream=PACED)
    bed = Reloader(stockd, {})
    folder = stockd.config_path.with_suffix(".conf.d")
    folder.mkdir()
    (folder / "a.conf").write_text("[stream]\nticker = DROPIN\nstart_price = 20\n")
    lines = bed.hang_up(RELOADED)
    assert lines == [
        f"info: stream.start_price = 20 (was 150; {folder}/a.conf:3)",
        RELOADED + "1 setting has changed",
    ]
    with RawH2(stockd.port) as h2:
        h2.wait_updates(h2.ready().call(), 1, Chain(start=20.0, ticker="OPTION"))
    (folder / "a.conf").unlink()
    assert bed.hang_up(RELOADED)[0] == "info: stream.start_price = 150 (was 20; default)"


def test_addresses_wait_for_a_restart(bed):
    """They are named, each time, for as long as they differ; all else of that reload applies."""
    grpc, metrics = bed.sections["grpc"]["listen"], bed.sections["metrics"]["listen"]
    old, new = "127.0.0.1:0, 127.0.0.1:0 tls=yes", "127.0.0.1:0"
    lines = bed.reload(grpc={"listen": new}, metrics={"listen": ""}, stream={"start_price": 20})
    warnings = [line for line in lines if line.startswith("warning: ")]
    words = "takes effect when stockd is started again"
    assert len(warnings) == 2
    assert warnings[0].startswith(f"warning: grpc.listen = {new} (is {old}; {bed.path}:")
    assert warnings[1].startswith(f"warning: metrics.listen =  (is 127.0.0.1:0; {bed.path}:")
    assert all(line.endswith(words) for line in warnings)
    assert lines[-1].startswith(RELOADED + "1 setting has changed; certificates read again for 1 ")
    with ready(bed) as h2:
        h2.wait_updates(h2.call(), 10, Chain(start=20.0))
    assert attempt(bed.tls_port, client_context(bed.authority)) == SERVED
    assert bed.stockd.metric("stockd_connections") >= 1
    lines = bed.reload(metrics={"listen": metrics})
    assert [line.split()[1] for line in lines if line.endswith(words)] == ["grpc.listen"]
    lines = bed.reload(grpc={"listen": grpc})
    assert not [line for line in lines if words in line]
    bed.witness.advance(10)


def test_the_market_waits_for_a_restart(bed, tmp_path):
    """All of it but limits, sections with names included."""
    words = " takes effect when stockd is started again"

    def waiting(lines):
        return [line.removesuffix(words) for line in lines if line.endswith(words)]

    tickers = tmp_path / "tickers.csv"
    tickers.write_text("ticker\nAAPL\n")
    before = f"[ticker B.C]\ninterval = 9s\n[market]\ntickers_file = {tickers}\n"
    bed.write(config_text(bed.sections) + before)
    lines = bed.hang_up(RELOADED)
    first = len(config_text(bed.sections).splitlines()) + 1
    assert waiting(lines) == [
        f"warning: market.tickers_file = {tickers} (is ; {bed.path}:{first + 3})",
        f"warning: ticker B.C = interval=9s (is none; {bed.path}:{first})",
    ]
    assert lines[-1].startswith(RELOADED + "no setting has changed")


def test_lines_of_tickers_wait_for_a_restart(start_stockd, tmp_path):
    tickers = tmp_path / "tickers.csv"
    tickers.write_text("ticker\nAAPL\n")
    sections = {"market": {"tickers_file": tickers}, "ticker B.C": {"interval": "9s"}}
    bed = Reloader(start_stockd(**sections), sections)
    words = " takes effect when stockd is started again"
    nothing = RELOADED + "no setting has changed"
    assert bed.hang_up(RELOADED) == [nothing]
    tickers.write_text("ticker\nMSFT\n")
    for _ in range(2):
        assert bed.hang_up(RELOADED) == [
            f"warning: market.tickers_file: what {tickers} has now{words}",
            nothing,
        ]
    tickers.write_text("ticker\nAAPL\n")
    lines = bed.reload(**{"ticker B.C": {"interval": "8s"}})
    line = bed.path.read_text().splitlines().index("[ticker B.C]") + 1
    assert lines == [
        f"warning: ticker B.C = interval=8s (is interval=9s; {bed.path}:{line}){words}",
        nothing,
    ]
    # What would stop the next start stops the reload.
    tickers.write_text("ticker\nMSFT\nMSFT\n")
    lines = bed.hang_up(REFUSED)
    assert f"error: market.tickers_file: {tickers}:3: MSFT is in line 2, too" in lines


def test_thousands_of_tickers_do_not_fill_the_log(start_stockd):
    bed = Reloader(start_stockd(), {})
    bed.write(config_text(bed.sections) + "".join(f"[ticker T{i}]\n" for i in range(3000)))
    lines = bed.hang_up(RELOADED)
    assert len(lines) == 22
    assert lines[0].startswith("warning: ticker T0 = defaults (is none; ")
    assert lines[20] == (
        "info: 2980 more sections [ticker NAME] have changed, and take effect when stockd is "
        "started again"
    )


def test_a_certificate_of_an_address_that_waits_is_looked_at(bed):
    """A reload that takes it must not be a restart that fails."""
    missing = bed.folder / "missing.pem"
    another = f"{TLS_LISTEN} certificate={missing} key={missing}"
    listen = several(bed.sections["grpc"]["listen"], another)
    bed.change(grpc={"listen": listen}, stream={"ticker": "NEW"})
    lines = bed.hang_up(REFUSED)
    assert len(lines) == 2 and str(missing) in lines[0], lines
    with ready(bed) as h2:
        h2.wait_updates(h2.call(), 1, Chain())


def test_an_address_that_goes_needs_no_certificate_any_more(bed):
    """It is served until the next start, with the one that it has."""
    before = shown(bed.tls_port)
    lines = bed.reload(
        grpc={"listen": "127.0.0.1:0"},
        tls={"certificate": None, "key": None},
        stream={"start_price": 20},
    )
    words = "is listened on until the next start, with the certificate that it has: "
    assert lines[0].startswith(f"warning: 127.0.0.1:0 {words}"), lines
    assert lines[-1].startswith(RELOADED + "3 settings have changed"), lines
    assert shown(bed.tls_port) == before
    bed.authority.server()
    bed.hang_up(RELOADED)
    with tls_h2(bed.tls_port, client_context(bed.authority)) as h2:
        h2.wait_updates(h2.ready().call(), 10, Chain(start=20.0))
    assert shown(bed.tls_port) == before
    bed.witness.advance(10)


def test_names_that_nobody_looks_at_are_refused(bed):
    """The list would be used only after a restart: until then everybody would be let in."""
    listen = several("127.0.0.1:0", f"{TLS_LISTEN} client_certificate=required")
    bed.change(
        grpc={"listen": listen},
        tls={"client_ca": bed.authority.certificate},
        access={"allow_names": "somebody"},
    )
    lines = bed.hang_up(REFUSED)
    assert len(lines) == 2 and lines[0].startswith("error: access.allow_names: "), lines
    assert "restart" in lines[0]


FAULTS = """\
[grpc]
listen = 127.0.0.1:0
max_streams = 0
nothing = 1

[stream]
interval = tomorrow
ticker = NEW
"""


def test_a_wrong_one_changes_nothing(bed):
    """All that is wrong is said, with file and line, and what is right in it does not count."""
    good = bed.path.read_text()
    for _ in range(3):
        bed.write(FAULTS)
        lines = bed.hang_up(REFUSED)
        assert len(lines) == 4, lines
        for line, (number, setting) in zip(
            lines, ((3, "grpc.max_streams"), (4, "grpc.nothing"), (7, "stream.interval"))
        ):
            assert line.startswith(f"error: {bed.path}:{number}: {setting}: "), lines
        with ready(bed) as h2:
            assert h2.peer_settings[MAX_CONCURRENT_STREAMS] == 1000
            h2.wait_updates(h2.call(), 10, Chain())
        assert attempt(bed.tls_port, client_context(bed.authority)) == SERVED
        bed.witness.advance(10)
    bed.path.unlink()
    lines = bed.hang_up(REFUSED)
    assert len(lines) == 2 and str(bed.path) in lines[0], lines
    bed.write(good)
    assert bed.hang_up(RELOADED)[0].startswith(RELOADED + "no setting has changed")
    bed.witness.advance(10)


def test_a_pipe_is_not_read_again(bed):
    """Nobody writes to it any more: it would stop stockd, or be as good as an empty file."""
    good = bed.path.read_text()
    bed.path.unlink()
    os.mkfifo(bed.path)
    lines = bed.hang_up(REFUSED)
    assert lines[0] == f"error: {bed.path}: cannot be read: Not a regular file"
    bed.witness.advance(10)
    bed.path.unlink()
    bed.write(good)
    assert bed.hang_up(RELOADED)[0].startswith(RELOADED + "no setting has changed")


def test_it_says_what_check_config_says(bed, run_stockd, folder):
    """Of files that are wrong, too: the same faults, in the same words."""
    missing = folder / "missing"
    bed.change(
        tls={"certificate": missing, "priorities": "RUBBISH"},
        metrics={"user": "a:b", "password_file": missing},
        access={"allow_names": "x"},
    )
    lines = bed.hang_up(REFUSED)
    done = run_stockd("--config", bed.path, "--check-config")
    assert done.returncode == 78
    assert lines[:-1] == [line.partition(" ")[2] for line in done.stderr.splitlines()]
    assert len(lines) == 4, lines
    bed.witness.advance(10)


def test_limits_of_the_machine_count_again(start_stockd):
    """A wish beyond them is lowered; what is compared are the wishes."""
    stockd = start_stockd(prefix=["prlimit", "-n400"], grpc={"max_connections": 100})
    bed = Reloader(stockd, {})
    lines = bed.reload(grpc={"max_connections": 5000})
    assert lines[0].startswith("info: grpc.max_connections = 5000 (was 100; ")
    assert lines[1].startswith("warning: grpc.max_connections is lowered from 5000 to 272: ")
    assert lines[2:] == [RELOADED + "1 setting has changed"]
    assert bed.hang_up(RELOADED) == [RELOADED + "no setting has changed"]


def test_sockets_of_a_manager(start_stockd, authority):
    """
    They take the place of what is set, which is said at the start alone; they get new certificates;
    and a wish for addresses is compared with a wish for addresses.
    """
    prefix = passing("grpc-tls", "metrics")
    sections = {"grpc": {"listen": "127.0.0.1:4999"}, "tls": server_tls(authority.server())}
    stockd = start_stockd(prefix=prefix, **sections)
    bed = Reloader(stockd, sections)
    notices = [line for line in stockd.log().splitlines() if " notice: " in line]
    words = "is not opened: the service manager passes sockets in its place"
    assert len(notices) == 2
    assert f"notice: grpc.listen: 127.0.0.1:4999 {words} ({bed.path}:" in notices[0]
    assert f"notice: metrics.listen: 127.0.0.1:0 {words} ({bed.path}:" in notices[1]
    before = shown(stockd.port)
    with tls_h2(stockd.port, client_context(authority)) as h2:
        stream, chain = h2.ready().call(), Chain()
        lines = bed.reload(tls=server_tls(authority.server("other")))
        assert len(lines) == 3 and RELOADED + "2 settings have changed" in lines[-1], lines
        assert shown(stockd.port) != before
        assert attempt(stockd.port, client_context(authority)) == SERVED
        bed.change(tls={"certificate": None, "key": None})
        assert "tls=yes needs tls.certificate" in bed.hang_up(REFUSED)[0]
        h2.wait_updates(stream, 10, chain)
    lines = bed.reload(tls=server_tls(authority.server()), grpc={"listen": "127.0.0.1:4998"})
    assert lines[-2].startswith("warning: grpc.listen = 127.0.0.1:4998 (is 127.0.0.1:4999; ")


# --- When, and how often ----------------------------------------------------------------------


def test_none_while_it_drains(bed):
    bed.reload(grpc={"drain_timeout": "1h"})
    bed.change(log={"level": "debug"})
    bed.stockd.send_signal(signal.SIGTERM)
    bed.stockd.wait_log("info: Terminated: stopping$")
    length = len(bed.stockd.log())
    for _ in range(5):
        bed.stockd.send_signal(signal.SIGHUP)
        bed.witness.advance(10)
    bed.stockd.send_signal(signal.SIGTERM)
    assert bed.stockd.wait() == 0
    assert "configuration" not in bed.stockd.log()[length:]


def test_many_at_once_are_few(bed):
    """Those that come while one is under way, and it takes its time, are one more."""
    authorities = bed.folder / "many.pem"
    replace_file(authorities, bed.authority.pem() * 3000, 0o644)
    bed.reload(tls={"client_ca": authorities, "client_certificate": "optional"})
    for _ in range(500):
        bed.stockd.send_signal(signal.SIGHUP)
    bed.change(stream={"start_price": 20})
    bed.stockd.send_signal(signal.SIGHUP)
    bed.stockd.wait_log("stream.start_price = 20 ")
    bed.witness.advance(20)
    assert bed.stockd.log().count(RELOADED) <= 50


@pytest.mark.timeout(400)
def test_hundreds_under_load(bed, sanitized):
    """
    Alternating good and wrong configurations while clients stream, connect and scrape: not an
    update is lost, and in the end nothing more is held than at the beginning.
    """
    other = bed.authority.server("other")
    password = bed.folder / "password"
    replace_file(password, b"secret\n", 0o600)
    first = {
        "tls": server_tls(bed.authority.server()),
        "access": {"allow": None, "allow_names": None},
        "metrics": {"user": None, "password_file": None, "allow": None},
        "stream": {"ticker": "AAPL", "start_price": 150, "interval": "5ms"},
    }
    second = {
        "tls": server_tls(other),
        "access": {"allow": "\nallow = ".join(f"127.0.0.{i}" for i in range(1, 100))},
        "metrics": {"user": "u", "password_file": password, "allow": "127.0.0.0/8"},
        "stream": {"ticker": "OTHER", "start_price": 20, "interval": "1ms"},
    }
    stop = threading.Event()

    def load(_):
        """Calls one after the other, each checked against what it began with."""
        count = 0
        while not stop.is_set():
            with secure_channel(bed.tls_port, bed.authority) as channel:
                call = get_updates(channel, timeout=60)
                update = next(call)
                chain = (
                    Chain() if update.ticker == "AAPL" else Chain(start=20.0, ticker="OTHER")
                )
                chain.check(update)
                while chain.count < 20:
                    chain.check(next(call))
                call.cancel()
                count += 1
        return count

    def rounds(number):
        for i in range(number):
            bed.reload(**second)
            bed.write(FAULTS)
            bed.hang_up(REFUSED)
            bed.reload(**first)
            if i % 5 == 0:
                bed.witness.advance(1)

    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load, i) for i in range(3)]
        try:
            rounds(30)
        finally:
            stop.set()
        assert all(one.result() > 0 for one in loads)
    wait_until(lambda: bed.stockd.metric("stockd_connections") == 1)
    descriptors, memory = bed.stockd.descriptors(), bed.stockd.private_bytes()
    rounds(100)
    bed.witness.advance(20)
    wait_until(lambda: bed.stockd.descriptors() <= descriptors)
    if not sanitized:  # which keeps what was freed for a while
        assert bed.stockd.private_bytes() <= memory + (256 << 10)
