"""
From one version to the next, with clients there; and what an administrator changed stays.

The order matters: each test goes on from where the one before left the machine.
"""

import re

import pytest
from box import Box
from clients import attempts, streams
from conftest import REPOSITORY
from harness.wait import wait_until
from packages import PREVIOUS

NAMES = ("stockd", "stock-client", "stockd-observability")


@pytest.fixture
def machine(bookworm, repository, log_folder):
    """With the previous version installed."""
    with Box(bookworm, "upgrade", log_folder, {REPOSITORY: repository}) as made:
        made.add_repository(REPOSITORY)
        made.apt("install", *(f"{name}={PREVIOUS}" for name in NAMES))
        made.wait_property("stockd", "ActiveState", "active")
        yield made


def version(box, name="stockd"):
    return box.run("dpkg-query", "-W", "-f", "${Version}", name).output


def upgrade(box):
    """As "apt upgrade" does it where nobody is there to be asked."""
    done = box.apt("-o", "Dpkg::Options::=--force-confold", "upgrade")
    for name in NAMES:
        assert version(box, name) != PREVIOUS, done.output


def test_upgrade_with_sockets_under_load(machine):
    """Nobody is refused, each call is told UNAVAILABLE once and succeeds when it is made again."""
    box = machine
    box.systemctl("stop", "stockd")
    box.systemctl("enable", "--now", "stockd.socket", "stockd-metrics.socket")
    with streams(box, 10, "--again") as load, attempts(box) as knocking:
        pid = box.main_pid()
        upgrade(box)
        assert box.main_pid() not in (0, pid)
        assert box.property("stockd", "ActiveState") == "active"
        wait_until(lambda: load.report()["open"] == 10, 20, "all calls again")
        results = knocking.end()["results"]
        assert set(results) == {"answered"}, results
        report = load.end()
        assert sum(report["ends"].values()) == 10 and report["faults"] == [], report
        assert all("shut" in end.lower() for end in report["ends"]), report
    # The sockets were there all the time, and are those of before.
    for unit in ("stockd.socket", "stockd-metrics.socket"):
        assert box.property(unit, "ActiveState") == "active"
        assert box.systemctl("is-enabled", unit).output == "enabled\n"


def test_upgrade_without_sockets_under_load(machine):
    """stockd is restarted once, and what runs is the new program."""
    box = machine
    box.systemctl("start", "stock-client@fast")
    client = box.main_pid("stock-client@fast")
    with streams(box, 10, "--again") as load:
        pid = box.main_pid()
        since = box.now()
        upgrade(box)
        assert box.main_pid() not in (0, pid)
        assert box.main_pid("stock-client@fast") not in (0, client)
        wait_until(lambda: load.report()["open"] == 10, 20, "all calls again")
        assert load.end()["faults"] == []
    assert len(box.journal(since, "STOCKD_EVENT=ready")) == 1
    executable = box.run("readlink", f"/proc/{box.main_pid()}/exe").output.strip()
    assert executable.endswith("/stockd"), executable  # and not "(deleted)"


def test_edited_configuration_is_kept(machine):
    box = machine
    box.write("/etc/stockd/stockd.conf", "[stream]\nticker = MINE\n")
    box.write("/etc/stock-client/fast.env", 'OPTIONS="--quiet localhost:4444"\n')
    box.configure("[stream]\ninterval = 40ms\n")
    upgrade(box)
    assert box.read("/etc/stockd/stockd.conf") == "[stream]\nticker = MINE\n"
    assert "ticker = MINE" in box.run("stockd", "--dump-config").output
    assert "interval = 40ms" in box.run("stockd", "--dump-config").output
    assert box.read("/etc/stock-client/fast.env") == 'OPTIONS="--quiet localhost:4444"\n'
    # What the new version would have is beside it.
    assert "[grpc]" in box.read("/etc/stockd/stockd.conf.dpkg-dist")
    box.apt("purge", *NAMES)
    assert not box.exists("/etc/stockd")


def test_unedited_configuration_is_replaced(machine):
    """The control: who changed nothing gets the new one."""
    box = machine
    assert "earlier version" in box.read("/etc/stockd/stockd.conf")
    upgrade(box)
    text = box.read("/etc/stockd/stockd.conf")
    assert "earlier version" not in text and re.search(r"^\[grpc\]$", text, re.MULTILINE)


def test_stopped_and_disabled_stays_so(machine):
    """An upgrade starts nothing that its administrator had stopped for good."""
    box = machine
    box.systemctl("disable", "--now", "stockd")
    upgrade(box)
    assert box.systemctl("is-enabled", "stockd", check=False).output == "disabled\n"
    box.systemctl("mask", "stockd")
    box.apt("install", "--reinstall", *NAMES)
    assert box.property("stockd", "ActiveState") == "inactive"


def test_wrong_configuration_does_not_break_dpkg(machine):
    """Whoever has a fault in the configuration can still upgrade, and mend it then."""
    box = machine
    box.configure("[stream]\ninterval = soon\n")
    done = box.apt("-o", "Dpkg::Options::=--force-confold", "upgrade", check=False)
    assert version(box) != PREVIOUS, done.output
    box.configure("")
    box.systemctl("reset-failed", "stockd", check=False)
    box.run("dpkg", "--configure", "--pending")
    box.systemctl("start", "stockd")
    assert box.run("dpkg-query", "-W", "-f", "${db:Status-Status}", "stockd").output == "installed"
