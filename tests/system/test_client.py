"""
stock-client: against servers on grpcio, against servers made of bare frames (that check its credit
to the byte), and against stockd.
"""

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import time

import grpc
import pytest

from harness.h2 import (
    CANCEL,
    DATA,
    EMPTY_REQUEST,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    REFUSED_STREAM,
    RST_STREAM,
    RawServer,
    frame,
    message,
)
from harness.metrics import http_request, scrape
from harness.process import assert_no_report, clean_environment
from harness.server import ReferenceServer
from harness.stock_client import (  # noqa: F401  (some are fixtures)
    DONE,
    FAILED,
    INTERRUPTED,
    MESSAGE_BYTES_MIN,
    NO_CONNECTION,
    SUMMARY,
    USAGE,
    check_json,
    free_port,
    run_client,
    start_client,
    summary_of,
    update_of_json,
)
from harness.stocks import GET_UPDATES, Chain, pb2
from harness.wait import wait_stable, wait_until

# --- A server of bare frames ------------------------------------------------------------------

EXAMPLE = dict(
    ticker="AAPL",
    price=148.20999999999998,
    change=-1.7900000000000063,
    changePercent=-1.1999999,
    volume=9359,
    openPrice=150.0,
    highPrice=148.8,
    lowPrice=147.65,
    marketCap=4157036,
    timestamp="2026-01-31T09:30:00+01:00",
)
EXAMPLE_TEXT = (
    'ticker:"AAPL" price:148.21 change:-1.79 changePercent:-1.20 volume:9359 openPrice:150.00 '
    'highPrice:148.80 lowPrice:147.65 marketCap:4157036 timestamp:"2026-01-31T09:30:00+01:00"'
)
FIELDS = [field for field in EXAMPLE]

RESPONSE_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


def encoded(**fields):
    return message(pb2().StockUpdate(**fields).SerializeToString())


def chain_of_updates(count):
    """Encoded updates, all of one size, that follow from each other."""
    updates = []
    price = 150.0
    for number in range(count):
        change = 0.5 if number % 2 else -0.5
        price += change
        fields = {**EXAMPLE, "price": price, "change": change, "changePercent": 0.1}
        updates.append(encoded(**fields))
    assert len({len(update) for update in updates}) == 1
    return updates


class RawCall:
    """The client's one call, taken by a server of bare frames."""

    def __init__(self, server, settings=None, **options):
        self.h2 = server.accept(**options)
        self.h2.wait(lambda: self._begun(), what="the request")

    def _begun(self):
        for stream in self.h2.streams.values():
            if stream.blocks:
                self.stream = stream
                return True
        return False

    def respond(self, headers=None):
        self.h2.send_headers(self.stream.id, headers or RESPONSE_HEADERS)

    def send(self, data):
        """In as many frames as it takes."""
        for start in range(0, len(data), 16384):
            self.stream.send(data[start : start + 16384])

    def end(self, status=0, text=None):
        trailers = [("grpc-status", str(status))] + ([("grpc-message", text)] if text else [])
        self.h2.send_headers(self.stream.id, trailers, end=True)

    def refuse(self, headers):
        self.h2.send_headers(self.stream.id, headers, end=True)

    def credit(self, stream=None):
        """The credit that came, for the stream or for the connection (0)."""
        wanted = self.stream.id if stream is None else stream
        return sum(size for where, size in self.h2.window_updates if where == wanted)

    def close(self):
        self.h2.close()


@pytest.fixture
def raw_server():
    with RawServer() as server:
        yield server


@pytest.fixture
def raw_run(raw_server, client_program, start_program):
    """Starts stock-client against the raw server; returns the program and its call."""

    def run(*arguments):
        program = start_program(
            [client_program, f"127.0.0.1:{raw_server.port}", "--no-metrics", *arguments],
            "stock-client",
        )
        return program, RawCall(raw_server)

    return run


def test_the_request_on_the_wire(raw_run):
    program, call = raw_run("--count", "1")
    call.h2.wait(lambda: call.stream.ended, what="the half-close")
    headers = dict(call.stream.blocks[0])
    assert headers[":method"] == "POST"
    assert headers[":path"] == GET_UPDATES
    assert headers[":scheme"] == "http"
    assert headers[":authority"].startswith("127.0.0.1:")
    assert headers["te"] == "trailers"
    assert headers["content-type"].startswith("application/grpc")
    assert "stock-client" in headers["user-agent"]
    assert call.stream.take_messages() == [(0, b"")]
    assert len(EMPTY_REQUEST) == call.stream.data_bytes
    call.respond()
    call.send(encoded(**EXAMPLE))
    assert program.wait() == DONE


def test_text_output_is_the_original_form(raw_run):
    program, call = raw_run("--count", "2")
    call.respond()
    call.send(encoded(**EXAMPLE) + encoded())
    assert program.wait() == DONE
    assert program.output() == EXAMPLE_TEXT + "\n" + (
        'ticker:"" price:0.00 change:0.00 changePercent:0.00 volume:0 openPrice:0.00 '
        'highPrice:0.00 lowPrice:0.00 marketCap:0 timestamp:""\n'
    )


def test_json_output(raw_run):
    program, call = raw_run("--count", "2", "--output", "json")
    call.respond()
    call.send(encoded(**EXAMPLE) + encoded())
    assert program.wait() == DONE
    one, two = program.output().splitlines()
    assert update_of_json(one) == pb2().StockUpdate(**EXAMPLE)
    assert update_of_json(two) == pb2().StockUpdate()
    # All fields, in their order; 64-bit integers are strings, as proto3's JSON mapping has them.
    for line in (one, two):
        assert list(json.loads(line)) == FIELDS
    assert json.loads(one)["volume"] == "9359" and json.loads(one)["price"] == EXAMPLE["price"]


def test_csv_output(raw_run):
    program, call = raw_run("--count", "2", "--output", "csv")
    call.respond()
    call.send(encoded(**EXAMPLE) + encoded(**{**EXAMPLE, "ticker": 'A,"B"'}))
    assert program.wait() == DONE
    rows = list(csv.reader(io.StringIO(program.output())))
    assert rows[0] == FIELDS and len(rows) == 3
    for row, ticker in zip(rows[1:], ("AAPL", 'A,"B"')):
        values = dict(zip(FIELDS, row))
        assert values["ticker"] == ticker
        assert float(values["price"]) == EXAMPLE["price"]
        assert float(values["change"]) == EXAMPLE["change"]
        assert int(values["marketCap"]) == EXAMPLE["marketCap"]
        assert values["timestamp"] == EXAMPLE["timestamp"]


@pytest.mark.parametrize("output", ["text", "json", "csv"])
def test_texts_cannot_break_out_of_their_line(raw_run, output):
    evil = 'A"\\\n\r\t\x1b[2J\x7f\u0085é€\U0001f600'
    program, call = raw_run("--count", "1", "--output", output)
    call.respond()
    call.send(encoded(**{**EXAMPLE, "ticker": evil}))
    assert program.wait() == DONE
    text = program.output()
    if output == "csv":
        _, row = csv.reader(io.StringIO(text, newline=""))
        assert len(row) == len(FIELDS)
        return
    (line,) = text.splitlines()
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    assert "é€\U0001f600" in line
    if output == "json":
        assert json.loads(line)["ticker"] == evil


def test_each_line_is_flushed(raw_run):
    program, call = raw_run()
    call.respond()
    for number in range(1, 6):
        call.send(encoded(**EXAMPLE))
        wait_until(lambda n=number: program.output().count("\n") == n, what="the line")
    call.end()
    assert program.wait() == DONE


def test_messages_in_any_pieces(raw_run):
    program, call = raw_run("--output", "json")
    call.respond()
    updates = chain_of_updates(40)
    for update in updates[:3]:  # byte by byte
        for i in range(len(update)):
            call.stream.send(update[i : i + 1])
    call.stream.send(b"".join(updates[3:20]))  # many in a frame
    rest = b"".join(updates[20:])
    for start in range(0, len(rest), 37):  # across frames, padded
        piece = rest[start : start + 37]
        padded = bytes([9]) + piece + bytes(9)
        call.h2.send(frame(DATA, 0x8, call.stream.id, padded))
    call.stream.send(b"")
    call.end()
    assert program.wait() == DONE
    lines = program.output().splitlines()
    assert [update_of_json(line).SerializeToString() for line in lines] == [
        update[5:] for update in updates
    ]


def test_gaps_are_seen(raw_run):
    program, call = raw_run()
    call.respond()
    updates = chain_of_updates(12)
    call.send(b"".join(updates[:4] + updates[5:8] + updates[9:]))
    call.end()
    assert program.wait() == DONE
    assert summary_of(program.log())["gaps"] == 2
    assert summary_of(program.log())["received"] == 10


@pytest.mark.parametrize("window", [1000, 5000, 65535])
def test_credit_is_given_for_processed_updates_alone(raw_run, window):
    """
    Never more credit than the updates whose lines have been written; and as much, in the end, as
    keeps the stream going.
    """
    program, call = raw_run("--delay", "10ms:10ms", "--window", str(window), "--output", "json")
    assert call.h2.peer_settings.get(INITIAL_WINDOW_SIZE, 65535) == window
    updates = chain_of_updates(60 if window <= 5000 else 800)
    size = len(updates[0])
    data = b"".join(updates)
    call.respond()
    sent = 0

    def fill():
        nonlocal sent
        open_ = min(window + call.credit(), 65535 + call.credit(0)) - sent
        piece = data[sent : sent + max(open_, 0)]
        call.send(piece)
        sent += len(piece)

    fill()
    assert sent == min(window, len(data))
    credits = 0
    goal = len(data) if window <= 5000 else window + 1
    while sent < goal:
        seen = len(call.h2.window_updates)
        call.h2.wait(lambda: len(call.h2.window_updates) > seen, what="credit")
        written = program.output().count("\n")
        assert call.credit() <= written * size, f"credit before the work, at {sent} bytes"
        assert call.credit(0) <= written * size
        credits += 1
        fill()
    assert credits >= 1
    program.send_signal(signal.SIGINT)
    assert program.wait() == INTERRUPTED


def test_credit_is_no_flood(raw_run):
    """
    Nor does a client with a delay send a frame for each update when the server has sent its fill
    in few frames and then nothing: proxies count that (Envoy, 20 for each frame of DATA).
    """
    program, call = raw_run("--delay", "1ms:1ms", "--output", "json")
    updates = chain_of_updates(65535 // len(encoded(**EXAMPLE)) - 50)
    call.respond()
    call.send(b"".join(updates))
    wait_until(lambda: program.output().count("\n") == len(updates), what="all lines")
    call.h2.ping()
    assert 0 < len(call.h2.window_updates) < 40, call.h2.window_updates
    program.send_signal(signal.SIGINT)
    assert program.wait() == INTERRUPTED


def test_pings_are_answered_while_an_update_waits(raw_run):
    program, call = raw_run("-r")
    call.respond()
    call.send(b"".join(chain_of_updates(20)))
    began = time.monotonic()
    call.h2.ping()
    assert time.monotonic() - began < 0.9
    assert program.output() == ""
    program.send_signal(signal.SIGINT)
    assert program.wait() == INTERRUPTED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_call(raw_run, number):
    program, call = raw_run()
    call.respond()
    call.send(encoded(**EXAMPLE))
    wait_until(lambda: program.output(), what="the line")
    program.send_signal(number)
    call.h2.wait(lambda: call.stream.rst is not None, what="RST_STREAM")
    assert call.stream.rst == CANCEL
    call.h2.wait(lambda: call.h2.goaway, what="GOAWAY")
    call.close()
    assert program.wait() == INTERRUPTED
    assert summary_of(program.log())["received"] == 1


def test_the_end_of_the_stream_is_the_end(raw_run):
    program, call = raw_run()
    call.respond()
    call.send(b"".join(chain_of_updates(7)))
    call.end()
    assert program.wait() == DONE
    assert summary_of(program.log())["received"] == 7


def test_updates_before_an_error_are_still_processed(raw_run):
    program, call = raw_run("--delay", "20ms:20ms")
    call.respond()
    call.send(b"".join(chain_of_updates(7)))
    call.end(9, "late")
    assert program.wait() == FAILED
    assert program.output().count("\n") == 7
    assert "FailedPrecondition" in program.log() and "late" in program.log()


@pytest.mark.parametrize(
    "headers, code",
    [
        ([(":status", "404"), ("content-type", "text/html")], "Unimplemented"),
        ([(":status", "403"), ("content-type", "text/html")], "PermissionDenied"),
        ([(":status", "200"), ("content-type", "text/html")], "Unknown"),
        ([(":status", "200"), ("content-type", "application/grpc")], "Unknown|Internal"),
        (RESPONSE_HEADERS + [("grpc-status", "x")], "Unknown|Internal"),
        (RESPONSE_HEADERS + [("grpc-status", "99")], "Unknown"),
        (
            RESPONSE_HEADERS + [("grpc-status", "12"), ("grpc-message", "na%C3%AFve %")],
            "Unimplemented.*naïve %",
        ),
    ],
    ids=["404", "403", "html", "no status", "bad status", "unknown status", "percent"],
)
def test_answers_without_a_stream(raw_run, headers, code):
    program, call = raw_run("--no-reconnect")
    call.refuse(headers)
    assert program.wait() == FAILED
    assert re.search(f"rpc error: code = ({code})", program.log()), program.log()


@pytest.mark.parametrize(
    "error, code",
    [
        (CANCEL, "Canceled"),
        (REFUSED_STREAM, "Unavailable"),
        (11, "ResourceExhausted"),
        (2, "Internal"),
        (12, "PermissionDenied"),
    ],
)
def test_resets_mean_a_status(raw_run, error, code):
    program, call = raw_run("--no-reconnect")
    call.h2.send(frame(RST_STREAM, 0, call.stream.id, error.to_bytes(4, "big")))
    assert program.wait() == FAILED
    assert f"code = {code} " in program.log()


@pytest.mark.parametrize(
    "data",
    [
        message(b"", flag=1),
        message(b"", flag=7),
        message(b"\x07"),
        message(b"\x0a\xff"),
        message(b"", length=2**32 - 1),
    ],
    ids=["compressed", "flag", "no protobuf", "cut", "too long"],
)
def test_bad_messages_end_the_call(raw_run, data):
    program, call = raw_run("--no-reconnect")
    call.respond()
    call.send(data)
    assert program.wait() == FAILED
    assert re.search(r"code = (Internal|ResourceExhausted|Unimplemented)", program.log())


def test_a_stream_that_ends_inside_a_message(raw_run):
    program, call = raw_run("--no-reconnect")
    call.respond()
    call.send(encoded(**EXAMPLE)[:-3])
    call.end()
    assert program.wait() == FAILED
    assert "code = Internal" in program.log()


@pytest.mark.parametrize(
    "error, words",
    [
        (12, r"the server wants TLS \(--tls\)"),
        (11, r"asked for too much \(ENHANCE_YOUR_CALM\)"),
        (2, "ended the connection with an error"),
    ],
    ids=["INADEQUATE_SECURITY", "ENHANCE_YOUR_CALM", "INTERNAL_ERROR"],
)
@pytest.mark.parametrize("last", [0, 1], ids=["not looked at", "looked at"])
def test_an_angry_goaway_is_told_in_words(raw_run, error, words, last):
    program, call = raw_run("--no-reconnect")
    call.h2.send(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + error.to_bytes(4, "big")))
    call.close()
    assert program.wait() == FAILED
    assert re.search(f"code = Unavailable desc = .*{words}", program.log()), program.log()


def test_keepalive(raw_server, client_program, start_program):
    """
    A silent server gets a PING after 10 s, and not earlier. One that is gone is missed 20 s after
    that; one that says that it is too much is understood.
    """
    argv = [client_program, f"127.0.0.1:{raw_server.port}", "--no-metrics", "--keepalive", "10s"]
    angry = start_program(argv + ["--no-reconnect"], "stock-client")
    angry_call = RawCall(raw_server)
    angry_begun = time.monotonic()
    gone = start_program(argv + ["--no-reconnect"], "stock-client")
    gone_call = RawCall(raw_server)
    gone_begun = time.monotonic()
    for call in (angry_call, gone_call):
        call.respond()
    gone_call.h2.vanish()

    angry_call.h2.wait(lambda: angry_call.h2.peer_pings, 60, "a PING")
    assert time.monotonic() - angry_begun >= 9.5
    data = (1).to_bytes(4, "big") + (11).to_bytes(4, "big") + b"too_many_pings"
    angry_call.h2.send(frame(GOAWAY, 0, 0, data))
    angry_call.close()
    assert angry.wait() == FAILED
    assert re.search(r"code = Unavailable .*too_many_pings.*--keepalive", angry.log())

    assert gone.wait(90) == FAILED
    assert time.monotonic() - gone_begun >= 29
    assert re.search(r"code = Unavailable .*no answer to a PING", gone.log())


def test_without_keepalive_there_are_no_pings(raw_run):
    program, call = raw_run("--max-time", "12s")
    call.respond()
    call.h2.wait(lambda: call.h2.goaway, 30, "the goodbye")
    assert not call.h2.peer_pings
    call.close()
    assert program.wait() == DONE


# --- A server on grpcio -----------------------------------------------------------------------


def test_thousands_of_updates_from_grpcio(run_client):
    with ReferenceServer() as server:
        done = run_client(f"127.0.0.1:{server.port}", "--count", 5000, "--output", "json")
    assert done.returncode == DONE
    lines = done.stdout.splitlines()
    assert len(lines) == 5000
    assert check_json(lines) == 5000
    summary = summary_of(done.stderr)
    assert summary["received"] == 5000 and summary["gaps"] == summary["reconnects"] == 0
    assert abs(summary["rate"] * summary["seconds"] - 5000) < 500


def test_a_slow_client_holds_grpcio_back(start_client):
    """grpcio as the judge: it sends no more than the window and a few messages of its own."""
    with ReferenceServer() as server:
        client = start_client(f"127.0.0.1:{server.port}", "--delay", "100ms:100ms")
        client.wait_lines(3)
        client.wait_lines(10)
        held = server.sent
        assert held <= 65535 / MESSAGE_BYTES_MIN + 200
        # What the server has sent and the client has not processed fits the window.
        assert client.metric("stock_client_unprocessed_bytes") <= 65535
        client.wait_lines(15)
        assert server.sent <= held + 200
        assert client.stop() == INTERRUPTED
        wait_until(lambda: server.calls[0].over, what="the end of the call at the server")


def test_a_small_window_holds_grpcio_back_further(start_client):
    with ReferenceServer() as server:
        client = start_client(f"127.0.0.1:{server.port}", "--delay", "50ms:50ms", "--window", "2K")
        client.wait_lines(10)
        assert client.metric("stock_client_unprocessed_bytes") <= 2048
        assert server.sent - len(client.lines()) <= 2048 / MESSAGE_BYTES_MIN + 200
        assert client.stop() == INTERRUPTED


@pytest.mark.parametrize(
    "code, name",
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "FailedPrecondition"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "ResourceExhausted"),
        (grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated"),
    ],
)
def test_an_error_is_printed_with_code_and_message(run_client, code, name):
    def plan(call, context):
        if call.sent == 3:
            context.abort(code, "no way: 100 % ünmöglich")

    with ReferenceServer(plan=plan) as server:
        done = run_client(f"127.0.0.1:{server.port}")
    assert done.returncode == FAILED
    assert re.search(f"code = {name} desc = no way: 100 % ünmöglich", done.stderr)
    assert len(done.stdout.splitlines()) == 3
    assert summary_of(done.stderr)["received"] == 3


def test_max_time(run_client):
    with ReferenceServer(interval=0.01) as server:
        began = time.monotonic()
        done = run_client(f"127.0.0.1:{server.port}", "--max-time", "700ms")
    assert time.monotonic() - began >= 0.69
    assert done.returncode == DONE
    summary = summary_of(done.stderr)
    assert 0.69 <= summary["seconds"] < 5  # its clock ticks in milliseconds
    assert summary["received"] == len(done.stdout.splitlines()) > 0


def test_quiet(run_client):
    with ReferenceServer() as server:
        done = run_client(f"127.0.0.1:{server.port}", "--count", "100", "--quiet")
    assert (done.returncode, done.stdout) == (DONE, "")
    assert summary_of(done.stderr)["received"] == 100


# --- Usage, connecting and reconnecting -------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nothing"],
        ["-x"],
        ["one:1", "two:2"],
        ["localhost:70000"],
        ["localhost:port"],
        ["--delay", "3:1"],
        ["--delay", "fast"],
        ["--delay", "-1:2"],
        ["--window", "0"],
        ["--window", "3G"],
        ["--window", "many"],
        ["--output", "xml"],
        ["--count", "x"],
        ["--max-time", "x"],
        ["--metrics", "nowhere"],
        ["--keepalive", "9s"],
        ["--cert", "x.crt"],
        ["--server-name", "a:1"],
        ["unix:"],
        ["unix://host/path"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(run_client, arguments):
    done = run_client(*arguments)
    assert done.returncode == USAGE
    assert done.stdout == "" and done.stderr
    assert not SUMMARY.search(done.stderr)


def test_version_and_help(run_client, run_stockd):
    done = run_client("--version")
    version = run_stockd("--version").stdout.split()[1]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stock-client {version}\n", "")
    done = run_client("--help")
    assert (done.returncode, done.stderr) == (0, "")
    options = "-r --delay --window --output --quiet --count --max-time --no-reconnect --keepalive"
    options += " --tls --cacert --cert --key --server-name --insecure unix:PATH"
    for option in options.split():
        assert option in done.stdout


def test_nobody_there_exits_3(run_client):
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    done = run_client(address, "--no-reconnect")
    assert time.monotonic() - began < 5
    assert done.returncode == NO_CONNECTION
    assert address in done.stderr and "refused" in done.stderr
    assert done.stdout == ""


def test_no_such_host_exits_3(run_client):
    done = run_client("no-such-host.invalid:4444", "--no-reconnect")
    assert done.returncode == NO_CONNECTION
    assert "no-such-host.invalid" in done.stderr


def test_max_time_without_a_connection_exits_3(run_client):
    done = run_client(f"127.0.0.1:{free_port()}", "--max-time", "500ms")
    assert done.returncode == NO_CONNECTION


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02", b""]
)
def test_what_is_no_http2_exits_3(client_program, start_program, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = start_program(
            [
                client_program,
                f"127.0.0.1:{listener.getsockname()[1]}",
                "--no-reconnect",
                "--no-metrics",
            ],
            "stock-client",
        )
        listener.settimeout(20)
        sock, _ = listener.accept()
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        assert program.wait() == NO_CONNECTION
        sock.close()


def test_connecting_again_with_backoff(start_client):
    """The waits of gRPC's connection backoff: 1 s, 1.6 s, each 20 % more or less."""
    port = free_port()
    began = time.monotonic()
    client = start_client(f"127.0.0.1:{port}", "--count", "20", "--output", "json")
    client.program.wait_log(r"(?s)trying again.*trying again")
    assert time.monotonic() - began >= 0.8
    waits = [
        float(text) for text in re.findall(r"trying again in (\d+\.\d) s", client.program.log())
    ]
    assert 0.7 <= waits[0] <= 1.3
    assert 1.2 <= waits[1] <= 2.0
    assert client.metric("grpc_client_started_total") == 0
    with ReferenceServer(port=port) as server:
        assert client.program.wait() == DONE
        assert len(server.calls) == 1
    assert check_json(client.lines()) == 20
    assert client.summary()["reconnects"] == 0


@pytest.mark.parametrize("end", ["UNAVAILABLE", "connection"])
def test_going_on_with_another_server(start_client, end):
    """A server that goes away, and another one in its place; each stream has a chain of its own."""
    port = free_port()
    server = ReferenceServer(interval=0.005, port=port, seed=5)
    client = start_client(f"127.0.0.1:{port}", "--output", "json")
    client.wait_lines(10)
    if end == "UNAVAILABLE":
        server.plan = lambda call, context: context.abort(grpc.StatusCode.UNAVAILABLE, "bye")
        wait_until(lambda: server.calls[0].over, what="the abort")
    server.stop()
    client.program.wait_log("trying again")
    first = len(client.lines())
    with ReferenceServer(interval=0.005, port=port, seed=6):
        client.wait_lines(first + 10)
        metrics = client.metrics()
        assert metrics.sum("grpc_client_started_total") == 2
        assert metrics.sum("grpc_client_handled_total", grpc_code="Unavailable") == 1
        assert client.stop() == INTERRUPTED
    lines = client.lines()
    assert check_json(lines[:first]) == first
    assert check_json(lines[first:]) >= 10
    summary = client.summary()
    assert summary["gaps"] == 0 and summary["reconnects"] == 1
    assert summary["received"] == len(lines)


def test_no_reconnect_ends_with_the_server(run_client):
    def plan(call, context):
        if call.sent == 5:
            context.abort(grpc.StatusCode.UNAVAILABLE, "bye")

    with ReferenceServer(plan=plan) as server:
        done = run_client(f"127.0.0.1:{server.port}", "--no-reconnect")
    assert done.returncode == FAILED
    assert "code = Unavailable desc = bye" in done.stderr


# --- Against stockd ---------------------------------------------------------------------------


@pytest.mark.parametrize("interval, count", [("0", 20000), ("1ms", 1000)])
def test_thousands_of_updates_from_stockd(start_stockd, run_client, interval, count):
    stockd = start_stockd(stream={"interval": interval})
    done = run_client(f"127.0.0.1:{stockd.port}", "--count", count, "--output", "json")
    assert done.returncode == DONE
    assert check_json(done.stdout.splitlines()) == count
    assert summary_of(done.stderr)["gaps"] == 0
    stockd.wait_at_rest()


def test_sent_and_received_with_r(start_stockd, start_client):
    """
    -r waits 1, 2 or 3 whole seconds before each update. What stockd has sent and the client has
    not processed fits the window, by both programs' own counters.
    """
    stockd = start_stockd(stream={"interval": "0"})
    began = time.monotonic()
    client = start_client(f"127.0.0.1:{stockd.port}", "-r", "--output", "json")
    sent = wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent")
    most = 65535 // MESSAGE_BYTES_MIN
    assert 65535 / 115 <= sent <= most
    times = []
    for count in (1, 2, 3):
        client.wait_metric("stock_updates_received_total", lambda n, c=count: n >= c)
        times.append(time.monotonic())
    assert time.monotonic() - began >= 3
    for before, after in zip([None] + times, times):
        if before:
            assert 0.8 <= after - before <= 6
    received = client.metric("stock_updates_received_total")
    sent = stockd.metric("stock_updates_sent_total")
    assert received < 10
    assert received <= sent <= received + most
    assert stockd.metric("stockd_blocked_streams", reason="stream_window") == 1
    assert client.metric("stock_client_gaps_total") == 0
    assert client.stop() == INTERRUPTED
    assert check_json(client.lines()) == client.summary()["received"]
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == 1


@pytest.mark.parametrize("window", [1024, 65535])
def test_sent_and_received_in_steady_state(start_stockd, start_client, window):
    """A client that is slower than the server's pace: sent follows received, a window ahead."""
    stockd = start_stockd(stream={"interval": "1ms"})
    client = start_client(
        f"127.0.0.1:{stockd.port}", "--delay", "3ms:6ms", "--window", window, "--output", "json"
    )
    ahead_most = window // MESSAGE_BYTES_MIN + 1

    def both():
        received = client.metric("stock_updates_received_total")
        sent = stockd.metric("stock_updates_sent_total")
        received_later = client.metric("stock_updates_received_total")
        assert received <= sent <= received_later + ahead_most
        return received_later

    wait_until(lambda: both() >= 200, 60, "200 updates")
    if window == 1024:
        assert stockd.metric("stockd_blocked_episodes_total", reason="stream_window") > 5
        # In the long run the client sets the pace.
        assert stockd.metric("stock_updates_sent_total") <= both() + ahead_most
    assert client.stop() == INTERRUPTED
    assert check_json(client.lines()) >= 200
    assert client.summary()["gaps"] == 0


def test_output_that_nobody_reads_presses_back(start_stockd, client_program):
    """A pager that stands still: the pipe is full, so the client processes no more."""
    stockd = start_stockd(stream={"interval": "0"})
    process = subprocess.Popen(
        [str(client_program), f"127.0.0.1:{stockd.port}", "--no-metrics", "--output", "json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        stopped = wait_until(
            lambda: stockd.metric("stock_updates_sent_total") > 100
            and wait_stable(lambda: stockd.metric("stock_updates_sent_total"), what="sent"),
            what="sent",
        )
        assert stopped < 20000
        assert stockd.metric("stockd_blocked_streams") == 1
        # Reading on, nothing is missing.
        chain = Chain()
        while chain.count < stopped + 5000:
            chain.check(update_of_json(process.stdout.readline()))
        # And as `head` does: nobody reads any more, which is no failure.
        process.stdout.close()
        assert process.wait(20) == DONE
        assert_no_report(process.stderr.read().decode(), "stock-client")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_stockd_restarts_under_the_client(start_stockd, start_client):
    address = f"127.0.0.1:{free_port()}"
    stockd = start_stockd(grpc={"listen": address}, stream={"interval": "5ms"})
    client = start_client(address, "--output", "json")
    client.wait_lines(10)
    assert stockd.stop() == 0
    client.program.wait_log("code = Unavailable desc = .*trying again")
    first = len(client.lines())
    start_stockd(grpc={"listen": address}, stream={"interval": "5ms"})
    client.wait_lines(first + 10)
    assert client.stop() == INTERRUPTED
    assert client.summary()["reconnects"] == 1 and client.summary()["gaps"] == 0
    check_json(client.lines()[:first])
    check_json(client.lines()[first:])


def test_the_deadlines_of_others_do_not_matter(start_stockd, start_client):
    """Two clients, one slow, one fast: the fast one is not held up."""
    stockd = start_stockd(stream={"interval": "2ms"})
    slow = start_client(f"127.0.0.1:{stockd.port}", "-r", "--window", "1K")
    fast = start_client(f"127.0.0.1:{stockd.port}", "--count", "500", "--output", "json")
    assert fast.program.wait() == DONE
    assert check_json(fast.lines()) == 500
    assert len(slow.lines()) < 10
    assert slow.stop() == INTERRUPTED


# --- Its metrics ------------------------------------------------------------------------------


def test_metrics_of_the_client(start_client):
    with ReferenceServer(interval=0.01) as server:
        client = start_client(f"127.0.0.1:{server.port}")
        client.wait_metric("stock_updates_received_total", lambda count: count >= 5)
        text = http_request(client.port, "/metrics").body.decode()
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        metrics = client.metrics()
        labels = {
            "grpc_type": "server_stream",
            "grpc_service": "stockservice.StockService",
            "grpc_method": "GetUpdates",
        }
        assert metrics.sum("grpc_client_started_total", **labels) == 1
        assert metrics.sum("grpc_client_msg_sent_total", **labels) == 1
        assert metrics.sum("grpc_client_msg_received_total", **labels) >= 5
        assert len(metrics.find("grpc_client_handled_total", **labels)) == 17
        assert metrics.sum("grpc_client_handled_total") == 0
        assert metrics.sum("process_cpu_seconds_total") >= 0
        assert http_request(client.port, "/-/ready").status == 200
        assert client.stop() == INTERRUPTED


def test_the_port_of_its_metrics_from_the_environment(client_program, start_program):
    port = free_port()
    with ReferenceServer(interval=0.01) as server:
        program = start_program(
            [client_program, f"127.0.0.1:{server.port}"],
            "stock-client",
            {"STOCK_SERVICE_CLIENT_METRICS_SERVER_PORT": port},
        )
        program.wait_log("metrics on")
        assert scrape(port).sum("stock_updates_received_total") >= 0
        assert program.stop(signal.SIGINT) == INTERRUPTED


def test_a_metrics_port_that_is_taken(run_client):
    """Asked for, it is a failure."""
    with socket.create_server(("127.0.0.1", 0)) as taken, ReferenceServer() as server:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_client(
            f"127.0.0.1:{server.port}", "--count", "5", "--metrics", address, metrics=True
        )
        assert done.returncode == FAILED and address in done.stderr


def test_closed_standard_files(client_program, tmp_path):
    """Started with its standard files closed, it must not write updates into a socket."""
    with ReferenceServer() as server:
        done = subprocess.run(
            [
                "/bin/sh",
                "-c",
                '"$0" "$1" --count 50 --no-metrics <&- >&- 2>"$2"',
                str(client_program),
                f"127.0.0.1:{server.port}",
                str(tmp_path / "stderr"),
            ],
            timeout=60,
            env=clean_environment(),
        )
        assert done.returncode in (DONE, FAILED)
        assert_no_report((tmp_path / "stderr").read_text(), "stock-client")
        assert server.calls and os.path.getsize(tmp_path / "stderr") > 0
