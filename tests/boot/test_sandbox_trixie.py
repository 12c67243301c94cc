"""
The sandbox once more in the next Debian: its service manager makes it of the same units in ways of
its own, and its libraries make other system calls.
"""

import pytest
from conftest import start_afresh
from test_sandbox import *
from test_trixie import machine


@pytest.fixture(scope="module")
def installed(machine):
    return machine


@pytest.fixture
def service(installed):
    start_afresh(installed)
    return installed
