#!/usr/bin/env python3
"""Draws what Prometheus sees of a client that keeps up with stockd, and of one that does not.

A real Prometheus scrapes stockd and stock-client by a configuration that stockd-render makes of the
template. First a fast client, then, with a stockd that is new as well, a slow one. All that is
printed and drawn is asked of Prometheus. Whatever happens, nothing is left running.
"""

import argparse
import bisect
import contextlib
import dataclasses
import json
import math
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "system"))

from harness.process import Program, Stockd, clean_environment
from harness.prometheus import Prometheus
from harness.stock_client import MESSAGE_BYTES_MIN, free_port

INTERVAL_MS = 100
WINDOW_DEFAULT = 65535
MESSAGE_BYTES_MAX = 120
MINUTES_DEFAULT = 5
MINUTES_MIN = 0.5
SHORT_S = 120  # below, a scrape every 5 s would see too little
SCRAPE_S = 5
SCRAPE_SHORT_S = 1
START_S = 60  # what starting and ending may take, for the bound of a process's life
PICTURE_SIZE = (1000, 440)
TABLE_ROWS = 12
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ROWS_MIN = 3  # that can be judged by their course


class ScenarioError(Exception):
    """Something that ends the scenarios, in words for the person who watches."""


# --- what Prometheus saw ------------------------------------------------------------------------


@dataclass
class Row:
    """One moment, in seconds since the client began."""

    at: float
    sent: float
    received: float
    blocked_s: float
    blocked_now: float

    @property
    def gap(self):
        return self.sent - self.received


@dataclass
class Run:
    """One scenario, as Prometheus saw it."""

    name: str
    options: str
    window: int
    scrape_s: float
    rows: list

    def full_at(self):
        """When the client's window was first full: None if it never was."""
        for row in self.rows:
            if row.blocked_s > 0:
                return row.at - row.blocked_s
        return None

    def plateau(self):
        """The rows since the first scrape by which all that the window holds had been sent."""
        full_at = self.full_at()
        if full_at is None:
            return []
        return [row for row in self.rows if row.at >= full_at + self.scrape_s]


def interpolate(samples, at):
    """The value at a time that lies within the samples, on the line between its neighbours."""
    after = bisect.bisect_left(samples, (at,))
    if samples[after][0] == at:
        return samples[after][1]
    (t0, v0), (t1, v1) = samples[after - 1], samples[after]
    return v0 + (v1 - v0) * (at - t0) / (t1 - t0)


def rows_of(series, begin, scrape_s):
    """
    Rows at multiples of the scrape interval, of {field of Row: [(Unix time, value), ...]}.

    Prometheus scrapes the two programs at different moments. Their values are brought to the same
    ones by the times that Prometheus noted: else what is sent between two scrapes would look like a
    gap. What is no counter keeps its value until the next scrape.
    """
    for field, samples in series.items():
        if len(samples) < 2:
            raise ScenarioError(f"Prometheus has {len(samples)} values for {field!r}")
    first = max(samples[0][0] for samples in series.values())
    last = min(samples[-1][0] for samples in series.values())
    rows = []
    number = math.ceil((first - begin) / scrape_s)
    while begin + number * scrape_s <= last:
        time_ = begin + number * scrape_s
        values = {
            field: interpolate(series[field], time_) for field in ("sent", "received", "blocked_s")
        }
        now = series["blocked_now"]
        before = bisect.bisect_right(now, (time_, math.inf)) - 1
        rows.append(Row(number * scrape_s, blocked_now=now[before][1], **values))
        number += 1
    return rows


FIELDS = {
    "sent": ("server", "stock_updates_sent_total"),
    "received": ("client", "stock_updates_received_total"),
    "blocked_s": ("server", "stockd_blocked_seconds_total"),
    "blocked_now": ("server", "stockd_blocked_streams"),
}


def ask(prometheus, metric, instance, begin, end):
    """The scraped values of a metric, summed over its labels: [(Unix time, value), ...]."""
    found = prometheus.api(
        "query", query=f'{metric}{{instance="{instance}"}}[{math.ceil(end - begin)}s]', time=end
    )
    sums = {}
    for one in found["result"]:
        for at, value in one["values"]:
            if at >= begin:
                sums[at] = sums.get(at, 0.0) + float(value)
    return sorted(sums.items())


# --- what must be seen --------------------------------------------------------------------------


def slope(rows, field):
    """How much a field grows in a second, from the first to the last row."""
    return (getattr(rows[-1], field) - getattr(rows[0], field)) / (rows[-1].at - rows[0].at)


def slack(run, rate):
    """
    How many updates two values may be apart because they were not read at the same moment: what
    goes by in one scrape interval, and one at each end of it.
    """
    return rate * run.scrape_s + 2


def require(fact, text):
    if not fact:
        raise ScenarioError(text)


def check_fast(run):
    """Raises ScenarioError unless the two lie on each other, and nobody waited for the client."""
    rate = slope(run.rows, "sent")
    require(rate > 0, "fast: nothing was sent")
    apart = max(run.rows, key=lambda row: abs(row.gap))
    require(
        abs(apart.gap) <= slack(run, rate),
        f"fast: sent and received are {apart.gap:.0f} apart at {apart.at:g} s, more than"
        f" the {slack(run, rate):.0f} that scrapes at different moments explain",
    )
    blocked_s = run.rows[-1].blocked_s
    require(blocked_s == 0, f"fast: the stream was blocked for {blocked_s:.1f} s")


def check_growth(run):
    """Until the window is full sent runs ahead, further at each scrape; a small one is full at once."""
    full_at = run.full_at()
    rows = [row for row in run.rows if row.at <= full_at]
    if len(rows) < ROWS_MIN:
        return
    rate = slope(rows, "sent")
    for before, after in zip(rows, rows[1:]):
        require(
            after.gap > before.gap,
            f"slow: the gap does not grow from {before.at:g} to {after.at:g} s, though the window"
            f" is full only at {full_at:.1f} s",
        )
    require(
        rows[-1].gap - rows[0].gap > 2 * slack(run, rate) / 3,
        f"slow: the gap has grown by {rows[-1].gap - rows[0].gap:.0f} only",
    )


def check_slow(run):
    """Raises ScenarioError unless sent runs a window ahead, and then follows what is received."""
    require(run.full_at() is not None, "slow: the stream was never blocked")
    check_growth(run)
    rows = run.plateau()
    require(len(rows) >= ROWS_MIN, f"slow: only {len(rows)} scrapes with a full window")
    rate = slope(rows, "received")
    some = slack(run, rate)
    gaps = [row.gap for row in rows]
    require(rate > 0, "slow: nothing was received any more when the window was full")

    # Between them and in them are no more bytes than the window has, and one message cut by its end.
    most = run.window / MESSAGE_BYTES_MIN + 1 + some
    least = run.window / MESSAGE_BYTES_MAX - 1 - some
    require(
        least <= min(gaps) and max(gaps) <= most,
        f"slow: with a full window of {run.window} bytes the gap is {min(gaps):.0f} to"
        f" {max(gaps):.0f}; it has room for {least:.0f} to {most:.0f} updates",
    )
    # And so sent grows as received does; for long enough that any other pace would be seen.
    grown = rows[-1].sent - rows[0].sent
    got = rows[-1].received - rows[0].received
    require(
        max(gaps) - min(gaps) <= some,
        f"slow: with a full window the gap is {min(gaps):.0f} to {max(gaps):.0f}, which is not"
        f" the same within {some:.0f}; sent grew by {grown:.0f}, received by {got:.0f}",
    )
    # Each update that goes out may wait for its time before it waits for window.
    blocked = slope(rows, "blocked_s")
    least = 1 - rate * INTERVAL_MS / 1000 - 0.1
    require(
        least <= blocked <= 1.1,
        f"slow: with a full window the stream is blocked for {blocked:.2f} s a second",
    )


# --- what is told -------------------------------------------------------------------------------


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def table(run):
    """A dozen moments as lines of text."""
    count = min(TABLE_ROWS, len(run.rows))
    last = len(run.rows) - 1
    chosen = [run.rows[round(number * last / max(1, count - 1))] for number in range(count)]
    yield "  time      sent  received       gap   blocked s  blocked now"
    for row in chosen:
        yield (
            f"{clock(row.at):>6} {row.sent:>9.0f} {row.received:>9.0f}"
            f" {round(row.sent) - round(row.received):>9} {row.blocked_s:>11.1f}"
            f" {row.blocked_now:>12.0f}"
        )


def tell_fast(run):
    apart = max(abs(row.gap) for row in run.rows)
    last = run.rows[-1]
    return (
        f"Sent and received lie on each other: of {last.sent:.0f} updates never more than"
        f" {max(1, math.ceil(apart))} were between the two, which is what goes by in"
        f" {max(1, math.ceil(apart)) * INTERVAL_MS / 1000:.1f} s."
        f" Nothing waited: the stream was blocked for {last.blocked_s:.1f} s."
    )


def tell_slow(run):
    full_at, rows = run.full_at(), run.plateau()
    if len(rows) < ROWS_MIN:
        return (
            f"Sent runs ahead of received. The client's window of {run.window} bytes is not full"
            f" yet: that takes about {run.window / 100 * INTERVAL_MS / 1000:.0f} s, or less with"
            " --window."
        )
    gaps = [row.gap for row in rows]
    low, high = round(min(gaps)), round(max(gaps))
    gap = f"{low}" if low == high else f"{low} to {high}"
    grown = rows[-1].sent - rows[0].sent
    got = rows[-1].received - rows[0].received
    return (
        f"Sent ran ahead for {full_at:.0f} s, until the client's window of {run.window} bytes was"
        f" full. Since then it has risen only as received does: by {grown:.0f} and {got:.0f}, with"
        f" {gap} updates between the two, while the stream was blocked for"
        f" {run.rows[-1].blocked_s:.0f} s."
    )


# --- what is drawn ------------------------------------------------------------------------------

# The colours are those of the original's dashboard: Grafana's first two, on its dark ground.
GNUPLOT = """\
set terminal pngcairo size {width},{height} background '#181b1f' font 'DejaVu Sans,11'
set output '{output}'
set title '{title}' font 'DejaVu Sans,13' textcolor '#e6e6ee'
set border 3 linecolor '#55585f'
set tics nomirror textcolor '#c8c9d2'
set grid ytics linecolor '#2c3036' linetype 1 linewidth 1
set xdata time
set timefmt '%s'
set format x '%tM:%tS'
set xlabel 'time since the client began (minutes:seconds)' textcolor '#c8c9d2'
set ylabel 'stock updates (total)' textcolor '#c8c9d2'
set xrange [{x_min}:{x_max}]
set xtics {x_tics}
set yrange [0:{y_max}]
set key below center horizontal Left reverse textcolor '#e6e6ee' samplen 1.2 width 2 height 0.8
set style fill solid 1.0 noborder
set style textbox opaque fillcolor '#181b1f' noborder margins 1.5, 1.2
set boxwidth {box}
{notes}
plot $rows using 1:2 with boxes linecolor '#73bf69' title 'stock updates sent by server', \\
     $rows using 1:3 with boxes linecolor '#f2cc0c' title 'stock updates processed by client'
"""


def round_up(value):
    """A round number that is not less: 1, 2, 2.5, 4, 5 or 8 times a power of ten."""
    power = 10 ** math.floor(math.log10(max(value, 1)))
    return next(power * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value)


def tics_s(seconds):
    return next(step for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 3600) if seconds / step <= 11)


def notes_fast(run, y_max):
    yield (
        "set label 1 'Green is behind yellow: the client has got what was sent.'"
        f" at graph 0.03, graph 0.9 textcolor '#c8c9d2'"
    )


def notes_slow(run, y_max):
    rows = run.plateau()
    if len(rows) < ROWS_MIN:
        return
    full_at = run.full_at()
    yield (
        f"set arrow 1 from {full_at:.1f}, 0 to {full_at:.1f}, {0.93 * y_max:.0f} nohead front"
        " dashtype 2 linewidth 1.5 linecolor '#e6e6ee'"
    )
    yield (
        f"set label 1 'The window is full ({run.window:,} bytes): from here on sent rises as"
        f" received does.' at {full_at:.1f}, {0.93 * y_max:.0f} left offset 0.8, 0 front"
        " textcolor '#e6e6ee'"
    )
    # The gap, shown inside the bar that is three quarters of the way to the end, if there is room.
    row = rows[len(rows) * 3 // 4]
    if row.gap < y_max / 4:
        return
    middle, room = (row.sent + row.received) / 2, 0.05 * y_max
    for number, begin, end in (
        (2, middle + room, row.sent),
        (3, middle - room, row.received),
    ):
        yield (
            f"set arrow {number} from {row.at:g}, {begin:.1f} to {row.at:g}, {end:.1f} head filled"
            " front size screen 0.008, 20 linewidth 2 linecolor '#181b1f'"
        )
    usual = statistics.median(row.gap for row in rows)
    yield (
        f"set label 2 '{usual:.0f} ahead' at {row.at:g}, {middle:.1f} center front boxed"
        " textcolor '#e6e6ee'"
    )


def draw(run, title, notes, output):
    """Has gnuplot make the picture; returns its path."""
    first, last = run.rows[0], run.rows[-1]
    y_max = round_up(max(row.sent for row in run.rows) * 1.12)
    x_max = last.at + run.scrape_s
    script = "$rows << END\n"
    script += "".join(f"{row.at:g} {row.sent:.1f} {row.received:.1f}\n" for row in run.rows)
    script += "END\n"
    script += GNUPLOT.format(
        width=PICTURE_SIZE[0],
        height=PICTURE_SIZE[1],
        output=str(output).replace("'", "''"),
        title=title,
        x_min=min(0, first.at) - run.scrape_s / 2,
        x_max=x_max - run.scrape_s / 2,
        x_tics=tics_s(x_max),
        y_max=y_max,
        box=0.8 * run.scrape_s,
        notes="\n".join(notes(run, y_max)),
    )
    try:
        done = subprocess.run(
            ["gnuplot"], input=script, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ScenarioError(f"gnuplot: {error}") from error
    if done.returncode != 0 or done.stderr.strip():
        raise ScenarioError(f"gnuplot failed with {done.returncode}:\n{done.stderr}")
    return output


# --- what is run --------------------------------------------------------------------------------


@dataclass
class Scenario:
    """One of the two, with how it is told and drawn."""

    name: str
    client_options: tuple
    window: int
    tell: object
    check: object
    title: str
    notes: object

    @property
    def options(self):
        return " ".join(("stock-client", *self.client_options))


def fast_scenario():
    return Scenario(
        "fast",
        (),
        WINDOW_DEFAULT,
        tell_fast,
        check_fast,
        "Stock updates sent x Stock updates processed: stock-client",
        notes_fast,
    )


def slow_scenario(window=WINDOW_DEFAULT, options=("-r",)):
    if window != WINDOW_DEFAULT:
        options = (*options, "--window", str(window))
    return Scenario(
        "slow",
        options,
        window,
        tell_slow,
        check_slow,
        f"Stock updates sent x Stock updates processed: stock-client {' '.join(options)}",
        notes_slow,
    )


class Progress:
    """One line that is written over itself, or a line now and then where that is not possible."""

    def __init__(self, seconds, out=None):
        self.out = out or sys.stdout
        self.tty = self.out.isatty()
        self.every_s = max(5, seconds / 10)
        self.seconds = seconds
        self.next_s = self.every_s

    def show(self, name, at, sent, received):
        text = (
            f"{name} client, {clock(at)} of {clock(self.seconds)}: {sent:.0f} sent,"
            f" {received:.0f} received"
        )
        if self.tty:
            self.out.write(f"\r\x1b[K{text}")
            self.out.flush()
        elif at >= self.next_s:
            print(text, file=self.out, flush=True)
            self.next_s += self.every_s

    def clear(self):
        if self.tty:
            self.out.write("\r\x1b[K")
            self.out.flush()


@contextlib.contextmanager
def held_signals():
    """Signals that would end this program take effect at the end of the block."""
    seen = []
    before = {number: signal.signal(number, lambda which, _: seen.append(which)) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if seen:
        signal.raise_signal(seen[0])


class Stage:
    """Prometheus, and what of stockd and stock-client runs now."""

    def __init__(self, build, folder, scrape_s, seconds):
        self.build = Path(build)
        self.folder = Path(folder)
        self.scrape_s = scrape_s
        self.seconds = seconds
        self.count = 0
        self.running = []
        self.ports = {"server": free_port(), "client": free_port()}
        self.prometheus = None

    def open(self):
        """Starts Prometheus, which is there for both scenarios."""
        seconds = self.seconds
        self.prometheus = self.start(
            Prometheus,
            self.configuration(),
            self.folder,
            arguments=["--log.level=warn"],
            prefix=self.bound(2 * (seconds + START_S) + START_S),
        )
        self.prometheus.wait_ready()
        # It scrapes what it finds in its configuration only some seconds later; then nobody is there.
        self.prometheus.wait_values("up", lambda values: values == [0, 0])

    def start(self, kind, *arguments, **options):
        """Starts a program, which is known before a signal can end this one."""
        with held_signals():
            self.running.append(kind(*arguments, **options))
        return self.running[-1]

    def bound(self, seconds):
        """What ends a program after that time, and when this one is killed."""
        return ["setpriv", "--pdeathsig", "TERM", "timeout", "--kill-after=10", f"{seconds:.0f}"]

    def configuration(self):
        """The configuration for Prometheus, made of the template; returns its path."""
        template = (SOURCE / "config" / "templates" / "prometheus.yml").read_text()
        text, count = re.subn(
            r"scrape_interval: \w+", f"scrape_interval: {self.scrape_s:g}s", template
        )
        require(count > 0, "the template for Prometheus names no scrape_interval")
        source, rendered = self.folder / "template.yml", self.folder / "prometheus.yml"
        source.write_text(text)
        return self.render(source, rendered)

    def render(self, source, rendered):
        done = subprocess.run(
            [
                self.build / "config" / "render" / "stockd-render",
                *("--ip", "127.0.0.1"),
            ],
            env=clean_environment(
                PROM_TEMPLATE_FILE=source,
                PROM_OUTPUT_FILE=rendered,
                PROM_TARGET_GRPC_SERVER_PORT=self.ports["server"],
                PROM_TARGET_GRPC_CLIENT_PORT=self.ports["client"],
            ),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        require(done.returncode == 0, f"stockd-render failed: {done.stderr}")
        return rendered

    def check_running(self):
        for program in self.running:
            if not program.running():
                raise ScenarioError(
                    f"{program.name} has ended with status {program.process.returncode}:\n"
                    f"{program.log()[-2000:]}"
                )

    def start_pair(self, scenario):
        """A stockd, and a client of it; returns when the client was started."""
        life_s = self.seconds + START_S
        stockd = self.start(
            Stockd,
            self.build / "daemon" / "stockd",
            self.folder,
            self.count,
            {
                "metrics": {"listen": f"127.0.0.1:{self.ports['server']}"},
                "stream": {"interval": f"{INTERVAL_MS}ms"},
            },
            prefix=self.bound(life_s),
        ).wait_ready()
        self.count += 1
        begin = time.time()
        self.start(
            Program,
            [
                *self.bound(life_s),
                self.build / "client" / "stock-client",
                *scenario.client_options,
                *("--metrics", f"127.0.0.1:{self.ports['client']}"),
                f"127.0.0.1:{stockd.port}",
            ],
            self.folder,
            f"stock-client-{self.count}",
        )
        return stockd, begin

    def instance(self, where):
        return f"127.0.0.1:{self.ports[where]}"

    def newest(self, field, begin):
        """The last value that Prometheus has of a field: (seconds since `begin`, value)."""
        where, metric = FIELDS[field]
        now = time.time()
        found = ask(self.prometheus, metric, self.instance(where), begin, now)
        return (found[-1][0] - begin, found[-1][1]) if found else (0.0, 0.0)

    def watch(self, scenario, begin, progress):
        """Until Prometheus has seen it all, or should have."""
        deadline = time.monotonic() + self.seconds + 4 * self.scrape_s + 15
        while True:
            self.check_running()
            sent, received = self.newest("sent", begin), self.newest("received", begin)
            progress.show(scenario.name, min(time.time() - begin, self.seconds), sent[1], received[1])
            if min(sent[0], received[0]) >= self.seconds:
                return
            require(
                time.monotonic() < deadline,
                f"{scenario.name}: Prometheus has no values of the last seconds; its targets:\n"
                f"{json.dumps(self.prometheus.targets(), indent=1)}",
            )
            time.sleep(0.5)

    def play(self, scenario, progress):
        """Runs a scenario from beginning to end, and returns what Prometheus saw."""
        stockd, begin = self.start_pair(scenario)
        try:
            self.watch(scenario, begin, progress)
        finally:
            progress.clear()
        end = time.time()
        series = {
            field: ask(self.prometheus, metric, self.instance(where), begin, end)
            for field, (where, metric) in FIELDS.items()
        }
        self.end_pair()
        require(
            stockd.process.returncode == 0, f"stockd did not end well:\n{stockd.log()[-2000:]}"
        )
        return Run(
            scenario.name,
            scenario.options,
            scenario.window,
            self.scrape_s,
            rows_of(series, begin, self.scrape_s),
        )

    def end_pair(self):
        """Ends all but Prometheus, the client first."""
        while len(self.running) > 1:
            self.running[-1].stop()
            self.running.pop()

    def close(self):
        """Ends what is left; one that does not end by itself keeps none of the others from it."""
        faults = []
        while self.running:
            try:
                self.running.pop().stop()
            except AssertionError as fault:
                faults.append(str(fault))
        require(not faults, "\n".join(faults))


def report(run, scenario, folder, out=None):
    """Prints the table and the words, and draws the picture; returns its path."""
    out = out or sys.stdout
    print(
        f"\n{run.name} client ({run.options}), an update every {INTERVAL_MS} ms, scraped every"
        f" {run.scrape_s:g} s\n",
        file=out,
    )
    for line in table(run):
        print(line, file=out)
    print("\n" + "\n".join(textwrap.wrap(scenario.tell(run), 79)), file=out, flush=True)
    return draw(run, scenario.title, scenario.notes, folder / f"scenario-{run.name}.png")


def as_json(runs):
    return json.dumps(
        [
            {
                "name": run.name,
                "options": run.options,
                "window": run.window,
                "scrape_s": run.scrape_s,
                "full_at_s": run.full_at(),
                "rows": [{**dataclasses.asdict(row), "gap": row.gap} for row in run.rows],
            }
            for run in runs
        ],
        indent=1,
    )


def minutes(text):
    value = float(text)
    if not MINUTES_MIN <= value <= 24 * 60:
        raise argparse.ArgumentTypeError(f"from {MINUTES_MIN} to {24 * 60}")
    return value


def window(text):
    value = int(text)
    if not 1 <= value <= 2**31 - 1:
        raise argparse.ArgumentTypeError("from 1 to 2147483647")
    return value


def parse():
    parser = argparse.ArgumentParser(
        prog="./dev scenarios", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--build", required=True, type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--minutes",
        type=minutes,
        default=MINUTES_DEFAULT,
        help=f"how long each of the two is watched (default: {MINUTES_DEFAULT}); below"
        f" {SHORT_S // 60} Prometheus scrapes every {SCRAPE_SHORT_S} s instead of {SCRAPE_S}",
    )
    parser.add_argument(
        "--window",
        type=window,
        default=WINDOW_DEFAULT,
        metavar="BYTES",
        help=f"what the slow client takes ahead (default: {WINDOW_DEFAULT}, full after about 65 s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=SOURCE / "build" / "scenarios",
        metavar="DIR",
        help="where the pictures go (default: build/scenarios)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was seen there, too")
    return parser.parse_args()


def on_signal(number, frame):
    raise KeyboardInterrupt(signal.Signals(number))


def run_all(arguments, scenarios, pictures):
    """Plays the scenarios one after the other; `pictures` gets the paths."""
    seconds = arguments.minutes * 60
    scrape_s = SCRAPE_SHORT_S if seconds < SHORT_S else SCRAPE_S
    runs = []
    with tempfile.TemporaryDirectory(prefix="stockd-scenarios-") as folder:
        stage = Stage(arguments.build.resolve(), folder, scrape_s, seconds)
        try:
            stage.open()
            print(
                f"stockd with a fast and then a slow client, {arguments.minutes:g} minutes each;"
                f" Prometheus is at {stage.prometheus.url} and scrapes every {scrape_s} s",
                flush=True,
            )
            for scenario in scenarios:
                runs.append(stage.play(scenario, Progress(seconds)))
                pictures.append(report(runs[-1], scenario, arguments.output))
        finally:
            for number in ENDS:
                signal.signal(number, signal.SIG_IGN)
            stage.close()
    return runs


def main():
    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for number in ENDS:
        signal.signal(number, on_signal)
    pictures = []
    scenarios = [fast_scenario(), slow_scenario(arguments.window)]
    status = 0
    try:
        runs = run_all(arguments, scenarios, pictures)
        if arguments.json:
            arguments.json.write_text(as_json(runs) + "\n")
            print(f"\nwhat Prometheus saw is in {arguments.json}")
        for run, scenario in zip(runs, scenarios):
            if run.name == "fast" or len(run.plateau()) >= ROWS_MIN:
                scenario.check(run)
    except (ScenarioError, AssertionError, OSError) as error:
        print(f"\nscenarios: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        print("\nInterrupted; nothing is left running.")
        status = 128 + number
    for picture in pictures:
        print(f"picture: {picture}")
    sys.exit(status)


if __name__ == "__main__":
    main()
