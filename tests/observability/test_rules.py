"""
The rules for Prometheus, their tests and their runbook are three files that must say the same; and
what the rules ask for must be what stockd and stock-client have.
"""

import collections
import re
import shutil
import subprocess

import pytest
import yaml

from harness.process import SOURCE
from promql import metrics_in, selectors_in

RULES = SOURCE / "config/prometheus/rules/stockd.yml"
TESTS = RULES.with_name("test_stockd.yml")
RUNBOOK = SOURCE / "config/stockd-alerts.7"

# Prometheus makes it for every target.
OWN = {"up"}


# --- what the files say ---------------------------------------------------------------------------


def read_rules():
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts_in(rules):
    return [rule for rule in rules if "alert" in rule]


def records_in(rules):
    return [rule for rule in rules if "record" in rule]


def matchers_in(text):
    """(label, operator, value) of each matcher in a selector's braces."""
    return re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', text)


def sections():
    """{heading: text} of the runbook's part about alerts."""
    text = RUNBOOK.read_text(encoding="utf-8")
    alerts = re.search(r"^\.Sh ALERTS\n(.*?)^\.Sh ", text, re.M | re.S).group(1)
    parts = re.split(r"^\.Ss (\S+)\n", alerts, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def in_order(names):
    """Without what stands there again."""
    return list(dict.fromkeys(names))


# --- the files agree ------------------------------------------------------------------------------


def test_each_alert_says_what_it_must():
    for alert in alerts_in(read_rules()):
        name = alert["alert"]
        assert alert["for"], name
        assert alert["labels"] in ({"severity": "warning"}, {"severity": "critical"}), name
        notes = alert["annotations"]
        assert set(notes) == {"summary", "description", "runbook"}, name
        assert notes["runbook"] == f"stockd-alerts(7), {name}"
        # Of which instance it is; of what is not there at all there is none.
        assert "$labels.instance" in notes["summary"] or "absent(" in alert["expr"], name
        assert "$" in notes["description"], name


def test_each_alert_has_a_section_and_each_section_an_alert():
    alerts = alerts_in(read_rules())
    written = sections()
    assert list(written) == in_order(alert["alert"] for alert in alerts)
    for name, text in written.items():
        assert "To see more" in text and "What to do" in text, name
        severities = {one["labels"]["severity"] for one in alerts if one["alert"] == name}
        assert text.split()[0].strip(".").lower() in severities, name
        for severity in severities:
            assert severity in text.lower(), f"{name}: {severity}"


def test_each_recorded_series_is_listed():
    text = RUNBOOK.read_text(encoding="utf-8")
    listed = re.findall(r"^\.It Ic (instance\S+)$", text, re.M)
    assert listed == [rule["record"] for rule in records_in(read_rules())]


def test_each_rule_is_tested():
    """Each alert both ways, each severity of it, and each recorded series."""
    fires = collections.defaultdict(set)
    silent = set()
    asked = set()
    for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]:
        for case in test.get("alert_rule_test", []):
            expected = case.get("exp_alerts", [])
            for one in expected:
                assert set(one["exp_annotations"]) == {"summary", "description", "runbook"}
                fires[case["alertname"]].add(one["exp_labels"]["severity"])
            if not expected and test["name"].startswith(f"{case['alertname']} leaves "):
                silent.add(case["alertname"])
        for case in test.get("promql_expr_test", []):
            if case["exp_samples"]:
                asked |= metrics_in(case["expr"])
    rules = read_rules()
    wanted = collections.defaultdict(set)
    for alert in alerts_in(rules):
        wanted[alert["alert"]].add(alert["labels"]["severity"])
    assert fires == wanted
    assert silent == set(wanted)
    assert asked == {rule["record"] for rule in records_in(rules)}


# --- the tests notice -----------------------------------------------------------------------------


def promtool(*arguments, folder):
    return subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


def changed_numbers(expression):
    """The expression with one of its numbers changed, for each: by more than half, or from 0."""
    quoted = r'"[^"]*"|\[[^]]*\]|\{[^}]*\}|\boffset\s+\w+'
    for found in re.finditer(rf"{quoted}|(?<![\w:.])(\d+(?:\.\d+)?)(?![\w:.])", expression):
        if found.group(1) is None:
            continue
        number = float(found.group(1))
        for other in (number * 1.6, number / 1.6) if number else (-1,):
            yield f"{expression[:found.start()]}{other!r}{expression[found.end():]}"


def changed_times(duration):
    seconds = int(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]
    return f"{seconds * 2}s", f"{seconds // 2}s"


def damaged_alerts():
    """(what is changed, the alert's place among the rules, the change)."""
    for place, rule in enumerate(read_rules()):
        if "alert" in rule:
            for expression in changed_numbers(rule["expr"]):
                yield f"{rule['alert']}: {expression}", place, {"expr": expression}
            for duration in changed_times(rule["for"]):
                yield f"{rule['alert']}: for {duration}", place, {"for": duration}


@pytest.fixture
def rules_folder(tmp_path):
    for file in (RULES, TESTS):
        shutil.copy(file, tmp_path)
    return tmp_path


def test_rules_pass(rules_folder):
    for arguments in (("check", "rules", RULES.name), ("test", "rules", TESTS.name)):
        done = promtool(*arguments, folder=rules_folder)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_no_threshold_can_change_unnoticed(rules_folder):
    """Cases that fire and cases that do not lie close to each threshold, and to each time."""
    copy = rules_folder / RULES.name
    all_tests = yaml.safe_load(TESTS.read_text(encoding="utf-8"))
    unnoticed = []
    count = 0
    for what, place, change in damaged_alerts():
        rules = read_rules()
        rules[place].update(change)
        name = rules[place]["alert"]
        alerts = [one for one in alerts_in(rules) if one["alert"] == name]
        groups = [
            {"name": "records", "rules": records_in(rules)},
            {"name": "alerts", "rules": alerts},
        ]
        copy.write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
        # Its own cases alone: with all of them it would take minutes.
        own = [one for one in all_tests["tests"] if one["name"].startswith(f"{name} ")]
        tests = rules_folder / TESTS.name
        tests.write_text(yaml.safe_dump({**all_tests, "tests": own}), encoding="utf-8")
        done = promtool("test", "rules", TESTS.name, folder=rules_folder)
        count += 1
        if done.returncode == 0:
            unnoticed.append(what)
        else:
            # Because of what fires, and not of what cannot be read.
            assert "exp:" in done.stdout + done.stderr, what + done.stdout + done.stderr
    assert not unnoticed, "\n".join(unnoticed)
    assert count >= 4 * len(alerts_in(read_rules()))


# --- what they ask for is there -------------------------------------------------------------------


@pytest.fixture
def live(start_stockd, start_client):
    """What a stockd and a stock-client serve: {name: [labels, ...]}."""
    stockd = start_stockd()
    client = start_client("--quiet", f"127.0.0.1:{stockd.port}")
    client.wait_metric("stock_updates_received_total", lambda count: count > 0)
    series = collections.defaultdict(list)
    for job, metrics in (("stockd", stockd.metrics()), ("stock-client", client.metrics())):
        for sample in metrics.samples:
            series[sample.name].append({"job": job, **sample.labels})
    return series


def unknown_selectors(expression, series):
    """Selectors that can match nothing, or of whose alternatives one matches nothing."""
    unknown = []
    for metric, matchers in selectors_in(expression):
        for label, operator, value in matchers_in(matchers):
            there = {one.get(label) for one in series[metric]}
            if ":" in metric or metric in OWN:
                # What Prometheus makes has the labels of what it is made of.
                there = {one.get(label) for same in series.values() for one in same}
            words = value.split("|") if operator in ("=~", "!~") else [value]
            unknown += [f"{metric}{{{label}=~{word}}}" for word in words if word not in there]
    return unknown


def test_metrics_exist(live):
    recorded = set()
    for rule in read_rules():
        asked = metrics_in(rule["expr"])
        assert asked, rule
        assert asked <= set(live) | OWN | recorded, asked - set(live) - OWN - recorded
        assert not unknown_selectors(rule["expr"], live)
        if "record" in rule:
            recorded.add(rule["record"])
    # And it is the rules that this looks at.
    assert unknown_selectors('stockd_refused_total{reason=~"shutdown|bored"}', live)
    assert metrics_in('sum without (a) (rate(b{c="d"}[5m] offset 1m)) > 2 and on (e) f:g') == {
        "b",
        "f:g",
    }


def test_runbook_names_what_exists(live):
    """Each expression of the runbook, and each close reason and reason of refusal."""
    known = set(live) | OWN | {rule["record"] for rule in records_in(read_rules())}
    written = sections()
    for name, text in written.items():
        lines = re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", text, re.M | re.S)
        named = re.findall(r"\b(?:instance\w*:[\w:]+|(?:stock|process|grpc)\w*_[\w]+)\b", "".join(lines))
        assert set(named) <= known | {"initial_delay"}, f"{name}: {set(named) - known}"
    for name, metric in (
        ("StockdRefusing", "stockd_refused_total"),
        ("StockdDisconnectBurst", "stockd_connections_closed_total"),
        ("StockdSlowConsumers", "stockd_blocked_streams"),
        ("StockdSubscribersCutOff", "stockd_market_cut_off_total"),
    ):
        there = {one["reason"] for one in live[metric]}
        items = re.findall(r"^\.It Li (.*)$", written[name], re.M)
        explained = {word for item in items for word in item.split(" , ")}
        assert explained, name
        assert explained <= there, explained - there
        unexplained = there - explained
        meant = {"peer_closed", "idle", "age", "shutdown", "local"}
        assert unexplained <= meant, f"{name} says nothing of {unexplained - meant}"
