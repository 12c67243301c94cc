"""
Where the market's updates come from: recordings, programs that print JSON, the walk; what becomes of
what they get wrong; and where it is seen that they fall silent, end, and come back.
"""

import csv
import os
import signal
import socket
import threading
import time

import pytest

from harness.clients import open_channel
from harness.market import START, Publisher, ask, subscribe, take
from harness.process import SOURCE, Program
from harness.wait import wait_until

EXIT_CONFIGURATION = 78
SAMPLES = SOURCE / "config" / "samples"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
LINE = '{"ticker": "%s", "price": %s}\n'


class Notified:
    """The service manager's ear: what STATUS= was last."""

    def __init__(self, folder):
        path = str(folder / "notify")
        self.environment = {"NOTIFY_SOCKET": path}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self.status = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            for line in self._socket.recv(65536).decode().splitlines():
                name, _, value = line.partition("=")
                if name == "STATUS":
                    self.status = value


@pytest.fixture
def notified(tmp_path):
    return Notified(tmp_path)


def health(stockd):
    with open_channel(stockd.port) as channel:
        method = channel.unary_unary(
            "/grpc.health.v1.Health/Check", lambda name: name, lambda response: response
        )
        return method(b"\x0a\x06market", timeout=20)


def wait_state(stockd, state, kind=None, notified=None):
    """Health and metrics, and where it is asked for STATUS, agree about the feed."""
    live = state == "live"
    for label in ("live", "stale", "gone"):
        stockd.wait_metric("stockd_market_feed_state", int(label == state), state=label)
    wait_until(
        lambda: health(stockd) == (SERVING if live else NOT_SERVING), 20, f"health while {state}"
    )
    if notified:
        told = f"{kind} is {state}"
        wait_until(
            lambda: "feed" not in notified.status if live else told in notified.status,
            20,
            f"a STATUS of a feed that is {state}",
        )


def read_all(stockd, count):
    """Everything that was published, from the first update."""
    with open_channel(stockd.port) as channel:
        epoch = ask(channel, "GetSnapshot").epoch
        events = take(subscribe(channel, resume={"epoch": epoch, "sequence": START}), count)
    assert [event.sequence for event in events] == list(range(START + 1, START + 1 + count))
    return events


def replay(file, speed=0, **more):
    return {"feed": "replay", "replay_file": file, "replay_speed": speed, **more}


def write_recording(folder, *lines, header="time,ticker,price"):
    path = folder / "recording.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


# Recordings.


def seconds_of(timestamp):
    """Of the sample: all of its times are on one day, in UTC."""
    hours, minutes, seconds = timestamp.removesuffix("Z").split("T")[1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_sample_of_trades(start_stockd):
    """All of it, in order, none much before its time, at the speed that was asked for."""
    speed = 20
    stockd = start_stockd(market=replay(SAMPLES / "trades.csv", speed))
    rows = list(csv.DictReader(open(SAMPLES / "trades.csv", encoding="utf-8")))
    events = read_all(stockd, len(rows))
    first = seconds_of(rows[0]["time"])
    for row, event in zip(rows, events):
        update = event.update
        assert (update.ticker, update.price) == (row["ticker"], float(row["price"]))
        assert update.volume == int(row["volume"])
        after = (event.time_unix_nano - events[0].time_unix_nano) / 1e9
        # By so much, at most, the first may have been late on a busy machine.
        assert after >= (seconds_of(row["time"]) - first) / speed - 0.5
    # And it is over long before it would be at its own speed.
    wait_state(stockd, "gone")
    assert time.time() - stockd.started_at < seconds_of(rows[-1]["time"]) - first - 5
    assert stockd.metric("stockd_market_feed_faults_total") == 0
    assert "gone: the end of " in stockd.log()


def test_sample_of_quotes(start_stockd):
    stockd = start_stockd(market=replay(SAMPLES / "quotes.csv"))
    rows = list(csv.DictReader(open(SAMPLES / "quotes.csv", encoding="utf-8")))
    for row, event in zip(rows, read_all(stockd, len(rows))):
        update = event.update
        bid, ask_price = float(row["bid"]), float(row["ask"])
        assert update.ticker == row["symbol"]
        assert update.price == pytest.approx((bid + ask_price) / 2, rel=1e-12)
        assert (update.lowPrice, update.highPrice) == (bid, ask_price)


def test_recorded_time_is_told(start_stockd, tmp_path):
    """As the update's timestamp, in the zone of the server; not when it was replayed."""
    path = write_recording(tmp_path, "2001-02-03T04:05:06.789+01:00,A,1", "981169506999,A,2")
    stockd = start_stockd(market=replay(path), environment={"TZ": "UTC"})
    for event in read_all(stockd, 2):
        told = event.update.timestamp
        assert told.startswith(("2001-02-03T03:05:06", "2001-02-03T03:05:07")), told


def test_loop(start_stockd, tmp_path):
    path = write_recording(tmp_path, "10,A,1", "11,B,2", "12,A,3")
    stockd = start_stockd(market=replay(path, 100, replay_loop="yes"))
    events = read_all(stockd, 30)
    assert [event.update.price for event in events] == [1, 2, 3] * 10
    wait_state(stockd, "live")


def test_late_lines_of_a_recording(start_stockd, tmp_path):
    """Reported late, they come at once, and are counted; the first is told."""
    path = write_recording(tmp_path, "10,A,1", "12,A,2", "11,B,3", "11.5,B,4", "12,A,5")
    stockd = start_stockd(market=replay(path, 100))
    assert [event.update.price for event in read_all(stockd, 5)] == [1, 2, 3, 4, 5]
    stockd.wait_metric("stockd_market_replay_late_total", 2)
    stockd.wait_log(r"recording\.csv:4: its time is before that of a line above it")
    assert stockd.metric("stockd_market_feed_faults_total") == 0


def test_faults_of_a_recording(start_stockd, tmp_path):
    """What is wrong is told by its line, and costs no other."""
    path = write_recording(
        tmp_path,
        "10,A,1",
        "noon,A,1",
        "10,A,dear",
        '10,A"B,1',
        "10,A,0",
        "10,,1",
        "10,two words,1",
        '10,A,"2',
        "10,A,3",
    )
    stockd = start_stockd(market=replay(path))
    assert [event.update.price for event in read_all(stockd, 2)] == [1, 3]
    wrong = {
        3: "'noon': neither an RFC 3339 time nor a number",
        4: "price.*: 'dear' is not a number",
        5: "field 2: a quote",
        6: "the price is not above 0",
        7: "no ticker",
        8: "'two words' is not a ticker",
        9: "field 3: its quote is not closed",
    }
    for line, what in wrong.items():
        stockd.wait_log(rf"warning: .*recording\.csv:{line}: {what}")
    stockd.wait_metric("stockd_market_feed_faults_total", len(wrong))


@pytest.mark.parametrize(
    "header, line, what",
    [
        ("time,price", "10,1", "recording.csv:1: the header has no column ticker"),
        ("time,ticker,price,Time", "10,A,1,10", "recording.csv:1: the header has column time"),
        ("time,ticker,price", "noon,A,1", "recording.csv:2: 'noon': neither"),
    ],
)
def test_recording_that_cannot_be_used(start_stockd, tmp_path, header, line, what):
    path = write_recording(tmp_path, line, header=header)
    stockd = start_stockd(market=replay(path), wait=False)
    stockd.expected_exit = EXIT_CONFIGURATION
    assert stockd.wait() == EXIT_CONFIGURATION
    assert what in stockd.log()


def test_pipe_that_is_none(start_stockd, tmp_path):
    stockd = start_stockd(market={"feed": "pipe", "pipe": tmp_path / "none"}, wait=False)
    stockd.expected_exit = EXIT_CONFIGURATION
    assert stockd.wait() == EXIT_CONFIGURATION
    assert "there is no such FIFO" in stockd.log()


# Programs that print.


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "feed"
    os.mkfifo(path)
    return Publisher(path)


def test_writers_that_come_and_go(start_stockd, notified, pipe):
    """The feed's state is the same wherever one looks; with each writer it is live again."""
    stockd = start_stockd(
        market={"feed": "pipe", "pipe": pipe.path, "stale_after": "300ms"},
        environment=notified.environment,
    )
    total = 0
    # A STATUS comes now and then only: one round of them is enough.
    for listener in (notified, None):
        pipe.open()
        keep = threading.Event()

        def write():
            while not keep.wait(0.05):
                pipe.publish(("AAPL", 1))

        writer = threading.Thread(target=write)
        writer.start()
        wait_state(stockd, "live", "pipe", listener)
        keep.set()
        writer.join()
        wait_state(stockd, "stale", "pipe", listener)
        pipe.close()
        wait_state(stockd, "gone", "pipe", listener)
        total += pipe.count
        pipe.count = 0
        stockd.wait_metric("stockd_market_updates_total", total)
    log = stockd.log()
    # None of the states was passed over, and none is told twice.
    assert log.count("feed (pipe) is gone: the last writer has left") == 2
    assert log.count("feed (pipe) is stale: no update for 0.") >= 2
    assert log.count("feed (pipe) is live") >= 1


def test_faults_of_a_writer(start_stockd, pipe):
    stockd = start_stockd(market={"feed": "pipe", "pipe": pipe.path})
    pipe.open()
    pipe.write(LINE % ("AAPL", 1) + "nonsense\n" + '{"ticker": "AAPL"}\n' + LINE % ("AAPL", 2))
    pipe.write("x" * 20000 + "\n" + '{"ticker": "AAPL", "price": 3')
    assert [event.update.price for event in read_all(stockd, 2)] == [1, 2]
    pipe.close()
    for line, what in {2: "column", 3: "price: missing", 5: "a line of more", 6: "column"}.items():
        stockd.wait_log(rf"warning: \S+/feed:{line}: {what}")
    stockd.wait_metric("stockd_market_feed_faults_total", 4)


def test_market_that_is_full(start_stockd, pipe):
    """Tickers are added as they come, as many as there is room for; each other line is a fault."""
    stockd = start_stockd(market={"feed": "pipe", "pipe": pipe.path})
    pipe.open()
    pipe.write("".join(LINE % (f"T{i}", 1) for i in range(16384 + 5)))
    stockd.wait_metric("stockd_market_feed_faults_total", 5)
    assert stockd.metric("stockd_market_tickers") == 16384
    assert stockd.metric("stockd_market_updates_total") == 16384
    stockd.wait_log("T16384: the market has room for 16384 tickers, no more")


def test_writer_that_is_faster(start_stockd, pipe):
    """It waits for the market, which takes everything, and meanwhile answers others."""
    count = 100000
    stockd = start_stockd(market={"feed": "pipe", "pipe": pipe.path})
    pipe.open()
    writer = threading.Thread(target=lambda: pipe.publish_many(["A", "B"], count))
    writer.start()
    answers = 0
    while writer.is_alive():
        assert health(stockd) == SERVING
        answers += 1
    writer.join()
    assert answers > 0
    stockd.wait_metric("stockd_market_updates_total", count)
    assert stockd.metric("stockd_market_feed_faults_total") == 0


def test_standard_input(start_stockd, pipe):
    """A program at the other end of a pipe; when it ends, the market stays as it is."""
    started = []

    def start():
        started.append(
            start_stockd(
                market={"feed": "stdin"},
                environment={"FEED": pipe.path},
                prefix=["/bin/sh", "-c", 'exec "$0" "$@" <"$FEED"'],
            )
        )

    # The shell waits for a writer before it becomes stockd.
    starter = threading.Thread(target=start)
    starter.start()
    pipe.open()
    starter.join()
    stockd = started[0]
    pipe.publish(("AAPL", 1), ("MSFT", 2))
    assert [event.update.ticker for event in read_all(stockd, 2)] == ["AAPL", "MSFT"]
    wait_state(stockd, "live")
    pipe.close()
    wait_state(stockd, "gone")
    stockd.wait_log("the market's feed \\(stdin\\) is gone: the end of standard input")
    with open_channel(stockd.port) as channel:
        assert len(ask(channel, "GetSnapshot").updates) == 2


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-"])
def test_no_standard_input(start_stockd, redirection):
    stockd = start_stockd(
        market={"feed": "stdin"},
        prefix=["/bin/sh", "-c", f'exec "$0" "$@" {redirection}'],
    )
    wait_state(stockd, "gone")


def test_from_stockd_to_stockd(start_stockd, client_program, tmp_path, pipe):
    """What stock-client prints can be published: values, and the time that they had."""
    origin = start_stockd(stream={"interval": "10ms", "ticker": "RELAY", "seed": 7})
    relay = start_stockd(market={"feed": "pipe", "pipe": pipe.path})
    arguments = ["--output", "json", "-n", "20", f"127.0.0.1:{origin.port}"]
    printed = Program([client_program, *arguments], tmp_path, "client")
    assert printed.wait() == 0
    pipe.open()
    pipe.write(printed.output())
    events = read_all(relay, 20)
    assert relay.metric("stockd_market_feed_faults_total") == 0
    lines = printed.output().splitlines()
    for line, event in zip(lines, events):
        assert event.update.ticker == "RELAY"
        assert f'"price":{event.update.price!r}'.removesuffix(".0") in line.replace(" ", "")
        assert event.update.timestamp in line


# The walk.


def test_walk_of_a_file_of_tickers(start_stockd):
    stockd = start_stockd(
        market={"feed": "walk", "tickers_file": SAMPLES / "tickers.csv", "stale_after": "1s"}
    )
    rows = list(csv.DictReader(open(SAMPLES / "tickers.csv", encoding="utf-8")))
    with open_channel(stockd.port) as channel:
        listed = {ticker.ticker for ticker in ask(channel, "ListTickers").tickers}
        assert listed == {row["ticker"] for row in rows}
        # Each has its first price, which is the one of the file, within its interval.
        stockd.wait_metric("stockd_market_updates_total", lambda total: total > 5 * len(rows))
        first = {}
        for event in read_all(stockd, 5 * len(rows)):
            first.setdefault(event.update.ticker, event.update.price)
        for row in rows:
            if row["ticker"] in first:
                assert first[row["ticker"]] == float(row["start_price"])
        assert len(first) > len(rows) / 2
    wait_state(stockd, "live")


def test_walk_repeats_with_its_seed(start_stockd):
    """The same prices of each ticker in another start; others with another seed."""

    def prices(seed):
        stockd = start_stockd(
            market={"feed": "walk", "tickers": "AAPL, GOOG", "interval": "20ms"},
            stream={"seed": seed},
        )
        stockd.wait_metric("stockd_market_updates_total", lambda total: total >= 40)
        found = {"AAPL": [], "GOOG": []}
        for event in read_all(stockd, 40):
            found[event.update.ticker].append(event.update.price)
        stockd.stop()
        return {ticker: values[:15] for ticker, values in found.items()}

    once = prices(7)
    assert min(map(len, once.values())) == 15
    assert prices(7) == once
    assert prices(8) != once


def test_stopped_and_continued(start_stockd):
    """While the whole program stands still its feed is not stale: it goes on where it was."""
    stockd = start_stockd(
        market={"feed": "walk", "tickers": "A", "interval": "100ms", "stale_after": "500ms"}
    )
    wait_state(stockd, "live")
    before = stockd.metric("stockd_market_updates_total")
    stockd.send_signal(signal.SIGSTOP)
    time.sleep(2)  # what is tested is time that passes
    stockd.send_signal(signal.SIGCONT)
    stockd.wait_metric("stockd_market_updates_total", lambda total: total > before)
    # What was missed is not made up for: 20 would be.
    after = stockd.metric("stockd_market_updates_total")
    elapsed = time.time() - stockd.started_at - 2
    assert after <= elapsed / 0.1 + 2
    wait_state(stockd, "live")
    assert "is stale" not in stockd.log()
