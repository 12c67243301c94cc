"""Installing with apt, and what is there then; removing and purging, and what is there no more."""

import pytest
from box import Box
from clients import streams
from conftest import REPOSITORY

NAMES = ("stockd", "stock-client", "stockd-observability")

# Of these something is always left or changed: apt's and dpkg's own records, caches and logs.
FOREIGN = (
    "/dev",
    "/proc",
    "/run",
    "/srv",
    "/sys",
    "/tmp",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd/catalog",
    "/var/log",
    "/var/tmp",
)
LIST = """
prune=(); for place in "$@"; do prune+=(-path "$place" -o); done
find / -xdev \\( "${prune[@]}" -false \\) -prune -o ! -type d -printf '%p %y %m %u:%g %l\\n' \
  -o -type d -printf '%p %y %m %u:%g\\n' | sort
"""


@pytest.fixture(scope="module")
def fresh(bookworm, repository, log_folder):
    """A machine of this file's own, without any of our packages."""
    with Box(bookworm, "purge", log_folder, {REPOSITORY: repository}) as made:
        made.add_repository(REPOSITORY)
        yield made


def files(box):
    return set(box.shell(LIST, *FOREIGN).output.splitlines())


def catalog(box):
    return box.run("journalctl", "--list-catalog").output


def test_installed(installed):
    box = installed
    assert box.systemctl("is-active", "stockd").output == "active\n"
    assert box.systemctl("is-enabled", "stockd").output == "enabled\n"
    for name in NAMES:
        assert box.run("dpkg", "--verify", name).output == ""
    with streams(box, 1):
        pass
    assert box.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}\n", "stockd").output
    for program in ("stockd", "stock-client", "stockd-render", "stockd-obs"):
        assert box.run(program, "--version").output.strip().endswith("0.3.0")


def test_units_are_well_formed(installed):
    units = installed.shell(
        "dpkg -L stockd stock-client | grep -E '^(/usr)?/lib/systemd/system/[^/]+\\.[a-z]+$'"
    ).output.split()
    assert len(units) >= 7
    instances = [unit.replace("@.", "@1.") for unit in units]
    checked = installed.run(
        "systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", *instances, check=False
    )
    assert checked.status == 0 and checked.errors == "", checked


def test_starts_at_boot(installed):
    """What is enabled comes up by itself."""
    wanted = installed.run("systemctl", "list-dependencies", "--plain", "multi-user.target").output
    assert "stockd.service" in wanted


def test_conffiles(installed):
    shown = installed.run("dpkg-query", "-W", "-f", "${Conffiles}\n", *NAMES).output
    names = {line.split()[0] for line in shown.splitlines() if line.strip()}
    assert "/etc/stockd/stockd.conf" in names
    assert {"/etc/stock-client/fast.env", "/etc/stock-client/slow.env"} <= names
    in_etc = installed.shell('dpkg -L "$@" | grep ^/etc/', *NAMES).output
    for path in in_etc.split():
        if installed.run("test", "-f", path, check=False).status == 0:
            assert path in names, f"{path} would be overwritten on upgrade"


def test_purge_leaves_nothing(fresh):
    box = fresh
    before = files(box)
    words = catalog(box)
    box.apt("install", *NAMES)
    # All that stockd and its administrator make while it is there.
    box.configure("[stream]\ninterval = 50ms\n")
    box.configure("[stream]\ninterval = 50ms\n", instance="1")
    box.systemctl("enable", "--now", "stockd.socket", "stockd-metrics.socket", check=False)
    box.systemctl("restart", "stockd")
    box.systemctl("enable", "--now", "stock-client@fast", "stock-client@slow")
    box.systemctl("enable", "stockd@1.service", "stockd@1.socket", "stockd-metrics@1.socket")
    box.run("stockd-obs", "start")
    with streams(box, 2):
        pass
    during = files(box)
    assert any("/usr/sbin/stockd " in line for line in during - before)

    box.apt("remove", *NAMES)
    for unit in ("stockd.service", "stockd.socket", "stock-client@fast.service"):
        assert box.property(unit, "ActiveState") in ("inactive", "failed"), unit
    assert box.shell("pgrep -x 'stockd|stock-client|prometheus' || true").output == ""
    assert not box.exists("/run/stockd-obs")
    # Settings stay until they are purged, and nothing else does.
    left = {line.split()[0] for line in files(box) - before}
    kept = ("/etc/stock", "/etc/systemd/system", "/var/lib/systemd/deb-systemd-helper")
    stray = {path for path in left if not path.startswith(kept)}
    assert "/etc/stockd/stockd.conf" in left and stray == set(), stray

    box.apt("purge", *NAMES)
    after = files(box)
    assert sorted(after - before) == []
    assert sorted(before - after) == []
    assert catalog(box) == words
    box.systemctl("daemon-reload")
    for what in ("list-unit-files", "list-units"):
        assert box.systemctl(what, "--all", "--no-legend", "stock*", check=False).output == ""
    assert "stockd" not in box.read("/etc/passwd") + box.read("/etc/group")


def test_reinstall(fresh):
    """After a purge, and over itself."""
    box = fresh
    box.apt("install", *NAMES)
    with streams(box, 1):
        pass
    pid = box.main_pid()
    box.write("/etc/stockd/stockd.conf", "[stream]\ninterval = 20ms\n")
    box.apt("install", "--reinstall", *NAMES)
    assert box.read("/etc/stockd/stockd.conf") == "[stream]\ninterval = 20ms\n"
    assert box.main_pid() not in (0, pid)
    with streams(box, 1):
        pass


def test_remove_and_install_again_keeps_settings(fresh):
    box = fresh
    box.apt("remove", *NAMES)
    assert not box.exists("/usr/sbin/stockd")
    box.apt("install", *NAMES)
    assert box.read("/etc/stockd/stockd.conf") == "[stream]\ninterval = 20ms\n"
    assert box.systemctl("is-active", "stockd").output == "active\n"
    box.apt("purge", *NAMES)
