"""
A box: a machine of its own with a really booted systemd, in a container of systemd-nspawn whose
files lie over a root file system that stays as it is. It has a network of its own with nothing but
a loopback in it, and leaves nothing behind: its files and mounts live in a namespace that ends with
it.

    with Box(root, "sockets", log_folder) as box:
        box.run("systemctl", "start", "stockd")
        box.journal("-u", "stockd")

The flags and the environment of systemd-nspawn were found by trying: a container without machined,
on a machine whose own PID 1 need not be systemd.
"""

import atexit
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from harness.metrics import Metrics
from harness.wait import wait_until
from roots import cache_folder

CGROUPS = Path("/sys/fs/cgroup")
BOOT_TIMEOUT_S = 60
DOWN_TIMEOUT_S = 20

# The shell moves itself into a cgroup of its own in each hierarchy before it becomes the container's
# parent; so systemd inside has the whole of what it finds, and nothing of it is seen elsewhere.
START = r"""
set -eu
name=$1 root=$2 place=$3 hierarchies=$4
shift 4
for top in $hierarchies; do
  mkdir -p "$top/$name"
  for file in cpuset.cpus cpuset.mems; do
    if [ -e "$top/$name/$file" ] && [ -z "$(cat "$top/$name/$file")" ]; then
      cat "$top/$file" >"$top/$name/$file"
    fi
  done
  echo $$ >"$top/$name/cgroup.procs"
done
mount -t tmpfs -o mode=755,size=2g tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay -o "lowerdir=$root,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0
exec systemd-nspawn "--machine=$name" "--directory=$place/root" "$@"
"""

FLAGS = (
    "--quiet",
    "--boot",
    "--register=no",
    "--keep-unit",
    "--private-network",
    "--console=read-only",
    "--link-journal=no",
    "--kill-signal=SIGRTMIN+4",
    # Without these systemd inside can load no BPF program, and then IPAddressDeny= does nothing
    # without a word. What it could be is shown by tests that are denied, and others that are not.
    "--capability=CAP_BPF,CAP_PERFMON,CAP_SYSLOG",
    "--system-call-filter=bpf @keyring",
)


def hierarchies():
    """The roots of all hierarchies of control groups: one of version 2, or several beside it."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.glob("*")) if (path / "cgroup.procs").exists()]


def remove_cgroups(machine):
    """Removes the control groups of a machine; false: its last processes are still going."""
    gone = True
    for top in hierarchies():
        for folder, _, _ in os.walk(top / machine, topdown=False):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError:
                gone = False
    return gone


def remove_stale_cgroups():
    """Of boxes whose makers were killed, so that nobody was left to do it."""
    for top in hierarchies():
        for folder in top.glob("stockd-[0-9]*-[0-9]*"):
            if not Path("/proc", folder.name.split("-")[1]).exists():
                remove_cgroups(folder.name)


class Result(NamedTuple):
    status: int
    output: str
    errors: str


def why_impossible():
    """What this machine lacks for booting a box, in words; None: nothing."""
    if os.geteuid() != 0:
        return "boxes can only be booted by root"
    for program in ("systemd-nspawn", "mmdebstrap", "nsenter", "unshare", "setpriv"):
        if not shutil.which(program):
            return f"there is no {program} here; tests/boot/packages.txt says what is needed"
    if not hierarchies():
        return f"there are no control groups in {CGROUPS}"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"],
        capture_output=True,
        text=True,
    )
    if tried.returncode != 0:
        return f"no namespaces can be made here: {tried.stderr.strip()}"
    return None


class Box:
    """A machine that is booted when it is entered, and gone when it is left."""

    number = 0
    alive = []  # those that are booted now

    def __init__(self, root, name, log_folder, binds=None):
        """`binds`: folders of this machine that can be read in the box, as {its place: folder}."""
        Box.number += 1
        self.root = root
        self.name = name
        self.machine = f"stockd-{os.getpid()}-{Box.number}"
        self.log_folder = Path(log_folder)
        self.binds = dict(binds or {})
        self.pid = 0  # of the container's PID 1, as seen here
        self.process = None
        self.helpers = []

    # --- life ---

    def __enter__(self):
        self.log_folder.mkdir(parents=True, exist_ok=True)
        remove_stale_cgroups()
        # Always the same: what is mounted there is seen by the box's own processes alone.
        mount_point = cache_folder() / "mounted-in-boxes"
        mount_point.mkdir(exist_ok=True)
        atexit.register(self.stop)
        binds = [f"--bind-ro={folder}:{place}" for place, folder in self.binds.items()]
        # The signal comes when whoever made the box is gone, however that happened.
        argv = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private"]
        argv += ["bash", "-c", START, "box", self.machine, str(self.root), str(mount_point)]
        argv.append(" ".join(map(str, hierarchies())))
        with open(self.log_folder / f"{self.name}.console", "wb") as console:
            self.process = subprocess.Popen(
                [*argv, *FLAGS, *binds],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for whoever runs the tests
            )
        try:
            self.pid = wait_until(self._find_init, BOOT_TIMEOUT_S, f"PID 1 of box {self.name}")
            wait_until(self._booted, BOOT_TIMEOUT_S, f"the boot of box {self.name}")
            Box.alive.append(self)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def console(self):
        path = self.log_folder / f"{self.name}.console"
        return path.read_text(errors="replace") if path.exists() else ""

    def _find_init(self):
        """The container's PID 1: the only child that has a PID namespace of its own."""
        assert self.process.poll() is None, (
            f"box {self.name} ended with {self.process.returncode}:\n{self.console()[-4000:]}"
        )
        try:
            here = os.readlink("/proc/self/ns/pid")
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            for child in children.read_text().split():
                with open(f"/proc/{child}/comm", encoding="ascii") as comm:
                    name = comm.read().strip()
                if os.readlink(f"/proc/{child}/ns/pid") != here and name in ("systemd", "init"):
                    return int(child)
        except OSError:
            pass  # it became something else meanwhile
        return None

    def _booted(self):
        assert self.process.poll() is None, (
            f"box {self.name} ended with {self.process.returncode}:\n{self.console()[-4000:]}"
        )
        # The bus is there some moments later than the first that asks for it.
        answer = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=30)
        state = answer.output.strip()
        assert state != "degraded", self.run("systemctl", "--failed", "--no-pager").output
        return state == "running"

    def stop(self):
        """Ends it, in order if possible; by its PID, and nothing else."""
        atexit.unregister(self.stop)
        if self in Box.alive:
            Box.alive.remove(self)
        for helper in self.helpers:
            if helper.poll() is None:
                helper.kill()
                helper.wait()
        self.helpers.clear()
        if self.process:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if self.process.poll() is not None:
                    break
                self.process.send_signal(number)
                try:
                    self.process.wait(DOWN_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    continue
            self.process.wait()
            self.process = None
            try:
                wait_until(lambda: remove_cgroups(self.machine), 5)
            except AssertionError:
                pass  # its last processes are going; empty groups harm nobody, and the next box looks
        self.pid = 0

    # --- what happens inside ---

    def command(self, *words):
        """The command line, for here, that runs a command in the box."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        environment = ["env", "-i", "HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER="]
        environment.append("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        environment += ["DEBIAN_FRONTEND=noninteractive", "SYSTEMD_COLORS=0"]
        return [*enter, "--cgroup", "--root", "--wd", "--", *environment, *map(str, words)]

    def run(self, *words, check=True, timeout=60, text=None):
        """Runs a command to its end; unless `check` is off it has to succeed."""
        try:
            done = subprocess.run(
                self.command(*words),
                input=text if text is not None else "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as expired:
            raise AssertionError(
                f"{shlex.join(map(str, words))} took longer than {timeout} s in box {self.name}; "
                f"it wrote: {expired.stdout!r} {expired.stderr!r}"
            ) from None
        result = Result(done.returncode, done.stdout, done.stderr)
        assert not check or result.status == 0, (
            f"{shlex.join(map(str, words))} failed in box {self.name} with {result.status}:\n"
            f"{result.output[-4000:]}{result.errors[-4000:]}"
        )
        return result

    def shell(self, script, *arguments, check=True, timeout=60):
        return self.run("bash", "-ec", script, "box", *arguments, check=check, timeout=timeout)

    def write(self, path, text, mode="644"):
        self.run(
            "bash",
            "-ec",
            'mkdir -p "$(dirname "$1")"; install -m "$2" /dev/stdin "$1"',
            "write",
            path,
            mode,
            text=text,
        )

    def read(self, path):
        return self.run("cat", path).output

    def exists(self, path):
        return self.run("test", "-e", path, check=False).status == 0

    # --- its network, for programs of this machine ---

    def network_command(self, *words):
        """The command line that runs a program of this machine, with its files, in the network."""
        return ["nsenter", f"--target={self.pid}", "--net", "--", *map(str, words)]

    def in_network(self, *words, **options):
        """The same as a running program (subprocess.Popen); it ends with the box at the latest."""
        process = subprocess.Popen(self.network_command(*words), **options)
        self.helpers.append(process)
        return process

    def fetch(self, url, *more, check=True):
        """What a page holds, by curl."""
        done = subprocess.run(
            self.network_command("curl", "--silent", "--show-error", "--noproxy", "*", "--fail")
            + ["--max-time", "10", *map(str, more), url],
            capture_output=True,
            text=True,
        )
        if check:
            assert done.returncode == 0, f"{url}: {done.stderr}"
        return done.stdout if done.returncode == 0 else None

    def metrics(self, port=2112):
        return Metrics(self.fetch(f"http://127.0.0.1:{port}/metrics"))

    def metric(self, name, port=2112, **labels):
        return self.metrics(port).sum(name, **labels)

    # --- its service manager and its journal ---

    def systemctl(self, *words, check=True, timeout=60):
        return self.run("systemctl", *words, check=check, timeout=timeout)

    def property(self, unit, name):
        return self.run("systemctl", "show", "--value", "--property", name, unit).output.strip()

    def main_pid(self, unit="stockd"):
        """As the box counts them."""
        return int(self.property(unit, "MainPID"))

    def wait_property(self, unit, name, wanted, timeout=20):
        """Waits until a property is `wanted`: a value or a condition; returns it."""
        fits = wanted if callable(wanted) else lambda value: value == wanted
        seen = [None]

        def look():
            seen[0] = self.property(unit, name)
            return fits(seen[0])

        try:
            wait_until(look, timeout)
        except AssertionError:
            status = self.run("systemctl", "status", "--no-pager", unit, check=False).output
            raise AssertionError(
                f"{name} of {unit} stayed at {seen[0]!r} for {timeout} s\n{status}"
            ) from None
        return seen[0]

    def now(self):
        """An argument for journal(): only what is logged from now on."""
        return f"--since=@{time.time():.6f}"

    def journal(self, *filters):
        """Messages as dictionaries of their fields."""
        shown = self.run("journalctl", "--output", "json", "--all", "--quiet", *filters).output
        return [json.loads(line) for line in shown.splitlines()]

    def wait_journal(self, *filters, timeout=20, count=1):
        """Waits until there are `count` messages that match; returns all that there are."""
        return wait_until(
            lambda: (lambda found: found if len(found) >= count else None)(self.journal(*filters)),
            timeout,
            f"{count} messages {shlex.join(filters)} in the journal of box {self.name}",
        )

    def save_journal(self, name):
        """For those who look for why a test failed."""
        if self.process.poll() is not None:
            return None
        path = self.log_folder / f"{name}.journal"
        shown = self.run(
            "journalctl", "--output", "short-precise", "--no-pager", "--no-hostname", check=False
        )
        units = self.run("systemctl", "--failed", "--no-pager", check=False)
        path.write_text(shown.output + shown.errors + "\n" + units.output)
        return path

    # --- what tests change; conftest.py's start_afresh() undoes it ---

    def configure(self, text, instance=None):
        """A drop-in of stockd's configuration, in place of the one before."""
        name = f"stockd@{instance}" if instance else "stockd"
        self.write(f"/etc/stockd/{name}.conf.d/boot-test.conf", text)

    def drop_in(self, unit, text):
        """A drop-in of a unit, in place of the one before; the unit is not restarted."""
        self.write(f"/run/systemd/system/{unit}.d/boot-test.conf", text)
        self.systemctl("daemon-reload")

    # --- packages ---

    def add_repository(self, place):
        """Lets apt know of a folder of the box, and of no other place."""
        self.write("/etc/apt/sources.list", f"deb [trusted=yes] file:{place} ./\n")
        self.apt("update")

    def apt(self, *words, check=True, timeout=120):
        return self.run("apt-get", "--quiet", "--yes", *words, check=check, timeout=timeout)
