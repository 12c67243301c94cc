"""
A thousand connections with ten thousand calls at once, half of them slow, that come and go. Nothing
may be left behind: no descriptor, no stream, no byte (the run with sanitizers looks for leaks when
stockd ends).
"""

import resource
import time

import pytest

from harness.crowd import FAST, SLOW_SOCKET, SLOW_WINDOW, Crowd
from harness.h2 import RawH2
from harness.stocks import Chain
from harness.wait import wait_until

CONNECTIONS = 1000
CALLS = 10  # a connection
KINDS = [FAST, SLOW_WINDOW, FAST, SLOW_SOCKET]


@pytest.fixture
def enough_descriptors():
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft >= CONNECTIONS + 200, "the limit of open files is too low for this test"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_crowd_that_comes_and_goes(request, start_stockd, sanitized, enough_descriptors):
    seconds = request.config.getoption("--scale-seconds")
    stockd = start_stockd(stream={"interval": "100ms"})
    one_call(stockd)
    stockd.wait_at_rest()
    descriptors = stockd.descriptors()
    memory = stockd.private_bytes()

    crowd = Crowd(stockd.port, CONNECTIONS, CALLS, KINDS)
    crowd.run_until(
        lambda: (metrics := stockd.metrics()).sum("stockd_connections") == CONNECTIONS
        and metrics.sum("stockd_streams") == CONNECTIONS * CALLS,
        60,
        "all of them at once",
    )
    # The calls of the small windows are blocked by them, each one.
    crowd.run_until(
        lambda: stockd.metric("stockd_blocked_streams", reason="stream_window")
        >= CONNECTIONS * CALLS / len(KINDS),
        60,
        "the blocked calls",
    )
    assert crowd.lost == []

    # Come and go.
    until = time.monotonic() + seconds
    scrapes = 0
    while time.monotonic() < until:
        crowd.churn(10)
        crowd.run(0.25)
        if (scrapes := scrapes + 1) % 8 == 0:
            metrics = stockd.metrics()
            # Who has just left may not be missed yet.
            assert metrics.sum("stockd_connections") >= CONNECTIONS * 0.95
            assert metrics.sum("stockd_streams") >= CONNECTIONS * CALLS * 0.9
    assert crowd.lost == [], "stockd closed connections"
    assert crowd.left >= seconds
    if seconds >= 40:
        assert stockd.metric("stockd_blocked_seconds_total", reason="socket") > 0
    # Nobody starves: what the watched calls got, each checked to the last digit.
    wait_for_each(crowd, 10)

    crowd.close()
    metrics = stockd.wait_at_rest(60)
    # The first call of all was one more.
    assert metrics.sum("stockd_connections_accepted_total") == crowd.left + 1
    assert metrics.sum("stockd_refused_total") == 0
    wait_until(lambda: stockd.descriptors() <= descriptors, what="descriptors as before")
    if not sanitized:
        # The heap of all of them, some 20 MiB, has gone back to the kernel.
        wait_until(lambda: stockd.private_bytes() - memory < 4 << 20, what="memory as before")
    one_call(stockd)


def wait_for_each(crowd, count):
    chains = crowd.checked_chains()
    assert chains
    crowd.run_until(
        lambda: all(chain.count >= count for chain in chains), 60, f"{count} updates for each call"
    )


def one_call(stockd):
    with RawH2(stockd.port) as h2:
        h2.wait_updates(h2.ready().call(), 3, Chain())


@pytest.mark.timeout(300)
def test_memory_does_not_grow_from_wave_to_wave(start_stockd, sanitized, enough_descriptors):
    """
    What the first waves needed serves all others, too. How the heap is cut up settles within a few
    waves; 16 bytes lost with each call would show as 80 KB in every one.
    """
    # The quarantine of AddressSanitizer keeps what was freed.
    settled, allowed, waves = (2, 256 << 20, 4) if sanitized else (4, 64 << 10, 30)
    stockd = start_stockd(stream={"interval": "0"})
    size = 500
    after = []
    while len(after) <= settled or after[-1] - after[-1 - settled] > allowed:
        assert len(after) < waves, after
        crowd = Crowd(stockd.port, size, CALLS, [SLOW_WINDOW, SLOW_SOCKET], seed=len(after))
        crowd.run_until(
            lambda: stockd.metric("stockd_blocked_streams") == size * CALLS, 60, "all blocked"
        )
        crowd.close()
        stockd.wait_at_rest(60)
        after.append(stockd.private_bytes())


def test_a_storm_of_connections(start_stockd, enough_descriptors):
    """Hundreds that connect and leave at once, some without a word."""
    stockd = start_stockd(stream={"interval": "10ms"})
    one_call(stockd)
    stockd.wait_at_rest()
    descriptors = stockd.descriptors()
    with RawH2(stockd.port) as steady:
        stream = steady.ready().call()
        chain = Chain()
        for _ in range(5):
            clients = [RawH2(stockd.port, preface=number % 3 > 0) for number in range(150)]
            for number, client in enumerate(clients):
                if number % 3 == 2:
                    client.call()
            for number, client in enumerate(clients):
                client.abort() if number % 2 else client.close()
            steady.wait_updates(stream, chain.count + 5, chain)
    stockd.wait_at_rest()
    wait_until(lambda: stockd.descriptors() <= descriptors, what="descriptors as before")
