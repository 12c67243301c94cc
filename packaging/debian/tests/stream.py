"""
Reads a stream of updates with gRPC's own library, and checks that each follows from the one before:

    stream.py HOST:PORT COUNT

stockservice_pb2 is what protoc makes of proto/stockservice.proto.
"""

import math
import sys

import grpc
import stockservice_pb2

target, count = sys.argv[1], int(sys.argv[2])
with grpc.insecure_channel(target) as channel:
    method = channel.unary_stream(
        "/stockservice.StockService/GetUpdates",
        request_serializer=stockservice_pb2.EmptyRequest.SerializeToString,
        response_deserializer=stockservice_pb2.StockUpdate.FromString,
    )
    before = None
    received = 0
    # It is restarted just before, and has a moment to be there.
    call = method(stockservice_pb2.EmptyRequest(), timeout=60, wait_for_ready=True)
    for update in call:
        price = update.openPrice if before is None else before
        if not math.isclose(update.price, price + update.change, abs_tol=1e-9):
            sys.exit(f"the price was {price}, its change {update.change}, and now {update.price}")
        before = update.price
        received += 1
        if received == count:
            call.cancel()
            break
if received < count:
    sys.exit(f"the stream ended after {received} updates")
print(f"{received} updates, the last at {before:.2f}")
