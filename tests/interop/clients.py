"""The official clients: how each is had, built into the build folder, and started.

Neither is in this tree. grpc-go's is a Go module, pinned by go/go.mod and go/go.sum. grpc's own, in
C++, is built from the source package that the installed libgrpc++ was built from; apt fetches that
and checks it against Debian's signed lists.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

INTEROP = Path(__file__).resolve().parent
sys.path.insert(0, str(INTEROP.parent / "bench"))
sys.path.insert(0, str(INTEROP.parent / "system"))

from build import BuildError, GoModule, fresh_log, run  # noqa: E402
from harness.process import clean_environment  # noqa: E402

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# The client's main() forgets what the function of a case returns, and some of them return false
# where they cannot go on: the case would count as passed. This makes it the exit status.
FORGETFUL = "actions.find(absl::GetFlag(FLAGS_test_case))->second();"
MINDFUL = "ret = actions.find(absl::GetFlag(FLAGS_test_case))->second() ? 0 : 1;"


def output_of(command):
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not installed") from None
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


class GoClient:
    name = "grpc-go"

    @staticmethod
    def build(build):
        module = GoModule(INTEROP / "go", build, "go")
        return module.build("client", "google.golang.org/grpc/interop/client")

    @staticmethod
    def command(program, case, port, ca, server_name):
        command = [program, f"--test_case={case}", "--server_host=127.0.0.1"]
        command += [f"--server_port={port}"]
        if server_name:
            command += ["--use_tls", f"--server_host_override={server_name}"]
        if ca:
            command += ["--use_test_ca", f"--ca_file={ca}"]
        return command, clean_environment(GRPC_GO_LOG_SEVERITY_LEVEL="info")


class CppClient:
    name = "grpc C++"

    @staticmethod
    def fetch(build, log):
        """Returns the folder of the unpacked source, whose version is the installed library's."""
        query = ["dpkg-query", "--show", "--showformat", "${source:Version}", "libgrpc++-dev"]
        version = output_of(query)
        folder = build / f"grpc-{version}"
        if folder.exists():
            return folder
        apt = build / "apt"
        shutil.rmtree(apt, ignore_errors=True)
        for name in ("lists/partial", "cache/archives/partial", "source"):
            (apt / name).mkdir(parents=True)
        # Where this machine has Debian from, there its sources are, too. Its own lists stay as
        # they are.
        option = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        line = f"deb-src {option}$(REPO_URI) $(RELEASE) $(COMPONENT)"
        query = ["apt-get", "indextargets", "--format", line, "Created-By: Packages"]
        lines = set(output_of([*query, "Origin: Debian", "Component: main"]).splitlines())
        if not lines:
            raise BuildError("apt knows of no Debian archive; has apt-get update been run?")
        (apt / "sources.list").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]
        for name, value in {
            "Etc::SourceList": apt / "sources.list",
            "Etc::SourceParts": "/dev/null",
            "State::Lists": apt / "lists",
            "Cache": apt / "cache",
        }.items():
            command += ["-o", f"Dir::{name}={value}"]
        run([*command, "update"], log)
        source = [*command, "source", "--download-only", f"grpc={version}"]
        run(source, log, cwd=apt / "source")
        return CppClient.unpack(apt, folder, log)

    @staticmethod
    def unpack(apt, folder, log):
        archives = list((apt / "source").glob("grpc_*.orig.tar.*"))
        if len(archives) != 1:
            raise BuildError(f"the source package has {len(archives)} archives, not one")
        unpacked = apt / "unpacked"
        unpacked.mkdir()
        command = ["tar", "--extract", "--strip-components=1", f"--directory={unpacked}"]
        run([*command, f"--file={archives[0]}"], log)
        main = unpacked / "test/cpp/interop/client.cc"
        text = main.read_text(encoding="utf-8")
        if text.count(FORGETFUL) != 1:
            raise BuildError(f"{main} is not as expected: what does it do with a case's result?")
        main.write_text(text.replace(FORGETFUL, MINDFUL), encoding="utf-8")
        unpacked.rename(folder)
        shutil.rmtree(apt)
        return folder

    @staticmethod
    def build(build):
        log = fresh_log(build, "cpp")
        source = CppClient.fetch(build, log)
        folder = build / "cpp"
        command = ["cmake", "-S", INTEROP / "cpp", "-B", folder, f"-DGRPC_SOURCE={source}"]
        run(command if (folder / "CMakeCache.txt").exists() else [*command, "-G", "Ninja"], log)
        run(["cmake", "--build", folder], log)
        return folder / "client"

    @staticmethod
    def command(program, case, port, ca, server_name):
        command = [program, f"--test_case={case}", "--server_host=127.0.0.1"]
        command += [f"--server_port={port}"]
        environment = clean_environment(GRPC_VERBOSITY="DEBUG")
        if server_name:
            command += ["--use_tls", f"--server_host_override={server_name}"]
        if ca:
            environment["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(ca)
        return command, environment


CLIENTS = (GoClient, CppClient)
