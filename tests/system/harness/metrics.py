"""
Scrapes and reads Prometheus' text format 0.0.4 and OpenMetrics 1.0. A parser of our own, and a
strict one: a line that the formats do not allow is an error, not skipped.
"""

import gzip
import http.client
import math
import re
from typing import NamedTuple

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(
    rf"^({NAME})(?:\{{((?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\n]|\\[\\\"n])*\",?)*)\}})?"
    r" (-?(?:[0-9.]+(?:[eE][-+]?[0-9]+)?|Inf)|\+Inf|NaN)$"
)
LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)=\"((?:[^\"\\\n]|\\[\\\"n])*)\"(,|$)")
COMMENT = re.compile(rf"^# (HELP|TYPE|UNIT) ({NAME})(?: (.*))?$")
ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class Sample(NamedTuple):
    name: str
    labels: dict
    value: float


def parse_labels(text):
    labels = {}
    position = 0
    while position < len(text):
        match = LABEL.match(text, position)
        if not match:
            raise ValueError(f"bad labels: {text!r}")
        name, value, _ = match.groups()
        if name in labels:
            raise ValueError(f"label {name} twice: {text!r}")
        labels[name] = re.sub(r"\\[\\\"n]", lambda m: ESCAPES[m.group()], value)
        position = match.end()
    return labels


class Metrics:
    """One scrape."""

    def __init__(self, text):
        self.samples = []
        self.types = {}
        self.help = {}
        self.eof = False
        if not text.endswith("\n"):
            raise ValueError("the last line has no end")
        for line in text[:-1].split("\n"):
            self._line(line)
        self._by_name = {}
        for sample in self.samples:
            same = self._by_name.setdefault(sample.name, [])
            if any(other.labels == sample.labels for other in same):
                raise ValueError(f"twice the same sample: {sample}")
            same.append(sample)

    def _line(self, line):
        if self.eof:
            raise ValueError(f"a line after the end: {line!r}")
        if line == "# EOF":
            self.eof = True
            return
        if line.startswith("#"):
            match = COMMENT.match(line)
            if not match:
                raise ValueError(f"bad comment: {line!r}")
            kind, name, rest = match.groups()
            target = {"HELP": self.help, "TYPE": self.types}.get(kind)
            if target is not None:
                if name in target:
                    raise ValueError(f"# {kind} twice: {line!r}")
                target[name] = rest or ""
            return
        match = SAMPLE.match(line)
        if not match:
            raise ValueError(f"bad sample: {line!r}")
        name, labels, value = match.groups()
        self.samples.append(Sample(name, parse_labels(labels or ""), float(value)))

    def find(self, name, **labels):
        """The samples of that name with at least these labels."""
        return [
            sample
            for sample in self._by_name.get(name, [])
            if all(sample.labels.get(key) == value for key, value in labels.items())
        ]

    def sum(self, name, **labels):
        """The sum of the samples found; there must be one at least."""
        found = self.find(name, **labels)
        if not found:
            raise AssertionError(f"no sample {name} {labels}")
        return math.fsum(sample.value for sample in found)

    def by(self, name, label, **labels):
        """{value of `label`: sum}."""
        sums = {}
        for sample in self.find(name, **labels):
            key = sample.labels.get(label)
            sums[key] = sums.get(key, 0) + sample.value
        return sums


    def later(self, name, bound):
        """Observations of a histogram that were above `bound`, which is the bound of a bucket."""
        for bucket in self.find(f"{name}_bucket"):
            if float(bucket.labels["le"]) == bound:
                return self.sum(f"{name}_count") - bucket.value
        raise AssertionError(f"{name} has no bucket up to {bound}")


class Answer(NamedTuple):
    status: int
    headers: dict  # names in lower case
    body: bytes


def http_request(port, path, method="GET", headers=None, host="127.0.0.1", timeout=20):
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


def scrape(port, host="127.0.0.1", accept=None, compressed=False):
    headers = {}
    if accept:
        headers["Accept"] = accept
    if compressed:
        headers["Accept-Encoding"] = "gzip"
    answer = http_request(port, "/metrics", headers=headers, host=host)
    assert answer.status == 200, answer
    body = answer.body
    if answer.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return Metrics(body.decode())
