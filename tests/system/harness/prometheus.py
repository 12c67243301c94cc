"""
A real Prometheus: started with a configuration, asked by its HTTP API, ended by its PID; and the API
alone, of one that somebody else has started.
"""

import json
import shutil
import signal
import urllib.error
import urllib.parse
import urllib.request

from harness.process import Program, clean_environment
from harness.stock_client import free_port
from harness.wait import wait_until

# What it lives on is on this machine, whatever the machine's settings say.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get_here(address):
    """The text at an address of this machine, also that of an error; OSError if nothing answers."""
    try:
        with _direct.open(address, timeout=20) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


class PrometheusApi:
    """The HTTP API of the Prometheus at `url`; `get` takes an address and gives the text there."""

    def __init__(self, url, get=get_here):
        self.url = url
        self._get = get

    def api(self, path, **parameters):
        """What /api/v1/`path` answers, its data; AssertionError with its own words if it fails."""
        asked = urllib.parse.urlencode(parameters, doseq=True)
        said = json.loads(self._get(f"{self.url}/api/v1/{path}?{asked}"))
        assert said["status"] == "success", f"{path} {parameters}: {said}"
        return said["data"]

    def query(self, expression, **parameters):
        """What an expression is now: a list of (labels, value)."""
        found = self.api("query", query=expression, **parameters)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def values(self, expression):
        """The values alone."""
        return [value for _, value in self.query(expression)]

    def query_range(self, expression, start, end, step):
        """Over time, in Unix seconds: a list of (labels, [(time, value), ...])."""
        found = self.api("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [
            (one["metric"], [(float(time), float(value)) for time, value in one["values"]])
            for one in found
        ]

    def wait_values(self, expression, fits, timeout=60):
        """Waits until the values of an expression are as wanted; returns them."""
        seen = []

        def look():
            seen[:] = self.values(expression)
            return fits(seen)

        try:
            wait_until(look, timeout)
        except AssertionError:
            errors = {one["scrapeUrl"]: one["lastError"] for one in self.targets()}
            raise AssertionError(
                f"{expression} stayed at {seen}; errors of targets: {errors}"
            ) from None
        return seen

    def targets(self):
        return self.api("targets", state="active")["activeTargets"]


class Prometheus(Program, PrometheusApi):
    """
    Prometheus with the configuration file `config`, on a free port of the loopback, its data in
    `folder`. `program` is Debian's unless another one is given; `arguments` are more flags of it.
    `prefix` is a program that runs it.
    """

    def __init__(self, config, folder, program=None, arguments=(), name="prometheus", prefix=()):
        program = program or shutil.which("prometheus")
        assert program, "there is no program prometheus; it comes with Debian's package of that name"
        self.port = free_port()
        PrometheusApi.__init__(self, f"http://127.0.0.1:{self.port}")
        Program.__init__(
            self,
            [
                *prefix,
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / f'{name}-data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                *arguments,
            ],
            folder,
            name,
            clean_environment(),
        )

    def wait_ready(self, timeout=60):
        def ready():
            assert self.running(), f"{self.name} ended; its log:\n{self.log()[-4000:]}"
            try:
                with _direct.open(f"{self.url}/-/ready", timeout=5) as answer:
                    return answer.status == 200
            except OSError:
                return False

        wait_until(ready, timeout, f"{self.name} to be ready")
        return self

    def stop(self, number=signal.SIGTERM, timeout=60):
        return super().stop(number, timeout)
