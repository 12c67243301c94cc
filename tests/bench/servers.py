"""Starts the servers of the benchmark, each pinned to one CPU, and reads what they cost.

`tls` is None, or the paths of the certificate and the key that the server is to use.
"""

import os
import re
import select
import signal
import subprocess
import time

START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 10


class ServerError(Exception):
    """Says in one line what went wrong with a server or the load on it."""


class Server:
    """A running server, on `port` of 127.0.0.1, pinned to one CPU."""

    def __init__(self, name, command, ready, cpu):
        self.name = name
        self.output = b""
        # Both streams in one pipe: stockd says its port on stderr, the others on stdout.
        self.process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            self.port = self._wait_for_port(ready)
        except BaseException:
            self.stop()
            raise

    def _read(self, seconds):
        """Takes what the server has printed, so that it can never block on a full pipe."""
        if select.select([self.process.stdout], [], [], seconds)[0]:
            chunk = self.process.stdout.read()
            if chunk:
                self.output = (self.output + chunk)[-65536:]
                return True
        return False

    def _wait_for_port(self, ready):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            self._read(0.1)
            found = re.search(ready, self.output.decode(errors="replace"))
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                break
        raise ServerError(f"{self.name} did not start: {self.last_line()}")

    def last_line(self):
        lines = self.output.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def drain(self):
        """Takes what there is; also at the end of the output, where there is nothing more to come."""
        while self._read(0):
            pass

    @property
    def pid(self):
        return self.process.pid  # taskset becomes what it starts

    def rss_kib(self):
        with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Rss:"):
                    return int(line.split()[1])
        raise ServerError(f"{self.name} has no Rss")

    def rss_kib_at_rest(self, seconds_max):
        """The resident memory once it has stopped changing, or after `seconds_max`."""
        deadline = time.monotonic() + seconds_max
        before = self.rss_kib()
        quiet = 0
        while time.monotonic() < deadline and quiet < 3:
            time.sleep(0.3)
            self.drain()
            now = self.rss_kib()
            quiet = quiet + 1 if abs(now - before) <= before // 200 else 0
            before = now
        return before

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS_MAX
            while self.process.poll() is None and time.monotonic() < deadline:
                self._read(0.05)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


STOCKD_CONFIG = """\
[grpc]
listen = 127.0.0.1:0{listen_tls}
max_connections = 11000
max_streams = 10000

[metrics]
listen = 127.0.0.1:0

[stream]
interval = {interval}
{market}
[log]
level = info
"""

# One ticker, as often as the streams of GetUpdates are paced; nobody subscribes if they are not.
STOCKD_CONFIG_MARKET = """
[market]
feed = walk
tickers = BENCH
interval = {interval}
"""

STOCKD_CONFIG_TLS = """
[tls]
certificate = {certificate}
key = {key}
"""


class Stockd:
    name = "stockd"
    paced = True
    tls = True
    calls = True
    fanout = True

    def __init__(self, path, folder):
        self.path = path
        self.folder = folder

    def start(self, interval_ms, cpu, tls=None):
        config = self.folder / f"stockd-{interval_ms}{'-tls' if tls else ''}.conf"
        interval = f"{interval_ms}ms" if interval_ms else "0"
        market = STOCKD_CONFIG_MARKET.format(interval=interval) if interval_ms else ""
        listen_tls = " tls=yes" if tls else ""
        text = STOCKD_CONFIG.format(interval=interval, listen_tls=listen_tls, market=market)
        if tls:
            text += STOCKD_CONFIG_TLS.format(certificate=tls[0], key=tls[1])
        config.write_text(text, encoding="utf-8")
        ready = r"listening for gRPC on 127\.0\.0\.1:(\d+)"
        return Server(self.name, [self.path, "--config", config], ready, cpu)


class Floor:
    name = "floor"
    paced = False  # it knows no time
    tls = False  # that has a floor of its own
    calls = False
    fanout = False

    def __init__(self, path):
        self.path = path

    def start(self, _interval_ms, cpu, _tls=None):
        return Server(self.name, [self.path, "--port", "0"], r"listening on \S+:(\d+)", cpu)


class Peer:
    paced = True
    calls = True

    def __init__(self, name, command):
        self.name = name
        self.command = command
        self.tls = name == "grpc-go"  # the one that TLS is compared with
        self.fanout = name != "Node"  # it has no Subscribe

    def start(self, interval_ms, cpu, tls=None):
        command = [*self.command, "--port", "0", "--interval", str(interval_ms)]
        if tls:
            command += ["--certificate", tls[0], "--key", tls[1]]
        return Server(self.name, command, r"listening on \S+:(\d+)", cpu)
