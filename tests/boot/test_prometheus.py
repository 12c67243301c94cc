"""
Debian's prometheus with the files of stockd-observability, used as README.Debian says: it finds
stockd and both clients, sees what they count, and sees when stockd is gone.
"""

import json
import urllib.parse

import pytest
from harness.wait import wait_until

FOLDER = "/etc/stockd-observability/prometheus"
DROP_IN = "/usr/share/stockd-observability/prometheus.service.d/stockd.conf"
LINK = "/etc/systemd/system/prometheus.service.d/stockd.conf"
URL = "http://127.0.0.1:9090"
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


def wait_values(box, query, wanted):
    wait_until(lambda: ask(box, query) == wanted, 40, f"{query} to be {wanted}")


@pytest.fixture(scope="module")
def prometheus(installed):
    box = installed
    box.systemctl("start", "stock-client@fast", "stock-client@slow")
    box.run("mkdir", "-p", "/etc/systemd/system/prometheus.service.d")
    box.run("ln", "-s", DROP_IN, LINK)
    box.systemctl("daemon-reload")
    box.systemctl("restart", "prometheus")
    wait_until(lambda: box.fetch(f"{URL}/-/ready", check=False), 30, "prometheus")
    yield box
    box.run("rm", LINK)
    box.systemctl("daemon-reload")
    box.systemctl("restart", "prometheus")


def test_all_targets_are_up(prometheus):
    for target in TARGETS:
        wait_values(prometheus, target, [1])
