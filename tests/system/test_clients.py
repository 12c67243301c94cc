"""
stockd with three gRPC clients that we did not write: grpcio, @grpc/grpc-js and grpc++. Each checks
every field of every update and the price chain; see harness/clients.py.
"""

import threading
import time

import grpc
import pytest

from harness.clients import get_updates, open_channel
from harness.stocks import Chain, timestamp_age

CANCELLED, DEADLINE_EXCEEDED, UNIMPLEMENTED, UNAVAILABLE = 1, 4, 12, 14


def assert_sound(results, code):
    for result in results:
        assert result.fault is None
        assert result.code == code, result


@pytest.mark.parametrize("interval, count, streams", [("0", 4000, 3), ("1ms", 1500, 3)])
def test_thousands_of_updates_without_a_hole(start_stockd, client, interval, count, streams):
    stockd = start_stockd(stream={"interval": interval})
    results = client.run(stockd.port, "updates", count, streams)
    assert len(results) == streams
    assert_sound(results, CANCELLED)
    assert [result.received >= count for result in results] == [True] * streams
    # What the clients saw is not more than what stockd says that it sent.
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stock_updates_sent_total") >= count * streams
    assert metrics.sum("grpc_server_handled_total", grpc_code="Canceled") == streams


def test_paced_stream_keeps_its_pace(start_stockd, client):
    """Never faster than the interval; how much slower depends on the machine."""
    stockd = start_stockd(stream={"interval": "20ms"})
    began = time.monotonic()
    (result,) = client.run(stockd.port, "updates", 50, 1)
    took = time.monotonic() - began
    assert_sound([result], CANCELLED)
    assert took >= 49 * 0.020 * 0.9


def test_deadline_exceeded(start_stockd, client):
    stockd = start_stockd(stream={"interval": "5ms"})
    (result,) = client.run(stockd.port, "deadline", 600)
    assert_sound([result], DEADLINE_EXCEEDED)
    assert result.received > 0
    metrics = stockd.wait_at_rest()
    # The client and the server race for who says it first.
    codes = metrics.by("grpc_server_handled_total", "grpc_code", grpc_method="GetUpdates")
    assert codes["DeadlineExceeded"] + codes["Canceled"] == 1


def test_unknown_method_and_service(start_stockd, client):
    stockd = start_stockd()
    results = client.run(stockd.port, "unknown")
    assert [result.code for result in results] == [UNIMPLEMENTED, UNIMPLEMENTED]
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_handled_total", grpc_code="Unimplemented") == 2


def test_streams_of_one_connection_share_it(start_stockd, client):
    """The exact shares are tested with a raw client; here, that no stream of a real one starves."""
    stockd = start_stockd(stream={"interval": "0"})
    # grpc++ reads each stream in a thread of its own, and which of them runs when is not ours to
    # say: it needs more updates, and more tolerance, until chance evens out.
    total, part = (300_000, 20) if client.name == "grpc++" else (30_000, 2)
    results = client.run(stockd.port, "fair", total, 6)
    assert_sound(results, CANCELLED)
    received = [result.received for result in results]
    assert sum(received) >= total
    assert min(received) >= total / 6 / part, received


def test_shutdown_ends_every_call_with_unavailable(start_stockd, client):
    stockd = start_stockd(stream={"interval": "5ms"})
    results = client.run(stockd.port, "end", 5, begun=stockd.stop)
    assert_sound(results, UNAVAILABLE)
    assert all(result.received >= 1 for result in results)


def test_cancel_frees_the_call(start_stockd):
    stockd = start_stockd(stream={"interval": "1ms"})
    with open_channel(stockd.port) as channel:
        call = get_updates(channel)
        chain = Chain()
        for update in call:
            chain.check(update)
            if chain.count == 20:
                break
        stockd.wait_metric("stockd_streams", 1)
        call.cancel()
        stockd.wait_metric("stockd_streams", 0)
        assert stockd.metric("stockd_connections") == 1
        assert stockd.metric("grpc_server_handled_total", grpc_code="Canceled") == 1
        with pytest.raises(grpc.RpcError):
            next(call)


def test_many_calls_one_after_the_other(start_stockd):
    """Each call's walk is its own and starts at the start price."""
    stockd = start_stockd(stream={"interval": "0"})
    with open_channel(stockd.port) as channel:
        for _ in range(50):
            call = get_updates(channel)
            chain = Chain()
            for update in call:
                chain.check(update)
                if chain.count == 10:
                    break
            call.cancel()
    assert stockd.wait_at_rest().sum("grpc_server_started_total") == 50


def test_many_clients_at_once(start_stockd):
    stockd = start_stockd(stream={"interval": "10ms"})
    faults = []

    def one():
        try:
            with open_channel(stockd.port) as channel:
                chain = Chain()
                for update in get_updates(channel, timeout=60):
                    chain.check(update)
                    if chain.count == 30:
                        return
        except Exception as error:  # of another thread: kept for the test's own
            faults.append(error)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not faults
    assert not any(thread.is_alive() for thread in threads)
    assert stockd.wait_at_rest().sum("grpc_server_started_total") == 20


def test_the_timestamp_is_now(start_stockd):
    stockd = start_stockd(stream={"interval": "20ms"})
    with open_channel(stockd.port) as channel:
        stamps = []
        for update in get_updates(channel):
            stamps.append(update.timestamp)
            assert -1 <= timestamp_age(update) <= 5
            if len(set(stamps)) == 3:
                break
    assert stamps == sorted(stamps)


def test_ticker_and_start_price_are_settings(start_stockd):
    stockd = start_stockd(stream={"interval": "0", "ticker": "TEST", "start_price": "12.5"})
    with open_channel(stockd.port) as channel:
        chain = Chain(start=12.5, ticker="TEST")
        for update in get_updates(channel):
            chain.check(update)
            if chain.count == 3000:
                break


def test_a_price_near_zero_stays_above_it(start_stockd):
    """The walk is reflected at 0; in 5,000 steps from 1.0 that happens often."""
    stockd = start_stockd(stream={"interval": "0", "start_price": "1.0", "seed": "7"})
    with open_channel(stockd.port) as channel:
        chain = Chain(start=1.0)
        lowest = 1.0
        for update in get_updates(channel):
            chain.check(update)
            lowest = min(lowest, update.price)
            if chain.count == 5000:
                break
    assert 0 < lowest < 1


@pytest.mark.parametrize("compress_updates", ["no", "yes"])
def test_gzip_from_a_client_is_understood(start_stockd, compress_updates):
    """A client that compresses its request is served, whether the answers are compressed or not."""
    stockd = start_stockd(stream={"interval": "0"}, grpc={"compress_updates": compress_updates})
    chain = Chain()
    with grpc.insecure_channel(
        f"127.0.0.1:{stockd.port}",
        options=[("grpc.use_local_subchannel_pool", 1)],
        compression=grpc.Compression.Gzip,
    ) as channel:
        call = get_updates(channel, timeout=20)
        for update in call:
            chain.check(update)
            if chain.count == 1000:
                break
        call.cancel()
