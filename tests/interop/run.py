#!/usr/bin/python3
"""Lets gRPC's official clients try stockd's gRPC layer, with plaintext and with TLS.

    run.py --server PROGRAM --build FOLDER [CASE...]

Every case that is listed here must pass with every client that has it, and a client must have it.
The clients are built into FOLDER. Prints a table; exits with 1 if anything failed or was not run.
"""

import argparse
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clients import CLIENTS, BuildError, CppClient, GoClient

from harness.process import Program, assert_no_report
from harness.wait import wait_until

BOTH = (GoClient, CppClient)
CPP = (CppClient,)

# What official clients do is right: the server may end none of their connections for it.
BLAMED = re.compile(r"connection closed: (?!peer_)|refused: ")

# All cases, those that take longest first, and the clients that have them. Neither client is asked
# which it has: one that lost a case would have to be missed.
CASES = {
    "slow_consumer": CPP,
    "server_compressed_streaming": CPP,
    "server_compressed_unary": CPP,
    "client_compressed_streaming": CPP,
    "client_compressed_unary": CPP,
    "half_duplex": CPP,
    "empty_unary": BOTH,
    "large_unary": BOTH,
    "client_streaming": BOTH,
    "server_streaming": BOTH,
    "ping_pong": BOTH,
    "empty_stream": BOTH,
    "custom_metadata": BOTH,
    "status_code_and_message": BOTH,
    "special_status_message": BOTH,
    "unimplemented_method": BOTH,
    "unimplemented_service": BOTH,
    "cancel_after_begin": BOTH,
    "cancel_after_first_response": BOTH,
    "timeout_on_sleeping_server": BOTH,
}

# What a client must refuse, or its success means nothing.
UNKNOWN_CASE = "(a case that does not exist)"
NOBODY_LISTENS = "(nobody listens)"
NOT_TRUSTED = "(certificate not trusted)"
WRONG_NAME = "(certificate of another)"

SERVER_NAME = "interop.stockd.example"
CASE_TIMEOUT_S = {"slow_consumer": 150}
CASE_TIMEOUT_OTHERS_S = 60
PASSED, REFUSED, FAILED, NOT_RUN = "pass", "refused", "FAIL", "-"


class Transport:
    """A running server, and what a client must know to reach it."""

    def __init__(self, program, name, folder):
        self.name = name
        self.folder = Path(folder)
        self.ca = None
        self.server_name = None
        command = [program]
        if name == "TLS":
            self.ca, certificate, key = make_certificates(self.folder)
            self.server_name = SERVER_NAME
            command += ["--tls", "--certificate", certificate, "--key", key]
        self.server = Program(command, folder, f"server-{name}")
        found = wait_until(self.look_for_port, 30, f"the port of the server with {name}")
        self.port = int(found.group(1))

    def look_for_port(self):
        found = re.search(r"^listening on 127\.0\.0\.1:(\d+)\n", self.server.output(), re.MULTILINE)
        if not found and not self.server.running():
            raise AssertionError(f"the server with {self.name} ended:\n{self.server.log()}")
        return found

    def stop(self):
        """Returns what is wrong with how the server ended and what it thinks of its clients, or
        None."""
        try:
            status = self.server.stop(signal.SIGTERM)
            assert_no_report(self.server.log(), self.server.name)
        except AssertionError as error:
            return str(error)
        if status != 0:
            return f"the server ended with {status}:\n{self.server.log()}"
        blamed = [line for line in self.server.log().splitlines() if BLAMED.search(line)]
        return f"it blames official clients:\n{chr(10).join(blamed)}" if blamed else None


def make_certificates(folder):
    """An authority and a server's certificate; the paths of both and of the server's key. Another
    authority, which has certified nothing, is in other.pem."""
    common = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    common += ["-nodes", "-days", "2"]

    def make(name, subject, *more):
        files = folder / f"{name}.pem", folder / f"{name}.key"
        command = [*common, "-subj", f"/CN={subject}", "-out", files[0], "-keyout", files[1]]
        subprocess.run([*command, *more], check=True, capture_output=True)
        return files

    make("other", "interop authority")
    ca, ca_key = make("ca", "interop authority")
    issued = ["-CA", ca, "-CAkey", ca_key, "-addext", "basicConstraints=critical,CA:FALSE"]
    name = ["-addext", f"subjectAltName=DNS:{SERVER_NAME}"]
    certificate, key = make("server", SERVER_NAME, *issued, *name)
    return ca, certificate, key


def run_case(client, program, transport, case, *, port=None, ca=None, server_name=None):
    """Runs one case; returns what came of it, how long it took, and the client's output."""
    port = port or transport.port
    command, environment = client.command(program, case, port, ca, server_name)
    log = transport.folder / f"{transport.name}-{client.name}-{case}.log".replace(" ", "-")
    start = time.monotonic()
    with open(log, "wb") as output:
        try:
            status = subprocess.run(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                timeout=CASE_TIMEOUT_S.get(case, CASE_TIMEOUT_OTHERS_S),
                check=False,
            ).returncode
            said = f"exit status {status}"
        except subprocess.TimeoutExpired as error:
            status = None
            said = f"not done after {error.timeout} s"
    seconds = time.monotonic() - start
    text = log.read_text(encoding="utf-8", errors="replace")
    return status == 0, seconds, f"{said}\n{text}"


class Result:
    def __init__(self, row, client, transport, future, wanted=True):
        self.row = row
        self.client = client
        self.transport = transport
        self.future = future
        self.wanted = wanted

    def good(self):
        return self.future.result()[0] == self.wanted

    def cell(self):
        seconds = self.future.result()[1]
        word = (PASSED if self.wanted else REFUSED) if self.good() else FAILED
        return f"{word} {seconds:.1f} s" if seconds >= 1 else word


def unused_port():
    """A port where nobody listens: its socket is bound and never listens, for as long as we run."""
    unused_port.socket = socket.socket()
    unused_port.socket.bind(("127.0.0.1", 0))
    return unused_port.socket.getsockname()[1]


def begin(pool, programs, transports, wanted):
    """Starts all cases; returns their results to be."""
    results = []
    dead = unused_port()

    def add(row, client, transport, case, good, **options):
        reach = {"ca": transport.ca, "server_name": transport.server_name, **options}
        future = pool.submit(run_case, client, programs[client], transport, case, **reach)
        results.append(Result(row, client, transport, future, good))

    for case in wanted:
        for client in CASES[case]:
            for transport in transports:
                if client in programs:
                    add(case, client, transport, case, True)
    for client in programs:
        for transport in transports:
            add(UNKNOWN_CASE, client, transport, "no_such_case", False)
            add(NOBODY_LISTENS, client, transport, "empty_unary", False, port=dead)
            if transport.ca:
                other = transport.folder / "other.pem"
                add(NOT_TRUSTED, client, transport, "large_unary", False, ca=other)
                name = f"other.{SERVER_NAME}"
                add(WRONG_NAME, client, transport, "server_streaming", False, server_name=name)
    return results


def print_table(rows, transports, results):
    columns = [(client, transport) for transport in transports for client in CLIENTS]
    titles = [f"{client.name} {transport.name}" for client, transport in columns]
    width = max(map(len, rows))
    print(f"{'':{width}}  " + "  ".join(f"{title:>18}" for title in titles))
    for row in rows:
        cells = []
        for client, transport in columns:
            found = [
                result.cell()
                for result in results
                if (result.row, result.client, result.transport) == (row, client, transport)
            ]
            cells.append(found[0] if found else NOT_RUN)
        print(f"{row:{width}}  " + "  ".join(f"{cell:>18}" for cell in cells))


def build_clients(folder):
    """Builds them side by side: each waits for the network for a while."""
    programs = {}
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        futures = {client: pool.submit(client.build, folder) for client in CLIENTS}
    for client, future in futures.items():
        try:
            programs[client] = future.result()
        except BuildError as error:
            print(f"{client.name}: {error}", file=sys.stderr)
    return programs


def missing_runs(wanted, results, transports):
    """The runs that should have been, and were not."""
    done = {(result.row, result.client, result.transport) for result in results}
    return [
        f"{case} with {client.name} and {transport.name}"
        for case in wanted
        for client in CASES[case]
        for transport in transports
        if (case, client, transport) not in done
    ]


def try_all(programs, server, wanted, folder):
    """Returns what went wrong, in words."""
    transports = [Transport(server, name, folder) for name in ("plaintext", "TLS")]
    try:
        with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
            results = begin(pool, programs, transports, wanted)
    finally:
        ends = [(transport, transport.stop()) for transport in transports]
    controls = [UNKNOWN_CASE, NOBODY_LISTENS, NOT_TRUSTED, WRONG_NAME]
    print_table([*wanted, *controls], transports, results)
    wrong = []
    for result in results:
        if not result.good():
            verb = "failed" if result.wanted else "should have failed"
            what = f"{result.row} with {result.client.name} and {result.transport.name} {verb}"
            wrong.append(f"{what}: {result.future.result()[2][-6000:]}")
    if wrong:
        for transport in transports:
            log = transport.server.log()[-20000:]
            print(f"\nlog of the server with {transport.name}:\n{log}", file=sys.stderr)
    wrong += [f"{transport.name}: {said}" for transport, said in ends if said]
    missing = missing_runs(wanted, results, transports)
    if missing:
        wrong.append("not run: " + ", ".join(missing))
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", type=Path, required=True, help="the interop-server")
    parser.add_argument("--build", type=Path, required=True, help="where the clients are built")
    parser.add_argument("case", nargs="*", help="only these", metavar="CASE")
    arguments = parser.parse_args()
    unknown = set(arguments.case) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    # A client that finds a fault aborts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    print("building the clients", flush=True)
    programs = build_clients(arguments.build.resolve())
    print("running the cases\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="stockd-interop-") as folder:
        wanted = [case for case in CASES if not arguments.case or case in arguments.case]
        wrong = try_all(programs, arguments.server.resolve(), wanted, folder)
    for what in wrong:
        print(f"\n{what}", file=sys.stderr)
    print(f"\n{len(wrong)} faults" if wrong else "\nall cases passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
