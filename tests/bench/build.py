"""Builds the load, the floor and the peers into the build folder; nothing is written to the tree.

What cannot be built because a tool of it is missing is left out of the benchmark with a note: a
figure beside three servers is better than none.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TREE = BENCH.parent.parent
PROTO = TREE / "proto"


class BuildError(Exception):
    """Says in one line why a program could not be built."""


def run(command, log, **options):
    """Runs a command with its output in the file `log`, which is shown if it fails."""
    with open(log, "ab") as output:
        output.write(f"$ {' '.join(map(str, command))}\n".encode())
        output.flush()
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
                timeout=1800,
                **options,
            )
        except FileNotFoundError:
            raise BuildError(f"{command[0]} is not installed") from None
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{Path(command[0]).name} failed; its output is in {log}") from error


def fresh_log(build, name):
    build.mkdir(parents=True, exist_ok=True)
    log = build / f"{name}.log"
    log.unlink(missing_ok=True)
    return log


def build_c(build):
    """Returns the paths of the load, the floor and the floor of TLS."""
    log = fresh_log(build, "c")
    folder = build / "c"
    generator = [] if (folder / "CMakeCache.txt").exists() else ["-G", "Ninja"]
    run(
        ["cmake", "-S", TREE, "-B", folder, *generator, "-DCMAKE_BUILD_TYPE=Release"],
        log,
    )
    names = ("bench-load", "bench-floor", "bench-seal")
    run(["cmake", "--build", folder, "--target", *names], log)
    return [folder / "tests/bench" / name for name in names]


def make_certificate(build):
    """Returns the files of a certificate for localhost that has signed itself, and of its key."""
    log = fresh_log(build, "certificate")
    certificate, key = build / "localhost.crt", build / "localhost.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    run([*command, "-keyout", key, "-out", certificate], log)
    key.chmod(0o600)  # stockd refuses one that others can read
    return certificate, key


def build_grpcpp(build):
    log = fresh_log(build, "grpcpp")
    folder = build / "grpcpp"
    generator = [] if (folder / "CMakeCache.txt").exists() else ["-G", "Ninja"]
    source = BENCH / "peers/grpcpp"
    run(["cmake", "-S", source, "-B", folder, *generator, f"-DPROTO_DIR={PROTO}"], log)
    run(["cmake", "--build", folder], log)
    return [folder / "grpcpp"]


def go_version(go):
    text = subprocess.run([go, "version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"go(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else (0, 0)


def find_go(needed, toolchain, build, log):
    """Returns a `go` of at least the version `needed`.

    Debian 12 has one that is too old for a current grpc-go, and too old to fetch the right one by
    itself, as later ones do. But toolchains are modules, so it can be asked to download that.
    """
    go = shutil.which("go")
    if not go:
        raise BuildError("go is not installed")
    if go_version(go) >= needed:
        return go
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    module = f"golang.org/toolchain@v0.0.1-{toolchain}.linux-{machine}"
    result = build / "toolchain.json"
    environment = {**os.environ, "GOPATH": str(build / "gopath"), "GOFLAGS": "-modcacherw"}
    with open(result, "wb") as output, open(log, "ab") as errors:
        done = subprocess.run(
            [go, "mod", "download", "-json", module],
            cwd=build,
            env=environment,
            stdout=output,
            stderr=errors,
            check=False,
        )
    if done.returncode != 0:
        raise BuildError(f"this go is too old, and {module} could not be had; see {log}")
    root = Path(json.loads(result.read_text(encoding="utf-8"))["Dir"])
    # A module's files come without the right to execute them.
    for folder in (root / "bin", root / "pkg/tool"):
        for file in folder.rglob("*"):
            if file.is_file():
                file.chmod(0o755)
    return root / "bin/go"


class GoModule:
    """
    The Go module in the folder `source` of this tree, copied to build/NAME, where it is built by a
    `go` that is new enough for it. What is printed meanwhile is in build/NAME.log.
    """

    def __init__(self, source, build, name):
        self.folder = build / name
        self.log = fresh_log(build, name)
        shutil.copytree(source, self.folder, dirs_exist_ok=True)
        self.text = (self.folder / "go.mod").read_text(encoding="utf-8")
        needed = re.search(r"^go (\d+)\.(\d+)", self.text, re.MULTILINE)
        toolchain = re.search(r"^toolchain (\S+)", self.text, re.MULTILINE)
        self.go = find_go(tuple(map(int, needed.groups())), toolchain.group(1), build, self.log)
        self.environment = {
            **os.environ,
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=readonly -buildvcs=false",
        }

    def build(self, output, *packages, flags=()):
        """Builds them to `output`, which is relative to the folder; returns where that is."""
        command = [self.go, "build", *flags, "-o", output, *packages]
        run(command, self.log, cwd=self.folder, env=self.environment)
        return self.folder / output


def build_grpcgo(build):
    module = GoModule(BENCH / "peers/grpcgo", build, "grpcgo")
    generated = module.folder / "stockservice"
    (module.folder / "bin").mkdir(exist_ok=True)
    generated.mkdir(exist_ok=True)
    tools = ["google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc"]
    generators = module.build("bin/", *tools)
    options = ["paths=source_relative", "Mstockservice.proto=stockd.example/grpcgo/stockservice"]
    command = ["protoc", f"--proto_path={PROTO}", f"--go_out={generated}", f"--go-grpc_out={generated}"]
    for option in options:
        command += [f"--go_opt={option}", f"--go-grpc_opt={option}"]
    path = f"{generators}:{os.environ['PATH']}"
    run([*command, "stockservice.proto"], module.log, env={**os.environ, "PATH": path})
    return [module.build("server", ".")]


def build_node(build):
    log = fresh_log(build, "node")
    folder = build / "node"
    shutil.copytree(BENCH / "peers/node", folder, dirs_exist_ok=True)
    if not shutil.which("node"):
        raise BuildError("node is not installed")
    lock = (folder / "package-lock.json").read_bytes()
    done = folder / "installed-lock.json"
    if not done.exists() or done.read_bytes() != lock:
        # No package of these needs its install script.
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], log, cwd=folder)
        done.write_bytes(lock)
    protos = ["--proto", PROTO / "stockservice.proto"]
    protos += ["--health-proto", PROTO / "grpc/health/v1/health.proto"]
    return ["node", folder / "main.js", *protos]


PEERS = {"grpc-go": build_grpcgo, "grpc++": build_grpcpp, "Node": build_node}
