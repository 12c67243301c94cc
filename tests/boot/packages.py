"""
The packages under test: built from the tree as it is, by packaging/deb.sh, for the suite of this
machine and for others (there in a root of their own), and kept until the tree changes.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from roots import kept, root, run_logged

SOURCE = Path(__file__).resolve().parents[2]
NAMES = ("stockd", "stock-client", "stockd-observability")

# An earlier release, as far as dpkg is concerned.
PREVIOUS = "0.1.0"


def tracked_files():
    """All that packages are made of, tests and all."""
    listed = subprocess.run(
        [SOURCE / "packaging" / "tracked.sh"], check=True, stdout=subprocess.PIPE
    )
    return [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]


def fingerprint():
    """Of all files that the packages are made of; the tests are not among them."""
    digest = hashlib.sha256()
    for name in tracked_files():
        if name.startswith("tests/"):
            continue
        path = SOURCE / name
        digest.update(f"{name}\0{os.access(path, os.X_OK)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def deb_field(deb, field):
    done = subprocess.run(
        ["dpkg-deb", "--field", str(deb), field], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def relation_names(text):
    """The packages that a field such as Depends names; of alternatives the first."""
    names = []
    for relation in text.split(","):
        match = re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", relation)
        if match:
            names.append(match.group(1))
    return names


class Packages:
    """The .debs of one version for one suite."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.debs = {}
        for deb in sorted(self.folder.glob("*.deb")):
            name = deb.name.partition("_")[0]
            if name in NAMES:
                assert name not in self.debs, f"two packages {name} in {self.folder}"
                self.debs[name] = deb
        assert set(self.debs) == set(NAMES), f"not all of {NAMES} are in {self.folder}"

    @property
    def version(self):
        return deb_field(self.debs["stockd"], "Version")

    def dependencies(self):
        """What they depend on beside each other, so that roots have it."""
        names = set()
        for deb in self.debs.values():
            for field in ("Depends", "Pre-Depends"):
                names.update(relation_names(deb_field(deb, field)))
        return sorted(names - set(NAMES))


def build_environment():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DEB_", "MAKEFLAGS"))}
    # The tests have been run, or will be, by ./dev test.
    environment["DEB_BUILD_OPTIONS"] = f"nocheck parallel={len(os.sched_getaffinity(0))}"
    environment["DEB_BUILD_PROFILES"] = "nocheck"
    environment["LC_ALL"] = "C.UTF-8"
    return environment


def is_current(folder):
    """Was what lies in the folder built after the last change of any file that it is made of?"""
    built = [path.stat().st_mtime for path in folder.glob("*.changes")]
    if not built:
        return False
    paths = {SOURCE / name for name in tracked_files() if not name.startswith("tests/")}
    # A folder changes when a file in it is removed.
    paths |= {path.parent for path in paths} - {SOURCE}
    return min(built) > max(path.stat().st_mtime for path in paths)


def build():
    """For the suite of this machine; those that ./dev package has made, if they are of this tree."""
    packaged = SOURCE / "build" / "packages"
    if is_current(packaged):
        return Packages(packaged)
    return Packages(
        kept(
            "packages-here",
            [fingerprint()],
            lambda folder: run_logged(
                [SOURCE / "packaging" / "deb.sh", folder], "packaging/deb.sh", build_environment()
            ),
        )
    )


def make_previous(current, folder):
    """
    What an upgrade comes from: the same programs under an earlier version, whose main configuration
    file is another, so that dpkg has to choose where somebody has changed it.
    """
    folder.mkdir(parents=True)
    for name, deb in current.debs.items():
        content = folder / name
        run_logged(["dpkg-deb", "--raw-extract", deb, content], "dpkg-deb")
        control = content / "DEBIAN" / "control"
        text = re.sub(r"^Version: .*", f"Version: {PREVIOUS}", control.read_text(), flags=re.M)
        control.write_text(text)
        configuration = content / "etc" / "stockd" / "stockd.conf"
        if configuration.exists():
            configuration.write_text("# As it was in an earlier version.\n")
        architecture = deb_field(deb, "Architecture")
        target = folder / f"{name}_{PREVIOUS}_{architecture}.deb"
        run_logged(["dpkg-deb", "--build", "-Znone", content, target], "dpkg-deb")
        shutil.rmtree(content)
    return Packages(folder)


def build_dependencies():
    """What packaging/debian/control asks for to build with, without what only the tests need."""
    control = (SOURCE / "packaging" / "debian" / "control").read_text()
    field = re.search(r"^Build-Depends:((?:.*\n)(?:[ \t].*\n)*)", control, re.MULTILINE).group(1)
    relations = [relation for relation in field.split(",") if "<!nocheck" not in relation]
    names = relation_names(",".join(relations))
    # debhelper-compat is a package in name only.
    return ["debhelper" if name == "debhelper-compat" else name for name in names]


# Runs in a mount namespace of its own, which ends with it: nothing stays mounted.
BUILD_IN_ROOT = """
set -eu
root=$1 scratch=$2
mount -t tmpfs -o mode=755,size=3g tmpfs "$scratch/over"
mkdir "$scratch/over/upper" "$scratch/over/work" "$scratch/over/root"
mount -t overlay -o "lowerdir=$root,upperdir=$scratch/over/upper,workdir=$scratch/over/work" \
  overlay "$scratch/over/root"
top=$scratch/over/root
mkdir -p "$top/src" "$top/out"
mount --bind "$scratch/src" "$top/src"
mount --bind "$scratch/out" "$top/out"
mount -t proc proc "$top/proc"
mount --rbind /dev "$top/dev"
exec chroot "$top" env HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin /src/packaging/deb.sh /out
"""


def make_in_root(suite, build_root, folder):
    with tempfile.TemporaryDirectory(prefix="stockd-boot-build-") as scratch:
        for name in ("over", "src", "out"):
            (Path(scratch) / name).mkdir(mode=0o755)
        for name in tracked_files():
            target = Path(scratch) / "src" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, target, follow_symlinks=False)
        run_logged(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
            + ["bash", "-c", BUILD_IN_ROOT, "build", build_root, scratch],
            f"packaging/deb.sh in a root of {suite}",
            build_environment(),
        )
        for file in (Path(scratch) / "out").iterdir():
            shutil.copy2(file, folder)


def build_in(suite):
    """For another suite, built in a root of it."""
    tools = ["build-essential", "dpkg-dev", "fakeroot"]
    build_root = root(suite, [*build_dependencies(), *tools], kind="build-root")
    return Packages(
        kept(
            f"packages-{suite}",
            [fingerprint(), build_root.name],
            lambda folder: make_in_root(suite, build_root, folder),
        )
    )


def repository(folder, *packages):
    """A repository for apt, with all versions given."""
    for one in packages:
        for deb in one.debs.values():
            shutil.copy2(deb, folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)
    # The second lists the first, too.
    for command, name in (("packages", "Packages"), ("release", "Release")):
        made = subprocess.run(
            ["apt-ftparchive", command, "."],
            cwd=folder,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        (folder / name).write_bytes(made.stdout)
    return folder
