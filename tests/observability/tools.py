"""
The tools that judge and that Debian does not have: built from Go modules whose versions go.mod and
go.sum pin, into build/observability.

    /usr/bin/python3 tests/observability/tools.py        builds them all

Tests build what they use by themselves, one at a time, where this has not been done before.
"""

import fcntl
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build/observability"
sys.path.insert(0, str(HERE.parent / "bench"))

from build import GoModule  # noqa: E402


def alone(build):
    """Tests that run side by side build the same."""

    def locked():
        BUILD.mkdir(parents=True, exist_ok=True)
        with open(BUILD / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return build()

    return locked


@alone
def build_linter():
    """Builds Grafana's linter and its definition of a dashboard; returns the folder of both."""
    module = GoModule(HERE / "go/linter", BUILD, "linter")
    module.build("linter", "github.com/grafana/dashboard-linter")
    module.build("schema", ".")
    return module.folder


@alone
def build_prometheus():
    """
    Builds the release that go.mod names, as it is but for the pages for browsers and the ways to find
    targets in clouds, which would take most of the time; returns the program.
    """
    module = GoModule(HERE / "go/prometheus", BUILD, "prometheus")
    version = re.search(r"github.com/prometheus/prometheus v0\.(\d)(\d+)\.(\d+)", module.text)
    name = "github.com/prometheus/common/version.Version"
    words = f"-s -w -X {name}={version[1]}.{int(version[2])}.{version[3]}"
    flags = ["-tags", "remove_all_sd", "-ldflags", words]
    return module.build("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", flags=flags)


if __name__ == "__main__":
    build_linter()
    build_prometheus()
