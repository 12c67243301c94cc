"""
Root file systems of Debian for boxes, made by mmdebstrap and kept outside the tree. A root is never
changed: a box lays its own files over it.

What is kept is named by a hash of all that it was made of. It is written aside and renamed when it
is whole, so that one that is there can be used; who makes one holds its lock, so that two at once
make it once.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

# For all of them: a system to boot, and what looks into it.
BASE = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "jq",
    "procps",
    "systemd",
    "systemd-sysv",
    "tzdata",
)

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
KEEP = 4  # of each kind at least
UNUSED_S = 10 * 86400
# A whole run takes less: what is older is in nobody's hands.
IN_USE_S = 3600

# A part of what a root is made of that is not seen in its list of packages; a change of what
# make_root() does must change it.
RECIPE = "2"


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "stockd-boot"


@contextlib.contextmanager
def locked(path, wait=True):
    """Holds a lock, and yields true; false if somebody else has it and `wait` is off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def age_s(path):
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0


def forget_unused(kind):
    """Removes what has been made of this kind and is not wanted any more."""
    found = [path for path in cache_folder().glob(f"{kind}-*") if path.is_dir()]
    for place, old in enumerate(sorted(found, key=age_s)):
        if age_s(old) > (UNUSED_S if place < KEEP else IN_USE_S):
            shutil.rmtree(old, ignore_errors=True)
    # What somebody left unfinished, unless it is just being made. (Its time tells nothing: in a root
    # it is that of the package that has the topmost folder.)
    for new in cache_folder().glob(f"new-{kind}-*"):
        with locked(cache_folder() / f"{new.name.removeprefix('new-')}.lock", wait=False) as ours:
            if ours:
                shutil.rmtree(new, ignore_errors=True)


def kept(kind, parts, make):
    """
    The folder of this kind that is made of `parts` (texts); if there is none yet, make(folder)
    makes it, in an empty folder of another name.
    """
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{kind}-{key}"
    with locked(cache_folder() / f"{kind}-{key}.lock"):
        if not folder.is_dir():
            new = cache_folder() / f"new-{kind}-{key}"
            if new.exists():
                shutil.rmtree(new)  # of somebody who was interrupted
            new.mkdir(mode=0o755)
            make(new)
            os.utime(new)
            new.rename(folder)
        os.utime(folder)
    forget_unused(kind)
    return folder


def run_logged(argv, what, environment=None, timeout=1200):
    """Runs a program that has to succeed; what it wrote is in the error if it does not."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f"{what} took longer than {timeout} s") from expired
    if done.returncode != 0:
        raise AssertionError(f"{what} failed with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def mirrors():
    """(Debian's mirror, that of its security updates): those that apt uses here, else the usual."""
    found = {"Debian": "http://deb.debian.org/debian"}
    found["Debian-Security"] = "http://deb.debian.org/debian-security"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    seen = {}
    for line in targets.stdout.splitlines():
        label, _, uri = line.rpartition(" ")
        if label in found and uri.startswith(("http://", "https://")):
            seen.setdefault(label, uri.rstrip("/"))
    found.update(seen)
    return found["Debian"], found["Debian-Security"]


def make_root(suite, packages, disabled, folder):
    """
    Makes the root file system of a suite in an empty folder. Services that are `disabled` have
    their packages installed and are not started at boot.
    """
    main, security = mirrors()
    hooks = []
    # Timers that would do something in the middle of a test.
    idle = ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"]
    hooks.append(
        f'for unit in {" ".join(idle)}; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done'
    )
    for service in disabled:
        hooks.append(f'chroot "$1" systemctl disable {service}')
    # A box has nobody to ask, and installs from nowhere but from what a test gives it.
    hooks.append('rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*')
    hooks.append('echo box > "$1/etc/hostname"; rm -f "$1/etc/resolv.conf"')
    # The installer of Debian writes this file, and no package does.
    hooks.append(r'printf "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 box\n" > "$1/etc/hosts"')
    run_logged(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            '--aptopt=Acquire::Languages "none"',
            "--aptopt=Acquire::Retries 3",
            *(f"--customize-hook={hook}" for hook in hooks),
            f"--keyring={KEYRING}",
            suite,
            folder,
            f"deb {main} {suite} main",
            f"deb {main} {suite}-updates main",
            f"deb {security} {suite}-security main",
        ],
        f"making a root of {suite}",
    )


def root(suite, more=(), disabled=(), kind="root"):
    """A root file system of the suite with BASE, the packages `more`, and those `disabled`."""
    packages = sorted({*BASE, *more, *disabled})
    return kept(
        f"{kind}-{suite}",
        [RECIPE, suite, *mirrors(), *packages, "disabled", *disabled],
        lambda folder: make_root(suite, packages, disabled, folder),
    )
