"""
What the market promises, shown at some size: slow subscribers cost others nothing, and no more
memory than was configured; merging never shows anything old; whoever comes back misses nothing.
"""

import json
import random
import signal
import subprocess
import threading
import time

import pytest

from harness.h2 import INITIAL_WINDOW_SIZE, RawH2, message, request_headers
from harness.market import SUBSCRIBE, Market
from harness.process import assert_no_report, clean_environment
from harness.stocks import pb2
from harness.wait import wait_stable, wait_until

MIB = 1 << 20


def subscribe(h2, **fields):
    """A call of Subscribe; `fields` are those of its request."""
    request = pb2().SubscribeRequest(**fields)
    return h2.call(request_headers(SUBSCRIBE), message(request.SerializeToString()))


def take_events(stream):
    return [pb2().MarketEvent.FromString(body) for body in stream.take_bodies()]


def position(event):
    """Where to go on after `event`."""
    return {"epoch": event.epoch, "sequence": event.resume_sequence or event.sequence}


# ---- Ten thousand tickers, a thousand subscribers, a quarter of them stalled ----


class Watcher:
    """
    Subscribes on a connection of its own, in a thread, and sees to it that the updates come whole,
    so that what stock-client counts does not stand alone.
    """

    def __init__(self, port):
        self.h2 = RawH2(port).ready()
        self.h2.auto_credit = True
        self.stream = subscribe(self.h2, policy="SLOW_POLICY_BLOCK")
        self.sequence = 0
        self.updates = 0
        self.fault = None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.done.is_set():
                self.h2.pump(0.1)
                for event in take_events(self.stream):
                    assert event.WhichOneof("event") == "update", event
                    assert not (event.conflated or event.dropped), event
                    assert self.sequence in (0, event.sequence - 1), (self.sequence, event)
                    self.sequence = event.sequence
                    self.updates += 1
                assert not self.stream.over and not self.h2.eof, self.stream.trailers
        except AssertionError as fault:
            self.fault = fault

    def stop(self):
        self.done.set()
        self.thread.join(20)
        self.h2.close()
        if self.fault:
            raise self.fault
        return self.updates


class Bench:
    """stock-client bench, in the background."""

    def __init__(self, program, port, tmp_path, *arguments):
        self.log = open(tmp_path / "bench.log", "ab+")
        self.process = subprocess.Popen(
            [program, "bench", "--output", "json", *map(str, arguments), f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=clean_environment(),
        )

    def result(self, number=None):
        """What it says at its end, which `number`, a signal, brings on."""
        if number:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=60)
        self.log.seek(0)
        assert_no_report(self.log.read().decode(), "stock-client")
        self.log.close()
        assert self.process.returncode == (130 if number else 0), output
        return json.loads(output)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Flow:
    """So many updates a second, of any tickers, until the end of the block."""

    def __init__(self, market, tickers, rate):
        self.market = market
        self.tickers = tickers
        self.pause = 1 / rate
        self.random = random.Random(1)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.done.wait(self.pause):
            self.market.publisher.publish((self.random.choice(self.tickers), 100.0))

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(20)


@pytest.mark.timeout(240)
def test_stalled_subscribers_cost_the_others_nothing(
    start_stockd, client_program, tmp_path, sanitized
):
    count, subscribers, rate = (1000, 100, 100) if sanitized else (10000, 1000, 200)
    tickers = [f"T{n:05}" for n in range(count)]
    stalled_count = subscribers // 4
    fast_count = subscribers - stalled_count
    history_size, subscriptions_size = 512 << 10, 1 * MIB
    connections = 10

    listed = tmp_path / "tickers.csv"
    listed.write_text("\n".join(["ticker", *tickers]) + "\n")
    market = Market(
        start_stockd,
        tmp_path,
        tickers="",
        market={
            "tickers_file": listed,
            "history_size": history_size,
            "max_subscriptions_size": subscriptions_size,
        },
    )
    stockd = market.stockd
    watcher = Watcher(market.port)

    def update_all():
        """An update of each ticker, no faster than the watcher takes them."""
        for first in range(0, count, 500):
            before = watcher.updates
            quotes = [(ticker, 100.0) for ticker in tickers[first : first + 500]]
            market.publisher.publish(*quotes)
            wait_until(
                lambda: watcher.fault or watcher.updates >= before + len(quotes), 30, "the updates"
            )

    update_all()
    before = stockd.private_bytes()

    def stall(*arguments):
        return Bench(
            client_program, market.port, tmp_path, "--calls", stalled_count // 2,
            "--connections", connections // 2, "--slow", 100, "--slow-delay", "1h",
            "--window", 4096, "--duration", "10m", *arguments,
        )  # fmt: skip

    def wait_subscribers(wanted):
        def enough():
            by_policy = stockd.metrics().by("stockd_market_subscribers", "policy")
            return sum(by_policy.values()) >= wanted

        wait_until(enough, 30, f"{wanted} subscribers")

    def measure(others):
        """
        The 99th percentile of the age of updates, ms, when the fast ones get them. The market
        stands still until they all have begun.
        """
        with Bench(
            client_program, market.port, tmp_path, "--calls", fast_count,
            "--connections", connections, "--duration", "1s",
        ) as bench:  # fmt: skip
            wait_subscribers(others + fast_count)
            with Flow(market, tickers, rate):
                result = bench.result()
        whole = result["all"]
        assert whole["calls"] == whole["answered"] == fast_count, result
        assert whole["untold"] == whole["repeated"] == whole["dropped"] == 0, result
        assert whole["updates"] >= 10 * fast_count, result
        fairness.append(whole["fairness"])
        return whole["latency_ms"]["p99"]

    fairness = []
    calm, stalled, memory = [], [], []
    # In turns, and until it is clear: what else this machine does can only make updates older.
    while len(calm) < 4 or ratio(stalled, calm) > 1.5:
        assert len(calm) < 40, (calm, stalled)
        calm += [measure(1), measure(1)]
        with stall("--policy", "conflate") as one, stall(
            "--policy", "drop-oldest", "--max-queue", 100
        ) as other:
            wait_subscribers(2 * (stalled_count // 2) + 1)
            # Each has used up its window, is behind, and has an update of each ticker to get.
            update_all()
            # What that was for each of them is done: what is measured is what they cost from now on.
            wait_stable(lambda: stockd.metric("stockd_market_conflated_total"), what="merging")
            assert behind(stockd) >= 2 * (stalled_count // 2)
            others = 2 * (stalled_count // 2) + 1
            stalled += [measure(others), measure(others)]
            metrics = stockd.metrics()
            memory.append(stockd.private_bytes())
            one.result(signal.SIGINT)
            other.result(signal.SIGINT)
    updates = watcher.stop()
    market.publisher.close()

    terms = {
        "history_size": history_size,
        "max_subscriptions_size": subscriptions_size,
        "streams, 1 KiB each": (subscribers + 1) << 10,
        # What a connection keeps of a session, and of one write that the socket did not take.
        "connections, 192 KiB each": (2 * connections + 1) * 192 << 10,
    }
    bound = sum(terms.values())
    print(
        f"p99 calm {calm}, with {stalled_count} stalled {stalled}, ms: ratio "
        f"{ratio(stalled, calm):.2f}; fairness at least {min(fairness):.4f}; memory "
        f"{(max(memory) - before) / MIB:.2f} MiB of {bound / MIB:.2f} MiB: {terms}; "
        f"{metrics.sum('stockd_market_subscriptions_bytes') / MIB:.2f} MiB of it subscriptions; "
        f"the watcher had {updates} updates"
    )
    assert metrics.sum("stockd_market_tickers") == count
    assert metrics.sum("stockd_market_history_bytes") <= history_size
    assert metrics.sum("stockd_market_subscriptions_bytes") <= subscriptions_size
    assert min(fairness) > 0.9, fairness
    if not sanitized:
        assert max(memory) - before <= bound, (before, memory, terms)


def ratio(stalled, calm):
    return min(stalled) / min(calm)


def behind(stockd):
    return sum(stockd.metrics().by("stockd_market_subscribers_behind", "policy").values())


# ---- Freshness ----


@pytest.mark.timeout(120)
def test_merged_values_are_never_older_than_an_interval(start_stockd, sanitized):
    """
    One takes all that the market makes. Others take what is there once in the time of a hundred
    updates of each ticker, and must then hold nothing that was not the newest when they took the
    time before: no matter how busy this machine is.
    """
    tickers = 4 if sanitized else 8
    tick_ms = 20 if sanitized else 10
    interval = 100 * tick_ms / 1000
    stockd = start_stockd(
        market={
            "feed": "walk",
            "tickers": ", ".join(f"T{n}" for n in range(tickers)),
            "interval": f"{tick_ms}ms",
        }
    )
    newest, held = {}, [{}, {}, {}]
    fast = RawH2(stockd.port).ready()
    fast.auto_credit = True
    fast_stream = subscribe(fast)
    # The window has room for a value of each ticker, and for little more.
    slow = [RawH2(stockd.port, {INITIAL_WINDOW_SIZE: 170 * tickers + 512}).ready() for _ in range(2)]
    streams = [
        subscribe(slow[0], policy="SLOW_POLICY_CONFLATE"),
        subscribe(slow[1], policy="SLOW_POLICY_CONFLATE", tickers=[f"T{n}" for n in range(tickers)]),
    ]
    # The server can also keep the pace for one that takes everything at once.
    paced = RawH2(stockd.port).ready()
    paced.auto_credit = True
    streams.append(subscribe(paced, min_interval_ms=int(1000 * interval)))

    def follow(seconds):
        """Reads what the fast ones get, and leaves the slow ones alone."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            fast.pump(0.005)
            for event in take_events(fast_stream):
                newest[event.update.ticker] = event.sequence
            paced.pump(0)

    try:
        follow(interval)
        assert len(newest) == tickers
        known = None
        merged = [0, 0, 0]
        for turn in range(4):
            for number, stream in enumerate(streams):
                h2 = stream.connection
                while h2.pump(0):
                    pass
                for event in take_events(stream):
                    assert event.WhichOneof("event") == "update", event
                    held[number][event.update.ticker] = event.sequence
                    merged[number] += event.conflated
                if number < 2 and stream.data_bytes:
                    h2.give({stream.id: stream.data_bytes})
                    stream.data_bytes = 0
            # The first takings only begin the first interval. What the server paces may be under
            # way for a moment when its time has come.
            if turn > 1:
                for number in range(2):
                    for ticker, sequence in known.items():
                        assert held[number][ticker] >= sequence, (number, ticker, known, held)
            if turn > 2:
                for ticker, sequence in older.items():
                    assert held[2][ticker] >= sequence, (ticker, older, held)
            older, known = known, dict(newest)
            follow(interval)
        # They were slow indeed: nearly all updates were merged.
        for count in merged:
            assert count > 50 * tickers, merged
    finally:
        for h2 in (fast, paced, *slow):
            h2.close()


# ---- Coming back ----


@pytest.mark.timeout(120)
@pytest.mark.parametrize("policy", ["SLOW_POLICY_BLOCK", "SLOW_POLICY_CONFLATE"])
def test_a_reconnect_leaves_nothing_out(start_stockd, policy):
    """
    Connections are lost in each way there is: reset by the client, closed by it in the middle of a
    message, and ended by the server for their age. Who resumes has each update exactly once.
    """
    stockd = start_stockd(
        grpc={"max_age": "1s", "max_age_grace": "100ms"},
        market={"feed": "walk", "tickers": "A, B, C", "interval": "5ms"},
    )
    last = None
    seen, events = 0, 0
    ends = []
    for turn in range(9):
        h2 = RawH2(stockd.port).ready()
        h2.auto_credit = True
        how = ("reset", "partial", "server")[turn % 3]
        stream = subscribe(h2, policy=policy, **({"resume": position(last)} if last else {}))
        wanted = events + 40
        while events < wanted if how != "server" else not (h2.eof or stream.over):
            h2.pump(0.5)
            for event in take_events(stream):
                assert event.WhichOneof("event") == "update", event
                if last:
                    # A fast subscriber's queue is nearly always empty; after a resume what waited
                    # may come merged, and then all of it is told.
                    assert event.epoch == last.epoch
                    if policy == "SLOW_POLICY_BLOCK":
                        assert event.sequence == last.sequence + 1, (turn, last, event)
                        assert event.conflated == event.dropped == 0, event
                seen += 1 + event.conflated
                if first_of(last):
                    start = event.sequence
                last = event
                events += 1
        ends.append(how)
        if how == "server":
            assert h2.goaway, "the server has not ended the connection"
            h2.close()
        elif how == "partial":
            h2.close()
        else:
            h2.abort()
    assert last.dropped == 0
    # Received and merged ones together are all that there were, up to where the last one stands.
    done = position(last)["sequence"]
    if policy == "SLOW_POLICY_BLOCK":
        assert seen == done - start + 1
    outcomes = stockd.metrics().by("stockd_market_resumes_total", "outcome")
    assert outcomes["complete"] == len(ends) - 1, outcomes
    assert sum(outcomes.values()) == len(ends) - 1, outcomes


def first_of(last):
    return last is None


@pytest.mark.timeout(120)
def test_a_killed_client_goes_on_where_it_was(start_stockd, client_program, tmp_path):
    """
    What stock-client has printed may be printed again by the one that follows it, if it was killed
    before it could note that; but nothing is left out, and nothing else comes twice.
    """
    stockd = start_stockd(market={"feed": "walk", "tickers": "A, B, C", "interval": "3ms"})
    state = tmp_path / "state"
    values, last = {}, None
    for run in range(4):
        output = tmp_path / f"run-{run}"
        with open(output, "wb") as file, open(tmp_path / "log", "ab+") as log:
            client = subprocess.Popen(
                [client_program, "watch", "--state", state, "--output", "json", "--no-metrics",
                 f"127.0.0.1:{stockd.port}"],
                stdin=subprocess.DEVNULL, stdout=file, stderr=log, env=clean_environment(),
            )  # fmt: skip
            try:
                enough = output.stat().st_size + 200_000
                # A position was kept meanwhile: the next one begins with the events behind it.
                old = state.stat().st_mtime_ns if state.exists() else 0
                wait_until(
                    lambda: output.stat().st_size > enough
                    and state.exists()
                    and state.stat().st_mtime_ns > old,
                    30,
                    "events and a position",
                )
            finally:
                client.send_signal(signal.SIGKILL if run < 3 else signal.SIGINT)
                client.wait(20)
            log.seek(0)
            assert_no_report(log.read().decode(), "stock-client")
        # The last line may have been cut by the kill.
        lines = output.read_bytes().split(b"\n")[:-1]
        events = [json.loads(line) for line in lines]
        first = int(events[0]["sequence"])
        if last is not None:
            assert first <= last + 1, f"nothing of {last + 1} to {first - 1} was printed"
        for number, event in enumerate(events):
            assert event["type"] == "update", event
            assert int(event["sequence"]) == first + number, event
            assert values.setdefault(first + number, event["update"]) == event["update"]
        last = max(last or 0, first + len(events) - 1)
    assert sorted(values) == list(range(min(values), last + 1))
    outcomes = stockd.metrics().by("stockd_market_resumes_total", "outcome")
    assert outcomes["complete"] == sum(outcomes.values()) == 3, outcomes


@pytest.mark.timeout(120)
def test_a_watch_goes_on_after_its_connections_end(start_stockd, client_program, start_program):
    """The server ends each connection when it is old, under way, again and again."""
    stockd = start_stockd(
        grpc={"max_age": "1s", "max_age_grace": "100ms"},
        market={"feed": "walk", "tickers": "A, B, C", "interval": "5ms"},
    )
    watch = start_program(
        [client_program, "watch", "--output", "json", "--no-metrics", f"127.0.0.1:{stockd.port}"],
        "stock-client",
    )
    stockd.wait_metric("stockd_connections_accepted_total", lambda n: n >= 4, 60)
    size = len(watch.output())
    wait_until(lambda: len(watch.output()) > size + 5000, 30, "more events")
    watch.stop(signal.SIGINT)
    events = [json.loads(line) for line in watch.output().splitlines()]
    for number, event in enumerate(events):
        assert event["type"] == "update", event
        assert int(event["sequence"]) == int(events[0]["sequence"]) + number, event
    outcomes = stockd.metrics().by("stockd_market_resumes_total", "outcome")
    assert outcomes["complete"] == sum(outcomes.values()) >= 3, outcomes
