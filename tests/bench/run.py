#!/usr/bin/python3
"""Measures stockd beside the same service elsewhere; README.md says what each row means.

A benchmark reports and asserts nothing: the exit status is 0 whatever the figures are, and 1 only if
stockd could not be measured at all.
"""

import argparse
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True  # nothing is written to the tree

import build as builder  # noqa: E402
from servers import Floor, Peer, ServerError, Stockd  # noqa: E402

MIB = 1 << 20
WINDOW_DEFAULT = 65535
WINDOW_MAX = (1 << 31) - 1
SHAPES = ((1, 1), (1, 100), (100, 1), (100, 10))
SHAPES_TLS_QUICK = ((1, 1), (100, 1), (100, 10))
SHAPES_CALLS = ((1, 1), (1, 100), (100, 10))  # connections, and calls open at a time on each
STREAMS_PACED = 10000
# Of a fan-out: connections, subscribers on each, milliseconds between two updates of the market.
SHAPES_FANOUT = ((100, 100, 200), (10, 1000, 200), (100, 1000, 1000), (10, 10000, 1000))
LOAD_GRACE_SECONDS = 20
SETTLE_SECONDS_MAX = 60


@dataclass
class Row:
    """One line of a table: a figure for each server, and what stockd's is to be."""

    label: str
    targets: list = field(default_factory=list)  # of (text, function of the row -> bool or None)
    values: dict = field(default_factory=dict)
    details: dict = field(default_factory=dict)
    marks: dict = field(default_factory=dict)

    def ratio(self, name):
        """How many times stockd's figure that of `name` is."""
        ours, theirs = self.values.get("stockd"), self.values.get(name)
        return theirs / ours if ours and theirs is not None else None


@dataclass
class Table:
    title: str
    key: str
    digits: int
    rows: list = field(default_factory=list)


def at_most(limit):
    def reached(row):
        ours = row.values.get("stockd")
        return None if ours is None else ours <= limit

    return (f"at most {limit:g}", reached)


def times(factor, name):
    def reached(row):
        ratio = row.ratio(name)
        return None if ratio is None else ratio >= factor

    return (f"{name} at least {factor:g}x", reached)


def share_of(limit, text, name):
    def reached(row):
        ratio = row.ratio(name)
        return None if ratio is None else ratio * limit >= 1

    return (f"at most {text} of {name}", reached)


# --- one load on one server ----------------------------------------------------------------------


class Load:
    """The load program on one server; bounded in time, whatever the server does."""

    def __init__(self, bench, server, arguments, seconds_max):
        self.deadline = time.monotonic() + seconds_max
        self.server = server
        self.buffer = b""
        command = ["taskset", "-c", str(bench.load_cpu), bench.load, "--port", server.port]
        command += ["--server-pid", server.pid, "--until-eof"]
        if bench.spin and arguments.get("mode") in (None, "call"):
            command.append("--spin")
        for name, value in arguments.items():
            option = f"--{name.replace('_', '-')}"
            command += [option] if value is True else [option, value]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait_for(self, *events):
        """Returns the object that the load prints for the first of the `events` that comes."""
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                message = json.loads(line)
                if message["event"] in events:
                    return message
            self.server.drain()
            if time.monotonic() > self.deadline:
                raise ServerError(f"{self.server.name}: the load did not come to '{events[0]}' in time")
            if not select.select([self.process.stdout], [], [], 0.2)[0]:
                continue
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                error = self.process.stderr.read().decode(errors="replace").strip()[-200:]
                raise ServerError(f"{self.server.name}: the load ended early: {error}")
            self.buffer += chunk

    def finish(self):
        """Ends the load now and returns its result."""
        self.process.stdin.close()
        return self.wait_for("done")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


class Bench:
    def __init__(self, arguments, servers, programs, certificate):
        self.servers = servers
        self.load, _, self.seal = programs
        self.certificate = certificate  # with its key, or None: then nothing is measured with TLS
        self.server_cpu = arguments.server_cpu
        self.load_cpu = arguments.load_cpu
        self.quick = arguments.quick
        self.spin = not arguments.load_sleeps
        self.seconds = arguments.seconds or (1 if self.quick else 5)
        self.paced_seconds = arguments.seconds or (3 if self.quick else 10)
        self.first_seconds_max = 15 if self.quick else 30
        self.notes = []
        self.tables = []

    def progress(self, text):
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif text:
            print(text, file=sys.stderr, flush=True)

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def table(self, *arguments):
        self.tables.append(Table(*arguments))
        return self.tables[-1]

    def each(self, row, measure, interval_ms, tls=None, calls=False, fanout=False):
        """Calls `measure(server)` with each kind of server, one after the other, freshly started."""
        for kind in self.servers:
            if (interval_ms and not kind.paced) or (tls and not kind.tls):
                continue
            if (calls and not kind.calls) or (fanout and not kind.fanout):
                continue
            self.progress(f"{row.label}: {kind.name}")
            try:
                with kind.start(interval_ms, self.server_cpu, tls) as server:
                    measure(server)
            except (ServerError, OSError) as error:
                self.note(f"{row.label}: {error}")

    def check(self, row, server, result):
        """What the load found wrong: a figure of a server that misbehaves is worth nothing."""
        if server.process.poll() is not None:
            server.drain()
            raise ServerError(f"{server.name} ended in the middle: {server.last_line()}")
        if result["faults"]:
            text = f"{result['first_fault']} ({result['faults']} faults)"
            self.note(f"{row.label}: {server.name}: {text}")
        wanted, started = result["streams"], result["streams_started"]
        if started < wanted and result["messages_total"]:  # else nobody read
            text = f"{wanted - started} of {wanted} streams never got a message or an answer"
            self.note(f"{row.label}: {server.name}: {text}")

    # --- unpaced --------------------------------------------------------------------------------

    def throughput(self):
        cost = self.table("Server CPU seconds per million messages, unpaced", "cpu", 4)
        rate = self.table("Messages a second, in millions, of the same runs", "rate", 3)
        first = self.table(
            "Seconds until each of 1,000 saturated streams had its first message", "first", 3
        )
        jain = self.table("Fairness between 1,000 streams (Jain's index; 1 is equal)", "jain", 4)
        for window, name, limit in ((MIB, "1 MiB", 0.05), (WINDOW_DEFAULT, "65535 B", 0.06)):
            for connections, streams in SHAPES:
                label = f"{connections}x{streams}, {name}"
                targets = [at_most(limit), times(25, "grpc-go"), times(150, "grpc++")]
                cost.rows.append(Row(label, targets))
                rate.rows.append(Row(label))
                rows = [cost.rows[-1], rate.rows[-1]]
                if connections * streams == 1000:
                    first.rows.append(Row(label))
                    jain.rows.append(Row(label))
                    rows += [first.rows[-1], jain.rows[-1]]
                self.each(
                    rows[0],
                    lambda server: self._throughput(server, rows, connections, streams, window),
                    0,
                )

    def _throughput(self, server, rows, connections, streams, window):
        arguments = {
            "connections": connections,
            "streams": streams,
            "window": window,
        }
        result, millions = self._saturate(server, rows[0], arguments)
        values = (
            result["server_cpu_seconds"] / millions,
            millions / result["seconds"],
            result["first_all_seconds"],
            result["jain"],
        )
        for row, value in zip(rows, values):
            row.values[server.name] = value
            row.details[server.name] = result

    def _saturate(self, server, row, arguments):
        """As much as the server can; returns what the load saw, and of how many millions."""
        arguments = {
            "seconds": self.seconds,
            "warmup": 0.3 if self.quick else 1,
            "first_max": self.first_seconds_max,
            **arguments,
        }
        seconds_max = self.first_seconds_max + self.seconds + LOAD_GRACE_SECONDS
        with Load(self, server, arguments, seconds_max) as load:
            result = load.wait_for("done")
        self.check(row, server, result)
        if not result["messages"]:
            raise ServerError(f"{server.name} sent nothing")
        return result, result["messages"] / 1e6

    # --- TLS ------------------------------------------------------------------------------------

    def tls(self):
        if not self.certificate:
            return
        cost = self.table("Server CPU seconds per million messages, unpaced, TLS", "tls_cpu", 4)
        rate = self.table(
            "Messages a second, in millions, of the same runs with TLS", "tls_rate", 3
        )
        try:
            floor_ns = self._seal_ns()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.note(f"no floor of TLS: {error}")
            floor_ns = None
        for window, name in ((MIB, "1 MiB"), (WINDOW_DEFAULT, "65535 B")):
            for connections, streams in SHAPES_TLS_QUICK if self.quick else SHAPES:
                label = f"TLS {connections}x{streams}, {name}"
                rows = [Row(label, [times(5, "grpc-go")]), Row(label)]
                cost.rows.append(rows[0])
                rate.rows.append(rows[1])
                arguments = {
                    "connections": connections,
                    "streams": streams,
                    "window": window,
                    "ca": self.certificate[0],
                }
                self.each(
                    rows[0],
                    lambda server: self._tls(server, rows, arguments),
                    0,
                    tls=self.certificate,
                )
                self._tls_floor(rows[0], floor_ns)

    def _seal_ns(self):
        """CPU nanoseconds for which GnuTLS encrypts a byte."""
        command = ["taskset", "-c", str(self.server_cpu), self.seal, *self.certificate, "0.3"]
        runs = [
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
            for _ in range(3)
        ]
        return statistics.median(float(run.stdout) for run in runs)

    def _tls(self, server, rows, arguments):
        result, millions = self._saturate(server, rows[0], arguments)
        for row, value in zip(
            rows, (result["server_cpu_seconds"] / millions, millions / result["seconds"])
        ):
            row.values[server.name] = value
            row.details[server.name] = result
        self.note(f"TLS: {server.name} agreed on {result['tls']}")

    def _tls_floor(self, row, floor_ns):
        """What GnuTLS alone costs for as many bytes as stockd's messages had."""
        result = row.details.get("stockd")
        if floor_ns and result and any(kind.name == "floor" for kind in self.servers):
            row.values["floor"] = floor_ns * 1e-9 * result["bytes"] / (result["messages"] / 1e6)
            row.details["floor"] = {"nanoseconds_a_byte": floor_ns}

    # --- short calls ----------------------------------------------------------------------------

    def short(self):
        cost = self.table(
            "Server CPU seconds per million short calls (grpc.health.v1.Health/Check)",
            "calls_cpu",
            3,
        )
        rate = self.table(
            "Short calls a second, in thousands, of the same runs", "calls_rate", 2
        )
        for connections, calls in SHAPES_CALLS:
            label = f"{connections}x{calls} calls at a time"
            rows = [Row(label), Row(label)]
            cost.rows.append(rows[0])
            rate.rows.append(rows[1])
            arguments = {"mode": "call", "connections": connections, "streams": calls}
            self.each(
                rows[0], lambda server: self._short(server, rows, arguments), 0, calls=True
            )

    def _short(self, server, rows, arguments):
        result, millions = self._saturate(server, rows[0], arguments)
        values = (result["server_cpu_seconds"] / millions, 1000 * millions / result["seconds"])
        for row, value in zip(rows, values):
            row.values[server.name] = value
            row.details[server.name] = result

    # --- paced ----------------------------------------------------------------------------------

    def paced(self):
        table = self.table(
            f"Server CPU in % of one CPU, paced, {STREAMS_PACED:,} streams", "paced", 2
        )
        targets = {
            (100, 100): [share_of(1 / 8, "1/8", "grpc-go")],
            (STREAMS_PACED, 100): [share_of(0.65, "0.65", "grpc-go")],
        }
        for interval_ms in (1000, 100):
            for connections in (100, STREAMS_PACED):
                row = Row(
                    f"{connections:,} connections, {1000 // interval_ms}/s a stream",
                    targets.get((connections, interval_ms), []),
                )
                table.rows.append(row)
                self.each(
                    row,
                    lambda server: self._paced(server, row, connections, interval_ms),
                    interval_ms,
                )

    def _paced(self, server, row, connections, interval_ms):
        # The streams of a connection start in one phase, the connections spread over the interval.
        rate = min(connections * 1000 / interval_ms, 5000)
        arguments = {
            "connections": connections,
            "streams": STREAMS_PACED // connections,
            "seconds": self.paced_seconds,
            "warmup": 1,
            "first_max": self.first_seconds_max,
            "open_rate": rate,
        }
        seconds_max = self.first_seconds_max + self.paced_seconds + LOAD_GRACE_SECONDS
        with Load(self, server, arguments, seconds_max) as load:
            result = load.wait_for("done")
        self.check(row, server, result)
        percent = 100 * result["server_cpu_seconds"] / result["seconds"]
        expected = STREAMS_PACED * 1000 / interval_ms * result["seconds"]
        share = result["messages"] / expected
        row.details[server.name] = {"cpu_percent": percent, "share_sent": share, **result}
        if not share:
            raise ServerError(f"{server.name} sent nothing")
        if share < 0.97:
            # What it did not send, it did not pay for. At the same cost an update, the whole would be:
            row.marks[server.name] = "*"
            self.note(
                f"* {row.label}: {server.name} sent {100 * share:.0f} % of the updates for "
                f"{percent:.1f} % of the CPU; its figure is scaled to all of them"
            )
            percent /= share
        row.values[server.name] = percent

    # --- fan-out --------------------------------------------------------------------------------

    def fanout(self):
        cost = self.table(
            "Server CPU seconds per million deliveries, one market for all", "fanout_cpu", 3
        )
        last = self.table(
            "Milliseconds from an update until the last subscriber has it, the same runs",
            "fanout_last",
            1,
        )
        memory = self.table(
            "Resident memory of a subscriber on connections that are there, KiB",
            "fanout_memory",
            2,
        )
        for connections, streams, interval_ms in SHAPES_FANOUT:
            count = connections * streams
            label = f"{count:,} subscribers on {connections} connections"
            rows = [
                Row(label, [at_most(0.5)] if connections == 100 else []),
                Row(label),
                Row(label, [at_most(1)]),
            ]
            for table, row in zip((cost, last, memory), rows):
                table.rows.append(row)
            arguments = {
                "connections": connections,
                "streams": streams,
                # The connection has room for an update to all of its streams, so that none waits
                # for a round trip.
                "connection_window": 16 * MIB,
                "subscribe": True,
                "seconds": self.paced_seconds,
                "first_max": 2 * self.first_seconds_max,
            }
            self.each(
                rows[0],
                lambda server: self._fanout(server, rows, arguments),
                interval_ms,
                fanout=True,
            )

    def _fanout(self, server, rows, arguments):
        connections, streams = arguments["connections"], arguments["streams"]
        # First one subscriber on each connection, so that what connections take is not counted.
        few = {**arguments, "streams": 1, "seconds": SETTLE_SECONDS_MAX}
        with Load(self, server, few, SETTLE_SECONDS_MAX + LOAD_GRACE_SECONDS) as load:
            load.wait_for("settled")
            before = server.rss_kib_at_rest(5)
            load.finish()
        # The memory is read between the first updates and the measured interval.
        settle_seconds = 3 if self.quick else 5
        arguments = {"warmup": settle_seconds + 1, **arguments}
        seconds_max = arguments["first_max"] + self.paced_seconds + settle_seconds
        with Load(self, server, arguments, seconds_max + LOAD_GRACE_SECONDS) as load:
            result = load.wait_for("settled", "done")
            kib = server.rss_kib_at_rest(settle_seconds)
            if result["event"] == "settled":
                rows[2].values[server.name] = (kib - before) / (connections * (streams - 1))
                result = load.wait_for("done")
        self.check(rows[0], server, result)
        details = {"rss_kib_of_connections": before, "rss_kib": kib, **result}
        for row in rows:
            row.details[server.name] = details
        if not result["messages"]:
            raise ServerError(f"{server.name} sent nothing")
        if not result["updates"]:
            self.note(f"{rows[0].label}: {server.name}: no update reached all in the time")
        rows[0].values[server.name] = result["server_cpu_seconds"] / result["messages"] * 1e6
        if result["updates"]:
            rows[1].values[server.name] = result["last_lag_ms"]

    # --- memory ---------------------------------------------------------------------------------

    def memory(self):
        table = self.table("Resident memory above that at rest, KiB", "memory", 2)
        connections = STREAMS_PACED
        ca = {"ca": self.certificate[0]} if self.certificate else {}
        stalled = 50  # not more: the slowest server takes long to fill the windows
        unread = 200
        encrypted = 2000
        plans = (
            (
                "a stream, 100 connections x 100",
                1.2,
                1000,
                {"connections": 100, "streams": 100},
                STREAMS_PACED,
            ),
            (
                f"a connection with one stream, {connections:,}",
                20,
                1000,
                {"connections": connections, "open_rate": 5000},
                connections,
            ),
            (
                f"a stalled call, {stalled} connections x 100",
                1.2,
                0,
                # The connection has room for all: each call is stopped by its own window.
                {
                    "mode": "stall",
                    "connections": stalled,
                    "streams": 100,
                    "connection_window": 16 * MIB,
                },
                100 * stalled,
            ),
            (
                f"a connection never read, {unread} x 1",
                64,
                0,
                {"mode": "noread", "connections": unread, "window": WINDOW_MAX},
                unread,
            ),
            (
                f"a TLS connection with one stream, {encrypted:,}",
                None,
                1000,
                {"connections": encrypted, "open_rate": 1000, **ca},
                encrypted,
            ),
            (
                f"a TLS connection never read, {unread} x 1",
                None,
                0,
                {"mode": "noread", "connections": unread, "window": WINDOW_MAX, **ca},
                unread,
            ),
        )
        for label, limit, interval_ms, arguments, count in plans:
            tls = self.certificate if "TLS" in label else None
            if "TLS" in label and not tls:
                continue
            row = Row(label, [at_most(limit)] if limit else [])
            table.rows.append(row)
            self.each(
                row,
                lambda server: self._memory(server, row, arguments, count),
                interval_ms,
                tls=tls,
            )

    def _memory(self, server, row, arguments, count):
        # One short call first: what a server makes once, and keeps, is not the cost of a client.
        warm = {"connections": 1, "seconds": 0.3, "warmup": 0, "first_max": 5}
        if "ca" in arguments:
            warm["ca"] = arguments["ca"]
        with Load(self, server, warm, LOAD_GRACE_SECONDS) as load:
            load.wait_for("done")
        before = server.rss_kib_at_rest(5)
        arguments = {"seconds": 3 * SETTLE_SECONDS_MAX, **arguments}
        with Load(self, server, arguments, 2 * SETTLE_SECONDS_MAX) as load:
            settled = load.wait_for("settled")
            kib = server.rss_kib_at_rest(SETTLE_SECONDS_MAX / 2)
            result = load.finish()
        self.check(row, server, result)
        row.values[server.name] = (kib - before) / count
        row.details[server.name] = {
            "rss_kib_at_rest": before,
            "rss_kib": kib,
            "settled_seconds": settled["seconds"],
            **result,
        }


# --- the report ----------------------------------------------------------------------------------


def cell(table, row, name):
    value = row.values.get(name)
    if value is None:
        return "-"
    text = f"{value:.{table.digits}f}"
    if value >= 100:
        text = f"{value:.1f}"
    ratio = row.ratio(name)
    if name != "stockd" and ratio is not None:
        text += f" ({ratio:.0f}x)" if ratio >= 10 else f" ({ratio:.2g}x)"
    return text + row.marks.get(name, "")


def table_lines(table, names):
    header = [table.title, *names, "target", "reached"]
    lines = [header]
    for row in table.rows:
        cells = [cell(table, row, name) for name in names]
        targets = [
            (text, {None: "?", True: "yes", False: "NO"}[reached(row)])
            for text, reached in row.targets
        ] or [("", "")]
        lines.append([row.label, *cells, *targets[0]])
        lines += [["", *("" for _ in names), *target] for target in targets[1:]]
    return lines


def first_line(path, default="unknown"):
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return default


def machine(bench):
    """What of the machine the figures depend on most."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    congestion = first_line("/proc/sys/net/ipv4/tcp_congestion_control")
    busy = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} CPUs, Linux {os.uname().release}, TCP {congestion}, "
        f"load average {busy:.1f}, the load {'never sleeps' if bench.spin else 'sleeps'}"
    )


def print_report(bench):
    names = [kind.name for kind in bench.servers]
    print(f"{machine(bench)}\nEach figure, and in brackets how many times stockd's it is.")
    for table in bench.tables:
        if not any(row.values for row in table.rows):
            continue
        with_targets = any(row.targets for row in table.rows)
        lines = table_lines(table, names)
        if not with_targets:
            lines = [line[:-2] for line in lines]
        widths = [max(len(line[i]) for line in lines[1:]) for i in range(len(lines[0]))]
        widths = [max(w, len(h)) for w, h in zip(widths, ["", *lines[0][1:]])]
        print(f"\n{table.title}")
        lines[0] = ["", *lines[0][1:]]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    if bench.notes:
        print("\nNotes")
        for note in bench.notes:
            print(f"- {note}")


def write_json(bench, path):
    report = {
        table.key: {
            "title": table.title,
            "rows": [
                {
                    "label": row.label,
                    "values": row.values,
                    "ratios": {name: row.ratio(name) for name in row.values},
                    "targets": [
                        {"target": text, "reached": reached(row)} for text, reached in row.targets
                    ],
                    "details": row.details,
                }
                for row in table.rows
            ],
        }
        for table in bench.tables
    }
    report["notes"] = bench.notes
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


# --- the command line ----------------------------------------------------------------------------

SECTIONS = ("throughput", "tls", "short", "paced", "fanout", "memory")
SERVERS = ("stockd", "floor", *builder.PEERS)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.splitlines()[0])
    parser.add_argument("--stockd", type=Path, required=True, help="the program to measure")
    parser.add_argument("--build", type=Path, default=builder.TREE / "build/bench", help="folder")
    parser.add_argument("--quick", action="store_true", help="shorter runs, coarser figures")
    parser.add_argument("--seconds", type=float, help="how long each load is measured")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="tables")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument(
        "--load-sleeps", action="store_true", help="have the servers pay for waking the load"
    )
    parser.add_argument(
        "--congestion",
        metavar="NAME",
        help="measure in a network of its own with this TCP congestion control, such as reno (root)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    arguments = parser.parse_args()
    usable = os.sched_getaffinity(0)
    if not {arguments.server_cpu, arguments.load_cpu} <= usable:
        parser.error(f"the CPUs to use must be two of {sorted(usable)}")
    return arguments


def own_network(congestion):
    """Moves this process, and so all that it starts, to a new network with nothing but a loopback."""
    clone_newnet, siocsifflags, iff_up = 0x40000000, 0x8914, 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_newnet) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, siocsifflags, struct.pack("16sH14x", b"lo", iff_up))
    setting = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    setting.write_text(congestion, encoding="ascii")


def make_servers(arguments, notes):
    """Builds what is asked for; returns the servers and the paths of the programs in C."""
    folder = arguments.build.resolve()
    print(f"building into {folder}", file=sys.stderr, flush=True)
    programs = builder.build_c(folder)
    servers = []
    for name in SERVERS:
        if name not in arguments.servers:
            continue
        try:
            if name == "stockd":
                servers.append(Stockd(arguments.stockd.resolve(), folder))
            elif name == "floor":
                servers.append(Floor(programs[1]))
            else:
                servers.append(Peer(name, builder.PEERS[name](folder)))
        except builder.BuildError as error:
            notes.append(f"{name} is left out: {error}")
    return servers, programs


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    notes = []
    if files != resource.RLIM_INFINITY and files < STREAMS_PACED + 100:
        notes.append(f"only {files} descriptors are allowed (ulimit -Hn), which is too few")
    try:
        servers, programs = make_servers(arguments, notes)
    except builder.BuildError as error:
        sys.exit(f"the load could not be built: {error}")
    try:
        certificate = builder.make_certificate(arguments.build.resolve())
    except builder.BuildError as error:
        notes.append(f"nothing is measured with TLS: {error}")
        certificate = None
    if arguments.congestion:
        try:
            own_network(arguments.congestion)
        except OSError as error:
            sys.exit(f"no network of its own with {arguments.congestion}: {error.strerror}")
    bench = Bench(arguments, servers, programs, certificate)
    bench.notes = notes
    for section in SECTIONS:
        if section in arguments.only:
            getattr(bench, section)()
    bench.progress("")
    print_report(bench)
    if arguments.json:
        write_json(bench, arguments.json)
    measured = any(row.values.get("stockd") for table in bench.tables for row in table.rows)
    return 0 if measured or "stockd" not in arguments.servers else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
