"""
stockd.service as it is installed, which opens its ports by itself: what systemctl and journalctl
show of it, reloading, and what becomes of it when something goes wrong.
"""

import re
import subprocess
import time
from pathlib import Path

import pytest
from clients import attempts, streams
from harness.wait import wait_until
from stall import stalled

EVENTS = Path(__file__).resolve().parents[2] / "daemon" / "base" / "events.h"
HOLD_PORT = (
    "import socket,sys; s = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6,"
    " dualstack_ipv6=True); print('held', flush=True); sys.stdin.read()"
)


def identities():
    """{event: MESSAGE_ID}, of the program's own table."""
    table = re.findall(r'X\(\w+,\s*"([a-z-]+)",\s*"([0-9a-f]{32})"', EVENTS.read_text())
    assert len(table) > 10
    return dict(table)


def all_alive(load, count):
    """All its calls go on: none has ended, and each receives more than it has by now."""
    before = load.report()
    assert before["ends"] == {} and before["open"] == count, before

    def more():
        now = load.report()
        assert now["ends"] == {} and now["faults"] == [], now
        return all(new > old for new, old in zip(now["received"], before["received"]))

    return wait_until(more, 20, "further updates of every call")


# --- what is shown ---


def test_status_has_live_figures(service):
    service.wait_property("stockd", "StatusText", lambda text: text.startswith("0 streams"))
    with streams(service, 3):
        text = service.wait_property(
            "stockd",
            "StatusText",
            lambda text: re.match(
                r"3 streams on 3 connections, 0 blocked, [1-9][0-9.]* updates/s$", text
            ),
        )
        shown = service.systemctl("status", "--no-pager", "stockd").output
        assert re.search(r'Status: "3 streams on 3 connections', shown), (text, shown)
    service.wait_property("stockd", "StatusText", lambda text: text.startswith("0 streams"))


def test_started_means_ready(service):
    """When systemctl comes back the very next attempt to connect must find stockd there."""
    for _ in range(3):
        service.systemctl("restart", "stockd")
        done = subprocess.run(
            service.network_command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/4444"),
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
    assert service.property("stockd", "Type") == "notify"


def test_journal_has_fields(service):
    ids = identities()
    since = service.now()
    service.systemctl("restart", "stockd")
    with streams(service, 1):
        pass
    service.systemctl("stop", "stockd")
    service.wait_journal(since, "STOCKD_EVENT=stopped")
    messages = service.journal(since, "_SYSTEMD_UNIT=stockd.service")
    named = {}
    for message in messages:
        if message["SYSLOG_IDENTIFIER"] == "stockd":
            assert message["MESSAGE_ID"] == ids[message["STOCKD_EVENT"]], message
            named.setdefault(message["STOCKD_EVENT"], []).append(message)
    for event in ("starting", "ready", "listening", "stopping", "ending", "stopped"):
        assert event in named, (event, sorted(named))
    assert named["starting"][-1]["STOCKD_VERSION"] == "0.3.0"
    addresses = {m["STOCKD_ADDRESS"] for m in named["listening"]}
    assert addresses == {"[::]:4444", "[::]:2112"}
    assert int(named["stopped"][-1]["STOCKD_CALLS"]) == 1
    assert int(named["stopped"][-1]["STOCKD_UPDATES_SENT"]) >= 1
    assert {m["PRIORITY"] for m in named["listening"]} == {"6"}
    assert named["ready"][-1]["_TRANSPORT"] == "journal"


def test_journal_finds_and_explains(service):
    found = service.run("journalctl", "--quiet", "STOCKD_EVENT=ready").output
    assert "stockd" in found and "listening" not in found
    assert service.run("journalctl", "--quiet", "STOCKD_EVENT=nonsense", check=False).output == ""
    explained = service.run("journalctl", "-x", "-u", "stockd", "STOCKD_EVENT=ready").output
    assert "Subject: stockd is ready" in explained, explained
    assert "Documentation: man:stockd(8)" in explained
    listening = service.run("journalctl", "-x", "-u", "stockd", "STOCKD_EVENT=listening").output
    assert "Subject: stockd listens on [::]:4444" in listening, listening


def test_every_event_is_explained(service):
    """The catalog that journalctl uses, not the file that it was made of, has all of them."""
    for event, identity in identities().items():
        shown = service.run("journalctl", "--dump-catalog", identity, check=False)
        assert "Subject: " in shown.output, f"{event} is not in the catalog: {shown}"
        assert "Defined-By: stock" in shown.output, shown.output


def test_whole_configuration_is_shown(service):
    service.configure("[stream]\ninterval = 70ms\n")
    service.write("/run/stockd/stockd.conf.d/boot-test.conf", "[stream]\ninterval = 10ms\n")
    service.write("/usr/lib/stockd/stockd.conf.d/early.conf", "[stream]\nticker = EARLY\n")
    try:
        shown = service.run("systemd-analyze", "cat-config", "stockd/stockd.conf").output
        files = [line[2:] for line in shown.splitlines() if re.match(r"# /.*\.conf$", line)]
        assert files == [
            "/etc/stockd/stockd.conf",
            "/etc/stockd/stockd.conf.d/boot-test.conf",
            "/usr/lib/stockd/stockd.conf.d/early.conf",
        ], shown
        dumped = service.run("stockd", "--dump-config").output
        assert "interval = 70ms" in dumped and "ticker = EARLY" in dumped, dumped
    finally:
        service.run("rm", "-r", "/run/stockd", "/usr/lib/stockd/stockd.conf.d")


# --- reload ---


def test_reload_under_load(service):
    """New calls get the new values, open ones keep theirs, and none is lost."""
    service.configure("[stream]\ninterval = 200ms\n")
    service.systemctl("restart", "stockd")
    pid = service.main_pid()
    since = service.now()
    with streams(service, 20) as load:
        all_alive(load, 20)
        service.configure("[stream]\ninterval = 1ms\n[log]\nlevel = debug\n[metrics]\nlisten = :9\n")
        service.systemctl("reload", "stockd")
        reloaded = service.wait_journal(since, "STOCKD_EVENT=reloaded")
        assert reloaded
        needs = service.wait_journal(since, "STOCKD_EVENT=restart-needed")
        assert any("metrics.listen" in message["MESSAGE"] for message in needs), needs
        all_alive(load, 20)
        before = load.report()
        with streams(service, 1) as new:
            wait_until(lambda: sum(new.report()["received"]) > 500, 20, "500 updates")
            after = load.report()
            # 1 ms against 200: each of the old calls has had a small part of that.
            for old, now in zip(before["received"], after["received"]):
                assert now - old < 250, (before, after)
        assert service.wait_journal(since, "PRIORITY=7", "_COMM=stockd")
        assert service.main_pid() == pid
        assert service.property("stockd", "NRestarts") == "0"
        assert service.metrics().sum("stockd_connections") >= 20  # still on 2112
        assert load.end()["faults"] == []


def reload_is_waited_for(box, state):
    """Not only the check before it: systemctl comes back when stockd is done, however late."""
    box.configure("[stream]\nticker = NEW\n")
    pid = box.main_pid()
    with streams(box, 10) as load:
        since = box.now()
        with stalled(box, pid):
            reload = subprocess.Popen(box.command("systemctl", "reload", "stockd"))
            # The check has passed, and the signal waits for stockd.
            box.wait_property("stockd", "SubState", state)
            box.wait_property("stockd", "ControlPID", "0")
            assert reload.poll() is None
            assert not box.journal(since, "STOCKD_EVENT=reloaded")
        assert reload.wait(20) == 0
        assert box.property("stockd", "SubState") == "running"
        # The configuration is read once.
        assert len(box.wait_journal(since, "STOCKD_EVENT=reloaded", f"_PID={pid}")) == 1
        all_alive(load, 10)
    assert box.main_pid() == pid


def test_reload_is_waited_for(service):
    reload_is_waited_for(service, "reload")


BAD = "[stream]\ninterval = soon\n[grpc]\nmax_streams = -3\n"


def test_bad_reload_changes_nothing(service):
    pid = service.main_pid()
    before = service.run("stockd", "--dump-config").output
    since = service.now()
    with streams(service, 20) as load:
        service.configure("[log]\nlevel = debug\n" + BAD)
        refused = service.systemctl("reload", "stockd", check=False)
        assert refused.status != 0
        assert "stockd.service" in refused.errors and "failed" in refused.errors, refused
        faults = service.wait_journal(
            since, "STOCKD_EVENT=configuration-fault", count=2
        )
        text = "\n".join(fault["MESSAGE"] for fault in faults)
        assert "stream.interval" in text and "grpc.max_streams" in text, text
        all_alive(load, 20)
        assert service.systemctl("is-active", "stockd").output == "active\n"
        assert service.main_pid() == pid
        # The good part of a bad configuration has no effect either.
        assert not service.journal(since, "PRIORITY=7", f"_PID={pid}")
        with streams(service, 1) as new:
            all_alive(new, 1)
        assert load.end()["faults"] == []
    service.configure("")
    assert service.run("stockd", "--dump-config").output == before
    service.systemctl("reload", "stockd")


def test_bad_sighup_changes_nothing(service):
    """Who sends the signal by hand goes past the check; stockd itself refuses."""
    pid = service.main_pid()
    since = service.now()
    with streams(service, 5) as load:
        service.configure(BAD)
        service.run("kill", "-HUP", pid)
        refused = service.wait_journal(since, "STOCKD_EVENT=reload-refused")
        assert refused[0]["_PID"] == str(pid)
        status = service.wait_property(
            "stockd", "StatusText", lambda text: "last reload failed" in text
        )
        assert status.startswith("5 streams"), status
        all_alive(load, 5)
        service.configure("")
        service.run("kill", "-HUP", pid)
        service.wait_journal(since, "STOCKD_EVENT=reloaded")
        service.wait_property("stockd", "StatusText", lambda text: "failed" not in text)
        all_alive(load, 5)


# --- restart, stop ---


def test_restart_without_socket_refuses(service):
    """
    The negative control of test_sockets: while nobody holds the port, clients are refused. All
    calls are told UNAVAILABLE, and none is cut off without a word.
    """
    with streams(service, 10, "--again") as load, attempts(service) as knocking:
        for _ in range(3):
            service.systemctl("stop", "stockd")
            wait_until(lambda: knocking.report()["results"].get("refused"), 10, "a refusal")
            service.systemctl("start", "stockd")
            wait_until(lambda: load.report()["open"] == 10, 20, "all calls again")
        results = knocking.end()["results"]
        assert results["refused"] > 0 and results["answered"] > 0, results
        report = load.end()
        refused = sum(n for end, n in report["ends"].items() if "refused" in end)
        told = sum(n for end, n in report["ends"].items() if "shut" in end.lower())
        assert report["faults"] == [] and refused > 0, report
        assert told + refused == sum(report["ends"].values()), report
        assert told >= 30, report


def test_drain_outlasts_the_stop_timeout(service):
    service.configure("[grpc]\ndrain_timeout = 5s\n")
    service.drop_in("stockd.service", "[Service]\nTimeoutStopSec=2s\n")
    service.systemctl("restart", "stockd")
    with streams(service, 2) as load:
        start = time.monotonic()
        service.systemctl("stop", "--no-block", "stockd")
        text = service.wait_property("stockd", "StatusText", lambda text: "draining" in text)
        assert text.startswith("draining: 2 streams"), text
        all_alive(load, 2)
        service.wait_property("stockd", "ActiveState", "inactive", 20)
        took = time.monotonic() - start
        assert took > 4, f"stopped after {took:.1f} s: it did not drain"
        assert service.property("stockd", "Result") == "success"
        assert service.property("stockd", "ExecMainStatus") == "0"


def test_without_extension_a_drain_is_cut_short(service):
    """The control: nobody listens to what stockd says, and so its time is not extended."""
    service.configure("[grpc]\ndrain_timeout = 8s\n")
    service.drop_in(
        "stockd.service",
        "[Service]\nType=exec\nNotifyAccess=none\nWatchdogSec=0\nTimeoutStopSec=2s\n",
    )
    service.systemctl("restart", "stockd")
    wait_until(lambda: service.fetch("http://127.0.0.1:2112/metrics", check=False), 10, "metrics")
    with streams(service, 2):
        service.systemctl("stop", "stockd")
        assert service.property("stockd", "Result") == "timeout"


# --- failures ---


def watchdog_bites(box):
    box.drop_in("stockd.service", "[Service]\nWatchdogSec=1s\nTimeoutAbortSec=1s\n")
    box.systemctl("restart", "stockd")
    pid = box.main_pid()
    since = box.now()
    with streams(box, 2) as load:
        # First the control: one that is well is left alone for several times that long.
        start = time.monotonic()
        while time.monotonic() - start < 3:
            all_alive(load, 2)
        assert box.main_pid() == pid
    box.run("kill", "-STOP", pid)
    box.wait_property("stockd", "NRestarts", "1", 20)
    box.wait_property("stockd", "ActiveState", "active")
    assert box.main_pid() != pid
    killed = box.journal(since, "UNIT=stockd.service")
    assert any("Watchdog timeout" in message["MESSAGE"] for message in killed), killed
    with streams(box, 2):
        pass


def test_watchdog(service):
    watchdog_bites(service)


def test_killed(service):
    pid = service.main_pid()
    with streams(service, 2, "--again") as load:
        service.run("kill", "-KILL", pid)
        service.wait_property("stockd", "NRestarts", "1")
        service.wait_property("stockd", "ActiveState", "active")
        assert service.main_pid() != pid
        wait_until(lambda: load.report()["open"] == 2, 20, "both calls again")


def stays_failed(box, status):
    """It has failed with this status, and is not tried again: not while RestartSec passes twice."""
    box.wait_property("stockd", "ActiveState", "failed")
    assert box.property("stockd", "ExecMainStatus") == str(status)
    pause = box.property("stockd", "RestartUSec")
    assert pause == "1s", pause
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert box.property("stockd", "ActiveState") == "failed"
        assert box.property("stockd", "NRestarts") == "0"
        time.sleep(0.1)


def test_port_taken(service):
    service.systemctl("stop", "stockd")
    holder = service.in_network(
        "/usr/bin/python3", "-c", HOLD_PORT, 4444, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    since = service.now()
    try:
        assert service.systemctl("start", "stockd", check=False).status != 0
        stays_failed(service, 69)
        said = service.journal(since, "STOCKD_EVENT=listen-failed")
        assert len(said) == 1, said
        assert "[::]:4444" in said[0]["MESSAGE"] and "in use" in said[0]["MESSAGE"], said
        assert said[0]["PRIORITY"] == "3"
    finally:
        holder.stdin.close()
        holder.wait(10)
    service.systemctl("start", "stockd")


@pytest.mark.parametrize(
    "fault, status, word",
    [
        ("[grpc]\nlisten = nowhere\n", 78, "grpc.listen"),
        ("[stream]\nintervall = 1s\n", 78, "intervall"),
        ("[grpc]\nlisten = [::]:4444 tls=yes\n", 78, "tls.certificate"),
    ],
)
def test_wrong_configuration(service, fault, status, word):
    service.systemctl("stop", "stockd")
    service.configure(fault)
    since = service.now()
    assert service.systemctl("start", "stockd", check=False).status != 0
    stays_failed(service, status)
    # Of the unit, too: journald knew the process before it was gone.
    said = service.wait_journal(since, "-u", "stockd", "STOCKD_EVENT=configuration-fault")
    assert any(word in message["MESSAGE"] for message in said), said


# poll(), or ppoll() where there is no other.
WAITS = """
systemctl kill -s STOP systemd-journald
systemctl start --no-block "$1"
until grep -Eqs '^(7|73) ' "/proc/$(pidof "$2")/syscall"; do :; done
systemctl kill -s CONT systemd-journald
"""


@pytest.mark.parametrize(
    "unit, program, event",
    [
        ("stockd", "stockd", "configuration-fault"),
        ("stock-client@wrong", "stock-client", "start-failed"),
    ],
)
def test_last_words(service, unit, program, event):
    """However late journald reads what a process said last: it is of the unit."""
    service.systemctl("stop", "stockd")
    service.configure(BAD)
    service.write("/etc/stock-client/wrong.env", "OPTIONS=--cacert /nowhere\n")
    since = service.now()
    try:
        service.run("timeout", "20", "bash", "-ec", WAITS, "waits", unit, program)
    finally:
        service.systemctl("kill", "-s", "CONT", "systemd-journald")
        service.systemctl("stop", unit)
        service.run("rm", "-f", "/etc/stock-client/wrong.env")
    service.wait_journal(since, "-u", unit, f"STOCKD_EVENT={event}")


def test_wrong_options(service):
    service.drop_in("stockd.service", "[Service]\nExecStart=\nExecStart=/usr/sbin/stockd --what\n")
    service.systemctl("restart", "stockd", check=False)
    stays_failed(service, 2)


def test_other_failures_are_tried_again(service):
    """The control of the three before: an exit status of another kind is followed by a restart."""
    service.drop_in(
        "stockd.service", "[Service]\nType=exec\nExecStart=\nExecStart=+/bin/sh -c 'exit 1'\n"
    )
    service.systemctl("restart", "stockd", check=False)
    service.wait_property("stockd", "NRestarts", lambda count: int(count) >= 2)
