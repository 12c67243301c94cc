"""
System tests: real processes, real sockets on loopback, clients that we did not write.

    /usr/bin/python3 -m pytest tests/system --build DIR

DIR is a CMake build folder with daemon/stockd and client/stock-client in it. The same tests run on
a release build and on one with sanitizers: after each test every stockd that it started must have
ended with exit status 0, without a sanitizer's report.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pytest

pytest.register_assert_rewrite("harness")

from harness.clients import CppClient, GrpcioClient, JsClient
from harness.process import Program, Stockd, assert_no_report, clean_environment, is_sanitized
from harness.rules import fail_if_skipped, pytest_make_collect_report, pytest_runtest_call


def pytest_addoption(parser):
    parser.addoption("--build", help="CMake build folder with the programs to test")
    parser.addoption(
        "--scale-seconds", type=float, default=60, help="how long test_scale keeps its load up"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "timeout(seconds): what one test may take at most")
    config.addinivalue_line("markers", "slow: takes a minute; its length is --scale-seconds")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--build") and not config.getoption("--collect-only"):
        raise pytest.UsageError("say --build DIR, a CMake build folder")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    fail_if_skipped((yield).get_result())


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


@pytest.fixture(scope="session")
def js_client(build):
    return JsClient(build / "system-clients" / "js")


@pytest.fixture(scope="session")
def cpp_client(build):
    return CppClient(build / "system-clients" / "cpp")


@pytest.fixture(params=["grpcio", "grpc-js", "grpc++"])
def client(request):
    """Each of the three clients that we did not write, behind one interface."""
    if request.param == "grpcio":
        return GrpcioClient()
    return request.getfixturevalue({"grpc-js": "js_client", "grpc++": "cpp_client"}[request.param])
