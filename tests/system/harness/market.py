"""
A stockd whose market the test makes itself, update by update, through a FIFO; and subscribers, with
grpcio and by hand.
"""

import errno
import json
import os
import time

import grpc

from harness.h2 import INITIAL_WINDOW_SIZE, RawH2, message, request_headers
from harness.stocks import pb2
from harness.wait import wait_until

SERVICE = "stockservice.StockService"
SUBSCRIBE = f"/{SERVICE}/Subscribe"

# The position before the first update, whose sequence number is the next.
START = 1

# An update of a ticker of some letters, with its prefix.
EVENT_BYTES_MAX = 250


class Publisher:
    """The writer of a FIFO that a stockd reads as its market's feed."""

    def __init__(self, path):
        self.path = path
        self.count = 0
        self._file = None

    def open(self, timeout=20):
        """Waits until somebody reads it."""

        def attempt():
            try:
                return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return None

        descriptor = wait_until(attempt, timeout, f"a reader of {self.path}")
        os.set_blocking(descriptor, True)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        return self

    def write(self, text):
        self._file.write(text.encode())

    def publish(self, *quotes):
        """Each a pair of ticker and price."""
        lines = "".join(
            json.dumps({"ticker": ticker, "price": price, "volume": 7}) + "\n"
            for ticker, price in quotes
        )
        self.count += len(quotes)
        self._file.write(lines.encode())

    def publish_many(self, tickers, count, price=100.0):
        """`count` updates of these tickers in turns, each a cent dearer than the one before."""
        quotes = [
            (tickers[i % len(tickers)], round(price + i / 100, 2)) for i in range(count)
        ]
        for first in range(0, count, 500):
            self.publish(*quotes[first : first + 500])
        return quotes

    def close(self):
        if self._file:
            self._file.close()
            self._file = None


class Market:
    """A stockd and the publisher of its market."""

    def __init__(self, start_stockd, folder, tickers="AAPL, MSFT, NVDA", market=None, **sections):
        self.path = folder / "feed"
        os.mkfifo(self.path)
        settings = {"feed": "pipe", "pipe": self.path, "tickers": tickers, "stale_after": 0}
        settings.update(market or {})
        self._start = lambda: start_stockd(market=settings, **sections)
        self.publisher = Publisher(self.path)
        self.stockd = None
        self.start()

    def start(self):
        """Again, after it was stopped: another epoch, and no history."""
        self.stockd = self._start()
        self.publisher.count = 0
        self.publisher.open()

    def restart(self):
        self.publisher.close()
        self.stockd.stop()
        self.start()

    def settle(self):
        """Waits until the market has what was published."""
        self.stockd.wait_metric("stockd_market_sequence", START + self.publisher.count)

    def publish(self, *quotes):
        self.publisher.publish(*quotes)
        self.settle()

    def publish_many(self, tickers, count, price=100.0):
        quotes = self.publisher.publish_many(tickers, count, price)
        self.settle()
        return quotes

    @property
    def port(self):
        return self.stockd.port


def request(**fields):
    return pb2().SubscribeRequest(**fields)


def subscribe(channel, timeout=20, **fields):
    """An iterator of events with the methods of grpc.Call."""
    method = channel.unary_stream(
        SUBSCRIBE,
        request_serializer=pb2().SubscribeRequest.SerializeToString,
        response_deserializer=pb2().MarketEvent.FromString,
    )
    return method(request(**fields), timeout=timeout)


def ask(channel, name, fields=None, timeout=60):
    """ListTickers or GetSnapshot."""
    method = channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda value: value.SerializeToString(),
        response_deserializer=getattr(pb2(), f"{name}Response").FromString,
    )
    return method(getattr(pb2(), f"{name}Request")(**(fields or {})), timeout=timeout)


def take(call, count):
    """The next events of a call."""
    return [next(call) for _ in range(count)]


def fails(call):
    """The status and text that a call ends with, and the events before."""
    events = []
    try:
        for event in call:
            events.append(event)
    except grpc.RpcError as error:
        return error.code(), error.details(), events
    raise AssertionError(f"the call ended well after {len(events)} events")


class Reader:
    """A subscriber that gives credit when the test says so."""

    def __init__(self, port, window=2000, receive_buffer=None, h2=None, **fields):
        self.h2 = h2 or RawH2(
            port, settings={INITIAL_WINDOW_SIZE: window}, receive_buffer=receive_buffer
        )
        if not h2:
            self.h2.ready()
            self.h2.open_connection_window()
        self.stream = self.h2.call(
            request_headers(SUBSCRIBE), message(request(**fields).SerializeToString())
        )
        self.events = []
        # The call has begun before anything that the test does next.
        self.h2.ping()

    def read(self):
        """What has come; the list of all events so far."""
        self.events += [
            pb2().MarketEvent.FromString(body) for body in self.stream.take_bodies()
        ]
        return self.events

    def wait(self, condition, what, timeout=20):
        """Until condition(events) is true."""
        self.h2.wait(lambda: condition(self.read()), timeout, what)
        return self.events

    def give(self, size):
        self.stream.give(size)

    def drain(self, until, timeout=20):
        """Gives credit for whatever comes, and some to begin with, until until(events)."""
        given = self.stream.data_bytes
        self.give(20000)
        given += 20000

        def enough():
            nonlocal given
            if given - self.stream.data_bytes < 10000:
                self.give(20000)
                given += 20000
            return until(self.read())

        self.h2.wait(enough, timeout, "what was asked for")
        return self.events

    def wait_over(self, timeout=20):
        """Status and text."""
        self.h2.wait_over(self.stream, timeout)
        self.read()
        assert self.stream.trailers is not None, f"reset with {self.stream.rst}"
        return self.stream.status, self.stream.trailers.get("grpc-message")

    def close(self):
        self.h2.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def updates(events):
    return [event for event in events if event.WhichOneof("event") == "update"]


def numbers(events):
    """Which updates they are, or have come to: the first of the market is 1."""
    return [event.sequence - START for event in events]


def told(events):
    """Updates that came, and those that the events tell of."""
    return len(updates(events)) + sum(event.conflated + event.dropped for event in events)


def position(event, before=None):
    """Where to resume after this event, as MarketEvent says."""
    if event.snapshot:
        return before
    return pb2().Position(
        epoch=event.epoch, sequence=event.resume_sequence or event.sequence
    )


def now_ns():
    return time.time_ns()
