"""
The sandbox of the services, from the inside. A program that tries what is forbidden (probe.c) runs
with the installed units' own settings: as they are, when it must be refused; and with what forbids
it taken away, when it must not be: else something other than the sandbox refuses it, and the test
would see nothing if a directive had no effect.

Much is forbidden by several directives at once. So each is tried in two runs more: one without all
that forbid the same (the control), and one in which of these it alone is left.
"""

import json
import platform
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from clients import attempts, streams
from harness.certificates import Authority
from harness.metrics import Metrics
from harness.wait import wait_until

HERE = Path(__file__).resolve().parent
PROBE = "/usr/sbin/boot-test-probe"
RESULTS = "/run/boot-test"
UNITS = ("stockd.service", "stock-client@.service")
INSTANCE = "fast"

# --- what each directive is for ---

# What else is in [Service]: how it is started and ended, and what is done when it fails.
NO_SANDBOX = re.compile(
    r"Type|NotifyAccess|Exec\w+|ReloadSignal|EnvironmentFile|Sockets|Restart\w*|SuccessExitStatus"
    r"|Timeout\w+Sec|WatchdogSec"
)

# These give the service mounts of its own, each alone.
MOUNTING = (
    "RootDirectory",
    "BindReadOnlyPaths",
    "InaccessiblePaths",
    "TemporaryFileSystem",
    "NoExecPaths",
    "DynamicUser",
    "PrivateTmp",
    "ProtectSystem",
    "ProtectHome",
    "PrivateDevices",
    "PrivateIPC",
    "ProtectControlGroups",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProcSubset",
    "PrivateUsers",
)
# These take away rights and system calls.
CONFINING = (
    "DynamicUser",
    "NoNewPrivileges",
    "RestrictSUIDSGID",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "PrivateUsers",
    "PrivateDevices",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "SystemCallArchitectures",
    "SystemCallFilter",
)


def dynamic(uid):
    """What systemd gives to DynamicUser=."""
    return 61184 <= int(uid) <= 65519


def no_capability(mask):
    return int(mask, 16) == 0


def some_capability(mask):
    return int(mask, 16) != 0


def refused(error):
    """By a filter, or by the kernel in its place: newer managers ask newer kernels for more."""
    return error in ("EACCES", "EPERM")


CAP_WAKE_ALARM = 1 << 35


class Case(NamedTuple):
    """
    What a probe gives where the directive is in effect (`held`), and without it (`free`): a text or
    a condition. `guards` forbid the same. `extra` are settings of both control runs, before all
    others; of a setting that can be given once they take effect only where the unit's own is left
    out. What only one unit forbids, with a directive that the other has, too, is the `only` one's.
    """

    directive: str
    probe: str
    held: object
    free: object
    guards: tuple = ()
    extra: tuple = ()
    only: str = ""

    def alone(self):
        return Run(frozenset(self.guards) - {self.directive}, self.extra)

    def control(self):
        return Run(frozenset((*self.guards, self.directive)), self.extra)


class Run(NamedTuple):
    """A start of the probe: without these directives, with these settings."""

    without: frozenset = frozenset()
    extra: tuple = ()
    mode: str = ""


AS_IT_IS = Run()
CASES = (
    # Files
    Case("RootDirectory", "read /var/lib/dpkg/status", "ENOENT", "OK"),
    Case(
        "TemporaryFileSystem",
        "connect /run/dbus/system_bus_socket",
        "ENOENT",
        "OK",
        ("RootDirectory",),
    ),
    # There it is, and only root may.
    Case(
        "TemporaryFileSystem",
        "connect /run/systemd/private",
        "ENOENT",
        "EACCES",
        ("RootDirectory",),
    ),
    Case(
        "TemporaryFileSystem",
        "make /run",
        "EROFS",
        "OK",
        ("RootDirectory", "ProtectSystem", "DynamicUser"),
    ),
    Case(
        "TemporaryFileSystem",
        "mount /run",
        lambda options: "noexec" in options,
        lambda options: "noexec" not in options,
        ("RootDirectory", "ProtectSystem", "DynamicUser"),
    ),
    # Its opposite is BindPaths=: without any there would be no programs and no libraries.
    *(
        Case("BindReadOnlyPaths", f"write {path}", "EROFS", "OK", ("ProtectSystem", "DynamicUser"))
        for path in (
            "/etc/boot-test-file",
            "/usr/lib/boot-test-file",
            "/usr/local/lib/boot-test-file",
        )
    ),
    Case("InaccessiblePaths", "read /usr/bin/boot-test-file", "EACCES", "OK", only=UNITS[0]),
    Case("InaccessiblePaths", "execute /usr/bin", "EACCES", "ENOEXEC", only=UNITS[0]),
    Case("InaccessiblePaths", "read /dev/shm", "EACCES", "OK"),
    Case("InaccessiblePaths", "read /dev/shm/boot-test-file", "EACCES", "OK"),
    Case("InaccessiblePaths", "make /dev/shm", "EACCES", "OK"),
    *(
        Case("NoExecPaths", f"execute {folder}", "EACCES", "ENOEXEC")
        for folder in ("/tmp", "/var/tmp")
    ),
    Case(
        "PrivateTmp", "read /tmp/boot-test-file", "ENOENT", "OK", ("RootDirectory", "DynamicUser")
    ),
    Case(
        "PrivateTmp",
        "read /var/tmp/boot-test-file",
        "ENOENT",
        "OK",
        ("RootDirectory", "DynamicUser"),
    ),
    Case("ProtectSystem", "make /", "EROFS", "OK", ("DynamicUser",)),
    Case("ProtectSystem", "make /var", "EROFS", "OK", ("DynamicUser",)),
    Case(
        "ProtectHome",
        "read /home/boot-test/file",
        lambda error: refused(error) or error == "ENOENT",
        "OK",
        ("RootDirectory", "DynamicUser"),
    ),
    Case("UMask", "mode", "0600", "0644"),
    Case("RestrictSUIDSGID", "set-user-ID", "EPERM", "OK", ("DynamicUser",)),
    # Who it is
    Case("DynamicUser", "user", dynamic, "0"),
    Case("NoNewPrivileges", "NoNewPrivs", "1", "0", CONFINING),
    Case("CapabilityBoundingSet", "CapBnd", no_capability, some_capability),
    Case(
        "AmbientCapabilities",
        "CapAmb",
        no_capability,
        some_capability,
        ("CapabilityBoundingSet",),
        ("AmbientCapabilities=CAP_NET_BIND_SERVICE",),
    ),
    Case(
        "PrivateUsers",
        "/proc/self/uid_map",
        lambda text: text.split() != ["0", "0", "4294967295"],
        lambda text: text.split() == ["0", "0", "4294967295"],
    ),
    Case(
        "KeyringMode",
        "key of the session",
        "OK",
        "ENOKEY",
        ("SystemCallFilter",),
        ("KeyringMode=inherit",),
    ),
    # What it shares with others
    Case("PrivateIPC", "namespace ipc", "own", "shared"),
    Case("PrivateIPC", "System V segment", "ENOENT", "OK", ("SystemCallFilter",)),
    Case("PrivateMounts", "namespace mnt", "own", "shared", MOUNTING),
    # InaccessiblePaths= lets nobody leave anything there.
    Case(
        "RemoveIPC",
        "left in /dev/shm",
        "nothing",
        "a file",
        ("DynamicUser", "InaccessiblePaths"),
        ("User={user}",),
    ),
    Case("ProtectHostname", "namespace uts", "own", "shared"),
    Case("ProtectHostname", "call sethostname", "EPERM", "EINVAL", CONFINING),
    Case("ProtectProc", "read /proc/1/status", "ENOENT", "OK"),
    Case("ProtectProc", "processes", "1", lambda count: int(count) > 1),
    # Devices and the kernel
    Case("PrivateDevices", "read /dev/boot-test-file", "ENOENT", "OK"),
    # A device that is not there: ENXIO, if the control group lets anybody ask for it.
    Case(
        "DevicePolicy",
        "read /dev/boot-test-device",
        "EPERM",
        "ENXIO",
        ("PrivateDevices", "ProtectClock"),
    ),
    # The container lets nobody set the clock; that is seen of a capability that goes with it.
    Case(
        "ProtectClock",
        "CapBnd",
        lambda mask: not int(mask, 16) & CAP_WAKE_ALARM,
        lambda mask: int(mask, 16) & CAP_WAKE_ALARM,
        ("CapabilityBoundingSet",),
    ),
    Case(
        "ProtectControlGroups", "write /sys/fs/cgroup/cgroup.procs", "EROFS", "OK", ("DynamicUser",)
    ),
    Case("ProtectKernelLogs", "call syslog", "EPERM", "OK", CONFINING),
    Case("ProtectKernelModules", "read /usr/lib/modules/boot-test-file", "EACCES", "OK"),
    Case(
        "ProtectKernelTunables",
        "write /proc/sys/net/ipv4/ip_default_ttl",
        "EROFS",
        "OK",
        ("ProcSubset", "DynamicUser"),
    ),
    Case("ProcSubset", "read /proc/meminfo", "ENOENT", "OK"),
    # System calls
    Case("RestrictAddressFamilies", "socket AF_NETLINK", "EAFNOSUPPORT", "OK"),
    Case("RestrictAddressFamilies", "socket AF_PACKET", "EAFNOSUPPORT", "EPERM"),
    Case("RestrictNamespaces", "call unshare", "EPERM", "EINVAL", ("SystemCallFilter",)),
    Case("RestrictNamespaces", "call setns", "EPERM", "EBADF", ("SystemCallFilter",)),
    Case("RestrictRealtime", "call sched_setscheduler", "EPERM", "EINVAL", ("SystemCallFilter",)),
    Case("LockPersonality", "call personality", "EPERM", "OK", ("SystemCallFilter",)),
    Case("MemoryDenyWriteExecute", "map writable and executable", refused, "OK"),
    Case("MemoryDenyWriteExecute", "protect executable", refused, "OK"),
)

# A filter's own actions end the process, and so these are asked for one at a time.
ENDING = {
    "SystemCallArchitectures": ("--foreign", "killed", "OK"),
    "SystemCallErrorNumber": ("--refused", "EPERM", "killed"),
}

# Of these only what they are set to is seen: a container of systemd-nspawn on control groups of
# version 1 and 2 has neither the pids nor the memory controller, and nobody runs out of memory.
UNSHOWN = {
    "TasksMax": {"stockd.service": "8", "stock-client@.service": "16"},
    "OOMPolicy": {"stockd.service": "continue"},
}
# Each has a test of its own, below.
ELSEWHERE = {"LimitNOFILE", "OOMScoreAdjust", "SystemCallFilter"}

# What the container forbids by itself, so that nothing can be told of the filter: that they are
# refused is all that is seen.
REFUSED_BY_CONTAINER = {
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "init_module",
    "kexec_load",
    "memfd_secret",
    "mlock",
    "open_by_handle_at",
    "perf_event_open",
    "pkey_mprotect",
    "quotactl",
    "settimeofday",
    "swapon",
}


# --- running the probe ---


def directives(text):
    """The lines of [Service], as (name, value)."""
    section = None
    found = []
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            found.append((name, value))
    return found


def unit_for(text, run, name, user):
    """A unit that starts the probe with what `text` says, but for what the run leaves out."""
    lines = ["[Service]", "Type=oneshot", f"ExecStart={PROBE} {run.mode or name}"]
    lines += [f"StandardOutput=truncate:{RESULTS}/{name}", f"SyslogIdentifier={name}"]
    lines += [line.format(user=user) for line in run.extra]
    for directive, value in directives(text):
        if NO_SANDBOX.fullmatch(directive) and directive != "EnvironmentFile":
            continue
        if directive in run.without:
            if directive != "BindReadOnlyPaths" or "RootDirectory" in run.without:
                continue
            directive = "BindPaths"
        lines.append(f"{directive}={value}")
    return "\n".join(lines) + "\n"


SETUP = """
mkdir -p "$1" /home/boot-test /usr/lib/modules /usr/local/lib
for path in /home/boot-test/file /etc/boot-test-file /usr/lib/boot-test-file \\
  /usr/local/lib/boot-test-file /usr/lib/modules/boot-test-file /run/boot-test-file \\
  /tmp/boot-test-file /var/tmp/boot-test-file /dev/boot-test-file /dev/shm/boot-test-file
do
  install -D -m 644 /dev/null "$path"
done
for folder in stockd systemd/resolve resolvconf NetworkManager avahi-daemon nscd; do
  install -D -m 644 /dev/null /run/$folder/boot-test-file
done
install -m 755 /dev/null /usr/bin/boot-test-file
[ -e /dev/boot-test-device ] || mknod -m 666 /dev/boot-test-device c 240 0
"""


def build_probe(folder):
    program = folder / "probe"
    subprocess.run(
        ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-static"]
        + ["-o", program, HERE / "probe.c"],
        check=True,
    )
    return program


def spaces(box):
    """The namespaces of the box, by their kind."""
    shown = box.shell("for kind in ipc uts mnt; do echo $kind $(readlink /proc/1/ns/$kind); done")
    return dict(line.split() for line in shown.output.splitlines())


def understand(answers, shared):
    """Adds what can be told from the texts that the probe has copied."""
    for line in answers["/proc/self/status"].splitlines():
        name, _, value = line.partition(":")
        answers[name] = value.strip()
    answers["user"] = answers["Uid"].split()[0]
    for kind, of_box in shared.items():
        answers[f"namespace {kind}"] = (
            "shared" if answers[f"/proc/self/ns/{kind}"] == of_box else "own"
        )
    for line in answers["/proc/self/mountinfo"].splitlines():
        fields = line.split()
        answers[f"mount {fields[4]}"] = fields[5]
    return answers


class Runs:
    """All starts that the cases want, each made once, for one unit."""

    def __init__(self, unit, text):
        self.unit = unit
        self.text = text
        self.directives = {name for name, _ in directives(text)}
        self.answers = {}
        self.names = {}
        wanted = [AS_IT_IS]
        for case in CASES:
            if case.directive in self.directives:
                wanted += [case.alone(), case.control()]
        wanted += [FILTERED, UNFILTERED, Run(frozenset({"LimitNOFILE"}))]
        for directive, (mode, _, _) in ENDING.items():
            wanted += [Run(mode=mode), Run(frozenset({directive}), mode=mode)]
        for run in dict.fromkeys(wanted):
            self.names[run] = f"boot-test-{unit.split('.')[0].strip('@')}-{len(self.names)}"

    def service(self, name):
        return f"{name}@{INSTANCE}.service" if "@" in self.unit else f"{name}.service"


# All that confines is left out, but the filter; and then it, too.
FILTERED = Run(frozenset(CONFINING) - {"SystemCallFilter"})
UNFILTERED = Run(frozenset(CONFINING))


def start_all(box, all_runs):
    script = []
    for runs in all_runs:
        for run, name in runs.names.items():
            file = f"{name}@.service" if "@" in runs.unit else f"{name}.service"
            text = unit_for(runs.text, run, name, name)
            if any("{user}" in line for line in run.extra):
                script.append(f"useradd --system --no-create-home {name}")
            script.append(f"cat >/run/systemd/system/{file} <<'END'\n{text}END")
    script.append("systemctl daemon-reload")
    services = [runs.service(name) for runs in all_runs for name in runs.names.values()]
    # Those that are to end by a signal fail.
    script.append(f"systemctl start {' '.join(services)} || true")
    box.run("bash", "-e", text="\n".join(script))


def collect(box, all_runs):
    shared = spaces(box)
    left = set(box.run("ls", "/dev/shm").output.split())
    separator = "\x1e"
    texts = {}
    show = "cd $1; for file in *; do printf '%s\\036' $file; cat $file; printf '\\036'; done"
    parts = box.shell(show, RESULTS).output.split(separator)
    for name, text in zip(parts[0::2], parts[1::2]):
        texts[name] = text
    for runs in all_runs:
        for run, name in runs.names.items():
            result = box.property(runs.service(name), "Result")
            if result != "success":
                killed = box.property(runs.service(name), "ExecMainStatus") == "31"
                said = box.run("journalctl", "-q", "-u", runs.service(name)).output
                assert killed and run.mode, f"{name}, {run}: {result}\n{said}"
                runs.answers[run] = "killed"
                continue
            answers = json.loads(texts[name])
            if run.mode:
                [runs.answers[run]] = answers.values()
                continue
            understand(answers, shared)
            answers["left in /dev/shm"] = (
                "a file" if f"boot-test-made-{name}" in left else "nothing"
            )
            runs.answers[run] = answers


@pytest.fixture(scope="module")
def probed(installed, tmp_path_factory):
    """{unit: what the probe found in all of its runs}"""
    box = installed
    program = build_probe(tmp_path_factory.mktemp("probe"))
    with open(program, "rb") as file:
        subprocess.run(
            box.command("install", "-m", "755", "/dev/stdin", PROBE), stdin=file, check=True
        )
    box.shell(SETUP, RESULTS)
    box.run(PROBE, "--share")
    all_runs = []
    for unit in UNITS:
        text = box.read(box.property(unit.replace("@", f"@{INSTANCE}"), "FragmentPath"))
        all_runs.append(Runs(unit, text))
    start_all(box, all_runs)
    collect(box, all_runs)
    return {runs.unit: runs for runs in all_runs}


def fits(value, wanted):
    return bool(wanted(value)) if callable(wanted) else value == wanted


# --- the tests ---


@pytest.mark.parametrize("unit", UNITS)
def test_every_directive_is_tried(probed, unit):
    """One that is new in the unit needs a case above, and one that is gone needs none."""
    names = {name for name in probed[unit].directives if not NO_SANDBOX.fullmatch(name)}
    tried = {case.directive for case in CASES if case.only in ("", unit)}
    tried |= set(ENDING) | ELSEWHERE | {name for name, of in UNSHOWN.items() if unit in of}
    if unit != "stockd.service":
        tried.discard("OOMScoreAdjust")
    assert names == tried


def test_instances_have_the_same_sandbox(installed):
    def sandbox(unit):
        text = installed.read(installed.property(unit, "FragmentPath"))
        lines = [line for line in directives(text) if not NO_SANDBOX.fullmatch(line[0])]
        assert len(lines) > 30
        return lines

    assert sandbox("stockd.service") == sandbox("stockd@1.service")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.directive}-{case.probe.replace('/', '_')}" for case in CASES]
)
def test_directive(probed, unit, case):
    answers = probed[unit].answers
    if case.only not in ("", unit):
        assert fits(answers[AS_IT_IS][case.probe], case.free)
        return
    of_all, of_it, of_none = (
        answers[run].get(case.probe) for run in (AS_IT_IS, case.alone(), case.control())
    )
    if case.directive == "RemoveIPC":
        assert answers[case.alone()]["leave /dev/shm"] == "OK", "there was nothing to take away"
    assert fits(of_none, case.free), f"without {case.directive}: {of_none}"
    assert fits(of_it, case.held), f"with {case.directive}: {of_it}"
    assert not fits(of_it, case.free)
    assert not fits(of_all, case.free), f"with all: {of_all}"


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("directive", ENDING)
def test_directive_that_ends_the_process(probed, unit, directive):
    mode, held, free = ENDING[directive]
    if directive == "SystemCallArchitectures":
        assert platform.machine() == "x86_64", "probe.c knows how to do this on x86-64 only"
    answers = probed[unit].answers
    assert answers[Run(mode=mode)] == held
    assert answers[Run(frozenset({directive}), mode=mode)] == free


@pytest.mark.parametrize("unit", UNITS)
def test_system_calls(probed, unit):
    """Refused by the filter alone, and by all together; and without it the kernel is asked."""
    answers = probed[unit].answers
    filtered, unfiltered, full = (answers[run] for run in (FILTERED, UNFILTERED, AS_IT_IS))
    calls = {name.removeprefix("call ") for name in full if name.startswith("call ")}
    assert len(calls) > 70 and calls > REFUSED_BY_CONTAINER
    # stock-client makes threads. RestrictNamespaces= cannot look into the arguments of clone3, and
    # says that there is no such call: then clone is used.
    threads = {"clone", "clone3"} if unit.startswith("stock-client") else set()
    wrong = {}
    for call in sorted(calls - threads):
        seen = tuple(run[f"call {call}"] for run in (full, filtered, unfiltered))
        as_wanted = seen[:2] == ("EPERM", "EPERM")
        if (seen[2] == "EPERM") != (call in REFUSED_BY_CONTAINER) or not as_wanted:
            wrong[call] = seen
    assert wrong == {}, "call: (with all, with the filter alone, without it)"
    for call in threads:
        assert filtered[f"call {call}"] == "EINVAL", "not let through"
    assert full["call clone3"] == ("ENOSYS" if threads else "EPERM")


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_there(probed, unit):
    """What the service needs, and nothing more of what others have."""
    full = probed[unit].answers[AS_IT_IS]
    for name in ("AF_INET", "AF_INET6", "AF_UNIX"):
        assert full[f"socket {name}"] == "OK"
    families = {name for name in full if name.startswith("socket ") and full[name] == "OK"}
    assert len(families) == 3, families
    for path in ("/etc", "/usr/local/lib"):
        assert full[f"read {path}/boot-test-file"] == "OK"
    assert full["connect /run/systemd/journal/stdout"] == "OK"
    assert full["connect /run/systemd/notify"] == "ENOENT"
    # Private ones.
    writable = {name for name in full if name.startswith("make ") and full[name] == "OK"}
    assert writable == {"make /tmp", "make /var/tmp"}
    assert [name for name in full if name.startswith("execute ") and full[name] == "OK"] == []
    assert full["Seccomp"] == "2" and full["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert no_capability(full[name])


RUN_FOLDERS = ("stockd", "systemd/resolve", "resolvconf", "NetworkManager", "avahi-daemon", "nscd")


@pytest.mark.parametrize("unit", UNITS)
def test_what_of_run_is_there(probed, unit):
    """The client is the control of the daemon: what this must not see, the other does."""
    full = probed[unit].answers[AS_IT_IS]
    seen = {name for name in RUN_FOLDERS if full[f"read /run/{name}/boot-test-file"] == "OK"}
    wanted = {"stockd"} if unit == "stockd.service" else set(RUN_FOLDERS)
    assert seen == wanted
    assert full["read /run/boot-test-file"] == "ENOENT"
    wanted |= {"systemd/journal", "systemd/incoming"}
    mounts = {name.removeprefix("mount /run/") for name in full if name.startswith("mount /run/")}
    # From systemd 257 on the manager adds the system's os-release, and its sockets one by one.
    mounts = {name for name in mounts if not name.startswith(("systemd/journal/", "host/"))}
    assert mounts == wanted
    for name in ("/run", *(f"/run/{name}" for name in mounts)):
        assert "ro" in full[f"mount {name}"].split(",")


@pytest.mark.parametrize("unit, limit", [("stockd.service", 10128), (UNITS[1], 1024)])
def test_descriptors(probed, unit, limit):
    """As many as the unit says can be open, and not one more."""
    answers = probed[unit].answers

    def limits(run):
        text = answers[run]["/proc/self/limits"]
        return tuple(map(int, re.search(r"^Max open files +(\d+) +(\d+)", text, re.M).groups()))

    assert limits(AS_IT_IS) == (limit, limit)
    assert answers[AS_IT_IS]["descriptors"] == str(limit)
    assert limits(Run(frozenset({"LimitNOFILE"}))) != (limit, limit)


def test_score_for_lack_of_memory(probed, installed):
    """Where the box may lower it at all: for that its own root needs CAP_SYS_RESOURCE."""
    may = installed.shell("echo -100 >/proc/self/oom_score_adj", check=False).status == 0
    seen = probed["stockd.service"].answers[AS_IT_IS]["/proc/self/oom_score_adj"].strip()
    assert seen == ("-100" if may else "0")
    assert installed.property("stockd", "OOMScoreAdjust") == "-100"


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("directive", UNSHOWN)
def test_directive_without_effect_here(probed, installed, unit, directive):
    wanted = UNSHOWN[directive].get(unit)
    if wanted is None:
        assert directive not in probed[unit].directives
        return
    assert installed.property(unit.replace("@", f"@{INSTANCE}"), directive) == wanted


# --- the running services ---


def status(box, pid):
    lines = box.read(f"/proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("unit", UNITS)
def test_running_service_is_confined(service, unit):
    """Not only the probe: the same holds for the programs as they run."""
    name = unit.replace("@", f"@{INSTANCE}")
    service.systemctl("start", name)
    pid = service.main_pid(name)
    seen = status(service, pid)
    of_other = status(service, 1)
    assert seen["NoNewPrivs"] == "1" and of_other["NoNewPrivs"] == "0"
    assert seen["Seccomp"] == "2"
    assert set(map(dynamic, seen["Uid"].split() + seen["Gid"].split())) == {True}
    for mask in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert no_capability(seen[mask]), (mask, seen)
    assert some_capability(of_other["CapEff"])
    assert seen["Umask"] == "0077"
    # Of shared memory it has an empty folder that nobody may look into.
    paths = [f"/proc/{process}/root/dev/shm" for process in (pid, 1)]
    assert service.run("stat", "-c", "%a", *paths).output.split() == ["0", "1777"]
    # Not one page that can be both written to and executed, as far as it ever mapped any.
    pages = [line.split()[1] for line in service.read(f"/proc/{pid}/maps").splitlines()]
    assert any("x" in rights for rights in pages)
    assert [rights for rights in pages if "w" in rights and "x" in rights] == []


# What the filter refuses ends the process at once, so that nothing that is refused stays hidden.
# Two are tried by libraries that do without: prctl by libcap, which comes with libsystemd and asks
# for capabilities when it is loaded; and io_uring_setup by newer versions of libuv.
KILL = (
    "[Service]\nSystemCallErrorNumber=kill\nSystemCallFilter=~prctl:EPERM io_uring_setup:EPERM\n"
)


def test_stockd_needs_no_refused_call(service, tmp_path):
    """Whatever stockd does, the filter refuses none of its system calls."""
    box = service
    authority = Authority(tmp_path)
    identity = authority.server()
    box.write("/etc/stockd-keys/server.pem", identity.certificate.read_text())
    box.write("/etc/stockd-keys/server.key", identity.key.read_text(), "600")
    box.drop_in(
        "stockd.service",
        KILL + "RuntimeDirectory=boot-test\n"
        "LoadCredential=certificate:/etc/stockd-keys/server.pem\n"
        "LoadCredential=key:/etc/stockd-keys/server.key\n",
    )
    settings = (
        "[grpc]\nlisten = [::]:4444, [::]:4443 tls=yes, unix:/run/boot-test/grpc.sock mode=0666\n"
        "[metrics]\nlisten = [::]:2112, unix:/run/boot-test/metrics.sock mode=0666\n"
        "[tls]\ncertificate = /credentials/certificate\nkey = /credentials/key\n"
        "[log]\nlevel = debug\n[stream]\ninterval = "
    )
    box.configure(settings + "100ms\n")
    since = box.now()
    box.systemctl("restart", "stockd")
    pid = box.main_pid()
    with (
        streams(box, 5) as plain,
        streams(box, 5, "--tls", authority.certificate, port=4443) as secure,
        attempts(box) as knocking,
    ):
        box.run(
            "stock-client", "--no-metrics", "--no-reconnect", "--count=3", "--quiet",
            "unix:/run/boot-test/grpc.sock",
        )  # fmt: skip
        box.run("curl", "-sf", "--unix-socket", "/run/boot-test/metrics.sock", "http://x/metrics")
        box.fetch("http://127.0.0.1:2112/metrics", "--compressed")
        box.configure(settings + "10ms\n")
        box.systemctl("reload", "stockd")
        box.wait_journal(since, "STOCKD_EVENT=reloaded")
        # And one that is refused, by stockd itself and not by the check before it.
        box.configure(settings + "never\n")
        box.run("kill", "-HUP", pid)
        box.wait_journal(since, "STOCKD_EVENT=reload-refused")
        answered = knocking.report()["results"]["answered"]
        wait_until(lambda: knocking.report()["results"]["answered"] > answered + 20, 20, "answers")
        for load in (plain, secure):
            report = load.report()
            assert report["ends"] == {} and report["faults"] == [], report
        assert box.main_pid() == pid and box.property("stockd", "NRestarts") == "0"
        box.systemctl("stop", "stockd")
    assert box.property("stockd", "Result") == "success"
    assert box.property("stockd", "ExecMainStatus") == "0"


def test_client_needs_no_refused_call(service, tmp_path):
    """The same for stock-client: looking up names, TLS, metrics, a server that goes away."""
    box = service
    authority = Authority(tmp_path)
    identity = authority.server()
    box.write("/etc/stockd-keys/server.pem", identity.certificate.read_text())
    box.write("/etc/stockd-keys/server.key", identity.key.read_text(), "600")
    box.write("/etc/stockd-keys/ca.pem", authority.certificate.read_text())
    box.drop_in(
        "stockd.service",
        "[Service]\nLoadCredential=certificate:/etc/stockd-keys/server.pem\n"
        "LoadCredential=key:/etc/stockd-keys/server.key\n",
    )
    box.configure(
        "[grpc]\nlisten = [::]:4444, [::]:4443 tls=yes\n[stream]\ninterval = 10ms\n"
        "[tls]\ncertificate = /credentials/certificate\nkey = /credentials/key\n"
    )
    box.systemctl("restart", "stockd")
    box.drop_in("stock-client@.service", KILL)
    ports = {"fast": 2113, "boot-test": 2115}
    box.write(
        "/etc/stock-client/boot-test.env",
        'OPTIONS="--quiet --tls --cacert /etc/stockd-keys/ca.pem --metrics [::]:2115'
        ' localhost:4443"\n',
    )
    for name in ports:
        box.systemctl("start", f"stock-client@{name}")
    pids = {name: box.main_pid(f"stock-client@{name}") for name in ports}

    def received(port):
        page = box.fetch(f"http://127.0.0.1:{port}/metrics", check=False)
        return Metrics(page).sum("stock_updates_received_total") if page else 0

    def all_receive():
        before = {port: received(port) for port in ports.values()}
        wait_until(
            lambda: all(received(port) > count for port, count in before.items()), 30, "updates"
        )

    all_receive()
    box.systemctl("restart", "stockd")
    all_receive()
    for name, pid in pids.items():
        assert box.main_pid(f"stock-client@{name}") == pid
        box.systemctl("stop", f"stock-client@{name}")
        assert box.property(f"stock-client@{name}", "Result") == "success"


def test_refused_call_ends_stockd(service):
    """The control of both: one call that stockd does need, refused in the same way."""
    service.drop_in("stockd.service", KILL + "SystemCallFilter=~accept4\nRestart=no\n")
    service.systemctl("restart", "stockd")
    subprocess.run(service.network_command("curl", "-sm", "5", "http://127.0.0.1:2112/metrics"))
    service.wait_property("stockd", "ActiveState", "failed")
    assert service.property("stockd", "ExecMainStatus") == "31"  # SIGSYS


# --- addresses ---

EXAMPLES = "/usr/share/doc/stockd/examples/etc/systemd/system/stockd.service.d"
# Of the documentation (RFC 5737, RFC 3849), and ones that the example allows.
FAR = ("203.0.113.7", "2001:db8::7")
NEAR = ("10.203.0.7", "fd00:db8::7")
CONNECT = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
try:
    socket.create_connection((address, port), float(sys.argv[3]), (address, 0))
    print("connected")
except TimeoutError:
    print("no answer")
"""


def test_addresses(service):
    """The example that denies addresses, as the package has it: the kernel drops their packets."""
    box = service
    for address in FAR + NEAR:
        bits, nodad = ("128", "nodad") if ":" in address else ("32", "")
        box.shell(f"ip address replace {address}/{bits} dev lo {nodad}")

    def connect(address, port, timeout):
        done = subprocess.run(
            box.network_command("/usr/bin/python3", "-c", CONNECT, address, port, timeout),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    ports = (4444, 2112)
    for address in FAR + NEAR:
        assert {connect(address, port, 10) for port in ports} == {"connected"}
    box.drop_in("stockd.service", box.read(f"{EXAMPLES}/addresses.conf"))
    box.systemctl("restart", "stockd")
    for address in (*NEAR, "127.0.0.1", "::1"):
        assert {connect(address, port, 10) for port in ports} == {"connected"}
    for address in FAR:
        assert {connect(address, port, 0.5) for port in ports} == {"no answer"}
    with streams(box, 2):
        pass
