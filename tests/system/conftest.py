"""
System tests: real processes, real sockets on loopback, clients that we did not write.

    /usr/bin/python3 -m pytest tests/system --build DIR

DIR is a CMake build folder with daemon/stockd and client/stock-client in it. The same tests run on
a release build and on one with sanitizers: after each test every stockd that it started must have
ended with exit status 0, without a sanitizer's report.
"""

import os
import resource
import sys
from pathlib import Path

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pytest

pytest.register_assert_rewrite("harness")

from harness.clients import CppClient, GrpcioClient, JsClient
from harness.fixtures import (
    build,
    client_program,
    pytest_collection_modifyitems,
    run_stockd,
    sanitized,
    start_program,
    start_stockd,
    stockd_program,
)
from harness.rules import (
    pass_no_ignored_signals,
    pytest_make_collect_report,
    pytest_runtest_call,
    pytest_runtest_makereport,
)


def pytest_addoption(parser):
    parser.addoption("--build", help="CMake build folder with the programs to test")
    parser.addoption(
        "--scale-seconds", type=float, default=60, help="how long test_scale keeps its load up"
    )


def pytest_configure(config):
    pass_no_ignored_signals()
    config.addinivalue_line("markers", "timeout(seconds): what one test may take at most")
    config.addinivalue_line("markers", "slow: takes a minute; its length is --scale-seconds")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


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
