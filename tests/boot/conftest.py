"""
Boot tests: the packages, in a really booted systemd (box.py), as an administrator has them.

    /usr/bin/python3 -m pytest tests/boot            (as root)

Packages are built if need be (packages.py), root file systems are made if need be (roots.py); both
are kept in ~/.cache/stockd-boot. A machine on which no box can be booted fails these tests, and is
told why: what was not tried has not passed.
"""

import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "system"))

import pytest

pytest.register_assert_rewrite("box", "clients", "harness")

import packages
import roots
from box import Box, why_impossible
from harness.rules import (
    fail_if_skipped,
    pass_no_ignored_signals,
    pytest_make_collect_report,
    pytest_runtest_call,
)
from harness.wait import wait_until

REPOSITORY = "/srv/packages"


def pytest_addoption(parser):
    parser.addoption("--logs", help="folder for journals of tests that failed")


def pytest_configure(config):
    pass_no_ignored_signals()
    config.addinivalue_line("markers", "timeout(seconds): what one test may take at most")


def pytest_sessionstart(session):
    if session.config.getoption("--collect-only"):
        return
    lack = why_impossible()
    if lack:
        raise pytest.UsageError(f"the boot tests cannot run: {lack}")
    # An end that is asked for ends the boxes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    fail_if_skipped(report)
    if report.failed and call.when in ("setup", "call"):
        for made in Box.alive:
            saved = made.save_journal(f"{item.name.replace('/', '-')}-{made.name}")
            report.sections.append(("journal of the box", f"saved as {saved}"))


@pytest.fixture(scope="session")
def log_folder(request):
    given = request.config.getoption("--logs")
    if given:
        folder = Path(given).resolve()
    else:
        folder = Path(tempfile.mkdtemp(prefix="stockd-boot-logs-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"journals of failed tests will be in {folder}")
    return folder


class Prepared:
    """
    What takes long to make, made at once in the background, as far as the tests that were chosen
    want it.
    """

    def __init__(self, wants_current, wants_trixie):
        self.pool = ThreadPoolExecutor(max_workers=2)
        self.current = self.pool.submit(packages.build) if wants_current else None
        self.trixie = self.pool.submit(packages.build_in, "trixie") if wants_trixie else None


@pytest.fixture(scope="session")
def prepared(request):
    wants_trixie = any("trixie" in item.path.name for item in request.session.items)
    wants_current = any("current_packages" in item.fixturenames for item in request.session.items)
    made = Prepared(wants_current, wants_trixie)
    yield made
    made.pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def current_packages(prepared):
    return prepared.current.result()


@pytest.fixture(scope="session")
def previous_packages(current_packages, tmp_path_factory):
    return packages.make_previous(current_packages, tmp_path_factory.mktemp("previous") / "debs")


@pytest.fixture(scope="session")
def bookworm(current_packages):
    """
    A root file system of Debian 12 with all that our packages depend on, Prometheus, and what users
    need for a service manager of their own.
    """
    needed = [*current_packages.dependencies(), "libpam-systemd"]
    return roots.root("bookworm", needed, disabled=("prometheus",))


@pytest.fixture(scope="session")
def repository(current_packages, previous_packages, tmp_path_factory):
    """Both versions, for apt."""
    folder = tmp_path_factory.mktemp("repository")
    return packages.repository(folder, previous_packages, current_packages)


@pytest.fixture(scope="module")
def box(request, bookworm, repository, log_folder):
    """A freshly booted machine that knows where the packages are; one for each file of tests."""
    name = request.module.__name__.removeprefix("test_")
    with Box(bookworm, name, log_folder, {REPOSITORY: repository}) as made:
        made.add_repository(REPOSITORY)
        yield made


@pytest.fixture(scope="module")
def installed(box):
    """The same with the packages installed, and stockd running."""
    box.apt("install", "stockd", "stock-client", "stockd-observability")
    box.wait_property("stockd", "ActiveState", "active")
    return box


@pytest.fixture
def service(installed):
    """
    A stockd that runs as it was installed. What the test did to its configuration and its units is
    undone afterwards, so that the next finds the same.
    """
    start_afresh(installed)
    yield installed


# All that tests add lies in these folders, or is a file that they named "boot-test".
UNDO = """
# First what would start the others again.
systemctl stop stockd.socket stockd-metrics.socket 'stockd@*.socket' 'stockd-metrics@*.socket'
systemctl stop 'stockd@*.service' 'stock-client@*.service' stockd.service
rm -rf /etc/systemd/system/stock*.d /run/systemd/system/stock*.d /etc/stockd/*.conf.d/*
find /etc /run/systemd -name '*boot-test*' -delete
systemctl daemon-reload
systemctl reset-failed
systemctl start stockd.service
"""


def start_afresh(box):
    box.shell(UNDO)
    box.wait_property("stockd", "ActiveState", "active")
    wait_until(lambda: box.fetch("http://127.0.0.1:2112/metrics", check=False), 10, "metrics")
