"""
stockd-metrics(7) documents every family, and every value of the labels that say why, and nothing
that there isn't. Read from the tables in the sources, so that no program needs to run.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLES = ["daemon/families.c", "client/families.c", "daemon/base/process.c"]
LABELS = {
    "daemon/market/feed.h": ["FEED_STATES"],
    "daemon/market/market.h": ["CUT_OFF_REASONS", "RESUME_OUTCOMES", "SLOW_POLICIES"],
    "daemon/net/connection.h": ["BLOCKED_REASONS", "CLOSE_REASONS"],
    "daemon/rpc/call.h": ["REFUSAL_REASONS"],
    "daemon/net/tls.h": ["TLS_OUTCOMES"],
    "client/stats.h": ["CONNECT_OUTCOMES", "RESUME_OUTCOMES"],
}
TYPES = {"COUNTER": "Counter", "GAUGE": "Gauge", "HISTOGRAM": "Histogram"}


def families():
    """(name, type, help) of each row."""
    for path in TABLES:
        rows = re.findall(
            r'\{"(\w+)",\s*METRIC_(\w+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+),', (ROOT / path).read_text()
        )
        assert rows, path
        yield from rows


def labels():
    for path, macros in LABELS.items():
        text = (ROOT / path).read_text()
        for macro in macros:
            lines = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*)", text).group(1)
            values = re.findall(r'X\(\w+, "(\w+)"\)', lines)
            assert values, macro
            yield from values


@pytest.fixture(scope="module")
def documented():
    """The paragraph of each item of the manual."""
    text = (ROOT / "config/stockd-metrics.7").read_text()
    items = re.findall(r"^\.It (?:Ic|Li) (\w+)\n((?:(?!\.It ).*\n)*)", text, re.MULTILINE)
    assert items
    return dict(items)


def test_every_family_is_documented_with_its_type(documented):
    for name, kind, _ in families():
        assert name in documented, f"stockd-metrics(7) lacks {name}"
        assert documented[name].startswith(TYPES[kind]), name


def test_every_reason_is_documented(documented):
    for label in labels():
        assert label in documented, f"stockd-metrics(7) lacks {label}"


def test_nothing_else_is_documented(documented):
    known = {name for name, _, _ in families()} | set(labels())
    assert set(documented) - known == set()


def test_names_follow_the_conventions():
    names = [name for name, _, _ in families()]
    assert len(names) == len(set(names))
    for name, kind, text in families():
        assert name.endswith("_total") == (kind == "COUNTER"), name
        assert re.search(r'\."\s*$', text), f"the help of {name} is no sentence"
