"""stock-client bench: what it counts, beside what the server counts, and how it is told."""

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess

import grpc
import pytest

from harness.market import START
from harness.process import assert_no_report, clean_environment
from harness.server import ReferenceServer
from harness.stock_client import DONE, FAILED, INTERRUPTED, NO_CONNECTION, USAGE, free_port
from harness.wait import wait_until

MARKET = {"feed": "walk", "tickers": "A, B, C, D", "interval": "10ms"}


@pytest.fixture
def bench(client_program):
    """Runs it to its end; `code` is what its exit code must be."""

    def run(*arguments, code=DONE, output="json"):
        done = subprocess.run(
            [client_program, "bench", *map(str, arguments), "--output", output],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environment(),
        )
        assert_no_report(done.stderr, "stock-client")
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        if code in (USAGE, NO_CONNECTION):
            assert done.stdout == ""
            return done.stderr
        assert "\r" not in done.stderr, "a progress bar without a terminal"
        return json.loads(done.stdout) if output == "json" else done.stdout

    return run


@pytest.fixture
def start_bench(client_program, start_program):
    def start(*arguments):
        return start_program(
            [client_program, "bench", "--output", "json", *map(str, arguments)], "stock-client"
        )

    return start


def address(server):
    return f"127.0.0.1:{server.port}"


def test_counts_what_the_server_counts(bench, start_stockd):
    stockd = start_stockd(market=MARKET)
    result = bench("-n", 30, "-c", 3, "-t", "1s", address(stockd))
    whole = result["all"]
    metrics = stockd.wait_at_rest()
    assert result["method"] == "Subscribe"
    assert result["connections"] == 3
    assert metrics.sum("stockd_connections_accepted_total") == 3
    assert whole["calls"] == whole["answered"] == 30
    assert result["fast"]["calls"] == 30 and result["slow"]["calls"] == 0
    assert whole["updates"] >= 30
    # What was under way when it ended did not reach it.
    sent = metrics.sum("stockd_market_events_sent_total")
    assert sent * 0.8 <= whole["updates"] <= sent
    for name in ("failed", "cut_off", "conflated", "dropped", "gaps", "untold", "repeated"):
        assert whole[name] == 0, (name, whole)
    assert whole["bytes"] > 80 * whole["updates"]
    assert 0.99 < whole["fairness"] <= 1
    assert result["statuses"] == {} and result["first_error"] is None
    assert not result["interrupted"] and 0.9 < result["seconds"] < 30
    latency = whole["latency_ms"]
    assert latency["count"] == whole["updates"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"]
    assert latency["p99.9"] <= latency["max"]
    assert whole["first_ms"]["count"] == 30


def test_slow_calls_are_a_class_of_their_own(bench, start_stockd):
    stockd = start_stockd(market=MARKET)
    result = bench(
        "-n", 40, "-c", 4, "-t", "1500ms", "--slow", "25%", "--slow-delay", "50ms",
        address(stockd), "A",
    )  # fmt: skip
    fast, slow = result["fast"], result["slow"]
    assert (fast["calls"], slow["calls"]) == (30, 10)
    # A slow one takes one update in 50 ms, of the 10 ms in which there is one.
    assert slow["updates"] / 10 < 0.6 * fast["updates"] / 30
    assert slow["latency_ms"]["p50"] > fast["latency_ms"]["p50"]
    assert fast["untold"] == slow["untold"] == 0


def test_merged_and_dropped_updates_are_counted(bench, start_stockd):
    stockd = start_stockd(market=dict(MARKET, interval="2ms"))
    slow = ("-n", 8, "-c", 2, "-t", "2s", "--slow", 100, "--slow-delay", "5ms", "-w", 4096)
    conflated = bench(*slow, "--policy", "conflate", address(stockd))["all"]
    assert conflated["conflated"] > 0 and conflated["dropped"] == 0
    dropped = bench(*slow, "--policy", "drop-oldest", "--max-queue", 5, address(stockd))["all"]
    assert dropped["dropped"] > 0 and dropped["conflated"] == 0
    # All tickers: what was dropped is told to the last one, so nothing is missing beside it.
    assert dropped["untold"] == dropped["repeated"] == 0
    paced = bench("-t", "1s", "--min-interval", "200ms", address(stockd))["all"]
    assert paced["updates"] <= 4 * 8
    assert paced["conflated"] > paced["updates"]


def test_cut_off_subscribers_are_failures(bench, start_stockd):
    stockd = start_stockd(market=dict(MARKET, interval="1ms", hard_bytes="64K", soft_bytes="32K"))
    result = bench(
        "-n", 4, "-t", "20s", "--slow", "50", "--slow-delay", "1h", "-w", 4096,
        "--policy", "disconnect", "--max-queue", 20, "--stages", "0:4,3s:4", address(stockd),
        code=USAGE,
    )  # fmt: skip
    assert "cannot be given together with --stages" in result
    result = bench(
        "--slow", "50", "--slow-delay", "1h", "-w", 4096, "--policy", "disconnect",
        "--max-queue", 20, "--stages", "0:4,3s:4", address(stockd), code=FAILED,
    )  # fmt: skip
    assert result["slow"]["cut_off"] == result["slow"]["failed"] == 2
    assert result["fast"]["failed"] == 0
    assert result["statuses"] == {"ResourceExhausted": 2}
    assert result["first_error"].startswith("ResourceExhausted: ")
    reasons = stockd.metrics().by("stockd_market_cut_off_total", "reason")
    assert sum(reasons.values()) == 2, reasons


def test_snapshots_and_heartbeats(bench, start_stockd):
    stockd = start_stockd(market=dict(MARKET, interval="1h", min_heartbeat="100ms"))
    stockd.wait_metric("stockd_market_sequence", START + 4)
    result = bench("-t", "1s", "--snapshot", "--heartbeat", "100ms", address(stockd))["all"]
    assert result["snapshot_updates"] == 4
    assert result["updates"] == 0 and result["latency_ms"] is None
    assert result["heartbeats"] > 1


def test_tickers_that_are_not_known(bench, start_stockd):
    stockd = start_stockd(market=MARKET)
    result = bench("-n", 5, "-t", "1m", address(stockd), "A", "NONE", code=FAILED)
    # It does not wait for the end of its time when nothing can come any more.
    assert result["seconds"] < 30
    assert result["statuses"] == {"NotFound": 5}
    assert "NONE" in result["first_error"]
    assert result["all"]["failed"] == 5 and result["all"]["cut_off"] == 0


def test_get_updates_of_another_server(bench):
    with ReferenceServer(interval=0.02) as server:
        result = bench("--method", "get-updates", "-n", 6, "-c", 2, "-t", "1s", address(server))
        assert len(server.calls) == 6
        whole = result["all"]
        assert result["method"] == "GetUpdates"
        assert whole["answered"] == 6
        assert 0.8 * server.sent <= whole["updates"] <= server.sent
        assert whole["untold"] == 0
        assert whole["latency_ms"] is None  # its messages do not say when they were made


def test_what_a_server_leaves_out_is_seen(bench):
    class Hole(ReferenceServer):
        """Every tenth update is not sent."""

        def _get_updates(self, request, context):
            for number, update in enumerate(super()._get_updates(request, context)):
                if number % 10 != 9:
                    yield update

    with Hole(interval=0.01) as server:
        result = bench("--method", "get-updates", "-t", "1s", address(server), code=FAILED)
        assert result["all"]["untold"] >= result["all"]["updates"] // 10 > 0


def test_calls_that_fail_are_told_by_status(bench):
    def plan(call, context):
        if len(server.calls) % 2:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")

    with ReferenceServer(interval=0.01, plan=plan) as server:
        result = bench("--method", "get-updates", "-n", 1, "-t", "1m", address(server), code=FAILED)
        assert result["statuses"] == {"PermissionDenied": 1}
        assert result["first_error"] == "PermissionDenied: not you"
        assert result["all"]["cut_off"] == 0


def test_stages_begin_and_end_calls(start_bench, start_stockd):
    stockd = start_stockd(market=MARKET)
    program = start_bench("--stages", "1s:20,500ms:20,1s:0,500ms:0", "-c", 2, address(stockd))
    streams = []

    def look():
        streams.append(stockd.metric("stockd_streams"))
        return not program.running()

    wait_until(look, 30, "its end")
    result = json.loads(program.output())
    assert result["all"]["calls"] == 20
    assert result["all"]["failed"] == 0
    assert max(streams) == 20
    # It grew and shrank in steps.
    assert sum(0 < n < 20 for n in streams) >= 2, streams


def test_a_stage_has_all_of_its_calls(bench, start_stockd):
    """Also where none follows in which they stay."""
    stockd = start_stockd(market=MARKET)
    result = bench("--stages", "400ms:10,400ms:0", address(stockd))
    assert result["all"]["calls"] == result["all"]["answered"] == 10
    result = bench("--stages", "400ms:10", address(stockd))
    assert result["all"]["calls"] == 10


def test_a_server_that_dies(start_bench, start_stockd):
    stockd = start_stockd(market=MARKET)
    program = start_bench("-n", 6, "-c", 3, "-t", "5m", address(stockd))
    stockd.wait_metric("stockd_streams", lambda n: n == 6)
    stockd.stop()
    assert program.wait() == FAILED
    # With its last call the run is over, whether the connections are closed by then or not.
    result = json.loads(program.output())
    assert result["statuses"] == {"Unavailable": 6}


def test_an_interrupt_gives_the_results_so_far(start_bench, start_stockd):
    stockd = start_stockd(market=MARKET)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        program = start_bench("-n", 5, "-t", "5m", address(stockd))
        stockd.wait_metric("stockd_streams", lambda n: n == 5)
        assert program.stop(number) == INTERRUPTED
        result = json.loads(program.output())
        assert result["interrupted"]
        assert result["all"]["calls"] == 5
        stockd.wait_metric("stockd_streams", lambda n: n == 0)


def test_no_connection(bench):
    error = bench(f"127.0.0.1:{free_port()}", code=NO_CONNECTION)
    assert re.search(r"^stock-client: cannot connect to 127\.0\.0\.1:\d+: ", error), error
    with ReferenceServer() as server:
        error = bench("--tls", address(server), code=NO_CONNECTION)
        assert "cannot connect" in error


@pytest.mark.parametrize(
    "arguments, why",
    [
        (("-n", "0"), "--calls: "),
        (("-n", "1000001"), "--calls: "),
        (("-c", "2"), "--connections: there are more of them than calls"),
        (("-t", "0"), "--duration: "),
        (("-t", "10"), "--duration: "),
        (("--slow", "101"), "--slow: this is no part of a hundred"),
        (("--slow", "x%"), "--slow: "),
        (("--slow", "nan"), "--slow: "),
        (("--slow-delay", "0"), "--slow-delay: "),
        (("--rate", "-1"), "--rate: "),
        (("--window", "4095"), "--window: "),
        (("--stages", "10s"), '--stages: stage "10s" is no TIME:CALLS'),
        (("--stages", "1s:0"), "--stages: no stage has any calls"),
        (("--stages", "1s:1", "--rate", "5"), "cannot be given together with --stages"),
        (("--method", "x"), "--method: "),
        (("--policy", "x"), "--policy: "),
        (("--output", "x"), "--output: "),
        (("--keepalive", "5s"), "--keepalive: less than 10s"),
        (("--method", "get-updates", "--snapshot"), "is for subscribe, not for get-updates"),
        (("--method", "get-updates", "localhost", "AAPL"), "get-updates has no tickers"),
        (("--cert", "x"), "--cert: "),
        (("--unknown",), "unknown"),
    ],
)
def test_wrong_usage(client_program, arguments, why):
    done = subprocess.run(
        [client_program, "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env=clean_environment(),
    )
    assert_no_report(done.stderr, "stock-client")
    assert done.returncode == USAGE, done
    assert why in done.stderr, done.stderr
    assert done.stdout == ""


def test_help_names_every_option(client_program):
    done = subprocess.run(
        [client_program, "bench", "--help"], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.startswith("Usage: stock-client bench ")
    assert max(map(len, done.stdout.splitlines())) <= 90


def test_more_connections_than_files(client_program):
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 100 && exec "$@"', "bash", client_program, "bench",
         "-n", "200", "-c", "200", "localhost:1"],
        capture_output=True, text=True, timeout=20, env=clean_environment(),
    )  # fmt: skip
    assert done.returncode == USAGE
    assert "200 need 264 open files, and 100 are allowed" in done.stderr


def test_table_and_csv(bench, start_stockd):
    stockd = start_stockd(market=MARKET)
    arguments = ("-n", 8, "-t", "500ms", "--slow", 50, "--slow-delay", "20ms", address(stockd))
    table = bench(*arguments, output="text")
    assert table.startswith(f"Subscribe at {address(stockd)}: 8 calls on 1 connections, ")
    assert re.search(r"^ +all +fast +slow$", table, re.MULTILINE), table
    assert re.search(r"^calls +8 +4 +4$", table, re.MULTILINE), table
    assert re.search(r"^latency p99\.9, ms +\d+\.\d{3} +\d+\.\d{3} +\d+\.\d{3}$", table, re.M), table
    rows = list(csv.DictReader(io.StringIO(bench(*arguments, output="csv"))))
    assert [row["class"] for row in rows] == ["all", "fast", "slow"]
    assert [row["calls"] for row in rows] == ["8", "4", "4"]
    assert int(rows[0]["updates"]) == int(rows[1]["updates"]) + int(rows[2]["updates"])
    assert float(rows[1]["latency_ms_p99"]) > 0
    assert all(None not in row and None not in row.values() for row in rows)


def test_progress_is_shown_on_a_terminal(client_program, start_stockd):
    stockd = start_stockd(market=MARKET)

    def run(*more):
        """What it writes to a terminal of 60 columns."""
        main, other = pty.openpty()
        os.set_blocking(main, True)
        subprocess.run(["stty", "cols", "60"], stdin=other, check=True)
        done = subprocess.Popen(
            [client_program, "bench", "-n", "3", "-t", "1s", *more, address(stockd)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=other,
            env=clean_environment(),
        )
        os.close(other)
        written = b""
        while True:
            try:
                chunk = os.read(main, 4096)
            except OSError:  # the last writer has left
                break
            if not chunk:
                break
            written += chunk
        output = done.communicate(timeout=20)[0]
        os.close(main)
        assert done.returncode == DONE, written
        assert output.startswith(b"Subscribe at ")
        return written.decode()

    lines = run().split("\r\033[K")
    assert lines[-1] == "", "the last line is not erased"
    assert len(lines) > 3
    for line in lines[1:-1]:
        assert re.match(r"^\[[# ]{20}\] \d+/1 s, 3 calls, ", line), line
        assert len(line) < 60
    assert lines[1].count("#") < lines[-2].count("#")
    assert run("--no-progress") == ""
