"""Waiting for conditions. No test sleeps for a fixed time."""

import time


def wait_until(condition, timeout=20.0, what="the condition"):
    """Returns condition()'s first true value; AssertionError if none comes within `timeout` s."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {timeout:g} s; last seen: {value!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def wait_stable(read, quiet=0.4, timeout=20.0, what="the value"):
    """
    Returns what read() gives once it has not changed for `quiet` seconds: how one sees that
    something has stopped.
    """
    deadline = time.monotonic() + timeout
    value = read()
    since = time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} still changed after {timeout:g} s; last seen: {value!r}")
        time.sleep(0.02)
        newer = read()
        if newer != value:
            value = newer
            since = time.monotonic()
    return value
