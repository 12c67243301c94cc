"""
Reflection with clients that we did not write, and that know nothing else of stockd: grpcurl, buf
curl and grpcio's reflection package.
"""

import subprocess

import pytest
from google.protobuf import descriptor_pb2, json_format

from harness.explorers import ClientError, explorer, get_explorer  # noqa: F401 (a fixture)
from harness.process import SOURCE
from harness.stocks import Chain, pb2

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
METHODS = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
    f"{V1}/ServerReflectionInfo",
    f"{V1ALPHA}/ServerReflectionInfo",
    "stockservice.StockService/GetSnapshot",
    "stockservice.StockService/GetUpdates",
    "stockservice.StockService/ListTickers",
    "stockservice.StockService/Subscribe",
]
SERVICES = sorted({method.partition("/")[0] for method in METHODS})


def test_services(start_stockd, explorer):
    stockd = start_stockd()
    for version in explorer.versions:
        assert sorted(explorer.services(stockd.port, version)) == SERVICES
    # All of these clients close their half and wait for our OK, or cancel when they have enough.
    metrics = stockd.wait_at_rest()
    ended = metrics.by("grpc_server_handled_total", "grpc_code", grpc_method="ServerReflectionInfo")
    assert sum(ended.values()) == ended["OK"] + ended["Canceled"] >= len(explorer.versions)


@pytest.mark.parametrize("version, service", [("grpc-v1", V1), ("grpc-v1alpha", V1ALPHA)])
def test_each_version_is_served(start_stockd, build, version, service):
    stockd = start_stockd()
    get_explorer("buf", build).services(stockd.port, version)
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_started_total", grpc_service=service) >= 1
    assert metrics.sum("grpc_server_started_total") == metrics.sum(
        "grpc_server_started_total", grpc_service=service
    )


def test_methods(start_stockd, explorer):
    """What a client makes of the files: all of them were found and could be read."""
    stockd = start_stockd()
    assert sorted(explorer.methods(stockd.port)) == METHODS


def test_updates_by_what_reflection_says(start_stockd, explorer):
    """A client that has never seen stockservice.proto gets every field of every update."""
    stockd = start_stockd(stream={"interval": "5ms"})
    method = "stockservice.StockService/GetUpdates"
    with explorer.stream(stockd.port, method) as updates:
        messages = updates.wait_messages(50)
    chain = Chain()
    for message in messages:
        # JSON has the shortest text that stands for exactly the same double.
        chain.check(json_format.ParseDict(message, pb2().StockUpdate()))
    assert chain.count >= 50
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_handled_total", grpc_method="GetUpdates", grpc_code="Canceled")


def test_unknown_method(start_stockd, explorer):
    """The client sees from reflection that there is none, and does not call."""
    stockd = start_stockd()
    with pytest.raises(ClientError):
        explorer.call(stockd.port, "stockservice.StockService/Nothing")
    metrics = stockd.wait_at_rest()
    assert metrics.sum("grpc_server_started_total", grpc_service="other") == 0
    assert metrics.sum("grpc_server_started_total", grpc_method="ServerReflectionInfo") >= 1


def compiled_files():
    """All .proto files as protoc, not the build, compiles them: name to FileDescriptorProto."""
    folder = SOURCE / "proto"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    done = subprocess.run(
        ["protoc", f"--proto_path={folder}", "--descriptor_set_out=/dev/stdout", *names],
        capture_output=True,
        check=True,
    )
    files = descriptor_pb2.FileDescriptorSet.FromString(done.stdout)
    return {file.name: file for file in files.file}


def test_files_are_those_of_the_source(start_stockd, build):
    """Every service that is listed is in a file of proto/, and comes over as that says."""
    stockd = start_stockd()
    client = get_explorer("grpcio", build)
    compiled = compiled_files()
    received = {}
    for service in client.services(stockd.port):
        file = descriptor_pb2.FileDescriptorProto.FromString(client.file(stockd.port, service))
        assert file.HasField("source_code_info")
        file.ClearField("source_code_info")
        received[file.name] = file
    assert received == compiled


def test_descriptions_have_their_comments(start_stockd, build):
    """grpcurl describes a field with what stands above it in the .proto file."""
    stockd = start_stockd()
    client = get_explorer("grpcurl", build)
    text = client.describe(stockd.port, "stockservice.StockService")
    assert "rpc GetUpdates ( .stockservice.EmptyRequest ) returns ( stream" in text
    assert "// Streams of stock prices." in text
    text = client.describe(stockd.port, "stockservice.StockUpdate.marketCap")
    assert "int64 marketCap = 9;" in text
    assert "// Market capitalisation" in text
    text = client.describe(stockd.port, "grpc.health.v1.HealthCheckResponse.ServingStatus")
    assert "NOT_SERVING = 2;" in text
