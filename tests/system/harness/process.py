"""Starts, watches and stops stockd and other programs, each by its own PID."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from harness.metrics import scrape
from harness.wait import wait_until

SOURCE = Path(__file__).resolve().parents[3]

# What a sanitizer's report looks like, whichever of them wrote it.
SANITIZER = re.compile(r"(ERROR|WARNING): \w+Sanitizer|runtime error: |SUMMARY: \w+Sanitizer")

# Settings of the machine that must not reach the programs.
FOREIGN = re.compile(
    r"^(GRPC_|STOCK_SERVICE_|JOURNAL_STREAM|NOTIFY_SOCKET|LISTEN_|WATCHDOG_|MALLOC_|"
    r"(https?|all|grpc|no)_proxy)",
    re.IGNORECASE,
)


def clean_environment(**more):
    environment = {k: v for k, v in os.environ.items() if not FOREIGN.match(k)}
    environment["LC_ALL"] = "C.UTF-8"
    environment["ASAN_OPTIONS"] = (
        "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:exitcode=99"
    )
    environment["LSAN_OPTIONS"] = "exitcode=98"
    environment["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=1"
    environment.update({key: str(value) for key, value in more.items()})
    return environment


def is_sanitized(program):
    return b"__asan_init" in Path(program).read_bytes()


def assert_no_report(text, name):
    found = SANITIZER.search(text)
    if found:
        raise AssertionError(f"{name} wrote a sanitizer's report:\n{text[found.start():][:6000]}")


def config_text(sections):
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        for key, value in keys.items():
            # Paths of temporary folders make long lines, and a line has a limit.
            parts = str(value).split(", ") if key == "listen" else [value]
            lines += [f"{key} = {part}" for part in parts]
    return "\n".join(lines) + "\n"


def endpoint_count(section):
    """How many places a section says to listen on, in a line or in several; at least one."""
    return max(1, sum(bool(part.strip()) for part in re.split(r"[,\n]", str(section["listen"]))))


class Program:
    """A running program with its output in files."""

    def __init__(self, argv, folder, name, environment=None, stdin=subprocess.DEVNULL):
        self.name = name
        self.log_path = Path(folder) / f"{name}.stderr"
        self.output_path = Path(folder) / f"{name}.stdout"
        with open(self.log_path, "wb") as log, open(self.output_path, "wb") as output:
            self.process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=stdin,
                stdout=output,
                stderr=log,
                env=environment or clean_environment(),
                cwd=folder,
            )
        self.pid = self.process.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def output(self):
        return self.output_path.read_text(errors="replace")

    def running(self):
        return self.process.poll() is None

    def send_signal(self, number):
        if self.running():
            self.process.send_signal(number)

    def wait(self, timeout=30):
        """The exit status; a program that does not end in time is killed, and that is an error."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"{self.name} did not end within {timeout} s; its log:\n{self.log()[-4000:]}"
            ) from None

    def stop(self, number=signal.SIGTERM, timeout=30):
        self.send_signal(number)
        return self.wait(timeout)

    def wait_log(self, pattern, timeout=20):
        """Waits for a line of the log that matches; returns the match."""

        def look():
            found = re.search(pattern, self.log(), re.MULTILINE)
            if not found and not self.running():
                found = re.search(pattern, self.log(), re.MULTILINE)
                assert found, f"{self.name} ended with {self.process.returncode}:\n{self.log()}"
            return found

        return wait_until(look, timeout, f"{pattern!r} in the log of {self.name}")

    # What the kernel says about the process.

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def private_bytes(self):
        """
        Memory that this process has written. Clean pages of libraries are left out: whether they
        are private depends on who else has the library open.
        """
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no Private_Dirty in smaps_rollup")

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stockd(Program):
    """A running stockd. Its sections are those of the configuration file."""

    def __init__(
        self, program, folder, number, sections, arguments=(), environment=None, prefix=()
    ):
        layers = {
            # Tests ask with PING whether everything before it has been looked at.
            "grpc": {
                "listen": "127.0.0.1:0",
                "min_ping_interval": 0,
                "min_ping_interval_idle": 0,
            },
            "metrics": {"listen": "127.0.0.1:0"},
        }
        for section, keys in sections.items():
            layers.setdefault(section, {}).update(keys)
        self._listeners = {
            what: 1 if variable in (environment or {}) else endpoint_count(layers[section])
            for what, section, variable in (
                ("gRPC", "grpc", "GRPC_SERVER_PORT"),
                ("metrics", "metrics", "STOCK_SERVICE_METRICS_SERVER_PORT"),
            )
        }
        self.config_path = Path(folder) / f"stockd-{number}.conf"
        self.config_path.write_text(config_text(layers))
        self.started_at = time.time()
        super().__init__(
            [*prefix, program, "--config", self.config_path, *arguments],
            folder,
            f"stockd-{number}",
            environment,
        )
        self.expected_exit = 0
        self.grpc_ports = []
        self.metrics_ports = []

    def wait_ready(self, timeout=30):
        # Of several listeners each has a line, and the last may come when the first was read.
        for what, count in self._listeners.items():
            line = rf"listening for {what} on \S+:\S+.*\n"
            self.wait_log(line, timeout)
            wait_until(
                lambda: len(re.findall(line, self.log())) >= count or not self.running(),
                timeout,
                f"{count} listeners for {what}",
            )
        self.grpc_ports = [
            int(port)
            for port in re.findall(r"listening for gRPC on \S+:(\d+)(?: \(TLS\))?\n", self.log())
        ]
        self.metrics_ports = [
            int(port)
            for port in re.findall(r"listening for metrics on \S+:(\d+)(?: \(TLS\))?\n", self.log())
        ]
        return self

    @property
    def port(self):
        return self.grpc_ports[0]

    @property
    def metrics_port(self):
        return self.metrics_ports[0]

    def metrics(self, **options):
        return scrape(self.metrics_port, **options)

    def metric(self, name, **labels):
        return self.metrics().sum(name, **labels)

    def wait_metric(self, name, wanted, timeout=20, **labels):
        """Waits until the sum of the samples is `wanted`: a number or a condition."""
        fits = wanted if callable(wanted) else lambda value: value == wanted
        seen = [None]

        def look():
            seen[0] = self.metric(name, **labels)
            return fits(seen[0])

        try:
            wait_until(look, timeout)
        except AssertionError:
            raise AssertionError(
                f"{name} {labels} stayed at {seen[0]} for {timeout} s, wanted "
                f"{'a condition' if callable(wanted) else wanted}"
            ) from None
        return seen[0]

    def wait_at_rest(self, timeout=30):
        """Waits until nobody is served and nothing is held for anybody."""
        for name in (
            "stockd_connections",
            "stockd_streams",
            "stockd_blocked_streams",
            "stockd_queued_bytes",
        ):
            self.wait_metric(name, 0, timeout)
        metrics = self.metrics()
        started = metrics.sum("grpc_server_started_total")
        handled = metrics.sum("grpc_server_handled_total")
        assert started == handled, f"{started} calls started, {handled} ended"
        opened = metrics.sum("stockd_connections_accepted_total")
        closed = metrics.sum("stockd_connections_closed_total")
        assert opened == closed, f"{opened} connections opened, {closed} closed"
        sent = metrics.sum("stock_updates_sent_total")
        lags = metrics.sum("stockd_send_lag_seconds_count")
        assert sent == lags, f"{sent} updates sent, {lags} with a lag"
        return metrics

    def check_end(self):
        """For the end of a test: stops it if need be; no report, and the exit that was expected."""
        code = self.stop()
        assert_no_report(self.log(), self.name)
        assert code == self.expected_exit, (
            f"{self.name} ended with {code}, expected {self.expected_exit}; its log:\n"
            f"{self.log()[-4000:]}"
        )
