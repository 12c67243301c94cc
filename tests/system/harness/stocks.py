"""The messages of stockservice.proto, and what must be true of every update and of a stream."""

import datetime
import functools
import importlib.util
import re
import subprocess
import sys
import tempfile

from harness.process import SOURCE

GET_UPDATES = "/stockservice.StockService/GetUpdates"
TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z)$")


@functools.lru_cache(maxsize=None)
def pb2():
    """The generated module, made by protoc once a session in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="stock-pb2-") as folder:
        subprocess.run(
            [
                "protoc",
                f"--proto_path={SOURCE / 'proto'}",
                f"--python_out={folder}",
                "stockservice.proto",
            ],
            check=True,
        )
        spec = importlib.util.spec_from_file_location(
            "stockservice_pb2", f"{folder}/stockservice_pb2.py"
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["stockservice_pb2"] = module
        spec.loader.exec_module(module)
    return module


class Chain:
    """
    Checks the updates of one stream, in order: each field's invariant, and that every price is
    exactly the one before plus its change, from the start price on. So a lost, repeated or
    reordered update is seen.
    """

    def __init__(self, start=150.0, ticker="AAPL"):
        self.start = start
        self.price = start
        self.ticker = ticker
        self.count = 0

    def check(self, update):
        before = self.price
        assert update.ticker == self.ticker, update
        assert update.price == before + update.change, (
            f"a hole after {self.count} updates: {before!r} + {update.change!r} != "
            f"{update.price!r}"
        )
        assert update.price > 0, update
        assert -2.5 <= update.change <= 2.5, update
        assert abs(update.changePercent - update.change / before * 100) <= 1e-9 * (
            1 + abs(update.changePercent)
        ), update
        assert 0 <= update.volume < 10000, update
        assert update.openPrice == self.start, update
        assert update.price <= update.highPrice <= update.price + 2, update
        assert update.price - 2 <= update.lowPrice <= update.price, update
        assert 0 <= update.marketCap < update.price * 1e6, update
        shares = round(update.marketCap / update.price)
        assert any(
            int(update.price * near) == update.marketCap
            for near in range(max(shares - 1, 0), shares + 3)
        ), f"marketCap is no whole number of shares: {update}"
        assert TIMESTAMP.match(update.timestamp), update
        self.price = update.price
        self.count += 1

    def check_bytes(self, bodies):
        """The same for encoded messages (without their prefix)."""
        for body in bodies:
            self.check(pb2().StockUpdate.FromString(bytes(body)))
        return self.count


def timestamp_age(update):
    """Seconds since the update's timestamp, by the clock of this machine."""
    text = update.timestamp.replace("Z", "+00:00")
    return (
        datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(text)
    ).total_seconds()
