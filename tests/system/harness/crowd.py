"""
A thousand connections with ten calls each, in one thread and without a library: frames are made
once and sent with other stream numbers, and most of what comes back is only counted.
"""

import random
import select
import socket
import struct
import time

import hpack

from harness.h2 import (
    ACK,
    CANCEL,
    DATA,
    EMPTY_REQUEST,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_INITIAL,
    WINDOW_MAX,
    WINDOW_UPDATE,
    frame,
    request_headers,
    settings_frame,
)
from harness.stocks import Chain

FAST, SLOW_WINDOW, SLOW_SOCKET = "fast", "slow window", "slow socket"

# A window for two updates and a part of a third.
SMALL_WINDOW = 250


def literal_block(headers):
    """A header block that needs no table: the same bytes serve on every connection."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(headers)


REQUEST_BLOCK = literal_block(request_headers())


class Member:
    """One connection."""

    def __init__(self, port, kind, calls, checked):
        self.kind = kind
        self.calls = calls
        self.socket = socket.socket(socket.AF_INET)
        if kind == SLOW_SOCKET:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        self.next_stream = 1
        self.streams = []
        self.received = 0
        self.chains = {} if checked else None
        self.buffers = {}
        self.tail = bytearray()
        self.acknowledged = False
        window = SMALL_WINDOW if kind == SLOW_WINDOW else WINDOW_MAX
        hello = PREFACE + settings_frame({INITIAL_WINDOW_SIZE: window})
        hello += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - WINDOW_INITIAL))
        self.socket.sendall(hello + self.open(calls))
        if kind == SLOW_SOCKET:
            self.acknowledge()
        self.socket.setblocking(False)

    def open(self, count):
        """The frames of new calls."""
        frames = b""
        for _ in range(count):
            frames += frame(HEADERS, END_HEADERS, self.next_stream, REQUEST_BLOCK)
            frames += frame(DATA, END_STREAM, self.next_stream, EMPTY_REQUEST)
            self.streams.append(self.next_stream)
            if self.chains is not None:
                self.chains[self.next_stream] = Chain()
                self.buffers[self.next_stream] = bytearray()
            self.next_stream += 2
        return frames

    def acknowledge(self):
        """Acknowledges the server's SETTINGS; it must have come."""
        while not self.acknowledged:
            self.socket.recv(9, socket.MSG_PEEK)
            self.acknowledged = True
            self.socket.send(frame(SETTINGS, ACK))

    def send(self, data):
        """Small frames; the server always reads, so that they find room."""
        self.socket.setblocking(True)
        self.socket.settimeout(20)
        self.socket.sendall(data)
        self.socket.setblocking(False)

    def read(self, buffer):
        """Takes what is there. False at the end of the connection."""
        try:
            size = self.socket.recv_into(buffer)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if size == 0:
            return False
        if not self.acknowledged:
            self.acknowledged = True
            self.send(frame(SETTINGS, ACK))
        self.received += size
        if self.chains is not None:
            self.tail += memoryview(buffer)[:size]
            self.check()
        return True

    def check(self):
        tail = self.tail
        position = 0
        while len(tail) - position >= 9:
            size = int.from_bytes(tail[position : position + 3], "big")
            if len(tail) - position < 9 + size:
                break
            stream = int.from_bytes(tail[position + 5 : position + 9], "big")
            if tail[position + 3] == DATA and stream in self.chains:
                self.buffers[stream] += tail[position + 9 : position + 9 + size]
                self.check_messages(self.buffers[stream], self.chains[stream])
            position += 9 + size
        del tail[:position]

    @staticmethod
    def check_messages(data, chain):
        position = 0
        while len(data) - position >= 5:
            size = int.from_bytes(data[position + 1 : position + 5], "big")
            if len(data) - position < 5 + size:
                break
            chain.check_bytes([data[position + 5 : position + 5 + size]])
            position += 5 + size
        del data[:position]

    def renew(self):
        """Cancels all calls and opens as many new ones."""
        resets = b"".join(
            frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)) for stream in self.streams
        )
        for stream in self.streams:
            if self.chains is not None:
                del self.chains[stream], self.buffers[stream]
        self.streams.clear()
        self.send(resets + self.open(self.calls))

    def credit(self, size):
        self.send(
            b"".join(
                frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size)) for stream in self.streams
            )
        )

    def leave(self, how):
        if how == "goodbye":
            resets = b"".join(
                frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)) for stream in self.streams
            )
            self.send(resets + frame(GOAWAY, 0, 0, bytes(8)))
        elif how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Crowd:
    """All of them, with the shares of kinds given by `kinds`, a list to choose from in turn."""

    def __init__(self, port, size, calls, kinds, checked=20, seed=1):
        self.port = port
        self.calls = calls
        self.kinds = kinds
        self.random = random.Random(seed)
        self.epoll = select.epoll()
        self.members = {}
        self.buffer = bytearray(1 << 18)
        self.left = 0
        self.lost = []
        for number in range(size):
            kind = kinds[number % len(kinds)]
            self.join(kind, checked=kind == FAST and checked > 0)
            if kind == FAST:
                checked -= 1
            if number % 50 == 0:
                self.run(0)

    def join(self, kind, checked=False):
        member = Member(self.port, kind, self.calls, checked)
        self.members[member.socket.fileno()] = member
        if kind != SLOW_SOCKET:
            self.epoll.register(member.socket.fileno(), select.EPOLLIN)
        return member

    def leave(self, member, how):
        number = member.socket.fileno()
        if member.kind != SLOW_SOCKET:
            self.epoll.unregister(number)
        del self.members[number]
        member.leave(how)
        self.left += 1

    def run(self, seconds):
        """Reads for that long, or what is there."""
        until = time.monotonic() + seconds
        while True:
            for number, _ in self.epoll.poll(max(0, min(0.1, until - time.monotonic()))):
                member = self.members.get(number)
                if member and not member.read(self.buffer):
                    self.lost.append(member)
                    self.epoll.unregister(number)
                    del self.members[number]
                    member.socket.close()
            if time.monotonic() >= until:
                return

    def run_until(self, condition, timeout, what):
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, f"{what} did not come within {timeout} s"
            self.run(0.1)

    def churn(self, count):
        """Some leave in one way or another, and others come in their place; some renew calls."""
        for member in self.random.sample(list(self.members.values()), count):
            checked = member.chains is not None
            action = self.random.choice(["goodbye", "close", "reset", "renew", "credit"])
            if action == "renew":
                member.renew()
            elif action == "credit" and member.kind == SLOW_WINDOW:
                member.credit(120)
            else:
                self.leave(member, "close" if action == "credit" else action)
                self.join(member.kind, checked)

    def checked_chains(self):
        return [
            chain
            for member in self.members.values()
            if member.chains is not None
            for chain in member.chains.values()
        ]

    def close(self):
        for member in list(self.members.values()):
            self.leave(member, self.random.choice(["goodbye", "close", "reset"]))
        self.epoll.close()
