"""
The next Debian: the packages are built there, against its libraries, and boot there, where the
service manager itself asks for a reload and waits until it is done (Type=notify-reload).
"""

import packages
import pytest
import roots
from box import Box
from clients import attempts, streams
from conftest import REPOSITORY
from harness.wait import wait_until
from test_service import all_alive, stays_failed


@pytest.fixture(scope="module")
def trixie(prepared, log_folder, tmp_path_factory):
    built = prepared.trixie.result()
    root = roots.root("trixie", built.dependencies())
    repository = packages.repository(tmp_path_factory.mktemp("trixie"), built)
    with Box(root, "trixie", log_folder, {REPOSITORY: repository}) as made:
        made.add_repository(REPOSITORY)
        made.apt("install", "stockd", "stock-client", "stockd-observability")
        yield made


def test_started(trixie):
    assert int(trixie.run("systemctl", "--version").output.split()[1]) >= 253
    assert trixie.property("stockd", "Type") == "notify-reload"
    assert trixie.property("stockd", "ActiveState") == "active"
    with streams(trixie, 3):
        trixie.wait_property(
            "stockd", "StatusText", lambda text: text.startswith("3 streams on 3 connections")
        )
    explained = trixie.run("journalctl", "-x", "-u", "stockd", "STOCKD_EVENT=ready").output
    assert "Subject: stockd is ready" in explained


def test_reload(trixie):
    """When systemctl comes back the new configuration is in force, and no call was lost."""
    trixie.configure("[stream]\ninterval = 200ms\n")
    trixie.systemctl("restart", "stockd")
    pid = trixie.main_pid()
    with streams(trixie, 10) as load:
        since = trixie.now()
        trixie.configure("[stream]\ninterval = 1ms\n")
        trixie.systemctl("reload", "stockd")
        reloaded = trixie.journal(since, "STOCKD_EVENT=reloaded", f"_PID={pid}")
        assert len(reloaded) == 1, reloaded
        all_alive(load, 10)
        with streams(trixie, 1) as new:
            wait_until(lambda: sum(new.report()["received"]) > 300, 20, "300 updates")
        # The manager was told when it began and when it was over.
        said = trixie.journal(since, "UNIT=stockd.service")
        text = "\n".join(message["MESSAGE"] for message in said)
        assert "Reloading" in text and "Reloaded" in text, text
        assert trixie.main_pid() == pid
        assert load.end()["faults"] == []


def test_bad_reload(trixie):
    trixie.configure("")
    trixie.systemctl("reload", "stockd")
    pid = trixie.main_pid()
    with streams(trixie, 10) as load:
        since = trixie.now()
        trixie.configure("[stream]\ninterval = soon\n")
        refused = trixie.systemctl("reload", "stockd", check=False)
        assert refused.status != 0 and "stockd.service" in refused.errors, refused
        faults = trixie.wait_journal(since, "STOCKD_EVENT=configuration-fault")
        assert any("stream.interval" in fault["MESSAGE"] for fault in faults), faults
        all_alive(load, 10)
        assert trixie.main_pid() == pid
        assert trixie.property("stockd", "ActiveState") == "active"
        trixie.configure("")
        trixie.systemctl("reload", "stockd")
        all_alive(load, 10)


def test_restart_with_sockets(trixie):
    trixie.systemctl("stop", "stockd")
    trixie.systemctl("start", "stockd.socket", "stockd-metrics.socket")
    trixie.systemctl("start", "stockd")
    try:
        with streams(trixie, 5, "--again") as load, attempts(trixie) as knocking:
            for number in (1, 2):
                seen = knocking.report()["results"]["answered"]
                trixie.systemctl("restart", "stockd")
                wait_until(lambda: load.report()["open"] == 5, 20, "all calls again")
                wait_until(
                    lambda: knocking.report()["results"]["answered"] > seen + 20, 20, "answers"
                )
                assert sum(load.report()["ends"].values()) == 5 * number
            assert set(knocking.end()["results"]) == {"answered"}
            assert load.end()["faults"] == []
    finally:
        trixie.systemctl("stop", "stockd.socket", "stockd-metrics.socket")
        trixie.systemctl("restart", "stockd")


def test_wrong_configuration(trixie):
    trixie.systemctl("stop", "stockd")
    trixie.configure("[stream]\nintervall = 1s\n")
    assert trixie.systemctl("start", "stockd", check=False).status != 0
    stays_failed(trixie, 78)
    trixie.configure("")
    trixie.systemctl("start", "stockd")


def test_exposure(trixie):
    judged = trixie.run(
        "systemd-analyze", "security", "--no-pager", "--threshold=10", "stockd.service", check=False
    )
    assert judged.status == 0, judged.output[-3000:]
