"""
The two scenarios of ./dev scenarios in short, judged by what Prometheus has seen of them; and the
judges themselves, which must see what is wrong.
"""

import copy
import math
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import scenarios
from harness.process import clean_environment
from harness.wait import wait_until
from scenarios import Run, Row, ScenarioError, check_fast, check_slow, interpolate, rows_of

# Both are of one run of Prometheus.
pytestmark = pytest.mark.xdist_group("scenarios")

PROGRAM = Path(scenarios.__file__)
SECONDS = 16
# Some 40 updates: full after five seconds, in which ten a second come and two are used.
WINDOW = 4000
SLOW = scenarios.slow_scenario(WINDOW, ("--quiet", "--delay", "500ms:500ms"))


# --- two real runs --------------------------------------------------------------------------------


class Played:
    def __init__(self, runs, words, pictures):
        self.fast, self.slow = runs
        self.words = words
        self.pictures = pictures


@pytest.fixture(scope="module")
def played(build, tmp_path_factory):
    """Both scenarios, each with what is printed of it and its picture."""
    folder = tmp_path_factory.mktemp("scenarios")
    stage = scenarios.Stage(build, folder, scenarios.SCRAPE_SHORT_S, SECONDS)
    runs, words, pictures = [], [], []
    try:
        stage.open()
        for scenario in (scenarios.fast_scenario(), SLOW):
            run = stage.play(scenario, scenarios.Progress(SECONDS))
            said = folder / f"{run.name}.txt"
            with open(said, "w", encoding="utf-8") as out:
                pictures.append(scenarios.report(run, scenario, folder, out))
            runs.append(run)
            words.append(said.read_text(encoding="utf-8"))
    finally:
        stage.close()
    return Played(runs, words, pictures)


def test_fast(played):
    check_fast(played.fast)
    assert len(played.fast.rows) >= SECONDS - 3
    assert "lie on each other" in played.words[0]


def test_slow(played):
    run = played.slow
    check_slow(run)
    assert run.full_at() > 3 * run.scrape_s, "too short to see the gap grow"
    # Were sent to stand still meanwhile, the gap would shrink by what is received, and be seen to.
    rows = run.plateau()
    assert rows[-1].received - rows[0].received > 2 * scenarios.slack(run, 2)
    assert "until the client's window of 4000 bytes was" in played.words[1]


def test_table(played):
    for run, words in zip((played.fast, played.slow), played.words):
        header, *lines = [line for line in words.splitlines() if line.startswith("  ")]
        assert header.split() == "time sent received gap blocked s blocked now".split()
        assert 10 <= len(lines) <= 15
        last = lines[-1].split()
        assert int(last[1]) == round(run.rows[-1].sent)
        assert int(last[1]) - int(last[2]) == int(last[3])


def pixels(path):
    """The size of a PNG of 8 bits, and how many pixels it has of each colour."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed += body
        at += 12 + size
    assert (depth, interlaced) == (8, 0) and colour in (2, 6)
    channels = {2: 3, 6: 4}[colour]
    raw, stride, before = zlib.decompress(packed), width * channels, bytes(width * channels)
    counts = {}
    for row in range(height):
        start = row * (stride + 1)
        before = unfilter(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), before, channels)
        for x in range(0, stride, channels):
            pixel = bytes(before[x : x + 3])
            counts[pixel] = counts.get(pixel, 0) + 1
    return (width, height), counts


def unfilter(kind, line, above, step):
    """A line of a PNG as it was before it was filtered (PNG, section 9)."""
    for i, value in enumerate(line):
        a = line[i - step] if i >= step else 0
        b, c = above[i], above[i - step] if i >= step else 0
        if kind == 4:
            p = a + b - c
            nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        else:
            nearest = (0, a, b, (a + b) // 2)[kind]
        line[i] = (value + nearest) & 255
    return line


GREEN, YELLOW = bytes.fromhex("73bf69"), bytes.fromhex("f2cc0c")


def test_pictures(played):
    """In the fast one yellow hides green, in the slow one it does not."""
    seen = {}
    for path in played.pictures:
        size, seen[path.name] = pixels(path)
        assert size == scenarios.PICTURE_SIZE
    fast, slow = seen["scenario-fast.png"], seen["scenario-slow.png"]
    assert fast[YELLOW] > 10000 and fast.get(GREEN, 0) < fast[YELLOW] / 20
    assert slow[GREEN] > 10000 and slow[GREEN] > slow[YELLOW] > 1000


# --- the judges -----------------------------------------------------------------------------------


def fast_run():
    return Run("fast", "", 65535, 1, [Row(at, 10 * at, 10 * at, 0, 0) for at in range(1, 31)])


def slow_run():
    """A window of 4000 bytes, with room for 40 updates, is full after 5 s; two a second are used."""
    rows = [
        Row(at, min(10 * at, 40 + 2 * at), 2 * at, max(0, at - 5), float(at > 5))
        for at in range(1, 31)
    ]
    return Run("slow", "", WINDOW, 1, rows)


def test_judges_pass_what_is_right():
    check_fast(fast_run())
    check_slow(slow_run())


def all_rows(field, change):
    def apply(run):
        for row in run.rows:
            setattr(row, field, change(row))

    return apply


def stand_still(run):
    """As long as the gap is still one that the window has room for."""
    del run.rows[10:]
    all_rows("sent", lambda row: min(row.sent, 50))(run)


@pytest.mark.parametrize(
    "words, spoil",
    {
        "nothing was sent": all_rows("sent", lambda row: 0),
        "apart": all_rows("received", lambda row: 10 * row.at - (20 if row.at == 15 else 0)),
        "more than the": all_rows("received", lambda row: 5 * row.at),
        "was blocked": all_rows("blocked_s", lambda row: 0.5 if row.at > 20 else 0),
    }.items(),
)
def test_judge_of_fast(words, spoil):
    run = fast_run()
    spoil(run)
    with pytest.raises(ScenarioError, match=words):
        check_fast(run)


@pytest.mark.parametrize(
    "words, spoil",
    {
        "never blocked": all_rows("blocked_s", lambda row: 0),
        "does not grow": all_rows("sent", lambda row: row.sent - (9 if row.at == 4 else 0)),
        "nothing was received": all_rows("received", lambda row: min(row.received, 10)),
        "has room for": all_rows("sent", lambda row: min(10 * row.at, 90 + 2 * row.at)),
        "not the same": all_rows("sent", lambda row: row.sent + (9 if row.at > 20 else 0)),
        "sent grew by 0": stand_still,
        "is blocked for": all_rows("blocked_s", lambda row: max(0, (row.at - 5) / 4)),
    }.items(),
)
def test_judge_of_slow(words, spoil):
    """Among them: a server that fills a buffer of its own, one that goes on sending, one that stops."""
    run = slow_run()
    spoil(run)
    with pytest.raises(ScenarioError, match=words):
        check_slow(run)


def test_values_are_brought_to_the_same_moments():
    """Scraped at different times, two counters that are equal have no gap."""
    steady = {
        "sent": [(1000.3 + at, 10 * (0.3 + at)) for at in range(10)],
        "received": [(1000.8 + at, 10 * (0.8 + at)) for at in range(10)],
        "blocked_s": [(1000.3 + at, 0.0) for at in range(10)],
        "blocked_now": [(1000.3 + at, float(at > 4)) for at in range(10)],
    }
    rows = rows_of(steady, 1000, 1)
    assert [row.at for row in rows] == list(range(1, 10))
    assert all(math.isclose(row.gap, 0, abs_tol=1e-9) for row in rows)
    assert [row.blocked_now for row in rows] == [0.0] * 5 + [1.0] * 4
    assert interpolate([(1, 10.0), (3, 20.0)], 2) == 15.0
    few = copy.deepcopy(steady)
    del few["sent"][1:]
    with pytest.raises(ScenarioError, match="1 values for 'sent'"):
        rows_of(few, 1000, 1)


# --- the command ----------------------------------------------------------------------------------


def test_interrupted(build, tmp_path, start_program):
    """Nothing of it is left, and it says so."""
    words = ["--build", build, "--minutes", "1", "--output", tmp_path / "out"]
    program = start_program([sys.executable, PROGRAM, *words], "scenarios")
    wait_until(lambda: "Prometheus is at" in program.output(), 60, "its first words")
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 3, 30, "all three programs")
    pids = children.read_text().split()
    assert program.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert "nothing is left running" in program.output()
    # One that had only just been started goes with its parent.
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20, "their ends")


@pytest.mark.parametrize(
    "words", [["--minutes", "0.1"], ["--minutes", "x"], ["--window", "0"], ["--wind", "5000"]]
)
def test_bad_arguments(build, words):
    done = subprocess.run(
        [sys.executable, PROGRAM, "--build", build, *words],
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_environment(),
    )
    assert done.returncode == 2
    assert "./dev scenarios: error:" in done.stderr
