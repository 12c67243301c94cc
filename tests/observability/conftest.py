"""
Observability tests: a real Prometheus scrapes a real stockd with real clients, and is asked what it
saw; Grafana's own linter reads the dashboard.

    /usr/bin/python3 -m pytest tests/observability --build DIR

DIR is a CMake build folder, as for the system tests, whose harness these tests use.
"""

import os
import sys
from pathlib import Path

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "bench"))
sys.path.insert(0, str(HERE.parent / "system"))

import pytest

pytest.register_assert_rewrite("harness")

from harness.fixtures import (
    build,
    client_program,
    pytest_collection_modifyitems,
    start_program,
    start_stockd,
    stockd_program,
)
from harness.prometheus import Prometheus
from harness.rules import (
    pass_no_ignored_signals,
    pytest_make_collect_report,
    pytest_runtest_call,
    pytest_runtest_makereport,
)
from harness.stock_client import start_client


def pytest_addoption(parser):
    parser.addoption("--build", help="CMake build folder with the programs to test")


def pytest_configure(config):
    pass_no_ignored_signals()
    config.addinivalue_line("markers", "timeout(seconds): what one test may take at most")
    config.addinivalue_line("markers", "xdist_group(name): run by one process, one after the other")


@pytest.fixture
def start_prometheus(tmp_path):
    """start_prometheus(config, program=None, arguments=()): a Prometheus that is ready."""
    started = []

    def start(config, program=None, arguments=()):
        server = Prometheus(config, tmp_path, program, arguments, f"prometheus-{len(started)}")
        started.append(server)
        return server.wait_ready()

    yield start
    for server in started:
        if server.running():
            server.stop()
