"""
The journal for programs under test: a library, preloaded into them, takes what they send to it, so
that no journald is needed and none gets the messages of tests. And the table of events in
daemon/base/events.h, with what it promises about each message.
"""

import os
import re
import struct
import subprocess
from typing import NamedTuple

from harness.process import SOURCE, clean_environment
from harness.wait import wait_until

SIZE = struct.Struct("=I")
END_OF_MESSAGE = 0xFFFFFFFF
WARNING, INFO = 4, 6

# Fields whose value is a figure, besides those with a unit at their end.
FIGURES = {
    "STOCKD_CALLS",
    "STOCKD_CONNECTIONS",
    "STOCKD_DROPPED",
    "STOCKD_GAPS",
    "STOCKD_HTTP2_ERROR",
    "STOCKD_LINE",
    "STOCKD_MESSAGES",
    "STOCKD_MISSING",
    "STOCKD_RECONNECTS",
    "STOCKD_STREAM",
    "STOCKD_STREAMS",
    "STOCKD_UPDATES_RECEIVED",
    "STOCKD_UPDATES_SENT",
}
UNITS = ("_MS", "_BYTES")


class Event(NamedTuple):
    identifier: str
    name: str
    ids: dict  # program -> identity
    required: frozenset  # fields that each message has
    fields: frozenset  # and those that it may have


def _table(text, name):
    """The rows of an X-macro: tuples of their arguments, the strings without quotes."""
    body = re.search(rf"#define {name}\(X\)(.*?)(?<!\\)\n", text, re.DOTALL)
    assert body, name
    rows = []
    for row in re.findall(r"\bX\((.*?)\)(?=\s*(?:\\|$))", body.group(1), re.DOTALL):
        row = re.sub(r'"[\s\\]+"', "", row)  # one string in two parts
        first, rest = row.split(",", 1)
        rows.append((first.strip(), *(s.strip() for s in re.findall(r'"([^"]*)"', rest))))
    return rows


def read_events():
    """All events by name."""
    text = (SOURCE / "daemon" / "base" / "events.h").read_text()
    client_ids = dict(_table(text, "SHARED_EVENTS_OF_CLIENT"))
    events = {}
    for table, programs in (
        ("DAEMON_EVENTS", ("stockd",)),
        ("SHARED_EVENTS", ("stockd", "stock-client")),
        ("CLIENT_EVENTS", ("stock-client",)),
    ):
        rows = _table(text, table)
        assert rows, table
        for identifier, name, identity, fields in rows:
            ids = {program: identity for program in programs}
            if len(programs) > 1:
                ids["stock-client"] = client_ids[identifier]
            words = fields.split()
            events[name] = Event(
                identifier,
                name,
                ids,
                frozenset(word for word in words if not word.endswith("?")),
                frozenset(word.rstrip("?") for word in words),
            )
    return events


def build_stand_in(folder):
    library = folder / "journal.so"
    source = SOURCE / "tests" / "system" / "harness" / "journal.c"
    subprocess.run(
        ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)],
        check=True,
        timeout=60,
    )
    return library


class Journal:
    """What one program, or several, sent to the journal."""

    def __init__(self, library, path):
        self._library = library
        self.path = path
        path.touch()

    def environment(self, standard_error):
        """For a program whose standard error will be that file, which is made here."""
        standard_error.touch()
        status = os.stat(standard_error)
        return {
            "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
            "LD_PRELOAD": str(self._library),
            "STAND_IN_JOURNAL": str(self.path),
            # The sanitizers' library does not come first now.
            "ASAN_OPTIONS": clean_environment()["ASAN_OPTIONS"] + ":verify_asan_link_order=0",
        }

    def messages(self, **fields):
        """The messages so far, as dictionaries; those with these fields."""
        data = self.path.read_bytes()
        # What is behind the last whole message is being written: a read may see half of a write.
        found, message, at = [], {}, 0
        while at + SIZE.size <= len(data):
            (size,) = SIZE.unpack_from(data, at)
            at += SIZE.size
            if size == END_OF_MESSAGE:
                found.append(message)
                message = {}
                continue
            if at + size > len(data):
                break
            name, _, value = data[at : at + size].decode().partition("=")
            assert name not in message, f"{name} is twice in {message}"
            message[name] = value
            at += size
        return [m for m in found if all(m.get(k) == v for k, v in fields.items())]

    def events(self):
        return {m["STOCKD_EVENT"] for m in self.messages() if "STOCKD_EVENT" in m}

    def wait(self, event, timeout=20, **fields):
        """Waits for the first message of that event with these fields."""
        return wait_until(
            lambda: self.messages(STOCKD_EVENT=event, **fields),
            timeout,
            f"{event} {fields} in the journal, which has {sorted(self.events())}",
        )[0]


def check_messages(journal, program, events):
    """Each message keeps what the table promises."""
    messages = journal.messages()
    assert messages
    for message in messages:
        assert message["SYSLOG_IDENTIFIER"] == program, message
        name = message.get("STOCKD_EVENT")
        if name is None:
            assert int(message["PRIORITY"]) > INFO, f"no event: {message}"
            continue
        event = events[name]
        assert message["MESSAGE_ID"] == event.ids[program], message
        sent = {field for field in message if field.startswith("STOCKD_")} - {"STOCKD_EVENT"}
        assert event.required <= sent, f"{event.required - sent} missing: {message}"
        assert sent <= event.fields, f"{sent - event.fields} not promised: {message}"
        for field in sent:
            if field in FIGURES or field.endswith(UNITS):
                assert re.fullmatch(r"0|[1-9]\d*", message[field]), f"{field}: {message}"
