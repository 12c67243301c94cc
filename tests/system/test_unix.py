"""
Unix-domain sockets: who may connect, whose files are replaced and removed, and who is in the log.
"""

import grp
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys

import grpc
import pytest

from harness.clients import CHANNEL_OPTIONS
from harness.secure import (
    NOBODY,
    SERVED,
    SocketH2,
    TlsSocket,
    as_nobody,
    attempt,
    authority,
    client_context,
    dial,
    folder,
    read_updates,
    server_tls,
    several,
)
from harness.stocks import Chain

EXIT_UNAVAILABLE = 69
REFUSED = "stockd_refused_total"


@pytest.fixture
def path(folder):
    return folder / "grpc.sock"


@pytest.fixture
def start(start_stockd, path):
    """start(" mode=0600", ...) listens on `path` with these options."""

    def start(options="", **sections):
        sections.setdefault("grpc", {})["listen"] = f"unix:{path}{options}"
        return start_stockd(**sections)

    return start


def start_fails(start_stockd, listen, words):
    """It ends with 69 and one error, which names the path and says why."""
    stockd = start_stockd(grpc={"listen": listen}, wait=False)
    stockd.expected_exit = EXIT_UNAVAILABLE
    assert stockd.wait() == EXIT_UNAVAILABLE
    errors = [line for line in stockd.log().splitlines() if " error: " in line]
    assert len(errors) == 1, stockd.log()
    path = listen.partition(" ")[0]
    assert f"cannot listen for gRPC on {path}: " in errors[0] and words in errors[0], errors


def connect_as_nobody(path):
    """The errno that another user's connect() gets; 0 if it may."""
    done = subprocess.run(
        as_nobody(
            [
                *("/usr/bin/python3", "-c"),
                "import socket, sys;"
                "sys.exit(socket.socket(socket.AF_UNIX).connect_ex(sys.argv[1]))",
                path,
            ]
        ),
        timeout=60,
    )
    return done.returncode


# --- Served -----------------------------------------------------------------------------------


def test_grpcio(start, path):
    stockd = start(stream={"interval": "0"})
    for target in (f"unix:{path}", f"unix://{path}"):
        with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            read_updates(channel, 3000)
    metrics = stockd.wait_at_rest()
    assert metrics.sum("stockd_connections_accepted_total") == 2


def test_stock_client(start, path, client_program, start_program):
    stockd = start(stream={"interval": "0"})
    client = start_program(
        [client_program, f"unix:{path}", "--count", 3000, "--output", "json", "--no-metrics"],
        "stock-client",
    )
    assert client.wait() == 0, client.log()
    assert len(client.output().splitlines()) == 3000
    stockd.wait_at_rest()


def test_beside_tcp(start_stockd, folder):
    """Two sockets and a port at once."""
    paths = [folder / "a.sock", folder / "b.sock"]
    stockd = start_stockd(
        grpc={"listen": several(f"unix:{paths[0]}", "127.0.0.1:0", f"unix:{paths[1]}")}
    )
    for where in paths:
        assert attempt(path=where) == SERVED
    assert attempt(stockd.port) == SERVED
    stockd.wait_metric("stockd_connections", 0)
    assert stockd.metric("stockd_connections_accepted_total") == 3


def test_tls_over_a_unix_socket(start_stockd, path, authority):
    identity = authority.server()
    stockd = start_stockd(
        grpc={"listen": f"unix:{path} tls=yes client_certificate=required"},
        tls=server_tls(identity, client_ca=authority.certificate),
        log={"level": "debug"},
    )
    client = authority.client("trader")
    context = client_context(authority, client)
    with SocketH2(TlsSocket(dial(path=path), context)) as h2:
        h2.wait_updates(h2.ready().call(), 3, Chain())
    stockd.wait_log(r"unix:pid=\d+,uid=\d+: TLS: TLS1\.3, .*certificate of trader")
    assert attempt(path=path) != SERVED
    assert attempt(path=path, context=client_context(authority)) != SERVED
    stockd.wait_metric("stockd_tls_handshakes_total", 1, outcome="certificate")
    stockd.wait_metric("stockd_tls_handshakes_total", 1, outcome="failed")


def test_metrics_over_a_unix_socket(start_stockd, folder):
    path = folder / "metrics.sock"
    stockd = start_stockd(metrics={"listen": several("127.0.0.1:0", f"unix:{path} mode=0600")})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", str(path), "http://stockd/metrics"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "\nstockd_build_info{" in done.stdout, done
    assert stockd.stop() == 0
    assert not path.exists()


def test_who_it_is_in_the_log(start, path):
    """SO_PEERCRED: process and user of the peer, ours and another's."""
    stockd = start(log={"level": "debug"})
    assert attempt(path=path) == SERVED
    stockd.wait_log(rf"debug: unix:pid={os.getpid()},uid={os.getuid()}: connection accepted")
    stockd.wait_log(rf"debug: unix:pid={os.getpid()},uid={os.getuid()}: connection closed: ")
    assert connect_as_nobody(path) == 0
    uid = NOBODY if os.geteuid() == 0 else os.getuid()
    stockd.wait_log(rf"debug: unix:pid=(?!{os.getpid()},)\d+,uid={uid}: connection accepted")
    # That of a Unix socket as of any other.
    stockd.wait_log(rf"info: listening for gRPC on unix:{path}$")


# --- Who may connect --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "0600", "0660", "0666", "0622", "0000", "777"])
def test_mode(start, path, mode):
    start(f" mode={mode}" if mode else "")
    wanted = int(mode or "0666", 8)
    assert stat.S_IMODE(path.stat().st_mode) == wanted
    assert stat.S_ISSOCK(path.stat().st_mode)
    if os.geteuid() == 0:
        assert connect_as_nobody(path) == (0 if wanted & 0o002 else 13)  # EACCES
    elif wanted & 0o200:
        assert attempt(path=path) == SERVED


def test_the_mode_does_not_depend_on_the_umask(start_stockd, path):
    stockd = start_stockd(
        grpc={"listen": f"unix:{path} mode=0666"},
        prefix=["/bin/sh", "-c", 'umask 0777; exec "$0" "$@"'],
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stockd.running()


def test_owner_and_group(start, path):
    """By name and by number. Only root can give a file away."""
    owner, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    if os.geteuid() == 0:
        owner, group = pwd.getpwuid(NOBODY), grp.getgrgid(NOBODY)
    stockd = start(f" mode=0600 owner={owner.pw_name} group={group.gr_gid}")
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (owner.pw_uid, group.gr_gid)
    assert stat.S_IMODE(status.st_mode) == 0o600
    # To its owner it is open, whoever made it.
    assert connect_as_nobody(path) == 0
    assert stockd.stop() == 0
    stockd = start(f" mode=0060 owner={os.getuid()} group={group.gr_name}")
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (os.getuid(), group.gr_gid)
    assert stockd.stop() == 0 and not path.exists()


@pytest.mark.parametrize("option", ["owner=no-such-user", "group=no-such-group"])
def test_an_owner_that_does_not_exist(start_stockd, path, option):
    start_fails(start_stockd, f"unix:{path} {option}", "")
    assert not path.exists()


def test_access_by_range(start, start_stockd, path, folder):
    """`unix` stands for every Unix socket; a list without it closes them."""
    stockd = start(access={"allow": "127.0.0.0/8, unix"})
    assert attempt(path=path) == SERVED
    other = folder / "other.sock"
    stockd = start_stockd(
        grpc={"listen": several(f"unix:{other}", "127.0.0.1:0")},
        access={"allow": "127.0.0.0/8, ::/0"},
    )
    assert attempt(path=other) != SERVED
    assert attempt(stockd.port) == SERVED
    stockd.wait_metric(REFUSED, 1, reason="address")
    stockd.wait_log(rf"warning: unix:pid={os.getpid()},uid={os.getuid()}: refused: .*access\.allow")
    assert stockd.metric(REFUSED) == 1


def test_connections_over_all_unix_sockets(start_stockd, folder):
    """They count together, and apart from those of addresses."""
    paths = [folder / "a.sock", folder / "b.sock"]
    stockd = start_stockd(
        grpc={"listen": several(*(f"unix:{one}" for one in paths), "127.0.0.1:0")},
        access={"max_connections_per_address": 2},
    )
    held = [dial(path=one) for one in paths]
    stockd.wait_metric("stockd_connections", 2)
    assert attempt(path=paths[0]) != SERVED
    assert attempt(stockd.port) == SERVED
    stockd.wait_metric(REFUSED, 1, reason="max_per_address")
    for sock in held:
        sock.close()
    stockd.wait_metric("stockd_connections", 0)
    assert attempt(path=paths[1]) == SERVED


# --- Files ------------------------------------------------------------------------------------


def test_a_file_left_over_is_replaced(start, path):
    """After kill -9 the next one starts."""
    stockd = start()
    stockd.expected_exit = -signal.SIGKILL
    stockd.stop(signal.SIGKILL)
    assert path.exists() and attempt_refused(path)
    stockd = start()
    assert attempt(path=path) == SERVED
    assert stockd.stop() == 0
    assert not path.exists()


def attempt_refused(path):
    with pytest.raises(ConnectionRefusedError):
        attempt(path=path)
    return True


def test_one_that_is_served_is_not_taken(start, start_stockd, path):
    first = start()
    start_fails(start_stockd, f"unix:{path}", "address already in use")
    assert attempt(path=path) == SERVED
    assert first.stop() == 0
    start()
    assert attempt(path=path) == SERVED


def test_one_of_another_program_is_not_taken(start_stockd, path):
    """Somebody who listens and does not answer is somebody."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        start_fails(start_stockd, f"unix:{path}", "address already in use")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "fifo"])
def test_what_is_no_socket_stays(start_stockd, folder, path, kind):
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "symlink":
        (folder / "precious").write_text("precious")
        path.symlink_to(folder / "precious")
    else:
        os.mkfifo(path)
    before = path.lstat()
    start_fails(start_stockd, f"unix:{path}", "address already in use")
    assert path.lstat() == before
    if kind in ("file", "symlink"):
        assert path.read_text() == "precious"


def test_what_came_in_its_place_stays(start, path):
    """Whoever has put his own file there keeps it when stockd ends."""
    stockd = start()
    path.unlink()
    path.write_text("precious")
    assert stockd.stop() == 0
    assert path.read_text() == "precious"


def test_a_path_too_long(run_stockd, folder):
    """Told with its place among the settings, before anything starts."""
    longest = 107 - len(str(folder)) - 1
    for length, good in ((longest, True), (longest + 1, False)):
        path = folder / ("x" * length)
        config = folder / "stockd.conf"
        config.write_text(f"[grpc]\nlisten = unix:{path}\n[metrics]\nlisten =\n")
        done = run_stockd("--config", config, "--check-config")
        assert done.returncode == (0 if good else 78), done
        if not good:
            (line,) = done.stderr.splitlines()
            assert f"{config}:2: grpc.listen: " in line and "107" in line, line


def test_the_longest_path_is_served(start_stockd, folder):
    path = folder / ("x" * (107 - len(str(folder)) - 1))
    stockd = start_stockd(grpc={"listen": f"unix:{path}"})
    assert attempt(path=path) == SERVED
    assert stockd.stop() == 0
    assert not path.exists()


def test_where_nothing_can_be_made(start_stockd, folder):
    start_fails(start_stockd, f"unix:{folder}/missing/grpc.sock", "no such file or directory")


# --- The end ----------------------------------------------------------------------------------


def test_the_end(start, path):
    """The file goes first, so that nobody comes any more; who is there is told."""
    stockd = start(stream={"interval": "10ms"}, grpc={"drain_timeout": "1h"})
    with SocketH2(dial(path=path)) as h2:
        stream, chain = h2.ready().call(), Chain()
        h2.wait_updates(stream, 3, chain)
        stockd.send_signal(signal.SIGTERM)
        h2.wait(lambda: h2.goaway, what="GOAWAY")
        assert not path.exists()
        h2.wait_updates(stream, chain.count + 3, chain)
        stockd.send_signal(signal.SIGTERM)
        h2.wait_over(stream)
        assert stream.status == 14
    assert stockd.wait() == 0
