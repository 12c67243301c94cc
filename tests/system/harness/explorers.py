"""
Clients that we did not write and that know nothing of stockd but what reflection tells them:
grpcurl, `buf curl`, and grpcio with its own health and reflection packages. All behind one
interface, and each a program of its own, made or installed into the build folder at what the files
in tests/system/clients pin.

A test module that imports the fixture `explorer` from here runs with each of them.
"""

import base64
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from harness.clients import CLIENTS, alone_in, run_checked
from harness.process import SOURCE, clean_environment
from harness.wait import wait_until

sys.path.append(str(SOURCE / "tests" / "bench"))

from build import find_go, fresh_log, run  # noqa: E402

COMMAND_TIMEOUT_S = 60


class CallError(Exception):
    """A call that ended with an error: its code as gRPC spells it, NOT_FOUND, and its text."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ClientError(Exception):
    """The client ended with an error that was no call's."""


def decode_all(text):
    """The JSON values that stand whole in a text, one after the other."""
    decoder = json.JSONDecoder()
    values = []
    text = text.lstrip()
    while text:
        try:
            value, end = decoder.raw_decode(text)
        except ValueError:
            break
        values.append(value)
        text = text[end:].lstrip()
    return values


class Responses:
    """A call that goes on: what has come of it so far. Use it in a `with`, which ends it."""

    def __init__(self, argv, environment):
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._text = ""
        self.errors = ""
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self):
        for line in self._process.stdout:
            self._text += line

    def _read_errors(self):
        self.errors = self._process.stderr.read()

    @property
    def messages(self):
        return decode_all(self._text)

    @property
    def running(self):
        return self._process.poll() is None

    def wait_messages(self, count, timeout=30):
        def look():
            running = self.running
            found = self.messages
            assert len(found) >= count or running, f"it ended: {found}, {self.errors}"
            return len(found) >= count

        wait_until(look, timeout, f"message {count} of the call")
        return self.messages

    def wait_end(self, timeout=30):
        """Waits until the client has ended by itself; all that came."""
        wait_until(lambda: not self.running, timeout, "the end of the call")
        for thread in self._threads:
            thread.join(10)
        return self.messages

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(10)
        self._process.stdout.close()
        self._process.stderr.close()


class Explorer:
    """What all have in common. `versions` are those of reflection that it can be told to use."""

    name = None
    versions = (None,)
    environment = {}

    def _run(self, argv):
        done = subprocess.run(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env=clean_environment(**self.environment),
        )
        if done.returncode == 0:
            return done.stdout
        raise self._error(done) or ClientError(f"{argv}: {done.returncode}, {done.stderr}")

    def _error(self, done):
        """The CallError that the client told of, or None."""
        raise NotImplementedError

    def _call(self, port, method, request):
        """The command that makes a call."""
        raise NotImplementedError

    def services(self, port, version=None):
        """The names of the services."""
        raise NotImplementedError

    def methods(self, port):
        """'service/method' of all services."""
        raise NotImplementedError

    def call(self, port, method, request=None):
        """The response of a unary call, as JSON says it; CallError."""
        (response,) = decode_all(self._run(self._call(port, method, request)))
        return response

    def stream(self, port, method, request=None):
        """A call whose responses go on, as Responses."""
        argv = [str(word) for word in self._call(port, method, request)]
        return Responses(argv, clean_environment(**self.environment))


class Grpcurl(Explorer):
    """grpcurl: asks for v1 of reflection, and only if there is none for v1alpha."""

    name = "grpcurl"

    def __init__(self, folder):
        # An old go that is to fetch a newer one must not see a go.mod that it does not understand.
        source, tools = folder / "source", folder / "tools"
        source.mkdir(parents=True, exist_ok=True)
        log = fresh_log(tools, "grpcurl")
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(CLIENTS / "grpcurl" / name, source / name)
        module = (source / "go.mod").read_text(encoding="utf-8")
        needed = re.search(r"^go (\d+)\.(\d+)", module, re.MULTILINE)
        toolchain = re.search(r"^toolchain (\S+)", module, re.MULTILINE)
        package = re.search(r"^tool (\S+)", module, re.MULTILINE)
        go = find_go(tuple(map(int, needed.groups())), toolchain.group(1), tools, log)
        environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
        self._program = folder / "grpcurl"
        argv = [go, "build", "-buildvcs=false", "-o", self._program, package.group(1)]
        run(argv, log, cwd=source, env=environment)

    def _argv(self, port, *verb, options=()):
        return [self._program, "-plaintext", *options, f"127.0.0.1:{port}", *verb]

    def _error(self, done):
        found = re.search(r"^ERROR:\n  Code: (\w+)\n  Message: (.*)$", done.stderr, re.MULTILINE)
        if not found:
            return None
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found.group(1)).upper()
        return CallError(code, found.group(2))

    def _call(self, port, method, request):
        return self._argv(port, method, options=["-d", json.dumps(request or {})])

    def services(self, port, version=None):
        return self._run(self._argv(port, "list")).split()

    def methods(self, port):
        names = []
        for service in self.services(port):
            for name in self._run(self._argv(port, "list", service)).split():
                assert name.startswith(service + "."), name
                names.append(f"{service}/{name[len(service) + 1:]}")
        return names

    def describe(self, port, symbol):
        """Its declaration, as it would stand in a .proto file."""
        return self._run(self._argv(port, "describe", symbol))


class Buf(Explorer):
    """
    buf curl, installed by `npm ci` from the lock file: the program alone, without the script
    that usually starts it, which would die of a signal alone. `program` is for buf's other
    commands.
    """

    name = "buf"
    versions = ("grpc-v1", "grpc-v1alpha")

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (CLIENTS / "buf" / "package-lock.json").read_bytes()
        installed = folder / "installed-lock.json"
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(CLIENTS / "buf" / name, folder / name)
        if not installed.exists() or installed.read_bytes() != lock:
            run_checked(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
            installed.write_bytes(lock)
        (self.program,) = folder.glob("node_modules/@bufbuild/buf-linux-*/bin/buf")
        self.environment = {"BUF_CACHE_DIR": folder / "cache"}

    def _argv(self, port, *options, path=""):
        url = f"http://127.0.0.1:{port}{path}"
        return [self.program, "curl", "--http2-prior-knowledge", "--protocol=grpc", *options, url]

    def _error(self, done):
        found = decode_all(done.stderr)
        return CallError(found[0]["code"].upper(), found[0]["message"]) if found else None

    def _call(self, port, method, request):
        return self._argv(port, "--data", json.dumps(request or {}), path=f"/{method}")

    def services(self, port, version=None):
        protocol = [f"--reflect-protocol={version}"] if version else []
        return self._run(self._argv(port, *protocol, "--list-services")).split()

    def methods(self, port):
        return self._run(self._argv(port, "--list-methods")).split()


class Grpcio(Explorer):
    """grpcio, whose reflection package knows v1alpha alone."""

    name = "grpcio"

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        pins = (CLIENTS / "py" / "requirements.txt").read_bytes()
        installed = folder / "installed-requirements.txt"
        python = folder / "venv" / "bin" / "python"
        if not installed.exists() or installed.read_bytes() != pins:
            run_checked([sys.executable, "-m", "venv", "--clear", folder / "venv"], folder)
            pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
            pip += ["--require-hashes", "--only-binary=:all:"]
            run_checked([*pip, "--requirement", CLIENTS / "py" / "requirements.txt"], folder)
            installed.write_bytes(pins)
        self._argv = [python, CLIENTS / "py" / "client.py"]

    def _error(self, done):
        found = decode_all(done.stdout)
        return CallError(found[-1]["code"], found[-1]["message"]) if found else None

    def _call(self, port, method, request):
        return [*self._argv, port, "call", method, json.dumps(request or {})]

    def services(self, port, version=None):
        return decode_all(self._run([*self._argv, port, "services"]))

    def methods(self, port):
        return decode_all(self._run([*self._argv, port, "methods"]))

    def file(self, port, symbol):
        """The file that declares a symbol: a serialized FileDescriptorProto."""
        (text,) = decode_all(self._run([*self._argv, port, "file", symbol]))
        return base64.b64decode(text)


KINDS = {kind.name: kind for kind in (Grpcurl, Buf, Grpcio)}


@functools.lru_cache(maxsize=None)
def get_explorer(name, build):
    folder = build / "system-clients" / name
    with alone_in(folder):
        return KINDS[name](folder)


@pytest.fixture(params=sorted(KINDS))
def explorer(request, build):
    return get_explorer(request.param, build)
