"""
Debian's prometheus with the files of stockd-observability, used as README.Debian says: it finds
stockd and both clients, sees what they count, watches by the rules, and sees when stockd is gone.
Beside it stockd-obs runs another one, for root and for a user; and what is there for Grafana is
where its manual says.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.prometheus import PrometheusApi
from harness.wait import wait_until

FOLDER = "/etc/stockd-observability/prometheus"
LINK = "/etc/systemd/system/prometheus.service.d/stockd.conf"
URL = "http://127.0.0.1:9090"
METRICS = "http://127.0.0.1:2112/metrics"
DOCUMENTS = "/usr/share/doc/stockd-observability"
# An address that only the box has (RFC 5737).
ADDRESS = "192.0.2.7"
EXPOSURE_MAX = 15  # of what stockd-obs has systemd run, in tenths
# By what the targets files say of them.
TARGETS = (
    'up{job="stockd"}',
    'up{job="stock-client",client="fast"}',
    'up{job="stock-client",client="slow"}',
)


def api(box, url=URL):
    return PrometheusApi(url, box.fetch)


def wait_values(box, query, fits):
    return api(box).wait_values(query, fits, timeout=40)


def ready(box):
    return wait_until(lambda: box.fetch(f"{URL}/-/ready", check=False), 30, "prometheus")


@pytest.fixture(scope="module")
def prometheus(installed):
    """Set up by what README.Debian says, word for word; before, nothing is in effect."""
    box = installed
    assert FOLDER not in box.run("systemctl", "cat", "prometheus").output
    box.systemctl("start", "stock-client@fast", "stock-client@slow")
    readme = box.read(f"{DOCUMENTS}/README.Debian")
    script = re.search(r"^  mkdir .*?^  systemctl restart prometheus$", readme, re.M | re.S).group()
    box.shell(script)
    ready(box)
    return box


def test_configuration_is_valid(installed):
    for name in ("prometheus.yml", "scrape.yml", "static.yml"):
        said = installed.run("promtool", "check", "config", f"{FOLDER}/{name}").output
        assert "SUCCESS" in said and "FAILED" not in said, said
    # The control: it finds what is wrong.
    broken = installed.read(f"{FOLDER}/prometheus.yml").replace("scrape_interval", "interval")
    installed.write("/tmp/broken.yml", broken)
    checked = installed.run("promtool", "check", "config", "/tmp/broken.yml", check=False)
    assert checked.status != 0 and "interval not found" in checked.errors, checked


def test_all_targets_are_up(prometheus):
    for target in TARGETS:
        wait_values(prometheus, target, lambda values: values == [1])
    # As many as that, and each under its own address.
    found = sorted(
        (one["labels"]["job"], one["scrapeUrl"])
        for one in api(prometheus).targets()
        if one["labels"]["job"].startswith("stock")
    )
    assert found == [
        ("stock-client", "http://localhost:2113/metrics"),
        ("stock-client", "http://localhost:2114/metrics"),
        ("stockd", "http://localhost:2112/metrics"),
    ]


@pytest.mark.parametrize(
    "counter",
    [
        'stock_updates_sent_total{job="stockd"}',
        'stock_updates_received_total{client="fast"}',
        'stock_updates_received_total{client="slow"}',
    ],
)
def test_counters_grow(prometheus, counter):
    [before] = wait_values(prometheus, counter, lambda values: len(values) == 1)
    wait_values(prometheus, counter, lambda values: values[0] > before)


def test_what_is_scraped_is_what_stockd_says(prometheus):
    """Not some numbers: those of this stockd, with both its clients on it."""
    said = re.search(r'^stockd_build_info\{.*version="([^"]+)"', prometheus.fetch(METRICS), re.M)
    info = f'stockd_build_info{{job="stockd",version="{said.group(1)}"}}'
    wait_values(prometheus, info, lambda values: values == [1])
    wait_values(prometheus, 'sum(stockd_streams{job="stockd"})', lambda values: values == [2])
    assert prometheus.metric("stockd_streams") == 2


def test_prometheus_sees_stockd_go(prometheus):
    up = 'up{job="stockd"}'
    wait_values(prometheus, up, lambda values: values == [1])
    prometheus.systemctl("stop", "stockd")
    wait_values(prometheus, up, lambda values: values == [0])
    # Its clients are there all the time.
    assert api(prometheus).values('sum(up{job="stock-client"})') == [2]
    prometheus.systemctl("start", "stockd")
    wait_values(prometheus, up, lambda values: values == [1])
    # A process that counts anew, not the figures of the one before.
    wait_values(
        prometheus, 'resets(stock_updates_sent_total{job="stockd"}[10m])', lambda v: v and v[0] >= 1
    )


# --- stockd-render and stockd-obs ---


@pytest.fixture
def addressed(prometheus):
    """With a way to others; without it the machine has its loopback alone."""
    prometheus.shell(
        'ip address add "$1/32" dev lo && ip route add default dev lo src "$1"', ADDRESS
    )
    yield prometheus
    prometheus.shell('ip route del default && ip address del "$1/32" dev lo', ADDRESS)


def rendered(box, *words):
    done = box.run("stockd-render", "--prometheus-output", "-", *words)
    return re.findall(r"targets: \['(\S+)'\]", done.output), done.errors


def test_render_finds_the_address_of_the_machine(addressed):
    assert rendered(addressed) == ([f"{ADDRESS}:2112", f"{ADDRESS}:2113"], "")


def test_render_without_a_network(prometheus):
    targets, said = rendered(prometheus)
    assert targets == ["127.0.0.1:2112", "127.0.0.1:2113"] and "127.0.0.1" in said, said
    assert rendered(prometheus, "--ip", "2001:db8::1")[0][0] == "[2001:db8::1]:2112"


class Person:
    """Somebody who types stockd-obs: root, or a user with a service manager of their own."""

    def __init__(self, box, prefix, manager, folder):
        self.box = box
        self.prefix = prefix
        self.manager = manager  # as options of systemctl and its like
        self.folder = folder  # what stockd-obs makes for them

    def run(self, *words, check=True):
        return self.box.run(*self.prefix, *words, check=check)

    def obs(self, *words):
        return self.run("stockd-obs", *words).output

    def main_pid(self):
        shown = self.run("systemctl", *self.manager, "show", "-PMainPID", "stockd-obs")
        return int(shown.output)

    def assert_nothing_is_left(self):
        wait_until(lambda: not self.box.exists(self.folder), 20, f"the end of {self.folder}")
        status = self.run("stockd-obs", "status", check=False)
        assert (status.status, status.output) == (3, "It does not run.\n"), status
        units = self.run("systemctl", *self.manager, "list-units", "--all", "stockd-obs*")
        assert "stockd-obs" not in units.output.replace(self.folder, "")
        process = self.box.run("pgrep", "--full", f"tsdb.path={self.folder}/", check=False)
        assert process.output == "", process


@pytest.fixture(scope="module")
def somebody(prometheus):
    """The words that make a command a user's who is logged in, and their runtime folder."""
    prometheus.run("useradd", "--create-home", "somebody")
    prometheus.run("loginctl", "enable-linger", "somebody")
    uid = prometheus.run("id", "--user", "somebody").output.strip()
    runtime = f"/run/user/{uid}"
    wait_until(lambda: prometheus.exists(f"{runtime}/systemd/private"), 30, "the user's manager")
    change = ["setpriv", "--reuid=somebody", "--regid=somebody", "--init-groups"]
    return [*change, "env", "HOME=/home/somebody", f"XDG_RUNTIME_DIR={runtime}"], runtime


@pytest.fixture
def root(prometheus):
    made = Person(prometheus, [], ["--system"], "/run/stockd-obs")
    yield made
    made.obs("stop")


@pytest.fixture
def user(prometheus, somebody):
    words, runtime = somebody
    made = Person(prometheus, words, ["--user"], f"{runtime}/stockd-obs")
    yield made
    made.obs("stop")


@pytest.fixture(params=["root", "user"])
def person(request):
    return request.getfixturevalue(request.param)


def url_of(said):
    return re.search(r"^Prometheus runs at (http://127\.0\.0\.1:\d+)/$", said, re.M).group(1)


def up(box, url):
    """How often each job is up."""
    healths = [
        (one["labels"]["job"], one["health"])
        for one in api(box, url).targets()
    ]
    return {job: healths.count((job, "up")) for job in {job for job, _ in healths}}


def test_obs(person):
    box = person.box
    said = person.obs("start")
    url = url_of(said)
    # That of Debian has the first port, and goes on.
    assert url == "http://127.0.0.1:9091"
    for name in ("prometheus.yml", "datasources.yaml"):
        assert f"{person.folder}/{name}\n" in said
        person.run("test", "-r", f"{person.folder}/{name}")
    assert f"url: {url}\n" in box.read(f"{person.folder}/datasources.yaml")
    unit = person.run("systemctl", *person.manager, "is-active", "stockd-obs.service").output
    assert unit == "active\n"
    assert person.obs("status") == said
    assert person.obs("start") == f"It runs already.\n{said}"
    files = {group["file"] for group in api(box, url).api("rules")["groups"]}
    assert files == {f"{FOLDER}/rules/stockd.yml"}
    assert person.obs("stop") == "Prometheus has ended, and nothing is left of it.\n"
    person.assert_nothing_is_left()
    assert person.obs("stop") == "It does not run.\n"
    assert box.fetch(f"{URL}/-/ready")


def test_obs_sees_targets(addressed, root, user):
    """
    Two at once. One has what is rendered: the address that others see. The other's template has the
    places written in, and needs no placeholder.
    """
    box = addressed
    by_address = url_of(root.obs("start"))
    by_name = url_of(user.obs("start", "--prometheus-template", f"{FOLDER}/static.yml"))
    assert by_address != by_name
    wait_until(lambda: up(box, by_address) == {"stockd": 1, "stock-client": 1}, 30, "all targets")
    wait_until(lambda: up(box, by_name) == {"stockd": 1, "stock-client": 2}, 30, "all targets")
    targets = api(box, by_address).targets()
    assert {one["scrapeUrl"] for one in targets} == {
        f"http://{ADDRESS}:2112/metrics",
        f"http://{ADDRESS}:2113/metrics",
    }
    root.obs("stop")
    root.assert_nothing_is_left()
    assert box.fetch(f"{by_name}/-/ready")
    assert "Prometheus runs at" in user.obs("status")


def test_obs_of_many_at_once(root, user):
    """Two people, who find the same port free, and each of them twice: there are two of them."""
    people = [root, user, root, user]
    with ThreadPoolExecutor(len(people)) as pool:
        said = [one.result() for one in [pool.submit(person.obs, "start") for person in people]]
    for person in (root, user):
        status = person.obs("status")
        mine = sorted(one for one, of in zip(said, people) if of is person)
        assert mine == sorted([status, f"It runs already.\n{status}"])
        flags = api(person.box, url_of(status)).api("status/flags")
        assert flags["config.file"] == f"{person.folder}/prometheus.yml"
        person.obs("stop")
        person.assert_nothing_is_left()


def test_obs_leaves_nothing_when_it_is_killed(person):
    person.obs("start")
    person.run("kill", "-KILL", person.main_pid())
    person.assert_nothing_is_left()
    assert person.obs("stop") == "It does not run.\n"


def test_obs_that_cannot_start(person):
    """systemd starts it, and it ends by itself."""
    broken = "/tmp/broken-template.yml"
    person.box.write(broken, "scrape_configs: 1\n")
    done = person.run("stockd-obs", "start", "--prometheus-template", broken, check=False)
    assert done.status == 1 and "journalctl" in done.errors, done
    person.assert_nothing_is_left()


def test_obs_of_a_user_without_a_service_manager(prometheus, somebody):
    """As after su: it is a process in the background then."""
    words = [*somebody[0], "env", "--unset=XDG_RUNTIME_DIR"]
    person = Person(prometheus, words, [], "/tmp/stockd-obs")
    said = person.obs("start")
    folder = re.search(r"configuration +(/tmp/stockd-obs-\d+)/prometheus\.yml", said).group(1)
    assert prometheus.run("stat", "--format=%U %a", folder).output == "somebody 700\n"
    assert prometheus.fetch(f"{url_of(said)}/-/ready")
    person.obs("stop")
    assert not prometheus.exists(folder)


def test_obs_in_its_sandbox(root):
    """Of root's: nobody's user, and shut off as other services are."""
    root.obs("start")
    owner = root.run("stat", "--format=%u", f"/proc/{root.main_pid()}").output
    assert int(owner) >= 61184  # of systemd's dynamic users

    def judge(threshold):
        command = ["systemd-analyze", "security", "--no-pager", f"--threshold={threshold}"]
        return root.run(*command, "stockd-obs.service", check=False)

    judged = judge(EXPOSURE_MAX)
    assert judged.status == 0, judged.output[-3000:]
    # The control: the threshold means something.
    assert judge(0).status != 0


# --- Grafana ---


def links(box, *names):
    """{link: what it leads to}, as these documents say that they are to be made."""
    text = "".join(box.read(f"{DOCUMENTS}/{name}") for name in names)
    return {link: file for file, link in re.findall(r"ln -s (/\S+) \\\n +(/\S+)\n", text)}


def test_what_readme_names_is_there(installed):
    readme = installed.read(f"{DOCUMENTS}/README.Debian")
    named = set(re.findall(r"/(?:etc|usr/share)/stockd-observability[\w./-]*\w", readme))
    named |= {f"{FOLDER}/{name}" for name in re.findall(r"^  ([a-z/]+\.yml) ", readme, re.M)}
    named |= {f"{DOCUMENTS}/{name}" for name in re.findall(r"[\w.]+\.md\b", readme)}
    assert len(named) > 10, named
    for path in named:
        assert installed.exists(path), f"README.Debian names {path}, which is not there"
    for page in set(re.findall(r"(stockd-\w+)\((\d)\)", readme)):
        assert installed.exists("/usr/share/man/man{1}/{0}.{1}.gz".format(*page)), page


def test_what_grafana_is_provisioned_with(installed):
    folder = "/etc/stockd-observability/grafana/provisioning"
    provider = installed.read(f"{folder}/dashboards/stockd.yaml")
    [place] = re.findall(r"^ +path: (\S+)$", provider, re.M)
    [path] = installed.shell('find "$1" -name "*.json"', place).output.split()
    dashboard = json.loads(installed.read(path))
    assert dashboard["id"] is None and dashboard["uid"] and dashboard["panels"]
    # Both data sources, that and the one that stockd-render makes, are the one that it looks for.
    made = installed.run("stockd-render", "--ip", "127.0.0.1", "--data-source-output", "-").output
    for source in (installed.read(f"{folder}/datasources/stockd.yaml"), made):
        assert re.findall(r"^ +uid: (\S+)$", source, re.M) == ["stockd-prometheus"]
        assert re.findall(r"^ +url: (\S+):9090$", source, re.M)


def test_links_for_grafana(installed):
    """Where they are for Grafana, all that the documents have linked is found."""
    here = links(installed, "README.Debian")
    there = links(installed, "README.Grafana.md")
    assert there.items() >= {k: v for k, v in here.items() if "grafana" in k}.items()
    drop_ins = "/etc/systemd/system/grafana-server.service"
    installed.write(
        drop_ins,
        "[Service]\nEnvironment=GF_PATHS_PROVISIONING=/etc/grafana/provisioning\n"
        "ExecStart=/usr/bin/sleep infinity\n",
    )
    for link, file in there.items():
        installed.shell('mkdir -p "$(dirname "$2")" && ln -s "$1" "$2" && test -s "$2"', file, link)
    try:
        installed.systemctl("daemon-reload")
        environment = installed.property("grafana-server", "Environment").split()
        assert "GF_PATHS_PROVISIONING=/etc/stockd-observability/grafana/provisioning" in environment
        assert any(one.startswith("GF_RENDERING_SERVER_URL=") for one in environment)
        checked = installed.run(
            "systemd-analyze",
            "verify",
            "--man=no",
            "--recursive-errors=yes",
            "grafana-server.service",
            check=False,
        )
        assert checked.status == 0 and checked.errors == "", checked
        for kind in ("datasources", "dashboards"):
            assert installed.exists(f"/etc/grafana/provisioning/{kind}/stockd.yaml")
    finally:
        installed.run("rm", "-r", drop_ins, f"{drop_ins}.d", "/etc/grafana")
        installed.systemctl("daemon-reload")


# --- The rules; late, since each is worked out only now and then ---


def test_rules_are_worked_out(prometheus):
    """Each of them, without an error, by Prometheus as README.Debian has it set up."""

    def seen():
        return [
            (rule["name"], rule["health"], rule.get("lastError"))
            for group in api(prometheus).api("rules")["groups"]
            for rule in group["rules"]
        ]

    wait_until(lambda: seen() and all(one[1] != "unknown" for one in seen()), 40, "all rules")
    assert {one[1:] for one in seen()} == {("ok", None)}, seen()
    text = prometheus.read(f"{FOLDER}/rules/stockd.yml")
    names = re.findall(r"^ *- (?:alert|record): (\S+)$", text, re.M)
    assert sorted(one[0] for one in seen()) == sorted(names)
    # One that counts, and one that does not fire.
    wait_values(
        prometheus, "instance:stock_updates_sent:rate1m", lambda values: values and values[0] > 0
    )
    alerts = {alert["labels"]["alertname"] for alert in api(prometheus).api("alerts")["alerts"]}
    assert "StockdAbsent" not in alerts


def test_going_back(prometheus):
    """As README.Debian says; and all the time no package's file was touched."""
    used = prometheus.fetch(f"{URL}/api/v1/status/config")
    assert "stock-client" in used
    prometheus.run("rm", LINK)
    prometheus.systemctl("daemon-reload")
    prometheus.systemctl("restart", "prometheus")
    ready(prometheus)
    assert "stock-client" not in prometheus.fetch(f"{URL}/api/v1/status/config")

    def touched():
        verify = ["dpkg", "--verify", "prometheus", "stockd-observability"]
        return prometheus.run(*verify, check=False).output

    assert touched() == ""
    # The control: one that is touched is found.
    own = "/etc/default/prometheus"
    before = prometheus.read(own)
    prometheus.write(own, before + "# mine\n")
    assert own in touched()
    prometheus.write(own, before)
