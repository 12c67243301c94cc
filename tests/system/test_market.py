"""
Subscribe, ListTickers and GetSnapshot over the wire: what a subscriber gets under each policy while
it does not read, what it is told of what it does not get, and how it goes on where it was.

The market is fed through a FIFO, so that each test knows every update that there is.
"""

import signal
import threading
import time

import grpc
import pytest

from harness.clients import open_channel
from harness.h2 import (
    ENHANCE_YOUR_CALM,
    INITIAL_WINDOW_SIZE,
    RawH2,
    message,
    request_headers,
)
from harness.market import (
    EVENT_BYTES_MAX,
    SERVICE,
    START,
    Market,
    Reader,
    ask,
    fails,
    now_ns,
    numbers,
    position,
    subscribe,
    take,
    told,
    updates,
)
from harness.stocks import TIMESTAMP, pb2
from harness.wait import wait_until

NOT_FOUND, RESOURCE_EXHAUSTED = 5, 8
TICKERS = ["AAPL", "MSFT", "NVDA"]

BLOCK = "SLOW_POLICY_BLOCK"
CONFLATE = "SLOW_POLICY_CONFLATE"
DROP_OLDEST = "SLOW_POLICY_DROP_OLDEST"
DISCONNECT = "SLOW_POLICY_DISCONNECT"
POLICIES = [BLOCK, CONFLATE, DROP_OLDEST, DISCONNECT]


@pytest.fixture
def start_market(start_stockd, tmp_path):
    """start_market(market={...}, grpc={...}) is a Market, by default of TICKERS."""
    started = []

    def start(**options):
        market = Market(start_stockd, tmp_path, **options)
        started.append(market)
        return market

    yield start
    for market in started:
        market.publisher.close()


@pytest.fixture
def channel_to():
    """channel_to(market): one channel each."""
    channels = []

    def open_one(market):
        channels.append(open_channel(market.port))
        return channels[-1]

    yield open_one
    for channel in channels:
        channel.close()


def begun(market, count=1):
    """Waits until so many subscriptions are there: what is published now is theirs."""
    market.stockd.wait_metric("stockd_market_subscribers", count)


def publish_until_blocked(market):
    """A few at a time, as what comes at once may be merged before it is sent; their number."""
    while not market.stockd.metric("stockd_blocked_streams", reason="stream_window"):
        market.publish_many(TICKERS, 3)
        assert market.publisher.count < 300
    return market.publisher.count


# What is subscribed to.


@pytest.mark.parametrize("policy", ["SLOW_POLICY_UNSPECIFIED", *POLICIES])
def test_whoever_reads_gets_everything(start_market, channel_to, policy):
    """In order, the same under each policy, and every field as it should be."""
    market = start_market()
    call = subscribe(channel_to(market), policy=policy)
    begun(market)
    since_ns = now_ns()
    quotes = []
    events = []
    for i in range(30):
        # One of each at once: nothing to merge, whatever the policy.
        quotes += market.publish_many(TICKERS, 3, 100.0 + i)
        events += take(call, 3)
    assert numbers(events) == list(range(1, 91))
    assert len({event.epoch for event in events}) == 1 and events[0].epoch > 0
    before = {}
    for event, (ticker, price) in zip(events, quotes):
        update = event.update
        assert (update.ticker, update.price) == (ticker, price)
        assert update.change == pytest.approx(price - before.get(ticker, price))
        assert update.openPrice == dict(reversed(quotes))[ticker]
        assert update.volume == 7
        assert TIMESTAMP.match(update.timestamp)
        assert not (event.conflated or event.dropped or event.snapshot)
        assert policy == CONFLATE or event.resume_sequence == 0
        assert since_ns <= event.time_unix_nano <= now_ns()
        before[ticker] = price


@pytest.mark.parametrize("policy", POLICIES)
def test_some_tickers(start_market, channel_to, policy):
    market = start_market()
    call = subscribe(channel_to(market), policy=policy, tickers=["NVDA", "AAPL", "NVDA"])
    begun(market)
    market.publish_many(TICKERS, 3)
    market.publish(("MSFT", 5), ("NVDA", 6), ("MSFT", 7), ("AAPL", 8))
    events = take(call, 4)
    assert sorted(numbers(events)) == [1, 3, 5, 7]
    assert {event.update.ticker for event in events} == {"AAPL", "NVDA"}
    if policy != CONFLATE:
        assert numbers(events) == [1, 3, 5, 7]


def test_tickers_that_come_later(start_market, channel_to):
    market = start_market()
    call = subscribe(channel_to(market))
    begun(market)
    market.publish(("AAPL", 1), ("NEW", 2), ("NEW", 3))
    assert [event.update.ticker for event in take(call, 3)] == ["AAPL", "NEW", "NEW"]
    assert [one.ticker for one in ask(channel_to(market), "ListTickers").tickers] == [
        *TICKERS,
        "NEW",
    ]


# Slow subscribers.


def test_blocked_ones_lose_nothing(start_market):
    market = start_market()
    with Reader(market.port, policy=BLOCK) as reader:
        publish_until_blocked(market)
        market.publish_many(TICKERS, 1000)
        reader.h2.ping()
        assert 0 < len(reader.read()) < 30
        # It waits between two messages, though its window is not empty.
        assert reader.stream.partial_bytes == 0
        assert 2000 - EVENT_BYTES_MAX < reader.stream.data_bytes < 2000
        count = market.publisher.count
        events = reader.drain(lambda events: len(events) >= count)
        assert numbers(events) == list(range(1, count + 1))
        assert not any(event.conflated or event.dropped for event in events)


def test_conflating_ones_get_the_newest(start_market):
    market = start_market()
    with Reader(market.port, policy=CONFLATE) as reader:
        publish_until_blocked(market)
        quotes = market.publish_many(TICKERS, 1000)
        count = market.publisher.count
        reader.h2.ping()
        first = len(reader.read())
        events = reader.drain(lambda events: told(events) >= count)
        assert told(events) == count
        late = events[first:]
        # Whatever waited, waited once a ticker.
        assert len(late) == 3
        newest = dict(quotes)
        assert {e.update.ticker: e.update.price for e in late} == newest
        assert set(numbers(late)) == {count - 2, count - 1, count}
        assert position(events[-1]).sequence == START + count


def test_the_oldest_are_dropped(start_market):
    market = start_market()
    with Reader(market.port, policy=DROP_OLDEST, max_queue=10) as reader:
        publish_until_blocked(market)
        market.publish_many(TICKERS, 1000)
        count = market.publisher.count
        reader.h2.ping()
        first = len(reader.read())
        events = reader.drain(lambda events: told(events) >= count)
        assert told(events) == count
        assert numbers(events) == [*range(1, first + 1), *range(count - 9, count + 1)]
        assert [event.dropped for event in events if event.dropped] == [count - 10 - first]
        assert events[first].dropped == count - 10 - first


def test_slow_ones_are_cut_off(start_market):
    """The status and its reason come at once, whatever the window."""
    market = start_market()
    with Reader(market.port, policy=DISCONNECT, max_queue=100) as reader:
        publish_until_blocked(market)
        market.publish_many(TICKERS, 50)
        reader.h2.ping()
        assert not reader.stream.over
        market.publish_many(TICKERS, 200)
        status, text = reader.wait_over()
        assert status == RESOURCE_EXHAUSTED
        assert "100" in text, text
        assert reader.stream.partial_bytes == 0
        assert numbers(reader.events) == list(range(1, len(reader.events) + 1))
        metrics = market.stockd.metrics()
        assert metrics.sum("stockd_market_cut_off_total", reason="max_queue") == 1
        assert metrics.sum("stockd_market_cut_off_total") == 1
        assert metrics.sum("stockd_market_subscribers") == 0
        assert metrics.sum("stockd_market_subscriptions_bytes") == 0
        market.stockd.wait_log(r"cut off: .*100")
        # The connection goes on.
        other = Reader(market.port, h2=reader.h2)
        market.publish(("AAPL", 1))
        last = market.publisher.count
        other.wait(lambda events: numbers(events) == [last], "the next update")


def test_grpcio_is_told_why_it_was_cut_off(start_market, channel_to):
    market = start_market()
    call = subscribe(channel_to(market), policy=DISCONNECT, max_queue=20)
    begun(market)
    # It reads what its flow control lets in, and then not, as nobody takes it.
    published = 0
    while not market.stockd.metric("stockd_market_cut_off_total"):
        market.publish_many(TICKERS, 500)
        published += 500
        assert published < 100000
    code, text, events = fails(call)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "20" in text, text
    assert numbers(events) == list(range(1, len(events) + 1))


def test_the_socket_counts(start_market):
    """A window that never ends hides nothing: what the kernel cannot send is part of the queue."""
    market = start_market(market={"soft_bytes": "50K", "hard_bytes": "100K", "hard_age": 0})
    with Reader(market.port, window=2**31 - 1, receive_buffer=4096, policy=BLOCK) as reader:
        while not market.stockd.metric("stockd_blocked_streams", reason="socket"):
            market.publish_many(TICKERS, 100)
            assert market.publisher.count < 50000
        # What waits in the market is a small part of the limit.
        market.publish_many(TICKERS, 100)
        market.stockd.wait_metric("stockd_market_cut_off_total", 1, reason="hard_bytes")
        status, text = reader.wait_over()
        assert status == RESOURCE_EXHAUSTED
        assert numbers(reader.events) == list(range(1, len(reader.events) + 1))
        missing = market.publisher.count - len(reader.events)
        assert 0 < missing * EVENT_BYTES_MAX < 100 * 1024


def test_soft_limits_take_time(start_market):
    market = start_market(
        market={"soft_age": "100ms", "soft_time": "300ms", "soft_bytes": 0, "hard_age": 0}
    )
    with Reader(market.port, policy=DISCONNECT) as slow:
        with Reader(market.port, policy=BLOCK) as patient:
            began = time.monotonic()
            market.publish_many(TICKERS, 100)
            status, text = slow.wait_over()
            assert time.monotonic() - began > 0.35
            assert status == RESOURCE_EXHAUSTED
            assert market.stockd.metric("stockd_market_cut_off_total", reason="soft_age") == 1
            # Of BLOCK only the hard limits count.
            patient.h2.ping()
            assert not patient.stream.over
            patient.drain(lambda events: len(events) == 100)


def test_limits_change_by_reload(start_market):
    market = start_market(market={"soft_bytes": "10K", "hard_age": 0, "hard_bytes": 0})
    with Reader(market.port, policy=BLOCK) as reader:
        publish_until_blocked(market)
        market.publish_many(TICKERS, 1000)
        config = market.stockd.config_path
        config.write_text(config.read_text().replace("hard_bytes = 0", "hard_bytes = 20K"))
        market.stockd.send_signal(signal.SIGHUP)
        status, text = reader.wait_over()
        assert status == RESOURCE_EXHAUSTED
        assert market.stockd.metric("stockd_market_cut_off_total", reason="hard_bytes") == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_a_least_interval_merges(start_market, policy):
    market = start_market()
    with Reader(
        market.port, window=1 << 20, policy=policy, min_interval_ms=600000, tickers=TICKERS
    ) as slow:
        market.publish_many(TICKERS, 300)
        slow.wait(lambda events: len(events) >= 3, "the first of each")
        slow.h2.ping()
        # Each once, at once, and then nothing for ten minutes.
        first = slow.read()
        assert sorted(event.update.ticker for event in first) == TICKERS
    with Reader(market.port, window=1 << 20, policy=policy, min_interval_ms=50) as quick:
        market.publish_many(TICKERS, 300)
        events = quick.wait(lambda events: told(events) == 300, "all, merged")
        assert len(events) < 300
        newest = {event.update.ticker: event.sequence - START for event in events}
        assert set(newest.values()) == {598, 599, 600}


def test_others_are_not_kept_waiting(start_market):
    """Slow ones of each policy beside one that reads: it has every update, and they cost it none."""
    market = start_market()
    slow = [Reader(market.port, policy=policy, max_queue=5) for policy in POLICIES[:3]]
    with open_channel(market.port) as channel:
        call = subscribe(channel)
        begun(market, 4)
        for i in range(10):
            market.publish_many(TICKERS, 100)
            assert numbers(take(call, 100)) == list(range(100 * i + 1, 100 * i + 101))
        by_policy = market.stockd.metrics().by("stockd_market_subscribers", "policy")
        assert by_policy == {"block": 2, "conflate": 1, "drop_oldest": 1, "disconnect": 0}
        for reader in slow:
            reader.close()
        call.cancel()
    metrics = market.stockd.wait_at_rest()
    assert metrics.sum("stockd_market_subscribers") == 0
    assert metrics.sum("stockd_market_subscriptions_bytes") == 0


@pytest.mark.parametrize("window", [1, 7, 100, 895])
def test_small_windows(start_market, window):
    """Where a client's windows are small, messages are cut as elsewhere, so that all comes."""
    market = start_market()
    with Reader(market.port, window=window) as reader:
        market.publish_many(TICKERS, 20)

        def enough():
            if stream.data_bytes >= given[0]:
                reader.give(window)
                given[0] += window
            return len(reader.read()) == 20

        stream = reader.stream
        given = [window]
        reader.h2.wait(enough, 30, "all updates")
        assert numbers(reader.events) == list(range(1, 21))


# Beginning with last values.


@pytest.mark.parametrize("policy", POLICIES)
def test_snapshot(start_market, channel_to, policy):
    market = start_market()
    market.publish_many(TICKERS, 30)
    call = subscribe(channel_to(market), policy=policy, snapshot=True)
    events = take(call, 4)
    assert [event.snapshot for event in events] == [True, True, True, False]
    assert sorted(numbers(events[:3])) == [28, 29, 30]
    assert events[3].WhichOneof("event") == "heartbeat"
    assert numbers(events[3:]) == [30]
    market.publish(("AAPL", 5))
    (event,) = take(call, 1)
    assert (event.sequence, event.update.price, event.snapshot) == (START + 31, 5, False)


def test_snapshot_of_some(start_market, channel_to):
    market = start_market()
    market.publish(("AAPL", 1), ("MSFT", 2), ("AAPL", 3))
    call = subscribe(channel_to(market), tickers=["NVDA", "AAPL"], snapshot=True)
    events = take(call, 2)
    assert [event.update.price for event in updates(events)] == [3]
    assert events[1].WhichOneof("event") == "heartbeat" and events[1].sequence == START + 3


# Going on.


@pytest.mark.parametrize("policy", POLICIES)
def test_resume(start_market, channel_to, policy):
    market = start_market()
    channel = channel_to(market)
    call = subscribe(channel, policy=policy)
    begun(market)
    for _ in range(5):
        market.publish(("AAPL", 1), ("MSFT", 2))
        events = take(call, 2)
    call.cancel()
    begun(market, 0)
    market.publish_many(TICKERS, 200)
    call = subscribe(
        channel, policy=policy, resume=position(events[-1]), snapshot=True, max_queue=1000
    )
    if policy == CONFLATE:
        events = []
        while told(events) < 200:
            events += take(call, 1)
        assert told(events) == 200
        assert not any(event.snapshot for event in events)
    else:
        assert numbers(take(call, 200)) == list(range(11, 211))
    metrics = market.stockd.metrics()
    assert metrics.sum("stockd_market_resumes_total", outcome="complete") == 1
    assert metrics.sum("stockd_market_gaps_total") == 0


@pytest.mark.parametrize("before", [0, START])
def test_resume_from_nothing(start_market, channel_to, before):
    """Both are before the first."""
    market = start_market()
    market.publish_many(TICKERS, 5)
    epoch = ask(channel_to(market), "ListTickers").epoch
    call = subscribe(channel_to(market), resume=pb2().Position(epoch=epoch, sequence=before))
    assert numbers(take(call, 5)) == [1, 2, 3, 4, 5]


def test_resume_beyond_the_history(start_market, channel_to):
    market = start_market(market={"history_size": "64K"})
    market.publish_many(TICKERS, 2000)
    epoch = ask(channel_to(market), "ListTickers").epoch
    call = subscribe(channel_to(market), resume=pb2().Position(epoch=epoch, sequence=START + 10))
    gap, *rest = take(call, 5)
    assert gap.WhichOneof("event") == "gap"
    assert gap.gap.reason == pb2().Gap.REASON_HISTORY
    missing = (START + 11, START + 2000, 1990)
    assert (gap.gap.from_sequence, gap.gap.to_sequence, gap.gap.updates) == missing
    assert gap.snapshot
    assert gap.epoch == epoch
    assert [event.snapshot for event in rest] == [True, True, True, False]
    assert rest[3].WhichOneof("event") == "heartbeat" and numbers(rest[3:]) == [2000]
    market.publish(("AAPL", 1))
    assert numbers(take(call, 1)) == [2001]
    metrics = market.stockd.metrics()
    assert metrics.sum("stockd_market_resumes_total", outcome="history") == 1
    assert metrics.sum("stockd_market_gaps_total") == 1


def test_resume_after_a_restart(start_market, channel_to):
    market = start_market()
    market.publish_many(TICKERS, 10)
    before = ask(channel_to(market), "ListTickers").epoch
    market.restart()
    market.publish(("AAPL", 1), ("MSFT", 2))
    call = subscribe(channel_to(market), resume=pb2().Position(epoch=before, sequence=START + 7))
    gap, *rest = take(call, 4)
    assert gap.gap.reason == pb2().Gap.REASON_EPOCH
    assert (gap.gap.from_sequence, gap.gap.to_sequence, gap.gap.updates) == (START + 8, 0, 0)
    assert gap.epoch not in (0, before)
    assert [event.update.price for event in updates(rest)] == [1, 2]
    assert all(event.epoch == gap.epoch for event in rest)
    assert rest[2].WhichOneof("event") == "heartbeat" and numbers(rest[2:]) == [2]
    assert market.stockd.metric("stockd_market_resumes_total", outcome="epoch") == 1


def test_resume_ahead_of_the_market(start_market, channel_to):
    market = start_market()
    market.publish_many(TICKERS, 5)
    channel = channel_to(market)
    epoch = ask(channel, "ListTickers").epoch
    code, text, _ = fails(subscribe(channel, resume=pb2().Position(epoch=epoch, sequence=START + 6)))
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert str(START + 6) in text and str(START + 5) in text
    assert market.stockd.metric("stockd_market_resumes_total", outcome="ahead") == 1


# Heartbeats.


def test_heartbeats(start_market, channel_to):
    market = start_market(market={"min_heartbeat": "100ms"})
    market.publish_many(TICKERS, 3)
    call = subscribe(channel_to(market), heartbeat_ms=100, tickers=["AAPL"])
    events = take(call, 2)
    assert [event.WhichOneof("event") for event in events] == ["heartbeat"] * 2
    assert numbers(events) == [3, 3]
    # The position moves on although nothing of this ticker happens.
    market.publish(("MSFT", 1), ("MSFT", 2))
    while (event := next(call)).sequence == START + 3:
        pass
    assert event.WhichOneof("event") == "heartbeat" and event.sequence == START + 5


def test_heartbeats_have_a_least_interval(start_market, channel_to):
    market = start_market(market={"min_heartbeat": "300ms"})
    began = time.monotonic()
    call = subscribe(channel_to(market), heartbeat_ms=1)
    take(call, 3)
    assert time.monotonic() - began > 0.8


# What cannot be.


def test_unknown_tickers(start_market, channel_to):
    market = start_market()
    channel = channel_to(market)
    code, text, _ = fails(subscribe(channel, tickers=["AAPL", "FOO", "NVDA", "BAR"]))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, 'unknown tickers: "FOO", "BAR"')
    code, text, _ = fails(subscribe(channel, tickers=["aapl"]))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, 'unknown ticker: "aapl"')
    # Nothing that a client sends makes a long text, or one that cannot be printed.
    code, text, _ = fails(subscribe(channel, tickers=["", "x" * 1000, "a\n\u1234b"]))
    assert code == grpc.StatusCode.NOT_FOUND
    assert text == f'unknown tickers: "", "{"x" * 40}"..., "a????b"'
    # A name does not end where C would have it end.
    code, text, _ = fails(subscribe(channel, tickers=["AAPL\0", "\0", "AAPL\0MSFT"]))
    assert code == grpc.StatusCode.NOT_FOUND
    assert text == 'unknown tickers: "AAPL?", "?", "AAPL?MSFT"'
    many = [f"NONE{i}" for i in range(100000)]
    code, text, _ = fails(subscribe(channel, tickers=many))
    assert code == grpc.StatusCode.NOT_FOUND
    assert text.startswith('unknown tickers: "NONE0", "NONE1", ') and len(text) < 500
    assert int(text.split(" and ")[1].split()[0]) + text.count('"') // 2 == 100000
    with pytest.raises(grpc.RpcError) as error:
        ask(channel, "GetSnapshot", {"tickers": ["FOO"]})
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert error.value.details() == 'unknown ticker: "FOO"'


def test_the_same_ticker_many_times(start_market, channel_to):
    market = start_market()
    channel = channel_to(market)
    call = subscribe(channel, tickers=["AAPL", "MSFT"] * 50000)
    begun(market)
    market.publish(("AAPL", 1), ("NVDA", 2), ("MSFT", 3))
    assert numbers(take(call, 2)) == [1, 3]
    many = {"tickers": ["AAPL", "MSFT"] * 50000}
    assert len(ask(channel, "GetSnapshot", many).updates) == 2


def test_many_names_cost_no_more_than_so_many(start_market, channel_to):
    """A hundred thousand at once cost about what they cost in pieces."""
    names = ",".join(f"T{i}" for i in range(10000)).split(",")
    market = start_market(tickers=", ".join(TICKERS))
    market.publisher.publish(*((name, 1.0) for name in names))
    market.settle()
    channel = channel_to(market)

    def cost(count, times):
        asked = {"tickers": (names * 10)[:count]}
        before = market.stockd.cpu_seconds()
        for _ in range(times):
            assert len(ask(channel, "GetSnapshot", asked).updates) == min(count, 10000)
        return market.stockd.cpu_seconds() - before

    pieces, whole = cost(5000, 100), cost(100000, 5)
    assert whole < 5 * pieces + 0.1, (pieces, whole)


def test_names_that_are_alike_cost_no_more(start_market, channel_to):
    """Who knows how symbols are found could otherwise ask for those that take longest."""
    market = start_market()
    market.publish_many([f"BINANCE:{i:05}" for i in range(8000)], 8000)
    channel = channel_to(market)

    def cost(name):
        before = market.stockd.cpu_seconds()
        with pytest.raises(grpc.RpcError, match="unknown tickers"):
            ask(channel, "GetSnapshot", {"tickers": [name] * 100000})
        return market.stockd.cpu_seconds() - before

    usual, alike = cost("UNLIKE-0000Z"), cost("BINANCE:0000Z")
    assert alike < 5 * usual + 0.3, (usual, alike)


def test_requests_of_more_than_memory(start_market, channel_to):
    """Names of no letter, of which a million fit into a request, and would take much more."""
    market = start_market(grpc={"max_message_bytes": "8M"})
    code, text, _ = fails(subscribe(channel_to(market), tickers=[""] * 2000000))
    assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the request is too large")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"policy": 77}, ["policy", "77"]),
        ({"policy": -1}, ["policy", "-1"]),
        ({"resume": {"sequence": 5}}, ["resume.epoch"]),
    ],
)
def test_what_cannot_be(start_market, channel_to, fields, words):
    market = start_market()
    code, text, _ = fails(subscribe(channel_to(market), **fields))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert all(word in text for word in words), text


@pytest.mark.parametrize("name", ["Subscribe", "ListTickers", "GetSnapshot"])
def test_what_is_no_request(start_market, channel_to, name):
    market = start_market()
    with pytest.raises(grpc.RpcError) as error:
        channel_to(market).unary_unary(f"/{SERVICE}/{name}")(b"\x0a\xff\xff", timeout=20)
    assert error.value.code() == grpc.StatusCode.INTERNAL
    assert error.value.details() == f"the request is no stockservice.{name}Request"


def test_subscriptions_have_a_bound(start_market):
    tickers = [f"T{i}" for i in range(30)]
    market = start_market(
        tickers=", ".join(tickers),
        market={"max_subscriptions_size": "1M"},
        grpc={"max_streams": 5000},
    )
    h2 = RawH2(market.port, settings={INITIAL_WINDOW_SIZE: 2000})
    with Reader(market.port, h2=h2.ready(), tickers=tickers) as first:
        readers = [first]
        while not readers[-1].stream.over:
            readers.append(Reader(market.port, h2=h2, tickers=tickers))
            assert len(readers) < 4000
        status, text = readers[-1].wait_over()
        assert status == RESOURCE_EXHAUSTED
        assert "memory" in text
        assert len(readers) > 10
        assert market.stockd.metric("stockd_market_subscriptions_bytes") <= 1 << 20
        # Those that are there go on, and whoever goes makes room.
        market.publish(("T5", 1))
        first.wait(lambda events: len(events) == 1, "an update")
        readers[1].stream.reset()
        h2.ping()
        assert not Reader(market.port, h2=h2, tickers=tickers).stream.over


# The other methods.


def test_list_and_snapshot(start_market, channel_to):
    market = start_market()
    channel = channel_to(market)
    empty = ask(channel, "GetSnapshot")
    assert not empty.updates and empty.sequence == START and empty.epoch > 0
    market.publish(("NVDA", 1), ("AAPL", 2), ("NVDA", 3))
    listed = ask(channel, "ListTickers")
    assert [(one.ticker, one.updates, one.sequence) for one in listed.tickers] == [
        ("AAPL", 1, START + 2),
        ("MSFT", 0, 0),
        ("NVDA", 2, START + 3),
    ]
    assert (listed.epoch, listed.sequence) == (empty.epoch, START + 3)
    everything = ask(channel, "GetSnapshot")
    assert [(e.sequence, e.update.ticker, e.update.price) for e in everything.updates] == [
        (START + 2, "AAPL", 2),
        (START + 3, "NVDA", 3),
    ]
    assert (everything.epoch, everything.sequence) == (empty.epoch, START + 3)
    assert all(event.epoch == empty.epoch for event in everything.updates)
    some = ask(channel, "GetSnapshot", {"tickers": ["NVDA", "MSFT", "AAPL", "NVDA"]})
    assert [event.update.ticker for event in some.updates] == ["NVDA", "AAPL"]


def hold_snapshots(market, count, window):
    """A client that asks for all tickers so often, and takes next to nothing of it."""
    h2 = RawH2(market.port, settings={INITIAL_WINDOW_SIZE: window}).ready()
    asked = [
        h2.call(request_headers(f"/{SERVICE}/GetSnapshot"), message(b"")) for _ in range(count)
    ]
    h2.ping()
    return h2, asked


@pytest.mark.parametrize("window", [0, 100])
def test_who_takes_no_answers_denies_nobody_theirs(start_market, channel_to, window):
    """
    Room for answers that wait is made at the cost of the client for which most of them wait, not of
    whoever asks next, nor of one for which a single one waits, though for longest.
    """
    market = start_market()
    names = [f"TICKER-WITH-A-LONG-NAME-{i:05}" for i in range(16000)]
    market.publish_many(names, len(names))
    patient, (single,) = hold_snapshots(market, 1, window)
    greedy, many = hold_snapshots(market, 40, window)
    everything = ask(channel_to(market), "GetSnapshot")
    assert len(everything.updates) == len(names)
    greedy.ping()
    for one in [one for one in many if one.over]:
        # Nothing can follow a part of an answer but a reset.
        if one.data_bytes:
            assert one.rst == ENHANCE_YOUR_CALM
        else:
            assert one.status == RESOURCE_EXHAUSTED
            assert one.trailers["grpc-message"].startswith("too many answers wait for this client")
    # What was given up was its oldest, for another; what it is refused is its newest.
    assert many[0].over and many[-1].over and not all(one.over for one in many)
    patient.open_connection_window()
    single.give(1 << 30)
    patient.wait_over(single)
    assert single.status == 0
    (body,) = single.take_bodies()
    assert len(pb2().GetSnapshotResponse.FromString(body).updates) == len(names)
    patient.close()
    greedy.close()


# The feed's state, and the end.


def market_health(channel):
    method = channel.unary_unary("/grpc.health.v1.Health/Check")
    return {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}[method(b"\x0a\x06market", timeout=20)]


def test_health(start_market, channel_to):
    market = start_market()
    channel = channel_to(market)
    market.publish(("AAPL", 1))
    assert market_health(channel) == "SERVING"
    market.publisher.close()
    wait_until(lambda: market_health(channel) == "NOT_SERVING", what="NOT_SERVING")
    assert market.stockd.metric("stockd_market_feed_state", state="gone") == 1
    # The rest of the server does not depend on it.
    method = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert method(b"", timeout=20) == b"\x08\x01"
    market.publisher.open()
    market.publish(("AAPL", 2))
    wait_until(lambda: market_health(channel) == "SERVING", what="SERVING")


def test_health_of_a_stale_feed(start_market, channel_to):
    market = start_market(market={"stale_after": "200ms"})
    channel = channel_to(market)
    wait_until(lambda: market_health(channel) == "NOT_SERVING", what="NOT_SERVING")
    assert market.stockd.metric("stockd_market_feed_state", state="stale") == 1
    market.publish(("AAPL", 1))
    wait_until(lambda: market_health(channel) == "SERVING", what="SERVING")


def test_the_last_line_counts_subscriptions(start_market, channel_to):
    market = start_market()
    call = subscribe(channel_to(market))
    begun(market)
    market.publish_many(TICKERS, 7)
    take(call, 7)
    market.stockd.stop()
    market.stockd.wait_log(r"stopped: 7 updates sent in 1 calls on 1 connections")


@pytest.mark.parametrize("policy", POLICIES)
def test_stop(start_market, channel_to, policy):
    market = start_market()
    call = subscribe(channel_to(market), policy=policy)
    begun(market)
    market.publish_many(TICKERS, 3)
    take(call, 3)
    market.stockd.send_signal(signal.SIGTERM)
    code, _, _ = fails(call)
    assert code == grpc.StatusCode.UNAVAILABLE


def test_stop_while_blocked(start_market):
    """At once, with a status, though it has no window for what waits."""
    market = start_market()
    with Reader(market.port) as reader:
        publish_until_blocked(market)
        market.stockd.send_signal(signal.SIGTERM)
        status, _ = reader.wait_over()
        assert status == grpc.StatusCode.UNAVAILABLE.value[0]
        assert reader.stream.partial_bytes == 0


def test_drain(start_market, channel_to):
    """While it drains the market goes on, and so do its subscribers."""
    market = start_market(grpc={"drain_timeout": "1m"})
    call = subscribe(channel_to(market))
    begun(market)
    market.publish_many(TICKERS, 3)
    take(call, 3)
    market.stockd.send_signal(signal.SIGTERM)
    market.stockd.wait_log("stopping")
    market.publish(("AAPL", 1))
    assert numbers(take(call, 1)) == [4]
    market.stockd.send_signal(signal.SIGTERM)
    code, _, _ = fails(call)
    assert code == grpc.StatusCode.UNAVAILABLE


def test_many_at_once(start_market, channel_to):
    """Subscribers that come and go, of every kind, while updates come: all is given back."""
    market = start_market()
    faults = []

    def one(number):
        try:
            with open_channel(market.port) as channel:
                for i in range(5):
                    call = subscribe(
                        channel,
                        policy=POLICIES[(number + i) % 4],
                        snapshot=i % 2 == 0,
                        tickers=TICKERS[: i % 3],
                        min_interval_ms=(i % 2) * 10,
                    )
                    take(call, 20)
                    call.cancel()
        except Exception as fault:  # told below, by the test itself
            faults.append(fault)

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        market.publish_many(TICKERS, 30)
    assert not faults, faults
    metrics = market.stockd.wait_at_rest()
    assert metrics.sum("stockd_market_subscribers") == 0
    market.stockd.wait_metric("stockd_market_subscribers_behind", 0)
    assert metrics.sum("stockd_market_subscriptions_bytes") == 0
    assert metrics.sum("stockd_market_events_sent_total") >= 8 * 5 * 20
