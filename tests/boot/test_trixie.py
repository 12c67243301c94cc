"""
The next Debian: the packages are built there, against its libraries, and boot there, under a
service manager that has ways of its own: it knows Type=notify-reload, judges sandboxes anew, and
runs the programs with a libc that may make other system calls.
"""

import re
import subprocess

import packages
import pytest
import roots
from box import Box
from clients import attempts, streams
from conftest import REPOSITORY, start_afresh
from harness.certificates import Authority
from harness.wait import wait_until
from stall import stalled
from test_service import (
    all_alive,
    identities,
    reload_is_waited_for,
    stays_failed,
    watchdog_bites,
)
from test_sockets import give_certificate, take_example

NAMES = ("stockd", "stock-client", "stockd-observability")

# Exposure of a service is counted in tenths here: 1.0.
EXPOSURE_MAX = 10

# Until the end of its input; "read" has a status above 128 when its time is over.
DISTURB = 'while kill -HUP "$1" && { read -rt 0.01; [[ $? -gt 128 ]]; }; do :; done'


@pytest.fixture(scope="module")
def machine(prepared, log_folder, tmp_path_factory):
    built = prepared.trixie.result()
    root = roots.root("trixie", built.dependencies())
    repository = packages.repository(tmp_path_factory.mktemp("trixie"), built)
    with Box(root, "trixie", log_folder, {REPOSITORY: repository}) as made:
        made.add_repository(REPOSITORY)
        made.apt("install", *NAMES)
        made.wait_property("stockd", "ActiveState", "active")
        yield made


@pytest.fixture
def trixie(machine):
    """stockd as it was installed."""
    start_afresh(machine)
    return machine


def ticker(box):
    """That of a call that is made now."""
    words = ("--count", "1", "--output", "csv", "--no-metrics", "--no-reconnect", "127.0.0.1:4444")
    printed = box.run("stock-client", *words).output
    found = re.search(r"\b(AAPL|NEW[0-9]*)\b", printed)
    assert found, printed
    return found.group(1)


# --- started ---


def test_started(trixie):
    assert int(trixie.run("systemctl", "--version").output.split()[1]) >= 253
    assert trixie.property("stockd", "Type") == "notify-reload"
    assert trixie.property("stockd@1", "Type") == "notify-reload"
    assert trixie.property("stockd", "ActiveState") == "active"
    for name in NAMES:
        assert trixie.run("dpkg", "--verify", name).output == ""
    with streams(trixie, 3) as load:
        trixie.wait_property(
            "stockd",
            "StatusText",
            lambda text: re.match(
                r"3 streams on 3 connections, 0 blocked, [1-9][0-9.]* updates/s$", text
            ),
        )
        assert load.end()["faults"] == []


def test_manager_has_no_complaint(trixie):
    """Of no unit, and of no setting in it: what an earlier manager took may be obsolete here."""
    units = trixie.shell(
        "dpkg -L stockd stock-client | grep -E '^/usr/lib/systemd/system/[^/]+\\.[a-z]+$'"
    ).output.split()
    assert len(units) >= 7, units
    instances = [unit.replace("@.", "@1.") for unit in units]
    checked = trixie.run(
        "systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", *instances, check=False
    )
    assert checked.status == 0 and checked.errors == "", checked
    trixie.systemctl("daemon-reload")
    loud = trixie.journal("_PID=1", "PRIORITY=4", "PRIORITY=3")
    assert not [said["MESSAGE"] for said in loud if "/system/stock" in said["MESSAGE"]]


def test_journal_explains(trixie):
    trixie.systemctl("restart", "stockd")
    explained = trixie.run("journalctl", "-x", "-u", "stockd", "STOCKD_EVENT=ready").output
    assert "Subject: stockd is ready" in explained, explained
    assert "Documentation: man:stockd(8)" in explained
    # With what is special about this one.
    listening = trixie.run("journalctl", "-x", "-u", "stockd", "STOCKD_EVENT=listening").output
    assert "Subject: stockd listens on [::]:4444" in listening, listening
    for event, identity in identities().items():
        shown = trixie.run("journalctl", "--dump-catalog", identity, check=False).output
        assert "Subject: " in shown, f"{event} is not in the catalog"


# --- reload ---


def test_reload(trixie):
    """When systemctl comes back the new configuration is in force, and no call was lost."""
    pid = trixie.main_pid()
    since = trixie.now()
    with streams(trixie, 10) as load:
        for name in ("NEW1", "NEW2", "NEW3", "AAPL"):
            trixie.configure(f"[stream]\nticker = {name}\n")
            trixie.systemctl("reload", "stockd")
            assert ticker(trixie) == name
            assert trixie.property("stockd", "SubState") == "running"
            all_alive(load, 10)
        # Each of the ten has checked that its own ticker is that of its beginning.
        assert load.end()["faults"] == []
    assert trixie.main_pid() == pid
    assert len(trixie.wait_journal(since, "STOCKD_EVENT=reloaded", f"_PID={pid}", count=4)) == 4
    explained = trixie.run("journalctl", "-x", "-u", "stockd", "STOCKD_EVENT=reloaded").output
    assert "Subject: stockd has reloaded its configuration" in explained, explained


def test_reload_is_waited_for(trixie):
    reload_is_waited_for(trixie, "reload-notify")


def test_signal_is_waited_for(trixie):
    """
    What makes notify-reload: after its signal the manager waits for stockd's word that it has begun
    and that it is done. It is seen in a stockd that cannot say so yet, and without ExecReload=.
    """
    trixie.drop_in("stockd.service", "[Service]\nExecReload=\nReloadSignal=SIGHUP\n")
    trixie.configure("[stream]\nticker = NEW\n")
    pid = trixie.main_pid()
    with streams(trixie, 10) as load:
        since = trixie.now()
        with stalled(trixie, pid):
            reload = subprocess.Popen(trixie.command("systemctl", "reload", "stockd"))
            trixie.wait_property("stockd", "SubState", "reload-signal")
            assert reload.poll() is None
            assert trixie.property("stockd", "ActiveState") == "reloading"
            assert not trixie.journal(since, "STOCKD_EVENT=reloaded")
        assert reload.wait(20) == 0
        assert ticker(trixie) == "NEW"
        assert trixie.property("stockd", "SubState") == "running"
        all_alive(load, 10)
    assert trixie.main_pid() == pid


def test_bad_reload(trixie):
    """It fails, says why, and nothing changes, not even what was good in it."""
    pid = trixie.main_pid()
    with streams(trixie, 10) as load:
        since = trixie.now()
        trixie.configure("[stream]\nticker = NEW\ninterval = soon\n")
        refused = trixie.systemctl("reload", "stockd", check=False)
        assert refused.status != 0 and "stockd.service" in refused.errors, refused
        faults = trixie.wait_journal(since, "STOCKD_EVENT=configuration-fault")
        assert any("stream.interval" in fault["MESSAGE"] for fault in faults), faults
        explained = trixie.run(
            "journalctl", "-x", "-u", "stockd", "STOCKD_EVENT=configuration-fault"
        ).output
        assert "Subject: The configuration of stockd is wrong" in explained, explained
        all_alive(load, 10)
        assert trixie.main_pid() == pid
        assert trixie.property("stockd", "SubState") == "running"
        assert ticker(trixie) == "AAPL"
        # And then a good one.
        trixie.configure("[stream]\nticker = NEW\n")
        trixie.systemctl("reload", "stockd")
        assert ticker(trixie) == "NEW"
        all_alive(load, 10)
        assert load.end()["faults"] == []


def test_reloads_by_hand_do_not_confuse_the_manager(trixie):
    """Reloads that it did not ask for begin and end while it waits for the one that it did."""
    pid = trixie.main_pid()
    disturber = subprocess.Popen(
        trixie.command("bash", "-c", DISTURB, "disturb", pid), stdin=subprocess.PIPE
    )
    try:
        with streams(trixie, 5) as load:
            for number in range(4):
                trixie.configure(f"[stream]\nticker = NEW{number}\n")
                trixie.systemctl("reload", "stockd")
                assert ticker(trixie) == f"NEW{number}"
            assert disturber.poll() is None
            all_alive(load, 5)
    finally:
        disturber.stdin.close()
        disturber.wait(10)
    trixie.wait_property("stockd", "SubState", "running")
    assert trixie.main_pid() == pid


# --- restart, stop, failures ---


def test_restart_with_sockets(trixie):
    trixie.systemctl("stop", "stockd")
    trixie.systemctl("start", "stockd.socket", "stockd-metrics.socket")
    trixie.systemctl("start", "stockd")
    with streams(trixie, 5, "--again") as load, attempts(trixie) as knocking:
        for number in (1, 2):
            seen = knocking.report()["results"]["answered"]
            trixie.systemctl("restart", "stockd")
            wait_until(lambda: load.report()["open"] == 5, 20, "all calls again")
            wait_until(lambda: knocking.report()["results"]["answered"] > seen + 20, 20, "answers")
            assert sum(load.report()["ends"].values()) == 5 * number
        # With the ports held a reload is what it was.
        pid = trixie.main_pid()
        trixie.systemctl("reload", "stockd")
        assert trixie.main_pid() == pid
        results = knocking.end()["results"]
        assert set(results) == {"answered"}, results
        assert load.end()["faults"] == []
        assert sum(load.end()["ends"].values()) == 10


def test_stop(trixie):
    since = trixie.now()
    with streams(trixie, 5) as load:
        trixie.systemctl("stop", "stockd")
        wait_until(lambda: sum(load.report()["ends"].values()) == 5, 20, "the end of all calls")
        report = load.end()
        assert all(end.startswith("UNAVAILABLE") for end in report["ends"]), report
        assert not any("refused" in end for end in report["ends"]), report
    assert trixie.property("stockd", "Result") == "success"
    assert trixie.property("stockd", "ExecMainStatus") == "0"
    stopped = trixie.wait_journal(since, "STOCKD_EVENT=stopped")
    assert int(stopped[0]["STOCKD_CALLS"]) == 5
    assert trixie.fetch("http://127.0.0.1:2112/metrics", check=False) is None


def test_watchdog(trixie):
    watchdog_bites(trixie)


def test_wrong_configuration(trixie):
    trixie.systemctl("stop", "stockd")
    trixie.configure("[stream]\nintervall = 1s\n")
    assert trixie.systemctl("start", "stockd", check=False).status != 0
    stays_failed(trixie, 78)


# --- in its sandbox ---


def test_instances_and_clients(trixie):
    """All services run in their sandboxes, with what the libraries here ask of the kernel."""
    trixie.systemctl("stop", "stockd")
    trixie.systemctl("start", "stockd@1", "stockd@2")
    with streams(trixie, 40):
        counts = [trixie.metric("stockd_connections", port=port) for port in (2121, 2122)]
        assert sum(counts) == 40 and min(counts) > 0, counts
    trixie.systemctl("start", "stock-client@fast")
    wait_until(
        lambda: trixie.fetch("http://127.0.0.1:2113/metrics", check=False), 20, "client's metrics"
    )
    wait_until(
        lambda: trixie.metric("stock_updates_received_total", port=2113) > 20, 20, "updates"
    )
    trixie.systemctl("stop", "stock-client@fast")
    assert trixie.property("stock-client@fast", "Result") == "success"


def test_tls(trixie, tmp_path):
    """The example with credentials, which the check before a reload sees, too."""
    authority = Authority(tmp_path)
    give_certificate(trixie, authority)
    for example in ("systemd/system/stockd.service.d/tls.conf", "stockd/stockd.conf.d/tls.conf"):
        take_example(trixie, example)
    try:
        trixie.systemctl("restart", "stockd")
        with streams(trixie, 3, "--tls", authority.certificate, port=4443) as load:
            trixie.systemctl("reload", "stockd")
            all_alive(load, 3)
    finally:
        trixie.run("rm", "-r", "/etc/stockd/tls")


@pytest.mark.parametrize("unit", ["stockd", "stockd@1", "stock-client@fast"])
def test_exposure(trixie, unit):
    def judge(threshold):
        return trixie.run(
            "systemd-analyze",
            "security",
            "--no-pager",
            f"--threshold={threshold}",
            f"{unit}.service",
            check=False,
        )

    judged = judge(EXPOSURE_MAX)
    overall = re.search(r"Overall exposure level.*: ([0-9.]+)", judged.output)
    assert overall, judged
    assert judged.status == 0, judged.output[-3000:]
    assert float(overall.group(1)) * 10 <= EXPOSURE_MAX
    # The control: the threshold means something.
    assert judge(0).status != 0


# --- and away; the last, since it leaves nothing for others ---


def test_purge(trixie):
    trixie.apt("purge", *NAMES)
    trixie.systemctl("daemon-reload")
    left = trixie.shell(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /srv -o -path /tmp"
        " -o -path /var/log -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg"
        " -o -path /var/tmp \\) -prune -o -name 'stock*' -print"
    ).output
    assert left == ""
    for what in ("list-unit-files", "list-units"):
        shown = trixie.systemctl(what, "--all", "--no-legend", "stock*", check=False).output
        assert shown == ""
