"""
gRPC clients that we did not write, behind one interface: grpcio in this process, @grpc/grpc-js and
grpc++ as programs in tests/system/clients. Each runs a scenario against a port and returns, for
every stream, how many updates it received, the status, and the first fault that it found in an
update (each checks each update's invariants and the price chain by itself):

    updates COUNT STREAMS   each stream reads COUNT updates and then cancels
    deadline MILLISECONDS   one stream reads until its deadline
    unknown                 an unknown method, then an unknown service
    fair TOTAL STREAMS      on one connection, until all have received TOTAL together, counted from
                            when each had its first update
    end STREAMS             reads until the server ends the calls; calls `begun` when all have begun
"""

import contextlib
import fcntl
import json
import shutil
import subprocess
import threading
from typing import NamedTuple, Optional

import grpc

from harness.process import SOURCE, clean_environment
from harness.stocks import GET_UPDATES, Chain, pb2

CLIENTS = SOURCE / "tests" / "system" / "clients"
SCENARIO_TIMEOUT_S = 100


class Result(NamedTuple):
    received: int
    code: int
    details: str
    fault: Optional[str] = None


def run_checked(argv, folder):
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=folder,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{argv} failed with {done.returncode}:\n{done.stdout[-6000:]}"


@contextlib.contextmanager
def alone_in(folder):
    """Of the processes that run tests side by side only one builds there at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class ProgramClient:
    """A client that is a program of its own; `argv` is how it is started."""

    def __init__(self, name, argv):
        self.name = name
        self.argv = [str(word) for word in argv]

    def run(self, port, scenario, *numbers, begun=None):
        process = subprocess.Popen(
            [*self.argv, str(port), scenario, *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        timer = threading.Timer(SCENARIO_TIMEOUT_S, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
            if line == "begun\n":
                if begun:
                    begun()
                line = process.stdout.readline()
            _, errors = process.communicate()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        assert process.returncode == 0 and line, f"{self.name}: {process.returncode}, {errors}"
        return [Result(**stream) for stream in json.loads(line)["streams"]]


class JsClient(ProgramClient):
    """@grpc/grpc-js, installed by `npm ci` from the lock file into the build folder."""

    def __init__(self, folder):
        source = CLIENTS / "js"
        lock = (source / "package-lock.json").read_bytes()
        installed = folder / "installed-lock.json"
        with alone_in(folder):
            for name in ("package.json", "package-lock.json", "client.js"):
                shutil.copyfile(source / name, folder / name)
            if not installed.exists() or installed.read_bytes() != lock:
                run_checked(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
                installed.write_bytes(lock)
        super().__init__(
            "grpc-js", ["node", folder / "client.js", SOURCE / "proto" / "stockservice.proto"]
        )


class CppClient(ProgramClient):
    """grpc++, built into the build folder."""

    def __init__(self, folder):
        with alone_in(folder):
            run_checked(["cmake", "-S", CLIENTS / "cpp", "-B", folder, "-G", "Ninja"], folder)
            run_checked(["cmake", "--build", folder], folder)
        super().__init__("grpc++", [folder / "client"])


CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def open_channel(port, host="127.0.0.1"):
    return grpc.insecure_channel(f"{host}:{port}", options=CHANNEL_OPTIONS)


def get_updates(channel, timeout=None, metadata=None):
    """GetUpdates on a channel: an iterator of updates with the methods of grpc.Call."""
    method = channel.unary_stream(
        GET_UPDATES,
        request_serializer=pb2().EmptyRequest.SerializeToString,
        response_deserializer=pb2().StockUpdate.FromString,
    )
    return method(pb2().EmptyRequest(), timeout=timeout, metadata=metadata)


class GrpcioClient:
    """grpcio, in this process."""

    name = "grpcio"

    def run(self, port, scenario, *numbers, begun=None):
        with open_channel(port) as channel:
            if scenario == "unknown":
                return self._unknown(channel)
            return getattr(self, "_" + scenario)(channel, *numbers, begun=begun)

    def _unknown(self, channel):
        results = []
        for path in ("/stockservice.StockService/Nothing", "/no.Service/Method"):
            try:
                channel.unary_unary(path)(b"", timeout=SCENARIO_TIMEOUT_S)
            except grpc.RpcError as error:
                results.append(Result(0, error.code().value[0], error.details()))
        return results

    def _follow(self, call, enough):
        chain = Chain()
        fault = None
        try:
            for update in call:
                if fault is None:
                    try:
                        chain.check(update)
                    except AssertionError as error:
                        fault = str(error)
                        chain.count += 1
                else:
                    chain.count += 1
                if enough(chain.count):
                    call.cancel()
        except grpc.RpcError as error:
            assert error is call or error.code() == call.code()
        return Result(chain.count, call.code().value[0], call.details() or "", fault)

    def _follow_all(self, channel, streams, enough_of, calls):
        """Follows so many calls at once; enough_of(i) is the i-th one's `enough`."""
        results = [None] * streams
        calls += [get_updates(channel) for _ in range(streams)]

        def one(i):
            results[i] = self._follow(calls[i], enough_of(i))

        threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SCENARIO_TIMEOUT_S)
        assert all(results), results
        return results

    def _updates(self, channel, count, streams, begun):
        return self._follow_all(channel, streams, lambda _: lambda received: received >= count, [])

    def _deadline(self, channel, milliseconds, begun):
        call = get_updates(channel, timeout=milliseconds / 1000)
        return [self._follow(call, lambda _: False)]

    def _fair(self, channel, total, streams, **_):
        calls = []
        lock = threading.Lock()
        begun = set()
        counts = [0] * streams

        def enough_of(i):
            def enough(_):
                with lock:
                    begun.add(i)
                    if len(begun) < streams:
                        return False
                    counts[i] += 1
                    if sum(counts) != total:
                        return False
                for call in calls:
                    call.cancel()
                return True

            return enough

        results = self._follow_all(channel, streams, enough_of, calls)
        return [result._replace(received=count) for result, count in zip(results, counts)]

    def _end(self, channel, streams, begun):
        lock = threading.Lock()
        first = [0]

        def enough(received):
            if received == 1:
                with lock:
                    first[0] += 1
                    all_begun = first[0] == streams
                if all_begun and begun:
                    begun()
            return False

        return self._follow_all(channel, streams, lambda _: enough, [])
