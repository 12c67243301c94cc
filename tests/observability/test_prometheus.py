"""
What is installed for a Prometheus that people already have, used by one: Debian's, and the current
release, which is built from its Go module. The files are made for the ports that stockd and
stock-client have by default; each test copies them with the ports and paths of its own, and changes
nothing else.
"""

import re
import shutil
import socket
import subprocess

import pytest

from harness.certificates import Authority, replace_file
from harness.process import SOURCE
from harness.secure import server_tls
from harness.stock_client import free_port
from harness.wait import wait_until
from tools import build_prometheus

FILES = SOURCE / "config/prometheus"
INSTALLED = "/etc/stockd-observability/prometheus"
SCRAPE_S = 5


# --- servers --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def current_prometheus():
    return build_prometheus()


@pytest.fixture
def debian_prometheus():
    program = shutil.which("prometheus")
    assert program, "there is no program prometheus; it comes with Debian's package of that name"
    return program


@pytest.fixture(params=["debian", "current"])
def program(request):
    return request.getfixturevalue(f"{request.param}_prometheus")


def version_of(program):
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    return tuple(map(int, re.search(r"version (\d+)\.(\d+)", said.stdout + said.stderr).groups()))


# --- files ----------------------------------------------------------------------------------------


def with_changes(text, changes):
    """Each of them must be there to be changed."""
    for old, new in changes.items():
        assert old in text, f"there is no {old} in:\n{text}"
        text = text.replace(old, new)
    return text


class Places:
    """A copy of what is installed, for these programs."""

    def __init__(self, folder, stockd, fast, slow):
        self.folder = folder
        self.stockd, self.fast, self.slow = stockd, fast, slow
        self.ports = {
            "localhost:2112": f"127.0.0.1:{stockd.metrics_port}",
            "localhost:2113": f"127.0.0.1:{fast.port}",
            "localhost:2114": f"127.0.0.1:{slow.port}",
        }

    def copy(self, source, to=None, changes=None):
        path = self.folder / (to or source.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = with_changes(source.read_text(encoding="utf-8"), changes or {})
        path.write_text(text, encoding="utf-8")
        return path

    def copy_targets(self):
        ports = dict(self.ports)
        server = {"localhost:2112": ports.pop("localhost:2112")}
        self.copy(FILES / "targets/stockd.yml", "targets/stockd.yml", server)
        self.copy(FILES / "targets/stock-client.yml", "targets/stock-client.yml", ports)

    def set_targets(self, *ports):
        """In one step, as a program that manages machines would."""
        text = (FILES / "targets/stockd.yml").read_text(encoding="utf-8")
        wanted = ", ".join(f"'127.0.0.1:{port}'" for port in ports)
        text = with_changes(text, {"'localhost:2112'": wanted})
        replace_file(self.folder / "targets/stockd.yml", text.encode(), 0o644)

    def including(self, *paths):
        """A configuration elsewhere that includes those files."""
        config = self.folder / "elsewhere/prometheus.yml"
        config.parent.mkdir()
        config.write_text(f"scrape_config_files: [{', '.join(map(str, paths))}]\n", encoding="utf-8")
        return config

    def expected(self):
        return {
            ("stockd", self.ports["localhost:2112"], None),
            ("stock-client", self.ports["localhost:2113"], "fast"),
            ("stock-client", self.ports["localhost:2114"], "slow"),
        }


@pytest.fixture
def places(tmp_path, start_stockd, start_client):
    stockd = start_stockd()
    address = f"127.0.0.1:{stockd.port}"
    fast = start_client("--quiet", address)
    # It has taken what fits into its window within a second, and then waits.
    slow = start_client("--quiet", "--delay", "30s:30s", "--window", "1000", address)
    folder = tmp_path / "etc"
    folder.mkdir()
    return Places(folder, stockd, fast, slow)


def targets_up(prometheus, more=""):
    return {
        (labels["job"], labels["instance"], labels.get("client"))
        for labels, _ in prometheus.query(f'up{{job=~"stockd|stock-client"{more}}} == 1')
    }


def check_scraped(prometheus, places):
    """All targets are up, and what there is of them is what they say."""
    wait_until(
        lambda: targets_up(prometheus) == places.expected(), 60, f"targets {places.expected()}"
    )
    scraped = {
        one["labels"]["job"]: one["scrapeInterval"]
        for one in prometheus.targets()
        if one["labels"]["job"].startswith("stock")
    }
    assert scraped == {"stockd": f"{SCRAPE_S}s", "stock-client": f"{SCRAPE_S}s"}
    for counter in ("stock_updates_sent_total", 'stock_updates_received_total{client="fast"}'):
        [before] = prometheus.wait_values(counter, lambda seen: len(seen) == 1)
        prometheus.wait_values(counter, lambda seen, before=before: seen and seen[0] > before)
    served = {sample.name for sample in places.stockd.metrics().samples}
    # Where there are rules, what they record is there sooner or later, too.
    found = prometheus.query('count by (__name__) ({job="stockd", __name__!~".*:.*"})')
    own = {"up", "scrape_duration_seconds", "scrape_series_added"}
    own |= {"scrape_samples_scraped", "scrape_samples_post_metric_relabeling"}
    assert {labels["__name__"] for labels, _ in found} - own == served
    prometheus.wait_values('stockd_blocked_streams{reason="stream_window"}', lambda seen: seen == [1])


# --- scraping -------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_version(debian_prometheus, current_prometheus):
    """Before 2.43 no files can be included; what is built is a release of today."""
    assert version_of(debian_prometheus) == (2, 42)
    assert version_of(current_prometheus) >= (3, 16)


def test_static(places, program, start_prometheus):
    """The jobs alone are a configuration, too."""
    config = places.copy(FILES / "static.yml", "prometheus.yml", places.ports)
    check_scraped(start_prometheus(config, program), places)


def test_target_file_changes(places, program, start_prometheus, start_stockd):
    places.copy_targets()
    prometheus = start_prometheus(places.copy(FILES / "scrape.yml"), program)
    check_scraped(prometheus, places)
    first, second = places.stockd, start_stockd()
    instances = [f"127.0.0.1:{one.metrics_port}" for one in (first, second)]

    def wait_instances(wanted):
        def scraped():
            found = prometheus.query('up{job="stockd"} == 1')
            return {labels["instance"] for labels, _ in found} == set(wanted)

        wait_until(scraped, 60, f"instances {wanted}")

    places.set_targets(first.metrics_port, second.metrics_port)
    wait_instances(instances)
    places.set_targets(second.metrics_port)
    wait_instances(instances[1:])
    assert prometheus.values('up{job="stock-client"}') == [1, 1]


def test_included(places, current_prometheus, start_prometheus):
    """From another folder: the files of targets are looked for beside scrape.yml."""
    places.copy_targets()
    config = places.including(places.copy(FILES / "scrape.yml"))
    check_scraped(start_prometheus(config, current_prometheus), places)


def test_included_static(places, current_prometheus, start_prometheus):
    config = places.including(places.copy(FILES / "static.yml", changes=places.ports))
    check_scraped(start_prometheus(config, current_prometheus), places)


def test_debian_cannot_include(places, debian_prometheus):
    places.copy_targets()
    config = places.including(places.copy(FILES / "scrape.yml"))
    command = [debian_prometheus, f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]
    done = subprocess.run(
        [*command, f"--storage.tsdb.path={places.folder / 'data'}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "field scrape_config_files not found" in done.stderr


# --- TLS and password -----------------------------------------------------------------------------


PASSWORD = "correct horse"


class Secure:
    """A stockd whose metrics have TLS and a password, and the files of who scrapes it."""

    def __init__(self, folder, start_stockd, listen="", **tls):
        self.folder = folder
        self.authority = Authority(folder)
        self.server_password = folder / "server-password"
        self.password = folder / "stockd-password"
        self.ca = folder / "ca.pem"
        self.config = folder / "prometheus.yml"
        self.set_password(self.server_password)
        self.set_password(self.password)
        self.trust(self.authority)
        self.stockd = start_stockd(
            tls=server_tls(self.authority.server(), **tls),
            metrics={
                "listen": f"127.0.0.1:0 tls=yes{listen}",
                "user": "prometheus",
                "password_file": self.server_password,
            },
        )

    @staticmethod
    def set_password(path, password=PASSWORD):
        replace_file(path, f"{password}\n".encode(), 0o600)

    def trust(self, authority):
        replace_file(self.ca, authority.pem(), 0o644)

    def configure(self, more=None):
        changes = {
            "stockd.example:2112": f"localhost:{self.stockd.metrics_port}",
            f"{INSTALLED}/secrets/ca.pem": str(self.ca),
            f"{INSTALLED}/secrets/stockd-password": str(self.password),
            **(more or {}),
        }
        text = (FILES / "secure.yml").read_text(encoding="utf-8")
        self.config.write_text(with_changes(text, changes), encoding="utf-8")
        return self.config


def wait_up(prometheus):
    prometheus.wait_values('up{job="stockd"}', lambda seen: seen == [1])
    [target] = prometheus.targets()
    assert target["scrapeUrl"].startswith("https://") and target["lastError"] == ""


def wait_error(prometheus, words):
    """The target is down, and Prometheus says why."""

    errors = set()

    def failed():
        errors.update(one["lastError"] for one in prometheus.targets())
        return any(re.search(words, error) for error in errors)

    try:
        wait_until(failed, 60)
    except AssertionError:
        raise AssertionError(f"no error like {words}, but {errors}") from None
    prometheus.wait_values('up{job="stockd"}', lambda seen: seen == [0])


def test_secure(tmp_path, program, start_stockd, start_prometheus):
    secure = Secure(tmp_path, start_stockd)
    prometheus = start_prometheus(secure.configure(), program)
    wait_up(prometheus)
    prometheus.wait_values(
        "stockd_tls_certificate_expiry_timestamp_seconds > time()", lambda seen: len(seen) == 1
    )
    # With another password Prometheus tells why not; the right one it reads again by itself.
    secure.set_password(secure.password, "wrong horse")
    wait_error(prometheus, "401 Unauthorized")
    secure.set_password(secure.password)
    wait_up(prometheus)


def test_secure_needs_the_authority(tmp_path, program, start_stockd, start_prometheus):
    secure = Secure(tmp_path, start_stockd)
    secure.trust(Authority(tmp_path, "other"))
    prometheus = start_prometheus(secure.configure(), program)
    wait_error(prometheus, "x509: certificate signed by unknown authority")


def test_secure_with_client_certificate(tmp_path, program, start_stockd, start_prometheus):
    """The lines for it stand commented out in the file."""
    authority = Authority(tmp_path, "clients")
    identity = authority.client("prometheus")
    listen = " client_certificate=required"
    secure = Secure(tmp_path, start_stockd, listen, client_ca=authority.certificate)
    prometheus = start_prometheus(secure.configure(), program)
    # How much of stockd's refusal reaches Prometheus before the connection ends, chance decides.
    wait_error(prometheus, "certificate required|EOF|broken pipe|connection reset")
    prometheus.stop()
    lines = {
        f"# cert_file: {INSTALLED}/secrets/prometheus.pem": f"cert_file: {identity.certificate}",
        f"# key_file: {INSTALLED}/secrets/prometheus.key": f"key_file: {identity.key}",
    }
    wait_up(start_prometheus(secure.configure(lines), program))


# --- rules ----------------------------------------------------------------------------------------


def rules_of(prometheus, kind):
    groups = prometheus.api("rules", type=kind)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts_of(prometheus, state="firing"):
    """{(alert, severity, instance): alert}"""
    return {
        (one["labels"]["alertname"], one["labels"]["severity"], one["labels"].get("instance")): one
        for one in prometheus.api("alerts")["alerts"]
        if one["state"] == state
    }


@pytest.mark.timeout(300)
def test_whole_configuration(build, places, program, start_prometheus, start_client):
    """What a drop-in has Debian's service use: jobs, targets and rules, all of them beside it."""
    # What subscribers lose is a part of what they should get: there must be one.
    start_client("watch", "--quiet", f"127.0.0.1:{places.stockd.port}")
    made = build / "config/prometheus"
    own, node = free_port(), free_port()
    jobs = {"localhost:9090": f"127.0.0.1:{own}", "localhost:9100": f"127.0.0.1:{node}"}
    config = places.copy(made / "prometheus.yml", changes=jobs)
    places.copy_targets()
    places.copy(made / "rules/stockd.yml", "rules/stockd.yml")
    prometheus = start_prometheus(config, program)
    check_scraped(prometheus, places)
    wait_until(
        lambda: {rule["health"] for rule in rules_of(prometheus, "alert")} == {"ok"}
        and {rule["health"] for rule in rules_of(prometheus, "record")} == {"ok"},
        90,
        "rules that have been evaluated",
    )
    # Each series, of whom it should be. The ratio of what is lost is of one connection at least.
    server, clients = (places.ports["localhost:2112"],), tuple(places.ports.values())[1:]
    assert rules_of(prometheus, "record")
    for rule in rules_of(prometheus, "record"):
        name = rule["name"]
        expected = set(clients if "received" in name else server)
        wait_until(
            lambda: {labels["instance"] for labels, _ in prometheus.query(name)} == expected,
            60,
            f"{name} of {expected}",
        )
    [blocked] = prometheus.wait_values(
        'instance_reason:stockd_blocked_seconds:rate5m{reason="stream_window"}',
        lambda seen: seen and seen[0] > 0,
    )
    assert blocked <= 1.1
    prometheus.wait_values(
        "instance:stockd_blocked_seconds:ratio_rate5m", lambda seen: seen and 0 < seen[0] <= 0.6
    )
    prometheus.wait_values(
        "instance:stock_updates_sent:rate1m", lambda seen: seen and 5 < seen[0] < 15
    )
    # Of a healthy stockd with one slow client nothing is even pending.
    for state in ("firing", "pending"):
        assert not alerts_of(prometheus, state)
    assert prometheus.values("ALERTS") == []


def hasty(text):
    """The rules as they are, but for their times: what takes minutes must happen within a test."""
    text, alerts = re.subn(r"^( +for:) \d+m$", r"\1 1s", text, flags=re.M)
    assert alerts == len(re.findall(r"- alert:", text))
    return re.sub(r"\[\d+m\]", "[20s]", text).replace("offset 5m", "offset 20s")


HASTY_HEAD = """\
global:
  evaluation_interval: 1s
rule_files: [rules.yml]
"""


def hasty_config(folder, instances, clients):
    """static.yml and the rules with short times, for these."""
    text = hasty((FILES / "rules/stockd.yml").read_text(encoding="utf-8"))
    (folder / "rules.yml").write_text(text, encoding="utf-8")
    changes = {
        "'localhost:2112'": ", ".join(f"'{instance}'" for instance in instances),
        "scrape_interval: 5s": "scrape_interval: 1s",
        **clients,
    }
    text = with_changes((FILES / "static.yml").read_text(encoding="utf-8"), changes)
    config = folder / "hasty.yml"
    config.write_text(HASTY_HEAD + text, encoding="utf-8")
    return config


def talk_nonsense(port):
    """A connection that is closed for it, or is refused."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            while sock.recv(4096):
                pass
        except ConnectionResetError:
            pass


@pytest.mark.timeout(300)
def test_alerts_fire(tmp_path, program, start_stockd, start_client, start_prometheus):
    """Because of what stockd and its clients do; and at the one beside it, which is well, none."""
    identity = Authority(tmp_path).server("short", valid=(-1, 2))
    well = start_stockd()
    ill = start_stockd(
        grpc={"listen": "127.0.0.1:0, 127.0.0.1:0 tls=yes", "max_connections": 2},
        tls=server_tls(identity),
    )
    fast = start_client("--quiet", f"127.0.0.1:{well.port}")
    slow = start_client(
        "--quiet", "--delay", "60s:60s", "--window", "1000", f"127.0.0.1:{ill.port}"
    )
    at_well, at_ill = (f"127.0.0.1:{one.metrics_port}" for one in (well, ill))
    clients = {
        "localhost:2113": f"127.0.0.1:{fast.port}",
        "localhost:2114": f"127.0.0.1:{slow.port}",
    }
    prometheus = start_prometheus(hasty_config(tmp_path, [at_well, at_ill], clients), program)
    prometheus.wait_values('up{job="stockd"}', lambda seen: seen == [1, 1])
    seen = {}

    def wait_alert(name, severity, meanwhile=lambda: None):
        def fires():
            meanwhile()
            seen.update(alerts_of(prometheus))
            return (name, severity, at_ill) in seen

        wait_until(fires, 60, f"{name} ({severity}), and not only {set(seen)}")
        notes = seen[name, severity, at_ill]["annotations"]
        assert at_ill in notes["summary"] and notes["runbook"] == f"stockd-alerts(7), {name}"
        return notes["description"]

    for severity in ("warning", "critical"):
        said = wait_alert("StockdCertificateExpires", severity)
        assert "good for another 1d 23h" in said
    assert "% of their time" in wait_alert("StockdSlowConsumers", "warning")
    ill.wait_metric("stockd_connections", 1)
    said = wait_alert("StockdDisconnectBurst", "warning", lambda: talk_nonsense(ill.port))
    assert int(re.match(r"\d+", said)[0]) > 20
    with socket.create_connection(("127.0.0.1", ill.port)):
        ill.wait_metric("stockd_connections", 2)
        said = wait_alert("StockdRefusing", "warning", lambda: talk_nonsense(ill.port))
    assert said.endswith("because of max_connections.")
    slow.stop()
    assert ill.stop() == 0
    assert "for more than a minute" in wait_alert("StockdDown", "critical")
    assert prometheus.values(f'count_over_time(ALERTS{{instance="{at_well}"}}[10m])') == []


def test_absent_fires(tmp_path, program, places, start_prometheus):
    """When the targets are gone nothing is down any more; then it is this one."""
    places.copy_targets()
    text = (FILES / "scrape.yml").read_text(encoding="utf-8")
    text = with_changes(text, {"scrape_interval: 5s": "scrape_interval: 1s"})
    rules = hasty((FILES / "rules/stockd.yml").read_text(encoding="utf-8"))
    (places.folder / "rules.yml").write_text(rules, encoding="utf-8")
    config = places.folder / "prometheus.yml"
    config.write_text(HASTY_HEAD + text, encoding="utf-8")
    prometheus = start_prometheus(config, program)
    prometheus.wait_values('up{job="stockd"}', lambda seen: seen == [1])
    replace_file(places.folder / "targets/stockd.yml", b"[]\n", 0o644)
    wait_until(
        lambda: ("StockdAbsent", "critical", None) in alerts_of(prometheus), 60, "StockdAbsent"
    )
    assert all(name != "StockdDown" for name, _, _ in alerts_of(prometheus))
