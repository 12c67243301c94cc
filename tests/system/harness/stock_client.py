"""
stock-client as the tests run it: to its end or in the background, its output checked line by line,
and its /metrics. The fixtures are for test files to import.
"""

import re
import signal
import socket
import subprocess

import pytest
from google.protobuf import json_format

from harness.metrics import scrape
from harness.process import assert_no_report, clean_environment
from harness.stocks import Chain, pb2
from harness.wait import wait_until

DONE, FAILED, USAGE, NO_CONNECTION, INTERRUPTED = 0, 1, 2, 3, 130
SUMMARY = re.compile(
    r"^stock-client: (\d+) updates received in (\d+\.\d+) s \((\d+\.\d)/s\), (\d+) gaps, "
    r"(\d+) reconnects$",
    re.MULTILINE,
)
MESSAGE_BYTES_MIN = 85


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.fixture
def run_client(client_program):
    """Runs stock-client to its end."""

    def run(*arguments, timeout=60, environment=None, metrics=False, folder=None):
        done = subprocess.run(
            [
                str(client_program),
                *map(str, arguments),
                *([] if metrics else ["--no-metrics"]),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=clean_environment(**(environment or {})),
            cwd=folder,
        )
        assert_no_report(done.stderr, "stock-client")
        return done

    return run


class RunningClient:
    """A stock-client in the background, with its /metrics."""

    def __init__(self, program):
        self.program = program
        self.port = int(program.wait_log(r"metrics on http://127\.0\.0\.1:(\d+)/metrics").group(1))

    def metrics(self):
        return scrape(self.port)

    def metric(self, name, **labels):
        return self.metrics().sum(name, **labels)

    def wait_metric(self, name, condition, timeout=30, **labels):
        return wait_until(
            lambda: condition(self.metric(name, **labels)), timeout, f"{name} {labels}"
        )

    def lines(self):
        return self.program.output().splitlines()

    def wait_lines(self, count, timeout=30):
        wait_until(lambda: len(self.lines()) >= count, timeout, f"{count} lines")
        return self.lines()

    def stop(self, number=signal.SIGINT):
        return self.program.stop(number)

    def summary(self):
        return summary_of(self.program.log())


@pytest.fixture
def start_client(client_program, start_program):
    def start(*arguments):
        argv = [client_program, *arguments, "--metrics", "127.0.0.1:0"]
        return RunningClient(start_program(argv, "stock-client"))

    return start


def summary_of(text):
    found = SUMMARY.search(text)
    assert found, text
    received, seconds, rate, gaps, reconnects = found.groups()
    return {
        "received": int(received),
        "seconds": float(seconds),
        "rate": float(rate),
        "gaps": int(gaps),
        "reconnects": int(reconnects),
    }


def update_of_json(line):
    return json_format.Parse(line, pb2().StockUpdate())


def check_json(lines, chain=None):
    chain = chain or Chain()
    for line in lines:
        chain.check(update_of_json(line))
    return chain.count
