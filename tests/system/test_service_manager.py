"""
stockd under a service manager, whose part these tests play: what it is told (sd_notify(3)), what it
passes (sd_listen_fds(3)), and that nobody is refused while one process goes and the next comes.
"""

import os
import re
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
import pytest

from harness.clients import get_updates, open_channel
from harness.h2 import RawH2
from harness.market import Publisher
from harness.metrics import http_request
from harness.process import clean_environment
from harness.secure import (
    SERVED,
    SocketH2,
    attempt,
    authority,
    client_context,
    dial,
    folder,
    server_tls,
    several,
)
from harness.stocks import Chain
from harness.wait import wait_stable, wait_until

EXIT_UNAVAILABLE, EXIT_CONFIGURATION = 69, 78
SO_TIMESTAMPNS = 35
NANOSECOND = 1e-9
PACED = {"interval": "100ms"}
UNPACED = {"interval": 0}
LONG = {"drain_timeout": "10m"}
IDLE = "0 streams on 0 connections, 0 blocked, 0 updates/s"
FAILED = "; the last reload failed: "

# Takes what a manager passes and becomes the program, as systemd's own child does.
LAUNCHER = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    names, fds, _, _ = socket.recv_fds(sock, 4096, 64)
for wanted, fd in enumerate(fds, 3):
    os.dup2(fd, wanted)
    os.close(fd)
names = names.decode().rstrip()
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Message(NamedTuple):
    at: float  # when it came, by the clock of the machine
    pid: int  # who sent it, as the kernel says
    fields: dict

    @property
    def status(self):
        return self.fields.get("STATUS")


class Manager:
    """Is told things, from when it is made until it is closed; and passes sockets."""

    def __init__(self, folder, abstract=False, reads=True):
        name = f"{folder}/notify"
        self.environment = {"NOTIFY_SOCKET": f"@{name}" if abstract else name}
        self.address = f"\0{name}" if abstract else name
        self.messages = []
        self._taken = 0
        self._handover = f"{folder}/sockets"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._sock.settimeout(0.05)
        self._sock.bind(self.address)
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        if reads:
            self._reader.start()

    def _read(self):
        while not self._over.is_set():
            try:
                data, controls, _, _ = self._sock.recvmsg(8192, 512)
            except TimeoutError:
                continue
            at = pid = None
            for _, kind, value in controls:
                if kind == socket.SCM_CREDENTIALS:
                    pid = struct.unpack("3i", value)[0]
                elif kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("2q", value)
                    at = seconds + nanoseconds * NANOSECOND
            # A line is NAME=VALUE and nothing else; no name comes twice.
            lines = [line.split("=", 1) for line in data.decode().split("\n")]
            fields = dict(lines)
            assert len(fields) == len(lines), data
            self.messages.append(Message(at, pid, fields))

    def close(self):
        self._over.set()
        if self._reader.is_alive():
            self._reader.join()
        self._sock.close()

    def next(self, fits, what, timeout=60):
        """The next message that fits, after those that were asked for before."""

        def look():
            for index in range(self._taken, len(self.messages)):
                if fits(self.messages[index]):
                    self._taken = index + 1
                    return self.messages[index]
            return None

        try:
            return wait_until(look, timeout, what)
        except AssertionError as fault:
            raise AssertionError(f"{fault}; what came: {self.messages[-20:]}") from None

    def next_with(self, name, value=None):
        return self.next(
            lambda message: name in message.fields
            and (value is None or message.fields[name] == value),
            name,
        )

    def next_status(self, text):
        """The status is this: a string, or a pattern that is all of it."""
        pattern = text if isinstance(text, re.Pattern) else re.compile(re.escape(text))
        return self.next(
            lambda message: message.status and pattern.fullmatch(message.status),
            f"status {pattern.pattern!r}",
        )

    def of(self, name):
        return [message for message in self.messages if name in message.fields]

    def is_full(self):
        """Does nothing more go into its socket?"""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(b"", self.address)
            except BlockingIOError:
                return True
        return False

    def start(self, start_stockd, passed=(), environment=None, wait=True, **sections):
        """Starts stockd, passing it [(name, socket)]."""
        environment = {**self.environment, **(environment or {})}
        if not passed:
            return start_stockd(environment=environment, wait=wait, **sections)
        with socket.socket(socket.AF_UNIX) as handover:
            handover.bind(self._handover)
            handover.listen()
            handover.settimeout(30)
            prefix = ["/usr/bin/python3", "-I", "-S", "-c", LAUNCHER, self._handover]
            stockd = start_stockd(environment=environment, prefix=prefix, wait=False, **sections)
            connection, _ = handover.accept()
            with connection:
                names = ":".join(name for name, _ in passed)
                socket.send_fds(connection, [names.encode()], [s.fileno() for _, s in passed])
            os.unlink(self._handover)
        return stockd.wait_ready() if wait else stockd


@pytest.fixture
def make_manager(folder):
    made = []

    def make(**options):
        made.append(Manager(folder, **options))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make_manager):
    return make_manager()


@pytest.fixture
def listen():
    """listen() is a socket that a manager holds: on a port, or, with a path, of a file."""
    held = []

    def listen(path=None, kind=socket.SOCK_STREAM, listens=True):
        sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET, kind)
        held.append(sock)
        sock.bind(str(path) if path else ("127.0.0.1", 0))
        if listens:
            sock.listen(1000)
        return sock

    yield listen
    for sock in held:
        sock.close()


def port_of(sock):
    return sock.getsockname()[1]


def address_of(sock):
    return f"127.0.0.1:{port_of(sock)}"


def scrape_status(port):
    return http_request(port, "/metrics").status


def kernel_clock_us():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


# --- What it is told --------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_when_everything_listens(start_stockd, make_manager, abstract):
    manager = make_manager(abstract=abstract)
    stockd = manager.start(
        start_stockd,
        grpc={"listen": several("127.0.0.1:0", "127.0.0.1:0")},
        metrics={"listen": several("127.0.0.1:0", "127.0.0.1:0")},
    )
    first = manager.next(lambda message: True, "a message")
    assert first.fields == {"READY": "1", "STATUS": IDLE}
    assert first.pid == stockd.pid
    assert stockd.stop() == 0
    assert len(manager.of("READY")) == 1


def test_not_ready_when_one_does_not_listen(start_stockd, manager, listen):
    taken = listen()
    stockd = manager.start(
        start_stockd, metrics={"listen": several("127.0.0.1:0", address_of(taken))}, wait=False
    )
    stockd.expected_exit = stockd.wait()
    assert stockd.expected_exit == EXIT_UNAVAILABLE
    assert "address already in use" in stockd.log()
    assert wait_stable(lambda: len(manager.of("READY"))) == 0


def test_status_of_paced_streams(start_stockd, manager):
    """Two clients with a stream each, ten updates a second; then one of them goes."""
    stockd = manager.start(start_stockd, stream=PACED)
    manager.next_status(IDLE)
    with open_channel(stockd.port) as one:
        first = get_updates(one)
        with open_channel(stockd.port) as other:
            second = get_updates(other)
            readers = [
                threading.Thread(target=lambda call=call: [None for _ in cancelled(call)])
                for call in (first, second)
            ]
            for reader in readers:
                reader.start()
            manager.next_status(
                re.compile(r"2 streams on 2 connections, 0 blocked, (19|20|21) updates/s")
            )
            second.cancel()
        manager.next_status(
            re.compile(r"1 stream on 1 connection, 0 blocked, (9\.\d|10|11) updates/s")
        )
        first.cancel()
        for reader in readers:
            reader.join()


def cancelled(call):
    """The call's updates, until somebody cancels it."""
    try:
        yield from call
    except grpc.RpcError:
        assert call.cancelled()


def test_status_of_blocked_streams(start_stockd, manager):
    """A client that stops to read: what stays is a stream that is blocked, and nothing is sent."""
    stockd = manager.start(start_stockd, stream=UNPACED)
    with open_channel(stockd.port) as channel:
        call, chain = get_updates(channel), Chain()
        chain.check(next(call))
        manager.next_status("1 stream on 1 connection, 1 blocked, 0 updates/s")
        assert stockd.metric("stockd_streams") == 1
        assert stockd.metric("stockd_blocked_streams") == 1
        # It reads again: many of them, and the thousands are readable.
        reader = threading.Thread(target=lambda: [None for _ in cancelled(call)])
        reader.start()
        manager.next_status(
            re.compile(r"1 stream on 1 connection, [01] blocked, \d{1,3}(,\d{3})+ updates/s")
        )
        call.cancel()
        reader.join()
    manager.next_status(IDLE)


def test_status_of_the_feed(start_stockd, manager, tmp_path):
    """One that is not live is named as long as it is so, and no longer."""
    path = tmp_path / "feed"
    os.mkfifo(path)
    manager.start(start_stockd, market={"feed": "pipe", "pipe": path, "stale_after": 0})
    publisher = Publisher(path).open()
    publisher.publish(("AAPL", 1))
    publisher.close()
    manager.next_status(f"{IDLE}; the market's feed pipe is gone")
    publisher.open()
    publisher.publish(("AAPL", 2))
    manager.next_status(IDLE)
    publisher.close()


def test_status_only_when_it_changed(start_stockd, manager):
    manager.start(start_stockd, environment={"WATCHDOG_USEC": 200000})
    manager.next_with("READY")
    # The loop turns, and more than one of its status's times goes by.
    for _ in range(70):
        manager.next_with("WATCHDOG")
    assert len(manager.of("STATUS")) == 1


def test_watchdog(start_stockd, manager):
    """It comes twice in its time, and only from a process that runs."""
    watchdog_s = 2
    stockd = manager.start(start_stockd, environment={"WATCHDOG_USEC": watchdog_s * 1000000})
    began = manager.next_with("READY").at
    times = [manager.next_with("WATCHDOG").at for _ in range(4)]
    for before, at in zip([began, *times], times):
        assert 0.9 * watchdog_s / 2 < at - before < watchdog_s
    stockd.send_signal(signal.SIGSTOP)
    try:
        wait_stable(lambda: len(manager.messages), quiet=1.5 * watchdog_s)
    finally:
        stockd.send_signal(signal.SIGCONT)
    seen = len(manager.messages)
    wait_until(lambda: len(manager.messages) >= seen + 2, what="more signs of life")
    assert all(message.fields == {"WATCHDOG": "1"} for message in manager.messages[seen:])


def test_watchdog_of_another_process(start_stockd, manager):
    manager.start(start_stockd, environment={"WATCHDOG_USEC": 2000, "WATCHDOG_PID": 1})
    manager.next_with("READY")
    wait_stable(lambda: len(manager.messages), quiet=0.5)
    assert not manager.of("WATCHDOG")


def test_reload(start_stockd, manager):
    stockd = manager.start(start_stockd)
    manager.next_with("READY")
    config = stockd.config_path.read_text()

    def reload():
        began_us = kernel_clock_us()
        stockd.send_signal(signal.SIGHUP)
        reloading = manager.next_with("RELOADING")
        ready = manager.next_with("READY")
        assert set(reloading.fields) == {"RELOADING", "MONOTONIC_USEC"}
        assert began_us <= int(reloading.fields["MONOTONIC_USEC"]) <= kernel_clock_us()
        assert reloading.at <= ready.at
        return ready.status

    assert reload() == IDLE
    stockd.config_path.write_text(config + "\n[log]\nlevel = loud\n")
    assert reload().startswith(IDLE + FAILED)
    # The manager shows it for as long as it is so.
    with open_channel(stockd.port) as channel:
        call = get_updates(channel)
        next(call)
        manager.next(
            lambda message: (message.status or "").startswith("1 stream on 1 connection, ")
            and FAILED in message.status,
            "a status with the fault",
        )
        call.cancel()
    stockd.config_path.write_text(config)
    assert FAILED not in reload()
    assert len(manager.of("RELOADING")) == 3
    assert len(manager.of("READY")) == 4


def test_stopping(start_stockd, manager):
    """While it drains it asks for time again and again, and lives; then it goes at once."""
    stockd = manager.start(
        start_stockd, stream=PACED, grpc=LONG, environment={"WATCHDOG_USEC": 2000000}
    )
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        h2.wait_updates(stream, 2, Chain())
        assert not manager.of("EXTEND_TIMEOUT_USEC")
        stockd.send_signal(signal.SIGTERM)
        first = manager.next_with("STOPPING", "1")
        assert first.status.startswith("draining: 1 stream on 1 connection, ")
        asked = [first] + [manager.next_with("EXTEND_TIMEOUT_USEC") for _ in range(2)]
        for before, after in zip(asked, asked[1:]):
            granted_s = int(before.fields["EXTEND_TIMEOUT_USEC"]) / 1e6
            assert granted_s <= 60
            assert after.at - before.at < granted_s
        manager.next_with("WATCHDOG")
        stream.reset()
        h2.wait_closed()
    assert stockd.wait() == 0
    assert len(manager.of("STOPPING")) == 1
    assert len(manager.of("READY")) == 1


def test_the_time_asked_for_has_an_end(start_stockd, manager):
    """No more than the drain may take, and what is left of the stop."""
    stockd = manager.start(
        start_stockd,
        stream=PACED,
        grpc={"drain_timeout": "4s", "shutdown_timeout": "1s"},
    )
    with RawH2(stockd.port) as h2:
        stream = h2.ready().call()
        h2.wait_updates(stream, 2, Chain())
        stockd.send_signal(signal.SIGTERM)
        began = manager.next_with("STOPPING").at
        h2.wait_closed()
    assert stockd.wait() == 0
    asked = manager.of("EXTEND_TIMEOUT_USEC")
    ends = [
        message.at - began + int(message.fields["EXTEND_TIMEOUT_USEC"]) / 1e6
        for message in asked
        if message.status.startswith("draining: ")
    ]
    assert ends and max(ends) < 4 + 2
    assert any(message.status.startswith("ending streams: ") for message in asked)


def test_a_manager_that_never_reads(start_stockd, make_manager):
    """It is told what fits, and stockd goes on with its work, and with its end."""
    manager = make_manager(reads=False)
    stockd = manager.start(
        start_stockd, stream={"interval": "1ms"}, environment={"WATCHDOG_USEC": 20000}
    )
    wait_until(manager.is_full, what="a full socket")
    with RawH2(stockd.port) as h2:
        h2.wait_updates(h2.ready().call(), 500, Chain())
    assert manager.is_full()
    stockd.send_signal(signal.SIGHUP)
    stockd.wait_at_rest()
    assert stockd.stop() == 0


def test_a_manager_that_has_gone(start_stockd, manager):
    stockd = manager.start(start_stockd, environment={"WATCHDOG_USEC": 20000})
    manager.next_with("WATCHDOG")
    manager.close()
    os.unlink(manager.address)
    with RawH2(stockd.port) as h2:
        h2.wait_updates(h2.ready().call(), 1, Chain())
    assert stockd.stop() == 0


# --- What it is passed ------------------------------------------------------------------------


def test_sockets_of_each_name(start_stockd, manager, listen, authority, folder):
    """They take the place of what the settings have, which nobody listens on."""
    held = {
        "grpc": [listen(), listen(), listen(folder / "grpc.sock")],
        "grpc-tls": [listen()],
        "metrics": [listen()],
        "metrics-tls": [listen()],
    }
    unused = listen(listens=False)
    stockd = manager.start(
        start_stockd,
        [(name, sock) for name, socks in held.items() for sock in socks],
        grpc={"listen": address_of(unused)},
        metrics={"listen": f"unix:{folder}/metrics.sock"},
        tls=server_tls(authority.server()),
    )
    manager.next_with("READY")
    secure = client_context(authority)
    for sock in held["grpc"][:2]:
        assert attempt(port_of(sock)) == SERVED
    assert attempt(path=folder / "grpc.sock") == SERVED
    assert attempt(port_of(held["grpc-tls"][0]), secure) == SERVED
    assert attempt(port_of(held["grpc-tls"][0])) != SERVED
    assert scrape_status(port_of(held["metrics"][0])) == 200
    with dial(port_of(held["metrics-tls"][0])) as sock:
        with client_context(authority, alpn=()).wrap_socket(
            sock, server_hostname="localhost"
        ) as tls:
            tls.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert tls.recv(12).endswith(b" 200")
    with pytest.raises(ConnectionRefusedError):
        dial(port_of(unused))
    assert not (folder / "metrics.sock").exists()
    assert stockd.stop() == 0
    assert (folder / "grpc.sock").exists()


def test_one_group_alone(start_stockd, manager, listen):
    """The other has its own listeners, as the settings say."""
    held = listen()
    stockd = manager.start(start_stockd, [("metrics", held)])
    assert scrape_status(port_of(held)) == 200
    with RawH2(stockd.port) as h2:
        h2.wait_updates(h2.ready().call(), 1, Chain())


def test_options_by_address(start_stockd, manager, listen, authority, folder):
    """What the settings say about an address holds for a socket that is passed there."""
    port, path, plain = listen(), listen(folder / "grpc.sock"), listen()
    manager.start(
        start_stockd,
        [("grpc", port), ("grpc", path), ("grpc", plain)],
        grpc={
            "listen": several(
                f"{address_of(port)} tls=yes client_certificate=required",
                f"unix:{folder}/grpc.sock tls=yes",
                "127.0.0.1:1",
            )
        },
        tls=server_tls(authority.server(), client_ca=authority.certificate),
    )
    stranger = client_context(authority)
    friend = client_context(authority, authority.client("trader-7"))
    assert attempt(port_of(port), friend) == SERVED
    assert attempt(port_of(port), stranger) != SERVED
    assert attempt(port_of(port)) != SERVED
    assert attempt(context=stranger, path=folder / "grpc.sock") == SERVED
    assert attempt(path=folder / "grpc.sock") != SERVED
    assert attempt(port_of(plain)) == SERVED


def test_a_check_without_the_sockets(start_stockd, manager, listen, authority, run_stockd):
    """
    ExecReload= checks, and is passed nothing: who is asked for a certificate only by a socket is no
    fault there, since the start was none. A start without that socket would let in everybody.
    """
    sock = listen()
    stockd = manager.start(
        start_stockd,
        [("grpc-tls", sock)],
        tls=server_tls(
            authority.server(), client_ca=authority.certificate, client_certificate="required"
        ),
        access={"allow_names": "trader-7"},
    )
    assert attempt(port_of(sock), client_context(authority, authority.client("trader-7"))) == SERVED
    assert attempt(port_of(sock), client_context(authority, authority.client("other"))) != SERVED
    check = ["--config", stockd.config_path, "--check-config"]
    done = run_stockd(*check)
    assert done.returncode == 0
    assert "only a socket that the service manager passes for TLS would use it" in done.stderr
    stockd.send_signal(signal.SIGHUP)
    manager.next_with("READY")
    assert FAILED not in manager.next_with("READY").status
    # Nobody is asked for a certificate at all: that is a fault for the check, too.
    done = run_stockd(*check, "-s", "tls.client_certificate=no")
    assert done.returncode == EXIT_CONFIGURATION
    assert "access.allow_names: no address in grpc.listen asks" in done.stderr
    done = run_stockd("--config", stockd.config_path, "-s", "grpc.listen=127.0.0.1:0")
    assert done.returncode == EXIT_CONFIGURATION
    assert "access.allow_names: no address in grpc.listen asks" in done.stderr


def test_no_place_for_a_file(start_stockd, manager, folder):
    """In a service it is most often the sandbox, and then a socket unit is the way."""
    for environment, hint in ((manager.environment, True), ({}, False)):
        stockd = start_stockd(
            environment=environment,
            grpc={"listen": f"unix:{folder}/missing/grpc.sock"},
            wait=False,
        )
        stockd.expected_exit = EXIT_UNAVAILABLE
        assert stockd.wait() == EXIT_UNAVAILABLE
        assert "grpc.sock: no such file or directory" in stockd.log()
        assert ("a socket unit opens it, see stockd.conf(5)" in stockd.log()) == hint


def assert_refused(stockd, words):
    stockd.expected_exit = EXIT_CONFIGURATION
    assert stockd.wait() == EXIT_CONFIGURATION
    assert words in stockd.log()


def test_unknown_name(start_stockd, manager, listen):
    good, bad = listen(), listen()
    stockd = manager.start(start_stockd, [("grpc", good), ("stockd.socket", bad)], wait=False)
    assert_refused(
        stockd,
        f'passes a socket named "stockd.socket" ({address_of(bad)}), but names are grpc, '
        "grpc-tls, metrics, metrics-tls (FileDescriptorName= in its unit)",
    )
    assert not manager.messages


def test_socket_that_does_not_listen(start_stockd, manager, listen):
    stockd = manager.start(start_stockd, [("grpc", listen(listens=False))], wait=False)
    assert_refused(stockd, '"grpc", does not listen (its unit needs Accept=no)')


def test_datagram_socket(start_stockd, manager, listen):
    sock = listen(kind=socket.SOCK_DGRAM, listens=False)
    stockd = manager.start(start_stockd, [("grpc", listen()), ("metrics", sock)], wait=False)
    assert_refused(stockd, '"metrics", is no stream socket (its unit needs ListenStream=)')


def test_tls_by_name_and_not_by_address(start_stockd, manager, listen):
    sock = listen()
    stockd = manager.start(
        start_stockd, [("grpc-tls", sock)], grpc={"listen": address_of(sock)}, wait=False
    )
    assert_refused(stockd, f"passes {address_of(sock)} as grpc-tls, for TLS, but grpc.listen has")


def test_socket_activate(start_stockd, tmp_path):
    """systemd's own tool starts it for the first client, whom it serves."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(
        ("127.0.0.1", 0)
    ) as other:
        ports = port_of(one), port_of(other)
    passed_on = [f"-E{name}" for name in clean_environment() if name.endswith("_OPTIONS")]
    stockd = start_stockd(
        prefix=[
            "systemd-socket-activate",
            *(f"--listen=127.0.0.1:{port}" for port in ports),
            "--fdname=grpc:metrics",
            *passed_on,
        ],
        wait=False,
    )
    stockd.wait_log("Listening on .*")
    # The first of these starts it.
    with RawH2(ports[0]) as h2:
        h2.wait_updates(h2.ready().call(), 1, Chain())
    assert scrape_status(ports[1]) == 200
    stockd.wait_ready()
    assert (stockd.port, stockd.metrics_port) == ports


# --- One process goes, the next comes -----------------------------------------------------------


def test_who_comes_while_nobody_runs(start_stockd, manager, listen, folder):
    """The kernel lets them wait; the next process serves them all."""
    port, path = listen(), listen(folder / "grpc.sock")
    passed = [("grpc", port), ("grpc", path)]
    first = manager.start(start_stockd, passed, stream=PACED)
    assert attempt(port_of(port)) == SERVED
    assert first.stop() == 0
    waiting = [SocketH2(dial(port_of(port))) for _ in range(50)]
    waiting += [SocketH2(dial(path=folder / "grpc.sock")) for _ in range(50)]
    calls = [h2.call() for h2 in waiting]
    manager.start(start_stockd, passed, stream=PACED)
    for h2, call in zip(waiting, calls):
        h2.wait_updates(call, 1, Chain())
        h2.close()


def test_who_comes_while_the_old_one_drains(start_stockd, manager, listen, folder):
    """It serves its own to the end, and leaves those that come now to the next."""
    port, path, metrics = listen(), listen(folder / "grpc.sock"), listen()
    passed = [("grpc", port), ("grpc", path), ("metrics", metrics)]
    old = manager.start(start_stockd, passed, stream=PACED, grpc=LONG)
    with RawH2(port_of(port)) as h2:
        stream, chain = h2.ready().call(), Chain()
        h2.wait_updates(stream, 2, chain)
        manager.next_with("READY")
        old.send_signal(signal.SIGTERM)
        manager.next_with("STOPPING")
        h2.wait(lambda: len(h2.goaways) == 2, what="the final GOAWAY")
        late = [SocketH2(dial(port_of(port))), SocketH2(dial(path=folder / "grpc.sock"))]
        calls = [late_h2.call() for late_h2 in late]
        h2.wait_updates(stream, chain.count + 10, chain)
        for late_h2 in late:
            late_h2.pump(0)
            assert not late_h2.frames, "the old one served it"
        stream.reset()
        h2.wait_closed()
    assert old.wait() == 0
    manager.start(start_stockd, passed, stream=PACED, grpc=LONG)
    for late_h2, call in zip(late, calls):
        late_h2.wait_updates(call, 2, Chain())
        assert not late_h2.reset_by_peer
        call.reset()
        late_h2.close()


def test_who_waits_when_the_old_one_is_asked_to_go(start_stockd, manager, listen):
    """What it took in that turn of its loop it serves to the end; the others are for the next."""
    held, metrics = listen(), listen()
    passed = [("grpc", held), ("metrics", metrics)]
    old = manager.start(start_stockd, passed, stream=PACED, grpc=LONG)
    manager.next_with("READY")
    old.send_signal(signal.SIGSTOP)
    try:
        clients = [SocketH2(dial(port_of(held))) for _ in range(400)]
        calls = {h2: h2.call() for h2 in clients}
        old.send_signal(signal.SIGTERM)
    finally:
        old.send_signal(signal.SIGCONT)
    manager.next_with("STOPPING")

    def answered():
        for h2 in clients:
            h2.pump(0)
        return sum(bool(h2.frames) for h2 in clients)

    wait_stable(answered)
    served = [h2 for h2 in clients if h2.frames]
    waiting = [h2 for h2 in clients if not h2.frames]
    assert waiting
    for h2 in served:
        h2.wait_updates(calls[h2], 1, Chain())
        calls[h2].reset()
    for h2 in served:
        h2.wait_closed()
    assert old.wait() == 0
    manager.start(start_stockd, passed, stream=PACED)
    for h2 in waiting:
        h2.wait_updates(calls[h2], 1, Chain())
    for h2 in clients:
        assert not h2.reset_by_peer
        h2.close()


def test_restarts_refuse_nobody(start_stockd, manager, listen):
    """Clients come all the time, while three processes follow each other."""
    held, metrics = listen(), listen()
    passed = [("grpc", held), ("metrics", metrics)]
    over = threading.Event()
    outcomes = []

    def come():
        while not over.is_set():
            try:
                outcomes.append(attempt(port_of(held)))
            except OSError as error:
                outcomes.append(repr(error))

    stockd = manager.start(start_stockd, passed)
    with ThreadPoolExecutor(4) as clients:
        try:
            for _ in range(4):
                clients.submit(come)
            for _ in range(3):
                seen = len(outcomes)
                wait_until(lambda: len(outcomes) > seen + 50, what="clients")
                assert stockd.stop() == 0
                stockd = manager.start(start_stockd, passed)
        finally:
            over.set()
    assert set(outcomes) == {SERVED}, {one: outcomes.count(one) for one in set(outcomes)}
