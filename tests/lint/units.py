#!/usr/bin/env python3
"""Checks the units as they are installed: systemd must understand every line of them, and how much
of the machine their services can reach must stay below a limit.

    tests/lint/units.py build/release

Neither needs a running systemd. That both checks can fail is tried each time.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
UNIT_PATH = (SYSTEM_UNITS, Path("/usr/local/lib/systemd/system"))

# In tenths: 10 is 1.0. What is left is what a server is for: the network.
EXPOSURE_MAX = 10

SERVICES = ("stockd.service", "stockd@.service", "stock-client@.service")
INSTANCES = {"stockd@.": "stockd@1.", "stockd-metrics@.": "stockd-metrics@1.",
             "stock-client@.": "stock-client@fast."}


def install(build: Path, root: Path) -> Path:
    """The system's units, and ours, in `root`. The folder in which ours are."""
    subprocess.run(["cmake", "--install", build], env={**os.environ, "DESTDIR": str(root)},
                   stdout=subprocess.DEVNULL, check=True)
    [unit] = root.rglob("stockd.service")
    shutil.copytree(SYSTEM_UNITS, root / SYSTEM_UNITS.relative_to("/"), symlinks=True,
                    dirs_exist_ok=True)
    if unit.parent not in (root / folder.relative_to("/") for folder in UNIT_PATH):
        sys.exit(f"systemd looks for no units in /{unit.parent.relative_to(root)}")
    # What ExecReload= runs beside stockd.
    shell = root / "usr/bin/sh"
    shell.parent.mkdir(parents=True, exist_ok=True)
    shell.symlink_to("/bin/true")
    return unit.parent


def our_units() -> list[str]:
    """Those that stand in the source, by the names that they are installed as."""
    names = [path.name.removesuffix(".in") for path in (SOURCE / "systemd").iterdir()
             if re.search(r"\.(service|socket)(\.in)?$", path.name)]
    # Both are made of one text.
    return sorted({*names, *SERVICES})


def instance(unit: str) -> str:
    for template, name in INSTANCES.items():
        if unit.startswith(template):
            return unit.replace(template, name)
    return unit


def verify(root: Path, units: list[str]) -> str:
    """What systemd says against them, "" for nothing."""
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--recursive-errors=yes", "--man=no",
         *map(instance, units)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False)
    return done.stdout or ("" if done.returncode == 0 else f"exit status {done.returncode}")


def exposure(unit: Path) -> tuple[bool, str]:
    """Whether it is low enough, and the last line, which says how high it is."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}",
         "--no-pager", unit], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False)
    lines = done.stdout.strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit status {done.returncode}"


def check_that_checks_fail(root: Path, folder: Path) -> None:
    """A key that there is none of, and a service without one of its sandbox's directives."""
    unit = folder / "stockd.service"
    text = unit.read_text(encoding="utf-8")
    try:
        unit.write_text(text.replace("[Service]\n", "[Service]\nProtectClocks=yes\n"),
                        encoding="utf-8")
        if "ProtectClocks" not in verify(root, ["stockd.service"]):
            sys.exit("systemd-analyze verify does not see an unknown key")
        weaker = text.replace("\nProtectClock=yes\n", "\n")
        if weaker == text:
            sys.exit("stockd.service has no ProtectClock=yes to take away")
        unit.write_text(weaker, encoding="utf-8")
        if exposure(unit)[0]:
            sys.exit("systemd-analyze security does not see what a sandbox lacks")
    finally:
        unit.write_text(text, encoding="utf-8")


def check_descriptors(folder: Path) -> str:
    """LimitNOFILE= is for as many connections as stockd takes, and what it keeps beside them."""
    settings = (SOURCE / "daemon/settings.c").read_text(encoding="utf-8")
    reserved = "".join(path.read_text(encoding="utf-8")
                       for path in sorted((SOURCE / "daemon").glob("*.[ch]")))
    connections = re.search(r'"max_connections",[^"]*?"(\d+)"', settings)
    kept = re.search(r"#define DESCRIPTORS_RESERVED (\d+)", reserved)
    limit = re.search(r"^LimitNOFILE=(\d+)$", (folder / "stockd.service").read_text(), re.M)
    if not connections or not kept or not limit:
        return "LimitNOFILE=, max_connections or DESCRIPTORS_RESERVED is not where it was"
    wanted = int(connections[1]) + int(kept[1])
    if int(limit[1]) != wanted:
        return (f"stockd.service: LimitNOFILE={limit[1]}, but max_connections and "
                f"DESCRIPTORS_RESERVED make {wanted}")
    return ""


def check_examples(root: Path) -> str:
    """With all examples in effect at once."""
    examples = SOURCE / "systemd/examples/etc"
    shutil.copytree(examples, root / "etc", dirs_exist_ok=True)
    sockets = [path.name for path in (examples / "systemd/system").glob("*.socket")]
    if not sockets:
        return "there are no examples of sockets"
    return verify(root, [*our_units(), *sorted(sockets)])


def main() -> None:
    build = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="stockd-units-") as name:
        root = Path(name)
        folder = install(build, root)
        check_that_checks_fail(root, folder)
        faults = [verify(root, our_units()), check_descriptors(folder), check_examples(root)]
        for unit in SERVICES:
            low, line = exposure(folder / unit)
            print(line)
            if not low:
                faults.append(f"{unit}: more than {EXPOSURE_MAX / 10}: {line}")
    if any(faults):
        sys.exit("\n".join(fault.rstrip() for fault in faults if fault))


if __name__ == "__main__":
    main()
