"""
stock-client watch, list and check: against a stockd whose market the test makes, and against a
server on grpcio that does what none should.
"""

import csv
import fcntl
import io
import json
import os
import re
import signal
import struct
import subprocess
import termios
import time
from concurrent import futures

import grpc
import pytest

from harness.h2 import DATA, RawServer, frame, message
from harness.market import START, Market
from harness.process import clean_environment
from harness.stock_client import (  # noqa: F401  (some are fixtures)
    DONE,
    FAILED,
    INTERRUPTED,
    NO_CONNECTION,
    USAGE,
    RunningClient,
    free_port,
    run_client,
    start_client,
)
from harness.stocks import pb2
from harness.wait import wait_stable, wait_until

MOST = 2**64 - 1
EVIL = 'A"\\\n\r\t\x1b[2J\x7f\u0085\u202e{é}'
EPOCH = 7


def update(sequence, ticker="AAPL", price=100.0, **fields):
    return pb2().MarketEvent(
        epoch=fields.pop("epoch", EPOCH),
        sequence=sequence,
        update=pb2().StockUpdate(ticker=ticker, price=price, change=0.5, timestamp="T"),
        time_unix_nano=time.time_ns(),
        **fields,
    )


def heartbeat(sequence, **fields):
    return pb2().MarketEvent(epoch=EPOCH, sequence=sequence, heartbeat=pb2().Heartbeat(), **fields)


def gap(sequence, first, last):
    told = pb2().Gap(
        reason=pb2().Gap.REASON_HISTORY,
        from_sequence=first,
        to_sequence=last,
        updates=last - first + 1,
    )
    return pb2().MarketEvent(epoch=EPOCH, sequence=sequence, snapshot=True, gap=told)


class FakeMarket:
    """
    Answers each Subscribe with the next of `calls`: a list of events, and what the call ends with:
    a status, or None for staying open. After the last of them calls stay open without an event.
    """

    def __init__(self, *calls, health=b"\x08\x01", tickers=(), values=(), port=0):
        self.calls = list(calls)
        self.requests = []
        self.health = health
        self.tickers = pb2().ListTickersResponse(tickers=tickers, epoch=EPOCH, sequence=9)
        self.values = pb2().GetSnapshotResponse(updates=values, epoch=EPOCH, sequence=9)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)]
        )
        stream = grpc.unary_stream_rpc_method_handler(
            self._subscribe,
            request_deserializer=pb2().SubscribeRequest.FromString,
            response_serializer=pb2().MarketEvent.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "stockservice.StockService",
                    {
                        "Subscribe": stream,
                        "ListTickers": self._unary(lambda: self.tickers.SerializeToString()),
                        "GetSnapshot": self._unary(lambda: self.values.SerializeToString()),
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "grpc.health.v1.Health", {"Check": self._unary(lambda: self.health)}
                ),
            ]
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        assert self.port, f"port {port} is taken"
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    @staticmethod
    def _unary(answer):
        def handle(_request, context):
            body = answer()
            if isinstance(body, grpc.StatusCode):
                context.abort(body, EVIL.encode().decode())
            return body

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=lambda data: data, response_serializer=lambda data: data
        )

    def _subscribe(self, request, context):
        self.requests.append(request)
        events, end = self.calls.pop(0) if self.calls else ([], None)
        yield from events
        if end is not None:
            context.abort(end, "as the test wants it")
        while context.is_active():
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stop(grace=0).wait(10)


@pytest.fixture
def market(start_stockd, tmp_path):
    market = Market(start_stockd, tmp_path)
    yield market
    market.publisher.close()


def address(market):
    return f"127.0.0.1:{market.port}"


def sequences(lines):
    """Of whole lines of JSON; a line that was cut off by a kill is none."""
    found = []
    for line in lines:
        if line.endswith("}\n") or line.endswith("}"):
            event = json.loads(line)
            if event["type"] == "update" and not event["snapshot"]:
                found.append(int(event["sequence"]))
    return found


def safe(text):
    """Nothing that a terminal would obey, but the ends of lines."""
    return not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


# --- What watch prints ------------------------------------------------------------------------


def test_json_has_every_event(market, start_client):
    client = start_client("watch", address(market), "-o", "json", "-n", "4")
    market.stockd.wait_metric("stockd_market_subscribers", 1)
    market.publish(("AAPL", 1.5), ("MSFT", 2.5), ("NVDA", 3.5), ("AAPL", 1.75))
    assert client.program.wait() == DONE
    events = [json.loads(line) for line in client.lines()]
    assert [event["type"] for event in events] == ["update"] * 4
    assert [int(event["sequence"]) for event in events] == [START + i for i in (1, 2, 3, 4)]
    assert [event["update"]["ticker"] for event in events] == ["AAPL", "MSFT", "NVDA", "AAPL"]
    assert [event["update"]["price"] for event in events] == [1.5, 2.5, 3.5, 1.75]
    assert "4 updates received" in client.program.log()


def test_only_the_tickers_that_are_named(market, start_client):
    client = start_client("watch", address(market), "NVDA", "AAPL", "-n", "2", "-F", "{ticker}")
    market.stockd.wait_metric("stockd_market_subscribers", 1)
    market.publish(("MSFT", 1), ("NVDA", 2), ("MSFT", 3), ("AAPL", 4))
    assert client.program.wait() == DONE
    assert client.lines() == ["NVDA", "AAPL"]


def test_an_unknown_ticker_is_named(market, run_client):
    done = run_client("watch", address(market), "AAPL", "NOPE")
    assert done.returncode == FAILED and "NOPE" in done.stderr and not done.stdout


def test_a_snapshot_comes_first(market, run_client):
    market.publish(("MSFT", 1), ("AAPL", 2), ("MSFT", 3))
    done = run_client("watch", address(market), "--snapshot", "-n", 2, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {(row["ticker"], row["price"], row["snapshot"]) for row in rows} == {
        ("AAPL", "2", "true"),
        ("MSFT", "3", "true"),
    }


@pytest.mark.parametrize("output", ["text", "json", "csv"])
def test_losses_are_told_in_each_format(run_client, output):
    events = [
        gap(9, 3, 9),
        update(8, snapshot=True),
        heartbeat(9),
        update(10, conflated=4, dropped=2),
        heartbeat(11, dropped=3),
        update(12),
    ]
    with FakeMarket((events, None)) as server:
        done = run_client("watch", server.address, "-o", output, "-n", 3)
    assert done.returncode == DONE
    assert "7 updates are missing, from 3 to 9" in done.stderr
    assert "4 conflated, 5 dropped, 1 gaps (7 updates)" in done.stderr
    lines = done.stdout.splitlines()
    if output == "csv":
        rows = list(csv.DictReader(lines))
        # The heartbeat that tells nothing else is not there; all rows have all columns.
        assert [row["type"] for row in rows] == ["gap", "update", "update", "heartbeat", "update"]
        assert all(None not in row and None not in row.values() for row in rows)
        assert (rows[0]["gapFrom"], rows[0]["gapTo"], rows[0]["gapUpdates"]) == ("3", "9", "7")
        assert (rows[2]["conflated"], rows[2]["dropped"]) == ("4", "2")
        assert rows[3]["dropped"] == "3"
    elif output == "json":
        found = [json.loads(line) for line in lines]
        assert [event["type"] for event in found] == [
            "gap",
            "update",
            "update",
            "heartbeat",
            "update",
        ]
        assert found[0]["gap"]["updates"] == "7" and found[2]["conflated"] == "4"
    else:
        assert "gap" in lines[0] and "from:3 to:9 updates:7" in lines[0]
        assert "conflated:4 dropped:2" in lines[2] and "dropped:3" in lines[3]


@pytest.mark.parametrize("arguments", [["-o", "text"], ["-o", "json"], ["-F", "{ticker}|{price}"]])
def test_no_terminal_obeys_a_server(run_client, arguments):
    with FakeMarket(([update(2, EVIL), update(3)], None)) as server:
        done = run_client("watch", server.address, "-n", 2, *arguments)
    assert done.returncode == DONE and len(done.stdout.splitlines()) == 2
    assert safe(done.stdout) and "é" in done.stdout


def test_sums_do_not_begin_anew(run_client):
    """Numbers as large as there are, more than once."""
    events = [
        *(gap(9, 1, MOST) for _ in range(3)),
        *(update(number, conflated=MOST, dropped=MOST) for number in range(10, 13)),
    ]
    gone = grpc.StatusCode.INTERNAL
    with FakeMarket(*[(events, gone)] * 3) as server:
        done = run_client("watch", server.address)
        assert f"; {MOST} conflated, {MOST} dropped, 3 gaps ({MOST} updates)" in done.stderr
        done = run_client("stat", server.address, metrics=True)
        assert f", {MOST} merged, {MOST} dropped, 3 gaps ({MOST} updates)" in done.stderr
        done = run_client("bench", "-t", "300ms", "-o", "json", server.address, metrics=True)
    found = json.loads(done.stdout)["all"]
    assert [found[name] for name in ("conflated", "dropped", "gap_updates")] == [MOST] * 3


def test_what_is_no_event_ends_it(run_client):
    with FakeMarket(([update(2, epoch=0)], None)) as server:
        done = run_client("watch", server.address)
    assert done.returncode == FAILED and "not one of the method's" in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-F", "{ticker"], "--format: character"),
        (["-F", "{nothing}"], "--format: character 2"),
        (["-F", "{ticker}", "-o", "csv"], "together with --output"),
        (["--resume", "5"], "--resume: a position is"),
        (["--resume", "0:5"], "--resume: a position is"),
        (["--resume", "1:99999999999999999999"], "--resume: a position is"),
        (["--resume", "1:2", "--state", "x"], "together with --state"),
        (["--policy", "none"], "--policy: "),
        (["--state", ""], "--state: there is no file name"),
        (["-d", "2s:1s"], "MIN is more than MAX"),
    ],
)
def test_wrong_usage_is_explained(run_client, tmp_path, arguments, words):
    done = run_client("watch", *arguments, folder=tmp_path)
    assert done.returncode == USAGE and words in done.stderr and not done.stdout
    assert not list(tmp_path.iterdir())


def test_the_request_has_what_was_asked_for(run_client):
    with FakeMarket(([update(2)], None)) as server:
        done = run_client(
            *("watch", server.address, "AAPL", "MSFT", "--policy", "drop-oldest"),
            *("--max-queue", 50, "--min-interval", "250ms", "--heartbeat", "3s", "--snapshot"),
            *("--resume", f"{EPOCH}:1", "-n", 1),
        )
    assert done.returncode == DONE
    (request,) = server.requests
    assert list(request.tickers) == ["AAPL", "MSFT"]
    assert request.policy == pb2().SLOW_POLICY_DROP_OLDEST and request.max_queue == 50
    assert (request.min_interval_ms, request.heartbeat_ms) == (250, 3000)
    assert request.snapshot and (request.resume.epoch, request.resume.sequence) == (EPOCH, 1)


# --- Going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_it_goes_on_behind_the_last_event(start_client, status):
    code = getattr(grpc.StatusCode, status)
    first = [update(2), update(9, resume_sequence=5), update(3, snapshot=True)]
    with FakeMarket((first, code), ([update(6), heartbeat(8)], code)) as server:
        client = start_client("watch", server.address, "-o", "json")
        wait_until(lambda: len(server.requests) == 3, 30, "the third call")
        assert [request.HasField("resume") for request in server.requests] == [False, True, True]
        assert [request.resume.sequence for request in server.requests[1:]] == [5, 8]
        assert client.metric("stock_client_market_resumes_total", outcome="continued") == 1
        assert client.stop() == INTERRUPTED
    assert "2 reconnects" in client.program.log()


def test_without_reconnecting_it_ends(run_client):
    with FakeMarket(([update(2)], grpc.StatusCode.RESOURCE_EXHAUSTED)) as server:
        done = run_client("watch", server.address, "--no-reconnect")
    assert done.returncode == FAILED and "code = ResourceExhausted" in done.stderr
    assert len(server.requests) == 1


def test_what_was_lost_with_the_server_is_told(market, start_client):
    client = start_client("watch", address(market), "-o", "json", "--heartbeat", "1s")
    market.stockd.wait_metric("stockd_market_subscribers", 1)
    market.publish(("AAPL", 1))
    client.wait_lines(1)
    port = market.port
    market.publisher.close()
    market.stockd.stop()
    with FakeMarket(([gap(20, 3, 20), update(20, snapshot=True)], None), port=port):
        client.wait_lines(3, timeout=60)
        kinds = [json.loads(line)["type"] for line in client.lines()]
        assert kinds == ["update", "gap", "update"]
        assert client.metric("stock_client_market_missed_total") == 18
        assert client.metric("stock_client_market_resumes_total", outcome="gap") == 1
        assert client.metric("stock_client_market_gaps_total") == 1
        assert client.metric("stock_updates_received_total") == 0
        assert client.metric("stock_client_market_events_received_total") >= 3
        assert client.stop() == INTERRUPTED


def test_a_kill_loses_nothing(market, client_program, start_program, tmp_path):
    """Killed four times while updates come; what was printed since the last save comes again."""
    state = tmp_path / "position"
    printed = []
    for run in range(5):
        client = RunningClient(
            start_program(
                [
                    *(client_program, "watch", address(market), "-o", "json"),
                    *("--state", state, "--heartbeat", "1s", "--metrics", "127.0.0.1:0"),
                ],
                "stock-client",
            )
        )
        if run == 0:
            market.stockd.wait_metric("stockd_market_subscribers", 1)
        market.publish_many(["AAPL", "MSFT", "NVDA"], 300)
        newest = START + market.publisher.count
        if run < 4:
            wait_until(lambda: len(client.lines()) > 20, 30, "some lines")
            client.program.stop(signal.SIGKILL)
        else:
            wait_until(lambda: newest in sequences(client.lines()), 30, "the last update")
            assert client.stop() == INTERRUPTED
        found = sequences(client.program.output().splitlines(keepends=True))
        # In order, without a hole, and beginning no later than behind what was printed before.
        assert found == list(range(found[0], found[0] + len(found)))
        assert found[0] <= (printed[-1] if printed else START) + 1
        printed += found
    assert set(printed) == set(range(START + 1, newest + 1))
    # After an end in good order nothing comes twice.
    assert f"sequence {newest}\n" in state.read_text()


def test_the_state_is_that_of_what_was_written(run_client, tmp_path):
    """With -n the connection has brought more than was printed."""
    state = tmp_path / "position"
    with FakeMarket(([update(number) for number in range(2, 50)], None)) as server:
        done = run_client("watch", server.address, "-n", 5, "--state", state)
        assert done.returncode == DONE and len(done.stdout.splitlines()) == 5
        assert f"epoch {EPOCH}\nsequence 6\n" in state.read_text()
        run_client("watch", server.address, "-t", "1s", "--state", state)
    assert not server.requests[0].HasField("resume")
    assert (server.requests[1].resume.epoch, server.requests[1].resume.sequence) == (EPOCH, 6)


def test_what_goes_on_can_be_appended(run_client, tmp_path):
    """One header of CSV, however often the program is started."""
    state, lines = tmp_path / "position", []
    calls = [([update(number) for number in range(2, 50)], None)] * 2
    with FakeMarket(*calls) as server:
        for _ in calls:
            done = run_client("watch", server.address, "-n", 3, "-o", "csv", "--state", state)
            lines += done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["type"] + 6 * ["update"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_nobody_has_read_is_not_done(client_program, run_client, tmp_path, number):
    """Standard output is a pipe that is full: killed then, all that was not in it comes again."""
    state = tmp_path / "position"
    events = [update(number) for number in range(2, 3000)]
    with FakeMarket((events, None)) as server:
        argv = [client_program, "watch", server.address, "-o", "json", "--state", state]
        program = subprocess.Popen(
            [*map(str, argv), "--no-metrics"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
        )
        try:
            wait_until(state.exists, 30, "the first position")
            # It is stopped by the pipe when that does not grow any more.
            wait_stable(lambda: pipe_size(program.stdout))
        finally:
            program.send_signal(number)
            program.wait()  # and only then make room in the pipe
            output = program.stdout.read().decode()
        run_client("watch", server.address, "-t", "1s", "--state", state)
    printed = sequences(output.splitlines(keepends=True))
    assert printed and len(printed) < len(events)
    assert server.requests[1].resume.epoch == EPOCH
    assert 1 <= server.requests[1].resume.sequence <= printed[-1]


def test_what_follows_a_gap_is_not_missed(client_program, start_program, tmp_path):
    """Killed as soon as it is printed, before the position would be kept in its turn."""
    state = tmp_path / "position"
    state.write_text("stock-client position\nepoch 6\nsequence 3\n")
    events = [gap(9, 4, 9), update(8, snapshot=True), heartbeat(9), update(10, "MSFT")]
    with FakeMarket((events, None)) as server:
        argv = [client_program, "watch", server.address, "-o", "json", "--state", state]
        program = start_program([*argv, "--no-metrics"], "stock-client")
        wait_until(lambda: '"MSFT"' in program.output(), 30, "the update")
        program.stop(signal.SIGKILL)
    assert state.read_text() == f"stock-client position\nepoch {EPOCH}\nsequence 9\n"


def test_a_snapshot_that_nobody_has_read_comes_again(client_program, tmp_path):
    """Nothing is begun behind it while a part of it waits for room in a pipe."""
    state = tmp_path / "position"
    rows = [update(number, f"T{number:03}", snapshot=True) for number in range(2, 40)]
    events = [*rows, heartbeat(39), update(40)]
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with RawServer() as server:
        argv = [client_program, "watch", "-o", "json", "--state", state, "--no-metrics"]
        program = subprocess.Popen(
            [*map(str, argv), f"127.0.0.1:{server.port}"],
            stdout=writer,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
        )
        os.close(writer)
        try:
            with server.accept() as h2:
                h2.wait(lambda: h2.stream(1).ended, what="the request")
                h2.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
                # In one piece, so that all of it is printed before any of it is written.
                body = b"".join(message(event.SerializeToString()) for event in events)
                h2.send(frame(DATA, 0, 1, body))
                wait_until(lambda: pipe_size(reader) == 4096, what="a pipe that is full")
                wait_stable(lambda: state.exists())
        finally:
            program.kill()
            program.wait()
            os.close(reader)
    assert not state.exists()


def pipe_size(pipe):
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


@pytest.mark.parametrize("content", ["", "something else\n", "stock-client position\nepoch x\n"])
def test_a_file_of_somebody_else_is_left_alone(run_client, tmp_path, content):
    state = tmp_path / "mine"
    state.write_text(content)
    done = run_client("watch", "127.0.0.1:1", "--no-reconnect", "--state", state)
    assert done.returncode == USAGE and str(state) in done.stderr
    assert state.read_text() == content


def test_a_state_has_one_user(run_client, start_client, tmp_path):
    state = tmp_path / "position"
    with FakeMarket() as server:
        client = start_client("watch", server.address, "--state", state)
        wait_until(lambda: server.requests, 30, "the call")
        done = run_client("watch", server.address, "--state", state)
        assert done.returncode == USAGE and str(state) in done.stderr
        assert client.stop() == INTERRUPTED
        done = run_client("watch", server.address, "--state", state, "-t", "1s")
        assert done.returncode == DONE


# --- list -------------------------------------------------------------------------------------


# --- Standard output ---------------------------------------------------------------------------

ANSWERS = ["list", "list -o json", "check", "bench -t 100ms", "watch --help", "--version", "-h"]


def fake_ticker():
    return FakeMarket(([update(2)], None), tickers=[pb2().Ticker(ticker="AAPL")])


def test_a_market_without_tickers_is_no_fault(run_client):
    with FakeMarket() as server:
        done = run_client("list", "-o", "json", server.address, metrics=True)
    assert (done.returncode, done.stdout, done.stderr) == (DONE, "", "")


@pytest.mark.parametrize("command", ANSWERS)
def test_an_answer_that_cannot_be_written_is_a_failure(client_program, command):
    with fake_ticker() as server, open("/dev/full", "w") as full:
        operand = [] if "-" in command.split()[-1] else [server.address]
        done = subprocess.run(
            [client_program, *command.split(), *operand],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            env=clean_environment(),
        )
    assert done.returncode == FAILED
    assert done.stderr == (
        "stock-client: cannot write to standard output: No space left on device\n"
    )


@pytest.mark.parametrize("command", ANSWERS)
def test_an_answer_that_nobody_reads_is_none(client_program, command):
    with fake_ticker() as server:
        operand = [] if "-" in command.split()[-1] else [server.address]
        program = subprocess.Popen(
            [client_program, *command.split(), *operand],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
        )
        program.stdout.close()
        assert program.wait(30) == DONE
        assert program.stderr.read() == b""
        program.stderr.close()


def test_list_has_all_tickers(market, run_client):
    market.publish(("MSFT", 10), ("AAPL", 20), ("MSFT", 12.5))
    done = run_client("list", address(market), metrics=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["TICKER", "PRICE", "CHANGE", "CHANGE%", "VOLUME", "UPDATES", "AGE"]
    rows = {line[0]: line for line in lines[1:]}
    assert rows["MSFT"][1] == "12.50" and rows["MSFT"][5] == "2"
    assert rows["NVDA"][1:] == ["-", "-", "-", "-", "0", "-"]
    done = run_client("list", address(market), "NVDA", "MSFT", "NVDA", "-o", "json", metrics=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["ticker"], row["updates"]) for row in found] == [("NVDA", "0"), ("MSFT", "2")]
    assert found[0]["update"] is None and found[1]["update"]["price"] == 12.5
    assert int(found[1]["sequence"]) == START + 3
    done = run_client("list", address(market), "-o", "csv", metrics=True)
    rows = {row["ticker"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert rows["AAPL"]["price"] == "20" and rows["NVDA"]["price"] == ""
    done = run_client("list", address(market), "NOPE", metrics=True)
    assert done.returncode == FAILED and "NOPE" in done.stderr and not done.stdout


@pytest.mark.parametrize("output", ["text", "json"])
def test_list_obeys_no_server(run_client, output):
    tickers = [pb2().Ticker(ticker=EVIL, updates=2**64 - 1), pb2().Ticker(ticker="x" * 500)]
    values = [
        update(3, EVIL, price=1e308),
        update(3, "NEW", price=float("nan")),
        heartbeat(4),  # none of a snapshot
    ]
    with FakeMarket(tickers=tickers, values=values) as server:
        done = run_client("list", server.address, "-o", output, metrics=True)
    assert done.returncode == DONE and safe(done.stdout), done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 + (output == "text")
    if output == "text":
        assert max(len(line) for line in lines) <= 100


# --- check ------------------------------------------------------------------------------------


def check(run_client, *arguments):
    done = run_client("check", *arguments, metrics=True)
    assert len(done.stdout.splitlines()) == (0 if "-q" in arguments else 1), done.stdout
    assert safe(done.stdout)
    return done.returncode, done.stdout


def test_check_of_a_market_that_lives(run_client):
    with FakeMarket(([update(2, snapshot=True), update(3, "MSFT")], None)) as server:
        code, line = check(run_client, server.address)
        assert code == DONE and line.startswith("OK: ") and '"MSFT"' in line
    with FakeMarket(([update(3)], None)) as server:
        code, line = check(run_client, server.address, "AAPL", "-o", "json")
        found = json.loads(line)
        assert code == DONE and found["ok"] and found["health"] == "SERVING"
        assert 0 < found["connectedMs"] < found["updateMs"] and found["error"] is None
    assert list(server.requests[0].tickers) == ["AAPL"]
    with FakeMarket() as server:
        assert check(run_client, server.address, "--health-only")[0] == DONE
        assert not server.requests


def test_check_of_a_market_that_does_not(run_client):
    with FakeMarket(health=b"\x08\x02") as server:
        code, line = check(run_client, server.address)
        assert code == FAILED and "NOT_SERVING" in line and not server.requests
        assert check(run_client, server.address, "-q") == (FAILED, "")
    # Only a heartbeat and old values: no update came.
    with FakeMarket(([update(2, snapshot=True), heartbeat(2)], None)) as server:
        code, line = check(run_client, server.address, "-t", "1s")
        assert code == FAILED and "no update came within 1 s" in line
    with FakeMarket(([], grpc.StatusCode.NOT_FOUND)) as server:
        code, line = check(run_client, server.address, "NOPE")
        assert code == FAILED and "NotFound" in line
    # What the server says of itself cannot do anything to a terminal.
    with FakeMarket(health=grpc.StatusCode.UNIMPLEMENTED) as server:
        code, line = check(run_client, server.address)
        assert code == FAILED and "Unimplemented" in line
    with FakeMarket(health=b"\xff") as server:
        code, line = check(run_client, server.address)
        assert code == FAILED and "not one of the method's" in line


def test_check_without_a_server(run_client):
    code, line = check(run_client, f"127.0.0.1:{free_port()}")
    assert code == NO_CONNECTION and "connection refused" in line
    assert run_client("check", "-o", "csv", metrics=True).returncode == USAGE
    assert run_client("check", "--window", "5", metrics=True).returncode == USAGE


def test_check_of_stockd(market, run_client):
    code, _ = check(run_client, address(market), "--health-only", "--service", "market")
    assert code == DONE
    code, line = check(run_client, address(market), "--service", "nope")
    assert code == FAILED and "NotFound" in line
    code, line = check(run_client, address(market), "NOPE")
    assert code == FAILED and line.endswith('NotFound: unknown ticker: "NOPE"\n')
