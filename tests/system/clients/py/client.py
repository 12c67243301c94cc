"""
Calls stockd with grpcio and its own packages for health and reflection, for the system tests. It
runs in an environment of its own, since Debian's protobuf is too old for these packages.

    client.py PORT services              names
    client.py PORT methods               "service/method" of all services
    client.py PORT file SYMBOL           the file that declares it, in base64
    client.py PORT call METHOD REQUEST   responses; the request as JSON

Messages are made from what reflection says, but for those of grpc.health.v1, which has a package of
its own. Every line that is printed is JSON; a call's error is {"code": "NOT_FOUND", ...}.
"""

import base64
import json
import sys

import grpc
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def show(value):
    print(json.dumps(value), flush=True)


def show_methods(database, pool):
    for service in database.get_services():
        for method in pool.FindServiceByName(service).methods:
            show(f"{service}/{method.name}")


def show_file(database, symbol):
    file = database.FindFileContainingSymbol(symbol)
    assert isinstance(file, descriptor_pb2.FileDescriptorProto)
    show(base64.b64encode(file.SerializeToString()).decode())


def health_call(channel, name, request):
    stub = health_pb2_grpc.HealthStub(channel)
    kind = health_pb2.HealthListRequest if name == "List" else health_pb2.HealthCheckRequest
    responses = getattr(stub, name)(json_format.ParseDict(request, kind()))
    return responses if name == "Watch" else [responses]


def reflected_call(channel, pool, service, name, request):
    method = pool.FindServiceByName(service).FindMethodByName(name)
    if method is None:
        sys.exit(f"no such method: {service}/{name}")
    inputs, outputs = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    path, serialize, parse = f"/{service}/{name}", inputs.SerializeToString, outputs.FromString
    message = json_format.ParseDict(request, inputs())
    if method.server_streaming:
        return channel.unary_stream(path, serialize, parse)(message)
    return [channel.unary_unary(path, serialize, parse)(message)]


def call(channel, pool, method, request):
    service, _, name = method.partition("/")
    try:
        if service == "grpc.health.v1.Health":
            responses = health_call(channel, name, request)
        else:
            responses = reflected_call(channel, pool, service, name, request)
        for response in responses:
            show(json_format.MessageToDict(response))
    except grpc.RpcError as error:
        show({"code": error.code().name, "message": error.details()})
        sys.exit(1)


def main(port, command, *arguments):
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        if command == "services":
            for name in database.get_services():
                show(name)
        elif command == "methods":
            show_methods(database, pool)
        elif command == "file":
            show_file(database, *arguments)
        elif command == "call":
            method, request = arguments
            call(channel, pool, method, json.loads(request))
        else:
            sys.exit(f"no such command: {command}")


if __name__ == "__main__":
    main(*sys.argv[1:])
