"""
Sockets that the service manager holds: nobody is refused while stockd restarts, a client starts it,
ports below 1024 need no privilege, and several instances share a port.
"""

import subprocess
import time

import pytest
from clients import attempts, streams
from harness.certificates import Authority
from harness.wait import wait_until

RESTARTS = 4
SLOW_UNIT = "[Service]\nType=oneshot\nExecStart=/bin/sleep 2\n"
EXAMPLES = "/usr/share/doc/stockd/examples/etc"


@pytest.fixture
def with_sockets(service):
    """stockd with its ports held by its two socket units."""
    service.systemctl("stop", "stockd")
    service.systemctl("start", "stockd.socket", "stockd-metrics.socket")
    service.systemctl("start", "stockd")
    return service


def test_sockets_are_passed(with_sockets):
    box = with_sockets
    # The listening sockets are systemd's own, and stockd has made none beside them.
    shown = box.run("ss", "--no-header", "-ltnp").output
    lines = [line for line in shown.splitlines() if ":4444 " in line or ":2112 " in line]
    assert len(lines) == 2, shown
    for line in lines:
        assert '"systemd"' in line and '"stockd"' in line, shown
    assert box.metric("stockd_connections") == 0
    with streams(box, 2):
        assert box.metric("stockd_connections") == 2


def test_restart_refuses_nobody(with_sockets):
    """
    Against test_restart_without_socket_refuses, which shows that these attempts can be refused:
    with the sockets held each of them is answered, by one stockd or by the next, and calls are told
    UNAVAILABLE and succeed when they are made again, once each.
    """
    box = with_sockets
    with streams(box, 10, "--again") as load, attempts(box) as knocking:
        for number in range(1, RESTARTS + 1):
            seen = knocking.report()["results"]["answered"]
            pid = box.main_pid()
            box.systemctl("restart", "stockd")
            assert box.main_pid() != pid
            wait_until(lambda: load.report()["open"] == 10, 20, "all calls again")
            wait_until(
                lambda: knocking.report()["results"]["answered"] > seen + 20, 20, "answers"
            )
            assert sum(load.report()["ends"].values()) == 10 * number
        results = knocking.end()["results"]
        assert set(results) == {"answered"}, results
        assert results["answered"] > 20 * RESTARTS, results
        report = load.end()
        assert report["faults"] == [], report
        assert all("shut" in end.lower() for end in report["ends"]), report
        assert sum(report["ends"].values()) == 10 * RESTARTS, report


def test_waiting_clients_are_served_by_the_next(with_sockets):
    """Who connects while there is no stockd at all waits, and is not refused."""
    box = with_sockets
    # Held back long enough to be seen.
    box.write("/run/systemd/system/boot-test.service", SLOW_UNIT)
    box.drop_in("stockd.service", "[Unit]\nRequires=boot-test.service\nAfter=boot-test.service\n")
    box.systemctl("stop", "stockd")
    start = time.monotonic()
    with attempts(box) as knocking:
        assert knocking.report()["slowest_s"] > 1.5, time.monotonic() - start
        assert set(knocking.end()["results"]) == {"answered"}


def test_started_by_a_client(with_sockets):
    box = with_sockets
    box.systemctl("stop", "stockd")
    assert box.property("stockd", "ActiveState") == "inactive"
    assert box.property("stockd.socket", "SubState") == "listening"
    with streams(box, 1):
        assert box.property("stockd", "ActiveState") == "active"


def test_started_by_a_scrape(with_sockets):
    box = with_sockets
    box.systemctl("stop", "stockd")
    assert "stockd_connections 0" in box.fetch("http://127.0.0.1:2112/metrics")
    assert box.property("stockd", "ActiveState") == "active"


def test_port_below_1024(service):
    box = service
    box.systemctl("stop", "stockd")
    # stockd by itself may not: the control.
    box.configure("[grpc]\nlisten = [::]:443\n")
    since = box.now()
    # Inside the box any port may be free to all; then there is nothing to be refused.
    box.run("sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=1024")
    assert box.systemctl("start", "stockd", check=False).status != 0
    refused = box.wait_journal(since, "STOCKD_EVENT=listen-failed")
    assert "denied" in refused[0]["MESSAGE"], refused
    box.configure("")
    box.systemctl("reset-failed", "stockd")
    box.drop_in("stockd.socket", "[Socket]\nListenStream=\nListenStream=443\n")
    box.systemctl("start", "stockd.socket")
    with streams(box, 2, port=443) as load:
        assert load.report()["open"] == 2
    assert box.property("stockd", "ActiveState") == "active"


def test_socket_of_unknown_name(service):
    box = service
    box.systemctl("stop", "stockd")
    box.drop_in("stockd.socket", "[Socket]\nFileDescriptorName=prices\n")
    box.systemctl("start", "stockd.socket")
    since = box.now()
    assert box.systemctl("start", "stockd", check=False).status != 0
    box.wait_property("stockd", "ExecMainStatus", "78")
    said = box.wait_journal(since, "STOCKD_EVENT=configuration-fault")
    assert any("prices" in message["MESSAGE"] for message in said), said


# --- TLS, with the key as a credential ---


def give_certificate(box, authority):
    """The files that the example names, readable by root alone."""
    identity = authority.server()
    box.write("/etc/stockd/tls/server.pem", identity.certificate.read_text(), "600")
    box.write("/etc/stockd/tls/server.key", identity.key.read_text(), "600")


def take_example(box, *paths):
    """Copies what the package shows as examples to where it takes effect."""
    for path in paths:
        box.shell('install -D -m 644 "$1/$3" "$2/$3"', EXAMPLES, "/etc", path)
    box.systemctl("daemon-reload")


@pytest.fixture
def with_tls(service, tmp_path):
    authority = Authority(tmp_path)
    give_certificate(service, authority)
    take_example(service, "systemd/system/stockd.service.d/tls.conf", "stockd/stockd.conf.d/tls.conf")
    yield service, authority
    service.run("rm", "-r", "/etc/stockd/tls")
    service.run("rm", "-f", "/etc/systemd/system/stockd-tls.socket")


def test_tls_with_credentials(with_tls, tmp_path):
    box, authority = with_tls
    box.systemctl("restart", "stockd")
    with streams(box, 3, "--tls", authority.certificate, port=4443) as load, streams(box, 1):
        assert load.report()["open"] == 3
        # The check that comes before a reload sees the credentials, too.
        box.systemctl("reload", "stockd")
        assert load.report()["ends"] == {}
    other = tmp_path / "other"
    other.mkdir()
    stranger = Authority(other).certificate
    with streams(box, 1, "--tls", stranger, port=4443, begun=False) as load:
        wait_until(lambda: load.report()["ends"], 20, "the end of a call to a stranger")
        assert sum(load.report()["received"]) == 0
    # The control: without the credential stockd has no way to the key.
    box.run("rm", "/etc/systemd/system/stockd.service.d/tls.conf")
    box.systemctl("daemon-reload")
    assert box.systemctl("restart", "stockd", check=False).status != 0
    assert box.property("stockd", "ExecMainStatus") == "78"


def test_tls_through_a_socket(with_tls):
    box, authority = with_tls
    take_example(box, "systemd/system/stockd-tls.socket")
    box.systemctl("stop", "stockd")
    box.systemctl("start", "stockd.socket", "stockd-tls.socket")
    try:
        with streams(box, 2, "--tls", authority.certificate, port=4443) as secure:
            with streams(box, 2) as plain:
                assert secure.report()["open"] == 2 and plain.report()["open"] == 2
    finally:
        box.systemctl("stop", "stockd-tls.socket", check=False)


# --- instances ---


def test_instances_share_a_port(service):
    box = service
    box.systemctl("stop", "stockd")
    box.configure("[stream]\nticker = AAPL\n[log]\nlevel = debug\n", instance="2")
    box.systemctl("start", "stockd@1", "stockd@2")
    for instance in (1, 2):
        assert box.property(f"stockd@{instance}", "ActiveState") == "active"
    with streams(box, 40):
        counts = [box.metric("stockd_connections", port=port) for port in (2121, 2122)]
        assert sum(counts) == 40 and min(counts) > 0, counts
        assert box.fetch("http://127.0.0.1:2112/metrics", check=False) is None
    # The drop-in of one is not the other's.
    one, two = (
        box.run("stockd", "--instance", number, "--dump-config").output for number in (1, 2)
    )
    assert "level = debug" in two and "level = debug" not in one
    assert box.journal("-u", "stockd@2", "PRIORITY=7")
    assert not box.journal("-u", "stockd@1", "PRIORITY=7")


def test_instances_restart_in_turn(service):
    """With both ports held, restarting one after the other refuses nobody."""
    box = service
    box.systemctl("stop", "stockd")
    box.systemctl("start", "stockd@1", "stockd@2")
    with attempts(box) as knocking:
        for instance in (1, 2, 1, 2):
            seen = knocking.report()["results"]["answered"]
            box.systemctl("restart", f"stockd@{instance}")
            wait_until(
                lambda: knocking.report()["results"]["answered"] > seen + 20, 20, "answers"
            )
        assert set(knocking.end()["results"]) == {"answered"}


# --- clients as services ---


def test_clients_as_services(service):
    box = service
    box.systemctl("start", "stock-client@fast", "stock-client@slow")
    for port in (2113, 2114):
        wait_until(
            lambda port=port: (box.fetch(f"http://127.0.0.1:{port}/metrics", check=False) or ""),
            20,
            f"metrics on port {port}",
        )
    def counts():
        return [box.metric("stock_updates_received_total", port=port) for port in (2113, 2114)]

    first = counts()
    wait_until(lambda: counts()[0] >= first[0] + 30, 30, "updates for the fast client")
    fast, slow = (new - old for new, old in zip(counts(), first))
    assert fast > 3 * max(slow, 1), (fast, slow)
    assert box.metric("stockd_connections") == 2
    # stockd goes and comes back: so do they, the slow one when it is through with what it has.
    pids = [box.main_pid(f"stock-client@{name}") for name in ("fast", "slow")]
    box.systemctl("restart", "stockd")
    again = counts()[0]
    wait_until(lambda: counts()[0] >= again + 30, 30, "further updates for the fast client")
    assert box.metric("stockd_streams") >= 1
    assert pids == [box.main_pid(f"stock-client@{name}") for name in ("fast", "slow")]
    box.systemctl("stop", "stock-client@fast", "stock-client@slow")
    for name in ("fast", "slow"):
        assert box.property(f"stock-client@{name}", "ActiveState") == "inactive"
        assert box.property(f"stock-client@{name}", "Result") == "success"


def test_client_without_options_file(service):
    failed = service.systemctl("start", "stock-client@nobody", check=False)
    assert failed.status != 0
    service.systemctl("stop", "stock-client@nobody")


def test_unused(service):
    """The sockets are for those who want them: after the installation they are closed."""
    enabled = subprocess.run(
        service.command("systemctl", "is-enabled", "stockd.socket", "stockd-metrics.socket"),
        capture_output=True,
        text=True,
    ).stdout.split()
    assert enabled == ["disabled", "disabled"]
