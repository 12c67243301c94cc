#!/usr/bin/python3
"""
Clients for a stockd in a box: a program, since it has to run in the box's network.

    load.py streams PORT COUNT [--again] [--tls CA]
        keeps COUNT calls of GetUpdates open with grpcio, each on a connection of its own. With
        --again a call that has ended is made anew, at once, on a new connection.
    load.py attempts PORT
        connects again and again, says hello in HTTP/2 and waits until the server says hello, too.

Both write {"event": "begun"} when all calls have had their first update (or the first attempt was
answered). For every line that they read they write a report; at the end of input they end. Reports
are JSON, one a line.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ.pop("http_proxy", None)
os.environ.pop("https_proxy", None)
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

import grpc

from harness.stocks import GET_UPDATES, Chain, pb2

OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]

# A client's first bytes (RFC 9113, 3.4), with an empty SETTINGS frame.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
SETTINGS_TYPE = 4


def say(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Stream(threading.Thread):
    """One call after the other, each of which has its prices checked."""

    def __init__(self, load, number):
        super().__init__(daemon=True)
        self.load = load
        self.number = number
        self.received = 0
        self.open = False
        self.call = None

    def run(self):
        while True:
            end = self.one_call()
            with self.load.lock:
                self.open = False
                if self.load.stopping:
                    return
                self.load.ends[end] += 1
                if not self.load.again:
                    return
            if "refused" in end:
                time.sleep(0.05)

    def one_call(self):
        """Returns why the call ended."""
        chain = Chain()
        with self.load.channel() as channel:
            method = channel.unary_stream(
                GET_UPDATES,
                request_serializer=pb2().EmptyRequest.SerializeToString,
                response_deserializer=pb2().StockUpdate.FromString,
            )
            self.call = method(pb2().EmptyRequest())
            try:
                for update in self.call:
                    chain.check(update)
                    with self.load.lock:
                        self.open = True
                        self.received += 1
                        self.load.begun()
                return "OK"
            except AssertionError as fault:
                with self.load.lock:
                    self.load.faults.append(str(fault))
                return "fault"
            except grpc.RpcError as error:
                return f"{error.code().name}: {error.details()}"


class Load:
    def __init__(self, arguments):
        self.lock = threading.RLock()
        self.again = arguments.again
        self.port = arguments.port
        self.credentials = None
        if arguments.tls:
            self.credentials = grpc.ssl_channel_credentials(Path(arguments.tls).read_bytes())
        self.ends = Counter()
        self.faults = []
        self.stopping = False
        self.has_begun = False
        pb2()  # made once, before there are threads
        self.streams = [Stream(self, number) for number in range(arguments.count)]

    def channel(self):
        if self.credentials:
            return grpc.secure_channel(f"localhost:{self.port}", self.credentials, OPTIONS)
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", OPTIONS)

    def begun(self):
        if not self.has_begun and all(stream.received for stream in self.streams):
            self.has_begun = True
            say("begun")

    def report(self):
        with self.lock:
            say(
                "report",
                received=[stream.received for stream in self.streams],
                open=sum(stream.open for stream in self.streams),
                ends=dict(self.ends),
                faults=self.faults,
            )

    def run(self):
        for stream in self.streams:
            stream.start()
        for _ in sys.stdin:
            self.report()
        with self.lock:
            self.stopping = True
        self.report()
        os._exit(0)  # grpcio's threads have no other end


class Attempts:
    """Counts what comes of connecting."""

    def __init__(self, arguments):
        self.port = arguments.port
        self.lock = threading.Lock()
        self.results = Counter()
        self.slowest_s = 0.0
        self.stopping = False
        self.has_begun = False

    def attempt(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as peer:
                try:
                    peer.sendall(HELLO)
                    head = b""
                    while len(head) < 9:
                        more = peer.recv(9 - len(head))
                        if not more:
                            return "closed without an answer"
                        head += more
                except OSError as error:
                    return f"connected, then {type(error).__name__}"
            return "answered" if head[3] == SETTINGS_TYPE else f"a frame of type {head[3]}"
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return f"not connected: {type(error).__name__}"

    def loop(self):
        while not self.stopping:
            start = time.monotonic()
            result = self.attempt()
            with self.lock:
                self.results[result] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - start)
                if result == "answered" and not self.has_begun:
                    self.has_begun = True
                    say("begun")
            time.sleep(0.002)

    def report(self):
        with self.lock:
            say("report", results=dict(self.results), slowest_s=self.slowest_s)

    def run(self):
        threads = [threading.Thread(target=self.loop) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in sys.stdin:
            self.report()
        self.stopping = True
        for thread in threads:
            thread.join()
        self.report()


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="what", required=True)
    streams = commands.add_parser("streams")
    streams.add_argument("port", type=int)
    streams.add_argument("count", type=int)
    streams.add_argument("--again", action="store_true")
    streams.add_argument("--tls", help="the authority of the server's certificate")
    attempts = commands.add_parser("attempts")
    attempts.add_argument("port", type=int)
    arguments = parser.parse_args()
    {"streams": Load, "attempts": Attempts}[arguments.what](arguments).run()


if __name__ == "__main__":
    main()
