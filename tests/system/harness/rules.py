"""
What holds for every test that starts programs, as hooks of pytest that a conftest.py imports.
"""

import signal

import pytest

TEST_TIMEOUT_S = 150


def pass_no_ignored_signals():
    """
    A job in the background ignores SIGINT and SIGQUIT, one of nohup SIGHUP, and so would all that
    it starts: tests that press ^C would see nothing of it. A handler does as little, and is not
    passed on.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """A test that hangs fails, and its processes are ended like those of any other."""
    marker = item.get_closest_marker("timeout")
    seconds = marker.args[0] if marker else TEST_TIMEOUT_S

    def expired(*_):
        raise AssertionError(f"the test took longer than {seconds} s")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.alarm(int(seconds))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def fail_if_skipped(report):
    """A test that was not made, or was expected to fail, has not passed."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure here: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    fail_if_skipped((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    fail_if_skipped((yield).get_result())
