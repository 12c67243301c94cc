#!/usr/bin/env python3
"""Shows backpressure as it happens: one stockd, one client that keeps up and one that does not.

All that is shown comes from the programs' own /metrics. On a terminal the picture is painted in
place; elsewhere one plain line a second is printed. Whatever happens, nothing is left running.
"""

import argparse
import collections
import ctypes
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request

SLOW_WINDOW = 2048  # bytes; small enough to be full within seconds
INTERVAL_MS = 100
PAINT_INTERVAL_S = 0.25
START_TIMEOUT_S = 15
STOP_TIMEOUT_S = 10
# Nothing that this machine has configured may change what is seen, and no port is asked for.
SERVER_OPTIONS = (
    *("-c", "/dev/null"),
    *("-s", "grpc.listen=127.0.0.1:0"),
    *("-s", "metrics.listen=127.0.0.1:0"),
    *("-s", f"stream.interval={INTERVAL_MS}ms"),
)
CLIENT_OPTIONS = ("--metrics", "127.0.0.1:0")
SLOW_OPTIONS = ("-r", "--window", str(SLOW_WINDOW))

REASONS = {
    "stream_window": "no window for the stream",
    "connection_window": "none for the connection",
    "socket": "the socket is full",
}

SERIES = {"sent": "sent by stockd", "fast": "fast client got", "slow": "slow client got"}
WAITING = "on the way"


class DemoError(Exception):
    """Something that ends the demo, in words for the person who watches."""


def die_with_parent():
    """Runs in a child before it starts: should this program be killed, the child ends as well."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Process:
    """A child, with what it writes to standard error kept for when it is needed."""

    def __init__(self, name, arguments):
        self.name = name
        self.lines = collections.deque(maxlen=1000)
        environment = {
            key: value
            for key, value in os.environ.items()
            if not re.fullmatch(r"GRPC_SERVER_PORT|STOCK_SERVICE_.*|LISTEN_.*|NOTIFY_SOCKET", key)
        }
        try:
            self.popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this program, which then ends its children
                preexec_fn=die_with_parent,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise DemoError(f"cannot start {name}: {error}") from error
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.popen.stderr:
            self.lines.append(line.rstrip("\n"))

    def check(self):
        """Raises DemoError if the child has ended."""
        status = self.popen.poll()
        if status is None:
            return
        self.reader.join(timeout=1)
        raise DemoError(f"{self.name} has ended with status {status}:\n{self.last_words()}")

    def wait_for(self, pattern):
        """The first group of `pattern` in a line of standard error."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for line in list(self.lines):
                match = re.search(pattern, line)
                if match:
                    return match[1]
            self.check()
            time.sleep(0.02)
        raise DemoError(
            f"{self.name} has not said {pattern!r} in {START_TIMEOUT_S} s:\n{self.last_words()}"
        )

    def last_words(self):
        return "\n".join(f"    {line}" for line in list(self.lines)[-10:])

    def stop(self):
        """Ends the child, with patience and then without; returns its exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.reader.join(timeout=1)
        return self.popen.returncode


SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")


def scrape(address):
    """The samples at http://ADDRESS/metrics: {name: {labels as they are written: value}}."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            text = response.read().decode()
    except OSError as error:
        raise DemoError(f"cannot read http://{address}/metrics: {error}") from error
    samples = collections.defaultdict(dict)
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match:
            samples[match[1]][match[2] or ""] = float(match[3])
    return samples


def total(samples, name):
    if not samples.get(name):
        raise DemoError(f"there is no {name} among the metrics")
    return sum(samples[name].values())


def by_label(samples, name, label):
    """{value of the label: sum of the samples}."""
    sums = collections.defaultdict(float)
    for labels, value in samples[name].items():
        match = re.search(rf'\b{label}="([^"]*)"', labels)
        if match:
            sums[match[1]] += value
    return dict(sums)


class Sample:
    """What is known at one moment."""

    def __init__(self, at, server, fast, slow):
        self.at = at
        self.sent = int(total(server, "stock_updates_sent_total"))
        self.fast = int(total(fast, "stock_updates_received_total"))
        self.slow = int(total(slow, "stock_updates_received_total"))
        self.held = total(slow, "stock_client_unprocessed_bytes")
        self.gaps = sum(total(client, "stock_client_gaps_total") for client in (fast, slow))
        self.memory = total(server, "process_resident_memory_bytes")
        self.queued = by_label(server, "stockd_queued_bytes", "place")
        self.streams = by_label(server, "stockd_streams", "state")
        self.blocked = by_label(server, "stockd_blocked_streams", "reason")
        self.blocked_s = by_label(server, "stockd_blocked_seconds_total", "reason")
        self.episodes = by_label(server, "stockd_blocked_episodes_total", "reason")

    @property
    def waiting(self):
        """Sent, but not yet taken. The three are read one after the other, hence max()."""
        return max(0, self.sent - self.fast - self.slow)


class History:
    """All samples, and what only their course can tell."""

    def __init__(self):
        self.samples = []
        self.blocked_since = {}  # by reason: when the present episode was first seen

    def add(self, sample):
        for reason, count in sample.blocked.items():
            if not count:
                self.blocked_since.pop(reason, None)
            elif reason not in self.blocked_since or (
                sample.episodes.get(reason) != self.samples[-1].episodes.get(reason)
            ):
                self.blocked_since[reason] = sample.at
        self.samples.append(sample)

    @property
    def last(self):
        return self.samples[-1]

    def at(self, when):
        """The newest sample that is not newer than `when`, or the oldest of all."""
        return next((s for s in reversed(self.samples) if s.at <= when), self.samples[0])

    def rate(self, field, seconds=2.0):
        then = self.at(self.last.at - seconds)
        if self.last.at <= then.at:
            return 0.0
        return (getattr(self.last, field) - getattr(then, field)) / (self.last.at - then.at)

    def per_second(self, field):
        """How much `field` grew in each whole second."""
        values = [getattr(self.at(second), field) for second in range(int(self.last.at) + 1)]
        return [after - before for before, after in zip(values, values[1:])]

    def first_blocked(self):
        return next((s for s in self.samples if any(s.blocked.values())), None)


def bytes_text(count):
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024 or unit == "MiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def list_text(parts):
    parts = list(parts)
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


class Painter:
    """The picture on a terminal: at most 80 by 24, painted over itself."""

    COLORS = {
        "bold": "1",
        "dim": "2",
        "blocked": "31",
        "fast": "32",
        "slow": "33",
        "waiting": "35",
        "sent": "36",
    }
    LINES = 23
    SECONDS = 34  # that a line of the chart holds

    def __init__(self, duration):
        self.duration = duration
        self.painted = 0
        self.colors = not os.environ.get("NO_COLOR")
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        self.bars = " ▁▂▃▄▅▆▇█" if encoding == "utf8" else " .:-=+*%#"
        self.axis = "│" if encoding == "utf8" else "|"

    @classmethod
    def possible(cls):
        size = shutil.get_terminal_size()
        return (
            sys.stdout.isatty()
            and os.environ.get("TERM", "dumb") != "dumb"
            and size.columns >= 80
            and size.lines > cls.LINES
        )

    def color(self, name, text):
        if not self.colors:
            return text
        return f"\x1b[{self.COLORS[name]}m{text}\x1b[0m"

    def chart(self, name, label, values, height, top):
        """`height` lines: a column of two characters for each of the last seconds."""
        steps = len(self.bars) - 1
        lines = []
        for row in range(height - 1, -1, -1):
            text = ""
            for value in values[-self.SECONDS :]:
                level = math.ceil(max(value, 0) / top * steps * height) - row * steps
                text += self.bars[max(0, min(steps, level))] * 2
            head = f"{label if row == 0 else '':<6}{top if row == height - 1 else '':>4} "
            lines.append(f"{head}{self.axis}{self.color(name, text)}")
        return lines

    def blocked_lines(self, history):
        last = history.last
        for reason in REASONS:
            episodes = int(last.episodes.get(reason, 0))
            seconds = last.blocked_s.get(reason, 0.0)
            if reason in history.blocked_since:
                now = self.color("blocked", f"for {last.at - history.blocked_since[reason]:4.1f} s")
            else:
                now = self.color("dim", f"{'-':>10}")
            yield f"{reason:<18} {now} {episodes:>8} {seconds:>8.1f} s  {REASONS[reason]}"

    def lines(self, history):
        last = history.last
        title = "stockd: one server, two clients"
        yield self.color("bold", f"{title:<66}{last.at:4.0f} of {self.duration} s")
        yield f"an update every {INTERVAL_MS} ms for each; the slow one takes 1 to 3 s to use it"
        yield ""
        yield self.color("dim", "                      updates    a second")
        for name, text in SERIES.items():
            count, rate = getattr(last, name), history.rate(name)
            yield f"{self.color(name, f'{text:<18}')} {count:>10} {rate:>11.1f}"
        text = f"{self.color('waiting', f'{WAITING:<18}')} {last.waiting:>10}"
        held = f"{last.held:.0f} of the {SLOW_WINDOW} bytes ahead of the slow client"
        yield f"{text}    {held}"
        yield ""
        series = {name: history.per_second(name) for name in SERIES}
        top = max(2 * 1000 // INTERVAL_MS, *(max(values, default=0) for values in series.values()))
        yield self.color("dim", f"{'':>10} {self.axis}second by second")
        for name, values in series.items():
            yield from self.chart(name, name, values, 2, top)
        levels = [history.at(second).waiting for second in range(1, int(last.at) + 1)]
        yield from self.chart("waiting", "on way", levels, 1, max(levels, default=1) or 1)
        yield ""
        states = ", ".join(f"{count:.0f} {state}" for state, count in last.streams.items())
        yield self.color("dim", f"{states:<26}  now    times     in all")
        yield from self.blocked_lines(history)
        queued = ", ".join(f"{bytes_text(count)} {place}" for place, count in last.queued.items())
        first = bytes_text(history.samples[0].memory)
        memory = f"memory {bytes_text(last.memory)} ({first} at first)"
        yield f"queued: {queued}; {memory}"

    def paint(self, history):
        lines = list(self.lines(history))
        out = f"\x1b[{self.painted}A\r" if self.painted else "\x1b[?25l"
        out += "".join(f"{line}\x1b[K\n" for line in lines)
        sys.stdout.write(out)
        sys.stdout.flush()
        self.painted = len(lines)

    def close(self):
        sys.stdout.write("\x1b[?25h")
        sys.stdout.flush()


class Printer:
    """One plain line a second, for pipes and files."""

    def __init__(self):
        self.printed = -1

    def paint(self, history):
        last = history.last
        if int(last.at) == self.printed:
            return
        self.printed = int(last.at)
        blocked = [
            f"{reason} for {last.at - since:.1f} s"
            for reason, since in history.blocked_since.items()
        ]
        print(
            f"{last.at:3.0f} s: sent {last.sent}, fast client got {last.fast}, slow client got"
            f" {last.slow}, on the way {last.waiting}, blocked: {', '.join(blocked) or 'none'},"
            f" queued {bytes_text(sum(last.queued.values()))}, memory {bytes_text(last.memory)}",
            flush=True,
        )

    def close(self):
        pass


def explain(history):
    """What was seen, in words; raises DemoError if it was not what the demo is for."""
    first, last, blocked = history.samples[0], history.last, history.first_blocked()
    if not last.fast or not last.slow:
        raise DemoError("a client got no update at all")
    if last.gaps:
        raise DemoError(f"updates were lost: the clients have found {last.gaps:.0f} gaps")
    if not blocked:
        raise DemoError("the slow client was never seen to press back")
    most = max(s.waiting for s in history.samples)
    queued = max(sum(s.queued.values()) for s in history.samples)
    queue = bytes_text(queued)
    if 0 < queued < 128:
        queue += ", part of an update that did not fit"
    reasons = list_text(
        f"{seconds:.1f} s (reason: {reason})"
        for reason, seconds in last.blocked_s.items()
        if seconds >= 0.05
    )
    text = (
        f"In {last.at:.0f} s stockd sent {last.sent} updates. The fast client got {last.fast} of"
        f" them, {last.fast / last.at:.1f} a second, as if it were alone. The slow client used"
        f" {last.slow}. After {blocked.at:.1f} s the {SLOW_WINDOW} bytes that it takes ahead were"
        f" full, and stockd knew: from then on it made a new update for that client only when"
        f" the client had used old ones. So its stream was blocked for {reasons}, and no more than"
        f" {most} updates were ever on the way. Nothing piled up: stockd, whose memory changed by"
        f" {bytes_text(last.memory - first.memory)}, never queued more than {queue}."
        f" Nothing was lost either: a price that could not be sent was never made, and both"
        f" clients, who check that each price follows from the one before, found no gap."
    )
    return "\n".join(textwrap.wrap(text, 79))


def start(arguments, children):
    """Starts the three and returns the addresses of their metrics; `children` gets them as well."""
    server = Process("stockd", [arguments.stockd, *SERVER_OPTIONS])
    children.insert(0, server)
    grpc = server.wait_for(r"listening for gRPC on (\S+:\d+)")
    addresses = [server.wait_for(r"listening for metrics on (\S+:\d+)")]
    clients = {"the fast client": (), "the slow client": SLOW_OPTIONS}
    for name, options in clients.items():
        client = Process(name, [arguments.client, grpc, *CLIENT_OPTIONS, *options])
        children.insert(0, client)
        addresses.append(client.wait_for(r"metrics on (?:http://)?([^\s/]+:\d+)"))
    return addresses


def watch(seconds, addresses, children):
    """Paints what the metrics say until `seconds` have passed."""
    painter = Painter(seconds) if Painter.possible() else Printer()
    history = History()
    begin = time.monotonic()
    try:
        while not history.samples or history.last.at < seconds:
            for child in children:
                child.check()
            at = time.monotonic() - begin
            history.add(Sample(at, *map(scrape, addresses)))
            painter.paint(history)
            time.sleep(max(0.0, PAINT_INTERVAL_S - (time.monotonic() - begin - at)))
    finally:
        painter.close()
    return history


def on_signal(number, frame):
    raise KeyboardInterrupt(signal.Signals(number))


def stop(children):
    """Ends all children, those that still run; further signals wait until that is done."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for child in children:
        child.stop()


def check_ends(children):
    """Raises DemoError if a child that was asked to end did so badly."""
    for child in children:
        status = child.popen.returncode
        if status < 0 or (child.name == "stockd" and status != 0):
            raise DemoError(f"{child.name} did not end well: status {status}\n{child.last_words()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stockd", required=True, help="the server's program")
    parser.add_argument("--client", required=True, help="the client's program")
    parser.add_argument("--seconds", type=int, default=30, help="how long to watch (default: 30)")
    arguments = parser.parse_args()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    children = []
    try:
        try:
            addresses = start(arguments, children)
            history = watch(arguments.seconds, addresses, children)
        finally:
            stop(children)
        check_ends(children)
        print(f"\n{explain(history)}\n\nAll three programs have ended.")
    except DemoError as error:
        sys.exit(f"\ndemo: {error}")
    except KeyboardInterrupt as interrupt:
        print("\nInterrupted; nothing is left running.")
        sys.exit(128 + interrupt.args[0] if interrupt.args else 130)


if __name__ == "__main__":
    main()
