#!/usr/bin/python3
"""Runs fuzz targets, as many at once as there are processors: run.py --build FOLDER [SECONDS]
[TARGET...]

Seeds come from corpus/; what is found beside them goes to FOLDER/corpus/TARGET, so that the next
run goes on from there, and inputs with a fault to FOLDER/findings. Any of those is a failure.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent

# An input that takes longer, or more memory, is a fault. Inputs are shorter than these are large.
OPTIONS = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1",
           "-verbosity=1"]

# What a run may take above its time: to read its corpus, and to reduce nothing.
GRACE_SECONDS = 90

ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:allocator_may_return_null=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


class Run:
    """One target, from its start to what it came to."""

    def __init__(self, target, build, seconds):
        self.target = target
        self.program = build / "tests" / "fuzz" / f"fuzz-{target}"
        self.grown = build / "corpus" / target
        self.findings = build / "findings"
        self.log = build / "log" / f"{target}.log"
        self.seconds = seconds
        self.failed = None
        self.output = ""

    def command(self):
        dictionary = HERE / "dictionaries" / f"{self.target}.dict"
        return [self.program, *OPTIONS, f"-max_total_time={self.seconds}",
                f"-artifact_prefix={self.findings}/{self.target}-",
                *([f"-dict={dictionary}"] if dictionary.exists() else []),
                self.grown, HERE / "corpus" / self.target]

    def run(self):
        for folder in self.grown, self.findings, self.log.parent:
            folder.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as log:
            try:
                status = subprocess.run(
                    self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
                    env=os.environ | ENVIRONMENT, timeout=self.seconds + GRACE_SECONDS).returncode
                self.failed = f"ended with {status}" if status != 0 else None
            except subprocess.TimeoutExpired:
                self.failed = "did not end"
        self.output = self.log.read_text(encoding="utf-8", errors="replace")
        if not self.failed and not self.figure("number_of_executed_units"):
            self.failed = "has run no input"
        return self

    def figure(self, name):
        found = re.search(rf"^stat::{name}:\s*(\d+)", self.output, re.MULTILINE)
        return int(found[1]) if found else 0

    def line(self):
        edges = re.findall(r"\bcov: (\d+)", self.output)
        return (f"{self.target:10} {self.figure('number_of_executed_units'):10} inputs "
                f"{self.figure('average_exec_per_sec'):6}/s {edges[-1] if edges else 0:>6} edges "
                f"{len(list(self.grown.iterdir())):6} inputs kept  {self.failed or 'ok'}")

    def explain(self):
        """The end of what it printed, without libFuzzer's progress, and how to see it again."""
        lines = [line for line in self.output.splitlines() if not re.match(r"#\d+\t", line)]
        print(f"\n--- {self.target} {self.failed}; all of its output is in {self.log}\n")
        print("\n".join(lines[-60:]))
        for path in re.findall(r"Test unit written to (\S+)", self.output):
            print(f"\nto see it again: {os.path.relpath(self.program)} {os.path.relpath(path)}")


def all_targets():
    return sorted(path.name for path in (HERE / "corpus").iterdir())


def parse():
    parser = argparse.ArgumentParser(description="Runs fuzz targets.")
    parser.add_argument("--build", type=Path, required=True, help="the folder of the fuzz build")
    parser.add_argument("seconds", nargs="?", type=int, default=60, help="for each target (60)")
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(all_targets()))
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(all_targets())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if arguments.seconds < 1:
        parser.error("SECONDS is at least 1")
    return arguments


def main():
    arguments = parse()
    build = arguments.build.resolve()
    began = time.monotonic()
    runs = [Run(target, build, arguments.seconds) for target in arguments.targets or all_targets()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for run in pool.map(Run.run, runs):
            print(run.line(), flush=True)
    failed = [run for run in runs if run.failed]
    for run in failed:
        run.explain()
    print(f"{len(runs) - len(failed)} passed, {len(failed)} failed, "
          f"{time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
