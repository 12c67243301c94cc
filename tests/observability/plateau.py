#!/usr/bin/python3
"""
How far is a server ahead of a client that is slow? Measures it for stockd and for grpc-go, each
with stock-client and with a client on grpc-go, and tells where the updates between the two are:

    /usr/bin/python3 tests/observability/plateau.py [--grpc-go v1.57.0] [--window 131072]

The server makes updates faster than the client uses them. When its counter of sent updates has
stood still for a second it is blocked; then the client's first credit is waited for. A relay
between the two reads whatever it can at once, so that it adds no room, and counts. This needs
stockd and stock-client, built (./dev build), protoc and Go; the first time also a network, from
which Go takes the modules of go/plateau.
"""

import argparse
import itertools
import socket
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE.parent.parent
sys.path[:0] = [str(HERE.parent / "bench"), str(HERE.parent / "system")]

from build import GoModule, run
from harness.metrics import scrape
from harness.process import Program
from harness.wait import wait_stable, wait_until

INTERVAL_MS = 2
# What a client takes to use an update. stock-client gives credit for each, so that without a pause
# its server never stands still; one on grpc-go gives credit for many at once.
WORK_MS = {"stock-client": 8000, "grpc-go": 30}
DATA, SETTINGS, WINDOW_UPDATE, INITIAL_WINDOW = 0, 4, 8, 4
SENT, PROCESSED = "stock_updates_sent_total", "stock_updates_received_total"
GENERATED = "module=stockd.example/plateau,Mstockservice.proto=stockd.example/plateau/stockservice"
ROWS = ["server", "client", "bytes of an update", "window in bytes", "when blocked: updates sent"]
ROWS += ["  crossed to the client", "  bytes that crossed", "  still in the server"]
ROWS += ["first credit in bytes", "  updates processed by then"]


def build_go(build, release):
    module = GoModule(HERE / "go/plateau", build, "plateau")
    generator = module.build("protoc-gen-go", "google.golang.org/protobuf/cmd/protoc-gen-go")
    commands = [["protoc", f"--plugin={generator}", "-I", TREE / "proto", "--go_out=."]]
    commands[0] += [f"--go_opt={GENERATED}", "stockservice.proto"]
    commands += [[module.go, "get", f"google.golang.org/grpc@{release}"]] if release else []
    for command in commands:
        run(command, module.log, cwd=module.folder, env={**module.environment, "GOFLAGS": ""})
    return module.build("plateau", ".")


class Relay:
    """Between one client and the server at `port`; knows what was granted and what was sent."""

    def __init__(self, port):
        self.window, self.data, self.messages, self.part = 65535, 0, 0, bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(port,), daemon=True).start()

    def _serve(self, port):
        client, server = self.listener.accept()[0], socket.create_connection(("127.0.0.1", port))
        asking = (client, server, self._asked, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        threading.Thread(target=self._pump, args=asking, daemon=True).start()
        self._pump(server, client, self._answered, 0)

    @staticmethod
    def _pump(source, target, look, begin):
        """Hands bytes on, and has each whole frame from the offset `begin` on looked at."""
        pending = bytearray()
        while received := source.recv(1 << 16):
            target.sendall(received)
            pending += received
            while len(pending) >= begin + 9:
                head = pending[begin : begin + 9]
                end = begin + 9 + int.from_bytes(head[:3])
                if len(pending) < end:
                    break
                look(head[3], any(head[5:]), pending[begin + 9 : end])
                del pending[:end]
                begin = 0

    def _asked(self, kind, of_stream, payload):
        if kind == WINDOW_UPDATE and of_stream:
            self.window += int.from_bytes(payload)
        elif kind == SETTINGS:
            for i in range(0, len(payload), 6):
                if int.from_bytes(payload[i : i + 2]) == INITIAL_WINDOW:
                    self.window = int.from_bytes(payload[i + 2 : i + 6])

    def _answered(self, kind, _, payload):
        if kind == DATA:
            self.data += len(payload)
            self.part += payload
            while len(self.part) >= 5 + (size := int.from_bytes(self.part[1:5])) > 5:
                del self.part[: 5 + size]
                self.messages += 1


def start_server(name, program, folder):
    arguments = ["serve", "-pace", f"{INTERVAL_MS}ms"]
    if name == "stockd":
        arguments = ["--config", "/dev/null", "-s", f"stream.interval={INTERVAL_MS}ms"]
        arguments += ["-s", "grpc.listen=127.0.0.1:0", "-s", "metrics.listen=127.0.0.1:0"]
    return Program([program, *arguments], folder, "server")


def start_client(name, program, folder, address, window):
    work = f"{WORK_MS[name]}ms"
    arguments = ["follow", "-pace", work]
    if name == "stock-client":
        arguments = ["-q", "-d", f"{work}:{work}", "--metrics=127.0.0.1:0"]
    window = ["--window", window] if window else []
    return Program([program, *arguments, *window, address], folder, "client")


def port_of(program, what):
    return int(program.wait_log(rf"{what} on (?:http://)?127\.0\.0\.1:(\d+)").group(1))


def measure(server, client, programs, folder, asked):
    started = [start_server(server, programs[server], folder)]
    try:
        relay = Relay(port_of(started[0], "gRPC"))
        started += [start_client(client, programs[client], folder, relay.address, asked)]
        sending, working = [port_of(program, "metrics") for program in started]
        sent = wait_stable(lambda: int(scrape(sending).sum(SENT)), 1, 60, "what is sent")
        window, data, crossed = relay.window, relay.data, relay.messages
        size = f"{(data - len(relay.part)) / crossed:.1f}"
        wait_until(lambda: relay.window > window, 60, "credit")
        processed = int(scrape(working).sum(PROCESSED))
        credit = relay.window - window
    finally:
        for program in started:
            program.stop()
    blocked = [sent, crossed, data, sent - crossed]
    return [server, client, size, window, *blocked, credit, processed]


def main():
    parser = argparse.ArgumentParser(description="Measures how far servers are ahead.")
    parser.add_argument("--build", type=Path, default=TREE / "build/release")
    parser.add_argument("--go-build", type=Path, default=TREE / "build/observability")
    parser.add_argument("--grpc-go", metavar="RELEASE", help="instead of the one in go.mod")
    parser.add_argument("--window", type=int, help="the client's, from 65535 (the default) up")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    programs = {"stockd": build / "daemon/stockd", "stock-client": build / "client/stock-client"}
    programs["grpc-go"] = build_go(arguments.go_build.resolve(), arguments.grpc_go)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in itertools.product(("stockd", "grpc-go"), ("stock-client", "grpc-go")):
            results.append(measure(*pair, programs, folder, arguments.window))
    for row in zip(ROWS, *results):
        print(f"{row[0]:28}" + "".join(f"{value:>14}" for value in row[1:]))


if __name__ == "__main__":
    main()
