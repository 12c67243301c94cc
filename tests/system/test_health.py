"""
grpc.health.v1 with clients that we did not write: grpcurl, buf curl, grpcio's health package, and
the health checking that is built into gRPC's own channels.
"""

import json
import signal

import grpc
import pytest

from harness.clients import CHANNEL_OPTIONS, get_updates
from harness.explorers import CallError, explorer  # noqa: F401 (a fixture)
from harness.h2 import RawH2, message, request_headers
from harness.stocks import Chain

HEALTH = "grpc.health.v1.Health"
SERVICES = [
    "market",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "stockservice.StockService",
]


@pytest.mark.parametrize("name", ["", *SERVICES])
def test_check(start_stockd, explorer, name):
    stockd = start_stockd()
    response = explorer.call(stockd.port, f"{HEALTH}/Check", {"service": name})
    assert response == {"status": "SERVING"}
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_handled_total", grpc_method="Check", grpc_code="OK") == 1


def test_check_of_an_unknown_service(start_stockd, explorer):
    stockd = start_stockd()
    with pytest.raises(CallError) as caught:
        explorer.call(stockd.port, f"{HEALTH}/Check", {"service": "never.Known"})
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.message == "unknown service"
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_handled_total", grpc_method="Check", grpc_code="NotFound") == 1


def test_list(start_stockd, explorer):
    stockd = start_stockd()
    response = explorer.call(stockd.port, f"{HEALTH}/List")
    assert response == {"statuses": {name: {"status": "SERVING"} for name in ["", *SERVICES]}}


@pytest.mark.parametrize(
    "name, state",
    [("", "SERVING"), ("stockservice.StockService", "SERVING"), ("never.Known", "SERVICE_UNKNOWN")],
)
def test_watch(start_stockd, explorer, name, state):
    """The state comes at once, once; then the call stays open until its client leaves."""
    stockd = start_stockd()
    with explorer.stream(stockd.port, f"{HEALTH}/Watch", {"service": name}) as watch:
        assert watch.wait_messages(1) == [{"status": state}]
        stockd.wait_metric("grpc_server_msg_sent_total", 1, grpc_method="Watch")
        # Other calls come and go meanwhile.
        for _ in range(3):
            assert explorer.call(stockd.port, f"{HEALTH}/Check") == {"status": "SERVING"}
        assert watch.running
        assert watch.messages == [{"status": state}]
        assert stockd.metric("grpc_server_handled_total", grpc_method="Watch") == 0
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_msg_sent_total", grpc_method="Watch") == 1
    assert metrics.sum("grpc_server_handled_total", grpc_method="Watch", grpc_code="Canceled") == 1


def test_a_watcher_is_told_before_it_is_sent_away(start_stockd):
    """NOT_SERVING stands before GOAWAY on the wire, for whoever stops reading there."""
    stockd = start_stockd(grpc={"drain_timeout": "1m"})
    with RawH2(stockd.port) as h2:
        watch = h2.ready().call(request_headers(f"/{HEALTH}/Watch"), message(b""))
        h2.wait(lambda: watch.data_bytes > 0, what="the first state")
        assert watch.take_bodies() == [b"\x08\x01"]
        told = []
        on_control = h2._control

        def look(*frame):
            on_control(*frame)
            if h2.goaway and not told:
                told.extend(watch.take_bodies() or ["nothing"])

        h2._control = look
        stockd.send_signal(signal.SIGTERM)
        h2.wait(lambda: told, what="GOAWAY")
        assert told == [b"\x08\x02"]


def checked_channel(port, name):
    """A channel that sends calls only where Watch says that this service is served."""
    config = {"healthCheckConfig": {"serviceName": name}}
    config["loadBalancingConfig"] = [{"round_robin": {}}]
    options = [*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config))]
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=options)


def test_a_channel_that_checks_health(start_stockd):
    stockd = start_stockd(stream={"interval": "1ms"})
    with checked_channel(stockd.port, "stockservice.StockService") as channel:
        chain = Chain()
        call = get_updates(channel, timeout=30)
        for update in call:
            chain.check(update)
            if chain.count == 10:
                break
        call.cancel()
        assert stockd.metric("grpc_server_started_total", grpc_method="Watch") == 1
        assert stockd.metric("grpc_server_msg_sent_total", grpc_method="Watch") == 1
        assert stockd.metric("grpc_server_handled_total", grpc_method="Watch") == 0


def test_a_channel_that_checks_an_unknown_service(start_stockd):
    """It sends no call to a server that does not know what it wants."""
    stockd = start_stockd()
    with checked_channel(stockd.port, "never.Known") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            next(get_updates(channel, timeout=20))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert stockd.metric("grpc_server_msg_sent_total", grpc_method="Watch") == 1
        assert stockd.metric("grpc_server_started_total", grpc_method="GetUpdates") == 0
