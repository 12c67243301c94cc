"""
The dashboard and what Grafana is told of it. There is no Grafana in Debian, so others judge:
Grafana's own linter and its own definition of a dashboard, both as Go modules, and a real
Prometheus that answers every question that the dashboard asks.
"""

import copy
import json
import math
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from harness.certificates import Authority
from harness.process import SOURCE
from harness.secure import secure_channel, server_tls
from harness.stock_client import free_port
from harness.stocks import pb2
from harness.wait import wait_until
from promql import selectors_in
from tools import build_linter

HERE = Path(__file__).resolve().parent
GRAFANA = SOURCE / "config/grafana"
# Many tests share one set of programs.
pytestmark = pytest.mark.xdist_group("grafana")

FIRST_PANEL = "Stock updates sent x Stock updates processed"
GRID_COLUMNS = 24

# As the dashboard's own selectors are written: who is asked shows in the variables.
SIDES = {
    'job=~"$job", instance=~"$instance"': "stockd",
    'job=~"$client_job", instance=~"$client_instance"': "stock-client",
}
# Series that Prometheus itself makes, of its own and by our rules.
RULES = yaml.safe_load((SOURCE / "config/prometheus/rules/stockd.yml").read_text(encoding="utf-8"))
PROMETHEUS_OWN = {"ALERTS"} | {
    rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule
}


# --- what is in a dashboard -----------------------------------------------------------------------


class Query(NamedTuple):
    """An expression of the dashboard, where it stands, and the labels that its legend names."""

    place: str
    expression: str
    labels: tuple


def panels_of(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def graphs_of(dashboard):
    return [panel for panel in panels_of(dashboard) if panel["type"] != "row"]


def labels_in(*texts):
    return tuple(re.findall(r"\{\{\s*(\w+)\s*\}\}", " ".join(texts)))


def queries_of(dashboard):
    found = [
        Query(f"{panel['title']}/{one['refId']}", one["expr"], labels_in(one["legendFormat"]))
        for panel in graphs_of(dashboard)
        for one in panel["targets"]
    ]
    for note in dashboard["annotations"]["list"]:
        if "expr" in note:
            # An annotation leaves out a label that is missing.
            labels = labels_in(note["titleFormat"])
            found.append(Query(f"annotation {note['name']}", note["expr"], labels))
    return found


def variables_of(dashboard):
    return {one["name"]: one for one in dashboard["templating"]["list"]}


def faults_of_metrics(dashboard, known):
    """Metrics that nobody has, or that are asked of the wrong side. `known`: names of each side."""
    faults = []
    asked = [
        (one.place, pair) for one in queries_of(dashboard) for pair in selectors_in(one.expression)
    ]
    for variable in variables_of(dashboard).values():
        if variable["type"] == "query":
            selector = re.fullmatch(r"label_values\((.+), *\w+\)", variable["query"]["query"])
            metric, matchers = selectors_in(selector.group(1))[0]
            # Which jobs there are cannot be asked of a job.
            side = "stock-client" if variable["name"].startswith("client_") else "stockd"
            if metric not in known[side]:
                faults.append(f"variable {variable['name']}: {side} has no {metric}")
    for place, (metric, matchers) in asked:
        if metric in PROMETHEUS_OWN:
            continue
        side = next((SIDES[pair] for pair in SIDES if matchers.startswith(pair)), None)
        if side is None:
            faults.append(f"{place}: {metric} is asked of {{{matchers}}}, which is neither side")
        elif metric not in known[side]:
            faults.append(f"{place}: {side} has no {metric}")
    return faults


# --- as Grafana asks ------------------------------------------------------------------------------


def interpolated(text, values):
    """
    With the variables replaced, as Grafana's Prometheus data source does it: of several values each
    is escaped for a regular expression, and they are alternatives; one of all stands as it is.
    """

    def replace(match):
        name, form = match.group(1) or match.group(2), match.group(3)
        value = values[name]
        if isinstance(value, str):
            return value
        escaped = [re.sub(r"([\\^$*+?.()|\[\]{}])", r"\\\\\1", one) for one in value]
        return "|".join(escaped) if form == "regex" else f"({'|'.join(escaped)})"

    return re.sub(r"\$(\w+)|\$\{(\w+)(?::(\w+))?\}", replace, text)


def faults_of_answers(prometheus, queries, values, start, end):
    """What Prometheus cannot answer, has no number for, or answers without a legend's label."""
    faults = []
    for query in queries:
        expression = interpolated(query.expression, values)
        try:
            series = prometheus.query_range(expression, start, end, 1)
        except AssertionError as error:
            faults.append(f"{query.place}: {error}")
            continue
        numbers = [value for _, points in series for _, value in points if math.isfinite(value)]
        if not numbers:
            faults.append(f"{query.place}: no data for {expression}")
        for labels, _ in series:
            missing = [name for name in query.labels if name not in labels]
            if missing:
                faults.append(f"{query.place}: no label {missing} in {labels}")
    return faults


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dashboard_path(build):
    path = build / "config/grafana/stockd.json"
    assert path.exists(), f"{path} has not been built"
    return path


@pytest.fixture
def dashboard(dashboard_path):
    return json.loads(dashboard_path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def go_tools():
    """Builds the linter and the schema; returns the folder that they are in."""
    return build_linter()


@pytest.fixture
def judge(go_tools, tmp_path):
    """judge("linter" or "schema", dashboard, [lint file]): (does it pass, what was said)."""

    def by(tool, dashboard, lint=GRAFANA / "dashboard.lint"):
        path = tmp_path / "judged.json"
        path.write_text(json.dumps(dashboard), encoding="utf-8")
        more = ["lint", "--strict", "--config", lint] if tool == "linter" else []
        done = subprocess.run(
            [go_tools / tool, *more, path], capture_output=True, text=True, timeout=60
        )
        return done.returncode == 0, done.stdout + done.stderr

    return by


# --- the file -------------------------------------------------------------------------------------


def test_source_is_formatted():
    subprocess.run(["jsonnetfmt", "--test", GRAFANA / "dashboard.jsonnet"], check=True)


def test_identity(dashboard):
    assert dashboard["id"] is None, "Grafana gives the number"
    assert dashboard["uid"] == "stockd"
    assert dashboard["time"] == {"from": "now-5m", "to": "now"}
    assert dashboard["refresh"] == "5s"
    assert dashboard["graphTooltip"] == 1, "the cross hair is in all panels at once"
    assert not any(key.startswith("__") for key in dashboard), "what an export adds asks questions"


def test_first_panel(dashboard):
    first = dashboard["panels"][0]
    assert first["title"] == FIRST_PANEL
    assert (first["gridPos"]["x"], first["gridPos"]["y"]) == (0, 0)
    sent, processed = first["targets"]
    assert sent["legendFormat"] == "stock updates sent by server"
    assert processed["legendFormat"] == "stock updates processed by client"
    assert selectors_in(sent["expr"])[0][0] == "stock_updates_sent_total"
    assert selectors_in(processed["expr"])[0][0] == "stock_updates_received_total"
    assert "rate" not in sent["expr"] + processed["expr"], "the counters themselves are shown"
    style = {
        one["matcher"]["options"]: {item["id"]: item["value"] for item in one["properties"]}
        for one in first["fieldConfig"]["overrides"]
    }
    bars = style["stock updates sent by server"]
    assert bars["custom.drawStyle"] == "bars"
    hue = {
        name: tuple(bytes.fromhex(one["color"]["fixedColor"][1:])) for name, one in style.items()
    }
    red, green, blue = hue["stock updates sent by server"]
    assert green > max(red, blue), "green"
    red, green, blue = hue["stock updates processed by client"]
    assert min(red, green) > 2 * blue, "yellow"


def faults_of_structure(dashboard):
    faults = []
    ids = [panel["id"] for panel in panels_of(dashboard)]
    if len(ids) != len(set(ids)):
        faults.append("two panels have one id")
    taken = {}
    for panel in panels_of(dashboard):
        place = panel["gridPos"]
        if place["x"] + place["w"] > GRID_COLUMNS:
            faults.append(f"{panel['title']} goes beyond the right edge")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in taken:
                    faults.append(f"{panel['title']} lies on {taken[x, y]}")
                taken[x, y] = panel["title"]
    titles = [panel["title"] for panel in graphs_of(dashboard)]
    faults += [f"two panels are called {one}" for one in set(titles) if titles.count(one) > 1]
    for panel in graphs_of(dashboard):
        if not panel.get("description"):
            faults.append(f"{panel['title']} has no description")
        if not panel["fieldConfig"]["defaults"].get("unit"):
            faults.append(f"{panel['title']} has no unit")
        sources = [panel["datasource"], *(one["datasource"] for one in panel["targets"])]
        if any(one != {"type": "prometheus", "uid": "${datasource}"} for one in sources):
            faults.append(f"{panel['title']} asks another data source than the variable's")
        references = [one["refId"] for one in panel["targets"]]
        if len(references) != len(set(references)):
            faults.append(f"{panel['title']} has two targets of one name")
        if not all(one["legendFormat"] for one in panel["targets"]):
            faults.append(f"{panel['title']}: no legend")
        if panel["type"] == "stat" and any(
            one["range"] or not one["instant"] for one in panel["targets"]
        ):
            faults.append(f"{panel['title']} shows the last value also when it is long past")
        for one in panel["targets"]:
            ranges = re.findall(r"\[([^]]*)\]", one["expr"])
            if any(length not in ("$__rate_interval", "$__range") for length in ranges):
                faults.append(f"{panel['title']}: {ranges} is a time that fits no zoom")
    colours = {}
    for panel in graphs_of(dashboard):
        for override in panel["fieldConfig"]["overrides"]:
            for item in override["properties"]:
                if item["id"] == "color":
                    name, colour = override["matcher"]["options"], item["value"]["fixedColor"]
                    if colours.setdefault(name, colour) != colour:
                        faults.append(f"{panel['title']}: {name} has another colour elsewhere")
    return faults


def test_structure(dashboard):
    assert faults_of_structure(dashboard) == []


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda panels: panels[3]["gridPos"].update(panels[2]["gridPos"]), "lies on"),
        (lambda panels: panels[3]["gridPos"].update(w=30), "right edge"),
        (lambda panels: panels[3].update(id=panels[2]["id"]), "one id"),
        (lambda panels: panels[3].update(description=""), "no description"),
        (lambda panels: panels[3]["fieldConfig"]["defaults"].pop("unit"), "no unit"),
        (lambda panels: panels[3].update(datasource={"uid": "mine"}), "another data source"),
        (lambda panels: panels[3]["targets"][0].update(legendFormat=""), "no legend"),
        (lambda panels: panels[1]["targets"][0].update(instant=False, range=True), "long past"),
        (
            lambda panels: panels[1]["targets"][0].update(expr="rate(stockd_pings[5m])"),
            "fits no zoom",
        ),
    ],
)
def test_structure_finds_damage(dashboard, damage, complaint):
    damage(dashboard["panels"])
    assert any(complaint in fault for fault in faults_of_structure(dashboard))


# --- Grafana's own judges -------------------------------------------------------------------------


@pytest.mark.timeout(1800)
def test_linter(judge, dashboard):
    passes, said = judge("linter", dashboard)
    assert passes, said


@pytest.mark.timeout(1800)
def test_linter_needs_each_exclusion(judge, dashboard, tmp_path):
    """Each has a reason, and without it the dashboard fails: none outlives what it was for."""
    rules = yaml.safe_load((GRAFANA / "dashboard.lint").read_text(encoding="utf-8"))
    assert set(rules) == {"exclusions"}, "a warning is as bad as an error"
    lint = tmp_path / "less.lint"
    for rule, excluded in rules["exclusions"].items():
        assert excluded["reason"].strip()
        for number in range(len(excluded["entries"])):
            less = copy.deepcopy(rules)
            entry = less["exclusions"][rule]["entries"].pop(number)
            lint.write_text(yaml.safe_dump(less), encoding="utf-8")
            passes, _ = judge("linter", dashboard, lint)
            assert not passes, f"{rule} needs no exclusion for {entry}"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda board: board["panels"][1].update(description=""), "title or description"),
        (lambda board: board["panels"][1]["targets"][0].update(expr="sum("), "invalid PromQL"),
        (lambda board: board.update(editable=True), "is editable"),
        (lambda board: board["templating"]["list"].pop(1), "missing the job template"),
        (
            lambda board: board["panels"][1]["targets"][0].update(
                expr=board["panels"][1]["targets"][0]["expr"].replace("$__rate_interval", "5m")
            ),
            "should use $__rate_interval",
        ),
    ],
)
def test_linter_finds_damage(judge, dashboard, damage, complaint):
    damage(dashboard)
    passes, said = judge("linter", dashboard)
    assert not passes and complaint in said, said


@pytest.mark.timeout(1800)
def test_schema(judge, dashboard):
    passes, said = judge("schema", dashboard)
    assert passes, said


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda board: board.update(titel="stockd"), "unexpected field 'titel'"),
        (lambda board: board.pop("schemaVersion"), "schemaVersion: required field"),
        (lambda board: board["panels"][0]["options"].update(legends={}), "field 'legends'"),
        (lambda board: board["panels"][0]["targets"][0].pop("expr"), "expr: required field"),
        (
            lambda board: board["panels"][0]["fieldConfig"]["defaults"].update(unit=3),
            "defaults.unit",
        ),
    ],
)
def test_schema_finds_damage(judge, dashboard, damage, complaint):
    damage(dashboard)
    passes, said = judge("schema", dashboard)
    assert not passes and complaint in said, said


# --- a live stockd --------------------------------------------------------------------------------


class Scene(NamedTuple):
    prometheus: object
    start: float
    known: dict  # names of metrics of each side


ALERT = """
groups:
  - name: test
    rules:
      - alert: StockdTest
        expr: up{job="stockd"} == 1
"""


@pytest.fixture
def scene(start_stockd, start_client, start_prometheus, run_client_once, tmp_path):
    """
    A stockd with TLS that was started twice, a client that keeps pace, one that doesn't, one that
    goes, more connections than are allowed, subscribers of the market of whom one is cut off and one
    resumes, and a Prometheus that has seen all of it.
    """
    authority = Authority(tmp_path)
    listen = {"grpc": free_port(), "metrics": free_port()}
    sections = {
        "grpc": {"listen": f"127.0.0.1:{listen['grpc']} tls=yes", "max_connections": 4},
        "metrics": {"listen": f"127.0.0.1:{listen['metrics']}"},
        "tls": server_tls(authority.server()),
        "stream": {"interval": "5ms"},
        "market": {"interval": "10ms"},
    }
    stockd = start_stockd(**sections)
    to_stockd = (f"127.0.0.1:{stockd.port}", "--cacert", authority.certificate, "--quiet")
    fast = start_client(*to_stockd)
    slow = start_client(*to_stockd, "--delay", "20ms:40ms", "--window", "1000")
    rules = tmp_path / "rules.yml"
    rules.write_text(ALERT, encoding="utf-8")
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [f"127.0.0.1:{one}" for one in ports]}],
            }
            for job, ports in (
                ("stockd", [stockd.metrics_port]),
                ("stock-client", [fast.port, slow.port]),
            )
        ],
    }
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    start = time.time()
    prometheus = start_prometheus(config)
    prometheus.wait_values(
        "count_over_time(stock_updates_sent_total[1m])", lambda seen: seen and seen[0] >= 3
    )
    assert stockd.stop() == 0
    stockd = start_stockd(**sections)
    for client in (fast, slow):
        client.wait_metric("grpc_client_started_total", lambda count: count >= 2)
    prometheus.wait_values("changes(process_start_time_seconds[30s])", lambda seen: 1 in seen)
    # What goes, and what is turned away, is seen when it has been scraped before and after.
    run_client_once(*to_stockd, "--count", "20")
    several = [socket.create_connection(("127.0.0.1", stockd.port)) for _ in range(6)]
    stockd.wait_metric("stockd_refused_total", lambda count: count > 0)
    for one in several:
        one.close()
    subscribe(stockd, authority)
    stockd.wait_metric("stockd_blocked_episodes_total", lambda count: count > 3)
    known = {
        "stockd": {sample.name for sample in stockd.metrics().samples},
        "stock-client": {sample.name for sample in fast.metrics().samples},
    }
    for wanted in (
        'increase(stockd_refused_total{reason="max_connections"}[30s])',
        "sum by (job) (increase(stockd_connections_closed_total[30s]))",
        "rate(stockd_blocked_episodes_total[5s])",
        "increase(stockd_market_cut_off_total[30s])",
        "increase(stockd_market_resumes_total[30s])",
    ):
        prometheus.wait_values(wanted, lambda seen: any(value > 0 for value in seen))
    return Scene(prometheus, start, known)


def subscribe(stockd, authority):
    """One who reads until it is enough, one who resumes, and one who never reads and is cut off."""
    proto = pb2()
    with secure_channel(stockd.port, authority) as channel:
        call = channel.unary_stream(
            "/stockservice.StockService/Subscribe",
            request_serializer=proto.SubscribeRequest.SerializeToString,
            response_deserializer=proto.MarketEvent.FromString,
        )
        reading = call(proto.SubscribeRequest(policy=proto.SLOW_POLICY_CONFLATE))
        resuming = call(proto.SubscribeRequest(resume=proto.Position(epoch=1, sequence=1)))
        lazy = call(proto.SubscribeRequest(policy=proto.SLOW_POLICY_DISCONNECT, max_queue=1))
        for _ in range(50):
            next(reading)
        assert next(resuming).gap.reason == proto.Gap.REASON_EPOCH
        stockd.wait_metric("stockd_market_cut_off_total", lambda count: count > 0)
        for one in (reading, resuming, lazy):
            one.cancel()


@pytest.fixture
def run_client_once(client_program, start_program):
    """Runs stock-client to its end, which must be a good one."""

    def once(*arguments):
        program = start_program([client_program, *arguments, "--no-metrics"], "stock-client-once")
        assert program.wait() == 0, program.log()

    return once


def choices(dashboard):
    """What people may choose: what is chosen at first, everything, and several."""
    variables = variables_of(dashboard)
    first, everything = {}, {}
    for name, one in variables.items():
        if one["type"] == "query":
            everything[name] = one["allValue"]
            current = one["current"]["value"]
            first[name] = one["allValue"] if current == ["$__all"] else current
    several = dict(first, job=["stockd", "other.job"], client_job=["stock-client", "other.job"])
    fixed = {"__rate_interval": "5s", "__range": "60s"}
    return {
        name: {**values, **fixed}
        for name, values in (("first", first), ("everything", everything), ("several", several))
    }


def test_dashboard_is_answered(dashboard, scene):
    """
    Every metric exists at the side that it is asked of; every expression is understood and has
    numbers, whatever is chosen; every variable has values. One scene for all, since it takes long.
    """
    assert faults_of_metrics(dashboard, scene.known) == []
    for chosen, values in choices(dashboard).items():
        faults = []

        def look():
            # Some of it comes with the next scrape.
            faults[:] = faults_of_answers(
                scene.prometheus, queries_of(dashboard), values, scene.start, time.time()
            )
            return not faults

        try:
            wait_until(look, 30)
        except AssertionError:
            raise AssertionError(f"chosen: {chosen}\n" + "\n".join(faults)) from None
        for name, variable in variables_of(dashboard).items():
            if variable["type"] == "query":
                query = interpolated(variable["query"]["query"], values)
                selector, label = re.fullmatch(r"label_values\((.+), *(\w+)\)", query).groups()
                found = scene.prometheus.api(f"label/{label}/values", **{"match[]": selector})
                assert found, f"{name}: no values for {query}"
                if variable["current"]["value"] != ["$__all"]:
                    assert set(variable["current"]["value"]) <= set(found)
    check_controls(dashboard, scene)


def check_controls(dashboard, scene):
    """The checks above find what is wrong."""
    tile = dashboard["panels"][1]["targets"][0]
    good = tile["expr"]
    tile["expr"] = good.replace("stock_updates_sent_total", "stock_update_sent_total")
    assert faults_of_metrics(dashboard, scene.known) == [
        f"{dashboard['panels'][1]['title']}/A: stockd has no stock_update_sent_total"
    ]
    tile["expr"] = good.replace("$job", "$client_job").replace("$instance", "$client_instance")
    (fault,) = faults_of_metrics(dashboard, scene.known)
    assert "stock-client has no stock_updates_sent_total" in fault
    tile["expr"] = good.replace('job=~"$job", ', "")
    assert "neither side" in faults_of_metrics(dashboard, scene.known)[0]
    values = choices(dashboard)["first"]
    for expression, labels, complaint in (
        ("sum(rate(stock_updates_sent_total[$__rate_interval])", (), "parse error"),
        ("stock_update_sent_total", (), "no data"),
        ("stock_updates_sent_total * NaN", (), "no data"),
        ("sum by (job) (stock_updates_sent_total)", ("instance",), "no label"),
        ('stock_updates_sent_total{job=~"$client_job"}', (), "no data"),
    ):
        query = Query("control", expression, labels)
        faults = faults_of_answers(scene.prometheus, [query], values, scene.start, time.time())
        assert faults and complaint in faults[0], f"{expression}: {faults}"


# --- what Grafana is told -------------------------------------------------------------------------


@pytest.fixture
def installed(build, tmp_path):
    """The root of a system on which the configuration is installed, and its prefix there."""
    root = tmp_path / "root"
    done = subprocess.run(
        ["cmake", "--install", build / "config"],
        env={**os.environ, "DESTDIR": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return root


def only(paths):
    found = list(paths)
    assert len(found) == 1, found
    return found[0]


def test_provisioning(installed, dashboard):
    folder = only(installed.rglob("stockd-observability/grafana/provisioning"))
    told = yaml.safe_load((folder / "datasources/stockd.yaml").read_text(encoding="utf-8"))
    assert told["apiVersion"] == 1
    source = only(told["datasources"])
    assert source["type"] == "prometheus" and source["access"] == "proxy"
    assert source["url"] == "http://localhost:9090"
    assert source["isDefault"] is False, "Grafana takes no second default, and does not start"
    assert source["uid"] == variables_of(dashboard)["datasource"]["current"]["value"]
    assert source["name"] == variables_of(dashboard)["datasource"]["current"]["text"]
    scraped = yaml.safe_load((SOURCE / "config/prometheus/scrape.yml").read_text(encoding="utf-8"))
    intervals = {job["scrape_interval"] for job in scraped["scrape_configs"]}
    assert intervals == {source["jsonData"]["timeInterval"]}, "else rates are taken over too little"

    told = yaml.safe_load((folder / "dashboards/stockd.yaml").read_text(encoding="utf-8"))
    assert told["apiVersion"] == 1
    provider = only(told["providers"])
    assert provider["name"] and provider["type"] == "file"
    shown = installed / provider["options"]["path"].lstrip("/")
    assert [one.name for one in shown.iterdir()] == ["stockd.json"], "Grafana reads all of it"
    assert json.loads((shown / "stockd.json").read_text(encoding="utf-8")) == dashboard


UNIT = """
[Unit]
Description=Grafana instance
[Service]
Environment=PROVISIONING_CFG_DIR=/etc/grafana/provisioning
ExecStart=/usr/bin/true cfg:default.paths.provisioning=${PROVISIONING_CFG_DIR}
"""


def verify_units(root):
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no"]
        + ["grafana-server.service"],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_drop_ins(installed):
    """They fit a unit such as Grafana's own, and point to what is installed."""
    units = installed / "etc/systemd/system"
    (units / "grafana-server.service.d").mkdir(parents=True)
    (units / "grafana-server.service").write_text(UNIT, encoding="utf-8")
    (installed / "usr/bin").mkdir(parents=True, exist_ok=True)
    (installed / "usr/bin/true").touch(mode=0o755)
    drop_ins = only(installed.rglob("stockd-observability/grafana-server.service.d"))
    names = sorted(one.name for one in drop_ins.iterdir())
    assert names == ["provisioning.conf", "renderer.conf"]
    for name in names:
        text = (drop_ins / name).read_text(encoding="utf-8")
        # The commands in the comment name the file itself, as it is installed.
        assert f"/{(drop_ins / name).relative_to(installed)} " in text
        shutil.copy(drop_ins / name, units / "grafana-server.service.d" / name)
    assert verify_units(installed) == (0, "")
    text = (drop_ins / "provisioning.conf").read_text(encoding="utf-8")
    path = re.search(r"^Environment=GF_PATHS_PROVISIONING=/(\S+)$", text, re.MULTILINE).group(1)
    assert {one.name for one in (installed / path).iterdir()} >= {"datasources", "dashboards"}

    # The judge is awake.
    (units / "grafana-server.service.d" / "renderer.conf").write_text("[Service]\nEnviroment=A=b\n")
    assert "Enviroment" in verify_units(installed)[1]
