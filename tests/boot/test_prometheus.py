"""
Debian's prometheus with the files of stockd-observability, used as README.Debian says: it finds
stockd and both clients, sees what they count, and sees when stockd is gone.
"""

import json
import re
import urllib.parse

import pytest
from harness.wait import wait_until

FOLDER = "/etc/stockd-observability/prometheus"
LINK = "/etc/systemd/system/prometheus.service.d/stockd.conf"
URL = "http://127.0.0.1:9090"
METRICS = "http://127.0.0.1:2112/metrics"
# By what the targets files say of them.
TARGETS = (
    'up{job="stockd"}',
    'up{job="stock-client",client="fast"}',
    'up{job="stock-client",client="slow"}',
)


def ask(box, query):
    """The values that a query has, by now."""
    asked = urllib.parse.urlencode({"query": query})
    answer = json.loads(box.fetch(f"{URL}/api/v1/query?{asked}"))
    assert answer["status"] == "success", answer
    return [float(one["value"][1]) for one in answer["data"]["result"]]


def wait_values(box, query, fits):
    """Waits until all that a query gives is as wanted; returns it."""
    seen = []

    def look():
        seen[:] = ask(box, query)
        return fits(seen)

    try:
        wait_until(look, 40)
    except AssertionError:
        targets = json.loads(box.fetch(f"{URL}/api/v1/targets?state=active"))["data"]
        errors = {one["scrapeUrl"]: one["lastError"] for one in targets["activeTargets"]}
        raise AssertionError(f"{query} stayed at {seen}; errors: {errors}") from None
    return seen


def ready(box):
    return wait_until(lambda: box.fetch(f"{URL}/-/ready", check=False), 30, "prometheus")


@pytest.fixture(scope="module")
def prometheus(installed):
    """Set up by what README.Debian says, word for word; before, nothing is in effect."""
    box = installed
    assert FOLDER not in box.run("systemctl", "cat", "prometheus").output
    box.systemctl("start", "stock-client@fast", "stock-client@slow")
    readme = box.read("/usr/share/doc/stockd-observability/README.Debian")
    script = re.search(r"^  mkdir .*?^  systemctl restart prometheus$", readme, re.M | re.S).group()
    box.shell(script)
    ready(box)
    return box


def test_configuration_is_valid(installed):
    for name in ("prometheus.yml", "scrape.yml"):
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
    targets = json.loads(prometheus.fetch(f"{URL}/api/v1/targets?state=active"))["data"]
    found = sorted(
        (one["labels"]["job"], one["scrapeUrl"])
        for one in targets["activeTargets"]
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
    assert ask(prometheus, 'sum(up{job="stock-client"})') == [2]
    prometheus.systemctl("start", "stockd")
    wait_values(prometheus, up, lambda values: values == [1])
    # A process that counts anew, not the figures of the one before.
    wait_values(
        prometheus, 'resets(stock_updates_sent_total{job="stockd"}[10m])', lambda v: v and v[0] >= 1
    )


def test_going_back(prometheus):
    """As README.Debian says; and all the time no package's file was touched."""
    used = prometheus.fetch(f"{URL}/api/v1/status/config")
    assert "stock-client" in used
    prometheus.run("rm", LINK)
    prometheus.systemctl("daemon-reload")
    prometheus.systemctl("restart", "prometheus")
    ready(prometheus)
    assert "stock-client" not in prometheus.fetch(f"{URL}/api/v1/status/config")
    assert prometheus.run("dpkg", "--verify", "prometheus", "stockd-observability").output == ""
