"""
What the programs send to the journal: that each event of daemon/base/events.h is sent with the
identity and the fields that the table promises, that nothing of level info or more urgent is
without an event, and that the message catalogs and the manual pages explain just these events and
fields.
"""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess

import grpc
import pytest

from harness.clients import get_updates, open_channel
from harness.h2 import (
    INITIAL_WINDOW_SIZE,
    PING,
    WINDOW_MAX,
    RawH2,
    frame,
    message as framed,
    request_headers,
)
from harness.journal import Journal, build_stand_in, check_messages, read_events
from harness.process import SOURCE
from harness.secure import (
    SERVED,
    TLS_LISTEN,
    TlsSocket,
    attempt,
    authority,
    client_context,
    dial,
    folder,
    server_tls,
    several,
)
from harness.server import ReferenceServer
from harness.sockets import passing
from harness.stocks import pb2
from harness.stock_client import DONE, FAILED, INTERRUPTED, NO_CONNECTION, USAGE
from harness.wait import wait_until

PROGRAMS = ("stockd", "stock-client")
CATALOGS = {program: SOURCE / "systemd" / f"{program}.catalog" for program in PROGRAMS}
MANUALS = {
    "stockd": SOURCE / "daemon" / "stockd.8",
    "stock-client": SOURCE / "client" / "stock-client.1",
}
EVENTS = read_events()

# A system that lacks what every start needs is not made here.
NOT_CAUSED = {"stockd": {"start-failed"}, "stock-client": {"accept-failed", "certificate"}}


def events_of(program):
    return {name for name, event in EVENTS.items() if program in event.ids}


# --- The catalogs and the manual pages ---------------------------------------------------------


def read_catalog(path):
    """identity -> (headers, text); of each identity once."""
    entries = {}
    for part in re.split(r"^-- ", path.read_text(), flags=re.MULTILINE)[1:]:
        identity, _, rest = part.partition("\n")
        head, _, text = rest.partition("\n\n")
        assert identity not in entries, f"two entries for {identity}"
        entries[identity] = (dict(line.split(": ", 1) for line in head.splitlines()), text)
    return entries


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_event_has_one_entry_and_each_entry_an_event(program):
    wanted = {EVENTS[name].ids[program] for name in events_of(program)}
    assert set(read_catalog(CATALOGS[program])) == wanted


@pytest.mark.parametrize("program", PROGRAMS)
def test_entries_are_whole_and_use_only_what_each_message_has(program):
    entries = read_catalog(CATALOGS[program])
    subjects = set()
    for name in events_of(program):
        event = EVENTS[name]
        headers, text = entries[event.ids[program]]
        assert set(headers) == {"Subject", "Defined-By", "Support", "Documentation"}, name
        assert headers["Defined-By"] == program
        for manual in headers["Documentation"].split():
            page, section = re.fullmatch(r"man:([a-z0-9.@-]+)\((\d)\)", manual).groups()
            ours = list(SOURCE.glob(f"*/{page}.{section}"))
            assert len(ours) == (0 if page.startswith("systemd") else 1), manual
        assert headers["Subject"] not in subjects, name
        subjects.add(headers["Subject"])
        assert len(text.split()) >= 10, f"{name} explains nothing"
        for line in text.splitlines():
            assert len(re.sub(r"@\w+@", "x" * 12, line)) <= 82, line
        used = set(re.findall(r"@(\w*)@", headers["Subject"] + text))
        assert used <= event.required, f"{name}: {used - event.required}"


def test_entries_name_settings_that_exist(run_stockd):
    section, settings = "", set()
    for line in run_stockd("--dump-config").stdout.splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        key = re.match(r"#?\s*([a-z_]+)\s*=", line)
        if key:
            settings.add(f"{section}.{key.group(1)}")
    sections = {setting.split(".")[0] for setting in settings}
    found = set()
    for path in CATALOGS.values():
        for name in re.findall(r"\b([a-z]+\.[a-z_]+)\b", path.read_text()):
            if name.split(".")[0] in sections:
                found.add(name)
    assert found and found <= settings, found - settings


def test_the_journal_takes_the_catalogs(tmp_path):
    """journalctl's own compiler, into a root of its own; and it gives back what we wrote."""
    catalogs = tmp_path / "usr/lib/systemd/catalog"
    catalogs.mkdir(parents=True)
    for path in CATALOGS.values():
        (catalogs / path.name).write_text(path.read_text())

    def journalctl(*arguments):
        return subprocess.run(
            ["journalctl", f"--root={tmp_path}", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
        )

    done = journalctl("--update-catalog")
    assert done.returncode == 0 and not done.stderr, done.stderr
    entries = {**read_catalog(CATALOGS["stockd"]), **read_catalog(CATALOGS["stock-client"])}
    assert len(entries) == sum(len(event.ids) for event in EVENTS.values())
    listed = journalctl("--list-catalog").stdout.splitlines()
    assert {line.split()[0] for line in listed} == set(entries)
    for identity, (headers, text) in entries.items():
        shown = journalctl("--dump-catalog", identity).stdout
        assert shown.count("Subject: ") == 1, shown
        assert f"Subject: {headers['Subject']}\n" in shown
        assert text.strip() in shown

    # The same test of a catalog that is broken fails.
    (catalogs / "broken.catalog").write_text("Subject: of nothing\n")
    assert journalctl("--update-catalog").returncode != 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_manual_page_names_each_event_and_field(program):
    page = MANUALS[program].read_text()
    fields = {field for name in events_of(program) for field in EVENTS[name].fields}
    documented = set(re.findall(r"^\.It Dv (STOCKD_\w+)", page, re.MULTILINE))
    documented |= set(re.findall(r"^\.It Dv STOCKD_\w+ , (STOCKD_\w+)", page, re.MULTILINE))
    assert documented == fields | {"STOCKD_EVENT"}
    names = set(re.findall(r"^\.It Sy ([a-z-]+)$", page, re.MULTILINE))
    assert events_of(program) == names & set(EVENTS)


def test_every_message_from_info_on_has_an_event():
    """In the source: log_error(), log_warning() and the like have no place for one."""
    bare = re.compile(r"\blog_(error|warning|notice|info)\(|\blog_event\(\s*[^,]+,\s*NULL\b")
    found = []
    for folder_name in ("daemon", "client"):
        for path in sorted((SOURCE / folder_name).rglob("*.[ch]")):
            if path.name in ("log.c", "log.h"):
                continue
            for match in bare.finditer(path.read_text()):
                line = path.read_text()[: match.start()].count("\n") + 1
                found.append(f"{path.relative_to(SOURCE)}:{line}: {match.group()}")
    assert not found, "\n".join(found)


# --- What is really sent -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    return build_stand_in(tmp_path_factory.mktemp("stand-in"))


@pytest.fixture
def journal(stand_in, tmp_path):
    return Journal(stand_in, tmp_path / "journal")


@pytest.fixture
def journaled(start_stockd, journal, tmp_path):
    """start_stockd() with that journal; waits until it listens everywhere."""
    count = [0]

    def start(listeners=2, expected_exit=0, **more):
        seen = len(journal.messages(STOCKD_EVENT="listening"))
        environment = journal.environment(tmp_path / f"stockd-{count[0]}.stderr")
        count[0] += 1
        daemon = start_stockd(wait=False, environment=environment, **more)
        daemon.expected_exit = expected_exit
        if expected_exit:
            assert daemon.wait() == expected_exit
            return daemon
        wait_until(
            lambda: len(journal.messages(STOCKD_EVENT="listening")) >= seen + listeners
            or not daemon.running(),
            what=f"{listeners} listeners",
        )
        for message in journal.messages(STOCKD_EVENT="listening")[seen:]:
            port = int(message["STOCKD_ADDRESS"].rpartition(":")[2])
            ports = daemon.metrics_ports
            if message["STOCKD_LISTENER"].startswith("grpc"):
                ports = daemon.grpc_ports
            ports.append(port)
        return daemon

    return start


def stream_once(port):
    """A stream of some updates, which its client then cancels."""
    with open_channel(port) as channel:
        call = get_updates(channel)
        for _ in range(3):
            next(call)
        call.cancel()


def test_a_stream_is_found_by_its_client(journaled, journal):
    """From one peer: the connection, the call, its end, and the figures of that."""
    stockd = journaled(stream={"interval": "10ms"}, log={"level": "debug"})
    stream_once(stockd.port)
    ended = journal.wait("call-ended")
    peer = {"STOCKD_PEER": ended["STOCKD_PEER"]}
    journal.wait("connection-closed", **peer)
    started = journal.messages(STOCKD_EVENT="call-started", **peer)
    assert [m["STOCKD_STREAM"] for m in started] == [ended["STOCKD_STREAM"]]
    assert "grpc" in started[0]["STOCKD_USER_AGENT"]
    assert started[0]["STOCKD_METHOD"] == "/stockservice.StockService/GetUpdates"
    assert ended["STOCKD_METHOD"] == started[0]["STOCKD_METHOD"]
    assert ended["STOCKD_STATUS"] == "Canceled"
    assert int(ended["STOCKD_MESSAGES"]) >= 3
    assert int(ended["STOCKD_DURATION_MS"]) >= 20
    assert stockd.metric("grpc_server_msg_sent_total") <= int(ended["STOCKD_MESSAGES"]) + 1
    stockd.stop()
    stopped = journal.wait("stopped")
    assert int(stopped["STOCKD_UPDATES_SENT"]) >= 3
    assert stopped["STOCKD_CALLS"] == "1"
    check_messages(journal, "stockd", EVENTS)


def test_at_level_info_clients_who_do_nothing_wrong_leave_no_trace(journaled, journal):
    stockd = journaled(stream={"interval": "10ms"})
    stream_once(stockd.port)
    stockd.wait_at_rest()
    assert not [m for m in journal.messages() if "STOCKD_PEER" in m]


def stall(stockd, journal):
    """A client that gives no credit; its call is put out, and the journal says all about it."""
    with RawH2(stockd.port) as h2:
        h2.auto_credit = False
        stream = h2.ready().call()
        h2.wait(lambda: stream.rst is not None or stream.over, 30, "the end of the call")
    message = journal.wait("client-stalled")
    assert message["PRIORITY"] == "4"
    assert message["STOCKD_REASON"] in ("stream_window", "connection_window")
    assert int(message["STOCKD_MESSAGES"]) > 0
    assert int(message["STOCKD_DURATION_MS"]) >= 400  # of the stall_timeout of 500 ms
    ended = journal.wait("call-ended", STOCKD_PEER=message["STOCKD_PEER"])
    assert ended["STOCKD_STATUS"] == "ResourceExhausted"


def test_a_slow_client_is_found_by_what_it_was_waiting_for(journaled, journal):
    """Whoever goes away while updates wait for him was too slow, and the journal says so."""
    stockd = journaled(stream={"interval": "0"}, log={"level": "debug"})
    with RawH2(stockd.port) as h2:
        h2.auto_credit = False
        stream = h2.ready().call()
        h2.wait(lambda: stream.data_bytes == 65535, what="a full window")
        h2.ping()
        stream.reset()
        ended = journal.wait("call-ended")
    assert ended["STOCKD_BLOCKED"] in ("stream_window", "connection_window")


def test_a_client_that_never_reads_is_found_too(journaled, journal):
    """Its window is open, and its socket is full: it is the connection that stalls."""
    stockd = journaled(stream={"interval": "0"}, grpc={"stall_timeout": "500ms"})
    with RawH2(
        stockd.port, settings={INITIAL_WINDOW_SIZE: WINDOW_MAX}, receive_buffer=4096
    ) as h2:
        h2.ready().open_connection_window()
        h2.call()
        message = journal.wait("client-stalled", STOCKD_REASON="stalled")
    assert message["PRIORITY"] == "4"
    assert message["STOCKD_ERROR"]
    check_messages(journal, "stockd", EVENTS)


def expel(stockd, journal):
    """Pings that come too often."""
    with RawH2(stockd.port) as h2:
        h2.ready()
        h2.send(frame(PING, 0, 0, bytes(8)) * 6)
        h2.wait_closed()
    message = journal.wait("client-expelled")
    assert message["PRIORITY"] == "4"
    assert message["STOCKD_REASON"] == "too_many_pings"


def refuse_many(stockd, journal):
    """Until the log says that it was too much for it."""

    def one_more():
        attempt(stockd.port)
        return journal.messages(STOCKD_EVENT="messages-dropped")

    with RawH2(stockd.port) as h2:
        h2.ready()
        dropped = wait_until(one_more, 30, "messages that are dropped")
    refused = journal.messages(STOCKD_EVENT="refused")
    assert {m["STOCKD_REASON"] for m in refused} == {"max_per_address"}
    assert int(dropped[0]["STOCKD_DROPPED"]) > 0


def break_tls(stockd, journal):
    """No TLS where it is expected, and then TLS that breaks after its handshake."""
    port = stockd.grpc_ports[1]
    attempt(port)
    journal.wait("handshake-failed")
    tls = TlsSocket(dial(port), client_context())
    journal.wait("connection-secured")
    with open(os.dup(tls.fileno()), "wb", buffering=0) as raw:
        raw.write(b"what is no TLS at all")
    journal.wait("tls-broken")
    tls.close()


def run_out_of_descriptors(stockd, journal):
    """No descriptor for one more: accept fails, and the client waits until there is one."""
    used = {int(name) for name in os.listdir(f"/proc/{stockd.pid}/fd")}
    first_free = min(set(range(len(used) + 1)) - used)
    soft, hard = resource.prlimit(stockd.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(stockd.pid, resource.RLIMIT_NOFILE, (first_free, hard))
    sockets = []

    def one_more():
        sockets.append(dial(stockd.port))
        return journal.messages(STOCKD_EVENT="accept-failed")

    try:
        failed = wait_until(one_more, what="a connection that is not accepted")
    finally:
        resource.prlimit(stockd.pid, resource.RLIMIT_NOFILE, (soft, hard))
        for sock in sockets:
            sock.close()
    assert failed[0]["STOCKD_REASON"] == "accept_failed"
    # Those that waited are taken now, and must be gone before another has the place of one.
    wait_until(lambda: attempt(stockd.port) == SERVED, what="a connection that is served")


def reload_all_ways(stockd, journal):
    """A good configuration, one that needs a restart, and one that is wrong."""
    good = stockd.config_path.read_text()
    stockd.send_signal(signal.SIGHUP)
    journal.wait("reloaded")
    stockd.config_path.write_text(good.replace("listen = 127.0.0.1:0", "listen = 127.0.0.1:1", 1))
    stockd.send_signal(signal.SIGHUP)
    assert journal.wait("restart-needed")["STOCKD_SETTING"] == "grpc.listen"
    stockd.config_path.write_text(good + "nothing = 1\n")
    stockd.send_signal(signal.SIGHUP)
    journal.wait("reload-refused")
    journal.wait("configuration-fault")
    stockd.config_path.write_text(good)


def cut_off(stockd, journal):
    """A subscriber that wants no queue, and takes nothing."""
    proto = pb2()
    request = proto.SubscribeRequest(policy=proto.SLOW_POLICY_DISCONNECT, max_queue=1)
    with RawH2(stockd.port, settings={INITIAL_WINDOW_SIZE: 0}) as h2:
        stream = h2.ready().call(
            request_headers("/stockservice.StockService/Subscribe"),
            framed(request.SerializeToString()),
        )
        h2.wait_over(stream)
        message = journal.wait("subscriber-cut-off")
    assert message["PRIORITY"] == "4"
    assert message["STOCKD_REASON"] == "max_queue"
    assert message["STOCKD_METHOD"] == "/stockservice.StockService/Subscribe"
    assert message["STOCKD_STREAM"] == str(stream.id)
    assert message["STOCKD_ERROR"]


def feed_by_pipe(journaled, journal, tmp_path):
    """A feed that says what is no update, is silent, goes, and comes back."""
    pipe = tmp_path / "feed"
    os.mkfifo(pipe)
    stockd = journaled(
        market={"feed": "pipe", "pipe": pipe, "stale_after": "200ms", "hard_bytes": "32M"}
    )
    assert journal.wait("setting-doubtful")["STOCKD_SETTING"] == "market.hard_bytes"
    with open(pipe, "wb", buffering=0) as feed:
        feed.write(b'{"ticker": "AAPL", "price": 1}\n')
        stockd.wait_metric("stockd_market_updates_total", 1)
        feed.write(b'{"ticker": "AAPL", "price": "dear"}\n')
        fault = journal.wait("feed-fault")
        stale = journal.wait("feed-state", STOCKD_STATE="stale")
        assert int(stale["STOCKD_DURATION_MS"]) >= 200
    gone = journal.wait("feed-state", STOCKD_STATE="gone")
    for message in (fault, stale, gone):
        assert message["PRIORITY"] == "4"
        assert message["STOCKD_FEED"] == "pipe"
    with open(pipe, "wb", buffering=0) as feed:
        feed.write(b'{"ticker": "AAPL", "price": 1}\n')
        assert journal.wait("feed-state", STOCKD_STATE="live")["PRIORITY"] == "5"


def end_with_a_stream(stockd, journal):
    with open_channel(stockd.port) as channel:
        call = get_updates(channel)
        next(call)
        stockd.send_signal(signal.SIGTERM)
        journal.wait("stopping")
        stockd.send_signal(signal.SIGTERM)
        assert journal.wait("ending")["STOCKD_STREAMS"] == "1"
        assert stockd.wait() == 0


def test_stockd_sends_all_its_events_as_promised(journaled, journal, authority, tmp_path):
    tls = server_tls(authority.expired())
    stockd = journaled(
        listeners=3,
        grpc={
            "listen": several("127.0.0.1:0", TLS_LISTEN),
            "stall_timeout": "500ms",
            "min_ping_interval": "1h",
            "min_ping_interval_idle": "1h",
            "max_connections": 100000,
        },
        access={"max_connections_per_address": 1},
        tls=tls,
        stream={"interval": "0"},
        log={"level": "debug"},
        prefix=["prlimit", "--nofile=1000:1000"],
    )
    for cause in (
        stall,
        cut_off,
        expel,
        break_tls,
        run_out_of_descriptors,
        refuse_many,
        reload_all_ways,
    ):
        cause(stockd, journal)
        # There is one place, and it must be free for the next.
        stockd.wait_metric("stockd_connections", 0)
    stockd.wait_at_rest()
    end_with_a_stream(stockd, journal)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        journaled(expected_exit=69, grpc={"listen": f"127.0.0.1:{port}"})
    assert journal.wait("listen-failed")["STOCKD_ADDRESS"] == f"127.0.0.1:{port}"
    journaled(prefix=passing("grpc", "metrics"), grpc={"listen": "127.0.0.1:1"})
    assert journal.wait("address-unused")["STOCKD_ADDRESS"] == "127.0.0.1:1"
    feed_by_pipe(journaled, journal, tmp_path)
    check_messages(journal, "stockd", EVENTS)
    missing = events_of("stockd") - NOT_CAUSED["stockd"] - journal.events()
    assert not missing, missing


class EmptyServer(ReferenceServer):
    """Its streams end before they have begun."""

    def _get_updates(self, _request, _context):
        return iter(())


@pytest.fixture
def journaled_client(client_program, start_program, journal, tmp_path):
    count = [0]

    def start(*arguments, code=None, prefix=()):
        environment = journal.environment(tmp_path / f"stock-client-{count[0]}.stderr")
        count[0] += 1
        program = start_program([*prefix, client_program, *arguments], "stock-client", environment)
        if code is not None:
            assert program.wait() == code
            assert program.log() == "", "what goes to the journal goes nowhere else"
        return program

    return start


def lose_a_server(journaled_client, journal):
    """A server that goes away: the client tries again until it is stopped."""
    server = ReferenceServer(interval=0.01)
    client = journaled_client("-v", f"127.0.0.1:{server.port}", "--metrics", "127.0.0.1:0")
    target = {"STOCKD_TARGET": f"127.0.0.1:{server.port}"}
    journal.wait("connected", **target)
    journal.wait("metrics-served")
    wait_until(lambda: len(client.output().splitlines()) > 3, what="updates")
    server.stop()
    retrying = journal.wait("retrying", **target)
    assert retrying["PRIORITY"] == "4"
    wait_until(lambda: len(journal.messages(STOCKD_EVENT="retrying")) >= 2, what="a second attempt")
    assert client.stop(signal.SIGINT) == INTERRUPTED
    finished = journal.wait("finished")
    assert int(finished["STOCKD_UPDATES_RECEIVED"]) > 3
    assert finished["STOCKD_GAPS"] == "0"
    assert finished["MESSAGE"].startswith(f"{finished['STOCKD_UPDATES_RECEIVED']} updates received")


def end_otherwise(journaled_client, journal):
    """The server ends the stream, refuses the call, is not there; standard output is full."""
    with EmptyServer() as server:
        journaled_client(f"127.0.0.1:{server.port}", "--no-metrics", code=DONE)
    journal.wait("stream-ended")

    def abort(_call, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such stock")

    with ReferenceServer(plan=abort) as server:
        journaled_client(f"127.0.0.1:{server.port}", "--no-metrics", code=FAILED)
    failed = journal.wait("call-failed")
    assert failed["STOCKD_STATUS"] == "NotFound"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        journaled_client("--metrics", f"127.0.0.1:{port}", f"127.0.0.1:{port}", code=FAILED)
    journal.wait("metrics-failed", STOCKD_ADDRESS=f"127.0.0.1:{port}")
    journaled_client("--no-metrics", "--no-reconnect", f"127.0.0.1:{port}", code=NO_CONNECTION)
    journal.wait("gave-up", STOCKD_TARGET=f"127.0.0.1:{port}")
    with ReferenceServer() as server:
        journaled_client(
            f"127.0.0.1:{server.port}",
            "--no-metrics",
            code=FAILED,
            prefix=["sh", "-c", 'exec "$@" >/dev/full', "sh"],
        )
    journal.wait("output-failed")


def meet_tls(journaled_client, journal, start_stockd, authority, tmp_path):
    """A server that wants a certificate says so when the client thinks that it is connected."""
    tls = server_tls(
        authority.server(), client_ca=authority.certificate, client_certificate="required"
    )
    stockd = start_stockd(grpc={"listen": TLS_LISTEN}, tls=tls)
    target = f"localhost:{stockd.port}"
    client = journaled_client("-v", "--insecure", "--no-metrics", target)
    journal.wait("unverified", STOCKD_TARGET=target)
    journal.wait("tls-broken")
    assert client.stop(signal.SIGTERM) == INTERRUPTED
    journaled_client("--cacert", tmp_path / "missing", target, code=USAGE)
    journal.wait("start-failed")


def lose_a_place(journaled_client, journal, start_stockd, tmp_path):
    """A position of another start; and a file for positions that is gone with its folder."""
    stockd = start_stockd(market={"interval": "10ms"})
    target = f"127.0.0.1:{stockd.port}"
    watch = ("watch", "--no-metrics", "--quiet", target)
    journaled_client(*watch, "--resume", "1:7", "--count", "1", code=DONE)
    gap = journal.wait("gap", STOCKD_TARGET=target)
    assert gap["PRIORITY"] == "4"
    assert gap["STOCKD_REASON"] == "epoch"
    folder = tmp_path / "positions"
    folder.mkdir()
    client = journaled_client(*watch, "--state", folder / "place")
    place = folder / "place"
    wait_until(lambda: place.exists() and place.stat().st_size, what="a position")
    shutil.rmtree(folder)
    lost = journal.wait("position-not-saved")
    assert lost["STOCKD_FILE"] == str(folder / "place")
    assert client.wait() == FAILED


def test_stock_client_sends_all_its_events_as_promised(
    journaled_client, journal, start_stockd, authority, tmp_path
):
    lose_a_server(journaled_client, journal)
    end_otherwise(journaled_client, journal)
    meet_tls(journaled_client, journal, start_stockd, authority, tmp_path)
    lose_a_place(journaled_client, journal, start_stockd, tmp_path)
    check_messages(journal, "stock-client", EVENTS)
    missing = events_of("stock-client") - NOT_CAUSED["stock-client"] - journal.events()
    assert not missing, missing
