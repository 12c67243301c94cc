"""A GetUpdates server on grpcio, to have stock-client talk to a server that we did not write."""

import datetime
import random
import time
from concurrent import futures

import grpc

from harness.stocks import pb2


class Call:
    """What the server knows of one call."""

    def __init__(self, context):
        self.context = context
        self.sent = 0  # updates handed to gRPC
        self.over = False


class ReferenceServer:
    """
    Every call gets a random walk. `interval` seconds lie between two updates; 0: as fast as gRPC
    takes them, which is as fast as the client's flow control lets it. `plan` may be set to a
    function (call, context) -> None that is called before each update and may abort the call.
    With `credentials` (grpc.ssl_server_credentials) it speaks TLS; `path` makes it listen on a Unix
    socket instead of a port.
    """

    def __init__(
        self, interval=0.0, seed=1, plan=None, port=0, workers=32, credentials=None, path=None
    ):
        self.interval = interval
        self.plan = plan
        self.calls = []
        self._random = random.Random(seed)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(workers), options=[("grpc.so_reuseport", 0)]
        )
        handler = grpc.unary_stream_rpc_method_handler(
            self._get_updates,
            request_deserializer=pb2().EmptyRequest.FromString,
            response_serializer=pb2().StockUpdate.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "stockservice.StockService", {"GetUpdates": handler}
                )
            ]
        )
        address = f"unix:{path}" if path else f"127.0.0.1:{port}"
        if credentials:
            self.port = self._server.add_secure_port(address, credentials)
        else:
            self.port = self._server.add_insecure_port(address)
        assert self.port, f"{address} is taken"
        self._server.start()

    def _get_updates(self, _request, context):
        call = Call(context)
        self.calls.append(call)
        context.add_callback(lambda: setattr(call, "over", True))
        walk = random.Random(self._random.random())
        price = start = 150.0
        while context.is_active():
            if self.plan:
                self.plan(call, context)
            before = price
            price = abs(before + walk.uniform(-2.5, 2.5)) or before
            change = price - before
            if before + change != price:
                price = before + change
            call.sent += 1
            yield pb2().StockUpdate(
                ticker="AAPL",
                price=price,
                change=change,
                changePercent=change / before * 100,
                volume=walk.randrange(10000),
                openPrice=start,
                highPrice=price + walk.random() * 2,
                lowPrice=price - walk.random() * 2,
                marketCap=int(price * walk.randrange(1000000)),
                timestamp=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            )
            if self.interval:
                time.sleep(self.interval)

    @property
    def sent(self):
        return sum(call.sent for call in self.calls)

    def stop(self):
        """Cuts every call off: clients see UNAVAILABLE or a lost connection."""
        self._server.stop(grace=0).wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
