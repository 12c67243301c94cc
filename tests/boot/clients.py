"""load.py as seen by a test: clients in the network of a box."""

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

from harness.process import clean_environment

PROGRAM = Path(__file__).resolve().parent / "load.py"


class LoadProgram:
    """
    A running load.py; with `begun`, one whose calls have all begun. end() gives its last report.

        with streams(box, count=5) as load:
            load.report()["received"]
    """

    def __init__(self, box, *words, begun=True):
        self.errors = box.log_folder / f"load-{len(box.helpers)}.stderr"
        self.last = None
        with open(self.errors, "ab") as errors:
            self.process = box.in_network(
                "/usr/bin/python3",
                PROGRAM,
                *words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=clean_environment(),
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            if begun:
                self.wait_begun()
        except BaseException:
            self.kill()
            raise

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def _next(self, timeout):
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"load.py said nothing for {timeout} s") from None
        assert line is not None, f"load.py ended:\n{self.errors.read_text()[-3000:]}"
        return line

    def wait_begun(self, timeout=30):
        line = self._next(timeout)
        assert line["event"] == "begun", line

    def report(self, timeout=20):
        self.process.stdin.write("report\n")
        self.process.stdin.flush()
        while True:
            line = self._next(timeout)
            if line["event"] == "report":
                return line

    def end(self, timeout=40):
        if self.last is None:
            self.process.stdin.close()
            while True:
                line = self._next(timeout)
                if line["event"] == "report":
                    self.last = line
                    break
            self.process.wait(timeout)
        return self.last

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.end()
        else:
            self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()


def streams(box, count, *more, port=4444, begun=True):
    return LoadProgram(box, "streams", port, count, *more, begun=begun)


def attempts(box, port=4444, begun=True):
    return LoadProgram(box, "attempts", port, begun=begun)
