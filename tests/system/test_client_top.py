"""
stock-client top in a real terminal, whose screen is read, and stock-client stat: against a market
that the test makes itself, event by event, and against stockd with ten thousand tickers.
"""

import csv
import io
import json
import os
import queue
import re
import signal
import subprocess
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from harness.process import assert_no_report, clean_environment
from harness.stock_client import DONE, FAILED, INTERRUPTED, USAGE, run_client  # noqa: F401
from harness.stocks import pb2
from harness.terminal import ESCAPE, Terminal
from harness.wait import wait_until

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.,-=+*#"
PRICES = {"AAPL": 150.0, "MSFT": 310.0, "GOOG": 1980.0, "ORCL": 149.0}


# --- A market that the test makes --------------------------------------------------------------


class Subscription:
    def __init__(self, request, context):
        self.request = request
        self.context = context
        self.events = queue.Queue()
        self._over = False
        # Of a call that is over already nothing would be told.
        if not context.add_callback(lambda: setattr(self, "_over", True)):
            self._over = True

    @property
    def over(self):
        return self._over or not self.context.is_active()


class Market:
    """A Subscribe server on grpcio. What it sends, and when, is said by the test."""

    def __init__(self, port=0):
        self.subscriptions = []
        self.prices = {}
        self.sequence = 0
        self.refuse = None  # (code, text) for the next calls
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)]
        )
        handler = grpc.unary_stream_rpc_method_handler(
            self._subscribe,
            request_deserializer=pb2().SubscribeRequest.FromString,
            response_serializer=pb2().MarketEvent.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "stockservice.StockService", {"Subscribe": handler}
                )
            ]
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        assert self.port
        self._server.start()

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def _subscribe(self, request, context):
        if self.refuse:
            context.abort(*self.refuse)
        subscription = Subscription(request, context)
        self.subscriptions.append(subscription)
        while context.is_active():
            try:
                event = subscription.events.get(timeout=0.05)
            except queue.Empty:
                continue
            if event is None:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the market closes")
            yield event

    def wait_subscription(self, count=1):
        wait_until(lambda: len(self.subscriptions) >= count, what=f"{count} subscriptions")
        return self.subscriptions[count - 1]

    def send(self, event):
        for subscription in self.subscriptions:
            subscription.events.put(event)

    def event(self, ticker, price, open_price, snapshot=False, lost=0.0, **more):
        """`lost` is what the price went by updates that are not told."""
        before = self.prices.get(ticker, open_price) + lost
        self.prices[ticker] = price
        self.sequence += 1
        return pb2().MarketEvent(
            epoch=7,
            sequence=self.sequence,
            time_unix_nano=time.time_ns(),
            snapshot=snapshot,
            update=pb2().StockUpdate(
                ticker=ticker,
                price=price,
                change=price - before,
                openPrice=open_price,
                timestamp="2026-01-31T09:30:00Z",
            ),
            **more,
        )

    def publish(self, ticker, price, open_price, **more):
        self.send(self.event(ticker, price, open_price, **more))

    def publish_four(self):
        for ticker, price in (("AAPL", 148.2), ("MSFT", 310.0), ("GOOG", 2000.0), ("ORCL", 149.5)):
            self.publish(ticker, price, PRICES[ticker])

    def gap(self, updates):
        gap = pb2().Gap(reason=1, from_sequence=1, to_sequence=updates, updates=updates)
        self.send(pb2().MarketEvent(epoch=7, sequence=self.sequence, snapshot=True, gap=gap))

    def stop(self):
        """
        The calls end with UNAVAILABLE, not as streams that are over; so will those of a client that
        tries again meanwhile.
        """

        def all_over():
            running = [subscription for subscription in self.subscriptions if not subscription.over]
            for subscription in running:
                subscription.events.put(None)
            return not running

        wait_until(all_over)
        self._server.stop(0).wait()


@pytest.fixture
def start_market():
    markets = []

    def start(**options):
        markets.append(Market(**options))
        return markets[-1]

    yield start
    for market in markets:
        market.stop()


@pytest.fixture
def market(start_market):
    return start_market()


@pytest.fixture
def open_terminal(tmp_path):
    terminals = []

    def start(**options):
        folder = tmp_path / f"terminal-{len(terminals)}"
        folder.mkdir()
        terminals.append(Terminal(folder, **options))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


class Top:
    """stock-client top in a terminal."""

    def __init__(self, terminal, program, *arguments):
        self.terminal = terminal
        self.log = terminal.folder / "stderr"
        terminal.run(program, "top", *arguments)

    def rows(self):
        """The rows of the table: each a list of its words."""
        lines = self.terminal.lines()
        title = next((i for i, line in enumerate(lines) if line.startswith("TICKER")), None)
        if title is None:
            return []
        rows = []
        for line in lines[title + 1 :]:
            if not line.strip() or line.startswith((" q quit", " filter:", "/")):
                break
            rows.append(line.split())
        return rows

    def tickers(self):
        return [row[0] for row in self.rows()]

    def wait_tickers(self, *names):
        self.terminal.wait(lambda: self.tickers() == list(names), f"the tickers {names}")

    def row(self, ticker):
        return next((row for row in self.rows() if row[0] == ticker), None)

    def title_line(self):
        return next(line for line in self.terminal.lines() if line.startswith("TICKER"))


@pytest.fixture
def start_top(open_terminal, client_program, market):
    """Starts top in a terminal on `market`, and waits until it has subscribed."""

    def start(*arguments, target=None, wait=True, **options):
        top = Top(
            open_terminal(**options), client_program, "-i", "50ms", target or market.target,
            *arguments,
        )
        if wait:
            top.terminal.wait_for(r"^TICKER")
            market.wait_subscription()
            top.terminal.wait_for(r"connected *$")
        return top

    return start


# --- What is to be seen ------------------------------------------------------------------------


def test_the_table_has_what_came(start_top, market):
    top = start_top()
    for price in (149.0, 150.5, 148.2):
        market.publish("AAPL", price, 150.0)
    market.publish("MSFT", 320.0, 310.0, conflated=3, dropped=2)
    top.wait_tickers("AAPL", "MSFT")
    titles = top.title_line()
    assert re.match(
        r"TICKER▲ +PRICE +CHANGE +CHANGE% +TREND +RATE/s +AGE +LAG +GAPS$", titles.rstrip()
    )
    top.terminal.wait(lambda: top.row("AAPL")[1] == "148.20", "the last price")
    ticker, price, change, percent, trend, rate, age, lag, gaps = top.row("AAPL")
    assert (change, percent, gaps) == ("-1.80", "-1.20%", "0")
    assert re.fullmatch(r"[▁-█]{3}", trend) and trend[1] == "█" and trend[2] == "▁"
    assert float(rate) > 0
    assert re.fullmatch(r"\d+\.\ds", age)
    assert re.fullmatch(r"[\d.]+m?s", lag)
    assert top.row("MSFT")[2:4] == ["+10.00", "+3.23%"]
    # Numbers stand under the ends of their titles.
    line = next(line for line in top.terminal.lines() if line.startswith("AAPL"))
    for title, cell in (("PRICE", "148.20"), ("CHANGE ", "-1.80 "), ("CHANGE%", "-1.20%")):
        assert titles.index(title) + len(title) == line.index(cell) + len(cell), titles + line
    screen = top.terminal.screen()
    assert re.search(r"merged 3\b", screen) and re.search(r"dropped 2\b", screen), screen
    assert screen.startswith(market.target)
    assert re.search(r"lag [\d.]+m?s +p99 [\d.]+m?s", screen)


def test_the_server_is_asked_to_merge(start_top, market):
    start_top("AAPL", "GOOG")
    request = market.wait_subscription().request
    assert list(request.tickers) == ["AAPL", "GOOG"]
    assert request.policy == pb2().SLOW_POLICY_CONFLATE
    assert request.min_interval_ms == 50
    assert request.snapshot


def test_gaps_are_counted_for_the_ticker_and_for_the_stream(start_top, market):
    top = start_top()
    market.publish("AAPL", 150.0, 150.0)
    market.publish("AAPL", 151.0, 150.0)
    market.publish("AAPL", 153.0, 150.0, lost=1.0)
    top.terminal.wait(lambda: top.row("AAPL") and top.row("AAPL")[-1] == "1", "a gap")
    assert "missing" not in top.terminal.screen()
    market.gap(1234)
    top.terminal.wait_for(r"gaps 1 +missing 1234\b")


def test_keys_sort(start_top, market):
    top = start_top()
    market.publish_four()
    top.wait_tickers("AAPL", "GOOG", "MSFT", "ORCL")
    top.terminal.type("P")
    top.wait_tickers("GOOG", "MSFT", "ORCL", "AAPL")
    assert "PRICE▼" in top.title_line()
    top.terminal.type("r")
    top.wait_tickers("AAPL", "ORCL", "MSFT", "GOOG")
    assert "PRICE▲" in top.title_line()
    top.terminal.type(">")
    top.wait_tickers("GOOG", "ORCL", "MSFT", "AAPL")
    assert "CHANGE▼" in top.title_line()
    top.terminal.keys("Left")
    top.wait_tickers("GOOG", "MSFT", "ORCL", "AAPL")
    top.terminal.type("T")
    top.wait_tickers("AAPL", "GOOG", "MSFT", "ORCL")
    # The order follows the prices.
    top.terminal.type("%")
    top.wait_tickers("GOOG", "ORCL", "MSFT", "AAPL")
    market.publish("AAPL", 300.0, 150.0)
    top.wait_tickers("AAPL", "GOOG", "ORCL", "MSFT")


def test_a_filter_is_typed_and_seen(start_top, market):
    top = start_top()
    market.publish_four()
    top.wait_tickers("AAPL", "GOOG", "MSFT", "ORCL")
    top.terminal.type("/o")
    top.wait_tickers("GOOG", "ORCL")
    top.terminal.wait_for(r"^/o +Enter keeps")
    assert top.terminal.cursor_shown()
    top.terminal.type("g")
    top.wait_tickers("GOOG")
    top.terminal.keys("Enter")
    top.terminal.wait_for(r"filter: og .* 1-1 of 1 *$")
    assert not top.terminal.cursor_shown()
    # Another, taken back by Esc, which ends the first one, too.
    top.terminal.type("/nothing")
    top.terminal.wait_for("No ticker has this in its name")
    top.terminal.keys("Escape")
    top.wait_tickers("GOOG")
    top.terminal.keys("Escape")
    top.wait_tickers("AAPL", "GOOG", "MSFT", "ORCL")
    top.terminal.wait_gone("filter:")


def test_rows_scroll(start_top, market):
    top = start_top()
    for number in range(100):
        market.publish(f"T{number:02}", 100.0, 100.0)
    top.terminal.wait_for(r"1-19 of 100 *$")
    assert top.tickers() == [f"T{number:02}" for number in range(19)]
    for key, first in (("Down", 1), ("NPage", 20), ("PPage", 1), ("Up", 0), ("End", 81)):
        top.terminal.keys(key)
        top.terminal.wait(lambda: top.tickers()[:1] == [f"T{first:02}"], f"row {first} after {key}")
        assert top.tickers() == [f"T{number:02}" for number in range(first, first + 19)]
    top.terminal.wait_for(r"82-100 of 100 *$")
    top.terminal.keys("Home")
    top.terminal.wait(lambda: top.tickers()[0] == "T00", "the first row")


def test_a_paused_table_stays_while_the_stream_goes_on(start_top, market):
    top = start_top()
    market.publish("AAPL", 148.2, 150.0)
    top.terminal.wait(lambda: top.row("AAPL"), "a row")
    top.terminal.type("p")
    top.terminal.wait_for("PAUSED  connected")
    before = top.rows()
    for number in range(20):
        market.publish("AAPL", 100.0 + number, 150.0)
    top.terminal.wait_for(r"updates 21\b")
    assert top.rows() == before
    top.terminal.type("p")
    top.terminal.wait(lambda: top.row("AAPL")[1] == "119.00", "the newest price")
    top.terminal.wait_gone("PAUSED")


def test_help_explains_the_keys(start_top, market):
    top = start_top()
    market.publish("AAPL", 148.2, 150.0)
    top.terminal.wait(lambda: top.row("AAPL"), "a row")
    top.terminal.type("?")
    top.terminal.wait_for("^Keys")
    screen = top.terminal.screen()
    for words in ("sort by the column beside", "q, ^C", "RATE/s", "were merged, dropped or missed"):
        assert words in screen, screen
    top.terminal.type("q")  # leads back, no further
    top.wait_tickers("AAPL")


# --- Colours and characters --------------------------------------------------------------------


def coloured(top, ticker):
    """{a cell's text: the codes that are in force there} of a ticker's row."""
    codes, cells = "", {}
    for line in top.terminal.screen(colours=True).split("\n"):
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            if part.startswith("\x1b["):
                codes = part
            elif part.strip() and ticker in ESCAPE.sub("", line):
                cells.setdefault(part.strip(), codes)
    return cells


def test_rises_are_green_and_falls_red_and_both_have_signs(start_top, market):
    top = start_top()
    market.publish("DOWN", 140.0, 150.0)
    market.publish("SAME", 150.0, 150.0)
    market.publish("UP", 160.0, 150.0)
    top.wait_tickers("DOWN", "SAME", "UP")
    assert coloured(top, "DOWN")["-10.00"] == "\x1b[31m"
    assert coloured(top, "UP")["+10.00"] == "\x1b[32m"
    assert not any("3" in code for code in coloured(top, "SAME").values() if "m" not in code[2:4])
    assert top.row("SAME")[2] == "0.00"


COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|9[0-7]|38;[0-9;]+)m")


@pytest.mark.parametrize(
    "options, colours",
    [
        ({}, True),
        ({"environment": {"NO_COLOR": "1"}}, False),
        ({"environment": {"NO_COLOR": ""}}, True),  # as no-color.org has it
        ({"term": "vt100"}, False),
    ],
    ids=["usual", "no-color", "no-color-empty", "vt100"],
)
def test_colours_are_those_that_are_wanted_and_there(start_top, market, options, colours):
    top = start_top(**options)
    market.publish("DOWN", 140.0, 150.0)
    market.publish("UP", 160.0, 150.0)
    top.terminal.wait(lambda: top.tickers() == ["DOWN", "UP"], "the rows")
    assert top.row("DOWN")[2] == "-10.00" and top.row("UP")[2] == "+10.00"
    assert bool(COLOUR.search(top.terminal.screen(colours=True))) == colours


def test_without_utf8_all_is_ascii(start_top, market):
    top = start_top(environment={"LC_ALL": "C"})
    for price in (1.0, 2.0, 3.0, 2.5):
        market.publish("A", price, 1.0)
    market.publish("Ä", 5.0, 5.0)
    top.terminal.wait(lambda: len(top.rows()) == 2 and top.row("A")[1] == "2.50", "the rows")
    screen = top.terminal.screen()
    assert screen.isascii(), screen
    assert "TICKER^" in screen
    assert set(top.row("A")[4]) <= set(ASCII_BLOCKS)
    assert top.tickers()[1] == "?"


HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "a\nb\r\tc",
    "\x9b31m\x07\x08\x7f",
    "\u202egnp.exe",
    "e\u0301\u0301\u0301\u0301",
    "\u200b\u200d\ufeff",
    "日本語日本語日本語日本語",
    "x" * 5000,
    "%s%n%d",
    "",
]


def test_hostile_names_cannot_break_the_screen(start_top, market):
    top = start_top()
    for name in HOSTILE:
        market.publish(name, 1234.5, 1000.0)
    top.terminal.wait_for(rf"1-{len(HOSTILE)} of {len(HOSTILE)} *$")
    lines = top.terminal.lines()
    title = next(i for i, line in enumerate(lines) if line.startswith("TICKER"))
    rows = lines[title + 1 : title + 1 + len(HOSTILE)]
    for row in rows:
        # All that follows the name stands where it belongs, in columns of the terminal.
        columns = sum(2 if character > "\u2e80" and character < "\ua4d0" else 1 for character in row)
        assert "1234.50" in row and "+234.50" in row and row.rstrip().endswith(" 0"), rows
        assert columns - len(row[row.index("1234.50") :]) == 13, rows
    assert lines[title + 1 + len(HOSTILE)].strip() == ""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u200b]", top.terminal.screen())


# --- Sizes -------------------------------------------------------------------------------------


def test_it_fits_in_every_size_and_follows_changes(start_top, market):
    top = start_top()
    for number in range(50):
        market.publish(f"T{number:02}", 100.0 + number, 100.0)
    top.terminal.wait_for(r"1-19 of 50 *$")
    for width, height, page in ((40, 10, 6), (200, 60, 50), (80, 24, 19), (20, 5, 2)):
        top.terminal.resize(width, height)
        top.terminal.wait(lambda: len(top.rows()) == page, f"{page} rows in {width}x{height}")
        lines = top.terminal.lines()
        assert all(len(line) <= width for line in lines)
        assert top.tickers() == [f"T{number:02}" for number in range(page)]
        # The last line is for keys, and the first for the server.
        top.terminal.wait(lambda: top.terminal.lines()[height - 1].startswith(" q quit"), "keys")
        assert ("GAPS" in top.terminal.screen()) == (width >= 80)
    for width, height in ((1, 1), (2, 2), (3, 50), (300, 3)):
        top.terminal.resize(width, height)
    top.terminal.resize(80, 24)
    top.terminal.wait(lambda: len(top.rows()) == 19, "the table again")


@pytest.mark.parametrize("width, height", [(20, 12), (60, 12), (60, 24)])
def test_help_is_cut_at_the_edge(start_top, market, width, height):
    top = start_top(width=width, height=height)
    top.terminal.type("?")
    top.terminal.wait_for("^Keys")
    lines = top.terminal.lines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Keys"))
    rows = lines[first + 1 : height - 1]
    assert rows[0].startswith(" Down, j") and len(rows) > 5
    assert all(row.startswith(" ") or not row for row in rows), rows


def test_nothing_stands_over_something_else(start_top, market):
    """Where not all fits, the keys go first, and then the titles."""
    top = start_top(width=40, height=4)
    for number in range(50):
        market.publish(f"T{number:02}", 100.0 + number, 100.0)
    top.terminal.wait_for(r"^ q quit  \? help  / filter +1-1 of 50$")
    assert top.tickers() == ["T00"]
    top.terminal.resize(40, 3)
    top.terminal.wait(lambda: len(top.terminal.lines()) == 4 and top.rows(), "the table")
    link, titles, row, end = top.terminal.lines()
    assert re.fullmatch(re.escape(market.target) + " +connected", link)
    assert titles.split()[1:] == ["PRICE", "CHANGE%", "TREND"]
    assert row.split()[:3] == ["T00", "100.00", "0.00%"] and not end
    top.terminal.type("/")
    top.terminal.wait(lambda: top.terminal.lines()[2].startswith("/  "), "the prompt alone")
    top.terminal.keys("Escape")
    top.terminal.resize(40, 1)
    top.terminal.wait(lambda: top.terminal.lines() == [link, ""], "the link alone")
    top.terminal.resize(9, 8)
    top.terminal.wait(lambda: len(top.rows()) >= 4, "a narrow table")
    assert "of" not in top.terminal.screen()  # 50 would be cut to 5


def test_at_80_columns_nothing_is_cut(start_top, market):
    top = start_top()
    market.publish("AAPL", 123456.78, 100000.0, conflated=123456)
    top.terminal.wait(lambda: top.row("AAPL"), "a row")
    assert len(top.row("AAPL")) == 9
    for words in ("updates/s", "lag", "p99", "merged 123k", "dropped", "bytes/s", "gaps",
                  "reconnects", "unprocessed", "q quit", "? help", "p pause"):
        assert words in top.terminal.screen()


# --- Ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how, status", [("q", DONE), ("C-c", INTERRUPTED), ("TERM", INTERRUPTED),
                                         ("HUP", INTERRUPTED)])
def test_the_terminal_is_as_it_was(open_terminal, client_program, market, how, status):
    terminal = open_terminal()
    before = terminal.modes()
    terminal.run(client_program, "top", market.target)
    terminal.wait_for("connected *$")
    assert terminal.on_full_screen() and not terminal.cursor_shown()
    if how in ("TERM", "HUP"):
        os.kill(top_pid(terminal), getattr(signal, f"SIG{how}"))
    else:
        terminal.keys(how)
    assert terminal.wait_ended() == status
    check_clean(terminal, before)
    wait_until(lambda: market.subscriptions[0].over, what="the end of the call")


def top_pid(terminal):
    """The program that the terminal's shell, or a shell that this has begun, runs."""

    def look():
        pid = int(terminal.tmux("display-message", "-p", "#{pane_pid}"))
        while Path(f"/proc/{pid}/comm").read_text() != "stock-client\n":
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children:
                return None
            pid = int(children[0])
        return pid

    return wait_until(look, what="a stock-client in the terminal")


def check_clean(terminal, modes):
    assert not terminal.on_full_screen() and terminal.cursor_shown()
    screen = terminal.screen()
    assert "TICKER" not in screen and "connected" not in screen, screen
    assert_no_report(screen, "stock-client")
    assert terminal.modes() == modes


def test_the_prompt_stands_alone_where_the_table_stays(start_top, market):
    """A terminal without another screen keeps the picture, and the shell writes below it."""
    top = start_top(term="vt100")
    market.publish("AAPL", 148.2, 150.0)
    top.terminal.wait(lambda: top.row("AAPL"), "a row")
    top.terminal.type("q")
    assert top.terminal.wait_ended() == DONE
    assert "TICKER" in top.terminal.screen()
    assert "? help" not in top.terminal.screen()


@pytest.mark.parametrize("how", ["SEGV", "ABRT", "QUIT", "C-\\"])
def test_even_a_crash_leaves_a_terminal_that_works(
    open_terminal, client_program, market, how, sanitized
):
    number = signal.SIGQUIT if how == "C-\\" else getattr(signal, f"SIG{how}")
    terminal = open_terminal()
    # bash would mend the modes after a crash; this shell does not, and looks at once.
    terminal.run(
        "sh",
        "-c",
        "trap : QUIT; stty -a >before; ulimit -c 0; "
        f"{client_program} top {market.target} 2>/dev/null; ended=$?; stty -a >after; exit $ended",
    )
    terminal.wait_for("connected *$")
    if how == "C-\\":
        terminal.keys(how)
    else:
        os.kill(top_pid(terminal), number)
    ended = terminal.wait_ended()
    assert ended == 128 + number or (sanitized and ended in (98, 99))
    assert not terminal.on_full_screen() and terminal.cursor_shown()
    before, after = ((terminal.folder / name).read_text() for name in ("before", "after"))
    assert "icanon" in before and after == before


def test_it_can_be_stopped_and_goes_on(open_terminal, client_program, market):
    terminal = open_terminal()
    before = terminal.modes()
    terminal.keys(f"{client_program} top -i 50ms {market.target}", "Enter")
    terminal.wait_for("connected *$")
    market.wait_subscription()
    market.publish("AAPL", 148.2, 150.0)
    terminal.wait_for("^AAPL +148.20")
    terminal.keys("C-z")
    terminal.wait_for("Stopped")
    assert not terminal.on_full_screen() and terminal.cursor_shown()
    assert terminal.modes() == before
    market.publish("AAPL", 149.2, 150.0)
    terminal.keys("fg", "Enter")
    terminal.wait_for("^AAPL +149.20")
    assert terminal.on_full_screen()
    terminal.type("q")
    terminal.wait(lambda: not terminal.on_full_screen(), "the shell's screen")
    assert terminal.modes() == before


def test_without_a_terminal_it_says_what_to_use(run_client, market, client_program):
    done = run_client("top", market.target, metrics=True)
    assert done.returncode == USAGE
    assert "standard output is no terminal" in done.stderr and "watch and stat" in done.stderr
    assert done.stdout == ""
    assert not market.subscriptions


@pytest.mark.parametrize("term, words", [("dumb", "cannot place text"), ("nonesuch", "TERM")])
def test_a_terminal_that_will_not_do_is_refused(
    open_terminal, client_program, market, term, words
):
    terminal = open_terminal(width=200, term=term)
    before = terminal.modes() if term == "dumb" else None
    terminal.run(client_program, "top", market.target)
    assert terminal.wait_ended() == USAGE
    assert words in terminal.screen()
    if before:
        assert terminal.modes() == before


def test_a_refused_call_is_told_when_the_terminal_is_back(start_top, market):
    market.refuse = (grpc.StatusCode.NOT_FOUND, "no ticker \x1b[31mNONE")
    top = start_top("NONE", wait=False)
    assert top.terminal.wait_ended() == FAILED
    screen = top.terminal.screen()
    assert re.search(r"stock-client: .*NotFound.*no ticker", screen), screen
    assert not top.terminal.on_full_screen()


# --- A server that goes ------------------------------------------------------------------------


def test_a_lost_server_is_said_and_waited_for(start_market, start_top, market):
    first = start_market()
    top = start_top(target=first.target, wait=False)
    first.wait_subscription()
    first.publish("AAPL", 148.2, 150.0)
    top.terminal.wait(lambda: top.row("AAPL"), "a row")
    first.stop()
    top.terminal.wait_for(r"NOT CONNECTED, (next try in \d+ s|trying again) *$")
    top.terminal.wait_for(r"^.*(cannot connect to|the market closes)")
    assert top.row("AAPL")[1] == "148.20"  # what is known stays
    second = start_market(port=first.port)
    second.wait_subscription()
    second.publish("AAPL", 200.0, 150.0)
    top.terminal.wait(lambda: top.row("AAPL")[1] == "200.00", "the new price")
    top.terminal.wait_for(r"connected *$")
    top.terminal.wait_for(r"reconnects 1\b")
    assert top.row("AAPL")[-1] == "0"  # another stream: nothing to follow
    top.terminal.type("q")
    assert top.terminal.wait_ended() == DONE


def test_a_server_that_is_not_there_yet_is_waited_for(start_market, start_top):
    gone = start_market()
    gone.stop()
    top = start_top(target=gone.target, wait=False)
    top.terminal.wait_for("NOT CONNECTED")
    top.terminal.wait_for("cannot connect to")
    server = start_market(port=gone.port)
    server.wait_subscription()
    server.publish("AAPL", 148.2, 150.0)
    top.terminal.wait(lambda: top.row("AAPL"), "a row")
    top.terminal.type("q")
    assert top.terminal.wait_ended() == DONE


# --- Load --------------------------------------------------------------------------------------


def test_keys_are_answered_while_ten_thousand_tickers_pour_in(
    start_stockd, open_terminal, client_program, tmp_path
):
    tickers = tmp_path / "tickers.csv"
    tickers.write_text("ticker\n" + "".join(f"T{number:04}\n" for number in range(10000)))
    daemon = start_stockd(market={"feed": "walk", "tickers_file": tickers, "interval": "500ms"})
    top = Top(open_terminal(), client_program, f"127.0.0.1:{daemon.port}")
    top.terminal.wait_for(r"1-19 of 10000 *$", timeout=60)
    assert top.tickers()[0] == "T0000"
    top.terminal.keys("End")
    top.terminal.wait_for(r"9982-10000 of 10000 *$")
    assert top.tickers()[-1] == "T9999"
    top.terminal.type("/T123")
    top.terminal.wait_for(r"^/T123")
    top.terminal.keys("Enter")
    top.terminal.wait_for(r"1-10 of 10 *$")
    top.terminal.type("R")
    top.terminal.wait_for("RATE/s▼")
    top.terminal.type("q")
    assert top.terminal.wait_ended() == DONE


# --- stat --------------------------------------------------------------------------------------

TITLES = "updates/s  bytes/s merged/s dropped/s gaps lag p50 lag p99 unprocessed reconn"
SUMMARY = re.compile(
    r"^stock-client: (\d+) updates in ([\d.]+) s \([\d.]+/s, [\d.]+ k?B/s\), (\d+) merged, "
    r"(\d+) dropped, (\d+) gaps( \(\d+ updates\))?(, lag p50 .*)?, (\d+) reconnects$",
    re.MULTILINE,
)


class Stat:
    def __init__(self, program, folder, *arguments):
        self.output = folder / "stat.out"
        self.errors = folder / "stat.err"
        with open(self.output, "wb") as out, open(self.errors, "wb") as err:
            self.process = subprocess.Popen(
                [str(program), "stat", *arguments], stdout=out, stderr=err, env=clean_environment()
            )

    def lines(self):
        return self.output.read_text().splitlines()

    def end(self, number=None, timeout=30):
        if number:
            self.process.send_signal(number)
        status = self.process.wait(timeout)
        assert_no_report(self.errors.read_text(), "stock-client")
        return status


@pytest.fixture
def start_stat(client_program, tmp_path, market):
    started = []

    def start(*arguments):
        started.append(Stat(client_program, tmp_path, *arguments, market.target))
        market.wait_subscription()
        return started[-1]

    yield start
    for stat in started:
        if stat.process.poll() is None:
            stat.process.kill()
            stat.process.wait()


def test_stat_counts_each_update_in_one_line(start_stat, market):
    stat = start_stat("-i", "100ms", "-o", "json")
    market.publish("AAPL", 150.0, 150.0, snapshot=True)
    for number in range(500):
        market.publish("AAPL", 150.0 + number, 150.0, conflated=2, dropped=1)
    market.gap(77)

    def rows():
        return [json.loads(line) for line in stat.lines() if line.endswith("}")]

    wait_until(lambda: sum(row["gaps"] for row in rows()) == 1, what="a line with the gap")
    assert stat.end(signal.SIGINT) == INTERRUPTED
    total = {key: sum(row[key] for row in rows()) for key in ("updates", "snapshots", "conflated",
                                                              "dropped", "missing", "bytes")}
    assert total["updates"] == 500 and total["snapshots"] == 1
    assert total["conflated"] == 1000 and total["dropped"] == 500 and total["missing"] == 77
    assert total["bytes"] > 500 * 50
    assert all(row["connected"] and row["seconds"] > 0 for row in rows())
    assert all((row["lagP50"] is None) == (row["updates"] == 0) for row in rows())
    assert all(row["lagP50"] <= row["lagP99"] < 60 for row in rows() if row["updates"])
    summary = SUMMARY.search(stat.errors.read_text())
    assert summary, stat.errors.read_text()
    assert summary.group(1, 3, 4, 5, 6, 8) == ("500", "1000", "500", "1", " (77 updates)", "0")


def test_stat_ends_after_so_many_lines_and_repeats_its_header(start_stat, market):
    stat = start_stat("-i", "20ms", "-n", "45")
    assert stat.end() == DONE
    lines = stat.lines()
    assert len(lines) == 48
    assert [i for i, line in enumerate(lines) if line == TITLES] == [0, 21, 42]
    assert all(len(line.split()) == 11 for line in lines if line != TITLES), lines
    assert SUMMARY.search(stat.errors.read_text())


def test_stat_writes_csv(start_stat, market):
    stat = start_stat("-i", "20ms", "-n", "3", "--output", "csv")
    assert stat.end() == DONE
    rows = list(csv.DictReader(io.StringIO(stat.output.read_text())))
    assert len(rows) == 3
    assert list(rows[0])[:4] == ["time", "seconds", "updates", "snapshots"]
    assert all(row["updates"] == "0" and row["lagP99"] == "" for row in rows)


def test_stat_goes_on_without_the_server(start_market, client_program, tmp_path):
    first = start_market()
    stat = Stat(client_program, tmp_path, "-i", "50ms", "-o", "json", first.target)
    try:
        first.wait_subscription()
        first.stop()
        wait_until(lambda: any('"connected":false' in line for line in stat.lines()))
        second = start_market(port=first.port)
        second.wait_subscription()
        wait_until(lambda: '"reconnects":1,"connected":true' in stat.lines()[-1])
        assert stat.end(signal.SIGTERM) == INTERRUPTED
    finally:
        if stat.process.poll() is None:
            stat.process.kill()
            stat.process.wait()


def test_stat_shows_the_market_as_it_is(start_stockd, run_client):
    """Nothing is merged for it, unless that is asked for."""
    daemon = start_stockd(market={"feed": "walk", "tickers": "A, B", "interval": "20ms"})
    done = run_client("stat", "-i", "500ms", "-n", "4", "-o", "json", f"127.0.0.1:{daemon.port}",
                      metrics=True)
    assert done.returncode == DONE, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 4
    assert sum(row["updates"] for row in rows) > 10
    assert not any(row["conflated"] or row["dropped"] or row["gaps"] for row in rows)
