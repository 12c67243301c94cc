"""
The .proto file as a contract, with buf as the judge: it keeps the rules of a new interface wherever
nothing older binds it, and it breaks nothing for clients of the original or of an earlier release.
interfaces/ has what those know; each release adds its file.
"""

import collections
import json
import re
import shutil
import subprocess

import pytest
import yaml

from harness.explorers import get_explorer
from harness.process import SOURCE, clean_environment

PROTO = SOURCE / "proto"
INTERFACES = sorted((SOURCE / "tests" / "system" / "interfaces").iterdir())

# All that is not as buf wants it: the rule, and what of ours departs from it.
DEPARTURES = {
    "PACKAGE_DIRECTORY_MATCH": {"stockservice"},
    "PACKAGE_VERSION_SUFFIX": {"stockservice"},
    "RPC_REQUEST_STANDARD_NAME": {"EmptyRequest"},
    "RPC_RESPONSE_STANDARD_NAME": {"StockUpdate", "MarketEvent"},
    "FIELD_LOWER_SNAKE_CASE": {
        "changePercent",
        "openPrice",
        "highPrice",
        "lowPrice",
        "marketCap",
    },
}


@pytest.fixture
def buf(build, tmp_path):
    """buf(command, folder, *arguments): what it finds, as (rule, message)."""
    explorer = get_explorer("buf", build)

    def run(command, folder, *arguments):
        done = subprocess.run(
            [explorer.program, command, folder, "--error-format=json", *map(str, arguments)],
            env={**clean_environment(), "BUF_CACHE_DIR": str(tmp_path / "cache")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        # 100: something was found. Anything else is a fault of how it was called.
        assert done.returncode == (100 if found else 0), done.stdout + done.stderr
        assert not done.stderr, done.stderr
        return [(one["type"], one["message"]) for one in found]

    return run


@pytest.fixture
def changed(tmp_path):
    """changed(pattern, replacement): a copy of proto/ in which our file is different in that."""

    def change(pattern, replacement):
        folder = shutil.copytree(PROTO, tmp_path / "changed")
        file = folder / "stockservice.proto"
        text = file.read_text(encoding="utf-8")
        text, count = re.subn(pattern, replacement, text, count=1, flags=re.MULTILINE)
        assert count == 1, pattern
        file.write_text(text, encoding="utf-8")
        return folder

    return change


def without(part, key):
    """Our configuration without these exceptions, as buf's option --config takes it."""
    configuration = yaml.safe_load((PROTO / "buf.yaml").read_text(encoding="utf-8"))
    del configuration[part][key]
    return "--config", json.dumps(configuration)


def test_the_interface_is_as_a_new_one_should_be(buf):
    assert buf("lint", PROTO) == []


def test_exceptions_excuse_only_what_is_old(buf):
    """Without them there are just those findings, so that nothing new hides behind one."""
    found = collections.defaultdict(set)
    for rule, message in buf("lint", PROTO, *without("lint", "ignore_only")):
        found[rule].add(re.search(r'"([^"]+)"', message).group(1))
    assert found == DEPARTURES
    configuration = yaml.safe_load((PROTO / "buf.yaml").read_text(encoding="utf-8"))
    assert set(configuration["lint"]["ignore_only"]) == set(DEPARTURES)


@pytest.mark.parametrize(
    "pattern, replacement, rule",
    [
        (r"^  bool snapshot = 5;", "  bool snapShot = 5;\n  bool more = 16;", "COMMENT_FIELD"),
        (r"SLOW_POLICY_BLOCK\b(?= = 1)", "BLOCKING", "ENUM_VALUE_PREFIX"),
        (r"_UNSPECIFIED = 0", "_NONE = 0", "ENUM_ZERO_VALUE_SUFFIX"),
        (r"rpc ListTickers\(ListTickersRequest\)", "rpc ListTickers(GetSnapshotRequest)", "UNIQUE"),
    ],
    ids=["comment", "value", "zero", "request"],
)
def test_lint_finds_what_is_bad(buf, changed, pattern, replacement, rule):
    found = buf("lint", changed(pattern, replacement))
    assert any(rule in one for one, _ in found), found


@pytest.mark.parametrize("known", INTERFACES, ids=lambda folder: folder.name)
def test_nothing_breaks_for_older_clients(buf, known):
    assert buf("breaking", PROTO, "--against", known) == []


@pytest.mark.parametrize("known", INTERFACES, ids=lambda folder: folder.name)
@pytest.mark.parametrize(
    "pattern, replacement, rule",
    [
        (r"int64 volume = 5;", "int64 volume = 11;", "FIELD_NO_DELETE"),
        (r"int64 marketCap = 9;", "sint64 marketCap = 9;", "FIELD_SAME_TYPE"),
        (r"double openPrice = 6;", "double open_price = 6;", "FIELD_SAME_NAME"),
        (r"^package stockservice;", "package stockservice.v1;", "FILE_SAME_PACKAGE"),
        (
            r"rpc GetUpdates\(EmptyRequest\) returns \(stream StockUpdate\)",
            "rpc GetUpdates(EmptyRequest) returns (StockUpdate)",
            "RPC_SAME_SERVER_STREAMING",
        ),
    ],
    ids=["number", "type", "name", "package", "stream"],
)
def test_what_would_break_them_is_found(buf, changed, known, pattern, replacement, rule):
    found = buf("breaking", changed(pattern, replacement), "--against", known)
    assert any(one == rule for one, _ in found), found


def test_both_exceptions_of_what_breaks_are_needed(buf, changed):
    """The one for the original, the other for fields to come, which may have reserved numbers."""
    bare = without("breaking", "except")
    original = next(folder for folder in INTERFACES if folder.name == "original")
    ((rule, _),) = buf("breaking", PROTO, *bare, "--against", original)
    assert rule == "FILE_SAME_GO_PACKAGE"
    grown = changed(r"^  reserved 8 to 15;", "  // New.\n  bool newer = 8;\n\n  reserved 9 to 15;")
    assert buf("breaking", grown, "--against", PROTO) == []
    found = {rule for rule, _ in buf("breaking", grown, *bare, "--against", PROTO)}
    assert found == {"RESERVED_MESSAGE_NO_DELETE"}
