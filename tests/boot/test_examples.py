"""
The examples that the package shows, each at the place where it says that it takes effect, and the
commands with which the manual pages and the README put them there.
"""

import re

import pytest
from clients import streams
from harness.wait import wait_until

EXAMPLES = "/usr/share/doc/stockd/examples/etc"
SYSTEM = "systemd/system"
DENIED, ALLOWED = "192.0.2.7", "10.1.2.3"
CLIENT_METRICS = 2115
TMPFILES = "tmpfiles.d/stockd-feed.conf"
FEED = "/run/stockd/feed"
SAMPLE = "/usr/share/stockd/samples/trades.csv"


@pytest.fixture
def take(service):
    """Copies examples to where they take effect; afterwards they are gone."""
    taken = []

    def copy(*names):
        for name in names:
            path = f"/etc/{SYSTEM}/{name}"
            taken.append(path)
            service.run("install", "-D", "-m", "644", f"{EXAMPLES}/{SYSTEM}/{name}", path)
        service.systemctl("daemon-reload")

    yield copy
    sockets = [path.rpartition("/")[2] for path in taken if path.endswith(".socket")]
    if sockets:
        service.systemctl("disable", "--now", "stockd.service", *sockets, check=False)
        service.systemctl("enable", "stockd.service")
    service.run("rm", "-f", *taken)
    service.systemctl("daemon-reload")


def test_a_socket_is_opened_only_while_stockd_does_not_run(service):
    """So the manual says to stop it first; and with its commands the socket is there."""
    box = service
    refused = box.systemctl("start", "stockd.socket", check=False)
    assert refused.status != 0
    assert box.property("stockd.socket", "ActiveState") != "active"
    box.systemctl("stop", "stockd")
    box.systemctl("enable", "--now", "stockd.socket", "stockd-metrics.socket")
    try:
        box.systemctl("start", "stockd")
        assert box.metric("stockd_connections") == 0
        # Both are systemd's.
        shown = box.run("ss", "--no-header", "-ltnp").output
        lines = [line for line in shown.splitlines() if ":4444 " in line or ":2112 " in line]
        assert len(lines) == 2 and all('"systemd"' in line for line in lines), shown
    finally:
        box.systemctl("disable", "--now", "stockd.socket", "stockd-metrics.socket")


def test_unix_socket(service, take):
    """It is for its group alone, is there beside the port, and clients in a sandbox find it, too."""
    box = service
    take("stockd-unix.socket")
    box.systemctl("stop", "stockd")
    box.systemctl("enable", "--now", "stockd.socket", "stockd-unix.socket")
    try:
        box.systemctl("start", "stockd")
        mode = box.run("stat", "--format=%a %U %G", "/run/stockd/grpc.sock").output.split()
        assert mode == ["660", "root", "users"]
        box.write(
            "/etc/stock-client/boot-test.env",
            f'OPTIONS="--quiet --metrics [::]:{CLIENT_METRICS} unix:/run/stockd/grpc.sock"\n',
        )
        box.drop_in("stock-client@boot-test.service", "[Service]\nSupplementaryGroups=users\n")
        box.systemctl("start", "stock-client@boot-test")

        def received():
            page = box.fetch(f"http://127.0.0.1:{CLIENT_METRICS}/metrics", check=False)
            return page and box.metric("stock_updates_received_total", port=CLIENT_METRICS)

        wait_until(lambda: (received() or 0) >= 10, 20, "updates over the Unix socket")
        with streams(box, 2):
            assert box.metric("stockd_connections") == 3
        # The control: the same client without the group.
        since = box.now()
        box.drop_in("stock-client@boot-test.service", "")
        box.systemctl("restart", "stock-client@boot-test")
        said = box.wait_journal(since, "-u", "stock-client@boot-test", "STOCKD_EVENT=retrying")
        assert "permission denied" in said[0]["STOCKD_ERROR"].lower(), said
        assert not received()
        # Its file stays while stockd restarts, and goes with its unit.
        box.systemctl("restart", "stockd")
        assert box.exists("/run/stockd/grpc.sock")
        box.systemctl("stop", "stockd-unix.socket", "stockd.socket", "stockd")
        assert not box.exists("/run/stockd/grpc.sock")
    finally:
        box.systemctl("disable", "--now", "stockd.socket")
        box.systemctl("stop", "stock-client@boot-test")


def test_unix_socket_without_its_unit(service):
    """In its sandbox stockd can make no such file, and says what to do instead."""
    box = service
    box.configure("[grpc]\nlisten = unix:/run/stockd/boot-test.sock\n")
    since = box.now()
    assert box.systemctl("restart", "stockd", check=False).status != 0
    assert box.property("stockd", "ExecMainStatus") == "69"
    [failed] = box.wait_journal(since, "-u", "stockd", "STOCKD_EVENT=listen-failed")
    assert failed["STOCKD_ADDRESS"] == "unix:/run/stockd/boot-test.sock"
    assert "a socket unit opens it, see stockd.conf(5)" in failed["STOCKD_ERROR"]


def test_addresses(service, take):
    """Who is not in the drop-in gets no answer at all."""
    box = service

    def answers(address):
        page = f"http://{address}:2112/metrics"
        return box.fetch(page, "--max-time", "2", check=False) is not None

    box.run("ip", "address", "add", f"{DENIED}/32", "dev", "lo")
    box.run("ip", "address", "add", f"{ALLOWED}/32", "dev", "lo")
    try:
        assert answers(DENIED) and answers(ALLOWED)
        take("stockd.service.d/addresses.conf")
        box.systemctl("restart", "stockd")
        wait_until(lambda: answers("127.0.0.1"), 10, "metrics on the loopback")
        assert answers(ALLOWED)
        assert not answers(DENIED)
    finally:
        box.run("ip", "address", "del", f"{DENIED}/32", "dev", "lo")
        box.run("ip", "address", "del", f"{ALLOWED}/32", "dev", "lo")


def test_more_connections(service, take):
    """With the drop-in stockd has descriptors for what is set, and without it says that it has not."""
    box = service
    limits = box.run("cat", "/proc/1/limits").output
    [of_machine] = re.findall(r"^Max open files +\d+ +(\d+)", limits, re.M)
    wanted = min(50128, int(of_machine)) - 128
    assert wanted > 10000
    box.configure(f"[grpc]\nmax_connections = {wanted}\n")
    since = box.now()
    box.systemctl("restart", "stockd")
    lowered = box.wait_journal(since, "-u", "stockd", "STOCKD_EVENT=limit-lowered")
    assert lowered[0]["STOCKD_VALUE"] == "10000"
    take("stockd.service.d/more-connections.conf")
    since = box.now()
    box.systemctl("restart", "stockd")
    box.wait_journal(since, "-u", "stockd", "STOCKD_EVENT=ready")
    assert not box.journal(since, "-u", "stockd", "STOCKD_EVENT=limit-lowered")
    assert box.property("stockd", "LimitNOFILE") == "50128"


def test_late_addresses(service, take):
    """An address that the machine gets late is there by the time that stockd is started."""
    box = service
    assert "network-online.target" not in box.property("stockd", "After").split()
    take("stockd.service.d/network.conf")
    for kind in ("After", "Wants"):
        assert "network-online.target" in box.property("stockd", kind).split()
    # The control of what it is for: without the address stockd ends, and is not started again.
    box.configure(f"[grpc]\nlisten = {DENIED}:4444\n")
    assert box.systemctl("restart", "stockd", check=False).status != 0
    assert box.property("stockd", "ExecMainStatus") == "69"
    assert box.property("stockd", "NRestarts") == "0"


def test_cpu(service, take):
    box = service
    box.systemctl("stop", "stockd")
    take("stockd@1.service.d/cpu.conf")
    box.systemctl("start", "stockd@1", "stockd@2")
    cpus = {
        number: box.shell(
            'grep Cpus_allowed_list "/proc/$1/status"', box.main_pid(f"stockd@{number}")
        ).output.split()[1]
        for number in (1, 2)
    }
    assert cpus[1] == "0"
    # The one beside it has what the machine gives to all.
    everybody = box.shell("grep Cpus_allowed_list /proc/1/status").output.split()[1]
    assert cpus[2] == everybody


QUOTE = '{"ticker": "AAPL", "price": 187.5}'


def test_feed_by_pipe(service, take):
    """A line that somebody writes into the pipe is an update; stockd reads it by its group alone."""
    box = service
    take("stockd.service.d/feed.conf")
    files = {name: f"/etc/{name}" for name in ("stockd/stockd.conf.d/feed.conf", TMPFILES)}
    for name, path in files.items():
        box.run("install", "-D", "-m", "644", f"{EXAMPLES}/{name}", path)
    try:
        box.run("systemd-tmpfiles", "--create", f"/etc/{TMPFILES}")
        mode = box.run("stat", "--format=%F %a %U %G", FEED).output.split()
        assert mode == ["fifo", "660", "root", "users"]
        box.systemctl("restart", "stockd")
        assert box.metric("stockd_market_updates_total") == 0
        box.shell('echo "$1" >"$2"', QUOTE, FEED)
        wait_until(lambda: box.metric("stockd_market_updates_total") == 1, 10, "the update")
        wait_until(
            lambda: box.metric("stockd_market_feed_state", state="gone") == 1, 10, "its end"
        )
        assert box.metric("stockd_market_feed_faults_total") == 0
        # The control: without the group.
        box.run("rm", f"/etc/{SYSTEM}/stockd.service.d/feed.conf")
        box.systemctl("daemon-reload")
        since = box.now()
        assert box.systemctl("restart", "stockd", check=False).status != 0
        assert box.property("stockd", "ExecMainStatus") == "78"
        [fault] = box.wait_journal(since, "-u", "stockd", "STOCKD_EVENT=configuration-fault")
        assert FEED in fault["MESSAGE"], fault
    finally:
        box.run("rm", "-f", FEED, *files.values())


def test_recording_in_the_sandbox(service):
    """One in /usr or /etc is read as it is; of /var the sandbox has nothing but what is given it."""
    box = service
    kept = "/var/lib/boot-test/trades.csv"
    given = "[Service]\nBindReadOnlyPaths=/var/lib/boot-test\n"

    def replay(path):
        box.configure(
            f"[market]\nfeed = replay\nreplay_file = {path}\nreplay_speed = 0\nreplay_loop = yes\n"
        )
        return box.systemctl("restart", "stockd", check=False).status == 0

    def plays():
        return wait_until(lambda: box.metric("stockd_market_updates_total") > 1000, 20, "updates")

    assert replay(SAMPLE) and plays()
    box.run("install", "-D", "-m", "644", SAMPLE, kept)
    try:
        assert not replay(kept)
        assert box.property("stockd", "ExecMainStatus") == "78"
        box.systemctl("reset-failed", "stockd")
        box.drop_in("stockd.service", given)
        assert replay(kept) and plays()
    finally:
        box.run("rm", "-r", "/var/lib/boot-test")
