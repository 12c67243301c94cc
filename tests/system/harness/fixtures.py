"""
Fixtures that start programs of a build and see to it that they end well, for a conftest.py to
import. The build, which --build names, is a CMake build folder with daemon/stockd and
client/stock-client in it; after each test every stockd that it started must have ended with exit
status 0, without a sanitizer's report.
"""

import signal
import subprocess
from pathlib import Path

import pytest

from harness.process import Program, Stockd, assert_no_report, clean_environment, is_sanitized


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--build") and not config.getoption("--collect-only"):
        raise pytest.UsageError("say --build DIR, a CMake build folder")


@pytest.fixture(scope="session")
def build(request):
    folder = Path(request.config.getoption("--build")).resolve()
    assert (folder / "daemon" / "stockd").exists(), f"no daemon/stockd in {folder}"
    return folder


@pytest.fixture(scope="session")
def stockd_program(build):
    return build / "daemon" / "stockd"


@pytest.fixture(scope="session")
def client_program(build):
    program = build / "client" / "stock-client"
    assert program.exists(), f"no client/stock-client in {build}"
    return program


@pytest.fixture(scope="session")
def sanitized(stockd_program):
    """Is it a build with sanitizers? Memory figures mean nothing there."""
    return is_sanitized(stockd_program)


@pytest.fixture
def start_stockd(stockd_program, tmp_path):
    """
    start_stockd(stream={"interval": 0}, ..., arguments=[...], environment={...}) starts a stockd
    with these sections of its configuration, listening on free ports of the loopback.
    """
    started = []

    def start(arguments=(), environment=None, wait=True, prefix=(), **sections):
        daemon = Stockd(
            stockd_program,
            tmp_path,
            len(started),
            sections,
            arguments,
            clean_environment(**(environment or {})),
            prefix,
        )
        started.append(daemon)
        return daemon.wait_ready() if wait else daemon

    yield start
    faults = []
    for daemon in started:
        try:
            daemon.check_end()
        except AssertionError as fault:
            faults.append(str(fault))
    assert not faults, "\n".join(faults)


@pytest.fixture
def run_stockd(stockd_program):
    """Runs stockd to its end: run_stockd("--version").stdout"""

    def run(*arguments, environment=None, timeout=30):
        done = subprocess.run(
            [str(stockd_program), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=clean_environment(**(environment or {})),
        )
        assert_no_report(done.stderr, "stockd")
        return done

    return run


@pytest.fixture
def start_program(tmp_path):
    """Starts any program; it is ended after the test, and must not write a sanitizer's report."""
    started = []

    def start(argv, name, environment=None):
        program = Program(
            argv, tmp_path, f"{name}-{len(started)}", clean_environment(**(environment or {}))
        )
        started.append(program)
        return program

    yield start
    faults = []
    for program in started:
        try:
            if program.running():
                program.stop(signal.SIGTERM)
            assert_no_report(program.log(), program.name)
        except AssertionError as fault:
            faults.append(str(fault))
    assert not faults, "\n".join(faults)
